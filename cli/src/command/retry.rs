//! `haul retry ID…|--group|--all`: another attempt of failed jobs, each as a new job that names its predecessor.

use clap::Args;
use longhaul::control::{Query, Request, Selection};
use longhaul::{JobId, JobView};

use super::Changes;
use super::resume::tell_nobody;
use crate::connect::{Attached, Losses, Role};
use crate::exit::{Exit, Failure};
use crate::output::Context;
use crate::report;
use crate::select::Which;
use crate::signals::Signals;
use crate::wait;

#[derive(Debug, Args)]
pub struct Retry {
    #[command(flatten)]
    pub which: Which,
    /// Do not wait: the session's owner runs them, this or the next one
    #[arg(short, long)]
    pub detach: bool,
}

pub async fn run(context: &Context, retry: &Retry) -> Result<Exit, Failure> {
    let selection = retry.which.selection()?;
    if !super::exists(context)? {
        return super::nowhere(context, &selection);
    }
    let mut signals = Signals::install()?;
    let role = if retry.detach { Role::Visitor } else { Role::Owner };
    let mut session = Attached::open(&context.dir, role).await?;
    let ended = again(context, selection, &mut session, &mut signals, retry.detach).await;
    session.leave(ended).await
}

async fn again(
    context: &Context,
    selection: Selection,
    session: &mut Attached,
    signals: &mut Signals,
    detach: bool,
) -> Result<Exit, Failure> {
    let before = last(session).await?;
    let changes = ask(context, session, selection, before).await?;
    if detach {
        super::print_changes(context, &changes, line)?;
        if changes.count > 0 {
            tell_nobody(context, session);
        }
        return Ok(left_alone(&changes));
    }
    if !context.json {
        super::print_changes(context, &changes, line)?;
    }
    let left = left_alone(&changes);
    let jobs = if changes.unlisted() == 0 { changes.changed } else { successors(session, before).await? };
    if jobs.is_empty() {
        return Ok(left);
    }
    Ok(wait::wait(session, jobs, context, signals).await?.and(left))
}

fn left_alone(changes: &Changes) -> Exit {
    if changes.skipped.is_empty() { Exit::Done } else { Exit::Failed }
}

/// Asks, once as far as can be: when the owner goes away before it answers, the new jobs may be there. Only if
/// none is, the next owner is asked.
async fn ask(
    context: &Context,
    session: &mut Attached,
    selection: Selection,
    before: JobId,
) -> Result<Changes, Failure> {
    let request = Request::Retry { jobs: selection };
    let mut losses = Losses::default();
    loop {
        match session.try_call(&request).await {
            Ok(response) => return Changes::from(response),
            Err(lost) => session.survive(lost, &mut losses).await?,
        }
        let changed = successors(session, before).await?;
        if !changed.is_empty() {
            context.note("the session's owner went away while it made the new jobs: these are there; see which are missing before you ask again");
            return Ok(Changes { count: changed.len() as u64, changed, skipped: Vec::new() });
        }
    }
}

/// The highest number there is.
async fn last(session: &mut Attached) -> Result<JobId, Failure> {
    let query = Query { limit: Some(1), newest: true, ..Query::default() };
    let (jobs, _) = session.page(query).await?;
    Ok(jobs.last().map_or(JobId(0), |view| view.id))
}

/// Jobs above that number which are another attempt of one.
async fn successors(session: &mut Attached, before: JobId) -> Result<Vec<JobView>, Failure> {
    let mut query = Query { after: Some(before), ..Query::default() };
    let mut all = Vec::new();
    loop {
        let (jobs, more) = session.page(query.clone()).await?;
        all.extend(jobs.into_iter().filter(|view| view.predecessor.is_some() && view.id > before));
        let Some(after) = more else { return Ok(all) };
        query.after = Some(after);
    }
}

/// `7 → 19  queued  movie.mp4 → http://…`
fn line(view: &JobView) -> String {
    let old = view.predecessor.map(|id| format!("{id} → ")).unwrap_or_default();
    format!("{old}{}  {}  {}", view.id, view.state, report::route(view))
}

#[cfg(test)]
mod tests {
    use longhaul::JobState;

    use super::*;
    use crate::report::tests::job;

    #[test]
    fn the_line_names_both_numbers() {
        let mut view = job(JobState::Queued, None);
        view.predecessor = Some(JobId(2));
        assert_eq!(line(&view), "2 → 3  queued  movie.mp4 → http://host/files/");
    }
}
