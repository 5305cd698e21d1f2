//! `haul ls`

use std::time::Duration;

use clap::{Args, ValueEnum};
use longhaul::control::{Counts, PAGE_MAX, Query, Request, Response, Selection};
use longhaul::{Direction, JobView};

use crate::connect::{Attached, unexpected};
use crate::exit::{Exit, Failure};
use crate::output::{self, Context};
use crate::report;
use crate::select::Filter;
use crate::style::{self, Ink};
use crate::table::{self, Cell, Table};
use crate::text::{self, escape};

/// The foot of the help.
pub const EXAMPLES: &str = "\
Examples:
  haul ls --state failed --since 2h
  haul ls --columns id,state,percent,target --limit 0
  haul retry $(haul ls -1 --state failed --group nightly)";

/// Rows of a table, where nothing else is asked for.
const LIMIT: u64 = 100;

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "options as clap reads them, not states")]
pub struct Ls {
    #[command(flatten)]
    pub filter: Filter,
    /// Only the newest N, 0 for all [default: 100 in a table, else all]
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// More columns
    #[arg(short, long)]
    pub long: bool,
    /// These columns, in this order
    #[arg(long, value_name = "NAME", value_enum, value_delimiter = ',', conflicts_with = "long")]
    pub columns: Vec<Column>,
    /// Only how many there are in each state
    #[arg(long, conflicts_with_all = ["limit", "long", "columns", "ids_only", "json_lines"])]
    pub summary: bool,
    /// Only the numbers, one a line
    #[arg(short = '1', long = "ids", conflicts_with_all = ["long", "columns", "json_lines"])]
    pub ids_only: bool,
    /// A JSON value a line instead of one array
    #[arg(long, conflicts_with_all = ["long", "columns"])]
    pub json_lines: bool,
}

/// A column of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Column {
    /// The number
    Id,
    /// The state
    State,
    /// Bytes that need not travel again
    Done,
    /// Bytes in all
    Size,
    /// Both
    Progress,
    /// In percent
    Percent,
    /// The local end
    File,
    /// Where it goes
    Target,
    /// From where to where
    Route,
    /// Why it failed, holds still, tries again or waits
    Cause,
    /// The group
    Group,
    /// 0 (last) to 9 (first)
    Priority,
    /// How it travels
    Protocol,
    /// Since it was accepted
    Age,
    /// The submitter's key
    Key,
}

const USUAL: [Column; 6] =
    [Column::Id, Column::State, Column::Progress, Column::Percent, Column::Route, Column::Cause];
const LONG: [Column; 11] = [
    Column::Id,
    Column::State,
    Column::Progress,
    Column::Percent,
    Column::Protocol,
    Column::Priority,
    Column::Age,
    Column::Group,
    Column::Key,
    Column::Route,
    Column::Cause,
];

pub async fn run(context: &Context, ls: &Ls) -> Result<Exit, Failure> {
    let selection = ls.filter.selection()?;
    match super::visit(context).await? {
        Some(mut session) => {
            let listed = list(context, ls, selection, &mut session).await;
            session.leave(listed).await?;
        }
        None if ls.summary => summary(context, &Counts::default())?,
        None => {
            let mut writer = Writer::new(context, ls);
            writer.end()?;
        }
    }
    Ok(Exit::Done)
}

async fn list(
    context: &Context,
    ls: &Ls,
    selection: Selection,
    session: &mut Attached,
) -> Result<(), Failure> {
    if ls.summary {
        return summary(context, &count(session, selection).await?);
    }
    let mut writer = Writer::new(context, ls);
    let limit = match (ls.limit, &writer.form) {
        (Some(limit), _) => limit,
        (None, Form::Table(_)) => LIMIT,
        (None, Form::Ids | Form::Array | Form::Lines) => 0,
    };
    if limit == 0 {
        let mut query = Query { limit: Some(PAGE_MAX), ..selection.into() };
        loop {
            let (jobs, more) = session.page(query.clone()).await?;
            writer.page(&jobs)?;
            let Some(after) = more else { return writer.end() };
            query.after = Some(after);
        }
    }
    let (pages, more) = newest(session, &selection, limit).await?;
    pages.iter().try_for_each(|page| writer.page(page))?;
    let shown: u64 = pages.iter().map(|page| page.len() as u64).sum();
    writer.end()?;
    if more && matches!(writer.form, Form::Table(_)) {
        let all = count(session, selection).await?.all();
        context.note(format_args!(
            "these are the newest {shown} of {all} jobs; more with --limit N, all with --limit 0"
        ));
    }
    Ok(())
}

