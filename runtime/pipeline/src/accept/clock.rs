//! How long ids are remembered: a clock of the records' own timestamps.
//!
//! A copy is dropped if its record is stamped at most the horizon later than the first copy's. That alone never
//! lets an id go, so a partition has a clock too: it moves on to the oldest timestamp of each block of
//! [`BLOCK`] events, and ids that it is past by the horizon are forgotten whatever a copy's stamp. The oldest of a
//! block, because producers stamp records: some events of a wrong future, or many of one producer among those of
//! others, move nothing. Both rules read the log alone, so what is remembered is the same after a restart.

use serde::{Deserialize, Serialize};

/// The events of a block: more than one producer sends in a row beside others, few enough that the ids of two blocks
/// take no memory to speak of.
pub(super) const BLOCK: u32 = 1024;

const SECOND_US: i64 = 1_000_000;

/// The latest time told apart: later ones (of the year 2106) count as this, and what has it is never forgotten.
const LATEST_US: i64 = u32::MAX as i64 * SECOND_US;

/// The record times a partition has seen, as far as they decide which ids it remembers; kept in its manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordClock {
    /// The partition's clock, µs; 0 until the first block is complete.
    pub clock_us: i64,
    /// Ids of an earlier time are forgotten, µs. Never falls, also where the horizon was made longer.
    pub forgotten_us: i64,
    /// The oldest record time of the block at hand, µs.
    pub block_oldest_us: i64,
    /// How many events the block at hand has.
    pub block_events: u32,
}

/// What an event has done to the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tick {
    /// Nothing.
    None,
    /// A block is complete.
    Block,
    /// The first block is complete: now there is a clock.
    First,
}

impl RecordClock {
    /// Notes an event of a record of this time.
    pub(super) fn note(&mut self, record_time_us: i64, horizon_us: i64, block: u32) -> Tick {
        // A record without a timestamp has nothing to say.
        if record_time_us <= 0 {
            return Tick::None;
        }
        let oldest = if self.block_events == 0 { i64::MAX } else { self.block_oldest_us };
        self.block_oldest_us = oldest.min(record_time_us.min(LATEST_US));
        self.block_events += 1;
        if self.block_events < block {
            return Tick::None;
        }
        let first = self.clock_us == 0;
        self.clock_us = self.clock_us.max(self.block_oldest_us);
        self.forgotten_us = self.forgotten_us.max(self.clock_us.saturating_sub(horizon_us));
        (self.block_events, self.block_oldest_us) = (0, 0);
        if first { Tick::First } else { Tick::Block }
    }

    /// The time under which the id of an accepted event is remembered: its record's, or the clock's where that is
    /// later (the id of a record that comes with an old stamp is not forgotten at once). In whole seconds, rounded
    /// up; 0 without either.
    pub(super) fn time_s(&self, record_time_us: i64) -> u32 {
        let time_us = record_time_us.max(self.clock_us).clamp(0, LATEST_US);
        // At most LATEST_US in seconds.
        (time_us as u64).div_ceil(SECOND_US as u64) as u32
    }

    /// Whether an id of this time is one that a record of this time is a copy of.
    pub(super) fn remembers(&self, time_s: u32, record_time_us: i64, horizon_us: i64) -> bool {
        let since_us = record_time_us.min(LATEST_US).saturating_sub(horizon_us);
        keeps(time_s, self.forgotten_us.max(since_us))
    }
}

/// Whether an id of this time, in seconds, is not of before `forgotten_us`. One without a time is remembered until it
/// gets one.
pub(crate) fn keeps(time_s: u32, forgotten_us: i64) -> bool {
    time_s == 0 || time_us(time_s) >= forgotten_us
}

/// The time of an id in µs.
pub(crate) fn time_us(time_s: u32) -> i64 {
    i64::from(time_s) * SECOND_US
}
