//! What keys do.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::state::{Action, Pane, Prompt, State};
use crate::dashboard::decide::answer_text;
use crate::dashboard::model::{DashboardModel, ProposalRow};
use crate::supervise::{Scope, Verdict};

pub fn key(key: KeyEvent, model: &DashboardModel, state: &mut State) -> Action {
    if key.kind == KeyEventKind::Release {
        return Action::Nothing;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
        return Action::Quit;
    }
    match state.prompt.take() {
        Some(prompt) => typed(key.code, prompt, state),
        None => return command(key.code, model, state),
    }
    Action::Nothing
}

/// A key while a line is typed.
fn typed(code: KeyCode, prompt: Prompt, state: &mut State) {
    match (code, &prompt) {
        (KeyCode::Esc, Prompt::Launch { .. }) => state.launch_pane = None,
        (KeyCode::Esc, Prompt::Filter) => state.filter.clear(),
        (KeyCode::Esc, _) => state.note = Some("nothing is decided".to_owned()),
        (_, Prompt::Help) => {}
        (KeyCode::Enter, _) => entered(prompt, state),
        (KeyCode::Char('y'), Prompt::Stop { bottle }) => state.stop(bottle.clone()),
        (KeyCode::Char('y'), Prompt::Launch { agent }) => state.launch(&agent.clone()),
        (_, Prompt::Stop { .. }) => {}
        (_, Prompt::Launch { .. }) => state.launch_pane = None,
        (KeyCode::Backspace, _) => {
            state.typed.pop();
            state.prompt = Some(prompt);
        }
        (KeyCode::Char(c), _) => {
            if state.typed.chars().count() < 500 {
                state.typed.push(c);
            }
            state.prompt = Some(prompt);
        }
        _ => state.prompt = Some(prompt),
    }
    if matches!(state.prompt, Some(Prompt::Filter)) {
        (state.filter, state.scroll) = (state.typed.to_lowercase(), 0); // as one types
    }
}

fn entered(prompt: Prompt, state: &mut State) {
    let text = std::mem::take(&mut state.typed);
    match prompt {
        Prompt::Host { proposal, scope } => state.approve(&proposal, scope, Some(text), None),
        Prompt::Answer { proposal } => {
            let choices = proposal.choices.as_deref().unwrap_or_default();
            let answer = answer_text(choices, &text);
            state.approve(&proposal, Scope::Launch, None, Some(answer));
        }
        Prompt::Reason { proposal } => state.decide(
            &proposal,
            Verdict::Deny { reason: Some(text).filter(|t| !t.trim().is_empty()) },
        ),
        Prompt::Agent if !text.trim().is_empty() => state.plan(text.trim()),
        Prompt::Agent | Prompt::Filter | Prompt::Help | Prompt::Stop { .. } => {}
        Prompt::Launch { .. } => state.launch_pane = None,
    }
}

fn command(code: KeyCode, model: &DashboardModel, state: &mut State) -> Action {
    state.note = None;
    match code {
        KeyCode::Char('q') => return Action::Quit,
        KeyCode::Char('?') => state.ask(Prompt::Help),
        KeyCode::Char('/') => {
            state.pane = Pane::Log;
            state.ask(Prompt::Filter);
        }
        KeyCode::Char('n') => state.ask(Prompt::Agent),
        KeyCode::Esc => {
            state.filter.clear();
            state.launch_pane = None;
        }
        KeyCode::Char('1') => state.pane = Pane::Bottles,
        KeyCode::Char('2') => state.pane = Pane::Proposals,
        KeyCode::Char('3') => state.pane = Pane::Log,
        KeyCode::Tab | KeyCode::BackTab => {
            let forward = code == KeyCode::Tab;
            state.pane = match (state.pane, forward) {
                (Pane::Bottles, true) | (Pane::Log, false) => Pane::Proposals,
                (Pane::Proposals, true) | (Pane::Bottles, false) => Pane::Log,
                (Pane::Log, true) | (Pane::Proposals, false) => Pane::Bottles,
            };
        }
        KeyCode::Up | KeyCode::Char('k') => go(-1, model, state),
        KeyCode::Down | KeyCode::Char('j') => go(1, model, state),
        KeyCode::PageUp => go(-10, model, state),
        KeyCode::PageDown => go(10, model, state),
        _ => match state.pane {
            Pane::Bottles => return on_bottle(code, model, state),
            Pane::Proposals => return on_proposal(code, model, state),
            Pane::Log => {}
        },
    }
    Action::Nothing
}

fn go(by: isize, model: &DashboardModel, state: &mut State) {
    let moved = |at: usize, len: usize| at.saturating_add_signed(by).min(len.saturating_sub(1));
    match state.pane {
        Pane::Bottles => state.bottle = moved(state.bottle, model.bottles.len()),
        Pane::Proposals => state.proposal = moved(state.proposal, model.proposals.len()),
        Pane::Log => state.scroll = state.scroll.saturating_add_signed(-by).min(model.lines.len()),
    }
    state.remember(model);
}

fn on_bottle(code: KeyCode, model: &DashboardModel, state: &mut State) -> Action {
    let Some(bottle) = state.chosen_bottle(model).map(|b| b.name.clone()) else {
        return Action::Nothing;
    };
    match code {
        KeyCode::Enter => {
            return Action::Run(vec!["exec".into(), bottle, "--".into(), "bash".into()]);
        }
        KeyCode::Char('l') => (state.filter, state.pane, state.scroll) = (bottle, Pane::Log, 0),
        KeyCode::Char('x') => state.ask(Prompt::Stop { bottle }),
        _ => {}
    }
    Action::Nothing
}

fn on_proposal(code: KeyCode, model: &DashboardModel, state: &mut State) -> Action {
    let Some(p) = state.chosen_proposal(model).filter(|p| p.open).cloned() else {
        return Action::Nothing;
    };
    match code {
        KeyCode::Char('a') => yes(p, Scope::Launch, state),
        KeyCode::Char('o') => yes(p, Scope::Once, state),
        KeyCode::Char('h') => yes(p, Scope::For(3600), state),
        KeyCode::Char('s') => yes(p, Scope::Save, state),
        KeyCode::Char('e') if p.choices.is_none() => {
            let id = format!("{}/{}", p.bottle, p.id);
            return Action::Run(
                ["proposals", "approve", &id, "--edit", "--against", &p.against]
                    .map(str::to_owned)
                    .to_vec(),
            );
        }
        KeyCode::Char('d') => state.ask(Prompt::Reason { proposal: p }),
        _ => {}
    }
    Action::Nothing
}

/// One key is a yes only for what is not wide.
fn yes(p: ProposalRow, scope: Scope, state: &mut State) {
    if p.choices.is_some() {
        state.ask(Prompt::Answer { proposal: p });
    } else if p.host.is_some() {
        state.ask(Prompt::Host { proposal: p, scope });
    } else {
        state.approve(&p, scope, None, None);
    }
}
