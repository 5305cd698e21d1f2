//! Looking at a session: journal and witness, staging area, part files, and what jobs themselves tell.
//!
//! | where | what is looked for |
//! |---|---|
//! | `journal/` | damage, a lost end, a newer version; exports that cannot be read |
//! | `stage/` | copies, temporary files and secrets that no job needs; those that a job needs and are not there; numbers above the journal's last |
//! | beside destinations | part files that are gone, short or not ours; those of jobs that have ended |
//! | jobs | remains at servers; jobs that hold still until somebody acts |
//!
//! Invariant: a stray that may be removed is one whose name holds a number below the journal's last
//! (staging area, which is ours alone) or number and token of a job that has ended (elsewhere).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use longhaul_journal::{Journal, Options, RowKey, Seq, VerifyReport, verify};

use super::{Report, Severity, files};
use crate::error::OpenError;
use crate::job::record::{read_archive, table};
use crate::job::step::{LocalFault, Transition};
use crate::job::{Direction, Job, JobId, Phase, SuspendCause};
use crate::os::disk::OsDisk;
use crate::os::home::{Home, Lock};
use crate::ports::Disk;
use crate::run::staging::{self, SnapshotSource};
use crate::session::{may_follow, replay};

const REPAIR: &str = "run `haul doctor --repair`: it moves the journal aside, deletes nothing, and restores what can be read; nothing was changed, sent or deleted so far";
const REMOVED: &str = "the next owner of the session removes it, and so does `haul doctor --repair`";

/// A session that was looked at, and is still locked.
pub struct Looked {
    /// Its directory.
    pub home: Home,
    /// What was found.
    pub report: Report,
    /// Files of ours that no job needs.
    pub strays: Vec<PathBuf>,
    /// What the journal's own check saw; `None` where there is no journal.
    pub verified: Option<VerifyReport>,
    /// Held until this is dropped; `None` where there is no session.
    pub lock: Option<Lock>,
}

/// Everything that a journal knows.
pub struct Known {
    /// The journal, open.
    pub journal: Journal<Transition>,
    /// Jobs that have not ended.
    pub live: BTreeMap<JobId, Job>,
    /// Jobs that have.
    pub ended: BTreeMap<JobId, Job>,
    /// Submitters' keys that are taken.
    pub keys: BTreeSet<Box<[u8]>>,
    /// The highest number ever given.
    pub last: JobId,
    /// The last record.
    pub reach: Seq,
    /// The last record of the last checkpoint.
    pub checkpoint: Seq,
    /// Ended jobs that cannot be read.
    pub unreadable: Vec<String>,
}

impl Known {
    /// Opens and replays the journal in `dir`. All that depends on how a session does that is in here.
    pub fn load(dir: &Path, options: Options) -> Result<Self, OpenError> {
        let mut opened = Journal::<Transition>::open(dir, options)?;
        let jobs = replay(&mut opened)?;
        let is_of = |row: &&longhaul_journal::Row, table| row.key.table() == table;
        let archive: Vec<_> = opened.rows.iter().filter(|row| is_of(row, table::ARCHIVE)).cloned().collect();
        let (mut ended, mut unreadable) = (BTreeMap::new(), Vec::new());
        for job in read_archive(&archive) {
            match job {
                Ok(job) if jobs.gone.contains(&job.id) => {}
                Ok(job) => drop(ended.insert(job.id, job)),
                Err(why) => unreadable.push(why),
            }
        }
        let mut keys: BTreeSet<Box<[u8]>> = opened
            .rows
            .iter()
            .filter_map(|row| match &row.key {
                RowKey::Name { table: table::KEY, name } => Some(name.clone()),
                RowKey::Name { .. } | RowKey::Number { .. } => None,
            })
            .collect();
        let (mut live, last) = (BTreeMap::new(), jobs.last);
        for (id, job) in jobs.map {
            keys.extend(job.spec.key.iter().map(|key| key.as_bytes().into()));
            if job.state().is_terminal() {
                ended.insert(id, job)
            } else {
                live.insert(id, job)
            };
        }
        let report = &opened.report;
        let (reach, checkpoint) = (report.last, report.checkpoint);
        Ok(Self { journal: opened.journal, live, ended, keys, last, reach, checkpoint, unreadable })
    }

    /// Closes the journal again.
    pub fn close(self) -> Result<(), OpenError> {
        self.journal.close_blocking().map_err(|error| OpenError::Journal(error.to_string()))
    }

    fn job(&self, id: JobId) -> Option<&Job> {
        self.live.get(&id).or_else(|| self.ended.get(&id))
    }
}

