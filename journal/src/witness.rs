//! The witness: a small file beside the store that says how far the journal had reached.
//!
//! ```text
//! slot  [magic "LHJW"][format u8][record version u8][0 u16]
//!       [lsn u64][seq u64][chain u64][epoch u32][crc32 u32]
//! ```
//!
//! Two slots take turns, so that a torn write costs the newer one at most. A slot is written after
//! every flush and before the acknowledgement, without a sync (a kill keeps it), and synced about
//! once a second and at checkpoints.
//!
//! Invariant: the witness is never ahead of what is durable, so a journal that ends before it has
//! lost something. It may be behind: it is a lower bound, never the truth about the end.

use crate::error::{OpenError, Reach, StoreError};
use crate::record::{FORMAT, Reader, Seq, Unsound};
use crate::store::Store;

const MAGIC: &[u8; 4] = b"LHJW";

/// The length of one slot.
pub(crate) const SLOT_LEN: usize = 40;

/// What one slot says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The newest record version in the journal.
    pub(crate) record_version: u8,
    pub(crate) reach: Reach,
    /// The chain after commit `reach.lsn`.
    pub(crate) chain: u64,
}

impl Mark {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut slot = Vec::with_capacity(SLOT_LEN);
        slot.extend_from_slice(MAGIC);
        slot.extend_from_slice(&[FORMAT, self.record_version, 0, 0]);
        slot.extend_from_slice(&self.reach.lsn.to_be_bytes());
        slot.extend_from_slice(&self.reach.seq.0.to_be_bytes());
        slot.extend_from_slice(&self.chain.to_be_bytes());
        slot.extend_from_slice(&self.reach.epoch.to_be_bytes());
        slot.extend_from_slice(&crc32fast::hash(&slot).to_be_bytes());
        slot
    }

    fn decode(slot: &[u8]) -> Result<Self, Unsound> {
        let mut reader = Reader(slot);
        if reader.bytes(4)? != MAGIC {
            return Err(Unsound::Damaged("it does not begin as a witness"));
        }
        let format = reader.u8()?;
        let record_version = reader.u8()?;
        let _reserved = reader.u16()?;
        let reach_lsn = reader.u64()?;
        let seq = Seq(reader.u64()?);
        let chain = reader.u64()?;
        let epoch = reader.u32()?;
        if reader.u32()? != crc32fast::hash(&slot[..SLOT_LEN - 4]) {
            return Err(Unsound::Damaged("its checksum does not match"));
        }
        // The layout of a slot is frozen, so that a newer journal is refused before the store is touched.
        if format > FORMAT {
            return Err(Unsound::Newer(format));
        }
        Ok(Self { record_version, reach: Reach { lsn: reach_lsn, seq, epoch }, chain })
    }
}

/// What the two slots together say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// There has never been a witness here.
    Absent,
    /// There is one, but neither slot can be read.
    Unreadable,
    /// The greater slot, and where it lies.
    Mark(Mark, u8),
}

/// Reads both slots.
pub(crate) fn read(store: &mut dyn Store, place: &str) -> Result<Seen, OpenError> {
    let slots = store.witness_read().map_err(|error| OpenError::store(place, error))?;
    read_slots(&slots, place)
}

pub(crate) fn read_slots(slots: &[Vec<u8>; 2], place: &str) -> Result<Seen, OpenError> {
    let mut best: Option<(Mark, u8)> = None;
    for (at, slot) in (0_u8..).zip(slots) {
        match Mark::decode(slot) {
            Ok(mark) => {
                let newer = best.is_none_or(|(other, _)| {
                    (mark.reach.epoch, mark.reach.lsn) > (other.reach.epoch, other.reach.lsn)
                });
                if newer {
                    best = Some((mark, at));
                }
            }
            Err(Unsound::Newer(found)) => {
                return Err(OpenError::NewerVersion {
                    place: place.to_owned(),
                    what: "the format",
                    found,
                    supported: FORMAT,
                });
            }
            Err(Unsound::Damaged(_)) => {}
        }
    }
    Ok(match best {
        Some((mark, at)) => Seen::Mark(mark, at),
        None if slots.iter().all(Vec::is_empty) => Seen::Absent,
        None => Seen::Unreadable,
    })
}

/// Writes the slots in turn.
#[derive(Debug)]
pub(crate) struct Writer {
    next_slot: u8,
    unsynced: bool,
}

impl Writer {
    /// Goes on after the slot that holds the greater mark, so that the greater one is never overwritten first.
    pub(crate) fn after(seen: &Seen) -> Self {
        let next_slot = match seen {
            Seen::Mark(_, slot) => 1 - slot,
            Seen::Absent | Seen::Unreadable => 0,
        };
        Self { next_slot, unsynced: false }
    }

    pub(crate) fn write(&mut self, store: &mut dyn Store, mark: &Mark) -> Result<(), StoreError> {
        store.witness_write(self.next_slot, &mark.encode())?;
        self.next_slot = 1 - self.next_slot;
        self.unsynced = true;
        Ok(())
    }

    /// Whether a sync would make anything more durable.
    pub(crate) fn unsynced(&self) -> bool {
        self.unsynced
    }

    pub(crate) fn sync(&mut self, store: &mut dyn Store) -> Result<(), StoreError> {
        store.witness_sync()?;
        self.unsynced = false;
        Ok(())
    }
}
