//! Commits a second against a plain log on the same disk in the same run; a million records; a million rows.
//!
//! ```text
//! cargo bench -p longhaul-journal              # the directory for files: LONGHAUL_BENCH_DIR, or target/tmp
//! LONGHAUL_BENCH_ROUNDS=5 LONGHAUL_BENCH_RECORDS=1000000 LONGHAUL_BENCH_ROWS=1000000 LONGHAUL_BENCH_KEEP=
//! ```
//!
//! Each of the three is left out if its number is 0. Without `--bench`, as `cargo test` has it, all are small.
//!
//! Only ratios taken in one run count: machines and neighbours differ.
#![allow(clippy::print_stdout, reason = "a bench prints")]

use std::env;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use longhaul_journal::{
    Checkpoint, DecodeError, Journal, Options, Record, Row, RowKey, RowOrder, RowQuery, RowSink, Seq,
};

type Error = Box<dyn std::error::Error>;

const RECORD_BYTES: usize = 120;
const ROW_BYTES: usize = 250;
const RUN: Duration = Duration::from_secs(2);
const MANY: usize = 64;

struct Blob(u64);

impl Record for Blob {
    const VERSION: u8 = 1;
    type Replayed = u64;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&payload(self.0));
    }

    fn decode(_version: u8, payload: &[u8]) -> Result<u64, DecodeError> {
        let head = payload.first_chunk().ok_or_else(|| DecodeError::Malformed("short".to_owned()))?;
        Ok(u64::from_be_bytes(*head))
    }
}

