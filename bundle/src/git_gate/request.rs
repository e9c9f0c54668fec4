//! The four requests of git's smart HTTP, gitprotocol-http(5). Everything else is refused.

use bottle_policy::UpstreamName;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, Method, Uri};

use crate::git_gate::refusal::{Refusal, Rule};

/// What is asked of the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Fetching.
    UploadPack,
    /// Pushing.
    ReceivePack,
}

impl Service {
    /// As it is written in requests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UploadPack => "git-upload-pack",
            Self::ReceivePack => "git-receive-pack",
        }
    }
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Of which upstream.
    pub name: UpstreamName,
    /// What.
    pub service: Service,
    /// Whether it is what there is (GET), or the thing itself (POST).
    pub advertise: bool,
}

/// Reads a request's method and target.
///
/// # Errors
/// [`Rule::Path`], [`Rule::Service`].
pub fn read(method: &Method, uri: &Uri) -> Result<Asked, Refusal> {
    let nothing = |why: &str| {
        Refusal::new(Rule::Path, format!("no repository is there: {why}"))
            .hint("the gate has /NAME.git for each upstream of the bottle")
    };
    if uri.authority().is_some() {
        return Err(nothing("the gate is no proxy"));
    }
    let path = uri.path();
    if !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b)) {
        return Err(nothing("a path of the gate has letters, digits and -_. only"));
    }
    let (name, rest) = path
        .strip_prefix('/')
        .and_then(|p| p.split_once('/'))
        .ok_or_else(|| nothing("too short"))?;
    let name = name.strip_suffix(".git").ok_or_else(|| nothing("the name does not end in .git"))?;
    let name = name.parse().map_err(|_| nothing("not a name"))?;
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
                "only git's smart HTTP is served: info/refs, git-upload-pack, git-receive-pack",
            ));
        }
    };
    Ok(Asked { name, service, advertise })
}

/// Checks a POST's headers. Whether its body is compressed.
///
/// # Errors
/// [`Rule::ContentType`], [`Rule::Coding`].
pub fn body_headers(headers: &HeaderMap, service: Service) -> Result<bool, Refusal> {
    let want = format!("application/x-{}-request", service.name());
    if headers.get(CONTENT_TYPE).is_none_or(|t| t.as_bytes() != want.as_bytes()) {
        return Err(Refusal::new(Rule::ContentType, format!("the body is not {want}")));
    }
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    match (codings.next().map(http::HeaderValue::as_bytes), codings.next()) {
        (None | Some(b"identity"), None) => Ok(false),
        (Some(b"gzip" | b"x-gzip"), None) => Ok(true),
        _ => Err(Refusal::new(Rule::Coding, "the body's coding is not gzip")),
    }
}

/// The value of `Git-Protocol`, if it is one that is passed on.
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
