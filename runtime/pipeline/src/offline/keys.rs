//! Dense numbers for entity keys: asked keys first, then, where all entities count, the others as met.

use crate::{Error, Result};
use hashbrown::HashTable;
use plumb_core::column::Column;
use plumb_core::entity::key_of_row;
use plumb_core::temporal::NO_KEY;
use std::sync::RwLock;
use xxhash_rust::xxh3::xxh3_64;

/// Canonical key bytes and their numbers.
#[derive(Debug, Default)]
pub(super) struct KeyIndex {
    ends: Vec<usize>,
    bytes: Vec<u8>,
    table: HashTable<u32>,
}

impl KeyIndex {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The canonical bytes of a key.
    pub(super) fn get(&self, key: u32) -> &[u8] {
        let key = key as usize;
        let start = if key == 0 { 0 } else { self.ends[key - 1] };
        &self.bytes[start..self.ends[key]]
    }

    /// Each row's number ([`NO_KEY`] for a null); keys not met before get the next ones.
    pub(super) fn number(&mut self, columns: &[&Column], rows: usize) -> Result<Vec<u32>> {
        let mut bytes = Vec::new();
        let mut keys = Vec::with_capacity(rows);
        for row in 0..rows {
            keys.push(if key_of_row(columns, row, &mut bytes) { self.find_or_insert(&bytes)? } else { NO_KEY });
        }
        Ok(keys)
    }

    fn find(&self, bytes: &[u8], hash: u64) -> Option<u32> {
        self.table.find(hash, |&key| self.get(key) == bytes).copied()
    }

    fn find_or_insert(&mut self, bytes: &[u8]) -> Result<u32> {
        let hash = xxh3_64(bytes);
        if let Some(key) = self.find(bytes, hash) {
            return Ok(key);
        }
        let key = u32::try_from(self.ends.len()).ok().filter(|&key| key != NO_KEY);
        let key = key.ok_or_else(|| Error::invalid("more than 2^32 entity keys in one job; split the labels"))?;
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len());
        let (ends, all) = (&self.ends, &self.bytes);
        self.table.insert_unique(hash, key, |&key| {
            let start = if key == 0 { 0 } else { ends[key as usize - 1] };
            xxh3_64(&all[start..ends[key as usize]])
        });
        Ok(key)
    }
}

/// The keys of one entity, shared by the threads that read its events.
#[derive(Debug)]
pub(super) struct SharedKeys {
    index: RwLock<KeyIndex>,
    /// Whether keys met in events get numbers too.
    grows: bool,
    /// How many keys were asked for; their numbers come first.
    asked: usize,
}

impl SharedKeys {
    /// Numbers the keys of labels; returns each row's ([`NO_KEY`] for a null).
    pub(super) fn of_labels(columns: &[&Column], rows: usize, grows: bool) -> Result<(Self, Vec<u32>)> {
        let mut index = KeyIndex::default();
        let keys = index.number(columns, rows)?;
        Ok((Self::of(index, grows), keys))
    }

    /// The keys of all labels, numbered before.
    pub(super) fn of(index: KeyIndex, grows: bool) -> Self {
        let asked = index.len();
        Self { index: RwLock::new(index), grows, asked }
    }

    /// No keys yet; each met in an event is asked for.
    pub(super) fn of_events() -> Self {
        Self { index: RwLock::default(), grows: true, asked: usize::MAX }
    }

    /// Whether a key was asked for.
    pub(super) fn is_asked(&self, key: u32) -> bool {
        (key as usize) < self.asked && key != NO_KEY
    }

    /// Writes the number of each row's key ([`NO_KEY`]: null, or not asked for and not growing).
    pub(super) fn resolve(&self, columns: &[&Column], rows: usize, keys: &mut Vec<u32>) -> Result<()> {
        keys.clear();
        let mut unknown = Vec::new();
        {
            let index = self.index.read().map_err(|_| poisoned())?;
            let mut bytes = Vec::new();
            // Events of one entity often come together: the key before is the first guess.
            let mut last = (Vec::new(), NO_KEY);
            for row in 0..rows {
                if !key_of_row(columns, row, &mut bytes) {
                    keys.push(NO_KEY);
                    continue;
                }
                if last.1 == NO_KEY || last.0 != bytes {
                    let key = index.find(&bytes, xxh3_64(&bytes)).unwrap_or(NO_KEY);
                    if key == NO_KEY && self.grows {
                        unknown.push(row);
                    }
                    std::mem::swap(&mut last.0, &mut bytes);
                    last.1 = key;
                }
                keys.push(last.1);
            }
        }
        if !unknown.is_empty() {
            let mut index = self.index.write().map_err(|_| poisoned())?;
            let mut bytes = Vec::new();
            for row in unknown {
                key_of_row(columns, row, &mut bytes);
                keys[row] = index.find_or_insert(&bytes)?;
            }
        }
        Ok(())
    }

    /// All keys, once nobody resolves any more.
    pub(super) fn into_index(self) -> Result<KeyIndex> {
        self.index.into_inner().map_err(|_| poisoned())
    }
}

fn poisoned() -> Error {
    Error::internal("a worker panicked while it numbered entity keys")
}
