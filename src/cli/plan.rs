//! `bottle plan`: shows what a launch would do.

use super::output::print_json;
use super::plan_args::PlanArgs;
use crate::closure::Closure;
use crate::error::Result;
use crate::plan::render;

/// Show what a launch would do, without doing it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    plan: PlanArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) fn run(&self) -> Result<u8> {
        let plan = self.plan.plan(&Closure::load()?)?;
        if self.json {
            print_json(&plan.redacted())?;
        } else {
            print!("{}", render(&plan));
        }
        Ok(0)
    }
}
