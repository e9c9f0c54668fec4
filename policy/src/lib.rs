//! What a bottle may reach, in the types that the orchestrator and the bundle share.
//!
//! The orchestrator writes a [`Policy`], which holds no secret, to the bottle's private directory,
//! and sends the daemon its [`EgressInput`], which holds all secrets, over standard input. Both are
//! versioned JSON.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod audit;
mod forge;
mod git;
mod git_url;
mod json;
mod limits;
mod login;
mod pattern;
mod proposal;
mod proposal_host;
mod proposal_risk;
mod ref_pattern;
mod route;
mod rpc;
mod secret;
mod string_type;
pub mod text;

pub use forge::{DeployKeyAction, Forge, ForgeRequest};
pub use git::{
    Access, Fingerprint, GateInput, GatePolicy, GateUpstream, Push, Stale, UpstreamName,
};
pub use git_url::GateUrl;
pub use json::PolicyTextError;
pub use limits::{Action, Budget, Rate, RateError, Scan, Timeouts};
pub use login::{RenewReply, RenewRequest};
pub use pattern::{
    HostPattern, HostPatternError, Method, MethodError, PathPattern, PathPatternError, TokenName,
    TokenNameError,
};
pub use proposal::{Ask, MAX_CHOICE_CHARS, MAX_ITEMS, ProposalState, ProposalStatus, RouteAsk};
pub use proposal_host::parse_host;
pub use proposal_risk::{GRANTED_ROUTE_PREFIX, Risk};
pub use ref_pattern::{EmailPattern, RefPattern};
pub use route::{Inject, Place, Policy, Route, Scheme};
pub use rpc::{
    EgressCommand, EgressInput, EgressReport, GateReport, ReloadReport, SuperviseCommand,
    SuperviseReport,
};
pub use secret::Secret;
pub use string_type::GateTextError;
pub use text::{MAX_TEXT_CHARS, UntrustedText};
