//! Events as lines, over as many owners as come and go.

use std::borrow::Cow;

use longhaul::control::{Client, Response, Selection};
use longhaul::{Event, JobView};
use serde::Serialize;

use super::{Link, PAUSE, Watching};
use crate::exit::{Exit, Failure};
use crate::output::{self, Context};
use crate::report;
use crate::style;
use crate::text::escape;

/// What `--json` prints for events that nobody remembers.
#[derive(Serialize)]
struct Missed {
    /// How many; 0 where that is not known.
    missed: u64,
}

pub async fn run(watching: &mut Watching<'_>, after: Option<u64>) -> Result<Exit, Failure> {
    let is_feed = watching.selection.ids.is_none() && watching.selection.group.is_none();
    let mut last = after;
    loop {
        // While we hold the session ourselves, whoever answers on its socket is us.
        if matches!(watching.link, Link::Visit(_)) {
            if !is_feed && watching.is_over().await == Some(true) {
                let exit = watching.verdict().await;
                watching.release().await?;
                return Ok(exit);
            }
            watching.release().await?;
        }
        // Listens first and looks then, so that no end falls in between.
        let events = Client::connect(&watching.context.dir).await;
        let events = match events {
            // States are told of, not chosen by: a job that leaves one is worth a line.
            Ok(client) => {
                let jobs = Selection { states: Vec::new(), since: None, ..watching.selection.clone() };
                client.subscribe(last, jobs).await.ok()
            }
            Err(_) => None,
        };
        if events.is_some() {
            watching.connect().await;
        }
        if !is_feed && watching.is_over().await == Some(true) {
            return Ok(watching.verdict().await);
        }
        let Some(mut events) = events else {
            watching.tell_nobody();
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        while let Ok(Some(item)) = events.next().await {
            let ended = matches!(&item, Response::Event { event } if event.job.state.is_terminal());
            if let Response::Event { event } = &item {
                last = Some(event.number);
            }
            tell(watching.context, &watching.selection, &item)?;
            if ended && !is_feed && watching.is_over().await == Some(true) {
                return Ok(watching.verdict().await);
            }
        }
        watching.context.note("the session's owner is gone; waiting for the next one");
        watching.told = true;
        tokio::time::sleep(PAUSE).await;
    }
}

fn tell(context: &Context, selection: &Selection, item: &Response) -> Result<(), Failure> {
    match item {
        Response::Event { event } if !fits(selection, &event.job) => Ok(()),
        Response::Event { event } if context.json => output::print_json(event),
        Response::Event { event } => output::print(&line(event)),
        Response::Missed { events } if context.json => output::print_json(&Missed { missed: *events }),
        Response::Missed { events } => output::print(&missed(*events)),
        // Of a newer owner, or an answer to something that was not asked.
        _ => Ok(()),
    }
}

/// Whether the job is one of those that were named; an owner may tell of others too.
fn fits(selection: &Selection, view: &JobView) -> bool {
    selection.ids.as_ref().is_none_or(|ids| ids.binary_search(&view.id).is_ok())
        && selection.group.as_ref().is_none_or(|group| view.group.as_ref() == Some(group))
}

/// `1234  3  sending    412.0 MiB of 1.2 GiB, 33 %  what happened`
fn line(event: &Event) -> String {
    let job = &event.job;
    let state = style::stdout().ink(style::Ink::state(job.state), &format!("{:<9}", job.state));
    let what: Cow<'_, str> = escape(&event.what);
    let what = if what.is_empty() { Cow::Owned(report::route(job)) } else { what };
    format!("{}  {}  {state}  {}  {what}\n", event.number, job.id, report::progress(job))
}

fn missed(events: u64) -> String {
    match events {
        0 => "some events were missed; `haul ls` shows how things stand\n".to_owned(),
        1 => "1 event was missed; `haul ls` shows how things stand\n".to_owned(),
        more => format!("{more} events were missed; `haul ls` shows how things stand\n"),
    }
}

#[cfg(test)]
mod tests {
    use longhaul::{JobId, JobState};

    use super::*;
    use crate::report::tests::job;

    #[test]
    fn an_event_is_one_line_with_its_number() {
        let event = Event { number: 1234, what: "sends\n1".into(), job: job(JobState::Sending, None) };
        assert_eq!(line(&event), "1234  3  sending    614.4 MiB of 1.2 GiB, 50 %  sends\\n1\n");
        let event = Event { number: 1235, what: String::new(), job: job(JobState::Queued, None) };
        assert!(line(&event).ends_with("movie.mp4 → http://host/files/\n"));
        assert!(missed(0).starts_with("some events") && missed(7).starts_with("7 events"));
    }

    #[test]
    fn only_events_of_named_jobs_are_told() {
        let mut view = job(JobState::Sending, None);
        view.group = Some("g".into());
        assert!(fits(&Selection::all(), &view));
        assert!(fits(&Selection::ids([JobId(1), JobId(3)]), &view));
        assert!(!fits(&Selection::ids([JobId(4)]), &view));
        assert!(fits(&Selection::group("g"), &view) && !fits(&Selection::group("h"), &view));
    }
}
