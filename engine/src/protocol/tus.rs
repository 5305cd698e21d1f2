//! tus 1.0 upload (<https://tus.io/protocols/resumable-upload>) as a pure state machine.
//!
//! | step | request | answers that go on |
//! |---|---|---|
//! | discover | OPTIONS target | 2xx: Tus-Version, -Extension, -Max-Size, -Checksum-Algorithm; 4xx, 501: core and creation assumed |
//! | create | POST target, Upload-Length, Upload-Metadata (body: all but the last byte, if small and advertised) | 201, Location on the same origin, Upload-Expires, Upload-Offset |
//! | send | PATCH url, Upload-Offset: all but the tail (8 MiB with Upload-Checksum, if advertised), then the tail | 2xx, `acked ≤ Upload-Offset ≤ end`; 2xx without it, 409, 403: HEAD; 460, 423: retry; 400 with a checksum: without one |
//! | probe, prove | HEAD url | 2xx, `Upload-Offset ≤ bytes ever sent`, `Upload-Length = size` if told |
//! | free | DELETE url | 2xx, 404, 410 |
//!
//! Every request has `Tus-Resumable: 1.0.0`. What is not listed goes by the table in [`wire`].
//!
//! ```text
//! Discovering ──────▶ Creating ──────▶ Sending ──204 offset = size──▶ Proving ──▶ Complete
//!                        ▲  │          │   ▲                            │  ▲          ▲
//!                        │  └─ empty ──┼───┼────────────────────────────┼──┘          │
//!                404, 410│        Lost,│   │offset < size               │offset < size│
//!              (at most 3)      409, 5xx   │                            ▼             │
//!                        └─────────── Probing ◀─────────────────────────┘             │
//!                                      └───────────────offset = size──────────────────┘
//! with a URL ──Cancel──▶ Cancelling ──▶ Gone      tail in doubt, then 404 ──▶ Gone (outcome unknown)
//! ```
//!
//! | killed in | the next process |
//! |---|---|
//! | Discovering | asks again |
//! | Creating | creates again; the lost creation is counted, and at worst an unfinished upload is left |
//! | Sending | HEAD; goes on where the server stands |
//! | Sending the tail | HEAD: offset = size is done; 404 is an unknown outcome |
//! | Proving | HEAD; 404 is done too: the server's own 204 is journaled |
//! | Complete, Gone | the same answer again |
//! | Cancelling | DELETE again |
//!
//! Invariants: `acked ≤ sent ≤ size`; `acked` is what the server said last; nothing is sent in answer
//! to `Restarted` but OPTIONS, POST, HEAD, DELETE. A creation never carries the last byte: its reply
//! can be lost for good (tus has no list), and what a second creation leaves behind must then be
//! an unfinished upload, not a second object. Rewinds and lost sessions are bounded, each to three.
//! After `Cancel`, `Done` says that the server holds nothing that is known, and `Fail(Protocol)` names what it
//! still holds; `remote` has the URL.
//!
//! Absent on purpose: concatenation (`tus_parts`) and deferred length (one stream here, its length known), an
//! empty PATCH as a commit (offset = length is all that tus has), redirects.

mod free;
pub mod state;
pub(super) mod words;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
pub use state::{Probe, Server, Session, State, Tally};

use super::{Body, Facts, Input, Next, Protocol, Reply, Retry, Step, StepError, wire};
use crate::job::{Direction, FailCause, Proof, SuspendCause};
use crate::ports::NetErrorKind;

/// A creation takes the bytes of files up to this size with it, if the server offers that.
pub const WITH_UPLOAD_MAX: u64 = 1 << 20;
/// Bytes in one PATCH when each is checked.
pub const PIECE: u64 = 8 << 20;
/// Sessions that the server may lose before the job fails.
pub const LOST_MAX: u32 = 3;
/// Times that the server's offset may go back before the job fails.
pub const REWINDS_MAX: u32 = 3;
/// The last bytes, which go in a PATCH of their own: only while that one is unanswered can a vanished
/// upload have been completed.
pub const TAIL: u64 = 64 << 10;
const LANE: u16 = 0;
const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");

/// The protocol.
pub enum Tus {}

impl Protocol for Tus {
    type State = State;
    const NAME: &'static str = "tus";
    const DIRECTION: Direction = Direction::Upload;

    fn new(_facts: &Facts<'_>) -> State {
        State::Discovering
    }

