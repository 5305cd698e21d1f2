//! The end of a seed: every job ended for a reason, nothing left behind, no object twice.

use std::collections::BTreeMap;
use std::path::Path;

use longhaul::{JobState, JobView};

use super::fault::Fault;
use super::oracle::{Known, Oracle, Stage, planned};
use super::put::{Kind, Looks};
use super::scenario::{By, Way};
use super::world::{World, lock};

/// What a failure can be blamed on; a failure without any of them is a bug.
fn excuses(kind: &str, upload: bool) -> &'static [Fault] {
    match (kind, upload) {
        ("source-changed" | "checksum-mismatch", true) => {
            &[Fault::SourceWritten, Fault::SourceRaced, Fault::SourceTruncated, Fault::SourceDeleted]
        }
        ("source-io", true) => &[Fault::ReadError],
        ("outcome-unknown", false) => &[Fault::PartDeleted, Fault::PartTruncated, Fault::NameError],
        ("checksum-mismatch" | "remote-changed", false) => &[Fault::RemoteReplaced, Fault::OddMirror],
        ("local-io", _) => {
            &[Fault::NameError, Fault::SyncError, Fault::WriteError, Fault::ReadError, Fault::SecretsError]
        }
        _ => &[],
    }
}

/// What an upload's server can be blamed for.
fn server_excuses(world: &World, known: &Known, by: By, kind: &str) -> bool {
    let any = |faults: &[Fault]| world.tally(|tally| tally.any(faults));
    match (by, kind) {
        (By::Tus | By::AutoTus, "expired" | "outcome-unknown") => {
            lock(&world.tus).forgets() || any(&[Fault::SessionLost])
        }
        (By::Tus | By::AutoTus, "protocol") => any(&[Fault::LostConfirmed]),
        (By::Put { .. } | By::AutoPut, _) => {
            let puts = lock(&world.puts);
            let slot = &puts.slots[&known.plan.job];
            let conditional = matches!(by, By::Put { absent: true, .. });
            match kind {
                "rejected" => conditional && (slot.taken || known.again || any(&[Fault::Duplicate])),
                "protocol" => slot.kind == Kind::Forgetful || slot.hops > 5,
                "outcome-unknown" => !slot.is_plain() || known.again || conditional,
                _ => false,
            }
        }
        (By::Form { keyed: false }, "outcome-unknown") => {
            known.resumes > 0 || world.tally(|tally| !tally.faults.is_empty())
        }
        (By::Form { keyed: false }, "rejected") => any(&[Fault::Status500]),
        (By::Form { .. } | By::Tus | By::AutoTus, _) => false,
    }
}

impl Oracle {
    /// Everything that can be said when all jobs have ended.
    pub fn judge(&mut self, world: &World, views: &[JobView], forgets: bool) {
        for view in views {
            self.seen(world, view);
        }
        lock(&world.tus).settle(world.now());
        let views_of: BTreeMap<u64, &JobView> = views.iter().map(|view| (planned(view), view)).collect();
        for known in self.known.values() {
            let view = views_of.get(&known.plan.job).copied();
            match (known.stage, view) {
                (Stage::Accepted(id), Some(view)) if view.id == id => judge_job(world, known, view),
                (Stage::Accepted(_), None) if forgets => {}
                (Stage::Refused, None) => {}
                (Stage::Spoilt, view) => {
                    if let Some(view) = view.filter(|view| view.state != JobState::Failed) {
                        world.violate(format!("job {} was refused, and is {}", view.id, view.state));
                    }
                }
                (Stage::Removed, view) if view.is_none_or(|view| known.past.contains_key(&view.id)) => {}
                (stage, view) => world.violate(format!("job {} is {stage:?} and {view:?}", known.plan.job)),
            }
            if let Way::Down { to, .. } = &known.plan.way {
                super::user::clear_destination(world, to);
            }
        }
        nothing_left(world, Path::new("/state/stage"), "stage");
        nothing_left(world, Path::new("/state/stage"), "tmp");
        nothing_left(world, Path::new("/dst"), "haul");
    }
}

fn nothing_left(world: &World, dir: &Path, extension: &str) {
    let files = lock(&world.fs).list(dir).unwrap_or_default();
    for path in files {
        if path.extension().is_some_and(|end| end == extension) {
            world.violate(format!("{} is left behind", path.display()));
        }
    }
}

fn judge_job(world: &World, known: &Known, view: &JobView) {
    let kind = view.cause.as_ref().map_or("", |cause| cause.kind.as_str());
    let name =
        if view.state == JobState::Failed { format!("failed({kind})") } else { view.state.to_string() };
    world.tally(|tally| {
        tally.see(format!("{} {}", known.plan.kind(), view.state));
        *tally.ends.entry(name).or_default() += 1;
        if view.state == JobState::Completed {
            tally.see(format!("completed by {}", view.protocol));
        }
    });
    if !view.state.is_terminal() {
        world.violate(format!("I16: job {} is still {}", view.id, view.state));
    }
    if view.state == JobState::Failed && !is_excused(world, known, kind) {
        world.violate(format!("job {} failed without a reason: {:?}", view.id, view.cause));
    }
    if known.cancel_answered && kind != "cancelled" {
        world.violate(format!("R14: job {} was cancelled, and is {} ({kind})", view.id, view.state));
    }
    judge_attempts(world, known, view);
    match known.plan.way {
        Way::Up { by: By::Tus | By::AutoTus, .. } => judge_tus(world, known, view, kind),
        Way::Up { by: by @ (By::Put { .. } | By::AutoPut), .. } => judge_put(world, known, view, by),
        Way::Up { by: By::Form { .. }, .. } => judge_form(world, known, view, kind),
        Way::Down { .. } => {}
    }
}

