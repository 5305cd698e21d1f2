//! An honest server that knows which bytes of the file each upload holds, a network that does not stay up,
//! and a process that dies: several lanes at once.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use proptest::collection::vec;

use super::*;
use crate::protocol::Send;

/// What an upload holds: ranges of the file in order, and how many bytes it is to have.
#[derive(Clone, Debug)]
struct Upload {
    length: u64,
    held: Vec<Range<u64>>,
    partial: bool,
}

impl Upload {
    fn offset(&self) -> u64 {
        self.held.iter().map(|range| range.end - range.start).sum()
    }

    fn cut(&mut self, to: u64) {
        let mut room = to;
        for range in &mut self.held {
            let len = (range.end - range.start).min(room);
            range.end = range.start + len;
            room -= len;
        }
        self.held.retain(|range| !range.is_empty());
    }

    /// Whether it is the file from its first byte to its last.
    fn is_exact(&self, size: u64) -> bool {
        let mut end = 0;
        self.held.iter().all(|range| std::mem::replace(&mut end, range.end) == range.start) && end == size
    }
}

#[derive(Clone, Debug)]
struct Model {
    size: u64,
    extensions: &'static str,
    /// Bytes by which URLs are longer: those of some parts all of it, the others half.
    padding: usize,
    /// Parts are gone once joined.
    consumes: bool,
    uploads: Vec<Option<Upload>>,
    /// Objects that came of joining.
    joined: u32,
}

impl Model {
    fn at(url: &str) -> Option<usize> {
        url.rsplit('/').next()?.split('-').next()?.parse().ok()
    }

    fn url(&self, at: usize) -> String {
        let long = at % 3 == 2 && self.uploads[at].as_ref().is_some_and(|upload| upload.partial);
        let padding = if long { self.padding } else { self.padding / 2 };
        format!("{TARGET}/{at}-{}", "p".repeat(padding))
    }

    fn alive(&self, partial: bool) -> usize {
        self.uploads.iter().flatten().filter(|upload| upload.partial == partial).count()
    }

    fn create(&mut self, upload: Upload) -> Input {
        self.uploads.push(Some(upload));
        reply(0, 201, &[("location", &self.url(self.uploads.len() - 1))])
    }

    fn join(&mut self, list: &str) -> Input {
        let parts: Vec<usize> = list.split(' ').map(|url| Self::at(url).unwrap()).collect();
        let known: Option<Vec<Upload>> = parts.iter().map(|&at| self.uploads[at].clone()).collect();
        let Some(known) = known else { return reply(0, 404, &[]) };
        if known.iter().any(|part| part.offset() < part.length) {
            return reply(0, 400, &[]);
        }
        let held: Vec<_> = known.iter().flat_map(|part| part.held.clone()).collect();
        if self.consumes {
            for &at in &parts {
                self.uploads[at] = None;
            }
        }
        self.joined += 1;
        let length = known.iter().map(|part| part.length).sum();
        self.create(Upload { length, held, partial: false })
    }

    /// Handles a request of whose body `room` bytes arrive.
    fn handle(&mut self, send: &Send, room: u64) -> Input {
        let header = |name: &str| send.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        let number = |name: &str| header(name).unwrap().parse::<u64>().unwrap();
        let concat = header("upload-concat");
        let answer = match send.method {
            Method::OPTIONS => {
                reply(0, 204, &[("tus-extension", self.extensions), ("tus-checksum-algorithm", "sha1")])
            }
            Method::POST => match concat.as_deref().map(|concat| concat.strip_prefix("final;")) {
                Some(Some(list)) => self.join(list),
                partial => {
                    let upload = Upload {
                        length: number("upload-length"),
                        held: Vec::new(),
                        partial: partial.is_some(),
                    };
                    self.create(upload)
                }
            },
            _ => {
                let at = Self::at(&send.url).unwrap();
                let Some(upload) = self.uploads[at].as_mut() else {
                    return on(send.lane, reply(0, 404, &[]));
                };
                match send.method {
                    Method::HEAD => {}
                    Method::DELETE => {
                        self.uploads[at] = None;
                        return on(send.lane, reply(0, 204, &[]));
                    }
                    Method::PATCH if number("upload-offset") != upload.offset() => {
                        return on(send.lane, reply(0, 409, &[]));
                    }
                    Method::PATCH => {
                        let Body::File { range, digest } = &send.body else { panic!("{send:?}") };
                        let whole = range.end - range.start <= room;
                        if whole || digest.is_none() {
                            upload.held.push(range.start..range.end.min(range.start.saturating_add(room)));
                        }
                    }
                    _ => panic!("{send:?}"),
                }
                let (offset, length) = (upload.offset().to_string(), upload.length.to_string());
                reply(0, 200, &[("upload-offset", &offset), ("upload-length", &length)])
            }
        };
        on(send.lane, answer)
    }
}

