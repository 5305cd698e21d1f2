//! The byte path: file to request body, response body to file.
//!
//! Memory per transfer, whatever the file's size: an upload has at most [`READ_AHEAD`] pieces of
//! [`PIECE`] bytes in hand, a download at most [`QUEUE`] + 2 buffers of [`WRITE_BUFFER`] bytes: both
//! below 8 MiB with the connection's own. Exchanges side by side share that: each has smaller buffers.
//! Buffers are reused.
//!
//! Downloads keep data before journal: an extent is told to the protocol only after fdatasync of
//! the part file. Uploads in place are guarded: the source is checked after each piece was read and
//! before it is handed on, so the piece whose last byte commits the object leaves only after the
//! whole file was seen unchanged.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};
use tokio::sync::{OwnedRwLockReadGuard, RwLock, mpsc};

use super::staging::{SnapshotSource, changed, local};
use crate::job::ChecksumAlgorithm;
use crate::job::step::LocalFault;
use crate::ports::{Clock, Disk, File, NetErrorKind, Ports, ResponseBody};
use crate::schedule::limit::Bucket;

/// Bytes read from a snapshot at a time.
const PIECE: u64 = 256 << 10;
/// Pieces read ahead of the connection.
const READ_AHEAD: usize = 4;
/// Bytes gathered before a write.
const WRITE_BUFFER: usize = 1 << 20;
/// The same where many exchanges share it: fewer bytes are not worth a call.
const WRITE_BUFFER_MIN: usize = 64 << 10;
/// Full buffers that wait for the disk.
const QUEUE: usize = 2;
/// Bytes after which what was written is synced and journaled.
const SYNC_BYTES: u64 = 8 << 20;
/// Time after which it is, on slow lines.
const SYNC_SPAN: Duration = Duration::from_millis(500);
/// Bytes hashed at a time.
const HASH_BUFFER: usize = 1 << 20;

/// The last piece of a request that the server must not get by accident: either it leaves, or it is known never
/// to have left.
#[derive(Debug, Default)]
pub struct Tail(AtomicU8);

impl Tail {
    const OPEN: u8 = 0;
    const SENT: u8 = 1;
    const SEALED: u8 = 2;

    fn settle(&self, as_what: u8) -> bool {
        let settled = self.0.compare_exchange(Self::OPEN, as_what, Ordering::AcqRel, Ordering::Acquire);
        settled.map_or_else(|before| before == as_what, |_| true)
    }

    /// Lets it go, once; `false`: it is sealed, and must not.
    pub fn send(&self) -> bool {
        self.settle(Self::SENT)
    }

    /// Keeps it back from now on; `false`: it has left already.
    pub fn seal(&self) -> bool {
        self.settle(Self::SEALED)
    }
}

/// How far the exchanges of a job have come beyond what is journaled, for people.
#[derive(Debug, Default)]
pub struct Progress(Mutex<BTreeMap<u16, Range<u64>>>);

impl Progress {
    fn lanes(&self) -> MutexGuard<'_, BTreeMap<u16, Range<u64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An exchange begins to move bytes at this offset.
    pub fn begin(&self, lane: u16, offset: u64) {
        self.lanes().insert(lane, offset..offset);
    }

    /// Everything before this offset has been moved.
    pub fn reached(&self, lane: u16, offset: u64) {
        if let Some(moved) = self.lanes().get_mut(&lane) {
            moved.end = offset;
        }
    }

    /// Everything before this offset is told to the protocol.
    pub fn confirmed(&self, lane: u16, offset: u64) {
        if let Some(moved) = self.lanes().get_mut(&lane) {
            moved.start = offset;
        }
    }

    /// The exchange is over.
    pub fn end(&self, lane: u16) {
        self.lanes().remove(&lane);
    }

    /// Nothing is under way any more.
    pub fn clear(&self) {
        self.lanes().clear();
    }

    /// Bytes that have moved and are not yet told to the protocol.
    pub fn under_way(&self) -> u64 {
        self.lanes().values().map(|moved| moved.end.saturating_sub(moved.start)).sum()
    }
}

/// Keeps disk work of a halted transfer from overlapping with what comes after it.
///
/// Blocking calls cannot be aborted. Each holds the gate shared until it has really ended, what starts
/// anew first takes it alone, and a call that comes too late, after a halt, is not begun at all.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    lock: Arc<RwLock<()>>,
    stop: Arc<AtomicBool>,
}

impl Gate {
    /// For one blocking call; `None` after a halt.
    pub async fn enter(&self) -> Option<OwnedRwLockReadGuard<()>> {
        let held = Arc::clone(&self.lock).read_owned().await;
        (!self.stop.load(Ordering::Acquire)).then_some(held)
    }

