//! The tus checksum extension: `Upload-Checksum: <algorithm> <base64>`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::reply::Refusal;

/// What `Tus-Checksum-Algorithm` announces.
pub const ALGORITHMS: &str = "sha1,sha256";

/// A checksum as promised by the client, and the one of the bytes seen so far.
pub struct Checksum {
    promised: Vec<u8>,
    hasher: Hasher,
}

enum Hasher {
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Checksum {
    pub fn parse(header: &str) -> Result<Self, Refusal> {
        let (algorithm, value) = header
            .split_once(' ')
            .ok_or(Refusal::Malformed("Upload-Checksum needs an algorithm and a value"))?;
        let (hasher, digest_bytes) = match algorithm {
            "sha1" => (Hasher::Sha1(Sha1::new()), 20),
            "sha256" => (Hasher::Sha256(Sha256::new()), 32),
            _ => return Err(Refusal::Malformed("unknown checksum algorithm")),
        };
        match STANDARD.decode(value) {
            Ok(promised) if promised.len() == digest_bytes => Ok(Self { promised, hasher }),
            _ => Err(Refusal::Malformed("Upload-Checksum is not the base64 of a digest")),
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.hasher {
            Hasher::Sha1(hasher) => hasher.update(bytes),
            Hasher::Sha256(hasher) => hasher.update(bytes),
        }
    }

    pub fn holds(self) -> bool {
        match self.hasher {
            Hasher::Sha1(hasher) => hasher.finalize()[..] == self.promised,
            Hasher::Sha256(hasher) => hasher.finalize()[..] == self.promised,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_digests_hold_and_others_do_not() {
        for (header, holds) in [
            ("sha1 qvTGHdzF6KLavt4PO0gs2a6pQ00=", true),
            ("sha1 qvTGHdzF6KLavt4PO0gs2a6pQ01=", false),
            ("sha256 LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=", true),
        ] {
            let Ok(mut checksum) = Checksum::parse(header) else {
                assert!(!holds, "{header}"); // trailing bits that are not zero are not base64
                continue;
            };
            checksum.update(b"hel");
            checksum.update(b"lo");
            assert_eq!(checksum.holds(), holds, "{header}");
        }
    }

    #[test]
    fn unknown_algorithms_and_bad_values_are_refused() {
        for header in ["", "sha1", "md5 XUFAKrxLKna5cZ2REBfFkg==", "sha1 ?", "sha1 aGk=", "SHA1 x"] {
            assert!(Checksum::parse(header).is_err(), "{header}");
        }
    }
}
