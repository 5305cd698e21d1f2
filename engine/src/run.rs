//! The loop: inputs in, one commit for all that wait, effects out.
//!
//! ```text
//! inbox ─▶ step, apply (many) ─▶ Journal::append_all (one flush) ─▶ perform, answer, tell
//!   ▲                                                                  │
//!   └──────────────────────────── news of effects ─────────────────────┘
//! ```
//!
//! One task owns every job; nothing else changes one. While a flush is under way the inbox fills,
//! and the next round takes all of it: that is the group commit. Answers to callers are effects
//! too: "accepted" is said when it is durable.
//!
//! Jobs are in memory while they are at work, and until a checkpoint has put what changed of them into rows;
//! of all others there is an entry in the [`Index`] and no more ([`shelf`] reads them, [`save`] writes them).
//!
//! Invariant: between rounds the jobs in memory, with the rows of the others, are exactly what the journal would
//! replay. When an append fails the loop ends, and says so; nothing is answered or performed after it.

mod ask;
mod echo;
pub mod exchange;
pub mod feed;
pub mod index;
pub mod perform;
mod place;
mod save;
pub mod shelf;
pub mod staging;
mod submit;
pub mod transfer;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use longhaul_journal::{Committed, Journal, RowKey, Seq};
use tokio::sync::{mpsc, oneshot, watch};

pub use ask::{Ask, Change};

use crate::control::{Acceptance, PAGE_MAX, Response, Selection};
use crate::job::record::{self, Jobs, Record};
use crate::job::step::{self, Context, Effect, Input, LocalFault, Transition};
use crate::job::{Job, JobId, JobSpec, JobState};
use crate::ports::{Ports, WallMs};
use crate::protocol;
use crate::schedule::{Schedule, Slots};
use crate::secret::Secrets;
use crate::view::JobView;

use ask::Bulk;
use feed::{Backlog, Feed};
use index::{Index, Stand};
use perform::{Live, Performer, moved};
use place::{is_of_host, word};
use save::Saving;
use shelf::{Ended, Found};
use submit::Given;
use transfer::Pace;

/// Log bytes after which a checkpoint is made, where nothing else is asked for.
pub const CHECKPOINT_BYTES: u64 = 8 << 20;
/// Bytes of a job's path at most: it, the part file's beside it, and what a server tells must fit a record.
const PATH_MAX: usize = 2500;
/// Changed jobs in memory after which a checkpoint is made, however small the log is.
const CHANGED_MAX: usize = 4096;
/// Changed jobs that are left to the next start when a session ends.
const AT_END_MAX: usize = 256;
/// Inputs taken in one round at most.
const ROUND_MAX: usize = 1024;
/// How often jobs that wait for space look for it.
const SPACE_PROBE: Duration = Duration::from_secs(2);
/// How long a job that tried in vain waits at most before it tries again.
const SPACE_PROBE_MAX: Duration = Duration::from_secs(300);
/// How long nothing new is begun after a disk was full; doubled while it stays so.
const FULL: Duration = Duration::from_secs(2);
/// The longest such span.
const FULL_MAX: Duration = Duration::from_secs(60);
/// A journaled deadline is never waited for longer than this.
const WAIT_MAX_MS: u64 = 300_000;
/// Wall time is looked at this often where something waits for it: clocks are set.
const WALL_LOOK_MS: u64 = 30_000;
/// What is said of a new job.
const ACCEPTED: &str = "accepted";
/// Free bytes that let a download of unknown size go on.
const SPACE_MIN: u64 = 16 << 20;

