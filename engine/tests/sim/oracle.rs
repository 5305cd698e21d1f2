//! What must hold, as an outsider can tell: from answers, events, the journal's records, the disk and
//! the servers. The names I1 to I16 and R0 to R15 are RELIABILITY.md's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use longhaul::sim::{Phase, Record, Survey, Transition};
use longhaul::{JobId, JobState, JobView};
use longhaul_journal::{Opened, Seq};

use super::fault::Fault;
use super::holds::{chunks, compare_chunks, objects, secrets_kept, staged_files};
use super::rng::Content;
use super::scenario::{Plan, Way};
use super::world::{World, lock};

/// How far a submission has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Unsent,
    /// Called; its answer has not come, or was lost in a crash.
    Asked,
    /// Answered: the job exists for good.
    Accepted(JobId),
    /// Refused: it does not.
    Refused,
    /// Refused because its secrets cannot be kept: if it is there, it fails.
    Spoilt,
    /// Taken off the list, or past retention.
    Removed,
}

/// What is known of one job.
#[expect(clippy::struct_excessive_bools, reason = "each is another thing that was said or heard")]
pub struct Known {
    pub plan: Plan,
    pub stage: Stage,
    /// The contents that the source had while submit was under way, as indices of its history.
    first: usize,
    last: usize,
    pub cancel_asked: bool,
    pub cancel_answered: bool,
    pub resumes: u64,
    /// Its latest number came with an answer: its secrets are kept.
    pub answered: bool,
    /// It may be taken off the list by a request that was not answered.
    pub removing: bool,
    /// Earlier attempts, as they were seen ended.
    pub past: BTreeMap<JobId, Option<JobView>>,
    /// It is not the first attempt: what earlier ones have left at the server, and said so, is another matter.
    pub again: bool,
    /// An event has told of its end.
    end_told: bool,
    /// The source's contents, as an index of its history, when it was asked to be tried again.
    retried_from: usize,
    /// The view in which it was first seen ended.
    ended: Option<JobView>,
}

pub struct Oracle {
    pub known: BTreeMap<u64, Known>,
    records: BTreeMap<Seq, Record>,
    /// The number of the last event that was heard.
    pub heard: u64,
    /// Numbers of events that must be told before any later one.
    untold: BTreeSet<u64>,
    /// Whether some events may be past knowing.
    may_miss: bool,
    /// Ended jobs go by themselves soon.
    pub forgets: bool,
}

/// Which planned job a view is of: by its URL.
pub fn planned(view: &JobView) -> u64 {
    let url = if view.source.starts_with("http") { &view.source } else { &view.target };
    url.split('/').nth(3).and_then(|part| part.parse().ok()).unwrap_or_default()
}

/// A view, but for what may differ between two looks at an ended job.
fn same_end(one: &JobView, other: &JobView) -> bool {
    let key =
        |view: &JobView| (view.id, view.state, view.cause.clone(), view.evidence.clone(), view.file.clone());
    key(one) == key(other) && one.done == other.done && one.leftover == other.leftover
}

/// Where two contents part ways, for people.
fn difference(one: &[u8], other: &[u8]) -> String {
    let at = one.iter().zip(other).position(|(a, b)| a != b);
    format!("{} and {} bytes, first difference at {at:?}", one.len(), other.len())
}

impl Oracle {
    pub fn new(plans: &[Plan], forgets: bool) -> Self {
        let known = plans.iter().map(|plan| {
            let known = Known {
                plan: plan.clone(),
                stage: Stage::Unsent,
                first: 0,
                last: 0,
                cancel_asked: false,
                cancel_answered: false,
                resumes: 0,
                answered: false,
                removing: false,
                past: BTreeMap::new(),
                again: false,
                end_told: false,
                retried_from: 0,
                ended: None,
            };
            (plan.job, known)
        });
        Self {
            known: known.collect(),
            records: BTreeMap::new(),
            heard: 0,
            untold: BTreeSet::new(),
            may_miss: false,
            forgets,
        }
    }

    pub fn id(&self, job: u64) -> Option<JobId> {
        match self.known.get(&job)?.stage {
            Stage::Accepted(id) => Some(id),
            Stage::Unsent | Stage::Asked | Stage::Refused | Stage::Spoilt | Stage::Removed => None,
        }
    }

