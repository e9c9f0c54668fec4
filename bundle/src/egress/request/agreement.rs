//! Checks of a request's head that do not depend on its route.

use http::header::HOST;
use http::{Version, request};

use super::authority::Authority;
use crate::egress::http1::request_head::is_method;
use crate::egress::refusal::{Checks, Refusal, Rule};

/// Checks what holds for both versions of HTTP: a well-formed method, one Host that agrees with
/// where the connection goes, and no method that echoes the request.
///
/// # Errors
/// [`Rule::RequestLine`], [`Rule::DuplicateHost`], [`Rule::HostMismatch`] or [`Rule::Trace`].
pub fn check_head(
    head: &request::Parts,
    to: &Authority,
    tls: bool,
    checks: &Checks,
) -> Result<(), Refusal> {
    let method = head.method.as_str();
    checks.refuse_if(!is_method(method.as_bytes()), Rule::RequestLine, || {
        "not a method".to_owned()
    })?;
    let mut hosts = head.headers.get_all(HOST).iter();
    let (first, more) = (hosts.next(), hosts.next().is_some());
    checks.refuse_if(more, Rule::DuplicateHost, || "more than one Host".to_owned())?;
    // HTTP/2 names the host in :authority, which was compared already.
    if first.is_some() || head.version != Version::HTTP_2 {
        let host = first.map_or(Ok(""), |h| h.to_str()).unwrap_or("\u{fffd}");
        let named = Authority::parse(host, Some(if tls { 443 } else { 80 }));
        checks.refuse_if(named.as_ref().ok() != Some(to), Rule::HostMismatch, || {
            format!("Host is {host:?}, the connection is for {to}")
        })?;
    }
    let echoes = matches!(method, "TRACE" | "TRACK" | "DEBUG");
    checks
        .refuse_if(echoes, Rule::Trace, || "this method would echo what the proxy adds".to_owned())
}
