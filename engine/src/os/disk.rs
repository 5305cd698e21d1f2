//! Files, by system calls.
//!
//! Promises beyond [`Disk`]:
//!
//! - No call follows a symbolic link at the end of its path, but for `resolve`, `is_dir`, `free_space`
//!   and `device_of_nearest`, which only look. No call blocks on a FIFO or wakes a device.
//! - Every error names the path and what was tried, and keeps its [`io::ErrorKind`]; [`os_error`]
//!   finds the system's number in it and [`is_no_space`] tells a full disk from a broken one.
//! - A failed `fsync` is reported once and not tried again: the kernel may have dropped the pages and
//!   would then say yes.
//!
//! Absent on purpose: `O_DIRECT`, locks, and any memory map (a file that shrinks would kill us).

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::fs::{
    Advice, AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, RenameFlags, SeekFrom, Statx, StatxFlags,
    fadvise, fallocate, fchmod, fdatasync, fsync, ftruncate, ioctl_ficlone, linkat, makedev, openat,
    renameat, renameat_with, seek, statvfs, statx, unlinkat,
};
use rustix::io::{Errno, pread, pwrite, retry_on_intr};

use super::causes;
use crate::job::Fingerprint;
use crate::ports::{Disk, File};

/// `O_NOFOLLOW`: a name that was swapped for a link must not lead us elsewhere. `O_NONBLOCK`,
/// `O_NOCTTY`: a FIFO or terminal that was swapped in must not block us or become ours.
const OPEN: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// Ours alone, whatever the umask.
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

/// The machine's files.
#[derive(Debug, Default)]
pub(crate) struct OsDisk {
    open: Arc<OpenFiles>,
}

/// The descriptors of this disk's open files, by number. [`File::raw_fd`] gives out a bare number;
/// looking it up here turns it back into a descriptor that cannot be closed under us, and tells a
/// number that is not ours.
#[derive(Debug, Default)]
struct OpenFiles(Mutex<HashMap<RawFd, Weak<OwnedFd>>>);

impl OpenFiles {
    fn table(&self) -> MutexGuard<'_, HashMap<RawFd, Weak<OwnedFd>>> {
        // Each change is one map operation: a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, number: RawFd) -> Option<Arc<OwnedFd>> {
        self.table().get(&number).and_then(Weak::upgrade)
    }
}

impl OsDisk {
    fn file(&self, fd: OwnedFd, path: &Path) -> Arc<dyn File> {
        let fd = Arc::new(fd);
        self.open.table().insert(fd.as_raw_fd(), Arc::downgrade(&fd));
        Arc::new(OsFile { fd, path: path.into(), open: Arc::clone(&self.open) })
    }

    fn open(path: &Path, access: OFlags) -> io::Result<(OwnedFd, Fingerprint)> {
        let failed = |error| wrap("open", path, error);
        // Looked at before it is opened: opening alone can start a device (a watchdog, a tape).
        regular(path, &stat(path).map_err(failed)?)?;
        let fd = retry_on_intr(|| openat(CWD, path, access | OPEN, Mode::empty())).map_err(failed)?;
        // And after, as the name may have changed hands in between.
        let found = stat_fd(&fd).map_err(failed)?;
        regular(path, &found)?;
        Ok((fd, fingerprint(&found)))
    }
}

