//! Checkpoints: the materialised state as rows, the mark that they are whole, exports of them.
//!
//! ```text
//! rows put, in bounded batches, each with the new epoch  ─▶ flush
//! witness                                                ─▶ sync
//! one batch: mark (epoch, through, chain, tally) + rows removed ─▶ flush
//! commits at or below the mark removed, in bounded batches ─▶ flush
//! export: temporary name, fsync, rename, fsync directory; two kept
//! ```
//!
//! Invariant: a row whose epoch is above the mark's was written by a checkpoint that did not finish.
//! Every row's value is right as of its own `seq`, so replay skips records up to there for it.
//! Absent on purpose: what a row means, and when to make a checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use crate::error::{CheckpointError, ExportError, StoreError};
use crate::owner::Core;
use crate::record::{
    FORMAT, Kind, Reader, SEAL_LEN, Seq, Unsound, VALUE_MAX, chain_after, commit_key, mix, seal, unseal,
};
use crate::store::{Batch, Op, Store};

/// The longest name of a [`RowKey::Name`].
pub const NAME_MAX: usize = 255;

const ROW_HEAD_LEN: usize = 8 + 4;

/// The longest value of one row.
pub const ROW_MAX: usize = VALUE_MAX - SEAL_LEN - ROW_HEAD_LEN;

/// How much of a checkpoint goes into one batch, so that commits can go in between.
const BATCH_OPS: usize = 256;

pub(crate) const KEY_CHECKPOINT: &[u8] = b"mcheckpoint";

const SHAPE_NUMBER: u8 = 1;
const SHAPE_NAME: u8 = 2;

/// Where a row lies. Tables and numbers are the caller's; `m` and `w` are the journal's own tables.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowKey {
    /// By number, in the order of `id`, then of `sub`. Give ids in rising order: sled is slow on scattered keys.
    Number {
        /// The table.
        table: u8,
        /// The number.
        id: u64,
        /// A number below it, 0 where there is none.
        sub: u32,
    },
    /// By name, of at most [`NAME_MAX`] bytes.
    Name {
        /// The table.
        table: u8,
        /// The name.
        name: Box<[u8]>,
    },
}

impl RowKey {
    /// A key by number.
    pub const fn new(table: u8, id: u64, sub: u32) -> Self {
        Self::Number { table, id, sub }
    }

    /// A key by name.
    pub fn named(table: u8, name: impl AsRef<[u8]>) -> Self {
        Self::Name { table, name: name.as_ref().into() }
    }

    /// The table.
    pub const fn table(&self) -> u8 {
        match self {
            Self::Number { table, .. } | Self::Name { table, .. } => *table,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut key = vec![self.table()];
        match self {
            Self::Number { id, sub, .. } => {
                key.push(SHAPE_NUMBER);
                key.extend_from_slice(&id.to_be_bytes());
                key.extend_from_slice(&sub.to_be_bytes());
            }
            Self::Name { name, .. } => {
                key.push(SHAPE_NAME);
                key.extend_from_slice(name);
            }
        }
        key
    }

    pub(crate) fn decode(key: &[u8]) -> Result<Self, Unsound> {
        let mut reader = Reader(key);
        let table = reader.u8()?;
        let decoded = match reader.u8()? {
            SHAPE_NUMBER => Self::Number { table, id: reader.u64()?, sub: reader.u32()? },
            SHAPE_NAME => Self::named(table, reader.bytes(reader.0.len())?),
            _ => return Err(Unsound::Damaged("it is not a key")),
        };
        if reader.0.is_empty() { Ok(decoded) } else { Err(Unsound::Damaged("its key is too long")) }
    }

    fn check(&self) -> Result<(), CheckpointError> {
        let named_too_long = matches!(self, Self::Name { name, .. } if name.len() > NAME_MAX);
        if named_too_long || matches!(self.table(), b'm' | b'w') {
            return Err(CheckpointError::Key { key: self.to_string(), max: NAME_MAX });
        }
        Ok(())
    }
}

impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number { table, id, sub } => write!(f, "{}/{id}/{sub}", table.escape_ascii()),
            Self::Name { table, name } => write!(f, "{}/\"{}\"", table.escape_ascii(), name.escape_ascii()),
        }
    }
}

/// A materialised row, as found at open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Where it lay.
    pub key: RowKey,
    /// The last record that its value reflects: the `through` of the checkpoint that wrote it. It may be
    /// greater than the numbers of records in the tail, if a checkpoint was cut short: skip those for this row.
    pub seq: Seq,
    /// The caller's bytes.
    pub value: Vec<u8>,
}