    fn step(facts: &Facts<'_>, state: &State, input: &Input) -> Result<Step<State>, StepError> {
        let size = facts.size.ok_or_else(|| StepError("an upload without a size".to_owned()))?;
        let upload = Upload { facts, size };
        match (state, input) {
            (State::Discovering, Input::Begin | Input::Restarted) => Ok(upload.discover()),
            (_, Input::Restarted) => Ok(upload.restarted(state)),
            (_, Input::Cancel) => Ok(upload.cancel(state)),
            (_, Input::Reply { lane: LANE, reply }) => upload.replied(state, input, reply),
            (_, Input::Lost { lane: LANE, kind, why }) => upload.lost(state, input, *kind, why),
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

    fn remote(state: &State) -> Option<&str> {
        match state {
            State::Sending { session, .. }
            | State::Probing { session, .. }
            | State::Proving { session }
            | State::Cancelling { session } => Some(&session.url),
            State::Discovering | State::Creating { .. } | State::Complete { .. } | State::Gone { .. } => None,
        }
    }
}

/// Begins at the creation: what the server offers is known, and what went wrong before is counted.
pub(super) fn begin(facts: &Facts<'_>, size: u64, server: Server, tally: Tally) -> Step<State> {
    Upload { facts, size }.create(server, tally)
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
            State::Creating { server, tally, asked } => self.create(server, tally.orphaned(asked)),
            State::Sending { session, .. } | State::Probing { session, .. } => {
                self.probe(session, Probe::Resume)
            }
            State::Proving { session } => self.prove(session),
            State::Complete { evidence, .. } => self.complete(evidence),
            State::Cancelling { session } => self.free(session),
            State::Gone { acked, cause } => self.gone(acked, cause),
        }
    }

    fn replied(&self, state: &State, input: &Input, reply: &Reply) -> Result<Step<State>, StepError> {
        Ok(match state.clone() {
            State::Discovering => self.discovered(reply),
            State::Creating { server, tally, asked: true } => self.created(server, tally, reply),
            State::Sending { session, to } => self.sent(session, to, reply),
            State::Probing { session, why } => self.probed(session, Some(why), reply),
            State::Proving { session } => self.probed(session, None, reply),
            State::Cancelling { session } => self.freed(session, reply),
            State::Creating { asked: false, .. } | State::Complete { .. } | State::Gone { .. } => {
                return Err(StepError::unexpected(state, input));
            }
        })
    }

    fn lost(
        &self,
        state: &State,
        input: &Input,
        kind: NetErrorKind,
        why: &str,
    ) -> Result<Step<State>, StepError> {
        let seen = !kind.is_unsent();
        let (state, url) = match state.clone() {
            State::Discovering => (State::Discovering, self.facts.url.to_owned()),
            State::Creating { server, tally, asked: true } => {
                let tally = tally.orphaned(seen);
                (State::Creating { server, tally, asked: false }, self.facts.url.to_owned())
            }
            State::Sending { mut session, .. } => {
                // Without a connection nothing of this PATCH was seen.
                session.tail &= seen;
                let url = session.url.clone();
                (State::Probing { session, why: Probe::Resume }, url)
            }
            State::Probing { session, .. } => {
                let url = session.url.clone();
                (State::Probing { session, why: Probe::Resume }, url)
            }
            State::Proving { session } => {
                let url = session.url.clone();
                (State::Proving { session }, url)
            }
            State::Cancelling { session } => {
                let step = match wire::lost(kind, why, &session.url) {
                    Next::Retry(retry) => self.step(State::Cancelling { session }, Next::Retry(retry)),
                    _ => self.left(session, "cannot be reached"),
                };
                return Ok(step);
            }
            State::Creating { asked: false, .. } | State::Complete { .. } | State::Gone { .. } => {
                return Err(StepError::unexpected(state, input));
            }
        };
        Ok(self.step(state, wire::lost(kind, why, &url)))
    }

    fn discover(&self) -> Step<State> {
        self.go(State::Discovering, Method::OPTIONS, self.facts.url, HeaderMap::new(), Body::Empty)
    }

    fn discovered(&self, reply: &Reply) -> Step<State> {
        match words::offered(self.facts, self.size, reply) {
            Ok(server) => self.create(server, Tally::default()),
            Err(next) => self.step(State::Discovering, next),
        }
    }

    fn create(&self, server: Server, tally: Tally) -> Step<State> {
        let mut headers = HeaderMap::new();
        headers.insert(UPLOAD_LENGTH, HeaderValue::from(self.size));
        words::describe(&mut headers, self.facts);
        let mut body = Body::Empty;
        if let Some(taken) = self.taken_along(server) {
            words::carries_bytes(&mut headers);
            body = Body::File { range: 0..taken, digest: None };
        }
        let state = State::Creating { server, tally, asked: true };
        self.go(state, Method::POST, self.facts.url, headers, body)
    }

