//! On a real file system: what is made, what is refused, and what a crash in the middle leaves to do.

#![allow(clippy::disallowed_methods, reason = "the world is what is tested here")]

use std::fs;
use std::os::unix::fs::MetadataExt;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::os::disk::OsDisk;

struct Bench {
    dir: TempDir,
    disk: OsDisk,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("stage")).expect("a staging area");
        Self { dir, disk: OsDisk::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn source(&self, content: &[u8]) -> Fingerprint {
        fs::write(self.path("source"), content).expect("a source");
        self.disk.inspect(&self.path("source")).expect("readable").expect("there")
    }

    fn plan(&self, source: Fingerprint, mode: StageMode, copy_fits: bool) -> StagePlan {
        StagePlan {
            source_path: self.path("source"),
            source: Some(source),
            mode,
            copy_fits,
            stage_path: self.path("stage/0000000000000001.stage"),
            stop: Arc::default(),
        }
    }

    fn staged(&self) -> Vec<String> {
        let names = fs::read_dir(self.path("stage")).expect("readable");
        names.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect()
    }

    fn part(&self, content: &[u8]) -> Part {
        let part = make_part(&self.disk, &self.path(".file.haul")).expect("made");
        fs::write(&part.path, content).expect("written");
        part
    }
}

/// A real disk on which opening, creating, listing names for good and renaming go wrong.
struct Faulty {
    disk: OsDisk,
    error: rustix::io::Errno,
    /// What stands where the source was.
    device: Result<u64, rustix::io::Errno>,
}

impl Faulty {
    fn new(error: rustix::io::Errno, device: Result<u64, rustix::io::Errno>) -> Self {
        Self { disk: OsDisk::default(), error, device }
    }

    fn fail<T>(&self, path: &Path) -> io::Result<T> {
        let error = io::Error::from(self.error);
        Err(io::Error::new(error.kind(), Named { path: path.display().to_string(), source: error }))
    }
}

/// As the real disk words and wraps what the system says.
#[derive(Debug, thiserror::Error)]
#[error("cannot touch {path}: {source}")]
struct Named {
    path: String,
    source: io::Error,
}

impl Disk for Faulty {
    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        self.disk.resolve(path)
    }
    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.fail(path)
    }
    fn open_write(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.disk.open_write(path)
    }
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.fail(path)
    }
    fn rename(&self, from: &Path, _: &Path) -> io::Result<()> {
        self.fail(from)
    }
    fn rename_new(&self, from: &Path, _: &Path) -> io::Result<()> {
        self.fail(from)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.fail(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.disk.list(dir)
    }
    fn inspect(&self, path: &Path) -> io::Result<Option<Fingerprint>> {
        self.disk.inspect(path)
    }
    fn is_dir(&self, path: &Path) -> bool {
        self.disk.is_dir(path)
    }
    fn device_of_nearest(&self, _: &Path) -> io::Result<u64> {
        self.device.map_err(io::Error::from)
    }
    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.disk.free_space(path)
    }
}

#[test]
fn missing_rights_hold_a_job_and_say_what_to_do() {
    use rustix::io::Errno;
    let bench = Bench::new();
    let part = bench.part(b"12345");
    for errno in [Errno::ACCESS, Errno::PERM, Errno::ROFS] {
        let disk = Faulty::new(errno, Ok(0));
        let made = make_part(&disk, &bench.path(".other.haul")).err();
        let published = publish(&disk, &part, &bench.path("file"), 5, false).err();
        let replaced = publish(&disk, &part, &bench.path("file"), 5, true).err();
        for fault in [made, published, replaced] {
            let Some(LocalFault::NoAccess(why)) = fault else { panic!("{errno}: {fault:?}") };
            assert!(why.contains(".haul: ") && why.ends_with("; make it writable, then resume"), "{why}");
        }
    }
    for (errno, is) in [
        (Errno::NOSPC, (|fault| matches!(fault, LocalFault::NoSpace(_))) as fn(&LocalFault) -> bool),
        (Errno::MFILE, |fault| matches!(fault, LocalFault::Transient(_))),
        (Errno::NFILE, |fault| matches!(fault, LocalFault::Transient(_))),
        (Errno::NOMEM, |fault| matches!(fault, LocalFault::Transient(_))),
        (Errno::IO, |fault| matches!(fault, LocalFault::Fatal(_))),
    ] {
        let fault = make_part(&Faulty::new(errno, Ok(0)), &bench.path(".other.haul")).unwrap_err();
        assert!(is(&fault), "{errno}: {fault:?}");
    }
}

