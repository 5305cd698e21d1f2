//! Remote files that change between two parts of a download.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::support::files::{MIB, assert_same, make};
use crate::support::haul::{Haul, arg, text};
use crate::support::proxy::{Proxy, Way};
use crate::support::seed::Rng;
use crate::support::servers::Server;

const SIZE: u64 = 12 * MIB;

/// Puts other bytes in the file's place, with a time of its own, as a validator made of time and size needs.
fn replace(path: &Path, size: u64, seed: u64) {
    let new = path.with_extension("new");
    make(&new, size, seed);
    let earlier = SystemTime::now() - Duration::from_secs(3600);
    File::open(&new).and_then(|file| file.set_modified(earlier)).expect("set the time of the new file");
    fs::rename(&new, path).expect("replace the remote file");
}

fn replaced(name: &str, directives: &str, new_size: u64, kill: bool) {
    let mut rng = Rng::for_test(name);
    let haul = Haul::new();
    let original = haul.store().join("data.bin");
    make(&original, SIZE, rng.next());
    let server = Server::nginx(&haul.store(), directives);
    let proxy = Proxy::slow(server.addr(), 8 * MIB);
    let target = haul.out().join("copy.bin");
    let (id, get) = haul.begin(&["get", &proxy.url("/data.bin"), "-o", arg(&target)]);
    proxy.until_bytes(Way::Down, 3 * MIB);
    if kill {
        get.kill();
    } else {
        haul.run(&["pause", &id]).expect(0);
        get.wait().expect(4);
    }
    replace(&original, new_size, rng.next());
    proxy.throttle(0);
    if !kill {
        haul.run(&["resume", &id]).expect(0);
    }
    haul.finish(&[&id]);
    let job = haul.show(&id).expect("the job is shown");
    assert_eq!(text(&job, "state"), "completed", "{job}");
    assert_same(&target, &original);
    haul.nothing_left();
}

#[test]
fn replaced_between_a_kill_and_the_next_owner() {
    replaced("replaced_between_a_kill_and_the_next_owner", "", SIZE, true);
}

#[test]
fn replaced_by_a_shorter_file() {
    replaced("replaced_by_a_shorter_file", "", MIB, true);
}

#[test]
fn replaced_by_a_longer_file_while_paused() {
    replaced("replaced_by_a_longer_file_while_paused", "", SIZE + MIB, false);
}

#[test]
fn replaced_at_a_server_without_validators() {
    let directives = "etag off; if_modified_since off; add_header Last-Modified \"\";";
    replaced("replaced_at_a_server_without_validators", directives, SIZE, true);
}
