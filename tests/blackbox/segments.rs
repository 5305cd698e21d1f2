//! Downloads in segments, from one server or several. What comes of it is one version of the file, whole.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::support::files::{MIB, assert_same, make, sha256, tree};
use crate::support::haul::{Haul, arg, id, text};
use crate::support::killer::Killer;
use crate::support::proxy::{Act, Fault, Proxy, Way};
use crate::support::scripted::{Answer, Scripted};
use crate::support::seed::Rng;
use crate::support::servers::Server;

const SIZE: u64 = 64 * MIB + 4097;
const RATE: u64 = 16 * MIB;

struct Download {
    haul: Haul,
    original: PathBuf,
    target: PathBuf,
    rng: Rng,
}

fn download(name: &str, size: u64) -> Download {
    let mut rng = Rng::for_test(name);
    let haul = Haul::new();
    let original = haul.store().join("data.bin");
    make(&original, size, rng.next());
    made_at(&original, 1_000_000);
    let target = haul.out().join("copy.bin");
    Download { haul, original, target, rng }
}

/// nginx makes its entity tag of the length and this time.
fn made_at(path: &Path, seconds: u64) {
    let file = File::options().write(true).open(path).expect("open a file to set its time");
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).expect("set a file's time");
}

impl Download {
    #[track_caller]
    fn whole(&self) {
        assert_same(&self.target, &self.original);
        assert_eq!(tree(&self.haul.out()).len(), 1, "nothing but the file is there");
        self.haul.nothing_left();
    }

    /// A further directory of a server, with the file as `change` leaves it.
    fn mirror(&self, name: &str, change: impl FnOnce(&Path)) -> PathBuf {
        let dir = self.haul.dir().join(name);
        fs::create_dir(&dir).expect("a directory for a mirror");
        let copy = dir.join("data.bin");
        fs::copy(&self.original, &copy).expect("copy the file for a mirror");
        made_at(&copy, 1_000_000);
        change(&copy);
        dir
    }
}

/// A front that hands everything on, and remembers the requests.
fn watched(server: &Server) -> Scripted {
    Scripted::before(server.addr(), |_| Answer::Forward)
}

fn ranges(front: &Scripted) -> usize {
    front.seen().iter().filter(|request| request.header("range").is_some()).count()
}

#[test]
fn segments_side_by_side() {
    let download = download("segments::segments_side_by_side", SIZE);
    let server = Server::nginx(&download.haul.store(), "");
    let front = watched(&server);
    let last =
        download.haul.transfer(&["get", "-x", "4", &front.url("/data.bin"), "-o", arg(&download.target)], 0);
    assert_eq!((last["size"].as_u64(), last["done"].as_u64()), (Some(SIZE), Some(SIZE)), "{last}");
    assert!(ranges(&front) >= 3, "{:?}", front.seen());
    download.whole();
}

/// Small files and odd lengths: whatever the plan is, the bytes are the same.
#[test]
fn every_size_arrives() {
    let mut rng = Rng::for_test("segments::every_size_arrives");
    let haul = Haul::new();
    let server = Server::nginx(&haul.store(), "");
    for size in [0, 1, 5, MIB - 1, 8 * MIB, 8 * MIB + 1, rng.below(24 * MIB)] {
        let name = size.to_string();
        make(&haul.store().join(&name), size, rng.next());
        haul.run(&["get", "-x", "7", &server.url(&format!("/{name}"))]).expect(0);
        assert_same(&haul.out().join(&name), &haul.store().join(&name));
    }
    haul.nothing_left();
}

