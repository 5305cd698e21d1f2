//! One seed, from the first life of its process to the verdict.
//!
//! ```text
//! open journal ─▶ open session ─▶ acts of the scenario … quiet ─▶ settle ─▶ shut down ─▶ verdict
//!      ▲               │ crash, shutdown, journal error: the next life, in a runtime of its own
//!      └───────────────┘
//! ```

use std::sync::{Arc, Mutex};
use std::time::Duration;

use longhaul::control::{Response, Selection};
use longhaul::sim::{Blocking, Ports, Survey, Transition};
use longhaul::{Closed, JobState, JobView, OpenError, Session, SessionOptions};
use longhaul_journal::{Executor, Journal, Opened};

use super::disk::SimDisk;
use super::fault::{Fault, Tally};
use super::net::SimNet;
use super::oracle::{Oracle, planned};
use super::scenario::{Act, Scenario, Way};
use super::store::SimStore;
use super::user;
use super::world::{End, Machine, World, lock};

/// Lives after which something is wrong with the simulation.
const LIVES_MAX: u64 = 60;
/// Virtual time in which every job must have ended or asked for help, once faults have stopped.
const SETTLE_MAX: Duration = Duration::from_secs(4 * 3600);
/// Nothing has changed for longer than any wait of the engine's.
const STILL: Duration = Duration::from_secs(600);

/// What may keep the staging area from being put in order.
const SWEEP_FAULTS: [Fault; 3] = [Fault::NameError, Fault::NoAccess, Fault::ReadOnly];

/// What a seed came to.
pub struct Outcome {
    pub seed: u64,
    pub trace: u64,
    pub violations: Vec<String>,
    pub tally: Tally,
}

/// How a life ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum LifeEnd {
    Crashed,
    /// By itself, because the journal or the start failed.
    Exited,
    /// Told to stop, half way.
    Stopped,
    /// The engine has closed the session, and said why.
    Closed(Closed),
    /// Every job has ended.
    Done,
}

pub struct Sim {
    pub world: Arc<World>,
    pub scenario: Scenario,
    pub oracle: Arc<Mutex<Oracle>>,
    /// All has been judged; one more life has a look at what is left of it.
    is_over: bool,
    pub life: u64,
}

/// Runs one seed.
pub fn run(seed: u64, print: bool) -> Outcome {
    let world = World::new(seed, print);
    let scenario = Scenario::draw(&world);
    for plan in &scenario.plans {
        world.note(format_args!("plan {plan:?}"));
    }
    world.note(format_args!("{:?} clones: {}", lock(&world.tus).offer, lock(&world.fs).clones));
    world.tally(|tally| tally.jobs = scenario.plans.len() as u64);
    let forgets = scenario.retention < Duration::from_secs(24 * 3600);
    let oracle = Arc::new(Mutex::new(Oracle::new(&scenario.plans, forgets)));
    let mut sim = Sim { world: Arc::clone(&world), scenario, oracle, is_over: false, life: 0 };
    for lives in 0.. {
        let end = sim.in_runtime();
        world.note(format_args!("== {end:?}"));
        if end == LifeEnd::Done || !world.violations().is_empty() {
            break;
        }
        if lives > LIVES_MAX {
            world.violate("the process never comes through");
            break;
        }
        let pause = world.between_lives();
        sim.scenario.postpone(pause);
    }
    sim.is_over = true;
    if world.violations().is_empty() && sim.in_runtime() != LifeEnd::Done {
        world.violate("without faults, the session does not open");
    }
    Outcome {
        seed,
        trace: world.trace_hash(),
        violations: world.violations(),
        tally: world.tally(|t| t.clone()),
    }
}

impl Sim {
    fn in_runtime(&mut self) -> LifeEnd {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let Ok(runtime) = runtime else { panic!("a runtime without threads can be had") };
        let world = Arc::clone(&self.world);
        runtime.block_on(async {
            let end = self.life().await;
            world.freeze();
            end
        })
    }

    async fn life(&mut self) -> LifeEnd {
        let world = Arc::clone(&self.world);
        let fuse = self.scenario.fuse(&world);
        let life = world.begin_life(fuse);
        self.life = life;
        // What the process had answered before it died, it had answered: that is heard first.
        let end = tokio::select! {
            biased;
            end = self.live(life) => end,
            () = world.crashed(life) => LifeEnd::Crashed,
        };
        if !world.is_alive(life) {
            return LifeEnd::Crashed;
        }
        // A power cut right after the end takes away what only seemed to be kept.
        if end == LifeEnd::Done && world.rng(|rng| rng.chance(500)) {
            world.crash(life, End::Cut);
        } else {
            world.exited(life);
        }
        end
    }

