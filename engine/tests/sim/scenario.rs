//! What a seed asks for: jobs, what people do and when, and how often the process dies.
//!
//! Most seeds have a few jobs of every kind; one of [`CROWDS`] has hundreds of tiny ones, which are changed many at a
//! time, over a log that becomes rows all the time.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use longhaul::{Checksum, ChecksumAlgorithm, StageMode, Submission, UploadProtocol, WallMs};
use sha2::Digest as _;

use super::fault::Fault;
use super::flight::{Facts, Limits};
use super::get::Remote;
use super::put::{Kind, Slot};
use super::rng::{Content, Rng, freight};
use super::world::{End, World, lock};

/// Jobs that are submitted in one go.
pub const BATCH: u64 = 60;
/// Of a thousand seeds, so many have a crowd.
const CROWDS: u64 = 60;
/// Servers, as acts name them.
pub const HOSTS: [&str; 6] = ["tus.sim", "put.sim", "form.sim", "auto1.sim", "auto2.sim", "get.sim"];
const MIRRORS: [&str; 2] = ["http://m1.sim", "http://m2.sim"];

/// One job that is to be submitted. Its number is its place in the list, from 1.
#[derive(Clone, Debug)]
pub struct Plan {
    pub job: u64,
    pub size: u64,
    pub way: Way,
    pub wishes: Wishes,
    checksum: Option<Checksum>,
    attempts_max: u32,
}

#[derive(Clone, Debug)]
pub enum Way {
    Up {
        source: PathBuf,
        stage: StageMode,
        by: By,
    },
    /// `to` is the final file; `dir`: it was named by its directory alone.
    Down {
        to: PathBuf,
        dir: bool,
        overwrite: bool,
    },
}

/// How an upload travels, in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Tus,
    Put {
        /// Only if nothing is there.
        absent: bool,
        /// What the server says is believed where nobody may look.
        believes: bool,
    },
    Form {
        keyed: bool,
    },
    /// It is left open, and tus is spoken.
    AutoTus,
    /// It is left open, and tus is not spoken.
    AutoPut,
}

/// What else is asked for.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    pub key: Option<String>,
    pub group: Option<&'static str>,
    priority: u8,
    pub not_before: Option<WallMs>,
    pub deadline: Option<WallMs>,
    pub rate: Option<u64>,
    pub lanes: u16,
    pub secret: bool,
}

/// Something that people do, or that happens to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Submit,
    /// A batch of jobs, from this number on.
    SubmitMany,
    Suspend,
    Resume,
    Cancel,
    WriteSource,
    TruncateSource,
    DeleteSource,
    Replace,
    TakeDestination,
    /// The disk fills up, and is emptied later.
    Squeeze,
    Relax,
    TruncatePart,
    DeletePart,
    Shutdown,
    /// The wall clock is set.
    Jump,
    /// The machine sleeps for so many seconds.
    Leap,
    /// There is no way to one of [`HOSTS`], or to any.
    HostAway,
    HostsBack,
    /// A directory may not be written: 0 to 3, destination or staging, without rights or read-only.
    Lock,
    Unlock,
    SourceAway,
    SourceBack,
    PauseAll,
    ResumeAll,
    /// One of so many jobs.
    CancelSome,
    RetryAll,
    RemoveEnded,
    /// Lists, pages and counts are compared.
    Audit,
}

pub struct Scenario {
    pub plans: Vec<Plan>,
    /// When, what, to which job.
    pub acts: VecDeque<(Duration, Act, u64)>,
    pub quiet_at: Duration,
    pub limits: Limits,
    pub stage_budget: u64,
    /// Bytes of a piece on the wire, and the longest time it takes.
    pub piece: usize,
    pub piece_ms: u64,
    pub crashes_left: u64,
    /// Log bytes after which the engine makes a checkpoint.
    pub checkpoint_bytes: u64,
    pub is_crowd: bool,
    /// How long ended jobs are kept.
    pub retention: Duration,
}

