//! The digests of a whole part file: the one that was served, then the one that was asked for.
//!
//! ```text
//! begin ──▶ Hash(Served) ──judge──▶ Hash(Asked) ──judge──▶ Proven
//!                 └─────────────── Wrong ◀──┘
//! ```
//!
//! Invariants: pure; what is proven has passed every digest that is known; one hash serves two digests of
//! one kind.

use super::state::{Check, Version};
use crate::job::{Checksum, ChecksumAlgorithm, FailCause};

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trial {
    /// Hash the part file for this.
    Hash(Check, ChecksumAlgorithm),
    /// All is well, and this shows it.
    Proven(String),
    /// Not the digest that it should be.
    Wrong(Check, FailCause),
}

/// The first thing to do with a part file that has its whole length.
pub fn begin(version: &Version, asked: Option<&Checksum>) -> Trial {
    match (&version.digest, asked) {
        (Some(served), _) => Trial::Hash(Check::Served, served.algorithm),
        (None, Some(asked)) => Trial::Hash(Check::Asked, asked.algorithm),
        (None, None) => Trial::Proven(evidence(version, asked)),
    }
}

/// Compares a digest. `None`: not one that was asked for.
pub fn judge(
    version: &Version,
    asked: Option<&Checksum>,
    check: Check,
    algorithm: ChecksumAlgorithm,
    digest: &[u8],
) -> Option<Trial> {
    let expected = match check {
        Check::Served => version.digest.as_ref(),
        Check::Asked => asked,
    };
    let expected = expected.filter(|expected| expected.algorithm == algorithm)?;
    if expected.digest != digest {
        let got = Checksum { algorithm, digest: digest.to_vec() }.to_string();
        return Some(Trial::Wrong(
            check,
            FailCause::ChecksumMismatch { expected: expected.to_string(), got },
        ));
    }
    Some(match (check, asked) {
        (Check::Served, Some(other)) if other.algorithm == algorithm => {
            return judge(version, asked, Check::Asked, algorithm, digest);
        }
        (Check::Served, Some(other)) => Trial::Hash(Check::Asked, other.algorithm),
        (Check::Served, None) | (Check::Asked, _) => Trial::Proven(evidence(version, asked)),
    })
}

fn evidence(version: &Version, asked: Option<&Checksum>) -> String {
    let length = if version.total.is_some() { "length" } else { "end of body (no length told)" };
    let served = version.digest.as_ref().map(|digest| format!(", {} as served", digest.algorithm.name()));
    let asked = asked.map(|asked| format!(", {} as asked for", asked.algorithm.name()));
    format!("{length}{}{}", served.unwrap_or_default(), asked.unwrap_or_default())
}
