//! Giving a complete upload its name, exactly once, without overwriting anything.
//!
//! ```text
//! part synced -> record Publishing{name, inode} -> rename part to name -> sync both directories
//!             -> record Complete{name} -> remove the mark
//! ```
//!
//! Killed before the rename: the part file is still there, and the move is made again, under another
//! name if this one was taken meanwhile. Killed after it: the part file is gone, or (where moving is
//! a link and an unlink) has a second link; both prove that the object was published, even if
//! somebody has moved it away since.
//!
//! Invariant: from the first `Publishing` on, the part file holds the whole object, durably, and is
//! never truncated.

use std::{io, os::unix::fs::MetadataExt as _};

use super::{
    dir::{Publish, Root},
    name,
    record::{Id, Record, State},
};

/// After so many objects of one name, the next gets the upload's id as its suffix.
const SUFFIX_MAX: u32 = 1000;

/// Publishes, or finishes what an earlier call or an earlier life of the server began.
pub fn publish(root: &Root, id: &Id, record: &mut Record) -> io::Result<String> {
    let name = match published(root, id, &record.state)? {
        Some(name) => name,
        None => claim(root, id, record)?,
    };
    root.sync_objects()?;
    root.sync_state()?;
    let complete = record.in_state(State::Complete { name: name.clone() });
    complete.save(root, id)?;
    *record = complete;
    if let Err(error) = root.remove_state(&id.mark()) {
        tracing::warn!(%error, "a mark file is left until the next start");
    }
    Ok(name)
}

/// The name, if the object was published already.
fn published(root: &Root, id: &Id, state: &State) -> io::Result<Option<String>> {
    let (name, inode) = match state {
        State::Receiving => return Ok(None),
        State::Complete { name } => return Ok(Some(name.clone())),
        State::Publishing { name, inode } => (name, *inode),
    };
    let part = match root.open_state(&id.part()) {
        Ok(part) => part.metadata()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(name.clone())),
        Err(error) => return Err(error),
    };
    if part.ino() != inode {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the part file is not the one that was complete",
        ));
    }
    if part.nlink() == 1 && root.object_inode(name)? != Some(inode) {
        return Ok(None);
    }
    root.sync_objects()?;
    root.remove_state(&id.part())?;
    Ok(Some(name.clone()))
}

/// Moves the part file to the first free name.
fn claim(root: &Root, id: &Id, record: &mut Record) -> io::Result<String> {
    let part = id.part();
    let meta = root.open_state(&part)?.metadata()?;
    if meta.len() != record.length {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the part file does not have the length of the upload",
        ));
    }
    let suffixed = (0..SUFFIX_MAX).map(|attempt| name::candidate(&record.wanted, attempt));
    let last = std::iter::once(name::with_suffix(&record.wanted, &format!(".{id}")));
    let names: Vec<String> = suffixed.chain(last).collect();
    for name in names {
        // Only to save the record of an attempt that would fail; publishing itself never overwrites.
        if root.object_inode(&name)?.is_some() {
            continue;
        }
        // Set before saving: a save that fails may still turn out to be durable.
        record.state = State::Publishing { name: name.clone(), inode: meta.ino() };
        record.save(root, id)?;
        match root.publish(&part, &name)? {
            Publish::Done => return Ok(name),
            Publish::Taken => {}
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _};

    use super::*;

    fn complete_upload(dir: &std::path::Path) -> (Root, Id, Record) {
        let (root, _lock) = Root::open(dir).expect("root");
        let id = Id::random().expect("random");
        root.create_state(&id.part()).expect("part").write_all(b"whole").expect("write");
        let record = Record::new(5, "name".into(), None);
        record.save(&root, &id).expect("save");
        (root, id, record)
    }

    /// What a kill leaves after each of the durable steps, and one link-and-unlink step between.
    #[test]
    fn killed_at_any_step_the_object_is_published_once() {
        for step in 0..4 {
            let dir = tempfile::tempdir().expect("directory");
            let (root, id, mut record) = complete_upload(dir.path());
            let part = dir.path().join(".haul-serve").join(id.part());
            if step > 0 {
                let inode = fs::metadata(&part).expect("part").ino();
                record.state = State::Publishing { name: "name".into(), inode };
                record.save(&root, &id).expect("save");
            }
            match step {
                2 => fs::hard_link(&part, dir.path().join("name")).expect("link"),
                3 => fs::rename(&part, dir.path().join("name")).expect("rename"),
                _ => {}
            }
            let mut found = Record::load(&root, &id).expect("load").expect("record");
            for _ in 0..2 {
                assert_eq!(publish(&root, &id, &mut found).expect("publish"), "name");
            }
            assert_eq!(fs::read(dir.path().join("name")).expect("object"), b"whole");
            assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 2, "step {step}");
            assert!(!part.exists());
            assert_eq!(Record::load(&root, &id).expect("load"), Some(found));
        }
    }

    #[test]
    fn an_object_of_the_same_name_is_left_alone() {
        let dir = tempfile::tempdir().expect("directory");
        fs::write(dir.path().join("name"), b"theirs").expect("write");
        let (root, id, mut record) = complete_upload(dir.path());
        // The name was free when the attempt was recorded, and taken before the rename.
        let inode = root.open_state(&id.part()).expect("part").metadata().expect("meta").ino();
        record.state = State::Publishing { name: "name".into(), inode };
        assert_eq!(publish(&root, &id, &mut record).expect("publish"), "name.1");
        assert_eq!(fs::read(dir.path().join("name")).expect("object"), b"theirs");
        assert_eq!(fs::read(dir.path().join("name.1")).expect("object"), b"whole");
    }
}
