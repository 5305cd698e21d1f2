//! The journal: appends with group commit, poison, and [`Committed`], which is minted here only.
//!
//! ```text
//! append_all ─▶ queue ─▶ owner thread: fill ≤ 8 KiB ─▶ apply ─▶ flush ─▶ witness ─▶ acknowledge all
//!                                         └────────── any error ──────────▶ poison: nothing more, ever
//! ```
//!
//! Invariant: a [`Committed`] exists only for a record whose flush has returned without an error.
//! Absent on purpose: retries, and any way back from poison but to open again.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use tokio::sync::{Semaphore, oneshot};

use crate::blocking::{block_on, lock};
use crate::checkpoint::{self, Checkpoint, Row, RowKey};
use crate::error::{AppendError, CheckpointError, CloseError, OpenError, ReadError};
use crate::owner::{Core, Gauges, Pending, Request};
use crate::read::{Answer, FoundRows, Read, RowQuery};
use crate::record::{Record, Seq, encode_all};
use crate::store::Store;
use crate::store::open::spoiled_by_opening;
use crate::store::open::{self, Options};
use start::{open_on_thread, start};

mod start;

pub(crate) use start::check_record_version;
pub use start::{OpenReport, Opened, RowSink};

/// How many calls may wait in the queue; more wait outside of it, in the order they came.
const QUEUE_CALLS_MAX: usize = 1024;

/// Proof that `T` would survive a power cut. Minted only by [`Journal::append_all`].
///
/// Nobody else can make one:
///
/// ```compile_fail,E0451
/// let forged = longhaul_journal::Committed { seq: longhaul_journal::Seq(1), value: () };
/// ```
///
/// nor a second one from the first:
///
/// ```compile_fail,E0599
/// fn twice(once: longhaul_journal::Committed<u8>) {
///     let again = once.clone();
/// }
/// ```
///
/// nor one from what replay found:
///
/// ```compile_fail,E0308
/// fn redo(found: longhaul_journal::Recovered<u8>) -> longhaul_journal::Committed<u8> {
///     found
/// }
/// ```
#[derive(Debug)] // not Clone: one commit, one run of what it calls for
#[must_use = "dropping a committed record means that what it calls for waits until a restart"]
pub struct Committed<T> {
    seq: Seq,
    value: T,
}

impl<T> Committed<T> {
    /// The record's number.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// What was committed.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// What was committed; the proof ends here.
    pub fn into_value(self) -> T {
        self.value
    }
}

/// Where commits run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Executor {
    /// On one plain thread of the journal's own.
    Thread,
    /// In the caller's call, one at a time, without a clock: for deterministic simulation.
    Inline,
}

/// A handle to an open journal. Clones share it; dropping the last one closes it, and blocks until it is closed.
///
/// In async code prefer [`Journal::close`], which also tells of errors.
pub struct Journal<R: Record> {
    shared: Arc<Shared>,
    record: PhantomData<fn(R)>,
}

impl<R: Record> Clone for Journal<R> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), record: PhantomData }
    }
}

impl<R: Record> std::fmt::Debug for Journal<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("gauges", &self.shared.gauges).finish_non_exhaustive()
    }
}

struct Shared {
    gauges: Arc<Gauges>,
    owner: Owner,
}

enum Owner {
    Thread {
        queue: Mutex<Option<Sender<Request>>>,
        room: Arc<Semaphore>,
        thread: Mutex<Option<JoinHandle<()>>>,
    },
    Inline(Mutex<Option<Core>>),
}

impl<R: Record> Journal<R> {
    /// Opens the journal in the directory `dir`, or makes a new one there, and replays it.
    ///
    /// Blocks: call it from a plain thread, or a blocking one of your runtime. Nobody else may have
    /// the directory open; a lock in it makes sure.
    ///
    /// # Errors
    ///
    /// Each [`OpenError`] says what to do. After damage, a lost tail or a newer version the files are as
    /// they were, as long as the database fits [`Options::first_look_max_bytes`].
    pub fn open(dir: &Path, options: Options) -> Result<Opened<R>, OpenError> {
        Self::open_into(dir, options, Vec::new())
    }

