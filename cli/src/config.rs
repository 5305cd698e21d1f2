//! The configuration file: defaults for options, in TOML.
//!
//! ```text
//! --config FILE ─▶ HAUL_CONFIG ─▶ $XDG_CONFIG_HOME/longhaul/config.toml ─▶ ~/.config/longhaul/config.toml
//!                                                 │ the first that is named; the last two may be missing
//! command line ──wins over──▶ file ──wins over──▶ default
//! ```
//!
//! Every key is a row of [`keys::KEYS`]; the example file and `haul config` are made from it. A key that is not
//! there is refused: a misspelt limit must not become no limit.
//!
//! Absent on purpose: secrets other than those of headers and of a proxy, and `--insecure`, which nobody should
//! have switched on without seeing it.

pub mod keys;
mod value;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::{fs, io};

use clap::Args;
use longhaul::SessionOptions;
use serde::{Deserialize, Serialize};
use toml::de::{DeTable, DeValue};

pub use value::{Rate, Size, Span};

use crate::command::put::{Protocol, Stage};
use crate::exit::Failure;
use crate::text::escape;

/// Which file.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Choice {
    /// The configuration file; see `haul config` [default: ~/.config/longhaul/config.toml, if there is one]
    #[arg(long, global = true, env = "HAUL_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Read no configuration file
    #[arg(long, global = true)]
    pub no_config: bool,
}

/// What a configuration file says; nothing where it is silent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where it came from.
    #[serde(skip)]
    pub file: Option<PathBuf>,
    /// For the process that owns the session.
    pub session: SessionPart,
    /// For jobs.
    pub transfer: TransferPart,
    /// For a job's connections.
    pub connection: ConnectionPart,
    /// For what commands show.
    pub output: OutputPart,
}

/// `[session]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SessionPart {
    pub concurrent: Option<std::num::NonZeroUsize>,
    pub per_host: Option<std::num::NonZeroUsize>,
    pub uploads: Option<std::num::NonZeroUsize>,
    pub downloads: Option<std::num::NonZeroUsize>,
    pub limit_rate: Option<Rate>,
    pub stage_budget: Option<Size>,
    pub retention: Option<Span>,
}

/// `[transfer]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TransferPart {
    pub attempts: Option<std::num::NonZeroU32>,
    pub limit_rate: Option<Rate>,
    pub priority: Option<u8>,
    pub parallel: Option<u16>,
    pub segments: Option<u16>,
    pub protocol: Option<Protocol>,
    pub stage: Option<Stage>,
}

/// `[connection]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ConnectionPart {
    pub proxy: Option<String>,
    pub cacert: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub cert_key: Option<PathBuf>,
    pub netrc: Option<PathBuf>,
    pub user_agent: Option<String>,
    pub headers: Option<Vec<String>>,
}

/// `[output]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct OutputPart {
    pub progress: Option<Progress>,
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Progress {
    /// A bar on a terminal, lines elsewhere.
    #[default]
    Auto,
    /// Lines everywhere.
    Lines,
    /// Not at all; what matters and results are still told.
    None,
}

/// Read once, at the start: every command, and every session that is opened, goes by the same.
static CONFIG: OnceLock<Config> = OnceLock::new();

/// Reads the file that is named, or the one in its usual place, for [`get`].
pub fn load(choice: &Choice) -> Result<(), Failure> {
    let config = match (choice.no_config, &choice.config) {
        (true, _) => Config::default(),
        (false, Some(file)) => read(file)?.ok_or_else(|| at(file, "there is no such file"))?,
        (false, None) => match usual_place() {
            Some(file) => read(&file)?.unwrap_or_default(),
            None => Config::default(),
        },
    };
    // A second call would be a mistake of ours; the first one counts.
    let _first = CONFIG.set(config);
    Ok(())
}

/// What [`load`] has read.
pub fn get() -> &'static Config {
    CONFIG.get_or_init(Config::default)
}

/// Where the file is when none is named.
pub fn usual_place() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_CONFIG_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| set("HOME").map(|home| home.join(".config")))
        .map(|config| config.join("longhaul/config.toml"))
}

fn read(file: &Path) -> Result<Option<Config>, Failure> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(file, &error.to_string())),
    };
    let mut config = parse(&text).map_err(|Wrong { line, text }| {
        let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        at(file, &format!("{place}{text}"))
    })?;
    let file = std::path::absolute(file).map_err(|error| at(file, &error.to_string()))?;
    let dir = file.parent().unwrap_or(Path::new("/")).to_owned();
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let connection = &mut config.connection;
    for path in
        [&mut connection.cacert, &mut connection.cert, &mut connection.cert_key, &mut connection.netrc]
    {
        *path = path.take().map(|path| place(&path, &dir, home.as_deref()));
    }
    Ok(Some(Config { file: Some(file), ..config }))
}

