//! Credentials of a bottle on the host: tokens, logins, deploy keys and git's keys. None of their
//! values is written to a file, an argument or a log.

pub mod deploy_key;
pub mod git;
pub mod login;
pub mod refresh;
pub mod tokens;
