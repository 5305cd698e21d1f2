//! Spans, rates and points in time as people write them.
//!
//! ```text
//! +2h30m                   from now
//! 22:30                    the next time local clocks show it: today or tomorrow
//! 2026-11-22 22:30         local time
//! 2026-11-22T22:30:00Z     RFC 3339
//! ```
//!
//! A local time that clocks skip (they are put forward) is as late as it would have been; one that they show
//! twice is the first that is still to come.
//!
//! Absent on purpose: the clock and the zone in the rules themselves; both come in.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use longhaul::WallMs;

use crate::text::{escape, parse_size};

/// A point in time as an option names it, from now and in the local zone.
///
/// # Errors
///
/// A text that says what is expected.
pub fn parse_when(text: &str) -> Result<WallMs, String> {
    resolve(text, Timestamp::now(), &TimeZone::system())
}

fn resolve(text: &str, now: Timestamp, zone: &TimeZone) -> Result<WallMs, String> {
    let form = || {
        format!("{} is no time; write +2h30m, 22:30, 2026-11-22 22:30 or 2026-11-22T22:30:00Z", escape(text))
    };
    let at = if let Some(span) = text.strip_prefix('+') {
        let span = parse_span(span)?;
        now.checked_add(span).map_err(|_| form())?
    } else if let Ok(at) = text.parse::<Timestamp>() {
        at
    } else if let Some(time) = time_of_day(text) {
        next(time, now, zone).ok_or_else(form)?
    } else {
        let local: DateTime = text.parse().map_err(|_| form())?;
        coming(local, now, zone).ok_or_else(form)?
    };
    u64::try_from(at.as_millisecond()).map(WallMs).map_err(|_| form())
}

/// `22:30` and `22:30:15`, and nothing else that a civil time may be written as.
fn time_of_day(text: &str) -> Option<Time> {
    let fits = matches!(text.len(), 5 | 8)
        && text.bytes().enumerate().all(
            |(at, byte)| {
                if at % 3 == 2 { byte == b':' } else { byte.is_ascii_digit() }
            },
        );
    if fits { text.parse().ok() } else { None }
}

fn next(time: Time, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let today = zone.to_datetime(now).date();
    let days = [today, today.tomorrow().ok()?];
    days.into_iter().filter_map(|day| coming(day.to_datetime(time), now, zone)).find(|at| *at > now)
}

/// The instant of a local time: of two the first that is still to come.
fn coming(local: DateTime, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let first = zone.to_ambiguous_timestamp(local).compatible().ok()?;
    if first > now {
        return Some(first);
    }
    zone.to_ambiguous_timestamp(local).later().ok()
}

/// A span as people write it: `90`, `60s`, `2h30m`, `30d`; seconds where no unit is given.
///
/// # Errors
///
/// A text that says what is expected.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    let form = || format!("{} is no span of time; write 90s, 2h30m or 30d", escape(text));
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map(Duration::from_secs).map_err(|_| form());
    }
    let (mut rest, mut all, mut last) = (text, 0u64, u64::MAX);
    while !rest.is_empty() {
        let (number, more) = split_at(rest, |c| !c.is_ascii_digit());
        let (unit, more) = split_at(more, |c| c.is_ascii_digit());
        let seconds = match unit {
            "w" => 604_800,
            "d" => 86_400,
            "h" => 3600,
            "m" | "min" => 60,
            "s" => 1,
            _ => return Err(form()),
        };
        // Units fall, so that 5m2h is not taken for what nobody meant.
        if seconds >= last {
            return Err(form());
        }
        let number: u64 = number.parse().map_err(|_| form())?;
        all = number.checked_mul(seconds).and_then(|part| all.checked_add(part)).ok_or_else(form)?;
        (rest, last) = (more, seconds);
    }
    if last == u64::MAX { Err(form()) } else { Ok(Duration::from_secs(all)) }
}

fn split_at(text: &str, ends: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(ends).unwrap_or(text.len()))
}

