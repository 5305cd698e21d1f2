//! The subcommands, one file each.

pub mod cancel;
pub mod completions;
pub mod config;
pub mod daemon;
pub mod demo;
pub mod doctor;
pub mod get;
pub mod log;
pub mod ls;
pub mod man;
pub mod pause;
pub mod put;
pub mod resume;
pub mod retry;
pub mod rm;
pub mod serve;
pub mod show;
pub mod watch;

use longhaul::control::{Request, Response, Selection, Skipped};
use longhaul::{JobId, JobView};
use serde::Serialize;

use crate::args::{Cli, Command};
use crate::connect::{Attached, Role, unexpected};
use crate::exit::{Exit, Failure};
use crate::output::{self, Context};
use crate::report;
use crate::text::escape;

/// Carries out a command line.
pub async fn run(cli: Cli) -> Result<Exit, Failure> {
    let global = cli.global;
    crate::config::load(&global.config)?;
    // Some have nothing to do with the named session.
    let dir = match &cli.command {
        Command::Serve(_)
        | Command::Demo(_)
        | Command::Config(_)
        | Command::Completions(_)
        | Command::Man(_) => std::path::PathBuf::new(),
        _ => longhaul::session_dir(&global.session).map_err(|error| Failure::usage(error.to_string()))?,
    };
    let context = Context {
        session: global.session,
        dir,
        json: global.json,
        quiet: global.quiet,
        verbose: global.verbose > 0,
    };
    match cli.command {
        Command::Put(put) => put::run(&context, &put).await,
        Command::Get(get) => get::run(&context, &get).await,
        Command::Ls(ls) => ls::run(&context, &ls).await,
        Command::Watch(watch) => watch::run(&context, &watch).await,
        Command::Show(show) => show::run(&context, &show).await,
        Command::Log(log) => log::run(&context, &log).await,
        Command::Pause(which) => pause::run(&context, &which).await,
        Command::Resume(resume) => resume::run(&context, &resume).await,
        Command::Cancel(which) => cancel::run(&context, &which).await,
        Command::Retry(retry) => retry::run(&context, &retry).await,
        Command::Rm(which) => rm::run(&context, &which).await,
        Command::Config(show) => config::run(&context, &show),
        Command::Daemon(daemon) => daemon::run(&context, &daemon).await,
        Command::Doctor(doctor) => doctor::run(&context, &doctor).await,
        Command::Serve(serve) => serve::run(&context, &serve).await,
        Command::Demo(demo) => demo::run(&context, &demo).await,
        Command::Completions(completions) => completions::run(&completions),
        Command::Man(man) => man::run(&man),
    }
}

/// Attaches for a look or a change, if there is a session at all: looking must not create one.
async fn visit(context: &Context) -> Result<Option<Attached>, Failure> {
    if !exists(context)? {
        return Ok(None);
    }
    Attached::open(&context.dir, Role::Visitor).await.map(Some)
}

/// Whether there is a session.
fn exists(context: &Context) -> Result<bool, Failure> {
    context
        .dir
        .try_exists()
        .map_err(|error| Failure::failed(format!("{}: {error}", escape(&context.dir.to_string_lossy()))))
}

/// There is no such job in this session.
fn no_job(context: &Context, id: JobId) -> Failure {
    let list = context.again("ls");
    Failure::failed(format!("session {} has no job {id}; see: {list}", escape(&context.session)))
}

/// All such jobs, in rising order.
async fn pages(session: &mut Attached, jobs: Selection) -> Result<Vec<JobView>, Failure> {
    let mut all = Vec::new();
    session.each(jobs, |view| all.push(view)).await?;
    Ok(all)
}

/// What a request for several jobs did.
#[derive(Debug, Serialize)]
struct Changes {
    /// How many jobs it changed.
    count: u64,
    /// The first of them.
    changed: Vec<JobView>,
    skipped: Vec<Skipped>,
}

impl Changes {
    /// What a request did, from its answer.
    fn from(response: Response) -> Result<Self, Failure> {
        match response {
            Response::Changed { changed, jobs, skipped } => {
                Ok(Self { count: changed, changed: jobs, skipped })
            }
            other => Err(unexpected(other)),
        }
    }

    fn none() -> Self {
        Self { count: 0, changed: Vec::new(), skipped: Vec::new() }
    }

    /// The changed jobs that the answer had no room for.
    fn unlisted(&self) -> u64 {
        self.count.saturating_sub(self.changed.len() as u64)
    }
}

/// Asks for a change of several jobs. Numbers that do not exist are told, and do not hold up the others.
async fn change(
    session: &mut Attached,
    wanted: Selection,
    request: impl FnOnce(Selection) -> Request,
) -> Result<Changes, Failure> {
    Changes::from(session.call(&request(wanted)).await?)
}

/// Prints what changed, and what was left alone and why.
fn print_changes(
    context: &Context,
    changes: &Changes,
    line: impl Fn(&JobView) -> String,
) -> Result<(), Failure> {
    if context.json {
        return output::print_json(changes);
    }
    let lines: String = changes.changed.iter().map(|view| line(view) + "\n").collect();
    output::print(&lines)?;
    if changes.unlisted() > 0 {
        output::print(&format!("… and {} more\n", changes.unlisted()))?;
    }
    for skipped in &changes.skipped {
        output::complain(skip_line(skipped));
    }
    if changes.count == 0 && changes.skipped.is_empty() {
        context.note("there is no job it applies to");
    }
    Ok(())
}

fn skip_line(skipped: &Skipped) -> String {
    format!("job {}: {}", skipped.id, escape(&skipped.why))
}

/// Whether the jobs that were left alone are a failure: not if they are in the wanted state already.
async fn judge(
    session: &mut Attached,
    skipped: &[Skipped],
    is_wanted: impl Fn(&JobView) -> bool,
) -> Result<Exit, Failure> {
    if skipped.is_empty() {
        return Ok(Exit::Done);
    }
    let ids: Vec<JobId> = skipped.iter().map(|skipped| skipped.id).collect();
    let views = pages(session, Selection::ids(ids.iter().copied())).await?;
    let fine = |id: &JobId| views.iter().any(|view| view.id == *id && is_wanted(view));
    Ok(if ids.iter().all(fine) { Exit::Done } else { Exit::Failed })
}

/// The answer to a change where there is no session: nothing to do for all, an error for any one.
fn nowhere(context: &Context, selection: &Selection) -> Result<Exit, Failure> {
    if let Some(&id) = selection.ids.iter().flatten().next() {
        return Err(no_job(context, id));
    }
    print_changes(context, &Changes::none(), report::result_line).map(|()| Exit::Done)
}
