//! The pure lifecycle of a job; its protocol's inputs pass through here.
//!
//! Phases and their moves (a phase may also stay; `suspended` lies across them and moves none):
//!
//! | from \ to    | Queued | Staging | Staged | Sending | Publishing | Ending | Ended |
//! |--------------|:------:|:-------:|:------:|:-------:|:----------:|:------:|:-----:|
//! | `Queued`     |   =    |    ×    |        |         |            |   ×    |   ×   |
//! | `Staging`    |   ×    |    =    |   ×    |         |            |   ×    |   ×   |
//! | `Staged`     |   ×    |         |   =    |    ×    |            |   ×    |   ×   |
//! | `Sending`    |   ×    |         |        |    =    |     ×      |   ×    |   ×   |
//! | `Publishing` |   ×    |         |        |         |     =      |   ×    |   ×   |
//! | `Ending`     |        |         |        |         |            |   =    |   ×   |
//! | `Ended`      |        |         |        |         |            |        |       |
//!
//! `Queued` from a later phase: the part file is gone or was cut short behind our back; the download
//! begins anew. Ending names the outcome before anything is freed, so that a crash in the clean-up
//! finishes the clean-up and ends the same way.
//!
//! Invariant: an effect belongs to the transition that is journaled with it, and the runner carries
//! it out only from `Committed`. Absent on purpose: clocks, randomness (both come in with the
//! input), admission order (`schedule`), and everything that touches the world (`run::perform`).

use std::path::PathBuf;
use std::time::Duration;

use super::record::Record;
use super::{Core, Direction, FailCause, Job, JobId, Outcome, Part, Phase, Proof, Snapshot, SuspendCause};
use crate::ports::WallMs;
use crate::protocol::{self, Facts, Next, State as ProtocolState};
use crate::schedule::retry;

/// Bytes of a server's or system's text that are kept: a history of them must fit a row.
const TEXT_MAX: usize = 180;
/// What is said of a job that goes on.
pub const RESUMED: &str = "resumed";
/// Part files that may be lost before the job fails, in multiples of its attempts.
const PARTS_LOST_FACTOR: u32 = 3;

/// What happened to a job.
#[derive(Clone, Debug)]
pub enum Input {
    /// The schedule gives it a slot; nothing of it is in flight.
    Admitted {
        /// First time in this process: a restart lies before it.
        restarted: bool,
    },
    /// The upload's snapshot is durable.
    Snapped(Snapshot),
    /// The download's part file is durable.
    PartMade(Part),
    /// Something arrived for the protocol.
    Protocol(protocol::Input),
    /// The server cannot have the whole of the request under way: it was never sent, or cut off before its end.
    Unsent,
    /// A local file failed it.
    LocalFault(LocalFault),
    /// The part file has its final name.
    Published(PathBuf),
    /// Something stands at the destination.
    DestinationExists(PathBuf),
    /// All local files of the job are gone.
    Freed,
    /// Not all could be removed.
    FreeFailed(String),
    /// Hold still.
    Suspend(SuspendCause),
    /// Go on.
    Resume,
    /// End it.
    Cancel,
    /// Its deadline is past.
    DeadlinePassed,
}

/// How a local file failed a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalFault {
    /// The source is not what it was at submit.
    SourceChanged(String),
    /// The source cannot be read.
    SourceIo(String),
    /// The snapshot is not what the user said it is.
    WrongChecksum {
        /// As asked for.
        expected: String,
        /// As found.
        got: String,
    },
    /// No space (or quota) left.
    NoSpace(String),
    /// Permissions, or a read-only file system, are in the way: somebody can change that.
    NoAccess(String),
    /// The file system that holds the source is not mounted.
    SourceAway(String),
    /// The part file is not what the journal says: begin anew.
    PartLost(String),
    /// It may work at another attempt, from what is durable.
    Transient(String),
    /// For good.
    Fatal(String),
    /// The rename was intended and its result cannot be found.
    PublishUnknown(String),
}

/// What is to be done once a transition is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Make the snapshot or the part file.
    Stage,
    /// The protocol's own.
    Protocol(protocol::Effect),
    /// Give the part file its final name.
    Publish(PathBuf),
    /// Remove the job's local files.
    Free,
    /// Stop whatever is in flight.
    Halt,
}

