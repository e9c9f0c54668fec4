//! Preflight: the operator reads the plan, answers its questions and says yes or no.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, IsTerminal};
use std::os::fd::AsFd;

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

use crate::error::{Context, Error, Kind, Result};
use crate::host::stderr::{prompt, say};
use crate::manifest::{EnvName, neutral};
use crate::plan::{LaunchPlan, Question, diff, render};
use crate::state::BottleDir;
use crate::workspace::{Snapshot, size};

/// Files of this size are named, bytes.
const LARGE: u64 = 50_000_000;

/// Prints the plan (and what changed since this bottle's previous launch) and asks. What the
/// operator has `given` for this launch is not shown: it may be secret.
pub(super) fn agree(
    plan: &LaunchPlan,
    given: &BTreeSet<EnvName>,
    workspace: Option<&Snapshot>,
    dir: &BottleDir,
    (yes, quiet): (bool, bool),
) -> Result<()> {
    if !quiet {
        let mut shown = plan.redacted();
        for (_, value) in shown.env.iter_mut().filter(|(name, _)| given.contains(name)) {
            *value = "(given for this launch)".into();
        }
        prompt(render(&shown));
        if let Some(snapshot) = workspace {
            prompt(goes_in(snapshot));
        }
        let previous = std::fs::read(dir.plan())
            .ok()
            .and_then(|json| serde_json::from_slice::<LaunchPlan>(&json).ok());
        shown.env.retain(|name, _| !given.contains(name));
        let changes = previous.map(|p| diff(&p, &shown)).unwrap_or_default();
        if !changes.is_empty() {
            say("Changed since the previous launch:");
            changes.iter().for_each(|line| say(format_args!("  {line}")));
        }
    }
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Error::new(Kind::Usage, "there is no terminal to agree on")
            .hint(format!("bottle launch {} --yes", plan.agent)));
    }
    prompt("Launch? [y/N] ");
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .context(Kind::Internal, || "cannot read the answer".into())?;
    if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        Ok(())
    } else {
        Err(Error::new(Kind::Declined, "not launched"))
    }
}

/// What of the project goes in: how much, what not, and what looks as if it should not.
fn goes_in(snapshot: &Snapshot) -> String {
    let mut out = format!("goes in    {}\n", snapshot.summary());
    for (path, why) in snapshot.left_out.iter().take(5) {
        out += &format!("left out   {}: {why}\n", neutral(&path.to_string_lossy()));
    }
    if snapshot.left_out.len() > 5 {
        out += &format!("left out   and {} more\n", snapshot.left_out.len() - 5);
    }
    let large: Vec<_> = snapshot.entries.iter().filter(|e| e.bytes >= LARGE).take(3).collect();
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
            "warning    {} would be readable in the guest and may hold credentials; .gitignore keeps files out\n",
            named.join(", ")
        );
    }
    out
}

/// Asks the manifest's questions without echo: answers may be secrets.
pub(super) fn ask(questions: &[Question]) -> Result<BTreeMap<EnvName, String>> {
    if !std::io::stdin().is_terminal() {
        let names: Vec<String> = questions.iter().map(|q| format!("--env {}=…", q.name)).collect();
        return Err(Error::new(
            Kind::Usage,
            "the manifest asks questions and there is no terminal",
        )
        .hint(names.join(" ")));
    }
    questions.iter().map(|q| Ok((q.name.clone(), ask_one(q)?))).collect()
}

fn ask_one(question: &Question) -> Result<String> {
    let what = || "cannot read the answer".to_owned();
    prompt(format_args!("{} ({}): ", neutral(&question.question), question.name));
    let hidden = Hidden::new()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context(Kind::Internal, what)?;
    drop(hidden);
    say("");
    Ok(answer.trim_end_matches(['\n', '\r']).to_owned())
}

/// The terminal without echo; dropping this brings it back.
struct Hidden(Termios);

impl Hidden {
    fn new() -> Result<Self> {
        let what = || "cannot set the terminal up".to_owned();
        let stdin = std::io::stdin();
        let saved = tcgetattr(&stdin).context(Kind::Internal, what)?;
        let mut silent = saved.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(stdin.as_fd(), SetArg::TCSAFLUSH, &silent).context(Kind::Internal, what)?;
        Ok(Self(saved))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &self.0);
    }
}
