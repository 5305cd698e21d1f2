//! The edges of HTTP: old and odd servers, redirects, long URLs, credentials, proxies, TLS, rates and no network.

use std::fs::{self, Permissions};
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::support::certs::Certs;
use crate::support::files::{KIB, MIB, Untouched, assert_same, make, sha256, tree};
use crate::support::haul::{Haul, arg, cause, text};
use crate::support::proxy::{Proxy, Way};
use crate::support::scripted::{Answer, Reply, Scripted};
use crate::support::seed::Rng;
use crate::support::servers::{Server, free_port, write_secret};
use crate::support::wait::{until_seldom, within};

const SIZE: u64 = 3 * MIB + 11;

struct Setup {
    haul: Haul,
    /// In the store.
    original: PathBuf,
    source: PathBuf,
    target: PathBuf,
}

fn setup(name: &str) -> Setup {
    let mut rng = Rng::for_test(name);
    let haul = Haul::new();
    let (original, source) = (haul.store().join("data.bin"), haul.source("source.bin"));
    make(&original, SIZE, rng.next());
    make(&source, SIZE, rng.next());
    let target = haul.out().join("copy.bin");
    Setup { haul, original, source, target }
}

impl Setup {
    #[track_caller]
    fn got(&self) {
        assert_same(&self.target, &self.original);
        assert_eq!(tree(&self.haul.out()).len(), 1, "nothing but the file is there");
        fs::remove_file(&self.target).expect("remove the download");
        self.haul.nothing_left();
    }

    #[track_caller]
    fn sent(&self, name: &str) {
        let object = self.haul.store().join(name);
        assert_same(&object, &self.source);
        fs::remove_file(object).expect("remove the object");
        self.haul.nothing_left();
    }
}

/// An answer in raw bytes, whose body is the setup's file.
fn raw(setup: &Setup, head: &str, body: impl FnOnce(&[u8]) -> Vec<u8>) -> Scripted {
    let bytes = fs::read(&setup.original).expect("read the file");
    let head = format!("{head}\r\n\r\n");
    let (alone, whole) = (head.clone().into_bytes(), [head.into_bytes(), body(&bytes)].concat());
    Scripted::alone(move |request| {
        Answer::Raw(if request.method == "HEAD" { alone.clone() } else { whole.clone() })
    })
}

fn chunked(bytes: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    for chunk in bytes.chunks(70_001) {
        all.extend(format!("{:x};ext=1\r\n", chunk.len()).into_bytes());
        all.extend(chunk);
        all.extend(b"\r\n");
    }
    all.extend(b"0\r\nX-Trailer: 1\r\n\r\n");
    all
}

