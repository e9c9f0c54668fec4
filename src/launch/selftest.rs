//! The self-test: from inside the guest, prove that it is shut in. Fails closed.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use bottle_channel::{ExecRequest, HostOpen, SELF, Session};
use bottle_policy::Secret;
use serde::Deserialize;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::plan::LaunchPlan;
use crate::provision;

/// A host that no policy can name: RFC 6761 keeps `.invalid` from ever existing.
pub(super) const DENIED_HOST: &str = "denied.bottle.invalid";
/// Checks that every report must have, besides one `endpoint-NAME` for each endpoint.
const CHECKS: [&str; 10] = [
    "network-devices",
    "hardware",
    "routes",
    "direct-tcp",
    "direct-udp",
    "raw-sockets",
    "vsock",
    "name-lookup",
    "host-loopback",
    "denied-host",
];
/// Longest time for the whole self-test.
const DEADLINE: Duration = Duration::from_secs(30);
/// Longest report, in bytes: the guest wrote it.
const REPORT_LIMIT: usize = 1 << 20;

/// A listener on the host's loopback that nothing in a bottle may ever reach.
#[derive(Debug)]
pub(super) struct Canary(TcpListener);

impl Canary {
    pub(super) fn new() -> Result<Self> {
        let what = || "cannot listen on the host's loopback".to_owned();
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context(ErrorKind::Internal, what)?;
        listener.set_nonblocking(true).context(ErrorKind::Internal, what)?;
        Ok(Self(listener))
    }

    pub(super) fn port(&self) -> Result<u16> {
        Ok(self
            .0
            .local_addr()
            .context(ErrorKind::Internal, || "the canary has no address".into())?
            .port())
    }

    fn was_reached(&self) -> bool {
        self.0.accept().is_ok()
    }
}

#[derive(Debug, Deserialize)]
struct Report {
    checks: Vec<Check>,
    environment: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
struct Check {
    name: String,
    passed: bool,
    #[serde(default)]
    detail: String,
}

/// Runs every check as the agent's user, in the agent's environment.
///
/// # Errors
/// `SelfTest` with every failed check; an answer that is missing or strange is a failure too.
pub(super) async fn run(
    session: &Session<HostOpen>,
    plan: &LaunchPlan,
    env: &BTreeMap<String, String>,
    canary: &Canary,
    secrets: &[&Secret],
) -> Result<usize> {
    // Checked before anything is sent: what is in the guest has leaked already.
    let leaking = leaks(env, secrets);
    if !leaking.is_empty() {
        return Err(refusal(&leaking));
    }
    let image = &plan.image.facts.guest;
    let mut argv =
        vec![SELF.to_owned(), "self-test".into(), "--canary".into(), canary.port()?.to_string()];
    argv.extend(["--denied-host".into(), DENIED_HOST.into()]);
    for endpoint in &plan.endpoints {
        argv.extend([
            "--endpoint".into(),
            format!("{}={}", endpoint.daemon.as_str(), endpoint.port),
        ]);
    }
    let request = ExecRequest {
        argv,
        env: env.clone(),
        cwd: Some(image.workdir.clone()),
        uid: image.uid,
        gid: image.gid,
        tty: None,
        stdin: false,
    };
    let captured =
        session.exec(request, REPORT_LIMIT, DEADLINE).await.context(ErrorKind::SelfTest, || {
            "the self-test did not finish, so the agent does not run".into()
        })?;
    let report: Report = serde_json::from_slice(&captured.stdout)
        .context(ErrorKind::SelfTest, || {
            "the self-test's report cannot be read, so the agent does not run".into()
        })?;
    let mut failed: Vec<String> = report
        .checks
        .iter()
        .filter(|c| !c.passed)
        .map(|c| format!("{}: {}", c.name, c.detail))
        .collect();
    if canary.was_reached() {
        failed.push("host-loopback: the guest reached a listener on the host's loopback".into());
    }
    failed.extend(missing(&report, plan, env));
    failed.extend(leaks(&report.environment, secrets));
    if failed.is_empty() && !captured.status.success() {
        failed.push(format!("exit: the self-test ended with {:?}", captured.status));
    }
    if failed.is_empty() {
        return Ok(report.checks.len());
    }
    Err(refusal(&failed))
}

fn refusal(failed: &[String]) -> Error {
    Error::new(
        ErrorKind::SelfTest,
        format!("the bottle is not shut in, so the agent does not run:\n  {}", failed.join("\n  ")),
    )
    .hint("report this: it is a bug in bot-bottle or in the engine")
}

/// Checks and variables that are missing from the report.
fn missing(report: &Report, plan: &LaunchPlan, env: &BTreeMap<String, String>) -> Vec<String> {
    let endpoints = plan.endpoints.iter().map(|e| format!("endpoint-{}", e.daemon.as_str()));
    let wanted = CHECKS.iter().map(|&name| name.to_owned()).chain(endpoints);
    let mut missing: Vec<String> = wanted
        .filter(|name| !report.checks.iter().any(|c| c.name == *name))
        .map(|name| format!("{name}: was not checked"))
        .collect();
    let unseen = env.iter().filter(|(name, value)| report.environment.get(*name) != Some(*value));
    missing.extend(
        unseen.map(|(name, _)| format!("environment: {name} is not what the agent is given")),
    );
    missing
}

fn leaks(environment: &BTreeMap<String, String>, secrets: &[&Secret]) -> Vec<String> {
    let holds = |value: &str| secrets.iter().any(|s| value.contains(s.expose()));
    let leaking = environment.iter().filter(|(_, value)| holds(value));
    leaking
        .map(|(name, _)| format!("secrets: the guest's variable {name} holds a token's value"))
        .collect()
}

/// The environment that the agent will see, which the self-test searches for secrets.
#[must_use]
pub(super) fn agent_environment(plan: &LaunchPlan) -> BTreeMap<String, String> {
    let term = std::env::var("TERM").ok().filter(|t| {
        t.len() < 64 && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"-+._".contains(&b))
    });
    provision::environment(plan, term.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_inside_a_longer_value_is_a_leak() {
        let environment = BTreeMap::from([
            ("A".to_owned(), "Bearer s3cret!".to_owned()),
            ("B".to_owned(), "no".to_owned()),
        ]);
        let found = leaks(&environment, &[&Secret::new("s3cret".into())]);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("variable A") && !found[0].contains("s3cret"));
    }

    #[test]
    fn a_connection_to_the_canary_is_noticed() {
        let canary = Canary::new().expect("canary");
        assert!(!canary.was_reached());
        let _connection =
            std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, canary.port().expect("port")))
                .expect("connect");
        assert!(canary.was_reached());
    }
}
