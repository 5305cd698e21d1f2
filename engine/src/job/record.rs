//! The durable form of jobs: records in the log, rows at checkpoints, and the one `apply` that both
//! the live engine and recovery use.
//!
//! ```text
//! Submitted ─▶ Moved … ─▶ Moved to its end ─▶ Removed      records, in the log until the next checkpoint
//!     │           │              │
//! SPEC, KEY   CORE, HISTORY   ARCHIVE (one, instead of the others)       rows, from there on
//! ```
//!
//! A [`Record`] is either a job's specification, once, or its whole [`Core`] after a transition. A
//! specification that is longer than a record goes in [`Record::Piece`]s before it. A job that has ended is one
//! row, which nothing reads until somebody asks for it.
//!
//! Frozen: a change of any type in here needs a new version (`v1` is the first; `From<V1>`), new tables for
//! its rows, and enum variants are only ever appended. The golden bytes in the tests hold it still.

mod rows;
mod v1;

use std::collections::{BTreeMap, BTreeSet};

use bincode::Options as _;
use longhaul_journal::{DecodeError, RECORD_MAX};
use serde::{Deserialize, Serialize};

pub use rows::{
    LiveRow, Replay, archive_rows, archived_state, key_row, live_rows, meta_row, read_archive, read_key,
    spec_parts, table,
};

use super::step::{Transition, legal};
use super::{Core, HistoryEntry, Job, JobId, JobSpec};
use crate::ports::WallMs;

/// Lines of history kept per job; older ones in the middle are dropped first.
const HISTORY_MAX: usize = 40;
/// Lines at the start that are always kept: how the job began.
const HISTORY_HEAD: usize = 8;
/// Bytes of a specification at most.
const SPEC_MAX: usize = 48 << 10;
/// Bytes of a specification in one [`Record::Piece`].
const PIECE: usize = 4 << 10;

/// One entry of the log, version 2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// A job was accepted.
    Submitted {
        /// Its number.
        id: JobId,
        /// When.
        at: WallMs,
        /// What was asked for.
        spec: Box<JobSpec>,
    },
    /// A job moved.
    Moved {
        /// Its number.
        id: JobId,
        /// When.
        at: WallMs,
        /// A line of history; `None` for mere progress.
        what: Option<String>,
        /// Where it stands now.
        core: Box<Core>,
    },
    /// A part of the specification that [`Record::SubmittedLong`] completes. Nothing without it.
    Piece {
        /// The job to come.
        id: JobId,
        /// It begins a specification.
        first: bool,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// A job was accepted whose specification is what the pieces before it are together.
    SubmittedLong {
        /// Its number.
        id: JobId,
        /// When.
        at: WallMs,
    },
    /// An ended job was taken off the list.
    Removed {
        /// Its number.
        id: JobId,
    },
}

impl Record {
    /// The job's number.
    pub fn id(&self) -> JobId {
        match self {
            Self::Submitted { id, .. }
            | Self::Moved { id, .. }
            | Self::Piece { id, .. }
            | Self::SubmittedLong { id, .. }
            | Self::Removed { id } => *id,
        }
    }

    /// A new job, in as many records as its specification needs.
    ///
    /// # Errors
    ///
    /// It is longer than can be kept.
    pub fn submitted(id: JobId, at: WallMs, spec: Box<JobSpec>) -> Result<Vec<Self>, TooLong> {
        let whole = Self::Submitted { id, at, spec };
        if fits(&whole) {
            return Ok(vec![whole]);
        }
        let Self::Submitted { spec, .. } = whole else { return Err(TooLong) };
        let bytes = encode(&*spec);
        if bytes.is_empty() || bytes.len() > SPEC_MAX {
            return Err(TooLong);
        }
        let pieces = bytes.chunks(PIECE).enumerate();
        let pieces = pieces.map(|(at, some)| Self::Piece { id, first: at == 0, bytes: some.to_vec() });
        Ok(pieces.chain([Self::SubmittedLong { id, at }]).collect())
    }
}

/// A specification that is longer than can be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// A record that cannot follow from what was applied before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// A job's number came twice, or went down.
    #[error("job {0} is submitted twice or out of order")]
    NotNew(JobId),
    /// A record names a job that was never submitted.
    #[error("a record names job {0}, which was never submitted")]
    Unknown(JobId),
    /// The machine has no such move.
    #[error("job {id} cannot move from {from} to {to}")]
    Illegal {
        /// Which job.
        id: JobId,
        /// From.
        from: &'static str,
        /// To.
        to: &'static str,
    },
    /// The pieces before it are no specification.
    #[error("what was submitted as job {0} cannot be read")]
    Pieces(JobId),
}

/// The jobs in memory, and the highest number ever given.
///
/// Those that are at work, and those that have changed since the last checkpoint; all others are rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Jobs {
    /// By number.
    pub map: BTreeMap<JobId, Job>,
    /// The highest number ever given, also to jobs that are no more.
    pub last: JobId,
    /// Jobs that were taken off the list since the last checkpoint: their rows count no more.
    pub gone: BTreeSet<JobId>,
    pieces: Option<(JobId, Vec<u8>)>,
}

