//! `haul cancel ID…|--all`

use std::time::{Duration, Instant};

use longhaul::control::Request;
use longhaul::{JobId, JobState, JobView};

use super::Changes;
use crate::args::Selection;
use crate::connect::Attached;
use crate::exit::{Exit, Failure};
use crate::output::Context;

/// How long to wait until servers and disks are free of the cancelled jobs.
const CLEAN_UP: Duration = Duration::from_secs(10);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

pub async fn run(context: &Context, selection: &Selection) -> Result<Exit, Failure> {
    let Some(mut session) = super::visit(context).await? else {
        return super::nowhere(context, selection);
    };
    let cancelled = cancel(context, selection, &mut session).await;
    session.leave(cancelled).await
}

async fn cancel(context: &Context, selection: &Selection, session: &mut Attached) -> Result<Exit, Failure> {
    let mut changes = super::change(session, selection.wanted(), |jobs| Request::Cancel { jobs }).await?;
    let ids: Vec<JobId> = changes.changed.iter().map(|view| view.id).collect();
    changes.changed = settle(session, ids).await?;
    super::print_changes(context, &changes)?;
    tell_leftovers(context, &changes);
    if selection.all {
        return Ok(Exit::Done);
    }
    super::judge(session, &changes.skipped, is_cancelled).await
}

/// Waits a while for the clean-up: without an owner it stops when we leave.
async fn settle(session: &mut Attached, ids: Vec<JobId>) -> Result<Vec<JobView>, Failure> {
    let started = Instant::now();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    loop {
        let views = session.list(Some(ids.clone())).await?;
        if views.iter().all(|view| view.state.is_terminal()) || started.elapsed() >= CLEAN_UP {
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
