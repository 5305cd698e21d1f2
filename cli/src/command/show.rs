//! `haul show ID`

use std::fmt::Write as _;

use clap::Args;
use longhaul::{JobId, JobView};

use crate::exit::{Exit, Failure};
use crate::output::{self, Context};
use crate::report;
use crate::style;
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
        ("state", Some(style::stdout().state(view.state))),
        ("cause", report::cause(view)),
        ("what to do", report::remedy(view, context)),
        ("waits for", shown(view.waits_for.as_ref())),
        ("direction", Some(format!("{:?}", view.direction).to_lowercase())),
        ("source", shown(Some(&view.source))),
        ("target", shown(Some(&view.target))),
        ("file", shown(view.file.as_ref())),
        ("protocol", Some(escape(&view.protocol).into_owned())),
        ("size", Some(size)),
        ("done", Some(report::progress(view))),
        ("proven by", shown(view.evidence.as_ref())),
        ("attempts", Some(format!("{} failed", view.attempts))),
        ("trouble", shown(view.trouble.as_ref())),
        ("next try", view.retry_at.map(|at| text::utc(at.0))),
        ("left over", shown(view.leftover.as_ref())),
        ("group", shown(view.group.as_ref())),
        ("key", shown(view.key.as_ref())),
        ("priority", Some(view.priority.to_string())),
        ("not before", view.not_before.map(|at| text::utc(at.0))),
        ("deadline", view.deadline.map(|at| text::utc(at.0))),
        ("tries again", view.predecessor.map(|id| format!("job {id}"))),
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

fn shown(text: Option<&String>) -> Option<String> {
    text.map(|text| escape(text).into_owned())
}

#[cfg(test)]
mod tests {
    use longhaul::JobState;

    use super::*;
    use crate::report::tests::{context, job};

    #[test]
    fn the_block_has_a_line_for_all_that_is_known() {
        let mut view = job(JobState::Suspended, Some(("paused", "paused")));
        (view.group, view.predecessor) = (Some("nightly".into()), Some(JobId(2)));
        let text = block(&view, &context("default"));
        for line in [
            "job         3",
            "state       suspended",
            "cause       paused",
            "what to do  go on with: haul resume 3",
            "direction   upload",
            "group       nightly",
            "priority    5",
            "tries again job 2",
            "size        1.2 GiB (1288490189 bytes)",
            "submitted   1970-01-01 00:00:00.000Z",
        ] {
            assert!(text.lines().any(|given| given == line), "{line}\n{text}");
        }
        assert!(!text.contains("trouble"));
    }
}
