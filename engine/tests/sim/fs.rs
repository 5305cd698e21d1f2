//! A file system of names and inodes that knows what is durable.
//!
//! ```text
//! write, truncate ─▶ now ─┬─▶ pending ──sync──▶ durable        names in a directory likewise
//!                         │      └─ cut: each op survives, is torn or is lost, as chance says
//!                         └─ kill: stays, and stays pending
//! ```
//!
//! A failed sync drops what was pending: the page cache goes on showing it, and the next sync says yes
//! without it, but for one no to every other descriptor that was open then. That is what ext4 and xfs do
//! (RELIABILITY.md).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use longhaul::sim::Fingerprint;

use super::rng::{Content, PAGE, Rng};

/// The one device.
pub const DEV: u64 = 1;

pub struct Fs {
    dirs: BTreeMap<PathBuf, Dir>,
    inodes: BTreeMap<u64, Inode>,
    spare: BTreeSet<u64>,
    next: u64,
    /// Numbers of removed files are given out again.
    reuses: bool,
    /// FICLONE works here.
    pub clones: bool,
    /// Granularity of timestamps, ns.
    tick_ns: i128,
    /// Bytes that files other than sources may take.
    pub capacity: u64,
    /// Files of the user: no call of the engine may change them.
    pub guarded: BTreeSet<PathBuf>,
    /// Directories that may not be written, and what the system says to it.
    pub locked: BTreeMap<PathBuf, i32>,
    /// The file system of the sources is not mounted, and what the system says to who opens one.
    pub away: Option<i32>,
    /// Every content that a file of the user's has had.
    pub history: BTreeMap<PathBuf, Vec<Content>>,
}

#[derive(Default)]
struct Dir {
    now: BTreeMap<PathBuf, u64>,
    durable: BTreeMap<PathBuf, u64>,
    pending: Vec<NameOp>,
}

#[derive(Clone)]
enum NameOp {
    Set(PathBuf, u64),
    Unset(PathBuf),
    Rename(PathBuf, PathBuf, u64),
}

#[derive(Default)]
pub struct Inode {
    pub now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<DataOp>,
    mtime_ns: i128,
    ctime_ns: i128,
    open: u32,
    /// Syncs that have failed.
    pub failures: u32,
    pub holes: Vec<Range<u64>>,
    pub is_source: bool,
}

enum DataOp {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

impl DataOp {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::Write(offset, bytes) => put(to, *offset, bytes),
            Self::SetLen(len) => to.resize(*len as usize, 0),
        }
    }

    /// A part of it, page by page.
    fn tear(&self, to: &mut Vec<u8>, rng: &mut Rng) {
        let Self::Write(offset, bytes) = self else { return self.apply(to) };
        for (index, page) in bytes.chunks(PAGE).enumerate() {
            if rng.chance(500) {
                put(to, offset + (index * PAGE) as u64, page);
            }
        }
    }
}

fn put(to: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let (start, end) = (offset as usize, offset as usize + bytes.len());
    if to.len() < end {
        to.resize(end, 0);
    }
    to[start..end].copy_from_slice(bytes);
}

impl NameOp {
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Set(name, ino) => drop(names.insert(name.clone(), *ino)),
            Self::Unset(name) => drop(names.remove(name)),
            Self::Rename(from, to, ino) => {
                names.remove(from);
                names.insert(to.clone(), *ino);
            }
        }
    }
}

impl Fs {
    pub fn draw(rng: &mut Rng) -> Self {
        let dirs = ["/src", "/dst", "/state/stage"].map(|dir| (PathBuf::from(dir), Dir::default()));
        Self {
            dirs: BTreeMap::from(dirs),
            inodes: BTreeMap::new(),
            spare: BTreeSet::new(),
            next: 10,
            reuses: rng.chance(500),
            clones: rng.chance(350),
            tick_ns: rng.pick(&[1, 1_000_000, 4_000_000]),
            capacity: 1 << 40,
            guarded: BTreeSet::new(),
            locked: BTreeMap::new(),
            away: None,
            history: BTreeMap::new(),
        }
    }

    fn tick(&self, now_ns: i128) -> i128 {
        now_ns - now_ns % self.tick_ns
    }

