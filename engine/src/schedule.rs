//! Who runs next: pure, no clock of its own.
//!
//! A job is here while it is unfinished and not suspended: *ready*, *waiting* for its time, or *running* in a
//! slot. Ready jobs stand in queues, one for each priority, host, direction, and whether they need a staging
//! copy first, so that whoever cannot go on now holds up only those that could not either:
//!
//! ```text
//! priority: by weight 2^p, so that a low one is slow and never stuck
//!   └─ queues with something to lose (a remote session expires) before those with nothing begun
//!        └─ queues in turn (hosts and directions get the same), each in order of job number
//! ```
//!
//! Limits: jobs in all, by host, by direction; bytes of staging copies. A host that cannot be reached is left alone
//! until it is due, and then tried by one job. A copy that does not fit now is passed over by smaller ones, but not
//! for ever: after [`PASSES_MAX`] others, no copy is begun before it.
//!
//! Invariants: a job is in at most one of the three places; no limit is ever exceeded by what
//! [`Schedule::admit`] gives. Times are monotonic: clock jumps move nothing.

pub mod limit;
pub mod retry;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::job::{Direction, JobId, PRIORITY_MAX};

/// Copies that are looked at in one queue for one that fits.
const LOOK_AHEAD: usize = 64;
/// Times that a copy may be passed over by others.
const PASSES_MAX: u32 = 64;
/// What a job of the highest priority costs its priority; each one below costs twice as much.
const STRIDE: u64 = 1 << 16;

/// A host, by a number that the caller gives it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub u32);

/// Jobs with a remote session come before those that have not begun: what is half sent expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Has something to lose.
    Begun,
    /// Has not begun.
    New,
}

/// What counts of a job that could run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Whether it has something to lose.
    pub rank: Rank,
    /// 0 (last) to 9 (first).
    pub priority: u8,
    /// Its server.
    pub host: HostId,
    /// Which way.
    pub direction: Direction,
    /// Bytes that its staging copy will take of the budget; 0 if it needs none (more).
    pub copy: u64,
}

/// How many jobs may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// In all.
    pub concurrent: usize,
    /// To or from one host.
    pub per_host: usize,
    /// Uploads.
    pub uploads: usize,
    /// Downloads.
    pub downloads: usize,
}

impl Slots {
    /// A limit of all jobs and no others.
    #[cfg(test)]
    pub fn of(concurrent: usize) -> Self {
        Self { concurrent, per_host: usize::MAX, uploads: usize::MAX, downloads: usize::MAX }
    }
}

/// Why a job does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// For a slot: others run, or come first.
    Slot,
    /// As many jobs of its host run as may.
    Host,
    /// As many jobs of its direction run as may.
    Direction,
    /// For room for its staging copy.
    Copy,
    /// For space on the disk.
    Space,
    /// There is no way to its host.
    Network,
    /// For its time.
    Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct QueueId {
    rank: Rank,
    host: HostId,
    upload: bool,
    copies: bool,
}

impl QueueId {
    fn of(wish: &Wish) -> Self {
        let upload = wish.direction == Direction::Upload;
        Self { rank: wish.rank, host: wish.host, upload, copies: wish.copy > 0 }
    }
}

/// The ready jobs of one priority.
#[derive(Debug, Default)]
struct Class {
    /// What the class has had, by its weight: the one with the least is next.
    pass: u64,
    queues: BTreeMap<QueueId, Queue>,
    /// Queues in the order in which it is their turn.
    turns: BTreeSet<(Rank, u64, QueueId)>,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: BTreeSet<JobId>,
    turn: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Ready(Wish),
    Waiting(Duration),
    Running(HostId, Direction),
}

