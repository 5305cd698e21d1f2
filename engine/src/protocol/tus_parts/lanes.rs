//! One part on its lane: created, sent, asked for after a loss, and paused when that fails.

use http::{HeaderMap, HeaderValue, Method};

use super::{
    Body, Doing, Effect, FAILS_MAX, FailCause, Next, Part, Reply, Set, State, Step, SuspendCause, Then,
    UPLOAD_CONCAT, Upload, wire, words,
};
use crate::protocol::Retry;
use crate::protocol::tus::{LOST_MAX, PIECE, Probe, REWINDS_MAX};
use crate::protocol::wire::Verdict;

impl Upload<'_> {
    /// Takes every part up that is not whole. Nothing is in flight.
    pub(super) fn start(&self, mut set: Set) -> Step<State> {
        set.forsake();
        // Until one URL is known, it is not known for how many there is room.
        let known = set.urls.0.iter().any(Option::is_some);
        let mut effects = Vec::new();
        for at in 0..set.parts.len() {
            set.parts[at].fails = 0;
            if set.parts[at].doing == Doing::Whole {
                continue;
            }
            if set.url(at).is_some() {
                effects.push(probe(&mut set, at, Probe::Resume));
            } else if known || at == 0 {
                effects.push(self.create(&mut set, at));
            } else {
                set.parts[at].doing = Doing::Due;
            }
        }
        self.go(set, effects)
    }

    pub(super) fn woke(&self, mut set: Set, at: usize) -> Step<State> {
        let effect = match set.url(at) {
            Some(_) => probe(&mut set, at, Probe::Resume),
            None => self.create(&mut set, at),
        };
        self.go(set, vec![effect])
    }

    fn create(&self, set: &mut Set, at: usize) -> Effect {
        set.parts[at].doing = Doing::Creating;
        let mut headers = HeaderMap::new();
        headers.insert("upload-length", HeaderValue::from(set.len(at, self.size)));
        headers.insert(UPLOAD_CONCAT, HeaderValue::from_static("partial"));
        words::request(at as u16, Method::POST, self.facts.url, headers, Body::Empty)
    }

    pub(super) fn created(&self, mut set: Set, at: usize, reply: &Reply) -> Step<State> {
        set.parts[at].doing = Doing::Due;
        if reply.status.as_u16() != 201 {
            set.orphaned(words::in_doubt(reply));
            let alone = set.urls.0.iter().all(Option::is_none) && !set.parts.iter().any(Part::is_busy);
            return match wire::classify(reply, self.facts.now) {
                Verdict::Final(_) if alone => {
                    let why = format!("the server refused a part with {}", reply.status.as_u16());
                    self.single(set.server, set.orphans, &why)
                }
                verdict => self.trip(set, at, verdict.into()),
            };
        }
        let url = match wire::location(&reply.headers, self.facts.url) {
            Ok(Some(url)) => url,
            Ok(None) => return self.broken(State::Sending { set }, "201 without Location"),
            Err(malformed) => return self.step(State::Sending { set }, Next::Fail(malformed.into())),
        };
        set.note_expiry(reply);
        set.urls.0[at] = Some(url);
        let count = set.parts.len() as u16;
        let room = set.urls.room(count);
        if room < count || !set.urls.is_kept() {
            return self.refit(set, at, room.min(count - 1));
        }
        let mut effects = vec![self.send(&mut set, at)];
        for other in 0..set.parts.len() {
            if set.parts[other].doing == Doing::Due {
                effects.push(self.create(&mut set, other));
            }
        }
        self.go(set, effects)
    }

    /// The URLs are too long for so many parts: what was begun is freed, then fewer begin.
    fn refit(&self, mut set: Set, at: usize, room: u16) -> Step<State> {
        let much = set.urls.0[at].take().filter(|url| set.urls.has_room(url.len()));
        set.orphaned(much.is_none());
        set.urls.0[at] = much;
        let alone = !set.parts.iter().any(Part::is_busy);
        // After the first part, it is no server of evenly long URLs: halves come to an end soon.
        let begun = set.urls.0.iter().flatten().count() > 1;
        let parts = if begun { room.min(set.parts.len() as u16 / 2) } else { room };
        set.forsake();
        let then = Then::Fewer(parts);
        if alone {
            return self.free(set, then);
        }
        let why = "the URLs of the parts are too long for so many".to_owned();
        self.step(State::Freeing { set, then }, Next::Retry(Retry::because(why)))
    }

    fn send(&self, set: &mut Set, at: usize) -> Effect {
        let (range, checksum) = (set.range(at, self.size), set.server.checksum);
        let part = &mut set.parts[at];
        let whole = range.end - range.start;
        let to = checksum.map_or(whole, |_| whole.min(part.acked + PIECE));
        part.sent = part.sent.max(to);
        part.doing = Doing::Sending;
        let (headers, digest) = words::patch(part.acked, checksum);
        let body = Body::File { range: range.start + part.acked..range.start + to, digest };
        words::request(at as u16, Method::PATCH, set.url(at).unwrap_or_default(), headers, body)
    }

    pub(super) fn sent(&self, mut set: Set, at: usize, reply: &Reply) -> Step<State> {
        set.parts[at].doing = Doing::Due;
        match reply.status.as_u16() {
            200..=299 => {}
            409 => return self.ask(set, at, Probe::Doubt),
            403 => return self.ask(set, at, Probe::Forbidden),
            404 | 410 => return self.dropped(set, at),
            423 => return self.trip(set, at, Next::Retry(words::locked(reply, self.facts.now))),
            460 => {
                let retry = words::spoiled(reply, self.facts.now, self.facts.url);
                return self.trip(set, at, Next::Retry(retry));
            }
            400 if set.server.checksum.is_some() => {
                set.server.checksum = None;
                let effect = self.send(&mut set, at);
                return self.go(set, vec![effect]);
            }
            _ => return self.trip(set, at, wire::classify(reply, self.facts.now).into()),
        }
        set.note_expiry(reply);
        let Part { acked, sent, .. } = set.parts[at];
        match words::offset(reply) {
            Err(malformed) => self.step(State::Sending { set }, Next::Fail(malformed.into())),
            Ok(None) => self.ask(set, at, Probe::Doubt),
            Ok(Some(offset)) if !(acked..=sent).contains(&offset) => self.lied(set, at, offset),
            Ok(Some(offset)) if offset == acked => self.stuck(set, at),
            Ok(Some(offset)) => self.resume(set, at, offset),
        }
    }

    fn ask(&self, mut set: Set, at: usize, why: Probe) -> Step<State> {
        let effect = probe(&mut set, at, why);
        self.go(set, vec![effect])
    }

    pub(super) fn probed(&self, mut set: Set, at: usize, why: Probe, reply: &Reply) -> Step<State> {
        set.parts[at].doing = Doing::Due;
        match reply.status.as_u16() {
            200..=299 => {}
            404 | 410 => return self.dropped(set, at),
            423 => return self.trip(set, at, Next::Retry(words::locked(reply, self.facts.now))),
            _ => return self.trip(set, at, wire::classify(reply, self.facts.now).into()),
        }
        let (offset, length) = match words::numbers(reply) {
            Ok((Some(offset), length)) => (offset, length),
            Ok((None, _)) => {
                return self.broken(State::Sending { set }, "HEAD is answered without Upload-Offset");
            }
            Err(malformed) => return self.step(State::Sending { set }, Next::Fail(malformed.into())),
        };
        let asked = set.len(at, self.size);
        if let Some(length) = length.filter(|&length| length != asked) {
            let why = format!("Upload-Length of part {at} is {length}, {asked} was asked for");
            return self.broken(State::Sending { set }, &why);
        }
        set.note_expiry(reply);
        let part = &mut set.parts[at];
        if offset > part.sent {
            return self.lied(set, at, offset);
        }
        if offset < part.acked {
            part.rewinds = part.rewinds.saturating_add(1);
            let rewinds = part.rewinds;
            set.checked = false;
            if u32::from(rewinds) > REWINDS_MAX {
                let why = format!("the offset of part {at} went back {rewinds} times");
                return self.broken(State::Sending { set }, &why);
            }
        } else if offset == part.acked && offset < asked {
            match why {
                Probe::Doubt => return self.stuck(set, at),
                Probe::Forbidden => {
                    let why = format!("403 Forbidden from {} for PATCH", wire::host(self.facts.url));
                    return self.step(State::Sending { set }, Next::Suspend(SuspendCause::Auth(why)));
                }
                Probe::Resume => {}
            }
        }
        self.resume(set, at, offset)
    }

    /// Goes on where the server stands.
    fn resume(&self, mut set: Set, at: usize, offset: u64) -> Step<State> {
        let whole = set.len(at, self.size);
        let part = &mut set.parts[at];
        if offset > part.acked {
            part.fails = 0;
        }
        part.acked = offset;
        if offset < whole {
            let effect = self.send(&mut set, at);
            return self.go(set, vec![effect]);
        }
        part.doing = Doing::Whole;
        if set.is_whole() { self.join(set) } else { self.go(set, Vec::new()) }
    }

    /// The server no longer knows a part.
    fn dropped(&self, mut set: Set, at: usize) -> Step<State> {
        set.urls.0[at] = None;
        if set.finals > 0 {
            return self.unknown(&set, "the request to join the parts stayed unanswered, and a part is gone");
        }
        set.checked = false;
        let lost = set.parts[at].lost.saturating_add(1);
        set.parts[at] = Part { lost, rewinds: set.parts[at].rewinds, ..Part::NEW };
        if u32::from(lost) > LOST_MAX {
            return self.step(State::Sending { set }, Next::Fail(FailCause::Expired(u32::from(lost))));
        }
        let note = format!("the server no longer knows part {at}: it begins anew");
        let effect = self.create(&mut set, at);
        Step { note: Some(note), ..self.go(set, vec![effect]) }
    }

    /// A lane failed. What asks for another try gets it after a pause, the others going on meanwhile.
    pub(super) fn trip(&self, mut set: Set, at: usize, next: Next) -> Step<State> {
        let next = rest(&mut set.parts[at], at, next).unwrap_or_else(|next| next);
        self.step(State::Sending { set }, next)
    }

    fn stuck(&self, set: Set, at: usize) -> Step<State> {
        let acked = set.parts[at].acked;
        let why = format!("{} took no byte of part {at} beyond {acked}", wire::host(self.facts.url));
        self.trip(set, at, Next::Retry(Retry::because(why)))
    }

    fn lied(&self, set: Set, at: usize, offset: u64) -> Step<State> {
        let Part { acked, sent, .. } = set.parts[at];
        let why = format!("Upload-Offset of part {at} is {offset}, but {acked} to {sent} is what can be");
        self.broken(State::Sending { set }, &why)
    }

    fn go(&self, set: Set, effects: Vec<Effect>) -> Step<State> {
        self.step(State::Sending { set }, Next::Go(effects))
    }
}

/// Pauses a lane that is to be tried again. What is for the whole job comes back: no way to the server, too
/// many failures of the lane, a cause that another try does not help.
pub(super) fn rest(part: &mut Part, at: usize, next: Next) -> Result<Next, Next> {
    part.doing = Doing::Due;
    match next {
        Next::Retry(retry) if !retry.offline && part.fails < FAILS_MAX => {
            part.doing = Doing::Resting;
            part.fails += 1;
            let attempts = u32::from(part.fails - 1);
            Ok(Next::Go(vec![Effect::Pause { lane: at as u16, attempts, retry }]))
        }
        next => Err(next),
    }
}

fn probe(set: &mut Set, at: usize, why: Probe) -> Effect {
    set.parts[at].doing = Doing::Probing(why);
    let url = set.url(at).unwrap_or_default();
    words::request(at as u16, Method::HEAD, url, HeaderMap::new(), Body::Empty)
}
