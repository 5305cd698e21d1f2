//! Files in forms, to a server that reads them as a web application's would. A form's POST is made once, unless
//! nobody can have taken the one before.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::support::files::{KIB, MIB, Untouched, assert_same, make, tree};
use crate::support::haul::{Haul, arg, cause, text};
use crate::support::process::Signal;
use crate::support::proxy::{Act, Fault, Proxy, Way};
use crate::support::scripted::{Answer, Reply, Scripted};
use crate::support::seed::Rng;
use crate::support::servers::{Server, forms_begun, forms_taken};

/// Much more than the sockets on the way hold.
const SIZE: u64 = 20 * MIB + 33;
const RATE: u64 = 24 * MIB;

struct Upload {
    haul: Haul,
    server: Server,
    source: PathBuf,
    rng: Rng,
}

fn upload(name: &str) -> Upload {
    let mut rng = Rng::for_test(name);
    let haul = Haul::new();
    let server = Server::form_node(&haul.store());
    let source = haul.source("data.bin");
    make(&source, SIZE, rng.next());
    Upload { haul, server, source, rng }
}

impl Upload {
    /// The one form that the server took; checks its file.
    #[track_caller]
    fn only_form(&self) -> Value {
        let mut taken = forms_taken(&self.haul.store());
        assert_eq!(taken.len(), 1, "forms taken: {taken:?}");
        let form = taken.remove(0);
        assert_same(Path::new(text(&form["files"][0], "path")), &self.source);
        assert_eq!(self.files(), 1, "nothing of a form that broke off");
        self.haul.nothing_left();
        form
    }

    fn files(&self) -> usize {
        tree(&self.haul.store().join("files")).len()
    }
}

#[test]
fn the_file_and_its_fields_arrive() {
    let mut rng = Rng::for_test("form::the_file_and_its_fields_arrive");
    let haul = Haul::new();
    let server = Server::form_node(&haul.store());
    for (number, size) in [0, 1, 300 * KIB, 64 * MIB].into_iter().enumerate() {
        let name = format!("{number} \"quoted\" ünïcödé 100%.bin");
        let source = haul.source(&name);
        make(&source, size, rng.next());
        let before = Untouched::of(&source);
        let options = [
            "put",
            "--protocol",
            "form",
            "--form",
            "upload",
            "--content-type",
            "video/x-test",
            "-F",
            "title=Zoë's \"best\" = 100%",
            "-F",
            "ключ=",
        ];
        haul.run(&[&options[..], &[arg(&source), &server.url("/take")]].concat()).expect(0);
        before.check();
        let form = forms_taken(&haul.store()).remove(number);
        assert_eq!(form["fields"], json!([["title", "Zoë's \"best\" = 100%"], ["ключ", ""]]), "{form}");
        assert_eq!(form["files"].as_array().map(Vec::len), Some(1), "{form}");
        let file = &form["files"][0];
        assert_eq!(text(file, "field"), "upload");
        assert_eq!(text(file, "type"), "video/x-test");
        // What a browser does with a quote in a name (HTML, "multipart/form-data encoding algorithm").
        assert_eq!(text(file, "name"), name.replace('"', "%22"));
        assert_same(Path::new(text(file, "path")), &source);
        let headers = &forms_begun(&haul.store())[number]["headers"];
        let length: u64 = text(headers, "content-length").parse().expect("a length");
        assert_eq!(form["body"].as_u64(), Some(length), "the form has exactly the length that was said");
        assert!(length > size + 200, "the file came without its form");
        assert!(headers["transfer-encoding"].is_null(), "{headers}");
        assert!(text(headers, "content-type").starts_with("multipart/form-data"), "{headers}");
    }
    haul.nothing_left();
}

/// Killed in the middle of a form: it is not known whether the server took it, or it was sent again because
/// nobody can have.
#[test]
fn a_killed_form_is_not_taken_twice() {
    let mut rng = Rng::for_test("form::a_killed_form_is_not_taken_twice");
    for _ in 0..5 {
        let upload = upload("form::a_killed_form_is_not_taken_twice");
        let Upload { haul, server, source, .. } = &upload;
        let proxy = Proxy::slow(server.addr(), RATE);
        let (id, put) = haul.begin(&["put", "--protocol", "form", arg(source), &proxy.url("/take")]);
        proxy.until_bytes(Way::Up, rng.below(SIZE));
        put.kill();
        proxy.throttle(0);
        let done = haul.run(&["resume", &id]);
        let job = haul.show(&id).expect("the job is shown");
        let taken = forms_taken(&haul.store()).len();
        match text(&job, "state") {
            "completed" => {
                assert_eq!((done.code, taken), (Some(0), 1), "{job}");
                upload.only_form();
            }
            "failed" => {
                assert_eq!((done.code, cause(&job)), (Some(3), Some("outcome-unknown")), "{job}");
                assert!(taken <= 1, "it was taken {taken} times: {job}");
            }
            state => panic!("{state}: {job}"),
        }
        haul.nothing_left();
    }
}