/// A durable change of one job, and what follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// What the journal keeps.
    pub record: Record,
    /// What to do then, in order.
    pub effects: Vec<Effect>,
    /// The job's epoch from this transition on: which news of its effects will still count.
    pub epoch: u64,
}

impl Transition {
    /// The job's number.
    pub fn id(&self) -> JobId {
        self.record.id()
    }
}

/// What comes in beside the input: the world's part in a decision.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// Wall time.
    pub now: WallMs,
    /// Randomness for this one step (jitter).
    pub seed: u64,
}

impl Phase {
    /// The bare name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Staging => "staging",
            Self::Staged => "staged",
            Self::Sending(_) => "sending",
            Self::Publishing { .. } => "publishing",
            Self::Ending { .. } => "ending",
            Self::Ended(_) => "ended",
        }
    }
}

/// The table of the module's header.
pub fn legal(from: &Phase, to: &Phase) -> bool {
    use Phase::{Ended, Ending, Publishing, Queued, Sending, Staged, Staging};
    match from {
        Queued => matches!(to, Queued | Staging | Ending { .. } | Ended(_)),
        Staging => matches!(to, Queued | Staging | Staged | Ending { .. } | Ended(_)),
        Staged => matches!(to, Queued | Staged | Sending(_) | Ending { .. } | Ended(_)),
        Sending(_) => matches!(to, Queued | Sending(_) | Publishing { .. } | Ending { .. } | Ended(_)),
        Publishing { .. } => matches!(to, Queued | Publishing { .. } | Ending { .. } | Ended(_)),
        Ending { .. } => matches!(to, Ending { .. } | Ended(_)),
        Ended(_) => false,
    }
}

/// Advances one job by one input; says what to do, does nothing. `None`: the input means nothing to
/// a job in this state (it is late, or asks for what already is).
pub fn step(job: &Job, input: Input, context: Context) -> Option<Transition> {
    let name = job.spec.name();
    let mut machine = Machine { job, name, context, core: job.core.clone(), what: None, effects: Vec::new() };
    machine.advance(input).then(|| machine.finish())
}

/// One step under way.
struct Machine<'a> {
    job: &'a Job,
    name: String,
    context: Context,
    core: Core,
    what: Option<String>,
    effects: Vec<Effect>,
}

