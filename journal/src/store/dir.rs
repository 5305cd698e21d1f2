//! The journal's directory: who may be in it, which database is current, and how files become durable.
//!
//! ```text
//! lock                 flock, held while open
//! head                 the witness: slot 0 at 0, slot 1 at 4096
//! db.N                 sled's directory; the greatest N is the current one
//! *.new                being built or looked at; removed at open
//! export-EPOCH-SEQ     exports; two are kept
//! ```
//!
//! Invariant: a name without `.new` appears by rename only, after everything below it was synced. So at
//! every instant the greatest `db.N` is whole.
//! Absent on purpose: sled.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::ExportFile;
use crate::error::StoreError;
use crate::witness::SLOT_LEN;

/// Far enough apart that no torn sector or page can take both slots.
const SLOT_AT: [u64; 2] = [0, 4096];

/// Both slots, each with its page.
const HEAD_LEN: usize = 8192;

const UNFINISHED: &str = ".new";
const EXPORT_PREFIX: &str = "export-";
const EXPORTS_KEPT: usize = 2;
/// How much of an export is left to a sync: the owner of the store makes it, and commits wait for it.
const EXPORT_SYNC_BYTES: usize = 4 * 1024 * 1024;

/// Adds what was tried, and where, to an error.
pub(crate) fn doing(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::io(format!("{verb} {}", path.display()), source)
}

/// An open, locked journal directory.
#[derive(Debug)]
pub(crate) struct Dir {
    path: PathBuf,
    _lock: File,
}

