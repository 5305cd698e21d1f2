//! Waiting for jobs: through whichever process owns the session, and across changes of owner.
//!
//! ```text
//!            news ──▶ the job as it is now ──▶ all settled? ──▶ Settled
//!   loop     tick ──▶ list what moves (each few ticks: all)
//!            the owner is gone ──▶ own the session, or find the next owner; list all
//!            SIGINT ──▶ Interrupted       SIGTERM ──▶ Terminated
//! ```
//!
//! For more than [`FEW`] jobs, see `bulk`.
//!
//! Events tell of states, lists tell of bytes and of anything that an event did not. Invariant: a job
//! that was seen to end is never shown in another state again.

mod bulk;
pub mod tally;

use std::collections::BTreeMap;
use std::time::Duration;

use longhaul::control::{Request, Response, Selection};
use longhaul::{Cause, JobId, JobState, JobView};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::connect::{Attached, News, unexpected};
use crate::exit::{Exit, Failure};
use crate::output::Context;
use crate::report;
use crate::screen::Screen;
use crate::signals::{Asked, Signals};

/// Between two looks at the bytes: for a bar, and where only lines are written.
const TICK_LIVE: Duration = Duration::from_millis(200);
const TICK_PLAIN: Duration = Duration::from_secs(1);
/// Each so many ticks all jobs are listed, whatever the events said.
const TICKS_FULL: u32 = 10;

/// Jobs that are listed one by one; more are waited for as a crowd.
const FEW: usize = 200;

/// Why waiting ended.
enum End {
    /// Every job ended, or holds still until somebody acts.
    Settled,
    /// A signal came first.
    Asked(Asked),
}

/// Jobs by number, and their group if they are all of one.
pub struct Crowd {
    pub ids: Vec<JobId>,
    pub group: Option<String>,
}

/// Waits for jobs that were just accepted. Whoever calls this closes `session` afterwards.
pub async fn wait_for(
    session: &mut Attached,
    crowd: Crowd,
    context: &Context,
    signals: &mut Signals,
) -> Result<Exit, Failure> {
    if crowd.ids.len() > FEW {
        return bulk::wait(session, crowd, context, signals).await;
    }
    let jobs = session.list(Some(crowd.ids)).await?;
    wait(session, jobs, context, signals).await
}

/// Waits for jobs and tells how they ended. Whoever calls this closes `session` afterwards.
pub async fn wait(
    session: &mut Attached,
    jobs: Vec<JobView>,
    context: &Context,
    signals: &mut Signals,
) -> Result<Exit, Failure> {
    if jobs.len() > FEW {
        let ids = jobs.into_iter().map(|view| view.id).collect();
        return bulk::wait(session, Crowd { ids, group: None }, context, signals).await;
    }
    let mut waiting = Waiting { session, jobs: BTreeMap::new(), screen: Screen::new(context) };
    for view in jobs {
        waiting.update(view, Source::List)?;
    }
    match waiting.run(signals).await? {
        End::Settled => waiting.finish(),
        End::Asked(Asked::Interrupt) => waiting.suspend().await,
        End::Asked(Asked::Terminate) => {
            waiting.leave();
            Ok(Exit::Terminated)
        }
    }
}

/// After the news of `generation` ended. A list may have found the next owner already.
async fn next_owner(session: &mut Attached, screen: &Screen<'_>, generation: u32) -> Result<(), Failure> {
    if session.generation() != generation {
        return Ok(());
    }
    if session.owns() {
        // The engine in this process ended; it says why, unless it is an error of ours.
        let grace = tokio::time::timeout(Duration::from_secs(1), session.stopped());
        return Err(grace.await.unwrap_or_else(|_| Failure::failed("the engine stopped by itself")));
    }
    session.reopen().await?;
    screen.note(if session.owns() {
        "the session's owner is gone; this process owns it now and goes on"
    } else {
        "the session's owner is gone; going on with the next one"
    });
    Ok(())
}

/// What makes a change worth showing. The cause of a job that is being cleaned up waits for its end.
fn face(view: &JobView) -> (JobState, Option<Cause>) {
    (view.state, view.cause.clone().filter(|_| view.state == JobState::Suspended))
}

struct Waiting<'a> {
    session: &'a mut Attached,
    jobs: BTreeMap<JobId, JobView>,
    screen: Screen<'a>,
}

/// Where a view of a job came from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The job as it is.
    List,
    /// The job as it was when the event was made.
    Event,
}

