//! Tests that cannot run everywhere: a skip is printed, and is a failure where `CI=true` or
//! `BOTTLE_REQUIRE=1` says that everything must be there.

use std::io::Write;

/// True when a missing tool is a failure.
pub fn everything_is_required() -> bool {
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|v| v == value);
    is("CI", "true") || is("BOTTLE_REQUIRE", "1")
}

/// Says that `test` does not run, because `missing` is not there.
///
/// # Panics
/// When everything is required.
pub fn skip(test: &str, missing: &str) {
    assert!(!everything_is_required(), "{test} cannot run: {missing}");
    // Not by `println!`, which the test harness hides when a test passes.
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {missing}");
}

/// Says that `test` can never run in this place, because `why`: not a missing tool, so no failure.
#[allow(dead_code)] // Not every test program has such a case.
pub fn impossible(test: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {why}");
}
