//! The owner of the store: fills group commits, flushes, acknowledges; poison after any error.
//!
//! ```text
//! queue ─▶ fill ≤ 8 KiB ─▶ apply ─▶ flush ─▶ witness ─▶ answer every call that is complete ─▶ a slice of reads
//! ```
//!
//! Invariants: one thread at a time; a call is answered with `Ok` only after the flush and the witness of its last
//! record; after any error every call, waiting or to come, is answered with an error.
//! Absent on purpose: what the records are (frames come encoded), and `Committed`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::checkpoint::{self, Checkpoint};
use crate::error::{AppendError, CheckpointError, CloseError, ReadError, StoreError};
use crate::read::{Read, SLICE_COST};
use crate::record::{CommitHead, FRAMES_MAX, Kind, Seq, chain_after, commit_key, encode_commit, seal};
use crate::recover::{CommitAt, Found, KEY_FORMAT, KEY_OPENS, State};
use crate::store::{Batch, Op, Store};
use crate::witness::{Mark, Seen, Writer};

/// How stale the witness may be on disk.
const WITNESS_SYNC_EVERY: Duration = Duration::from_secs(1);

/// The same without a clock, for an executor without a thread.
const WITNESS_SYNC_COMMITS: u32 = 32;

/// What both sides of the queue can see.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    pub(crate) poisoned: AtomicBool,
    pub(crate) log_bytes: AtomicU64,
}

pub(crate) enum Request {
    Append(Pending),
    Read(Read),
    Checkpoint(Checkpoint, oneshot::Sender<Result<(), CheckpointError>>),
    Close(oneshot::Sender<Result<(), CloseError>>),
}

/// One call's records on their way through one or more commits.
pub(crate) struct Pending {
    frames: Vec<u8>,
    /// The length of each frame.
    lens: Vec<u16>,
    /// How many records, and how many bytes, are committed or in the commit that is being filled.
    taken: usize,
    taken_bytes: usize,
    first: Option<Seq>,
    reply: oneshot::Sender<Result<Seq, AppendError>>,
    /// A place in the queue, given back when the call is answered.
    _room: Option<OwnedSemaphorePermit>,
}

impl Pending {
    /// A call of `frames`, each as long as `lens` says.
    pub(crate) fn new(
        frames: Vec<u8>,
        lens: Vec<u16>,
        room: Option<OwnedSemaphorePermit>,
        reply: oneshot::Sender<Result<Seq, AppendError>>,
    ) -> Self {
        Self { frames, lens, taken: 0, taken_bytes: 0, first: None, reply, _room: room }
    }
}

/// The journal without its queue: the store, and what is known of it. One thread at a time.
pub(crate) struct Core {
    pub(crate) store: Box<dyn Store>,
    pub(crate) state: State,
    pub(crate) witness: Writer,
    pub(crate) gauges: Arc<Gauges>,
    record_version: u8,
    commits_since_sync: u32,
}

impl Core {
    pub(crate) fn start(
        mut store: Box<dyn Store>,
        found: Found,
        seen: &Seen,
        record_version: u8,
    ) -> Result<Self, StoreError> {
        let mut witness = Writer::after(seen);
        let mut state = found.state;
        let mark = Mark { record_version, reach: state.reach(), chain: state.chain() };
        // The witness first: a journal may lack a record that it speaks of, never the other way around.
        // It speaks of nothing yet that is not durable: what was read is flushed below before it is served.
        if found.is_empty || matches!(seen, Seen::Absent) {
            witness.write(&mut *store, &mark)?;
            witness.write(&mut *store, &mark)?;
            witness.sync(&mut *store)?;
        }
        state.opens += 1;
        let opens = seal(Kind::Meta, KEY_OPENS, &state.opens.to_be_bytes());
        let format = seal(Kind::Meta, KEY_FORMAT, &[]);
        let mut first = Batch::put(KEY_OPENS, opens);
        if found.is_empty {
            first.ops.push(Op::Put(KEY_FORMAT.to_vec(), format));
        }
        // A value that was never there before, so that the store has something to flush: the self-check.
        store.apply(first)?;
        store.flush()?;
        checkpoint::remove_keys(&mut *store, &found.stale)?;
        store.flush()?;
        store.check()?;
        witness.write(&mut *store, &mark)?;
        witness.sync(&mut *store)?;
        let gauges = Arc::new(Gauges::default());
        let core = Self { store, state, witness, gauges, record_version, commits_since_sync: 0 };
        core.publish_log_bytes();
        Ok(core)
    }

