//! Jobs as rows, and what is to be made of rows and the log together.
//!
//! Invariants: the rows of one job are right as of the checkpoint that wrote them, each by itself; one that
//! was cut short may leave some newer than others, and the log then still has what the older ones lack. An
//! ended job has an archive row and no others, once a checkpoint was finished.

use std::collections::BTreeMap;

use bincode::Options as _;
use longhaul_journal::{ROW_MAX, Row, RowKey, Seq};
use serde::de::DeserializeOwned;

use super::v1::{CoreV1, JobSpecV1};
use super::{ApplyError, HISTORY_HEAD, Jobs, Record, bincode_options, encode};
use crate::job::{Core, HistoryEntry, Job, JobId, JobSpec, JobState};
use crate::ports::WallMs;

/// Tables of materialised rows. On disk; never reused.
pub mod table {
    /// Version 1 of a job's specification.
    pub const SPEC_V1: u8 = b'j';
    /// Version 1 of a job's core.
    pub const CORE_V1: u8 = b'c';
    /// A job's time of submission and specification, in pieces.
    pub const SPEC: u8 = b'J';
    /// A job's core.
    pub const CORE: u8 = b'C';
    /// A job's history.
    pub const HISTORY: u8 = b'h';
    /// A whole job that has ended, in pieces.
    pub const ARCHIVE: u8 = b'E';
    /// By a submitter's key: the number of its job.
    pub const KEY: u8 = b'K';
    /// Facts of the session: the highest job number.
    pub const META: u8 = b'n';

    /// The tables of the live state: what an export holds.
    pub const LIVE: [u8; 6] = [SPEC_V1, CORE_V1, SPEC, CORE, HISTORY, META];
}

/// Bytes of a value that goes over several rows in each of them.
const CHUNK: usize = ROW_MAX;
/// Before such a value: its length, so that one that was cut short is known for it.
const LENGTH: usize = 4;

fn chunks(table: u8, id: JobId, value: &[u8]) -> Vec<(RowKey, Vec<u8>)> {
    let mut whole = (value.len() as u32).to_be_bytes().to_vec();
    whole.extend_from_slice(value);
    let parts = whole.chunks(CHUNK).zip(0..);
    parts.map(|(part, sub)| (RowKey::new(table, id.0, sub), part.to_vec())).collect()
}

/// The value that rows of [`chunks`] make; `None` if some of them are missing.
fn joined<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let whole: Vec<u8> = parts.into_iter().flatten().copied().collect();
    let (len, value) = whole.split_first_chunk::<LENGTH>()?;
    (value.len() == u32::from_be_bytes(*len) as usize).then(|| value.to_vec())
}

/// A history that fits a row: lines from the middle are left out first.
fn history_row(history: &[HistoryEntry]) -> Vec<u8> {
    let mut lines = history.to_vec();
    loop {
        let row = encode(&lines);
        if row.len() <= ROW_MAX || lines.is_empty() {
            return row;
        }
        lines.remove(HISTORY_HEAD.min(lines.len() - 1));
    }
}

/// An unfinished job as rows. `with_spec`: also the specification, which never changes.
pub fn live_rows(job: &Job, with_spec: bool) -> Vec<(RowKey, Vec<u8>)> {
    let mut rows = vec![
        (RowKey::new(table::HISTORY, job.id.0, 0), history_row(&job.history)),
        (RowKey::new(table::CORE, job.id.0, 0), encode(&(job.changed_at, &job.core))),
    ];
    if with_spec {
        rows.extend(chunks(table::SPEC, job.id, &encode(&(job.submitted_at, &job.spec))));
    }
    rows
}

/// An ended job as its one row. Its first byte tells whether it ended well, so that ended jobs can be counted
/// without reading them.
pub fn archive_rows(job: &Job) -> Vec<(RowKey, Vec<u8>)> {
    chunks(table::ARCHIVE, job.id, &archived(job))
}

fn archived(job: &Job) -> Vec<u8> {
    let mut value = vec![u8::from(job.state() != JobState::Completed)];
    value.extend(encode(job));
    value
}

/// The state of the ended job whose first row this is; `None` for its further rows.
pub fn archived_state(row: &Row) -> Option<JobState> {
    let RowKey::Number { sub: 0, .. } = row.key else { return None };
    let ended_well = *row.value.get(LENGTH)? == 0;
    Some(if ended_well { JobState::Completed } else { JobState::Failed })
}

