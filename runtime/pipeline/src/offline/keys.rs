//! Dense numbers for entity keys: asked keys first, then, where all entities count, the others as met.

use crate::{Error, Result};
use plumb_core::column::Column;
use plumb_core::dictionary::Dictionary;
use plumb_core::entity::key_of;
use plumb_core::temporal::NO_KEY;
use std::sync::RwLock;

/// Canonical key bytes and their numbers.
#[derive(Debug, Default)]
pub(super) struct KeyIndex(Dictionary);

impl KeyIndex {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The canonical bytes of a key.
    pub(super) fn get(&self, key: u32) -> &[u8] {
        self.0.get(key)
    }

    /// Each row's number ([`NO_KEY`] for a null); keys not met before get the next ones.
    pub(super) fn number(&mut self, columns: &[&Column], rows: usize) -> Result<Vec<u32>> {
        let mut bytes = Vec::new();
        let mut keys = Vec::with_capacity(rows);
        for row in 0..rows {
            keys.push(key_of(columns, row, &mut bytes).map_or(Ok(NO_KEY), |key| self.find_or_insert(key))?);
        }
        Ok(keys)
    }

    fn find_or_insert(&mut self, bytes: &[u8]) -> Result<u32> {
        if self.len() < NO_KEY as usize {
            return Ok(self.0.code(bytes));
        }
        self.0.find(bytes).ok_or_else(|| Error::invalid("more than 2^32 entity keys in one job; split the labels"))
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
            keys.extend((0..rows).map(|row| {
                let Some(key) = key_of(columns, row, &mut bytes) else { return NO_KEY };
                index.0.find(key).unwrap_or_else(|| {
                    if self.grows {
                        unknown.push(row);
                    }
                    NO_KEY
                })
            }));
        }
        if !unknown.is_empty() {
            let mut index = self.index.write().map_err(|_| poisoned())?;
            let mut bytes = Vec::new();
            for row in unknown {
                if let Some(key) = key_of(columns, row, &mut bytes) {
                    keys[row] = index.find_or_insert(key)?;
                }
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
