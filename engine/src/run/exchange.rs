//! One request of a job and what comes of it: the body from the snapshot, the reply to the protocol or the part
//! file.
//!
//! Invariant: what belongs to the job's own server (its headers, its credential) goes to that server alone. Absent on
//! purpose: what to ask for next, and when to try again.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, StreamExt as _};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use tokio::sync::oneshot;

use super::echo::Echo;
use super::perform::{Hand, StoreOrder, known};
use super::staging::{self, SnapshotSource};
use super::transfer::{self, Download, End, Pace, Progress, Tail, Upload, take_fault};
use crate::job::step::{Input, LocalFault};
use crate::job::{Job, Part, SuspendCause, TransportOptions};
use crate::ports::{HttpRequest, HttpResponse, NetError, NetErrorKind, RequestBody, Transport};
use crate::protocol::{self, Body, Reply, Send, Sink, wire};
use crate::secret::{CredentialRef, Secrets};

/// Bytes of an unexpected answer's body that are looked at.
const ODD_BODY_MAX: usize = 64 << 10;

/// One request and what comes of it.
pub(super) struct Exchange {
    send: Send,
    snapshot: Option<SnapshotSource>,
    part: Option<Part>,
    done: u64,
    credential: Option<CredentialRef>,
    headers: Vec<(String, String)>,
    secrets: Option<PathBuf>,
    transport: Arc<TransportOptions>,
    job_url: String,
    /// How many exchanges share what may be lost at a kill.
    lanes: u16,
    size: Option<u64>,
    ordered: oneshot::Receiver<StoreOrder>,
    progress: Arc<Progress>,
    pace: Pace,
    tail: Arc<Tail>,
    /// Of the request as it was sent.
    echo: Echo,
}

/// Why an exchange brought nothing for the protocol.
enum Failure {
    Net(NetError),
    Local(LocalFault),
    Credential(String),
}

impl Exchange {
    /// For a request of this job.
    pub(super) fn new(
        job: &Job,
        send: Send,
        stage_dir: &std::path::Path,
        ordered: oneshot::Receiver<StoreOrder>,
        progress: &Arc<Progress>,
        pace: Pace,
    ) -> Self {
        let snapshot = job.core.snapshot.clone().map(|snapshot| SnapshotSource {
            snapshot,
            source_path: job.spec.path.clone(),
            stage_path: job.stage_path(stage_dir),
        });
        Self {
            send,
            snapshot,
            part: job.core.part.clone(),
            done: job.core.done,
            credential: job.spec.credential.clone(),
            headers: job.spec.headers.clone(),
            secrets: job.spec.has_secrets.then(|| job.secrets_path(stage_dir)),
            transport: Arc::new(job.spec.transport.clone()),
            job_url: job.spec.url.clone(),
            lanes: job.spec.lanes.max(1),
            size: job.core.size,
            ordered,
            progress: Arc::clone(progress),
            pace,
            tail: Arc::default(),
            echo: Echo::default(),
        }
    }

    /// Sends it, and says what comes back.
    pub(super) async fn run(mut self, hand: &Hand) {
        let lane = self.send.lane;
        let (sink, fault) = (self.send.sink, transfer::FaultSlot::default());
        let answered = self.request(hand, &fault).await;
        self.trace(&answered);
        // A broken source explains whatever the connection made of it.
        if let Some(fault) = take_fault(&fault) {
            self.unsent(hand);
            return hand.fault(fault);
        }
        let is_form = matches!(self.send.body, Body::Form { .. });
        let tail = Arc::clone(&self.tail);
        let lost = |mut lost: NetError| {
            let broke = matches!(lost.kind, NetErrorKind::Broken | NetErrorKind::Timeout);
            if is_form && broke && tail.seal() {
                lost.kind = NetErrorKind::Cut;
            }
            hand.say(Input::Protocol(protocol::Input::Lost { lane, kind: lost.kind, why: lost.message }));
        };
        let response = match answered {
            Ok(response) => response,
            Err(Failure::Net(error)) => return lost(error),
            Err(Failure::Local(fault)) => {
                self.unsent(hand);
                return hand.fault(fault);
            }
            Err(Failure::Credential(why)) => {
                self.unsent(hand);
                return hand.say(Input::Suspend(SuspendCause::Auth(why)));
            }
        };
        let HttpResponse { status, headers, url, framed, mut body } = response;
        let held = sink == Sink::Hold && status.is_success();
        let small = match sink {
            _ if held => Ok(Bytes::new()),
            Sink::Small(limit) => read_small(&mut *body, limit).await,
            Sink::Hold => read_small(&mut *body, ODD_BODY_MAX).await,
        };
        let small = match small {
            Ok(small) => small,
            Err(error) => return lost(error),
        };
        let small = if status.is_success() { small } else { self.echo.blot(small) };
        let reply = Reply { status, headers, url, framed, body: small };
        // From here on the protocol says how far it is.
        self.progress.end(lane);
        hand.say(Input::Protocol(protocol::Input::Reply { lane, reply }));
        if held && let Ok(order) = (&mut self.ordered).await {
            self.store(hand, body, order).await;
        }
    }

