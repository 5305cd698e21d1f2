//! What a tus upload journals.
//!
//! Invariants: variants and fields are only appended (their order is on disk); every string from the
//! server is bounded, so that a state stays under 5 KiB.

use http::{HeaderMap, HeaderName};
use serde::{Deserialize, Serialize};

use super::words;
use crate::job::{ChecksumAlgorithm, FailCause};
use crate::ports::WallMs;
use crate::protocol::{Reply, wire};

const TUS_EXTENSION: HeaderName = HeaderName::from_static("tus-extension");
const TUS_CHECKSUM_ALGORITHM: HeaderName = HeaderName::from_static("tus-checksum-algorithm");

/// What the server offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Checksum of each PATCH, if any.
    pub checksum: Option<ChecksumAlgorithm>,
    /// A creation may carry bytes.
    pub with_upload: bool,
    /// DELETE frees an upload. Assumed when the server did not say: trying costs nothing.
    pub termination: bool,
}

/// What has gone wrong so far, over all sessions of the job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Sessions that the server dropped.
    pub lost: u32,
    /// Offsets that went back.
    pub rewinds: u32,
    /// Creations whose reply was lost: each may have left an unfinished upload.
    pub orphans: u32,
}

/// One upload at the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its URL.
    pub url: String,
    /// What the server offers.
    pub server: Server,
    /// What has gone wrong so far.
    pub tally: Tally,
    /// Bytes that the server has said it holds.
    pub acked: u64,
    /// Bytes that may ever have been sent: no honest offset is above.
    pub sent: u64,
    /// The last byte is under way, and no answer since has shown that it was not taken.
    pub tail: bool,
    /// When the server means to drop it.
    pub expires: Option<WallMs>,
}

/// Why the server's offset is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probe {
    /// To go on.
    Resume,
    /// A PATCH was answered by a conflict, or without an offset: an offset that stands still is no
    /// reason to send the same again at once.
    Doubt,
    /// A PATCH was forbidden, as some servers do when the upload is complete.
    Forbidden,
}

/// What is journaled. Variants are only appended: their order is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// OPTIONS is due or under way.
    Discovering,
    /// POST is due or under way.
    Creating {
        /// What the server offers.
        server: Server,
        /// What has gone wrong so far.
        tally: Tally,
        /// A POST is under way and unanswered.
        asked: bool,
    },
    /// PATCH of `acked..to` is under way.
    Sending {
        /// The upload.
        session: Session,
        /// End of the bytes in this PATCH.
        to: u64,
    },
    /// HEAD is due or under way.
    Probing {
        /// The upload.
        session: Session,
        /// Why.
        why: Probe,
    },
    /// The server has acknowledged every byte; HEAD is to confirm it.
    Proving {
        /// The upload.
        session: Session,
    },
    /// Proven.
    Complete {
        /// Bytes.
        size: u64,
        /// By what.
        evidence: String,
    },
    /// DELETE is due or under way, or was refused.
    Cancelling {
        /// The upload.
        session: Session,
    },
    /// The end without an object; nothing at the server that could or should be freed.
    Gone {
        /// Bytes acknowledged before.
        acked: u64,
        /// The cause.
        cause: FailCause,
    },
}

impl Server {
    /// For a server that does not answer OPTIONS.
    pub(in crate::protocol) fn assumed() -> Self {
        Self { checksum: None, with_upload: false, termination: true }
    }

    pub(in crate::protocol) fn offered(headers: &HeaderMap) -> Self {
        if !headers.contains_key(TUS_EXTENSION) {
            return Self::assumed();
        }
        let has = |extension| wire::lists(headers, &TUS_EXTENSION, extension);
        let algorithm = |name| wire::lists(headers, &TUS_CHECKSUM_ALGORITHM, name);
        let checksum = match (has("checksum"), algorithm("sha256"), algorithm("sha1")) {
            (true, true, _) => Some(ChecksumAlgorithm::Sha256),
            (true, false, true) => Some(ChecksumAlgorithm::Sha1),
            (true, false, false) | (false, _, _) => None,
        };
        // A checksum belongs to PATCH alone: where there is one, no byte goes without.
        let with_upload = has("creation-with-upload") && checksum.is_none();
        Self { checksum, with_upload, termination: has("termination") }
    }
}

impl Tally {
    pub(super) fn orphaned(self, by_one: bool) -> Self {
        Self { orphans: self.orphans.saturating_add(u32::from(by_one)), ..self }
    }

    /// Adds to a proof what may be left behind.
    pub(in crate::protocol) fn note(self, evidence: String) -> String {
        match self.orphans {
            0 => evidence,
            orphans => format!("{evidence}; {orphans} lost creation(s) may have left an unfinished upload"),
        }
    }
}

impl Session {
    pub(super) fn note_expiry(&mut self, reply: &Reply) {
        self.expires = words::expiry(reply).or(self.expires);
    }
}
