//! Which refs may become what. Everything here is decided from names and ids alone.

use bottle_policy::text::is_unprintable;
use bottle_policy::{GateTextError, PathPattern, Push};

use super::commands::{Command, Id};
use super::refusal::{Guards, Refusal, Rule};

/// A [`Push`]'s patterns, with the names put in.
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
    /// A name that makes a pattern none.
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

    /// Whether `command` may be; `current` is what the upstream has for it. Ancestry is not looked
    /// at here.
    ///
    /// # Errors
    /// The first rule against it.
    pub fn check(
        &self,
        command: &Command,
        current: Option<&Id>,
        guards: &Guards,
    ) -> Result<(), Refusal> {
        let name = &command.name;
        guards.check(!is_ref_name(name), Rule::RefName, || {
            "not a name that git gives a ref".to_owned()
        })?;
        guards.check(command.new.is_zero(), Rule::Delete, || {
            "refs are not deleted through the gate".to_owned()
        })?;
        let slashed = |short: &str| format!("/{short}");
        if let Some(branch) = name.strip_prefix("refs/heads/") {
            let branch = slashed(branch);
            let folded = branch.to_lowercase();
            // Where the upstream's file system folds case, `Main` is `main`.
            let protected = self.protected.iter().any(|p| p.matches(&branch) || p.matches(&folded));
            guards.check(protected, Rule::Protected, || "this branch is protected".to_owned())?;
            let allowed = self.branches.iter().any(|p| p.matches(&branch));
            guards
                .check(!allowed, Rule::Branch, || {
                    "this bottle may not push to this branch".to_owned()
                })
                .map_err(|r| r.hint(self.allowed()))?;
        } else if let Some(tag) = name.strip_prefix("refs/tags/") {
            let allowed = self.tags.iter().any(|p| p.matches(&slashed(tag)));
            guards.check(!allowed, Rule::Tag, || "this bottle may not push this tag".to_owned())?;
            guards.check(current.is_some(), Rule::TagMove, || {
                "a tag that exists is not moved".to_owned()
            })?;
        } else {
            guards.check(true, Rule::RefKind, || {
                "only branches and tags are pushed through the gate".to_owned()
            })?;
        }
        let same =
            if command.old.is_zero() { current.is_none() } else { current == Some(&command.old) };
        guards.check(!same, Rule::Stale, || {
            "the upstream has something else there by now: fetch first".to_owned()
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

/// Whether git takes `name` for a ref's, git-check-ref-format(1), and a terminal shows it as it is.
#[must_use]
pub fn is_ref_name(name: &str) -> bool {
    let bad =
        |c: char| is_unprintable(c) || c.is_whitespace() || "~^:?*[\\\"'`$|&;<>(){}".contains(c);
    let component = |c: &str| {
        !c.is_empty()
            && !c.starts_with(['.', '-'])
            && !c.ends_with('.')
            && !c.to_ascii_lowercase().ends_with(".lock")
    };
    name.starts_with("refs/")
        && name.split('/').count() > 2
        && name.len() <= 512
        && !name.contains(bad)
        && !name.contains("..")
        && !name.contains("@{")
        && name.split('/').all(component)
        && !name.ends_with("/@")
        && !name.ends_with("/HEAD")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_refs_are_git_s() {
        for good in [
            "refs/heads/x",
            "refs/heads/a/b-c.d",
            "refs/tags/v1",
            "refs/heads/ä",
            "refs/heads/a@b",
            "refs/heads/#1",
        ] {
            assert!(is_ref_name(good), "{good}");
        }
        for bad in [
            "",
            "x",
            "HEAD",
            "refs/heads",
            "refs/heads/",
            "refs//x",
            "refs/heads/.x",
            "refs/heads/x.lock",
            "refs/heads/x.LOCK/y",
            "refs/heads/x..y",
            "refs/heads/x y",
            "refs/heads/x\n",
            "refs/heads/x~1",
            "refs/heads/@{x}",
            "refs/heads/-x",
            "refs/heads/x\u{202e}y",
            "refs/heads/x\u{3164}y",
            "refs/heads/x.",
            "refs/heads/HEAD",
            "refs/heads/$(x)",
            "../refs/heads/x",
            "refs/heads/../../x",
            "refs/heads/x:y",
        ] {
            assert!(!is_ref_name(bad), "{bad}");
        }
    }

    #[test]
    fn each_rule_has_its_twin() {
        let mut push = Push::to(vec!["agent/*".parse().unwrap(), "main".parse().unwrap()]);
        push.protected = vec!["main".parse().unwrap()];
        push.tags = vec!["agent-*".parse().unwrap()];
        let policy = RefPolicy::new(&push, "claude", "b").unwrap();
        let (a, b) = (Id::parse(&[b'a'; 40]).unwrap(), Id::parse(&[b'b'; 40]).unwrap());
        let command = |old: &Id, new: &Id, name: &str| Command {
            old: old.clone(),
            new: new.clone(),
            name: name.to_owned(),
        };
        let zero = Id::zero();
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
                policy.check(&command, current, &Guards::default()).unwrap_err().rule,
                rule,
                "{command:?}"
            );
            assert!(
                policy.check(&command, current, &Guards { off: vec![rule] }).is_ok(),
                "the twin of {command:?}"
            );
        }
        let cased = command(&zero, &a, "refs/heads/Main");
        let wide = RefPolicy::new(
            &Push { branches: vec!["*".parse().unwrap()], ..push.clone() },
            "c",
            "b",
        )
        .unwrap();
        assert_eq!(wide.check(&cased, None, &Guards::default()).unwrap_err().rule, Rule::Protected);
        assert!(
            policy
                .check(&command(&a, &b, "refs/heads/agent/x"), Some(&a), &Guards::default())
                .is_ok()
        );
        assert!(
            policy
                .check(&command(&zero, &b, "refs/tags/agent-2"), None, &Guards::default())
                .is_ok()
        );
    }
}
