//! The durable log of one source: what Kafka would be, in the embedded store.
//!
//! A record's key is its partition and offset, both big-endian, so a partition is one ascending range; its
//! value is the stamp (8 bytes, little-endian) and the bytes. Offsets of a partition have no gaps.

use crate::{keyspace, unavailable};
use fjall::{Database, Keyspace, PersistMode};
use plumb_pipeline::port::EventLog;
use plumb_pipeline::{Error, Result};
use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// The partitions of a log that is created without saying how many.
pub const DEFAULT_PARTITIONS: u32 = 4;

/// The most partitions a log may have.
const MAX_PARTITIONS: u32 = 4096;

/// Memory for records before they go to a sorted file, in bytes.
const MEMTABLE_BYTES: u64 = 64 << 20;

/// A durable log of records in partitions.
pub struct EmbeddedLog {
    db: Database,
    records: Keyspace,
    source: String,
    partitions: u32,
    /// The offset after each partition's last record. Held over an append, so that offsets follow the order of writes.
    ends: Mutex<Vec<u64>>,
    /// How often was appended, for readers that wait.
    appends: Mutex<u64>,
    appended: Condvar,
}

impl std::fmt::Debug for EmbeddedLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedLog")
            .field("source", &self.source)
            .field("partitions", &self.partitions)
            .finish_non_exhaustive()
    }
}

impl EmbeddedLog {
    pub(crate) fn open(db: &Database, source: &str, partitions: Option<u32>) -> Result<Self> {
        let partitions = fix_partitions(db, source, partitions)?;
        let records = keyspace(db, &format!("log-{source}"), MEMTABLE_BYTES)?;
        let ends = (0..partitions).map(|partition| find_end(&records, source, partition)).collect::<Result<_>>()?;
        Ok(Self {
            db: db.clone(),
            records,
            source: source.to_owned(),
            partitions,
            ends: Mutex::new(ends),
            appends: Mutex::new(0),
            appended: Condvar::new(),
        })
    }

    /// The source whose log this is.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Shows `visit` up to `max_records` records of a partition from an offset on: offset, stamp, bytes.
    /// Returns the offset after the last one shown.
    pub fn visit(
        &self,
        partition: u32,
        offset: u64,
        max_records: usize,
        mut visit: impl FnMut(u64, i64, &[u8]),
    ) -> Result<u64> {
        let end = self.end(partition)?;
        if offset > end {
            return Err(Error::invalid(format!(
                "log `{}` partition {partition} ends at offset {end}, asked for {offset}: the log is not the one \
                 that this data belongs to",
                self.source
            )));
        }
        let stop = end.min(offset.saturating_add(max_records as u64));
        let failed = |error| unavailable(format!("read log `{}` partition {partition}", self.source), error);
        let mut expected = offset;
        for entry in self.records.range(record_key(partition, offset)..record_key(partition, stop)) {
            let (key, value) = entry.into_inner().map_err(failed)?;
            let at = key.get(4..12).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
            let Some((stamp, bytes)) = value.split_first_chunk::<8>().filter(|_| at == Some(expected)) else {
                return Err(self.damaged(partition, expected));
            };
            visit(expected, i64::from_le_bytes(*stamp), bytes);
            expected += 1;
        }
        if expected != stop {
            return Err(self.damaged(partition, expected));
        }
        Ok(stop)
    }

    /// How often was appended since the log was opened.
    pub fn appends(&self) -> u64 {
        *lock(&self.appends)
    }

    /// Waits until there was an append after the `seen`-th, at most `timeout`; returns how many there were.
    pub fn wait(&self, seen: u64, timeout: Duration) -> u64 {
        let guard = lock(&self.appends);
        let waited = self.appended.wait_timeout_while(guard, timeout, |appends| *appends == seen);
        match waited {
            Ok((guard, _)) => *guard,
            Err(poisoned) => *poisoned.into_inner().0,
        }
    }

    fn check(&self, partition: u32) -> Result<()> {
        if partition < self.partitions {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "log `{}` has partitions 0 to {}, asked for {partition}",
            self.source,
            self.partitions - 1
        )))
    }

    fn damaged(&self, partition: u32, offset: u64) -> Error {
        Error::internal(format!("log `{}` partition {partition} is damaged at offset {offset}", self.source))
    }
}

impl EventLog for EmbeddedLog {
    fn partitions(&self) -> u32 {
        self.partitions
    }

    fn append(&self, stamp_us: i64, records: &[(u32, Vec<u8>)]) -> Result<BTreeMap<u32, u64>> {
        for (partition, _) in records {
            self.check(*partition)?;
        }
        let mut ends = lock(&self.ends);
        let mut new_ends = ends.clone();
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncAll));
        for (partition, bytes) in records {
            let end = &mut new_ends[*partition as usize];
            let mut value = Vec::with_capacity(8 + bytes.len());
            value.extend_from_slice(&stamp_us.to_le_bytes());
            value.extend_from_slice(bytes);
            batch.insert(&self.records, record_key(*partition, *end), value);
            *end += 1;
        }
        batch.commit().map_err(|error| unavailable(format!("append to log `{}`", self.source), error))?;
        *ends = new_ends;
        let next = records.iter().map(|&(partition, _)| (partition, ends[partition as usize])).collect();
        drop(ends);
        *lock(&self.appends) += 1;
        self.appended.notify_all();
        Ok(next)
    }

    fn read(&self, partition: u32, offset: u64, max_records: usize) -> Result<Vec<(u64, i64, Vec<u8>)>> {
        let mut records = Vec::new();
        self.visit(partition, offset, max_records, |offset, stamp_us, bytes| {
            records.push((offset, stamp_us, bytes.to_vec()));
        })?;
        Ok(records)
    }

    fn end(&self, partition: u32) -> Result<u64> {
        self.check(partition)?;
        Ok(lock(&self.ends)[partition as usize])
    }
}

