//! Conditional and range requests (RFC 9110, sections 13 and 14), as pure functions.
//!
//! ```text
//! If-Match | If-Unmodified-Since --fails--> 412
//! If-None-Match | If-Modified-Since --fails--> 304
//! Range, unless If-Range fails ---> 206, 416, or the whole
//! ```
//!
//! Invariant: a range that is answered lies inside the object. What cannot be parsed is ignored,
//! except in `If-Match`, where it means that nothing matches.

use std::time::{Duration, SystemTime};

use axum::http::{HeaderMap, HeaderName, header};

/// A modification time younger than this does not identify a version: its unit is a second.
const DATE_STRONG_AFTER: Duration = Duration::from_secs(60);

/// What identifies the version of an object that a reply is about.
#[derive(Debug)]
pub struct Validators {
    /// As in the `ETag` header; weak if it begins with `W/`.
    pub etag: String,
    /// In whole seconds; none if the time cannot be written as an HTTP date.
    pub modified: Option<SystemTime>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Whole,
    /// First byte, and the one after the last.
    Part(u64, u64),
    NotModified,
    PreconditionFailed,
    Unsatisfiable,
}

/// Decides what a GET (`ranges`) or HEAD of an object of `size` bytes is answered with.
pub fn answer(headers: &HeaderMap, now: &Validators, size: u64, clock: SystemTime, ranges: bool) -> Answer {
    if !allowed(headers, now) {
        return Answer::PreconditionFailed;
    }
    if unchanged(headers, now) {
        return Answer::NotModified;
    }
    let Some(range) = single(headers, &header::RANGE).filter(|_| ranges) else {
        return Answer::Whole;
    };
    if headers.contains_key(header::IF_RANGE) {
        let same = single(headers, &header::IF_RANGE)
            .is_some_and(|validator| is_same_version(validator, now, clock));
        if !same {
            return Answer::Whole;
        }
    }
    parse_range(range, size)
}

fn allowed(headers: &HeaderMap, now: &Validators) -> bool {
    if headers.contains_key(header::IF_MATCH) {
        return listed(headers, &header::IF_MATCH, |tag| tag == now.etag && !is_weak(tag));
    }
    match (date(headers, &header::IF_UNMODIFIED_SINCE), now.modified) {
        (Some(date), Some(modified)) => modified <= date,
        _ => true,
    }
}

fn unchanged(headers: &HeaderMap, now: &Validators) -> bool {
    if headers.contains_key(header::IF_NONE_MATCH) {
        let opaque = now.etag.trim_start_matches("W/");
        return listed(headers, &header::IF_NONE_MATCH, |tag| tag.trim_start_matches("W/") == opaque);
    }
    match (date(headers, &header::IF_MODIFIED_SINCE), now.modified) {
        (Some(date), Some(modified)) => modified <= date,
        _ => false,
    }
}

/// The strong comparison: two versions that pass it have the same bytes.
fn is_same_version(validator: &str, now: &Validators, clock: SystemTime) -> bool {
    if validator.starts_with('"') || is_weak(validator) {
        return validator == now.etag && !is_weak(validator);
    }
    let (Ok(date), Some(modified)) = (httpdate::parse_http_date(validator), now.modified) else {
        return false;
    };
    let age = clock.duration_since(modified).unwrap_or_default();
    date == modified && age >= DATE_STRONG_AFTER
}

fn is_weak(tag: &str) -> bool {
    tag.starts_with("W/")
}

/// Whether the header is `*` or lists a tag that `matches`.
fn listed(headers: &HeaderMap, name: &HeaderName, matches: impl Fn(&str) -> bool) -> bool {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        // Our own tags hold no comma, so cutting a foreign one in two cannot make it match.
        value.trim() == "*" || value.split(',').any(|tag| matches(tag.trim()))
    })
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(single(headers, name)?).ok()
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() { None } else { value.to_str().ok().map(str::trim) }
}

/// One range; several, other units and garbage are answered with the whole.
fn parse_range(range: &str, size: u64) -> Answer {
    let Some((unit, set)) = range.split_once('=') else {
        return Answer::Whole;
    };
    let Some((first, last)) = set.trim().split_once('-') else {
        return Answer::Whole;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Answer::Whole;
    }
    match (digits(first), digits(last)) {
        (Some(Position::At(first)), Some(Position::At(last))) if first > last => Answer::Whole,
        (Some(Position::At(first)), Some(last)) => {
            let end = match last {
                Position::Open => size,
                Position::At(last) => last.saturating_add(1).min(size),
            };
            if first < size { Answer::Part(first, end) } else { Answer::Unsatisfiable }
        }
        (Some(Position::Open), Some(Position::At(suffix))) => {
            if suffix == 0 || size == 0 {
                Answer::Unsatisfiable
            } else {
                Answer::Part(size.saturating_sub(suffix), size)
            }
        }
        (Some(Position::Open), Some(Position::Open)) | (None, _) | (_, None) => Answer::Whole,
    }
}

