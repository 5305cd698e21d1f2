//! The form of version 1, frozen: only read, and turned into today's.

use std::path::PathBuf;

use serde::Deserialize;

use super::{path_bytes, path_bytes_option};
use crate::job::{
    Checksum, Core, Fingerprint, JobId, JobSpec, Part, Phase, Snapshot, StageMode, SuspendCause, Token,
};
use crate::ports::WallMs;
use crate::protocol::ProtocolId;
use crate::secret::CredentialRef;

#[derive(Deserialize)]
pub(super) enum RecordV1 {
    Submitted { id: JobId, at: WallMs, spec: Box<JobSpecV1> },
    Moved { id: JobId, at: WallMs, what: Option<String>, core: Box<CoreV1> },
}

#[derive(Deserialize)]
pub(super) struct JobSpecV1 {
    protocol: ProtocolId,
    url: String,
    #[serde(with = "path_bytes")]
    path: PathBuf,
    name_from_server: bool,
    overwrite: bool,
    stage: StageMode,
    source: Option<Fingerprint>,
    checksum: Option<Checksum>,
    attempts_max: u32,
    credential: Option<CredentialRef>,
    token: Token,
}

#[derive(Deserialize)]
pub(super) struct CoreV1 {
    phase: Phase,
    suspended: Option<SuspendCause>,
    snapshot: Option<Snapshot>,
    part: Option<Part>,
    attempts: u32,
    attempts_total: u32,
    retry_at: Option<WallMs>,
    trouble: Option<String>,
    done: u64,
    size: Option<u64>,
    leftover: Option<String>,
    #[serde(with = "path_bytes_option")]
    file: Option<PathBuf>,
}

impl From<RecordV1> for super::Record {
    fn from(old: RecordV1) -> Self {
        match old {
            RecordV1::Submitted { id, at, spec } => {
                Self::Submitted { id, at, spec: Box::new((*spec).into()) }
            }
            RecordV1::Moved { id, at, what, core } => {
                Self::Moved { id, at, what, core: Box::new((*core).into()) }
            }
        }
    }
}

impl From<JobSpecV1> for JobSpec {
    fn from(old: JobSpecV1) -> Self {
        Self {
            name_from_server: old.name_from_server,
            overwrite: old.overwrite,
            stage: old.stage,
            source: old.source,
            checksum: old.checksum,
            attempts_max: old.attempts_max,
            credential: old.credential,
            ..Self::new(old.protocol, old.url, old.path, old.token)
        }
    }
}

impl From<CoreV1> for Core {
    fn from(old: CoreV1) -> Self {
        Self {
            phase: old.phase,
            suspended: old.suspended,
            snapshot: old.snapshot,
            part: old.part,
            attempts: old.attempts,
            attempts_total: old.attempts_total,
            retry_at: old.retry_at,
            trouble: old.trouble,
            done: old.done,
            leftover: old.leftover,
            file: old.file,
            ..Self::queued(old.size)
        }
    }
}