impl Plan {
    pub fn host(&self) -> &'static str {
        match self.way {
            Way::Up { by: By::Tus, .. } => "tus.sim",
            Way::Up { by: By::Put { .. }, .. } => "put.sim",
            Way::Up { by: By::Form { .. }, .. } => "form.sim",
            Way::Up { by: By::AutoTus, .. } => "auto1.sim",
            Way::Up { by: By::AutoPut, .. } => "auto2.sim",
            Way::Down { .. } => "get.sim",
        }
    }

    pub fn url(&self) -> String {
        let name = if matches!(self.way, Way::Down { .. }) { "file.bin" } else { "" };
        format!("http://{}/{}/{name}", self.host(), self.job)
    }

    /// For people, and for counts.
    pub fn kind(&self) -> &'static str {
        match (&self.way, self.wishes.lanes > 1) {
            (Way::Up { by: By::Tus, .. }, false) => "tus",
            (Way::Up { by: By::Tus, .. }, true) => "tus in parts",
            (Way::Up { by: By::Put { .. }, .. }, _) => "put",
            (Way::Up { by: By::Form { keyed: false }, .. }, _) => "form",
            (Way::Up { by: By::Form { keyed: true }, .. }, _) => "form with key",
            (Way::Up { by: By::AutoTus, .. }, _) => "auto: tus",
            (Way::Up { by: By::AutoPut, .. }, _) => "auto: put",
            (Way::Down { .. }, false) => "get",
            (Way::Down { .. }, true) => "get in segments",
        }
    }

    pub fn submission(&self) -> Submission {
        let mut submission = match &self.way {
            Way::Up { source, stage, by } => {
                let submission = Submission::upload(source, self.url()).stage(*stage);
                match by {
                    By::Tus => submission.protocol(UploadProtocol::Tus),
                    By::Put { absent, believes } => {
                        let mut submission = submission.protocol(UploadProtocol::Put);
                        submission.http.verify = !believes;
                        if *absent { submission.only_if_absent() } else { submission }
                    }
                    By::Form { keyed } => {
                        let fields = vec![("album".to_owned(), "summer".to_owned())];
                        let mut submission = submission.form("file", fields);
                        submission.http.idempotent_post = *keyed;
                        submission
                    }
                    By::AutoTus | By::AutoPut => submission.protocol(UploadProtocol::Auto),
                }
            }
            Way::Down { to, dir, overwrite } => {
                let destination = if *dir { PathBuf::from("/dst") } else { to.clone() };
                let submission = Submission::download(self.url(), destination).overwrite(*overwrite);
                let mirrors = if self.wishes.lanes > 1 { MIRRORS.len() } else { 0 };
                let url = |host: &&str| format!("{host}/{}/file.bin", self.job);
                MIRRORS.iter().take(mirrors).map(url).fold(submission, Submission::mirror)
            }
        };
        let Wishes { key, group, priority, not_before, deadline, rate, lanes, secret: _ } = &self.wishes;
        submission.checksum.clone_from(&self.checksum);
        submission.key.clone_from(key);
        submission.group = group.map(ToOwned::to_owned);
        (submission.not_before, submission.deadline, submission.limit_rate) = (*not_before, *deadline, *rate);
        if let Some(secret) = self.secret() {
            submission = submission.secret_header("x-secret", secret);
        }
        submission.attempts_max(self.attempts_max).priority(*priority).parallel((*lanes).max(1))
    }

    pub fn is_checked(&self) -> bool {
        self.checksum.is_some()
    }

    /// What nobody but its server may see.
    pub fn secret(&self) -> Option<String> {
        self.wishes.secret.then(|| format!("canary-{}", self.job))
    }

    fn draw(world: &World, rng: &mut Rng, job: u64, named: &mut bool, is_crowd: bool) -> Self {
        let is_upload = rng.chance(600);
        let by = is_upload.then(|| By::draw(rng));
        let lanes = if !is_crowd && by.is_none_or(By::joins) && rng.chance(300) {
            rng.within(2, 4) as u16
        } else {
            1
        };
        let size = match () {
            () if is_crowd => rng.below(2500),
            () if lanes > 1 && rng.chance(700) => rng.within(2 << 20, 6 << 20),
            () => size(rng, lock(&world.tus).hashes()),
        };
        let key = rng.bits();
        let attempts_max = rng.pick(&[2, 4, 10, 10, 30]);
        let is_checked = size <= 1 << 20 && rng.chance(250);
        let mut content = None;
        let way = if let Some(mut by) = by {
            let source = PathBuf::from(format!("/src/{job}.bin"));
            content = Some(make_source(world, rng, &source, key, size));
            let stage = rng.pick(&[StageMode::Auto, StageMode::Auto, StageMode::Copy, StageMode::None]);
            let slot = Slot::draw(rng, size);
            if let By::Put { believes, .. } = &mut by {
                *believes &= slot.kind == Kind::Atomic;
            }
            lock(&world.puts).slots.insert(job, slot);
            Way::Up { source, stage, by }
        } else {
            // Only one can have the name that the server gives.
            let dir = !*named && rng.chance(200);
            *named |= dir;
            let name = dir.then_some("served.bin");
            let remote = Remote::draw(rng, key, size, name);
            let remote = if lanes > 1 { remote.mirrored(rng, MIRRORS.len() as u64) } else { remote };
            content = content.or(remote.versions().next().cloned());
            lock(&world.shelf).remotes.insert(job, remote);
            let to = name.map_or_else(|| format!("/dst/{job}.bin"), |name| format!("/dst/{name}"));
            Way::Down { to: PathBuf::from(to), dir, overwrite: rng.chance(250) }
        };
        let digest = content.filter(|_| is_checked).map(|content| sha2::Sha256::digest(&*content).to_vec());
        let checksum = digest.map(|digest| Checksum { algorithm: ChecksumAlgorithm::Sha256, digest });
        let wishes = Wishes::draw(world, rng, job, lanes, is_crowd);
        Self { job, size, way, wishes, checksum, attempts_max }
    }

    fn facts(&self) -> Facts {
        Facts {
            host: self.host(),
            upload: matches!(self.way, Way::Up { .. }),
            lanes: u64::from(self.wishes.lanes),
            rate: self.wishes.rate,
            not_before: self.wishes.not_before,
            secret: self.secret(),
            has_deadline: self.wishes.deadline.is_some(),
        }
    }
}