    /// Whether any job is known to exist.
    pub fn expects_jobs(&self) -> bool {
        self.known.values().any(|known| matches!(known.stage, Stage::Accepted(_)))
    }

    fn versions_now(world: &World, plan: &Plan) -> usize {
        let Way::Up { source, .. } = &plan.way else { return 0 };
        lock(&world.fs).history.get(source).map_or(0, |all| all.len().saturating_sub(1))
    }

    /// Submit is about to be called.
    pub fn asks(&mut self, world: &World, job: u64) {
        if let Some(known) = self.known.get_mut(&job)
            && !matches!(known.stage, Stage::Accepted(_))
        {
            known.stage = Stage::Asked;
            known.first = Self::versions_now(world, &known.plan);
            known.last = usize::MAX;
        }
    }

    /// Submit has returned.
    pub fn accepted(&mut self, world: &World, job: u64, id: JobId) {
        let Some(known) = self.known.get_mut(&job) else { return };
        match known.stage {
            Stage::Accepted(before) if before != id => {
                world.violate(format!("job {before} was submitted again by its key, and is job {id} now"));
            }
            Stage::Accepted(_) => {}
            Stage::Unsent | Stage::Asked | Stage::Refused | Stage::Spoilt | Stage::Removed => {
                known.stage = Stage::Accepted(id);
                known.last = Self::versions_now(world, &known.plan);
            }
        }
        known.answered |= known.ended.is_none();
    }

    /// Failed jobs are about to be tried again.
    pub fn retries(&mut self, world: &World) {
        for known in self.known.values_mut() {
            known.retried_from = Self::versions_now(world, &known.plan);
            if known.ended.is_some() {
                lock(&world.flight).lifts(known.plan.job);
            }
        }
    }

    /// Jobs have been taken off the list.
    pub fn removed(&mut self, world: &World, views: &[JobView]) {
        for view in views {
            self.seen(world, view);
            let Some(known) = self.known.get_mut(&planned(view)) else { continue };
            if known.stage == Stage::Accepted(view.id) {
                known.stage = Stage::Removed;
            } else if known.past.remove(&view.id).is_none() && known.stage != Stage::Spoilt {
                world.violate(format!("job {} was removed, and was not there", view.id));
            }
        }
        self.known.values_mut().for_each(|known| known.removing = false);
    }

    /// Every number that a list must have, and may have.
    pub fn listed(&self) -> (BTreeSet<JobId>, BTreeSet<JobId>) {
        let (mut must, mut may) = (BTreeSet::new(), BTreeSet::new());
        for known in self.known.values() {
            let id = match known.stage {
                Stage::Accepted(id) => Some(id),
                Stage::Unsent | Stage::Asked | Stage::Refused | Stage::Spoilt | Stage::Removed => None,
            };
            let ids = id.into_iter().chain(known.past.keys().copied());
            may.extend(ids.clone());
            // A job that has ended may be past retention.
            must.extend(ids.filter(|id| !self.forgets || Some(*id) == known.id() && known.ended.is_none()));
        }
        (must, may)
    }

    /// Whether there are too many jobs for pages of one.
    pub fn is_large(&self) -> bool {
        self.known.len() > 20
    }

    /// Whether a job is there that nobody was told the number of.
    pub fn has_strays(&self) -> bool {
        self.known.values().any(|known| matches!(known.stage, Stage::Asked | Stage::Spoilt))
    }

    /// The contents that an upload may have.
    fn snapshots(world: &World, known: &Known) -> Vec<Content> {
        let Way::Up { source, .. } = &known.plan.way else { return Vec::new() };
        let fs = lock(&world.fs);
        let all = fs.history.get(source).map(Vec::as_slice).unwrap_or_default();
        all.iter()
            .enumerate()
            .filter(|(at, _)| (known.first..=known.last).contains(at))
            .map(|(_, c)| Content::clone(c))
            .collect()
    }

