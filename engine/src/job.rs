//! Jobs: what was asked for, what state it is in, how it ended.
//!
//! ```text
//! queued ──▶ staged ──▶ sending ──▶ completed
//!   │           │          │  ▲
//!   │           │          ▼  │
//!   └───────────┴──▶ suspended┘        any non-terminal ──▶ failed(cause)
//! ```
//!
//! [`JobState`] is what people see. The machine behind it ([`step`]) has a finer [`Phase`], so that
//! every intent that a crash could interrupt has a durable name of its own.

mod options;
pub mod record;
pub mod step;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use options::{Form, HttpOptions, PRIORITY_DEFAULT, PRIORITY_MAX, TransportOptions};

use crate::ports::WallMs;
use crate::protocol::{ProtocolId, State as ProtocolState};
use crate::secret::CredentialRef;

/// A job's number: unique in its session, only rising, never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for JobId {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// 128 random bits of a job, by which its remains can be found on servers and disks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Token(pub [u8; 16]);

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which way a file moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From here to a URL.
    Upload,
    /// From a URL to here.
    Download,
}

/// A file's identity and times: what tells that a source was changed.
///
/// A hint, not a proof: a store through an old memory map moves neither time (see the README).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// Modification time, nanoseconds since the epoch.
    pub mtime_ns: i128,
    /// Inode change time, nanoseconds since the epoch.
    pub ctime_ns: i128,
    /// Hard links.
    pub links: u64,
    /// Regular file, and not a link, device, FIFO or directory.
    pub regular: bool,
}

impl Fingerprint {
    /// Whether two looks saw the same unchanged content. Links are not content, but making one
    /// moves ctime, so that a linked source counts as changed: the safe side.
    pub fn same_content(&self, other: &Self) -> bool {
        (self.ino, self.size, self.mtime_ns, self.ctime_ns)
            == (other.ino, other.size, other.mtime_ns, other.ctime_ns)
    }

    /// Whether it is the same file, changed or not. The device does not count: its number may be another
    /// after a reboot.
    pub fn same_file(&self, other: &Self) -> bool {
        self.ino == other.ino
    }
}

/// How an upload is kept safe from changes of its source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StageMode {
    /// Clone where the file system can; else copy while it fits the budget; else guarded in place.
    #[default]
    Auto,
    /// Always a clone or copy; the job waits until the budget has room.
    Copy,
    /// Never a copy: the source itself, guarded.
    None,
}

/// Hash functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChecksumAlgorithm {
    /// SHA-1, where a protocol knows nothing better.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl ChecksumAlgorithm {
    /// The digest's length in bytes.
    pub fn digest_len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    /// The name as people and tus write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

/// An expected digest, as in `sha256:9f86d0…`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    /// The algorithm.
    pub algorithm: ChecksumAlgorithm,
    /// Its raw digest, of the algorithm's length.
    pub digest: Vec<u8>,
}

