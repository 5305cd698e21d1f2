//! Whole files, both ways, byte for byte, against every server.

use std::fs;

use crate::support::files::{KIB, MIB, Untouched, assert_same, make, sha256, tree};
use crate::support::haul::{Haul, arg, text, values};
use crate::support::proxy::{Act, Fault, Proxy, Way};
use crate::support::seed::Rng;
use crate::support::servers::{Server, write_secret};

/// Not a multiple of anything.
const SIZE: u64 = 9 * MIB + 4321;

fn upload(start: impl Fn(&Haul) -> Server, path: &str, options: &[&str]) {
    let haul = Haul::new();
    let server = start(&haul);
    let source = haul.source("data.bin");
    make(&source, SIZE, Rng::for_test("upload").next());
    let before = Untouched::of(&source);
    let url = server.url(path);
    let done = haul.run(&[&["--json", "put"], options, &[arg(&source), url.as_str()]].concat()).expect(0);
    let last = values(&done.stdout).pop().expect("a final object");
    assert_eq!(text(&last, "state"), "completed", "{last}");
    assert_eq!((last["size"].as_u64(), last["done"].as_u64()), (Some(SIZE), Some(SIZE)), "{last}");
    assert_same(&server.only_object(SIZE), &source);
    assert_eq!(server.objects().len(), 1, "nothing but the object is at the server");
    before.check();
    haul.nothing_left();
}

fn download(start: impl Fn(&Haul) -> Server, path: &str) {
    let haul = Haul::new();
    let original = haul.store().join("data.bin");
    make(&original, SIZE, Rng::for_test("download").next());
    let server = start(&haul);
    let target = haul.out().join("copy.bin");
    haul.run(&["get", &server.url(path), "-o", arg(&target)]).expect(0);
    assert_same(&target, &original);
    assert_eq!(tree(&haul.out()).len(), 1, "nothing but the file is there");
    haul.nothing_left();
}

#[test]
fn upload_to_tus_node() {
    upload(|haul| Server::tus_node(&haul.store()), "/files/", &[]);
}

#[test]
fn upload_to_tus_node_without_staging() {
    upload(|haul| Server::tus_node(&haul.store()), "/files", &["--stage", "none"]);
}

#[test]
fn upload_to_tus_python() {
    upload(|haul| Server::tus_python(&haul.store()), "/files", &["--stage", "copy"]);
}

#[test]
fn upload_to_haul_serve() {
    let haul = Haul::new();
    let server = Server::haul(&haul.store(), &[]);
    let source = haul.source("data.bin");
    make(&source, SIZE, Rng::for_test("upload_to_haul_serve").next());
    let before = Untouched::of(&source);
    haul.run(&["put", arg(&source), &server.url("/files/")]).expect(0);
    assert_same(&haul.store().join("data.bin"), &source);
    before.check();
    haul.nothing_left();
    // And back, by the name that it was sent under.
    let back = haul.out().join("back.bin");
    haul.run(&["get", &server.url("/files/data.bin"), "-o", arg(&back)]).expect(0);
    assert_same(&back, &source);
    haul.nothing_left();
}

#[test]
fn download_from_nginx() {
    download(|haul| Server::nginx(&haul.store(), ""), "/data.bin");
}

#[test]
fn download_from_an_nginx_that_would_compress() {
    download(|haul| Server::nginx(&haul.store(), "gzip on; gzip_types *; gzip_min_length 1;"), "/data.bin");
}

#[test]
fn download_from_haul_serve() {
    download(|haul| Server::haul(&haul.store(), &[]), "/files/data.bin");
}

/// A server without ranges or validators: whole in one go.
#[test]
fn download_from_tus_python() {
    let haul = Haul::new();
    let server = Server::tus_python(&haul.store());
    let source = haul.source("data.bin");
    make(&source, SIZE, Rng::for_test("download_from_tus_python").next());
    haul.run(&["put", arg(&source), &server.url("/files")]).expect(0);
    let object = server.only_object(SIZE);
    let name = object.file_name().expect("an object has a name").to_str().expect("the name is an id");
    let target = haul.out().join("copy.bin");
    haul.run(&["get", &server.url(&format!("/files/{name}")), "-o", arg(&target)]).expect(0);
    assert_same(&target, &source);
    haul.nothing_left();
}

/// Without a validator nothing may be pieced together: a cut transfer begins again, and ends whole.
#[test]
fn a_cut_download_without_a_validator_begins_again() {
    let haul = Haul::new();
    let original = haul.store().join("data.bin");
    make(&original, SIZE, Rng::for_test("a_cut_download_without_a_validator_begins_again").next());
    let server =
        Server::nginx(&haul.store(), "etag off; if_modified_since off; add_header Last-Modified \"\";");
    let proxy = Proxy::to(server.addr());
    proxy.arm(Fault { way: Way::Down, after: SIZE / 2, act: Act::Rst });
    let target = haul.out().join("copy.bin");
    haul.run(&["get", &proxy.url("/data.bin"), "-o", arg(&target)]).expect(0);
    assert_same(&target, &original);
    assert!(proxy.bytes(Way::Down) >= SIZE + SIZE / 2, "the first half came twice");
    haul.nothing_left();
}

