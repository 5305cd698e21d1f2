//! One PUT of the whole file: to nginx, which stores it, and to servers that only say so.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::files::{KIB, MIB, Untouched, assert_same, make, tree};
use crate::support::haul::{Haul, arg, cause, id, text};
use crate::support::killer::Killer;
use crate::support::proxy::{Act, Fault, Proxy, Way};
use crate::support::scripted::{Answer, Reply, Scripted};
use crate::support::seed::Rng;
use crate::support::servers::Server;

const SIZE: u64 = 5 * MIB + 17;

struct Upload {
    haul: Haul,
    server: Server,
    source: std::path::PathBuf,
    rng: Rng,
}

fn upload(name: &str, size: u64) -> Upload {
    let mut rng = Rng::for_test(name);
    let haul = Haul::new();
    let server = Server::nginx_dav(&haul.store());
    let source = haul.source("data.bin");
    make(&source, size, rng.next());
    Upload { haul, server, source, rng }
}

#[test]
fn every_size_arrives() {
    let mut rng = Rng::for_test("put::every_size_arrives");
    let haul = Haul::new();
    let server = Server::nginx_dav(&haul.store());
    for size in [0, 1, 300 * KIB, 64 * MIB] {
        let source = haul.source(&size.to_string());
        make(&source, size, rng.next());
        let before = Untouched::of(&source);
        let url = server.url(&format!("/object-{size}"));
        let last = haul.transfer(&["put", "--protocol", "put", arg(&source), &url], 0);
        assert_eq!(text(&last, "state"), "completed", "{last}");
        assert_eq!((last["size"].as_u64(), last["done"].as_u64()), (Some(size), Some(size)), "{last}");
        assert_same(&haul.store().join(format!("object-{size}")), &source);
        before.check();
    }
    assert_eq!(tree(&haul.store()).len(), 4, "nothing but the objects");
    haul.nothing_left();
}

/// Files go below a URL with a `/` at its end, under their own names.
#[test]
fn names_below_a_directory() {
    const NAMES: [&str; 5] =
        ["plain.bin", "with two  spaces.bin", "Zoë – ünïcödé.bin", "100%25 or 50%.bin", "a#b?c;d&e='f'.bin"];
    let mut rng = Rng::for_test("put::names_below_a_directory");
    let haul = Haul::new();
    let server = Server::nginx_dav(&haul.store());
    let sources = NAMES.map(|name| {
        let source = haul.source(name);
        make(&source, rng.below(40 * KIB), rng.next());
        source
    });
    let url = server.url("/some/where/");
    let mut command = vec!["put"];
    command.extend(sources.iter().map(|path| arg(path)));
    command.push(&url);
    haul.run(&command).expect(0);
    for (name, source) in NAMES.iter().zip(&sources) {
        assert_same(&haul.store().join("some/where").join(name), source);
    }
    assert_eq!(tree(&haul.store()).len(), NAMES.len(), "nothing but the files");
    haul.nothing_left();
}

#[test]
fn over_an_existing_object() {
    let Upload { haul, server, source, .. } = upload("put::over_an_existing_object", SIZE);
    let object = haul.store().join("object");
    let url = server.url("/object");
    fs::write(&object, "older and shorter").expect("write what stands there");
    let last = haul.transfer(&["put", arg(&source), &url], 0);
    assert_same(&object, &source);
    assert!(haul.log(&id(&last)).contains("an object of 17 bytes stands there"), "{}", haul.log(&id(&last)));
    // Of the same size, and put in the same second: nothing but another entity tag can show that it is new.
    let next = haul.source("next.bin");
    make(&next, SIZE, 2);
    haul.run(&["put", arg(&next), &url]).expect(0);
    assert_same(&object, &next);
    haul.nothing_left();
}

#[test]
fn auto_chooses_put_and_says_so() {
    let Upload { haul, server, source, .. } = upload("put::auto_chooses_put_and_says_so", SIZE);
    let last = haul.transfer(&["put", arg(&source), &server.url("/object")], 0);
    assert_eq!(text(&last, "protocol"), "put", "{last}");
    let log = haul.log(&id(&last));
    assert!(log.contains("no tus here (OPTIONS answered 405): PUT"), "{log}");
    assert_same(&haul.store().join("object"), &source);
}

#[test]
fn a_put_survives_kills() {
    const BIG: u64 = 16 * MIB + 5;
    let Upload { haul, server, source, mut rng } = upload("put::a_put_survives_kills", BIG);
    let proxy = Proxy::slow(server.addr(), 24 * MIB);
    let (id, put) = haul.begin(&["put", "--protocol", "put", arg(&source), &proxy.url("/object")]);
    // What a killed process left in its socket still arrives: as much as that before the end, it could be the whole.
    let killer = Killer { haul: &haul, proxy: &proxy, way: Way::Up, within: BIG / 2 };
    killer.harass(&id, put, 12, &mut rng);
    assert_same(&haul.store().join("object"), &source);
    assert_eq!(tree(&haul.store()).len(), 1, "nothing but the object");
    haul.nothing_left();
}

