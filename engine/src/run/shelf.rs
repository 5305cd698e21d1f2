//! Jobs at rest: in the journal's rows, and read when somebody needs them.
//!
//! ```text
//! open: every row ─▶ Survey (a few words of each unfinished job, counts of the ended ones)
//!       jobs that the log's tail names ─▶ fetched, replayed ─▶ Jobs in memory
//! later: fetch(id) ─▶ an unfinished job       archive(query) ─▶ ended ones
//! ```
//!
//! Invariant: a job that is in memory is never read from here: memory is newer. Absent on purpose: writing
//! (`run::save`).

use std::collections::{BTreeMap, BTreeSet};

use longhaul_journal::{Journal, Opened, ReadError, Row, RowKey, RowOrder, RowQuery, RowSink};

use super::feed::Feed;
use super::index::{Index, Standing};
use crate::error::OpenError;
use crate::job::record::{
    Jobs, LiveRow, Record, Replay, archived_state, read_archive, read_key, spec_parts, table,
};
use crate::job::step::Transition;
use crate::job::{Job, JobId, JobState};

/// Rows of the archive that are read at a time.
const ARCHIVE_SLICE: usize = 256;

/// How many ended jobs there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Well.
    pub completed: u64,
    /// Otherwise.
    pub failed: u64,
}

impl Ended {
    /// One more, or one less.
    pub fn count(&mut self, state: JobState, more: bool) {
        let one = |count: &mut u64| *count = if more { *count + 1 } else { count.saturating_sub(1) };
        match state {
            JobState::Completed => one(&mut self.completed),
            JobState::Failed => one(&mut self.failed),
            JobState::Queued | JobState::Staged | JobState::Sending | JobState::Suspended => {}
        }
    }
}

/// Takes the rows as they come at open, and keeps a few words of each unfinished job.
#[derive(Debug)]
pub struct Survey {
    index: Index,
    ended: Ended,
    last: JobId,
    /// Cores whose specifications are still to come: their rows lie before.
    cores: BTreeMap<JobId, Standing>,
    spec: Vec<Row>,
    /// Rows of jobs in the form of an older version: they are taken into memory, and written anew.
    old: Vec<Row>,
    wrong: Option<String>,
}

impl RowSink for Survey {
    fn row(&mut self, row: Row) {
        let taken = match row.key.table() {
            table::ARCHIVE => {
                if let Some(state) = archived_state(&row) {
                    self.ended.count(state, true);
                }
                Ok(())
            }
            table::KEY | table::HISTORY => Ok(()),
            table::SPEC_V1 | table::CORE_V1 => {
                self.old.push(row);
                Ok(())
            }
            table::SPEC => self.spec_row(row),
            _ => self.other(&row),
        };
        if let Err(why) = taken {
            self.wrong.get_or_insert(why);
        }
    }
}

impl Survey {
    /// For a session with this staging budget.
    pub fn new(budget: u64) -> Self {
        Self {
            index: Index::new(budget),
            ended: Ended::default(),
            last: JobId::default(),
            cores: BTreeMap::new(),
            spec: Vec::new(),
            old: Vec::new(),
            wrong: None,
        }
    }

    fn spec_row(&mut self, row: Row) -> Result<(), String> {
        if matches!(row.key, RowKey::Number { sub: 0, .. }) {
            self.spec.clear();
        }
        self.spec.push(row);
        if self.spec.len() < spec_parts(&self.spec[0]) as usize {
            return Ok(());
        }
        if let Some(LiveRow::Spec(id, _, spec)) = LiveRow::read_spec(&std::mem::take(&mut self.spec))?
            // A checkpoint that was cut short may have left one without the other: the log has it.
            && let Some(standing) = self.cores.remove(&id)
        {
            self.index.put(id, &spec, standing);
        }
        Ok(())
    }

    fn other(&mut self, row: &Row) -> Result<(), String> {
        match LiveRow::read(row)? {
            LiveRow::Core(id, at, core) => drop(self.cores.insert(id, Standing::of(at, &core))),
            LiveRow::Last(last) => self.last = last,
            LiveRow::Spec(..) | LiveRow::History(..) => {}
        }
        Ok(())
    }
}

