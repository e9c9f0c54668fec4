//! What the operator has chosen and typed.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Sender;
use std::time::Duration;

use crate::dashboard::model::{Board, BottleRow, ProposalRow};
use crate::launch;
use crate::manifest::neutral;
use crate::state::Roots;
use crate::supervise::{Answer, Decide, Scope, Verdict};

/// A part of the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pane {
    Bottles,
    Proposals,
    Log,
}

/// What the main loop does for a key.
pub enum Todo {
    Nothing,
    Quit,
    /// `bottle …` on the whole terminal.
    Run(Vec<String>),
}

/// A line that is being typed, and what for.
#[derive(Debug, Clone)]
pub enum Asking {
    /// The log's filter.
    Filter,
    /// The host of a wide proposal.
    Host { proposal: ProposalRow, scope: Scope },
    /// The answer to a question.
    Answer { proposal: ProposalRow },
    /// Why not.
    Reason { proposal: ProposalRow },
    /// Whether to stop a bottle (y).
    Stop { bottle: String },
    /// The agent to launch.
    Agent,
    /// Whether to launch it (y): the plan is in the pane.
    Launch { agent: String },
    /// Nothing; all keys are shown.
    Help,
}

/// A launch that was started here.
pub struct Building {
    pub agent: String,
    pub lines: Vec<String>,
    out: PathBuf,
    child: Option<Child>,
}

pub struct State {
    pub pane: Pane,
    pub bottle: usize,
    pub proposal: usize,
    /// Lines from the end.
    pub scroll: usize,
    pub filter: String,
    pub asking: Option<Asking>,
    pub typed: String,
    pub note: Option<String>,
    pub building: Option<Building>,
    pub colour: bool,
    pub unicode: bool,
    roots: Roots,
    told: Sender<String>,
    chosen: Option<(String, u32)>,
}

