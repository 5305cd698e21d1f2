//! The files below a directory, one after the other, in the order of their names.
//!
//! Symbolic links to directories are not followed, so that no walk goes round in circles; those to files are.
//! Memory: the names of the directories on the way down, never the whole tree.

use std::ffi::OsString;
use std::fs::{self, FileType};
use std::io;
use std::path::{Path, PathBuf};

/// What a walk comes upon.
#[derive(Debug)]
pub enum Step {
    /// A file, by its path below the root.
    File(PathBuf),
    /// Something that is left out, and why.
    Skipped(PathBuf, &'static str),
    /// Something that could not be looked at.
    Failed(PathBuf, io::Error),
}

/// A walk under way.
#[derive(Debug)]
pub struct Walk {
    root: PathBuf,
    /// What is still to be seen of each directory on the way down, last name first.
    levels: Vec<(PathBuf, Vec<(OsString, FileType)>)>,
    failed: Option<(PathBuf, io::Error)>,
}

impl Walk {
    /// The files below `root`, which may be a symbolic link itself.
    pub fn new(root: PathBuf) -> Self {
        let mut walk = Self { root, levels: Vec::new(), failed: None };
        walk.enter(PathBuf::new());
        walk
    }

    fn enter(&mut self, below: PathBuf) {
        let mut names = Vec::new();
        let listed = fs::read_dir(self.root.join(&below)).and_then(|entries| {
            for entry in entries {
                let entry = entry?;
                names.push((entry.file_name(), entry.file_type()?));
            }
            Ok(())
        });
        if let Err(error) = listed {
            self.failed = Some((below.clone(), error));
        }
        names.sort_unstable_by(|one, other| other.0.cmp(&one.0));
        self.levels.push((below, names));
    }
}

impl Iterator for Walk {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        loop {
            if let Some((path, error)) = self.failed.take() {
                return Some(Step::Failed(path, error));
            }
            let (dir, names) = self.levels.last_mut()?;
            let Some((name, kind)) = names.pop() else {
                self.levels.pop();
                continue;
            };
            let path = dir.join(name);
            if kind.is_dir() {
                self.enter(path);
            } else if kind.is_symlink() {
                return Some(behind(&self.root, path));
            } else if kind.is_file() {
                return Some(Step::File(path));
            } else {
                return Some(Step::Skipped(path, "it is neither a file nor a directory"));
            }
        }
    }
}

fn behind(root: &Path, path: PathBuf) -> Step {
    match fs::metadata(root.join(&path)) {
        Ok(found) if found.is_file() => Step::File(path),
        Ok(found) if found.is_dir() => {
            Step::Skipped(path, "it is a symbolic link to a directory, which is not followed")
        }
        Ok(_) => Step::Skipped(path, "it is neither a file nor a directory"),
        Err(error) => Step::Failed(path, error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_come_in_order_and_links_to_directories_are_left_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("b/deep")).expect("made");
        fs::create_dir(at("empty")).expect("made");
        for name in ["c", "a", "b/deep/x", "b/y"] {
            fs::write(at(name), name).expect("written");
        }
        symlink(at("a"), at("link")).expect("linked");
        symlink(dir.path(), at("b/round")).expect("linked");
        symlink(at("none"), at("dangling")).expect("linked");
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).expect("bound");
        let seen: Vec<String> = Walk::new(dir.path().to_owned())
            .map(|step| match step {
                Step::File(path) => path.display().to_string(),
                Step::Skipped(path, _) => format!("-{}", path.display()),
                Step::Failed(path, _) => format!("!{}", path.display()),
            })
            .collect();
        assert_eq!(seen, ["a", "b/deep/x", "-b/round", "b/y", "c", "!dangling", "link", "-socket"]);
    }

    #[test]
    fn what_cannot_be_listed_is_told() {
        let steps: Vec<_> = Walk::new("/nowhere/at/all".into()).collect();
        assert!(matches!(&steps[..], [Step::Failed(path, _)] if path.as_os_str().is_empty()));
    }
}
