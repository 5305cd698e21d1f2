//! Makes sled's flush reach the disk: on Linux, the process's `sync_file_range` becomes `fdatasync`.
//!
//! sled 0.34.7 ends its writes with `sync_file_range`, which neither flushes the drive nor writes
//! metadata. This module defines that symbol, so that the linker takes it instead of the C library's;
//! a range sync anywhere in the process becomes stronger, never weaker. It also stands in for `fsync`,
//! unchanged but watched: sled's background thread only logs a failed one, and the kernel tells it once.
//!
//! Invariant: [`Watch::syncs`] rises only when an `fdatasync` of the watched file has succeeded; once
//! any sync of it has failed, [`Watch::has_failed`] stays true.
//! Absent on purpose: other systems. There sled calls `sync_all` itself, and errors come back from `flush`.
#![cfg_attr(
    target_os = "linux",
    allow(
        unsafe_code,
        reason = "defining C symbols, and calling what they stood for, cannot be done safely"
    )
)]

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What is known of the syncs of one file, whichever descriptor and thread they came through.
#[derive(Debug)]
pub(crate) struct Watch {
    dev: u64,
    ino: u64,
    syncs: AtomicU64,
    has_failed: AtomicBool,
}

/// Whether syncs are counted here: a flush that moves no count then shows that the override is not in force.
pub(crate) const COUNTS: bool = cfg!(target_os = "linux");

static WATCHES: Mutex<Vec<Weak<Watch>>> = Mutex::new(Vec::new());
static FAILURES: AtomicU64 = AtomicU64::new(0);

impl Watch {
    /// Watches `file` from here on.
    pub(crate) fn new(file: &File) -> io::Result<Arc<Self>> {
        let meta = file.metadata()?;
        let watch = Arc::new(Self {
            dev: meta.dev(),
            ino: meta.ino(),
            syncs: AtomicU64::new(0),
            has_failed: AtomicBool::new(false),
        });
        let mut watches = WATCHES.lock().unwrap_or_else(PoisonError::into_inner);
        watches.retain(|watch| watch.strong_count() > 0);
        watches.push(Arc::downgrade(&watch));
        Ok(watch)
    }

    /// How many range syncs of the file have succeeded.
    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Acquire)
    }

    /// Whether any sync of the file has failed, in whatever thread.
    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }
}

/// How many syncs have failed in this process, of any file.
pub(crate) fn failures() -> u64 {
    FAILURES.load(Ordering::Acquire)
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::mem::MaybeUninit;
    use std::sync::atomic::Ordering;
    use std::sync::{Arc, PoisonError, Weak};

    use libc::{c_int, c_long, c_uint, off64_t};

    use super::{FAILURES, WATCHES, Watch};

    // Holds the symbols in the link even if nothing else of this module is called.
    #[used]
    static KEEP: unsafe extern "C" fn(c_int, off64_t, off64_t, c_uint) -> c_int = sync_file_range;

    fn watch_of(fd: c_int) -> Option<Arc<Watch>> {
        let mut stat = MaybeUninit::<libc::stat64>::uninit();
        // SAFETY: `stat` is as large as fstat64 writes, and is read only if it says that it wrote.
        let stat = unsafe {
            if libc::fstat64(fd, stat.as_mut_ptr()) != 0 {
                return None;
            }
            stat.assume_init()
        };
        let watches = WATCHES.lock().unwrap_or_else(PoisonError::into_inner);
        watches
            .iter()
            .filter_map(Weak::upgrade)
            .find(|watch| watch.dev == stat.st_dev && watch.ino == stat.st_ino)
    }

    fn errno() -> c_int {
        io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
    }

    fn note_failure(fd: c_int, errno: c_int) {
        FAILURES.fetch_add(1, Ordering::AcqRel);
        if let Some(watch) = watch_of(fd) {
            watch.has_failed.store(true, Ordering::Release);
        }
        // SAFETY: the C library's errno is a valid thread-local; the caller shall see the sync's own error.
        unsafe { *libc::__errno_location() = errno };
    }

    /// `fdatasync` in the place of `sync_file_range`: all of the file's data, and the drive's cache.
    ///
    /// # Safety
    ///
    /// As the C function: none beyond a descriptor that the caller may use.
    #[unsafe(no_mangle)]
    pub(super) unsafe extern "C" fn sync_file_range(
        fd: c_int,
        _offset: off64_t,
        _len: off64_t,
        _flags: c_uint,
    ) -> c_int {
        loop {
            // SAFETY: takes any number; one that is no descriptor gives EBADF.
            if unsafe { libc::fdatasync(fd) } == 0 {
                if let Some(watch) = watch_of(fd) {
                    watch.syncs.fetch_add(1, Ordering::AcqRel);
                }
                return 0;
            }
            let errno = errno();
            // Interrupted before it began: the one answer that is not a failure.
            if errno != libc::EINTR {
                note_failure(fd, errno);
                return -1;
            }
        }
    }

    /// `fsync`, as ever, with its failures noted.
    ///
    /// # Safety
    ///
    /// As the C function: none beyond a descriptor that the caller may use.
    #[unsafe(no_mangle)]
    pub(super) unsafe extern "C" fn fsync(fd: c_int) -> c_int {
        // SAFETY: the raw call takes any number; one that is no descriptor gives EBADF.
        let answer: c_long = unsafe { libc::syscall(libc::SYS_fsync, fd) };
        if answer == 0 {
            return 0;
        }
        let errno = errno();
        if errno != libc::EINTR {
            note_failure(fd, errno);
        }
        -1
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs::File;
    use std::io::{self, Write as _};
    use std::os::fd::{AsRawFd as _, OwnedFd};

    use super::Watch;

    fn range_sync(file: &File) -> io::Result<()> {
        // SAFETY: the descriptor is open; the call reads no memory.
        match unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    #[test]
    fn a_range_sync_is_counted_for_its_file_only() {
        let mut file = tempfile::tempfile().expect("tempfile");
        let other = Watch::new(&tempfile::tempfile().expect("tempfile")).expect("watch");
        let watch = Watch::new(&file).expect("watch");
        file.write_all(b"bytes").expect("write");
        range_sync(&file).expect("sync");
        assert_eq!((watch.syncs(), other.syncs()), (1, 0));
        file.sync_all().expect("fsync still works");
        assert!(!watch.has_failed());
    }

    /// A pipe cannot be synced: the nearest thing to a failing disk that every machine has.
    #[test]
    fn a_failed_sync_is_remembered_whoever_made_it() {
        for sync in [range_sync, File::sync_all] {
            let (reader, _writer) = io::pipe().expect("pipe");
            let file = File::from(OwnedFd::from(reader));
            let watch = Watch::new(&file).expect("watch");
            let error = sync(&file).expect_err("a pipe");
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "the caller sees the sync's own error");
            assert!(watch.has_failed());
            assert_eq!(watch.syncs(), 0);
        }
    }
}
