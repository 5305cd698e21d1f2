//! The netrc format: `machine HOST`, or `default`, with `login`, `password` and `account` after it.
//!
//! As curl reads it: words are parted by white space and line ends alike; a word in double quotes may hold
//! them (`\n`, `\r`, `\t`, and `\` before any other character); `#` where a keyword could stand makes the
//! rest of the line a comment; what follows `macdef` counts for nothing up to the next empty line; words
//! that nobody knows are passed over. Keywords are told without regard to case.

/// What an entry has.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) name: Vec<u8>,
    pub(super) password: Vec<u8>,
}

/// An entry under way: whom it is for, and what it has said so far.
#[derive(Default)]
struct Entry {
    is_default: bool,
    name: Option<Vec<u8>>,
    password: Option<Vec<u8>>,
}

impl Entry {
    /// One that has neither says nothing.
    fn login(self) -> Option<Login> {
        (self.name.is_some() || self.password.is_some()).then(|| Login {
            name: self.name.unwrap_or_default(),
            password: self.password.unwrap_or_default(),
        })
    }
}

/// Finds the first entry for a host, else the first default one.
///
/// # Errors
///
/// The text is not of this format; says where, not what.
pub(super) fn find(text: &[u8], host: &str) -> Result<Option<Login>, String> {
    let mut words = Words { text, at: 0, line: 1 };
    let mut fallback = None;
    let mut entry: Option<Entry> = None;
    while let Some(word) = words.keyword()? {
        let keyword = word.to_ascii_lowercase();
        let next = match keyword.as_slice() {
            b"machine" => {
                let is_ours = words.value("machine")?.eq_ignore_ascii_case(host.as_bytes());
                Some(is_ours.then(Entry::default))
            }
            b"default" => Some(Some(Entry { is_default: true, ..Entry::default() })),
            b"macdef" => {
                words.skip_macro();
                None
            }
            b"login" | b"user" => {
                let name = words.value("login")?;
                entry.as_mut().map(|entry| entry.name.get_or_insert(name));
                None
            }
            b"password" | b"passwd" => {
                let password = words.value("password")?;
                entry.as_mut().map(|entry| entry.password.get_or_insert(password));
                None
            }
            b"account" => {
                words.value("account")?;
                None
            }
            _unknown => None,
        };
        if let Some(next) = next
            && let Some(ended) = std::mem::replace(&mut entry, next)
        {
            if !ended.is_default {
                return Ok(ended.login());
            }
            fallback = fallback.or(Some(ended));
        }
    }
    Ok(match entry {
        Some(last) if !last.is_default => last.login(),
        last => fallback.or(last).and_then(Entry::login),
    })
}

/// The words of a text.
struct Words<'a> {
    text: &'a [u8],
    at: usize,
    line: usize,
}

