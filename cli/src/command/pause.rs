//! `haul pause ID…|--all`

use longhaul::JobState;
use longhaul::control::Request;

use crate::args::Selection;
use crate::exit::{Exit, Failure};
use crate::output::Context;

pub async fn run(context: &Context, selection: &Selection) -> Result<Exit, Failure> {
    let Some(mut session) = super::visit(context).await? else {
        return super::nowhere(context, selection);
    };
    let paused = async {
        let changes =
            super::change(&mut session, selection.wanted(), |jobs| Request::Suspend { jobs }).await?;
        super::print_changes(context, &changes)?;
        if selection.all {
            return Ok(Exit::Done);
        }
        super::judge(&mut session, &changes.skipped, |view| view.state == JobState::Suspended).await
    }
    .await;
    session.leave(paused).await
}
