//! What is put into a started guest: environment, certificate authority, prompt.

mod environment;
pub mod skills;

pub use environment::environment;

use bottle_channel::copy::copy_in;
use bottle_channel::{CopyInRequest, Endpoint, GuestConfig, HostOpen, MakeDir, Session};

use crate::error::{Context, ErrorKind, Result};
use crate::plan::{Daemon, Identity, LaunchPlan, PROMPT};
use crate::provider::{GuestFile, SettingsInputs};
use crate::state::now_ms;

/// The configuration that the guest's init gets before anything runs.
///
/// # Errors
/// `Config` when an upstream's URL is not valid.
fn configuration(plan: &LaunchPlan, ca_certificate: &str) -> Result<GuestConfig> {
    let image = &plan.image.facts.guest;
    Ok(GuestConfig {
        hostname: plan.slug.to_string(),
        time_unix_ms: now_ms(),
        endpoints: plan
            .endpoints
            .iter()
            .map(|e| Endpoint { name: e.daemon, port: e.port })
            .collect(),
        mkdirs: [&image.home, &image.workdir]
            .into_iter()
            .map(|path| MakeDir { path: path.clone(), mode: 0o700, uid: image.uid, gid: image.gid })
            .collect(),
        authority: Some(ca_certificate.to_owned()),
        git_settings: git_settings(plan)?,
    })
}

/// Sets the guest up: its name and clock, what it listens on, and the authority that its TLS
/// clients trust.
///
/// # Errors
/// `Engine` when the guest refuses.
pub async fn configure(
    session: &Session<HostOpen>,
    plan: &LaunchPlan,
    ca_certificate: &str,
) -> Result<()> {
    let config = configuration(plan, ca_certificate)?;
    session
        .configure(config)
        .await
        .context(ErrorKind::Guest, || "the guest could not be set up".into())
}

/// Puts the operator's prompt, settings and skills into the agent's home.
///
/// # Errors
/// `Engine` when the guest refuses (a full disk, for one).
pub async fn provision(
    session: &Session<HostOpen>,
    plan: &LaunchPlan,
    extras: Extras<'_>,
) -> Result<()> {
    let what = || "the guest could not be provisioned".to_owned();
    let mut home: Vec<(&str, &[u8], u32)> = Vec::new();
    if let Some(prompt) = plan.prompt.as_ref().filter(|p| !p.text.is_empty()) {
        home.push((PROMPT, prompt.text.as_bytes(), 0o600));
    }
    let identity = plan.identity.as_ref().map(gitconfig);
    home.extend(identity.iter().map(|text| (".gitconfig", text.as_bytes(), 0o644)));
    // A resumed agent keeps its own changes of them.
    let settings = if extras.resumed { Vec::new() } else { settings_files(plan) };
    home.extend(settings.iter().map(|f| (f.path.as_str(), f.content.as_bytes(), 0o600)));
    if !home.is_empty() {
        let image = &plan.image.facts.guest;
        let home = archive(&home)?;
        let request = CopyInRequest {
            dest_dir: image.home.clone(),
            uid: Some(image.uid),
            gid: Some(image.gid),
        };
        copy_in(session, request, home.as_slice()).await.context(ErrorKind::Guest, what)?;
    }
    if let Some(skills) = extras.skills {
        let image = &plan.image.facts.guest;
        let request = CopyInRequest {
            dest_dir: image.home.clone(),
            uid: Some(image.uid),
            gid: Some(image.gid),
        };
        copy_in(session, request, skills).await.context(ErrorKind::Guest, what)?;
    }
    Ok(())
}

/// The files of the agent's own settings.
fn settings_files(plan: &LaunchPlan) -> Vec<GuestFile> {
    let Some(settings) = &plan.settings else { return Vec::new() };
    let supervise = plan.endpoints.iter().find(|e| e.daemon == Daemon::Supervise);
    (plan.provider.settings_files)(&SettingsInputs {
        guest: &plan.image.facts.guest,
        settings,
        prompt: plan.prompt.as_ref().map(|p| p.text.as_str()),
        supervise: supervise.map(|e| (e.daemon.as_str(), format!("http://127.0.0.1:{}/", e.port))),
    })
}

/// What provisioning needs besides the plan.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extras<'a> {
    /// The tar of [`skills::pack`].
    pub skills: Option<&'a [u8]>,
    /// Whether the disk is that of an earlier launch.
    pub resumed: bool,
}

/// The git configuration with the author of the agent's commits.
fn gitconfig(identity: &Identity) -> String {
    let value = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    format!(
        "[user]\n\tname = {}\n\temail = {}\n[init]\n\tdefaultBranch = main\n",
        value(&identity.name),
        value(&identity.email)
    )
}

/// The git configuration that redirects every spelling of an upstream's URL to git-gate.
fn git_settings(plan: &LaunchPlan) -> Result<String> {
    let port = Daemon::GitGate.port();
    let mut settings = String::new();
    for git in &plan.git {
        let url: bottle_policy::GateUrl = git
            .url
            .as_str()
            .parse()
            .context(ErrorKind::Config, || format!("git upstream {}", git.name))?;
        settings += &format!("[url \"http://127.0.0.1:{port}/{}.git\"]\n", git.name);
        // Neither a name nor a URL has quotes, backslashes or line breaks in it.
        url.spellings()
            .iter()
            .for_each(|spelling| settings += &format!("\tinsteadOf = \"{spelling}\"\n"));
    }
    Ok(settings)
}

/// A tar of small files. Names may be absolute; they are taken relative to the destination.
fn archive(files: &[(&str, &[u8], u32)]) -> Result<Vec<u8>> {
    let what = || "cannot pack what the guest gets".to_owned();
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content, mode) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        header.set_mtime(0);
        builder
            .append_data(&mut header, path.trim_start_matches('/'), *content)
            .context(ErrorKind::Internal, what)?;
    }
    builder.into_inner().context(ErrorKind::Internal, what)
}
