//! Many files as submissions: named, keyed, grouped, and in portions that one request carries.
//!
//! ```text
//! items (walk, list, arguments) ─▶ Dresser ─▶ Batches ─▶ one request each ─▶ accepted, or told why not
//! ```
//!
//! Invariant: every submission has a key, the user's or one of the command's own, so that a request can be
//! repeated when its answer was lost: the job that is there already is found by it.
//! Memory: one portion, and eight bytes for each name.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::{fmt, io, iter};

use longhaul::{Submission, Transfer};
use rustix::rand::{GetRandomFlags, getrandom};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::exit::{Exit, Failure};
use crate::text::escape;

/// Submissions in one request.
const COUNT_MAX: usize = 500;
/// Their JSON in one request: what an owner reads is limited to 1 MiB.
const BYTES_MAX: usize = 900 << 10;

/// One file that is to be transferred.
#[derive(Clone, Debug)]
pub struct Item {
    /// Which way, and the local end.
    pub transfer: Transfer,
    /// The remote end.
    pub url: String,
    /// The name at the server, where it is not the file's own.
    pub name: Option<String>,
    /// What tells it from the command's other files.
    pub label: String,
}

/// Makes a command's submissions.
pub struct Dresser {
    template: Submission,
    key: Option<String>,
    run: String,
    several: bool,
    count: u64,
    /// Of what must not come twice, if anything must not.
    seen: Option<HashSet<u64>>,
}

impl Dresser {
    /// For one file, or for `several`; `distinct` if no two may have one name at one URL.
    pub fn new(
        template: Submission,
        key: Option<String>,
        several: bool,
        distinct: bool,
    ) -> Result<Self, Failure> {
        let run = hex(&random::<8>()?);
        let seen = (several && (distinct || key.is_some())).then(HashSet::new);
        Ok(Self { template, key, run, several, count: 0, seen })
    }

    /// The file's submission.
    pub fn dress(&mut self, item: Item) -> Result<Submission, Failure> {
        if let Some(seen) = &mut self.seen {
            let mut hasher = DefaultHasher::new();
            item.label.hash(&mut hasher);
            if self.key.is_none() {
                item.url.hash(&mut hasher);
            }
            if !seen.insert(hasher.finish()) {
                let what = if self.key.is_some() { "key" } else { "name at the server" };
                return Err(Failure::failed(format!(
                    "{}: another file of this command has the same {what}",
                    escape(&item.label)
                )));
            }
        }
        let key = match &self.key {
            Some(key) if self.several => format!("{key}/{}", item.label),
            Some(key) => key.clone(),
            None => format!("auto-{}/{}", self.run, self.count),
        };
        self.count += 1;
        let template = self.template.clone();
        let name = item.name.or(template.name);
        Ok(Submission { transfer: item.transfer, url: item.url, name, key: Some(key), ..template })
    }
}

/// A group for a command's jobs: the same again where the key is the same, so that the jobs of a repeated
/// command are found together.
pub fn group(key: Option<&str>) -> Result<String, Failure> {
    let name = match key {
        Some(key) => hex(&Sha256::digest(key)[..3]),
        None => hex(&random::<3>()?),
    };
    Ok(format!("g-{name}"))
}

/// A name for a URL that tells it from others and no secrets.
pub fn url_label(url: &url::Url) -> String {
    let place = format!("{}{}", url.host_str().unwrap_or_default(), url.path());
    match url.query() {
        None => place,
        Some(_) => format!("{place}?{}", hex(&Sha256::digest(url.as_str())[..8])),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = fmt::Write::write_fmt(&mut text, format_args!("{byte:02x}"));
        text
    })
}

fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    match getrandom(&mut bytes[..], GetRandomFlags::empty()) {
        Ok(count) if count == N => Ok(bytes),
        Ok(_) => Err(Failure::failed("the system gave too few random bytes")),
        Err(error) => Err(Failure::failed(format!("the system gave no random bytes: {error}"))),
    }
}

/// What one request carries.
#[derive(Debug, Default)]
pub struct Batch {
    pub submissions: Vec<Submission>,
    /// Files between them of which nothing came.
    pub failures: Vec<Failure>,
    /// A mistake after which no more is read.
    pub broken: bool,
}

/// Portions of at most [`COUNT_MAX`] submissions and [`BYTES_MAX`] bytes.
pub struct Batches<I: Iterator> {
    from: iter::Fuse<I>,
    /// Read already, and too large for the portion before.
    held: Option<(Submission, usize)>,
    broken: bool,
}

impl<I: Iterator<Item = Result<Submission, Failure>>> Batches<I> {
    pub fn new(from: I) -> Self {
        Self { from: from.fuse(), held: None, broken: false }
    }

    fn read(&mut self, batch: &mut Batch) -> Option<(Submission, usize)> {
        if let Some(held) = self.held.take() {
            return Some(held);
        }
        while !self.broken {
            match self.from.next()? {
                Ok(submission) => {
                    let size = size_of_json(&submission);
                    return Some((submission, size));
                }
                Err(failure) => {
                    self.broken = failure.exit() != Exit::Failed;
                    batch.failures.push(failure);
                }
            }
        }
        None
    }
}

impl<I: Iterator<Item = Result<Submission, Failure>>> Iterator for Batches<I> {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        let (mut batch, mut bytes) = (Batch::default(), 0);
        while batch.submissions.len() < COUNT_MAX && batch.failures.len() < COUNT_MAX {
            let Some((submission, size)) = self.read(&mut batch) else { break };
            if bytes + size > BYTES_MAX && !batch.submissions.is_empty() {
                self.held = Some((submission, size));
                break;
            }
            bytes += size;
            batch.submissions.push(submission);
        }
        batch.broken = self.broken;
        (!batch.submissions.is_empty() || !batch.failures.is_empty()).then_some(batch)
    }
}

/// Bytes that the value takes in a request, with its comma.
fn size_of_json(value: &impl Serialize) -> usize {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(1);
    // What cannot be written is not sent either; the call says so.
    let _ = serde_json::to_writer(&mut count, value);
    count.0
}

#[cfg(test)]
mod tests;
