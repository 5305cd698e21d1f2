//! Servers that say no, for a while or for good, that break off, and that come back.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::files::{MIB, assert_same, make};
use crate::support::haul::{Haul, arg, cause, text, values};
use crate::support::proxy::{Act, Fault, Proxy, Way};
use crate::support::scripted::{Answer, Reply, Request, Scripted};
use crate::support::seed::Rng;
use crate::support::servers::Server;
use crate::support::wait::until_seldom;

const SIZE: u64 = 6 * MIB + 99;

/// Answers `status` to the first `times` requests that `which` takes, and hands on the others.
fn failing(
    server: &Server,
    status: u16,
    times: usize,
    which: impl Fn(&Request) -> bool + Send + Sync + 'static,
) -> Scripted {
    let count = AtomicUsize::new(0);
    Scripted::before(server.addr(), move |request| {
        if which(request) && count.fetch_add(1, Ordering::SeqCst) < times {
            Reply::new(status).header("Tus-Resumable", "1.0.0").body("try again").into()
        } else {
            Answer::Forward
        }
    })
}

struct Upload {
    haul: Haul,
    server: Server,
    source: std::path::PathBuf,
}

fn upload(name: &str) -> Upload {
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let source = haul.source("data.bin");
    make(&source, SIZE, Rng::for_test(name).next());
    Upload { haul, server, source }
}

struct Download {
    haul: Haul,
    server: Server,
    original: std::path::PathBuf,
    target: std::path::PathBuf,
}

fn download(name: &str) -> Download {
    let haul = Haul::new();
    let original = haul.store().join("data.bin");
    make(&original, SIZE, Rng::for_test(name).next());
    let server = Server::nginx(&haul.store(), "");
    let target = haul.out().join("copy.bin");
    Download { haul, server, original, target }
}

#[test]
fn an_upload_outlasts_errors_500() {
    let Upload { haul, server, source } = upload("an_upload_outlasts_errors_500");
    for method in ["POST", "PATCH"] {
        let front = failing(&server, 500, 2, move |request| request.method == method);
        let done = haul.run(&["--json", "put", arg(&source), &front.url("/files/")]).expect(0);
        let last = values(&done.stdout).pop().expect("a final object");
        assert!(last["attempts"].as_u64() >= Some(2), "the failed attempts are counted: {last}");
        assert!(front.count(method) >= 3, "{method} was tried again");
    }
    let objects = server.objects_of(SIZE);
    assert_eq!(objects.len(), 2, "{:?}", server.objects());
    for object in &objects {
        assert_same(object, &source);
    }
    haul.nothing_left();
}

#[test]
fn a_download_outlasts_errors_500() {
    let Download { haul, server, original, target } = download("a_download_outlasts_errors_500");
    let front = failing(&server, 503, 3, |_| true);
    haul.run(&["get", &front.url("/data.bin"), "-o", arg(&target)]).expect(0);
    assert_same(&target, &original);
    assert!(front.seen().len() >= 4);
    haul.nothing_left();
}

/// An error 500 is never success, and not for ever: after the given attempts the job stands still, and can be
/// taken up again.
#[test]
fn endless_errors_500_suspend() {
    let Upload { haul, server, source } = upload("endless_errors_500_suspend");
    let front = failing(&server, 500, 5, |request| request.method == "PATCH");
    let done = haul.run(&["--json", "put", "--attempts", "3", arg(&source), &front.url("/files/")]).expect(4);
    let last = values(&done.stdout).pop().expect("a final object");
    assert_eq!((text(&last, "state"), cause(&last)), ("suspended", Some("server")), "{last}");
    assert_eq!(front.count("PATCH"), 3, "as many attempts as were given");
    assert!(server.objects_of(SIZE).is_empty());
    haul.run(&["resume", "--all"]).expect(0);
    assert_same(&server.only_object(SIZE), &source);
    haul.nothing_left();
}

#[test]
fn retry_after_is_heeded() {
    let Download { haul, server, original, target } = download("retry_after_is_heeded");
    let front = Scripted::before(server.addr(), |request| match request.index {
        0 => Reply::new(429).header("Retry-After", 2).into(),
        _ => Answer::Forward,
    });
    haul.run(&["get", &front.url("/data.bin"), "-o", arg(&target)]).expect(0);
    assert_same(&target, &original);
    let seen = front.seen();
    let waited = seen[1].arrived - seen[0].arrived;
    assert!(waited >= Duration::from_secs(2), "asked again after {waited:?}");
}

