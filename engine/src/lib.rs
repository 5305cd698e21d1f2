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
//! # Where to begin
//!
//! | to … | use |
//! |---|---|
//! | open, and find everything again | [`Session::open`], [`SessionOptions`] |
//! | hand in a job, or many | [`Session::submit`], [`Session::submit_all`], [`Submission`] |
//! | hold one | [`JobHandle`]: view, log, suspend, resume, cancel, retry, remove, wait |
//! | hold many | [`Session::select`], [`Session::page`], [`Session::count`], [`Session::suspend`] and the like, by [`Selection`](control::Selection) |
//! | hear what happens | [`Session::events`], and over restarts [`Session::events_after`] |
//! | end | [`Session::shutdown`], [`Session::closed`], [`Session::idled`] |
//! | talk to a session that another process has open | [`control::Client`] |
//! | look at a session that does not open | [`doctor`] |
//!
//! Examples that run as they stand (`cargo run -p longhaul --example NAME`):
//!
//! | name | what it shows |
//! |---|---|
//! | `background_upload` | hands files over, is killed, is started again and finds its uploads |
//! | `download_progress` | a line of progress; goes on after Ctrl-C without a handler for it |
//! | `kill_test` | an embedder's own test, which kills itself in mid-upload at offsets from a seed |
//! | `embed` | suspends a download, ends, and finds it again |
//!
//! # What to rely on
//!
//! **Cancellation.** Every future of this library can be dropped at any time: nothing is lost and nothing is stuck. A
//! change that was polled once is carried out whole; one that was never polled is not. What is uncertain after
//! dropping a submission is made certain by its key ([`Submission::key`]): submit it again. The one exception is the
//! other side of the control socket, [`control::Client::call`], after which one connects anew.
//!
//! **Errors.** One enum for each operation: [`OpenError`], [`SubmitError`], [`ChangeError`], and [`SessionClosed`] for
//! mere looks: a session that cannot know never answers "none".
//!
//! **Tracing.** The library never prints and never ends the process; it says what it does through `tracing`. What is
//! said of a job is in a span `job` with its `id`, `direction` and `host`. At `info`: accepted, suspended, resumed,
//! completed, failed, with the cause's name; at `debug` every other change, and each request's method, host and
//! status. Queries, headers and credentials are in none of them.
//!
//! **Features.** `sim`, and no other: the whole engine over simulated ports, for this crate's own tests; what it adds
//! is no part of the stable interface.
//!
//! On Linux the journal defines the C symbols `sync_file_range` and `fsync` for the whole process: see
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
    pub use crate::job::record::{Jobs, Record, archive_rows, live_rows, meta_row};
    pub use crate::job::step::Transition;
    pub use crate::job::{Core, Fingerprint, Job, JobSpec, Outcome, Phase, Proof, SuspendCause, Token};
    pub use crate::ports::*;
    pub use crate::protocol::ProtocolId;
    pub use crate::run::shelf::Survey;
}
