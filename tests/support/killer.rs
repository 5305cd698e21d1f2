//! SIGKILL for owner after owner, at random instants of the transfers that they carry.

use std::time::{Duration, Instant};

use crate::support::haul::{Haul, text};
use crate::support::process::{Running, Signal};
use crate::support::proxy::{Proxy, Way};
use crate::support::seed::Rng;
use crate::support::wait::until;

/// What is killed, and when.
#[derive(Debug)]
pub struct Killer<'a> {
    pub haul: &'a Haul,
    pub proxy: &'a Proxy,
    pub way: Way,
    /// An owner dies before this many bytes have gone over its connections.
    pub within: u64,
}

impl Killer<'_> {
    /// Kills `times` owners of the job, the first of them `owner`, and lets another complete it. A job that is
    /// complete sooner fails the test: the kills were to hit it.
    #[track_caller]
    pub fn harass(&self, id: &str, owner: Running, times: u32, rng: &mut Rng) {
        let mut owner = Some(owner);
        let mut killed = 0;
        while killed < times {
            let running = owner.take().unwrap_or_else(|| self.next_owner(rng));
            if self.kill(running, rng) {
                killed += 1;
            } else {
                let job = self.haul.show(id).expect("the job is shown");
                assert_ne!(text(&job, "state"), "completed", "after {killed} kills: {job}");
                assert_ne!(text(&job, "state"), "failed", "after {killed} kills: {job}");
            }
        }
        self.proxy.throttle(0);
        self.haul.finish(&[id]);
    }

    fn next_owner(&self, rng: &mut Rng) -> Running {
        if rng.below(3) == 0 { self.haul.spawn(&["resume", "--all"]) } else { self.haul.spawn(&["daemon"]) }
    }

    /// Kills `owner` after a random number of bytes, or, once in four times, by the clock. False if it had ended
    /// by itself.
    fn kill(&self, mut owner: Running, rng: &mut Rng) -> bool {
        let (start, connections) = (Instant::now(), self.proxy.connections());
        // Counted from its own first connection: what an earlier owner left in the sockets still passes.
        let mut before = None;
        let by_clock = rng.below(4) == 0;
        let span = Duration::from_micros(if by_clock { rng.below(200_000) } else { 3_000_000 });
        let bytes = rng.below(self.within);
        let due = until("the instant of a kill has come", || {
            let ended = owner.ended().is_some();
            if before.is_none() && self.proxy.connections() > connections {
                before = Some(self.proxy.bytes(self.way));
            }
            let enough = before.is_some_and(|before| self.proxy.bytes(self.way) - before >= bytes);
            (ended || enough || start.elapsed() >= span).then_some(!ended)
        });
        if due {
            owner.signal(Signal::KILL);
        }
        owner.wait().code.is_none()
    }
}