#[test]
fn retry_after_is_heeded_by_an_upload() {
    let Upload { haul, server, source } = upload("retry_after_is_heeded_by_an_upload");
    let refused = AtomicUsize::new(0);
    let front = Scripted::before(server.addr(), move |request| {
        if request.method == "PATCH" && refused.fetch_add(1, Ordering::SeqCst) == 0 {
            Reply::new(429).header("Retry-After", 2).header("Tus-Resumable", "1.0.0").into()
        } else {
            Answer::Forward
        }
    });
    haul.run(&["put", arg(&source), &front.url("/files/")]).expect(0);
    assert_same(&server.only_object(SIZE), &source);
    let seen = front.seen();
    let first = seen.iter().position(|request| request.method == "PATCH").expect("a PATCH");
    let waited = seen[first + 1].arrived - seen[first].arrived;
    assert!(waited >= Duration::from_secs(2), "asked again after {waited:?}");
}

#[test]
fn a_404_is_final() {
    let Download { haul, server, target, .. } = download("a_404_is_final");
    let done = haul.run(&["--json", "get", &server.url("/absent.bin"), "-o", arg(&target)]).expect(1);
    let last = values(&done.stdout).pop().expect("a final object");
    assert_eq!((text(&last, "state"), cause(&last)), ("failed", Some("rejected")), "{last}");
    assert!(text(&last["cause"], "text").contains("404"), "the status is named: {last}");
    assert!(!target.exists());

    let source = haul.source("data.bin");
    make(&source, 1000, 1);
    // nginx takes no uploads.
    let done = haul.run(&["--json", "put", arg(&source), &server.url("/absent/")]).expect(1);
    let last = values(&done.stdout).pop().expect("a final object");
    assert_eq!((text(&last, "state"), cause(&last)), ("failed", Some("rejected")), "{last}");
    haul.nothing_left();
}

#[test]
fn a_server_that_is_away_is_waited_for() {
    let Upload { haul, mut server, source } = upload("a_server_that_is_away_is_waited_for");
    server.kill();
    let (id, put) = haul.begin(&["put", "--attempts", "100", arg(&source), &server.url("/files/")]);
    until_seldom("two attempts have failed", || {
        haul.show(&id).filter(|job| job["attempts"].as_u64() >= Some(2))
    });
    server.restart();
    put.wait().expect(0);
    assert_same(&server.only_object(SIZE), &source);
    haul.nothing_left();
}

fn restarted(start: impl Fn(&Haul) -> Server, path: &str) {
    let haul = Haul::new();
    let mut server = start(&haul);
    let proxy = Proxy::slow(server.addr(), 8 * MIB);
    let source = haul.source("data.bin");
    make(&source, SIZE, Rng::for_test("restarted").next());
    let (_, put) = haul.begin(&["put", arg(&source), &proxy.url(path)]);
    proxy.until_bytes(Way::Up, SIZE / 2);
    server.restart();
    put.wait().expect(0);
    assert_same(&server.only_object(SIZE), &source);
    haul.nothing_left();
}

#[test]
fn tus_node_is_restarted_under_way() {
    restarted(|haul| Server::tus_node(&haul.store()), "/files/");
}

#[test]
fn tus_python_is_restarted_under_way() {
    restarted(|haul| Server::tus_python(&haul.store()), "/files");
}

#[test]
fn nginx_is_restarted_under_way() {
    let Download { haul, mut server, original, target } = download("nginx_is_restarted_under_way");
    let proxy = Proxy::slow(server.addr(), 8 * MIB);
    let (_, get) = haul.begin(&["get", &proxy.url("/data.bin"), "-o", arg(&target)]);
    proxy.until_bytes(Way::Down, SIZE / 2);
    server.restart();
    get.wait().expect(0);
    assert_same(&target, &original);
    haul.nothing_left();
}

/// A server that has lost the unfinished upload gets the file anew.
#[test]
fn a_server_that_forgot_gets_the_file_anew() {
    let Upload { haul, mut server, source } = upload("a_server_that_forgot_gets_the_file_anew");
    let proxy = Proxy::slow(server.addr(), 8 * MIB);
    let (_, put) = haul.begin(&["put", arg(&source), &proxy.url("/files/")]);
    proxy.until_bytes(Way::Up, SIZE / 2);
    server.lose_everything();
    put.wait().expect(0);
    assert_same(&server.only_object(SIZE), &source);
    haul.nothing_left();
}

