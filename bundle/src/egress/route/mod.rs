//! One route: its rules, credential, token and quota.

pub mod credential;
pub mod overrides;
pub mod quota;
pub mod rules;
pub mod tokens;