/// What rows a job may have; those that it has not are no matter to a removal.
impl Job {
    /// Keys of the rows of an unfinished job, of either version.
    pub fn live_keys(&self) -> Vec<RowKey> {
        let spec = encode(&(self.submitted_at, &self.spec)).len() + LENGTH;
        let parts = (0..spec.div_ceil(CHUNK) as u32).map(|sub| RowKey::new(table::SPEC, self.id.0, sub));
        let others = [table::CORE, table::HISTORY, table::SPEC_V1, table::CORE_V1];
        parts.chain(others.into_iter().map(|table| RowKey::new(table, self.id.0, 0))).collect()
    }

    /// Keys of the rows of an ended job.
    pub fn archive_keys(&self) -> Vec<RowKey> {
        let parts = (archived(self).len() + LENGTH).div_ceil(CHUNK) as u32;
        (0..parts).map(|sub| RowKey::new(table::ARCHIVE, self.id.0, sub)).collect()
    }
}

/// The row of the highest job number.
pub fn meta_row(last: JobId) -> (RowKey, Vec<u8>) {
    (RowKey::new(table::META, 0, 0), encode(&last))
}

/// The row that finds a job by its submitter's key.
pub fn key_row(key: &str, id: JobId) -> (RowKey, Vec<u8>) {
    (RowKey::named(table::KEY, key), encode(&id))
}

/// An ended job, or why its row cannot be read.
pub type Archived = Result<Job, String>;

/// Ended jobs from rows of the archive, in the order of their numbers. A job whose last pieces lie beyond
/// `rows` is left out.
pub fn read_archive(rows: &[Row]) -> Vec<Archived> {
    let numbers = rows.chunk_by(|one, other| number(one) == number(other));
    let whole = numbers.filter_map(|rows| Some((number(&rows[0])?, joined(values(rows))?)));
    whole
        .map(|(id, value)| decode(&RowKey::new(table::ARCHIVE, id.0, 0), value.get(1..).unwrap_or_default()))
        .collect()
}

/// The number in a row of [`key_row`].
///
/// # Errors
///
/// A sentence that says which row is wrong.
pub fn read_key(row: &Row) -> Result<JobId, String> {
    decode(&row.key, &row.value)
}

/// How many rows a specification takes, by its first one.
pub fn spec_parts(first: &Row) -> u32 {
    let len = first.value.first_chunk::<LENGTH>().map_or(0, |len| u32::from_be_bytes(*len));
    (len as usize + LENGTH).div_ceil(CHUNK) as u32
}

fn values(rows: &[Row]) -> impl Iterator<Item = &[u8]> {
    rows.iter().map(|row| row.value.as_slice())
}

fn number(row: &Row) -> Option<JobId> {
    match row.key {
        RowKey::Number { id, .. } => Some(JobId(id)),
        RowKey::Name { .. } => None,
    }
}

fn decode<T: DeserializeOwned>(key: &RowKey, value: &[u8]) -> Result<T, String> {
    bincode_options().deserialize(value).map_err(|error| format!("row {key} cannot be read: {error}"))
}

/// One row of the live state, read.
pub enum LiveRow {
    /// A job's core.
    Core(JobId, WallMs, Core),
    /// A job's time of submission and specification.
    Spec(JobId, WallMs, JobSpec),
    /// A job's history.
    History(JobId, Vec<HistoryEntry>),
    /// The highest job number.
    Last(JobId),
}

impl LiveRow {
    /// Reads a row of a table that has one row a job.
    ///
    /// # Errors
    ///
    /// A sentence that says which row is wrong.
    pub fn read(row: &Row) -> Result<Self, String> {
        let RowKey::Number { table, id, .. } = row.key else {
            return Err(format!("row {} is not known", row.key));
        };
        let (key, value, id) = (&row.key, row.value.as_slice(), JobId(id));
        Ok(match table {
            table::CORE => {
                let (at, core) = decode(key, value)?;
                Self::Core(id, at, core)
            }
            table::CORE_V1 => {
                let (at, core): (_, CoreV1) = decode(key, value)?;
                Self::Core(id, at, core.into())
            }
            table::SPEC_V1 => {
                let (at, spec): (_, JobSpecV1) = decode(key, value)?;
                Self::Spec(id, at, spec.into())
            }
            table::HISTORY => Self::History(id, decode(key, value)?),
            table::META => Self::Last(decode(key, value)?),
            _ => return Err(format!("row {key} is of no known table")),
        })
    }

    /// Reads a specification that may go over several rows; `None` if some of them are missing.
    ///
    /// # Errors
    ///
    /// A sentence that says which row is wrong.
    pub fn read_spec(rows: &[Row]) -> Result<Option<Self>, String> {
        let Some(first) = rows.first() else { return Ok(None) };
        let (Some(id), Some(value)) = (number(first), joined(values(rows))) else { return Ok(None) };
        let (at, spec) = decode(&first.key, &value)?;
        Ok(Some(Self::Spec(id, at, spec)))
    }
}

