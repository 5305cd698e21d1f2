//! Making and removing local files: snapshots, part files, final names.
//!
//! Order of a staging copy: temporary name (`O_EXCL`, 0600), clone or copy, fsync, source checked,
//! rename, fsync of the directory; only then is the snapshot told to the job. A part file is created
//! under a name that holds the job's token, beside its destination. Everything is removed by the
//! names that the job's number and token give, so that a crash between any two of these steps leaves
//! nothing that the next start cannot name.
//!
//! Invariant: a source is opened read-only; no call that changes anything is given its path.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::job::step::LocalFault;
use crate::job::{Fingerprint, Job, JobId, Part, Snapshot, SnapshotMethod, StageMode};
use crate::os::disk::{is_away, is_io, is_no_access, is_no_space, is_passing};
use crate::ports::{Disk, File};
use crate::secret::Secrets;

/// Bytes copied at a time.
const COPY_BUFFER: usize = 1 << 20;

/// What [`stage`] needs to know of a job.
#[derive(Clone, Debug)]
pub struct StagePlan {
    source_path: PathBuf,
    source: Option<Fingerprint>,
    mode: StageMode,
    /// Whether the staging budget has room for a copy.
    copy_fits: bool,
    stage_path: PathBuf,
    /// Set when the job is halted: a long copy must not outlive its purpose.
    stop: Arc<AtomicBool>,
}

impl StagePlan {
    /// Plans an upload's snapshot.
    pub fn new(job: &Job, stage_dir: &Path, copy_fits: bool, stop: Arc<AtomicBool>) -> Self {
        Self {
            source_path: job.spec.path.clone(),
            source: job.spec.source,
            mode: job.spec.stage,
            copy_fits,
            stage_path: job.stage_path(stage_dir),
            stop,
        }
    }

    /// Names what [`open_snapshot`] needs, once the snapshot is made.
    pub fn snapshot_source(&self) -> impl FnOnce(Snapshot) -> SnapshotSource + use<> {
        let (source_path, stage_path) = (self.source_path.clone(), self.stage_path.clone());
        |snapshot| SnapshotSource { snapshot, source_path, stage_path }
    }
}

/// The temporary name beside a staging copy.
fn temporary(stage_path: &Path) -> PathBuf {
    stage_path.with_extension("tmp")
}

/// Makes an upload's snapshot.
pub fn stage(disk: &dyn Disk, plan: &StagePlan) -> Result<Snapshot, LocalFault> {
    let source = open_source(disk, &plan.source_path, plan.source.as_ref())?;
    let in_place = |file: Fingerprint| Snapshot { method: SnapshotMethod::InPlace, size: file.size, file };
    if plan.mode == StageMode::None {
        return Ok(in_place(source.1));
    }
    let made = copy(disk, plan, &*source.0, &source.1);
    if !matches!(made, Ok(Some(_))) {
        // A failed or unneeded copy must not hold the space that may be what is missing.
        remove_if_there(disk, &temporary(&plan.stage_path)).map_err(|error| transient(&error))?;
    }
    Ok(made?.unwrap_or_else(|| in_place(source.1)))
}

/// Clones or copies; `None` when only the guarded source itself is left.
fn copy(
    disk: &dyn Disk,
    plan: &StagePlan,
    source: &dyn File,
    before: &Fingerprint,
) -> Result<Option<Snapshot>, LocalFault> {
    let temporary = temporary(&plan.stage_path);
    for leftover in [&temporary, &plan.stage_path] {
        remove_if_there(disk, leftover).map_err(|error| transient(&error))?;
    }
    let target = disk.create_new(&temporary).map_err(|error| local(&error))?;
    let method = match (*target).clone_from(source) {
        Ok(()) => SnapshotMethod::Clone,
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            if !plan.copy_fits && plan.mode == StageMode::Auto {
                return Ok(None);
            }
            let read_fault = |error: &io::Error| source_fault(disk, &plan.source_path, Some(before), error);
            copy_data(source, &*target, before.size, &plan.stop, read_fault)?;
            SnapshotMethod::Copy
        }
        Err(error) => return Err(local(&error)),
    };
    target.set_len(before.size).map_err(|error| local(&error))?;
    target.sync_all().map_err(|error| local(&error))?;
    // After the last byte was read: a change before this moment is seen, one after it is no matter.
    let after =
        source.fingerprint().map_err(|error| source_fault(disk, &plan.source_path, Some(before), &error))?;
    if !after.same_content(before) {
        return Err(changed(before, &after));
    }
    disk.rename(&temporary, &plan.stage_path).map_err(|error| local(&error))?;
    sync_parent(disk, &plan.stage_path).map_err(|error| local(&error))?;
    let file = target.fingerprint().map_err(|error| local(&error))?;
    Ok(Some(Snapshot { method, size: before.size, file }))
}

