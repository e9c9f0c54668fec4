//! Deploy keys: made in memory, registered with a forge at launch, and revoked when the launch ends
//! in any way.
//!
//! A key is written to the bottle's state before the forge is asked to register it, and removed
//! from there once the forge no longer lists it. So the next command can revoke it after a crash.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bottle_policy::{DeployKeyAction, Forge, ForgeRequest, Secret, TokenName};
use rcgen::PublicKeyData;
use serde::{Deserialize, Serialize};

use super::git::{key_name, text};
use super::tokens;
use crate::closure::Closure;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::fs::write_private;
use crate::host::process::{Program, Sink};
use crate::host::stderr::note;
use crate::manifest::TokenSource;
use crate::plan::LaunchPlan;
use crate::state::{BottleDir, now_ms};

/// Outer timeout of one request; `bottle-bundle forge` times out first.
const FORGE_DEADLINE: Duration = Duration::from_secs(25);

/// How long a registration that the forge never answered may still appear, ms.
const REGISTRATION_GRACE_MS: u64 = 5 * 60 * 1000;

/// A key that the forge has, or may have.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Registered {
    /// The closure's `bottle-bundle`, which is the forge's client.
    program: PathBuf,
    forge: Forge,
    api: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca: Option<String>,
    repo: String,
    /// Web page of the repository's keys.
    page: String,
    /// Where the token comes from, never the token.
    token: (TokenName, TokenSource),
    title: String,
    public_key: String,
    /// When the forge was asked, ms since the epoch.
    asked_ms: u64,
    /// Whether the forge confirmed the registration.
    confirmed: bool,
    /// Working directory of the launch, which a token's command may depend on.
    cwd: PathBuf,
}

/// Makes and registers the keys that `plan` asks for. Returns the private keys by their names in
/// git-gate's policy.
pub(crate) async fn register(
    plan: &LaunchPlan,
    dir: &BottleDir,
    program: &Path,
) -> Result<Vec<(TokenName, Secret)>> {
    let mut private = Vec::new();
    let mut known = read(dir)?;
    for (i, git) in plan.git.iter().enumerate() {
        let Some(wanted) = &git.deploy_key else { continue };
        let failed = |e: &dyn std::fmt::Display| {
            Error::new(ErrorKind::Config, format!("git upstream {}: {e}", git.name))
        };
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(|e| failed(&e))?;
        let public_key = openssh(key.der_bytes());
        let host = nix::unistd::gethostname()
            .map(|h| h.to_string_lossy().into_owned())
            .unwrap_or_default();
        let registered = Registered {
            program: program.to_owned(),
            forge: wanted.forge,
            api: wanted.api.clone(),
            ca: wanted
                .ca_file
                .as_deref()
                .map(text)
                .transpose()
                .map_err(|e| failed(&format!("ca_file {e}")))?,
            repo: wanted.repo.clone(),
            page: page(wanted.forge, git.url.host(), &wanted.repo),
            token: wanted.token.clone(),
            // Some forges want a unique title for every key of a repository.
            title: format!(
                "bottle {} on {host} ({})",
                plan.slug,
                &public_key[public_key.len() - 8..]
            ),
            public_key,
            asked_ms: now_ms(),
            confirmed: false,
            cwd: std::env::current_dir().map_err(|e| failed(&e))?,
        };
        let action = DeployKeyAction::Register {
            title: registered.title.clone(),
            public_key: registered.public_key.clone(),
            write: wanted.write,
        };
        known.push(registered.clone());
        write(dir, &known)?;
        match registered.ask(action).await.map_err(|e| failed(&e.chain()))? {
            ForgeResult::Refused(why) => {
                known.pop();
                write(dir, &known)?;
                return Err(failed(&why));
            }
            ForgeResult::Done | ForgeResult::Absent => {
                known.iter_mut().for_each(|k| k.confirmed |= k.public_key == registered.public_key);
                write(dir, &known)?;
            }
        }
        private.push((key_name(i)?, Secret::new(key.serialize_pem())));
    }
    Ok(private)
}

