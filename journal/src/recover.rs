//! Replay: from what is stored to rows and a tail of records, every byte checked on the way.
//!
//! ```text
//! mark ─▶ rows (each checked, tallied) ─▶ commits mark.lsn+1, +2, … (number, chain, checksums) ─▶ witness
//! ```
//!
//! Invariant: a hole, a wrong chain or an unreadable value is damage, never the end of the log; an end
//! below the witness is a lost tail. Reading changes nothing.
//! Absent on purpose: repair.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use crate::checkpoint::{CheckpointMark, KEY_CHECKPOINT, Row, Tally, decode_row};
use crate::error::{DecodeError, OpenError, Reach};
use crate::journal::RowSink;
use crate::record::{FORMAT, Kind, Record, Seq, Unsound, chain_after, decode_commit, take_frame, unseal};
use crate::store::Store;
use crate::witness::Seen;

pub(crate) const KEY_FORMAT: &[u8] = b"mformat";
pub(crate) const KEY_OPENS: &[u8] = b"mopens";

/// A record that replay found: it happened, in an earlier life.
///
/// It is not a [`Committed`](crate::Committed) and there is no way to make one of it: what a record
/// calls for may have been done already, so a restart must look, decide and commit again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered<T> {
    seq: Seq,
    value: T,
}

impl<T> Recovered<T> {
    /// The record's number.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// What was recorded.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// What was recorded.
    pub fn into_value(self) -> T {
        self.value
    }
}

/// One group commit that is still in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CommitAt {
    pub(crate) lsn: u64,
    pub(crate) last: Seq,
    /// The chain after it.
    pub(crate) chain: u64,
    /// The bytes of its key and value.
    pub(crate) len: u32,
}

/// What the journal knows of itself between two commits.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) mark: CheckpointMark,
    /// The commits above the mark, without a gap.
    pub(crate) commits: VecDeque<CommitAt>,
    pub(crate) tally: Tally,
    pub(crate) log_bytes: u64,
    /// Keys and values that count, as against what they take on disk.
    pub(crate) live_bytes: u64,
    /// How often the store was opened: a value that is new at every open.
    pub(crate) opens: u64,
}

impl State {
    /// How far the journal reaches.
    pub(crate) fn reach(&self) -> Reach {
        let (lsn, seq) = match self.commits.back() {
            Some(commit) => (commit.lsn, commit.last),
            None => (self.mark.lsn, self.mark.seq),
        };
        Reach { lsn, seq, epoch: self.mark.epoch }
    }

    /// The chain after the last commit.
    pub(crate) fn chain(&self) -> u64 {
        self.commits.back().map_or(self.mark.chain, |commit| commit.chain)
    }
}

/// Takes what replay finds.
pub(crate) trait Sink {
    fn row(&mut self, row: Row);
    fn record(&mut self, seq: Seq, version: u8, payload: &[u8]) -> Result<(), DecodeError>;
}

/// Hands the rows on, and keeps the records, decoded.
pub(crate) struct Collect<R: Record, S> {
    pub(crate) rows: S,
    pub(crate) tail: Vec<Recovered<R::Replayed>>,
}

impl<R: Record, S: RowSink> Sink for Collect<R, S> {
    fn row(&mut self, row: Row) {
        self.rows.row(row);
    }

    fn record(&mut self, seq: Seq, version: u8, payload: &[u8]) -> Result<(), DecodeError> {
        let value = R::decode(version, payload)?;
        self.tail.push(Recovered { seq, value });
        Ok(())
    }
}

/// Decodes everything, keeps nothing: a first look.
pub(crate) struct Try<R>(pub(crate) std::marker::PhantomData<R>);

impl<R: Record> Sink for Try<R> {
    fn row(&mut self, _row: Row) {}

    fn record(&mut self, _seq: Seq, version: u8, payload: &[u8]) -> Result<(), DecodeError> {
        R::decode(version, payload).map(drop)
    }
}

/// Knows no records: counts.
#[derive(Debug, Default)]
pub(crate) struct Count {
    pub(crate) rows: u64,
    pub(crate) records: u64,
}

impl Sink for Count {
    fn row(&mut self, _row: Row) {
        self.rows += 1;
    }

    fn record(&mut self, _seq: Seq, _version: u8, _payload: &[u8]) -> Result<(), DecodeError> {
        self.records += 1;
        Ok(())
    }
}

/// What a store holds.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) state: State,
    /// Nothing at all is stored: a journal that never was, or that is gone. The witness tells which.
    pub(crate) is_empty: bool,
    /// Commits below the mark that a checkpoint had not yet removed.
    pub(crate) stale: Vec<Vec<u8>>,
    /// The newest record that any row speaks of.
    pub(crate) newest_row: Seq,
}

