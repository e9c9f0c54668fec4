//! The table of tests/attacks/supervise/text.rs on all three screens: an agent's text acts on none
//! of them. The negative control shows the same text unescaped, where it does act.

use std::sync::mpsc;

use bottle_policy::{Ask, MAX_CHOICE_CHARS, MAX_TEXT_CHARS, Policy, ProposalState, UntrustedText};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::{draw, state::State};
use crate::dashboard::model::{DashboardModel, ProposalRow, row};
use crate::live_policy::LivePolicies;
use crate::state::{Roots, now_ms};
use crate::supervise::{Proposal, diff, lines, paint};

#[path = "../../../tests/attacks/supervise/text.rs"]
mod table;
use table::{CASES, Case, In, On};

fn route() -> Ask {
    let host = "*.evil.test";
    let route = serde_json::json!({
        "route": { "host": host, "port": 443, "methods": ["GET"], "paths": ["/*"], "tls": true }
    });
    serde_json::from_value(route).unwrap()
}

fn proposal(ask: Ask, reason: &str) -> Proposal {
    Proposal {
        version: 1,
        id: 1,
        bottle: "b".into(),
        reason: UntrustedText::new(reason, MAX_TEXT_CHARS),
        policy: String::new(),
        diff: diff(&ask, &Policy::new(Vec::new())),
        risks: ask.risks(&Policy::new(Vec::new())),
        state: ProposalState::Pending,
        made_ms: now_ms(),
        expires_ms: u64::MAX,
        decision: None,
        ask,
    }
}

/// A proposal with `text` in the given place.
fn with(place: In, text: &str) -> Proposal {
    let question = |text: &str, choices: &[&str]| Ask::Question {
        text: UntrustedText::new(text, MAX_TEXT_CHARS),
        choices: choices.iter().map(|c| UntrustedText::new(c, MAX_CHOICE_CHARS)).collect(),
    };
    match place {
        In::Reason => proposal(route(), text),
        In::Question => proposal(question(text, &[]), ""),
        In::Choice => proposal(question("?", &[text]), ""),
    }
}

/// The cells of the dashboard, line by line.
fn dashboard(row: ProposalRow, colour: bool) -> String {
    let home = tempfile::tempdir().unwrap();
    let roots = Roots::at(home.path().join("s"), home.path().join("r")).unwrap();
    let mut model = DashboardModel::new(roots.clone());
    model.proposals = vec![row];
    let mut state = State::new(roots, mpsc::channel().0);
    (state.colour, state.unicode) = (colour, true);
    let mut screen = Terminal::new(TestBackend::new(80, 24)).unwrap();
    screen.draw(|frame| draw::draw(frame, &model, &mut state)).unwrap();
    let buffer = screen.backend().buffer();
    let line = |y| (0..80).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..24).map(|y| line(y) + "\n").collect()
}

/// What the screen `on` shows of `p`, after `put` has replaced parts of its text.
fn shown(on: On, p: &Proposal, put: &dyn Fn(&str) -> String) -> String {
    let mut row = row(p, None, true, now_ms());
    row.lines.iter_mut().for_each(|(_, l)| *l = put(l));
    match on {
        On::Dashboard => dashboard(row, true),
        On::Page => row.lines.into_iter().map(|(_, l)| l).collect(),
        On::Terminal => lines(p, None, now_ms())
            .into_iter()
            .map(|(tone, l)| paint(tone, &put(&l), false))
            .collect(),
    }
}

#[test]
fn agents_text_acts_on_no_screen() {
    const MARK: &str = "MARKMARK";
    let mut wrong = Vec::new();
    for Case(name, place, text, acts, works) in CASES {
        for on in [On::Terminal, On::Dashboard, On::Page] {
            let now = shown(on, &with(*place, text), &str::to_owned);
            assert!(!now.contains(acts), "{name} on {on:?}: {now:?}");
            let hidden = |c: char| c.is_control() && c != '\n';
            assert!(!now.contains(hidden), "{name} on {on:?}: {now:?}");
            // The negative control: the text is inserted unescaped, and then shown by the same code.
            let raw = shown(on, &with(*place, MARK), &|l| l.replace(MARK, text));
            if raw.contains(acts) != works.contains(&on) {
                wrong.push(format!("{name} on {on:?}, without: {raw:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{} texts", CASES.len());
}

#[test]
fn no_reason_looks_like_a_line_of_the_change() {
    let begins = |screen: &str| {
        let text = screen.lines().filter_map(|l| l.split('│').nth(3)).collect::<Vec<_>>();
        text.iter().filter(|l| l.trim_start().starts_with("+ ")).count()
    };
    for pad in 0..60 {
        // Words that are broken just so that `+ …` begins a line.
        let p = proposal(
            route(),
            &format!("for tests {}+ docs.test:443  GET  /only/this", "x ".repeat(pad)),
        );
        let (now, joined) = (row(&p, None, true, now_ms()), row(&p, None, true, now_ms()));
        assert_eq!(begins(&dashboard(now, false)), 1, "one line of the change, which is ours");
        // Without the marks of quoted lines, one of these is broken there by the screen.
        let mut joined = joined;
        joined.lines.retain(|(tone, _)| *tone != "said");
        joined.lines.push(("said", format!("the agent says: {}", p.reason)));
        if begins(&dashboard(joined, false)) == 2 {
            return;
        }
    }
    panic!("the negative control does not work");
}

#[test]
fn no_reason_pushes_the_risk_off_the_screen() {
    for p in [proposal(route(), &"please ".repeat(71)), proposal(route(), &"x".repeat(500))] {
        let mut now = row(&p, None, true, now_ms());
        let seen = |screen: &str| screen.contains("! WILDCARD") && screen.contains("+ *.evil.test");
        assert!(seen(&dashboard(now.clone(), true)), "{}", dashboard(now, true));
        now.lines.sort_by_key(|(tone, _)| *tone != "said");
        assert!(!seen(&dashboard(now, true)), "with what the agent says first it does");
    }
}

#[test]
fn a_change_is_shown_from_its_types() {
    let policies = LivePolicies { routes: Policy::new(Vec::new()), git: None };
    let mut p = proposal(route(), "fine");
    // A document that says of itself that it is harmless.
    p.diff = vec!["+ docs.test:443  GET  /".into()];
    let now = row(&p, Some(&policies), true, now_ms());
    assert!(now.lines.iter().any(|(_, l)| l.starts_with("+ *.evil.test")), "{:?}", now.lines);
    assert!(!now.lines.iter().any(|(_, l)| l.contains("docs.test")), "{:?}", now.lines);
    let kept = row(&p, None, true, now_ms());
    assert!(
        kept.lines.iter().any(|(_, l)| l.contains("docs.test")),
        "what is shown without the policy in force"
    );
}