impl Dir {
    /// Takes the directory, or makes it. Nobody else can take it until this is dropped.
    pub(crate) fn take(path: &Path) -> Result<Self, StoreError> {
        if !path.exists() {
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(doing("creating", path))?;
        }
        set_mode(path, 0o700)?;
        let lock_path = path.join("lock");
        let lock = private(OpenOptions::new().write(true).create(true).truncate(false))
            .open(&lock_path)
            .map_err(doing("opening", &lock_path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_path_buf(), _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::Locked),
            Err(errno) => Err(doing("locking", &lock_path)(errno.into())),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes what a kill left half built; says what it was.
    pub(crate) fn clear_leftovers(&self) -> Result<Vec<String>, StoreError> {
        let mut notes = Vec::new();
        for name in self.names()? {
            if is_unfinished(&name) {
                let path = self.path.join(&name);
                let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                removed.map_err(doing("removing", &path))?;
                notes.push(format!("removed {name}, left unfinished by an earlier process"));
            }
        }
        Ok(notes)
    }

    fn names(&self) -> Result<Vec<String>, StoreError> {
        names(&self.path)
    }

    /// The numbers of the databases that are there, in rising order.
    fn generations(&self) -> Result<Vec<u32>, StoreError> {
        let mut generations: Vec<u32> =
            self.names()?.iter().filter_map(|name| name.strip_prefix("db.")?.parse().ok()).collect();
        generations.sort_unstable();
        Ok(generations)
    }

    /// The number of the current database.
    pub(crate) fn current(&self) -> Result<Option<u32>, StoreError> {
        Ok(self.generations()?.pop())
    }

    pub(crate) fn db(&self, generation: u32) -> PathBuf {
        self.path.join(format!("db.{generation}"))
    }

    /// Where a database is built before it is published.
    pub(crate) fn unpublished(&self, generation: u32) -> PathBuf {
        self.path.join(format!("db.{generation}.new"))
    }

    /// Makes a finished database the current one. A kill leaves it published, or not, never half.
    pub(crate) fn publish(&self, generation: u32) -> Result<(), StoreError> {
        let (from, to) = (self.unpublished(generation), self.db(generation));
        tighten(&from)?;
        sync_tree(&from)?;
        fs::rename(&from, &to).map_err(doing("publishing", &to))?;
        sync(&self.path)
    }

    /// Where a sound copy lies while the database itself is opened.
    pub(crate) fn kept(&self) -> PathBuf {
        self.path.join("kept")
    }

    /// Keeps a copy, in the place of any older one.
    pub(crate) fn keep(&self, copy: &Path) -> Result<(), StoreError> {
        self.forget_kept()?;
        fs::rename(copy, self.kept()).map_err(doing("keeping", copy))
    }

    /// Makes the kept copy the current database.
    pub(crate) fn restore(&self, generation: u32) -> Result<(), StoreError> {
        let (from, to) = (self.kept(), self.db(generation));
        tighten(&from)?;
        sync_tree(&from)?;
        fs::rename(&from, &to).map_err(doing("restoring", &to))?;
        sync(&self.path)
    }

    /// Removes the kept copy. Before anything is committed to the database: a copy is never older than it.
    pub(crate) fn forget_kept(&self) -> Result<(), StoreError> {
        let (kept, leftover) = (self.kept(), self.path.join("kept.new"));
        match fs::rename(&kept, &leftover) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(doing("retiring", &kept)(error)),
        }
        sync(&self.path)?;
        fs::remove_dir_all(&leftover).map_err(doing("removing", &leftover))
    }

    /// Removes the databases before `generation`, which is published and was read.
    pub(crate) fn remove_older(&self, generation: u32) -> Result<(), StoreError> {
        for old in self.generations()?.into_iter().filter(|old| *old < generation) {
            // Renamed first, so that a kill half way through leaves no half database under a name that counts.
            let (from, to) = (self.db(old), self.unpublished(old));
            fs::rename(&from, &to).map_err(doing("retiring", &from))?;
            sync(&self.path)?;
            fs::remove_dir_all(&to).map_err(doing("removing", &to))?;
        }
        Ok(())
    }

    /// Modes, and every name down from the parent, made durable.
    pub(crate) fn settle(&self) -> Result<(), StoreError> {
        tighten(&self.path)?;
        sync_tree(&self.path)?;
        match self.path.canonicalize().map_err(doing("resolving", &self.path))?.parent() {
            Some(parent) => sync(parent),
            None => Ok(()),
        }
    }

    pub(crate) fn exports(&self) -> Result<Vec<PathBuf>, StoreError> {
        exports(&self.path)
    }
}

/// The names in the directory at `path`, in order.
fn names(path: &Path) -> Result<Vec<String>, StoreError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(doing("listing", path))? {
        let entry = entry.map_err(doing("listing", path))?;
        // The journal's own names are all text; others are not its business.
        names.extend(entry.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}

fn exports(path: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let names = names(path)?.into_iter();
    let exports = names.filter(|name| name.starts_with(EXPORT_PREFIX) && !is_unfinished(name));
    Ok(exports.map(|name| path.join(name)).collect())
}

/// An export under its temporary name.
#[derive(Debug)]
pub(crate) struct NewExport {
    dir: PathBuf,
    temporary: PathBuf,
    path: PathBuf,
    file: File,
    unsynced_bytes: usize,
    published: bool,
}

impl NewExport {
    pub(crate) fn create(dir: &Dir, name: &str) -> Result<Self, StoreError> {
        let (temporary, path) = (dir.path.join(format!("{name}{UNFINISHED}")), dir.path.join(name));
        let file = private(OpenOptions::new().write(true).create_new(true))
            .open(&temporary)
            .map_err(doing("creating", &temporary))?;
        Ok(Self { dir: dir.path.clone(), temporary, path, file, unsynced_bytes: 0, published: false })
    }
}

impl ExportFile for NewExport {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(doing("writing", &self.temporary))?;
        self.unsynced_bytes += bytes.len();
        if self.unsynced_bytes >= EXPORT_SYNC_BYTES {
            self.file.sync_data().map_err(doing("syncing", &self.temporary))?;
            self.unsynced_bytes = 0;
        }
        Ok(())
    }

    fn publish(mut self: Box<Self>, head: &[u8]) -> Result<(), StoreError> {
        self.file.write_all_at(head, 0).map_err(doing("writing", &self.temporary))?;
        self.file.sync_all().map_err(doing("syncing", &self.temporary))?;
        fs::rename(&self.temporary, &self.path).map_err(doing("publishing", &self.path))?;
        self.published = true;
        sync(&self.dir)?;
        let mut exports = exports(&self.dir)?;
        exports.truncate(exports.len().saturating_sub(EXPORTS_KEPT));
        for old in exports {
            fs::remove_file(&old).map_err(doing("removing", &old))?;
        }
        Ok(())
    }
}

impl Drop for NewExport {
    fn drop(&mut self) {
        if !self.published {
            // Only the first error matters; a leftover is removed at the next open too.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// The witness's file.
#[derive(Debug)]
pub(crate) struct Head {
    path: PathBuf,
    file: Option<File>,
}

impl Head {
    pub(crate) fn new(dir: &Dir) -> Self {
        Self { path: dir.path().join("head"), file: None }
    }

    /// Both slots; reading creates nothing.
    pub(crate) fn read(&self) -> Result<[Vec<u8>; 2], StoreError> {
        let mut bytes = Vec::new();
        match File::open(&self.path) {
            Ok(file) => file.take(1 << 16).read_to_end(&mut bytes).map_err(doing("reading", &self.path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok([Vec::new(), Vec::new()]),
            Err(error) => return Err(doing("opening", &self.path)(error)),
        };
        // A new file is all zeros until its first slot is written.
        let slot = |at: u64| {
            let slot = bytes.iter().skip(at as usize).take(SLOT_LEN);
            if slot.clone().all(|byte| *byte == 0) { Vec::new() } else { slot.copied().collect() }
        };
        Ok(SLOT_AT.map(slot))
    }

    /// The file, made if it is not there: whole and on disk before it has its name, so that a crash leaves
    /// no half of it, and every later write of a slot lands in a sector that exists.
    fn open(&mut self) -> Result<&File, StoreError> {
        if self.file.is_none() {
            if !self.path.exists() {
                self.create()?;
            }
            let file = OpenOptions::new().read(true).write(true).open(&self.path);
            self.file = Some(file.map_err(doing("opening", &self.path))?);
        }
        self.file.as_ref().ok_or(StoreError::NotDurable { why: "the witness is not open" })
    }

    fn create(&self) -> Result<(), StoreError> {
        let temporary = self.path.with_extension("new");
        let mut file = private(OpenOptions::new().write(true).create(true).truncate(true))
            .open(&temporary)
            .map_err(doing("creating", &temporary))?;
        file.write_all(&[0; HEAD_LEN]).map_err(doing("writing", &temporary))?;
        file.sync_all().map_err(doing("syncing", &temporary))?;
        fs::rename(&temporary, &self.path).map_err(doing("publishing", &self.path))?;
        self.path.parent().map_or(Ok(()), sync)
    }

    pub(crate) fn write(&mut self, slot: u8, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path.clone();
        let at = SLOT_AT[usize::from(slot & 1)];
        self.open()?.write_all_at(bytes, at).map_err(doing("writing", &path))
    }

    pub(crate) fn sync(&mut self) -> Result<(), StoreError> {
        let path = self.path.clone();
        self.open()?.sync_data().map_err(doing("syncing", &path))
    }
}

fn is_unfinished(name: &str) -> bool {
    name.strip_suffix(UNFINISHED).is_some()
}

fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options.mode(0o600)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), StoreError> {
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(doing("restricting", path))
}

pub(crate) fn sync(path: &Path) -> Result<(), StoreError> {
    let file = File::open(path).map_err(doing("opening", path))?;
    file.sync_all().map_err(doing("syncing", path))
}

/// Calls `each` for everything below `path`, files before the directory that holds them.
fn walk(path: &Path, each: &mut dyn FnMut(&Path, bool) -> Result<(), StoreError>) -> Result<(), StoreError> {
    for entry in fs::read_dir(path).map_err(doing("listing", path))? {
        let entry = entry.map_err(doing("listing", path))?;
        let kind = entry.file_type().map_err(doing("looking at", path))?;
        if kind.is_dir() {
            walk(&entry.path(), each)?;
        } else if kind.is_file() {
            match each(&entry.path(), false) {
                // sled removes old snapshots whenever it likes.
                Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
    }
    each(path, true)
}

pub(crate) fn sync_tree(path: &Path) -> Result<(), StoreError> {
    walk(path, &mut |path, _| sync(path))
}

/// 0700 and 0600, whatever the umask was: sled creates its files with the default mode.
pub(crate) fn tighten(path: &Path) -> Result<(), StoreError> {
    walk(path, &mut |path, is_dir| set_mode(path, if is_dir { 0o700 } else { 0o600 }))
}

/// What is below `path`, in bytes on disk.
pub(crate) fn tree_bytes(path: &Path) -> Result<u64, StoreError> {
    let mut bytes = 0;
    walk(path, &mut |path, is_dir| {
        if !is_dir {
            bytes += path.metadata().map_err(doing("looking at", path))?.len();
        }
        Ok(())
    })?;
    Ok(bytes)
}

/// Copies a tree, sharing blocks where the file system can.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> Result<(), StoreError> {
    DirBuilder::new().mode(0o700).create(to).map_err(doing("creating", to))?;
    for entry in fs::read_dir(from).map_err(doing("listing", from))? {
        let entry = entry.map_err(doing("listing", from))?;
        let kind = entry.file_type().map_err(doing("looking at", from))?;
        let target = to.join(entry.file_name());
        if kind.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &target).map_err(doing("copying to", &target))?;
        }
    }
    Ok(())
}
