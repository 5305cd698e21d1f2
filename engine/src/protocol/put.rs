//! PUT of a whole file (RFC 9110, 9.3.4) as a pure state machine: looked at before and afterwards.
//!
//! | step | request | answers that go on |
//! |---|---|---|
//! | look | HEAD target; where that is refused or tells no length, GET with `Range: bytes=0-0` | 2xx: length, `ETag`, Last-Modified; 404, 410: absent; 408, 425, 429, 500, 502–504: retry; every other: nobody may look |
//! | put | PUT target, Content-Type, If-Match, If-None-Match, the whole file | 2xx: check; 412 after a PUT in doubt: check; 500, 502, 504: retry, in doubt |
//! | check | as look | see [`proof`] |
//!
//! 307 and 308 are followed, five in a row; every attempt starts at the target itself. What is not listed
//! goes by the table in [`wire`].
//!
//! ```text
//! Looking ───────────▶ Putting ──2xx───────▶ Checking ──────proven──────▶ Complete
//!   ▲  nothing sent:    │ ▲ │   Lost, 5xx,     │ │ │
//!   └──── 429, 503 ─────┘ │ └── Restarted ─────┘ │ └─ no such file, nobody may look ─▶ Gone
//!                         └── lost: not proven ──┘
//!                             2xx: looks as before (once, after a while)
//! ```
//!
//! | killed in | the next process |
//! |---|---|
//! | Looking | looks again |
//! | Putting | looks: the right size and not what was there before is done (over an object of that size it is not), else PUT again |
//! | Checking | looks again; the server's 2xx is journaled |
//! | Complete, Gone | the same answer again |
//!
//! Some servers answer 200 to PUT and store nothing (Caddy's `file_server`), some keep what came of a
//! body that was cut off as a whole file (wsgidav), some ignore conditions (nginx, dufs): so a 2xx is
//! believed only after a look (or where nobody may look and `verify` is off), a lost answer only with
//! the right size, and a condition that a look shows to fail is not left to the server.
//!
//! Invariants: nothing is sent in answer to `Restarted` but HEAD; what stood there before is not asked for
//! again once a PUT may have been stored; `done` is 0 until the object is proven.
//!
//! Absent on purpose: resuming (a PUT that breaks is sent again from 0, which is what it costs that `done`
//! does not rise: a link that never holds for the whole file never gets it there, and attempts run
//! out); freeing (what a server keeps of a PUT that was cut off has the object's own name, and may be
//! what others put there: it is left, and told); 301, 302 and 303, which turn a PUT into a GET
//! somewhere else; a way to know a server that takes the whole length before the bytes come.

mod condition;
mod proof;
pub mod state;
mod target;

use std::time::Duration;

pub(super) use condition::content_type;
use http::header::{ACCEPT_ENCODING, RANGE};
use http::{HeaderMap, HeaderValue, Method};
pub use state::{Answer, Before, Look, Seen, State, Task};

use self::proof::{Finding, Glance, Sought};
use super::wire;
use super::{Body, Effect, Facts, Input, Next, Protocol, Reply, Retry, Send, Sink, Step, StepError};
use crate::job::{ChecksumAlgorithm, Direction, FailCause, Proof};
use crate::ports::NetErrorKind;

/// Redirects that are followed in a row.
pub const HOPS_MAX: u8 = 5;
/// Looks that a 202 has time for, until the file is there.
pub const LATE_MAX: u8 = 5;
const LANE: u16 = 0;
const SMALL: Sink = Sink::Small(4096);
/// A Last-Modified has whole seconds: what is put after this is younger than what was seen before it.
const NEXT_SECOND: Duration = Duration::from_secs(2);

/// The protocol.
pub enum Put {}

impl Protocol for Put {
    type State = State;
    const NAME: &'static str = "put";
    const DIRECTION: Direction = Direction::Upload;

    fn new(_facts: &Facts<'_>) -> State {
        State::Looking { task: Task::default(), by: Look::Head }
    }

