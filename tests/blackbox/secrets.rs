//! Secrets: where they may be, which is one file a job while the job lives, and where they must not be.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::support::files::{KIB, MIB, make, tree};
use crate::support::haul::{Haul, arg, text};
use crate::support::process::Running;
use crate::support::proxy::{Proxy, Way};
use crate::support::scripted::{Answer, Reply, Scripted};
use crate::support::seed::Rng;
use crate::support::servers::{Server, write_secret};
use crate::support::session::{Reaper, holders, kill, runs};
use crate::support::wait::until;

/// Found nowhere but where this test puts it.
const HEADER: &str = "kanari-header-77041";
const OTHER: &str = "kanari-other-77042";
const PASSWORD: &str = "kanari-password-77043";
const PROXY: &str = "kanari-proxy-77044";
const BEARER: &str = "kanari-bearer-77045";
const COOKIE: &str = "kanari-cookie-77046";

/// All of them, as they are and as Basic authentication sends them.
fn canaries() -> Vec<String> {
    let basic = |text: String| STANDARD.encode(text).trim_end_matches('=').to_owned();
    let plain = [HEADER, OTHER, PASSWORD, PROXY, BEARER, COOKIE].map(str::to_owned);
    let basics = [basic(format!("me:{PASSWORD}")), basic(format!("me:{PROXY}"))];
    plain.into_iter().chain(basics).collect()
}

fn is_secrets(path: &Path) -> bool {
    path.starts_with("stage") && path.extension().is_some_and(|extension| extension == "secrets")
}

fn secrets(haul: &Haul) -> Vec<std::path::PathBuf> {
    tree(haul.session()).into_iter().filter(|path| is_secrets(path)).collect()
}

/// No secret in the session but in its files of secrets, which are private.
#[track_caller]
fn assert_kept(haul: &Haul) {
    for canary in canaries() {
        let found = holders(haul.session(), &canary, is_secrets);
        assert!(found.is_empty(), "{canary} is in {found:?}");
    }
    for path in secrets(haul) {
        let mode = fs::metadata(haul.session().join(&path)).expect("stat").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", path.display());
    }
}

#[track_caller]
fn assert_silent(what: &str, said: &str) {
    for canary in canaries() {
        assert!(!said.contains(&canary), "{what} tells {canary}:\n{said}");
    }
}

/// Every way to look, with an owner and (for the doctor) without.
#[track_caller]
fn assert_nobody_tells(haul: &Haul, jobs: &[String]) {
    let mut looks = vec![vec!["ls", "--long"], vec!["--json", "ls"], vec!["-vvv", "ls"], vec!["config"]];
    for job in jobs {
        looks.extend([vec!["show", job], vec!["--json", "show", job], vec!["log", job]]);
        looks.push(vec!["--json", "log", job]);
    }
    for words in looks {
        let done = haul.run(&words).expect(0);
        assert_silent(&words.join(" "), &format!("{}{}", done.stdout, done.stderr));
    }
}

/// The processes' own words, as `ps` shows them.
fn command_line(pid: u32) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).expect("a command line")).into_owned()
}

/// The proxy's credentials, the server's, and a bearer's file: four jobs, one of each kind.
fn submit(haul: &Haul, source: &Path, url: &str) -> Vec<String> {
    let bearer = haul.dir().join("bearer");
    write_secret(&bearer, BEARER);
    let (source, bearer) = (arg(source).to_owned(), arg(&bearer).to_owned());
    let (authorization, other, proxy_user) =
        (format!("Authorization: Bearer {HEADER}"), format!("X-Thing: {OTHER}"), format!("me:{PROXY}"));
    let (cookie, user) = (format!("Cookie: session={COOKIE}"), format!("me:{PASSWORD}"));
    let proxy = url.split("/files").next().expect("the part before the path").to_owned();
    let ways: [&[&str]; 4] = [
        &["-H", &authorization, "--secret-header", &other],
        &["-u", &user, "-H", &cookie],
        &["--proxy", &proxy, "-U", &proxy_user],
        &["--bearer-file", &bearer],
    ];
    ways.iter().flat_map(|way| haul.detach(&[&["-vvv", "put"], *way, &[&source, url]].concat())).collect()
}

