//! `haul demo`: the promise, kept in front of your eyes.
//!
//! ```text
//! haul put / get / resume ──▶ passage (counts bytes, holds the rate) ──▶ haul serve
//!       ▲ SIGKILL at byte counts drawn from the seed                        ▲ SIGKILL once
//!       └──────────────────────────── demo ──────────────────────────────────┘
//! ```
//!
//! Invariant: what the table says was measured: kills by what the journal says after them, bytes sent
//! again by what passed the passage, copies left by looking into the directories, content by SHA-256.

mod bench;
mod freight;
mod leg;
mod passage;
mod plan;

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use clap::Args;
use longhaul::Direction;
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::output::{self, Context};
use crate::signals::Signals;
use crate::text::{self, Align, parse_size};

use bench::Bench;
use freight::Freight;
use leg::Leg;
use plan::Random;

/// Less than this is gone before anything can be killed.
const SIZE_MIN: u64 = 1 << 20;
/// From so many kills on, the receiver is killed once, too.
const RECEIVER_KILL_FROM: u32 = 3;
/// How long an undisturbed transfer takes: long enough to be hit at any point of it.
const TRANSFER_S: u64 = 4;

#[derive(Debug, Args)]
pub struct Demo {
    /// Size of the file; four times as much space is needed in the temporary directory
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = parse_size)]
    pub size: u64,
    /// How often to kill haul in each direction, at random instants
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub kills: u32,
    /// Repeat an earlier run: the same content, the same instants [default: a new one]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

/// What was seen of one direction.
#[derive(Debug, Serialize)]
struct Row {
    direction: Direction,
    size: u64,
    /// Transfers made: more than one only where one ended before all kills were delivered.
    transfers: u64,
    kills: u32,
    receiver_kills: u32,
    sent_again: u64,
    copies_left: u64,
    identical: bool,
    sha256: String,
}

#[derive(Debug, Serialize)]
struct Outcome {
    seed: u64,
    held: bool,
    rows: Vec<Row>,
}

pub async fn run(context: &Context, demo: &Demo) -> Result<Exit, Failure> {
    let mut signals = Signals::install()?;
    tokio::select! {
        ended = play(context, demo) => ended,
        // Dropping the other branch kills the children and removes the directory.
        _ = signals.asked() => Ok(Exit::Interrupted),
    }
}

async fn play(context: &Context, demo: &Demo) -> Result<Exit, Failure> {
    if demo.kills > 0 && demo.size < SIZE_MIN {
        return Err(Failure::usage(
            "a file below 1MiB is gone before anything can be killed; try --size 16MiB",
        ));
    }
    let seed = demo.seed.unwrap_or_else(fresh_seed);
    let again = format!("--size {} --kills {} --seed {seed}", demo.size, demo.kills);
    context.note(format_args!("seed {seed}; the same once more with: haul demo {again}"));
    let mut random = Random::new(seed);
    let rate = (demo.size / TRANSFER_S).max(1 << 18);
    let mut bench = Bench::set_up(demo.size, rate).await?;
    context.note(format_args!("making a file of {} in {}", text::bytes(demo.size), bench.root().display()));
    let freight = Freight::make(&bench.source(), demo.size, random.next()).await?;
    context.note(format_args!(
        "the line is held to {}/s, so that kills hit moving bytes; it counts what passes",
        text::bytes(rate)
    ));
    let mut rows = Vec::new();
    for direction in [Direction::Upload, Direction::Download] {
        // One kill of the receiver, during the upload: that is when it holds somebody's bytes.
        let receiver = u32::from(direction == Direction::Upload && demo.kills >= RECEIVER_KILL_FROM);
        let blows = plan::blows(&mut random, demo.size, demo.kills, receiver);
        let leg = Leg::new(context, &mut bench, &freight, direction, blows);
        rows.push(leg.run(&mut random).await?);
    }
    bench.tear_down().await;
    let held = rows.iter().all(|row| holds(row, demo));
    tell(context, &Outcome { seed, held, rows })?;
    Ok(if held { Exit::Done } else { Exit::Failed })
}

fn holds(row: &Row, demo: &Demo) -> bool {
    row.identical && row.copies_left == 0 && row.kills == demo.kills
}

fn tell(context: &Context, outcome: &Outcome) -> Result<(), Failure> {
    if context.json {
        return output::print_json(outcome);
    }
    output::print(&table(&outcome.rows))?;
    output::print(if outcome.held {
        "\nEvery byte arrived, nothing was left behind.\n"
    } else {
        "\nThe promise was not kept: see the table.\n"
    })
}

fn table(rows: &[Row]) -> String {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let kills = match row.receiver_kills {
                0 => row.kills.to_string(),
                more => format!("{} + {more} of the receiver", row.kills),
            };
            let again = text::bytes(row.sent_again);
            let digest = row.sha256.get(..12).unwrap_or_default();
            let result =
                if row.identical { format!("identical, sha256 {digest}…") } else { "DIFFERENT".to_owned() };
            let direction = format!("{:?}", row.direction).to_lowercase();
            [direction, text::bytes(row.size), kills, again, row.copies_left.to_string(), result]
        })
        .collect();
    let heads = [
        ("direction", Align::Left),
        ("size", Align::Right),
        ("kills survived", Align::Left),
        ("bytes sent again", Align::Right),
        ("copies left", Align::Right),
        ("result", Align::Left),
    ];
    text::table(heads, &rows)
}

/// The standard library's hash keys are random for each process.
fn fresh_seed() -> u64 {
    // Short, so that it can be typed.
    RandomState::new().build_hasher().finish() % 1_000_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            direction: Direction::Upload,
            size: 256 << 20,
            transfers: 1,
            kills: 5,
            receiver_kills: 1,
            sent_again: 1536,
            copies_left: 0,
            identical: true,
            sha256: "0123456789abcdef".repeat(4),
        }
    }

    #[test]
    fn the_table_says_what_was_measured() {
        let text = table(&[row()]);
        let line = "upload     256.0 MiB  5 + 1 of the receiver           1.5 KiB            0  \
                    identical, sha256 0123456789ab…";
        assert_eq!(text.lines().nth(1), Some(line));
    }

    #[test]
    fn it_holds_only_if_all_of_it_does() {
        let demo = Demo { size: 256 << 20, kills: 5, seed: None };
        assert!(holds(&row(), &demo));
        assert!(!holds(&Row { identical: false, ..row() }, &demo));
        assert!(!holds(&Row { copies_left: 1, ..row() }, &demo));
        assert!(!holds(&Row { kills: 4, ..row() }, &demo));
    }
}
