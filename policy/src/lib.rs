//! What a bottle may reach, in the words that the orchestrator and the bundle share.
//!
//! The orchestrator writes a [`Policy`] (no secret in it) to the bottle's private directory and
//! hands the daemon its [`EgressInput`] (all secrets) over standard input. Both are versioned JSON.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod ask;
pub mod audit;
mod forge;
mod gate;
mod login;
mod route;
mod secret;

pub use ask::{
    Ask, CHOICE_CAP, GRANTED, MOST, ProposalState, ProposalStatus, Risk, RouteAsk, Said,
    SuperviseCommand, SuperviseReport, TEXT_CAP,
};
pub use forge::{DeployKeyAction, Forge, ForgeRequest};
pub use gate::{
    Access, EmailPattern, Fingerprint, GateInput, GatePolicy, GateTextError, GateUpstream, GateUrl,
    Push, RefPattern, Stale, UpstreamName,
};
pub use login::{RenewRequest, Renewed};
pub use route::{
    Action, Budget, HostPattern, HostPatternError, Inject, Method, MethodError, PathPattern,
    PathPatternError, Place, Policy, PolicyTextError, Rate, RateError, Route, Scan, Scheme,
    TokenName, TokenNameError,
};
pub use secret::{EgressCommand, EgressInput, EgressReport, Secret};