    fn open_journal(&self, life: u64) -> Option<Opened<Transition, Survey>> {
        let store = SimStore::new(&self.world, life);
        let survey = Survey::new(self.scenario.stage_budget);
        match Journal::open_store_into(Box::new(store), Executor::Inline, survey) {
            Ok(opened) => {
                lock(&self.oracle).read(&self.world, &opened);
                Some(opened)
            }
            Err(error) => {
                if self.world.is_alive(life) && !self.world.is_poisoned() {
                    self.world.violate(format!("the journal does not open: {error}"));
                }
                None
            }
        }
    }

    async fn open(&self, life: u64, admit: bool) -> Option<Session> {
        let world = &self.world;
        let opened = self.open_journal(life)?;
        let machine = Arc::new(Machine { world: Arc::clone(world) });
        let (piece, piece_ms) = (self.scenario.piece, self.scenario.piece_ms);
        let ports = Ports {
            net: Arc::new(SimNet { world: Arc::clone(world), life, piece, piece_ms }),
            disk: Arc::new(SimDisk { world: Arc::clone(world), life }),
            clock: Arc::clone(&machine) as _,
            entropy: machine,
            blocking: Blocking::Inline,
        };
        let options = SessionOptions::new("/state")
            .concurrent(self.scenario.limits.concurrent)
            .stage_budget(self.scenario.stage_budget)
            .retention(self.scenario.retention)
            .admit(admit);
        let limits = self.scenario.limits;
        let options = SessionOptions {
            per_host: limits.per_host,
            uploads: limits.uploads,
            downloads: limits.downloads,
            limit_rate: limits.rate,
            ..options
        };
        match Session::open_with(ports, opened, options, self.scenario.checkpoint_bytes).await {
            Ok(session) => Some(session),
            Err(error) => {
                let refused = matches!(error, OpenError::Io { .. });
                // Who reads that makes the staging area writable again.
                lock(&world.fs).locked.clear();
                if world.is_alive(life) && !(refused && world.tally(|tally| tally.any(&SWEEP_FAULTS))) {
                    world.violate(format!("the session does not open: {error}"));
                }
                None
            }
        }
    }

    async fn live(&mut self, life: u64) -> LifeEnd {
        let world = Arc::clone(&self.world);
        let Some(session) = self.open(life, !self.is_over).await else { return LifeEnd::Exited };
        world.opened();
        let views = session.jobs().await;
        if !world.is_alive(life) {
            return LifeEnd::Crashed;
        }
        let views = match views {
            Ok(views) if !world.is_poisoned() => views,
            Ok(_) | Err(_) => return self.closed(life, &session.closed().await),
        };
        let again = lock(&self.oracle).reopened(&world, &views);
        if self.is_over {
            return self.look_back(&views);
        }
        let soon = world.now();
        for job in again {
            self.scenario.repeat(job, soon);
        }
        let heard = lock(&self.oracle).heard;
        let events = session.events_after(Some(heard), Selection::all()).await;
        tokio::spawn(watch(Arc::clone(&world), life, events, Arc::clone(&self.oracle)));
        let end = tokio::select! {
            biased;
            end = self.play(&session) => end,
            closed = session.closed() => LifeEnd::Closed(closed),
        };
        if let LifeEnd::Closed(closed) = &end {
            return self.closed(life, closed);
        }
        if matches!(end, LifeEnd::Done | LifeEnd::Stopped) {
            let closed = session.shutdown().await;
            return if closed == Closed::Stopped { end } else { self.closed(life, &closed) };
        }
        end
    }

    /// The engine has ended, and not because it was told to.
    fn closed(&self, life: u64, closed: &Closed) -> LifeEnd {
        if self.world.is_alive(life) && !self.world.is_poisoned() {
            self.world.violate(format!("the engine has ended: {closed:?}"));
        }
        LifeEnd::Exited
    }

    async fn play(&mut self, session: &Session) -> LifeEnd {
        let world = Arc::clone(&self.world);
        while let Some(&(at, act, job)) = self.scenario.acts.front() {
            if at >= self.scenario.quiet_at && !act.is_due() {
                self.scenario.acts.pop_front();
                continue;
            }
            world.sleep(at.saturating_sub(world.now())).await;
            self.scenario.acts.pop_front();
            if act == Act::Shutdown {
                world.count(Fault::Shutdown);
                return LifeEnd::Stopped;
            }
            self.perform(session, act, job).await;
            if !world.is_alive(self.life) {
                return LifeEnd::Crashed;
            }
        }
        world.sleep(self.scenario.quiet_at.saturating_sub(world.now())).await;
        if !world.is_quiet() {
            world.quiet();
            self.clear_up();
        }
        self.settle(session).await;
        LifeEnd::Done
    }

