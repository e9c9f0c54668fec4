//! URLs of git repositories.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::pattern::HostPattern;
use crate::string_type::GateTextError;

/// A repository's URL: `ssh://[user@]host[:port]/path`, `user@host:path` or
/// `https://host[:port]/path`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GateUrl {
    text: String,
    ssh: bool,
    user: Option<String>,
    host: String,
    port: Option<u16>,
    path: String,
}

impl GateUrl {
    /// The URL as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether git uses ssh for this URL.
    #[must_use]
    pub fn is_ssh(&self) -> bool {
        self.ssh
    }

    /// The host, lower case.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; when none is written, the default of the scheme.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(if self.ssh { 22 } else { 443 })
    }

    /// The path of the repository, without slashes around it and without `.git`.
    #[must_use]
    pub fn repo(&self) -> &str {
        let path = self.path.trim_matches('/');
        path.strip_suffix(".git").unwrap_or(path)
    }

    /// Every URL under which a clone or a submodule may name this repository. The guest's git
    /// replaces each of them by the gate's `http://127.0.0.1:9420/NAME.git` (`insteadOf`; git uses
    /// the longest match).
    #[must_use]
    pub fn spellings(&self) -> Vec<String> {
        let bare = self.repo();
        let user = self.user.as_deref().unwrap_or("git");
        let mut all = Vec::new();
        for path in [format!("{bare}.git"), bare.to_owned()] {
            let host = &self.host;
            match self.port {
                Some(port) if self.ssh => {
                    all.push(format!("ssh://{user}@{host}:{port}/{path}"));
                    all.push(format!("ssh://{host}:{port}/{path}"));
                }
                Some(port) => all.push(format!("https://{host}:{port}/{path}")),
                None => {
                    all.push(format!("https://{host}/{path}"));
                    all.push(format!("http://{host}/{path}"));
                    all.push(format!("git://{host}/{path}"));
                    all.push(format!("ssh://{user}@{host}/{path}"));
                    all.push(format!("ssh://{user}@{host}:22/{path}"));
                    all.push(format!("ssh://{host}/{path}"));
                    all.push(format!("{user}@{host}:{path}"));
                    all.push(format!("{user}@{host}:/{path}"));
                }
            }
        }
        all
    }
}

impl FromStr for GateUrl {
    type Err = GateTextError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let form = "such as git@host:me/x.git, ssh://git@host/me/x.git or https://host/me/x.git, without a password";
        let bad = || {
            // The part before the @ may be a password.
            let shown =
                s.rsplit_once('@').map_or_else(|| s.to_owned(), |(_, rest)| format!("…@{rest}"));
            GateTextError { what: "a git URL", text: shown, form }
        };
        let graphic = s.bytes().all(|b| b.is_ascii_graphic() && !b"\\\"'`$".contains(&b));
        if s.len() > 2048 || s.starts_with('-') || !graphic {
            return Err(bad());
        }
        let (ssh, authority, path) = if let Some(rest) = s.strip_prefix("https://") {
            rest.split_once('/').map(|(a, p)| (false, a, p))
        } else if let Some(rest) = s.strip_prefix("ssh://") {
            rest.split_once('/').map(|(a, p)| (true, a, p))
        } else if s.contains("://") || s.contains("::") {
            None
        } else {
            s.split_once(':')
                .filter(|(a, _)| a.contains('@') && !a.contains('/'))
                .map(|(a, p)| (true, a, p))
        }
        .ok_or_else(bad)?;
        let (user, host) =
            authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let user_ok = user.is_none_or(|u| {
            ssh && !u.is_empty()
                && !u.starts_with('-')
                && u.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        });
        let (host, port) = match host.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') => {
                (host, Some(port.parse::<u16>().ok().filter(|p| *p > 0).ok_or_else(bad)?))
            }
            _ => (host, None),
        };
        let host_ok = !host.contains('*') && host.parse::<HostPattern>().is_ok();
        let path_ok = !path.trim_matches('/').is_empty()
            && !path.starts_with('-')
            && !path.contains(['?', '#', '~'])
            && !path.split('/').any(|segment| segment == "..");
        if !(user_ok && host_ok && path_ok) {
            return Err(bad());
        }
        let (user, host, path) =
            (user.map(ToOwned::to_owned), host.to_ascii_lowercase(), path.to_owned());
        Ok(Self { text: s.to_owned(), ssh, user, host, port, path })
    }
}

impl fmt::Display for GateUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<GateUrl> for String {
    fn from(url: GateUrl) -> Self {
        url.text
    }
}

impl TryFrom<String> for GateUrl {
    type Error = GateTextError;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_git_reads_them() {
        for (text, ssh, host, port) in [
            ("git@Host.test:me/x.git", true, "host.test", 22),
            ("ssh://git@host.test:2222/me/x.git", true, "host.test", 2222),
            ("ssh://host.test/me/x", true, "host.test", 22),
            ("https://host.test/me/x.git", false, "host.test", 443),
            ("https://host.test:8443/x", false, "host.test", 8443),
        ] {
            let url: GateUrl = text.parse().expect(text);
            assert_eq!((url.is_ssh(), url.host(), url.port()), (ssh, host, port), "{text}");
        }
        for bad in [
            "",
            "x",
            "/srv/x.git",
            "file:///srv/x",
            "ext::sh -c x",
            "http://h.test/x",
            "https://u:p@h.test/x",
            "https://u@h.test/x",
            "ssh://-oProxyCommand=x/y",
            "ssh://-o@h.test/x",
            "git@-oX:me/x",
            "git@h.test:-x",
            "https://h.test/../x",
            "https://h.test/",
            "ssh://h.test:0/x",
            "ssh://h.test:99999/x",
            "git@h.test:me/x y",
            "ssh://h.test/$(x)",
            "ssh://h.test/~me/x",
            "a::b@c:d",
        ] {
            assert!(bad.parse::<GateUrl>().is_err(), "{bad}");
        }
        let shown =
            "https://user:hunter2@h.test/x".parse::<GateUrl>().expect_err("a password").to_string();
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn a_repository_has_all_its_spellings() {
        let url: GateUrl = "git@github.test:me/x.git".parse().expect("url");
        let all = url.spellings();
        for want in [
            "https://github.test/me/x",
            "https://github.test/me/x.git",
            "ssh://git@github.test/me/x.git",
            "git@github.test:me/x",
        ] {
            assert!(all.iter().any(|s| s == want), "{want} in {all:?}");
        }
        let url: GateUrl = "ssh://git@h.test:2222/x.git".parse().expect("url");
        assert_eq!(url.spellings()[0], "ssh://git@h.test:2222/x.git");
    }
}
