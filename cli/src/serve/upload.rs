//! One upload: what everybody may read of it, and what only its one writer may change.
//!
//! ```text
//! Receiving --all bytes synced--> Ready --published--> Complete
//!     |                             |
//!     +--------- deleted -----------+-----> Gone       (deleting Complete removes the record only)
//! ```
//!
//! Invariants: `offset` never decreases while the server lives, and a restart begins at or above
//! whatever was acknowledged; it equals `length` only when the object is published. In `Ready`
//! nothing is truncated any more: what is left to do is publishing.

use std::{
    fs::File,
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Mutex, OwnedMutexGuard, watch},
    time::timeout,
};

use super::{
    dir::Root,
    mark::Mark,
    publish::publish,
    record::{Id, Record, State},
};

pub struct Upload {
    pub id: Id,
    pub length: u64,
    pub metadata: Option<String>,
    /// Acknowledged: synced, and recorded durably in the mark file.
    offset: AtomicU64,
    /// The object's name, once complete.
    published: OnceLock<String>,
    writer: Arc<Mutex<Writer>>,
    /// Ends a body that is being received, for the sake of a `DELETE`.
    deleting: watch::Sender<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Receiving,
    Ready,
    Complete,
    Gone,
}

/// What one request at a time may change.
pub struct Writer {
    pub root: Arc<Root>,
    record: Record,
    pub phase: Phase,
    /// The part file may be longer than the offset; the excess counts for nothing.
    pub tail: bool,
    /// A sync of the mark file failed: what it says on disk is unknown.
    pub mark_stale: bool,
}

impl Upload {
    /// Makes a new upload durable; the record comes last, so that files without one are strays.
    pub fn create(root: &Arc<Root>, record: Record) -> io::Result<Self> {
        let id = Id::random()?;
        let created = root
            .create_state(&id.part())
            .and_then(|part: File| part.sync_all())
            .and_then(|()| Mark::create(root, &id))
            .and_then(|()| record.save(root, &id));
        if let Err(error) = created {
            for file in [id.record(), id.part(), id.mark()] {
                let _ = root.remove_state(&file); // what stays is removed at the next start
            }
            return Err(error);
        }
        Ok(Self::new(root, id, record, 0))
    }

    /// An upload as its record and its durable offset describe it.
    pub fn new(root: &Arc<Root>, id: Id, record: Record, offset: u64) -> Self {
        let published = OnceLock::new();
        let phase = match &record.state {
            State::Receiving if offset < record.length => Phase::Receiving,
            State::Receiving | State::Publishing { .. } => Phase::Ready,
            State::Complete { name } => {
                let _ = published.set(name.clone()); // empty until now
                Phase::Complete
            }
        };
        let offset = if phase == Phase::Complete { record.length } else { offset };
        Self {
            id,
            length: record.length,
            metadata: record.metadata.clone(),
            offset: AtomicU64::new(offset),
            published,
            writer: Arc::new(Mutex::new(Writer {
                root: Arc::clone(root),
                record,
                phase,
                tail: false,
                mark_stale: false,
            })),
            deleting: watch::Sender::new(false),
        }
    }

    /// The durable offset.
    pub fn offset(&self) -> u64 {
        self.offset.load(Ordering::Acquire)
    }

    /// To be called only when `offset` would survive a power cut.
    pub fn acknowledge(&self, offset: u64) {
        self.offset.fetch_max(offset, Ordering::AcqRel);
    }

    pub fn published(&self) -> Option<&str> {
        self.published.get().map(String::as_str)
    }

    /// Becomes the writer, unless another request stays it for longer than `wait`.
    pub async fn lock(&self, wait: Duration) -> Option<OwnedMutexGuard<Writer>> {
        timeout(wait, Arc::clone(&self.writer).lock_owned()).await.ok()
    }

    /// Becomes the writer of an upload that nobody else knows yet.
    pub fn lock_now(&self) -> Option<OwnedMutexGuard<Writer>> {
        Arc::clone(&self.writer).try_lock_owned().ok()
    }

    /// Asks the present writer to stop where it is.
    pub fn set_deleting(&self, deleting: bool) {
        self.deleting.send_replace(deleting);
    }

    /// Returns when the upload is being deleted.
    pub async fn deleted(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.deleting.subscribe().wait_for(|deleting| *deleting).await;
    }
}

impl Writer {
    /// Publishes the object, whose bytes are all synced, and only then acknowledges its length.
    pub fn complete(&mut self, upload: &Upload) -> io::Result<()> {
        self.phase = Phase::Ready;
        let name = publish(&self.root, &upload.id, &mut self.record)?;
        self.phase = Phase::Complete;
        let _ = upload.published.set(name); // set at most once: Complete is never left
        upload.acknowledge(upload.length);
        Ok(())
    }

    /// Removes the upload: its record first, so that what a kill leaves behind are strays.
    ///
    /// Never touches an object, not even the one this upload became.
    pub fn remove(&mut self, upload: &Upload) -> io::Result<()> {
        self.root.remove_state(&upload.id.record())?;
        self.root.sync_state()?;
        self.phase = Phase::Gone;
        self.root.remove_state(&upload.id.part())?;
        self.root.remove_state(&upload.id.mark())
    }
}