    /// Bytes that go with the creation: all but the last one.
    fn taken_along(&self, server: Server) -> Option<u64> {
        let fits = server.with_upload && (2..=WITH_UPLOAD_MAX).contains(&self.size);
        fits.then(|| self.size - 1)
    }

    fn created(&self, server: Server, tally: Tally, reply: &Reply) -> Step<State> {
        let due = |tally| State::Creating { server, tally, asked: false };
        if reply.status.as_u16() != 201 {
            return self.refused(due(tally.orphaned(words::in_doubt(reply))), reply);
        }
        let url = match wire::location(&reply.headers, self.facts.url) {
            Ok(Some(url)) => url,
            Ok(None) => return self.broken(due(tally), "201 without Location"),
            Err(malformed) => return self.step(due(tally), Next::Fail(malformed.into())),
        };
        let taken = self.taken_along(server);
        let sent = taken.unwrap_or(0);
        let mut session = Session { url, server, tally, acked: 0, sent, tail: false, expires: None };
        session.note_expiry(reply);
        if self.size == 0 {
            return self.prove(session);
        }
        if taken.is_none() {
            return self.send(session);
        }
        match words::offset(reply) {
            Ok(Some(offset)) if offset <= session.sent => {
                session.acked = offset;
                self.send(session)
            }
            Ok(Some(offset)) => self.lied(session, offset),
            Ok(None) => self.probe(session, Probe::Resume),
            Err(malformed) => self.step(probing(session), Next::Fail(malformed.into())),
        }
    }

    fn send(&self, mut session: Session) -> Step<State> {
        let rest = self.size.saturating_sub(session.acked);
        let whole = if rest > TAIL { rest - TAIL } else { rest };
        let to = session.acked + session.server.checksum.map_or(whole, |_| whole.min(PIECE));
        session.sent = session.sent.max(to);
        session.tail = to == self.size;
        let (headers, digest) = words::patch(session.acked, session.server.checksum);
        let body = Body::File { range: session.acked..to, digest };
        let url = session.url.clone();
        self.go(State::Sending { session, to }, Method::PATCH, &url, headers, body)
    }

    fn sent(&self, mut session: Session, to: u64, reply: &Reply) -> Step<State> {
        match reply.status.as_u16() {
            200..=299 => {}
            409 => return self.probe(session, Probe::Doubt),
            403 => return self.probe(session, Probe::Forbidden),
            404 | 410 => return self.dropped(&session),
            423 => return self.again(probing(session), reply),
            460 => {
                let retry = words::spoiled(reply, self.facts.now, &session.url);
                return self.step(probing(session), Next::Retry(retry));
            }
            400 if session.server.checksum.is_some() => {
                session.server.checksum = None;
                return self.send(session);
            }
            _ => return self.refused(probing(session), reply),
        }
        session.note_expiry(reply);
        match words::offset(reply) {
            Err(malformed) => self.step(probing(session), Next::Fail(malformed.into())),
            Ok(None) => self.probe(session, Probe::Doubt),
            Ok(Some(offset)) if !(session.acked..=to).contains(&offset) => self.lied(session, offset),
            Ok(Some(offset)) if offset == self.size => {
                session.acked = offset;
                self.prove(session)
            }
            Ok(Some(offset)) if offset == session.acked => self.stuck(session),
            Ok(Some(offset)) => {
                session.acked = offset;
                self.send(session)
            }
        }
    }

    fn probe(&self, session: Session, why: Probe) -> Step<State> {
        let url = session.url.clone();
        self.go(State::Probing { session, why }, Method::HEAD, &url, HeaderMap::new(), Body::Empty)
    }

    fn prove(&self, session: Session) -> Step<State> {
        let url = session.url.clone();
        self.go(State::Proving { session }, Method::HEAD, &url, HeaderMap::new(), Body::Empty)
    }

    /// HEAD was answered; `why` is `None` when it was to confirm a complete upload.
    fn probed(&self, session: Session, why: Option<Probe>, reply: &Reply) -> Step<State> {
        let state = if why.is_some() {
            probing(session.clone())
        } else {
            State::Proving { session: session.clone() }
        };
        match (reply.status.as_u16(), why) {
            (200..=299, _) => {}
            (404 | 410, None) => return self.complete(self.acknowledged(&session)),
            (404 | 410, Some(_)) if session.tail => return self.unknown(&session),
            (404 | 410, Some(_)) => return self.dropped(&session),
            (423, _) => return self.again(state, reply),
            _ => return self.refused(state, reply),
        }
        let (offset, length) = match words::numbers(reply) {
            Ok((Some(offset), length)) => (offset, length),
            Ok((None, _)) => return self.broken(state, "HEAD is answered without Upload-Offset"),
            Err(malformed) => return self.step(state, Next::Fail(malformed.into())),
        };
        if let Some(length) = length.filter(|&length| length != self.size) {
            return self.broken(state, &format!("Upload-Length is {length}, {} was asked for", self.size));
        }
        if offset > session.sent {
            return self.lied(session, offset);
        }
        if offset == self.size {
            let length = if length.is_some() { "length" } else { "size (no length told)" };
            return self.complete(session.tally.note(format!("HEAD offset = {length}")));
        }
        self.resume(session, why, offset, reply)
    }

