//! `bottle logs`: shows what a bottle did, from its audit log.

use std::path::PathBuf;

use super::output::use_colour;
use crate::error::{Error, ErrorKind, Result};
use crate::logs::print::{AliveCheck, Source, print};
use crate::logs::render::Colours;
use crate::state::{BottleDir, Roots};

/// Show what a bottle did: each request, what was decided, and why.
///
/// Times are UTC. A bottle that has ended keeps its log until `bottle rm`; a new launch of the same
/// name appends to it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of the bottle.
    name: String,
    /// Print new lines until the bottle ends.
    #[arg(short, long)]
    follow: bool,
    /// Print the audit log's own lines: one JSON object each.
    #[arg(long)]
    json: bool,
    /// Print what a daemon (egress, engine, …) wrote on standard error in the latest launch.
    #[arg(long, value_name = "DAEMON", conflicts_with = "json")]
    daemon: Option<String>,
    /// Print only the last N lines (and, with --follow, what comes after them).
    #[arg(short = 'n', long, value_name = "N")]
    lines: Option<usize>,
}

impl Args {
    pub(super) fn run(&self) -> Result<u8> {
        let dir = existing(&Roots::from_environment()?, &self.name)?;
        let stdout = std::io::stdout();
        let colours = if use_colour(&stdout) { Colours::ON } else { Colours::default() };
        let audit = |path: PathBuf| Source::audit(&path, self.json, colours);
        let mut sources = match &self.daemon {
            Some(daemon) => vec![Source::daemon(&daemon_log(&dir, daemon)?)],
            None => dir.audits().into_iter().map(Into::into).map(audit).collect::<Result<_>>()?,
        };
        let mut alive = AliveCheck::new(|| dir.status().is_some_and(|s| s.alive));
        let follow = self.follow.then_some(&mut alive);
        print(&mut sources, self.lines, follow, &mut stdout.lock())?;
        Ok(0)
    }
}

/// The directory of a bottle that exists, running or not.
pub(super) fn existing(roots: &Roots, name: &str) -> Result<BottleDir> {
    let dir = roots.bottle(name)?;
    if dir.status().is_some() || dir.audit().exists() {
        return Ok(dir);
    }
    Err(Error::new(ErrorKind::Usage, format!("there is no bottle {name:?}")).hint("bottle list"))
}

fn daemon_log(dir: &BottleDir, daemon: &str) -> Result<PathBuf> {
    let path = dir.log(daemon);
    let plain = !daemon.is_empty()
        && daemon.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if plain && path.is_file() {
        return Ok(path.into());
    }
    let state = dir.audit().parent().map(ToOwned::to_owned).unwrap_or_default();
    let mut names: Vec<String> = std::fs::read_dir(state)
        .map(|entries| {
            let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
            names.filter_map(|n| n.strip_suffix(".log").map(str::to_owned)).collect()
        })
        .unwrap_or_default();
    names.sort();
    let hint = if names.is_empty() {
        "no daemon has written anything yet".to_owned()
    } else {
        format!("these have: {}", names.join(", "))
    };
    Err(Error::new(
        ErrorKind::Usage,
        format!("bottle {:?} has no log of a daemon {daemon:?}", dir.slug()),
    )
    .hint(hint))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_bottles_and_daemons_that_exist_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::at(dir.path().join("s"), dir.path().join("r")).unwrap();
        assert_eq!(existing(&roots, "nobody").unwrap_err().kind(), ErrorKind::Usage);
        assert_eq!(existing(&roots, "../x").unwrap_err().kind(), ErrorKind::Usage);
        fs::create_dir_all(dir.path().join("s/bottles/dead")).unwrap();
        fs::write(dir.path().join("s/bottles/dead/audit.jsonl"), "").unwrap();
        fs::write(dir.path().join("s/bottles/dead/engine.log"), "said\n").unwrap();
        let dead = existing(&roots, "dead").unwrap();
        assert!(daemon_log(&dead, "engine").is_ok());
        for bad in ["console", "../dead/engine", "", "/etc/passwd"] {
            let e = daemon_log(&dead, bad).unwrap_err();
            assert_eq!(
                (e.kind(), e.hint_text()),
                (ErrorKind::Usage, Some("these have: engine")),
                "{bad}"
            );
        }
    }
}
