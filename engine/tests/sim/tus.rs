//! A tus 1.0 server by the letter: creation, creation-with-upload, termination, checksum, expiration,
//! concatenation.
//!
//! Honest: what it confirmed it holds, and an object is what was sent in order. What makes it hard are
//! its freedoms: it may keep or drop the bytes of a broken request, take them late, lock, forget a
//! finished upload, or be restarted and lose what it had not confirmed.
//!
//! Request targets are `/JOB/` for creations and `/JOB/UPLOAD` for uploads, so that each belongs to a job.
//! To join parts is not idempotent: each request that names whole parts makes another object.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use sha1::Digest as _;

use super::rng::{Content, Rng};

/// A request's head, as a server sees it.
pub struct Head<'a> {
    pub method: &'a Method,
    pub host: &'a str,
    pub path: &'a str,
    pub headers: &'a HeaderMap,
    pub len: u64,
    pub now: Duration,
}

impl Head<'_> {
    pub fn text(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// The numbers in the path.
    pub fn numbers(&self) -> Vec<u64> {
        self.path.split('/').filter_map(|part| part.parse().ok()).collect()
    }
}

/// An answer without a file in it.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
}

impl Reply {
    pub fn new(status: u16) -> Self {
        Self { status, headers: HeaderMap::new() }
    }

    pub fn with(mut self, name: &'static str, value: impl std::fmt::Display) -> Self {
        if let Ok(value) = HeaderValue::try_from(format!("{value}")) {
            self.headers.insert(HeaderName::from_static(name), value);
        }
        self
    }
}

/// What the server does with a request whose head it has read.
pub enum Verdict {
    Reply(Reply),
    Body(Taking),
}

/// A body on its way into an upload.
pub struct Taking {
    upload: u64,
    from: u64,
    /// Where the next byte goes; an upload that is not there (any more) breaks the connection.
    at: u64,
    creation: bool,
    host: String,
    /// With a checksum nothing counts before all is there.
    digest: Option<Vec<u8>>,
    held: Vec<u8>,
    /// The last piece waits in a buffer, and arrives even if the connection does not live on.
    lags: bool,
    lag: Option<Bytes>,
}

#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "a server's freedoms are many, and independent")]
pub struct Offer {
    options: bool,
    with_upload: bool,
    checksum: Option<&'static str>,
    pub termination: bool,
    expiry: Option<Duration>,
    locks: bool,
    keeps_partial: bool,
    gone_when_complete: bool,
    tells_length: bool,
    relative: bool,
    joins: bool,
    /// Time that it takes to join parts.
    join_ms: u64,
}

pub struct Upload {
    pub job: u64,
    len: u64,
    data: Vec<u8>,
    /// The offset that was confirmed last.
    told: u64,
    busy_until: Duration,
    used_at: Duration,
    pub complete: bool,
    /// Its bytes are of no use by themselves.
    pub partial: bool,
    /// It is not shown as whole before.
    joined_at: Duration,
    /// Asked for by its URL: whoever did knew it.
    pub known: bool,
}

/// What a finished upload has become.
pub struct Object {
    pub job: u64,
    pub content: Content,
    /// Taken back by a DELETE.
    pub withdrawn: bool,
    /// Joined from parts.
    pub joined: bool,
    upload: u64,
}

struct Late {
    due: Duration,
    upload: u64,
    from: u64,
    bytes: Bytes,
}

pub struct Tus {
    pub offer: Offer,
    pub uploads: BTreeMap<u64, Upload>,
    pub objects: Vec<Object>,
    /// Creations by job.
    pub creations: BTreeMap<u64, u64>,
    next: u64,
    late: Vec<Late>,
    /// What clients did that the protocol forbids.
    pub wrong: Vec<String>,
}

impl Tus {
    pub fn draw(rng: &mut Rng) -> Self {
        let gone_when_complete = rng.chance(150);
        let offer = Offer {
            options: rng.chance(850),
            with_upload: rng.chance(500),
            checksum: rng.pick(&[None, None, None, Some("sha1"), Some("sha256")]),
            termination: rng.chance(800),
            expiry: rng.chance(300).then(|| Duration::from_secs(rng.within(120, 1800))),
            locks: rng.chance(500),
            keeps_partial: rng.chance(700),
            gone_when_complete,
            tells_length: rng.chance(900),
            relative: rng.chance(500),
            joins: rng.chance(600),
            join_ms: rng.pick(&[0, 0, 0, 3000]),
        };
        let (uploads, creations) = (BTreeMap::new(), BTreeMap::new());
        Self { offer, uploads, objects: Vec::new(), creations, next: 1, late: Vec::new(), wrong: Vec::new() }
    }

