//! Opening a directory: a first look at a copy, a rebuild if the database is mostly holes, and [`verify`].
//!
//! ```text
//! lock ─▶ leftovers ─▶ witness's version ─▶ first look at a copy ─▶ rebuild if bloated
//!      ─▶ the database itself ─▶ (replay, self-check) ─▶ files, directory, parent synced
//! ```
//!
//! Invariant: until the look has found all of it sound, the database is not written. And until the
//! database itself was replayed, the sound copy is kept: sled takes a read error for the end of its log and
//! overwrites what it could not read, so that one bad read at this moment would cost everything. The next
//! open takes the copy for the database if it finds that broken.
//! Absent on purpose: any other repair.

use std::fs;
use std::io;
use std::marker::PhantomData;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::dir::{Dir, Head, copy_tree, doing, tree_bytes};
use super::sled::{Database, SledStore};
use super::{Batch, ExportFile, Op, Store, Visit};
use crate::error::{ExportError, OpenError, Reach, StoreError};
use crate::export::count_rows;
use crate::journal::check_record_version;
use crate::record::{Record, Seq};
use crate::recover::{Count, Found, Sink, State, Try, check_witness, read, read_mark};
use crate::witness::{self, Seen};

/// A database that is smaller is not worth rebuilding: sled keeps some segments ahead.
const REBUILD_MIN_BYTES: u64 = 64 * 1024 * 1024;
const REBUILD_FACTOR: u64 = 4;
/// What sled adds to a small pair, roughly.
const PAIR_OVERHEAD_BYTES: u64 = 64;
const COPY_BATCH_OPS: usize = 256;

/// How a journal is opened. The defaults are what was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// sled's page cache. It takes about twice that in memory.
    pub cache_bytes: u64,
    /// After this long [`Journal::open`](crate::Journal::open) gives up with [`OpenError::Stuck`].
    pub open_time_limit: Duration,
    /// sled writes when it opens, also to a damaged database. Up to this size a copy is opened and
    /// read first, so that damage is found without a change to the only original.
    pub first_look_max_bytes: u64,
    /// A database is rebuilt when it is larger than this, and than four times what it holds.
    pub rebuild_min_bytes: u64,
    /// For repair only: takes what is there for the truth, whatever the witness says.
    pub accept_any_witness: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 64 * 1024 * 1024,
            open_time_limit: Duration::from_secs(120),
            first_look_max_bytes: 128 * 1024 * 1024,
            rebuild_min_bytes: REBUILD_MIN_BYTES,
            accept_any_witness: false,
        }
    }
}

/// A database that is only read, with the witness of the original: the first look.
struct Look {
    database: Database,
    slots: [Vec<u8>; 2],
}

impl Look {
    fn refused() -> StoreError {
        StoreError::NotDurable { why: "a first look writes nothing" }
    }
}

impl Store for Look {
    fn apply(&mut self, _batch: Batch) -> Result<(), StoreError> {
        Err(Self::refused())
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        Err(Self::refused())
    }

    fn scan(&mut self, from: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.database.scan(from, visit)
    }

    fn scan_back(&mut self, below: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.database.scan_back(below, visit)
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.database.get(key)
    }

    fn check(&mut self) -> Result<(), StoreError> {
        self.database.check_blobs()
    }

    fn witness_read(&mut self) -> Result<[Vec<u8>; 2], StoreError> {
        Ok(self.slots.clone())
    }

    fn witness_write(&mut self, _slot: u8, _bytes: &[u8]) -> Result<(), StoreError> {
        Err(Self::refused())
    }

    fn witness_sync(&mut self) -> Result<(), StoreError> {
        Err(Self::refused())
    }

    fn export_begin(&mut self, _name: &str) -> Result<Box<dyn ExportFile>, StoreError> {
        Err(Self::refused())
    }
}

/// Everything up to a store that can be replayed.
struct Opening<'a> {
    dir: Dir,
    options: &'a Options,
    place: &'a str,
    seen: Seen,
    notes: Vec<String>,
}

/// Opens the directory for the journal of `R`; says what a user may want to know of it.
pub(crate) fn open<R: Record>(
    path: &Path,
    options: &Options,
    place: &str,
) -> Result<(SledStore, Vec<String>), OpenError> {
    let fail = |error| OpenError::store(place, error);
    let dir = Dir::take(path).map_err(fail)?;
    let notes = dir.clear_leftovers().map_err(fail)?;
    let seen = witness::read_slots(&Head::new(&dir).read().map_err(fail)?, place)?;
    check_record_version::<R>(&seen, place)?;
    let mut opening = Opening { dir, options, place, seen, notes };
    let Some(generation) = opening.dir.current().map_err(fail)? else {
        opening.create()?;
        return opening.finish(1);
    };
    let mut sink = Try::<R>(PhantomData);
    let (generation, looked) = opening.look_or_restore(generation, &mut sink, R::VERSION)?;
    let generation = opening.rebuild_if_bloated(generation, looked, &mut sink, R::VERSION)?;
    opening.finish(generation).map_err(|error| spoiled_by_opening(error, path, place))
}

