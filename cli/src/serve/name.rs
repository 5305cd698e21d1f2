//! Names: what a client may call an object, and how names travel in URLs.
//!
//! ```text
//! metadata `filename` --reduce--> base name --candidate(n)--> base, base.1, base.2, ...
//! URL segment         --decode--> bytes     --servable-----> name in the directory
//! ```
//!
//! Invariant: every name from here is one path component that does not begin with a dot, so that it
//! can neither leave the served directory nor reach [`STATE_DIR`], and cannot plant a hidden file.
//! Absent on purpose: the file system; whether a name is free is decided by publishing under it.

use std::fmt::Write as _;

/// Where unfinished uploads live, inside the served directory.
pub const STATE_DIR: &str = ".haul-serve";

/// Longest name of a directory entry on the file systems in use.
const NAME_MAX_BYTES: usize = 255;

/// Reduces a client's file name to a safe base name; `None` when nothing usable is left.
///
/// Both kinds of separator end a directory part, since clients on other systems send theirs.
pub fn reduce(raw: &str) -> Option<String> {
    let base = raw.rsplit(['/', '\\']).next().unwrap_or_default();
    let mut name: String = base.chars().filter(|c| !c.is_control()).collect();
    name = name.trim().to_owned();
    if name.chars().all(|c| c == '.') {
        return None;
    }
    if name.starts_with('.') {
        name.replace_range(..1, "_");
    }
    truncate(&mut name, NAME_MAX_BYTES);
    Some(name)
}

/// The `attempt`-th name to try for an object that wants to be called `base`.
pub fn candidate(base: &str, attempt: u32) -> String {
    if attempt == 0 {
        return base.to_owned();
    }
    with_suffix(base, &format!(".{attempt}"))
}

/// `base` followed by `suffix`, with `base` shortened so that the suffix always fits.
pub fn with_suffix(base: &str, suffix: &str) -> String {
    let mut name = base.to_owned();
    truncate(&mut name, NAME_MAX_BYTES - suffix.len());
    name + suffix
}

/// Whether a file of this name is offered to readers. Hidden files are not: they are somebody's
/// configuration, or the parts of a download in progress.
pub fn servable(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX_BYTES
        && name[0] != b'.'
        && !name.iter().any(|&byte| byte == b'/' || byte == 0)
}

/// Undoes percent-encoding; `None` when a `%` is not followed by two hex digits.
pub fn decode(segment: &str) -> Option<Vec<u8>> {
    let mut bytes = segment.bytes();
    let mut name = Vec::with_capacity(segment.len());
    while let Some(byte) = bytes.next() {
        name.push(match byte {
            b'%' => hex_digit(bytes.next()?)? << 4 | hex_digit(bytes.next()?)?,
            other => other,
        });
    }
    Some(name)
}

/// Percent-encodes everything but the unreserved characters of RFC 3986.
pub fn encode(name: &str) -> String {
    let mut segment = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            segment.push(char::from(byte));
        } else {
            let _ = write!(segment, "%{byte:02X}"); // writing to a String cannot fail
        }
    }
    segment
}

/// Lower-case hex, for identifiers and validators.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
        text
    })
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

fn truncate(name: &mut String, bytes_max: usize) {
    let mut end = name.len().min(bytes_max);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.truncate(end);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_and_dots_are_cut_from_names() {
        for (raw, safe) in [
            ("plain.bin", Some("plain.bin")),
            ("../../etc/cron.d/x", Some("x")),
            ("C:\\temp\\y.txt", Some("y.txt")),
            ("/", None),
            ("", None),
            (".", None),
            ("..", None),
            ("a/..", None),
            (".haul-serve", Some("_haul-serve")),
            (".bashrc", Some("_bashrc")),
            ("two\nlines\0", Some("twolines")),
            ("grüße 東京.txt", Some("grüße 東京.txt")),
        ] {
            assert_eq!(reduce(raw).as_deref(), safe, "{raw:?}");
        }
    }

    #[test]
    fn any_text_gives_a_servable_name_or_none() {
        let pieces = ["/", "\\", ".", "..", "\0", "\n", " ", "ä", "東", "x", "\u{7f}", "\u{202e}", "%2f"];
        let mut state = 1u64;
        for _ in 0..20_000 {
            let mut raw = String::new();
            for _ in 0..state % 200 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                raw.push_str(pieces[(state >> 33) as usize % pieces.len()]);
            }
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if let Some(name) = reduce(&raw) {
                assert!(servable(name.as_bytes()), "{raw:?} became {name:?}");
                for attempt in [0, 1, 99_999] {
                    assert!(servable(candidate(&name, attempt).as_bytes()), "{name:?}");
                }
            }
        }
    }

    #[test]
    fn names_survive_the_way_through_a_url() {
        for name in ["a b", "new\nline", "100%", "東京", "a?b#c", "+"] {
            assert_eq!(decode(&encode(name)).as_deref(), Some(name.as_bytes()));
        }
        assert_eq!(decode("%zz"), None);
        assert_eq!(decode("%2"), None);
    }
}
