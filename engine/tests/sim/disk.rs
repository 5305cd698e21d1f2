//! The engine's view of the simulated file system: with errors, and with an eye on what is not its own.

use std::fmt::Arguments;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use longhaul::sim::{Disk, File, Fingerprint};

use super::fault::Fault;
use super::fs::{DEV, Fs};
use super::world::{World, lock};

pub struct SimDisk {
    pub world: Arc<World>,
    pub life: u64,
}

/// EIO.
fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

pub const EACCES: i32 = 13;
pub const EROFS: i32 = 30;
pub const ENOENT: i32 = 2;
pub const ENODEV: i32 = 19;

fn no_space() -> io::Error {
    io::ErrorKind::StorageFull.into()
}

impl SimDisk {
    fn act<T>(&self, what: Arguments<'_>, act: impl FnOnce(&mut Fs) -> io::Result<T>) -> io::Result<T> {
        self.world.act(self.life, what, || act(&mut lock(&self.world.fs)))
    }

    /// An act on names, which can fail and must not touch the user's files.
    fn rename_act<T>(
        &self,
        what: Arguments<'_>,
        named: &[&Path],
        act: impl FnOnce(&mut Fs, i128) -> io::Result<T>,
    ) -> io::Result<T> {
        self.world.act(self.life, what, || {
            if self.world.fires(Fault::NameError) {
                return Err(eio());
            }
            let now = self.world.wall_ns();
            let mut fs = lock(&self.world.fs);
            if let Some(errno) = named.iter().find_map(|path| fs.lock_of(path)) {
                return Err(self.locked(errno));
            }
            if let Some(path) = named.iter().find(|path| fs.guarded.contains(**path)) {
                self.world.violate(format!("I1: the user's {} was named in: {what}", path.display()));
                return Err(eio());
            }
            act(&mut fs, now)
        })
    }

    fn locked(&self, errno: i32) -> io::Error {
        self.world.count(if errno == EROFS { Fault::ReadOnly } else { Fault::NoAccess });
        io::Error::from_raw_os_error(errno)
    }

    fn away(&self, errno: i32) -> io::Error {
        self.world.count(Fault::SourceAway);
        io::Error::from_raw_os_error(errno)
    }

    fn open(&self, path: &Path, writes: bool) -> io::Result<Arc<dyn File>> {
        let ino = self.act(
            format_args!("disk open {} {}", path.display(), if writes { "rw" } else { "r" }),
            |fs| {
                if writes && fs.guarded.contains(path) {
                    self.world.violate(format!("I1: the user's {} was opened for writing", path.display()));
                    return Err(eio());
                }
                if let Some(errno) = fs.away(path) {
                    return Err(self.away(errno));
                }
                if let Some(errno) = fs.lock_of(path).filter(|errno| writes && *errno == EROFS) {
                    return Err(self.locked(errno));
                }
                let ino = fs.find(path).ok_or(io::ErrorKind::NotFound)?;
                fs.hold(ino)?;
                Ok(ino)
            },
        )?;
        Ok(self.file(ino, writes))
    }

    fn file(&self, ino: u64, writes: bool) -> Arc<dyn File> {
        let failures = lock(&self.world.fs).inode(ino).map_or(0, |inode| inode.failures);
        let told = AtomicU32::new(failures);
        Arc::new(SimFile { world: Arc::clone(&self.world), life: self.life, ino, writes, told })
    }
}

