//! A launch on a real terminal.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::pty::Winsize;
use nix::sys::termios::{LocalFlags, tcgetattr};

use crate::support::terminal::{Terminal, set_window_size};
use crate::support::{Home, eventually, processes_naming};

pub fn size() {
    let home = Home::new();
    let mut terminal = Terminal::start(
        &home,
        &[
            "launch",
            "demo",
            "--yes",
            "--",
            "bash",
            "-c",
            "tty; stty size; read x; stty size; exit 9",
        ],
    );
    terminal.expect("31 97");
    let size = Winsize { ws_row: 11, ws_col: 42, ws_xpixel: 0, ws_ypixel: 0 };
    use std::os::fd::AsRawFd;
    // SAFETY: TIOCSWINSZ reads one `winsize`.
    unsafe { set_window_size(terminal.keys.as_raw_fd(), &raw const size) }.expect("resized");
    std::thread::sleep(Duration::from_millis(500)); // the signal's way to the guest has no acknowledgement
    terminal.type_keys("\r");
    terminal.expect("11 42");
    assert_eq!(terminal.code(), Some(9));
}

pub fn interrupt() {
    let home = Home::new();
    let script =
        "trap 'echo got-$((1+1)); exit 5' INT; echo ready-$((1+1)); while :; do sleep 0.1; done";
    let mut terminal =
        Terminal::start(&home, &["launch", "demo", "--yes", "--", "bash", "-c", script]);
    terminal.expect("ready-2");
    terminal.type_keys("\x03");
    terminal.expect("got-2");
    assert_eq!(terminal.code(), Some(5));
}

pub fn hangup() {
    let home = Home::new();
    let mut terminal = Terminal::start(
        &home,
        &["launch", "demo", "--yes", "--", "bash", "-c", "echo ready-$((1+1)); sleep 1000"],
    );
    terminal.expect("ready-2");
    let Terminal { keys, screen, line, mut child, .. } = terminal;
    drop((keys, screen, line));
    // The reader thread holds the last end of the terminal; a hangup is what the kernel sends when
    // it is gone.
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("pid")),
        nix::sys::signal::Signal::SIGHUP,
    )
    .expect("hangup");
    eventually("the launch ends", || child.try_wait().expect("wait").is_some());
    eventually("nothing is left", || {
        processes_naming(home.path()).is_empty() && home.leftovers("demo").is_empty()
    });
}

pub fn restored() {
    let home = Home::new();
    let mut terminal = Terminal::start(
        &home,
        &["launch", "demo", "--yes", "--", "bash", "-c", "echo ready-$((1+1)); read x"],
    );
    let cooked = |t: &Terminal| {
        tcgetattr(t.line.as_fd())
            .expect("modes")
            .local_flags
            .contains(LocalFlags::ECHO | LocalFlags::ICANON)
    };
    assert!(cooked(&terminal));
    terminal.expect("ready-2");
    assert!(!cooked(&terminal), "raw while the agent has it");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(terminal.child.id()).expect("pid")),
        nix::sys::signal::Signal::SIGTERM,
    )
    .expect("term");
    terminal.code();
    assert!(cooked(&terminal), "restored after a signal");
}

pub fn declined() {
    let home = Home::new();
    let mut terminal = Terminal::start(&home, &["launch", "demo"]);
    terminal.expect("[y/N]");
    terminal.type_keys("\r");
    assert_eq!(terminal.code(), Some(1));
    assert!(!home.runtime("demo").exists());
    let mut terminal = Terminal::start(
        &home,
        &["launch", "demo", "--", "bash", "-c", "echo the agent ran $((1+1))"],
    );
    terminal.expect("[y/N]");
    terminal.type_keys("y\r");
    terminal.expect("the agent ran 2");
    assert_eq!(terminal.code(), Some(0));
}
