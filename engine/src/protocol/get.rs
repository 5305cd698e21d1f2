//! Ranged HTTP download (RFC 9110, digests of RFC 9530) as a pure state machine: one stream.
//!
//! | step | request | answers that go on |
//! |---|---|---|
//! | ask | GET, Accept-Encoding: identity, Want-Repr-Digest | 200: validator, length, digest and name are journaled, then the body is stored |
//! | resume | the same with `Range: bytes=have-` and If-Range | 206: goes on if it is the same file and starts at `have`; 200: from 0 with this body; 416, 412: see below |
//! | check | HEAD | 2xx, same validator, Content-Length = have: whole |
//!
//! Always the URL that was submitted, so that a redirect to a signed URL is signed anew. 416 with
//! `bytes */have` ends a body of unknown length; without a length HEAD is asked; every other 416 and
//! each 412 start over. What is not listed goes by the table in [`wire`].
//!
//! ```text
//! Asking ──200──▶ Receiving ──last byte──▶ Verifying ──▶ Complete
//!   ▲               │    ▲                  │   (each digest, served then asked for)
//!   │               │    └──206, 200──┐     │
//!   │               └──Lost, short───▶ Resuming ──416──▶ Checking ──whole──▶ Verifying
//!   └── no validator, changed (at most 3), digest wrong (once) ──┘
//! ```
//!
//! | killed in | the next process |
//! |---|---|
//! | Asking | asks again; the part file is cut to 0 before its first byte |
//! | Receiving | cuts the part file to what is journaled, asks for the rest; all there: verifies |
//! | Resuming, Checking | asks again |
//! | Verifying | hashes again |
//! | Complete | the same answer again |
//!
//! Invariants: no byte is stored before the version that it belongs to is journaled; one part file
//! never mixes two versions; a 200 is never appended; `have` only counts bytes that are durable and
//! never exceeds the told length. A validator is a strong `ETag`, or a Last-Modified at least a minute older
//! than its reply where there is no `ETag`. A coded body is refused: identity was asked for, and to
//! publish gzip under the name of what is in it would harm silently.
//!
//! Absent on purpose: several ranges at a time, multipart/byteranges, the target of a redirect as
//! something to come back to, decoding.

pub mod state;

pub(super) mod answer;
pub(super) mod verify;

use http::header::{IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method};

use self::answer::{identity, part_of};
pub(super) use self::state::Likeness;
pub use self::state::{Check, Partial, State, Tally, Version};
use self::verify::Trial;
use super::wire::{self, ContentRange, Verdict};
use super::{Effect, Facts, Input, Next, Protocol, Reply, Retry, Sink, Step, StepError};
use crate::job::{ChecksumAlgorithm, Direction, FailCause, Proof, SuspendCause};

/// Times that the remote file may change before the job fails.
pub const CHANGED_MAX: u32 = 3;
/// Times that a download starts over for want of a way to resume, before someone is asked.
pub const RESTARTS_MAX: u32 = 100;
const LANE: u16 = 0;

/// The protocol.
pub enum Get {}

impl Protocol for Get {
    type State = State;
    const NAME: &'static str = "get";
    const DIRECTION: Direction = Direction::Download;

    fn new(_facts: &Facts<'_>) -> State {
        State::Asking { tally: Tally::default() }
    }

    fn step(facts: &Facts<'_>, state: &State, input: &Input) -> Result<Step<State>, StepError> {
        let download = Download { facts };
        match (state, input) {
            (State::Asking { tally }, Input::Begin) => Ok(download.ask(*tally)),
            (_, Input::Restarted) => Ok(download.restarted(state)),
            (_, Input::Cancel) => {
                let evidence = "a download holds nothing at the server".to_owned();
                Ok(step(state.clone(), Next::Done(Proof { size: 0, evidence })))
            }
            (
                State::Asking { .. }
                | State::Receiving { .. }
                | State::Resuming { .. }
                | State::Checking { .. },
                Input::Lost { lane: LANE, kind, why },
            ) => Ok(step(state.clone(), wire::lost(*kind, why, facts.url))),
            (State::Asking { tally }, Input::Reply { lane: LANE, reply }) => {
                Ok(download.asked(*tally, reply))
            }
            (State::Resuming { part }, Input::Reply { lane: LANE, reply }) => {
                Ok(download.resumed(part.clone(), reply))
            }
            (State::Checking { part }, Input::Reply { lane: LANE, reply }) => {
                Ok(download.checked(part.clone(), reply))
            }
            (State::Receiving { part, until }, Input::Synced { lane: LANE, extent, last }) => {
                let follows = extent.start == part.have && extent.end >= extent.start;
                if !follows || until.is_some_and(|until| extent.end > until) {
                    return Err(StepError(format!("bytes {extent:?} do not follow {state:?}")));
                }
                let part = Partial { have: extent.end, ..part.clone() };
                Ok(download.stored(part, *until, *last))
            }
            (State::Verifying { part, check }, Input::Digested { algorithm, digest }) => download
                .digested(part.clone(), *check, *algorithm, digest)
                .ok_or_else(|| StepError::unexpected(state, input)),
            (
                _,
                Input::Begin
                | Input::Reply { .. }
                | Input::Lost { .. }
                | Input::Synced { .. }
                | Input::Digested { .. }
                | Input::Woken { .. },
            ) => Err(StepError::unexpected(state, input)),
        }
    }

