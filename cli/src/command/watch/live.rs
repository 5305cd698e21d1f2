//! A table that is drawn anew in its place, twice a second, and never taller or wider than the terminal.
//!
//! ```text
//! look ─▶ what moves first, then what is about to, holds still, waits; last what ended meanwhile
//!      ─▶ frame: a head line, rows, how many more ─▶ cursor up, over the last frame
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use longhaul::control::{Counts, Query, Request, Response};
use longhaul::{JobId, JobState, JobView, WallMs};

use super::super::ls::reason;
use super::{PAUSE, Watching, watched_states};
use crate::exit::{Exit, Failure};
use crate::meter::Meter;
use crate::output;
use crate::report;
use crate::select::ENDED;
use crate::style::{self, Ink, Paint};
use crate::table::{self, Cell, Column, Table, shorten};
use crate::text::{self, now_ms};

/// Of the jobs that ended while it was looked on, the last so many are shown.
const ENDED_SHOWN: usize = 5;
/// Lines beside the rows: the head line, the table's head, the one that says how many more, and the cursor's.
const LINES_OTHER: usize = 4;
/// Letters of a bar.
const BAR: usize = 16;

/// How things stand.
#[derive(Debug, Default)]
struct Look {
    jobs: Vec<JobView>,
    counts: Option<Counts>,
}

pub async fn run(watching: &mut Watching<'_>) -> Result<Exit, Failure> {
    let started = Instant::now();
    let since = WallMs(now_ms());
    let mut meters: BTreeMap<JobId, Meter> = BTreeMap::new();
    let (mut last, mut drawn) = (Look::default(), 0);
    loop {
        let (columns, rows) = table::screen_size().unwrap_or((80, 24));
        let room = rows.saturating_sub(LINES_OTHER).max(1);
        let over = match look(watching, since, room).await {
            Some(look) => {
                last = look;
                watching.is_over().await == Some(true)
            }
            None => false,
        };
        meters.retain(|id, _| last.jobs.iter().any(|view| view.id == *id));
        for view in last.jobs.iter().filter(|view| view.state == JobState::Sending) {
            meters.entry(view.id).or_default().sample(started.elapsed(), view.done);
        }
        let owned = matches!(watching.link, super::Link::Owner(_));
        let frame = frame(&last, &meters, owned || over, room, columns, style::stdout());
        output::print(&over_the_last(&frame, drawn))?;
        drawn = frame.lines().count();
        if over {
            let exit = watching.verdict().await;
            watching.release().await?;
            return Ok(exit);
        }
        watching.release().await?;
        tokio::time::sleep(PAUSE).await;
        if !owned {
            watching.connect().await;
        }
    }
}

/// Asks for no more than fits; `None`: nobody answers.
async fn look(watching: &mut Watching<'_>, since: WallMs, room: usize) -> Option<Look> {
    let mut jobs: Vec<JobView> = Vec::new();
    for state in [JobState::Sending, JobState::Staged, JobState::Suspended, JobState::Queued] {
        let states = watched_states(&watching.selection, &[state]);
        let left = room.saturating_sub(jobs.len());
        if states.is_empty() || left == 0 {
            continue;
        }
        let query = Query { limit: Some(left), ..watching.selection.clone().in_states(states).into() };
        let found = watching.list(query).await?;
        jobs.extend(found.into_iter().filter(|view| view.state == state));
    }
    let states = watched_states(&watching.selection, &ENDED);
    if !states.is_empty() {
        let mut ended = watching.selection.clone().in_states(states);
        ended.since = ended.since.max(Some(since));
        let query = Query { limit: Some(ENDED_SHOWN), newest: true, ..ended.into() };
        let found = watching.list(query).await?;
        let recent = |view: &JobView| view.state.is_terminal() && view.changed_at >= since;
        jobs.extend(found.into_iter().filter(recent));
    }
    let counts = match watching.ask(Request::Count { jobs: watching.selection.clone() }).await? {
        Response::Counts { counts } => Some(counts),
        _ => None,
    };
    Some(Look { jobs, counts })
}

/// The whole picture, every line of it within the terminal.
fn frame(
    look: &Look,
    meters: &BTreeMap<JobId, Meter>,
    owned: bool,
    room: usize,
    columns: usize,
    paint: Paint,
) -> String {
    // The last column is left free: some terminals wrap when it is written.
    let width = columns.saturating_sub(1);
    let mut text = format!("{}\n", paint.ink(Ink::Strong, &shorten(&head(look, owned), width)));
    let heads = vec![
        Column::right("ID"),
        Column::left("STATE"),
        Column::left("PROGRESS"),
        Column::right("DONE/SIZE"),
        Column::right("RATE"),
        Column::right("LEFT"),
        Column::elastic("FILE → TARGET"),
        Column::elastic("CAUSE"),
    ];
    let mut table = Table::new(heads, Some(width), paint);
    // What ended is at the end, and worth its lines.
    let ended = look.jobs.iter().filter(|view| view.state.is_terminal()).count().min(room);
    let (open, over) = look.jobs.split_at(look.jobs.len() - ended);
    let open = &open[..open.len().min(room - ended)];
    let rows: Vec<_> = open.iter().chain(over).map(|view| row(view, meters.get(&view.id))).collect();
    if !rows.is_empty() {
        text.push_str(&table.rows(&rows));
    }
    let more = look.counts.map_or(0, |counts| counts.unfinished().saturating_sub(open.len() as u64));
    if more > 0 {
        text.push_str(&shorten(&format!("… and {more} more"), width));
        text.push('\n');
    }
    text
}

