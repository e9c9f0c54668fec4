//! What is put into a started guest: environment, certificate authority, prompt.

pub mod skills;

use std::collections::BTreeMap;

use bottle_channel::copy::copy_in;
use bottle_channel::trust::{CA, CA_BUNDLE, JAVA_TRUST_STORE};
use bottle_channel::{
    CopyInRequest, Endpoint, EndpointName, GuestConfig, HostOpen, MakeDir, Session,
};

use crate::error::{Context, Kind, Result};
use crate::plan::{Daemon, Identity, LaunchPlan, PROMPT};
use crate::provider;
use crate::state::now_ms;

/// What a launch tells the guest's init before anything runs.
///
/// # Errors
/// `Config` when an upstream's URL is none.
fn configuration(plan: &LaunchPlan, ca_certificate: &str) -> Result<GuestConfig> {
    let image = &plan.image.facts;
    Ok(GuestConfig {
        hostname: plan.slug.to_string(),
        time_unix_ms: now_ms(),
        endpoints: plan
            .endpoints
            .iter()
            .map(|e| Endpoint { name: endpoint(e.daemon), port: e.port })
            .collect(),
        mkdirs: [&image.home, &image.workdir]
            .into_iter()
            .map(|path| MakeDir { path: path.clone(), mode: 0o700, uid: image.uid, gid: image.gid })
            .collect(),
        authority: Some(ca_certificate.to_owned()),
        git_settings: git_settings(plan)?,
    })
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
                for name in [
                    "HTTPS_PROXY",
                    "https_proxy",
                    "HTTP_PROXY",
                    "http_proxy",
                    "ALL_PROXY",
                    "all_proxy",
                ] {
                    set(name, &url);
                }
                set("NO_PROXY", "localhost,127.0.0.1,::1");
                set("no_proxy", "localhost,127.0.0.1,::1");
                // Without it node's fetch, alone among clients, takes no notice of the others (node
                // 24 and newer).
                set("NODE_USE_ENV_PROXY", "1");
            }
            Daemon::GitGate => set("GIT_GATE_URL", &url),
            Daemon::Supervise => set("MCP_SUPERVISE_URL", &format!("{url}/")),
        }
    }
    set("NODE_EXTRA_CA_CERTS", CA);
    for name in [
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "GIT_SSL_CAINFO",
        "CARGO_HTTP_CAINFO",
        "PIP_CERT",
    ] {
        set(name, CA_BUNDLE);
    }
    env.extend(plan.provider_env.clone());
    env.extend(plan.env.iter().map(|(name, value)| (name.to_string(), value.clone())));
    // A JVM reads no other variable; what the manifest says of it is said after ours.
    let own = env.remove(JAVA_OPTIONS);
    env.insert(
        JAVA_OPTIONS.to_owned(),
        [Some(java_options(plan)), own].into_iter().flatten().collect::<Vec<_>>().join(" "),
    );
    env
}

/// Options that every JVM takes from its environment.
const JAVA_OPTIONS: &str = "JAVA_TOOL_OPTIONS";

/// The trust store, and egress as the proxy, in Java's words.
fn java_options(plan: &LaunchPlan) -> String {
    let mut options = format!("-Djavax.net.ssl.trustStore={JAVA_TRUST_STORE}");
    if let Some(egress) = plan.endpoints.iter().find(|e| e.daemon == Daemon::Egress) {
        for scheme in ["http", "https"] {
            options +=
                &format!(" -D{scheme}.proxyHost=127.0.0.1 -D{scheme}.proxyPort={}", egress.port);
        }
        options += " -Dhttp.nonProxyHosts=localhost|127.0.0.1|[::1]";
    }
    options
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
    session.configure(config).await.context(Kind::Engine, || "the guest could not be set up".into())
}

/// Puts into the agent's home what is the operator's: the prompt, settings and skills.
///
/// # Errors
/// `Engine` when the guest refuses (a full disk, for one).
pub async fn provision(
    session: &Session<HostOpen>,
    plan: &LaunchPlan,
    given: Given<'_>,
) -> Result<()> {
    let what = || "the guest could not be provisioned".to_owned();
    let mut home: Vec<(&str, &[u8], u32)> = Vec::new();
    if let Some(prompt) = plan.prompt.as_ref().filter(|p| !p.text.is_empty()) {
        home.push((PROMPT, prompt.text.as_bytes(), 0o600));
    }
    let identity = plan.identity.as_ref().map(gitconfig);
    home.extend(identity.iter().map(|text| (".gitconfig", text.as_bytes(), 0o644)));
    // A resumed agent keeps what it wrote into them.
    let settings = if given.resumed { Vec::new() } else { provider::files(plan) };
    home.extend(settings.iter().map(|f| (f.path.as_str(), f.content.as_bytes(), 0o600)));
    if !home.is_empty() {
        let image = &plan.image.facts;
        let home = archive(&home)?;
        let request = CopyInRequest {
            dest_dir: image.home.clone(),
            uid: Some(image.uid),
            gid: Some(image.gid),
        };
        copy_in(session, request, home.as_slice()).await.context(Kind::Engine, what)?;
    }
    if let Some(skills) = given.skills {
        let image = &plan.image.facts;
        let request = CopyInRequest {
            dest_dir: image.home.clone(),
            uid: Some(image.uid),
            gid: Some(image.gid),
        };
        copy_in(session, request, skills).await.context(Kind::Engine, what)?;
    }
    Ok(())
}

