//! Rows: told one by one at open, read while the journal is open, exported, always as a plain map would have them.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::path::Path;

use longhaul_journal::mem::{Fault, MemDisk};
use longhaul_journal::{
    Batch, Checkpoint, CheckpointError, Executor, Journal, Op, OpenError, Opened, Options, ROW_MAX,
    ReadError, Row, RowKey, RowOrder, RowQuery, RowSink, Seq, Store, read_export, verify,
};
use proptest::prelude::*;

use crate::common::{Text, open_mem, property};

/// A journal with `count` rows of table `j`, numbered from 1, through one record.
fn with_rows(disk: &MemDisk, executor: Executor, count: u64, len: usize) -> Journal<Text> {
    let journal: Journal<Text> = Journal::open_store(disk.store(), executor).expect("open").journal;
    journal.append_all_blocking(vec![Text::new("one")]).expect("append");
    let puts = (1..=count).map(|id| (RowKey::new(b'j', id, 0), Text::numbered(id, len).0)).collect();
    journal
        .checkpoint_blocking(Checkpoint { through: Seq(1), puts, ..Default::default() })
        .expect("checkpoint");
    journal
}

/// As it is stored.
fn row_key(id: u64) -> Vec<u8> {
    [b"j\x01".as_slice(), &id.to_be_bytes(), &[0; 4]].concat()
}

fn ids(rows: &[Row]) -> Vec<u64> {
    let id = |row: &Row| match row.key {
        RowKey::Number { id, .. } => id,
        RowKey::Name { .. } => panic!("a name"),
    };
    rows.iter().map(id).collect()
}

#[test]
fn more_than_a_slice_in_either_direction() {
    for (count, len) in [(2500, 20), (300, ROW_MAX)] {
        for executor in [Executor::Thread, Executor::Inline] {
            let disk = MemDisk::new();
            let journal = with_rows(&disk, executor, count, len);
            let rows = journal.rows_blocking(RowQuery::all(b'j')).expect("rows");
            assert_eq!(ids(&rows), (1..=count).collect::<Vec<_>>());
            assert!(rows.iter().zip(1..).all(|(row, id)| row.value == Text::numbered(id, len).0));
            let back = RowQuery { order: RowOrder::Descending, ..RowQuery::all(b'j') };
            let rows = journal.rows_blocking(back.clone()).expect("rows");
            assert_eq!(ids(&rows), (1..=count).rev().collect::<Vec<_>>());
            let page = RowQuery { limit: 100, ..back };
            let rows = journal.rows_blocking(page.clone()).expect("page");
            assert_eq!(ids(&rows), (count - 99..=count).rev().collect::<Vec<_>>());
            let next = RowQuery { to: Some(RowKey::new(b'j', count - 100, 0)), ..page };
            let rows = journal.rows_blocking(next).expect("the next page");
            assert_eq!(ids(&rows), (count - 199..=count - 100).rev().collect::<Vec<_>>());
            // In the order in which they are asked for, more than a slice of them.
            let asked: Vec<u64> = (1..=count * 2).rev().collect();
            let keys = asked.iter().map(|id| RowKey::new(b'j', *id, 0)).collect();
            let got = journal.get_blocking(keys).expect("get");
            for (id, row) in asked.iter().zip(&got) {
                let expected = (*id <= count).then(|| Text::numbered(*id, len).0);
                assert_eq!(row.as_ref().map(|row| row.value.clone()), expected);
            }
        }
    }
}

