//! Many files in one command: directories, lists, and the same command again.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::files::{KIB, MIB, assert_same, fingerprint, make, sha256};
use crate::support::haul::{Haul, arg, id, text, values};
use crate::support::proxy::{Proxy, Way};
use crate::support::seed::Rng;
use crate::support::servers::Server;
use crate::support::session::ids;

/// A place to PUT to.
const DAV: &str = "dav_methods PUT DELETE; create_full_put_path on; client_max_body_size 0;";

/// Files below one directory, by their paths below it.
const TREE: [&str; 9] = [
    "plain.bin",
    "two  words/and more.bin",
    "down/down/down/down/x.bin",
    "down/x.bin",
    "Zoë/日本語 🚚.bin",
    "a#b?c%20d&e=f;g'h\"i.bin",
    "-o",
    ".hidden/.file",
    "empty",
];

/// Makes [`TREE`] in `in/tree`.
fn make_tree(haul: &Haul, rng: &mut Rng) -> PathBuf {
    let root = haul.source("tree");
    for (number, name) in (0..).zip(TREE) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory of the tree");
        let size = if name == "empty" { 0 } else { 10 * KIB + number };
        make(&path, size, rng.next());
    }
    root
}

#[test]
fn a_tree_is_put_as_it_is() {
    let haul = Haul::new();
    let server = Server::nginx(&haul.store(), DAV);
    let root = make_tree(&haul, &mut Rng::for_test("a_tree_is_put_as_it_is"));
    // What is no file, or would go round in circles, is left out and told.
    std::os::unix::fs::symlink("..", root.join("down/round")).expect("a link to a directory");
    let done = haul.run(&["put", "-r", arg(&root), &server.url("/album/")]).expect(0);
    assert!(done.stderr.contains("down/round"), "{}", done.stderr);
    fs::remove_file(root.join("down/round")).expect("remove the link");
    assert_eq!(fingerprint(&haul.store().join("album")), fingerprint(&root));
    let jobs = haul.jobs();
    let groups: BTreeSet<&str> = jobs.iter().map(|job| text(job, "group")).collect();
    assert_eq!((jobs.len(), groups.len()), (TREE.len(), 1), "{jobs:?}");
    assert!(jobs.iter().all(|job| text(job, "state") == "completed" && text(job, "protocol") == "put"));
    haul.nothing_left();
}

/// Without directories at the server all come below one; two of one name are two objects.
#[test]
fn a_tree_goes_to_a_tus_server() {
    let haul = Haul::new();
    let server = Server::haul(&haul.store(), &[]);
    let root = make_tree(&haul, &mut Rng::for_test("a_tree_goes_to_a_tus_server"));
    haul.run(&["put", "-r", arg(&root), &server.url("/files/")]).expect(0);
    let hashes = |files: std::collections::BTreeMap<PathBuf, String>| {
        let own = |path: &Path| path.starts_with(".haul-serve");
        let mut hashes: Vec<_> =
            files.into_iter().filter(|(path, _)| !own(path)).map(|(_, hash)| hash).collect();
        hashes.sort();
        hashes
    };
    assert_eq!(hashes(fingerprint(&haul.store())), hashes(fingerprint(&root)));
    let jobs = haul.jobs();
    assert!(jobs.iter().all(|job| text(job, "state") == "completed" && text(job, "protocol") == "tus"));
    haul.nothing_left();
}

#[test]
fn lists_come_from_files_and_pipes() {
    let haul = Haul::new();
    let server = Server::nginx(&haul.store(), DAV);
    let mut rng = Rng::for_test("lists_come_from_files_and_pipes");
    let names = ["one.bin", "two words.bin", "line\nbreak.bin"];
    for name in names {
        make(&haul.source(name), 20 * KIB, rng.next());
    }
    let sources: Vec<PathBuf> = names.iter().map(|name| haul.source(name)).collect();
    let list = haul.dir().join("list");

    // One with a URL of its own, one without; an empty line is nothing.
    let text = format!("{}\n\n{}\t{}\n", arg(&sources[0]), arg(&sources[1]), server.url("/own/name.bin"));
    fs::write(&list, &text).expect("write a list");
    haul.run(&["put", "-i", arg(&list), &server.url("/listed/")]).expect(0);
    assert_same(&haul.store().join("listed/one.bin"), &sources[0]);
    assert_same(&haul.store().join("own/name.bin"), &sources[1]);

    haul.run_from(&list, &["put", "-i", "-", &server.url("/piped/")]).expect(0);
    assert_same(&haul.store().join("piped/one.bin"), &sources[0]);

    // With NULs a name may hold a line break.
    let all = sources.iter().fold(String::new(), |all, path| all + arg(path) + "\0");
    fs::write(&list, all).expect("write a list");
    let tus = Server::tus_node(&haul.dir().join("tus"));
    haul.run_from(&list, &["put", "-0", "-i", "-", &tus.url("/files/")]).expect(0);
    let put: BTreeSet<String> = tus.objects().iter().map(|path| sha256(path)).collect();
    assert_eq!(put, sources.iter().map(|path| sha256(path)).collect());

    // A line that is wrong is named, and does not hold up the others.
    fs::write(&list, format!("{}\n/not/there\n", arg(&sources[0]))).expect("write a list");
    let done = haul.run(&["put", "-i", arg(&list), &server.url("/some/")]).expect(1);
    assert!(done.stderr.contains("/not/there"), "{}", done.stderr);
    assert_same(&haul.store().join("some/one.bin"), &sources[0]);
    haul.nothing_left();
}

