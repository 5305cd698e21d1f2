//! Lanes at work on chunks.
//!
//! ```text
//! Idle ──chunk and source──▶ Asked ──206, judged──▶ Storing ──last byte──▶ Idle
//!  ▲ ▲                        │ │                      │
//!  │ └──source is narrower────┘ └──lost, 5xx, dropped──┴──▶ Paused ──Woken──▶ Idle
//!  └──────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A lane that fails waits by itself. When no lane is left that is not failing, the attempt has failed and
//! the machine counts it. A source that throttles, or fails one lane again and again while it serves others,
//! bears no more exchanges than those; a restart tries twice as many.
//!
//! Invariant: whatever is not whole is worked on, waited for, or given up by `Retry` or an end.

use http::header::{IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method};

use super::source::{self, Answer};
use super::state::{
    At, LANES_MAX, Lane, MIRRORS_MAX, SPLIT_MIN, Source, Standing, State, Turn, Work, chunk_len,
};
use super::{again, begin_trial, source_url, step};
use crate::job::FailCause;
use crate::ports::NetErrorKind;
use crate::protocol::get::answer::{self, identity};
use crate::protocol::get::{self, CHANGED_MAX, Tally, Version};
use crate::protocol::wire;
use crate::protocol::{Effect, Facts, Next, Reply, Retry, Sink, Step, StepError};

/// Failures of a lane in a row after which its source is to blame.
pub const FAILURES_MAX: u32 = 4;

/// Begins with the first whole answer as the first chunk's body; `Err`: why it cannot be split.
pub fn begin(facts: &Facts<'_>, tally: Tally, lead: u16, reply: &Reply) -> Result<Step<State>, String> {
    identity(&reply.headers)?;
    let mirrors = mirrors(facts);
    if facts.lanes <= 1 && mirrors == 0 {
        return Err("one connection is asked for".to_owned());
    }
    let total = wire::content_length(&reply.headers).map_err(|malformed| malformed.to_string())?;
    let total = total.ok_or("the server tells no length")?;
    if total < SPLIT_MIN {
        return Err(format!("{total} bytes are not worth more than one request"));
    }
    let version = Version::read(reply, Some(total));
    if version.validator.is_none() {
        return Err("the server has no ranges, or nothing to tell one version of the file by".to_owned());
    }
    let lanes = facts.lanes.clamp(1, LANES_MAX);
    let chunk = chunk_len(total, lanes);
    let standing = |source| if source == lead { Standing::Lead } else { Standing::Untried };
    let work = Work {
        version,
        tally,
        chunk,
        have: vec![0; usize::try_from(total.div_ceil(chunk)).unwrap_or(0)],
        lanes: vec![Lane::FRESH; usize::from(lanes)],
        sources: (0..=mirrors).map(|at| Source { standing: standing(at), most: LANES_MAX }).collect(),
        turn: lead,
        mixed: lead != 0,
        narrowed: false,
    };
    let chunks = work.have.len();
    let until = work.span(0).end;
    let mut shift = Shift::new(facts, work);
    shift.note(format!("{chunks} segments of {} KiB over {lanes} connections", chunk >> 10));
    shift.work.lanes[0] = Lane { at: At::Storing { chunk: 0, until }, source: Some(lead), failures: 0 };
    let store = Effect::Store { lane: 0, offset: 0, limit: Some(until), within: true };
    shift.effects.extend([Effect::Reserve(total), store]);
    Ok(shift.settle())
}

/// Mirrors that are used.
pub fn mirrors(facts: &Facts<'_>) -> u16 {
    u16::try_from(facts.mirrors.len()).unwrap_or(u16::MAX).min(MIRRORS_MAX)
}

/// One step of lanes at work.
pub struct Shift<'a> {
    facts: &'a Facts<'a>,
    work: Work,
    effects: Vec<Effect>,
    note: Option<String>,
}

impl<'a> Shift<'a> {
    /// Before the step.
    pub fn new(facts: &'a Facts<'a>, work: Work) -> Self {
        Self { facts, work, effects: Vec::new(), note: None }
    }

