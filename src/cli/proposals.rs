//! `bottle proposals`: what agents ask for, and the decisions.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use bottle_policy::{Ask, ProposalState, RouteAsk};

use super::{colour_on, print_json};
use crate::error::{Context, Error, Kind, Result};
use crate::host::runtime::block_on;
use crate::host::stderr::{prompt, say};
use crate::launch::decide;
use crate::live_policy::in_force;
use crate::manifest::Interval;
use crate::state::{BottleDir, Roots, now_ms};
use crate::supervise::{
    Answer, Decide, Policies, Proposal, Queue, Scope, Tone, Verdict, ago, lines, paint,
};

/// Show what agents ask for, and decide.
///
/// Without a command: the open proposals of all running bottles (of NAME: all of them). A proposal
/// is named BOTTLE/NUMBER.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    /// Only this bottle's, the decided ones too.
    name: Option<String>,
    /// As JSON, the queue's own documents.
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show one proposal: what would change, and why the agent wants it.
    Show {
        /// BOTTLE/NUMBER.
        proposal: Id,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say yes: the change is in force at once, for this bottle only.
    Approve(Approve),
    /// Say no.
    Deny {
        /// BOTTLE/NUMBER.
        proposal: Id,
        /// Why, for the agent.
        #[arg(long)]
        reason: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Approve {
    /// BOTTLE/NUMBER.
    proposal: Id,
    /// Take it back after this time (such as 30m or 1h). Without: when the bottle ends.
    #[arg(long = "for", value_name = "TIME", conflicts_with_all = ["once", "save"])]
    time: Option<Interval>,
    /// For one request.
    #[arg(long, conflicts_with = "save")]
    once: bool,
    /// Write it into the manifest, too.
    #[arg(long)]
    save: bool,
    /// Change the route in $EDITOR before; it can only become narrower.
    #[arg(long, conflicts_with_all = ["host", "method", "path"])]
    edit: bool,
    /// Only this host of a wildcard.
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Only these methods.
    #[arg(long, value_name = "METHOD")]
    method: Vec<String>,
    /// Only these paths.
    #[arg(long, value_name = "PATH")]
    path: Vec<String>,
    /// The host (or repository) of a wide proposal, typed; without it you are asked.
    #[arg(long = "type", value_name = "NAME")]
    type_name: Option<String>,
    /// The policy (its digest, or 12 digits of it) that the change was shown against, when it is
    /// not the proposal's own.
    #[arg(long, value_name = "DIGEST")]
    against: Option<String>,
    /// The answer to a question: text, or the number of a choice.
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
struct Found {
    dir: BottleDir,
    proposal: Proposal,
    policy: Option<Policies>,
}

fn found(id: &Id) -> Result<Found> {
    let dir = super::logs::existing(&Roots::from_environment()?, &id.bottle)?;
    let alive = dir.status().is_some_and(|s| s.alive);
    let queue = Queue::read(&dir, alive)?;
    let none = || {
        Error::new(Kind::Usage, format!("there is no proposal {}/{}", id.bottle, id.number))
            .hint(format!("bottle proposals {}", id.bottle))
    };
    let proposal = queue.get(id.number).cloned().ok_or_else(none)?;
    let policy = if alive { in_force(&dir).ok() } else { None };
    Ok(Found { dir, proposal, policy })
}

impl Args {
    pub(super) fn run(&self) -> Result<u8> {
        match &self.command {
            None => self.list(),
            Some(Command::Show { proposal, json }) => show(proposal, *json),
            Some(Command::Approve(approve)) => approve.run(),
            Some(Command::Deny { proposal, reason }) => {
                let found = found(proposal)?;
                said(&found, &send(&found, Verdict::Deny { reason: reason.clone() })?)
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
        let colour = colour_on(&std::io::stdout());
        for p in &all {
            let state = if p.is_open(now_ms()) || p.state != ProposalState::Pending {
                p.state
            } else {
                ProposalState::Expired
            };
            let risk = if p.risks.is_empty() { "" } else { "  !WIDE" };
            let line = format!(
                "{:<16} {:<10} {:<8} {}{risk}",
                format!("{}/{}", p.bottle, p.id),
                state.as_str(),
                ago(p.made_ms, now_ms()),
                p.ask.summary()
            );
            println!(
                "{}",
                if p.risks.is_empty() { line } else { paint(Tone::Risk, &line, colour) }
            );
        }
        if all.is_empty() {
            say("bottle: nobody asks for anything");
        }
        Ok(0)
    }
}

fn print(found: &Found, out: &mut dyn Write, colour: bool) -> Result<()> {
    for (tone, line) in lines(&found.proposal, found.policy.as_ref(), now_ms()) {
        writeln!(out, "{}", paint(tone, &line, colour))
            .context(Kind::Internal, || "cannot write".into())?;
    }
    Ok(())
}

fn show(id: &Id, json: bool) -> Result<u8> {
    let found = found(id)?;
    if json {
        return print_json(&found.proposal).map(|()| 0);
    }
    let colour = colour_on(&std::io::stdout());
    print(&found, &mut std::io::stdout().lock(), colour)?;
    if found.proposal.is_open(now_ms()) {
        let outdated = found
            .policy
            .as_ref()
            .map(|now| now.digest_for(&found.proposal.ask))
            .filter(|d| *d != found.proposal.policy);
        let against = outdated.map(|d| format!(" --against {}", &d[..12])).unwrap_or_default();
        let wide =
            if found.proposal.risks.is_empty() { String::new() } else { " --type NAME".to_owned() };
        let name = format!("{}/{}", id.bottle, id.number);
        println!(
            "\nbottle proposals approve {name}{against}{wide}   # --for 1h, --once, --save\nbottle proposals deny {name}"
        );
    }
    Ok(0)
}

fn send(found: &Found, verdict: Verdict) -> Result<Answer> {
    let ask = Decide { id: found.proposal.id, via: "cli".into(), verdict };
    block_on(decide(&found.dir, ask))
}

fn said(found: &Found, answer: &Answer) -> Result<u8> {
    let name = format!("{}/{}", found.dir.slug(), found.proposal.id);
    match answer {
        Answer::Done { text } => {
            say(format_args!("bottle: {}: {text}", found.dir.slug()));
            Ok(0)
        }
        Answer::Outdated { .. } => Err(Error::new(
            Kind::Config,
            format!("the policy has changed since {name} was asked; look at it again"),
        )
        .hint(format!("bottle proposals show {name}"))),
        Answer::Refused { why, hint } => {
            let e = Error::new(Kind::Config, why.clone());
            Err(match hint {
                Some(hint) => e.hint(hint.clone()),
                None => e,
            })
        }
    }
}

impl Approve {
    fn run(&self) -> Result<u8> {
        let found = found(&self.proposal)?;
        let Some(policy) = &found.policy else {
            return Err(Error::new(
                Kind::Usage,
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
            print(&found, &mut std::io::stderr(), colour_on(&std::io::stderr()))?;
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
                if !yes("the policy has changed since; approve the change as it is shown now?")? {
                    return Err(Error::new(Kind::Declined, "nothing is decided"));
                }
                now
            }
            None => found.proposal.policy.clone(),
        };
        let asked = found.proposal.ask.route().cloned();
        let route = asked.map(|asked| self.narrowed(asked)).transpose()?;
        let ask = route.clone().map_or_else(|| found.proposal.ask.clone(), Ask::Route);
        let typed = match (&self.type_name, ask.name_to_type()) {
            (None, Some(name)) if !ask.risks().is_empty() && terminal => {
                Some(line(&format!("this is wide; type {name} to approve it: "))?)
            }
            (given, _) => given.clone(),
        };
        let answer = self.answer(&found.proposal, terminal)?;
        let verdict = Verdict::Approve { against, scope, route, typed, answer };
        said(&found, &send(&found, verdict)?)
    }

    fn answer(&self, proposal: &Proposal, terminal: bool) -> Result<Option<String>> {
        let Ask::Question { choices, .. } = &proposal.ask else { return Ok(None) };
        let given = match &self.answer {
            None if terminal => Some(line("answer: ")?),
            given => given.clone(),
        };
        let chosen = |g: &String| {
            choices.get(g.trim().parse::<usize>().ok()?.checked_sub(1)?).map(ToString::to_string)
        };
        Ok(given.map(|g| chosen(&g).unwrap_or(g)))
    }

    fn narrowed(&self, asked: RouteAsk) -> Result<RouteAsk> {
        if self.edit {
            return edit(&asked);
        }
        let bad = |e: &dyn std::fmt::Display| Error::new(Kind::Usage, e.to_string());
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
    let program = PathBuf::from(words.next().unwrap_or("vi"));
    let mut file = tempfile::Builder::new()
        .prefix("bottle-")
        .suffix(".toml")
        .tempfile()
        .context(Kind::Internal, what)?;
    let list = |items: &mut dyn Iterator<Item = String>| {
        items.map(|i| format!("{i:?}")).collect::<Vec<_>>().join(", ")
    };
    let text = format!(
        "# Narrow this as you like: fewer methods, fewer or longer paths, one host of a wildcard.\n# It cannot become wider. An empty file gives up.\nhost = {:?}\nmethods = [{}]\npaths = [{}]\n",
        asked.host.as_str(),
        list(&mut asked.methods.iter().map(ToString::to_string)),
        list(&mut asked.paths.iter().map(ToString::to_string)),
    );
    file.write_all(text.as_bytes()).context(Kind::Internal, what)?;
    let status = std::process::Command::new(&program).args(words).arg(file.path()).status();
    let status = status.context(Kind::Usage, || format!("cannot run {}", program.display()))?;
    let text = std::fs::read_to_string(file.path()).context(Kind::Internal, what)?;
    if !status.success() || text.trim().is_empty() {
        return Err(Error::new(Kind::Declined, "nothing is decided: the edit was given up"));
    }
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Edited {
        host: bottle_policy::HostPattern,
        methods: Vec<bottle_policy::Method>,
        paths: Vec<bottle_policy::PathPattern>,
    }
    let Edited { host, methods, paths } = toml_edit::de::from_str(&text).map_err(|e| {
        Error::new(Kind::Config, format!("what you wrote is no route: {}", e.message()))
    })?;
    Ok(RouteAsk { host, methods, paths, ..asked.clone() })
}

fn line(question: &str) -> Result<String> {
    prompt(question);
    let mut text = String::new();
    std::io::stdin().read_line(&mut text).context(Kind::Declined, || "no answer".into())?;
    Ok(text.trim().to_owned())
}

fn yes(question: &str) -> Result<bool> {
    Ok(matches!(line(&format!("{question} [y/N] "))?.as_str(), "y" | "Y" | "yes"))
}
