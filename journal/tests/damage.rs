//! Damage and loss on the in-memory store: told apart, never taken for an end, never changed by looking.

use longhaul_journal::mem::MemDisk;
use longhaul_journal::{Checkpoint, Executor, Journal, OpenError, RowKey, Seq};
use proptest::prelude::*;

use crate::common::{Newer, Text, everything, open_mem, property};

/// Five commits in the log, three rows, one export's worth of history.
fn disk() -> MemDisk {
    let disk = MemDisk::new();
    let journal = open_mem(&disk).expect("open").journal;
    for n in 1..=4 {
        journal.append_all_blocking(vec![Text::numbered(n, 50)]).expect("append");
    }
    let row = |n| (RowKey::new(b'j', n, 0), Text::numbered(n, 50).0);
    let puts = (1..=3).map(row).collect();
    journal
        .checkpoint_blocking(Checkpoint { through: Seq(3), puts, ..Default::default() })
        .expect("checkpoint");
    for n in 5..=8 {
        journal.append_all_blocking(vec![Text::numbered(n, 50), Text::new("x")]).expect("append");
    }
    journal.close_blocking().expect("close");
    disk
}

fn commit_key(lsn: u64) -> Vec<u8> {
    [b"w".as_slice(), &lsn.to_be_bytes()].concat()
}

/// Opens a damaged copy: it must refuse, and leave every byte as it was.
fn refusal(disk: &MemDisk) -> OpenError {
    let before = (disk.map(|map| map.clone()), disk.witness(|slots| slots.clone()));
    let error = open_mem(disk).expect_err("damage was not seen");
    disk.crash(1);
    assert_eq!((disk.map(|map| map.clone()), disk.witness(|slots| slots.clone())), before, "it was changed");
    error
}

#[track_caller]
fn assert_damaged(disk: &MemDisk) {
    let error = refusal(disk);
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
}

#[track_caller]
fn assert_lost_tail(disk: &MemDisk) {
    let error = refusal(disk);
    assert!(matches!(error, OpenError::LostTail { .. }), "{error}");
}

#[test]
fn every_bit_of_every_value() {
    let disk = disk();
    let pairs: Vec<_> = disk.map(|map| map.clone().into_iter().collect());
    for (key, value) in pairs {
        for bit in 0..value.len() * 8 {
            let disk = disk.copy();
            let mut changed = value.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            disk.map(|map| map.insert(key.clone(), changed));
            assert_damaged(&disk);
        }
    }
}

#[test]
fn cut_and_zeroed_values() {
    let disk = disk();
    let pairs: Vec<_> = disk.map(|map| map.clone().into_iter().collect());
    for (key, value) in pairs {
        for len in 0..value.len() {
            let cut = disk.copy();
            cut.map(|map| map.insert(key.clone(), value[..len].to_vec()));
            assert_damaged(&cut);
        }
        let zeroed = disk.copy();
        zeroed.map(|map| map.insert(key.clone(), vec![0; value.len()]));
        assert_damaged(&zeroed);
    }
}

#[test]
fn a_missing_row_or_commit() {
    let disk = disk();
    let keys: Vec<Vec<u8>> = disk.map(|map| map.keys().cloned().collect());
    for key in keys {
        // Only a count of opens; the next one starts it again.
        if key == b"mopens" {
            continue;
        }
        let copy = disk.copy();
        copy.map(|map| map.remove(&key));
        if key == commit_key(8) {
            assert_lost_tail(&copy);
        } else {
            let error = refusal(&copy);
            let refused = matches!(error, OpenError::Damaged { .. } | OpenError::LostTail { .. });
            assert!(refused, "{error}");
        }
    }
}

#[test]
fn every_silent_prefix() {
    let disk = disk();
    let len = disk.map(|map| map.len());
    // sled can forget its newest pages without a word: here, all of the newest commits.
    for lost in 1..=4 {
        let copy = disk.copy();
        copy.map(|map| (0..lost).for_each(|n| drop(map.remove(&commit_key(8 - n)))));
        assert_lost_tail(&copy);
    }
    for kept in 0..len {
        let copy = disk.copy();
        copy.map(|map| *map = map.clone().into_iter().take(kept).collect());
        refusal(&copy);
    }
}

#[test]
fn an_empty_store_beside_a_witness_is_no_new_journal() {
    let disk = disk();
    disk.map(std::collections::BTreeMap::clear);
    assert_lost_tail(&disk);
}

