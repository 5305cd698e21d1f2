//! Repair: what can be read of a damaged journal, in a new one; what ended jobs have left, removed.
//!
//! ```text
//! sources: a copy of the journal as far as it goes ┐
//!          exports, newest first                   ┴▶ the one that reaches furthest
//! 1. quarantine-<time>/, in it a new journal with the jobs of that source       synced
//! 2. copies and secrets that no restored job owns ─▶ quarantine-<time>/stage/   synced
//! 3. exchange: the new journal is journal/, the old one is in the quarantine    synced
//! ```
//!
//! Cut short before 3, the damaged journal is still in its place, and the next repair does all of it again. 2 comes
//! before 3 because the next owner removes copies that its journal does not know.
//!
//! Invariant: no number that may have been given is given again. Each lost record may have been a new job.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use longhaul_journal::{Checkpoint, Journal, Options, Row, RowKey, Seq, read_export};

use super::look::{Known, Looked, Staged, look};
use super::{Repair, files};
use crate::error::OpenError;
use crate::job::record::{Replay, archive_rows, key_row, live_rows, meta_row, table};
use crate::job::step::Transition;
use crate::job::{HistoryEntry, Job, JobId, JobState, Phase, SuspendCause};
use crate::os::disk::OsDisk;
use crate::ports::{Disk, WallMs};
use crate::view::JobView;

/// A copy of the journal that the doctor reads; removed again.
const COPY: &str = "repair.tmp";

/// See [`super::repair`].
pub fn repair(dir: &Path, dry_run: bool) -> Result<Repair, OpenError> {
    let looked = look(dir)?;
    if looked.report.newer {
        let text = looked.report.findings.iter().map(|finding| finding.text.as_str()).collect::<Vec<_>>();
        return Err(OpenError::NewerVersion { text: text.join("; ") });
    }
    let mut repair = Repair {
        dry_run,
        before: looked.report.clone(),
        rebuilt: false,
        did: Vec::new(),
        lost: Vec::new(),
        restored: Vec::new(),
        quarantine: None,
    };
    if looked.report.damaged {
        rebuild(&looked, &mut repair)?;
    } else {
        tidy(&looked, &mut repair)?;
    }
    Ok(repair)
}

/// Removes what jobs that have ended have left.
fn tidy(looked: &Looked, repair: &mut Repair) -> Result<(), OpenError> {
    let disk = OsDisk::default();
    for path in &looked.strays {
        if !repair.dry_run {
            disk.remove(path).map_err(files::io(format!("remove {}", path.display())))?;
            let parent = path.parent().unwrap_or(Path::new("."));
            disk.sync_dir(parent).map_err(files::io(format!("sync {}", parent.display())))?;
        }
        repair.did.push(format!("removed {}, which no job needs", path.display()));
    }
    Ok(())
}

/// What can be restored.
struct Source {
    /// In words.
    name: String,
    /// The last record that it reflects.
    through: Seq,
    live: BTreeMap<JobId, Job>,
    ended: BTreeMap<JobId, Job>,
    last: JobId,
}

fn rebuild(looked: &Looked, repair: &mut Repair) -> Result<(), OpenError> {
    let now = files::now();
    let mut sources: Vec<Source> = salvage(looked)?.into_iter().chain(exports(looked)).collect();
    let last = sources.iter().map(|source| source.last).max().unwrap_or_default();
    // Of two that reach equally far the journal itself comes first: it has the ended jobs too.
    sources.sort_by_key(|source| std::cmp::Reverse(source.through));
    let mut source = sources.into_iter().next();
    let staged = staged_files(looked)?;
    let witness = looked.verified.as_ref().and_then(|verified| verified.witness.as_ref());
    let through = source.as_ref().map_or(0, |source| source.through.0);
    let missing = witness.map_or(0, |witness| witness.seq.0.saturating_sub(through));
    let highest = staged.iter().map(|(_, staged)| staged.id()).max().unwrap_or_default();
    let last = JobId(last.max(highest).max(quarantined(looked)?).0.saturating_add(missing));

    tell_source(repair, source.as_ref(), missing);
    let known = source.as_ref().map_or(JobId(0), |source| source.last);
    for (path, staged) in staged.iter().filter(|(_, staged)| staged.id() > known) {
        let (id, shown) = (staged.id(), path.display());
        repair.lost.push(format!("job {id}, of which there is {shown}, is in nothing that can be read"));
    }
    if let Some(source) = &mut source {
        for job in source.live.values_mut() {
            hold(job, now, &source.name);
        }
        let held = source.live.values().filter(|job| job.core.suspended.is_some());
        repair.restored = held.map(|job| JobView::new(job, 0)).collect();
    }
    let live = source.as_ref().map(|source| &source.live);
    let is_needed = |staged: Staged| {
        live.and_then(|live| live.get(&staged.id())).is_some_and(|job| staged.is_needed_by(job))
    };
    let orphans: Vec<PathBuf> =
        staged.iter().filter(|(_, staged)| !is_needed(*staged)).map(|(path, _)| path.clone()).collect();
    repair.rebuilt = true;
    replace(looked, repair, source.as_ref(), &orphans, last, now)
}

