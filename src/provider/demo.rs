//! The demo agent's other half: a local TLS upstream that knows the token the agent must never see.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bottle_policy::{GatePolicy, Policy, Secret};
use serde::Serialize;

use crate::closure::Closure;
use crate::error::{Context, Error, Kind, Result};
use crate::host::process::{Daemon, Program};
use crate::pki::Authority;
use crate::plan::DEMO_HOST;
use crate::state::{BottleDir, Journal};

const READY: Duration = Duration::from_secs(10);

/// What the upstream reads from its standard input.
#[derive(Serialize)]
struct Input<'a> {
    cert_chain: &'a str,
    key: &'a Secret,
    token: &'a Secret,
}

/// The running upstream.
#[derive(Debug)]
pub struct DemoUpstream {
    _daemon: Daemon,
}

impl DemoUpstream {
    /// Starts the upstream on a loopback port and points the demo's route and repository at it.
    ///
    /// # Errors
    /// `Engine` when it does not start.
    pub async fn start(
        closure: &Closure,
        dir: &BottleDir,
        token: &Secret,
        (policy, gate): (&mut Policy, Option<&mut GatePolicy>),
        journal: &mut Journal,
    ) -> Result<Self> {
        let authority = Authority::new("bottle demo upstream")?;
        let leaf = authority.leaf(DEMO_HOST)?;
        let program = Program::new("demo-upstream", &closure.bundle.binary.path)
            .arg("demo-upstream")
            .args(["--parent", &std::process::id().to_string()]);
        let mut daemon = program.spawn(&dir.log("demo-upstream"), journal)?;
        daemon.hand_over(&Input { cert_chain: &leaf.chain, key: &leaf.key, token }).await?;
        let line = daemon.first_line(READY).await?;
        let port: Option<u16> = line.strip_prefix("listening ").and_then(|p| p.parse().ok());
        let port = port.ok_or_else(|| {
            Error::new(Kind::Internal, format!("the demo's upstream said {line:?}"))
        })?;
        for route in policy.routes.iter_mut().filter(|r| r.host.as_str() == DEMO_HOST) {
            route.connect = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
            route.ca = Some(authority.certificate.clone());
        }
        for upstream in gate
            .into_iter()
            .flat_map(|gate| &mut gate.upstreams)
            .filter(|u| u.url.host() == DEMO_HOST)
        {
            // The guest's URL has no port; a connection to another port than the URL's there is
            // none.
            let url = format!("https://{DEMO_HOST}:{port}/{}.git", upstream.url.repo());
            upstream.url = url
                .parse()
                .context(Kind::Internal, || "the demo's repository has no URL".into())?;
            upstream.connect = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
            upstream.ca = Some(authority.certificate.clone());
        }
        Ok(Self { _daemon: daemon })
    }
}
