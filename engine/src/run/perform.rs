//! The one place where transitions reach the world.
//!
//! [`Performer::perform`] takes a `Committed<Transition>`, which only the journal can mint: an effect
//! whose transition is not durable cannot be worded. What comes of an effect returns to the loop as
//! an input, marked with the epoch in which it was begun, so that late news of a halted transfer is
//! known for what it is.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::{join, join_all};
use futures_util::stream::{self, StreamExt as _};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use longhaul_journal::Committed;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use super::Message;
use super::staging::{self, Publish, Remains, SnapshotSource, StagePlan};
use super::transfer::{self, Download, End, Gate, Progress, Upload, take_fault};
use crate::job::step::{Effect, Input, LocalFault, Transition};
use crate::job::{
    Checksum, ChecksumAlgorithm, Direction, Job, JobId, Part, SnapshotMethod, SuspendCause, TransportOptions,
};
use crate::ports::{HttpRequest, HttpResponse, NetError, Ports, RequestBody, Transport, WallMs};
use crate::protocol::{self, Body, Reply, Send, Sink, wire};
use crate::schedule::retry;
use crate::secret::{CredentialRef, Secrets};

/// Bytes of an unexpected answer's body that are looked at.
const ODD_BODY_MAX: usize = 64 << 10;

/// What is in flight for one job.
#[derive(Debug, Default)]
pub struct Live {
    /// Rises with every halt.
    pub epoch: u64,
    /// How far the bytes are.
    pub progress: Arc<Progress>,
    tasks: Vec<AbortHandle>,
    lanes: BTreeMap<u16, oneshot::Sender<StoreOrder>>,
    gate: Gate,
}

impl Live {
    /// Drops everything in flight.
    pub fn halt(&mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
        }
        self.gate.halt();
        self.lanes.clear();
        self.progress.clear();
    }
}

impl Live {
    /// Resolves when nothing of it touches the disk any more.
    pub async fn quiet(&mut self) {
        self.halt();
        self.gate.cleared().await;
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.halt();
    }
}

/// A committed wish to have a held body.
#[derive(Debug)]
struct StoreOrder {
    offset: u64,
    limit: Option<u64>,
    within: bool,
}

/// Carries out effects.
#[derive(Debug)]
pub struct Performer {
    /// The world.
    pub ports: Ports,
    /// Where inputs go.
    pub inbox: mpsc::UnboundedSender<Message>,
    /// The session's staging area.
    pub stage_dir: PathBuf,
}

impl Performer {
    /// Carries out what a durable transition calls for. `copy_fits`: whether the staging budget has
    /// room for this job's copy.
    pub fn perform(&self, job: &Job, live: &mut Live, committed: Committed<Transition>, copy_fits: bool) {
        let Transition { effects, epoch, .. } = committed.into_value();
        let (mut deeds, mut exchanges, mut pauses) = (Vec::new(), Vec::new(), Vec::new());
        for effect in effects {
            match effect {
                Effect::Halt => {
                    live.halt();
                    deeds.clear();
                    exchanges.clear();
                    pauses.clear();
                }
                Effect::Stage => deeds.push(self.stage(job, copy_fits, live.gate.stop())),
                Effect::Publish(to) => deeds.push(Deed::Publish {
                    part: job.core.part.clone(),
                    to,
                    size: job.core.done,
                    overwrite: job.spec.overwrite,
                }),
                Effect::Free => deeds.push(Deed::Free(self.remains(job))),
                Effect::Protocol(protocol::Effect::Reserve(len)) => {
                    deeds.push(Deed::Reserve { part: job.core.part.clone(), len });
                }
                Effect::Protocol(protocol::Effect::Pause { lane, attempts, retry }) => {
                    // A body that is still held is not wanted: that closes it.
                    live.lanes.remove(&lane);
                    let span = retry::delay(attempts, &retry, self.ports.entropy.seed());
                    pauses.push((lane, span));
                }
                Effect::Protocol(protocol::Effect::Truncate(len)) => {
                    deeds.push(Deed::Truncate { part: job.core.part.clone(), len });
                }
                Effect::Protocol(protocol::Effect::Digest(algorithm)) => {
                    deeds.push(Deed::Digest { part: job.core.part.clone(), algorithm, size: job.core.done });
                }
                Effect::Protocol(protocol::Effect::Store { lane, offset, limit, within }) => {
                    if let Some(waiting) = live.lanes.remove(&lane) {
                        deeds.push(Deed::Store { waiting, order: StoreOrder { offset, limit, within } });
                    }
                }
                Effect::Protocol(protocol::Effect::Send(send)) => {
                    let (order, ordered) = oneshot::channel();
                    live.lanes.insert(send.lane, order);
                    exchanges.push(Exchange::new(job, *send, &self.stage_dir, ordered, &live.progress));
                }
            }
        }
        if deeds.is_empty() && exchanges.is_empty() && pauses.is_empty() {
            return;
        }
        // After the halts above: what they turned away must not be what follows them.
        let hand = Hand {
            ports: self.ports.clone(),
            inbox: self.inbox.clone(),
            id: job.id,
            epoch,
            gate: live.gate.clone(),
        };
        live.tasks.retain(|task| !task.is_finished());
        let first = live.tasks.is_empty();
        live.tasks.push(tokio::spawn(hand.run(first, deeds, exchanges, pauses)).abort_handle());
    }

