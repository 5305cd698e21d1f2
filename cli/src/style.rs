//! Colours: where they help, and only where somebody sees them.
//!
//! `--color auto` (the default) colours what goes to a terminal, unless `NO_COLOR` is set to anything or `TERM` is
//! `dumb`. Invariant: a coloured text differs from the plain one by SGR sequences alone.

use std::io::{self, IsTerminal as _};
use std::sync::OnceLock;

use clap::ValueEnum;
use longhaul::JobState;

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// On a terminal, unless `NO_COLOR` is set or `TERM` is dumb.
    #[default]
    Auto,
    /// Also where no terminal is.
    Always,
    /// Nowhere.
    Never,
}

impl When {
    fn on(self, terminal: bool, no_color: Option<&str>, term: Option<&str>) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => terminal && no_color.unwrap_or_default().is_empty() && term != Some("dumb"),
        }
    }
}

/// Of standard output and of standard error.
static PAINTS: OnceLock<(Paint, Paint)> = OnceLock::new();

/// Decides once for this process. Without it nothing is coloured.
pub fn init(when: When) {
    let value = |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let (no_color, term) = (value("NO_COLOR"), value("TERM"));
    let paint = |terminal| Paint { on: when.on(terminal, no_color.as_deref(), term.as_deref()) };
    let _decided = PAINTS.set((paint(io::stdout().is_terminal()), paint(io::stderr().is_terminal())));
}

/// Colours for standard output.
pub fn stdout() -> Paint {
    PAINTS.get().map_or(Paint::default(), |paints| paints.0)
}

/// Colours for standard error.
pub fn stderr() -> Paint {
    PAINTS.get().map_or(Paint::default(), |paints| paints.1)
}

/// A brush, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paint {
    /// Colours are wanted.
    pub on: bool,
}

/// What a text is, which decides how it looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ink {
    /// Nothing in particular.
    #[default]
    Plain,
    /// A head.
    Strong,
    /// Of less interest.
    Faint,
    /// All is well.
    Good,
    /// It moves.
    Busy,
    /// It holds still.
    Held,
    /// It failed.
    Bad,
}

impl Ink {
    /// How a job in this state looks.
    pub fn state(state: JobState) -> Self {
        match state {
            JobState::Queued => Self::Faint,
            JobState::Staged => Self::Plain,
            JobState::Sending => Self::Busy,
            JobState::Suspended => Self::Held,
            JobState::Completed => Self::Good,
            JobState::Failed => Self::Bad,
        }
    }

    /// SGR parameters.
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Strong => Some("1"),
            Self::Faint => Some("2"),
            Self::Good => Some("32"),
            Self::Busy => Some("36"),
            Self::Held => Some("33"),
            Self::Bad => Some("31"),
        }
    }
}

impl Paint {
    /// The text as it is to be written.
    pub fn ink(self, ink: Ink, text: &str) -> String {
        match ink.code().filter(|_| self.on && !text.is_empty()) {
            Some(code) => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            None => text.to_owned(),
        }
    }

    /// A state's name.
    pub fn state(self, state: JobState) -> String {
        self.ink(Ink::state(state), state.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_terminals_that_want_it_are_coloured() {
        for (when, terminal, no_color, term, on) in [
            (When::Auto, true, None, Some("xterm"), true),
            (When::Auto, true, None, None, true),
            (When::Auto, true, Some(""), None, true),
            (When::Auto, false, None, None, false),
            (When::Auto, true, Some("1"), None, false),
            (When::Auto, true, Some("0"), None, false),
            (When::Auto, true, None, Some("dumb"), false),
            (When::Always, false, Some("1"), Some("dumb"), true),
            (When::Never, true, None, None, false),
        ] {
            assert_eq!(when.on(terminal, no_color, term), on, "{when:?} {terminal} {no_color:?} {term:?}");
        }
    }

    #[test]
    fn without_colours_texts_stay_as_they_are() {
        assert_eq!(Paint { on: false }.ink(Ink::Bad, "x"), "x");
        assert_eq!(Paint { on: true }.ink(Ink::Bad, "x"), "\u{1b}[31mx\u{1b}[0m");
        assert_eq!(Paint { on: true }.ink(Ink::Plain, "x"), "x");
        assert_eq!(Paint { on: true }.ink(Ink::Good, ""), "");
    }
}
