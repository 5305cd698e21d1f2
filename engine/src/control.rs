//! The control socket: how other processes talk to a session's owner.
//!
//! One JSON value a line, each way; the socket stands in the session directory, mode 0600, and only
//! processes of the same user are heard. Requests are at most [`REQUEST_MAX`] bytes.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use longhaul::control::{Client, Request, Response, Selection};
//!
//! let mut owner = Client::connect("/var/lib/app/transfers").await?;
//! match owner.call(&Request::Suspend { jobs: Selection::group("movies") }).await? {
//!     Response::Changed { changed, .. } => println!("{changed} jobs hold still"),
//!     other => println!("{other:?}"),
//! }
//! # Ok(()) }
//! ```
//!
//! [`Session::call`](crate::Session::call) answers the same requests inside the owner, so that a
//! command line needs one code path for both.

pub(crate) mod client;
pub(crate) mod server;

use serde::{Deserialize, Serialize};

use crate::job::{JobId, JobState};
use crate::ports::WallMs;
use crate::session::Submission;
use crate::view::{Event, JobLog, JobView};

pub use client::{CallError, Client, Subscription};

/// Bytes of one request line at most.
pub const REQUEST_MAX: usize = 1 << 20;

/// Jobs in one answer at most; ask again for those after it.
pub const PAGE_MAX: usize = 1000;

/// Submissions in one [`Request::SubmitAll`] at most.
pub const SUBMIT_MAX: usize = 1000;

/// Which jobs: those that pass every filter that is set. The default is all.
///
/// ```
/// use longhaul::JobState;
/// use longhaul::control::Selection;
///
/// let ended = Selection::group("movies").in_states([JobState::Completed, JobState::Failed]);
/// assert_eq!(ended.group.as_deref(), Some("movies"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Selection {
    /// With one of these numbers. Unknown ones are left out of lists, and told as skipped where something is to
    /// change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<JobId>>,
    /// Of this group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// In one of these states; any if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<JobState>,
    /// Moved since then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<WallMs>,
}

impl Selection {
    /// All jobs.
    pub fn all() -> Self {
        Self::default()
    }

    /// These jobs.
    pub fn ids(ids: impl IntoIterator<Item = JobId>) -> Self {
        Self { ids: Some(ids.into_iter().collect()), ..Self::default() }
    }

    /// The jobs of a group.
    pub fn group(group: impl Into<String>) -> Self {
        Self { group: Some(group.into()), ..Self::default() }
    }

    /// Whether a job is one of them.
    pub fn fits(&self, job: &JobView) -> bool {
        self.ids.as_ref().is_none_or(|ids| ids.contains(&job.id))
            && self.group.as_ref().is_none_or(|group| job.group.as_ref() == Some(group))
            && (self.states.is_empty() || self.states.contains(&job.state))
            && self.since.is_none_or(|since| job.changed_at >= since)
    }

    /// Those of them whose state has changed since then.
    #[must_use]
    pub fn changed_since(self, at: WallMs) -> Self {
        Self { since: Some(at), ..self }
    }

    /// Those of them that are in one of these states.
    #[must_use]
    pub fn in_states(self, states: impl IntoIterator<Item = JobState>) -> Self {
        Self { states: states.into_iter().collect(), ..self }
    }
}

/// A page of jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Query {
    /// Which.
    #[serde(flatten)]
    pub jobs: Selection,
    /// Only with numbers above this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<JobId>,
    /// Only with numbers below this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<JobId>,
    /// At most so many, and never more than [`PAGE_MAX`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// The last ones that fit instead of the first ones; told in rising order all the same.
    pub newest: bool,
}

