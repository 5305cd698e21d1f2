//! What an upload in parallel parts journals.
//!
//! ```text
//! Set: parts 0 ‥ n−1, range of part i = size/n · i ‥ size/n · (i+1), the last one to the end
//! Urls on disk: for each, how many bytes it shares with the known one before it, and the rest
//! ```
//!
//! Invariants: variants and fields are only appended (their order is on disk). Every string from the server is
//! bounded, so that a state stays under 7 KiB: at most [`PARTS_MAX`] parts, whose URLs take at most [`KEPT_MAX`]
//! bytes on disk together, and one more with [`WHOLE_MAX`] bytes beside them.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use std::ops::Range;

use crate::job::FailCause;
use crate::ports::WallMs;
use crate::protocol::tus::{self, Probe, Server, Tally};
use crate::protocol::{Reply, wire};

/// Parts at most.
pub const PARTS_MAX: u16 = 64;
/// A part is at least so large: below, its own requests take longer than what they save.
pub const PART_MIN: u64 = 1 << 20;
/// Bytes on disk of the URLs of all parts.
pub const KEPT_MAX: usize = 13 << 8;
/// Bytes on disk of one more URL beside them, of the whole or of a part that is too much; more where they leave it.
pub const WHOLE_MAX: usize = 3 << 9;
/// Bytes of the list of all parts' URLs in the request that joins them: one header line, of which many servers
/// and proxies take 8 KiB.
pub const LIST_MAX: usize = 7 << 10;
/// Bytes on disk of one URL beside its text.
const KEPT_EACH: usize = 11;

/// What one part is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Doing {
    /// Nothing is in flight; its next request is due.
    Due,
    /// Nothing is in flight, and its lane pauses.
    Resting,
    /// POST is under way.
    Creating,
    /// PATCH is under way.
    Sending,
    /// HEAD is under way.
    Probing(Probe),
    /// The server has said that it holds every byte.
    Whole,
    /// DELETE is under way.
    Freeing,
    /// DELETE was refused for good.
    Left,
}

/// A range of the file with an upload of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Bytes that the server has said it holds.
    pub acked: u64,
    /// Bytes that may ever have been sent: no honest offset is above.
    pub sent: u64,
    /// What it is at.
    pub doing: Doing,
    /// Failures of its lane in a row.
    pub fails: u8,
    /// Uploads of it that the server dropped.
    pub lost: u8,
    /// Offsets that went back.
    pub rewinds: u8,
}

/// All parts, and what the server offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// What the server offers.
    pub server: Server,
    /// Creations without a known result: each may have left an unfinished upload.
    pub orphans: u32,
    /// Requests to join without a known result: each may have left a whole object.
    pub finals: u32,
    /// When the server means to drop the part it said so of last.
    pub expires: Option<WallMs>,
    /// The server refused to join them, and all were asked for again since.
    pub checked: bool,
    /// Where the parts are; `None`: nowhere that is known.
    pub urls: Urls,
    /// The parts, and the whole behind them when it is to be freed too.
    pub parts: Vec<Part>,
}

/// Why uploads are deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Then {
    /// The whole is proven, and its parts have served.
    Proven {
        /// The whole.
        whole: String,
        /// By what it is proven.
        evidence: String,
    },
    /// To begin again with so many parts: URLs are too long to keep more. Below two: one stream.
    Fewer(u16),
    /// The job is given up.
    Cancelled {
        /// The last entry is the whole, and goes first: it may still need its parts.
        whole: bool,
    },
}

/// What is journaled. Variants are only appended: their order is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// OPTIONS is due or under way.
    Discovering,
    /// One stream.
    Single(tus::State),
    /// The parts are created, sent and asked for, each on its lane.
    Sending {
        /// The parts.
        set: Set,
    },
    /// POST of the whole is due or under way; every part was whole.
    Joining {
        /// The parts.
        set: Set,
        /// It is under way and unanswered.
        asked: bool,
    },
    /// The whole has a URL; HEAD is to prove it.
    Proving {
        /// The parts.
        set: Set,
        /// The whole.
        whole: String,
        /// Answers that did not show it, so far.
        tries: u8,
    },
    /// DELETE of what is not needed is due or under way.
    Freeing {
        /// What is to be freed.
        set: Set,
        /// What follows.
        then: Then,
    },
    /// Proven.
    Complete {
        /// Bytes.
        size: u64,
        /// By what.
        evidence: String,
    },
    /// The end without an object that is known.
    Gone {
        /// Bytes acknowledged before.
        acked: u64,
        /// The cause.
        cause: FailCause,
    },
}

/// URLs, of which what one shares with the one before is not written again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Urls(pub Vec<Option<String>>);

impl Part {
    pub(super) const NEW: Self = Self { acked: 0, sent: 0, doing: Doing::Due, fails: 0, lost: 0, rewinds: 0 };

    pub(super) fn is_in_flight(&self) -> bool {
        match self.doing {
            Doing::Creating | Doing::Sending | Doing::Probing(_) | Doing::Freeing => true,
            Doing::Due | Doing::Resting | Doing::Whole | Doing::Left => false,
        }
    }

