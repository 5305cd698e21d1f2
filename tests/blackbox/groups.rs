//! Groups and ranges: one word for many jobs.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use crate::support::files::{KIB, MIB, assert_same, make};
use crate::support::haul::{Haul, arg, cause, text, values};
use crate::support::proxy::{Proxy, Way};
use crate::support::seed::Rng;
use crate::support::servers::Server;
use crate::support::session::{accepted, ids};

/// So far away that it does not come in a test.
const LATER: &str = "+20h";

/// The jobs of a group.
#[track_caller]
fn of(haul: &Haul, group: &str) -> Vec<Value> {
    values(&haul.run(&["--json", "ls", "--group", group]).expect(0).stdout)
}

#[track_caller]
fn assert_states(jobs: &[Value], state: &str) {
    assert!(!jobs.is_empty(), "no jobs");
    for job in jobs {
        assert_eq!(text(job, "state"), state, "{job}");
    }
}

/// `count` files of `size` bytes; their paths.
fn files(haul: &Haul, name: &str, count: u64, size: u64, rng: &mut Rng) -> Vec<String> {
    let make_one = |number| {
        let path = haul.source(&format!("{name}-{number}.bin"));
        make(&path, size + number, rng.next());
        arg(&path).to_owned()
    };
    (0..count).map(make_one).collect()
}

fn words<'a>(first: &[&'a str], files: &'a [String], last: &'a str) -> Vec<&'a str> {
    first.iter().copied().chain(files.iter().map(String::as_str)).chain([last]).collect()
}

#[test]
fn one_group_holds_still_and_the_other_goes_on() {
    let mut rng = Rng::for_test("one_group_holds_still_and_the_other_goes_on");
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let (slow, other) = (Proxy::slow(server.addr(), MIB), Proxy::slow(server.addr(), MIB));
    let (left, right) = (files(&haul, "left", 3, 2 * MIB, &mut rng), files(&haul, "right", 2, MIB, &mut rng));
    let daemon = haul.daemon();
    let (to, and) = (slow.url("/files/"), other.url("/files/"));
    haul.run(&words(&["put", "-d", "--group", "left"], &left, &to)).expect(0);
    haul.run(&words(&["put", "-d", "--group", "right"], &right, &and)).expect(0);
    slow.until_bytes(Way::Up, MIB / 2);
    haul.run(&["pause", "--group", "left"]).expect(0);
    let held = of(&haul, "left");
    assert_states(&held, "suspended");
    assert!(held.iter().all(|job| cause(job) == Some("paused")), "{held:?}");
    other.throttle(0);
    for job in of(&haul, "right") {
        haul.until_state(&job["id"].to_string(), &["completed"]);
    }
    assert_states(&of(&haul, "left"), "suspended");
    slow.throttle(0);
    haul.run(&["resume", "--group", "left"]).expect(0);
    assert_states(&of(&haul, "left"), "completed");
    for (number, path) in (0..).zip(&left) {
        assert_same(&server.only_object(2 * MIB + number), path.as_ref());
    }
    daemon.terminate().expect(0);
    haul.nothing_left();
}

/// Several files without a name for their group get one, which is told and works.
#[test]
fn a_group_is_made_and_told() {
    let mut rng = Rng::for_test("a_group_is_made_and_told");
    let haul = Haul::new();
    let three = files(&haul, "file", 3, KIB, &mut rng);
    let daemon = haul.daemon();
    let done = haul
        .run(&words(&["put", "-d", "--not-before", LATER], &three, "http://127.0.0.1:9/files/"))
        .expect(0);
    let group = done.stdout.lines().find_map(|line| line.strip_prefix("group ")).expect("a group is told");
    assert_eq!(done.stdout.lines().filter(|line| line.starts_with("job ")).count(), 3, "{}", done.stdout);
    let one = haul.detach(&["put", "--not-before", LATER, &three[0], "http://127.0.0.1:9/files/"]);
    assert_eq!(of(&haul, group).len(), 3);

    haul.run(&["cancel", "--group", group]).expect(0);
    let jobs = of(&haul, group);
    assert_states(&jobs, "failed");
    assert!(jobs.iter().all(|job| cause(job) == Some("cancelled")), "{jobs:?}");
    haul.run(&["rm", "--group", group]).expect(0);
    assert!(of(&haul, group).is_empty(), "the group is still listed");
    let left = haul.jobs();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!((left[0]["id"].to_string(), text(&left[0], "state")), (one[0].clone(), "queued"));
    // Nothing has been sent, so that nothing is left; and removed means removed, also for the next owner.
    daemon.terminate().expect(0);
    let daemon = haul.daemon();
    assert_eq!(haul.jobs().len(), 1);
    haul.run(&["rm", &one[0]]).expect(1);
    assert_eq!(haul.jobs().len(), 1, "an unfinished job was removed");
    daemon.terminate().expect(0);
}

