//! Checkpoints: what they refuse, what they leave, and what a half one leaves.

use longhaul_journal::mem::{Fault, MemDisk};
use longhaul_journal::{
    Checkpoint, CheckpointError, Executor, Journal, NAME_MAX, ROW_MAX, RowKey, Seq, read_export,
};

use crate::common::{Text, everything, open_mem, rows_through, tail};

fn with_records(disk: &MemDisk, count: u64) -> (Journal<Text>, Vec<Vec<u8>>) {
    let journal = open_mem(disk).expect("open").journal;
    let values: Vec<_> = (1..=count).map(|n| Text::numbered(n, 100)).collect();
    for value in &values {
        journal.append_all_blocking(vec![value.clone()]).expect("append");
    }
    (journal, values.into_iter().map(|value| value.0).collect())
}

#[test]
fn cuts_the_log_and_keeps_the_rest() {
    let disk = MemDisk::new();
    let (journal, records) = with_records(&disk, 100);
    let before = journal.log_bytes();
    journal.checkpoint_blocking(rows_through(&records, 0, 60)).expect("checkpoint");
    assert!(journal.log_bytes() < before / 2 && journal.log_bytes() > 0);
    disk.crash(5);
    let opened = open_mem(&disk).expect("reopen");
    assert_eq!((opened.rows.len(), opened.tail.len()), (60, 40));
    assert_eq!(opened.tail[0].seq(), Seq(61));
    assert!(opened.rows.iter().all(|row| row.seq == Seq(60)));
    assert!(!opened.report.checkpoint_unfinished);
    assert_eq!(everything(&opened).len(), 100);
}

#[test]
fn a_mark_inside_a_group_commit() {
    let disk = MemDisk::new();
    let journal = open_mem(&disk).expect("open").journal;
    let texts = ["a", "b", "c"].map(Text::new).to_vec();
    journal.append_all_blocking(texts).expect("append");
    let checkpoint = Checkpoint { through: Seq(2), ..Checkpoint::default() };
    journal.checkpoint_blocking(checkpoint).expect("checkpoint");
    disk.crash(0);
    let opened = open_mem(&disk).expect("reopen");
    assert_eq!(opened.report.last, Seq(3));
    opened.journal.append_all_blocking(vec![Text::new("d")]).expect("append");
    disk.crash(0);
    assert_eq!(tail(open_mem(&disk).expect("reopen")), [(3, b"c".to_vec()), (4, b"d".to_vec())]);
}

#[test]
fn rows_are_replaced_and_removed() {
    let disk = MemDisk::new();
    let (journal, _) = with_records(&disk, 3);
    let key = |id| RowKey::new(b'j', id, 0);
    let name = RowKey::named(b'i', [0xff; NAME_MAX]);
    let puts = vec![(key(1), b"1".to_vec()), (key(2), b"2".to_vec()), (name.clone(), vec![9; ROW_MAX])];
    journal.checkpoint_blocking(Checkpoint { through: Seq(2), puts, ..Default::default() }).expect("first");
    // The same record again: a checkpoint may only drop what ended long ago. Twice the same key: the last one counts.
    let puts = vec![(key(2), b"two".to_vec()), (key(2), b"zwei".to_vec())];
    let removes = vec![key(1), key(1), key(77)];
    journal.checkpoint_blocking(Checkpoint { through: Seq(2), puts, removes, export: None }).expect("second");
    disk.crash(9);
    let rows = open_mem(&disk).expect("reopen").rows;
    let rows: Vec<_> = rows.into_iter().map(|row| (row.key, row.value)).collect();
    assert_eq!(rows, [(name, vec![9; ROW_MAX]), (key(2), b"zwei".to_vec())]);
}

