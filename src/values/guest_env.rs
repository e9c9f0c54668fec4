//! The variables that a launch sets in every guest, and so the names that a manifest cannot use.
//! `provision::environment` gives each its value.

/// What a variable of the launch holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaunchValue {
    /// A text that is the same in every guest.
    Fixed(&'static str),
    /// The agent's home.
    Home,
    /// The agent's user.
    User,
    /// The image's search path.
    Path,
    /// The bottle's name.
    Slug,
    /// The operator's kind of terminal.
    Term,
    /// URL of egress.
    Proxy,
    /// Hosts that a client reaches without egress: the guest's own.
    NoProxy,
    /// "1" where there is egress.
    UseProxy,
    /// URL of git-gate.
    GitGate,
    /// URL of supervise.
    Supervise,
    /// File with the bottle's CA certificate.
    Ca,
    /// File with all CA certificates that the guest trusts.
    CaBundle,
}

use LaunchValue::{
    Ca, CaBundle, Fixed, GitGate, Home, NoProxy, Path, Proxy, Slug, Supervise, Term, UseProxy, User,
};

/// Variables that only the launch sets. A manifest cannot use these names.
pub const LAUNCH_VARIABLES: &[(&str, LaunchValue)] = &[
    ("HOME", Home),
    ("USER", User),
    ("LOGNAME", User),
    ("PATH", Path),
    ("BOTTLE", Slug),
    ("HTTPS_PROXY", Proxy),
    ("https_proxy", Proxy),
    ("HTTP_PROXY", Proxy),
    ("http_proxy", Proxy),
    ("ALL_PROXY", Proxy),
    ("all_proxy", Proxy),
    ("NO_PROXY", NoProxy),
    ("no_proxy", NoProxy),
    // Node's fetch ignores the proxy variables without it (node 24 and newer).
    ("NODE_USE_ENV_PROXY", UseProxy),
    ("GIT_GATE_URL", GitGate),
    ("MCP_SUPERVISE_URL", Supervise),
    ("NODE_EXTRA_CA_CERTS", Ca),
    ("SSL_CERT_FILE", CaBundle),
    ("REQUESTS_CA_BUNDLE", CaBundle),
    ("CURL_CA_BUNDLE", CaBundle),
    ("GIT_SSL_CAINFO", CaBundle),
    ("CARGO_HTTP_CAINFO", CaBundle),
    ("PIP_CERT", CaBundle),
];

/// Variables that the launch sets where the manifest does not.
pub const DEFAULT_VARIABLES: &[(&str, LaunchValue)] =
    &[("SHELL", Fixed("/bin/bash")), ("LANG", Fixed("C.UTF-8")), ("TERM", Term)];

/// Names that the launch does not set, but that would override what it does set.
const OVERRIDES: &[&str] = &["SSL_CERT_DIR", "CARGO_HTTP_PROXY", "PWD"];

/// Whether a manifest cannot use `name`, in any case of letters.
pub(super) fn is_reserved(name: &str) -> bool {
    let names = LAUNCH_VARIABLES.iter().map(|(name, _)| *name).chain(OVERRIDES.iter().copied());
    name.to_ascii_uppercase().starts_with("BOTTLE_")
        || names.into_iter().any(|known| known.eq_ignore_ascii_case(name))
}