impl By {
    fn draw(rng: &mut Rng) -> Self {
        let put = Self::Put { absent: rng.chance(250), believes: rng.chance(300) };
        let form = Self::Form { keyed: rng.chance(500) };
        rng.pick(&[Self::Tus, Self::Tus, Self::Tus, put, put, form, Self::AutoTus, Self::AutoPut])
    }

    /// Whether it may go in parts.
    fn joins(self) -> bool {
        match self {
            Self::Tus | Self::AutoTus => true,
            Self::Put { .. } | Self::Form { .. } | Self::AutoPut => false,
        }
    }
}

impl Wishes {
    fn draw(world: &World, rng: &mut Rng, job: u64, lanes: u16, is_crowd: bool) -> Self {
        let start = world.true_wall().0;
        let far = if is_crowd { 7200 } else { 400 };
        let at = |rng: &mut Rng, low: u64| WallMs(start + 1000 * rng.within(low, far));
        Self {
            key: (is_crowd || rng.chance(300)).then(|| format!("key-{job}")),
            group: if is_crowd { Some(rng.pick(&["even", "odd"])) } else { rng.pick(&[None, Some("even")]) },
            priority: rng.below(10) as u8,
            not_before: rng.chance(100).then(|| at(rng, 0)),
            deadline: rng.chance(if is_crowd { 50 } else { 120 }).then(|| at(rng, 3)),
            rate: (!is_crowd && rng.chance(80)).then(|| rng.pick(&[150_000, 1_000_000])),
            lanes,
            secret: rng.chance(200),
        }
    }
}

fn size(rng: &mut Rng, hashes: bool) -> u64 {
    match rng.below(if hashes { 8 } else { 11 }) {
        0 => rng.pick(&[0, 1, 2]),
        1 => rng.within(3, 5000),
        2 => rng.pick(&[65_535, 65_536, 65_537, 262_144, 1_048_576, 1_048_577]),
        3..=5 => rng.within(5000, 300_000),
        6 | 7 => rng.within(300_000, 1 << 20),
        8 | 9 => rng.within(1 << 20, 4 << 20),
        _ => rng.within(4 << 20, 12 << 20),
    }
}

fn make_source(world: &World, rng: &mut Rng, path: &Path, key: u64, size: u64) -> Content {
    let mut bytes = freight(key, size as usize).to_vec();
    let hole = (rng.chance(200) && size > 20_000).then(|| size / 4..size / 2 + 4096);
    if let Some(hole) = &hole {
        bytes[hole.start as usize..hole.end as usize].fill(0);
    }
    let now = world.wall_ns() - 5_000_000_000;
    let content = Content::new(bytes);
    let mut fs = lock(&world.fs);
    let written = fs.user_writes(path, &content, now);
    assert!(written.is_ok(), "a new disk takes a source");
    if let Some(ino) = fs.find(path)
        && let Ok(inode) = fs.inode(ino)
    {
        inode.holes.extend(hole);
    }
    fs.guarded.insert(path.to_owned());
    content
}

