//! Guards that the tests break on purpose, to see that a launch refuses. Never built but with
//! `--features sabotage`.

/// Whether this build was asked (by `BOTTLE_SABOTAGE`) to break the guard `what`.
#[must_use]
pub fn breaks(what: &str) -> bool {
    cfg!(feature = "sabotage") && std::env::var_os("BOTTLE_SABOTAGE").is_some_and(|v| v == what)
}
