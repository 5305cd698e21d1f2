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
use super::form;
use super::get::Served;
use super::put;
use super::rng::{Content, Rng};
use super::tus::{self, Head, Reply, Tus};
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
        let job = url.split('/').nth(3).and_then(|part| part.parse().ok()).unwrap_or_default();
        let may_free = lock(&world.flight).facts(job).is_some_and(|facts| facts.has_deadline);
        if !(may_free && method == Method::DELETE) {
            self.suspended_asks(&url);
        }
        world.sleep(Duration::from_millis(world.rng(|rng| rng.within(1, 40)))).await;
        let (host, path) =
            url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).unwrap_or_default();
        let aboard = self.board(job, method == Method::DELETE, host, &headers);
        if lock(&world.flight).is_away(host) {
            world.count(Fault::Offline);
            world.sleep(Duration::from_millis(world.rng(|rng| rng.within(1, 40)))).await;
            if let Some(wrong) = lock(&world.flight).in_vain(job, host, world.now()) {
                world.violate(wrong);
            }
            return Err(lost(NetErrorKind::Offline));
        }
        if world.fires(Fault::ConnectRefused) {
            return Err(lost(NetErrorKind::Connect));
        }
        let answered = match self.odd_answer(&method, host) {
            Some(reply) => served(reply),
            None => self.ask(&method, (host, path), &headers, (job, body)).await?,
        };
        self.answer(&url, &method, answered, aboard).await
    }

    /// The exchange is on its way, and counts.
    fn board(&self, job: u64, frees: bool, host: &str, headers: &HeaderMap) -> Aboard {
        let world = &self.world;
        let peak = world.wall_peak();
        let (exchange, wrongs) = lock(&world.flight).start(job, frees, host, world.now(), peak);
        for wrong in wrongs {
            world.violate(wrong);
        }
        let facts = lock(&world.flight).facts(job).cloned();
        if let Some(facts) = facts {
            let own = host == facts.host;
            let shown = headers.get("x-secret").and_then(|value| value.to_str().ok());
            if shown != facts.secret.as_deref().filter(|_| own) {
                world.violate(format!("I13: job {job} shows {host} the secret {shown:?}"));
            }
        }
        Aboard { world: Arc::clone(world), exchange, job }
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
        let is_tus = is_tus(host);
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

    /// Has the server of that host hear the request, and carries its body there.
    async fn ask(
        &self,
        method: &Method,
        (host, path): (&str, &str),
        headers: &HeaderMap,
        (job, body): (u64, RequestBody),
    ) -> Result<Served, NetError> {
        if is_tus(host) {
            self.tus_troubles(path);
        }
        let world = &self.world;
        let (len, pieces) = match body {
            RequestBody::Empty => (0, futures_util::stream::empty().boxed()),
            RequestBody::Bytes(bytes) => {
                (bytes.len() as u64, futures_util::stream::iter([Ok(bytes)]).boxed())
            }
            RequestBody::Stream { len, pieces } => (len, pieces),
        };
        // A form without a key that is sent twice is taken twice: that is nothing a client can help.
        let doubles = is_tus(host) || is_put(host) || headers.contains_key("idempotency-key");
        let twice = doubles && len <= DUPLICATE_MAX && world.fires(Fault::Duplicate);
        let head = || Head { method, host, path, headers, len, now: world.now() };
        let lags = len > 0 && is_tus(host) && world.fires(Fault::LateBytes);
        let answered = self.hear(&head(), lags);
        self.report_wrongs();
        let intake = match answered {
            Heard::Body(intake) => intake,
            Heard::Reply(mut reply) => {
                if twice && let Heard::Reply(second) = self.hear(&head(), false) {
                    reply = if world.rng(|rng| rng.chance(500)) { second } else { reply };
                }
                return Ok(reply);
            }
        };
        let mut open = Open { world: Arc::clone(world), intake: Some(intake) };
        let sent = self.feed(&mut open, (job, len), pieces, twice).await?;
        let Some(intake) = open.intake.take() else { return Err(lost(NetErrorKind::Broken)) };
        let Some(mut reply) = intake.finish(world) else {
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

    /// What the server of a host makes of a request's head.
    fn hear(&self, head: &Head<'_>, lags: bool) -> Heard {
        let world = &self.world;
        match head.host {
            host if is_tus(host) => match lock(&world.tus).head(head, lags) {
                tus::Verdict::Reply(reply) => Heard::Reply(served(reply)),
                tus::Verdict::Body(taking) => Heard::Body(Intake::Tus(taking)),
            },
            host if is_put(host) => match lock(&world.puts).head(head) {
                put::Verdict::Reply(answer) => {
                    if matches!(answer.reply.status, 307 | 308) {
                        world.count(Fault::Redirected);
                    }
                    Heard::Reply(answer)
                }
                put::Verdict::Body(taking) => Heard::Body(Intake::Put(taking)),
            },
            "form.sim" => match lock(&world.forms).head(head) {
                form::Verdict::Reply(reply) => Heard::Reply(served(reply)),
                form::Verdict::Body(taking) => Heard::Body(Intake::Form(taking)),
            },
            _ => {
                let asks_range = head.headers.contains_key("range");
                let ranged = !(asks_range && world.fires(Fault::RangeIgnored));
                let answer = lock(&world.shelf).answer(head, ranged);
                if head.host != "get.sim" {
                    world.tally(|tally| tally.see(format!("mirror answers {}", answer.reply.status)));
                    let odd = lock(&world.shelf).is_odd(head.host, head.numbers().first().copied());
                    if odd {
                        world.count(Fault::OddMirror);
                    }
                }
                Heard::Reply(answer)
            }
        }
    }

    /// Carries a body to the server, piece by piece; gives it back when it is to be sent twice.
    async fn feed(
        &self,
        open: &mut Open,
        (job, len): (u64, u64),
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
                if let Some(wrong) = lock(&self.world.flight).moved(job, take as u64, self.world.now()) {
                    self.world.violate(wrong);
                }
                let taken = open.intake.as_mut().is_some_and(|intake| intake.feed(&self.world, piece));
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
        match self.hear(head, false) {
            Heard::Reply(answer) => answer.reply,
            Heard::Body(mut intake) => {
                intake.feed(&self.world, Bytes::from(body));
                intake.finish(&self.world).unwrap_or_else(|| Reply::new(500))
            }
        }
    }

    fn report_wrongs(&self) {
        let mut wrongs = std::mem::take(&mut lock(&self.world.tus).wrong);
        wrongs.append(&mut lock(&self.world.shelf).wrong);
        wrongs.append(&mut lock(&self.world.forms).wrong);
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

    async fn answer(
        &self,
        url: &str,
        method: &Method,
        served: Served,
        aboard: Aboard,
    ) -> Result<HttpResponse, NetError> {
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
            aboard,
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

/// What a server makes of a request's head.
enum Heard {
    Reply(Served),
    Body(Intake),
}

/// A request body at its server.
enum Intake {
    Tus(tus::Taking),
    Put(put::Taking),
    Form(form::Taking),
}

impl Intake {
    /// A piece has arrived. False: the server breaks the connection.
    fn feed(&mut self, world: &World, piece: Bytes) -> bool {
        match self {
            Self::Tus(taking) => lock(&world.tus).feed(taking, piece),
            Self::Put(taking) => lock(&world.puts).feed(taking, &piece),
            Self::Form(taking) => {
                form::Forms::feed(taking, &piece);
                true
            }
        }
    }

    /// All of it has. `None`: the server breaks the connection.
    fn finish(self, world: &World) -> Option<Reply> {
        match self {
            Self::Tus(taking) => lock(&world.tus).finish(taking, world.now()),
            Self::Put(taking) => {
                if lock(&world.puts).is_forgetful(&taking) {
                    world.count(Fault::NotStored);
                }
                lock(&world.puts).finish(taking, world.now())
            }
            Self::Form(taking) => Some(lock(&world.forms).finish(taking)),
        }
    }

    /// No more of it will.
    fn abort(self, world: &World) {
        let (now, chance) = (world.now(), world.rng(Rng::bits));
        match self {
            Self::Tus(taking) => {
                if Tus::is_late(&taking) && !world.is_quiet() {
                    world.note(format_args!("    x with bytes on their way"));
                }
                lock(&world.tus).abort(taking, now, &mut Rng::new(chance));
            }
            Self::Put(taking) => {
                if lock(&world.puts).is_fragment(&taking) {
                    world.count(Fault::Fragment);
                }
            }
            Self::Form(_) => {}
        }
    }
}

/// An exchange on its way: it counts for the limits until this is dropped.
struct Aboard {
    world: Arc<World>,
    exchange: u64,
    job: u64,
}

impl Drop for Aboard {
    fn drop(&mut self) {
        lock(&self.world.flight).end(self.exchange);
    }
}

fn is_tus(host: &str) -> bool {
    matches!(host, "tus.sim" | "auto1.sim")
}

fn is_put(host: &str) -> bool {
    matches!(host, "put.sim" | "put2.sim" | "auto2.sim")
}

/// A request body that the server is reading. Dropped before its end, it is a broken connection.
struct Open {
    world: Arc<World>,
    intake: Option<Intake>,
}

impl Drop for Open {
    fn drop(&mut self) {
        let Some(intake) = self.intake.take() else { return };
        self.world.note(format_args!("    x a body ends early"));
        intake.abort(&self.world);
    }
}

/// A file on its way to the engine.
struct SimBody {
    aboard: Aboard,
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
        if let Some(wrong) = lock(&self.world.flight).moved(self.aboard.job, len, self.world.now()) {
            self.world.violate(wrong);
        }
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
