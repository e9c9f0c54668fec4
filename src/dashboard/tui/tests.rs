//! The screen in other sizes, without colour, without unicode; the keys.

use std::sync::mpsc;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Color;

use super::state::{Action, Pane, Prompt, State};
use super::{draw, keys};
use crate::dashboard::model::{BottleRow, DashboardModel, LogLine, ProposalRow};
use crate::state::{BottleState, Roots};

fn fixture() -> (DashboardModel, State) {
    let home = tempfile::tempdir().unwrap();
    let roots = Roots::at(home.path().join("s"), home.path().join("r")).unwrap();
    let mut model = DashboardModel::new(roots.clone());
    let bottle = |n: usize| BottleRow {
        name: format!("bottle-{n}"),
        agent: "claude".into(),
        engine: "qemu".into(),
        state: BottleState::Running,
        started_ms: crate::state::now_ms(),
        cpu: 3.0,
        memory: 237 << 20,
        pending: usize::from(n == 0),
    };
    model.bottles = (0..20).map(bottle).collect();
    model.proposals = (0..30).map(proposal).collect();
    model.lines = (0..500)
        .map(|n| LogLine {
            bottle: "bottle-0".into(),
            text: format!("2026 DENY  GET a.test/{n} ↑1 B ↓2 B …"),
        })
        .collect();
    let mut state = State::new(roots, mpsc::channel().0);
    (state.colour, state.unicode) = (true, true);
    state.refresh(&model);
    (model, state)
}

fn proposal(n: u32) -> ProposalRow {
    let wide = n == 1;
    ProposalRow {
        bottle: "bottle-0".into(),
        id: 30 - n,
        state: bottle_policy::ProposalState::Pending,
        made_ms: 0,
        summary: format!("GET h{n}.test:443 /x"),
        open: n < 3,
        host: wide.then(|| "*.a.test".into()),
        route: None,
        choices: None,
        once: true,
        save_only: false,
        against: "0".repeat(64),
        lines: vec![
            ("risk", "! PLAIN".into()),
            ("added", format!("+ h{n}.test")),
            ("plain", "the agent says:".into()),
            ("said", "| für Ä".into()),
        ],
    }
}

fn screen(size: (u16, u16), model: &DashboardModel, state: &mut State) -> Buffer {
    let mut screen = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
    screen.draw(|frame| draw::draw(frame, model, state)).unwrap();
    screen.backend().buffer().clone()
}

fn text(buffer: &Buffer) -> Vec<String> {
    let cells = buffer.content.iter().map(|c| c.symbol()).collect::<Vec<_>>();
    cells.chunks(usize::from(buffer.area.width.max(1))).map(<[&str]>::concat).collect()
}

#[test]
fn a_small_screen_shows_everything() {
    let (model, mut state) = fixture();
    let lines = text(&screen((80, 24), &model, &mut state));
    let all = lines.join("\n");
    for want in [
        "1 bottles",
        "bottle-0",
        "running",
        "237 MiB",
        "2 proposals, 3 open",
        "! PLAIN",
        "+ h0.test",
        "| für Ä",
        "3 log",
        "a.test/499",
    ] {
        assert!(all.contains(want), "{want}:\n{all}");
    }
    assert!(lines[23].contains("a approve") && lines[23].contains("q quit"), "{all}");
    state.ask(Prompt::Help);
    let help = text(&screen((80, 24), &model, &mut state)).join("\n");
    assert!(help.contains("n  launch an agent") && help.contains("for one request"), "{help}");
}

#[test]
fn any_size_shows_the_selection() {
    let (model, mut state) = fixture();
    for size in [
        (1, 1),
        (2, 40),
        (10, 3),
        (20, 5),
        (40, 12),
        (79, 23),
        (80, 24),
        (120, 40),
        (300, 100),
        (80, 24),
    ] {
        for pane in [Pane::Bottles, Pane::Proposals, Pane::Log] {
            for prompt in [
                None,
                Some(Prompt::Help),
                Some(Prompt::Host {
                    proposal: proposal(1),
                    scope: crate::supervise::Scope::Launch,
                }),
            ] {
                (state.pane, state.proposal, state.bottle, state.prompt) = (pane, 29, 19, prompt);
                let lines = text(&screen(size, &model, &mut state)).join("\n");
                if size.0 >= 80 && size.1 >= 24 && state.prompt.is_none() {
                    assert!(lines.contains("bottle-0/1 "), "{size:?} {pane:?}\n{lines}");
                    assert!(
                        pane != Pane::Bottles || lines.contains("bottle-19"),
                        "{size:?}\n{lines}"
                    );
                }
            }
        }
    }
}

#[test]
fn marks_need_no_colour_and_no_unicode() {
    let (model, mut state) = fixture();
    let coloured = screen((80, 24), &model, &mut state);
    assert!(coloured.content.iter().any(|c| c.fg == Color::Red), "with colour there is some");
    (state.colour, state.unicode) = (false, false);
    for pane in [Pane::Bottles, Pane::Proposals, Pane::Log] {
        state.pane = pane;
        let plain = screen((80, 24), &model, &mut state);
        assert!(plain.content.iter().all(|c| c.fg == Color::Reset && c.bg == Color::Reset));
        assert!(plain.content.iter().all(|c| c.symbol().is_ascii()), "{:?}", text(&plain));
        let all = text(&plain).join("\n");
        assert!(
            all.contains("!bottle-0/29") && all.contains(" bottle-0/30"),
            "wide ones have a mark:\n{all}"
        );
        assert!(all.contains("| f?r ?") && all.contains("+----"), "{all}");
    }
}

#[test]
fn one_key_approves_nothing_wide() {
    let (model, mut state) = fixture();
    let mut press = |code| keys::key(KeyEvent::new(code, KeyModifiers::NONE), &model, &mut state);
    press(KeyCode::Down);
    for yes in ['a', 'o', 'h', 's'] {
        press(KeyCode::Char(yes));
        press(KeyCode::Esc);
    }
    press(KeyCode::Char('a'));
    assert!(matches!(press(KeyCode::Char('y')), Action::Nothing));
    assert!(matches!(&state.prompt, Some(Prompt::Host { .. })), "it still asks");
    assert_eq!(
        (state.typed.as_str(), state.note.as_deref()),
        ("y", None),
        "and nothing is being decided"
    );
}

#[test]
fn a_selected_proposal_stays_selected() {
    let (mut model, mut state) = fixture();
    state.proposal = 2;
    state.remember(&model);
    let chosen = model.proposals[2].id;
    model.proposals.insert(0, ProposalRow { id: 99, ..proposal(0) });
    state.refresh(&model);
    assert_eq!(model.proposals[state.proposal].id, chosen);
    model.proposals[state.proposal].open = false;
    keys::key(KeyEvent::new(KeyCode::Char('a'), KeyModifiers::NONE), &model, &mut state);
    assert!(
        state.prompt.is_none() && state.note.is_none(),
        "what another took the place of is not approved by a late key"
    );
}
