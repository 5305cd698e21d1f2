//! Real directories with journals of their own, damaged on purpose.

#![allow(clippy::disallowed_methods, reason = "the world is what is tested here")]

use std::fs;
use std::path::{Path, PathBuf};

use longhaul_journal::{Checkpoint, Journal, Options, RowKey};
use tempfile::TempDir;

use super::*;
use crate::job::record::{Record, archive_rows, key_row, live_rows, meta_row, table};
use crate::job::step::Transition;
use crate::job::{
    Core, FailCause, Fingerprint, HistoryEntry, Job, JobSpec, JobState, Outcome, Part, Phase, Snapshot,
    SnapshotMethod, SuspendCause, Token,
};
use crate::os::disk::OsDisk;
use crate::ports::{Disk as _, WallMs};
use crate::protocol::ProtocolId;
use crate::session::{Session, SessionOptions};

fn look_at(path: &Path) -> Fingerprint {
    let file = OsDisk::default().open_read(path).expect("a file");
    file.fingerprint().expect("its identity")
}

struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().expect("a temporary directory") };
        crate::os::home::Home::prepare(&bench.session()).expect("a session directory");
        bench
    }

    fn session(&self) -> PathBuf {
        self.dir.path().join("session")
    }

    fn stage(&self, name: &str) -> PathBuf {
        let path = self.session().join("stage").join(name);
        fs::write(&path, b"staged").expect("a staging file");
        path
    }

    fn upload(&self, id: u64) -> Job {
        let source = self.dir.path().join(format!("source-{id}"));
        fs::write(&source, format!("content {id}")).expect("a source");
        let mut job = job(id, ProtocolId::Tus, source.clone());
        job.spec.source = Some(look_at(&source));
        job
    }

    fn download(&self, id: u64, bytes: &[u8]) -> Job {
        let mut job = job(id, ProtocolId::Get, self.dir.path().join(format!("target-{id}")));
        let path = job.part_path();
        fs::write(&path, bytes).expect("a part file");
        let file = look_at(&path);
        job.core.part = Some(Part { path, dev: file.dev, ino: file.ino });
        (job.core.phase, job.core.done) = (Phase::Staged, bytes.len() as u64);
        job
    }

    /// Journals jobs, as rows of a checkpoint and as records after it.
    fn journal(&self, jobs: &[Job], last: u64, tail: &[Job]) {
        let opened = Journal::<Transition>::open(&self.session().join("journal"), Options::default());
        let journal = opened.expect("opens").journal;
        let (ended, live): (Vec<&Job>, Vec<&Job>) = jobs.iter().partition(|job| job.state().is_terminal());
        let mut puts: Vec<(RowKey, Vec<u8>)> = vec![meta_row(JobId(last))];
        puts.extend(live.iter().flat_map(|job| live_rows(job, true)));
        puts.extend(ended.iter().flat_map(|job| archive_rows(job)));
        puts.extend(jobs.iter().filter_map(|job| job.spec.key.as_deref().map(|key| key_row(key, job.id))));
        let checkpoint = Checkpoint { puts, export: Some(table::LIVE.to_vec()), ..Checkpoint::default() };
        journal.checkpoint_blocking(checkpoint).expect("a checkpoint");
        for job in tail {
            let spec = Box::new(job.spec.clone());
            let records = Record::submitted(job.id, job.submitted_at, spec).expect("fits");
            let records =
                records.into_iter().map(|record| Transition { record, effects: Vec::new(), epoch: 0 });
            let _committed = journal.append_all_blocking(records.collect()).expect("committed");
        }
        journal.close_blocking().expect("closes");
    }

    fn database(&self) -> PathBuf {
        self.session().join("journal/db.1/db")
    }

    /// The journal as it is found again.
    fn known(&self) -> look::Known {
        look::Known::load(&self.session().join("journal"), Options::default()).expect("a sound journal")
    }

    async fn repair(&self) -> Repair {
        repair(&self.session(), false).await.expect("repaired")
    }
}

fn job(id: u64, protocol: ProtocolId, path: PathBuf) -> Job {
    let url = format!("http://127.0.0.1:1/files/{id}");
    let spec = JobSpec::new(protocol, url, path, Token([id as u8; 16]));
    let first = HistoryEntry { at: WallMs(1), state: JobState::Queued, what: "accepted".into(), done: 0 };
    Job {
        id: JobId(id),
        submitted_at: WallMs(1),
        changed_at: WallMs(1),
        spec,
        core: Core::queued(None),
        history: vec![first],
    }
}

