//! The seam under the journal: an ordered map with atomic batches and a flush that can be believed.
//!
//! What a store promises:
//!
//! - `apply` is atomic: after any crash a batch is there whole or not at all.
//! - after `flush` has returned `Ok`, every batch before it survives a power cut.
//! - after any error, whatever was not flushed before may be there or not.
//! - the witness lives beside the map, not in it: a write survives the end of the process at once,
//!   and a power cut after `witness_sync`.
//!
//! Invariant of its only caller: one thread at a time, and nothing is called again after an error.
//! A scan and a `get` see every batch that was applied, flushed or not.
//!
//! Absent on purpose: any knowledge of formats, and snapshots: one thread reads and writes.

use std::ops::ControlFlow;

use crate::error::StoreError;

#[cfg(feature = "mem")]
pub(crate) mod mem;

pub(crate) mod dir;
pub(crate) mod flush;
pub(crate) mod open;
pub(crate) mod sled;

/// One change of a [`Batch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Stores the value under the key, whatever was there.
    Put(Vec<u8>, Vec<u8>),
    /// Removes the key, if it is there.
    Remove(Vec<u8>),
}

/// Changes that happen all, in order, or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// The changes. A batch of one `Put` is what a store should make cheapest: it is a commit.
    pub ops: Vec<Op>,
}

impl Batch {
    /// A batch of one put.
    pub fn put(key: impl Into<Vec<u8>>, value: Vec<u8>) -> Self {
        Self { ops: vec![Op::Put(key.into(), value)] }
    }
}

/// Called for each pair of a scan, in the order that was asked for.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Where a journal keeps its bytes.
///
/// `apply` is atomic: after any crash a batch is there whole or not at all. After `flush` has returned
/// `Ok`, every batch before it survives a power cut. The witness lies beside the map: a write survives the end
/// of the process at once, and a power cut after `witness_sync`.
pub trait Store: Send {
    /// Makes the changes of `batch`, atomically. Not durable before [`Store::flush`].
    ///
    /// # Errors
    ///
    /// Any error means that the batch may be there or not, and that the store is done for.
    fn apply(&mut self, batch: Batch) -> Result<(), StoreError>;

    /// Makes every batch so far survive a power cut.
    ///
    /// # Errors
    ///
    /// Any error means that nothing is known about the batches since the last flush.
    fn flush(&mut self) -> Result<(), StoreError>;

    /// Shows every pair whose key is `from` or greater, in order, until `visit` breaks.
    ///
    /// # Errors
    ///
    /// If the store cannot be read to the end.
    fn scan(&mut self, from: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError>;

    /// Shows every pair whose key is less than `below`, the greatest key first, until `visit` breaks.
    ///
    /// # Errors
    ///
    /// If the store cannot be read to its beginning.
    fn scan_back(&mut self, below: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError>;

    /// The value under exactly this key.
    ///
    /// # Errors
    ///
    /// If the store cannot be read there.
    fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Looks after the store's surroundings, at open and at every checkpoint: the flush before it
    /// has returned, and what it needs outside of the map (directories, modes) is made durable.
    ///
    /// # Errors
    ///
    /// If the store cannot keep its promises where it is.
    fn check(&mut self) -> Result<(), StoreError>;

    /// The two slots of the witness, empty where nothing was ever written.
    ///
    /// # Errors
    ///
    /// If the witness cannot be read.
    fn witness_read(&mut self) -> Result<[Vec<u8>; 2], StoreError>;

    /// Overwrites one slot of the witness (0 or 1), without a sync.
    ///
    /// # Errors
    ///
    /// If the slot cannot be written.
    fn witness_write(&mut self, slot: u8, bytes: &[u8]) -> Result<(), StoreError>;

    /// Makes the witness survive a power cut.
    ///
    /// # Errors
    ///
    /// If it cannot; or if the store has learnt of a failed background write.
    fn witness_sync(&mut self) -> Result<(), StoreError>;

    /// Begins an export that will have this name. The file borrows nothing, so that the store can be
    /// read, and commits go on, while it is written.
    ///
    /// # Errors
    ///
    /// If it cannot. An error of an export, here or in the file, is the one kind that does not end the store.
    fn export_begin(&mut self, name: &str) -> Result<Box<dyn ExportFile>, StoreError>;
}

/// An export that is being written. Dropped before it is published, it leaves nothing behind.
pub trait ExportFile {
    /// Adds bytes to the end.
    ///
    /// # Errors
    ///
    /// If it cannot; drop the file then.
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError>;

    /// Writes `head` over the first bytes, which only the end could tell, and publishes the file: durably, and whole
    /// or not at all. Keeps the newest two.
    ///
    /// # Errors
    ///
    /// If it cannot. Unless only an older export could not be removed, no file of that name is new.
    fn publish(self: Box<Self>, head: &[u8]) -> Result<(), StoreError>;
}
