//! The model: random appends, checkpoints, faults and crashes against a plain `Vec`.
//!
//! The law: acknowledged ⊆ recovered ⊆ attempted, and what is recovered is a prefix.

use longhaul_journal::mem::{Fault, MemDisk};
use longhaul_journal::{Journal, RowKey};
use proptest::prelude::*;

use crate::common::{Text, everything, open_mem, property, rows_through};

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<usize>),
    Checkpoint(u8),
    Fail(Fault, u64),
    Crash(u64),
    Kill(u64),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let fault = prop_oneof![Just(Fault::Apply), Just(Fault::Flush), Just(Fault::Witness), Just(Fault::Any),];
    prop_oneof![
        8 => prop::collection::vec(prop_oneof![8 => 8_usize..200, 1 => 4000_usize..8100], 1..12)
            .prop_map(Step::Append),
        2 => any::<u8>().prop_map(Step::Checkpoint),
        2 => (fault, 0_u64..12).prop_map(|(fault, after)| Step::Fail(fault, after)),
        2 => any::<u64>().prop_map(Step::Crash),
        1 => any::<u64>().prop_map(Step::Kill),
        1 => Just(Step::Reopen),
    ]
}

/// The plain `Vec`, and how much of it was acknowledged.
struct Model {
    disk: MemDisk,
    journal: Option<Journal<Text>>,
    attempted: Vec<Vec<u8>>,
    acknowledged: usize,
    checkpointed: u64,
    written: u64,
}

impl Model {
    fn new() -> Self {
        let disk = MemDisk::new();
        let mut model =
            Self { disk, journal: None, attempted: vec![], acknowledged: 0, checkpointed: 0, written: 0 };
        model.reopen();
        model
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Append(lens) => self.append(&lens),
            Step::Checkpoint(share) => self.checkpoint(share),
            Step::Fail(fault, after) => self.disk.fail_after(fault, after),
            Step::Crash(seed) => {
                self.disk.crash(seed);
                self.reopen();
            }
            Step::Kill(seed) => {
                self.disk.kill(seed);
                self.reopen();
            }
            Step::Reopen => {
                drop(self.journal.take());
                self.disk.crash(0);
                self.reopen();
            }
        }
    }

    fn append(&mut self, lens: &[usize]) {
        let Some(journal) = &self.journal else { return };
        // After a failed call nobody knows what was written: the next answers must all be errors.
        let was_poisoned = journal.is_poisoned();
        let values: Vec<Text> = lens
            .iter()
            .map(|len| {
                self.written += 1;
                Text::numbered(self.written, *len)
            })
            .collect();
        if !was_poisoned {
            self.attempted.extend(values.iter().map(|value| value.0.clone()));
        }
        match journal.append_all_blocking(values) {
            Ok(committed) => {
                assert!(!was_poisoned, "acknowledged after a failure");
                for committed in committed {
                    self.acknowledged += 1;
                    assert_eq!(committed.seq().0, self.acknowledged as u64);
                    assert_eq!(committed.value().0, self.attempted[self.acknowledged - 1]);
                }
                assert_eq!(self.acknowledged, self.attempted.len());
            }
            Err(_) => assert!(journal.is_poisoned()),
        }
    }

    fn checkpoint(&mut self, share: u8) {
        let Some(journal) = &self.journal else { return };
        let span = self.acknowledged as u64 - self.checkpointed;
        let through = self.checkpointed + span * u64::from(share) / 255;
        let checkpoint = rows_through(&self.attempted, self.checkpointed, through);
        if journal.checkpoint_blocking(checkpoint).is_ok() {
            self.checkpointed = through;
        }
    }

    fn reopen(&mut self) {
        self.journal = None;
        let opened = match open_mem(&self.disk) {
            Ok(opened) => opened,
            Err(error) => panic!("after a crash it must open: {error}"),
        };
        assert!(opened.report.checkpoint.0 >= self.checkpointed, "a finished checkpoint is gone");
        self.checkpointed = opened.report.checkpoint.0;
        let all = everything(&opened);
        assert!(all.len() >= self.acknowledged, "acknowledged records are lost");
        assert!(all.len() <= self.attempted.len(), "records out of nothing");
        for (index, (seq, value)) in all.iter().enumerate() {
            assert_eq!(*seq, index as u64 + 1, "a hole");
            assert_eq!(*value, self.attempted[index], "another record");
        }
        // A row of an unfinished checkpoint says which records it reflects.
        for row in &opened.rows {
            let RowKey::Number { id, .. } = row.key else { panic!("no names here") };
            assert!(row.seq.0 >= id);
        }
        self.attempted.truncate(all.len());
        self.acknowledged = all.len();
        self.journal = Some(opened.journal);
    }
}

