//! Against raw sockets: what is sent, what is believed, and what each kind of loss is called.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::stream::{self, StreamExt};
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::ports::Transport;

/// Long enough that a busy machine keeps what is due in half of it.
const SPAN: Duration = Duration::from_millis(600);

pub(super) fn net() -> HttpNet {
    HttpNet::new(NetOptions { no_progress: SPAN, connect: SPAN * 10, system_proxy: false }).unwrap()
}

pub(super) fn request(method: Method, url: &str, body: RequestBody) -> HttpRequest {
    HttpRequest {
        method,
        url: url.to_owned(),
        headers: HeaderMap::new(),
        body,
        follow_redirects: true,
        transport: Transport::default(),
    }
}

pub(super) fn get(url: &str) -> HttpRequest {
    request(Method::GET, url, RequestBody::Empty)
}

fn streamed(len: u64, pieces: Vec<io::Result<Bytes>>) -> RequestBody {
    RequestBody::Stream { len, pieces: stream::iter(pieces).boxed() }
}

pub(super) async fn failure(net: &HttpNet, request: HttpRequest) -> NetError {
    match net.send(request).await {
        Ok(response) => body(response).await.unwrap_err(),
        Err(error) => error,
    }
}

pub(super) async fn body(mut response: HttpResponse) -> Result<Vec<u8>, NetError> {
    let mut all = Vec::new();
    while let Some(chunk) = response.body.chunk().await? {
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

/// Reads one head, lower-cased; what follows it stays unread or is returned with it.
pub(super) async fn head(stream: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    while !seen.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => seen.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(seen).unwrap().to_lowercase()
}

/// Answers each connection's first request with the next of `replies`; returns the heads seen.
pub(super) async fn server(replies: Vec<String>) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    tokio::spawn(async move {
        for reply in replies {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = head(&mut stream).await;
            seen.lock().unwrap().push(head);
            stream.write_all(reply.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    (address, heads)
}

/// Runs `serve` on the first connection.
pub(super) async fn first<F, T>(
    serve: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> (String, JoinHandle<T>)
where
    F: Future<Output = T> + Send,
    T: Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/p?secret=1", listener.local_addr().unwrap());
    let task = tokio::spawn(async move { serve(listener.accept().await.unwrap().0).await });
    (url, task)
}

pub(super) async fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all).await;
    all
}

pub(super) fn reply(headers: &str, body: &str) -> String {
    let len = body.len();
    format!("HTTP/1.1 200 OK\r\n{headers}content-length: {len}\r\nconnection: close\r\n\r\n{body}")
}

fn redirect_to(url: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nlocation: {url}\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno")
}

#[tokio::test]
async fn a_streamed_body_has_its_length_announced() {
    let (url, served) = first(|mut stream| async move {
        let head = head(&mut stream).await;
        let mut sent = [0; 6];
        stream.read_exact(&mut sent).await.unwrap();
        stream.write_all(reply("", "done").as_bytes()).await.unwrap();
        (head, sent)
    })
    .await;
    let pieces = vec![Ok(Bytes::from("abc")), Ok(Bytes::new()), Ok(Bytes::from("def"))];
    let response = net().send(request(Method::PUT, &url, streamed(6, pieces))).await.unwrap();
    assert_eq!(response.status, StatusCode::OK);
    assert_eq!(body(response).await.unwrap(), b"done");
    let (head, sent) = served.await.unwrap();
    assert_eq!(&sent, b"abcdef");
    assert!(head.contains("content-length: 6\r\n") && !head.contains("transfer-encoding"), "{head}");
    assert!(head.contains(concat!("user-agent: longhaul/", env!("CARGO_PKG_VERSION"))), "{head}");
    assert!(!head.contains("accept-encoding") && !head.contains("referer"), "{head}");
}

#[tokio::test]
async fn no_body_is_announced_where_one_is_expected() {
    let cases = [
        (Method::POST, RequestBody::Empty, true),
        (Method::PUT, RequestBody::Empty, true),
        (Method::PATCH, RequestBody::Empty, true),
        (Method::PUT, streamed(0, vec![]), true),
        (Method::POST, RequestBody::Bytes(Bytes::new()), true),
        (Method::GET, RequestBody::Empty, false),
        (Method::HEAD, RequestBody::Empty, false),
        (Method::DELETE, RequestBody::Empty, false),
    ];
    for (method, body, announced) in cases {
        let (address, heads) = server(vec![reply("", "")]).await;
        net().send(request(method.clone(), &format!("http://{address}/"), body)).await.unwrap();
        let head = heads.lock().unwrap().remove(0);
        assert_eq!(head.contains("content-length: 0\r\n"), announced, "{method}: {head}");
        assert!(!head.contains("transfer-encoding"), "{head}");
    }
}

#[tokio::test]
async fn a_body_that_goes_wrong_aborts_the_connection() {
    let cases = [
        (vec![Ok(Bytes::from("abc"))], "3 bytes too short"),
        (vec![Ok(Bytes::from("abcdefg"))], "1 bytes too long"),
        (vec![Ok(Bytes::from("abcdef")), Ok(Bytes::from("g"))], "1 bytes too long"),
        (vec![Ok(Bytes::from("abc")), Err(io::Error::other("source gone"))], "source gone"),
        (vec![Ok(Bytes::from("abcdef")), Err(io::Error::other("changed"))], "changed"),
    ];
    for (pieces, why) in cases {
        let (url, served) = first(|mut stream| async move {
            head(&mut stream).await;
            rest(stream).await
        })
        .await;
        let net = net();
        let error = failure(&net, request(Method::PUT, &url, streamed(6, pieces))).await;
        assert_eq!(error.kind, NetErrorKind::Body, "{error}");
        assert!(error.message.contains(why), "{error}");
        // It has seen the end of the connection, and less than was announced.
        assert!(served.await.unwrap().len() < 6, "{why}");
    }
}

#[tokio::test]
async fn large_bytes_arrive_whole() {
    let whole: Bytes = (0..3_000_000_u32).map(|at| (at % 253) as u8).collect();
    let (url, served) = first(|mut stream| async move {
        let head = head(&mut stream).await;
        let mut sent = vec![0; 3_000_000];
        stream.read_exact(&mut sent).await.unwrap();
        stream.write_all(reply("", "").as_bytes()).await.unwrap();
        (head, sent)
    })
    .await;
    let body = RequestBody::Bytes(whole.clone());
    net().send(request(Method::PUT, &url, body)).await.unwrap();
    let (head, sent) = served.await.unwrap();
    assert!(head.contains("content-length: 3000000\r\n"), "{head}");
    assert_eq!(sent, whole);
}

#[tokio::test]
async fn secrets_do_not_follow_a_redirect_to_another_origin() {
    let (there, there_heads) = server(vec![reply("", "body")]).await;
    let (here, here_heads) =
        server(vec![redirect_to("/again"), redirect_to(&format!("http://{there}/end"))]).await;
    let mut request = get(&format!("http://{here}/start"));
    for name in ["authorization", "cookie", "x-api-key", "range", "if-range"] {
        request.headers.insert(name, HeaderValue::from_static("v"));
    }
    let response = net().send(request).await.unwrap();
    assert_eq!(response.url, format!("http://{there}/end"));
    assert_eq!(body(response).await.unwrap(), b"body");
    let here = here_heads.lock().unwrap();
    for head in &*here {
        assert!(head.contains("authorization: v") && head.contains("x-api-key: v"), "{head}");
    }
    let there = there_heads.lock().unwrap().remove(0);
    assert!(there.contains("range: v") && there.contains("if-range: v"), "{there}");
    for gone in ["authorization", "cookie", "x-api-key", "referer"] {
        assert!(!there.contains(gone), "{there}");
    }
}

#[tokio::test]
async fn redirects_are_counted_and_checked() {
    let (at, _) =
        server(vec![redirect_to("/x"); HOPS_MAX].into_iter().chain([reply("", "")]).collect()).await;
    assert!(net().send(get(&format!("http://{at}/"))).await.is_ok());
    let (at, heads) = server(vec![redirect_to("/x?secret"); HOPS_MAX + 2]).await;
    let error = failure(&net(), get(&format!("http://{at}/"))).await;
    assert_eq!(error.kind, NetErrorKind::Refused);
    assert!(error.message.contains("redirects") && !error.message.contains("secret"), "{error}");
    assert_eq!(heads.lock().unwrap().len(), HOPS_MAX + 1);
    let (at, _) = server(vec![redirect_to("file:///etc/passwd")]).await;
    assert_eq!(failure(&net(), get(&format!("http://{at}/"))).await.kind, NetErrorKind::Refused);
    for bad in ["ftp://x/", "/relative", "http://user:pw@127.0.0.1/"] {
        let error = failure(&net(), get(bad)).await;
        assert!(error.kind == NetErrorKind::Refused && !error.message.contains("pw"), "{error}");
    }
}

#[tokio::test]
async fn a_redirect_is_a_reply_unless_it_may_be_followed() {
    let unasked = |url: &str| HttpRequest { follow_redirects: false, ..get(url) };
    let post = |url: &str| request(Method::POST, url, RequestBody::Empty);
    for make in [&unasked as &dyn Fn(&str) -> HttpRequest, &post] {
        let (at, _) = server(vec![redirect_to("/x")]).await;
        let response = net().send(make(&format!("http://{at}/"))).await.unwrap();
        assert_eq!(response.status, StatusCode::FOUND);
        assert_eq!(response.headers["location"], "/x");
    }
}

#[tokio::test]
async fn a_public_chain_does_not_lead_home() {
    let (at, heads) = server(vec![reply("", "")]).await;
    let net = net();
    let url = Url::parse(&format!("http://localhost:{}/?secret", at.port())).unwrap();
    let set = net.clients.of(&Transport::default()).await.unwrap();
    let (kind, headers, body) = (Kind::PublicOnly, HeaderMap::new(), RequestBody::Empty);
    let error = net.once(&set, kind, Method::GET, &url, headers, body).await.err().unwrap();
    assert_eq!(error.kind, NetErrorKind::Refused, "{error}");
    assert!(heads.lock().unwrap().is_empty());
}

#[tokio::test]
async fn silence_is_a_timeout() {
    // Before the head; with nothing but interim heads; in the body; and with a closed window.
    let (url, silent) = first(rest).await;
    let error = failure(&net(), get(&url)).await;
    assert_eq!(error.kind, NetErrorKind::Timeout);
    assert!(!error.message.contains("secret"), "{error}");
    silent.await.unwrap();

    let (url, interim) = first(|mut stream| async move {
        head(&mut stream).await;
        while stream.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").await.is_ok() {
            tokio::time::sleep(SPAN / 20).await;
        }
    })
    .await;
    assert_eq!(failure(&net(), get(&url)).await.kind, NetErrorKind::Timeout);
    interim.await.unwrap();

    let (url, half) = first(|mut stream| async move {
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await.unwrap();
        rest(stream).await
    })
    .await;
    assert_eq!(failure(&net(), get(&url)).await.kind, NetErrorKind::Timeout);
    half.await.unwrap();

    let (url, _deaf) = first(|stream| async move {
        tokio::time::sleep(SPAN * 20).await;
        drop(stream);
    })
    .await;
    let held = Arc::new(());
    let (piece, holder) = (Bytes::from(vec![0; 1 << 20]), Arc::clone(&held));
    let endless = stream::repeat_with(move || {
        let _ = &holder;
        Ok(piece.clone())
    });
    let endless = RequestBody::Stream { len: 1 << 40, pieces: endless.boxed() };
    assert_eq!(failure(&net(), request(Method::PUT, &url, endless)).await.kind, NetErrorKind::Timeout);
    // What the body held is free, though the connection still has buffers to write.
    assert_eq!(Arc::strong_count(&held), 1);
}

#[tokio::test]
async fn what_moves_slowly_is_no_timeout() {
    const PIECES: u64 = 6;
    let (url, _served) = first(|mut stream| async move {
        head(&mut stream).await;
        let mut sent = [0; PIECES as usize];
        stream.read_exact(&mut sent).await.unwrap();
        // The whole span is there again for the head.
        tokio::time::sleep(SPAN / 2).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n").await.unwrap();
        for byte in sent {
            tokio::time::sleep(SPAN / 3).await;
            stream.write_all(&[byte]).await.unwrap();
        }
    })
    .await;
    let pieces = stream::iter(0..PIECES).then(|_| async {
        tokio::time::sleep(SPAN / 3).await;
        Ok(Bytes::from("x"))
    });
    let slow = RequestBody::Stream { len: PIECES, pieces: pieces.boxed() };
    let response = net().send(request(Method::PUT, &url, slow)).await.unwrap();
    assert_eq!(body(response).await.unwrap(), b"xxxxxx");
}

#[tokio::test]
async fn a_body_cut_off_is_no_body() {
    for cut in [
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\ncontent-le",
        "",
    ] {
        let (at, _) = server(vec![cut.to_owned()]).await;
        let error = failure(&net(), get(&format!("http://{at}/?secret"))).await;
        assert_eq!(error.kind, NetErrorKind::Broken, "{cut}: {error}");
        assert!(!error.message.contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn connect_is_said_only_of_what_was_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = format!("http://{}/?secret", listener.local_addr().unwrap());
    drop(listener);
    let error = failure(&net(), get(&nobody)).await;
    assert_eq!(error.kind, NetErrorKind::Connect);
    assert!(error.message.contains("refused") && !error.message.contains("secret"), "{error}");
    let error = failure(&net(), get("http://nobody.invalid/?secret")).await;
    assert_eq!(error.kind, NetErrorKind::Offline, "{error}");
    assert!(error.message.starts_with("http://nobody.invalid: cannot resolve the host: "), "{error}");

    let (url, reset) = first(|mut stream| async move {
        head(&mut stream).await;
        stream.set_zero_linger().unwrap();
    })
    .await;
    let error = failure(&net(), request(Method::POST, &url, RequestBody::Empty)).await;
    assert_eq!(error.kind, NetErrorKind::Broken, "{error}");
    reset.await.unwrap();
}

#[tokio::test]
async fn a_peer_that_is_not_what_it_should_be_is_a_matter_of_tls() {
    let https = |url: &str| url.replacen("http:", "https:", 1);
    let (url, plain) = first(|mut stream| async move {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        rest(stream).await
    })
    .await;
    let error = failure(&net(), get(&https(&url))).await;
    assert_eq!(error.kind, NetErrorKind::Tls, "{error}");
    plain.await.unwrap();
    // Shut in the middle of the handshake: trouble of the line, not of trust.
    let (url, shut) = first(|stream| async move { drop(stream) }).await;
    let error = failure(&net(), get(&https(&url))).await;
    assert_eq!(error.kind, NetErrorKind::Connect, "{error}");
    shut.await.unwrap();
}

#[tokio::test]
async fn an_early_reply_is_delivered_and_ends_the_request() {
    let (url, served) = first(|mut stream| async move {
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig").await.unwrap();
        let mut buffer = vec![0; 1 << 16];
        while stream.read(&mut buffer).await.is_ok_and(|got| got > 0) {}
    })
    .await;
    let taken = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&taken);
    let pieces = stream::repeat_with(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(Bytes::from_static(&[0; 1024]))
    });
    let endless = RequestBody::Stream { len: 1 << 40, pieces: pieces.boxed() };
    let response = net().send(request(Method::PUT, &url, endless)).await.unwrap();
    assert_eq!(response.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(body(response).await.unwrap(), b"big");
    // The server sees the end of the connection, though the body had a terabyte to go.
    served.await.unwrap();
    let then = taken.load(Ordering::Relaxed);
    tokio::time::sleep(SPAN / 4).await;
    assert_eq!(taken.load(Ordering::Relaxed), then);
}

#[tokio::test]
async fn a_reply_before_a_reset_is_a_reply_or_a_loss() {
    let (url, served) = first(|mut stream| async move {
        head(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 409 Conflict\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
    })
    .await;
    let piece = Bytes::from(vec![0; 1 << 20]);
    let pieces = stream::repeat_with(move || Ok(piece.clone())).take(64).boxed();
    let body = RequestBody::Stream { len: 64 << 20, pieces };
    match net().send(request(Method::PATCH, &url, body)).await {
        Ok(response) => assert_eq!(response.status, StatusCode::CONFLICT),
        Err(error) => assert_eq!(error.kind, NetErrorKind::Broken, "{error}"),
    }
    served.await.unwrap();
}

#[tokio::test]
async fn dropping_the_exchange_closes_it() {
    let (url, served) = first(|mut stream| async move {
        head(&mut stream).await;
        rest(stream).await
    })
    .await;
    let net = net();
    let sent = net.send(get(&url));
    assert!(tokio::time::timeout(SPAN / 4, sent).await.is_err());
    assert_eq!(served.await.unwrap(), b"");

    let (url, served) = first(|mut stream| async move {
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n").await.unwrap();
        rest(stream).await
    })
    .await;
    drop(net.send(get(&url)).await.unwrap());
    served.await.unwrap();
}

/// What was written to a connection and not taken by the peer must not arrive after a halt.
#[tokio::test]
async fn a_dropped_upload_takes_its_buffers_with_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (pieces, len) = (2048_u64, 64 << 10);
    let handed = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&handed);
    let piece = Bytes::from(vec![7; len as usize]);
    let stream = stream::iter(0..pieces).map(move |_| {
        count.fetch_add(len, Ordering::SeqCst);
        Ok(piece.clone())
    });
    let body = RequestBody::Stream { len: pieces * len, pieces: stream.boxed() };
    let net = Arc::new(net());
    let sending = tokio::spawn({
        let net = Arc::clone(&net);
        async move { net.send(request(Method::PATCH, &url, body)).await.map(|_| ()) }
    });
    let (mut peer, _) = listener.accept().await.unwrap();
    head(&mut peer).await;
    // The peer takes nothing: wait until the buffers between the two are full.
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = handed.load(Ordering::SeqCst);
        if now > 0 && now == before {
            break;
        }
        before = now;
    }
    sending.abort();
    assert!(sending.await.unwrap_err().is_cancelled());
    let (mut taken, mut buffer) = (0, vec![0; 64 << 10]);
    let end = loop {
        match peer.read(&mut buffer).await {
            Ok(0) => break Ok(()),
            Ok(got) => taken += got as u64,
            Err(error) => break Err(error.kind()),
        }
    };
    assert_eq!(end, Err(io::ErrorKind::ConnectionReset), "the rest was thrown away, not sent");
    assert!(taken < before, "{taken} bytes of {before} arrived");
}

#[tokio::test]
async fn old_and_simple_servers_are_understood() {
    for (answer, framed, whole) in [
        ("HTTP/1.0 200 OK\r\n\r\nbody", false, "body"),
        ("HTTP/1.0 200 OK\r\ncontent-length: 4\r\n\r\nbody", true, "body"),
        ("HTTP/1.1 200 OK\r\n\r\nbody", false, "body"),
        ("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nbody", false, "body"),
        ("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\nbody", true, "body"),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nbo\r\n2;x=y\r\ndy\r\n0\r\n\r\n",
            true,
            "body",
        ),
        ("HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", true, ""),
        ("HTTP/1.1 204 No Content\r\n\r\n", false, ""),
    ] {
        let (at, _) = server(vec![answer.to_owned()]).await;
        let response = net().send(get(&format!("http://{at}/"))).await.unwrap();
        assert_eq!(response.framed, framed, "{answer}");
        assert_eq!(body(response).await.unwrap(), whole.as_bytes(), "{answer}");
    }
}

