//! Exports: the rows of some tables as of one checkpoint, in a file of their own.
//!
//! ```text
//! [magic "LHJX"][format u8][through u64][rows u64][crc32 u32]      crc over what is before it
//! a row: [key len u16][value len u16][crc32 u32][key][value]       crc over the lengths, the key and the value
//! ```
//!
//! Invariant: rows change in checkpoints only, and an export is the last step of one. So what is read in slices, with
//! commits in between, is the state of one instant. Neither side holds the whole of it in memory.
//! Absent on purpose: which tables are worth it, and when.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;
use std::sync::Arc;

use crate::checkpoint::{NAME_MAX, ROW_MAX, RowKey};
use crate::error::{CheckpointError, ExportError, ReadError, StoreError};
use crate::owner::Core;
use crate::read::Span;
use crate::record::{FORMAT, Reader, Seq, Unsound};

const MAGIC: &[u8; 4] = b"LHJX";
const HEAD_LEN: usize = 4 + 1 + 8 + 8 + 4;
const ROW_HEAD_LEN: usize = 2 + 2 + 4;
/// The longest key: a table, a shape and a name.
const KEY_MAX: usize = 2 + NAME_MAX;

/// The live state as of one record, in a file of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// The last record that the rows reflect.
    pub through: Seq,
    /// The rows.
    pub rows: Vec<(RowKey, Vec<u8>)>,
}

/// Writes the rows of `tables`, as they are now, to an export of that name.
pub(crate) fn write(
    core: &mut Core,
    name: &str,
    tables: &[u8],
    through: Seq,
    between: &mut dyn FnMut(&mut Core),
) -> Result<(), CheckpointError> {
    let failed = |source| CheckpointError::Export { source: Arc::new(source) };
    let mut file = core.store.export_begin(name).map_err(failed)?;
    // The head says how many rows there are: it comes last.
    file.write(&[0; HEAD_LEN]).map_err(failed)?;
    let mut rows = 0_u64;
    let mut bytes = Vec::new();
    for (at, table) in tables.iter().enumerate() {
        if tables[..at].contains(table) {
            continue;
        }
        let mut span = Span::table(*table);
        let mut is_done = false;
        while !is_done {
            let read = span.read(core, usize::MAX, &mut |key, row| {
                push_row(key, &row.value, &mut bytes);
                rows += 1;
            });
            is_done = read.map_err(unreadable)?;
            file.write(&bytes).map_err(failed)?;
            bytes.clear();
            between(core);
            if core.is_poisoned() {
                return Err(CheckpointError::Poisoned);
            }
        }
    }
    file.publish(&encode_head(through, rows)).map_err(failed)
}

/// A row that cannot be read is no fault of the export: the journal is poisoned by it.
fn unreadable(error: ReadError) -> CheckpointError {
    match error {
        ReadError::Damaged { row, what } => {
            let source = StoreError::damaged(format!("row {row}: {what}"));
            CheckpointError::Store { source: Arc::new(source) }
        }
        ReadError::Store { source } => CheckpointError::Store { source },
        ReadError::Key { .. } | ReadError::Poisoned | ReadError::Closed => CheckpointError::Poisoned,
    }
}

fn encode_head(through: Seq, rows: u64) -> Vec<u8> {
    let mut head = Vec::with_capacity(HEAD_LEN);
    head.extend_from_slice(MAGIC);
    head.push(FORMAT);
    head.extend_from_slice(&through.0.to_be_bytes());
    head.extend_from_slice(&rows.to_be_bytes());
    head.extend_from_slice(&crc32fast::hash(&head).to_be_bytes());
    head
}

