//! What every GET of a file asks for, and the first look at what comes back.
//!
//! Invariant: pure; one explicit range is asked for, and only one is read.

use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};

use crate::job::FailCause;
use crate::protocol::wire::{self, ContentRange};
use crate::protocol::{Body, Effect, Reply, Send, Sink};

/// A request for the plain file, or the head of it.
pub fn request(lane: u16, method: Method, url: &str, mut headers: HeaderMap, sink: Sink) -> Effect {
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert("want-repr-digest", HeaderValue::from_static("sha-256=10"));
    let (url, body) = (url.to_owned(), Body::Empty);
    Effect::Send(Box::new(Send { lane, method, url, headers, body, sink, follow_redirects: true }))
}

/// The one range that a 206 carries.
pub struct Received {
    /// First byte.
    pub first: u64,
    /// Last byte.
    pub last: u64,
    /// The whole size, if told.
    pub total: Option<u64>,
}

/// The range in a 206; anything but one plain range that can be read in one way is refused.
pub fn part_of(reply: &Reply) -> Result<Received, FailCause> {
    let headers = &reply.headers;
    identity(headers).map_err(FailCause::Protocol)?;
    let kind = wire::text(headers, &CONTENT_TYPE)?.unwrap_or_default().to_ascii_lowercase();
    if kind.trim_start().starts_with("multipart/byteranges") {
        return Err(FailCause::Protocol("206 with several ranges, one was asked for".to_owned()));
    }
    let Some(ContentRange::Part { first, last, total }) = wire::content_range(headers)? else {
        return Err(FailCause::Protocol("206 without a Content-Range of its bytes".to_owned()));
    };
    if wire::content_length(headers)?.is_some_and(|length| length != last - first + 1) {
        return Err(FailCause::Protocol("206 with a Content-Length other than its Content-Range".to_owned()));
    }
    Ok(Received { first, last, total })
}

/// Refuses a body that is coded.
pub fn identity(headers: &HeaderMap) -> Result<(), String> {
    let codings =
        headers.get_all(CONTENT_ENCODING).iter().map(|value| value.to_str().unwrap_or("(unreadable)"));
    let mut codings = codings.flat_map(|value| value.split(',')).map(str::trim);
    let coded = codings.find(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"));
    coded.map_or(Ok(()), |coding| {
        Err(format!("the file comes coded as {}, plain was asked for", wire::printable(coding, 40)))
    })
}
