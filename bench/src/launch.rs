//! `bench launch`: what a bottle costs beyond the machine itself.

use std::path::{Path, PathBuf};
use std::time::Instant;

use bottle::closure::{Build, Closure};
use bottle::launch::{Request, connect};
use bottle::state::{Metadata, Phase, Roots};
use bottle_channel::copy::copy_in_stream;
use duct::cmd;

use crate::daemon::resident;
use crate::home::Home;
use crate::peer;
use crate::process::{Process, timed};
use crate::report::Against::{AtLeast, AtMost, Peer};
use crate::report::{Report, median};

const BENCH: &str = "launch";
/// Bytes that are copied in.
const COPY: usize = 200_000_000;

/// Runs all cases.
pub fn run(report: &mut Report, binary: &Path, runs: u32, soak: u32) -> Result<(), String> {
    let home = Home::new(binary).map_err(|e| e.to_string())?;
    let closure = Closure::load().map_err(|e| e.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    cold_start(report, &home, runs)?;
    launches(report, &home, &closure, &runtime, runs)?;
    {
        let bottle = home.up("bench")?;
        memory(report, &bottle)?;
        execs(report, &home, runs)?;
        copy(report, &home, &runtime)?;
    }
    workspace(report, &home)?;
    claude(report, &home, &closure, runs)?;
    endurance(report, &home, soak)
}

fn cold_start(report: &mut Report, home: &Home, runs: u32) -> Result<(), String> {
    let version = repeat(runs, || home.timed(&["--version"]))?;
    report.figure(BENCH, "bottle --version", "wall", "ms", version, Some(AtMost(10.0)));
    let roots = Roots::at(home.path().join("state/bottle"), home.path().join("run/bottle"))
        .map_err(|e| e.to_string())?;
    for i in 0..100 {
        let slug = format!("dead-{i}");
        let bottle = roots.bottle(&slug).map_err(|e| e.to_string())?;
        drop(bottle.lock().map_err(|e| e.to_string())?);
        let metadata =
            Metadata::starting(&bottle, "demo", "qemu", "").ended(Phase::Exited, Some(0));
        bottle.write_metadata(&metadata).map_err(|e| e.to_string())?;
    }
    let list = repeat(runs, || home.timed(&["list"]))?;
    report.figure(BENCH, "bottle list, 100 dead", "wall", "ms", list, Some(AtMost(30.0)));
    for i in 0..100 {
        roots.bottle(&format!("dead-{i}")).and_then(|b| b.remove()).map_err(|e| e.to_string())?;
    }
    Ok(())
}

fn launches(
    report: &mut Report,
    home: &Home,
    closure: &Closure,
    runtime: &tokio::runtime::Runtime,
    runs: u32,
) -> Result<(), String> {
    let disk = home.path().join("peer.img");
    peer::disk(closure, &disk)?;
    let launch = || home.timed(&["launch", "demo", "--yes", "--quiet", "--", "true"]);
    launch()?; // verifies the closure once and warms the page cache
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        bare.push(runtime.block_on(peer::boot(closure, &disk))?);
        ours.push(launch()?);
    }
    let beyond = median(ours.iter().zip(&bare).map(|(o, b)| o - b).collect());
    let (ours, bare) = (median(ours), median(bare));
    report.figure(BENCH, "launch demo -- true", "wall", "ms", ours, Some(AtMost(3000.0)));
    report.figure(BENCH, "launch against bare QEMU", "wall", "ms", ours, Some(Peer(bare)));
    report.figure(BENCH, "launch beyond bare QEMU", "wall", "ms", beyond, Some(AtMost(700.0)));
    Ok(())
}