/// What a name in the staging area says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Staged {
    /// A job's copy.
    Copy(JobId),
    /// A copy that was not finished.
    Temporary(JobId),
    /// A job's secrets.
    Secrets(JobId),
}

impl Staged {
    /// Reads a name; `None` for names that are not ours.
    pub fn parse(path: &Path) -> Option<Self> {
        let (number, extension) = path.file_name()?.to_str()?.split_once('.')?;
        let is_plain = number.len() == 16 && number.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = JobId(u64::from_str_radix(number, 16).ok().filter(|_| is_plain)?);
        match extension {
            "stage" => Some(Self::Copy(id)),
            "tmp" | "secrets.tmp" => Some(Self::Temporary(id)),
            "secrets" => Some(Self::Secrets(id)),
            _ => None,
        }
    }

    /// The job's number.
    pub fn id(self) -> JobId {
        match self {
            Self::Copy(id) | Self::Temporary(id) | Self::Secrets(id) => id,
        }
    }

    /// Whether this job needs it, or could when it is tried again.
    pub fn is_needed_by(self, job: &Job) -> bool {
        let is_unfinished = !job.state().is_terminal();
        match self {
            Self::Copy(id) => id == job.id && is_unfinished && job.core.has_copy(),
            Self::Secrets(id) => id == job.id && job.spec.has_secrets && (is_unfinished || may_follow(job)),
            // Nothing is being copied while nobody owns the session.
            Self::Temporary(_) => false,
        }
    }
}

/// The number and the token in a part file's name; `None` for names that are not a part file's.
pub fn part_name(path: &Path) -> Option<(JobId, String)> {
    let name = path.file_name()?.to_string_lossy();
    let own = name.strip_prefix('.')?.strip_suffix(".haul")?;
    let (_, own) = own.rsplit_once('.')?;
    let (number, token) = own.split_once('-')?;
    let is_token = token.len() == 32 && token.bytes().all(|byte| byte.is_ascii_hexdigit());
    Some((number.parse().ok()?, is_token.then(|| token.to_owned())?))
}

/// Looks at the session in `dir`, and keeps it locked.
pub fn look(dir: &Path) -> Result<Looked, OpenError> {
    let mut report = Report::default();
    report.fact("session", dir.display());
    let home = Home { dir: dir.to_owned() };
    let mut looked = Looked { home, report, strays: Vec::new(), verified: None, lock: None };
    // A directory without either is no session: nothing is to be left in it, not even a lock.
    if !looked.home.journal().is_dir() && !looked.home.stage().is_dir() {
        looked.report.fact("journal", "none yet");
        return Ok(looked.closed());
    }
    looked.lock = Some(files::lock(&looked.home)?);
    if looked.home.journal().is_dir() {
        looked.journal()?;
    } else {
        looked.no_journal()?;
    }
    Ok(looked.closed())
}

impl Looked {
    fn closed(self) -> Self {
        Self { report: self.report.closed(), ..self }
    }

    fn damage(&mut self, text: impl Into<String>) {
        self.report.damaged = true;
        self.report.finding(Severity::Error, text, REPAIR);
    }

    /// Nothing was ever journaled, unless copies tell otherwise.
    fn no_journal(&mut self) -> Result<(), OpenError> {
        self.report.fact("journal", "none yet");
        let stage = self.home.stage();
        let copies = files::names(&stage).map_err(files::io(format!("list {}", stage.display())))?;
        if let Some(path) = copies.iter().find(|path| Staged::parse(path).is_some()) {
            self.damage(format!("{} belongs to a job, but the journal is gone", path.display()));
        }
        Ok(())
    }

