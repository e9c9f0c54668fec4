//! `bottle cleanup`, and the sweep that other commands begin with.

use crate::credentials::deploy_key;
use crate::error::Result;
use crate::host::runtime::block_on;
use crate::host::stderr::say;
use crate::state::{BottleDir, Roots};

/// Tear down what crashed launches left.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

impl Args {
    #[allow(clippy::unused_self, reason = "every command is called alike")]
    pub(super) fn run(&self) -> Result<u8> {
        let roots = Roots::from_environment()?;
        let mut failure = None;
        for bottle in roots.bottles()? {
            match recover(&bottle) {
                Ok(true) => println!("{}: torn down", bottle.slug()),
                Ok(false) => {}
                Err(e) => {
                    say(format_args!("bottle: {}: {e}", bottle.slug()));
                    failure = Some(e);
                }
            }
        }
        failure.map_or(Ok(0), Err)
    }
}

/// Tears down what crashed launches left; what cannot be is said, and does not stop the command.
pub(super) fn sweep(roots: &Roots) {
    for bottle in roots.bottles().unwrap_or_default() {
        match recover(&bottle) {
            Ok(true) => {
                say(format_args!("bottle: {} had crashed and was torn down", bottle.slug()))
            }
            Ok(false) => {}
            Err(e) => say(format_args!("bottle: {}: {e}", bottle.slug())),
        }
    }
}

/// Tears down what a dead orchestrator left, and what it left with others; whether there was
/// anything.
fn recover(bottle: &BottleDir) -> Result<bool> {
    // Neither failure keeps the other from being undone.
    let (torn_down, revoked) = (bottle.recover(), revoke(bottle));
    if let (Err(_), Err(e)) = (&torn_down, &revoked) {
        say(format_args!("bottle: {}: {e}", bottle.slug()));
    }
    let torn_down = torn_down?;
    Ok(revoked? || torn_down)
}

/// Revokes what deploy keys a bottle that does not run has left; whether there were any.
pub(super) fn revoke(bottle: &BottleDir) -> Result<bool> {
    if !bottle.deploy_keys().exists() {
        return Ok(false);
    }
    let Some(_lock) = bottle.unowned()? else { return Ok(false) };
    block_on(deploy_key::revoke(bottle, 0))
}