fn execs(report: &mut Report, home: &Home, runs: u32) -> Result<(), String> {
    let exec = || home.timed(&["exec", "bench", "--", "true"]);
    exec()?;
    report.figure(BENCH, "exec true", "wall", "ms", repeat(runs, exec)?, Some(AtMost(40.0)));
    let fifty = repeat(runs.min(3), || {
        let began = Instant::now();
        let spawn = |_| Process::start(home.bottle(&["exec", "bench", "--", "true"]));
        let children: Vec<_> = (0..50).map(spawn).collect::<Result<_, _>>()?;
        for child in children {
            if !child.succeeded()? {
                return Err("one of 50 execs failed".into());
            }
        }
        Ok(began.elapsed().as_secs_f64() * 1e3)
    })?;
    report.figure(BENCH, "50 execs at once", "wall", "ms", fifty, Some(AtMost(1500.0)));
    Ok(())
}

fn copy(report: &mut Report, home: &Home, runtime: &tokio::runtime::Runtime) -> Result<(), String> {
    let roots = Roots::at(home.path().join("state/bottle"), home.path().join("run/bottle"))
        .map_err(|e| e.to_string())?;
    let dir = roots.bottle("bench").map_err(|e| e.to_string())?;
    let tar = one_file(COPY);
    let rate = repeat(3, || {
        runtime.block_on(async {
            let request = Request::CopyIn { dest_dir: "/dev/shm/copy".into() };
            let stream = connect(&dir, &request).await.map_err(|e| e.to_string())?;
            let began = Instant::now();
            copy_in_stream(stream, tar.as_slice()).await.map_err(|e| e.to_string())?;
            Ok(COPY as f64 / 1e6 / began.elapsed().as_secs_f64())
        })
    })?;
    report.figure(BENCH, "copy in, one 200 MB file", "rate", "MB/s", rate, Some(AtLeast(50.0)));
    Ok(())
}

/// A project's copy: until commands run in a bottle that has it, less until they run in one
/// without, beside what tar into `bottle exec` takes for the same files.
fn workspace(report: &mut Report, home: &Home) -> Result<(), String> {
    let project =
        project(home.path()).map_err(|e| format!("the project cannot be written: {e}"))?;
    let up = |agent: &str| {
        let began = Instant::now();
        let up = home.up_in(&project, agent, agent)?;
        home.timed(&["exec", agent, "--", "true"])?;
        Ok::<_, String>((began.elapsed().as_secs_f64() * 1e3, up))
    };
    let tar = || {
        let script = "rm -rf copy; mkdir copy; exec tar -x -C copy";
        let unpack = home.bottle(&["exec", "none", "--", "sh", "-c", script]);
        timed(cmd!("tar", "-c", ".").dir(&project).pipe(unpack))
    };
    let (mut ours, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let (with, _) = up("copy")?;
        let (without, _bottle) = up("none")?;
        ours.push(with - without);
        peer.push(tar()?);
    }
    let (ours, peer) = (median(ours), median(peer));
    report.figure(BENCH, "workspace, 10,000 files", "wall", "ms", ours, Some(AtMost(6000.0)));
    report.figure(BENCH, "the same by tar over exec", "wall", "ms", peer, None);
    report.figure(BENCH, "workspace against tar", "ratio", "", ours / peer, Some(AtMost(1.5)));
    Ok(())
}

/// Claude Code's own program, in its image; only where that is built.
fn claude(report: &mut Report, home: &Home, closure: &Closure, runs: u32) -> Result<(), String> {
    let built = closure
        .later
        .get("agent-claude")
        .and_then(|image| image.builds.get("qemu"))
        .is_some_and(Build::is_built);
    if !built {
        eprintln!(
            "the image agent-claude is not built: no figure for launch claude (nix/bootstrap build .#agent-claude)"
        );
        return Ok(());
    }
    let empty = home.path().join("empty");
    std::fs::create_dir(&empty).map_err(|e| e.to_string())?;
    let launch = || {
        let options = ["launch", "claude", "--yes", "--quiet", "--discard"];
        let args = [&options[..], &["--", "claude", "--version"]].concat();
        timed(home.bottle_in(&empty, &args).env("ANTHROPIC_API_KEY", "never sent"))
    };
    launch()?; // verifies the image once and warms the page cache
    report.figure(
        BENCH,
        "launch claude --version",
        "wall",
        "ms",
        repeat(runs, launch)?,
        Some(AtMost(12_000.0)),
    );
    Ok(())
}