fn ended(mut job: Job) -> Job {
    job.core.phase = Phase::Ended(Outcome::Failed(FailCause::Cancelled));
    job
}

fn texts(report: &Report) -> String {
    let lines = report.findings.iter().map(|finding| format!("{}: {}\n", finding.severity, finding.text));
    lines.collect::<Vec<_>>().concat()
}

fn truncate(path: &Path) {
    let file = fs::OpenOptions::new().write(true).open(path).expect("the database");
    let len = file.metadata().expect("its length").len();
    file.set_len(0).and_then(|()| file.set_len(len)).expect("emptied");
}

#[tokio::test]
async fn a_directory_that_is_no_session_is_left_untouched() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    assert!(examine(dir.path()).await.expect("looks").healthy);
    assert!(!repair(dir.path(), false).await.expect("nothing to do").rebuilt);
    assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 0);
}

#[tokio::test]
async fn every_stray_is_told_and_only_ours_are_removed() {
    let bench = Bench::new();
    let mut copied = bench.upload(1);
    let kept = bench.stage("0000000000000001.stage");
    let file = look_at(&kept);
    copied.core.snapshot = Some(Snapshot { method: SnapshotMethod::Copy, size: 6, file });
    (copied.core.phase, copied.spec.has_secrets) = (Phase::Staged, true);
    let secrets = bench.stage("0000000000000001.secrets");
    let over = ended(bench.download(2, b"half"));
    let part = over.core.part.clone().expect("a part").path;
    bench.journal(&[copied, over], 3, &[]);
    let strays = [
        bench.stage("0000000000000002.secrets"),
        bench.stage("0000000000000003.stage"),
        bench.stage("0000000000000001.tmp"),
        part,
    ];
    let theirs = [
        bench.stage("notes.txt"),
        bench.dir.path().join(format!(".target-2.9-{}.haul", Token([9; 16]))),
        // Our number, another's token: of another session.
        bench.dir.path().join(format!(".target-2.2-{}.haul", Token([8; 16]))),
    ];
    for path in &theirs {
        fs::write(path, b"x").expect("a file");
    }
    let report = examine(&bench.session()).await.expect("looks");
    assert!(report.healthy, "{}", texts(&report));
    for path in strays.iter().chain(&theirs) {
        assert!(
            texts(&report).contains(&path.display().to_string()),
            "{}\n{}",
            path.display(),
            texts(&report)
        );
    }
    let dry = repair(&bench.session(), true).await.expect("looks");
    assert_eq!((dry.did.len(), dry.rebuilt), (strays.len(), false));
    assert!(strays.iter().all(|path| path.exists()), "a dry run removes nothing");

    let done = bench.repair().await;
    assert_eq!(done.did, dry.did);
    assert!(!strays.iter().any(|path| path.exists()));
    assert!(theirs.iter().chain([&kept, &secrets]).all(|path| path.exists()));
    assert!(bench.repair().await.did.is_empty(), "nothing is left to do");
}

#[tokio::test]
async fn what_a_job_needs_and_who_must_act_is_told() {
    let bench = Bench::new();
    let mut secretive = bench.upload(1);
    secretive.spec.has_secrets = true;
    let changed = bench.upload(2);
    fs::write(&changed.spec.path, b"quite another content").expect("rewritten");
    let mut short = bench.download(3, b"12345");
    short.core.done = 9;
    let mut restored = bench.upload(4);
    restored.core.suspended = Some(SuspendCause::Restored);
    let mut barred = bench.upload(5);
    barred.core.suspended = Some(SuspendCause::NoAccess("/target".into()));
    let mut left = bench.upload(6);
    left.core.leftover = Some("http://host/files/abc?signature=s3cret".into());
    bench.journal(&[secretive, changed, short, restored, barred, ended(left)], 6, &[]);
    let report = examine(&bench.session()).await.expect("looks");
    assert!(!report.healthy && !report.damaged);
    let told = texts(&report);
    for text in [
        "warning: job 1 needs its file of secrets",
        "note: job 2: what it uploads: the source changed: its size went from 9 to 21 bytes",
        "has 5 bytes where 9 were durable",
        "warning: job 4 holds still: restored",
        "warning: job 5 holds still: no access: /target",
        "warning: job 6 could not free its upload at the server: http://host/files/abc",
    ] {
        assert!(told.contains(text), "{text}\n{told}");
    }
    assert!(!told.contains("s3cret"), "{told}");
    assert_eq!(report.findings.len(), 6, "{told}");
}