    /// Files stay small where every byte is hashed.
    pub fn hashes(&self) -> bool {
        self.offer.checksum.is_some()
    }

    fn wrong(&mut self, head: &Head<'_>, what: &str) -> Verdict {
        self.wrong.push(format!("tus: {} {}: {what}", head.method, head.path));
        Verdict::Reply(Reply::new(400))
    }

    pub fn head(&mut self, head: &Head<'_>, lags: bool) -> Verdict {
        self.settle(head.now);
        if *head.method == Method::OPTIONS {
            return Verdict::Reply(self.options(head.host));
        }
        if head.text("tus-resumable") != Some("1.0.0") {
            return self.wrong(head, "without Tus-Resumable: 1.0.0");
        }
        match *head.numbers() {
            [job] if *head.method == Method::POST => self.create(head, job, lags),
            [_, upload] => self.request(head, upload, lags),
            _ => self.wrong(head, "no such resource"),
        }
    }

    fn options(&self, host: &str) -> Reply {
        // Where the protocol is left open, only an answer can say that it is tus.
        if !self.offer.options && host == "tus.sim" {
            return Reply::new(405);
        }
        let mut extensions = vec!["creation"];
        extensions.extend(self.offer.with_upload.then_some("creation-with-upload"));
        extensions.extend(self.offer.termination.then_some("termination"));
        extensions.extend(self.offer.expiry.map(|_| "expiration"));
        extensions.extend(self.offer.checksum.map(|_| "checksum"));
        extensions.extend(self.offer.joins.then_some("concatenation"));
        let reply = Reply::new(204).with("tus-version", "1.0.0").with("tus-extension", extensions.join(","));
        match self.offer.checksum {
            Some(name) => reply.with("tus-checksum-algorithm", name),
            None => reply,
        }
    }

    fn create(&mut self, head: &Head<'_>, job: u64, lags: bool) -> Verdict {
        let partial = match head.text("upload-concat") {
            None => false,
            Some(_) if !self.offer.joins => return self.wrong(head, "joins what cannot be joined"),
            Some("partial") => true,
            Some(list) => return self.join(head, job, list),
        };
        let Some(len) = head.number("upload-length") else {
            return self.wrong(head, "without Upload-Length");
        };
        if head.len > 0 && (!self.offer.with_upload || head.len > len) {
            return self.wrong(head, "with a body that was not offered or is too long");
        }
        let id = self.next;
        self.next += 1;
        *self.creations.entry(job).or_default() += 1;
        let upload = Upload {
            job,
            len,
            data: Vec::new(),
            told: 0,
            busy_until: Duration::ZERO,
            used_at: head.now,
            complete: false,
            partial,
            joined_at: Duration::ZERO,
            known: false,
        };
        self.uploads.insert(id, upload);
        let taking = Taking {
            upload: id,
            from: 0,
            at: 0,
            creation: true,
            host: head.host.to_owned(),
            digest: None,
            held: Vec::new(),
            lags,
            lag: None,
        };
        if head.len > 0 {
            Verdict::Body(taking)
        } else {
            Verdict::Reply(self.finish(taking, head.now).unwrap_or_else(|| Reply::new(500)))
        }
    }

    /// Makes one object of parts that are whole.
    fn join(&mut self, head: &Head<'_>, job: u64, list: &str) -> Verdict {
        let urls = list.strip_prefix("final;").unwrap_or_default();
        let ids = urls.split(' ').map(|url| url.rsplit('/').next().and_then(|id| id.parse().ok()));
        let Some(ids) = ids.collect::<Option<Vec<u64>>>() else {
            return self.wrong(head, "names parts that nobody can read");
        };
        let mut data = Vec::new();
        for id in &ids {
            match self.uploads.get_mut(id) {
                None => return Verdict::Reply(Reply::new(404)),
                Some(part) if !part.partial || part.job != job => {
                    return self.wrong(head, "joins what is no part of it");
                }
                Some(part) if !part.complete => return Verdict::Reply(Reply::new(400)),
                Some(part) => {
                    part.used_at = head.now;
                    data.extend_from_slice(&part.data);
                }
            }
        }
        let id = self.next;
        self.next += 1;
        let content = Content::new(data.clone());
        self.objects.push(Object { job, content, withdrawn: false, joined: true, upload: id });
        let upload = Upload {
            job,
            len: data.len() as u64,
            told: data.len() as u64,
            data,
            busy_until: Duration::ZERO,
            used_at: head.now,
            complete: true,
            partial: false,
            joined_at: head.now + Duration::from_millis(self.offer.join_ms),
            known: false,
        };
        self.uploads.insert(id, upload);
        Verdict::Reply(self.located(self.expires(Reply::new(201), head.now), head.host, job, id))
    }

