//! Servers that break their protocol. `haul` may fail the job or begin anew; it may not put together what does
//! not belong together, and not believe what cannot be.

use std::fs;
use std::sync::Arc;

use crate::support::files::MIB;
use crate::support::haul::{Haul, arg, cause, text, values};
use crate::support::scripted::{Answer, Reply, Request, Scripted};
use crate::support::seed::Rng;
use crate::support::servers::write_secret;

const SIZE: usize = 3 * MIB as usize + 5;

fn content(seed: u64) -> Arc<Vec<u8>> {
    let mut bytes = vec![0; SIZE];
    Rng::new(seed).fill(&mut bytes);
    Arc::new(bytes)
}

/// A tus server of one upload, whose answers to HEAD and PATCH are given.
fn tus(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Scripted {
    Scripted::alone(move |request| {
        let reply = match request.method.as_str() {
            "OPTIONS" => {
                Reply::new(204).header("Tus-Version", "1.0.0").header("Tus-Extension", "creation,termination")
            }
            "POST" => Reply::new(201).header("Location", "/files/1").header("Upload-Offset", 0),
            "DELETE" => Reply::new(204),
            _ => answer(request),
        };
        reply.header("Tus-Resumable", "1.0.0").into()
    })
}

fn put(server: &Scripted) -> (Haul, serde_json::Value) {
    let haul = Haul::new();
    let source = haul.source("data.bin");
    fs::write(&source, &*content(1)).expect("write the source");
    let done = haul.run(&["--json", "put", "--attempts", "3", arg(&source), &server.url("/files/")]);
    assert_ne!(done.code, Some(0), "a lie was believed: {done:?}");
    let last = values(&done.stdout).pop().expect("a final object");
    (haul, last)
}

#[test]
fn an_offset_beyond_the_end() {
    let server = tus(|request| {
        let status = if request.method == "HEAD" { 200 } else { 204 };
        Reply::new(status).header("Upload-Offset", SIZE + 1).header("Upload-Length", SIZE)
    });
    let (haul, last) = put(&server);
    assert_eq!((text(&last, "state"), cause(&last)), ("failed", Some("protocol")), "{last}");
    haul.nothing_left();
}

#[test]
fn an_offset_that_is_no_number() {
    for lie in ["-1", "1e3", "0x10", "18446744073709551616", " ", "12, 12"] {
        let server = tus(move |request| {
            let status = if request.method == "HEAD" { 200 } else { 204 };
            Reply::new(status).header("Upload-Offset", lie).header("Upload-Length", SIZE)
        });
        let (_haul, last) = put(&server);
        assert_ne!(text(&last, "state"), "completed", "{lie:?}: {last}");
    }
}

/// Every piece is taken and none is kept: that is no progress, and no success either.
#[test]
fn a_server_that_keeps_nothing() {
    let server = tus(|request| {
        let status = if request.method == "HEAD" { 200 } else { 204 };
        Reply::new(status).header("Upload-Offset", 0).header("Upload-Length", SIZE)
    });
    let (_haul, last) = put(&server);
    assert_ne!(text(&last, "state"), "completed", "{last}");
    assert!(server.count("PATCH") < 60, "sent {} times over", server.count("PATCH"));
}

/// Half of the file comes, then the connection breaks; `then` answers what follows.
fn half(bytes: &Arc<Vec<u8>>, then: impl Fn(&Request, &[u8]) -> Reply + Send + Sync + 'static) -> Scripted {
    let bytes = Arc::clone(bytes);
    Scripted::alone(move |request| {
        if request.method == "HEAD" {
            return whole(&bytes, "\"one\"").into();
        }
        let broken = request.header("range").is_none_or(|range| range == "bytes=0-");
        if broken && request.index == 0 {
            let half = bytes[..SIZE / 2].to_vec();
            return Reply::new(200).header("ETag", "\"one\"").body(half).claiming(SIZE as u64).into();
        }
        then(request, &bytes).into()
    })
}

fn whole(bytes: &[u8], etag: &str) -> Reply {
    Reply::new(200).header("ETag", etag).header("Accept-Ranges", "bytes").body(bytes)
}

/// The first byte of the range that was asked for.
fn start(request: &Request) -> Option<usize> {
    request.header("range")?.strip_prefix("bytes=")?.split('-').next()?.parse().ok()
}

fn part(bytes: &[u8], from: usize, etag: &str) -> Reply {
    Reply::new(206)
        .header("ETag", etag)
        .header("Content-Range", format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len()))
        .body(&bytes[from..])
}

/// Downloads, and checks that the file is one of `allowed`, or that the job has not completed and no file is there.
fn get(server: &Scripted, allowed: &[&[u8]]) -> bool {
    let haul = Haul::new();
    let target = haul.out().join("copy.bin");
    let done = haul.run(&["get", "--attempts", "3", &server.url("/data.bin"), "-o", arg(&target)]);
    if done.code == Some(0) {
        let got = fs::read(&target).expect("read the download");
        assert!(allowed.contains(&got.as_slice()), "the file is none that the server ever had");
        haul.nothing_left();
        return true;
    }
    assert!(!target.exists(), "a file that is not whole has the destination's name");
    false
}

