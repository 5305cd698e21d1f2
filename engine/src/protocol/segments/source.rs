//! Whether an answer's bytes may be stored: every one is judged by itself, the first and the last alike.
//!
//! | source | 206 is taken if | otherwise |
//! |---|---|---|
//! | the lead | as asked for, the lead's validator, total equal or not told | another file: all over again; a range that was not asked for, or not comparable: one stream |
//! | a mirror | as asked for, total equal, no digest differs, its own validator as before, and either the lead's strong `ETag` or a digest of the whole that is known and will be compared at the end | it is dropped |
//!
//! 200 says that a lead has another file or does no ranges, and 412 and 416 that it has another file.

use std::ops::Range;

use http::HeaderMap;
use http::header::{ETAG, LAST_MODIFIED};
use sha2::Digest as _;

use super::state::{Standing, Work};
use crate::protocol::get::answer::part_of;
use crate::protocol::get::state::Validator;
use crate::protocol::get::{Likeness, Version};
use crate::protocol::wire::{self, Verdict};
use crate::protocol::{Facts, Next, Reply, Retry};

/// What is to be done with an answer to a ranged request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Its body is what was asked for.
    Take {
        /// Where it ends in the file.
        until: u64,
        /// What is known of the source now.
        standing: Standing,
    },
    /// The lead has another file than before.
    Changed(String),
    /// The lead's ranges are of no use.
    Whole(String),
    /// The mirror is of no use.
    Drop(String),
    /// Come again.
    Again(Retry),
    /// The lead's final no.
    No(Next),
}

/// Judges the answer of a source to a request for `asked`.
pub fn judge(
    facts: &Facts<'_>,
    work: &Work,
    standing: Standing,
    asked: &Range<u64>,
    reply: &Reply,
) -> Answer {
    match standing {
        Standing::Lead => lead(facts, work, asked, reply),
        Standing::Untried => mirror(facts, work, None, asked, reply),
        Standing::Agreed { print, .. } => mirror(facts, work, Some(print), asked, reply),
        Standing::Dropped => Answer::Drop("it was dropped meanwhile".to_owned()),
    }
}

fn lead(facts: &Facts<'_>, work: &Work, asked: &Range<u64>, reply: &Reply) -> Answer {
    let host = wire::host(&reply.url);
    match reply.status.as_u16() {
        206 => lead_part(work, asked, reply),
        200 => {
            let length = wire::content_length(&reply.headers).ok().flatten();
            let same = work.version.likeness(&reply.headers, true) == Likeness::Same;
            if same && length == work.version.total {
                Answer::Whole(format!("{host} gives no ranges of this file"))
            } else {
                Answer::Changed(format!("{host} has another file than before"))
            }
        }
        status @ (412 | 416) => Answer::Changed(format!("{host} has another file than before ({status})")),
        _ => match wire::classify(reply, facts.now) {
            Verdict::Retry(retry) => Answer::Again(retry),
            no @ (Verdict::Auth(_) | Verdict::Final(_)) => Answer::No(no.into()),
        },
    }
}

fn lead_part(work: &Work, asked: &Range<u64>, reply: &Reply) -> Answer {
    let range = match part_of(reply) {
        Ok(range) => range,
        Err(cause) => return Answer::Whole(cause.to_string()),
    };
    let changed = || Answer::Changed(format!("{} has another file than before", wire::host(&reply.url)));
    match work.version.likeness(&reply.headers, false) {
        Likeness::Same => {}
        Likeness::Changed => return changed(),
        Likeness::Unproven => {
            return Answer::Whole("a range came without what shows that it is of the same file".to_owned());
        }
    }
    if range.total.is_some_and(|total| total != work.total()) {
        return changed();
    }
    match within(&(range.first..range.last + 1), asked) {
        Ok(until) => Answer::Take { until, standing: Standing::Lead },
        Err(why) => Answer::Whole(why),
    }
}

fn mirror(
    facts: &Facts<'_>,
    work: &Work,
    before: Option<[u8; 16]>,
    asked: &Range<u64>,
    reply: &Reply,
) -> Answer {
    if reply.status.as_u16() != 206 {
        return match wire::classify(reply, facts.now) {
            Verdict::Retry(retry) => Answer::Again(retry),
            Verdict::Auth(why) => Answer::Drop(why),
            Verdict::Final(cause) => Answer::Drop(cause.to_string()),
        };
    }
    let range = match part_of(reply) {
        Ok(range) => range,
        Err(cause) => return Answer::Drop(cause.to_string()),
    };
    if range.total != Some(work.total()) {
        return Answer::Drop("its file has another length".to_owned());
    }
    let print = print(&reply.headers);
    if before.is_some_and(|before| before != print) {
        return Answer::Drop("its file changed under way".to_owned());
    }
    let Some(tagged) = agrees(facts, &work.version, &reply.headers) else {
        return Answer::Drop("nothing shows that its file is the same".to_owned());
    };
    match within(&(range.first..range.last + 1), asked) {
        Ok(until) => Answer::Take { until, standing: Standing::Agreed { tagged, print } },
        Err(why) => Answer::Drop(why),
    }
}

/// The end of a body that begins where it was asked for and does not go on past it.
fn within(range: &Range<u64>, asked: &Range<u64>) -> Result<u64, String> {
    if range.start == asked.start && range.end <= asked.end {
        return Ok(range.end);
    }
    let (first, last) = (range.start, range.end - 1);
    Err(format!("bytes {first}-{last} came, {}-{} were asked for", asked.start, asked.end - 1))
}

/// Whether a mirror's answer is of this version, as far as can be told now; inside, whether it has the
/// version's entity tag.
fn agrees(facts: &Facts<'_>, version: &Version, headers: &HeaderMap) -> Option<bool> {
    let told = wire::repr_digest(headers);
    let known = || version.digest.iter().chain(facts.checksum);
    if let Some(told) = &told
        && known().any(|ours| ours.algorithm == told.algorithm && ours.digest != told.digest)
    {
        return None;
    }
    let tagged = match (&version.validator, wire::etag(headers)) {
        (Some(Validator::Tag(ours)), Some(wire::EntityTag::Strong(theirs))) => *ours == theirs,
        (Some(Validator::Tag(_) | Validator::Modified(_)) | None, _) => false,
    };
    // A digest that is known is compared with the whole file at the end, whoever's bytes are in it.
    (tagged || known().next().is_some()).then_some(tagged)
}

/// What a mirror's later answers must have as its first had it. Last-Modified counts only without an
/// entity tag: an answer to If-Range may leave it out.
fn print(headers: &HeaderMap) -> [u8; 16] {
    let validator = headers.get(ETAG).or_else(|| headers.get(LAST_MODIFIED));
    let hash = sha2::Sha256::digest(validator.map_or(b"".as_slice(), |value| value.as_bytes()));
    std::array::from_fn(|at| hash[at])
}
