//! The only ways out of the engine: network, disk, clock, randomness.
//!
//! The runner holds these and nothing else does: protocols and the job machine are pure. `os/` has
//! the real ports; a simulation brings its own (`tests/sim.rs`). Every method is one small act, so
//! that a simulation can lose, tear or refuse each of them.

use std::fmt;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use http::{HeaderMap, Method, StatusCode};

use crate::job::{Fingerprint, TransportOptions};
use crate::secret::Redacted;

/// A boxed future that can move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Everything the engine may touch.
#[derive(Clone)]
pub struct Ports {
    /// HTTP.
    pub net: Arc<dyn Net>,
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// Wall time and timers.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Where blocking disk calls run.
    pub blocking: Blocking,
}

/// Where blocking disk calls run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocking {
    /// On the runtime's blocking pool.
    Pool,
    /// In the caller: a simulation's disk never blocks, and its order must not depend on threads.
    #[cfg_attr(
        not(any(test, feature = "sim")),
        expect(dead_code, reason = "only simulations and tests make one")
    )]
    Inline,
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ports").field("blocking", &self.blocking).finish_non_exhaustive()
    }
}

impl Ports {
    /// Runs one blocking disk call off the runtime's workers.
    pub(crate) async fn block<T: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn Disk) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        match self.blocking {
            Blocking::Inline => call(&*self.disk),
            Blocking::Pool => {
                let disk = Arc::clone(&self.disk);
                tokio::task::spawn_blocking(move || call(&*disk))
                    .await
                    .unwrap_or_else(|lost| Err(io::Error::other(lost)))
            }
        }
    }
}

/// HTTP, one exchange at a time.
pub trait Net: Send + Sync + 'static {
    /// Sends one request; resolves when the final response head has arrived.
    ///
    /// Interim (1xx) heads are swallowed. Dropping the future or the response closes the exchange.
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, NetError>>;
}

/// One request, as it goes out.
pub struct HttpRequest {
    /// The method.
    pub method: Method,
    /// Absolute `http` or `https` URL.
    pub url: String,
    /// All headers but Host, Content-Length and those of the connection.
    pub headers: HeaderMap,
    /// The body.
    pub body: RequestBody,
    /// Follow redirects (GET and HEAD only; at most 10; never https to http; credentials stay on
    /// their origin). When false a 3xx is a reply like any other.
    pub follow_redirects: bool,
    /// How the connection is made.
    pub transport: Transport,
}

/// How a connection is made.
#[derive(Clone, Debug, Default)]
pub struct Transport {
    /// As the job has it.
    pub options: Arc<TransportOptions>,
    /// `name:password` for the proxy.
    pub proxy_user: Option<Redacted<String>>,
}

/// A request's body; its length is always known.
pub enum RequestBody {
    /// No body; `Content-Length: 0` where the method expects one.
    Empty,
    /// Bytes in memory.
    Bytes(Bytes),
    /// Exactly `len` bytes from a stream. An error of the stream aborts the connection, so that the
    /// server cannot take a short body for a whole one.
    Stream {
        /// Bytes, as announced in Content-Length.
        len: u64,
        /// The pieces.
        pieces: BoxStream<'static, io::Result<Bytes>>,
    },
}

/// A response whose head has arrived.
pub struct HttpResponse {
    /// Final status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// The URL that answered, after redirects.
    pub url: String,
    /// Whether the end of the body is marked (Content-Length, chunked, HTTP/2), so that one that was cut off
    /// cannot pass for whole.
    pub framed: bool,
    /// The body, still to be read.
    pub body: Box<dyn ResponseBody>,
}

/// A response body being read.
pub trait ResponseBody: Send {
    /// The next piece; `None` at the announced end. A body that ends early is an error.
    fn chunk(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, NetError>>;
}

/// Why an exchange brought no (whole) reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct NetError {
    /// What kind of loss.
    pub kind: NetErrorKind,
    /// For people: no secrets, no query strings.
    pub message: String,
}

/// What kind of loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetErrorKind {
    /// No connection was made: the server saw nothing (refused, a handshake that failed).
    Connect,
    /// There is no way to the server at the moment (no route, no name resolution, no free file handle): it
    /// saw nothing, and it is not its fault.
    Offline,
    /// Nothing moved for too long.
    Timeout,
    /// The connection broke: the server may have seen all, some or nothing.
    Broken,
    /// It broke, or was given up, before the end of the request was handed to it: the server cannot have the whole of
    /// it, whatever it does with a part.
    Cut,
    /// TLS refused the peer. Never retried without TLS.
    Tls,
    /// The engine's own rules refused it (redirect to another scheme, too many redirects, bad URL).
    Refused,
    /// The request body's own stream failed.
    Body,
}

