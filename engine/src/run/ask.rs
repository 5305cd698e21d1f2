//! Requests for jobs that exist: lists, counts, and changes of many at once.
//!
//! A change of many jobs goes in slices, one a round, so that a hundred thousand of them hold up neither those
//! at work nor other requests. Answers say what is durable.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use tokio::sync::oneshot;

use super::index::{Brief, GroupId};
use super::shelf::{self, Stretch};
use super::{Answer, CHANGED_MAX, Round, Runner};
use crate::control::{Counts, PAGE_MAX, Query, Response, Selection, Skipped};
use crate::job::record::Record;
use crate::job::step::{Input, Transition};
use crate::job::{Job, JobId, JobState, Phase, SuspendCause};
use crate::view::{JobLog, JobView};

/// Jobs that a request for many changes in one round.
const SLICE: usize = 512;
/// Ended jobs that one page looks at: a rare state among a million must not hold up the loop.
const LOOK_MAX: usize = 8192;

/// Requests for jobs that exist.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Tell of them.
    List(Query),
    /// Count them.
    Count(Selection),
    /// Tell one's history.
    Log(JobId),
    /// Change them.
    Change(Change, Selection),
}

/// What is to become of jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Hold still.
    Suspend,
    /// Go on.
    Resume,
    /// End.
    Cancel,
    /// Off the list.
    Remove,
}

/// A change of many jobs under way.
#[derive(Debug)]
pub(super) struct Bulk {
    change: Change,
    /// Jobs that were named by number are told of if they are left as they are.
    is_named: bool,
    jobs: Selection,
    ids: VecDeque<JobId>,
    /// What of the archive is still to be looked at.
    archive: Option<Stretch>,
    pub(super) answer: oneshot::Sender<Response>,
    pub(super) changed: u64,
    pub(super) views: Vec<JobView>,
    pub(super) skipped: Vec<Skipped>,
}

impl Bulk {
    fn skip(&mut self, id: JobId, why: String) {
        if self.is_named && self.skipped.len() < PAGE_MAX {
            self.skipped.push(Skipped { id, why });
        }
    }
}

impl Runner {
    pub(super) async fn ask(
        &mut self,
        ask: Ask,
        answer: oneshot::Sender<Response>,
        round: &mut Round,
    ) -> Result<(), String> {
        let response = match ask {
            Ask::List(query) => self.page(&query).await?,
            Ask::Count(jobs) => self.count(&jobs).await?,
            Ask::Log(id) => self.log(id).await?,
            Ask::Change(change, jobs) => {
                self.begin_bulk(change, jobs, answer);
                return Ok(());
            }
        };
        round.answers.push(Answer::Said(answer, response));
        Ok(())
    }

    async fn log(&mut self, id: JobId) -> Result<Response, String> {
        Ok(match self.find(id).await? {
            Some(job) => {
                let log = JobLog { job: self.view(&job), entries: job.history };
                Response::Log { log: Box::new(log) }
            }
            None => Response::Refused {
                kind: "unknown-job".to_owned(),
                text: format!("there is no job {id} in this session; `haul ls` shows them"),
            },
        })
    }

    /// Whether an unfinished job is wanted, as far as the index tells.
    fn is_wanted(brief: &Brief, jobs: &Selection, group: Option<GroupId>) -> bool {
        (jobs.group.is_none() || group.is_some() && brief.group == group)
            && (jobs.states.is_empty() || jobs.states.contains(&brief.state))
            && jobs.since.is_none_or(|since| brief.changed_at >= since)
    }