fn tell_source(repair: &mut Repair, source: Option<&Source>, missing: u64) {
    let what = match source {
        Some(source) => format!(
            "restored {} unfinished and {} ended jobs from {}, which reaches record {}",
            source.live.len(),
            source.ended.len(),
            source.name,
            source.through.0
        ),
        None => "found neither an export nor a part of the journal that can be read".to_owned(),
    };
    repair.did.push(what);
    match source {
        Some(_) if missing > 0 => repair.lost.push(format!(
            "{missing} records after that were acknowledged and cannot be read: jobs accepted then are lost, and jobs restored may be further, or over"
        )),
        Some(_) => {}
        None => repair.lost.push("every job that the journal held".to_owned()),
    }
}

/// The journal itself, as far as it goes without a contradiction, and whatever its witness says.
fn salvage(looked: &Looked) -> Result<Option<Source>, OpenError> {
    let journal = looked.home.journal();
    if !journal.is_dir() {
        return Ok(None);
    }
    let copy = looked.home.dir.join(COPY);
    let clear = || files::discard(&copy).map_err(files::io(format!("remove {}", copy.display())));
    clear()?;
    let copied = files::copy_tree(&journal, &copy);
    let options = Options { accept_any_witness: true, ..Options::default() };
    let known = copied
        .map_err(files::io(format!("copy {} to {}", journal.display(), copy.display())))
        .and_then(|()| Known::load(&copy, options));
    let source = match known {
        Ok(known) => {
            let name = "the journal, as far as it can be read".to_owned();
            let (through, last) = (known.reach, known.last);
            let (live, ended) = (known.live.clone(), known.ended.clone());
            known.close()?;
            Some(Source { name, through, live, ended, last })
        }
        Err(OpenError::Damaged { .. }) => None,
        Err(other) => {
            clear()?;
            return Err(other);
        }
    };
    clear()?;
    Ok(source)
}

/// The exports that can be read.
fn exports(looked: &Looked) -> Vec<Source> {
    let verified = looked.verified.iter().flat_map(|verified| &verified.exports);
    let mut paths: Vec<&PathBuf> = verified.map(|(path, _)| path).collect();
    paths.sort();
    paths.into_iter().rev().filter_map(|path| read_source(path)).collect()
}

fn read_source(path: &Path) -> Option<Source> {
    let export = read_export(path).ok()?;
    let through = export.through;
    let rows: Vec<Row> =
        export.rows.into_iter().map(|(key, value)| Row { key, seq: through, value }).collect();
    let jobs = Replay::from_rows(&rows, false).ok()?.finish();
    let (ended, live): (BTreeMap<_, _>, BTreeMap<_, _>) =
        jobs.map.into_iter().partition(|(_, job)| job.state().is_terminal());
    let name = format!("the export {}", path.display());
    Some(Source { name, through, live, ended, last: jobs.last })
}

/// Makes a restored job hold still: nothing is sent before somebody resumes it.
fn hold(job: &mut Job, now: WallMs, source: &str) {
    match &mut job.core.phase {
        // Its end stands. What it had at the server is named instead of being deleted there.
        Phase::Ending { remote, .. } => {
            if let Some(state) = remote.take() {
                job.core.leftover = state.remote().map(ToOwned::to_owned);
            }
            return;
        }
        Phase::Ended(_) => return,
        Phase::Queued | Phase::Staging | Phase::Staged | Phase::Sending(_) | Phase::Publishing { .. } => {}
    }
    job.core.suspended = Some(SuspendCause::Restored);
    job.core.retry_at = None;
    job.changed_at = now;
    let what = format!("restored from {source}");
    job.history.push(HistoryEntry { at: now, state: JobState::Suspended, what, done: job.core.done });
}

