//! The library as an embedder meets it: through its public interface, on a real directory, with small servers in this
//! process. The examples are run as they stand.
//!
//! | file | what it shows |
//! |---|---|
//! | `embed/dropped.rs` | every future dropped after every number of polls: nothing lost, nothing stuck |
//! | `embed/events.rs` | numbered events, taken up again over a restart |

#![allow(clippy::disallowed_methods, reason = "the world is what is tested here")]

#[allow(dead_code, reason = "its `main` is for those who run it")]
#[path = "../examples/background_upload.rs"]
mod background_upload;
#[allow(dead_code, reason = "its `main` is for those who run it")]
#[path = "../examples/download_progress.rs"]
mod download_progress;
#[allow(dead_code, reason = "its `main` is for those who run it")]
#[path = "../examples/embed.rs"]
mod embed;
#[allow(dead_code, reason = "its `main` is for those who run it")]
#[path = "../examples/kill_test.rs"]
mod kill_test;

#[path = "embed/dropped.rs"]
mod dropped;
#[path = "embed/events.rs"]
mod events;

use std::path::PathBuf;
use std::time::Duration;

use kill_test::Server;
use longhaul::{JobState, OpenError, Session, SessionOptions};
use tempfile::TempDir;

/// A directory with a session's options and a source.
struct Bench {
    dir: TempDir,
    options: SessionOptions,
    source: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let source = dir.path().join("source");
        std::fs::write(&source, b"content").expect("a source");
        let options = SessionOptions::new(dir.path().join("session"));
        Self { dir, options, source }
    }

    /// Opens the session, as soon as whoever is just leaving it has left.
    async fn open(&self) -> Session {
        for _ in 0..1000 {
            match Session::open(self.options.clone()).await {
                Err(OpenError::Owned { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
                opened => return opened.expect("opens"),
            }
        }
        panic!("the session is still owned");
    }
}

#[tokio::test]
async fn the_background_uploader_is_run_again_and_again() {
    let bench = Bench::new();
    let server = Server::start(Duration::ZERO).expect("listens");
    let other = bench.dir.path().join("other");
    std::fs::write(&other, b"other content").expect("a source");
    let files = vec![bench.source.clone(), other.clone()];
    for _ in 0..2 {
        background_upload::upload(&bench.options.dir, &server.url, files.clone()).await.expect("runs");
        assert_eq!(server.complete(), [b"content".to_vec(), b"other content".to_vec()], "each once");
    }
    // What has arrived may go; submitting it again is still harmless.
    std::fs::remove_file(&other).expect("removed");
    background_upload::upload(&bench.options.dir, &server.url, files).await.expect("runs");
    assert_eq!(server.complete().len(), 2);
}

#[tokio::test]
async fn a_download_that_was_broken_off_goes_on_and_is_not_repeated() {
    let bench = Bench::new();
    let url = embed::serve_slowly(vec![42; 2 << 20]).expect("listens");
    let (dir, file) = (bench.options.dir.clone(), bench.dir.path().join("movie.bin"));
    let cut = download_progress::download(&dir, &url, &file);
    assert!(tokio::time::timeout(Duration::from_millis(300), cut).await.is_err(), "the server is slow");
    bench.open().await.shutdown().await;
    for _ in 0..2 {
        let ended = download_progress::download(&dir, &url, &file).await.expect("runs");
        assert_eq!((ended.state, ended.id.0), (JobState::Completed, 1));
        assert_eq!(std::fs::read(&file).expect("there"), vec![42; 2 << 20]);
    }
}

#[test]
fn an_upload_that_is_killed_again_and_again_arrives_once() {
    kill_test::kill_test(7, 4, &["--exact", "child"]).expect("kept its promise");
}

/// No test, but the process that [`an_upload_that_is_killed_again_and_again_arrives_once`] kills.
#[test]
fn child() {
    kill_test::child().expect("completed");
}
