//! Deploy keys: made in memory, registered with a forge at launch, revoked at its end, whoever ends it.
//!
//! What a forge may have of a bottle is written down before the forge is asked, and forgotten once the forge no longer lists it. So
//! whoever finds the file after a crash can revoke what is in it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bottle_policy::{DeployKeyAction, Forge, ForgeRequest, Secret, TokenName};
use rcgen::PublicKeyData;
use serde::{Deserialize, Serialize};

use super::gate::{key_name, text};
use super::tokens;
use crate::error::{Context, Error, Kind, Result};
use crate::manifest::TokenSource;
use crate::plan::LaunchPlan;
use crate::process::Program;
use crate::say::say;
use crate::state::{BottleDir, write_private};

/// For one question to a forge; the program itself gives up before.
const DEADLINE: Duration = Duration::from_secs(25);

/// A key that a forge has or may have.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Registered {
    /// The closure's `bottle-bundle`, which speaks with the forge.
    program: PathBuf,
    forge: Forge,
    api: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca: Option<String>,
    repo: String,
    /// Where people find it.
    page: String,
    /// Where the token comes from, never the token.
    token: (TokenName, TokenSource),
    title: String,
    public_key: String,
}

/// Makes and registers the keys that `plan` asks for; returns the private ones, by the names that git-gate's policy has.
pub(super) async fn register(plan: &LaunchPlan, dir: &BottleDir, program: &Path) -> Result<Vec<(TokenName, Secret)>> {
    let mut private = Vec::new();
    let mut known = read(dir)?;
    for (i, git) in plan.git.iter().enumerate() {
        let Some(wanted) = &git.deploy_key else { continue };
        let failed = |e: &dyn std::fmt::Display| Error::new(Kind::Config, format!("git upstream {}: {e}", git.name));
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(|e| failed(&e))?;
        let host = nix::unistd::gethostname().map(|h| h.to_string_lossy().into_owned()).unwrap_or_default();
        let registered = Registered {
            program: program.to_owned(),
            forge: wanted.forge,
            api: wanted.api.clone(),
            ca: wanted.ca_file.as_deref().map(text).transpose().map_err(|e| failed(&format!("ca_file {e}")))?,
            repo: wanted.repo.clone(),
            page: page(wanted.forge, git.url.host(), &wanted.repo),
            token: wanted.token.clone(),
            title: format!("bottle {} on {host}", plan.slug),
            public_key: openssh(key.der_bytes()),
        };
        let action =
            DeployKeyAction::Register { title: registered.title.clone(), public_key: registered.public_key.clone(), write: wanted.write };
        known.push(registered.clone());
        write(dir, &known)?;
        if let Some(why) = registered.ask(action).await.map_err(|e| failed(&e))? {
            known.pop();
            write(dir, &known)?;
            return Err(failed(&why));
        }
        private.push((key_name(i)?, Secret::new(key.serialize_pem())));
    }
    Ok(private)
}

/// Revokes every key that the bottle in `dir`, whose lock the caller holds, may have left with a forge; whether there was one.
///
/// # Errors
/// `Internal`: which keys are still there, why, and where to remove them by hand. They stay written down for the next attempt.
pub async fn revoke(dir: &BottleDir) -> Result<bool> {
    let mut left = Vec::new();
    let mut why = Vec::new();
    let known = read(dir)?;
    for key in &known {
        let asked = key.ask(DeployKeyAction::Revoke { public_key: key.public_key.clone() }).await;
        if let Some(e) = asked.unwrap_or_else(|e| Some(e.to_string())) {
            why.push(format!("the deploy key {:?} of {} IS NOT REVOKED: {e}; remove it by hand at {}", key.title, key.repo, key.page));
            left.push(key.clone());
        }
    }
    if left.len() < known.len() {
        write(dir, &left)?;
    }
    if why.is_empty() {
        return Ok(!known.is_empty());
    }
    Err(Error::new(Kind::Internal, why.join("; "))
        .hint("bottle cleanup   # tries again, as list and launch do; it needs the forge's token"))
}

/// The same before a launch: what an earlier one left is not this one's failure, but is said.
pub(super) async fn revoke_left(dir: &BottleDir) {
    if let Err(e) = revoke(dir).await {
        say(format_args!("bottle: {e}"));
    }
}

impl Registered {
    /// Asks the forge; says why it certainly did nothing. Of an error that is not certain.
    async fn ask(&self, deploy_key: DeployKeyAction) -> Result<Option<String>> {
        // A token that lives shorter than the launch is asked for anew.
        let token = tokens::value(&self.token.0, &self.token.1, Stdio::inherit()).await?;
        let (forge, api, ca, repo) = (self.forge, self.api.clone(), self.ca.clone(), self.repo.clone());
        let request = ForgeRequest { forge, api, ca, token, repo, deploy_key };
        let program = Program::new("the forge's client", &self.program).arg("forge");
        let program = program.args(["--parent", &std::process::id().to_string()]);
        let program = ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().fold(program, |program, name| match std::env::var_os(name) {
            Some(value) => program.env(name, value),
            None => program,
        });
        let said = program.run_with(&request, DEADLINE, Kind::Config).await?;
        let said = String::from_utf8_lossy(&said);
        match (said.trim(), said.trim().strip_prefix("refused: ")) {
            ("done", _) => Ok(None),
            (_, Some(why)) => Ok(Some(why.to_owned())),
            _ => Err(Error::new(Kind::Internal, "the forge's client said nothing")),
        }
    }
}

fn read(dir: &BottleDir) -> Result<Vec<Registered>> {
    let path = dir.deploy_keys();
    let damaged = |e: &dyn std::fmt::Display| {
        Error::new(Kind::Internal, format!("{}: {e}; deploy keys of this bottle may be left with a forge", path.display()))
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
    let what = || format!("cannot write {}", path.display());
    if known.is_empty() {
        return std::fs::remove_file(&path).context(Kind::Config, what);
    }
    let json = serde_json::to_vec_pretty(known).context(Kind::Internal, what)?;
    write_private(&path, &json)?;
    // On the disk before the forge is asked: a key that outlives a power failure must be known to somebody.
    std::fs::File::open(&path).and_then(|f| f.sync_all()).context(Kind::Config, what)
}

/// The page of a repository's keys.
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
        assert!(line.starts_with("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI") && line.len() == "ssh-ed25519 ".len() + 68, "{line}");
    }
}
