//! Daemons that are measured: ours, and mitmproxy with the addon that does the same. All have one
//! contract.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Clock ticks in a second: USER_HZ, 100 on every architecture of Linux that bottles run on.
const TICKS: f64 = 100.0;
/// After this a daemon that is not ready never will be.
const READY: Duration = Duration::from_secs(30);

/// How a daemon is started.
#[derive(Debug, Clone)]
pub struct Program {
    /// What its figures are called.
    pub name: &'static str,
    /// The program.
    pub path: PathBuf,
    /// What stands before the contract's arguments.
    pub args: Vec<String>,
}

/// A daemon that runs.
pub struct Daemon {
    process: Child,
    dir: TempDir,
    /// From its start to its `ready`, ms.
    pub ready: f64,
}

impl Daemon {
    /// Starts `program` with this policy and input and waits until it is ready.
    pub fn start(program: &Program, policy: &str, input: &str) -> Result<Self, String> {
        let text = |e: std::io::Error| format!("{}: {e}", program.path.display());
        let dir = tempfile::Builder::new().prefix("bench").tempdir().map_err(text)?;
        let at = |name: &str| dir.path().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(at("run")).map_err(text)?;
        std::fs::write(at("policy.json"), policy).map_err(text)?;
        let log = std::fs::File::create(at("log")).map_err(text)?;
        let began = Instant::now();
        let mut process = Command::new(&program.path)
            .args(&program.args)
            .args(["--slug", "bench", "--parent", &std::process::id().to_string()])
            .arg("--socket")
            .arg(at("run/s"))
            .arg("--policy")
            .arg(at("policy.json"))
            .arg("--audit")
            .arg(at("audit.jsonl"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(text)?;
        if let Some(stdin) = process.stdin.as_mut() {
            writeln!(stdin, "{input}").map_err(text)?;
        }
        // Another thread reads, so that a daemon that says nothing does not keep all of us.
        let (say, said) = mpsc::channel();
        if let Some(stdout) = process.stdout.take() {
            std::thread::spawn(move || {
                let mut stdout = BufReader::new(stdout);
                let mut line = String::new();
                let _ = stdout.read_line(&mut line);
                let _ = say.send((line, Instant::now()));
                let _ = std::io::copy(&mut stdout, &mut std::io::sink());
            });
        }
        let line = said.recv_timeout(READY);
        let mut started = Self { process, dir, ready: 0.0 };
        match line {
            Ok((line, at)) if line == "ready\n" => {
                started.ready = (at - began).as_secs_f64() * 1e3;
                Ok(started)
            }
            _ => Err(format!("{} does not get ready: {}", program.name, started.log())),
        }
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("run/s")
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The end of what it wrote to its log.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let last: Vec<&str> = text.trim_end().lines().rev().take(3).collect();
        last.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    /// Time that it and its children have computed, µs.
    pub fn cpu(&self) -> f64 {
        self.processes().into_iter().map(cpu).sum::<f64>()
    }

    /// Its memory and its children's, MiB.
    pub fn resident(&self) -> f64 {
        self.processes().into_iter().map(resident).sum()
    }

    /// The most memory that it, without its children, has ever had, MiB.
    pub fn peak(&self) -> f64 {
        status_kib(&read(self.process.id(), "status"), "VmHWM:") / 1024.0
    }

    fn processes(&self) -> Vec<u32> {
        let mut all = vec![self.process.id()];
        let mut at = 0;
        while let Some(&pid) = all.get(at) {
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
                .unwrap_or_default();
            all.extend(children.split_ascii_whitespace().filter_map(|p| p.parse::<u32>().ok()));
            at += 1;
        }
        all
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.process.stdin.take()); // its contract: then it ends
        let began = Instant::now();
        while matches!(self.process.try_wait(), Ok(None)) {
            if began.elapsed() > Duration::from_secs(5) {
                let _ = self.process.kill();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Time that a process has computed, µs.
pub fn cpu(pid: u32) -> f64 {
    // utime and stime are the fields 14 and 15.
    seconds(pid, 14) * 1e6
}

/// Memory that it has, MiB.
pub fn resident(pid: u32) -> f64 {
    status_kib(&read(pid, "status"), "VmRSS:") / 1024.0
}

fn read(pid: u32, name: &str) -> String {
    std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join(name)).unwrap_or_default()
}

/// The sum of the times in the fields `first` and the next of a process' stat, which are counted
/// from 1 (proc_pid_stat(5)), in seconds.
fn seconds(pid: u32, first: usize) -> f64 {
    let stat = read(pid, "stat");
    // After the name, which may hold anything, comes the third.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    after
        .split_ascii_whitespace()
        .skip(first - 3)
        .take(2)
        .filter_map(|n| n.parse::<f64>().ok())
        .sum::<f64>()
        / TICKS
}

/// Time that children which have ended have computed, ms.
pub fn children_cpu() -> f64 {
    seconds(std::process::id(), 16) * 1e3
}

fn status_kib(status: &str, key: &str) -> f64 {
    let line = status.lines().find_map(|l| l.strip_prefix(key));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0.0)
}