#[test]
fn segments_survive_kills() {
    const KILLS: u32 = 10;
    let mut download = download("segments::segments_survive_kills", SIZE);
    let server = Server::nginx(&download.haul.store(), "");
    let proxy = Proxy::slow(server.addr(), RATE);
    let (id, get) =
        download.haul.begin(&["get", "-x", "4", &proxy.url("/data.bin"), "-o", arg(&download.target)]);
    let killer = Killer { haul: &download.haul, proxy: &proxy, way: Way::Down, within: SIZE / 14 };
    killer.harass(&id, get, KILLS, &mut download.rng);
    // Up to half a second of the link is not on disk yet, and the sockets of four connections are full.
    let again = (RATE / 2).min(8 * MIB) + MIB / 2;
    let limit = SIZE + u64::from(KILLS) * again;
    assert!(proxy.bytes(Way::Down) <= limit, "{} bytes for {SIZE}", proxy.bytes(Way::Down));
    eprintln!("{} bytes came for {SIZE}", proxy.bytes(Way::Down));
    download.whole();
}

#[test]
fn segments_that_break_off_go_on() {
    let mut download = download("segments::segments_that_break_off_go_on", SIZE);
    let server = Server::nginx(&download.haul.store(), "");
    let proxy = Proxy::slow(server.addr(), 6 * RATE);
    for act in [Act::Fin, Act::Rst, Act::Fin] {
        proxy.arm(Fault { way: Way::Down, after: MIB + download.rng.below(SIZE * 3 / 4), act });
    }
    download.haul.run(&["get", "-x", "4", &proxy.url("/data.bin"), "-o", arg(&download.target)]).expect(0);
    assert!(proxy.bytes(Way::Down) < SIZE + 24 * MIB, "{} bytes came", proxy.bytes(Way::Down));
    download.whole();
}

/// Another version takes the file's place in the middle: the new one, whole, or none.
#[test]
fn a_file_that_is_replaced_is_never_mixed() {
    let mut download = download("segments::a_file_that_is_replaced_is_never_mixed", SIZE);
    let server = Server::nginx(&download.haul.store(), "");
    let proxy = Proxy::slow(server.addr(), 2 * RATE);
    let (_, get) =
        download.haul.begin(&["get", "-x", "4", &proxy.url("/data.bin"), "-o", arg(&download.target)]);
    proxy.until_bytes(Way::Down, MIB + download.rng.below(SIZE / 2));
    let next = download.haul.dir().join("next.bin");
    make(&next, SIZE, download.rng.next());
    fs::rename(&next, &download.original).expect("replace the file at the server");
    // What is under way is the old file; everything asked from here on is the new one.
    proxy.refuse(true);
    proxy.throttle(0);
    proxy.refuse(false);
    get.wait().expect(0);
    download.whole();
}

#[test]
fn a_server_without_ranges() {
    let download = download("segments::a_server_without_ranges", SIZE / 4);
    let server = Server::nginx(&download.haul.store(), "max_ranges 0;");
    let front = watched(&server);
    download.haul.run(&["get", "-x", "4", &front.url("/data.bin"), "-o", arg(&download.target)]).expect(0);
    download.whole();
}

/// Mirrors with the file's entity tag help; one with another tag has another file, whatever its length.
#[test]
fn only_equal_mirrors_are_used() {
    let download = download("segments::only_equal_mirrors_are_used", SIZE);
    let equal = download.mirror("equal", |_| {});
    let other = download.mirror("other", |copy| {
        make(copy, SIZE, 99);
        made_at(copy, 2_000_000);
    });
    let servers = [&download.haul.store(), &equal, &other].map(|dir| Server::nginx(dir, ""));
    // So that the primary alone would take long, and has need of them.
    let primary = Proxy::slow(servers[0].addr(), RATE);
    let (equal, other) = (Proxy::slow(servers[1].addr(), RATE), Proxy::slow(servers[2].addr(), RATE));
    let (equal_url, other_url) = (equal.url("/data.bin"), other.url("/data.bin"));
    let mirrors = ["--mirror", &other_url, "--mirror", &equal_url];
    let url = primary.url("/data.bin");
    let get = [&["get", "-x", "6"], &mirrors[..], &[&url, "-o", arg(&download.target)]].concat();
    let last = download.haul.transfer(&get, 0);
    let log = download.haul.log(&id(&last));
    assert!(equal.bytes(Way::Down) > MIB, "the equal mirror gave {} bytes\n{log}", equal.bytes(Way::Down));
    assert!(other.bytes(Way::Down) < 8 * MIB, "the other gave {} bytes\n{log}", other.bytes(Way::Down));
    download.whole();
}