/// What opening has found.
#[derive(Debug)]
pub struct Found {
    /// The jobs that the log's tail names, and those of an older version.
    pub jobs: Jobs,
    /// Every unfinished job.
    pub index: Index,
    /// How many have ended.
    pub ended: Ended,
    /// Which of the jobs in memory have rows.
    pub on_shelf: BTreeSet<JobId>,
    /// Submitters' keys of the jobs in memory.
    pub keys: BTreeMap<String, JobId>,
    /// Rows of jobs that are no more.
    pub removes: Vec<RowKey>,
    /// What happened since the last checkpoint.
    pub feed: Feed,
}

/// Replays what a journal held.
///
/// # Errors
///
/// [`OpenError::Damaged`]: rows and log contradict each other. [`OpenError::Journal`]: they cannot be read.
pub async fn replay(opened: &mut Opened<Transition, Survey>, budget: u64) -> Result<Found, OpenError> {
    let damaged = |text: String| OpenError::Damaged { text };
    let survey = std::mem::replace(&mut opened.rows, Survey::new(budget));
    if let Some(why) = survey.wrong {
        return Err(damaged(why));
    }
    let tail = std::mem::take(&mut opened.tail);
    let old: BTreeSet<JobId> = survey.old.iter().filter_map(number).collect();
    let named: BTreeSet<JobId> =
        tail.iter().map(|record| record.value().id()).chain(old.iter().copied()).collect();
    let read = |error: ReadError| OpenError::Journal(error.to_string());
    let mut rows = live_rows(&opened.journal, &named).await.map_err(read)?;
    let old_keys: Vec<RowKey> = survey.old.iter().map(|row| row.key.clone()).collect();
    rows.extend(survey.old);
    rows.sort_by(|one, other| one.key.cmp(&other.key));
    rows.dedup_by(|one, other| one.key == other.key);
    let mut replay = Replay::from_rows(&rows, opened.report.checkpoint_unfinished).map_err(damaged)?;
    replay.reaches(survey.last);
    // What an older version wrote is written anew, whole.
    let on_shelf: BTreeSet<JobId> = replay.jobs.map.keys().copied().filter(|id| !old.contains(id)).collect();
    let mut ended = survey.ended;
    let mut feed = Feed::new(opened.report.checkpoint.0);
    let mut gone_keys: Vec<(String, JobId)> = Vec::new();
    let quiet = tail.len().saturating_sub(super::feed::EVENTS_MAX);
    for (at, recovered) in tail.into_iter().enumerate() {
        let seq = recovered.seq();
        let record = recovered.into_value();
        let what = what_of(&record);
        let id = record.id();
        if matches!(record, Record::Removed { .. }) {
            let key = replay.jobs.map.get(&id).and_then(|job| job.spec.key.clone());
            gone_keys.extend(key.map(|key| (key, id)));
        }
        replay.apply(seq, record).map_err(|error| damaged(format!("record {}: {error}", seq.0)))?;
        match (what, replay.jobs.map.get(&id)) {
            (Some(what), Some(job)) if at >= quiet => feed.tell(seq.0, what, job),
            (Some(_), _) => feed.forget(seq.0),
            (None, _) => {}
        }
    }
    let jobs = replay.finish();
    let mut index = survey.index;
    let mut keys = BTreeMap::new();
    for job in jobs.map.values() {
        index.note(job);
        if let Some(key) = &job.spec.key {
            keys.insert(key.clone(), job.id);
        }
        // An archive row that a checkpoint had put before it was cut short is counted already.
        if job.state().is_terminal() && !in_archive(&opened.journal, job.id).await.map_err(read)? {
            ended.count(job.state(), true);
        }
    }
    let mut removes = old_keys;
    let is_over = |id: &&JobId| jobs.map.get(id).is_none_or(|job| job.state().is_terminal());
    removes.extend(old.iter().filter(is_over).map(|id| RowKey::new(table::HISTORY, id.0, 0)));
    for id in &jobs.gone {
        index.remove(*id);
    }
    let gone = Gone { keys: gone_keys, removes: &mut removes, ended: &mut ended };
    gone.rows(&opened.journal, &jobs.gone, &keys).await?;
    Ok(Found { jobs, index, ended, on_shelf, keys, removes, feed })
}