impl Jobs {
    /// Applies one record: the only way a job's state ever changes, live and in recovery. The job that it
    /// names has to be in memory, if there is one.
    ///
    /// # Errors
    ///
    /// [`ApplyError`]: the record does not follow; nothing was changed.
    pub fn apply(&mut self, record: Record) -> Result<(), ApplyError> {
        match record {
            Record::Submitted { id, at, spec } => self.born(id, at, *spec),
            Record::Piece { id, first, bytes } => {
                match &mut self.pieces {
                    Some((job, so_far)) if *job == id && !first => so_far.extend_from_slice(&bytes),
                    // What was begun before, and not completed, was never accepted.
                    _ => self.pieces = Some((id, bytes)),
                }
                Ok(())
            }
            Record::SubmittedLong { id, at } => {
                let pieces = self.pieces.take().filter(|(job, _)| *job == id);
                let spec = pieces.and_then(|(_, bytes)| bincode_options().deserialize(&bytes).ok());
                self.born(id, at, spec.ok_or(ApplyError::Pieces(id))?)
            }
            Record::Moved { id, at, what, core } => {
                let job = self.map.get_mut(&id).ok_or(ApplyError::Unknown(id))?;
                if !legal(&job.core.phase, &core.phase) {
                    let (from, to) = (job.core.phase.name(), core.phase.name());
                    return Err(ApplyError::Illegal { id, from, to });
                }
                job.core = *core;
                job.changed_at = at;
                if let Some(what) = what {
                    job.note(at, what);
                }
                Ok(())
            }
            Record::Removed { id } => {
                if let Some(job) = self.map.get(&id)
                    && !job.state().is_terminal()
                {
                    let from = job.core.phase.name();
                    return Err(ApplyError::Illegal { id, from, to: "removed" });
                }
                self.map.remove(&id);
                self.gone.insert(id);
                Ok(())
            }
        }
    }

    fn born(&mut self, id: JobId, at: WallMs, spec: JobSpec) -> Result<(), ApplyError> {
        if id <= self.last {
            return Err(ApplyError::NotNew(id));
        }
        let core = Core::queued(spec.source.map(|source| source.size));
        let what = spec.predecessor.map_or_else(
            || "accepted".to_owned(),
            |before| format!("accepted, as another attempt of job {before}"),
        );
        let first = HistoryEntry { at, state: core.state(), what, done: 0 };
        let job = Job { id, submitted_at: at, changed_at: at, spec, core, history: vec![first] };
        self.map.insert(id, job);
        self.last = id;
        Ok(())
    }
}

impl Job {
    fn note(&mut self, at: WallMs, what: String) {
        let (state, done) = (self.core.state(), self.core.done);
        self.note_as(HistoryEntry { at, state, what, done });
    }

    fn note_as(&mut self, entry: HistoryEntry) {
        if self.history.len() >= HISTORY_MAX {
            self.history.remove(HISTORY_HEAD);
        }
        self.history.push(entry);
    }
}

/// bincode 1.3.3 allocates no more than the slice holds; the limit is a second fence.
fn bincode_options() -> impl bincode::Options {
    bincode::DefaultOptions::new().with_limit(64 * 1024)
}

/// Nothing is limited here: an oversized record must reach the check of its length. Plain data cannot
/// fail otherwise; if a type ever did, its empty form must not reach the journal ([`encoded_len`]).
fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    bincode::DefaultOptions::new().serialize(value).unwrap_or_default()
}

impl longhaul_journal::Record for Transition {
    const VERSION: u8 = 2;
    type Replayed = Record;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&encode(&self.record));
    }

    fn decode(version: u8, payload: &[u8]) -> Result<Record, DecodeError> {
        let malformed = |error: bincode::Error| DecodeError::Malformed(error.to_string());
        match version {
            1 => {
                let old: v1::RecordV1 = bincode_options().deserialize(payload).map_err(malformed)?;
                Ok(old.into())
            }
            2 => bincode_options().deserialize(payload).map_err(malformed),
            found => Err(DecodeError::Version { found }),
        }
    }
}

/// Whether a record can be journaled: it has a form, and that is not too long.
pub fn fits(record: &Record) -> bool {
    (1..=RECORD_MAX).contains(&encode(record).len())
}

/// Paths as bytes: names on Unix need not be UTF-8.
pub mod path_bytes {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::de::Deserialize;
    use serde::{Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_os_str().as_bytes().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        Vec::<u8>::deserialize(deserializer).map(|bytes| PathBuf::from(OsString::from_vec(bytes)))
    }
}

/// The same for a path that may be missing.
pub mod path_bytes_option {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::PathBuf;

    use serde::de::Deserialize;
    use serde::{Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "the shape serde asks of `with` modules")]
    pub fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_ref().map(|path| path.as_os_str().as_bytes()).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
        let bytes = Option::<Vec<u8>>::deserialize(deserializer)?;
        Ok(bytes.map(|bytes| PathBuf::from(OsString::from_vec(bytes))))
    }
}

#[cfg(test)]
mod tests;