impl Disk for OsDisk {
    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        path.canonicalize().map_err(|error| wrap_io("find", path, error))
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let (fd, _) = Self::open(path, OFlags::RDONLY)?;
        // A hint for read-ahead; nothing depends on it.
        let _ = fadvise(&fd, 0, None, Advice::Sequential);
        Ok(self.file(fd, path))
    }

    fn open_write(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let (fd, found) = Self::open(path, OFlags::RDWR)?;
        // A second name means that someone else's file was planted here: writing would change it.
        if found.links != 1 {
            return Err(refused(path, &format!("it has {} names, not 1", found.links)));
        }
        Ok(self.file(fd, path))
    }

    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let failed = |error| wrap("create", path, error);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OPEN;
        let fd = retry_on_intr(|| openat(CWD, path, flags, PRIVATE)).map_err(failed)?;
        match fchmod(&fd, PRIVATE) {
            // A umask only takes bits away, and a file system without modes (FAT) has its own answer
            // for all files: where they cannot be set, nobody gets more than that answer gives.
            Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(self.file(fd, path)),
            Err(error) => {
                let _ = unlinkat(CWD, path, AtFlags::empty());
                Err(failed(error))
            }
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        renameat(CWD, from, CWD, to).map_err(|error| wrap_two("rename", from, to, error))
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // NFS and others have no such rename, but their links never replace either.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => link_and_unlink(from, to),
            result => result,
        }
        .map_err(|error| wrap_two("rename", from, to, error))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        unlinkat(CWD, path, AtFlags::empty()).map_err(|error| wrap("remove", path, error))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let failed = |error| wrap("sync", dir, error);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = retry_on_intr(|| openat(CWD, dir, flags, Mode::empty())).map_err(failed)?;
        fsync(&fd).map_err(failed)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let failed = |error| wrap_io("list", dir, error);
        let entries = dir.read_dir().map_err(failed)?;
        let mut paths = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<Vec<_>>>()
            .map_err(failed)?;
        // The order on disk is an accident; what recovery plans from the list must not be.
        paths.sort_unstable();
        Ok(paths)
    }

    fn inspect(&self, path: &Path) -> io::Result<Option<Fingerprint>> {
        match stat(path) {
            Ok(found) => Ok(Some(fingerprint(&found))),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(wrap("look at", path, error)),
        }
    }

    fn is_dir(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn device_of_nearest(&self, path: &Path) -> io::Result<u64> {
        let failed = |error| wrap("look at", path, error);
        for at in path.ancestors().filter(|at| !at.as_os_str().is_empty()) {
            // Links are followed: what counts is where a file of this name would be.
            match retry_on_intr(|| statx(CWD, at, AtFlags::empty(), StatxFlags::BASIC_STATS)) {
                Ok(found) => return Ok(fingerprint(&found).dev),
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(failed(Errno::NOENT))
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let found = statvfs(path).map_err(|error| wrap("measure the space of", path, error))?;
        // `bavail`, not `bfree`: what is kept for root is not ours to fill.
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

/// An open file. The path is the one it was opened by, for messages only.
struct OsFile {
    fd: Arc<OwnedFd>,
    path: Box<Path>,
    open: Arc<OpenFiles>,
}

impl Drop for OsFile {
    fn drop(&mut self) {
        // Before the descriptor is closed, so that no new file can have its number yet.
        self.open.table().remove(&self.fd.as_raw_fd());
    }
}

impl OsFile {
    fn failed(&self, what: &'static str, error: Errno) -> io::Error {
        wrap(what, &self.path, error)
    }
}

/// The mode of this process's new files. The umask cannot be read without changing it for a moment, which
/// other threads would see; the kernel tells it in `/proc` since 4.7. Unreadable: private.
fn ordinary_mode() -> Mode {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    let umask = umask.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()).unwrap_or(0o077);
    Mode::from_raw_mode(0o666 & !umask)
}

impl File for OsFile {
    fn make_ordinary(&self) -> io::Result<()> {
        match fchmod(&self.fd, ordinary_mode()) {
            Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(error) => Err(self.failed("set the mode of", error)),
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match pread(&self.fd, &mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(got) => filled += got,
                Err(Errno::INTR) => {}
                Err(error) => return Err(self.failed("read", error)),
            }
        }
        Ok(filled)
    }

    fn write_all_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        let mut written = 0;
        while written < buffer.len() {
            match pwrite(&self.fd, &buffer[written..], offset + written as u64) {
                Ok(0) => return Err(wrap_io("write", &self.path, io::ErrorKind::WriteZero.into())),
                Ok(took) => written += took,
                Err(Errno::INTR) => {}
                Err(error) => return Err(self.failed("write", error)),
            }
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        fdatasync(&self.fd).map_err(|error| self.failed("sync", error))
    }

    fn sync_all(&self) -> io::Result<()> {
        fsync(&self.fd).map_err(|error| self.failed("sync", error))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        retry_on_intr(|| ftruncate(&self.fd, len)).map_err(|error| self.failed("set the length of", error))
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        if len == 0 {
            return self.set_len(0);
        }
        // The call itself, not the C library's emulation of it, which writes every block.
        match retry_on_intr(|| fallocate(&self.fd, FallocateFlags::empty(), 0, len)) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.set_len(len),
            Err(error) => {
                // ext4 keeps what it had taken when it ran out of space.
                let _as_it_was = self.set_len(0);
                Err(self.failed("reserve the space of", error))
            }
        }
    }

    fn fingerprint(&self) -> io::Result<Fingerprint> {
        stat_fd(&self.fd).map(|found| fingerprint(&found)).map_err(|error| self.failed("look at", error))
    }

    fn clone_from(&self, source: &dyn File) -> io::Result<()> {
        let foreign = || wrap_io("clone into", &self.path, io::ErrorKind::Unsupported.into());
        let source = source.raw_fd().and_then(|number| self.open.find(number)).ok_or_else(foreign)?;
        ioctl_ficlone(&self.fd, &*source).map_err(|error| match error {
            // No such call here, another file system, or one that shares blocks only with itself.
            Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS | Errno::XDEV | Errno::INVAL => {
                let unsupported = io::Error::new(io::ErrorKind::Unsupported, io::Error::from(error));
                wrap_io("clone into", &self.path, unsupported)
            }
            error => self.failed("clone into", error),
        })
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        // Seeking moves the offset that the descriptor's holders share: harmless, as every read and
        // write here names its own.
        let start = match seek(&self.fd, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            // A file system that knows no holes: all is data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                let size = self.fingerprint()?.size;
                return Ok((offset < size).then_some(offset..size));
            }
            Err(error) => return Err(self.failed("find the data of", error)),
        };
        match seek(&self.fd, SeekFrom::Hole(start)) {
            Ok(end) => Ok(Some(start..end)),
            // It was cut off between the two calls.
            Err(Errno::NXIO) => Ok(None),
            Err(error) => Err(self.failed("find the data of", error)),
        }
    }

    fn raw_fd(&self) -> Option<i32> {
        Some(self.fd.as_raw_fd())
    }
}

/// A rename in two steps that still never replaces. A crash in between leaves both names; the next
/// call finds them to be one file and finishes.
fn link_and_unlink(from: &Path, to: &Path) -> Result<(), Errno> {
    match linkat(CWD, from, CWD, to, AtFlags::empty()) {
        Err(Errno::EXIST) if !same_file(from, to)? => return Err(Errno::EXIST),
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    unlinkat(CWD, from, AtFlags::empty())
}

fn same_file(one: &Path, other: &Path) -> Result<bool, Errno> {
    // The same path twice is one name, and unlinking it would lose the file.
    Ok(one != other && fingerprint(&stat(one)?).same_file(&fingerprint(&stat(other)?)))
}

fn stat(path: &Path) -> Result<Statx, Errno> {
    retry_on_intr(|| statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS))
}

fn stat_fd(fd: &impl AsFd) -> Result<Statx, Errno> {
    retry_on_intr(|| statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS))
}