#[test]
fn what_cannot_be_asked_for() {
    let journal = with_rows(&MemDisk::new(), Executor::Inline, 3, 20);
    for table in [b'm', b'w'] {
        let error = journal.rows_blocking(RowQuery::all(table)).expect_err("the journal's own");
        assert!(matches!(error, ReadError::Key { .. }), "{error}");
    }
    for key in [RowKey::new(b'w', 1, 0), RowKey::named(b'j', [b'x'; 256])] {
        let error = journal.get_blocking(vec![key]).expect_err("no key of a row");
        assert!(matches!(error, ReadError::Key { .. }), "{error}");
    }
    assert!(journal.get_blocking(vec![]).expect("nothing").is_empty());
    for query in [
        RowQuery::all(b'k'),
        RowQuery { limit: 0, ..RowQuery::all(b'j') },
        RowQuery { from: Some(RowKey::new(b'k', 0, 0)), ..RowQuery::all(b'j') },
        RowQuery { from: Some(RowKey::new(b'j', 3, 1)), ..RowQuery::all(b'j') },
        RowQuery {
            from: Some(RowKey::new(b'j', 3, 0)),
            to: Some(RowKey::new(b'j', 1, 0)),
            order: RowOrder::Descending,
            ..RowQuery::all(b'j')
        },
    ] {
        assert!(journal.rows_blocking(query.clone()).expect("empty").is_empty(), "{query:?}");
    }
    assert!(!journal.is_poisoned());
}

#[test]
fn a_damaged_row_is_named_and_poisons() {
    type Ask = fn(&Journal<Text>) -> Result<usize, ReadError>;
    let asks: [Ask; 3] = [
        |journal| journal.rows_blocking(RowQuery::all(b'j')).map(|rows| rows.len()),
        |journal| {
            let back = RowQuery { order: RowOrder::Descending, ..RowQuery::all(b'j') };
            journal.rows_blocking(back).map(|rows| rows.len())
        },
        |journal| journal.get_blocking(vec![RowKey::new(b'j', 700, 0)]).map(|rows| rows.len()),
    ];
    for ask in asks {
        for executor in [Executor::Thread, Executor::Inline] {
            let disk = MemDisk::new();
            let journal = with_rows(&disk, executor, 1500, 20);
            disk.map(|map| map.get_mut(&row_key(700)).expect("stored")[30] ^= 4);
            // What does not touch it goes on.
            assert!(journal.get_blocking(vec![RowKey::new(b'j', 699, 0)]).is_ok());
            let error = ask(&journal).expect_err("damaged");
            let ReadError::Damaged { row, .. } = &error else { panic!("{error}") };
            assert_eq!(row, "j/700/0");
            assert!(journal.is_poisoned());
            assert!(journal.append_all_blocking(vec![Text::new("never")]).is_err());
            let error = journal.rows_blocking(RowQuery::all(b'j')).expect_err("poisoned");
            assert!(matches!(error, ReadError::Poisoned), "{error}");
            drop(journal);
            disk.crash(0);
            assert!(matches!(open_mem(&disk), Err(OpenError::Damaged { .. })));
        }
    }
}

/// A row that was put back as it was before, under another key, or that is shorter, is not believed either.
#[test]
fn another_rows_value_is_no_row() {
    let disk = MemDisk::new();
    let journal = with_rows(&disk, Executor::Inline, 3, 20);
    disk.map(|map| map.insert(row_key(2), map[&row_key(1)].clone()));
    let error = journal.get_blocking(vec![RowKey::new(b'j', 2, 0)]).expect_err("the value of another row");
    assert!(matches!(error, ReadError::Damaged { .. }), "{error}");
}

/// An export of rows of which one is damaged: not the export has failed, but the store.
#[test]
fn a_damaged_row_in_an_export_poisons() {
    let disk = MemDisk::new();
    let journal = with_rows(&disk, Executor::Inline, 3, 20);
    disk.map(|map| {
        map.values_mut()
            .filter(|value| value[1] == b'r')
            .for_each(|value| *value.last_mut().expect("some") ^= 1);
    });
    let checkpoint = Checkpoint { through: Seq(1), export: Some(vec![b'j']), ..Default::default() };
    let error = journal.checkpoint_blocking(checkpoint).expect_err("damaged");
    assert!(matches!(error, CheckpointError::Store { .. }), "{error}");
    assert!(journal.is_poisoned() && disk.exports().is_empty());
    // Nor is it put right by being replaced or removed: what else is wrong nobody knows.
    let key = RowKey::new(b'j', 2, 0);
    for (puts, removes) in [(vec![(key.clone(), b"new".to_vec())], vec![]), (vec![], vec![key])] {
        let disk = MemDisk::new();
        let journal = with_rows(&disk, Executor::Inline, 3, 20);
        disk.map(|map| *map.get_mut(&row_key(2)).expect("stored").last_mut().expect("some") ^= 1);
        let checkpoint = Checkpoint { through: Seq(1), puts, removes, export: None };
        let error = journal.checkpoint_blocking(checkpoint).expect_err("damaged");
        assert!(matches!(error, CheckpointError::Store { .. }), "{error}");
    }
}