    fn step(facts: &Facts<'_>, state: &State, input: &Input) -> Result<Step<State>, StepError> {
        let size = facts.size.ok_or_else(|| StepError("an upload without a size".to_owned()))?;
        if matches!(input, Input::Cancel) {
            return Ok(cancel(state, size));
        }
        let url = match target::object(facts.url, facts.name) {
            Ok(url) => url,
            Err(why) => return Ok(gone(FailCause::LocalIo(why), size)),
        };
        let upload = Upload { facts, size, url };
        match (state, input) {
            (State::Looking { .. }, Input::Begin) | (_, Input::Restarted) => Ok(upload.restarted(state)),
            (State::Looking { task, by }, Input::Reply { lane: LANE, reply }) => {
                Ok(upload.looked(task.clone(), *by, reply))
            }
            (State::Putting { task }, Input::Reply { lane: LANE, reply }) => {
                Ok(upload.answered(task.clone(), reply))
            }
            (State::Checking { task, answer, by }, Input::Reply { lane: LANE, reply }) => {
                Ok(upload.checked(task.clone(), answer, *by, reply))
            }
            (State::Looking { task, .. }, Input::Lost { lane: LANE, kind, why }) => {
                Ok(upload.lost(task, looking(task.clone(), None), *kind, why))
            }
            (State::Putting { task }, Input::Lost { lane: LANE, kind, why }) => {
                // Without a connection nothing of this PUT was seen.
                let doubt = task.doubt || !kind.is_unsent();
                Ok(upload.lost(task, due(Task { doubt, ..task.clone() }), *kind, why))
            }
            (State::Checking { task, answer, .. }, Input::Lost { lane: LANE, kind, why }) => {
                Ok(upload.lost(task, looking(task.clone(), Some(answer.clone())), *kind, why))
            }
            (
                _,
                Input::Begin
                | Input::Reply { .. }
                | Input::Lost { .. }
                | Input::Synced { .. }
                | Input::Digested { .. }
                | Input::Woken { .. }
                | Input::Cancel,
            ) => Err(StepError::unexpected(state, input)),
        }
    }
}

/// One step's surroundings.
struct Upload<'a> {
    facts: &'a Facts<'a>,
    size: u64,
    /// Of the object.
    url: String,
}

