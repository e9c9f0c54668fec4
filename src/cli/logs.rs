//! `bottle logs`: what a bottle did, out of its audit log.

use std::collections::{BTreeSet, VecDeque};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bottle_policy::audit::AuditRecord;

use crate::error::{Context, Error, Kind, Result};
use crate::logs::follow::Growing;
use crate::logs::render::{Colours, json, render, unreadable};
use crate::manifest::neutral;
use crate::state::{BottleDir, Roots};

/// How often a followed file is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How often a followed bottle is asked whether it lives.
const ALIVE: Duration = Duration::from_millis(500);

/// Show what a bottle did: each request, what was decided, and why.
///
/// Times are UTC. A bottle that has ended keeps its log until `bottle rm`; a new launch of the same
/// name goes on in it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The bottle.
    name: String,
    /// Go on until the bottle ends.
    #[arg(short, long)]
    follow: bool,
    /// The audit log's own lines: one JSON object each.
    #[arg(long)]
    json: bool,
    /// Instead, what a daemon said on standard error in the latest launch: egress, engine, …
    #[arg(long, value_name = "DAEMON", conflicts_with = "json")]
    daemon: Option<String>,
    /// Only the last N lines (then those that follow).
    #[arg(short = 'n', long, value_name = "N")]
    lines: Option<usize>,
}

impl Args {
    pub(super) fn run(&self) -> Result<u8> {
        let dir = existing(&Roots::from_environment()?, &self.name)?;
        let colours =
            if super::colour_on(&std::io::stdout()) { Colours::ON } else { Colours::default() };
        let audit = |path: PathBuf| {
            let lines =
                Audit { json: self.json, colours, open: Vec::new(), closed: closed(&path)? };
            Ok(Source::new(&path, Box::new(lines)))
        };
        let mut sources = match &self.daemon {
            Some(daemon) => vec![Source::new(&daemon_log(&dir, daemon)?, Box::new(Said))],
            None => dir.audits().into_iter().map(audit).collect::<Result<_>>()?,
        };
        let mut alive = Alive::new(|| dir.status().is_some_and(|s| s.alive));
        show(
            &mut sources,
            self.lines,
            self.follow.then_some(&mut alive),
            &mut std::io::stdout().lock(),
        )?;
        Ok(0)
    }
}

/// The directory of a bottle that there is, running or not.
pub(super) fn existing(roots: &Roots, name: &str) -> Result<BottleDir> {
    let dir = roots.bottle(name)?;
    if dir.status().is_some() || dir.audit().exists() {
        return Ok(dir);
    }
    Err(Error::new(Kind::Usage, format!("there is no bottle {name:?}")).hint("bottle list"))
}

/// A file, and what its lines become.
struct Source {
    path: PathBuf,
    growing: Growing,
    lines: Box<dyn Lines>,
    /// The next line, when it was written, and what it became.
    next: Option<(Vec<u8>, String)>,
}

impl Source {
    fn new(path: &Path, lines: Box<dyn Lines>) -> Self {
        Self { path: path.to_owned(), growing: Growing::new(path), lines, next: None }
    }

    /// When the next line was written, if there is one.
    fn peek(&mut self) -> Result<Option<&[u8]>> {
        if self.next.is_none() {
            let line = self
                .growing
                .line()
                .context(Kind::Config, || format!("cannot read {}", self.path.display()))?;
            self.next = line.map(|line| (written(&line).to_vec(), self.lines.line(&line)));
        }
        Ok(self.next.as_ref().map(|(time, _)| &**time))
    }
}

/// When a line of an audit log was written, as it says; such times sort as they are.
fn written(line: &[u8]) -> &[u8] {
    const MEMBER: &[u8] = b"\"time\":\"";
    let from = line
        .windows(MEMBER.len())
        .position(|w| w == MEMBER)
        .map_or(line.len(), |at| at + MEMBER.len());
    &line[from..line.len().min(from + 24)]
}

/// The oldest line that there is now; `None` when there is none.
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