/// A connection that was kept and cut in the meantime must not cost an attempt: of the next request the
/// server has seen nothing.
#[tokio::test]
async fn a_kept_connection_that_was_cut_is_made_anew() {
    let kept = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nkept";
    let (at, heads) = server(vec![kept.to_owned(); 4]).await;
    let net = net();
    let url = format!("http://{at}/");
    let abc = || streamed(3, vec![Ok(Bytes::from("abc"))]);
    for (method, sent) in [
        (Method::GET, RequestBody::Empty),
        (Method::POST, RequestBody::Bytes(Bytes::from("abc"))),
        (Method::PUT, abc()),
        (Method::PATCH, abc()),
    ] {
        let response = net.send(request(method, &url, sent)).await.unwrap();
        assert_eq!(body(response).await.unwrap(), b"kept");
        // Time for the news to come in.
        tokio::time::sleep(SPAN / 6).await;
    }
    assert_eq!(heads.lock().unwrap().len(), 4, "one connection each");
}

#[tokio::test]
async fn ipv6_literals_are_hosts() {
    let Ok(listener) = TcpListener::bind("[::1]:0").await else {
        println!("skipped: this machine has no ::1");
        return;
    };
    let url = format!("http://{}/", listener.local_addr().unwrap());
    assert!(url.starts_with("http://[::1]:"), "{url}");
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = head(&mut stream).await;
        stream.write_all(reply("", "six").as_bytes()).await.unwrap();
        head
    });
    let response = net().send(get(&url)).await.unwrap();
    assert_eq!(response.url, url);
    assert_eq!(body(response).await.unwrap(), b"six");
    assert!(served.await.unwrap().contains("host: [::1]:"));
}

