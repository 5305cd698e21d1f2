//! Honest servers that break off, refuse, change and disagree, against lanes in any order (property).
//!
//! Contents are numbers, and the part file is a painting: which bytes are of which content. So files can have
//! real sizes, and every byte is looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use http::header::{IF_RANGE, RANGE};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::ports::NetErrorKind;
use crate::protocol::Send;
use crate::protocol::get::CHANGED_MAX;

/// What is in bytes that were written and never synced, once the power has failed.
const GARBAGE: u8 = 0xee;
const KIND_STEPS: usize = 4000;

/// Which bytes of the part file are of which content: strokes by their start, none over another.
#[derive(Clone, Debug, Default)]
struct Painting {
    len: u64,
    strokes: BTreeMap<u64, (u64, u8)>,
}

impl Painting {
    fn paint(&mut self, mut range: Range<u64>, content: u8) {
        assert!(range.end <= self.len, "{range:?} of {} bytes", self.len);
        let touched: Vec<u64> = self
            .strokes
            .range(..=range.end)
            .filter(|(_, (end, _))| *end >= range.start)
            .map(|(start, _)| *start)
            .collect();
        for start in touched {
            let (end, old) = self.strokes.remove(&start).unwrap();
            if old == content {
                range = range.start.min(start)..range.end.max(end);
                continue;
            }
            if start < range.start {
                self.strokes.insert(start, (end.min(range.start), old));
            }
            if end > range.end {
                self.strokes.insert(start.max(range.end), (end, old));
            }
        }
        self.strokes.insert(range.start, (range.end, content));
    }

    fn cut(&mut self, len: u64) {
        self.len = len;
        self.strokes.retain(|start, _| *start < len);
        for (end, _) in self.strokes.values_mut() {
            *end = (*end).min(len);
        }
    }

    /// All contents in a range; what was never written is garbage.
    fn contents(&self, range: &Range<u64>) -> BTreeSet<u8> {
        let inside = |start: u64, end: u64| start.max(range.start)..end.min(range.end);
        let strokes = self.strokes.iter().map(|(start, (end, content))| (inside(*start, *end), *content));
        let found: Vec<_> = strokes.filter(|(part, _)| part.start < part.end).collect();
        let covered: u64 = found.iter().map(|(part, _)| part.end - part.start).sum();
        let mut contents: BTreeSet<u8> = found.into_iter().map(|(_, content)| content).collect();
        if covered < range.end - range.start {
            contents.insert(GARBAGE);
        }
        contents
    }
}

#[derive(Clone, Debug)]
struct Server {
    content: u8,
    /// Servers of one family give the same content the same tag.
    family: u8,
    strong: bool,
    ranges: bool,
    tells_digest: bool,
    /// Most bytes of one 206.
    most: u64,
    /// Exchanges that it bears.
    connections: usize,
}

impl Server {
    /// The head, and of which content and bytes the body is.
    fn handle(&self, base: u64, lane: u16, send: &Send) -> (Input, Option<(u8, Range<u64>)>) {
        let len = content_len(base, self.content);
        let weak = if self.strong { "" } else { "W/" };
        let tag = format!("{weak}\"{}-{}\"", self.family, self.content);
        let digest = sha256_header(self.content);
        let mut headers = vec![("etag", tag.as_str())];
        if self.tells_digest {
            headers.push(("repr-digest", &digest));
        }
        let same = send.headers.get(IF_RANGE).is_none_or(|named| self.strong && *named == tag.as_str());
        let range = send.headers.get(RANGE).filter(|_| self.ranges && same);
        let range = range.map(|range| range.to_str().unwrap()[6..].split_once('-').unwrap());
        match range {
            None => {
                let length = len.to_string();
                headers.push(("content-length", &length));
                (reply(lane, 200, &headers), Some((self.content, 0..len)))
            }
            Some((from, _)) if from.parse::<u64>().unwrap() >= len => {
                let none = format!("bytes */{len}");
                headers.push(("content-range", &none));
                (reply(lane, 416, &headers), None)
            }
            Some((from, last)) => {
                let from: u64 = from.parse().unwrap();
                let to = last.parse::<u64>().map_or(len, |last| len.min(last + 1)).min(from + self.most);
                let range = format!("bytes {from}-{}/{len}", to - 1);
                headers.push(("content-range", &range));
                (reply(lane, 206, &headers), Some((self.content, from..to)))
            }
        }
    }
}

