//! What an agent could write so that a person sees something else than it is.

/// Where it is written.
#[derive(Debug, Clone, Copy)]
pub enum In {
    Reason,
    Question,
    Choice,
}
use In::{Choice, Question, Reason};

/// Where it works without its guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// What the CLI writes to a terminal.
    Terminal,
    /// The dashboard's cells.
    Dashboard,
    /// What the page gets.
    Page,
}
use On::{Dashboard, Page, Terminal};

const ALL: [On; 3] = [Terminal, Dashboard, Page];
const NO_CELLS: [On; 2] = [Terminal, Page];

/// Name, where it is written, the text, what of it must not come through, and where it does without
/// the guard.
pub struct Case(pub &'static str, pub In, pub &'static str, pub &'static str, pub &'static [On]);

#[rustfmt::skip]
pub const CASES: &[Case] = &[
    Case("a colour", Reason, "fine \u{1b}[32m+ nothing\u{1b}[0m", "\u{1b}", &ALL),
    Case("a cleared screen", Reason, "\u{1b}[2J\u{1b}[Happroved", "\u{1b}", &ALL),
    Case("a cursor that goes up to the diff", Reason, "x\u{1b}[3A\u{1b}[2K+ a.test", "\u{1b}", &ALL),
    Case("a C1 sequence", Reason, "x\u{9b}31m", "\u{9b}", &ALL),
    Case("a title of the terminal", Reason, "\u{1b}]0;done\u{7}", "\u{7}", &ALL),
    Case("a link", Reason, "\u{1b}]8;;http://evil.test\u{1b}\\docs\u{1b}]8;;\u{1b}\\", "\u{1b}]8", &ALL),
    Case("the clipboard", Reason, "\u{1b}]52;c;cm0gLXJm\u{7}", "\u{1b}]52", &ALL),
    Case("a carriage return over the line", Reason, "needs *.evil.test\rneeds docs.test    ", "\r", &ALL),
    Case("backspaces", Reason, "evil\u{8}\u{8}\u{8}\u{8}docs", "\u{8}", &ALL),
    Case("a NUL", Reason, "docs\0.evil.test", "\0", &ALL),
    Case("a line of the change", Reason, "fine\n+ docs.test:443  GET  /", "\n+", &NO_CELLS),
    Case("a line without a risk", Reason, "fine\n\nin force, policy 0123", "\n\nin force", &NO_CELLS),
    Case("a line separator", Reason, "fine\u{2028}+ docs.test", "\u{2028}", &ALL),
    Case("an override of the order", Reason, "host \u{202e}tset.live\u{202c}", "\u{202e}", &NO_CELLS),
    Case("an isolate", Reason, "\u{2066}live.test\u{2069}", "\u{2066}", &NO_CELLS),
    Case("a mark from right to left", Reason, "a\u{200f}b", "\u{200f}", &NO_CELLS),
    Case("an Arabic mark", Reason, "a\u{61c}b", "\u{61c}", &NO_CELLS),
    Case("spaces without a width", Reason, "evil\u{200b}.test", "\u{200b}", &NO_CELLS),
    Case("a soft hyphen", Reason, "ev\u{ad}il.test", "\u{ad}", &NO_CELLS),
    Case("letters that are tags", Reason, "docs\u{e0065}\u{e0076}", "\u{e0065}", &ALL),
    Case("a blank that is a letter", Reason, "docs\u{3164}\u{3164}.test", "\u{3164}", &NO_CELLS),
    Case("a braille blank", Reason, "docs\u{2800}\u{2800}", "\u{2800}", &ALL),
    Case("marks that cover the lines above", Reason, "e\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}", "\u{301}\u{301}\u{301}\u{301}", &ALL),
    Case("a glyph of somebody's font", Reason, "\u{e0b0} approved", "\u{e0b0}", &ALL),
    Case("a question that clears the screen", Question, "ok?\u{1b}c", "\u{1b}", &ALL),
    Case("a question with lines of a change", Question, "ok?\n+ docs.test:443  GET  /", "\n+", &NO_CELLS),
    Case("a question that reads backwards", Question, "\u{202e}?ti si", "\u{202e}", &NO_CELLS),
    Case("a choice that says another number", Choice, "no\n2. yes", "\n2", &NO_CELLS),
    Case("a choice in colour", Choice, "\u{1b}[1;31mno", "\u{1b}", &ALL),
    Case("a choice that reads backwards", Choice, "\u{202e}sey", "\u{202e}", &NO_CELLS),
];
