//! The whole: asked for once every part is there, and proven before any part goes.

use http::{HeaderMap, HeaderValue, Method};

use super::{
    Body, Doing, FailCause, LANE, Next, PROVE_MAX, Reply, Set, State, Step, Then, UPLOAD_CONCAT, Upload,
    wire, words,
};
use crate::protocol::Retry;
use crate::protocol::wire::Verdict;

impl Upload<'_> {
    pub(super) fn join(&self, set: Set) -> Step<State> {
        let list: Vec<&str> = set.urls.0.iter().flatten().map(String::as_str).collect();
        let mut headers = HeaderMap::new();
        match HeaderValue::try_from(format!("final;{}", list.join(" "))) {
            Ok(list) => headers.insert(UPLOAD_CONCAT, list),
            Err(_) => return self.broken(State::Sending { set }, "a part's URL does not fit into a header"),
        };
        words::describe(&mut headers, self.facts);
        let post = words::request(LANE, Method::POST, self.facts.url, headers, Body::Empty);
        let note = Some("every part is there: they are joined".to_owned());
        Step { note, ..self.step(State::Joining { set, asked: true }, Next::Go(vec![post])) }
    }

    pub(super) fn joined(&self, mut set: Set, reply: &Reply) -> Step<State> {
        let nameless = "the server joined the parts, but gave no URL of the whole that can be kept";
        match reply.status.as_u16() {
            201 => {}
            200..=299 => return self.unknown(&set, nameless),
            423 => {
                let next = Next::Retry(words::locked(reply, self.facts.now));
                return self.step(State::Joining { set, asked: false }, next);
            }
            _ => {
                return match wire::classify(reply, self.facts.now) {
                    // It may be that a part is not what it was.
                    Verdict::Final(_) if !set.checked => {
                        set.checked = true;
                        self.check(set)
                    }
                    verdict => self.unanswered(set, words::in_doubt(reply), verdict.into()),
                };
            }
        }
        set.note_expiry(reply);
        match wire::location(&reply.headers, self.facts.url) {
            Ok(Some(url)) if set.urls.has_room(url.len()) => self.prove(set, url, 0),
            Ok(_) | Err(_) => self.unknown(&set, nameless),
        }
    }

    /// The request to join has no answer that says what became of it; `seen`: something may have.
    pub(super) fn unanswered(&self, mut set: Set, seen: bool, next: Next) -> Step<State> {
        if !seen {
            return self.step(State::Joining { set, asked: false }, next);
        }
        set.finals = set.finals.saturating_add(1);
        due(&mut set);
        self.step(State::Sending { set }, next)
    }

    /// The process died while the request to join was under way.
    pub(super) fn doubt(&self, mut set: Set) -> Step<State> {
        set.finals = set.finals.saturating_add(1);
        self.check(set)
    }

    /// Asks for every part again.
    fn check(&self, mut set: Set) -> Step<State> {
        due(&mut set);
        self.start(set)
    }

    pub(super) fn prove(&self, set: Set, whole: String, tries: u8) -> Step<State> {
        let head = words::request(LANE, Method::HEAD, &whole, HeaderMap::new(), Body::Empty);
        self.step(State::Proving { set, whole, tries }, Next::Go(vec![head]))
    }

    pub(super) fn proved(&self, mut set: Set, whole: String, tries: u8, reply: &Reply) -> Step<State> {
        match reply.status.as_u16() {
            200..=299 => {}
            404 | 410 => {
                return self.unknown(&set, "the server joined the parts, and no longer knows the whole");
            }
            423 => {
                let next = Next::Retry(words::locked(reply, self.facts.now));
                return self.step(State::Proving { set, whole, tries }, next);
            }
            _ => return self.refused(State::Proving { set, whole, tries }, reply),
        }
        let (offset, length) = match words::numbers(reply) {
            Ok(numbers) => numbers,
            Err(malformed) => {
                return self.step(State::Proving { set, whole, tries }, Next::Fail(malformed.into()));
            }
        };
        if offset.max(length).is_some_and(|number| number > self.size)
            || length.is_some_and(|length| length != self.size)
        {
            let (offset, length) = (offset.unwrap_or_default(), length.unwrap_or_default());
            let why = format!("the whole is at {offset} of {length}, {} was asked for", self.size);
            return self.broken(State::Proving { set, whole, tries }, &why);
        }
        if offset != Some(self.size) {
            return self.not_yet(set, whole, tries);
        }
        set.note_expiry(reply);
        let told = if length.is_some() { "length" } else { "size (no length told)" };
        let evidence = set.note(format!("HEAD offset = {told}, {} parts joined", set.parts.len()));
        self.free(set, Then::Proven { whole, evidence })
    }

    /// The server may still be at it.
    fn not_yet(&self, set: Set, whole: String, tries: u8) -> Step<State> {
        let tries = tries.saturating_add(1);
        let state = State::Proving { set, whole, tries };
        let why = format!("{} has not joined the parts yet", wire::host(self.facts.url));
        if tries > PROVE_MAX {
            self.broken(state, &why)
        } else {
            self.step(state, Next::Retry(Retry::because(why)))
        }
    }

    /// A whole object may exist, and nobody can be asked.
    pub(super) fn unknown(&self, set: &Set, what: &str) -> Step<State> {
        let left = set.urls.0.iter().flatten().count();
        self.gone(set.acked(), FailCause::OutcomeUnknown(format!("{what}; {left} parts may be left")))
    }
}

fn due(set: &mut Set) {
    for part in &mut set.parts {
        part.doing = Doing::Due;
    }
}