impl State {
    pub fn new(roots: Roots, told: Sender<String>) -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let locale = set("LC_ALL")
            .or_else(|| set("LC_CTYPE"))
            .or_else(|| set("LANG"))
            .unwrap_or_default()
            .to_lowercase();
        Self {
            pane: Pane::Proposals,
            bottle: 0,
            proposal: 0,
            scroll: 0,
            filter: String::new(),
            asking: None,
            typed: String::new(),
            note: None,
            building: None,
            colour: set("NO_COLOR").is_none() && set("TERM").as_deref() != Some("dumb"),
            unicode: locale.contains("utf-8") || locale.contains("utf8"),
            roots,
            told,
            chosen: None,
        }
    }

    /// After the board has changed: what was chosen stays chosen, wherever it is now.
    pub fn look(&mut self, board: &Board) -> bool {
        if let Some(at) = self
            .chosen
            .as_ref()
            .and_then(|c| board.proposals.iter().position(|p| (&p.bottle, p.id) == (&c.0, c.1)))
        {
            self.proposal = at;
        }
        self.proposal = self.proposal.min(board.proposals.len().saturating_sub(1));
        self.bottle = self.bottle.min(board.bottles.len().saturating_sub(1));
        self.remember(board);
        self.building.as_mut().is_some_and(Building::look)
    }

    /// Keeps what is chosen by its name.
    pub fn remember(&mut self, board: &Board) {
        self.chosen = board.proposals.get(self.proposal).map(|p| (p.bottle.clone(), p.id));
    }

    pub fn chosen_proposal<'b>(&self, board: &'b Board) -> Option<&'b ProposalRow> {
        board.proposals.get(self.proposal)
    }

    pub fn chosen_bottle<'b>(&self, board: &'b Board) -> Option<&'b BottleRow> {
        board.bottles.get(self.bottle)
    }

    pub fn ask(&mut self, asking: Asking) {
        self.typed.clear();
        self.asking = Some(asking);
    }

    /// Sends a decision; what comes of it arrives as a note. The policy is the one that the
    /// operator has on the screen.
    pub fn approve(
        &mut self,
        p: &ProposalRow,
        scope: Scope,
        typed: Option<String>,
        answer: Option<String>,
    ) {
        self.decide(
            p,
            Verdict::Approve { against: p.against.clone(), scope, route: None, typed, answer },
        );
    }

    pub fn decide(&mut self, p: &ProposalRow, verdict: Verdict) {
        let (roots, told, bottle, id) =
            (self.roots.clone(), self.told.clone(), p.bottle.clone(), p.id);
        self.note = Some(format!("deciding {bottle}/{id} …"));
        std::thread::spawn(move || {
            let dir = roots.bottle(&bottle);
            let answer = dir.and_then(|dir| {
                crate::host::runtime::block_on(launch::decide(
                    &dir,
                    Decide { id, via: "dashboard".into(), verdict },
                ))
            });
            let _ = told.send(match answer {
                Ok(Answer::Done { text }) => text,
                Ok(Answer::Outdated { .. }) => format!(
                    "the policy has changed: look at {bottle}/{id} again, nothing is decided"
                ),
                Ok(Answer::Refused { why, .. }) => format!("not decided: {why}"),
                Err(e) => e.to_string(),
            });
        });
    }

    pub fn stop(&mut self, bottle: String) {
        let (roots, told) = (self.roots.clone(), self.told.clone());
        self.note = Some(format!("stopping {bottle} …"));
        std::thread::spawn(move || {
            let stopped = roots.bottle(&bottle).and_then(|dir| {
                crate::host::runtime::block_on(launch::stop(&dir, Duration::from_secs(30)))
            });
            let _ = told
                .send(stopped.map_or_else(|e| e.to_string(), |()| format!("{bottle} is stopped")));
        });
    }

    /// `bottle plan AGENT`, into the pane.
    pub fn plan(&mut self, agent: &str) {
        let said = bottle(&["plan", agent]).output();
        let text = said.map(|o| [o.stdout, o.stderr].concat()).unwrap_or_default();
        let lines = String::from_utf8_lossy(&text).lines().map(neutral).collect();
        self.building =
            Some(Building { agent: agent.to_owned(), lines, out: PathBuf::new(), child: None });
        self.ask(Asking::Launch { agent: agent.to_owned() });
    }

    /// Starts a launch that outlives the dashboard; its progress is in the pane.
    pub fn launch(&mut self, agent: &str) {
        let out =
            std::env::temp_dir().join(format!("bottle-launch-{}-{agent}.log", std::process::id()));
        let started = File::options()
            .create_new(true)
            .append(true)
            .open(&out)
            .or_else(|_| File::options().append(true).open(&out))
            .and_then(|log| {
                let mut command = bottle(&["launch", agent, "--yes"]);
                command
                    .stdin(Stdio::null())
                    .stdout(log.try_clone()?)
                    .stderr(log)
                    .process_group(0)
                    .spawn()
            });
        match started {
            Ok(child) => {
                self.building = Some(Building {
                    agent: agent.to_owned(),
                    lines: Vec::new(),
                    out,
                    child: Some(child),
                })
            }
            Err(e) => self.note = Some(format!("cannot launch {agent}: {e}")),
        }
    }
}

fn bottle(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap_or_else(|_| "bottle".into()));
    command.args(args).stdin(Stdio::null());
    command
}

impl Building {
    fn look(&mut self) -> bool {
        let Some(child) = &mut self.child else { return false };
        let ended = child.try_wait().ok().flatten();
        let text = std::fs::read(&self.out).unwrap_or_default();
        let text =
            String::from_utf8_lossy(&text[text.len().saturating_sub(16 << 10)..]).into_owned();
        let mut lines: Vec<String> = text.lines().map(neutral).collect();
        if let Some(status) = ended {
            lines.push(format!("({} has ended: {status})", self.agent));
            self.child = None;
            let _ = std::fs::remove_file(&self.out);
        }
        let changed = lines != self.lines;
        self.lines = lines;
        changed
    }
}