/// The end of the form was never handed over, and the process that knows it lives: it is sent again.
#[test]
fn a_paused_form_is_sent_again() {
    let mut upload = upload("form::a_paused_form_is_sent_again");
    let Upload { haul, server, source, rng } = &mut upload;
    let proxy = Proxy::slow(server.addr(), RATE);
    let daemon = haul.daemon();
    let id = haul.detach_one(&["put", "--protocol", "form", arg(source), &proxy.url("/take")]);
    proxy.until_bytes(Way::Up, 64 * KIB + rng.below(SIZE / 3));
    haul.run(&["pause", &id]).expect(0);
    haul.until_state(&id, &["suspended"]);
    assert_eq!(forms_taken(&haul.store()).len(), 0);
    proxy.throttle(0);
    haul.run(&["resume", &id]).expect(0);
    daemon.terminate().expect(0);
    let job = haul.show(&id).expect("the job is shown");
    assert_eq!(text(&job, "state"), "completed", "{job}");
    upload.only_form();
}

/// As Ctrl-C in the command that sends it does.
#[test]
fn an_interrupted_form_is_sent_again() {
    let mut upload = upload("form::an_interrupted_form_is_sent_again");
    let Upload { haul, server, source, rng } = &mut upload;
    let proxy = Proxy::slow(server.addr(), RATE);
    let (id, put) = haul.begin(&["put", "--protocol", "form", arg(source), &proxy.url("/take")]);
    proxy.until_bytes(Way::Up, 64 * KIB + rng.below(SIZE / 3));
    put.signal(Signal::INT);
    put.wait();
    proxy.throttle(0);
    haul.run(&["resume", &id]).expect(0);
    upload.only_form();
}

#[test]
fn a_form_that_broke_off_is_sent_again() {
    for act in [Act::Fin, Act::Rst] {
        let upload = upload("form::a_form_that_broke_off_is_sent_again");
        let proxy = Proxy::slow(upload.server.addr(), 4 * RATE);
        proxy.arm(Fault { way: Way::Up, after: SIZE / 2, act });
        let put = ["put", "--protocol", "form", arg(&upload.source), &proxy.url("/take")];
        upload.haul.run(&put).expect(0);
        upload.only_form();
        assert_eq!(forms_begun(&upload.haul.store()).len(), 2, "{act:?}");
    }
}

#[test]
fn a_lost_answer_leaves_the_outcome_unknown() {
    let upload = upload("form::a_lost_answer_leaves_the_outcome_unknown");
    let front = Scripted::before(upload.server.addr(), |_| Answer::ForwardAndLose);
    let put = ["put", "--protocol", "form", arg(&upload.source), &front.url("/take")];
    let last = upload.haul.transfer(&put, 3);
    assert_eq!((text(&last, "state"), cause(&last)), ("failed", Some("outcome-unknown")), "{last}");
    assert_eq!(front.count("POST"), 1, "sent once");
    upload.only_form();
}

/// A server that knows `Idempotency-Key`: the same key, the same answer, one effect.
#[test]
fn with_a_key_a_lost_answer_is_asked_for_again() {
    let upload = upload("form::with_a_key_a_lost_answer_is_asked_for_again");
    let count = AtomicUsize::new(0);
    let front = Scripted::before(upload.server.addr(), move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Answer::ForwardAndLose,
        1 => Reply::new(409).into(),
        _ => Reply::new(201).into(),
    });
    let put = ["put", "--protocol", "form", "--idempotent", arg(&upload.source), &front.url("/take")];
    upload.haul.run(&put).expect(0);
    let seen = front.seen();
    let keys: Vec<_> = seen.iter().map(|request| request.header("idempotency-key")).collect();
    assert_eq!(keys.len(), 3, "lost, still being processed, answered: {seen:?}");
    assert!(keys[0].is_some_and(|key| key.len() >= 16), "{keys:?}");
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    let types: Vec<_> = seen.iter().map(|request| request.header("content-type")).collect();
    assert!(types.iter().all(|kind| *kind == types[0]), "the same form, byte for byte: {types:?}");
    upload.only_form();

    // Another job has another key.
    let source = upload.haul.source("other.bin");
    fs::write(&source, "other").expect("write a source");
    upload
        .haul
        .run(&["put", "--protocol", "form", "--idempotent", arg(&source), &front.url("/take")])
        .expect(0);
    let last = front.seen().pop().expect("a request");
    assert_ne!(last.header("idempotency-key"), seen[0].header("idempotency-key"));
}
