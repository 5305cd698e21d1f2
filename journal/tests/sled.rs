//! The same promises on the real store: files, locks, modes, damage to sled's own bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use longhaul_journal::{
    Checkpoint, CheckpointError, Executor, Journal, OpenError, Opened, Options, RowKey, Seq, read_export,
    verify,
};

use crate::common::{Newer, Text, everything, tail};

fn open(dir: &Path) -> Result<Opened<Text>, OpenError> {
    Journal::open(dir, Options::default())
}

fn append(journal: &Journal<Text>, numbers: std::ops::RangeInclusive<u64>) {
    for n in numbers {
        journal.append_all_blocking(vec![Text::numbered(n, 100)]).expect("append");
    }
}

fn checkpoint(journal: &Journal<Text>, from: u64, through: u64) {
    let row = |n| (RowKey::new(b'j', n, 0), Text::numbered(n, 100).0);
    let puts: Vec<_> = (from + 1..=through).map(row).collect();
    let checkpoint = Checkpoint { through: Seq(through), puts, removes: vec![], export: Some(vec![b'j']) };
    journal.checkpoint_blocking(checkpoint).expect("checkpoint");
}

/// Every file below a directory.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("list") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).expect("read"));
        }
    }
    found
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("create");
    for entry in fs::read_dir(from).expect("list") {
        let path = entry.expect("entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).expect("copy");
        }
    }
}

/// 30 rows, 30 records in the log, closed.
fn sample(dir: &Path) {
    let journal = open(dir).expect("open").journal;
    append(&journal, 1..=30);
    checkpoint(&journal, 0, 30);
    append(&journal, 31..=60);
    journal.close_blocking().expect("close");
}

#[test]
fn records_rows_and_exports_come_back() {
    let dir = tempfile::tempdir().expect("tempdir");
    let dir = dir.path().join("deep").join("journal");
    let opened = open(&dir).expect("a new journal");
    assert!(opened.report.is_new && opened.tail.is_empty());
    append(&opened.journal, 1..=30);
    checkpoint(&opened.journal, 0, 10);
    checkpoint(&opened.journal, 10, 20);
    checkpoint(&opened.journal, 20, 25);
    drop(opened);

    let opened = open(&dir).expect("again");
    assert!(!opened.report.is_new && !opened.report.checkpoint_unfinished);
    assert_eq!((opened.rows.len(), opened.tail.len()), (25, 5));
    let all = everything(&opened);
    assert!(all.iter().all(|(seq, value)| *value == Text::numbered(*seq, 100).0));
    append(&opened.journal, 31..=31);
    opened.journal.close_blocking().expect("close");

    let report = verify(&dir).expect("verify");
    assert!(report.problem.is_none(), "{:?}", report.problem);
    assert_eq!((report.records, report.commits, report.rows), (6, 6, 25));
    assert_eq!(report.checkpoint, Some((Seq(25), 25)));
    assert_eq!(report.reach, report.witness);
    assert_eq!(report.exports.len(), 2);
    let newest = read_export(&report.exports[1].0).expect("export");
    assert_eq!((newest.through, newest.rows.len()), (Seq(25), 25));
}

#[test]
fn only_one_may_open() {
    let dir = tempfile::tempdir().expect("tempdir");
    let opened = open(dir.path()).expect("open");
    append(&opened.journal, 1..=3);
    let before = files(dir.path());
    assert!(matches!(open(dir.path()), Err(OpenError::Locked { .. })));
    assert!(matches!(verify(dir.path()), Err(OpenError::Locked { .. })));
    assert_eq!(files(dir.path()).len(), before.len());
    append(&opened.journal, 4..=4);
    drop(opened);
    assert_eq!(open(dir.path()).expect("free again").tail.len(), 4);
}

fn check_modes(path: &Path) {
    let mode = fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
    if path.is_dir() {
        assert_eq!(mode, 0o700, "{}", path.display());
        fs::read_dir(path).expect("list").for_each(|entry| check_modes(&entry.expect("entry").path()));
    } else {
        assert_eq!(mode, 0o600, "{}", path.display());
    }
}

