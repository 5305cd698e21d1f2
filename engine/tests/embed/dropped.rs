//! Dropping a future, after any number of polls, loses nothing.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use longhaul::control::{Acceptance, Response, Selection};
use longhaul::{ChangeError, Closed, Event, JobHandle, JobState, JobView, Session, Submission};

use super::{Bench, Server};

/// Nothing listens there: a job that is started fails to connect and waits.
const NOBODY: &str = "http://127.0.0.1:1/files/";
/// No future here is polled more often than this before it is done.
const POLLS_MAX: usize = 200;

/// Polls a future so often, then drops it; its output if it was done by then.
async fn cut<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|context| {
        while left > 0 {
            left -= 1;
            match future.as_mut().poll(context) {
                Poll::Ready(output) => return Poll::Ready(Some(output)),
                Poll::Pending if left > 0 => return Poll::Pending,
                Poll::Pending => {}
            }
        }
        Poll::Ready(None)
    })
    .await
}

async fn with_key(session: &Session, key: &str) -> Vec<JobView> {
    let jobs = session.jobs().await.expect("open");
    jobs.into_iter().filter(|job| job.key.as_deref() == Some(key)).collect()
}

async fn state(job: &JobHandle) -> JobState {
    job.view().await.expect("open").expect("there").state
}

#[tokio::test]
async fn a_dropped_submit_leaves_a_whole_job_or_none_and_its_key_stays_one_job() {
    let bench = Bench::new();
    let server = Server::start(Duration::ZERO).expect("listens");
    let session = bench.open().await;
    let mut accepted_though_dropped = 0;
    let mut done = false;
    let mut polls = 0;
    while !done {
        assert!(polls < POLLS_MAX);
        let key = format!("after {polls} polls");
        let submission = Submission::upload(&bench.source, &server.url).key(&key).secret_header("X-A", "b");
        done = cut(session.submit(submission.clone()), polls).await.is_some();
        let there = with_key(&session, &key).await;
        assert!(there.len() <= 1, "{there:?}");
        accepted_though_dropped += usize::from(!done && there.len() == 1);
        let again = session.submit(submission).await.expect("accepted");
        let there = with_key(&session, &key).await;
        assert_eq!(there.iter().map(|job| job.id).collect::<Vec<_>>(), [again.id()]);
        assert_eq!(again.wait().await.expect("ends").state, JobState::Completed, "whole, with its secrets");
        polls += 1;
    }
    assert!(accepted_though_dropped > 0, "the interesting case");
    assert_eq!(server.complete().len(), polls, "each once");
    session.shutdown().await;
}

#[tokio::test]
async fn a_dropped_submit_of_many_can_be_repeated() {
    let bench = Bench::new();
    let session = bench.open().await;
    for polls in 0..POLLS_MAX {
        let keys = [0, 1, 2].map(|number| format!("{polls}-{number}"));
        let many: Vec<Submission> =
            keys.iter().map(|key| Submission::upload(&bench.source, NOBODY).key(key)).collect();
        let done = cut(session.submit_all(many.clone()), polls).await.is_some();
        let accepted = session.submit_all(many).await;
        for (key, result) in keys.iter().zip(accepted) {
            let there = with_key(&session, key).await;
            let [job] = there.as_slice() else { panic!("{there:?}") };
            assert!(matches!(result, Acceptance::Accepted { id, .. } if id == job.id), "{result:?}");
        }
        if done {
            session.shutdown().await;
            return;
        }
    }
    panic!("never done");
}