/// Revokes every key that the bottle in `dir` may have left with a forge; returns whether there was
/// one. The caller holds the bottle's lock. A failure for a key of a launch before `since` (ms
/// since the epoch) is printed and is no error.
///
/// # Errors
/// `Internal`: which keys are still registered, why, and where to remove them by hand. They stay in
/// the bottle's state for the next attempt.
pub async fn revoke(dir: &BottleDir, since: u64) -> Result<bool> {
    let mut left = Vec::new();
    let mut why = Vec::new();
    let known = read(dir)?;
    for key in &known {
        let asked = key.ask(DeployKeyAction::Revoke { public_key: key.public_key.clone() }).await;
        let failure = match asked {
            Ok(ForgeResult::Done) => continue,
            Ok(ForgeResult::Absent)
                if key.confirmed || now_ms() > key.asked_ms + REGISTRATION_GRACE_MS =>
            {
                continue;
            }
            // The forge may still be registering it. The next command tries again.
            Ok(ForgeResult::Absent) => None,
            Ok(ForgeResult::Refused(why)) => Some(why),
            Err(e) => Some(e.chain()),
        };
        left.push(key.clone());
        let Some(failure) = failure else { continue };
        let text = format!(
            "the deploy key {:?} of {} IS NOT REVOKED: {failure}; remove it by hand at {}",
            key.title, key.repo, key.page
        );
        if key.asked_ms < since {
            note(format_args!("bottle: {text}"));
        } else {
            why.push(text);
        }
    }
    if left.len() < known.len() {
        write(dir, &left)?;
    }
    if why.is_empty() {
        return Ok(!known.is_empty());
    }
    let hint = format!(
        "bottle cleanup   # tries again, as list and launch do; it needs the forge's token. Of a key that is gone: bottle rm --forget-keys {}",
        dir.slug()
    );
    Err(Error::new(ErrorKind::Internal, why.join("; ")).hint(hint))
}

/// The same before a launch. A failure is printed: it is not the new launch's.
pub(crate) async fn revoke_left(dir: &BottleDir) {
    if let Err(e) = revoke(dir, 0).await {
        note(format_args!("bottle: {e:#}"));
    }
}

/// The forge's result.
enum ForgeResult {
    /// The request was carried out.
    Done,
    /// The key was not there.
    Absent,
    /// The forge certainly did nothing, and why.
    Refused(String),
}

impl Registered {
    /// Sends a request to the forge. After an error it is unknown whether the forge acted.
    async fn ask(&self, deploy_key: DeployKeyAction) -> Result<ForgeResult> {
        // Resolved again, because the token may live shorter than the launch.
        let token = tokens::value_in(
            &self.cwd,
            &self.token.0,
            &self.token.1,
            tokens::RefreshContext { bundle: &self.program, rejected: None },
            Sink::Inherit,
        )
        .await?;
        let (forge, api, ca, repo) =
            (self.forge, self.api.clone(), self.ca.clone(), self.repo.clone());
        let request = ForgeRequest { forge, api, ca, token, repo, deploy_key };
        // The program of the launch may have been garbage-collected since.
        let program = if self.program.exists() {
            self.program.clone()
        } else {
            Closure::load()?.bundle.binary.path.into()
        };
        let program = Program::new("the forge's client", program)
            .arg("forge")
            .args(["--parent", &std::process::id().to_string()]);
        let output =
            program.with_host_roots().run_with(&request, FORGE_DEADLINE, ErrorKind::Config).await?;
        let output = String::from_utf8_lossy(&output);
        match (output.trim(), output.trim().strip_prefix("refused: ")) {
            ("done", _) => Ok(ForgeResult::Done),
            ("absent", _) => Ok(ForgeResult::Absent),
            (_, Some(why)) => Ok(ForgeResult::Refused(why.to_owned())),
            _ => Err(Error::new(ErrorKind::Internal, "the forge's client printed nothing")),
        }
    }
}

fn read(dir: &BottleDir) -> Result<Vec<Registered>> {
    let path = dir.deploy_keys();
    let damaged = |e: &dyn std::fmt::Display| {
        Error::new(
            ErrorKind::Internal,
            format!("{}: {e}; deploy keys of this bottle may be left with a forge", path),
        )
        .hint("look for keys titled `bottle …` at the forge, then remove the file")
    };
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| damaged(&e)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(damaged(&e)),
    }
}

fn write(dir: &BottleDir, known: &[Registered]) -> Result<()> {
    let path = dir.deploy_keys();
    let what = || format!("cannot write {path}");
    if known.is_empty() {
        return std::fs::remove_file(&path).context(ErrorKind::Io, what);
    }
    let json = serde_json::to_vec_pretty(known).context(ErrorKind::Internal, what)?;
    write_private(&path, &json)?;
    // Synced before the forge is asked, so that the key is known after a power failure.
    std::fs::File::open(&path).and_then(|f| f.sync_all()).context(ErrorKind::Io, what)
}

/// The web page of a repository's keys.
fn page(forge: Forge, host: &str, repo: &str) -> String {
    match forge {
        Forge::GitHub | Forge::Gitea => format!("https://{host}/{repo}/settings/keys"),
        Forge::GitLab => format!("https://{host}/{repo}/-/settings/repository"),
    }
}

/// An ed25519 public key as in `authorized_keys`.
fn openssh(public: &[u8]) -> String {
    use base64::Engine as _;
    const KIND: &[u8] = b"ssh-ed25519";
    let mut blob = Vec::new();
    for part in [KIND, public] {
        blob.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        blob.extend_from_slice(part);
    }
    format!("ssh-ed25519 {}", base64::engine::general_purpose::STANDARD.encode(blob))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_key_has_openssh_s_form() {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let line = openssh(key.der_bytes());
        assert!(
            line.starts_with("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI")
                && line.len() == "ssh-ed25519 ".len() + 68,
            "{line}"
        );
    }
}
