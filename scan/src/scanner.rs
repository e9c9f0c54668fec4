//! Rules and secrets, compiled; and what one text is searched for.

use std::fmt;
use std::sync::Arc;

use bottle_policy::{Action, Secret, TokenName};

use crate::filter::{Filter, Pattern};
use crate::rules::{self, Rule};
use crate::secret::Forms;
use crate::shared::Direction;

/// Rules and secrets, compiled.
pub struct Scanner {
    pub(crate) rules: Vec<Rule>,
    pub(crate) forms: Forms,
    /// For the secrets alone, for requests, and for responses.
    pub(crate) filters: [Filter; 3],
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
                form.grams().into_iter().for_each(|gram| filter.add(gram, Pattern::Form(index)));
            }
            for (index, rule) in
                (0..).zip(&rules).filter(|(_, rule)| direction == Some(rule.direction))
            {
                for (number, keyword) in (0..).zip(&rule.keywords) {
                    let what = Pattern::Rule { rule: index, keyword: number };
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
}

impl Query<'_> {
    fn possible(&self, action: Action) -> Action {
        if action == Action::Redact && !self.redact { Action::Block } else { action }
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