#[tokio::test]
async fn an_emptied_database_is_rebuilt_from_the_export() {
    let bench = Bench::new();
    let mut copied = bench.upload(1);
    let kept = bench.stage("0000000000000001.stage");
    let file = look_at(&kept);
    copied.core.snapshot = Some(Snapshot { method: SnapshotMethod::Copy, size: 6, file });
    (copied.core.phase, copied.spec.key) = (Phase::Staged, Some("the-key".into()));
    let later = bench.upload(5);
    bench.journal(&[copied.clone(), ended(bench.upload(2))], 4, &[later]);
    let orphan = bench.stage("0000000000000005.stage");
    truncate(&bench.database());
    let before = fs::read(bench.database()).expect("the damaged database");

    let report = examine(&bench.session()).await.expect("looks");
    assert!(report.damaged && !report.newer && !report.healthy);
    let dry = repair(&bench.session(), true).await.expect("looks");
    assert_eq!(dry.restored.len(), 1);
    assert!(orphan.exists() && fs::read_dir(bench.session()).expect("readable").count() <= 3);

    let done = bench.repair().await;
    assert!(done.rebuilt);
    assert_eq!(done.restored.iter().map(|view| view.id).collect::<Vec<_>>(), [JobId(1)]);
    assert!(done.lost.iter().any(|text| text.contains("job 5")), "{:?}", done.lost);
    assert!(done.lost.iter().any(|text| text.contains("1 records after")), "{:?}", done.lost);
    let quarantine = PathBuf::from(done.quarantine.expect("a quarantine"));
    assert_eq!(fs::read(quarantine.join("journal/db.1/db")).expect("kept"), before);
    assert!(quarantine.join("stage/0000000000000005.stage").exists() && !orphan.exists());
    assert!(kept.exists(), "the copy of a restored job stays");

    let known = bench.known();
    let job = &known.live[&JobId(1)];
    assert_eq!(job.core.suspended, Some(SuspendCause::Restored));
    assert_eq!((&job.spec, &job.core.snapshot), (&copied.spec, &copied.core.snapshot));
    assert!(job.history.last().expect("a line").what.starts_with("restored from the export "));
    assert!(known.last >= JobId(6), "number 5, and perhaps one more, was given: {}", known.last);
    assert!(known.keys.contains(b"the-key".as_slice()));
    known.close().expect("closes");
    let report = examine(&bench.session()).await.expect("looks");
    assert!(!report.damaged, "{}", texts(&report));
}

/// Without any export: the journal itself, as far as it goes.
#[tokio::test]
async fn a_journal_that_lost_its_end_is_restored_as_far_as_it_goes() {
    let bench = Bench::new();
    let (first, second) = (bench.upload(8), bench.upload(9));
    bench.journal(&[ended(bench.upload(7))], 7, &[first]);
    let old = bench.dir.path().join("old");
    files::copy_tree(&bench.session().join("journal/db.1"), &old).expect("copied");
    let opened = Journal::<Transition>::open(&bench.session().join("journal"), Options::default());
    let journal = opened.expect("opens").journal;
    let record = Record::submitted(second.id, WallMs(2), Box::new(second.spec)).expect("fits");
    let records = record.into_iter().map(|record| Transition { record, effects: Vec::new(), epoch: 0 });
    let _committed = journal.append_all_blocking(records.collect()).expect("committed");
    journal.close_blocking().expect("closes");
    files::discard(&bench.session().join("journal/db.1")).expect("removed");
    files::copy_tree(&old, &bench.session().join("journal/db.1")).expect("put back");

    let done = bench.repair().await;
    assert_eq!(done.restored.iter().map(|view| view.id).collect::<Vec<_>>(), [JobId(8)]);
    assert!(done.lost[0].starts_with("1 records after"), "{:?}", done.lost);
    let known = bench.known();
    assert!(known.ended.contains_key(&JobId(7)), "what had ended is still known");
    assert!(known.last >= JobId(9), "9 may have been given: {}", known.last);
    known.close().expect("closes");
    assert!(!bench.session().join("repair.tmp").exists());
}