/// Reads all of `store` into `sink`. `supported` is the caller's record version, for the message only.
pub(crate) fn read(
    store: &mut dyn Store,
    sink: &mut dyn Sink,
    supported: u8,
    place: &str,
) -> Result<Found, OpenError> {
    let mark = read_mark(store, place)?;
    let mut replay = Replay {
        sink,
        supported,
        place,
        state: State { mark, ..State::default() },
        rows_of_mark: 0,
        rows_unfinished: 0,
        newest_row: mark.through,
        is_empty: true,
        has_format: false,
        stale: Vec::new(),
    };
    let mut result = Ok(());
    store
        .scan(&[], &mut |key, value| {
            result = replay.pair(key, value);
            if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
        .map_err(|error| OpenError::store(place, error))?;
    result?;
    replay.finish()
}

/// The mark of the last finished checkpoint, without reading anything else.
pub(crate) fn read_mark(store: &mut dyn Store, place: &str) -> Result<CheckpointMark, OpenError> {
    let mut mark = Ok(CheckpointMark::default());
    store
        .scan(KEY_CHECKPOINT, &mut |key, value| {
            if key == KEY_CHECKPOINT {
                mark = CheckpointMark::decode(value);
            }
            ControlFlow::Break(())
        })
        .map_err(|error| OpenError::store(place, error))?;
    mark.map_err(|unsound| unsound_at(place, "the checkpoint mark", unsound))
}

fn unsound_at(place: &str, what: &str, unsound: Unsound) -> OpenError {
    match unsound {
        Unsound::Newer(found) => {
            OpenError::NewerVersion { place: place.to_owned(), what: "the format", found, supported: FORMAT }
        }
        Unsound::Damaged(why) => OpenError::damaged(place, format!("{what}: {why}")),
    }
}

struct Replay<'a> {
    sink: &'a mut dyn Sink,
    supported: u8,
    place: &'a str,
    state: State,
    rows_of_mark: u64,
    rows_unfinished: u64,
    newest_row: Seq,
    is_empty: bool,
    has_format: bool,
    stale: Vec<Vec<u8>>,
}

impl Replay<'_> {
    fn pair(&mut self, key: &[u8], value: &[u8]) -> Result<(), OpenError> {
        self.is_empty = false;
        match key.first() {
            Some(b'm') => {
                self.state.live_bytes += (key.len() + value.len()) as u64;
                self.meta(key, value)
            }
            Some(b'w') => self.commit(key, value),
            _ => {
                self.state.live_bytes += (key.len() + value.len()) as u64;
                self.row(key, value)
            }
        }
    }

    fn meta(&mut self, key: &[u8], value: &[u8]) -> Result<(), OpenError> {
        let name = key.escape_ascii().to_string();
        let body =
            unseal(Kind::Meta, key, value).map_err(|unsound| unsound_at(self.place, &name, unsound))?;
        match key {
            KEY_FORMAT => self.has_format = true,
            KEY_OPENS => {
                let opens = body.try_into().map(u64::from_be_bytes);
                self.state.opens =
                    opens.map_err(|_| OpenError::damaged(self.place, "the count of opens is cut short"))?;
            }
            KEY_CHECKPOINT => {}
            _ => return Err(OpenError::damaged(self.place, format!("{name}: no such entry"))),
        }
        Ok(())
    }

    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), OpenError> {
        let (row, epoch) = decode_row(key, value)
            .map_err(|unsound| unsound_at(self.place, &format!("row {}", key.escape_ascii()), unsound))?;
        let mark = &self.state.mark;
        // A row of the mark may still be newer than `through`: an unfinished checkpoint wrote it, and
        // the next one, which did not reach as far, finished without touching it.
        if epoch <= mark.epoch {
            self.rows_of_mark += 1;
        } else if epoch == mark.epoch + 1 {
            self.rows_unfinished += 1;
        } else {
            let what = format!("row {} is newer than the last checkpoint", row.key);
            return Err(OpenError::damaged(self.place, what));
        }
        // A row can only speak of committed records; the end of the log is checked against it later.
        self.newest_row = self.newest_row.max(row.seq);
        self.state.tally.add(key, value);
        self.sink.row(row);
        Ok(())
    }

    fn commit(&mut self, key: &[u8], value: &[u8]) -> Result<(), OpenError> {
        let name = || format!("commit {}", key[1..].escape_ascii());
        let (head, mut frames) =
            decode_commit(key, value).map_err(|unsound| unsound_at(self.place, &name(), unsound))?;
        if head.lsn <= self.state.mark.lsn {
            self.stale.push(key.to_vec());
            return Ok(());
        }
        let before = self.state.reach();
        if head.lsn != before.lsn + 1 || head.first.0 != before.seq.0 + 1 {
            let what = format!("commit {} is followed by commit {}: there is a hole", before.lsn, head.lsn);
            return Err(OpenError::damaged(self.place, what));
        }
        if head.chain != self.state.chain() {
            let what =
                format!("commit {} does not continue commit {}: the chain is broken", head.lsn, before.lsn);
            return Err(OpenError::damaged(self.place, what));
        }
        let mut seq = before.seq;
        for _ in 0..head.count {
            let (version, payload) = take_frame(&mut frames)
                .map_err(|unsound| unsound_at(self.place, &format!("commit {}", head.lsn), unsound))?;
            seq = Seq(seq.0 + 1);
            self.record(seq, version, payload)?;
        }
        if !frames.0.is_empty() || head.count == 0 {
            let what = format!("commit {} does not hold the records it counts", head.lsn);
            return Err(OpenError::damaged(self.place, what));
        }
        let len = (key.len() + value.len()) as u32;
        let chain = chain_after(head.chain, value);
        self.state.commits.push_back(CommitAt { lsn: head.lsn, last: seq, chain, len });
        self.state.log_bytes += u64::from(len);
        Ok(())
    }

    fn record(&mut self, seq: Seq, version: u8, payload: &[u8]) -> Result<(), OpenError> {
        if seq <= self.state.mark.through {
            return Ok(());
        }
        self.sink.record(seq, version, payload).map_err(|error| match error {
            DecodeError::Version { found } => OpenError::NewerVersion {
                place: self.place.to_owned(),
                what: "a record",
                found,
                supported: self.supported,
            },
            DecodeError::Malformed(why) => OpenError::damaged(self.place, format!("record {}: {why}", seq.0)),
        })
    }

    fn finish(self) -> Result<Found, OpenError> {
        if !self.is_empty && !self.has_format {
            return Err(OpenError::damaged(self.place, "the format entry is missing"));
        }
        self.check_rows()?;
        Ok(Found {
            state: self.state,
            is_empty: self.is_empty,
            stale: self.stale,
            newest_row: self.newest_row,
        })
    }

    fn check_rows(&self) -> Result<(), OpenError> {
        let wanted = self.state.mark.tally;
        let sound = if self.rows_unfinished == 0 {
            self.state.tally == wanted
        } else {
            // A checkpoint was cut short. Its rows may be new or replace old ones, so only bounds are known.
            (self.rows_of_mark..=self.state.tally.rows).contains(&wanted.rows)
        };
        if sound {
            return Ok(());
        }
        let what = format!(
            "{} rows are stored, the last checkpoint left {}: rows are lost or stale",
            self.state.tally.rows, wanted.rows
        );
        Err(OpenError::damaged(self.place, what))
    }
}

