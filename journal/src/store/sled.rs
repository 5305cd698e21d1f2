//! The store on sled 0.34.7, by the recipe that was measured. The only file that names sled.
//!
//! ```text
//! commit: one insert ─▶ flush (pwrite, fdatasync by the override) ─▶ syncs counted, failures looked for
//! ```
//!
//! Invariants: every call of sled is under `catch_unwind`; a flush counts only if an `fdatasync` was
//! seen and none has failed; nothing ever lies in `blobs/`, which sled does not sync.
//! Absent on purpose: sled's transactions (they deadlock), and trust in what it reports about loss.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::dir::{Dir, Head, NewExport, doing};
use super::flush::{self, Watch};
use super::{Batch, ExportFile, Op, Store, Visit};
use crate::blocking::panic_text;
use crate::error::StoreError;

const SEGMENT_BYTES: usize = 1024 * 1024;
/// Garbage collection and memory need it; durability does not.
const BACKGROUND_FLUSH_MS: u64 = 500;
/// How long sled may take to let go of an instance that was dropped.
const OWN_LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// Opens a database that nobody else can have, as the caller holds the directory's own lock.
///
/// sled's threads may keep an instance's lock for a moment after it was dropped; the one that this
/// process had open a moment ago (for the first look, or for a rebuild) is then in its own way.
fn open_patiently(config: &::sled::Config) -> Result<::sled::Db, StoreError> {
    let give_up = Instant::now() + OWN_LOCK_PATIENCE;
    loop {
        match guarded(|| config.open()) {
            Err(StoreError::Locked) if Instant::now() < give_up => thread::sleep(Duration::from_millis(10)),
            opened => return opened,
        }
    }
}

/// Runs one call of sled; neither its panics nor its errors get past here.
fn guarded<T>(call: impl FnOnce() -> ::sled::Result<T>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(translate(error)),
        Err(panic) => Err(StoreError::Panicked { message: panic_text(&*panic) }),
    }
}

fn translate(error: ::sled::Error) -> StoreError {
    match error {
        ::sled::Error::Io(source) => {
            let text = source.to_string();
            // sled makes errors of its own with no number of the system's; some of them carry one as text.
            if text.starts_with("could not acquire lock") {
                StoreError::Locked
            } else if source.raw_os_error().is_some() || text.contains("Os {") {
                StoreError::io("sled", source)
            } else {
                StoreError::damaged(format!("sled cannot read it: {text}"))
            }
        }
        ::sled::Error::Corruption { at, .. } => {
            StoreError::damaged(format!("sled found corruption at {at:?}"))
        }
        other @ (::sled::Error::CollectionNotFound(_)
        | ::sled::Error::Unsupported(_)
        | ::sled::Error::ReportableBug(_)) => StoreError::damaged(format!("sled: {other}")),
    }
}

/// sled in one directory, without a witness: what a first look and a rebuild need too.
pub(crate) struct Database {
    path: PathBuf,
    db: Option<::sled::Db>,
    watch: Arc<Watch>,
    /// The count of syncs when something was first written since the last flush.
    syncs_before: Option<u64>,
}

impl Database {
    pub(crate) fn open(path: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        remove_half_snapshots(path)?;
        let failures_before = flush::failures();
        let config = ::sled::Config::new()
            .path(path)
            .segment_size(SEGMENT_BYTES)
            .cache_capacity(cache_bytes)
            .flush_every_ms(Some(BACKGROUND_FLUSH_MS));
        let db = open_patiently(&config)?;
        let file = path.join("db");
        let watch = File::open(&file).and_then(|file| Watch::new(&file)).map_err(doing("watching", &file))?;
        let database = Self { path: path.to_path_buf(), db: Some(db), watch, syncs_before: None };
        // Nobody watched while sled opened. Any file's failure counts, for lack of knowing which.
        if flush::failures() != failures_before {
            let source = io::Error::other("a sync failed while it was opened");
            return Err(doing("opening", path)(source));
        }
        Ok(database)
    }

    fn db(&self) -> Result<&::sled::Db, StoreError> {
        self.db.as_ref().ok_or(StoreError::NotDurable { why: "the database is closed" })
    }

