//! What a job holds, at its server and on the disk: compared with what it says.

use std::path::{Path, PathBuf};

use longhaul::{JobState, JobView};

use super::fault::Fault;
use super::oracle::Known;
use super::rng::Content;
use super::scenario::By;
use super::world::{World, lock};

/// What the server has of a job.
pub fn objects(world: &World, known: &Known, by: By) -> Vec<Content> {
    let job = known.plan.job;
    match by {
        By::Tus | By::AutoTus => {
            let tus = lock(&world.tus);
            let objects = tus.objects.iter().filter(|object| object.job == job && !object.withdrawn);
            objects.map(|object| Content::clone(&object.content)).collect()
        }
        By::Put { .. } | By::AutoPut => {
            let puts = lock(&world.puts);
            puts.slots[&job].content().map(|content| Content::new(content.to_vec())).into_iter().collect()
        }
        By::Form { .. } => {
            let forms = lock(&world.forms);
            let accepted = forms.accepted.get(&job).into_iter().flatten();
            accepted.map(|(_, content)| Content::clone(content)).collect()
        }
    }
}

/// The length of a download's chunks and how much of each is durable, where its phase has such.
pub fn chunks(phase: &str) -> Option<(u64, Vec<u64>)> {
    let (_, rest) = phase.split_once("chunk: ")?;
    let (chunk, rest) = rest.split_once(", have: [")?;
    let (have, _) = rest.split_once(']')?;
    let have = have.split(", ").map(|number| number.parse().ok()).collect::<Option<Vec<u64>>>()?;
    Some((chunk.parse().ok()?, have))
}

/// Every chunk's durable bytes are those of one version.
pub fn compare_chunks(world: &World, known: &Known, (path, size): (&Path, u64), chunk: u64, have: &[u64]) {
    let damaged = world.tally(|tally| tally.any(&[Fault::PartTruncated, Fault::PartDeleted]));
    // Where a digest of the whole is known, it is what tells in the end whether a mirror's bytes are right.
    let told = lock(&world.shelf).remotes[&known.plan.job].tells_digest();
    if damaged || told || known.plan.is_checked() {
        return;
    }
    let fs = lock(&world.fs);
    let there = fs.durable(path).unwrap_or_default();
    let server = lock(&world.shelf);
    let fits = |version: &Content| {
        version.len() as u64 == size
            && have.iter().enumerate().all(|(at, have)| {
                let start = at * chunk as usize;
                let range = start..start + *have as usize;
                there.get(range.clone()).is_some_and(|bytes| Some(bytes) == version.get(range))
            })
    };
    let is_whole = server.remotes[&known.plan.job].versions().any(fits);
    drop(server);
    drop(fs);
    if !is_whole && have.iter().any(|have| *have > 0) {
        world
            .violate(format!("job {} has journaled {have:?} of {chunk} that no version has", known.plan.job));
    }
}

/// What a job needs for its requests, and for another attempt.
pub fn secrets_kept(world: &World, known: &Known, view: &JobView) {
    let Some(secret) = known.plan.secret().filter(|_| known.answered) else { return };
    let cancelled = view.cause.as_ref().is_some_and(|cause| cause.kind == "cancelled");
    let ends = view.state == JobState::Completed || cancelled || view.done == view.size.unwrap_or(u64::MAX);
    if ends || view.state == JobState::Sending {
        return;
    }
    let path = PathBuf::from(format!("/state/stage/{:016x}.secrets", view.id.0));
    let fs = lock(&world.fs);
    let kept = fs.durable(&path).map(|bytes| String::from_utf8_lossy(bytes).contains(&secret));
    drop(fs);
    if kept != Some(true) {
        world.violate(format!("job {} ({}) has lost its secrets: {kept:?}", view.id, view.state));
    }
}

/// I4: every staging file belongs to a job that is not ended; secrets stay with a failed one.
pub fn staged_files(world: &World, views: &[JobView]) {
    let files = lock(&world.fs).list(Path::new("/state/stage")).unwrap_or_default();
    for path in files {
        let number = path.file_stem().and_then(|stem| u64::from_str_radix(&stem.to_string_lossy(), 16).ok());
        let owner = views.iter().find(|view| Some(view.id.0) == number);
        let is_secret = path.extension().is_some_and(|end| end == "secrets");
        let needs = |view: &JobView| {
            let cancelled = view.cause.as_ref().is_some_and(|cause| cause.kind == "cancelled");
            !view.state.is_terminal() || is_secret && view.state == JobState::Failed && !cancelled
        };
        if !owner.is_some_and(needs) {
            world.violate(format!("I4: {} belongs to no job that needs it", path.display()));
        }
    }
}