#[test]
fn answers_of_every_framing() {
    let setup = setup("edges::answers_of_every_framing");
    let servers = [
        (
            "HTTP/1.0 with a length",
            raw(&setup, &format!("HTTP/1.0 200 OK\r\nContent-Length: {SIZE}"), <[u8]>::to_vec),
        ),
        ("chunked", raw(&setup, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", chunked)),
        (
            "a close unannounced",
            raw(&setup, &format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}"), <[u8]>::to_vec),
        ),
    ];
    for (what, server) in &servers {
        for options in [&[][..], &["-x", "4"]] {
            eprintln!("{what} {options:?}");
            let url = server.url("/data.bin");
            let get = [&["get"], options, &[&url, "-o", arg(&setup.target)]].concat();
            setup.haul.run(&get).expect(0);
            setup.got();
        }
    }
}

/// A body that ends with the connection may be half a body: it is the file only where a digest says so.
#[test]
fn answers_without_a_length_need_a_digest() {
    let setup = setup("edges::answers_without_a_length_need_a_digest");
    let digest = format!("sha256:{}", sha256(&setup.original));
    let bytes = fs::read(&setup.original).expect("read the file");
    let plain = raw(&setup, "HTTP/1.0 200 OK", <[u8]>::to_vec);
    let closing = raw(&setup, "HTTP/1.1 200 OK\r\nConnection: close", <[u8]>::to_vec);
    let headless = Scripted::alone(move |request| match request.method.as_str() {
        "HEAD" => Reply::new(405).into(),
        _ => Answer::Raw([b"HTTP/1.0 200 OK\r\n\r\n", bytes.as_slice()].concat()),
    });
    for server in [plain, closing, headless] {
        let url = server.url("/data.bin");
        for options in [&[][..], &["-x", "4"]] {
            let get = [&["get"], options, &[&url, "-o", arg(&setup.target)]].concat();
            let last = setup.haul.transfer(&get, 3);
            assert_eq!((text(&last, "state"), cause(&last)), ("failed", Some("outcome-unknown")), "{last}");
            assert!(!setup.target.exists(), "{last}");
            setup.haul.nothing_left();
            setup.haul.run(&[&get[..], &["--checksum", &digest]].concat()).expect(0);
            setup.got();
        }
    }
}

/// Half of a chunked answer is not the file, however the connection ends.
#[test]
fn a_chunked_answer_without_its_end_is_not_whole() {
    let setup = setup("edges::a_chunked_answer_without_its_end");
    let server = raw(&setup, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", |bytes| {
        let mut all = chunked(bytes);
        all.truncate(all.len() / 2);
        all
    });
    let (id, get) = setup.haul.begin(&["get", &server.url("/data.bin"), "-o", arg(&setup.target)]);
    until_seldom("it was tried again", || (server.count("GET") >= 3).then_some(()));
    assert!(!setup.target.exists(), "half a file has the destination's name");
    setup.haul.run(&["cancel", &id]).expect(0);
    get.wait().expect(1);
    assert!(!setup.target.exists());
    setup.haul.nothing_left();
}

/// Every connection is closed after its answer, which does not say so: a request that was sent into the close is
/// made again.
#[test]
fn connections_that_are_cut_between_requests() {
    let setup = setup("edges::connections_that_are_cut_between_requests");
    let dav = Server::nginx_dav(&setup.haul.store());
    let front = Scripted::before(dav.addr(), |_| Answer::ForwardAndClose);
    for options in [&["--protocol", "put"][..], &[]] {
        let url = front.url("/sent.bin");
        let put = [&["put"], options, &[arg(&setup.source), &url]].concat();
        let last = setup.haul.transfer(&put, 0);
        assert!(last["attempts"].as_u64() <= Some(2), "{last}");
        setup.sent("sent.bin");
    }
    let last = setup.haul.transfer(&["get", "-x", "3", &front.url("/data.bin"), "-o", arg(&setup.target)], 0);
    assert!(last["attempts"].as_u64() <= Some(2), "{last}");
    setup.got();

    let tus = Server::tus_node(&setup.haul.dir().join("tus"));
    let front = Scripted::before(tus.addr(), |_| Answer::ForwardAndClose);
    let last = setup.haul.transfer(&["put", arg(&setup.source), &front.url("/files/")], 0);
    assert!(text(&last, "protocol") == "tus" && last["attempts"].as_u64() <= Some(2), "{last}");
    assert_same(&tus.only_object(SIZE), &setup.source);
}

#[test]
fn ipv6_both_ways() {
    let setup = setup("edges::ipv6_both_ways");
    let port = free_port().port();
    let directives =
        format!("listen [::1]:{port}; dav_methods PUT; create_full_put_path on; client_max_body_size 0;");
    let _server = Server::nginx(&setup.haul.store(), &directives);
    let url = |path: &str| format!("http://[::1]:{port}{path}");
    setup.haul.run(&["put", arg(&setup.source), &url("/sent.bin")]).expect(0);
    setup.sent("sent.bin");
    setup.haul.run(&["get", &url("/data.bin"), "-o", arg(&setup.target)]).expect(0);
    setup.got();
}

const HEADERS: [&str; 8] = [
    "-u",
    "name:pass word",
    "-H",
    "X-Custom: custom-canary",
    "-H",
    "PRIVATE-TOKEN: token-canary",
    "--secret-header",
    "X-Hidden: hidden-canary",
];

/// Which of the secrets a server's requests have shown.
fn canaries(server: &Scripted) -> Vec<String> {
    let mut found: Vec<_> = server.seen().iter().flat_map(|request| request.headers.clone()).collect();
    found.retain(|(name, value)| name == "authorization" || value.contains("canary") || name == "cookie");
    found.into_iter().map(|(name, _)| name).collect()
}

/// A front that sends every request elsewhere.
fn redirecting(status: u16, to: String) -> Scripted {
    Scripted::alone(move |request| {
        Reply::new(status).header("Location", format!("{to}{}", request.target)).into()
    })
}

#[test]
fn secrets_stay_with_the_origin_they_are_for() {
    let setup = setup("edges::secrets_stay_with_the_origin_they_are_for");
    let server = Server::nginx_dav(&setup.haul.store());
    for status in [301, 302, 303, 307, 308] {
        let other = Scripted::before(server.addr(), |_| Answer::Forward);
        let front = redirecting(status, other.url(""));
        let get = ["get", &front.url("/data.bin"), "-o", arg(&setup.target)];
        setup.haul.run(&[&get[..], &HEADERS].concat()).expect(0);
        setup.got();
        assert_eq!(canaries(&front).len(), 4, "{status}: {:?}", front.seen());
        assert!(!other.seen().is_empty() && canaries(&other).is_empty(), "{status}: {:?}", canaries(&other));
    }
    for status in [307, 308] {
        let other = Scripted::before(server.addr(), |_| Answer::Forward);
        let front = redirecting(status, other.url(""));
        let put = ["put", "--protocol", "put", arg(&setup.source), &front.url("/sent.bin")];
        setup.haul.run(&[&put[..], &HEADERS].concat()).expect(0);
        setup.sent("sent.bin");
        assert_eq!(other.count("PUT"), 1, "{status}: {:?}", other.seen());
        assert!(canaries(&other).is_empty(), "{status}: {:?}", canaries(&other));
    }
    // What would make a GET of it is no way to send a file.
    for status in [301, 302, 303] {
        let other = Scripted::before(server.addr(), |_| Answer::Forward);
        let front = Scripted::alone({
            let to = other.url("/sent.bin");
            move |request| match request.method.as_str() {
                "PUT" => Reply::new(status).header("Location", &to).into(),
                _ => Reply::new(404).into(),
            }
        });
        let put = ["put", "--protocol", "put", arg(&setup.source), &front.url("/sent.bin")];
        setup.haul.run(&[&put[..], &HEADERS].concat()).expect(1);
        assert!(other.seen().is_empty(), "{status}: {:?}", other.seen());
    }
}

#[test]
fn secrets_go_along_at_the_same_origin() {
    let setup = setup("edges::secrets_go_along_at_the_same_origin");
    let server = Server::nginx_dav(&setup.haul.store());
    for status in [302, 307, 308] {
        let front =
            Scripted::before(server.addr(), move |request| match request.target.strip_prefix("/old") {
                Some(path) => Reply::new(status).header("Location", path).into(),
                None => Answer::Forward,
            });
        let get = ["get", &front.url("/old/data.bin"), "-o", arg(&setup.target)];
        setup.haul.run(&[&get[..], &HEADERS].concat()).expect(0);
        setup.got();
        assert_eq!(canaries(&front).len(), 4 * front.seen().len(), "{status}: {:?}", front.seen());
    }
}

/// URLs of 10,000 characters, as signed ones can be.
#[test]
fn long_urls() {
    let setup = setup("edges::long_urls");
    let server = Server::nginx_dav(&setup.haul.store());
    let long = |path: &str| format!("{path}?signature={}", "s".repeat(10_000));
    setup.haul.run(&["get", &server.url(&long("/data.bin")), "-o", arg(&setup.target)]).expect(0);
    setup.got();
    setup.haul.run(&["put", arg(&setup.source), &server.url(&long("/sent.bin"))]).expect(0);
    setup.sent("sent.bin");
    // And through a restart.
    let proxy = Proxy::slow(server.addr(), MIB);
    let (id, get) = setup.haul.begin(&["get", &proxy.url(&long("/data.bin")), "-o", arg(&setup.target)]);
    proxy.until_bytes(Way::Down, 300 * KIB);
    get.kill();
    proxy.throttle(0);
    let listing = setup.haul.run(&["ls"]).expect(0).stdout;
    assert!(listing.lines().count() >= 2 && !listing.contains("ssssssss"), "{listing}");
    setup.haul.run(&["show", &id]).expect(0);
    setup.haul.run(&["resume", &id]).expect(0);
    setup.got();
}

/// What comes to stand at the destination while the download runs is not replaced.
#[test]
fn a_destination_that_appears_stays() {
    let setup = setup("edges::a_destination_that_appears_stays");
    let server = Server::nginx(&setup.haul.store(), "");
    let proxy = Proxy::slow(server.addr(), 4 * MIB);
    let (_, get) = setup.haul.begin(&["get", &proxy.url("/data.bin"), "-o", arg(&setup.target)]);
    proxy.until_bytes(Way::Down, MIB);
    fs::write(&setup.target, "mine").expect("write the destination");
    let done = get.wait();
    assert_ne!(done.code, Some(0), "{done:?}");
    assert_eq!(fs::read(&setup.target).expect("read the destination"), b"mine");
    setup.haul.run(&["cancel", "--all"]);
    setup.haul.nothing_left();
}

/// A link is followed for its bytes, and keeps its name.
#[test]
fn links_as_sources() {
    let setup = setup("edges::links_as_sources");
    let server = Server::nginx_dav(&setup.haul.store());
    let (soft, hard) = (setup.haul.source("soft.bin"), setup.haul.source("hard.bin"));
    fs::hard_link(&setup.source, &hard).expect("a hard link");
    symlink("source.bin", &soft).expect("a symbolic link");
    let before = Untouched::of(&setup.source);
    for stage in ["auto", "copy", "none"] {
        for (link, name) in [(&soft, "soft.bin"), (&hard, "hard.bin")] {
            setup.haul.run(&["put", "--stage", stage, arg(link), &server.url("/")]).expect(0);
            setup.sent(name);
        }
    }
    // Two links to files of one name: each goes under its own.
    let (other, second) = (setup.haul.source("dir/source.bin"), setup.haul.source("second.bin"));
    fs::create_dir(setup.haul.source("dir")).expect("a directory");
    fs::write(&other, "other").expect("write a source");
    symlink("dir/source.bin", &second).expect("a symbolic link");
    setup.haul.run(&["put", arg(&soft), arg(&second), &server.url("/")]).expect(0);
    setup.sent("soft.bin");
    assert_same(&setup.haul.store().join("second.bin"), &other);
    before.check();
    assert!(fs::symlink_metadata(&soft).expect("stat the link").is_symlink());
    assert_eq!(fs::read_link(&soft).expect("read the link"), PathBuf::from("source.bin"));
}

/// Each way to give credentials and headers, byte for byte as the server sees them.
#[test]
fn credentials_and_headers_arrive_as_given() {
    let setup = setup("edges::credentials_and_headers_arrive_as_given");
    let server = Server::nginx_dav(&setup.haul.store());
    let netrc = setup.haul.dir().join("netrc");
    write_secret(
        &netrc,
        "machine other.invalid login no password no\nmachine 127.0.0.1\n login n\n password p#1\n",
    );
    let home = setup.haul.dir().join("home/.netrc");
    write_secret(&home, "default login d password e\n");
    let cases: [(&[&str], &str, &str); 8] = [
        (&["-u", "name:pass: word"], "authorization", "Basic bmFtZTpwYXNzOiB3b3Jk"),
        (&["-u", "ü:é"], "authorization", "Basic w7w6w6k="),
        (&["--netrc-file", arg(&netrc)], "authorization", "Basic bjpwIzE="),
        (&["--netrc"], "authorization", "Basic ZDpl"),
        (&["-H", "X-One: a  b;c=\"d\"", "-H", "X-Two: 2"], "x-one", "a  b;c=\"d\""),
        (&["-H", "X-Empty;"], "x-empty", ""),
        (&["-H", "Authorization: Custom abc"], "authorization", "Custom abc"),
        (&["-A", "Agent/1 (test)"], "user-agent", "Agent/1 (test)"),
    ];
    for (options, name, value) in cases {
        let front = Scripted::before(server.addr(), |_| Answer::Forward);
        let put = ["put", arg(&setup.source), &front.url("/sent.bin")];
        setup.haul.run(&[&put[..], options].concat()).expect(0);
        setup.sent("sent.bin");
        let get = ["get", &front.url("/data.bin"), "-o", arg(&setup.target)];
        setup.haul.run(&[&get[..], options].concat()).expect(0);
        setup.got();
        for request in front.seen() {
            assert_eq!(request.header(name), Some(value), "{options:?}: {request:?}");
        }
    }
}

/// Through a proxy that is given the whole URL; the name is for it to resolve.
#[test]
fn through_a_proxy() {
    let setup = setup("edges::through_a_proxy");
    let server = Server::nginx_dav(&setup.haul.store());
    let proxy = Scripted::before(server.addr(), |_| Answer::Forward);
    let (via, user) = (proxy.url(""), ["-U", "name:pass"]);
    let get = ["get", "http://nowhere.invalid/data.bin", "-o", arg(&setup.target), "--proxy", &via];
    setup.haul.run(&[&get[..], &user].concat()).expect(0);
    setup.got();
    let put = ["put", arg(&setup.source), "http://nowhere.invalid/sent.bin", "--proxy", &via];
    setup.haul.run(&[&put[..], &user].concat()).expect(0);
    setup.sent("sent.bin");
    for request in proxy.seen() {
        assert!(request.target.starts_with("http://nowhere.invalid/"), "{request:?}");
        assert_eq!(request.header("proxy-authorization"), Some("Basic bmFtZTpwYXNz"), "{request:?}");
    }
}

/// TLS goes through CONNECT, and the server's certificate is still checked.
#[test]
fn through_a_tunnel() {
    let setup = setup("edges::through_a_tunnel");
    let certs = Certs::new();
    let (_server, tls) = Server::nginx_tls(&setup.haul.store(), &certs, "");
    let proxy = Scripted::before(tls, |request| match request.method.as_str() {
        "CONNECT" => Answer::Tunnel,
        _ => Reply::new(405).into(),
    });
    let ca = certs.path("ca.pem");
    let url = "https://localhost:1/data.bin";
    let get = ["get", url, "-o", arg(&setup.target), "--proxy", &proxy.url(""), "--cacert", arg(&ca)];
    setup.haul.run(&[&get[..], &["-H", "X-Custom: canary"]].concat()).expect(0);
    setup.got();
    assert!(
        proxy.seen().iter().all(|r| r.method == "CONNECT" && r.target == "localhost:1"),
        "{:?}",
        proxy.seen()
    );
    assert!(canaries(&proxy).is_empty(), "the proxy saw what is for the server: {:?}", proxy.seen());
}

#[test]
fn certificates_are_checked() {
    let setup = setup("edges::certificates_are_checked");
    let (certs, other) = (Certs::new(), Certs::new());
    // A request in clear to the port for TLS would get the file.
    let (_server, tls) = Server::nginx_tls(&setup.haul.store(), &certs, "error_page 497 =200 $uri;");
    let url = format!("https://{tls}/data.bin");
    let get = ["get", &url, "-o", arg(&setup.target), "--attempts", "2"];
    let (ca, wrong) = (certs.path("ca.pem"), other.path("ca.pem"));
    for options in [&[][..], &["--cacert", arg(&wrong)]] {
        let done = setup.haul.run(&[&get[..], options].concat());
        assert!(matches!(done.code, Some(1 | 4)), "{options:?}: {done:?}");
        assert!(done.stdout.contains("certificate"), "{options:?}: {done:?}");
        assert!(!setup.target.exists(), "{options:?}: an unknown server was believed");
    }
    setup.haul.run(&["cancel", "--all"]);
    for options in [&["--cacert", arg(&ca)][..], &["-k"]] {
        setup.haul.run(&[&get[..], options].concat()).expect(0);
        setup.got();
    }
}

/// A server that does not speak TLS at a URL that says so: nothing is ever sent to it in clear.
#[test]
fn nothing_goes_in_clear_where_tls_was_asked_for() {
    let setup = setup("edges::nothing_goes_in_clear");
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback port");
    let addr = listener.local_addr().expect("its address");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&heard);
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut first = [0; 16];
            if let Ok(n @ 1..) = client.read(&mut first) {
                sink.lock().expect("no panic").push(first[..n].to_vec());
            }
        }
    });
    let url = format!("https://{addr}/data.bin");
    let get = ["get", &url, "-k", "-o", arg(&setup.target), "--attempts", "3", "-u", "name:pass"];
    let done = setup.haul.run(&get);
    assert!(matches!(done.code, Some(1 | 4)), "{done:?}");
    let heard = heard.lock().expect("no panic");
    // A TLS record: handshake, version 3.x.
    assert!(!heard.is_empty() && heard.iter().all(|first| first.starts_with(&[0x16, 3])), "{heard:?}");
    assert!(!setup.target.exists());
}

