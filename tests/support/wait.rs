//! Waiting for a condition: the only place where a test lets time pass.
//!
//! The limits are for a broken run to end, not for a slow one to fail.

use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take before the test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(120);

const INTERVAL: Duration = Duration::from_millis(4);

/// Polls `ready` until it gives a value; panics with `what` when [`PATIENCE`] is over.
#[track_caller]
pub fn until<T>(what: &str, ready: impl FnMut() -> Option<T>) -> T {
    match within(PATIENCE, INTERVAL, ready) {
        Some(value) => value,
        None => panic!("waited {PATIENCE:?} in vain until {what}"),
    }
}

/// As [`until`], for a condition that costs a process to look at.
#[track_caller]
pub fn until_seldom<T>(what: &str, ready: impl FnMut() -> Option<T>) -> T {
    match within(PATIENCE, INTERVAL * 15, ready) {
        Some(value) => value,
        None => panic!("waited {PATIENCE:?} in vain until {what}"),
    }
}

/// Polls `ready` for at most `limit`.
pub fn within<T>(limit: Duration, interval: Duration, mut ready: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = ready() {
            return Some(value);
        }
        if start.elapsed() >= limit {
            return None;
        }
        thread::sleep(interval);
    }
}

/// How long after `since` the counter last moved, watched for `span`.
pub fn last_move(since: Instant, span: Duration, counter: impl Fn() -> u64) -> Duration {
    let (mut seen, mut moved) = (counter(), Duration::ZERO);
    let _ = within(span, INTERVAL, || {
        let now = counter();
        if now != seen {
            seen = now;
            moved = since.elapsed();
        }
        None::<()>
    });
    moved
}