    fn stage(&self, job: &Job, copy_fits: bool, stop: Arc<AtomicBool>) -> Deed {
        match job.spec.direction() {
            Direction::Upload => {
                let plan = StagePlan::new(job, &self.stage_dir, copy_fits, stop);
                Deed::Stage { plan, checksum: job.spec.checksum.clone() }
            }
            Direction::Download => Deed::MakePart(job.part_path()),
        }
    }

    fn remains(&self, job: &Job) -> Remains {
        match job.spec.direction() {
            Direction::Upload => Remains { stage: Some(job.stage_path(&self.stage_dir)), part: None },
            Direction::Download => {
                let identity = job.core.part.as_ref().map(|part| part.ino);
                Remains { stage: None, part: Some((job.part_path(), identity)) }
            }
        }
    }
}

/// A local effect.
enum Deed {
    Stage { plan: StagePlan, checksum: Option<Checksum> },
    MakePart(PathBuf),
    Publish { part: Option<Part>, to: PathBuf, size: u64, overwrite: bool },
    Free(Remains),
    Truncate { part: Option<Part>, len: u64 },
    Reserve { part: Option<Part>, len: u64 },
    Digest { part: Option<Part>, algorithm: ChecksumAlgorithm, size: u64 },
    Store { waiting: oneshot::Sender<StoreOrder>, order: StoreOrder },
}

/// What a task needs to work for one job and to report.
struct Hand {
    ports: Ports,
    inbox: mpsc::UnboundedSender<Message>,
    id: JobId,
    epoch: u64,
    gate: Gate,
}

impl Hand {
    fn say(&self, input: Input) {
        // Nobody listens any more when the session is closing: what is journaled is enough.
        let _closing = self.inbox.send(Message::Input { id: self.id, epoch: self.epoch, input });
    }

    fn fault(&self, fault: LocalFault) {
        self.say(Input::LocalFault(fault));
    }

    /// Local effects in order, then the exchanges side by side.
    async fn run(
        self,
        first: bool,
        deeds: Vec<Deed>,
        exchanges: Vec<Exchange>,
        pauses: Vec<(u16, Duration)>,
    ) {
        if first {
            // Blocking calls of a halted transfer cannot be aborted; nothing new begins before they end.
            self.gate.cleared().await;
        }
        for deed in deeds {
            if let Err(fault) = self.carry_out(deed).await {
                return self.fault(fault);
            }
        }
        let pauses = pauses.into_iter().map(async |(lane, span)| {
            self.ports.clock.sleep(span).await;
            self.say(Input::Protocol(protocol::Input::Woken { lane }));
        });
        let exchanges = exchanges.into_iter().map(|exchange| exchange.run(&self));
        join(join_all(pauses), join_all(exchanges)).await;
    }