    /// Whether no blocking call is under way.
    pub fn is_clear(&self) -> bool {
        self.lock.try_write().is_ok()
    }

    /// Resolves when no blocking call of before is under way any more.
    pub async fn cleared(&self) {
        drop(self.lock.write().await);
    }

    /// Turns away what has entered by clones of this gate; the gate itself is open again.
    pub fn halt(&mut self) {
        std::mem::take(&mut self.stop).store(true, Ordering::Release);
    }

    /// Heard by blocking calls that take long.
    pub fn stop(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }
}

/// Runs one blocking call on a file of this job.
pub async fn gated<T: Send + 'static>(
    ports: &Ports,
    gate: &Gate,
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let held = gate.enter().await.ok_or_else(|| io::Error::other("halted"))?;
    ports
        .block(move |_| {
            let result = call();
            drop(held);
            result
        })
        .await
}

/// How fast a job's bytes may go: by its own limit, and by that of all jobs together.
#[derive(Clone, Default)]
pub struct Pace {
    buckets: Vec<Arc<Mutex<Bucket>>>,
    clock: Option<Arc<dyn Clock>>,
}

impl std::fmt::Debug for Pace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pace").field("buckets", &self.buckets).finish_non_exhaustive()
    }
}

impl Pace {
    /// So many bytes a second; as fast as can be for `None`.
    pub fn new(rate: Option<u64>, ports: &Ports) -> Self {
        Self::default().with(rate, ports)
    }

    /// The same, and not above this rate either.
    pub fn with(&self, rate: Option<u64>, ports: &Ports) -> Self {
        let mut pace = self.clone();
        if let Some(rate) = rate {
            pace.buckets.push(Arc::new(Mutex::new(Bucket::new(rate, ports.clock.elapsed()))));
            pace.clock = Some(Arc::clone(&ports.clock));
        }
        pace
    }

    /// Waits until so many bytes may go.
    async fn leave(&self, bytes: u64) {
        let Some(clock) = &self.clock else { return };
        let now = clock.elapsed();
        let take = |bucket: &Arc<Mutex<Bucket>>| {
            bucket.lock().unwrap_or_else(PoisonError::into_inner).take(bytes, now)
        };
        let span = self.buckets.iter().map(take).max().unwrap_or_default();
        if !span.is_zero() {
            clock.sleep(span).await;
        }
    }

    /// The largest piece that keeps it smooth.
    fn piece(&self, most: u64) -> u64 {
        let piece =
            |bucket: &Arc<Mutex<Bucket>>| bucket.lock().unwrap_or_else(PoisonError::into_inner).piece();
        self.buckets.iter().map(piece).min().unwrap_or(most).min(most)
    }
}

/// Where a failing body leaves its reason: the connection only sees a broken stream.
pub type FaultSlot = Arc<Mutex<Option<LocalFault>>>;

/// Takes the reason, if there is one.
pub fn take_fault(slot: &FaultSlot) -> Option<LocalFault> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// A range of a snapshot on its way into a request.
pub struct Upload {
    /// Which exchange of the job it is for.
    pub lane: u16,
    /// The snapshot.
    pub file: Arc<dyn File>,
    /// The bytes to send.
    pub range: Range<u64>,
    /// Whose it is: a source in place is guarded.
    pub source: Arc<SnapshotSource>,
    /// Told as pieces are handed to the connection.
    pub progress: Arc<Progress>,
    /// How fast.
    pub pace: Pace,
    /// Told when the file fails.
    pub fault: FaultSlot,
}

impl Upload {
    /// The range as a stream of pieces.
    pub fn into_stream(self, ports: Ports) -> BoxStream<'static, io::Result<Bytes>> {
        let Self { lane, file, range, source, progress, pace, fault } = self;
        let pool = Pool::default();
        let piece_len = pace.piece(PIECE);
        let count = (range.end - range.start).div_ceil(piece_len);
        let mut reached = range.start;
        futures_util::stream::iter(0..count)
            .map(move |index| {
                let start = range.start + index * piece_len;
                let piece = start..(start + piece_len).min(range.end);
                let (file, pool, ports) = (Arc::clone(&file), pool.clone(), ports.clone());
                let (fault, source) = (Arc::clone(&fault), Arc::clone(&source));
                async move {
                    let read =
                        ports.block(move |disk| Ok(read_piece(disk, &*file, &piece, &source, &pool))).await?;
                    read.map_err(|why| {
                        let error = io::Error::other(format!("{why:?}"));
                        *fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                        error
                    })
                }
            })
            .buffered(READ_AHEAD)
            .then(move |piece| {
                let pace = pace.clone();
                async move {
                    if let Ok(piece) = &piece {
                        pace.leave(piece.len() as u64).await;
                    }
                    piece
                }
            })
            .inspect(move |piece| {
                if let Ok(piece) = piece {
                    reached += piece.len() as u64;
                    progress.reached(lane, reached);
                }
            })
            .boxed()
    }
}

