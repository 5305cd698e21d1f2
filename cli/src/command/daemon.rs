//! `haul daemon`

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::Args;
use longhaul::{Closed, Session, SessionOptions};
use serde::Serialize;

use crate::config::{self, Rate, SessionPart, Size, Span};
use crate::exit::{Exit, Failure};
use crate::output::{self, Context};
use crate::signals::Signals;
use crate::{connect, detach};

/// Between two tries to own a session that another process owns for the moment.
const TURN: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub struct Daemon {
    /// Jobs that move at the same time [default: 8]
    #[arg(long, value_name = "N")]
    pub concurrent: Option<NonZeroUsize>,
    /// Of these, jobs to or from one host
    #[arg(long, value_name = "N")]
    pub per_host: Option<NonZeroUsize>,
    /// Of these, uploads
    #[arg(long, value_name = "N")]
    pub uploads: Option<NonZeroUsize>,
    /// Of these, downloads
    #[arg(long, value_name = "N")]
    pub downloads: Option<NonZeroUsize>,
    /// Bytes a second of all jobs together, as 500k or 10MiB; 0: no limit
    #[arg(long, value_name = "RATE")]
    pub limit_rate: Option<Rate>,
    /// Room for staging copies [default: a tenth of the free space]
    #[arg(long, value_name = "SIZE")]
    pub stage_budget: Option<Size>,
    /// How long jobs that have ended are kept [default: 30d]
    #[arg(long, value_name = "SPAN")]
    pub retention: Option<Span>,
    /// Leave when there has been nothing to do for so long, as 60s or 2h
    #[arg(long, value_name = "SPAN")]
    pub idle_exit: Option<Span>,
    /// Leave the terminal, and wait for a session that another process owns: how put --detach starts it
    #[arg(long, hide = true)]
    pub detached: bool,
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
    if daemon.detached {
        detach::settle()?;
    }
    let mut signals = Signals::install()?;
    let alive = detach::alive(&context.dir).await?;
    if daemon.detached && alive.is_none() {
        return Ok(Exit::Done); // there is one already
    }
    let session = tokio::select! {
        opened = open(context, daemon) => opened?,
        _ = signals.asked() => return Ok(Exit::Done),
    };
    let told = tell_ready(context);
    // Held to the end: whoever submits waits until the session is closed, and finds its next owner.
    let mut leaving = None;
    let ended = match told {
        Ok(()) => tokio::select! {
            _ = signals.asked() => Ok(Exit::Done),
            failure = connect::stopped(&session) => Err(failure),
            last = idle(&session, context, daemon.idle_exit) => last.map(|last| {
                leaving = Some(last);
                Exit::Done
            }),
        },
        Err(failure) => Err(failure),
    };
    let closed = session.shutdown().await;
    drop(alive);
    drop(leaving);
    match closed {
        Closed::Poisoned(text) => ended.and(Err(Failure::new(Exit::Journal, text))),
        Closed::Stopped => ended,
    }
}

async fn open(context: &Context, daemon: &Daemon) -> Result<Session, Failure> {
    let options = daemon.options(context);
    loop {
        let opened = connect::past_visitors(async || Session::open(options.clone()).await).await;
        match opened {
            Err(failure) if daemon.detached && failure.exit() == Exit::Owned => {
                tokio::time::sleep(TURN).await;
            }
            opened => {
                return opened.map_err(|failure| failure.if_owned("it runs the session's jobs already"));
            }
        }
    }
}

/// A session that has nothing to do says so at once.
const LAST_LOOK: Duration = Duration::from_millis(100);

impl Daemon {
    fn options(&self, context: &Context) -> SessionOptions {
        let over = SessionPart {
            concurrent: self.concurrent,
            per_host: self.per_host,
            uploads: self.uploads,
            downloads: self.downloads,
            limit_rate: self.limit_rate,
            stage_budget: self.stage_budget,
            retention: self.retention,
        };
        config::get().session.under(&over).options(&context.dir)
    }
}

/// Resolves when the session has had nothing to do for so long and nobody is about to give it something.
async fn idle(session: &Session, context: &Context, span: Option<Span>) -> Result<detach::Held, Failure> {
    let Some(Span(span)) = span else { return std::future::pending().await };
    loop {
        session.idled(span).await;
        if let Some(last) = detach::last_one(&context.dir)?
            && tokio::time::timeout(LAST_LOOK, session.idled(Duration::ZERO)).await.is_ok()
        {
            return Ok(last);
        }
    }
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
