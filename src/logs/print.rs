//! Prints the lines of several logs in the order of their times, and follows them.

use std::collections::{BTreeSet, VecDeque};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bottle_policy::audit::AuditRecord;

use super::follow::LineFollower;
use super::render::{Colours, json, render, unreadable};
use crate::error::{Context, ErrorKind, Result};
use crate::values::neutral;

/// How often followed files are read again.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How often the bottle of a followed log is checked to be alive.
const ALIVE_INTERVAL: Duration = Duration::from_millis(500);

/// A log file, and how its lines are shown.
pub(crate) struct Source {
    path: PathBuf,
    follower: LineFollower,
    format: Box<dyn LineFormat>,
    /// The next line: when it was written, and its text.
    next: Option<(Vec<u8>, String)>,
}

impl Source {
    /// An audit log, as text or as its own JSON lines.
    pub(crate) fn audit(path: &Path, json: bool, colours: Colours) -> Result<Self> {
        let closed = closed_requests(path)?;
        Ok(Self::new(path, Box::new(AuditLines { json, colours, open: Vec::new(), closed })))
    }

    /// What a daemon wrote on standard error.
    pub(crate) fn daemon(path: &Path) -> Self {
        Self::new(path, Box::new(DaemonLines))
    }

    fn new(path: &Path, format: Box<dyn LineFormat>) -> Self {
        Self { path: path.to_owned(), follower: LineFollower::new(path), format, next: None }
    }

    /// When the next line was written, if there is one.
    fn peek(&mut self) -> Result<Option<&[u8]>> {
        if self.next.is_none() {
            let line = self
                .follower
                .next_line()
                .context(ErrorKind::Io, || format!("cannot read {}", self.path.display()))?;
            self.next = line.map(|line| (time_of(&line).to_vec(), self.format.line(&line)));
        }
        Ok(self.next.as_ref().map(|(time, _)| &**time))
    }
}

/// The time that a line of an audit log states; such times sort as text.
fn time_of(line: &[u8]) -> &[u8] {
    const MEMBER: &[u8] = b"\"time\":\"";
    let from = line
        .windows(MEMBER.len())
        .position(|w| w == MEMBER)
        .map_or(line.len(), |at| at + MEMBER.len());
    &line[from..line.len().min(from + 24)]
}

/// The text of the oldest line of all sources; `None` when there is none for now.
fn oldest(sources: &mut [Source]) -> Result<Option<String>> {
    let mut first: Option<(Vec<u8>, usize)> = None;
    for (i, source) in sources.iter_mut().enumerate() {
        if let Some(time) = source.peek()? {
            if first.as_ref().is_none_or(|(before, _)| time < &**before) {
                first = Some((time.to_vec(), i));
            }
        }
    }
    Ok(first.and_then(|(_, i)| sources[i].next.take()).map(|(_, text)| text))
}

/// How the lines of a file are shown.
trait LineFormat {
    /// The text for a line, with its line end; empty when the line is not shown by itself.
    fn line(&mut self, line: &[u8]) -> String;

    /// What is left to show at the end.
    fn end(&mut self) -> String {
        String::new()
    }
}

/// Audit log lines. A request that was let through is shown once, when it finishes; requests that
/// are still open when the log ends are shown last.
struct AuditLines {
    json: bool,
    colours: Colours,
    open: Vec<AuditRecord>,
    /// Requests that finish in a line that was there from the start.
    closed: BTreeSet<u64>,
}

impl LineFormat for AuditLines {
    fn line(&mut self, line: &[u8]) -> String {
        let record = serde_json::from_slice::<AuditRecord>(line);
        if self.json {
            return json(line, record.is_ok());
        }
        let Ok(record) = record else { return unreadable(line, &self.colours) };
        if let Some(opening) = record.what.admitted {
            self.open.retain(|r| r.seq != opening);
        }
        if record.what.event == "admitted" {
            if !self.closed.remove(&record.seq) {
                self.open.push(record);
            }
            return String::new();
        }
        render(&record, &self.colours)
    }

    fn end(&mut self) -> String {
        self.open.drain(..).map(|r| render(&r, &self.colours)).collect()
    }
}

/// What a daemon wrote. A guest can cause some of it.
struct DaemonLines;

impl LineFormat for DaemonLines {
    fn line(&mut self, line: &[u8]) -> String {
        format!("{}\n", neutral(&String::from_utf8_lossy(line)))
    }
}

/// The requests that have finished by now.
fn closed_requests(log: &Path) -> Result<BTreeSet<u64>> {
    const MEMBER: &[u8] = b"\"admitted\":";
    let mut closed = BTreeSet::new();
    let mut follower = LineFollower::new(log);
    while let Some(line) =
        follower.next_line().context(ErrorKind::Io, || format!("cannot read {}", log.display()))?
    {
        if line.windows(MEMBER.len()).any(|w| w == MEMBER) {
            let record = serde_json::from_slice::<AuditRecord>(&line).ok();
            closed.extend(record.and_then(|r| r.what.admitted));
        }
    }
    Ok(closed)
}

