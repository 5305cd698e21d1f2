//! The machine misbehaves: directories that turn read-only, disks that fill and go, few descriptors, wrong clocks.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::device::Device;
use crate::support::files::{KIB, MIB, assert_same, fingerprint, make, sha256};
use crate::support::haul::{Haul, arg, cause, is_part, text};
use crate::support::mount::SmallDisk;
use crate::support::process::Running;
use crate::support::proxy::{Proxy, Way};
use crate::support::seed::Rng;
use crate::support::servers::Server;
use crate::support::wait::until_seldom;

/// The destination turns read-only under a download: it holds still, and goes on when it is told to.
#[test]
fn a_destination_turns_read_only() {
    let haul = Haul::new();
    let device = Device::new(32);
    let original = haul.store().join("data.bin");
    make(&original, 16 * MIB, Rng::for_test("a_destination_turns_read_only").next());
    let server = Server::nginx(&haul.store(), "");
    let proxy = Proxy::slow(server.addr(), 4 * MIB);
    let target = device.path().join("copy.bin");
    let daemon = haul.daemon();
    let job = haul.detach(&["get", &proxy.url("/data.bin"), "-o", arg(&target)]).remove(0);
    proxy.until_bytes(Way::Down, 8 * MIB);
    // What is open stays writable; a pause closes it, and going on must open it again.
    haul.run(&["pause", &job]).expect(0);
    // Not before the part file is closed.
    until_seldom("the directory is read-only", || device.try_read_only(true).then_some(()));
    haul.run(&["resume", "-d", &job]).expect(0);
    let held = until_seldom("the job holds still for want of a right", || {
        haul.show(&job).filter(|job| cause(job) == Some("no-access"))
    });
    assert_eq!(text(&held, "state"), "suspended", "{held}");
    assert!(!target.exists());
    haul.run(&["resume", &job]).expect(4);

    assert!(device.try_read_only(false), "the directory stays read-only");
    let durable = held["done"].as_u64().expect("bytes that are durable");
    assert!(durable > 0, "two seconds of a download, and nothing is durable: {held}");
    let sent = proxy.bytes(Way::Down);
    proxy.throttle(0);
    haul.run(&["resume", &job]).expect(0);
    assert_same(&target, &original);
    let fetched = proxy.bytes(Way::Down) - sent;
    assert!(fetched <= 17 * MIB - durable, "{fetched} bytes were fetched, {durable} were there");
    let parts: Vec<_> = fs::read_dir(device.path()).expect("list").flatten().map(|e| e.path()).collect();
    assert!(!parts.iter().any(|path| is_part(path)), "{parts:?}");
    daemon.terminate().expect(0);
}

/// The session's disk fills under many queued uploads, and empties again: none is lost, none fails.
#[test]
fn a_full_disk_loses_no_queued_upload() {
    const JOBS: usize = 200;
    let mut rng = Rng::for_test("a_full_disk_loses_no_queued_upload");
    let disk = SmallDisk::new(48);
    let haul = Haul::new().with_session(&disk.path().join("session"));
    let server = Server::haul(&haul.store(), &[]);
    let proxy = Proxy::slow(server.addr(), MIB);
    let dir = haul.source("many");
    fs::create_dir(&dir).expect("a directory");
    for number in 0..JOBS {
        make(&dir.join(format!("file-{number:03}.bin")), 64 * KIB, rng.next());
    }
    let daemon = haul.daemon();
    let jobs =
        haul.detach(&["put", "-r", "--stage", "copy", "--protocol", "tus", arg(&dir), &proxy.url("/files/")]);
    assert_eq!(jobs.len(), JOBS);
    proxy.until_bytes(Way::Up, MIB);
    // Room for the journal's next words at most: nothing more can be copied.
    let ballast = disk.fill_but(128 * KIB);
    proxy.throttle(0);
    // It may take what is copied already; it must lose none, and may well stop for want of a journal.
    let still =
        crate::support::wait::last_move(std::time::Instant::now(), std::time::Duration::from_secs(2), || {
            proxy.bytes(Way::Up)
        });
    assert!(still <= std::time::Duration::from_secs(2));
    fs::remove_file(ballast).expect("free the space");
    let mut daemon = daemon;
    let daemon = if daemon.ended().is_some() {
        // 74: the journal could not be written. The next owner goes on.
        assert_eq!(daemon.wait().code, Some(74));
        haul.daemon()
    } else {
        daemon
    };
    until_seldom("all are completed", || {
        let jobs = haul.jobs();
        let failed: Vec<_> = jobs.iter().filter(|job| text(job, "state") == "failed").collect();
        assert!(failed.is_empty(), "{failed:?}");
        let done = jobs.iter().filter(|job| text(job, "state") == "completed").count();
        (done == JOBS).then_some(())
    });
    let got: BTreeSet<String> = server.objects().iter().map(|path| sha256(path)).collect();
    let sent: BTreeSet<String> = fingerprint(&dir).into_values().collect();
    assert!(sent.is_subset(&got), "an upload is not what was sent");
    daemon.terminate().expect(0);
    haul.nothing_left();
}