#[test]
fn modes_are_private() {
    let dir = tempfile::tempdir().expect("tempdir");
    let dir = dir.path().join("journal");
    sample(&dir);
    check_modes(&dir);
}

#[test]
fn leftovers_of_kills_are_removed() {
    let dir = tempfile::tempdir().expect("tempdir");
    sample(dir.path());
    let db = dir.path().join("db.1");
    fs::write(db.join("snap.0000000000001234.generating"), b"half").expect("plant");
    fs::create_dir_all(dir.path().join("db.2.new/blobs")).expect("plant");
    fs::create_dir_all(dir.path().join("look.new")).expect("plant");
    fs::write(dir.path().join("export-1.new"), b"half").expect("plant");
    let opened = open(dir.path()).expect("open");
    assert_eq!(opened.report.notes.len(), 3, "{:?}", opened.report.notes);
    assert_eq!(everything(&opened).len(), 60);
    let left: Vec<_> = files(dir.path()).into_keys().collect();
    let is_leftover = |path: &PathBuf| {
        path.to_string_lossy().ends_with(".generating") || path.to_string_lossy().contains(".new")
    };
    assert!(!left.iter().any(is_leftover), "{left:?}");
}

#[test]
fn blobs_are_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    sample(dir.path());
    fs::write(dir.path().join("db.1/blobs/1"), b"never synced").expect("plant");
    let error = open(dir.path()).expect_err("a blob");
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
}

#[test]
fn an_old_copy_put_back_is_a_lost_tail() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (journal, backup) = (dir.path().join("journal"), dir.path().join("backup"));
    sample(&journal);
    copy(&journal, &backup);
    let opened = open(&journal).expect("open");
    append(&opened.journal, 61..=70);
    opened.journal.close_blocking().expect("close");
    fs::remove_dir_all(journal.join("db.1")).expect("remove");
    copy(&backup.join("db.1"), &journal.join("db.1"));
    let before = files(&journal);
    let error = open(&journal).expect_err("an old copy");
    assert!(matches!(error, OpenError::LostTail { .. }), "{error}");
    assert_eq!(files(&journal), before, "it was changed");
    let report = verify(&journal).expect("verify");
    assert_eq!(report.records, 30);
    assert!(matches!(report.problem, Some(OpenError::LostTail { .. })));
    assert_eq!(files(&journal), before, "it was changed");
    // For repair: what is there is taken for the truth, and then on.
    let options = Options { accept_any_witness: true, ..Options::default() };
    let repaired: Opened<Text> = Journal::open(&journal, options).expect("repair");
    append(&repaired.journal, 61..=61);
    drop(repaired);
    assert_eq!(everything(&open(&journal).expect("sound again")).len(), 61);
}

#[test]
fn a_database_that_is_gone_is_no_new_journal() {
    let dir = tempfile::tempdir().expect("tempdir");
    sample(dir.path());
    fs::remove_dir_all(dir.path().join("db.1")).expect("remove");
    assert!(matches!(open(dir.path()), Err(OpenError::LostTail { .. })));
    // Without its witness too: the exports tell.
    fs::remove_file(dir.path().join("head")).expect("remove");
    assert!(matches!(open(dir.path()), Err(OpenError::Damaged { .. })));
    assert!(!dir.path().join("db.1").exists());
}

#[test]
fn a_newer_version_changes_nothing() {
    let dir = tempfile::tempdir().expect("tempdir");
    let opened: Opened<Newer> = Journal::open(dir.path(), Options::default()).expect("open");
    opened.journal.append_all_blocking(vec![Newer(b"later".to_vec())]).expect("append");
    opened.journal.close_blocking().expect("close");
    let before = files(dir.path());
    let error = open(dir.path()).expect_err("newer");
    assert!(matches!(error, OpenError::NewerVersion { found: 3, supported: 1, .. }), "{error}");
    assert_eq!(files(dir.path()), before);
}