/// Checks now and then that a bottle is alive.
pub(crate) struct AliveCheck<F> {
    is_alive: F,
    checked: Option<Instant>,
}

impl<F: Fn() -> bool> AliveCheck<F> {
    pub(crate) fn new(is_alive: F) -> Self {
        Self { is_alive, checked: None }
    }

    /// False when the bottle is known to have ended. What it wrote before is in the file by then.
    fn is_still_alive(&mut self) -> bool {
        if self.checked.is_some_and(|at| at.elapsed() < ALIVE_INTERVAL) {
            return true;
        }
        self.checked = Some(Instant::now());
        (self.is_alive)()
    }
}

/// Writes the lines of all files by their times. Of the lines that are there now, only the last
/// `most`; with `alive`, also those that are added until the bottle ends.
pub(crate) fn print<F: Fn() -> bool>(
    sources: &mut [Source],
    most: Option<usize>,
    mut alive: Option<&mut AliveCheck<F>>,
    out: &mut dyn Write,
) -> Result<()> {
    let mut last = VecDeque::new();
    while let Some(text) = oldest(sources)? {
        match most {
            Some(most) if !text.is_empty() => {
                last.push_back(text);
                if last.len() > most {
                    last.pop_front();
                }
            }
            Some(_) => {}
            None => write(out, &text)?,
        }
    }
    last.iter().try_for_each(|text| write(out, text))?;
    flush(out)?;
    while let Some(alive) = &mut alive {
        // Checked before the files are read, so that what came before the end is seen.
        let ends = !alive.is_still_alive();
        let mut quiet = true;
        while let Some(text) = oldest(sources)? {
            write(out, &text)?;
            quiet = false;
        }
        flush(out)?;
        if ends {
            break;
        }
        if quiet {
            std::thread::sleep(POLL_INTERVAL);
        }
    }
    sources.iter_mut().try_for_each(|source| write(out, &source.format.end()))?;
    flush(out)
}

fn write(out: &mut dyn Write, text: &str) -> Result<()> {
    out.write_all(text.as_bytes()).context(ErrorKind::Internal, || "cannot write".into())
}

