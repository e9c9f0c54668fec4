//! The report lines of a daemon that is ready.

use std::io::{BufRead, BufReader};
use std::process::Child;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;

pub struct Reports(Receiver<Value>);

impl Reports {
    /// Reads the standard output of `daemon` from now on.
    pub fn of(daemon: &mut Child) -> Self {
        let (sender, reports) = channel();
        let lines = BufReader::new(daemon.stdout.take().unwrap()).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).unwrap());
            }
        });
        Self(reports)
    }

    /// Waits for the report of a reload. Returns the digest of the file's policy, and why it was
    /// refused.
    pub fn reload(&self) -> (Option<String>, Option<String>) {
        let report = self.0.recv_timeout(Duration::from_secs(5)).expect("a report");
        let text = |key: &str| report["reload"][key].as_str().map(str::to_owned);
        (text("digest"), text("error"))
    }
}