fn payload(number: u64) -> [u8; RECORD_BYTES] {
    let mut bytes = [0x5a; RECORD_BYTES];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn main() -> Result<(), Error> {
    if let Ok(dir) = env::var("LONGHAUL_BENCH_REOPEN") {
        return reopen(Path::new(&dir));
    }
    if let Ok(dir) = env::var("LONGHAUL_BENCH_READ") {
        return read_rows(Path::new(&dir));
    }
    let base = env::var_os("LONGHAUL_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let dir = base.join(format!("journal-bench-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let result = compare(&dir).and_then(|()| load(&dir)).and_then(|()| rows(&dir));
    // Kept only to look into it.
    if env::var_os("LONGHAUL_BENCH_KEEP").is_none() {
        fs::remove_dir_all(&dir)?;
    }
    result
}

/// `cargo bench` says so to its benches.
fn is_bench() -> bool {
    env::args().any(|argument| argument == "--bench")
}

fn number(name: &str, default: usize) -> usize {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What one run of some writers gave.
#[derive(Clone, Copy)]
struct Figures {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
}

fn compare(dir: &Path) -> Result<(), Error> {
    let rounds = number("LONGHAUL_BENCH_ROUNDS", if is_bench() { 5 } else { 0 });
    if rounds == 0 {
        return Ok(());
    }
    println!("{RECORD_BYTES}-byte records, {rounds} interleaved rounds of {RUN:?}, medians");
    for writers in [1, MANY] {
        let (mut plain, mut journal) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            plain.push(run_plain(&dir.join(format!("plain-{writers}-{round}")), writers)?);
            journal.push(run_journal(&dir.join(format!("journal-{writers}-{round}")), writers)?);
        }
        let (plain, journal) = (median(&mut plain), median(&mut journal));
        let unit = if writers == 1 { "commits/s" } else { "records/s" };
        for (name, figures) in [("plain log + fdatasync", plain), ("journal", journal)] {
            println!(
                "{writers:>3} writers  {name:<22} {:>8.0} {unit}  p50 {:.2} ms  p99 {:.2} ms",
                figures.per_second, figures.p50_ms, figures.p99_ms
            );
        }
        println!("{writers:>3} writers  ratio {:.2}", journal.per_second / plain.per_second);
    }
    Ok(())
}

fn median(runs: &mut [Figures]) -> Figures {
    runs.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
    runs[runs.len() / 2]
}

/// Lets `writers` threads call `append` until the time is over.
fn drive(writers: usize, append: &(dyn Fn(u64) + Sync)) -> Figures {
    let start = Instant::now();
    let mut waits: Vec<f64> = thread::scope(|scope| {
        let writer = |n: usize| {
            move || {
                let mut waits = Vec::new();
                let mut next = n as u64;
                while start.elapsed() < RUN {
                    let began = Instant::now();
                    append(next);
                    waits.push(began.elapsed().as_secs_f64() * 1e3);
                    next += writers as u64;
                }
                waits
            }
        };
        let threads: Vec<_> = (0..writers).map(|n| scope.spawn(writer(n))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
    });
    let per_second = waits.len() as f64 / start.elapsed().as_secs_f64();
    waits.sort_by(f64::total_cmp);
    let at = |share: usize| waits.get(waits.len() * share / 100).copied().unwrap_or_default();
    Figures { per_second, p50_ms: at(50), p99_ms: at(99) }
}

fn run_journal(dir: &Path, writers: usize) -> Result<Figures, Error> {
    let journal = Journal::<Blob>::open(dir, Options::default())?.journal;
    let figures = drive(writers, &|number| {
        assert!(journal.append_all_blocking(vec![Blob(number)]).is_ok(), "append failed");
    });
    journal.close_blocking()?;
    Ok(figures)
}

/// One record of the plain log, and who waits for it.
struct Line {
    bytes: Vec<u8>,
    done: Arc<AtomicBool>,
    writer: Thread,
}

/// The limit: the same owner thread and group commit, but a write and an fdatasync is all it does.
fn run_plain(path: &Path, writers: usize) -> Result<Figures, Error> {
    let mut file = File::create(path)?;
    let (queue, lines) = mpsc::channel::<Line>();
    let owner = thread::spawn(move || -> std::io::Result<()> {
        let mut bytes = Vec::new();
        while let Ok(first) = lines.recv() {
            let mut group = vec![first];
            group.extend(lines.try_iter());
            bytes.clear();
            for line in &group {
                bytes.extend_from_slice(&(line.bytes.len() as u32).to_be_bytes());
                bytes.extend_from_slice(&line.bytes);
            }
            file.write_all(&bytes)?;
            file.sync_data()?;
            for line in group {
                line.done.store(true, Ordering::Release);
                line.writer.unpark();
            }
        }
        Ok(())
    });
    let figures = drive(writers, &|number| {
        let done = Arc::new(AtomicBool::new(false));
        let line =
            Line { bytes: payload(number).to_vec(), done: Arc::clone(&done), writer: thread::current() };
        assert!(queue.send(line).is_ok(), "the plain log's owner is gone");
        while !done.load(Ordering::Acquire) {
            thread::park();
        }
    });
    drop(queue);
    owner.join().map_err(|_| "the plain log's owner panicked")??;
    Ok(figures)
}

/// A million records: once all in the log, once as rows by checkpoints at 8 MiB of log.
fn load(dir: &Path) -> Result<(), Error> {
    let records = number("LONGHAUL_BENCH_RECORDS", if is_bench() { 1_000_000 } else { 10_000 }) as u64;
    if records == 0 {
        return Ok(());
    }
    for (name, checkpoints) in [("in the log", false), ("as rows", true)] {
        let dir = dir.join(name.replace(' ', "-"));
        let journal = Journal::<Blob>::open(&dir, Options::default())?.journal;
        let start = Instant::now();
        let mut covered = 0;
        for first in (1..=records).step_by(1000) {
            let through = records.min(first + 999);
            let committed = journal.append_all_blocking((first..=through).map(Blob).collect())?;
            assert_eq!(committed.last().map(longhaul_journal::Committed::seq), Some(Seq(through)));
            if checkpoints && (journal.log_bytes() > 8 << 20 || through == records) {
                let puts = (covered + 1..=through).map(|id| (RowKey::new(b'j', id, 0), payload(id).to_vec()));
                covered = through;
                let through = Seq(through);
                let puts = puts.collect();
                journal.checkpoint_blocking(Checkpoint { through, puts, ..Checkpoint::default() })?;
            }
        }
        journal.close_blocking()?;
        let seconds = start.elapsed().as_secs_f64();
        let megabytes = bytes_below(&dir)? as f64 / 1e6;
        println!("{records} records {name}: loaded in {seconds:.1} s, {megabytes:.0} MB on disk");
        let status = Command::new(env::current_exe()?).env("LONGHAUL_BENCH_REOPEN", &dir).status()?;
        assert!(status.success(), "reopening failed");
    }
    Ok(())
}

/// In a process of its own, so that its memory is its own.
fn reopen(dir: &Path) -> Result<(), Error> {
    for (name, first_look_max_bytes) in [("with a first look", u64::MAX), ("without", 0)] {
        let start = Instant::now();
        let opened = Journal::<Blob>::open(dir, Options { first_look_max_bytes, ..Options::default() })?;
        let seconds = start.elapsed().as_secs_f64();
        let found = opened.rows.len() + opened.tail.len();
        println!(
            "  reopened {name} in {seconds:.2} s: {found} found; memory now {}, peak {}",
            status("VmRSS"),
            status("VmHWM")
        );
        opened.journal.close_blocking()?;
    }
    Ok(())
}

fn row(id: u64) -> (RowKey, Vec<u8>) {
    let mut value = vec![0x5a; ROW_BYTES];
    value[..8].copy_from_slice(&id.to_be_bytes());
    (RowKey::new(b'j', id, 0), value)
}

/// A million rows, put by checkpoints; then, in a process of its own, opened, read and exported.
fn rows(dir: &Path) -> Result<(), Error> {
    let rows = number("LONGHAUL_BENCH_ROWS", if is_bench() { 1_000_000 } else { 10_000 }) as u64;
    if rows == 0 {
        return Ok(());
    }
    let dir = dir.join("rows");
    let journal = Journal::<Blob>::open(&dir, Options::default())?.journal;
    let start = Instant::now();
    let last = journal.append_all_blocking(vec![Blob(0)])?[0].seq();
    for first in (1..=rows).step_by(50_000) {
        let puts = (first..=rows.min(first + 49_999)).map(row).collect();
        journal.checkpoint_blocking(Checkpoint { through: last, puts, ..Checkpoint::default() })?;
    }
    journal.close_blocking()?;
    let seconds = start.elapsed().as_secs_f64();
    let megabytes = bytes_below(&dir)? as f64 / 1e6;
    println!("{rows} rows of {ROW_BYTES} bytes: loaded in {seconds:.1} s, {megabytes:.0} MB on disk");
    let status = Command::new(env::current_exe()?).env("LONGHAUL_BENCH_READ", &dir).status()?;
    assert!(status.success(), "reading failed");
    Ok(())
}

#[derive(Default)]
struct CountRows(u64);

impl RowSink for CountRows {
    fn row(&mut self, _row: Row) {
        self.0 += 1;
    }
}

fn read_rows(dir: &Path) -> Result<(), Error> {
    println!("  memory before the open {}", status("VmRSS"));
    let start = Instant::now();
    let opened = Journal::<Blob>::open_into(dir, Options::default(), CountRows::default())?;
    println!(
        "  opened in {:.2} s: {} rows told; memory now {}, peak {}",
        start.elapsed().as_secs_f64(),
        opened.rows.0,
        status("VmRSS"),
        status("VmHWM")
    );
    let (journal, rows, last) = (opened.journal, opened.report.rows, opened.report.last);
    let page = RowQuery { order: RowOrder::Descending, limit: 100, ..RowQuery::all(b'j') };
    time("a page of 100 rows from the end", &mut |_| Ok(journal.rows_blocking(page.clone())?.len()))?;
    time("a page of 100 rows from somewhere", &mut |n| {
        let to = Some(RowKey::new(b'j', scattered(n, rows), 0));
        Ok(journal.rows_blocking(RowQuery { to, ..page.clone() })?.len())
    })?;
    time("one row", &mut |n| {
        let found = journal.get_blocking(vec![RowKey::new(b'j', scattered(n, rows), 0)])?;
        Ok(found.into_iter().flatten().count())
    })?;
    println!("  memory now {}, peak {}", status("VmRSS"), status("VmHWM"));
    let export = Checkpoint { through: last, export: Some(vec![b'j']), ..Checkpoint::default() };
    beside(&journal, "an export of all rows", &|| Ok(journal.checkpoint_blocking(export.clone())?))?;
    println!("  memory now {}, peak {}", status("VmRSS"), status("VmHWM"));
    beside(&journal, "a read of all rows", &|| {
        let found = journal.rows_blocking(RowQuery::all(b'j'))?.len();
        assert_eq!(found as u64, rows, "rows are gone");
        Ok(())
    })?;
    let removes = (1..=rows.min(50_000)).map(|id| RowKey::new(b'j', id, 0)).collect();
    let remove = Checkpoint { through: last, removes, ..Checkpoint::default() };
    beside(&journal, "a checkpoint that removes 50,000 rows", &|| {
        Ok(journal.checkpoint_blocking(remove.clone())?)
    })?;
    Ok(journal.close_blocking()?)
}

/// Numbers from 1 to `below`, all over the place.
fn scattered(n: u64, below: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % below + 1
}

fn time(what: &str, call: &mut dyn FnMut(u64) -> Result<usize, Error>) -> Result<(), Error> {
    let mut waits = Vec::new();
    for n in 0..1000 {
        let start = Instant::now();
        assert!(call(n)? > 0, "rows are gone");
        waits.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let first = waits[0];
    waits.sort_by(f64::total_cmp);
    println!("  {what}: first {first:.3} ms, p50 {:.3} ms, p99 {:.3} ms", waits[500], waits[990]);
    Ok(())
}

/// What one writer waits while something long is under way.
fn beside(
    journal: &Journal<Blob>,
    what: &str,
    call: &(dyn Fn() -> Result<(), Error> + Sync),
) -> Result<(), Error> {
    let done = AtomicBool::new(false);
    let (seconds, mut waits) = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut waits = Vec::new();
            while !done.load(Ordering::Acquire) {
                let start = Instant::now();
                assert!(journal.append_all_blocking(vec![Blob(1)]).is_ok(), "append failed");
                waits.push(start.elapsed().as_secs_f64() * 1e3);
            }
            waits
        });
        let start = Instant::now();
        let result = call();
        let seconds = start.elapsed().as_secs_f64();
        done.store(true, Ordering::Release);
        result.map(|()| (seconds, writer.join().unwrap_or_default()))
    })?;
    waits.sort_by(f64::total_cmp);
    let at = |share: usize| waits.get((waits.len() * share / 100).min(waits.len() - 1)).copied();
    println!(
        "  {what} took {seconds:.2} s; {} appends meanwhile, p50 {:.2} ms, p99 {:.2} ms, most {:.2} ms",
        waits.len(),
        at(50).unwrap_or_default(),
        at(99).unwrap_or_default(),
        at(100).unwrap_or_default()
    );
    Ok(())
}

fn status(field: &str) -> String {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.map_or_else(|| "unknown".to_owned(), |value| value.trim().to_owned())
}

fn bytes_below(path: &Path) -> Result<u64, Error> {
    let mut bytes = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        bytes += if meta.is_dir() { bytes_below(&entry.path())? } else { meta.len() };
    }
    Ok(bytes)
}
