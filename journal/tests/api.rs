//! Group commit, poison, cancellation, closing: the promises of the handle.

use std::future::Future;
use std::pin::pin;
use std::sync::Barrier;
use std::sync::mpsc::channel;
use std::task::{Context, Poll, Waker};
use std::thread;

use longhaul_journal::mem::{Fault, MemDisk};
use longhaul_journal::{
    AppendError, Batch, Checkpoint, CheckpointError, Executor, ExportFile, Journal, RECORD_MAX, ReadError,
    RowKey, RowQuery, Seq, Store, StoreError, Visit,
};

use crate::common::{Text, open_mem, tail};

fn threaded(disk: &MemDisk) -> Journal<Text> {
    Journal::open_store(disk.store(), Executor::Thread).expect("open").journal
}

#[test]
fn many_callers_get_consecutive_numbers() {
    let disk = MemDisk::new();
    let journal = threaded(&disk);
    let start = Barrier::new(16);
    thread::scope(|scope| {
        for writer in 0..16_u64 {
            let (journal, start) = (journal.clone(), &start);
            scope.spawn(move || {
                start.wait();
                for n in 0..20 {
                    let values =
                        (0..3).map(|part| Text::numbered(writer * 1000 + n * 3 + part, 40)).collect();
                    let committed = journal.append_all_blocking(values).expect("append");
                    let seqs: Vec<_> = committed.iter().map(|one| one.seq().0).collect();
                    assert_eq!(seqs, [seqs[0], seqs[0] + 1, seqs[0] + 2], "not contiguous");
                }
            });
        }
    });
    journal.close_blocking().expect("close");
    let all = tail(open_mem(&disk).expect("reopen"));
    assert_eq!(all.len(), 16 * 20 * 3);
    // In each call's own order.
    for writer in 0..16_u64 {
        let own = all.iter().map(|(_, value)| u64::from_be_bytes(value[..8].try_into().expect("8")));
        let own: Vec<_> = own.filter(|number| number / 1000 == writer).collect();
        assert!(own.is_sorted() && own.len() == 60, "{own:?}");
    }
}

/// A store whose flush waits for a permit and tells when it begins.
struct Gated {
    inner: Box<dyn Store>,
    began: std::sync::mpsc::Sender<()>,
    go: std::sync::mpsc::Receiver<()>,
    armed: bool,
}

impl Store for Gated {
    fn apply(&mut self, batch: Batch) -> Result<(), StoreError> {
        self.armed =
            batch.ops.iter().any(|op| matches!(op, longhaul_journal::Op::Put(key, _) if key[0] == b'w'));
        self.inner.apply(batch)
    }
    fn flush(&mut self) -> Result<(), StoreError> {
        if self.armed {
            let _ = self.began.send(());
            let _ = self.go.recv();
        }
        self.inner.flush()
    }
    fn scan(&mut self, from: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.inner.scan(from, visit)
    }
    fn scan_back(&mut self, below: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.inner.scan_back(below, visit)
    }
    fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.get(key)
    }
    fn check(&mut self) -> Result<(), StoreError> {
        self.inner.check()
    }
    fn witness_read(&mut self) -> Result<[Vec<u8>; 2], StoreError> {
        self.inner.witness_read()
    }
    fn witness_write(&mut self, slot: u8, bytes: &[u8]) -> Result<(), StoreError> {
        self.inner.witness_write(slot, bytes)
    }
    fn witness_sync(&mut self) -> Result<(), StoreError> {
        self.inner.witness_sync()
    }
    fn export_begin(&mut self, name: &str) -> Result<Box<dyn ExportFile>, StoreError> {
        self.inner.export_begin(name)
    }
}

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn waiting_callers_share_a_flush_and_cancelled_ones_keep_their_place() {
    let disk = MemDisk::new();
    let (began, begins) = channel();
    let (go, gate) = channel();
    let store = Gated { inner: disk.store(), began, go: gate, armed: false };
    let journal: Journal<Text> =
        Journal::open_store(Box::new(store), Executor::Thread).expect("open").journal;
    let flushes_before = disk.counts().flushes;

    let first = journal.append_all(vec![Text::new("first")]);
    let mut first = pin!(first);
    assert!(poll_once(first.as_mut()).is_pending());
    begins.recv().expect("the first flush");
    // These wait behind the flush, and then share one. One caller goes away.
    let mut waiting: Vec<_> =
        ["a", "b", "c"].map(|text| Box::pin(journal.append_all(vec![Text::new(text)]))).into();
    for future in &mut waiting {
        assert!(poll_once(future.as_mut()).is_pending());
    }
    drop(waiting.remove(1));
    go.send(()).expect("let the first go");
    begins.recv().expect("the second flush");
    go.send(()).expect("let the second go");
    journal.clone().close_blocking().expect("close");
    assert_eq!(disk.counts().flushes - flushes_before, 2);

    let Poll::Ready(Ok(first)) = poll_once(first.as_mut()) else { panic!("the first is not done") };
    assert_eq!(first[0].seq(), Seq(1));
    let seqs = waiting.iter_mut().map(|future| match poll_once(future.as_mut()) {
        Poll::Ready(Ok(committed)) => committed[0].seq().0,
        other => panic!("{other:?}"),
    });
    assert_eq!(seqs.collect::<Vec<_>>(), [2, 4], "the cancelled call kept its place");
    let texts = tail(open_mem(&disk).expect("reopen"));
    let texts: Vec<_> = texts.into_iter().map(|(_, value)| String::from_utf8(value).expect("text")).collect();
    assert_eq!(texts, ["first", "a", "b", "c"]);
}