/// Jobs that were taken off the list, and what there may still be of them in rows.
struct Gone<'a> {
    /// Their submitters' keys, as far as the log tells.
    keys: Vec<(String, JobId)>,
    removes: &'a mut Vec<RowKey>,
    ended: &'a mut Ended,
}

impl Gone<'_> {
    /// Finds their rows. `taken`: keys of jobs in memory.
    async fn rows(
        mut self,
        journal: &Journal<Transition>,
        gone: &BTreeSet<JobId>,
        taken: &BTreeMap<String, JobId>,
    ) -> Result<(), OpenError> {
        let read = |error: ReadError| OpenError::Journal(error.to_string());
        for id in gone {
            // Its end may never have become rows: without the log, what it was before would be a job again.
            let before = live_rows(journal, &BTreeSet::from([*id])).await.map_err(read)?;
            self.removes.extend(before.into_iter().map(|row| row.key));
            let rows = archive_of(journal, *id).await.map_err(read)?;
            if let Some(Ok(Job { spec, .. })) = read_archive(&rows).pop()
                && let Some(key) = spec.key
            {
                self.keys.push((key, *id));
            }
            for row in rows {
                if let Some(state) = archived_state(&row) {
                    self.ended.count(state, false);
                }
                self.removes.push(row.key);
            }
        }
        // Another attempt of the job may have taken its key over, in memory or in rows.
        self.keys.retain(|(key, _)| !taken.contains_key(key));
        let (theirs, ids): (Vec<String>, Vec<JobId>) = self.keys.into_iter().unzip();
        let owners = keyed(journal, &theirs).await.map_err(OpenError::Journal)?;
        let own = theirs.into_iter().zip(ids).zip(owners).filter(|((_, id), owner)| *owner == Some(*id));
        self.removes.extend(own.map(|((key, _), _)| RowKey::named(table::KEY, key)));
        Ok(())
    }
}

fn number(row: &Row) -> Option<JobId> {
    match row.key {
        RowKey::Number { id, .. } => Some(JobId(id)),
        RowKey::Name { .. } => None,
    }
}

/// The line of history that a record brings.
fn what_of(record: &Record) -> Option<String> {
    match record {
        Record::Submitted { .. } | Record::SubmittedLong { .. } => Some("accepted".to_owned()),
        Record::Moved { what, .. } => what.clone(),
        Record::Piece { .. } | Record::Removed { .. } => None,
    }
}

async fn live_rows(journal: &Journal<Transition>, ids: &BTreeSet<JobId>) -> Result<Vec<Row>, ReadError> {
    let keys = ids
        .iter()
        .flat_map(|id| [table::CORE, table::SPEC, table::HISTORY].map(|table| RowKey::new(table, id.0, 0)));
    let mut rows: Vec<Row> = journal.get(keys.collect()).await?.into_iter().flatten().collect();
    let long = rows.iter().filter(|row| row.key.table() == table::SPEC);
    let more: Vec<RowKey> = long
        .flat_map(|row| {
            let RowKey::Number { id, .. } = row.key else { return Vec::new() };
            (1..spec_parts(row)).map(|sub| RowKey::new(table::SPEC, id, sub)).collect()
        })
        .collect();
    if !more.is_empty() {
        rows.extend(journal.get(more).await?.into_iter().flatten());
        rows.sort_by(|one, other| one.key.cmp(&other.key));
    }
    Ok(rows)
}

