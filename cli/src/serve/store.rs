//! All uploads of one directory, and how they come back after a restart.
//!
//! At start, for every file of the state directory that is ours by name:
//!
//! ```text
//! record Receiving    part cut to the durable offset; nothing past it is trusted
//! record Publishing   publishing is finished (publish.rs)
//! record Complete     leftover part and mark removed
//! record unreadable   left alone, with its part and mark; its URL answers 404
//! no record           <id>.part, <id>.off and <id>.*.tmp removed
//! other names         left alone
//! ```
//!
//! Invariants: an upload that is not complete is in `live` from before its URL is told until it is
//! complete or deleted; a complete one is only on disk. Whoever changes anything holds an [`Entry`].

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::{
    Limits,
    dir::{DirLock, Root},
    mark::Mark,
    record::{Id, Record, State},
    reply::Refusal,
    upload::{Phase, Upload},
};

/// Bodies that may arrive at the same time; each holds a thread and a few blocks of memory.
const BODIES_MAX: u32 = 64;
const ENTRIES_MAX: u32 = 1024;

pub struct Store {
    pub root: Arc<Root>,
    pub limits: Limits,
    pub bodies: Arc<Semaphore>,
    entries: Arc<Semaphore>,
    live: Mutex<HashMap<Id, Arc<Upload>>>,
    lock: Weak<DirLock>,
    stop: watch::Receiver<bool>,
}

/// Keeps the directory locked while a request that changes it is under way.
pub struct Entry {
    // In this order: when the permit is back, the lock has been let go.
    _lock: Arc<DirLock>,
    _permit: OwnedSemaphorePermit,
}

impl Store {
    /// Recovers the uploads. Blocking.
    pub fn open(
        root: Root,
        lock: &Arc<DirLock>,
        limits: Limits,
        stop: watch::Receiver<bool>,
    ) -> io::Result<Self> {
        let root = Arc::new(root);
        let live = recover(&root)?;
        Ok(Self {
            root,
            limits,
            bodies: Arc::new(Semaphore::new(BODIES_MAX as usize)),
            entries: Arc::new(Semaphore::new(ENTRIES_MAX as usize)),
            live: Mutex::new(live),
            lock: Arc::downgrade(lock),
            stop,
        })
    }

    /// Refused once the server has stopped: the directory may belong to another by then.
    pub fn enter(&self) -> Result<Entry, Refusal> {
        if self.is_stopping() {
            return Err(Refusal::Stopping);
        }
        let permit = Arc::clone(&self.entries).try_acquire_owned().map_err(|_| Refusal::Busy)?;
        let lock = self.lock.upgrade().ok_or(Refusal::Stopping)?;
        Ok(Entry { _lock: lock, _permit: permit })
    }

    /// Returns when nobody changes the directory any more; to be called when stopping.
    pub async fn quiet(&self) {
        // The semaphores are never closed. Bodies are counted apart because their threads outlive
        // even a request that panics.
        let _entries = self.entries.acquire_many(ENTRIES_MAX).await;
        let _bodies = self.bodies.acquire_many(BODIES_MAX).await;
    }

    /// Returns when the server is to stop.
    pub async fn stopping(&self) {
        // A dropped sender means that the server is gone: stop, too.
        let _ = self.stop.clone().wait_for(|stop| *stop).await;
    }

    pub fn is_stopping(&self) -> bool {
        *self.stop.borrow() || self.stop.has_changed().is_err()
    }

    /// Makes a new upload durable; one of length zero is complete at once.
    pub async fn create(self: &Arc<Self>, record: Record) -> Result<Arc<Upload>, Refusal> {
        let store = Arc::clone(self);
        blocking(move || {
            let upload = Arc::new(Upload::create(&store.root, record)?);
            if upload.length == 0 {
                let mut writer = upload.lock_now().ok_or(Refusal::Internal)?;
                if let Err(error) = writer.complete(&upload) {
                    let _ = writer.remove(&upload); // nobody knows of it; the first error counts
                    return Err(error.into());
                }
            } else {
                store.live().insert(upload.id.clone(), Arc::clone(&upload));
            }
            Ok(upload)
        })
        .await
    }

