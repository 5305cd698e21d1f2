//! Names and passwords: from an argument, or asked for on the terminal without showing them.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};

use longhaul::Redacted;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

use crate::exit::Failure;
use crate::text::escape;

/// `NAME:PASSWORD`; asks for the password where only the name is given.
pub fn user(given: &str, what: &str) -> Result<Redacted<String>, Failure> {
    if given.contains(':') {
        return Ok(Redacted::new(given.to_owned()));
    }
    let password = ask(&format!("Password of {} for the {what}: ", escape(given))).map_err(|error| {
        Failure::usage(format!(
            "there is no terminal to ask for the password of {} ({error}); use --netrc-file",
            escape(given)
        ))
    })?;
    Ok(Redacted::new(format!("{given}:{password}")))
}

/// The terminal's settings, put back at the end.
struct Silent {
    terminal: File,
    before: Termios,
}

impl Drop for Silent {
    fn drop(&mut self) {
        // There is nobody to tell when it fails.
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
        let _ = writeln!(self.terminal);
    }
}

/// Ctrl-C.
const INTERRUPT: u8 = 0x03;

/// A line from the process's terminal, whatever standard input is. Ctrl-C ends the line instead of the process,
/// so that the terminal is put right first.
fn ask(question: &str) -> io::Result<String> {
    let mut terminal = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
    let before = tcgetattr(&terminal)?;
    let mut quiet = before.clone();
    quiet.local_modes -= LocalModes::ECHO | LocalModes::ISIG;
    quiet.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
    terminal.write_all(question.as_bytes())?;
    tcsetattr(&terminal, OptionalActions::Flush, &quiet)?;
    let mut silent = Silent { terminal, before };
    let (mut line, mut buffer) = (Vec::new(), [0; 1024]);
    while !line.ends_with(b"\n") && !line.contains(&INTERRUPT) {
        match silent.terminal.read(&mut buffer)? {
            0 => break,
            count => line.extend_from_slice(&buffer[..count]),
        }
    }
    drop(silent);
    if line.is_empty() || line.contains(&INTERRUPT) {
        return Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted"));
    }
    let line = String::from_utf8(line).map_err(|_| io::Error::other("it is not UTF-8"))?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_that_is_given_is_not_asked_for() {
        let user = user("me:a:b", "server").expect("no question");
        assert_eq!(user.expose(), "me:a:b");
        assert_eq!(format!("{user:?}"), "[redacted]");
    }
}