/// The newest `limit` jobs in rising order, page by page, and whether there are older ones.
async fn newest(
    session: &mut Attached,
    selection: &Selection,
    limit: u64,
) -> Result<(Vec<Vec<JobView>>, bool), Failure> {
    let mut query = Query { newest: true, ..selection.clone().into() };
    let (mut pages, mut left) = (Vec::new(), limit);
    loop {
        query.limit = Some(usize::try_from(left).unwrap_or(PAGE_MAX).min(PAGE_MAX));
        let (jobs, more) = session.page(query.clone()).await?;
        left = left.saturating_sub(jobs.len() as u64);
        pages.push(jobs);
        query.before = more;
        if more.is_none() || left == 0 {
            pages.reverse();
            return Ok((pages, more.is_some()));
        }
    }
}

async fn count(session: &mut Attached, jobs: Selection) -> Result<Counts, Failure> {
    match session.call(&Request::Count { jobs }).await? {
        Response::Counts { counts } => Ok(counts),
        other => Err(unexpected(other)),
    }
}

fn summary(context: &Context, counts: &Counts) -> Result<(), Failure> {
    if context.json {
        return output::print_json(counts);
    }
    output::print(&summary_lines(counts))
}

fn summary_lines(counts: &Counts) -> String {
    let lines = [
        ("queued", counts.queued),
        ("staged", counts.staged),
        ("sending", counts.sending),
        ("suspended", counts.suspended),
        ("completed", counts.completed),
        ("failed", counts.failed),
        ("all", counts.all()),
    ];
    lines.map(|(name, count)| format!("{name:<9}  {count:>9}\n")).concat()
}

/// How jobs are written.
#[derive(Debug)]
enum Form {
    Table(Table),
    Ids,
    /// One JSON array.
    Array,
    /// One JSON value a line.
    Lines,
}

/// Writes jobs as they come, whatever their number.
struct Writer<'a> {
    context: &'a Context,
    columns: Vec<Column>,
    form: Form,
    any: bool,
}

impl<'a> Writer<'a> {
    fn new(context: &'a Context, ls: &Ls) -> Self {
        let columns = match (ls.columns.as_slice(), ls.long) {
            ([], false) => USUAL.to_vec(),
            ([], true) => LONG.to_vec(),
            (columns, _) => columns.to_vec(),
        };
        let form = if ls.json_lines {
            Form::Lines
        } else if context.json && !ls.ids_only {
            Form::Array
        } else if ls.ids_only {
            Form::Ids
        } else {
            let heads = columns.iter().map(|column| column.head()).collect();
            Form::Table(Table::new(heads, table::line_width(), style::stdout()))
        };
        Self { context, columns, form, any: false }
    }

    fn page(&mut self, jobs: &[JobView]) -> Result<(), Failure> {
        if jobs.is_empty() {
            return Ok(());
        }
        let text = match &mut self.form {
            Form::Table(table) => {
                let now = text::now_ms();
                let row = |view| self.columns.iter().map(|column| column.cell(view, now)).collect();
                let rows: Vec<Vec<Cell>> = jobs.iter().map(row).collect();
                table.rows(&rows)
            }
            Form::Ids => {
                let ids: Vec<_> = jobs.iter().map(|view| view.id.to_string()).collect();
                ids.join("\n") + "\n"
            }
            Form::Array => {
                let mut text = if self.any { "," } else { "[" }.to_owned();
                text.push_str(&values(jobs)?.join(","));
                text
            }
            Form::Lines => values(jobs)?.join("\n") + "\n",
        };
        self.any = true;
        output::print(&text)
    }

    fn end(&mut self) -> Result<(), Failure> {
        match (&self.form, self.any) {
            (Form::Array, true) => output::print("]\n"),
            (Form::Array, false) => output::print("[]\n"),
            (Form::Table(_), false) => {
                let session = escape(&self.context.session);
                self.context.note(format_args!("session {session} has no jobs, or none that fits"));
                Ok(())
            }
            (Form::Table(_), true) | (Form::Ids | Form::Lines, _) => Ok(()),
        }
    }
}

fn values(jobs: &[JobView]) -> Result<Vec<String>, Failure> {
    let value = |view| {
        serde_json::to_string(view).map_err(|error| Failure::failed(format!("cannot write JSON: {error}")))
    };
    jobs.iter().map(value).collect()
}

impl Column {
    fn head(self) -> table::Column {
        use table::Column;
        match self {
            Self::Id => Column::right("ID"),
            Self::State => Column::left("STATE"),
            Self::Done => Column::right("DONE"),
            Self::Size => Column::right("SIZE"),
            Self::Progress => Column::right("DONE/SIZE"),
            Self::Percent => Column::right("%"),
            Self::File => Column::elastic("FILE"),
            Self::Target => Column::elastic("TARGET"),
            Self::Route => Column::elastic("FILE → TARGET"),
            Self::Cause => Column::elastic("CAUSE"),
            Self::Group => Column::elastic("GROUP"),
            Self::Priority => Column::right("PRIO"),
            Self::Protocol => Column::left("PROTOCOL"),
            Self::Age => Column::right("AGE"),
            Self::Key => Column::elastic("KEY"),
        }
    }

