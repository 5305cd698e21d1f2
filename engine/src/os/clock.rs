//! Wall time and timers of the machine.
//!
//! Promises: `elapsed` never jumps back, does not follow the wall clock, and goes on while the machine sleeps
//! (`CLOCK_BOOTTIME`; elsewhere than on Linux it stands still then). `sleep` is over at most [`SLICE`] after
//! the machine woke up, if its time came meanwhile: tokio's timers do not see the time asleep.

use std::time::{Duration, SystemTime};

use crate::ports::{BoxFuture, Clock, WallMs};

/// The longest stretch of a sleep in which nobody looks whether the machine was asleep.
const SLICE: Duration = Duration::from_secs(30);

/// The machine's clocks.
#[derive(Debug)]
pub(super) struct SystemClock {
    start: Duration,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: running() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> WallMs {
        wall_ms(SystemTime::now())
    }

    fn elapsed(&self) -> Duration {
        running().saturating_sub(self.start)
    }

    fn sleep(&self, span: Duration) -> BoxFuture<'static, ()> {
        Box::pin(sleep_by(running, span))
    }
}

/// Time since the machine was started.
#[cfg(target_os = "linux")]
fn running() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    // Neither is ever negative, nor the latter a second or more.
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Time since this was first asked.
#[cfg(not(target_os = "linux"))]
fn running() -> Duration {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed()
}

/// Sleeps until `clock` has gone on by `span`. The first look at it is now, not when the future is first run.
fn sleep_by(
    clock: impl Fn() -> Duration + Send + 'static,
    span: Duration,
) -> impl Future<Output = ()> + Send + 'static {
    let end = clock().saturating_add(span);
    async move {
        loop {
            let left = end.saturating_sub(clock());
            if left.is_zero() {
                break;
            }
            tokio::time::sleep(left.min(SLICE)).await;
        }
    }
}

/// A machine without a battery-backed clock may start before the epoch: that is time zero, no panic.
fn wall_ms(time: SystemTime) -> WallMs {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    WallMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn before_the_epoch_is_zero() {
        assert_eq!(wall_ms(SystemTime::UNIX_EPOCH - Duration::from_secs(5)), WallMs(0));
        assert_eq!(wall_ms(SystemTime::UNIX_EPOCH + Duration::from_millis(7)), WallMs(7));
    }

    #[tokio::test]
    async fn sleep_lasts_as_long_as_asked() {
        let clock = SystemClock::default();
        let before = clock.elapsed();
        clock.sleep(Duration::from_millis(20)).await;
        assert!(clock.elapsed() >= before + Duration::from_millis(20));
        clock.sleep(Duration::ZERO).await;
    }

    /// The clock that counts time asleep is tokio's plus `asleep_s`, which tokio's timers know nothing of.
    async fn slept(span: Duration, asleep: impl FnOnce(Arc<AtomicU64>) + Send + 'static) -> Duration {
        let start = tokio::time::Instant::now();
        let asleep_s = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&asleep_s);
        let clock = move || start.elapsed() + Duration::from_secs(seen.load(Ordering::Relaxed));
        let sleeping = tokio::spawn(sleep_by(clock, span));
        tokio::time::sleep(Duration::from_secs(10)).await;
        asleep(asleep_s);
        sleeping.await.unwrap();
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleep_ends_soon_after_the_machine_woke_up_late() {
        let hour = Duration::from_secs(3600);
        let awake = slept(hour, |_| {}).await;
        assert!(awake >= hour && awake < hour + Duration::from_secs(1), "{awake:?}");
        let over = slept(hour, |asleep_s| asleep_s.store(7200, Ordering::Relaxed)).await;
        assert!(over <= SLICE + Duration::from_secs(1), "{over:?}");
        let part = slept(hour, |asleep_s| asleep_s.store(1800, Ordering::Relaxed)).await;
        assert!(part >= hour / 2 && part < hour / 2 + Duration::from_secs(1), "{part:?}");
    }
}