    async fn local<T: std::marker::Send + 'static>(
        &self,
        call: impl FnOnce(&dyn crate::ports::Disk) -> T + std::marker::Send + 'static,
    ) -> Result<T, LocalFault> {
        let halted = || LocalFault::Transient("halted".to_owned());
        let held = self.gate.enter().await.ok_or_else(halted)?;
        let done = self.ports.block(move |disk| {
            let result = call(disk);
            drop(held);
            Ok(result)
        });
        done.await.map_err(|error| LocalFault::Transient(error.to_string()))
    }

    /// Compares a snapshot with the digest the user gave for it.
    async fn verify(&self, source: SnapshotSource, checksum: Checksum) -> Result<(), LocalFault> {
        let size = source.snapshot.size;
        let (file, before) = self.local(move |disk| staging::open_snapshot(disk, &source)).await??;
        let digest = transfer::hash(&self.ports, &file, 0..size, checksum.algorithm).await;
        let digest = digest.map_err(|error| LocalFault::SourceIo(error.to_string()))?;
        let after = file.fingerprint().map_err(|error| LocalFault::SourceIo(error.to_string()))?;
        if !before.same_content(&after) {
            return Err(staging::changed(&before, &after));
        }
        if digest == checksum.digest {
            return Ok(());
        }
        let got = Checksum { algorithm: checksum.algorithm, digest };
        Err(LocalFault::WrongChecksum { expected: checksum.to_string(), got: got.to_string() })
    }

    async fn carry_out(&self, deed: Deed) -> Result<(), LocalFault> {
        match deed {
            Deed::Stage { plan, checksum } => {
                let source = plan.snapshot_source();
                let snapshot = self.local(move |disk| staging::stage(disk, &plan)).await??;
                if let Some(checksum) = checksum {
                    self.verify(source(snapshot.clone()), checksum).await?;
                }
                self.say(Input::Snapped(snapshot));
            }
            Deed::MakePart(path) => {
                let part = self.local(move |disk| staging::make_part(disk, &path)).await??;
                self.say(Input::PartMade(part));
            }
            Deed::Publish { part, to, size, overwrite } => {
                let part = known(part)?;
                let target = to.clone();
                let outcome =
                    self.local(move |disk| staging::publish(disk, &part, &target, size, overwrite)).await??;
                self.say(match outcome {
                    Publish::Done => Input::Published(to),
                    Publish::Exists => Input::DestinationExists(to),
                });
            }
            Deed::Free(remains) => {
                let freed = self.local(move |disk| staging::free(disk, &remains)).await?;
                self.say(freed.map_or_else(|error| Input::FreeFailed(error.to_string()), |()| Input::Freed));
            }
            Deed::Truncate { part, len } => {
                let part = known(part)?;
                self.local(move |disk| {
                    // A file shorter than this would be filled with zeros: it has lost bytes that were durable.
                    let file = staging::open_part(disk, &part, len)?;
                    let cut = file.set_len(len).and_then(|()| file.sync_all());
                    cut.map_err(|error| staging::local(&error))
                })
                .await??;
            }
            Deed::Reserve { part, len } => {
                let part = known(part)?;
                self.local(move |disk| {
                    let file = staging::open_part(disk, &part, 0)?;
                    let reserved =
                        file.set_len(0).and_then(|()| file.reserve(len)).and_then(|()| file.sync_all());
                    reserved.map_err(|error| {
                        // What was taken of the space must not be what others miss.
                        let _as_it_was = file.set_len(0);
                        staging::local(&error)
                    })
                })
                .await??;
            }
            Deed::Digest { part, algorithm, size } => {
                let part = known(part)?;
                let file = self.local(move |disk| staging::open_part(disk, &part, size)).await??;
                let digest = transfer::hash(&self.ports, &file, 0..size, algorithm)
                    .await
                    .map_err(|error| LocalFault::PartLost(error.to_string()))?;
                self.say(Input::Protocol(protocol::Input::Digested { algorithm, digest }));
            }
            Deed::Store { waiting, order } => {
                // An exchange that has ended meanwhile has said so itself.
                let _ended = waiting.send(order);
            }
        }
        Ok(())
    }
}