    /// Faults have stopped: every job must end, or say what it waits for; then it gets that.
    async fn settle(&self, session: &Session) {
        let world = &self.world;
        let deadline = world.now() + SETTLE_MAX;
        let (mut before, mut since) = (Vec::new(), world.now());
        loop {
            let Ok(views) = session.jobs().await else {
                // The engine has closed: whoever waits for that as well will hear why.
                return world.sleep(STILL).await;
            };
            if views.is_empty() && lock(&self.oracle).expects_jobs() {
                return world.violate("I3: the session is open, and shows no job");
            }
            if views != before {
                (before, since) = (views.clone(), world.now());
            }
            self.too_late(&views);
            let waits_for_time = |view: &JobView| view.not_before.is_some_and(|at| at > world.wall());
            if views.iter().any(|view| !view.state.is_terminal() && waits_for_time(view)) {
                since = world.now();
            }
            let is_still = world.now() > since + STILL;
            let moves = |view: &&JobView| match view.state {
                JobState::Suspended => view
                    .cause
                    .as_ref()
                    .is_some_and(|cause| matches!(cause.kind.as_str(), "no-space" | "source-away")),
                // A suspended job keeps its staged copy, and with it a share of the budget.
                JobState::Queued => !is_still,
                state => !state.is_terminal(),
            };
            let waiting: Vec<&JobView> =
                views.iter().filter(|view| view.state == JobState::Suspended).collect();
            if views.iter().all(|view| view.state.is_terminal()) {
                let forgets = lock(&self.oracle).forgets;
                lock(&self.oracle).judge(world, &views, forgets);
                self.audit(session).await;
                return;
            }
            if world.now() > deadline || (is_still && waiting.is_empty()) {
                let stuck: Vec<&JobView> = views.iter().filter(|view| !view.state.is_terminal()).collect();
                world.violate(format!("I16: without faults, these do not end: {stuck:?}"));
                return;
            }
            if views.iter().any(|view| moves(&view)) {
                world.sleep(Duration::from_secs(if self.scenario.is_crowd { 10 } else { 2 })).await;
            } else {
                self.hold_and_resume(session, &waiting).await;
            }
        }
    }

    /// Suspended jobs stay so until they are resumed; then they go on.
    async fn hold_and_resume(&self, session: &Session, waiting: &[&JobView]) {
        let world = &self.world;
        for view in waiting {
            world.hold(planned(view));
        }
        world.sleep(Duration::from_secs(400)).await;
        let query = Selection::ids(waiting.iter().map(|view| view.id)).into();
        let now = session.call(longhaul::control::Request::List { query }).await;
        let Response::Jobs { jobs, .. } = now else { return };
        for (before, now) in waiting.iter().zip(&jobs) {
            let is_late = now.cause.as_ref().is_some_and(|cause| cause.kind == "deadline");
            if *before != now && !is_late {
                world.violate(format!("R13: a suspended job has moved, from {before:?} to {now:?}"));
            }
        }
        for view in waiting {
            let kind = view.cause.as_ref().map_or("", |cause| cause.kind.as_str());
            world.tally(|tally| *tally.suspensions.entry(kind.to_owned()).or_default() += 1);
            if let Way::Down { to, .. } = &self.scenario.plan(planned(view)).way {
                user::clear_destination(world, to);
            }
            self.ask(session, self.way_out(view, kind), planned(view)).await;
        }
    }

    /// A job that died before its secrets were kept was never accepted: nobody can give them to it.
    fn way_out(&self, view: &JobView, kind: &str) -> Act {
        let oracle = lock(&self.oracle);
        let known = &oracle.known[&planned(view)];
        if kind == "auth" && known.plan.wishes.secret && !known.answered { Act::Cancel } else { Act::Resume }
    }

    /// Jobs that are past their deadline by both clocks, and have had time to end.
    fn too_late(&self, views: &[JobView]) {
        let world = &self.world;
        let slack = Duration::from_secs(1800);
        let since = world.quiet_for();
        // A process that began with a clock that was behind waits for as long as it thought it had.
        if world.tally(|tally| tally.count(Fault::ClockJump)) > 0 {
            return;
        }
        for view in views.iter().filter(|view| !view.state.is_terminal()) {
            let past_ms = view.deadline.map_or(0, |at| world.wall().0.saturating_sub(at.0));
            if past_ms > slack.as_millis() as u64 && since > slack {
                world.violate(format!("job {} is {} long after its deadline", view.id, view.state));
            }
        }
    }

    /// In a life after the last one: the journal still says what was said.
    fn look_back(&self, views: &[JobView]) -> LifeEnd {
        for view in views.iter().filter(|view| !view.state.is_terminal()) {
            self.world
                .violate(format!("I6: job {} was ended, and the journal has it {}", view.id, view.state));
        }
        LifeEnd::Done
    }
}

/// Follows what the engine tells.
async fn watch(world: Arc<World>, life: u64, mut events: longhaul::EventStream, oracle: Arc<Mutex<Oracle>>) {
    while let Some(response) = events.next().await {
        if !world.is_alive(life) {
            return;
        }
        let Response::Event { event } = response else {
            lock(&oracle).missed(&world);
            continue;
        };
        world.note(format_args!(
            "event {}: job {} {}: {}",
            event.number, event.job.id, event.job.state, event.what
        ));
        lock(&oracle).told(&world, event.number);
        lock(&oracle).seen_in_event(&world, &event.job);
    }
}
