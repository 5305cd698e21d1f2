//! The command line: words, shapes and exit codes.

use serde_json::Value;

use crate::support::files::{MIB, assert_same, make};
use crate::support::haul::{Haul, arg, id, text, values};
use crate::support::process::Running;
use crate::support::seed::Rng;
use crate::support::servers::Server;

#[test]
fn usage_errors_exit_2() {
    let haul = Haul::new();
    let source = haul.source("data.bin");
    make(&source, 10, 1);
    let wrong: [&[&str]; 12] = [
        &[],
        &["frobnicate"],
        &["put"],
        &["put", arg(&source)],
        &["put", arg(&source), "not a url"],
        &["put", arg(&source), "ftp://127.0.0.1/files/"],
        &["get"],
        &["get", "file:///etc/passwd"],
        &["pause"],
        &["resume", "x"],
        &["put", "--stage", "sometimes", arg(&source), "http://127.0.0.1:1/"],
        &["put", "--checksum", "sha256:12", arg(&source), "http://127.0.0.1:1/"],
    ];
    for arguments in wrong {
        let done = haul.run(arguments).expect(2);
        assert!(!done.stderr.trim().is_empty(), "{arguments:?} says nothing");
    }
    assert!(haul.jobs().is_empty(), "a wrong command made a job");
}

#[test]
fn help_and_version() {
    let haul = Haul::new();
    let help = haul.run(&["--help"]).expect(0).stdout;
    for word in
        ["put", "get", "ls", "show", "log", "pause", "resume", "cancel", "daemon", "doctor", "serve", "demo"]
    {
        assert!(help.contains(word), "{word} is not in the help:\n{help}");
    }
    assert!(haul.run(&["--version"]).expect(0).stdout.starts_with("haul "));
}

/// A source that cannot be sent is refused at once, with its name, and makes no job.
#[test]
fn impossible_sources_are_refused() {
    let haul = Haul::new();
    let absent = haul.source("absent.bin");
    let directory = haul.source("");
    for source in [absent.as_path(), directory.as_path(), std::path::Path::new("/dev/null")] {
        let done = haul.run(&["put", arg(source), "http://127.0.0.1:1/files/"]);
        let done = done.expect(1);
        let name = arg(source).trim_end_matches('/');
        assert!(done.stderr.contains(name), "the file is not named: {}", done.stderr);
    }
    assert!(haul.jobs().is_empty(), "a refused source made a job");
}

#[test]
fn json_has_the_promised_shape() {
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let source = haul.source("data.bin");
    make(&source, MIB, Rng::for_test("json_has_the_promised_shape").next());
    let put = haul.run(&["--json", "put", arg(&source), &server.url("/files/")]).expect(0);
    let lines: Vec<Value> =
        put.stdout.lines().map(|line| serde_json::from_str(line).expect("one JSON value a line")).collect();
    assert!(lines.len() >= 2, "events, then the job: {}", put.stdout);
    let get = haul.run(&["--json", "get", &server.url("/files/absent")]).expect(1);
    let failed = values(&get.stdout).pop().expect("a final object");
    let done = lines.last().expect("a last line");
    let job = id(done);
    let shown = haul.show(&job).expect("the job is shown");
    let listed = haul.jobs();
    assert_eq!(listed.len(), 2);
    assert_eq!((id(&listed[0]), &listed[0]), (job.clone(), &shown), "show and ls agree");
    for object in [done, &failed, &shown] {
        for key in
            ["id", "state", "direction", "source", "target", "protocol", "size", "done", "attempts", "cause"]
        {
            assert!(object.get(key).is_some(), "no `{key}` in {object}");
        }
    }
    assert_eq!(text(&shown, "direction"), "upload");
    assert_eq!(text(&shown, "source"), arg(&source));
    assert_eq!(text(&shown, "target"), server.url("/files/"));
    assert_eq!(text(&shown, "protocol"), "tus");
    assert_eq!((shown["size"].as_u64(), shown["done"].as_u64()), (Some(MIB), Some(MIB)));
    assert!(shown["cause"].is_null(), "{shown}");
    assert_eq!(text(&failed, "direction"), "download");
    assert_eq!(text(&failed["cause"], "kind"), "rejected");
    assert!(!text(&failed["cause"], "text").is_empty());
}