    /// [`Journal::open`], with each row handed to `sink` as it is read instead of kept: for more rows than
    /// should lie in memory. The sink comes back as [`Opened::rows`].
    ///
    /// Rows come in the order of their keys, each checked by itself, and *before* the rest of the journal has been:
    /// after an error, whatever the sink did with them must be forgotten. They are told once, whatever looks the open
    /// takes at the database before. The sink runs on the journal's thread, within the time limit.
    ///
    /// # Errors
    ///
    /// As [`Journal::open`]. The sink is dropped.
    pub fn open_into<S: RowSink>(dir: &Path, options: Options, sink: S) -> Result<Opened<R, S>, OpenError> {
        let place = dir.display().to_string();
        let dir = dir.to_path_buf();
        let wait = options.open_time_limit;
        let make = {
            let place = place.clone();
            move || {
                let (store, notes) = open::open::<R>(&dir, &options, &place)?;
                let any_witness = options.accept_any_witness;
                let started = start::<R, S>(Box::new(store), &place, any_witness, notes, sink);
                started.map_err(|error| spoiled_by_opening(error, &dir, &place))
            }
        };
        open_on_thread(make, place, Some(wait))
    }

    /// Opens the journal in any [`Store`], with the commits where `executor` says.
    ///
    /// # Errors
    ///
    /// As [`Journal::open`].
    pub fn open_store(store: Box<dyn Store>, executor: Executor) -> Result<Opened<R>, OpenError> {
        Self::open_store_into(store, executor, Vec::new())
    }

    /// [`Journal::open_into`] in any [`Store`], with the commits where `executor` says.
    ///
    /// # Errors
    ///
    /// As [`Journal::open`]. The sink is dropped.
    pub fn open_store_into<S: RowSink>(
        store: Box<dyn Store>,
        executor: Executor,
        sink: S,
    ) -> Result<Opened<R, S>, OpenError> {
        let place = "the given store".to_owned();
        match executor {
            Executor::Thread => {
                let at = place.clone();
                open_on_thread(move || start::<R, S>(store, &at, false, Vec::new(), sink), place, None)
            }
            Executor::Inline => Ok(start::<R, S>(store, &place, false, Vec::new(), sink)?.inline()),
        }
    }

    /// Makes `values` durable, in order and with consecutive numbers, and proves it.
    ///
    /// Calls that wait at the same time share a flush. One commit holds up to 8 KiB, so a
    /// longer call takes several: if it fails, or the process dies before it returns, a *prefix* of its
    /// values may be there after a restart.
    ///
    /// Cancellation-safe: a dropped future was either not queued at all, or its records are
    /// committed all the same, in their place. Runs under any executor.
    ///
    /// # Errors
    ///
    /// - [`AppendError::TooLarge`]: nothing was written.
    /// - [`AppendError::Store`]: unknown what was written; restart to find out.
    /// - [`AppendError::Poisoned`]: refused because of an earlier failure.
    /// - [`AppendError::Closed`]: the journal was closed.
    ///
    /// # Source
    ///
    /// Promise relied on: [`Store::flush`]. Why a failed flush is never retried: Rebello et al.,
    /// "Can Applications Recover from fsync Failures?", USENIX ATC 2020.
    pub async fn append_all(&self, values: Vec<R>) -> Result<Vec<Committed<R>>, AppendError> {
        if self.is_poisoned() {
            return Err(AppendError::Poisoned);
        }
        if values.is_empty() {
            return Ok(Vec::new());
        }
        let (frames, lens) = encode_all(&values)?;
        let (reply, answer) = oneshot::channel();
        self.shared.append(frames, lens, reply).await?;
        // An owner that is gone without an answer has panicked.
        let first = answer.await.unwrap_or(Err(AppendError::Poisoned))?;
        let numbered = values.into_iter().zip(first.0..);
        Ok(numbered.map(|(value, seq)| Committed { seq: Seq(seq), value }).collect())
    }