fn fingerprint(found: &Statx) -> Fingerprint {
    const NS_PER_SECOND: i128 = 1_000_000_000;
    let nanoseconds = |seconds: i64, rest: u32| i128::from(seconds) * NS_PER_SECOND + i128::from(rest);
    Fingerprint {
        dev: makedev(found.stx_dev_major, found.stx_dev_minor),
        ino: found.stx_ino,
        size: found.stx_size,
        mtime_ns: nanoseconds(found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec),
        ctime_ns: nanoseconds(found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec),
        links: u64::from(found.stx_nlink),
        regular: file_type(found) == FileType::RegularFile,
    }
}

fn file_type(found: &Statx) -> FileType {
    FileType::from_raw_mode(u32::from(found.stx_mode))
}

fn regular(path: &Path, found: &Statx) -> io::Result<()> {
    let name = match file_type(found) {
        FileType::RegularFile => return Ok(()),
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Unknown => "of an unknown kind",
    };
    Err(refused(path, &format!("it is {name}, not a regular file")))
}

fn refused(path: &Path, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("cannot open {}: {why}", path.display()))
}

/// A system error with what was tried on which path.
#[derive(Debug)]
struct DiskError {
    what: &'static str,
    path: Box<Path>,
    to: Option<Box<Path>>,
    source: io::Error,
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}", self.what, self.path.display())?;
        if let Some(to) = &self.to {
            write!(f, " to {}", to.display())?;
        }
        write!(f, ": {}", self.source)
    }
}

