//! Headers that name another method or path than the request line.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::rules::RouteRules;
use crate::egress::refusal::{Checks, Refusal, Rule};
use crate::egress::request::authority::Authority;
use crate::egress::request::target::normalise;

/// The second path of WebDAV's MOVE and COPY (RFC 4918 section 10.3).
const DESTINATION: HeaderName = HeaderName::from_static("destination");

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

/// Refuses a Destination header that leads out of a route that looks at paths. One that stays inside
/// is replaced by its normal form, so that the upstream reads what was checked.
///
/// # Errors
/// [`Rule::Destination`].
pub fn check_destination(
    headers: &mut HeaderMap,
    method: &str,
    to: &Authority,
    rules: &RouteRules,
    checks: &Checks,
) -> Result<(), Refusal> {
    if rules.route.paths.is_empty() {
        return Ok(());
    }
    let mut values = headers.get_all(DESTINATION).iter();
    let Some(first) = values.next() else { return Ok(()) };
    let inside = match values.next() {
        None => destination_inside(first, method, to, rules),
        Some(_) => None,
    };
    if let Some(normal) = inside {
        headers.insert(DESTINATION, normal);
        return Ok(());
    }
    checks.refuse_if(true, Rule::Destination, || {
        let route = &rules.route.name;
        format!("the Destination header names a path outside of what route {route} allows")
    })
}

/// The normal form of a destination on the same host and port, if `rules` allow `method` there.
fn destination_inside(
    value: &HeaderValue,
    method: &str,
    to: &Authority,
    rules: &RouteRules,
) -> Option<HeaderValue> {
    let text = value.to_str().ok()?;
    let (origin, path) = if text.starts_with('/') {
        ("", text)
    } else {
        let (scheme, rest) = text.split_once("://")?;
        let (expected, port) = if rules.route.tls { ("https", 443) } else { ("http", 80) };
        let (authority, _) = rest.split_once('/')?;
        let same_host = Authority::parse(authority, Some(port)).is_ok_and(|named| named == *to);
        if !scheme.eq_ignore_ascii_case(expected) || !same_host {
            return None;
        }
        text.split_at(text.len() - rest.len() + authority.len())
    };
    // `//host/path` would be another host.
    let target = normalise(path).ok().filter(|t| !t.encoded_slash && !path.starts_with("//"))?;
    let normal = format!("{origin}{}", target.path_and_query());
    HeaderValue::try_from(normal).ok().filter(|_| rules.allows(method, &target.path))
}