/// Copies the data and keeps the holes.
fn copy_data(
    source: &dyn File,
    target: &dyn File,
    size: u64,
    stop: &AtomicBool,
    read_fault: impl Fn(&io::Error) -> LocalFault,
) -> Result<(), LocalFault> {
    let mut buffer = vec![0; COPY_BUFFER];
    let mut offset = 0;
    while let Some(data) = source.next_data(offset).map_err(|error| read_fault(&error))? {
        let end = data.end.min(size);
        offset = data.start;
        while offset < end {
            if stop.load(Ordering::Relaxed) {
                return Err(LocalFault::Transient("halted while copying".to_owned()));
            }
            let want = buffer.len().min(usize::try_from(end - offset).unwrap_or(usize::MAX));
            let got = source.read_at(&mut buffer[..want], offset).map_err(|error| read_fault(&error))?;
            if got == 0 {
                return Err(LocalFault::SourceChanged("it was cut short while being copied".to_owned()));
            }
            target.write_all_at(&buffer[..got], offset).map_err(|error| local(&error))?;
            offset += got as u64;
        }
        if offset >= size {
            break;
        }
    }
    Ok(())
}

/// Opens a source read-only and checks that it is what it was at submit.
pub fn open_source(
    disk: &dyn Disk,
    path: &Path,
    expected: Option<&Fingerprint>,
) -> Result<(Arc<dyn File>, Fingerprint), LocalFault> {
    let fault = |error: io::Error| source_fault(disk, path, expected, &error);
    let file = disk.open_read(path).map_err(fault)?;
    let now = file.fingerprint().map_err(fault)?;
    match expected {
        Some(expected) if !expected.same_content(&now) => Err(changed(expected, &now)),
        Some(_) | None => Ok((file, now)),
    }
}

/// Classifies a failure to open or read a source.
///
/// A missing right is an error of the source like any other: it was there at submit, and taking it away is
/// a change of what was handed over. A file system that is away takes nothing back.
pub fn source_fault(
    disk: &dyn Disk,
    path: &Path,
    expected: Option<&Fingerprint>,
    error: &io::Error,
) -> LocalFault {
    let not_found = error.kind() == io::ErrorKind::NotFound;
    if is_away(error) || ((not_found || is_io(error)) && is_unmounted(disk, path, expected)) {
        LocalFault::SourceAway(error.to_string())
    } else if not_found {
        LocalFault::SourceChanged(format!("{} is gone", path.display()))
    } else if is_passing(error) {
        transient(error)
    } else {
        LocalFault::SourceIo(error.to_string())
    }
}

/// Whether the file system of the source is evidently not where it was: what stands in its place is of
/// another device, or cannot even be looked at.
fn is_unmounted(disk: &dyn Disk, path: &Path, expected: Option<&Fingerprint>) -> bool {
    expected.is_some_and(|expected| match disk.device_of_nearest(path) {
        Ok(dev) => dev != 0 && dev != expected.dev,
        Err(error) => is_away(&error) || is_io(&error),
    })
}

/// Opens what an upload reads; told by its journaled identity.
pub fn open_snapshot(
    disk: &dyn Disk,
    job: &SnapshotSource,
) -> Result<(Arc<dyn File>, Fingerprint), LocalFault> {
    if job.snapshot.method == SnapshotMethod::InPlace {
        return open_source(disk, &job.source_path, Some(&job.snapshot.file));
    }
    let gone =
        |why: String| LocalFault::Fatal(format!("the staging copy {} {why}", job.stage_path.display()));
    let file = disk.open_read(&job.stage_path).map_err(|error| match local(&error) {
        LocalFault::Fatal(why) => gone(format!("cannot be opened: {why}")),
        passing => passing,
    })?;
    let now = file.fingerprint().map_err(|error| gone(error.to_string()))?;
    // Times are not compared: the rename that published it has moved one of them.
    if !now.same_file(&job.snapshot.file) || now.size != job.snapshot.size || now.links != 1 {
        return Err(gone("is not the file that was made for this job".to_owned()));
    }
    Ok((file, now))
}

/// What [`open_snapshot`] needs to know of a job.
#[derive(Clone, Debug)]
pub struct SnapshotSource {
    /// How it is held.
    pub snapshot: Snapshot,
    /// The source.
    pub source_path: PathBuf,
    /// The copy, if there is one.
    pub stage_path: PathBuf,
}

/// The ending of the name of a file of secrets.
const SECRETS: &str = "secrets";
/// Bytes of a file of secrets at most.
const SECRETS_MAX: usize = 256 << 10;

