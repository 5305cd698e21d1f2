//! Waiting for more jobs than one would list each second: by what the owner tells, and by counting.
//!
//! ```text
//!            news ──▶ Tally ──▶ nobody open? ──count agrees──▶ Settled
//!   loop     tick ──▶ bytes of the few that move; now and then a count
//!            missed, or the count disagrees ──▶ page through the unfinished, look up who is absent
//!            the owner is gone ──▶ own the session, or find the next owner; the same again
//! ```
//!
//! Failures and suspensions are told as they happen, completions only counted. With `--json` each job's last value
//! is a line.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use longhaul::control::{PAGE_MAX, Query, Request, Response, Selection};
use longhaul::{JobId, JobState, JobView};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::tally::{self, Tally, grouped};
use super::{Crowd, End, next_owner};
use crate::connect::{Attached, News, unexpected};
use crate::exit::{Exit, Failure};
use crate::output::Context;
use crate::screen::Screen;
use crate::signals::{Asked, Signals};
use crate::text::shell_word;

/// Between two looks at the bytes.
const TICK: Duration = Duration::from_secs(1);
/// Between two counts, if nothing was missed.
const COUNT_EVERY: Duration = Duration::from_secs(15);
/// Between two lists of all that is unfinished, when news are missed one after the other.
const LIST_EVERY: Duration = Duration::from_secs(5);
/// Numbers in one request to suspend jobs that are no group.
const SUSPEND_MAX: usize = 10_000;

/// Waits for a crowd and tells how it ended.
pub async fn wait(
    session: &mut Attached,
    crowd: Crowd,
    context: &Context,
    signals: &mut Signals,
) -> Result<Exit, Failure> {
    let screen = Screen::new(context);
    let tally = Tally::new(crowd.ids);
    let mut waiting = Bulk { session, group: crowd.group, tally, others: 0, listed_at: None, screen };
    match waiting.run(signals).await? {
        End::Settled => {}
        End::Asked(Asked::Interrupt) => waiting.suspend().await?,
        End::Asked(Asked::Terminate) => {
            waiting.leave();
            return Ok(Exit::Terminated);
        }
    }
    waiting.screen.end();
    waiting.screen.crowd_result(&waiting.tally)?;
    waiting.tell_held();
    Ok(waiting.tally.exit())
}

struct Bulk<'a> {
    session: &'a mut Attached,
    group: Option<String>,
    tally: Tally,
    /// Unfinished jobs of the group that are not this command's.
    others: u64,
    listed_at: Option<Instant>,
    screen: Screen<'a>,
}