impl FromStr for Checksum {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "a checksum is written ALGORITHM:HEX, as in sha256:9f86d081…";
        let (name, hex) = text.split_once([':', '=']).ok_or(form)?;
        let algorithm = match name.to_ascii_lowercase().as_str() {
            "sha1" | "sha-1" => ChecksumAlgorithm::Sha1,
            "sha256" | "sha-256" => ChecksumAlgorithm::Sha256,
            "sha512" | "sha-512" => ChecksumAlgorithm::Sha512,
            other => return Err(format!("{other} is not one of sha1, sha256, sha512")),
        };
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(form);
        let digest = hex
            .as_bytes()
            .chunks(2)
            .map(|pair| match *pair {
                [high, low] => Ok((digit(high)? * 16 + digit(low)?) as u8),
                _ => Err(form),
            })
            .collect::<Result<Vec<u8>, _>>()?;
        if digest.len() != algorithm.digest_len() {
            return Err(format!(
                "a {} digest has {} hex digits",
                algorithm.name(),
                algorithm.digest_len() * 2
            ));
        }
        Ok(Self { algorithm, digest })
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.algorithm.name())?;
        self.digest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What was asked for. Written once, never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// How the file travels; its direction is the protocol's.
    pub protocol: ProtocolId,
    /// The remote end.
    pub url: String,
    /// The local end: an upload's source, symbolic links resolved; a download's destination file, or
    /// its directory when `name_from_server`.
    #[serde(with = "record::path_bytes")]
    pub path: PathBuf,
    /// The download's own name is to be taken from the server, or else from the URL.
    pub name_from_server: bool,
    /// A download may replace what stands at its destination.
    pub overwrite: bool,
    /// How an upload is kept safe from changes.
    pub stage: StageMode,
    /// The source as it was at submit.
    pub source: Option<Fingerprint>,
    /// A digest that the whole file must have.
    pub checksum: Option<Checksum>,
    /// Failures in a row, without progress in between, after which the job is suspended.
    pub attempts_max: u32,
    /// Where the credential is to be found when a request is made.
    pub credential: Option<CredentialRef>,
    /// The job's token.
    pub token: Token,
    /// The name at the server, below a URL that ends in `/`; may have slashes in it. The local name when `None`.
    pub name: Option<String>,
    /// Jobs that are listed and changed together.
    pub group: Option<String>,
    /// The submitter's own name for the job: the same key twice is one job.
    pub key: Option<String>,
    /// 0 (last) to 9 (first): a share of the slots, not a right to all of them.
    pub priority: u8,
    /// Not before this wall time.
    pub not_before: Option<WallMs>,
    /// Failed if not completed by this wall time.
    pub deadline: Option<WallMs>,
    /// Bytes a second at most.
    pub limit_rate: Option<u64>,
    /// Exchanges that may run side by side: segments of a download, parts of an upload. At least 1.
    pub lanes: u16,
    /// Other URLs of the same file, for a download.
    pub mirrors: Vec<String>,
    /// Headers of every request to the job's own origin that are no secrets.
    pub headers: Vec<(String, String)>,
    /// The session keeps a file of secrets (headers, a proxy's password) for this job.
    pub has_secrets: bool,
    /// How connections are made.
    pub transport: TransportOptions,
    /// What single protocols want to know.
    pub http: HttpOptions,
    /// The failed job that this one tries again.
    pub predecessor: Option<JobId>,
}

impl JobSpec {
    /// A job without wishes.
    pub fn new(protocol: ProtocolId, url: String, path: PathBuf, token: Token) -> Self {
        Self {
            protocol,
            url,
            path,
            name_from_server: false,
            overwrite: false,
            stage: StageMode::None,
            source: None,
            checksum: None,
            attempts_max: 10,
            credential: None,
            token,
            name: None,
            group: None,
            key: None,
            priority: PRIORITY_DEFAULT,
            not_before: None,
            deadline: None,
            limit_rate: None,
            lanes: 1,
            mirrors: Vec::new(),
            headers: Vec::new(),
            has_secrets: false,
            transport: TransportOptions::default(),
            http: HttpOptions::default(),
            predecessor: None,
        }
    }

    /// Which way the file moves.
    pub fn direction(&self) -> Direction {
        self.protocol.direction()
    }

    /// The file's name: the one asked for, or the local one, or the URL's.
    pub fn name(&self) -> String {
        if let Some(name) = &self.name {
            return name.clone();
        }
        let name = if self.name_from_server { None } else { self.path.file_name() };
        name.map_or_else(
            || crate::protocol::wire::name_from_url(&self.url),
            |name| name.to_string_lossy().into_owned(),
        )
    }
}

/// What an upload reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// How it is held.
    pub method: SnapshotMethod,
    /// Bytes.
    pub size: u64,
    /// Identity of the file that is read: the copy's, or the source's.
    pub file: Fingerprint,
}

/// How a snapshot is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotMethod {
    /// Blocks shared with the source in the staging area.
    Clone,
    /// A copy in the staging area.
    Copy,
    /// The source itself; its fingerprint is checked.
    InPlace,
}

/// A download's part file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Where it is: beside the destination.
    #[serde(with = "record::path_bytes")]
    pub path: PathBuf,
    /// Device and inode of the file this job created.
    pub dev: u64,
    /// See `dev`.
    pub ino: u64,
}

/// What shows that a job is complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Bytes, as the server (upload) or the synced part file (download) has them.
    pub size: u64,
    /// What said so, for people: `HEAD offset = length`, `length, sha-256`.
    pub evidence: String,
}

