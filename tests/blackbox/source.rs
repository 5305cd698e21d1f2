//! Sources that change while they are being sent.
//!
//! What must never be: an object at the server that was made of two states of the source, or a job that says
//! completed for it.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::Value;

use crate::support::files::{MIB, assert_same, make, sha256};
use crate::support::haul::{Haul, arg, cause, text};
use crate::support::proxy::{Proxy, Way};
use crate::support::seed::Rng;
use crate::support::servers::Server;

const SIZE: u64 = 12 * MIB + 777;
const RATE: u64 = 16 * MIB;

/// Sends a file in place, calls `change` when a random part of it has gone, and returns the job's end.
fn changed_in_place(
    name: &str,
    start: impl Fn(&Path) -> Server,
    path: &str,
    change: impl Fn(&Path, &mut Rng),
) {
    let mut rng = Rng::for_test(name);
    let haul = Haul::new();
    let server = start(&haul.store());
    let proxy = Proxy::slow(server.addr(), RATE);
    for round in 0..3 {
        let source = haul.source(&format!("data-{round}.bin"));
        make(&source, SIZE, rng.next());
        let old = sha256(&source);
        let at = proxy.bytes(Way::Up) + MIB / 2 + rng.below(SIZE - 2 * MIB);
        let (id, put) = haul.begin(&["put", "--stage", "none", arg(&source), &proxy.url(path)]);
        proxy.until_bytes(Way::Up, at);
        change(&source, &mut rng);
        put.wait().expect(1);
        let job: Value = haul.show(&id).expect("the job is shown");
        assert_eq!((text(&job, "state"), cause(&job)), ("failed", Some("source-changed")), "{job}");
        let whole = server.objects_of(SIZE);
        assert!(
            whole.is_empty(),
            "round {round}: an object of full size, old bytes: {}",
            sha256(&whole[0]) == old
        );
        assert!(server.objects().is_empty(), "the remote session was ended: {:?}", server.objects());
    }
    haul.nothing_left();
}

fn overwrite_a_block(source: &Path, rng: &mut Rng) {
    let file = OpenOptions::new().write(true).open(source).expect("open the source to change it");
    file.write_all_at(b"changed under way", rng.below(SIZE - 100)).expect("change the source");
}

#[test]
fn overwritten_in_place() {
    changed_in_place("overwritten_in_place", Server::tus_node, "/files/", overwrite_a_block);
}

#[test]
fn overwritten_in_place_at_a_server_with_checksums() {
    changed_in_place("overwritten_in_place_at_python", Server::tus_python, "/files", overwrite_a_block);
}

#[test]
fn overwritten_in_place_and_its_time_put_back() {
    let change = |source: &Path, rng: &mut Rng| {
        let file = OpenOptions::new().write(true).open(source).expect("open the source to change it");
        let then = file.metadata().and_then(|m| m.modified()).expect("the source's time");
        file.write_all_at(b"changed under way", rng.below(SIZE - 100)).expect("change the source");
        file.set_modified(then).expect("put the time back");
    };
    changed_in_place("overwritten_in_place_and_its_time_put_back", Server::tus_node, "/files/", change);
}

#[test]
fn truncated() {
    let change = |source: &Path, rng: &mut Rng| {
        let file = OpenOptions::new().write(true).open(source).expect("open the source to change it");
        file.set_len(rng.below(SIZE)).expect("truncate the source");
    };
    changed_in_place("truncated", Server::tus_node, "/files/", change);
}

#[test]
fn appended_to() {
    let change = |source: &Path, _: &mut Rng| {
        let file = OpenOptions::new().write(true).open(source).expect("open the source to change it");
        file.write_all_at(b"more", SIZE).expect("append to the source");
    };
    changed_in_place("appended_to", Server::tus_node, "/files/", change);
}

#[test]
fn deleted() {
    changed_in_place("deleted", Server::tus_node, "/files/", |source, _| {
        fs::remove_file(source).expect("delete the source");
    });
}

#[test]
fn replaced_by_another_file() {
    changed_in_place("replaced_by_another_file", Server::tus_node, "/files/", |source, rng| {
        let other = source.with_extension("other");
        make(&other, SIZE, rng.next());
        fs::rename(&other, source).expect("replace the source");
    });
}

/// With a copy the source is free once the job is staged: the old bytes arrive.
#[test]
fn a_staged_copy_is_what_is_sent() {
    let mut rng = Rng::for_test("a_staged_copy_is_what_is_sent");
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let proxy = Proxy::slow(server.addr(), RATE);
    let (source, kept) = (haul.source("data.bin"), haul.source("kept.bin"));
    make(&source, SIZE, rng.next());
    fs::copy(&source, &kept).expect("keep the old bytes");
    let (id, put) = haul.begin(&["put", "--stage", "copy", arg(&source), &proxy.url("/files/")]);
    proxy.until_bytes(Way::Up, MIB);
    assert_eq!(haul.staged().len(), 1, "the copy is in the staging area: {:?}", haul.staged());
    overwrite_a_block(&source, &mut rng);
    fs::remove_file(&source).expect("delete the source");
    put.wait().expect(0);
    let job = haul.show(&id).expect("the job is shown");
    assert_eq!(text(&job, "state"), "completed", "{job}");
    assert_same(&server.only_object(SIZE), &kept);
    haul.nothing_left();
}

/// Changed while nobody was looking, between a kill and the next owner.
#[test]
fn changed_between_two_owners() {
    let mut rng = Rng::for_test("changed_between_two_owners");
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let proxy = Proxy::slow(server.addr(), RATE);
    let source = haul.source("data.bin");
    make(&source, SIZE, rng.next());
    let (id, put) = haul.begin(&["put", "--stage", "none", arg(&source), &proxy.url("/files/")]);
    proxy.until_bytes(Way::Up, 2 * MIB);
    put.kill();
    overwrite_a_block(&source, &mut rng);
    let daemon = haul.daemon();
    let job = haul.until_state(&id, &["failed"]);
    assert_eq!(cause(&job), Some("source-changed"), "{job}");
    daemon.terminate().expect(0);
    assert!(server.objects().is_empty(), "the remote session was ended: {:?}", server.objects());
    assert!(proxy.bytes(Way::Up) < SIZE, "the changed file was sent on");
    haul.nothing_left();
}
