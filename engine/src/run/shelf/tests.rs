//! What opening finds: rows of this version, of the one before, and the log after them.

mod removed;

use longhaul_journal::{Checkpoint, Options};
use tempfile::TempDir;

use super::*;
use crate::job::record::{archive_rows, key_row, live_rows, meta_row};
use crate::job::{Core, JobSpec, Outcome, Phase, Proof, SuspendCause, Token};
use crate::ports::WallMs;
use crate::protocol::ProtocolId;

fn job(id: u64, key: Option<&str>) -> Job {
    let spec = JobSpec::new(ProtocolId::Get, "http://h/f".to_owned(), "/d/f".into(), Token([1; 16]));
    let spec = JobSpec { key: key.map(ToOwned::to_owned), ..spec };
    let mut jobs = Jobs::default();
    let born = Record::Submitted { id: JobId(id), at: WallMs(9), spec: Box::new(spec) };
    jobs.apply(born).expect("new");
    jobs.map.remove(&JobId(id)).expect("born")
}

fn ended(id: u64) -> Job {
    let mut job = job(id, Some("k"));
    job.core.phase = Phase::Ended(Outcome::Completed(Proof { size: 3, evidence: "e".to_owned() }));
    job
}

fn record(record: Record) -> Transition {
    Transition { record, effects: Vec::new(), epoch: 0 }
}

/// A journal with these rows, and these records after them.
fn journal(puts: Vec<(RowKey, Vec<u8>)>, tail: Vec<Record>) -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let opened = Journal::<Transition>::open(dir.path(), Options::default()).expect("opens");
    let checkpoint = Checkpoint { puts, ..Checkpoint::default() };
    opened.journal.checkpoint_blocking(checkpoint).expect("a checkpoint");
    let _committed = opened.journal.append_all_blocking(tail.into_iter().map(record).collect());
    opened.journal.close_blocking().expect("closes");
    dir
}

async fn found(dir: &TempDir) -> (Found, Journal<Transition>) {
    let path = dir.path().to_owned();
    let mut opened = Journal::open_into(&path, Options::default(), Survey::new(0)).expect("opens");
    let found = replay(&mut opened, 0).await.expect("sound");
    (found, opened.journal)
}

#[tokio::test]
async fn only_what_the_log_names_is_taken_into_memory() {
    let mut puts = vec![meta_row(JobId(4))];
    puts.extend((1..=3).flat_map(|id| live_rows(&job(id, None), true)));
    puts.extend(archive_rows(&ended(4)));
    puts.push(key_row("k", JobId(4)));
    let core = Core { suspended: Some(SuspendCause::Requested), ..Core::queued(None) };
    let tail = vec![
        Record::Moved { id: JobId(2), at: WallMs(10), what: Some("held".to_owned()), core: Box::new(core) },
        Record::Submitted { id: JobId(5), at: WallMs(11), spec: Box::new(job(5, Some("n")).spec) },
    ];
    let dir = journal(puts, tail);
    let (found, journal) = found(&dir).await;
    assert_eq!(found.jobs.map.keys().map(|id| id.0).collect::<Vec<_>>(), [2, 5]);
    assert_eq!(found.index.iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [1, 2, 3, 5]);
    assert_eq!(found.index.get(JobId(2)).map(|brief| brief.state), Some(JobState::Suspended));
    assert_eq!((found.jobs.last, found.ended), (JobId(5), Ended { completed: 1, failed: 0 }));
    assert_eq!(found.on_shelf, BTreeSet::from([JobId(2)]));
    assert_eq!(found.keys, BTreeMap::from([("n".to_owned(), JobId(5))]));
    let fetched = fetch(&journal, &BTreeSet::from([JobId(1), JobId(3)])).await.expect("read");
    assert_eq!(fetched, [job(1, None), job(3, None)]);
    assert_eq!(super::ended(&journal, JobId(4)).await.expect("read"), Some(ended(4)));
    assert_eq!(keyed(&journal, &["k".to_owned(), "x".to_owned()]).await, Ok(vec![Some(JobId(4)), None]));
    journal.close().await.expect("closes");
}

