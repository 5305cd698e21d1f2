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
//! Invariant: between rounds the jobs in memory are exactly what the journal would replay. When an
//! append fails the loop ends, and says so; nothing is answered or performed after it.

pub mod perform;
pub mod staging;
pub mod transfer;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use longhaul_journal::{Checkpoint, CheckpointError, Committed, Journal, RowKey, Seq};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::control::{Response, Skipped};
use crate::job::record::{self, Jobs, Record};
use crate::job::step::{self, Context, Effect, Input, LocalFault, Transition};
use crate::job::{Direction, Job, JobId, JobSpec, Phase, SnapshotMethod, StageMode, SuspendCause};
use crate::ports::{Ports, WallMs};
use crate::schedule::{CopyNeed, Rank, Schedule};
use crate::view::{Event, JobLog, JobView};

use perform::{Live, Performer, moved, remaining_ms};

/// Log bytes after which a checkpoint is made, where nothing else is asked for.
pub const CHECKPOINT_BYTES: u64 = 8 << 20;
/// Bytes of a job's path at most: it, the part file's beside it, and what a server tells must fit a record.
const PATH_MAX: usize = 2500;
/// Inputs taken in one round at most.
const ROUND_MAX: usize = 1024;
/// How often jobs that wait for space look for it.
const SPACE_PROBE: Duration = Duration::from_secs(2);
/// How long a job that tried in vain waits at most before it tries again.
const SPACE_PROBE_MAX: Duration = Duration::from_secs(300);
/// A journaled deadline is never waited for longer than this.
const WAIT_MAX_MS: u64 = 300_000;
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
    /// A new job.
    Submit {
        /// What was asked for.
        spec: Box<JobSpec>,
        /// Answered once durable.
        answer: oneshot::Sender<Response>,
    },
    /// A request for jobs that exist.
    Ask {
        /// Which and what.
        ask: Ask,
        /// Answered once durable.
        answer: oneshot::Sender<Response>,
    },
    /// Stop; jobs keep the states they are in.
    Stop,
}

/// Requests for jobs that exist; `None` means all that the request fits.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Tell of them.
    List(Option<Vec<JobId>>),
    /// Tell one's history.
    Log(JobId),
    /// Suspend.
    Suspend(Option<Vec<JobId>>),
    /// Resume.
    Resume(Option<Vec<JobId>>),
    /// Cancel.
    Cancel(Option<Vec<JobId>>),
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
    pub concurrent: usize,
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
    live: BTreeMap<JobId, Live>,
    /// Jobs that were unfinished at the start and have not been admitted since.
    recovered: BTreeSet<JobId>,
    schedule: Schedule,
    limits: Limits,
    journal: Journal<Transition>,
    performer: Performer,
    inbox: mpsc::UnboundedReceiver<Message>,
    /// Follow-ups of the last round: taken before the inbox.
    next: VecDeque<Message>,
    events: broadcast::Sender<Response>,
    event_number: u64,
    closed: watch::Sender<Option<Closed>>,
    changed: BTreeSet<JobId>,
    committed_to: Seq,
    /// When jobs that wait for space look for it.
    space_probe_at: Option<Duration>,
    /// Of jobs that ran out of space: the bytes they had then, and how long they wait before they try again.
    space_spans: BTreeMap<JobId, (u64, Duration)>,
    space_due: BTreeMap<JobId, Duration>,
}

/// What one round has gathered for its commit.
#[derive(Default)]
struct Round {
    transitions: Vec<Transition>,
    answers: Vec<(oneshot::Sender<Response>, Answer)>,
    stop: bool,
}

/// An answer that waits for the commit.
enum Answer {
    Submitted(JobId),
    Changed(Vec<JobId>, Vec<Skipped>),
}

/// The ends of a runner's channels that others hold.
pub struct Wiring {
    /// Into the loop.
    pub inbox: mpsc::UnboundedSender<Message>,
    /// The other end.
    pub messages: mpsc::UnboundedReceiver<Message>,
    /// To subscribers.
    pub events: broadcast::Sender<Response>,
    /// Says how it ended.
    pub closed: watch::Sender<Option<Closed>>,
}

