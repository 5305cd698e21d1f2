//! Opening, owning, finding again; on a real directory, with servers that are not there.

#![allow(clippy::disallowed_methods, reason = "the world is what is tested here")]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;
use crate::job::JobState;

/// Nothing listens on port 1 of a test machine: a job that is started fails to connect and waits.
const NOBODY: &str = "http://127.0.0.1:1/files/";

fn home() -> (TempDir, SessionOptions) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::write(dir.path().join("source"), b"content").expect("a source");
    let options = SessionOptions::new(dir.path().join("session"));
    (dir, options)
}

async fn open(options: &SessionOptions) -> Session {
    Session::open(options.clone()).await.expect("opens")
}

#[tokio::test]
async fn a_second_owner_is_told_who_the_first_one_is() {
    let (_dir, options) = home();
    let session = open(&options).await;
    match Session::open(options.clone()).await {
        Err(OpenError::Owned { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
    assert_eq!(session.shutdown().await, Closed::Stopped);
    open(&options).await.shutdown().await;
}

#[tokio::test]
async fn what_was_accepted_is_found_again_and_goes_on_by_itself() {
    let (dir, options) = home();
    let session = open(&options).await;
    let job = session.upload(dir.path().join("source"), NOBODY).await.expect("accepted");
    let paused = session.upload(dir.path().join("source"), NOBODY).await.expect("accepted");
    let view = paused.suspend().await.expect("suspended");
    assert_eq!(
        (view.state, view.cause.map(|cause| cause.kind)),
        (JobState::Suspended, Some("paused".to_owned()))
    );
    session.shutdown().await;

    let session = open(&options).await;
    let mut events = session.events();
    let views = session.jobs().await.expect("open");
    assert_eq!(views.iter().map(|view| view.id).collect::<Vec<_>>(), [job.id(), paused.id()]);
    // An attempt of the first is enough to see that it goes on; the second must not have any.
    let tried = loop {
        match events.next().await {
            Some(Response::Event { event }) if event.job.attempts > views[0].attempts => break event.job,
            Some(_) => {}
            None => panic!("the session ended"),
        }
    };
    assert_eq!(tried.id, job.id());
    assert_eq!(session.jobs().await.expect("open")[1].state, JobState::Suspended);
    session.shutdown().await;
}

#[tokio::test]
async fn two_sessions_live_side_by_side_in_one_process() {
    let ((one_dir, one), (_two_dir, two)) = (home(), home());
    let (first, second) = (open(&one).await, open(&two).await);
    let job = first.upload(one_dir.path().join("source"), NOBODY).await.expect("accepted");
    assert_eq!(first.jobs().await.expect("open").len(), 1);
    assert!(second.jobs().await.expect("open").is_empty(), "each has its own jobs");
    assert!(second.job(job.id()).await.expect("open").is_none());
    second.shutdown().await;
    let ended = job.cancel().await;
    assert!(ended.is_ok(), "the other one is still at work: {ended:?}");
    assert_eq!(job.wait().await.expect("ends").state, JobState::Failed);
    first.shutdown().await;
}

#[tokio::test]
async fn a_dropped_wait_loses_nothing() {
    let (dir, options) = home();
    let session = open(&options).await;
    let job = session.upload(dir.path().join("source"), NOBODY).await.expect("accepted");
    {
        let waiting = job.wait();
        let mut events = session.events();
        tokio::select! {
            biased;
            _ = waiting => panic!("nobody is there to complete it"),
            _ = events.next() => {}
        }
    }
    job.cancel().await.expect("cancelled");
    assert_eq!(job.wait().await.expect("ends").cause.map(|cause| cause.kind), Some("cancelled".to_owned()));
    session.shutdown().await;
}

#[tokio::test]
async fn a_session_that_does_not_admit_starts_nothing_and_still_journals() {
    let (dir, options) = home();
    let passive = SessionOptions { admit: false, ..options.clone() };
    let session = open(&passive).await;
    let job = session.upload(dir.path().join("source"), NOBODY).await.expect("accepted");
    job.suspend().await.expect("suspended");
    job.resume().await.expect("resumed");
    let view = job.view().await.expect("open").expect("there");
    assert_eq!((view.state, view.attempts), (JobState::Queued, 0));
    job.cancel().await.expect("cancelled");
    assert_eq!(job.wait().await.expect("clean-up goes on").state, JobState::Failed);
    session.shutdown().await;
}

#[tokio::test]
async fn strays_of_ended_jobs_go_and_a_job_the_journal_never_heard_of_stops_everything() {
    let (dir, options) = home();
    let session = open(&options).await;
    let job = session.upload(dir.path().join("source"), NOBODY).await.expect("accepted");
    job.cancel().await.expect("cancelled");
    job.wait().await.expect("ends");
    session.shutdown().await;

    let stage = options.dir.join("stage");
    let stray = stage.join("0000000000000001.stage");
    fs::write(&stray, b"left by a crash").expect("planted");
    open(&options).await.shutdown().await;
    assert!(!stray.exists(), "no job needs it");

    let newer = stage.join("00000000000000ff.stage");
    fs::write(&newer, b"of a job that the journal lost").expect("planted");
    fs::write(&stray, b"left by a crash").expect("planted");
    match Session::open(options.clone()).await {
        Err(OpenError::Damaged { text }) => assert!(text.contains("00000000000000ff"), "{text}"),
        other => panic!("{other:?}"),
    }
    assert!(newer.exists() && stray.exists(), "nothing is deleted when the journal has lost its end");
}

#[tokio::test]
async fn a_directory_that_others_can_write_to_is_refused() {
    let (_dir, options) = home();
    fs::create_dir(&options.dir).expect("made");
    fs::set_permissions(&options.dir, fs::Permissions::from_mode(0o777)).expect("opened up");
    let refused = Session::open(options).await;
    assert!(matches!(refused, Err(OpenError::Io { .. })), "{refused:?}");
}

#[tokio::test]
async fn submissions_that_cannot_be_are_refused_before_anything_is_journaled() {
    let (dir, options) = home();
    let session = open(&options).await;
    let source = dir.path().join("source");
    for url in ["/files/", "ftp://host/", "http://user:secret@host/", "http://host/#part", "http://"] {
        let refused = session.upload(&source, url).await;
        assert!(matches!(refused, Err(SubmitError::Url(_))), "{url}: {refused:?}");
    }
    let refused = session.upload(dir.path(), NOBODY).await;
    assert!(matches!(refused, Err(SubmitError::Source { .. })), "a directory: {refused:?}");
    let refused = session.download(NOBODY, &source).await;
    assert!(matches!(refused, Err(SubmitError::Destination { .. })), "it exists: {refused:?}");
    let refused = session.upload(&source, format!("http://host/{}", "x".repeat(60_000))).await;
    assert!(matches!(refused, Err(SubmitError::TooLarge(_))), "{refused:?}");
    assert!(session.jobs().await.expect("open").is_empty());
    session.shutdown().await;
}

#[tokio::test]
async fn what_a_closed_session_cannot_know_is_no_empty_answer() {
    let (dir, options) = home();
    let session = open(&options).await;
    let job = session.upload(dir.path().join("source"), NOBODY).await.expect("accepted");
    assert_eq!(session.clone().shutdown().await, Closed::Stopped);
    let closing = SessionClosed("the session is closing".to_owned());
    assert_eq!(session.jobs().await, Err(closing.clone()));
    assert_eq!(session.page(Query::default()).await, Err(closing.clone()));
    assert_eq!(session.count(Selection::all()).await, Err(closing.clone()));
    assert_eq!(session.cancel(Selection::all()).await, Err(closing.clone()));
    assert_eq!(session.retry(Selection::all()).await, Err(closing.clone()));
    assert_eq!(session.job(job.id()).await.map(|_| ()), Err(closing.clone()));
    assert_eq!((job.view().await, job.log().await), (Err(closing.clone()), Err(closing)));
    let waited = job.wait().await;
    assert!(matches!(waited, Err(crate::ChangeError::Closed(_))), "{waited:?}");
    let refused = session.upload(dir.path().join("source"), NOBODY).await;
    assert!(matches!(refused, Err(SubmitError::Closed(_))), "{refused:?}");
    assert!(session.events_after(None, Selection::all()).await.next().await.is_none());
}

#[tokio::test]
async fn a_group_is_changed_together_and_the_others_stay_as_they_are() {
    let (dir, options) = home();
    let session = open(&options).await;
    let submission = Submission::upload(dir.path().join("source"), NOBODY);
    for _ in 0..3 {
        session.submit(submission.clone().group("movies")).await.expect("accepted");
    }
    let other = session.submit(submission).await.expect("accepted");
    let movies = || Selection::group("movies");

    let suspended = session.suspend(movies()).await.expect("open");
    assert_eq!((suspended.changed, suspended.jobs.len(), suspended.skipped.len()), (3, 3, 0));
    let counts = session.count(movies()).await.expect("open");
    assert_eq!((counts.suspended, counts.all()), (3, 3));
    assert_eq!(session.resume(movies()).await.expect("open").changed, 3);
    assert_eq!(session.cancel(movies()).await.expect("open").changed, 3);
    for view in session.select(movies()).await.expect("open") {
        let job = session.job(view.id).await.expect("open").expect("there");
        assert_eq!(job.wait().await.expect("ends").state, JobState::Failed);
    }
    let again = session.retry(movies()).await.expect("open");
    assert_eq!(again.changed, 3);
    assert!(again.jobs.iter().all(|job| job.predecessor.is_some()), "{again:?}");
    assert_eq!(session.retry(movies()).await.expect("open").changed, 0, "once each");
    assert_eq!(session.remove(movies()).await.expect("open").changed, 3, "only those that have ended");
    assert_eq!(session.count(movies()).await.expect("open").all(), 3);

    let named = Selection::ids([other.id(), JobId(99)]);
    let removed = session.remove(named).await.expect("open");
    assert_eq!((removed.changed, removed.skipped.len()), (0, 2), "{removed:?}");
    assert!(!other.view().await.expect("open").expect("there").state.is_terminal());
    session.shutdown().await;
}

#[tokio::test]
async fn a_failed_job_is_tried_again_once_and_taken_off_the_list() {
    let (dir, options) = home();
    let session = open(&options).await;
    let submission = Submission::upload(dir.path().join("source"), NOBODY).key("one");
    let job = session.submit(submission).await.expect("accepted");
    let refused = job.retry().await;
    assert!(matches!(refused, Err(crate::ChangeError::Left { .. })), "it has not failed: {refused:?}");
    let refused = job.remove().await;
    assert!(matches!(refused, Err(crate::ChangeError::Left { .. })), "it has not ended: {refused:?}");
    job.cancel().await.expect("cancelled");
    job.wait().await.expect("ends");

    let again = job.retry().await.expect("accepted");
    let view = again.view().await.expect("open").expect("there");
    assert_eq!((view.predecessor, view.key.as_deref()), (Some(job.id()), Some("one")));
    assert!(job.retry().await.is_err(), "it has its successor");
    assert_eq!(job.remove().await.expect("removed").id, job.id());
    assert_eq!((job.view().await, job.log().await), (Ok(None), Ok(None)));
    let past = job.wait().await;
    assert!(matches!(past, Err(crate::ChangeError::Left { .. })), "{past:?}");
    session.shutdown().await;
}

#[test]
fn names_and_paths_of_sessions() {
    assert_eq!(session_dir("./here").expect("a path"), PathBuf::from("./here"));
    assert!(session_dir("music").expect("a name").ends_with("longhaul/music"));
    for wrong in ["", ".", "..", ".hidden"] {
        assert!(matches!(session_dir(wrong), Err(OpenError::Name(_))), "{wrong:?}");
    }
}
