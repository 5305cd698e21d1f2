//! The doctor: what it finds, what it repairs, and what it leaves alone.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::path::PathBuf;

use serde_json::Value;

use crate::support::files::{KIB, MIB, assert_same, fingerprint, make, sha256, tree};
use crate::support::haul::{Haul, arg, cause, id, text, values};
use crate::support::proxy::{Proxy, Way};
use crate::support::seed::Rng;
use crate::support::servers::Server;
use crate::support::session::ids;

const SIZE: u64 = 8 * MIB;

fn database(haul: &Haul) -> PathBuf {
    haul.session().join("journal/db.1/db")
}

/// Cuts off what is written in the database, at a part of its length in eighths.
fn truncate(haul: &Haul, eighths: u64) -> String {
    let path = database(haul);
    let bytes = fs::read(&path).expect("read the database");
    let end = bytes.iter().rposition(|&byte| byte != 0).expect("the database is not empty") as u64;
    let file = OpenOptions::new().write(true).open(&path).expect("open the database");
    file.set_len(end * eighths / 8).expect("truncate the database");
    sha256(&path)
}

/// All that lies in the session, but for locks, which hold a pid for messages, and sockets.
fn all(haul: &Haul) -> BTreeMap<PathBuf, String> {
    let mut files = fingerprint(haul.session());
    files.retain(|path, _| !path.to_string_lossy().contains("lock"));
    files
}

/// What is in a sound session: its database writes itself anew whenever it is opened, so that of the journal only
/// the jobs are compared.
fn contents(haul: &Haul) -> (BTreeMap<PathBuf, String>, Vec<Value>) {
    let mut files = all(haul);
    files.retain(|path, _| !path.starts_with("journal"));
    (files, haul.jobs())
}

#[test]
fn a_sound_session_is_called_so() {
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    // One that is not there yet is none the worse for it, and is not made.
    haul.run(&["doctor"]).expect(0);
    assert!(!haul.session().exists(), "the doctor made a session");
    let source = haul.source("data.bin");
    make(&source, KIB, 1);
    haul.run(&["put", arg(&source), &server.url("/files/")]).expect(0);
    let before = contents(&haul);
    let done = haul.run(&["doctor"]).expect(0);
    assert!(done.stdout.contains("healthy") && !done.stdout.contains("not healthy"), "{}", done.stdout);
    let report = values(&haul.run(&["--json", "doctor"]).expect(0).stdout).remove(0);
    assert_eq!(
        (report["healthy"].as_bool(), report["damaged"].as_bool()),
        (Some(true), Some(false)),
        "{report}"
    );
    assert_eq!(contents(&haul), before, "looking changed something");
    // Nobody is disturbed in the middle of their work.
    let daemon = haul.daemon();
    let refused = haul.run(&["doctor"]).expect(73);
    assert!(refused.stderr.contains(&daemon.id().to_string()), "{}", refused.stderr);
    daemon.terminate().expect(0);
}

#[test]
fn leftovers_are_named_and_removed() {
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let source = haul.source("data.bin");
    make(&source, KIB, 1);
    haul.run(&["put", arg(&source), &server.url("/files/")]).expect(0);
    let stage = haul.session().join("stage");
    let (copy, other) = (stage.join("0000000000000001.stage"), stage.join("notes.txt"));
    fs::write(&copy, "left").expect("a leftover");
    fs::write(&other, "not ours").expect("a file of somebody else");
    let found = haul.run(&["doctor"]);
    assert!(found.stdout.contains("0000000000000001.stage"), "{}", found.stdout);

    let before = all(&haul).into_keys().filter(|path| !path.starts_with("journal")).collect::<Vec<_>>();
    let dry = haul.run(&["doctor", "--repair", "--dry-run"]);
    assert!(dry.stdout.contains("0000000000000001.stage"), "{}", dry.stdout);
    let after = all(&haul).into_keys().filter(|path| !path.starts_with("journal")).collect::<Vec<_>>();
    assert_eq!(after, before, "a dry run changed something");
    haul.run(&["doctor", "--repair"]);
    assert!(!copy.exists(), "the leftover is still there");
    assert!(other.exists(), "a file that is not ours was removed");
    fs::remove_file(other).expect("remove it");
    haul.run(&["doctor"]).expect(0);
}

