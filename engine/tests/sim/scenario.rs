//! What a seed asks for: jobs, what people do and when, and how often the process dies.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use longhaul::{Checksum, ChecksumAlgorithm, StageMode, Submission, UploadProtocol};
use sha2::Digest as _;

use super::fault::Fault;
use super::get::Remote;
use super::rng::{Content, Rng, freight};
use super::world::{End, World, lock};

/// One job that is to be submitted. Its number is its place in the list, from 1.
#[derive(Clone, Debug)]
pub struct Plan {
    pub job: u64,
    pub size: u64,
    pub way: Way,
    checksum: Option<Checksum>,
    attempts_max: u32,
}

#[derive(Clone, Debug)]
pub enum Way {
    Up {
        source: PathBuf,
        stage: StageMode,
    },
    /// `to` is the final file; `dir`: it was named by its directory alone.
    Down {
        to: PathBuf,
        dir: bool,
        overwrite: bool,
    },
}

/// Something that people do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Submit,
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
}

pub struct Scenario {
    pub plans: Vec<Plan>,
    /// When, what, to which job.
    pub acts: VecDeque<(Duration, Act, u64)>,
    pub quiet_at: Duration,
    pub concurrent: usize,
    pub stage_budget: u64,
    /// Bytes of a piece on the wire, and the longest time it takes.
    pub piece: usize,
    pub piece_ms: u64,
    pub crashes_left: u64,
    /// Log bytes after which the engine makes a checkpoint.
    pub checkpoint_bytes: u64,
}

impl Plan {
    pub fn url(&self) -> String {
        match self.way {
            Way::Up { .. } => format!("http://tus.sim/{}/", self.job),
            Way::Down { .. } => format!("http://get.sim/{}/file.bin", self.job),
        }
    }

    pub fn submission(&self) -> Submission {
        let mut submission = match &self.way {
            Way::Up { source, stage } => {
                Submission::upload(source, self.url()).stage(*stage).protocol(UploadProtocol::Tus)
            }
            Way::Down { to, dir, overwrite } => {
                let destination = if *dir { PathBuf::from("/dst") } else { to.clone() };
                Submission::download(self.url(), destination).overwrite(*overwrite)
            }
        };
        submission.checksum.clone_from(&self.checksum);
        submission.attempts_max(self.attempts_max)
    }

    pub fn is_checked(&self) -> bool {
        self.checksum.is_some()
    }

    fn draw(world: &World, rng: &mut Rng, job: u64, named: &mut bool) -> Self {
        let size = size(rng, lock(&world.tus).hashes());
        let key = rng.bits();
        let attempts_max = rng.pick(&[2, 4, 10, 10, 30]);
        let is_checked = size <= 1 << 20 && rng.chance(250);
        let mut content = None;
        let way = if rng.chance(500) {
            let source = PathBuf::from(format!("/src/{job}.bin"));
            content = Some(make_source(world, rng, &source, key, size));
            let stage = rng.pick(&[StageMode::Auto, StageMode::Auto, StageMode::Copy, StageMode::None]);
            Way::Up { source, stage }
        } else {
            // Only one can have the name that the server gives.
            let dir = !*named && rng.chance(200);
            *named |= dir;
            let name = dir.then_some("served.bin");
            let remote = Remote::draw(rng, key, size, name);
            content = content.or(remote.versions().next().cloned());
            lock(&world.shelf).remotes.insert(job, remote);
            let to = name.map_or_else(|| format!("/dst/{job}.bin"), |name| format!("/dst/{name}"));
            Way::Down { to: PathBuf::from(to), dir, overwrite: rng.chance(250) }
        };
        let digest = content.filter(|_| is_checked).map(|content| sha2::Sha256::digest(&*content).to_vec());
        let checksum = digest.map(|digest| Checksum { algorithm: ChecksumAlgorithm::Sha256, digest });
        Self { job, size, way, checksum, attempts_max }
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
        let plans: Vec<Plan> =
            (1..=rng.within(1, 10)).map(|job| Plan::draw(world, rng, job, &mut named)).collect();
        let quiet_at = Duration::from_secs(rng.within(20, 200));
        let largest = plans.iter().map(|plan| plan.size).max().unwrap_or_default();
        let pieces = rng.pick(&[2, 10, 60, 400]);
        Self {
            acts: acts(rng, &plans, quiet_at),
            quiet_at,
            concurrent: rng.pick(&[1, 2, 4, 8]),
            stage_budget: rng.pick(&[0, 100_000, 1 << 20, 1 << 30]),
            piece: (largest / pieces).max(500) as usize,
            piece_ms: rng.pick(&[2, 40, 200, 1500]),
            crashes_left: rng.pick(&[0, 2, 4, 8, 12]),
            checkpoint_bytes: rng.pick(&[8 << 20, 8 << 20, 20_000, 5000, 500]),
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
        let waits = self.acts.iter().any(|&(_, act, of)| (act, of) == (Act::Submit, job));
        if !waits {
            self.acts.push_front((now, Act::Submit, job));
        }
    }

    /// How and when the next life ends before its time, in acts of its own.
    pub fn fuse(&mut self, world: &World) -> Option<(u64, End)> {
        if self.crashes_left == 0 || world.is_quiet() {
            return None;
        }
        self.crashes_left -= 1;
        world.rng(|rng| {
            let reach = rng.pick(&[10, 40, 150, 600, 3000]);
            Some((rng.below(reach), rng.pick(&[End::Kill, End::Cut])))
        })
    }
}

fn acts(rng: &mut Rng, plans: &[Plan], quiet_at: Duration) -> VecDeque<(Duration, Act, u64)> {
    let mut acts = Vec::new();
    let quiet_ms = quiet_at.as_millis() as u64;
    for plan in plans {
        // Half of them at once: the throttles have something to do.
        let at = if rng.chance(500) { 0 } else { rng.below(quiet_ms / 3) };
        let at_random = |rng: &mut Rng| Duration::from_millis(at + rng.below((quiet_ms - at).min(30_000)));
        acts.push((Duration::from_millis(at), Act::Submit, plan.job));
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
    if rng.chance(250) {
        let when = Duration::from_millis(rng.below(quiet_ms / 2));
        acts.push((when, Act::Squeeze, 0));
        acts.push((when + Duration::from_millis(rng.below(30_000)), Act::Relax, 0));
    }
    if rng.chance(200) {
        acts.push((Duration::from_millis(rng.below(quiet_ms)), Act::Shutdown, 0));
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
}
