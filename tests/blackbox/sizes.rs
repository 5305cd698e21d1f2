//! The smallest files and one larger than 32 bits can count.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::support::files::{GIB, MIB, assert_same, assert_sparse_copy, make, make_sparse, tree};
use crate::support::haul::{Haul, arg};
use crate::support::seed::Rng;
use crate::support::servers::Server;
use crate::support::wait::PATIENCE;

fn both_ways_and_tiny(start: impl Fn(&Haul) -> Server, path: &str) {
    let mut rng = Rng::for_test("both_ways_and_tiny");
    for size in [0, 1] {
        let haul = Haul::new();
        let server = start(&haul);
        let source = haul.source("tiny");
        make(&source, size, rng.next());
        for stage in ["copy", "none"] {
            haul.run(&["put", "--stage", stage, arg(&source), &server.url(path)]).expect(0);
        }
        let objects = server.objects_of(size);
        // Servers may keep empty files of their own; the two uploads must be there.
        assert!(objects.len() >= 2, "{size} bytes: {objects:?}");
        if size > 0 {
            for object in &objects {
                assert_same(object, &source);
            }
        }
        haul.nothing_left();
    }
}

#[test]
fn tiny_files_to_tus_node() {
    both_ways_and_tiny(|haul| Server::tus_node(&haul.store()), "/files/");
}

#[test]
fn tiny_files_to_tus_python() {
    both_ways_and_tiny(|haul| Server::tus_python(&haul.store()), "/files");
}

#[test]
fn tiny_files_to_haul_serve_and_back() {
    let haul = Haul::new();
    let server = Server::haul(&haul.store(), &[]);
    for size in [0, 1] {
        let name = format!("tiny-{size}");
        let source = haul.source(&name);
        make(&source, size, 7);
        haul.run(&["put", arg(&source), &server.url("/files/")]).expect(0);
        assert_same(&haul.store().join(&name), &source);
        haul.run(&["get", &server.url(&format!("/files/{name}"))]).expect(0);
        assert_same(&haul.out().join(&name), &source);
    }
    haul.nothing_left();
}

#[test]
fn tiny_files_from_nginx() {
    let haul = Haul::new();
    let server = Server::nginx(&haul.store(), "");
    for size in [0, 1] {
        let name = format!("tiny-{size}");
        make(&haul.store().join(&name), size, 7);
        haul.run(&["get", &server.url(&format!("/{name}"))]).expect(0);
        assert_same(&haul.out().join(&name), &haul.store().join(&name));
    }
    assert_eq!(tree(&haul.out()).len(), 2);
    haul.nothing_left();
}

/// 5 GiB with marked blocks on both sides of 2^31 and 2^32, up to `haul serve` and back.
#[test]
fn five_gibibytes_up_and_down() {
    let size = 5 * GIB + 1;
    let mut rng = Rng::for_test("five_gibibytes_up_and_down");
    let marks = [0, 2 * GIB - 2048, 4 * GIB - 2048, 4 * GIB + 3 * MIB + 1, size - 4096];
    let haul = Haul::new();
    let server = Server::haul(&haul.store(), &[]);
    let source = haul.source("large.bin");
    let blocks = make_sparse(&source, size, &marks, rng.next());

    haul.spawn(&["put", arg(&source), &server.url("/files/")]).wait_at_most(5 * PATIENCE).expect(0);
    let object = haul.store().join("large.bin");
    assert_sparse_copy(&object, size, &blocks, 2000, &mut rng);
    haul.nothing_left();
    let source_blocks = fs::metadata(&source).expect("stat the source").blocks();
    assert!(source_blocks * 512 < MIB, "the source's holes were filled");

    let target = haul.out().join("large.bin");
    haul.spawn(&["get", &server.url("/files/large.bin")]).wait_at_most(5 * PATIENCE).expect(0);
    assert_sparse_copy(&target, size, &blocks, 2000, &mut rng);
    haul.nothing_left();
}

/// A staging copy keeps the holes of its source.
#[test]
fn a_staging_copy_keeps_holes() {
    use crate::support::proxy::{Proxy, Way};
    let size = 3 * GIB;
    let haul = Haul::new();
    let server = Server::haul(&haul.store(), &[]);
    let proxy = Proxy::slow(server.addr(), 4 * MIB);
    let source = haul.source("holes.bin");
    make_sparse(&source, size, &[GIB, 2 * GIB], 3);
    let (id, put) = haul.begin(&["put", "--stage", "copy", arg(&source), &proxy.url("/files/")]);
    proxy.until_bytes(Way::Up, MIB);
    let staged = haul.staged();
    assert_eq!(staged.len(), 1, "one staging copy: {staged:?}");
    let meta = fs::metadata(haul.session().join(&staged[0])).expect("stat the staging copy");
    assert_eq!(meta.len(), size);
    assert!(meta.blocks() * 512 < 64 * MIB, "the copy takes {} bytes of disk", meta.blocks() * 512);
    assert_eq!(meta.mode() & 0o777, 0o600, "the copy is private");
    haul.run(&["cancel", &id]).expect(0);
    put.wait().expect(1);
    haul.nothing_left();
}
