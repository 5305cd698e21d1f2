//! Giving an upload up: DELETE where the server offers it, a name for what stays where it does not.

use http::{HeaderMap, Method};

use super::{Session, State, Upload};
use crate::job::{FailCause, Proof};
use crate::protocol::wire::{self, Verdict};
use crate::protocol::{Body, Next, Reply, Step};

impl Upload<'_> {
    pub(super) fn cancel(&self, state: &State) -> Step<State> {
        match state.clone() {
            State::Discovering => self.cancelled(0, "no upload was begun".to_owned()),
            State::Creating { tally, asked, .. } => {
                self.cancelled(0, tally.orphaned(asked).note("no upload is known at the server".to_owned()))
            }
            State::Sending { session, .. }
            | State::Probing { session, .. }
            | State::Proving { session }
            | State::Cancelling { session } => self.free(session),
            State::Complete { .. } => {
                let evidence = "complete: nothing unfinished is left".to_owned();
                self.step(state.clone(), Next::Done(Proof { size: 0, evidence }))
            }
            State::Gone { acked, .. } => {
                self.cancelled(acked, "the server does not know the upload".to_owned())
            }
        }
    }

    pub(super) fn free(&self, session: Session) -> Step<State> {
        if !session.server.termination {
            return self.left(session, "offers no termination");
        }
        let url = session.url.clone();
        self.go(State::Cancelling { session }, Method::DELETE, &url, HeaderMap::new(), Body::Empty)
    }

    pub(super) fn freed(&self, session: Session, reply: &Reply) -> Step<State> {
        match reply.status.as_u16() {
            200..=299 | 404 | 410 => {
                let evidence = session.tally.note(format!("DELETE answered {}", reply.status.as_u16()));
                self.cancelled(session.acked, evidence)
            }
            423 => self.again(State::Cancelling { session }, reply),
            status => match wire::classify(reply, self.facts.now) {
                Verdict::Retry(retry) => self.step(State::Cancelling { session }, Next::Retry(retry)),
                Verdict::Auth(_) | Verdict::Final(_) => {
                    self.left(session, &format!("answered DELETE with {status}"))
                }
            },
        }
    }

    pub(super) fn cancelled(&self, acked: u64, evidence: String) -> Step<State> {
        let state = State::Gone { acked, cause: FailCause::Cancelled };
        self.step(state, Next::Done(Proof { size: 0, evidence }))
    }

    /// The upload stays at the server; the state keeps its URL.
    pub(super) fn left(&self, session: Session, why: &str) -> Step<State> {
        let until =
            session.expires.map_or_else(String::new, |at| format!(" until {}", wire::format_date(at)));
        let what = format!(
            "an unfinished upload is left at {}{until}: the server {why}",
            wire::redact(&session.url)
        );
        self.step(State::Cancelling { session }, Next::Fail(FailCause::Protocol(what)))
    }
}
