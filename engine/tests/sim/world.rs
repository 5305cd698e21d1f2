//! What outlives the process under test: time, chance, the trace, and the instant of the next crash.
//!
//! ```text
//! port ─▶ World::enter ─▶ the act ─▶ World::leave          each of the two may be the crash:
//!             └── dead: refused, without effect ──┘        from there on this life touches nothing
//! ```
//!
//! Everything of one seed runs on one thread; the locks are there because ports must be `Sync`.

#![expect(clippy::disallowed_methods, reason = "tokio's clock is virtual here")]

use std::collections::BTreeSet;
use std::fmt;
use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use longhaul::sim::{BoxFuture, Clock, Entropy, WallMs};
use longhaul_journal::mem::MemDisk;
use tokio::sync::watch;
use tokio::time::Instant;

use super::fault::{Fault, Rates, Tally};
use super::flight::Flight;
use super::form::Forms;
use super::fs::Fs;
use super::get::Shelf;
use super::put::Puts;
use super::rng::Rng;
use super::tus::Tus;

/// The wall clock's value at the start of a simulation.
const EPOCH_MS: u64 = 1_800_000_000_000;
const DAY_MS: i64 = 24 * 3600 * 1000;

/// How a life of the process ends before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Kill,
    Cut,
}

/// Everything but the process.
pub struct World {
    pub fs: Mutex<Fs>,
    pub tus: Mutex<Tus>,
    pub shelf: Mutex<Shelf>,
    pub puts: Mutex<Puts>,
    pub forms: Mutex<Forms>,
    pub flight: Mutex<Flight>,
    pub journal: MemDisk,
    inner: Mutex<Inner>,
    /// Number of the life whose ports still work; a crash makes it one more.
    life: watch::Sender<u64>,
    /// Changes when time has leapt.
    leaps: watch::Sender<u64>,
}

struct Inner {
    rng: Rng,
    rates: Rates,
    tally: Tally,
    trace: Trace,
    violations: Vec<String>,
    base: Duration,
    started: Option<Instant>,
    wall_offset_ms: i64,
    /// The latest time that this machine's clock has shown before it was set.
    wall_peak: WallMs,
    fuse: Option<(u64, End)>,
    open: bool,
    poisoned: bool,
    quiet: bool,
    quiet_since: Duration,
    held: BTreeSet<u64>,
}

