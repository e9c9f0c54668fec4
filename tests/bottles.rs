//! Real bottles, booted by the real binary: lifecycle, bad input, secrets, and attacks from inside.
//!
//! Needs `BOTTLE_CLOSURE`; `nix/bootstrap develop -c cargo test --test bottles` sets it, and so does the flake's check.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod attacks;
mod lifecycle;
#[allow(dead_code, reason = "the other tests of bottles use the rest")]
mod support;

use std::sync::{Mutex, PoisonError};

use libtest_mimic::{Arguments, Trial};
use support::Home;

fn main() {
    let args = Arguments::from_args();
    // One bottle serves all attacks from inside: each is an exec in it.
    let home: &'static Home = Box::leak(Box::new(Home::new()));
    let shared: &'static Mutex<Option<support::Running<'static>>> = Box::leak(Box::new(Mutex::new(None)));
    let mut trials: Vec<Trial> = attacks::isolation::attacks(support::engine().unwrap_or("qemu"))
        .map(|attack| {
            Trial::test(format!("attacks::isolation::{}", attack.name), move || {
                let mut bottle = shared.lock().unwrap_or_else(PoisonError::into_inner);
                let bottle = bottle.get_or_insert_with(|| home.up("attacked", &["demo"]));
                attack.run(bottle);
                Ok(())
            })
        })
        .collect();
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
    let conclusion = libtest_mimic::run(&args, trials);
    if let Some(bottle) = shared.lock().unwrap_or_else(PoisonError::into_inner).take() {
        bottle.stop();
    }
    conclusion.exit();
}