    fn located(&self, reply: Reply, host: &str, job: u64, id: u64) -> Reply {
        let base = if self.offer.relative { String::new() } else { format!("http://{host}") };
        reply.with("location", format!("{base}/{job}/{id}")).with("tus-resumable", "1.0.0")
    }

    fn request(&mut self, head: &Head<'_>, id: u64, lags: bool) -> Verdict {
        let Some(upload) = self.uploads.get_mut(&id) else { return Verdict::Reply(Reply::new(404)) };
        upload.known = true;
        if upload.busy_until > head.now {
            return Verdict::Reply(Reply::new(423));
        }
        upload.used_at = head.now;
        match *head.method {
            Method::HEAD => {
                let (len, offset) = (upload.len, upload.data.len() as u64);
                let offset = if upload.joined_at > head.now { 0 } else { offset };
                upload.told = offset;
                let reply = self.expires(Reply::new(200), head.now).with("upload-offset", offset);
                let reply = reply.with("cache-control", "no-store");
                let tells = self.offer.tells_length;
                Verdict::Reply(if tells { reply.with("upload-length", len) } else { reply })
            }
            Method::DELETE if self.offer.termination => {
                self.uploads.remove(&id);
                for object in self.objects.iter_mut().filter(|object| object.upload == id) {
                    object.withdrawn = true;
                }
                Verdict::Reply(Reply::new(204))
            }
            Method::PATCH => self.patch(head, id, lags),
            _ => Verdict::Reply(Reply::new(405)),
        }
    }

    fn patch(&mut self, head: &Head<'_>, id: u64, lags: bool) -> Verdict {
        let upload = &self.uploads[&id];
        let Some(offset) = head.number("upload-offset") else {
            return self.wrong(head, "without Upload-Offset");
        };
        if head.text("content-type") != Some("application/offset+octet-stream") {
            return self.wrong(head, "with another Content-Type");
        }
        if offset != upload.data.len() as u64 {
            return Verdict::Reply(Reply::new(409));
        }
        if offset + head.len > upload.len {
            return self.wrong(head, "with more than Upload-Length");
        }
        let digest = match (head.text("upload-checksum"), self.offer.checksum) {
            (None, _) => None,
            (Some(_), None) => return self.wrong(head, "with a checksum that was not offered"),
            (Some(value), Some(name)) => {
                match value.strip_prefix(name).map(|rest| STANDARD.decode(rest.trim_start())) {
                    Some(Ok(digest)) => Some(digest),
                    _ => return self.wrong(head, "with an unreadable checksum"),
                }
            }
        };
        Verdict::Body(Taking {
            upload: id,
            from: offset,
            at: offset,
            creation: false,
            host: head.host.to_owned(),
            digest,
            held: Vec::new(),
            lags,
            lag: None,
        })
    }

    /// A piece of the body has arrived. False: the upload is not what it was, the connection breaks.
    pub fn feed(&mut self, taking: &mut Taking, bytes: Bytes) -> bool {
        if taking.digest.is_some() {
            taking.held.extend_from_slice(&bytes);
            return true;
        }
        let piece = if taking.lags { taking.lag.replace(bytes) } else { Some(bytes) };
        piece.is_none_or(|piece| self.store(taking.upload, &mut taking.at, &piece))
    }

    fn store(&mut self, id: u64, at: &mut u64, bytes: &[u8]) -> bool {
        let Some(upload) = self.uploads.get_mut(&id).filter(|upload| upload.data.len() as u64 == *at) else {
            return false;
        };
        upload.data.extend_from_slice(bytes);
        *at += bytes.len() as u64;
        true
    }

