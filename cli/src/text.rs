//! Numbers, times, names and tables as people read them.
//!
//! Absent on purpose: jobs (see `report`), terminals, and local time: no time-zone database is at
//! hand, so that all times are UTC and say so.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use longhaul::WallMs;
use unicode_width::UnicodeWidthStr as _;

/// `1.2 GiB`; whole bytes below 1 KiB.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    // Tenths in integers, rounded down: 1023.99 MiB is never shown as 1024.0 MiB.
    let mut shift = 10;
    while shift < 60 && count >> (shift + 10) > 0 {
        shift += 10;
    }
    let whole = count >> shift;
    let tenths = ((u128::from(count) * 10) >> shift) % 10;
    format!("{whole}.{tenths} {}", UNITS[shift / 10 - 1])
}

/// Whole percent, rounded down: 100 means all.
pub fn percent(done: u64, size: u64) -> u8 {
    if done >= size {
        return 100;
    }
    (u128::from(done) * 100 / u128::from(size)) as u8
}

/// `14 s`, `2 min 05 s`, `1 h 02 min`, `3 d 04 h`.
pub fn span(time: Duration) -> String {
    let all = time.as_secs();
    let (days, hours, minutes, seconds) = (all / 86_400, all / 3600 % 24, all / 60 % 60, all % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {seconds:02} s"),
        (0, _, _) => format!("{hours} h {minutes:02} min"),
        _ => format!("{days} d {hours:02} h"),
    }
}

/// `2026-11-22 14:03:11.123Z`, from milliseconds since the Unix epoch.
pub fn utc(ms: u64) -> String {
    let (days, rest) = (ms / 86_400_000, ms % 86_400_000);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60);
    let milli = rest % 1000;
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// The Gregorian date of a day since 1970-01-01.
///
/// # Source
///
/// Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`; days before
/// 1970 cannot occur here.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468; // days since 0000-03-01
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

/// The day since 1970-01-01 of a Gregorian date, by the inverse of [`civil`].
fn day_number(year: u64, month: u64, day: u64) -> Option<u64> {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        2 => 28 + u64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        _ => return None,
    };
    if !(1970..=9999).contains(&year) || !(1..=days).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

/// Wall time in milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A moment in the past as people name it: `10m`, `2h`, `3d`, `1w` ago, or a date and time as RFC 3339 and
/// `haul log` write it; UTC where no zone is named.
///
/// # Errors
///
/// A text that says what is expected.
pub fn parse_since(text: &str) -> Result<WallMs, String> {
    since(text.trim(), now_ms())
}

fn since(text: &str, now_ms: u64) -> Result<WallMs, String> {
    let form =
        || format!("{} is no time; write 10m, 2h, 3d, 2026-11-22 or 2026-11-22T14:03:11Z", escape(text));
    let unit_ms = match text.as_bytes().last() {
        Some(b's') => Some(1000),
        Some(b'm') => Some(60_000),
        Some(b'h') => Some(3_600_000),
        Some(b'd') => Some(86_400_000),
        Some(b'w') => Some(7 * 86_400_000),
        _ => None,
    };
    if let Some(unit_ms) = unit_ms {
        let number = digits(&text[..text.len() - 1]).ok_or_else(form)?;
        return Ok(WallMs(now_ms.saturating_sub(number.saturating_mul(unit_ms))));
    }
    date_time(text).map(WallMs).ok_or_else(form)
}

/// Plain digits, without a sign.
fn digits(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}

