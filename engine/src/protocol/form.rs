//! POST of a form with the file in it (`multipart/form-data`, RFC 7578) as a pure state machine.
//!
//! | step | request | answers that go on |
//! |---|---|---|
//! | post | POST target: the fields, then the file, then the end; `Idempotency-Key` where the server documents it | 2xx, 303: complete; 408, 425, 429, 503: retry |
//!
//! | answer | without a key | with `Idempotency-Key` |
//! |---|---|---|
//! | none, and the server may have seen it | outcome unknown | retry |
//! | 500 | the server's final no | retry |
//! | 502, 504 | outcome unknown | retry |
//! | 409 | the server's final no | still being processed: retry |
//!
//! Other 3xx are the end: a form is for the URL it was made for. What is not listed goes by the table
//! in [`wire`].
//!
//! ```text
//! Ready ──▶ Posting ──2xx, 303──▶ Complete
//!   ▲          │ └──── lost, Restarted, 502, 504 ──▶ Gone (outcome unknown)
//!   └──────────┘ not processed, or there is a key
//! ```
//!
//! | killed in | the next process |
//! |---|---|
//! | Ready | posts |
//! | Posting | outcome unknown; with a key posts again |
//! | Complete, Gone | the same answer again |
//!
//! Invariants: without a key nothing is sent after a POST that may have been processed, and none of a job's
//! POSTs but the last may have been; with one every POST is the same, byte for byte (the boundary is of
//! the job's token). The file never goes without its form. To hold a job in the middle of its POST is to
//! ask for an unknown outcome, since nobody can tell what the server made of it.
//!
//! Absent on purpose: looking afterwards (a POST does not say where its file went), a search of the file for
//! the boundary (128 random bits), and the check that a key is really looked at.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use serde::{Deserialize, Serialize};

use super::wire::{self, Verdict};
use super::{Body, Effect, Facts, Input, Next, Protocol, Reply, Send, Sink, Step, StepError, put};
use crate::job::{Direction, FailCause, Proof, Token};
use crate::ports::NetErrorKind;

const LANE: u16 = 0;
const SMALL: Sink = Sink::Small(4096);
/// The name of the file's field where the user gave none.
const FIELD: &str = "file";

/// The protocol.
pub enum Form {}

/// What is journaled. Variants are only appended: their order is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// POST is due, and none before it can have been processed, or the server tells them apart.
    Ready {
        /// POSTs before it.
        before: u32,
    },
    /// POST is under way.
    Posting {
        /// POSTs before it.
        before: u32,
    },
    /// Accepted.
    Complete {
        /// Bytes of the file.
        size: u64,
        /// By what.
        evidence: String,
    },
    /// The end without an answer that says yes.
    Gone {
        /// The cause.
        cause: FailCause,
    },
}

impl Protocol for Form {
    type State = State;
    const NAME: &'static str = "form";
    const DIRECTION: Direction = Direction::Upload;

    fn new(_facts: &Facts<'_>) -> State {
        State::Ready { before: 0 }
    }

    fn unsent(state: &State) -> Option<State> {
        match state {
            State::Posting { before } => Some(State::Ready { before: *before }),
            State::Ready { .. } | State::Complete { .. } | State::Gone { .. } => None,
        }
    }

