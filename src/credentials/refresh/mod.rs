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
use crate::live_policy::NewestReload;
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
    /// Answers the daemon behind `pipe`, and passes its reloads on to `reloads`. `tell` gets lines
    /// for the operator, without token values.
    pub(crate) fn start(
        pipe: ControlPipe,
        reloads: NewestReload,
        (plan, values): (&LaunchPlan, &BTreeMap<TokenName, Secret>),
        bundle: &Path,
        tell: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        let hints = plan
            .tokens
            .keys()
            .map(|name| (name.clone(), hint_for_rejected_token(plan, name)))
            .collect();
        Self::paced(pipe, reloads, (&plan.tokens, values), hints, bundle, MIN_RETRY_INTERVAL, tell)
    }

    fn paced(
        pipe: ControlPipe,
        reloads: NewestReload,
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
            tokio::join!(listen(pipe.reports, stale, reloads), work.run(reports, tell));
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
async fn listen(mut reports: ReportReader, stale: mpsc::Sender<TokenName>, reloads: NewestReload) {
    while let Some(line) = reports.next().await {
        match serde_json::from_slice(&line) {
            Ok(EgressReport::Stale { token }) => drop(stale.send(token).await),
            Ok(EgressReport::Reload(report)) => drop(reloads.send_replace(Some(report))),
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
mod tests;
