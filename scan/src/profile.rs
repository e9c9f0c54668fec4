//! What one route looks for, and what a finding does there.

use std::sync::Arc;

use bottle_policy::{Action, Scan};

use crate::matcher::Matcher;
use crate::rules::Rule;
use crate::scanner::{Query, Scanner};
use crate::shared::{Direction, Finding, UnknownRule};

/// What one route looks for, and what a find does.
#[derive(Debug, Clone)]
pub struct Profile {
    scanner: Arc<Scanner>,
    /// By the rules' indices.
    actions: Arc<[Action]>,
    /// Whether any rule for requests, and for responses, does anything.
    any: [bool; 2],
}

impl Scanner {
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
}

impl Profile {
    pub(crate) fn query(&self, direction: Direction, redact: bool) -> Query<'_> {
        let filter = match direction {
            Direction::Request if self.any[0] => 1,
            Direction::Response if self.any[1] => 2,
            _ => 0,
        };
        let Scanner { filters, .. } = &*self.scanner;
        Query {
            scanner: &self.scanner,
            filter: &filters[filter],
            actions: &self.actions,
            direction,
            redact,
            any_case: false,
        }
    }

    /// Asks for the bundle's secrets alone, in what cannot be overwritten.
    pub(crate) fn query_for_secrets(&self, direction: Direction) -> Query<'_> {
        Query { filter: &self.scanner.filters[0], ..self.query(direction, false) }
    }

    /// Finds in a whole text, such as a header's value or a request target. Nothing is redacted
    /// here, so what would be is blocked. What is percent-encoded, or the value of a Basic header,
    /// is looked at decoded as well; offsets are then of the decoded text.
    #[must_use]
    pub fn text(&self, direction: Direction, text: &[u8]) -> Vec<Finding> {
        let query = self.query(direction, false);
        let whole = |text: &[u8]| -> Vec<Finding> {
            let matches = Matcher::default().scan(&query, text, true);
            if matches.is_empty() {
                Vec::new()
            } else {
                matches.sorted().0.into_iter().map(|event| event.finding).collect()
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
