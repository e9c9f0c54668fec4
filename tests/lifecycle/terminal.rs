//! A launch on a real terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Child;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use nix::sys::termios::{LocalFlags, tcgetattr};

use crate::support::{Home, PATIENCE, eventually, processes_naming};

/// The operator's side of a terminal on which `bottle` runs.
pub(super) struct Terminal {
    keys: File,
    screen: Receiver<Vec<u8>>,
    seen: String,
    line: OwnedFd,
    child: Child,
}

nix::ioctl_write_ptr_bad!(set_window_size, nix::libc::TIOCSWINSZ, Winsize);

impl Terminal {
    pub(super) fn start(home: &Home, args: &[&str]) -> Self {
        let size = Winsize { ws_row: 31, ws_col: 97, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).expect("a terminal");
        let mut command = home.bottle(args);
        let line = pty.slave.try_clone().expect("its line");
        command
            .env("TERM", "xterm")
            .stdin(pty.slave.try_clone().expect("line"))
            .stdout(pty.slave.try_clone().expect("line"))
            .stderr(pty.slave);
        // SAFETY: setsid(2) and ioctl(2) are async-signal-safe.
        unsafe {
            use std::os::unix::process::CommandExt;
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                nix::libc::ioctl(0, nix::libc::TIOCSCTTY, 0);
                Ok(())
            });
        }
        let child = command.spawn().expect("bottle starts");
        let (send, screen) = channel();
        let mut output = File::from(pty.master.try_clone().expect("the screen"));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = output.read(&mut buffer) {
                if send.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { keys: File::from(pty.master), screen, seen: String::new(), line, child }
    }

    pub(super) fn type_keys(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("typed");
    }

    pub(super) fn expect(&mut self, text: &str) {
        let began = Instant::now();
        while !self.seen.contains(text) {
            assert!(began.elapsed() < PATIENCE, "{text:?} never appears on:\n{}", self.seen);
            if let Ok(bytes) = self.screen.recv_timeout(Duration::from_millis(100)) {
                self.seen.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
        self.seen.clear();
    }

    pub(super) fn code(&mut self) -> Option<i32> {
        let mut code = None;
        eventually("the launch ends", || {
            while let Ok(bytes) = self.screen.try_recv() {
                self.seen.push_str(&String::from_utf8_lossy(&bytes));
            }
            match self.child.try_wait().expect("wait") {
                Some(status) => {
                    code = status.code();
                    true
                }
                None => false,
            }
        });
        code
    }
}

pub fn size() {
    let home = Home::new();
    let mut terminal =
        Terminal::start(&home, &["launch", "demo", "--yes", "--", "bash", "-c", "tty; stty size; read x; stty size; exit 9"]);
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
    let script = "trap 'echo got-$((1+1)); exit 5' INT; echo ready-$((1+1)); while :; do sleep 0.1; done";
    let mut terminal = Terminal::start(&home, &["launch", "demo", "--yes", "--", "bash", "-c", script]);
    terminal.expect("ready-2");
    terminal.type_keys("\x03");
    terminal.expect("got-2");
    assert_eq!(terminal.code(), Some(5));
}

pub fn hangup() {
    let home = Home::new();
    let mut terminal = Terminal::start(&home, &["launch", "demo", "--yes", "--", "bash", "-c", "echo ready-$((1+1)); sleep 1000"]);
    terminal.expect("ready-2");
    let Terminal { keys, screen, line, mut child, .. } = terminal;
    drop((keys, screen, line));
    // The reader thread holds the last end of the terminal; a hangup is what the kernel sends when it is gone.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("pid")), nix::sys::signal::Signal::SIGHUP)
        .expect("hangup");
    eventually("the launch ends", || child.try_wait().expect("wait").is_some());
    eventually("nothing is left", || processes_naming(home.path()).is_empty() && home.leftovers("demo").is_empty());
}

pub fn restored() {
    let home = Home::new();
    let mut terminal = Terminal::start(&home, &["launch", "demo", "--yes", "--", "bash", "-c", "echo ready-$((1+1)); read x"]);
    let cooked = |t: &Terminal| tcgetattr(t.line.as_fd()).expect("modes").local_flags.contains(LocalFlags::ECHO | LocalFlags::ICANON);
    assert!(cooked(&terminal));
    terminal.expect("ready-2");
    assert!(!cooked(&terminal), "raw while the agent has it");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(terminal.child.id()).expect("pid")), nix::sys::signal::Signal::SIGTERM)
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
    let mut terminal = Terminal::start(&home, &["launch", "demo", "--", "bash", "-c", "echo the agent ran $((1+1))"]);
    terminal.expect("[y/N]");
    terminal.type_keys("y\r");
    terminal.expect("the agent ran 2");
    assert_eq!(terminal.code(), Some(0));
}