/// Compares what was found with the lower bound.
pub(crate) fn check_witness(found: &Found, seen: &Seen, place: &str) -> Result<(), OpenError> {
    let reach = found.state.reach();
    let mark = match seen {
        Seen::Mark(mark, _) => mark,
        // It is durable before the first record is, so no crash leaves records without it.
        Seen::Absent if found.is_empty => return Ok(()),
        Seen::Absent => {
            return Err(OpenError::damaged(place, "its witness (the file `head`) is missing"));
        }
        Seen::Unreadable => {
            return Err(OpenError::damaged(place, "its witness (the file `head`) cannot be read"));
        }
    };
    if reach.lsn < mark.reach.lsn || reach.epoch < mark.reach.epoch {
        return Err(OpenError::LostTail { place: place.to_owned(), found: reach, expected: mark.reach });
    }
    // Rows are written after the records that they reflect are durable.
    if found.newest_row > reach.seq {
        let expected = Reach { seq: found.newest_row, ..mark.reach };
        return Err(OpenError::LostTail { place: place.to_owned(), found: reach, expected });
    }
    let same_lsn = |lsn: u64| lsn == mark.reach.lsn;
    let state = &found.state;
    let chain = if same_lsn(state.mark.lsn) {
        Some(state.mark.chain)
    } else {
        state.commits.iter().find(|commit| same_lsn(commit.lsn)).map(|commit| commit.chain)
    };
    // Below the checkpoint there is nothing left to compare with.
    if chain.is_some_and(|chain| chain != mark.chain) {
        let what = format!(
            "commit {} is not the one that was acknowledged: it is another journal's, or was replaced",
            mark.reach.lsn
        );
        return Err(OpenError::damaged(place, what));
    }
    Ok(())
}
