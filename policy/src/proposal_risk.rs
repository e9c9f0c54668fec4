//! What makes a proposal wide, so that its name must be typed.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::pattern::{HostPattern, Method};
use crate::proposal_host::{is_disguised, look_alike};
use crate::route::{Policy, Route};

/// Prefix of the names of routes that an operator granted to a running bottle. A manifest cannot
/// use it.
pub const GRANTED_ROUTE_PREFIX: &str = "proposal:";

/// Why a proposal is wider than one host, or otherwise risky.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Risk {
    /// `*.suffix`: reaches everyone who owns a name below it, and the names can carry data.
    Wildcard,
    /// An address instead of a name.
    Address,
    /// An address of this host or its networks.
    Private,
    /// Plain http: anybody on the way can read and change it.
    PlainHttp,
    /// A branch that others build on, or any branch.
    Branches,
    /// Something that looks like a secret would be pushed.
    Finding,
    /// A name that looks like another one: of mixed scripts, or like a host that the bottle has.
    LookAlike,
    /// Every path of a host that the bottle sends a credential to.
    Credential,
    /// Every path of a host whose paths or methods the bottle limits, or by several methods that
    /// write.
    Breadth,
}

impl Risk {
    /// The risk in one line, for people.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Wildcard => "WILDCARD: every name below it, whoever owns it",
            Self::Address => "ADDRESS: an IP address, not a name",
            Self::Private => "PRIVATE: an address of this machine or its networks",
            Self::PlainHttp => "PLAIN HTTP: anybody on the way can read and change it",
            Self::Branches => "BRANCHES: a main branch, or any",
            Self::Finding => "FINDING: what looks like a secret would be pushed",
            Self::LookAlike => "LOOK-ALIKE: a name that is written to look like another one",
            Self::Credential => "CREDENTIAL: every path of a host that gets a token of this bottle",
            Self::Breadth => "BREADTH: every path, with more methods or fewer limits than usual",
        }
    }
}

/// The risks of a host beside `policy`.
pub(crate) fn host_risks(host: &HostPattern, policy: &Policy) -> Vec<Risk> {
    let address = host.as_str().parse::<IpAddr>().ok();
    let all = [
        (Risk::Wildcard, host.as_str().starts_with("*.")),
        (Risk::Address, address.is_some()),
        (Risk::Private, address.is_some_and(is_private) || is_local_name(host.as_str())),
        (Risk::LookAlike, address.is_none() && is_look_alike(host.as_str(), policy)),
    ];
    all.into_iter().filter(|(_, is)| *is).map(|(risk, _)| risk).collect()
}

/// Whether `host` looks like another name, or like a host of `policy` that it is not.
pub(crate) fn is_look_alike(host: &str, policy: &Policy) -> bool {
    let host = host.strip_prefix("*.").unwrap_or(host);
    is_disguised(host)
        || policy
            .routes
            .iter()
            .map(|r| r.host.as_str().strip_prefix("*.").unwrap_or(r.host.as_str()))
            .any(|other| other.parse::<IpAddr>().is_err() && look_alike(host, other))
}

/// The risks of a route that lets every path through.
pub(crate) fn breadth_risks(asked: &Route, policy: &Policy) -> Vec<Risk> {
    let is_all = |path: &str| matches!(path, "/*" | "/**" | "/**/*");
    if !asked.paths.iter().any(|p| is_all(p.as_str())) {
        return Vec::new();
    }
    let about_it = |r: &&Route| {
        r.port == asked.port
            && (r.names(asked.host.as_str(), asked.port) || asked.host.covers(&r.host))
    };
    let there: Vec<&Route> = policy.routes.iter().filter(about_it).collect();
    // What an operator has granted to this bottle is no limit that the manifest sets.
    let limits = there
        .iter()
        .filter(|r| !r.name.starts_with(GRANTED_ROUTE_PREFIX))
        .any(|r| !r.paths.is_empty() || !r.methods.is_empty());
    let reads = |m: &&Method| matches!(m.as_str(), "GET" | "HEAD" | "OPTIONS");
    let writing = asked.methods.iter().filter(|m| !reads(m)).count();
    let all = [
        (Risk::Credential, there.iter().any(|r| r.inject.is_some())),
        (Risk::Breadth, limits || writing > 1),
    ];
    all.into_iter().filter(|(_, is)| *is).map(|(risk, _)| risk).collect()
}

fn is_local_name(host: &str) -> bool {
    let host = host.trim_start_matches("*.");
    !host.contains('.') && !host.contains(':')
        || ["localhost", "local", "internal", "lan", "home", "corp"]
            .iter()
            .any(|tld| host.rsplit('.').next() == Some(tld))
}

/// Whether `ip` is this machine or in one of its networks.
pub(crate) fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_broadcast()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 198 && (b & 0xfe) == 18)
        }
        // Only 2000::/3 is the public internet.
        IpAddr::V6(ip) => {
            ip.segments()[0] & 0xe000 != 0x2000
                || ip.segments()[0] == 0x2002
                || ip.segments()[..2] == [0x2001, 0]
        }
    }
}