    fn cell(self, view: &JobView, now_ms: u64) -> Cell {
        let size = || view.size.map_or_else(|| "?".to_owned(), text::bytes);
        let maybe = |text: Option<&String>| text.map(|text| escape(text).into_owned()).unwrap_or_default();
        let text = match self {
            Self::Id => view.id.to_string(),
            Self::State => {
                return Cell { text: view.state.to_string(), ink: Ink::state(view.state) };
            }
            Self::Done => text::bytes(view.done),
            Self::Size => size(),
            Self::Progress => format!("{}/{}", text::bytes(view.done), size()),
            Self::Percent => {
                view.size.map(|size| text::percent(view.done, size).to_string()).unwrap_or_default()
            }
            Self::File => escape(local_end(view)).into_owned(),
            Self::Target => escape(&view.target).into_owned(),
            Self::Route => {
                let arrow = if view.direction == Direction::Upload { "" } else { "(get) " };
                format!("{arrow}{}", report::route(view))
            }
            Self::Cause => {
                let ink = Ink::state(view.state);
                return Cell { text: reason(view), ink };
            }
            Self::Group => maybe(view.group.as_ref()),
            Self::Priority => view.priority.to_string(),
            Self::Protocol => escape(&view.protocol).into_owned(),
            Self::Age => text::span(Duration::from_millis(now_ms.saturating_sub(view.submitted_at.0))),
            Self::Key => maybe(view.key.as_ref()),
        };
        Cell::from(text)
    }
}

fn local_end(view: &JobView) -> &str {
    match view.direction {
        Direction::Upload => &view.source,
        Direction::Download => view.file.as_ref().unwrap_or(&view.target),
    }
}

/// Why a job is where it is, if there is anything to say.
pub fn reason(view: &JobView) -> String {
    let trying = |trouble: &String| format!("trying again after: {}", escape(trouble));
    let waiting = |what: &String| format!("waits for {}", escape(what));
    report::cause(view)
        .or_else(|| view.trouble.as_ref().map(trying))
        .or_else(|| view.waits_for.as_ref().map(waiting))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use longhaul::{JobId, JobState};

    use super::*;
    use crate::args::{Cli, Command};
    use crate::report::tests::{context, job};

    fn ls(words: &str) -> Ls {
        let cli = Cli::try_parse_from(format!("haul ls {words}").split_whitespace()).expect("valid");
        let Command::Ls(ls) = cli.command else { panic!("not ls") };
        ls
    }

    fn table(words: &str, jobs: &[JobView]) -> String {
        let context = context("default");
        let mut writer = Writer::new(&context, &ls(words));
        let Form::Table(table) = &mut writer.form else { panic!("not a table") };
        let row = |view| writer.columns.iter().map(|column| column.cell(view, 7_200_000)).collect();
        table.rows(&jobs.iter().map(row).collect::<Vec<_>>())
    }

    #[test]
    fn jobs_line_up_newest_last() {
        let mut unknown = job(JobState::Sending, None);
        (unknown.id, unknown.size, unknown.done) = (JobId(12), None, 5);
        unknown.trouble = Some("503 Service\nUnavailable".into());
        let paused = job(JobState::Suspended, Some(("paused", "paused")));
        let expected = "
ID  STATE              DONE/SIZE   %  FILE → TARGET                   CAUSE
 3  suspended  614.4 MiB/1.2 GiB  50  movie.mp4 → http://host/files/  paused
12  sending                5 B/?      movie.mp4 → http://host/files/  trying again after: 503 Service\\nUnavailable
";
        assert_eq!(table("", &[paused, unknown]), expected.trim_start());
    }

    #[test]
    fn columns_come_as_asked() {
        let mut view = job(JobState::Queued, None);
        (view.group, view.waits_for) = (Some("nightly".into()), Some("a slot".into()));
        let text = table("--columns age,group,id,file,target,cause", &[view.clone()]);
        let expected = "
       AGE  GROUP    ID  FILE              TARGET              CAUSE
2 h 00 min  nightly   3  /films/movie.mp4  http://host/files/  waits for a slot
";
        assert_eq!(text, expected.trim_start_matches('\n'));
        assert!(table("--long", &[view]).contains("nightly"));
    }

    #[test]
    fn a_summary_counts_every_state() {
        let counts = Counts { queued: 2, failed: 40, ..Counts::default() };
        let lines = summary_lines(&counts);
        assert!(lines.starts_with("queued             2\n"), "{lines}");
        assert!(lines.ends_with("failed            40\nall               42\n"), "{lines}");
    }
}
