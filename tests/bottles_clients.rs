//! Real clients in a real bottle, through egress, to TLS upstreams on this machine's loopback; and,
//! in bottles of their own, the agents (`agents::`), against stand-ins of their vendors' APIs that
//! speak the real streaming protocols.
//!
//! One bottle serves all; each client is tried three times. With the bottle's own environment it
//! works, and the audit log names its route; the upstreams answer only to a token that the guest
//! never has. To a host without a route it fails. With other trust anchors it fails, and nothing is
//! let through.
//!
//! Needs `BOTTLE_CLOSURE` with the image `clients` (`nix/bootstrap build .#closure-clients`) or the
//! agents' (`.#closure-agents`), python3 with h2, openssl and git. `--skip agents::` and `agents::`
//! are checks of their own.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod agents;
mod clients;
#[allow(dead_code, reason = "the other tests of bottles use the rest")]
mod support;

use std::sync::OnceLock;

use clients::{World, cases, table};
use libtest_mimic::{Arguments, Trial};
use support::Home;

fn main() {
    let args = Arguments::from_args();
    let home: &'static Home = Box::leak(Box::new(Home::new()));
    let shared: &'static OnceLock<World<'static>> = Box::leak(Box::new(OnceLock::new()));
    let world = move || shared.get_or_init(|| World::start(home));
    let mut trials = Vec::new();
    for client in table::CLIENTS {
        let trial = |what: &str, run: fn(&World<'_>, &table::Client)| {
            Trial::test(format!("clients::{}::{what}", client.name), move || {
                run(world(), client);
                Ok(())
            })
        };
        trials.push(trial("works", clients::works));
        trials.push(trial("without_a_route_fails", clients::denied));
        trials.push(trial("without_the_ca_fails", clients::untrusted));
    }
    trials.extend(cases::CASES.iter().map(|(name, run)| {
        Trial::test(format!("clients::{name}"), move || {
            run(world());
            Ok(())
        })
    }));
    trials.extend(agents::CASES.iter().map(|(name, run)| {
        Trial::test(format!("agents::{name}"), move || {
            run();
            Ok(())
        })
    }));
    let conclusion = libtest_mimic::run(&args, trials);
    // A bottle that cannot be torn down is a failure too.
    if let Some(world) = shared.get() {
        world.stop();
    }
    conclusion.exit();
}