proptest! {
    #![proptest_config(property())]

    #[test]
    fn what_was_acknowledged_is_recovered(steps in prop::collection::vec(step(), 1..60)) {
        let mut model = Model::new();
        for step in steps {
            model.step(step);
        }
        model.disk.crash(1);
        model.reopen();
    }

    /// The disk as it was at some instant, put back later: never opened if anything acknowledged is missing.
    #[test]
    fn an_old_copy_is_refused(
        before in 0_usize..40, after in 1_usize..40, checkpoint in any::<bool>(), seed in any::<u64>(),
    ) {
        let disk = MemDisk::new();
        let opened = open_mem(&disk).expect("a new journal");
        for n in 0..before {
            opened.journal.append_all_blocking(vec![Text::numbered(n as u64, 20)]).expect("append");
        }
        let old = disk.copy();
        for n in 0..after {
            opened.journal.append_all_blocking(vec![Text::numbered(n as u64, 30)]).expect("append");
        }
        if checkpoint {
            let through = longhaul_journal::Seq((before + after) as u64);
            let all = longhaul_journal::Checkpoint { through, ..Default::default() };
            opened.journal.checkpoint_blocking(all).expect("checkpoint");
        }
        opened.journal.close_blocking().expect("close");
        // The database is the old one, the witness is not.
        disk.map(|new| old.map(|old| new.clone_from(old)));
        disk.crash(seed);
        let refused = open_mem(&disk);
        prop_assert!(matches!(refused, Err(longhaul_journal::OpenError::LostTail { .. })), "{refused:?}");
    }
}

/// One fault at every call of a fixed run, then a power cut: nothing acknowledged is lost, nothing is acknowledged after.
#[test]
fn a_fault_at_every_call() {
    for fault in [Fault::Any, Fault::Apply, Fault::Flush, Fault::Witness] {
        for after in 0..200 {
            for seed in 0..4 {
                let mut model = Model::new();
                model.disk.fail_after(fault, after);
                for round in 0..6 {
                    model.append(&[20, 30, 5000, 6000]);
                    model.append(&[12]);
                    model.checkpoint(if round % 2 == 0 { 255 } else { 100 });
                }
                let was_hit = model.journal.as_ref().is_some_and(Journal::is_poisoned);
                model.disk.crash(seed);
                model.reopen();
                model.append(&[12]);
                if !was_hit && seed == 3 {
                    break;
                }
            }
        }
    }
}

/// A fault at every call of an open, then a power cut, then an open again.
#[test]
fn an_open_that_is_cut_short() {
    for with_leftovers in [false, true] {
        for after in 0..40 {
            for seed in 0..8 {
                let mut model = Model::new();
                if with_leftovers {
                    model.append(&[20; 30]);
                    // Far enough for the mark, too early for the end of the cut.
                    model.disk.fail_after(Fault::Apply, 2);
                    model.checkpoint(200);
                } else {
                    model.disk = MemDisk::new();
                }
                model.journal = None;
                model.disk.crash(seed);
                model.disk.fail_after(Fault::Any, after);
                let is_open = open_mem(&model.disk).is_ok();
                model.disk.crash(seed ^ after);
                model.reopen();
                model.append(&[12]);
                if is_open && seed == 7 {
                    break;
                }
            }
        }
    }
}
