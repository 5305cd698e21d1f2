//! Every unfinished job in few words: what the schedule and the lists need of jobs that are not in memory.
//!
//! Invariant: there is an entry for each unfinished job and for no other, and it says what the job's records
//! say. Absent on purpose: whatever only a job at work needs.

use std::collections::BTreeMap;

use crate::job::{
    Core, Direction, Job, JobId, JobSpec, JobState, Phase, SnapshotMethod, StageMode, SuspendCause,
};
use crate::ports::WallMs;
use crate::protocol::wire;
use crate::schedule::{HostId, Rank, Wish};

/// A group, by a number that is only used in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupId(u32);

/// How a job holds still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Until somebody says so.
    Asked,
    /// Until its cause is gone.
    Clears,
}

/// Where a job goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stand {
    /// It owns nothing yet.
    New,
    /// It has its snapshot or part file.
    Staged,
    /// It has more to lose.
    Begun,
    /// Its outcome stands.
    Ending,
}

/// One unfinished job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Brief {
    /// What people see.
    pub state: JobState,
    /// Where it goes on.
    pub stand: Stand,
    /// Whether it holds still.
    pub hold: Option<Hold>,
    /// Which way.
    pub direction: Direction,
    /// 0 to 9.
    pub priority: u8,
    /// Its server.
    pub host: HostId,
    /// Its group, if it has one.
    pub group: Option<GroupId>,
    /// Not before.
    pub not_before: Option<WallMs>,
    /// Not after.
    pub deadline: Option<WallMs>,
    /// When its next attempt is due.
    pub retry_at: Option<WallMs>,
    /// When it last moved.
    pub changed_at: WallMs,
    /// Bytes of the staging budget that it holds.
    pub copied: u64,
    /// Bytes that it will need of it.
    pub copy: u64,
}

impl Brief {
    /// What counts for its place.
    pub fn wish(&self) -> Wish {
        Wish {
            rank: if matches!(self.stand, Stand::New | Stand::Staged) { Rank::New } else { Rank::Begun },
            priority: self.priority,
            host: self.host,
            direction: self.direction,
            copy: self.copy,
        }
    }
}

/// What counts of a job's core.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    changed_at: WallMs,
    state: JobState,
    stand: Stand,
    hold: Option<Hold>,
    retry_at: Option<WallMs>,
    /// Bytes of its staging copy.
    copied: Option<u64>,
    /// Whether its snapshot is still to be made.
    is_unstaged: bool,
}

impl Standing {
    /// Of a core that was last changed then.
    pub fn of(changed_at: WallMs, core: &Core) -> Self {
        let held = core.snapshot.as_ref().filter(|snapshot| snapshot.method == SnapshotMethod::Copy);
        Self {
            changed_at,
            state: core.state(),
            stand: match core.phase {
                Phase::Queued | Phase::Staging => Stand::New,
                Phase::Staged => Stand::Staged,
                Phase::Sending(_) | Phase::Publishing { .. } => Stand::Begun,
                Phase::Ending { .. } | Phase::Ended(_) => Stand::Ending,
            },
            hold: core.suspended.as_ref().map(|cause| match cause {
                cause if SuspendCause::clears_itself(cause) => Hold::Clears,
                _ => Hold::Asked,
            }),
            retry_at: core.retry_at,
            copied: held.map(|snapshot| snapshot.size),
            is_unstaged: matches!(core.phase, Phase::Queued | Phase::Staging),
        }
    }
}

/// Every unfinished job.
#[derive(Debug, Default)]
pub struct Index {
    jobs: BTreeMap<JobId, Brief>,
    hosts: Names,
    groups: Names,
    /// Bytes that staging copies may take in all.
    budget: u64,
}

/// Names, and a number for each.
#[derive(Debug, Default)]
struct Names(BTreeMap<Box<str>, u32>);

impl Names {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.0.get(name) {
            return *number;
        }
        let number = self.0.len() as u32;
        self.0.insert(name.into(), number);
        number
    }
}

impl Index {
    /// An empty index of a session with this staging budget.
    pub fn new(budget: u64) -> Self {
        Self { budget, ..Self::default() }
    }

    /// Says how a job stands now: in, changed, or out once it has ended.
    pub fn note(&mut self, job: &Job) {
        self.put(job.id, &job.spec, Standing::of(job.changed_at, &job.core));
    }

    /// The same, from its parts.
    pub fn put(&mut self, id: JobId, spec: &JobSpec, standing: Standing) {
        if standing.state.is_terminal() {
            self.jobs.remove(&id);
        } else {
            let brief = self.brief(spec, standing);
            self.jobs.insert(id, brief);
        }
    }

    fn brief(&mut self, spec: &JobSpec, standing: Standing) -> Brief {
        Brief {
            state: standing.state,
            stand: standing.stand,
            hold: standing.hold,
            direction: spec.direction(),
            priority: spec.priority,
            host: HostId(self.hosts.number(&wire::host(&spec.url))),
            group: spec.group.as_deref().map(|group| GroupId(self.groups.number(group))),
            not_before: spec.not_before,
            deadline: spec.deadline,
            retry_at: standing.retry_at,
            changed_at: standing.changed_at,
            copied: standing.copied.map_or(0, |size| size.min(self.budget)),
            copy: if standing.is_unstaged { copy_need(spec, self.budget) } else { 0 },
        }
    }

    /// A job is no more.
    pub fn remove(&mut self, id: JobId) {
        self.jobs.remove(&id);
    }

    /// One job.
    pub fn get(&self, id: JobId) -> Option<&Brief> {
        self.jobs.get(&id)
    }

    /// All, in the order of their numbers.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (JobId, &Brief)> {
        self.jobs.iter().map(|(id, brief)| (*id, brief))
    }

    /// Those with numbers in between.
    pub fn range(
        &self,
        bounds: impl std::ops::RangeBounds<JobId>,
    ) -> impl DoubleEndedIterator<Item = (JobId, &Brief)> {
        self.jobs.range(bounds).map(|(id, brief)| (*id, brief))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// The number of a group's name; `None` if no unfinished job has had it.
    pub fn group(&self, name: &str) -> Option<GroupId> {
        self.groups.0.get(name).copied().map(GroupId)
    }
}

/// What a job's staging copy will take of the budget.
fn copy_need(spec: &JobSpec, budget: u64) -> u64 {
    let Some(source) = spec.source else { return 0 };
    match spec.stage {
        StageMode::None => 0,
        StageMode::Auto if source.size > budget => 0,
        StageMode::Auto | StageMode::Copy => source.size,
    }
}