/// Tens of thousands of rows leave in one batch: all or none, whatever call of the store is the last.
#[test]
fn many_removes_are_one_step() {
    const COUNT: u64 = 30_000;
    let removes: Vec<_> = (1..=COUNT).map(|id| RowKey::new(b'j', id, 0)).collect();
    for fault_at in [0, 1, 2, 3, 100] {
        let disk = MemDisk::new();
        let journal = with_rows(&disk, Executor::Inline, COUNT + 10, 20);
        disk.fail_after(Fault::Apply, fault_at);
        let checkpoint = Checkpoint { through: Seq(1), removes: removes.clone(), ..Default::default() };
        let done = journal.checkpoint_blocking(checkpoint);
        disk.crash(fault_at);
        let opened = open_mem(&disk).expect("open");
        let left = opened.report.rows;
        assert!(left == 10 || (left == COUNT + 10 && done.is_err()), "{left} are left after {done:?}");
    }
}

#[test]
fn many_removes_on_sled() {
    let dir = tempfile::tempdir().expect("tempdir");
    let open = || Journal::<Text>::open_into(dir.path(), Options::default(), Seen::default()).expect("open");
    let journal = open().journal;
    journal.append_all_blocking(vec![Text::new("one")]).expect("append");
    let key = |id| RowKey::new(b'j', id, 0);
    let puts = (1..=20_010).map(|id| (key(id), Text::numbered(id, 100).0)).collect();
    let export = Some(vec![b'j']);
    journal
        .checkpoint_blocking(Checkpoint {
            through: Seq(1),
            puts,
            export: export.clone(),
            ..Default::default()
        })
        .expect("puts");
    let removes = (1..=20_000).map(key).collect();
    journal
        .checkpoint_blocking(Checkpoint { through: Seq(1), removes, export, ..Default::default() })
        .expect("removes");
    let left = journal.rows_blocking(RowQuery::all(b'j')).expect("rows");
    assert_eq!(ids(&left), (20_001..=20_010).collect::<Vec<_>>());
    journal.close_blocking().expect("close");
    assert_eq!(open().rows.0.len(), 10);
    let report = verify(dir.path()).expect("verify");
    let counts: Vec<_> = report.exports.iter().map(|(_, rows)| *rows.as_ref().expect("sound")).collect();
    assert_eq!((report.rows, counts), (10, vec![20_010, 10]));
    let export = read_export(&report.exports[1].0).expect("read");
    let exported: Vec<_> = export.rows.into_iter().collect();
    let expected: Vec<_> = left.into_iter().map(|row| (row.key, row.value)).collect();
    assert_eq!(exported, expected);
}

/// Reads go on during a checkpoint, and appends during both.
#[test]
fn reads_and_appends_at_once() {
    let dir = tempfile::tempdir().expect("tempdir");
    let journal: Journal<Text> = Journal::open(dir.path(), Options::default()).expect("open").journal;
    journal.append_all_blocking(vec![Text::new("one")]).expect("append");
    let puts: Vec<_> = (1..=4000).map(|id| (RowKey::new(b'j', id, 0), Text::numbered(id, 200).0)).collect();
    let put = Checkpoint { through: Seq(1), puts, export: Some(vec![b'j']), ..Default::default() };
    journal.checkpoint_blocking(put.clone()).expect("checkpoint");
    std::thread::scope(|scope| {
        let (writer, checkpointer) = (journal.clone(), journal.clone());
        scope.spawn(move || {
            for n in 0..300 {
                writer.append_all_blocking(vec![Text::numbered(n, 20)]).expect("append");
            }
        });
        scope.spawn(move || {
            for _ in 0..5 {
                checkpointer.checkpoint_blocking(put.clone()).expect("checkpoint");
            }
        });
        for _ in 0..20 {
            let rows = journal.rows_blocking(RowQuery::all(b'j')).expect("rows");
            assert_eq!(ids(&rows), (1..=4000).collect::<Vec<_>>());
        }
    });
    journal.close_blocking().expect("close");
    let opened: Opened<Text> = Journal::open(dir.path(), Options::default()).expect("open");
    assert_eq!((opened.report.rows, opened.tail.len()), (4000, 300));
}