/// What the lines of a file become.
trait Lines {
    /// The text for a line, with its line end; empty when it has none of its own.
    fn line(&mut self, line: &[u8]) -> String;

    /// What is left to say at the end.
    fn end(&mut self) -> String {
        String::new()
    }
}

/// Lines of the audit log. What was admitted is shown by its closing line, which says how it went;
/// at the end, what has none.
struct Audit {
    json: bool,
    colours: Colours,
    open: Vec<AuditRecord>,
    /// Closed by a line that was there from the start.
    closed: BTreeSet<u64>,
}

impl Lines for Audit {
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

/// What a daemon said. A guest can make some of them talk.
struct Said;

impl Lines for Said {
    fn line(&mut self, line: &[u8]) -> String {
        format!("{}\n", neutral(&String::from_utf8_lossy(line)))
    }
}

/// The openings that have a closing line by now.
fn closed(log: &Path) -> Result<BTreeSet<u64>> {
    let mut closed = BTreeSet::new();
    let mut growing = Growing::new(log);
    while let Some(line) =
        growing.line().context(Kind::Config, || format!("cannot read {}", log.display()))?
    {
        if closes_something(&line) {
            closed.extend(
                serde_json::from_slice::<AuditRecord>(&line).ok().and_then(|r| r.what.admitted),
            );
        }
    }
    Ok(closed)
}

fn closes_something(line: &[u8]) -> bool {
    const MEMBER: &[u8] = b"\"admitted\":";
    line.windows(MEMBER.len()).any(|w| w == MEMBER)
}

fn daemon_log(dir: &BottleDir, daemon: &str) -> Result<PathBuf> {
    let path = dir.log(daemon);
    let plain = !daemon.is_empty()
        && daemon.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if plain && path.is_file() {
        return Ok(path);
    }
    let state = dir.audit().parent().map(Path::to_owned).unwrap_or_default();
    let mut there: Vec<String> = std::fs::read_dir(state)
        .map(|entries| {
            let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
            names.filter_map(|n| n.strip_suffix(".log").map(str::to_owned)).collect()
        })
        .unwrap_or_default();
    there.sort();
    let hint = if there.is_empty() {
        "none said anything yet".to_owned()
    } else {
        format!("these did: {}", there.join(", "))
    };
    Err(Error::new(
        Kind::Usage,
        format!("no daemon {daemon:?} of bottle {:?} said anything", dir.slug()),
    )
    .hint(hint))
}

/// Whether a bottle lives, asked now and then.
struct Alive<F>(F, Option<Instant>);

impl<F: Fn() -> bool> Alive<F> {
    fn new(ask: F) -> Self {
        Self(ask, None)
    }

    /// False when it is known to have ended. What it wrote before is in the file by then.
    fn still(&mut self) -> bool {
        if self.1.is_some_and(|asked| asked.elapsed() < ALIVE) {
            return true;
        }
        self.1 = Some(Instant::now());
        (self.0)()
    }
}

/// Writes the lines of all files by their times (the last `most` of those that are there now) and,
/// with `alive`, those that are added until the bottle ends.
fn show<F: Fn() -> bool>(
    sources: &mut [Source],
    most: Option<usize>,
    mut alive: Option<&mut Alive<F>>,
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
        let ends = !alive.still(); // asked before the file is read: what came before the end is seen
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
            std::thread::sleep(LOOK);
        }
    }
    sources.iter_mut().try_for_each(|source| write(out, &source.lines.end()))?;
    flush(out)
}

fn write(out: &mut dyn Write, text: &str) -> Result<()> {
    out.write_all(text.as_bytes()).context(Kind::Internal, || "cannot write".into())
}

