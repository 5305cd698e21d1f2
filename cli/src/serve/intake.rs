//! From the connection to the chunk: bodies of any size in bounded memory.
//!
//! ```text
//! body --frames--> feed (async) --blocks of 1 MiB, at most 8 waiting--> receive (own thread) --> Chunk
//! ```
//!
//! The two sides overlap: while the disk syncs, the next blocks arrive. A slow body is handed on once
//! a second, so that what trickles in is acknowledged too.
//!
//! Invariant: whatever ends the body (its end, a lost connection, a stall, a shutdown, a `DELETE`, the
//! disk), `receive` runs to its end and leaves the upload consistent; it does not depend on anybody
//! waiting for it.

use std::{pin::pin, sync::Arc, time::Duration};

use axum::body::{Body, BodyDataStream, Bytes, HttpBody as _};
use bytes::BytesMut;
use futures_util::StreamExt as _;
use tokio::{
    sync::{OwnedMutexGuard, mpsc},
    time::{Instant, timeout, timeout_at},
};

use super::{
    checksum::Checksum,
    chunk::{Chunk, End},
    reply::Refusal,
    store::Store,
    upload::{Upload, Writer},
};

const BLOCK_BYTES: usize = 1024 * 1024;
const BLOCKS_WAITING_MAX: usize = 8;
/// How long a byte may wait for others before it is made durable.
const LINGER: Duration = Duration::from_secs(1);
/// A refused body is read on for this long and this far, so that the client gets to see the reply
/// instead of a reset connection.
const DRAIN: Duration = Duration::from_secs(2);
const DRAIN_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// The body of a request.
pub struct Inflow {
    stream: BodyDataStream,
    exact_bytes: Option<u64>,
    /// The client waits for `100 Continue`, which the first read would send.
    expects_continue: bool,
}

enum Feed {
    Block(Bytes),
    Commit,
    End(End),
}

impl Inflow {
    pub fn new(body: Body, expects_continue: bool) -> Self {
        Self { exact_bytes: body.size_hint().exact(), stream: body.into_data_stream(), expects_continue }
    }

    pub fn is_empty(&self) -> bool {
        self.exact_bytes == Some(0)
    }

    /// Whether the announced length alone shows that the body does not fit.
    pub fn exceeds(&self, room: u64) -> bool {
        self.exact_bytes.is_some_and(|bytes| bytes > room)
    }

    /// Reads and forgets, in the background, while the refusal is on its way.
    pub fn drain(mut self) {
        if self.expects_continue || self.is_empty() {
            return;
        }
        tokio::spawn(timeout(DRAIN, async move {
            let mut bytes = 0;
            while let Some(Ok(frame)) = self.stream.next().await {
                bytes += frame.len() as u64;
                if bytes > DRAIN_MAX_BYTES {
                    break;
                }
            }
        }));
    }
}

/// Takes a body into an upload. The caller has checked that the upload is `Receiving` and that the
/// body begins at its offset.
pub async fn take(
    store: &Store,
    upload: &Arc<Upload>,
    writer: OwnedMutexGuard<Writer>,
    mut inflow: Inflow,
    checksum: Option<Checksum>,
) -> Result<(), Refusal> {
    let room = upload.length - upload.offset();
    if inflow.exceeds(room) {
        inflow.drain();
        return Err(Refusal::TooLarge);
    }
    let Ok(permit) = Arc::clone(&store.bodies).try_acquire_owned() else {
        inflow.drain();
        return Err(Refusal::Busy);
    };
    let (blocks, waiting) = mpsc::channel(BLOCKS_WAITING_MAX);
    let receiving = {
        let upload = Arc::clone(upload);
        tokio::task::spawn_blocking(move || {
            let _permit = permit; // held until the disk has what it shall have
            receive(upload, writer, checksum, waiting)
        })
    };
    inflow.expects_continue = false; // the first read sends it
    let end = feed(store, upload, &mut inflow.stream, room, &blocks).await;
    if let Some(end) = end {
        let _ = blocks.send(Feed::End(end)).await; // fails if the disk has refused already
    }
    drop(blocks);
    let received = receiving.await.unwrap_or(Err(Refusal::Internal));
    if end != Some(End::Whole) {
        inflow.drain();
    }
    received
}

/// Collects frames into blocks; `None` when the receiving side has given up.
async fn feed(
    store: &Store,
    upload: &Upload,
    stream: &mut BodyDataStream,
    room: u64,
    blocks: &mpsc::Sender<Feed>,
) -> Option<End> {
    let mut block = BytesMut::new();
    let mut taken = 0u64;
    let mut stall = Instant::now() + store.limits.body_stall;
    // When bytes that are not committed have waited long enough.
    let mut due: Option<Instant> = None;
    let (mut stopping, mut deleted) = (pin!(store.stopping()), pin!(upload.deleted()));
    let end = loop {
        let alarm = due.map_or(stall, |due| due.min(stall));
        let frame = tokio::select! {
            biased;
            () = &mut stopping => break End::Stopping,
            () = &mut deleted => break End::Deleted,
            () = blocks.closed() => return None,
            frame = timeout_at(alarm, stream.next()) => frame,
        };
        match frame {
            Ok(None) => break End::Whole,
            Ok(Some(Err(_))) => break End::Cut,
            Ok(Some(Ok(frame))) => {
                taken += frame.len() as u64;
                if taken > room {
                    block.clear();
                    break End::Overrun;
                }
                due = due.or_else(|| Some(Instant::now() + LINGER));
                push(&mut block, &frame, blocks).await?;
                stall = Instant::now() + store.limits.body_stall;
            }
            Err(_) if Instant::now() >= stall => break End::Stalled,
            Err(_) => {}
        }
        if due.is_some_and(|due| due <= Instant::now()) {
            due = None;
            if !block.is_empty() {
                blocks.send(Feed::Block(block.split().freeze())).await.ok()?;
            }
            blocks.send(Feed::Commit).await.ok()?;
            // A wait for the disk is not the client's fault.
            stall = Instant::now() + store.limits.body_stall;
        }
    };
    if !block.is_empty() {
        blocks.send(Feed::Block(block.freeze())).await.ok()?;
    }
    Some(end)
}

/// Adds a frame to the block, handing on what is full.
async fn push(block: &mut BytesMut, frame: &[u8], blocks: &mpsc::Sender<Feed>) -> Option<()> {
    let mut rest = frame;
    while !rest.is_empty() {
        if block.capacity() == 0 {
            block.reserve(BLOCK_BYTES);
        }
        let (now, later) = rest.split_at(rest.len().min(BLOCK_BYTES - block.len()));
        block.extend_from_slice(now);
        rest = later;
        if block.len() == BLOCK_BYTES {
            blocks.send(Feed::Block(std::mem::take(block).freeze())).await.ok()?;
        }
    }
    Some(())
}

fn receive(
    upload: Arc<Upload>,
    writer: OwnedMutexGuard<Writer>,
    checksum: Option<Checksum>,
    mut blocks: mpsc::Receiver<Feed>,
) -> Result<(), Refusal> {
    let mut chunk = Chunk::open(upload, writer, checksum)?;
    let end = loop {
        let done = match blocks.blocking_recv() {
            Some(Feed::Block(block)) => chunk.write(&block),
            Some(Feed::Commit) => chunk.commit(),
            Some(Feed::End(end)) => break end,
            None => break End::Cut,
        };
        if let Err(error) = done {
            blocks.close(); // stops the feed, which may be waiting for room
            return Err(chunk.give_up(error));
        }
    };
    chunk.finish(end)
}