/// A sink that keeps what it is told, and is no `Vec`.
#[derive(Debug, Default)]
struct Seen(Vec<Row>);

impl RowSink for Seen {
    fn row(&mut self, row: Row) {
        self.0.push(row);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Checkpoint { puts: Vec<(RowKey, Vec<u8>)>, removes: Vec<RowKey>, export: bool },
    Fail(Fault, u64),
    Crash(u64),
    Rows(RowQuery),
    Get(Vec<RowKey>),
}

fn key() -> impl Strategy<Value = RowKey> {
    let table = prop_oneof![Just(b'a'), Just(b'j'), Just(b'x'), Just(0_u8), Just(0xff_u8)];
    (table, 0_u64..40, 0_u32..2, any::<bool>()).prop_map(|(table, id, sub, named)| {
        // Some ids with every byte set, so that neighbours differ in length and in their first bytes.
        let id = if id > 35 { u64::MAX - id } else { id };
        if named {
            RowKey::named(table, &id.to_be_bytes()[..8 - sub as usize])
        } else {
            RowKey::new(table, id, sub)
        }
    })
}

fn step() -> impl Strategy<Value = Step> {
    let fault =
        prop_oneof![Just(Fault::Apply), Just(Fault::Flush), Just(Fault::Witness), Just(Fault::Export)];
    let value = prop::collection::vec(any::<u8>(), 0..60);
    let query = (key(), prop::option::of(key()), prop::option::of(key()), any::<bool>(), 0_usize..12);
    prop_oneof![
        6 => (prop::collection::vec((key(), value), 0..60), prop::collection::vec(key(), 0..20), any::<bool>())
            .prop_map(|(puts, removes, export)| Step::Checkpoint { puts, removes, export }),
        2 => (fault, 0_u64..8).prop_map(|(fault, after)| Step::Fail(fault, after)),
        3 => any::<u64>().prop_map(Step::Crash),
        8 => query.prop_map(|(key, from, to, back, limit)| Step::Rows(RowQuery {
            table: key.table(),
            from,
            to,
            order: if back { RowOrder::Descending } else { RowOrder::Ascending },
            limit: if limit == 11 { usize::MAX } else { limit },
        })),
        3 => prop::collection::vec(key(), 0..10).prop_map(Step::Get),
    ]
}

/// Where the rows of the model lie.
enum Place {
    Mem(MemDisk),
    Sled(tempfile::TempDir),
}

impl Place {
    fn open<S: RowSink>(&self, sink: S) -> Result<Opened<Text, S>, OpenError> {
        match self {
            Self::Mem(disk) => Journal::open_store_into(disk.store(), Executor::Inline, sink),
            Self::Sled(dir) => Journal::open_into(dir.path(), Options::default(), sink),
        }
    }

    fn exports(&self) -> Vec<Vec<(RowKey, Vec<u8>)>> {
        let read = |path: &Path| read_export(path).expect("export").rows;
        match self {
            Self::Mem(disk) => {
                let dir = tempfile::tempdir().expect("tempdir");
                let path = dir.path().join("export");
                let written = |image: &Vec<u8>| {
                    std::fs::write(&path, image).expect("write");
                    read(&path)
                };
                disk.exports().values().map(written).collect()
            }
            Self::Sled(dir) => {
                let entries = std::fs::read_dir(dir.path()).expect("list");
                let mut paths: Vec<_> = entries.map(|entry| entry.expect("entry").path()).collect();
                paths.retain(|path| {
                    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("export-"))
                });
                paths.sort();
                paths.iter().map(|path| read(path)).collect()
            }
        }
    }
}

