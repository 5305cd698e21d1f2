//! What a look at the object shows of a PUT.
//!
//! | size | before | PUT answered 2xx | answer lost, or 412 after that |
//! |---|---|---|---|
//! | right, digest as asked for | any | proven | proven |
//! | right, another digest | any | spoiled | spoiled |
//! | right | absent | proven | proven |
//! | right | an object that differs | proven | proven; lost and of the same size: unproven |
//! | right | an object, no difference seen | unproven | unproven |
//! | right | not known | `ETag` as PUT told it: proven; else unproven | unproven |
//! | not told, `ETag` as PUT told it | absent, or differs | proven | – |
//!
//! Of the same size before, and the answer lost: a server that writes in place may stand in the middle
//! of it, and size and date would look as they do at the end.

use http::HeaderMap;
use http::header::CONTENT_ENCODING;

use super::state::{Answer, Before, Look, Seen, Task};
use crate::job::{Checksum, FailCause};
use crate::ports::WallMs;
use crate::protocol::wire::{self, ContentRange, Malformed, Verdict};
use crate::protocol::{Reply, Retry};

/// A look's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Glance {
    /// There is nothing.
    Absent,
    /// There is this; and its digest, if told.
    There(Seen, Option<Checksum>),
    /// Nobody may look: the status.
    Hidden(u16),
    /// Look there.
    Redirect,
    /// Come again.
    Retry(Retry),
}

/// What it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// The file is there, and why that is sure.
    Proven(String),
    /// Nothing is there.
    Missing,
    /// So many bytes are there, and not as many as the file has.
    Size(u64),
    /// Something is there; its size is not told.
    Untold,
    /// Nobody may look: the status.
    Hidden(u16),
    /// The right size, and this may have been there before.
    Unproven(Seen),
    /// The right size, and another content.
    Spoiled(FailCause),
}

pub(super) fn read(by: Look, reply: &Reply, now: WallMs) -> Result<Glance, Malformed> {
    let headers = &reply.headers;
    let length = match reply.status.as_u16() {
        404 | 410 => return Ok(Glance::Absent),
        307 | 308 => return Ok(Glance::Redirect),
        // The length of what is coded is not that of the file.
        200..=299 if coded(headers) => None,
        206 => match wire::content_range(headers)? {
            Some(ContentRange::Part { first: 0, total, .. }) => total,
            Some(ContentRange::Part { .. } | ContentRange::Unsatisfied { .. }) | None => None,
        },
        200..=299 => wire::content_length(headers)?,
        // An empty object has no first byte.
        416 if by == Look::Range => match wire::content_range(headers)? {
            Some(ContentRange::Unsatisfied { total }) => Some(total),
            Some(ContentRange::Part { .. }) | None => return Ok(Glance::Hidden(416)),
        },
        status => {
            return Ok(match wire::classify(reply, now) {
                Verdict::Retry(retry) => Glance::Retry(retry),
                Verdict::Auth(_) | Verdict::Final(_) => Glance::Hidden(status),
            });
        }
    };
    Ok(Glance::There(Seen::read(headers, length), wire::repr_digest(headers)))
}

fn coded(headers: &HeaderMap) -> bool {
    let values = headers.get_all(CONTENT_ENCODING).iter();
    values.into_iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// The file that is asked about.
pub(super) struct Sought<'a> {
    pub(super) size: u64,
    pub(super) checksum: Option<&'a Checksum>,
}

impl Sought<'_> {
    /// What an object shows of the PUT that was answered so.
    pub(super) fn find(
        &self,
        seen: &Seen,
        told: Option<&Checksum>,
        task: &Task,
        answer: &Answer,
        by: Look,
    ) -> Finding {
        let proven = |size: &str, why: &str| Finding::Proven(evidence(answer, by, size, why));
        let differs = match &task.before {
            Before::Unknown => false,
            Before::Absent => true,
            Before::Object(old) => old.differs(seen),
        };
        match seen.length {
            Some(length) if length != self.size => return Finding::Size(length),
            None if differs && is_its_tag(answer, seen) => {
                return proven("ETag as PUT told it (no length told)", was(&task.before));
            }
            None => return Finding::Untold,
            Some(_) => {}
        }
        if let Some((asked, told)) = self.checksum.zip(told)
            && asked.algorithm == told.algorithm
        {
            if asked.digest == told.digest {
                return proven("length = size", &format!("{} as asked for", asked.algorithm.name()));
            }
            let (expected, got) = (asked.to_string(), told.to_string());
            return Finding::Spoiled(FailCause::ChecksumMismatch { expected, got });
        }
        let unproven = Finding::Unproven(seen.clone());
        match &task.before {
            Before::Unknown if is_its_tag(answer, seen) => proven("length = size", "ETag as PUT told it"),
            Before::Absent => proven("length = size", was(&task.before)),
            Before::Object(old) if differs => {
                let could_be_half =
                    matches!(answer, Answer::Lost) && old.length.is_none_or(|at| at == self.size);
                if could_be_half { unproven } else { proven("length = size", was(&task.before)) }
            }
            // A tag that was not there before, and is the one that PUT told.
            Before::Object(old) if old.etag.is_none() && is_its_tag(answer, seen) => {
                proven("length = size", "ETag as PUT told it")
            }
            Before::Unknown | Before::Object(_) => unproven,
        }
    }
}

fn is_its_tag(answer: &Answer, seen: &Seen) -> bool {
    match answer {
        Answer::Accepted { etag: Some(etag), .. } => seen.etag.as_ref() == Some(etag),
        Answer::Accepted { etag: None, .. } | Answer::Lost | Answer::Refused => false,
    }
}

fn was(before: &Before) -> &'static str {
    match before {
        Before::Unknown => "not known before",
        Before::Absent => "absent before",
        Before::Object(_) => "not the object of before",
    }
}

fn evidence(answer: &Answer, by: Look, size: &str, why: &str) -> String {
    let put = match answer {
        Answer::Accepted { status, .. } => format!("PUT {status}"),
        Answer::Lost => "PUT (answer lost)".to_owned(),
        Answer::Refused => "PUT (answer lost, the next 412)".to_owned(),
    };
    let by = match by {
        Look::Head => "HEAD",
        Look::Range => "GET",
    };
    format!("{put}, {by} {size}, {why}")
}