impl Machine<'_> {
    fn finish(self) -> Transition {
        let record = Record::Moved {
            id: self.job.id,
            at: self.context.now,
            what: self.what.as_deref().map(clip),
            core: Box::new(self.core),
        };
        Transition { record, effects: self.effects, epoch: 0 }
    }

    fn advance(&mut self, input: Input) -> bool {
        if matches!(self.core.phase, Phase::Ended(_)) {
            return false;
        }
        // A job that holds still hears nothing of what was in flight before.
        let asked =
            matches!(input, Input::Suspend(_) | Input::Resume | Input::Cancel | Input::DeadlinePassed);
        if self.core.suspended.is_some() && !asked {
            return false;
        }
        match input {
            Input::Admitted { restarted } => self.admitted(restarted),
            Input::Snapped(snapshot) => self.staged(|core| {
                core.size = Some(snapshot.size);
                core.snapshot = Some(snapshot);
            }),
            Input::PartMade(part) => self.staged(|core| core.part = Some(part)),
            Input::Protocol(input) => self.protocol_input(&input),
            Input::Unsent => self.unsent(),
            Input::LocalFault(fault) => self.local_fault(fault),
            Input::Published(file) => self.published(file),
            Input::DestinationExists(path) => {
                matches!(self.core.phase, Phase::Publishing { .. })
                    && self.suspend(SuspendCause::DestinationExists(path.display().to_string()))
            }
            Input::Freed => self.freed(),
            Input::FreeFailed(why) => {
                let freeing = matches!(self.core.phase, Phase::Ending { remote: None, .. });
                if freeing {
                    self.back_off(&protocol::Retry { throttled: true, ..protocol::Retry::because(why) });
                }
                freeing
            }
            Input::Suspend(cause) => self.suspend(cause),
            Input::Resume => self.resume(),
            Input::Cancel => self.give_up(FailCause::Cancelled),
            Input::DeadlinePassed => self.give_up(FailCause::Deadline),
        }
    }

    /// Takes the job up where its phase says; the same after a restart, a resume and a back-off.
    fn admitted(&mut self, restarted: bool) -> bool {
        self.core.retry_at = None;
        if restarted {
            self.what = Some("taken up again after a restart".to_owned());
        }
        match self.core.phase.clone() {
            Phase::Queued | Phase::Staging => {
                self.core.phase = Phase::Staging;
                self.effects.push(Effect::Stage);
            }
            Phase::Staged => {
                let state = self.job.spec.protocol.start(&self.facts());
                self.what = Some(format!("begins by {}", self.job.spec.protocol));
                self.protocol_step(&state, &protocol::Input::Begin);
            }
            Phase::Sending(state) => self.protocol_step(&state, &protocol::Input::Restarted),
            Phase::Publishing { to, .. } => self.effects.push(Effect::Publish(to)),
            Phase::Ending { remote: Some(state), .. } => {
                self.protocol_step(&state, &protocol::Input::Restarted);
            }
            Phase::Ending { remote: None, .. } => self.effects.push(Effect::Free),
            Phase::Ended(_) => return false,
        }
        true
    }

    fn staged(&mut self, note: impl FnOnce(&mut Core)) -> bool {
        if self.core.phase != Phase::Staging {
            return false;
        }
        note(&mut self.core);
        self.core.phase = Phase::Staged;
        self.what = Some(match &self.core.snapshot {
            Some(snapshot) => format!("snapshot ready ({:?}, {} bytes)", snapshot.method, snapshot.size),
            None => "part file ready".to_owned(),
        });
        true
    }

    fn protocol_input(&mut self, input: &protocol::Input) -> bool {
        match self.core.phase.clone() {
            Phase::Sending(state) | Phase::Ending { remote: Some(state), .. } => {
                self.protocol_step(&state, input);
                true
            }
            // Late: the phase that had asked is over.
            Phase::Queued
            | Phase::Staging
            | Phase::Staged
            | Phase::Publishing { .. }
            | Phase::Ending { remote: None, .. }
            | Phase::Ended(_) => false,
        }
    }

    fn unsent(&mut self) -> bool {
        let Phase::Sending(state) = &self.core.phase else { return false };
        let Some(state) = state.unsent() else { return false };
        self.core.phase = Phase::Sending(state);
        true
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            url: &self.job.spec.url,
            size: self.core.snapshot.as_ref().map(|snapshot| snapshot.size),
            name: &self.name,
            token: self.job.spec.token,
            checksum: self.job.spec.checksum.as_ref(),
            now: self.context.now,
            lanes: self.job.spec.lanes.max(1),
            mirrors: &self.job.spec.mirrors,
            http: &self.job.spec.http,
        }
    }

    fn protocol_step(&mut self, state: &ProtocolState, input: &protocol::Input) {
        let answer = state.step(&self.facts(), input);
        if matches!(self.core.phase, Phase::Ending { .. }) {
            return self.free_remote(state, answer);
        }
        match answer {
            Ok(step) => {
                if step.done > self.core.reached {
                    self.core.attempts = 0;
                    self.core.trouble = None;
                    self.core.reached = step.done;
                }
                self.core.chosen = step.state.chosen().or(self.core.chosen);
                self.what = step.note.or_else(|| self.what.take());
                self.core.done = step.done;
                // A download that starts over may find another size, or none that is told.
                let known = self.core.size.filter(|_| self.job.spec.direction() == Direction::Upload);
                // Only an answer shows that there is a way: to ask again shows nothing yet.
                if matches!(input, protocol::Input::Reply { .. } | protocol::Input::Synced { .. }) {
                    self.core.offline = 0;
                }
                self.core.size = step.size.or(known);
                self.core.phase = Phase::Sending(step.state);
                self.follow(step.next);
            }
            Err(error) => self.end(Outcome::Failed(FailCause::Protocol(error.0))),
        }
    }

    /// What a protocol at work asks for.
    fn follow(&mut self, next: Next) {
        match next {
            Next::Go(effects) => self.effects.extend(effects.into_iter().map(Effect::Protocol)),
            Next::Retry(again) if again.offline => self.stay_offline(&again),
            Next::Retry(again) => {
                if self.core.attempts + 1 >= self.job.spec.attempts_max {
                    let attempts = self.core.attempts + 1;
                    self.core.attempts_total += 1;
                    self.suspend(SuspendCause::Server { attempts, why: clip(&again.why) });
                } else {
                    self.back_off(&again);
                }
            }
            Next::Done(proof) => self.proven(proof),
            Next::Fail(cause) => self.end(Outcome::Failed(cause)),
            Next::Suspend(cause) => {
                self.suspend(cause);
            }
        }
    }

    /// What a protocol asks for while its remote session is being freed.
    fn free_remote(
        &mut self,
        before: &ProtocolState,
        answer: Result<protocol::Step<ProtocolState>, protocol::StepError>,
    ) {
        let Phase::Ending { outcome, .. } = self.core.phase.clone() else { return };
        let (state, next) = match answer {
            Ok(step) => (step.state, step.next),
            Err(error) => (before.clone(), Next::Fail(FailCause::Protocol(error.0))),
        };
        let left = state.remote().map(ToOwned::to_owned);
        let remote = match next {
            Next::Go(effects) => {
                self.effects.extend(effects.into_iter().map(Effect::Protocol));
                Some(state)
            }
            Next::Retry(again) if again.offline => {
                self.stay_offline(&again);
                Some(state)
            }
            Next::Retry(again) if self.core.attempts + 1 < self.job.spec.attempts_max => {
                self.back_off(&again);
                Some(state)
            }
            Next::Done(_) => None,
            Next::Fail(cause) => {
                // It says more than a URL where several things are left.
                self.core.leftover = left.or_else(|| Some(clip(&cause.to_string())));
                None
            }
            Next::Retry(_) | Next::Suspend(_) => {
                self.core.leftover = left;
                None
            }
        };
        let freed = remote.is_none();
        self.core.phase = Phase::Ending { outcome, remote };
        if freed {
            self.free_local();
        }
    }

    fn proven(&mut self, proof: Proof) {
        let Phase::Sending(state) = self.core.phase.clone() else { return };
        match self.job.spec.direction() {
            Direction::Upload => {
                self.core.phase = Phase::Ending { outcome: Outcome::Completed(proof), remote: None };
                self.what = Some("proven at the server".to_owned());
                self.free_local();
            }
            Direction::Download => {
                let to = if self.job.spec.name_from_server {
                    let name = state.served_name().map_or_else(|| self.job.spec.name(), ToOwned::to_owned);
                    self.job.spec.path.join(name)
                } else {
                    self.job.spec.path.clone()
                };
                self.what = Some(format!("whole and verified; publishing as {}", to.display()));
                self.core.phase = Phase::Publishing { state, proof, to: to.clone() };
                self.effects.push(Effect::Publish(to));
            }
        }
    }

    fn published(&mut self, file: PathBuf) -> bool {
        let Phase::Publishing { proof, .. } = self.core.phase.clone() else { return false };
        self.core.part = None;
        self.what = Some(format!("completed: {}", file.display()));
        self.core.file = Some(file);
        if self.job.spec.has_secrets {
            self.core.phase = Phase::Ending { outcome: Outcome::Completed(proof), remote: None };
            self.effects.push(Effect::Free);
        } else {
            self.ended(Outcome::Completed(proof));
        }
        true
    }

    /// Names the outcome and frees what the job holds, the remote session first.
    fn end(&mut self, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::Failed(cause) => Outcome::Failed(clip_failure(cause)),
            Outcome::Completed(_) => outcome,
        };
        self.effects.push(Effect::Halt);
        self.core.suspended = None;
        self.core.retry_at = None;
        self.core.attempts = 0;
        if let Outcome::Failed(cause) = &outcome {
            self.what = Some(format!("ends: {cause}"));
        }
        // An object may stand behind an unknown outcome: deleting the session could delete it.
        let unknown = matches!(outcome, Outcome::Failed(FailCause::OutcomeUnknown(_)));
        match self.core.phase.clone() {
            Phase::Sending(state) if !unknown => {
                self.core.phase = Phase::Ending { outcome, remote: Some(state.clone()) };
                self.protocol_step(&state, &protocol::Input::Cancel);
            }
            Phase::Queued
            | Phase::Staging
            | Phase::Staged
            | Phase::Sending(_)
            | Phase::Publishing { .. }
            | Phase::Ending { .. }
            | Phase::Ended(_) => {
                self.core.phase = Phase::Ending { outcome, remote: None };
                self.free_local();
            }
        }
    }

    /// Removes local files if there can be any; else ends at once.
    fn free_local(&mut self) {
        // A queued download may be so because its part file was damaged: that one still lies there.
        let before = match self.job.core.phase {
            Phase::Staging => true,
            Phase::Queued => self.job.spec.direction() == Direction::Download,
            Phase::Staged
            | Phase::Sending(_)
            | Phase::Publishing { .. }
            | Phase::Ending { .. }
            | Phase::Ended(_) => false,
        };
        if before || self.core.part.is_some() || self.core.has_copy() || self.job.spec.has_secrets {
            self.effects.push(Effect::Free);
        } else if let Phase::Ending { outcome, .. } = self.core.phase.clone() {
            self.ended(outcome);
        }
    }

    fn freed(&mut self) -> bool {
        let Phase::Ending { outcome, remote: None } = self.core.phase.clone() else { return false };
        self.ended(outcome);
        true
    }

    fn ended(&mut self, outcome: Outcome) {
        self.what = Some(match &outcome {
            Outcome::Completed(proof) => format!("completed, proven by {}", proof.evidence),
            Outcome::Failed(cause) => format!("failed: {cause}"),
        });
        self.core.snapshot = None;
        self.core.part = None;
        self.core.retry_at = None;
        self.core.suspended = None;
        if let Outcome::Completed(proof) = &outcome {
            self.core.done = proof.size;
            self.core.size = Some(proof.size);
            self.core.trouble = None;
        }
        self.core.phase = Phase::Ended(outcome);
    }

    fn local_fault(&mut self, fault: LocalFault) -> bool {
        if matches!(self.core.phase, Phase::Ending { .. }) {
            return false;
        }
        match fault {
            LocalFault::SourceChanged(how) => self.end(Outcome::Failed(FailCause::SourceChanged(clip(&how)))),
            LocalFault::SourceIo(why) => self.end(Outcome::Failed(FailCause::SourceIo(clip(&why)))),
            LocalFault::WrongChecksum { expected, got } => {
                self.end(Outcome::Failed(FailCause::ChecksumMismatch { expected, got }));
            }
            LocalFault::Fatal(why) => self.end(Outcome::Failed(FailCause::LocalIo(clip(&why)))),
            LocalFault::PublishUnknown(why) => {
                self.end(Outcome::Failed(FailCause::OutcomeUnknown(clip(&why))));
            }
            LocalFault::NoSpace(why) => {
                self.suspend(SuspendCause::NoSpace(clip(&why)));
            }
            LocalFault::NoAccess(why) => {
                self.suspend(SuspendCause::NoAccess(clip(&why)));
            }
            LocalFault::SourceAway(why) => {
                self.suspend(SuspendCause::SourceAway(clip(&why)));
            }
            LocalFault::Transient(why) => {
                self.follow(Next::Retry(protocol::Retry::because(why)));
            }
            LocalFault::PartLost(why) => {
                let bound = self.job.spec.attempts_max.saturating_mul(PARTS_LOST_FACTOR);
                if self.core.attempts_total >= bound {
                    self.end(Outcome::Failed(FailCause::LocalIo(why)));
                    return true;
                }
                self.back_off(&protocol::Retry::because(why.clone()));
                self.what = Some(format!("begins anew: {why}"));
                self.core.part = None;
                self.core.done = 0;
                self.core.phase = Phase::Queued;
            }
        }
        true
    }

    fn back_off(&mut self, again: &protocol::Retry) {
        self.core.attempts += 1;
        self.core.attempts_total += 1;
        self.core.offline = 0;
        let span = self.wait(self.core.attempts - 1, again);
        let why = clip(&again.why);
        self.what = Some(format!("attempt {} failed: {why}; again in {}", self.core.attempts, seconds(span)));
        self.core.trouble = Some(why);
    }

    /// No way to the server: that is no failed attempt, and the way is tried until there is one.
    fn stay_offline(&mut self, again: &protocol::Retry) {
        let before = self.core.offline;
        self.core.offline = before.saturating_add(1);
        self.wait(before, again);
        let why = clip(&again.why);
        // One line for the whole time without a way, however long that is.
        self.what = (before == 0).then(|| format!("waits for the network: {why}"));
        self.core.trouble = Some(why);
    }

    /// Holds still until it is time for another try; gives the span.
    fn wait(&mut self, failures: u32, again: &protocol::Retry) -> Duration {
        let span = retry::delay(failures, again, self.context.seed);
        let span_ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        self.core.retry_at = Some(WallMs(self.context.now.0.saturating_add(span_ms)));
        self.effects.push(Effect::Halt);
        span
    }

    fn suspend(&mut self, cause: SuspendCause) -> bool {
        let already = self.core.suspended.as_ref().is_some_and(|old| !old.clears_itself() || *old == cause);
        // A rename cannot be called back, and is over in a moment.
        let renaming =
            matches!(self.core.phase, Phase::Publishing { .. }) && cause == SuspendCause::Requested;
        if already || renaming || matches!(self.core.phase, Phase::Ended(_)) {
            return false;
        }
        if let Phase::Ending { outcome, remote } = self.core.phase.clone() {
            return matches!(cause, SuspendCause::Auth(_)) && self.leave_remote(outcome, remote);
        }
        let cause = clip_suspension(cause);
        self.what = Some(format!("suspended: {cause}"));
        self.core.suspended = Some(cause);
        self.core.retry_at = None;
        self.effects.push(Effect::Halt);
        true
    }

    /// Without credentials nothing can be freed at the server: it is left there, and said so.
    fn leave_remote(&mut self, outcome: Outcome, remote: Option<ProtocolState>) -> bool {
        let Some(state) = remote else { return false };
        self.core.leftover = state.remote().map(ToOwned::to_owned);
        self.core.phase = Phase::Ending { outcome, remote: None };
        self.free_local();
        true
    }

    fn resume(&mut self) -> bool {
        if self.core.suspended.take().is_none() {
            return false;
        }
        self.core.attempts = 0;
        self.core.trouble = None;
        self.what = Some(RESUMED.to_owned());
        true
    }

    fn give_up(&mut self, cause: FailCause) -> bool {
        let under_way = self.core.suspended.is_none() && matches!(self.core.phase, Phase::Publishing { .. });
        if under_way || matches!(self.core.phase, Phase::Ending { .. } | Phase::Ended(_)) {
            return false;
        }
        self.end(Outcome::Failed(cause));
        true
    }
}