#[test]
fn a_list_of_urls_is_fetched() {
    let haul = Haul::new();
    let server = Server::nginx(&haul.store(), "");
    let mut rng = Rng::for_test("a_list_of_urls_is_fetched");
    for name in ["one.bin", "two.bin"] {
        make(&haul.store().join(name), 30 * KIB, rng.next());
    }
    let list = haul.dir().join("list");
    let lines = format!("{}\n{}\tdeep/other.bin\n", server.url("/one.bin"), server.url("/two.bin"));
    fs::write(&list, lines).expect("write a list");
    fs::create_dir_all(haul.out().join("deep")).expect("a directory");
    haul.run(&["get", "-i", arg(&list), "-o", arg(&haul.out())]).expect(0);
    assert_same(&haul.out().join("one.bin"), &haul.store().join("one.bin"));
    assert_same(&haul.out().join("deep/other.bin"), &haul.store().join("two.bin"));

    // A whole path goes where it says; what is there stays, and the others come all the same.
    let (kept, whole) = (haul.out().join("kept.bin"), haul.dir().join("whole.bin"));
    fs::write(&kept, "mine").expect("write a file");
    let lines = format!("{0}\tkept.bin\n{0}\t{1}\nno url\n", server.url("/one.bin"), arg(&whole));
    fs::write(&list, lines).expect("write a list");
    let done = haul.run_from(&list, &["get", "-i", "-", "-o", arg(&haul.out())]).expect(1);
    assert!(done.stderr.contains("line 3"), "{}", done.stderr);
    assert_same(&whole, &haul.store().join("one.bin"));
    assert_eq!(fs::read(&kept).expect("read a file"), b"mine");
    haul.nothing_left();
}

/// Several files cannot all be one object.
#[test]
fn several_files_need_a_place() {
    let haul = Haul::new();
    let (one, two) = (haul.source("one.bin"), haul.source("two.bin"));
    make(&one, KIB, 1);
    make(&two, KIB, 2);
    let tree = haul.source("");
    let url = "http://127.0.0.1:9/place";
    for words in [
        &["put", arg(&one), arg(&two), url][..],
        &["put", "-r", arg(&tree), url],
        &["put", "--name", "a", arg(&one), arg(&two), "http://127.0.0.1:9/place/"],
        &[
            "put",
            "--checksum",
            &format!("sha256:{}", "0".repeat(64)),
            arg(&one),
            arg(&two),
            "http://127.0.0.1:9/",
        ],
    ] {
        let done = haul.run(words).expect(2);
        assert!(!done.stderr.trim().is_empty(), "{words:?} says nothing");
    }
    assert!(haul.jobs().is_empty(), "a wrong command made a job");
}

/// A key is the job's own name: asking again is no second job.
#[test]
fn a_command_with_a_key_is_the_same_again() {
    let mut rng = Rng::for_test("a_command_with_a_key_is_the_same_again");
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let (one, two) = (haul.source("one.bin"), haul.source("two.bin"));
    make(&one, 40 * KIB, rng.next());
    make(&two, 41 * KIB, rng.next());
    let words = ["--json", "put", "--key", "nightly", arg(&one), arg(&two), &server.url("/files/")];
    let numbers = |output: &str| values(output).iter().map(id).collect::<BTreeSet<_>>();
    let first = numbers(&haul.run(&words).expect(0).stdout);
    let second = numbers(&haul.run(&words).expect(0).stdout);
    assert_eq!((first.len(), &first), (2, &second));
    assert_eq!(haul.jobs().len(), 2);
    assert_same(&server.only_object(40 * KIB), &one);
    assert_same(&server.only_object(41 * KIB), &two);
    // The same key for something else is refused; it makes nothing.
    let other = haul.run(&["put", "--key", "nightly/one.bin", arg(&two), &server.url("/files/")]);
    assert_eq!(haul.jobs().len(), 2, "{other:?}");
    haul.nothing_left();
}

#[test]
fn a_killed_command_with_a_key_is_the_same_again() {
    let mut rng = Rng::for_test("a_killed_command_with_a_key_is_the_same_again");
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let proxy = Proxy::slow(server.addr(), 4 * MIB);
    let source = haul.source("data.bin");
    make(&source, 6 * MIB, rng.next());
    let words = ["put", "--key", "nightly", arg(&source), &proxy.url("/files/")];
    let mut seen = BTreeSet::new();
    for round in 1..4 {
        let (number, put) = haul.begin(&words);
        proxy.until_bytes(Way::Up, round * MIB);
        put.kill();
        seen.insert(number);
    }
    proxy.throttle(0);
    haul.run(&words).expect(0);
    let jobs = haul.jobs();
    assert_eq!((seen.len(), ids(&jobs).len()), (1, 1), "{seen:?} {jobs:?}");
    assert_same(&server.only_object(6 * MIB), &source);
    assert_eq!(server.objects().len(), 1, "{:?}", server.objects());
    haul.nothing_left();
}
