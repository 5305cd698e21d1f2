//! File systems that can be taken away: an ext4 in a file, mounted and unmounted at will.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::support::mount::as_root;
use crate::support::wait::until;

/// A file system of its own; unmounted when dropped.
#[derive(Debug)]
pub struct Device {
    dir: TempDir,
}

impl Device {
    /// Makes and mounts one of `mebibytes`. Panics where that is not permitted: the test cannot pass without it.
    pub fn new(mebibytes: u64) -> Self {
        let dir = tempfile::tempdir().expect("a directory for a device");
        let image = dir.path().join("image");
        let file = std::fs::File::create(&image).expect("create an image");
        file.set_len(mebibytes << 20).expect("size an image");
        std::fs::create_dir(dir.path().join("mounted")).expect("a mount point");
        let device = Self { dir };
        root("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0", path(&image)]);
        device.mount();
        // For tests that do not run as root.
        root("chmod", &["0777", path(&device.path())]);
        device
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }

    pub fn mount(&self) {
        let image = self.dir.path().join("image");
        root("mount", &["-o", "loop", path(&image), path(&self.path())]);
    }

    /// Takes it away as a pulled disk goes: what is open stays open, and nothing is found there any more.
    pub fn pull(&self) {
        root("umount", &["-l", path(&self.path())]);
    }

    /// Waits until nobody holds anything of it, so that it can come back with what was written.
    pub fn until_released(&self) {
        let image = self.dir.path().join("image");
        until("the device is free", || {
            let users = as_root("losetup").args(["-j", path(&image)]).output().expect("start losetup");
            users.stdout.is_empty().then_some(())
        });
    }

    /// Makes the mount read-only or writable; refused while something there is open for writing.
    pub fn try_read_only(&self, read_only: bool) -> bool {
        let mode = if read_only { "remount,ro,bind" } else { "remount,rw,bind" };
        let done = as_root("mount").args(["-o", mode, path(&self.path())]).output().expect("start mount");
        done.status.success()
    }
}

#[track_caller]
fn root(program: &str, words: &[&str]) {
    let done = as_root(program).args(words).output().expect("start a program as root");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success(),
        "{program} {words:?}: {said}: these tests need root, or sudo without a password"
    );
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = as_root("umount").arg("-l").arg(self.path()).output();
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}