    fn journal(&mut self) -> Result<(), OpenError> {
        use longhaul_journal::OpenError as Trouble;
        let mut verified = verify(&self.home.journal())?;
        self.tell_journal(&verified);
        let problem = verified.problem.take();
        self.verified = Some(verified);
        match problem {
            None => self.jobs(),
            Some(trouble @ (Trouble::Damaged { .. } | Trouble::LostTail { .. })) => {
                self.damage(trouble.to_string());
                Ok(())
            }
            // A disk that cannot read is no better than one that reads wrongly.
            Some(Trouble::Io { source, place, doing })
                if source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) =>
            {
                self.damage(format!("the journal in {place} cannot be read: {doing}: {source}"));
                Ok(())
            }
            Some(newer @ Trouble::NewerVersion { .. }) => {
                self.newer(newer.to_string());
                Ok(())
            }
            Some(other) => Err(other.into()),
        }
    }

    fn newer(&mut self, text: String) {
        (self.report.damaged, self.report.newer) = (true, true);
        self.report.finding(Severity::Error, text, "use that version; this one leaves the session as it is");
    }

    fn tell_journal(&mut self, verified: &VerifyReport) {
        let report = &mut self.report;
        if let Some(database) = &verified.database {
            report
                .fact("database", format!("{} ({} bytes on disk)", database.display(), verified.disk_bytes));
        }
        let (records, commits, bytes) = (verified.records, verified.commits, verified.log_bytes);
        report.fact("log", format!("{records} records in {commits} commits, {bytes} bytes"));
        report.fact("rows", verified.rows);
        match (&verified.reach, &verified.witness) {
            (Some(reach), Some(witness)) => {
                report.fact("reach", format!("{reach}; the witness: {witness}"));
            }
            (Some(reach), None) => report.fact("reach", format!("{reach}; there is no witness")),
            (None, Some(witness)) => report.fact("witness", witness),
            (None, None) => {}
        }
        report.fact("exports", verified.exports.len());
        for (path, state) in &verified.exports {
            if let Err(error) = state {
                let text = format!("the export {} cannot be read: {error}", path.display());
                report.finding(Severity::Warning, text, "the next checkpoint writes a new one");
            }
        }
    }

    /// The journal is sound: what it says, against what is there.
    fn jobs(&mut self) -> Result<(), OpenError> {
        let known = match Known::load(&self.home.journal(), Options::default()) {
            Ok(known) => known,
            Err(OpenError::Damaged { text }) => {
                self.damage(text);
                return Ok(());
            }
            Err(OpenError::NewerVersion { text }) => {
                self.newer(text);
                return Ok(());
            }
            Err(other) => return Err(other),
        };
        self.report.fact("verdict", "the journal is sound and reaches as far as its witness");
        self.report.fact("jobs", format!("{} unfinished, {} ended", known.live.len(), known.ended.len()));
        for why in &known.unreadable {
            self.report.finding(
                Severity::Warning,
                format!("a job that has ended cannot be shown: {why}"),
                "no other job is affected",
            );
        }
        let disk = OsDisk::default();
        self.staging(&disk, &known);
        for job in known.live.values() {
            self.job(&disk, job);
        }
        self.part_files(&disk, &known);
        for job in known.live.values().chain(known.ended.values()) {
            if let Some(left) = &job.core.leftover {
                let left = crate::protocol::wire::redact(left);
                self.report.finding(
                    Severity::Warning,
                    format!("job {} could not free its upload at the server: {left}", job.id),
                    "delete it there, or leave it to the server's expiry",
                );
            }
        }
        known.close()
    }

    fn staging(&mut self, disk: &dyn Disk, known: &Known) {
        let paths = match disk.list(&self.home.stage()) {
            Ok(paths) => paths,
            Err(error) => {
                let remedy = "make the staging area readable";
                return self.report.finding(Severity::Error, error.to_string(), remedy);
            }
        };
        self.report.fact("staging files", paths.len());
        for path in paths {
            let shown = path.display();
            let Some(staged) = Staged::parse(&path) else {
                self.report.finding(
                    Severity::Note,
                    format!("{shown} is not one of the engine's files"),
                    "it is left alone; remove it if you know it",
                );
                continue;
            };
            let (id, last) = (staged.id(), known.last);
            if id > last {
                self.damage(format!(
                    "{shown} belongs to a job later than the last in the journal ({last}): the journal has lost its end"
                ));
            } else if !known.job(id).is_some_and(|job| staged.is_needed_by(job)) {
                let what = match staged {
                    Staged::Copy(_) => "the staging copy",
                    Staged::Temporary(_) => "the unfinished staging copy",
                    Staged::Secrets(_) => "the file of secrets",
                };
                let text = format!("{shown} is {what} of job {id}, which does not need it any more");
                self.report.finding(Severity::Note, text, REMOVED);
                self.strays.push(path);
            }
        }
    }

    /// What a job that has not ended needs, and whether it holds still.
    fn job(&mut self, disk: &dyn Disk, job: &Job) {
        let id = job.id;
        let stage = self.home.stage();
        if job.spec.has_secrets && disk.open_read(&job.secrets_path(&stage)).is_err() {
            self.report.finding(
                Severity::Warning,
                format!(
                    "job {id} needs its file of secrets, {}, which cannot be read",
                    job.secrets_path(&stage).display()
                ),
                "put that file back, or cancel the job and submit it again",
            );
        }
        if let Err(fault) = needed_file(disk, job, &stage) {
            let (text, remedy) = match job.spec.direction() {
                Direction::Download => ("", "the download begins anew when the job goes on"),
                Direction::Upload => ("what it uploads: ", "the job fails when it goes on; submit it again"),
            };
            self.report.finding(Severity::Note, format!("job {id}: {text}{}", words(&fault)), remedy);
        }
        match &job.core.suspended {
            Some(cause @ SuspendCause::Restored) => self.report.finding(
                Severity::Warning,
                format!("job {id} holds still: {cause}"),
                format!("`haul resume {id}` asks the other side how far it is and goes on; `haul cancel {id}` ends it"),
            ),
            Some(cause @ SuspendCause::NoAccess(_)) => self.report.finding(
                Severity::Warning,
                format!("job {id} holds still: {cause}"),
                format!("change who may read or write there, then `haul resume {id}`"),
            ),
            // Ordinary: `haul ls` shows them.
            Some(
                SuspendCause::Requested
                | SuspendCause::NoSpace(_)
                | SuspendCause::Auth(_)
                | SuspendCause::Server { .. }
                | SuspendCause::DestinationExists(_)
                | SuspendCause::SourceAway(_),
            )
            | None => {}
        }
    }

    /// Part files beside the destinations of known jobs, whose own job is over or not known.
    fn part_files(&mut self, disk: &dyn Disk, known: &Known) {
        let jobs = || known.live.values().chain(known.ended.values());
        let downloads = jobs().filter(|job| job.spec.direction() == Direction::Download);
        let dirs: BTreeSet<PathBuf> = downloads
            .flat_map(|job| [Some(job.part_path()), job.core.part.as_ref().map(|part| part.path.clone())])
            .filter_map(|path| path?.parent().map(Path::to_owned))
            .collect();
        // A directory that cannot be read is its job's own trouble, and told there.
        let beside = dirs.iter().filter_map(|dir| disk.list(dir).ok()).flatten();
        for path in beside {
            let Some((id, token)) = part_name(&path) else { continue };
            let job = known.job(id).filter(|job| job.spec.token.to_string() == token);
            let shown = path.display();
            match job {
                Some(job) if !job.state().is_terminal() => {}
                Some(job) if is_still_ours(disk, job, &path) => {
                    let text = format!("{shown} is the part file of job {id}, which has ended");
                    self.report.finding(Severity::Note, text, "`haul doctor --repair` removes it");
                    self.strays.push(path);
                }
                Some(_) | None => self.report.finding(
                    Severity::Note,
                    format!("{shown} is a part file of no job of this session"),
                    "it is left alone: another session may need it; remove it if none does",
                ),
            }
        }
    }
}