impl Bulk<'_> {
    fn selection(&self) -> Selection {
        Selection { group: self.group.clone(), ..Selection::all() }
    }

    async fn run(&mut self, signals: &mut Signals) -> Result<End, Failure> {
        let mut news = self.join().await?;
        let mut generation = self.session.generation();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut missed, mut counted_at) = (false, Instant::now());
        loop {
            if self.tally.is_settled() && self.is_certain().await? {
                return Ok(End::Settled);
            }
            tokio::select! {
                asked = signals.asked() => return Ok(End::Asked(asked)),
                failure = self.session.stopped() => return Err(failure),
                item = news.recv() => match item {
                    Some(News::Job(view)) => self.see(&view)?,
                    Some(News::Gap) => missed = true,
                    None => {
                        next_owner(self.session, &self.screen, generation).await?;
                        news = self.join().await?;
                        generation = self.session.generation();
                        missed = false;
                    }
                },
                _ = tick.tick() => {
                    let rested = self.listed_at.is_none_or(|at| at.elapsed() >= LIST_EVERY);
                    if rested && (missed || counted_at.elapsed() >= COUNT_EVERY) {
                        (missed, counted_at) = (false, Instant::now());
                        self.recount().await?;
                    }
                    self.look().await?;
                }
            }
        }
    }

    /// Listens first and lists then, so that nothing falls in between.
    async fn join(&mut self) -> Result<mpsc::Receiver<News>, Failure> {
        let news = self.session.news(&self.selection()).await?;
        self.list().await?;
        Ok(news)
    }

    /// Nobody seems to move; if somebody only holds still, a resumption may have been missed.
    async fn is_certain(&mut self) -> Result<bool, Failure> {
        if self.tally.held() > 0 {
            self.list().await?;
        }
        Ok(self.tally.is_settled())
    }

    /// Lists only if the counts are not what is known already.
    async fn recount(&mut self) -> Result<(), Failure> {
        let counts = self.session.count(self.selection()).await?;
        if self.tally.agrees(&counts, self.others) { Ok(()) } else { self.list().await }
    }

    /// Pages through all that is unfinished, and looks up those of ours that are not there.
    async fn list(&mut self) -> Result<(), Failure> {
        use JobState::{Queued, Sending, Staged, Suspended};
        let unfinished = self.selection().in_states([Queued, Staged, Sending, Suspended]);
        let mut query = Query { limit: Some(PAGE_MAX), ..unfinished.into() };
        let mut listed = BTreeSet::new();
        loop {
            let (jobs, more) = self.session.page(query.clone()).await?;
            for view in &jobs {
                self.see(view)?;
                if !view.state.is_terminal() {
                    listed.insert(view.id);
                }
            }
            let Some(after) = more else { break };
            query.after = Some(after);
        }
        let absent = self.tally.absent(&listed);
        for some in absent.chunks(PAGE_MAX) {
            self.look_up(some).await?;
        }
        let ours = self.tally.ids().filter(|id| listed.contains(id)).count();
        self.others = (listed.len() - ours) as u64;
        self.listed_at = Some(Instant::now());
        Ok(())
    }

    async fn look_up(&mut self, ids: &[JobId]) -> Result<(), Failure> {
        let views = self.session.list(Some(ids.to_vec())).await?;
        views.iter().try_for_each(|view| self.see(view))?;
        let found: BTreeSet<JobId> = views.iter().map(|view| view.id).collect();
        let gone: Vec<JobId> = ids.iter().copied().filter(|id| !found.contains(id)).collect();
        if let Some(first) = gone.first() {
            let count = grouped(gone.len());
            self.screen.warn(format_args!(
                "{count} jobs (job {first} and others) are no longer in the session's journal"
            ));
            self.tally.lose(&gone);
        }
        Ok(())
    }

    /// The bytes of the few that move.
    async fn look(&mut self) -> Result<(), Failure> {
        let sending = self.selection().in_states([JobState::Sending]);
        let (jobs, _) = self.session.page(Query { limit: Some(PAGE_MAX), ..sending.into() }).await?;
        jobs.iter().try_for_each(|view| self.see(view))?;
        self.screen.look_at_crowd(&self.tally);
        Ok(())
    }

    fn see(&mut self, view: &JobView) -> Result<(), Failure> {
        match self.tally.see(view) {
            tally::News::Nothing => Ok(()),
            tally::News::Completed if !self.screen.context().json => Ok(()),
            // Somebody paused them, and knows it: at the end it is said how many they are.
            tally::News::Held if is_paused(view) && !self.screen.context().json => Ok(()),
            tally::News::Completed | tally::News::Failed | tally::News::Held => self.screen.changed(view),
        }
    }

    /// Suspends what is unfinished of the group, or else this command's jobs.
    async fn suspend(&mut self) -> Result<(), Failure> {
        self.screen.end();
        self.screen.note("suspending; once more Ctrl-C leaves at once");
        if self.group.is_some() {
            self.suspend_some(self.selection()).await?;
        } else {
            let ids: Vec<JobId> = self.tally.ids().collect();
            for some in ids.chunks(SUSPEND_MAX) {
                self.suspend_some(Selection::ids(some.iter().copied())).await?;
            }
        }
        self.list().await
    }

    async fn suspend_some(&mut self, jobs: Selection) -> Result<(), Failure> {
        match self.session.call(&Request::Suspend { jobs }).await? {
            Response::Changed { .. } => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    fn resume_command(&self) -> String {
        let which = match &self.group {
            Some(group) => format!("--group {}", shell_word(group)),
            None => "--all".to_owned(),
        };
        self.screen.context().again(&format!("resume {which}"))
    }

    fn tell_held(&self) {
        if self.tally.held() > 0 {
            let (count, command) = (grouped(self.tally.held()), self.resume_command());
            self.screen.note(format_args!("{count} jobs are suspended; go on with: {command}"));
        }
    }

    fn leave(&mut self) {
        self.screen.end();
        let who = if self.session.owns() { "the session's next owner" } else { "the session's owner" };
        let command = self.resume_command();
        self.screen
            .note(format_args!("terminated; {who} goes on with the jobs; wait for them with: {command}"));
    }
}

fn is_paused(view: &JobView) -> bool {
    view.cause.as_ref().is_some_and(|cause| cause.kind == "paused")
}
