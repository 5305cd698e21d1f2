//! `haul log ID`

use std::fmt::Write as _;

use clap::Args;
use longhaul::control::{Request, Response};
use longhaul::{JobId, JobLog};

use crate::connect::unexpected;
use crate::exit::{Exit, Failure};
use crate::output::{self, Context};
use crate::style::{self, Ink};
use crate::text::{self, escape};

#[derive(Debug, Args)]
pub struct Log {
    /// The job's number
    #[arg(value_name = "ID")]
    pub id: JobId,
}

pub async fn run(context: &Context, log: &Log) -> Result<Exit, Failure> {
    let Some(mut session) = super::visit(context).await? else {
        return Err(super::no_job(context, log.id));
    };
    let response = session.call(&Request::Log { id: log.id }).await;
    match session.leave(response).await? {
        Response::Log { log } if context.json => output::print_json(&log)?,
        Response::Log { log } => output::print(&lines(&log))?,
        Response::Refused { kind, .. } if kind == "unknown-job" => {
            return Err(super::no_job(context, log.id));
        }
        other => return Err(unexpected(other)),
    }
    Ok(Exit::Done)
}

/// `2026-11-22 14:03:11.123Z  sending    412.0 MiB  what happened`
fn lines(log: &JobLog) -> String {
    log.entries.iter().fold(String::new(), |mut all, entry| {
        let (at, done) = (text::utc(entry.at.0), text::bytes(entry.done));
        let state = style::stdout().ink(Ink::state(entry.state), &format!("{:<9}", entry.state));
        // Writing to a String cannot fail.
        let _ = writeln!(all, "{at}  {state}  {done:>10}  {}", escape(&entry.what));
        all
    })
}