    /// Nothing is in flight any more: every chunk goes on from what is durable.
    pub fn restarted(mut self) -> Step<State> {
        if self.work.done() == 0 {
            // The part file may not even have its length yet.
            return again(self.facts, self.work.tally);
        }
        let lanes = self.facts.lanes.clamp(1, LANES_MAX);
        self.work.lanes = vec![Lane::FRESH; usize::from(lanes)];
        for source in &mut self.work.sources {
            source.most = source.most.saturating_mul(2).min(LANES_MAX);
        }
        self.settle()
    }

    /// A pause is over. One of a plan that is no more means nothing.
    pub fn woken(mut self, lane: u16) -> Step<State> {
        if let Some(lane) = self.work.lanes.get_mut(usize::from(lane))
            && lane.at == At::Paused
        {
            lane.at = At::Idle;
        }
        self.settle()
    }

    /// An answer; `None`: the lane had asked for nothing.
    pub fn replied(mut self, lane: u16, reply: &Reply) -> Option<Step<State>> {
        let Lane { at: At::Asked { chunk }, source: Some(from), .. } = self.lane(lane)? else { return None };
        let asked = self.work.rest(chunk);
        let standing = self.work.sources.get(usize::from(from))?.standing;
        Some(match source::judge(self.facts, &self.work, standing, &asked, reply) {
            Answer::Take { until, standing: now } => {
                if standing == Standing::Untried {
                    self.note(format!("{} has the same file and takes part", self.host(from)));
                }
                self.work.sources[usize::from(from)].standing = now;
                self.work.mixed |= now != Standing::Lead;
                self.work.lanes[usize::from(lane)].at = At::Storing { chunk, until };
                let limit = Some(until - asked.start);
                self.effects.push(Effect::Store { lane, offset: asked.start, limit, within: true });
                self.settle()
            }
            Answer::Changed(why) => self.over(why),
            Answer::Whole(why) => self.one_stream(from, &why),
            Answer::Drop(why) => self.drop_source(lane, from, &why),
            Answer::Again(retry) => self.failed(lane, from, &retry),
            Answer::No(next) => self.refused(lane, from, next),
        })
    }

    /// An exchange went without (whole) reply; `None`: the lane had none.
    pub fn lost(self, lane: u16, kind: NetErrorKind, why: &str) -> Option<Step<State>> {
        let found = self.lane(lane)?;
        let (Some(_), Some(from)) = (found.chunk(), found.source) else { return None };
        Some(match wire::lost(kind, why, source_url(self.facts, from)) {
            Next::Retry(retry) => self.failed(lane, from, &retry),
            no @ (Next::Fail(_) | Next::Suspend(_) | Next::Go(_) | Next::Done(_)) => {
                self.refused(lane, from, no)
            }
        })
    }

    /// Bytes are durable.
    ///
    /// # Errors
    ///
    /// They are not those that the lane stores.
    pub fn synced(
        mut self,
        lane: u16,
        extent: &std::ops::Range<u64>,
        last: bool,
    ) -> Result<Step<State>, StepError> {
        let astray = || StepError(format!("bytes {extent:?} are not what lane {lane} stores"));
        let found = self.lane(lane).ok_or_else(astray)?;
        let Lane { at: At::Storing { chunk, until }, source: Some(from), .. } = found else {
            return Err(astray());
        };
        let follows = extent.start == self.work.rest(chunk).start && extent.end >= extent.start;
        if !follows || extent.end > until {
            return Err(astray());
        }
        self.work.have[usize::from(chunk)] += extent.end - extent.start;
        let lane_now = &mut self.work.lanes[usize::from(lane)];
        if !extent.is_empty() {
            lane_now.failures = 0;
        }
        if last && extent.end < until {
            let why = format!("the body ended at byte {}, {until} were announced", extent.end);
            return Ok(self.failed(lane, from, &Retry::because(why)));
        }
        if last {
            lane_now.at = At::Idle;
        }
        Ok(self.settle())
    }