enum Position {
    Open,
    At(u64),
}

/// A number of any length; one too large for `u64` lies past the end of every object anyhow.
fn digits(text: &str) -> Option<Position> {
    if text.is_empty() {
        return Some(Position::Open);
    }
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| Position::At(text.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn request(fields: &[(HeaderName, &'static str)]) -> HeaderMap {
        let fields = fields.iter().cloned();
        fields.map(|(name, value)| (name, HeaderValue::from_static(value))).collect()
    }

    fn asked(fields: &[(HeaderName, &'static str)]) -> Answer {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let now = Validators { etag: "\"v1\"".into(), modified: Some(modified) };
        answer(&request(fields), &now, 10, modified + Duration::from_secs(3600), true)
    }

    #[test]
    fn single_ranges_are_cut_to_the_object() {
        for (range, expected) in [
            ("bytes=0-4", Answer::Part(0, 5)),
            ("bytes=3-", Answer::Part(3, 10)),
            ("bytes=-3", Answer::Part(7, 10)),
            ("bytes=-30", Answer::Part(0, 10)),
            ("bytes=9-99999999999999999999999", Answer::Part(9, 10)),
            ("Bytes=0-0", Answer::Part(0, 1)),
            ("bytes=10-", Answer::Unsatisfiable),
            ("bytes=99999999999999999999999-", Answer::Unsatisfiable),
            ("bytes=-0", Answer::Unsatisfiable),
            ("bytes=4-3", Answer::Whole),
            ("bytes=0-1,3-4", Answer::Whole),
            ("bytes=-", Answer::Whole),
            ("bytes=a-b", Answer::Whole),
            ("bytes=+1-2", Answer::Whole),
            ("lines=0-1", Answer::Whole),
            ("bytes", Answer::Whole),
        ] {
            assert_eq!(asked(&[(header::RANGE, range)]), expected, "{range}");
        }
        assert_eq!(parse_range("bytes=-1", 0), Answer::Unsatisfiable);
        assert_eq!(parse_range("bytes=0-", 0), Answer::Unsatisfiable);
    }

    #[test]
    fn any_text_is_answered_inside_the_object() {
        let alphabet = b"bytes=-0123456789, *\"W/";
        let mut state = 7u64;
        for _ in 0..50_000 {
            let mut text = String::from("bytes=");
            for _ in 0..state % 12 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                text.push(char::from(alphabet[(state >> 33) as usize % alphabet.len()]));
            }
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let size = state >> 60;
            if let Answer::Part(start, end) = parse_range(&text, size) {
                assert!(start < end && end <= size, "{text}");
            }
        }
    }

    #[test]
    fn a_range_of_another_version_is_answered_with_the_whole() {
        let range = (header::RANGE, "bytes=1-2");
        for (validator, expected) in [
            ("\"v1\"", Answer::Part(1, 3)),
            ("\"v2\"", Answer::Whole),
            ("W/\"v1\"", Answer::Whole),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Answer::Part(1, 3)),
            ("Sun, 06 Nov 1994 08:49:38 GMT", Answer::Whole),
            ("nonsense", Answer::Whole),
        ] {
            let fields = [range.clone(), (header::IF_RANGE, validator)];
            assert_eq!(asked(&fields), expected, "{validator}");
        }
    }

    #[test]
    fn preconditions_compare_as_the_rfc_says() {
        for (name, value, expected) in [
            (header::IF_MATCH, "\"v1\"", Answer::Whole),
            (header::IF_MATCH, "\"x\", \"v1\"", Answer::Whole),
            (header::IF_MATCH, "*", Answer::Whole),
            (header::IF_MATCH, "W/\"v1\"", Answer::PreconditionFailed),
            (header::IF_MATCH, "\"v2\"", Answer::PreconditionFailed),
            (header::IF_NONE_MATCH, "\"v1\"", Answer::NotModified),
            (header::IF_NONE_MATCH, "W/\"v1\"", Answer::NotModified),
            (header::IF_NONE_MATCH, "\"v2\"", Answer::Whole),
            (header::IF_MODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:37 GMT", Answer::NotModified),
            (header::IF_MODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:36 GMT", Answer::Whole),
            (header::IF_UNMODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:36 GMT", Answer::PreconditionFailed),
            (header::IF_UNMODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:37 GMT", Answer::Whole),
        ] {
            assert_eq!(asked(&[(name.clone(), value)]), expected, "{name}: {value}");
        }
    }
}
