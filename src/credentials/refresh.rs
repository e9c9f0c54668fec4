//! New values for tokens while a bottle runs: when one is old, and when an upstream rejects it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bottle_policy::{EgressCommand, EgressReport, Secret, TokenName};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::check::hint_for_rejected_token;
use super::digest::{Digest, digest};
use super::tokens::{self, RefreshContext};
use crate::error::{Error, Result};
use crate::host::process::{CommandWriter, ControlPipe, ReportReader};
use crate::manifest::{Interval, TokenSource, neutral};
use crate::plan::LaunchPlan;

/// Least time between two attempts to get the same token.
const MIN_RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// Most reports that wait for an answer. A token has one at a time.
const MAX_WAITING_REPORTS: usize = 64;

/// The tokens of `plan` that can get a new value while the bottle runs.
pub(crate) fn refreshable(plan: &LaunchPlan) -> BTreeSet<TokenName> {
    plan.tokens
        .iter()
        .filter(|(_, source)| source.refreshable())
        .map(|(name, _)| name.clone())
        .collect()
}

/// The conversation with the daemon that holds the tokens. Dropping it closes the daemon's standard
/// input, which ends it.
pub(crate) struct Refresher(JoinHandle<()>);

impl Drop for Refresher {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Refresher {
    /// Answers the daemon behind `pipe`. `tell` gets lines for the operator, without token values.
    pub(crate) fn start(
        pipe: ControlPipe,
        (plan, values): (&LaunchPlan, &BTreeMap<TokenName, Secret>),
        bundle: &Path,
        tell: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        let hints = plan
            .tokens
            .keys()
            .map(|name| (name.clone(), hint_for_rejected_token(plan, name)))
            .collect();
        Self::paced(pipe, (&plan.tokens, values), hints, bundle, MIN_RETRY_INTERVAL, tell)
    }

    fn paced(
        pipe: ControlPipe,
        (sources, values): (&BTreeMap<TokenName, TokenSource>, &BTreeMap<TokenName, Secret>),
        hints: BTreeMap<TokenName, String>,
        bundle: &Path,
        pace: Duration,
        tell: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        let now = Instant::now();
        let token = |name: &TokenName, source: &TokenSource| Token {
            source: source.clone(),
            value: values.get(name).map(|value| digest(value.expose())),
            tried: None,
            next: ttl(source).map(|ttl| now + ttl),
            busy: false,
            asked: false,
            lost: false,
        };
        let all = sources
            .iter()
            .filter(|(_, source)| source.refreshable())
            .map(|(name, source)| (name.clone(), token(name, source)))
            .collect();
        let (stale, reports) = mpsc::channel(MAX_WAITING_REPORTS);
        let work = RefreshTask {
            all,
            hints,
            pace,
            bundle: bundle.to_owned(),
            commands: pipe.commands,
            running: JoinSet::new(),
        };
        Self(tokio::spawn(async move {
            // Both live in this task, so that ending it ends both.
            tokio::join!(listen(pipe.reports, stale), work.run(reports, tell));
        }))
    }
}

/// A token that can be resolved again.
struct Token {
    source: TokenSource,
    /// Digest of the value that the daemon has.
    value: Option<Digest>,
    /// When it was last resolved since the launch.
    tried: Option<Instant>,
    /// When its value is too old.
    next: Option<Instant>,
    /// Whether it is being resolved.
    busy: bool,
    /// Whether an upstream rejected it, and the daemon waits.
    asked: bool,
    /// Whether the last attempt failed and the operator was told.
    lost: bool,
}

struct RefreshTask {
    all: BTreeMap<TokenName, Token>,
    /// Lines for the operator about rejected tokens that have no other value; each is printed once.
    hints: BTreeMap<TokenName, String>,
    pace: Duration,
    bundle: PathBuf,
    commands: CommandWriter,
    running: JoinSet<(TokenName, Result<Secret>)>,
}

fn ttl(source: &TokenSource) -> Option<Duration> {
    source.refresh().map(Interval::duration)
}

/// Reads the daemon's reports until it ends.
async fn listen(mut reports: ReportReader, stale: mpsc::Sender<TokenName>) {
    while let Some(line) = reports.next().await {
        match serde_json::from_slice(&line) {
            Ok(EgressReport::Stale { token }) => drop(stale.send(token).await),
            // A newer daemon may send other reports.
            Err(e) => tracing::debug!("a report that is none: {e}"),
        }
    }
}

impl RefreshTask {
    async fn run(mut self, mut reports: mpsc::Receiver<TokenName>, tell: impl Fn(&str)) {
        let mut listening = true;
        loop {
            let due = self.all.values().filter(|t| !t.busy).filter_map(|t| t.next).min();
            let told = tokio::select! {
                report = reports.recv(), if listening => match report {
                    Some(name) => self.stale(&name, &tell).await,
                    None => {
                        listening = false;
                        Ok(())
                    }
                },
                () = sleep_until(due) => {
                    self.begin_what_is_due();
                    Ok(())
                }
                Some(done) = self.running.join_next() => match done {
                    Ok((name, value)) => self.answer(name, value, &tell).await,
                    Err(e) => {
                        tracing::debug!("a refresh was lost: {e}");
                        Ok(())
                    }
                },
            };
            if let Err(e) = told {
                // The launch notices the daemon's end. Until then this keeps the pipe open, as the
                // daemon ends with its standard input.
                tracing::debug!("{e:#}");
                return std::future::pending().await;
            }
        }
    }