#[test]
fn a_job_can_be_looked_at() {
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let source = haul.source("data.bin");
    make(&source, MIB, Rng::for_test("a_job_can_be_looked_at").next());
    haul.run(&["put", arg(&source), &server.url("/files/")]).expect(0);
    let job = id(&haul.jobs()[0]);
    let listing = haul.run(&["ls"]).expect(0).stdout;
    assert!(listing.contains("completed") && listing.contains("data.bin"), "{listing}");
    let shown = haul.run(&["show", &job]).expect(0).stdout;
    assert!(shown.contains("completed") && shown.contains(arg(&source)), "{shown}");
    let log = haul.run(&["log", &job]).expect(0).stdout;
    let places: Vec<_> =
        ["queued", "staged", "sending", "completed"].iter().map(|word| log.find(word)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "the history in its order:\n{log}");
    assert!(log.contains("20"), "times with years:\n{log}");
    haul.run(&["--json", "log", &job]).expect(0);
    haul.run(&["doctor"]).expect(0);
    let unknown = haul.run(&["show", "424242"]).expect(1);
    assert!(unknown.stderr.contains("424242"), "{}", unknown.stderr);
}

/// Quiet means results only; and what is piped has no progress bar in it.
#[test]
fn output_fits_its_reader() {
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let source = haul.source("data.bin");
    make(&source, MIB, Rng::for_test("output_fits_its_reader").next());
    let quiet = haul.run(&["-q", "put", arg(&source), &server.url("/files/")]).expect(0);
    assert_eq!((quiet.stdout.lines().count(), quiet.stderr.as_str()), (1, ""), "{}", quiet.stdout);
    let plain = haul.run(&["put", arg(&source), &server.url("/files/")]).expect(0);
    let said = format!("{}{}", plain.stdout, plain.stderr);
    assert!(said.contains("data.bin"), "{said}");
    assert!(!said.contains('\u{1b}') && !said.contains('\r'), "control characters in a pipe: {said:?}");
}

#[test]
fn serve_says_where_it_listens() {
    let haul = Haul::new();
    let mut plain = haul.spawn(&["serve", arg(&haul.store()), "--listen", "127.0.0.1:0"]);
    let line = plain.line("the address", |line| Some(line.to_owned()));
    let url = line.strip_prefix("listening on ").expect("the promised words").to_owned();
    assert!(url.starts_with("http://127.0.0.1:") && url.ends_with("/files/"), "{url}");
    let source = haul.source("data.bin");
    make(&source, MIB, 1);
    haul.run(&["put", arg(&source), &url]).expect(0);
    assert_same(&haul.store().join("data.bin"), &source);
    plain.terminate();

    let mut json = haul.spawn(&["--json", "serve", arg(&haul.store()), "--listen", "127.0.0.1:0"]);
    let value: Value = json.line("the address", |line| serde_json::from_str(line).ok());
    assert!(text(&value, "listening").ends_with("/files/"), "{value}");
    json.terminate();
}

/// Beyond this machine only with a token.
#[test]
fn serve_wants_a_token_when_not_on_loopback() {
    let haul = Haul::new();
    let refused = haul.run(&["serve", arg(&haul.store()), "--listen", "0.0.0.0:0"]);
    assert!(refused.code.is_some_and(|code| code != 0), "{refused:?}");
    assert!(refused.stderr.contains("token"), "{}", refused.stderr);
}

#[test]
fn the_demo_holds_what_it_shows() {
    let haul = Haul::new();
    let mut demo = haul.command(&["demo", "--size", "16MiB", "--kills", "3", "--seed", "1"]);
    let temporary = haul.dir().join("tmp");
    std::fs::create_dir(&temporary).expect("a temporary directory");
    demo.env("TMPDIR", &temporary);
    let done = Running::spawn(demo).wait().expect(0);
    let table = done.stdout.to_lowercase();
    assert!(table.contains("kills survived"), "{table}");
    assert!(table.contains("copies left"), "{table}");
    let left: Vec<_> = crate::support::files::tree(&temporary);
    assert!(left.is_empty(), "the demo left {left:?}");
}
