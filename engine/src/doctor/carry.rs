//! Carrying jobs from one session to another, as JSON.
//!
//! ```text
//! { "format": "longhaul-jobs", "version": 1, "made_at": MS, "session": DIR, "last": NUMBER,
//!   "jobs": [ { "view": what `haul show --json` prints, for people,
//!               "missing": [ what the job needs and is not in here ],
//!               "job": { id, submitted_at, changed_at, spec, core, history: as the journal has them } } ] }
//! ```
//!
//! Paths in `job` are lists of bytes: names need not be UTF-8. No secret is in there, but for what is in the journal:
//! a URL that is signed is whole. `version` rises with any change of what a job is.
//!
//! | of a job | here |
//! |---|---|
//! | upload from a copy, or not staged | begins anew, if the source is unchanged; else it is not taken |
//! | upload in place | goes on where the server stands, if the source is unchanged; else it is not taken |
//! | download with its part file | goes on; the part file gets the new job's name |
//! | download without | begins anew |
//! | ended but for its clean-up | not taken |
//!
//! Order: the jobs are durable before a part file is renamed; cut short in between, its download begins anew.

use std::path::{Path, PathBuf};

use longhaul_journal::{Checkpoint, Options, ROW_MAX};
use serde::{Deserialize, Serialize};

use super::look::{Known, words};
use super::{Imported, files};
use crate::error::OpenError;
use crate::job::record::{Record, fits, key_row, live_rows, meta_row};
use crate::job::{Core, Direction, HistoryEntry, Job, JobId, JobState, Phase, SuspendCause};
use crate::os::disk::OsDisk;
use crate::os::home::Home;
use crate::ports::{Disk, WallMs};
use crate::run::staging;
use crate::secret::CredentialRef;
use crate::view::JobView;

const FORMAT: &str = "longhaul-jobs";
const VERSION: u32 = 1;

/// The unfinished jobs of a session, as [`super::export`] makes them. Serialise it as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    format: String,
    version: u32,
    made_at: WallMs,
    session: String,
    last: JobId,
    jobs: Vec<Carried>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Carried {
    view: JobView,
    missing: Vec<String>,
    job: Job,
}

/// What is looked at first: a newer version may have other fields.
#[derive(Deserialize)]
struct Head {
    format: String,
    version: u32,
}

impl Export {
    /// Reads one from JSON.
    ///
    /// # Errors
    ///
    /// A sentence: it is no export, or of another version.
    pub fn parse(text: &str) -> Result<Self, String> {
        let head: Head = serde_json::from_str(text).map_err(|error| format!("this is no export: {error}"))?;
        if head.format != FORMAT {
            return Err(format!("this is no export: its format is {:?}, not {FORMAT:?}", head.format));
        }
        if head.version != VERSION {
            return Err(format!(
                "the export is version {}, and this program reads version {VERSION}",
                head.version
            ));
        }
        serde_json::from_str(text).map_err(|error| format!("the export cannot be read: {error}"))
    }

    /// The jobs, as they were.
    pub fn jobs(&self) -> impl Iterator<Item = &JobView> {
        self.jobs.iter().map(|carried| &carried.view)
    }

    /// What jobs need that is not in the export, a sentence each.
    pub fn missing(&self) -> impl Iterator<Item = (JobId, &str)> {
        self.jobs
            .iter()
            .flat_map(|carried| carried.missing.iter().map(|what| (carried.job.id, what.as_str())))
    }
}

/// See [`super::export`].
pub fn export(dir: &Path) -> Result<Export, OpenError> {
    let home = Home { dir: std::path::absolute(dir).map_err(files::io(format!("find {}", dir.display())))? };
    let mut export = Export {
        format: FORMAT.to_owned(),
        version: VERSION,
        made_at: files::now(),
        session: home.dir.display().to_string(),
        last: JobId(0),
        jobs: Vec::new(),
    };
    if !home.journal().is_dir() {
        return Ok(export);
    }
    let _lock = files::lock(&home)?;
    let known = Known::load(&home.journal(), Options::default())?;
    export.last = known.last;
    let carried = |job: &Job| Carried {
        view: JobView::new(job, 0),
        missing: missing(job, &home.stage()),
        job: job.clone(),
    };
    export.jobs = known.live.values().map(carried).collect();
    known.close()?;
    Ok(export)
}

