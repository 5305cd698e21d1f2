//! `haul resume ID…|--group|--all`

use clap::Args;
use longhaul::control::{Request, Selection, Skipped};
use longhaul::{JobId, JobState, JobView};

use crate::connect::{Attached, Role};
use crate::exit::{Exit, Failure};
use crate::output::{self, Context};
use crate::report;
use crate::select::{UNFINISHED, Which};
use crate::signals::Signals;
use crate::wait;

#[derive(Debug, Args)]
pub struct Resume {
    #[command(flatten)]
    pub which: Which,
    /// Do not wait: the session's owner goes on with them, this or the next one
    #[arg(short, long)]
    pub detach: bool,
}

pub async fn run(context: &Context, resume: &Resume) -> Result<Exit, Failure> {
    let selection = resume.which.selection()?;
    if !super::exists(context)? {
        return super::nowhere(context, &selection);
    }
    if resume.detach {
        let mut session = Attached::open(&context.dir, Role::Visitor).await?;
        let resumed = detached(context, selection, &mut session).await;
        return session.leave(resumed).await;
    }
    let mut signals = Signals::install()?;
    let mut session = Attached::open(&context.dir, Role::Owner).await?;
    let ended = carry(context, selection, &mut session, &mut signals).await;
    session.leave(ended).await
}

async fn detached(context: &Context, selection: Selection, session: &mut Attached) -> Result<Exit, Failure> {
    let changes = super::change(session, selection, |jobs| Request::Resume { jobs }).await?;
    super::print_changes(context, &changes, report::result_line)?;
    tell_nobody(context, session);
    let goes_on = |view: &JobView| !view.state.is_terminal() && view.state != JobState::Suspended;
    super::judge(session, &changes.skipped, goes_on).await
}

/// Says so when nobody runs the jobs that were not waited for.
pub fn tell_nobody(context: &Context, session: &Attached) {
    if session.owns() {
        let daemon = context.again("daemon");
        context.note(format_args!(
            "nobody runs this session now; the jobs go on with its next owner, as: {daemon}"
        ));
    }
}

async fn carry(
    context: &Context,
    selection: Selection,
    session: &mut Attached,
    signals: &mut Signals,
) -> Result<Exit, Failure> {
    let changes = super::change(session, selection.clone(), |jobs| Request::Resume { jobs }).await?;
    // Also what needed no resuming is waited for: after a kill the jobs go on by themselves, and who
    // says `resume 3` wants to see how job 3 ends.
    let named = selection.ids.clone();
    let wanted = if named.is_some() { selection } else { selection.in_states(UNFINISHED) };
    let jobs = super::pages(session, wanted).await?;
    let jobs: Vec<JobView> =
        jobs.into_iter().filter(|view| named.is_some() || !view.state.is_terminal()).collect();
    let unknown = tell_unknown(context, &named.unwrap_or_default(), &changes.skipped, &jobs);
    if jobs.is_empty() {
        if unknown == Exit::Done {
            context.note("there is no unfinished job");
        }
        return Ok(unknown);
    }
    Ok(wait::wait(session, jobs, context, signals).await?.and(unknown))
}

fn tell_unknown(context: &Context, named: &[JobId], skipped: &[Skipped], jobs: &[JobView]) -> Exit {
    // Both are in rising order.
    let known = |id: JobId| jobs.binary_search_by_key(&id, |view| view.id).is_ok();
    for left in skipped.iter().filter(|left| known(left.id)) {
        context.note(super::skip_line(left));
    }
    named.iter().filter(|&&id| !known(id)).fold(Exit::Done, |_, &id| {
        output::complain(super::no_job(context, id));
        Exit::Failed
    })
}
