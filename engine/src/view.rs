//! What a session tells about its jobs: plain data, ready for JSON.

use serde::{Deserialize, Serialize};

use crate::job::{Direction, HistoryEntry, Job, JobId, JobState, Outcome, Phase};
use crate::ports::WallMs;
use crate::protocol::wire;

/// A job as people and scripts see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobView {
    /// Its number.
    pub id: JobId,
    /// Where it stands.
    pub state: JobState,
    /// Which way the file moves.
    pub direction: Direction,
    /// Local path (upload) or URL (download), without secrets.
    pub source: String,
    /// URL (upload) or local path (download), without secrets.
    pub target: String,
    /// How it travels: `tus`, `put`, `get`, …; `auto` until that is found out.
    pub protocol: String,
    /// Bytes in all, once known.
    pub size: Option<u64>,
    /// Bytes that need not travel again, plus those under way right now; never above `size`.
    pub done: u64,
    /// Failed attempts so far.
    pub attempts: u32,
    /// Why it is suspended or failed.
    pub cause: Option<Cause>,
    /// The last failure of a job that goes on, and when it tries again.
    pub trouble: Option<String>,
    /// When the next attempt is due.
    pub retry_at: Option<WallMs>,
    /// What showed that a completed job is complete.
    pub evidence: Option<String>,
    /// What could not be freed at the server.
    pub leftover: Option<String>,
    /// A file in its final place; for a completed download.
    pub file: Option<String>,
    /// What it waits for, where it could go on otherwise: a slot, its time, room for its copy, the network.
    pub waits_for: Option<String>,
    /// Its group.
    pub group: Option<String>,
    /// Its submitter's key.
    pub key: Option<String>,
    /// 0 (last) to 9 (first).
    pub priority: u8,
    /// It does not begin before.
    pub not_before: Option<WallMs>,
    /// It fails if it is not complete by then.
    pub deadline: Option<WallMs>,
    /// The failed job that this one tries again.
    pub predecessor: Option<JobId>,
    /// When it was accepted.
    pub submitted_at: WallMs,
    /// When its state last changed.
    pub changed_at: WallMs,
}

/// Why a job is suspended or failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// A stable name: `paused`, `no-space`, `source-changed`, `rejected`, …
    pub kind: String,
    /// For people.
    pub text: String,
}

/// One change of a job, as told to subscribers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Rises with each event, also over restarts; not every number has an event.
    pub number: u64,
    /// What happened, in words.
    pub what: String,
    /// The job after it.
    pub job: JobView,
}

/// A job's journaled history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobLog {
    /// The job.
    pub job: JobView,
    /// Its history, oldest first.
    pub entries: Vec<HistoryEntry>,
}

impl JobView {
    /// Shows a job; `moving` is what its transfer has moved beyond the journaled state.
    pub fn new(job: &Job, moving: u64) -> Self {
        let local = job.spec.path.to_string_lossy().into_owned();
        let remote = wire::redact(&job.spec.url);
        let (source, target) = match job.spec.direction() {
            Direction::Upload => (local, remote),
            Direction::Download => (remote, local),
        };
        let core = &job.core;
        let ended = match &core.phase {
            Phase::Ended(outcome) | Phase::Ending { outcome, .. } => Some(outcome),
            Phase::Queued | Phase::Staging | Phase::Staged | Phase::Sending(_) | Phase::Publishing { .. } => {
                None
            }
        };
        let cause = match (ended, &core.suspended) {
            (Some(Outcome::Failed(cause)), _) => Some((cause.name(), cause.to_string())),
            (Some(Outcome::Completed(_)), _) | (None, None) => None,
            (None, Some(cause)) => Some((cause.name(), cause.to_string())),
        };
        let limit = core.size.unwrap_or(u64::MAX);
        Self {
            id: job.id,
            state: core.state(),
            direction: job.spec.direction(),
            source,
            target,
            protocol: core.chosen.unwrap_or(job.spec.protocol).name().to_owned(),
            size: core.size,
            done: core.done.saturating_add(moving).min(limit),
            attempts: core.attempts_total,
            cause: cause.map(|(kind, text)| Cause { kind: kind.to_owned(), text }),
            trouble: core.trouble.clone(),
            retry_at: core.retry_at,
            evidence: match ended {
                Some(Outcome::Completed(proof)) => Some(proof.evidence.clone()),
                _ => None,
            },
            leftover: core.leftover.as_deref().map(wire::redact),
            file: core.file.as_ref().map(|path| path.to_string_lossy().into_owned()),
            waits_for: None,
            group: job.spec.group.clone(),
            key: job.spec.key.clone(),
            priority: job.spec.priority,
            not_before: job.spec.not_before,
            deadline: job.spec.deadline,
            predecessor: job.spec.predecessor,
            submitted_at: job.submitted_at,
            changed_at: job.changed_at,
        }
    }
}
