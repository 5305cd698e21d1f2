//! The network between the engine and the model servers, and all that it does to an exchange.
//!
//! A request whose future is dropped is a connection that breaks: the server keeps what it has read.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, Method, StatusCode};
use longhaul::sim::{
    BoxFuture, HttpRequest, HttpResponse, Net, NetError, NetErrorKind, RequestBody, ResponseBody,
};

use super::fault::Fault;
use super::get::Served;
use super::rng::{Content, Rng};
use super::tus::{Head, Reply, Taking, Tus, Verdict};
use super::world::{World, lock, never};

/// Nothing moved for this long: the engine's own limit (`os::net`), kept here by the simulation.
const STALL: Duration = Duration::from_secs(60);
/// Requests up to this size may be sent twice by a middle box.
const DUPLICATE_MAX: u64 = 1 << 20;

pub struct SimNet {
    pub world: Arc<World>,
    pub life: u64,
    /// Bytes of a piece on the wire, and the time it takes.
    pub piece: usize,
    pub piece_ms: u64,
}

impl Net for SimNet {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, NetError>> {
        Box::pin(self.exchange(request))
    }
}

fn lost(kind: NetErrorKind) -> NetError {
    NetError { kind, message: format!("simulated: {kind:?}") }
}

/// Where an exchange breaks, if it does.
#[derive(Clone, Copy)]
struct Break {
    at: u64,
    stalls: bool,
}

impl Break {
    async fn happen(self, world: &World) -> NetError {
        if self.stalls {
            world.sleep(STALL).await;
            return lost(NetErrorKind::Timeout);
        }
        lost(NetErrorKind::Broken)
    }
}

impl SimNet {
    fn breaks(&self, len: u64, reset: Fault, stall: Fault) -> Option<Break> {
        let (resets, stalls) = (self.world.fires(reset), self.world.fires(stall));
        (resets || stalls).then(|| Break { at: self.world.rng(|rng| rng.within(0, len)), stalls })
    }