impl Runner {
    /// Takes over what recovery found.
    pub fn new(
        ports: Ports,
        journal: Journal<Transition>,
        last: Seq,
        jobs: Jobs,
        stage_dir: PathBuf,
        limits: Limits,
        wiring: Wiring,
    ) -> Self {
        let recovered =
            jobs.map.values().filter(|job| !job.state().is_terminal()).map(|job| job.id).collect();
        Self {
            // Everything that the tail of the log brought is newer than the rows.
            changed: jobs.map.keys().copied().collect(),
            jobs,
            live: BTreeMap::new(),
            recovered,
            schedule: Schedule::new(limits.concurrent, limits.stage_budget),
            limits,
            committed_to: last,
            journal,
            performer: Performer { ports, inbox: wiring.inbox, stage_dir },
            inbox: wiring.messages,
            next: VecDeque::new(),
            events: wiring.events,
            event_number: 0,
            closed: wiring.closed,
            space_probe_at: None,
            space_spans: BTreeMap::new(),
            space_due: BTreeMap::new(),
        }
    }

    /// Runs until told to stop or until the journal fails.
    pub async fn run(mut self) -> (Closed, watch::Sender<Option<Closed>>) {
        let unfinished: Vec<JobId> = self.recovered.iter().copied().collect();
        for id in unfinished {
            self.place(id);
        }
        let end = loop {
            let round = self.gather().await;
            let stop = round.stop;
            if let Err(error) = self.commit(round).await {
                tracing::error!(%error, "the journal failed; stopping");
                break Closed::Poisoned(error);
            }
            if stop {
                break Closed::Stopped;
            }
        };
        // Blocking calls outlive their tasks; the next owner must not meet them.
        for live in self.live.values_mut() {
            live.quiet().await;
        }
        self.live.clear();
        if let Err(error) = self.journal.close().await {
            tracing::warn!(%error, "the journal did not close cleanly");
        }
        (end, self.closed)
    }

    fn ports(&self) -> &Ports {
        &self.performer.ports
    }