/// A journal that lost its end: what can be read comes back, holds still, and goes on when it is told to.
#[test]
fn a_truncated_journal_is_repaired() {
    let mut rng = Rng::for_test("a_truncated_journal_is_repaired");
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let proxy = Proxy::slow(server.addr(), 4 * MIB);
    let (source, waiting) = (haul.source("data.bin"), haul.source("waiting.bin"));
    make(&source, SIZE, rng.next());
    make(&waiting, SIZE + 1, rng.next());
    // The first to be accepted are the last to be lost.
    let url = proxy.url("/files/");
    let early = haul.begin(&["put", "--stage", "copy", arg(&waiting), "--not-before", "+20h", &url]);
    let (_, put) = haul.begin(&["put", "--stage", "copy", arg(&source), &url]);
    proxy.until_bytes(Way::Up, 2 * MIB);
    // The guest first: it would take the session over.
    put.kill();
    early.1.kill();
    let damaged = truncate(&haul, 7);
    let (before, sent) = (all(&haul), proxy.connections());
    for words in [&["doctor"][..], &["ls"], &["daemon"], &["doctor", "export"]] {
        haul.run(words).expect(78);
    }
    let dry = haul.run(&["doctor", "--repair", "--dry-run"]);
    assert!(dry.stdout.contains("nothing was changed"), "{}", dry.stdout);
    assert_eq!(all(&haul), before, "something was changed by looking");

    let repaired = haul.run(&["--json", "doctor", "--repair"]);
    assert!(matches!(repaired.code, Some(0 | 1)), "{repaired:?}");
    let repair = values(&repaired.stdout).remove(0);
    let restored = repair["restored"].as_array().cloned().unwrap_or_default();
    assert!(!restored.is_empty(), "nothing was restored: {repair}");
    // What was damaged is put aside, whole.
    let quarantine = PathBuf::from(text(&repair, "quarantine"));
    assert!(quarantine.starts_with(haul.session()), "{}", quarantine.display());
    assert_eq!(sha256(&quarantine.join("journal/db.1/db")), damaged);
    let kept = fingerprint(haul.session());
    for (path, hash) in &before {
        let is_there = kept.values().any(|other| other == hash);
        assert!(is_there || path.ends_with("head"), "{} is gone", path.display());
    }

    // An owner leaves them alone.
    let jobs = haul.jobs();
    assert_eq!(ids(&jobs), ids(&restored));
    for job in &jobs {
        assert_eq!((text(job, "state"), cause(job)), ("suspended", Some("restored")), "{job}");
    }
    haul.run(&["doctor"]);
    let (extra, daemon) = (haul.source("extra.bin"), haul.daemon());
    make(&extra, KIB, 1);
    haul.run(&["put", arg(&extra), &server.url("/files/")]).expect(0);
    assert_eq!(proxy.connections(), sent, "a restored job was sent without a word");
    let highest = haul.jobs().last().map(id);
    assert!(highest.is_some_and(|id| id.parse::<u64>().is_ok_and(|id| id > 2)), "a number was given again");

    proxy.throttle(0);
    for job in &jobs {
        if job["size"].as_u64() == Some(SIZE) {
            haul.run(&["resume", &id(job)]).expect(0);
            assert_same(&server.only_object(SIZE), &source);
        }
    }
    haul.run(&["cancel", "--state", "unfinished"]).expect(0);
    daemon.terminate().expect(0);
}

