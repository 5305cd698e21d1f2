//! `haul show ID`

use std::fmt::Write as _;

use clap::Args;
use longhaul::{JobId, JobView};

use crate::exit::{Exit, Failure};
use crate::output::{self, Context};
use crate::report;
use crate::text::{self, escape};

#[derive(Debug, Args)]
pub struct Show {
    /// The job's number
    #[arg(value_name = "ID")]
    pub id: JobId,
}

pub async fn run(context: &Context, show: &Show) -> Result<Exit, Failure> {
    let Some(mut session) = super::visit(context).await? else {
        return Err(super::no_job(context, show.id));
    };
    let jobs = session.list(Some(vec![show.id])).await;
    let jobs = session.leave(jobs).await?;
    let view = jobs.first().ok_or_else(|| super::no_job(context, show.id))?;
    if context.json {
        output::print_json(view)?;
    } else {
        output::print(&block(view, context))?;
    }
    Ok(Exit::Done)
}

fn block(view: &JobView, context: &Context) -> String {
    let size = view
        .size
        .map_or_else(|| "not known yet".to_owned(), |size| format!("{} ({size} bytes)", text::bytes(size)));
    let lines = [
        ("job", Some(view.id.to_string())),
        ("state", Some(view.state.to_string())),
        ("cause", report::cause(view)),
        ("what to do", report::remedy(view, context)),
        ("direction", Some(format!("{:?}", view.direction).to_lowercase())),
        ("source", Some(escape(&view.source).into_owned())),
        ("target", Some(escape(&view.target).into_owned())),
        ("file", view.file.as_deref().map(|file| escape(file).into_owned())),
        ("protocol", Some(escape(&view.protocol).into_owned())),
        ("size", Some(size)),
        ("done", Some(report::progress(view))),
        ("proven by", view.evidence.as_deref().map(|text| escape(text).into_owned())),
        ("attempts", Some(format!("{} failed", view.attempts))),
        ("trouble", view.trouble.as_deref().map(|text| escape(text).into_owned())),
        ("next try", view.retry_at.map(|at| text::utc(at.0))),
        ("left over", view.leftover.as_deref().map(|text| escape(text).into_owned())),
        ("submitted", Some(text::utc(view.submitted_at.0))),
        ("changed", Some(text::utc(view.changed_at.0))),
    ];
    lines.into_iter().fold(String::new(), |mut block, (name, value)| {
        if let Some(value) = value {
            let _ = writeln!(block, "{name:<12}{value}"); // writing to a String cannot fail
        }
        block
    })
}

#[cfg(test)]
mod tests {
    use longhaul::JobState;

    use super::*;
    use crate::report::tests::job;

    #[test]
    fn the_block_has_a_line_for_all_that_is_known() {
        let context = Context {
            session: "default".into(),
            dir: "/s".into(),
            json: false,
            quiet: false,
            verbose: false,
        };
        let text = block(&job(JobState::Suspended, Some(("paused", "paused"))), &context);
        for line in [
            "job         3",
            "state       suspended",
            "cause       paused",
            "what to do  go on with: haul resume 3",
            "direction   upload",
            "size        1.2 GiB (1288490189 bytes)",
            "submitted   1970-01-01 00:00:00.000Z",
        ] {
            assert!(text.lines().any(|given| given == line), "{line}\n{text}");
        }
        assert!(!text.contains("trouble"));
    }
}
