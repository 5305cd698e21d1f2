//! The one place where transitions reach the world.
//!
//! [`Performer::perform`] takes a `Committed<Transition>`, which only the journal can mint: an effect
//! whose transition is not durable cannot be worded. What comes of an effect returns to the loop as
//! an input, marked with the epoch in which it was begun, so that late news of a halted transfer is
//! known for what it is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use longhaul_journal::Committed;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tracing::{Instrument as _, Span};

use super::Message;
use super::exchange::Exchange;
use super::staging::{self, Publish, Remains, SnapshotSource, StagePlan};
use super::transfer::{self, Gate, Pace, Progress, Tail};
use crate::job::step::{Effect, Input, LocalFault, Transition};
use crate::job::{Checksum, ChecksumAlgorithm, Direction, FailCause, Job, JobId, Outcome, Part, Phase};
use crate::ports::{Ports, WallMs};
use crate::protocol::{self, wire};
use crate::schedule::retry;

/// The span around everything that is said of a job.
pub fn span(job: &Job) -> Span {
    let direction = match job.spec.direction() {
        Direction::Upload => "upload",
        Direction::Download => "download",
    };
    tracing::info_span!("job", id = %job.id, direction = %direction, host = %wire::host(&job.spec.url))
}

/// What is in flight for one job.
#[derive(Debug)]
pub struct Live {
    /// Another one with every halt, and one that no other job ever has.
    pub epoch: u64,
    /// How far the bytes are.
    pub progress: Arc<Progress>,
    tasks: Vec<AbortHandle>,
    lanes: BTreeMap<u16, oneshot::Sender<StoreOrder>>,
    gate: Gate,
    pace: Pace,
    /// What keeps back the end of a form that is under way.
    tail: Option<Arc<Tail>>,
}

impl Live {
    /// Nothing yet.
    pub fn new(epoch: u64, pace: Pace) -> Self {
        Self {
            epoch,
            progress: Arc::default(),
            tasks: Vec::new(),
            lanes: BTreeMap::new(),
            gate: Gate::default(),
            pace,
            tail: None,
        }
    }

    /// Keeps the end of a form back that is under way; whether it had not left yet.
    pub fn seal(&mut self) -> bool {
        self.tail.take().is_some_and(|tail| tail.seal())
    }

    /// Whether nothing is under way for it.
    pub fn is_idle(&self) -> bool {
        self.tasks.iter().all(AbortHandle::is_finished) && self.gate.is_clear()
    }

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
pub(super) struct StoreOrder {
    pub offset: u64,
    pub limit: Option<u64>,
    pub within: bool,
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
                    let pace = live.pace.clone();
                    let (dir, progress) = (&self.stage_dir, &live.progress);
                    let exchange = Exchange::new(job, *send, dir, ordered, progress, pace);
                    live.tail = exchange.tail().or(live.tail.take());
                    exchanges.push(exchange);
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
            span: span(job),
        };
        live.tasks.retain(|task| !task.is_finished());
        let first = live.tasks.is_empty();
        let span = hand.span.clone();
        let task = hand.run(first, deeds, exchanges, pauses).instrument(span);
        live.tasks.push(tokio::spawn(task).abort_handle());
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
        let mut remains = match job.spec.direction() {
            Direction::Upload => {
                Remains { stage: Some(job.stage_path(&self.stage_dir)), part: None, secrets: None }
            }
            Direction::Download => {
                let identity = job.core.part.as_ref().map(|part| part.ino);
                Remains { stage: None, part: Some((job.part_path(), identity)), secrets: None }
            }
        };
        // A failed job may be tried again, with what it had: then they go with it off the list.
        let is_tried_again = matches!(
            &job.core.phase,
            Phase::Ending { outcome: Outcome::Failed(cause), .. } if *cause != FailCause::Cancelled
        );
        if job.spec.has_secrets && !is_tried_again {
            remains.secrets = Some(job.secrets_path(&self.stage_dir));
        }
        remains
    }

    /// Removes the secrets of a job that is no more, if it had any. What a crash leaves of them goes at the next
    /// start.
    pub fn remove_secrets(&self, id: JobId) {
        let (ports, path) = (self.ports.clone(), staging::secrets_path(&self.stage_dir, id));
        tokio::spawn(async move {
            let removed = ports.block(move |disk| staging::remove_secrets(disk, &path)).await;
            if let Err(error) = removed {
                tracing::warn!(%error, job = %id, "a job's secrets are still there");
            }
        });
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
pub(super) struct Hand {
    pub ports: Ports,
    inbox: mpsc::UnboundedSender<Message>,
    id: JobId,
    epoch: u64,
    pub gate: Gate,
    /// The job's, for what runs beside the task itself.
    span: Span,
}

impl Hand {
    pub fn say(&self, input: Input) {
        // Nobody listens any more when the session is closing: what is journaled is enough.
        let _closing = self.inbox.send(Message::Input { id: self.id, epoch: self.epoch, input });
    }

    pub fn fault(&self, fault: LocalFault) {
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
        // A task each, as they may take long; they end with this one.
        let hand = Arc::new(self);
        let mut tasks = JoinSet::new();
        for exchange in exchanges {
            let hand = Arc::clone(&hand);
            let span = hand.span.clone();
            tasks.spawn(async move { exchange.run(&hand).await }.instrument(span));
        }
        for (lane, span) in pauses {
            let hand = Arc::clone(&hand);
            tasks.spawn(async move {
                hand.ports.clock.sleep(span).await;
                hand.say(Input::Protocol(protocol::Input::Woken { lane }));
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    pub async fn local<T: std::marker::Send + 'static>(
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
        let source = Arc::new(source);
        let opened = Arc::clone(&source);
        let (file, before) = self.local(move |disk| staging::open_snapshot(disk, &opened)).await??;
        let digest = transfer::hash(&self.ports, &file, 0..size, checksum.algorithm).await;
        let hashed = digest.and_then(|digest| Ok((digest, file.fingerprint()?)));
        let (digest, after) = match hashed {
            Ok(hashed) => hashed,
            Err(error) => return Err(self.local(move |disk| source.fault(disk, &error)).await?),
        };
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

pub(super) fn known(part: Option<Part>) -> Result<Part, LocalFault> {
    part.ok_or_else(|| LocalFault::PartLost("no part file is journaled".to_owned()))
}

/// How far a job is, for people.
pub fn moved(live: Option<&Live>) -> u64 {
    live.map_or(0, |live| live.progress.under_way())
}

/// The wall time until which a journaled deadline lies ahead, never more than `cap` away: a clock
/// that was set back must not stretch a wait.
pub fn remaining_ms(at: WallMs, now: WallMs, cap: u64) -> u64 {
    at.0.saturating_sub(now.0).min(cap)
}