fn on(lane: u16, input: Input) -> Input {
    let Input::Reply { reply, .. } = input else { panic!("{input:?}") };
    Input::Reply { lane, reply }
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    /// All goes well.
    Kind,
    /// The server sees nothing.
    Refused,
    /// There is no way to the server.
    Offline,
    /// The server sees so many bytes of the body at most, and the reply is lost.
    Cut(u64),
    /// The process dies; of all that is in flight the server sees so many bytes at most, or nothing.
    Killed(Option<u64>),
    /// The server is busy.
    Busy,
    /// The server no longer knows a part.
    Amnesia,
    /// The server loses what it held of a part beyond so many bytes.
    Tail(u64),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Kind),
        1 => Just(Fate::Refused),
        1 => Just(Fate::Offline),
        2 => (0u64..3 * MIB).prop_map(Fate::Cut),
        1 => Just(Fate::Cut(u64::MAX)),
        2 => prop::option::of(0u64..3 * MIB).prop_map(Fate::Killed),
        1 => Just(Fate::Killed(Some(u64::MAX))),
        1 => Just(Fate::Busy),
        1 => Just(Fate::Amnesia),
        1 => (0u64..2 * MIB).prop_map(Fate::Tail),
    ]
}

/// One job, its server, and what is in flight between them.
struct World {
    facts: Facts<'static>,
    model: Model,
    step: Step<State>,
    flight: BTreeMap<u16, Send>,
    pauses: BTreeSet<u16>,
    cancelled: bool,
    /// How often the server lost something that it had confirmed.
    losses: u32,
    /// The highest counts that were journaled.
    orphans: u32,
    finals: u32,
    whole: Option<String>,
}

impl World {
    fn new(model: Model, lanes: u16) -> Self {
        let facts = facts(model.size, lanes);
        let step = advance(&facts, &TusParts::new(&facts), &Input::Begin);
        let (flight, pauses) = (BTreeMap::new(), BTreeSet::new());
        let mut world = Self {
            facts,
            model,
            step,
            flight,
            pauses,
            cancelled: false,
            losses: 0,
            orphans: 0,
            finals: 0,
            whole: None,
        };
        world.perform();
        world
    }

    fn input(&mut self, input: &Input) {
        self.step = advance(&self.facts, &self.step.state, input);
        self.perform();
    }

