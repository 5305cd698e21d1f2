//! Starting: replay into the caller's sink, the first write, and the thread that owns the store from there on.
//!
//! ```text
//! store ─▶ replay ─▶ rows to the sink, records to the tail ─▶ witness compared ─▶ self-check ─▶ serve
//! ```
//!
//! Invariant: nothing is written before all of it has been found sound.
//! Absent on purpose: what a directory needs before its store can be replayed (`store::open`).

use std::marker::PhantomData;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::{Journal, Owner, QUEUE_CALLS_MAX, Shared};
use crate::blocking::panic_text;
use crate::checkpoint::Row;
use crate::error::OpenError;
use crate::owner::{Core, Line, Worker};
use crate::record::{Record, Seq};
use crate::recover::{Collect, Recovered, check_witness, read};
use crate::store::Store;
use crate::witness::{self, Seen};

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
    /// How many materialised rows there are.
    pub rows: u64,
    /// A checkpoint was cut short: some rows may be newer than `checkpoint`. See [`Row::seq`].
    pub checkpoint_unfinished: bool,
    /// What a user may want to know: files that were removed, a rebuild.
    pub notes: Vec<String>,
}

/// Takes the rows that an open finds: see [`Journal::open_into`].
pub trait RowSink: Send + 'static {
    /// Takes the next row. Each row has been checked by itself, and they come in the order of their keys, but the rest
    /// of the journal has not been read yet. It must not panic: that would count as damage.
    fn row(&mut self, row: Row);
}

impl RowSink for Vec<Row> {
    fn row(&mut self, row: Row) {
        self.push(row);
    }
}

/// An open journal, and everything that it held.
pub struct Opened<R: Record, S = Vec<Row>> {
    /// The handle.
    pub journal: Journal<R>,
    /// The materialised rows, in the order of their keys; or the sink that was given for them.
    pub rows: S,
    /// The records after the last checkpoint, in order and without a gap.
    pub tail: Vec<Recovered<R::Replayed>>,
    /// What was seen.
    pub report: OpenReport,
}

impl<R: Record, S> std::fmt::Debug for Opened<R, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened")
            .field("tail", &self.tail.len())
            .field("report", &self.report)
            .finish_non_exhaustive()
    }
}

/// A journal that is read and ready to be written.
pub(super) struct Started<R: Record, S> {
    core: Core,
    rows: S,
    tail: Vec<Recovered<R::Replayed>>,
    report: OpenReport,
}

impl<R: Record, S> Started<R, S> {
    /// Commits happen in the caller's calls.
    pub(super) fn inline(self) -> Opened<R, S> {
        let Self { core, rows, tail, report } = self;
        let gauges = Arc::clone(&core.gauges);
        let shared = Arc::new(Shared { gauges, owner: Owner::Inline(Mutex::new(Some(core))) });
        Opened { journal: Journal { shared, record: PhantomData }, rows, tail, report }
    }
}

/// Replays `store`, and only when all of it is sound writes to it: the witness, the self-check, leftovers.
pub(super) fn start<R: Record, S: RowSink>(
    mut store: Box<dyn Store>,
    place: &str,
    accept_any_witness: bool,
    mut notes: Vec<String>,
    rows: S,
) -> Result<Started<R, S>, OpenError> {
    let seen = match witness::read(&mut *store, place)? {
        _ if accept_any_witness => Seen::Absent,
        seen => seen,
    };
    check_record_version::<R>(&seen, place)?;
    let mut collect = Collect::<R, S> { rows, tail: Vec::new() };
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
        rows: found.state.tally.rows,
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

pub(super) fn open_on_thread<R: Record, S: RowSink>(
    make: impl FnOnce() -> Result<Started<R, S>, OpenError> + Send + 'static,
    place: String,
    wait: Option<Duration>,
) -> Result<Opened<R, S>, OpenError> {
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
