//! `bottle proposals`: shows what agents ask for, and decides on it.

use std::io::{IsTerminal, Write};

use bottle_policy::{Ask, ProposalState, RouteAsk};

use super::output::{ask_line, columns, confirm, print_json, use_colour};
use crate::dashboard::decide::answer_text;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::process::{Input, Program, Sink};
use crate::host::runtime::block_on;
use crate::host::stderr::note;
use crate::launch::decide;
use crate::live_policy::{LivePolicies, in_force};
use crate::manifest::Interval;
use crate::state::{BottleDir, Roots, now_ms};
use crate::supervise::{
    Decide, DecisionOutcome, Proposal, Queue, Scope, Tone, Verdict, ago, lines, paint,
};

/// Show what agents ask for, and decide on it.
///
/// Without a command, shows the open proposals of all running bottles; with NAME, all proposals of
/// that bottle. A proposal is named BOTTLE/NUMBER.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    /// Show only this bottle's proposals, but also the decided ones.
    name: Option<String>,
    /// Print the queue's own documents, as JSON.
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show one proposal: what would change, and why the agent wants it.
    Show {
        /// The proposal, as BOTTLE/NUMBER.
        proposal: Id,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Approve a proposal: the change is in force at once, for this bottle only.
    Approve(Approve),
    /// Deny a proposal.
    Deny {
        /// The proposal, as BOTTLE/NUMBER.
        proposal: Id,
        /// Tell the agent this reason.
        #[arg(long)]
        reason: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Approve {
    /// The proposal, as BOTTLE/NUMBER.
    proposal: Id,
    /// Revoke it after this time, such as 30m or 1h (default: when the bottle ends).
    #[arg(long = "for", value_name = "TIME", conflicts_with_all = ["once", "save"])]
    time: Option<Interval>,
    /// Allow one request only.
    #[arg(long, conflicts_with = "save")]
    once: bool,
    /// Also write it to the manifest.
    #[arg(long)]
    save: bool,
    /// Change the route in $EDITOR first; it can only become narrower.
    #[arg(long, conflicts_with_all = ["host", "method", "path"])]
    edit: bool,
    /// Allow only this host of a wildcard.
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Allow only this method (may be repeated).
    #[arg(long, value_name = "METHOD")]
    method: Vec<String>,
    /// Allow only this path (may be repeated).
    #[arg(long, value_name = "PATH")]
    path: Vec<String>,
    /// Confirm a wide proposal with its host or repository (default: asks for it).
    #[arg(long = "type", value_name = "NAME")]
    type_name: Option<String>,
    /// State the policy that the change was shown against, by its digest or the first 12 digits of
    /// it, when it is not the proposal's own.
    #[arg(long, value_name = "DIGEST")]
    against: Option<String>,
    /// Answer a question: with text, or the number of a choice.
    #[arg(long, value_name = "TEXT")]
    answer: Option<String>,
}

/// `demo/3`.
#[derive(Debug, Clone)]
struct Id {
    bottle: String,
    number: u32,
}

impl std::str::FromStr for Id {
    type Err = &'static str;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let read = || {
            let (bottle, number) = s.split_once('/')?;
            Some(Self { bottle: bottle.to_owned(), number: number.parse().ok()? })
        };
        read().ok_or("a proposal is BOTTLE/NUMBER, such as demo/3; bottle proposals lists them")
    }
}

/// One proposal, its bottle, and what is in force there if it runs.
struct LoadedProposal {
    dir: BottleDir,
    proposal: Proposal,
    policy: Option<LivePolicies>,
}

fn load(id: &Id) -> Result<LoadedProposal> {
    let dir = super::logs::existing(&Roots::from_environment()?, &id.bottle)?;
    let alive = dir.status().is_some_and(|s| s.alive);
    let queue = Queue::read(&dir, alive)?;
    let none = || {
        Error::new(ErrorKind::Usage, format!("there is no proposal {}/{}", id.bottle, id.number))
            .hint(format!("bottle proposals {}", id.bottle))
    };
    let proposal = queue.get(id.number).cloned().ok_or_else(none)?;
    let policy = if alive { in_force(&dir).ok() } else { None };
    Ok(LoadedProposal { dir, proposal, policy })
}

impl Args {
    pub(super) fn run(&self) -> Result<u8> {
        match &self.command {
            None => self.list(),
            Some(Command::Show { proposal, json }) => show(proposal, *json),
            Some(Command::Approve(approve)) => approve.run(),
            Some(Command::Deny { proposal, reason }) => {
                let found = load(proposal)?;
                print_outcome(&found, send(&found, Verdict::Deny { reason: reason.clone() })?)
            }
        }
    }

