//! The durable form of jobs: records in the log, rows at checkpoints, and the one `apply` that both
//! the live engine and recovery use.
//!
//! A [`Record`] is either a job's specification, once, or its whole [`Core`] after a transition.
//! Frozen: a change of any type in here needs a new version (`RecordV2`, `From<RecordV1>`), and
//! enum variants are only ever appended. The golden bytes in the tests hold it still.

use std::collections::BTreeMap;

use bincode::Options as _;
use longhaul_journal::{DecodeError, RECORD_MAX, ROW_MAX, Row, RowKey, Seq};
use serde::{Deserialize, Serialize};

use super::step::{Transition, legal};
use super::{Core, HistoryEntry, Job, JobId, JobSpec};
use crate::ports::WallMs;

/// Lines of history kept per job; older ones in the middle are dropped first.
const HISTORY_MAX: usize = 40;
/// Lines at the start that are always kept: how the job began.
const HISTORY_HEAD: usize = 8;

/// One entry of the log, version 1.
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
}

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
}

/// Every job of a session, and the highest number ever given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Jobs {
    /// By number.
    pub map: BTreeMap<JobId, Job>,
    /// The highest number ever given, also to jobs that retention has removed.
    pub last: JobId,
}

impl Jobs {
    /// Applies one record: the only way a job's state ever changes, live and in recovery.
    ///
    /// # Errors
    ///
    /// [`ApplyError`]: the record does not follow; nothing was changed.
    pub fn apply(&mut self, record: Record) -> Result<(), ApplyError> {
        match record {
            Record::Submitted { id, at, spec } => {
                if id <= self.last {
                    return Err(ApplyError::NotNew(id));
                }
                let core = Core::queued(spec.source.map(|source| source.size));
                let first = HistoryEntry { at, state: core.state(), what: "accepted".to_owned(), done: 0 };
                let job =
                    Job { id, submitted_at: at, changed_at: at, spec: *spec, core, history: vec![first] };
                self.map.insert(id, job);
                self.last = id;
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
                    let core = job.core.clone();
                    job.note(at, what, &core);
                }
            }
        }
        Ok(())
    }
}

impl Job {
    fn note(&mut self, at: WallMs, what: String, core: &Core) {
        if self.history.len() >= HISTORY_MAX {
            self.history.remove(HISTORY_HEAD);
        }
        self.history.push(HistoryEntry { at, state: core.state(), what, done: core.done });
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
    const VERSION: u8 = 1;
    type Replayed = Record;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&encode(&self.record));
    }

    fn decode(version: u8, payload: &[u8]) -> Result<Record, DecodeError> {
        match version {
            1 => bincode_options()
                .deserialize(payload)
                .map_err(|error| DecodeError::Malformed(error.to_string())),
            found => Err(DecodeError::Version { found }),
        }
    }
}

/// Whether a record can be journaled: it has a form, and that is not too long.
pub fn fits(record: &Record) -> bool {
    (1..=RECORD_MAX).contains(&encode(record).len())
}

