//! Before a launch, the operator reads the plan, answers its questions and agrees or declines.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;

use super::output::{ask_hidden, confirm};
use crate::error::{Error, ErrorKind, Result};
use crate::host::stderr::{note, prompt};
use crate::humanize::size;
use crate::manifest::EnvName;
use crate::plan::{LaunchPlan, Question, diff, render};
use crate::state::BottleDir;
use crate::values::neutral;
use crate::workspace::Snapshot;

/// What `launch` and `resume` share.
#[derive(Debug, clap::Args)]
pub(super) struct LaunchFlags {
    /// Agree to the plan without being asked.
    #[arg(short, long)]
    pub yes: bool,
    /// Print neither the plan nor progress (needs --yes).
    #[arg(short, long, requires = "yes")]
    pub quiet: bool,
}

/// Files of this size and more are named, in bytes.
const LARGE_FILE_BYTES: u64 = 50_000_000;

/// Prints the plan (and what changed since this bottle's previous launch) and asks for agreement.
/// The values of the variables in `given` are not shown: they may be secret.
pub(super) fn agree(
    plan: &LaunchPlan,
    given: &BTreeSet<EnvName>,
    workspace: Option<&Snapshot>,
    dir: &BottleDir,
    flags: &LaunchFlags,
) -> Result<()> {
    if !flags.quiet {
        let mut shown = plan.redacted();
        for (_, value) in shown.env.iter_mut().filter(|(name, _)| given.contains(name)) {
            *value = "(given for this launch)".into();
        }
        prompt(render(&shown));
        if let Some(snapshot) = workspace {
            prompt(describe(snapshot));
        }
        let previous = std::fs::read(dir.plan())
            .ok()
            .and_then(|json| serde_json::from_slice::<LaunchPlan>(&json).ok());
        shown.env.retain(|name, _| !given.contains(name));
        let changes = previous.map(|p| diff(&p, &shown)).unwrap_or_default();
        if !changes.is_empty() {
            note("Changed since the previous launch:");
            changes.iter().for_each(|line| note(format_args!("  {line}")));
        }
    }
    if flags.yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Error::new(
            ErrorKind::Usage,
            "standard input is not a terminal, so nobody can confirm the launch",
        )
        .hint(format!("bottle launch {} --yes", plan.agent)));
    }
    if confirm("Launch?")? { Ok(()) } else { Err(Error::new(ErrorKind::Declined, "not launched")) }
}

/// Describes what is copied from the project, what is left out, and what looks as if it should be.
fn describe(snapshot: &Snapshot) -> String {
    let mut out = format!("goes in    {}\n", snapshot.summary());
    for (path, why) in snapshot.left_out.iter().take(5) {
        out += &format!("left out   {}: {why}\n", neutral(&path.to_string_lossy()));
    }
    if snapshot.left_out.len() > 5 {
        out += &format!("left out   and {} more\n", snapshot.left_out.len() - 5);
    }
    let large: Vec<_> =
        snapshot.entries.iter().filter(|e| e.bytes >= LARGE_FILE_BYTES).take(3).collect();
    for entry in large {
        out += &format!(
            "warning    {} has {}\n",
            neutral(&entry.path.to_string_lossy()),
            size(entry.bytes)
        );
    }
    let credentials = snapshot.credentials();
    if !credentials.is_empty() {
        let named: Vec<String> =
            credentials.iter().take(5).map(|p| neutral(&p.to_string_lossy())).collect();
        out += &format!(
            "warning    {} would be readable in the guest and may hold credentials; \
             .gitignore keeps files out\n",
            named.join(", ")
        );
    }
    out
}

/// Asks the manifest's questions without showing what is typed: answers may be secrets.
pub(super) fn ask(questions: &[Question]) -> Result<BTreeMap<EnvName, String>> {
    if !std::io::stdin().is_terminal() {
        let names: Vec<String> = questions.iter().map(|q| format!("--env {}=…", q.name)).collect();
        return Err(Error::new(
            ErrorKind::Usage,
            "the manifest asks questions, and standard input is not a terminal",
        )
        .hint(names.join(" ")));
    }
    let ask = |q: &Question| ask_hidden(&format!("{} ({})", neutral(&q.question), q.name));
    questions.iter().map(|q| Ok((q.name.clone(), ask(q)?))).collect()
}
