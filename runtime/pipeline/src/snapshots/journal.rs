//! What was decided on snapshots of a source, `manifest/_snapshots/<source>/<every>/<seq>`: which instants, and which
//! events each of them sees. An entry is written before anything is made of it and again when all is made, so that
//! whoever comes after a kill makes the same, and two who decide at once find that there is one decision.

use crate::commit::damaged;
use crate::offline::Every;
use crate::port::ObjectStore;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

const FORMAT: u32 = 1;

/// So many entries are kept: the last one counts.
const KEPT: u64 = 4;

/// A decision, format 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Decision {
    /// 1.
    format: u32,
    /// Its place in the journal, from 1.
    seq: u64,
    /// The instants up to this one were decided on before, µs; `None`: none were.
    pub(super) after_us: Option<i64>,
    /// These up to this one are decided on now, µs.
    pub(super) through_us: i64,
    /// Per partition, rising: the events from an offset on are not seen at instants up to one (µs), for they came after
    /// the partition had passed it. The last entry of each is of `through_us`.
    pub(super) cuts: BTreeMap<u32, Vec<(u64, i64)>>,
    /// The digests of the views.
    pub(super) views: Vec<String>,
    /// Whether all of it is made.
    pub(super) made: bool,
}

impl Decision {
    /// A decision on instants after `after_us` up to `through_us`, of which nothing is made.
    pub(super) fn new(
        after_us: Option<i64>,
        through_us: i64,
        cuts: BTreeMap<u32, Vec<(u64, i64)>>,
        views: Vec<String>,
    ) -> Self {
        Self { format: FORMAT, seq: 0, after_us, through_us, cuts, views, made: false }
    }

    /// The same, made.
    pub(super) fn done(self) -> Self {
        Self { made: true, ..self }
    }

    /// Up to which instant everything is made, µs.
    pub(super) fn made_through_us(&self) -> Option<i64> {
        if self.made { Some(self.through_us) } else { self.after_us }
    }

    /// Per partition the offset from which on no instant sees anything.
    pub(super) fn ends(&self) -> BTreeMap<u32, u64> {
        self.cuts.iter().filter_map(|(&partition, cuts)| Some((partition, cuts.last()?.0))).collect()
    }

    /// The last instant that does not see the event at an offset, µs.
    pub(super) fn unseen_us(&self, partition: u32, offset: u64) -> i64 {
        let cuts = self.cuts.get(&partition).map(Vec::as_slice).unwrap_or_default();
        let after = cuts.partition_point(|(from, _)| *from <= offset);
        cuts[..after].last().map_or(i64::MIN, |(_, until_us)| *until_us)
    }
}

/// The decisions of one source.
pub(super) struct Journal {
    store: Arc<dyn ObjectStore>,
    folder: String,
    last: Option<Decision>,
}

impl Journal {
    /// Reads the last decision.
    pub(super) fn open(store: Arc<dyn ObjectStore>, source: &str, every: Every) -> Result<Self> {
        let folder = format!("manifest/_snapshots/{source}/{}", every.name());
        let last = match seqs(store.as_ref(), &folder)?.last() {
            Some(&seq) => Some(read(store.as_ref(), &folder, seq)?),
            None => None,
        };
        Ok(Self { store, folder, last })
    }

    /// The last decision.
    pub(super) fn last(&self) -> Option<&Decision> {
        self.last.as_ref()
    }

    /// Adds an entry; false if somebody else has added another one before, which is the last one then.
    pub(super) fn add(&mut self, mut next: Decision) -> Result<bool> {
        next.seq = self.last.as_ref().map_or(0, |last| last.seq) + 1;
        let path = path(&self.folder, next.seq);
        let bytes = serde_json::to_vec_pretty(&next)
            .map_err(|error| Error::internal(format!("cannot encode a decision on snapshots: {error}")))?;
        let created = self.store.create(&path, &bytes);
        if !matches!(created, Ok(true)) {
            // It may be there all the same, or somebody else has decided the same.
            match self.store.get(&path)? {
                Some(found) if found == bytes => {}
                Some(_) => return self.refresh(),
                None => {
                    created?;
                    return Err(damaged(&path, "it exists and cannot be read"));
                }
            }
        }
        // One who has slept while others went on finds a number free that was used before.
        let seqs = seqs(self.store.as_ref(), &self.folder)?;
        if seqs.last().is_some_and(|&last| last > next.seq) {
            return self.refresh();
        }
        for &seq in seqs.iter().filter(|&&seq| seq + KEPT <= next.seq) {
            self.store.delete(&self::path(&self.folder, seq))?;
        }
        self.last = Some(next);
        Ok(true)
    }

    fn refresh(&mut self) -> Result<bool> {
        if let Some(&seq) = seqs(self.store.as_ref(), &self.folder)?.last() {
            self.last = Some(read(self.store.as_ref(), &self.folder, seq)?);
        }
        Ok(false)
    }
}

fn path(folder: &str, seq: u64) -> String {
    format!("{folder}/{seq:020}")
}

fn seqs(store: &dyn ObjectStore, folder: &str) -> Result<Vec<u64>> {
    let inside = store.list(folder)?;
    let mut seqs: Vec<u64> = inside.iter().filter_map(|(path, _)| path.rsplit('/').next()?.parse().ok()).collect();
    seqs.sort_unstable();
    Ok(seqs)
}

fn read(store: &dyn ObjectStore, folder: &str, seq: u64) -> Result<Decision> {
    let path = path(folder, seq);
    let bytes = store.get(&path)?.ok_or_else(|| damaged(&path, "it is missing"))?;
    let decision: Decision = serde_json::from_slice(&bytes).map_err(|error| damaged(&path, error))?;
    match decision.format {
        FORMAT if decision.seq == seq => Ok(decision),
        FORMAT => Err(damaged(&path, "it is the entry of another place")),
        other => Err(Error::invalid(format!(
            "`{path}` has format {other}, this version of plumb reads {FORMAT}: it was written by another version"
        ))),
    }
}
