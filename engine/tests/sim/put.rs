//! A server of plain PUT: atomic, or in place, or one that says 200 and stores nothing; it tells much of an object,
//! little, or lets nobody look.
//!
//! Honest otherwise: what HEAD and GET show is what stands there. A body that breaks off leaves the old object
//! (atomic), or what came of it (in place).

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::Method;

use super::get::Served;
use super::rng::{Content, Rng, freight};
use super::tus::{Head, Reply};

/// What becomes of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The object is replaced when all is there.
    Atomic,
    /// The object is what has come so far.
    InPlace,
    /// 200, and nothing happens.
    Forgetful,
}

/// Who may look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looks {
    Anyone,
    /// HEAD is not allowed.
    ByGet,
    /// GET neither.
    Nobody,
}

struct Object {
    content: Vec<u8>,
    serial: u64,
    modified: Duration,
}

/// The place of one job's object.
#[expect(clippy::struct_excessive_bools, reason = "a server's freedoms are many, and independent")]
pub struct Slot {
    pub kind: Kind,
    pub looks: Looks,
    /// Something stood there before.
    pub taken: bool,
    etag: bool,
    dated: bool,
    tells_tag: bool,
    /// Looks at If-None-Match.
    conditions: bool,
    /// Redirects on the way to it.
    pub hops: u8,
    object: Option<Object>,
}

/// Every slot, by job.
#[derive(Default)]
pub struct Puts {
    pub slots: BTreeMap<u64, Slot>,
    serial: u64,
    /// What OPTIONS is answered by.
    options: u16,
}

/// A body on its way.
pub struct Taking {
    job: u64,
    /// Of an atomic PUT.
    bytes: Vec<u8>,
    serial: u64,
}

/// What the server does with a request whose head it has read.
pub enum Verdict {
    Reply(Served),
    Body(Taking),
}

impl Slot {
    /// For a file of this size.
    pub fn draw(rng: &mut Rng, size: u64) -> Self {
        let before = rng.pick(&[None, None, None, Some(size), Some(size), Some(size / 2 + 1)]);
        let object = before.map(|len| Object {
            content: freight(rng.bits(), len as usize).to_vec(),
            serial: 0,
            modified: Duration::ZERO,
        });
        Self {
            kind: rng.pick(&[Kind::Atomic, Kind::Atomic, Kind::InPlace, Kind::Forgetful]),
            looks: rng.pick(&[Looks::Anyone, Looks::Anyone, Looks::Anyone, Looks::ByGet, Looks::Nobody]),
            taken: object.is_some(),
            etag: rng.chance(600),
            dated: rng.chance(500),
            tells_tag: rng.chance(500),
            conditions: rng.chance(600),
            hops: rng.pick(&[0, 0, 0, 0, 1, 2, 9]),
            object,
        }
    }

    pub fn content(&self) -> Option<&[u8]> {
        self.object.as_ref().map(|object| object.content.as_slice())
    }

    /// Whether every PUT's outcome can be told by a look.
    pub fn is_plain(&self) -> bool {
        self.kind != Kind::Forgetful && self.looks == Looks::Anyone && !self.taken && self.hops == 0
    }

    fn described(&self, reply: Reply, object: &Object) -> Reply {
        let reply = if self.etag { reply.with("etag", format!("\"s{}\"", object.serial)) } else { reply };
        let at = UNIX_EPOCH + Duration::from_secs(1_800_000_000) + object.modified;
        if self.dated { reply.with("last-modified", httpdate::fmt_http_date(at)) } else { reply }
    }

    fn look(&self, head: &Head<'_>) -> Served {
        let refused = match self.looks {
            Looks::Anyone => false,
            Looks::ByGet => *head.method == Method::HEAD,
            Looks::Nobody => true,
        };
        if refused {
            return nothing(405);
        }
        let Some(object) = &self.object else { return nothing(404) };
        let len = object.content.len() as u64;
        if *head.method == Method::HEAD {
            return bare(self.described(Reply::new(200), object).with("content-length", len));
        }
        if head.text("range").is_none() || len == 0 {
            let status = if len == 0 && head.text("range").is_some() { 416 } else { 200 };
            let reply = self.described(Reply::new(status), object);
            let reply = if status == 416 {
                reply.with("content-range", "bytes */0")
            } else {
                reply.with("content-length", len)
            };
            return Served { reply, content: Content::new(object.content.clone()), range: 0..len };
        }
        let reply = self.described(Reply::new(206), object).with("content-range", format!("bytes 0-0/{len}"));
        Served {
            reply: reply.with("content-length", 1),
            content: Content::new(object.content.clone()),
            range: 0..1,
        }
    }
}

