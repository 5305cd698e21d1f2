//! Uploads in parallel parts (tus concatenation), to a server that joins them and to one that does not.

use std::path::PathBuf;

use crate::support::files::{MIB, Untouched, assert_same, make};
use crate::support::haul::{Haul, arg, id, text};
use crate::support::killer::Killer;
use crate::support::proxy::{Act, Fault, Proxy, Way};
use crate::support::seed::Rng;
use crate::support::servers::Server;
use crate::support::wait::until;

const SIZE: u64 = 64 * MIB + 1001;
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
    let server = Server::tus_python(&haul.store());
    let source = haul.source("data.bin");
    make(&source, SIZE, rng.next());
    Upload { haul, server, source, rng }
}

impl Upload {
    /// One whole object, and no byte of a part.
    #[track_caller]
    fn only_the_whole(&self) {
        assert_same(&self.server.only_object(SIZE), &self.source);
        assert_eq!(self.server.stored(), SIZE, "parts are left: {:?}", self.server.objects());
        self.haul.nothing_left();
    }
}

#[test]
fn parts_side_by_side_are_joined() {
    let upload = upload("concat::parts_side_by_side_are_joined");
    let Upload { haul, server, source, .. } = &upload;
    let before = Untouched::of(source);
    let proxy = Proxy::to(server.addr());
    let put = ["put", "--protocol", "tus", "-P", "4", arg(source), &proxy.url("/files")];
    let last = haul.transfer(&put, 0);
    assert_eq!((last["size"].as_u64(), last["done"].as_u64()), (Some(SIZE), Some(SIZE)), "{last}");
    let log = haul.log(&id(&last));
    assert!(log.contains("4 parts side by side"), "{log}");
    assert!(proxy.connections() >= 4, "{} connections", proxy.connections());
    assert!(proxy.bytes(Way::Up) < SIZE + MIB, "{} bytes were sent", proxy.bytes(Way::Up));
    upload.only_the_whole();
    assert_eq!(server.objects().len(), 1, "nothing but the object: {:?}", server.objects());
    before.check();
}

/// What `auto` makes of a server that speaks tus.
#[test]
fn auto_sends_in_parts_too() {
    let upload = upload("concat::auto_sends_in_parts_too");
    let Upload { haul, server, source, .. } = &upload;
    let last = haul.transfer(&["put", "--parallel", "3", arg(source), &server.url("/files")], 0);
    let log = haul.log(&id(&last));
    assert!(log.contains("3 parts side by side"), "{log}");
    upload.only_the_whole();
}

#[test]
fn parts_survive_kills() {
    let mut upload = upload("concat::parts_survive_kills");
    let Upload { haul, server, source, rng } = &mut upload;
    let proxy = Proxy::slow(server.addr(), RATE);
    let (id, put) = haul.begin(&["put", "--protocol", "tus", "-P", "4", arg(source), &proxy.url("/files")]);
    // Together less than the file, so that the last kill still finds parts on their way.
    let killer = Killer { haul, proxy: &proxy, way: Way::Up, within: SIZE / 12 };
    killer.harass(&id, put, 10, rng);
    upload.only_the_whole();
}

#[test]
fn parts_that_break_off_go_on() {
    let mut upload = upload("concat::parts_that_break_off_go_on");
    let Upload { haul, server, source, rng } = &mut upload;
    let proxy = Proxy::slow(server.addr(), 4 * RATE);
    for act in [Act::Fin, Act::Rst] {
        proxy.arm(Fault { way: Way::Up, after: MIB + rng.below(SIZE * 3 / 4), act });
    }
    haul.run(&["put", "--protocol", "tus", "-P", "4", arg(source), &proxy.url("/files")]).expect(0);
    assert!(proxy.bytes(Way::Up) < SIZE + SIZE / 2, "{} bytes were sent", proxy.bytes(Way::Up));
    upload.only_the_whole();
}

#[test]
fn paused_parts_go_on() {
    let mut upload = upload("concat::paused_parts_go_on");
    let Upload { haul, server, source, rng } = &mut upload;
    let proxy = Proxy::slow(server.addr(), RATE);
    let daemon = haul.daemon();
    let id = haul.detach_one(&["put", "--protocol", "tus", "-P", "4", arg(source), &proxy.url("/files")]);
    let mut at = 0;
    for _ in 0..2 {
        at += MIB + rng.below(SIZE / 4);
        proxy.until_bytes(Way::Up, at);
        haul.run(&["pause", &id]).expect(0);
        haul.until_state(&id, &["suspended"]);
        haul.run(&["resume", "--detach", &id]).expect(0);
    }
    proxy.throttle(0);
    haul.until_state(&id, &["completed"]);
    daemon.terminate().expect(0);
    upload.only_the_whole();
}

#[test]
fn cancelled_parts_are_freed() {
    let mut upload = upload("concat::cancelled_parts_are_freed");
    let Upload { haul, server, source, rng } = &mut upload;
    let proxy = Proxy::slow(server.addr(), RATE);
    let (id, put) = haul.begin(&["put", "--protocol", "tus", "-P", "4", arg(source), &proxy.url("/files")]);
    proxy.until_bytes(Way::Up, MIB + rng.below(SIZE / 4));
    assert!(server.objects().len() >= 2, "several parts are at the server: {:?}", server.objects());
    haul.run(&["cancel", &id]).expect(0);
    put.wait().expect(1);
    until("nothing is at the server", || server.objects().is_empty().then_some(()));
    let job = haul.show(&id).expect("the job is shown");
    assert!(job["leftover"].is_null(), "{job}");
    haul.nothing_left();
}

#[test]
fn a_server_that_joins_nothing_gets_one_stream() {
    let mut rng = Rng::for_test("concat::a_server_that_joins_nothing_gets_one_stream");
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let source = haul.source("data.bin");
    make(&source, SIZE / 4, rng.next());
    for options in [&["--protocol", "tus"][..], &[]] {
        let url = server.url("/files/");
        let put = [&["put", "-P", "4"], options, &[arg(&source), &url]].concat();
        let last = haul.transfer(&put, 0);
        let log = haul.log(&id(&last));
        assert!(log.contains("one stream: the server joins no parts"), "{log}");
        assert_eq!(text(&last, "state"), "completed", "{last}");
    }
    let objects = server.objects();
    assert_eq!(objects.len(), 2, "an object for each job: {objects:?}");
    for object in &objects {
        assert_same(object, &source);
    }
    haul.nothing_left();
}
