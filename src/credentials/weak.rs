//! Token values that the scanners cannot tell from ordinary text.

use std::collections::BTreeMap;

use bottle_policy::{Secret, TokenName};
use bottle_scan::{Strength, strength};

use crate::manifest::EgressChain;
use crate::plan::LaunchPlan;

/// One warning for each weak token, which names the token and never its value. A plan cannot have
/// them, because it knows no values.
pub(crate) fn warnings(plan: &LaunchPlan, values: &BTreeMap<TokenName, Secret>) -> Vec<String> {
    // Other egress chains do not look for the tokens; the plan warns of that.
    if plan.bundle_egress != EgressChain::Bottle && plan.git.is_empty() {
        return Vec::new();
    }
    values.iter().filter_map(|(name, value)| warning(name, value)).collect()
}

fn warning(name: &TokenName, value: &Secret) -> Option<String> {
    match strength(value.expose().as_bytes()) {
        Strength::Strong => None,
        Strength::Weak(why) => Some(format!(
            "token {name} is weak: {why}. It is looked for, so ordinary text that holds it is \
             refused in requests and pushes, and overwritten in answers; use a random value"
        )),
        Strength::Useless(why) => Some(format!(
            "token {name} is weak: {why}. It is not looked for, because it would be found in \
             every text, so nothing keeps the agent from sending it; use a random value"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weak_token_is_named_without_its_value_and_a_strong_one_is_not() {
        let warning = |value: &str| {
            let warning = super::warning(&"API".parse().unwrap(), &Secret::new(value.to_owned()));
            assert!(warning.as_ref().is_none_or(|w| !w.contains(value)), "{warning:?}");
            warning.unwrap_or_default()
        };
        for (value, why, searched) in [
            ("s3cret", "it has fewer than 8 bytes", false),
            ("workspace", "it is an ordinary word", true),
            ("aaaaaaaaaaaa", "it has hardly any different characters", true),
            ("developer:developer1", "it is an ordinary word", true),
            ("abcdefgh1234", "it repeats itself or counts through an alphabet", true),
        ] {
            let text = warning(value);
            assert!(text.starts_with(&format!("token API is weak: {why}.")), "{text}");
            assert_eq!(text.contains("It is looked for"), searched, "{text}");
            assert_eq!(text.contains("It is not looked for"), !searched, "{text}");
        }
        for strong in ["zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq17", "8eb7e2f8ac090f673049b7f77030e295"] {
            assert_eq!(warning(strong), "");
        }
    }
}
