//! A crowd of jobs by number: who may still move, who holds still, how the others ended. Pure.
//!
//! ```text
//!            ┌───────── resumed ─────────┐
//!            ▼                           │
//! news ──▶ open ──suspended for good──▶ held          Settled: nobody is open
//!            └──────────── ended ◀───────┘
//! ```
//!
//! Invariant: a number is in one place; once ended it never comes back, whatever late news say of it.
//! Memory: a number for each unfinished job, never a view.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use longhaul::control::Counts;
use longhaul::{JobId, JobState, JobView, WallMs};

use crate::exit::Exit;
use crate::meter::Meter;
use crate::report;
use crate::text;

/// What a view of a job told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Nothing, or only of bytes.
    Nothing,
    /// It completed.
    Completed,
    /// It ended otherwise.
    Failed,
    /// It holds still until somebody acts.
    Held,
}

/// See the module.
#[derive(Debug)]
pub struct Tally {
    open: BTreeSet<JobId>,
    /// With when they came to hold still.
    held: BTreeMap<JobId, WallMs>,
    /// Bytes of those that move.
    moving: BTreeMap<JobId, u64>,
    all: usize,
    completed: usize,
    failed: usize,
    lost: usize,
    /// Of those that ended.
    bytes: u64,
    exit: Exit,
}

impl Tally {
    /// Nothing is known of them yet.
    pub fn new(ids: impl IntoIterator<Item = JobId>) -> Self {
        let open: BTreeSet<_> = ids.into_iter().collect();
        Self {
            all: open.len(),
            open,
            held: BTreeMap::new(),
            moving: BTreeMap::new(),
            completed: 0,
            failed: 0,
            lost: 0,
            bytes: 0,
            exit: Exit::Done,
        }
    }

    /// Whether waiting makes no more sense.
    pub fn is_settled(&self) -> bool {
        self.open.is_empty()
    }

    /// Jobs that have not ended.
    pub fn unfinished(&self) -> usize {
        self.open.len() + self.held.len()
    }

    /// Jobs that hold still until somebody acts.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// What it all comes to.
    pub fn exit(&self) -> Exit {
        if self.unfinished() > 0 { self.exit.and(Exit::Suspended) } else { self.exit }
    }

    /// Takes in a job as it is, or was when the news was made.
    pub fn see(&mut self, view: &JobView) -> News {
        let id = view.id;
        let held_since = self.held.get(&id).copied();
        if held_since.is_none() && !self.open.contains(&id) {
            return News::Nothing; // another's, or ended
        }
        if held_since.is_some_and(|since| view.changed_at < since) {
            return News::Nothing; // it waited in a queue while a list told more
        }
        if view.state.is_terminal() {
            return self.end(view);
        }
        if report::is_settled(view) {
            self.open.remove(&id);
            self.moving.remove(&id);
            let is_new = self.held.insert(id, view.changed_at).is_none();
            return if is_new { News::Held } else { News::Nothing };
        }
        if self.held.remove(&id).is_some() {
            self.open.insert(id);
        }
        if view.state == JobState::Sending {
            self.moving.insert(id, view.done);
        } else {
            self.moving.remove(&id);
        }
        News::Nothing
    }

    fn end(&mut self, view: &JobView) -> News {
        self.forget(view.id);
        self.bytes = self.bytes.saturating_add(view.done);
        self.exit = self.exit.and(report::ending(view));
        if view.state == JobState::Completed {
            self.completed += 1;
            News::Completed
        } else {
            self.failed += 1;
            News::Failed
        }
    }

    fn forget(&mut self, id: JobId) {
        self.open.remove(&id);
        self.held.remove(&id);
        self.moving.remove(&id);
    }

    /// Those that a list of all unfinished jobs did not have: they ended, or were removed.
    pub fn absent(&self, listed: &BTreeSet<JobId>) -> Vec<JobId> {
        self.ids().filter(|id| !listed.contains(id)).collect()
    }

