//! The dashboard on a terminal: bottles, proposals and the audit log on one screen.

#[cfg(test)]
mod attacks;
mod draw;
mod keys;
mod launch_pane;
mod state;
#[cfg(test)]
mod tests;

use std::io::stdout;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::{Terminal, prelude::CrosstermBackend};

use super::model::DashboardModel;
use crate::error::{Context, ErrorKind, Result};
use crate::host::process::{Input, Program, Sink};
use crate::state::Roots;
use state::{Action, State};

/// How often files are read again.
const REFRESH_INTERVAL: Duration = Duration::from_millis(250);
/// How often processor time and memory are measured.
const MEASURE_INTERVAL: Duration = Duration::from_secs(3);

type Screen = Terminal<CrosstermBackend<std::io::Stdout>>;

/// Restores the terminal when dropped, whatever happens.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        leave();
    }
}

fn enter() -> Result<()> {
    let what = || "cannot use this terminal".to_owned();
    enable_raw_mode().context(ErrorKind::Usage, what)?;
    execute!(stdout(), EnterAlternateScreen).context(ErrorKind::Usage, what)
}

fn leave() {
    let _ = disable_raw_mode();
    let _ = execute!(stdout(), LeaveAlternateScreen, ratatui::crossterm::cursor::Show);
}

/// Shows the dashboard on this terminal until the operator quits.
///
/// # Errors
/// `Usage` when the terminal cannot be used.
pub(crate) fn run(roots: Roots) -> Result<()> {
    let what = || "cannot use this terminal".to_owned();
    enter()?;
    let _restore = Restore;
    let mut screen =
        Terminal::new(CrosstermBackend::new(stdout())).context(ErrorKind::Usage, what)?;
    let (outcomes, received) = mpsc::channel();
    let mut state = State::new(roots.clone(), outcomes);
    let mut model = DashboardModel::new(roots);
    let (mut refreshed, mut measured, mut dirty) = (None::<Instant>, None::<Instant>, true);
    loop {
        if refreshed.is_none_or(|at| at.elapsed() >= REFRESH_INTERVAL) {
            let measure = measured.is_none_or(|at| at.elapsed() >= MEASURE_INTERVAL);
            dirty |= model.refresh(measure)?;
            refreshed = Some(Instant::now());
            if measure {
                (measured, dirty) = (refreshed, true); // ages have changed, too
            }
            dirty |= state.refresh(&model);
        }
        while let Ok(text) = received.try_recv() {
            state.note = Some(text);
            refreshed = None;
            dirty = true;
        }
        if std::mem::take(&mut dirty) {
            // ratatui writes the cells that are different, and nothing else.
            screen
                .draw(|frame| draw::draw(frame, &model, &mut state))
                .context(ErrorKind::Usage, what)?;
        }
        let since = refreshed.map_or(REFRESH_INTERVAL, |at| at.elapsed());
        if event::poll(REFRESH_INTERVAL.saturating_sub(since)).context(ErrorKind::Usage, what)? {
            dirty = true;
            if let Event::Key(key) = event::read().context(ErrorKind::Usage, what)? {
                match keys::key(key, &model, &mut state) {
                    Action::Nothing => {}
                    Action::Quit => return Ok(()),
                    Action::Run(args) => outside(&mut screen, &args)?,
                }
            }
        }
    }
}

/// Runs `bottle ARGS…` on the whole terminal, then comes back.
fn outside(screen: &mut Screen, args: &[String]) -> Result<()> {
    leave();
    let program = std::env::current_exe()
        .context(ErrorKind::Internal, || "cannot find this program".into())?;
    let status = Program::new("bottle", program)
        .args(args)
        .inherit_env()
        .stdin(Input::Inherit)
        .stdout(Sink::Inherit)
        .stderr(Sink::Inherit)
        .in_foreground()
        .outlives_parent()
        .status();
    let failed = !status.is_ok_and(|s| s.success());
    if failed {
        eprintln!("(Enter goes back to the dashboard)");
        let _ = std::io::stdin().read_line(&mut String::new());
    }
    enter()?;
    screen.clear().context(ErrorKind::Usage, || "cannot use this terminal".into())
}