    /// Waits for something to do, and steps everything that waits.
    async fn gather(&mut self) -> Round {
        let mut round = Round::default();
        self.admit();
        if self.next.is_empty() {
            let now = self.ports().clock.elapsed();
            let due = [self.schedule.next_due(), self.space_probe_at].into_iter().flatten().min();
            let timer = async {
                match due {
                    Some(due) => self.performer.ports.clock.sleep(due.saturating_sub(now)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                message = self.inbox.recv() => self.next.extend(message),
                () = timer => {}
            }
        }
        self.probe_space(&mut round).await;
        self.admit();
        for _ in 0..ROUND_MAX {
            let Some(message) = self.next.pop_front().or_else(|| self.inbox.try_recv().ok()) else { break };
            self.take(message, &mut round);
        }
        round
    }

    fn admit(&mut self) {
        let now = self.ports().clock.elapsed();
        let jobs = &self.jobs.map;
        let budget = self.schedule.budget();
        for id in
            self.schedule.admit(now, |id| jobs.get(&id).map_or(CopyNeed::None, |job| copy_need(job, budget)))
        {
            let epoch = self.live.entry(id).or_default().epoch;
            let restarted = self.recovered.remove(&id);
            self.next.push_back(Message::Input { id, epoch, input: Input::Admitted { restarted } });
        }
    }

    fn take(&mut self, message: Message, round: &mut Round) {
        match message {
            Message::Input { id, epoch, input } => {
                if self.live.get(&id).is_some_and(|live| live.epoch == epoch) {
                    self.step(id, input, round);
                }
            }
            Message::Submit { spec, answer } => self.submit(spec, answer, round),
            Message::Ask { ask, answer } => self.ask(ask, answer, round),
            Message::Stop => round.stop = true,
        }
    }

    fn submit(&mut self, spec: Box<JobSpec>, answer: oneshot::Sender<Response>, round: &mut Round) {
        let id = JobId(self.jobs.last.0 + 1);
        let path_len = spec.path.as_os_str().len();
        let record = Record::Submitted { id, at: self.ports().clock.now(), spec };
        if path_len > PATH_MAX || !record::fits(&record) {
            let text = format!(
                "the path (at most {PATH_MAX} bytes) or the URL is too long to be journaled; shorten it"
            );
            let _gone = answer.send(Response::Refused { kind: "too-large".to_owned(), text });
            return;
        }
        self.record(Transition { record, effects: Vec::new(), epoch: 0 }, round);
        round.answers.push((answer, Answer::Submitted(id)));
    }

    fn ask(&mut self, ask: Ask, answer: oneshot::Sender<Response>, round: &mut Round) {
        let refused = |id: JobId| Response::Refused {
            kind: "unknown-job".to_owned(),
            text: format!("there is no job {id} in this session; `haul ls` shows them"),
        };
        let (ids, input): (_, fn() -> Input) = match ask {
            Ask::List(ids) => {
                let _gone = answer.send(Response::Jobs { jobs: self.views(ids.as_deref()) });
                return;
            }
            Ask::Log(id) => {
                let log = self
                    .jobs
                    .map
                    .get(&id)
                    .map(|job| JobLog { job: self.view(job), entries: job.history.clone() });
                let _gone =
                    answer.send(log.map_or_else(|| refused(id), |log| Response::Log { log: Box::new(log) }));
                return;
            }
            Ask::Suspend(ids) => (ids, || Input::Suspend(SuspendCause::Requested)),
            Ask::Resume(ids) => (ids, || Input::Resume),
            Ask::Cancel(ids) => (ids, || Input::Cancel),
        };
        let named = ids.is_some();
        let ids = ids.unwrap_or_else(|| self.unfinished());
        if let Some(unknown) = ids.iter().find(|id| !self.jobs.map.contains_key(id)) {
            let _gone = answer.send(refused(*unknown));
            return;
        }
        let (mut done, mut skipped) = (Vec::new(), Vec::new());
        for id in ids {
            if self.step(id, input(), round) {
                done.push(id);
            } else if named && let Some(job) = self.jobs.map.get(&id) {
                skipped.push(Skipped { id, why: format!("it is {}", describe(job)) });
            }
        }
        round.answers.push((answer, Answer::Changed(done, skipped)));
    }

    fn unfinished(&self) -> Vec<JobId> {
        self.jobs.map.values().filter(|job| !job.state().is_terminal()).map(|job| job.id).collect()
    }

    /// Steps one job; whether it moved.
    fn step(&mut self, id: JobId, input: Input, round: &mut Round) -> bool {
        let Some(job) = self.jobs.map.get(&id) else { return false };
        let context = Context { now: self.ports().clock.now(), seed: self.ports().entropy.seed() };
        let Some(mut transition) = step::step(job, input, context) else { return false };
        if !record::fits(&transition.record) {
            // One job must never stop all others: the journal refuses it, so the job ends, in few words.
            let why = "what is known of the job became too long to be journaled".to_owned();
            let shorter = step::step(job, Input::LocalFault(LocalFault::Fatal(why)), context);
            let Some(shorter) = shorter.filter(|shorter| record::fits(&shorter.record)) else { return false };
            transition = shorter;
        }
        let live = self.live.entry(id).or_default();
        // News of what ran before the halt is late from here on, also within this round.
        if transition.effects.contains(&Effect::Halt) {
            live.epoch += 1;
        }
        transition.epoch = live.epoch;
        self.record(transition, round);
        true
    }

    /// Applies a transition and queues it for the commit of this round.
    fn record(&mut self, transition: Transition, round: &mut Round) {
        let id = transition.id();
        if let Err(error) = self.jobs.apply(transition.record.clone()) {
            // The table is tested to allow every move that step makes: only a bug comes here.
            tracing::error!(%error, "a transition was refused");
            return;
        }
        self.changed.insert(id);
        // A clean-up that its own transition begins holds a slot, or the schedule would begin it again.
        if transition.effects.iter().any(|effect| *effect != Effect::Halt) {
            self.schedule.occupy(id);
        }
        round.transitions.push(transition);
        self.place(id);
    }

    /// Gives a job its place in the schedule, by its state.
    fn place(&mut self, id: JobId) {
        let Some(job) = self.jobs.map.get(&id) else { return };
        let core = &job.core;
        let copy = core.snapshot.as_ref().filter(|snapshot| snapshot.method == SnapshotMethod::Copy);
        let admissible = self.limits.admit || matches!(core.phase, Phase::Ending { .. });
        let now = self.ports().clock.elapsed();
        if core.state().is_terminal() {
            self.schedule.remove(id);
            self.schedule.hold_copy(id, 0);
            self.space_spans.remove(&id);
            self.space_due.remove(&id);
            return;
        }
        if core.phase != Phase::Staging || core.suspended.is_some() {
            self.schedule
                .hold_copy(id, copy.map_or(0, |snapshot| snapshot.size.min(self.limits.stage_budget)));
        }
        if core.suspended.is_some() || !admissible {
            self.schedule.remove(id);
            if core.suspended.as_ref().is_some_and(SuspendCause::clears_itself) && self.limits.admit {
                // What was tried in vain is tried again less and less often, until bytes move.
                let (done, span) = self.space_spans.get(&id).copied().unwrap_or((core.done, SPACE_PROBE / 2));
                let span = if done == core.done { (span * 2).min(SPACE_PROBE_MAX) } else { SPACE_PROBE };
                self.space_spans.insert(id, (core.done, span));
                self.space_due.insert(id, now + span);
                self.space_probe_at.get_or_insert(now + SPACE_PROBE);
            }
        } else if let Some(at) = core.retry_at {
            let span = Duration::from_millis(remaining_ms(at, self.ports().clock.now(), WAIT_MAX_MS));
            self.schedule.wait(id, now + span);
        } else if !self.schedule.is_running(id) || core.phase == Phase::Queued {
            let rank = if matches!(core.phase, Phase::Queued) { Rank::New } else { Rank::Begun };
            self.schedule.ready(id, rank);
        } else if core.phase == Phase::Staged {
            let epoch = self.live.entry(id).or_default().epoch;
            self.next.push_back(Message::Input { id, epoch, input: Input::Admitted { restarted: false } });
        }
    }

    /// Makes a round durable, then lets it take effect.
    async fn commit(&mut self, round: Round) -> Result<(), String> {
        let Round { transitions, answers, .. } = round;
        let committed = if transitions.is_empty() {
            Vec::new()
        } else {
            self.journal.append_all(transitions).await.map_err(|error| error.to_string())?
        };
        for committed in committed {
            self.committed_to = committed.seq();
            self.take_effect(committed);
        }
        for (answer, what) in answers {
            let _gone = answer.send(self.answer(what));
        }
        if self.journal.log_bytes() > self.limits.checkpoint_bytes {
            self.checkpoint().await?;
        }
        Ok(())
    }

    fn take_effect(&mut self, committed: Committed<Transition>) {
        let id = committed.value().id();
        let what = match &committed.value().record {
            Record::Submitted { .. } => Some("accepted".to_owned()),
            Record::Moved { what, .. } => what.clone(),
        };
        let Some(job) = self.jobs.map.get(&id) else { return };
        let live = self.live.entry(id).or_default();
        let copy_fits = job.spec.source.is_some_and(|source| source.size <= self.limits.stage_budget);
        self.performer.perform(job, live, committed, copy_fits);
        if let Some(what) = what {
            self.event_number += 1;
            let event = Event { number: self.event_number, what, job: self.view(job) };
            // No subscriber is no error.
            let _nobody = self.events.send(Response::Event { event: Box::new(event) });
        }
        let idle = job.state().is_terminal();
        if idle {
            self.live.remove(&id);
        }
    }

    fn answer(&self, what: Answer) -> Response {
        match what {
            Answer::Submitted(id) => match self.jobs.map.get(&id) {
                Some(job) => Response::Submitted { job: Box::new(self.view(job)) },
                None => {
                    Response::Refused { kind: "unknown-job".to_owned(), text: format!("job {id} is gone") }
                }
            },
            Answer::Changed(ids, skipped) => Response::Changed { jobs: self.views(Some(&ids)), skipped },
        }
    }

    fn view(&self, job: &Job) -> JobView {
        // Of an ended job only what is journaled counts: it must look the same after a restart.
        let live = self.live.get(&job.id).filter(|_| !job.state().is_terminal());
        JobView::new(job, moved(live, job.core.done))
    }

    fn views(&self, ids: Option<&[JobId]>) -> Vec<JobView> {
        match ids {
            None => self.jobs.map.values().map(|job| self.view(job)).collect(),
            Some(ids) => {
                ids.iter().filter_map(|id| self.jobs.map.get(id)).map(|job| self.view(job)).collect()
            }
        }
    }

    async fn checkpoint(&mut self) -> Result<(), String> {
        let horizon =
            WallMs(self.ports().clock.now().0.saturating_sub(self.limits.retention.as_millis() as u64));
        let old = |job: &Job| job.state().is_terminal() && job.changed_at < horizon;
        let gone: Vec<JobId> = self.jobs.map.values().filter(|job| old(job)).map(|job| job.id).collect();
        for id in &gone {
            self.jobs.map.remove(id);
        }
        let mut puts: Vec<(RowKey, Vec<u8>)> = vec![record::meta_row(self.jobs.last)];
        puts.extend(self.changed.iter().filter_map(|id| self.jobs.map.get(id)).flat_map(record::rows));
        let checkpoint = Checkpoint {
            through: self.committed_to,
            puts,
            removes: gone.iter().copied().flat_map(record::row_keys).collect(),
            export: Some(vec![b'c', b'h', b'j', b'n']),
        };
        match self.journal.checkpoint(checkpoint).await {
            Ok(()) => {}
            // The checkpoint itself holds.
            Err(error @ CheckpointError::Export { .. }) => tracing::warn!(%error, "there is no new export"),
            Err(error) => return Err(error.to_string()),
        }
        self.changed.clear();
        Ok(())
    }

    /// Resumes jobs whose file system has room again.
    async fn probe_space(&mut self, round: &mut Round) {
        let now = self.ports().clock.elapsed();
        if self.space_probe_at.is_none_or(|at| at > now) {
            return;
        }
        self.space_probe_at = None;
        let waiting: Vec<(JobId, PathBuf, u64)> =
            self.jobs.map.values().filter_map(|job| self.space_wanted(job)).collect();
        for (id, path, wanted) in waiting {
            let free = self.ports().block(move |disk| disk.free_space(&path)).await;
            let due = self.space_due.get(&id).is_none_or(|due| *due <= now);
            if due && free.is_ok_and(|free| free >= wanted) {
                self.space_due.remove(&id);
                self.step(id, Input::Resume, round);
            } else {
                self.space_probe_at = Some(now + SPACE_PROBE);
            }
        }
    }

    fn space_wanted(&self, job: &Job) -> Option<(JobId, PathBuf, u64)> {
        let waits = !job.state().is_terminal()
            && job.core.suspended.as_ref().is_some_and(SuspendCause::clears_itself);
        waits.then(|| match job.spec.direction() {
            Direction::Upload => {
                (job.id, self.performer.stage_dir.clone(), job.core.size.unwrap_or(SPACE_MIN))
            }
            Direction::Download => {
                let dir = job.part_path().parent().map_or_else(PathBuf::new, ToOwned::to_owned);
                (job.id, dir, job.core.size.map_or(SPACE_MIN, |size| size.saturating_sub(job.core.done)))
            }
        })
    }
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

/// What a job's staging copy will take of the budget.
fn copy_need(job: &Job, budget: u64) -> CopyNeed {
    // A job that ends has no use for one, also if it never came to have one.
    let is_due = matches!(job.core.phase, Phase::Queued | Phase::Staging);
    let Some(source) = job.spec.source.filter(|_| is_due) else { return CopyNeed::None };
    match job.spec.stage {
        StageMode::None => CopyNeed::None,
        StageMode::Auto if source.size > budget => CopyNeed::None,
        StageMode::Auto | StageMode::Copy => CopyNeed::Bytes(source.size),
    }
}