fn read_piece(
    disk: &dyn Disk,
    file: &dyn File,
    piece: &Range<u64>,
    source: &SnapshotSource,
    pool: &Pool,
) -> Result<Bytes, LocalFault> {
    let mut buffer = pool.take((piece.end - piece.start) as usize);
    let mut filled = 0;
    while filled < buffer.len() {
        let got = file
            .read_at(&mut buffer[filled..], piece.start + filled as u64)
            .map_err(|error| source.fault(disk, &error))?;
        if got == 0 {
            return Err(LocalFault::SourceChanged("it became shorter under way".to_owned()));
        }
        filled += got;
    }
    if let Some(expected) = source.guard() {
        let now = file.fingerprint().map_err(|error| source.fault(disk, &error))?;
        if !now.same_content(expected) {
            return Err(changed(expected, &now));
        }
    }
    Ok(Bytes::from_owner(Pooled { buffer, pool: pool.clone() }))
}

/// Buffers that come back when the connection has sent them: fresh ones for every piece cost more
/// than the copying.
#[derive(Clone, Default)]
struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

impl Pool {
    fn take(&self, len: usize) -> Vec<u8> {
        let mut buffer = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        buffer.resize(len, 0);
        buffer
    }
}

struct Pooled {
    buffer: Vec<u8>,
    pool: Pool,
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        self.pool.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

/// A response body on its way into a part file.
pub struct Download {
    /// Which exchange of the job it is.
    pub lane: u16,
    /// The part file.
    pub file: Arc<dyn File>,
    /// First byte's place.
    pub offset: u64,
    /// Bytes to take, when known.
    pub limit: Option<u64>,
    /// The part file has its length already, and others write to it too.
    pub within: bool,
    /// How many exchanges share [`SYNC_BYTES`].
    pub share: u16,
    /// Told as bytes arrive.
    pub progress: Arc<Progress>,
    /// How fast.
    pub pace: Pace,
    /// The job's gate.
    pub gate: Gate,
}

/// How a body ended.
#[derive(Debug)]
pub enum End {
    /// All of it is durable; the last extent.
    Whole(Range<u64>),
    /// It broke off; the last extent that is durable (may be empty), and how.
    Lost(Range<u64>, NetErrorKind, String),
    /// The part file failed; what was told before is durable.
    Fault(LocalFault),
}

impl Download {
    /// Stores the body; `synced` is told each extent that has become durable on the way.
    pub async fn run(
        self,
        ports: &Ports,
        mut body: Box<dyn ResponseBody>,
        synced: impl FnMut(Range<u64>) + Send,
    ) -> End {
        let Self { lane, file, offset, limit, within, share, progress, pace, gate } = self;
        // Whatever lies past the journaled extents is not trusted, and must not outlive the end.
        let cut = Arc::clone(&file);
        if !within && let Err(error) = gated(ports, &gate, move || cut.set_len(offset)).await {
            return End::Fault(local(&error));
        }
        let sync_bytes = SYNC_BYTES / u64::from(share.max(1));
        let (full, queue) = mpsc::channel(QUEUE);
        let (empty, spare) = mpsc::channel(QUEUE + 2);
        let shape = (offset, limit, buffer_len(sync_bytes));
        let reader = read_body(&mut *body, shape, (&progress, lane), &pace, (full, spare), ports);
        let writer =
            Writer { ports, gate: &gate, file, position: offset, synced_to: offset, sync_bytes, synced };
        let (ended, written) = futures_util::future::join(reader, writer.run(queue, empty)).await;
        match (written, ended) {
            (Err(error), _) => End::Fault(part_fault(&error)),
            (Ok(extent), Ok(())) => End::Whole(extent),
            (Ok(extent), Err(lost)) => End::Lost(extent, lost.kind, lost.message),
        }
    }
}

/// A failed write or fsync of a part file: its pages may be gone, so only what was synced before
/// counts, and the next attempt writes from there.
fn part_fault(error: &io::Error) -> LocalFault {
    match local(error) {
        LocalFault::Fatal(why) => LocalFault::Transient(why),
        other => other,
    }
}

/// Four of them are in hand at most, and must not be more than what is synced at a time.
fn buffer_len(sync_bytes: u64) -> usize {
    usize::try_from(sync_bytes / 4).unwrap_or(WRITE_BUFFER).clamp(WRITE_BUFFER_MIN, WRITE_BUFFER)
}

async fn read_body(
    body: &mut dyn ResponseBody,
    (offset, limit, buffer_len): (u64, Option<u64>, usize),
    (progress, lane): (&Progress, u16),
    pace: &Pace,
    (full, mut spare): (mpsc::Sender<Vec<u8>>, mpsc::Receiver<Vec<u8>>),
    ports: &Ports,
) -> Result<(), crate::ports::NetError> {
    let mut buffer = Vec::with_capacity(buffer_len);
    let mut handed_over = ports.clock.elapsed();
    let mut left = limit.unwrap_or(u64::MAX);
    let mut reached = offset;
    let ended = loop {
        if left == 0 {
            break Ok(());
        }
        let mut chunk = match body.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) if limit.is_some() => {
                let message = format!("the body ended {left} bytes early");
                break Err(crate::ports::NetError { kind: NetErrorKind::Broken, message });
            }
            Ok(None) => break Ok(()),
            Err(lost) => break Err(lost),
        };
        if chunk.len() as u64 > left {
            chunk.truncate(left as usize);
        }
        pace.leave(chunk.len() as u64).await;
        left -= chunk.len() as u64;
        reached += chunk.len() as u64;
        progress.reached(lane, reached);
        while !chunk.is_empty() {
            let room = buffer_len - buffer.len();
            buffer.extend_from_slice(&chunk.split_to(room.min(chunk.len())));
            let now = ports.clock.elapsed();
            if buffer.len() == buffer_len || now.saturating_sub(handed_over) >= SYNC_SPAN {
                handed_over = now;
                let next = spare.try_recv().unwrap_or_else(|_| Vec::with_capacity(buffer_len));
                if full.send(std::mem::replace(&mut buffer, next)).await.is_err() {
                    // The writer failed, and says why.
                    return Ok(());
                }
            }
        }
    };
    if !buffer.is_empty() {
        let _writer_failed = full.send(buffer).await;
    }
    ended
}

