//! What servers write in heads, read strictly and worded shortly.
//!
//! ```text
//! head ──▶ one header, or none ──▶ typed value      (twice, signed, padded, huge: `Malformed`)
//! reply, loss ──▶ `classify`, `lost` ──▶ come again · credentials · the end
//! ```
//!
//! | reply | verdict |
//! |---|---|
//! | 408, 425, 429, 500, 502, 503, 504 | retry; 429 and 503 throttled; Retry-After passed on |
//! | 401, 403 | suspend until someone brings other credentials |
//! | 507, every other 4xx and 5xx | the server's final no |
//! | 1xx, 2xx, 3xx that a protocol did not expect | the server broke the protocol |
//! | no reply: connect, timeout, broken | retry |
//! | no reply: offline | retry when there is a way again; no attempt is counted |
//! | no reply: TLS refused the peer, the engine's own rules | the end; never again without TLS |
//!
//! Invariants: pure; no input panics; every text that goes on from here is bounded and printable,
//! and none has a query string or user information of a URL in it.
//!
//! Absent on purpose: clamping of Retry-After (`schedule::retry`), header lookup by more than one
//! name, and leniency: a header that can be read in two ways is an error.

pub mod name;

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, DATE, ETAG, LAST_MODIFIED, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use url::Url;

pub use name::{name_from_url, served_name};

use super::{DigestHeader, Next, Reply, Retry};
use crate::job::{Checksum, ChecksumAlgorithm, FailCause, SuspendCause};
use crate::ports::{NetErrorKind, WallMs};

/// Longest URL that is taken from a server or kept.
pub const URL_MAX: usize = 4096;
/// Longest entity tag that serves as a validator.
const ETAG_MAX: usize = 1024;
/// Longest date text.
const DATE_MAX: usize = 64;
/// Characters of a server's explanation that people get to read.
const DETAIL_MAX: usize = 200;
/// Largest number taken from a header; far above any file, far below overflow.
const NUMBER_MAX: u64 = 1 << 63;
/// A Last-Modified younger than this at its reply may still name two contents (RFC 9110, 8.8.2.2).
const DATE_STRONG_AFTER: Duration = Duration::from_secs(60);

/// A header that cannot be read in exactly one way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{header}: {why}")]
pub struct Malformed {
    /// Header name.
    pub header: String,
    /// What is wrong with it.
    pub why: String,
}

impl Malformed {
    fn new(header: &HeaderName, why: impl Into<String>) -> Self {
        Self { header: header.to_string(), why: why.into() }
    }
}

impl From<Malformed> for FailCause {
    fn from(malformed: Malformed) -> Self {
        Self::Protocol(malformed.to_string())
    }
}

/// The only value of a header. None: absent.
pub fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a [u8]>, Malformed> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value.map(HeaderValue::as_bytes)),
        (_, Some(_)) => Err(Malformed::new(name, "given more than once")),
    }
}

/// The only value of a header, as text.
pub fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Malformed> {
    single(headers, name)?
        .map(|bytes| {
            let text = std::str::from_utf8(bytes).ok().filter(|text| !text.contains(char::is_control));
            text.ok_or_else(|| Malformed::new(name, "not plain text"))
        })
        .transpose()
}

/// Digits and nothing else, up to 2^63.
pub fn digits(bytes: &[u8]) -> Option<u64> {
    let decimal = !bytes.is_empty() && bytes.len() <= 19 && bytes.iter().all(u8::is_ascii_digit);
    let number = decimal.then(|| std::str::from_utf8(bytes).ok()?.parse().ok()).flatten()?;
    (number <= NUMBER_MAX).then_some(number)
}

/// A header that is one number.
pub fn number(headers: &HeaderMap, name: &HeaderName) -> Result<Option<u64>, Malformed> {
    single(headers, name)?
        .map(|bytes| digits(bytes).ok_or_else(|| Malformed::new(name, "not a plain number up to 2^63")))
        .transpose()
}

/// Content-Length.
pub fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    number(headers, &CONTENT_LENGTH)
}