impl Upload<'_> {
    fn restarted(&self, state: &State) -> Step<State> {
        match state.clone() {
            State::Looking { task, .. } => self.look(task.home(), None, Look::Head),
            State::Putting { task } => {
                self.look(Task { doubt: true, ..task.home() }, Some(Answer::Lost), Look::Head)
            }
            State::Checking { task, answer, .. } => self.look(task.home(), Some(answer), Look::Head),
            State::Complete { evidence, .. } => self.complete(evidence),
            State::Gone { cause } => gone(cause, self.size),
        }
    }

    fn lost(&self, task: &Task, then: State, kind: NetErrorKind, why: &str) -> Step<State> {
        match wire::lost(kind, why, self.asked(task)) {
            Next::Fail(FailCause::Protocol(why)) => self.broken(task, why),
            next => step(then, self.size, next),
        }
    }

    /// Asks for the object, before PUT or after it was answered so.
    fn look(&self, task: Task, after: Option<Answer>, by: Look) -> Step<State> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let wanted = match self.facts.checksum.map(|asked| asked.algorithm) {
            Some(ChecksumAlgorithm::Sha256) => Some("sha-256=10"),
            Some(ChecksumAlgorithm::Sha512) => Some("sha-512=10"),
            // No digest that RFC 9530 still stands by.
            Some(ChecksumAlgorithm::Sha1) | None => None,
        };
        if let Some(wanted) = wanted {
            headers.insert("want-repr-digest", HeaderValue::from_static(wanted));
        }
        let method = match by {
            Look::Head => Method::HEAD,
            Look::Range => {
                headers.insert(RANGE, HeaderValue::from_static("bytes=0-0"));
                Method::GET
            }
        };
        let url = self.asked(&task).to_owned();
        self.go(glancing(task, after, by), method, url, headers, Body::Empty)
    }

    /// The look before.
    fn looked(&self, mut task: Task, by: Look, reply: &Reply) -> Step<State> {
        let glance = match proof::read(by, reply, self.facts.now) {
            Ok(glance) => glance,
            Err(malformed) => return self.broken(&task, malformed.to_string()),
        };
        let unfit = matches!(&glance, Glance::Hidden(_) | Glance::There(Seen { length: None, .. }, _));
        if unfit && by == Look::Head {
            return self.look(task.home(), None, Look::Range);
        }
        task.before = match glance {
            Glance::Absent => Before::Absent,
            Glance::There(seen, _) => Before::Object(seen),
            Glance::Hidden(_) => Before::Unknown,
            Glance::Redirect => {
                return match self.hop(&task, reply) {
                    Ok(task) => self.look(task, None, by),
                    Err(why) => self.broken(&task, why),
                };
            }
            Glance::Retry(retry) => return step(looking(task, None), self.size, Next::Retry(retry)),
        };
        task.by = by;
        if let Some(why) = condition::fails(self.facts.http, &task.before, &wire::host(&self.url)) {
            return gone(FailCause::Rejected { status: 412, detail: why }, self.size);
        }
        let note = match &task.before {
            Before::Object(Seen { length: Some(length), .. }) => {
                Some(format!("an object of {length} bytes stands there; PUT replaces it"))
            }
            Before::Object(Seen { length: None, .. }) | Before::Absent | Before::Unknown => None,
        };
        Step { note, ..self.put(task) }
    }

    fn put(&self, task: Task) -> Step<State> {
        let headers = match condition::headers(self.facts) {
            Ok(headers) => headers,
            Err(cause) => return gone(cause, self.size),
        };
        let body =
            if self.size == 0 { Body::Empty } else { Body::File { range: 0..self.size, digest: None } };
        let url = self.asked(&task).to_owned();
        self.go(State::Putting { task }, Method::PUT, url, headers, body)
    }

    fn answered(&self, mut task: Task, reply: &Reply) -> Step<State> {
        match reply.status.as_u16() {
            status @ 200..=299 => {
                task.doubt = true;
                let etag = state::strong_tag(&reply.headers);
                let answer = Answer::Accepted { status, etag };
                return self.look(task.home(), Some(answer), Look::Head);
            }
            307 | 308 => {
                return match self.hop(&task, reply) {
                    Ok(task) => self.put(task),
                    Err(why) => self.broken(&task, why),
                };
            }
            status @ 300..=399 => return gone(turned_away(status, reply), self.size),
            412 if task.doubt => return self.look(task.home(), Some(Answer::Refused), Look::Head),
            412 => {
                if let Some(detail) = condition::refused(self.facts.http, &wire::host(&self.url)) {
                    return gone(FailCause::Rejected { status: 412, detail }, self.size);
                }
            }
            // A gateway that gave up does not know what the server behind it did.
            500 | 502 | 504 => task.doubt = true,
            _ => {}
        }
        match wire::classify(reply, self.facts.now).into() {
            Next::Fail(cause) => gone(cause, self.size),
            next => step(due(task), self.size, next),
        }
    }

    /// The look afterwards.
    fn checked(&self, mut task: Task, answer: &Answer, by: Look, reply: &Reply) -> Step<State> {
        let glance = match proof::read(by, reply, self.facts.now) {
            Ok(glance) => glance,
            Err(malformed) => return self.broken(&task, malformed.to_string()),
        };
        let sought = Sought { size: self.size, checksum: self.facts.checksum };
        let finding = match glance {
            Glance::Absent => Finding::Missing,
            Glance::Hidden(status) => Finding::Hidden(status),
            Glance::There(seen, told) => sought.find(&seen, told.as_ref(), &task, answer, by),
            Glance::Redirect => {
                return match self.hop(&task, reply) {
                    Ok(task) => self.look(task, Some(answer.clone()), by),
                    Err(why) => self.broken(&task, why),
                };
            }
            Glance::Retry(retry) => {
                return step(looking(task, Some(answer.clone())), self.size, Next::Retry(retry));
            }
        };
        match (finding, answer) {
            (Finding::Proven(evidence), _) => self.complete(evidence),
            (Finding::Hidden(_) | Finding::Untold, _) if by == Look::Head => {
                self.look(task.home(), Some(answer.clone()), Look::Range)
            }
            (Finding::Missing | Finding::Size(_), Answer::Accepted { .. } | Answer::Refused)
                if by == Look::Head =>
            {
                if task.by == Look::Head {
                    // Not every server answers HEAD as it answers GET. Where GET shows the file after all, what HEAD
                    // showed before is no more to be believed than this.
                    task.before = Before::Unknown;
                }
                self.look(task.home(), Some(answer.clone().without_tag()), Look::Range)
            }
            (_, Answer::Lost) => Step { note: Some(AGAIN.to_owned()), ..self.put(task) },
            (_, Answer::Refused) => gone(FailCause::OutcomeUnknown(REFUSED.to_owned()), self.size),
            (
                Finding::Missing | Finding::Size(_) | Finding::Unproven(_),
                Answer::Accepted { status: 202, .. },
            ) if task.late < LATE_MAX => {
                task.late += 1;
                self.later(task, answer, "PUT was answered 202 (accepted), and the file is not there yet")
            }
            (Finding::Missing, Answer::Accepted { status, .. }) => {
                self.not_stored("nothing is there", *status)
            }
            (Finding::Size(length), Answer::Accepted { status, .. }) => {
                self.not_stored(&format!("{length} bytes are there"), *status)
            }
            (Finding::Spoiled(cause), Answer::Accepted { .. }) => gone(cause, self.size),
            (Finding::Unproven(seen), Answer::Accepted { status, .. }) => {
                self.unmoved(task, seen, by, answer, *status)
            }
            (Finding::Hidden(told), Answer::Accepted { status, .. }) => {
                self.unseen(*status, &format!("GET is answered {told}"))
            }
            (Finding::Untold, Answer::Accepted { status, .. }) => self.unseen(*status, "no size is told"),
        }
    }

    /// The right size, and nothing that shows that it was not there before.
    fn unmoved(&self, mut task: Task, seen: Seen, by: Look, answer: &Answer, status: u16) -> Step<State> {
        if task.before == Before::Unknown {
            if !self.facts.http.verify {
                return self
                    .complete(format!("PUT {status}, length = size, what stood there before is not known"));
            }
            // From here on it is known: what another PUT makes of it will show.
            (task.before, task.by) = (Before::Object(seen), by);
        }
        task.same = task.same.saturating_add(1);
        match task.same {
            1 => {
                let why =
                    format!("PUT was answered {status}, and nothing shows yet that the object there is new");
                self.later(task, answer, &why)
            }
            2 => Step { note: Some(AGAIN.to_owned()), ..self.put(task) },
            _ => {
                let why = format!(
                    "PUT was answered {status} twice, and the object there has the right size, but looks \
                     as it did before: nothing shows that it was replaced"
                );
                gone(FailCause::OutcomeUnknown(why), self.size)
            }
        }
    }

    fn later(&self, task: Task, answer: &Answer, why: &str) -> Step<State> {
        let retry = Retry { after: Some(NEXT_SECOND), ..Retry::because(why) };
        step(looking(task, Some(answer.clone())), self.size, Next::Retry(retry))
    }

    fn not_stored(&self, what: &str, status: u16) -> Step<State> {
        let (size, host) = (self.size, wire::host(&self.url));
        let why = format!(
            "{host} answered PUT with {status} and did not store the file: {what}, {size} bytes were sent"
        );
        gone(FailCause::Protocol(why), size)
    }

    /// PUT was accepted, and nobody may look whether it is true.
    fn unseen(&self, status: u16, why: &str) -> Step<State> {
        if !self.facts.http.verify {
            return self.complete(format!("PUT {status}, believed without a look ({why})"));
        }
        let why = format!(
            "PUT was answered {status}, but the object cannot be looked at ({why}); --no-verify believes \
             such an answer"
        );
        gone(FailCause::OutcomeUnknown(why), self.size)
    }

    /// Nothing more can be asked. Once a PUT may have been stored, that is no failure but not known.
    fn broken(&self, task: &Task, why: String) -> Step<State> {
        if task.doubt {
            let why = format!("the file was sent, and what became of it cannot be asked: {why}");
            return gone(FailCause::OutcomeUnknown(why), self.size);
        }
        gone(FailCause::Protocol(why), self.size)
    }

    /// Where a 307 or 308 leads, one hop further.
    fn hop(&self, task: &Task, reply: &Reply) -> Result<Task, String> {
        if task.hops >= HOPS_MAX {
            return Err(format!("more than {HOPS_MAX} redirects in a row"));
        }
        let at = Some(target::redirected(&reply.headers, self.asked(task))?);
        Ok(Task { at, hops: task.hops + 1, ..task.clone() })
    }

    fn asked<'a>(&'a self, task: &'a Task) -> &'a str {
        task.at.as_deref().unwrap_or(&self.url)
    }

    fn complete(&self, evidence: String) -> Step<State> {
        let proof = Proof { size: self.size, evidence: evidence.clone() };
        step(State::Complete { size: self.size, evidence }, self.size, Next::Done(proof))
    }

    fn go(&self, state: State, method: Method, url: String, headers: HeaderMap, body: Body) -> Step<State> {
        let send = Send { lane: LANE, method, url, headers, body, sink: SMALL, follow_redirects: false };
        step(state, self.size, Next::Go(vec![Effect::Send(Box::new(send))]))
    }
}

