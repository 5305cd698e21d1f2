//! `haul watch [ID…]`: looks on, and changes nothing.
//!
//! ```text
//! on a terminal    a table of what moves, drawn anew in its place            (watch/live)
//! else, --json     a line for each event, with its number; --after goes on   (watch/lines)
//! ```
//!
//! Never owns the session: where nobody does, it looks once, says so, and waits for an owner.
//! It ends when every job that it was asked for has ended.

mod lines;
mod live;

use std::time::Duration;

use clap::Args;
use longhaul::control::{Client, Query, Request, Response, Selection};
use longhaul::{JobState, JobView};

use crate::connect::{Attached, Role};
use crate::exit::{Exit, Failure};
use crate::output::{self, Context};
use crate::report;
use crate::select::{Filter, UNFINISHED};
use crate::signals::{Asked, Signals};
use crate::table;

/// The foot of the help.
pub const NOTES: &str = "\
On a terminal it draws a table; elsewhere, and with --json, it writes a line for each event (with --json the event with
its number, for --after). It ends when all jobs that it looks at have ended, with their exit code where they were
named by number or group; without any such choice, the lines go on until it is interrupted (130).";

/// Between two tries to find an owner.
const PAUSE: Duration = Duration::from_millis(500);
/// A page that is looked through for endings.
const PAGE: usize = 1000;

#[derive(Debug, Args)]
pub struct Watch {
    #[command(flatten)]
    pub filter: Filter,
    /// Begin with the event after this number, as far as they are known
    #[arg(long, value_name = "NUMBER")]
    pub after: Option<u64>,
}

pub async fn run(context: &Context, watch: &Watch) -> Result<Exit, Failure> {
    let selection = watch.filter.selection()?;
    if !super::exists(context)? {
        return super::nowhere(context, &selection);
    }
    let mut signals = Signals::install()?;
    let mut watching = Watching { context, selection, link: Link::Nobody, told: false, unknown: Exit::Done };
    watching.begin().await?;
    let size = table::screen_size().filter(|_| !context.json && watch.after.is_none());
    let ended = async {
        match size {
            Some(_) => live::run(&mut watching).await,
            None => lines::run(&mut watching, watch.after).await,
        }
    };
    tokio::select! {
        ended = ended => ended,
        asked = signals.asked() => Ok(match asked {
            Asked::Interrupt => Exit::Interrupted,
            Asked::Terminate => Exit::Terminated,
        }),
    }
}

/// Who answers.
enum Link {
    Owner(Client),
    /// For one look, before anybody owns the session.
    Visit(Box<Attached>),
    Nobody,
}

/// What is watched.
struct Watching<'a> {
    context: &'a Context,
    selection: Selection,
    link: Link,
    told: bool,
    /// Failed if some of the named jobs are not there.
    unknown: Exit,
}

impl Watching<'_> {
    /// Finds who answers, and makes sure that the named jobs are there.
    async fn begin(&mut self) -> Result<(), Failure> {
        if !self.connect().await {
            // Also waits for an owner that is just starting.
            let session = Attached::open(&self.context.dir, Role::Visitor).await?;
            if session.owns() {
                self.link = Link::Visit(Box::new(session));
            } else {
                self.connect().await;
            }
        }
        let Some(named) = self.selection.ids.clone() else { return Ok(()) };
        let mut query: Query = Selection::ids(named.iter().copied()).into();
        let mut known = Vec::new();
        loop {
            // Nobody answers: nothing can be said of them yet.
            let Some(Response::Jobs { jobs, more }) = self.ask(Request::List { query: query.clone() }).await
            else {
                return Ok(());
            };
            known.extend(jobs.iter().map(|view| view.id));
            let Some(after) = more else { break };
            query.after = Some(after);
        }
        for id in named.iter().filter(|id| known.binary_search(id).is_err()) {
            output::complain(super::no_job(self.context, *id));
            self.unknown = Exit::Failed;
        }
        if known.is_empty() {
            self.release().await?;
            return Err(Failure::failed("there is nothing to watch"));
        }
        Ok(())
    }

    /// Finds the session's owner; false if there is none.
    async fn connect(&mut self) -> bool {
        if let Ok(client) = Client::connect(&self.context.dir).await {
            (self.link, self.told) = (Link::Owner(client), false);
        }
        matches!(self.link, Link::Owner(_))
    }

    /// Lets go of the session after the one look.
    async fn release(&mut self) -> Result<(), Failure> {
        match std::mem::replace(&mut self.link, Link::Nobody) {
            Link::Visit(session) => session.leave(Ok(())).await?,
            other @ (Link::Owner(_) | Link::Nobody) => self.link = other,
        }
        Ok(())
    }

    /// Asks whoever answers; `None`: nobody does, or not any more.
    async fn ask(&mut self, request: Request) -> Option<Response> {
        match &mut self.link {
            Link::Owner(client) => {
                let answer = client.call(&request).await.ok();
                if answer.is_none() {
                    self.link = Link::Nobody;
                }
                answer
            }
            Link::Visit(session) => session.call(&request).await.ok(),
            Link::Nobody => None,
        }
    }

    /// The jobs of a query that are in one of its states.
    async fn list(&mut self, query: Query) -> Option<Vec<JobView>> {
        match self.ask(Request::List { query }).await? {
            Response::Jobs { jobs, .. } => Some(jobs),
            _ => None,
        }
    }

    /// Whether every job has ended; `None`: nobody answers.
    async fn is_over(&mut self) -> Option<bool> {
        let states = watched_states(&self.selection, &UNFINISHED);
        if states.is_empty() {
            return Some(true);
        }
        let query = Query { limit: Some(1), ..self.selection.clone().in_states(states).into() };
        let jobs = self.list(query).await?;
        Some(jobs.iter().all(|view| view.state.is_terminal()))
    }

    /// The exit code of jobs that were named and have ended.
    async fn verdict(&mut self) -> Exit {
        if self.selection.ids.is_none() && self.selection.group.is_none() {
            return Exit::Done;
        }
        let failed = self.selection.clone().in_states([JobState::Failed]);
        let mut query = Query { limit: Some(PAGE), ..failed.into() };
        let mut exit = self.unknown;
        loop {
            let Some(Response::Jobs { jobs, more }) = self.ask(Request::List { query: query.clone() }).await
            else {
                return exit;
            };
            exit = jobs.iter().map(report::ending).fold(exit, Exit::and);
            let Some(after) = more else { return exit };
            query.after = Some(after);
        }
    }

    /// Says once that nobody runs the jobs.
    fn tell_nobody(&mut self) {
        if !std::mem::replace(&mut self.told, true) {
            let daemon = self.context.again("daemon");
            self.context.note(format_args!(
                "nobody runs this session's jobs now; waiting for an owner, as: {daemon}"
            ));
        }
    }
}

/// Those of `states` that the selection is about.
fn watched_states(selection: &Selection, states: &[JobState]) -> Vec<JobState> {
    let wanted = |state: &JobState| selection.states.is_empty() || selection.states.contains(state);
    states.iter().copied().filter(wanted).collect()
}