/// Order and limits.
#[derive(Debug)]
pub struct Schedule {
    slots: Slots,
    budget: u64,
    classes: Vec<Class>,
    waiting: BTreeSet<(Duration, JobId)>,
    place: BTreeMap<JobId, Place>,
    running: Running,
    copies: BTreeMap<JobId, u64>,
    copied: u64,
    /// Hosts without a way to them, and when to try again.
    down: BTreeMap<HostId, Duration>,
    /// Until when nothing is begun that needs space: copies for uploads, part files for downloads.
    full: [Duration; 2],
    /// Copies that others have passed.
    passed: BTreeMap<JobId, u32>,
    /// The copy before which no other is begun.
    first_copy: Option<JobId>,
    turns: u64,
}

#[derive(Debug, Default)]
struct Running {
    all: usize,
    uploads: usize,
    downloads: usize,
    hosts: BTreeMap<HostId, usize>,
}

impl Running {
    fn of(&self, host: HostId) -> usize {
        self.hosts.get(&host).copied().unwrap_or(0)
    }

    fn direction(&mut self, direction: Direction) -> &mut usize {
        match direction {
            Direction::Upload => &mut self.uploads,
            Direction::Download => &mut self.downloads,
        }
    }

    fn add(&mut self, host: HostId, direction: Direction) {
        self.all += 1;
        *self.direction(direction) += 1;
        *self.hosts.entry(host).or_default() += 1;
    }

    fn remove(&mut self, host: HostId, direction: Direction) {
        self.all -= 1;
        *self.direction(direction) -= 1;
        if let Some(count) = self.hosts.get_mut(&host) {
            *count -= 1;
            if *count == 0 {
                self.hosts.remove(&host);
            }
        }
    }
}

impl Schedule {
    /// `slots` jobs at most run at once; staging copies take `budget` bytes at most.
    pub fn new(slots: Slots, budget: u64) -> Self {
        let slots = Slots {
            concurrent: slots.concurrent.max(1),
            per_host: slots.per_host.max(1),
            uploads: slots.uploads.max(1),
            downloads: slots.downloads.max(1),
        };
        Self {
            slots,
            budget,
            classes: (0..=PRIORITY_MAX).map(|_| Class::default()).collect(),
            waiting: BTreeSet::new(),
            place: BTreeMap::new(),
            running: Running::default(),
            copies: BTreeMap::new(),
            copied: 0,
            down: BTreeMap::new(),
            full: [Duration::ZERO; 2],
            passed: BTreeMap::new(),
            first_copy: None,
            turns: 0,
        }
    }

    /// The job can run; it leaves whatever place it had.
    pub fn ready(&mut self, job: JobId, wish: Wish) {
        self.remove(job);
        let wish = Wish { priority: wish.priority.min(PRIORITY_MAX), ..wish };
        // Whoever had nothing to do has no claim on what others had meanwhile.
        let busy = self.classes.iter().filter(|class| !class.queues.is_empty()).map(|class| class.pass).min();
        let class = &mut self.classes[usize::from(wish.priority)];
        if class.queues.is_empty() {
            class.pass = class.pass.max(busy.unwrap_or(0));
        }
        let id = QueueId::of(&wish);
        let queue = class.queues.entry(id).or_default();
        if queue.jobs.is_empty() {
            self.turns += 1;
            queue.turn = self.turns;
            class.turns.insert((id.rank, queue.turn, id));
        }
        queue.jobs.insert(job);
        self.place.insert(job, Place::Ready(wish));
    }

    /// The job is told by [`Schedule::due`] from `due` on (monotonic); it leaves whatever place it had.
    pub fn wait(&mut self, job: JobId, due: Duration) {
        self.remove(job);
        self.waiting.insert((due, job));
        self.place.insert(job, Place::Waiting(due));
    }

    /// The job is ended or suspended.
    pub fn remove(&mut self, job: JobId) {
        match self.place.remove(&job) {
            Some(Place::Ready(wish)) => {
                self.leave_queue(job, &wish);
                self.passed.remove(&job);
                if self.first_copy == Some(job) {
                    self.first_copy = None;
                }
            }
            Some(Place::Waiting(due)) => {
                self.waiting.remove(&(due, job));
            }
            Some(Place::Running(host, direction)) => self.running.remove(host, direction),
            None => {}
        }
    }