    /// Says what was asked of whom, and what came of it: neither path, query nor headers, which may be secret.
    fn trace(&self, answered: &Result<HttpResponse, Failure>) {
        let (method, host) = (&self.send.method, wire::host(&self.send.url));
        match answered {
            Ok(response) => {
                tracing::debug!(%method, %host, status = response.status.as_u16(), "answered");
            }
            Err(Failure::Net(error)) => {
                tracing::debug!(%method, %host, kind = ?error.kind, "no answer");
            }
            Err(Failure::Local(_) | Failure::Credential(_)) => {
                tracing::debug!(%method, %host, "not sent");
            }
        }
    }

    /// What keeps the end of a form back, if this is one.
    pub(super) fn tail(&self) -> Option<Arc<Tail>> {
        matches!(self.send.body, Body::Form { .. }).then(|| Arc::clone(&self.tail))
    }

    /// A failure of our own has kept the request, or its end, from the server.
    fn unsent(&self, hand: &Hand) {
        if self.tail().is_some_and(|tail| tail.seal()) {
            hand.say(Input::Unsent);
        }
    }

    async fn request(&mut self, hand: &Hand, fault: &transfer::FaultSlot) -> Result<HttpResponse, Failure> {
        let secrets = self.secrets(hand).await?;
        let mut headers = self.send.headers.clone();
        // What belongs to the job's own server stays with it: mirrors and redirects get none of it.
        if wire::same_origin(&self.send.url, &self.job_url) {
            self.dress(&mut headers, &secrets).map_err(Failure::Credential)?;
        }
        let proxy_user = secrets.proxy_user.as_ref().map(|user| user.expose().as_str());
        self.echo = Echo::of(&headers, proxy_user);
        let body = match &self.send.body {
            Body::Empty => RequestBody::Empty,
            Body::Bytes(bytes) => RequestBody::Bytes(Bytes::from(bytes.clone())),
            Body::File { range, digest } => {
                let upload = self.open_upload(hand, range.clone(), fault).await.map_err(Failure::Local)?;
                if let Some(wanted) = digest {
                    let value =
                        transfer::hash(&hand.ports, &upload.file, range.clone(), wanted.algorithm).await;
                    let value = match value {
                        Ok(value) => value,
                        Err(error) => {
                            let source = Arc::clone(&upload.source);
                            let fault = hand.local(move |disk| source.fault(disk, &error)).await;
                            return Err(Failure::Local(fault.unwrap_or_else(|halted| halted)));
                        }
                    };
                    headers.insert(wanted.name, wire::digest_value(wanted, &value));
                }
                RequestBody::Stream {
                    len: range.end - range.start,
                    pieces: upload.into_stream(hand.ports.clone()),
                }
            }
            Body::Form { head, tail } => {
                let size = self.snapshot.as_ref().map_or(0, |source| source.snapshot.size);
                let upload = self.open_upload(hand, 0..size, fault).await.map_err(Failure::Local)?;
                let start = stream::iter([Ok(Bytes::from(head.clone()))]);
                let (end, seal) = (Bytes::from(tail.clone()), Arc::clone(&self.tail));
                let end = stream::once(async move {
                    if seal.send() { Ok(end) } else { Err(io::Error::other("given up before its end")) }
                });
                let file = upload.into_stream(hand.ports.clone());
                RequestBody::Stream {
                    len: (head.len() + tail.len()) as u64 + size,
                    pieces: start.chain(file).chain(end).boxed(),
                }
            }
        };
        let request = HttpRequest {
            method: self.send.method.clone(),
            url: self.send.url.clone(),
            headers,
            body,
            follow_redirects: self.send.follow_redirects,
            transport: Transport { options: Arc::clone(&self.transport), proxy_user: secrets.proxy_user },
        };
        hand.ports.net.send(request).await.map_err(Failure::Net)
    }