    /// Looks at what the journal has brought back, before anything acts on it.
    pub fn read(&mut self, world: &World, opened: &Opened<Transition, Survey>) {
        let report = &opened.report;
        world.note(format_args!("journal: checkpoint {}, last {}", report.checkpoint.0, report.last.0));
        self.untold.clear();
        self.may_miss = report.checkpoint.0 > self.heard || opened.tail.len() > 4000;
        if self.heard > report.last.0 {
            world.violate(format!("I3: event {} was told, record {} is the last", self.heard, report.last.0));
        }
        let known_to = self.records.keys().next_back().copied().unwrap_or_default();
        if report.last < known_to {
            world.violate(format!("I3: record {} was there, {} is the last", known_to.0, report.last.0));
        }
        for found in &opened.tail {
            let is_event = match found.value() {
                Record::Submitted { .. } | Record::SubmittedLong { .. } => true,
                Record::Moved { what, .. } => what.is_some(),
                Record::Piece { .. } | Record::Removed { .. } => false,
            };
            if is_event && found.seq().0 > self.heard {
                self.untold.insert(found.seq().0);
            }
            let before = self.records.insert(found.seq(), found.value().clone());
            if before.is_some_and(|before| before != *found.value()) {
                world.violate(format!("I3: record {} has changed", found.seq().0));
            }
        }
        // Records that a checkpoint has taken before anyone looked: what follows them is a whole tail.
        let mut whole_from = report.last;
        while whole_from.0 > 0 && self.records.contains_key(&whole_from) {
            whole_from.0 -= 1;
        }
        let mut last: BTreeMap<JobId, (Seq, &Record)> = BTreeMap::new();
        let mut resumed: BTreeMap<JobId, u64> = BTreeMap::new();
        for (&seq, record) in &self.records {
            let id = record.id();
            let before = last.insert(id, (seq, record)).map(|(_, before)| before);
            if follows(world, id, before, record) {
                *resumed.entry(id).or_default() += 1;
            }
        }
        for (id, (_, record)) in last.into_iter().filter(|(_, (seq, _))| *seq > whole_from) {
            self.compare_disk(world, id, record);
        }
        for known in self.known.values() {
            let Stage::Accepted(id) = known.stage else { continue };
            if resumed.get(&id).is_some_and(|&resumed| resumed > known.resumes) {
                world.violate(format!("R13: job {id} went on more often than it was resumed"));
            }
        }
    }

    /// An event has been told.
    pub fn told(&mut self, world: &World, number: u64) {
        if number <= self.heard {
            world.violate(format!("event {number} comes after event {}", self.heard));
        }
        if let Some(skipped) = self.untold.range(..number).next() {
            world.violate(format!("event {skipped} was never told; event {number} is"));
        }
        self.untold.remove(&number);
        self.heard = number;
    }

    /// Some events are past knowing.
    pub fn missed(&mut self, world: &World) {
        if !self.may_miss {
            world.violate(format!(
                "events after {} are said to be lost, and the journal has them",
                self.heard
            ));
        }
        world.tally(|tally| tally.see("events missed"));
        self.untold.clear();
    }

    fn by_id(&self, id: JobId) -> Option<&Known> {
        self.known.values().find(|known| known.stage == Stage::Accepted(id))
    }

    /// What the journal says that the disk holds, the disk holds, and durably.
    fn compare_disk(&self, world: &World, id: JobId, record: &Record) {
        let (Some(known), Record::Moved { core, .. }) = (self.by_id(id), record) else { return };
        let at_work = matches!(core.phase, Phase::Staged | Phase::Sending(_));
        let is_copy = |method: String| method != "InPlace";
        if let Some(snapshot) = core.snapshot.as_ref().filter(|_| at_work)
            && is_copy(format!("{:?}", snapshot.method))
        {
            let path = PathBuf::from(format!("/state/stage/{:016x}.stage", id.0));
            let fs = lock(&world.fs);
            let found = fs.durable(&path).map(<[u8]>::to_vec);
            drop(fs);
            if !Self::snapshots(world, known).iter().any(|content| Some(&**content) == found.as_ref()) {
                let len = found.map(|found| found.len());
                world.violate(format!(
                    "I4: job {id}'s staged copy is not its source as it was ({len:?} bytes)"
                ));
            }
        }
        if let Some((chunk, have)) = chunks(&format!("{:?}", core.phase)).filter(|_| at_work) {
            let path = core.part.as_ref().map(|part| part.path.clone()).unwrap_or_default();
            return compare_chunks(world, known, (&path, core.size.unwrap_or_default()), chunk, &have);
        }
        let meddled = world.tally(|tally| tally.any(&[Fault::PartTruncated, Fault::PartDeleted]));
        if let Some(part) = core.part.as_ref().filter(|_| at_work && !meddled && core.done > 0) {
            let fs = lock(&world.fs);
            let there = fs.durable(&part.path).unwrap_or_default();
            let server = lock(&world.shelf);
            let (done, len) = (core.done as usize, there.len());
            let begin = there.get(..done);
            let mut versions = server.remotes[&known.plan.job].versions();
            let fits = begin.is_some() && versions.any(|version| version.get(..done) == begin);
            drop(fs);
            if !fits {
                world.violate(format!(
                    "job {id} has journaled {done} bytes that its part file ({len}) does not have"
                ));
            }
        }
    }

