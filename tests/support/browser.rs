//! A headless Chromium, driven through its pipe (`--remote-debugging-pipe`: JSON messages, each
//! ended by a NUL, in at descriptor 3 and out at 4).

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{PATIENCE, patient};

/// A browser with one page.
pub struct Browser {
    child: Child,
    to: File,
    from: Receiver<Value>,
    session: Value,
    last: u64,
    /// What the page wrote to its console, and what its policy refused.
    pub complaints: Vec<String>,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts the program that `BOTTLE_CHROMIUM` names.
    pub fn start() -> Self {
        let program = std::env::var_os("BOTTLE_CHROMIUM").expect("BOTTLE_CHROMIUM names a browser");
        let profile = tempfile::tempdir().expect("a profile");
        let (theirs_in, to) = nix::unistd::pipe().expect("a pipe");
        let (from, theirs_out) = nix::unistd::pipe().expect("a pipe");
        let mut command = Command::new(program);
        command
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-dev-shm-usage",
                "--disable-gpu",
                "--no-first-run",
                "--remote-debugging-pipe",
            ])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--window-size=1000,900",
                "--hide-scrollbars",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .env("HOME", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let fds = (theirs_in.as_raw_fd(), theirs_out.as_raw_fd());
        // SAFETY: fcntl(2) and dup2(2) are async-signal-safe. First away from 3 and 4, which may be
        // one of ours.
        unsafe {
            command.pre_exec(move || {
                let (i, o) = (
                    nix::libc::fcntl(fds.0, nix::libc::F_DUPFD, 10),
                    nix::libc::fcntl(fds.1, nix::libc::F_DUPFD, 10),
                );
                nix::libc::dup2(i, 3);
                nix::libc::dup2(o, 4);
                nix::libc::close(i);
                nix::libc::close(o);
                Ok(())
            });
        }
        for fd in [&theirs_in, &theirs_out, &to, &from] {
            nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))
                .expect("a descriptor");
        }
        let child = command.spawn().expect("the browser starts");
        let (send, messages) = channel();
        std::thread::spawn(move || {
            for message in BufReader::new(File::from(from)).split(0).map_while(Result::ok) {
                let Ok(message) = serde_json::from_slice(&message) else { return };
                if send.send(message).is_err() {
                    return;
                }
            }
        });
        let (to, session) = (File::from(to), Value::Null);
        let mut this = Self {
            child,
            to,
            from: messages,
            session,
            last: 0,
            complaints: Vec::new(),
            _profile: profile,
        };
        let target = this.call("Target.createTarget", json!({ "url": "about:blank" }));
        this.session = this.call(
            "Target.attachToTarget",
            json!({ "targetId": target["targetId"], "flatten": true }),
        )["sessionId"]
            .clone();
        this.call("Page.enable", json!({}));
        this.call("Log.enable", json!({}));
        this.call("Runtime.enable", json!({}));
        this
    }

    /// Calls a method of the protocol, for the page once there is one; its result.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let mut message = json!({ "id": self.last, "method": method, "params": params });
        if !self.session.is_null() {
            message["sessionId"] = self.session.clone();
        }
        self.to
            .write_all(&[message.to_string().as_bytes(), b"\0"].concat())
            .expect("the browser listens");
        loop {
            let answer = self
                .from
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|_| panic!("the browser does not answer {method}"));
            if answer["id"] == self.last {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].clone();
            }
            if matches!(
                answer["method"].as_str(),
                Some("Log.entryAdded" | "Runtime.exceptionThrown" | "Runtime.consoleAPICalled")
            ) {
                self.complaints.push(answer["params"].to_string());
            }
        }
    }

    /// Goes to `url` and waits until it is there.
    pub fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({ "url": url }));
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'");
    }

    /// The value of an expression in the page; a promise is waited for.
    pub fn value(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true });
        let result = self.call("Runtime.evaluate", params);
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub fn until(&mut self, expression: &str) {
        let began = Instant::now();
        while self.value(expression) != true {
            patient(began, || {
                format!(
                    "it does not become true: {expression}\n{}",
                    self.value("document.body.innerText")
                )
            });
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Types into what has the focus.
    pub fn type_text(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
    }

    /// Presses a key: `Enter`, `Tab`, `Escape`, ` `.
    pub fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Enter" => (13, "\r"),
            "Tab" => (9, ""),
            "Escape" => (27, ""),
            _ => (32, " "),
        };
        let mut event = json!({ "type": "keyDown", "key": key, "code": if key == " " { "Space" } else { key }, "windowsVirtualKeyCode": code });
        if !text.is_empty() {
            event["text"] = json!(text);
        }
        self.call("Input.dispatchKeyEvent", event.clone());
        event["type"] = json!("keyUp");
        self.call("Input.dispatchKeyEvent", event);
    }

    /// The page as a PNG, if `BOTTLE_SCREENSHOTS` names a directory for such.
    pub fn picture(&mut self, name: &str) {
        use base64::Engine as _;
        let Some(dir) = std::env::var_os("BOTTLE_SCREENSHOTS") else { return };
        let shot = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        let png = base64::engine::general_purpose::STANDARD
            .decode(shot["data"].as_str().expect("a picture"))
            .expect("base64");
        std::fs::write(Path::new(&dir).join(name), png).expect("a file");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
