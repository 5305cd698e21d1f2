//! Lists, pages and counts against each other, and against what is known to be there.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use longhaul::control::{Counts, Query, Request, Response, Selection};
use longhaul::{JobId, JobState, JobView, Session, WallMs};

use super::oracle::Oracle;
use super::world::{World, lock};

const STATES: [JobState; 6] = [
    JobState::Queued,
    JobState::Staged,
    JobState::Sending,
    JobState::Suspended,
    JobState::Completed,
    JobState::Failed,
];

/// What is wrong with the session's lists. Without an answer, as when it closes, nothing is.
pub async fn lists(world: &World, session: &Session, oracle: &Arc<Mutex<Oracle>>) -> Vec<String> {
    let mut wrongs = Vec::new();
    world.tally(|tally| tally.see("audits"));
    for newest in [false, true] {
        let limit = world.rng(|rng| rng.pick(&[None, Some(1), Some(7), Some(50)]));
        let limit = limit.filter(|limit| *limit > 1 || !lock(oracle).is_large());
        let Some(views) = pages(session, &Query { limit, newest, ..Query::default() }, &mut wrongs).await
        else {
            return Vec::new();
        };
        let ids: BTreeSet<JobId> = views.iter().map(|view| view.id).collect();
        let (must, may) = lock(oracle).listed();
        let strays = lock(oracle).has_strays();
        if ids.len() != views.len() {
            wrongs.push(format!("a list has a job twice: {} of {}", ids.len(), views.len()));
        }
        if let Some(id) = must.difference(&ids).next() {
            wrongs.push(format!("job {id} is not listed (limit {limit:?}, newest {newest})"));
        }
        if let Some(id) = ids.difference(&may).next().filter(|_| !strays) {
            wrongs.push(format!("job {id} is listed, and is none (limit {limit:?}, newest {newest})"));
        }
    }
    let Some(all) = pages(session, &Query::default(), &mut wrongs).await else { return Vec::new() };
    let is_still = |view: &JobView| {
        let paused = view.cause.as_ref().is_some_and(|cause| cause.kind == "paused");
        view.state.is_terminal() || view.state == JobState::Suspended && paused
    };
    if all.iter().all(is_still) && !lock(oracle).forgets {
        world.tally(|tally| tally.see("audits at rest"));
        for _ in 0..4 {
            if still(world, session, &all, &mut wrongs).await.is_none() {
                return Vec::new();
            }
        }
    }
    wrongs
}

/// While nothing moves, every selection is what the whole list says.
async fn still(world: &World, session: &Session, all: &[JobView], wrongs: &mut Vec<String>) -> Option<()> {
    let times: Vec<WallMs> = all.iter().map(|view| view.changed_at).collect();
    let (jobs, limit, newest) = world.rng(|rng| {
        let group = rng.pick(&[None, Some("even"), Some("odd"), Some("none")]).map(ToOwned::to_owned);
        let states = STATES.into_iter().filter(|_| rng.chance(300)).collect();
        let since = (!times.is_empty() && rng.chance(300)).then(|| rng.pick(&times));
        let ids =
            rng.chance(200).then(|| all.iter().map(|view| view.id).filter(|_| rng.chance(300)).collect());
        (Selection { ids, group, states, since }, rng.pick(&[None, Some(3), Some(40)]), rng.chance(500))
    });
    let wanted: Vec<&JobView> = all.iter().filter(|view| jobs.fits(view)).collect();
    let found =
        pages(session, &Query { jobs: jobs.clone(), limit, newest, ..Query::default() }, wrongs).await?;
    if !found.iter().eq(wanted.iter().copied()) {
        wrongs.push(format!(
            "{} jobs are listed for {jobs:?} (limit {limit:?}, newest {newest}), {} fit",
            found.len(),
            wanted.len()
        ));
    }
    let Response::Counts { counts } = session.call(Request::Count { jobs: jobs.clone() }).await else {
        return None;
    };
    let mut model = Counts::default();
    for view in &wanted {
        model.add(view.state);
    }
    if counts != model {
        wrongs.push(format!("{jobs:?} are counted as {counts:?}, and are {model:?}"));
    }
    Some(())
}

/// All pages of a query, in the order of their numbers; `None` if there is no answer.
async fn pages(session: &Session, query: &Query, wrongs: &mut Vec<String>) -> Option<Vec<JobView>> {
    let mut query = query.clone();
    let mut all: Vec<JobView> = Vec::new();
    loop {
        let Response::Jobs { jobs, more } = session.call(Request::List { query: query.clone() }).await else {
            return None;
        };
        if query.limit.is_some_and(|limit| jobs.len() > limit) {
            wrongs.push(format!("a page of {:?} has {} jobs", query.limit, jobs.len()));
        }
        if !jobs.is_sorted_by(|one, other| one.id < other.id) {
            wrongs.push("a page is out of order".to_owned());
        }
        if query.newest {
            all.splice(0..0, jobs);
            query.before = more;
        } else {
            all.extend(jobs);
            query.after = more;
        }
        if more.is_none() {
            break;
        }
    }
    if !all.is_sorted_by(|one, other| one.id < other.id) {
        wrongs.push(format!("pages overlap or are out of order (newest {})", query.newest));
    }
    Some(all)
}