    fn step(facts: &Facts<'_>, state: &State, input: &Input) -> Result<Step<State>, StepError> {
        let size = facts.size.ok_or_else(|| StepError("an upload without a size".to_owned()))?;
        let upload = Upload { facts, size };
        match (state, input) {
            (State::Ready { before }, Input::Begin | Input::Restarted) => Ok(upload.post(*before)),
            (State::Posting { before }, Input::Restarted) => Ok(upload.interrupted(*before)),
            (State::Complete { evidence, .. }, Input::Restarted) => Ok(upload.complete(evidence.clone())),
            (State::Gone { cause }, Input::Restarted) => Ok(upload.gone(cause.clone())),
            (_, Input::Cancel) => Ok(upload.cancel(state)),
            (State::Posting { before }, Input::Reply { lane: LANE, reply }) => {
                Ok(upload.answered(*before, reply))
            }
            (State::Posting { before }, Input::Lost { lane: LANE, kind, why }) => {
                Ok(upload.lost(*before, *kind, why))
            }
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
}

/// One step's surroundings.
struct Upload<'a> {
    facts: &'a Facts<'a>,
    size: u64,
}

impl Upload<'_> {
    fn post(&self, before: u32) -> Step<State> {
        let mut headers = HeaderMap::new();
        let (boundary, body) = match encode(self.facts) {
            Ok(encoded) => encoded,
            Err(cause) => return self.gone(cause),
        };
        let token = self.facts.token;
        let texts = [
            (CONTENT_TYPE, Some(format!("multipart/form-data; boundary={boundary}"))),
            (KEY, self.facts.http.idempotent_post.then(|| format!("\"{token}\""))),
        ];
        for (name, value) in texts {
            // Hex and this program's own text.
            if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
                headers.insert(name, value);
            }
        }
        let (method, url) = (Method::POST, self.facts.url.to_owned());
        let send = Send { lane: LANE, method, url, headers, body, sink: SMALL, follow_redirects: false };
        self.step(State::Posting { before }, Next::Go(vec![Effect::Send(Box::new(send))]))
    }

    /// The process died, or the job was held, while POST was under way.
    fn interrupted(&self, before: u32) -> Step<State> {
        if self.facts.http.idempotent_post {
            return self.post(before.saturating_add(1));
        }
        self.unknown("it was interrupted")
    }

    fn lost(&self, before: u32, kind: NetErrorKind, why: &str) -> Step<State> {
        // Neither TLS nor the engine's own rules let anything of it out; and what was cut off ends in no boundary.
        let unseen =
            kind.is_unsent() || matches!(kind, NetErrorKind::Cut | NetErrorKind::Tls | NetErrorKind::Refused);
        let before = before.saturating_add(u32::from(!unseen));
        match wire::lost(kind, why, self.facts.url) {
            Next::Fail(cause) => self.gone(cause),
            Next::Retry(retry) if !unseen && !self.facts.http.idempotent_post => self.unknown(&retry.why),
            next => self.step(State::Ready { before }, next),
        }
    }

    fn answered(&self, before: u32, reply: &Reply) -> Step<State> {
        let (status, keyed) = (reply.status.as_u16(), self.facts.http.idempotent_post);
        let ready = State::Ready { before: before.saturating_add(1) };
        match status {
            200..=299 | 303 => {
                let key =
                    if keyed && before > 0 { ", to a POST repeated with its Idempotency-Key" } else { "" };
                return self.complete(format!("POST answered {status}{key}"));
            }
            300..=399 => {
                let detail = "a redirect of a form is not followed: give the URL it leads to".to_owned();
                return self.gone(FailCause::Rejected { status, detail });
            }
            409 if keyed => {
                return self.step(ready, Next::Retry(wire::again(reply, self.facts.now)));
            }
            502 | 504 if !keyed => {
                let host = wire::host(self.facts.url);
                let why = format!("a gateway at {host} answered {status}, not the server itself");
                return self.unknown(&why);
            }
            _ => {}
        }
        match wire::classify(reply, self.facts.now) {
            Verdict::Retry(retry) if status == 500 && !keyed => {
                // The server's own answer, and it does not say that it may be asked again.
                self.gone(FailCause::Rejected { status, detail: retry.why })
            }
            verdict @ (Verdict::Retry(_) | Verdict::Auth(_)) => self.step(ready, verdict.into()),
            Verdict::Final(cause) => self.gone(cause),
        }
    }

    fn cancel(&self, state: &State) -> Step<State> {
        let evidence = match state {
            State::Ready { before: 0 } => "nothing was sent",
            State::Ready { .. } | State::Posting { .. } | State::Complete { .. } | State::Gone { .. } => {
                "a POST leaves nothing behind that could be freed"
            }
        };
        let next = Next::Done(Proof { size: 0, evidence: evidence.to_owned() });
        match state {
            State::Complete { .. } | State::Gone { .. } => self.step(state.clone(), next),
            State::Ready { .. } | State::Posting { .. } => {
                self.step(State::Gone { cause: FailCause::Cancelled }, next)
            }
        }
    }

    fn unknown(&self, why: &str) -> Step<State> {
        let why =
            format!("no answer to POST, so that the server may have the file; it is not sent twice: {why}");
        self.gone(FailCause::OutcomeUnknown(why))
    }

    fn complete(&self, evidence: String) -> Step<State> {
        let proof = Proof { size: self.size, evidence: evidence.clone() };
        self.step(State::Complete { size: self.size, evidence }, Next::Done(proof))
    }

    fn gone(&self, cause: FailCause) -> Step<State> {
        self.step(State::Gone { cause: cause.clone() }, Next::Fail(cause))
    }

    fn step(&self, state: State, next: Next) -> Step<State> {
        let done = match &state {
            State::Ready { .. } | State::Posting { .. } | State::Gone { .. } => 0,
            State::Complete { size, .. } => *size,
        };
        Step { state, done, size: Some(self.size), next, note: None }
    }
}

