//! What a record is, and how bytes are framed: every value the journal stores is sealed, every record framed.
//!
//! ```text
//! value   [format u8][kind u8][crc32 u32][body]      crc over format, kind, the key and the body
//! commit  body of kind w: [lsn u64][first seq u64][chain before u64][count u16][frames]
//! frame   [record version u8][length u16][crc32 u32][payload]    crc over version, length and payload
//! ```
//!
//! All numbers are big-endian. The first six bytes of a value keep their meaning in every future
//! format, so that a newer value can be told from a damaged one.
//! Absent on purpose: what a payload means.

use bincode::Options as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{AppendError, DecodeError};

/// The format that this version writes, and the newest that it reads.
pub(crate) const FORMAT: u8 = 1;

/// The most that one stored value may hold. A page of sled above a quarter of a segment would leave
/// the log for a file that is never synced, and a page holds up to sixteen values.
pub(crate) const VALUE_MAX: usize = 8 * 1024;

/// Bytes before the body of a sealed value.
pub(crate) const SEAL_LEN: usize = 6;
const COMMIT_HEAD_LEN: usize = SEAL_LEN + 8 + 8 + 8 + 2;
const FRAME_HEAD_LEN: usize = 1 + 2 + 4;

/// The most bytes that frames may take in one commit.
pub(crate) const FRAMES_MAX: usize = VALUE_MAX - COMMIT_HEAD_LEN;

/// The longest payload that one record may have.
pub const RECORD_MAX: usize = FRAMES_MAX - FRAME_HEAD_LEN;

/// A record's number: the first is 1, and there are no gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub u64);

/// What the journal keeps: something that becomes bytes, and comes back from them.
pub trait Record: Send + 'static {
    /// Written beside every record. Raise it when the payload's meaning changes, and keep decoding the old ones.
    const VERSION: u8;

    /// What replay yields. It may be less than the record: only what was encoded comes back.
    type Replayed: Send + 'static;

    /// Appends the payload to `out`, at most [`RECORD_MAX`] bytes.
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads a payload that `version` wrote. Its checksum is already proven, so an error is not a torn write.
    ///
    /// # Errors
    ///
    /// - [`DecodeError::Version`]: a newer program wrote it; the journal then refuses to open, unchanged.
    /// - [`DecodeError::Malformed`]: the journal counts as damaged.
    fn decode(version: u8, payload: &[u8]) -> Result<Self::Replayed, DecodeError>;
}

/// Appends `value` to `out` as the bincode that this project has settled on.
///
/// # Errors
///
/// [`DecodeError::Malformed`] if `value` cannot be written, or is longer than [`RECORD_MAX`].
pub fn encode_bincode<T: Serialize>(value: &T, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    bincode::DefaultOptions::new()
        .with_limit(RECORD_MAX as u64)
        .serialize_into(out, value)
        .map_err(|error| DecodeError::Malformed(error.to_string()))
}

/// Reads what [`encode_bincode`] wrote, from a slice and under a limit, so that a length in it cannot allocate.
///
/// # Errors
///
/// [`DecodeError::Malformed`] if the bytes are not exactly one `T`.
pub fn decode_bincode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, DecodeError> {
    bincode::DefaultOptions::new()
        .with_limit(RECORD_MAX as u64)
        .deserialize(payload)
        .map_err(|error| DecodeError::Malformed(error.to_string()))
}

/// What kind of value a seal is around.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Commit = b'w' as isize,
    Row = b'r' as isize,
    Meta = b'm' as isize,
}

/// Why a value, or a frame in it, is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsound {
    /// Its checksum holds, but a newer program wrote it.
    Newer(u8),
    /// It does not hold together.
    Damaged(&'static str),
}

fn seal_crc(value: &[u8], key: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&value[..2]);
    crc.update(key);
    crc.update(&value[SEAL_LEN..]);
    crc.finalize()
}

/// Starts a value of `kind`; [`close_seal`] ends it.
pub(crate) fn open_seal(kind: Kind, body_len: usize) -> Vec<u8> {
    let mut value = Vec::with_capacity(SEAL_LEN + body_len);
    value.extend_from_slice(&[FORMAT, kind as u8, 0, 0, 0, 0]);
    value
}

/// Puts the checksum into a value that is to be stored under `key`.
pub(crate) fn close_seal(mut value: Vec<u8>, key: &[u8]) -> Vec<u8> {
    let crc = seal_crc(&value, key);
    value[2..SEAL_LEN].copy_from_slice(&crc.to_be_bytes());
    value
}

pub(crate) fn seal(kind: Kind, key: &[u8], body: &[u8]) -> Vec<u8> {
    let mut value = open_seal(kind, body.len());
    value.extend_from_slice(body);
    close_seal(value, key)
}

