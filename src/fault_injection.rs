//! Guards that the tests break on purpose, to see that a launch refuses. Never built but with
//! `--features fault-injection`.

/// Whether this build was asked (by `BOTTLE_FAULT`) to break the guard `what`.
#[must_use]
pub fn breaks(what: &str) -> bool {
    cfg!(feature = "fault-injection") && std::env::var_os("BOTTLE_FAULT").is_some_and(|v| v == what)
}
