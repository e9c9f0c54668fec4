//! Rules and secrets, compiled; and what one text is searched for.

use std::fmt;
use std::sync::Arc;

use bottle_policy::{Action, Secret, TokenName};

use crate::encode;
use crate::filter::{Filter, Pattern};
use crate::rules::{self, Rule};
use crate::secret::Forms;
use crate::shared::{Direction, Encoding, View};

/// Rules and secrets, compiled.
pub struct Scanner {
    pub(crate) rules: Vec<Rule>,
    pub(crate) forms: Forms,
    /// For the secrets alone, for requests, and for responses.
    pub(crate) filters: [Filter; 3],
    /// A view that a test has switched off.
    pub(crate) without: Option<View>,
    /// Ids of what is no rule: the bundle's own secrets, a broken coding, and one that grows too
    /// much.
    pub(crate) own: Arc<str>,
    pub(crate) coding: Arc<str>,
    pub(crate) bomb: Arc<str>,
}

impl fmt::Debug for Scanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scanner")
            .field("rules", &self.rules.len())
            .field("secrets", &self.forms.names)
            .finish_non_exhaustive()
    }
}

impl Scanner {
    /// Compiles the embedded rules and `secrets`. A secret that `strength`
    /// calls useless is not looked for: it would be found everywhere.
    ///
    /// # Panics
    /// Never: the rules are part of the crate, and its tests read them.
    #[must_use]
    pub fn new(secrets: &[(TokenName, Secret)]) -> Arc<Self> {
        Self::compile(secrets, None)
    }

    /// The same without one of its views: for tests.
    ///
    /// # Panics
    /// Never, as [`Scanner::new`].
    #[doc(hidden)]
    #[must_use]
    pub fn without(secrets: &[(TokenName, Secret)], view: View) -> Arc<Self> {
        Self::compile(secrets, Some(view))
    }

    fn compile(secrets: &[(TokenName, Secret)], without: Option<View>) -> Arc<Self> {
        let rules = rules::load();
        let forms = Forms::new(secrets);
        let filter = |direction: Option<Direction>| {
            let mut filter = Filter::new();
            for (index, form) in (0..).zip(&forms.all) {
                form.grams().into_iter().for_each(|gram| filter.add(gram, Pattern::Form(index)));
            }
            for (index, rule) in
                (0..).zip(&rules).filter(|(_, rule)| direction == Some(rule.direction))
            {
                for (keyword, bytes) in (0..).zip(&rule.keywords) {
                    let pattern = |encoding| Pattern::Rule { rule: index, keyword, encoding };
                    for gram in rule.grams(bytes) {
                        filter.add(gram, pattern(Encoding::Plain));
                    }
                    // What an upstream sends is not scanned for the sake of its encodings.
                    if rule.direction == Direction::Request && without != Some(View::Encodings) {
                        for (gram, encoding) in encode::grams(rule, bytes) {
                            filter.add(gram, pattern(encoding));
                        }
                    }
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
            without,
            own: "bundle-secret".into(),
            coding: "coding".into(),
            bomb: "coding-bomb".into(),
        })
    }

    /// The ids of all rules, in the order of their file.
    pub fn rules(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|rule| &*rule.id)
    }
}

/// What one text is searched for.
#[derive(Clone, Copy)]
pub(crate) struct Query<'a> {
    pub(crate) scanner: &'a Scanner,
    pub(crate) filter: &'a Filter,
    /// What each rule does.
    pub(crate) actions: &'a [Action],
    pub(crate) direction: Direction,
    /// Whether the text can be overwritten; else what would be redacted is blocked.
    pub(crate) redact: bool,
    /// Whether letters' case was lost: keywords are then found in either case, and a checksum
    /// cannot be checked.
    pub(crate) any_case: bool,
}

impl Query<'_> {
    fn possible(&self, action: Action) -> Action {
        if action == Action::Redact && !self.redact { Action::Block } else { action }
    }

    /// Whether a view is in use.
    pub(crate) fn uses(&self, view: View) -> bool {
        self.scanner.without != Some(view)
    }

    /// Whether `byte` is the byte `expected` of a keyword of `rule`.
    pub(crate) fn same(&self, rule: &Rule, byte: u8, expected: u8) -> bool {
        byte == expected || (rule.nocase || self.any_case) && byte.eq_ignore_ascii_case(&expected)
    }

    /// Whether a candidate of `rule` goes on with `byte`.
    pub(crate) fn has(&self, rule: &Rule, byte: u8) -> bool {
        rule.class.has(byte) || self.any_case && rule.class.has(byte.to_ascii_uppercase())
    }

    pub(crate) fn rule(&self, rule: u16) -> Action {
        self.possible(self.actions[usize::from(rule)])
    }

    pub(crate) fn secret(&self) -> Action {
        match self.direction {
            Direction::Request => Action::Block,
            Direction::Response => self.possible(Action::Redact),
        }
    }
}
