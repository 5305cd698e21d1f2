//! Who is on the wire, and whether they may be: limits of jobs, of rates, of times; ways that are away.
//!
//! A job's exchange counts from when it has reached its server until its answer's body is dropped. What frees
//! something at the server (DELETE) may run above the limits: its own transition has begun it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use longhaul::WallMs;

/// How many jobs may be on the wire, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub concurrent: usize,
    pub per_host: Option<usize>,
    pub uploads: Option<usize>,
    pub downloads: Option<usize>,
    pub rate: Option<u64>,
}

/// What counts of a planned job.
#[derive(Clone, Debug)]
pub struct Facts {
    pub host: &'static str,
    pub upload: bool,
    pub lanes: u64,
    pub rate: Option<u64>,
    pub not_before: Option<WallMs>,
    pub secret: Option<String>,
    /// It may end while it holds still.
    pub has_deadline: bool,
}

/// What a dead host's first moments may see: those that were on their way when it went.
const GRACE: Duration = Duration::from_secs(5);
/// A bucket's burst, as `schedule::limit` has it.
const BURST_MS: u64 = 250;
/// Bytes of an exchange that are no file: the form around it.
const EXTRA: u64 = 4096;

/// A span in which a job has something on the wire.
#[derive(Clone, Copy, Debug, Default)]
struct Period {
    from: Duration,
    bytes: u64,
    exchanges: u64,
}

impl Period {
    fn allowed(&self, rate: u64, piece: u64, now: Duration) -> u64 {
        let span_ms = (now.saturating_sub(self.from).as_millis() as u64).saturating_add(BURST_MS + 1);
        let whole = u128::from(rate) * u128::from(span_ms) / 1000;
        (whole as u64).saturating_add(self.exchanges * (piece + EXTRA))
    }
}

#[derive(Clone, Copy, Debug)]
struct Open {
    job: u64,
    counts: bool,
    at: Duration,
}

pub struct Flight {
    limits: Limits,
    jobs: BTreeMap<u64, Facts>,
    open: BTreeMap<u64, Open>,
    next: u64,
    /// Bytes of a piece on the wire.
    piece: u64,
    periods: BTreeMap<u64, Period>,
    total: Period,
    /// Hosts that there is no way to, and since when this process has been told.
    away: BTreeMap<&'static str, Option<Duration>>,
    /// Requests in vain, by job, and since when.
    in_vain: BTreeMap<u64, (Duration, u64)>,
    begun: BTreeSet<u64>,
    /// Requests that had a way, by job.
    pub asked: BTreeMap<u64, u64>,
    /// The most jobs at once, of those that count.
    pub most: usize,
}

impl Flight {
    pub fn new() -> Self {
        let limits = Limits { concurrent: 0, per_host: None, uploads: None, downloads: None, rate: None };
        Self {
            limits,
            jobs: BTreeMap::new(),
            open: BTreeMap::new(),
            next: 0,
            piece: 0,
            periods: BTreeMap::new(),
            total: Period::default(),
            away: BTreeMap::new(),
            in_vain: BTreeMap::new(),
            begun: BTreeSet::new(),
            asked: BTreeMap::new(),
            most: 0,
        }
    }

    pub fn plan(&mut self, limits: Limits, piece: usize, jobs: BTreeMap<u64, Facts>) {
        (self.limits, self.piece, self.jobs) = (limits, piece as u64, jobs);
    }

    /// A process begins: nothing of the one before is on the wire.
    pub fn born(&mut self, now: Duration) {
        self.open.clear();
        self.periods.clear();
        self.in_vain.clear();
        self.away.values_mut().for_each(|told| *told = None);
        self.total = Period { from: now, ..Period::default() };
    }

    pub fn facts(&self, job: u64) -> Option<&Facts> {
        self.jobs.get(&job)
    }

    pub fn goes_away(&mut self, host: &'static str) {
        self.away.entry(host).or_default();
    }

    pub fn all_back(&mut self) {
        self.away.clear();
        self.in_vain.clear();
    }

    /// A request has come back in vain. Asking again and again is wrong.
    pub fn in_vain(&mut self, job: u64, host: &str, now: Duration) -> Option<String> {
        if let Some(told) = self.away.get_mut(host) {
            told.get_or_insert(now);
        }
        let (since, count) = self.in_vain.entry(job).or_insert((now, 0));
        *count += 1;
        let lanes = self.jobs.get(&job).map_or(1, |facts| facts.lanes);
        let most = lanes * (20 + now.saturating_sub(*since).as_secs() / 3);
        (*count > most).then(|| format!("job {job} has asked in vain {count} times since {since:?}"))
    }

