//! How fast bytes may go: a bucket that may be overdrawn, pure.
//!
//! ```text
//! level ── rises by rate · time, up to a burst ──▶ take(n): level − n; below zero: wait until it is zero again
//! ```
//!
//! Invariant: over any span the bytes that were let through are at most `rate · span` and one burst, and one piece
//! for each taker. Absent on purpose: who waits, and how.

use std::time::Duration;

/// What may go at once after a pause, in time.
const BURST: Duration = Duration::from_millis(250);
/// Pieces are so large that one takes about this long.
const PIECE_SPAN: Duration = Duration::from_millis(100);
/// The smallest piece.
const PIECE_MIN: u64 = 1 << 10;

/// A rate and what is left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    rate: u64,
    /// Bytes that may go now, in billionths; negative: how much was taken in advance.
    level: i128,
    at: Duration,
}

const NANO: i128 = 1_000_000_000;

impl Bucket {
    /// `rate` bytes a second, at least 1.
    pub fn new(rate: u64, now: Duration) -> Self {
        let bucket = Self { rate: rate.max(1), level: 0, at: now };
        Self { level: bucket.burst(), ..bucket }
    }

    fn burst(&self) -> i128 {
        i128::from(self.rate) * BURST.as_nanos().cast_signed()
    }

    /// Takes leave to move `bytes`; gives how long to wait before.
    pub fn take(&mut self, bytes: u64, now: Duration) -> Duration {
        let span = now.saturating_sub(self.at).as_nanos().cast_signed();
        self.at = self.at.max(now);
        self.level = self.level.saturating_add(span.saturating_mul(i128::from(self.rate))).min(self.burst());
        self.level -= i128::from(bytes) * NANO;
        if self.level >= 0 {
            return Duration::ZERO;
        }
        let nanos = -self.level / i128::from(self.rate);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// The largest piece that keeps a transfer smooth at this rate.
    pub fn piece(&self) -> u64 {
        (u128::from(self.rate) * PIECE_SPAN.as_millis() / 1000).max(u128::from(PIECE_MIN)) as u64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_wait_is_what_was_taken_in_advance() {
        let mut bucket = Bucket::new(1000, Duration::ZERO);
        assert_eq!(bucket.take(250, Duration::ZERO), Duration::ZERO, "a burst");
        assert_eq!(bucket.take(500, Duration::ZERO), Duration::from_millis(500));
        assert_eq!(bucket.take(500, Duration::from_millis(500)), Duration::from_millis(500));
        assert_eq!(bucket.take(0, Duration::from_secs(3600)), Duration::ZERO);
        assert_eq!(bucket.take(1250, Duration::from_secs(3600)), Duration::from_secs(1));
    }

    #[test]
    fn a_clock_that_stands_or_goes_back_gives_nothing() {
        let mut bucket = Bucket::new(10, Duration::from_secs(100));
        bucket.take(12, Duration::from_secs(100));
        assert_eq!(bucket.take(10, Duration::from_secs(50)), Duration::from_millis(1950));
    }

    #[test]
    fn pieces_are_neither_tiny_nor_slow() {
        assert_eq!(Bucket::new(1, Duration::ZERO).piece(), PIECE_MIN);
        assert_eq!(Bucket::new(10_000_000, Duration::ZERO).piece(), 1_000_000);
    }

    proptest! {
        /// Takers that wait as they are told never exceed the rate by more than a burst and what is in hand.
        #[test]
        fn the_rate_holds_over_any_span(
            rate in 1u64..1_000_000,
            takes in proptest::collection::vec((1u64..100_000, 0u64..2_000), 1..60),
        ) {
            let mut bucket = Bucket::new(rate, Duration::ZERO);
            let (mut now, mut sent, mut last) = (Duration::ZERO, 0u64, 0u64);
            for (bytes, pause_ms) in takes {
                now += bucket.take(bytes, now);
                sent += bytes;
                last = last.max(bytes);
                let allowed = rate as f64 * (now.as_secs_f64() + BURST.as_secs_f64()) + last as f64 + 1.0;
                prop_assert!(sent as f64 <= allowed, "{sent} bytes in {now:?}");
                now += Duration::from_millis(pause_ms);
            }
        }
    }
}