impl From<Selection> for Query {
    fn from(jobs: Selection) -> Self {
        Self { jobs, ..Self::default() }
    }
}

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
    /// Accept jobs, each by itself. Answered by [`Response::Accepted`] once those that were are durable.
    SubmitAll {
        /// What to transfer; at most [`SUBMIT_MAX`].
        submissions: Vec<Submission>,
    },
    /// Jobs, in rising order. Answered by [`Response::Jobs`].
    List {
        /// Which.
        #[serde(flatten)]
        query: Query,
    },
    /// How many jobs there are in each state. Answered by [`Response::Counts`].
    Count {
        /// Which.
        #[serde(flatten)]
        jobs: Selection,
    },
    /// One job's history. Answered by [`Response::Log`].
    Log {
        /// Which.
        id: JobId,
    },
    /// Suspend. Answered by [`Response::Changed`] once durable and the bytes have stopped.
    Suspend {
        /// Which, of the unfinished ones.
        #[serde(flatten)]
        jobs: Selection,
    },
    /// Take up again what was suspended. Answered by [`Response::Changed`] once durable.
    Resume {
        /// Which, of the suspended ones.
        #[serde(flatten)]
        jobs: Selection,
    },
    /// Cancel. Answered by [`Response::Changed`] once durable; the clean-up may still be under way
    /// (the job is `failed` when it is done).
    Cancel {
        /// Which, of the unfinished ones.
        #[serde(flatten)]
        jobs: Selection,
    },
    /// Try failed jobs again, each as a new job that names its predecessor. Answered by
    /// [`Response::Changed`] with the new jobs, once durable.
    Retry {
        /// Which, of the failed ones.
        #[serde(flatten)]
        jobs: Selection,
    },
    /// Take ended jobs off the list. Answered by [`Response::Changed`] with the jobs that were removed.
    Remove {
        /// Which, of the ended ones.
        #[serde(flatten)]
        jobs: Selection,
    },
    /// Turn this connection into a stream of [`Response::Event`].
    ///
    /// With `after`, the events after that number come first, as far as they are still known; if some are
    /// not, the first answer is [`Response::Missed`], and a list tells how things stand.
    Subscribe {
        /// The number of the last event that was seen.
        #[serde(default)]
        after: Option<u64>,
        /// Only events of these jobs.
        #[serde(flatten)]
        jobs: Selection,
    },
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
        /// The number of the last event.
        event: u64,
    },
    /// Accepted and durable.
    Submitted {
        /// The job.
        job: Box<JobView>,
        /// It was there before, under the same key.
        existing: bool,
    },
    /// What became of each of several submissions, in their order.
    Accepted {
        /// One for each.
        results: Vec<Acceptance>,
    },
    /// Jobs.
    Jobs {
        /// In order of their numbers.
        jobs: Vec<JobView>,
        /// There may be more that the query fits: those after this number (before it, with `newest`).
        more: Option<JobId>,
    },
    /// How many jobs there are.
    Counts {
        /// By state.
        counts: Counts,
    },
    /// A job's history.
    Log {
        /// The job and its history.
        log: Box<JobLog>,
    },
    /// What a request for several jobs did.
    Changed {
        /// How many jobs it changed.
        changed: u64,
        /// The first [`PAGE_MAX`] of them, as they are now.
        jobs: Vec<JobView>,
        /// The first [`PAGE_MAX`] jobs of those named by number that it left as they were, and why (already
        /// ended, not suspended, …).
        skipped: Vec<Skipped>,
    },
    /// A job changed.
    Event {
        /// How.
        event: Box<Event>,
    },
    /// The subscriber missed events: list again.
    Missed {
        /// How many, where that is known; 0 where it is not.
        events: u64,
    },
    /// The request was not carried out.
    Refused {
        /// A stable name: `bad-request`, `unknown-job`, `source`, `destination`, `url`, `option`, `key`,
        /// `too-large`, `journal`.
        kind: String,
        /// What happened, to which file, what to do.
        text: String,
    },
}

/// What became of one of several submissions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Acceptance {
    /// It is durable.
    Accepted {
        /// The job's number.
        id: JobId,
        /// It was there before, under the same key.
        existing: bool,
    },
    /// There is no job.
    Refused {
        /// As in [`Response::Refused`].
        kind: String,
        /// What happened, to which file, what to do.
        text: String,
    },
}

/// Jobs by state, and the bytes of the unfinished ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Accepted, waiting for admission.
    pub queued: u64,
    /// With a snapshot or part file.
    pub staged: u64,
    /// At work.
    pub sending: u64,
    /// Holding still.
    pub suspended: u64,
    /// Ended well.
    pub completed: u64,
    /// Ended otherwise.
    pub failed: u64,
}

impl Counts {
    /// One more in that state.
    pub fn add(&mut self, state: JobState) {
        *match state {
            JobState::Queued => &mut self.queued,
            JobState::Staged => &mut self.staged,
            JobState::Sending => &mut self.sending,
            JobState::Suspended => &mut self.suspended,
            JobState::Completed => &mut self.completed,
            JobState::Failed => &mut self.failed,
        } += 1;
    }

    /// Jobs that have not ended.
    pub fn unfinished(&self) -> u64 {
        self.queued + self.staged + self.sending + self.suspended
    }

    /// All jobs.
    pub fn all(&self) -> u64 {
        self.unfinished() + self.completed + self.failed
    }
}

/// A job that a request left alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Which.
    pub id: JobId,
    /// Why.
    pub why: String,
}
