//! What people ask of a session, and what happens to the machine meanwhile: the acts of a scenario.

use std::time::Duration;

use longhaul::control::{Acceptance, Request, Response, Selection};
use longhaul::{JobState, Session, SubmitError};

use super::audit;
use super::disk::{EACCES, ENODEV, ENOENT, EROFS};
use super::life::Sim;
use super::oracle::{Stage, planned};
use super::scenario::{Act, BATCH, HOSTS, Way};
use super::user;
use super::world::lock;

impl Sim {
    pub async fn perform(&mut self, session: &Session, act: Act, job: u64) {
        let world = &self.world;
        world.note(format_args!("-- {act:?} {job}"));
        match act {
            Act::Submit => self.submit(session, job).await,
            Act::SubmitMany => self.submit_many(session, job).await,
            Act::PauseAll | Act::ResumeAll | Act::CancelSome | Act::RetryAll | Act::RemoveEnded => {
                self.ask_many(session, act, job).await;
            }
            Act::Audit => self.audit(session).await,
            Act::Jump => world.jumps(),
            Act::Leap => world.leaps(Duration::from_secs(job)),
            Act::HostAway => {
                let away = |(at, _): &(usize, &&str)| *at as u64 == job || job >= HOSTS.len() as u64;
                for (_, host) in HOSTS.iter().enumerate().filter(away) {
                    lock(&world.flight).goes_away(host);
                }
            }
            Act::HostsBack => lock(&world.flight).all_back(),
            Act::Lock => {
                let dir = if job < 2 { "/dst" } else { "/state/stage" };
                let errno = if job.is_multiple_of(2) { EACCES } else { EROFS };
                lock(&world.fs).locked.insert(dir.into(), errno);
            }
            Act::Unlock => lock(&world.fs).locked.clear(),
            Act::SourceAway => {
                lock(&world.fs).away = Some(if job.is_multiple_of(2) { ENOENT } else { ENODEV });
            }
            Act::SourceBack => lock(&world.fs).away = None,
            Act::Suspend | Act::Resume | Act::Cancel => self.ask(session, act, job).await,
            Act::WriteSource
            | Act::TruncateSource
            | Act::DeleteSource
            | Act::Replace
            | Act::TakeDestination => {
                self.meddle(act, job);
            }
            Act::Squeeze => {
                let spare = world.rng(|rng| rng.pick(&[0, 1000, 100_000]));
                let mut fs = lock(&world.fs);
                fs.capacity = fs.capacity.saturating_sub(fs.free()) + spare;
            }
            Act::Relax => lock(&world.fs).capacity = 1 << 40,
            Act::TruncatePart => user::damage_part(world, false),
            Act::DeletePart => user::damage_part(world, true),
            Act::Shutdown => {}
        }
    }

    fn meddle(&self, act: Act, job: u64) {
        let world = &self.world;
        match (&self.scenario.plan(job).way, act) {
            (Way::Up { source, .. }, Act::WriteSource) => user::write_source(world, source, world.wall_ns()),
            (Way::Up { source, .. }, Act::TruncateSource) => user::truncate_source(world, source),
            (Way::Up { source, .. }, Act::DeleteSource) => user::delete_source(world, source),
            (Way::Down { .. }, Act::Replace) => {
                let now = world.now();
                if let Some(remote) = lock(&world.shelf).remotes.get_mut(&job) {
                    world.rng(|rng| remote.replace(rng, now));
                }
            }
            (Way::Down { to, overwrite: false, .. }, Act::TakeDestination) => {
                user::take_destination(world, to);
            }
            _ => return,
        }
        if let Some(fault) = act.fault() {
            world.count(fault);
        }
    }

    /// Whatever people and weather have done is put right.
    pub fn clear_up(&self) {
        let mut fs = lock(&self.world.fs);
        fs.capacity = 1 << 40;
        fs.locked.clear();
        fs.away = None;
        drop(fs);
        lock(&self.world.flight).all_back();
    }

    async fn submit(&self, session: &Session, job: u64) {
        let world = &self.world;
        if !self.is_to_submit(job) {
            return;
        }
        lock(&self.oracle).asks(world, job);
        let answer = session.submit(self.scenario.plan(job).submission()).await;
        match answer {
            Ok(handle) => lock(&self.oracle).accepted(world, job, handle.id()),
            Err(SubmitError::Closed(_)) => {}
            Err(_) if !world.is_alive(self.life) => {}
            Err(error) => self.refused(job, error.kind(), &error.to_string()),
        }
    }

    /// A job that is there already is only submitted again if its key tells so.
    fn is_to_submit(&self, job: u64) -> bool {
        let oracle = lock(&self.oracle);
        let Some(known) = oracle.known.get(&job) else { return false };
        match known.stage {
            Stage::Unsent | Stage::Asked => true,
            Stage::Accepted(_) => known.plan.wishes.key.is_some() && !oracle.forgets,
            Stage::Refused | Stage::Spoilt | Stage::Removed => false,
        }
    }

    fn refused(&self, job: u64, kind: &str, why: &str) {
        let world = &self.world;
        world.note(format_args!("refused ({kind}): {why}"));
        world.tally(|tally| *tally.ends.entry(format!("refused at submit ({kind})")).or_default() += 1);
        if let Some(known) = lock(&self.oracle).known.get_mut(&job) {
            // A source that cannot be looked at says nothing of a job that is there.
            if !matches!(known.stage, Stage::Accepted(_)) {
                known.stage = if kind == "secrets" { Stage::Spoilt } else { Stage::Refused };
            }
        }
    }

