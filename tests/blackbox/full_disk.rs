//! A disk that is full, and then is not.

use std::fs;

use crate::support::files::{MIB, assert_same, make};
use crate::support::haul::{Haul, arg, cause, is_part};
use crate::support::mount::SmallDisk;
use crate::support::seed::Rng;
use crate::support::servers::Server;
use crate::support::wait::until_seldom;

/// Waits until the job stands still for want of space.
fn until_no_space(haul: &Haul, id: &str) {
    let job = haul.until_state(id, &["suspended"]);
    assert_eq!(cause(&job), Some("no-space"), "{job}");
}

#[test]
fn a_download_waits_for_space() {
    let haul = Haul::new();
    let disk = SmallDisk::new(16);
    let original = haul.store().join("data.bin");
    make(&original, 8 * MIB, Rng::for_test("a_download_waits_for_space").next());
    let server = Server::nginx(&haul.store(), "");
    let ballast = disk.fill_but(3 * MIB);
    let target = disk.path().join("copy.bin");
    let daemon = haul.daemon();
    let (id, _get) = haul.begin(&["get", &server.url("/data.bin"), "-o", arg(&target)]);
    until_no_space(&haul, &id);
    assert!(!target.exists());
    // Another job, on another disk, goes on.
    let other = haul.out().join("other.bin");
    haul.run(&["get", &server.url("/data.bin"), "-o", arg(&other)]).expect(0);
    assert_same(&other, &original);

    fs::remove_file(ballast).expect("free the space");
    haul.until_completed_after_space(&id);
    assert_same(&target, &original);
    let parts: Vec<_> =
        fs::read_dir(disk.path()).expect("list").flatten().map(|e| e.path()).filter(|p| is_part(p)).collect();
    assert!(parts.is_empty(), "{parts:?}");
    daemon.terminate().expect(0);
    haul.nothing_left();
}

/// A staging copy that does not fit is not a failed upload either.
#[test]
fn an_upload_waits_for_space_to_stage() {
    let disk = SmallDisk::new(64);
    let haul = Haul::new().with_session(&disk.path().join("session"));
    let server = Server::tus_node(&haul.store());
    let source = haul.source("data.bin");
    make(&source, 5 * MIB, Rng::for_test("an_upload_waits_for_space_to_stage").next());
    let daemon = haul.daemon();
    let ballast = disk.fill_but(4 * MIB);
    let (id, _put) = haul.begin(&["put", "--stage", "copy", arg(&source), &server.url("/files/")]);
    // It stands still, or waits in the queue for the staging budget: both are right, to fail is not.
    let job = haul.until_state(&id, &["suspended", "queued"]);
    assert!(server.objects().is_empty(), "{job}");
    fs::remove_file(ballast).expect("free the space");
    haul.until_completed_after_space(&id);
    assert_same(&server.only_object(5 * MIB), &source);
    daemon.terminate().expect(0);
    haul.nothing_left();
}

impl Haul {
    /// Waits for the job's end; while space comes back it may stay suspended for some time.
    fn until_completed_after_space(&self, id: &str) {
        until_seldom("the job goes on by itself and completes", || {
            let job = self.show(id)?;
            let state = job["state"].as_str().unwrap_or_default().to_owned();
            assert_ne!(state, "failed", "{job}");
            (state == "completed").then_some(())
        });
    }
}
