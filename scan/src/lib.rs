//! Finds credentials in streams: provider formats, and the secrets that a bundle holds, in any
//! encoding.
//!
//! [`Scanner`] is compiled once a daemon; a [`Profile`] is what one route asks of it; a [`Stream`]
//! is one body. `docs/scanning.md` says what is found, what is held back, and what cannot be found.

use std::fmt;
use std::sync::Arc;

use bottle_policy::{Action, Scan, Secret, TokenName};

use crate::filter::{Filter, What};
use crate::matcher::{Ask, Matcher};
use crate::rules::Rule;
use crate::secret::Forms;

mod coding;
mod filter;
mod matcher;
mod rules;
mod secret;
mod stream;

pub use stream::Stream;

/// Rules and secrets, compiled.
pub struct Scanner {
    rules: Vec<Rule>,
    forms: Forms,
    /// For the secrets alone, for requests, and for responses.
    filters: [Filter; 3],
    /// Ids of what is no rule: the bundle's own secrets, a broken coding, and one that grows too
    /// much.
    own: Arc<str>,
    coding: Arc<str>,
    bomb: Arc<str>,
}

impl fmt::Debug for Scanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scanner")
            .field("rules", &self.rules.len())
            .field("secrets", &self.forms.names)
            .finish_non_exhaustive()
    }
}

/// What one route looks for, and what a find does.
#[derive(Debug, Clone)]
pub struct Profile {
    scanner: Arc<Scanner>,
    /// By the rules' indices.
    actions: Arc<[Action]>,
    /// Whether any rule for requests, and for responses, does anything.
    any: [bool; 2],
}

/// Which way a body goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the guest: credentials.
    Request,
    /// To the guest: the bundle's own secrets, and, where the route asks, text that tries to
    /// instruct the agent.
    Response,
}

/// A find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Id of the rule; `bundle-secret` for one of the bundle's own, `coding` for a body that cannot
    /// be decoded, and `coding-bomb` for one that grows too much.
    pub rule: Arc<str>,
    /// What it does to its request.
    pub action: Action,
    /// Where it begins in the (decoded) text, bytes.
    pub offset: u64,
    /// The find with all but its first four bytes left out; nothing at all of a bundle's own
    /// secret.
    pub sample: String,
    /// Which of the bundle's own secrets it is.
    pub secret: Option<TokenName>,
}

/// A `scan` names a rule that there is none of.
#[derive(Debug, thiserror::Error)]
#[error("there is no scan rule {0:?}")]
pub struct UnknownRule(pub String);

/// A body coding that cannot be looked into.
#[derive(Debug, thiserror::Error)]
#[error("content-encoding {0:?} cannot be scanned")]
pub struct UnknownCoding(pub String);

impl Finding {
    fn of_coding(rule: &Arc<str>, offset: u64) -> Self {
        Self {
            rule: Arc::clone(rule),
            action: Action::Block,
            offset,
            sample: String::new(),
            secret: None,
        }
    }
}

impl Scanner {
    /// Compiles the embedded rules and `secrets`. A secret of less than eight bytes is not looked
    /// for: it would be found everywhere.
    ///
    /// # Panics
    /// Never: the rules are part of the crate, and its tests read them.
    #[must_use]
    pub fn new(secrets: &[(TokenName, Secret)]) -> Arc<Self> {
        let rules = rules::load();
        let forms = Forms::new(secrets);
        let filter = |direction: Option<Direction>| {
            let mut filter = Filter::new();
            for (index, form) in (0..).zip(&forms.all) {
                form.grams().into_iter().for_each(|gram| filter.add(gram, What::Form(index)));
            }
            for (index, rule) in
                (0..).zip(&rules).filter(|(_, rule)| direction == Some(rule.direction))
            {
                for (number, keyword) in (0..).zip(&rule.keywords) {
                    let what = What::Rule { rule: index, keyword: number };
                    rule.grams(keyword).into_iter().for_each(|gram| filter.add(gram, what));
                }
            }
            filter
        };
        let filters =
            [filter(None), filter(Some(Direction::Request)), filter(Some(Direction::Response))];
        Arc::new(Self {
            rules,
            forms,
            filters,
            own: "bundle-secret".into(),
            coding: "coding".into(),
            bomb: "coding-bomb".into(),
        })
    }

