//! Reads of rows while the journal is open, one bounded slice at a time.
//!
//! ```text
//! rows, get ─▶ queue ─▶ owner: commit ─▶ a slice of what is asked ─▶ commit ─▶ the next slice … ─▶ answer
//! ```
//!
//! Invariant: a row is handed out only if its seal, its checksum and its key hold. One that does not hold poisons
//! the journal: what else of the store is wrong nobody knows, so nothing is acknowledged over it.
//! Absent on purpose: snapshots. Rows change in checkpoints only, and a read that takes more than one
//! slice may see one come in between.

use std::ops::ControlFlow;

use tokio::sync::oneshot;

use crate::checkpoint::{NAME_MAX, Row, RowKey, decode_row, is_reserved};
use crate::error::{ReadError, StoreError};
use crate::owner::Core;
use crate::record::Unsound;

/// What one slice may cost. The owner ends its turn of reading once it has spent this much, so that a commit waits
/// for less than twice that.
pub(crate) const SLICE_COST: usize = 512;

/// A row costs one, and one more for each of these many bytes.
const COST_BYTES: usize = 1024;

/// Which way rows are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    /// From the least key on.
    Ascending,
    /// From the greatest key on.
    Descending,
}

/// Rows of one table, to be read with [`Journal::rows`](crate::Journal::rows).
///
/// Keys by number come before keys by name. A bound that is of another table counts by that table's byte:
/// it cuts off nothing, or everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowQuery {
    /// The table.
    pub table: u8,
    /// The least key, itself included.
    pub from: Option<RowKey>,
    /// The greatest key, itself included.
    pub to: Option<RowKey>,
    /// Which end to begin at.
    pub order: RowOrder,
    /// How many rows at most.
    pub limit: usize,
}

impl RowQuery {
    /// Every row of a table, ascending: to be narrowed by `RowQuery { limit: 100, ..RowQuery::all(table) }`.
    pub const fn all(table: u8) -> Self {
        Self { table, from: None, to: None, order: RowOrder::Ascending, limit: usize::MAX }
    }
}

/// A stretch of one table that is still to be read.
#[derive(Debug)]
pub(crate) struct Span {
    /// Included.
    from: Vec<u8>,
    /// Excluded.
    below: Vec<u8>,
    order: RowOrder,
}

impl Span {
    pub(crate) fn table(table: u8) -> Self {
        // Above both shapes that a key can have.
        Self { from: vec![table], below: vec![table, 0xff], order: RowOrder::Ascending }
    }

    fn of(query: &RowQuery) -> Self {
        let mut span = Self { order: query.order, ..Self::table(query.table) };
        if let Some(from) = &query.from {
            span.from = span.from.max(from.encode());
        }
        if let Some(to) = &query.to {
            span.below = span.below.min(after(to.encode()));
        }
        span
    }

    /// Reads the next slice, of at most `limit` rows; says whether nothing is left. `each` gets the stored key too.
    pub(crate) fn read(
        &mut self,
        core: &mut Core,
        limit: usize,
        each: &mut dyn FnMut(&[u8], Row),
    ) -> Result<bool, ReadError> {
        let (mut rows, mut spent, mut is_done) = (0, 0, true);
        let mut last = Vec::new();
        let mut unsound = None;
        let mut visit = |key: &[u8], value: &[u8]| {
            if key < self.from.as_slice() || key >= self.below.as_slice() {
                return ControlFlow::Break(());
            }
            match decode_row(key, value) {
                Ok((row, _)) => each(key, row),
                Err(why) => {
                    unsound = Some((key.to_vec(), why));
                    return ControlFlow::Break(());
                }
            }
            rows += 1;
            spent += cost(value);
            if rows < limit && spent < SLICE_COST {
                return ControlFlow::Continue(());
            }
            is_done = false;
            last = key.to_vec();
            ControlFlow::Break(())
        };
        let scanned = match self.order {
            RowOrder::Ascending => core.store.scan(&self.from, &mut visit),
            RowOrder::Descending => core.store.scan_back(&self.below, &mut visit),
        };
        scanned.map_err(|error| ReadError::Store { source: core.fail(error) })?;
        if let Some((key, why)) = unsound {
            return Err(damaged(core, &key, why));
        }
        match self.order {
            _ if is_done => {}
            RowOrder::Ascending => self.from = after(last),
            RowOrder::Descending => self.below = last,
        }
        Ok(is_done)
    }
}