/// What was asked for before the handle was closed is answered, also behind appends that wait.
#[test]
fn reads_wait_for_one_commit_and_are_answered_before_the_end() {
    let disk = MemDisk::new();
    let journal = threaded(&disk);
    journal.append_all_blocking(vec![Text::new("one")]).expect("append");
    let puts = (1..=2000).map(|id| (RowKey::new(b'j', id, 0), b"row".to_vec())).collect();
    journal
        .checkpoint_blocking(Checkpoint { through: Seq(1), puts, ..Default::default() })
        .expect("checkpoint");
    journal.close_blocking().expect("close");

    let (began, begins) = channel();
    let (go, gate) = channel();
    let store = Gated { inner: disk.store(), began, go: gate, armed: false };
    let journal: Journal<Text> =
        Journal::open_store(Box::new(store), Executor::Thread).expect("open").journal;
    let mut append = Box::pin(journal.append_all(vec![Text::new("two")]));
    assert!(poll_once(append.as_mut()).is_pending());
    begins.recv().expect("a flush");
    let mut more = Box::pin(journal.append_all(vec![Text::new("three")]));
    let mut rows = Box::pin(journal.rows(RowQuery::all(b'j')));
    let mut dropped = Box::pin(journal.rows(RowQuery::all(b'j')));
    let mut one = Box::pin(journal.get(vec![RowKey::new(b'j', 7, 0)]));
    assert!(poll_once(more.as_mut()).is_pending());
    assert!(poll_once(rows.as_mut()).is_pending());
    assert!(poll_once(dropped.as_mut()).is_pending());
    assert!(poll_once(one.as_mut()).is_pending());
    drop(dropped);
    go.send(()).expect("let the first go");
    begins.recv().expect("the second flush");
    go.send(()).expect("let the second go");
    journal.clone().close_blocking().expect("close");
    let Poll::Ready(Ok(rows)) = poll_once(rows.as_mut()) else { panic!("the rows are not there") };
    assert_eq!(rows.len(), 2000);
    let Poll::Ready(Ok(one)) = poll_once(one.as_mut()) else { panic!("the row is not there") };
    assert_eq!(one[0].as_ref().map(|row| row.value.as_slice()), Some(b"row".as_slice()));
    for append in [&mut append, &mut more] {
        assert!(matches!(poll_once(append.as_mut()), Poll::Ready(Ok(_))));
    }
    let error = journal.rows_blocking(RowQuery::all(b'j')).expect_err("closed");
    assert!(matches!(error, ReadError::Closed), "{error}");
}

#[test]
fn a_future_that_was_never_polled_writes_nothing() {
    let disk = MemDisk::new();
    let journal = threaded(&disk);
    drop(journal.append_all(vec![Text::new("never")]));
    journal.close_blocking().expect("close");
    assert!(tail(open_mem(&disk).expect("reopen")).is_empty());
}