/// Why a job failed. Variants are only appended: their order is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum FailCause {
    /// By request.
    #[error("cancelled")]
    Cancelled,
    /// The source is not what it was at submit.
    #[error("the source changed under way ({0}); nothing was committed")]
    SourceChanged(String),
    /// The source cannot be read.
    #[error("the source cannot be read: {0}")]
    SourceIo(String),
    /// The server's final no.
    #[error("the server refused: {status} {detail}")]
    Rejected {
        /// HTTP status.
        status: u16,
        /// The start of its explanation, if it gave one.
        detail: String,
    },
    /// The commit was sent and its outcome cannot be found out.
    #[error("the outcome is unknown: {0}")]
    OutcomeUnknown(String),
    /// The remote session expired too often.
    #[error("the server dropped the unfinished upload {0} times")]
    Expired(u32),
    /// The content is not what was asked for.
    #[error("checksum mismatch: expected {expected}, got {got}")]
    ChecksumMismatch {
        /// As asked or announced.
        expected: String,
        /// As found.
        got: String,
    },
    /// The remote file kept changing.
    #[error("the remote file changed {0} times while it was being read")]
    RemoteChanged(u32),
    /// The server broke its protocol.
    #[error("the server broke the protocol: {0}")]
    Protocol(String),
    /// A local file operation failed for good.
    #[error("{0}")]
    LocalIo(String),
    /// It was not complete in time.
    #[error("not complete by its deadline")]
    Deadline,
}

impl FailCause {
    /// A stable one-word name for scripts.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::SourceChanged(_) => "source-changed",
            Self::SourceIo(_) => "source-io",
            Self::Rejected { .. } => "rejected",
            Self::OutcomeUnknown(_) => "outcome-unknown",
            Self::Expired(_) => "expired",
            Self::ChecksumMismatch { .. } => "checksum-mismatch",
            Self::RemoteChanged(_) => "remote-changed",
            Self::Protocol(_) => "protocol",
            Self::LocalIo(_) => "local-io",
            Self::Deadline => "deadline",
        }
    }
}

/// Why a job is suspended. Variants are only appended: their order is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum SuspendCause {
    /// By request: stays so until resumed.
    #[error("paused")]
    Requested,
    /// No space on a local file system; goes on by itself when there is some.
    #[error("no space left: {0}")]
    NoSpace(String),
    /// The server refuses the credentials; stays so until resumed.
    #[error("the server asks for (other) credentials: {0}")]
    Auth(String),
    /// The server failed too often in a row; stays so until resumed.
    #[error("gave up for now after {attempts} attempts: {why}")]
    Server {
        /// Attempts in a row without progress.
        attempts: u32,
        /// The last failure.
        why: String,
    },
    /// Something stands at the destination; stays so until it is moved away and the job resumed.
    #[error("{0} exists; move it away and resume, or cancel")]
    DestinationExists(String),
    /// A directory or file of ours may not be written; stays so until somebody changes that and resumes.
    #[error("no access: {0}")]
    NoAccess(String),
    /// The file system that holds the source is not there; goes on by itself when it is back.
    #[error("the source's file system is away: {0}")]
    SourceAway(String),
    /// Rebuilt from an export: the server may be further than the journal knows. Stays so until resumed.
    #[error("restored from an export; resume it, or cancel it if it was done already")]
    Restored,
}

impl SuspendCause {
    /// A stable one-word name for scripts.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Requested => "paused",
            Self::NoSpace(_) => "no-space",
            Self::Auth(_) => "auth",
            Self::Server { .. } => "server",
            Self::DestinationExists(_) => "destination-exists",
            Self::NoAccess(_) => "no-access",
            Self::SourceAway(_) => "source-away",
            Self::Restored => "restored",
        }
    }

    /// Whether the engine itself takes the job up again when the cause has gone.
    pub fn clears_itself(&self) -> bool {
        matches!(self, Self::NoSpace(_) | Self::SourceAway(_))
    }
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Proven complete.
    Completed(Proof),
    /// Not.
    Failed(FailCause),
}

/// Where a job stands: finer than [`JobState`], so that no intent is nameless. The table of moves
/// is in [`step`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Accepted; owns nothing.
    Queued,
    /// The snapshot or part file is being made: its names may exist on disk.
    Staging,
    /// The snapshot or part file is durable.
    Staged,
    /// The protocol is at work.
    Sending(ProtocolState),
    /// A verified part file is being renamed to this destination.
    Publishing {
        /// The download's protocol state, kept for its proof.
        state: ProtocolState,
        /// What shows that the part file is whole.
        proof: Proof,
        /// The final name.
        #[serde(with = "record::path_bytes")]
        to: PathBuf,
    },
    /// The outcome stands; what the job still holds is being freed.
    Ending {
        /// The outcome to record when all is freed.
        outcome: Outcome,
        /// The remote session, while it is still to be freed.
        remote: Option<ProtocolState>,
    },
    /// Terminal.
    Ended(Outcome),
}