/// As the draft names it (`draft-ietf-httpapi-idempotency-key-header-07`); its value is a quoted string.
const KEY: http::HeaderName = http::HeaderName::from_static("idempotency-key");

/// The form around the file, and the boundary between its parts.
fn encode(facts: &Facts<'_>) -> Result<(String, Body), FailCause> {
    let form = facts.http.form.as_ref();
    let (field, fields) =
        form.map_or((FIELD, &[] as &[_]), |form| (form.field.as_str(), form.fields.as_slice()));
    let kind = put::content_type(facts)?;
    let texts = fields.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]);
    let name = facts.name.rsplit('/').find(|part| !part.is_empty()).unwrap_or(FIELD);
    let boundary = boundary(facts.token, &texts.chain([field, name]));
    let mut head = Vec::new();
    for (name, value) in fields {
        let name = escape(&newlines(name));
        let part = format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n");
        head.extend_from_slice(part.as_bytes());
        head.extend_from_slice(newlines(value).as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    let (field, name) = (escape(&newlines(field)), escape(name));
    let part = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"{field}\"; filename=\"{name}\"\r\n\
         Content-Type: "
    );
    head.extend_from_slice(part.as_bytes());
    head.extend_from_slice(kind.as_bytes());
    head.extend_from_slice(b"\r\n\r\n");
    let tail = format!("\r\n--{boundary}--\r\n").into_bytes();
    Ok((boundary, Body::Form { head, tail }))
}

/// A boundary that none of the texts has in it; always the same for one job.
fn boundary<'a>(token: Token, texts: &(impl Iterator<Item = &'a str> + Clone)) -> String {
    let mut boundary = format!("haul-{token}");
    // Each round is longer than the last, so that it ends with the longest text.
    while texts.clone().any(|text| text.contains(&boundary)) {
        boundary.push('-');
    }
    boundary
}

/// A name as it stands between quotes (WHATWG HTML, multipart/form-data): only what would end it is escaped. What no
/// form has in a name at all becomes `_`.
fn escape(name: &str) -> String {
    let mut out = String::new();
    for letter in name.chars() {
        match letter {
            '\r' => out.push_str("%0D"),
            '\n' => out.push_str("%0A"),
            '"' => out.push_str("%22"),
            other if other.is_control() => out.push('_'),
            other => out.push(other),
        }
    }
    out
}

/// Every kind of line end as CR LF, as forms have it.
fn newlines(text: &str) -> String {
    text.replace("\r\n", "\n").replace(['\r', '\n'], "\r\n")
}

#[cfg(test)]
mod tests;
