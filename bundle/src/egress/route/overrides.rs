//! Headers that name another method or path than the request line.

use http::header::HeaderMap;

use super::rules::RouteRules;
use crate::egress::refusal::{Checks, Refusal, Rule};

/// Headers that many frameworks take for another method or path than the request's own.
const OVERRIDE_HEADERS: &[&str] = &[
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
    "x-original-uri",
];

/// Refuses headers that override the method or path, on a route that looks at methods or paths.
///
/// # Errors
/// [`Rule::Override`].
pub fn check_overrides(
    headers: &HeaderMap,
    rules: &RouteRules,
    checks: &Checks,
) -> Result<(), Refusal> {
    if rules.route.methods.is_empty() && rules.route.paths.is_empty() {
        return Ok(());
    }
    let is_override = |name: &str| OVERRIDE_HEADERS.contains(&name.replace('_', "-").as_str());
    let named = headers.keys().find(|name| is_override(name.as_str()));
    checks.refuse_if(named.is_some(), Rule::Override, || {
        format!(
            "the header {} may stand for another method or path than those that route {} allows",
            named.map_or("", |n| n.as_str()),
            rules.route.name
        )
    })
}