/// The same with one job, at every depth of the cut: nothing is sent, nothing is deleted, and the rest is usable.
#[test]
fn a_journal_is_repaired_wherever_it_was_cut() {
    let mut rng = Rng::for_test("a_journal_is_repaired_wherever_it_was_cut");
    for eighths in [1, 3, 5, 7] {
        let haul = Haul::new();
        let server = Server::tus_node(&haul.store());
        let proxy = Proxy::slow(server.addr(), 8 * MIB);
        let source = haul.source("data.bin");
        make(&source, SIZE, rng.next());
        let (_, put) = haul.begin(&["put", "--stage", "none", arg(&source), &proxy.url("/files/")]);
        proxy.until_bytes(Way::Up, 3 * MIB);
        put.kill();
        let damaged = truncate(&haul, eighths);
        let sent = proxy.connections();
        haul.run(&["doctor"]).expect(78);
        let repaired = haul.run(&["doctor", "--repair"]);
        assert!(matches!(repaired.code, Some(0 | 1)), "cut at {eighths}/8: {repaired:?}");
        let kept = fingerprint(haul.session());
        assert!(
            kept.values().any(|hash| *hash == damaged),
            "cut at {eighths}/8: the damaged journal is gone"
        );
        proxy.throttle(0);
        match haul.jobs().as_slice() {
            [] => {
                assert_eq!(
                    repaired.code,
                    Some(1),
                    "cut at {eighths}/8: a lost job is not told: {repaired:?}"
                );
            }
            [job] => {
                assert_eq!(text(job, "state"), "suspended", "{job}");
                assert_eq!(proxy.connections(), sent, "it was sent without a word");
                haul.run(&["resume", "--all"]).expect(0);
                assert_same(&server.only_object(SIZE), &source);
            }
            more => panic!("one job became {more:?}"),
        }
        haul.run(&["put", arg(&source), &server.url("/files/")]).expect(0);
        haul.run(&["doctor"]);
    }
}

/// Unfinished jobs go to another session, and on from there.
#[test]
fn jobs_are_carried_to_another_session() {
    let mut rng = Rng::for_test("jobs_are_carried_to_another_session");
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let proxy = Proxy::slow(server.addr(), 4 * MIB);
    let source = haul.source("data.bin");
    make(&source, SIZE, rng.next());
    let (_, put) = haul.begin(&["put", "--stage", "none", arg(&source), &proxy.url("/files/")]);
    proxy.until_bytes(Way::Up, SIZE / 2);
    proxy.throttle(MIB / 8);
    let refused = haul.run(&["doctor", "export"]).expect(73);
    assert!(refused.stdout.is_empty(), "{}", refused.stdout);
    put.kill();
    let file = haul.dir().join("jobs.json");
    let before = contents(&haul);
    haul.run(&["doctor", "export", arg(&file)]).expect(0);
    haul.run(&["doctor", "export", arg(&file)]).expect(1);
    assert_eq!(contents(&haul), before, "an export changed something");

    let (first, second) = (haul.session().to_owned(), haul.dir().join("second"));
    let haul = haul.with_session(&second);
    let imported = haul.run(&["--json", "doctor", "import", arg(&file)]).expect(0);
    assert_eq!(values(&imported.stdout).len(), 1, "{}", imported.stdout);
    let jobs = haul.jobs();
    assert_eq!((jobs.len(), text(&jobs[0], "state")), (1, "suspended"), "{jobs:?}");
    let sent = proxy.bytes(Way::Up);
    proxy.throttle(0);
    haul.run(&["resume", "--all"]).expect(0);
    assert_same(&server.only_object(SIZE), &source);
    assert_eq!(server.objects().len(), 1, "{:?}", server.objects());
    let more = proxy.bytes(Way::Up) - sent;
    assert!(more < SIZE * 3 / 4, "{more} bytes after the import: it did not go on where it was");

    // The first session's job finds its upload whole, or ends; it is no second object.
    let haul = haul.with_session(&first);
    haul.run(&["cancel", "--all"]).expect(0);
    assert_eq!(server.objects_of(SIZE).len() + usize::from(server.objects().is_empty()), 1);
    assert!(!tree(&second).is_empty());
}
