//! Which instants see which keys' events first, for the labels that a backfill generates: sorted, and on disk where they
//! are many.

use super::backfill::Every;
use super::bounded::Limits;
use super::prints::Grain;
use super::runs::{Merged, Runs};
use crate::Result;
use crate::port::ScratchFolder;
use plumb_core::temporal::NO_KEY;

/// How many keys' latest instants are remembered while a batch is noted.
const LATEST: usize = 2048;

/// An instant and a key with an event between the instant before and it.
pub(super) type Active = (i64, u32);

/// What is active, per distinct entity key.
#[derive(Debug)]
pub(super) struct Activity<'a> {
    every: Every,
    /// What a worker holds of an entity before it is sorted.
    buffer_rows: usize,
    of: Vec<Runs<'a, Active>>,
}

impl<'a> Activity<'a> {
    /// None yet, of so many entities.
    pub(super) fn new(every: Every, entities: usize, folder: &'a dyn ScratchFolder, limits: &Limits) -> Self {
        let of = (0..entities).map(|_| Runs::new(folder, limits.run_bytes / entities)).collect();
        Self { every, buffer_rows: limits.sort_bytes / size_of::<Active>(), of }
    }

    /// Whether instants lie within dates.
    pub(super) fn grain(&self) -> Grain {
        self.every.grain()
    }

    /// Takes note of events of an entity: their keys ([`NO_KEY`]: none that counts) and times. `buffer` is the worker's.
    pub(super) fn note(&self, entity: usize, keys: &[u32], times_us: &[i64], buffer: &mut Vec<Active>) -> Result<()> {
        let active = keys.iter().zip(times_us).filter(|&(&key, _)| key != NO_KEY);
        let active = active.map(|(&key, &time_us)| (self.every.next_us(time_us), key));
        if self.every == Every::Event {
            buffer.extend(active);
        } else {
            // Most events of a key come soon after one that counts for the same instant: noted once, they need no sorting.
            let mut latest = [(i64::MIN, NO_KEY); LATEST];
            buffer.extend(active.filter(|&active| {
                let latest = &mut latest[active.1 as usize % LATEST];
                std::mem::replace(latest, active) != active
            }));
        }
        if buffer.len() < self.buffer_rows { Ok(()) } else { self.flush(entity, buffer) }
    }

    /// Sorts what a worker holds, and keeps it.
    pub(super) fn flush(&self, entity: usize, buffer: &mut Vec<Active>) -> Result<()> {
        buffer.sort_unstable();
        // One row for each event, else one for each instant and key.
        if self.every != Every::Event {
            buffer.dedup();
        }
        self.of[entity].add(buffer)?;
        buffer.clear();
        Ok(())
    }

    /// All of an entity, rising; an instant and key may come several times.
    pub(super) fn of(&self, entity: usize) -> Result<Merged<'_, Active>> {
        self.of[entity].merged()
    }
}
