//! One body on its way to the disk. Blocking: lives on a thread of its own.
//!
//! ```text
//! open --block--> written --every 16 MiB, or every second--> synced -> marked -> acknowledged
//!                    |
//!                    +--end of body--> kept (as above), or rolled back to the offset
//!                    +--all bytes---> synced -> published -> acknowledged
//! ```
//!
//! Invariants: an offset is acknowledged only after data and mark are synced; the last byte only
//! after the object is published. With a checksum nothing of the chunk is acknowledged before the
//! whole of it was verified. After a failed sync the file is never synced again as it is (the kernel
//! would report success for pages it dropped): it is cut back to the offset and sent again.

use std::{fs::File, io, os::unix::fs::FileExt as _, sync::Arc};

use tokio::sync::OwnedMutexGuard;

use super::{
    checksum::Checksum,
    mark::Mark,
    reply::Refusal,
    upload::{Upload, Writer},
};

/// Dirty bytes at most before a sync: bounds what a kill costs and how long the last sync takes.
const SYNC_EVERY_BYTES: u64 = 16 * 1024 * 1024;

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As HTTP says it should.
    Whole,
    /// The connection was lost.
    Cut,
    /// Nothing came for too long.
    Stalled,
    /// The server is shutting down.
    Stopping,
    /// The upload is being deleted.
    Deleted,
    /// More bytes than the upload has room for; the excess was not handed on.
    Overrun,
}

pub struct Chunk {
    upload: Arc<Upload>,
    writer: OwnedMutexGuard<Writer>,
    // Opened before anything is written, so that a sync reports every error since.
    part: File,
    mark: Mark,
    position: u64,
    unsynced_bytes: u64,
    checksum: Option<Checksum>,
    /// A sync failed: bytes past the offset may be lost although a later sync says otherwise.
    spoiled: bool,
}

impl Chunk {
    /// Opens the files and removes whatever an earlier body left past the offset.
    pub fn open(
        upload: Arc<Upload>,
        mut writer: OwnedMutexGuard<Writer>,
        checksum: Option<Checksum>,
    ) -> io::Result<Self> {
        let (id, offset) = (&upload.id, upload.offset());
        let root = Arc::clone(&writer.root);
        let (mut mark, marked) = Mark::open(&root, id)?;
        // The mark first: cutting the file below what it may say would make the mark a lie.
        if writer.mark_stale || marked != offset {
            Mark::renew(&root, id, offset)?;
            mark = Mark::open(&root, id)?.0;
            writer.mark_stale = false;
        }
        let part = root.open_state(&id.part())?;
        if writer.tail {
            part.set_len(offset)?;
            writer.tail = false;
        }
        Ok(Self { upload, writer, part, mark, position: offset, unsynced_bytes: 0, checksum, spoiled: false })
    }

    pub fn write(&mut self, block: &[u8]) -> io::Result<()> {
        self.writer.tail = true;
        self.part.write_all_at(block, self.position)?;
        self.position += block.len() as u64;
        self.unsynced_bytes += block.len() as u64;
        if let Some(checksum) = &mut self.checksum {
            checksum.update(block);
        }
        if self.unsynced_bytes >= SYNC_EVERY_BYTES {
            self.commit()?;
        }
        Ok(())
    }

    /// Syncs what was written, and acknowledges it if it may count already.
    pub fn commit(&mut self) -> io::Result<()> {
        self.sync(File::sync_data)?;
        let counts = self.checksum.is_none() && self.position < self.upload.length;
        if !counts || self.position == self.upload.offset() {
            return Ok(());
        }
        if let Err(error) = self.mark.advance(self.position) {
            self.writer.mark_stale = true;
            self.spoiled = true;
            return Err(error);
        }
        self.upload.acknowledge(self.position);
        self.writer.tail = false;
        Ok(())
    }

    /// Decides what becomes of the chunk when its body has ended.
    pub fn finish(mut self, end: End) -> Result<(), Refusal> {
        let refusal = match end {
            End::Whole => None,
            End::Cut => Some(Refusal::Cut),
            End::Stalled => Some(Refusal::Stalled),
            End::Stopping => Some(Refusal::Stopping),
            End::Deleted => Some(Refusal::NotFound),
            End::Overrun => Some(Refusal::TooLarge),
        };
        let refusal = match self.checksum.take() {
            Some(checksum) if refusal.is_none() => (!checksum.holds()).then_some(Refusal::Checksum),
            Some(_) => refusal,
            None if end == End::Overrun => refusal,
            None => return self.keep(refusal),
        };
        match refusal {
            Some(refusal) => {
                self.roll_back();
                Err(refusal)
            }
            None => self.keep(None),
        }
    }

    /// Keeps what was written before the disk refused more, if it can be kept.
    pub fn give_up(mut self, error: io::Error) -> Refusal {
        if !self.spoiled && self.checksum.is_none() {
            let _ = self.commit(); // the first error is the one to tell
        }
        self.writer.tail = true; // a write that failed may have written something all the same
        self.roll_back();
        error.into()
    }

    fn keep(mut self, refusal: Option<Refusal>) -> Result<(), Refusal> {
        if self.position == self.upload.length {
            if let Err(error) = self.sync(File::sync_all) {
                return Err(self.give_up(error));
            }
            // All bytes are here: however the body ended, the upload is complete.
            return Ok(self.writer.complete(&self.upload)?);
        }
        if let Err(error) = self.commit() {
            return Err(self.give_up(error));
        }
        refusal.map_or(Ok(()), Err)
    }

    fn sync(&mut self, sync: fn(&File) -> io::Result<()>) -> io::Result<()> {
        let synced = sync(&self.part);
        self.spoiled |= synced.is_err();
        self.unsynced_bytes = 0;
        synced
    }

    /// Gives the space back at once; the next body tries again if this fails.
    fn roll_back(&mut self) {
        // With a stale mark the file must keep its length until the mark is renewed.
        let tail = self.writer.tail && !self.writer.mark_stale;
        if tail && self.part.set_len(self.upload.offset()).is_ok() {
            self.writer.tail = false;
        }
    }
}
