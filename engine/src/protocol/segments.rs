//! HTTP download in segments, from several mirrors, as a pure state machine.
//!
//! | step | request | answers that go on |
//! |---|---|---|
//! | ask | GET of the whole, as `get` words it | 200 with a strong validator and a length that is worth it: its body becomes the first chunk, cut off at the chunk's end, and the other lanes begin; any other 200: `get` goes on with this same body |
//! | fetch | GET with `Range` of one chunk's rest, and If-Range where the source has the lead's validator | 206, judged by [`source`] |
//!
//! ```text
//! Asking ──200──▶ Working ──every chunk whole──▶ Verifying ──▶ Complete
//!   │  ▲           │    │                         │    │
//!   │  └─ changed ─┘    └─ no ranges ─▶ Single ◀──┘    └── digest wrong (once) ──▶ Asking
//!   └────────── not worth it ────────────▲ (mirrors took part: the primary alone)
//! ```
//!
//! | killed in | the next process |
//! |---|---|
//! | Asking | asks again, the primary first |
//! | Working | asks for the rest of each chunk; nothing durable: asks again |
//! | Verifying | hashes again |
//! | Single | as `get` |
//! | Complete | the same answer again |
//!
//! A source that does not give the whole at first is followed by the next one; which of them did is the
//! lead: its validator names the version.
//!
//! Invariants: no byte is stored before the version that it belongs to and the plan are journaled; every
//! answer is held against the version before a byte of it is stored; one part file never mixes two versions;
//! what a mirror gives without the lead's entity tag is complete only by a digest of the whole. A restart of
//! the whole goes through [`Next::Retry`] while anything is in flight, so that no lane outlives its plan.
//!
//! Absent on purpose: splitting a chunk that is under way, a second lead, several ranges in one request.

pub mod state;

mod source;
mod work;

use http::{HeaderMap, Method};

use self::state::{Refusal, Turn};
pub use self::state::{State, Work};
use self::work::{Shift, mirrors};
use super::get::verify::{self, Trial};
use super::get::{self, Check, Get, Tally, answer};
use super::wire;
use super::{Effect, Facts, Input, Next, Protocol, ProtocolId, Reply, Retry, Sink, Step, StepError};
use crate::job::{ChecksumAlgorithm, Direction, FailCause, Proof, SuspendCause};

/// The lane of the first request.
const LANE: u16 = 0;

/// The protocol.
pub enum Segments {}

impl Protocol for Segments {
    type State = State;
    const NAME: &'static str = "get-segments";
    const DIRECTION: Direction = Direction::Download;

    fn new(_facts: &Facts<'_>) -> State {
        State::Asking { tally: Tally::default(), turn: Turn::default() }
    }

    fn step(facts: &Facts<'_>, state: &State, input: &Input) -> Result<Step<State>, StepError> {
        let unexpected = || StepError::unexpected(state, input);
        match (state, input) {
            (_, Input::Cancel) => {
                let evidence = "a download holds nothing at the server".to_owned();
                Ok(step(state.clone(), Next::Done(Proof { size: 0, evidence }), None))
            }
            (State::Working(work), Input::Woken { lane }) => {
                Ok(Shift::new(facts, (**work).clone()).woken(*lane))
            }
            // Another lane finished what this one had paused for.
            (_, Input::Woken { .. }) => Ok(step(state.clone(), Next::Go(Vec::new()), None)),
            (State::Asking { tally, turn }, Input::Begin) => Ok(ask(facts, *tally, turn.clone())),
            (State::Asking { tally, .. }, Input::Restarted) => Ok(again(facts, *tally)),
            (State::Asking { tally, turn }, Input::Lost { lane: LANE, kind, why }) => {
                let next = wire::lost(*kind, why, source_url(facts, turn.source));
                Ok(elsewhere(facts, *tally, turn.clone(), next))
            }
            (State::Asking { tally, turn }, Input::Reply { lane: LANE, reply }) => {
                asked(facts, *tally, turn, reply, input)
            }
            (State::Single { source, get }, _) => single(facts, *source, get, input),
            (State::Working(work), Input::Restarted) => Ok(Shift::new(facts, (**work).clone()).restarted()),
            (State::Working(work), Input::Reply { lane, reply }) => {
                Shift::new(facts, (**work).clone()).replied(*lane, reply).ok_or_else(unexpected)
            }
            (State::Working(work), Input::Lost { lane, kind, why }) => {
                Shift::new(facts, (**work).clone()).lost(*lane, *kind, why).ok_or_else(unexpected)
            }
            (State::Working(work), Input::Synced { lane, extent, last }) => {
                Shift::new(facts, (**work).clone()).synced(*lane, extent, *last)
            }
            (State::Verifying { work, .. }, Input::Restarted) => {
                Ok(begin_trial(facts, (**work).clone(), None))
            }
            (State::Verifying { work, check }, Input::Digested { algorithm, digest }) => {
                digested(facts, work, *check, *algorithm, digest).ok_or_else(unexpected)
            }
            (State::Complete { size, evidence, name }, Input::Restarted) => {
                Ok(complete(*size, evidence.clone(), name.clone()))
            }
            (
                State::Asking { .. } | State::Working(_) | State::Verifying { .. } | State::Complete { .. },
                Input::Begin
                | Input::Reply { .. }
                | Input::Lost { .. }
                | Input::Synced { .. }
                | Input::Digested { .. },
            ) => Err(unexpected()),
        }
    }