#[test]
fn secrets_are_in_their_files_alone() {
    let haul = Haul::new();
    let _reaper = Reaper::of(&haul);
    let source = haul.source("marked-77040.bin");
    make(&source, KIB, 1);
    // Refused for now: the jobs live, and try again and again.
    let server = Server::tus_node(&haul.store());
    let proxy = Proxy::to(server.addr());
    proxy.refuse(true);
    let mut daemon = haul.spawn(&["-vvv", "daemon"]);
    daemon.line("the daemon is ready", |line| (line.trim() == "ready").then_some(()));
    let jobs = submit(&haul, &source, &proxy.url("/files/"));
    assert_eq!(jobs.len(), 4);
    for job in &jobs {
        until("the job has tried", || haul.show(job).filter(|shown| shown["attempts"].as_u64() >= Some(1)));
    }
    // The search finds what is there: the file's name is in the journal, each secret in its file.
    assert!(!holders(haul.session(), "marked-77040", is_secrets).is_empty(), "the search finds nothing");
    assert_eq!(secrets(&haul).len(), 3, "{:?}", tree(haul.session()));
    assert_kept(&haul);
    assert_nobody_tells(&haul, &jobs);
    assert_silent("ps", &command_line(daemon.id()));

    // Past a kill and a restart; the export has none either, and says what it lacks.
    daemon.kill();
    let export = haul.run(&["-vvv", "doctor", "export"]).expect(0);
    assert_silent("doctor export", &format!("{}{}", export.stdout, export.stderr));
    assert!(export.stderr.contains("needs"), "{}", export.stderr);
    let doctor = haul.run(&["-vvv", "--json", "doctor"]);
    assert_silent("doctor", &format!("{}{}", doctor.stdout, doctor.stderr));

    let mut daemon = haul.spawn(&["-vvv", "daemon"]);
    daemon.line("the daemon is ready", |line| (line.trim() == "ready").then_some(()));
    haul.run(&["cancel", &jobs[0]]).expect(0);
    assert_eq!(secrets(&haul).len(), 2, "a cancelled job's secrets stay");
    proxy.refuse(false);
    for job in [&jobs[1], &jobs[3]] {
        haul.until_state(job, &["completed"]);
    }
    until("the secrets go with their jobs", || (secrets(&haul).len() <= 1).then_some(()));
    haul.run(&["cancel", "--state", "unfinished"]);
    until("the secrets go with their jobs", || secrets(&haul).is_empty().then_some(()));
    assert_kept(&haul);
    assert_nobody_tells(&haul, &jobs);
    let said = daemon.terminate().expect(0);
    assert!(said.stderr.lines().count() > 20, "the log that is searched is empty: {}", said.stderr);
    assert_silent("the daemon's log", &format!("{}{}", said.stdout, said.stderr));
    haul.nothing_left();
}

/// The command that is given secrets keeps them out of what it says, whatever happens to the job.
#[test]
fn a_command_does_not_repeat_what_it_was_told() {
    let haul = Haul::new();
    let source = haul.source("data.bin");
    make(&source, KIB, 1);
    let header = format!("Authorization: Bearer {HEADER}");
    let (user, cookie) = (format!("me:{PASSWORD}"), format!("Cookie: a={COOKIE}"));
    // A server that explains itself with what it was sent.
    let refusing = Scripted::alone(|request| {
        let said = ["authorization", "cookie"].map(|name| request.header(name).unwrap_or_default());
        let known = if said[0].starts_with("Basic") { PASSWORD } else { "nothing" };
        Answer::Reply(Reply::new(403).body(format!("refused: {} {}, {known}", said[0], said[1])))
    });
    for (words, url) in [
        (vec!["-vvv", "put", "-H", &header, "--attempts", "1", arg(&source)], refusing.url("/files/")),
        (vec!["-vvv", "--json", "put", "-u", &user, "--protocol", "put", arg(&source)], refusing.url("/x")),
        (vec!["-vvv", "get", "-H", &cookie, "-o", "x"], refusing.url("/x")),
        // Mistakes on the command line.
        (vec!["put", "-H", &header[14..], arg(&source)], "http://127.0.0.1:9/".into()),
        (vec!["put", arg(&source)], format!("http://me:{PASSWORD}@127.0.0.1:9/files/")),
        (vec!["get", "--proxy"], format!("socks9://me:{PROXY}@127.0.0.1:9/ http://127.0.0.1:9/")),
    ] {
        let done = haul.run(&[&words[..], &[&url]].concat());
        assert_ne!(done.code, Some(0), "{words:?}");
        assert_silent("the command", &format!("{}{}", done.stdout, done.stderr));
        assert_kept(&haul);
    }
}

