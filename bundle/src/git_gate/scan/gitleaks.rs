//! gitleaks over everything that is new in a push, in one run, over its standard input.
//!
//! `gitleaks git` sees what `git log -p` shows: no merges, no messages, no file with a NUL, nothing
//! that an inline comment excuses. Given all the new objects one after the other it sees all of
//! that, by lines that are ours to attribute, and no git runs in its hands. What it costs is its
//! rules' knowledge of paths: see [`is_lock_file`] and `pkcs12` in [`crate::git_gate::scan::objects`].

use std::collections::VecDeque;
use std::io::{self, Read as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::ChildStdin;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use crate::git_gate::exec::{Call, Programs, Running};
use crate::git_gate::refusal::{Refusal, Rule};

/// Most bytes of a report.
const REPORT: usize = 32 << 20;
/// How long a run waits for a push.
const IDLE: Duration = Duration::from_secs(30);
/// For what it still has to do once it has been given everything.
const END: Duration = Duration::from_secs(300);
/// Most bytes that a compressed file is looked into.
const UNPACKED: u64 = 32 << 20;

/// A find of gitleaks'.
pub struct Leak {
    /// Id of its rule.
    pub rule: String,
    /// Number of the object, as counted by [`Leaks::begin`].
    pub object: usize,
    /// Line in it, from 1.
    pub line: u64,
    /// What it found.
    pub secret: Zeroizing<String>,
}

/// A run of gitleaks.
pub struct Leaks {
    stdin: ChildStdin,
    report: JoinHandle<Vec<u8>>,
    running: Box<dyn FnOnce() -> EndOf + Send>,
    /// Where each object begins, its first line.
    starts: Vec<u64>,
    lines: u64,
}

type EndOf =
    std::pin::Pin<Box<dyn Future<Output = io::Result<crate::git_gate::exec::Ended>> + Send>>;

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "RuleID")]
    rule: String,
    #[serde(rename = "StartLine")]
    line: u64,
    #[serde(rename = "Secret")]
    secret: String,
}

/// A run that waits for a push. It takes a quarter of a second to be ready: begun when a client
/// asks what it may push, it is by the time that its pack is here.
#[derive(Default)]
pub struct Warm(Mutex<(u64, Option<Leaks>)>);

impl Warm {
    /// Starts one, unless one waits already, and gives it up after [`IDLE`].
    pub fn up(self: &Arc<Self>, programs: &Arc<Programs>) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.1.is_some() {
            return;
        }
        // A failure is the push's to tell.
        let Ok(leaks @ Some(_)) = Leaks::start(programs) else { return };
        *waiting = (waiting.0 + 1, leaks);
        let (number, this) = (waiting.0, self.clone());
        tokio::spawn(async move {
            tokio::time::sleep(IDLE).await;
            let mut waiting = this.0.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.0 == number {
                waiting.1 = None;
            }
        });
    }

    /// The one that waits, else a new one; `None` without gitleaks.
    ///
    /// # Errors
    /// [`Rule::Scanner`].
    pub fn take(&self, programs: &Arc<Programs>) -> Result<Option<Leaks>, Refusal> {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner).1.take();
        waiting.map_or_else(|| Leaks::start(programs), |leaks| Ok(Some(leaks)))
    }
}

impl Leaks {
    /// Starts it in an empty directory; `None` without gitleaks.
    ///
    /// # Errors
    /// [`Rule::Scanner`].
    fn start(programs: &Arc<Programs>) -> Result<Option<Self>, Refusal> {
        let Some(program) = &programs.gitleaks else { return Ok(None) };
        let call = Call::program(programs, program, &programs.home).ro(&programs.home).args([
            "stdin",
            "--no-banner",
            "--no-color",
            "--log-level=error",
            "--ignore-gitleaks-allow",
            "--max-decode-depth=5",
            "--exit-code=0",
            "--report-format=json",
            "--report-path=-",
        ]);
        let running = call.start().map_err(|e| failed(&e))?;
        let Running { mut child, stdin, mut stdout, complaint } = running;
        let report = tokio::spawn(async move {
            let mut all = Vec::new();
            let _ = (&mut stdout).take(REPORT as u64).read_to_end(&mut all).await; // cut short, it is no JSON
            all
        });
        let stdin = stdin.ok_or_else(|| failed(&"no stdin"))?;
        let running = Box::new(move || -> EndOf {
            Box::pin(async move {
                let status = child.wait().await?;
                Ok(crate::git_gate::exec::Ended {
                    status,
                    output: Vec::new(),
                    complaint: complaint.await.unwrap_or_default(),
                })
            })
        });
        Ok(Some(Self { stdin, report, running, starts: Vec::new(), lines: 1 }))
    }

    /// Begins an object; they are numbered from 0.
    pub fn begin(&mut self) {
        self.starts.push(self.lines);
    }

    /// The object's next bytes.
    ///
    /// # Errors
    /// [`Rule::Scanner`].
    pub async fn feed(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.lines += bytes.iter().filter(|b| **b == b'\n').count() as u64;
        self.stdin.write_all(bytes).await.map_err(|e| failed(&e))
    }

    /// Ends the object. The empty line is where gitleaks likes to cut its input.
    ///
    /// # Errors
    /// [`Rule::Scanner`].
    pub async fn end(&mut self) -> Result<(), Refusal> {
        self.feed(b"\n\n").await
    }