#[test]
fn what_is_missing_on_this_side_is_told_from_what_the_peer_did() {
    let what = |errno: Errno| no_way(&io::Error::from(errno));
    for errno in [Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::NETDOWN] {
        assert_eq!(what(errno), Some("no route"));
    }
    for errno in [Errno::ADDRNOTAVAIL, Errno::MFILE, Errno::NFILE, Errno::NOBUFS] {
        assert!(what(errno).is_some_and(|what| what.starts_with("no ")), "{errno}");
    }
    for errno in [Errno::CONNREFUSED, Errno::CONNRESET, Errno::TIMEDOUT, Errno::PIPE, Errno::ACCESS] {
        assert_eq!(what(errno), None, "{errno}");
    }
}

/// By way of everything between the system call and us: Linux has no route to a group of hosts for TCP.
#[tokio::test]
async fn no_route_is_offline() {
    let error = failure(&net(), get("http://224.0.0.1:9/?secret")).await;
    assert_eq!(error.kind, NetErrorKind::Offline, "{error}");
    assert_eq!(error.message, "http://224.0.0.1:9: no route: Network is unreachable (os error 101)");
}

/// In a process of its own, as it takes all handles.
#[test]
fn no_free_file_handle_is_offline() {
    const CHILD: &str = "LONGHAUL_TEST_TAKES_ALL_HANDLES";
    if std::env::var_os(CHILD).is_none() {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "os::net::tests::no_free_file_handle_is_offline"]).env(CHILD, "1");
        let ended = child.output().unwrap();
        let said = String::from_utf8_lossy(&ended.stdout);
        assert!(ended.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let net = net();
        let limit = rustix::process::Rlimit { current: Some(64), maximum: Some(64) };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
        let taken: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
        assert!(!taken.is_empty());
        let error = failure(&net, get("http://127.0.0.1:9/")).await;
        assert_eq!(error.kind, NetErrorKind::Offline, "{error}");
        assert!(error.message.contains("no free file handle: Too many open files"), "{error}");
    });
}
