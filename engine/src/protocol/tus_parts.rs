//! tus 1.0 upload in parallel parts (extension `concatenation`) as a pure state machine.
//!
//! | step | request | answers that go on |
//! |---|---|---|
//! | discover | OPTIONS target | as in [`tus`](super::tus); without `concatenation`, for small files and on one lane: [`State::Single`] |
//! | create | POST target, Upload-Concat: partial, Upload-Length of the part | 201, Location; a refusal of the very first: `Single` |
//! | send | PATCH part, the whole part (8 MiB with Upload-Checksum, if advertised) | as in `tus` |
//! | probe | HEAD part | as in `tus`; offset = length of the part: it is whole |
//! | join | POST target, Upload-Concat: final;url url …, Upload-Metadata | 201, Location; a refusal: HEAD of every part, once |
//! | prove | HEAD whole | Upload-Offset = size, Upload-Length = size if told; less: again later, at most ten times |
//! | free | DELETE part | 2xx, 404, 410 |
//!
//! Lane i is part i. A part that fails pauses on its lane while the others go on; after five times in a row it is
//! the job that backs off. The first part is created alone: what its URL is like says for how many there is room
//! in a record, and whether the server takes parts at all.
//!
//! ```text
//!                  ┌───────────── refused, or unanswered: HEAD of every part ────────────┐
//!                  ▼                                                                     │
//! Discovering ─▶ Sending ──every part whole──▶ Joining ──201──▶ Proving ──offset = size──┼─▶ Freeing ─▶ Complete
//!       │          │ ▲                            └──────────────────────────────────────┘  (parts)
//!       │          │ └──────── fewer parts ─────────┐
//!       ▼          └─ URLs too long ─▶ Freeing ─────┤      a request to join unanswered, then a part 404
//!     Single ◀────────── one stream ────────────────┘                        ──▶ Gone (outcome unknown)
//! anything with a URL ──Cancel──▶ Freeing ──▶ Gone
//! ```
//!
//! | killed in | the next process |
//! |---|---|
//! | Sending | HEAD for every part that has a URL and is not whole; creations in flight are counted and made again |
//! | Joining | counts a whole object that may exist, HEAD for every part, joins again while all answer |
//! | Proving | HEAD |
//! | Freeing | DELETE again; 404 is gone |
//!
//! Invariants: `acked ≤ sent ≤ length` for every part, `acked` is what the server said last; a part's URL is
//! journaled before its bytes go; nothing is sent in answer to `Restarted` but OPTIONS, POST, HEAD, DELETE. A part
//! is no object: its last byte commits nothing. The request to join does, and is not idempotent: it is only sent
//! when every part is whole, and each one that stays unanswered is counted as an object that may exist.
//! No part is deleted before the whole is proven, unless the job is given up or begins again with fewer. Rewinds
//! and lost uploads are bounded, each to three for every part: a server that forgets, forgets them all at once.
//! What a deletion meets never undoes completion; what stays is named in the proof.
//!
//! Absent on purpose: unfinished concatenation (joining before the parts are whole), parts that are split
//! again when lanes fall idle (their ranges are fixed), bytes in a creation.

mod free;
mod join;
mod lanes;
pub mod state;

use http::{HeaderMap, HeaderName, Method};
pub use state::{Doing, PART_MIN, PARTS_MAX, Part, Set, State, Then};

use super::tus::{self, Server, Tally, words};
use super::{Body, Effect, Facts, Input, Next, Protocol, ProtocolId, Reply, Step, StepError, wire};
use crate::job::{Direction, FailCause, Proof, SuspendCause};

/// Failures of a lane in a row that are its own; one more, and the whole job backs off.
pub const FAILS_MAX: u8 = 5;
/// Answers that do not show the whole before the job fails.
pub const PROVE_MAX: u8 = 10;
const LANE: u16 = 0;
const TUS_EXTENSION: HeaderName = HeaderName::from_static("tus-extension");
const UPLOAD_CONCAT: HeaderName = HeaderName::from_static("upload-concat");

/// The protocol.
pub enum TusParts {}

impl Protocol for TusParts {
    type State = State;
    const NAME: &'static str = "tus-concat";
    const DIRECTION: Direction = Direction::Upload;

    fn new(_facts: &Facts<'_>) -> State {
        State::Discovering
    }

