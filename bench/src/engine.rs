//! `bench engine`: a launch on smolvm against smolvm alone, and QEMU's beside them; what our packer
//! writes against what smolvm's own does. Where KVM is nested in emulation all of it is slow alike.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Instant;

use bottle::closure::{Closure, Smolvm};
use duct::cmd;

use crate::home::Home;
use crate::process;
use crate::report::Against::{AtMost, Peer};
use crate::report::{Report, median};

const BENCH: &str = "engine";
/// A launch may take so much longer than smolvm alone: a part of it, or ms, whichever is more.
const BEYOND: (f64, f64) = (0.15, 500.0);

/// Runs all cases, in turns.
pub fn run(report: &mut Report, binary: &Path, runs: u32) -> Result<(), String> {
    let closure = Closure::load().map_err(|e| e.to_string())?;
    let smolvm = closure.engines.smolvm.as_ref().ok_or("this closure has no smolvm")?;
    let image = closure.image("demo").and_then(|i| i.of("smolvm")).map_err(|e| e.to_string())?;
    let used = Home::new(binary).map_err(|e| e.to_string())?;
    let launch = |home: &Home, engine: &str| {
        home.timed(&["launch", "demo", "--yes", "--quiet", "--engine", engine, "--", "true"])
    };
    launch(&used, "smolvm")?; // warms the page cache, too
    launch(&used, "qemu")?;
    let (mut ours, mut bare, mut qemu) =
        ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()], Vec::new());
    for _ in 0..runs {
        let state = State::new(smolvm)?;
        bare[0].push(state.boot(&image.path)?.1);
        bare[1].push(state.boot(&image.path)?.1);
        let new = Home::new(binary).map_err(|e| e.to_string())?;
        // The first launch in a home hashes the closure; that is not what smolvm does.
        std::fs::create_dir_all(new.path().join("state/bottle")).map_err(|e| e.to_string())?;
        std::fs::copy(
            used.path().join("state/bottle/verified.json"),
            new.path().join("state/bottle/verified.json"),
        )
        .map_err(|e| e.to_string())?;
        ours[0].push(launch(&new, "smolvm")?);
        ours[1].push(launch(&used, "smolvm")?);
        qemu.push(launch(&used, "qemu")?);
    }
    let (ours, bare, qemu) = (ours.map(median), bare.map(median), median(qemu));
    for (n, how) in ["first launch", "launch"].into_iter().enumerate() {
        let limit = bare[n] + (bare[n] * BEYOND.0).max(BEYOND.1);
        report.beside(
            BENCH,
            how,
            "wall",
            "ms",
            ours[n],
            Some(AtMost(limit)),
            &[("smolvm alone", bare[n])],
        );
    }
    report.figure(BENCH, "launch on qemu", "wall", "ms", qemu, Some(Peer(ours[1])));
    artifacts(report, smolvm, &image.path, runs)
}

/// `image` against what `smolvm pack create` makes of the same files: create and start once it is
/// unpacked, and the size.
fn artifacts(report: &mut Report, smolvm: &Smolvm, image: &Path, runs: u32) -> Result<(), String> {
    let state = State::new(smolvm)?;
    state.boot(image)?;
    let own = state.dir.path().join("own");
    let began = Instant::now();
    // It boots a machine, by itself a large one.
    let small = ["--cpus", "1", "--mem", "1024", "--storage", "4"];
    let (tree, to) = (format!("{}/", state.tree()?.display()), own.to_string_lossy());
    if let Err(e) =
        state.run(&[&["pack", "create", "--image", &tree, "--output", &to], &small[..]].concat())
    {
        eprintln!(
            "bottle-bench: no figures of smolvm's own packing, as it does not work here: {e}"
        );
        report.figure(BENCH, "demo.smolmachine", "size", "MB", megabytes(image)?, None);
        return Ok(());
    }
    report.figure(
        BENCH,
        "smolvm pack create",
        "wall",
        "ms",
        began.elapsed().as_secs_f64() * 1e3,
        None,
    );
    let own = own.with_extension("smolmachine");
    state.boot(&own)?;
    let (mut ours, mut owns) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        ours.push(state.boot(image)?.0);
        owns.push(state.boot(&own)?.0);
    }
    let (ours, owns) = (median(ours), median(owns));
    report.beside(
        BENCH,
        "create, start from ours",
        "wall",
        "ms",
        ours,
        Some(AtMost(owns * 1.1)),
        &[("from pack create's", owns)],
    );
    report.figure(
        BENCH,
        "demo.smolmachine",
        "size",
        "MB",
        megabytes(image)?,
        Some(AtMost(megabytes(&own)?)),
    );
    Ok(())
}

