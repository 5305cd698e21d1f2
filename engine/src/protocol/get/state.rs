//! What a download journals.
//!
//! Invariants: variants and fields are only appended (their order is on disk); every string from the
//! server is bounded, so that a state stays under 4 KiB; no query of a redirect's target is kept.

use http::HeaderMap;
use http::header::{ACCEPT_RANGES, ETAG, LAST_MODIFIED};
use serde::{Deserialize, Serialize};

use crate::job::Checksum;
use crate::protocol::{Reply, wire};

/// What shows that two replies speak of the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Validator {
    /// A strong entity tag, with its quotes.
    Tag(String),
    /// A Last-Modified that was strong, as received; only where there is no entity tag.
    Modified(String),
}

impl Validator {
    /// As If-Range sends it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Tag(text) | Self::Modified(text) => text,
        }
    }
}

/// One content of the remote file, as the first reply described it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// What to resume by; without one every break starts over.
    pub validator: Option<Validator>,
    /// The whole size, where the server told it.
    pub total: Option<u64>,
    /// Its digest, where the server told it.
    pub digest: Option<Checksum>,
    /// The name in Content-Disposition, made safe.
    pub name: Option<String>,
    /// Who answered, after redirects, without query.
    pub url: String,
    /// Whether a body that was cut off would be known for it.
    pub framed: bool,
}

/// Whether a later reply speaks of the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol) enum Likeness {
    Same,
    Unproven,
    Changed,
}

impl Version {
    /// From the head of a whole reply of known length.
    pub(in crate::protocol) fn read(reply: &Reply, total: Option<u64>) -> Self {
        let headers = &reply.headers;
        let validator = match wire::etag(headers) {
            Some(wire::EntityTag::Strong(tag)) => Some(Validator::Tag(tag)),
            Some(wire::EntityTag::Weak(_)) => None,
            None if headers.contains_key(ETAG) => None,
            None => wire::strong_last_modified(headers).map(Validator::Modified),
        };
        let validator = validator.filter(|_| !wire::lists(headers, &ACCEPT_RANGES, "none"));
        let (digest, name) = (wire::repr_digest(headers), wire::served_name(headers));
        Self { validator, total, digest, name, url: wire::redact(&reply.url), framed: reply.framed }
    }

    /// Whether nothing has told where the body ends: it may have been cut off.
    pub(in crate::protocol) fn is_open_ended(&self) -> bool {
        self.total.is_none() && !self.framed
    }

    /// Compares validators, and digests where both are told. `whole`: the reply is a 200, in which
    /// nothing may be left out; a 206 to If-Range may leave Last-Modified out.
    pub(in crate::protocol) fn likeness(&self, headers: &HeaderMap, whole: bool) -> Likeness {
        let told = wire::repr_digest(headers);
        if let (Some(ours), Some(theirs)) = (&self.digest, &told)
            && ours.algorithm == theirs.algorithm
            && ours.digest != theirs.digest
        {
            return Likeness::Changed;
        }
        let modified = wire::text(headers, &LAST_MODIFIED).ok().flatten();
        let equal = |same: bool| if same { Likeness::Same } else { Likeness::Changed };
        match &self.validator {
            None => Likeness::Unproven,
            Some(Validator::Tag(ours)) => match wire::etag(headers) {
                Some(wire::EntityTag::Strong(theirs)) => equal(*ours == theirs),
                Some(wire::EntityTag::Weak(_)) | None => Likeness::Unproven,
            },
            Some(Validator::Modified(ours)) => match modified {
                _ if headers.contains_key(ETAG) => Likeness::Changed,
                Some(theirs) => equal(ours == theirs),
                None if whole => Likeness::Unproven,
                None => Likeness::Same,
            },
        }
    }
}

/// What has gone wrong so far, over all versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Times that the remote file was another one than before.
    pub changed: u32,
    /// A whole file did not have the digest that was served with it.
    pub spoiled: bool,
    /// The server cannot be relied on to resume: every break starts over.
    pub whole: bool,
    /// Times that durable bytes were given up because of that, or for want of a validator.
    pub restarts: u32,
}

/// A part file and what it is a part of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partial {
    /// What it is a part of.
    pub version: Version,
    /// What has gone wrong so far.
    pub tally: Tally,
    /// Bytes that are durable, from the start.
    pub have: u64,
}

/// Which digest is being compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Check {
    /// The one that the server told.
    Served,
    /// The one that the user asked for.
    Asked,
}

/// What is journaled. Variants are only appended: their order is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// GET of the whole is due or under way; nothing is kept.
    Asking {
        /// What has gone wrong so far.
        tally: Tally,
    },
    /// A body is being stored.
    Receiving {
        /// The part file.
        part: Partial,
        /// End of the bytes in this body, if told.
        until: Option<u64>,
    },
    /// GET of the rest is due or under way.
    Resuming {
        /// The part file.
        part: Partial,
    },
    /// HEAD is due or under way: the part file may be whole.
    Checking {
        /// The part file.
        part: Partial,
    },
    /// The whole part file is being hashed.
    Verifying {
        /// The part file.
        part: Partial,
        /// What for.
        check: Check,
    },
    /// Whole and verified.
    Complete {
        /// Bytes.
        size: u64,
        /// By what.
        evidence: String,
        /// The name in Content-Disposition, made safe.
        name: Option<String>,
    },
}
