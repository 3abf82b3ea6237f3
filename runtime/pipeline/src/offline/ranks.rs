//! Ranks among all entities, of more contributions than memory holds: sorted by when each comes and goes, and swept once
//! along the labels' instants.

use super::keys::KeyIndex;
use super::runs::{Merged, Runs};
use super::spill::{BySlice, Record};
use crate::port::ScratchFolder;
use crate::{Error, Result};
use plumb_core::temporal::{NO_KEY, RankHistory, Standings, Turns};
use std::iter::Peekable;

/// A label and its key's rank at its time.
pub(super) type LabelRank = (u32, f64);

impl Record for LabelRank {
    const BYTES: usize = 12;

    fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_le_bytes());
        out.extend_from_slice(&self.1.to_le_bytes());
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        let (label, rank) = bytes.split_first_chunk()?;
        Some((u32::from_le_bytes(*label), f64::from_le_bytes(rank.try_into().ok()?)))
    }
}

/// The contributions to one distribution.
#[derive(Debug)]
pub(super) struct Ranked<'a> {
    /// When each begins to count, and its key.
    comes: Runs<'a, (i64, u32)>,
    /// When each ceases to, where that is not `width_us` later.
    goes: Option<Runs<'a, (i64, u32)>>,
    width_us: i64,
}

impl<'a> Ranked<'a> {
    /// None yet, of the distribution of a history; beyond `limit_bytes` they go to disk.
    pub(super) fn new(of: &RankHistory, keeps_known: bool, folder: &'a dyn ScratchFolder, limit_bytes: usize) -> Self {
        let goes = keeps_known.then(|| Runs::new(folder, limit_bytes / 2));
        let limit_bytes = if keeps_known { limit_bytes / 2 } else { limit_bytes };
        Self { comes: Runs::new(folder, limit_bytes), goes, width_us: of.width_us() }
    }

    /// Takes over what a history holds.
    pub(super) fn take(&self, history: &mut RankHistory) -> Result<()> {
        let Turns { mut comes, goes } = history.take();
        comes.sort_unstable();
        self.comes.add(&comes)?;
        if let (Some(runs), Some(mut goes)) = (&self.goes, goes) {
            goes.sort_unstable();
            runs.add(&goes)?;
        }
        Ok(())
    }

    /// Begins before the first instant, of keys numbered below `keys`.
    pub(super) fn sweep(&self, keys: usize) -> Result<Sweep<'_>> {
        let (goes, delay_us) = match &self.goes {
            Some(goes) => (goes, 0),
            None => (&self.comes, self.width_us),
        };
        Ok(Sweep {
            comes: self.comes.merged()?.peekable(),
            goes: goes.merged()?.peekable(),
            delay_us,
            standings: Standings::new(keys),
        })
    }
}

/// The standings at an instant.
#[derive(Debug)]
pub(super) struct Sweep<'a> {
    comes: Peekable<Merged<'a, (i64, u32)>>,
    goes: Peekable<Merged<'a, (i64, u32)>>,
    /// How much later than it says a contribution goes.
    delay_us: i64,
    standings: Standings,
}

impl Sweep<'_> {
    /// The rank of a key at an instant that is none before the last one asked for.
    pub(super) fn rank(&mut self, key: u32, as_of_us: i64) -> Result<f64> {
        // What came and went since then comes first, so that it can go.
        let is_due = |next: &Result<(i64, u32)>, delay_us: i64| match next {
            Ok((time_us, _)) => time_us.saturating_add(delay_us) <= as_of_us,
            Err(_) => true,
        };
        while let Some(next) = self.comes.next_if(|next| is_due(next, 0)) {
            self.standings.add(next?.1);
        }
        while let Some(next) = self.goes.next_if(|next| is_due(next, self.delay_us)) {
            self.standings.remove(next?.1);
        }
        Ok(self.standings.rank(key))
    }
}

/// Labels by time: instant, key and label.
pub(super) type ByTime<'a> = Runs<'a, (i64, u32, u32)>;

/// Collects labels in the order of their rows.
#[derive(Debug)]
pub(super) struct InTime<'a> {
    runs: ByTime<'a>,
    buffer: Vec<(i64, u32, u32)>,
    buffer_rows: usize,
}

impl<'a> InTime<'a> {
    /// None yet.
    pub(super) fn new(folder: &'a dyn ScratchFolder, limit_bytes: usize, buffer_rows: usize) -> Self {
        Self { runs: Runs::new(folder, limit_bytes), buffer: Vec::new(), buffer_rows }
    }

    pub(super) fn push(&mut self, as_of_us: i64, key: u32, label: u32) -> Result<()> {
        if key != NO_KEY {
            self.buffer.push((as_of_us, key, label));
        }
        if self.buffer.len() < self.buffer_rows { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<()> {
        self.buffer.sort_unstable();
        self.runs.add(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// All labels, rising in time.
    pub(super) fn finish(mut self) -> Result<ByTime<'a>> {
        self.flush()?;
        Ok(self.runs)
    }
}

/// The ranks of all labels in one distribution, by slice of keys.
pub(super) fn rank_labels<'a>(
    ranked: &Ranked<'_>,
    labels: &ByTime<'_>,
    index: &KeyIndex,
    mut ranks: BySlice<'a, LabelRank>,
) -> Result<BySlice<'a, LabelRank>> {
    let mut sweep = ranked.sweep(index.len())?;
    for label in labels.merged()? {
        let (as_of_us, key, label) = label?;
        let rank = sweep.rank(key, as_of_us)?;
        ranks.push(key, (label, rank))?;
    }
    Ok(ranks)
}

/// The ranks of a slice's labels, rising by label; one for each of `labels`.
pub(super) fn of_slice(ranks: &BySlice<'_, LabelRank>, slice: usize, labels: usize) -> Result<Vec<f64>> {
    let mut all = ranks.of_slice(slice)?;
    all.sort_unstable_by_key(|&(label, _)| label);
    if all.len() != labels {
        return Err(Error::internal(format!("{labels} labels have {} ranks", all.len())));
    }
    Ok(all.into_iter().map(|(_, rank)| rank).collect())
}
