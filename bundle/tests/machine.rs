//! `bottle-bundle machine`: its programs see only what they are granted, and end with it, daemons
//! included.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const BIN: &str = env!("CARGO_BIN_EXE_bottle-bundle");
const MAX_WAIT: Duration = Duration::from_secs(20);

/// A machine's directory beside a file that it is not granted.
struct Place {
    dir: tempfile::TempDir,
    _channel: UnixListener,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("machine")).unwrap();
        fs::write(dir.path().join("outside"), "x").unwrap();
        let _channel = UnixListener::bind(dir.path().join("channel")).unwrap();
        Self { dir, _channel }
    }

    fn machine(&self) -> std::path::PathBuf {
        self.dir.path().join("machine")
    }

    /// Runs these shell scripts as the machine's programs.
    fn run(&self, scripts: &[&str]) -> Child {
        self.run_with(scripts, &[])
    }

    /// The same, with more arguments.
    fn run_with(&self, scripts: &[&str], args: &[&str]) -> Child {
        let mut command = Command::new(BIN);
        command
            .args(["machine", "--parent", &std::process::id().to_string(), "--dir"])
            .arg(self.machine());
        command.arg("--channel").arg(self.dir.path().join("channel"));
        command.args(["--rx", "/usr", "/bin", "/lib", "/lib64", "/nix/store"]);
        for script in scripts {
            command.arg("--step").arg(serde_json::to_string(&["/bin/sh", "-c", script]).unwrap());
        }
        command.args(args);
        command
            .env("OUTSIDE", self.dir.path().join("outside"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn written(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.machine().join(name)).ok()
    }
}

fn ended(mut child: Child) -> ExitStatus {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(began.elapsed() < MAX_WAIT, "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < MAX_WAIT, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Counts processes that have this word in their command line.
fn running(word: &str) -> usize {
    let pids = fs::read_dir("/proc").unwrap().flatten().map(|e| e.path().join("cmdline"));
    pids.filter(|p| fs::read(p).is_ok_and(|argv| String::from_utf8_lossy(&argv).contains(word)))
        .count()
}

#[test]
fn programs_run_in_turn_until_one_fails() {
    let place = Place::new();
    let status = ended(place.run(&[
        "echo one > /tmp/one",
        "echo two > /tmp/two; exit 7",
        "echo three > /tmp/three",
    ]));
    assert_eq!(status.code(), Some(7));
    assert_eq!(
        (place.written("one").as_deref(), place.written("two").as_deref(), place.written("three")),
        (Some("one\n"), Some("two\n"), None)
    );
}

#[test]
fn nothing_is_seen_but_what_is_granted() {
    let place = Place::new();
    let script = r#"
        { cat "$OUTSIDE" && echo outside; cat /etc/passwd && echo host; } > /tmp/read 2>/dev/null
        grep -v lo: /proc/net/dev | grep : > /tmp/devices
        ls -d /proc/[0-9]* | wc -l > /tmp/processes
        test -S /tmp/channel && echo there > /tmp/socket"#;
    assert_eq!(ended(place.run(&[script])).code(), Some(0));
    assert_eq!(place.written("read").as_deref(), Some(""), "files that were not granted");
    assert_eq!(place.written("devices").as_deref(), Some(""), "network devices");
    assert!(
        place.written("processes").is_some_and(|n| n.trim().parse::<u32>().unwrap() < 6),
        "the host's processes"
    );
    assert_eq!(place.written("socket").as_deref(), Some("there\n"));
    // Negative control: the same files outside of a machine.
    assert!(
        fs::read_to_string(place.dir.path().join("outside")).is_ok()
            && fs::read_to_string("/etc/passwd").is_ok()
    );
    assert!(!Path::new("/tmp/read").exists(), "/tmp in there is not ours");
}

#[test]
fn a_shared_directory_is_seen_in_its_place_and_is_read_only() {
    let place = Place::new();
    let shared = place.dir.path().join("shared");
    fs::create_dir_all(shared.join("in")).unwrap();
    fs::write(shared.join("in/file"), "shared").unwrap();
    fs::create_dir_all(place.machine().join("a/b")).unwrap();
    let script = "cat /tmp/a/b/in/file > /tmp/read; for f in file new; do echo x > /tmp/a/b/in/$f; done; chmod 777 /tmp/a/b; rm -r /tmp/a/b/in; true";
    let args = ["--shared", shared.to_str().unwrap(), "a/b"];
    assert_eq!(ended(place.run_with(&[script], &args)).code(), Some(0));
    assert_eq!(place.written("read").as_deref(), Some("shared"));
    assert_eq!(fs::read_to_string(shared.join("in/file")).unwrap(), "shared");
    assert!(!shared.join("in/new").exists());
    // Negative control: in the machine's own directory the same commands work.
    fs::create_dir_all(place.machine().join("a/b/in")).unwrap();
    fs::write(place.machine().join("a/b/in/file"), "own").unwrap();
    assert_eq!(ended(place.run(&[script])).code(), Some(0));
    assert!(!place.machine().join("a/b/in").exists());
}

#[test]
fn the_last_program_runs_only_if_no_step_failed() {
    for (code, there) in [(0, true), (3, false)] {
        let place = Place::new();
        let afterwards = r#"["/bin/sh","-c","echo > /tmp/afterwards"]"#;
        let status =
            ended(place.run_with(&[&format!("exit {code}")], &["--afterwards", afterwards]));
        assert_eq!((status.code(), place.written("afterwards").is_some()), (Some(code), there));
    }
}

#[test]
fn a_daemon_ends_with_the_machine_however_it_ends() {
    for (n, how) in ["the last program's end", "kill"].into_iter().enumerate() {
        let place = Place::new();
        let word = format!("86400.{}{n}", std::process::id());
        // A daemon like smolvm's: in a session of its own, its parent gone.
        let daemon = format!("(setsid sleep {word} > /dev/null 2>&1 &) ; echo > /tmp/up");
        let last =
            if n == 0 { "while ! test -e /tmp/go; do sleep 0.05; done" } else { "sleep 1000" };
        let mut machine = place.run(&[&daemon, last]);
        eventually("it is up", || place.written("up").is_some());
        // Negative control: the daemon outlives the program that started it.
        eventually("the daemon runs", || running(&word) > 0);
        if n == 0 {
            fs::write(place.machine().join("go"), "").unwrap();
        } else {
            machine.kill().unwrap();
        }
        ended(machine);
        eventually(how, || running(&word) == 0);
    }
}

#[test]
fn a_parent_that_is_gone_is_exit_code_4() {
    let place = Place::new();
    let mut command = Command::new(BIN);
    command
        .args(["machine", "--parent", "1", "--dir"])
        .arg(place.machine())
        .arg("--channel")
        .arg(place.dir.path().join("channel"));
    let output =
        command.args(["--step", r#"["/bin/true"]"#]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("parent process 1 is gone"));
}