#[test]
fn a_source_whose_file_system_is_away_is_waited_for() {
    use rustix::io::Errno;
    let bench = Bench::new();
    let source = bench.source(b"content");
    let opened = |errno, device, expected| {
        open_source(&Faulty::new(errno, device), &bench.path("source"), expected).err().expect("refused")
    };
    let here = Some(&source);
    let other = Ok(source.dev + 1);
    for (errno, device) in [
        (Errno::NOENT, other),
        (Errno::NOENT, Err(Errno::NOTCONN)),
        (Errno::IO, other),
        (Errno::IO, Err(Errno::IO)),
        (Errno::NODEV, Ok(source.dev)),
        (Errno::NXIO, Ok(source.dev)),
        (Errno::STALE, Ok(source.dev)),
        (Errno::NOTCONN, Ok(0)),
    ] {
        let fault = opened(errno, device, here);
        assert!(
            matches!(&fault, LocalFault::SourceAway(why) if why.contains("source")),
            "{errno}: {fault:?}"
        );
    }
    // Gone from a file system that is there, or from who knows where.
    for (device, expected) in
        [(Ok(source.dev), here), (Ok(0), here), (Err(Errno::ACCESS), here), (other, None)]
    {
        let fault = opened(Errno::NOENT, device, expected);
        assert!(matches!(fault, LocalFault::SourceChanged(_)), "{device:?}: {fault:?}");
    }
    for errno in [Errno::ACCESS, Errno::PERM, Errno::IO] {
        let fault = opened(errno, Ok(source.dev), here);
        assert!(matches!(fault, LocalFault::SourceIo(_)), "{errno}: {fault:?}");
    }
    assert!(matches!(opened(Errno::MFILE, other, here), LocalFault::Transient(_)));
}

#[test]
fn a_copy_has_the_content_and_a_private_mode_and_leaves_the_source_alone() {
    let bench = Bench::new();
    let source = bench.source(b"content");
    let snapshot = stage(&bench.disk, &bench.plan(source, StageMode::Copy, true)).expect("staged");
    let copy = bench.path("stage/0000000000000001.stage");
    assert_eq!((snapshot.size, fs::read(&copy).expect("readable")), (7, b"content".to_vec()));
    assert_eq!(fs::metadata(&copy).expect("there").mode() & 0o777, 0o600);
    assert_eq!(bench.staged(), ["0000000000000001.stage"]);
    let after = bench.disk.inspect(&bench.path("source")).expect("readable").expect("there");
    assert!(after.same_content(&source), "nothing of the source moved, not even a time");
}

#[test]
fn holes_stay_holes() {
    let bench = Bench::new();
    let file = fs::File::create(bench.path("source")).expect("created");
    std::os::unix::fs::FileExt::write_all_at(&file, b"end", 64 << 20).expect("written");
    file.sync_all().expect("synced");
    let source = bench.disk.inspect(&bench.path("source")).expect("readable").expect("there");
    let snapshot = stage(&bench.disk, &bench.plan(source, StageMode::Copy, true)).expect("staged");
    let copy = fs::metadata(bench.path("stage/0000000000000001.stage")).expect("there");
    assert_eq!((snapshot.size, copy.len()), ((64 << 20) + 3, (64 << 20) + 3));
    assert!(copy.blocks() * 512 < 4 << 20, "{} blocks", copy.blocks());
}

#[test]
fn too_large_for_the_budget_means_guarded_in_place_or_a_copy_if_that_was_asked_for() {
    let bench = Bench::new();
    let source = bench.source(b"content");
    let method = |mode| stage(&bench.disk, &bench.plan(source, mode, false)).expect("staged").method;
    assert_eq!(method(StageMode::None), SnapshotMethod::InPlace);
    // On a file system with reflinks a clone is always better, whatever the budget.
    assert_ne!(method(StageMode::Auto), SnapshotMethod::Copy);
    assert_ne!(method(StageMode::Copy), SnapshotMethod::InPlace);
}