/// Whether a comma-separated list has this token, letter case aside.
pub fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(token))
}

/// Content-Range in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentRange {
    /// `bytes first-last/total`: the body is these bytes, `last` included.
    Part {
        /// First byte.
        first: u64,
        /// Last byte.
        last: u64,
        /// The whole size; `None` for `*`.
        total: Option<u64>,
    },
    /// `bytes */total`: the range asked for does not exist.
    Unsatisfied {
        /// The whole size.
        total: u64,
    },
}

/// Content-Range: `first ≤ last < total`, no signs, no spaces but the one.
pub fn content_range(headers: &HeaderMap) -> Result<Option<ContentRange>, Malformed> {
    single(headers, &CONTENT_RANGE)?
        .map(|bytes| {
            parse_range(bytes).ok_or_else(|| Malformed::new(&CONTENT_RANGE, "not one range of bytes"))
        })
        .transpose()
}

fn parse_range(bytes: &[u8]) -> Option<ContentRange> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (unit, rest) = text.split_once(' ')?;
    let (range, total) = rest.split_once('/')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    if range == "*" {
        return Some(ContentRange::Unsatisfied { total: digits(total.as_bytes())? });
    }
    let (first, last) = range.split_once('-')?;
    let (first, last) = (digits(first.as_bytes())?, digits(last.as_bytes())?);
    let total = if total == "*" { None } else { Some(digits(total.as_bytes())?) };
    let fits = first <= last && last < total.unwrap_or(NUMBER_MAX);
    fits.then_some(ContentRange::Part { first, last, total })
}

/// An entity tag, as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntityTag {
    /// Names one sequence of bytes; with its quotes.
    Strong(String),
    /// Names something similar enough: no good for ranges.
    Weak(String),
}

/// `ETag`; `None` when absent, repeated, overlong or not of the syntax.
pub fn etag(headers: &HeaderMap) -> Option<EntityTag> {
    let value = text(headers, &ETAG).ok()??;
    let (weak, opaque) = value.strip_prefix("W/").map_or((false, value), |rest| (true, rest));
    let inner = opaque.strip_prefix('"')?.strip_suffix('"')?;
    let sound = value.len() <= ETAG_MAX && inner.bytes().all(|byte| byte == 0x21 || byte >= 0x23);
    sound.then(|| if weak { EntityTag::Weak(value.to_owned()) } else { EntityTag::Strong(value.to_owned()) })
}

/// Last-Modified as received, if it is strong: at least a minute older than the reply's Date.
pub fn strong_last_modified(headers: &HeaderMap) -> Option<String> {
    let modified = text(headers, &LAST_MODIFIED).ok()?.filter(|value| value.len() <= DATE_MAX)?;
    let date = text(headers, &DATE).ok()??;
    let age = http_date(date)?.0.checked_sub(http_date(modified)?.0)?;
    (u128::from(age) >= DATE_STRONG_AFTER.as_millis()).then(|| modified.to_owned())
}

/// An HTTP-date in any of its three forms.
pub fn http_date(text: &str) -> Option<WallMs> {
    let since = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok().map(WallMs)
}

/// An instant as an HTTP-date, for people.
pub fn format_date(at: WallMs) -> String {
    // The last year that the form can word is 9999.
    let at = Duration::from_millis(at.0.min(253_402_300_799_000));
    UNIX_EPOCH.checked_add(at).map_or_else(String::new, |at: SystemTime| httpdate::fmt_http_date(at))
}

/// Retry-After, seconds or date; what lies in the past is zero. Unclamped.
pub fn retry_after(headers: &HeaderMap, now: WallMs) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let unsigned = value.strip_prefix('-').unwrap_or(value);
    if !unsigned.is_empty() && unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        let seconds = unsigned.parse().unwrap_or(u64::from(u32::MAX));
        return Some(Duration::from_secs(if unsigned == value { seconds } else { 0 }));
    }
    Some(Duration::from_millis(http_date(value)?.0.saturating_sub(now.0)))
}

