//! Providers: what kind of agent runs, and what it needs on the host while it does.

pub mod demo;

use crate::error::{Error, Kind, Result};
use crate::manifest::Provider;
use crate::plan::LaunchPlan;

/// Refuses a plan whose agent cannot run yet.
///
/// # Errors
/// `Config` for each key whose feature is not built.
pub fn supported(plan: &LaunchPlan) -> Result<()> {
    let Some(first) = plan.unsupported.first() else { return Ok(()) };
    let all: Vec<String> = plan.unsupported.iter().map(|u| format!("{}: {} needs {}", u.at, u.key, u.feature)).collect();
    Err(Error::new(Kind::Config, format!("this bottle cannot be launched yet, as nothing is silently ignored:\n  {}", all.join("\n  ")))
        .hint(format!("bottle plan {}   # shows it; remove `{}` to launch without", plan.agent, first.key)))
}

/// Whether the launch itself must run the demo's upstream.
#[must_use]
pub fn needs_demo_upstream(plan: &LaunchPlan) -> bool {
    plan.provider == Provider::Demo
}