impl Words<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn take(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        self.line += usize::from(byte == b'\n');
        Some(byte)
    }

    fn skip_while(&mut self, skip: impl Fn(u8) -> bool) {
        while self.peek().is_some_and(&skip) {
            self.take();
        }
    }

    /// The next word where a keyword may stand.
    fn keyword(&mut self) -> Result<Option<Vec<u8>>, String> {
        loop {
            self.skip_while(|byte| byte.is_ascii_whitespace());
            match self.peek() {
                None => return Ok(None),
                Some(b'#') => self.skip_while(|byte| byte != b'\n'),
                Some(_) => return self.word().map(Some),
            }
        }
    }

    /// The word that belongs to a keyword.
    fn value(&mut self, keyword: &str) -> Result<Vec<u8>, String> {
        self.skip_while(|byte| byte.is_ascii_whitespace());
        match self.peek() {
            None => Err(format!("nothing follows the last {keyword}")),
            Some(_) => self.word(),
        }
    }

    fn word(&mut self) -> Result<Vec<u8>, String> {
        if self.peek() == Some(b'"') {
            return self.quoted();
        }
        let start = self.at;
        self.skip_while(|byte| !byte.is_ascii_whitespace());
        Ok(self.text[start..self.at].to_vec())
    }

    fn quoted(&mut self) -> Result<Vec<u8>, String> {
        let line = self.line;
        let unended = || format!("the quoted word in line {line} has no end");
        self.take();
        let mut word = Vec::new();
        loop {
            word.push(match self.take().ok_or_else(unended)? {
                b'"' => return Ok(word),
                b'\\' => match self.take().ok_or_else(unended)? {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    other => other,
                },
                plain => plain,
            });
        }
    }

    /// To the end of the next line that has nothing in it, or of the text.
    fn skip_macro(&mut self) {
        self.skip_while(|byte| byte != b'\n');
        while self.take().is_some() {
            let start = self.at;
            self.skip_while(|byte| byte != b'\n');
            if self.text[start..self.at].iter().all(u8::is_ascii_whitespace) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(text: &str, host: &str) -> Option<(String, String)> {
        let login = find(text.as_bytes(), host).unwrap()?;
        Some((String::from_utf8(login.name).unwrap(), String::from_utf8(login.password).unwrap()))
    }

    #[test]
    fn entries_are_found_by_host() {
        let cases = [
            ("", None),
            ("machine h login me password pw", Some(("me", "pw"))),
            (
                "machine other login no password no\nmachine h\n\tlogin me\n\tpassword pw\n",
                Some(("me", "pw")),
            ),
            ("machine h login first password 1 machine h login second password 2", Some(("first", "1"))),
            ("MACHINE H Login me PASSWORD pw", Some(("me", "pw"))),
            ("machine h password pw login me", Some(("me", "pw"))),
            ("machine h user me passwd pw", Some(("me", "pw"))),
            ("machine h login me account a password pw", Some(("me", "pw"))),
            ("machine h account login", None),
            ("machine h login me", Some(("me", ""))),
            ("machine h password pw", Some(("", "pw"))),
            ("machine h machine other login no password no", None),
            ("machine h.example login no password no", None),
            // By default.
            ("default login me password pw", Some(("me", "pw"))),
            ("default login d password d machine h login me password pw", Some(("me", "pw"))),
            ("machine other login no password no default login me password pw", Some(("me", "pw"))),
            ("default login me password pw default login no password no", Some(("me", "pw"))),
            // An entry for the host that says nothing is still the entry for the host.
            ("machine h default login no password no", None),
            // Comments, and what is none.
            ("# machine h login no password no\nmachine h login me password pw", Some(("me", "pw"))),
            ("machine h # mine\nlogin me # and\npassword pw", Some(("me", "pw"))),
            ("machine h login #me password #pw", Some(("#me", "#pw"))),
            // Quotes.
            (r#"machine h login "me too" password "a \"b\" \\ \t\x""#, Some(("me too", "a \"b\" \\ \tx"))),
            (r#"machine "h" login "" password "machine""#, Some(("", "machine"))),
            (r#"machine h login m"e password p"w"#, Some((r#"m"e"#, r#"p"w"#))),
            // Keywords as values, and words that nobody knows.
            ("machine h login machine password login", Some(("machine", "login"))),
            ("machine machine login no password no machine h login me password pw", Some(("me", "pw"))),
            ("machine h protocol https login me password pw", Some(("me", "pw"))),
            // Macros.
            (
                "macdef init\nmachine h login no password no\n\nmachine h login me password pw",
                Some(("me", "pw")),
            ),
            ("macdef init\r\nmachine h login no\r\n\r\nmachine h login me password pw", Some(("me", "pw"))),
            ("machine h login me password pw macdef x\nlogin no\n", Some(("me", "pw"))),
            ("macdef init\nmachine h login no password no\n", None),
        ];
        for (text, login) in cases {
            let login = login.map(|(name, password)| (name.to_owned(), password.to_owned()));
            assert_eq!(found(text, "h"), login, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_by_place_only() {
        let cases = [
            ("machine h login", "nothing follows the last login"),
            ("machine", "nothing follows the last machine"),
            ("machine h login me\npassword \"secret", "the quoted word in line 2 has no end"),
            ("machine h password \"secret\\", "the quoted word in line 1 has no end"),
        ];
        for (text, why) in cases {
            assert_eq!(find(text.as_bytes(), "h"), Err(why.to_owned()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _said = find(&text, "h");
        }

        #[test]
        fn what_is_quoted_is_found(name in "[^\u{0}]{0,12}", password in "[^\u{0}]{0,12}") {
            let quote = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
            let text = format!("machine h login {} password {}", quote(&name), quote(&password));
            prop_assert_eq!(found(&text, "h"), Some((name, password)));
        }
    }
}