/// Few descriptors: it gets slower, and nothing fails.
#[test]
fn few_descriptors_are_enough() {
    let mut rng = Rng::for_test("few_descriptors_are_enough");
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store().join("up"));
    let down = haul.store().join("down");
    fs::create_dir_all(&down).expect("a directory");
    let source = Server::nginx(&down, "");
    let (mut files, mut urls) = (Vec::new(), Vec::new());
    for number in 0..10 {
        let path = haul.source(&format!("up-{number}.bin"));
        make(&path, MIB + number, rng.next());
        files.push(path);
        make(&down.join(format!("down-{number}.bin")), MIB + number, rng.next());
        urls.push(source.url(&format!("/down-{number}.bin")));
    }
    let limited = "ulimit -n 64; exec \"$0\" \"$@\"";
    let mut daemon =
        Running::spawn(haul.command_under("sh", &["-c", limited], &["daemon", "--concurrent", "20"]));
    daemon.line("the daemon is ready", |line| (line.trim() == "ready").then_some(()));
    let files: Vec<&str> = files.iter().map(|path| arg(path)).collect();
    let mut jobs = haul.detach(&[&["put"], &files[..], &[&server.url("/files/")]].concat());
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    jobs.extend(haul.detach(&[&["get", "-x", "4", "-o", arg(&haul.out())], &urls[..]].concat()));
    assert_eq!(jobs.len(), 20);
    for job in &jobs {
        haul.until_state(job, &["completed"]);
    }
    for (number, path) in (0..).zip(&files) {
        assert_same(&server.only_object(MIB + number), path.as_ref());
        let name = format!("down-{number}.bin");
        assert_same(&haul.out().join(&name), &down.join(&name));
    }
    daemon.terminate().expect(0);
    haul.nothing_left();
}

/// A disk is pulled while its file is sent in place, and comes back: the job waits, and goes on by itself.
#[test]
fn a_source_goes_away_and_comes_back() {
    let haul = Haul::new();
    let device = Device::new(32);
    let server = Server::tus_node(&haul.store());
    let proxy = Proxy::slow(server.addr(), 2 * MIB);
    let source = device.path().join("data.bin");
    make(&source, 8 * MIB, Rng::for_test("a_source_goes_away_and_comes_back").next());
    let expected = sha256(&source);
    let daemon = haul.daemon();
    let job = haul.detach(&["put", "--stage", "none", arg(&source), &proxy.url("/files/")]).remove(0);
    proxy.until_bytes(Way::Up, 2 * MIB);
    device.pull();
    // The file that is open is still there; the next attempt opens it anew.
    proxy.refuse(true);
    haul.run(&["pause", &job]).expect(0);
    proxy.refuse(false);
    device.until_released();
    haul.run(&["resume", "-d", &job]).expect(0);
    let held = until_seldom("the job waits for its source", || {
        haul.show(&job).filter(|job| cause(job) == Some("source-away"))
    });
    assert_eq!(text(&held, "state"), "suspended", "{held}");
    proxy.throttle(0);
    device.mount();
    haul.until_state(&job, &["completed", "suspended", "sending", "staged", "queued"]);
    until_seldom("the job goes on by itself", || {
        let shown = haul.show(&job)?;
        assert_ne!(text(&shown, "state"), "failed", "{shown}");
        (text(&shown, "state") == "completed").then_some(())
    });
    assert_eq!(sha256(&server.only_object(8 * MIB)), expected);
    daemon.terminate().expect(0);
    haul.nothing_left();
}

