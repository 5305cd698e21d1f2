//! When to try again: full jitter, the server's own wish honoured within bounds.
//!
//! ```text
//! wait = max(min(Retry-After, 300 s), floor + rand[0, min(base · 2^attempts, 60 s) − floor])
//! ```
//!
//! | | base | floor |
//! |---|---|---|
//! | transient: lost, 408, 425, 5xx | 500 ms | 10 ms |
//! | throttled: 429, 503 | 2 s | 1 s |
//!
//! Where there is no way to the server at all, the 60 s are 15: it may be back at any moment, and asking costs nobody
//! anything.
//!
//! Invariants: pure; the same seed gives the same wait; a wait is at least its floor and at most five
//! minutes, whatever a server asks for. Jitter over the whole span keeps jobs that failed together
//! from coming back together.
//!
//! Absent on purpose: which failures deserve a retry (`protocol::wire`), the count of attempts and
//! the deadline (journaled by the job machine), and when to stop (the job's own limit).

use std::time::Duration;

use crate::protocol::Retry;

/// Longest wait that a server can ask for.
pub const AFTER_MAX: Duration = Duration::from_secs(300);
/// Longest wait of our own.
pub const BACKOFF_MAX: Duration = Duration::from_secs(60);
const BASE: Duration = Duration::from_millis(500);
const BASE_THROTTLED: Duration = Duration::from_secs(2);
const FLOOR: Duration = Duration::from_millis(10);
const FLOOR_THROTTLED: Duration = Duration::from_secs(1);
/// How often the way to a server is tried at least, when there is none.
const OFFLINE_MAX: Duration = Duration::from_secs(15);

/// How long to wait before the next attempt.
///
/// `attempts` is the number of failures in a row before this one: zero waits up to one base.
pub fn delay(attempts: u32, retry: &Retry, seed: u64) -> Duration {
    let (base, floor) = if retry.throttled { (BASE_THROTTLED, FLOOR_THROTTLED) } else { (BASE, FLOOR) };
    let longest = if retry.offline { OFFLINE_MAX } else { BACKOFF_MAX };
    let ceiling = base.saturating_mul(1u32.checked_shl(attempts).unwrap_or(u32::MAX)).min(longest);
    let span_ms = u64::try_from(ceiling.saturating_sub(floor).as_millis()).unwrap_or(u64::MAX);
    let own = floor + Duration::from_millis(scale(mix(seed), span_ms));
    own.max(retry.after.unwrap_or_default().min(AFTER_MAX))
}

/// `random` of 2^64 as a part of `0..=span`.
fn scale(random: u64, span: u64) -> u64 {
    ((u128::from(random) * (u128::from(span) + 1)) >> 64) as u64
}

/// One round of `SplitMix64`: seeds that differ in one bit give numbers that have nothing in common.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn retry(after_s: Option<u64>, throttled: bool) -> Retry {
        Retry { after: after_s.map(Duration::from_secs), throttled, ..Retry::because("") }
    }

    #[test]
    fn a_server_s_wish_is_honoured_and_clamped() {
        for (asked_s, waits) in
            [(0, Duration::ZERO), (7, Duration::from_secs(7)), (300, AFTER_MAX), (999_999_999, AFTER_MAX)]
        {
            let wait = delay(0, &retry(Some(asked_s), false), 1);
            assert!(wait >= waits && wait <= waits.max(BASE), "{asked_s} s asked, {wait:?} given");
        }
        assert_eq!(delay(u32::MAX, &retry(Some(u64::MAX), true), u64::MAX), AFTER_MAX);
    }

    #[test]
    fn the_wait_doubles_and_stops_doubling() {
        let longest = |attempts, throttled| {
            (0..2000).map(|seed| delay(attempts, &retry(None, throttled), seed)).max().unwrap_or_default()
        };
        for (attempts, throttled, ceiling_ms) in [
            (0, false, 500),
            (1, false, 1000),
            (6, false, 32_000),
            (7, false, 60_000),
            (40, false, 60_000),
            (u32::MAX, false, 60_000),
            (0, true, 2000),
            (4, true, 32_000),
            (5, true, 60_000),
        ] {
            let longest = longest(attempts, throttled).as_millis();
            assert!(
                (ceiling_ms * 98 / 100..=ceiling_ms).contains(&longest),
                "{attempts}: {longest} of {ceiling_ms}"
            );
        }
    }

    #[test]
    fn jitter_covers_the_whole_span() {
        let waits: Vec<u128> =
            (0..1000).map(|seed| delay(4, &retry(None, false), seed).as_millis()).collect();
        for eighth in 0..8u128 {
            let hits = waits.iter().filter(|&&wait| wait * 8 / 8001 == eighth).count();
            assert!((80..170).contains(&hits), "{hits} of 1000 waits in eighth {eighth}");
        }
    }

    proptest! {
        #[test]
        fn a_wait_is_bounded_and_depends_on_nothing_but_its_arguments(
            attempts: u32, after_s in proptest::option::of(any::<u64>()), throttled: bool, seed: u64,
        ) {
            let retry = retry(after_s, throttled);
            let wait = delay(attempts, &retry, seed);
            let least = retry.after.unwrap_or_default().min(AFTER_MAX);
            let floor = if throttled { FLOOR_THROTTLED } else { FLOOR };
            prop_assert!(wait >= least.max(floor) && wait <= least.max(BACKOFF_MAX));
            prop_assert_eq!(wait, delay(attempts, &retry, seed));
        }
    }
}
