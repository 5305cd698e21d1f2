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
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

use crate::blocking::{block_on, lock, panic_text};
use crate::checkpoint::{self, Checkpoint, Row};
use crate::error::{AppendError, CheckpointError, CloseError, OpenError};
use crate::owner::{Core, Gauges, Line, Pending, Request, Worker};
use crate::record::{Record, Seq, encode_all};
use crate::recover::{Collect, Recovered, check_witness, read};
use crate::store::Store;
use crate::store::open::spoiled_by_opening;
use crate::store::open::{self, Options};
use crate::witness::{self, Seen};

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

/// What [`Journal::open`] saw on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenReport {
    /// The journal did not exist before.
    pub is_new: bool,
    /// The last record.
    pub last: Seq,
    /// The last record of the last checkpoint.
    pub checkpoint: Seq,
    /// A checkpoint was cut short: some rows may be newer than `checkpoint`. See [`Row::seq`].
    pub checkpoint_unfinished: bool,
    /// What a user may want to know: files that were removed, a rebuild.
    pub notes: Vec<String>,
}

/// An open journal, and everything that it held.
pub struct Opened<R: Record> {
    /// The handle.
    pub journal: Journal<R>,
    /// The materialised rows, in the order of their keys.
    pub rows: Vec<Row>,
    /// The records after the last checkpoint, in order and without a gap.
    pub tail: Vec<Recovered<R::Replayed>>,
    /// What was seen.
    pub report: OpenReport,
}

impl<R: Record> std::fmt::Debug for Opened<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened")
            .field("rows", &self.rows.len())
            .field("tail", &self.tail.len())
            .field("report", &self.report)
            .finish_non_exhaustive()
    }
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
        let place = dir.display().to_string();
        let dir = dir.to_path_buf();
        let wait = options.open_time_limit;
        let make = {
            let place = place.clone();
            move || {
                let (store, notes) = open::open::<R>(&dir, &options, &place)?;
                let started = start::<R>(Box::new(store), &place, options.accept_any_witness, notes);
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
        let place = "the given store".to_owned();
        match executor {
            Executor::Thread => {
                let at = place.clone();
                open_on_thread(move || start::<R>(store, &at, false, Vec::new()), place, None)
            }
            Executor::Inline => {
                let Started { core, rows, tail, report } = start::<R>(store, &place, false, Vec::new())?;
                let gauges = Arc::clone(&core.gauges);
                let shared = Arc::new(Shared { gauges, owner: Owner::Inline(Mutex::new(Some(core))) });
                let journal = Self { shared, record: PhantomData };
                Ok(Opened { journal, rows, tail, report })
            }
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

/// A journal that is read and ready to be written.
struct Started<R: Record> {
    core: Core,
    rows: Vec<Row>,
    tail: Vec<Recovered<R::Replayed>>,
    report: OpenReport,
}

/// Replays `store`, and only when all of it is sound writes to it: the witness, the self-check, leftovers.
fn start<R: Record>(
    mut store: Box<dyn Store>,
    place: &str,
    accept_any_witness: bool,
    mut notes: Vec<String>,
) -> Result<Started<R>, OpenError> {
    let seen = match witness::read(&mut *store, place)? {
        _ if accept_any_witness => Seen::Absent,
        seen => seen,
    };
    check_record_version::<R>(&seen, place)?;
    let mut collect = Collect::<R>::default();
    let found = read(&mut *store, &mut collect, R::VERSION, place)?;
    if !accept_any_witness {
        check_witness(&found, &seen, place)?;
    }
    if !found.stale.is_empty() {
        notes.push(format!("removed {} commits that a checkpoint covers", found.stale.len()));
    }
    let report = OpenReport {
        is_new: found.is_empty,
        last: found.state.reach().seq,
        checkpoint: found.state.mark.through,
        checkpoint_unfinished: found.state.tally != found.state.mark.tally
            || found.newest_row > found.state.mark.through,
        notes,
    };
    let core =
        Core::start(store, found, &seen, R::VERSION).map_err(|error| OpenError::store(place, error))?;
    Ok(Started { core, rows: collect.rows, tail: collect.tail, report })
}

pub(crate) fn check_record_version<R: Record>(seen: &Seen, place: &str) -> Result<(), OpenError> {
    match seen {
        Seen::Mark(mark, _) if mark.record_version > R::VERSION => Err(OpenError::NewerVersion {
            place: place.to_owned(),
            what: "a record",
            found: mark.record_version,
            supported: R::VERSION,
        }),
        Seen::Mark(..) | Seen::Absent | Seen::Unreadable => Ok(()),
    }
}

fn open_on_thread<R: Record>(
    make: impl FnOnce() -> Result<Started<R>, OpenError> + Send + 'static,
    place: String,
    wait: Option<Duration>,
) -> Result<Opened<R>, OpenError> {
    let (queue, requests) = channel();
    let (opened, answer) = channel();
    let body = move || {
        let started = match make() {
            Ok(started) => started,
            Err(error) => return drop(opened.send(Err(error))),
        };
        let Started { core, rows, tail, report } = started;
        let parts = (Arc::clone(&core.gauges), rows, tail, report);
        // Nobody waits any more: the opener gave up. Let go of the store.
        if opened.send(Ok(parts)).is_ok() {
            Worker { core, line: Line::new(requests) }.serve();
        }
    };
    let thread = thread::Builder::new().name("longhaul-journal".to_owned()).spawn(body);
    let thread = thread.map_err(|source| OpenError::Io {
        place: place.clone(),
        doing: "starting a thread".to_owned(),
        source,
    })?;
    let received = match wait {
        Some(wait) => answer.recv_timeout(wait),
        None => answer.recv().map_err(RecvTimeoutError::from),
    };
    let (gauges, rows, tail, report) = match received {
        Ok(result) => result?,
        Err(RecvTimeoutError::Timeout) => {
            let waited_s = wait.unwrap_or_default().as_secs();
            return Err(OpenError::Stuck { place, waited_s });
        }
        Err(RecvTimeoutError::Disconnected) => {
            let what = match thread.join() {
                Err(panic) => format!("reading it panicked: {}", panic_text(&*panic)),
                Ok(()) => "reading it ended without an answer".to_owned(),
            };
            return Err(OpenError::Damaged { place, what });
        }
    };
    let owner = Owner::Thread {
        queue: Mutex::new(Some(queue)),
        room: Arc::new(Semaphore::new(QUEUE_CALLS_MAX)),
        thread: Mutex::new(Some(thread)),
    };
    let journal = Journal { shared: Arc::new(Shared { gauges, owner }), record: PhantomData };
    Ok(Opened { journal, rows, tail, report })
}
