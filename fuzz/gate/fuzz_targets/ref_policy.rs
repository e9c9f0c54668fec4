//! `PATTERN\nPROTECTED\nREF`: a ref update that is accepted has a valid name, is a branch or tag that
//! a pattern allows, is not protected, and deletes or moves nothing that it must not. And paths: no
//! accepted path folds to `.git`.
#![no_main]

use bottle_bundle::git_gate::object_id::ObjectId;
use bottle_bundle::git_gate::push::head::RefUpdate;
use bottle_bundle::git_gate::push::ref_policy::RefPolicy;
use bottle_bundle::git_gate::refusal::Checks;
use bottle_bundle::git_gate::scan::tree_paths;
use bottle_bundle::git_gate::text::is_ref_name;
use bottle_policy::{Push, RefPattern};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut lines = text.splitn(3, '\n');
    let (Some(pattern), Some(protected), Some(name)) = (lines.next(), lines.next(), lines.next())
    else {
        return;
    };
    if tree_paths::path(name).is_none() {
        for part in name.split(['/', '\\']) {
            // What HFS+ does not see; another letter makes another name.
            let ignored = |c: &char| matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}');
            let plain: String = part.chars().filter(|c| !ignored(c)).collect();
            assert!(plain.trim_end_matches(['.', ' ']).to_lowercase() != ".git", "{name:?}");
        }
        assert!(!name.chars().any(char::is_control), "{name:?}");
    }
    let _ = (tree_paths::symlink(name, pattern), tree_paths::gitmodules(text));

    let (Ok(allowed), protected) =
        (pattern.parse::<RefPattern>(), protected.parse::<RefPattern>().ok())
    else {
        return;
    };
    let mut push = Push::to(vec![allowed.clone()]);
    push.tags = vec![allowed.clone()];
    push.protected = protected.clone().into_iter().collect();
    let Ok(policy) = RefPolicy::new(&push, "claude", "b1") else { return };
    let (a, b) = (
        ObjectId::parse(&[b'a'; 40]).expect("an id"),
        ObjectId::parse(&[b'b'; 40]).expect("an id"),
    );
    let zero = ObjectId::zero();
    for (old, new, current) in [
        (&zero, &a, None),
        (&a, &b, Some(&a)),
        (&a, &b, Some(&b)),
        (&a, &zero, Some(&a)),
        (&zero, &a, Some(&b)),
        (&a, &b, None),
    ] {
        let command = RefUpdate { old: old.clone(), new: new.clone(), name: name.to_owned() };
        if policy.check(&command, current, &Checks::default()).is_err() {
            continue;
        }
        assert!(is_ref_name(name) && !new.is_zero(), "{name:?}");
        assert!(
            if old.is_zero() { current.is_none() } else { current == Some(old) },
            "an old view"
        );
        let fits = |p: &RefPattern, short: &str| {
            p.of("claude", "b1").is_ok_and(|p| p.matches(&format!("/{short}")))
        };
        match name.strip_prefix("refs/heads/") {
            Some(short) => assert!(
                fits(&allowed, short) && !protected.as_ref().is_some_and(|p| fits(p, short)),
                "{name:?}"
            ),
            None => {
                let short = name.strip_prefix("refs/tags/").expect("a tag");
                assert!(fits(&allowed, short) && current.is_none(), "{name:?}");
            }
        }
    }
});