impl Waiting<'_> {
    async fn run(&mut self, signals: &mut Signals) -> Result<End, Failure> {
        let mut news = self.join().await?;
        let mut generation = self.session.generation();
        let mut tick = interval(if self.screen.is_live() { TICK_LIVE } else { TICK_PLAIN });
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks = 0;
        loop {
            if self.jobs.values().all(report::is_settled) {
                return Ok(End::Settled);
            }
            tokio::select! {
                asked = signals.asked() => return Ok(End::Asked(asked)),
                failure = self.session.stopped() => return Err(failure),
                item = news.recv() => match item {
                    Some(News::Job(view)) => self.update(*view, Source::Event)?,
                    Some(News::Gap) => self.list_all().await?,
                    None => {
                        next_owner(self.session, &self.screen, generation).await?;
                        news = self.join().await?;
                        generation = self.session.generation();
                    }
                },
                _ = tick.tick() => {
                    ticks += 1;
                    if ticks % TICKS_FULL == 0 { self.list_all().await? } else { self.list_moving().await? }
                    self.screen.look(&self.jobs);
                }
            }
        }
    }

    /// Listens first and lists then, so that nothing falls in between.
    async fn join(&mut self) -> Result<mpsc::Receiver<News>, Failure> {
        let news = self.session.news(&Selection::all()).await?;
        self.list_all().await?;
        Ok(news)
    }

    async fn list_all(&mut self) -> Result<(), Failure> {
        let open = self.numbers(|view| !view.state.is_terminal());
        let views = self.session.list(Some(open.clone())).await?;
        if views.len() < open.len() {
            let gone = open.iter().find(|&&id| views.iter().all(|view| view.id != id));
            let gone = gone.map(ToString::to_string).unwrap_or_default();
            return Err(Failure::new(
                Exit::Unknown,
                format!("job {gone} is no longer in the session's journal"),
            ));
        }
        views.into_iter().try_for_each(|view| self.update(view, Source::List))
    }

    async fn list_moving(&mut self) -> Result<(), Failure> {
        let moving = self.numbers(|view| view.state == JobState::Sending);
        if moving.is_empty() {
            return Ok(());
        }
        let views = self.session.list(Some(moving)).await?;
        views.into_iter().try_for_each(|view| self.update(view, Source::List))
    }

    fn numbers(&self, which: impl Fn(&JobView) -> bool) -> Vec<JobId> {
        self.jobs.values().filter(|view| which(view)).map(|view| view.id).collect()
    }

    fn update(&mut self, view: JobView, source: Source) -> Result<(), Failure> {
        let before = match self.jobs.get(&view.id) {
            None if source == Source::Event => return Ok(()), // somebody else's job
            None => None,
            Some(known) if known.state.is_terminal() => return Ok(()),
            // An event that waited in the queue while a list already told more.
            Some(known) if source == Source::Event && view.changed_at < known.changed_at => return Ok(()),
            Some(known) => Some(face(known)),
        };
        if before.as_ref() != Some(&face(&view)) {
            self.screen.changed(&view)?;
        }
        self.jobs.insert(view.id, view);
        Ok(())
    }

    /// Tells the endings that were not final enough to be told on the way.
    fn finish(&mut self) -> Result<Exit, Failure> {
        self.screen.end();
        for view in self.jobs.values() {
            self.screen.result(view)?;
        }
        Ok(self.jobs.values().map(report::ending).fold(Exit::Done, Exit::and))
    }

    /// Suspends this command's jobs, and no others.
    async fn suspend(&mut self) -> Result<Exit, Failure> {
        let open = self.numbers(|view| !report::is_settled(view));
        self.screen.end();
        self.screen.note("suspending; once more Ctrl-C leaves at once");
        match self.session.call(&Request::Suspend { jobs: Selection::ids(open) }).await? {
            Response::Changed { jobs, .. } => {
                jobs.into_iter().try_for_each(|view| self.update(view, Source::List))?;
            }
            other => return Err(unexpected(other)),
        }
        // Jobs that ended in the meantime were left alone.
        self.list_all().await?;
        let exit = self.finish()?;
        let held = self.numbers(|view| !view.state.is_terminal());
        if held.len() > 1 {
            let ids: Vec<_> = held.iter().map(ToString::to_string).collect();
            let command = self.screen.context().again(&format!("resume {}", ids.join(" ")));
            self.screen.note(format_args!("go on with all of them: {command}"));
        }
        Ok(exit)
    }

    fn leave(&mut self) {
        self.screen.end();
        let open = self.numbers(|view| !view.state.is_terminal());
        if open.is_empty() {
            return;
        }
        let ids: Vec<_> = open.iter().map(ToString::to_string).collect();
        let command = self.screen.context().again(&format!("resume {}", ids.join(" ")));
        self.screen.note(if self.session.owns() {
            format!(
                "terminated; the session's next owner goes on with its jobs; wait for them with: {command}"
            )
        } else {
            format!("terminated; the session's owner goes on with the jobs; wait for them with: {command}")
        });
    }
}