/// What reaches the loop.
#[derive(Debug)]
pub enum Message {
    /// News of an effect.
    Input {
        /// Which job's.
        id: JobId,
        /// The epoch in which the effect was begun.
        epoch: u64,
        /// The news.
        input: Input,
    },
    /// New jobs.
    Submit {
        /// What was asked for.
        orders: Vec<Order>,
        /// Answered once durable, in their order.
        answer: oneshot::Sender<Vec<Acceptance>>,
    },
    /// A request for jobs that exist.
    Ask {
        /// Which and what.
        ask: Ask,
        /// Answered once durable.
        answer: oneshot::Sender<Response>,
    },
    /// A job with all that is known of it.
    Look {
        /// Which.
        id: JobId,
        /// `None`: there is none.
        answer: oneshot::Sender<Option<Box<Job>>>,
    },
    /// The job that has a key.
    Keyed {
        /// Which.
        key: String,
        /// `None`: none has.
        answer: oneshot::Sender<Option<Box<Job>>>,
    },
    /// To hear what happens.
    Listen {
        /// What has been heard.
        after: Option<u64>,
        /// Of which jobs.
        jobs: Selection,
        /// Where to begin.
        answer: oneshot::Sender<Backlog>,
    },
    /// Stop; jobs keep the states they are in.
    Stop,
}

/// A new job, or why there is none.
#[derive(Debug)]
pub enum Order {
    /// To be accepted.
    Job {
        /// What was asked for.
        spec: Box<JobSpec>,
        /// What nobody else may see.
        secrets: Secrets,
    },
    /// Refused already: its kind and text.
    Refused(String, String),
    /// There is this job already, under its key.
    Known(JobId),
}

/// How a session came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// It was told to stop.
    Stopped,
    /// The journal failed; nothing was acknowledged after that. Restart to find out what is durable.
    Poisoned(String),
}

/// Limits of a session.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Jobs that run at once.
    pub slots: Slots,
    /// Bytes a second of all jobs together.
    pub rate: Option<u64>,
    /// Bytes that staging copies may take.
    pub stage_budget: u64,
    /// Whether transfers are started at all; clean-up of ended jobs always goes on.
    pub admit: bool,
    /// How long ended jobs are kept.
    pub retention: Duration,
    /// Log bytes after which a checkpoint is made.
    pub checkpoint_bytes: u64,
}

/// The loop's state.
pub struct Runner {
    jobs: Jobs,
    index: Index,
    ended: Ended,
    live: BTreeMap<JobId, Live>,
    epochs: u64,
    /// Jobs that were unfinished at the start and have not been admitted since.
    recovered: BTreeSet<JobId>,
    schedule: Schedule,
    limits: Limits,
    /// Of all jobs together.
    pace: Pace,
    journal: Journal<Transition>,
    performer: Performer,
    inbox: mpsc::UnboundedReceiver<Message>,
    /// Follow-ups of the last round: taken before the inbox.
    next: VecDeque<Message>,
    bulk: VecDeque<Bulk>,
    feed: Feed,
    closed: watch::Sender<Option<Closed>>,
    busy: watch::Sender<bool>,
    committed_to: Seq,
    // What a checkpoint has to write.
    changed: BTreeSet<JobId>,
    removes: Vec<RowKey>,
    /// Jobs in memory that have rows.
    on_shelf: BTreeSet<JobId>,
    /// Submitters' keys of jobs without rows.
    keys: BTreeMap<String, JobId>,
    saving: Saving,
    // What waits for space, for a mount, for its deadline.
    /// Jobs whose suspension clears itself.
    held: BTreeSet<JobId>,
    space_probe_at: Option<Duration>,
    /// Of jobs that ran out of space: the bytes they had then, and how long they wait before they try again.
    space_spans: BTreeMap<JobId, (u64, Duration)>,
    space_due: BTreeMap<JobId, Duration>,
    full_span: Duration,
    /// Deadlines, by wall time, and the monotonic time at which they are due if no clock is set.
    deadlines: BTreeSet<(WallMs, JobId)>,
    deadline_due: BTreeMap<JobId, (WallMs, Duration)>,
}

/// What one round has gathered for its commit.
#[derive(Default)]
struct Round {
    transitions: Vec<Transition>,
    answers: Vec<Answer>,
    secrets: Vec<Given>,
    stop: bool,
}

/// An answer that waits for the commit.
enum Answer {
    Submitted(oneshot::Sender<Vec<Acceptance>>, Vec<Acceptance>),
    Said(oneshot::Sender<Response>, Response),
    Changed(Bulk),
}