#[test]
fn many_files_in_one_command() {
    let haul = Haul::new();
    let server = Server::haul(&haul.store(), &[]);
    let mut rng = Rng::for_test("many_files_in_one_command");
    let sources: Vec<_> = (0..24)
        .map(|number| {
            let source = haul.source(&format!("file-{number}"));
            make(&source, rng.below(200 * KIB), rng.next());
            source
        })
        .collect();
    let endpoint = server.url("/files/");
    let mut command = vec!["put"];
    command.extend(sources.iter().map(|path| arg(path)));
    command.push(&endpoint);
    haul.run(&command).expect(0);
    let urls: Vec<_> =
        (0..sources.len()).map(|number| server.url(&format!("/files/file-{number}"))).collect();
    let mut command = vec!["get"];
    command.extend(urls.iter().map(String::as_str));
    haul.run(&command).expect(0);
    for source in &sources {
        let name = source.file_name().expect("a source has a name");
        assert_same(&haul.store().join(name), source);
        assert_same(&haul.out().join(name), source);
    }
    let jobs = haul.jobs();
    assert_eq!(jobs.len(), 2 * sources.len());
    assert!(jobs.iter().all(|job| text(job, "state") == "completed"), "{jobs:?}");
    haul.nothing_left();
}

/// The token opens the server, is needed, and is nowhere in the session.
#[test]
fn a_bearer_token_is_used_and_not_kept() {
    const TOKEN: &str = "canary-4f1d9be27c3a";
    let haul = Haul::new();
    let secret = haul.dir().join("token");
    write_secret(&secret, TOKEN);
    let server = Server::haul(&haul.store(), &["--token-file", arg(&secret)]);
    let source = haul.source("data.bin");
    make(&source, MIB, Rng::for_test("a_bearer_token_is_used_and_not_kept").next());
    let endpoint = server.url("/files/");

    let refused = haul.run(&["--json", "put", arg(&source), &endpoint]).expect(4);
    let last = values(&refused.stdout).pop().expect("a final object");
    assert_eq!((text(&last, "state"), last["cause"]["kind"].as_str()), ("suspended", Some("auth")), "{last}");
    assert!(!haul.store().join("data.bin").exists());

    let by_file = haul.run(&["-v", "put", "--bearer-file", arg(&secret), arg(&source), &endpoint]).expect(0);
    assert_same(&haul.store().join("data.bin"), &source);
    let mut by_variable = haul.command(&["get", &server.url("/files/data.bin"), "--bearer-env", "CANARY"]);
    by_variable.env("CANARY", TOKEN);
    let by_variable = crate::support::process::Running::spawn(by_variable).wait().expect(0);
    assert_same(&haul.out().join("data.bin"), &source);

    let said =
        [&refused, &by_file, &by_variable].map(|done| format!("{}{}", done.stdout, done.stderr)).concat();
    assert!(!said.contains(TOKEN), "the token was printed");
    for path in tree(haul.session()) {
        let bytes = fs::read(haul.session().join(&path)).unwrap_or_default();
        let found = bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes());
        assert!(!found, "the token is in {}", path.display());
    }
}

/// A digest given by hand is checked: the right one passes, a wrong one leaves nothing at the destination.
#[test]
fn a_given_checksum_is_checked() {
    let haul = Haul::new();
    let original = haul.store().join("data.bin");
    make(&original, SIZE, Rng::for_test("a_given_checksum_is_checked").next());
    let server = Server::nginx(&haul.store(), "");
    let (url, target) = (server.url("/data.bin"), haul.out().join("copy.bin"));
    let right = format!("sha256:{}", sha256(&original));
    let wrong = format!("sha256:{}", "0".repeat(64));

    let failed = haul.run(&["--json", "get", &url, "-o", arg(&target), "--checksum", &wrong]).expect(1);
    let last = values(&failed.stdout).pop().expect("a final object");
    assert_eq!(last["cause"]["kind"].as_str(), Some("checksum-mismatch"), "{last}");
    assert!(!target.exists(), "a file with the wrong bytes has the destination's name");
    haul.nothing_left();

    haul.run(&["get", &url, "-o", arg(&target), "--checksum", &right]).expect(0);
    assert_same(&target, &original);
    haul.nothing_left();
}

/// The same for an upload: nothing is committed under a wrong digest.
#[test]
fn a_given_checksum_of_an_upload_is_checked() {
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let source = haul.source("data.bin");
    make(&source, SIZE, Rng::for_test("a_given_checksum_of_an_upload_is_checked").next());
    let wrong = format!("sha256:{}", "0".repeat(64));
    let failed =
        haul.run(&["--json", "put", "--checksum", &wrong, arg(&source), &server.url("/files/")]).expect(1);
    let last = values(&failed.stdout).pop().expect("a final object");
    assert_eq!(last["cause"]["kind"].as_str(), Some("checksum-mismatch"), "{last}");
    assert_eq!(server.objects_of(SIZE).len(), 0, "the wrong bytes were committed");
    haul.nothing_left();

    let right = format!("sha256:{}", sha256(&source));
    haul.run(&["put", "--checksum", &right, arg(&source), &server.url("/files/")]).expect(0);
    assert_same(&server.only_object(SIZE), &source);
}

/// What stands at the destination stays, unless it is to be replaced.
#[test]
fn an_existing_destination_stays_unless_told() {
    let haul = Haul::new();
    let original = haul.store().join("data.bin");
    make(&original, MIB, Rng::for_test("an_existing_destination_stays_unless_told").next());
    let server = Server::nginx(&haul.store(), "");
    let (url, target) = (server.url("/data.bin"), haul.out().join("data.bin"));
    fs::write(&target, "mine").expect("write what stands there");
    let refused = haul.run(&["get", &url, "-o", arg(&target)]);
    assert_ne!(refused.code, Some(0), "{refused:?}");
    assert_eq!(fs::read(&target).expect("read what stands there"), b"mine");
    haul.run(&["cancel", "--all"]);
    haul.run(&["get", "--overwrite", &url, "-o", arg(&target)]).expect(0);
    assert_same(&target, &original);
}
