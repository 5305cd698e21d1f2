//! `haul`: file transfers that survive anything, from the command line.
//!
//! ```text
//! main ─▶ args, config ─▶ command/* ─▶ submit, wait ─▶ connect ─▶ longhaul::Session, here or over its socket
//!                     │     options, batch ┘ └▶ screen, report, text   └▶ detach (a daemon's)
//!                     └▶ serve (the receiver), demo (both ends, and kills)
//! ```
//!
//! The engine never prints; everything that people see is written here. Exit codes: [`exit`].

mod args;
mod batch;
mod command;
mod config;
mod connect;
mod detach;
mod exit;
mod list;
mod meter;
mod options;
mod output;
mod report;
mod screen;
mod select;
mod serve;
mod signals;
mod style;
mod submit;
mod table;
mod text;
mod wait;
mod walk;
mod when;

use std::io;
use std::process::ExitCode;

use clap::Parser as _;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use args::Cli;
use exit::{Exit, Failure};

/// Threads that run the engine's tasks: they wait, mostly; blocking calls have threads of their own.
const WORKERS: usize = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    trace(cli.global.verbose);
    style::init(cli.global.color);
    let exit = run(cli).unwrap_or_else(|failure| {
        let text = failure.to_string();
        if !text.is_empty() {
            output::fail(text);
        }
        failure.exit()
    });
    exit.into()
}

fn run(cli: Cli) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start threads: {error}")))?;
    let ended = runtime.block_on(command::run(cli));
    // A blocking call that is still at work must not hold back the exit.
    runtime.shutdown_background();
    ended
}

/// Traces to standard error as the `-v` say. Libraries below speak up only at the third.
fn trace(verbose: u8) {
    let (ours, others) = match verbose {
        0 => return,
        1 => (LevelFilter::INFO, LevelFilter::WARN),
        2 => (LevelFilter::DEBUG, LevelFilter::WARN),
        _ => (LevelFilter::TRACE, LevelFilter::DEBUG),
    };
    let targets = Targets::new()
        .with_default(others)
        .with_target("haul", ours)
        .with_target("longhaul", ours)
        .with_target("longhaul_journal", ours);
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    tracing_subscriber::registry().with(layer).with(targets).init();
}