impl Scenario {
    pub fn draw(world: &World) -> Self {
        let mut rng = world.rng(|rng| Rng::new(rng.bits()));
        let rng = &mut rng;
        let mut named = false;
        let is_crowd = rng.chance(CROWDS);
        let count = if is_crowd { rng.within(100, 400) } else { rng.within(1, 10) };
        let plans: Vec<Plan> =
            (1..=count).map(|job| Plan::draw(world, rng, job, &mut named, is_crowd)).collect();
        let quiet_s = if is_crowd { rng.within(600, 8000) } else { rng.within(20, 200) };
        let quiet_at = Duration::from_secs(quiet_s);
        let largest = plans.iter().map(|plan| plan.size).max().unwrap_or_default();
        let pieces = rng.pick(&[2, 10, 60, 400]);
        let piece = (largest / pieces).max(500) as usize;
        let checkpoint_bytes = if is_crowd {
            rng.pick(&[500, 5000, 20_000])
        } else {
            rng.pick(&[8 << 20, 8 << 20, 20_000, 5000, 500])
        };
        let few = |rng: &mut Rng| rng.pick(&[None, None, None, Some(1), Some(2)]);
        let limits = Limits {
            concurrent: rng.pick(&[1, 2, 4, 8]),
            per_host: few(rng),
            uploads: few(rng),
            downloads: few(rng),
            rate: (!is_crowd && rng.chance(80)).then(|| rng.pick(&[300_000, 2_000_000])),
        };
        lock(&world.flight).plan(limits, piece, plans.iter().map(|plan| (plan.job, plan.facts())).collect());
        let retention = Duration::from_secs(if is_crowd && rng.chance(200) { 1800 } else { 30 * 24 * 3600 });
        let mut acts = if is_crowd { crowd_acts(rng, count, quiet_at) } else { acts(rng, &plans, quiet_at) };
        // What a job was tried again as may be past knowing: then it would be tried once more.
        acts.retain(|(_, act, _)| *act != Act::RetryAll || retention.as_secs() > 1800);
        Self {
            acts,
            quiet_at,
            limits,
            stage_budget: rng.pick(&[0, 100_000, 1 << 20, 1 << 30]),
            piece,
            piece_ms: rng.pick(&[2, 40, 200, 1500]),
            crashes_left: rng.pick(&[0, 2, 4, 8, 12]),
            checkpoint_bytes,
            is_crowd,
            retention,
            plans,
        }
    }

    pub fn plan(&self, job: u64) -> &Plan {
        &self.plans[job as usize - 1]
    }

    /// While nothing runs, nothing of the plan happens.
    pub fn postpone(&mut self, pause: Duration) {
        self.quiet_at += pause;
        for (at, ..) in &mut self.acts {
            *at += pause;
        }
    }

    /// A submission without an answer, and without a job, is made again.
    pub fn repeat(&mut self, job: u64, now: Duration) {
        let (act, of) =
            if self.is_crowd { (Act::SubmitMany, (job - 1) / BATCH * BATCH + 1) } else { (Act::Submit, job) };
        if !self.acts.iter().any(|&(_, also, same)| (also, same) == (act, of)) {
            self.acts.push_front((now, act, of));
        }
    }

    /// How and when the next life ends before its time, in acts of its own.
    pub fn fuse(&mut self, world: &World) -> Option<(u64, End)> {
        if self.crashes_left == 0 || world.is_quiet() {
            return None;
        }
        self.crashes_left -= 1;
        let more = if self.is_crowd { 20 } else { 1 };
        world.rng(|rng| {
            let reach = rng.pick(&[10, 40, 150, 600, 3000]) * more;
            Some((rng.below(reach), rng.pick(&[End::Kill, End::Cut])))
        })
    }
}

type Acts = Vec<(Duration, Act, u64)>;

/// Things that happen to the machine, in two acts each.
fn weather(rng: &mut Rng, acts: &mut Acts, quiet_ms: u64, often: u64) {
    let pairs = [
        (Act::Squeeze, Act::Relax, 250),
        (Act::HostAway, Act::HostsBack, 150),
        (Act::Lock, Act::Unlock, 150),
        (Act::SourceAway, Act::SourceBack, 120),
    ];
    for (begins, ends, per_mille) in pairs {
        if !rng.chance(per_mille * often) {
            continue;
        }
        let when = rng.below(quiet_ms / 2);
        let longest = if begins == Act::HostAway { quiet_ms / 2 } else { quiet_ms.min(30_000 * often) };
        let of = if begins == Act::HostAway { rng.below(HOSTS.len() as u64 * 2) } else { rng.below(4) };
        acts.push((Duration::from_millis(when), begins, of));
        acts.push((Duration::from_millis(when + rng.below(longest)), ends, 0));
    }
    for (act, per_mille) in [(Act::Shutdown, 200), (Act::Jump, 150), (Act::Leap, 60), (Act::Audit, 200)] {
        if rng.chance(per_mille * often) {
            acts.push((Duration::from_millis(rng.below(quiet_ms)), act, rng.within(60, 20_000)));
        }
    }
}