/// The ends of a runner's channels that others hold.
pub struct Wiring {
    /// Into the loop.
    pub inbox: mpsc::UnboundedSender<Message>,
    /// The other end.
    pub messages: mpsc::UnboundedReceiver<Message>,
    /// Says how it ended.
    pub closed: watch::Sender<Option<Closed>>,
    /// Says whether there is anything to do.
    pub busy: watch::Sender<bool>,
}

impl Runner {
    /// Takes over what recovery found.
    pub fn new(
        ports: Ports,
        journal: Journal<Transition>,
        last: Seq,
        found: Found,
        stage_dir: PathBuf,
        limits: Limits,
        wiring: Wiring,
    ) -> Self {
        let pace = Pace::new(limits.rate, &ports);
        Self {
            recovered: found.index.iter().map(|(id, _)| id).collect(),
            // Everything that the tail of the log brought is newer than the rows.
            changed: found.jobs.map.keys().copied().collect(),
            jobs: found.jobs,
            index: found.index,
            ended: found.ended,
            live: BTreeMap::new(),
            epochs: 0,
            schedule: Schedule::new(limits.slots, limits.stage_budget),
            limits,
            pace,
            committed_to: last,
            journal,
            performer: Performer { ports, inbox: wiring.inbox, stage_dir },
            inbox: wiring.messages,
            next: VecDeque::new(),
            bulk: VecDeque::new(),
            feed: found.feed,
            closed: wiring.closed,
            busy: wiring.busy,
            removes: found.removes,
            on_shelf: found.on_shelf,
            keys: found.keys,
            saving: Saving::default(),
            held: BTreeSet::new(),
            space_probe_at: None,
            space_spans: BTreeMap::new(),
            space_due: BTreeMap::new(),
            full_span: Duration::ZERO,
            deadlines: BTreeSet::new(),
            deadline_due: BTreeMap::new(),
        }
    }

    /// Runs until told to stop or until the journal fails.
    pub async fn run(mut self) -> (Closed, watch::Sender<Option<Closed>>) {
        let unfinished: Vec<JobId> = self.recovered.iter().copied().collect();
        for id in unfinished {
            self.place(id);
        }
        // A long tail of the log is in memory: it leaves it at once.
        let started = if self.is_save_due() { self.save().await } else { Ok(()) };
        let end = loop {
            if let Err(error) = &started {
                break Closed::Poisoned(error.clone());
            }
            match self.round().await {
                Ok(false) => {}
                Ok(true) => break Closed::Stopped,
                Err(error) => {
                    tracing::error!(%error, "the journal failed; stopping");
                    break Closed::Poisoned(error);
                }
            }
        };
        // Blocking calls outlive their tasks; the next owner must not meet them.
        for live in self.live.values_mut() {
            live.quiet().await;
        }
        self.live.clear();
        let mut saved = self.saving.finish().await;
        if end == Closed::Stopped && saved.is_ok() && self.changed.len() > AT_END_MAX {
            // The next start need not read them one by one.
            saved = self.save().await;
            saved = saved.and(self.saving.finish().await);
        }
        let end = match (end, saved) {
            (Closed::Stopped, Err(error)) => Closed::Poisoned(error),
            (end, _) => end,
        };
        if let Err(error) = self.journal.close().await {
            tracing::warn!(%error, "the journal did not close cleanly");
        }
        (end, self.closed)
    }

    /// One round; whether it was the last.
    async fn round(&mut self) -> Result<bool, String> {
        let round = self.gather().await?;
        let stop = round.stop;
        self.commit(round).await?;
        Ok(stop)
    }

    fn ports(&self) -> &Ports {
        &self.performer.ports
    }

    /// Waits for something to do, and steps everything that waits.
    async fn gather(&mut self) -> Result<Round, String> {
        let mut round = Round::default();
        self.admit().await?;
        self.tell_busy();
        if self.next.is_empty() && !self.may_go_on_with_bulk() {
            let now = self.ports().clock.elapsed();
            let due = [self.schedule.next_due(now), self.space_probe_at, self.next_deadline(now)];
            let clock = Arc::clone(&self.ports().clock);
            let timer = async {
                match due.into_iter().flatten().min() {
                    Some(due) => clock.sleep(due.saturating_sub(now)).await,
                    None => std::future::pending().await,
                }
            };
            let message = tokio::select! {
                biased;
                message = self.inbox.recv() => message,
                () = self.saving.ended() => None,
                () = timer => None,
            };
            self.next.extend(message);
        }
        self.saved()?;
        self.pass_deadlines(&mut round).await?;
        self.probe_space(&mut round).await?;
        self.admit().await?;
        for _ in 0..ROUND_MAX {
            let Some(message) = self.next.pop_front().or_else(|| self.inbox.try_recv().ok()) else { break };
            self.take(message, &mut round).await?;
        }
        self.go_on_with_bulk(&mut round).await?;
        Ok(round)
    }

