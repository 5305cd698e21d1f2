//! DELETE of what has served, of what is begun anew, and of everything when the job is given up.

use http::{HeaderMap, Method};

use super::lanes::rest;
use super::{Body, Doing, FailCause, Next, Part, Proof, Reply, Set, State, Step, Then, Upload, wire, words};
use crate::protocol::wire::Verdict;

impl Upload<'_> {
    pub(super) fn cancel(&self, state: &State) -> Step<State> {
        match state.clone() {
            State::Discovering | State::Single(_) => self.cancelled(0, "no upload was begun".to_owned()),
            State::Sending { set } => self.give_up(set, None),
            State::Joining { mut set, asked } => {
                set.finals = set.finals.saturating_add(u32::from(asked));
                self.give_up(set, None)
            }
            State::Proving { set, whole, .. } => self.give_up(set, Some(whole)),
            State::Freeing { set, then } => match then {
                Then::Proven { whole, .. } => self.give_up(set, Some(whole)),
                Then::Fewer(_) => self.give_up(set, None),
                Then::Cancelled { .. } => self.free(set, then),
            },
            State::Complete { .. } => {
                let evidence = "complete: nothing unfinished is left".to_owned();
                self.step(state.clone(), Next::Done(Proof { size: 0, evidence }))
            }
            State::Gone { acked, .. } => self.cancelled(acked, "no upload is known at the server".to_owned()),
        }
    }

    fn give_up(&self, mut set: Set, whole: Option<String>) -> Step<State> {
        set.forsake();
        let then = Then::Cancelled { whole: whole.is_some() };
        if whole.is_some() {
            set.urls.0.push(whole);
            set.parts.push(Part::NEW);
        }
        self.free(set, then)
    }

    fn cancelled(&self, acked: u64, evidence: String) -> Step<State> {
        let state = State::Gone { acked, cause: FailCause::Cancelled };
        self.step(state, Next::Done(Proof { size: 0, evidence }))
    }

    /// Deletes everything in the set that has a URL.
    pub(super) fn free(&self, mut set: Set, then: Then) -> Step<State> {
        for part in &mut set.parts {
            (part.doing, part.fails) = (Doing::Due, 0);
        }
        self.free_due(set, then)
    }

    /// Nothing is in flight: tries again what was not refused for good.
    pub(super) fn free_again(&self, mut set: Set, then: Then) -> Step<State> {
        for part in &mut set.parts {
            part.fails = 0;
            if part.doing != Doing::Left {
                part.doing = Doing::Due;
            }
        }
        self.free_due(set, then)
    }

    /// Deletes what is due; the end when nothing is.
    pub(super) fn free_due(&self, mut set: Set, then: Then) -> Step<State> {
        let last = set.parts.len().saturating_sub(1);
        let whole_first = then == Then::Cancelled { whole: true }
            && set.url(last).is_some()
            && set.parts[last].doing != Doing::Left
            && set.server.termination;
        let mut effects = Vec::new();
        for at in if whole_first { last } else { 0 }..set.parts.len() {
            let Some(url) = set.urls.0[at].clone().filter(|_| set.parts[at].doing == Doing::Due) else {
                continue;
            };
            if set.server.termination {
                set.parts[at].doing = Doing::Freeing;
                effects.push(words::request(at as u16, Method::DELETE, &url, HeaderMap::new(), Body::Empty));
            } else {
                set.parts[at].doing = Doing::Left;
            }
        }
        if effects.is_empty() && !set.parts.iter().any(Part::is_busy) {
            self.settled(set, then)
        } else {
            self.step(State::Freeing { set, then }, Next::Go(effects))
        }
    }

    pub(super) fn freed(&self, mut set: Set, then: Then, at: usize, reply: &Reply) -> Step<State> {
        match reply.status.as_u16() {
            200..=299 | 404 | 410 => {
                set.urls.0[at] = None;
                set.parts[at].doing = Doing::Due;
                self.free_due(set, then)
            }
            423 => self.not_freed(set, then, at, Next::Retry(words::locked(reply, self.facts.now))),
            _ => match wire::classify(reply, self.facts.now) {
                Verdict::Retry(retry) => self.not_freed(set, then, at, Next::Retry(retry)),
                Verdict::Auth(_) | Verdict::Final(_) => {
                    set.parts[at].doing = Doing::Left;
                    self.free_due(set, then)
                }
            },
        }
    }

    /// A deletion failed for now.
    pub(super) fn not_freed(&self, mut set: Set, then: Then, at: usize, next: Next) -> Step<State> {
        match rest(&mut set.parts[at], at, next) {
            Ok(pause) => self.step(State::Freeing { set, then }, pause),
            // Without a way to the server nothing is lost by waiting; else a proven object waits no longer.
            Err(Next::Retry(retry)) if retry.offline || !matches!(then, Then::Proven { .. }) => {
                self.step(State::Freeing { set, then }, Next::Retry(retry))
            }
            Err(Next::Go(_) | Next::Retry(_) | Next::Done(_) | Next::Fail(_) | Next::Suspend(_)) => {
                set.parts[at].doing = Doing::Left;
                self.free_due(set, then)
            }
        }
    }

    /// Everything is gone, or stays.
    fn settled(&self, mut set: Set, then: Then) -> Step<State> {
        let left = set.left();
        match then {
            Then::Proven { evidence, .. } => {
                let left = left.map_or_else(String::new, |left| format!("; {left}, not to be deleted"));
                self.complete(format!("{evidence}{left}"))
            }
            Then::Fewer(parts) => {
                let left = set.urls.0.iter().flatten().count();
                let orphans = set.orphans.saturating_add(u32::try_from(left).unwrap_or(u32::MAX));
                if parts < 2 {
                    return self.single(set.server, orphans, "the server's URLs are too long to keep many");
                }
                self.plan(set.server, orphans, parts)
            }
            Then::Cancelled { .. } => {
                let acked = set.acked();
                let unknown = (set.finals > 0).then(|| {
                    "every part is deleted, but a request to join them stayed unanswered: an object of full size may be left".to_owned()
                });
                let Some(what) = left.or(unknown) else {
                    return self.cancelled(acked, set.note("every part is deleted".to_owned()));
                };
                for part in &mut set.parts {
                    part.doing = Doing::Left;
                }
                self.broken(State::Freeing { set, then }, &what)
            }
        }
    }
}
