//! The other processes' side of the control socket.

use std::io;
use std::path::Path;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::{Request, Response, Selection};
use crate::os::home::{Home, connect_socket};

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The owner has closed the connection, died or been killed: whether the request was carried out
    /// is not known. Connect again, to it or its successor, and look.
    #[error("the session's owner went away")]
    Gone,
    /// The connection failed.
    #[error("the control socket failed: {0}")]
    Io(#[from] io::Error),
    /// The owner speaks another version.
    #[error("the session's owner answered something unknown to this version: {0}")]
    Unknown(#[from] serde_json::Error),
}

/// A connection to a session's owner.
#[derive(Debug)]
pub struct Client {
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
}

impl Client {
    /// Connects to the owner of the session in `dir`.
    ///
    /// # Errors
    ///
    /// `NotFound` or `ConnectionRefused`: nobody owns it (or not yet).
    #[expect(clippy::unused_async, reason = "it registers with the runtime, and may wait one day")]
    pub async fn connect(dir: impl AsRef<Path>) -> io::Result<Self> {
        let home = Home { dir: std::path::absolute(dir)? };
        let (read, write) = UnixStream::from_std(connect_socket(&home.socket())?)?.into_split();
        Ok(Self { read: BufReader::new(read), write })
    }

    /// Asks and waits for the answer.
    ///
    /// Cancellation: whether the request was carried out stays open, and the connection is of no more use: connect
    /// anew, and look.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub async fn call(&mut self, request: &Request) -> Result<Response, CallError> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.write.write_all(&line).await.map_err(gone)?;
        self.answer().await?.ok_or(CallError::Gone)
    }

    /// Turns the connection into a stream of events; see [`Request::Subscribe`].
    ///
    /// Cancellation: the connection is closed; what has happened can be asked for again.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub async fn subscribe(mut self, after: Option<u64>, jobs: Selection) -> Result<Subscription, CallError> {
        let mut line = serde_json::to_vec(&Request::Subscribe { after, jobs })?;
        line.push(b'\n');
        self.write.write_all(&line).await.map_err(gone)?;
        Ok(Subscription { client: self, line: Vec::new() })
    }

    async fn answer(&mut self) -> Result<Option<Response>, CallError> {
        let mut line = Vec::new();
        self.read_line(&mut line).await
    }

    /// Keeps what has arrived in `line`, so that a dropped call loses nothing.
    async fn read_line(&mut self, line: &mut Vec<u8>) -> Result<Option<Response>, CallError> {
        self.read.read_until(b'\n', line).await.map_err(gone)?;
        if line.last() != Some(&b'\n') {
            return Ok(None);
        }
        let response = serde_json::from_slice(line);
        line.clear();
        Ok(Some(response?))
    }
}

fn gone(error: io::Error) -> CallError {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => CallError::Gone,
        _ => CallError::Io(error),
    }
}

/// A stream of events.
#[derive(Debug)]
pub struct Subscription {
    client: Client,
    line: Vec<u8>,
}

impl Subscription {
    /// The next item; `None` when the owner has gone.
    ///
    /// Cancellation: dropping the future loses nothing; the next call goes on where it was.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub async fn next(&mut self) -> Result<Option<Response>, CallError> {
        self.client.read_line(&mut self.line).await
    }
}
