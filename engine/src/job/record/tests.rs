//! The form on disk, and that rows and log together give what the log alone gives.

use std::fmt::Write as _;

use longhaul_journal::{ROW_MAX, Record as _, Row, Seq};

use super::*;
use crate::job::{Direction, Fingerprint, Outcome, Phase, Proof, StageMode, Token};
use crate::protocol::ProtocolId;

fn spec() -> JobSpec {
    let source = Fingerprint { dev: 1, ino: 2, size: 3, mtime_ns: 4, ctime_ns: 5, links: 1, regular: true };
    JobSpec {
        stage: StageMode::Copy,
        source: Some(source),
        ..JobSpec::new(ProtocolId::Tus, "http://h/f".to_owned(), "/a".into(), Token([1; 16]))
    }
}

fn submitted(id: u64) -> Record {
    Record::Submitted { id: JobId(id), at: WallMs(9), spec: Box::new(spec()) }
}

fn moved(id: u64, phase: Phase, what: &str) -> Record {
    let core = Core { phase, ..Core::queued(Some(3)) };
    Record::Moved { id: JobId(id), at: WallMs(10), what: Some(what.to_owned()), core: Box::new(core) }
}

fn ended() -> Phase {
    Phase::Ended(Outcome::Completed(Proof { size: 3, evidence: "e".to_owned() }))
}

fn bytes(record: Record) -> Vec<u8> {
    let mut out = Vec::new();
    Transition { record, effects: Vec::new(), epoch: 0 }.encode(&mut out);
    out
}

fn from_hex(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).expect("text"), 16).expect("hex")).collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _infallible = write!(hex, "{byte:02x}");
        hex
    })
}

/// What version 1 wrote stays readable, whatever comes after it.
#[test]
fn golden_bytes_of_version_1() {
    let submitted_v1 =
        "000109010a687474703a2f2f682f66022f6100000101010203080a0101000a0001010101010101010101010101010101";
    let read = Transition::decode(1, &from_hex(submitted_v1)).expect("version 1");
    assert_eq!(read, submitted(1));
    let read = Transition::decode(1, &from_hex("01010a0101780600030165000000000000000001030000"));
    assert_eq!(read.expect("version 1"), moved(1, ended(), "x"));
}

/// The form on disk, version 2. These bytes never change; a new form is a new version.
#[test]
fn golden_bytes_of_version_2() {
    assert_eq!(
        to_hex(&bytes(submitted(1))),
        "000109010a687474703a2f2f682f66022f6100000101010203080a0101000a00010101010101010101010101010101010000000500000001000000000000000000000001000000"
    );
    assert_eq!(
        to_hex(&bytes(moved(1, ended(), "x"))),
        "01010a0101780600030165000000000000000001030000000000"
    );
}

#[test]
fn a_long_specification_goes_in_pieces_and_comes_back() {
    let long = JobSpec { url: format!("http://h/{}", "x".repeat(10_000)), ..spec() };
    let records = Record::submitted(JobId(1), WallMs(9), Box::new(long.clone())).expect("not too long");
    assert!(records.len() > 2 && records.iter().all(fits));
    let mut jobs = Jobs::default();
    // Another one that was begun and never completed leaves nothing behind.
    jobs.apply(records[0].clone()).expect("a piece");
    for record in &records {
        jobs.apply(Transition::decode(2, &bytes(record.clone())).expect("own bytes")).expect("follows");
    }
    assert_eq!(jobs.map[&JobId(1)].spec, long);
    let replay = Replay::from_rows(&as_rows(&jobs.map[&JobId(1)], 1), false).expect("sound rows");
    assert_eq!(replay.jobs.map, jobs.map);
    let endless = JobSpec { url: format!("http://h/{}", "x".repeat(60_000)), ..spec() };
    assert_eq!(Record::submitted(JobId(1), WallMs(9), Box::new(endless)), Err(TooLong));
}

#[test]
fn an_ended_job_is_read_from_the_archive_as_it_was() {
    let mut jobs = Jobs::default();
    for id in 1..=3 {
        jobs.apply(submitted(id)).expect("new");
        jobs.apply(moved(id, ended(), "done")).expect("legal");
    }
    jobs.map.get_mut(&JobId(2)).expect("there").spec.url = format!("http://h/{}", "x".repeat(10_000));
    let rows: Vec<Row> = jobs
        .map
        .values()
        .flat_map(|job| {
            assert_eq!(
                job.archive_keys(),
                archive_rows(job).into_iter().map(|(key, _)| key).collect::<Vec<_>>()
            );
            archive_rows(job)
        })
        .map(|(key, value)| Row { key, seq: Seq(1), value })
        .collect();
    let whole: Vec<Job> = jobs.map.values().cloned().collect();
    let read: Result<Vec<Job>, String> = read_archive(&rows).into_iter().collect();
    assert_eq!(read.expect("sound"), whole);
    // The first of two rows of job 2 alone is no job.
    assert_eq!(read_archive(&rows[..2]).len(), 1);
}

