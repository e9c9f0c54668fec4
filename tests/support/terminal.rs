//! A terminal on which `bottle` runs.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Child;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};

use super::{Home, eventually, patient};

/// The operator's side of a terminal on which `bottle` runs.
pub struct Terminal {
    pub keys: File,
    pub screen: Receiver<Vec<u8>>,
    pub seen: String,
    pub line: OwnedFd,
    pub child: Child,
}

nix::ioctl_write_ptr_bad!(set_window_size, nix::libc::TIOCSWINSZ, Winsize);

impl Terminal {
    pub fn start(home: &Home, args: &[&str]) -> Self {
        Self::start_with(home, args, &[])
    }

    /// With these variables too.
    pub fn start_with(home: &Home, args: &[&str], env: &[(&str, &str)]) -> Self {
        let size = Winsize { ws_row: 31, ws_col: 97, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).expect("a terminal");
        let mut command = home.bottle(args);
        let line = pty.slave.try_clone().expect("its line");
        command
            .env("TERM", "xterm")
            .envs(env.iter().copied())
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

    pub fn type_keys(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("typed");
    }

    /// Waits until `text` is on the screen, and forgets what was there.
    pub fn expect(&mut self, text: &str) {
        self.wait_for(text);
        self.seen.clear();
    }

    /// Waits until `text` was on the screen, answering what programs ask of a terminal.
    pub fn wait_for(&mut self, text: &str) {
        let began = Instant::now();
        while !self.seen.contains(text) {
            patient(began, || format!("{text:?} never appears on:\n{}", self.seen));
            if let Ok(bytes) = self.screen.recv_timeout(Duration::from_millis(100)) {
                self.take(&bytes);
            }
        }
    }

    /// Takes what is there now.
    pub fn drain(&mut self) {
        while let Ok(bytes) = self.screen.try_recv() {
            self.take(&bytes);
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        let said = String::from_utf8_lossy(bytes);
        for (asked, answer) in [("\x1b[6n", "\x1b[1;1R"), ("\x1b[c", "\x1b[?62c")] {
            if said.contains(asked) {
                self.type_keys(answer);
            }
        }
        self.seen.push_str(&said);
    }

    pub fn code(&mut self) -> Option<i32> {
        let mut code = None;
        eventually("the launch ends", || {
            self.drain();
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
