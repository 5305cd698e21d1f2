//! Files with known bytes, and ways to compare them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::support::seed::Rng;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// Writes `size` bytes that depend only on `seed`.
pub fn make(path: &Path, size: u64, seed: u64) {
    let mut rng = Rng::new(seed);
    let mut file = File::create(path).expect("create a test file");
    let mut block = vec![0; 64 * 1024];
    let mut left = size;
    while left > 0 {
        let take = usize::try_from(left.min(block.len() as u64)).expect("a block fits usize");
        rng.fill(&mut block[..take]);
        file.write_all(&block[..take]).expect("write a test file");
        left -= take as u64;
    }
}

/// Makes a file of `size` that is a hole but for a marked block at each of `marks`; returns the blocks.
pub fn make_sparse(path: &Path, size: u64, marks: &[u64], seed: u64) -> Vec<(u64, Vec<u8>)> {
    let file = File::create(path).expect("create a sparse file");
    file.set_len(size).expect("size a sparse file");
    let mut rng = Rng::new(seed);
    let blocks: Vec<_> = marks
        .iter()
        .map(|&at| {
            let mut block = vec![0; 4096];
            rng.fill(&mut block);
            (at, block)
        })
        .collect();
    for (at, block) in &blocks {
        file.write_all_at(block, *at).expect("write a block of a sparse file");
    }
    blocks
}

/// Checks a copy of a [`make_sparse`] file without reading all of it: its size, its marked blocks, and
/// `samples` further blocks, which must be zero.
pub fn assert_sparse_copy(path: &Path, size: u64, blocks: &[(u64, Vec<u8>)], samples: u64, rng: &mut Rng) {
    let file = File::open(path).expect("open the copy of a sparse file");
    assert_eq!(file.metadata().expect("stat the copy").len(), size, "size of {}", path.display());
    let mut got = vec![0; 4096];
    for (at, want) in blocks {
        file.read_exact_at(&mut got, *at).expect("read a marked block");
        assert!(got == *want, "{}: the block at {at} differs", path.display());
    }
    for _ in 0..samples {
        let at = rng.below(size - 4096);
        if blocks.iter().any(|&(mark, _)| mark < at + 4096 && at < mark + 4096) {
            continue;
        }
        file.read_exact_at(&mut got, at).expect("read a hole");
        assert!(got.iter().all(|&b| b == 0), "{}: bytes at {at} are not zero", path.display());
    }
}

/// Lower-case hex SHA-256 of a file.
pub fn sha256(path: &Path) -> String {
    let file = File::open(path).unwrap_or_else(|e| panic!("open {}: {e}", path.display()));
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        match reader.read(&mut block).expect("read a file to hash") {
            0 => break,
            n => hash.update(&block[..n]),
        }
    }
    hash.finalize().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// Checks that two files hold the same bytes.
#[track_caller]
pub fn assert_same(left: &Path, right: &Path) {
    let size = |path: &Path| fs::metadata(path).map(|m| m.len());
    let (a, b) = (size(left), size(right));
    assert!(
        matches!((&a, &b), (Ok(a), Ok(b)) if a == b),
        "{} has {a:?} bytes, {} has {b:?}",
        left.display(),
        right.display()
    );
    assert!(sha256(left) == sha256(right), "{} and {} differ", left.display(), right.display());
}

/// Every file below `dir`, with its path relative to `dir`.
pub fn tree(dir: &Path) -> Vec<PathBuf> {
    fn walk(root: &Path, dir: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            // A file may go between the listing and the look at it: then it is not there.
            match fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_dir() => walk(root, &path, found)?,
                Ok(_) => found.push(path.strip_prefix(root).expect("below the root").to_owned()),
                Err(_) => {}
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    let _ = walk(dir, dir, &mut found);
    found.sort();
    found
}

/// Every regular file below `dir` with the hash of its bytes.
pub fn fingerprint(dir: &Path) -> BTreeMap<PathBuf, String> {
    tree(dir)
        .into_iter()
        .filter(|path| fs::symlink_metadata(dir.join(path)).is_ok_and(|m| m.is_file()))
        .map(|path| {
            let hash = sha256(&dir.join(&path));
            (path, hash)
        })
        .collect()
}

/// What must not change in a source: taken before, checked after.
#[derive(Debug, PartialEq, Eq)]
pub struct Untouched {
    path: PathBuf,
    inode: (u64, u64, u64),
    mode: u32,
    size: u64,
    times: (i64, i64, i64, i64),
    hash: String,
}

impl Untouched {
    pub fn of(path: &Path) -> Self {
        let hash = sha256(path);
        let meta = fs::metadata(path).expect("stat a source");
        Self {
            path: path.to_owned(),
            inode: (meta.dev(), meta.ino(), meta.nlink()),
            mode: meta.mode(),
            size: meta.size(),
            times: (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()),
            hash,
        }
    }

    #[track_caller]
    pub fn check(&self) {
        assert_eq!(*self, Self::of(&self.path), "the source was touched");
    }
}