/// What a job needs beside its journaled state.
fn missing(job: &Job, stage: &Path) -> Vec<String> {
    let mut missing = Vec::new();
    if job.spec.has_secrets {
        missing.push(format!("its file of secrets, {}", job.secrets_path(stage).display()));
    }
    match &job.spec.credential {
        Some(CredentialRef::File(path)) => {
            missing.push(format!("the credential in {}", path.display()));
        }
        Some(CredentialRef::Netrc(path)) => {
            missing.push(format!("the credentials in {}", path.display()));
        }
        Some(CredentialRef::Env(name)) => {
            missing.push(format!("the credential in the environment variable {name}"));
        }
        None => {}
    }
    missing
}

/// A job that is to be taken: as it will be journaled, and its part file's present name.
struct Taken {
    job: Job,
    part_from: Option<PathBuf>,
}

/// See [`super::import`].
pub fn import(dir: &Path, export: Export) -> Result<Vec<Imported>, OpenError> {
    let home =
        Home::prepare(dir).map_err(files::io(format!("prepare the session directory {}", dir.display())))?;
    let _lock = files::lock(&home)?;
    let known = Known::load(&home.journal(), Options::default())?;
    let disk = OsDisk::default();
    let (now, mut last) = (files::now(), known.last);
    let (mut taken, mut results): (Vec<Taken>, Vec<Imported>) = (Vec::new(), Vec::new());
    let mut keys = known.keys.clone();
    for carried in export.jobs {
        let (from, mut wants) = (carried.job.id, carried.missing);
        let id = JobId(last.0 + 1);
        let fitted = check(&carried.job, &known, &keys)
            .and_then(|()| fit(&disk, carried.job, id, now, &export.session));
        match fitted {
            Ok((one, what)) => {
                last = id;
                keys.extend(one.job.spec.key.iter().map(|key| key.as_bytes().into()));
                if one.job.spec.has_secrets {
                    let to = one.job.secrets_path(&home.stage());
                    wants.push(format!("which belongs here as {}", to.display()));
                }
                results.push(Imported { from, to: Some(id), what, missing: wants });
                taken.push(one);
            }
            Err(what) => results.push(Imported { from, to: None, what, missing: Vec::new() }),
        }
    }
    let mut puts = vec![meta_row(last)];
    for Taken { job, .. } in &taken {
        puts.extend(live_rows(job, true));
        puts.extend(job.spec.key.as_deref().map(|key| key_row(key, job.id)));
    }
    if !taken.is_empty() {
        // The log is not cut: these rows are new, and no other row changes.
        let checkpoint = Checkpoint { through: known.checkpoint, puts, ..Checkpoint::default() };
        let made = known.journal.checkpoint_blocking(checkpoint);
        made.map_err(|error| OpenError::Journal(error.to_string()))?;
    }
    known.close()?;
    for Taken { job, part_from } in &taken {
        if let (Some(from), Some(part)) = (part_from, &job.core.part)
            && let Err(error) = adopt(&disk, from, &part.path)
            && let Some(result) = results.iter_mut().find(|result| result.to == Some(job.id))
        {
            result.what =
                format!("begins anew: its part file {} could not be taken over: {error}", from.display());
        }
    }
    Ok(results)
}

/// Gives a part file the name under which its new job looks for it.
fn adopt(disk: &dyn Disk, from: &Path, to: &Path) -> std::io::Result<()> {
    disk.rename_new(from, to)?;
    disk.sync_dir(to.parent().unwrap_or(Path::new(".")))
}

/// What keeps a job out, whatever is on the disk.
fn check(job: &Job, known: &Known, keys: &std::collections::BTreeSet<Box<[u8]>>) -> Result<(), String> {
    if let Some(same) = known.live.values().find(|own| own.spec.token == job.spec.token) {
        return Err(format!("it is here already, as job {}", same.id));
    }
    if let Some(key) = job.spec.key.as_ref().filter(|key| keys.contains(key.as_bytes())) {
        return Err(format!("there is a job with its key, {key:?}, already"));
    }
    if let Phase::Sending(state) | Phase::Publishing { state, .. } = &job.core.phase
        && state.protocol().direction() != job.spec.direction()
    {
        return Err("what it says of itself does not fit together".to_owned());
    }
    let spec = Record::submitted(job.id, job.submitted_at, Box::new(job.spec.clone()));
    let core = Box::new(job.core.clone());
    let moved = Record::Moved { id: job.id, at: job.changed_at, what: None, core };
    let is_long = live_rows(job, false).iter().any(|(_, value)| value.len() > ROW_MAX);
    if spec.is_err() || !fits(&moved) || is_long {
        return Err("it is longer than a journal can keep".to_owned());
    }
    Ok(())
}