/// The span as [`parse_span`] reads it, in its largest units.
pub fn show_span(span: Duration) -> String {
    let mut left = span.as_secs();
    let mut text = String::new();
    for (unit, seconds) in [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)] {
        if left >= seconds {
            text = format!("{text}{}{unit}", left / seconds);
            left %= seconds;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Bytes a second as curl takes them, `100k` or `1M` (of 1024), or with a unit: `10MB`, `2MiB/s`. 0: no limit.
///
/// # Errors
///
/// A text that says what is expected.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    parse_size(text.strip_suffix("/s").unwrap_or(text))
        .map_err(|_| format!("{} is no rate; write 500k, 10M or 2MiB/s, or 0 for none", escape(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Central Europe without a database: clocks go forward on 29 March 2026, back on 25 October, at 01:00 UTC.
    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a zone")
    }

    fn at(text: &str, now: &str) -> Result<String, String> {
        let now: Timestamp = now.parse().expect("a time");
        let WallMs(ms) = resolve(text, now, &berlin())?;
        Ok(Timestamp::from_millisecond(i64::try_from(ms).expect("near")).expect("near").to_string())
    }

    #[test]
    fn a_time_of_day_is_the_next_one() {
        let now = "2026-07-01T12:00:00Z"; // 14:00 on local clocks
        assert_eq!(at("22:30", now).as_deref(), Ok("2026-07-01T20:30:00Z"));
        assert_eq!(at("13:59", now).as_deref(), Ok("2026-07-02T11:59:00Z"));
        assert_eq!(at("14:00", now).as_deref(), Ok("2026-07-02T12:00:00Z"));
        assert_eq!(at("14:00:05", now).as_deref(), Ok("2026-07-01T12:00:05Z"));
        // Past midnight there, before it in UTC.
        assert_eq!(at("00:30", "2026-06-30T22:15:00Z").as_deref(), Ok("2026-06-30T22:30:00Z"));
    }

    #[test]
    fn clocks_that_jump_lose_no_night() {
        // 02:30 is skipped on 29 March: as late as it would have been.
        assert_eq!(at("02:30", "2026-03-28T23:00:00Z").as_deref(), Ok("2026-03-29T01:30:00Z"));
        // 02:30 comes twice on 25 October: the first, and after it the second.
        assert_eq!(at("02:30", "2026-10-24T23:00:00Z").as_deref(), Ok("2026-10-25T00:30:00Z"));
        assert_eq!(at("02:30", "2026-10-25T00:45:00Z").as_deref(), Ok("2026-10-25T01:30:00Z"));
        assert_eq!(at("02:30", "2026-10-25T01:45:00Z").as_deref(), Ok("2026-10-26T01:30:00Z"));
        // A span is a span, whatever clocks show.
        assert_eq!(at("+24h", "2026-03-28T12:00:00Z").as_deref(), Ok("2026-03-29T12:00:00Z"));
    }

    #[test]
    fn dates_are_local_unless_they_say_otherwise() {
        let now = "2026-01-01T00:00:00Z";
        assert_eq!(at("2026-11-22T14:03:11Z", now).as_deref(), Ok("2026-11-22T14:03:11Z"));
        assert_eq!(at("2026-11-22T14:03:11+01:00", now).as_deref(), Ok("2026-11-22T13:03:11Z"));
        assert_eq!(at("2026-11-22 14:03", now).as_deref(), Ok("2026-11-22T13:03:00Z"));
        assert_eq!(at("+2h30m", now).as_deref(), Ok("2026-01-01T02:30:00Z"));
        for wrong in ["", "soon", "25:00", "7:30", "+", "+2x", "2026-13-01 10:00", "1969-01-01T00:00:00Z"] {
            assert!(at(wrong, now).is_err(), "{wrong}");
        }
    }

    #[test]
    fn spans_are_read_as_they_are_shown() {
        for (text, seconds, shown) in [
            ("60s", 60, "1m"),
            ("90", 90, "1m30s"),
            ("2h30m", 9000, "2h30m"),
            ("30d", 2_592_000, "30d"),
            ("1w", 604_800, "7d"),
            ("0", 0, "0s"),
        ] {
            let span = parse_span(text).expect(text);
            assert_eq!((span.as_secs(), show_span(span).as_str()), (seconds, shown));
            assert_eq!(parse_span(shown), Ok(span));
        }
        for wrong in ["", "s", "5x", "-5s", "5m2h", "1s1s", "1.5h", "99999999999999999999s"] {
            assert!(parse_span(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rates_are_those_of_curl() {
        assert_eq!(parse_rate("100k"), Ok(102_400));
        assert_eq!(parse_rate("1M"), Ok(1 << 20));
        assert_eq!(parse_rate("2MiB/s"), Ok(2 << 20));
        assert_eq!(parse_rate("10MB"), Ok(10_000_000));
        assert_eq!(parse_rate("0"), Ok(0));
        assert!(parse_rate("fast").is_err_and(|text| text.contains("rate")));
    }
}