/// tus Upload-Metadata: `key base64, …`.
pub fn upload_metadata(pairs: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (key, value) in pairs {
        let comma = if out.is_empty() { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(out, "{comma}{key} {}", STANDARD.encode(value));
    }
    out
}

/// The strongest digest of the whole representation that this version knows (RFC 9530).
pub fn repr_digest(headers: &HeaderMap) -> Option<Checksum> {
    let lines: Option<Vec<&str>> =
        headers.get_all("repr-digest").iter().map(|value| value.to_str().ok()).collect();
    let mut best: Option<Checksum> = None;
    for member in lines?.join(",").split(',').filter(|member| !member.trim().is_empty()) {
        // One malformed member spoils the field, as in every structured field.
        let (key, digest) = digest_member(member.trim())?;
        let algorithm = match key {
            "sha-256" => ChecksumAlgorithm::Sha256,
            "sha-512" => ChecksumAlgorithm::Sha512,
            _ => continue,
        };
        if digest.len() != algorithm.digest_len() {
            return None;
        }
        if best.as_ref().is_none_or(|best| best.algorithm.digest_len() <= algorithm.digest_len()) {
            best = Some(Checksum { algorithm, digest });
        }
    }
    best
}

/// `key=:base64:`, parameters aside.
fn digest_member(member: &str) -> Option<(&str, Vec<u8>)> {
    let (key, value) = member.split_once('=')?;
    let named = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(&byte);
    let starts = key.starts_with(|first: char| first.is_ascii_lowercase() || first == '*');
    let (encoded, parameters) = value.strip_prefix(':')?.split_once(':')?;
    let sound = starts && key.bytes().all(named) && (parameters.is_empty() || parameters.starts_with(';'));
    sound.then(|| STANDARD.decode(encoded).ok()).flatten().map(|digest| (key, digest))
}

/// Location, resolved against the URL that was asked: same origin, no user information.
pub fn location(headers: &HeaderMap, base: &str) -> Result<Option<String>, Malformed> {
    let Some(value) = text(headers, &LOCATION)? else { return Ok(None) };
    let wrong = |why: &str| Malformed::new(&LOCATION, why);
    let mut base = Url::parse(base).map_err(|_| wrong("the URL asked has no base"))?;
    // What user information the submitted URL has is not the server's doing.
    let _ = base.set_username("").and(base.set_password(None));
    if value.is_empty() || value.len() > URL_MAX {
        return Err(wrong("empty or longer than 4 KiB"));
    }
    let mut url = base.join(value).map_err(|_| wrong("not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") || url.origin() != base.origin() {
        return Err(wrong(&format!("another origin, {}", redact(url.as_str()))));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("has user information"));
    }
    url.set_fragment(None);
    let url = String::from(url);
    if url.len() > URL_MAX { Err(wrong("longer than 4 KiB")) } else { Ok(Some(url)) }
}

/// A URL for people: no user information, no fragment, and nothing of the query but that it is there.
pub fn redact(url: &str) -> String {
    let Ok(url) = Url::parse(url) else { return "(no URL)".to_owned() };
    let query = if url.query().is_some() { "?…" } else { "" };
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    let path = printable(url.path(), 1024);
    format!("{}://{}{port}{path}{query}", url.scheme(), url.host_str().unwrap_or_default())
}

/// Whether both are absolute URLs of one scheme, host and port.
pub fn same_origin(one: &str, other: &str) -> bool {
    match (Url::parse(one), Url::parse(other)) {
        (Ok(one), Ok(other)) => one.origin().is_tuple() && one.origin() == other.origin(),
        (Err(_), _) | (_, Err(_)) => false,
    }
}

/// The value of a header that holds a digest.
pub fn digest_value(wanted: &DigestHeader, digest: &[u8]) -> HeaderValue {
    let value = format!("{}{}{}", wanted.prefix, STANDARD.encode(digest), wanted.suffix);
    // Prefix and suffix are this program's own plain text.
    HeaderValue::try_from(value).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Host and port of a URL, for people.
pub fn host(url: &str) -> String {
    let parsed = Url::parse(url).ok();
    let host = parsed.as_ref().and_then(|url| Some((url.host_str()?, url.port())));
    match host {
        Some((host, Some(port))) => format!("{host}:{port}"),
        Some((host, None)) => host.to_owned(),
        None => "the server".to_owned(),
    }
}

/// What a reply means when the protocol has no meaning of its own for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Come again.
    Retry(Retry),
    /// Not with these credentials.
    Auth(String),
    /// The end.
    Final(FailCause),
}

impl From<Verdict> for Next {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Retry(retry) => Self::Retry(retry),
            Verdict::Auth(why) => Self::Suspend(SuspendCause::Auth(why)),
            Verdict::Final(cause) => Self::Fail(cause),
        }
    }
}

