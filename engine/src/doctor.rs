//! The doctor: for a session that nobody owns. It looks, puts aside what is damaged, and carries jobs away.
//!
//! ```text
//! examine ─▶ Report                         reads; changes nothing but leftovers of its own looking
//! repair  ─▶ Repair   damaged: journal and orphaned copies to quarantine-<time>/, a new journal in its place
//!                     sound:   removes what ended jobs have left
//! export  ─▶ Export   unfinished jobs, as JSON
//! import  ◀─ Export   each as a new job that holds still
//! ```
//!
//! Invariants: nothing is ever sent, and a job that comes from anywhere but the journal itself is
//! suspended with the cause `restored`. A damaged journal is moved, never changed
//! or deleted; one of a newer version is not even moved. The new journal stands complete before it takes the
//! old one's place, in one rename.
//! Absent on purpose: probes. What a server really holds is asked when somebody resumes the job.

mod carry;
mod files;
mod look;
mod repair;

use std::path::Path;

use serde::Serialize;

use crate::error::OpenError;
use crate::job::JobId;
use crate::view::JobView;

pub use carry::Export;

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Nothing needs attention.
    pub healthy: bool,
    /// The journal is damaged, has lost its end, or is of a newer version.
    pub damaged: bool,
    /// The journal is of a newer version: [`repair`] does not touch it.
    pub newer: bool,
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
    /// The engine cannot go on with something, or free it, unless somebody acts.
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

    fn finding(&mut self, severity: Severity, text: impl Into<String>, remedy: impl Into<String>) {
        self.findings.push(Finding { severity, text: text.into(), remedy: remedy.into() });
    }

    fn closed(mut self) -> Self {
        self.healthy =
            !self.damaged && self.findings.iter().all(|finding| finding.severity == Severity::Note);
        self
    }
}

/// What [`repair`] did, or would do.
#[derive(Clone, Debug, Serialize)]
pub struct Repair {
    /// Nothing was done: this is what would be.
    pub dry_run: bool,
    /// What was found before.
    pub before: Report,
    /// The journal was replaced.
    pub rebuilt: bool,
    /// What was done, a sentence each.
    pub did: Vec<String>,
    /// What cannot be restored, a sentence each.
    pub lost: Vec<String>,
    /// The jobs that the new journal holds and that hold still, as they are now.
    pub restored: Vec<JobView>,
    /// Where the old journal is now.
    pub quarantine: Option<String>,
}

/// What became of one job of an [`Export`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Its number where it came from.
    pub from: JobId,
    /// Its number here; `None`: it was not taken.
    pub to: Option<JobId>,
    /// What it keeps, or why it was not taken.
    pub what: String,
    /// What it needs that the export does not hold.
    pub missing: Vec<String>,
}

/// Examines the session in `dir`. Blocking parts run on the runtime's blocking pool.
///
/// # Errors
///
/// [`OpenError::Owned`]: stop the owner first; an owner has verified its journal when it opened it.
/// [`OpenError::Io`] when the directory cannot be read. Damage is no error here but [`Report::damaged`].
pub async fn examine(dir: &Path) -> Result<Report, OpenError> {
    let dir = dir.to_owned();
    on_pool(move || look::look(&dir).map(|looked| looked.report)).await
}

/// Repairs the session in `dir`; with `dry_run` says what it would do.
///
/// Of a damaged journal, what is newest and can be read counts: an export, or the journal itself as far as it
/// goes without a contradiction. The jobs in it that have not ended are there again, under their numbers, and
/// hold still: the server may be further than that journal knew. Numbers go on above every one that may have
/// been given. In a sound session, staging copies, secrets and part files of ended jobs are removed.
///
/// # Errors
///
/// [`OpenError::NewerVersion`]: nothing was touched. [`OpenError::Owned`], [`OpenError::Io`],
/// [`OpenError::Journal`]: what was done up to there is harmless, and the damaged journal still in its place.
pub async fn repair(dir: &Path, dry_run: bool) -> Result<Repair, OpenError> {
    let dir = dir.to_owned();
    on_pool(move || repair::repair(&dir, dry_run)).await
}

/// The unfinished jobs of the session in `dir`, to be kept elsewhere.
///
/// # Errors
///
/// As [`Session::open`](crate::Session::open).
pub async fn export(dir: &Path) -> Result<Export, OpenError> {
    let dir = dir.to_owned();
    on_pool(move || carry::export(&dir)).await
}

/// Takes the jobs of an export into the session in `dir`, which is made if it is missing: each under a new
/// number, and suspended until somebody resumes it.
///
/// An upload from a staging copy begins anew, if its source is unchanged; one in place, and a download with its
/// part file, keep what they have. They must not go on where they came from as well.
///
/// # Errors
///
/// As [`Session::open`](crate::Session::open); then no job was taken.
pub async fn import(dir: &Path, export: Export) -> Result<Vec<Imported>, OpenError> {
    let dir = dir.to_owned();
    on_pool(move || carry::import(&dir, export)).await
}

async fn on_pool<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, OpenError> + Send + 'static,
) -> Result<T, OpenError> {
    let called = tokio::task::spawn_blocking(call).await;
    called.unwrap_or_else(|error| Err(OpenError::Journal(error.to_string())))
}

#[cfg(test)]
mod tests;
