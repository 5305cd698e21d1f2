//! A store in memory whose disk can lose power: for simulations and tests.
//!
//! ```text
//! apply ─▶ pending batches ─flush─▶ durable map
//!               └─ crash(seed): each pending batch survives or not, as the seed says
//! ```
//!
//! Invariant: what was flushed is never forgotten; batches stay whole. Which of the unflushed
//! batches survive is arbitrary, also out of order: harder than sled, whose log survives as a prefix.
//! Absent on purpose: damage to what was flushed. Change [`MemDisk::map`] for that.

use std::collections::BTreeMap;
use std::io;
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Batch, ExportFile, Op, Store, Visit};
use crate::error::StoreError;
use crate::record::mix;

/// What of the store shall fail. See [`MemDisk::fail_after`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// [`Store::apply`].
    Apply,
    /// [`Store::flush`].
    Flush,
    /// [`Store::witness_write`] and [`Store::witness_sync`].
    Witness,
    /// [`Store::export_begin`], and everything of the file that it gives.
    Export,
    /// Any of them.
    Any,
}

/// How often the store was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counts {
    /// [`Store::apply`].
    pub applies: u64,
    /// [`Store::flush`].
    pub flushes: u64,
    /// [`Store::witness_write`].
    pub witness_writes: u64,
    /// [`Store::witness_sync`].
    pub witness_syncs: u64,
    /// [`ExportFile::publish`].
    pub exports: u64,
}

#[derive(Debug, Default)]
struct Disk {
    durable: BTreeMap<Vec<u8>, Vec<u8>>,
    pending: Vec<Batch>,
    /// What `pending` makes of its keys; `None` where it removes one.
    unflushed: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    witness_durable: [Vec<u8>; 2],
    witness: [Vec<u8>; 2],
    exports: BTreeMap<String, Vec<u8>>,
    /// Which process may use it; a crash ends the current one.
    process: u64,
    fault: Option<(Fault, u64)>,
    counts: Counts,
}

/// A disk that outlives the stores ("processes") that use it. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct MemDisk {
    disk: Arc<Mutex<Disk>>,
}

impl MemDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A store on this disk, for a new process. Stores from before a crash stay dead.
    pub fn store(&self) -> Box<dyn Store> {
        Box::new(MemStore { disk: self.clone(), process: self.lock().process })
    }

    /// Power cut: each batch, and each witness slot, that was not made durable survives or not, as
    /// `seed` says. Every store of this disk is dead from here on; injected faults are cleared.
    pub fn crash(&self, seed: u64) {
        self.end_process(seed, false);
    }

    /// The process is killed, the machine goes on: the witness is all there, of the unflushed batches
    /// an arbitrary part (sled holds them in its own memory until it writes them).
    pub fn kill(&self, seed: u64) {
        self.end_process(seed, true);
    }

    fn end_process(&self, seed: u64, keeps_page_cache: bool) {
        let mut rolls = (0_u64..).map(|n| mix(seed ^ mix(n.wrapping_add(1))) & 1 == 1);
        let mut survives = || rolls.next().unwrap_or(false);
        let mut disk = self.lock();
        disk.unflushed.clear();
        for batch in std::mem::take(&mut disk.pending) {
            if survives() {
                apply_to(&mut disk.durable, batch);
            }
        }
        for slot in 0..2 {
            if keeps_page_cache || survives() {
                let kept = disk.witness[slot].clone();
                disk.witness_durable[slot] = kept;
            } else {
                let old = disk.witness_durable[slot].clone();
                disk.witness[slot] = old;
            }
        }
        disk.process += 1;
        disk.fault = None;
    }

    /// Lets `calls` more calls of that kind succeed; the next one, and all after it, fail.
    ///
    /// A flush that fails leaves its batches pending: the next crash decides about them.
    pub fn fail_after(&self, fault: Fault, calls: u64) {
        self.lock().fault = Some((fault, calls));
    }

    /// No more injected faults. Journals that met one stay poisoned.
    pub fn heal(&self) {
        self.lock().fault = None;
    }

    /// How often the disk's stores were called.
    pub fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// The exports, by name.
    pub fn exports(&self) -> BTreeMap<String, Vec<u8>> {
        self.lock().exports.clone()
    }

    /// Everything durable, to be looked at or damaged.
    pub fn map<T>(&self, change: impl FnOnce(&mut BTreeMap<Vec<u8>, Vec<u8>>) -> T) -> T {
        change(&mut self.lock().durable)
    }

    /// The two slots of the witness, to be looked at or damaged.
    pub fn witness<T>(&self, change: impl FnOnce(&mut [Vec<u8>; 2]) -> T) -> T {
        let mut disk = self.lock();
        let result = change(&mut disk.witness);
        let witness = disk.witness.clone();
        disk.witness_durable = witness;
        result
    }

    /// A copy of the whole disk as it is: an old backup, to be put back later.
    #[must_use]
    pub fn copy(&self) -> Self {
        let disk = self.lock();
        let copy = Disk {
            durable: disk.durable.clone(),
            pending: disk.pending.clone(),
            unflushed: disk.unflushed.clone(),
            witness_durable: disk.witness_durable.clone(),
            witness: disk.witness.clone(),
            exports: disk.exports.clone(),
            process: disk.process,
            fault: None,
            counts: disk.counts,
        };
        Self { disk: Arc::new(Mutex::new(copy)) }
    }
}