/// Reads a job's secrets.
pub fn read_secrets(disk: &dyn Disk, path: &Path) -> io::Result<Secrets> {
    let file = disk.open_read(path)?;
    let mut text = vec![0; SECRETS_MAX];
    let mut filled = 0;
    while filled < text.len() {
        match file.read_at(&mut text[filled..], filled as u64)? {
            0 => break,
            got => filled += got,
        }
    }
    serde_json::from_slice(&text[..filled]).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// The path of a job's secrets, whether or not there are any.
pub fn secrets_path(stage_dir: &Path, job: JobId) -> PathBuf {
    stage_dir.join(format!("{:016x}.{SECRETS}", job.0))
}

/// Removes a job's secrets, if there are any.
pub fn remove_secrets(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    if remove_if_there(disk, path)? {
        sync_parent_if_there(disk, path)?;
    }
    Ok(())
}

/// Keeps a job's secrets, durably.
pub fn write_secrets(disk: &dyn Disk, path: &Path, secrets: &Secrets) -> io::Result<()> {
    let text = serde_json::to_vec(secrets)?;
    if text.len() > SECRETS_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the headers are too long"));
    }
    remove_if_there(disk, path)?;
    let file = disk.create_new(path)?;
    file.write_all_at(&text, 0)?;
    file.sync_all()?;
    sync_parent(disk, path)
}

impl SnapshotSource {
    /// What a source in place must still be.
    pub fn guard(&self) -> Option<&Fingerprint> {
        (self.snapshot.method == SnapshotMethod::InPlace).then_some(&self.snapshot.file)
    }

    /// Classifies a failure to read it.
    pub fn fault(&self, disk: &dyn Disk, error: &io::Error) -> LocalFault {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return LocalFault::SourceChanged(error.to_string());
        }
        match self.guard() {
            Some(expected) => source_fault(disk, &self.source_path, Some(expected), error),
            None => LocalFault::SourceIo(error.to_string()),
        }
    }
}

/// Words a change of the source.
pub fn changed(before: &Fingerprint, now: &Fingerprint) -> LocalFault {
    LocalFault::SourceChanged(if !before.same_file(now) {
        "another file has taken its place".to_owned()
    } else if before.size != now.size {
        format!("its size went from {} to {} bytes", before.size, now.size)
    } else {
        "it was written to".to_owned()
    })
}

/// Makes a download's part file, empty and durable.
pub fn make_part(disk: &dyn Disk, path: &Path) -> Result<Part, LocalFault> {
    let file = match disk.create_new(path) {
        // Its name holds this job's token: a crash lies between its creation and the journal.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            disk.remove(path).map_err(|error| local(&error))?;
            disk.create_new(path).map_err(|error| local(&error))?
        }
        made => made.map_err(|error| local(&error))?,
    };
    file.sync_all().map_err(|error| local(&error))?;
    sync_parent(disk, path).map_err(|error| local(&error))?;
    let now = file.fingerprint().map_err(|error| local(&error))?;
    Ok(Part { path: path.to_owned(), dev: now.dev, ino: now.ino })
}

/// Opens a part file and checks that it is the one this job made and holds what is journaled.
pub fn open_part(disk: &dyn Disk, part: &Part, have: u64) -> Result<Arc<dyn File>, LocalFault> {
    let lost = |why: String| LocalFault::PartLost(format!("{} {why}", part.path.display()));
    let file = disk.open_write(&part.path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => lost("is gone".to_owned()),
        io::ErrorKind::InvalidInput => lost(format!("is no longer ours: {error}")),
        _ => local(&error),
    })?;
    let now = file.fingerprint().map_err(|error| local(&error))?;
    if now.ino != part.ino {
        return Err(lost("was replaced by another file".to_owned()));
    }
    if now.size < have {
        return Err(lost(format!("has {} bytes where {have} were durable", now.size)));
    }
    Ok(file)
}

/// What publishing led to.
pub enum Publish {
    /// The file has its final name, durably.
    Done,
    /// Something else stands there.
    Exists,
}

/// Gives the part file its final name. Safe to repeat after a crash at any point of it.
pub fn publish(
    disk: &dyn Disk,
    part: &Part,
    to: &Path,
    size: u64,
    overwrite: bool,
) -> Result<Publish, LocalFault> {
    let is_ours = |found: Option<Fingerprint>| found.is_some_and(|file| file.ino == part.ino);
    let at_part = disk.inspect(&part.path).map_err(|error| local(&error))?;
    let at_target = disk.inspect(to).map_err(|error| local(&error))?;
    if is_ours(at_target) {
        // An interrupted link-and-unlink leaves both names.
        if is_ours(at_part) {
            disk.remove(&part.path).map_err(|error| local(&error))?;
        }
        sync_parent(disk, to).map_err(|error| local(&error))?;
        return Ok(Publish::Done);
    }
    if !is_ours(at_part) {
        return Err(LocalFault::PublishUnknown(format!(
            "neither {} nor {} is the file that was downloaded",
            part.path.display(),
            to.display()
        )));
    }
    let file = open_part(disk, part, size)?;
    file.set_len(size).map_err(|error| local(&error))?;
    file.make_ordinary().map_err(|error| local(&error))?;
    file.sync_all().map_err(|error| local(&error))?;
    let renamed = if overwrite { disk.rename(&part.path, to) } else { disk.rename_new(&part.path, to) };
    match renamed {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(Publish::Exists),
        Err(error) => return Err(local(&error)),
    }
    // The name is there; only its durability is open. Another attempt finds it so, and syncs again.
    sync_parent(disk, to).map_err(|error| transient(&error))?;
    Ok(Publish::Done)
}

