//! A journal that was damaged, or cannot be written: nothing is done on its word.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::support::files::{KIB, MIB, fingerprint, make, tree};
use crate::support::haul::{Haul, arg};
use crate::support::process::Running;
use crate::support::proxy::{Proxy, Way};
use crate::support::seed::Rng;
use crate::support::servers::Server;

/// The database's main file.
fn database(haul: &Haul) -> PathBuf {
    let found =
        tree(haul.session()).into_iter().find(|path| path.file_name().is_some_and(|name| name == "db"));
    haul.session().join(found.expect("the session has a database"))
}

/// Flips bytes in the middle of what is written in the database.
fn flip_the_middle(haul: &Haul) {
    let path = database(haul);
    let bytes = std::fs::read(&path).expect("read the database");
    let end = bytes.iter().rposition(|&byte| byte != 0).expect("the database is not empty");
    let at = end / 2;
    let flipped: Vec<_> = bytes[at..(at + 64).min(end)].iter().map(|byte| byte ^ 0x5a).collect();
    let file = OpenOptions::new().write(true).open(&path).expect("open the database");
    file.write_all_at(&flipped, at as u64).expect("damage the database");
}

#[test]
fn a_damaged_journal_is_reported_and_left_alone() {
    let mut rng = Rng::for_test("a_damaged_journal_is_reported_and_left_alone");
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let proxy = Proxy::slow(server.addr(), 4 * MIB);
    // A history of some length, and one job under way.
    for number in 0..8 {
        let source = haul.source(&format!("file-{number}"));
        make(&source, KIB, rng.next());
        haul.run(&["put", arg(&source), &server.url("/files/")]).expect(0);
    }
    let source = haul.source("data.bin");
    make(&source, 16 * MIB, rng.next());
    let (_, put) = haul.begin(&["put", "--stage", "copy", arg(&source), &proxy.url("/files/")]);
    proxy.until_bytes(Way::Up, 2 * MIB);
    put.kill();
    flip_the_middle(&haul);

    let (before, sent) = (fingerprint(haul.session()), proxy.connections());
    for command in [
        vec!["daemon"],
        vec!["ls"],
        vec!["resume", "--all"],
        vec!["put", arg(&source), &proxy.url("/files/")],
    ] {
        let done = haul.run(&command).expect(78);
        assert!(!done.stderr.trim().is_empty(), "{command:?} says nothing");
        assert!(!done.stderr.contains("panicked"), "{command:?}: {}", done.stderr);
    }
    haul.run(&["doctor"]).expect(78);
    let after = fingerprint(haul.session());
    for (path, hash) in &before {
        // The lock holds a pid, for messages.
        let lock = path.to_string_lossy().to_lowercase().contains("lock");
        assert!(lock || after.get(path) == Some(hash), "{} was changed or removed", path.display());
    }
    assert_eq!(proxy.connections(), sent, "something was sent");
    assert!(haul.staged().len() == 1, "the staging copy stays: {:?}", haul.staged());
}

/// A journal that was emptied is not a new one.
#[test]
fn an_emptied_journal_is_not_taken_for_a_new_one() {
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let source = haul.source("data.bin");
    make(&source, MIB, 1);
    haul.run(&["put", arg(&source), &server.url("/files/")]).expect(0);
    let path = database(&haul);
    let length = std::fs::metadata(&path).expect("stat the database").len();
    let file = OpenOptions::new().write(true).open(&path).expect("open the database");
    file.set_len(0).and_then(|()| file.set_len(length)).expect("empty the database");
    drop(file);
    haul.run(&["ls"]).expect(78);
    haul.run(&["daemon"]).expect(78);
}

/// When the disk refuses a sync, the owner stops with 74 and says so; what it had accepted before is kept.
#[test]
fn a_journal_that_cannot_be_synced_stops_the_owner() {
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let kept = haul.source("kept.bin");
    make(&kept, MIB, 1);
    haul.run(&["put", arg(&kept), &server.url("/files/")]).expect(0);

    let source = haul.source("data.bin");
    make(&source, MIB, 2);
    // The first syncs are those of opening; later ones are of commits (and of staging, which comes after one).
    let options =
        ["-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO"];
    let command = haul.command_under("strace", &options, &["put", arg(&source), &server.url("/files/")]);
    let done = Running::spawn(command).wait().expect(74);
    assert!(!done.stderr.trim().is_empty(), "nothing was said");
    assert!(server.objects_of(MIB).len() == 1, "something was sent after the journal had failed");

    // The disk is well again.
    let daemon = haul.daemon();
    assert!(haul.jobs().iter().any(|job| job["source"].as_str() == Some(arg(&kept))), "{:?}", haul.jobs());
    daemon.terminate().expect(0);
}