    fn tell_busy(&self) {
        let busy = self.schedule.has_work() || !self.held.is_empty() || !self.bulk.is_empty();
        self.busy.send_if_modified(|was| std::mem::replace(was, busy) != busy);
    }

    async fn admit(&mut self) -> Result<(), String> {
        let now = self.ports().clock.elapsed();
        for id in self.schedule.due(now) {
            self.place_at(id, true);
        }
        let admitted = self.schedule.admit(now);
        self.ensure(admitted.iter().copied()).await?;
        for id in admitted {
            let restarted = self.recovered.remove(&id);
            self.follow_up(id, Input::Admitted { restarted });
        }
        Ok(())
    }

    /// An input of the loop's own, for the job as it is now.
    fn follow_up(&mut self, id: JobId, input: Input) {
        let epoch = self.live(id).epoch;
        self.next.push_back(Message::Input { id, epoch, input });
    }

    /// What is in flight for a job: made when there is none.
    fn live(&mut self, id: JobId) -> &mut Live {
        let rate = self.jobs.map.get(&id).and_then(|job| job.spec.limit_rate);
        let Self { live, epochs, pace, performer, .. } = self;
        live.entry(id).or_insert_with(|| {
            *epochs += 1;
            Live::new(*epochs, pace.with(rate, &performer.ports))
        })
    }

    /// Has these jobs in memory, those of them that are unfinished.
    async fn ensure(&mut self, ids: impl IntoIterator<Item = JobId>) -> Result<(), String> {
        let missing: BTreeSet<JobId> = ids
            .into_iter()
            .filter(|id| !self.jobs.map.contains_key(id) && self.index.get(*id).is_some())
            .collect();
        for job in shelf::fetch(&self.journal, &missing).await? {
            self.on_shelf.insert(job.id);
            self.jobs.map.insert(job.id, job);
        }
        match missing.into_iter().find(|id| !self.jobs.map.contains_key(id)) {
            Some(id) => Err(format!("job {id} is in the index and has no rows")),
            None => Ok(()),
        }
    }

    async fn take(&mut self, message: Message, round: &mut Round) -> Result<(), String> {
        match message {
            Message::Input { id, epoch, input } => {
                if self.live.get(&id).is_some_and(|live| live.epoch == epoch) {
                    self.step(id, input, round);
                }
            }
            Message::Submit { orders, answer } => self.submit(orders, answer, round).await?,
            Message::Ask { ask, answer } => self.ask(ask, answer, round).await?,
            Message::Look { id, answer } => {
                let job = self.find(id).await?;
                let _gone = answer.send(job.map(Box::new));
            }
            Message::Keyed { key, answer } => {
                let id = match self.keys.get(&key) {
                    Some(id) => Some(*id),
                    None => shelf::keyed(&self.journal, &[key]).await?.pop().flatten(),
                };
                let job = match id.filter(|id| !self.jobs.gone.contains(id)) {
                    Some(id) => self.find(id).await?,
                    None => None,
                };
                let _gone = answer.send(job.map(Box::new));
            }
            Message::Listen { after, jobs, answer } => {
                let _gone = answer.send(self.feed.listen(after, &jobs));
            }
            Message::Stop => {
                // A form that is cut off before its end can go on under the next owner.
                let cut: Vec<JobId> =
                    self.live.iter_mut().filter_map(|(id, live)| live.seal().then_some(*id)).collect();
                for id in cut {
                    self.step(id, Input::Unsent, round);
                }
                round.stop = true;
            }
        }
        Ok(())
    }

