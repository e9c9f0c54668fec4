//! Manifest + host → [`LaunchPlan`]. Pure: no process, no file, no clock. The same input gives the
//! same plan.

mod answers;
mod credential_prefixes;
mod guest_env;
mod inputs;
mod planner;
mod reload;
mod render;
mod secrets;
mod types;
mod warn;

pub use inputs::{Host, Options, PROMPT, PlanError};
pub use planner::plan;
pub use reload::{not_reloadable, replan};
pub use render::{diff, render, route_line};
pub use secrets::looks_secret;
pub use types::*;

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::manifest::Manifest;
    use crate::values::Guest;

    /// The demo's plan on a made-up host.
    pub(crate) fn demo_plan() -> LaunchPlan {
        let text = || "x".to_owned();
        let guest =
            Guest { user: text(), uid: 1, gid: 1, home: text(), workdir: text(), path: text() };
        let facts = ImageFacts { image: "/x".into(), guest };
        let images = BTreeMap::from([("demo".parse().unwrap(), facts)]);
        let host = Host {
            env: &|_| None,
            engine: Engine { name: text(), reason: text() },
            images,
            identity: None,
            logins: BTreeMap::new(),
        };
        plan(&Manifest::built_in(), "demo", &host, &Options::default()).unwrap()
    }
}