    /// [`Journal::append_all`] for callers without an executor. Blocks the thread.
    ///
    /// # Errors
    ///
    /// As [`Journal::append_all`].
    pub fn append_all_blocking(&self, values: Vec<R>) -> Result<Vec<Committed<R>>, AppendError> {
        block_on(self.append_all(values))
    }

    /// Writes rows that reflect every record through `checkpoint.through`, and cuts the log there.
    ///
    /// Commits go on in between. Make one when [`Journal::log_bytes`] reaches about 8 MiB.
    ///
    /// # Errors
    ///
    /// - [`CheckpointError::RowTooLarge`], [`CheckpointError::Key`], [`CheckpointError::Through`]: nothing was written.
    /// - [`CheckpointError::Export`]: the checkpoint holds, the export is missing; the journal goes on.
    /// - [`CheckpointError::Store`], [`CheckpointError::Poisoned`]: restart. The old checkpoint or the new one holds.
    /// - [`CheckpointError::Closed`]: the journal was closed.
    pub async fn checkpoint(&self, checkpoint: Checkpoint) -> Result<(), CheckpointError> {
        checkpoint::validate(&checkpoint)?;
        if self.is_poisoned() {
            return Err(CheckpointError::Poisoned);
        }
        let (reply, answer) = oneshot::channel();
        match &self.shared.owner {
            Owner::Thread { .. } => {
                let sent = self.shared.send(Request::Checkpoint(checkpoint, reply));
                sent.map_err(|()| CheckpointError::Closed)?;
                answer.await.unwrap_or(Err(CheckpointError::Poisoned))
            }
            Owner::Inline(core) => {
                let mut core = lock(core);
                let core = core.as_mut().ok_or(CheckpointError::Closed)?;
                checkpoint::run(core, checkpoint, &mut |_| {})
            }
        }
    }

    /// [`Journal::checkpoint`] for callers without an executor. Blocks the thread.
    ///
    /// # Errors
    ///
    /// As [`Journal::checkpoint`].
    pub fn checkpoint_blocking(&self, checkpoint: Checkpoint) -> Result<(), CheckpointError> {
        block_on(self.checkpoint(checkpoint))
    }

    /// Reads rows of one table, in order.
    ///
    /// It sees what every finished checkpoint has put, and whatever one that is under way has put so far; never what is
    /// only in the log. The owner of the store reads between commits, a slice at a time, so that appends go on. A slice
    /// is 512 rows, or fewer if their values are above 1 KiB; a read of more may see a checkpoint
    /// come in between two slices.
    ///
    /// # Errors
    ///
    /// - [`ReadError::Key`]: nothing was read.
    /// - [`ReadError::Damaged`], [`ReadError::Store`]: the journal is poisoned by it; restart to find out.
    /// - [`ReadError::Poisoned`]: refused because of an earlier failure.
    /// - [`ReadError::Closed`]: the journal was closed.
    pub async fn rows(&self, query: RowQuery) -> Result<Vec<Row>, ReadError> {
        let (read, answer) = Read::scan(&query)?;
        Ok(self.shared.read(read, answer).await?.into_iter().flatten().collect())
    }

    /// [`Journal::rows`] for callers without an executor. Blocks the thread.
    ///
    /// # Errors
    ///
    /// As [`Journal::rows`].
    pub fn rows_blocking(&self, query: RowQuery) -> Result<Vec<Row>, ReadError> {
        block_on(self.rows(query))
    }

    /// Reads the rows under `keys`, in the order of the keys that are given; `None` where there is none. One
    /// trip to the owner of the store for all of them, and otherwise as [`Journal::rows`].
    ///
    /// # Errors
    ///
    /// As [`Journal::rows`].
    pub async fn get(&self, keys: Vec<RowKey>) -> Result<Vec<Option<Row>>, ReadError> {
        let (read, answer) = Read::keys(&keys)?;
        self.shared.read(read, answer).await
    }

    /// [`Journal::get`] for callers without an executor. Blocks the thread.
    ///
    /// # Errors
    ///
    /// As [`Journal::rows`].
    pub fn get_blocking(&self, keys: Vec<RowKey>) -> Result<Vec<Option<Row>>, ReadError> {
        block_on(self.get(keys))
    }

