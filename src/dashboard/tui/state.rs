//! What the operator has selected and typed.

use std::sync::mpsc::Sender;

use super::launch_pane::LaunchPane;
use crate::dashboard::decide;
use crate::dashboard::model::{BottleRow, DashboardModel, ProposalRow};
use crate::host::runtime::block_on;
use crate::state::Roots;
use crate::supervise::{Scope, Verdict};

/// A part of the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pane {
    Bottles,
    Proposals,
    Log,
}

/// What the main loop does for a key.
pub enum Action {
    Nothing,
    Quit,
    /// `bottle …` on the whole terminal.
    Run(Vec<String>),
}

/// What is being asked, and answered on the line at the bottom.
#[derive(Debug, Clone)]
pub enum Prompt {
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

pub struct State {
    pub pane: Pane,
    pub bottle: usize,
    pub proposal: usize,
    /// Lines from the end.
    pub scroll: usize,
    pub filter: String,
    pub prompt: Option<Prompt>,
    pub typed: String,
    pub note: Option<String>,
    pub launch_pane: Option<LaunchPane>,
    pub colour: bool,
    pub unicode: bool,
    roots: Roots,
    outcomes: Sender<String>,
    chosen: Option<(String, u32)>,
}

impl State {
    pub fn new(roots: Roots, outcomes: Sender<String>) -> Self {
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
            prompt: None,
            typed: String::new(),
            note: None,
            launch_pane: None,
            colour: set("NO_COLOR").is_none() && set("TERM").as_deref() != Some("dumb"),
            unicode: locale.contains("utf-8") || locale.contains("utf8"),
            roots,
            outcomes,
            chosen: None,
        }
    }

    /// Follows a change of the model: what was chosen stays chosen, wherever it is now.
    pub fn refresh(&mut self, model: &DashboardModel) -> bool {
        if let Some(at) = self
            .chosen
            .as_ref()
            .and_then(|c| model.proposals.iter().position(|p| (&p.bottle, p.id) == (&c.0, c.1)))
        {
            self.proposal = at;
        }
        self.proposal = self.proposal.min(model.proposals.len().saturating_sub(1));
        self.bottle = self.bottle.min(model.bottles.len().saturating_sub(1));
        self.remember(model);
        self.launch_pane.as_mut().is_some_and(LaunchPane::refresh)
    }

    /// Keeps what is chosen by its name.
    pub fn remember(&mut self, model: &DashboardModel) {
        self.chosen = model.proposals.get(self.proposal).map(|p| (p.bottle.clone(), p.id));
    }

    pub fn chosen_proposal<'m>(&self, model: &'m DashboardModel) -> Option<&'m ProposalRow> {
        model.proposals.get(self.proposal)
    }

    pub fn chosen_bottle<'m>(&self, model: &'m DashboardModel) -> Option<&'m BottleRow> {
        model.bottles.get(self.bottle)
    }

    pub fn ask(&mut self, prompt: Prompt) {
        self.typed.clear();
        self.prompt = Some(prompt);
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
        let (bottle, id) = (p.bottle.clone(), p.id);
        self.note = Some(format!("deciding {bottle}/{id} …"));
        self.in_background(async move |roots| {
            let decided = decide::decide(&roots, &bottle, id, "dashboard", verdict).await;
            decided.unwrap_or_else(|why| format!("not decided: {why}"))
        });
    }

    pub fn stop(&mut self, bottle: String) {
        self.note = Some(format!("stopping {bottle} …"));
        self.in_background(async move |roots| {
            let stopped = decide::stop(&roots, &bottle).await;
            stopped.unwrap_or_else(|why| format!("not stopped: {why}"))
        });
    }

    /// Runs `work` on a thread; its result arrives as a note.
    fn in_background(&self, work: impl AsyncFnOnce(Roots) -> String + Send + 'static) {
        let (roots, outcomes) = (self.roots.clone(), self.outcomes.clone());
        std::thread::spawn(move || {
            let text = block_on(async { Ok(work(roots).await) });
            let _ = outcomes.send(text.unwrap_or_else(|e| e.chain()));
        });
    }

    /// Shows what a launch of `agent` would do, and asks whether to launch it.
    pub fn plan(&mut self, agent: &str) {
        self.launch_pane = Some(LaunchPane::plan(agent));
        self.ask(Prompt::Launch { agent: agent.to_owned() });
    }

    /// Starts a launch that outlives the dashboard; its progress is in the pane.
    pub fn launch(&mut self, agent: &str) {
        match LaunchPane::launch(agent) {
            Ok(pane) => self.launch_pane = Some(pane),
            Err(e) => self.note = Some(format!("cannot launch {agent}: {e}")),
        }
    }
}