#[tokio::test]
async fn what_was_taken_off_the_list_goes_with_all_its_rows() {
    let mut puts = vec![meta_row(JobId(4)), key_row("k", JobId(4))];
    puts.extend(archive_rows(&ended(4)));
    let dir = journal(puts, vec![Record::Removed { id: JobId(4) }]);
    let (found, journal) = found(&dir).await;
    assert_eq!((found.ended, found.jobs.last), (Ended::default(), JobId(4)));
    let expected = [RowKey::new(table::ARCHIVE, 4, 0), RowKey::named(table::KEY, "k")];
    assert_eq!(found.removes, expected);
    journal.close().await.expect("closes");
}

/// Rows as version 1 wrote them: an unfinished job, paused, and one that was completed.
fn version_1() -> Vec<(RowKey, Vec<u8>)> {
    let bytes = |hex: &str| -> Vec<u8> {
        let digits = hex.as_bytes().chunks(2).map(|two| std::str::from_utf8(two).expect("text"));
        digits.map(|two| u8::from_str_radix(two, 16).expect("hex")).collect()
    };
    let spec = "09010a687474703a2f2f682f66022f6100000101010203080a0101000a0001010101010101010101010101010101";
    let (paused, ended) = ("0a00010000000000000000010300", "0a0600030165000000000000000001030000");
    let paused = format!("{paused}00");
    let history = "0109000861636365707465640000".trim_end_matches("00").to_owned() + "00";
    let rows = [(1, paused.as_str()), (2, ended)].into_iter().flat_map(|(id, core)| {
        [(table::SPEC_V1, spec), (table::CORE_V1, core), (table::HISTORY, history.as_str())]
            .map(|(table, hex)| (RowKey::new(table, id, 0), bytes(hex)))
    });
    rows.chain([meta_row(JobId(2))]).collect()
}

#[tokio::test]
async fn jobs_of_version_1_are_taken_into_memory_to_be_written_anew() {
    let dir = journal(version_1(), Vec::new());
    let (found, journal) = found(&dir).await;
    let states: Vec<JobState> = found.jobs.map.values().map(Job::state).collect();
    assert_eq!(states, [JobState::Suspended, JobState::Completed]);
    assert!(found.jobs.map.values().all(|job| job.history.len() == 1), "{:?}", found.jobs.map);
    assert!(found.on_shelf.is_empty(), "they have no rows of this version");
    let removed: BTreeSet<RowKey> = found.removes.into_iter().collect();
    let expected = [(table::SPEC_V1, 1), (table::CORE_V1, 1), (table::SPEC_V1, 2), (table::CORE_V1, 2)];
    let expected = expected.into_iter().chain([(table::HISTORY, 2)]);
    assert_eq!(removed, expected.map(|(table, id)| RowKey::new(table, id, 0)).collect());
    journal.close().await.expect("closes");
}

#[tokio::test]
async fn the_archive_is_read_in_slices_from_either_end() {
    let count = 2 * ARCHIVE_SLICE as u64 + 7;
    let puts = (1..=count).flat_map(|id| archive_rows(&ended(id))).collect();
    let dir = journal(puts, Vec::new());
    let (_, journal) = found(&dir).await;
    for newest in [false, true] {
        let mut seen = Vec::new();
        let mut rest = Some(Stretch { from: JobId(1), to: JobId(u64::MAX), newest });
        while let Some(stretch) = rest {
            let (jobs, after) = archive(&journal, stretch).await.expect("read");
            if newest {
                seen.splice(0..0, jobs.iter().map(|job| job.id.0));
            } else {
                seen.extend(jobs.iter().map(|job| job.id.0));
            }
            rest = after;
        }
        assert_eq!(seen, (1..=count).collect::<Vec<_>>(), "newest {newest}");
    }
    journal.close().await.expect("closes");
}