#[test]
fn a_bloated_database_is_rebuilt_once() {
    let dir = tempfile::tempdir().expect("tempdir");
    sample(dir.path());
    let options = Options { rebuild_min_bytes: 0, ..Options::default() };
    let opened: Opened<Text> = Journal::open(dir.path(), options).expect("open");
    assert_eq!(everything(&opened).len(), 60);
    assert!(opened.report.notes[0].starts_with("rebuilt"), "{:?}", opened.report.notes);
    append(&opened.journal, 61..=61);
    opened.journal.close_blocking().expect("close");
    assert!(!dir.path().join("db.1").exists() && dir.path().join("db.2").exists());
    let opened = open(dir.path()).expect("open");
    assert!(opened.report.notes.is_empty(), "{:?}", opened.report.notes);
    assert_eq!(everything(&opened).len(), 61);
}

/// A kill between the rename and the removal of the old database: the greater number counts.
#[test]
fn two_databases_after_a_kill() {
    let dir = tempfile::tempdir().expect("tempdir");
    sample(dir.path());
    copy(&dir.path().join("db.1"), &dir.path().join("db.2"));
    assert_eq!(everything(&open(dir.path()).expect("open")).len(), 60);
    assert!(!dir.path().join("db.1").exists());
}

/// What may come of a damaged directory: all of it, or a refusal. A journal that is short, or empty, is silent loss.
#[track_caller]
fn assert_whole_or_refused(dir: &Path, what: &str, refused: &mut u32) {
    let before = files(dir);
    match open(dir) {
        Ok(opened) => {
            let all = everything(&opened);
            assert_eq!(all.len(), 60, "{what}: silent loss");
            assert!(all.iter().all(|(seq, value)| *value == Text::numbered(*seq, 100).0), "{what}");
        }
        Err(error) => {
            *refused += 1;
            let told = matches!(
                error,
                OpenError::Damaged { .. } | OpenError::LostTail { .. } | OpenError::Io { .. }
            );
            assert!(told, "{what}: {error}");
            assert_eq!(files(dir), before, "{what}: it was changed");
        }
    }
}

#[test]
fn damaged_files() {
    let dir = tempfile::tempdir().expect("tempdir");
    let original = dir.path().join("original");
    sample(&original);
    let db = fs::read(original.join("db.1/db")).expect("read");
    let used = db.iter().rposition(|byte| *byte != 0).expect("not empty") + 1;
    let mut refused = 0;
    let mut n = 0;
    let mut seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1_u64);
    println!("SEED={seed}");
    let mut roll = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    let mut damages: Vec<(String, Vec<u8>)> = Vec::new();
    for _ in 0..12 {
        let at = roll(used);
        let mut bytes = db.clone();
        bytes[at] ^= 1 << roll(8);
        damages.push((format!("bit at {at}"), bytes));
        let len = roll(used);
        damages.push((format!("cut to {len}"), db[..len].to_vec()));
    }
    for page in (0..used).step_by(4096).take(6) {
        let mut bytes = db.clone();
        let end = (page + 4096).min(bytes.len());
        bytes[page..end].fill(0);
        damages.push((format!("zeroed at {page}"), bytes));
    }
    damages.push(("empty".to_owned(), Vec::new()));
    for (what, bytes) in damages {
        n += 1;
        let copied = dir.path().join(n.to_string());
        copy(&original, &copied);
        fs::write(copied.join("db.1/db"), bytes).expect("damage");
        assert_whole_or_refused(&copied, &what, &mut refused);
    }
    assert!(refused > 0, "no damage was seen at all");
}