    /// Answers the daemon, which waits for a new value or to hear that there is none.
    async fn stale(&mut self, name: &TokenName, tell: &impl Fn(&str)) -> Result<()> {
        let now = Instant::now();
        let pace = self.pace;
        match self.all.get(name) {
            Some(token) if token.busy => Ok(()), // its answer is under way
            Some(token) if token.tried.is_none_or(|tried| now >= tried + pace) => {
                self.begin(name.clone(), true);
                Ok(())
            }
            _ => {
                self.hint(name, tell);
                self.commands.send(&EgressCommand::Token { name: name.clone(), value: None }).await
            }
        }
    }

    fn hint(&mut self, name: &TokenName, tell: &impl Fn(&str)) {
        if let Some(hint) = self.hints.remove(name) {
            tell(&hint);
        }
    }

    fn begin_what_is_due(&mut self) {
        let now = Instant::now();
        let due =
            self.all.iter().filter(|(_, t)| !t.busy && t.next.is_some_and(|next| next <= now));
        let due: Vec<TokenName> = due.map(|(name, _)| name.clone()).collect();
        due.into_iter().for_each(|name| self.begin(name, false));
    }

    fn begin(&mut self, name: TokenName, rejected: bool) {
        let Some(token) = self.all.get_mut(&name) else { return };
        (token.busy, token.asked) = (true, rejected);
        let (source, old, bundle) =
            (token.source.clone(), token.value.filter(|_| rejected), self.bundle.clone());
        self.running.spawn(async move {
            let how = RefreshContext { bundle: &bundle, rejected: old.as_ref() };
            // The agent may have the terminal now, so the command must not write to it.
            let value = tokens::value(&name, &source, how, crate::host::process::Sink::Null).await;
            (name, value)
        });
    }