    fn lane(&self, lane: u16) -> Option<Lane> {
        self.work.lanes.get(usize::from(lane)).copied()
    }

    fn host(&self, source: u16) -> String {
        wire::host(source_url(self.facts, source))
    }

    fn note(&mut self, line: String) {
        self.note = Some(match self.note.take() {
            Some(before) => format!("{before}; {line}"),
            None => line,
        });
    }

    /// This lane alone waits, or the whole attempt has failed.
    fn failed(mut self, lane: u16, from: u16, retry: &Retry) -> Step<State> {
        let failures = self.work.lanes[usize::from(lane)].failures.saturating_add(1);
        self.work.lanes[usize::from(lane)] = Lane { at: At::Paused, source: Some(from), failures };
        let hopeless = self.work.lanes.iter().all(|lane| !lane.is_busy() || lane.failures > 0);
        if hopeless {
            self.work.turn = self.work.turn.wrapping_add(1);
            let state = State::Working(Box::new(self.work));
            return step(state, Next::Retry(retry.clone()), self.note);
        }
        let others = self.work.load(from) - 1;
        let to_blame = failures.is_multiple_of(FAILURES_MAX);
        if others > 0 && (retry.throttled || to_blame) {
            return self.narrow(lane, from, others);
        }
        let is_mirror = self.work.sources[usize::from(from)].standing != Standing::Lead;
        if to_blame && is_mirror {
            return self.drop_source(lane, from, &retry.why);
        }
        self.effects.push(Effect::Pause { lane, attempts: failures - 1, retry: retry.clone() });
        self.settle()
    }

    /// A source bears no more than its other exchanges: common where one connection a client is allowed.
    fn narrow(mut self, lane: u16, from: u16, most: u16) -> Step<State> {
        self.work.sources[usize::from(from)].most = most;
        self.work.lanes[usize::from(lane)] = Lane::FRESH;
        if !self.work.narrowed {
            self.work.narrowed = true;
            self.note(format!("{} serves only some connections at once; fewer are used", self.host(from)));
        }
        self.settle()
    }

    /// Never asks this source again. The lane waits a moment: its answer's body is closed by that.
    fn drop_source(mut self, lane: u16, from: u16, why: &str) -> Step<State> {
        let source = &mut self.work.sources[usize::from(from)];
        if source.standing != Standing::Dropped {
            source.standing = Standing::Dropped;
            let why = wire::printable(why, 80);
            self.note(format!("{} is not used any more: {why}", self.host(from)));
        }
        self.work.lanes[usize::from(lane)].at = At::Paused;
        self.effects.push(Effect::Pause { lane, attempts: 0, retry: Retry::because(why) });
        self.settle()
    }

    /// A final no: of a mirror it is the mirror's end, of the lead the job's unless a mirror has the file.
    fn refused(self, lane: u16, from: u16, no: Next) -> Step<State> {
        let is_lead = self.work.sources[usize::from(from)].standing == Standing::Lead;
        let mirrored =
            self.work.sources.iter().any(|source| matches!(source.standing, Standing::Agreed { .. }));
        let why = match &no {
            Next::Fail(cause) => cause.to_string(),
            Next::Suspend(cause) => cause.to_string(),
            Next::Go(_) | Next::Retry(_) | Next::Done(_) => String::new(),
        };
        if !is_lead || mirrored {
            return self.drop_source(lane, from, &why);
        }
        step(State::Working(Box::new(self.work)), no, self.note)
    }

    /// Another file than before: all lanes are halted, and it starts over, so many times.
    fn over(self, why: String) -> Step<State> {
        let changed = self.work.tally.changed.saturating_add(1);
        if changed > CHANGED_MAX {
            let end = Next::Fail(FailCause::RemoteChanged(changed));
            return step(State::Working(Box::new(self.work)), end, self.note);
        }
        let tally = Tally { changed, ..self.work.tally };
        step(State::Asking { tally, turn: Turn::default() }, Next::Retry(Retry::because(why)), None)
    }