/// What is journaled of a job at each transition, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Core {
    /// Where it stands.
    pub phase: Phase,
    /// Set while suspended; the phase is then where it will go on.
    pub suspended: Option<SuspendCause>,
    /// The upload's snapshot.
    pub snapshot: Option<Snapshot>,
    /// The download's part file.
    pub part: Option<Part>,
    /// Failures in a row without progress.
    pub attempts: u32,
    /// All failed attempts.
    pub attempts_total: u32,
    /// Not before this wall time.
    pub retry_at: Option<WallMs>,
    /// The last failure, for people.
    pub trouble: Option<String>,
    /// Bytes confirmed by the other side (upload) or durable here (download).
    pub done: u64,
    /// The whole size, once known.
    pub size: Option<u64>,
    /// What could not be freed at the server, for `doctor`.
    pub leftover: Option<String>,
    /// A completed download's final place.
    #[serde(with = "record::path_bytes_option")]
    pub file: Option<PathBuf>,
    /// Times in a row that there was no way to the server: no attempt is counted for them.
    pub offline: u32,
    /// The protocol in use, where the job left the choice open.
    pub chosen: Option<ProtocolId>,
    /// The most bytes that were ever done: to come that far again is no progress.
    pub reached: u64,
}

/// What people see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Accepted, waits for admission.
    Queued,
    /// Has its snapshot or part file.
    Staged,
    /// At work, or waiting for a retry.
    Sending,
    /// Holds still; see the cause.
    Suspended,
    /// Ended well, and proven.
    Completed,
    /// Ended otherwise; see the cause.
    Failed,
}

impl JobState {
    /// Whether it is never left.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }

    /// The lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Staged => "staged",
            Self::Sending => "sending",
            Self::Suspended => "suspended",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Core {
    /// A job that was just accepted.
    pub fn queued(size: Option<u64>) -> Self {
        Self {
            phase: Phase::Queued,
            suspended: None,
            snapshot: None,
            part: None,
            attempts: 0,
            attempts_total: 0,
            retry_at: None,
            trouble: None,
            done: 0,
            size,
            leftover: None,
            file: None,
            offline: 0,
            chosen: None,
            reached: 0,
        }
    }

    /// What people see.
    pub fn state(&self) -> JobState {
        match (&self.phase, &self.suspended) {
            (Phase::Ended(Outcome::Completed(_)), _) => JobState::Completed,
            (Phase::Ended(Outcome::Failed(_)), _) => JobState::Failed,
            (_, Some(_)) => JobState::Suspended,
            (Phase::Queued | Phase::Staging, None) => JobState::Queued,
            (Phase::Staged, None) => JobState::Staged,
            (Phase::Sending(_) | Phase::Publishing { .. } | Phase::Ending { .. }, None) => JobState::Sending,
        }
    }

    /// Bytes that a staging copy of this job takes or will take.
    pub fn has_copy(&self) -> bool {
        self.snapshot.as_ref().is_some_and(|snapshot| snapshot.method != SnapshotMethod::InPlace)
    }
}

/// One line of a job's journaled history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// When.
    pub at: WallMs,
    /// The state after it.
    pub state: JobState,
    /// What happened.
    pub what: String,
    /// Bytes done by then.
    pub done: u64,
}

/// A job with everything that is journaled about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// When it was accepted.
    pub submitted_at: WallMs,
    /// When it last moved.
    pub changed_at: WallMs,
    /// What was asked for.
    pub spec: JobSpec,
    /// Where it stands.
    pub core: Core,
    /// How it came there.
    pub history: Vec<HistoryEntry>,
}

impl Job {
    /// What people see.
    pub fn state(&self) -> JobState {
        self.core.state()
    }

    /// The path of the staging copy, whether or not it exists.
    pub fn stage_path(&self, stage_dir: &Path) -> PathBuf {
        stage_dir.join(format!("{:016x}.stage", self.id.0))
    }

    /// The path of the file with the job's secrets, whether or not it exists.
    pub fn secrets_path(&self, stage_dir: &Path) -> PathBuf {
        crate::run::staging::secrets_path(stage_dir, self.id)
    }

    /// The path of the part file, whether or not it exists: beside the destination, with a name that
    /// no other job has.
    pub fn part_path(&self) -> PathBuf {
        let dir =
            if self.spec.name_from_server { Some(self.spec.path.as_path()) } else { self.spec.path.parent() };
        let name = self.spec.name().replace('/', "_");
        // 255 bytes is the limit of a name on every common file system; the rest takes up to 60.
        let mut end = name.len().min(190);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        let own = format!(".{}.{}-{}.haul", &name[..end], self.id, self.spec.token);
        dir.map_or_else(|| PathBuf::from(&own), |dir| dir.join(&own))
    }
}
