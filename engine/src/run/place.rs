//! Where a job stands in the schedule, by what its records say; deadlines, and the way to its host.
//!
//! Invariant: monotonic time decides about waits, so that clocks which are set move nothing; wall time decides
//! about what people have named in it (not-before, deadline), and is looked at again and again.

use std::time::Duration;

use super::index::{Brief, Hold, Stand};
use super::perform::remaining_ms;
use super::{ROUND_MAX, Round, Runner, WAIT_MAX_MS, WALL_LOOK_MS};
use crate::job::step::Input;
use crate::job::{Direction, Job, JobId, Phase};
use crate::ports::WallMs;
use crate::protocol::wire;
use crate::schedule::Wait;

impl Runner {
    /// What a step has shown of the way to the job's host.
    pub(super) fn note_network(&mut self, id: JobId, offline_before: u32, answered: bool) {
        let (Some(job), Some(brief)) = (self.jobs.map.get(&id), self.index.get(id)) else { return };
        if job.core.offline > offline_before {
            let now = self.ports().clock.now();
            let span_ms = job.core.retry_at.map_or(0, |at| remaining_ms(at, now, WAIT_MAX_MS));
            let due = self.ports().clock.elapsed() + Duration::from_millis(span_ms);
            self.schedule.host_down(brief.host, due);
        } else if answered {
            self.schedule.host_up(brief.host);
        }
    }

    /// Gives a job its place in the schedule, by its state.
    pub(super) fn place(&mut self, id: JobId) {
        self.place_at(id, false);
    }

    /// `waited`: it has waited for its next attempt as long as it was told, whatever wall clocks say now.
    pub(super) fn place_at(&mut self, id: JobId, waited: bool) {
        let Some(brief) = self.index.get(id).copied() else {
            self.forget(id);
            return;
        };
        let is_staging = self.jobs.map.get(&id).is_some_and(|job| job.core.phase == Phase::Staging);
        if !is_staging || brief.hold.is_some() {
            self.schedule.hold_copy(id, brief.copied);
        }
        self.note_deadline(id, brief.deadline);
        if brief.hold == Some(Hold::Clears) {
            self.held.insert(id);
        } else {
            self.held.remove(&id);
        }
        let admissible = self.limits.admit || brief.stand == Stand::Ending;
        if brief.hold.is_some() || !admissible {
            self.schedule.remove(id);
            if brief.hold == Some(Hold::Clears) && self.limits.admit {
                self.wait_for_space(id);
            }
        } else if let Some(due) = self.not_yet(&brief, waited) {
            self.schedule.wait(id, due);
        } else if !self.schedule.is_running(id) || brief.stand == Stand::New && !is_staging {
            self.schedule.ready(id, brief.wish());
        } else if brief.stand == Stand::Staged {
            self.follow_up(id, Input::Admitted { restarted: false });
        }
    }

    /// The job has ended.
    fn forget(&mut self, id: JobId) {
        self.schedule.remove(id);
        self.schedule.hold_copy(id, 0);
        self.note_deadline(id, None);
        self.held.remove(&id);
        self.space_spans.remove(&id);
        self.space_due.remove(&id);
    }

    /// When a job may go on that may not yet: monotonic, and soon enough that a clock which is set is noticed.
    fn not_yet(&self, brief: &Brief, waited: bool) -> Option<Duration> {
        let (wall, now) = (self.ports().clock.now(), self.ports().clock.elapsed());
        if let Some(at) = brief.retry_at.filter(|_| !waited) {
            return Some(now + Duration::from_millis(remaining_ms(at, wall, WAIT_MAX_MS)));
        }
        let at =
            brief.not_before.filter(|at| *at > wall && matches!(brief.stand, Stand::New | Stand::Staged))?;
        Some(now + Duration::from_millis(remaining_ms(at, wall, WALL_LOOK_MS)))
    }

    fn note_deadline(&mut self, id: JobId, deadline: Option<WallMs>) {
        match deadline {
            None => {
                if let Some((at, _)) = self.deadline_due.remove(&id) {
                    self.deadlines.remove(&(at, id));
                }
            }
            Some(at) => {
                if !self.deadline_due.contains_key(&id) {
                    let left = Duration::from_millis(at.0.saturating_sub(self.ports().clock.now().0));
                    let due = self.ports().clock.elapsed().saturating_add(left);
                    self.deadline_due.insert(id, (at, due));
                    self.deadlines.insert((at, id));
                }
            }
        }
    }

    /// When to look at the deadlines again: wall clocks are set, so never far ahead.
    pub(super) fn next_deadline(&self, now: Duration) -> Option<Duration> {
        let (at, id) = self.deadlines.first()?;
        let due = self.deadline_due.get(id).map_or(now, |(_, due)| *due);
        let left_ms = remaining_ms(*at, self.ports().clock.now(), WALL_LOOK_MS);
        let left = due.saturating_sub(now).min(Duration::from_millis(WALL_LOOK_MS));
        Some(now + left.max(Duration::from_millis(left_ms)))
    }

    /// Fails jobs whose deadline is past, by both clocks: one that was set ahead proves nothing.
    pub(super) async fn pass_deadlines(&mut self, round: &mut Round) -> Result<(), String> {
        let (wall, now) = (self.ports().clock.now(), self.ports().clock.elapsed());
        let past = self.deadlines.iter().take_while(|(at, _)| *at <= wall);
        let past = past.filter(|(_, id)| self.deadline_due.get(id).is_none_or(|(_, due)| *due <= now));
        let past: Vec<JobId> = past.take(ROUND_MAX).map(|(_, id)| *id).collect();
        self.ensure(past.iter().copied()).await?;
        for id in past {
            self.note_deadline(id, None);
            self.step(id, Input::DeadlinePassed, round);
        }
        Ok(())
    }
}

/// What a job waits for, in words.
pub(super) fn word(wait: Wait, job: &Job) -> String {
    match wait {
        Wait::Slot => "a free slot",
        Wait::Host => "a free slot of its host",
        Wait::Direction if job.spec.direction() == Direction::Upload => "a free slot for uploads",
        Wait::Direction => "a free slot for downloads",
        Wait::Copy => "room for its staging copy",
        Wait::Space => "space on the disk",
        Wait::Network => "the network",
        Wait::Time if job.core.offline > 0 => "the network",
        Wait::Time if job.core.retry_at.is_some() => "its next attempt",
        Wait::Time => "its time",
    }
    .to_owned()
}

/// Whether an answer shows that there is a way to the job's own host: what a mirror says, shows nothing of that.
pub(super) fn is_of_host(job: &Job, url: &str) -> bool {
    let host = wire::host(url);
    host == wire::host(&job.spec.url) || job.spec.mirrors.iter().all(|mirror| wire::host(mirror) != host)
}
