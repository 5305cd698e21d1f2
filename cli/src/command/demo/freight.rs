//! The file that travels: bytes from the seed, and its digest.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::plan::Random;
use crate::exit::Failure;

const BLOCK: usize = 1 << 20;

/// What every copy must be.
#[derive(Clone, Debug)]
pub struct Freight {
    pub size: u64,
    pub sha256: String,
}

impl Freight {
    /// Writes the file.
    pub async fn make(path: &Path, size: u64, seed: u64) -> Result<Self, Failure> {
        let file = path.to_owned();
        let sha256 = off_the_runtime(path, move || write(&file, size, seed)).await?;
        Ok(Self { size, sha256 })
    }

    /// Whether the file at `path` is this content.
    pub async fn is_at(&self, path: &Path) -> Result<bool, Failure> {
        let file = path.to_owned();
        let (size, sha256) = off_the_runtime(path, move || read(&file)).await?;
        Ok((size, sha256) == (self.size, self.sha256.clone()))
    }
}

async fn off_the_runtime<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await.unwrap_or_else(|lost| Err(io::Error::other(lost)));
    done.map_err(|error| Failure::failed(format!("{}: {error}", path.display())))
}

fn write(path: &Path, size: u64, seed: u64) -> io::Result<String> {
    let (mut random, mut hash) = (Random::new(seed), Sha256::new());
    let mut file = File::create_new(path)?;
    let mut block = vec![0; BLOCK];
    let mut left = size;
    while left > 0 {
        for word in block.chunks_exact_mut(8) {
            word.copy_from_slice(&random.next().to_le_bytes());
        }
        let take = left.min(BLOCK as u64) as usize;
        file.write_all(&block[..take])?;
        hash.update(&block[..take]);
        left -= take as u64;
    }
    Ok(hex(&hash.finalize()))
}

fn read(path: &PathBuf) -> io::Result<(u64, String)> {
    let (mut file, mut hash) = (File::open(path)?, Sha256::new());
    let mut block = vec![0; BLOCK];
    let mut size = 0;
    loop {
        match file.read(&mut block)? {
            0 => return Ok((size, hex(&hash.finalize()))),
            got => {
                hash.update(&block[..got]);
                size += got as u64;
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn content_follows_the_seed_and_a_flipped_bit_shows() {
        let dir = tempfile::tempdir().expect("directory");
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        let freight = Freight::make(&one, 3_000_001, 7).await.expect("made");
        let other = Freight::make(&two, 3_000_001, 8).await.expect("made");
        assert_ne!(freight.sha256, other.sha256);
        assert!(freight.is_at(&one).await.expect("read"));
        assert!(!freight.is_at(&two).await.expect("read"));
        let mut bytes = std::fs::read(&one).expect("read");
        bytes[2_999_999] ^= 1;
        std::fs::write(&one, &bytes).expect("write");
        assert!(!freight.is_at(&one).await.expect("read"));
    }
}
