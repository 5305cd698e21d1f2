//! `haul cancel ID…|--group|--state|--all`

use std::time::{Duration, Instant};

use longhaul::control::{Request, Selection};
use longhaul::{JobId, JobState, JobView};

use super::Changes;
use crate::connect::Attached;
use crate::exit::{Exit, Failure};
use crate::output::Context;
use crate::report;
use crate::select::{UNFINISHED, WhichByState};

/// How long to wait until servers and disks are free of the cancelled jobs.
const CLEAN_UP: Duration = Duration::from_secs(10);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

pub async fn run(context: &Context, which: &WhichByState) -> Result<Exit, Failure> {
    let selection = which.selection(&UNFINISHED)?;
    let Some(mut session) = super::visit(context).await? else {
        return super::nowhere(context, &selection);
    };
    let cancelled = cancel(context, selection, &mut session).await;
    session.leave(cancelled).await
}

async fn cancel(context: &Context, selection: Selection, session: &mut Attached) -> Result<Exit, Failure> {
    let mut changes = super::change(session, selection.clone(), |jobs| Request::Cancel { jobs }).await?;
    changes.changed = settle(session, &changes, selection).await?;
    super::print_changes(context, &changes, report::result_line)?;
    tell_leftovers(context, &changes);
    super::judge(session, &changes.skipped, is_cancelled).await
}

/// Waits a while for the clean-up: without an owner it stops when we leave.
async fn settle(
    session: &mut Attached,
    changes: &Changes,
    selection: Selection,
) -> Result<Vec<JobView>, Failure> {
    let started = Instant::now();
    let ids: Vec<JobId> = changes.changed.iter().map(|view| view.id).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    // Those that the answer had no room for are known by what was asked for only.
    let others = selection.in_states([JobState::Sending]);
    loop {
        let views = super::pages(session, Selection::ids(ids.iter().copied())).await?;
        let is_over = views.iter().all(|view| view.state.is_terminal())
            && (changes.unlisted() == 0 || super::pages(session, others.clone()).await?.is_empty());
        if is_over || started.elapsed() >= CLEAN_UP {
            return Ok(views);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn tell_leftovers(context: &Context, changes: &Changes) {
    let open = changes.changed.iter().filter(|view| !view.state.is_terminal()).count();
    if open > 0 {
        context.note(format_args!(
            "cancelled for good, but {open} of the jobs still have remains that cannot be freed now; \
             the session's owner goes on trying, this or the next one"
        ));
    }
}

fn is_cancelled(view: &JobView) -> bool {
    view.state == JobState::Failed && view.cause.as_ref().is_some_and(|cause| cause.kind == "cancelled")
}