const AGAIN: &str = "the object there does not show that it is the file; PUT again";
const REFUSED: &str = "the answer to PUT was lost, the next PUT met 412, and the object there does not show \
                       whether it is the file";

fn glancing(task: Task, after: Option<Answer>, by: Look) -> State {
    match after {
        Some(answer) => State::Checking { task, answer, by },
        None => State::Looking { task, by },
    }
}

/// Nothing is in flight, and a look is due that begins at the target itself: a redirect may be stale.
fn looking(task: Task, after: Option<Answer>) -> State {
    glancing(task.home(), after, Look::Head)
}

/// The same after a PUT that nobody answered for. What stood there before is asked for anew only while no PUT can
/// have changed it.
fn due(task: Task) -> State {
    let after = task.doubt.then_some(Answer::Lost);
    looking(task, after)
}

/// A redirect that a PUT does not survive.
fn turned_away(status: u16, reply: &Reply) -> FailCause {
    let to = target::redirected(&reply.headers, &reply.url).map(|to| wire::redact(&to));
    let to = to.map_or_else(|why| format!(" ({why})"), |to| format!(" to {}", wire::printable(&to, 100)));
    FailCause::Rejected { status, detail: format!("a redirect{to}, which would make it a GET: PUT there") }
}

fn cancel(state: &State, size: u64) -> Step<State> {
    let evidence = match state {
        State::Complete { .. } => "complete: nothing unfinished is left",
        State::Looking { .. } => "nothing was sent",
        State::Putting { .. } | State::Checking { .. } | State::Gone { .. } => {
            "a PUT has nothing to be freed; what the server took of it stands under the object's own name"
        }
    };
    let next = Next::Done(Proof { size: 0, evidence: evidence.to_owned() });
    match state {
        State::Complete { .. } | State::Gone { .. } => step(state.clone(), size, next),
        State::Looking { .. } | State::Putting { .. } | State::Checking { .. } => {
            step(State::Gone { cause: FailCause::Cancelled }, size, next)
        }
    }
}

fn gone(cause: FailCause, size: u64) -> Step<State> {
    step(State::Gone { cause: cause.clone() }, size, Next::Fail(cause))
}

fn step(state: State, size: u64, next: Next) -> Step<State> {
    let done = match &state {
        State::Looking { .. } | State::Putting { .. } | State::Checking { .. } | State::Gone { .. } => 0,
        State::Complete { size, .. } => *size,
    };
    Step { state, done, size: Some(size), next, note: None }
}

#[cfg(test)]
mod tests;