/// A mirror that lies, with the file's own entity tag: a digest finds it out, and the primary alone makes it good.
#[test]
fn a_lying_mirror_is_found_out_by_a_digest() {
    let download = download("segments::a_lying_mirror_is_found_out_by_a_digest", SIZE / 2);
    let lying = download.mirror("lying", |copy| {
        make(copy, SIZE / 2, 99);
        made_at(copy, 1_000_000);
    });
    let (server, liar) = (Server::nginx(&download.haul.store(), ""), Server::nginx(&lying, ""));
    let primary = Proxy::slow(server.addr(), RATE);
    let front = watched(&liar);
    let digest = format!("sha256:{}", sha256(&download.original));
    let mirror = front.url("/data.bin");
    let url = primary.url("/data.bin");
    let get =
        ["get", "-x", "4", "--checksum", &digest, "--mirror", &mirror, &url, "-o", arg(&download.target)];
    let (id, running) = download.haul.begin(&get);
    crate::support::wait::until("the mirror is asked", || (!front.seen().is_empty()).then_some(()));
    primary.throttle(0);
    running.wait().expect(0);
    let job = download.haul.show(&id).expect("the job is shown");
    assert_eq!(text(&job, "state"), "completed", "{job}");
    download.whole();
}

#[test]
fn a_mirror_takes_over_from_a_primary_that_dies() {
    let mut download = download("segments::a_mirror_takes_over", SIZE);
    let equal = download.mirror("equal", |_| {});
    let (mut server, mirror) = (Server::nginx(&download.haul.store(), ""), Server::nginx(&equal, ""));
    let (primary, second) = (Proxy::slow(server.addr(), RATE), Proxy::slow(mirror.addr(), RATE / 4));
    let mirror_url = second.url("/data.bin");
    let url = primary.url("/data.bin");
    let (_, get) =
        download.haul.begin(&["get", "-x", "4", "--mirror", &mirror_url, &url, "-o", arg(&download.target)]);
    primary.until_bytes(Way::Down, MIB + download.rng.below(SIZE / 3));
    server.kill();
    primary.refuse(true);
    second.throttle(0);
    get.wait().expect(0);
    assert!(second.bytes(Way::Down) > SIZE / 4, "the mirror gave {} bytes", second.bytes(Way::Down));
    download.whole();
}

/// Dead from the start: the mirror is asked for the whole.
#[test]
fn a_mirror_stands_in_for_a_dead_primary() {
    let download = download("segments::a_mirror_stands_in_for_a_dead_primary", SIZE / 4);
    let equal = download.mirror("equal", |_| {});
    let (mut server, mirror) = (Server::nginx(&download.haul.store(), ""), Server::nginx(&equal, ""));
    server.kill();
    let mirror_url = mirror.url("/data.bin");
    let get =
        ["get", "-x", "3", "--mirror", &mirror_url, &server.url("/data.bin"), "-o", arg(&download.target)];
    download.haul.run(&get).expect(0);
    download.whole();
}

/// The server refuses what is more than one connection; the lanes that it refuses are given up, not the job.
#[test]
fn a_server_that_allows_one_connection() {
    let download = download("segments::a_server_that_allows_one_connection", SIZE);
    let server = Server::nginx(&download.haul.store(), "limit_conn client 1;");
    let proxy = Proxy::slow(server.addr(), 4 * RATE);
    download.haul.run(&["get", "-x", "4", &proxy.url("/data.bin"), "-o", arg(&download.target)]).expect(0);
    assert!(proxy.bytes(Way::Down) < SIZE + SIZE / 4, "{} bytes came", proxy.bytes(Way::Down));
    download.whole();
}
