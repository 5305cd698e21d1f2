//! SIGKILL at random instants, each way.

use std::env;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::files::{KIB, MIB, assert_same, make};
use crate::support::haul::{Haul, arg, text};
use crate::support::process::Running;
use crate::support::proxy::{Proxy, Way};
use crate::support::seed::Rng;
use crate::support::servers::Server;
use crate::support::wait::until;

const SIZE: u64 = 64 * MIB;
const RATE: u64 = 32 * MIB;
/// What may travel again for each kill: what was on its way through sockets and the proxy, and one part.
const AGAIN: u64 = 2 * MIB;

fn kills_wanted() -> u32 {
    env::var("HAUL_TEST_KILLS").map_or(20, |text| text.parse().expect("HAUL_TEST_KILLS is a number"))
}

/// Lets `owner` run for a random while (by the clock, or until some bytes have gone) and kills it. False if it
/// had ended by itself.
fn kill_at_random(mut owner: Running, proxy: &Proxy, way: Way, rng: &mut Rng) -> bool {
    let (start, connections) = (Instant::now(), proxy.connections());
    // Counted from its own first connection: what an earlier owner left in the sockets still passes.
    let mut before = None;
    // An owner that has nothing to send is killed all the same, after a while.
    let by_clock = rng.below(3) == 0;
    let span = if by_clock { Duration::from_micros(rng.below(250_000)) } else { Duration::from_secs(3) };
    // Fewer bytes than the kills divide the file into, so that they land in one transfer.
    let bytes = rng.below(SIZE / u64::from(kills_wanted().max(20)));
    let due = until("the instant of a kill has come", || {
        let ended = owner.ended().is_some();
        let clock = start.elapsed() >= span;
        if before.is_none() && proxy.connections() > connections {
            before = Some(proxy.bytes(way));
        }
        let enough = before.is_some_and(|before| proxy.bytes(way) - before >= bytes);
        (ended || clock || enough).then_some(!ended)
    });
    if due && owner.ended().is_none() {
        owner.signal(crate::support::process::Signal::KILL);
        return owner.wait().code.is_none();
    }
    owner.wait();
    false
}

/// Who takes the session next: the kinds of owner that there are.
fn next_owner(haul: &Haul, proxy: &Proxy, rng: &mut Rng, extra: &Path) -> Running {
    match rng.below(4) {
        0 => haul.spawn(&["resume", "--all"]),
        1 => haul.spawn(&["put", arg(extra), &proxy.url("/files/")]),
        _ => haul.spawn(&["daemon"]),
    }
}

/// Kills owner after owner until the job has survived `kills_wanted`; then lets one finish.
fn survive(
    haul: &Haul,
    first: &[&str],
    proxy: &Proxy,
    way: Way,
    rng: &mut Rng,
    mut next: impl FnMut(&mut Rng) -> Running,
) -> Vec<String> {
    let mut ids = Vec::new();
    let mut killed = 0;
    while killed < kills_wanted() {
        let (id, owner) = haul.begin(first);
        ids.push(id.clone());
        let mut owner = Some(owner);
        while killed < kills_wanted() {
            let running = owner.take().unwrap_or_else(|| next(rng));
            if kill_at_random(running, proxy, way, rng) {
                killed += 1;
            } else if haul.show(&id).is_some_and(|job| text(&job, "state") == "completed") {
                break;
            }
        }
    }
    eprintln!("{killed} kills over {} transfers", ids.len());
    proxy.throttle(0);
    haul.finish(&ids.iter().map(String::as_str).collect::<Vec<_>>());
    ids
}

#[test]
fn an_upload_survives_kills() {
    let mut rng = Rng::for_test("an_upload_survives_kills");
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let proxy = Proxy::slow(server.addr(), RATE);
    let (source, extra) = (haul.source("data.bin"), haul.source("extra.bin"));
    make(&source, SIZE, rng.next());
    make(&extra, 3 * KIB, rng.next());
    let ids =
        survive(&haul, &["put", arg(&source), &proxy.url("/files/")], &proxy, Way::Up, &mut rng, |rng| {
            next_owner(&haul, &proxy, rng, &extra)
        });
    let whole = server.objects_of(SIZE);
    assert_eq!(whole.len(), ids.len(), "one object a job: {:?}", server.objects());
    for object in &whole {
        assert_same(object, &source);
    }
    let jobs = haul.jobs();
    assert!(jobs.iter().all(|job| text(job, "state") == "completed"), "{jobs:?}");
    let extras = jobs.len() - ids.len();
    assert_eq!(server.objects_of(3 * KIB).len(), extras, "one object for each further upload");
    let limit = SIZE * ids.len() as u64 + u64::from(kills_wanted()) * AGAIN;
    assert!(proxy.bytes(Way::Up) <= limit, "sent {} bytes for {} jobs", proxy.bytes(Way::Up), ids.len());
    haul.nothing_left();
}