/// What a launch gives besides its plan.
#[derive(Debug, Clone, Copy, Default)]
pub struct Given<'a> {
    /// The tar of [`skills::pack`].
    pub skills: Option<&'a [u8]>,
    /// The disk is that of an earlier launch.
    pub resumed: bool,
}

/// Who the agent's commits are by.
fn gitconfig(identity: &Identity) -> String {
    let value = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    format!(
        "[user]\n\tname = {}\n\temail = {}\n[init]\n\tdefaultBranch = main\n",
        value(&identity.name),
        value(&identity.email)
    )
}

/// Leads every spelling of an upstream's URL to git-gate.
fn git_settings(plan: &LaunchPlan) -> Result<String> {
    let port = Daemon::GitGate.guest_port();
    let mut settings = String::new();
    for git in &plan.git {
        let url: bottle_policy::GateUrl = git
            .url
            .as_str()
            .parse()
            .context(Kind::Config, || format!("git upstream {}", git.name))?;
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
            .context(Kind::Internal, what)?;
    }
    builder.into_inner().context(Kind::Internal, what)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::manifest::{MemFiles, parse};
    use crate::plan::{Engine, Host, ImageFacts, Options, plan};

    fn environment_of(keys: &str) -> BTreeMap<String, String> {
        let text = format!(
            "version = 1\n[agents.a]\nbottle = \"d\"\nprovider = \"command\"\ncommand = [\"true\"]\n[bottles.d]\n{keys}\n"
        );
        let manifest =
            parse(text.as_bytes(), std::path::Path::new("bottle.toml"), &MemFiles::default())
                .unwrap();
        let facts = ImageFacts {
            image: "/nix/store/a".into(),
            user: "node".into(),
            uid: 1000,
            gid: 1000,
            home: "/home/node".into(),
            workdir: "/home/node".into(),
            path: "/usr/bin".into(),
        };
        let images = BTreeMap::from([("demo".parse().unwrap(), facts)]);
        let engine = Engine { name: "qemu".into(), reason: String::new() };
        environment(
            &plan(
                &manifest,
                "a",
                &Host { env: &|_| None, engine, images, identity: None, logins: BTreeMap::new() },
                &Options::default(),
            )
            .unwrap(),
            None,
        )
    }

    const ROUTE: &str = "[[bottles.d.egress]]\nhost = \"api.test\"";

    #[test]
    fn every_client_is_told_of_the_proxy_and_the_ca() {
        let env = environment_of(ROUTE);
        for name in
            ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy"]
        {
            assert_eq!(env[name], "http://127.0.0.1:9099", "{name}");
        }
        assert_eq!(
            (&*env["NO_PROXY"], &*env["no_proxy"]),
            ("localhost,127.0.0.1,::1", "localhost,127.0.0.1,::1")
        );
        for name in [
            "SSL_CERT_FILE",
            "REQUESTS_CA_BUNDLE",
            "CURL_CA_BUNDLE",
            "GIT_SSL_CAINFO",
            "CARGO_HTTP_CAINFO",
            "PIP_CERT",
        ] {
            assert_eq!(env[name], CA_BUNDLE, "{name}");
        }
        assert_eq!((&*env["NODE_EXTRA_CA_CERTS"], &*env["NODE_USE_ENV_PROXY"]), (CA, "1"));
    }

    #[test]
    fn a_jvm_has_its_own_words_and_keeps_the_manifests() {
        let java = &environment_of(&format!("env.JAVA_TOOL_OPTIONS = \"-Xmx1g\"\n{ROUTE}"))["JAVA_TOOL_OPTIONS"];
        for option in [
            &*format!("-Djavax.net.ssl.trustStore={JAVA_TRUST_STORE}"),
            "-Dhttps.proxyHost=127.0.0.1",
            "-Dhttp.proxyPort=9099",
        ] {
            assert!(java.split(' ').any(|o| o == option), "{option} is not in {java}");
        }
        assert!(java.ends_with(" -Xmx1g"), "{java}");
    }
}
