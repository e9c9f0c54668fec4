//! Agents: one file each, listed in the registry. Everything here is pure.

mod agent;
mod claude;
mod codex;
mod command;
mod demo;
mod login_layout;
mod registry;
mod settings;
#[cfg(test)]
mod test_agent;
mod vendor_api;

pub use agent::{
    Agent, BuiltIn, Contribution, Inputs, LiveFacts, Provider, ProviderSettings, Repository,
    TokenSource,
};
pub use demo::{DEMO_HOST, DEMO_TOKEN};
pub use login_layout::{Auth, LoginFacts, LoginLayout, RenewedField};
pub use settings::{GuestFile, PlannedProvider, SettingsInputs};
pub use vendor_api::PLACEHOLDER;