#[test]
fn a_cut_connection_is_made_up_for() {
    let Upload { haul, server, source, mut rng } = upload("put::a_cut_connection_is_made_up_for", SIZE);
    for act in [Act::Fin, Act::Rst] {
        let proxy = Proxy::to(server.addr());
        proxy.arm(Fault { way: Way::Up, after: 4 * KIB + rng.below(SIZE - 8 * KIB), act });
        let path = format!("/{act:?}");
        let last = haul.transfer(&["put", "--protocol", "put", arg(&source), &proxy.url(&path)], 0);
        assert!(last["attempts"].as_u64() >= Some(1), "the failed attempt is counted: {last}");
        assert_same(&haul.store().join(&path[1..]), &source);
    }
    haul.nothing_left();
}

/// nginx ignores conditions: what a look shows to fail is not left to it.
#[test]
fn only_where_nothing_stands() {
    let Upload { haul, server, source, .. } = upload("put::only_where_nothing_stands", SIZE);
    let url = server.url("/object");
    let put = ["put", "--protocol", "put", "--if-none-match", "*", arg(&source), &url];
    haul.run(&put).expect(0);
    let object = haul.store().join("object");
    assert_same(&object, &source);
    let before = Untouched::of(&object);
    let last = haul.transfer(&put, 1);
    assert_eq!((text(&last, "state"), cause(&last)), ("failed", Some("rejected")), "{last}");
    assert!(text(&last["cause"], "text").contains("412"), "{last}");
    before.check();
    haul.nothing_left();
}

/// A server that lets nobody look, and heeds conditions.
#[test]
fn a_condition_that_the_server_refuses() {
    let Upload { haul, source, .. } = upload("put::a_condition_that_the_server_refuses", SIZE);
    let server = Scripted::alone(|request| match request.method.as_str() {
        "PUT" if request.header("if-none-match") == Some("*") => Reply::new(412).into(),
        _ => Reply::new(403).into(),
    });
    let put = ["put", "--protocol", "put", "--if-none-match", "*", arg(&source), &server.url("/object")];
    let last = haul.transfer(&put, 1);
    assert_eq!((text(&last, "state"), cause(&last)), ("failed", Some("rejected")), "{last}");
    assert!(text(&last["cause"], "text").contains("412"), "{last}");
    assert_eq!(server.count("PUT"), 1, "sent once");
    haul.nothing_left();
}

#[test]
fn a_server_that_answers_200_and_stores_nothing() {
    let Upload { haul, source, .. } = upload("put::a_server_that_answers_200_and_stores_nothing", SIZE);
    let server = Scripted::alone(|request| match request.method.as_str() {
        "PUT" => Reply::new(200).into(),
        _ => Reply::new(404).into(),
    });
    let done = haul.run(&["put", arg(&source), &server.url("/object")]).expect(1);
    let said = format!("{}{}", done.stdout, done.stderr);
    assert!(said.contains("answered PUT with 200 and did not store the file: nothing is there"), "{said}");
    assert_eq!(server.count("PUT"), 1);
    haul.nothing_left();
}

/// The object is there with the right size and was not there before: that proves it, without a second PUT.
#[test]
fn a_lost_answer_is_looked_up() {
    let Upload { haul, server, source, .. } = upload("put::a_lost_answer_is_looked_up", SIZE);
    let lost = AtomicBool::new(false);
    let front = Scripted::before(server.addr(), move |request| {
        let first = request.method == "PUT" && !lost.swap(true, Ordering::SeqCst);
        if first { Answer::ForwardAndLose } else { Answer::Forward }
    });
    haul.run(&["put", "--protocol", "put", arg(&source), &front.url("/object")]).expect(0);
    assert_eq!(front.count("PUT"), 1, "{:?}", front.seen());
    assert_same(&haul.store().join("object"), &source);
    assert_eq!(tree(&haul.store()), [Path::new("object")], "one object");
    haul.nothing_left();
}

#[test]
fn a_write_only_server_is_believed_only_when_told() {
    let Upload { haul, server, source, .. } =
        upload("put::a_write_only_server_is_believed_only_when_told", SIZE);
    let front = Scripted::before(server.addr(), |request| match request.method.as_str() {
        "PUT" => Answer::Forward,
        _ => Reply::new(403).into(),
    });
    let url = front.url("/object");
    let last = haul.transfer(&["put", "--protocol", "put", arg(&source), &url], 3);
    assert_eq!((text(&last, "state"), cause(&last)), ("failed", Some("outcome-unknown")), "{last}");
    assert!(last.to_string().contains("--no-verify"), "the way out is told: {last}");
    let last = haul.transfer(&["put", "--protocol", "put", "--no-verify", arg(&source), &url], 0);
    assert!(text(&last, "evidence").contains("believed without a look"), "{last}");
    assert_same(&haul.store().join("object"), &source);
    assert_eq!(front.count("PUT"), 2, "one for each job");
    haul.nothing_left();
}
