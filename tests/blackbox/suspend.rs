//! Pause, resume, cancel and Ctrl-C: from another process, with and without an owner.

use std::time::{Duration, Instant};

use crate::support::files::{MIB, assert_same, make};
use crate::support::haul::{Haul, arg, cause, text};
use crate::support::proxy::{Proxy, Way};
use crate::support::seed::Rng;
use crate::support::servers::Server;
use crate::support::wait::last_move;

const SIZE: u64 = 24 * MIB;
const RATE: u64 = 8 * MIB;

/// The promise: once `pause` has returned, the bytes stop within this.
const STOPS_WITHIN: Duration = Duration::from_secs(1);

/// Pauses `id` and checks that what passes the proxy stops.
fn pause(haul: &Haul, id: &str, proxy: &Proxy, way: Way) {
    haul.run(&["pause", id]).expect(0);
    let moved = last_move(Instant::now(), 2 * STOPS_WITHIN, || proxy.bytes(way));
    assert!(moved <= STOPS_WITHIN, "bytes went on for {moved:?} after the pause");
    let job = haul.show(id).expect("the job is shown");
    assert_eq!((text(&job, "state"), cause(&job)), ("suspended", Some("paused")), "{job}");
}

#[test]
fn a_paused_upload_stops_while_another_goes_on() {
    let mut rng = Rng::for_test("a_paused_upload_stops_while_another_goes_on");
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let (slow, other) = (Proxy::slow(server.addr(), RATE), Proxy::slow(server.addr(), 2 * MIB));
    let (one, two) = (haul.source("one.bin"), haul.source("two.bin"));
    make(&one, SIZE, rng.next());
    make(&two, SIZE + 1, rng.next());
    let daemon = haul.daemon();
    let (first, put_one) = haul.begin(&["put", arg(&one), &slow.url("/files/")]);
    let (second, put_two) = haul.begin(&["put", arg(&two), &other.url("/files/")]);
    slow.until_bytes(Way::Up, 3 * MIB);
    other.until_bytes(Way::Up, MIB / 2);

    pause(&haul, &first, &slow, Way::Up);
    put_one.wait().expect(4);
    let then = other.bytes(Way::Up);
    other.until_bytes(Way::Up, then + MIB);
    other.throttle(0);
    put_two.wait().expect(0);
    let job = haul.show(&second).expect("the job is shown");
    assert_eq!(text(&job, "state"), "completed", "{job}");
    assert!(server.objects_of(SIZE).is_empty(), "the paused upload went on");

    let sent = slow.bytes(Way::Up);
    slow.throttle(0);
    haul.run(&["resume", &first]).expect(0);
    assert_same(&server.only_object(SIZE), &one);
    assert_same(&server.only_object(SIZE + 1), &two);
    assert!(slow.bytes(Way::Up) - sent < SIZE - MIB, "what was acknowledged before the pause was sent again");
    daemon.terminate().expect(0);
    haul.nothing_left();
}

#[test]
fn a_paused_download_stops_and_goes_on() {
    let mut rng = Rng::for_test("a_paused_download_stops_and_goes_on");
    let haul = Haul::new();
    let original = haul.store().join("data.bin");
    make(&original, SIZE, rng.next());
    let server = Server::nginx(&haul.store(), "");
    let proxy = Proxy::slow(server.addr(), RATE);
    let target = haul.out().join("copy.bin");
    // The foreground command owns the session here; the pause comes from another process.
    let (id, get) = haul.begin(&["get", &proxy.url("/data.bin"), "-o", arg(&target)]);
    proxy.until_bytes(Way::Down, SIZE / 2);
    pause(&haul, &id, &proxy, Way::Down);
    get.wait().expect(4);
    assert!(!target.exists());
    let sent = proxy.bytes(Way::Down);
    proxy.throttle(0);
    haul.run(&["resume", &id]).expect(0);
    assert_same(&target, &original);
    // What had come in the last moments may not have been synced yet.
    assert!(
        proxy.bytes(Way::Down) - sent < SIZE - SIZE / 6,
        "what was there before the pause was fetched again"
    );
    haul.nothing_left();
}