/// What was sound a moment ago and is not after it was opened, was spoiled by the opening (a read that failed):
/// the copy that was kept will be put in its place.
pub(crate) fn spoiled_by_opening(error: OpenError, dir: &Path, place: &str) -> OpenError {
    match error {
        OpenError::Damaged { .. } | OpenError::LostTail { .. } if dir.join("kept").is_dir() => {
            OpenError::Io {
                place: place.to_owned(),
                doing: "reading the database (a copy was kept, and is put back at the next start)".to_owned(),
                source: io::Error::other(error.to_string()),
            }
        }
        other => other,
    }
}

impl Opening<'_> {
    fn fail(&self, error: StoreError) -> OpenError {
        OpenError::store(self.place, error)
    }

    /// A new, empty database, if there is no sign that there was one before.
    fn create(&self) -> Result<(), OpenError> {
        let fail = |error| self.fail(error);
        let lost = |expected| OpenError::LostTail {
            place: self.place.to_owned(),
            found: Reach { lsn: 0, seq: Seq(0), epoch: 0 },
            expected,
        };
        match self.seen {
            Seen::Mark(mark, _) if mark.reach.lsn > 0 || mark.reach.epoch > 0 => {
                return Err(lost(mark.reach));
            }
            Seen::Unreadable => {
                return Err(OpenError::damaged(
                    self.place,
                    "`head` cannot be read, and there is no database",
                ));
            }
            Seen::Mark(..) | Seen::Absent => {}
        }
        if !self.dir.exports().map_err(fail)?.is_empty() {
            return Err(OpenError::damaged(self.place, "there are exports, but no database"));
        }
        let path = self.dir.unpublished(1);
        let mut database = Database::open(&path, self.options.cache_bytes).map_err(fail)?;
        database.flush().map_err(fail)?;
        drop(database);
        self.dir.publish(1).map_err(fail)
    }

    /// A sound copy of the database, kept aside; or the one that an earlier open kept, made current, if
    /// the database did not survive that open.
    fn look_or_restore(
        &mut self,
        generation: u32,
        sink: &mut dyn Sink,
        supported: u8,
    ) -> Result<(u32, Option<Found>), OpenError> {
        let looked = match self.first_look(generation, sink, supported) {
            // A bad read of the copy looks like damage too: only what is seen twice is believed.
            Err(OpenError::Damaged { .. } | OpenError::LostTail { .. }) => {
                self.first_look(generation, sink, supported)
            }
            looked => looked,
        };
        let (generation, found) = match looked {
            Err(damage @ (OpenError::Damaged { .. } | OpenError::LostTail { .. })) => {
                let kept = self.dir.kept();
                let copy = self.dir.path().join("look.new");
                let sound = kept.exists() && {
                    let sound = self.look_at(&kept, &copy, sink, supported).is_ok();
                    let _ = fs::remove_dir_all(&copy);
                    sound
                };
                if !sound {
                    return Err(damage);
                }
                self.dir.restore(generation + 1).map_err(|error| self.fail(error))?;
                self.notes.push("put the database back as it was before it was last opened".to_owned());
                let found = self.first_look(generation + 1, sink, supported)?;
                (generation + 1, found)
            }
            looked => (generation, looked?),
        };
        if found.is_some() {
            let copy = self.dir.path().join("look.new");
            let kept = copy_tree(&self.dir.db(generation), &copy).and_then(|()| self.dir.keep(&copy));
            if let Err(error) = kept {
                let _ = fs::remove_dir_all(&copy);
                self.notes.push(format!("no copy is kept while the database is opened: {error}"));
            }
        }
        Ok((generation, found))
    }

    /// Reads a copy of the database to its end, if it is not too large for that.
    fn first_look(
        &mut self,
        generation: u32,
        sink: &mut dyn Sink,
        supported: u8,
    ) -> Result<Option<Found>, OpenError> {
        let original = self.dir.db(generation);
        let bytes = tree_bytes(&original).map_err(|error| self.fail(error))?;
        if bytes > self.options.first_look_max_bytes {
            return Ok(None);
        }
        let copy = self.dir.path().join("look.new");
        let result = self.look_at(&original, &copy, sink, supported);
        // A leftover is removed at the next open.
        let _ = fs::remove_dir_all(&copy);
        match result {
            // No room for a copy says nothing about the original.
            Err(OpenError::Io { source, .. }) if is_full(&source) => {
                self.notes.push("no room for a first look at a copy".to_owned());
                Ok(None)
            }
            result => result.map(Some),
        }
    }

    fn look_at(
        &self,
        original: &Path,
        copy: &Path,
        sink: &mut dyn Sink,
        supported: u8,
    ) -> Result<Found, OpenError> {
        let fail = |error| self.fail(error);
        copy_tree(original, copy).map_err(fail)?;
        let database = Database::open(copy, self.options.cache_bytes).map_err(fail)?;
        let slots = Head::new(&self.dir).read().map_err(fail)?;
        let mut look = Look { database, slots };
        let found = read(&mut look, sink, supported, self.place)?;
        look.check().map_err(fail)?;
        if !self.options.accept_any_witness {
            check_witness(&found, &self.seen, self.place)?;
        }
        Ok(found)
    }

    /// Copies what counts into a new database if the old one is mostly holes; says which is current then.
    fn rebuild_if_bloated(
        &mut self,
        generation: u32,
        looked: Option<Found>,
        sink: &mut dyn Sink,
        supported: u8,
    ) -> Result<u32, OpenError> {
        let path = self.dir.db(generation);
        let bytes = tree_bytes(&path).map_err(|error| self.fail(error))?;
        if bytes < self.options.rebuild_min_bytes {
            return Ok(generation);
        }
        let found = match looked {
            Some(found) => found,
            // The mark alone tells whether reading it all now, to read it all again later, is worth it.
            None if bytes / REBUILD_FACTOR <= self.live_bytes_of_mark(&path)? => return Ok(generation),
            None => self.look_in_place(&path, sink, supported)?,
        };
        let live = live_bytes(&found.state);
        if bytes / REBUILD_FACTOR <= live {
            return Ok(generation);
        }
        match self.rebuild(&path, generation + 1, &found, supported) {
            Ok(()) => {
                self.notes.push(format!("rebuilt the database: {bytes} bytes held {live}"));
                Ok(generation + 1)
            }
            Err(error) => {
                // The old one is as good as it was.
                let _ = fs::remove_dir_all(self.dir.unpublished(generation + 1));
                self.notes.push(format!("could not rebuild the database: {error}"));
                Ok(self.dir.current().map_err(|error| self.fail(error))?.unwrap_or(generation))
            }
        }
    }

    fn live_bytes_of_mark(&self, path: &Path) -> Result<u64, OpenError> {
        let database = Database::open(path, self.options.cache_bytes).map_err(|error| self.fail(error))?;
        let mark = read_mark(&mut Look { database, slots: Default::default() }, self.place)?;
        let (live_bytes, tally) = (mark.live_bytes, mark.tally);
        Ok(live_bytes_with(live_bytes, tally.rows))
    }

    fn look_in_place(&self, path: &Path, sink: &mut dyn Sink, supported: u8) -> Result<Found, OpenError> {
        let database = Database::open(path, self.options.cache_bytes).map_err(|error| self.fail(error))?;
        let found = read(&mut Look { database, slots: Default::default() }, sink, supported, self.place)?;
        if !self.options.accept_any_witness {
            check_witness(&found, &self.seen, self.place)?;
        }
        Ok(found)
    }

    fn rebuild(&self, from: &Path, to: u32, expected: &Found, supported: u8) -> Result<(), OpenError> {
        let fail = |error| self.fail(error);
        let path = self.dir.unpublished(to);
        let old = Database::open(from, self.options.cache_bytes).map_err(fail)?;
        let mut new = Database::open(&path, self.options.cache_bytes).map_err(fail)?;
        copy_pairs(&old, &mut new).map_err(fail)?;
        drop(old);
        let mut look = Look { database: new, slots: Default::default() };
        let copied = read(&mut look, &mut Count::default(), supported, self.place)?;
        look.check().map_err(fail)?;
        drop(look);
        let same = copied.state.reach() == expected.state.reach()
            && copied.state.chain() == expected.state.chain()
            && copied.state.tally == expected.state.tally;
        if !same {
            return Err(OpenError::damaged(self.place, "the rebuilt database is not the same"));
        }
        self.dir.publish(to).map_err(fail)
    }

    fn finish(self, generation: u32) -> Result<(SledStore, Vec<String>), OpenError> {
        let path = self.dir.db(generation);
        let database = Database::open(&path, self.options.cache_bytes).map_err(|error| self.fail(error))?;
        let head = Head::new(&self.dir);
        Ok((SledStore { database, head, dir: self.dir, generation }, self.notes))
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn live_bytes(state: &State) -> u64 {
    let pairs = state.tally.rows + state.commits.len() as u64;
    live_bytes_with(state.live_bytes + state.log_bytes, pairs)
}

fn live_bytes_with(bytes: u64, pairs: u64) -> u64 {
    bytes + pairs * PAIR_OVERHEAD_BYTES
}

fn copy_pairs(old: &Database, new: &mut Database) -> Result<(), StoreError> {
    let mut batch = Batch::default();
    let mut result = Ok(());
    old.scan(&[], &mut |key, value| {
        batch.ops.push(Op::Put(key.to_vec(), value.to_vec()));
        if batch.ops.len() >= COPY_BATCH_OPS {
            result = new.apply(std::mem::take(&mut batch));
        }
        if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    result?;
    new.apply(batch)?;
    new.flush()
}

/// What [`verify`] found.
#[derive(Debug)]
#[non_exhaustive]
pub struct VerifyReport {
    /// The database that counts, if there is one.
    pub database: Option<PathBuf>,
    /// Its size on disk.
    pub disk_bytes: u64,
    /// Records in the log, after the last checkpoint.
    pub records: u64,
    /// Group commits in the log.
    pub commits: u64,
    /// Bytes of log.
    pub log_bytes: u64,
    /// Materialised rows.
    pub rows: u64,
    /// How far the journal reaches, if it could be read.
    pub reach: Option<Reach>,
    /// The last record of the last checkpoint, and its commit.
    pub checkpoint: Option<(Seq, u64)>,
    /// How far the witness says that it had reached. `None`: there is no readable one.
    pub witness: Option<Reach>,
    /// Every export, and how many rows it holds or what is wrong with it.
    pub exports: Vec<(PathBuf, Result<u64, ExportError>)>,
    /// Why the journal would not open, if it would not. Records are not decoded, so a newer record version shows only at open.
    pub problem: Option<OpenError>,
}

/// Reads the whole journal in `dir`, on a copy, and says what is there. Changes nothing but leftovers
/// of its own; needs space for the copy. Only while nobody has the journal open.
///
/// Blocks.
///
/// # Errors
///
/// - [`OpenError::Locked`]: somebody has it open.
/// - [`OpenError::Io`]: there is no such directory, or it cannot be read. Damage is no error here but
///   [`VerifyReport::problem`].
pub fn verify(dir: &Path) -> Result<VerifyReport, OpenError> {
    let place = dir.display().to_string();
    let fail = |error| OpenError::store(&place, error);
    fs::metadata(dir).map_err(doing("looking at", dir)).map_err(fail)?;
    let locked = Dir::take(dir).map_err(fail)?;
    locked.clear_leftovers().map_err(fail)?;
    let exports = locked.exports().map_err(fail)?.into_iter().map(|path| {
        let rows = count_rows(&path);
        (path, rows)
    });
    let mut report = VerifyReport {
        database: None,
        disk_bytes: 0,
        records: 0,
        commits: 0,
        log_bytes: 0,
        rows: 0,
        reach: None,
        checkpoint: None,
        witness: None,
        exports: exports.collect(),
        problem: None,
    };
    let options = Options { first_look_max_bytes: u64::MAX, ..Options::default() };
    report.problem = look_for(&mut report, locked, &options, &place).err();
    Ok(report)
}

fn look_for(report: &mut VerifyReport, dir: Dir, options: &Options, place: &str) -> Result<(), OpenError> {
    let fail = |error| OpenError::store(place, error);
    let seen = witness::read_slots(&Head::new(&dir).read().map_err(fail)?, place)?;
    if let Seen::Mark(mark, _) = seen {
        report.witness = Some(mark.reach);
    }
    let Some(generation) = dir.current().map_err(fail)? else {
        let begun = match seen {
            Seen::Mark(mark, _) => mark.reach.lsn > 0 || mark.reach.epoch > 0,
            Seen::Unreadable => true,
            Seen::Absent => false,
        };
        if begun || !dir.exports().map_err(fail)?.is_empty() {
            return Err(OpenError::damaged(place, "there is no database"));
        }
        // Killed before its first database was there: the next open makes it.
        return Ok(());
    };
    report.disk_bytes = tree_bytes(&dir.db(generation)).map_err(fail)?;
    report.database = Some(dir.db(generation));
    // The witness is compared below, so that a lost tail does not hide what is there.
    let options = Options { accept_any_witness: true, ..options.clone() };
    let mut opening = Opening { dir, options: &options, place, seen, notes: Vec::new() };
    let mut count = Count::default();
    let found = opening.first_look(generation, &mut count, u8::MAX)?;
    (report.records, report.rows) = (count.records, count.rows);
    if let Some(found) = &found {
        report.reach = Some(found.state.reach());
        report.commits = found.state.commits.len() as u64;
        report.log_bytes = found.state.log_bytes;
        report.checkpoint = Some((found.state.mark.through, found.state.mark.lsn));
        return check_witness(found, &seen, place);
    }
    let source = io::Error::from(io::ErrorKind::StorageFull);
    Err(OpenError::store(place, StoreError::io("copying the database to look at it", source)))
}
