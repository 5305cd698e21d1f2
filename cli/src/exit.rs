//! How a command ends: exit codes, in one place, and the error every command returns.
//!
//! Invariant: the process ends through `main` with an [`Exit`], or through [`leave_now`]; nothing
//! else calls `exit`.

use std::io::Write as _;
use std::process::ExitCode;
use std::{fmt, io};

use longhaul::OpenError;

/// What the exit code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All was done.
    Done,
    /// A job failed, or something could not be done.
    Failed,
    /// The command line makes no sense.
    Usage,
    /// A commit was sent and its outcome cannot be found out.
    Unknown,
    /// A job holds still until it is resumed.
    Suspended,
    /// Another process owns the session.
    Owned,
    /// The journal could not be read or written.
    Journal,
    /// The journal is damaged, or of a newer version.
    Damaged,
    /// SIGINT, and no wish to wait.
    Interrupted,
    /// Nobody reads the output any more.
    BrokenPipe,
    /// SIGTERM.
    Terminated,
}

impl Exit {
    /// The code; those above 128 are what a shell shows for the signal.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unknown => 3,
            Self::Suspended => 4,
            Self::Owned => 73,
            Self::Journal => 74,
            Self::Damaged => 78,
            Self::Interrupted => 130,
            Self::BrokenPipe => 141,
            Self::Terminated => 143,
        }
    }

    /// The ending that another process of this program told by its code.
    pub fn of_code(code: Option<i32>) -> Option<Self> {
        let all = [
            Self::Done,
            Self::Failed,
            Self::Usage,
            Self::Unknown,
            Self::Suspended,
            Self::Owned,
            Self::Journal,
            Self::Damaged,
        ];
        all.into_iter().find(|exit| Some(i32::from(exit.code())) == code)
    }

    /// Of two endings, the one that the caller must hear of: what puts most in doubt.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        if other.rank() > self.rank() { other } else { self }
    }

    fn rank(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Suspended => 1,
            Self::Failed => 2,
            Self::Unknown => 3,
            Self::Usage => 4,
            Self::Owned => 5,
            Self::Damaged => 6,
            Self::Journal => 7,
            // The signals and the broken pipe end the whole command; they never meet a job's ending.
            Self::BrokenPipe => 8,
            Self::Terminated => 9,
            Self::Interrupted => 10,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command could not go on: the exit code and what to tell.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    text: String,
}

impl Failure {
    /// An ending with an exit code of its own.
    pub fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into() }
    }

    /// Something could not be done.
    pub fn failed(text: impl Into<String>) -> Self {
        Self::new(Exit::Failed, text)
    }

    /// The command line makes no sense.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::new(Exit::Usage, text)
    }

    /// A refusal by the session's owner.
    pub fn refused(kind: &str, text: impl Into<String>) -> Self {
        let exit = if kind == "journal" { Exit::Journal } else { Exit::Failed };
        Self::new(exit, text)
    }

    /// Writing to standard output failed.
    pub fn output(error: &io::Error) -> Self {
        match error.kind() {
            // Whoever read our output has what they wanted: `haul ls | head` is no error.
            io::ErrorKind::BrokenPipe => Self::new(Exit::BrokenPipe, ""),
            _ => Self::failed(format!("cannot write to standard output: {error}")),
        }
    }

    /// Says what to do when it is that somebody else owns the session.
    #[must_use]
    pub fn if_owned(self, hint: &str) -> Self {
        match self.exit {
            Exit::Owned => Self::new(Exit::Owned, format!("{}: {hint}", self.text)),
            _ => self,
        }
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

/// What to tell; empty when there is nothing to say.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let exit = match error {
            OpenError::Owned { .. } => Exit::Owned,
            OpenError::Journal(..) => Exit::Journal,
            OpenError::Damaged { .. } | OpenError::NewerVersion { .. } => Exit::Damaged,
            _ => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

/// Ends the process at once; only for a user who asked twice.
pub fn leave_now(exit: Exit, text: &str) -> ! {
    let _ = writeln!(io::stderr(), "{text}");
    std::process::exit(i32::from(exit.code()))
}

#[cfg(test)]
mod tests {
    use super::Exit::{Damaged, Done, Failed, Journal, Suspended, Unknown};
    use super::*;

    #[test]
    fn the_ending_that_puts_most_in_doubt_wins() {
        let order = [Done, Suspended, Failed, Unknown, Damaged, Journal];
        for (low, &milder) in order.iter().enumerate() {
            for &graver in &order[low..] {
                assert_eq!(milder.and(graver), graver);
                assert_eq!(graver.and(milder), graver);
            }
        }
    }

    #[test]
    fn codes_are_what_the_help_says() {
        let all = [Done, Failed, Exit::Usage, Unknown, Suspended, Exit::Owned, Journal, Damaged];
        assert_eq!(all.map(Exit::code), [0, 1, 2, 3, 4, 73, 74, 78]);
    }

    #[test]
    fn a_refusal_by_the_journal_is_told_apart() {
        assert_eq!(Failure::refused("journal", "x").exit(), Journal);
        assert_eq!(Failure::refused("unknown-job", "x").exit(), Failed);
    }

    #[test]
    fn a_closed_pipe_is_quiet() {
        let failure = Failure::output(&io::ErrorKind::BrokenPipe.into());
        assert!(failure.to_string().is_empty());
    }
}