#[test]
fn a_source_that_changed_since_submit_is_refused_and_leaves_nothing() {
    let bench = Bench::new();
    let source = bench.source(b"content");
    fs::write(bench.path("source"), b"another").expect("rewritten");
    for mode in [StageMode::None, StageMode::Auto, StageMode::Copy] {
        let refused = stage(&bench.disk, &bench.plan(source, mode, true));
        assert!(matches!(refused, Err(LocalFault::SourceChanged(_))), "{refused:?}");
    }
    fs::remove_file(bench.path("source")).expect("removed");
    let refused = stage(&bench.disk, &bench.plan(source, StageMode::Copy, true));
    assert!(matches!(refused, Err(LocalFault::SourceChanged(_))), "{refused:?}");
    assert_eq!(bench.staged(), [""; 0]);
}

#[test]
fn a_halted_copy_stops_and_leaves_nothing() {
    let bench = Bench::new();
    let plan = bench.plan(bench.source(&[1; 4096]), StageMode::Copy, true);
    plan.stop.store(true, Ordering::Relaxed);
    match stage(&bench.disk, &plan) {
        Err(LocalFault::Transient(_)) => assert_eq!(bench.staged(), [""; 0]),
        Ok(snapshot) => assert_eq!(snapshot.method, SnapshotMethod::Clone, "a clone has nothing to halt"),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn leftovers_of_a_crash_in_the_middle_of_staging_are_replaced() {
    let bench = Bench::new();
    let source = bench.source(b"content");
    fs::write(bench.path("stage/0000000000000001.tmp"), b"half").expect("a leftover");
    fs::write(bench.path("stage/0000000000000001.stage"), b"not journaled").expect("a leftover");
    stage(&bench.disk, &bench.plan(source, StageMode::Copy, true)).expect("staged");
    assert_eq!(bench.staged(), ["0000000000000001.stage"]);
    assert_eq!(fs::read(bench.path("stage/0000000000000001.stage")).expect("readable"), b"content");
}

#[test]
fn a_snapshot_that_is_not_ours_is_not_read() {
    let bench = Bench::new();
    let source = bench.source(b"content");
    let plan = bench.plan(source, StageMode::Copy, true);
    let snapshot = stage(&bench.disk, &plan).expect("staged");
    let from =
        SnapshotSource { snapshot, source_path: plan.source_path, stage_path: plan.stage_path.clone() };
    assert!(open_snapshot(&bench.disk, &from).is_ok());
    fs::hard_link(&plan.stage_path, bench.path("planted")).expect("linked");
    assert!(matches!(open_snapshot(&bench.disk, &from), Err(LocalFault::Fatal(_))), "a planted hard link");
    fs::remove_file(&plan.stage_path).expect("removed");
    fs::write(&plan.stage_path, b"content").expect("replaced");
    assert!(matches!(open_snapshot(&bench.disk, &from), Err(LocalFault::Fatal(_))), "another inode");
    fs::remove_file(&plan.stage_path).expect("removed");
    std::os::unix::fs::symlink("/etc/passwd", &plan.stage_path).expect("planted");
    assert!(matches!(open_snapshot(&bench.disk, &from), Err(LocalFault::Fatal(_))), "a symbolic link");
}

#[test]
fn a_part_file_shorter_than_the_journal_says_is_lost_not_padded() {
    let bench = Bench::new();
    let part = bench.part(b"12345");
    assert!(open_part(&bench.disk, &part, 5).is_ok());
    assert!(matches!(open_part(&bench.disk, &part, 6), Err(LocalFault::PartLost(_))));
    fs::remove_file(&part.path).expect("removed");
    assert!(matches!(open_part(&bench.disk, &part, 0), Err(LocalFault::PartLost(_))));
    fs::write(&part.path, b"12345").expect("replaced");
    let replaced = open_part(&bench.disk, &part, 5);
    // A file system may give the same inode number again; then it is the same file to everyone.
    assert!(replaced.is_ok() || matches!(replaced, Err(LocalFault::PartLost(_))));
}

/// Device numbers change over a reboot (anonymous devices, another order of disks): they must fail nobody.
#[test]
fn another_device_number_is_the_same_file() {
    let bench = Bench::new();
    let mut source = bench.source(b"content");
    source.dev += 1;
    assert!(open_source(&bench.disk, &bench.path("source"), Some(&source)).is_ok());
    let plan = bench.plan(source, StageMode::Copy, true);
    let mut snapshot = stage(&bench.disk, &plan).expect("staged");
    snapshot.file.dev += 1;
    let from = SnapshotSource { snapshot, source_path: plan.source_path, stage_path: plan.stage_path };
    assert!(open_snapshot(&bench.disk, &from).is_ok());
    let mut part = bench.part(b"12345");
    part.dev += 1;
    assert!(open_part(&bench.disk, &part, 5).is_ok());
    assert!(matches!(publish(&bench.disk, &part, &bench.path("file"), 5, false), Ok(Publish::Done)));
}

#[test]
fn publishing_can_be_repeated_after_a_crash_at_any_point() {
    let bench = Bench::new();
    let to = bench.path("file");
    let part = bench.part(b"12345 and untrusted bytes");
    let done = |outcome| matches!(outcome, Ok(Publish::Done));
    assert!(done(publish(&bench.disk, &part, &to, 5, false)));
    assert!(done(publish(&bench.disk, &part, &to, 5, false)), "renamed, not journaled");
    assert_eq!(fs::read(&to).expect("readable"), b"12345");
    fs::hard_link(&to, &part.path).expect("linked");
    assert!(done(publish(&bench.disk, &part, &to, 5, false)), "linked, not unlinked");
    assert!(!part.path.exists());
    fs::remove_file(&to).expect("removed");
    let unknown = publish(&bench.disk, &part, &to, 5, false);
    assert!(matches!(unknown, Err(LocalFault::PublishUnknown(_))), "neither is there");
}

#[test]
fn publishing_replaces_only_what_it_may() {
    let bench = Bench::new();
    let to = bench.path("file");
    fs::write(&to, b"the user's").expect("written");
    let part = bench.part(b"12345");
    assert!(matches!(publish(&bench.disk, &part, &to, 5, false), Ok(Publish::Exists)));
    assert_eq!(fs::read(&to).expect("readable"), b"the user's");
    assert!(matches!(publish(&bench.disk, &part, &to, 5, true), Ok(Publish::Done)));
    assert_eq!(fs::read(&to).expect("readable"), b"12345");
}

#[test]
fn freeing_takes_only_what_is_ours() {
    let bench = Bench::new();
    let part = bench.part(b"12345");
    fs::remove_file(&part.path).expect("removed");
    fs::write(&part.path, b"a user's file of the same name").expect("written");
    // Of what stands there now: a new file may well have the next number.
    let now = fs::metadata(&part.path).expect("there");
    let other = Some(std::os::unix::fs::MetadataExt::ino(&now).wrapping_add(1));
    let remains =
        |identity| Remains { stage: None, part: Some((part.path.clone(), identity)), secrets: None };
    free(&bench.disk, &remains(other)).expect("nothing to do");
    assert!(part.path.exists());
    free(&bench.disk, &remains(None)).expect("removed");
    assert!(!part.path.exists());
    free(&bench.disk, &remains(None)).expect("again, after a crash");
}

#[test]
fn the_sweep_removes_by_number_and_leaves_strangers() {
    let bench = Bench::new();
    for name in ["0000000000000001.stage", "0000000000000002.tmp", "notes.txt", "1.stage"] {
        fs::write(bench.path("stage").join(name), b"x").expect("written");
    }
    let removed = sweep(&bench.disk, &bench.path("stage"), |job, _| job == 1).expect("swept");
    assert_eq!(removed, [bench.path("stage/0000000000000002.tmp")]);
    let mut left = bench.staged();
    left.sort();
    assert_eq!(left, ["0000000000000001.stage", "1.stage", "notes.txt"]);
}

proptest! {
    #[test]
    fn a_copy_is_the_source_whatever_its_shape(
        pieces in prop::collection::vec((0u64..3_000_000, prop::collection::vec(any::<u8>(), 1..2000)), 0..6),
        tail in 0u64..200_000,
    ) {
        let bench = Bench::new();
        let file = fs::File::create(bench.path("source")).expect("created");
        let mut end = 0;
        for (offset, bytes) in &pieces {
            std::os::unix::fs::FileExt::write_all_at(&file, bytes, *offset).expect("written");
            end = end.max(offset + bytes.len() as u64);
        }
        file.set_len(end + tail).expect("sized");
        let source = bench.disk.inspect(&bench.path("source")).expect("readable").expect("there");
        stage(&bench.disk, &bench.plan(source, StageMode::Copy, true)).expect("staged");
        let copy = fs::read(bench.path("stage/0000000000000001.stage")).expect("readable");
        prop_assert_eq!(copy, fs::read(bench.path("source")).expect("readable"));
    }
}
