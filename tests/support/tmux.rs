//! `bottle` in tmux: a real terminal, of which a test sees what a person would.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::{Home, stdout, until};

/// A terminal of 80 × 24.
pub struct Tmux {
    socket: PathBuf,
    code: PathBuf,
}

impl Tmux {
    /// Runs `bottle ARGS…` in it, with these variables too.
    pub fn start(home: &Home, args: &[&str], env: &[(&str, &str)]) -> Self {
        let [socket, settings, code] =
            ["tmux", "tmux.conf", "tmux.code"].map(|name| home.path().join(name));
        std::fs::write(&settings, "set -g remain-on-exit on\nset -g history-limit 10000\n")
            .expect("its settings");
        let bottle = home.bottle(args);
        let mut tmux = Command::new("tmux");
        tmux.arg("-u").arg("-S").arg(&socket).arg("-f").arg(&settings).args([
            "new-session",
            "-d",
            "-x",
            "80",
            "-y",
            "24",
            "--",
        ]);
        // tmux itself learns the code only where it is told of its children's ends.
        tmux.args(["sh", "-c", "\"$@\"; echo $? > \"$0\""])
            .arg(&code)
            .arg(bottle.get_program())
            .args(bottle.get_args())
            .env_clear();
        tmux.envs(bottle.get_envs().filter_map(|(key, value)| Some((key, value?))))
            .env("LC_ALL", "C.UTF-8")
            .envs(env.iter().copied());
        let began = tmux
            .current_dir(bottle.get_current_dir().expect("a directory"))
            .output()
            .expect("tmux starts");
        assert!(began.status.success(), "{began:?}");
        Self { socket, code }
    }

    fn tmux(&self, args: &[&str]) -> String {
        let output = Command::new("tmux")
            .arg("-u")
            .arg("-S")
            .arg(&self.socket)
            .args(args)
            .env("LC_ALL", "C.UTF-8")
            .output()
            .expect("tmux");
        assert!(output.status.success(), "{args:?}: {output:?}");
        stdout(&output)
    }

    /// What is on the screen.
    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// That, and what has left it at its top.
    pub fn history(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-J", "-S", "-"])
    }

    /// Waits until `text` is on the screen.
    pub fn expect(&self, text: &str) {
        self.until(&format!("{text:?} on the screen"), || {
            self.screen().contains(text).then_some(())
        });
    }

    /// Types these letters.
    pub fn type_text(&self, text: &str) {
        self.tmux(&["send-keys", "-l", "--", text]);
    }

    /// Presses a key by tmux's name for it.
    pub fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    /// Waits for the end of `bottle`; its exit code.
    pub fn code(&self) -> i32 {
        self.until("its exit code", || {
            std::fs::read_to_string(&self.code).ok()?.trim().parse().ok()
        })
    }

    fn until<T>(&self, what: &str, look: impl FnMut() -> Option<T>) -> T {
        until(
            Duration::from_millis(100),
            || format!("never {what}, which is:\n{}", self.history()),
            look,
        )
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = Command::new("tmux").arg("-S").arg(&self.socket).arg("kill-server").output();
    }
}
