//! Which process to kill after how many bytes: drawn from the seed. Pure.

use std::collections::VecDeque;

/// `SplitMix64`: small, and the same everywhere.
///
/// # Source
///
/// Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `limit`, which is not zero.
    fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }
}

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The `haul` that owns the session.
    Owner,
    /// `haul serve`.
    Receiver,
}

/// One kill to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blow {
    /// As soon as more than so many bytes have moved.
    pub at: u64,
    pub victim: Victim,
}

/// Kills in the order in which they fall due.
pub fn blows(random: &mut Random, size: u64, owner: u32, receiver: u32) -> VecDeque<Blow> {
    // Not in the last part: what is due there may come after the end, and would not count.
    let span = (size - size / 16).max(1);
    let mut blows: Vec<Blow> = (0..owner + receiver)
        .map(|nth| Blow {
            at: random.below(span),
            victim: if nth < owner { Victim::Owner } else { Victim::Receiver },
        })
        .collect();
    blows.sort_by_key(|blow| blow.at);
    blows.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_blows() {
        let draw = |seed| blows(&mut Random::new(seed), 1 << 28, 5, 1);
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn blows_fall_in_order_and_before_the_end() {
        for seed in 0..200 {
            let drawn = blows(&mut Random::new(seed), 1000, 9, 1);
            assert_eq!(drawn.len(), 10);
            assert!(drawn.iter().is_sorted_by_key(|blow| blow.at));
            assert!(drawn.iter().all(|blow| blow.at < 1000));
            assert_eq!(drawn.iter().filter(|blow| blow.victim == Victim::Receiver).count(), 1);
        }
        assert!(blows(&mut Random::new(1), 0, 0, 0).is_empty());
    }
}
