//! Servers of files: ranges, If-Range, 416, several ways to (not) tell a version, files that are replaced, mirrors.
//!
//! Honest: one reply's body is of one version, and a 206 is of the version whose tag it bears. A tag is of the
//! content, so that mirrors of one file have one tag.

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
    /// Hosts `m1.sim`, `m2.sim`, ….
    pub mirrors: Vec<Mirror>,
}

/// Another server of what should be the same file.
pub struct Mirror {
    variant: Variant,
    /// Nothing is there.
    absent: bool,
    /// Its own, where it does not follow the primary.
    own: Vec<(Content, Duration)>,
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
        let digest = size <= 1 << 20 && rng.chance(300);
        Self { variant, digest, name, versions, floor: None, mirrors: Vec::new() }
    }

    /// With so many mirrors: equal ones, ones of another file, ones that have nothing.
    pub fn mirrored(mut self, rng: &mut Rng, count: u64) -> Self {
        let first = Content::clone(&self.versions[0].0);
        self.mirrors = (0..count)
            .map(|_| {
                let variant = rng.pick(&[Variant::Strong, Variant::Strong, Variant::Dated, Variant::Weak]);
                let len =
                    if rng.chance(700) { first.len() } else { rng.below(first.len() as u64 + 2) as usize };
                let own = match rng.below(4) {
                    0 => vec![(freight(rng.bits(), len), Duration::ZERO)],
                    1 => vec![(Content::clone(&first), Duration::ZERO)],
                    _ => Vec::new(),
                };
                Mirror { variant, absent: rng.chance(100), own }
            })
            .collect();
        self
    }

    /// Every content that any of the servers has had.
    pub fn versions(&self) -> impl Iterator<Item = &Content> {
        let mirrors = self.mirrors.iter().flat_map(|mirror| &mirror.own);
        self.versions.iter().chain(mirrors).map(|(content, _)| content)
    }

    /// What a host has.
    fn of(&self, host: &str) -> Option<Source<'_>> {
        let Some(at) =
            host.strip_prefix('m').and_then(|rest| rest.strip_suffix(".sim")?.parse::<usize>().ok())
        else {
            return Some(Source { variant: self.variant, versions: &self.versions, remote: self });
        };
        let mirror = self.mirrors.get(at.checked_sub(1)?).filter(|mirror| !mirror.absent)?;
        let versions = if mirror.own.is_empty() { &self.versions } else { &mirror.own };
        Some(Source { variant: mirror.variant, versions, remote: self })
    }

    fn current(&self) -> usize {
        self.versions.len() - 1
    }

    pub fn tells_digest(&self) -> bool {
        self.digest
    }

    /// Replaces the file: often by one of the same length, which is what a naive resume would mix.
    pub fn replace(&mut self, rng: &mut Rng, now: Duration) {
        let len = self.versions[self.current()].0.len();
        let len = if rng.chance(600) { len } else { rng.below(len as u64 * 2 + 2) as usize };
        let own = self.mirrors.iter_mut().find(|mirror| !mirror.own.is_empty()).filter(|_| rng.chance(300));
        let next = (freight(rng.bits(), len), now);
        own.map_or(&mut self.versions, |mirror| &mut mirror.own).push(next);
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
}

/// One server's view of a file.
struct Source<'a> {
    variant: Variant,
    versions: &'a [(Content, Duration)],
    remote: &'a Remote,
}

impl Source<'_> {
    fn current(&self) -> usize {
        self.versions.len() - 1
    }

    fn tag(&self, at: usize) -> Option<String> {
        match self.variant {
            Variant::Strong | Variant::Chunked => Some(format!("\"{:x}\"", print(&self.versions[at].0))),
            Variant::Weak => Some(format!("W/\"{:x}\"", print(&self.versions[at].0))),
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
        if let Some(name) = self.remote.name {
            reply = reply.with("content-disposition", format!("attachment; filename=\"{name}\""));
        }
        if self.remote.digest {
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

    fn ranged(&self, (from, last): (u64, Option<u64>), now: Duration) -> Served {
        let at = self.current();
        let content = Content::clone(&self.versions[at].0);
        let len = content.len() as u64;
        if from >= len {
            let reply = self.describe(416, at, now).with("content-range", format!("bytes */{len}"));
            return Served { reply, content, range: 0..0 };
        }
        let end = last.map_or(len, |last| len.min(last + 1));
        let reply =
            self.describe(206, at, now).with("content-range", format!("bytes {from}-{}/{len}", end - 1));
        Served { reply: reply.with("content-length", end - from), content, range: from..end }
    }
}

impl Shelf {
    /// Whether a mirror has another file than the primary now, or none.
    pub fn is_odd(&self, host: &str, job: Option<u64>) -> bool {
        let Some(remote) = job.and_then(|job| self.remotes.get(&job)) else { return false };
        let primary = remote.versions.last();
        remote
            .of(host)
            .is_none_or(|source| source.versions.last().map(|last| &last.0) != primary.map(|last| &last.0))
    }

    /// `ranged`: this server does ranges at this moment.
    pub fn answer(&mut self, head: &Head<'_>, ranged: bool) -> Served {
        let job = head.numbers().first().copied().unwrap_or_default();
        let nothing = |status| Served { reply: Reply::new(status), content: Content::default(), range: 0..0 };
        let range = head.text("range").and_then(|range| {
            let (from, last) = range.strip_prefix("bytes=")?.split_once('-')?;
            Some((from.parse::<u64>().ok()?, last.parse::<u64>().ok()))
        });
        let Some(remote) = self.remotes.get_mut(&job) else { return nothing(404) };
        if head.host == "get.sim" && *head.method == Method::GET {
            self.wrong.extend(remote.goes_on(job, range.map_or(0, |(from, _)| from)));
        }
        let remote = &self.remotes[&job];
        let Some(source) = remote.of(head.host) else { return nothing(404) };
        if *head.method == Method::HEAD {
            let served = source.whole(head.now);
            return Served { range: 0..0, ..served };
        }
        let Some(range) = range else { return source.whole(head.now) };
        let at = source.current();
        let Some(condition) = head.text("if-range") else {
            // A mirror's tag is not known before it has answered.
            if remote.mirrors.is_empty() {
                self.wrong.push(format!("get: job {job} asks for a range without If-Range"));
            }
            return if ranged { source.ranged(range, head.now) } else { source.whole(head.now) };
        };
        let strong = matches!(source.variant, Variant::Strong | Variant::Chunked);
        let stands =
            source.tag(at).filter(|_| strong).or_else(|| source.modified(at)).as_deref() == Some(condition);
        if stands && ranged { source.ranged(range, head.now) } else { source.whole(head.now) }
    }
}

/// A short name of a content: its pages are stamped, so that both ends tell it.
fn print(content: &[u8]) -> u64 {
    let ends = content.iter().take(64).chain(content.iter().rev().take(64));
    ends.fold(0xcbf2_9ce4_8422_2325 ^ content.len() as u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The server's clock does not jump.
fn date(at: Duration) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(1_800_000_000) + at)
}