    /// Looks at the jobs of a session that has just opened; gives the submissions that must be repeated.
    pub fn reopened(&mut self, world: &World, views: &[JobView]) -> Vec<u64> {
        let mut again = Vec::new();
        let held = world.held();
        for view in views {
            self.seen(world, view);
        }
        // In the order of their numbers: the last of a planned job's is the one that counts.
        let views_of: BTreeMap<u64, &JobView> = views.iter().map(|view| (planned(view), view)).collect();
        let forgets = self.forgets;
        for known in self.known.values_mut() {
            let view = views_of.get(&known.plan.job).copied();
            let may_be_gone = known.removing || forgets;
            known.past.retain(|id, _| !may_be_gone || views.iter().any(|view| view.id == *id));
            match (known.stage, view) {
                (Stage::Asked, Some(view)) => known.stage = Stage::Accepted(view.id),
                (Stage::Asked, None) => again.push(known.plan.job),
                (Stage::Accepted(id), view) if view.is_none_or(|view| view.id != id) => {
                    if may_be_gone {
                        known.stage = Stage::Removed;
                    } else {
                        world.violate(format!("I3: job {id} was accepted, and is gone"));
                    }
                }
                (Stage::Removed, Some(view)) if !known.past.contains_key(&view.id) => {
                    world.violate(format!("job {} was taken off the list, and is back", view.id));
                }
                (Stage::Unsent | Stage::Refused, Some(view)) => {
                    world.violate(format!("job {} was never asked for, or refused", view.id));
                }
                (Stage::Accepted(_), Some(view)) => {
                    let is_late = view.cause.as_ref().is_some_and(|cause| cause.kind == "deadline");
                    if held.contains(&known.plan.job) && view.state != JobState::Suspended && !is_late {
                        world.violate(format!("R13: job {} was suspended, and is {}", view.id, view.state));
                    }
                    if let Some(remote) = lock(&world.shelf).remotes.get_mut(&known.plan.job)
                        && known.plan.wishes.lanes <= 1
                    {
                        remote.expect(if view.state.is_terminal() { 0 } else { view.done });
                    }
                    if !forgets {
                        secrets_kept(world, known, view);
                    }
                }
                (
                    Stage::Accepted(_) | Stage::Unsent | Stage::Refused | Stage::Spoilt | Stage::Removed,
                    None | Some(_),
                ) => {}
            }
            known.removing = false;
        }
        staged_files(world, views);
        again
    }

    /// A view of a job as an event has it: those of before may come late, but none after the end's.
    pub fn seen_in_event(&mut self, world: &World, view: &JobView) {
        let Some(known) = self.known.get_mut(&planned(view)) else { return };
        let is_current = match known.stage {
            Stage::Accepted(id) => id == view.id || view.predecessor == Some(id),
            Stage::Removed => false,
            Stage::Unsent | Stage::Asked | Stage::Refused | Stage::Spoilt => true,
        };
        let is_late = known.ended.is_some()
            && !known.end_told
            && view.predecessor.is_none_or(|id| Some(id) != known.id());
        if !is_current || is_late && !view.state.is_terminal() {
            return;
        }
        let ends = view.state.is_terminal() && !known.past.contains_key(&view.id);
        self.seen(world, view);
        if let Some(known) = self.known.get_mut(&planned(view)) {
            known.end_told |= ends;
        }
    }

