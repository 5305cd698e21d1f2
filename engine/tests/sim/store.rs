//! The journal's store: the crate's own in memory, with each call a point where a crash or an error can be.

use std::io;
use std::sync::Arc;

use longhaul_journal::{Batch, ExportFile, Store, StoreError, Visit};

use super::fault::Fault;
use super::world::World;

/// Journal writes that fail in one seed at most.
const FAILURES_MAX: u64 = 20;

pub struct SimStore {
    inner: Box<dyn Store>,
    world: Arc<World>,
    life: u64,
}

impl SimStore {
    pub fn new(world: &Arc<World>, life: u64) -> Self {
        Self { inner: world.journal.store(), world: Arc::clone(world), life }
    }

    fn call<T>(
        &mut self,
        name: &str,
        fault: Option<Fault>,
        call: impl FnOnce(&mut dyn Store) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let dead = |_| StoreError::Dead;
        self.world.enter(self.life, format_args!("journal {name}")).map_err(dead)?;
        // A disk that fails all the time lets nothing through; what matters is that it fails anywhere.
        let failed =
            self.world.tally(|tally| tally.count(Fault::JournalApply) + tally.count(Fault::JournalFlush));
        if fault.filter(|_| failed < FAILURES_MAX).is_some_and(|fault| self.world.fires(fault)) {
            if fault != Some(Fault::JournalExport) {
                self.world.poison();
            }
            return Err(StoreError::Io { doing: name.to_owned(), source: io::Error::from_raw_os_error(5) });
        }
        let done = call(&mut *self.inner);
        self.world.leave(self.life).map_err(dead)?;
        done
    }
}

impl Store for SimStore {
    fn apply(&mut self, batch: Batch) -> Result<(), StoreError> {
        self.call("apply", Some(Fault::JournalApply), |store| store.apply(batch))
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.call("flush", Some(Fault::JournalFlush), |store| store.flush())
    }

    fn scan(&mut self, from: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.call("scan", None, |store| store.scan(from, visit))
    }

    fn scan_back(&mut self, below: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.call("scan-back", None, |store| store.scan_back(below, visit))
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.call("get", None, |store| store.get(key))
    }

    fn check(&mut self) -> Result<(), StoreError> {
        self.call("check", None, |store| store.check())
    }

    fn witness_read(&mut self) -> Result<[Vec<u8>; 2], StoreError> {
        self.call("witness-read", None, |store| store.witness_read())
    }

    fn witness_write(&mut self, slot: u8, bytes: &[u8]) -> Result<(), StoreError> {
        self.call("witness-write", None, |store| store.witness_write(slot, bytes))
    }

    fn witness_sync(&mut self) -> Result<(), StoreError> {
        self.call("witness-sync", None, |store| store.witness_sync())
    }

    fn export_begin(&mut self, name: &str) -> Result<Box<dyn ExportFile>, StoreError> {
        let inner = self.call("export-begin", None, |store| store.export_begin(name))?;
        Ok(Box::new(SimExport { inner, world: Arc::clone(&self.world), life: self.life }))
    }
}

/// An export on its way: a crash can be at its last step, which is the only one that shows.
struct SimExport {
    inner: Box<dyn ExportFile>,
    world: Arc<World>,
    life: u64,
}

impl ExportFile for SimExport {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.inner.write(bytes)
    }

    fn publish(self: Box<Self>, head: &[u8]) -> Result<(), StoreError> {
        let dead = |_| StoreError::Dead;
        self.world.enter(self.life, format_args!("journal export")).map_err(dead)?;
        if self.world.fires(Fault::JournalExport) {
            return Err(StoreError::Io {
                doing: "export".to_owned(),
                source: io::Error::from_raw_os_error(5),
            });
        }
        self.inner.publish(head)?;
        self.world.leave(self.life).map_err(dead)
    }
}