    pub async fn find(self: &Arc<Self>, id: Id) -> Result<Arc<Upload>, Refusal> {
        if let Some(upload) = self.live().get(&id) {
            return Ok(Arc::clone(upload));
        }
        let store = Arc::clone(self);
        blocking(move || match Record::load(&store.root, &id) {
            Ok(Some(record)) if matches!(record.state, State::Complete { .. }) => {
                Ok(Arc::new(Upload::new(&store.root, id, record, 0)))
            }
            // Not live and not complete: being created, being deleted, or damaged.
            Ok(_) => Err(Refusal::NotFound),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(Refusal::NotFound),
            Err(error) => Err(error.into()),
        })
        .await
    }

    /// Removes an upload, ending a body that is arriving. An object it became stays.
    pub async fn remove(self: &Arc<Self>, upload: &Arc<Upload>) -> Result<(), Refusal> {
        upload.set_deleting(true);
        let Some(mut writer) = upload.lock(self.limits.lock_wait).await else {
            upload.set_deleting(false);
            return Err(Refusal::Locked);
        };
        let (store, upload) = (Arc::clone(self), Arc::clone(upload));
        blocking(move || {
            let removed = writer.remove(&upload);
            if writer.phase == Phase::Gone {
                store.forget(&upload.id);
            } else {
                upload.set_deleting(false);
            }
            Ok(removed?)
        })
        .await
    }

    /// A complete upload need not be kept in memory.
    pub fn forget(&self, id: &Id) {
        self.live().remove(id);
    }

    fn live(&self) -> MutexGuard<'_, HashMap<Id, Arc<Upload>>> {
        // The map is whole between any two of its operations, so a panic elsewhere does no harm.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs what waits for the disk off the threads that serve connections.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Refusal::Internal))
}

fn recover(root: &Arc<Root>) -> io::Result<HashMap<Id, Arc<Upload>>> {
    let names = root.state_names()?;
    let mut recorded = HashSet::new();
    let mut live = HashMap::new();
    for name in &names {
        let Some(id) = name.strip_suffix(".json").and_then(Id::parse) else {
            continue;
        };
        match restore(root, &id) {
            Ok(Some(upload)) => {
                live.insert(id.clone(), Arc::new(upload));
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(upload = %id, %error, "an upload is damaged; left alone"),
        }
        recorded.insert(id);
    }
    for name in names.iter().filter(|name| is_stray(name, &recorded)) {
        root.remove_state(name)?;
    }
    root.sync_state()?;
    Ok(live)
}

/// Whether a name is one that only this module makes, and belongs to nothing.
fn is_stray(name: &str, recorded: &HashSet<Id>) -> bool {
    let Some((id, kind)) = name.split_once('.') else {
        return false;
    };
    let Some(id) = Id::parse(id) else {
        return false;
    };
    match kind {
        "json.tmp" | "off.tmp" => true,
        "part" | "off" => !recorded.contains(&id),
        _ => false,
    }
}

/// Brings one upload to the state a client may see; `None` if it is complete.
fn restore(root: &Arc<Root>, id: &Id) -> io::Result<Option<Upload>> {
    let Some(record) = Record::load(root, id)? else {
        return Ok(None);
    };
    if matches!(record.state, State::Complete { .. }) {
        root.remove_state(&id.part())?;
        root.remove_state(&id.mark())?;
        return Ok(None);
    }
    let (mut mark, offset) = Mark::open(root, id)?;
    mark.reaffirm(offset)?;
    if record.state == State::Receiving {
        let part = root.open_state(&id.part())?;
        if part.metadata()?.len() < offset {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "acknowledged bytes are gone"));
        }
        part.set_len(offset)?;
    }
    let upload = Upload::new(root, id.clone(), record, offset);
    let mut writer = upload.lock_now().ok_or(io::ErrorKind::ResourceBusy)?;
    if writer.phase == Phase::Ready
        && let Err(error) = writer.complete(&upload)
    {
        // The disk is full, most likely: the next PATCH tries again.
        tracing::warn!(upload = %id, %error, "a complete upload could not be published yet");
    }
    let complete = writer.phase == Phase::Complete;
    drop(writer);
    Ok((!complete).then_some(upload))
}