    /// The lead does no ranges: all lanes are halted, and it is asked for the whole from then on.
    fn one_stream(self, source: u16, why: &str) -> Step<State> {
        let tally = Tally { whole: true, ..self.work.tally };
        let state = State::Single { source, get: get::State::Asking { tally } };
        step(state, Next::Retry(Retry::because(format!("{why}; once more in one stream"))), None)
    }

    /// Puts idle lanes to work, and says what follows.
    fn settle(mut self) -> Step<State> {
        // A lane whose last bytes are durable has yet to say that they were the last.
        if self.work.is_whole() && self.work.lanes.iter().all(|lane| lane.chunk().is_none()) {
            return begin_trial(self.facts, self.work, self.note);
        }
        for lane in 0..u16::try_from(self.work.lanes.len()).unwrap_or(LANES_MAX) {
            if self.work.lanes[usize::from(lane)].at == At::Idle {
                let Some(chunk) = self.work.next_chunk() else { break };
                if let Some(source) = self.pick(self.work.lanes[usize::from(lane)]) {
                    self.ask(lane, chunk, source);
                }
            }
        }
        if !self.work.lanes.iter().any(|lane| lane.is_busy()) {
            return self.over("no source has this file any more".to_owned());
        }
        step(State::Working(Box::new(self.work)), Next::Go(self.effects), self.note)
    }

    /// The source for a lane: the one with the fewest exchanges that bears another, but the lane's own
    /// unless that has clearly more, or fails it: a connection is kept where it is.
    fn pick(&self, lane: Lane) -> Option<u16> {
        let count = u16::try_from(self.work.sources.len()).unwrap_or(u16::MAX);
        let mut free: Vec<(u16, u16)> = (0..count)
            .map(|nth| (nth + self.work.turn % count) % count)
            .map(|source| (source, self.work.load(source)))
            .filter(|(source, load)| *load < self.room(*source))
            .collect();
        let to_blame = lane.failures > 0 && lane.failures.is_multiple_of(FAILURES_MAX);
        if to_blame && free.len() > 1 {
            free.retain(|(source, _)| Some(*source) != lane.source);
        }
        // The first of equals.
        let (best, least) = free.iter().copied().min_by_key(|(_, load)| *load)?;
        let own = free.iter().find(|(source, _)| Some(*source) == lane.source);
        let stays = own.filter(|(_, load)| lane.failures > 0 || *load <= least + 1);
        Some(stays.map_or(best, |(source, _)| *source))
    }

    /// Exchanges that a source bears side by side. A mirror has to answer once before it gets more than one.
    fn room(&self, source: u16) -> u16 {
        let Source { standing, most } = self.work.sources[usize::from(source)];
        match standing {
            Standing::Lead | Standing::Agreed { .. } => most,
            Standing::Untried => most.min(1),
            Standing::Dropped => 0,
        }
    }

    fn ask(&mut self, lane: u16, chunk: u16, source: u16) {
        let rest = self.work.rest(chunk);
        let mut headers = HeaderMap::new();
        if let Ok(range) = HeaderValue::try_from(format!("bytes={}-{}", rest.start, rest.end - 1)) {
            headers.insert(RANGE, range);
        }
        let named = match self.work.sources[usize::from(source)].standing {
            Standing::Lead | Standing::Agreed { tagged: true, .. } => self.work.version.validator.as_ref(),
            Standing::Agreed { tagged: false, .. } | Standing::Untried | Standing::Dropped => None,
        };
        if let Some(condition) = named.and_then(|own| HeaderValue::from_str(own.as_str()).ok()) {
            headers.insert(IF_RANGE, condition);
        }
        let url = source_url(self.facts, source);
        self.effects.push(answer::request(lane, Method::GET, url, headers, Sink::Hold));
        let failures = self.work.lanes[usize::from(lane)].failures;
        self.work.lanes[usize::from(lane)] = Lane { at: At::Asked { chunk }, source: Some(source), failures };
    }
}
