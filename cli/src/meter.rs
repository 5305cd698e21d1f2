//! How fast bytes move, and how long the rest will take. Pure: time comes in.

use std::collections::VecDeque;
use std::time::Duration;

/// How far back the rate looks: long enough to be calm, short enough to notice a stall.
const WINDOW: Duration = Duration::from_secs(10);
/// Less than this says nothing yet.
const SPAN_MIN: Duration = Duration::from_millis(500);
/// Samples that the window may hold; more frequent ones replace the newest.
const SAMPLES_MAX: usize = 128;

/// Remembers the last few seconds of progress.
#[derive(Debug, Default)]
pub struct Meter {
    samples: VecDeque<(Duration, u64)>,
}

impl Meter {
    /// Takes a sample: `done` bytes at `now` since some start.
    pub fn sample(&mut self, now: Duration, done: u64) {
        // Progress falls back when a server lost bytes: what was measured before says nothing then.
        if self.samples.back().is_some_and(|&(_, before)| done < before) {
            self.samples.clear();
        }
        // One sample older than the window stays, so that the whole window is always covered.
        while self.samples.len() > 2 && self.samples.get(1).is_some_and(|&(at, _)| at + WINDOW <= now) {
            self.samples.pop_front();
        }
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_back();
        }
        self.samples.push_back((now, done));
    }

    /// Bytes per second over the window, once there is enough of it.
    pub fn rate(&self) -> Option<u64> {
        let (&(start, before), &(end, done)) = (self.samples.front()?, self.samples.back()?);
        let millis = end.checked_sub(start).filter(|&span| span >= SPAN_MIN)?.as_millis();
        u64::try_from(u128::from(done - before) * 1000 / millis).ok()
    }

    /// Time until `left` more bytes have moved; none while nothing moves.
    pub fn eta(&self, left: u64) -> Option<Duration> {
        let rate = self.rate().filter(|&rate| rate > 0)?;
        Some(Duration::from_secs(left.div_ceil(rate)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(samples: &[(u64, u64)]) -> Meter {
        let mut meter = Meter::default();
        for &(millis, done) in samples {
            meter.sample(Duration::from_millis(millis), done);
        }
        meter
    }

    #[test]
    fn a_steady_flow_has_its_rate_and_eta() {
        let meter = fed(&[(0, 0), (1000, 100), (2000, 200)]);
        assert_eq!(meter.rate(), Some(100));
        assert_eq!(meter.eta(250), Some(Duration::from_secs(3)));
    }

    #[test]
    fn what_was_done_before_does_not_count_as_speed() {
        assert_eq!(fed(&[(0, 1_000_000), (1000, 1_000_100)]).rate(), Some(100));
    }

    #[test]
    fn nothing_is_said_too_early_or_while_nothing_moves() {
        assert_eq!(fed(&[]).rate(), None);
        assert_eq!(fed(&[(0, 0), (100, 5)]).rate(), None);
        let stalled = fed(&[(0, 7), (5000, 7)]);
        assert_eq!((stalled.rate(), stalled.eta(1)), (Some(0), None));
    }

    #[test]
    fn the_window_forgets() {
        let mut samples: Vec<_> = (0..10).map(|second| (second * 1000, second * 1000)).collect();
        samples.extend((10..40).map(|second| (second * 1000, 10_000)));
        assert_eq!(fed(&samples).rate(), Some(0));
    }

    #[test]
    fn falling_back_starts_anew() {
        assert_eq!(fed(&[(0, 0), (1000, 500), (2000, 100), (3000, 300)]).rate(), Some(200));
    }

    #[test]
    fn frequent_samples_stay_within_bounds() {
        let samples: Vec<_> = (0..10_000).map(|millis| (millis, millis)).collect();
        let meter = fed(&samples);
        assert!(meter.samples.len() <= SAMPLES_MAX);
        assert_eq!(meter.rate(), Some(1000));
    }
}
