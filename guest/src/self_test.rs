//! `bottle-guest self-test`: checks from inside, as the agent's user, that the bottle is closed and
//! that its daemons answer.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use bottle_channel::EndpointName;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::args;
use crate::checks::{self, Check};

/// The JSON document on stdout.
#[derive(Serialize)]
struct Report {
    /// Document version.
    version: u32,
    /// All checks, in a fixed order.
    checks: Vec<Check>,
    /// The environment that an agent sees. The host compares it with the secret values, which this
    /// process must not know.
    environment: BTreeMap<String, String>,
    /// As `uname -r` prints it.
    kernel: String,
}

/// Exits 0 only when every check passed.
pub fn main(args: &[String]) -> Result<ExitCode, String> {
    let (mut canaries, mut denied, mut endpoints) = (Vec::new(), Vec::new(), Vec::new());
    for (name, value) in args::options(args, &[])? {
        match name.as_str() {
            "canary" => canaries.push(args::number::<u16>(&name, &value)?),
            "denied-host" => denied.push(value),
            "endpoint" => {
                let (endpoint, port) = value
                    .split_once('=')
                    .ok_or_else(|| format!("--endpoint {value}: expected NAME=PORT"))?;
                endpoints
                    .push((endpoint.parse::<EndpointName>()?, args::number::<u16>(&name, port)?));
            }
            _ => return Err(format!("unknown option --{name}")),
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    let checks = runtime.block_on(async {
        // This must come before anything that the host answers; see `checks::vsock`.
        let attempts = checks::vsock_attempts();
        let (answers, answered) = watch::channel(false);
        let answers = Arc::new(answers);
        let mut set = JoinSet::new();
        let mut order = 0;
        let mut next = || {
            order += 1;
            order
        };
        macro_rules! check {
            ($name:expr, $result:expr) => {{
                let (at, name) = (next(), $name);
                set.spawn(async move { (at, Check::new(name, $result)) });
            }};
        }
        check!("network-devices", checks::network_devices());
        check!("hardware", checks::hardware());
        check!("routes", checks::routes());
        check!("direct-tcp", checks::direct_tcp().await);
        check!("direct-udp", checks::direct_udp());
        check!("raw-sockets", checks::raw_sockets());
        check!("vsock", checks::vsock(attempts, answered).await);
        check!("name-lookup", checks::name_lookup().await);
        for port in canaries {
            check!("host-loopback", checks::host_loopback(port).await);
        }
        for host in denied {
            check!("denied-host", checks::denied_host(&host).await);
        }
        for (name, port) in endpoints {
            let answers = Arc::clone(&answers);
            check!(
                format!("endpoint-{name}"),
                checks::endpoint(port).await.inspect(|_| {
                    answers.send_replace(true);
                })
            );
        }
        let mut done = Vec::new();
        while let Some(check) = set.join_next().await {
            // A check that panics has failed.
            done.push(
                check.unwrap_or_else(|e| (u32::MAX, Check::new("internal", Err(e.to_string())))),
            );
        }
        done.sort_by_key(|(at, _)| *at);
        done.into_iter().map(|(_, check)| check).collect::<Vec<_>>()
    });
    let passed = checks.iter().all(|check| check.passed);
    let environment = std::env::vars_os()
        .map(|(name, value)| {
            (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
        })
        .collect();
    let kernel =
        std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    let report = Report { version: 1, checks, environment, kernel };
    println!("{}", serde_json::to_string(&report).map_err(|e| e.to_string())?);
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
