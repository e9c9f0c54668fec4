//! `bottle list`: the bottles of this user.

use serde::Serialize;

use crate::error::Result;
use crate::host::stderr::say;
use crate::state::{BottleDir, BottleStatus, Phase, Roots, now_ms};

/// Show the bottles of this user.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// As JSON.
    #[arg(long)]
    json: bool,
    /// Only those that run.
    #[arg(long)]
    running: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    agent: String,
    engine: String,
    state: &'static str,
    pid: Option<u32>,
    started_ms: u64,
    exit_code: Option<u8>,
    resumable: bool,
    unpulled: bool,
}

impl Row {
    fn of(dir: &BottleDir, status: BottleStatus) -> Self {
        let BottleStatus { metadata, alive } = status;
        let state = match (alive, metadata.phase) {
            (true, Phase::Starting) => "starting",
            (true, Phase::Running) => "running",
            (true, _) => "stopping",
            (false, Phase::Exited) if dir.saved().exists() => "stopped",
            (false, Phase::Exited) => "exited",
            (false, _) => "crashed",
        };
        Self {
            name: metadata.slug,
            agent: metadata.agent,
            engine: metadata.engine,
            state,
            pid: alive.then_some(metadata.pid),
            started_ms: metadata.started_ms,
            exit_code: metadata.exit_code,
            resumable: !alive && dir.saved().exists(),
            unpulled: !alive && dir.work().exists(),
        }
    }
}

impl Args {
    pub(super) fn run(&self) -> Result<u8> {
        let roots = Roots::from_environment()?;
        super::cleanup::sweep(&roots);
        let rows = roots.bottles()?.into_iter().filter_map(|b| Some(Row::of(&b, b.status()?)));
        let rows: Vec<Row> = rows.filter(|r| !self.running || r.pid.is_some()).collect();
        if self.json {
            super::print_json(&rows)?;
        } else if rows.is_empty() {
            say("No bottles. Start one with: bottle launch demo");
        } else {
            println!("{:<24} {:<16} {:<8} {:<9} {:>8}", "NAME", "AGENT", "ENGINE", "STATE", "AGE");
            for row in &rows {
                println!(
                    "{:<24} {:<16} {:<8} {:<9} {:>8}",
                    row.name,
                    row.agent,
                    row.engine,
                    row.state,
                    age(row.started_ms)
                );
            }
        }
        Ok(0)
    }
}

fn age(started_ms: u64) -> String {
    let seconds = now_ms().saturating_sub(started_ms) / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}
