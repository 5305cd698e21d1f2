//! The durable record of one upload, `<id>.json`.
//!
//! ```text
//! Receiving --all bytes durable--> Publishing{name, inode} --object durable--> Complete{name}
//! ```
//!
//! Invariants: a record is replaced whole (`Root::write_durably`); `Publishing` is durable before the
//! object appears, `Complete` only after. A record of a version not known here is left alone.

use std::{fmt, fs::File, io, io::Read as _};

use serde::{Deserialize, Serialize};

use super::{dir::Root, name};

const VERSION: u32 = 1;
/// Far above any record that was written here: metadata is bounded by the request's headers.
const RECORD_MAX_BYTES: u64 = 256 * 1024;

/// Names an upload in URLs and on disk: 128 random bits, as 32 lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Id(String);

impl Id {
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(Self(name::hex(&bytes)))
    }

    pub fn parse(text: &str) -> Option<Self> {
        let valid = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        valid.then(|| Self(text.to_owned()))
    }

    pub fn part(&self) -> String {
        format!("{self}.part")
    }

    pub fn mark(&self) -> String {
        format!("{self}.off")
    }

    pub fn record(&self) -> String {
        format!("{self}.json")
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum State {
    /// Bytes are missing, or are all here and not published yet.
    Receiving,
    /// The part file, whose inode this is, is being moved to the object of this name.
    Publishing { name: String, inode: u64 },
    /// The object stands under this name. What became of it since is not this record's business.
    Complete { name: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    version: u32,
    pub length: u64,
    /// The safe base name the client asked for; the object may have to take another.
    pub wanted: String,
    /// `Upload-Metadata` as it came, to be given back.
    pub metadata: Option<String>,
    pub state: State,
}

impl Record {
    pub fn new(length: u64, wanted: String, metadata: Option<String>) -> Self {
        Self { version: VERSION, length, wanted, metadata, state: State::Receiving }
    }

    /// The record of the same upload in another state.
    pub fn in_state(&self, state: State) -> Self {
        Self { state, ..self.clone() }
    }

    pub fn save(&self, root: &Root, id: &Id) -> io::Result<()> {
        root.write_durably(&id.record(), &serde_json::to_vec(self)?)
    }

    /// Reads a record; `None` when there is none.
    pub fn load(root: &Root, id: &Id) -> io::Result<Option<Self>> {
        let file = match root.open_state(&id.record()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(RECORD_MAX_BYTES).read_to_end(&mut bytes)?;
        let record: Self = serde_json::from_slice(&bytes)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let known = record.version == VERSION && record.is_safe();
        known.then_some(Some(record)).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Names were safe when written; a record that says otherwise was not written here.
    fn is_safe(&self) -> bool {
        let published = match &self.state {
            State::Receiving => None,
            State::Publishing { name, .. } | State::Complete { name } => Some(name),
        };
        let mut names = published.into_iter().chain([&self.wanted]);
        names.all(|name| name::servable(name.as_bytes())) && i64::try_from(self.length).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fixed_width_lower_case_hex_is_an_id() {
        let id = Id::random().expect("random");
        assert_eq!(Id::parse(&id.to_string()), Some(id));
        for wrong in ["", "..", "../../x", &"A".repeat(32), &"0".repeat(33), &"é".repeat(16)] {
            assert_eq!(Id::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_record_that_names_a_way_out_is_refused() {
        let mut record = Record::new(1, "fine".into(), None);
        assert!(record.is_safe());
        record.state = State::Complete { name: "../out".into() };
        assert!(!record.is_safe());
    }
}