#[test]
fn client_certificates_open_a_server() {
    let setup = setup("edges::client_certificates_open_a_server");
    let (certs, other) = (Certs::new(), Certs::new());
    let directives = format!(
        "dav_methods PUT; client_max_body_size 0; ssl_client_certificate {}; ssl_verify_client on;",
        certs.path("ca.pem").display()
    );
    let (_server, tls) = Server::nginx_tls(&setup.haul.store(), &certs, &directives);
    let (ca, cert, key) = (certs.path("ca.pem"), certs.path("client.pem"), certs.path("client.key"));
    let (both, stranger) = (certs.path("client-both.pem"), other.path("client-both.pem"));
    for path in [&key, &both, &stranger] {
        fs::set_permissions(path, Permissions::from_mode(0o600)).expect("protect a key");
    }
    let url = format!("https://{tls}/data.bin");
    let get = ["get", &url, "-o", arg(&setup.target), "--cacert", arg(&ca)];
    for options in [&[][..], &["--cert", arg(&stranger), "--attempts", "2"]] {
        let done = setup.haul.run(&[&get[..], options].concat());
        assert!(matches!(done.code, Some(1 | 4)), "{options:?}: {done:?}");
        assert!(!setup.target.exists());
    }
    setup.haul.run(&["cancel", "--all"]);
    for options in [&["--cert", arg(&cert), "--cert-key", arg(&key)][..], &["--cert", arg(&both)]] {
        setup.haul.run(&[&get[..], options].concat()).expect(0);
        setup.got();
        let put = ["put", arg(&setup.source), &format!("https://{tls}/sent.bin"), "--cacert", arg(&ca)];
        setup.haul.run(&[&put[..], options].concat()).expect(0);
        setup.sent("sent.bin");
    }
}