fn crowd_acts(rng: &mut Rng, count: u64, quiet_at: Duration) -> VecDeque<(Duration, Act, u64)> {
    let mut acts = Acts::new();
    let quiet_ms = quiet_at.as_millis() as u64;
    let span_ms = rng.pick(&[1, quiet_ms / 4]);
    for first in (1..=count).step_by(BATCH as usize) {
        acts.push((Duration::from_millis(rng.below(span_ms)), Act::SubmitMany, first));
        // Again, by their keys.
        if rng.chance(300) {
            acts.push((Duration::from_millis(rng.below(quiet_ms)), Act::SubmitMany, first));
        }
    }
    let bulk = [
        Act::PauseAll,
        Act::ResumeAll,
        Act::CancelSome,
        Act::RetryAll,
        Act::RetryAll,
        Act::RemoveEnded,
        Act::Audit,
        Act::Audit,
    ];
    for _ in 0..rng.within(2, 14) {
        let when = rng.below(quiet_ms);
        let act = rng.pick(&bulk);
        acts.push((Duration::from_millis(when), act, rng.below(12)));
        if act == Act::PauseAll {
            acts.push((Duration::from_millis(when + rng.below(60_000)), Act::Audit, 0));
            acts.push((Duration::from_millis(when + 60_000 + rng.below(60_000)), Act::ResumeAll, 0));
        }
    }
    weather(rng, &mut acts, quiet_ms, 3);
    acts.sort_by_key(|(at, ..)| *at);
    acts.into()
}

fn acts(rng: &mut Rng, plans: &[Plan], quiet_at: Duration) -> VecDeque<(Duration, Act, u64)> {
    let mut acts = Acts::new();
    let quiet_ms = quiet_at.as_millis() as u64;
    for plan in plans {
        // Half of them at once: the throttles have something to do.
        let at = if rng.chance(500) { 0 } else { rng.below(quiet_ms / 3) };
        let at_random = |rng: &mut Rng| Duration::from_millis(at + rng.below((quiet_ms - at).min(30_000)));
        acts.push((Duration::from_millis(at), Act::Submit, plan.job));
        if plan.wishes.key.is_some() && rng.chance(300) {
            acts.push((at_random(rng), Act::Submit, plan.job));
        }
        for _ in 0..rng.pick(&[0, 0, 0, 1, 2]) {
            let when = at_random(rng);
            acts.push((when, Act::Suspend, plan.job));
            if rng.chance(800) {
                let later = Duration::from_millis(rng.below(20_000));
                acts.push((when + later, Act::Resume, plan.job));
            }
        }
        if rng.chance(150) {
            acts.push((at_random(rng), Act::Cancel, plan.job));
        }
        match plan.way {
            Way::Up { .. } if rng.chance(300) => {
                let act =
                    rng.pick(&[Act::WriteSource, Act::WriteSource, Act::TruncateSource, Act::DeleteSource]);
                acts.push((at_random(rng), act, plan.job));
            }
            Way::Down { .. } if rng.chance(700) => {
                let choices =
                    [Act::Replace, Act::Replace, Act::TakeDestination, Act::TruncatePart, Act::DeletePart];
                let act = rng.pick(&choices);
                acts.push((at_random(rng), act, plan.job));
            }
            Way::Up { .. } | Way::Down { .. } => {}
        }
    }
    weather(rng, &mut acts, quiet_ms, 1);
    for act in [Act::RetryAll, Act::RemoveEnded] {
        if rng.chance(150) {
            acts.push((Duration::from_millis(rng.within(quiet_ms / 2, quiet_ms)), act, 0));
        }
    }
    acts.sort_by_key(|(at, ..)| *at);
    acts.into()
}

impl Act {
    /// The kind of trouble it is, where it is one.
    pub fn fault(self) -> Option<Fault> {
        match self {
            Self::WriteSource => Some(Fault::SourceWritten),
            Self::Replace => Some(Fault::RemoteReplaced),
            Self::Shutdown => Some(Fault::Shutdown),
            _ => None,
        }
    }

    /// Whether it is done also when all is quiet.
    pub fn is_due(self) -> bool {
        matches!(self, Self::Submit | Self::SubmitMany)
    }
}