    fn list(&self) -> Result<u8> {
        let roots = Roots::from_environment()?;
        let dirs = match &self.name {
            Some(name) => vec![super::logs::existing(&roots, name)?],
            None => roots.bottles()?,
        };
        let mut all = Vec::new();
        for dir in &dirs {
            let queue = Queue::read(dir, dir.status().is_some_and(|s| s.alive))?;
            all.extend(queue.all().filter(|p| self.name.is_some() || p.is_open(now_ms())).cloned());
        }
        if self.json {
            print_json(&all)?;
            return Ok(0);
        }
        let colour = use_colour(&std::io::stdout());
        let rows: Vec<[String; 4]> = all.iter().map(row).collect();
        for (p, line) in all.iter().zip(columns(&rows)) {
            let tone = if p.risks.is_empty() { Tone::Plain } else { Tone::Risk };
            println!("{}", paint(tone, &line, colour));
        }
        if all.is_empty() {
            note("bottle: no agent asks for anything");
        }
        Ok(0)
    }
}

/// The cells of a proposal's line in the list.
fn row(p: &Proposal) -> [String; 4] {
    let state = if p.is_open(now_ms()) || p.state != ProposalState::Pending {
        p.state
    } else {
        ProposalState::Expired
    };
    let wide = if p.risks.is_empty() { "" } else { "  !WIDE" };
    let summary = format!("{}{wide}", p.ask.summary());
    let id = format!("{}/{}", p.bottle, p.id);
    [id, state.as_str().to_owned(), ago(p.made_ms, now_ms()), summary]
}

fn print(found: &LoadedProposal, out: &mut dyn Write, colour: bool) -> Result<()> {
    for (tone, line) in lines(&found.proposal, found.policy.as_ref(), now_ms()) {
        writeln!(out, "{}", paint(tone, &line, colour))
            .context(ErrorKind::Internal, || "cannot write".into())?;
    }
    Ok(())
}

fn show(id: &Id, json: bool) -> Result<u8> {
    let found = load(id)?;
    if json {
        return print_json(&found.proposal).map(|()| 0);
    }
    let colour = use_colour(&std::io::stdout());
    print(&found, &mut std::io::stdout().lock(), colour)?;
    if found.proposal.is_open(now_ms()) {
        let outdated = found
            .policy
            .as_ref()
            .map(|now| now.digest_for(&found.proposal.ask))
            .filter(|d| *d != found.proposal.policy);
        let against = outdated.map(|d| format!(" --against {}", &d[..12])).unwrap_or_default();
        let wide = if found.proposal.risks_beside(found.policy.as_ref()).is_empty() {
            ""
        } else {
            " --type NAME"
        };
        let name = format!("{}/{}", id.bottle, id.number);
        println!(
            "\nbottle proposals approve {name}{against}{wide}   # --for 1h, --once, --save\n\
             bottle proposals deny {name}"
        );
    }
    Ok(0)
}

fn send(found: &LoadedProposal, verdict: Verdict) -> Result<DecisionOutcome> {
    let ask = Decide { id: found.proposal.id, via: "cli".into(), verdict };
    block_on(decide(&found.dir, ask))
}

fn print_outcome(found: &LoadedProposal, outcome: DecisionOutcome) -> Result<u8> {
    let slug = found.dir.slug();
    let text = outcome.into_result(&format!("{slug}/{}", found.proposal.id))?;
    note(format_args!("bottle: {slug}: {text}"));
    Ok(0)
}

