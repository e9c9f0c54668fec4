//! The screen.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::border;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph, Wrap};

use super::state::{Asking, Pane, State};
use crate::dashboard::model::Board;
use crate::state::now_ms;
use crate::supervise::ago;

const ASCII: border::Set = border::Set {
    top_left: "+",
    top_right: "+",
    bottom_left: "+",
    bottom_right: "+",
    vertical_left: "|",
    vertical_right: "|",
    horizontal_top: "-",
    horizontal_bottom: "-",
};

/// How things look on this terminal.
struct Look {
    colour: bool,
    unicode: bool,
}

impl Look {
    fn colour(&self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }

    /// Text that this terminal can show.
    fn text<'a>(&self, text: impl Into<String>) -> Span<'a> {
        let text = text.into();
        Span::raw(if self.unicode || text.is_ascii() {
            text
        } else {
            text.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect()
        })
    }

    fn line<'a>(&self, text: impl Into<String>, style: Style) -> Line<'a> {
        Line::from(self.text(text)).style(style)
    }

    fn block<'a>(&self, title: String, focus: bool) -> Block<'a> {
        let block = Block::new().borders(Borders::ALL).border_set(if self.unicode {
            border::PLAIN
        } else {
            ASCII
        });
        let style = if focus {
            self.colour(Color::Cyan).add_modifier(Modifier::BOLD)
        } else {
            Style::new()
        };
        block
            .title(self.text(format!(" {}{title} ", if focus { "*" } else { "" })))
            .border_style(style)
    }

    fn tone(&self, tone: &str) -> Style {
        match tone {
            "added" => self.colour(Color::Green),
            "risk" => self.colour(Color::Red).add_modifier(Modifier::BOLD),
            "said" => Style::new().add_modifier(if self.colour {
                Modifier::DIM
            } else {
                Modifier::empty()
            }),
            _ => Style::new(),
        }
    }
}

const CHOSEN: Modifier = Modifier::REVERSED;

pub fn draw(frame: &mut Frame<'_>, board: &Board, state: &mut State) {
    let look = Look { colour: state.colour, unicode: state.unicode };
    let [body, status, keys] =
        Layout::vertical([Constraint::Min(3), Constraint::Length(1), Constraint::Length(1)])
            .areas(frame.area());
    let most = if state.pane == Pane::Bottles { (frame.area().height / 3).max(4) } else { 4 };
    let rows = u16::try_from(board.bottles.len()).unwrap_or(u16::MAX).clamp(1, most);
    let log = match state.pane {
        Pane::Log => Constraint::Fill(3),
        _ => Constraint::Fill(1),
    };
    let [top, middle, bottom] =
        Layout::vertical([Constraint::Length(rows + 3), Constraint::Fill(2), log]).areas(body);
    bottles(frame, top, board, state, &look);
    let [list, detail] =
        Layout::horizontal([Constraint::Percentage(45), Constraint::Percentage(55)]).areas(middle);
    proposals(frame, list, board, state, &look);
    let detail_title = if state.building.is_some() { "launch" } else { "proposal" };
    let inner = look.block(detail_title.to_owned(), false);
    frame.render_widget(
        Paragraph::new(details(board, state, &look, detail.height))
            .wrap(Wrap { trim: false })
            .block(inner),
        detail,
    );
    lines(frame, bottom, board, state, &look);
    frame.render_widget(Paragraph::new(status_line(state, &look)), status);
    frame.render_widget(
        Paragraph::new(look.line(keys_of(state), Style::new().add_modifier(CHOSEN))),
        keys,
    );
    if matches!(state.asking, Some(Asking::Help)) {
        help(frame, &look);
    }
}

fn bottles(frame: &mut Frame<'_>, area: Rect, board: &Board, state: &State, look: &Look) {
    let title = Style::new().add_modifier(Modifier::BOLD);
    let mut text = vec![look.line(
        format!(
            "{:<20} {:<9} {:<6} {:>8} {:>5} {:>9} {:>5}",
            "NAME", "STATE", "ENGINE", "AGE", "CPU%", "MEMORY", "ASKS"
        ),
        title,
    )];
    let height = usize::from(area.height.saturating_sub(3)).max(1);
    let first = state.bottle.saturating_sub(height - 1);
    for (i, b) in board.bottles.iter().enumerate().skip(first).take(height) {
        let age = ago(b.started_ms, now_ms());
        let memory = if b.memory == 0 { "-".to_owned() } else { format!("{} MiB", b.memory >> 20) };
        let row = format!(
            "{:<20} {:<9} {:<6} {:>8} {:>5} {memory:>9} {:>5}",
            b.name,
            b.state,
            b.engine,
            age.trim_end_matches(" ago"),
            b.cpu,
            b.pending
        );
        let mut style = if b.pending > 0 { look.colour(Color::Yellow) } else { Style::new() };
        if i == state.bottle && state.pane == Pane::Bottles {
            style = style.add_modifier(CHOSEN);
        }
        text.push(look.line(row, style));
    }
    if board.bottles.is_empty() {
        text.push(look.line("no bottles; n launches one", Style::new()));
    }
    frame.render_widget(
        Paragraph::new(text).block(look.block("1 bottles".into(), state.pane == Pane::Bottles)),
        area,
    );
}