    /// A view of a job, from wherever.
    pub fn seen(&mut self, world: &World, view: &JobView) {
        if view.size.is_some_and(|size| view.done > size) {
            world.violate(format!("job {} shows {} of {:?}", view.id, view.done, view.size));
        }
        let Some(known) = self.known.get_mut(&planned(view)) else { return };
        if let Some(past) = known.past.get_mut(&view.id) {
            if past.as_ref().is_some_and(|past| !same_end(past, view)) || view.state != JobState::Failed {
                world.violate(format!("I6: job {} was {past:?} and is {view:?}", view.id));
            }
            past.get_or_insert_with(|| view.clone());
            return;
        }
        // What was refused for its secrets may be tried again, if they could be read after all.
        let refused = known.ended.as_ref().map(|ended| ended.id).filter(|_| known.stage == Stage::Spoilt);
        if let Some(id) = known.id().or(refused)
            && id != view.id
        {
            if view.predecessor != Some(id) {
                world.violate(format!("job {id} is there again as job {}", view.id));
                return;
            }
            known.succeed(world, id, view);
        }
        match &known.ended {
            Some(ended) if !same_end(ended, view) => {
                world.violate(format!("I6: job {} was {ended:?} and is {view:?}", view.id));
            }
            None if view.state.is_terminal() => {
                known.ended = Some(view.clone());
                let known = &self.known[&planned(view)];
                Self::ends(world, known, view);
            }
            Some(_) | None => {}
        }
    }

    /// A job is seen ended for the first time.
    fn ends(world: &World, known: &Known, view: &JobView) {
        world.note(format_args!("job {} is {} ({:?})", view.id, view.state, view.cause));
        if view.state != JobState::Completed {
            return;
        }
        if known.cancel_answered {
            world.violate(format!("R14: job {} was cancelled, and is completed", view.id));
        }
        match &known.plan.way {
            Way::Up { by, .. } => {
                let objects = objects(world, known, *by);
                let snapshots = Self::snapshots(world, known);
                let fits = |object: &Content| snapshots.contains(object);
                let all_fit = objects.iter().all(fits) || known.again && objects.iter().any(fits);
                if objects.is_empty() || !all_fit {
                    let how = objects
                        .first()
                        .map(|object| snapshots.iter().map(|s| difference(object, s)).collect::<Vec<_>>());
                    world.violate(format!(
                        "I9: job {} is completed, of the server's {} objects not all are a snapshot: {how:?}",
                        view.id,
                        objects.len()
                    ));
                }
            }
            Way::Down { to, .. } => {
                let fs = lock(&world.fs);
                let found = fs.durable(to);
                let shelf = lock(&world.shelf);
                let whole = shelf.remotes[&known.plan.job]
                    .versions()
                    .any(|version| Some(version.as_slice()) == found);
                if !whole {
                    let len = found.map(<[u8]>::len);
                    drop(fs);
                    world.violate(format!(
                        "I9: job {} is completed, {} is no version durably ({len:?} bytes)",
                        view.id,
                        to.display()
                    ));
                }
            }
        }
    }
}

impl Known {
    fn id(&self) -> Option<JobId> {
        match self.stage {
            Stage::Accepted(id) => Some(id),
            Stage::Unsent | Stage::Asked | Stage::Refused | Stage::Spoilt | Stage::Removed => None,
        }
    }

    /// Another attempt of it: a job of its own.
    fn succeed(&mut self, world: &World, before: JobId, view: &JobView) {
        world.tally(|tally| tally.see("tried again"));
        self.past.insert(before, self.ended.take());
        self.stage = Stage::Accepted(view.id);
        (self.cancel_asked, self.cancel_answered, self.answered) = (false, false, false);
        (self.again, self.end_told) = (true, false);
        self.first = self.retried_from;
        self.last = Oracle::versions_now(world, &self.plan);
    }
}

/// Looks at a record and the one before it of the same job; whether it takes up again what waited to be.
fn follows(world: &World, id: JobId, before: Option<&Record>, record: &Record) -> bool {
    let Record::Moved { core, what, .. } = record else { return false };
    if core.size.is_some_and(|size| core.done > size) {
        world.violate(format!("job {id} is at {} of {:?}", core.done, core.size));
    }
    let Some(Record::Moved { core: before, .. }) = before else { return false };
    if matches!(before.phase, Phase::Ended(_)) {
        world.violate(format!("I6: job {id} moves after its end: {record:?}"));
    }
    let waited = before.suspended.as_ref().is_some_and(|cause| !cause.clears_itself());
    waited && what.as_deref() == Some("resumed")
}
