//! Values of tokens, each of which can be replaced while requests use it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bottle_policy::{EgressCommand, EgressReport, Secret, TokenName};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// Longest wait for a new value. The orchestrator's command may take 30 s, but a request must not
/// hang that long.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// All tokens of a bottle.
pub struct Tokens {
    all: BTreeMap<TokenName, Arc<Token>>,
}

/// One token.
pub struct Token {
    name: TokenName,
    value: watch::Sender<Value>,
    /// Reports to the orchestrator that an upstream rejected the value.
    reports: mpsc::UnboundedSender<EgressReport>,
    /// Whether the orchestrator can renew the value.
    refreshable: bool,
    /// The number of answers when the last report was sent.
    reported_at: Mutex<Option<u64>>,
}

/// A token's value, and how often the orchestrator has answered a report about it.
#[derive(Clone)]
struct Value {
    secret: Secret,
    /// Grows with each new value.
    version: u64,
    /// Grows with each answer, new value or not.
    answers: u64,
}

impl Tokens {
    /// Holds `values`. Through `reports` the orchestrator learns that one was rejected; for those in
    /// `refreshable` it answers with a new value.
    #[must_use]
    pub fn new(
        values: BTreeMap<TokenName, Secret>,
        refreshable: &BTreeSet<TokenName>,
        reports: &mpsc::UnboundedSender<EgressReport>,
    ) -> Self {
        let token = |(name, secret): (TokenName, Secret)| {
            let (reports, refreshable) = (reports.clone(), refreshable.contains(&name));
            let value = watch::Sender::new(Value { secret, version: 0, answers: 0 });
            (
                name.clone(),
                Arc::new(Token {
                    name,
                    value,
                    reports,
                    refreshable,
                    reported_at: Mutex::new(None),
                }),
            )
        };
        Self { all: values.into_iter().map(token).collect() }
    }

    /// The token of this name.
    #[must_use]
    pub fn get(&self, name: &TokenName) -> Option<Arc<Token>> {
        self.all.get(name).cloned()
    }

    /// Every token's current value.
    #[must_use]
    pub fn secrets(&self) -> Vec<(TokenName, Secret)> {
        self.all.values().map(|t| (t.name.clone(), t.value.borrow().secret.clone())).collect()
    }

    /// Carries out a command of the orchestrator. Returns true if a value changed.
    pub fn apply(&self, command: EgressCommand) -> bool {
        let EgressCommand::Token { name, value } = command;
        let Some(token) = self.all.get(&name) else { return false };
        let mut changed = false;
        token.value.send_modify(|v| {
            v.answers += 1;
            if let Some(new) = value.filter(|new| *new != v.secret) {
                (v.secret, v.version) = (new, v.version + 1);
                changed = true;
            }
        });
        changed
    }
}

impl Token {
    /// The value and its version.
    #[must_use]
    pub fn value(&self) -> (u64, Secret) {
        let v = self.value.borrow();
        (v.version, v.secret.clone())
    }

    /// The value's version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.value.borrow().version
    }

    /// Whether [`Token::wait_for_newer`] can return true.
    #[must_use]
    pub fn is_refreshable(&self) -> bool {
        self.refreshable
    }

    /// Reports that an upstream rejected `version`, and waits for a newer one, at most
    /// [`MAX_WAIT`]. Requests that wait at the same time share one report. Returns whether there is a
    /// newer version.
    pub async fn wait_for_newer(&self, version: u64) -> bool {
        let mut value = self.value.subscribe();
        let answers = {
            let now = value.borrow_and_update();
            if now.version > version {
                return true;
            }
            now.answers
        };
        {
            let mut reported = self.reported_at.lock().unwrap_or_else(PoisonError::into_inner);
            if *reported != Some(answers) {
                *reported = Some(answers);
                // If nobody listens, the wait ends without an answer.
                let _ = self.reports.send(EgressReport::Stale { token: self.name.clone() });
            }
        }
        if !self.refreshable {
            return false;
        }
        let answered = timeout(MAX_WAIT, value.wait_for(|v| v.answers > answers)).await;
        matches!(answered, Ok(Ok(v)) if v.version > version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> (Tokens, mpsc::UnboundedReceiver<EgressReport>) {
        let (reports, received) = mpsc::unbounded_channel();
        let name: TokenName = "T".parse().unwrap();
        let values = BTreeMap::from([(name.clone(), Secret::new("one".into()))]);
        (Tokens::new(values, &BTreeSet::from([name]), &reports), received)
    }

    #[tokio::test]
    async fn requests_that_wait_together_share_a_report_and_its_answer() {
        let (tokens, mut reports) = tokens();
        let token = tokens.get(&"T".parse().unwrap()).unwrap();
        let wait = |_| {
            let token = token.clone();
            tokio::spawn(async move { token.wait_for_newer(0).await })
        };
        let waiting: Vec<_> = (0..10).map(wait).collect();
        assert!(reports.recv().await.is_some());
        assert!(tokens.apply(EgressCommand::Token {
            name: "T".parse().unwrap(),
            value: Some(Secret::new("two".into()))
        }));
        for w in waiting {
            assert!(w.await.unwrap());
        }
        assert_eq!(token.value().1.expose(), "two");
        assert!(reports.try_recv().is_err());
        assert!(token.wait_for_newer(0).await, "already newer");
    }

    #[tokio::test]
    async fn a_token_that_cannot_change_is_reported_and_not_waited_for() {
        let (sender, mut reports) = mpsc::unbounded_channel();
        let name: TokenName = "T".parse().unwrap();
        let tokens = Tokens::new(
            BTreeMap::from([(name.clone(), Secret::new("one".into()))]),
            &BTreeSet::new(),
            &sender,
        );
        let token = tokens.get(&name).unwrap();
        assert!(!token.wait_for_newer(0).await && !token.wait_for_newer(0).await);
        assert!(
            matches!(reports.try_recv(), Ok(EgressReport::Stale { token }) if token == name)
                && reports.try_recv().is_err()
        );
    }

    #[tokio::test]
    async fn an_answer_without_a_value_ends_the_wait_and_allows_another_report() {
        let (tokens, mut reports) = tokens();
        let token = tokens.get(&"T".parse().unwrap()).unwrap();
        for _ in 0..2 {
            let waiting = tokio::spawn({
                let token = token.clone();
                async move { token.wait_for_newer(0).await }
            });
            assert!(reports.recv().await.is_some());
            tokens.apply(EgressCommand::Token { name: "T".parse().unwrap(), value: None });
            assert!(!waiting.await.unwrap());
        }
    }
}
