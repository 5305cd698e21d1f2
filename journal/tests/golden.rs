//! The bytes on disk, frozen: a change here is a new format, or a mistake.

use longhaul_journal::mem::MemDisk;
use longhaul_journal::{Checkpoint, RowKey, Seq};

use crate::common::{Text, open_mem};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn dump(disk: &MemDisk) -> String {
    let mut lines = Vec::new();
    disk.map(|map| {
        for (key, value) in map {
            lines.push(format!("{} = {}", hex(key), hex(value)));
        }
    });
    disk.witness(|slots| lines.extend(slots.iter().map(|slot| format!("witness {}", hex(slot)))));
    let exports = disk.exports().into_iter();
    lines.extend(exports.map(|(name, image)| format!("{name} {}", hex(&image))));
    lines.join("\n") + "\n"
}

fn check(name: &str, found: &str, golden: &str) {
    // For a new format, which has new files: the old ones stay, and stay readable.
    if let Some(dir) = std::env::var_os("LONGHAUL_GOLDEN_DIR") {
        std::fs::write(std::path::Path::new(&dir).join(name).with_extension("txt"), found).expect("write");
        return;
    }
    assert_eq!(found, golden, "{name} has changed; found:\n{found}");
}

#[test]
fn commits() {
    let disk = MemDisk::new();
    let journal = open_mem(&disk).expect("open").journal;
    journal.append_all_blocking(vec![Text::new("one")]).expect("append");
    journal.append_all_blocking(vec![Text::new("two"), Text::new("")]).expect("append");
    check("commits", &dump(&disk), include_str!("golden/commits.txt"));
}

#[test]
fn checkpoint() {
    let disk = MemDisk::new();
    let journal = open_mem(&disk).expect("open").journal;
    journal.append_all_blocking(vec![Text::new("one")]).expect("append");
    journal.append_all_blocking(vec![Text::new("two"), Text::new("three")]).expect("append");
    let rows = vec![
        (RowKey::new(b'j', 7, 0), b"job".to_vec()),
        (RowKey::new(b'p', 7, 3), b"part".to_vec()),
        (RowKey::named(b'i', "key"), b"7".to_vec()),
    ];
    let export = Some(vec![b'j', b'p', b'i']);
    let checkpoint = Checkpoint { through: Seq(2), puts: rows, removes: vec![], export };
    journal.checkpoint_blocking(checkpoint).expect("checkpoint");
    check("checkpoint", &dump(&disk), include_str!("golden/checkpoint.txt"));
}

/// Files of this format, as written by the first version, are read for as long as format 1 is.
#[test]
fn old_bytes_are_read() {
    let disk = MemDisk::new();
    let bytes = |text: &str| -> Vec<u8> {
        let pairs = (0..text.len()).step_by(2);
        pairs.map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
    };
    let mut slot = 0;
    for line in include_str!("golden/checkpoint.txt").lines() {
        if let Some((key, value)) = line.split_once(" = ") {
            disk.map(|map| map.insert(bytes(key), bytes(value)));
        } else if let Some(found) = line.strip_prefix("witness ") {
            disk.witness(|slots| slots[slot] = bytes(found));
            slot += 1;
        }
    }
    let opened = open_mem(&disk).expect("open");
    assert_eq!(opened.rows.len(), 3);
    assert_eq!(opened.report.checkpoint, Seq(2));
    assert_eq!(crate::common::tail(opened), [(3, b"three".to_vec())]);
}
