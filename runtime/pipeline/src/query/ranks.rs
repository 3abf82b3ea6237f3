//! Distributions for ranks, kept by the positions they were made from.
//!
//! A distribution is a function of the state below the partitions' positions and of its hop instant, so one that
//! was made at the positions of a read may be used for that read. So may one that was made from the very bytes
//! that the read found: at the present instant a publish changes the hop that is not complete yet, which no
//! window holds, and merging the entities of all others anew would be most of what the first answer after it costs.

use crate::port::OnlinePartial;
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
    /// What it was made from.
    partials: Arc<[OnlinePartial]>,
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

    /// The distribution of a key if the last one was made from these partials; it holds at `positions` too then.
    pub(super) fn made_from(
        &self,
        key: RankKey,
        positions: &Arc<Positions>,
        partials: &[OnlinePartial],
    ) -> Option<Option<Arc<Distribution>>> {
        let kept = {
            let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = entries.iter().find(|entry| entry.key == key)?;
            (entry.partials.clone(), entry.distribution.clone())
        };
        if *kept.0 != *partials {
            return None;
        }
        self.keep(Entry { key, positions: positions.clone(), partials: kept.0, distribution: kept.1.clone() });
        Some(kept.1)
    }

    /// Keeps a distribution, instead of an older one of the same key.
    pub(super) fn put(
        &self,
        key: RankKey,
        positions: Arc<Positions>,
        partials: Vec<OnlinePartial>,
        distribution: Option<Arc<Distribution>>,
    ) {
        self.keep(Entry { key, positions, partials: partials.into(), distribution });
    }

    fn keep(&self, entry: Entry) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|kept| kept.key != entry.key);
        if entries.len() == KEPT {
            entries.pop_back();
        }
        entries.push_front(entry);
    }
}
