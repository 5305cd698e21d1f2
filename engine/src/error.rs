//! One error enum per operation; each variant says what the caller may do.

use std::io;
use std::path::PathBuf;

use crate::control::Response;
use crate::job::JobId;

/// Why a session did not open. Nothing was sent and nothing deleted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process owns it: talk to that one over the control socket, or stop it.
    #[error("the session {} is owned by another process{}", dir.display(), pid.map_or_else(String::new, |pid| format!(" (pid {pid})")))]
    Owned {
        /// The owner's process id, if its lock file tells.
        pid: Option<u32>,
        /// The session's directory.
        dir: PathBuf,
    },
    /// Neither a path nor a usable name.
    #[error("{0:?} is no session name: use a word, or a path with a slash (and HOME must be set for names)")]
    Name(String),
    /// The system refused something.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was tried.
        doing: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The journal contradicts itself or has lost its end. Left as it is.
    #[error("the journal is damaged: {text}")]
    Damaged {
        /// What was seen, where, and what to do.
        text: String,
    },
    /// The journal was written by a newer version. Left as it is.
    #[error("{text}")]
    NewerVersion {
        /// What was seen, where, and what to do.
        text: String,
    },
    /// The journal could not be read or written for want of the system.
    #[error("{0}")]
    Journal(String),
}

impl From<longhaul_journal::OpenError> for OpenError {
    fn from(error: longhaul_journal::OpenError) -> Self {
        use longhaul_journal::OpenError as Journal;
        let text = error.to_string();
        match error {
            Journal::Damaged { .. } | Journal::LostTail { .. } => Self::Damaged { text },
            Journal::NewerVersion { .. } => Self::NewerVersion { text },
            // Left behind by an owner that is just going: its session lock is free already.
            Journal::Locked { place } => Self::Owned { pid: None, dir: PathBuf::from(place) },
            _ => Self::Journal(text),
        }
    }
}

/// Why there is no job.
///
/// ```no_run
/// # async fn example(session: longhaul::Session) {
/// use longhaul::SubmitError;
///
/// match session.upload("/data/movie.mp4", "https://example.org/files/").await {
///     Ok(job) => println!("accepted as job {}", job.id()),
///     Err(SubmitError::Source { path, source }) => println!("{}: {source}", path.display()),
///     Err(SubmitError::Closed(why)) => println!("open the session again, then look: {why}"),
///     Err(error) => println!("{}: {error}", error.kind()),
/// }
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The source cannot be uploaded.
    #[error("cannot upload {}: {source}", path.display())]
    Source {
        /// The path as given.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The destination cannot be downloaded to.
    #[error("cannot download to {}: {why}", path.display())]
    Destination {
        /// The path as given.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The URL cannot be used.
    #[error("the URL cannot be used: {0}")]
    Url(String),
    /// Path and URL are too long for a journal record.
    #[error("{0}")]
    TooLarge(String),
    /// An option cannot be used as it is.
    #[error("{0}")]
    Option(String),
    /// The key belongs to another transfer, or its job was removed at this moment.
    #[error("{0}")]
    Key(String),
    /// The job's secrets could not be kept.
    #[error("{0}")]
    Secrets(String),
    /// The session is closing or its journal failed: whether the job was accepted is known when the
    /// session is opened again.
    #[error("{0}")]
    Closed(String),
}

impl SubmitError {
    /// A stable name, as the control socket tells it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Source { .. } => "source",
            Self::Destination { .. } => "destination",
            Self::Url(_) => "url",
            Self::TooLarge(_) => "too-large",
            Self::Option(_) => "option",
            Self::Key(_) => "key",
            Self::Secrets(_) => "secrets",
            Self::Closed(_) => "journal",
        }
    }

    /// What the loop refused.
    pub(crate) fn from_kind(kind: &str, text: String) -> Self {
        match kind {
            "too-large" => Self::TooLarge(text),
            "key" => Self::Key(text),
            "secrets" => Self::Secrets(text),
            _ => Self::Closed(text),
        }
    }
}

/// Why a job was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// It is in no state for that.
    #[error("job {id} was left as it is: {why}")]
    Left {
        /// The job.
        id: JobId,
        /// Why.
        why: String,
    },
    /// The session is closing or its journal failed.
    #[error("{0}")]
    Closed(String),
}

impl From<SessionClosed> for ChangeError {
    fn from(closed: SessionClosed) -> Self {
        Self::Closed(closed.0)
    }
}

/// The session is closing or its journal failed, as the text says: nothing more can be known of its jobs until it is
/// opened again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SessionClosed(pub String);

impl From<Response> for SessionClosed {
    /// For an answer to a look: only a session that ends gives another than was asked for.
    fn from(response: Response) -> Self {
        match response {
            Response::Refused { text, .. } => Self(text),
            other => Self(format!("the session gave an answer to another question: {other:?}")),
        }
    }
}