fn flush(out: &mut dyn Write) -> Result<()> {
    out.flush().context(ErrorKind::Internal, || "cannot write".into())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::sync::{Arc, Mutex};

    use bottle_policy::audit::{AuditEvent, AuditWriter, Line, Verdict};

    use super::*;

    fn event(kind: &str, verdict: Verdict, path: &str) -> AuditEvent {
        AuditEvent {
            method: Some("GET".into()),
            host: Some("api.example.com".into()),
            port: Some(443),
            path: Some(path.into()),
            route: Some("api".into()),
            ..AuditEvent::new("egress", kind, verdict)
        }
    }

    /// A request that was let through and ended, one that was refused, one that is under way.
    fn planted(path: &Path) -> AuditWriter {
        let log = AuditWriter::open(path, "egress").unwrap();
        let first = log.append(Line::Opening, event("admitted", Verdict::Allow, "/done")).unwrap();
        let done = AuditEvent {
            admitted: first,
            status: Some(200),
            bytes_up: Some(12),
            bytes_down: Some(3_400),
            ms: Some(56),
            ..event("request", Verdict::Allow, "/done")
        };
        log.append(Line::Closing, done).unwrap();
        let refused = AuditEvent {
            rule: Some("no-route".into()),
            reason: Some("no route names it".into()),
            hint: Some("in bottle.toml: host = \"x\"".into()),
            findings: vec!["jwt in header x-a".into()],
            route: None,
            ..event("refused", Verdict::Deny, "/refused")
        };
        log.append(Line::Refusal, refused).unwrap();
        log.append(Line::Opening, event("admitted", Verdict::Allow, "/open")).unwrap();
        log
    }

    fn source(path: &Path, json: bool) -> Source {
        Source::audit(path, json, Colours::default()).unwrap()
    }

    fn shown(path: &Path, json: bool, most: Option<usize>) -> String {
        let mut out = Vec::new();
        print(&mut [source(path, json)], most, None::<&mut AliveCheck<fn() -> bool>>, &mut out)
            .unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_request_is_one_line_and_a_refusal_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        drop(planted(&path));
        let text = shown(&path, false, None);
        let without_time: Vec<&str> =
            text.lines().map(|l| l.split_once("Z ").map_or(l, |(_, rest)| rest)).collect();
        assert_eq!(
            without_time,
            [
                "allow GET api.example.com/done  route api  200  ↑12 B ↓3.4 kB  56 ms",
                "DENY  GET api.example.com/refused  rule no-route  no route names it",
                "        found: jwt in header x-a",
                "        hint: in bottle.toml: host = \"x\"",
                "open  GET api.example.com/open  route api",
            ]
        );
        assert_eq!(
            shown(&path, false, Some(1)).lines().next().map(|l| l.contains("DENY")),
            Some(true),
            "the refusal is the last whole one"
        );
        let json = shown(&path, true, None);
        assert_eq!(json, fs::read_to_string(&path).unwrap());
    }

    #[test]
    fn planted_lines_cannot_drive_the_terminal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let evil = "\u{1b}]0;x\u{7}\u{9b}31m\u{202e}\u{200b}\r";
        let mut what = event("refused", Verdict::Deny, evil);
        for field in [
            &mut what.host,
            &mut what.method,
            &mut what.route,
            &mut what.rule,
            &mut what.reason,
            &mut what.hint,
        ] {
            *field = Some(evil.to_owned());
        }
        what.findings = vec![evil.to_owned()];
        what.daemon = evil.to_owned();
        let record = |event: &str| AuditRecord {
            v: 1,
            seq: 1,
            time: evil.to_owned(),
            what: AuditEvent { event: event.to_owned(), ..what.clone() },
            prev: evil.to_owned(),
            hash: evil.to_owned(),
        };
        // serde_json escapes C0 only: C1 and bidirectional characters are in the file as they are.
        let mut bytes = Vec::new();
        for event in ["refused", "policy", "admitted", evil] {
            bytes.extend(serde_json::to_vec(&record(event)).unwrap());
            bytes.push(b'\n');
        }
        bytes.extend(format!("{evil} no json\n{{\"a\":\"\u{9b}\u{1f600}\"}}\n").into_bytes());
        bytes.extend(b"\xff\xfe\x1b[2J\n");
        bytes.extend(vec![b'x'; 3 << 20]);
        bytes.push(b'\n');
        fs::write(&path, bytes).unwrap();
        for json in [false, true] {
            let text = shown(&path, json, None);
            assert!(text.lines().count() > 6, "{text}");
            assert!(text.len() < 60_000, "{}", text.len());
            let driving = |c: char| c != '\n' && neutral(&c.to_string()) != c.to_string();
            assert!(!text.contains(driving), "{json}: {:?}", text.chars().find(|c| driving(*c)));
            if json {
                assert!(
                    text.lines().all(|l| serde_json::from_str::<serde_json::Value>(l).is_ok()),
                    "{text}"
                );
            }
        }
        let mut out = Vec::new();
        print(
            &mut [Source::daemon(&path)],
            Some(2),
            None::<&mut AliveCheck<fn() -> bool>>,
            &mut out,
        )
        .unwrap();
        assert!(!out.contains(&0x1b));
    }

    /// What is written, for another thread to look at.
    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(buf);
            Ok(buf.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Shared {
        fn wait_for(&self, what: &str) -> String {
            let begun = Instant::now();
            loop {
                let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
                if text.contains(what) {
                    return text;
                }
                assert!(begun.elapsed() < Duration::from_secs(20), "{what} did not come: {text}");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    #[test]
    fn a_followed_log_may_be_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let lives = dir.path().join("lives");
        fs::write(&lives, "").unwrap();
        let out = Shared::default();
        let follower = std::thread::spawn({
            let (path, lives, mut out) = (path.clone(), lives.clone(), out.clone());
            move || {
                let mut alive = AliveCheck::new(move || lives.exists());
                print(&mut [source(&path, false)], Some(10), Some(&mut alive), &mut out).unwrap();
            }
        });
        std::thread::sleep(Duration::from_millis(150));
        let log = planted(&path);
        out.wait_for("DENY");
        // A line that is written in two parts is one line.
        let mut raw = OpenOptions::new().append(true).open(&path).unwrap();
        raw.write_all(b"half").unwrap();
        std::thread::sleep(Duration::from_millis(250));
        raw.write_all(b" and half\n").unwrap();
        out.wait_for("half and half");
        drop(log);
        fs::rename(&path, dir.path().join("old")).unwrap();
        let log = AuditWriter::open(&path, "egress").unwrap();
        log.append(Line::Refusal, event("refused", Verdict::Deny, "/after-rotation")).unwrap();
        out.wait_for("/after-rotation");
        // Cut short and written anew, in the same file.
        drop(log);
        fs::write(&path, "").unwrap();
        std::thread::sleep(Duration::from_millis(250));
        let log = AuditWriter::open(&path, "egress").unwrap();
        log.append(Line::Refusal, event("refused", Verdict::Deny, "/anew")).unwrap();
        out.wait_for("/anew");
        assert!(!follower.is_finished());
        fs::remove_file(&lives).unwrap();
        log.append(Line::Refusal, event("refused", Verdict::Deny, "/last")).unwrap();
        follower.join().unwrap();
        let text = out.wait_for("/last");
        assert!(
            text.trim_end().ends_with("open  GET api.example.com/open  route api"),
            "what never closed is told at the end: {text}"
        );
        assert_eq!(text.matches("/done").count(), 1, "{text}");
    }
}