#[test]
fn commits_of_another_history() {
    let (disk, other) = (disk(), MemDisk::new());
    let journal = open_mem(&other).expect("open").journal;
    for n in 0..8 {
        journal.append_all_blocking(vec![Text::numbered(100 + n, 50)]).expect("append");
    }
    // Right number, right checksum, wrong chain.
    for lsn in 4..=8 {
        let foreign = other.map(|map| map[&commit_key(lsn)].clone());
        let copy = disk.copy();
        copy.map(|map| map.insert(commit_key(lsn), foreign));
        assert_damaged(&copy);
    }
    // A whole other journal of the same length under this witness.
    let whole = other.map(|map| map.clone());
    let copy = disk.copy();
    copy.map(|map| *map = whole);
    refusal(&copy);
    // The same record twice.
    let copy = disk.copy();
    copy.map(|map| map.insert(commit_key(9), map[&commit_key(8)].clone()));
    assert_damaged(&copy);
}

#[test]
fn the_witness_itself() {
    let disk = disk();
    let missing = disk.copy();
    missing.witness(|slots| *slots = [vec![], vec![]]);
    assert_damaged(&missing);
    let unreadable = disk.copy();
    unreadable.witness(|slots| slots.iter_mut().for_each(|slot| slot[9] ^= 1));
    assert_damaged(&unreadable);
    // One slot is torn: the other one holds the line, and its bound is at most one commit older.
    for slot in 0..2 {
        let torn = disk.copy();
        torn.witness(|slots| slots[slot][9] ^= 1);
        assert_eq!(everything(&open_mem(&torn).expect("one slot is enough")).len(), 12);
    }
    // An older witness is only a weaker bound.
    let old = disk.copy();
    let newer = disk.copy();
    open_mem(&newer).expect("open").journal.append_all_blocking(vec![Text::new("more")]).expect("append");
    let slots = old.witness(|slots| slots.clone());
    newer.witness(|witness| *witness = slots);
    open_mem(&newer).expect("a lower bound");
}

#[test]
fn a_newer_version_is_refused_unchanged() {
    let disk = MemDisk::new();
    let journal: Journal<Newer> = Journal::open_store(disk.store(), Executor::Inline).expect("open").journal;
    journal.append_all_blocking(vec![Newer(b"from the future".to_vec())]).expect("append");
    drop(journal);
    let error = refusal(&disk);
    assert!(matches!(error, OpenError::NewerVersion { found: 3, supported: 1, .. }), "{error}");
    // Also when only the record tells, not the witness.
    let (old_witness, other) = (MemDisk::new(), disk.copy());
    drop(open_mem(&old_witness).expect("open"));
    let slots = old_witness.witness(|slots| slots.clone());
    other.witness(|witness| *witness = slots);
    let error = refusal(&other);
    assert!(matches!(error, OpenError::NewerVersion { found: 3, supported: 1, .. }), "{error}");
    // A newer format, with a checksum that holds.
    let other = disk.copy();
    other.map(|map| {
        let key = b"mformat".to_vec();
        let mut value = vec![2, b'm', 0, 0, 0, 0, 9, 9];
        let crc = crc32fast::hash(&[&value[..2], &key, &value[6..]].concat());
        value[2..6].copy_from_slice(&crc.to_be_bytes());
        map.insert(key, value);
    });
    let newer: Result<longhaul_journal::Opened<Newer>, _> =
        Journal::open_store(other.store(), Executor::Inline);
    let error = newer.expect_err("format 2");
    assert!(matches!(error, OpenError::NewerVersion { found: 2, supported: 1, .. }), "{error}");
}

proptest! {
    #![proptest_config(property())]

    /// Any keys and values in any places: an answer, never a panic, and in no time.
    #[test]
    fn arbitrary_bytes_never_panic(
        pairs in prop::collection::vec(
            (prop_oneof![Just(b"mcheckpoint".to_vec()), Just(b"mopens".to_vec()), Just(commit_key(4)),
                         prop::collection::vec(any::<u8>(), 0..20)],
             prop::collection::vec(any::<u8>(), 0..200)), 1..8),
        reseal in any::<bool>(),
    ) {
        let disk = disk();
        for (key, mut value) in pairs {
            // With a right checksum the bytes get past the first gate.
            if reseal && value.len() >= 6 {
                value[0] = 1;
                value[1] = match key.first() { Some(b'w') => b'w', Some(b'm') => b'm', _ => b'r' };
                let crc = crc32fast::hash(&[&value[..2], &key, &value[6..]].concat());
                value[2..6].copy_from_slice(&crc.to_be_bytes());
            }
            disk.map(|map| map.insert(key, value));
        }
        let _ = open_mem(&disk);
    }
}
