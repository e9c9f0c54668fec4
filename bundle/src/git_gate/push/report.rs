//! What a client of a push is told: the ref advertisement before it, progress messages, and the
//! report at the end.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::head::{Capabilities, PushHead};
use crate::git_gate::fetch::upstream_refs::Refs;
use crate::git_gate::object_id::ObjectId;
use crate::git_gate::pkt_line::{self, BAND_DATA, BAND_PROGRESS, KEEP_ALIVE};
use crate::git_gate::refusal::{Refusal, Rule};

/// Most findings that a message lists.
pub const MAX_SHOWN_FINDINGS: usize = 20;
/// Interval of keep-alive packets, and the longest wait for a client that does not read.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// The capabilities that a push may use.
const CAPABILITIES: &str =
    "report-status side-band-64k ofs-delta atomic object-format=sha1 agent=bot-bottle-gate";

/// The answer to `GET info/refs?service=git-receive-pack`: the mirror's refs, and what git-gate
/// supports.
#[must_use]
pub fn advertisement(refs: &Refs) -> Vec<u8> {
    let mut out = Vec::new();
    pkt_line::data(&mut out, b"# service=git-receive-pack\n");
    pkt_line::flush(&mut out);
    // An empty repository has no line that could carry the capabilities, so it gets this one.
    let placeholder = Refs::from([("capabilities^{}".to_owned(), ObjectId::zero())]);
    let lines = if refs.is_empty() { &placeholder } else { refs };
    let mut capabilities = Some(CAPABILITIES);
    for (name, id) in lines {
        let tail = capabilities.take().map(|c| format!("\0{c}")).unwrap_or_default();
        pkt_line::data(&mut out, format!("{id} {name}{tail}\n").as_bytes());
    }
    pkt_line::flush(&mut out);
    out
}

/// Sends progress messages to the client's terminal while a push is handled.
pub struct ClientProgress {
    /// Where the response is sent.
    pub tx: mpsc::Sender<Bytes>,
    /// The client's capabilities.
    pub capabilities: Capabilities,
}

impl ClientProgress {
    /// Sends one line. A client that does not read must not stop the push, so it loses the line.
    pub async fn line(&self, text: &str) {
        let mut bytes = Vec::new();
        messages(&mut bytes, self.capabilities, &[text.to_owned()]);
        if !bytes.is_empty() {
            let _ = timeout(KEEP_ALIVE_INTERVAL, self.tx.send(bytes.into())).await;
        }
    }

    /// Waits for `work`, and sends keep-alive packets meanwhile, so that no proxy or client takes
    /// the silence for the end.
    pub async fn keep_alive<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = sleep(KEEP_ALIVE_INTERVAL) => {
                    if self.capabilities.side_band {
                        let _ = self.tx.try_send(Bytes::from_static(KEEP_ALIVE));
                    }
                }
            }
        }
    }
}

/// The end of a push's response: what happened, in messages and in the report.
#[must_use]
pub fn result(head: &PushHead, refusal: Option<&Refusal>) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(refusal) = refusal {
        messages(&mut out, head.capabilities, &refusal_lines(refusal));
    }
    status_report(&mut out, head, refusal);
    out
}

/// Appends messages for the client's terminal, if the client accepts them.
fn messages(out: &mut Vec<u8>, capabilities: Capabilities, lines: &[String]) {
    if capabilities.side_band {
        for line in lines {
            pkt_line::band(out, BAND_PROGRESS, format!("{line}\n").as_bytes());
        }
    }
}

/// Appends the report: all refs were updated, or none.
fn status_report(out: &mut Vec<u8>, head: &PushHead, refusal: Option<&Refusal>) {
    let Capabilities { report_status, side_band } = head.capabilities;
    if !report_status {
        return;
    }
    let mut lines = Vec::new();
    let unpack = if refusal.is_some_and(|r| matches!(r.rule, Rule::Pack | Rule::MaxPack)) {
        "unpack refused by git-gate\n"
    } else {
        "unpack ok\n"
    };
    pkt_line::data(&mut lines, unpack.as_bytes());
    for update in &head.updates {
        let line = match refusal {
            None => format!("ok {}\n", update.name),
            Some(refusal) => format!("ng {} git-gate: {}\n", update.name, refusal.line()),
        };
        pkt_line::data(&mut lines, line.as_bytes());
    }
    pkt_line::flush(&mut lines);
    if side_band {
        pkt_line::band(out, BAND_DATA, &lines);
        pkt_line::flush(out);
    } else {
        out.extend_from_slice(&lines);
    }
}

fn refusal_lines(refusal: &Refusal) -> Vec<String> {
    let found = &refusal.findings;
    let mut lines = vec![format!("git-gate: {}", refusal.line())];
    lines.extend(found.iter().take(MAX_SHOWN_FINDINGS).map(|f| format!("  {f}")));
    if found.len() > MAX_SHOWN_FINDINGS {
        lines.push(format!("  and {} more", found.len() - MAX_SHOWN_FINDINGS));
    }
    lines.extend(refusal.hint.iter().map(|hint| format!("hint: {hint}")));
    lines.push("nothing was pushed".to_owned());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_repository_can_be_pushed_to() {
        let text = advertisement(&Refs::new());
        assert!(
            text.windows(17).any(|w| w == b"capabilities^{}\0r"),
            "{}",
            String::from_utf8_lossy(&text)
        );
    }
}
