//! The partitions answers are made of.

use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The partitions of each source that answers are made of. Of a source that one process has to itself they are all;
/// of one that is shared, those whose records a view has to hold, whoever works on them.
#[derive(Debug)]
pub struct Roster(ArcSwap<BTreeMap<String, Vec<u32>>>);

impl Roster {
    /// These partitions, by source.
    pub fn new(partitions: BTreeMap<String, Vec<u32>>) -> Self {
        Self(ArcSwap::from_pointee(partitions))
    }

    /// The partitions now, by source; another `Arc` whenever they have changed.
    pub fn current(&self) -> Arc<BTreeMap<String, Vec<u32>>> {
        self.0.load_full()
    }

    /// The partitions of a source now, ascending.
    pub fn of(&self, source: &str) -> Vec<u32> {
        self.0.load().get(source).cloned().unwrap_or_default()
    }

    /// Puts other partitions in the place of a source's. For one writer at a time.
    pub(super) fn replace(&self, source: &str, partitions: Vec<u32>) {
        if self.of(source) != partitions {
            let mut all = BTreeMap::clone(&self.0.load());
            all.insert(source.to_owned(), partitions);
            self.0.store(Arc::new(all));
        }
    }
}
