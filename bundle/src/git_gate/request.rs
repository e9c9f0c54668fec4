//! The four requests of git's smart HTTP protocol, gitprotocol-http(5). All others are refused.

use bottle_policy::UpstreamName;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, Method, Uri};

use crate::git_gate::refusal::{Refusal, Rule};

/// A service of smart HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Fetching.
    UploadPack,
    /// Pushing.
    ReceivePack,
}

impl Service {
    /// The name in requests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UploadPack => "git-upload-pack",
            Self::ReceivePack => "git-receive-pack",
        }
    }
}

/// A parsed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitRequest {
    /// The upstream.
    pub name: UpstreamName,
    /// The service.
    pub service: Service,
    /// True for the ref advertisement (GET), false for the service itself (POST).
    pub advertise: bool,
}

/// Reads a request's method and target.
///
/// # Errors
/// [`Rule::Path`], [`Rule::Service`].
pub fn read(method: &Method, uri: &Uri) -> Result<GitRequest, Refusal> {
    let not_found = |why: &str| {
        Refusal::new(Rule::Path, format!("there is no repository at this path: {why}"))
            .hint("git-gate serves /NAME.git for each upstream of the bottle")
    };
    if uri.authority().is_some() {
        return Err(not_found("git-gate is not a proxy"));
    }
    let path = uri.path();
    if !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b)) {
        return Err(not_found("a path has only letters, digits and -_."));
    }
    let (name, rest) = path
        .strip_prefix('/')
        .and_then(|p| p.split_once('/'))
        .ok_or_else(|| not_found("it is too short"))?;
    let name =
        name.strip_suffix(".git").ok_or_else(|| not_found("the name does not end in .git"))?;
    let name = name.parse().map_err(|_| not_found("the name is not valid"))?;
    let (service, advertise) = match (method, rest, uri.query()) {
        (&Method::GET, "info/refs", Some("service=git-upload-pack")) => (Service::UploadPack, true),
        (&Method::GET, "info/refs", Some("service=git-receive-pack")) => {
            (Service::ReceivePack, true)
        }
        (&Method::POST, "git-upload-pack", None) => (Service::UploadPack, false),
        (&Method::POST, "git-receive-pack", None) => (Service::ReceivePack, false),
        _ => {
            return Err(Refusal::new(
                Rule::Service,
                "git-gate serves only smart HTTP: info/refs, git-upload-pack, git-receive-pack",
            ));
        }
    };
    Ok(GitRequest { name, service, advertise })
}

/// Checks the headers of a POST. Returns whether its body is compressed with gzip.
///
/// # Errors
/// [`Rule::ContentType`], [`Rule::Coding`].
pub fn body_headers(headers: &HeaderMap, service: Service) -> Result<bool, Refusal> {
    let want = format!("application/x-{}-request", service.name());
    if headers.get(CONTENT_TYPE).is_none_or(|t| t.as_bytes() != want.as_bytes()) {
        return Err(Refusal::new(Rule::ContentType, format!("the Content-Type is not {want}")));
    }
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    match (codings.next().map(http::HeaderValue::as_bytes), codings.next()) {
        (None | Some(b"identity"), None) => Ok(false),
        (Some(b"gzip" | b"x-gzip"), None) => Ok(true),
        _ => Err(Refusal::new(Rule::Coding, "the Content-Encoding is not gzip")),
    }
}

/// The value of `Git-Protocol`, if git-gate supports it.
#[must_use]
pub fn protocol(headers: &HeaderMap) -> Option<&'static str> {
    let value = headers.get("git-protocol")?.as_bytes();
    ["version=0", "version=1", "version=2"].into_iter().find(|v| v.as_bytes() == value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_requests_are_served_and_no_others() {
        let read = |method: Method, target: &str| {
            read(&method, &target.parse().unwrap()).map_err(|r| r.rule)
        };
        for (method, target, service, advertise) in [
            (Method::GET, "/x.git/info/refs?service=git-upload-pack", Service::UploadPack, true),
            (Method::GET, "/x.git/info/refs?service=git-receive-pack", Service::ReceivePack, true),
            (Method::POST, "/a-b.c.git/git-upload-pack", Service::UploadPack, false),
            (Method::POST, "/x.git/git-receive-pack", Service::ReceivePack, false),
        ] {
            let asked = read(method, target).unwrap();
            assert_eq!((asked.service, asked.advertise), (service, advertise), "{target}");
        }
        for (method, target, rule) in [
            (Method::GET, "/", Rule::Path),
            (Method::GET, "/x/info/refs?service=git-upload-pack", Rule::Path),
            (Method::GET, "/../x.git/info/refs?service=git-upload-pack", Rule::Path),
            (Method::GET, "/%2e%2e.git/info/refs?service=git-upload-pack", Rule::Path),
            (Method::GET, "/..git/info/refs?service=git-upload-pack", Rule::Path),
            (Method::GET, "/.git/info/refs?service=git-upload-pack", Rule::Path),
            (Method::GET, "//x.git/info/refs?service=git-upload-pack", Rule::Path),
            (Method::GET, "http://h/x.git/info/refs?service=git-upload-pack", Rule::Path),
            (Method::GET, "/x.git/../y.git/info/refs?service=git-upload-pack", Rule::Service),
            (Method::GET, "/x.git/info/refs", Rule::Service),
            (Method::GET, "/x.git/info/refs?service=git-upload-archive", Rule::Service),
            (Method::GET, "/x.git/info/refs?service=git-upload-pack&x=y", Rule::Service),
            (Method::GET, "/x.git/HEAD", Rule::Service),
            (Method::GET, "/x.git/objects/info/packs", Rule::Service),
            (Method::GET, "/x.git/config", Rule::Service),
            (Method::PUT, "/x.git/git-receive-pack", Rule::Service),
            (Method::POST, "/x.git/git-upload-archive", Rule::Service),
            (Method::POST, "/x.git/info/refs?service=git-upload-pack", Rule::Service),
        ] {
            assert_eq!(read(method, target).unwrap_err(), rule, "{target}");
        }
    }
}
