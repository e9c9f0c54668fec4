//! Memory over time.

use std::time::{Duration, Instant};

use super::cases::{self, BENCH, CONNECTIONS};
use super::client::{self, Client, Way};
use super::policy::Setup;
use crate::daemon::{Daemon, Program};
use crate::report::Against::AtMost;
use crate::report::Report;

/// A daemon's audit log takes some 270,000 requests in one launch: the load is thinned out to stay
/// below.
const REQUESTS: f64 = 200_000.0;
/// And at most so many a second.
const RATE: f64 = 2000.0;
/// Parts of the time; each has new connections, GETs, and POSTs.
const PARTS: u32 = 12;

/// Load of all kinds for `span`; the resident memory must not grow by more than a tenth once all
/// kinds have been there.
pub fn run(
    report: &mut Report,
    runtime: &tokio::runtime::Runtime,
    program: &Program,
    setup: &Setup,
    client: &dyn Fn(Way) -> Result<Client, String>,
    span: Duration,
) -> Result<(), String> {
    if span.is_zero() {
        return Ok(());
    }
    let daemon = Daemon::start(program, &setup.policy, &setup.input)?;
    let client = client(Way::Proxy(daemon.socket()))?;
    let loaded = |part: Duration, pause| {
        runtime.block_on(async {
            for request in [cases::get(cases::SMALL), cases::post()] {
                // The connections are new ones every time.
                let mut connections = client::open(&client, CONNECTIONS, &request).await?;
                client::keep_alive(&mut connections, &request, part / 2, pause).await?;
            }
            Ok::<_, String>(())
        })
    };
    loaded(Duration::from_secs(2), None).map_err(|e| format!("soak: {e}: {}", daemon.log()))?;
    let pause =
        Duration::from_secs_f64(CONNECTIONS as f64 / RATE.min(REQUESTS / span.as_secs_f64()));
    let (began, mut resident) = (Instant::now(), vec![daemon.resident()]);
    for _ in 0..PARTS {
        loaded(span / PARTS, Some(pause))
            .map_err(|e| format!("soak, after {:?}: {e}: {}", began.elapsed(), daemon.log()))?;
        resident.push(daemon.resident());
    }
    let case = format!("soak, {} s", span.as_secs());
    let (start, middle, end) =
        (resident[0], resident[resident.len() / 2], resident[resident.len() - 1]);
    for (metric, value) in [("RSS at its start", start), ("RSS at its middle", middle)] {
        report.figure(BENCH, &case, metric, "MiB", value, None);
    }
    report.figure(BENCH, &case, "RSS at its end", "MiB", end, Some(AtMost(start * 1.1)));
    Ok(())
}