    async fn secrets(&self, hand: &Hand) -> Result<Secrets, Failure> {
        let Some(path) = self.secrets.clone() else { return Ok(Secrets::default()) };
        let read =
            hand.local(move |disk| staging::read_secrets(disk, &path)).await.map_err(Failure::Local)?;
        read.map_err(|error| Failure::Credential(format!("the job's secrets cannot be read: {error}")))
    }

    /// Adds the job's own headers and its credential. What the protocol itself says is not overruled.
    fn dress(&self, headers: &mut HeaderMap, secrets: &Secrets) -> Result<(), String> {
        let open = self.headers.iter().map(|(name, value)| (name, value, false));
        let secret = secrets.headers.iter().map(|(name, value)| (name, value.expose(), true));
        for (name, value, is_secret) in open.chain(secret) {
            let unusable = |_| format!("the header {name} cannot be sent as it is");
            let key = HeaderName::try_from(name).map_err(|_| format!("{name} is no name of a header"))?;
            let mut value = HeaderValue::from_str(value).map_err(unusable)?;
            value.set_sensitive(is_secret);
            if !self.send.headers.contains_key(&key) {
                headers.append(key, value);
            }
        }
        let given = headers.contains_key(header::AUTHORIZATION);
        if let Some(credential) = self.credential.as_ref().filter(|_| !given)
            && let Some(value) = authorization(credential, &self.send.url)?
        {
            headers.insert(header::AUTHORIZATION, value);
        }
        Ok(())
    }

    async fn open_upload(
        &self,
        hand: &Hand,
        range: std::ops::Range<u64>,
        fault: &transfer::FaultSlot,
    ) -> Result<Upload, LocalFault> {
        let source = self.snapshot.clone();
        let source = source.ok_or_else(|| LocalFault::Fatal("no snapshot is journaled".to_owned()))?;
        let source = Arc::new(source);
        let opened = Arc::clone(&source);
        let (file, _) = hand.local(move |disk| staging::open_snapshot(disk, &opened)).await??;
        self.progress.begin(self.send.lane, range.start);
        Ok(Upload {
            lane: self.send.lane,
            file,
            range,
            source,
            progress: Arc::clone(&self.progress),
            pace: self.pace.clone(),
            fault: Arc::clone(fault),
        })
    }

    async fn store(&self, hand: &Hand, body: Box<dyn crate::ports::ResponseBody>, order: StoreOrder) {
        let lane = self.send.lane;
        let part = match known(self.part.clone()) {
            Ok(part) => part,
            Err(fault) => return hand.fault(fault),
        };
        let have = if order.within { self.size.unwrap_or(0) } else { order.offset.min(self.done) };
        let file = match hand.local(move |disk| staging::open_part(disk, &part, have)).await {
            Ok(Ok(file)) => file,
            Ok(Err(fault)) | Err(fault) => return hand.fault(fault),
        };
        self.progress.begin(lane, order.offset);
        let download = Download {
            lane,
            file,
            offset: order.offset,
            limit: order.limit,
            within: order.within,
            share: self.lanes,
            progress: Arc::clone(&self.progress),
            pace: self.pace.clone(),
            gate: hand.gate.clone(),
        };
        let progress = Arc::clone(&self.progress);
        let synced = |extent: std::ops::Range<u64>, last| {
            progress.confirmed(lane, extent.end);
            hand.say(Input::Protocol(protocol::Input::Synced { lane, extent, last }));
        };
        match download.run(&hand.ports, body, |extent| synced(extent, false)).await {
            End::Whole(extent) => synced(extent, true),
            End::Lost(extent, kind, why) => {
                if !extent.is_empty() {
                    synced(extent, false);
                }
                hand.say(Input::Protocol(protocol::Input::Lost { lane, kind, why }));
            }
            End::Fault(fault) => hand.fault(fault),
        }
    }
}

async fn read_small(body: &mut dyn crate::ports::ResponseBody, limit: usize) -> Result<Bytes, NetError> {
    let mut small = BytesMut::new();
    while small.len() < limit {
        let Some(chunk) = body.chunk().await? else { break };
        let room = limit - small.len();
        small.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
    Ok(small.freeze())
}

/// The value of Authorization that a credential makes for a URL; none if it has nothing for its host.
fn authorization(credential: &CredentialRef, url: &str) -> Result<Option<HeaderValue>, String> {
    let secret = crate::os::credential::read(credential, url)
        .map_err(|error: io::Error| format!("{credential}: {error}"))?;
    let Some(secret) = secret else { return Ok(None) };
    let mut value = HeaderValue::from_str(secret.expose())
        .map_err(|_| format!("{credential} holds characters that a header cannot carry"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}