/// Tables of materialised rows. On disk; never reused.
pub mod table {
    /// A job's number, time of submission and specification.
    pub const SPEC: u8 = b'j';
    /// A job's core.
    pub const CORE: u8 = b'c';
    /// A job's history.
    pub const HISTORY: u8 = b'h';
    /// Facts of the session: the highest job number.
    pub const META: u8 = b'n';
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

/// A job as rows. A checkpoint that was cut short may leave any of them newer than the others.
pub fn rows(job: &Job) -> Vec<(RowKey, Vec<u8>)> {
    vec![
        (RowKey::new(table::SPEC, job.id.0, 0), encode(&(job.submitted_at, &job.spec))),
        (RowKey::new(table::HISTORY, job.id.0, 0), history_row(&job.history)),
        (RowKey::new(table::CORE, job.id.0, 0), encode(&(job.changed_at, &job.core))),
    ]
}

/// The keys of a job's rows.
pub fn row_keys(id: JobId) -> Vec<RowKey> {
    [table::SPEC, table::CORE, table::HISTORY].into_iter().map(|table| RowKey::new(table, id.0, 0)).collect()
}

/// The row of the highest job number.
pub fn meta_row(last: JobId) -> (RowKey, Vec<u8>) {
    (RowKey::new(table::META, 0, 0), encode(&last))
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
    /// Rebuilds jobs from the rows of the last checkpoint. `unfinished`: that checkpoint was cut
    /// short, so that a new job may lack a row; the log still holds all of it.
    ///
    /// # Errors
    ///
    /// A sentence that says which row is wrong.
    pub fn from_rows(rows: &[Row], unfinished: bool) -> Result<Self, String> {
        let mut specs: BTreeMap<JobId, (WallMs, JobSpec)> = BTreeMap::new();
        let mut histories: BTreeMap<JobId, (Seq, Vec<HistoryEntry>)> = BTreeMap::new();
        let mut cores: BTreeMap<JobId, (Seq, WallMs, Core)> = BTreeMap::new();
        let mut replay = Self::default();
        for Row { key, seq, value, .. } in rows {
            let RowKey::Number { table, id, .. } = *key else {
                return Err(format!("row {key} is not known"));
            };
            let id = JobId(id);
            let wrong = |error: bincode::Error| format!("row {key} cannot be read: {error}");
            match table {
                table::SPEC => {
                    specs.insert(id, bincode_options().deserialize(value).map_err(wrong)?);
                }
                table::HISTORY => {
                    histories.insert(id, (*seq, bincode_options().deserialize(value).map_err(wrong)?));
                }
                table::CORE => {
                    let (at, core) = bincode_options().deserialize(value).map_err(wrong)?;
                    cores.insert(id, (*seq, at, core));
                }
                table::META => replay.last = bincode_options().deserialize(value).map_err(wrong)?,
                _ => return Err(format!("row {key} is of no known table")),
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

    /// Applies the next record of the log, unless the rows already reflect it.
    ///
    /// # Errors
    ///
    /// [`ApplyError`]: the log contradicts itself.
    pub fn apply(&mut self, seq: Seq, record: Record) -> Result<(), ApplyError> {
        let (Record::Submitted { id, .. } | Record::Moved { id, .. }) = &record;
        let (core_seq, history_seq) = self.reach.get(id).copied().unwrap_or_default();
        if seq <= core_seq {
            // The core is newer than this; its line of history may be missing all the same.
            if let Record::Moved { id, at, what: Some(what), core } = record
                && seq > history_seq
                && let Some(job) = self.jobs.map.get_mut(&id)
            {
                job.note(at, what, &core);
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
        if let Record::Submitted { id, .. } = &record
            && !self.jobs.map.contains_key(id)
        {
            self.jobs.last = JobId(id.0.saturating_sub(1));
        }
        self.jobs.apply(record)
    }

    /// The jobs, when the whole log has been applied.
    pub fn finish(mut self) -> Jobs {
        let highest = self.jobs.map.keys().next_back().copied().unwrap_or_default();
        self.jobs.last = self.jobs.last.max(self.last).max(highest);
        self.jobs
    }
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
mod tests {
    use std::fmt::Write as _;

    use longhaul_journal::Record as _;

    use super::*;
    use crate::job::{Direction, Fingerprint, Outcome, Phase, Proof, StageMode, Token};
    use crate::protocol::ProtocolId;

    fn spec() -> JobSpec {
        let source =
            Fingerprint { dev: 1, ino: 2, size: 3, mtime_ns: 4, ctime_ns: 5, links: 1, regular: true };
        JobSpec {
            protocol: ProtocolId::Tus,
            url: "http://h/f".to_owned(),
            path: "/a".into(),
            name_from_server: false,
            overwrite: false,
            stage: StageMode::Copy,
            source: Some(source),
            checksum: None,
            attempts_max: 10,
            credential: None,
            token: Token([1; 16]),
        }
    }

    fn submitted(id: u64) -> Record {
        Record::Submitted { id: JobId(id), at: WallMs(9), spec: Box::new(spec()) }
    }

    fn moved(id: u64, phase: Phase, what: &str) -> Record {
        let core = Core { phase, ..Core::queued(Some(3)) };
        Record::Moved { id: JobId(id), at: WallMs(10), what: Some(what.to_owned()), core: Box::new(core) }
    }

    fn ended() -> Phase {
        Phase::Ended(Outcome::Completed(Proof { size: 3, evidence: "e".to_owned() }))
    }

    fn bytes(record: Record) -> Vec<u8> {
        let mut out = Vec::new();
        Transition { record, effects: Vec::new(), epoch: 0 }.encode(&mut out);
        out
    }

    /// The form on disk, version 1. These bytes never change; a new form is a new version.
    #[test]
    fn golden_bytes_of_version_1() {
        let hex = |bytes: &[u8]| {
            bytes.iter().fold(String::new(), |mut hex, byte| {
                let _infallible = write!(hex, "{byte:02x}");
                hex
            })
        };
        assert_eq!(
            hex(&bytes(submitted(1))),
            "000109010a687474703a2f2f682f66022f6100000101010203080a0101000a0001010101010101010101010101010101"
        );
        assert_eq!(hex(&bytes(moved(1, ended(), "x"))), "01010a0101780600030165000000000000000001030000");
    }

    #[test]
    fn what_is_written_is_read_back() {
        for record in [submitted(4), moved(4, Phase::Staging, "preparing"), moved(4, ended(), "done")] {
            let read = Transition::decode(1, &bytes(record.clone())).expect("own bytes");
            assert_eq!(read, record);
        }
    }

    #[test]
    fn another_version_is_refused_by_name() {
        assert!(matches!(
            Transition::decode(2, &bytes(submitted(1))),
            Err(DecodeError::Version { found: 2 })
        ));
    }

    #[test]
    fn a_record_that_does_not_follow_changes_nothing() {
        let mut jobs = Jobs::default();
        assert_eq!(jobs.apply(moved(1, Phase::Staging, "")), Err(ApplyError::Unknown(JobId(1))));
        jobs.apply(submitted(1)).expect("new");
        assert_eq!(jobs.apply(submitted(1)), Err(ApplyError::NotNew(JobId(1))));
        let before = jobs.clone();
        assert!(matches!(jobs.apply(moved(1, Phase::Staged, "")), Err(ApplyError::Illegal { .. })));
        assert_eq!(jobs, before);
        jobs.apply(moved(1, ended(), "")).expect("legal");
        assert!(
            matches!(jobs.apply(moved(1, Phase::Queued, "")), Err(ApplyError::Illegal { .. })),
            "terminal"
        );
    }

    #[test]
    fn a_history_of_long_lines_still_fits_its_row() {
        let mut jobs = Jobs::default();
        jobs.apply(submitted(1)).expect("new");
        for _ in 0..100 {
            jobs.apply(moved(1, Phase::Queued, &"😀".repeat(300))).expect("legal");
        }
        let job = &jobs.map[&JobId(1)];
        assert!(encode(&job.history).len() > ROW_MAX, "or this shows nothing");
        assert!(rows(job).iter().all(|(_, value)| value.len() <= ROW_MAX));
        let replay = Replay::from_rows(&as_rows(job, 200), false).expect("sound rows");
        let kept = &replay.jobs.map[&JobId(1)].history;
        assert_eq!((kept.first(), kept.last()), (job.history.first(), job.history.last()));
    }

    #[test]
    fn names_that_are_no_text_survive_the_journal() {
        use std::os::unix::ffi::OsStringExt;
        let odd = std::path::PathBuf::from(std::ffi::OsString::from_vec(b"tok\xff".to_vec()));
        let credential = Some(crate::secret::CredentialRef::File(odd.clone()));
        let spec = Box::new(JobSpec { path: odd, credential, ..spec() });
        let record = Record::Submitted { id: JobId(1), at: WallMs(9), spec };
        assert!(fits(&record));
        assert_eq!(Transition::decode(1, &bytes(record.clone())).expect("own bytes"), record);
    }

    #[test]
    fn history_is_bounded_and_keeps_its_beginning_and_its_end() {
        let mut jobs = Jobs::default();
        jobs.apply(submitted(1)).expect("new");
        for number in 0..500 {
            jobs.apply(moved(1, Phase::Queued, &format!("line {number}"))).expect("legal");
        }
        let history = &jobs.map[&JobId(1)].history;
        assert_eq!(history.len(), HISTORY_MAX);
        assert_eq!((history[0].what.as_str(), history[1].what.as_str()), ("accepted", "line 0"));
        assert_eq!(history.last().map(|line| line.what.as_str()), Some("line 499"));
    }

    fn as_rows(job: &Job, seq: u64) -> Vec<Row> {
        rows(job).into_iter().map(|(key, value)| Row { key, seq: Seq(seq), value }).collect()
    }

    #[test]
    fn rows_and_log_together_give_what_the_log_alone_gives() {
        let log = [submitted(1), moved(1, Phase::Staging, "a"), submitted(2), moved(1, ended(), "b")];
        let mut whole = Jobs::default();
        for record in &log {
            whole.apply(record.clone()).expect("legal");
        }
        // A checkpoint at each record, finished or cut short after any of its rows.
        for through in 0..=log.len() {
            let mut at = Jobs::default();
            for record in &log[..through] {
                at.apply(record.clone()).expect("legal");
            }
            let all: Vec<Row> = at.map.values().flat_map(|job| as_rows(job, through as u64)).collect();
            for kept in 0..=all.len() {
                let finished = kept == all.len();
                let mut replay = Replay::from_rows(&all[..kept], !finished).expect("sound rows");
                let tail = if finished { through } else { 0 };
                for (index, record) in log.iter().enumerate().skip(tail) {
                    replay.apply(Seq(index as u64 + 1), record.clone()).expect("follows");
                }
                assert_eq!(replay.finish(), whole, "checkpoint at {through}, {kept} rows of it");
            }
        }
    }

    #[test]
    fn a_missing_row_is_damage_unless_the_checkpoint_was_cut_short() {
        let mut jobs = Jobs::default();
        jobs.apply(submitted(1)).expect("new");
        let rows = as_rows(&jobs.map[&JobId(1)], 1);
        assert!(Replay::from_rows(&rows[..2], false).is_err());
        assert!(Replay::from_rows(&rows[..2], true).is_ok());
        assert_eq!(jobs.map[&JobId(1)].spec.direction(), Direction::Upload);
    }
}