    fn resume(&self, mut session: Session, why: Option<Probe>, offset: u64, reply: &Reply) -> Step<State> {
        session.note_expiry(reply);
        session.tail = false;
        if offset < session.acked {
            session.tally.rewinds = session.tally.rewinds.saturating_add(1);
            if session.tally.rewinds > REWINDS_MAX {
                let why = format!("the offset went back {} times", session.tally.rewinds);
                return self.broken(probing(session), &why);
            }
        } else if offset == session.acked {
            match why {
                Some(Probe::Doubt) => return self.stuck(session),
                Some(Probe::Forbidden) => {
                    let why = format!("403 Forbidden from {} for PATCH", wire::host(&session.url));
                    return self.step(probing(session), Next::Suspend(SuspendCause::Auth(why)));
                }
                Some(Probe::Resume) | None => {}
            }
        }
        session.acked = offset;
        self.send(session)
    }

    /// The server no longer knows an upload that was not complete.
    fn dropped(&self, session: &Session) -> Step<State> {
        let tally = Tally { lost: session.tally.lost.saturating_add(1), ..session.tally };
        if tally.lost > LOST_MAX {
            self.gone(0, FailCause::Expired(tally.lost))
        } else {
            self.create(session.server, tally)
        }
    }

    /// The last byte went out, no answer came, and the upload cannot be asked any more.
    fn unknown(&self, session: &Session) -> Step<State> {
        let expiry = session.expires.filter(|&at| at <= self.facts.now);
        let expiry =
            expiry.map_or_else(String::new, |at| format!(" (it expired at {})", wire::format_date(at)));
        let what = "every byte was sent, no answer came, and the server no longer knows the upload";
        self.gone(session.acked, FailCause::OutcomeUnknown(format!("{what}{expiry}")))
    }

    /// What the server itself has said in Proving.
    fn acknowledged(&self, session: &Session) -> String {
        let what = if self.size == 0 { "POST 201 of an empty upload" } else { "PATCH 204 offset = length" };
        session.tally.note(format!("{what}; resource gone afterwards"))
    }

    fn complete(&self, evidence: String) -> Step<State> {
        let proof = Proof { size: self.size, evidence: evidence.clone() };
        self.step(State::Complete { size: self.size, evidence }, Next::Done(proof))
    }

    fn gone(&self, acked: u64, cause: FailCause) -> Step<State> {
        self.step(State::Gone { acked, cause: cause.clone() }, Next::Fail(cause))
    }

    fn stuck(&self, session: Session) -> Step<State> {
        let why = format!("{} took no byte beyond {}", wire::host(&session.url), session.acked);
        self.step(probing(session), Next::Retry(Retry::because(why)))
    }

    fn lied(&self, session: Session, offset: u64) -> Step<State> {
        let (acked, sent) = (session.acked, session.sent);
        self.broken(
            probing(session),
            &format!("Upload-Offset {offset}, but {acked} to {sent} is what can be"),
        )
    }

    fn broken(&self, state: State, why: &str) -> Step<State> {
        self.step(state, Next::Fail(FailCause::Protocol(why.to_owned())))
    }

    fn refused(&self, state: State, reply: &Reply) -> Step<State> {
        self.step(state, wire::classify(reply, self.facts.now).into())
    }

    fn again(&self, state: State, reply: &Reply) -> Step<State> {
        self.step(state, Next::Retry(words::locked(reply, self.facts.now)))
    }

    fn go(&self, state: State, method: Method, url: &str, headers: HeaderMap, body: Body) -> Step<State> {
        self.step(state, Next::Go(vec![words::request(LANE, method, url, headers, body)]))
    }

    fn step(&self, state: State, next: Next) -> Step<State> {
        let done = match &state {
            State::Discovering | State::Creating { .. } => 0,
            State::Sending { session, .. }
            | State::Probing { session, .. }
            | State::Proving { session }
            | State::Cancelling { session } => session.acked,
            State::Complete { size, .. } => *size,
            State::Gone { acked, .. } => *acked,
        };
        Step { state, done, size: Some(self.size), next, note: None }
    }
}

fn probing(session: Session) -> State {
    State::Probing { session, why: Probe::Resume }
}

#[cfg(test)]
mod tests;