    fn perform(&mut self) {
        self.remember();
        let Next::Go(effects) = &self.step.next else { return };
        for effect in effects.clone() {
            match effect {
                Effect::Send(send) => {
                    assert!(!self.pauses.contains(&send.lane), "a lane that rests sends");
                    self.may_send(&send);
                    let before = self.flight.insert(send.lane, *send);
                    assert!(before.is_none(), "two requests on one lane: {before:?}");
                }
                Effect::Pause { lane, .. } => {
                    assert!(!self.flight.contains_key(&lane) && self.pauses.insert(lane));
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(self.flight.len() <= usize::from(self.facts.lanes), "{:?}", self.flight);
        assert!(
            !self.flight.is_empty() || !self.pauses.is_empty(),
            "waits for nothing: {:?}",
            self.step.state
        );
    }

    /// Parts go only when the whole is proven, the job is given up, or fewer begin.
    fn may_send(&self, send: &Send) {
        if send.method != Method::DELETE {
            return;
        }
        match &self.step.state {
            State::Freeing { then: Then::Proven { whole, .. }, .. } => {
                let whole = Model::at(whole).and_then(|at| self.model.uploads[at].as_ref());
                assert!(whole.is_some_and(|whole| whole.is_exact(self.model.size)));
            }
            State::Freeing { then: Then::Fewer(_), .. } => assert_eq!(self.model.joined, 0),
            State::Freeing { then: Then::Cancelled { .. }, .. } | State::Single(_) => assert!(self.cancelled),
            other => panic!("DELETE in {other:?}"),
        }
    }

    fn remember(&mut self) {
        match &self.step.state {
            State::Sending { set }
            | State::Joining { set, .. }
            | State::Proving { set, .. }
            | State::Freeing { set, .. } => {
                (self.orphans, self.finals) = (self.orphans.max(set.orphans), self.finals.max(set.finals));
                if self.losses == 0 && !matches!(self.step.state, State::Freeing { .. }) {
                    let held = self.model.uploads.iter().flatten().map(Upload::offset).sum();
                    assert!(
                        set.acked() <= held || self.model.joined > 0,
                        "believed {} of {held}",
                        set.acked()
                    );
                }
            }
            State::Single(
                tus::State::Creating { tally, .. }
                | tus::State::Sending { session: tus::Session { tally, .. }, .. }
                | tus::State::Probing { session: tus::Session { tally, .. }, .. },
            ) => self.orphans = self.orphans.max(tally.orphans),
            _ => {}
        }
        if let Next::Done(proof) = &self.step.next
            && let Some((before, _)) = proof.evidence.split_once(" lost creation(s)")
        {
            self.orphans = self.orphans.max(before.rsplit(' ').next().unwrap().parse().unwrap());
        }
        if let State::Proving { whole, .. } = &self.step.state {
            self.whole = Some(whole.clone());
        }
    }

    /// Everything in flight is dropped; the server may have seen of it what it did.
    fn halt(&mut self, seen: Option<u64>) {
        self.pauses.clear();
        for send in std::mem::take(&mut self.flight).into_values() {
            if let Some(room) = seen {
                self.model.handle(&send, room);
            }
        }
    }

    fn give_up(&mut self, seen: Option<u64>) {
        self.halt(seen);
        self.cancelled = true;
        self.input(&Input::Cancel);
    }

    /// One thing happens, to one of the lanes; false at the end.
    fn tick(&mut self, fate: Fate, pick: usize) -> bool {
        match &self.step.next {
            Next::Done(_) | Next::Fail(_) => return false,
            Next::Suspend(cause) => panic!("{cause}"),
            Next::Retry(_) => {
                let seen = match fate {
                    Fate::Cut(room) | Fate::Killed(Some(room)) => Some(room),
                    _ => None,
                };
                self.halt(seen);
                self.input(&Input::Restarted);
                return true;
            }
            Next::Go(_) => {}
        }
        let lanes: Vec<u16> = self.flight.keys().chain(&self.pauses).copied().collect();
        let lane = lanes[pick % lanes.len()];
        self.lose(fate, pick);
        if let Fate::Killed(seen) = fate {
            self.halt(seen);
            self.input(&Input::Restarted);
        } else if self.pauses.remove(&lane) {
            self.input(&Input::Woken { lane });
        } else if let Some(send) = self.flight.remove(&lane) {
            let input = match fate {
                Fate::Refused => lost(lane, NetErrorKind::Connect),
                Fate::Offline => lost(lane, NetErrorKind::Offline),
                Fate::Busy => reply(lane, 503, &[("retry-after", "1")]),
                Fate::Cut(room) => {
                    self.model.handle(&send, room);
                    lost(lane, NetErrorKind::Broken)
                }
                Fate::Kind | Fate::Killed(_) | Fate::Amnesia | Fate::Tail(_) => {
                    self.model.handle(&send, u64::MAX)
                }
            };
            self.input(&input);
        }
        true
    }

    fn lose(&mut self, fate: Fate, pick: usize) {
        if self.losses == 3 || self.model.uploads.is_empty() {
            return;
        }
        let at = pick % self.model.uploads.len();
        let Some(upload) = self.model.uploads[at].as_mut().filter(|upload| upload.partial) else { return };
        match fate {
            Fate::Amnesia => self.model.uploads[at] = None,
            Fate::Tail(to) => upload.cut(to),
            Fate::Kind | Fate::Refused | Fate::Offline | Fate::Cut(_) | Fate::Killed(_) | Fate::Busy => {
                return;
            }
        }
        self.losses += 1;
    }

    /// What may be alive at the end that nobody asked for.
    fn assert_clean(&self, left: usize) {
        assert!(self.model.alive(true) <= self.orphans as usize + left, "{:?}", self.model);
        assert!(self.model.joined <= 1 + self.finals, "{} joined, {} lost", self.model.joined, self.finals);
    }
}

fn model() -> impl Strategy<Value = Model> {
    let extensions = prop::sample::select(vec![
        "creation,concatenation,termination",
        "creation,concatenation,termination",
        "creation,concatenation,checksum,termination",
        "creation,concatenation",
        "creation,termination",
    ]);
    let padding = prop_oneof![3 => Just(0usize), 1 => Just(150), 1 => Just(900), 1 => Just(2000)];
    (2 * MIB - 1..40 * MIB, extensions, padding, prop::bool::weighted(0.2)).prop_map(
        |(size, extensions, padding, consumes)| Model {
            size,
            extensions,
            padding,
            consumes,
            uploads: Vec::new(),
            joined: 0,
        },
    )
}

proptest! {
    #[test]
    fn parts_end_as_one_exact_object_whatever_is_lost(
        model in model(), lanes in 1u16..9, fates in vec((fate(), any::<usize>()), 0..60),
    ) {
        let mut world = World::new(model, lanes);
        // Then the network turns kind, and the upload must end.
        for (fate, pick) in fates.into_iter().chain((0..600).map(|pick| (Fate::Kind, pick))) {
            if !world.tick(fate, pick) {
                break;
            }
        }
        match &world.step.next {
            Next::Done(proof) => {
                prop_assert_eq!(proof.size, world.model.size);
                let left = if world.model.extensions.contains("termination") { 0 } else { usize::from(lanes) };
                world.assert_clean(left);
                let exact = world.model.uploads.iter().flatten().filter(|upload| !upload.partial);
                prop_assert!(exact.clone().any(|whole| whole.is_exact(world.model.size)), "{:?}", world.model);
                if let Some(whole) = &world.whole {
                    let at = Model::at(whole).unwrap();
                    prop_assert!(world.model.uploads[at].as_ref().is_some_and(|whole| whole.is_exact(world.model.size)));
                    prop_assert_eq!(proof.evidence.contains("lost final"), world.finals > 0);
                }
            }
            // Honest only if a request to join was lost and parts with it.
            Next::Fail(FailCause::OutcomeUnknown(_)) => {
                prop_assert!(world.finals > 0 && (world.losses > 0 || world.model.consumes), "{:?}", world.model);
            }
            other => prop_assert!(false, "ended with {:?} at {:?}", other, world.step.state),
        }
    }

    #[test]
    fn nothing_known_is_left_after_giving_up(
        model in model(), lanes in 1u16..9, fates in vec((fate(), any::<usize>()), 0..40),
        seen in prop::option::of(0u64..3 * MIB), after in vec((fate(), any::<usize>()), 0..20),
    ) {
        let mut world = World::new(model, lanes);
        for (fate, pick) in fates {
            if !world.tick(fate, pick) {
                return Ok(());
            }
        }
        if matches!(world.step.next, Next::Done(_) | Next::Fail(_)) {
            return Ok(());
        }
        let single = matches!(world.step.state, State::Single(_));
        world.give_up(seen);
        for (fate, pick) in after.into_iter().chain((0..100).map(|pick| (Fate::Kind, pick))) {
            if !world.tick(fate, pick) {
                break;
            }
        }
        if single {
            return Ok(());
        }
        let known = known(&world.step.state).count();
        world.assert_clean(known);
        prop_assert!(world.model.alive(false) <= world.finals as usize + known, "{:?}", world.model);
        match &world.step.next {
            Next::Done(_) => prop_assert!(known == 0 && world.finals == 0),
            Next::Fail(FailCause::Protocol(_)) => {
                prop_assert!(world.finals > 0 || known > 0 && !world.model.extensions.contains("termination"));
            }
            other => prop_assert!(false, "ended with {:?} at {:?}", other, world.step.state),
        }
    }
}
