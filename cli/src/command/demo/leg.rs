//! One direction of the demonstration.
//!
//! ```text
//!        start put or get ──▶ watch ──▶ a blow is due ──▶ SIGKILL ──▶ what does the journal say?
//!                               ▲                                       │ unfinished: it counts
//!                               └──────────── haul resume ◀─────────────┘ ended: it does not
//!        ended, but blows are left ──▶ one more transfer
//! ```

use std::collections::VecDeque;
use std::ffi::OsString;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use longhaul::{Direction, JobState, JobView};
use tokio::process::Child;

use super::bench::{Bench, kill};
use super::freight::Freight;
use super::plan::{Blow, Random, Victim, blows};
use super::{Context, Failure, Row};
use crate::text;

/// Between two looks at the bytes.
const POLL: Duration = Duration::from_millis(2);
/// Transfers that may end too early before we give up on delivering the kills.
const TRANSFERS_MAX: u64 = 20;
/// For one transfer with all its kills.
const PATIENCE: Duration = Duration::from_secs(600);

/// A direction under way.
pub struct Leg<'a> {
    context: &'a Context,
    bench: &'a mut Bench,
    freight: &'a Freight,
    direction: Direction,
    due: VecDeque<Blow>,
    asked: u32,
    kills: u32,
    receiver_kills: u32,
}

enum Seen {
    /// The child has left.
    Exited(ExitStatus),
    /// The next blow is due; the job as it is.
    Due(Box<JobView>),
}

impl<'a> Leg<'a> {
    pub fn new(
        context: &'a Context,
        bench: &'a mut Bench,
        freight: &'a Freight,
        direction: Direction,
        due: VecDeque<Blow>,
    ) -> Self {
        let asked = due.iter().filter(|blow| blow.victim == Victim::Owner).count() as u32;
        Self { context, bench, freight, direction, due, asked, kills: 0, receiver_kills: 0 }
    }

    /// Transfers until every kill was delivered, then looks at what is there.
    pub async fn run(mut self, random: &mut Random) -> Result<Row, Failure> {
        let passed_before = self.passed();
        let mut transfers = 0;
        loop {
            transfers += 1;
            self.transfer(transfers).await?;
            let missing = self.asked - self.kills;
            if missing == 0 || transfers == TRANSFERS_MAX {
                break;
            }
            // It ended too early for some: the next ones come sooner.
            self.due = blows(random, self.freight.size >> transfers.min(8), missing, 0);
            self.note(format_args!("ended too early for {missing} of the kills; once more"));
        }
        let moved = self.passed() - passed_before;
        Ok(Row {
            direction: self.direction,
            size: self.freight.size,
            transfers,
            kills: self.kills,
            receiver_kills: self.receiver_kills,
            sent_again: moved.saturating_sub(self.freight.size * transfers),
            copies_left: self.bench.copies_left()?,
            identical: self.is_identical(transfers).await?,
            sha256: self.freight.sha256.clone(),
        })
    }

    /// One transfer, from its start to its end, however many processes it takes.
    async fn transfer(&mut self, nth: u64) -> Result<(), Failure> {
        let started = Instant::now();
        let mut child = self.bench.haul(&self.first_words(nth)?)?;
        loop {
            match self.watch(&mut child, started).await? {
                Seen::Exited(status) if status.success() => return Ok(()),
                Seen::Exited(status) => {
                    let said = self.bench.last_words();
                    return Err(Failure::failed(format!("haul ended with {status}\n{said}")));
                }
                Seen::Due(view) => match self.due.pop_front().map(|blow| blow.victim) {
                    Some(Victim::Owner) => {
                        kill(&mut child).await?;
                        self.count(&view).await?;
                        let words = ["resume".into(), view.id.to_string().into()];
                        child = self.bench.haul(&words)?;
                    }
                    Some(Victim::Receiver) => {
                        self.bench.kill_receiver().await?;
                        self.receiver_kills += 1;
                        self.note(format_args!("killed the receiver at {}", self.share(view.done)));
                    }
                    None => {}
                },
            }
        }
    }

    /// Watches until the next blow is due or the child leaves.
    async fn watch(&mut self, child: &mut Child, started: Instant) -> Result<Seen, Failure> {
        while started.elapsed() < PATIENCE {
            tokio::select! {
                status = child.wait() => {
                    let lost = |error| Failure::failed(format!("cannot wait for a child: {error}"));
                    let status = status.map_err(lost)?;
                    return Ok(Seen::Exited(status));
                }
                () = tokio::time::sleep(POLL) => {}
            }
            let Some(blow) = self.due.front().copied() else { continue };
            if let Some(view) = self.bench.ask().await
                && view.direction == self.direction
                && view.state == JobState::Sending
                && view.done > blow.at
            {
                return Ok(Seen::Due(Box::new(view)));
            }
        }
        Err(Failure::failed("the transfer takes far too long; giving up"))
    }

    /// A kill counts if the journal shows that the job was still under way.
    async fn count(&mut self, view: &JobView) -> Result<(), Failure> {
        let after = self.bench.look(view.id).await?;
        if after.state.is_terminal() {
            self.note("that kill came after the end and does not count");
            return Ok(());
        }
        self.kills += 1;
        let nth = format!("{} of {}", self.kills, self.asked);
        self.note(format_args!("killed haul at {} ({nth})", self.share(view.done)));
        Ok(())
    }

    fn first_words(&self, nth: u64) -> Result<Vec<OsString>, Failure> {
        match self.direction {
            Direction::Upload => {
                Ok(vec!["put".into(), self.bench.source().into(), self.bench.url("").into()])
            }
            Direction::Download => {
                let received = self.bench.received()?;
                let name = received.first().and_then(|path| path.file_name()?.to_str());
                let name = name.ok_or_else(|| Failure::failed("the receiver has no finished file"))?;
                let place = self.bench.fetched().join(format!("copy-{nth}.bin"));
                Ok(vec!["get".into(), self.bench.url(name).into(), "-o".into(), place.into()])
            }
        }
    }

    /// Whether every copy at the far end is the file, and none is missing or too many.
    async fn is_identical(&self, transfers: u64) -> Result<bool, Failure> {
        let copies = match self.direction {
            Direction::Upload => self.bench.received()?,
            Direction::Download => {
                (1..=transfers).map(|nth| self.bench.fetched().join(format!("copy-{nth}.bin"))).collect()
            }
        };
        let mut identical =
            copies.len() as u64 == transfers && self.freight.is_at(&self.bench.source()).await?;
        for copy in &copies {
            identical &= self.freight.is_at(copy).await?;
        }
        Ok(identical)
    }

    fn passed(&self) -> u64 {
        match self.direction {
            Direction::Upload => self.bench.passage().sent(),
            Direction::Download => self.bench.passage().received(),
        }
    }

    fn share(&self, done: u64) -> String {
        format!("{} %", text::percent(done, self.freight.size))
    }

    fn note(&self, text: impl std::fmt::Display) {
        let direction = if self.direction == Direction::Upload { "upload" } else { "download" };
        self.context.note(format_args!("{direction}: {text}"));
    }
}