#[test]
fn a_paused_job_waits_for_its_resume() {
    let haul = Haul::new();
    let server = Server::tus_python(&haul.store());
    let proxy = Proxy::slow(server.addr(), RATE);
    let source = haul.source("data.bin");
    make(&source, SIZE, Rng::for_test("a_paused_job_waits_for_its_resume").next());
    let (id, put) = haul.begin(&["put", arg(&source), &proxy.url("/files")]);
    proxy.until_bytes(Way::Up, 2 * MIB);
    haul.run(&["pause", "--all"]).expect(0);
    put.wait().expect(4);

    // Another owner comes, does another job, and leaves the paused one alone.
    let (stored, extra) = (server.stored(), haul.source("extra.bin"));
    make(&extra, 1000, 1);
    proxy.throttle(0);
    haul.run(&["put", arg(&extra), &proxy.url("/files")]).expect(0);
    assert_eq!(server.stored(), stored + 1000, "bytes of the paused job were sent");
    let job = haul.show(&id).expect("the job is shown");
    assert_eq!(text(&job, "state"), "suspended", "{job}");

    haul.run(&["resume", "--all"]).expect(0);
    assert_same(&server.only_object(SIZE), &source);
    haul.nothing_left();
}

/// With nobody owning the session, `pause` journals under the lock: the next owner heeds it.
#[test]
fn pause_and_cancel_without_an_owner() {
    let mut rng = Rng::for_test("pause_and_cancel_without_an_owner");
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let proxy = Proxy::slow(server.addr(), RATE);
    let (one, two) = (haul.source("one.bin"), haul.source("two.bin"));
    make(&one, SIZE, rng.next());
    make(&two, SIZE + 1, rng.next());
    let (first, owner) = haul.begin(&["put", "--stage", "copy", arg(&one), &proxy.url("/files/")]);
    let (second, other) = haul.begin(&["put", "--stage", "copy", arg(&two), &proxy.url("/files/")]);
    proxy.until_bytes(Way::Up, 4 * MIB);
    owner.kill();
    drop(other);
    haul.run(&["pause", &first]).expect(0);
    haul.run(&["cancel", &second]).expect(0);
    let job = haul.show(&first).expect("the job is shown");
    assert_eq!((text(&job, "state"), cause(&job)), ("suspended", Some("paused")), "{job}");

    let daemon = haul.daemon();
    let job = haul.until_state(&second, &["failed"]);
    assert_eq!(cause(&job), Some("cancelled"), "{job}");
    let job = haul.show(&first).expect("the job is shown");
    assert_eq!(text(&job, "state"), "suspended", "{job}");
    proxy.throttle(0);
    haul.run(&["resume", &first]).expect(0);
    assert_same(&server.only_object(SIZE), &one);
    assert_eq!(server.objects().len(), 1, "the cancelled upload is gone from the server");
    daemon.terminate().expect(0);
    haul.nothing_left();
}

#[test]
fn a_cancelled_job_leaves_nothing() {
    let mut rng = Rng::for_test("a_cancelled_job_leaves_nothing");
    let haul = Haul::new();
    let uploads = Server::tus_node(&haul.store().join("up"));
    let downloads = Server::nginx(&haul.store().join("down"), "");
    let (up, down) = (Proxy::slow(uploads.addr(), RATE), Proxy::slow(downloads.addr(), RATE));
    let source = haul.source("data.bin");
    make(&source, SIZE, rng.next());
    make(&haul.store().join("down/data.bin"), SIZE, rng.next());

    let (id, put) = haul.begin(&["put", "--stage", "copy", arg(&source), &up.url("/files/")]);
    up.until_bytes(Way::Up, 2 * MIB);
    haul.run(&["cancel", &id]).expect(0);
    put.wait().expect(1);
    let job = haul.show(&id).expect("the job is shown");
    assert_eq!((text(&job, "state"), cause(&job)), ("failed", Some("cancelled")), "{job}");
    assert!(uploads.objects().is_empty(), "left at the server: {:?}", uploads.objects());
    haul.nothing_left();

    let (id, get) = haul.begin(&["get", &down.url("/data.bin")]);
    down.until_bytes(Way::Down, 2 * MIB);
    haul.run(&["cancel", &id]).expect(0);
    get.wait().expect(1);
    assert!(!haul.out().join("data.bin").exists());
    assert!(source.exists(), "the source stays");
    haul.nothing_left();
}

