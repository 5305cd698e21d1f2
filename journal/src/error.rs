//! One error enum per operation. A variant says what the caller may do next.
//!
//! Absent on purpose: retries. Nothing here is worth trying again without reopening.

use std::io;
use std::sync::Arc;

use crate::record::Seq;

/// Why a [`Store`](crate::Store) could not do what it was asked. The journal is poisoned by any of them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system refused a read, a write or a sync.
    #[error("{doing}: {source}")]
    Io {
        /// What was tried, with the file.
        doing: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The store's own files do not make sense.
    #[error("{what}")]
    Damaged {
        /// What was seen.
        what: String,
    },
    /// The store's code panicked; its state is unknown.
    #[error("the store panicked: {message}")]
    Panicked {
        /// The panic's text.
        message: String,
    },
    /// Another process, or another handle in this one, has the store.
    #[error("the store is in use")]
    Locked,
    /// A flush returned, but nothing reached the disk.
    #[error("a flush was not passed on to the disk: {why}")]
    NotDurable {
        /// What showed it.
        why: &'static str,
    },
    /// The store belongs to a process that has "crashed" (in-memory store only).
    #[error("the store's process is dead")]
    Dead,
}

impl StoreError {
    pub(crate) fn io(doing: impl Into<String>, source: io::Error) -> Self {
        Self::Io { doing: doing.into(), source }
    }

    pub(crate) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged { what: what.into() }
    }
}

/// Why a journal did not open. Nothing was served, and where damage was seen nothing was repaired.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Somebody else has it open: wait for them, or ask them.
    #[error("the journal in {place} is in use by another process: stop that one first")]
    Locked {
        /// The journal's directory.
        place: String,
    },
    /// The operating system refused. Clear the cause (space, permissions, a failing disk), then open again.
    #[error("cannot open the journal in {place}: {doing}: {source}")]
    Io {
        /// The journal's directory.
        place: String,
        /// What was tried, with the file.
        doing: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What is stored contradicts itself. Not opened; keep a copy, then repair from an export.
    #[error(
        "the journal in {place} is damaged: {what}. It was not opened; \
         keep a copy of the directory, then repair from the newest export"
    )]
    Damaged {
        /// The journal's directory.
        place: String,
        /// What was seen, with the file or the record.
        what: String,
    },
    /// The journal is sound as far as it goes, and ends before records that it had acknowledged.
    ///
    /// An old copy put back looks the same.
    #[error(
        "the journal in {place} has lost its end: it holds {found}, but {expected} was acknowledged. \
         It is an old copy, or the disk lost writes. It was not opened; \
         put the newest copy back, or repair from the newest export"
    )]
    LostTail {
        /// The journal's directory.
        place: String,
        /// How far the journal reaches.
        found: Reach,
        /// How far the witness says that it had reached.
        expected: Reach,
    },
    /// Written by a newer version. Nothing was changed; open it with that version.
    #[error(
        "the journal in {place} was written by a newer version \
         ({what} is version {found}, this program knows up to {supported}). \
         Nothing was changed; use the newer program"
    )]
    NewerVersion {
        /// The journal's directory.
        place: String,
        /// Which part is newer.
        what: &'static str,
        /// The version found.
        found: u8,
        /// The newest version this program reads.
        supported: u8,
    },
    /// The store did not finish opening in time. The thread is left behind: end the process.
    #[error(
        "opening the journal in {place} did not finish within {waited_s} s. \
         Restart the program; if it happens again, treat the journal as damaged"
    )]
    Stuck {
        /// The journal's directory.
        place: String,
        /// How long the caller waited.
        waited_s: u64,
    },
    /// The self-check failed: a flush of this build does not reach the disk.
    #[error(
        "flushes do not reach the disk in this build ({why}), so nothing in {place} could be kept safe. \
         Link longhaul-journal so that its `sync_file_range` replaces the C library's"
    )]
    NotDurable {
        /// The journal's directory.
        place: String,
        /// What showed it.
        why: &'static str,
    },
}

impl OpenError {
    pub(crate) fn store(place: &str, error: StoreError) -> Self {
        let place = place.to_owned();
        match error {
            StoreError::Io { doing, source } => Self::Io { place, doing, source },
            StoreError::Damaged { what } => Self::Damaged { place, what },
            StoreError::Panicked { message } => {
                Self::Damaged { place, what: format!("the store panicked over it: {message}") }
            }
            StoreError::Locked => Self::Locked { place },
            StoreError::NotDurable { why } => Self::NotDurable { place, why },
            StoreError::Dead => Self::Io {
                place,
                doing: "using the in-memory store".to_owned(),
                source: io::Error::other("its process is dead"),
            },
        }
    }

    pub(crate) fn damaged(place: &str, what: impl Into<String>) -> Self {
        Self::Damaged { place: place.to_owned(), what: what.into() }
    }
}

/// How far a journal reaches: its last commit, and its last checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// The number of the last group commit.
    pub lsn: u64,
    /// The number of the last record.
    pub seq: Seq,
    /// The number of the last checkpoint.
    pub epoch: u32,
}