/// Why a snapshot could not be hashed.
fn unreadable(error: &io::Error) -> LocalFault {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => LocalFault::SourceChanged(error.to_string()),
        _ => LocalFault::SourceIo(error.to_string()),
    }
}

fn known(part: Option<Part>) -> Result<Part, LocalFault> {
    part.ok_or_else(|| LocalFault::PartLost("no part file is journaled".to_owned()))
}

/// One request and what comes of it.
struct Exchange {
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
}

/// Why an exchange brought nothing for the protocol.
enum Failure {
    Net(NetError),
    Local(LocalFault),
    Credential(String),
}

impl Exchange {
    fn new(
        job: &Job,
        send: Send,
        stage_dir: &std::path::Path,
        ordered: oneshot::Receiver<StoreOrder>,
        progress: &Arc<Progress>,
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
        }
    }

    async fn run(mut self, hand: &Hand) {
        let lane = self.send.lane;
        let (sink, fault) = (self.send.sink, transfer::FaultSlot::default());
        let answered = self.request(hand, &fault).await;
        // A broken source explains whatever the connection made of it.
        if let Some(fault) = take_fault(&fault) {
            return hand.fault(fault);
        }
        let lost = |lost: NetError| {
            hand.say(Input::Protocol(protocol::Input::Lost { lane, kind: lost.kind, why: lost.message }));
        };
        let response = match answered {
            Ok(response) => response,
            Err(Failure::Net(error)) => return lost(error),
            Err(Failure::Local(fault)) => return hand.fault(fault),
            Err(Failure::Credential(why)) => return hand.say(Input::Suspend(SuspendCause::Auth(why))),
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
        let reply = Reply { status, headers, url, framed, body: small };
        // From here on the protocol says how far it is.
        self.progress.end(lane);
        hand.say(Input::Protocol(protocol::Input::Reply { lane, reply }));
        if held && let Ok(order) = (&mut self.ordered).await {
            self.store(hand, body, order).await;
        }
    }

    async fn request(&self, hand: &Hand, fault: &transfer::FaultSlot) -> Result<HttpResponse, Failure> {
        let secrets = self.secrets(hand).await?;
        let mut headers = self.send.headers.clone();
        // What belongs to the job's own server stays with it: mirrors and redirects get none of it.
        if wire::same_origin(&self.send.url, &self.job_url) {
            self.dress(&mut headers, &secrets).map_err(Failure::Credential)?;
        }
        let body = match &self.send.body {
            Body::Empty => RequestBody::Empty,
            Body::Bytes(bytes) => RequestBody::Bytes(Bytes::from(bytes.clone())),
            Body::File { range, digest } => {
                let upload = self.open_upload(hand, range.clone(), fault).await.map_err(Failure::Local)?;
                if let Some(wanted) = digest {
                    let value =
                        transfer::hash(&hand.ports, &upload.file, range.clone(), wanted.algorithm).await;
                    let value = value.map_err(|error| Failure::Local(unreadable(&error)))?;
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
                let text = |text: &Vec<u8>| stream::iter([Ok(Bytes::from(text.clone()))]);
                let file = upload.into_stream(hand.ports.clone());
                RequestBody::Stream {
                    len: (head.len() + tail.len()) as u64 + size,
                    pieces: text(head).chain(file).chain(text(tail)).boxed(),
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
        let in_place = source.snapshot.method == SnapshotMethod::InPlace;
        let expected = source.snapshot.file;
        let (file, _) = hand.local(move |disk| staging::open_snapshot(disk, &source)).await??;
        self.progress.begin(self.send.lane, range.start);
        Ok(Upload {
            lane: self.send.lane,
            file,
            range,
            guard: in_place.then_some(expected),
            progress: Arc::clone(&self.progress),
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

/// How far a job is, for people.
pub fn moved(live: Option<&Live>, done: u64) -> u64 {
    let _ = done;
    live.map_or(0, |live| live.progress.under_way())
}

/// The wall time until which a journaled deadline lies ahead, never more than `cap` away: a clock
/// that was set back must not stretch a wait.
pub fn remaining_ms(at: WallMs, now: WallMs, cap: u64) -> u64 {
    at.0.saturating_sub(now.0).min(cap)
}