/// What happened, as a hash and, when asked for, in words.
struct Trace {
    hash: u64,
    print: bool,
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a process that is dead gets from every port.
pub fn dead() -> io::Error {
    io::Error::other("the process is dead")
}

impl World {
    pub fn new(seed: u64, print: bool) -> Arc<Self> {
        let mut rng = Rng::new(seed);
        let rates = Rates::draw(&mut rng);
        let inner = Inner {
            rates,
            tally: Tally::default(),
            trace: Trace { hash: 0xcbf2_9ce4_8422_2325, print },
            violations: Vec::new(),
            base: Duration::from_secs(1),
            started: None,
            wall_offset_ms: 0,
            wall_peak: WallMs(0),
            fuse: None,
            open: false,
            poisoned: false,
            quiet: false,
            quiet_since: Duration::ZERO,
            held: BTreeSet::new(),
            rng: Rng::new(rng.bits()),
        };
        Arc::new(Self {
            fs: Mutex::new(Fs::draw(&mut rng)),
            tus: Mutex::new(Tus::draw(&mut rng)),
            shelf: Mutex::default(),
            puts: Mutex::new(Puts::draw(&mut rng)),
            forms: Mutex::default(),
            flight: Mutex::new(Flight::new()),
            journal: MemDisk::new(),
            inner: Mutex::new(inner),
            life: watch::Sender::new(0),
            leaps: watch::Sender::new(0),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// Chance, in the order in which things happen.
    pub fn rng<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.inner().rng)
    }

    /// Whether a fault fires here and now; counted if it does.
    pub fn fires(&self, fault: Fault) -> bool {
        let mut inner = self.inner();
        let rate = inner.rates.of(fault);
        let fires = !inner.quiet && rate > 0 && inner.rng.chance(rate);
        drop(inner);
        if fires {
            self.count(fault);
        }
        fires
    }

    pub fn count(&self, fault: Fault) {
        self.note(format_args!("  ! {fault:?}"));
        *self.inner().tally.faults.entry(fault).or_default() += 1;
    }

    pub fn tally<T>(&self, change: impl FnOnce(&mut Tally) -> T) -> T {
        change(&mut self.inner().tally)
    }

    /// One line of the trace.
    pub fn note(&self, what: fmt::Arguments<'_>) {
        let now = self.now();
        let line = format!("{:>9.3} {what}", now.as_secs_f64());
        let mut inner = self.inner();
        for &byte in line.as_bytes() {
            inner.trace.hash = (inner.trace.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if inner.trace.print {
            println!("{line}");
        }
    }

    pub fn trace_hash(&self) -> u64 {
        self.inner().trace.hash
    }

    /// An invariant is broken.
    pub fn violate(&self, what: impl Into<String>) {
        let what = what.into();
        self.note(format_args!("VIOLATION {what}"));
        let mut inner = self.inner();
        if inner.violations.len() < 20 {
            inner.violations.push(what);
        }
    }

    pub fn violations(&self) -> Vec<String> {
        self.inner().violations.clone()
    }

    /// No more faults from here on, and the clock is right.
    pub fn quiet(&self) {
        self.note(format_args!("-- quiet"));
        let offset = self.inner().wall_offset_ms;
        self.sets_clock(-offset);
        let now = self.now();
        let mut inner = self.inner();
        (inner.quiet, inner.quiet_since) = (true, now);
    }

    /// Time without faults.
    pub fn quiet_for(&self) -> Duration {
        let now = self.now();
        now.saturating_sub(self.inner().quiet_since)
    }

    pub fn is_quiet(&self) -> bool {
        self.inner().quiet
    }

    /// Virtual time since the start of the simulation, over all lives.
    pub fn now(&self) -> Duration {
        let inner = self.inner();
        inner.base + inner.started.map_or(Duration::ZERO, |started| started.elapsed())
    }

    /// The time as the rest of the world has it: no jumps.
    pub fn true_wall(&self) -> WallMs {
        WallMs(EPOCH_MS + self.now().as_millis() as u64)
    }

    /// The time as this machine has it.
    pub fn wall(&self) -> WallMs {
        let offset = self.inner().wall_offset_ms;
        WallMs(self.true_wall().0.saturating_add_signed(offset))
    }

    /// The latest time that this machine's clock has ever shown.
    pub fn wall_peak(&self) -> WallMs {
        let now = self.wall();
        self.inner().wall_peak.max(now)
    }

    /// Somebody sets this machine's clock.
    pub fn sets_clock(&self, by_ms: i64) {
        let peak = self.wall_peak();
        let mut inner = self.inner();
        inner.wall_peak = peak;
        inner.wall_offset_ms += by_ms;
    }

    /// A day ahead or back.
    pub fn jumps(&self) {
        let ahead = self.rng(|rng| rng.chance(500));
        self.sets_clock(if ahead { DAY_MS } else { -DAY_MS });
        self.count(Fault::ClockJump);
    }

    /// The machine sleeps: hours go by at once.
    pub fn leaps(&self, span: Duration) {
        self.inner().base += span;
        self.count(Fault::Suspended);
        self.leaps.send_modify(|leaps| *leaps += 1);
    }

    pub fn wall_ns(&self) -> i128 {
        let ns = i128::from(self.now().subsec_nanos() % 1_000_000);
        i128::from(self.wall().0) * 1_000_000 + ns
    }

    /// Starts a life; to be called inside of its runtime.
    pub fn begin_life(&self, fuse: Option<(u64, End)>) -> u64 {
        let mut inner = self.inner();
        inner.started = Some(Instant::now());
        (inner.fuse, inner.open, inner.poisoned) = (fuse, false, false);
        inner.tally.lives += 1;
        drop(inner);
        lock(&self.flight).born(self.now());
        let life = *self.life.borrow();
        self.note(format_args!("== life {life}, fuse {fuse:?}"));
        life
    }

    /// The session is open: what crashes from here on does not crash in recovery.
    pub fn opened(&self) {
        self.inner().open = true;
    }

    /// Stops the clock; to be called inside of the runtime of a life that is over.
    pub fn freeze(&self) {
        let now = self.now();
        let mut inner = self.inner();
        (inner.base, inner.started) = (now, None);
    }

    /// Lets the time between two lives pass, and says how long it was.
    pub fn between_lives(&self) -> Duration {
        let mut inner = self.inner();
        let pause_ms = if inner.rng.chance(300) { 1 } else { inner.rng.within(1, 90_000) };
        let pause = Duration::from_millis(pause_ms);
        inner.base += pause;
        let jumps = !inner.quiet && inner.rng.chance(250);
        drop(inner);
        if jumps {
            self.jumps();
        }
        pause
    }

    pub fn is_alive(&self, life: u64) -> bool {
        *self.life.borrow() == life
    }

    /// Before an act of this life. An error: it is dead, and nothing may be done.
    pub fn enter(&self, life: u64, what: fmt::Arguments<'_>) -> io::Result<()> {
        if !self.is_alive(life) {
            return Err(dead());
        }
        self.note(what);
        self.burn(life)
    }

    /// After an act of this life. An error: it is done, and nobody will know.
    pub fn leave(&self, life: u64) -> io::Result<()> {
        self.burn(life)
    }

    /// An act between the two.
    pub fn act<T>(
        &self,
        life: u64,
        what: fmt::Arguments<'_>,
        act: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        self.enter(life, what)?;
        let done = act();
        self.leave(life)?;
        if let Err(error) = &done {
            self.note(format_args!("    = {error}"));
        }
        done
    }

    fn burn(&self, life: u64) -> io::Result<()> {
        let mut inner = self.inner();
        let Some((left, end)) = &mut inner.fuse else { return Ok(()) };
        if *left > 0 {
            *left -= 1;
            return Ok(());
        }
        let end = *end;
        drop(inner);
        self.crash(life, end);
        Err(dead())
    }

    /// The end of a life, now.
    pub fn crash(&self, life: u64, end: End) {
        if !self.is_alive(life) {
            return;
        }
        self.life.send_replace(life + 1);
        self.count(if end == End::Kill { Fault::Kill } else { Fault::Cut });
        if !self.inner().open {
            self.count(Fault::CrashInRecovery);
        }
        let chance = self.rng(Rng::bits);
        match end {
            End::Kill => {
                self.journal.kill(chance);
                lock(&self.fs).kill();
            }
            End::Cut => {
                self.journal.crash(chance);
                lock(&self.fs).cut(&mut Rng::new(chance));
            }
        }
    }

    /// The process has ended by itself; what it did not write is gone.
    pub fn exited(&self, life: u64) {
        self.life.send_replace(life + 1);
        let chance = self.rng(Rng::bits);
        self.journal.kill(chance);
        lock(&self.fs).kill();
    }

    /// Resolves when a crash has ended the life.
    pub async fn crashed(&self, life: u64) {
        let mut now = self.life.subscribe();
        // The sender is part of the world.
        let _ended = now.wait_for(|now| *now != life).await;
    }

    /// The journal has told this life of an error.
    pub fn poison(&self) {
        self.inner().poisoned = true;
    }

    pub fn is_poisoned(&self) -> bool {
        self.inner().poisoned
    }

    /// A job has been told to hold still, and has said that it does.
    pub fn hold(&self, job: u64) {
        self.inner().held.insert(job);
    }

    /// It may go on: before it is told so.
    pub fn let_go(&self, job: u64) {
        self.inner().held.remove(&job);
    }

    pub fn held(&self) -> BTreeSet<u64> {
        self.inner().held.clone()
    }

    /// A wait of virtual time; of a dead process, for ever.
    pub async fn sleep(&self, span: Duration) {
        tokio::time::sleep(span).await;
    }
}

/// The engine's clock and its randomness.
pub struct Machine {
    pub world: Arc<World>,
}

impl Clock for Machine {
    fn now(&self) -> WallMs {
        self.world.wall()
    }

    fn elapsed(&self) -> Duration {
        self.world.now()
    }

    fn sleep(&self, span: Duration) -> BoxFuture<'static, ()> {
        let (world, mut leaps) = (Arc::clone(&self.world), self.world.leaps.subscribe());
        let until = world.now().saturating_add(span);
        Box::pin(async move {
            loop {
                // A sleep of nothing that never lets the clock move would be a busy loop.
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(until.saturating_sub(world.now())) => return,
                    _ = leaps.changed() => if world.now() >= until {
                        return;
                    },
                }
            }
        })
    }
}

impl Entropy for Machine {
    fn token(&self) -> [u8; 16] {
        let (high, low) = self.world.rng(|rng| (rng.bits(), rng.bits()));
        let mut token = [0; 16];
        token[..8].copy_from_slice(&high.to_le_bytes());
        token[8..].copy_from_slice(&low.to_le_bytes());
        token
    }

    fn seed(&self) -> u64 {
        self.world.rng(Rng::bits)
    }
}

/// What a dead process waits for.
pub async fn never<T>() -> T {
    pending().await
}