fn flush(out: &mut dyn Write) -> Result<()> {
    out.flush().context(Kind::Internal, || "cannot write".into())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::sync::{Arc, Mutex};

    use bottle_policy::audit::{AuditEvent, AuditVerdict, AuditWriter, Line};

    use super::*;

    fn event(kind: &str, verdict: AuditVerdict, path: &str) -> AuditEvent {
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
        let first =
            log.append(Line::Opening, event("admitted", AuditVerdict::Allow, "/done")).unwrap();
        let done = AuditEvent {
            admitted: first,
            status: Some(200),
            bytes_up: Some(12),
            bytes_down: Some(3_400),
            ms: Some(56),
            ..event("request", AuditVerdict::Allow, "/done")
        };
        log.append(Line::Closing, done).unwrap();
        let refused = AuditEvent {
            rule: Some("no-route".into()),
            reason: Some("no route names it".into()),
            hint: Some("in bottle.toml: host = \"x\"".into()),
            findings: vec!["jwt in header x-a".into()],
            route: None,
            ..event("refused", AuditVerdict::Deny, "/refused")
        };
        log.append(Line::Refusal, refused).unwrap();
        log.append(Line::Opening, event("admitted", AuditVerdict::Allow, "/open")).unwrap();
        log
    }

    fn source(path: &Path, json: bool) -> Source {
        let lines = Audit {
            json,
            colours: Colours::default(),
            open: Vec::new(),
            closed: closed(path).unwrap(),
        };
        Source::new(path, Box::new(lines))
    }

    fn shown(path: &Path, json: bool, most: Option<usize>) -> String {
        let mut out = Vec::new();
        show(&mut [source(path, json)], most, None::<&mut Alive<fn() -> bool>>, &mut out).unwrap();
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
        let mut what = event("refused", AuditVerdict::Deny, evil);
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
        show(
            &mut [Source::new(&path, Box::new(Said))],
            Some(2),
            None::<&mut Alive<fn() -> bool>>,
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
    fn a_followed_log_may_appear_late_grow_be_replaced_and_ends_with_the_bottle() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let lives = dir.path().join("lives");
        fs::write(&lives, "").unwrap();
        let out = Shared::default();
        let follower = std::thread::spawn({
            let (path, lives, mut out) = (path.clone(), lives.clone(), out.clone());
            move || {
                let mut alive = Alive::new(move || lives.exists());
                show(&mut [source(&path, false)], Some(10), Some(&mut alive), &mut out).unwrap();
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
        log.append(Line::Refusal, event("refused", AuditVerdict::Deny, "/after-rotation")).unwrap();
        out.wait_for("/after-rotation");
        // Cut short and written anew, in the same file.
        drop(log);
        fs::write(&path, "").unwrap();
        std::thread::sleep(Duration::from_millis(250));
        let log = AuditWriter::open(&path, "egress").unwrap();
        log.append(Line::Refusal, event("refused", AuditVerdict::Deny, "/anew")).unwrap();
        out.wait_for("/anew");
        assert!(!follower.is_finished());
        fs::remove_file(&lives).unwrap();
        log.append(Line::Refusal, event("refused", AuditVerdict::Deny, "/last")).unwrap();
        follower.join().unwrap();
        let text = out.wait_for("/last");
        assert!(
            text.trim_end().ends_with("open  GET api.example.com/open  route api"),
            "what never closed is told at the end: {text}"
        );
        assert_eq!(text.matches("/done").count(), 1, "{text}");
    }

    #[test]
    fn a_dead_bottle_has_its_log_and_an_unknown_one_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::at(dir.path().join("s"), dir.path().join("r")).unwrap();
        assert_eq!(existing(&roots, "nobody").unwrap_err().kind(), Kind::Usage);
        assert_eq!(existing(&roots, "../x").unwrap_err().kind(), Kind::Usage);
        fs::create_dir_all(dir.path().join("s/bottles/dead")).unwrap();
        fs::write(dir.path().join("s/bottles/dead/audit.jsonl"), "").unwrap();
        fs::write(dir.path().join("s/bottles/dead/engine.log"), "said\n").unwrap();
        let dead = existing(&roots, "dead").unwrap();
        assert!(daemon_log(&dead, "engine").is_ok());
        for bad in ["console", "../dead/engine", "", "/etc/passwd"] {
            let e = daemon_log(&dead, bad).unwrap_err();
            assert_eq!(
                (e.kind(), e.hint_text()),
                (Kind::Usage, Some("these did: engine")),
                "{bad}"
            );
        }
    }
}
