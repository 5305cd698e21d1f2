//! A crash-safe, resumable file-transfer engine with a write-ahead journal.
//!
//! A [`Session`] is a directory with a journal. Jobs that it has accepted survive SIGKILL and power cut
//! at any instant; whoever opens the session next takes them up. See the repository's README for the
//! promise in full, and for which file systems it is given.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use longhaul::{Session, SessionOptions};
//!
//! let session = Session::open(SessionOptions::new("/var/lib/app/transfers")).await?;
//! let job = session.download("https://example.org/movie.mp4", "/data").await?;
//! let ended = job.wait().await?;
//! println!("{}: {}", ended.id, ended.state);
//! # Ok(()) }
//! ```
//!
//! The library never prints and never ends the process; it says what it does through `tracing`. On Linux
//! its journal defines the C symbols `sync_file_range` and `fsync` for the whole process: see
//! [`longhaul_journal`].
#![warn(missing_docs)]

pub mod control;
pub mod doctor;
mod error;
mod job;
#[expect(clippy::disallowed_methods, reason = "the real ports: the one place for clocks, files and sockets")]
mod os;
mod ports;
mod protocol;
mod run;
mod schedule;
mod secret;
mod session;
mod view;

pub use error::{ChangeError, OpenError, SessionClosed, SubmitError};
pub use job::{
    Checksum, ChecksumAlgorithm, Direction, Form, HistoryEntry, HttpOptions, JobId, JobState,
    PRIORITY_DEFAULT, PRIORITY_MAX, StageMode, TransportOptions,
};
pub use ports::WallMs;
pub use run::Closed;
pub use secret::{CredentialRef, Redacted, Secrets};
pub use session::{
    ATTEMPTS_MAX_DEFAULT, Changes, EventStream, JobHandle, Session, SessionOptions, Submission, Transfer,
    UploadProtocol, session_dir,
};
pub use view::{Cause, Event, JobLog, JobView};

/// What a simulation of the whole engine needs. Not part of the stable interface.
#[cfg(feature = "sim")]
pub mod sim {
    pub use crate::job::record::{Record, live_rows};
    pub use crate::job::step::Transition;
    pub use crate::job::{Fingerprint, Outcome, Phase};
    pub use crate::ports::*;
    pub use crate::run::shelf::Survey;
}
