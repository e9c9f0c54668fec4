//! Progress of a launch for the operator: one changing line on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::host::stderr::note;

/// Steps of a launch, on standard error.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    begun: Instant,
    quiet: bool,
}

impl Progress {
    pub(super) fn new(quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed:.dim}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { bar, begun: Instant::now(), quiet }
    }

    pub(super) fn step(&self, what: &str) {
        tracing::debug!(ms = self.begun.elapsed().as_millis(), "{what}");
        match &self.bar {
            Some(bar) => bar.set_message(what.to_owned()),
            None if !self.quiet => note(format_args!("bottle: {what}")),
            None => {}
        }
    }

    /// Prints a warning that stays.
    pub(super) fn warn(&self, what: &str) {
        let warn = || note(format_args!("warning    {what}"));
        match &self.bar {
            Some(bar) => bar.suspend(warn),
            None if !self.quiet => warn(),
            None => {}
        }
    }

    /// Clears the changing line, because the agent's output follows.
    pub(super) fn done(&self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if !self.quiet {
            note(format_args!("bottle: {what} ({:.1} s)", self.begun.elapsed().as_secs_f64()));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