impl Disk for SimDisk {
    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        self.act(format_args!("disk resolve {}", path.display()), |fs| {
            let found = fs.away(path).is_none() && (fs.is_dir(path) || fs.find(path).is_some());
            if found { Ok(path.to_owned()) } else { Err(io::ErrorKind::NotFound.into()) }
        })
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.open(path, false)
    }

    fn open_write(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.open(path, true)
    }

    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let ino = self.rename_act(format_args!("disk create {}", path.display()), &[path], |fs, now| {
            if path.extension().is_some_and(|end| end == "secrets") && self.world.fires(Fault::SecretsError) {
                return Err(eio());
            }
            if fs.free() == 0 {
                self.world.count(Fault::NoSpace);
                return Err(no_space());
            }
            let ino = fs.create(path, now)?;
            fs.hold(ino)?;
            Ok(ino)
        })?;
        Ok(self.file(ino, true))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let names = [from, to];
        self.rename_act(format_args!("disk rename {names:?}"), &names, |fs, now| fs.rename(from, to, now))
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.rename_act(format_args!("disk rename-new {:?}", [from, to]), &[from], |fs, now| {
            if fs.find(to).is_some() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            fs.rename(from, to, now)
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.rename_act(format_args!("disk remove {}", path.display()), &[path], |fs, _| fs.remove(path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.rename_act(format_args!("disk sync-dir {}", dir.display()), &[], |fs, _| fs.sync_dir(dir))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.act(format_args!("disk list {}", dir.display()), |fs| fs.list(dir))
    }

    fn inspect(&self, path: &Path) -> io::Result<Option<Fingerprint>> {
        self.act(format_args!("disk inspect {}", path.display()), |fs| {
            let found = fs.find(path).filter(|_| fs.away(path).is_none());
            found.map(|ino| fs.fingerprint(ino)).transpose()
        })
    }

    fn device_of_nearest(&self, path: &Path) -> io::Result<u64> {
        self.act(format_args!("disk device of {}", path.display()), |fs| {
            Ok(if fs.away(path).is_some() { DEV + 1 } else { DEV })
        })
    }

    fn is_dir(&self, path: &Path) -> bool {
        lock(&self.world.fs).is_dir(path)
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.act(format_args!("disk free {}", path.display()), |fs| Ok(fs.free()))
    }
}

/// An open file. Its inode lives as long as it is open, whatever becomes of its names.
struct SimFile {
    world: Arc<World>,
    life: u64,
    ino: u64,
    writes: bool,
    /// Failures of syncs that this descriptor has told of.
    told: AtomicU32,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        // A crash has closed what its process had open.
        if self.world.is_alive(self.life) {
            lock(&self.world.fs).release(self.ino);
        }
    }
}

impl SimFile {
    fn act<T>(&self, what: Arguments<'_>, act: impl FnOnce(&mut Fs, i128) -> io::Result<T>) -> io::Result<T> {
        let now = self.world.wall_ns();
        self.world
            .act(self.life, format_args!("file {} {what}", self.ino), || act(&mut lock(&self.world.fs), now))
    }

    fn writing<T>(
        &self,
        what: Arguments<'_>,
        act: impl FnOnce(&mut Fs, i128) -> io::Result<T>,
    ) -> io::Result<T> {
        if !self.writes || lock(&self.world.fs).inode(self.ino)?.is_source {
            self.world
                .violate(format!("I1: {what} on inode {}, which is not the engine's to change", self.ino));
            return Err(io::Error::from_raw_os_error(9));
        }
        self.act(what, act)
    }

    /// The user writes while the engine reads, when it has half of what it wants.
    fn race(&self, offset: u64, len: usize) {
        let is_source = lock(&self.world.fs).inode(self.ino).is_ok_and(|inode| inode.is_source);
        if !is_source || len < 2 || !self.world.fires(Fault::SourceRaced) {
            return;
        }
        let now = self.world.wall_ns();
        let path = lock(&self.world.fs).guarded_path(self.ino);
        if let Some(path) = path {
            super::user::scribble(&self.world, &path, &[offset, offset + len as u64 - 1], now);
        }
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut fs = lock(&self.world.fs);
        let bytes = fs.inode(self.ino)?.now.get(offset as usize..).unwrap_or_default();
        let got = bytes.len().min(buffer.len());
        buffer[..got].copy_from_slice(&bytes[..got]);
        Ok(got)
    }

    fn sync(&self, what: Arguments<'_>) -> io::Result<()> {
        let fails = self.world.fires(Fault::SyncError);
        self.writing(what, |fs, _| {
            if fails {
                fs.sync_fails(self.ino)?;
            }
            let failures = fs.inode(self.ino)?.failures;
            if self.told.swap(failures, Ordering::Relaxed) < failures {
                return Err(eio());
            }
            fs.sync(self.ino)
        })
    }
}

impl File for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let fails = self.world.fires(Fault::ReadError);
        self.world.act(self.life, format_args!("file {} read {offset}+{}", self.ino, buffer.len()), || {
            if fails {
                return Err(eio());
            }
            let got = self.read(buffer, offset)?;
            self.race(offset, got);
            let half = got / 2;
            Ok(half + self.read(&mut buffer[half..got], offset + half as u64)?)
        })
    }

    fn write_all_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        let fails = self.world.fires(Fault::WriteError);
        let written =
            if fails { self.world.rng(|rng| rng.below(buffer.len() as u64)) as usize } else { buffer.len() };
        let done = self.writing(format_args!("write {offset}+{written}"), |fs, now| {
            fs.write(self.ino, offset, &buffer[..written], now)?;
            if fails { Err(eio()) } else { Ok(()) }
        });
        if done.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::StorageFull) {
            self.world.count(Fault::NoSpace);
        }
        done
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync(format_args!("sync-data"))
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync(format_args!("sync-all"))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.writing(format_args!("set-len {len}"), |fs, now| fs.set_len(self.ino, len, now))
    }

    fn fingerprint(&self) -> io::Result<Fingerprint> {
        self.act(format_args!("stat"), |fs, _| fs.fingerprint(self.ino))
    }

    fn clone_from(&self, source: &dyn File) -> io::Result<()> {
        self.writing(format_args!("clone from {:?}", source.raw_fd()), |fs, now| {
            let source = source.raw_fd().filter(|_| fs.clones).ok_or(io::ErrorKind::Unsupported)?;
            let bytes = fs.inode(u64::from(source.unsigned_abs()))?.now.clone();
            fs.write(self.ino, 0, &bytes, now)
        })
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.act(format_args!("next-data {offset}"), |fs, _| {
            let inode = fs.inode(self.ino)?;
            let (mut start, mut end) = (offset, inode.now.len() as u64);
            for hole in &inode.holes {
                if hole.contains(&start) {
                    start = hole.end;
                } else if hole.start > start {
                    end = end.min(hole.start);
                }
            }
            Ok((start < end).then_some(start..end))
        })
    }

    /// The inode's number serves as one.
    fn raw_fd(&self) -> Option<i32> {
        self.world.is_alive(self.life).then_some(self.ino as i32)
    }
}
