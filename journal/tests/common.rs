//! What the modules share: a record, and ways to open, crash and compare.

use std::hash::{BuildHasher as _, RandomState};

use longhaul_journal::mem::MemDisk;
use longhaul_journal::{Checkpoint, DecodeError, Executor, Journal, OpenError, Opened, Record, RowKey, Seq};
use proptest::prelude::ProptestConfig;
use proptest::test_runner::RngSeed;

/// A record of any bytes. `Text` is version 1 of two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text(pub Vec<u8>);

impl Text {
    pub fn new(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }

    pub fn numbered(number: u64, len: usize) -> Self {
        let mut bytes = vec![b'.'; len.max(8)];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        Self(bytes)
    }
}

impl Record for Text {
    const VERSION: u8 = 1;
    type Replayed = Vec<u8>;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    fn decode(version: u8, payload: &[u8]) -> Result<Vec<u8>, DecodeError> {
        match version {
            1 => Ok(payload.to_vec()),
            found => Err(DecodeError::Version { found }),
        }
    }
}

/// The same record, two versions on.
pub struct Newer(pub Vec<u8>);

impl Record for Newer {
    const VERSION: u8 = 3;
    type Replayed = Vec<u8>;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    fn decode(_version: u8, payload: &[u8]) -> Result<Vec<u8>, DecodeError> {
        Ok(payload.to_vec())
    }
}

pub fn open_mem(disk: &MemDisk) -> Result<Opened<Text>, OpenError> {
    Journal::open_store(disk.store(), Executor::Inline)
}

pub fn tail(opened: Opened<Text>) -> Vec<(u64, Vec<u8>)> {
    opened.tail.into_iter().map(|record| (record.seq().0, record.into_value())).collect()
}

/// A checkpoint that keeps every record as a row of its own number.
pub fn rows_through(records: &[Vec<u8>], from: u64, through: u64) -> Checkpoint {
    let row = |seq: u64| (RowKey::new(b'j', seq, 0), records[seq as usize - 1].clone());
    Checkpoint {
        through: Seq(through),
        puts: (from + 1..=through).map(row).collect(),
        ..Checkpoint::default()
    }
}

/// Every record, from rows and tail together, in order. Rows win where a checkpoint was cut short.
pub fn everything(opened: &Opened<Text>) -> Vec<(u64, Vec<u8>)> {
    let rows = opened.rows.iter().map(|row| match row.key {
        RowKey::Number { id, .. } => (id, row.value.clone()),
        RowKey::Name { .. } => (0, row.value.clone()),
    });
    let mut all: std::collections::BTreeMap<u64, Vec<u8>> = rows.collect();
    for record in &opened.tail {
        all.entry(record.seq().0).or_insert_with(|| record.value().clone());
    }
    all.into_iter().collect()
}

/// A seed of its own for each property, printed where a failure shows it, and taken back from `PROPTEST_RNG_SEED`.
pub fn property() -> ProptestConfig {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let seed = match config.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => RandomState::new().hash_one("seed"),
    };
    println!("PROPTEST_RNG_SEED={seed}");
    ProptestConfig { rng_seed: RngSeed::Fixed(seed), ..config }
}
