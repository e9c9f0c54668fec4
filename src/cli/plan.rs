//! `bottle plan`: what a launch would do.

use std::collections::BTreeMap;

use super::plan_args::PlanArgs;
use crate::closure::Closure;
use crate::error::Result;
use crate::plan::render;

/// Show what a launch would do, without doing it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    plan: PlanArgs,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) fn run(&self) -> Result<u8> {
        let plan = self.plan.plan(&Closure::load()?, &BTreeMap::new())?;
        if self.json {
            super::print_json(&plan.redacted())?;
        } else {
            print!("{}", render(&plan));
        }
        Ok(0)
    }
}
