//! HTTP, by reqwest and rustls.
//!
//! Promises beyond [`Net`]:
//!
//! - **Connect means unsent.** [`NetErrorKind::Connect`] is said only when no connection was made. Once
//!   there was one, the loss is `Broken` or `Timeout`, and only a probe can tell what the server has.
//! - **Offline means not its fault.** [`NetErrorKind::Offline`] is said of a name that cannot be resolved, of
//!   a missing route and of this machine's want of handles and ports; never of a peer that was reached and
//!   refused, nor of one that kept silent.
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
//! How a connection is made (proxy, trust, certificate of our own) is `client`'s matter, and what a name leads
//! to `names`'.
//!
//! Absent on purpose: retries, credentials, decompression, cookies, Referer.

mod client;
mod names;

use std::error::Error;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, Version};
use reqwest::{Body, Request, Response};
use rustix::io::Errno;
use url::Url;

use self::client::{Clients, Kind, Set};
use self::names::NotPublic;
use super::abort::Cutter;
use super::body::{Exchange, Outgoing, PIECE, Pulse};
use super::redirect::{self, HOPS_MAX};
use super::{NetOptions, causes};
use crate::ports::{
    BoxFuture, HttpRequest, HttpResponse, Net, NetError, NetErrorKind, RequestBody, ResponseBody,
};

/// The longest cause in a message, in characters: some hold names that the peer chose.
const CAUSE_MAX: usize = 300;

/// Request bodies above this many bytes have a connection of their own.
const LARGE: u64 = 1 << 20;

/// The network.
#[derive(Debug)]
pub(super) struct HttpNet {
    clients: Arc<Clients>,
    no_progress: Duration,
}

impl HttpNet {
    pub(super) fn new(options: NetOptions) -> Result<Self, NetError> {
        let no_progress = options.no_progress;
        Ok(Self { clients: Arc::new(Clients::new(options)?), no_progress })
    }

    async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, NetError> {
        let HttpRequest { method, url, mut headers, body, follow_redirects, transport } = request;
        let mut url = redirect::parse(&url).map_err(refused)?;
        let set = self.clients.of(&transport).await?;
        let follows = follow_redirects
            && matches!(method, Method::GET | Method::HEAD)
            && matches!(body, RequestBody::Empty);
        if !follows {
            let (response, exchange) = self.once(&set, Kind::Ordinary, method, &url, headers, body).await?;
            return Ok(self.reply(response, url, exchange));
        }
        let mut kind = Kind::Ordinary;
        for _ in 0..=HOPS_MAX {
            let (response, exchange) =
                self.once(&set, kind, method.clone(), &url, headers.clone(), RequestBody::Empty).await?;
            let target = redirect::target(&url, response.status(), response.headers());
            let Some(to) = target.map_err(|why| refused_at(&url, &why))? else {
                return Ok(self.reply(response, url, exchange));
            };
            if response.remote_addr().is_some_and(|address| redirect::is_public(address.ip())) {
                // From here on, for good: a way back home by a third host is no better.
                kind = Kind::PublicOnly;
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
        set: &Set,
        kind: Kind,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: RequestBody,
    ) -> Result<(Response, Exchange), NetError> {
        let exchange = Exchange { pulse: Pulse::new(), cutter: Cutter::default() };
        let pulse = &exchange.pulse;
        let large = matches!(&body, RequestBody::Stream { len, .. } if *len > LARGE);
        let client = set.get(if large { Kind::Large } else { kind })?;
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
            body: Box::new(Incoming { open: Some((response, exchange)), url, no_progress: self.no_progress }),
        }
    }

    async fn watch<T>(
        &self,
        url: &Url,
        pulse: &Pulse,
        call: impl Future<Output = Result<T, reqwest::Error>>,
    ) -> Result<T, NetError> {
        watch(self.no_progress, url, pulse, call).await
    }
}

impl Net for HttpNet {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, NetError>> {
        Box::pin(self.exchange(request))
    }
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
    let (kind, what) = kind(&error);
    NetError { kind, message: format!("{}: {what}: {}", origin(url), cause(&error)) }
}

/// What kind of loss it is, and how people call it.
fn kind(error: &reqwest::Error) -> (NetErrorKind, &'static str) {
    if error.is_builder() || causes(error).any(<dyn Error>::is::<NotPublic>) {
        return (NetErrorKind::Refused, "refused");
    }
    if error.is_connect() {
        if error.is_dns() {
            return (NetErrorKind::Offline, "cannot resolve the host");
        }
        if let Some(what) = causes(error).find_map(no_way) {
            return (NetErrorKind::Offline, what);
        }
        // rustls says what it thinks of the peer in errors of this kind, and nothing else in making a
        // connection does.
        return match io_kind(error) {
            Some(io::ErrorKind::InvalidData) => (NetErrorKind::Tls, "no trusted connection"),
            _ => (NetErrorKind::Connect, "cannot connect"),
        };
    }
    if causes(error).any(wants_other_certificate) {
        return (NetErrorKind::Tls, "the server takes no connection with this client certificate, or none");
    }
    let kind = if error.is_timeout() { NetErrorKind::Timeout } else { NetErrorKind::Broken };
    (kind, "connection lost")
}

/// Whether the peer refuses the certificate that it was shown, or the lack of one. In TLS 1.3 that comes when
/// the connection is already made on this side, in place of the first answer.
fn wants_other_certificate(error: &(dyn Error + 'static)) -> bool {
    use rustls::AlertDescription as Alert;
    let Some(rustls::Error::AlertReceived(alert)) = error.downcast_ref() else { return false };
    matches!(
        alert,
        Alert::AccessDenied
            | Alert::BadCertificate
            | Alert::CertificateExpired
            | Alert::CertificateRequired
            | Alert::CertificateRevoked
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::UnsupportedCertificate
    )
}

/// Whether no connection was made for a reason on this side of the peer.
fn no_way(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let number = error.downcast_ref::<io::Error>()?.raw_os_error()?;
    let is_any = |numbers: &[Errno]| numbers.iter().any(|errno| errno.raw_os_error() == number);
    if is_any(&[Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::NETDOWN]) {
        Some("no route")
    } else if is_any(&[Errno::ADDRNOTAVAIL]) {
        Some("no free port, or no address, to connect from")
    } else if is_any(&[Errno::MFILE, Errno::NFILE]) {
        Some("no free file handle")
    } else if is_any(&[Errno::NOBUFS]) {
        Some("no memory for a connection")
    } else {
        None
    }
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
