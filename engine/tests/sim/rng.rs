//! The one source of chance of a seed, and file contents that are cheap to make and hard to confuse.

use std::sync::{Arc, OnceLock};

/// Bytes of a file at one instant.
pub type Content = Arc<Vec<u8>>;

/// One page: what a torn write keeps or loses whole.
pub const PAGE: usize = 4096;

/// `SplitMix64`.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// `0..bound`; 0 for an empty range.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// `low..=high`.
    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True so many times of a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `len` bytes that no other key has: each page is cut from one random table at a place of its own
/// and stamped, so that a lost, swapped or foreign page shows, and making them is copying.
pub fn freight(key: u64, len: usize) -> Content {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let mut rng = Rng::new(7);
        (0..(1 << 16)).flat_map(|_| rng.bits().to_le_bytes()).collect()
    });
    let mut rng = Rng::new(key);
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let take = PAGE.min(len - bytes.len());
        let from = rng.below((table.len() - take) as u64) as usize;
        let start = bytes.len();
        bytes.extend_from_slice(&table[from..from + take]);
        let stamp = rng.bits().to_le_bytes();
        let stamped = take.min(stamp.len());
        bytes[start..start + stamped].copy_from_slice(&stamp[..stamped]);
    }
    Arc::new(bytes)
}
