//! The subcommands, one file each.

pub mod cancel;
pub mod config;
pub mod daemon;
pub mod demo;
pub mod doctor;
pub mod get;
pub mod log;
pub mod ls;
pub mod pause;
pub mod put;
pub mod resume;
pub mod serve;
pub mod show;

use longhaul::control::{Request, Response, Selection, Skipped};
use longhaul::{JobId, JobView};
use serde::Serialize;

use crate::args::{self, Cli, Command};
use crate::connect::{Attached, Role, unexpected};
use crate::exit::{Exit, Failure};
use crate::output::{self, Context};
use crate::report;
use crate::text::escape;

/// Carries out a command line.
pub async fn run(cli: Cli) -> Result<Exit, Failure> {
    let global = cli.global;
    crate::config::load(&global.config)?;
    // `serve`, `demo` and `config` have nothing to do with the named session.
    let dir = match &cli.command {
        Command::Serve(_) | Command::Demo(_) | Command::Config(_) => std::path::PathBuf::new(),
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
        Command::Ls => ls::run(&context).await,
        Command::Show(show) => show::run(&context, &show).await,
        Command::Log(log) => log::run(&context, &log).await,
        Command::Pause(selection) => pause::run(&context, &selection).await,
        Command::Resume(selection) => resume::run(&context, &selection).await,
        Command::Cancel(selection) => cancel::run(&context, &selection).await,
        Command::Config(show) => config::run(&context, &show),
        Command::Daemon(daemon) => daemon::run(&context, &daemon).await,
        Command::Doctor => doctor::run(&context).await,
        Command::Serve(serve) => serve::run(&context, &serve).await,
        Command::Demo(demo) => demo::run(&context, &demo).await,
    }
}

/// Attaches for a look or a change, if there is a session at all: looking must not create one.
async fn visit(context: &Context) -> Result<Option<Attached>, Failure> {
    let exists = context
        .dir
        .try_exists()
        .map_err(|error| Failure::failed(format!("{}: {error}", escape(&context.dir.to_string_lossy()))))?;
    if !exists {
        return Ok(None);
    }
    Attached::open(&context.dir, Role::Visitor).await.map(Some)
}

/// There is no such job in this session.
fn no_job(context: &Context, id: JobId) -> Failure {
    let list = context.again("ls");
    Failure::failed(format!("session {} has no job {id}; see: {list}", escape(&context.session)))
}

/// What a request for several jobs did.
#[derive(Debug, Serialize)]
struct Changes {
    changed: Vec<JobView>,
    skipped: Vec<Skipped>,
}

/// Asks for a change of several jobs. Numbers that do not exist are told, and do not hold up the others.
async fn change(
    session: &mut Attached,
    wanted: Selection,
    request: impl FnOnce(Selection) -> Request,
) -> Result<Changes, Failure> {
    match session.call(&request(wanted)).await? {
        Response::Changed { jobs, skipped, .. } => Ok(Changes { changed: jobs, skipped }),
        other => Err(unexpected(other)),
    }
}

/// Prints what changed, and what was left alone and why.
fn print_changes(context: &Context, changes: &Changes) -> Result<(), Failure> {
    if context.json {
        return output::print_json(changes);
    }
    for view in &changes.changed {
        output::print(&format!("{}\n", report::result_line(view)))?;
    }
    for skipped in &changes.skipped {
        output::complain(skip_line(skipped));
    }
    if changes.changed.is_empty() && changes.skipped.is_empty() {
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
    let views = session.list(Some(ids.clone())).await?;
    let fine = |id: &JobId| views.iter().any(|view| view.id == *id && is_wanted(view));
    Ok(if ids.iter().all(fine) { Exit::Done } else { Exit::Failed })
}

/// The answer to a change where there is no session: nothing to do for all, an error for any one.
fn nowhere(context: &Context, selection: &args::Selection) -> Result<Exit, Failure> {
    if let Some(&id) = selection.ids.first() {
        return Err(no_job(context, id));
    }
    let nothing = Changes { changed: Vec::new(), skipped: Vec::new() };
    print_changes(context, &nothing).map(|()| Exit::Done)
}