#[test]
fn damaged_conf_and_snapshots() {
    let dir = tempfile::tempdir().expect("tempdir");
    let original = dir.path().join("original");
    sample(&original);
    let mut refused = 0;
    for (n, path) in files(&original.join("db.1")).into_keys().enumerate() {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if name == "db" {
            continue;
        }
        let bytes = fs::read(&path).expect("read");
        for at in (0..bytes.len()).step_by(bytes.len().div_ceil(8).max(1)) {
            let copied = dir.path().join(format!("{n}-{at}"));
            copy(&original, &copied);
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x10;
            fs::write(copied.join("db.1").join(&name), bytes).expect("damage");
            assert_whole_or_refused(&copied, &format!("{name} at {at}"), &mut refused);
        }
    }
}

#[test]
fn the_executor_may_be_a_thread_on_any_store() {
    let disk = longhaul_journal::mem::MemDisk::new();
    let opened: Opened<Text> = Journal::open_store(disk.store(), Executor::Thread).expect("open");
    append(&opened.journal, 1..=5);
    drop(opened);
    let opened: Opened<Text> = Journal::open_store(disk.store(), Executor::Thread).expect("open");
    assert_eq!(tail(opened).len(), 5);
}

/// In a child: appends until it is killed, and says each number once it is committed.
#[test]
fn child_that_appends() {
    let Some(dir) = std::env::var_os("LONGHAUL_TEST_APPEND_TO") else { return };
    let opened = open(Path::new(&dir)).expect("open");
    let mut next = opened.report.last.0 + 1;
    let mut covered = opened.report.checkpoint.0;
    loop {
        append(&opened.journal, next..=next);
        // Past the harness's capture: the parent reads it.
        writeln!(std::io::stderr(), "committed {next}").expect("tell");
        if next - covered >= 40 {
            checkpoint(&opened.journal, covered, next);
            covered = next;
        }
        next += 1;
    }
}

#[test]
fn a_kill_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut total = 0;
    for round in 0..5_u64 {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "sled::child_that_appends", "--nocapture"])
            .env("LONGHAUL_TEST_APPEND_TO", dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("spawn");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let mut acknowledged = 0;
        let stop_at = total + 20 + round * 33;
        while acknowledged < stop_at {
            let line = lines.next().expect("the child lives").expect("text");
            if let Some(number) = line.strip_prefix("committed ") {
                acknowledged = number.parse().expect("a number");
            }
        }
        child.kill().expect("kill");
        child.wait().expect("wait");
        // What it said before it died, but nobody had read yet.
        for line in lines.map_while(Result::ok) {
            if let Some(Ok(number)) = line.strip_prefix("committed ").map(str::parse) {
                acknowledged = number;
            }
        }
        let opened = open(dir.path()).expect("after a kill it opens");
        let all = everything(&opened);
        total = all.len() as u64;
        assert!(total >= acknowledged, "{acknowledged} were acknowledged, {total} are there");
        assert!(all.iter().all(|(seq, value)| *value == Text::numbered(*seq, 100).0));
    }
}

#[test]
fn an_open_that_takes_too_long_is_reported() {
    let dir = tempfile::tempdir().expect("tempdir");
    sample(dir.path());
    let options = Options { open_time_limit: Duration::ZERO, ..Options::default() };
    let result: Result<Opened<Text>, _> = Journal::open(dir.path(), options);
    assert!(matches!(result, Err(OpenError::Stuck { waited_s: 0, .. })), "{result:?}");
    // The thread that was left behind lets go once it is done.
    loop {
        match open(dir.path()) {
            Err(OpenError::Locked { .. }) => std::thread::yield_now(),
            other => break assert_eq!(everything(&other.expect("open")).len(), 60),
        }
    }
}