impl Error for DiskError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

fn wrap(what: &'static str, path: &Path, error: Errno) -> io::Error {
    wrap_io(what, path, error.into())
}

fn wrap_io(what: &'static str, path: &Path, source: io::Error) -> io::Error {
    io::Error::new(source.kind(), DiskError { what, path: path.into(), to: None, source })
}

fn wrap_two(what: &'static str, from: &Path, to: &Path, error: Errno) -> io::Error {
    let source = io::Error::from(error);
    io::Error::new(source.kind(), DiskError { what, path: from.into(), to: Some(to.into()), source })
}

/// The system's error number, also out of an error that was wrapped to name its path.
pub(crate) fn os_error(error: &io::Error) -> Option<i32> {
    causes(error).filter_map(|error| error.downcast_ref::<io::Error>()).find_map(io::Error::raw_os_error)
}

/// Whether it is the process or the machine that is short of something for the moment, not the file that is
/// at fault.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    is_any(error, &[Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN, Errno::INTR, Errno::STALE])
}

/// Whether it is rights that are missing, or a file system that is mounted read-only: somebody can change that.
pub(crate) fn is_no_access(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
        || is_any(error, &[Errno::ACCESS, Errno::PERM, Errno::ROFS])
}

/// Whether the device, the server or the process behind a mount is gone.
pub(crate) fn is_away(error: &io::Error) -> bool {
    is_any(error, &[Errno::NODEV, Errno::NXIO, Errno::STALE, Errno::NOTCONN, Errno::HOSTDOWN])
}

/// Whether the system only says that reading or writing did not work: a bad disk, or one that was pulled out.
pub(crate) fn is_io(error: &io::Error) -> bool {
    is_any(error, &[Errno::IO])
}

fn is_any(error: &io::Error, numbers: &[Errno]) -> bool {
    os_error(error).is_some_and(|number| numbers.iter().any(|errno| errno.raw_os_error() == number))
}