struct Writer<'a, S> {
    ports: &'a Ports,
    gate: &'a Gate,
    file: Arc<dyn File>,
    position: u64,
    synced_to: u64,
    sync_bytes: u64,
    synced: S,
}

impl<S: FnMut(Range<u64>) + Send> Writer<'_, S> {
    /// Writes until the queue ends; gives the last extent, durable but not yet told.
    async fn run(
        mut self,
        mut queue: mpsc::Receiver<Vec<u8>>,
        empty: mpsc::Sender<Vec<u8>>,
    ) -> io::Result<Range<u64>> {
        let mut synced_at = self.ports.clock.elapsed();
        while let Some(buffer) = queue.recv().await {
            let (file, position) = (Arc::clone(&self.file), self.position);
            self.position += buffer.len() as u64;
            let mut buffer = gated(self.ports, self.gate, move || {
                file.write_all_at(&buffer, position)?;
                Ok(buffer)
            })
            .await?;
            buffer.clear();
            let _reader_is_done = empty.try_send(buffer);
            let now = self.ports.clock.elapsed();
            if self.position - self.synced_to >= self.sync_bytes || now.saturating_sub(synced_at) >= SYNC_SPAN
            {
                let extent = self.sync().await?;
                (self.synced)(extent);
                synced_at = now;
            }
        }
        self.sync().await
    }

    async fn sync(&mut self) -> io::Result<Range<u64>> {
        let file = Arc::clone(&self.file);
        gated(self.ports, self.gate, move || file.sync_data()).await?;
        let extent = self.synced_to..self.position;
        self.synced_to = self.position;
        Ok(extent)
    }
}

/// Hashes a range of a file, a buffer at a time, so that a halt is heard in between.
pub async fn hash(
    ports: &Ports,
    file: &Arc<dyn File>,
    range: Range<u64>,
    algorithm: ChecksumAlgorithm,
) -> io::Result<Vec<u8>> {
    use sha1::Digest as _;
    let mut hasher: Box<dyn sha2::digest::DynDigest + Send> = match algorithm {
        ChecksumAlgorithm::Sha1 => Box::new(sha1::Sha1::new()),
        ChecksumAlgorithm::Sha256 => Box::new(sha2::Sha256::new()),
        ChecksumAlgorithm::Sha512 => Box::new(sha2::Sha512::new()),
    };
    let mut offset = range.start;
    let mut buffer = vec![0; HASH_BUFFER];
    while offset < range.end {
        let file = Arc::clone(file);
        let want = HASH_BUFFER.min((range.end - offset) as usize);
        let (got, back_hasher, back_buffer) = ports
            .block(move |_| {
                let got = file.read_at(&mut buffer[..want], offset)?;
                hasher.update(&buffer[..got]);
                Ok((got, hasher, buffer))
            })
            .await?;
        (hasher, buffer) = (back_hasher, back_buffer);
        if got == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file became shorter while it was hashed",
            ));
        }
        offset += got as u64;
    }
    Ok(hasher.finalize().into_vec())
}

#[cfg(test)]
mod tests;