    fn served_name(state: &State) -> Option<&str> {
        match state {
            State::Asking { .. } => None,
            State::Single { get, .. } => Get::served_name(get),
            State::Working(work) | State::Verifying { work, .. } => work.version.name.as_deref(),
            State::Complete { name, .. } => name.as_deref(),
        }
    }

    fn chosen(state: &State) -> Option<ProtocolId> {
        match state {
            State::Single { .. } => Some(ProtocolId::Get),
            State::Asking { .. } | State::Working(_) | State::Verifying { .. } | State::Complete { .. } => {
                None
            }
        }
    }
}

/// The URL of a source: the primary's (0) or a mirror's.
fn source_url<'a>(facts: &Facts<'a>, source: u16) -> &'a str {
    let mirror = usize::from(source).checked_sub(1).and_then(|at| facts.mirrors.get(at));
    mirror.map_or(facts.url, String::as_str)
}

/// From the start, with nothing in flight.
fn again(facts: &Facts<'_>, tally: Tally) -> Step<State> {
    ask(facts, tally, Turn::default())
}

fn ask(facts: &Facts<'_>, tally: Tally, turn: Turn) -> Step<State> {
    let url = source_url(facts, turn.source);
    let get = answer::request(LANE, Method::GET, url, HeaderMap::new(), Sink::Hold);
    step(State::Asking { tally, turn }, Next::Go(vec![get]), None)
}

/// The first answer: split, taken as it is, or another source's turn.
fn asked(
    facts: &Facts<'_>,
    tally: Tally,
    turn: &Turn,
    reply: &Reply,
    input: &Input,
) -> Result<Step<State>, StepError> {
    if reply.status.as_u16() != 200 {
        let next = wire::classify(reply, facts.now).into();
        return Ok(elsewhere(facts, tally, turn.clone(), next));
    }
    let why = match work::begin(facts, tally, turn.source, reply) {
        Ok(step) => return Ok(step),
        Err(why) => why,
    };
    let mut whole = single(facts, turn.source, &get::State::Asking { tally }, input)?;
    if matches!(whole.next, Next::Fail(_)) {
        return Ok(elsewhere(facts, tally, turn.clone(), whole.next));
    }
    whole.note = Some(format!("in one stream: {why}"));
    Ok(whole)
}