fn proposals(frame: &mut Frame<'_>, area: Rect, board: &Board, state: &State, look: &Look) {
    let height = usize::from(area.height.saturating_sub(2)).max(1);
    let first = state.proposal.saturating_sub(height - 1);
    let text: Vec<Line<'_>> = board
        .proposals
        .iter()
        .enumerate()
        .skip(first)
        .take(height)
        .map(|(i, p)| {
            let mark = if p.host.is_some() && p.open { '!' } else { ' ' };
            let row = format!(
                "{mark}{:<12} {:<8} {}",
                format!("{}/{}", p.bottle, p.id),
                p.state.as_str(),
                p.summary
            );
            let mut style = match (p.open, p.host.is_some()) {
                (true, true) => look.tone("risk"),
                (true, false) => look.colour(Color::Yellow),
                _ => Style::new(),
            };
            if i == state.proposal {
                style = style.add_modifier(CHOSEN);
            }
            look.line(row, style)
        })
        .collect();
    let open = board.proposals.iter().filter(|p| p.open).count();
    frame.render_widget(
        Paragraph::new(text)
            .block(look.block(format!("2 proposals, {open} open"), state.pane == Pane::Proposals)),
        area,
    );
}

fn details<'a>(board: &Board, state: &State, look: &Look, height: u16) -> Vec<Line<'a>> {
    if let Some(building) = &state.building {
        let most = usize::from(height.saturating_sub(2));
        let first = building.lines.len().saturating_sub(most);
        return building.lines[first..]
            .iter()
            .map(|l| look.line(l.clone(), Style::new()))
            .collect();
    }
    match state.chosen_proposal(board) {
        Some(p) => p.lines.iter().map(|(tone, l)| look.line(l.clone(), look.tone(tone))).collect(),
        None => vec![look.line("nobody asks for anything", Style::new())],
    }
}

fn lines(frame: &mut Frame<'_>, area: Rect, board: &Board, state: &mut State, look: &Look) {
    let height = usize::from(area.height.saturating_sub(2));
    let shown: Vec<Line<'_>> = board
        .lines
        .iter()
        .rev()
        .filter(|l| l.has(&state.filter))
        .skip(state.scroll)
        .take(height)
        .map(|l| {
            let style =
                if l.text.contains(" DENY ") { look.colour(Color::Red) } else { Style::new() };
            look.line(format!("{:<8} {}", l.bottle, l.text), style)
        })
        .collect();
    let filter = if state.filter.is_empty() {
        String::new()
    } else {
        format!(", only \"{}\"", state.filter)
    };
    let block = look.block(format!("3 log{filter}"), state.pane == Pane::Log);
    frame.render_widget(
        Paragraph::new(shown.into_iter().rev().collect::<Vec<_>>()).block(block),
        area,
    );
}

fn status_line<'a>(state: &State, look: &Look) -> Line<'a> {
    let typed = &state.typed;
    let text = match &state.asking {
        None => state.note.clone().unwrap_or_default(),
        Some(Asking::Filter) => format!("filter: {typed}_"),
        Some(Asking::Host { proposal, .. }) => {
            format!(
                "WIDE. To approve {}/{}, type {}: {typed}_",
                proposal.bottle,
                proposal.id,
                proposal.host.as_deref().unwrap_or_default()
            )
        }
        Some(Asking::Answer { proposal }) => {
            format!(
                "answer to {}/{} (text, or the number of a choice): {typed}_",
                proposal.bottle, proposal.id
            )
        }
        Some(Asking::Reason { proposal }) => {
            format!(
                "deny {}/{}; why, for the agent (Enter: no reason): {typed}_",
                proposal.bottle, proposal.id
            )
        }
        Some(Asking::Stop { bottle }) => format!("stop {bottle}? y"),
        Some(Asking::Agent) => format!("launch which agent: {typed}_"),
        Some(Asking::Launch { agent }) => format!("launch {agent} as planned above? y"),
        Some(Asking::Help) => String::new(),
    };
    let wide = matches!(state.asking, Some(Asking::Host { .. }));
    look.line(
        text,
        if wide { look.tone("risk") } else { Style::new().add_modifier(Modifier::BOLD) },
    )
}

fn keys_of(state: &State) -> String {
    let own = match (&state.asking, state.pane) {
        (Some(_), _) => return " Enter: yes, do it   Esc: no".to_owned(),
        (_, Pane::Bottles) => "Enter attach  l logs  x stop  n launch",
        (_, Pane::Proposals) => "a approve  o once  h 1 hour  s save  e edit  d deny",
        (_, Pane::Log) => "/ filter  Esc all",
    };
    format!(" {own} | Tab pane  ? keys  q quit")
}

fn help(frame: &mut Frame<'_>, look: &Look) {
    let area = frame.area();
    let (width, height) = (area.width.min(64), area.height.min(19));
    let at = Rect { x: (area.width - width) / 2, y: (area.height - height) / 2, width, height };
    let text = [
        "Tab 1 2 3   pane        Up Down j k PgUp PgDn   move",
        "",
        "bottles     Enter  a shell in it (its end comes back here)",
        "            l  its log     x  stop it (asks)",
        "proposals   a  approve for this launch",
        "            o  for one request     h  for an hour",
        "            s  and write it to the manifest",
        "            e  narrow it in $EDITOR first",
        "            d  deny, with a reason",
        "            a ! is wide: its host has to be typed",
        "log         /  filter as you type     Esc  all",
        "",
        "n  launch an agent     q  quit",
    ];
    frame.render_widget(Clear, at);
    let text: Vec<Line<'_>> = text.iter().map(|l| look.line(*l, Style::new())).collect();
    frame.render_widget(Paragraph::new(text).block(look.block("keys".into(), true)), at);
}
