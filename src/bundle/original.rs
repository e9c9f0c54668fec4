//! The original egress chain: mitmproxy, with or without pipelock behind it. Finds its programs and
//! lists policies that it cannot enforce; docs/egress-chains.md explains both.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use bottle_policy::{Action, Policy, Route, Scan, Timeouts};
use sha2::{Digest, Sha256};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::manifest::EgressChain;

/// Environment variable that names the store path of mitmproxy.
pub const MITMPROXY: &str = "BOTTLE_MITMPROXY";
/// Environment variable that names the binary of pipelock.
pub const PIPELOCK: &str = "BOTTLE_PIPELOCK";

const MITMPROXY_PROGRAM: &str = "bin/bottle-egress-mitmproxy";
const PIPELOCK_PINS: &str = include_str!("pipelock.pins");
const NIX_STORE: &str = "/nix/store";

/// Programs of the original chain, found and checked.
#[derive(Debug, PartialEq, Eq)]
pub struct Original {
    /// The package's directory.
    pub root: PathBuf,
    /// The daemon in it.
    pub program: PathBuf,
    /// pipelock, in the chain that has it.
    pub pipelock: Option<PathBuf>,
}

impl Original {
    /// The programs of `chain`, which environment variables name; `None` for our own daemon.
    ///
    /// # Errors
    /// `Engine` when a program does not exist or is not pinned; `Config` when the chain cannot
    /// enforce `policy`.
    pub fn find(chain: EgressChain, policy: &Policy) -> Result<Option<Self>> {
        Self::find_in(chain, policy, |name| std::env::var_os(name))
    }