/// The source whose turn it was does not give the file: the next one's turn, or what is left to say.
fn elsewhere(facts: &Facts<'_>, tally: Tally, mut turn: Turn, next: Next) -> Step<State> {
    let why = match &next {
        Next::Retry(retry) => {
            turn.hope = true;
            turn.reached |= !retry.offline;
            retry.why.clone()
        }
        Next::Suspend(SuspendCause::Auth(why)) => {
            turn.no.get_or_insert_with(|| Refusal::Auth(why.clone()));
            why.clone()
        }
        Next::Fail(cause) => {
            turn.no.get_or_insert_with(|| Refusal::Final(cause.clone()));
            cause.to_string()
        }
        Next::Suspend(cause) => cause.to_string(),
        Next::Go(_) | Next::Done(_) => String::new(),
    };
    if turn.source < mirrors(facts) {
        turn.source += 1;
        let next_host = wire::host(source_url(facts, turn.source));
        let mut step = ask(facts, tally, turn);
        step.note = Some(format!("asks {next_host} instead: {}", wire::printable(&why, 80)));
        return step;
    }
    let end = match (next, turn.no) {
        (Next::Retry(retry), _) => Next::Retry(Retry { offline: !turn.reached, ..retry }),
        (_, Some(_)) if turn.hope => Next::Retry(Retry::because(why)),
        (_, Some(Refusal::Auth(why))) => Next::Suspend(SuspendCause::Auth(why)),
        (_, Some(Refusal::Final(cause))) => Next::Fail(cause),
        (other, None) => other,
    };
    step(State::Asking { tally, turn: Turn::default() }, end, None)
}

/// One stream from one source: its own state machine, which knows of no other source.
fn single(facts: &Facts<'_>, source: u16, get: &get::State, input: &Input) -> Result<Step<State>, StepError> {
    let facts = Facts { url: source_url(facts, source), ..*facts };
    let Step { state, done, size, next, note } = Get::step(&facts, get, input)?;
    if source > 0 && matches!(next, Next::Fail(FailCause::ChecksumMismatch { .. })) {
        return Ok(without_mirrors(Tally::default()));
    }
    Ok(Step { state: State::Single { source, get: state }, done, size, next, note })
}

/// Every byte is there: the first digest, or the end.
fn begin_trial(facts: &Facts<'_>, work: Work, note: Option<String>) -> Step<State> {
    let trial = verify::begin(&work.version, facts.checksum);
    Step { note, ..tried(facts, work, trial) }
}

fn digested(
    facts: &Facts<'_>,
    work: &Work,
    check: Check,
    algorithm: ChecksumAlgorithm,
    digest: &[u8],
) -> Option<Step<State>> {
    let trial = verify::judge(&work.version, facts.checksum, check, algorithm, digest)?;
    Some(tried(facts, work.clone(), trial))
}

fn tried(facts: &Facts<'_>, mut work: Work, trial: Trial) -> Step<State> {
    // No lane works any more; one may still wait, and hears of it.
    work.lanes.clear();
    match trial {
        Trial::Hash(check, algorithm) => {
            let state = State::Verifying { work: Box::new(work), check };
            step(state, Next::Go(vec![Effect::Digest(algorithm)]), None)
        }
        Trial::Proven(evidence) => complete(work.total(), evidence, work.version.name),
        Trial::Wrong(check, _) if work.mixed => {
            let spoiled = work.tally.spoiled || check == Check::Served;
            without_mirrors(Tally { spoiled, ..work.tally })
        }
        Trial::Wrong(Check::Served, _) if !work.tally.spoiled => {
            again(facts, Tally { spoiled: true, ..work.tally })
        }
        Trial::Wrong(check, cause) => {
            step(State::Verifying { work: Box::new(work), check }, Next::Fail(cause), None)
        }
    }
}

/// A digest is wrong, and not only the primary had a part in it: once more, from the primary alone.
fn without_mirrors(tally: Tally) -> Step<State> {
    let why = "the file has another digest than it should; once more, without mirrors";
    let get = get::State::Asking { tally };
    step(State::Single { source: 0, get }, Next::Retry(Retry::because(why)), None)
}

fn complete(size: u64, evidence: String, name: Option<String>) -> Step<State> {
    let proof = Proof { size, evidence: evidence.clone() };
    step(State::Complete { size, evidence, name }, Next::Done(proof), None)
}

fn step(state: State, next: Next, note: Option<String>) -> Step<State> {
    let (done, size) = match &state {
        State::Asking { .. } => (0, None),
        State::Single { get, .. } => get::extent(get),
        State::Working(work) => (work.done(), Some(work.total())),
        State::Verifying { work, .. } => (work.total(), Some(work.total())),
        State::Complete { size, .. } => (*size, Some(*size)),
    };
    Step { state, done, size, next, note }
}

#[cfg(test)]
mod tests;