/// Files of ours in the staging area.
fn staged_files(looked: &Looked) -> Result<Vec<(PathBuf, Staged)>, OpenError> {
    let stage = looked.home.stage();
    let names = files::names(&stage).map_err(files::io(format!("list {}", stage.display())))?;
    let mut ours: Vec<_> =
        names.into_iter().filter_map(|path| Staged::parse(&path).map(|staged| (path, staged))).collect();
    ours.sort();
    Ok(ours)
}

/// The highest job number among what earlier repairs have put aside.
fn quarantined(looked: &Looked) -> Result<JobId, OpenError> {
    let mut highest = JobId(0);
    let dir = &looked.home.dir;
    for path in files::names(dir).map_err(files::io(format!("list {}", dir.display())))? {
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"quarantine-")) {
            let stage = path.join("stage");
            let names = files::names(&stage).map_err(files::io(format!("list {}", stage.display())))?;
            let numbers = names.iter().filter_map(|path| Staged::parse(path)).map(Staged::id);
            highest = numbers.fold(highest, JobId::max);
        }
    }
    Ok(highest)
}

/// Steps 1 to 3.
fn replace(
    looked: &Looked,
    repair: &mut Repair,
    source: Option<&Source>,
    orphans: &[PathBuf],
    last: JobId,
    now: WallMs,
) -> Result<(), OpenError> {
    let home = &looked.home;
    let base = home.dir.join(format!("quarantine-{}", files::stamp(now)));
    let mut quarantine = base.clone();
    let mut again = 1;
    while quarantine.exists() {
        again += 1;
        quarantine = base.with_extension(again.to_string());
    }
    let (journal, stage) = (quarantine.join("journal"), quarantine.join("stage"));
    if !repair.dry_run {
        for dir in [&quarantine, &stage] {
            files::make_dir(dir).map_err(files::io(format!("make {}", dir.display())))?;
        }
        build(&journal, source, last)?;
    }
    for path in orphans {
        let to = stage.join(path.file_name().unwrap_or_default());
        if !repair.dry_run {
            let doing = format!("move {} to {}", path.display(), to.display());
            files::move_new(path, &to).map_err(files::io(doing))?;
        }
        repair.did.push(format!("moved {} to {}", path.display(), to.display()));
    }
    let is_there = home.journal().exists();
    if !repair.dry_run {
        for dir in [&stage, &home.stage()] {
            if dir.is_dir() {
                files::sync_dir(dir).map_err(files::io(format!("sync {}", dir.display())))?;
            }
        }
        let doing = format!("put a new journal in the place of {}", home.journal().display());
        files::exchange(&journal, &home.journal()).map_err(files::io(doing))?;
        for dir in [&quarantine, &home.dir] {
            files::sync_dir(dir).map_err(files::io(format!("sync {}", dir.display())))?;
        }
    }
    if is_there {
        repair.did.push(format!("moved the damaged journal to {}", journal.display()));
    }
    repair.did.push(format!("made a new journal; the next job is number {}", last.0.saturating_add(1)));
    repair.quarantine = Some(quarantine.display().to_string());
    Ok(())
}

/// A new journal, closed and read back.
fn build(dir: &Path, source: Option<&Source>, last: JobId) -> Result<(), OpenError> {
    let mut puts: Vec<(RowKey, Vec<u8>)> = vec![meta_row(last)];
    if let Some(source) = source {
        puts.extend(source.live.values().flat_map(|job| live_rows(job, true)));
        puts.extend(source.ended.values().flat_map(archive_rows));
        let jobs = source.live.values().chain(source.ended.values());
        let keys = jobs.filter_map(|job| job.spec.key.as_deref().map(|key| key_row(key, job.id)));
        puts.extend(keys);
    }
    let opened = Journal::<Transition>::open(dir, Options::default())?;
    let through = opened.report.last;
    let failed = |error: &dyn std::fmt::Display| OpenError::Journal(format!("{}: {error}", dir.display()));
    let checkpoint = Checkpoint { through, puts, removes: Vec::new(), export: Some(table::LIVE.to_vec()) };
    opened.journal.checkpoint_blocking(checkpoint).map_err(|error| failed(&error))?;
    opened.journal.close_blocking().map_err(|error| failed(&error))?;
    let known = Known::load(dir, Options::default())?;
    let is_same = match source {
        Some(source) => known.live == source.live && known.ended == source.ended,
        None => known.live.is_empty() && known.ended.is_empty(),
    };
    let numbers_rise = known.last == last;
    known.close()?;
    if is_same && numbers_rise { Ok(()) } else { Err(failed(&"it does not read back as it was written")) }
}
