//! What must hold, as an outsider can tell: from answers, events, the journal's records, the disk and
//! the servers. The names I1 to I16 and R0 to R15 are RELIABILITY.md's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use longhaul::sim::{Phase, Record, Survey, Transition};
use longhaul::{JobId, JobState, JobView};
use longhaul_journal::{Opened, Seq};

use super::fault::Fault;
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
}

/// What is known of one job.
pub struct Known {
    pub plan: Plan,
    pub stage: Stage,
    /// The contents that the source had while submit was under way, as indices of its history.
    first: usize,
    last: usize,
    pub cancel_asked: bool,
    pub cancel_answered: bool,
    pub resumes: u64,
    /// The view in which it was first seen ended.
    ended: Option<JobView>,
}

pub struct Oracle {
    pub known: BTreeMap<u64, Known>,
    records: BTreeMap<Seq, Record>,
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
    pub fn new(plans: &[Plan]) -> Self {
        let known = plans.iter().map(|plan| {
            let known = Known {
                plan: plan.clone(),
                stage: Stage::Unsent,
                first: 0,
                last: 0,
                cancel_asked: false,
                cancel_answered: false,
                resumes: 0,
                ended: None,
            };
            (plan.job, known)
        });
        Self { known: known.collect(), records: BTreeMap::new() }
    }

    pub fn id(&self, job: u64) -> Option<JobId> {
        match self.known.get(&job)?.stage {
            Stage::Accepted(id) => Some(id),
            Stage::Unsent | Stage::Asked | Stage::Refused => None,
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
        if let Some(known) = self.known.get_mut(&job) {
            known.stage = Stage::Asked;
            known.first = Self::versions_now(world, &known.plan);
            known.last = usize::MAX;
        }
    }

    /// Submit has returned.
    pub fn accepted(&mut self, world: &World, job: u64, id: JobId) {
        if let Some(known) = self.known.get_mut(&job) {
            known.stage = Stage::Accepted(id);
            known.last = Self::versions_now(world, &known.plan);
        }
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
        let known_to = self.records.keys().next_back().copied().unwrap_or_default();
        if report.last < known_to {
            world.violate(format!("I3: record {} was there, {} is the last", known_to.0, report.last.0));
        }
        for found in &opened.tail {
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
        for known in self.known.values_mut() {
            let view = views.iter().find(|view| planned(view) == known.plan.job);
            match (known.stage, view) {
                (Stage::Asked, Some(view)) => known.stage = Stage::Accepted(view.id),
                (Stage::Asked, None) => again.push(known.plan.job),
                (Stage::Accepted(id), view) if view.is_none_or(|view| view.id != id) => {
                    world.violate(format!("I3: job {id} was accepted, and is gone"));
                }
                (Stage::Unsent | Stage::Refused, Some(view)) => {
                    world.violate(format!("job {} was never asked for, or refused", view.id));
                }
                (Stage::Accepted(_), Some(view)) => {
                    if held.contains(&known.plan.job) && view.state != JobState::Suspended {
                        world.violate(format!("R13: job {} was suspended, and is {}", view.id, view.state));
                    }
                    if let Some(remote) = lock(&world.shelf).remotes.get_mut(&known.plan.job) {
                        remote.expect(view.done);
                    }
                }
                (Stage::Accepted(_) | Stage::Unsent | Stage::Refused, None) => {}
            }
        }
        staged_files(world, views);
        again
    }

    /// A view of a job, from wherever.
    pub fn seen(&mut self, world: &World, view: &JobView) {
        if view.size.is_some_and(|size| view.done > size) {
            world.violate(format!("job {} shows {} of {:?}", view.id, view.done, view.size));
        }
        let Some(known) = self.known.get_mut(&planned(view)) else { return };
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
            Way::Up { .. } => {
                let tus = lock(&world.tus);
                let objects: Vec<Content> = tus
                    .objects
                    .iter()
                    .filter(|o| o.job == known.plan.job && !o.withdrawn)
                    .map(|o| Content::clone(&o.content))
                    .collect();
                drop(tus);
                let snapshots = Self::snapshots(world, known);
                if objects.is_empty() || !objects.iter().all(|object| snapshots.contains(object)) {
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

/// I4: every staging file belongs to a job that is not ended.
fn staged_files(world: &World, views: &[JobView]) {
    let files = lock(&world.fs).list(Path::new("/state/stage")).unwrap_or_default();
    for path in files {
        let number = path.file_stem().and_then(|stem| u64::from_str_radix(&stem.to_string_lossy(), 16).ok());
        let owner = views.iter().find(|view| Some(view.id.0) == number);
        if owner.is_none_or(|view| view.state.is_terminal()) {
            world.violate(format!("I4: {} belongs to no unfinished job", path.display()));
        }
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