fn content_len(base: u64, content: u8) -> u64 {
    if content.is_multiple_of(2) { base } else { base + 1000 }
}

#[derive(Clone, Debug)]
enum Exchange {
    Sent(Box<Send>),
    Held { source: usize, content: u8, body: Range<u64> },
    Storing { source: usize, content: u8, at: u64, until: u64 },
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Kind,
    Lost(NetErrorKind),
    /// So many thousandths of the body come; then the connection breaks.
    Cut(u64),
    /// So many thousandths come and are durable.
    Some(u64),
    Busy,
    /// The process dies; so many thousandths of every body were written and not synced.
    Killed(u64),
    Changed(usize),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Kind),
        2 => prop::sample::select(vec![NetErrorKind::Connect, NetErrorKind::Offline, NetErrorKind::Broken])
            .prop_map(Fate::Lost),
        3 => (0u64..=1000).prop_map(Fate::Cut),
        4 => (0u64..=1000).prop_map(Fate::Some),
        1 => Just(Fate::Busy),
        1 => (0u64..1000).prop_map(Fate::Killed),
        1 => (0usize..3).prop_map(Fate::Changed),
    ]
}

fn server() -> impl Strategy<Value = Server> {
    (
        prop::sample::select(vec![0u8, 0, 0, 50, 51]),
        prop::sample::select(vec![0u8, 0, 1]),
        prop::bool::weighted(0.9),
        prop::bool::weighted(0.9),
        prop::bool::weighted(0.3),
        prop::sample::select(vec![(1 << 20) - 7, 5 << 20, u64::MAX >> 1]),
        1usize..6,
    )
        .prop_map(|(content, family, strong, ranges, tells_digest, most, connections)| Server {
            content,
            family,
            strong,
            ranges,
            tells_digest,
            most,
            connections,
        })
}

/// A runner in small: the part file, and what is under way.
struct World {
    servers: Vec<Server>,
    base: u64,
    file: Painting,
    exchanges: BTreeMap<u16, Exchange>,
    paused: BTreeSet<u16>,
    digest: Option<ChecksumAlgorithm>,
}

impl World {
    fn halt(&mut self) {
        self.exchanges.clear();
        self.paused.clear();
        self.digest = None;
    }

    /// Begins effects, as the runner would once they are journaled.
    fn begin(&mut self, effects: Vec<Effect>) {
        let writing = |world: &Self| {
            world.exchanges.values().any(|exchange| matches!(exchange, Exchange::Storing { .. }))
        };
        for effect in effects {
            match effect {
                Effect::Send(send) => {
                    let lane = send.lane;
                    let before = self.exchanges.insert(lane, Exchange::Sent(send));
                    assert!(matches!(before, None | Some(Exchange::Held { .. })), "two on lane {lane}");
                    assert!(!self.paused.contains(&lane), "lane {lane} waits and asks");
                }
                Effect::Store { lane, offset, limit, within } => {
                    let Some(Exchange::Held { source, content, body }) = self.exchanges.remove(&lane) else {
                        panic!("nothing is held on lane {lane}");
                    };
                    let until = offset + limit.expect("every length is told");
                    assert!(body.start == offset && until <= body.end, "{offset}..{until} of {body:?}");
                    if within {
                        assert!(until <= self.file.len, "the file has no such place");
                    } else {
                        assert!(!writing(self), "cut under another lane");
                        self.file.cut(offset);
                    }
                    self.exchanges.insert(lane, Exchange::Storing { source, content, at: offset, until });
                }
                Effect::Pause { lane, .. } => {
                    let before = self.exchanges.remove(&lane);
                    assert!(matches!(before, None | Some(Exchange::Held { .. })), "lane {lane} is at work");
                    assert!(self.paused.insert(lane), "lane {lane} waits already");
                }
                Effect::Digest(algorithm) => {
                    assert!(!writing(self), "hashed under a lane");
                    self.digest = Some(algorithm);
                }
                Effect::Truncate(len) => {
                    assert!(!writing(self), "cut under a lane");
                    assert!(len <= self.file.len, "made longer by a cut");
                    self.file.cut(len);
                }
                Effect::Reserve(len) => {
                    assert!(!writing(self), "emptied under a lane");
                    self.file.cut(0);
                    self.file.len = len;
                }
            }
        }
        let held = self.exchanges.values().any(|exchange| matches!(exchange, Exchange::Held { .. }));
        assert!(!held, "a body is held for ever");
    }

