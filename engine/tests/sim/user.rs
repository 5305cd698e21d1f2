//! What people do to their own files, and to ours.

use std::path::Path;

use super::fault::Fault;
use super::fs::Fs;
use super::rng::{Content, PAGE, Rng, freight};
use super::world::{World, lock};

/// The content of a source now.
fn content(fs: &Fs, path: &Path) -> Option<Vec<u8>> {
    fs.content(path).map(<[u8]>::to_vec)
}

fn put(world: &World, path: &Path, bytes: Vec<u8>, now_ns: i128) {
    let done = lock(&world.fs).user_writes(path, &Content::new(bytes), now_ns);
    world.note(format_args!("user wrote {}: {done:?}", path.display()));
}

/// Overwrites a few bytes at each of these places, in place; the length stays.
pub fn scribble(world: &World, path: &Path, places: &[u64], now_ns: i128) {
    let Some(mut bytes) = content(&lock(&world.fs), path) else { return };
    for &place in places {
        if let Some(byte) = bytes.get_mut(place as usize) {
            *byte = byte.wrapping_add(1);
        }
    }
    put(world, path, bytes, now_ns);
}

/// Overwrites a page or two in the middle, in place; the length stays.
pub fn write_source(world: &World, path: &Path, now_ns: i128) {
    let Some(mut bytes) = content(&lock(&world.fs), path) else { return };
    let (key, from) = world.rng(|rng| (rng.bits(), rng.below(bytes.len() as u64) as usize));
    let end = (from + 2 * PAGE).min(bytes.len());
    bytes[from..end].copy_from_slice(&freight(key, end - from));
    put(world, path, bytes, now_ns);
}

/// Takes bytes off the end, or all.
pub fn truncate_source(world: &World, path: &Path) {
    let Some(mut bytes) = content(&lock(&world.fs), path) else { return };
    bytes.truncate(world.rng(|rng| rng.below(bytes.len() as u64)) as usize);
    put(world, path, bytes, world.wall_ns());
    world.count(Fault::SourceTruncated);
}

pub fn delete_source(world: &World, path: &Path) {
    if lock(&world.fs).user_removes(path).is_ok() {
        world.note(format_args!("user deleted {}", path.display()));
        world.count(Fault::SourceDeleted);
    }
}

/// Puts a file of their own where a download is to go, if nothing is there.
pub fn take_destination(world: &World, path: &Path) -> bool {
    let key = world.rng(Rng::bits);
    let now = world.wall_ns();
    let mut fs = lock(&world.fs);
    if fs.find(path).is_some() || fs.user_writes(path, &freight(key, 100), now).is_err() {
        return false;
    }
    fs.guarded.insert(path.to_owned());
    drop(fs);
    world.note(format_args!("user put {}", path.display()));
    world.count(Fault::DestinationTaken);
    true
}

/// Moves it away again. Anything but their own file there is a broken promise.
pub fn clear_destination(world: &World, path: &Path) {
    let mut fs = lock(&world.fs);
    if !fs.guarded.remove(path) {
        return;
    }
    let untouched = fs.content(path).is_some_and(|content| content.len() == 100);
    let removed = fs.user_removes(path).is_ok();
    drop(fs);
    if !untouched || !removed {
        world.violate(format!("the user's {} was replaced", path.display()));
    }
}

/// Cuts short or deletes some part file that lies about. Not one that is being written: no check could
/// tell the hole that is left from what was sent.
pub fn damage_part(world: &World, deletes: bool) {
    let now = world.wall_ns();
    let mut fs = lock(&world.fs);
    let parts = fs.list(Path::new("/dst")).unwrap_or_default();
    let idle =
        |path: &std::path::PathBuf| path.extension().is_some_and(|end| end == "haul") && !fs.is_open(path);
    let Some(path) = parts.into_iter().find(idle) else { return };
    let len = fs.content(&path).map_or(0, <[u8]>::len) as u64;
    let (done, fault) = if deletes {
        (fs.user_removes(&path), Fault::PartDeleted)
    } else {
        (fs.user_truncates(&path, world.rng(|rng| rng.below(len)), now), Fault::PartTruncated)
    };
    drop(fs);
    if done.is_ok() {
        world.note(format_args!("user damaged {}", path.display()));
        world.count(fault);
    }
}
