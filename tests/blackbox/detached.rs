//! Jobs that nobody waits for, and the daemon that runs them.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::time::Duration;

use crate::support::files::{KIB, MIB, assert_same, make};
use crate::support::haul::{Haul, arg, cause, text};
use crate::support::process::{Done, Running, Signal};
use crate::support::proxy::{Proxy, Way};
use crate::support::seed::Rng;
use crate::support::servers::Server;
use crate::support::session::{Reaper, accepted, kill, runs};
use crate::support::wait::{until, within};

/// A short idle time, and a span in which a daemon would have left by it.
const IDLE: &str = "1s";
const LONGER: Duration = Duration::from_millis(2500);

#[test]
fn a_detached_put_leaves_a_daemon() {
    let haul = Haul::new();
    let _reaper = Reaper::of(&haul);
    let server = Server::tus_node(&haul.store());
    let proxy = Proxy::slow(server.addr(), 4 * MIB);
    let source = haul.source("data.bin");
    make(&source, 8 * MIB, Rng::for_test("a_detached_put_leaves_a_daemon").next());
    let words = ["--json", "put", "-d", arg(&source), &proxy.url("/files/")];
    let mut shell =
        Running::spawn(haul.command_under("sh", &["-c", "\"$0\" \"$@\"; echo; kill -9 0"], &words));
    let shell_id = shell.id();
    until("the shell and its group are killed", || shell.ended());
    let done: Done = shell.wait();
    let job = accepted(&done).remove(0);

    let daemons = haul.daemons();
    assert_eq!(daemons, [haul.owner()], "one daemon, and it owns the session");
    assert_ne!(daemons[0], shell_id);
    // The fields after the name: state, parent, process group, session.
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemons[0])).expect("the daemon's state");
    let session = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(3));
    assert_eq!(session, Some(daemons[0].to_string().as_str()), "it shares a terminal's session");
    assert_eq!(fs::read_link(format!("/proc/{}/cwd", daemons[0])).expect("its directory").as_os_str(), "/");

    proxy.throttle(0);
    haul.until_state(&job, &["completed"]);
    assert_same(&server.only_object(8 * MIB), &source);
    haul.nothing_left();
}

#[test]
fn five_at_once_share_one_daemon() {
    let mut rng = Rng::for_test("five_at_once_share_one_daemon");
    let haul = Haul::new();
    let _reaper = Reaper::of(&haul);
    let server = Server::tus_node(&haul.store());
    let sources: Vec<_> = (0..5)
        .map(|number| {
            let source = haul.source(&format!("file-{number}.bin"));
            make(&source, 20 * KIB + number, rng.next());
            source
        })
        .collect();
    let url = server.url("/files/");
    let puts: Vec<_> =
        sources.iter().map(|source| haul.spawn(&["--json", "put", "-d", arg(source), &url])).collect();
    let numbers: BTreeSet<String> =
        puts.into_iter().flat_map(|put| accepted(&put.wait().expect(0))).collect();
    assert_eq!(numbers.len(), 5, "{numbers:?}");
    until("one daemon is left", || (haul.daemons().len() == 1).then_some(()));
    for number in &numbers {
        haul.until_state(number, &["completed"]);
    }
    for (number, source) in (0..).zip(&sources) {
        assert_same(&server.only_object(20 * KIB + number), source);
    }
    assert_eq!(haul.daemons(), [haul.owner()]);
    haul.nothing_left();
}

