//! gitleaks, run once over everything that is new in a push, through its standard input.
//!
//! `gitleaks git` scans what `git log -p` shows: no merges, no messages, no file with a NUL byte,
//! and nothing that an inline comment excuses. Here it gets all new objects one after the other, and
//! so scans all of these; git-gate maps the lines of its report back to objects, and gitleaks runs
//! no git. The price is that its rules do not know paths: see
//! [`is_lock_file`](super::tree_paths::is_lock_file) and `pkcs12` in [`super::push_scan`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::ChildStdin;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use crate::git_gate::exec::{ConfinedCommand, Process, RunningCommand};
use crate::git_gate::programs::Programs;
use crate::git_gate::refusal::{Refusal, Rule};

/// Largest report, in bytes.
const MAX_REPORT_BYTES: usize = 32 << 20;
/// How long a prestarted run waits for a push.
const PRESTART_TIME: Duration = Duration::from_secs(30);
/// Time to finish after the end of the input.
const FINISH_TIME: Duration = Duration::from_secs(300);

/// A finding of gitleaks.
pub struct GitleaksFinding {
    /// Id of its rule.
    pub rule: String,
    /// Number of the object, in the order of [`GitleaksRun::begin`], from 0.
    pub object: usize,
    /// Line in the object, from 1.
    pub line: u64,
    /// The text that was found.
    pub secret: Zeroizing<String>,
}

/// A running gitleaks.
pub struct GitleaksRun {
    stdin: ChildStdin,
    report: JoinHandle<Vec<u8>>,
    process: Process,
    /// The first line of each object in the input.
    starts: Vec<u64>,
    line: u64,
}

/// A finding in the report.
#[derive(Deserialize)]
struct ReportEntry {
    #[serde(rename = "RuleID")]
    rule: String,
    #[serde(rename = "StartLine")]
    line: u64,
    #[serde(rename = "Secret")]
    secret: String,
}

/// A run that is started before its push. gitleaks takes a quarter of a second to get ready: if it
/// is started when a client asks for the refs, it is ready when the pack arrives.
#[derive(Default)]
pub struct PrestartedGitleaks(Mutex<Prestarted>);

#[derive(Default)]
struct Prestarted {
    /// Counts the runs, so that a timer does not stop a later one.
    number: u64,
    run: Option<GitleaksRun>,
}

impl PrestartedGitleaks {
    /// Starts a run, unless one is waiting. It is stopped if no push takes it.
    pub fn start(self: &Arc<Self>, programs: &Arc<Programs>) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.run.is_some() {
            return;
        }
        // If it cannot be started, the push reports that.
        let Ok(run @ Some(_)) = GitleaksRun::start(programs) else { return };
        *waiting = Prestarted { number: waiting.number + 1, run };
        let (number, this) = (waiting.number, self.clone());
        tokio::spawn(async move {
            sleep(PRESTART_TIME).await;
            let mut waiting = this.0.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.number == number {
                waiting.run = None;
            }
        });
    }

    /// Takes the waiting run, or starts a new one; `None` without gitleaks.
    ///
    /// # Errors
    /// [`Rule::Scanner`].
    pub fn take(&self, programs: &Arc<Programs>) -> Result<Option<GitleaksRun>, Refusal> {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner).run.take();
        waiting.map_or_else(|| GitleaksRun::start(programs), |run| Ok(Some(run)))
    }
}

impl GitleaksRun {
    /// Starts it in an empty directory; `None` without gitleaks.
    fn start(programs: &Arc<Programs>) -> Result<Option<Self>, Refusal> {
        let Some(program) = &programs.gitleaks else { return Ok(None) };
        let home = &programs.home;
        let command = ConfinedCommand::program(programs, program, home).ro(home).args([
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
        let RunningCommand { stdin, mut stdout, process } =
            command.start().map_err(|e| failed(&e))?;
        let stdin = stdin.ok_or_else(|| failed(&"no stdin"))?;
        let report = tokio::spawn(async move {
            let mut all = Vec::new();
            // A report that is cut short is not valid JSON.
            let _ = (&mut stdout).take(MAX_REPORT_BYTES as u64).read_to_end(&mut all).await;
            all
        });
        Ok(Some(Self { stdin, report, process, starts: Vec::new(), line: 1 }))
    }

    /// Starts the next object.
    pub fn begin(&mut self) {
        self.starts.push(self.line);
    }

    /// The next bytes of the object.
    ///
    /// # Errors
    /// [`Rule::Scanner`].
    pub async fn feed(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.line += bytes.iter().filter(|b| **b == b'\n').count() as u64;
        self.stdin.write_all(bytes).await.map_err(|e| failed(&e))
    }

    /// Ends the object with an empty line, where gitleaks prefers to split its input.
    ///
    /// # Errors
    /// [`Rule::Scanner`].
    pub async fn end(&mut self) -> Result<(), Refusal> {
        self.feed(b"\n\n").await
    }

    /// Ends the input and returns all findings.
    ///
    /// # Errors
    /// [`Rule::Scanner`]: it failed, so the findings are not known.
    pub async fn finish(self) -> Result<Vec<GitleaksFinding>, Refusal> {
        let Self { mut stdin, report, process, starts, .. } = self;
        stdin.shutdown().await.map_err(|e| failed(&e))?;
        drop(stdin);
        let end = async {
            let report = Zeroizing::new(report.await.unwrap_or_default());
            process.wait().await.map(|output| (report, output))
        };
        let (report, output) =
            timeout(FINISH_TIME, end).await.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?;
        if !output.status.success() {
            return Err(failed(&output.reason()));
        }
        let entries: Vec<ReportEntry> = serde_json::from_slice(&report)
            .map_err(|e| failed(&format!("its report, column {}", e.column())))?;
        let locate = |entry: ReportEntry| {
            let object = starts.partition_point(|start| *start <= entry.line).checked_sub(1)?;
            let line = entry.line - starts[object] + 1;
            let secret = Zeroizing::new(entry.secret);
            Some(GitleaksFinding { rule: entry.rule, object, line, secret })
        };
        Ok(entries.into_iter().filter_map(locate).collect())
    }
}

fn failed(e: &dyn std::fmt::Display) -> Refusal {
    tracing::error!("gitleaks: {e}");
    Refusal::new(
        Rule::Scanner,
        "gitleaks failed (see git-gate's log on the host), so nothing is let through",
    )
}
