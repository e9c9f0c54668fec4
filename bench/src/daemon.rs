//! Daemons that are measured: ours, and mitmproxy with an addon that does the same. Both have the
//! same command line and protocol.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use duct::cmd;
use tempfile::TempDir;

use crate::process::{self, Process};

/// Clock ticks in a second: USER_HZ, 100 on every architecture of Linux that bottles run on.
const TICKS_PER_SECOND: f64 = 100.0;
/// Maximum time for a daemon to become ready.
const READY_DEADLINE: Duration = Duration::from_secs(30);

/// How a daemon is started.
#[derive(Debug, Clone)]
pub struct Program {
    /// Name of its figures.
    pub name: &'static str,
    /// The program.
    pub path: PathBuf,
    /// Arguments before those that all daemons have.
    pub args: Vec<String>,
}

/// A running daemon.
pub struct Daemon {
    process: Process,
    stdin: Option<File>,
    dir: TempDir,
    /// Time from its start to its `ready`, in ms.
    pub ready: f64,
}

impl Daemon {
    /// Starts `program` with this policy and input, and waits until it is ready.
    pub fn start(program: &Program, policy: &str, input: &str) -> Result<Self, String> {
        let text = |e: std::io::Error| format!("{}: {e}", program.path.display());
        let dir = tempfile::Builder::new().prefix("bench").tempdir().map_err(text)?;
        let at = |name: &str| dir.path().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(at("run")).map_err(text)?;
        std::fs::write(at("policy.json"), policy).map_err(text)?;
        let log = File::create(at("log")).map_err(text)?;
        let began = Instant::now();
        let mut args: Vec<OsString> = program.args.iter().map(OsString::from).collect();
        args.extend(["--slug", "bench", "--parent"].map(OsString::from));
        args.push(std::process::id().to_string().into());
        for (option, file) in
            [("--socket", "run/s"), ("--policy", "policy.json"), ("--audit", "audit.jsonl")]
        {
            args.extend([option.into(), at(file).into_os_string()]);
        }
        let (child_stdin, mut stdin) = process::pipe()?;
        let (stdout, child_stdout) = process::pipe()?;
        let command = cmd(&program.path, args)
            .stdin_file(child_stdin)
            .stdout_file(child_stdout)
            .stderr_file(log);
        let process = Process::start(command)?;
        writeln!(stdin, "{input}").map_err(text)?;
        // A thread reads, so that a silent daemon does not block us.
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            let mut line = String::new();
            let _ = stdout.read_line(&mut line);
            let _ = sender.send((line, Instant::now()));
            let _ = std::io::copy(&mut stdout, &mut std::io::sink());
        });
        let line = lines.recv_timeout(READY_DEADLINE);
        let mut started = Self { process, stdin: Some(stdin), dir, ready: 0.0 };
        match line {
            Ok((line, at)) if line == "ready\n" => {
                started.ready = (at - began).as_secs_f64() * 1e3;
                Ok(started)
            }
            _ => Err(format!("{} does not get ready: {}", program.name, started.log())),
        }
    }

    /// The socket on which it listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("run/s")
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The last lines of its log.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let last: Vec<&str> = text.trim_end().lines().rev().take(3).collect();
        last.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    /// Processor time of the daemon and its children, in µs.
    pub fn cpu(&self) -> f64 {
        self.processes().into_iter().map(cpu).sum::<f64>()
    }

    /// Resident memory of the daemon and its children, in MiB.
    pub fn resident(&self) -> f64 {
        self.processes().into_iter().map(resident).sum()
    }

    /// Peak resident memory of the daemon without its children, in MiB.
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
        drop(self.stdin.take()); // by its contract, it then ends
        self.process.wait_or_kill(Duration::from_secs(5));
    }
}

/// Processor time of a process, in µs.
pub fn cpu(pid: u32) -> f64 {
    // utime and stime are the fields 14 and 15.
    seconds(pid, 14) * 1e6
}

/// Resident memory of a process, in MiB.
pub fn resident(pid: u32) -> f64 {
    status_kib(&read(pid, "status"), "VmRSS:") / 1024.0
}

fn read(pid: u32, name: &str) -> String {
    std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join(name)).unwrap_or_default()
}

/// Sum of the fields `first` and `first + 1` of the process's stat, in seconds. Fields count from
/// 1, see proc_pid_stat(5).
fn seconds(pid: u32, first: usize) -> f64 {
    let stat = read(pid, "stat");
    // The third field comes after the name, which may hold any character.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    after
        .split_ascii_whitespace()
        .skip(first - 3)
        .take(2)
        .filter_map(|n| n.parse::<f64>().ok())
        .sum::<f64>()
        / TICKS_PER_SECOND
}

/// Processor time of our children that have ended, in ms.
pub fn children_cpu() -> f64 {
    seconds(std::process::id(), 16) * 1e3
}

fn status_kib(status: &str, key: &str) -> f64 {
    let line = status.lines().find_map(|l| l.strip_prefix(key));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0.0)
}