/// An idle daemon leaves; one with work does not, and what is suspended is no work.
#[test]
fn a_daemon_leaves_when_it_has_nothing_to_do() {
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let proxy = Proxy::to(server.addr());
    proxy.refuse(true);
    let source = haul.source("data.bin");
    make(&source, MIB, Rng::for_test("a_daemon_leaves_when_it_has_nothing_to_do").next());

    haul.spawn(&["daemon", "--idle-exit", IDLE]).wait().expect(0);

    let mut daemon = haul.spawn(&["daemon", "--idle-exit", IDLE]);
    daemon.line("the daemon is ready", |line| (line.trim() == "ready").then_some(()));
    let job = haul.detach(&["put", arg(&source), &proxy.url("/files/")]).remove(0);
    let left = within(LONGER, Duration::from_millis(50), || daemon.ended());
    assert!(left.is_none(), "it left a job that waits for its next attempt: {left:?}");
    haul.run(&["pause", &job]).expect(0);
    daemon.wait().expect(0);
    let shown = haul.show(&job).expect("the job is shown");
    assert_eq!((text(&shown, "state"), cause(&shown)), ("suspended", Some("paused")), "{shown}");

    proxy.refuse(false);
    haul.run(&["resume", &job]).expect(0);
    assert_same(&server.only_object(MIB), &source);
    haul.nothing_left();
}

/// What waits for its time is work that is still to come.
#[test]
fn a_daemon_stays_for_what_begins_later() {
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let source = haul.source("data.bin");
    make(&source, MIB, Rng::for_test("a_daemon_stays_for_what_begins_later").next());
    let mut daemon = haul.spawn(&["daemon", "--idle-exit", IDLE]);
    daemon.line("the daemon is ready", |line| (line.trim() == "ready").then_some(()));
    let job = haul.detach(&["put", "--not-before", "+3s", arg(&source), &server.url("/files/")]).remove(0);
    haul.until_state(&job, &["completed"]);
    assert_same(&server.only_object(MIB), &source);
    daemon.wait().expect(0);
    haul.nothing_left();
}

#[test]
fn the_next_daemon_takes_the_jobs_up() {
    let mut rng = Rng::for_test("the_next_daemon_takes_the_jobs_up");
    let haul = Haul::new();
    let _reaper = Reaper::of(&haul);
    let server = Server::tus_node(&haul.store());
    let proxy = Proxy::slow(server.addr(), 4 * MIB);
    let (one, two) = (haul.source("one.bin"), haul.source("two.bin"));
    make(&one, 10 * MIB, rng.next());
    make(&two, 30 * KIB, rng.next());
    let url = proxy.url("/files/");
    let first = haul.detach(&["put", arg(&one), &url]).remove(0);
    let owner = haul.owner();
    proxy.until_bytes(Way::Up, 3 * MIB);
    kill(owner).expect("kill the daemon");
    until("the daemon is gone", || (!runs(owner)).then_some(()));
    proxy.throttle(0);
    let second = haul.detach(&["put", arg(&two), &url]).remove(0);
    assert_ne!(haul.owner(), owner);
    for job in [&first, &second] {
        haul.until_state(job, &["completed"]);
    }
    assert_same(&server.only_object(10 * MIB), &one);
    assert_same(&server.only_object(30 * KIB), &two);
    assert!(proxy.bytes(Way::Up) < 20 * MIB, "the first file was sent from its beginning again");
    haul.nothing_left();
}

/// A command in the foreground that owns the session takes detached jobs too; a daemon goes on with them.
#[test]
fn detached_jobs_outlive_a_foreground_owner() {
    let mut rng = Rng::for_test("detached_jobs_outlive_a_foreground_owner");
    let haul = Haul::new();
    let _reaper = Reaper::of(&haul);
    let server = Server::tus_node(&haul.store());
    let (fast, slow) = (Proxy::slow(server.addr(), 4 * MIB), Proxy::slow(server.addr(), MIB));
    let (one, two) = (haul.source("one.bin"), haul.source("two.bin"));
    make(&one, 4 * MIB, rng.next());
    make(&two, 4 * MIB + 1, rng.next());
    let (_, owner) = haul.begin(&["put", arg(&one), &fast.url("/files/")]);
    let job = haul.detach(&["put", arg(&two), &slow.url("/files/")]).remove(0);
    assert_eq!(haul.owner(), owner.id(), "the session changed hands");
    fast.throttle(0);
    owner.wait().expect(0);
    slow.throttle(0);
    haul.until_state(&job, &["completed"]);
    assert_eq!(haul.daemons().len(), 1);
    assert_same(&server.only_object(4 * MIB + 1), &two);
    haul.nothing_left();
}

