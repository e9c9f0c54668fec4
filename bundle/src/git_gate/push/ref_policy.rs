//! Which refs may be created or moved. All of this is decided from names and ids alone.

use bottle_policy::{GateTextError, PathPattern, Push};

use crate::git_gate::object_id::ObjectId;
use crate::git_gate::push::head::RefUpdate;
use crate::git_gate::refusal::{Checks, Refusal, Rule};
use crate::git_gate::text::is_ref_name;

/// The patterns of a [`Push`], with `{agent}` and `{slug}` replaced.
#[derive(Debug)]
pub struct RefPolicy {
    branches: Vec<PathPattern>,
    protected: Vec<PathPattern>,
    tags: Vec<PathPattern>,
}

impl RefPolicy {
    /// The patterns of `push` for this agent and bottle.
    ///
    /// # Errors
    /// A pattern is not valid after the replacement.
    pub fn new(push: &Push, agent: &str, slug: &str) -> Result<Self, GateTextError> {
        let all = |patterns: &[bottle_policy::RefPattern]| {
            patterns.iter().map(|p| p.of(agent, slug)).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            branches: all(&push.branches)?,
            protected: all(&push.protected)?,
            tags: all(&push.tags)?,
        })
    }

    /// Checks `update`. `current` is the ref's value in the mirror. Ancestry is checked later.
    ///
    /// # Errors
    /// The first rule that forbids it.
    pub fn check(
        &self,
        update: &RefUpdate,
        current: Option<&ObjectId>,
        checks: &Checks,
    ) -> Result<(), Refusal> {
        let name = &update.name;
        checks.refuse_if(!is_ref_name(name), Rule::RefName, || {
            "this is not a valid name for a ref".to_owned()
        })?;
        checks.refuse_if(update.new.is_zero(), Rule::Delete, || {
            "git-gate does not delete refs".to_owned()
        })?;
        let slashed = |short: &str| format!("/{short}");
        if let Some(branch) = name.strip_prefix("refs/heads/") {
            let branch = slashed(branch);
            let folded = branch.to_lowercase();
            // If the upstream's file system folds case, `Main` is `main`.
            let protected = self.protected.iter().any(|p| p.matches(&branch) || p.matches(&folded));
            checks
                .refuse_if(protected, Rule::Protected, || "this branch is protected".to_owned())?;
            let allowed = self.branches.iter().any(|p| p.matches(&branch));
            checks
                .refuse_if(!allowed, Rule::Branch, || {
                    "this bottle may not push to this branch".to_owned()
                })
                .map_err(|r| r.hint(self.allowed()))?;
        } else if let Some(tag) = name.strip_prefix("refs/tags/") {
            let allowed = self.tags.iter().any(|p| p.matches(&slashed(tag)));
            checks.refuse_if(!allowed, Rule::Tag, || {
                "this bottle may not push this tag".to_owned()
            })?;
            checks.refuse_if(current.is_some(), Rule::TagMove, || {
                "an existing tag is not moved".to_owned()
            })?;
        } else {
            checks.refuse_if(true, Rule::RefKind, || {
                "only branches and tags can be pushed".to_owned()
            })?;
        }
        let same =
            if update.old.is_zero() { current.is_none() } else { current == Some(&update.old) };
        checks.refuse_if(!same, Rule::Stale, || {
            "the ref has changed at the upstream: fetch first".to_owned()
        })
    }

    fn allowed(&self) -> String {
        let list: Vec<&str> =
            self.branches.iter().map(|p| p.as_str().trim_start_matches('/')).collect();
        if list.is_empty() {
            "no branch may be pushed".to_owned()
        } else {
            format!("branches that may be pushed: {}", list.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_refuses_and_its_negative_control_passes() {
        let mut push = Push::to(vec!["agent/*".parse().unwrap(), "main".parse().unwrap()]);
        push.protected = vec!["main".parse().unwrap()];
        push.tags = vec!["agent-*".parse().unwrap()];
        let policy = RefPolicy::new(&push, "claude", "b").unwrap();
        let (a, b) = (ObjectId::parse(&[b'a'; 40]).unwrap(), ObjectId::parse(&[b'b'; 40]).unwrap());
        let command = |old: &ObjectId, new: &ObjectId, name: &str| RefUpdate {
            old: old.clone(),
            new: new.clone(),
            name: name.to_owned(),
        };
        let zero = ObjectId::zero();
        for (command, current, rule) in [
            (command(&zero, &a, "refs/heads/agent/x y"), None, Rule::RefName),
            (command(&a, &zero, "refs/heads/agent/x"), Some(&a), Rule::Delete),
            (command(&zero, &a, "refs/heads/other"), None, Rule::Branch),
            (command(&zero, &a, "refs/heads/main"), None, Rule::Protected),
            (command(&zero, &a, "refs/tags/v1"), None, Rule::Tag),
            (command(&a, &b, "refs/tags/agent-1"), Some(&a), Rule::TagMove),
            (command(&zero, &a, "refs/notes/x"), None, Rule::RefKind),
            (command(&a, &b, "refs/heads/agent/x"), Some(&b), Rule::Stale),
            (command(&zero, &b, "refs/heads/agent/x"), Some(&a), Rule::Stale),
            (command(&a, &b, "refs/heads/agent/x"), None, Rule::Stale),
        ] {
            assert_eq!(
                policy.check(&command, current, &Checks::default()).unwrap_err().rule,
                rule,
                "{command:?}"
            );
            assert!(
                policy.check(&command, current, &Checks::without(&[rule])).is_ok(),
                "the negative control of {command:?}"
            );
        }
        let cased = command(&zero, &a, "refs/heads/Main");
        let wide = RefPolicy::new(
            &Push { branches: vec!["*".parse().unwrap()], ..push.clone() },
            "c",
            "b",
        )
        .unwrap();
        assert_eq!(wide.check(&cased, None, &Checks::default()).unwrap_err().rule, Rule::Protected);
        assert!(
            policy
                .check(&command(&a, &b, "refs/heads/agent/x"), Some(&a), &Checks::default())
                .is_ok()
        );
        assert!(
            policy
                .check(&command(&zero, &b, "refs/tags/agent-2"), None, &Checks::default())
                .is_ok()
        );
    }
}