    /// A job, wherever it is.
    async fn find(&mut self, id: JobId) -> Result<Option<Job>, String> {
        if let Some(job) = self.jobs.map.get(&id) {
            return Ok(Some(job.clone()));
        }
        if self.index.get(id).is_some() {
            return Ok(shelf::fetch(&self.journal, &BTreeSet::from([id])).await?.pop());
        }
        if self.jobs.gone.contains(&id) || id > self.jobs.last {
            return Ok(None);
        }
        shelf::ended(&self.journal, id).await
    }

    /// Steps one job, which is in memory; whether it moved.
    fn step(&mut self, id: JobId, input: Input, round: &mut Round) -> bool {
        if matches!(input, Input::Suspend(_)) && self.live.get_mut(&id).is_some_and(Live::seal) {
            self.step(id, Input::Unsent, round);
        }
        let Some(job) = self.jobs.map.get(&id) else { return false };
        let span = tracing::debug_span!("job", %id);
        let _entered = span.enter();
        let context = Context { now: self.ports().clock.now(), seed: self.ports().entropy.seed() };
        let answered = matches!(&input, Input::Protocol(protocol::Input::Reply { reply, .. }) if is_of_host(job, &reply.url));
        let offline = job.core.offline;
        let Some(mut transition) = step::step(job, input, context) else { return false };
        if !record::fits(&transition.record) {
            // One job must never stop all others: the journal refuses it, so the job ends, in few words.
            let why = "what is known of the job became too long to be journaled".to_owned();
            let shorter = step::step(job, Input::LocalFault(LocalFault::Fatal(why)), context);
            let Some(shorter) = shorter.filter(|shorter| record::fits(&shorter.record)) else { return false };
            transition = shorter;
        }
        // News of what ran before the halt is late from here on, also within this round.
        if transition.effects.contains(&Effect::Halt) {
            self.epochs += 1;
            let epoch = self.epochs;
            self.live(id).epoch = epoch;
        }
        transition.epoch = self.live(id).epoch;
        self.record(transition, round);
        self.note_network(id, offline, answered);
        true
    }

    /// Applies a transition and queues it for the commit of this round.
    fn record(&mut self, transition: Transition, round: &mut Round) {
        let id = transition.id();
        let before = self.jobs.map.get(&id).is_some_and(|job| job.state().is_terminal());
        if let Err(error) = self.jobs.apply(transition.record.clone()) {
            // The table is tested to allow every move that step makes: only a bug comes here.
            tracing::error!(%error, "a transition was refused");
            return;
        }
        let begins = transition.effects.iter().any(|effect| *effect != Effect::Halt);
        round.transitions.push(transition);
        let Some(job) = self.jobs.map.get(&id) else { return };
        self.index.note(job);
        if job.state().is_terminal() && !before {
            self.ended.count(job.state(), true);
        }
        self.changed.insert(id);
        // A clean-up that its own transition begins holds a slot, or the schedule would begin it again.
        if begins && let Some(brief) = self.index.get(id) {
            self.schedule.occupy(id, brief.host, brief.direction);
        }
        self.place(id);
    }

    /// Makes a round durable, then lets it take effect.
    async fn commit(&mut self, round: Round) -> Result<(), String> {
        let Round { transitions, answers, secrets, .. } = round;
        let committed = self.append(transitions).await?;
        let (refused, fail) = self.keep_secrets(secrets).await;
        for committed in committed {
            self.take_effect(committed);
        }
        if !fail.is_empty() {
            // Who is told that there is no job must not meet it at work after a crash: it ends before that is said.
            let mut round = Round::default();
            for id in fail {
                let why = refused.get(&id).cloned().unwrap_or_default();
                self.step(id, Input::LocalFault(LocalFault::Fatal(why)), &mut round);
            }
            let committed = self.append(round.transitions).await?;
            for committed in committed {
                self.take_effect(committed);
            }
        }
        // Before the answers: who is told that a job is accepted must not find the session idle.
        self.tell_busy();
        for answer in answers {
            self.answer(answer, &refused);
        }
        if self.is_save_due() {
            self.save().await?;
        }
        // Whoever is faster than the disk waits for it here: memory is not a place to keep jobs.
        while self.saving.is_under_way() && self.changed.len() > 4 * CHANGED_MAX {
            self.saving.ended().await;
            self.saved()?;
            if self.is_save_due() {
                self.save().await?;
            }
        }
        Ok(())
    }