#[test]
fn a_download_survives_kills() {
    let mut rng = Rng::for_test("a_download_survives_kills");
    let haul = Haul::new();
    let original = haul.store().join("data.bin");
    make(&original, SIZE, rng.next());
    let server = Server::nginx(&haul.store(), "");
    let proxy = Proxy::slow(server.addr(), RATE);
    let target = haul.out().join("copy.bin");
    let get = ["get", "--overwrite", &proxy.url("/data.bin"), "-o", arg(&target)];
    let ids = survive(&haul, &get, &proxy, Way::Down, &mut rng, |rng| match rng.below(3) {
        0 => haul.spawn(&["resume", "--all"]),
        _ => haul.spawn(&["daemon"]),
    });
    assert_same(&target, &original);
    let here: Vec<_> =
        fs::read_dir(haul.out()).expect("list").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(here, ["copy.bin"], "nothing but the file is there");
    let limit = SIZE * ids.len() as u64 + u64::from(kills_wanted()) * 2 * AGAIN;
    assert!(proxy.bytes(Way::Down) <= limit, "got {} bytes for {} jobs", proxy.bytes(Way::Down), ids.len());
    haul.nothing_left();
}

/// The receiver is killed instead, again and again: what it acknowledged it still has.
#[test]
fn an_upload_survives_kills_of_haul_serve() {
    let mut rng = Rng::for_test("an_upload_survives_kills_of_haul_serve");
    let haul = Haul::new();
    let mut server = Server::haul(&haul.store(), &[]);
    let proxy = Proxy::slow(server.addr(), RATE);
    let source = haul.source("data.bin");
    make(&source, SIZE / 2, rng.next());
    let (id, put) = haul.begin(&["put", "--attempts", "50", arg(&source), &proxy.url("/files/")]);
    for _ in 0..5 {
        let at = proxy.bytes(Way::Up) + MIB + rng.below(4 * MIB);
        proxy.until_bytes(Way::Up, at.min(SIZE / 2));
        server.restart();
    }
    put.wait().expect(0);
    let job = haul.show(&id).expect("the job is shown");
    assert_eq!(text(&job, "state"), "completed", "{job}");
    assert_same(&haul.store().join("data.bin"), &source);
    haul.nothing_left();
}

/// Both ends at once, many jobs: nothing is lost, nothing is there twice.
#[test]
fn many_jobs_survive_kills() {
    let mut rng = Rng::for_test("many_jobs_survive_kills");
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let proxy = Proxy::slow(server.addr(), RATE);
    let sources: Vec<_> = (0..30)
        .map(|number| {
            let source = haul.source(&format!("file-{number}"));
            // Far enough apart that an abandoned creation of one cannot pass for another by its length.
            make(&source, 100 * KIB + number * 1000, rng.next());
            source
        })
        .collect();
    let endpoint = proxy.url("/files/");
    let mut command = vec!["--json", "put"];
    command.extend(sources.iter().map(|path| arg(path)));
    command.push(&endpoint);
    let mut owner = haul.spawn(&command);
    // Each line of the first command is about an accepted job; only those are promised.
    owner.line("a job was accepted", |line| line.starts_with('{').then_some(()));
    for _ in 0..6 {
        kill_at_random(owner, &proxy, Way::Up, &mut rng);
        owner = haul.spawn(&["daemon"]);
    }
    owner.kill();
    proxy.throttle(0);
    let accepted = haul.jobs();
    assert!(!accepted.is_empty());
    let ids: Vec<_> = accepted.iter().map(crate::support::haul::id).collect();
    haul.finish(&ids.iter().map(String::as_str).collect::<Vec<_>>());
    for job in &accepted {
        let source = Path::new(text(job, "source")).to_owned();
        let size = fs::metadata(&source).expect("stat a source").len();
        assert_same(&server.only_object(size), &source);
    }
    haul.nothing_left();
}