/// The body of a value, if it is whole and was stored under `key`.
pub(crate) fn unseal<'a>(kind: Kind, key: &[u8], value: &'a [u8]) -> Result<&'a [u8], Unsound> {
    if value.len() < SEAL_LEN {
        return Err(Unsound::Damaged("the value is too short"));
    }
    if value[2..SEAL_LEN] != seal_crc(value, key).to_be_bytes() {
        return Err(Unsound::Damaged("the checksum does not match"));
    }
    if value[0] != FORMAT {
        return Err(Unsound::Newer(value[0]));
    }
    if value[1] != kind as u8 {
        return Err(Unsound::Damaged("the value is of another kind"));
    }
    Ok(&value[SEAL_LEN..])
}

/// Takes big-endian numbers from the front of a slice; a short slice is an error, never a panic.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Unsound> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(Unsound::Damaged("it is cut short"))?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Unsound> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Unsound::Damaged("it is cut short"))?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Unsound> {
        self.array().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Unsound> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Unsound> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Unsound> {
        self.array().map(u64::from_be_bytes)
    }
}

/// Appends one framed record to `out`. The payload is at most [`RECORD_MAX`] bytes.
fn push_frame(version: u8, payload: &[u8], out: &mut Vec<u8>) {
    let at = out.len();
    out.push(version);
    // RECORD_MAX is far below 65,536, and callers have checked it.
    out.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    let crc = frame_crc(&out[at..at + 3], payload);
    out.extend_from_slice(&crc.to_be_bytes());
    out.extend_from_slice(payload);
}

fn frame_crc(head: &[u8], payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(head);
    crc.update(payload);
    crc.finalize()
}

/// Frames all `values`, one after the other, and says how long each frame is.
pub(crate) fn encode_all<R: Record>(values: &[R]) -> Result<(Vec<u8>, Vec<u16>), AppendError> {
    let mut frames = Vec::new();
    let mut lens = Vec::with_capacity(values.len());
    let mut payload = Vec::new();
    for (index, value) in values.iter().enumerate() {
        payload.clear();
        value.encode(&mut payload);
        if payload.len() > RECORD_MAX {
            return Err(AppendError::TooLarge { index, len: payload.len(), max: RECORD_MAX });
        }
        push_frame(R::VERSION, &payload, &mut frames);
        lens.push(frame_len(payload.len()) as u16);
    }
    Ok((frames, lens))
}

/// How long the frame of a payload of `len` bytes is.
const fn frame_len(len: usize) -> usize {
    FRAME_HEAD_LEN + len
}

/// Takes one frame off `reader`: its version and its payload.
pub(crate) fn take_frame<'a>(reader: &mut Reader<'a>) -> Result<(u8, &'a [u8]), Unsound> {
    let head = reader.0;
    let version = reader.u8()?;
    let len = reader.u16()?;
    let crc = reader.u32()?;
    let payload = reader.bytes(usize::from(len))?;
    if crc != frame_crc(&head[..3], payload) {
        return Err(Unsound::Damaged("a record's checksum does not match"));
    }
    Ok((version, payload))
}

/// One group commit, before its frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CommitHead {
    pub(crate) lsn: u64,
    pub(crate) first: Seq,
    /// The chain before this commit.
    pub(crate) chain: u64,
    pub(crate) count: u16,
}

/// The key of commit `lsn`.
pub(crate) fn commit_key(lsn: u64) -> [u8; 9] {
    let mut key = [b'w'; 9];
    key[1..].copy_from_slice(&lsn.to_be_bytes());
    key
}

/// The stored value of a commit.
pub(crate) fn encode_commit(head: CommitHead, frames: &[u8]) -> Vec<u8> {
    let mut value = open_seal(Kind::Commit, COMMIT_HEAD_LEN - SEAL_LEN + frames.len());
    value.extend_from_slice(&head.lsn.to_be_bytes());
    value.extend_from_slice(&head.first.0.to_be_bytes());
    value.extend_from_slice(&head.chain.to_be_bytes());
    value.extend_from_slice(&head.count.to_be_bytes());
    value.extend_from_slice(frames);
    close_seal(value, &commit_key(head.lsn))
}

/// Reads a commit that was stored under `key`; the reader is left at its frames.
pub(crate) fn decode_commit<'a>(key: &[u8], value: &'a [u8]) -> Result<(CommitHead, Reader<'a>), Unsound> {
    let mut reader = Reader(unseal(Kind::Commit, key, value)?);
    let head = CommitHead {
        lsn: reader.u64()?,
        first: Seq(reader.u64()?),
        chain: reader.u64()?,
        count: reader.u16()?,
    };
    if commit_key(head.lsn) != key {
        return Err(Unsound::Damaged("it lies under another commit's number"));
    }
    Ok((head, reader))
}

/// The chain after a commit: the chain before it, mixed with every byte of its value.
///
/// It shows a commit that is missing, repeated or of another history. It is not a
/// signature: who can write the file can also compute it. Frozen with format 1.
pub(crate) fn chain_after(before: u64, value: &[u8]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = before ^ (value.len() as u64).wrapping_mul(ODD);
    for chunk in value.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = mix(hash ^ u64::from_le_bytes(word)).wrapping_add(ODD);
    }
    hash
}

/// The finaliser of `SplitMix64`: every bit of the input moves every bit of the output.
pub(crate) fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
