//! A request body on its way out.
//!
//! Promises:
//!
//! - The announced length is the length sent, or the connection is aborted. The last bytes leave only
//!   after their stream has said that it ended well, so that a late refusal still takes the request
//!   back: a server never holds a whole body that its reader did not stand by.
//! - Every piece that the connection takes is a sign of life ([`Pulse::touch`]). Pieces are cut small,
//!   so that a slow line shows one within the no-progress span (64 KiB a minute: 1.1 KB/s).
//! - An exchange that was given up lets go of its stream at once and sends no further piece, even while
//!   its connection lives on: one that waits for a full peer does not look at its body for as long.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::abort::Cutter;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use futures_util::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

/// The most that is handed over at once.
pub(super) const PIECE: usize = 64 * 1024;

type Pieces = BoxStream<'static, io::Result<Bytes>>;

/// What both ends of one exchange share: its last sign of life, its body's stream, and its end.
pub(super) struct Pulse {
    start: Instant,
    /// Microseconds after `start`.
    touched: AtomicU64,
    ended: AtomicBool,
    waker: AtomicWaker,
    /// `None` when it has ended, or nobody wants it any more.
    pieces: Mutex<Option<Pieces>>,
    failure: OnceLock<String>,
}

impl Pulse {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            touched: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            pieces: Mutex::new(None),
            failure: OnceLock::new(),
        })
    }

    /// Something moved.
    pub(super) fn touch(&self) {
        let now = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.touched.fetch_max(now, Ordering::Relaxed);
    }

    /// When something last moved.
    pub(super) fn last(&self) -> Instant {
        self.start + Duration::from_micros(self.touched.load(Ordering::Relaxed))
    }

    /// Why the request body's own stream failed, if it did.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    fn pieces(&self) -> MutexGuard<'_, Option<Pieces>> {
        // A stream that panicked is dropped with its exchange, like any other.
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        self.ended.store(true, Ordering::Release);
        let pieces = self.pieces().take();
        // Outside of the lock: what it holds may have a say in its own end.
        drop(pieces);
        self.waker.wake();
    }

    fn fail(&self, error: io::Error) -> io::Error {
        // Only the first can have reached anyone.
        let _ = self.failure.set(error.to_string());
        error
    }
}

/// Ends the exchange when it is dropped: a request body that still moves is taken off the line.
/// One that has a connection of its own takes that down with it, buffers and all.
pub(super) struct Exchange {
    pub(super) pulse: Arc<Pulse>,
    pub(super) cutter: Cutter,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.cutter.cut();
        self.pulse.end();
    }
}

/// A body of known length.
pub(super) struct Outgoing {
    /// Whether the stream has said that nothing more comes.
    complete: bool,
    /// Taken from the stream, not yet handed over; never more than `left`.
    held: Bytes,
    /// Not yet handed over.
    left: u64,
    pulse: Arc<Pulse>,
}

impl Outgoing {
    pub(super) fn bytes(bytes: Bytes, pulse: Arc<Pulse>) -> Self {
        Self { complete: true, left: bytes.len() as u64, held: bytes, pulse }
    }

    pub(super) fn stream(len: u64, pieces: Pieces, pulse: Arc<Pulse>) -> Self {
        *pulse.pieces() = Some(pieces);
        Self { complete: false, held: Bytes::new(), left: len, pulse }
    }

    /// What may be handed over now: all but the last piece at once, that one when the stream has ended.
    fn next_piece(&mut self) -> Option<Bytes> {
        let len = self.held.len().min(PIECE);
        let is_last = len as u64 == self.left;
        if len == 0 || (is_last && !self.complete) {
            return None;
        }
        self.left -= len as u64;
        Some(self.held.split_to(len))
    }