/// A project of 10,000 files, 205 MB, in 100 directories below `home`, and a manifest with the
/// agents `copy` and `none`.
fn project(home: &Path) -> std::io::Result<PathBuf> {
    let project = home.join("project");
    for directory in 0..100_u64 {
        let at = project.join(format!("src-{directory}"));
        std::fs::create_dir_all(&at)?;
        for file in 0..100 {
            // A xorshift's bytes: nothing on the way could make them smaller.
            let mut state = directory * 100 + file + 1;
            let words = std::iter::repeat_with(|| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            });
            std::fs::write(
                at.join(format!("file-{file}")),
                words.take(20_500 / 8).flatten().collect::<Vec<u8>>(),
            )?;
        }
    }
    let bottle = |name| {
        format!(
            "[agents.{name}]\nbottle = \"{name}\"\nprovider = \"command\"\ncommand = [\"true\"]\n[bottles.{name}]\nimage = \"demo\"\nworkspace = {{ mode = \"{name}\" }}\n"
        )
    };
    std::fs::write(
        project.join("bottle.toml"),
        format!("version = 1\n{}{}", bottle("copy"), bottle("none")),
    )?;
    Ok(project)
}

/// A tar of one file of `bytes` zeros: a 512-byte ustar header, the content, two zero blocks.
fn one_file(bytes: usize) -> Vec<u8> {
    let mut header = [0_u8; 512];
    header[..4].copy_from_slice(b"data");
    header[100..107].copy_from_slice(b"0000644");
    header[124..135].copy_from_slice(format!("{bytes:011o}").as_bytes());
    header[136..147].copy_from_slice(b"00000000000");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
    header[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
    header[154] = 0;
    let mut tar = header.to_vec();
    tar.resize(512 + bytes.next_multiple_of(512) + 1024, 0);
    tar
}

fn memory(report: &mut Report, bottle: &crate::home::Up) -> Result<(), String> {
    let pid = bottle.0.id();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .map_err(|e| e.to_string())?;
    let others = children.split_ascii_whitespace().filter_map(|p| p.parse::<u32>().ok());
    let argv = |p: u32| std::fs::read(format!("/proc/{p}/cmdline")).unwrap_or_default();
    let not_qemu = others.filter(|&p| !String::from_utf8_lossy(&argv(p)).contains("qemu-system"));
    let mib: f64 = not_qemu.chain([pid]).map(resident).sum();
    report.figure(BENCH, "host memory beyond QEMU", "RSS", "MiB", mib, Some(AtMost(30.0)));
    Ok(())
}

fn endurance(report: &mut Report, home: &Home, soak: u32) -> Result<(), String> {
    let failed = (0..soak)
        .filter(|_| home.timed(&["launch", "demo", "--yes", "--quiet", "--", "true"]).is_err())
        .count();
    report.figure(
        BENCH,
        &format!("{soak} launches in a row"),
        "failed",
        "",
        failed as f64,
        Some(AtMost(0.0)),
    );
    let names: Vec<String> = (0..4).map(|i| format!("at-once-{i}")).collect();
    let start = |n: &String| {
        let args = ["launch", "demo", "--yes", "--quiet", "--name", n, "--", "true"];
        Process::start(home.bottle(&args))
    };
    let children = names.iter().map(start).collect::<Result<Vec<_>, _>>()?;
    let failed = children.iter().filter(|c| !c.succeeded().unwrap_or(false)).count();
    report.figure(BENCH, "4 launches at once", "failed", "", failed as f64, Some(AtMost(0.0)));
    report.figure(
        BENCH,
        "left behind by all of them",
        "count",
        "",
        home.leftovers() as f64,
        Some(AtMost(0.0)),
    );
    Ok(())
}

fn repeat(runs: u32, mut once: impl FnMut() -> Result<f64, String>) -> Result<f64, String> {
    Ok(median((0..runs).map(|_| once()).collect::<Result<Vec<_>, _>>()?))
}