/// Reads unfinished jobs; those that have no rows are left out.
///
/// # Errors
///
/// What the journal says, or which row cannot be read.
pub async fn fetch(journal: &Journal<Transition>, ids: &BTreeSet<JobId>) -> Result<Vec<Job>, String> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut rows = live_rows(journal, ids).await.map_err(|error| error.to_string())?;
    rows.sort_by(|one, other| one.key.cmp(&other.key));
    // Nothing but whole jobs is asked for; a row of one that a checkpoint under way has just ended is no job.
    let replay = Replay::from_rows(&rows, true)?;
    Ok(replay.jobs.map.into_values().collect())
}

async fn archive_of(journal: &Journal<Transition>, id: JobId) -> Result<Vec<Row>, ReadError> {
    let query = RowQuery {
        from: Some(RowKey::new(table::ARCHIVE, id.0, 0)),
        to: Some(RowKey::new(table::ARCHIVE, id.0, u32::MAX)),
        ..RowQuery::all(table::ARCHIVE)
    };
    journal.rows(query).await
}

async fn in_archive(journal: &Journal<Transition>, id: JobId) -> Result<bool, ReadError> {
    let found = journal.get(vec![RowKey::new(table::ARCHIVE, id.0, 0)]).await?;
    Ok(found.first().is_some_and(Option::is_some))
}

/// One ended job.
///
/// # Errors
///
/// What the journal says, or that its row cannot be read.
pub async fn ended(journal: &Journal<Transition>, id: JobId) -> Result<Option<Job>, String> {
    let rows = archive_of(journal, id).await.map_err(|error| error.to_string())?;
    read_archive(&rows).pop().transpose()
}

/// The job that a submitter's key belongs to, of those that have rows.
///
/// # Errors
///
/// What the journal says, or that a row cannot be read.
pub async fn keyed(journal: &Journal<Transition>, keys: &[String]) -> Result<Vec<Option<JobId>>, String> {
    let rows = keys.iter().map(|key| RowKey::named(table::KEY, key)).collect();
    let rows = journal.get(rows).await.map_err(|error| error.to_string())?;
    rows.into_iter().map(|row| row.map(|row| read_key(&row)).transpose()).collect()
}

/// Which stretch of the archive, and from which end.
#[derive(Clone, Copy, Debug)]
pub struct Stretch {
    /// The least number.
    pub from: JobId,
    /// The greatest number.
    pub to: JobId,
    /// From the end.
    pub newest: bool,
}

/// A slice of the archive, and where it goes on; `None` at its end.
///
/// # Errors
///
/// What the journal says, or which row cannot be read.
pub async fn archive(
    journal: &Journal<Transition>,
    stretch: Stretch,
) -> Result<(Vec<Job>, Option<Stretch>), String> {
    if stretch.from > stretch.to {
        return Ok((Vec::new(), None));
    }
    let query = RowQuery {
        table: table::ARCHIVE,
        from: Some(RowKey::new(table::ARCHIVE, stretch.from.0, 0)),
        to: Some(RowKey::new(table::ARCHIVE, stretch.to.0, u32::MAX)),
        order: if stretch.newest { RowOrder::Descending } else { RowOrder::Ascending },
        limit: ARCHIVE_SLICE,
    };
    let mut rows = journal.rows(query).await.map_err(|error| error.to_string())?;
    let is_all = rows.len() < ARCHIVE_SLICE;
    if stretch.newest {
        rows.reverse();
    }
    // The slice may begin or end in the middle of a job with several rows: that one is for the next.
    let cut = if is_all {
        None
    } else if stretch.newest {
        rows.first()
    } else {
        rows.last()
    };
    let cut = cut.map(|row| row.key.clone());
    let Some(RowKey::Number { id: cut, .. }) = cut else {
        let jobs = read_archive(&rows).into_iter().collect::<Result<_, _>>()?;
        return Ok((jobs, None));
    };
    rows.retain(|row| !matches!(row.key, RowKey::Number { id, .. } if id == cut));
    let jobs = read_archive(&rows).into_iter().collect::<Result<_, _>>()?;
    let rest = if stretch.newest {
        Stretch { to: JobId(cut), ..stretch }
    } else {
        Stretch { from: JobId(cut), ..stretch }
    };
    Ok((jobs, Some(rest)))
}

#[cfg(test)]
mod tests;
