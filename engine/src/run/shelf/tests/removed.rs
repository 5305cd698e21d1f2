//! What opening finds of jobs in rows and in the log after them.

use std::path::PathBuf;

use longhaul_journal::mem::MemDisk;
use longhaul_journal::{Checkpoint, Executor, Seq};

use super::super::*;
use crate::job::record;
use crate::job::{Core, FailCause, JobSpec, Outcome, Phase, Token};
use crate::ports::WallMs;
use crate::protocol::ProtocolId;

fn open(disk: &MemDisk) -> Opened<Transition, Survey> {
    Journal::open_store_into(disk.store(), Executor::Inline, Survey::new(0)).expect("opens")
}

fn job() -> (JobId, JobSpec) {
    let spec = JobSpec::new(ProtocolId::Get, "http://h/f".to_owned(), PathBuf::from("/d"), Token([0; 16]));
    (JobId(1), JobSpec { key: Some("own".to_owned()), ..spec })
}

async fn append(journal: &Journal<Transition>, record: Record) -> Seq {
    let transition = Transition { record, effects: Vec::new(), epoch: 0 };
    journal.append_all(vec![transition]).await.expect("durable")[0].seq()
}

async fn checkpoint(
    journal: &Journal<Transition>,
    through: Seq,
    puts: Vec<(RowKey, Vec<u8>)>,
    removes: Vec<RowKey>,
) {
    let checkpoint = Checkpoint { through, puts, removes, export: None };
    journal.checkpoint(checkpoint).await.expect("made");
}

/// A job with rows ends and is taken off the list, both in the log alone; then the log becomes rows.
#[tokio::test]
async fn a_job_that_was_taken_off_the_list_does_not_come_back_from_its_rows() {
    let (disk, (id, spec)) = (MemDisk::new(), job());
    let journal = open(&disk).journal;
    let born = Record::Submitted { id, at: WallMs(1), spec: Box::new(spec) };
    let mut jobs = Jobs::default();
    jobs.apply(born.clone()).expect("new");
    let born = append(&journal, born).await;
    let rows = record::live_rows(&jobs.map[&id], true);
    let rows = [vec![record::meta_row(id), record::key_row("own", id)], rows].concat();
    checkpoint(&journal, born, rows, Vec::new()).await;
    let phase = Phase::Ended(Outcome::Failed(FailCause::Cancelled));
    let core = Box::new(Core { phase, ..Core::queued(None) });
    append(&journal, Record::Moved { id, at: WallMs(2), what: None, core }).await;
    let removed = append(&journal, Record::Removed { id }).await;
    journal.close().await.expect("closes");

    let mut opened = open(&disk);
    let found = replay(&mut opened, 0).await.expect("replays");
    assert!(found.jobs.map.is_empty() && found.index.len() == 0 && found.jobs.gone.contains(&id));
    checkpoint(&opened.journal, removed, vec![record::meta_row(id)], found.removes).await;
    opened.journal.close().await.expect("closes");

    let mut opened = open(&disk);
    let found = replay(&mut opened, 0).await.expect("replays");
    assert_eq!(found.index.len(), 0, "its rows went with it");
    assert_eq!(found.ended, Ended::default());
    assert_eq!(keyed(&opened.journal, &["own".to_owned()]).await.expect("reads"), [None]);
}

/// Another attempt has the key, in rows alone; the job that it follows is taken off the list.
#[tokio::test]
async fn a_key_stays_with_the_job_that_took_it_over() {
    let (disk, (id, spec)) = (MemDisk::new(), job());
    let journal = open(&disk).journal;
    let again = JobId(2);
    let born = |id, predecessor| {
        let spec = JobSpec { predecessor, ..spec.clone() };
        Record::Submitted { id, at: WallMs(1), spec: Box::new(spec) }
    };
    let phase = Phase::Ended(Outcome::Failed(FailCause::Deadline));
    let core = Box::new(Core { phase, ..Core::queued(None) });
    let ended = Record::Moved { id, at: WallMs(2), what: None, core };
    let mut jobs = Jobs::default();
    let mut last = Seq(0);
    for record in [born(id, None), ended, born(again, Some(id))] {
        jobs.apply(record.clone()).expect("follows");
        last = append(&journal, record).await;
    }
    let (archived, live) = (record::archive_rows(&jobs.map[&id]), record::live_rows(&jobs.map[&again], true));
    let rows = [vec![record::meta_row(again), record::key_row("own", again)], archived, live].concat();
    checkpoint(&journal, last, rows, Vec::new()).await;
    append(&journal, Record::Removed { id }).await;
    journal.close().await.expect("closes");

    let mut opened = open(&disk);
    let found = replay(&mut opened, 0).await.expect("replays");
    assert!(found.jobs.gone.contains(&id) && found.index.get(again).is_some());
    assert!(!found.removes.contains(&RowKey::named(table::KEY, "own")), "it is the other's");
}