    fn is_idle(&self) -> bool {
        self.exchanges.is_empty() && self.paused.is_empty() && self.digest.is_none()
    }

    /// Lets one thing happen; gives the inputs that come of it.
    fn happen(&mut self, pick: usize, fate: Fate) -> Vec<Input> {
        match fate {
            Fate::Killed(share) => {
                for exchange in self.exchanges.clone().into_values() {
                    if let Exchange::Storing { at, until, .. } = exchange {
                        self.write(at..at + (until - at) * share / 1000, GARBAGE);
                    }
                }
                self.halt();
                return vec![Input::Restarted];
            }
            Fate::Changed(which) => {
                let count = self.servers.len();
                self.servers[which % count].content += 1;
                return Vec::new();
            }
            Fate::Kind | Fate::Lost(_) | Fate::Cut(_) | Fate::Some(_) | Fate::Busy => {}
        }
        if let Some(algorithm) = self.digest.take() {
            return vec![Input::Digested { algorithm, digest: self.hash() }];
        }
        let at = pick % (self.exchanges.len() + self.paused.len());
        if let Some(lane) = self.exchanges.keys().nth(at).copied() {
            return self.move_on(lane, fate);
        }
        let lane = self.paused.iter().nth(at - self.exchanges.len()).copied().unwrap();
        self.paused.remove(&lane);
        vec![Input::Woken { lane }]
    }

    fn move_on(&mut self, lane: u16, fate: Fate) -> Vec<Input> {
        let lost = |kind| Input::Lost { lane, kind, why: "cut".to_owned() };
        match self.exchanges.remove(&lane).unwrap() {
            Exchange::Sent(send) => {
                let at = if send.url == URL {
                    0
                } else {
                    1 + MIRRORS.iter().position(|m| *m == send.url).unwrap()
                };
                let server = &self.servers[at];
                let busy = self
                    .exchanges
                    .values()
                    .filter(|other| matches!(other, Exchange::Storing { source, .. } if *source == at));
                match fate {
                    Fate::Lost(kind) => vec![lost(kind)],
                    Fate::Busy => vec![reply(lane, 503, &[])],
                    _ if busy.count() >= server.connections => vec![reply(lane, 429, &[])],
                    _ => {
                        let (head, body) = server.handle(self.base, lane, &send);
                        if let Some((content, body)) = body {
                            self.exchanges.insert(lane, Exchange::Held { source: at, content, body });
                        }
                        vec![head]
                    }
                }
            }
            Exchange::Storing { source, content, at, until } => {
                let (share, goes_on, is_last) = match fate {
                    Fate::Cut(share) => (share, false, false),
                    Fate::Some(share) => (share, true, false),
                    Fate::Kind | Fate::Busy => (1000, true, true),
                    Fate::Lost(_) | Fate::Killed(_) | Fate::Changed(_) => (0, false, false),
                };
                let to = at + (until - at) * share / 1000;
                self.write(at..to, content);
                let mut inputs = Vec::new();
                if to > at || is_last {
                    inputs.push(Input::Synced { lane, extent: at..to, last: is_last });
                }
                if !goes_on {
                    inputs.push(lost(NetErrorKind::Broken));
                } else if !is_last {
                    self.exchanges.insert(lane, Exchange::Storing { source, content, at: to, until });
                }
                inputs
            }
            Exchange::Held { .. } => unreachable!("checked after every step"),
        }
    }

    fn write(&mut self, range: Range<u64>, content: u8) {
        self.file.len = self.file.len.max(range.end);
        if !range.is_empty() {
            self.file.paint(range, content);
        }
    }