/// The local files of a job, by name.
#[derive(Clone, Debug)]
pub struct Remains {
    /// The staging copy's path, for an upload.
    pub stage: Option<PathBuf>,
    /// The part file's path, for a download, and its identity once that is journaled.
    pub part: Option<(PathBuf, Option<u64>)>,
    /// The path of the job's secrets, if they go now.
    pub secrets: Option<PathBuf>,
}

/// Removes a job's local files.
pub fn free(disk: &dyn Disk, remains: &Remains) -> io::Result<()> {
    // The directory is synced also where nothing was found: an earlier attempt may have removed it and not
    // come as far as the sync, and a power cut would bring it back when nobody looks for it any more.
    if let Some(secrets) = &remains.secrets {
        remove_secrets(disk, secrets)?;
    }
    if let Some(stage) = &remains.stage {
        remove_if_there(disk, &temporary(stage))?;
        remove_if_there(disk, stage)?;
        sync_parent_if_there(disk, stage)?;
    }
    if let Some((path, identity)) = &remains.part {
        let found = disk.inspect(path)?;
        // A file of another inode under our name is not ours to delete.
        if found.is_some_and(|file| identity.is_none_or(|known| known == file.ino)) {
            remove_if_there(disk, path)?;
        }
        sync_parent_if_there(disk, path)?;
    }
    Ok(())
}

/// A directory that is gone has nothing in it that could come back; one that may not be read, or whose file
/// system knows no sync of directories, cannot be synced by anyone.
fn sync_parent_if_there(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    use io::ErrorKind::{InvalidInput, NotADirectory, NotFound, PermissionDenied, Unsupported};
    let hopeless = |error: &io::Error| {
        matches!(error.kind(), InvalidInput | NotADirectory | NotFound | PermissionDenied | Unsupported)
    };
    match sync_parent(disk, path) {
        Err(error) if hopeless(&error) => Ok(()),
        result => result,
    }
}

/// What the staging area keeps for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kept {
    /// Its snapshot.
    Copy,
    /// Its secrets.
    Secrets,
}

/// Removes what the staging area holds for jobs that need nothing there; says which number is the
/// highest it has seen.
pub fn sweep(
    disk: &dyn Disk,
    stage_dir: &Path,
    keep: impl Fn(u64, Kept) -> bool,
) -> io::Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    for path in disk.list(stage_dir)? {
        // Nothing is being copied at this moment: a temporary file is what a crash has left, or brought back.
        let is_temporary = path.extension().is_some_and(|extension| extension == "tmp");
        let kind = if path.extension().is_some_and(|extension| extension == SECRETS) {
            Kept::Secrets
        } else {
            Kept::Copy
        };
        let unneeded = number(&path).is_some_and(|job| is_temporary || !keep(job, kind));
        if unneeded && remove_if_there(disk, &path)? {
            removed.push(path);
        }
    }
    if !removed.is_empty() {
        disk.sync_dir(stage_dir)?;
    }
    Ok(removed)
}

/// The job number in a staging file's name; `None` for names that are not ours.
pub fn number(path: &Path) -> Option<u64> {
    let (number, extension) = path.file_name()?.to_str()?.split_once('.')?;
    let ours = number.len() == 16 && matches!(extension, "stage" | "tmp" | SECRETS);
    ours.then(|| u64::from_str_radix(number, 16).ok()).flatten()
}

fn remove_if_there(disk: &dyn Disk, path: &Path) -> io::Result<bool> {
    match disk.remove(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn sync_parent(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    disk.sync_dir(parent.unwrap_or(Path::new(".")))
}

/// Classifies a failure of one of our own files.
pub fn local(error: &io::Error) -> LocalFault {
    if is_no_space(error) || is_no_access(error) || is_passing(error) {
        transient(error)
    } else {
        LocalFault::Fatal(error.to_string())
    }
}

/// What is neither space nor rights may be better next time.
fn transient(error: &io::Error) -> LocalFault {
    if is_no_space(error) {
        LocalFault::NoSpace(error.to_string())
    } else if is_no_access(error) {
        LocalFault::NoAccess(format!("{error}; make it writable, then resume"))
    } else {
        LocalFault::Transient(error.to_string())
    }
}

#[cfg(test)]
mod tests;