/// A checkpoint to be made. Rows that it does not name stay as they are.
#[derive(Debug, Clone, Default)]
pub struct Checkpoint {
    /// The last record that the rows reflect. Records up to here leave the log.
    pub through: Seq,
    /// Rows to write.
    pub puts: Vec<(RowKey, Vec<u8>)>,
    /// Rows to remove. They all go in one atomic batch with the mark.
    pub removes: Vec<RowKey>,
    /// The whole live state, if it shall be exported too.
    pub export: Option<Vec<(RowKey, Vec<u8>)>>,
}

/// How many rows there are, and a sum over all of them, whatever their order.
///
/// sled can lose a page without a word; a row that is gone, or older than it should be, shows here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    pub(crate) rows: u64,
    pub(crate) sum: u64,
}

fn row_hash(key: &[u8], value: &[u8]) -> u64 {
    mix(chain_after(chain_after(0, key), value))
}

impl Tally {
    pub(crate) fn add(&mut self, key: &[u8], value: &[u8]) {
        self.rows = self.rows.wrapping_add(1);
        self.sum = self.sum.wrapping_add(row_hash(key, value));
    }

    pub(crate) fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.rows = self.rows.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(row_hash(key, value));
    }
}

/// The record of the last finished checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct CheckpointMark {
    pub(crate) epoch: u32,
    /// The rows reflect every record up to here.
    pub(crate) through: Seq,
    /// The last commit that the log no longer needs. Its last record may be below `through`.
    pub(crate) lsn: u64,
    /// The chain after that commit, and the number of its last record.
    pub(crate) chain: u64,
    pub(crate) seq: Seq,
    pub(crate) tally: Tally,
    /// The bytes of everything but commits: what a rebuild would keep.
    pub(crate) live_bytes: u64,
}

impl CheckpointMark {
    fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(60);
        body.extend_from_slice(&self.epoch.to_be_bytes());
        for number in [
            self.through.0,
            self.lsn,
            self.chain,
            self.seq.0,
            self.tally.rows,
            self.tally.sum,
            self.live_bytes,
        ] {
            body.extend_from_slice(&number.to_be_bytes());
        }
        seal(Kind::Meta, KEY_CHECKPOINT, &body)
    }

    pub(crate) fn decode(value: &[u8]) -> Result<Self, Unsound> {
        let mut reader = Reader(unseal(Kind::Meta, KEY_CHECKPOINT, value)?);
        Ok(Self {
            epoch: reader.u32()?,
            through: Seq(reader.u64()?),
            lsn: reader.u64()?,
            chain: reader.u64()?,
            seq: Seq(reader.u64()?),
            tally: Tally { rows: reader.u64()?, sum: reader.u64()? },
            live_bytes: reader.u64()?,
        })
    }
}

pub(crate) fn encode_row(key: &[u8], epoch: u32, seq: Seq, value: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(ROW_HEAD_LEN + value.len());
    body.extend_from_slice(&seq.0.to_be_bytes());
    body.extend_from_slice(&epoch.to_be_bytes());
    body.extend_from_slice(value);
    seal(Kind::Row, key, &body)
}

/// A stored row, and the epoch of the checkpoint that wrote it.
pub(crate) fn decode_row(key: &[u8], value: &[u8]) -> Result<(Row, u32), Unsound> {
    let mut reader = Reader(unseal(Kind::Row, key, value)?);
    let seq = Seq(reader.u64()?);
    let epoch = reader.u32()?;
    Ok((Row { key: RowKey::decode(key)?, seq, value: reader.0.to_vec() }, epoch))
}

/// Everything about a checkpoint that can be refused before a byte is written.
pub(crate) fn validate(checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
    let exported = checkpoint.export.iter().flatten();
    for (key, value) in checkpoint.puts.iter().chain(exported) {
        key.check()?;
        if value.len() > ROW_MAX {
            return Err(CheckpointError::RowTooLarge {
                key: key.to_string(),
                len: value.len(),
                max: ROW_MAX,
            });
        }
    }
    checkpoint.removes.iter().try_for_each(RowKey::check)
}

