//! Randomness from the kernel.
//!
//! Promise: what is returned is filled by the kernel's generator, whole. A system without one cannot
//! make tokens that no other job has, so there is no weaker source to fall back to.

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::ports::Entropy;

/// The kernel's generator.
#[derive(Clone, Copy, Debug)]
pub(super) struct KernelEntropy;

impl Entropy for KernelEntropy {
    fn token(&self) -> [u8; 16] {
        fill()
    }

    fn seed(&self) -> u64 {
        u64::from_ne_bytes(fill())
    }
}

fn fill<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(got) => filled += got,
            // Only while the generator is not yet seeded, early after boot.
            Err(Errno::INTR) => {}
            Err(error) => panic!("the kernel gives no random bytes: {error}"),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ() {
        assert_ne!(KernelEntropy.token(), KernelEntropy.token());
        assert_ne!(KernelEntropy.seed(), KernelEntropy.seed());
    }
}
