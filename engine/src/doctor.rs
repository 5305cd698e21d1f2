//! Looks at a session that nobody owns: the journal, the staging area, part files, what is left at servers.
//!
//! Nothing is repaired here and nothing sent; only reading.

use std::path::{Path, PathBuf};

use longhaul_journal::{Journal, verify};
use serde::Serialize;

use crate::error::OpenError;
use crate::job::step::Transition;
use crate::job::{Direction, Job};
use crate::os::home::Home;
use crate::ports::Ports;
use crate::run::staging;
use crate::session::replay;

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Nothing needs attention.
    pub healthy: bool,
    /// The journal is damaged, has lost its end, or is of a newer version.
    pub damaged: bool,
    /// What needs attention.
    pub findings: Vec<Finding>,
    /// What was seen, as name and value.
    pub facts: Vec<(String, String)>,
}

/// Something that needs attention.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was seen, and where.
    pub text: String,
    /// What to do.
    pub remedy: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; the next owner deals with it.
    Note,
    /// Something is left behind that the engine cannot free.
    Warning,
    /// Jobs may be lost.
    Error,
}

impl std::fmt::Display for Severity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

impl Report {
    fn fact(&mut self, name: &str, value: impl std::fmt::Display) {
        self.facts.push((name.to_owned(), format!("{value}")));
    }

    fn finding(&mut self, severity: Severity, text: String, remedy: &str) {
        self.findings.push(Finding { severity, text, remedy: remedy.to_owned() });
    }

    fn closed(mut self) -> Self {
        self.healthy =
            !self.damaged && self.findings.iter().all(|finding| finding.severity == Severity::Note);
        self
    }
}

/// Examines the session in `dir`. Blocking parts run on the runtime's blocking pool.
///
/// # Errors
///
/// [`OpenError::Owned`]: stop the owner first; an owner has verified its journal when it opened it.
/// [`OpenError::Io`] when the directory cannot be read.
pub async fn examine(dir: &Path) -> Result<Report, OpenError> {
    let dir = dir.to_owned();
    let ports = crate::os::ports(crate::os::NetOptions::default()).map_err(|error| OpenError::Io {
        doing: "set up TLS".to_owned(),
        source: std::io::Error::other(error),
    })?;
    let looked = tokio::task::spawn_blocking(move || examine_files(&dir, &ports)).await;
    looked.unwrap_or_else(|error| Err(OpenError::Journal(error.to_string())))
}

fn examine_files(dir: &Path, ports: &Ports) -> Result<Report, OpenError> {
    let mut report = Report::default();
    report.fact("session", dir.display());
    if !dir.join("journal").is_dir() {
        report.fact("journal", "none yet");
        return Ok(report.closed());
    }
    let home = Home { dir: dir.to_owned() };
    let _lock = home.lock().map_err(|held| match held {
        Ok(pid) => OpenError::Owned { pid, dir: home.dir.clone() },
        Err(source) => OpenError::Io { doing: format!("lock the session {}", dir.display()), source },
    })?;
    let verified = verify(&home.journal())?;
    if let Some(database) = &verified.database {
        report.fact("database", format!("{} ({} bytes on disk)", database.display(), verified.disk_bytes));
    }
    report.fact(
        "log",
        format!("{} records in {} commits, {} bytes", verified.records, verified.commits, verified.log_bytes),
    );
    report.fact("rows", verified.rows);
    report.fact("exports", verified.exports.len());
    for (path, state) in &verified.exports {
        if let Err(error) = state {
            let text = format!("the export {} cannot be read: {error}", path.display());
            report.finding(Severity::Warning, text, "the next checkpoint writes a new one");
        }
    }
    match verified.problem.map(OpenError::from) {
        None => report.fact("verdict", "the journal is sound and reaches as far as its witness"),
        Some(OpenError::Damaged { text } | OpenError::NewerVersion { text }) => {
            report.damaged = true;
            let remedy = "keep a copy of the session directory before anything else; nothing was changed, sent or deleted";
            report.finding(Severity::Error, text, remedy);
            return Ok(report.closed());
        }
        Some(other) => return Err(other),
    }
    let mut opened = Journal::<Transition>::open(&home.journal(), longhaul_journal::Options::default())?;
    let jobs = replay(&mut opened)?;
    let unfinished: Vec<&Job> = jobs.map.values().filter(|job| !job.state().is_terminal()).collect();
    report.fact(
        "jobs",
        format!("{} unfinished, {} ended", unfinished.len(), jobs.map.len() - unfinished.len()),
    );
    audit_staging(&mut report, ports, &home.stage(), &unfinished, jobs.last.0);
    for job in &unfinished {
        audit_part(&mut report, ports, job);
    }
    for job in jobs.map.values() {
        if let Some(left) = &job.core.leftover {
            report.finding(
                Severity::Warning,
                format!("job {} could not free its upload at the server: {left}", job.id),
                "delete it there, or leave it to the server's expiry",
            );
        }
    }
    Ok(report.closed())
}

fn audit_staging(report: &mut Report, ports: &Ports, stage: &Path, unfinished: &[&Job], last: u64) {
    let files: Vec<PathBuf> = match ports.disk.list(stage) {
        Ok(files) => files,
        Err(error) => {
            return report.finding(Severity::Error, error.to_string(), "make the staging area readable");
        }
    };
    report.fact("staging files", files.len());
    for path in files {
        let shown = path.display();
        match staging::number(&path) {
            None => report.finding(
                Severity::Note,
                format!("{shown} is not one of the engine's files"),
                "it is left alone; remove it if you know it",
            ),
            Some(job) if job > last => {
                report.damaged = true;
                report.finding(
                    Severity::Error,
                    format!("{shown} belongs to a job later than the last in the journal ({last}): the journal has lost its end"),
                    "keep a copy of the session directory; nothing was changed, sent or deleted",
                );
            }
            Some(job) if !unfinished.iter().any(|unfinished| unfinished.id.0 == job) => report.finding(
                Severity::Note,
                format!("{shown} was left by a job that has ended"),
                "the next owner of the session removes it",
            ),
            Some(_) => {}
        }
    }
}

fn audit_part(report: &mut Report, ports: &Ports, job: &Job) {
    let Some(part) = job.core.part.as_ref().filter(|_| job.spec.direction() == Direction::Download) else {
        return;
    };
    if let Err(fault) = staging::open_part(&*ports.disk, part, job.core.done) {
        report.finding(
            Severity::Note,
            format!("job {}: {fault:?}", job.id),
            "the download begins anew when the job goes on",
        );
    }
}
