//! Wall time and timers of the machine.
//!
//! Promise: `elapsed` never jumps back and does not follow the wall clock. It stands still while the
//! machine sleeps, so that a laptop that wakes up does not find all its timeouts expired.

use std::time::{Duration, Instant, SystemTime};

use crate::ports::{BoxFuture, Clock, WallMs};

/// The machine's clocks.
#[derive(Debug)]
pub(super) struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> WallMs {
        wall_ms(SystemTime::now())
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, span: Duration) -> BoxFuture<'static, ()> {
        Box::pin(async move { tokio::time::sleep(span).await })
    }
}

/// A machine without a battery-backed clock may start before the epoch: that is time zero, no panic.
fn wall_ms(time: SystemTime) -> WallMs {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    WallMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
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
    }
}