/// SIGTERM ends a detached daemon like any other; its jobs wait for the next one.
#[test]
fn a_detached_daemon_can_be_told_to_leave() {
    let haul = Haul::new();
    let _reaper = Reaper::of(&haul);
    let server = Server::tus_node(&haul.store());
    let proxy = Proxy::slow(server.addr(), MIB);
    let source = haul.source("data.bin");
    make(&source, 3 * MIB, Rng::for_test("a_detached_daemon_can_be_told_to_leave").next());
    let job = haul.detach(&["put", arg(&source), &proxy.url("/files/")]).remove(0);
    proxy.until_bytes(Way::Up, MIB / 4);
    let owner = haul.owner();
    let status = std::process::Command::new("kill").arg(owner.to_string()).status().expect("start kill");
    assert!(status.success());
    until("the daemon is gone", || (!runs(owner)).then_some(()));
    let shown = haul.show(&job).expect("the job is shown");
    assert_eq!(text(&shown, "state"), "sending", "{shown}");
    proxy.throttle(0);
    haul.finish(&[&job]);
    assert_same(&server.only_object(3 * MIB), &source);
}

/// Why there is no daemon is said by the command, with the exit code that tells it.
#[test]
fn a_daemon_that_cannot_start_says_why() {
    let haul = Haul::new();
    let _reaper = Reaper::of(&haul);
    let source = haul.source("data.bin");
    make(&source, KIB, 1);
    let later = ["put", "-d", "--not-before", "+20h", arg(&source), "http://127.0.0.1:9/files/"];
    haul.run(&later).expect(0);
    let owner = haul.owner();
    kill(owner).expect("kill the daemon");
    until("the daemon is gone", || (!runs(owner)).then_some(()));
    let head = haul.session().join("journal/head");
    let db = haul.session().join("journal/db.1/db");
    for path in [head, db] {
        let length = fs::metadata(&path).expect("stat a file of the journal").len();
        let file = OpenOptions::new().write(true).open(&path).expect("open a file of the journal");
        file.set_len(0).and_then(|()| file.set_len(length)).expect("empty it");
    }
    let done = haul.run(&later).expect(78);
    assert!(done.stderr.contains("damaged"), "{}", done.stderr);
    assert!(haul.daemons().is_empty());

    // A session that can be no directory.
    let haul = haul.with_session(&source.join("session"));
    let done = haul.run(&later);
    assert!(done.code.is_some_and(|code| code != 0), "{done:?}");
    assert!(done.stderr.contains("data.bin"), "the place is not named: {}", done.stderr);
    assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
}

/// Two signals that end a terminal's processes do not reach it.
#[test]
fn hangups_do_not_reach_a_detached_daemon() {
    let haul = Haul::new();
    let _reaper = Reaper::of(&haul);
    let server = Server::tus_node(&haul.store());
    let proxy = Proxy::slow(server.addr(), 2 * MIB);
    let source = haul.source("data.bin");
    make(&source, 3 * MIB, Rng::for_test("hangups_do_not_reach_a_detached_daemon").next());
    let words = ["--json", "put", "-d", arg(&source), &proxy.url("/files/")];
    let mut shell =
        Running::spawn(haul.command_under("sh", &["-c", "\"$0\" \"$@\"; echo; exec sleep 60"], &words));
    let job = shell.line("the job is accepted", |line| {
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(value["accepted"][0].to_string())
    });
    for signal in [Signal::HUP, Signal::INT] {
        let group =
            i32::try_from(shell.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a process");
        let _ = rustix::process::kill_process_group(group, signal);
    }
    shell.wait();
    proxy.throttle(0);
    haul.until_state(&job, &["completed"]);
    assert_same(&server.only_object(3 * MIB), &source);
}