/// Makes a checkpoint. `between` is called between batches, so that commits need not wait for the end.
pub(crate) fn run(
    core: &mut Core,
    checkpoint: Checkpoint,
    between: &mut dyn FnMut(&mut Core),
) -> Result<(), CheckpointError> {
    let from = core.state.mark.through;
    let last = core.state.reach().seq;
    if checkpoint.through < from || checkpoint.through > last {
        return Err(CheckpointError::Through { through: checkpoint.through, from, last });
    }
    let epoch = core.state.mark.epoch + 1;
    let through = checkpoint.through;
    let rows = put_rows(core, checkpoint.puts, epoch, through, between);
    // A commit in between may have failed: then rows are missing, and the log is all there is of them.
    if rows.is_ok() && core.is_poisoned() {
        return Err(CheckpointError::Poisoned);
    }
    let result = rows
        .and_then(|()| put_mark(core, &checkpoint.removes, epoch, through))
        .and_then(|()| cut_log(core, between));
    if let Err(source) = result {
        return Err(CheckpointError::Store { source: core.fail(source) });
    }
    if core.is_poisoned() {
        return Err(CheckpointError::Poisoned);
    }
    let Some(rows) = checkpoint.export else { return Ok(()) };
    let name = format!("export-{epoch:010}-{:020}", through.0);
    core.store
        .export(&name, &encode_export(through, &rows))
        .map_err(|source| CheckpointError::Export { source: Arc::new(source) })
}

fn put_rows(
    core: &mut Core,
    puts: Vec<(RowKey, Vec<u8>)>,
    epoch: u32,
    through: Seq,
    between: &mut dyn FnMut(&mut Core),
) -> Result<(), StoreError> {
    core.store.check()?;
    // In the order of the keys, which sled likes, and each key once, which the tally needs.
    let mut puts: BTreeMap<Vec<u8>, Vec<u8>> =
        puts.into_iter().map(|(key, value)| (key.encode(), value)).collect();
    while !puts.is_empty() && !core.is_poisoned() {
        let mut batch = Batch::default();
        while batch.ops.len() < BATCH_OPS
            && let Some((key, value)) = puts.pop_first()
        {
            let value = encode_row(&key, epoch, through, &value);
            forget_row(core, &key)?;
            core.state.tally.add(&key, &value);
            core.state.live_bytes += (key.len() + value.len()) as u64;
            batch.ops.push(Op::Put(key, value));
        }
        core.store.apply(batch)?;
        between(core);
    }
    core.store.flush()
}

/// Takes a row that is about to go, or to be replaced, out of the tally.
fn forget_row(core: &mut Core, key: &[u8]) -> Result<(), StoreError> {
    let mut old = None;
    core.store.scan(key, &mut |found, value| {
        if found == key {
            old = Some(value.to_vec());
        }
        ControlFlow::Break(())
    })?;
    if let Some(old) = old {
        core.state.tally.remove(key, &old);
        core.state.live_bytes -= (key.len() + old.len()) as u64;
    }
    Ok(())
}

fn put_mark(core: &mut Core, removes: &[RowKey], epoch: u32, through: Seq) -> Result<(), StoreError> {
    // From here on the log is cut, so the lower bound must not lie below the cut.
    core.witness.sync(&mut *core.store)?;
    let removes: BTreeSet<Vec<u8>> = removes.iter().map(RowKey::encode).collect();
    let mut batch = Batch::default();
    for key in removes {
        forget_row(core, &key)?;
        batch.ops.push(Op::Remove(key));
    }
    let mut mark = CheckpointMark {
        epoch,
        through,
        tally: core.state.tally,
        live_bytes: core.state.live_bytes,
        ..core.state.mark
    };
    for commit in core.state.commits.iter().take_while(|commit| commit.last <= through) {
        (mark.lsn, mark.chain, mark.seq) = (commit.lsn, commit.chain, commit.last);
    }
    batch.ops.push(Op::Put(KEY_CHECKPOINT.to_vec(), mark.encode()));
    core.store.apply(batch)?;
    core.store.flush()?;
    core.state.mark = mark;
    core.write_witness()?;
    core.witness.sync(&mut *core.store)
}

fn cut_log(core: &mut Core, between: &mut dyn FnMut(&mut Core)) -> Result<(), StoreError> {
    let through_lsn = core.state.mark.lsn;
    while core.state.commits.front().is_some_and(|commit| commit.lsn <= through_lsn) {
        let mut batch = Batch::default();
        while batch.ops.len() < BATCH_OPS
            && core.state.commits.front().is_some_and(|commit| commit.lsn <= through_lsn)
            && let Some(commit) = core.state.commits.pop_front()
        {
            batch.ops.push(Op::Remove(commit_key(commit.lsn).to_vec()));
            core.state.log_bytes -= u64::from(commit.len);
        }
        core.store.apply(batch)?;
        core.publish_log_bytes();
        between(core);
        if core.is_poisoned() {
            return Ok(());
        }
    }
    core.store.flush()
}

