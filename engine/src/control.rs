//! The control socket: how other processes talk to a session's owner.
//!
//! One JSON value a line, each way; the socket stands in the session directory, mode 0600, and only
//! processes of the same user are heard. Requests are at most [`REQUEST_MAX`] bytes.
//! [`Session::call`](crate::Session::call) answers the same requests inside the owner, so that a
//! command line needs one code path for both.

pub(crate) mod client;
pub(crate) mod server;

use serde::{Deserialize, Serialize};

use crate::job::JobId;
use crate::session::Submission;
use crate::view::{Event, JobLog, JobView};

pub use client::{CallError, Client, Subscription};

/// Bytes of one request line at most.
pub const REQUEST_MAX: usize = 1 << 20;

/// What can be asked of an owner.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Request {
    /// Who is there? Answered by [`Response::Owner`].
    Owner,
    /// Accept a job. Answered by [`Response::Submitted`] once it is durable.
    Submit {
        /// What to transfer.
        submission: Box<Submission>,
    },
    /// The jobs, newest last. Answered by [`Response::Jobs`].
    List {
        /// Only these; all when `None`. Unknown ids are left out.
        ids: Option<Vec<JobId>>,
    },
    /// One job's history. Answered by [`Response::Log`].
    Log {
        /// Which.
        id: JobId,
    },
    /// Suspend. Answered by [`Response::Changed`] once durable and the bytes have stopped.
    Suspend {
        /// Which; every unfinished job when `None`.
        ids: Option<Vec<JobId>>,
    },
    /// Take up again what was suspended. Answered by [`Response::Changed`] once durable.
    Resume {
        /// Which; every suspended job when `None`.
        ids: Option<Vec<JobId>>,
    },
    /// Cancel. Answered by [`Response::Changed`] once durable; the clean-up may still be under way
    /// (the job is `failed` when it is done).
    Cancel {
        /// Which; every unfinished job when `None`.
        ids: Option<Vec<JobId>>,
    },
    /// Turn this connection into a stream of [`Response::Event`]; the first answer is
    /// [`Response::Jobs`] with all jobs as they are.
    Subscribe,
}

/// What an owner answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Response {
    /// The owner.
    Owner {
        /// Its process id.
        pid: u32,
    },
    /// Accepted and durable.
    Submitted {
        /// The new job.
        job: Box<JobView>,
    },
    /// Jobs.
    Jobs {
        /// In order of their numbers.
        jobs: Vec<JobView>,
    },
    /// A job's history.
    Log {
        /// The job and its history.
        log: Box<JobLog>,
    },
    /// What a request for several jobs did.
    Changed {
        /// The jobs it changed, as they are now.
        jobs: Vec<JobView>,
        /// Jobs it left as they were, and why (already ended, not suspended, …).
        skipped: Vec<Skipped>,
    },
    /// A job changed.
    Event {
        /// How.
        event: Box<Event>,
    },
    /// The subscriber was too slow and missed events: list again.
    Missed {
        /// How many.
        events: u64,
    },
    /// The request was not carried out.
    Refused {
        /// A stable name: `bad-request`, `unknown-job`, `source`, `destination`, `url`, `too-large`,
        /// `journal`.
        kind: String,
        /// What happened, to which file, what to do.
        text: String,
    },
}

/// A job that a request left alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Which.
    pub id: JobId,
    /// Why.
    pub why: String,
}