/// The job as it can go on here, and a sentence on what it keeps; or why it cannot.
fn fit(
    disk: &dyn Disk,
    mut job: Job,
    id: JobId,
    now: WallMs,
    session: &str,
) -> Result<(Taken, String), String> {
    match &job.core.phase {
        Phase::Ended(_) => return Err("it has ended".to_owned()),
        Phase::Ending { remote, .. } => {
            let left = remote.as_ref().and_then(|state| state.remote());
            let left = left.map(|url| {
                format!("; at the server there may still be {}", crate::protocol::wire::redact(url))
            });
            return Err(format!("it has ended but for its clean-up{}", left.unwrap_or_default()));
        }
        Phase::Queued | Phase::Staging | Phase::Staged | Phase::Sending(_) | Phase::Publishing { .. } => {}
    }
    let (from, mut part_from) = (job.id, None);
    job.id = id;
    let what = match job.spec.direction() {
        Direction::Upload => upload(disk, &mut job)?,
        Direction::Download => {
            let (what, part) = download(disk, &mut job);
            part_from = part;
            what
        }
    };
    job.core.suspended = Some(SuspendCause::Restored);
    (job.core.retry_at, job.spec.predecessor, job.changed_at) = (None, None, now);
    let line = format!("imported; it was job {from} of {session}");
    job.history.push(HistoryEntry { at: now, state: JobState::Suspended, what: line, done: job.core.done });
    Ok((Taken { job, part_from }, what))
}

fn upload(disk: &dyn Disk, job: &mut Job) -> Result<String, String> {
    staging::open_source(disk, &job.spec.path, job.spec.source.as_ref())
        .map_err(|fault| format!("{}; submit it again", words(&fault)))?;
    if job.core.snapshot.is_some() && !job.core.has_copy() {
        return Ok(format!("keeps its {} bytes at the server", job.core.done));
    }
    let left = match &job.core.phase {
        Phase::Sending(state) => state.remote().map(ToOwned::to_owned),
        Phase::Queued
        | Phase::Staging
        | Phase::Staged
        | Phase::Publishing { .. }
        | Phase::Ending { .. }
        | Phase::Ended(_) => None,
    };
    let told = left.as_deref().map(crate::protocol::wire::redact);
    job.core = Core { leftover: left, ..Core::queued(job.spec.source.map(|source| source.size)) };
    Ok(match told {
        Some(url) => format!("begins anew from its source; {url} is left at the server"),
        None => "begins anew from its source".to_owned(),
    })
}

fn download(disk: &dyn Disk, job: &mut Job) -> (String, Option<PathBuf>) {
    let (Some(part), done) = (job.core.part.clone(), job.core.done) else {
        job.core = Core::queued(None);
        return ("begins anew: it has no part file".to_owned(), None);
    };
    let is_published = match &job.core.phase {
        Phase::Publishing { to, .. } => {
            disk.inspect(to).ok().flatten().is_some_and(|file| file.ino == part.ino)
        }
        Phase::Queued
        | Phase::Staging
        | Phase::Staged
        | Phase::Sending(_)
        | Phase::Ending { .. }
        | Phase::Ended(_) => false,
    };
    if is_published {
        return ("has all its bytes, under their final name".to_owned(), None);
    }
    match staging::open_part(disk, &part, done) {
        Ok(_) => {
            let to = job.part_path();
            job.core.part = Some(crate::job::Part { path: to.clone(), ..part.clone() });
            // An export that went around in a circle may come back under its old number.
            let from = (part.path != to).then_some(part.path);
            (format!("keeps {done} bytes in its part file"), from)
        }
        Err(fault) => {
            job.core = Core::queued(None);
            (format!("begins anew: {}", words(&fault)), None)
        }
    }
}
