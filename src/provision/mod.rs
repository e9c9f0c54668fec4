//! What is put into a started guest: environment, certificate authority, prompt.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bottle_channel::copy::copy_in;
use bottle_channel::{CopyInRequest, Endpoint, EndpointName, ExecRequest, GuestConfig, HostOpen, MakeDir, Session, call};

use crate::error::{Context, Error, Kind, Result};
use crate::plan::{Daemon, LaunchPlan};
use crate::state::now_ms;

/// Where the bottle's CA is in the guest.
pub const CA: &str = "/etc/ssl/bottle/ca.pem";
/// The guest's system bundle, to which the CA is added.
pub const CA_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Where the prompt is, relative to the agent's home.
const PROMPT: &str = ".bottle/prompt.md";

/// What a launch tells the guest's init before anything runs.
#[must_use]
pub fn configuration(plan: &LaunchPlan) -> GuestConfig {
    let image = &plan.image.facts;
    GuestConfig {
        hostname: plan.slug.to_string(),
        time_unix_ms: now_ms(),
        endpoints: plan.endpoints.iter().map(|e| Endpoint { name: endpoint(e.daemon), port: e.port }).collect(),
        mkdirs: [&image.home, &image.workdir]
            .into_iter()
            .map(|path| MakeDir { path: path.clone(), mode: 0o700, uid: image.uid, gid: image.gid })
            .collect(),
        ..GuestConfig::default()
    }
}

fn endpoint(daemon: Daemon) -> EndpointName {
    match daemon {
        Daemon::Egress => EndpointName::Egress,
        Daemon::GitGate => EndpointName::GitGate,
        Daemon::Supervise => EndpointName::Supervise,
    }
}

/// The whole environment of the agent; nothing of the host's comes through but what the plan says.
#[must_use]
pub fn environment(plan: &LaunchPlan, term: Option<&str>) -> BTreeMap<String, String> {
    let image = &plan.image.facts;
    let mut env = BTreeMap::new();
    let mut set = |name: &str, value: &str| {
        env.insert(name.to_owned(), value.to_owned());
    };
    set("HOME", &image.home);
    set("USER", &image.user);
    set("LOGNAME", &image.user);
    set("SHELL", "/bin/bash");
    set("PATH", &image.path);
    set("LANG", "C.UTF-8");
    set("BOTTLE", plan.slug.as_str());
    if let Some(term) = term {
        set("TERM", term);
    }
    for endpoint in &plan.endpoints {
        let url = format!("http://127.0.0.1:{}", endpoint.port);
        match endpoint.daemon {
            Daemon::Egress => {
                for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
                    set(name, &url);
                }
                set("NO_PROXY", "localhost,127.0.0.1,::1");
                set("no_proxy", "localhost,127.0.0.1,::1");
            }
            Daemon::GitGate => set("GIT_GATE_URL", &url),
            Daemon::Supervise => set("MCP_SUPERVISE_URL", &format!("{url}/")),
        }
    }
    set("NODE_EXTRA_CA_CERTS", CA);
    for name in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "CARGO_HTTP_CAINFO", "PIP_CERT"] {
        set(name, CA_BUNDLE);
    }
    env.extend(plan.env.iter().map(|(name, value)| (name.to_string(), value.clone())));
    env
}

/// Applies [`configuration`].
///
/// # Errors
/// `Engine` when the guest refuses.
pub async fn configure(session: &Session<HostOpen>, plan: &LaunchPlan) -> Result<()> {
    let done: std::result::Result<(), _> = call(session, &HostOpen::Configure(configuration(plan))).await;
    done.context(Kind::Engine, || "the guest could not be set up".into())
}

/// Puts the CA into the guest's trust stores and the prompt into the agent's home.
///
/// # Errors
/// `Engine` when the guest refuses (a full disk, for one).
pub async fn provision(session: &Session<HostOpen>, plan: &LaunchPlan, ca_certificate: &str) -> Result<()> {
    let what = || "the guest could not be provisioned".to_owned();
    let root = archive(&[(CA, ca_certificate, 0o644), ("/usr/local/share/ca-certificates/bottle.crt", ca_certificate, 0o644)])?;
    copy_in(session, CopyInRequest { dest_dir: "/".into(), uid: Some(0), gid: Some(0) }, root.as_slice())
        .await
        .context(Kind::Engine, what)?;
    let mut script = String::new();
    let _ = write!(script, "cat {CA} >> {CA_BUNDLE}");
    let trusted = run_as_root(session, &["/bin/sh", "-c", &script]).await?;
    if !trusted {
        return Err(Error::new(Kind::Engine, format!("{}: {CA_BUNDLE} cannot be written", what())));
    }
    if let Some(prompt) = plan.prompt.as_ref().filter(|p| !p.text.is_empty()) {
        let image = &plan.image.facts;
        let home = archive(&[(PROMPT, &prompt.text, 0o600)])?;
        let request = CopyInRequest { dest_dir: image.home.clone(), uid: Some(image.uid), gid: Some(image.gid) };
        copy_in(session, request, home.as_slice()).await.context(Kind::Engine, what)?;
    }
    Ok(())
}

async fn run_as_root(session: &Session<HostOpen>, argv: &[&str]) -> Result<bool> {
    let request = ExecRequest {
        argv: argv.iter().map(|&a| a.to_owned()).collect(),
        env: BTreeMap::from([("PATH".to_owned(), "/usr/sbin:/usr/bin:/sbin:/bin".to_owned())]),
        cwd: None,
        uid: 0,
        gid: 0,
        tty: None,
        stdin: false,
    };
    let capture = session
        .exec(request, 64 * 1024, std::time::Duration::from_secs(30))
        .await
        .context(Kind::Engine, || "the guest could not be provisioned".into())?;
    Ok(capture.status.success())
}

/// A tar of small files. Names may be absolute; they are taken relative to the destination.
fn archive(files: &[(&str, &str, u32)]) -> Result<Vec<u8>> {
    let what = || "cannot pack what the guest gets".to_owned();
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content, mode) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        header.set_mtime(0);
        builder.append_data(&mut header, path.trim_start_matches('/'), content.as_bytes()).context(Kind::Internal, what)?;
    }
    builder.into_inner().context(Kind::Internal, what)
}