fn push_row(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    // Both lengths were checked when the row was put: NAME_MAX and ROW_MAX are far below 65,536.
    let lens = [(key.len() as u16).to_be_bytes(), (value.len() as u16).to_be_bytes()].concat();
    out.extend_from_slice(&lens);
    out.extend_from_slice(&row_crc(&lens, key, value).to_be_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(value);
}

fn row_crc(lens: &[u8], key: &[u8], value: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(lens);
    crc.update(key);
    crc.update(value);
    crc.finalize()
}

/// Why an export cannot be read.
enum Fault {
    Io(io::Error),
    Unsound(Unsound),
}

impl From<Unsound> for Fault {
    fn from(unsound: Unsound) -> Self {
        Self::Unsound(unsound)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Unsound(Unsound::Damaged("it is cut short")),
            _ => Self::Io(error),
        }
    }
}

/// Reads an export row by row; says through which record, and how many rows.
fn decode(file: &mut dyn io::Read, each: &mut dyn FnMut(RowKey, Vec<u8>)) -> Result<(Seq, u64), Fault> {
    let mut head = [0; HEAD_LEN];
    file.read_exact(&mut head)?;
    let mut reader = Reader(&head);
    if reader.bytes(4)? != MAGIC {
        return Err(Unsound::Damaged("it does not begin as an export").into());
    }
    let format = reader.u8()?;
    let through = Seq(reader.u64()?);
    let count = reader.u64()?;
    if reader.u32()? != crc32fast::hash(&head[..HEAD_LEN - 4]) {
        return Err(Unsound::Damaged("its head's checksum does not match").into());
    }
    if format != FORMAT {
        return Err(Unsound::Newer(format).into());
    }
    for _ in 0..count {
        let (key, value) = decode_row(file)?;
        each(key, value);
    }
    match file.read_exact(&mut [0]) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok((through, count)),
        Err(error) => Err(Fault::Io(error)),
        Ok(()) => Err(Unsound::Damaged("there is more behind its rows").into()),
    }
}

fn decode_row(file: &mut dyn io::Read) -> Result<(RowKey, Vec<u8>), Fault> {
    let mut head = [0; ROW_HEAD_LEN];
    file.read_exact(&mut head)?;
    let mut reader = Reader(&head);
    let (key_len, value_len) = (usize::from(reader.u16()?), usize::from(reader.u16()?));
    let crc = reader.u32()?;
    if key_len > KEY_MAX || value_len > ROW_MAX {
        return Err(Unsound::Damaged("a row is longer than rows can be").into());
    }
    let (mut key, mut value) = (vec![0; key_len], vec![0; value_len]);
    file.read_exact(&mut key)?;
    file.read_exact(&mut value)?;
    if crc != row_crc(&head[..4], &key, &value) {
        return Err(Unsound::Damaged("a row's checksum does not match").into());
    }
    Ok((RowKey::decode(&key)?, value))
}

fn read(path: &Path, each: &mut dyn FnMut(RowKey, Vec<u8>)) -> Result<(Seq, u64), ExportError> {
    let shown = || path.display().to_string();
    let file = File::open(path).map_err(|source| ExportError::Io { path: shown(), source })?;
    decode(&mut BufReader::new(file), each).map_err(|fault| match fault {
        Fault::Io(source) => ExportError::Io { path: shown(), source },
        Fault::Unsound(Unsound::Newer(found)) => {
            ExportError::NewerVersion { path: shown(), found, supported: FORMAT }
        }
        Fault::Unsound(Unsound::Damaged(what)) => ExportError::Damaged { path: shown(), what },
    })
}

/// Reads an export, every checksum checked. Lists of them come from [`verify`](crate::verify).
///
/// # Errors
///
/// - [`ExportError::Damaged`]: try the other one; two are kept.
/// - [`ExportError::NewerVersion`]: use the newer program.
/// - [`ExportError::Io`]: the file could not be read.
pub fn read_export(path: impl AsRef<Path>) -> Result<Export, ExportError> {
    let mut rows = Vec::new();
    let (through, _) = read(path.as_ref(), &mut |key, value| rows.push((key, value)))?;
    Ok(Export { through, rows })
}

/// Checks an export as [`read_export`] does, and keeps nothing of it.
pub(crate) fn count_rows(path: &Path) -> Result<u64, ExportError> {
    read(path, &mut |_, _| {}).map(|(_, rows)| rows)
}