/// Printable, and no longer than what a record has room for.
fn clip(text: &str) -> String {
    let mut clipped: String = text.chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect();
    if clipped.len() > TEXT_MAX {
        let end = (0..=TEXT_MAX).rev().find(|&end| clipped.is_char_boundary(end)).unwrap_or(0);
        clipped.truncate(end);
    }
    clipped
}

/// The cause with its text clipped.
fn clip_suspension(cause: SuspendCause) -> SuspendCause {
    match cause {
        SuspendCause::Requested | SuspendCause::Restored => cause,
        SuspendCause::NoAccess(why) => SuspendCause::NoAccess(clip(&why)),
        SuspendCause::SourceAway(why) => SuspendCause::SourceAway(clip(&why)),
        SuspendCause::NoSpace(why) => SuspendCause::NoSpace(clip(&why)),
        SuspendCause::Auth(why) => SuspendCause::Auth(clip(&why)),
        SuspendCause::Server { attempts, why } => SuspendCause::Server { attempts, why: clip(&why) },
        SuspendCause::DestinationExists(path) => SuspendCause::DestinationExists(clip(&path)),
    }
}

/// The cause with its text clipped.
fn clip_failure(cause: FailCause) -> FailCause {
    match cause {
        FailCause::Cancelled
        | FailCause::Deadline
        | FailCause::Expired(_)
        | FailCause::RemoteChanged(_)
        | FailCause::ChecksumMismatch { .. } => cause,
        FailCause::SourceChanged(why) => FailCause::SourceChanged(clip(&why)),
        FailCause::SourceIo(why) => FailCause::SourceIo(clip(&why)),
        FailCause::Rejected { status, detail } => FailCause::Rejected { status, detail: clip(&detail) },
        FailCause::OutcomeUnknown(why) => FailCause::OutcomeUnknown(clip(&why)),
        FailCause::Protocol(why) => FailCause::Protocol(clip(&why)),
        FailCause::LocalIo(why) => FailCause::LocalIo(clip(&why)),
    }
}

fn seconds(span: Duration) -> String {
    format!("{:.1} s", span.as_secs_f64())
}

#[cfg(test)]
mod tests;