#[test]
fn a_failed_flush_poisons_for_good() {
    for executor in [Executor::Thread, Executor::Inline] {
        let disk = MemDisk::new();
        let journal: Journal<Text> = Journal::open_store(disk.store(), executor).expect("open").journal;
        journal.append_all_blocking(vec![Text::new("kept")]).expect("append");
        disk.fail_after(Fault::Flush, 0);
        let error = journal.append_all_blocking(vec![Text::new("unknown")]).expect_err("the flush fails");
        assert!(matches!(error, AppendError::Store { from: Seq(2), .. }), "{error}");
        assert!(journal.is_poisoned());
        // Also when the disk works again: what the kernel dropped stays dropped.
        disk.heal();
        for _ in 0..3 {
            let error = journal.append_all_blocking(vec![Text::new("never")]).expect_err("poisoned");
            assert!(matches!(error, AppendError::Poisoned), "{error}");
        }
        let error = journal.checkpoint_blocking(Checkpoint::default()).expect_err("poisoned");
        assert!(matches!(error, CheckpointError::Poisoned), "{error}");
        let error = journal.rows_blocking(RowQuery::all(b'j')).expect_err("poisoned");
        assert!(matches!(error, ReadError::Poisoned), "{error}");
        let flushes = disk.counts().flushes;
        drop(journal);
        assert_eq!(disk.counts().flushes, flushes, "a failed flush was tried again");
        disk.crash(3);
        let texts = tail(open_mem(&disk).expect("reopen"));
        assert_eq!(texts[0].1, b"kept");
        assert!(texts.len() <= 2);
    }
}

#[test]
fn every_waiting_caller_hears_of_the_failure() {
    let disk = MemDisk::new();
    let journal = threaded(&disk);
    disk.fail_after(Fault::Flush, 10);
    let start = Barrier::new(16);
    thread::scope(|scope| {
        for writer in 0..16 {
            let (journal, start) = (journal.clone(), &start);
            scope.spawn(move || {
                start.wait();
                // Ends only because each call is answered.
                while journal.append_all_blocking(vec![Text::numbered(writer, 3000)]).is_ok() {}
            });
        }
    });
    assert!(journal.is_poisoned());
}

#[test]
fn size_limits() {
    let disk = MemDisk::new();
    let journal = open_mem(&disk).expect("open").journal;
    let most = Text(vec![7; RECORD_MAX]);
    journal.append_all_blocking(vec![most.clone()]).expect("the limit itself");
    let values = vec![Text::new("small"), Text(vec![7; RECORD_MAX + 1])];
    let error = journal.append_all_blocking(values).expect_err("too large");
    assert!(matches!(error, AppendError::TooLarge { index: 1, .. }), "{error}");
    assert!(!journal.is_poisoned());
    // A call of many commits; no stored value is above 8 KiB.
    let committed = journal.append_all_blocking(vec![Text(vec![8; 3000]); 50]).expect("append");
    assert_eq!(committed.len(), 50);
    assert!(journal.append_all_blocking(vec![]).expect("nothing to do").is_empty());
    disk.map(|map| assert!(map.values().all(|value| value.len() <= 8192)));
    disk.crash(0);
    let texts = tail(open_mem(&disk).expect("reopen"));
    assert_eq!((texts.len(), &texts[0].1), (51, &most.0));
}

#[test]
fn closing() {
    let disk = MemDisk::new();
    let journal = threaded(&disk);
    let other = journal.clone();
    journal.close_blocking().expect("close");
    let error = other.append_all_blocking(vec![Text::new("late")]).expect_err("closed");
    assert!(matches!(error, AppendError::Closed), "{error}");
    let error = other.checkpoint_blocking(Checkpoint::default()).expect_err("closed");
    assert!(matches!(error, CheckpointError::Closed), "{error}");
    other.close_blocking().expect("again");
}

/// Embedders keep the handle in tasks that move between threads.
#[test]
fn handles_and_futures_can_move() {
    fn moves<T: Send>(_: &T) {}
    fn is_shared<T: Send + Sync>(_: &T) {}
    let journal = open_mem(&MemDisk::new()).expect("open").journal;
    is_shared(&journal);
    moves(&journal.append_all(vec![]));
    moves(&journal.checkpoint(Checkpoint::default()));
    moves(&journal.rows(RowQuery::all(b'j')));
    moves(&journal.get(vec![]));
    moves(&journal.clone().close());
}