    async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, NetError> {
        let world = &self.world;
        let HttpRequest { method, url, headers, body, .. } = request;
        let range = headers.get("range").or(headers.get("upload-offset"));
        if world.enter(self.life, format_args!("net {method} {url} {range:?}")).is_err() {
            return never().await;
        }
        world.tally(|tally| tally.requests += 1);
        self.suspended_asks(&url);
        world.sleep(Duration::from_millis(world.rng(|rng| rng.within(1, 40)))).await;
        if world.fires(Fault::ConnectRefused) {
            return Err(lost(NetErrorKind::Connect));
        }
        let (host, path) =
            url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).unwrap_or_default();
        let odd = self.odd_answer(&method, host);
        let answered = match odd {
            Some(reply) => Served { reply, content: Content::default(), range: 0..0 },
            None if host == "tus.sim" => self.tus(&method, path, &headers, body).await?,
            None => self.get(&method, path, &headers),
        };
        self.answer(&url, &method, answered).await
    }

    /// A job that was told to hold still makes no request.
    fn suspended_asks(&self, url: &str) {
        let held =
            self.world.held().iter().any(|job| url.split('/').nth(3) == Some(job.to_string().as_str()));
        if held {
            self.world.violate(format!("R13: a suspended job asks for {url}"));
        }
    }

    /// What a server, or something before it, says without looking at the request.
    fn odd_answer(&self, method: &Method, host: &str) -> Option<Reply> {
        let world = &self.world;
        if world.fires(Fault::Status500) {
            return Some(Reply::new(500));
        }
        if world.fires(Fault::Throttled) {
            let (status, after_s) = world.rng(|rng| (rng.pick(&[429, 503]), rng.pick(&[0, 1, 7, 100])));
            return Some(Reply::new(status).with("retry-after", after_s));
        }
        let is_tus = host == "tus.sim";
        if is_tus && *method == Method::PATCH && world.fires(Fault::Conflict) {
            return Some(Reply::new(409));
        }
        let of_upload = matches!(*method, Method::PATCH | Method::HEAD | Method::DELETE);
        (is_tus && of_upload && world.fires(Fault::Locked)).then(|| Reply::new(423))
    }

    /// The misfortunes of a tus server, before it looks at a request.
    fn tus_troubles(&self, path: &str) {
        let world = &self.world;
        if world.fires(Fault::ServerRestart) {
            let loses = world.rng(|rng| rng.chance(500));
            lock(&world.tus).restart(loses);
        }
        let chance = world.rng(Rng::bits);
        let mut tus = lock(&world.tus);
        if tus.has_begun(path) && world.fires(Fault::LostConfirmed) {
            tus.lose_confirmed(path, &mut Rng::new(chance));
        }
        if tus.has_begun(path) && world.fires(Fault::SessionLost) {
            tus.drop_upload(path);
        }
    }

    async fn tus(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        body: RequestBody,
    ) -> Result<Served, NetError> {
        self.tus_troubles(path);
        let world = &self.world;
        let (len, pieces) = match body {
            RequestBody::Empty => (0, futures_util::stream::empty().boxed()),
            RequestBody::Bytes(bytes) => {
                (bytes.len() as u64, futures_util::stream::iter([Ok(bytes)]).boxed())
            }
            RequestBody::Stream { len, pieces } => (len, pieces),
        };
        let twice = len <= DUPLICATE_MAX && world.fires(Fault::Duplicate);
        let head = || Head { method, path, headers, len, now: world.now() };
        let lags = len > 0 && world.fires(Fault::LateBytes);
        let verdict = lock(&world.tus).head(&head(), lags);
        self.report_wrongs();
        let Verdict::Body(taking) = verdict else {
            let Verdict::Reply(mut reply) = verdict else { return Err(lost(NetErrorKind::Broken)) };
            if twice && let Verdict::Reply(second) = lock(&world.tus).head(&head(), false) {
                reply = if world.rng(|rng| rng.chance(500)) { second } else { reply };
            }
            return Ok(served(reply));
        };
        let mut open = Open { world: Arc::clone(world), taking: Some(taking) };
        let sent = self.feed(&mut open, len, pieces, twice).await?;
        let Some(taking) = open.taking.take() else { return Err(lost(NetErrorKind::Broken)) };
        let Some(mut reply) = lock(&world.tus).finish(taking, world.now()) else {
            return Err(lost(NetErrorKind::Broken));
        };
        if twice {
            let second = self.again(&head(), sent);
            // A 404 for what was just completed would be a lie that no client can see through.
            let second = (second.status != 404).then_some(second);
            reply = second.filter(|_| world.rng(|rng| rng.chance(500))).unwrap_or(reply);
        }
        self.report_wrongs();
        Ok(served(reply))
    }

    /// Carries a body to the server, piece by piece; gives it back when it is to be sent twice.
    async fn feed(
        &self,
        open: &mut Open,
        len: u64,
        mut pieces: futures_util::stream::BoxStream<'static, io::Result<Bytes>>,
        keep: bool,
    ) -> Result<Vec<u8>, NetError> {
        let breaks = self.breaks(len, Fault::ResetUp, Fault::StallUp);
        let (mut sent, mut kept) = (0, Vec::new());
        while let Some(piece) = pieces.next().await {
            let Ok(mut piece) = piece else { return Err(lost(NetErrorKind::Body)) };
            if keep {
                kept.extend_from_slice(&piece);
            }
            while !piece.is_empty() {
                let until_break = breaks.map_or(u64::MAX, |breaks| breaks.at.saturating_sub(sent));
                let take = (self.piece as u64).min(until_break).min(piece.len() as u64) as usize;
                self.pass(take).await;
                let piece = piece.split_to(take);
                let taken =
                    open.taking.as_mut().is_some_and(|taking| lock(&self.world.tus).feed(taking, piece));
                if !taken {
                    return Err(lost(NetErrorKind::Broken));
                }
                sent += take as u64;
                if let Some(breaks) = breaks.filter(|breaks| breaks.at <= sent) {
                    return Err(breaks.happen(&self.world).await);
                }
            }
        }
        if sent != len {
            self.world.violate(format!("a body of {len} bytes ended after {sent}"));
            return Err(lost(NetErrorKind::Broken));
        }
        Ok(kept)
    }

    /// The same request once more.
    fn again(&self, head: &Head<'_>, body: Vec<u8>) -> Reply {
        let mut tus = lock(&self.world.tus);
        match tus.head(head, false) {
            Verdict::Reply(reply) => reply,
            Verdict::Body(mut taking) => {
                tus.feed(&mut taking, Bytes::from(body));
                tus.finish(taking, head.now).unwrap_or_else(|| Reply::new(500))
            }
        }
    }

    fn get(&self, method: &Method, path: &str, headers: &HeaderMap) -> Served {
        let world = &self.world;
        let asks_range = headers.contains_key("range");
        let ranged = !(asks_range && world.fires(Fault::RangeIgnored));
        let head = Head { method, path, headers, len: 0, now: world.now() };
        let served = lock(&world.shelf).answer(&head, ranged);
        self.report_wrongs();
        served
    }

    fn report_wrongs(&self) {
        let mut wrongs = std::mem::take(&mut lock(&self.world.tus).wrong);
        wrongs.append(&mut lock(&self.world.shelf).wrong);
        // These make a download begin anew for good reason.
        let anew = [Fault::RangeIgnored, Fault::PartDeleted, Fault::PartTruncated, Fault::ReadError];
        let excused = self.world.tally(|tally| tally.any(&anew));
        for wrong in wrongs.into_iter().filter(|wrong| !(excused && wrong.starts_with("I5"))) {
            self.world.violate(wrong);
        }
    }

    /// The time that a piece takes, on a line that a dead process no longer has.
    async fn pass(&self, bytes: usize) {
        pass(&self.world, self.life, self.piece_ms, bytes).await;
    }

    async fn answer(&self, url: &str, method: &Method, served: Served) -> Result<HttpResponse, NetError> {
        let world = &self.world;
        let Served { mut reply, content, range } = served;
        world.sleep(Duration::from_millis(world.rng(|rng| rng.within(1, 40)))).await;
        if reply.status < 400 && world.fires(Fault::GatewayTimeout) {
            reply = Reply::new(world.rng(|rng| rng.pick(&[502, 504])));
        }
        world.note(format_args!("    < {} {range:?} to {method} {url}", reply.status));
        if world.fires(Fault::ReplyLost) {
            return Err(lost(NetErrorKind::Broken));
        }
        let has_file = reply.status < 300 && *method == Method::GET;
        let len = if has_file { range.end - range.start } else { 0 };
        let breaks = self.breaks(len, Fault::ResetDown, Fault::StallDown);
        if let Some(breaks) = breaks.filter(|_| !has_file) {
            return Err(breaks.happen(world).await);
        }
        if !world.is_alive(self.life) {
            return never().await;
        }
        let body = SimBody {
            world: Arc::clone(world),
            life: self.life,
            content,
            at: range.start,
            end: range.start + len,
            breaks: breaks.map(|breaks| Break { at: range.start + breaks.at, ..breaks }),
            piece: self.piece,
            piece_ms: self.piece_ms,
        };
        let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::IM_A_TEAPOT);
        Ok(HttpResponse {
            status,
            headers: reply.headers,
            url: url.to_owned(),
            framed: true,
            body: Box::new(body),
        })
    }
}

