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
mod tests;
