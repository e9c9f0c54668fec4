//! Real children.

use std::io::Read;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::{Child, Input, ProcessRecord, Program, Sink};
use crate::error::{ErrorKind, Result};
use crate::host::fs::utf8;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(50);

fn sh(script: &str) -> Program {
    Program::new("sh", "/bin/sh").args(["-c", script])
}

/// Whether the kernel still runs this process (a zombie does not run).
fn runs(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" Z")))
}

fn gone_soon(pid: i32) -> bool {
    let deadline = Instant::now() + LONG;
    while runs(pid) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
    !runs(pid)
}

struct Record(Vec<(String, i32)>);

impl ProcessRecord for Record {
    fn record_process(&mut self, name: &str, pid: i32) -> Result<()> {
        self.0.push((name.to_owned(), pid));
        Ok(())
    }
}

#[test]
fn the_environment_is_empty_unless_named_and_the_group_is_its_own() {
    let output = sh("tr '\\0' '\\n' < /proc/$$/environ; cut -d' ' -f5 /proc/$$/stat; echo $$");
    let output = output.env("NAMED", "x y").output(LONG).unwrap().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0] == "NAMED=x y" && lines.len() == 3 && lines[1] == lines[2], "{text}");
    let inherited = sh("echo $PATH").inherit_env().output(LONG).unwrap().unwrap();
    assert_eq!(String::from_utf8(inherited.stdout).unwrap().trim(), std::env::var("PATH").unwrap());
}

#[test]
fn input_larger_than_a_pipe_goes_in_while_output_comes_out() {
    let bytes = vec![b'x'; 3 << 20];
    let cat = sh("cat; echo done >&2").stdin(Input::Bytes(Zeroizing::new(bytes.clone())));
    let output = cat.output(LONG).unwrap().unwrap();
    assert!(output.status.success() && output.stdout == bytes && output.stderr == b"done\n");
}

#[test]
fn a_program_that_takes_too_long_is_killed() {
    assert!(sh("sleep 100").output(SHORT).unwrap().is_none());
}

#[tokio::test]
async fn a_failure_names_the_program_its_status_and_its_last_line() {
    let failed =
        sh("echo one >&2; echo two >&2; exit 3").run(LONG, ErrorKind::Engine).await.unwrap_err();
    assert_eq!(failed.to_string(), "sh failed (exit status: 3): two");
    let late = sh("sleep 100").run(SHORT, ErrorKind::Engine).await.unwrap_err();
    assert_eq!(late.to_string(), "sh did not finish in 0 s");
    let missing = Program::new("x", "/nowhere/x").run(LONG, ErrorKind::Config).await.unwrap_err();
    assert!(missing.kind() == ErrorKind::Config && missing.to_string().starts_with("cannot run x"));
}

#[tokio::test]
async fn secrets_go_through_a_pipe_and_what_reads_none_says_why_itself() {
    let echoed = sh("read line; echo \"$line\"; tr '\\0' ' ' < /proc/$$/cmdline");
    let text = echoed.run_with(&["secret"], LONG, ErrorKind::Config).await.unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(text.starts_with("[\"secret\"]\n") && text.matches("secret").count() == 1, "{text}");
    let deaf = sh("exec <&-; echo deaf >&2; exit 1");
    let failed = deaf.run_with(&"x".repeat(1 << 19), LONG, ErrorKind::Config).await.unwrap_err();
    assert!(failed.to_string().ends_with(": deaf"), "{failed}");
}

#[tokio::test]
async fn dropping_the_future_of_a_run_kills_the_program() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let program = sh("echo $$ > \"$0\"; exec sleep 100").arg(&pid);
    let run = program.run(LONG, ErrorKind::Config);
    let written = async {
        while !std::fs::read_to_string(&pid).is_ok_and(|text| text.ends_with('\n')) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        _ = run => panic!("it sleeps"),
        () = written => (),
    }
    assert!(gone_soon(std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap()));
}

#[tokio::test]
async fn a_daemon_is_recorded_talked_to_and_killed_when_it_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut record) = (utf8("dir", dir.path()).unwrap().join("log"), Record(Vec::new()));
    let script = "read line; echo ready; echo \"got $line\" >&2; read line; echo \"$line\"; read x";
    let mut daemon = sh(script).spawn(&log, &mut record).unwrap();
    assert_eq!(record.0, [("sh".to_owned(), daemon.pid())]);
    assert!(daemon.take_control_pipe().is_none(), "it has no secrets yet");
    daemon.hand_over(&1).await.unwrap();
    assert_eq!(daemon.ready_line(LONG).await.unwrap(), "ready");
    let mut pipe = daemon.take_control_pipe().unwrap();
    pipe.commands.send(&2).await.unwrap();
    assert_eq!(pipe.reports.next().await.unwrap(), b"2");
    assert!(runs(daemon.pid()));
    let pid = daemon.pid();
    drop(daemon);
    assert!(gone_soon(pid));
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "got 1\n");
}

#[tokio::test]
async fn a_daemon_that_ends_says_why_and_one_that_floods_its_log_does_not_fill_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let log = utf8("dir", dir.path()).unwrap().join("log");
    let mut daemon = sh("echo why >&2; exit 4").spawn(&log, &mut Record(Vec::new())).unwrap();
    let failed = daemon.ready_line(LONG).await.unwrap_err();
    assert_eq!(failed.to_string(), "sh failed (exit status: 4): why");
    assert_eq!(daemon.ended().await, "sh ended (exit status: 4)", "asked again");
    let flood = sh("head -c 3000000 /dev/zero >&2; echo full; read x");
    let mut daemon = flood.spawn(&log, &mut Record(Vec::new())).unwrap();
    assert_eq!(daemon.ready_line(LONG).await.unwrap(), "full");
    daemon.kill().await;
    daemon.failure().await;
    assert_eq!(std::fs::metadata(&log).unwrap().len(), 1 << 20);
}

#[test]
fn a_child_dies_with_the_thread_that_started_it_unless_it_is_to_outlive_it() {
    let start = |outlives: bool| {
        std::thread::spawn(move || {
            let program = sh("echo up; exec sleep 100");
            let program = if outlives { program.outlives_parent() } else { program };
            let mut child: Child = program.start().unwrap();
            let mut up = [0; 3];
            child.stdout.take().unwrap().read_exact(&mut up).unwrap();
            let pid = child.pid();
            std::mem::forget(child); // nobody kills it but the kernel
            pid
        })
        .join()
        .unwrap()
    };
    assert!(gone_soon(start(false)));
    let pid = start(true);
    std::thread::sleep(SHORT);
    assert!(runs(pid));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
}

#[test]
fn only_named_descriptors_are_inherited() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, "inherited").unwrap();
    let (kept, other) = (std::fs::File::open(&path).unwrap(), std::fs::File::open(&path).unwrap());
    let mut program = Program::new("sh", "/bin/sh");
    let (fd, hidden) = (program.keep_fd(kept.into()), other.as_raw_fd());
    let script = format!("cat /proc/self/fd/{fd}; test ! -e /proc/self/fd/{hidden} && echo .");
    let output = program.args(["-c", &script]).stderr(Sink::Inherit).output(LONG).unwrap().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "inherited.\n");
}

#[test]
fn a_relative_program_is_looked_for_in_its_own_directory() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/bin/sh", dir.path().join("own-shell")).unwrap();
    let program = Program::new("x", "./own-shell").args(["-c", "pwd -P"]).dir(dir.path());
    let output = program.output(LONG).unwrap().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed.trim(), dir.path().canonicalize().unwrap().to_str().unwrap());
}
