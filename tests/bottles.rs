//! Real bottles, booted by the real binary: lifecycle, bad input, secrets, and attacks from inside.
//!
//! Needs `BOTTLE_CLOSURE`; `nix/bootstrap develop -c cargo test --test bottles` sets it, and so
//! does the flake's check.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod attacks;
mod conformance;
mod lifecycle;
#[allow(dead_code, reason = "the other tests of bottles use the rest")]
mod support;

use std::sync::{Mutex, PoisonError};

use libtest_mimic::{Arguments, Trial};
use support::Home;

fn main() {
    let args = Arguments::from_args();
    // One bottle serves all that happens inside: each is an exec in it.
    let home: &'static Home = Box::leak(Box::new(Home::new()));
    let running: &'static Mutex<Option<support::Running<'static>>> =
        Box::leak(Box::new(Mutex::new(None)));
    let shared = |run: Box<dyn FnOnce(&support::Running<'_>) + Send>| {
        move || {
            let mut bottle = running.lock().unwrap_or_else(PoisonError::into_inner);
            run(bottle.get_or_insert_with(|| home.up("shared", &["demo"])));
            Ok(())
        }
    };
    let under_test = support::engine().unwrap_or("qemu");
    let conformance =
        conformance::CASES.iter().map(|&(name, run)| Trial::test(name, shared(Box::new(run))));
    let isolation = attacks::isolation::attacks(under_test).map(|attack| {
        Trial::test(
            format!("attacks::isolation::{}", attack.name),
            shared(Box::new(move |bottle| attack.run(bottle))),
        )
    });
    let mut trials: Vec<Trial> = conformance.chain(isolation).collect();
    let cases = attacks::secrets::CASES
        .iter()
        .chain(attacks::denial::CASES)
        .chain(attacks::git::CASES)
        .chain(lifecycle::CASES)
        .chain(lifecycle::disk::CASES)
        .chain(lifecycle::git::CASES)
        .chain(lifecycle::supervise::CASES);
    trials.extend(cases.map(|(name, run)| {
        Trial::test(*name, move || {
            run();
            Ok(())
        })
    }));
    trials.extend(lifecycle::input::CASES.iter().map(|case| {
        Trial::test(format!("lifecycle::input::{}", case.name), move || {
            case.run();
            Ok(())
        })
    }));
    if under_test == "smolvm" {
        trials.extend(lifecycle::smolvm::CASES.iter().map(|(name, run)| {
            Trial::test(*name, move || {
                run();
                Ok(())
            })
        }));
    }
    // Several filters in one run, so that they share a bottle.
    if let Ok(wanted) = std::env::var("BOTTLE_TEST_CASES") {
        trials.retain(|trial| wanted.split_whitespace().any(|name| trial.name().contains(name)));
    }
    let has_browser = std::env::var_os("BOTTLE_CHROMIUM").is_some();
    if !has_browser && !support::skip::everything_is_required() {
        let browser = trials.iter().position(|t| t.name() == lifecycle::supervise::BROWSER_CASE);
        if let Some(at) = browser {
            support::skip::skip(trials[at].name(), "BOTTLE_CHROMIUM names no browser");
            // The summary counts it as ignored.
            let ignored = trials.remove(at).with_ignored_flag(true);
            trials.push(ignored);
        }
    }
    let conclusion = libtest_mimic::run(&args, trials);
    if let Some(bottle) = running.lock().unwrap_or_else(PoisonError::into_inner).take() {
        bottle.stop();
    }
    conclusion.exit();
}