/// What replay has found.
#[derive(Debug, Default)]
pub struct Replay {
    /// The jobs.
    pub jobs: Jobs,
    /// Up to which record each job's core and history rows reach.
    reach: BTreeMap<JobId, (Seq, Seq)>,
    /// The highest job number of the last checkpoint.
    last: JobId,
}

impl Replay {
    /// Rebuilds jobs from live rows of the last checkpoint, in the order of their keys: all, or all of some
    /// jobs. `unfinished`: that checkpoint was cut short, so that a new job may lack a row; the log still holds
    /// all of it. Rows of other tables are passed over.
    ///
    /// # Errors
    ///
    /// A sentence that says which row is wrong.
    pub fn from_rows(rows: &[Row], unfinished: bool) -> Result<Self, String> {
        let mut specs: BTreeMap<JobId, (WallMs, JobSpec)> = BTreeMap::new();
        let mut histories: BTreeMap<JobId, (Seq, Vec<HistoryEntry>)> = BTreeMap::new();
        let mut cores: BTreeMap<JobId, (Seq, WallMs, Core)> = BTreeMap::new();
        let mut replay = Self::default();
        let mut take = |seq: Seq, row: LiveRow| match row {
            LiveRow::Core(id, at, core) => drop(cores.insert(id, (seq, at, core))),
            LiveRow::Spec(id, at, spec) => drop(specs.insert(id, (at, spec))),
            LiveRow::History(id, lines) => drop(histories.insert(id, (seq, lines))),
            LiveRow::Last(id) => replay.last = id,
        };
        let is_one =
            |one: &Row, other: &Row| one.key.table() == other.key.table() && number(one) == number(other);
        for rows in rows.chunk_by(is_one) {
            match rows[0].key.table() {
                table::ARCHIVE | table::KEY => {}
                table::SPEC => {
                    if let Some(spec) = LiveRow::read_spec(rows)? {
                        take(rows[0].seq, spec);
                    }
                }
                _ => take(rows[0].seq, LiveRow::read(&rows[0])?),
            }
        }
        for (id, (submitted_at, spec)) in specs {
            let Some((core_seq, changed_at, core)) = cores.remove(&id) else {
                if unfinished {
                    continue;
                }
                return Err(format!("job {id} lacks a row"));
            };
            let (history_seq, history) = histories.remove(&id).unwrap_or_default();
            replay.reach.insert(id, (core_seq, history_seq));
            replay.jobs.map.insert(id, Job { id, submitted_at, changed_at, spec, core, history });
        }
        match cores.keys().next() {
            Some(id) if !unfinished => Err(format!("job {id} lacks a row")),
            Some(_) | None => Ok(replay),
        }
    }

    /// Gives the highest number of the last checkpoint, where the rows of it were not among those read.
    pub fn reaches(&mut self, last: JobId) {
        self.last = self.last.max(last);
    }

    /// Applies the next record of the log, unless the rows already reflect it.
    ///
    /// # Errors
    ///
    /// [`ApplyError`]: the log contradicts itself.
    pub fn apply(&mut self, seq: Seq, record: Record) -> Result<(), ApplyError> {
        let id = record.id();
        let (core_seq, history_seq) = self.reach.get(&id).copied().unwrap_or_default();
        if seq <= core_seq {
            // The core is newer than this; its line of history may be missing all the same.
            if let Record::Moved { id, at, what: Some(what), core } = record
                && seq > history_seq
                && let Some(job) = self.jobs.map.get_mut(&id)
            {
                job.note_as(HistoryEntry { at, state: core.state(), what, done: core.done });
            }
            return Ok(());
        }
        let record = match record {
            Record::Moved { id, at, what: _, core } if seq <= history_seq => {
                Record::Moved { id, at, what: None, core }
            }
            other => other,
        };
        // Rows of later jobs may be there already: only a second birth of the same job is wrong here.
        if matches!(record, Record::Submitted { .. } | Record::SubmittedLong { .. })
            && !self.jobs.map.contains_key(&id)
        {
            self.jobs.last = JobId(id.0.saturating_sub(1));
        }
        self.jobs.apply(record)
    }

    /// The jobs, when the whole log has been applied.
    pub fn finish(mut self) -> Jobs {
        let highest = self.jobs.map.keys().next_back().copied().unwrap_or_default();
        let gone = self.jobs.gone.last().copied().unwrap_or_default();
        self.jobs.last = self.jobs.last.max(self.last).max(highest).max(gone);
        self.jobs.pieces = None;
        self.jobs
    }
}
