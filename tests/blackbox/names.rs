//! Names with everything in them.

use std::fmt::Write;
use std::fs;

use crate::support::files::{KIB, assert_same, make};
use crate::support::haul::{Haul, arg, id, text};
use crate::support::seed::Rng;
use crate::support::servers::Server;

/// Names that a server may give as they are.
const HARMLESS: [&str; 5] =
    ["with two  spaces.bin", "Zoë – ünïcödé.bin", "日本語 🚚.bin", "a#b?c%20d&e=f;g'h\"i.bin", "-o"];

/// Names that only the local side may use.
const AWKWARD: [&str; 3] = ["line\nbreak.bin", "tab\tand\u{1b}[31mescape", "back\\slash"];

fn percent(name: &str) -> String {
    name.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() {
            text.push(char::from(byte));
        } else {
            write!(text, "%{byte:02X}").expect("write to a string");
        }
        text
    })
}

#[test]
fn names_of_sources() {
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let mut rng = Rng::for_test("names_of_sources");
    for (number, name) in (1..).zip(HARMLESS.iter().chain(&AWKWARD)) {
        let (source, size) = (haul.source(name), 10 * KIB + number);
        make(&source, size, rng.next());
        haul.run(&["put", arg(&source), &server.url("/files/")]).expect(0);
        let object = server.only_object(size);
        assert_same(&object, &source);
        let book = fs::read_to_string(object.with_extension("json")).expect("the server's record");
        let book: serde_json::Value = serde_json::from_str(&book).expect("JSON");
        let told = text(&book["metadata"], "filename");
        assert!(!told.contains(|c: char| c.is_control()), "{told:?} could break the server's lines");
        assert!(told == *name || AWKWARD.contains(name), "{name:?} became {told:?}");
    }
    // A name cannot break the lines or the terminal of a listing.
    let listing = haul.run(&["ls"]).expect(0).stdout;
    assert!(!listing.contains('\u{1b}') && !listing.contains('\t'), "{listing:?}");
    assert!(!listing.lines().any(|line| line.starts_with("break.bin")), "{listing:?}");
    // Scripts get it as it is.
    let jobs = haul.jobs();
    let shown = haul.show(&id(&jobs[HARMLESS.len()])).expect("the job is shown");
    assert!(text(&shown, "source").ends_with("line\nbreak.bin"), "{shown}");
    haul.nothing_left();
}

#[test]
fn names_at_haul_serve() {
    let haul = Haul::new();
    let server = Server::haul(&haul.store(), &[]);
    for name in HARMLESS {
        let source = haul.source(name);
        make(&source, 20 * KIB, 5);
        haul.run(&["put", arg(&source), &server.url("/files/")]).expect(0);
        assert_same(&haul.store().join(name), &source);
        haul.run(&["get", &server.url(&format!("/files/{}", percent(name)))]).expect(0);
        assert_same(&haul.out().join(name), &source);
    }
    // What would be awkward is stored under something harmless.
    for name in AWKWARD {
        let (source, size) = (haul.source(name), 30 * KIB + name.len() as u64);
        make(&source, size, 6);
        haul.run(&["put", arg(&source), &server.url("/files/")]).expect(0);
        let object = server.only_object(size);
        assert_same(&object, &source);
        let stored = object.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(!stored.contains(|c: char| c.is_control()), "{stored:?}");
    }
    haul.nothing_left();
}

#[test]
fn names_of_downloads() {
    let haul = Haul::new();
    let server = Server::nginx(&haul.store(), "");
    for name in HARMLESS {
        make(&haul.store().join(name), 20 * KIB, 5);
        haul.run(&["get", &server.url(&format!("/{}", percent(name)))]).expect(0);
        assert_same(&haul.out().join(name), &haul.store().join(name));
    }
    for name in AWKWARD {
        make(&haul.store().join(name), 20 * KIB, 6);
        let target = haul.out().join(name);
        haul.run(&["get", &server.url(&format!("/{}", percent(name))), "-o", arg(&target)]).expect(0);
        assert_same(&target, &haul.store().join(name));
    }
    haul.nothing_left();
}

/// A server's words do not choose where a file goes.
#[test]
fn a_served_name_stays_in_the_directory() {
    use crate::support::scripted::{Reply, Scripted};
    for served in ["../../escaped", "/tmp/escaped", "..\\..\\escaped", "sub/escaped", ".."] {
        let haul = Haul::new();
        let quoted = served.replace('\\', "\\\\");
        let server = Scripted::alone(move |request| {
            let reply =
                Reply::new(200).header("Content-Disposition", format!("attachment; filename=\"{quoted}\""));
            let reply = if request.header("range").is_some() { reply } else { reply.header("ETag", "\"1\"") };
            reply.body("payload").into()
        });
        let (id, get) = haul.begin(&["get", &server.url("/file")]);
        get.wait().expect(0);
        let job = haul.show(&id).expect("the job is shown");
        let here: Vec<_> =
            fs::read_dir(haul.out()).expect("list").flatten().map(|entry| entry.path()).collect();
        assert_eq!(here.len(), 1, "{served:?} gave {here:?} ({job})");
        assert_eq!(fs::read(&here[0]).expect("read the file"), b"payload", "{served:?}");
        haul.nothing_left();
    }
}