/// Cuts at random places: the file is whole, and little of it travelled twice.
#[test]
fn an_upload_survives_cuts() {
    let Upload { haul, server, source } = upload("an_upload_survives_cuts");
    let mut rng = Rng::for_test("an_upload_survives_cuts, where");
    let proxy = Proxy::slow(server.addr(), 64 * MIB);
    for number in 0..6 {
        let act = if number % 2 == 0 { Act::Rst } else { Act::Fin };
        proxy.arm(Fault { way: Way::Up, after: 1000 + rng.below(SIZE - MIB), act });
    }
    haul.run(&["put", "--attempts", "20", arg(&source), &proxy.url("/files/")]).expect(0);
    assert_same(&server.only_object(SIZE), &source);
    haul.nothing_left();
}

#[test]
fn a_download_survives_cuts() {
    let Download { haul, server, original, target } = download("a_download_survives_cuts");
    let mut rng = Rng::for_test("a_download_survives_cuts, where");
    let proxy = Proxy::to(server.addr());
    for number in 0..6 {
        let act = if number % 2 == 0 { Act::Rst } else { Act::Fin };
        proxy.arm(Fault { way: Way::Down, after: 1000 + rng.below(SIZE - MIB), act });
    }
    haul.run(&["get", "--attempts", "20", &proxy.url("/data.bin"), "-o", arg(&target)]).expect(0);
    assert_same(&target, &original);
    assert!(proxy.bytes(Way::Down) <= SIZE + 7 * MIB, "{} bytes came", proxy.bytes(Way::Down));
    haul.nothing_left();
}

/// The answers to creation and to every last piece are lost on the way: one whole object all the same.
#[test]
fn lost_answers_do_not_double_an_object() {
    let Upload { haul, server, source } = upload("lost_answers_do_not_double_an_object");
    let (posts, lasts) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let front = Scripted::before(server.addr(), move |request| {
        let ends = request.number("upload-offset").zip(request.number("content-length")).map(|(a, b)| a + b);
        let lose = match request.method.as_str() {
            "POST" => posts.fetch_add(1, Ordering::SeqCst) == 0,
            "PATCH" if ends == Some(SIZE) => lasts.fetch_add(1, Ordering::SeqCst) == 0,
            _ => false,
        };
        if lose { Answer::ForwardAndLose } else { Answer::Forward }
    });
    haul.run(&["put", arg(&source), &front.url("/files/")]).expect(0);
    assert_same(&server.only_object(SIZE), &source);
    assert!(
        front.count("POST") >= 2 && front.count("HEAD") >= 1,
        "both answers were lost: {:?}",
        front.seen()
    );
    haul.nothing_left();
}

/// A connection on which nothing moves any more is given up, and the transfer goes on over another.
#[test]
fn a_stalled_connection_is_given_up() {
    let Upload { haul, server, source } = upload("a_stalled_connection_is_given_up");
    let proxy = Proxy::slow(server.addr(), 64 * MIB);
    proxy.arm(Fault { way: Way::Up, after: SIZE / 2, act: Act::Stall });
    haul.run(&["put", arg(&source), &proxy.url("/files/")]).expect(0);
    assert_same(&server.only_object(SIZE), &source);
    haul.nothing_left();
}

/// A network that goes away under way and comes back.
#[test]
fn a_network_that_comes_back_is_waited_for() {
    let Download { haul, server, original, target } = download("a_network_that_comes_back_is_waited_for");
    let proxy = Proxy::slow(server.addr(), 8 * MIB);
    let (id, get) = haul.begin(&["get", "--attempts", "100", &proxy.url("/data.bin"), "-o", arg(&target)]);
    proxy.until_bytes(Way::Down, SIZE / 3);
    proxy.refuse(true);
    until_seldom("two attempts have failed", || {
        haul.show(&id).filter(|job| job["attempts"].as_u64() >= Some(2))
    });
    proxy.refuse(false);
    get.wait().expect(0);
    assert_same(&target, &original);
    assert!(proxy.bytes(Way::Down) < SIZE + 2 * MIB, "what was there before was fetched again");
    haul.nothing_left();
}

#[test]
fn a_server_that_closes_at_once_is_tried_again() {
    let Upload { haul, server, source } = upload("a_server_that_closes_at_once_is_tried_again");
    let front = Scripted::before(server.addr(), |request| match request.index {
        0 | 2 => Answer::Close,
        _ => Answer::Forward,
    });
    haul.run(&["put", arg(&source), &front.url("/files/")]).expect(0);
    assert_same(&server.only_object(SIZE), &source);
    haul.nothing_left();
}