#[tokio::test]
async fn a_lost_journal_directory_is_damage_and_numbers_still_rise() {
    let bench = Bench::new();
    let orphan = bench.stage("000000000000002a.stage");
    assert!(examine(&bench.session()).await.expect("looks").damaged);
    let done = bench.repair().await;
    assert!(done.restored.is_empty() && !done.lost.is_empty() && !orphan.exists());
    let options = SessionOptions { admit: false, ..SessionOptions::new(bench.session()) };
    let session = Session::open(options).await.expect("opens again");
    let source = bench.upload(1).spec.path;
    let accepted = session.upload(source, "http://127.0.0.1:1/files/").await.expect("accepted");
    assert_eq!(accepted.id(), JobId(43));
    session.shutdown().await;
}

/// A second repair must not give numbers again that only the first one's quarantine tells of.
#[tokio::test]
async fn numbers_in_an_earlier_quarantine_count() {
    let bench = Bench::new();
    let aside = bench.session().join("quarantine-20260101T000000Z/stage");
    fs::create_dir_all(&aside).expect("an earlier quarantine");
    fs::write(aside.join("0000000000000064.stage"), b"x").expect("a copy in it");
    bench.journal(&[bench.upload(1)], 1, &[]);
    truncate(&bench.database());
    assert_eq!(bench.repair().await.restored.len(), 1);
    let known = bench.known();
    assert_eq!(known.last, JobId(100));
    known.close().expect("closes");
}

#[tokio::test]
async fn a_newer_journal_is_not_touched() {
    let bench = Bench::new();
    bench.journal(&[bench.upload(1)], 1, &[]);
    let head = bench.session().join("journal/head");
    let mut bytes = fs::read(&head).expect("the witness");
    for slot in [0, 4096] {
        // The format, under a checksum that is right.
        bytes[slot + 4] = 200;
        let crc_at = slot + 8 + 8 + 8 + 8 + 4;
        let crc = crc32fast::hash(&bytes[slot..crc_at]);
        bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_be_bytes());
    }
    fs::write(&head, &bytes).expect("rewritten");
    let report = examine(&bench.session()).await.expect("looks");
    assert!(report.newer, "{}", texts(&report));
    assert!(matches!(repair(&bench.session(), false).await, Err(OpenError::NewerVersion { .. })));
    assert_eq!(fs::read(&head).expect("the witness"), bytes);
}

#[tokio::test]
async fn jobs_go_from_one_session_to_another() {
    let (from, to) = (Bench::new(), Bench::new());
    let mut copied = from.upload(1);
    let copy = from.stage("0000000000000001.stage");
    let file = look_at(&copy);
    copied.core.snapshot = Some(Snapshot { method: SnapshotMethod::Copy, size: 6, file });
    (copied.core.phase, copied.core.done) = (Phase::Staged, 5);
    let mut in_place = from.upload(2);
    let file = in_place.spec.source.expect("a source");
    in_place.core.snapshot = Some(Snapshot { method: SnapshotMethod::InPlace, size: file.size, file });
    (in_place.core.phase, in_place.core.done) = (Phase::Staged, 5);
    (in_place.spec.key, in_place.spec.has_secrets) = (Some("k".into()), true);
    let changed = from.upload(3);
    let half = from.download(4, b"half");
    let mut gone = from.download(5, b"gone");
    gone.core.suspended = Some(SuspendCause::Requested);
    let old_part = half.core.part.clone().expect("a part");
    fs::remove_file(&gone.core.part.as_ref().expect("a part").path).expect("removed");
    fs::write(&changed.spec.path, b"another content").expect("rewritten");
    from.journal(&[copied, in_place.clone(), changed, half, gone, ended(from.upload(6))], 6, &[]);
    to.journal(&[to.upload(8)], 10, &[to.upload(11)]);

    let exported = export(&from.session()).await.expect("exported");
    assert_eq!(exported.jobs().count(), 5);
    let text = serde_json::to_string(&exported).expect("JSON");
    let read = Export::parse(&text).expect("reads back");
    assert_eq!(read, exported);
    assert!(read.missing().any(|(id, what)| id == JobId(2) && what.contains("0000000000000002.secrets")));

    let results = import(&to.session(), read.clone()).await.expect("imported");
    let numbers: Vec<_> = results.iter().map(|result| result.to.map(|id| id.0)).collect();
    assert_eq!(numbers, [Some(12), Some(13), None, Some(14), Some(15)]);
    assert!(results[0].what.starts_with("begins anew"), "{:?}", results[0]);
    assert!(results[1].missing.iter().any(|what| what.contains("000000000000000d.secrets")));
    assert!(results[2].what.contains("the source changed"), "{:?}", results[2]);
    let known = to.known();
    assert_eq!(known.live.len(), 6, "those that were there, and four more");
    assert!(
        [12, 13, 14, 15]
            .iter()
            .all(|id| known.live[&JobId(*id)].core.suspended == Some(SuspendCause::Restored))
    );
    let (anew, kept) = (&known.live[&JobId(12)].core, &known.live[&JobId(13)]);
    assert_eq!((&anew.phase, anew.done, &anew.snapshot), (&Phase::Queued, 0, &None));
    assert_eq!((kept.core.done, &kept.core.snapshot), (5, &in_place.core.snapshot));
    assert_eq!(kept.history.len(), 2);
    let part = known.live[&JobId(14)].core.part.clone().expect("its part file");
    assert_eq!((part.path.clone(), part.ino), (known.live[&JobId(14)].part_path(), old_part.ino));
    assert_eq!((fs::read(&part.path).expect("moved"), old_part.path.exists()), (b"half".to_vec(), false));
    known.close().expect("closes");

    // Once more: all of them are here already.
    let again = import(&to.session(), read).await.expect("looks");
    assert!(again.iter().all(|result| result.to.is_none()), "{again:?}");
    // And a session takes them as its own.
    let options = SessionOptions { admit: false, ..SessionOptions::new(to.session()) };
    let session = Session::open(options).await.expect("opens");
    assert_eq!(session.jobs().await.expect("open").len(), 6);
    session.shutdown().await;
}

