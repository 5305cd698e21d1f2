//! `haul resume ID…|--all`

use longhaul::control::{Request, Skipped};
use longhaul::{JobId, JobView};

use crate::args::Selection;
use crate::connect::{Attached, Role};
use crate::exit::{Exit, Failure};
use crate::output::{self, Context};
use crate::signals::Signals;
use crate::wait;

pub async fn run(context: &Context, selection: &Selection) -> Result<Exit, Failure> {
    if !context.dir.exists() {
        return super::nowhere(context, selection);
    }
    let mut signals = Signals::install()?;
    let mut session = Attached::open(&context.dir, Role::Owner).await?;
    let ended = resume(context, selection, &mut session, &mut signals).await;
    session.leave(ended).await
}

async fn resume(
    context: &Context,
    selection: &Selection,
    session: &mut Attached,
    signals: &mut Signals,
) -> Result<Exit, Failure> {
    let changes = super::change(session, selection.wanted(), |jobs| Request::Resume { jobs }).await?;
    // Also what needed no resuming is waited for: after a kill the jobs go on by themselves, and who
    // says `resume 3` wants to see how job 3 ends.
    let jobs = session.list(selection.wanted().ids).await?;
    let jobs: Vec<JobView> = if selection.all {
        jobs.into_iter().filter(|view| !view.state.is_terminal()).collect()
    } else {
        jobs
    };
    let unknown = tell_unknown(context, selection, &changes.skipped, &jobs);
    if jobs.is_empty() {
        if selection.all {
            context.note("there is no unfinished job");
        }
        return Ok(unknown);
    }
    Ok(wait::wait(session, jobs, context, signals).await?.and(unknown))
}

fn tell_unknown(context: &Context, selection: &Selection, skipped: &[Skipped], jobs: &[JobView]) -> Exit {
    let known = |id: JobId| jobs.iter().any(|view| view.id == id);
    for left in skipped.iter().filter(|left| known(left.id)) {
        context.note(super::skip_line(left));
    }
    let unknown = selection.ids.iter().filter(|&&id| !known(id));
    unknown.fold(Exit::Done, |_, &id| {
        output::complain(super::no_job(context, id));
        Exit::Failed
    })
}