#[test]
fn what_is_written_is_read_back() {
    for record in [submitted(4), moved(4, Phase::Staging, "preparing"), moved(4, ended(), "done")] {
        let read = Transition::decode(2, &bytes(record.clone())).expect("own bytes");
        assert_eq!(read, record);
    }
}

#[test]
fn another_version_is_refused_by_name() {
    assert!(matches!(Transition::decode(3, &bytes(submitted(1))), Err(DecodeError::Version { found: 3 })));
}

#[test]
fn a_record_that_does_not_follow_changes_nothing() {
    let mut jobs = Jobs::default();
    assert_eq!(jobs.apply(moved(1, Phase::Staging, "")), Err(ApplyError::Unknown(JobId(1))));
    jobs.apply(submitted(1)).expect("new");
    assert_eq!(jobs.apply(submitted(1)), Err(ApplyError::NotNew(JobId(1))));
    let before = jobs.clone();
    assert!(matches!(jobs.apply(moved(1, Phase::Staged, "")), Err(ApplyError::Illegal { .. })));
    assert_eq!(jobs, before);
    jobs.apply(moved(1, ended(), "")).expect("legal");
    assert!(matches!(jobs.apply(moved(1, Phase::Queued, "")), Err(ApplyError::Illegal { .. })), "terminal");
}

#[test]
fn a_history_of_long_lines_still_fits_its_row() {
    let mut jobs = Jobs::default();
    jobs.apply(submitted(1)).expect("new");
    for _ in 0..100 {
        jobs.apply(moved(1, Phase::Queued, &"😀".repeat(300))).expect("legal");
    }
    let job = &jobs.map[&JobId(1)];
    assert!(encode(&job.history).len() > ROW_MAX, "or this shows nothing");
    assert!(live_rows(job, true).iter().all(|(_, value)| value.len() <= ROW_MAX));
    let replay = Replay::from_rows(&as_rows(job, 200), false).expect("sound rows");
    let kept = &replay.jobs.map[&JobId(1)].history;
    assert_eq!((kept.first(), kept.last()), (job.history.first(), job.history.last()));
}

#[test]
fn names_that_are_no_text_survive_the_journal() {
    use std::os::unix::ffi::OsStringExt;
    let odd = std::path::PathBuf::from(std::ffi::OsString::from_vec(b"tok\xff".to_vec()));
    let credential = Some(crate::secret::CredentialRef::File(odd.clone()));
    let spec = Box::new(JobSpec { path: odd, credential, ..spec() });
    let record = Record::Submitted { id: JobId(1), at: WallMs(9), spec };
    assert!(fits(&record));
    assert_eq!(Transition::decode(2, &bytes(record.clone())).expect("own bytes"), record);
}

#[test]
fn history_is_bounded_and_keeps_its_beginning_and_its_end() {
    let mut jobs = Jobs::default();
    jobs.apply(submitted(1)).expect("new");
    for number in 0..500 {
        jobs.apply(moved(1, Phase::Queued, &format!("line {number}"))).expect("legal");
    }
    let history = &jobs.map[&JobId(1)].history;
    assert_eq!(history.len(), HISTORY_MAX);
    assert_eq!((history[0].what.as_str(), history[1].what.as_str()), ("accepted", "line 0"));
    assert_eq!(history.last().map(|line| line.what.as_str()), Some("line 499"));
}

fn as_rows(job: &Job, seq: u64) -> Vec<Row> {
    live_rows(job, true).into_iter().map(|(key, value)| Row { key, seq: Seq(seq), value }).collect()
}

#[test]
fn rows_and_log_together_give_what_the_log_alone_gives() {
    let log = [submitted(1), moved(1, Phase::Staging, "a"), submitted(2), moved(1, ended(), "b")];
    let mut whole = Jobs::default();
    for record in &log {
        whole.apply(record.clone()).expect("legal");
    }
    // A checkpoint at each record, finished or cut short after any of its rows.
    for through in 0..=log.len() {
        let mut at = Jobs::default();
        for record in &log[..through] {
            at.apply(record.clone()).expect("legal");
        }
        let all: Vec<Row> = at.map.values().flat_map(|job| as_rows(job, through as u64)).collect();
        for kept in 0..=all.len() {
            let finished = kept == all.len();
            let mut replay = Replay::from_rows(&all[..kept], !finished).expect("sound rows");
            let tail = if finished { through } else { 0 };
            for (index, record) in log.iter().enumerate().skip(tail) {
                replay.apply(Seq(index as u64 + 1), record.clone()).expect("follows");
            }
            assert_eq!(replay.finish(), whole, "checkpoint at {through}, {kept} rows of it");
        }
    }
}

#[test]
fn a_missing_row_is_damage_unless_the_checkpoint_was_cut_short() {
    let mut jobs = Jobs::default();
    jobs.apply(submitted(1)).expect("new");
    let rows = as_rows(&jobs.map[&JobId(1)], 1);
    assert!(Replay::from_rows(&rows[..2], false).is_err());
    assert!(Replay::from_rows(&rows[..2], true).is_ok());
    assert_eq!(jobs.map[&JobId(1)].spec.direction(), Direction::Upload);
}