#[tokio::test]
async fn an_empty_session_exports_nothing_and_an_import_makes_one() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let exported = export(&dir.path().join("none")).await.expect("exported");
    assert_eq!(exported.jobs().count(), 0);
    assert!(!dir.path().join("none").exists(), "looking makes nothing");
    let from = Bench::new();
    from.journal(&[from.upload(1)], 1, &[]);
    let exported = export(&from.session()).await.expect("exported");
    let results = import(&dir.path().join("new"), exported).await.expect("imported");
    assert_eq!(results[0].to, Some(JobId(1)));
}

/// Version 1, as it was first written: whatever changes here needs a new version.
#[test]
fn the_first_version_is_still_read() {
    let text = include_str!("export-1.json");
    let export = Export::parse(text).expect("reads");
    assert_eq!(export.jobs().map(|view| view.id).collect::<Vec<_>>(), [JobId(2)]);
    let again = serde_json::to_string(&export).expect("JSON");
    assert_eq!(again, text.trim());
}

#[test]
fn other_files_are_no_exports() {
    for (text, why) in [
        ("", "no export"),
        ("{}", "no export"),
        (r#"{"format":"other","version":1}"#, "its format is"),
        (r#"{"format":"longhaul-jobs","version":2}"#, "version 2"),
        (r#"{"format":"longhaul-jobs","version":1}"#, "cannot be read"),
    ] {
        let error = Export::parse(text).expect_err(text);
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn names_are_read_strictly() {
    let staged = |name: &str| look::Staged::parse(Path::new(name));
    assert_eq!(staged("/s/000000000000000a.stage"), Some(look::Staged::Copy(JobId(10))));
    assert_eq!(staged("000000000000000a.secrets"), Some(look::Staged::Secrets(JobId(10))));
    assert_eq!(staged("000000000000000a.tmp"), Some(look::Staged::Temporary(JobId(10))));
    for name in ["a.stage", "+00000000000000a.stage", "000000000000000a.txt", "000000000000000a"] {
        assert_eq!(staged(name), None, "{name}");
    }
    let part = |name: &str| look::part_name(Path::new(name));
    let token = "09".repeat(16);
    assert_eq!(part(&format!("/d/.a.b.mp4.12-{token}.haul")), Some((JobId(12), token.clone())));
    for name in [format!("a.12-{token}.haul"), format!(".a.12-{token}"), ".a.12-09.haul".to_owned()] {
        assert_eq!(part(&name), None, "{name}");
    }
}

#[test]
fn stamps_sort_as_time_does() {
    assert_eq!(files::stamp(WallMs(0)), "19700101T000000Z");
    assert_eq!(files::stamp(WallMs(1_795_356_191_123)), "20261122T140311Z");
    assert_eq!(files::stamp(WallMs(951_782_400_000)), "20000229T000000Z");
}
