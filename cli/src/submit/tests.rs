//! Submitting and waiting against an owner that loses answers and events.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};

use clap::Parser;
use longhaul::control::{Counts, PAGE_MAX, Query, SUBMIT_MAX, Selection};
use longhaul::{Event, JobState, JobView};
use rustix::fs::{FlockOperation, flock};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::*;
use crate::report::tests::job;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

/// An owner's jobs, by their keys.
#[derive(Default)]
struct Owner {
    ids: BTreeMap<String, JobId>,
    jobs: BTreeMap<JobId, JobView>,
    requests: usize,
    /// Answers that are still to be lost after the deed.
    lose: usize,
}

impl Owner {
    fn accept(&mut self, submission: Submission) -> Acceptance {
        let key = submission.key.expect("every submission has a key");
        if let Some(&id) = self.ids.get(&key) {
            return Acceptance::Accepted { id, existing: true };
        }
        let id = JobId(self.ids.len() as u64 + 1);
        self.ids.insert(key, id);
        let view = JobView { id, group: submission.group, ..job(JobState::Queued, None) };
        self.jobs.insert(id, view);
        Acceptance::Accepted { id, existing: false }
    }

    fn end_all(&mut self) {
        for view in self.jobs.values_mut() {
            let failed = view.id.0 % 1000 == 0;
            let cause = failed.then_some(("rejected", "404"));
            let state = if failed { JobState::Failed } else { JobState::Completed };
            *view = JobView { id: view.id, group: view.group.clone(), ..job(state, cause) };
        }
    }

    fn chosen(&self, wanted: &Selection) -> Vec<&JobView> {
        let fits = |view: &&JobView| {
            wanted.ids.as_ref().is_none_or(|ids| ids.contains(&view.id))
                && (wanted.group.is_none() || wanted.group == view.group)
                && (wanted.states.is_empty() || wanted.states.contains(&view.state))
        };
        self.jobs.values().filter(fits).collect()
    }

    fn answer(&mut self, request: Request) -> Option<Response> {
        Some(match request {
            Request::Owner => Response::Owner { pid: 1, event: 0 },
            Request::SubmitAll { submissions } => {
                assert!(submissions.len() <= SUBMIT_MAX);
                self.requests += 1;
                let results = submissions.into_iter().map(|submission| self.accept(submission)).collect();
                if self.lose > 0 {
                    self.lose -= 1;
                    return None;
                }
                Response::Accepted { results }
            }
            Request::List { query: Query { jobs, after, limit, .. } } => {
                let limit = limit.unwrap_or(PAGE_MAX).min(PAGE_MAX);
                let all =
                    self.chosen(&jobs).into_iter().filter(|view| after.is_none_or(|after| view.id > after));
                let mut page: Vec<_> = all.take(limit + 1).cloned().collect();
                let is_over = page.len() > limit;
                page.truncate(limit);
                let more = page.last().map(|view| view.id).filter(|_| is_over);
                Response::Jobs { jobs: page, more }
            }
            Request::Count { jobs } => {
                let mut counts = Counts::default();
                self.chosen(&jobs).iter().for_each(|view| counts.add(view.state));
                Response::Counts { counts }
            }
            other => panic!("not expected: {other:?}"),
        })
    }
}

/// Holds the session's lock and answers on its socket.
fn own(dir: &Path, owner: Arc<Mutex<Owner>>) -> File {
    let lock = File::create(dir.join("lock")).expect("a lock file");
    flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("free");
    let listener = UnixListener::bind(dir.join("control.sock")).expect("a socket");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, owner.clone()));
        }
    });
    lock
}

async fn serve(stream: UnixStream, owner: Arc<Mutex<Owner>>) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let answers = match serde_json::from_str(&line).expect("a request") {
            Request::Subscribe { jobs, .. } => news(&mut owner.lock().expect("sound"), &jobs),
            request => match owner.lock().expect("sound").answer(request) {
                Some(answer) => vec![answer],
                None => return, // died after the deed
            },
        };
        for answer in answers {
            let mut line = serde_json::to_vec(&answer).expect("JSON");
            line.push(b'\n');
            if write.write_all(&line).await.is_err() {
                return;
            }
        }
    }
}

/// Jobs end as soon as somebody listens. Of every second ending there are news; the others are missed.
fn news(owner: &mut Owner, jobs: &Selection) -> Vec<Response> {
    owner.end_all();
    let event = |view: &JobView| Event { number: view.id.0, what: "it ended".into(), job: view.clone() };
    let told = owner
        .chosen(jobs)
        .into_iter()
        .step_by(2)
        .map(|view| Response::Event { event: Box::new(event(view)) });
    told.chain([Response::Missed { events: 0 }]).collect()
}

async fn put(dir: &Path, count: usize, words: &[&str]) -> Exit {
    let options = Line::try_parse_from([&["haul"], words].concat()).expect("options").options;
    let context =
        Context { session: "test".into(), dir: dir.to_owned(), json: false, quiet: true, verbose: false };
    let items = (0..count).map(|number| {
        let Submission { transfer, url, .. } = Submission::upload(format!("/f/{number}"), "http://host/");
        Ok(Item { transfer, url, name: None, label: number.to_string() })
    });
    let wanted = Wanted { template: Submission::upload("", ""), options: &options, distinct: true };
    run(&context, wanted, items).await.expect("an ending")
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_double_no_job_and_missed_events_lose_no_ending() {
    let dir = tempfile::tempdir().expect("a directory");
    let owner = Arc::new(Mutex::new(Owner { lose: 2, ..Owner::default() }));
    let _lock = own(dir.path(), owner.clone());
    assert_eq!(put(dir.path(), 3210, &[]).await, Exit::Failed, "some were rejected");
    let owner = owner.lock().expect("sound");
    assert_eq!((owner.jobs.len(), owner.requests), (3210, 7 + 2));
    let groups: std::collections::BTreeSet<_> = owner.jobs.values().map(|view| view.group.clone()).collect();
    assert_eq!(groups.len(), 1);
    assert!(groups.first().expect("one").as_deref().is_some_and(|group| group.starts_with("g-")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_repeated_with_its_key_finds_its_jobs() {
    let dir = tempfile::tempdir().expect("a directory");
    let owner = Arc::new(Mutex::new(Owner::default()));
    let _lock = own(dir.path(), owner.clone());
    assert_eq!(put(dir.path(), 300, &["--key", "K"]).await, Exit::Done);
    assert_eq!(put(dir.path(), 300, &["--key", "K", "--group", "another"]).await, Exit::Done);
    let owner = owner.lock().expect("sound");
    assert_eq!(owner.jobs.len(), 300);
    assert!(owner.ids.contains_key("K/299"));
}