    fn step(facts: &Facts<'_>, state: &State, input: &Input) -> Result<Step<State>, StepError> {
        let size = facts.size.ok_or_else(|| StepError("an upload without a size".to_owned()))?;
        let upload = Upload { facts, size };
        match (state, input) {
            (State::Single(single), _) => tus::Tus::step(facts, single, input).map(single_stream),
            (State::Discovering, Input::Begin | Input::Restarted) => Ok(upload.discover()),
            (_, Input::Restarted) => Ok(upload.restarted(state)),
            (_, Input::Cancel) => Ok(upload.cancel(state)),
            (_, Input::Reply { lane, reply }) => upload.replied(state, input, *lane, reply),
            (_, Input::Lost { lane, .. }) => upload.lost(state, input, *lane),
            (_, Input::Woken { lane }) => upload.woken(state, input, *lane),
            (_, Input::Begin | Input::Synced { .. } | Input::Digested { .. }) => {
                Err(StepError::unexpected(state, input))
            }
        }
    }

    /// The first URL that is known: there may be others.
    fn remote(state: &State) -> Option<&str> {
        match state {
            State::Single(single) => tus::Tus::remote(single),
            State::Proving { whole, .. } => Some(whole),
            State::Sending { set } | State::Joining { set, .. } | State::Freeing { set, .. } => {
                set.urls.0.iter().flatten().map(String::as_str).next()
            }
            State::Discovering | State::Complete { .. } | State::Gone { .. } => None,
        }
    }

    fn chosen(state: &State) -> Option<ProtocolId> {
        match state {
            State::Single(_) => Some(ProtocolId::Tus),
            State::Sending { .. }
            | State::Joining { .. }
            | State::Proving { .. }
            | State::Freeing { .. }
            | State::Complete { .. } => Some(ProtocolId::TusParts),
            State::Discovering | State::Gone { .. } => None,
        }
    }
}

impl TusParts {
    /// Begins with an answer to OPTIONS that somebody else has asked for.
    ///
    /// # Errors
    ///
    /// [`StepError`]: the job has no size.
    pub fn offered(facts: &Facts<'_>, reply: &Reply) -> Result<Step<State>, StepError> {
        Self::step(facts, &State::Discovering, &Input::Reply { lane: LANE, reply: reply.clone() })
    }
}

/// One step's surroundings.
struct Upload<'a> {
    facts: &'a Facts<'a>,
    size: u64,
}

