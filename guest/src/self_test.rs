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

/// What to test, from the command line.
#[derive(Default)]
struct Options {
    canaries: Vec<u16>,
    denied_hosts: Vec<String>,
    endpoints: Vec<(EndpointName, u16)>,
}

impl Options {
    fn parse(args: &[String]) -> Result<Self, String> {
        let mut options = Self::default();
        for (name, value) in args::options(args, &[])? {
            match name.as_str() {
                "canary" => options.canaries.push(args::number::<u16>(&name, &value)?),
                "denied-host" => options.denied_hosts.push(value),
                "endpoint" => {
                    let (endpoint, port) = value
                        .split_once('=')
                        .ok_or_else(|| format!("--endpoint {value}: expected NAME=PORT"))?;
                    let port = args::number::<u16>(&name, port)?;
                    options.endpoints.push((endpoint.parse::<EndpointName>()?, port));
                }
                _ => return Err(format!("unknown option --{name}")),
            }
        }
        Ok(options)
    }
}

/// Exits with 0 only when every check passed.
pub fn main(args: &[String]) -> Result<ExitCode, String> {
    let options = Options::parse(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    let checks = runtime.block_on(run(options));
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

/// Runs all checks concurrently.
async fn run(options: Options) -> Vec<Check> {
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
    for port in options.canaries {
        check!("host-loopback", checks::host_loopback(port).await);
    }
    for host in options.denied_hosts {
        check!("denied-host", checks::denied_host(&host).await);
    }
    for (name, port) in options.endpoints {
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
        done.push(check.unwrap_or_else(|e| (u32::MAX, Check::new("internal", Err(e.to_string())))));
    }
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, check)| check).collect::<Vec<_>>()
}