fn at(file: &Path, text: &str) -> Failure {
    Failure::usage(format!("{}: {text}", escape(&file.to_string_lossy())))
}

/// A path in the file: `~/` is the home directory, and what is relative is so to the file's directory.
fn place(path: &Path, dir: &Path, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(below), Some(home)) => home.join(below),
        (Ok(_), None) | (Err(_), _) => dir.join(path),
    }
}

/// Why a text is no configuration.
#[derive(Debug, PartialEq, Eq)]
struct Wrong {
    line: Option<usize>,
    text: String,
}

fn parse(text: &str) -> Result<Config, Wrong> {
    let line =
        |at: Option<usize>| at.and_then(|at| text.get(..at)).map(|before| before.matches('\n').count() + 1);
    let wrong = |error: &toml::de::Error| Wrong {
        line: line(error.span().map(|span| span.start)),
        text: escape(error.message()).into_owned(),
    };
    let table = DeTable::parse(text).map_err(|error| wrong(&error))?;
    if let Some((at, text)) = unknown(table.get_ref()) {
        return Err(Wrong { line: line(Some(at)), text });
    }
    let config: Config = toml::from_str(text).map_err(|error| wrong(&error))?;
    check(&config).map_err(|text| Wrong { line: None, text })?;
    Ok(config)
}

/// The first key that nobody knows: where it stands, and what may have been meant.
fn unknown(table: &DeTable<'_>) -> Option<(usize, String)> {
    table.iter().find_map(|(section, value)| {
        let name: &str = section.get_ref();
        let known: Vec<&str> =
            keys::KEYS.iter().filter(|key| key.section == name).map(|key| key.name).collect();
        if known.is_empty() {
            return Some((section.span().start, unknown_text(name, keys::sections(), "section")));
        }
        let DeValue::Table(inner) = value.get_ref() else { return None };
        inner.iter().find_map(|(key, _)| {
            let name: &str = key.get_ref();
            let text = || unknown_text(name, known.iter().copied(), "key");
            (!known.contains(&name)).then(|| (key.span().start, text()))
        })
    })
}

fn unknown_text<'a>(name: &str, known: impl Iterator<Item = &'a str>, what: &str) -> String {
    let near = known
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|one, other| one.0.total_cmp(&other.0));
    let hint = match near {
        Some((_, known)) => format!("; did you mean {known}?"),
        None => "; `haul config --example` lists all".to_owned(),
    };
    format!("unknown {what} {}{hint}", escape(name))
}

/// What the types leave open.
fn check(config: &Config) -> Result<(), String> {
    let transfer = &config.transfer;
    if transfer.priority.is_some_and(|priority| priority > longhaul::PRIORITY_MAX) {
        return Err("transfer.priority is a number from 0 to 9".to_owned());
    }
    for (name, value) in [("parallel", transfer.parallel), ("segments", transfer.segments)] {
        if value.is_some_and(|value| !(1..=64).contains(&value)) {
            return Err(format!("transfer.{name} is a number from 1 to 64"));
        }
    }
    if config.connection.cert_key.is_some() && config.connection.cert.is_none() {
        return Err("connection.cert-key belongs to a connection.cert".to_owned());
    }
    Ok(())
}

impl SessionPart {
    /// How this process opens the session in `dir`.
    pub fn options(&self, dir: &Path) -> SessionOptions {
        let mut options = SessionOptions::new(dir);
        options.concurrent = self.concurrent.map_or(options.concurrent, Into::into);
        options.per_host = self.per_host.map(Into::into);
        options.uploads = self.uploads.map(Into::into);
        options.downloads = self.downloads.map(Into::into);
        options.limit_rate = self.limit_rate.and_then(Rate::limit);
        options.stage_budget = self.stage_budget.map(|size| size.0);
        options.retention = self.retention.map_or(options.retention, |span| span.0);
        options
    }

    /// With what `over` says instead, where it says something.
    #[must_use]
    pub fn under(&self, over: &Self) -> Self {
        Self {
            concurrent: over.concurrent.or(self.concurrent),
            per_host: over.per_host.or(self.per_host),
            uploads: over.uploads.or(self.uploads),
            downloads: over.downloads.or(self.downloads),
            limit_rate: over.limit_rate.or(self.limit_rate),
            stage_budget: over.stage_budget.or(self.stage_budget),
            retention: over.retention.or(self.retention),
        }
    }
}

#[cfg(test)]
mod tests;
