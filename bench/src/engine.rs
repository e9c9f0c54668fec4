//! `bench engine`: a launch on smolvm against smolvm alone, and QEMU's beside them. Where KVM is nested in emulation all of it is slow alike.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use bottle::closure::{Closure, Smolvm};

use crate::home::Home;
use crate::report::Against::{AtMost, Peer};
use crate::report::{Report, median};

const BENCH: &str = "engine";

/// Runs all cases, in turns.
pub fn run(report: &mut Report, binary: &Path, runs: u32) -> Result<(), String> {
    let home = Home::new(binary).map_err(|e| e.to_string())?;
    let closure = Closure::load().map_err(|e| e.to_string())?;
    let smolvm = closure.engines.smolvm.as_ref().ok_or("this closure has no smolvm")?;
    let image = closure.images.get("demo").and_then(|i| i.smolmachine.as_ref()).ok_or("this closure has no demo.smolmachine")?;
    let launch = |engine: &str| home.timed(&["launch", "demo", "--yes", "--quiet", "--engine", engine, "--", "true"]);
    launch("smolvm")?; // verifies the closure once and warms the page cache
    let (mut ours, mut first, mut again, mut qemu) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        let state = tempfile::Builder::new().prefix("s").tempdir().map_err(|e| e.to_string())?;
        let bare = Bare { smolvm, state: state.path() };
        first.push(bare.run(&image.path)?);
        again.push(bare.run(&image.path)?);
        ours.push(launch("smolvm")?);
        qemu.push(launch("qemu")?);
    }
    let (ours, first, again, qemu) = (median(ours), median(first), median(again), median(qemu));
    let limit = (first * 1.15).max(first + 500.0);
    report.figure(BENCH, "smolvm: launch demo -- true", "wall", "ms", ours, Some(AtMost(limit)));
    report.figure(BENCH, "smolvm alone: create, start, exec true; empty state", "wall", "ms", first, Some(Peer(ours)));
    report.figure(BENCH, "smolvm alone: the same again, image unpacked", "wall", "ms", again, Some(Peer(ours)));
    report.figure(BENCH, "qemu: launch demo -- true", "wall", "ms", qemu, Some(Peer(ours)));
    #[allow(clippy::cast_precision_loss)]
    report.figure(BENCH, "demo.smolmachine", "size", "MB", image.bytes as f64 / 1e6, None);
    Ok(())
}

/// smolvm without a bottle around it.
struct Bare<'a> {
    smolvm: &'a Smolvm,
    state: &'a Path,
}

impl Bare<'_> {
    /// ms from create to the end of exec; the machine is deleted afterwards.
    fn run(&self, image: &Path) -> Result<f64, String> {
        let began = Instant::now();
        self.machine("create", &["--cpus", "1", "--mem", "512", "--storage", "1", "--overlay", "1", "--from", &image.to_string_lossy()])?;
        self.machine("start", &[])?;
        self.machine("exec", &["--", "/usr/bin/true"])?;
        let took = began.elapsed().as_secs_f64() * 1e3;
        self.machine("delete", &["--force"])?;
        Ok(took)
    }

    fn machine(&self, verb: &str, args: &[&str]) -> Result<(), String> {
        let mut command = Command::new(&self.smolvm.binary.path);
        command.args(["machine", verb, "--name", "bench", "--state-dir"]).arg(self.state).args(args).env_clear();
        command.env("HOME", self.state).env("PATH", self.smolvm.path()).env("MKE2FS_CONFIG", self.smolvm.root.join("etc/mke2fs.conf"));
        command
            .env("SMOLVM_LIB_DIR", &self.smolvm.libraries)
            .env("SMOLVM_AGENT_ROOTFS", &self.smolvm.agent)
            .env("SMOLVM_VM_UID_DROP", "off");
        let output = command.stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
        let said = || String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(format!("smolvm {verb} failed ({}): {}", output.status, said())) }
    }
}
