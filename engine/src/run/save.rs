//! Checkpoints: what has changed becomes rows, and leaves memory.
//!
//! ```text
//! changed jobs ─▶ rows ─▶ Journal::checkpoint (beside the loop; commits go on) ─▶ jobs at rest leave memory
//! ```
//!
//! Invariant: a job leaves memory only after a checkpoint that holds all of it is finished, and only if it has
//! not changed since. Also here: what waits for space on a disk, and looks for it.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use longhaul_journal::{Checkpoint, CheckpointError, RowKey};
use tokio::task::JoinHandle;

use super::shelf::{self, Stretch};
use super::{CHANGED_MAX, FULL, FULL_MAX, Round, Runner, SPACE_MIN, SPACE_PROBE, SPACE_PROBE_MAX};
use crate::job::record::{self, Record, table};
use crate::job::step::Input;
use crate::job::{Direction, Job, JobId, Phase, SuspendCause};
use crate::ports::{Disk, WallMs};

/// Log bytes between two exports, for each unfinished job: an export writes all of them.
const EXPORT_SHARE: u64 = 300;

/// A checkpoint under way, and what goes on from one to the next.
#[derive(Debug, Default)]
pub(super) struct Saving {
    task: Option<JoinHandle<Result<(), CheckpointError>>>,
    jobs: BTreeSet<JobId>,
    gone: BTreeSet<JobId>,
    /// Jobs past retention whose secrets are still there.
    expired: Vec<JobId>,
    ended: Option<Result<(), String>>,
    /// Log bytes since the last export.
    unexported: u64,
    /// Where the search for jobs past retention goes on.
    retention: JobId,
}

impl Saving {
    /// Whether a checkpoint is under way.
    pub(super) fn is_under_way(&self) -> bool {
        self.task.is_some()
    }

    /// Resolves when the checkpoint under way has ended; never if there is none. Cancellation-safe.
    pub(super) async fn ended(&mut self) {
        let Some(task) = &mut self.task else { return std::future::pending().await };
        let result = match task.await {
            Ok(Ok(())) => Ok(()),
            // The checkpoint itself holds.
            Ok(Err(error @ CheckpointError::Export { .. })) => {
                tracing::warn!(%error, "there is no new export");
                Ok(())
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(lost) => Err(lost.to_string()),
        };
        self.task = None;
        self.ended = Some(result);
    }

    /// Waits for the checkpoint under way, if there is one.
    pub(super) async fn finish(&mut self) -> Result<(), String> {
        if self.task.is_some() {
            self.ended().await;
        }
        self.ended.take().unwrap_or(Ok(()))
    }
}

impl Runner {
    /// Whether there is enough for a checkpoint.
    pub(super) fn is_save_due(&self) -> bool {
        self.journal.log_bytes() > self.limits.checkpoint_bytes || self.changed.len() >= CHANGED_MAX
    }

    /// Begins a checkpoint, unless one is under way.
    pub(super) async fn save(&mut self) -> Result<(), String> {
        if self.saving.task.is_some() || self.saving.ended.is_some() {
            return Ok(());
        }
        let jobs = std::mem::take(&mut self.changed);
        let gone = self.jobs.gone.clone();
        let mut puts = vec![record::meta_row(self.jobs.last)];
        let mut removes = std::mem::take(&mut self.removes);
        for job in jobs.iter().filter_map(|id| self.jobs.map.get(id)) {
            let is_on_shelf = self.on_shelf.contains(&job.id);
            if let Some(key) = &job.spec.key {
                puts.push(record::key_row(key, job.id));
            }
            if job.state().is_terminal() {
                puts.extend(record::archive_rows(job));
                if is_on_shelf {
                    removes.extend(job.live_keys());
                }
            } else {
                puts.extend(record::live_rows(job, !is_on_shelf));
            }
        }
        self.pass_retention(&mut removes).await?;
        // A key whose job has gone may have a new one since.
        let taken: BTreeSet<&RowKey> = puts.iter().map(|(key, _)| key).collect();
        removes.retain(|key| !taken.contains(key));
        self.saving.unexported += self.journal.log_bytes();
        let is_due = self.saving.unexported >= self.index.len() as u64 * EXPORT_SHARE;
        if is_due {
            self.saving.unexported = 0;
        }
        let checkpoint = Checkpoint {
            through: self.committed_to,
            puts,
            removes,
            export: is_due.then(|| table::LIVE.to_vec()),
        };
        let journal = self.journal.clone();
        self.saving.task = Some(tokio::spawn(async move { journal.checkpoint(checkpoint).await }));
        (self.saving.jobs, self.saving.gone) = (jobs, gone);
        Ok(())
    }