#[test]
fn an_honest_rest_is_taken() {
    let bytes = content(1);
    let server = half(&bytes, |request, bytes| match start(request) {
        Some(from) => part(bytes, from, "\"one\""),
        None => whole(bytes, "\"one\""),
    });
    assert!(get(&server, &[&bytes]), "an honest server was refused");
    assert!(
        server.seen().iter().any(|request| start(request) > Some(0)),
        "the half was not used: {:?}",
        server.seen()
    );
}

#[test]
fn the_whole_file_instead_of_the_rest() {
    let bytes = content(1);
    let server = half(&bytes, |_, bytes| whole(bytes, "\"one\""));
    assert!(get(&server, &[&bytes]), "a server without ranges was refused");
}

#[test]
fn another_part_than_asked_for() {
    let bytes = content(1);
    let server = half(&bytes, |request, bytes| match start(request) {
        Some(from) if from > 0 => part(bytes, from - 1, "\"one\""),
        _ => whole(bytes, "\"one\""),
    });
    get(&server, &[&bytes]);
}

#[test]
fn a_part_of_another_version() {
    let (bytes, other) = (content(1), content(2));
    let new = Arc::clone(&other);
    let server = half(&bytes, move |request, _| match start(request) {
        // If-Range ignored, as some servers do.
        Some(from) if from > 0 => part(&new, from, "\"two\""),
        _ => whole(&new, "\"two\""),
    });
    assert!(get(&server, &[&other]), "the new version can be had");
}

#[test]
fn a_part_of_a_file_of_another_length() {
    let bytes = content(1);
    let server = half(&bytes, |request, bytes| match start(request) {
        Some(from) if from > 0 => {
            let range = format!("bytes {from}-{}/{}", SIZE - 2, SIZE - 1);
            Reply::new(206)
                .header("ETag", "\"one\"")
                .header("Content-Range", range)
                .body(&bytes[from..SIZE - 1])
        }
        _ => whole(bytes, "\"one\""),
    });
    get(&server, &[&bytes]);
}

#[test]
fn a_part_that_is_compressed() {
    let bytes = content(1);
    let server = half(&bytes, |request, bytes| match start(request) {
        Some(from) if from > 0 => part(bytes, from, "\"one\"").header("Content-Encoding", "gzip"),
        _ => whole(bytes, "\"one\""),
    });
    get(&server, &[&bytes]);
}

/// Less than was said: not the whole file, however often it is tried.
#[test]
fn a_body_that_is_always_short() {
    let bytes = content(1);
    let server = Scripted::alone(move |_| {
        Reply::new(200).header("ETag", "\"one\"").body(&bytes[..SIZE - 1]).claiming(SIZE as u64).into()
    });
    assert!(!get(&server, &[]), "a short file was taken for whole");
}

#[test]
fn an_error_page_is_no_rest() {
    let bytes = content(1);
    let server = half(&bytes, |request, bytes| match start(request) {
        Some(from) if from > 0 && request.index < 2 => Reply::new(500).body("<html>so sorry</html>"),
        Some(from) => part(bytes, from, "\"one\""),
        None => whole(bytes, "\"one\""),
    });
    assert!(get(&server, &[&bytes]), "the server recovered, and the job did not");
}

#[test]
fn a_digest_that_the_server_announces_is_checked() {
    use base64::Engine;
    let bytes = content(1);
    let digest = |bytes: &[u8]| {
        let hash = <sha2::Sha256 as sha2::Digest>::digest(bytes);
        format!("sha-256=:{}:", base64::engine::general_purpose::STANDARD.encode(hash))
    };
    for right in [true, false] {
        let announced = digest(if right { &bytes } else { b"something else" });
        let body = Arc::clone(&bytes);
        let server =
            Scripted::alone(move |_| whole(&body, "\"one\"").header("Repr-Digest", &announced).into());
        assert_eq!(
            get(&server, &[&bytes]),
            right,
            "with a digest that is {}",
            if right { "right" } else { "wrong" }
        );
    }
}

/// A redirect to another host does not get the token.
#[test]
fn a_redirect_elsewhere_gets_no_token() {
    let bytes = content(1);
    let elsewhere = {
        let bytes = Arc::clone(&bytes);
        Scripted::alone(move |_| whole(&bytes, "\"one\"").into())
    };
    let to = elsewhere.url("/data.bin");
    let server = Scripted::alone(move |_| Answer::from(Reply::new(302).header("Location", &to)));
    let haul = Haul::new();
    let secret = haul.dir().join("token");
    write_secret(&secret, "canary");
    haul.run(&["get", "--attempts", "2", "--bearer-file", arg(&secret), &server.url("/data.bin")]);
    assert!(server.seen().iter().all(|request| request.header("authorization") == Some("Bearer canary")));
    assert!(
        elsewhere.seen().iter().all(|request| request.header("authorization").is_none()),
        "{:?}",
        elsewhere.seen()
    );
}
