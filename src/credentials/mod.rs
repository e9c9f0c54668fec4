//! Credentials of a bottle on the host: tokens, logins, deploy keys and git's keys. None of their
//! values is written to a file, an argument or a log.

mod check;
pub mod deploy_key;
mod digest;
pub mod git;
pub mod login;
pub mod login_file;
pub mod refresh;
pub mod tokens;
pub(crate) mod weak;

pub use check::{hint_for_rejected_token, require};