type Rows = BTreeMap<(u8, RowKey), Vec<u8>>;

fn at(key: &RowKey) -> (u8, RowKey) {
    (key.table(), key.clone())
}

/// What the store must hold: certain once a checkpoint has returned, open for the keys of one that failed.
struct Model {
    place: Place,
    journal: Option<Journal<Text>>,
    rows: Rows,
    /// What a checkpoint that failed would have made of `rows`, which is what was before it: by its puts, and by
    /// all of it.
    unsure: Option<[Rows; 2]>,
}

impl Model {
    fn new(place: Place) -> Self {
        let mut model = Self { place, journal: None, rows: Rows::new(), unsure: None };
        model.reopen();
        model
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Checkpoint { puts, removes, export } => self.checkpoint(puts, removes, export),
            Step::Fail(fault, after) => {
                if let Place::Mem(disk) = &self.place {
                    disk.fail_after(fault, after);
                }
            }
            Step::Crash(seed) => {
                self.journal = None;
                if let Place::Mem(disk) = &self.place {
                    disk.crash(seed);
                }
                self.reopen();
            }
            Step::Rows(query) => self.read(query),
            Step::Get(keys) => self.get(&keys),
        }
    }

    fn checkpoint(&mut self, puts: Vec<(RowKey, Vec<u8>)>, removes: Vec<RowKey>, export: bool) {
        let Some(journal) = &self.journal else { return };
        let was_poisoned = journal.is_poisoned();
        let mut put = self.rows.clone();
        put.extend(puts.iter().map(|(key, value)| (at(key), value.clone())));
        let mut after = put.clone();
        for key in &removes {
            after.remove(&at(key));
        }
        let export = export.then(|| vec![0xff, b'j', 0]);
        let exports_before = self.place.exports().len();
        let done = journal.checkpoint_blocking(Checkpoint {
            through: Seq(0),
            puts,
            removes,
            export: export.clone(),
        });
        match done {
            Ok(()) => {
                self.rows = after;
                if let Some(tables) = export {
                    let in_table = |table| {
                        let rows = self.rows.iter().filter(move |((of, _), _)| *of == table);
                        rows.map(|((_, key), value)| (key.clone(), value.clone()))
                    };
                    let expected: Vec<_> = tables.into_iter().flat_map(in_table).collect();
                    assert_eq!(self.place.exports().pop(), Some(expected));
                }
            }
            Err(CheckpointError::Export { .. }) => {
                assert!(!journal.is_poisoned());
                assert_eq!(self.place.exports().len(), exports_before);
                self.rows = after;
            }
            Err(_) => {
                assert!(journal.is_poisoned());
                if !was_poisoned {
                    self.unsure = Some([put, after]);
                }
            }
        }
    }

    fn read(&self, query: RowQuery) {
        let Some(journal) = self.journal.as_ref().filter(|journal| !journal.is_poisoned()) else { return };
        let is_in = |(table, key): &(u8, RowKey)| {
            *table == query.table
                && query.from.as_ref().is_none_or(|from| at(from) <= (*table, key.clone()))
                && query.to.as_ref().is_none_or(|to| at(to) >= (*table, key.clone()))
        };
        let mut expected: Vec<_> = self.rows.iter().filter(|(key, _)| is_in(key)).collect();
        if query.order == RowOrder::Descending {
            expected.reverse();
        }
        expected.truncate(query.limit);
        let rows = journal.rows_blocking(query).expect("rows");
        let found: Vec<_> = rows.into_iter().map(|row| (at(&row.key), row.value)).collect();
        assert_eq!(found.iter().map(|(key, value)| (key, value)).collect::<Vec<_>>(), expected);
    }

    fn get(&self, keys: &[RowKey]) {
        let Some(journal) = self.journal.as_ref().filter(|journal| !journal.is_poisoned()) else { return };
        let rows = journal.get_blocking(keys.to_vec()).expect("get");
        assert_eq!(rows.len(), keys.len());
        for (key, row) in keys.iter().zip(rows) {
            assert!(row.as_ref().is_none_or(|row| row.key == *key));
            assert_eq!(row.map(|row| row.value), self.rows.get(&at(key)).cloned());
        }
    }

    fn reopen(&mut self) {
        self.journal = None;
        let told = self.place.open(Seen::default()).expect("after a crash it must open");
        let rows = told.rows.0;
        assert!(rows.is_sorted_by(|one, other| at(&one.key) < at(&other.key)), "not in order");
        assert_eq!(told.report.rows, rows.len() as u64);
        drop(told.journal);
        // A second open collects what the first one told.
        let opened = self.place.open(Vec::new()).expect("again");
        assert_eq!(opened.rows, rows);
        self.journal = Some(opened.journal);
        let found: Rows = rows.into_iter().map(|row| (at(&row.key), row.value)).collect();
        match self.unsure.take() {
            None => assert_eq!(found, self.rows),
            Some([put, after]) => {
                for key in found.keys().chain(put.keys()) {
                    let could_be = [&self.rows, &put, &after].map(|rows| rows.get(key));
                    assert!(could_be.contains(&found.get(key)), "{key:?} is none of {could_be:?}");
                }
                self.rows = found;
            }
        }
    }
}