    async fn page(&mut self, query: &Query) -> Result<Response, String> {
        let limit = query.limit.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX);
        let from = query.after.map_or(JobId(1), |after| JobId(after.0 + 1));
        let to = query.before.map_or(JobId(u64::MAX), |before| JobId(before.0.saturating_sub(1)));
        if from > to {
            return Ok(Response::Jobs { jobs: Vec::new(), more: None });
        }
        let stretch = Stretch { from, to, newest: query.newest };
        let (mut found, more) = match &query.jobs.ids {
            Some(ids) => self.page_of_ids(ids, &query.jobs, stretch, limit).await?,
            None => self.page_of_all(&query.jobs, stretch, limit).await?,
        };
        found.sort_by_key(|view| view.id);
        Ok(Response::Jobs { jobs: found, more })
    }

    async fn page_of_ids(
        &mut self,
        ids: &[JobId],
        jobs: &Selection,
        stretch: Stretch,
        limit: usize,
    ) -> Result<(Vec<JobView>, Option<JobId>), String> {
        let ids: BTreeSet<JobId> =
            ids.iter().copied().filter(|id| (stretch.from..=stretch.to).contains(id)).collect();
        let mut in_turn: Vec<JobId> = ids.into_iter().collect();
        if stretch.newest {
            in_turn.reverse();
        }
        let rest = Selection { ids: None, ..jobs.clone() };
        let mut views = Vec::new();
        for id in in_turn {
            if views.len() == limit {
                return Ok((views.clone(), views.last().map(|view: &JobView| view.id)));
            }
            if let Some(job) = self.find(id).await? {
                let view = self.view(&job);
                if rest.fits(&view) {
                    views.push(view);
                }
            }
        }
        Ok((views, None))
    }

    /// Merges unfinished jobs, ended ones in memory, and the archive, in the order of their numbers.
    async fn page_of_all(
        &mut self,
        jobs: &Selection,
        stretch: Stretch,
        limit: usize,
    ) -> Result<(Vec<JobView>, Option<JobId>), String> {
        let mut views = BTreeMap::new();
        let live = self.wanted_here(jobs, stretch, limit + 1);
        let at_rest: BTreeSet<JobId> =
            live.iter().copied().filter(|id| !self.jobs.map.contains_key(id)).collect();
        let fetched = shelf::fetch(&self.journal, &at_rest).await?;
        let here = live.iter().filter_map(|id| self.jobs.map.get(id));
        for job in here.chain(&fetched) {
            views.insert(job.id, self.view(job));
        }
        let ended_too = jobs.states.is_empty() || jobs.states.iter().any(|state| state.is_terminal());
        let mut rest = ended_too.then_some(stretch);
        let mut looked = 0;
        let mut found = 0;
        while let Some(next) = rest {
            let (ended, after) = shelf::archive(&self.journal, next).await?;
            looked += ended.len();
            for job in ended {
                if !self.jobs.map.contains_key(&job.id) && !self.jobs.gone.contains(&job.id) {
                    let view = JobView::new(&job, 0);
                    if jobs.fits(&view) {
                        found += 1;
                        views.insert(job.id, view);
                    }
                }
            }
            rest = after;
            if found > limit || looked >= LOOK_MAX {
                break;
            }
        }
        // Beyond what was looked at, nothing is known of ended jobs: what is unfinished there comes later.
        if let Some(rest) = rest {
            views.retain(|id, _| if stretch.newest { *id > rest.to } else { *id < rest.from });
        }
        Ok(cut(views, stretch.newest, limit, rest))
    }

    /// Numbers of jobs in memory or in the index that are wanted, as many as are needed.
    fn wanted_here(&self, jobs: &Selection, stretch: Stretch, limit: usize) -> Vec<JobId> {
        let bounds = (Bound::Included(stretch.from), Bound::Included(stretch.to));
        let group = jobs.group.as_ref().and_then(|group| self.index.group(group));
        let unfinished = self.index.range(bounds).filter(|(_, brief)| Self::is_wanted(brief, jobs, group));
        let ended = self.jobs.map.range(bounds).filter(|(_, job)| job.state().is_terminal());
        let ended = ended.filter(|(_, job)| jobs.fits(&JobView::new(job, 0))).map(|(id, _)| *id);
        let unfinished = unfinished.map(|(id, _)| id);
        let mut ids: Vec<JobId> = if stretch.newest {
            unfinished.rev().take(limit).chain(ended.rev().take(limit)).collect()
        } else {
            unfinished.take(limit).chain(ended.take(limit)).collect()
        };
        ids.sort_unstable();
        if stretch.newest {
            ids.drain(..ids.len().saturating_sub(limit));
        } else {
            ids.truncate(limit);
        }
        ids
    }

    async fn count(&mut self, jobs: &Selection) -> Result<Response, String> {
        let mut counts = Counts::default();
        if let Some(ids) = &jobs.ids {
            let rest = Selection { ids: None, ..jobs.clone() };
            for id in ids.iter().copied().collect::<BTreeSet<_>>() {
                if let Some(job) = self.find(id).await?
                    && rest.fits(&JobView::new(&job, 0))
                {
                    counts.add(job.state());
                }
            }
            return Ok(Response::Counts { counts });
        }
        let group = jobs.group.as_ref().and_then(|group| self.index.group(group));
        for (_, brief) in self.index.iter().filter(|(_, brief)| Self::is_wanted(brief, jobs, group)) {
            counts.add(brief.state);
        }
        let is_wanted = |state| jobs.states.is_empty() || jobs.states.contains(&state);
        if jobs.group.is_none() && jobs.since.is_none() {
            counts.completed = if is_wanted(JobState::Completed) { self.ended.completed } else { 0 };
            counts.failed = if is_wanted(JobState::Failed) { self.ended.failed } else { 0 };
            return Ok(Response::Counts { counts });
        }
        for job in self.jobs.map.values().filter(|job| job.state().is_terminal()) {
            if jobs.fits(&JobView::new(job, 0)) {
                counts.add(job.state());
            }
        }
        let mut rest = Some(Stretch { from: JobId(1), to: JobId(u64::MAX), newest: false });
        while let Some(next) = rest {
            let (ended, after) = shelf::archive(&self.journal, next).await?;
            for job in ended {
                let is_here = self.jobs.map.contains_key(&job.id) || self.jobs.gone.contains(&job.id);
                if !is_here && jobs.fits(&JobView::new(&job, 0)) {
                    counts.add(job.state());
                }
            }
            rest = after;
        }
        Ok(Response::Counts { counts })
    }

    fn begin_bulk(&mut self, change: Change, jobs: Selection, answer: oneshot::Sender<Response>) {
        let group = jobs.group.as_ref().and_then(|group| self.index.group(group));
        let (ids, archive) = match (&jobs.ids, change) {
            (Some(ids), _) => (ids.iter().copied().collect(), None),
            (None, Change::Remove) => {
                let ended = self.jobs.map.values().filter(|job| job.state().is_terminal());
                let ended = ended.map(|job| job.id).collect();
                (ended, Some(Stretch { from: JobId(1), to: JobId(u64::MAX), newest: false }))
            }
            (None, Change::Suspend | Change::Resume | Change::Cancel) => {
                let wanted = self.index.iter().filter(|(_, brief)| Self::is_wanted(brief, &jobs, group));
                (wanted.map(|(id, _)| id).collect(), None)
            }
        };
        let is_named = jobs.ids.is_some();
        self.bulk.push_back(Bulk {
            change,
            is_named,
            jobs,
            ids,
            archive,
            answer,
            changed: 0,
            views: Vec::new(),
            skipped: Vec::new(),
        });
    }

    /// Whether there is a request for many jobs, and memory for more of what it changes.
    pub(super) fn may_go_on_with_bulk(&self) -> bool {
        let is_full = self.saving.is_under_way() && self.changed.len() >= CHANGED_MAX;
        !self.bulk.is_empty() && !is_full
    }

    /// One slice of one request for many jobs.
    pub(super) async fn go_on_with_bulk(&mut self, round: &mut Round) -> Result<(), String> {
        if !self.may_go_on_with_bulk() {
            return Ok(());
        }
        let Some(mut bulk) = self.bulk.pop_front() else { return Ok(()) };
        if bulk.ids.is_empty()
            && let Some(stretch) = bulk.archive
        {
            let (ended, rest) = shelf::archive(&self.journal, stretch).await?;
            let ended = ended.iter().filter(|job| !self.jobs.map.contains_key(&job.id));
            bulk.ids = ended.map(|job| job.id).collect();
            bulk.archive = rest;
        }
        let slice: Vec<JobId> = bulk.ids.drain(..bulk.ids.len().min(SLICE)).collect();
        self.ensure(slice.iter().copied()).await?;
        for id in slice {
            let input = match bulk.change {
                Change::Remove => {
                    self.remove_one(id, &mut bulk, round).await?;
                    continue;
                }
                Change::Suspend => Input::Suspend(SuspendCause::Requested),
                Change::Resume => Input::Resume,
                Change::Cancel => Input::Cancel,
            };
            self.change_one(id, input, &mut bulk, round).await?;
        }
        if bulk.ids.is_empty() && bulk.archive.is_none() {
            round.answers.push(Answer::Changed(bulk));
        } else {
            // Others have their turn first.
            self.bulk.push_back(bulk);
        }
        Ok(())
    }

    async fn change_one(
        &mut self,
        id: JobId,
        input: Input,
        bulk: &mut Bulk,
        round: &mut Round,
    ) -> Result<(), String> {
        let rest = Selection { ids: None, ..bulk.jobs.clone() };
        let is_wanted = |job: &Job| rest.fits(&JobView::new(job, 0));
        if self.jobs.map.get(&id).is_some_and(|job| !is_wanted(job)) {
            return Ok(());
        }
        if self.step(id, input, round) {
            bulk.changed += 1;
            if bulk.views.len() < PAGE_MAX
                && let Some(job) = self.jobs.map.get(&id)
            {
                bulk.views.push(JobView::new(job, 0));
            }
        } else if bulk.is_named {
            match self.find(id).await? {
                Some(job) => bulk.skip(id, format!("it is {}", describe(&job))),
                None => bulk.skip(id, "there is no such job in this session".to_owned()),
            }
        }
        Ok(())
    }

    async fn remove_one(&mut self, id: JobId, bulk: &mut Bulk, round: &mut Round) -> Result<(), String> {
        let Some(job) = self.find(id).await? else {
            bulk.skip(id, "there is no such job in this session".to_owned());
            return Ok(());
        };
        let rest = Selection { ids: None, ..bulk.jobs.clone() };
        let view = JobView::new(&job, 0);
        if !job.state().is_terminal() {
            bulk.skip(id, format!("it is {}; cancel it first", job.state()));
            return Ok(());
        }
        if !rest.fits(&view) {
            return Ok(());
        }
        // What a checkpoint has put, or is about to put, goes with the next one.
        self.removes.extend(job.archive_keys());
        self.removes.extend(job.live_keys());
        let key = self.key_of(&job).await?;
        self.removes.extend(key);
        if let Some(key) = &job.spec.key
            && self.keys.get(key) == Some(&id)
        {
            self.keys.remove(key);
        }
        self.ended.count(job.state(), false);
        self.live.remove(&id);
        self.changed.remove(&id);
        self.on_shelf.remove(&id);
        self.record(Transition { record: Record::Removed { id }, effects: Vec::new(), epoch: 0 }, round);
        bulk.changed += 1;
        if bulk.views.len() < PAGE_MAX {
            bulk.views.push(view);
        }
        Ok(())
    }
}

/// The first views that fit, and where to go on.
fn cut(
    views: BTreeMap<JobId, JobView>,
    newest: bool,
    limit: usize,
    rest: Option<Stretch>,
) -> (Vec<JobView>, Option<JobId>) {
    let is_over = views.len() > limit;
    let mut views: Vec<JobView> = views.into_values().collect();
    if newest {
        views.drain(..views.len().saturating_sub(limit));
    } else {
        views.truncate(limit);
    }
    let end = if newest { views.first() } else { views.last() };
    let more = match rest {
        _ if is_over => end.map(|view| view.id),
        Some(rest) if newest => Some(JobId(rest.to.0.saturating_add(1))),
        Some(rest) => Some(JobId(rest.from.0.saturating_sub(1))),
        None => None,
    };
    (views, more)
}

fn describe(job: &Job) -> String {
    match &job.core.phase {
        Phase::Ending { .. } => "ending already".to_owned(),
        Phase::Publishing { .. } => "being published".to_owned(),
        Phase::Queued | Phase::Staging | Phase::Staged | Phase::Sending(_) | Phase::Ended(_) => {
            format!("{} already", job.state())
        }
    }
}
