//! Faults that tests inject into a launch, to see that its self-test refuses to go on. They exist
//! only in builds with `--features fault-injection`.

/// Whether `BOTTLE_FAULT` asks this build to inject the fault `what`.
#[must_use]
pub fn breaks(what: &str) -> bool {
    cfg!(feature = "fault-injection") && std::env::var_os("BOTTLE_FAULT").is_some_and(|v| v == what)
}