fn bare(reply: Reply) -> Served {
    Served { reply, content: Content::default(), range: 0..0 }
}

fn nothing(status: u16) -> Served {
    bare(Reply::new(status))
}

impl Puts {
    pub fn draw(rng: &mut Rng) -> Self {
        Self { options: rng.pick(&[200, 204, 404, 405, 501]), ..Self::default() }
    }

    pub fn head(&mut self, head: &Head<'_>) -> Verdict {
        let job = head.numbers().first().copied().unwrap_or_default();
        if *head.method == Method::OPTIONS {
            return Verdict::Reply(nothing(self.options));
        }
        let Some(slot) = self.slots.get_mut(&job) else { return Verdict::Reply(nothing(404)) };
        let hop = head.path.rsplit("hop").next().and_then(|at| at.parse().ok()).unwrap_or(0u8);
        if hop < slot.hops {
            let status = if (job + u64::from(hop)).is_multiple_of(2) { 307 } else { 308 };
            let to = format!("http://put2.sim/{job}/hop{}", hop + 1);
            return Verdict::Reply(bare(Reply::new(status).with("location", to)));
        }
        match *head.method {
            Method::HEAD | Method::GET => Verdict::Reply(slot.look(head)),
            Method::PUT => {
                let unwanted = head.text("if-none-match") == Some("*") && slot.object.is_some();
                if slot.conditions && unwanted {
                    return Verdict::Reply(nothing(412));
                }
                self.serial += 1;
                let serial = self.serial;
                if slot.kind == Kind::InPlace {
                    slot.object = Some(Object { content: Vec::new(), serial, modified: head.now });
                }
                Verdict::Body(Taking { job, bytes: Vec::new(), serial })
            }
            _ => Verdict::Reply(nothing(405)),
        }
    }

    pub fn feed(&mut self, taking: &mut Taking, bytes: &Bytes) -> bool {
        match self.slots.get_mut(&taking.job) {
            Some(Slot { kind: Kind::InPlace, object: Some(object), .. })
                if object.serial == taking.serial =>
            {
                object.content.extend_from_slice(bytes);
            }
            // Another PUT has begun over it: what comes now goes nowhere.
            Some(Slot { kind: Kind::InPlace, .. }) | None => return false,
            Some(_) => taking.bytes.extend_from_slice(bytes),
        }
        true
    }

    /// Whether nothing will come of this body.
    pub fn is_forgetful(&self, taking: &Taking) -> bool {
        self.slots.get(&taking.job).is_some_and(|slot| slot.kind == Kind::Forgetful)
    }

    /// Whether a part of this body now stands as an object.
    pub fn is_fragment(&self, taking: &Taking) -> bool {
        self.slots.get(&taking.job).is_some_and(|slot| {
            slot.kind == Kind::InPlace
                && slot.object.as_ref().is_some_and(|object| object.serial == taking.serial)
        })
    }

    /// The whole body is there.
    pub fn finish(&mut self, taking: Taking, now: Duration) -> Option<Reply> {
        let slot = self.slots.get_mut(&taking.job)?;
        match slot.kind {
            Kind::Forgetful => return Some(Reply::new(200)),
            Kind::Atomic => {
                slot.object = Some(Object { content: taking.bytes, serial: taking.serial, modified: now });
            }
            Kind::InPlace => {
                slot.object.as_mut().filter(|object| object.serial == taking.serial)?.modified = now;
            }
        }
        let reply = Reply::new(if slot.taken { 204 } else { 201 });
        let tells = slot.tells_tag && slot.etag;
        Some(if tells { reply.with("etag", format!("\"s{}\"", taking.serial)) } else { reply })
    }
}
