//! `bottle dashboard`: bottles, proposals and the audit log on one screen.

#[cfg(test)]
mod attacks;
mod draw;
mod keys;
mod state;
#[cfg(test)]
mod tests;

use std::io::{IsTerminal, stdout};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::{Terminal, prelude::CrosstermBackend};

use super::model::Board;
use crate::error::{Context, Error, Kind, Result};
use crate::state::Roots;
use state::{State, Todo};

/// How often files are looked at, and how often processor and memory are measured.
const LOOK: Duration = Duration::from_millis(250);
const MEASURE: Duration = Duration::from_secs(3);

/// Show bottles, what their agents ask for, and what they do; decide with single keys.
///
/// Keys are at the bottom of the screen; ? shows all. NO_COLOR, terminals without unicode and 80x24
/// are fine.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

type Screen = Terminal<CrosstermBackend<std::io::Stdout>>;

/// The terminal as it was, whatever happens.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        leave();
    }
}

fn enter() -> Result<()> {
    let what = || "cannot use this terminal".to_owned();
    enable_raw_mode().context(Kind::Usage, what)?;
    execute!(stdout(), EnterAlternateScreen).context(Kind::Usage, what)
}

fn leave() {
    let _ = disable_raw_mode();
    let _ = execute!(stdout(), LeaveAlternateScreen, ratatui::crossterm::cursor::Show);
}

impl Args {
    pub(crate) fn run(&self) -> Result<u8> {
        if !stdout().is_terminal() || !std::io::stdin().is_terminal() {
            return Err(Error::new(Kind::Usage, "the dashboard needs a terminal")
                .hint("bottle proposals; bottle list; bottle logs NAME"));
        }
        let roots = Roots::from_environment()?;
        let what = || "cannot use this terminal".to_owned();
        enter()?;
        let _restore = Restore;
        let mut screen =
            Terminal::new(CrosstermBackend::new(stdout())).context(Kind::Usage, what)?;
        let (told, news) = mpsc::channel();
        let mut state = State::new(roots.clone(), told);
        let mut board = Board::new(roots);
        let (mut looked, mut measured, mut dirty) = (None::<Instant>, None::<Instant>, true);
        loop {
            if looked.is_none_or(|at| at.elapsed() >= LOOK) {
                let measure = measured.is_none_or(|at| at.elapsed() >= MEASURE);
                dirty |= board.look(measure)?;
                looked = Some(Instant::now());
                if measure {
                    (measured, dirty) = (looked, true); // ages go on
                }
                dirty |= state.look(&board);
            }
            while let Ok(text) = news.try_recv() {
                state.note = Some(text);
                looked = None;
                dirty = true;
            }
            if std::mem::take(&mut dirty) {
                // ratatui writes the cells that are different, and nothing else.
                screen
                    .draw(|frame| draw::draw(frame, &board, &mut state))
                    .context(Kind::Usage, what)?;
            }
            let wait = LOOK.saturating_sub(looked.map_or(LOOK, |at| at.elapsed()));
            if event::poll(wait).context(Kind::Usage, what)? {
                dirty = true;
                if let Event::Key(key) = event::read().context(Kind::Usage, what)? {
                    match keys::key(key, &board, &mut state) {
                        Todo::Nothing => {}
                        Todo::Quit => return Ok(0),
                        Todo::Run(args) => outside(&mut screen, &args)?,
                    }
                }
            }
        }
    }
}

/// Runs `bottle ARGS…` on the whole terminal, then comes back.
fn outside(screen: &mut Screen, args: &[String]) -> Result<()> {
    leave();
    let program =
        std::env::current_exe().context(Kind::Internal, || "cannot find this program".into())?;
    let status = std::process::Command::new(program).args(args).status();
    let failed = !status.is_ok_and(|s| s.success());
    if failed {
        eprintln!("(Enter goes back to the dashboard)");
        let _ = std::io::stdin().read_line(&mut String::new());
    }
    enter()?;
    screen.clear().context(Kind::Usage, || "cannot use this terminal".into())
}