fn record_key(partition: u32, offset: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&partition.to_be_bytes());
    key[4..].copy_from_slice(&offset.to_be_bytes());
    key
}

/// The offset after a partition's last record, from the records themselves.
fn find_end(records: &Keyspace, source: &str, partition: u32) -> Result<u64> {
    let Some(last) = records.prefix(partition.to_be_bytes()).next_back() else { return Ok(0) };
    let key = last.key().map_err(|error| unavailable(format!("read log `{source}`"), error))?;
    match key.get(4..12).and_then(|bytes| bytes.try_into().ok()) {
        Some(bytes) => Ok(u64::from_be_bytes(bytes) + 1),
        None => Err(Error::internal(format!("log `{source}` partition {partition} holds a key that is no offset"))),
    }
}

/// The number of partitions a log was created with; creates it if it is not there.
fn fix_partitions(db: &Database, source: &str, asked: Option<u32>) -> Result<u32> {
    let meta = keyspace(db, "meta", 1 << 20)?;
    let name = format!("log/{source}/partitions");
    let failed = |error| unavailable(format!("read the partitions of log `{source}`"), error);
    if let Some(stored) = meta.get(&name).map_err(failed)? {
        let stored = stored
            .as_ref()
            .try_into()
            .map(u32::from_le_bytes)
            .map_err(|_| Error::internal(format!("the embedded store holds no number under `{name}`")))?;
        return match asked {
            Some(asked) if asked != stored => Err(Error::invalid(format!(
                "log `{source}` was created with {stored} partitions and keeps them; set that instead of {asked}"
            ))),
            _ => Ok(stored),
        };
    }
    let partitions = asked.unwrap_or(DEFAULT_PARTITIONS);
    if !(1..=MAX_PARTITIONS).contains(&partitions) {
        return Err(Error::invalid(format!(
            "log `{source}`: {partitions} partitions, possible are 1 to {MAX_PARTITIONS}"
        )));
    }
    let mut batch = db.batch().durability(Some(PersistMode::SyncAll));
    batch.insert(&meta, name, partitions.to_le_bytes());
    batch.commit().map_err(failed)?;
    Ok(partitions)
}

/// Poison is ignored: every update of the guarded values is a single assignment after the work that may panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DataDir, Embedded};

    fn record(partition: u32, text: &str) -> (u32, Vec<u8>) {
        (partition, text.as_bytes().to_vec())
    }

    #[test]
    fn records_come_back_in_order_and_survive_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let owned = DataDir::own(dir.path()).unwrap();
        {
            let log = Embedded::open(&owned).unwrap().log("default", Some(2)).unwrap();
            let next = log.append(5, &[record(1, "a"), record(0, "b"), record(1, "c")]).unwrap();
            assert_eq!(next, BTreeMap::from([(0, 1), (1, 2)]));
            assert_eq!(log.append(6, &[record(1, "d")]).unwrap(), BTreeMap::from([(1, 3)]));
        }
        let embedded = Embedded::open(&owned).unwrap();
        let log = embedded.log("default", None).unwrap();
        assert_eq!(log.partitions(), 2);
        assert_eq!(log.read(1, 1, 10).unwrap(), vec![(1, 5, b"c".to_vec()), (2, 6, b"d".to_vec())]);
        assert_eq!(log.read(1, 0, 1).unwrap(), vec![(0, 5, b"a".to_vec())]);
        assert_eq!(log.read(0, 1, 10).unwrap(), vec![]);
        assert_eq!((log.end(0).unwrap(), log.end(1).unwrap()), (1, 3));
        assert!(log.read(0, 2, 10).unwrap_err().to_string().contains("ends at offset 1"));
        assert!(log.append(1, &[record(2, "x")]).unwrap_err().to_string().contains("partitions 0 to 1"));
        let refused = embedded.log("default", Some(3)).unwrap_err().to_string();
        assert!(refused.contains("created with 2 partitions"), "{refused}");
    }

    #[test]
    fn a_waiting_reader_is_woken_by_an_append() {
        let dir = tempfile::tempdir().unwrap();
        let log = Embedded::open(&DataDir::own(dir.path()).unwrap()).unwrap().log("default", None).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| log.wait(0, Duration::from_secs(60)));
            log.append(1, &[record(0, "x")]).unwrap();
            assert_eq!(waiter.join().unwrap(), 1);
        });
        assert_eq!(log.wait(log.appends(), Duration::ZERO), 1);
    }
}