/// Whether the disk or the user's share of it is full: the one trouble that time may cure.
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        || is_any(error, &[Errno::NOSPC, Errno::DQUOT])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    use proptest::prelude::*;

    use super::*;

    fn disk() -> (OsDisk, tempfile::TempDir) {
        (OsDisk::default(), tempfile::tempdir().unwrap())
    }

    fn kind<T>(result: io::Result<T>) -> (io::ErrorKind, String) {
        let error = result.err().expect("an error");
        (error.kind(), error.to_string())
    }

    #[test]
    fn errors_name_the_path_and_keep_kind_and_number() {
        let (disk, dir) = disk();
        let path = dir.path().join("absent");
        let error = disk.open_read(&path).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(os_error(&error), Some(Errno::NOENT.raw_os_error()));
        let text = format!("cannot open {}: No such file or directory (os error 2)", path.display());
        assert_eq!(error.to_string(), text);
        assert!(!is_no_space(&error));
    }

    #[test]
    fn a_full_disk_is_told_through_wrappings() {
        let path = Path::new("/x/y");
        for errno in [Errno::NOSPC, Errno::DQUOT] {
            let wrapped = wrap("write", path, errno);
            assert!(is_no_space(&wrapped));
            assert_eq!(os_error(&wrapped), Some(errno.raw_os_error()));
            let twice = io::Error::other(io::Error::other(wrapped));
            assert_eq!(os_error(&twice), Some(errno.raw_os_error()));
            assert!(is_no_space(&twice));
            assert!(is_no_space(&io::Error::from(errno)));
        }
        assert!(is_no_space(&io::ErrorKind::StorageFull.into()));
        assert!(is_no_space(&io::ErrorKind::QuotaExceeded.into()));
        assert!(!is_no_space(&wrap("write", path, Errno::IO)));
        assert!(!is_no_space(&io::Error::other("no")));
    }

    #[test]
    fn a_device_that_is_full_is_no_space() {
        // Opened by hand: the port itself refuses devices.
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let fd = openat(CWD, "/dev/full", flags, Mode::empty()).unwrap();
        let disk = OsDisk::default();
        let error = disk.file(fd, Path::new("/dev/full")).write_all_at(b"x", 0).unwrap_err();
        assert!(is_no_space(&error), "{error}");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn a_new_file_is_private_and_never_replaces() {
        let (disk, dir) = disk();
        let path = dir.path().join("new");
        let file = disk.create_new(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        assert!(file.fingerprint().unwrap().regular);
        assert_eq!(kind(disk.create_new(&path)).0, io::ErrorKind::AlreadyExists);
        symlink(dir.path().join("victim"), dir.path().join("link")).unwrap();
        assert_eq!(kind(disk.create_new(&dir.path().join("link"))).0, io::ErrorKind::AlreadyExists);
        assert!(!dir.path().join("victim").exists());
    }

    #[test]
    fn only_regular_files_are_opened_and_nothing_blocks() {
        let (disk, dir) = disk();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), b"x").unwrap();
        symlink(at("file"), at("link")).unwrap();
        std::fs::create_dir(at("dir")).unwrap();
        rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, PRIVATE, 0).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        let cases = [
            (at("link"), "a symbolic link"),
            (at("dir"), "a directory"),
            (at("fifo"), "a FIFO"),
            (at("socket"), "a socket"),
            (PathBuf::from("/dev/null"), "a device"),
        ];
        for (path, what) in cases {
            for result in [disk.open_read(&path), disk.open_write(&path)] {
                let (kind, text) = kind(result);
                assert_eq!(kind, io::ErrorKind::InvalidInput, "{text}");
                assert!(text.contains(what) && text.contains(path.to_str().unwrap()), "{text}");
            }
            assert!(!disk.inspect(&path).unwrap().unwrap().regular);
        }
        assert!(disk.open_read(&at("file")).is_ok());
    }

    #[test]
    fn a_file_with_a_second_name_is_not_written() {
        let (disk, dir) = disk();
        let (victim, planted) = (dir.path().join("victim"), dir.path().join("stage"));
        std::fs::write(&victim, b"x").unwrap();
        assert!(disk.open_write(&victim).is_ok());
        std::fs::hard_link(&victim, &planted).unwrap();
        let (kind, text) = kind(disk.open_write(&planted));
        assert_eq!(kind, io::ErrorKind::InvalidInput);
        assert!(text.contains("2 names"), "{text}");
        assert!(disk.open_read(&planted).is_ok());
    }

    #[test]
    fn a_rename_replaces_only_where_asked() {
        let (disk, dir) = disk();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        for rename_new in [
            |d: &OsDisk, f: &Path, t: &Path| d.rename_new(f, t),
            |_: &OsDisk, f: &Path, t: &Path| link_and_unlink(f, t).map_err(io::Error::from),
        ] {
            std::fs::write(&from, b"new").unwrap();
            std::fs::write(&to, b"old").unwrap();
            assert_eq!(kind(rename_new(&disk, &from, &to)).0, io::ErrorKind::AlreadyExists);
            assert_eq!(std::fs::read(&to).unwrap(), b"old");
            assert_eq!(kind(rename_new(&disk, &from, &from)).0, io::ErrorKind::AlreadyExists);
            assert_eq!(std::fs::read(&from).unwrap(), b"new");
            disk.remove(&to).unwrap();
            rename_new(&disk, &from, &to).unwrap();
            assert_eq!(disk.inspect(&from).unwrap(), None);
            assert_eq!(std::fs::read(&to).unwrap(), b"new");
            assert_eq!(kind(rename_new(&disk, &from, &to)).0, io::ErrorKind::NotFound);
        }
        std::fs::write(&from, b"newer").unwrap();
        disk.rename(&from, &to).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), b"newer");
    }

    #[test]
    fn a_rename_in_two_steps_is_finished_after_a_crash_between_them() {
        let (_, dir) = disk();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::write(&from, b"x").unwrap();
        std::fs::hard_link(&from, &to).unwrap();
        link_and_unlink(&from, &to).unwrap();
        assert!(!from.exists() && to.exists());
    }

    #[test]
    fn names_are_listed_in_order_and_made_durable() {
        let (disk, dir) = disk();
        for name in ["b", "a", "c"] {
            disk.create_new(&dir.path().join(name)).unwrap();
        }
        let names = ["a", "b", "c"].map(|name| dir.path().join(name));
        assert_eq!(disk.list(dir.path()).unwrap(), names);
        disk.sync_dir(dir.path()).unwrap();
        assert!(disk.sync_dir(&names[0]).is_err());
        assert!(disk.is_dir(dir.path()) && !disk.is_dir(&names[0]));
        assert!(disk.free_space(dir.path()).unwrap() > 0);
        disk.remove(&names[0]).unwrap();
        assert_eq!(kind(disk.remove(&names[0])).0, io::ErrorKind::NotFound);
        assert_eq!(disk.inspect(&names[1].join("below a file")).unwrap(), None);
    }

    #[test]
    fn fingerprints_agree_and_move_with_the_content() {
        let (disk, dir) = disk();
        let path = dir.path().join("file");
        let file = disk.create_new(&path).unwrap();
        file.write_all_at(b"abc", 0).unwrap();
        let before = file.fingerprint().unwrap();
        assert_eq!(disk.inspect(&path).unwrap(), Some(before));
        assert_eq!((before.size, before.links), (3, 1));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        assert!((now.cast_signed() - before.mtime_ns).abs() < 60_000_000_000);
        file.set_len(2).unwrap();
        assert!(!file.fingerprint().unwrap().same_content(&before));
        symlink(&path, dir.path().join("link")).unwrap();
        assert_eq!(disk.resolve(&dir.path().join("link")).unwrap(), path.canonicalize().unwrap());
    }

    #[test]
    fn holes_are_walked() {
        const MIB: u64 = 1 << 20;
        let (disk, dir) = disk();
        let file = disk.create_new(&dir.path().join("sparse")).unwrap();
        assert_eq!(file.next_data(0).unwrap(), None);
        file.set_len(16 * MIB).unwrap();
        file.write_all_at(&[1; 4096], 4 * MIB).unwrap();
        file.write_all_at(&[1; 4096], 8 * MIB).unwrap();
        let mut at = 0;
        let mut found = Vec::new();
        while let Some(range) = file.next_data(at).unwrap() {
            assert!(range.start >= at && range.end > range.start);
            at = range.end;
            found.push(range);
        }
        for must in [4 * MIB, 8 * MIB] {
            assert!(found.iter().any(|range| range.contains(&must) && range.contains(&(must + 4095))));
        }
        let data: u64 = found.iter().map(|range| range.end - range.start).sum();
        assert!(data < 16 * MIB, "the file system of the test keeps no holes");
        assert_eq!(file.next_data(16 * MIB).unwrap(), None);
    }

    #[test]
    fn what_is_reserved_has_its_length_and_is_zeros() {
        let (disk, dir) = disk();
        let path = dir.path().join("file");
        let file = disk.create_new(&path).unwrap();
        file.reserve(3 << 20).unwrap();
        let mut read = vec![1; 4096];
        assert_eq!(file.read_at(&mut read, (3 << 20) - 4096).unwrap(), 4096);
        assert_eq!((read, file.fingerprint().unwrap().size), (vec![0; 4096], 3 << 20));
        // Where the file system can, the space is taken, not only promised.
        let taken = std::os::unix::fs::MetadataExt::blocks(&path.metadata().unwrap()) * 512;
        assert!(taken == 0 || taken >= 3 << 20, "{taken}");
        disk.create_new(&dir.path().join("empty")).unwrap().reserve(0).unwrap();
    }

    #[test]
    fn a_reservation_that_fails_takes_nothing() {
        let (disk, dir) = disk();
        let path = dir.path().join("file");
        let file = disk.create_new(&path).unwrap();
        // More than any file system has: out of space for some, too large a file for others.
        let error = file.reserve(i64::MAX as u64).unwrap_err();
        assert!(is_no_space(&error) || error.kind() == io::ErrorKind::FileTooLarge, "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        let left = path.metadata().unwrap();
        assert_eq!((left.len(), std::os::unix::fs::MetadataExt::blocks(&left)), (0, 0));
    }

    #[test]
    fn the_nearest_that_is_there_says_which_file_system_it_would_be() {
        let (disk, dir) = disk();
        let here = disk.inspect(dir.path()).unwrap().unwrap().dev;
        for below in ["", "absent", "absent/more/file"] {
            assert_eq!(disk.device_of_nearest(&dir.path().join(below)).unwrap(), here);
        }
        std::fs::write(dir.path().join("file"), b"x").unwrap();
        assert_eq!(disk.device_of_nearest(&dir.path().join("file/below")).unwrap(), here);
        symlink("/proc", dir.path().join("link")).unwrap();
        let there = disk.inspect(Path::new("/proc")).unwrap().unwrap().dev;
        assert_eq!(disk.device_of_nearest(&dir.path().join("link/absent")).unwrap(), there);
        assert_ne!(here, there);
    }

    #[test]
    fn errors_are_told_apart_by_what_can_be_done() {
        type Test = fn(&io::Error) -> bool;
        let path = Path::new("/x");
        let cases: [(Test, &[Errno]); 4] = [
            (is_no_access, &[Errno::ACCESS, Errno::PERM, Errno::ROFS]),
            (is_away, &[Errno::NODEV, Errno::NXIO, Errno::STALE, Errno::NOTCONN]),
            (is_passing, &[Errno::MFILE, Errno::NFILE, Errno::NOMEM]),
            (is_io, &[Errno::IO]),
        ];
        for (test, numbers) in cases {
            for errno in numbers {
                assert!(test(&wrap("open", path, *errno)) && test(&(*errno).into()), "{errno}");
            }
            for errno in [Errno::NOENT, Errno::NOSPC, Errno::INVAL] {
                assert!(!test(&wrap("open", path, errno)), "{errno}");
            }
        }
    }

    #[test]
    fn a_clone_is_whole_or_unsupported() {
        struct Foreign(Option<i32>);
        impl File for Foreign {
            fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
                unreachable!()
            }
            fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
                unreachable!()
            }
            fn sync_data(&self) -> io::Result<()> {
                unreachable!()
            }
            fn sync_all(&self) -> io::Result<()> {
                unreachable!()
            }
            fn set_len(&self, _: u64) -> io::Result<()> {
                unreachable!()
            }
            fn fingerprint(&self) -> io::Result<Fingerprint> {
                unreachable!()
            }
            fn clone_from(&self, _: &dyn File) -> io::Result<()> {
                unreachable!()
            }
            fn next_data(&self, _: u64) -> io::Result<Option<Range<u64>>> {
                unreachable!()
            }
            fn raw_fd(&self) -> Option<i32> {
                self.0
            }
        }
        let (disk, dir) = disk();
        let source = disk.create_new(&dir.path().join("source")).unwrap();
        source.write_all_at(&[7; 8192], 0).unwrap();
        let copy = disk.create_new(&dir.path().join("copy")).unwrap();
        match File::clone_from(&*copy, &*source) {
            Ok(()) => assert_eq!(copy.fingerprint().unwrap().size, 8192),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::Unsupported);
                assert!(os_error(&error).is_some(), "{error}");
            }
        }
        for foreign in [None, Some(0), Some(i32::MAX)] {
            let (kind, _) = kind(File::clone_from(&*copy, &Foreign(foreign)));
            assert_eq!(kind, io::ErrorKind::Unsupported);
        }
        drop((source, copy));
        assert!(disk.open.table().is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_written_is_read(
            writes in prop::collection::vec((0u64..5000, prop::collection::vec(any::<u8>(), 0..600)), 0..12),
            reads in prop::collection::vec((0u64..6000, 0usize..800), 1..12),
        ) {
            let (disk, dir) = disk();
            let path = dir.path().join("file");
            let file = disk.create_new(&path).unwrap();
            let mut model = Vec::new();
            for (offset, bytes) in &writes {
                file.write_all_at(bytes, *offset).unwrap();
                let start = *offset as usize;
                if !bytes.is_empty() {
                    model.resize(model.len().max(start + bytes.len()), 0);
                    model[start..start + bytes.len()].copy_from_slice(bytes);
                }
            }
            file.sync_data().unwrap();
            let again = disk.open_read(&path).unwrap();
            for (offset, len) in reads {
                let mut buffer = vec![0; len];
                let got = again.read_at(&mut buffer, offset).unwrap();
                let from = (offset as usize).min(model.len());
                prop_assert_eq!(&buffer[..got], &model[from..(from + len).min(model.len())]);
            }
        }
    }
}
