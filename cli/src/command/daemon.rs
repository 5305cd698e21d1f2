//! `haul daemon`

use clap::Args;
use longhaul::{Closed, Session, SessionOptions};
use serde::Serialize;

use crate::connect;
use crate::exit::{Exit, Failure};
use crate::output::{self, Context};
use crate::signals::Signals;
use crate::text::{escape, parse_size};

#[derive(Debug, Args)]
pub struct Daemon {
    /// Jobs that move at the same time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = positive)]
    pub concurrent: usize,
    /// Room for staging copies [default: a tenth of the free space]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub stage_budget: Option<u64>,
}

/// What `--json` prints when the session is open.
#[derive(Serialize)]
struct Announcement<'a> {
    ready: bool,
    pid: u32,
    session: &'a str,
    dir: String,
}

pub async fn run(context: &Context, daemon: &Daemon) -> Result<Exit, Failure> {
    let mut signals = Signals::install()?;
    let session = open(context, daemon).await?;
    let told = tell_ready(context);
    let ended = match told {
        Ok(()) => tokio::select! {
            _ = signals.asked() => Ok(Exit::Done),
            failure = connect::stopped(&session) => Err(failure),
        },
        Err(failure) => Err(failure),
    };
    match session.shutdown().await {
        Closed::Poisoned(text) => ended.and(Err(Failure::new(Exit::Journal, text))),
        Closed::Stopped => ended,
    }
}

async fn open(context: &Context, daemon: &Daemon) -> Result<Session, Failure> {
    let mut options = SessionOptions::new(&context.dir);
    options.concurrent = daemon.concurrent;
    options.stage_budget = daemon.stage_budget;
    let opened = connect::past_visitors(async || Session::open(options.clone()).await).await;
    opened.map_err(|failure| failure.if_owned("it runs the session's jobs already"))
}

fn tell_ready(context: &Context) -> Result<(), Failure> {
    if context.json {
        let dir = context.dir.to_string_lossy().into_owned();
        return output::print_json(&Announcement {
            ready: true,
            pid: std::process::id(),
            session: &context.session,
            dir,
        });
    }
    output::print("ready\n")
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("{} is not a number of jobs", escape(text))),
        Ok(number) => Ok(number),
    }
}