    async fn append(&mut self, transitions: Vec<Transition>) -> Result<Vec<Committed<Transition>>, String> {
        if transitions.is_empty() {
            return Ok(Vec::new());
        }
        let committed = self.journal.append_all(transitions).await.map_err(|error| error.to_string())?;
        self.committed_to = committed.last().map_or(self.committed_to, Committed::seq);
        Ok(committed)
    }

    fn take_effect(&mut self, committed: Committed<Transition>) {
        let (id, number) = (committed.value().id(), committed.seq().0);
        let what = match &committed.value().record {
            Record::Submitted { .. } | Record::SubmittedLong { .. } => Some(ACCEPTED.to_owned()),
            Record::Moved { what, .. } => what.clone(),
            Record::Removed { .. } => return self.performer.remove_secrets(id),
            Record::Piece { .. } => return,
        };
        self.live(id);
        self.note_space(id, &committed.value().record);
        let Self { jobs, live, performer, limits, .. } = self;
        let (Some(job), Some(flight)) = (jobs.map.get(&id), live.get_mut(&id)) else { return };
        let copy_fits = job.spec.source.is_some_and(|source| source.size <= limits.stage_budget);
        performer.perform(job, flight, committed, copy_fits);
        if let (Some(what), Some(job)) = (what, self.jobs.map.get(&id)) {
            let view = self.view(job);
            perform::span(job).in_scope(|| trace(&what, &view));
            self.feed.tell_view(number, what, view);
        }
        let rests = self.index.get(id).is_none_or(|brief| brief.hold.is_some() || brief.stand == Stand::New);
        if rests && self.live.get(&id).is_some_and(Live::is_idle) && !self.schedule.is_running(id) {
            self.live.remove(&id);
        }
    }

    fn answer(&mut self, answer: Answer, refused: &BTreeMap<JobId, String>) {
        match answer {
            Answer::Submitted(answer, mut results) => {
                for result in &mut results {
                    if let Acceptance::Accepted { id, .. } = result
                        && let Some(why) = refused.get(id)
                    {
                        *result = Acceptance::Refused { kind: "secrets".to_owned(), text: why.clone() };
                    }
                }
                let _gone = answer.send(results);
            }
            Answer::Said(answer, response) => {
                let _gone = answer.send(response);
            }
            Answer::Changed(bulk) => {
                let Bulk { answer, changed, mut views, skipped, .. } = bulk;
                // As they are now, where they still are in memory.
                for view in &mut views {
                    if let Some(job) = self.jobs.map.get(&view.id) {
                        *view = self.view(job);
                    }
                }
                views.truncate(PAGE_MAX);
                let _gone = answer.send(Response::Changed { changed, jobs: views, skipped });
            }
        }
    }

    fn view(&self, job: &Job) -> JobView {
        // Of an ended job only what is journaled counts: it must look the same after a restart.
        let live = self.live.get(&job.id).filter(|_| !job.state().is_terminal());
        let mut view = JobView::new(job, moved(live));
        let waits = self.schedule.waits_for(job.id, self.ports().clock.elapsed());
        view.waits_for = waits.map(|wait| word(wait, job)).filter(|_| self.limits.admit);
        view
    }
}

/// Says what became of a job: loud where it is another state for those who watch, else for those who look closely.
fn trace(what: &str, job: &JobView) {
    let cause = job.cause.as_ref().map(|cause| cause.kind.as_str());
    let is_loud = match job.state {
        JobState::Suspended | JobState::Completed | JobState::Failed => true,
        JobState::Queued | JobState::Staged | JobState::Sending => {
            matches!(what, ACCEPTED | step::RESUMED)
        }
    };
    if is_loud {
        tracing::info!(state = %job.state, cause, "{what}");
    } else {
        tracing::debug!(state = %job.state, "{what}");
    }
}

#[cfg(test)]
mod tests;