/// Some pairs of a store in one direction, as `visit` gets them.
fn scanned(store: &mut dyn Store, bound: &[u8], back: bool, limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut pairs = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        pairs.push((key.to_vec(), value.to_vec()));
        if pairs.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    if back { store.scan_back(bound, &mut visit) } else { store.scan(bound, &mut visit) }.expect("scan");
    pairs
}

proptest! {
    #![proptest_config(property())]

    /// The store in memory: what was not flushed yet is seen all the same.
    #[test]
    fn unflushed_changes_are_seen(
        batches in prop::collection::vec(
            (prop::collection::vec((prop::collection::vec(0_u8..4, 0..3), any::<Option<u8>>()), 0..6), any::<bool>()),
            1..12),
        bound in prop::collection::vec(0_u8..4, 0..3), limit in 1_usize..20,
    ) {
        let mut store = MemDisk::new().store();
        let mut map = BTreeMap::new();
        for (changes, flush) in batches {
            let mut batch = Batch::default();
            for (key, value) in changes {
                batch.ops.push(match value {
                    Some(byte) => Op::Put(key.clone(), vec![byte]),
                    None => Op::Remove(key.clone()),
                });
                match value {
                    Some(byte) => drop(map.insert(key, vec![byte])),
                    None => drop(map.remove(&key)),
                }
            }
            store.apply(batch).expect("apply");
            if flush {
                store.flush().expect("flush");
            }
            let pairs = |range: (Bound<&Vec<u8>>, Bound<&Vec<u8>>)| {
                map.range::<Vec<u8>, _>(range).map(|(key, value)| (key.clone(), value.clone())).collect::<Vec<_>>()
            };
            let mut on = pairs((Bound::Included(&bound), Bound::Unbounded));
            on.truncate(limit);
            prop_assert_eq!(scanned(&mut *store, &bound, false, limit), on);
            let mut back = pairs((Bound::Unbounded, Bound::Excluded(&bound)));
            back.reverse();
            back.truncate(limit);
            prop_assert_eq!(scanned(&mut *store, &bound, true, limit), back);
            prop_assert_eq!(store.get(&bound).expect("get"), map.get(&bound).cloned());
        }
    }

    #[test]
    fn rows_are_as_a_map_has_them(steps in prop::collection::vec(step(), 1..40)) {
        let mut model = Model::new(Place::Mem(MemDisk::new()));
        for step in steps {
            model.step(step);
        }
        model.step(Step::Crash(1));
    }
}

proptest! {
    // An open of sled is a hundred times as slow.
    #![proptest_config(ProptestConfig { cases: property().cases.div_ceil(20), ..property() })]

    #[test]
    fn rows_on_sled_are_as_a_map_has_them(steps in prop::collection::vec(step(), 1..30)) {
        let mut model = Model::new(Place::Sled(tempfile::tempdir().expect("tempdir")));
        for step in steps {
            model.step(step);
        }
        model.step(Step::Crash(1));
    }
}
