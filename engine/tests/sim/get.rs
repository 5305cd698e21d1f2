//! A server of files: ranges, If-Range, 416, several ways to (not) tell a version, files that are replaced.
//!
//! Honest: one reply's body is of one version, and a 206 is of the version whose tag it bears.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use sha2::Digest as _;

use super::rng::{Content, Rng, freight};
use super::tus::{Head, Reply};

/// How much a server tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Strong entity tag, length, ranges.
    Strong,
    /// Last-Modified instead of a tag.
    Dated,
    /// A weak tag: nothing to resume by.
    Weak,
    /// No validator.
    Bare,
    /// Strong tag, no length.
    Chunked,
    /// Neither validator nor length.
    ChunkedBare,
}

pub struct Remote {
    pub variant: Variant,
    digest: bool,
    name: Option<&'static str>,
    versions: Vec<(Content, Duration)>,
    /// Where the next request must begin.
    floor: Option<u64>,
}

/// Every file, by job.
#[derive(Default)]
pub struct Shelf {
    pub remotes: BTreeMap<u64, Remote>,
    pub wrong: Vec<String>,
}

/// An answer, with a file's bytes if it has any.
pub struct Served {
    pub reply: Reply,
    pub content: Content,
    pub range: Range<u64>,
}

impl Remote {
    pub fn draw(rng: &mut Rng, key: u64, size: u64, name: Option<&'static str>) -> Self {
        use Variant::{Bare, Chunked, ChunkedBare, Dated, Strong, Weak};
        let variant =
            rng.pick(&[Strong, Strong, Strong, Strong, Dated, Weak, Bare, Chunked, Chunked, ChunkedBare]);
        let versions = vec![(freight(key, size as usize), Duration::ZERO)];
        Self { variant, digest: size <= 1 << 20 && rng.chance(300), name, versions, floor: None }
    }

    pub fn versions(&self) -> impl Iterator<Item = &Content> {
        self.versions.iter().map(|(content, _)| content)
    }

    fn current(&self) -> usize {
        self.versions.len() - 1
    }

    /// Replaces the file: often by one of the same length, which is what a naive resume would mix.
    pub fn replace(&mut self, rng: &mut Rng, now: Duration) {
        let len = self.versions[self.current()].0.len();
        let len = if rng.chance(600) { len } else { rng.below(len as u64 * 2 + 2) as usize };
        self.versions.push((freight(rng.bits(), len), now));
    }

    /// So many bytes are journaled: a life that goes on begins there, whatever has become of the file.
    pub fn expect(&mut self, done: u64) {
        let is_whole = self.versions().any(|version| version.len() as u64 == done);
        self.floor = (self.variant == Variant::Strong && done > 0 && !is_whole).then_some(done);
    }

    /// Compares the first request of a life with that.
    fn goes_on(&mut self, job: u64, from: u64) -> Option<String> {
        let done = self.floor.take().filter(|&done| done != from)?;
        Some(format!("I5: job {job} begins at {from}, with {done} bytes journaled"))
    }

    fn tag(&self, at: usize) -> Option<String> {
        match self.variant {
            Variant::Strong | Variant::Chunked => Some(format!("\"v{at}\"")),
            Variant::Weak => Some(format!("W/\"v{at}\"")),
            Variant::Dated | Variant::Bare | Variant::ChunkedBare => None,
        }
    }

    fn modified(&self, at: usize) -> Option<String> {
        (self.variant == Variant::Dated).then(|| date(self.versions[at].1))
    }

    fn describe(&self, status: u16, at: usize, now: Duration) -> Reply {
        let mut reply = Reply::new(status).with("date", date(now));
        if let Some(tag) = self.tag(at) {
            reply = reply.with("etag", tag);
        }
        if let Some(modified) = self.modified(at) {
            reply = reply.with("last-modified", modified);
        }
        if let Some(name) = self.name {
            reply = reply.with("content-disposition", format!("attachment; filename=\"{name}\""));
        }
        if self.digest {
            let digest = STANDARD.encode(sha2::Sha256::digest(&*self.versions[at].0));
            reply = reply.with("repr-digest", format!("sha-256=:{digest}:"));
        }
        reply
    }

    fn whole(&self, now: Duration) -> Served {
        let at = self.current();
        let content = Content::clone(&self.versions[at].0);
        let len = content.len() as u64;
        let reply = self.describe(200, at, now);
        let told = !matches!(self.variant, Variant::Chunked | Variant::ChunkedBare);
        let reply = if told { reply.with("content-length", len) } else { reply };
        Served { reply, content, range: 0..len }
    }

    fn ranged(&self, from: u64, now: Duration) -> Served {
        let at = self.current();
        let content = Content::clone(&self.versions[at].0);
        let len = content.len() as u64;
        if from >= len {
            let reply = self.describe(416, at, now).with("content-range", format!("bytes */{len}"));
            return Served { reply, content, range: 0..0 };
        }
        let reply =
            self.describe(206, at, now).with("content-range", format!("bytes {from}-{}/{len}", len - 1));
        Served { reply: reply.with("content-length", len - from), content, range: from..len }
    }
}

impl Shelf {
    /// `ranged`: this server does ranges at this moment.
    pub fn answer(&mut self, head: &Head<'_>, ranged: bool) -> Served {
        let job = head.numbers().first().copied().unwrap_or_default();
        let nothing = |status| Served { reply: Reply::new(status), content: Content::default(), range: 0..0 };
        let Some(remote) = self.remotes.get_mut(&job) else { return nothing(404) };
        if *head.method == Method::HEAD {
            let served = remote.whole(head.now);
            return Served { range: 0..0, ..served };
        }
        let from = head
            .text("range")
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        self.wrong.extend(remote.goes_on(job, from.unwrap_or(0)));
        let Some(from) = from else { return remote.whole(head.now) };
        let at = remote.current();
        let Some(condition) = head.text("if-range") else {
            self.wrong.push(format!("get: job {job} asks for a range without If-Range"));
            return remote.ranged(from, head.now);
        };
        let strong = matches!(remote.variant, Variant::Strong | Variant::Chunked);
        let stands =
            remote.tag(at).filter(|_| strong).or_else(|| remote.modified(at)).as_deref() == Some(condition);
        if stands && ranged { remote.ranged(from, head.now) } else { remote.whole(head.now) }
    }
}

/// The server's clock does not jump.
fn date(at: Duration) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(1_800_000_000) + at)
}