/// A rate is an upper bound, both ways, from the first second on.
#[test]
fn a_rate_is_not_exceeded() {
    const RATE: u64 = MIB;
    const SECONDS: u64 = 5;
    let mut rng = Rng::for_test("edges::a_rate_is_not_exceeded");
    let haul = Haul::new();
    let (original, source) = (haul.store().join("data.bin"), haul.source("source.bin"));
    make(&original, 32 * MIB, rng.next());
    make(&source, 32 * MIB, rng.next());
    let server = Server::nginx_dav(&haul.store());
    let (up, down) = (Proxy::to(server.addr()), Proxy::to(server.addr()));
    let daemon = haul.daemon();
    let target = haul.out().join("copy.bin");
    let id = haul.detach_one(&["get", "--limit-rate", "1MiB", &down.url("/data.bin"), "-o", arg(&target)]);
    haul.detach_one(&["put", "--limit-rate", "1MiB", arg(&source), &up.url("/sent.bin")]);
    // From the first answers on.
    down.until_bytes(Way::Down, 1);
    up.until_bytes(Way::Down, 1);
    let _ = within(Duration::from_secs(SECONDS), Duration::from_millis(50), || None::<()>);
    let most = RATE * SECONDS * 6 / 5;
    let sent = up.bytes(Way::Up);
    // Not at the proxy: what the kernel takes in ahead of `haul` has gone through there.
    let got = haul.show(&id).and_then(|job| job["done"].as_u64()).expect("the job is shown");
    assert!(sent > 0 && sent <= most, "{sent} bytes were sent in {SECONDS} s");
    assert!(got > 0 && got <= most, "{got} bytes came in {SECONDS} s");
    haul.run(&["cancel", "--all"]).expect(0);
    daemon.terminate().expect(0);
    haul.nothing_left();
}