fn is_still_ours(disk: &dyn Disk, job: &Job, path: &Path) -> bool {
    let found = disk.inspect(path).ok().flatten();
    let known = job.core.part.as_ref().map(|part| part.ino);
    found.is_some_and(|file| file.regular && known.is_none_or(|ino| ino == file.ino))
}

/// Whether what the job reads or continues is there as the journal says.
fn needed_file(disk: &dyn Disk, job: &Job, stage: &Path) -> Result<(), LocalFault> {
    let is_open = match &job.core.phase {
        Phase::Queued | Phase::Staging | Phase::Staged | Phase::Sending(_) => true,
        Phase::Publishing { .. } | Phase::Ending { .. } | Phase::Ended(_) => false,
    };
    if !is_open {
        return Ok(());
    }
    match (job.spec.direction(), &job.core.part, &job.core.snapshot) {
        (Direction::Download, Some(part), _) => staging::open_part(disk, part, job.core.done).map(drop),
        (Direction::Download, None, _) => Ok(()),
        (Direction::Upload, _, Some(snapshot)) => {
            let (source_path, stage_path) = (job.spec.path.clone(), job.stage_path(stage));
            let source = SnapshotSource { snapshot: snapshot.clone(), source_path, stage_path };
            staging::open_snapshot(disk, &source).map(drop)
        }
        (Direction::Upload, _, None) => {
            staging::open_source(disk, &job.spec.path, job.spec.source.as_ref()).map(drop)
        }
    }
}

/// A fault as people read it.
pub fn words(fault: &LocalFault) -> String {
    match fault {
        LocalFault::SourceChanged(why) => format!("the source changed: {why}"),
        LocalFault::SourceIo(why) => format!("the source cannot be read: {why}"),
        LocalFault::WrongChecksum { expected, got } => format!("expected {expected}, got {got}"),
        LocalFault::SourceAway(why) => format!("the source's file system is away: {why}"),
        LocalFault::NoSpace(why)
        | LocalFault::NoAccess(why)
        | LocalFault::PartLost(why)
        | LocalFault::Transient(why)
        | LocalFault::Fatal(why)
        | LocalFault::PublishUnknown(why) => why.clone(),
    }
}
