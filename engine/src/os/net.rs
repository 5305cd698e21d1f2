//! HTTP, by reqwest and rustls.
//!
//! Promises beyond [`Net`]:
//!
//! - **Connect means unsent.** [`NetErrorKind::Connect`] is said only when no connection was made. Once
//!   there was one, the loss is `Broken` or `Timeout`, and only a probe can tell what the server has.
//! - **Silence ends.** The no-progress span runs anew with every piece of the request that the
//!   connection takes and every piece of the response; waiting for a head has no limit of its own
//!   while a body still moves. Interim heads do not count: a server that only says "continue" is
//!   silent. The request body's own stream counts too: it has to yield within the span.
//! - **Nothing is sent again** that a server may have seen. What the HTTP layer does repeat by itself
//!   is what provably was not: a request that a pooled connection never took, or that an HTTP/2 server
//!   refused before looking at it.
//! - **No secrets in errors.** Messages name an origin and a cause; no path, query or header.
//! - An early final reply is delivered while the request body still moves; when the response is
//!   dropped or at its end, the rest of the body is not sent.
//!
//! Absent on purpose: retries, credentials, decompression, cookies, Referer.

use std::error::Error;
use std::io;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, Version};
use reqwest::{Body, Client, Request, Response};
use url::Url;

use super::abort::{self, Cutter};
use super::body::{Exchange, Outgoing, PIECE, Pulse};
use super::redirect::{self, HOPS_MAX, NotPublic, PublicNames};
use super::{NetOptions, causes};
use crate::ports::{
    BoxFuture, HttpRequest, HttpResponse, Net, NetError, NetErrorKind, RequestBody, ResponseBody,
};

const POOL_IDLE: Duration = Duration::from_secs(30);

/// An HTTP/2 connection carries many exchanges: one that is dead must be found out as such, or each
/// new exchange would wait on it.
const PING: Duration = Duration::from_secs(20);

/// The kernel gives a connection up this much later than we do, counted from when the peer last took
/// something. It is what frees a connection whose exchange was dropped while the peer takes nothing:
/// hyper first wants to write what it has buffered.
const KERNEL_MARGIN: Duration = Duration::from_secs(5);

/// The longest cause in a message, in characters: some hold names that the peer chose.
const CAUSE_MAX: usize = 300;

/// By so much the timeout of large uploads differs from all others: that is how their sockets are known.
const MARK: Duration = Duration::from_millis(37);

/// Request bodies above this many bytes have a connection of their own.
const LARGE: u64 = 1 << 20;

/// What a client is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ordinary,
    PublicOnly,
    Large,
}

/// The network.
#[derive(Debug)]
pub(super) struct HttpNet {
    client: Client,
    /// For redirects that begin at a public address: connects to public addresses only. Made when
    /// first needed, as each client reads the trust store.
    public: OnceLock<Client>,
    /// For large uploads: a connection each, which can be cut off.
    large: OnceLock<Client>,
    options: NetOptions,
}

impl HttpNet {
    pub(super) fn new(options: NetOptions) -> Result<Self, NetError> {
        let client = client(&options, Kind::Ordinary)?;
        Ok(Self { client, public: OnceLock::new(), large: OnceLock::new(), options })
    }

    fn public(&self) -> Result<&Client, NetError> {
        if let Some(client) = self.public.get() {
            return Ok(client);
        }
        let made = client(&self.options, Kind::PublicOnly)?;
        Ok(self.public.get_or_init(|| made))
    }

    fn large(&self) -> Result<&Client, NetError> {
        if let Some(client) = self.large.get() {
            return Ok(client);
        }
        let made = client(&self.options, Kind::Large)?;
        Ok(self.large.get_or_init(|| made))
    }

    async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, NetError> {
        let HttpRequest { method, url, mut headers, body, follow_redirects, transport: _ } = request;
        let mut url = redirect::parse(&url).map_err(refused)?;
        let follows = follow_redirects
            && matches!(method, Method::GET | Method::HEAD)
            && matches!(body, RequestBody::Empty);
        if !follows {
            let (response, exchange) = self.once(&self.client, method, &url, headers, body).await?;
            return Ok(self.reply(response, url, exchange));
        }
        let mut client = &self.client;
        for _ in 0..=HOPS_MAX {
            let (response, exchange) =
                self.once(client, method.clone(), &url, headers.clone(), RequestBody::Empty).await?;
            let target = redirect::target(&url, response.status(), response.headers());
            let Some(to) = target.map_err(|why| refused_at(&url, &why))? else {
                return Ok(self.reply(response, url, exchange));
            };
            if response.remote_addr().is_some_and(|address| redirect::is_public(address.ip())) {
                // From here on, for good: a way back home by a third host is no better.
                client = self.public()?;
                if redirect::is_private_literal(&to) {
                    return Err(refused_at(&url, &NotPublic.to_string()));
                }
            }
            redirect::strip(&url, &to, &mut headers);
            url = to;
        }
        Err(refused_at(&url, &format!("more than {HOPS_MAX} redirects")))
    }