    fn dir_of(&mut self, path: &Path) -> io::Result<&mut Dir> {
        let dir = path.parent().and_then(|parent| self.dirs.get_mut(parent));
        dir.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Whether names in the path's directory may be changed.
    pub fn lock_of(&self, path: &Path) -> Option<i32> {
        self.locked.get(path.parent()?).copied()
    }

    /// Whether the path is one of a file system that is away.
    pub fn away(&self, path: &Path) -> Option<i32> {
        self.away.filter(|_| path.starts_with("/src"))
    }

    pub fn is_dir(&self, path: &Path) -> bool {
        self.dirs.contains_key(path)
    }

    pub fn find(&self, path: &Path) -> Option<u64> {
        self.dirs.get(path.parent()?)?.now.get(path).copied()
    }

    pub fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let dir = self.dirs.get(dir).ok_or(io::ErrorKind::NotFound)?;
        Ok(dir.now.keys().cloned().collect())
    }

    pub fn inode(&mut self, ino: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&ino).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub fn create(&mut self, path: &Path, now_ns: i128) -> io::Result<u64> {
        if self.find(path).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let time = self.tick(now_ns);
        let ino = self.spare.pop_first().filter(|_| self.reuses).unwrap_or_else(|| {
            self.next += 1;
            self.next
        });
        self.inodes.insert(ino, Inode { mtime_ns: time, ctime_ns: time, ..Inode::default() });
        self.name(path, NameOp::Set(path.to_owned(), ino))?;
        Ok(ino)
    }

    fn name(&mut self, path: &Path, op: NameOp) -> io::Result<()> {
        let dir = self.dir_of(path)?;
        op.apply(&mut dir.now);
        dir.pending.push(op);
        Ok(())
    }

    /// Within one directory, as every rename of the engine is.
    pub fn rename(&mut self, from: &Path, to: &Path, now_ns: i128) -> io::Result<()> {
        let ino = self.find(from).ok_or(io::ErrorKind::NotFound)?;
        let replaced = self.find(to);
        let time = self.tick(now_ns);
        self.inode(ino)?.ctime_ns = time;
        self.name(from, NameOp::Rename(from.to_owned(), to.to_owned(), ino))?;
        if let Some(old) = replaced {
            self.collect(old);
        }
        Ok(())
    }

    pub fn remove(&mut self, path: &Path) -> io::Result<()> {
        let ino = self.find(path).ok_or(io::ErrorKind::NotFound)?;
        self.name(path, NameOp::Unset(path.to_owned()))?;
        self.collect(ino);
        Ok(())
    }

