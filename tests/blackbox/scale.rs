//! Very many jobs in one session.
//!
//! `HAUL_TEST_JOBS` sets how many (5,000; the bounds are made for 100,000 too). What is measured is printed.

use std::env;
use std::fs;
use std::time::{Duration, Instant};

use crate::support::haul::{Haul, arg, values};
use crate::support::process::{Done, Running};
use crate::support::session::{accepted, resident};

/// What one command may take before the test gives up on it.
const LIMIT: Duration = Duration::from_secs(900);
/// What an owner may hold in memory with all jobs at rest, in MiB: the database's cache first of all, and a few
/// words of each unfinished job, not the jobs.
const AT_REST_MAX: u64 = 180;
/// Those words, with what the database keeps of their pages, in KiB.
const WORDS_MAX: u64 = 1;
/// What one command for all jobs may add for each of them, in KiB; what is freed again stays with the allocator.
const COMMAND_MAX: u64 = 5;

/// Runs a command and tells how long it took.
fn timed(haul: &Haul, what: &str, words: &[&str]) -> (Done, Duration) {
    let start = Instant::now();
    let done = haul.spawn(words).wait_at_most(LIMIT).expect(0);
    let took = start.elapsed();
    println!("{what}: {took:.2?}");
    (done, took)
}

/// How many jobs are in a state.
#[track_caller]
fn count(haul: &Haul, state: &str) -> u64 {
    let done = haul.spawn(&["--json", "ls", "--summary"]).wait_at_most(LIMIT).expect(0);
    values(&done.stdout)[0][state].as_u64().unwrap_or_else(|| panic!("no {state}: {}", done.stdout))
}

#[track_caller]
fn assert_resident(pid: u32, when: &str, max: u64) {
    let (now, most) = resident(pid);
    println!("resident {when}: {now} MiB, at most {most} MiB");
    assert!(now <= max, "{now} MiB resident {when}");
}

fn at_rest(jobs: u64) -> u64 {
    AT_REST_MAX + jobs * WORDS_MAX / 1024
}

/// Ends the owner and starts the next one.
fn restart(haul: &Haul, owner: Running, what: &str, max: u64) -> Running {
    owner.terminate().expect(0);
    let start = Instant::now();
    let daemon = haul.daemon();
    println!("restart with {what}: {:.2?}", start.elapsed());
    assert_resident(daemon.id(), &format!("with {what}"), max);
    daemon
}

#[test]
fn very_many_jobs() {
    let jobs: u64 = env::var("HAUL_TEST_JOBS").map_or(5_000, |text| text.parse().expect("a number of jobs"));
    let haul = Haul::new();
    let tree = haul.source("tree");
    for number in 0..jobs {
        let dir = tree.join(format!("{:04}", number / 1000));
        if number % 1000 == 0 {
            fs::create_dir_all(&dir).expect("a directory of the tree");
        }
        fs::write(dir.join(format!("{number}.bin")), number.to_le_bytes()).expect("a tiny file");
    }
    let daemon = haul.daemon();
    let words =
        ["--json", "put", "-d", "-r", "--not-before", "+20h", arg(&tree), "http://127.0.0.1:9/files/"];
    let (done, _) = timed(&haul, &format!("submit {jobs}"), &words);
    assert_eq!(accepted(&done).len() as u64, jobs);
    assert_eq!(count(&haul, "queued"), jobs);
    let busy = at_rest(jobs) + jobs * COMMAND_MAX / 1024;
    assert_resident(daemon.id(), "after the submission", busy);
    let daemon = restart(&haul, daemon, "all queued", at_rest(jobs));

    let mut pages: Vec<Duration> = (0..5).map(|_| timed(&haul, "ls", &["ls"]).1).collect();
    pages.sort();
    println!("ls, the median: {:.2?}", pages[2]);
    assert!(pages[2] < Duration::from_secs(5), "a page takes {:?}", pages[2]);
    let (summary, _) = timed(&haul, "ls --summary", &["ls", "--summary"]);
    assert!(summary.stdout.contains(&jobs.to_string()), "{}", summary.stdout);
    let (all, _) = timed(&haul, "ls --ids", &["ls", "--ids"]);
    assert_eq!(all.stdout.lines().count() as u64, jobs);

    timed(&haul, "pause --all", &["pause", "--all"]);
    assert_eq!(count(&haul, "suspended"), jobs);
    daemon.kill();
    let start = Instant::now();
    let daemon = haul.daemon();
    println!("restart after a kill: {:.2?}", start.elapsed());
    assert_eq!(count(&haul, "suspended"), jobs);
    assert_resident(daemon.id(), "after recovery", busy);

    timed(&haul, "resume --all", &["resume", "-d", "--all"]);
    assert_eq!(count(&haul, "queued"), jobs);
    timed(&haul, "cancel --all", &["cancel", "--all"]);
    assert_eq!(count(&haul, "failed"), jobs);
    assert_resident(daemon.id(), "after cancelling", busy);
    // What the last checkpoint did not have yet comes into memory again.
    let daemon = restart(&haul, daemon, "all cancelled", busy);
    assert_eq!(count(&haul, "failed"), jobs);
    timed(&haul, "rm --all", &["rm", "--all"]);
    assert_eq!(count(&haul, "failed"), 0);
    assert_resident(daemon.id(), "after removing", busy);
    restart(&haul, daemon, "none left", busy).terminate().expect(0);
    assert!(haul.jobs().is_empty());
    haul.nothing_left();
}
