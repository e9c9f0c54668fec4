//! What keys do.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::state::{Asking, Pane, State, Todo};
use crate::dashboard::model::{Board, ProposalRow};
use crate::supervise::{Scope, Verdict};

pub fn key(key: KeyEvent, board: &Board, state: &mut State) -> Todo {
    if key.kind == KeyEventKind::Release {
        return Todo::Nothing;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
        return Todo::Quit;
    }
    match state.asking.take() {
        Some(asking) => typed(key.code, asking, state),
        None => return command(key.code, board, state),
    }
    Todo::Nothing
}

/// A key while a line is typed.
fn typed(code: KeyCode, asking: Asking, state: &mut State) {
    match (code, &asking) {
        (KeyCode::Esc, Asking::Launch { .. }) => state.building = None,
        (KeyCode::Esc, Asking::Filter) => state.filter.clear(),
        (KeyCode::Esc, _) => state.note = Some("nothing is decided".to_owned()),
        (_, Asking::Help) => {}
        (KeyCode::Enter, _) => entered(asking, state),
        (KeyCode::Char('y'), Asking::Stop { bottle }) => state.stop(bottle.clone()),
        (KeyCode::Char('y'), Asking::Launch { agent }) => state.launch(&agent.clone()),
        (_, Asking::Stop { .. }) => {}
        (_, Asking::Launch { .. }) => state.building = None,
        (KeyCode::Backspace, _) => {
            state.typed.pop();
            state.asking = Some(asking);
        }
        (KeyCode::Char(c), _) => {
            if state.typed.chars().count() < 500 {
                state.typed.push(c);
            }
            state.asking = Some(asking);
        }
        _ => state.asking = Some(asking),
    }
    if matches!(state.asking, Some(Asking::Filter)) {
        (state.filter, state.scroll) = (state.typed.to_lowercase(), 0); // as one types
    }
}

fn entered(asking: Asking, state: &mut State) {
    let text = std::mem::take(&mut state.typed);
    match asking {
        Asking::Host { proposal, scope } => state.approve(&proposal, scope, Some(text), None),
        Asking::Answer { proposal } => {
            let choice = text
                .trim()
                .parse::<usize>()
                .ok()
                .and_then(|n| proposal.choices.as_ref()?.get(n.checked_sub(1)?).cloned());
            state.approve(&proposal, Scope::Launch, None, Some(choice.unwrap_or(text)));
        }
        Asking::Reason { proposal } => state.decide(
            &proposal,
            Verdict::Deny { reason: Some(text).filter(|t| !t.trim().is_empty()) },
        ),
        Asking::Agent if !text.trim().is_empty() => state.plan(text.trim()),
        Asking::Agent | Asking::Filter | Asking::Help | Asking::Stop { .. } => {}
        Asking::Launch { .. } => state.building = None,
    }
}

fn command(code: KeyCode, board: &Board, state: &mut State) -> Todo {
    state.note = None;
    match code {
        KeyCode::Char('q') => return Todo::Quit,
        KeyCode::Char('?') => state.ask(Asking::Help),
        KeyCode::Char('/') => {
            state.pane = Pane::Log;
            state.ask(Asking::Filter);
        }
        KeyCode::Char('n') => state.ask(Asking::Agent),
        KeyCode::Esc => {
            state.filter.clear();
            state.building = None;
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
        KeyCode::Up | KeyCode::Char('k') => go(-1, board, state),
        KeyCode::Down | KeyCode::Char('j') => go(1, board, state),
        KeyCode::PageUp => go(-10, board, state),
        KeyCode::PageDown => go(10, board, state),
        _ => match state.pane {
            Pane::Bottles => return on_bottle(code, board, state),
            Pane::Proposals => return on_proposal(code, board, state),
            Pane::Log => {}
        },
    }
    Todo::Nothing
}

fn go(by: isize, board: &Board, state: &mut State) {
    let moved = |at: usize, len: usize| at.saturating_add_signed(by).min(len.saturating_sub(1));
    match state.pane {
        Pane::Bottles => state.bottle = moved(state.bottle, board.bottles.len()),
        Pane::Proposals => state.proposal = moved(state.proposal, board.proposals.len()),
        Pane::Log => state.scroll = state.scroll.saturating_add_signed(-by).min(board.lines.len()),
    }
    state.remember(board);
}

fn on_bottle(code: KeyCode, board: &Board, state: &mut State) -> Todo {
    let Some(bottle) = state.chosen_bottle(board).map(|b| b.name.clone()) else {
        return Todo::Nothing;
    };
    match code {
        KeyCode::Enter => {
            return Todo::Run(vec!["exec".into(), bottle, "--".into(), "bash".into()]);
        }
        KeyCode::Char('l') => (state.filter, state.pane, state.scroll) = (bottle, Pane::Log, 0),
        KeyCode::Char('x') => state.ask(Asking::Stop { bottle }),
        _ => {}
    }
    Todo::Nothing
}

fn on_proposal(code: KeyCode, board: &Board, state: &mut State) -> Todo {
    let Some(p) = state.chosen_proposal(board).filter(|p| p.open).cloned() else {
        return Todo::Nothing;
    };
    match code {
        KeyCode::Char('a') => yes(p, Scope::Launch, state),
        KeyCode::Char('o') => yes(p, Scope::Once, state),
        KeyCode::Char('h') => yes(p, Scope::For(3600), state),
        KeyCode::Char('s') => yes(p, Scope::Save, state),
        KeyCode::Char('e') if p.choices.is_none() => {
            let id = format!("{}/{}", p.bottle, p.id);
            return Todo::Run(
                ["proposals", "approve", &id, "--edit", "--against", &p.against]
                    .map(str::to_owned)
                    .to_vec(),
            );
        }
        KeyCode::Char('d') => state.ask(Asking::Reason { proposal: p }),
        _ => {}
    }
    Todo::Nothing
}

/// One key is a yes only for what is not wide.
fn yes(p: ProposalRow, scope: Scope, state: &mut State) {
    if p.choices.is_some() {
        state.ask(Asking::Answer { proposal: p });
    } else if p.host.is_some() {
        state.ask(Asking::Host { proposal: p, scope });
    } else {
        state.approve(&p, scope, None, None);
    }
}