    /// After a checkpoint: what is at rest leaves memory.
    pub(super) fn saved(&mut self) -> Result<(), String> {
        let Some(result) = self.saving.ended.take() else { return Ok(()) };
        result?;
        for id in std::mem::take(&mut self.saving.expired) {
            self.performer.remove_secrets(id);
        }
        for id in std::mem::take(&mut self.saving.gone) {
            self.jobs.gone.remove(&id);
        }
        for id in std::mem::take(&mut self.saving.jobs) {
            if let Some(job) = self.jobs.map.get(&id).filter(|_| !self.changed.contains(&id)) {
                if let Some(key) = &job.spec.key
                    && self.keys.get(key) == Some(&id)
                {
                    self.keys.remove(key);
                }
                if job.state().is_terminal() {
                    self.on_shelf.remove(&id);
                    self.jobs.map.remove(&id);
                    continue;
                }
            }
            if self.jobs.map.contains_key(&id) {
                self.on_shelf.insert(id);
            }
        }
        self.evict();
        Ok(())
    }

    /// Lets go of every job that nothing is in flight for and that rows know everything of.
    fn evict(&mut self) {
        let Self { jobs, live, changed, on_shelf, schedule, next, .. } = self;
        let expected: BTreeSet<JobId> = next
            .iter()
            .filter_map(|message| match message {
                super::Message::Input { id, .. } => Some(*id),
                _ => None,
            })
            .collect();
        live.retain(|id, live| schedule.is_running(*id) || expected.contains(id) || !live.is_idle());
        jobs.map.retain(|id, _| {
            let needed = changed.contains(id)
                || live.contains_key(id)
                || schedule.is_running(*id)
                || expected.contains(id)
                || !on_shelf.contains(id);
            if !needed {
                on_shelf.remove(id);
            }
            needed
        });
    }

    /// Looks through some of the oldest ended jobs for those past retention.
    async fn pass_retention(&mut self, removes: &mut Vec<RowKey>) -> Result<(), String> {
        let now = self.ports().clock.now();
        let horizon = WallMs(now.0.saturating_sub(self.limits.retention.as_millis() as u64));
        let from = JobId(self.saving.retention.0 + 1);
        let stretch = Stretch { from, to: JobId(u64::MAX), newest: false };
        let (jobs, rest) = shelf::archive(&self.journal, stretch).await?;
        for job in &jobs {
            if job.changed_at < horizon && !self.jobs.gone.contains(&job.id) {
                removes.extend(job.archive_keys());
                removes.extend(self.key_of(job).await?);
                self.ended.count(job.state(), false);
                // Their secrets go when it is durable that they are no more.
                if job.spec.has_secrets {
                    self.saving.expired.push(job.id);
                }
            }
        }
        self.saving.retention = rest.map_or(JobId(0), |rest| JobId(rest.from.0.saturating_sub(1)));
        Ok(())
    }

    /// The key row of a job that is no more, unless another job has taken the key over, in memory or in rows.
    pub(super) async fn key_of(&self, job: &Job) -> Result<Option<RowKey>, String> {
        let Some(key) = &job.spec.key else { return Ok(None) };
        let owner = match self.keys.get(key) {
            Some(id) => Some(*id),
            None => shelf::keyed(&self.journal, std::slice::from_ref(key)).await?.pop().flatten(),
        };
        Ok(owner.is_none_or(|id| id == job.id).then(|| RowKey::named(table::KEY, key)))
    }

    /// A disk that is full holds up those that would need it next; one that is not lets them go on.
    pub(super) fn note_space(&mut self, id: JobId, record: &Record) {
        let Record::Moved { core, .. } = record else { return };
        let Some(brief) = self.index.get(id) else { return };
        let direction = brief.direction;
        let is_full = matches!(core.suspended, Some(SuspendCause::NoSpace(_)));
        if is_full {
            self.full_span = (self.full_span * 2).clamp(FULL, FULL_MAX);
            let due = self.ports().clock.elapsed() + self.full_span;
            self.schedule.disk_full(direction, due);
        } else if core.suspended.is_none() && matches!(core.phase, Phase::Staged) {
            self.full_span = Duration::ZERO;
            self.schedule.disk_full(direction, Duration::ZERO);
        }
    }

