//! File names from servers, made harmless.
//!
//! Invariant: a name that leaves this module is 1–255 bytes, has no separator and no invisible
//! character, is not `.` or `..`, no device name elsewhere, and no part file of ours.

use http::HeaderMap;
use http::header::CONTENT_DISPOSITION;
use percent_encoding::percent_decode_str;
use url::Url;

/// The longest name of every common file system, in bytes.
const NAME_MAX: usize = 255;
/// What other systems take for a device, with or without an extension.
const RESERVED: [&str; 6] = ["con", "prn", "aux", "nul", "conin$", "conout$"];

/// A safe base name out of whatever was given; `None` if nothing is left of it.
pub fn safe_name(given: &str) -> Option<String> {
    let base = given.rsplit(['/', '\\']).next()?;
    let visible: String = base.chars().filter(|&letter| !invisible(letter)).collect();
    let mut rest = visible.trim();
    // A drive letter, and whatever a name of nothing but those would leave.
    while let [b'a'..=b'z' | b'A'..=b'Z', b':', ..] = rest.as_bytes() {
        rest = rest[2..].trim_start();
    }
    let mut name = rest.to_owned();
    let mut end = name.len().min(NAME_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.truncate(end);
    let trimmed = name.trim();
    let ours = trimmed.starts_with('.') && trimmed.to_ascii_lowercase().ends_with(".haul");
    let dots = trimmed.bytes().all(|byte| byte == b'.');
    (!dots && !ours && !reserved(trimmed)).then(|| trimmed.to_owned())
}

/// Control characters and those that turn or hide the text around them.
pub(super) fn invisible(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn reserved(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name).trim().to_ascii_lowercase();
    let numbered =
        |prefix: &str| stem.strip_prefix(prefix).is_some_and(|rest| matches!(rest.as_bytes(), [b'1'..=b'9']));
    RESERVED.contains(&stem.as_str()) || numbered("com") || numbered("lpt")
}

/// The last segment of a URL's path, decoded and made safe; `download` if there is none.
pub fn name_from_url(url: &str) -> String {
    let parsed = Url::parse(url).ok();
    let segment = parsed.as_ref().and_then(|url| url.path_segments()?.rfind(|segment| !segment.is_empty()));
    segment
        .and_then(|segment| safe_name(&percent_decode_str(segment).decode_utf8_lossy()))
        .unwrap_or_else(|| "download".to_owned())
}

/// The name in Content-Disposition, made safe. A server does not get to hide a file: no leading dot.
pub fn served_name(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(CONTENT_DISPOSITION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    // Bytes above ASCII are UTF-8 in practice, and Latin-1 by the letter.
    let text = std::str::from_utf8(value.as_bytes())
        .map_or_else(|_| value.as_bytes().iter().map(|&byte| char::from(byte)).collect(), str::to_owned);
    let (mut plain, mut extended) = (None, None);
    for (key, value) in parameters(&text) {
        match key.as_str() {
            "filename" if plain.is_none() => plain = Some(value),
            "filename*" if extended.is_none() => extended = decode_extended(&value),
            _ => {}
        }
    }
    let safe = |name: String| {
        let base = name.rsplit(['/', '\\']).next().unwrap_or_default();
        safe_name(base.trim_start_matches(|letter: char| letter == '.' || letter == ' ' || invisible(letter)))
    };
    extended.and_then(safe).or_else(|| plain.and_then(safe))
}

/// `charset'language'percent-encoded` (RFC 8187).
fn decode_extended(value: &str) -> Option<String> {
    let mut fields = value.splitn(3, '\'');
    let (charset, _, encoded) = (fields.next()?, fields.next()?, fields.next()?);
    let bytes = percent_decode_str(encoded);
    match charset.to_ascii_lowercase().as_str() {
        "utf-8" => bytes.decode_utf8().ok().map(std::borrow::Cow::into_owned),
        "iso-8859-1" => Some(bytes.map(char::from).collect()),
        _ => None,
    }
}

/// The `; key=value` pairs after a header's first token, quotes and their escapes taken off.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text.find(';').map_or("", |at| &text[at + 1..]);
    while let Some((key, after)) = rest.split_once('=') {
        // A flag without a value may stand before the pair that has one.
        let key = key.rsplit(';').next().unwrap_or(key).trim().to_ascii_lowercase();
        let after = after.trim_start();
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => after
                .split_once(';')
                .map_or((after.trim().to_owned(), ""), |(value, next)| (value.trim().to_owned(), next)),
        };
        found.push((key, value));
        rest = next;
    }
    found
}

/// What stands before the closing quote, and what after it.
fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        match letter {
            '\\' if !escaped => escaped = true,
            '"' if !escaped => return (value, &text[at + 1..]),
            _ => {
                value.push(letter);
                escaped = false;
            }
        }
    }
    (value, "")
}