    /// All finds.
    ///
    /// # Errors
    /// [`Rule::Scanner`]: then nothing is known.
    pub async fn finish(self) -> Result<Vec<Leak>, Refusal> {
        let Self { mut stdin, report, running, starts, .. } = self;
        stdin.shutdown().await.map_err(|e| failed(&e))?;
        drop(stdin);
        let end = async {
            let report = Zeroizing::new(report.await.unwrap_or_default());
            let ended = running().await?;
            Ok::<_, io::Error>((report, ended))
        };
        let (report, ended) = tokio::time::timeout(END, end)
            .await
            .map_err(|e| failed(&e))?
            .map_err(|e| failed(&e))?;
        if !ended.status.success() {
            return Err(failed(&ended.reason()));
        }
        let entries: Vec<Entry> = serde_json::from_slice(&report)
            .map_err(|e| failed(&format!("its report, column {}", e.column())))?;
        let place = |entry: Entry| {
            let object = starts.partition_point(|start| *start <= entry.line).checked_sub(1)?;
            let line = entry.line - starts[object] + 1;
            Some(Leak { rule: entry.rule, object, line, secret: Zeroizing::new(entry.secret) })
        };
        Ok(entries.into_iter().filter_map(place).collect())
    }
}

fn failed(e: &dyn std::fmt::Display) -> Refusal {
    tracing::error!("gitleaks: {e}");
    Refusal::new(
        Rule::Scanner,
        "gitleaks did not do its work (see the gate's log on the host), so nothing is let through",
    )
}

/// What gitleaks' own configuration leaves out by its path: hashes that look random.
#[must_use]
pub fn is_lock_file(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    [
        "go.sum",
        "go.mod",
        "package-lock.json",
        "yarn.lock",
        "pnpm-lock.yaml",
        "Cargo.lock",
        "poetry.lock",
        "uv.lock",
        "Pipfile.lock",
    ]
    .contains(&name)
        || [
            "composer.lock",
            "Gemfile.lock",
            "npm-shrinkwrap.json",
            "deno.lock",
            "flake.lock",
            "gradle.lockfile",
        ]
        .contains(&name)
}

/// What is in a gzip or zip file, as far as it can be read: at most 32 MiB.
#[must_use]
pub fn unpacked(file: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    if file.starts_with(&[0x1f, 0x8b]) {
        let _ = flate2::read::MultiGzDecoder::new(file).take(UNPACKED).read_to_end(&mut out); // up to where it is broken
    } else if file.starts_with(b"PK\x03\x04") {
        let mut rest: VecDeque<&[u8]> = VecDeque::from([file]);
        while let Some(part) = rest.pop_front() {
            rest.extend(zip_member(part, &mut out));
        }
    }
    out
}

/// Appends one member of a zip file (APPNOTE 4.3.7), and gives what is behind it.
fn zip_member<'a>(file: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
    let short =
        |at: usize| file.get(at..at + 2).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]])));
    if !file.starts_with(b"PK\x03\x04") {
        return None;
    }
    let (method, name, extra) = (short(8)?, short(26)?, short(28)?);
    let sized = short(18)? | (short(20)? << 16);
    let data = file.get(30 + name + extra..)?;
    let room = UNPACKED.saturating_sub(out.len() as u64);
    out.push(b'\n');
    let used = match method {
        8 => {
            let mut decoder = flate2::bufread::DeflateDecoder::new(data);
            let _ = (&mut decoder).take(room).read_to_end(out);
            usize::try_from(decoder.total_in()).ok()?
        }
        _ => {
            out.extend_from_slice(&data[..sized.min(data.len()).min(usize::try_from(room).ok()?)]);
            sized
        }
    };
    let behind = data.get(used..)?;
    // A data descriptor may stand between; the next member is found by its signature.
    let next = behind.windows(4).take(64).position(|w| w == b"PK\x03\x04")?;
    (room > 0).then(|| &behind[next..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn compressed_files_are_read_as_far_as_they_go() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(b"planted").unwrap();
        let mut gzip = gzip.finish().unwrap();
        assert_eq!(unpacked(&gzip), b"planted");
        gzip.truncate(gzip.len() - 4);
        assert_eq!(unpacked(&gzip), b"planted");
        let mut deflate =
            flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        deflate.write_all(b"second").unwrap();
        let deflate = deflate.finish().unwrap();
        let member = |method: u8, name: &str, data: &[u8]| {
            let len = u32::try_from(data.len()).unwrap().to_le_bytes();
            let mut all = b"PK\x03\x04\x14\0\0\0".to_vec();
            all.extend([method, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            all.extend(len);
            all.extend(len);
            all.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
            all.extend([0, 0]);
            all.extend(name.as_bytes());
            all.extend(data);
            all
        };
        let zip =
            [member(0, "a", b"first"), member(8, "b", &deflate), member(0, "c", b"third")].concat();
        assert_eq!(unpacked(&zip), b"\nfirst\nsecond\nthird");
        for bad in [
            &b"PK\x03\x04"[..],
            b"\x1f\x8b",
            b"PK\x03\x04aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        ] {
            let _ = unpacked(bad);
        }
    }
}