/// Removes what an earlier checkpoint's last step did not get to.
pub(crate) fn remove_keys(store: &mut dyn Store, keys: &[Vec<u8>]) -> Result<(), StoreError> {
    for some in keys.chunks(BATCH_OPS) {
        store.apply(Batch { ops: some.iter().cloned().map(Op::Remove).collect() })?;
    }
    Ok(())
}

const EXPORT_MAGIC: &[u8; 4] = b"LHJX";
const EXPORT_HEAD_LEN: usize = 4 + 1 + 8 + 8 + 4;

/// The live state as of one record, in a file of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// The last record that the rows reflect.
    pub through: Seq,
    /// The rows.
    pub rows: Vec<(RowKey, Vec<u8>)>,
}

/// `[magic][format u8][through u64][rows u64][crc u32]`, then a row `[key len u16][value len u16][crc u32][key][value]`.
fn encode_export(through: Seq, rows: &[(RowKey, Vec<u8>)]) -> Vec<u8> {
    let mut image = Vec::new();
    image.extend_from_slice(EXPORT_MAGIC);
    image.push(FORMAT);
    image.extend_from_slice(&through.0.to_be_bytes());
    image.extend_from_slice(&(rows.len() as u64).to_be_bytes());
    image.extend_from_slice(&crc32fast::hash(&image).to_be_bytes());
    for (key, value) in rows {
        let key = key.encode();
        // Both lengths were validated: NAME_MAX and ROW_MAX are far below 65,536.
        let lens = [(key.len() as u16).to_be_bytes(), (value.len() as u16).to_be_bytes()].concat();
        image.extend_from_slice(&lens);
        image.extend_from_slice(&export_row_crc(&lens, &key, value).to_be_bytes());
        image.extend_from_slice(&key);
        image.extend_from_slice(value);
    }
    image
}

fn export_row_crc(lens: &[u8], key: &[u8], value: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(lens);
    crc.update(key);
    crc.update(value);
    crc.finalize()
}

fn decode_export(image: &[u8]) -> Result<Export, Unsound> {
    let mut reader = Reader(image);
    if reader.bytes(4)? != EXPORT_MAGIC {
        return Err(Unsound::Damaged("it does not begin as an export"));
    }
    let format = reader.u8()?;
    let through = Seq(reader.u64()?);
    let count = reader.u64()?;
    if reader.u32()? != crc32fast::hash(&image[..EXPORT_HEAD_LEN - 4]) {
        return Err(Unsound::Damaged("its head's checksum does not match"));
    }
    if format != FORMAT {
        return Err(Unsound::Newer(format));
    }
    let mut rows = Vec::new();
    while !reader.0.is_empty() {
        let lens = reader.bytes(4)?;
        let crc = reader.u32()?;
        let mut len = Reader(lens);
        let key = reader.bytes(usize::from(len.u16()?))?;
        let value = reader.bytes(usize::from(len.u16()?))?;
        if crc != export_row_crc(lens, key, value) {
            return Err(Unsound::Damaged("a row's checksum does not match"));
        }
        rows.push((RowKey::decode(key)?, value.to_vec()));
    }
    if rows.len() as u64 != count {
        return Err(Unsound::Damaged("rows are missing"));
    }
    Ok(Export { through, rows })
}

/// Reads an export, every checksum checked. Lists of them come from [`verify`](crate::verify).
///
/// # Errors
///
/// - [`ExportError::Damaged`]: try the other one; two are kept.
/// - [`ExportError::NewerVersion`]: use the newer program.
/// - [`ExportError::Io`]: the file could not be read.
pub fn read_export(path: impl AsRef<Path>) -> Result<Export, ExportError> {
    let path = path.as_ref();
    let shown = path.display().to_string();
    let image = std::fs::read(path).map_err(|source| ExportError::Io { path: shown.clone(), source })?;
    decode_export(&image).map_err(|unsound| match unsound {
        Unsound::Newer(found) => ExportError::NewerVersion { path: shown, found, supported: FORMAT },
        Unsound::Damaged(what) => ExportError::Damaged { path: shown, what },
    })
}
