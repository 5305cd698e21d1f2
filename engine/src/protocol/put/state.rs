//! What a PUT journals.
//!
//! Invariants: variants and fields are only appended (their order is on disk); every string from the
//! server is bounded, so that a state stays under 5 KiB.

use http::HeaderMap;
use http::header::LAST_MODIFIED;
use serde::{Deserialize, Serialize};

use crate::job::FailCause;
use crate::ports::WallMs;
use crate::protocol::wire::{self, EntityTag};

/// Longest entity tag that is kept; a longer one counts as none.
const TAG_MAX: usize = 256;

/// How the object is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Look {
    /// HEAD.
    #[default]
    Head,
    /// GET of the first byte, where HEAD is not answered, or with too little.
    Range,
}

/// An object as a look shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Bytes, where told.
    pub length: Option<u64>,
    /// Entity tag, with its quotes and the `W/` of a weak one.
    pub etag: Option<String>,
    /// Last-Modified.
    pub modified: Option<WallMs>,
}

/// What stood at the target before the first PUT.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Before {
    /// Nobody may look.
    #[default]
    Unknown,
    /// Nothing.
    Absent,
    /// This.
    Object(Seen),
}

/// What a job knows of its PUT, over all attempts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// What stood there before.
    pub before: Before,
    /// How that was seen.
    pub by: Look,
    /// Where redirects of this attempt have led; `None`: the target itself.
    pub at: Option<String>,
    /// How many they were.
    pub hops: u8,
    /// A PUT of ours may have been stored.
    pub doubt: bool,
    /// Looks after an accepted PUT that showed the right size and no other sign of it.
    pub same: u8,
    /// Looks after a 202 that did not show the file yet.
    pub late: u8,
}

/// How the PUT was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Not at all, or by a gateway that does not know.
    Lost,
    /// 2xx.
    Accepted {
        /// The status.
        status: u16,
        /// The new object's strong entity tag, if told.
        etag: Option<String>,
    },
    /// 412, and it may have been an earlier PUT of ours that changed what the condition was about.
    Refused,
}

/// What is journaled. Variants are only appended: their order is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// A look before the PUT is due or under way.
    Looking {
        /// What is known.
        task: Task,
        /// How.
        by: Look,
    },
    /// PUT is under way.
    Putting {
        /// What is known.
        task: Task,
    },
    /// A look after the PUT is due or under way.
    Checking {
        /// What is known.
        task: Task,
        /// How the PUT was answered.
        answer: Answer,
        /// How.
        by: Look,
    },
    /// Proven.
    Complete {
        /// Bytes.
        size: u64,
        /// By what.
        evidence: String,
    },
    /// The end without a proof.
    Gone {
        /// The cause.
        cause: FailCause,
    },
}

impl Task {
    /// At the target itself again: where a redirect led once may be stale.
    pub(super) fn home(self) -> Self {
        Self { at: None, hops: 0, ..self }
    }
}

impl Answer {
    /// Without the tag: a server that answers PUT as if it were GET tells that of the old object.
    pub(super) fn without_tag(self) -> Self {
        match self {
            Self::Accepted { status, .. } => Self::Accepted { status, etag: None },
            Self::Lost | Self::Refused => self,
        }
    }
}

impl Seen {
    pub(super) fn read(headers: &HeaderMap, length: Option<u64>) -> Self {
        let etag = wire::etag(headers).map(|tag| match tag {
            EntityTag::Strong(tag) | EntityTag::Weak(tag) => tag,
        });
        let modified = wire::text(headers, &LAST_MODIFIED).ok().flatten().and_then(wire::http_date);
        Self { length, etag: etag.filter(|tag| tag.len() <= TAG_MAX), modified }
    }

    /// Whether something that both looks told is not the same.
    pub(super) fn differs(&self, other: &Self) -> bool {
        fn apart<T: PartialEq>(one: Option<&T>, other: Option<&T>) -> bool {
            one.zip(other).is_some_and(|(one, other)| one != other)
        }
        apart(self.etag.as_ref(), other.etag.as_ref())
            || apart(self.modified.as_ref(), other.modified.as_ref())
            || apart(self.length.as_ref(), other.length.as_ref())
    }
}

/// The strong entity tag of a reply, if it has one that can be kept.
pub(super) fn strong_tag(headers: &HeaderMap) -> Option<String> {
    match wire::etag(headers)? {
        EntityTag::Strong(tag) => Some(tag).filter(|tag| tag.len() <= TAG_MAX),
        EntityTag::Weak(_) => None,
    }
}
