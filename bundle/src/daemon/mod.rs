//! What every daemon needs, once: command line arguments, socket, accept loop, control input, policy
//! file, reports to the orchestrator, limits, checks that tests can disable, refusals, audit entries.
//!
//! The start of a daemon, in this order: [`limits`], [`policy_file`] (watch, then read),
//! [`socket`], [`control_stdin`] (the first line carries the secrets), `confine::seal`,
//! [`runtime`], [`control_stdin`] again for commands, [`report::ready`], [`accept`].

pub mod accept;
pub mod args;
pub mod audit_entry;
pub mod checks;
pub mod connection;
pub mod control_stdin;
pub mod limits;
pub mod policy_file;
pub mod refusal;
pub mod report;
pub mod runtime;
pub mod socket;
