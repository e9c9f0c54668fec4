//! The host, port and path that a request is for.

use std::sync::Arc;

use http::Uri;

use super::authority::Authority;
use super::target::Target;
use crate::egress::audit::RequestAudit;
use crate::egress::refusal::{Refusal, Rule};

/// Where a request came in.
#[derive(Clone)]
pub enum Via {
    /// On the proxy's socket.
    Socket,
    /// In a tunnel.
    Tunnel {
        /// The host and port that CONNECT names.
        to: Arc<Authority>,
        /// Whether the tunnel holds TLS.
        tls: bool,
    },
}

/// Where a request wants to go.
pub struct Destination {
    /// Host and port.
    pub to: Authority,
    /// Whether the upstream is to be reached with TLS.
    pub tls: bool,
    /// Path and query as the guest wrote them.
    pub target: Target,
}

impl Destination {
    /// Reads the target of the request line, or HTTP/2's `:authority` and `:path`.
    ///
    /// # Errors
    /// A form that this connection does not allow, another host than the tunnel's, or a path that
    /// cannot be sent on safely.
    pub fn read(via: &Via, uri: &Uri, audit: &mut RequestAudit) -> Result<Self, Refusal> {
        let raw = uri.path_and_query().map_or("/", |p| p.as_str());
        let target = || Target::parse(if raw.starts_with('?') { "" } else { raw });
        match (via, uri.scheme_str(), uri.authority()) {
            (Via::Tunnel { to, tls }, None, None) => {
                Ok(Self { to: Authority::clone(to), tls: *tls, target: target()? })
            }
            (Via::Tunnel { to, tls }, Some(scheme), Some(named))
                if scheme == if *tls { "https" } else { "http" } =>
            {
                let named = Authority::parse(named.as_str(), Some(if *tls { 443 } else { 80 }))?;
                if named != **to {
                    return Err(Refusal::new(
                        Rule::HostMismatch,
                        format!("the request is for {named}, the connection for {to}"),
                    ));
                }
                Ok(Self { to: named, tls: *tls, target: target()? })
            }
            (Via::Socket, Some("http"), Some(named)) => {
                let to = Authority::parse(named.as_str(), Some(80))?;
                audit.set_destination(&to.host, to.port);
                Ok(Self { to, tls: false, target: target()? })
            }
            (Via::Socket, Some("https"), Some(named)) => {
                if let Ok(to) = Authority::parse(named.as_str(), Some(443)) {
                    audit.set_destination(&to.host, to.port);
                }
                Err(Refusal::new(
                    Rule::HttpsAbsolute,
                    "https:// goes through CONNECT, not in the request line",
                ))
            }
            (Via::Socket, None, None) => Err(Refusal::new(
                Rule::NotProxyForm,
                "this is a proxy: set HTTPS_PROXY to it, do not ask it for pages",
            )),
            _ => Err(Refusal::new(
                Rule::RequestLine,
                "the request line's target has a form that is not supported",
            )),
        }
    }
}

/// The authority that CONNECT names.
///
/// # Errors
/// [`Rule::Authority`] for anything but `host:port`.
pub fn tunnel_authority(uri: &Uri) -> Result<Authority, Refusal> {
    // `CONNECT /path` and `CONNECT https://host` name no tunnel.
    if uri.scheme().is_some() || uri.path_and_query().is_some() {
        return Err(Refusal::new(Rule::Authority, "CONNECT wants host:port"));
    }
    Authority::parse(uri.authority().map_or("", |a| a.as_str()), None)
}