impl NetErrorKind {
    /// Whether the server cannot have seen any of the request.
    pub fn is_unsent(self) -> bool {
        matches!(self, Self::Connect | Self::Offline)
    }
}

/// Files. Every method blocks; the engine calls it through its blocking pool.
pub trait Disk: Send + Sync + 'static {
    /// Follows symbolic links once and gives the real absolute path.
    fn resolve(&self, path: &Path) -> io::Result<PathBuf>;
    /// Opens a regular file read-only, without following a symbolic link at its end and without
    /// blocking on FIFOs or devices (`InvalidInput` for anything that is no regular file).
    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Opens an existing regular file of ours for reading and writing; no symbolic links.
    fn open_write(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Creates a new file, mode 0600; `AlreadyExists` if the name is taken.
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Renames, replacing the target. Both on one file system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames without ever replacing: `AlreadyExists` if the target is there.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; `NotFound` is an error like any other.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes names in the directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// The names in a directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;
    /// What stands at the path, not following a link at its end; `None` if nothing does.
    fn inspect(&self, path: &Path) -> io::Result<Option<Fingerprint>>;
    /// Whether the path is a directory (links followed).
    fn is_dir(&self, path: &Path) -> bool;
    /// The device number that a file of this path has or would have, told by the nearest of its directories
    /// that is there; 0 where that is unknown.
    fn device_of_nearest(&self, path: &Path) -> io::Result<u64> {
        let _ = path;
        Ok(0)
    }
    /// Bytes free to this user on the file system of the path.
    fn free_space(&self, path: &Path) -> io::Result<u64>;
}

/// An open file.
pub trait File: Send + Sync + 'static {
    /// Reads at an offset; fewer bytes than asked only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of the buffer at an offset.
    fn write_all_at(&self, buffer: &[u8], offset: u64) -> io::Result<()>;
    /// Makes the file's data (and the size that is needed to read it) durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Makes data and metadata durable.
    fn sync_all(&self) -> io::Result<()>;
    /// Sets the length.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Sets the length of an empty file and takes the space for it now, where the file system can: what is
    /// missing shows before the first byte. Reads as zeros.
    fn reserve(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }
    /// Identity and times, from the descriptor.
    fn fingerprint(&self) -> io::Result<Fingerprint>;
    /// Makes this (empty) file share the blocks of `source`; `Unsupported` where the file system
    /// cannot, and for a `source` that is not of this disk.
    fn clone_from(&self, source: &dyn File) -> io::Result<()>;
    /// The next range that holds data at or after `offset`; `None` when only a hole follows.
    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>>;
    /// Gives a private file the mode that any new file of this process has (0666 less the umask): it is
    /// about to become the user's.
    fn make_ordinary(&self) -> io::Result<()> {
        Ok(())
    }
    /// The descriptor, for system calls between two files of the same disk.
    fn raw_fd(&self) -> Option<i32> {
        None
    }
}

/// Wall time and timers.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch; may jump. Used for what people read and for deadlines
    /// that must survive a restart.
    fn now(&self) -> WallMs;
    /// Time since some start, time asleep included; never jumps back.
    fn elapsed(&self) -> Duration;
    /// Resolves after `span` of [`Clock::elapsed`].
    fn sleep(&self, span: Duration) -> BoxFuture<'static, ()>;
}

/// Milliseconds since the Unix epoch.
///
/// ```
/// use longhaul::{Submission, WallMs};
/// use std::time::{Duration, SystemTime};
///
/// let tonight = SystemTime::now() + Duration::from_secs(6 * 3600);
/// let upload = Submission::upload("/data/movie.mp4", "https://example.org/files/").not_before(tonight.into());
/// assert_eq!(WallMs::from(SystemTime::UNIX_EPOCH + Duration::from_secs(1)), WallMs(1000));
/// ```
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct WallMs(pub u64);

impl From<std::time::SystemTime> for WallMs {
    /// Times before the epoch are the epoch.
    fn from(time: std::time::SystemTime) -> Self {
        let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Randomness.
pub trait Entropy: Send + Sync + 'static {
    /// 128 unpredictable bits.
    fn token(&self) -> [u8; 16];
    /// 64 bits that seed one decision (jitter).
    fn seed(&self) -> u64;
}