fn head(look: &Look, owned: bool) -> String {
    let mut parts = Vec::new();
    if !owned {
        parts.push("nobody runs these jobs; waiting for an owner".to_owned());
    }
    if let Some(counts) = look.counts {
        let all = [
            ("sending", counts.sending),
            ("staged", counts.staged),
            ("queued", counts.queued),
            ("suspended", counts.suspended),
            ("completed", counts.completed),
            ("failed", counts.failed),
        ];
        parts.extend(
            all.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{count} {name}")),
        );
    }
    if parts.is_empty() {
        parts.push(format!("{} jobs", look.jobs.len()));
    }
    parts.join(", ")
}

fn row(view: &JobView, meter: Option<&Meter>) -> Vec<Cell> {
    let ink = Ink::state(view.state);
    let size = view.size.map_or_else(|| "?".to_owned(), text::bytes);
    let rate = meter.and_then(Meter::rate).filter(|_| view.state == JobState::Sending);
    let left = view.size.zip(meter).and_then(|(size, meter)| meter.eta(size.saturating_sub(view.done)));
    let left: Option<Duration> = left.filter(|_| view.state == JobState::Sending);
    vec![
        Cell::from(view.id.to_string()),
        Cell { text: view.state.to_string(), ink },
        Cell { text: bar(view), ink },
        Cell::from(format!("{}/{size}", text::bytes(view.done))),
        Cell::from(rate.map(|rate| format!("{}/s", text::bytes(rate))).unwrap_or_default()),
        Cell::from(left.map(text::span).unwrap_or_default()),
        Cell::from(report::route(view)),
        Cell { text: reason(view), ink },
    ]
}

/// `[#######.........]  47 %`
fn bar(view: &JobView) -> String {
    let Some(size) = view.size else { return format!("[{}]", ".".repeat(BAR)) };
    let percent = usize::from(text::percent(view.done, size));
    let full = percent * BAR / 100;
    format!("[{}{}] {percent:>3} %", "#".repeat(full), ".".repeat(BAR - full))
}

/// The frame, written over one of so many lines.
fn over_the_last(frame: &str, lines: usize) -> String {
    let mut text = if lines > 0 { format!("\u{1b}[{lines}A\r") } else { String::new() };
    for line in frame.lines() {
        text.push_str(line);
        // What the last frame had there and this one has not.
        text.push_str("\u{1b}[K\n");
    }
    text.push_str("\u{1b}[J");
    text
}

#[cfg(test)]
mod tests {
    use unicode_width::UnicodeWidthStr as _;

    use super::*;
    use crate::report::tests::job;

    fn crowd() -> Look {
        let mut jobs: Vec<JobView> = (0..30)
            .map(|number| {
                let mut view = job(JobState::Sending, None);
                (view.id, view.source) =
                    (JobId(number), format!("/films/{}.mp4", "東京".repeat(number as usize)));
                view
            })
            .collect();
        jobs.push(job(JobState::Failed, Some(("rejected", "the server refused: 404"))));
        Look { jobs, counts: Some(Counts { sending: 30, queued: 12, failed: 1, ..Counts::default() }) }
    }

    #[test]
    fn a_frame_fits_the_terminal() {
        for (columns, rows) in [(80, 24), (20, 10), (200, 60), (5, 3), (0, 0)] {
            let room = usize::saturating_sub(rows, LINES_OTHER).max(1);
            let frame = frame(&crowd(), &BTreeMap::new(), true, room, columns, Paint::default());
            assert!(frame.lines().count() < room + LINES_OTHER, "{columns}×{rows}\n{frame}");
            assert!(frame.lines().all(|line| line.width() < columns.max(1)), "{columns}×{rows}\n{frame}");
        }
    }

    #[test]
    fn what_ended_stays_in_sight_and_the_rest_is_counted() {
        let frame = frame(&crowd(), &BTreeMap::new(), true, 10, 160, Paint::default());
        assert!(frame.starts_with("30 sending, 12 queued, 1 failed\n"), "{frame}");
        assert!(frame.contains("rejected: the server refused: 404"), "{frame}");
        assert!(frame.ends_with("… and 33 more\n"), "{frame}");
        let lone = super::frame(&Look::default(), &BTreeMap::new(), false, 10, 160, Paint::default());
        assert_eq!(lone, "nobody runs these jobs; waiting for an owner\n");
    }

    #[test]
    fn rates_are_shown_of_what_moves() {
        let view = job(JobState::Sending, None);
        let mut meter = Meter::default();
        meter.sample(Duration::ZERO, view.done - 2048);
        meter.sample(Duration::from_secs(2), view.done);
        let row = row(&view, Some(&meter));
        assert_eq!((row[2].text.as_str(), row[4].text.as_str()), ("[########........]  50 %", "1.0 KiB/s"));
        assert!(!row[5].text.is_empty());
        assert_eq!(super::row(&job(JobState::Suspended, None), Some(&meter))[4].text, "");
    }

    #[test]
    fn a_frame_is_drawn_over_the_last_one() {
        assert_eq!(over_the_last("a\nb\n", 0), "a\u{1b}[K\nb\u{1b}[K\n\u{1b}[J");
        assert_eq!(over_the_last("a\n", 2), "\u{1b}[2A\ra\u{1b}[K\n\u{1b}[J");
    }
}
