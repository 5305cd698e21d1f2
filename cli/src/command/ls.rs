//! `haul ls`

use longhaul::{Direction, JobView};

use crate::exit::{Exit, Failure};
use crate::output::{self, Context};
use crate::report;
use crate::text::{self, Align};

pub async fn run(context: &Context) -> Result<Exit, Failure> {
    let jobs = match super::visit(context).await? {
        Some(mut session) => {
            let jobs = session.list(None).await;
            session.leave(jobs).await?
        }
        None => Vec::new(),
    };
    if context.json {
        output::print_json(&jobs)?;
    } else if jobs.is_empty() {
        context.note(format_args!("session {} has no jobs", text::escape(&context.session)));
    } else {
        output::print(&table(&jobs))?;
    }
    Ok(Exit::Done)
}

fn table(jobs: &[JobView]) -> String {
    let rows: Vec<_> = jobs.iter().map(row).collect();
    let heads = [
        ("ID", Align::Right),
        ("STATE", Align::Left),
        ("DONE/SIZE", Align::Right),
        ("%", Align::Right),
        ("FILE → TARGET", Align::Left),
        ("CAUSE", Align::Left),
    ];
    text::table(heads, &rows)
}

fn row(view: &JobView) -> [String; 6] {
    let done = text::bytes(view.done);
    let size = view.size.map_or_else(|| "?".to_owned(), text::bytes);
    let arrow = if view.direction == Direction::Upload { "" } else { "(get) " };
    [
        view.id.to_string(),
        view.state.to_string(),
        format!("{done}/{size}"),
        view.size.map(|size| text::percent(view.done, size).to_string()).unwrap_or_default(),
        format!("{arrow}{}", report::route(view)),
        report::cause(view).or_else(|| view.trouble.as_deref().map(trying)).unwrap_or_default(),
    ]
}

fn trying(trouble: &str) -> String {
    format!("trying again after: {}", text::escape(trouble))
}

#[cfg(test)]
mod tests {
    use longhaul::{JobId, JobState};

    use super::*;
    use crate::report::tests::job;

    #[test]
    fn jobs_line_up_newest_last() {
        let mut unknown = job(JobState::Sending, None);
        (unknown.id, unknown.size, unknown.done) = (JobId(12), None, 5);
        unknown.trouble = Some("503 Service\nUnavailable".into());
        let paused = job(JobState::Suspended, Some(("paused", "paused")));
        let expected = "\
ID  STATE            DONE/SIZE   %  FILE → TARGET                   CAUSE
 3  suspended  614.4 MiB/1.2 GiB  50  movie.mp4 → http://host/files/  paused
12  sending              5 B/?      movie.mp4 → http://host/files/  trying again after: 503 Service\\nUnavailable
";
        let got = table(&[paused, unknown]);
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(squeeze(&got), squeeze(expected));
        assert_eq!(got.lines().count(), 3);
    }
}
