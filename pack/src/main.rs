//! `bottle-pack`: packs the flake's images. `bottle pack` is the same for users.

use std::path::PathBuf;
use std::process::ExitCode;

use bottle_pack::{PackError, Spec, Tree, pack, verify};

const USAGE: &str = "usage: bottle-pack NAME PLATFORM ROOT OUT   # such as: demo linux/amd64 root/ demo.smolmachine";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, platform, root, out] = &args[..] else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(name, platform, root.into(), out.into()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bottle-pack: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(name: &str, platform: &str, root: PathBuf, out: PathBuf) -> Result<(), PackError> {
    let spec = Spec::of_bottle(name, platform);
    pack(&[&Tree(root)], &spec, std::fs::File::create(&out)?)?;
    verify(&out, platform).map(drop)
}