fn refused(key: String) -> ReadError {
    ReadError::Key { key, max: NAME_MAX }
}

/// The least key above `key`.
fn after(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

fn cost(value: &[u8]) -> usize {
    1 + value.len() / COST_BYTES
}

/// Poisons the journal over a row that does not hold together.
fn damaged(core: &Core, key: &[u8], why: Unsound) -> ReadError {
    let row = RowKey::decode(key).map_or_else(|_| key.escape_ascii().to_string(), |key| key.to_string());
    let what = match why {
        Unsound::Damaged(what) => what.to_owned(),
        // It was read at open, in a format that this version knows.
        Unsound::Newer(format) => format!("it is of format {format} by now"),
    };
    core.fail(StoreError::damaged(format!("row {row}: {what}")));
    ReadError::Damaged { row, what }
}

/// What is still to be read.
enum Wanted {
    Scan { span: Span, left: usize },
    Keys(std::vec::IntoIter<Vec<u8>>),
}

/// What one read found: for a scan every row, for keys one entry each.
pub(crate) type FoundRows = Vec<Option<Row>>;

/// One call's read on its way through one or more slices.
pub(crate) struct Read {
    wanted: Wanted,
    found: FoundRows,
    reply: oneshot::Sender<Result<FoundRows, ReadError>>,
}

pub(crate) type Answer = oneshot::Receiver<Result<FoundRows, ReadError>>;

impl Read {
    pub(crate) fn scan(query: &RowQuery) -> Result<(Self, Answer), ReadError> {
        if is_reserved(query.table) {
            return Err(refused(query.table.escape_ascii().to_string()));
        }
        Ok(Self::new(Wanted::Scan { span: Span::of(query), left: query.limit }))
    }

    pub(crate) fn keys(keys: &[RowKey]) -> Result<(Self, Answer), ReadError> {
        if let Some(key) = keys.iter().find(|key| !key.is_allowed()) {
            return Err(refused(key.to_string()));
        }
        let keys: Vec<_> = keys.iter().map(RowKey::encode).collect();
        Ok(Self::new(Wanted::Keys(keys.into_iter())))
    }

    fn new(wanted: Wanted) -> (Self, Answer) {
        let (reply, answer) = oneshot::channel();
        (Self { wanted, found: Vec::new(), reply }, answer)
    }

    /// Reads one slice, and adds its cost to `spent`. Answers the call once all is read; else there is more to do.
    pub(crate) fn advance(mut self, core: &mut Core, spent: &mut usize) -> Option<Self> {
        if self.reply.is_closed() {
            return None;
        }
        // Also a read that finds nothing takes its time.
        *spent += 1;
        let answer = match self.slice(core, spent) {
            Ok(true) => Ok(self.found),
            Ok(false) => return Some(self),
            Err(error) => Err(error),
        };
        // The future may have been dropped meanwhile.
        let _ = self.reply.send(answer);
        None
    }

    pub(crate) fn refuse(self, error: ReadError) {
        let _ = self.reply.send(Err(error));
    }

    /// Whether all is read.
    fn slice(&mut self, core: &mut Core, spent: &mut usize) -> Result<bool, ReadError> {
        if core.is_poisoned() {
            return Err(ReadError::Poisoned);
        }
        let found = &mut self.found;
        match &mut self.wanted {
            Wanted::Scan { left: 0, .. } => Ok(true),
            Wanted::Scan { span, left } => {
                let before = found.len();
                let is_done = span.read(core, *left, &mut |_, row| {
                    *spent += cost(&row.value);
                    found.push(Some(row));
                })?;
                *left -= found.len() - before;
                Ok(is_done || *left == 0)
            }
            Wanted::Keys(keys) => {
                let mut cost_so_far = 0;
                while cost_so_far < SLICE_COST
                    && let Some(key) = keys.next()
                {
                    let row = get(core, &key)?;
                    cost_so_far += row.as_ref().map_or(1, |row| cost(&row.value));
                    found.push(row);
                }
                *spent += cost_so_far;
                Ok(keys.as_slice().is_empty())
            }
        }
    }
}

fn get(core: &mut Core, key: &[u8]) -> Result<Option<Row>, ReadError> {
    let value = core.store.get(key).map_err(|error| ReadError::Store { source: core.fail(error) })?;
    match value.map(|value| decode_row(key, &value)).transpose() {
        Ok(row) => Ok(row.map(|(row, _)| row)),
        Err(why) => Err(damaged(core, key, why)),
    }
}
