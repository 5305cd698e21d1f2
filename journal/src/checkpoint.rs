//! Checkpoints: the materialised state as rows, and the mark that they are whole.
//!
//! ```text
//! rows put, in bounded batches, each with the new epoch  ─▶ flush
//! rows to be removed read, in bounded slices, for the tally
//! witness                                                ─▶ sync
//! one batch: mark (epoch, through, chain, tally) + rows removed ─▶ flush
//! commits at or below the mark removed, in bounded batches ─▶ flush
//! export, in bounded slices: temporary name, fsync, rename, fsync directory; two kept
//! ```
//!
//! Invariant: a row whose epoch is above the mark's was written by a checkpoint that did not finish.
//! Every row's value is right as of its own `seq`, so replay skips records up to there for it.
//! Absent on purpose: what a row means, and when to make a checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::error::{CheckpointError, StoreError};
use crate::export;
use crate::owner::Core;
use crate::record::{
    Kind, Reader, SEAL_LEN, Seq, Unsound, VALUE_MAX, chain_after, commit_key, mix, seal, unseal,
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

    /// Whether it can be the key of a row.
    pub(crate) fn is_allowed(&self) -> bool {
        let named_too_long = matches!(self, Self::Name { name, .. } if name.len() > NAME_MAX);
        !named_too_long && !is_reserved(self.table())
    }
}

/// Whether a table is one of the journal's own.
pub(crate) const fn is_reserved(table: u8) -> bool {
    matches!(table, b'm' | b'w')
}

impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number { table, id, sub } => write!(f, "{}/{id}/{sub}", table.escape_ascii()),
            Self::Name { table, name } => write!(f, "{}/\"{}\"", table.escape_ascii(), name.escape_ascii()),
        }
    }
}

/// A materialised row, as it is stored.
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
    /// Rows to remove. However many, they all go in one atomic batch with the mark.
    pub removes: Vec<RowKey>,
    /// The tables whose rows, as they are after this checkpoint, shall be exported too, one table after the
    /// other. They are streamed: an export takes time and disk, not memory.
    pub export: Option<Vec<u8>>,
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
    let refused = |key| Err(CheckpointError::Key { key, max: NAME_MAX });
    if let Some(table) = checkpoint.export.iter().flatten().find(|table| is_reserved(**table)) {
        return refused(table.escape_ascii().to_string());
    }
    let keys = checkpoint.puts.iter().map(|(key, _)| key).chain(&checkpoint.removes);
    if let Some(key) = keys.clone().find(|key| !key.is_allowed()) {
        return refused(key.to_string());
    }
    for (key, value) in &checkpoint.puts {
        if value.len() > ROW_MAX {
            return Err(CheckpointError::RowTooLarge {
                key: key.to_string(),
                len: value.len(),
                max: ROW_MAX,
            });
        }
    }
    Ok(())
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
    let removes: BTreeSet<Vec<u8>> = checkpoint.removes.iter().map(RowKey::encode).collect();
    let rows = put_rows(core, checkpoint.puts, epoch, through, between)
        .and_then(|()| forget_rows(core, &removes, between));
    // A commit or a read in between may have failed: then rows are missing, and the log is all there is of them.
    if rows.is_ok() && core.is_poisoned() {
        return Err(CheckpointError::Poisoned);
    }
    let result =
        rows.and_then(|()| put_mark(core, removes, epoch, through)).and_then(|()| cut_log(core, between));
    if let Err(source) = result {
        return Err(CheckpointError::Store { source: core.fail(source) });
    }
    if core.is_poisoned() {
        return Err(CheckpointError::Poisoned);
    }
    let Some(tables) = checkpoint.export else { return Ok(()) };
    let name = format!("export-{epoch:010}-{:020}", through.0);
    export::write(core, &name, &tables, through, between)
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

/// Takes a row that is about to go, or to be replaced, out of the tally. A damaged one would make the tally wrong.
fn forget_row(core: &mut Core, key: &[u8]) -> Result<(), StoreError> {
    if let Some(old) = core.store.get(key)? {
        if unseal(Kind::Row, key, &old).is_err() {
            return Err(StoreError::damaged(format!("row {} is damaged", key.escape_ascii())));
        }
        core.state.tally.remove(key, &old);
        core.state.live_bytes -= (key.len() + old.len()) as u64;
    }
    Ok(())
}

/// Takes the rows to be removed out of the tally, which nobody reads before the mark. Commits go on meanwhile: only
/// the removal itself is one step.
fn forget_rows(
    core: &mut Core,
    removes: &BTreeSet<Vec<u8>>,
    between: &mut dyn FnMut(&mut Core),
) -> Result<(), StoreError> {
    for (at, key) in removes.iter().enumerate() {
        if at % BATCH_OPS == BATCH_OPS - 1 {
            between(core);
            if core.is_poisoned() {
                return Ok(());
            }
        }
        forget_row(core, key)?;
    }
    Ok(())
}

fn put_mark(core: &mut Core, removes: BTreeSet<Vec<u8>>, epoch: u32, through: Seq) -> Result<(), StoreError> {
    // From here on the log is cut, so the lower bound must not lie below the cut.
    core.witness.sync(&mut *core.store)?;
    let mut batch = Batch { ops: removes.into_iter().map(Op::Remove).collect() };
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