#[test]
fn an_export_that_cannot_be_written_does_no_harm() {
    let dir = tempfile::tempdir().expect("tempdir");
    let journal = open(dir.path()).expect("open").journal;
    append(&journal, 1..=30);
    // In the way of the first export, and of the rename of the second.
    let name = |epoch| dir.path().join(format!("export-{epoch:010}-{:020}", 30));
    fs::create_dir(name(1).with_extension("new")).expect("plant");
    fs::create_dir(name(2)).expect("plant");
    fs::write(name(2).join("something"), b"").expect("plant");
    for _ in 0..2 {
        let puts = vec![(RowKey::new(b'j', 1, 0), b"row".to_vec())];
        let checkpoint = Checkpoint { through: Seq(30), puts, removes: vec![], export: Some(vec![b'j']) };
        let error = journal.checkpoint_blocking(checkpoint).expect_err("no export");
        assert!(matches!(error, CheckpointError::Export { .. }), "{error}");
        append(&journal, 31..=31);
    }
    assert!(!name(2).with_extension("new").exists(), "a half export is left");
    fs::remove_dir_all(name(2)).expect("clear");
    checkpoint(&journal, 0, 30);
    journal.close_blocking().expect("close");
    assert_eq!(read_export(name(3)).expect("the third").rows.len(), 30);
    assert_eq!(open(dir.path()).expect("reopen").report.rows, 30);
}

/// A kill after `head` was made and before it was first written.
#[test]
fn an_unwritten_witness_beside_a_new_database() {
    let dir = tempfile::tempdir().expect("tempdir");
    drop(open(dir.path()).expect("open"));
    let sound = fs::read(dir.path().join("head")).expect("read");
    fs::write(dir.path().join("head"), vec![0; sound.len()]).expect("zero");
    // With a database that was written to, it is damage,
    assert!(matches!(open(dir.path()), Err(OpenError::Damaged { .. })));
    // with none it is a journal that was never there.
    fs::remove_dir_all(dir.path().join("db.1")).expect("remove");
    assert!(open(dir.path()).expect("open").report.is_new);
}

/// sled takes a read error at open for the end of its log and overwrites the rest: the copy that was found
/// sound before must outlive that.
#[test]
fn a_database_that_was_spoiled_by_its_opening_is_put_back() {
    let dir = tempfile::tempdir().expect("tempdir");
    let dir = dir.path();
    sample(dir);
    copy(&dir.join("db.1"), &dir.join("kept"));
    fs::write(dir.join("db.1/db"), vec![0; 1 << 20]).expect("spoil");
    let opened = open(dir).expect("put back");
    assert_eq!((opened.rows.len(), opened.tail.len()), (30, 30));
    assert!(opened.report.notes.iter().any(|note| note.contains("put the database back")));
    append(&opened.journal, 61..=61);
    opened.journal.close_blocking().expect("close");
    assert!(!dir.join("kept").exists() && !dir.join("db.1").exists());
    assert_eq!(open(dir).expect("again").tail.len(), 31);
}

#[test]
fn a_kept_copy_counts_only_when_the_database_is_broken_and_it_is_as_new() {
    let dir = tempfile::tempdir().expect("tempdir");
    let dir = dir.path();
    sample(dir);
    copy(&dir.join("db.1"), &dir.join("kept"));
    let opened = open(dir).expect("a kill between keeping and forgetting");
    append(&opened.journal, 61..=61);
    opened.journal.close_blocking().expect("close");
    assert!(!dir.join("kept").exists(), "before anything is committed it is gone");

    let older = tempfile::tempdir().expect("tempdir");
    sample(older.path());
    copy(&older.path().join("db.1"), &dir.join("kept"));
    fs::write(dir.join("db.1/db"), vec![0; 1 << 20]).expect("spoil");
    let before = files(dir);
    assert!(open(dir).is_err(), "an older copy is no truth");
    assert_eq!(files(dir), before);
}

#[test]
fn a_directory_whose_first_open_was_killed_is_not_called_damaged() {
    let dir = tempfile::tempdir().expect("tempdir");
    fs::create_dir(dir.path().join("db.1.new")).expect("half made");
    let report = verify(dir.path()).expect("verify");
    assert!(report.problem.is_none(), "{:?}", report.problem);
    assert!(open(dir.path()).is_ok());
}