/// Without a network a job waits and does not use up its attempts; it can be cancelled.
#[test]
fn an_unknown_host_is_waited_for() {
    let setup = setup("edges::an_unknown_host_is_waited_for");
    let daemon = setup.haul.daemon();
    let commands: [&[&str]; 2] = [
        &["get", "--attempts", "1", "http://nowhere.invalid/data.bin", "-o", arg(&setup.target)],
        &["put", "--attempts", "1", arg(&setup.source), "http://nowhere.invalid/sent.bin"],
    ];
    for command in commands {
        let id = setup.haul.detach_one(command);
        // Each try has a time of its own; the log has one line for all of them.
        let mut tries = std::collections::BTreeSet::new();
        let job = until_seldom("it has met the missing host twice", || {
            let job = setup.haul.show(&id)?;
            tries.extend(job["retry_at"].as_u64());
            (tries.len() >= 2).then_some(job)
        });
        assert_eq!(setup.haul.log(&id).matches("waits for the network").count(), 1);
        assert_eq!((text(&job, "state"), job["attempts"].as_u64()), ("sending", Some(0)), "{job}");
        let trouble = job["trouble"].as_str().unwrap_or_default();
        assert!(trouble.contains("cannot resolve the host"), "{job}");
        setup.haul.run(&["cancel", &id]).expect(0);
        let job = setup.haul.show(&id).expect("the job is shown");
        assert_eq!(text(&job, "state"), "failed", "{job}");
    }
    daemon.terminate().expect(0);
    setup.haul.nothing_left();
}
