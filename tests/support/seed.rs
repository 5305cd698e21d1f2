//! The seed of a run and the small generator that everything random comes from.

use std::env;
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

/// A splitmix64 stream.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The stream of one test: the run's seed mixed with the test's name. Prints how to repeat it.
    pub fn for_test(name: &str) -> Self {
        let seed = run_seed();
        eprintln!("{name}: repeat with HAUL_TEST_SEED={seed}");
        let mixed = name.bytes().fold(seed, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        Self(mixed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

fn run_seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| match env::var("HAUL_TEST_SEED") {
        Ok(text) => text.trim().parse().expect("HAUL_TEST_SEED is a number"),
        Err(_) => RandomState::new().hash_one(0) >> 16,
    })
}
