//! Who runs next: pure, no clock of its own.
//!
//! A job is here while it is unfinished and not suspended: *ready* (in order of number, those with
//! remote sessions first), *waiting* for its retry time, or *running* in a slot. Staging copies are
//! budgeted here too: an upload that fits the budget, but not right now, stays ready and is passed
//! over; that is the throttle for big libraries.
//!
//! Invariant: a job is in at most one of the three. Times are monotonic: clock jumps move nothing.

pub mod retry;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::job::JobId;

/// Jobs with a remote session come before those that have not begun: what is half sent expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Has something to lose.
    Begun,
    /// Has not begun.
    New,
}

/// What an upload's staging copy would take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyNeed {
    /// Nothing (more).
    None,
    /// This many bytes of the budget.
    Bytes(u64),
}

/// Order and limits.
#[derive(Debug)]
pub struct Schedule {
    concurrent: usize,
    budget: u64,
    ready: BTreeSet<(Rank, JobId)>,
    waiting: BTreeSet<(Duration, JobId)>,
    place: BTreeMap<JobId, Place>,
    running: usize,
    copies: BTreeMap<JobId, u64>,
    copied: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Ready(Rank),
    Waiting(Duration),
    Running,
}

impl Schedule {
    /// `concurrent` jobs at most run at once; staging copies take `budget` bytes at most.
    pub fn new(concurrent: usize, budget: u64) -> Self {
        Self {
            concurrent: concurrent.max(1),
            budget,
            ready: BTreeSet::new(),
            waiting: BTreeSet::new(),
            place: BTreeMap::new(),
            running: 0,
            copies: BTreeMap::new(),
            copied: 0,
        }
    }

    /// The whole budget for staging copies, bytes.
    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// The job can run; it leaves whatever place it had.
    pub fn ready(&mut self, job: JobId, rank: Rank) {
        self.remove(job);
        self.ready.insert((rank, job));
        self.place.insert(job, Place::Ready(rank));
    }

    /// The job can run from `due` on (monotonic); it leaves whatever place it had.
    pub fn wait(&mut self, job: JobId, due: Duration) {
        self.remove(job);
        self.waiting.insert((due, job));
        self.place.insert(job, Place::Waiting(due));
    }

    /// The job is ended or suspended.
    pub fn remove(&mut self, job: JobId) {
        match self.place.remove(&job) {
            Some(Place::Ready(rank)) => {
                self.ready.remove(&(rank, job));
            }
            Some(Place::Waiting(due)) => {
                self.waiting.remove(&(due, job));
            }
            Some(Place::Running) => self.running -= 1,
            None => {}
        }
    }

    /// The job is at work already, whatever the limit: what it ends with was begun by its own transition.
    pub fn occupy(&mut self, job: JobId) {
        if !self.is_running(job) {
            self.remove(job);
            self.place.insert(job, Place::Running);
            self.running += 1;
        }
    }

    /// Whether the job holds a slot.
    pub fn is_running(&self, job: JobId) -> bool {
        self.place.get(&job) == Some(&Place::Running)
    }

    /// Reserves bytes of the staging budget for a job (its copy exists, or is being made); 0 frees.
    pub fn hold_copy(&mut self, job: JobId, bytes: u64) {
        let before = if bytes == 0 { self.copies.remove(&job) } else { self.copies.insert(job, bytes) };
        self.copied = self.copied - before.unwrap_or(0) + bytes;
    }

    /// When the next waiting job is due.
    pub fn next_due(&self) -> Option<Duration> {
        self.waiting.first().map(|&(due, _)| due)
    }