fn apply_to(map: &mut BTreeMap<Vec<u8>, Vec<u8>>, batch: Batch) {
    for op in batch.ops {
        match op {
            Op::Put(key, value) => drop(map.insert(key, value)),
            Op::Remove(key) => drop(map.remove(&key)),
        }
    }
}

/// One changed key, or one stored pair.
type Change<'a> = (&'a [u8], Option<&'a [u8]>);

/// Shows what the two make together; where both know a key, the change counts. `comes_first` is the order of both.
fn merge<'a>(
    stored: impl Iterator<Item = Change<'a>>,
    changed: impl Iterator<Item = Change<'a>>,
    comes_first: fn(&[u8], &[u8]) -> bool,
    visit: &mut Visit<'_>,
) {
    let (mut stored, mut changed) = (stored.peekable(), changed.peekable());
    while let Some((key, value)) = next(&mut stored, &mut changed, comes_first) {
        if value.is_some_and(|value| visit(key, value).is_break()) {
            return;
        }
    }
}

fn next<'a>(
    stored: &mut Peekable<impl Iterator<Item = Change<'a>>>,
    changed: &mut Peekable<impl Iterator<Item = Change<'a>>>,
    comes_first: fn(&[u8], &[u8]) -> bool,
) -> Option<Change<'a>> {
    let (Some(old), Some(new)) = (stored.peek(), changed.peek()) else {
        return stored.next().or_else(|| changed.next());
    };
    if comes_first(old.0, new.0) {
        return stored.next();
    }
    if old.0 == new.0 {
        stored.next();
    }
    changed.next()
}

impl Disk {
    fn show(&self, range: (Bound<&[u8]>, Bound<&[u8]>), backwards: bool, visit: &mut Visit<'_>) {
        let stored = self.durable.range::<[u8], _>(range);
        let stored = stored.map(|(key, value)| (key.as_slice(), Some(value.as_slice())));
        let changed = self.unflushed.range::<[u8], _>(range);
        let changed = changed.map(|(key, value)| (key.as_slice(), value.as_deref()));
        if backwards {
            merge(stored.rev(), changed.rev(), |one, other| one > other, visit);
        } else {
            merge(stored, changed, |one, other| one < other, visit);
        }
    }
}

struct MemStore {
    disk: MemDisk,
    process: u64,
}

