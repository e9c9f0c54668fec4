//! Headers that name another method or path than the request line.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::rules::RouteRules;
use crate::egress::refusal::{Checks, Refusal, Rule};
use crate::egress::request::authority::Authority;
use crate::egress::request::target::Target;

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

/// Refuses a Destination header that leads out of a route that looks at paths, in any reading of its
/// path.
///
/// # Errors
/// [`Rule::Destination`].
pub fn check_destination(
    headers: &HeaderMap,
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
    let inside = values.next().is_none()
        && destination_path(first, to, rules.route.tls)
            .and_then(|path| Target::parse(path).ok())
            .and_then(|target| target.readings().ok())
            .is_some_and(|readings| readings.iter().all(|path| rules.allows(method, path)));
    checks.refuse_if(!inside, Rule::Destination, || {
        let route = &rules.route.name;
        format!("the Destination header names a path outside of what route {route} allows")
    })
}

/// The path and query of a destination on the same host and port.
fn destination_path<'a>(value: &'a HeaderValue, to: &Authority, tls: bool) -> Option<&'a str> {
    let text = value.to_str().ok()?;
    if text.starts_with('/') {
        return Some(text).filter(|path| !path.starts_with("//")); // that would be another host
    }
    let (scheme, rest) = text.split_once("://")?;
    let (expected, port) = if tls { ("https", 443) } else { ("http", 80) };
    let (authority, _) = rest.split_once('/')?;
    let same_host = Authority::parse(authority, Some(port)).is_ok_and(|named| named == *to);
    (scheme.eq_ignore_ascii_case(expected) && same_host).then(|| &rest[authority.len()..])
}