    /// What `scan` asks for.
    ///
    /// # Errors
    /// A rule that does not exist.
    pub fn profile(self: &Arc<Self>, scan: &Scan) -> Result<Profile, UnknownRule> {
        if let Some(unknown) =
            scan.rules.keys().find(|id| !self.rules.iter().any(|rule| *rule.id == ***id))
        {
            return Err(UnknownRule(unknown.clone()));
        }
        let action = |rule: &Rule| match scan.rules.get(&*rule.id) {
            _ if rule.direction == Direction::Response && !scan.responses => Action::Off,
            Some(action) => *action,
            None => scan.limit.map_or(rule.action, |limit| rule.action.min(limit)),
        };
        let actions: Arc<[Action]> = self.rules.iter().map(action).collect();
        let any = [Direction::Request, Direction::Response].map(|direction| {
            self.rules
                .iter()
                .zip(&*actions)
                .any(|(rule, action)| rule.direction == direction && *action != Action::Off)
        });
        Ok(Profile { scanner: Arc::clone(self), actions, any })
    }

    /// The ids of all rules, in the order of their file.
    pub fn rules(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|rule| &*rule.id)
    }
}

impl Profile {
    fn ask(&self, direction: Direction, redact: bool) -> Ask<'_> {
        let filter = match direction {
            Direction::Request if self.any[0] => 1,
            Direction::Response if self.any[1] => 2,
            _ => 0,
        };
        let Scanner { filters, .. } = &*self.scanner;
        Ask {
            scanner: &self.scanner,
            filter: &filters[filter],
            actions: &self.actions,
            direction,
            redact,
        }
    }

    /// Asks for the bundle's secrets alone, in what cannot be overwritten.
    fn ask_for_secrets(&self, direction: Direction) -> Ask<'_> {
        Ask { filter: &self.scanner.filters[0], ..self.ask(direction, false) }
    }

    /// Finds in a whole text, such as a header's value or a request target. Nothing is redacted
    /// here, so what would be is blocked. What is percent-encoded, or the value of a Basic header,
    /// is looked at decoded as well; offsets are then of the decoded text.
    #[must_use]
    pub fn text(&self, direction: Direction, text: &[u8]) -> Vec<Finding> {
        let ask = self.ask(direction, false);
        let whole = |text: &[u8]| -> Vec<Finding> {
            let outcome = Matcher::default().scan(&ask, text, true);
            if outcome.is_empty() {
                Vec::new()
            } else {
                outcome.sorted().0.into_iter().map(|event| event.finding).collect()
            }
        };
        let mut found = whole(text);
        if let Some(decoded) = decoded(text) {
            for more in whole(&decoded) {
                if !found.iter().any(|f| f.rule == more.rule && f.secret == more.secret) {
                    found.push(more);
                }
            }
        }
        found
    }

    /// Begins a body. `codings` is the value of its Content-Encoding, empty for none.
    ///
    /// # Errors
    /// A coding that cannot be looked into.
    pub fn stream(&self, direction: Direction, codings: &str) -> Result<Stream, UnknownCoding> {
        Stream::new(self.clone(), direction, codings)
    }
}

/// A text without its percent-encoding, or without the Base64 of Basic credentials; `None` when it
/// has neither.
fn decoded(text: &[u8]) -> Option<Vec<u8>> {
    if let Some((scheme, rest)) = text.split_first_chunk::<6>() {
        if scheme.eq_ignore_ascii_case(b"basic ") {
            return base64::Engine::decode(&BASIC, rest.trim_ascii()).ok();
        }
    }
    memchr::memchr(b'%', text)?;
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let digit = |i: usize| {
            after
                .get(i)
                .and_then(|b| char::from(*b).to_digit(16))
                .and_then(|d| u8::try_from(d).ok())
        };
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4) | low);
                rest = &after[2..];
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    Some(out)
}

/// As lenient as those who read such a header.
const BASIC: base64::engine::GeneralPurpose = base64::engine::GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    base64::engine::GeneralPurposeConfig::new()
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);