    /// Whether news of its lane is to come.
    pub(super) fn is_busy(&self) -> bool {
        self.is_in_flight() || self.doing == Doing::Resting
    }
}

impl Set {
    pub(super) fn new(server: Server, orphans: u32, parts: u16) -> Self {
        let count = usize::from(parts);
        let (urls, parts) = (Urls(vec![None; count]), vec![Part::NEW; count]);
        Self { server, orphans, finals: 0, expires: None, checked: false, urls, parts }
    }

    /// The bytes of a part in the file.
    pub(super) fn range(&self, at: usize, size: u64) -> Range<u64> {
        let count = self.parts.len().max(1) as u64;
        let (each, at) = (size / count, at as u64);
        each * at..if at + 1 == count { size } else { each * (at + 1) }
    }

    pub(super) fn len(&self, at: usize, size: u64) -> u64 {
        let range = self.range(at, size);
        range.end - range.start
    }

    pub(super) fn url(&self, at: usize) -> Option<&str> {
        self.urls.0.get(at)?.as_deref()
    }

    pub(super) fn acked(&self) -> u64 {
        self.parts.iter().map(|part| part.acked).sum()
    }

    pub(super) fn is_whole(&self) -> bool {
        self.parts.iter().all(|part| part.doing == Doing::Whole)
    }

    pub(super) fn orphaned(&mut self, by_one: bool) {
        self.orphans = self.orphans.saturating_add(u32::from(by_one));
    }

    /// Counts the creations in flight, whose replies will not be heard.
    pub(super) fn forsake(&mut self) {
        for part in &mut self.parts {
            if part.doing == Doing::Creating {
                self.orphans = self.orphans.saturating_add(1);
                part.doing = Doing::Due;
            }
        }
    }

    pub(super) fn note_expiry(&mut self, reply: &Reply) {
        self.expires = tus::words::expiry(reply).or(self.expires);
    }

    /// What may be left behind that nobody can name.
    pub(super) fn note(&self, evidence: String) -> String {
        let evidence = Tally { orphans: self.orphans, ..Tally::default() }.note(evidence);
        match self.finals {
            0 => evidence,
            1 => format!("{evidence}; a lost final may have left a second object of full size"),
            finals => format!("{evidence}; {finals} lost finals may each have left an object of full size"),
        }
    }

    /// What is left behind and known: how many, the first one, until when.
    pub(super) fn left(&self) -> Option<String> {
        let first = self.urls.0.iter().flatten().next()?;
        let count = self.urls.0.iter().flatten().count();
        let until = self.expires.map_or_else(String::new, |at| format!(" until {}", wire::format_date(at)));
        let first = wire::printable(&wire::redact(first), 300);
        Some(match count {
            1 => format!("an upload is left at {first}{until}"),
            _ => format!("{count} uploads are left{until}, the first at {first}"),
        })
    }
}

impl Urls {
    /// Bytes on disk.
    pub fn kept(&self) -> usize {
        self.shortened().map(|short| short.map_or(1, |(_, rest)| KEPT_EACH + rest.len())).sum()
    }

    pub(super) fn is_kept(&self) -> bool {
        self.kept() <= KEPT_MAX
    }

    /// Whether a record has room for one more beside them, of so many bytes.
    pub(super) fn has_room(&self, more: usize) -> bool {
        self.kept() + KEPT_EACH + more <= KEPT_MAX + WHOLE_MAX
    }

    /// How many parts, at most `count`, have room if their URLs are like the longest of these.
    pub(super) fn room(&self, count: u16) -> u16 {
        let url = self.0.iter().flatten().max_by_key(|url| url.len()).map_or("", String::as_str);
        let name = url.rfind('/').map_or(url.len(), |slash| url.len() - slash - 1);
        let fits = |count: &u16| {
            let count = usize::from(*count);
            count * (url.len() + 1) <= LIST_MAX
                && url.len() + count.saturating_sub(1) * (name + KEPT_EACH) + KEPT_EACH <= KEPT_MAX
        };
        (0..=count).rev().find(fits).unwrap_or(0)
    }

    /// For each, the length shared with the known one before it, and the rest.
    fn shortened(&self) -> impl Iterator<Item = Option<(u16, &str)>> {
        let mut before = "";
        self.0.iter().map(move |url| {
            let url = url.as_deref()?;
            let shared = url.bytes().zip(before.bytes()).take_while(|(one, other)| one == other).count();
            let shared = shared.min(usize::from(u16::MAX));
            let shared = (0..=shared).rev().find(|&end| url.is_char_boundary(end)).unwrap_or(0);
            before = url;
            Some((shared as u16, url.get(shared..).unwrap_or_default()))
        })
    }
}

impl Serialize for Urls {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.shortened().collect::<Vec<_>>().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Urls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut before = String::new();
        let mut whole = |(shared, rest): (u16, String)| {
            let shared = before.get(..usize::from(shared));
            before =
                shared.ok_or_else(|| D::Error::custom("a URL shares more than there is"))?.to_owned() + &rest;
            Ok(before.clone())
        };
        let short = Vec::<Option<(u16, String)>>::deserialize(deserializer)?;
        short.into_iter().map(|url| url.map(&mut whole).transpose()).collect::<Result<_, _>>().map(Self)
    }
}