    pub(crate) fn is_poisoned(&self) -> bool {
        self.gauges.poisoned.load(Ordering::Acquire)
    }

    pub(crate) fn publish_log_bytes(&self) {
        self.gauges.log_bytes.store(self.state.log_bytes, Ordering::Relaxed);
    }

    /// Poisons the journal: from here on nothing is acknowledged.
    pub(crate) fn fail(&self, error: StoreError) -> Arc<StoreError> {
        self.gauges.poisoned.store(true, Ordering::Release);
        Arc::new(error)
    }

    pub(crate) fn write_witness(&mut self) -> Result<(), StoreError> {
        let mark = Mark {
            record_version: self.record_version,
            reach: self.state.reach(),
            chain: self.state.chain(),
        };
        self.witness.write(&mut *self.store, &mark)
    }

    /// Commits everything in `line`, in order, each commit as full as it gets.
    pub(crate) fn commit_all(&mut self, line: &mut VecDeque<Pending>) {
        while !line.is_empty() {
            self.commit_some(line);
        }
        // Without a clock, commits are counted.
        if self.commits_since_sync >= WITNESS_SYNC_COMMITS {
            self.sync_witness();
        }
    }

    /// One group commit from the front of `line`; answers the calls that are done with it.
    fn commit_some(&mut self, line: &mut VecDeque<Pending>) {
        if self.is_poisoned() {
            return refuse(line, &AppendError::Poisoned);
        }
        let first = Seq(self.state.reach().seq.0 + 1);
        let (frames, count) = fill(line, first);
        if let Err(error) = self.commit(first, &frames, count) {
            let source = self.fail(error);
            return refuse(line, &AppendError::Store { from: first, source });
        }
        self.commits_since_sync += 1;
        while line.front().is_some_and(|call| call.taken == call.lens.len())
            && let Some(done) = line.pop_front()
        {
            // The future may have been dropped; its records stay committed.
            let _ = done.reply.send(Ok(done.first.unwrap_or(first)));
        }
    }

    fn commit(&mut self, first: Seq, frames: &[u8], count: u16) -> Result<(), StoreError> {
        let before = self.state.reach();
        let head = CommitHead { lsn: before.lsn + 1, first, chain: self.state.chain(), count };
        let key = commit_key(head.lsn);
        let value = encode_commit(head, frames);
        let chain = chain_after(head.chain, &value);
        let len = (key.len() + value.len()) as u32;
        self.store.apply(Batch::put(key, value))?;
        self.store.flush()?;
        let last = Seq(before.seq.0 + u64::from(count));
        self.state.commits.push_back(CommitAt { lsn: head.lsn, last, chain, len });
        self.state.log_bytes += u64::from(len);
        self.publish_log_bytes();
        self.write_witness()
    }

    /// Syncs the witness if that would change anything; a failure poisons.
    fn sync_witness(&mut self) {
        self.commits_since_sync = 0;
        if self.is_poisoned() || !self.witness.unsynced() {
            return;
        }
        if let Err(error) = self.witness.sync(&mut *self.store) {
            self.fail(error);
        }
    }

    pub(crate) fn close(mut self) -> Result<(), CloseError> {
        if self.is_poisoned() {
            return Err(CloseError::Poisoned);
        }
        let result = self.witness.sync(&mut *self.store).and_then(|()| self.store.check());
        result.map_err(|error| CloseError::Store { source: self.fail(error) })
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // Whatever way the owner ends, also by a panic, nothing is acknowledged after it.
        if thread::panicking() {
            self.gauges.poisoned.store(true, Ordering::Release);
        }
    }
}

fn refuse(line: &mut VecDeque<Pending>, error: &AppendError) {
    for call in line.drain(..) {
        let _ = call.reply.send(Err(error.clone()));
    }
}

/// Takes frames from the front of `line` while they fit one commit. The first always does.
fn fill(line: &mut VecDeque<Pending>, first: Seq) -> (Vec<u8>, u16) {
    let mut frames = Vec::with_capacity(FRAMES_MAX);
    let mut count = 0_u16;
    for call in line {
        while let Some(&len) = call.lens.get(call.taken) {
            let len = usize::from(len);
            if frames.len() + len > FRAMES_MAX {
                return (frames, count);
            }
            call.first.get_or_insert(Seq(first.0 + u64::from(count)));
            frames.extend_from_slice(&call.frames[call.taken_bytes..call.taken_bytes + len]);
            call.taken += 1;
            call.taken_bytes += len;
            count += 1;
        }
    }
    (frames, count)
}

