//! The end of a seed: every job ended for a reason, nothing left behind, no object twice.

use std::path::Path;

use longhaul::{JobState, JobView};

use super::fault::Fault;
use super::oracle::{Known, Oracle, Stage, planned};
use super::scenario::Way;
use super::world::{World, lock};

/// What a failure can be blamed on; a failure without any of them is a bug.
fn excuses(kind: &str, upload: bool) -> &'static [Fault] {
    match (kind, upload) {
        ("source-changed" | "checksum-mismatch", true) => {
            &[Fault::SourceWritten, Fault::SourceRaced, Fault::SourceTruncated, Fault::SourceDeleted]
        }
        ("source-io", true) => &[Fault::ReadError],
        ("outcome-unknown" | "expired", true) => &[Fault::SessionLost],
        ("outcome-unknown", false) => &[Fault::PartDeleted, Fault::PartTruncated, Fault::NameError],
        ("protocol", true) => &[Fault::LostConfirmed],
        ("checksum-mismatch" | "remote-changed", false) => &[Fault::RemoteReplaced],
        ("local-io", _) => &[Fault::NameError, Fault::SyncError, Fault::WriteError, Fault::ReadError],
        _ => &[],
    }
}

impl Oracle {
    /// Everything that can be said when all jobs have ended.
    pub fn judge(&mut self, world: &World, views: &[JobView]) {
        for view in views {
            self.seen(world, view);
        }
        lock(&world.tus).settle(world.now());
        for known in self.known.values() {
            let view = views.iter().find(|view| planned(view) == known.plan.job);
            match (known.stage, view) {
                (Stage::Accepted(_), Some(view)) => judge_job(world, known, view),
                (Stage::Refused, None) => {}
                (stage, view) => world.violate(format!("job {} is {stage:?} and {view:?}", known.plan.job)),
            }
            if let Way::Down { to, .. } = &known.plan.way {
                super::user::clear_destination(world, to);
            }
        }
        nothing_left(world, Path::new("/state/stage"), "");
        nothing_left(world, Path::new("/dst"), "haul");
    }
}

fn nothing_left(world: &World, dir: &Path, extension: &str) {
    let files = lock(&world.fs).list(dir).unwrap_or_default();
    for path in files {
        if extension.is_empty() || path.extension().is_some_and(|end| end == extension) {
            world.violate(format!("{} is left behind", path.display()));
        }
    }
}

fn judge_job(world: &World, known: &Known, view: &JobView) {
    let upload = matches!(known.plan.way, Way::Up { .. });
    let kind = view.cause.as_ref().map_or("", |cause| cause.kind.as_str());
    let name =
        if view.state == JobState::Failed { format!("failed({kind})") } else { view.state.to_string() };
    world.tally(|tally| *tally.ends.entry(name).or_default() += 1);
    if !view.state.is_terminal() {
        world.violate(format!("I16: job {} is still {}", view.id, view.state));
    }
    if view.state == JobState::Failed {
        let expires = upload && matches!(kind, "expired" | "outcome-unknown") && lock(&world.tus).forgets();
        let cancelled = kind == "cancelled" && known.cancel_asked;
        let spoiled = kind != "checksum-mismatch" || known.plan.is_checked();
        let blamed = spoiled && world.tally(|tally| tally.any(excuses(kind, upload)));
        if !(expires || cancelled || blamed) {
            world.violate(format!("job {} failed without a reason: {:?}", view.id, view.cause));
        }
    }
    if known.cancel_answered && kind != "cancelled" {
        world.violate(format!("R14: job {} was cancelled, and is {} ({kind})", view.id, view.state));
    }
    if upload {
        judge_upload(world, known, view, kind);
    }
}

fn judge_upload(world: &World, known: &Known, view: &JobView, kind: &str) {
    let job = known.plan.job;
    let tus = lock(&world.tus);
    let objects = tus.objects.iter().filter(|object| object.job == job);
    let (all, standing) = (objects.clone().count(), objects.filter(|object| !object.withdrawn).count());
    // An empty file is whole when it is created, and tus has no way to tell two creations apart.
    let empty = known.plan.size == 0;
    let mut wrongs = Vec::new();
    if all > 1 && !empty {
        wrongs.push(format!("I2: job {job} made {all} objects"));
    }
    let may_stand = kind == "outcome-unknown" || view.leftover.is_some() || tus.forgets() || empty;
    if view.state == JobState::Failed && standing > 0 && !may_stand {
        wrongs.push(format!("job {job} failed ({kind}), and an object stands at the server"));
    }
    let unfinished = || tus.uploads.iter().filter(|(_, upload)| upload.job == job && !upload.complete);
    for (id, _) in unfinished().filter(|(_, upload)| upload.known) {
        let path = format!("/{job}/{id}");
        if !view.leftover.as_ref().is_some_and(|leftover| leftover.ends_with(&path)) {
            wrongs.push(format!(
                "job {job} ({}) has left {path} at the server and does not say so",
                view.state
            ));
        }
    }
    let orphans = unfinished().filter(|(_, upload)| !upload.known).count();
    let named = view.evidence.as_deref().map_or(usize::MAX, named_orphans);
    drop(tus);
    if orphans > named && world.tally(|tally| tally.count(Fault::Duplicate)) == 0 {
        wrongs.push(format!("job {job} names {named} lost creations, the server has {orphans}"));
    }
    for wrong in wrongs {
        world.violate(wrong);
    }
}

/// The number in `…; 2 lost creation(s) may have left an unfinished upload`.
fn named_orphans(evidence: &str) -> usize {
    let Some((before, _)) = evidence.split_once(" lost creation(s)") else { return 0 };
    before.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}