#[test]
fn ranges_name_many_jobs() {
    let mut rng = Rng::for_test("ranges_name_many_jobs");
    let haul = Haul::new();
    let six = files(&haul, "file", 6, KIB, &mut rng);
    let daemon = haul.daemon();
    let done =
        haul.run(&words(&["--json", "put", "-d", "--not-before", LATER], &six, "http://127.0.0.1:9/files/"));
    let numbers = accepted(&done.expect(0));
    assert_eq!(numbers, ["1", "2", "3", "4", "5", "6"]);
    let states = || -> BTreeMap<u64, String> {
        let jobs = haul.jobs();
        ids(&jobs).into_iter().zip(jobs.iter().map(|job| text(job, "state").to_owned())).collect()
    };
    let listed = haul.run(&["ls", "--ids", "2-3,5"]).expect(0).stdout;
    assert_eq!(listed.lines().collect::<Vec<_>>(), ["2", "3", "5"]);
    haul.run(&["pause", "1-2,4", "6"]).expect(0);
    let suspended: Vec<u64> =
        states().into_iter().filter(|(_, state)| state == "suspended").map(|(id, _)| id).collect();
    assert_eq!(suspended, [1, 2, 4, 6]);
    haul.run(&["resume", "-d", "1,2"]).expect(0);
    haul.run(&["cancel", "3-5"]).expect(0);
    let by_state = states();
    assert_eq!(by_state.values().filter(|state| *state == "failed").count(), 3, "{by_state:?}");
    assert_eq!((by_state[&1].as_str(), by_state[&6].as_str()), ("queued", "suspended"));
    // A number that is not there is told, and does not hold up the others.
    let done = haul.run(&["rm", "3,4,77"]).expect(1);
    assert!(done.stderr.contains("77"), "{}", done.stderr);
    assert_eq!(states().into_keys().collect::<Vec<_>>(), [1, 2, 5, 6]);
    haul.run(&["ls", "3-2"]).expect(2);
    haul.run(&["pause", "1-99999999"]).expect(2);
    daemon.terminate().expect(0);
}

#[test]
fn failed_jobs_are_tried_again_once() {
    let mut rng = Rng::for_test("failed_jobs_are_tried_again_once");
    let haul = Haul::new();
    let server = Server::nginx(&haul.store(), "");
    let urls: Vec<String> = (0..3).map(|number| server.url(&format!("/file-{number}.bin"))).collect();
    let out = haul.out();
    let get = words(&["get", "--group", "set", "-o", arg(&out)], &urls, &urls[0]);
    let get = &get[..get.len() - 1];
    haul.run(get).expect(1);
    let failed = of(&haul, "set");
    assert_states(&failed, "failed");
    assert!(failed.iter().all(|job| cause(job) == Some("rejected")), "{failed:?}");

    for number in 0..3 {
        make(&haul.store().join(format!("file-{number}.bin")), 5 * KIB, rng.next());
    }
    haul.run(&["retry", "--group", "set"]).expect(0);
    let jobs = of(&haul, "set");
    let (old, new) = jobs.split_at(3);
    assert_eq!((ids(old), new.len()), (ids(&failed), 3), "{jobs:?}");
    assert_states(new, "completed");
    let predecessors: Vec<_> = new.iter().filter_map(|job| job["predecessor"].as_u64()).collect();
    assert_eq!(predecessors, ids(old), "each names the one it follows");
    for number in 0..3 {
        let name = format!("file-{number}.bin");
        assert_same(&out.join(&name), &haul.store().join(&name));
    }

    // What was tried again is not tried again, by whatever name.
    haul.run(&["retry", "--group", "set"]).expect(0);
    haul.run(&["retry", "--all"]).expect(0);
    let again = haul.run(&["retry", &failed[0]["id"].to_string()]).expect(1);
    assert!(again.stderr.contains(&new[0]["id"].to_string()), "{}", again.stderr);
    assert_eq!(haul.jobs().len(), 6);

    // A successor that fails in its turn is a failed job like any other.
    fs::remove_file(haul.store().join("file-0.bin")).expect("remove a file");
    fs::remove_file(out.join("file-0.bin")).expect("remove a file");
    haul.run(&["get", "--group", "one", &urls[0]]).expect(1);
    for tries in 2..4 {
        haul.run(&["retry", "--group", "one"]).expect(1);
        assert_eq!(of(&haul, "one").len(), tries);
    }
    haul.nothing_left();
}
