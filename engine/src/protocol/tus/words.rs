//! Requests and replies of tus, as its single stream and its parallel parts word them alike.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::state::Server;
use crate::job::{ChecksumAlgorithm, FailCause};
use crate::ports::WallMs;
use crate::protocol::wire::{self, Verdict};
use crate::protocol::{Body, DigestHeader, Effect, Facts, Next, Reply, Retry, Send, Sink};

const SMALL: Sink = Sink::Small(4096);
const OFFSET_STREAM: HeaderValue = HeaderValue::from_static("application/offset+octet-stream");
const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
const UPLOAD_METADATA: HeaderName = HeaderName::from_static("upload-metadata");
const UPLOAD_EXPIRES: HeaderName = HeaderName::from_static("upload-expires");
const TUS_VERSION: HeaderName = HeaderName::from_static("tus-version");
const TUS_MAX_SIZE: HeaderName = HeaderName::from_static("tus-max-size");

pub(in crate::protocol) fn request(
    lane: u16,
    method: Method,
    url: &str,
    mut headers: HeaderMap,
    body: Body,
) -> Effect {
    headers.insert("tus-resumable", HeaderValue::from_static("1.0.0"));
    let url = url.to_owned();
    Effect::Send(Box::new(Send { lane, method, url, headers, body, sink: SMALL, follow_redirects: false }))
}

/// What an answer to OPTIONS says about an upload of `size` bytes.
pub(in crate::protocol) fn offered(facts: &Facts<'_>, size: u64, reply: &Reply) -> Result<Server, Next> {
    if !reply.status.is_success() {
        return match wire::classify(reply, facts.now) {
            Verdict::Retry(retry) => Err(Next::Retry(retry)),
            // No OPTIONS here; whether there is tus, the creation will show.
            Verdict::Auth(_) | Verdict::Final(_) => Ok(Server::assumed()),
        };
    }
    let headers = &reply.headers;
    if headers.contains_key(TUS_VERSION) && !wire::lists(headers, &TUS_VERSION, "1.0.0") {
        let why = "the server speaks tus, but not version 1.0.0";
        return Err(Next::Fail(FailCause::Protocol(why.to_owned())));
    }
    // A limit that cannot be read does not bind; the creation will be refused if it must.
    if let Some(max) = wire::number(headers, &TUS_MAX_SIZE).ok().flatten().filter(|&max| max < size) {
        let detail = format!("the file has {size} bytes, the server takes at most {max}");
        return Err(Next::Fail(FailCause::Rejected { status: 413, detail }));
    }
    Ok(Server::offered(headers))
}

/// Tells the server how the file and the job are called.
pub(in crate::protocol) fn describe(headers: &mut HeaderMap, facts: &Facts<'_>) {
    let name: String = facts.name.chars().map(|c| if c.is_control() { '_' } else { c }).collect();
    let metadata = wire::upload_metadata(&[("filename", &name), ("haul-token", &facts.token.to_string())]);
    if let Ok(metadata) = HeaderValue::try_from(metadata) {
        headers.insert(UPLOAD_METADATA, metadata);
    }
}

/// Marks a request as one that carries bytes.
pub(in crate::protocol) fn carries_bytes(headers: &mut HeaderMap) {
    headers.insert(CONTENT_TYPE, OFFSET_STREAM);
}

/// Headers of a PATCH at `offset`, and how its bytes are to be hashed.
pub(in crate::protocol) fn patch(
    offset: u64,
    checksum: Option<ChecksumAlgorithm>,
) -> (HeaderMap, Option<DigestHeader>) {
    let mut headers = HeaderMap::new();
    carries_bytes(&mut headers);
    headers.insert(UPLOAD_OFFSET, HeaderValue::from(offset));
    let digest = checksum.map(|algorithm| DigestHeader {
        name: "upload-checksum",
        prefix: if algorithm == ChecksumAlgorithm::Sha256 { "sha256 " } else { "sha1 " },
        suffix: "",
        algorithm,
    });
    (headers, digest)
}

/// Upload-Offset.
pub(in crate::protocol) fn offset(reply: &Reply) -> Result<Option<u64>, wire::Malformed> {
    wire::number(&reply.headers, &UPLOAD_OFFSET)
}

/// Upload-Offset and Upload-Length.
pub(in crate::protocol) fn numbers(reply: &Reply) -> Result<(Option<u64>, Option<u64>), wire::Malformed> {
    Ok((offset(reply)?, wire::number(&reply.headers, &UPLOAD_LENGTH)?))
}

/// When the server means to drop the upload. A date that cannot be read is none.
pub(in crate::protocol) fn expiry(reply: &Reply) -> Option<WallMs> {
    wire::text(&reply.headers, &UPLOAD_EXPIRES).ok().flatten().and_then(wire::http_date)
}

/// Whether a creation that was refused so may all the same have been carried out: a gateway that gave up does
/// not know what the server behind it did.
pub(in crate::protocol) fn in_doubt(reply: &Reply) -> bool {
    matches!(reply.status.as_u16(), 500 | 502 | 504)
}

/// The upload is locked by a request that still runs: at once is too soon.
pub(in crate::protocol) fn locked(reply: &Reply, now: WallMs) -> Retry {
    let retry = wire::again(reply, now);
    let after = retry.after.or(Some(Duration::from_secs(1)));
    Retry { after, ..retry }
}

/// The digest did not fit the bytes that arrived.
pub(in crate::protocol) fn spoiled(reply: &Reply, now: WallMs, url: &str) -> Retry {
    let why = format!("{} got other bytes than were sent (460)", wire::host(url));
    Retry { why, ..wire::again(reply, now) }
}
