//! The whole engine from a seed, over a simulated network, disk and clock, with crashes.
//!
//! ```text
//! seed ─▶ scenario ─┬─▶ session, runner, protocols, journal: the real ones
//!                   └─▶ SimNet ─ tus, put, form, get │ SimDisk ─ Fs │ SimStore ─ MemDisk │ virtual time
//!                          oracle: RELIABILITY.md's invariants, at each reopening and at the end
//! ```
//!
//! `HAUL_SIM_SEEDS=N` runs N seeds instead of 1,000, `HAUL_SIM_SEED=S` replays one with its trace.
//! Absent on purpose: real sockets, files and reqwest (the black-box tests), sled (the journal's own).

#[path = "sim/audit.rs"]
mod audit;
#[path = "sim/disk.rs"]
mod disk;
#[path = "sim/fault.rs"]
mod fault;
#[path = "sim/flight.rs"]
mod flight;
#[path = "sim/form.rs"]
mod form;
#[path = "sim/fs.rs"]
mod fs;
#[path = "sim/get.rs"]
mod get;
#[path = "sim/holds.rs"]
mod holds;
#[path = "sim/life.rs"]
mod life;
#[path = "sim/net.rs"]
mod net;
#[path = "sim/oracle.rs"]
mod oracle;
#[path = "sim/people.rs"]
mod people;
#[path = "sim/put.rs"]
mod put;
#[path = "sim/rng.rs"]
mod rng;
#[path = "sim/scenario.rs"]
mod scenario;
#[path = "sim/store.rs"]
mod store;
#[path = "sim/tus.rs"]
mod tus;
#[path = "sim/user.rs"]
mod user;
#[path = "sim/verdict.rs"]
mod verdict;
#[path = "sim/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::thread;

use fault::{Fault, Tally};
use life::Outcome;

const SEEDS_DEFAULT: u64 = 1000;
/// Fewer than this need not meet every kind of trouble.
const SEEDS_FOR_COVERAGE: u64 = 1000;
const THREADS: u64 = 2;

/// What must have happened in so many seeds, by the oracle's counts.
const TRANSITIONS: [&str; 32] = [
    "tus completed",
    "tus failed",
    "tus in parts completed",
    "put completed",
    "put failed",
    "form completed",
    "form failed",
    "form with key completed",
    "auto: tus completed",
    "auto: put completed",
    "auto: put failed",
    "get completed",
    "get failed",
    "get in segments completed",
    "get in segments failed",
    "completed by tus",
    "completed by tus-concat",
    "completed by put",
    "completed by form",
    "completed by get",
    "completed by get-segments",
    "mirror answers 206",
    "mirror answers 404",
    "tried again",
    "submitted again by its key",
    "audits at rest",
    "events missed",
    "PauseAll of jobs",
    "ResumeAll of jobs",
    "CancelSome of jobs",
    "RetryAll of jobs",
    "RemoveEnded of jobs",
];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// A seed that panics has failed like any other.
fn run(seed: u64, print: bool) -> Outcome {
    std::panic::catch_unwind(|| life::run(seed, print)).unwrap_or_else(|_| Outcome {
        seed,
        trace: 0,
        violations: vec!["it panicked; see above".to_owned()],
        tally: Tally::default(),
    })
}

fn run_all(seeds: u64) -> Vec<Outcome> {
    let threads: Vec<_> = (0..THREADS)
        .map(|first| {
            thread::spawn(move || {
                (first..seeds).step_by(THREADS as usize).map(|seed| run(seed, false)).collect()
            })
        })
        .collect();
    threads.into_iter().flat_map(|thread| thread.join().unwrap_or_else(|_| Vec::new())).collect()
}

fn report(outcome: &Outcome) {
    println!("seed {}: FAILED", outcome.seed);
    for violation in &outcome.violations {
        println!("    {violation}");
    }
    println!(
        "    replay: HAUL_SIM_SEED={} cargo test -p longhaul --test sim -- --nocapture every_seed",
        outcome.seed
    );
}

fn summarise(outcomes: &[Outcome]) -> Tally {
    let mut sum = Tally::default();
    for outcome in outcomes {
        sum.add(&outcome.tally);
    }
    println!("{} seeds, {} jobs, {} lives, {} requests", outcomes.len(), sum.jobs, sum.lives, sum.requests);
    let show = |title: &str, counts: &BTreeMap<String, u64>| {
        let counts: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
        println!("{title}: {}", counts.join(", "));
    };
    show("ends", &sum.ends);
    show("suspended when all was quiet", &sum.suspensions);
    show("seen", &sum.seen);
    show("faults", &sum.faults.iter().map(|(fault, count)| (format!("{fault:?}"), *count)).collect());
    sum
}

#[test]
fn every_seed_keeps_every_invariant() {
    if let Some(seed) = number("HAUL_SIM_SEED") {
        let outcome = run(seed, true);
        summarise(std::slice::from_ref(&outcome));
        assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
        return;
    }
    let seeds = number("HAUL_SIM_SEEDS").unwrap_or(SEEDS_DEFAULT);
    let outcomes = run_all(seeds);
    let sum = summarise(&outcomes);
    let failed: Vec<&Outcome> = outcomes.iter().filter(|outcome| !outcome.violations.is_empty()).collect();
    for outcome in &failed {
        report(outcome);
    }
    assert!(failed.is_empty(), "{} of {seeds} seeds failed", failed.len());
    assert_eq!(outcomes.len() as u64, seeds, "every seed was run");
    if seeds >= SEEDS_FOR_COVERAGE {
        let missing: Vec<&Fault> = Fault::ALL.iter().filter(|fault| sum.count(**fault) == 0).collect();
        assert!(missing.is_empty(), "these never fired: {missing:?}");
        assert!(sum.ends.contains_key("completed") && !sum.suspensions.is_empty());
        assert!(sum.ends.keys().any(|end| end.starts_with("failed")));
        let unseen: Vec<&&str> = TRANSITIONS.iter().filter(|what| !sum.seen.contains_key(**what)).collect();
        assert!(unseen.is_empty(), "these never happened: {unseen:?}");
        let causes = ["no-access", "auth", "server", "destination-exists", "paused"];
        let unmet: Vec<&&str> =
            causes.iter().filter(|cause| !sum.suspensions.contains_key(**cause)).collect();
        assert!(unmet.is_empty(), "nothing was suspended for these: {unmet:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 1000..1020 {
        let (one, other) = (run(seed, false), run(seed, false));
        assert_eq!(one.trace, other.trace, "seed {seed}");
    }
}