    /// The whole body is there. `None`: the connection breaks.
    pub fn finish(&mut self, mut taking: Taking, now: Duration) -> Option<Reply> {
        let mut rest = taking.lag.take().unwrap_or_default();
        if let Some(wanted) = &taking.digest {
            let got = match self.offer.checksum {
                Some("sha1") => sha1::Sha1::digest(&taking.held).to_vec(),
                _ => sha2::Sha256::digest(&taking.held).to_vec(),
            };
            if got != *wanted {
                self.wrong.push(format!("tus: upload {}: body and Upload-Checksum differ", taking.upload));
                return Some(Reply::new(460));
            }
            rest = Bytes::from(taking.held);
        }
        if !self.store(taking.upload, &mut taking.at, &rest) {
            return None;
        }
        let upload = self.uploads.get_mut(&taking.upload)?;
        let offset = upload.data.len() as u64;
        (upload.told, upload.used_at) = (offset, now);
        let job = upload.job;
        self.commit(taking.upload);
        let reply = self.expires(Reply::new(if taking.creation { 201 } else { 204 }), now);
        let reply = reply.with("upload-offset", offset).with("tus-resumable", "1.0.0");
        if !taking.creation {
            return Some(reply);
        }
        Some(self.located(reply, &taking.host, job, taking.upload))
    }

    /// The connection has gone before the body was whole.
    pub fn abort(&mut self, mut taking: Taking, now: Duration, rng: &mut Rng) {
        let Some(upload) = self.uploads.get_mut(&taking.upload) else { return };
        if !self.offer.keeps_partial {
            if upload.data.len() as u64 == taking.at {
                upload.data.truncate(taking.from as usize);
            }
            return;
        }
        let due = now + Duration::from_millis(rng.within(0, 3000));
        if self.offer.locks {
            upload.busy_until = due;
        }
        if let Some(bytes) = taking.lag.take() {
            let from = taking.at;
            self.late.push(Late { due, upload: taking.upload, from, bytes });
        }
        self.commit(taking.upload);
    }

    /// Whether bytes are still on their way.
    pub fn is_late(taking: &Taking) -> bool {
        taking.lag.is_some()
    }

    /// Makes an object of an upload that has all its bytes.
    fn commit(&mut self, id: u64) {
        let Some(upload) = self.uploads.get_mut(&id) else { return };
        if upload.complete || upload.data.len() as u64 != upload.len {
            return;
        }
        upload.complete = true;
        if upload.partial {
            return;
        }
        let content = Content::new(upload.data.clone());
        self.objects.push(Object { job: upload.job, content, withdrawn: false, joined: false, upload: id });
        if self.offer.gone_when_complete {
            self.uploads.remove(&id);
        }
    }

    fn expires(&self, reply: Reply, now: Duration) -> Reply {
        let Some(expiry) = self.offer.expiry else { return reply };
        let at = std::time::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + now + expiry;
        reply.with("upload-expires", httpdate::fmt_http_date(at))
    }

    /// What has become due since the last request.
    pub fn settle(&mut self, now: Duration) {
        let (due, late) = std::mem::take(&mut self.late).into_iter().partition(|late: &Late| late.due <= now);
        self.late = late;
        for Late { upload, mut from, bytes, .. } in due {
            // Where another request was faster, these bytes have the wrong offset.
            if self.store(upload, &mut from, &bytes) {
                self.commit(upload);
            }
        }
        if let Some(expiry) = self.offer.expiry {
            let stays = |upload: &Upload| upload.complete && !upload.partial;
            self.uploads.retain(|_, upload| stays(upload) || upload.used_at + expiry > now);
        }
    }

    /// A restart: what was not confirmed is gone, or not; locks and late bytes are.
    pub fn restart(&mut self, loses: bool) {
        self.late.clear();
        for upload in self.uploads.values_mut() {
            upload.busy_until = Duration::ZERO;
            if loses && !upload.complete {
                upload.data.truncate(upload.told as usize);
            }
        }
    }

    fn unfinished(&mut self, path: &str) -> Option<(u64, &mut Upload)> {
        let id = path.rsplit('/').next()?.parse().ok()?;
        self.uploads.get_mut(&id).filter(|upload| !upload.complete).map(|upload| (id, upload))
    }

    /// Whether uploads vanish without anyone's fault.
    pub fn forgets(&self) -> bool {
        self.offer.gone_when_complete || self.offer.expiry.is_some()
    }

    /// Whether this is the path of an upload that has begun and is not complete.
    pub fn has_begun(&mut self, path: &str) -> bool {
        self.unfinished(path).is_some_and(|(_, upload)| upload.told > 0)
    }

    /// Loses bytes that it had confirmed.
    pub fn lose_confirmed(&mut self, path: &str, rng: &mut Rng) {
        if let Some((_, upload)) = self.unfinished(path) {
            upload.data.truncate(rng.below(upload.told) as usize);
        }
    }

    /// Drops an unfinished upload.
    pub fn drop_upload(&mut self, path: &str) {
        if let Some((id, _)) = self.unfinished(path) {
            self.uploads.remove(&id);
        }
    }
}
