//! A write-ahead journal on sled whose commits survive a power cut.
//!
//! The journal keeps records, in order, and proves it: [`Journal::append_all`] answers with
//! [`Committed`] values, which nothing else can make. A restart yields [`Recovered`] values, and the
//! rows of the last [`Checkpoint`]. It knows records, not what they mean.
//!
//! ```
//! use longhaul_journal::{Checkpoint, DecodeError, Journal, Options, Record, RowKey};
//!
//! struct Line(String);
//!
//! impl Record for Line {
//!     const VERSION: u8 = 1;
//!     type Replayed = Line;
//!     fn encode(&self, out: &mut Vec<u8>) {
//!         out.extend_from_slice(self.0.as_bytes());
//!     }
//!     fn decode(version: u8, payload: &[u8]) -> Result<Line, DecodeError> {
//!         match version {
//!             1 => match String::from_utf8(payload.to_vec()) {
//!                 Ok(text) => Ok(Line(text)),
//!                 Err(error) => Err(DecodeError::Malformed(error.to_string())),
//!             },
//!             found => Err(DecodeError::Version { found }),
//!         }
//!     }
//! }
//!
//! let dir = tempfile::tempdir()?;
//! let opened = Journal::<Line>::open(dir.path(), Options::default())?;
//! let committed = opened.journal.append_all_blocking(vec![Line("hello".into())])?;
//! assert_eq!(committed[0].seq().0, 1);
//! opened.journal.close_blocking()?;
//!
//! let opened = Journal::<Line>::open(dir.path(), Options::default())?;
//! assert_eq!(opened.tail[0].value().0, "hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it does to your process
//!
//! On Linux this crate defines the C symbols `sync_file_range` (as `fdatasync`) and `fsync` (as ever, but
//! watched) for the whole process: sled's flush does not reach the disk without it. Range syncs of your own
//! become stronger, never weaker. Each open checks that the override is in force, and refuses if not.
//! It must be able to unwind: with `panic = "abort"`, a panic of sled over a damaged file ends the process.
//!
//! Format, assumptions about the disk and the order of writes are in the crate's README.
#![warn(missing_docs)]

mod blocking;
mod checkpoint;
mod error;
mod export;
mod journal;
mod owner;
mod read;
mod record;
mod recover;
mod store;
mod witness;

pub use checkpoint::{Checkpoint, NAME_MAX, ROW_MAX, Row, RowKey};
pub use error::{
    AppendError, CheckpointError, CloseError, DecodeError, ExportError, OpenError, Reach, ReadError,
    StoreError,
};
pub use export::{Export, read_export};
pub use journal::{Committed, Executor, Journal, OpenReport, Opened, RowSink};
pub use read::{RowOrder, RowQuery};
pub use record::{RECORD_MAX, Record, Seq, decode_bincode, encode_bincode};
pub use recover::Recovered;
pub use store::open::{Options, VerifyReport, verify};
pub use store::{Batch, ExportFile, Op, Store, Visit};

/// The store in memory, for simulations.
#[cfg(feature = "mem")]
pub mod mem {
    pub use crate::store::mem::{Counts, Fault, MemDisk};
}
