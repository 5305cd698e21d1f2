//! What the engine tells `tracing`: a span for each job, its changes, its requests; and never a secret.
//!
//! A program of its own: it listens to every thread, at every level, also to the libraries below.

#![allow(clippy::disallowed_methods, reason = "the world is what is tested here")]

#[allow(dead_code, reason = "only its server is needed here")]
#[path = "../examples/kill_test.rs"]
mod kill_test;

use std::fmt::{Debug, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kill_test::Server;
use longhaul::{CredentialRef, JobState, Session, SessionOptions, Submission};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Writes down every span and event, with all their fields.
#[derive(Clone, Default)]
struct Notes {
    spans: Arc<AtomicU64>,
    open: Arc<Mutex<Vec<(u64, String)>>>,
    current: Arc<Mutex<Vec<u64>>>,
    lines: Arc<Mutex<Vec<String>>>,
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").expect("memory");
    }
}

impl Notes {
    fn note(&self, line: String) {
        self.lines.lock().expect("unpoisoned").push(line);
    }

    fn has(&self, parts: &[&str]) -> bool {
        let lines = self.lines.lock().expect("unpoisoned");
        lines.iter().any(|line| parts.iter().all(|part| line.contains(part)))
    }

    /// The spans around, outermost first.
    fn around(&self) -> String {
        let (current, open) =
            (self.current.lock().expect("unpoisoned"), self.open.lock().expect("unpoisoned"));
        let find = |id: &u64| open.iter().find(|(open, _)| open == id).map(|(_, text)| text.clone());
        current.iter().filter_map(find).collect()
    }
}

impl Subscriber for Notes {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let id = self.spans.fetch_add(1, Ordering::Relaxed) + 1;
        let mut line = Line(format!("{}{{", span.metadata().name()));
        span.record(&mut line);
        line.0.push('}');
        self.note(format!("span {}", line.0));
        self.open.lock().expect("unpoisoned").push((id, line.0));
        Id::from_u64(id)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        let mut line = Line("record".to_owned());
        values.record(&mut line);
        self.note(line.0);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut line = Line(format!("{} {} {}", metadata.level(), metadata.target(), self.around()));
        event.record(&mut line);
        self.note(line.0);
    }

    fn enter(&self, span: &Id) {
        self.current.lock().expect("unpoisoned").push(span.into_u64());
    }

    fn exit(&self, span: &Id) {
        let mut current = self.current.lock().expect("unpoisoned");
        if let Some(at) = current.iter().rposition(|id| *id == span.into_u64()) {
            current.remove(at);
        }
    }
}

#[tokio::test]
async fn jobs_are_told_to_tracing_and_secrets_are_not() {
    let notes = Notes::default();
    tracing::subscriber::set_global_default(notes.clone()).expect("the only one");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let source = dir.path().join("source");
    std::fs::write(&source, "content").expect("a source");
    let server = Server::start(Duration::ZERO).expect("listens");
    let host = server.url.trim_start_matches("http://").split('/').next().expect("a host").to_owned();
    let token = dir.path().join("token");
    std::fs::write(&token, "canary-token\n").expect("written");
    let session = Session::open(SessionOptions::new(dir.path().join("session"))).await.expect("opens");
    let submission = Submission::upload(&source, format!("{}?key=canary-query", server.url))
        .credential(CredentialRef::File(token))
        .secret_header("X-Api-Key", "canary-header");
    let job = session.submit(submission).await.expect("accepted");
    let ended = job.wait().await.expect("ends");
    assert_eq!(ended.state, JobState::Completed, "{ended:?}");
    let nobody = Submission::upload(&source, "http://127.0.0.1:1/?key=canary-query");
    let failing = session.submit(nobody.secret_header("X-Api-Key", "canary-header")).await.expect("accepted");
    // What the connection's failure is told as must have no secret in it either.
    while failing.view().await.expect("open").expect("there").trouble.is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    failing.suspend().await.expect("suspended");
    failing.resume().await.expect("resumed");
    failing.cancel().await.expect("cancelled");
    failing.wait().await.expect("ends");
    session.shutdown().await;

    let span = format!("job{{ id={} direction=upload host={host}", job.id());
    for (level, what) in [("INFO", "accepted"), ("INFO", "completed"), ("DEBUG", "method=PATCH")] {
        assert!(notes.has(&[level, &span, what]), "{level} {what}: {:#?}", notes.lines);
    }
    assert!(notes.has(&["DEBUG", &span, "method=POST", &format!("host={host}"), "status=201"]));
    let failing = format!("job{{ id={} direction=upload host=127.0.0.1:1", failing.id());
    for what in ["accepted", "suspended", "resumed", "cancelled"] {
        assert!(notes.has(&["INFO", &failing, what]), "{what}: {:#?}", notes.lines);
    }
    assert!(notes.has(&["DEBUG", &failing, "no answer"]));
    let told: Vec<String> = notes.lines.lock().expect("unpoisoned").clone();
    let secret: Vec<&String> = told.iter().filter(|line| line.contains("canary")).collect();
    assert!(secret.is_empty(), "{secret:#?}");
}