impl MemStore {
    /// The disk, if this process is alive and the call is not to fail.
    fn enter(&self, kind: Option<Fault>) -> Result<MutexGuard<'_, Disk>, StoreError> {
        self.disk.enter(self.process, kind)
    }
}

impl MemDisk {
    fn enter(&self, process: u64, kind: Option<Fault>) -> Result<MutexGuard<'_, Disk>, StoreError> {
        let mut disk = self.lock();
        if disk.process != process {
            return Err(StoreError::Dead);
        }
        if let Some((fault, left)) = &mut disk.fault
            && kind.is_some_and(|kind| *fault == Fault::Any || *fault == kind)
        {
            if *left == 0 {
                return Err(StoreError::io("injected", io::Error::other("this call was to fail")));
            }
            *left -= 1;
        }
        Ok(disk)
    }
}

impl Store for MemStore {
    fn apply(&mut self, batch: Batch) -> Result<(), StoreError> {
        let mut disk = self.enter(Some(Fault::Apply))?;
        disk.counts.applies += 1;
        for op in &batch.ops {
            match op {
                Op::Put(key, value) => drop(disk.unflushed.insert(key.clone(), Some(value.clone()))),
                Op::Remove(key) => drop(disk.unflushed.insert(key.clone(), None)),
            }
        }
        disk.pending.push(batch);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        let mut disk = self.enter(Some(Fault::Flush))?;
        disk.counts.flushes += 1;
        disk.unflushed.clear();
        for batch in std::mem::take(&mut disk.pending) {
            apply_to(&mut disk.durable, batch);
        }
        Ok(())
    }

    fn scan(&mut self, from: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.enter(None)?.show((Bound::Included(from), Bound::Unbounded), false, visit);
        Ok(())
    }

    fn scan_back(&mut self, below: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.enter(None)?.show((Bound::Unbounded, Bound::Excluded(below)), true, visit);
        Ok(())
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let disk = self.enter(None)?;
        Ok(match disk.unflushed.get(key) {
            Some(changed) => changed.clone(),
            None => disk.durable.get(key).cloned(),
        })
    }

    fn check(&mut self) -> Result<(), StoreError> {
        self.enter(None).map(drop)
    }

    fn witness_read(&mut self) -> Result<[Vec<u8>; 2], StoreError> {
        Ok(self.enter(None)?.witness.clone())
    }

    fn witness_write(&mut self, slot: u8, bytes: &[u8]) -> Result<(), StoreError> {
        let mut disk = self.enter(Some(Fault::Witness))?;
        disk.counts.witness_writes += 1;
        disk.witness[usize::from(slot)] = bytes.to_vec();
        Ok(())
    }

    fn witness_sync(&mut self) -> Result<(), StoreError> {
        let mut disk = self.enter(Some(Fault::Witness))?;
        disk.counts.witness_syncs += 1;
        let witness = disk.witness.clone();
        disk.witness_durable = witness;
        Ok(())
    }

    fn export_begin(&mut self, name: &str) -> Result<Box<dyn ExportFile>, StoreError> {
        drop(self.enter(Some(Fault::Export))?);
        let (disk, name) = (self.disk.clone(), name.to_owned());
        Ok(Box::new(MemExport { disk, process: self.process, name, image: Vec::new() }))
    }
}

struct MemExport {
    disk: MemDisk,
    process: u64,
    name: String,
    image: Vec<u8>,
}

impl ExportFile for MemExport {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        drop(self.disk.enter(self.process, Some(Fault::Export))?);
        self.image.extend_from_slice(bytes);
        Ok(())
    }

    fn publish(mut self: Box<Self>, head: &[u8]) -> Result<(), StoreError> {
        self.image.splice(..head.len().min(self.image.len()), head.iter().copied());
        let mut disk = self.disk.enter(self.process, Some(Fault::Export))?;
        disk.counts.exports += 1;
        disk.exports.insert(self.name.clone(), self.image);
        while disk.exports.len() > 2 {
            disk.exports.pop_first();
        }
        Ok(())
    }
}
