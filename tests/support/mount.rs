//! A small tmpfs, to be filled.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A mounted tmpfs; unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    /// Mounts `mebibytes` of tmpfs. Panics where mounting is not permitted: the test cannot pass without it.
    pub fn new(mebibytes: u64) -> Self {
        let dir = tempfile::tempdir().expect("a mount point");
        let options = format!("size={mebibytes}m,mode=0755");
        let status = as_root("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(dir.path())
            .status()
            .expect("start mount");
        assert!(
            status.success(),
            "cannot mount a tmpfs of {mebibytes} MiB on {}: the full-disk tests need root, or sudo without a password",
            dir.path().display()
        );
        Self { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file until nothing is left but about `spare` bytes; removing it frees the space again.
    pub fn fill_but(&self, spare: u64) -> PathBuf {
        let path = self.dir.path().join("ballast");
        let stat = rustix::fs::statvfs(self.dir.path()).expect("free space of the tmpfs");
        let free = stat.f_bavail * stat.f_frsize;
        fs::write(&path, vec![1; usize::try_from(free.saturating_sub(spare)).expect("a small disk")])
            .expect("fill the tmpfs");
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that is being killed may still hold a file there.
        let _ = as_root("umount").arg("-l").arg(self.dir.path()).status();
    }
}

pub fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        Command::new(program)
    } else {
        let mut command = Command::new("sudo");
        command.args(["-n", program]);
        command
    }
}