/// A failed job keeps its secrets for the job that follows it; with `rm` they are gone.
#[test]
fn another_attempt_has_the_secrets_too() {
    let haul = Haul::new();
    let server = Scripted::alone(move |request| {
        let is_right = request.header("authorization") == Some(&format!("Bearer {HEADER}"))
            && request.header("x-thing") == Some(OTHER);
        Answer::Reply(match (is_right, request.index) {
            (false, _) => Reply::new(418),
            (true, 0) => Reply::new(410),
            (true, _) => Reply::new(200).header("ETag", "\"one\"").body("twelve bytes"),
        })
    });
    let (header, other) = (format!("Authorization: Bearer {HEADER}"), format!("X-Thing: {OTHER}"));
    let words = ["get", "-H", &header, "--secret-header", &other, "-o", "x.bin", &server.url("/x")];
    haul.run(&words).expect(1);
    assert_eq!(server.seen().len(), 1, "{:?}", server.seen());
    assert_eq!(secrets(&haul).len(), 1, "a failed job can be tried again");
    assert_kept(&haul);
    haul.run(&["-vvv", "retry", "1"]).expect(0);
    assert_eq!(fs::read(haul.out().join("x.bin")).expect("the download"), b"twelve bytes");
    assert!(server.seen()[1..].iter().all(|seen| seen.header("x-thing") == Some(OTHER)));
    let jobs = haul.jobs();
    assert_eq!((jobs.len(), text(&jobs[1], "state")), (2, "completed"), "{jobs:?}");
    assert!(secrets(&haul).len() <= 1, "the completed job's secrets stay: {:?}", secrets(&haul));
    assert_kept(&haul);
    haul.run(&["rm", "--all"]).expect(0);
    assert!(secrets(&haul).is_empty(), "removed jobs' secrets stay: {:?}", secrets(&haul));
    assert_kept(&haul);
}

/// A daemon that was started by the way is told nothing on its command line, nor leaves anything in its log.
#[test]
fn a_detached_daemon_knows_secrets_by_its_files() {
    let haul = Haul::new();
    let _reaper = Reaper::of(&haul);
    let server = Server::tus_node(&haul.store());
    let proxy = Proxy::slow(server.addr(), MIB);
    let source = haul.source("data.bin");
    make(&source, 3 * MIB, Rng::for_test("a_detached_daemon_knows_secrets_by_its_files").next());
    let header = format!("Authorization: Bearer {HEADER}");
    let job = haul.detach(&["put", "-H", &header, arg(&source), &proxy.url("/files/")]).remove(0);
    let owner = haul.owner();
    assert_silent("ps", &command_line(owner));
    proxy.until_bytes(Way::Up, MIB / 2);
    assert_kept(&haul);
    assert_eq!(secrets(&haul).len(), 1);
    kill(owner).expect("kill the daemon");
    until("the daemon is gone", || (!runs(owner)).then_some(()));
    assert_kept(&haul);
    proxy.throttle(0);
    let resumed = Running::spawn(haul.command(&["resume", &job])).wait();
    assert_silent("resume", &format!("{}{}", resumed.stdout, resumed.stderr));
    haul.finish(&[&job]);
    assert!(secrets(&haul).is_empty());
    assert_kept(&haul);
}