/// `2026-11-22`, and with `T14:03`, `:11`, `.123` and a zone, in milliseconds.
fn date_time(text: &str) -> Option<u64> {
    let (date, time) = match text.find(['T', 't', ' ']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let mut parts = date.split('-').map(digits);
    let day = day_number(parts.next()??, parts.next()??, parts.next()??)?;
    let day_ms = day * 86_400_000;
    let Some(time) = time else { return parts.next().is_none().then_some(day_ms) };
    let zone_at = time.find(['Z', 'z', '+', '-']).unwrap_or(time.len());
    let (clock, zone) = time.split_at(zone_at);
    let east_ms = match zone.as_bytes() {
        [] | [b'Z' | b'z'] => 0,
        [sign, rest @ ..] => {
            let (hours, minutes) = std::str::from_utf8(rest).ok()?.split_once(':')?;
            let (hours, minutes) = (digits(hours).filter(|h| *h < 24)?, digits(minutes).filter(|m| *m < 60)?);
            let ms = i64::try_from((hours * 60 + minutes) * 60_000).ok()?;
            if *sign == b'-' { -ms } else { ms }
        }
    };
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut fields = clock.split(':').map(digits);
    let (hour, minute) = (fields.next()??, fields.next()??);
    let second = fields.next().unwrap_or(Some(0))?;
    let valid = hour < 24 && minute < 60 && second <= 60 && fields.next().is_none() && parts.next().is_none();
    let _ = digits(fraction)?;
    let milli = digits(&format!("{fraction:0<3}")[..3])?;
    let ms = day_ms + ((hour * 60 + minute) * 60 + second) * 1000 + milli;
    if valid { ms.checked_add_signed(-east_ms) } else { None }
}

/// The text with everything escaped that would move the cursor, ring, colour or reorder the line:
/// names come from servers and other people's disks.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_unsafe(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// Control characters, line separators, and the marks that reorder text.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// The word as a shell takes it, quoted only where it must be.
pub fn shell_word(word: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+,=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return Cow::Borrowed(word);
    }
    Cow::Owned(format!("'{}'", escape(word).replace('\'', r"'\''")))
}

/// A number of bytes as people write it: `256MiB`, `1.5G`, `10kB`, `4096`.
///
/// # Errors
///
/// A text that says what is expected.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let form = || format!("{} is not a size; write 4096, 256MiB, 1.5GiB or 10MB", escape(text));
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit: u128 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(form()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let places =
        u32::try_from(fraction.len()).ok().filter(|places| (1..=9).contains(places)).ok_or_else(form)?;
    let whole: u64 = whole.parse().map_err(|_| form())?;
    let fraction: u64 = fraction.parse().map_err(|_| form())?;
    let count = u128::from(whole) * unit + u128::from(fraction) * unit / 10u128.pow(places);
    u64::try_from(count).map_err(|_| format!("{} is too large", escape(text)))
}

