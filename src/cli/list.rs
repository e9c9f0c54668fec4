//! `bottle list`: shows the bottles of this user.

use serde::Serialize;

use super::output::{columns, print_json};
use crate::error::Result;
use crate::host::stderr::note;
use crate::humanize::age;
use crate::state::{BottleDir, BottleState, BottleStatus, Roots, now_ms};

/// Show the bottles of this user.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Show only bottles that are running.
    #[arg(long)]
    running: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    agent: String,
    engine: String,
    state: BottleState,
    pid: Option<u32>,
    started_ms: u64,
    exit_code: Option<u8>,
    resumable: bool,
    unpulled: bool,
}

impl Row {
    fn of(dir: &BottleDir, status: BottleStatus) -> Self {
        let state = BottleState::of(dir, &status);
        let BottleStatus { metadata, alive } = status;
        Self {
            name: metadata.slug,
            agent: metadata.agent,
            engine: metadata.engine,
            state,
            pid: alive.then_some(metadata.pid),
            started_ms: metadata.started_ms,
            exit_code: metadata.exit_code,
            resumable: !alive && dir.resumable_disk().exists(),
            unpulled: !alive && (dir.unpulled_tar().exists() || dir.unsaved().exists()),
        }
    }

    fn cells(&self) -> [String; 5] {
        let age = age(self.started_ms, now_ms());
        let (name, agent, engine) = (self.name.clone(), self.agent.clone(), self.engine.clone());
        [name, agent, engine, self.state.as_str().to_owned(), age]
    }
}

impl Args {
    pub(super) fn run(&self) -> Result<u8> {
        let roots = Roots::from_environment()?;
        super::cleanup::sweep(&roots);
        let rows = roots.bottles()?.into_iter().filter_map(|b| Some(Row::of(&b, b.status()?)));
        let rows: Vec<Row> = rows.filter(|r| !self.running || r.pid.is_some()).collect();
        if self.json {
            print_json(&rows)?;
        } else if rows.is_empty() {
            note("No bottles. Start one with: bottle launch demo");
        } else {
            let heading = ["NAME", "AGENT", "ENGINE", "STATE", "AGE"].map(str::to_owned);
            let cells = rows.iter().map(Row::cells);
            let table: Vec<_> = std::iter::once(heading).chain(cells).collect();
            columns(&table).iter().for_each(|line| println!("{line}"));
        }
        Ok(0)
    }
}
