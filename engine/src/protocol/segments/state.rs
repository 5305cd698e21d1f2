//! What a download in segments journals.
//!
//! The file is cut into chunks of one length; a lane takes the first chunk that nobody works on, and the
//! next one when that is whole. A chunk's place follows from its number, so that a state holds only how
//! much of each is durable.
//!
//! Invariants: variants and fields are only appended (their order is on disk); at most 128
//! chunks, [`LANES_MAX`] lanes and [`MIRRORS_MAX`] mirrors, of which only numbers and fixed-size prints are
//! kept, so that a state stays under 6 KiB; no URL of a mirror is in it.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::job::FailCause;
use crate::protocol::get::{self, Check, Tally, Version};

/// Lanes that are used at most.
pub const LANES_MAX: u16 = 32;
/// Mirrors that are used at most; further ones are never asked.
pub const MIRRORS_MAX: u16 = 16;
/// Chunks of a big file for each lane, so at most 128: a slow lane leaves its share to the others.
const CHUNKS_A_LANE: u64 = 4;
/// Smallest file that is worth more than one request.
pub const SPLIT_MIN: u64 = 4 << 20;
/// Smallest chunk.
pub const CHUNK_MIN: u64 = 1 << 20;
/// Chunks are not made smaller than this for the sake of having several a lane.
pub const CHUNK_FINE: u64 = 16 << 20;
/// Chunks begin at multiples of this.
pub const ALIGN: u64 = 64 << 10;

/// The length of a chunk, all but the last.
pub fn chunk_len(total: u64, lanes: u16) -> u64 {
    let lanes = u64::from(lanes.max(1));
    let fine = total.div_ceil(lanes * CHUNKS_A_LANE).max(CHUNK_FINE);
    fine.min(total.div_ceil(lanes)).max(CHUNK_MIN).next_multiple_of(ALIGN)
}

/// What a lane does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum At {
    /// Nothing: there is no chunk or no source for it.
    Idle,
    /// GET of a chunk's rest is under way.
    Asked {
        /// Which.
        chunk: u16,
    },
    /// A body is being stored.
    Storing {
        /// Which chunk's.
        chunk: u16,
        /// Where the body ends in the file.
        until: u64,
    },
    /// It waits before it asks again.
    Paused,
}

/// One of the exchanges side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lane {
    /// What it does.
    pub at: At,
    /// Whom it asked last.
    pub source: Option<u16>,
    /// Failures since it last made progress.
    pub failures: u32,
}

impl Lane {
    /// One that has done nothing yet.
    pub const FRESH: Self = Self { at: At::Idle, source: None, failures: 0 };

    /// The chunk that it works on.
    pub fn chunk(self) -> Option<u16> {
        match self.at {
            At::Asked { chunk } | At::Storing { chunk, .. } => Some(chunk),
            At::Idle | At::Paused => None,
        }
    }

    /// Whether something of it is under way: an exchange, or the wait for one.
    pub fn is_busy(self) -> bool {
        match self.at {
            At::Asked { .. } | At::Storing { .. } | At::Paused => true,
            At::Idle => false,
        }
    }
}

/// What is known of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// A mirror that has not answered yet.
    Untried,
    /// Who described the version first.
    Lead,
    /// A mirror that has the same file.
    Agreed {
        /// It has the lead's entity tag, so that If-Range can name it.
        tagged: bool,
        /// Print of its own validator.
        print: [u8; 16],
    },
    /// Not asked any more.
    Dropped,
}

/// The primary (0) or a mirror (its place in the list, from 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// What is known of it.
    pub standing: Standing,
    /// Exchanges that it bears side by side.
    pub most: u16,
}

/// A file in chunks, and who works on them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// What the chunks are parts of; has a validator and a total.
    pub version: Version,
    /// What has gone wrong so far.
    pub tally: Tally,
    /// Bytes of a chunk.
    pub chunk: u64,
    /// Durable bytes of each chunk, from its start.
    pub have: Vec<u64>,
    /// The exchanges.
    pub lanes: Vec<Lane>,
    /// The sources.
    pub sources: Vec<Source>,
    /// Which of several equal sources comes first.
    pub turn: u16,
    /// Bytes of another source than the primary are among those that are durable.
    pub mixed: bool,
    /// It was told that a source bears fewer exchanges than there are lanes.
    pub narrowed: bool,
}

impl Work {
    /// The whole length.
    pub fn total(&self) -> u64 {
        self.version.total.unwrap_or(0)
    }

    /// Durable bytes.
    pub fn done(&self) -> u64 {
        self.have.iter().sum()
    }

    /// Whether every byte is durable.
    pub fn is_whole(&self) -> bool {
        self.done() == self.total()
    }

    /// A chunk's place in the file.
    pub fn span(&self, chunk: u16) -> Range<u64> {
        let start = u64::from(chunk) * self.chunk;
        start..start.saturating_add(self.chunk).min(self.total())
    }

    /// What is missing of a chunk.
    pub fn rest(&self, chunk: u16) -> Range<u64> {
        let span = self.span(chunk);
        span.start + self.have.get(usize::from(chunk)).copied().unwrap_or(0)..span.end
    }

    /// The first chunk that is not whole and that no lane works on.
    pub fn next_chunk(&self) -> Option<u16> {
        let chunks = u16::try_from(self.have.len()).unwrap_or(0);
        (0..chunks).find(|chunk| {
            !self.rest(*chunk).is_empty() && !self.lanes.iter().any(|lane| lane.chunk() == Some(*chunk))
        })
    }

    /// Lanes that ask this source, or wait before they do.
    pub fn load(&self, source: u16) -> u16 {
        let busy = self.lanes.iter().filter(|lane| lane.is_busy() && lane.source == Some(source)).count();
        u16::try_from(busy).unwrap_or(u16::MAX)
    }
}

/// Whose turn it is to be asked for the whole, and how those before it answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// Who is asked.
    pub source: u16,
    /// One of those before it may answer another time.
    pub hope: bool,
    /// There was a way to one of those before it.
    pub reached: bool,
    /// The first final no.
    pub no: Option<Refusal>,
}

/// A no that another attempt would not change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// Not with these credentials.
    Auth(String),
    /// Not at all.
    Final(FailCause),
}

/// What is journaled. Variants are only appended: their order is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// GET of the whole is due or under way; nothing is kept.
    Asking {
        /// What has gone wrong so far.
        tally: Tally,
        /// Who is asked.
        turn: Turn,
    },
    /// The file comes in one stream.
    Single {
        /// Who is asked.
        source: u16,
        /// The stream's own state.
        get: get::State,
    },
    /// Chunks are being fetched.
    Working(Box<Work>),
    /// The whole part file is being hashed.
    Verifying {
        /// The chunks, all whole.
        work: Box<Work>,
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
