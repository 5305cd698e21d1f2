//! The two streams: results to standard output, everything else to standard error.
//!
//! Invariant: nothing here panics when a stream is closed, as `println!` would.

use std::fmt;
use std::io::{self, Write as _};
use std::path::PathBuf;

use serde::Serialize;

use crate::exit::Failure;
use crate::style::{self, Ink};
use crate::text;

/// What the global options say, for every command.
#[derive(Debug)]
pub struct Context {
    /// The session as the user named it.
    pub session: String,
    /// Its directory.
    pub dir: PathBuf,
    /// JSON instead of text.
    pub json: bool,
    /// Only results and errors.
    pub quiet: bool,
    /// Tracing goes to standard error, which leaves no room for a bar.
    pub verbose: bool,
}

impl Context {
    /// Tells something by the way; silent with `-q`.
    pub fn note(&self, text: impl fmt::Display) {
        if !self.quiet {
            complain(text);
        }
    }

    /// How to call this program again for the same session.
    pub fn again(&self, command: &str) -> String {
        if self.session == crate::args::SESSION_DEFAULT {
            return format!("haul {command}");
        }
        format!("haul --session {} {command}", text::shell_word(&self.session))
    }
}

/// Writes results as they are.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| Failure::output(&error))
}

/// Writes one JSON value on a line of its own.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let mut line = serde_json::to_string(value)
        .map_err(|error| Failure::failed(format!("cannot write JSON: {error}")))?;
    line.push('\n');
    print(&line)
}

/// Writes to standard error why the command could not go on.
pub fn fail(text: impl fmt::Display) {
    let name = style::stderr().ink(Ink::Bad, "haul:");
    let _ = writeln!(io::stderr().lock(), "{name} {text}");
}

/// Writes a line to standard error; there is nobody to tell when that fails.
pub fn complain(text: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "haul: {text}");
}