    async fn answer(
        &mut self,
        name: TokenName,
        value: Result<Secret>,
        tell: &impl Fn(&str),
    ) -> Result<()> {
        let now = Instant::now();
        if let Some(token) = self.all.get_mut(&name) {
            token.busy = false;
            token.tried = Some(now);
            token.next = ttl(&token.source).map(|ttl| now + ttl.max(self.pace));
            match &value {
                Err(e) if !token.lost => tell(&failed(e)),
                Ok(_) if token.lost => tell(&format!("bottle: token {name} has a new value")),
                _ => {}
            }
            token.lost = value.is_err();
            let same = value
                .as_ref()
                .is_ok_and(|value| token.asked && token.value == Some(digest(value.expose())));
            token.value = value.as_ref().ok().map(|value| digest(value.expose())).or(token.value);
            if same {
                self.hint(&name, tell);
            }
        }
        self.commands.send(&EgressCommand::Token { name, value: value.ok() }).await
    }
}

/// One line for the operator, safe for a terminal.
fn failed(e: &Error) -> String {
    format!("bottle: {}; the old value stays in use", neutral(&e.chain()))
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::host::process::{Daemon, Program};
    use crate::state::Journal;

    const DEADLINE: Duration = Duration::from_secs(20);
    const STALE: &str = r#"{"stale":{"token":"T"}}"#;

    /// A daemon that writes down what it is told, and reports each line that is appended to the
    /// file `ask`.
    async fn daemon(dir: &Path) -> Daemon {
        let dir = crate::host::fs::utf8("dir", dir).unwrap();
        let script = r#"
            cd "$0"; read -r first; echo ready
            tail -n +1 -f ask & reports=$!
            while IFS= read -r line; do echo "$line" >> told; done
            echo closed >> told; kill $reports"#;
        std::fs::write(dir.join("ask"), "").unwrap();
        let mut journal = Journal::begin(dir.join("journal")).unwrap();
        let program = Program::new("fake", "/bin/sh").args(["-c", script]).arg(&dir);
        let mut daemon = program.spawn(&dir.join("fake.log"), &mut journal).unwrap();
        assert!(daemon.take_control_pipe().is_none(), "a daemon without secrets is not talked to");
        daemon.hand_over(&"secrets").await.unwrap();
        assert_eq!(daemon.ready_line(DEADLINE).await.unwrap(), "ready");
        daemon
    }

    fn ask(dir: &Path, line: &str) {
        writeln!(std::fs::OpenOptions::new().append(true).open(dir.join("ask")).unwrap(), "{line}")
            .unwrap();
    }

    fn told(dir: &Path) -> Vec<String> {
        std::fs::read_to_string(dir.join("told"))
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    fn value(name: &str, value: Option<&str>) -> String {
        format!(
            r#"{{"token":{{"name":"{name}","value":{}}}}}"#,
            value.map_or("null".into(), |v| format!("\"{v}\""))
        )
    }

    async fn told_lines(dir: &Path, n: usize) -> Vec<String> {
        let deadline = Instant::now() + DEADLINE;
        while told(dir).len() < n {
            assert!(Instant::now() < deadline, "{:?}", told(dir));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        told(dir)
    }

    /// Prints `planted-1`, `planted-2`, …, on standard error too; fails while there is a file
    /// `broken`.
    fn counting(dir: &Path, refresh: Option<u64>) -> TokenSource {
        let script = "cd \"$0\"; echo x >> runs; n=$(wc -l < runs); echo planted-$n >&2; [ ! -e broken ] || exit 3; echo planted-$n";
        let argv = ["sh", "-c", script, &dir.to_string_lossy()].map(str::to_owned).to_vec();
        TokenSource::Command { argv, refresh: refresh.map(Interval::seconds) }
    }

    fn runs(dir: &Path) -> usize {
        std::fs::read_to_string(dir.join("runs")).unwrap_or_default().lines().count()
    }

    type Said = Arc<Mutex<Vec<String>>>;

    fn start(daemon: &mut Daemon, source: TokenSource, pace: Duration) -> (Refresher, Said) {
        let said = Said::default();
        let sources = BTreeMap::from([
            ("T".parse().unwrap(), source),
            ("FIXED".parse().unwrap(), TokenSource::Generated),
        ]);
        let into = Arc::clone(&said);
        let tell = move |line: &str| into.lock().unwrap().push(line.to_owned());
        (
            Refresher::paced(
                daemon.take_control_pipe().unwrap(),
                (&sources, &BTreeMap::new()),
                BTreeMap::from([("FIXED".parse().unwrap(), "a hint".to_owned())]),
                Path::new("/none"),
                pace,
                tell,
            ),
            said,
        )
    }

    #[tokio::test]
    async fn a_stale_token_gets_a_new_value_but_not_too_often() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let mut daemon = daemon(dir).await;
        let (_refresher, said) =
            start(&mut daemon, counting(dir, None), Duration::from_millis(1500));
        ask(dir, STALE);
        assert_eq!(told_lines(dir, 1).await, [value("T", Some("planted-1"))]);
        // Too soon, of an unknown token, of one that cannot change: an answer at once, and no run.
        for name in ["T", "OTHER", "FIXED"] {
            ask(dir, &STALE.replace("\"T\"", &format!("\"{name}\"")));
        }
        assert_eq!(
            told_lines(dir, 4).await[1..],
            [value("T", None), value("OTHER", None), value("FIXED", None)]
        );
        assert_eq!(runs(dir), 1);
        tokio::time::sleep(Duration::from_millis(1600)).await;
        ask(dir, STALE);
        assert_eq!(told_lines(dir, 5).await[4], value("T", Some("planted-2")));
        assert_eq!(*said.lock().unwrap(), ["a hint"]);
        ask(dir, &STALE.replace("\"T\"", "\"FIXED\""));
        told_lines(dir, 6).await;
        assert_eq!(said.lock().unwrap().len(), 1, "once is enough");
    }

    #[tokio::test]
    async fn a_token_is_renewed_when_it_is_old_and_the_lifeline_closes_with_the_launch() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let mut daemon = daemon(dir).await;
        let begun = Instant::now();
        let (refresher, _) = start(&mut daemon, counting(dir, Some(1)), Duration::from_millis(10));
        let lines = told_lines(dir, 2).await;
        assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
        assert_eq!(lines[..2], [value("T", Some("planted-1")), value("T", Some("planted-2"))]);
        drop(refresher);
        let deadline = Instant::now() + DEADLINE;
        while told(dir).last().map(String::as_str) != Some("closed") {
            assert!(Instant::now() < deadline, "{:?}", told(dir));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_file_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let path = dir.join("token");
        std::fs::write(&path, "fresh\n").unwrap();
        let mut daemon = daemon(dir).await;
        let (_refresher, _) = start(
            &mut daemon,
            TokenSource::File { path, refresh: None },
            Duration::from_millis(10),
        );
        ask(dir, STALE);
        assert_eq!(told_lines(dir, 1).await, [value("T", Some("fresh"))]);
    }

    #[tokio::test]
    async fn a_failure_is_said_once_and_without_the_value() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        std::fs::write(dir.join("broken"), "").unwrap();
        let mut daemon = daemon(dir).await;
        let (_refresher, said) = start(&mut daemon, counting(dir, None), Duration::from_millis(1));
        for n in 1..=2 {
            ask(dir, STALE);
            assert_eq!(told_lines(dir, n).await[n - 1], value("T", None));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        std::fs::remove_file(dir.join("broken")).unwrap();
        ask(dir, STALE);
        assert_eq!(told_lines(dir, 3).await[2], value("T", Some("planted-3")));
        let said = said.lock().unwrap().join("\n");
        assert_eq!(
            said,
            "bottle: token T cannot be resolved: sh failed (exit status: 3); the old value stays in use\nbottle: token T has a new value"
        );
        // Neither what the operator reads, nor what is logged, nor any Debug output holds what the
        // command printed.
        let logged = std::fs::read_to_string(dir.join("fake.log")).unwrap();
        let command = EgressCommand::Token {
            name: "T".parse().unwrap(),
            value: Some(Secret::new("planted-3".into())),
        };
        assert!(
            ![said, logged, format!("{command:?}")].iter().any(|text| text.contains("planted"))
        );
    }

    #[tokio::test]
    async fn what_is_no_report_is_passed_over_and_a_flood_ends_the_listening_only() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let mut daemon = daemon(dir).await;
        let (_refresher, _) = start(&mut daemon, counting(dir, Some(1)), Duration::from_millis(1));
        ask(dir, "nonsense");
        ask(dir, STALE);
        told_lines(dir, 1).await;
        ask(dir, &"x".repeat(10_000));
        let before = told(dir).len();
        assert!(
            told_lines(dir, before + 2).await.iter().all(|line| line.contains("planted")),
            "the clock still counts"
        );
    }
}
