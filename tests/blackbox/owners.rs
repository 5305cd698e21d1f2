//! One owner at a time; everybody else talks to it.

use crate::support::files::{MIB, assert_same, fingerprint, make};
use crate::support::haul::{Haul, arg, text};
use crate::support::proxy::Proxy;
use crate::support::seed::Rng;
use crate::support::servers::Server;

#[test]
fn a_second_owner_is_refused_and_told_who_is_first() {
    let haul = Haul::new();
    let first = haul.daemon();
    let second = haul.run(&["daemon"]).expect(73);
    let pid = first.id().to_string();
    let named = second.stderr.split(|c: char| !c.is_ascii_digit()).any(|number| number == pid);
    assert!(named, "pid {pid} is not named: {}", second.stderr);
    // The first is none the worse for it.
    haul.run(&["ls"]).expect(0);
    first.terminate().expect(0);
    // Its end frees the session; so does a kill.
    haul.daemon().kill();
    haul.daemon().terminate().expect(0);
}

/// A foreground command is an owner like any other.
#[test]
fn a_daemon_is_refused_while_a_put_owns_the_session() {
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let proxy = Proxy::slow(server.addr(), 4 * MIB);
    let source = haul.source("data.bin");
    make(&source, 8 * MIB, Rng::for_test("a_daemon_is_refused_while_a_put_owns_the_session").next());
    let (_, put) = haul.begin(&["put", arg(&source), &proxy.url("/files/")]);
    let refused = haul.run(&["daemon"]).expect(73);
    assert!(refused.stderr.contains(&put.id().to_string()), "{}", refused.stderr);
    proxy.throttle(0);
    put.wait().expect(0);
    assert_same(&server.only_object(8 * MIB), &source);
}

/// A command that has its own jobs done stays the owner for nobody; one that still waits takes over.
#[test]
fn commands_share_an_owner_and_survive_it() {
    let mut rng = Rng::for_test("commands_share_an_owner_and_survive_it");
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let (fast, slow) = (Proxy::slow(server.addr(), 6 * MIB), Proxy::slow(server.addr(), 2 * MIB));
    let (one, two) = (haul.source("one.bin"), haul.source("two.bin"));
    make(&one, 4 * MIB, rng.next());
    make(&two, 4 * MIB + 1, rng.next());
    let (_, owner) = haul.begin(&["put", arg(&one), &fast.url("/files/")]);
    let (second, guest) = haul.begin(&["put", arg(&two), &slow.url("/files/")]);
    owner.wait().expect(0);
    assert_same(&server.only_object(4 * MIB), &one);
    slow.throttle(0);
    guest.wait().expect(0);
    let job = haul.show(&second).expect("the job is shown");
    assert_eq!(text(&job, "state"), "completed", "{job}");
    assert_same(&server.only_object(4 * MIB + 1), &two);
    haul.nothing_left();
}

#[test]
fn two_sessions_do_not_meet() {
    let mut rng = Rng::for_test("two_sessions_do_not_meet");
    let (one, two) = (Haul::new(), Haul::new());
    let server = Server::tus_node(&one.store());
    let source = one.source("data.bin");
    make(&source, MIB, rng.next());
    let (first, second) = (one.daemon(), two.daemon());
    one.run(&["put", arg(&source), &server.url("/files/")]).expect(0);
    assert_eq!((one.jobs().len(), two.jobs().len()), (1, 0));
    // By name, and by the option, it is another session again.
    assert_eq!(
        one.run(&["--json", "--session", "named", "ls"]).expect(0).stdout.matches("\"id\"").count(),
        0
    );
    let by_option = two.run(&["--json", "--session", arg(one.session()), "ls"]).expect(0);
    assert_eq!(by_option.stdout.matches("data.bin").count(), 1, "{}", by_option.stdout);
    first.terminate().expect(0);
    second.terminate().expect(0);
}

/// The path of a Unix socket is short; a session's path need not be.
#[test]
fn a_session_may_lie_deep() {
    let haul = Haul::new();
    let deep = haul.dir().join("deep/".repeat(30)).join("session with space");
    let haul = haul.with_session(&deep);
    let daemon = haul.daemon();
    haul.run(&["ls"]).expect(0);
    daemon.terminate().expect(0);
}

/// Private to its user, whatever the umask.
#[test]
fn a_session_is_private() {
    use std::os::unix::fs::MetadataExt;
    let haul = Haul::new();
    let mut daemon = std::process::Command::new("sh");
    daemon.args(["-c", "umask 000; exec \"$0\" daemon", env!("CARGO_BIN_EXE_haul")]);
    daemon.env("HAUL_SESSION", haul.session()).env("HOME", haul.dir());
    let mut daemon = crate::support::process::Running::spawn(daemon);
    daemon.line("the daemon is ready", |line| (line.trim() == "ready").then_some(()));
    let mode = |path: &std::path::Path| std::fs::symlink_metadata(path).expect("stat").mode() & 0o077;
    assert_eq!(mode(haul.session()), 0, "the session directory is open to others");
    for path in crate::support::files::tree(haul.session()) {
        assert_eq!(mode(&haul.session().join(&path)), 0, "{} is open to others", path.display());
    }
    daemon.terminate().expect(0);
    assert!(!fingerprint(haul.session()).is_empty(), "there is a journal");
}
