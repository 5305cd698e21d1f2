//! What very many jobs cost: opening a session that holds them, a page of them, all of them changed at once.
//!
//! ```text
//! cargo bench -p longhaul --bench scale
//! LONGHAUL_BENCH_ENDED=1000000 LONGHAUL_BENCH_LIVE=100000 LONGHAUL_BENCH_DIR=/a/real/disk
//! ```
//!
//! Without `--bench`, as `cargo test` has it, both are small. Nothing is sent.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench prints, and measures the real world"
)]

use std::env;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Instant;

use longhaul::control::{Query, Request, Response, Selection};
use longhaul::sim::{
    Core, Job, JobSpec, Jobs, Outcome, Phase, Proof, ProtocolId, Record, SuspendCause, Token, Transition,
    WallMs, archive_rows, live_rows, meta_row,
};
use longhaul::{JobId, JobState, Session, SessionOptions};
use longhaul_journal::{Checkpoint, Journal, Options};

type Error = Box<dyn std::error::Error>;

/// Jobs in one checkpoint while loading.
const BATCH: u64 = 20_000;
const LOOKS: usize = 21;

fn number(name: &str, small: u64, large: u64) -> u64 {
    let default = if env::args().any(|argument| argument == "--bench") { large } else { small };
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Kilobytes that this process holds.
fn resident_kb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse().ok()).unwrap_or(0)
}

fn job(id: u64, now: WallMs, core: Core) -> Result<Job, Error> {
    let (url, path) =
        (format!("http://127.0.0.1:9/library/track-{id:07}.flac"), format!("/music/track-{id:07}.flac"));
    let mut token = [0; 16];
    token[..8].copy_from_slice(&id.to_be_bytes());
    let spec = JobSpec {
        group: Some("library".to_owned()),
        ..JobSpec::new(ProtocolId::Get, url, path.into(), Token(token))
    };
    let mut jobs = Jobs::default();
    jobs.apply(Record::Submitted { id: JobId(id), at: now, spec: Box::new(spec) })?;
    let mut job = jobs.map.remove(&JobId(id)).ok_or("born")?;
    job.core = core;
    Ok(job)
}

fn load(dir: &Path, ended: u64, live: u64) -> Result<(), Error> {
    let now = WallMs(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() as u64);
    let proof = Proof { size: 5_000_000, evidence: "length, sha-256".to_owned() };
    let over = Core { phase: Phase::Ended(Outcome::Completed(proof)), ..Core::queued(Some(5_000_000)) };
    let held = Core { suspended: Some(SuspendCause::Requested), ..Core::queued(None) };
    let opened = Journal::<Transition>::open(&dir.join("journal"), Options::default())?;
    let all = ended + live;
    for first in (1..=all).step_by(BATCH as usize) {
        let mut puts = vec![meta_row(JobId(all))];
        for id in first..(first + BATCH).min(all + 1) {
            if id <= ended {
                puts.extend(archive_rows(&job(id, now, over.clone())?));
            } else {
                puts.extend(live_rows(&job(id, now, held.clone())?, true));
            }
        }
        opened.journal.checkpoint_blocking(Checkpoint { puts, ..Checkpoint::default() })?;
    }
    opened.journal.close_blocking()?;
    Ok(())
}

async fn pages(session: &Session, query: Query) -> Result<(), Error> {
    let mut spans = Vec::new();
    for _ in 0..LOOKS {
        let start = Instant::now();
        let Response::Jobs { jobs, .. } = session.call(Request::List { query: query.clone() }).await else {
            return Err("no list".into());
        };
        spans.push(start.elapsed());
        assert!(!jobs.is_empty());
    }
    spans.sort();
    println!("  page of {:?}: median {:?}, worst {:?}", query.limit, spans[LOOKS / 2], spans[LOOKS - 1]);
    Ok(())
}

async fn changed(what: &str, session: &Session, request: Request, expected: u64) -> Result<(), Error> {
    let start = Instant::now();
    match session.call(request).await {
        Response::Changed { changed, .. } => assert_eq!(changed, expected, "{what}"),
        other => return Err(format!("{other:?}").into()),
    }
    println!("  {what} of {expected}: {:?}, {} MB", start.elapsed(), resident_kb() / 1024);
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let ended = number("LONGHAUL_BENCH_ENDED", 3000, 1_000_000);
    let live = number("LONGHAUL_BENCH_LIVE", 2000, 100_000);
    let base = env::var_os("LONGHAUL_BENCH_DIR").unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    let dir = tempfile::tempdir_in(base)?;
    let home = dir.path().join("session");
    fs::DirBuilder::new().mode(0o700).create(&home)?;
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700))?;
    let start = Instant::now();
    let loading = home.clone();
    tokio::task::spawn_blocking(move || load(&loading, ended, live).map_err(|error| error.to_string()))
        .await??;
    println!("{ended} ended and {live} paused jobs, loaded in {:?}", start.elapsed());
    let before = resident_kb();
    let start = Instant::now();
    let session = Session::open(SessionOptions::new(&home).admit(false)).await?;
    println!("  open: {:?}, {} MB more", start.elapsed(), resident_kb().saturating_sub(before) / 1024);
    let newest = Query { limit: Some(100), newest: true, ..Query::default() };
    pages(&session, newest.clone()).await?;
    let over = Selection::all().in_states([JobState::Completed]);
    pages(&session, Query { jobs: over, ..newest }).await?;
    changed("resume", &session, Request::Resume { jobs: Selection::all() }, live).await?;
    changed("pause", &session, Request::Suspend { jobs: Selection::all() }, live).await?;
    changed("cancel", &session, Request::Cancel { jobs: Selection::group("library") }, live).await?;
    session.shutdown().await;
    Ok(())
}
