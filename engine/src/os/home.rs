//! A session's directory and its lock.
//!
//! ```text
//! DIR/            0700
//!   lock          flock, held for life; the owner's pid inside, for messages only
//!   journal/      the journal's own
//!   stage/        0700: staging copies, named by job number
//!   control.sock  0600: bound only while the lock is held
//! ```

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// The paths of a session directory.
#[derive(Clone, Debug)]
pub struct Home {
    /// The directory, absolute.
    pub dir: PathBuf,
}

impl Home {
    /// The journal's directory.
    pub fn journal(&self) -> PathBuf {
        self.dir.join("journal")
    }

    /// The staging area.
    pub fn stage(&self) -> PathBuf {
        self.dir.join("stage")
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    fn lock_file(&self) -> PathBuf {
        self.dir.join("lock")
    }

    /// Makes the directory and its staging area where they are missing, durably, and refuses one
    /// that others could write to.
    pub fn prepare(dir: &Path) -> io::Result<Self> {
        let dir = std::path::absolute(dir)?;
        make_private(&dir)?;
        let home = Self { dir };
        make_private(&home.stage())?;
        File::open(&home.dir)?.sync_all()?;
        Ok(home)
    }

    /// Takes the exclusive lock; `Err(Ok(pid))` when another process has it.
    pub fn lock(&self) -> Result<Lock, Result<Option<u32>, io::Error>> {
        let open = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.lock_file());
        let mut file = open.map_err(Err)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let _unreadable = file.read_to_string(&mut text);
                return Err(Ok(text.trim().parse().ok()));
            }
            Err(error) => return Err(Err(error.into())),
        }
        let note = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        // The pid is for messages: a full disk must not keep a session from opening.
        if let Err(error) = note {
            tracing::debug!(%error, "the lock file's note was not written");
        }
        Ok(Lock { _file: file })
    }
}

/// Held while this process owns the session.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

fn make_private(dir: &Path) -> io::Result<()> {
    if !dir.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        // `mode` passes through the umask, which may have taken bits away.
        std::fs::set_permissions(dir, Permissions::from_mode(0o700))?;
        if let Some(parent) = dir.parent() {
            File::open(parent)?.sync_all()?;
        }
    }
    let found = std::fs::metadata(dir)?;
    let own = rustix::process::geteuid().as_raw();
    if found.uid() != own || found.mode() & 0o022 != 0 {
        let text = format!(
            "{} belongs to another user or others can write to it; a session needs a directory of its own (chmod 700)",
            dir.display()
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok(())
}

/// Where sessions with a bare name live.
pub fn sessions() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_STATE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| set("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("longhaul"))
}

/// A path to `path` that fits a socket address however deep the directory lies: through a
/// descriptor of its parent, which must stay open while the path is used.
pub fn short_socket_path(path: &Path) -> io::Result<(File, PathBuf)> {
    use std::os::fd::AsRawFd;
    let parent = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default();
    let dir = File::open(parent)?;
    let short = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    Ok((dir, short))
}

/// Binds the control socket. Only under the session's lock: whatever stands at the path is stale.
pub fn bind_socket(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (_dir, short) = short_socket_path(path)?;
    let listener = std::os::unix::net::UnixListener::bind(short)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Connects to a control socket.
pub fn connect_socket(path: &Path) -> io::Result<std::os::unix::net::UnixStream> {
    let (_dir, short) = short_socket_path(path)?;
    let stream = std::os::unix::net::UnixStream::connect(short)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}
