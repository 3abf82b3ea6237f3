//! Distributions for ranks, kept by the positions they were made from.
//!
//! A distribution is a function of the state below the partitions' positions and of its hop instant, so one that
//! was made at the positions of a read may be used for that read, and no other may.

use plumb_core::global::Distribution;
use plumb_core::plan::StateId;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// The most distributions kept; each holds a number per entity seen in its window.
const KEPT: usize = 64;

/// Which distribution: state, index of the global, hop instant (µs).
pub(super) type RankKey = (StateId, usize, i64);

/// The positions of a source's partitions.
pub(super) type Positions = BTreeMap<u32, Option<u64>>;

/// Distributions by their keys; `None`: the state reaches back too little.
pub(super) type Ranks = BTreeMap<RankKey, Option<Arc<Distribution>>>;

#[derive(Debug)]
struct Entry {
    key: RankKey,
    positions: Arc<Positions>,
    /// `None`: the state reaches back too little.
    distribution: Option<Arc<Distribution>>,
}

/// The distributions made last.
#[derive(Debug, Default)]
pub(super) struct RankCache {
    entries: Mutex<VecDeque<Entry>>,
}

impl RankCache {
    /// The distributions of all `keys` if they are here and were made at the same positions, with these.
    pub(super) fn get(&self, keys: &[RankKey]) -> Option<(Arc<Positions>, Ranks)> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = Ranks::new();
        let mut positions: Option<Arc<Positions>> = None;
        for key in keys {
            let entry = entries.iter().find(|entry| entry.key == *key)?;
            if positions.get_or_insert_with(|| entry.positions.clone()) != &entry.positions {
                return None;
            }
            found.insert(*key, entry.distribution.clone());
        }
        positions.map(|positions| (positions, found))
    }

    /// Keeps a distribution, instead of an older one of the same key.
    pub(super) fn put(&self, key: RankKey, positions: Arc<Positions>, distribution: Option<Arc<Distribution>>) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|entry| entry.key != key);
        if entries.len() == KEPT {
            entries.pop_back();
        }
        entries.push_front(Entry { key, positions, distribution });
    }
}