    /// The job is tried again, without the time that it had.
    pub fn lifts(&mut self, job: u64) {
        self.begun.insert(job);
    }

    pub fn is_away(&self, host: &str) -> bool {
        self.away.contains_key(host)
    }

    /// An exchange has reached the way to its server.
    pub fn start(
        &mut self,
        job: u64,
        frees: bool,
        host: &str,
        now: Duration,
        peak: WallMs,
    ) -> (u64, Vec<String>) {
        self.next += 1;
        let mut wrongs = Vec::new();
        if !frees && let Some(facts) = self.jobs.get(&job) {
            if self.begun.insert(job) && facts.not_before.is_some_and(|at| at > peak) {
                wrongs.push(format!("job {job} begins before its time, {:?}, at {peak:?}", facts.not_before));
            }
            if let Some(since) = self.away.get(host).copied().flatten()
                && host == facts.host
                && now > since + GRACE
            {
                let others = self.open.values().filter(|open| {
                    let same = self.jobs.get(&open.job).is_some_and(|other| other.host == host);
                    open.job != job && open.counts && same && open.at > since + GRACE
                });
                if let Some(other) = others.map(|open| open.job).next() {
                    wrongs.push(format!("jobs {other} and {job} both look whether {host} is back"));
                }
            }
        }
        if !self.is_away(host) {
            *self.asked.entry(job).or_default() += 1;
        }
        self.open.insert(self.next, Open { job, counts: !frees, at: now });
        if !frees {
            wrongs.extend(self.crowded());
        }
        let is_alone = self.open.values().filter(|open| open.job == job).count() == 1;
        let period = self.periods.entry(job).or_default();
        if is_alone {
            *period = Period { from: now, ..Period::default() };
        }
        period.exchanges += 1;
        self.total.exchanges += 1;
        (self.next, wrongs)
    }

    pub fn end(&mut self, exchange: u64) {
        self.open.remove(&exchange);
    }

    fn crowded(&mut self) -> Option<String> {
        let jobs: BTreeSet<u64> =
            self.open.values().filter(|open| open.counts).map(|open| open.job).collect();
        self.most = self.most.max(jobs.len());
        let known: Vec<&Facts> = jobs.iter().filter_map(|job| self.jobs.get(job)).collect();
        let uploads = known.iter().filter(|facts| facts.upload).count();
        let busiest = known
            .iter()
            .map(|one| (known.iter().filter(|other| other.host == one.host).count(), one.host))
            .max()
            .unwrap_or((0, ""));
        let most = |limit: Option<usize>| limit.unwrap_or(usize::MAX);
        let Limits { concurrent, per_host, uploads: up, downloads: down, .. } = self.limits;
        let wrong = if jobs.len() > concurrent {
            format!("{} of {concurrent}", jobs.len())
        } else if busiest.0 > most(per_host) {
            format!("{} of {per_host:?} of {}", busiest.0, busiest.1)
        } else if uploads > most(up) {
            format!("{uploads} uploads of {up:?}")
        } else if known.len() - uploads > most(down) {
            format!("{} downloads of {down:?}", known.len() - uploads)
        } else {
            return None;
        };
        Some(format!("more jobs at work than may be: {wrong} ({jobs:?})"))
    }

    /// Bytes of a file have moved.
    pub fn moved(&mut self, job: u64, bytes: u64, now: Duration) -> Option<String> {
        let rate = self.jobs.get(&job).and_then(|facts| facts.rate);
        self.total.bytes += bytes;
        let period = self.periods.entry(job).or_default();
        period.bytes += bytes;
        // A piece of an upload is handed on whole, of at least this.
        let piece = |rate: u64| self.piece.max(rate / 10).max(1024);
        if let Some(rate) = rate.filter(|rate| period.bytes > period.allowed(*rate, piece(*rate), now)) {
            return Some(format!(
                "job {job} has moved {} bytes at {rate} a second since {:?}",
                period.bytes, period.from
            ));
        }
        let total = self.total;
        let rate = self.limits.rate.filter(|rate| total.bytes > total.allowed(*rate, piece(*rate), now))?;
        Some(format!("all jobs have moved {} bytes at {rate} a second since {:?}", total.bytes, total.from))
    }
}