/// A library that shifts the wall clock by what a file says, for the programs that load it.
fn clock_shim(dir: &Path) -> PathBuf {
    const SHIM: &str = r#"
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <time.h>
        #include <sys/time.h>
        static long shift(void) {
            const char *path = getenv("CLOCK_SHIFT");
            long seconds = 0;
            FILE *file = path ? fopen(path, "re") : 0;
            if (file) { if (fscanf(file, "%ld", &seconds) != 1) seconds = 0; fclose(file); }
            return seconds;
        }
        int clock_gettime(clockid_t id, struct timespec *at) {
            static int (*real)(clockid_t, struct timespec *);
            if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
            int result = real(id, at);
            if (result == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) at->tv_sec += shift();
            return result;
        }
        time_t time(time_t *out) {
            struct timespec at;
            clock_gettime(CLOCK_REALTIME, &at);
            if (out) *out = at.tv_sec;
            return at.tv_sec;
        }
    "#;
    let (source, library) = (dir.join("shim.c"), dir.join("shim.so"));
    fs::write(&source, SHIM).expect("write the shim");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl");
    Running::spawn(cc).wait().expect(0);
    library
}

const DAY: i64 = 86_400;

/// A clock that jumps by a day, forth and back: what waits for its time goes by the clock that people read, and
/// retries by the one that does not jump.
#[test]
fn the_clock_jumps_by_a_day() {
    let mut rng = Rng::for_test("the_clock_jumps_by_a_day");
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let proxy = Proxy::to(server.addr());
    let (shim, shift) = (clock_shim(haul.dir()), haul.dir().join("shift"));
    let set = |seconds: i64| {
        // Never half written.
        fs::write(shift.with_extension("new"), seconds.to_string()).expect("write the shift");
        fs::rename(shift.with_extension("new"), &shift).expect("set the clock");
    };
    set(0);
    let mut command = haul.command(&["daemon"]);
    command.env("LD_PRELOAD", &shim).env("CLOCK_SHIFT", &shift);
    let mut daemon = Running::spawn(command);
    daemon.line("the daemon is ready", |line| (line.trim() == "ready").then_some(()));
    let sources: Vec<PathBuf> = (0..5)
        .map(|number| {
            let path = haul.source(&format!("file-{number}.bin"));
            make(&path, 50 * KIB + number, rng.next());
            path
        })
        .collect();
    let put = |number: usize, more: &[&str]| {
        let url = proxy.url("/files/");
        haul.detach(&[&["put"], more, &[arg(&sources[number]), &url]].concat()).remove(0)
    };
    // Retries under way while the clock jumps: they neither stop for a day nor come all at once.
    proxy.refuse(true);
    let retried = put(0, &["--attempts", "1000"]);
    let later = put(1, &["--not-before", "+20h"]);
    let dated = put(2, &["--not-before", "+40h", "--deadline", "+44h"]);
    let tried = |at_least: u64| {
        until_seldom("the job has tried", || {
            haul.show(&retried).filter(|job| job["attempts"].as_u64() >= Some(at_least))
        })
    };
    tried(2);
    set(-DAY);
    let before = haul.show(&retried).expect("the job is shown")["attempts"].as_u64().expect("attempts");
    let after = tried(before + 1)["attempts"].as_u64().expect("attempts");
    assert!(after <= before + 4, "{before} attempts became {after} at once");
    proxy.refuse(false);
    haul.until_state(&retried, &["completed"]);
    let states = || [&later, &dated].map(|job| text(&haul.show(job).expect("shown"), "state").to_owned());
    assert_eq!(states(), ["queued", "queued"], "a clock that was set back begins nothing");

    // A day later (it is looked at once a minute) one has come, the other not, and no deadline has passed.
    set(DAY);
    haul.until_state(&later, &["completed"]);
    assert_eq!(text(&haul.show(&dated).expect("shown"), "state"), "queued");
    // Back again: what is done stays done, what waits waits.
    set(0);
    let prompt = put(3, &[]);
    haul.until_state(&prompt, &["completed"]);
    assert_eq!(states(), ["completed", "queued"]);
    // Two days ahead its time has come; that a clock was set ahead does not make it late.
    set(2 * DAY);
    let job = haul.until_state(&dated, &["completed"]);
    assert!(job["deadline"].as_u64() < job["changed_at"].as_u64(), "{job}");
    // A deadline that passes by both clocks is one.
    proxy.refuse(true);
    let late = put(4, &["--deadline", "+2s"]);
    assert_eq!(cause(&haul.until_state(&late, &["failed"])), Some("deadline"));
    daemon.terminate().expect(0);
    for number in [0, 1, 2, 3] {
        assert_same(&server.only_object(50 * KIB + number as u64), &sources[number]);
    }
    haul.nothing_left();
}
