//! What `put` and `get` can be told about a job, whichever way its file goes.
//!
//! ```text
//! options ─┐
//!          ├─▶ template ─▶ one submission for each file (batch)
//! config ──┘
//! ```

pub mod connection;
mod header;
mod secret;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;
use longhaul::{ATTEMPTS_MAX_DEFAULT, Checksum, PRIORITY_DEFAULT, Submission, WallMs};
use url::Url;

use crate::config::{Config, Rate};
use crate::exit::Failure;
use crate::text::escape;
use crate::when::parse_when;
use connection::Connection;

/// Options of both directions.
#[derive(Debug, Args)]
pub struct Options {
    /// The digest the whole file must have, as sha256:HEX (also sha1, sha512)
    #[arg(long, value_name = "ALG:HEX")]
    pub checksum: Option<Checksum>,
    /// Your own name for the job: given again with the same key, it is the same job (several files: KEY/NAME each)
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// The jobs' group [default: one of its own for several files]
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// From 0 (last) to 9 (first) [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=9))]
    pub priority: Option<u8>,
    /// Begin no sooner: +2h30m, 22:30, '2026-11-22 22:30' or RFC 3339
    #[arg(long, value_name = "WHEN", value_parser = parse_when)]
    pub not_before: Option<WallMs>,
    /// Fail what is not complete by then
    #[arg(long, value_name = "WHEN", value_parser = parse_when)]
    pub deadline: Option<WallMs>,
    /// Bytes a second of each job, as 500k or 10MiB; 0: no limit
    #[arg(long, value_name = "RATE")]
    pub limit_rate: Option<Rate>,
    /// Failures in a row without progress after which a job is suspended [default: 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub attempts: Option<u32>,
    /// Return once the jobs are accepted; a daemon runs them, and is started if there is none
    #[arg(short, long)]
    pub detach: bool,
    #[command(flatten)]
    pub connection: Connection,
}

impl Options {
    /// `base` with these options; `parallel` is the direction's own.
    pub fn template(
        &self,
        config: &Config,
        parallel: Option<u16>,
        base: Submission,
    ) -> Result<Submission, Failure> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        if let Some(deadline) = self.deadline {
            if u128::from(deadline.0) <= now {
                return Err(Failure::usage("--deadline is over already"));
            }
            if self.not_before.is_some_and(|at| at >= deadline) {
                return Err(Failure::usage("--not-before leaves no time until --deadline"));
            }
        }
        let defaults = &config.transfer;
        let attempts_max =
            self.attempts.or(defaults.attempts.map(Into::into)).unwrap_or(ATTEMPTS_MAX_DEFAULT);
        let submission = Submission {
            checksum: self.checksum.clone(),
            attempts_max,
            priority: self.priority.or(defaults.priority).unwrap_or(PRIORITY_DEFAULT),
            not_before: self.not_before,
            deadline: self.deadline,
            limit_rate: self.limit_rate.or(defaults.limit_rate).and_then(Rate::limit),
            parallel: parallel.unwrap_or(1),
            ..base
        };
        self.connection.dress(&config.connection, submission)
    }
}

/// The path as it reads from any directory: the session's owner may work in another one.
pub fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::usage(format!("{}: {error}", escape(&path.to_string_lossy()))))
}

/// Checks what can be seen of a URL from here.
pub fn check_url(text: &str) -> Result<Url, Failure> {
    let wrong = |why: &str| Failure::usage(format!("{}: {why}", without_secrets(text)));
    let url = Url::parse(text).map_err(|error| wrong(&format!("this is no absolute URL ({error})")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("only http and https URLs are understood"));
    }
    if url.fragment().is_some() {
        return Err(wrong("no server sees what follows a #; write %23 if it belongs to the name"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong(
            "a URL must not hold credentials; use -u NAME, --netrc, --bearer-file or --bearer-env",
        ));
    }
    Ok(url)
}

/// The URL for a message: without what might be a password or a signature.
pub fn without_secrets(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    let shown = match (text.split_once("://"), text.rfind('@')) {
        (Some((scheme, _)), Some(at)) => format!("{scheme}://…{}", &text[at..]),
        (None, Some(at)) => format!("…{}", &text[at..]),
        (_, None) => text.to_owned(),
    };
    escape(&shown).into_owned()
}

#[cfg(test)]
mod tests;