    /// A job that was suspended for want of space, or of its source, will look again.
    pub(super) fn wait_for_space(&mut self, id: JobId) {
        let now = self.ports().clock.elapsed();
        let done = self.jobs.map.get(&id).map_or(0, |job| job.core.done);
        // What was tried in vain is tried again less and less often, until bytes move.
        let (before, span) = self.space_spans.get(&id).copied().unwrap_or((done, SPACE_PROBE / 2));
        let span = if before == done { (span * 2).min(SPACE_PROBE_MAX) } else { SPACE_PROBE };
        self.space_spans.insert(id, (done, span));
        self.space_due.insert(id, now + span);
        self.space_probe_at.get_or_insert(now + SPACE_PROBE);
    }

    /// Resumes jobs whose file system has room again, or whose source is back.
    pub(super) async fn probe_space(&mut self, round: &mut Round) -> Result<(), String> {
        let now = self.ports().clock.elapsed();
        if self.space_probe_at.is_none_or(|at| at > now) {
            return Ok(());
        }
        self.space_probe_at = None;
        let held: Vec<JobId> = self.held.iter().copied().collect();
        let due: Vec<JobId> =
            held.iter().copied().filter(|id| self.space_due.get(id).is_none_or(|due| *due <= now)).collect();
        let mut waits = due.len() < held.len();
        self.ensure(due.iter().copied()).await?;
        for id in due {
            let Some(job) = self.jobs.map.get(&id) else { continue };
            let probe = self.probe_of(job);
            if self.may_go_on(probe).await {
                self.space_due.remove(&id);
                self.step(id, Input::Resume, round);
            } else {
                waits = true;
            }
        }
        if waits {
            self.space_probe_at = Some(now + SPACE_PROBE);
        }
        Ok(())
    }

    async fn may_go_on(&self, probe: Probe) -> bool {
        match probe {
            Probe::Space(path, wanted) => {
                let free = self.ports().block(move |disk| disk.free_space(&path)).await;
                free.is_ok_and(|free| free >= wanted)
            }
            Probe::There(path, dev) => {
                let back = self.ports().block(move |disk| is_back(disk, &path, dev));
                back.await.is_ok_and(|back| back)
            }
        }
    }

    fn probe_of(&self, job: &Job) -> Probe {
        if matches!(job.core.suspended, Some(SuspendCause::SourceAway(_))) {
            return Probe::There(job.spec.path.clone(), job.spec.source.map_or(0, |source| source.dev));
        }
        match job.spec.direction() {
            Direction::Upload => {
                Probe::Space(self.performer.stage_dir.clone(), job.core.size.unwrap_or(SPACE_MIN))
            }
            Direction::Download => {
                let dir = job.part_path().parent().map_or_else(PathBuf::new, ToOwned::to_owned);
                let wanted = job.core.size.map_or(SPACE_MIN, |size| size.saturating_sub(job.core.done));
                Probe::Space(dir, wanted)
            }
        }
    }
}

/// What would let a job go on.
enum Probe {
    /// So many bytes free there.
    Space(PathBuf, u64),
    /// Something at that path, or at least its file system, by its device number.
    There(PathBuf, u64),
}

/// Whether the file system of a source is there again. If the source itself is not, its job will find that out.
fn is_back(disk: &dyn Disk, path: &Path, dev: u64) -> io::Result<bool> {
    Ok(disk.inspect(path)?.is_some() || dev != 0 && disk.device_of_nearest(path)? == dev)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::disk::OsDisk;

    #[test]
    fn a_file_system_is_back_also_without_the_file() {
        let disk = OsDisk::default();
        let dir = tempfile::tempdir().expect("a directory");
        let (path, dev) = (dir.path().join("source"), disk.device_of_nearest(dir.path()).expect("a device"));
        assert!(is_back(&disk, &path, dev).expect("a look"), "deleted while it was away");
        assert!(!is_back(&disk, &path, dev + 1).expect("a look"), "another one stands in its place");
        assert!(!is_back(&disk, &path, 0).expect("a look"), "nobody knows which it was");
        disk.create_new(&path).expect("a file");
        assert!(is_back(&disk, &path, dev + 1).expect("a look"), "found under another number");
    }
}
