//! `haul rm ID…|--group|--state|--all`

use longhaul::control::{Request, Selection};
use longhaul::{JobId, JobView};

use super::Changes;
use crate::connect::Attached;
use crate::exit::{Exit, Failure};
use crate::output::Context;
use crate::report;
use crate::select::{ENDED, WhichByState};

pub async fn run(context: &Context, which: &WhichByState) -> Result<Exit, Failure> {
    let selection = which.selection(&ENDED)?;
    let Some(mut session) = super::visit(context).await? else {
        return super::nowhere(context, &selection);
    };
    let removed = remove(context, selection, &mut session).await;
    session.leave(removed).await
}

async fn remove(context: &Context, selection: Selection, session: &mut Attached) -> Result<Exit, Failure> {
    let changes = super::change(session, selection, |jobs| Request::Remove { jobs }).await?;
    super::print_changes(context, &changes, line)?;
    let unfinished = unfinished(session, &changes).await?;
    if !unfinished.is_empty() {
        let ids: Vec<_> = unfinished.iter().map(ToString::to_string).collect();
        let cancel = context.again(&format!("cancel {}", ids.join(" ")));
        context.note(format_args!("only jobs that have ended can be removed; cancel first: {cancel}"));
    }
    Ok(if changes.skipped.is_empty() { Exit::Done } else { Exit::Failed })
}

/// `3  removed  completed  movie.mp4 → http://…`
fn line(view: &JobView) -> String {
    format!("{}  removed  {}  {}", view.id, view.state, report::route(view))
}

/// Those that were left alone because they have not ended.
async fn unfinished(session: &mut Attached, changes: &Changes) -> Result<Vec<JobId>, Failure> {
    if changes.skipped.is_empty() {
        return Ok(Vec::new());
    }
    let skipped = Selection::ids(changes.skipped.iter().map(|skipped| skipped.id));
    let views = super::pages(session, skipped).await?;
    Ok(views.iter().filter(|view| !view.state.is_terminal()).map(|view| view.id).collect())
}
