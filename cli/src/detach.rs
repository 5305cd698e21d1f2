//! The daemon behind `--detach`: found, or started; and how it leaves without leaving a job behind.
//!
//! ```text
//! put -d ──▶ guests.lock, shared ──▶ daemon.lock free? ──▶ start haul daemon --detached --idle-exit 60s
//!                   │                                          └▶ setsid, daemon.lock, own the session
//!                   └──▶ its owner answers ──▶ submit ──▶ accepted ──▶ let go
//! daemon  ──▶ nothing to do for 60 s ──▶ guests.lock, exclusive ──▶ still nothing? ──▶ leave
//! ```
//!
//! A session that another process owns for the moment (a `put` in the foreground) takes the jobs; the daemon waits
//! until that one leaves, and goes on with them.
//!
//! Invariant: a daemon leaves only when nobody is submitting to it, so that no job is accepted by one on its way out.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::config;
use crate::exit::{Exit, Failure};
use crate::text::escape;

/// How long a daemon that was started by the way stays without work.
pub const IDLE: &str = "60s";
/// Held exclusively by the daemon, for life.
const DAEMON: &str = "daemon.lock";
/// Held by those who submit (shared) and by a daemon that leaves (exclusively).
const GUESTS: &str = "guests.lock";
/// What a detached daemon says.
const LOG: &str = "daemon.log";
/// A log that has grown beyond this starts anew with the next daemon.
const LOG_MAX: u64 = 1 << 20;
/// How long a daemon may take to leave.
const LEAVING: Duration = Duration::from_secs(10);
/// How long somebody may look whether there is a daemon.
const LOOKING: Duration = Duration::from_millis(500);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// A file lock, held until dropped.
#[derive(Debug)]
pub struct Held {
    _file: File,
}

fn lock(dir: &Path, name: &str, how: FlockOperation) -> io::Result<Option<Held>> {
    if !dir.is_dir() {
        // As the engine makes it; it refuses one that others can write to.
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(dir.join(name))?;
    match flock(&file, how) {
        Ok(()) => Ok(Some(Held { _file: file })),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn lock_soon(
    dir: &Path,
    name: &str,
    how: FlockOperation,
    patience: Duration,
) -> Result<Option<Held>, Failure> {
    let started = Instant::now();
    loop {
        let held = lock(dir, name, how).map_err(|error| at(&dir.join(name), &error))?;
        if held.is_some() || started.elapsed() >= patience {
            return Ok(held);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn at(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("{}: {error}", escape(&path.to_string_lossy())))
}

/// Keeps a daemon from leaving while something is submitted.
pub async fn guest(dir: &Path) -> Result<Held, Failure> {
    let held = lock_soon(dir, GUESTS, FlockOperation::NonBlockingLockShared, LEAVING).await?;
    held.ok_or_else(|| {
        Failure::failed("the session's daemon has been leaving for too long; see `haul doctor`")
    })
}

/// Lets a daemon leave: nobody submits while this is held. None while somebody does.
pub fn last_one(dir: &Path) -> Result<Option<Held>, Failure> {
    lock(dir, GUESTS, FlockOperation::NonBlockingLockExclusive).map_err(|error| at(dir, &error))
}

/// Marks this process as the session's daemon; none if there is one.
pub async fn alive(dir: &Path) -> Result<Option<Held>, Failure> {
    // Not at the first refusal: somebody may just be looking.
    lock_soon(dir, DAEMON, FlockOperation::NonBlockingLockExclusive, LOOKING).await
}

/// Whether the session has a daemon, be it one that waits for its turn.
pub fn has_daemon(dir: &Path) -> Result<bool, Failure> {
    let looked = lock(dir, DAEMON, FlockOperation::NonBlockingLockShared);
    looked.map(|held| held.is_none()).map_err(|error| at(dir, &error))
}

/// A daemon that was started and may not own the session yet.
#[derive(Debug)]
pub struct Starting {
    child: Child,
    log: PathBuf,
    /// Where what it says begins.
    from: u64,
}

impl Starting {
    /// Starts one. It makes a session of its own (setsid) as its first act.
    pub fn daemon(dir: &Path) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::failed(format!("cannot start a daemon: {error}"));
        let dir = std::path::absolute(dir).map_err(failed)?;
        let log = dir.join(LOG);
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&log)
            .map_err(|error| at(&log, &error))?;
        if file.metadata().is_ok_and(|found| found.len() > LOG_MAX) {
            file.set_len(0).map_err(|error| at(&log, &error))?;
        }
        let from = file.seek(SeekFrom::End(0)).map_err(|error| at(&log, &error))?;
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.arg("--session").arg(&dir);
        match &config::get().file {
            Some(file) => command.arg("--config").arg(file),
            None => command.arg("--no-config"),
        };
        command.args(["daemon", "--detached", "--idle-exit", IDLE]);
        // Its working directory keeps no file system busy.
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let child = command.spawn().map_err(failed)?;
        Ok(Self { child, log, from })
    }

    /// Whether it has left, for whatever reason.
    pub fn has_left(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Why it has left, if it has: none too while it is there, or when it has found another daemon.
    pub fn failed(&mut self) -> Option<Failure> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) if status.success() => None,
            Ok(Some(status)) => {
                let said = self.said();
                let said = if said.is_empty() { status.to_string() } else { said };
                let exit = Exit::of_code(status.code()).unwrap_or(Exit::Failed);
                Some(Failure::new(exit, format!("the daemon did not start: {said}")))
            }
            Err(error) => Some(Failure::failed(format!("cannot look after the daemon: {error}"))),
        }
    }

    fn said(&self) -> String {
        let mut text = Vec::new();
        let read = File::open(&self.log).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.from))?;
            file.take(4096).read_to_end(&mut text)
        });
        if read.is_err() {
            return String::new();
        }
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().map(|line| line.trim_start_matches("haul: ")).collect();
        escape(lines.join("; ").trim()).into_owned()
    }
}

/// Becomes a process that no terminal and no shell's end reaches.
pub fn settle() -> Result<(), Failure> {
    match rustix::process::setsid() {
        // EPERM: it leads a group already; whoever started it has seen to that.
        Ok(_) | Err(Errno::PERM) => Ok(()),
        Err(error) => Err(Failure::failed(format!("cannot leave the terminal: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_daemon_does_not_leave_while_somebody_submits() {
        let dir = tempfile::tempdir().expect("a directory");
        let one = guest(dir.path()).await.expect("a lock");
        let other = guest(dir.path()).await.expect("a lock");
        assert!(last_one(dir.path()).expect("looked").is_none());
        drop(one);
        assert!(last_one(dir.path()).expect("looked").is_none());
        drop(other);
        let leaving = last_one(dir.path()).expect("looked");
        assert!(leaving.is_some());
        let waiting = tokio::time::timeout(Duration::from_millis(100), guest(dir.path())).await;
        assert!(waiting.is_err(), "submitted to a daemon on its way out");
        drop(leaving);
        guest(dir.path()).await.expect("a lock");
    }

    #[tokio::test]
    async fn there_is_one_daemon() {
        let dir = tempfile::tempdir().expect("a directory");
        let session = dir.path().join("made/by/need");
        assert!(!has_daemon(&session).expect("looked"));
        let alive = alive(&session).await.expect("locked");
        assert!(alive.is_some() && has_daemon(&session).expect("looked"));
        drop(alive);
        assert!(!has_daemon(&session).expect("looked"));
    }
}