#[tokio::test]
async fn a_dropped_change_is_made_or_can_be_made_again() {
    let bench = Bench::new();
    let session = bench.open().await;
    let mut done = false;
    let mut polls = 0;
    while !done {
        assert!(polls < POLLS_MAX);
        let job = session.upload(&bench.source, NOBODY).await.expect("accepted");
        let suspended = cut(job.suspend(), polls).await.is_some();
        made(job.suspend().await);
        assert_eq!(state(&job).await, JobState::Suspended);
        let resumed = cut(job.resume(), polls).await.is_some();
        made(job.resume().await);
        assert_ne!(state(&job).await, JobState::Suspended);
        let cancelled = cut(job.cancel(), polls).await.is_some();
        made(job.cancel().await);
        let waited = cut(job.wait(), polls).await.is_some();
        assert_eq!(job.wait().await.expect("ends").state, JobState::Failed);

        let tried = cut(job.retry(), polls).await.is_some();
        let _successor_or_refusal = job.retry().await;
        let jobs = session.jobs().await.expect("open");
        let successors = jobs.iter().filter(|view| view.predecessor == Some(job.id()));
        assert_eq!(successors.count(), 1, "{jobs:?}");
        let removed = cut(job.remove(), polls).await.is_some();
        let _gone_by_now = job.remove().await;
        assert_eq!(job.view().await, Ok(None));
        done = suspended && resumed && cancelled && waited && tried && removed;
        polls += 1;
    }
    // The same for many; the session still does what it is told.
    for polls in 0..8 {
        let _any = cut(session.suspend(Selection::all()), polls).await;
        let _any = cut(session.resume(Selection::all()), polls).await;
        let _never_while_jobs_wait =
            tokio::time::timeout(Duration::from_millis(5), session.idled(Duration::from_millis(1))).await;
    }
    let _changes = session.suspend(Selection::all()).await.expect("open");
    session.idled(Duration::from_millis(1)).await;
    let cancelled = session.cancel(Selection::all()).await.expect("open");
    for view in cancelled.jobs {
        let job = session.job(view.id).await.expect("open").expect("there");
        assert_eq!(job.wait().await.expect("ends").state, JobState::Failed);
    }
    assert_eq!(session.count(Selection::all()).await.expect("open").unfinished(), 0);
    session.shutdown().await;
}

/// Made now, or before.
fn made(change: Result<JobView, ChangeError>) {
    match change {
        Ok(_) | Err(ChangeError::Left { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_dropped_next_loses_no_event() {
    let bench = Bench::new();
    let session = bench.open().await;
    let mut whole = session.events();
    let mut cut_up = session.events_after(None, Selection::all()).await;
    let mut heard: Vec<Event> = Vec::new();
    for round in 0..20 {
        let _dropped = cut(session.events_after(Some(0), Selection::all()), round % 3).await;
        let job = session.upload(&bench.source, NOBODY).await.expect("accepted");
        for polls in 0..4 {
            heard.extend(cut(cut_up.next(), polls).await.map(event));
        }
        job.cancel().await.expect("cancelled");
        job.wait().await.expect("ends");
    }
    session.shutdown().await;
    while let Some(told) = cut_up.next().await {
        heard.push(event(Some(told)));
    }
    let mut all = Vec::new();
    while let Some(told) = whole.next().await {
        all.push(event(Some(told)));
    }
    assert!(all.len() >= 60, "accepted, ends, ended: {}", all.len());
    assert_eq!(heard, all);
}

fn event(told: Option<Response>) -> Event {
    match told {
        Some(Response::Event { event }) => *event,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_dropped_open_or_shutdown_leaves_a_session_that_opens() {
    let bench = Bench::new();
    let session = bench.open().await;
    let job = session.upload(&bench.source, NOBODY).await.expect("accepted");
    session.shutdown().await;
    let mut done = false;
    let mut polls = 0;
    while !done {
        assert!(polls < POLLS_MAX);
        done = cut(longhaul::Session::open(bench.options.clone()), polls).await.is_some();
        let session = bench.open().await;
        assert_eq!(session.jobs().await.expect("open").len(), 1);
        let ended = cut(session.clone().shutdown(), polls).await;
        done &= ended.is_some();
        if polls > 0 {
            assert_eq!(session.closed().await, Closed::Stopped);
        }
        drop(session);
        polls += 1;
    }
    let session = bench.open().await;
    let job = session.job(job.id()).await.expect("open").expect("there");
    job.cancel().await.expect("cancelled");
    assert_eq!(job.wait().await.expect("ends").state, JobState::Failed);
    session.shutdown().await;
}