    fn leave_queue(&mut self, job: JobId, wish: &Wish) {
        let class = &mut self.classes[usize::from(wish.priority)];
        let id = QueueId::of(wish);
        if let Some(queue) = class.queues.get_mut(&id) {
            queue.jobs.remove(&job);
            if queue.jobs.is_empty() {
                class.turns.remove(&(id.rank, queue.turn, id));
                class.queues.remove(&id);
            }
        }
    }

    /// The job is at work already, whatever the limit: what it ends with was begun by its own transition.
    pub fn occupy(&mut self, job: JobId, host: HostId, direction: Direction) {
        if !self.is_running(job) {
            self.remove(job);
            self.place.insert(job, Place::Running(host, direction));
            self.running.add(host, direction);
        }
    }

    /// Whether the job holds a slot.
    pub fn is_running(&self, job: JobId) -> bool {
        matches!(self.place.get(&job), Some(Place::Running(..)))
    }

    /// Whether there is a job that runs, could run, or waits for its time.
    pub fn has_work(&self) -> bool {
        !self.place.is_empty()
    }

    /// Reserves bytes of the staging budget for a job (its copy exists, or is being made); 0 frees.
    pub fn hold_copy(&mut self, job: JobId, bytes: u64) {
        let before = if bytes == 0 { self.copies.remove(&job) } else { self.copies.insert(job, bytes) };
        self.copied = self.copied - before.unwrap_or(0) + bytes;
    }

    /// There is no way to the host: nothing of it is begun before `due` (monotonic), and then one job.
    pub fn host_down(&mut self, host: HostId, due: Duration) {
        self.down.insert(host, due);
    }

    /// The host has answered.
    pub fn host_up(&mut self, host: HostId) {
        self.down.remove(&host);
    }

    /// There is no space for what jobs of this direction begin with: no other is begun before `due` (monotonic).
    pub fn disk_full(&mut self, direction: Direction, due: Duration) {
        self.full[usize::from(direction == Direction::Upload)] = due;
    }

    /// When to look again if nothing happens.
    pub fn next_due(&self, now: Duration) -> Option<Duration> {
        let waiting = self.waiting.first().map(|&(due, _)| due);
        // A host that is due and not tried waits for a slot, not for time.
        let down = self.down.values().chain(&self.full).copied().filter(|&due| due > now).min();
        [waiting, down].into_iter().flatten().min()
    }

    /// The jobs whose time has come. They have no place until the caller gives them one.
    pub fn due(&mut self, now: Duration) -> Vec<JobId> {
        let mut due = Vec::new();
        while let Some(&(at, job)) = self.waiting.first()
            && at <= now
        {
            self.remove(job);
            due.push(job);
        }
        due
    }

    /// Gives free slots to the next jobs; the copies of those that need one are reserved.
    pub fn admit(&mut self, now: Duration) -> Vec<JobId> {
        let mut admitted = Vec::new();
        while self.running.all < self.slots.concurrent
            && let Some((job, wish)) = self.next(now)
        {
            self.leave_queue(job, &wish);
            self.passed.remove(&job);
            if self.first_copy == Some(job) {
                self.first_copy = None;
            }
            if wish.copy > 0 && !self.copies.contains_key(&job) {
                self.hold_copy(job, self.need(wish.copy));
            }
            self.place.insert(job, Place::Running(wish.host, wish.direction));
            self.running.add(wish.host, wish.direction);
            self.took_turn(&wish);
            admitted.push(job);
        }
        admitted
    }

    /// More than the whole budget: alone is the best it can get.
    fn need(&self, copy: u64) -> u64 {
        copy.min(self.budget)
    }

    fn took_turn(&mut self, wish: &Wish) {
        self.turns += 1;
        let turn = self.turns;
        let class = &mut self.classes[usize::from(wish.priority)];
        class.pass += STRIDE >> wish.priority;
        let id = QueueId::of(wish);
        if let Some(queue) = class.queues.get_mut(&id) {
            class.turns.remove(&(id.rank, queue.turn, id));
            queue.turn = turn;
            class.turns.insert((id.rank, turn, id));
        }
    }