    pub fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        let dir = self.dirs.get_mut(dir).ok_or(io::ErrorKind::NotFound)?;
        for op in dir.pending.drain(..) {
            op.apply(&mut dir.durable);
        }
        Ok(())
    }

    pub fn links(&self, ino: u64) -> u64 {
        self.dirs.values().flat_map(|dir| dir.now.values()).filter(|&&found| found == ino).count() as u64
    }

    pub fn fingerprint(&self, ino: u64) -> io::Result<Fingerprint> {
        let inode = self.inodes.get(&ino).ok_or(io::ErrorKind::NotFound)?;
        Ok(Fingerprint {
            dev: DEV,
            ino,
            size: inode.now.len() as u64,
            mtime_ns: inode.mtime_ns,
            ctime_ns: inode.ctime_ns,
            links: self.links(ino),
            regular: true,
        })
    }

    /// Bytes that are free.
    pub fn free(&self) -> u64 {
        let ours = self.inodes.values().filter(|inode| !inode.is_source);
        self.capacity.saturating_sub(ours.map(|inode| inode.now.len() as u64).sum())
    }

    pub fn write(&mut self, ino: u64, offset: u64, bytes: &[u8], now_ns: i128) -> io::Result<()> {
        let (time, free) = (self.tick(now_ns), self.free());
        let inode = self.inode(ino)?;
        let growth = (offset + bytes.len() as u64).saturating_sub(inode.now.len() as u64);
        let fits = bytes.len().saturating_sub(growth.saturating_sub(free) as usize);
        let op = DataOp::Write(offset, bytes[..fits].to_vec());
        op.apply(&mut inode.now);
        inode.pending.push(op);
        (inode.mtime_ns, inode.ctime_ns) = (time, time);
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    pub fn set_len(&mut self, ino: u64, len: u64, now_ns: i128) -> io::Result<()> {
        let time = self.tick(now_ns);
        let inode = self.inode(ino)?;
        let op = DataOp::SetLen(len);
        op.apply(&mut inode.now);
        inode.pending.push(op);
        (inode.mtime_ns, inode.ctime_ns) = (time, time);
        Ok(())
    }

    pub fn sync(&mut self, ino: u64) -> io::Result<()> {
        let inode = self.inode(ino)?;
        for op in inode.pending.drain(..) {
            op.apply(&mut inode.durable);
        }
        Ok(())
    }

    /// A sync that fails: what was pending will never be durable, and the next sync will not say so.
    pub fn sync_fails(&mut self, ino: u64) -> io::Result<()> {
        let inode = self.inode(ino)?;
        inode.pending.clear();
        inode.failures += 1;
        Ok(())
    }

    pub fn is_open(&self, path: &Path) -> bool {
        self.find(path).and_then(|ino| self.inodes.get(&ino)).is_some_and(|inode| inode.open > 0)
    }

    pub fn hold(&mut self, ino: u64) -> io::Result<()> {
        self.inode(ino)?.open += 1;
        Ok(())
    }

    pub fn release(&mut self, ino: u64) {
        if let Ok(inode) = self.inode(ino) {
            inode.open -= 1;
        }
        self.collect(ino);
    }

    /// Frees an inode that nothing refers to.
    fn collect(&mut self, ino: u64) {
        let named = self.dirs.values().any(|dir| {
            let pending = dir
                .pending
                .iter()
                .any(|op| matches!(op, NameOp::Set(_, i) | NameOp::Rename(_, _, i) if *i == ino));
            pending || dir.now.values().chain(dir.durable.values()).any(|&found| found == ino)
        });
        if !named && self.inodes.get(&ino).is_some_and(|inode| inode.open == 0) {
            self.inodes.remove(&ino);
            self.spare.insert(ino);
        }
    }

    /// The process is gone: its descriptors are closed.
    pub fn kill(&mut self) {
        for inode in self.inodes.values_mut() {
            inode.open = 0;
        }
        let all: Vec<u64> = self.inodes.keys().copied().collect();
        for ino in all {
            self.collect(ino);
        }
    }

    /// Power is gone: what was not synced survives as chance says.
    pub fn cut(&mut self, rng: &mut Rng) {
        for dir in self.dirs.values_mut() {
            // A journalling file system keeps a prefix; another keeps what it likes.
            let keep =
                if rng.chance(500) { Some(rng.below(dir.pending.len() as u64 + 1) as usize) } else { None };
            for (index, op) in std::mem::take(&mut dir.pending).into_iter().enumerate() {
                if keep.map_or_else(|| rng.chance(500), |keep| index < keep) {
                    op.apply(&mut dir.durable);
                }
            }
            dir.now = dir.durable.clone();
        }
        for inode in self.inodes.values_mut() {
            let fate = rng.below(4);
            for op in std::mem::take(&mut inode.pending) {
                match fate {
                    0 => op.apply(&mut inode.durable),
                    1 => op.tear(&mut inode.durable, rng),
                    2 if rng.chance(500) => op.apply(&mut inode.durable),
                    _ => {}
                }
            }
            inode.now.clone_from(&inode.durable);
        }
        self.kill();
    }

    /// A file of the user's, at once durable. Its inode stays if it was there.
    pub fn user_writes(&mut self, path: &Path, content: &Content, now_ns: i128) -> io::Result<()> {
        let ino = self.find(path).map_or_else(|| self.create(path, now_ns), Ok)?;
        let time = self.tick(now_ns);
        let inode = self.inode(ino)?;
        inode.now.clone_from(content);
        inode.durable.clone_from(content);
        inode.pending.clear();
        inode.holes.clear();
        inode.is_source = true;
        (inode.mtime_ns, inode.ctime_ns) = (time, time);
        self.history.entry(path.to_owned()).or_default().push(Content::clone(content));
        self.sync_dir(path.parent().unwrap_or(Path::new("/")))
    }

    /// The name of a file of the user's.
    pub fn guarded_path(&self, ino: u64) -> Option<PathBuf> {
        self.guarded.iter().find(|path| self.find(path) == Some(ino)).cloned()
    }

    pub fn user_removes(&mut self, path: &Path) -> io::Result<()> {
        self.remove(path)?;
        self.sync_dir(path.parent().unwrap_or(Path::new("/")))
    }

    /// The user cuts somebody else's file short, durably.
    pub fn user_truncates(&mut self, path: &Path, len: u64, now_ns: i128) -> io::Result<()> {
        let ino = self.find(path).ok_or(io::ErrorKind::NotFound)?;
        self.set_len(ino, len, now_ns)?;
        self.sync(ino)
    }

    /// What a power cut right now could not take away; `None`: it could take the name.
    pub fn durable(&self, path: &Path) -> Option<&[u8]> {
        let ino = self.dirs.get(path.parent()?)?.durable.get(path)?;
        self.inodes.get(ino).map(|inode| inode.durable.as_slice())
    }

    pub fn content(&self, path: &Path) -> Option<&[u8]> {
        self.inodes.get(&self.find(path)?).map(|inode| inode.now.as_slice())
    }
}
