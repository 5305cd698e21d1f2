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
    let views = session.jobs().await;
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
    assert_eq!(session.jobs().await[1].state, JobState::Suspended);
    session.shutdown().await;
}

#[tokio::test]
async fn two_sessions_live_side_by_side_in_one_process() {
    let ((one_dir, one), (_two_dir, two)) = (home(), home());
    let (first, second) = (open(&one).await, open(&two).await);
    let job = first.upload(one_dir.path().join("source"), NOBODY).await.expect("accepted");
    assert_eq!(first.jobs().await.len(), 1);
    assert!(second.jobs().await.is_empty(), "each has its own jobs");
    assert!(second.job(job.id()).await.is_none());
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
    let view = job.view().await.expect("there");
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
    assert!(session.jobs().await.is_empty());
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
