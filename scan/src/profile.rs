//! What one route looks for, and what a finding does there.

use std::sync::Arc;

use bottle_policy::{Action, Scan};

use crate::matcher::Matcher;
use crate::rules::Rule;
use crate::scanner::{Query, Scanner};
use crate::shared::{Direction, Finding, UnknownRule};

/// What one route looks for, and what a finding does.
#[derive(Debug, Clone)]
pub struct Profile {
    scanner: Arc<Scanner>,
    /// By the rules' indices.
    actions: Arc<[Action]>,
    /// The same for headers by which a client says who it is. There a token that the rules only
    /// suspect warns unless the route says otherwise: the host may have given it to the guest.
    credential_actions: Arc<[Action]>,
    /// Whether any rule for requests, and for responses, does anything.
    any: [bool; 2],
}

impl Scanner {
    /// What `scan` asks for, on a route that has a credential of its own.
    ///
    /// # Errors
    /// A rule that does not exist.
    pub fn profile(self: &Arc<Self>, scan: &Scan) -> Result<Profile, UnknownRule> {
        self.profile_by(scan, |rule| rule.action)
    }

    /// What `scan` asks for, on a route that has no credential of its own. There a token that the
    /// rules only suspect (a JWT, a password) has no business, and blocks.
    ///
    /// # Errors
    /// A rule that does not exist.
    pub fn profile_elsewhere(self: &Arc<Self>, scan: &Scan) -> Result<Profile, UnknownRule> {
        self.profile_by(scan, |rule| rule.elsewhere)
    }

    fn profile_by(
        self: &Arc<Self>,
        scan: &Scan,
        default: impl Fn(&Rule) -> Action,
    ) -> Result<Profile, UnknownRule> {
        if let Some(unknown) =
            scan.rules.keys().find(|id| !self.rules.iter().any(|rule| *rule.id == ***id))
        {
            return Err(UnknownRule(unknown.clone()));
        }
        let action = |rule: &Rule, default: Action| match scan.rules.get(&*rule.id) {
            _ if rule.direction == Direction::Response && !scan.responses => Action::Off,
            Some(action) => *action,
            None => scan.limit.map_or(default, |limit| default.min(limit)),
        };
        let all = |default: &dyn Fn(&Rule) -> Action| -> Arc<[Action]> {
            self.rules.iter().map(|rule| action(rule, default(rule))).collect()
        };
        let actions = all(&default);
        let credential_actions = all(&|rule| rule.action);
        let any = [Direction::Request, Direction::Response].map(|direction| {
            self.rules
                .iter()
                .zip(&*actions)
                .any(|(rule, action)| rule.direction == direction && *action != Action::Off)
        });
        Ok(Profile { scanner: Arc::clone(self), actions, credential_actions, any })
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
    /// here, so what would be is blocked.
    #[must_use]
    pub fn text(&self, direction: Direction, text: &[u8]) -> Vec<Finding> {
        whole(&self.query(direction, false), text)
    }

    /// Finds in a text whose letters were turned to lower case, such as a header's name: keywords
    /// count in either case, and checksums, which cannot be right any more, do not count.
    #[must_use]
    pub fn text_any_case(&self, direction: Direction, text: &[u8]) -> Vec<Finding> {
        whole(&Query { any_case: true, ..self.query(direction, false) }, text)
    }

    /// Finds in the value of a header.
    #[must_use]
    pub fn header(&self, direction: Direction, name: &str, value: &[u8]) -> Vec<Finding> {
        let says_who = CREDENTIAL_HEADERS.iter().any(|header| name.eq_ignore_ascii_case(header));
        let actions = if says_who { &self.credential_actions } else { &self.actions };
        whole(&Query { actions, ..self.query(direction, false) }, value)
    }

    /// Finds in a request target: as a text, and what is cut over several segments of its path.
    #[must_use]
    pub fn target(&self, direction: Direction, target: &[u8]) -> Vec<Finding> {
        let mut found = self.text(direction, target);
        if found.is_empty() {
            let segments: Vec<&[u8]> = target.split(|b| *b == b'/').collect();
            found = self.joined(direction, &segments);
        }
        found
    }

    /// Finds in texts that follow one another, such as the values of headers or the segments of a
    /// path, what is cut over several of them, without what is only suspected. What one of them
    /// holds alone, [`Profile::text`] finds.
    #[must_use]
    pub fn joined(&self, direction: Direction, texts: &[&[u8]]) -> Vec<Finding> {
        if texts.len() < 2 {
            return Vec::new();
        }
        // A zero is invisible, so what is cut goes on behind it.
        let mut found = self.text(direction, &texts.join(&0));
        found.retain(|finding| !finding.suspected && self.is_cut(direction, texts, finding));
        found
    }

    /// Whether only together `texts` hold a finding. Unless a checksum proves it, some of its value
    /// must be in the first of them: a path may have a segment `hf_`, and others behind it.
    fn is_cut(&self, direction: Direction, texts: &[&[u8]], finding: &Finding) -> bool {
        let (mut begin, mut end) = (0, 0);
        let first = texts.iter().find(|text| {
            begin = end;
            end += text.len() as u64 + 1;
            finding.offset < end
        });
        let Some(first) = first else { return false };
        let same = |other: &Finding| other.rule == finding.rule;
        let rule = self.scanner.rules.iter().find(|rule| rule.id == finding.rule);
        let proven = rule.is_none_or(Rule::has_checksum);
        let len = first.len() as u64 - (finding.offset - begin).min(first.len() as u64);
        (proven || len >= MIN_CUT_BYTES) && !self.text(direction, first).iter().any(same)
    }
}

/// Fewest bytes of a token that is cut, its keyword included, that must be in the first part.
const MIN_CUT_BYTES: u64 = 10;

/// Headers by which a client says who it is.
const CREDENTIAL_HEADERS: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];

fn whole(query: &Query<'_>, text: &[u8]) -> Vec<Finding> {
    let matches = Matcher::default().scan(query, text, true);
    if matches.is_empty() {
        return Vec::new();
    }
    let mut found: Vec<Finding> = Vec::new();
    for event in matches.sorted().0 {
        let more = event.finding;
        if !found.iter().any(|f| (&f.rule, f.offset) == (&more.rule, more.offset)) {
            found.push(more);
        }
    }
    found
}