    /// The one content that the whole file is of.
    fn content(&self) -> Option<u8> {
        let contents = self.file.contents(&(0..self.file.len));
        let one = contents.first().copied().filter(|_| contents.len() == 1);
        one.filter(|content| content_len(self.base, *content) == self.file.len)
    }

    fn hash(&self) -> Vec<u8> {
        vec![self.content().unwrap_or(GARBAGE); 32]
    }

    /// What is durable, by the state's own account, is there and of one content.
    fn check(&self, state: &State, compared_at_end: bool) {
        let claimed: Vec<Range<u64>> = match state {
            State::Working(work) => (0..work.have.len() as u16)
                .map(|chunk| work.span(chunk).start..work.rest(chunk).start)
                .filter(|claimed| !claimed.is_empty())
                .collect(),
            State::Verifying { work, .. } => std::iter::once(0..work.total()).collect(),
            State::Single { get, .. } => std::iter::once(0..get::extent(get).0).collect(),
            State::Asking { .. } | State::Complete { .. } => return,
        };
        let contents: BTreeSet<u8> =
            claimed.iter().filter(|c| !c.is_empty()).flat_map(|c| self.file.contents(c)).collect();
        assert!(!contents.contains(&GARBAGE), "believed more than there is");
        assert!(compared_at_end || contents.len() <= 1, "mixed {contents:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_download_ends_whole_and_of_one_version_whatever_breaks(
        base in prop::sample::select(vec![1u64, 4 << 20, (5 << 20) + 13, 40 << 20, (300 << 20) + 1]),
        lanes in 1u16..9,
        mut servers in vec(server(), 1..4),
        asked in any::<bool>(),
        events in vec((any::<usize>(), fate()), 0..120),
    ) {
        servers[0].content = 0;
        let told = servers.iter().any(|server| server.tells_digest);
        let mirrors: Vec<String> = MIRRORS[..servers.len() - 1].iter().map(|url| (*url).to_owned()).collect();
        let checksum = Checksum { algorithm: ChecksumAlgorithm::Sha256, digest: vec![0; 32] };
        let facts = Facts { lanes, mirrors: &mirrors, ..facts(asked.then_some(&checksum)) };
        let mut world = World {
            servers,
            base,
            file: Painting::default(),
            exchanges: BTreeMap::new(),
            paused: BTreeSet::new(),
            digest: None,
        };
        let mut changes = 0;
        let mut step = advance(&facts, &Segments::new(&facts), &Input::Begin);
        let mut inputs = Vec::new();
        // Then the network turns kind, and the download must end.
        let kind = (0..KIND_STEPS).map(|at| (at, Fate::Kind));
        for (pick, fate) in events.into_iter().chain(kind) {
            match &mut step.next {
                Next::Done(_) | Next::Fail(_) | Next::Suspend(_) => break,
                Next::Retry(_) => {
                    world.halt();
                    inputs = vec![Input::Restarted];
                }
                Next::Go(effects) => {
                    world.begin(std::mem::take(effects));
                    if inputs.is_empty() {
                        prop_assert!(!world.is_idle(), "stalls in {:?}", step.state);
                        if matches!(fate, Fate::Changed(_)) {
                            changes += 1;
                        }
                        let fate = if changes > CHANGED_MAX { Fate::Kind } else { fate };
                        inputs = world.happen(pick, fate);
                    }
                }
            }
            if inputs.is_empty() {
                continue;
            }
            step = advance(&facts, &step.state, &inputs.remove(0));
            world.check(&step.state, asked || told);
        }
        match &step.next {
            Next::Done(proof) => {
                let content = world.content();
                prop_assert!(content.is_some(), "no version that ever was: {:?}", world.file);
                prop_assert_eq!(proof.size, world.file.len);
                prop_assert!(!asked || content == Some(0));
            }
            // Only another file at the source explains another digest.
            Next::Fail(FailCause::ChecksumMismatch { .. }) => {
                prop_assert!(asked && world.servers[0].content != 0 || told && changes > 0);
            }
            other => prop_assert!(false, "ended with {:?} in {:?}", other, step.state),
        }
    }
}