    /// The bytes of log that the next checkpoint could cut.
    pub fn log_bytes(&self) -> u64 {
        self.shared.gauges.log_bytes.load(Ordering::Relaxed)
    }

    /// Whether a commit or a sync has failed: from then on nothing is acknowledged, until the journal is opened again.
    pub fn is_poisoned(&self) -> bool {
        self.shared.gauges.poisoned.load(Ordering::Acquire)
    }

    /// Commits what is queued, syncs the witness, and lets go of the store. Other handles get `Closed`.
    ///
    /// # Errors
    ///
    /// [`CloseError`]: everything acknowledged is durable all the same.
    pub async fn close(self) -> Result<(), CloseError> {
        match &self.shared.owner {
            Owner::Thread { queue, thread, .. } => {
                let (reply, answer) = oneshot::channel();
                let sent = self.shared.send(Request::Close(reply));
                let answer = match sent {
                    Ok(()) => answer.await.unwrap_or(Err(CloseError::Poisoned)),
                    Err(()) => Ok(()),
                };
                lock(queue).take();
                // It has answered with its last words: this is short.
                join(&mut lock(thread));
                answer
            }
            Owner::Inline(core) => lock(core).take().map_or(Ok(()), Core::close),
        }
    }

    /// [`Journal::close`] for callers without an executor. Blocks the thread.
    ///
    /// # Errors
    ///
    /// As [`Journal::close`].
    pub fn close_blocking(self) -> Result<(), CloseError> {
        block_on(self.close())
    }
}

impl Shared {
    /// Queues a call, or commits it at once. Nothing is queued if the future is dropped before it is done.
    async fn append(
        &self,
        frames: Vec<u8>,
        lens: Vec<u16>,
        reply: oneshot::Sender<Result<Seq, AppendError>>,
    ) -> Result<(), AppendError> {
        match &self.owner {
            Owner::Thread { room, .. } => {
                let permit = Arc::clone(room).acquire_owned().await;
                let permit = permit.map_err(|_| AppendError::Closed)?;
                let pending = Pending::new(frames, lens, Some(permit), reply);
                self.send(Request::Append(pending)).map_err(|()| AppendError::Closed)
            }
            Owner::Inline(core) => {
                let mut core = lock(core);
                let core = core.as_mut().ok_or(AppendError::Closed)?;
                core.commit_all(&mut VecDeque::from([Pending::new(frames, lens, None, reply)]));
                Ok(())
            }
        }
    }

    async fn read(&self, read: Read, answer: Answer) -> Result<FoundRows, ReadError> {
        match &self.owner {
            Owner::Thread { .. } => self.send(Request::Read(read)).map_err(|()| ReadError::Closed)?,
            Owner::Inline(core) => {
                let mut core = lock(core);
                let core = core.as_mut().ok_or(ReadError::Closed)?;
                let mut next = Some(read);
                while let Some(read) = next {
                    next = read.advance(core, &mut 0);
                }
            }
        }
        // An owner that is gone without an answer has panicked.
        answer.await.unwrap_or(Err(ReadError::Poisoned))
    }

    fn send(&self, request: Request) -> Result<(), ()> {
        let Owner::Thread { queue, .. } = &self.owner else { return Err(()) };
        match &*lock(queue) {
            Some(queue) => queue.send(request).map_err(|_| ()),
            None => Err(()),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        match &mut self.owner {
            Owner::Thread { queue, thread, .. } => {
                // The owner sees the queue's end, commits what is in it and closes.
                lock(queue).take();
                join(&mut lock(thread));
            }
            Owner::Inline(core) => {
                // Nobody is left to tell of an error; everything acknowledged is durable.
                let _ = lock(core).take().map(Core::close);
            }
        }
    }
}

fn join(thread: &mut Option<JoinHandle<()>>) {
    if let Some(thread) = thread.take()
        // A waker may drop the last handle on the owner's own thread; it cannot wait for itself.
        && thread.thread().id() != thread::current().id()
    {
        // A panic there has already poisoned the journal.
        let _ = thread.join();
    }
}