    /// Takes one item from the stream.
    fn poll_pieces(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let expected = self.left - self.held.len() as u64;
        let polled = match &mut *self.pulse.pieces() {
            Some(pieces) => pieces.poll_next_unpin(cx),
            None => return Poll::Ready(Err(given_up())),
        };
        match ready!(polled) {
            None if expected > 0 => return Poll::Ready(Err(wrong_length(expected, "short"))),
            None => {
                self.complete = true;
                // What it holds (a file) is not needed while the reply is awaited.
                *self.pulse.pieces() = None;
            }
            Some(Err(error)) => return Poll::Ready(Err(error)),
            Some(Ok(piece)) if piece.len() as u64 > expected => {
                return Poll::Ready(Err(wrong_length(piece.len() as u64 - expected, "long")));
            }
            Some(Ok(piece)) if piece.is_empty() => {}
            // Nothing is held here: an item is only taken when it is needed, or to see the end.
            Some(Ok(piece)) => self.held = piece,
        }
        Poll::Ready(Ok(()))
    }
}

fn given_up() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the exchange was given up")
}

fn wrong_length(bytes: u64, how: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the request body is {bytes} bytes too {how}"))
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        this.pulse.waker.register(cx.waker());
        loop {
            if this.pulse.ended.load(Ordering::Acquire) {
                return Poll::Ready(Some(Err(given_up())));
            }
            if this.left == 0 && this.complete {
                return Poll::Ready(None);
            }
            if let Some(piece) = this.next_piece() {
                this.pulse.touch();
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if let Err(error) = ready!(this.poll_pieces(cx)) {
                return Poll::Ready(Some(Err(this.pulse.fail(error))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0 && self.complete
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::poll_fn;
    use futures_util::stream;
    use proptest::prelude::*;

    use super::*;

    async fn drain(mut body: Outgoing) -> (Vec<u8>, Option<String>) {
        let mut sent = Vec::new();
        loop {
            match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                None => return (sent, None),
                Some(Ok(frame)) => sent.extend_from_slice(&frame.into_data().unwrap()),
                Some(Err(error)) => return (sent, Some(error.to_string())),
            }
        }
    }

    fn body(len: u64, pieces: Vec<io::Result<Bytes>>) -> Outgoing {
        Outgoing::stream(len, stream::iter(pieces).boxed(), Pulse::new())
    }

    #[tokio::test]
    async fn the_last_bytes_wait_for_the_end_of_the_stream() {
        let refusal = || Err(io::Error::other("changed under way"));
        let (sent, error) = drain(body(4, vec![Ok("ab".into()), Ok("cd".into()), refusal()])).await;
        assert_eq!((sent.as_slice(), error.as_deref()), (&b"ab"[..], Some("changed under way")));
        let (sent, error) = drain(body(4, vec![Ok("abcd".into()), Ok(Bytes::new()), Ok("e".into())])).await;
        assert_eq!((sent.len(), error.as_deref()), (0, Some("the request body is 1 bytes too long")));
        let (sent, error) = drain(body(4, vec![Ok("abcd".into()), Ok(Bytes::new())])).await;
        assert_eq!((sent.as_slice(), error), (&b"abcd"[..], None));
    }

    #[tokio::test]
    async fn an_exchange_that_is_given_up_ends_a_waiting_body() {
        let pulse = Pulse::new();
        let body = Outgoing::stream(4, stream::pending().boxed(), Arc::clone(&pulse));
        let waiting = tokio::spawn(drain(body));
        tokio::task::yield_now().await;
        drop(Exchange { pulse: Arc::clone(&pulse), cutter: Cutter::default() });
        assert_eq!(waiting.await.unwrap().1.as_deref(), Some("the exchange was given up"));
        assert_eq!(pulse.failure(), None);
    }

    proptest! {
        #[test]
        fn a_body_is_whole_or_visibly_not(
            sizes in prop::collection::vec(0usize..100_000, 0..6),
            wrong in -2i64..=2,
        ) {
            let whole: Vec<u8> = (0..sizes.iter().sum()).map(|at: usize| (at % 251) as u8).collect();
            let mut rest = Bytes::from(whole.clone());
            let pieces = sizes.iter().map(|size| Ok(rest.split_to(*size))).collect();
            let len = (whole.len() as u64).saturating_add_signed(wrong);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (sent, error) = runtime.block_on(drain(body(len, pieces)));
            prop_assert!(whole.starts_with(&sent));
            prop_assert_eq!(error.is_none(), len == whole.len() as u64);
            prop_assert_eq!(error.is_none(), sent.len() as u64 == len);
        }
    }
}