fn is_excused(world: &World, known: &Known, kind: &str) -> bool {
    let cancelled = kind == "cancelled" && known.cancel_asked;
    let late = kind == "deadline" && known.plan.wishes.deadline.is_some_and(|at| at <= world.wall_peak());
    let by = match known.plan.way {
        Way::Up { by, .. } => Some(by),
        Way::Down { .. } => None,
    };
    let spoiled = kind != "checksum-mismatch" || known.plan.is_checked();
    let blamed = spoiled && world.tally(|tally| tally.any(excuses(kind, by.is_some())));
    let full = [Fault::NoSpace, Fault::NoAccess, Fault::ReadOnly];
    let unkept = kind == "local-io" && known.plan.wishes.secret && world.tally(|tally| tally.any(&full));
    cancelled || late || blamed || unkept || by.is_some_and(|by| server_excuses(world, known, by, kind))
}

/// No attempt is counted that neither a server nor a disk has failed.
fn judge_attempts(world: &World, known: &Known, view: &JobView) {
    let asked = lock(&world.flight).asked.get(&known.plan.job).copied().unwrap_or(0);
    let local = [
        Fault::NameError,
        Fault::WriteError,
        Fault::ReadError,
        Fault::SyncError,
        Fault::NoAccess,
        Fault::ReadOnly,
        Fault::NoSpace,
        Fault::PartDeleted,
        Fault::PartTruncated,
    ];
    let faults: u64 = world.tally(|tally| local.iter().map(|fault| tally.count(*fault)).sum());
    if u64::from(view.attempts) > asked + faults {
        world.violate(format!(
            "job {} counts {} failed attempts, with {asked} requests that had a way and {faults} local faults",
            view.id, view.attempts
        ));
    }
}

fn judge_put(world: &World, known: &Known, view: &JobView, by: By) {
    let puts = lock(&world.puts);
    let slot = &puts.slots[&known.plan.job];
    let believes = matches!(by, By::Put { believes: true, .. });
    let stored = slot.kind != Kind::Forgetful;
    let shown = slot.looks != Looks::Nobody || believes;
    drop(puts);
    if view.state == JobState::Completed && !(stored && shown) {
        world.violate(format!(
            "I9: job {} is completed, and nothing can have shown it: {:?}",
            view.id, view.evidence
        ));
    }
}

fn judge_form(world: &World, known: &Known, view: &JobView, kind: &str) {
    let forms = lock(&world.forms);
    let accepted = forms.accepted.get(&known.plan.job).map(Vec::as_slice).unwrap_or_default();
    let twice = accepted
        .iter()
        .enumerate()
        .any(|(at, (one, _))| accepted[..at].iter().any(|(other, _)| one == other));
    let count = accepted.len();
    drop(forms);
    if twice {
        world.violate(format!("I2: job {} was accepted twice as a form", view.id));
    }
    let may_be = matches!(kind, "outcome-unknown" | "cancelled" | "deadline" | "local-io" | "source-io");
    let by_key = matches!(known.plan.way, Way::Up { by: By::Form { keyed: true }, .. });
    if view.state == JobState::Failed && count > 0 && !known.again && !may_be && !by_key {
        world.violate(format!("job {} failed ({kind}), and its form was accepted", view.id));
    }
}

fn judge_tus(world: &World, known: &Known, view: &JobView, kind: &str) {
    let job = known.plan.job;
    let tus = lock(&world.tus);
    let objects = tus.objects.iter().filter(|object| object.job == job);
    let joined = objects.clone().any(|object| object.joined);
    let (all, standing) = (objects.clone().count(), objects.filter(|object| !object.withdrawn).count());
    // An empty file is whole when it is created, and tus has no way to tell two creations apart.
    let empty = known.plan.size == 0;
    let mut wrongs = Vec::new();
    let evidence = view.evidence.as_deref().unwrap_or_default();
    let cause = view.cause.as_ref().map_or("", |cause| cause.text.as_str());
    // To join is not idempotent: what a lost answer may have made is told.
    let told = view.state == JobState::Failed || evidence.contains("lost final");
    let doubled = world.tally(|tally| tally.count(Fault::Duplicate)) > 0;
    if all > 1 && !empty && !known.again && !(joined && (told || doubled)) {
        wrongs.push(format!("I2: job {job} made {all} objects ({evidence:?})"));
    }
    let may_stand = kind == "outcome-unknown" || view.leftover.is_some() || tus.forgets() || empty;
    if view.state == JobState::Failed && standing > 0 && !may_stand && !joined && !known.again {
        wrongs.push(format!("job {job} failed ({kind}), and an object stands at the server"));
    }
    let unfinished =
        || tus.uploads.iter().filter(|(_, upload)| upload.job == job && (!upload.complete || upload.partial));
    for (id, _) in unfinished().filter(|(_, upload)| upload.known) {
        let path = format!("/{job}/{id}");
        let named = view.leftover.as_ref().is_some_and(|leftover| leftover.ends_with(&path));
        // Of several the first is named.
        let counted = known.plan.wishes.lanes > 1
            && (view.leftover.is_some() || evidence.contains("left") || cause.contains("left"));
        let lost = kind == "outcome-unknown" || named_orphans(evidence) > 0;
        if !(named || counted || lost && known.plan.wishes.lanes > 1 || known.again) {
            wrongs.push(format!(
                "job {job} ({}) has left {path} at the server and does not say so",
                view.state
            ));
        }
    }
    let orphans = unfinished().filter(|(_, upload)| !upload.known).count();
    let named = view.evidence.as_deref().map_or(usize::MAX, named_orphans);
    drop(tus);
    if orphans > named && !doubled && !known.again {
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