    /// These are in no list: nobody can say how they ended.
    pub fn lose(&mut self, ids: &[JobId]) {
        for &id in ids {
            self.forget(id);
            self.lost += 1;
            self.exit = self.exit.and(Exit::Unknown);
        }
    }

    /// Whether the group's counts are what is known already; `others` of its unfinished jobs are not ours.
    pub fn agrees(&self, counts: &Counts, others: u64) -> bool {
        counts.unfinished() == self.unfinished() as u64 + others && counts.suspended >= self.held.len() as u64
    }

    /// The unfinished ones.
    pub fn ids(&self) -> impl Iterator<Item = JobId> + '_ {
        self.open.iter().chain(self.held.keys()).copied()
    }

    /// Bytes that have moved, as far as it is known.
    pub fn done(&self) -> u64 {
        self.moving.values().fold(self.bytes, |sum, done| sum.saturating_add(*done))
    }

    /// `12,345 of 100,000 done, 3 failed, 2.1 GiB, 45.0 MiB/s, ~2 h 05 min left`
    pub fn line(&self, meter: &Meter, elapsed: Duration) -> String {
        let ended = self.all - self.unfinished();
        let mut parts = vec![format!("{} of {} done", grouped(self.completed), grouped(self.all))];
        parts.extend(self.troubles());
        parts.push(text::bytes(self.done()));
        if let Some(rate) = meter.rate() {
            parts.push(format!("{}/s", text::bytes(rate)));
        }
        // By the jobs that ended here, not by bytes: the sizes of those to come are not known.
        if ended > 0 && !self.is_settled() {
            let left = elapsed.as_secs_f64() * self.open.len() as f64 / ended as f64;
            let left = Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX);
            parts.push(format!("~{} left", text::span(left)));
        }
        parts.join(", ")
    }

    /// `100,000 jobs: 99,997 completed, 3 failed (2.1 GiB)`
    pub fn result(&self) -> String {
        let mut parts = vec![format!("{} completed", grouped(self.completed))];
        parts.extend(self.troubles());
        let unfinished = self.open.len();
        if unfinished > 0 {
            parts.push(format!("{} unfinished", grouped(unfinished)));
        }
        format!("{} jobs: {} ({})", grouped(self.all), parts.join(", "), text::bytes(self.done()))
    }

    fn troubles(&self) -> impl Iterator<Item = String> {
        let all = [(self.failed, "failed"), (self.held.len(), "suspended"), (self.lost, "unknown")];
        all.into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, word)| format!("{} {word}", grouped(count)))
    }
}