/// Where a column's text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Lines up rows under their heads, two spaces apart; no spaces at line ends.
pub fn table<const N: usize>(heads: [(&str, Align); N], rows: &[[String; N]]) -> String {
    let mut widths = heads.map(|(head, _)| head.width());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    let mut text = String::new();
    let titles = heads.map(|(head, _)| head.to_owned());
    for row in std::iter::once(&titles).chain(rows) {
        let mut line = String::new();
        for ((cell, width), (_, align)) in row.iter().zip(widths).zip(heads) {
            let gap = width - cell.width();
            let (before, after) = if align == Align::Right { (gap, 0) } else { (0, gap) };
            // Writing to a String cannot fail.
            let _ = write!(line, "{:before$}{cell}{:after$}  ", "", "");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_rounded_down_to_tenths() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (256 << 20, "256.0 MiB"),
            (1_288_490_189, "1.2 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn a_hundred_percent_means_all() {
        assert_eq!(percent(0, 0), 100);
        assert_eq!(percent(0, 3), 0);
        assert_eq!(percent(999, 1000), 99);
        assert_eq!(percent(u64::MAX - 1, u64::MAX), 99);
        assert_eq!(percent(7, 7), 100);
    }

    #[test]
    fn spans_show_two_units_at_most() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (125, "2 min 05 s"),
            (3720, "1 h 02 min"),
            (86_400 * 3 + 4 * 3600, "3 d 04 h"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn times_are_utc_with_leap_days() {
        for (ms, text) in [
            (0, "1970-01-01 00:00:00.000Z"),
            (951_782_400_000, "2000-02-29 00:00:00.000Z"),
            (1_078_012_799_999, "2004-02-28 23:59:59.999Z"),
            (1_795_356_191_123, "2026-11-22 14:03:11.123Z"),
            (4_107_542_400_000, "2100-03-01 00:00:00.000Z"),
        ] {
            assert_eq!(utc(ms), text);
        }
    }

    #[test]
    fn times_are_read_as_they_are_written() {
        let now = 1_795_356_191_123;
        for (text, ms) in [
            ("90s", now - 90_000),
            ("10m", now - 600_000),
            ("2h", now - 7_200_000),
            ("3d", now - 3 * 86_400_000),
            ("1w", now - 7 * 86_400_000),
            ("99999999999999999d", 0),
            ("1970-01-01", 0),
            ("2000-02-29", 951_782_400_000),
            ("2026-11-22T14:03:11.123Z", 1_795_356_191_123),
            ("2026-11-22 14:03:11.123Z", 1_795_356_191_123),
            ("2026-11-22T14:03", 1_795_356_180_000),
            ("2026-11-22T16:03:11.1234567+02:00", 1_795_356_191_123),
            ("2026-11-22t09:03:11-05:00", 1_795_356_191_000),
            ("2026-11-22T14:03:11.5z", 1_795_356_191_500),
        ] {
            assert_eq!(since(text, now), Ok(WallMs(ms)), "{text}");
        }
        for day in 0..60_000 {
            let (year, month, of_month) = civil(day);
            assert_eq!(day_number(year, month, of_month), Some(day));
        }
        for wrong in [
            "",
            "m",
            "-3h",
            "1.5h",
            "3y",
            "yesterday",
            "2026-13-01",
            "2026-02-29",
            "2026-11-22T24:00",
            "2026-11-22T14",
            "2026-11-22T14:03:11+2",
            "2026-11-22T14:03:11.",
            "1969-12-31",
            "2026-11-22T14:03:11é",
            "2026-11-22-01",
            "1970-01-01T00:00+01:00",
            "é",
        ] {
            assert!(since(wrong, now).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nothing_in_a_name_reaches_the_terminal_as_a_command() {
        assert_eq!(escape("plain name.txt"), "plain name.txt");
        assert_eq!(escape("grüße 東京.mp4"), "grüße 東京.mp4");
        assert_eq!(escape("a\nb\r\tc"), "a\\nb\\r\\tc");
        assert_eq!(escape("\u{1b}[2J"), "\\u{1b}[2J");
        assert_eq!(escape("\u{9b}x\u{7f}"), "\\u{9b}x\\u{7f}");
        assert_eq!(escape("gpj.\u{202e}exe"), "gpj.\\u{202e}exe");
        assert_eq!(escape("\u{2028}"), "\\u{2028}");
    }

    #[test]
    fn words_are_quoted_where_a_shell_needs_it() {
        assert_eq!(shell_word("default"), "default");
        assert_eq!(shell_word("./my session"), "'./my session'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word(""), "''");
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, size) in [
            ("0", 0),
            ("4096", 4096),
            ("256MiB", 256 << 20),
            ("256m", 256 << 20),
            ("1.5GiB", 3 << 29),
            ("10 MB", 10_000_000),
            ("0.5k", 512),
        ] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        for wrong in [
            "",
            "MiB",
            "-1",
            "1..5",
            "1.",
            ".5",
            "1e9",
            "12XB",
            "99999999999999999999",
            "18446744073709551615T",
        ] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn columns_line_up_also_under_wide_names() {
        let rows = [
            ["3".to_owned(), "東京".to_owned(), "x".to_owned()],
            ["12".to_owned(), "a".to_owned(), String::new()],
        ];
        let text = table([("ID", Align::Right), ("NAME", Align::Left), ("CAUSE", Align::Left)], &rows);
        assert_eq!(text, "ID  NAME  CAUSE\n 3  東京  x\n12  a\n");
    }
}
