//! Values of tokens, each of which can be replaced while requests use it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bottle_policy::{EgressCommand, EgressReport, Secret, TokenName};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// Longest wait for a new value; the orchestrator's command may take 30 s, a request must not hang
/// that long.
const WAIT: Duration = Duration::from_secs(10);

/// All tokens of a bottle.
pub struct Tokens {
    all: BTreeMap<TokenName, Arc<Token>>,
}

/// One token.
pub struct Token {
    name: TokenName,
    value: watch::Sender<Value>,
    /// Where to say that the value was turned down.
    ask: mpsc::UnboundedSender<EgressReport>,
    /// Whether a new value may come of that.
    refreshable: bool,
    /// The answer that was outstanding when the value was last asked for.
    asked: Mutex<Option<u64>>,
}

/// A token's value and how often it was answered for.
#[derive(Clone)]
struct Value {
    secret: Secret,
    /// Grows with each new value.
    version: u64,
    /// Grows with each answer, new value or not.
    answers: u64,
}

impl Tokens {
    /// Holds `values`; says through `ask` that one was turned down, and waits for a new one of
    /// those in `refreshable`.
    #[must_use]
    pub fn new(
        values: BTreeMap<TokenName, Secret>,
        refreshable: &BTreeSet<TokenName>,
        ask: &mpsc::UnboundedSender<EgressReport>,
    ) -> Self {
        let token = |(name, secret): (TokenName, Secret)| {
            let (ask, refreshable) = (ask.clone(), refreshable.contains(&name));
            let value = watch::Sender::new(Value { secret, version: 0, answers: 0 });
            (
                name.clone(),
                Arc::new(Token { name, value, ask, refreshable, asked: Mutex::new(None) }),
            )
        };
        Self { all: values.into_iter().map(token).collect() }
    }

    /// The token of this name.
    #[must_use]
    pub fn get(&self, name: &TokenName) -> Option<Arc<Token>> {
        self.all.get(name).cloned()
    }

    /// Every token's present value.
    #[must_use]
    pub fn secrets(&self) -> Vec<(TokenName, Secret)> {
        self.all.values().map(|t| (t.name.clone(), t.value.borrow().secret.clone())).collect()
    }

    /// Takes what the orchestrator said. True when a value changed.
    pub fn told(&self, command: EgressCommand) -> bool {
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

    /// Whether [`Token::newer`] can be true.
    #[must_use]
    pub fn is_refreshable(&self) -> bool {
        self.refreshable
    }

    /// Says that an upstream turned down `version`, and waits, not for long, for a newer one; says
    /// so once for all who wait.
    pub async fn newer(&self, version: u64) -> bool {
        let mut value = self.value.subscribe();
        let answers = {
            let now = value.borrow_and_update();
            if now.version > version {
                return true;
            }
            now.answers
        };
        {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            if *asked != Some(answers) {
                *asked = Some(answers);
                let _ = self.ask.send(EgressReport::Stale { token: self.name.clone() }); // nobody there: the wait ends
            }
        }
        if !self.refreshable {
            return false;
        }
        let answered = timeout(WAIT, value.wait_for(|v| v.answers > answers)).await;
        matches!(answered, Ok(Ok(v)) if v.version > version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> (Tokens, mpsc::UnboundedReceiver<EgressReport>) {
        let (ask, asks) = mpsc::unbounded_channel();
        let name: TokenName = "T".parse().unwrap();
        let values = BTreeMap::from([(name.clone(), Secret::new("one".into()))]);
        (Tokens::new(values, &BTreeSet::from([name]), &ask), asks)
    }

    #[tokio::test]
    async fn who_waits_together_asks_once_and_gets_the_new_value() {
        let (tokens, mut asks) = tokens();
        let token = tokens.get(&"T".parse().unwrap()).unwrap();
        let wait = |_| {
            let token = token.clone();
            tokio::spawn(async move { token.newer(0).await })
        };
        let waiting: Vec<_> = (0..10).map(wait).collect();
        assert!(asks.recv().await.is_some());
        assert!(tokens.told(EgressCommand::Token {
            name: "T".parse().unwrap(),
            value: Some(Secret::new("two".into()))
        }));
        for w in waiting {
            assert!(w.await.unwrap());
        }
        assert_eq!(token.value().1.expose(), "two");
        assert!(asks.try_recv().is_err());
        assert!(token.newer(0).await, "already newer");
    }

    #[tokio::test]
    async fn of_one_that_cannot_change_it_is_said_and_nobody_waits() {
        let (ask, mut asks) = mpsc::unbounded_channel();
        let name: TokenName = "T".parse().unwrap();
        let tokens = Tokens::new(
            BTreeMap::from([(name.clone(), Secret::new("one".into()))]),
            &BTreeSet::new(),
            &ask,
        );
        let token = tokens.get(&name).unwrap();
        assert!(!token.newer(0).await && !token.newer(0).await);
        assert!(
            matches!(asks.try_recv(), Ok(EgressReport::Stale { token }) if token == name)
                && asks.try_recv().is_err()
        );
    }

    #[tokio::test]
    async fn no_new_value_is_an_answer_too_and_it_can_be_asked_again() {
        let (tokens, mut asks) = tokens();
        let token = tokens.get(&"T".parse().unwrap()).unwrap();
        for _ in 0..2 {
            let waiting = tokio::spawn({
                let token = token.clone();
                async move { token.newer(0).await }
            });
            assert!(asks.recv().await.is_some());
            tokens.told(EgressCommand::Token { name: "T".parse().unwrap(), value: None });
            assert!(!waiting.await.unwrap());
        }
    }
}