impl std::fmt::Display for Reach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "record {} (commit {}, checkpoint {})", self.seq.0, self.lsn, self.epoch)
    }
}

/// Why nothing was committed. No [`Committed`](crate::Committed) exists for any value of the failed call.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// Nothing was written; the caller must split the record.
    #[error("record {index} of the call is {len} bytes, the limit is {max}")]
    TooLarge {
        /// Which of the call's values.
        index: usize,
        /// Its encoded length.
        len: usize,
        /// [`RECORD_MAX`](crate::RECORD_MAX).
        max: usize,
    },
    /// Whether the records from `from` on are durable is unknown; the journal is now poisoned. Reopen to find out.
    #[error("the journal could not commit record {}: {source}", from.0)]
    Store {
        /// The first record whose fate is unknown.
        from: Seq,
        /// What failed.
        #[source]
        source: Arc<StoreError>,
    },
    /// An earlier commit failed. Restart and recover; trying again cannot help.
    #[error("the journal is poisoned by an earlier failure; restart to recover")]
    Poisoned,
    /// The journal was closed.
    #[error("the journal is closed")]
    Closed,
}

/// Why a checkpoint was refused, or did not finish.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// Nothing was written; split the row.
    #[error("the value of row {key} is {len} bytes, the limit is {max}")]
    RowTooLarge {
        /// The row.
        key: String,
        /// Its length.
        len: usize,
        /// [`ROW_MAX`](crate::ROW_MAX).
        max: usize,
    },
    /// Nothing was written; the key is the journal's own, or its name is too long.
    #[error("{key} is not a row key: tables `m` and `w` are reserved, names hold at most {max} bytes")]
    Key {
        /// The key.
        key: String,
        /// [`NAME_MAX`](crate::NAME_MAX).
        max: usize,
    },
    /// Nothing was written; the rows speak of records that are not committed, or were checkpointed before.
    #[error("a checkpoint through record {} is not between {} and {}", through.0, from.0, last.0)]
    Through {
        /// What was asked for.
        through: Seq,
        /// The last checkpoint's record.
        from: Seq,
        /// The last committed record.
        last: Seq,
    },
    /// The checkpoint is in force, but its export was not written. The journal goes on.
    #[error("the checkpoint is in force, but its export was not written: {source}")]
    Export {
        /// What failed.
        #[source]
        source: Arc<StoreError>,
    },
    /// The store failed; the journal is now poisoned.
    #[error("the journal could not write a checkpoint: {source}")]
    Store {
        /// What failed.
        #[source]
        source: Arc<StoreError>,
    },
    /// An earlier commit failed. Restart and recover.
    #[error("the journal is poisoned by an earlier failure; restart to recover")]
    Poisoned,
    /// The journal was closed.
    #[error("the journal is closed")]
    Closed,
}

/// Why rows were not read.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Nothing was read; the key or the table is the journal's own, or the name is too long.
    #[error("{key} is not a row key: tables `m` and `w` are reserved, names hold at most {max} bytes")]
    Key {
        /// The key, or the table.
        key: String,
        /// [`NAME_MAX`](crate::NAME_MAX).
        max: usize,
    },
    /// A stored row does not hold together; the journal is now poisoned. Opening it again says what else is wrong.
    #[error("row {row} is damaged: {what}")]
    Damaged {
        /// The row.
        row: String,
        /// What was seen.
        what: String,
    },
    /// The store could not be read; the journal is now poisoned.
    #[error("the journal could not read its rows: {source}")]
    Store {
        /// What failed.
        #[source]
        source: Arc<StoreError>,
    },
    /// An earlier commit or read failed. Restart and recover.
    #[error("the journal is poisoned by an earlier failure; restart to recover")]
    Poisoned,
    /// The journal was closed.
    #[error("the journal is closed")]
    Closed,
}

/// Why a journal did not close cleanly. Everything acknowledged stays acknowledged.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// The last sync failed.
    #[error("the journal did not close cleanly: {source}")]
    Store {
        /// What failed.
        #[source]
        source: Arc<StoreError>,
    },
    /// The journal was poisoned before.
    #[error("the journal was poisoned by an earlier failure")]
    Poisoned,
}

/// Why an export could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The file could not be read.
    #[error("cannot read the export {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is cut short or changed; try the other export.
    #[error("the export {path} is damaged: {what}")]
    Damaged {
        /// The file.
        path: String,
        /// What was seen.
        what: &'static str,
    },
    /// A newer version wrote it.
    #[error("the export {path} is version {found}, this program knows {supported}")]
    NewerVersion {
        /// The file.
        path: String,
        /// The version found.
        found: u8,
        /// The version this program knows.
        supported: u8,
    },
}

/// Why a payload is not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The record was written by a newer program.
    #[error("record version {found} is not known")]
    Version {
        /// The version in the record's frame.
        found: u8,
    },
    /// The bytes are sound but mean nothing.
    #[error("not a record: {0}")]
    Malformed(String),
}