    fn served_name(state: &State) -> Option<&str> {
        match state {
            State::Asking { .. } => None,
            State::Receiving { part, .. }
            | State::Resuming { part }
            | State::Checking { part }
            | State::Verifying { part, .. } => part.version.name.as_deref(),
            State::Complete { name, .. } => name.as_deref(),
        }
    }
}

/// One step's surroundings.
struct Download<'a> {
    facts: &'a Facts<'a>,
}

impl Download<'_> {
    fn restarted(&self, state: &State) -> Step<State> {
        match state.clone() {
            State::Asking { tally } => self.ask(tally),
            State::Receiving { part, .. } | State::Resuming { part } => self.resume(part),
            State::Checking { part } => self.check(part),
            State::Verifying { part, .. } => self.verify(part),
            State::Complete { size, evidence, name } => complete(size, evidence, name),
        }
    }

    fn ask(&self, tally: Tally) -> Step<State> {
        let get = self.request(Method::GET, HeaderMap::new(), Sink::Hold);
        step(State::Asking { tally }, Next::Go(vec![get]))
    }

    fn asked(&self, tally: Tally, reply: &Reply) -> Step<State> {
        if reply.status.as_u16() == 200 {
            return Self::begin(State::Asking { tally }, tally, reply);
        }
        self.refused(State::Asking { tally }, reply)
    }

    /// A whole body, from 0. `before` is the state to stay in when it cannot be taken.
    fn begin(before: State, tally: Tally, reply: &Reply) -> Step<State> {
        if let Err(why) = identity(&reply.headers) {
            return broken(before, why);
        }
        let total = match wire::content_length(&reply.headers) {
            Ok(total) => total,
            Err(malformed) => return step(before, Next::Fail(malformed.into())),
        };
        let part = Partial { version: Version::read(reply, total), tally, have: 0 };
        let store = Effect::Store { lane: LANE, offset: 0, limit: total, within: false };
        step(State::Receiving { part, until: total }, Next::Go(vec![Effect::Truncate(0), store]))
    }

    /// Goes on with what is durable, or starts over where that cannot be continued.
    fn resume(&self, part: Partial) -> Step<State> {
        if part.have > 0 && part.version.total == Some(part.have) {
            return self.verify(part);
        }
        let validator = part.version.validator.as_ref().filter(|_| part.have > 0 && !part.tally.whole);
        let Some(condition) = validator.and_then(|validator| HeaderValue::from_str(validator.as_str()).ok())
        else {
            return self.start_over(&part);
        };
        let mut headers = HeaderMap::new();
        headers.insert(IF_RANGE, condition);
        if let Ok(range) = HeaderValue::try_from(format!("bytes={}-", part.have)) {
            headers.insert(RANGE, range);
        }
        // What lies beyond the journaled bytes is not trusted, and a 416 may end the file here.
        let cut = Effect::Truncate(part.have);
        let get = self.request(Method::GET, headers, Sink::Hold);
        step(State::Resuming { part }, Next::Go(vec![cut, get]))
    }

    /// Nothing to continue by. Without an end to it, a link that breaks and a server that does not
    /// resume would carry the same bytes for ever.
    fn start_over(&self, part: &Partial) -> Step<State> {
        let restarts = part.tally.restarts.saturating_add(u32::from(part.have > 0));
        let tally = Tally { restarts, ..part.tally };
        if part.have > 0 && restarts.is_multiple_of(RESTARTS_MAX) {
            let why = format!("{} does not resume, and no attempt came through", wire::host(self.facts.url));
            let cause = SuspendCause::Server { attempts: restarts, why };
            return step(State::Asking { tally }, Next::Suspend(cause));
        }
        self.ask(tally)
    }

    fn resumed(&self, part: Partial, reply: &Reply) -> Step<State> {
        match reply.status.as_u16() {
            206 => self.continued(part, reply),
            200 => {
                let length = wire::content_length(&reply.headers).ok().flatten();
                let alike = part.version.likeness(&reply.headers, true) == Likeness::Same;
                let tally = if alike && (part.version.total.is_none() || length == part.version.total) {
                    // The same file, and yet not the range of it: this server does not resume.
                    Tally { whole: true, ..part.tally }
                } else {
                    match Self::count_change(&part) {
                        Ok(tally) => tally,
                        Err(end) => return *end,
                    }
                };
                Self::begin(State::Resuming { part }, tally, reply)
            }
            416 => self.unsatisfied(part, reply),
            412 => self.changed(&part),
            _ => self.refused(State::Resuming { part }, reply),
        }
    }

    /// 206: only bytes of the same file, from exactly where we stand.
    fn continued(&self, mut part: Partial, reply: &Reply) -> Step<State> {
        let range = match part_of(reply) {
            Ok(range) => range,
            Err(cause) => return step(State::Resuming { part }, Next::Fail(cause)),
        };
        match part.version.likeness(&reply.headers, false) {
            Likeness::Same => {}
            Likeness::Changed => return self.changed(&part),
            Likeness::Unproven => return self.ask(Tally { whole: true, ..part.tally }),
        }
        if let (Some(ours), Some(theirs)) = (part.version.total, range.total)
            && ours != theirs
        {
            return self.changed(&part);
        }
        let until = range.last + 1;
        let total = part.version.total.or(range.total);
        if range.first != part.have || total.is_some_and(|total| until > total) {
            let why = format!("bytes {}-{} came, {}- were asked for", range.first, range.last, part.have);
            return broken(State::Resuming { part }, why);
        }
        part.version.total = total;
        let store =
            Effect::Store { lane: LANE, offset: part.have, limit: Some(until - part.have), within: false };
        step(State::Receiving { part, until: Some(until) }, Next::Go(vec![store]))
    }

    fn unsatisfied(&self, mut part: Partial, reply: &Reply) -> Step<State> {
        let told = match wire::content_range(&reply.headers) {
            Ok(Some(ContentRange::Unsatisfied { total })) => Some(total),
            Ok(Some(ContentRange::Part { .. }) | None) | Err(_) => None,
        };
        let other = part.version.likeness(&reply.headers, false) == Likeness::Changed;
        match (part.version.total, told) {
            (None, Some(total)) if total == part.have && !other => {
                part.version.total = Some(total);
                self.verify(part)
            }
            (None, None) if !other => self.check(part),
            // There are bytes after ours, or there were: this is not the file that we began.
            (Some(_) | None, _) => self.changed(&part),
        }
    }

    fn check(&self, part: Partial) -> Step<State> {
        let head = self.request(Method::HEAD, HeaderMap::new(), Sink::Small(0));
        step(State::Checking { part }, Next::Go(vec![head]))
    }

    fn checked(&self, mut part: Partial, reply: &Reply) -> Step<State> {
        if !reply.status.is_success() {
            return match wire::classify(reply, self.facts.now) {
                Verdict::Final(_) if part.version.is_open_ended() => self.unmeasured(part),
                // A server that cannot be asked is one that cannot be resumed from.
                Verdict::Final(_) => self.ask(Tally { whole: true, ..part.tally }),
                verdict @ (Verdict::Retry(_) | Verdict::Auth(_)) => {
                    step(State::Checking { part }, verdict.into())
                }
            };
        }
        let length = wire::content_length(&reply.headers).ok().flatten();
        if length.is_none() && !part.version.framed {
            return self.unmeasured(part);
        }
        if length != Some(part.have) || part.version.likeness(&reply.headers, true) != Likeness::Same {
            return self.changed(&part);
        }
        part.version.total = length;
        self.verify(part)
    }

    /// Neither the body nor HEAD tells how long the file is: only a digest that is known beforehand can.
    fn unmeasured(&self, part: Partial) -> Step<State> {
        if self.facts.checksum.is_some() {
            return self.verify(part);
        }
        let why = "the server told no length and ended the body by closing the connection".to_owned();
        step(State::Checking { part }, Next::Fail(FailCause::OutcomeUnknown(why)))
    }

    fn stored(&self, part: Partial, until: Option<u64>, last: bool) -> Step<State> {
        if !last {
            return step(State::Receiving { part, until }, Next::Go(Vec::new()));
        }
        match (part.version.total.or(until), until) {
            (Some(_), Some(until)) if part.have < until => {
                let why = format!("the body ended at byte {}, {until} were announced", part.have);
                let retry = Retry::because(why);
                step(State::Receiving { part, until: Some(until) }, Next::Retry(retry))
            }
            // A range may be shorter than what was asked for: the rest is another request.
            (Some(_), Some(until)) if part.version.total != Some(until) => self.resume(part),
            // The end of the connection is no end of the file: only its length or digest can tell.
            (None, _) if !part.version.framed && part.version.digest.is_none() => self.check(part),
            (None | Some(_), _) => self.verify(part),
        }
    }

    fn verify(&self, part: Partial) -> Step<State> {
        let trial = verify::begin(&part.version, self.facts.checksum);
        self.tried(part, trial)
    }

    /// `None`: not the digest that was asked for.
    fn digested(
        &self,
        part: Partial,
        check: Check,
        algorithm: ChecksumAlgorithm,
        digest: &[u8],
    ) -> Option<Step<State>> {
        let trial = verify::judge(&part.version, self.facts.checksum, check, algorithm, digest)?;
        Some(self.tried(part, trial))
    }

    fn tried(&self, mut part: Partial, trial: Trial) -> Step<State> {
        match trial {
            Trial::Hash(check, algorithm) => {
                step(State::Verifying { part, check }, Next::Go(vec![Effect::Digest(algorithm)]))
            }
            Trial::Proven(evidence) => complete(part.have, evidence, part.version.name),
            // It came spoiled, or without a length: then it may have been cut off. Once more.
            Trial::Wrong(check, _)
                if !part.tally.spoiled && (check == Check::Served || part.version.is_open_ended()) =>
            {
                part.tally.spoiled = true;
                self.ask(part.tally)
            }
            Trial::Wrong(check, cause) => step(State::Verifying { part, check }, Next::Fail(cause)),
        }
    }

    /// Another file than before: starts over, so many times.
    fn changed(&self, part: &Partial) -> Step<State> {
        match Self::count_change(part) {
            Ok(tally) => self.ask(tally),
            Err(end) => *end,
        }
    }

    /// The tally after one more change, or the end.
    fn count_change(part: &Partial) -> Result<Tally, Box<Step<State>>> {
        let tally = Tally { changed: part.tally.changed.saturating_add(1), ..part.tally };
        if tally.changed <= CHANGED_MAX {
            return Ok(tally);
        }
        let part = Partial { tally, ..part.clone() };
        Err(Box::new(step(State::Resuming { part }, Next::Fail(FailCause::RemoteChanged(tally.changed)))))
    }

    fn refused(&self, state: State, reply: &Reply) -> Step<State> {
        step(state, wire::classify(reply, self.facts.now).into())
    }

    fn request(&self, method: Method, headers: HeaderMap, sink: Sink) -> Effect {
        answer::request(LANE, method, self.facts.url, headers, sink)
    }
}

fn complete(size: u64, evidence: String, name: Option<String>) -> Step<State> {
    let proof = Proof { size, evidence: evidence.clone() };
    step(State::Complete { size, evidence, name }, Next::Done(proof))
}

fn broken(state: State, why: String) -> Step<State> {
    step(state, Next::Fail(FailCause::Protocol(why)))
}

fn step(state: State, next: Next) -> Step<State> {
    let (done, size) = extent(&state);
    Step { state, done, size, next, note: None }
}

/// Durable bytes, and the whole size once known.
pub(super) fn extent(state: &State) -> (u64, Option<u64>) {
    match state {
        State::Asking { .. } => (0, None),
        State::Receiving { part, .. } | State::Resuming { part } | State::Checking { part } => {
            (part.have, part.version.total)
        }
        State::Verifying { part, .. } => (part.have, Some(part.have)),
        State::Complete { size, .. } => (*size, Some(*size)),
    }
}

#[cfg(test)]
mod tests;
