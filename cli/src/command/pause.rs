//! `haul pause ID…|--group|--state|--all`

use longhaul::JobState;
use longhaul::control::Request;

use crate::exit::{Exit, Failure};
use crate::output::Context;
use crate::report;
use crate::select::{UNFINISHED, WhichByState};

pub async fn run(context: &Context, which: &WhichByState) -> Result<Exit, Failure> {
    let selection = which.selection(&UNFINISHED)?;
    let Some(mut session) = super::visit(context).await? else {
        return super::nowhere(context, &selection);
    };
    let paused = async {
        let changes = super::change(&mut session, selection, |jobs| Request::Suspend { jobs }).await?;
        super::print_changes(context, &changes, report::result_line)?;
        super::judge(&mut session, &changes.skipped, |view| view.state == JobState::Suspended).await
    }
    .await;
    session.leave(paused).await
}