/// The owner thread: the only one that touches the store.
pub(crate) struct Worker {
    pub(crate) core: Core,
    pub(crate) line: Line,
}

/// What waits for the owner.
pub(crate) struct Line {
    requests: Receiver<Request>,
    appends: VecDeque<Pending>,
    reads: VecDeque<Read>,
    /// Requests that came while appends or a checkpoint were under way.
    others: VecDeque<Request>,
}

impl Line {
    pub(crate) fn new(requests: Receiver<Request>) -> Self {
        Self { requests, appends: VecDeque::new(), reads: VecDeque::new(), others: VecDeque::new() }
    }

    fn put(&mut self, request: Request) {
        match request {
            Request::Append(pending) => self.appends.push_back(pending),
            Request::Read(read) => self.reads.push_back(read),
            Request::Checkpoint(..) | Request::Close(_) => self.others.push_back(request),
        }
    }

    /// Takes in what has arrived, commits one group of it, and reads for one turn.
    fn serve_waiting(&mut self, core: &mut Core) {
        while let Ok(request) = self.requests.try_recv() {
            self.put(request);
        }
        if !self.appends.is_empty() {
            core.commit_some(&mut self.appends);
        }
        self.read_waiting(core);
    }

    /// Reads until a slice's worth is spent, the calls in turn, so that a long one does not hold up the short ones.
    fn read_waiting(&mut self, core: &mut Core) {
        let mut spent = 0;
        while spent < SLICE_COST
            && let Some(read) = self.reads.pop_front()
        {
            self.reads.extend(read.advance(core, &mut spent));
        }
    }
}

impl Worker {
    pub(crate) fn serve(mut self) {
        let mut synced = Instant::now();
        loop {
            self.line.serve_waiting(&mut self.core);
            if synced.elapsed() >= WITNESS_SYNC_EVERY {
                self.core.sync_witness();
                synced = Instant::now();
            }
            if !self.line.appends.is_empty() {
                continue;
            }
            match self.line.others.pop_front() {
                Some(Request::Close(reply)) => return self.close(reply),
                Some(request) => self.perform(request),
                None if !self.line.reads.is_empty() => {}
                None => match self.wait() {
                    Ok(request) => self.line.put(request),
                    Err(RecvTimeoutError::Timeout) => {}
                    // The last handle is gone; its drop waits for this thread.
                    Err(RecvTimeoutError::Disconnected) => return drop(self.core.close()),
                },
            }
        }
    }

    fn wait(&self) -> Result<Request, RecvTimeoutError> {
        if self.core.witness.unsynced() && !self.core.is_poisoned() {
            self.line.requests.recv_timeout(WITNESS_SYNC_EVERY)
        } else {
            self.line.requests.recv().map_err(RecvTimeoutError::from)
        }
    }

    fn perform(&mut self, request: Request) {
        match request {
            Request::Append(pending) => self.line.appends.push_back(pending),
            Request::Read(read) => self.line.reads.push_back(read),
            Request::Checkpoint(checkpoint, reply) => {
                let result = if self.core.is_poisoned() {
                    Err(CheckpointError::Poisoned)
                } else {
                    let line = &mut self.line;
                    checkpoint::run(&mut self.core, checkpoint, &mut |core| line.serve_waiting(core))
                };
                let _ = reply.send(result);
            }
            Request::Close(reply) => self.line.others.push_front(Request::Close(reply)),
        }
    }

    fn close(mut self, reply: oneshot::Sender<Result<(), CloseError>>) {
        // What was asked for before is answered before.
        while !self.line.reads.is_empty() {
            self.line.read_waiting(&mut self.core);
        }
        let Self { core, line: Line { requests, mut appends, .. } } = self;
        // `close` drops the store before it answers, so that whoever waits can open it again at once.
        let result = core.close();
        for request in requests.try_iter() {
            match request {
                Request::Append(pending) => appends.push_back(pending),
                Request::Read(read) => read.refuse(ReadError::Closed),
                // The end of their reply tells them.
                Request::Checkpoint(..) | Request::Close(_) => {}
            }
        }
        refuse(&mut appends, &AppendError::Closed);
        let _ = reply.send(result);
    }
}