    async fn submit_many(&self, session: &Session, first: u64) {
        let world = &self.world;
        let jobs = first..(first + BATCH).min(self.scenario.plans.len() as u64 + 1);
        let jobs: Vec<u64> = jobs.filter(|job| self.is_to_submit(*job)).collect();
        for job in &jobs {
            lock(&self.oracle).asks(world, *job);
        }
        let submissions = jobs.iter().map(|job| self.scenario.plan(*job).submission()).collect();
        let answers = session.submit_all(submissions).await;
        for (job, answer) in jobs.into_iter().zip(answers) {
            match answer {
                Acceptance::Accepted { id, existing } => {
                    if existing {
                        world.tally(|tally| tally.see("submitted again by its key"));
                    }
                    lock(&self.oracle).accepted(world, job, id);
                }
                Acceptance::Refused { kind, .. } if kind == "journal" => {}
                Acceptance::Refused { .. } if !world.is_alive(self.life) => {}
                Acceptance::Refused { kind, text } => self.refused(job, &kind, &text),
                _ => {}
            }
        }
    }

    async fn ask_many(&self, session: &Session, act: Act, chance: u64) {
        let world = &self.world;
        let jobs = match chance {
            0..=3 => Selection::all(),
            4..=7 => Selection::group("even"),
            _ => Selection::group("odd"),
        };
        let request = match act {
            Act::PauseAll => Request::Suspend { jobs },
            Act::ResumeAll => Request::Resume { jobs },
            Act::RetryAll => Request::Retry { jobs },
            Act::RemoveEnded => Request::Remove { jobs },
            _ => Request::Cancel { jobs: Selection { ids: Some(self.some_ids(chance)), ..Selection::all() } },
        };
        for known in lock(&self.oracle).known.values_mut() {
            let fits = chance < 4 || known.plan.wishes.group == Some(if chance < 8 { "even" } else { "odd" });
            match act {
                Act::ResumeAll if fits => known.resumes += 1,
                Act::RemoveEnded if fits => known.removing = true,
                _ => {}
            }
        }
        if matches!(act, Act::ResumeAll | Act::RetryAll | Act::CancelSome) {
            self.scenario.plans.iter().for_each(|plan| world.let_go(plan.job));
        }
        if act == Act::RetryAll {
            lock(&self.oracle).retries(world);
        }
        if let Request::Cancel { jobs } = &request {
            self.each_of(jobs.ids.as_deref().unwrap_or_default(), |known| known.cancel_asked = true);
        }
        let Response::Changed { changed, jobs, .. } = session.call(request).await else { return };
        world.note(format_args!("{act:?} has changed {changed} jobs"));
        world.tally(|tally| tally.see(format!("{act:?} of jobs")));
        let ids: Vec<longhaul::JobId> = jobs.iter().map(|view| view.id).collect();
        if changed != ids.len() as u64 && world.is_alive(self.life) && !world.is_poisoned() {
            world.violate(format!("{act:?} has changed {changed} jobs, and tells of {}", ids.len()));
        }
        match act {
            Act::CancelSome => self.each_of(&ids, |known| known.cancel_answered = true),
            Act::RemoveEnded => lock(&self.oracle).removed(world, &jobs),
            Act::RetryAll => {
                for view in &jobs {
                    lock(&self.oracle).seen(world, view);
                }
                self.each_of(&ids, |known| known.answered = true);
            }
            _ => {}
        }
        for view in jobs.iter().filter(|_| act == Act::PauseAll) {
            if view.state == JobState::Suspended {
                world.hold(planned(view));
            } else {
                world.violate(format!("job {} was suspended, and is {}", view.id, view.state));
            }
        }
    }

    fn each_of(&self, ids: &[longhaul::JobId], change: impl Fn(&mut super::oracle::Known)) {
        for known in lock(&self.oracle).known.values_mut() {
            if let Stage::Accepted(id) = known.stage
                && ids.contains(&id)
            {
                change(known);
            }
        }
    }

    /// About one of twelve.
    fn some_ids(&self, chance: u64) -> Vec<longhaul::JobId> {
        let jobs = self.scenario.plans.iter().map(|plan| plan.job).filter(|job| job % 12 == chance);
        jobs.filter_map(|job| lock(&self.oracle).id(job)).collect()
    }

    pub async fn audit(&self, session: &Session) {
        let lists = audit::lists(&self.world, session, &self.oracle).await;
        if self.world.is_alive(self.life) && !self.world.is_poisoned() {
            for wrong in lists {
                self.world.violate(wrong);
            }
        }
    }

    pub async fn ask(&self, session: &Session, act: Act, job: u64) {
        let world = &self.world;
        let Some(id) = lock(&self.oracle).id(job) else { return };
        let Ok(Some(handle)) = session.job(id).await else { return };
        if act != Act::Suspend {
            world.let_go(job);
        }
        if let Some(known) = lock(&self.oracle).known.get_mut(&job) {
            known.cancel_asked |= act == Act::Cancel;
            known.resumes += u64::from(act == Act::Resume);
        }
        let answer = match act {
            Act::Suspend => handle.suspend().await,
            Act::Resume => handle.resume().await,
            _ => handle.cancel().await,
        };
        world.note(format_args!(
            "answer: {:?}",
            answer.as_ref().map(|view| view.state).map_err(ToString::to_string)
        ));
        let Ok(view) = answer else { return };
        match act {
            Act::Suspend if view.state == JobState::Suspended => world.hold(job),
            Act::Suspend => world.violate(format!("job {id} was suspended, and is {}", view.state)),
            Act::Cancel => {
                if let Some(known) = lock(&self.oracle).known.get_mut(&job) {
                    known.cancel_answered = true;
                }
            }
            _ => {}
        }
    }
}