/// `bench pack`: packing the demo's files. Needs no KVM.
pub fn pack(report: &mut Report, runs: u32) -> Result<(), String> {
    let closure = Closure::load().map_err(|e| e.to_string())?;
    let smolvm = closure.engines.smolvm.as_ref().ok_or("this closure has no smolvm")?;
    let image = closure.image("demo").and_then(|i| i.of("smolvm")).map_err(|e| e.to_string())?;
    let state = State::new(smolvm)?;
    state.create(&image.path)?;
    let (tree, out) = (state.tree()?, state.dir.path().join("out"));
    let (mut took, mut computed) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let args = ["demo".as_ref(), "linux/amd64".as_ref(), tree.as_os_str(), out.as_os_str()];
        let packer = cmd(crate::home::beside_this_program("bottle-pack"), args);
        let (began, before) = (Instant::now(), crate::daemon::children_cpu());
        process::run(packer)?;
        took.push(began.elapsed().as_secs_f64() * 1e3);
        computed.push(crate::daemon::children_cpu() - before);
    }
    report.figure(
        "pack",
        "the demo's image, read back",
        "wall",
        "ms",
        median(took),
        Some(AtMost(3000.0)),
    );
    report.figure("pack", "the demo's image, read back", "CPU", "ms", median(computed), None);
    report.figure("pack", "demo.smolmachine", "size", "MB", megabytes(&out)?, None);
    Ok(())
}

#[allow(clippy::cast_precision_loss)]
fn megabytes(path: &Path) -> Result<f64, String> {
    Ok(path.metadata().map_err(|e| format!("{}: {e}", path.display()))?.len() as f64 / 1e6)
}

/// smolvm without a bottle around it, in a state directory of its own.
struct State<'a> {
    smolvm: &'a Smolvm,
    dir: tempfile::TempDir,
}

impl<'a> State<'a> {
    fn new(smolvm: &'a Smolvm) -> Result<Self, String> {
        Ok(Self {
            smolvm,
            dir: tempfile::Builder::new().prefix("s").tempdir().map_err(|e| e.to_string())?,
        })
    }

    /// ms from create to the end of start, and to the end of exec; the machine is deleted
    /// afterwards.
    fn boot(&self, image: &Path) -> Result<(f64, f64), String> {
        let began = Instant::now();
        self.create(image)?;
        self.run(&["machine", "start", "--name", "bench"])?;
        let started = began.elapsed().as_secs_f64() * 1e3;
        self.run(&["machine", "exec", "--name", "bench", "--", "/usr/bin/true"])?;
        let took = began.elapsed().as_secs_f64() * 1e3;
        self.run(&["machine", "delete", "--name", "bench", "--force"])?;
        Ok((started, took))
    }

    fn create(&self, image: &Path) -> Result<(), String> {
        let (image, size) = (
            image.to_string_lossy(),
            ["--cpus", "1", "--mem", "512", "--storage", "1", "--overlay", "1"],
        );
        self.run(&[&["machine", "create", "--name", "bench", "--from", &image], &size[..]].concat())
    }

    /// The files of the first image that was unpacked here.
    fn tree(&self) -> Result<PathBuf, String> {
        let dirs = |dir: PathBuf| {
            std::fs::read_dir(dir)
                .into_iter()
                .flatten()
                .flatten()
                .map(|e| e.path())
                .filter(|p| p.is_dir())
        };
        let layers = dirs(self.dir.path().join(".cache/smolvm/vms/_shared"))
            .flat_map(|image| dirs(image.join("layers")))
            .next();
        layers.ok_or_else(|| "smolvm keeps unpacked images elsewhere".into())
    }

    fn run(&self, args: &[&str]) -> Result<(), String> {
        let (verb, rest) = args.split_at(2);
        let dir = self.dir.path();
        let args = verb.iter().map(OsStr::new).chain(["--state-dir".as_ref(), dir.as_os_str()]);
        let environment: [(&str, OsString); 7] = [
            ("HOME", dir.into()),
            ("PATH", self.smolvm.path().into()),
            ("MKE2FS_CONFIG", self.smolvm.root.join("etc/mke2fs.conf").into()),
            ("SMOLVM_LIB_DIR", self.smolvm.libraries.clone().into()),
            ("SMOLVM_AGENT_ROOTFS", self.smolvm.agent.clone().into()),
            ("SMOLVM_START_TIMEOUT_SECS", "150".into()),
            ("SMOLVM_VM_UID_DROP", "off".into()),
        ];
        let args = args.chain(rest.iter().map(OsStr::new));
        process::run(cmd(&self.smolvm.binary.path, args).full_env(environment))
    }
}