impl Upload<'_> {
    fn restarted(&self, state: &State) -> Step<State> {
        match state.clone() {
            State::Discovering => self.discover(),
            State::Sending { set } => self.start(set),
            State::Joining { set, asked: true } => self.doubt(set),
            State::Joining { set, asked: false } => self.join(set),
            State::Proving { set, whole, tries } => self.prove(set, whole, tries),
            State::Freeing { set, then } => self.free_again(set, then),
            State::Complete { evidence, .. } => self.complete(evidence),
            State::Gone { acked, cause } => self.gone(acked, cause),
            // Answered before.
            State::Single(single) => self.step(State::Single(single), Next::Go(Vec::new())),
        }
    }

    fn replied(
        &self,
        state: &State,
        input: &Input,
        lane: u16,
        reply: &Reply,
    ) -> Result<Step<State>, StepError> {
        let at = usize::from(lane);
        Ok(match state.clone() {
            State::Discovering if lane == LANE => self.discovered(reply),
            State::Joining { set, asked: true } if lane == LANE => self.joined(set, reply),
            State::Proving { set, whole, tries } if lane == LANE => self.proved(set, whole, tries, reply),
            State::Sending { set } => match doing(&set, at) {
                Some(Doing::Creating) => self.created(set, at, reply),
                Some(Doing::Sending) => self.sent(set, at, reply),
                Some(Doing::Probing(why)) => self.probed(set, at, why, reply),
                Some(Doing::Due | Doing::Resting | Doing::Whole | Doing::Freeing | Doing::Left) | None => {
                    return Err(StepError::unexpected(state, input));
                }
            },
            State::Freeing { set, then } if doing(&set, at) == Some(Doing::Freeing) => {
                self.freed(set, then, at, reply)
            }
            State::Discovering
            | State::Joining { .. }
            | State::Proving { .. }
            | State::Freeing { .. }
            | State::Single(_)
            | State::Complete { .. }
            | State::Gone { .. } => return Err(StepError::unexpected(state, input)),
        })
    }

    fn lost(&self, state: &State, input: &Input, lane: u16) -> Result<Step<State>, StepError> {
        let unexpected = || StepError::unexpected(state, input);
        let Input::Lost { kind, why, .. } = input else { return Err(unexpected()) };
        let (at, seen) = (usize::from(lane), !kind.is_unsent());
        let next = |url: &str| wire::lost(*kind, why, url);
        Ok(match state.clone() {
            State::Discovering if lane == LANE => self.step(State::Discovering, next(self.facts.url)),
            State::Joining { set, asked: true } if lane == LANE => {
                self.unanswered(set, seen, next(self.facts.url))
            }
            State::Proving { set, whole, tries } if lane == LANE => {
                let next = next(&whole);
                self.step(State::Proving { set, whole, tries }, next)
            }
            State::Sending { mut set } if set.parts.get(at).is_some_and(Part::is_in_flight) => {
                set.orphaned(seen && doing(&set, at) == Some(Doing::Creating));
                let next = next(set.url(at).unwrap_or(self.facts.url));
                self.trip(set, at, next)
            }
            State::Freeing { set, then } if doing(&set, at) == Some(Doing::Freeing) => {
                let next = next(set.url(at).unwrap_or(self.facts.url));
                self.not_freed(set, then, at, next)
            }
            State::Discovering
            | State::Joining { .. }
            | State::Proving { .. }
            | State::Sending { .. }
            | State::Freeing { .. }
            | State::Single(_)
            | State::Complete { .. }
            | State::Gone { .. } => return Err(unexpected()),
        })
    }

    fn woken(&self, state: &State, input: &Input, lane: u16) -> Result<Step<State>, StepError> {
        let at = usize::from(lane);
        match state.clone() {
            State::Sending { set } if doing(&set, at) == Some(Doing::Resting) => Ok(self.woke(set, at)),
            State::Freeing { mut set, then } if doing(&set, at) == Some(Doing::Resting) => {
                set.parts[at].doing = Doing::Due;
                Ok(self.free_due(set, then))
            }
            State::Discovering
            | State::Joining { .. }
            | State::Proving { .. }
            | State::Sending { .. }
            | State::Freeing { .. }
            | State::Single(_)
            | State::Complete { .. }
            | State::Gone { .. } => Err(StepError::unexpected(state, input)),
        }
    }

    fn discover(&self) -> Step<State> {
        let options = words::request(LANE, Method::OPTIONS, self.facts.url, HeaderMap::new(), Body::Empty);
        self.step(State::Discovering, Next::Go(vec![options]))
    }

    fn discovered(&self, reply: &Reply) -> Step<State> {
        let server = match words::offered(self.facts, self.size, reply) {
            Ok(server) => server,
            Err(next) => return self.step(State::Discovering, next),
        };
        let joins = reply.status.is_success() && wire::lists(&reply.headers, &TUS_EXTENSION, "concatenation");
        let most = u16::try_from(self.size / PART_MIN).unwrap_or(u16::MAX);
        let parts = most.min(self.facts.lanes).min(PARTS_MAX);
        let why = match (joins, most, self.facts.lanes) {
            (true, 2.., 2..) => return self.plan(server, 0, parts),
            (true, 2.., _) => "no more was asked for",
            (true, _, _) => "the file is small",
            (false, _, _) => "the server joins no parts",
        };
        self.single(server, 0, why)
    }

    /// Begins with so many parts.
    fn plan(&self, server: Server, orphans: u32, parts: u16) -> Step<State> {
        let note = format!("{parts} parts side by side");
        Step { note: Some(note), ..self.start(Set::new(server, orphans, parts)) }
    }

    /// Begins with one stream.
    fn single(&self, server: Server, orphans: u32, why: &str) -> Step<State> {
        let tally = Tally { orphans, ..Tally::default() };
        let step = single_stream(tus::begin(self.facts, self.size, server, tally));
        Step { note: Some(format!("one stream: {why}")), ..step }
    }

    fn complete(&self, evidence: String) -> Step<State> {
        let proof = Proof { size: self.size, evidence: evidence.clone() };
        self.step(State::Complete { size: self.size, evidence }, Next::Done(proof))
    }

    fn gone(&self, acked: u64, cause: FailCause) -> Step<State> {
        self.step(State::Gone { acked, cause: cause.clone() }, Next::Fail(cause))
    }

    fn broken(&self, state: State, why: &str) -> Step<State> {
        self.step(state, Next::Fail(FailCause::Protocol(why.to_owned())))
    }

    fn refused(&self, state: State, reply: &Reply) -> Step<State> {
        self.step(state, wire::classify(reply, self.facts.now).into())
    }

    fn step(&self, state: State, next: Next) -> Step<State> {
        let done = match &state {
            State::Discovering | State::Single(_) => 0,
            State::Sending { set } | State::Joining { set, .. } | State::Proving { set, .. } => set.acked(),
            State::Freeing { set, then } => match then {
                Then::Proven { .. } => self.size,
                Then::Fewer(_) => 0,
                Then::Cancelled { .. } => set.acked(),
            },
            State::Complete { size, .. } => *size,
            State::Gone { acked, .. } => *acked,
        };
        Step { state, done, size: Some(self.size), next, note: None }
    }
}

fn doing(set: &Set, at: usize) -> Option<Doing> {
    set.parts.get(at).map(|part| part.doing)
}

fn single_stream(step: Step<tus::State>) -> Step<State> {
    let Step { state, done, size, next, note } = step;
    Step { state: State::Single(state), done, size, next, note }
}

#[cfg(test)]
mod tests;
