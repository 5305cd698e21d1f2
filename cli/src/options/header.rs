//! Headers as curl users write them, and which of them are secrets.

use std::fs;

use crate::exit::Failure;
use crate::text::escape;

/// A header of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub name: String,
    pub value: String,
}

impl Header {
    /// Whether it has this name, in whatever case.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// Whether it tells a secret, going by its name: that costs nothing where it is wrong, and a token in a
    /// journal would.
    pub fn is_secret(&self) -> bool {
        const PARTS: [&str; 8] =
            ["auth", "cookie", "token", "key", "secret", "password", "signature", "session"];
        let name = self.name.to_ascii_lowercase();
        PARTS.iter().any(|part| name.contains(part))
    }
}

/// Headers from arguments: `Name: value`, `Name;` for an empty one, or `@FILE` with one a line.
pub fn read(arguments: &[String]) -> Result<Vec<Header>, Failure> {
    let mut headers = Vec::new();
    for argument in arguments {
        let Some(file) = argument.strip_prefix('@') else {
            headers.push(parse(argument).map_err(Failure::usage)?);
            continue;
        };
        let wrong = |text: &str| Failure::usage(format!("{}: {text}", escape(file)));
        let text = fs::read_to_string(file).map_err(|error| wrong(&error.to_string()))?;
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let line = parse(line).map_err(|text| wrong(&format!("line {}: {text}", number + 1)))?;
            headers.push(line);
        }
    }
    Ok(headers)
}

/// One header. Messages never show its value.
pub fn parse(text: &str) -> Result<Header, String> {
    let (name, value) = match (text.split_once(':'), text.strip_suffix(';')) {
        (Some((name, value)), _) => (name, value.trim()),
        (None, Some(name)) => (name, ""),
        (None, None) => return Err("a header is written 'Name: value', 'Name;' if it is empty".to_owned()),
    };
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(is_token) {
        return Err(format!("{} is no name of a header", escape(name)));
    }
    if value.chars().any(|c| c.is_control() && c != '\t') {
        return Err(format!("the value of {name} has a control character in it"));
    }
    if value.is_empty() && text.contains(':') {
        return Err(format!("{name} has no value; write '{name};' if it is to be empty"));
    }
    Ok(Header { name: name.to_owned(), value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_curl_reads_them() {
        let read = |text: &str| parse(text).map(|header| (header.name, header.value));
        assert_eq!(read("X-Album: summer 2026"), Ok(("X-Album".into(), "summer 2026".into())));
        assert_eq!(read("X-At:10:30"), Ok(("X-At".into(), "10:30".into())));
        assert_eq!(read("X-Empty;"), Ok(("X-Empty".into(), String::new())));
        for wrong in ["", "X-Album", "X Album: a", ": a", "X-Album:", "X-A: a\r\nHost: b", "Ä: x"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_value_is_not_repeated() {
        let text = parse("X-Token: pw\u{1}").expect_err("a control character");
        assert!(!text.contains("pw"), "{text}");
    }

    #[test]
    fn secrets_go_by_their_names() {
        let secret = |name: &str| Header { name: name.into(), value: "x".into() }.is_secret();
        for name in [
            "Authorization",
            "proxy-authorization",
            "COOKIE",
            "X-Api-Key",
            "X-Amz-Security-Token",
            "X-Signature",
            "Client-Secret",
            "PHP-Session-Id",
        ] {
            assert!(secret(name), "{name}");
        }
        for name in ["X-Album", "Accept-Language", "User-Agent", "Content-Language"] {
            assert!(!secret(name), "{name}");
        }
    }

    #[test]
    fn a_file_has_one_a_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("headers");
        fs::write(&file, "X-A: 1\n\nX-B: 2\r\n").expect("written");
        let given = [format!("@{}", file.display()), "X-C: 3".to_owned()];
        let names: Vec<_> = read(&given).expect("headers").into_iter().map(|header| header.name).collect();
        assert_eq!(names, ["X-A", "X-B", "X-C"]);
        fs::write(&file, "X-A: 1\nnonsense\n").expect("written");
        assert!(read(&given).expect_err("nonsense").to_string().contains("line 2"));
        assert!(read(&["@/nowhere/at/all".to_owned()]).is_err());
    }
}