    /// One request and its head.
    async fn once(
        &self,
        client: &Client,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: RequestBody,
    ) -> Result<(Response, Exchange), NetError> {
        let exchange = Exchange { pulse: Pulse::new(), cutter: Cutter::default() };
        let pulse = &exchange.pulse;
        let large = matches!(&body, RequestBody::Stream { len, .. } if *len > LARGE);
        let client = if large { self.large()? } else { client };
        let expects_length = matches!(method, Method::POST | Method::PUT | Method::PATCH);
        let mut request = Request::new(method, url.clone());
        *request.headers_mut() = headers;
        let empty = matches!(&body, RequestBody::Bytes(bytes) if bytes.is_empty());
        match if empty { RequestBody::Empty } else { body } {
            RequestBody::Empty if expects_length => {
                // Without it some servers wait for a body, and others ask for the length (411).
                request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
            RequestBody::Empty => {}
            // One piece: nothing to watch, and an HTTP/2 server's "not looked at" may be answered.
            RequestBody::Bytes(bytes) if bytes.len() <= PIECE => *request.body_mut() = Some(bytes.into()),
            RequestBody::Bytes(bytes) => {
                *request.body_mut() = Some(Body::wrap(Outgoing::bytes(bytes, Arc::clone(pulse))));
            }
            RequestBody::Stream { len, pieces } => {
                *request.body_mut() = Some(Body::wrap(Outgoing::stream(len, pieces, Arc::clone(pulse))));
            }
        }
        let call = exchange.cutter.watch(client.execute(request));
        let response = self.watch(url, pulse, call).await?;
        Ok((response, exchange))
    }

    fn reply(&self, mut response: Response, url: Url, exchange: Exchange) -> HttpResponse {
        let framed = response.version() >= Version::HTTP_2
            || response.headers().contains_key(CONTENT_LENGTH)
            || response.headers().contains_key(TRANSFER_ENCODING);
        HttpResponse {
            framed,
            status: response.status(),
            headers: std::mem::take(response.headers_mut()),
            url: url.to_string(),
            body: Box::new(Incoming {
                open: Some((response, exchange)),
                url,
                no_progress: self.options.no_progress,
            }),
        }
    }

    async fn watch<T>(
        &self,
        url: &Url,
        pulse: &Pulse,
        call: impl Future<Output = Result<T, reqwest::Error>>,
    ) -> Result<T, NetError> {
        watch(self.options.no_progress, url, pulse, call).await
    }
}

impl Net for HttpNet {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, NetError>> {
        Box::pin(self.exchange(request))
    }
}

fn client(options: &NetOptions, kind: Kind) -> Result<Client, NetError> {
    let mut builder = Client::builder()
        .user_agent(concat!("longhaul/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        // An embedder's other crates may turn reqwest's features on for all.
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
        .connect_timeout(options.connect)
        .pool_idle_timeout(POOL_IDLE)
        .tcp_nodelay(true)
        .http2_adaptive_window(true)
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PING);
    #[cfg(target_os = "linux")]
    {
        builder = builder.tcp_user_timeout(options.no_progress + KERNEL_MARGIN);
    }
    if !options.system_proxy {
        builder = builder.no_proxy();
    }
    builder = match kind {
        Kind::Ordinary => builder,
        Kind::PublicOnly => builder.dns_resolver(PublicNames),
        Kind::Large => {
            let mark = options.no_progress + KERNEL_MARGIN + MARK;
            let mark_ms = u32::try_from(mark.as_millis()).unwrap_or(u32::MAX);
            #[cfg(target_os = "linux")]
            {
                builder = builder.tcp_user_timeout(mark);
            }
            builder.pool_max_idle_per_host(0).connector_layer(abort::Watch { mark_ms })
        }
    };
    builder.build().map_err(|error| NetError {
        kind: NetErrorKind::Tls,
        message: format!("cannot set up TLS: {}", cause(&error)),
    })
}

/// A response body on its way in.
struct Incoming {
    /// `None` once it has ended, well or not: then the request's remains end too.
    open: Option<(Response, Exchange)>,
    url: Url,
    no_progress: Duration,
}

impl Incoming {
    async fn next(&mut self) -> Result<Option<Bytes>, NetError> {
        let Some((response, exchange)) = &mut self.open else { return Ok(None) };
        let pulse = &exchange.pulse;
        // The span is the peer's: what the reader did with the last piece is not counted.
        pulse.touch();
        let chunk = watch(self.no_progress, &self.url, pulse, response.chunk()).await;
        if matches!(chunk, Ok(None)) {
            exchange.cutter.spare();
        }
        if !matches!(chunk, Ok(Some(_))) {
            self.open = None;
        }
        chunk
    }
}

impl ResponseBody for Incoming {
    fn chunk(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, NetError>> {
        Box::pin(self.next())
    }
}

/// Runs one call for as long as anything moves.
async fn watch<T>(
    no_progress: Duration,
    url: &Url,
    pulse: &Pulse,
    call: impl Future<Output = Result<T, reqwest::Error>>,
) -> Result<T, NetError> {
    let mut call = pin!(call);
    loop {
        let deadline = pulse.last() + no_progress;
        match tokio::time::timeout_at(deadline, &mut call).await {
            Ok(result) => return result.map_err(|error| lost(url, pulse, error)),
            // It may have moved while we slept.
            Err(_) if pulse.last() + no_progress > deadline => {}
            Err(_) => {
                let message = format!("{}: nothing moved for {no_progress:?}", origin(url));
                return Err(NetError { kind: NetErrorKind::Timeout, message });
            }
        }
    }
}

fn lost(url: &Url, pulse: &Pulse, error: reqwest::Error) -> NetError {
    // Otherwise its text would hold the URL, query and all.
    let error = error.without_url();
    if let Some(why) = pulse.failure() {
        return NetError { kind: NetErrorKind::Body, message: why.to_owned() };
    }
    let kind = kind(&error);
    let what = match kind {
        NetErrorKind::Connect => "cannot connect",
        NetErrorKind::Offline => "no way there",
        NetErrorKind::Tls => "no trusted connection",
        NetErrorKind::Refused => "refused",
        NetErrorKind::Timeout | NetErrorKind::Broken | NetErrorKind::Body => "connection lost",
    };
    NetError { kind, message: format!("{}: {what}: {}", origin(url), cause(&error)) }
}

fn kind(error: &reqwest::Error) -> NetErrorKind {
    if error.is_builder() || causes(error).any(<dyn Error>::is::<NotPublic>) {
        return NetErrorKind::Refused;
    }
    if error.is_connect() {
        // rustls says what it thinks of the peer in errors of this kind, and nothing else in making a
        // connection does.
        return match io_kind(error) {
            Some(io::ErrorKind::InvalidData) => NetErrorKind::Tls,
            _ => NetErrorKind::Connect,
        };
    }
    if error.is_timeout() { NetErrorKind::Timeout } else { NetErrorKind::Broken }
}

fn io_kind(error: &reqwest::Error) -> Option<io::ErrorKind> {
    causes(error).filter_map(|error| error.downcast_ref::<io::Error>()).last().map(io::Error::kind)
}

/// The innermost cause: the one that says something ("Connection refused"), where the outer ones say
/// where it was heard of.
fn cause(error: &reqwest::Error) -> String {
    let text = causes(error).last().map(ToString::to_string).unwrap_or_default();
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(CAUSE_MAX).collect()
}

fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

fn refused(message: String) -> NetError {
    NetError { kind: NetErrorKind::Refused, message }
}

fn refused_at(url: &Url, why: &str) -> NetError {
    refused(format!("{}: {why}", origin(url)))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures_util::stream::{self, StreamExt};
    use http::StatusCode;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinHandle;

    use super::*;

    /// Long enough that a busy machine keeps what is due in half of it.
    const SPAN: Duration = Duration::from_millis(600);

    fn net() -> HttpNet {
        HttpNet::new(NetOptions { no_progress: SPAN, connect: SPAN * 10, system_proxy: false }).unwrap()
    }

    fn request(method: Method, url: &str, body: RequestBody) -> HttpRequest {
        HttpRequest {
            method,
            url: url.to_owned(),
            headers: HeaderMap::new(),
            body,
            follow_redirects: true,
            transport: crate::ports::Transport::default(),
        }
    }

    fn get(url: &str) -> HttpRequest {
        request(Method::GET, url, RequestBody::Empty)
    }

    fn streamed(len: u64, pieces: Vec<io::Result<Bytes>>) -> RequestBody {
        RequestBody::Stream { len, pieces: stream::iter(pieces).boxed() }
    }

    async fn failure(net: &HttpNet, request: HttpRequest) -> NetError {
        match net.send(request).await {
            Ok(response) => body(response).await.unwrap_err(),
            Err(error) => error,
        }
    }

    async fn body(mut response: HttpResponse) -> Result<Vec<u8>, NetError> {
        let mut all = Vec::new();
        while let Some(chunk) = response.body.chunk().await? {
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }

    /// Reads one head, lower-cased; what follows it stays unread or is returned with it.
    async fn head(stream: &mut TcpStream) -> String {
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
    async fn server(replies: Vec<String>) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
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
    async fn first<F, T>(serve: impl FnOnce(TcpStream) -> F + Send + 'static) -> (String, JoinHandle<T>)
    where
        F: Future<Output = T> + Send,
        T: Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/p?secret=1", listener.local_addr().unwrap());
        let task = tokio::spawn(async move { serve(listener.accept().await.unwrap().0).await });
        (url, task)
    }

    async fn rest(mut stream: TcpStream) -> Vec<u8> {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all).await;
        all
    }

    fn reply(headers: &str, body: &str) -> String {
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
        let sent = net.once(net.public().unwrap(), Method::GET, &url, HeaderMap::new(), RequestBody::Empty);
        let error = sent.await.err().unwrap();
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
        assert_eq!(error.kind, NetErrorKind::Connect, "{error}");

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
}