#[test]
fn refusals_write_nothing() {
    let disk = MemDisk::new();
    let (journal, records) = with_records(&disk, 5);
    journal.checkpoint_blocking(rows_through(&records, 0, 3)).expect("checkpoint");
    let before = disk.map(|map| map.clone());
    let put =
        |key, len| Checkpoint { through: Seq(4), puts: vec![(key, vec![0; len])], ..Default::default() };
    let refused = [
        put(RowKey::new(b'j', 1, 0), ROW_MAX + 1),
        put(RowKey::new(b'w', 1, 0), 1),
        put(RowKey::new(b'm', 1, 0), 1),
        put(RowKey::named(b'i', [b'x'; NAME_MAX + 1]), 1),
        Checkpoint { through: Seq(4), removes: vec![RowKey::new(b'w', 1, 0)], ..Default::default() },
        Checkpoint { through: Seq(4), export: Some(vec![b'j', b'm']), ..Default::default() },
        Checkpoint { through: Seq(6), ..Default::default() },
        Checkpoint { through: Seq(2), ..Default::default() },
    ];
    for checkpoint in refused {
        let error = journal.checkpoint_blocking(checkpoint).expect_err("refused");
        let expected = matches!(
            error,
            CheckpointError::RowTooLarge { .. }
                | CheckpointError::Key { .. }
                | CheckpointError::Through { .. }
        );
        assert!(expected, "{error}");
    }
    assert_eq!(disk.map(|map| map.clone()), before);
    journal.append_all_blocking(vec![Text::new("on it goes")]).expect("append");
}

#[test]
fn a_failed_export_does_not_poison() {
    let disk = MemDisk::new();
    let (journal, records) = with_records(&disk, 5);
    // At its beginning, its head, its rows and its end.
    for calls in 0..4 {
        disk.fail_after(Fault::Export, calls);
        let checkpoint = Checkpoint { export: Some(vec![b'j']), ..rows_through(&records, 0, 5) };
        let error = journal.checkpoint_blocking(checkpoint).expect_err("no export");
        assert!(matches!(error, CheckpointError::Export { .. }), "{error}");
        journal.append_all_blocking(vec![Text::new("on it goes")]).expect("append");
        assert!(disk.exports().is_empty());
    }
    disk.heal();
    let checkpoint = Checkpoint { through: Seq(5), export: Some(vec![b'j']), ..Checkpoint::default() };
    journal.checkpoint_blocking(checkpoint).expect("the next one is written");
    assert_eq!(disk.exports().len(), 1);
    disk.crash(0);
    assert_eq!(open_mem(&disk).expect("reopen").rows.len(), 5);
}

#[test]
fn exports_are_read_back_and_checked() {
    let disk = MemDisk::new();
    let (journal, _) = with_records(&disk, 3);
    let rows = vec![(RowKey::new(b'j', 1, 0), b"one".to_vec()), (RowKey::named(b'i', "key"), b"1".to_vec())];
    let mut puts = rows.clone();
    puts.push((RowKey::new(b'k', 1, 0), b"of a table that is not exported".to_vec()));
    for through in 1..=3 {
        // A table that is named twice is exported once, one without rows not at all.
        let export = Some(vec![b'j', b'i', b'j', b'z']);
        let puts = std::mem::take(&mut puts);
        let checkpoint = Checkpoint { through: Seq(through), puts, export, ..Checkpoint::default() };
        journal.checkpoint_blocking(checkpoint).expect("checkpoint");
    }
    let exports = disk.exports();
    assert_eq!(exports.len(), 2, "two are kept");
    let image = exports.values().next_back().expect("the newest");
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("export");
    let read = |bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("write");
        read_export(&path)
    };
    let export = read(image).expect("whole");
    assert_eq!((export.through, export.rows), (Seq(3), rows));
    for bit in 0..image.len() * 8 {
        let mut bytes = image.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&bytes).is_err(), "bit {bit} flipped");
    }
    for len in 0..image.len() {
        assert!(read(&image[..len]).is_err(), "cut to {len}");
    }
}

#[test]
fn commits_go_on_during_a_checkpoint() {
    let disk = MemDisk::new();
    let opened = Journal::<Text>::open_store(disk.store(), Executor::Thread).expect("open");
    let journal = opened.journal;
    let records: Vec<_> = (1..=3000).map(|n| Text::numbered(n, 20)).collect();
    journal.append_all_blocking(records.clone()).expect("append");
    let records: Vec<_> = records.into_iter().map(|record| record.0).collect();
    std::thread::scope(|scope| {
        let writer = journal.clone();
        scope.spawn(move || {
            for n in 3001..=3200 {
                writer.append_all_blocking(vec![Text::numbered(n, 20)]).expect("append");
            }
        });
        journal.checkpoint_blocking(rows_through(&records, 0, 3000)).expect("checkpoint");
    });
    journal.close_blocking().expect("close");
    disk.crash(0);
    let opened = open_mem(&disk).expect("reopen");
    assert_eq!((opened.rows.len(), opened.tail.len()), (3000, 200));
}