    fn next(&mut self, now: Duration) -> Option<(JobId, Wish)> {
        // Only while it could run at all: a host that is away must not hold up the copies for others.
        let first_copy = self.first_copy.filter(|job| match self.place.get(job) {
            Some(Place::Ready(wish)) => self.may_run(QueueId::of(wish), now),
            Some(Place::Waiting(_) | Place::Running(..)) | None => false,
        });
        let mut classes: Vec<usize> =
            (0..self.classes.len()).filter(|&index| !self.classes[index].queues.is_empty()).collect();
        classes.sort_by_key(|&index| (self.classes[index].pass, std::cmp::Reverse(index)));
        for index in classes {
            let mut passed = Vec::new();
            let turns = self.classes[index].turns.iter();
            let found = turns.filter(|(_, _, id)| self.may_run(*id, now)).find_map(|(_, _, id)| {
                let queue = &self.classes[index].queues[id];
                self.first_that_fits(*id, queue, first_copy, &mut passed)
            });
            // Whoever could have gone but for the size of its copy was passed over by the one that goes.
            if found.is_some() {
                for job in passed {
                    self.pass_over(job);
                }
            }
            if let Some(job) = found
                && let Some(Place::Ready(wish)) = self.place.get(&job)
            {
                return Some((job, *wish));
            }
        }
        None
    }

    fn may_run(&self, queue: QueueId, now: Duration) -> bool {
        self.blocked(queue, now).is_none()
    }

    /// What keeps all of a queue from running, but for the slots.
    fn blocked(&self, queue: QueueId, now: Duration) -> Option<Wait> {
        let of_host = self.running.of(queue.host);
        let (running, most) = if queue.upload {
            (self.running.uploads, self.slots.uploads)
        } else {
            (self.running.downloads, self.slots.downloads)
        };
        if self.down.get(&queue.host).is_some_and(|&due| now < due || of_host > 0) {
            return Some(Wait::Network);
        }
        let needs_space = queue.rank == Rank::New && (queue.copies || !queue.upload);
        if needs_space && now < self.full[usize::from(queue.upload)] {
            return Some(Wait::Space);
        }
        if of_host >= self.slots.per_host {
            return Some(Wait::Host);
        }
        (running >= most).then_some(Wait::Direction)
    }

    fn first_that_fits(
        &self,
        id: QueueId,
        queue: &Queue,
        first_copy: Option<JobId>,
        passed: &mut Vec<JobId>,
    ) -> Option<JobId> {
        if !id.copies {
            return queue.jobs.first().copied();
        }
        let room = self.budget.saturating_sub(self.copied);
        let fits = |job: &&JobId| {
            let Some(Place::Ready(wish)) = self.place.get(job) else { return false };
            self.copies.contains_key(job) || self.need(wish.copy) <= room
        };
        if let Some(first) = first_copy {
            return queue.jobs.get(&first).filter(fits).copied();
        }
        let found = queue.jobs.iter().take(LOOK_AHEAD).find(fits).copied();
        if found.is_some_and(|job| queue.jobs.first() != Some(&job)) {
            passed.extend(queue.jobs.first());
        }
        found
    }

    fn pass_over(&mut self, job: JobId) {
        let passes = self.passed.entry(job).or_default();
        *passes += 1;
        if *passes >= PASSES_MAX {
            self.first_copy = Some(job);
        }
    }

    /// Why a job does not run now; `None` if it does, or is not here.
    pub fn waits_for(&self, job: JobId, now: Duration) -> Option<Wait> {
        match self.place.get(&job)? {
            Place::Running(..) => None,
            Place::Waiting(_) => Some(Wait::Time),
            Place::Ready(wish) => {
                let room = self.budget.saturating_sub(self.copied);
                let no_room = wish.copy > 0 && self.need(wish.copy) > room;
                let blocked = self.blocked(QueueId::of(wish), now);
                Some(blocked.unwrap_or(if no_room { Wait::Copy } else { Wait::Slot }))
            }
        }
    }
}

#[cfg(test)]
mod tests;
