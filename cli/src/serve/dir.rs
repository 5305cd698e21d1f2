//! The served directory and its state directory: every system call that names a file is here.
//!
//! ```text
//! DIR/                  finished objects, by name
//! DIR/.haul-serve/      0700, owned by us, same file system
//!   lock                flock for the life of a server; the pid inside is for messages only
//!   <id>.json           record of an upload (record.rs)
//!   <id>.part           its bytes so far; renamed to DIR/<name> when complete
//!   <id>.off            how many of them are durable (mark.rs)
//!   <id>.*.tmp          a durable write in progress
//! ```
//!
//! Invariants: names are single components, opened relative to the directory with `O_NOFOLLOW`, so
//! no path can leave it (with a single component this equals `openat2` with `RESOLVE_BENEATH` and
//! `RESOLVE_NO_SYMLINKS`, and works where that call is missing). No object is ever overwritten.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use rustix::{
    fs::{
        AtFlags, Dir, FlockOperation, Mode, OFlags, RenameFlags, flock, linkat, mkdirat, openat, renameat,
        renameat_with, statat, unlinkat,
    },
    io::Errno,
};

use super::{ServeError, name::STATE_DIR};

const LOCK: &str = "lock";
const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Open handles on the two directories.
pub struct Root {
    objects: File,
    state: File,
}

/// Proof that this server owns the directory; the lock ends when it is dropped.
pub struct DirLock {
    _file: File,
}

/// What publishing under a name came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Publish {
    Done,
    /// Another object has the name; it was left alone.
    Taken,
}

impl Root {
    /// Opens `path`, creating it and the state directory as needed, and takes the lock.
    ///
    /// # Errors
    ///
    /// [`ServeError::Directory`], [`ServeError::StateDirectory`] or [`ServeError::Locked`].
    pub fn open(path: &Path) -> Result<(Self, DirLock), ServeError> {
        let failed = |source| ServeError::Directory { path: path.to_owned(), source };
        let objects = open_objects(path).map_err(failed)?;
        let created = match mkdirat(&objects, STATE_DIR, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(failed(error.into())),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let state = openat(&objects, STATE_DIR, flags, Mode::empty())
            .map(File::from)
            .map_err(|error| failed(error.into()))?;
        if created {
            objects.sync_all().map_err(failed)?;
        }
        check_state_dir(&objects, &state)
            .map_err(failed)?
            .map_err(|reason| ServeError::StateDirectory { reason })?;
        let root = Self { objects, state };
        let lock =
            root.lock().map_err(failed)?.map_err(|pid| ServeError::Locked { path: path.to_owned(), pid })?;
        Ok((root, lock))
    }

    /// The inner error is the text the present owner left in the lock file.
    fn lock(&self) -> io::Result<Result<DirLock, String>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.state, LOCK, flags, PRIVATE_FILE)?);
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                file.take(20).read_to_string(&mut pid)?;
                return Ok(Err(pid.trim().to_owned()));
            }
            Err(error) => return Err(error.into()),
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Ok(DirLock { _file: file }))
    }

    /// Names in the state directory.
    pub fn state_names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.state)? {
            if let Ok(name) = entry?.file_name().to_str() {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Opens a file of the state directory for reading and writing.
    pub fn open_state(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&self.state, name, flags, Mode::empty())?.into())
    }

    /// Creates a file of the state directory that must not exist yet.
    pub fn create_state(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&self.state, name, flags, PRIVATE_FILE)?.into())
    }

    /// Puts `bytes` under `name`, whole or not at all, and durably: write, sync, rename, sync.
    pub fn write_durably(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = format!("{name}.tmp");
        self.remove_state(&temporary)?; // left by a write that failed half-way
        let written = self.create_state(&temporary).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()?;
            Ok(renameat(&self.state, &temporary, &self.state, name)?)
        });
        if let Err(error) = written {
            let _ = self.remove_state(&temporary); // the first error is the one to tell
            return Err(error);
        }
        self.sync_state()
    }

    /// Removes a file of the state directory; one that is gone already is fine.
    pub fn remove_state(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.state, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes creations, renames and removals in the state directory durable.
    pub fn sync_state(&self) -> io::Result<()> {
        self.state.sync_all()
    }

    /// Makes publications durable.
    pub fn sync_objects(&self) -> io::Result<()> {
        self.objects.sync_all()
    }

    /// Opens a finished object. Symbolic links, directories, pipes and devices do not exist here.
    pub fn object(&self, name: &[u8]) -> io::Result<Option<File>> {
        // O_NONBLOCK: opening a pipe must not wait for its writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.objects, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::NAMETOOLONG | Errno::ACCESS) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        Ok(file.metadata()?.is_file().then_some(file))
    }

    /// Whether `name` is taken, and by which inode of this file system.
    pub fn object_inode(&self, name: &str) -> io::Result<Option<u64>> {
        match statat(&self.objects, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat.st_ino)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Moves `part` to the object `name` unless that name is taken.
    ///
    /// One rename, or where the file system cannot rename without replacing, a link and an unlink:
    /// killed in between, the part file is left with two links (see `publish.rs`).
    pub fn publish(&self, part: &str, name: &str) -> io::Result<Publish> {
        let (state, objects) = (&self.state, &self.objects);
        match renameat_with(state, part, objects, name, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(Publish::Done),
            Err(Errno::EXIST) => return Ok(Publish::Taken),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        match linkat(state, part, objects, name, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(Publish::Taken),
            Err(error) => return Err(error.into()),
        }
        self.sync_objects()?;
        self.remove_state(part)?;
        Ok(Publish::Done)
    }
}

fn open_objects(path: &Path) -> io::Result<File> {
    match std::fs::create_dir(path) {
        Ok(()) => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(rustix::fs::CWD, path, flags, Mode::empty())?.into())
}

/// The inner error says why the state directory cannot be trusted.
fn check_state_dir(objects: &File, state: &File) -> io::Result<Result<(), &'static str>> {
    let (outer, inner) = (objects.metadata()?, state.metadata()?);
    Ok(if inner.uid() != rustix::process::geteuid().as_raw() {
        Err("it belongs to another user")
    } else if inner.mode() & 0o077 != 0 {
        Err("others may enter it; its mode must be 0700")
    } else if inner.dev() != outer.dev() {
        Err("it is on another file system, so finished files could not be moved out of it")
    } else {
        Ok(())
    })
}