/// `100,000`
pub fn grouped(count: usize) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::job;

    fn view(id: u64, state: JobState, cause: Option<&str>) -> JobView {
        JobView { id: JobId(id), ..job(state, cause.map(|kind| (kind, ""))) }
    }

    fn three() -> Tally {
        Tally::new([1, 2, 3].map(JobId))
    }

    #[test]
    fn it_is_settled_when_nobody_can_move() {
        let mut tally = three();
        assert_eq!(tally.see(&view(1, JobState::Completed, None)), News::Completed);
        assert_eq!(tally.see(&view(2, JobState::Failed, Some("rejected"))), News::Failed);
        assert_eq!(tally.see(&view(3, JobState::Suspended, Some("no-space"))), News::Nothing);
        assert!(!tally.is_settled(), "no-space clears by itself");
        assert_eq!(tally.see(&view(3, JobState::Suspended, Some("paused"))), News::Held);
        assert_eq!(tally.see(&view(3, JobState::Suspended, Some("paused"))), News::Nothing);
        assert!(tally.is_settled());
        assert_eq!((tally.unfinished(), tally.held(), tally.exit()), (1, 1, Exit::Failed));
    }

    #[test]
    fn exits_are_those_of_single_jobs() {
        let mut tally = three();
        assert_eq!(tally.exit(), Exit::Suspended);
        for id in [1, 2] {
            tally.see(&view(id, JobState::Completed, None));
        }
        tally.see(&view(3, JobState::Failed, Some("outcome-unknown")));
        assert_eq!(tally.exit(), Exit::Unknown);
        let mut tally = Tally::new([JobId(1)]);
        tally.see(&view(1, JobState::Completed, None));
        assert_eq!(tally.exit(), Exit::Done);
        let mut tally = Tally::new([JobId(1)]);
        tally.lose(&[JobId(1)]);
        assert_eq!((tally.exit(), tally.is_settled()), (Exit::Unknown, true));
    }

    #[test]
    fn late_news_change_nothing() {
        let mut tally = three();
        tally.see(&view(1, JobState::Completed, None));
        assert_eq!(tally.see(&view(1, JobState::Sending, None)), News::Nothing);
        assert_eq!(tally.see(&view(1, JobState::Failed, Some("x"))), News::Nothing);
        let mut paused = view(2, JobState::Suspended, Some("paused"));
        paused.changed_at = WallMs(9);
        tally.see(&paused);
        tally.see(&JobView { changed_at: WallMs(8), ..view(2, JobState::Sending, None) });
        assert_eq!(tally.held(), 1, "it was moving before it was paused");
        tally.see(&JobView { changed_at: WallMs(10), ..view(2, JobState::Sending, None) });
        assert_eq!(tally.held(), 0);
        assert_eq!(tally.see(&view(77, JobState::Failed, Some("x"))), News::Nothing);
        assert_eq!(tally.unfinished(), 2);
    }

    #[test]
    fn what_was_missed_is_found_by_what_is_absent() {
        let mut tally = three();
        let counts = |unfinished| Counts { sending: unfinished, ..Counts::default() };
        assert!(tally.agrees(&counts(3), 0));
        assert!(!tally.agrees(&counts(2), 0));
        assert!(tally.agrees(&counts(7), 4), "four of the group are another command's");
        let listed = BTreeSet::from([JobId(2), JobId(9)]);
        assert_eq!(tally.absent(&listed), [JobId(1), JobId(3)]);
        tally.see(&view(1, JobState::Completed, None));
        tally.lose(&[JobId(3)]);
        assert_eq!(tally.ids().collect::<Vec<_>>(), [JobId(2)]);
        tally.see(&view(2, JobState::Suspended, Some("paused")));
        assert!(!tally.agrees(&counts(1), 0), "it was resumed meanwhile");
    }

    #[test]
    fn one_line_tells_it_all() {
        let mut tally = Tally::new((0..100_000).map(JobId));
        let sized = |view: JobView, done| JobView { done, ..view };
        for id in 0..12_345 {
            tally.see(&sized(view(id, JobState::Completed, None), 1 << 10));
        }
        tally.see(&sized(view(20_000, JobState::Failed, Some("rejected")), 0));
        tally.see(&sized(view(20_001, JobState::Sending, None), 1 << 20));
        tally.see(&view(20_002, JobState::Suspended, Some("paused")));
        let mut meter = Meter::default();
        assert!(
            tally
                .line(&meter, Duration::ZERO)
                .starts_with("12,345 of 100,000 done, 1 failed, 1 suspended, 13.0 MiB")
        );
        meter.sample(Duration::ZERO, 0);
        meter.sample(Duration::from_secs(1), 2 << 20);
        let line = tally.line(&meter, Duration::from_secs(3600));
        assert!(line.ends_with("13.0 MiB, 2.0 MiB/s, ~7 h 05 min left"), "{line}");
        assert_eq!(
            tally.result(),
            "100,000 jobs: 12,345 completed, 1 failed, 1 suspended, 87,653 unfinished (13.0 MiB)"
        );
    }

    #[test]
    fn thousands_are_set_apart() {
        for (count, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(count), text);
        }
    }
}
