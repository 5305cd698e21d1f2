//! Lists of files or URLs: one a line, with a second column after a TAB; or NUL after each, and any name.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::exit::Failure;
use crate::text::escape;

/// A list that is read as it is needed: it may be as long as a pipe is patient.
pub struct List {
    reader: Box<dyn BufRead>,
    /// As messages name it.
    name: String,
    end: u8,
    number: u64,
}

/// A line.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    pub first: Vec<u8>,
    pub second: Option<Vec<u8>>,
}

impl Line {
    /// The first column as a path.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(OsStr::from_bytes(&self.first))
    }
}

impl List {
    /// The list in `file`; `-` is standard input.
    pub fn open(file: &Path, null: bool) -> Result<Self, Failure> {
        let name = escape(&file.to_string_lossy()).into_owned();
        let reader: Box<dyn BufRead> = if file == Path::new("-") {
            Box::new(BufReader::new(io::stdin()))
        } else {
            let opened = File::open(file).map_err(|error| Failure::usage(format!("{name}: {error}")))?;
            Box::new(BufReader::new(opened))
        };
        Ok(Self::new(reader, name, null))
    }

    fn new(reader: Box<dyn BufRead>, name: String, null: bool) -> Self {
        Self { reader, name, end: if null { 0 } else { b'\n' }, number: 0 }
    }

    /// What is wrong with the line that was read last.
    pub fn wrong(&self, text: &str) -> Failure {
        Failure::failed(format!("{}, line {}: {text}", self.name, self.number))
    }
}

impl Iterator for List {
    type Item = Result<Line, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let mut line = Vec::new();
            match self.reader.read_until(self.end, &mut line) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => return Some(Err(Failure::usage(format!("{}: {error}", self.name)))),
            }
            self.number += 1;
            if line.last() == Some(&self.end) {
                line.pop();
            }
            if line.is_empty() {
                continue;
            }
            // A name may have a TAB in it, a URL may not. With NULs nothing in a name has a meaning.
            let tab = line.iter().rposition(|&byte| byte == b'\t').filter(|_| self.end == b'\n');
            let second = tab.map(|at| {
                let second = line.split_off(at + 1);
                line.truncate(at);
                second
            });
            return Some(Ok(Line { first: line, second: second.filter(|text| !text.is_empty()) }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &'static [u8], null: bool) -> Vec<(String, Option<String>)> {
        let text_of = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        List::new(Box::new(text), "list".into(), null)
            .map(|line| line.expect("a line"))
            .map(|line| (text_of(line.first), line.second.map(text_of)))
            .collect()
    }

    #[test]
    fn lines_have_one_column_or_two() {
        let expected = [("a b", None), ("c", Some("http://h/")), ("d\te", Some("http://h/x")), ("f", None)];
        let expected: Vec<_> =
            expected.map(|(first, second)| (first.to_owned(), second.map(str::to_owned))).into();
        assert_eq!(lines(b"a b\n\nc\thttp://h/\nd\te\thttp://h/x\nf\t", false), expected);
    }

    #[test]
    fn with_nuls_a_name_may_hold_anything_else() {
        let expected = [("a\nb".to_owned(), None), ("c\td".to_owned(), None)];
        assert_eq!(lines(b"a\nb\0c\td\0", true), expected);
        assert_eq!(lines(b"", true), []);
    }

    #[test]
    fn mistakes_name_the_line() {
        let mut list = List::new(Box::new(&b"a\n\nb\n"[..]), "list".into(), false);
        assert_eq!(list.by_ref().count(), 2);
        assert_eq!(list.wrong("no").to_string(), "list, line 3: no");
        assert!(List::open(Path::new("/nowhere/at/all"), false).is_err());
    }
}