/// Sorts a reply that its protocol did not hope for. See the table at the top.
pub fn classify(reply: &Reply, now: WallMs) -> Verdict {
    let text = explain(reply);
    let words = format!("{} {text}", reply.status.as_u16());
    match reply.status.as_u16() {
        408 | 425 | 429 | 500 | 502 | 503 | 504 => Verdict::Retry(again(reply, now)),
        401 | 403 => Verdict::Auth(words),
        status @ 400..=599 => Verdict::Final(FailCause::Rejected { status, detail: text }),
        _ => Verdict::Final(FailCause::Protocol(format!("{words}: not an answer to what was asked"))),
    }
}

/// A retry because of this reply, whatever its status.
pub fn again(reply: &Reply, now: WallMs) -> Retry {
    Retry {
        after: retry_after(&reply.headers, now),
        throttled: matches!(reply.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE),
        offline: false,
        why: format!("{} {}", reply.status.as_u16(), explain(reply)),
    }
}

/// What a request without a reply means; `url` is the one asked, `why` the transport's own words.
pub fn lost(kind: NetErrorKind, why: &str, url: &str) -> Next {
    let what = match kind {
        NetErrorKind::Connect => "no connection to",
        NetErrorKind::Offline => "no way to",
        NetErrorKind::Cut => "the request was cut off to",
        NetErrorKind::Timeout => "nothing moved for too long to or from",
        NetErrorKind::Broken => "the connection broke to",
        NetErrorKind::Body => "the file could not be read while it was sent to",
        NetErrorKind::Tls => "TLS does not trust",
        NetErrorKind::Refused => "refused, at",
    };
    let why = printable(why, DETAIL_MAX);
    let colon = if why.is_empty() { "" } else { ": " };
    let host = host(url);
    // The real port's messages begin with the origin and say the rest.
    let why = if why.contains(&host) { why } else { format!("{what} {host}{colon}{why}") };
    match kind {
        NetErrorKind::Connect
        | NetErrorKind::Offline
        | NetErrorKind::Timeout
        | NetErrorKind::Broken
        | NetErrorKind::Cut
        | NetErrorKind::Body => {
            Next::Retry(Retry { offline: kind == NetErrorKind::Offline, ..Retry::because(why) })
        }
        NetErrorKind::Tls | NetErrorKind::Refused => Next::Fail(FailCause::Protocol(why)),
    }
}

/// `Not Found from host: the start of its text`.
fn explain(reply: &Reply) -> String {
    let reason = reply.status.canonical_reason().unwrap_or("(unknown status)");
    let body = printable(&String::from_utf8_lossy(&reply.body), DETAIL_MAX);
    let colon = if body.is_empty() { "" } else { ": " };
    format!("{reason} from {}{colon}{body}", host(&reply.url))
}

/// At most `max` printable characters; runs of white space become one space.
pub fn printable(text: &str, max: usize) -> String {
    let mut out = String::new();
    for word in text.split_whitespace() {
        let space = if out.is_empty() { "" } else { " " };
        out.push_str(space);
        out.extend(word.chars().filter(|&letter| !name::invisible(letter)));
        if out.len() > max.saturating_mul(4) {
            break;
        }
    }
    if let Some((cut, _)) = out.char_indices().nth(max) {
        out.truncate(cut);
    }
    out.truncate(out.trim_end().len());
    out
}

#[cfg(test)]
mod tests;