/// Ctrl-C suspends, says how to go on, and means it.
#[test]
fn an_interrupt_suspends_and_says_how_to_resume() {
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let proxy = Proxy::slow(server.addr(), RATE);
    let source = haul.source("data.bin");
    make(&source, SIZE, Rng::for_test("an_interrupt_suspends_and_says_how_to_resume").next());
    let mut put = haul.command(&["put", arg(&source), &proxy.url("/files/")]);
    put.env("TERM", "dumb");
    let put = crate::support::process::Running::spawn(put);
    proxy.until_bytes(Way::Up, 2 * MIB);
    put.interrupt();
    let done = put.wait().expect(4);
    let jobs = haul.jobs();
    let id = crate::support::haul::id(&jobs[0]);
    let said = format!("{}{}", done.stdout, done.stderr);
    assert!(said.contains(&format!("resume {id}")), "no word on how to resume:\n{said}");
    assert_eq!((text(&jobs[0], "state"), cause(&jobs[0])), ("suspended", Some("paused")));
    proxy.throttle(0);
    haul.run(&["resume", &id]).expect(0);
    assert_same(&server.only_object(SIZE), &source);
    haul.nothing_left();
}

/// Under a daemon, Ctrl-C suspends the jobs of this command only.
#[test]
fn an_interrupt_under_a_daemon_suspends_its_own_jobs() {
    let mut rng = Rng::for_test("an_interrupt_under_a_daemon_suspends_its_own_jobs");
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let proxy = Proxy::slow(server.addr(), RATE);
    let (one, two) = (haul.source("one.bin"), haul.source("two.bin"));
    make(&one, SIZE, rng.next());
    make(&two, SIZE + 1, rng.next());
    let daemon = haul.daemon();
    let (first, put_one) = haul.begin(&["put", arg(&one), &proxy.url("/files/")]);
    let (_, put_two) = haul.begin(&["put", arg(&two), &proxy.url("/files/")]);
    proxy.until_bytes(Way::Up, 2 * MIB);
    put_one.interrupt();
    put_one.wait().expect(4);
    let job = haul.show(&first).expect("the job is shown");
    assert_eq!(text(&job, "state"), "suspended", "{job}");
    proxy.throttle(0);
    put_two.wait().expect(0);
    assert_same(&server.only_object(SIZE + 1), &two);
    haul.run(&["cancel", &first]).expect(0);
    haul.until_state(&first, &["failed"]);
    daemon.terminate().expect(0);
    haul.nothing_left();
}

/// An owner that is told to stop leaves its jobs as they are; the next one takes them up.
#[test]
fn a_terminated_daemon_leaves_its_jobs_to_the_next() {
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let proxy = Proxy::slow(server.addr(), RATE);
    let source = haul.source("data.bin");
    make(&source, SIZE, Rng::for_test("a_terminated_daemon_leaves_its_jobs_to_the_next").next());
    let daemon = haul.daemon();
    let (id, put) = haul.begin(&["put", arg(&source), &proxy.url("/files/")]);
    proxy.until_bytes(Way::Up, 2 * MIB);
    // Otherwise it would be the next owner itself.
    put.kill();
    daemon.terminate().expect(0);
    let job = haul.show(&id).expect("the job is shown");
    assert_eq!(text(&job, "state"), "sending", "{job}");
    proxy.throttle(0);
    haul.finish(&[&id]);
    assert_same(&server.only_object(SIZE), &source);
    haul.nothing_left();
}