impl Approve {
    fn run(&self) -> Result<u8> {
        let found = load(&self.proposal)?;
        let Some(policy) = &found.policy else {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("bottle {:?} is not running", found.dir.slug()),
            )
            .hint("bottle list"));
        };
        let scope = match (self.time, self.once, self.save) {
            (Some(time), ..) => Scope::For(time.duration().as_secs()),
            (_, true, _) => Scope::Once,
            (.., true) => Scope::Save,
            _ => Scope::Launch,
        };
        let terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        if found.proposal.state == ProposalState::Pending {
            print(&found, &mut std::io::stderr(), use_colour(&std::io::stderr()))?;
        }
        let now = policy.digest_for(&found.proposal.ask);
        let against = match &self.against {
            Some(short) if short.len() >= 12 && now.starts_with(short.as_str()) => now,
            Some(other) => other.clone(),
            // What is on the screen now is the change against the policy of now: whoever sits there
            // has seen it.
            None if found.proposal.policy != now
                && terminal
                && found.proposal.state == ProposalState::Pending =>
            {
                if !confirm("the policy has changed since; approve the change as it is shown now?")?
                {
                    return Err(Error::new(ErrorKind::Declined, "nothing is decided"));
                }
                now
            }
            None => found.proposal.policy.clone(),
        };
        let asked = found.proposal.ask.route().cloned();
        let route = asked.map(|asked| self.narrowed(asked)).transpose()?;
        let ask = route.clone().map_or_else(|| found.proposal.ask.clone(), Ask::Route);
        let routes = found.policy.as_ref().map(|now| &now.routes);
        let wide = routes.map_or(!found.proposal.risks.is_empty(), |r| !ask.risks(r).is_empty());
        let typed = match (&self.type_name, ask.name_to_type()) {
            (None, Some(name)) if wide && terminal => {
                Some(ask_line(&format!("this is wide; type {name} to approve it:"))?)
            }
            (given, _) => given.clone(),
        };
        let answer = self.answer(&found.proposal, terminal)?;
        let verdict = Verdict::Approve { against, scope, route, typed, answer };
        print_outcome(&found, send(&found, verdict)?)
    }

    fn answer(&self, proposal: &Proposal, terminal: bool) -> Result<Option<String>> {
        let Ask::Question { choices, .. } = &proposal.ask else { return Ok(None) };
        let given = match &self.answer {
            None if terminal => Some(ask_line("answer:")?),
            given => given.clone(),
        };
        let choices: Vec<String> = choices.iter().map(ToString::to_string).collect();
        Ok(given.map(|typed| answer_text(&choices, &typed)))
    }

    fn narrowed(&self, asked: RouteAsk) -> Result<RouteAsk> {
        if self.edit {
            return edit(&asked);
        }
        let bad = |e: &dyn std::fmt::Display| Error::new(ErrorKind::Usage, e.to_string());
        let mut route = asked;
        if let Some(host) = &self.host {
            route.host = host.parse().map_err(|e| bad(&e))?;
        }
        if !self.method.is_empty() {
            route.methods = self
                .method
                .iter()
                .map(|m| m.parse().map_err(|e| bad(&e)))
                .collect::<Result<_>>()?;
        }
        if !self.path.is_empty() {
            route.paths =
                self.path.iter().map(|p| p.parse().map_err(|e| bad(&e))).collect::<Result<_>>()?;
        }
        Ok(route)
    }
}

/// The route after the operator's editor.
fn edit(asked: &RouteAsk) -> Result<RouteAsk> {
    let what = || "cannot edit the proposal".to_owned();
    let editor = ["VISUAL", "EDITOR"]
        .iter()
        .find_map(|v| std::env::var(v).ok().filter(|e| !e.trim().is_empty()))
        .unwrap_or_else(|| "vi".to_owned());
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or("vi");
    let mut file = tempfile::Builder::new()
        .prefix("bottle-")
        .suffix(".toml")
        .tempfile()
        .context(ErrorKind::Internal, what)?;
    let list = |items: &mut dyn Iterator<Item = String>| {
        items.map(|i| format!("{i:?}")).collect::<Vec<_>>().join(", ")
    };
    let text = format!(
        "# Narrow this as you like: fewer methods, fewer or longer paths, one host of a wildcard.\n\
         # It cannot become wider. An empty file gives up.\nhost = {:?}\nmethods = [{}]\npaths = [{}]\n",
        asked.host.as_str(),
        list(&mut asked.methods.iter().map(ToString::to_string)),
        list(&mut asked.paths.iter().map(ToString::to_string)),
    );
    file.write_all(text.as_bytes()).context(ErrorKind::Internal, what)?;
    let status = Program::new("the editor", program)
        .args(words)
        .arg(file.path())
        .inherit_env()
        .stdin(Input::Inherit)
        .stdout(Sink::Inherit)
        .stderr(Sink::Inherit)
        .in_foreground()
        .outlives_parent()
        .status()
        .context(ErrorKind::Usage, || format!("cannot run {program}"))?;
    let text = std::fs::read_to_string(file.path()).context(ErrorKind::Internal, what)?;
    if !status.success() || text.trim().is_empty() {
        return Err(Error::new(ErrorKind::Declined, "nothing is decided: the edit was given up"));
    }
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Edited {
        host: bottle_policy::HostPattern,
        methods: Vec<bottle_policy::Method>,
        paths: Vec<bottle_policy::PathPattern>,
    }
    let Edited { host, methods, paths } = toml_edit::de::from_str(&text).map_err(|e| {
        Error::new(ErrorKind::Config, format!("what you wrote is not a route: {}", e.message()))
    })?;
    Ok(RouteAsk { host, methods, paths, ..asked.clone() })
}