    fn find_in(
        chain: EgressChain,
        policy: &Policy,
        var: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Option<Self>> {
        if chain == EgressChain::Bottle {
            return Ok(None);
        }
        let cannot = unsupported(chain, policy);
        if !cannot.is_empty() {
            let text = format!(
                "the egress chain {chain} cannot enforce this policy: {}",
                cannot.join("; ")
            );
            return Err(Error::new(ErrorKind::Config, text)
                .hint("[bottles.NAME.bundle] egress = \"bottle\"   # enforces all of it"));
        }
        let build = || {
            format!(
                "export {MITMPROXY}=$(nix/bootstrap build .#mitmproxy --no-link --json | sed 's/.*\"out\":\"\\([^\"]*\\)\".*/\\1/')"
            )
        };
        let missing = |why: String| {
            Error::new(
                ErrorKind::Engine,
                format!("the egress chain {chain} needs mitmproxy, {why}"),
            )
            .hint(build())
        };
        let named =
            var(MITMPROXY).ok_or_else(|| missing(format!("and {MITMPROXY} does not name it")))?;
        let root = Path::new(&named)
            .canonicalize()
            .map_err(|e| missing(format!("{}: {e}", Path::new(&named).display())))?;
        let program = root.join(MITMPROXY_PROGRAM);
        if !program.is_file() {
            return Err(missing(format!("and {} has no {MITMPROXY_PROGRAM}", root.display())));
        }
        let pipelock = match chain {
            EgressChain::MitmproxyPipelock => Some(pipelock(var(PIPELOCK))?),
            _ => None,
        };
        Ok(Some(Self { root, program, pipelock }))
    }
}

/// The binary that the operator supplies, if it is in the store or pinned.
fn pipelock(named: Option<OsString>) -> Result<PathBuf> {
    let hint = format!(
        "nix/pipelock pipelock_VERSION_linux_amd64.tar.gz   # checks a release, and says what to set {PIPELOCK} to"
    );
    let refuse = |why: String| {
        Error::new(
            ErrorKind::Engine,
            format!("the egress chain mitmproxy+pipelock needs pipelock, {why}"),
        )
        .hint(hint.clone())
    };
    let named =
        PathBuf::from(named.ok_or_else(|| refuse(format!("and {PIPELOCK} does not name it")))?);
    let path = named.canonicalize().map_err(|e| refuse(format!("{}: {e}", named.display())))?;
    if path.starts_with(NIX_STORE) {
        return Ok(path);
    }
    let bytes = std::fs::read(&path)
        .context(ErrorKind::Engine, || format!("cannot read {}", path.display()))?;
    let hash = hex::encode(Sha256::digest(&bytes));
    let pinned = PIPELOCK_PINS.lines().filter(|l| !l.starts_with('#')).any(|l| l.ends_with(&hash));
    let what = if pinned {
        "is an archive, not in the Nix store"
    } else {
        "is neither in the Nix store nor pinned"
    };
    Err(refuse(format!("and {} {what}", path.display())))
}

/// The keys of `policy` that `chain` cannot enforce.
fn unsupported(chain: EgressChain, policy: &Policy) -> Vec<String> {
    let pipelock = chain == EgressChain::MitmproxyPipelock;
    let keys = |route: &Route| {
        let scan = route.scan != Scan::default()
            && route.scan != Scan { limit: Some(Action::Off), ..Scan::default() };
        let all = [
            ("passthrough", route.passthrough),
            ("scan (other than limit = \"off\")", scan),
            ("timeout", route.timeout != Timeouts::default()),
            ("connect", pipelock && route.connect.is_some()),
            ("ca", pipelock && route.ca.is_some()),
            ("tls = false", pipelock && !route.tls),
        ];
        all.into_iter()
            .filter(|(_, is)| *is)
            .map(|(key, _)| format!("route {}: {key}", route.name))
            .collect::<Vec<_>>()
    };
    policy.routes.iter().flat_map(keys).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(change: impl FnOnce(&mut Route)) -> Policy {
        let mut route = Route::to("r", "a.test".parse().expect("host"));
        change(&mut route);
        Policy::new(vec![route])
    }

    fn find(
        chain: EgressChain,
        policy: &Policy,
        vars: &[(&str, &Path)],
    ) -> Result<Option<Original>> {
        Original::find_in(chain, policy, |name| {
            vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).into())
        })
    }

    #[test]
    fn our_own_daemon_needs_nothing() {
        assert_eq!(
            find(EgressChain::Bottle, &policy(|r| r.passthrough = true), &[]).expect("nothing"),
            None
        );
    }

    #[test]
    fn without_its_programs_the_error_says_how_to_get_them() {
        let dir = tempfile::tempdir().expect("dir");
        let nothing = policy(|_| ());
        let none = find(EgressChain::Mitmproxy, &nothing, &[]).expect_err("nothing named");
        let empty = find(EgressChain::Mitmproxy, &nothing, &[(MITMPROXY, dir.path())])
            .expect_err("nothing there");
        for error in [none, empty] {
            assert_eq!(error.kind(), ErrorKind::Engine);
            assert!(
                error.hint_text().is_some_and(|h| h.contains("nix/bootstrap build .#mitmproxy")),
                "{error}"
            );
        }
        std::fs::create_dir(dir.path().join("bin")).expect("bin");
        std::fs::write(dir.path().join(MITMPROXY_PROGRAM), "").expect("program");
        let found = find(EgressChain::Mitmproxy, &nothing, &[(MITMPROXY, dir.path())])
            .expect("found")
            .expect("a chain");
        assert!(found.program.ends_with(MITMPROXY_PROGRAM) && found.pipelock.is_none());
        let error = find(EgressChain::MitmproxyPipelock, &nothing, &[(MITMPROXY, dir.path())])
            .expect_err("no pipelock");
        assert!(
            error.kind() == ErrorKind::Engine && error.to_string().contains(PIPELOCK),
            "{error}"
        );
    }

    #[test]
    fn a_pipelock_that_nobody_pinned_is_not_run() {
        let dir = tempfile::tempdir().expect("dir");
        let file = dir.path().join("pipelock");
        std::fs::write(&file, "not it").expect("file");
        let error = pipelock(Some(file.into())).expect_err("unknown");
        assert!(
            error.kind() == ErrorKind::Engine && error.to_string().contains("nor pinned"),
            "{error}"
        );
        assert!(error.hint_text().is_some_and(|h| h.starts_with("nix/pipelock ")));
    }

    #[test]
    fn each_pin_is_a_hash() {
        let pins: Vec<Vec<&str>> = PIPELOCK_PINS
            .lines()
            .filter(|l| !l.starts_with('#'))
            .map(|l| l.split(' ').collect())
            .collect();
        assert_eq!(pins.len(), 6);
        assert!(
            pins.iter().all(|p| p.len() == 3
                && p[2].len() == 64
                && p[2].bytes().all(|b| b.is_ascii_hexdigit())),
            "{pins:?}"
        );
    }

    #[test]
    fn what_a_chain_cannot_enforce_is_a_config_error_that_names_it() {
        type Change = fn(&mut Route);
        let both: [(&str, Change); 3] = [
            ("timeout", |r| r.timeout.idle = Some(60)),
            ("passthrough", |r| r.passthrough = true),
            ("scan", |r| r.scan = Scan { responses: true, ..Scan::default() }),
        ];
        let behind: [(&str, Change); 3] = [
            ("connect", |r| r.connect = "127.0.0.1:1".parse().ok()),
            ("ca", |r| r.ca = Some(String::new())),
            ("tls = false", |r| r.tls = false),
        ];
        for chain in [EgressChain::Mitmproxy, EgressChain::MitmproxyPipelock] {
            for (key, change) in
                both.iter().chain(behind.iter().filter(|_| chain == EgressChain::MitmproxyPipelock))
            {
                let error = find(chain, &policy(change), &[]).expect_err("not enforced");
                assert!(
                    error.kind() == ErrorKind::Config
                        && error.to_string().contains(&format!("route r: {key}")),
                    "{error}"
                );
            }
        }
        assert!(
            unsupported(EgressChain::Mitmproxy, &policy(|r| r.scan.limit = Some(Action::Off)))
                .is_empty()
        );
        assert!(
            unsupported(EgressChain::Mitmproxy, &policy(|r| r.ca = Some(String::new()))).is_empty()
        );
    }
}