    pub(crate) fn apply(&mut self, batch: Batch) -> Result<(), StoreError> {
        self.syncs_before.get_or_insert(self.watch.syncs());
        let mut ops = batch.ops;
        // One insert is atomic alone and costs one sync; a batch costs two.
        if ops.len() == 1
            && let Some(op) = ops.pop()
        {
            let db = self.db()?;
            return guarded(|| match op {
                Op::Put(key, value) => db.insert(key, value).map(drop),
                Op::Remove(key) => db.remove(key).map(drop),
            });
        }
        let mut batch = ::sled::Batch::default();
        for op in ops {
            match op {
                Op::Put(key, value) => batch.insert(key, value),
                Op::Remove(key) => batch.remove(key),
            }
        }
        let db = self.db()?;
        guarded(|| db.apply_batch(batch))
    }

    pub(crate) fn flush(&mut self) -> Result<(), StoreError> {
        let db = self.db()?;
        guarded(|| db.flush())?;
        self.check_syncs()?;
        if let Some(before) = self.syncs_before.take()
            && flush::COUNTS
            && self.watch.syncs() == before
        {
            return Err(StoreError::NotDurable { why: "sled returned without a sync" });
        }
        Ok(())
    }

    /// sled only logs what fails in its background thread, and the kernel reports it once.
    fn check_syncs(&self) -> Result<(), StoreError> {
        if self.watch.has_failed() {
            let source = io::Error::other("an earlier sync of it failed");
            return Err(doing("syncing", &self.path)(source));
        }
        Ok(())
    }

    pub(crate) fn scan(&self, from: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let db = self.db()?;
        guarded(|| show(db.range(from..), visit))
    }

    pub(crate) fn scan_back(&self, below: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let db = self.db()?;
        guarded(|| show(db.range(..below).rev(), visit))
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let db = self.db()?;
        let value = guarded(|| db.get(key))?;
        Ok(value.map(|value| value.to_vec()))
    }

    /// What lies in `blobs/` was never synced. The limit on values keeps everything out of it.
    pub(crate) fn check_blobs(&self) -> Result<(), StoreError> {
        let blobs = self.path.join("blobs");
        let mut entries = fs::read_dir(&blobs).map_err(doing("listing", &blobs))?;
        match entries.next() {
            None => Ok(()),
            Some(Err(error)) => Err(doing("listing", &blobs)(error)),
            Some(Ok(_)) => Err(StoreError::damaged(format!("{} is not empty", blobs.display()))),
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let db = self.db.take();
        // It flushes again, but nothing depends on that any more. A panic in it is the end of it.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
    }
}

fn show(
    pairs: impl Iterator<Item = ::sled::Result<(::sled::IVec, ::sled::IVec)>>,
    visit: &mut Visit<'_>,
) -> ::sled::Result<()> {
    for pair in pairs {
        let (key, value) = pair?;
        if visit(&key, &value).is_break() {
            break;
        }
    }
    Ok(())
}

/// A kill while sled opens can leave a half snapshot, after which it never opens again.
fn remove_half_snapshots(path: &Path) -> Result<(), StoreError> {
    if !path.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(doing("listing", path))? {
        let entry = entry.map_err(doing("listing", path))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path()).map_err(doing("removing", &entry.path()))?;
        }
    }
    Ok(())
}

/// sled, its witness, and the directory around both.
pub(crate) struct SledStore {
    // In this order they are dropped: the lock goes last.
    pub(crate) database: Database,
    pub(crate) head: Head,
    pub(crate) dir: Dir,
    pub(crate) generation: u32,
}

impl Store for SledStore {
    fn apply(&mut self, batch: Batch) -> Result<(), StoreError> {
        self.database.apply(batch)
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.database.flush()
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
        self.database.check_blobs()?;
        self.dir.forget_kept()?;
        self.dir.remove_older(self.generation)?;
        self.dir.settle()?;
        self.database.check_syncs()
    }

    fn witness_read(&mut self) -> Result<[Vec<u8>; 2], StoreError> {
        self.head.read()
    }

    fn witness_write(&mut self, slot: u8, bytes: &[u8]) -> Result<(), StoreError> {
        self.head.write(slot, bytes)
    }

    fn witness_sync(&mut self) -> Result<(), StoreError> {
        self.head.sync()?;
        self.database.check_syncs()
    }

    fn export_begin(&mut self, name: &str) -> Result<Box<dyn ExportFile>, StoreError> {
        Ok(Box::new(NewExport::create(&self.dir, name)?))
    }
}
