//! What the binary asks of the kernel.

use std::collections::BTreeMap;
use std::fs;

use crate::support::files::{MIB, make};
use crate::support::haul::{Haul, arg};
use crate::support::process::Running;
use crate::support::seed::Rng;
use crate::support::servers::Server;

/// How often each call was made, by the name that strace gives it.
fn calls(trace: &str) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for line in trace.lines().filter(|line| !line.contains("resumed>")) {
        let call = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        if let Some((name, _)) = call.split_once('(') {
            *counts.entry(name).or_default() += 1;
        }
    }
    counts
}

/// `sync_file_range` promises nothing; each commit is an fdatasync of its own.
#[test]
fn commits_are_synced_and_never_by_range() {
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let source = haul.source("data.bin");
    make(&source, 2 * MIB, Rng::for_test("commits_are_synced_and_never_by_range").next());
    let trace = haul.dir().join("trace");
    let options = ["-f", "-qq", "-o", arg(&trace), "-e", "trace=sync_file_range,fdatasync,fsync"];
    let before = source.metadata().and_then(|m| m.modified()).expect("the source's time");
    let command = haul.command_under("strace", &options, &["put", arg(&source), &server.url("/files/")]);
    Running::spawn(command).wait().expect(0);
    let text = fs::read_to_string(&trace).expect("read the trace");
    let counts = calls(&text);
    assert_eq!(counts.get("sync_file_range"), None, "{text}");
    // At the least: accepted, staged, sending, completed.
    assert!(counts.get("fdatasync") >= Some(&4), "{counts:?}");
    assert_eq!(source.metadata().and_then(|m| m.modified()).expect("the source's time"), before);
}

/// Calls that change a file, or could.
const CHANGING: [&str; 18] = [
    "chmod",
    "fchmod",
    "fchmodat",
    "chown",
    "fchown",
    "fchownat",
    "fallocate",
    "ftruncate",
    "link",
    "linkat",
    "pwrite64",
    "rename",
    "renameat",
    "renameat2",
    "truncate",
    "unlink",
    "unlinkat",
    "utimensat",
];

/// No call that could change the source is given its path or a descriptor of it.
#[test]
fn the_source_is_opened_to_be_read() {
    const NAME: &str = "precious-source.bin";
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let source = haul.source(NAME);
    make(&source, 2 * MIB, Rng::for_test("the_source_is_opened_to_be_read").next());
    let trace = haul.dir().join("trace");
    // With -y a descriptor is shown with its file: `pread64(12</path/of/it>, ...`.
    let options = ["-f", "-qq", "-y", "-o", arg(&trace), "-e", "trace=%file,%desc", "-e", "signal=none"];
    for stage in ["none", "copy"] {
        let arguments = ["put", "--stage", stage, arg(&source), &server.url("/files/")];
        Running::spawn(haul.command_under("strace", &options, &arguments)).wait().expect(0);
        let text = fs::read_to_string(&trace).expect("read the trace");
        let mut opened = 0;
        for line in text.lines().filter(|line| line.contains(NAME)) {
            let line = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
            let (call, arguments) = line.split_once('(').unwrap_or((line, ""));
            if call.starts_with("open") {
                assert!(line.contains("O_RDONLY") && !line.contains("O_TRUNC"), "{line}");
                opened += 1;
            }
            // What is written may be words about the source; what is written to may not be it.
            let to = arguments.split('>').next().unwrap_or_default();
            assert!(!(call.contains("write") && to.contains(NAME)), "{line}");
            assert!(!CHANGING.contains(&call), "{line}");
        }
        assert!(opened > 0, "the trace does not show the source being opened");
    }
}