    /// Gives free slots to the next jobs. `need` tells what a job's staging copy would take; what is
    /// admitted has it reserved.
    pub fn admit(&mut self, now: Duration, need: impl Fn(JobId) -> CopyNeed) -> Vec<JobId> {
        while let Some(&(due, job)) = self.waiting.first() {
            if due > now {
                break;
            }
            self.ready(job, Rank::Begun);
        }
        let mut admitted = Vec::new();
        let mut passed_over = Vec::new();
        while self.running < self.concurrent {
            let Some((rank, job)) = self.ready.pop_first() else { break };
            let bytes = match need(job) {
                CopyNeed::None => 0,
                // More than the whole budget: alone is the best it can get.
                CopyNeed::Bytes(bytes) => bytes.min(self.budget),
            };
            if !self.copies.contains_key(&job) && bytes > self.budget.saturating_sub(self.copied) {
                passed_over.push((rank, job));
                continue;
            }
            if bytes > 0 && !self.copies.contains_key(&job) {
                self.hold_copy(job, bytes);
            }
            self.place.insert(job, Place::Running);
            self.running += 1;
            admitted.push(job);
        }
        self.ready.extend(passed_over);
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Duration = Duration::from_secs(100);

    fn ids(schedule: &mut Schedule) -> Vec<u64> {
        schedule.admit(NOW, |_| CopyNeed::None).into_iter().map(|job| job.0).collect()
    }

    #[test]
    fn begun_jobs_come_first_and_then_the_oldest() {
        let mut schedule = Schedule::new(3, 0);
        schedule.ready(JobId(1), Rank::New);
        schedule.ready(JobId(2), Rank::New);
        schedule.ready(JobId(3), Rank::New);
        schedule.ready(JobId(9), Rank::Begun);
        assert_eq!(ids(&mut schedule), [9, 1, 2]);
        assert_eq!(ids(&mut schedule), [0; 0]);
        schedule.remove(JobId(1));
        assert_eq!(ids(&mut schedule), [3]);
    }

    #[test]
    fn a_waiting_job_frees_its_slot_until_it_is_due() {
        let mut schedule = Schedule::new(1, 0);
        schedule.ready(JobId(1), Rank::New);
        schedule.ready(JobId(2), Rank::New);
        assert_eq!(ids(&mut schedule), [1]);
        schedule.wait(JobId(1), NOW + Duration::from_millis(1));
        assert_eq!(ids(&mut schedule), [2]);
        schedule.remove(JobId(2));
        assert_eq!(ids(&mut schedule), [0; 0]);
        assert_eq!(schedule.next_due(), Some(NOW + Duration::from_millis(1)));
        assert_eq!(schedule.admit(NOW + Duration::from_millis(1), |_| CopyNeed::None), [JobId(1)]);
    }

    #[test]
    fn a_job_at_work_is_not_admitted_a_second_time() {
        let mut schedule = Schedule::new(2, 0);
        schedule.ready(JobId(1), Rank::Begun);
        schedule.occupy(JobId(1));
        schedule.occupy(JobId(1));
        assert!(schedule.is_running(JobId(1)));
        assert_eq!(ids(&mut schedule), [0; 0]);
        schedule.remove(JobId(1));
        assert_eq!(schedule.running, 0);
    }

    #[test]
    fn a_copy_waits_for_the_budget_and_others_pass_it() {
        let mut schedule = Schedule::new(8, 100);
        let need = |job: JobId| if job.0 == 3 { CopyNeed::None } else { CopyNeed::Bytes(job.0 * 60) };
        for job in 1..=3 {
            schedule.ready(JobId(job), Rank::New);
        }
        assert_eq!(schedule.admit(NOW, need), [JobId(1), JobId(3)]);
        schedule.remove(JobId(1));
        assert_eq!(schedule.admit(NOW, need), [], "the copy outlives the slot");
        schedule.hold_copy(JobId(1), 0);
        assert_eq!(schedule.admit(NOW, need), [JobId(2)], "larger than the whole budget: alone");
    }

    proptest! {
        #[test]
        fn never_more_than_the_limits(
            concurrent in 1usize..5,
            budget in 0u64..100,
            steps in prop::collection::vec((0u64..12, 0u8..5, 0u64..60), 0..200),
        ) {
            let mut schedule = Schedule::new(concurrent, budget);
            for (job, action, value) in steps {
                let id = JobId(job);
                match action {
                    0 => schedule.ready(id, Rank::New),
                    1 => schedule.wait(id, Duration::from_secs(value)),
                    2 => schedule.remove(id),
                    3 => schedule.hold_copy(id, 0),
                    _ => {
                        schedule.admit(Duration::from_secs(value), |job| CopyNeed::Bytes(job.0 * 7));
                    }
                }
                prop_assert!(schedule.running <= concurrent);
                prop_assert!(schedule.copied <= budget);
                prop_assert_eq!(schedule.copied, schedule.copies.values().sum::<u64>());
                let running = schedule.place.values().filter(|place| **place == Place::Running).count();
                prop_assert_eq!(running, schedule.running);
                prop_assert_eq!(
                    schedule.place.len(),
                    schedule.ready.len() + schedule.waiting.len() + schedule.running
                );
            }
        }
    }
}