fn served(reply: Reply) -> Served {
    Served { reply, content: Content::default(), range: 0..0 }
}

async fn pass(world: &World, life: u64, piece_ms: u64, bytes: usize) {
    if bytes > 0 {
        let ms = world.rng(|rng| rng.within(0, piece_ms));
        world.sleep(Duration::from_millis(ms)).await;
    }
    if world.enter(life, format_args!("    ~ {bytes}")).is_err() {
        never::<()>().await;
    }
}

/// A request body that the server is reading. Dropped before its end, it is a broken connection.
struct Open {
    world: Arc<World>,
    taking: Option<Taking>,
}

impl Drop for Open {
    fn drop(&mut self) {
        let Some(taking) = self.taking.take() else { return };
        let (now, chance) = (self.world.now(), self.world.rng(Rng::bits));
        self.world.note(format_args!("    x a body ends early"));
        if Tus::is_late(&taking) && !self.world.is_quiet() {
            self.world.note(format_args!("    x with bytes on their way"));
        }
        lock(&self.world.tus).abort(taking, now, &mut Rng::new(chance));
    }
}

/// A file on its way to the engine.
struct SimBody {
    world: Arc<World>,
    life: u64,
    content: Content,
    at: u64,
    end: u64,
    breaks: Option<Break>,
    piece: usize,
    piece_ms: u64,
}

impl SimBody {
    async fn next(&mut self) -> Result<Option<Bytes>, NetError> {
        if let Some(breaks) = self.breaks.filter(|breaks| breaks.at <= self.at) {
            return Err(breaks.happen(&self.world).await);
        }
        if self.at == self.end {
            return Ok(None);
        }
        let until = self.breaks.map_or(self.end, |breaks| breaks.at.min(self.end));
        let len = (self.piece as u64).min(until - self.at);
        pass(&self.world, self.life, self.piece_ms, len as usize).await;
        let piece = Bytes::copy_from_slice(&self.content[self.at as usize..(self.at + len) as usize]);
        self.at += len;
        Ok(Some(piece))
    }
}

impl ResponseBody for SimBody {
    fn chunk(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, NetError>> {
        let next: std::pin::Pin<Box<dyn Future<Output = _> + Send + '_>> = Box::pin(self.next());
        next
    }
}
