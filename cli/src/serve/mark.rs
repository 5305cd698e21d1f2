//! The durable offset of an upload, `<id>.off`.
//!
//! The length of the part file does not tell how much of it would survive a power cut: file systems
//! with delayed allocation may keep the length and lose the bytes. So the offset is journaled beside
//! it, after the bytes are synced and before anyone hears of it.
//!
//! ```text
//! byte 0     slot 0: magic 8 | sequence 8 | offset 8 | digest 32   (little-endian)
//! byte 4096  slot 1: the same; a sequence number lives in the slot of its parity
//! ```
//!
//! Invariants: a slot is overwritten only while the other holds the last durable offset, and they
//! share no sector, so a torn write costs at most what was never acknowledged. The digest covers the
//! upload's id, so that a file under the wrong name counts as damaged. Bytes `..offset` of the part
//! file were synced before the slot was written.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use sha2::{Digest, Sha256};

use super::{dir::Root, record::Id};

const MAGIC: [u8; 8] = *b"haulmrk1";
const SLOT_BYTES: usize = 56;
const SLOT_STRIDE: u64 = 4096;

/// An open mark file.
pub struct Mark {
    file: File,
    id: Id,
    sequence: u64,
}

impl Mark {
    /// Writes a fresh mark file for an upload that has no record yet. The name is not synced: the
    /// record that follows does that.
    pub fn create(root: &Root, id: &Id) -> io::Result<()> {
        let file = root.create_state(&id.mark())?;
        file.write_all_at(&image(id, 0), 0)?;
        file.sync_all()
    }

    /// Replaces the mark file by a new inode that says `offset`: after a failed sync, what the old
    /// one holds on disk is unknown, and a second sync of it may lie.
    pub fn renew(root: &Root, id: &Id, offset: u64) -> io::Result<()> {
        root.write_durably(&id.mark(), &image(id, offset))
    }

    /// Opens the mark file and reads the offset; a file without a valid slot says 0.
    pub fn open(root: &Root, id: &Id) -> io::Result<(Self, u64)> {
        let file = root.open_state(&id.mark())?;
        let mut newest = (0, 0);
        for slot in 0..2 {
            let mut bytes = [0; SLOT_BYTES];
            match file.read_exact_at(&mut bytes, slot * SLOT_STRIDE) {
                Ok(()) => newest = newest.max(decode(id, &bytes).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                Err(error) => return Err(error),
            }
        }
        let (sequence, offset) = newest;
        let id = id.clone();
        Ok((Self { file, id, sequence }, offset))
    }

    /// Writes the newest slot once more, in place, and syncs it. A predecessor whose sync failed
    /// leaves a slot that is in the page cache but perhaps not on disk, and the next sync would find
    /// nothing to do. A torn write is harmless: what was acknowledged is on disk with the same bytes.
    pub fn reaffirm(&mut self, offset: u64) -> io::Result<()> {
        self.write(self.sequence, offset)
    }

    /// Makes `offset` the durable one. The bytes before it must be synced already.
    pub fn advance(&mut self, offset: u64) -> io::Result<()> {
        self.write(self.sequence + 1, offset)?;
        self.sequence += 1;
        Ok(())
    }

    fn write(&self, sequence: u64, offset: u64) -> io::Result<()> {
        let slot = encode(&self.id, sequence, offset);
        self.file.write_all_at(&slot, (sequence % 2) * SLOT_STRIDE)?;
        self.file.sync_data()
    }
}

/// A whole mark file. Both slots are allocated, so that `advance` never needs new space.
fn image(id: &Id, offset: u64) -> Vec<u8> {
    let mut bytes = vec![0; 2 * SLOT_STRIDE as usize];
    let start = SLOT_STRIDE as usize;
    bytes[start..start + SLOT_BYTES].copy_from_slice(&encode(id, 1, offset));
    bytes
}

fn encode(id: &Id, sequence: u64, offset: u64) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..8].copy_from_slice(&MAGIC);
    slot[8..16].copy_from_slice(&sequence.to_le_bytes());
    slot[16..24].copy_from_slice(&offset.to_le_bytes());
    let digest = digest(id, &slot[..24]);
    slot[24..].copy_from_slice(&digest);
    slot
}

/// Sequence and offset, if the slot is whole.
fn decode(id: &Id, slot: &[u8; SLOT_BYTES]) -> Option<(u64, u64)> {
    let whole = slot[..8] == MAGIC && slot[24..] == digest(id, &slot[..24]);
    let word = |at: usize| slot[at..at + 8].try_into().map(u64::from_le_bytes).ok();
    if whole { Some((word(8)?, word(16)?)) } else { None }
}

fn digest(id: &Id, head: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(id.to_string()).chain_update(head).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> (tempfile::TempDir, Root, Id) {
        let dir = tempfile::tempdir().expect("directory");
        let (root, _lock) = Root::open(dir.path()).expect("root");
        let id = Id::random().expect("random");
        Mark::create(&root, &id).expect("create");
        (dir, root, id)
    }

    #[test]
    fn the_last_offset_is_read_back() {
        let (_dir, root, id) = opened();
        for offset in [0, 5, 1 << 40] {
            let (mut mark, _) = Mark::open(&root, &id).expect("open");
            mark.advance(offset).expect("advance");
            mark.reaffirm(offset).expect("reaffirm");
            assert_eq!(Mark::open(&root, &id).expect("open").1, offset);
        }
        Mark::renew(&root, &id, 7).expect("renew");
        assert_eq!(Mark::open(&root, &id).expect("open").1, 7);
    }

    #[test]
    fn a_write_torn_at_any_byte_leaves_the_offset_before_it() {
        let (_dir, root, id) = opened();
        let (mut mark, _) = Mark::open(&root, &id).expect("open");
        mark.advance(1000).expect("advance");
        let next = encode(&id, 3, 2000);
        let slot_at = SLOT_STRIDE;
        let mut old = [0; SLOT_BYTES];
        mark.file.read_exact_at(&mut old, slot_at).expect("read");
        for torn in 0..=SLOT_BYTES {
            mark.file.write_all_at(&old, slot_at).expect("write");
            mark.file.write_all_at(&next[..torn], slot_at).expect("write");
            let expected = if torn == SLOT_BYTES { 2000 } else { 1000 };
            assert_eq!(Mark::open(&root, &id).expect("open").1, expected, "torn at {torn}");
        }
    }

    #[test]
    fn a_damaged_or_foreign_mark_says_nothing_is_durable() {
        let (_dir, root, id) = opened();
        let other = Id::random().expect("random");
        let file = root.open_state(&id.mark()).expect("open");
        file.write_all_at(&image(&other, 99), 0).expect("write");
        assert_eq!(Mark::open(&root, &id).expect("open").1, 0);
        file.set_len(10).expect("truncate");
        assert_eq!(Mark::open(&root, &id).expect("open").1, 0);
    }
}
