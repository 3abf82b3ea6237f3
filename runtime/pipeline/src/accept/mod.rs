//! Which events count: decided once per source partition, at ingest, from the record and the log before it.
//!
//! [`Acceptor`] checks required fields and the bounds of the event time, drops repeated ids and keeps the
//! accounting. Every decision is a pure function of the partition's records up to and including this one
//! (a record's own timestamp among them): no clock, no batch boundary, so a replay decides the same.
//! Decoding is [`crate::decode`]'s; whether an event matters to a view is the view's.

mod clock;
mod ids;

pub use clock::RecordClock;
pub(crate) use clock::{keeps, time_us};
pub use ids::{IdEntry, IdSet};

use crate::decode::json::encode;
use crate::decode::time::format_rfc3339;
use crate::port::{Rejected, SourceBatch};
use clock::Tick;
use plumb_core::column::{Column, Values};
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_core::time::{DAY_US, HOUR_US, MINUTE_US, format_duration};
use std::sync::Arc;
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128};

/// The bounds of what is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcceptRules {
    /// The earliest event time, µs; catches seconds read as milliseconds.
    pub min_time_us: i64,
    /// How far an event time may lie ahead of its record's own timestamp, µs.
    pub max_future_us: i64,
    /// An event older than the partition's newest by more than this counts as late, µs. Late events are
    /// applied like any other; this decides a metric only.
    pub allowed_lateness_us: i64,
    /// For how long ids are remembered, µs of the records' own timestamps ([`RecordClock`]); `None` = for good.
    pub dedupe_horizon_us: Option<i64>,
}

impl Default for AcceptRules {
    /// 1990-01-01, 5 minutes, 1 hour, ids for good.
    fn default() -> Self {
        Self {
            min_time_us: 7_305 * DAY_US,
            max_future_us: 5 * MINUTE_US,
            allowed_lateness_us: HOUR_US,
            dedupe_horizon_us: None,
        }
    }
}

impl AcceptRules {
    #[inline]
    fn is_within(&self, time_us: i64, record_time_us: i64) -> bool {
        time_us >= self.min_time_us && time_us <= record_time_us.saturating_add(self.max_future_us)
    }

    /// Checks an event time against the bounds; the error is the reason for the dead letters.
    pub fn check_time(&self, field: &str, time_us: i64, record_time_us: i64) -> Result<(), String> {
        if self.is_within(time_us, record_time_us) {
            return Ok(());
        }
        let time = format_rfc3339(time_us);
        if time_us < self.min_time_us {
            let bound = format_rfc3339(self.min_time_us);
            return Err(format!("field `{field}`: {time} is before min_time {bound}; check the source's time_unit"));
        }
        let bound = format_duration(self.max_future_us);
        let record = format_rfc3339(record_time_us);
        Err(format!("field `{field}`: {time} is more than max_future {bound} ahead of the record's timestamp {record}"))
    }
}

/// The reason of a record that lacks a required field.
pub fn missing_field(name: &str) -> String {
    format!("missing field `{name}`")
}

/// What became of the records of a partition; `read = applied + duplicate + rejected + filtered`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accounting {
    /// Records read from the source.
    pub read: u64,
    /// Events accepted.
    pub applied: u64,
    /// Later copies of an id, dropped.
    pub duplicate: u64,
    /// Records that could not be decoded or were refused.
    pub rejected: u64,
    /// Records left out by a filter of the source.
    pub filtered: u64,
    /// Of `applied`: those older than the partition's newest event by more than the allowed lateness.
    pub late: u64,
    /// Of `duplicate`: those with another payload than the first copy.
    pub dedupe_conflict: u64,
}

impl Accounting {
    /// Whether the classes add up.
    pub fn is_consistent(&self) -> bool {
        self.read == self.applied + self.duplicate + self.rejected + self.filtered
            && self.late <= self.applied
            && self.dedupe_conflict <= self.duplicate
    }
}

impl std::ops::AddAssign for Accounting {
    fn add_assign(&mut self, other: Self) {
        self.read += other.read;
        self.applied += other.applied;
        self.duplicate += other.duplicate;
        self.rejected += other.rejected;
        self.filtered += other.filtered;
        self.late += other.late;
        self.dedupe_conflict += other.dedupe_conflict;
    }
}

/// The outcome of one batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// The accepted events, in source order.
    pub events: EventBatch,
    /// The refused records, by offset: those of the source batch and those refused here.
    pub rejected: Vec<Rejected>,
    /// The offset after the last record of the batch.
    pub next_offset: u64,
}

/// Whether the event in a row of a batch is no later copy.
type IsFirst<'a> = dyn FnMut(&mut Acceptor, &EventBatch, usize) -> bool + 'a;

/// How many ids are looked for together: enough to wait for memory once instead of once each, few enough to stay
/// in the nearest cache.
const IDS_AHEAD: usize = 64;

/// What is forgotten leaves memory after so many parts of the horizon at the latest, so memory holds that much more,
/// and each id is looked at about as often.
const SWEEPS: i64 = 8;

/// Decides what counts in one source partition, and remembers the ids it has seen.
#[derive(Debug)]
pub struct Acceptor {
    rules: AcceptRules,
    required: Vec<usize>,
    ids: IdSet,
    /// Where ids are forgotten.
    clock: RecordClock,
    /// The events of a block of the clock.
    block: u32,
    /// Ids added since the last drain.
    fresh: Vec<[u8; IdEntry::BYTES]>,
    /// Ids that were drained without a time have one now.
    stamped: bool,
    newest_us: Option<i64>,
    accounting: Accounting,
    /// Of the batch at hand, kept for its memory.
    hashes: Hashes,
}

/// The hashes by which the events of a batch are compared: no decision, so another thread may make them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hashes {
    /// xxh3-128 of each event's id; 0 where it has none.
    ids: Vec<u128>,
    /// A hash of each event's other values.
    payloads: Vec<u64>,
}

impl Hashes {
    /// The hashes of an event's id and of its other values.
    pub fn get(&self, row: usize) -> (u128, u64) {
        (self.ids[row], self.payloads[row])
    }

    /// The hashes of a batch.
    pub fn of(events: &EventBatch) -> Self {
        let mut hashes = Self::default();
        hashes.fill(events);
        hashes
    }

    fn fill(&mut self, events: &EventBatch) {
        let id = |row| events.columns[0].str_bytes(row).map_or(0, xxh3_128);
        self.ids.clear();
        self.ids.extend((0..events.len()).map(id));
        hash_payloads(events, &mut self.payloads);
    }
}

impl Acceptor {
    /// An acceptor at the beginning of a partition.
    pub fn new(schema: &Arc<SourceSchema>, rules: AcceptRules) -> Self {
        Self::restore(schema, rules, Accounting::default(), None, None, std::iter::empty())
    }

    /// An acceptor that goes on where another stopped, from what a commit kept of it: its accounting, its
    /// newest event time, its clock and every entry it drained and has not forgotten, in the order of draining.
    pub fn restore(
        schema: &Arc<SourceSchema>,
        rules: AcceptRules,
        accounting: Accounting,
        newest_us: Option<i64>,
        clock: Option<RecordClock>,
        ids: impl IntoIterator<Item = [u8; IdEntry::BYTES]>,
    ) -> Self {
        let required =
            schema.fields.iter().enumerate().filter(|(_, field)| field.required).map(|(index, _)| index + 1).collect();
        let clock = clock.unwrap_or_default();
        let mut set = IdSet::default();
        let ids = ids.into_iter().map(|bytes| IdEntry::from_bytes(&bytes));
        for entry in ids.filter(|entry| keeps(entry.time_s, clock.forgotten_us)) {
            // An id accepted a second time counts from then.
            set.insert(entry, |_| false);
        }
        Self {
            rules,
            required,
            ids: set,
            clock,
            block: clock::BLOCK,
            fresh: Vec::new(),
            stamped: false,
            newest_us,
            accounting,
            hashes: Hashes::default(),
        }
    }

    /// Decides a batch; batches must come in offset order. Nothing is copied when every event is accepted.
    pub fn accept(&mut self, batch: SourceBatch) -> Accepted {
        let mut hashes = std::mem::take(&mut self.hashes);
        hashes.fill(&batch.events);
        let accepted = self.accept_hashed(batch, &hashes);
        self.hashes = hashes;
        accepted
    }

    /// [`Acceptor::accept`] with the hashes of the batch's events made before.
    pub fn accept_hashed(&mut self, batch: SourceBatch, hashes: &Hashes) -> Accepted {
        self.decide(batch, hashes, &mut |acceptor, events, row| acceptor.is_first(events, hashes, row))
    }

    /// [`Acceptor::accept`] where somebody else knows the later copies of ids: none is remembered here. `copy_of` is
    /// asked about each event that has an id and is not refused, by its place in the batch; it says of a later copy
    /// whether its other values are others than the first's.
    pub fn accept_knowing(
        &mut self,
        batch: SourceBatch,
        copy_of: &mut dyn FnMut(&EventBatch, usize) -> Option<bool>,
    ) -> Accepted {
        self.decide(batch, &Hashes::default(), &mut |acceptor, events, row| {
            let copy = events.columns[0].is_valid(row).then(|| copy_of(events, row)).flatten();
            if let Some(conflict) = copy {
                acceptor.accounting.duplicate += 1;
                acceptor.accounting.dedupe_conflict += u64::from(conflict);
            }
            copy.is_none()
        })
    }

    /// Lets go of all ids that are remembered.
    pub fn forget_ids(&mut self) {
        self.ids = IdSet::default();
    }

    fn decide(&mut self, batch: SourceBatch, hashes: &Hashes, is_first: &mut IsFirst<'_>) -> Accepted {
        let SourceBatch { events, mut rejected, next_offset } = batch;
        self.accounting.read += (events.len() + rejected.len()) as u64;
        self.accounting.rejected += rejected.len() as u64;
        let decoded = rejected.len();
        // The rows accepted so far, listed only from the first one that is not.
        let mut kept: Option<Vec<usize>> = None;
        let may_refuse = !self.refuses_none(&events);
        for row in 0..events.len() {
            if row.is_multiple_of(IDS_AHEAD) && !hashes.ids.is_empty() {
                self.ids.come_near(&hashes.ids[row..events.len().min(row + IDS_AHEAD)]);
            }
            let refusal = if may_refuse { self.refuse(&events, row) } else { None };
            let accepted = match refusal {
                Some(reason) => {
                    self.accounting.rejected += 1;
                    rejected.push(self.reject(&events, row, reason));
                    false
                }
                None => is_first(self, &events, row),
            };
            match (&mut kept, accepted) {
                (Some(rows), true) => rows.push(row),
                (None, false) => kept = Some((0..row).collect()),
                _ => {}
            }
            if accepted {
                self.count_applied(events.times_us[row]);
            }
        }
        if decoded > 0 && decoded < rejected.len() {
            rejected.sort_by_key(|record| record.offset);
        }
        let events = match kept {
            Some(rows) => events.take(rows),
            None => events,
        };
        Accepted { events, rejected, next_offset }
    }

    /// Whether [`refuse`](Self::refuse) has nothing against any event of a batch, which all of them together are asked
    /// sooner than one after the other.
    fn refuses_none(&self, events: &EventBatch) -> bool {
        let times = events.times_us.iter().zip(&events.record_times_us);
        // Without a way out at the first one, so that the compiler may look at several at a time.
        times.fold(true, |all, (&time_us, &record_us)| all & self.rules.is_within(time_us, record_us))
            && self.required.iter().all(|&column| events.columns[column].validity.is_none())
    }

    /// Why a decoded event is refused, if it is.
    fn refuse(&self, events: &EventBatch, row: usize) -> Option<String> {
        let schema = &events.schema;
        if let Some(&column) = self.required.iter().find(|&&column| !events.columns[column].is_valid(row)) {
            return Some(missing_field(&schema.fields[column - 1].name));
        }
        self.rules.check_time(&schema.time_field, events.times_us[row], events.record_times_us[row]).err()
    }

    fn reject(&self, events: &EventBatch, row: usize, reason: String) -> Rejected {
        let mut bytes = Vec::new();
        encode(events, row, &mut bytes);
        Rejected { offset: events.offsets[row], record_time_us: events.record_times_us[row], bytes, reason }
    }

    /// Whether this is the first copy of its id that is remembered; counts it as a duplicate if not. Without an id it
    /// is.
    fn is_first(&mut self, events: &EventBatch, hashes: &Hashes, row: usize) -> bool {
        let record_time_us = events.record_times_us[row];
        let time_s = match self.rules.dedupe_horizon_us {
            Some(horizon_us) => {
                self.tick(record_time_us, horizon_us);
                self.clock.time_s(record_time_us)
            }
            None => 0,
        };
        if !events.columns[0].is_valid(row) {
            return true;
        }
        // Half of the payload's hash is kept.
        let entry = IdEntry { id: hashes.ids[row], payload: hashes.payloads[row] as u32, time_s };
        let (clock, horizon_us) = (&self.clock, self.rules.dedupe_horizon_us);
        let is_copy = |of_s| horizon_us.is_none_or(|horizon_us| clock.remembers(of_s, record_time_us, horizon_us));
        match self.ids.insert(entry, is_copy) {
            None => {
                self.fresh.push(entry.to_bytes());
                true
            }
            Some(first) => {
                self.accounting.duplicate += 1;
                self.accounting.dedupe_conflict += u64::from(first != entry.payload);
                false
            }
        }
    }

    /// Notes the record time of an event that is not refused.
    fn tick(&mut self, record_time_us: i64, horizon_us: i64) {
        match self.clock.note(record_time_us, horizon_us, self.block) {
            Tick::None => {}
            Tick::Block => self.ids.sweep_next(self.clock.forgotten_us, (horizon_us / SWEEPS).max(1)),
            // Those of commits before ids had times, and of records without a timestamp: remembered from now on.
            Tick::First => {
                let time_s = self.clock.time_s(0);
                self.stamped |= self.ids.stamp(time_s);
                for bytes in &mut self.fresh {
                    let entry = IdEntry::from_bytes(bytes);
                    if entry.time_s == 0 {
                        *bytes = IdEntry { time_s, ..entry }.to_bytes();
                    }
                }
            }
        }
    }

    fn count_applied(&mut self, time_us: i64) {
        self.accounting.applied += 1;
        let newest_us = self.newest_us.get_or_insert(time_us);
        self.accounting.late += u64::from(time_us < newest_us.saturating_sub(self.rules.allowed_lateness_us));
        *newest_us = time_us.max(*newest_us);
    }

    /// Makes room for this many more ids at once, where the number is known beforehand.
    pub fn reserve(&mut self, ids: usize) {
        self.ids.reserve(ids);
    }

    /// What became of the records so far.
    pub fn accounting(&self) -> &Accounting {
        &self.accounting
    }

    /// The newest time of an accepted event, µs.
    pub fn newest_us(&self) -> Option<i64> {
        self.newest_us
    }

    /// The clock that says which ids are forgotten; `None` where none ever is.
    pub fn clock(&self) -> Option<RecordClock> {
        self.rules.dedupe_horizon_us.map(|_| self.clock)
    }

    /// The number of ids in memory: those remembered, and for some time those forgotten.
    pub fn remembered(&self) -> usize {
        self.ids.len()
    }

    /// The entries added since the last drain, in log order: what the next commit must keep.
    pub fn drain_ids(&mut self) -> Vec<[u8; IdEntry::BYTES]> {
        std::mem::take(&mut self.fresh)
    }

    /// [`Acceptor::drain_ids`] for a reading that commits nothing.
    pub fn forget_drain(&mut self) {
        self.fresh.clear();
    }

    /// Whether entries drained before have got times since, so that the next commit must keep a snapshot. Asked once.
    pub fn take_stamped(&mut self) -> bool {
        std::mem::take(&mut self.stamped)
    }

    /// Every entry that is not forgotten, sorted: what a snapshot keeps. Drained entries are among them.
    pub fn snapshot_ids(&self) -> Vec<[u8; IdEntry::BYTES]> {
        self.ids.sorted(self.clock.forgotten_us).into_iter().map(IdEntry::to_bytes).collect()
    }
}

/// Writes a 64-bit hash of every event's decoded values, its time included, into `hashes`.
///
/// Kept in commits, so it may never change for the same values: a chain of xxh3-64 over the columns in
/// schema order, seeded with what came before. It decides a metric only (`dedupe_conflict`).
fn hash_payloads(events: &EventBatch, hashes: &mut Vec<u64>) {
    hashes.clear();
    hashes.extend(events.times_us.iter().map(|&time_us| mix(0, time_us as u64)));
    // The id is equal wherever two payloads are compared.
    for column in &events.columns[1..] {
        hash_column(column, hashes);
    }
}

fn hash_column(column: &Column, hashes: &mut [u64]) {
    let present = |row: usize| column.is_valid(row);
    let rows = hashes.iter_mut().enumerate();
    match &column.values {
        Values::I64(v) | Values::Timestamp(v) => {
            rows.for_each(|(row, hash)| *hash = if present(row) { mix(*hash, v[row] as u64) } else { absent(*hash) });
        }
        Values::F64(v) => {
            rows.for_each(|(row, hash)| {
                *hash = if present(row) { mix(*hash, v[row].to_bits()) } else { absent(*hash) }
            });
        }
        Values::Bool(v) => {
            rows.for_each(|(row, hash)| {
                *hash = if present(row) { mix(*hash, u64::from(v[row])) } else { absent(*hash) }
            });
        }
        Values::Utf8(v) | Values::Bytes(v) => rows.for_each(|(row, hash)| {
            *hash = if present(row) { xxh3_64_with_seed(v.get(row), *hash) } else { absent(*hash) };
        }),
        // A schema's fields are no lists.
        Values::List { .. } => {}
    }
}

/// One step of the chain for a number: the halves of a 128-bit product, folded.
fn mix(hash: u64, value: u64) -> u64 {
    let product = u128::from(hash ^ 0x9e37_79b9_7f4a_7c15) * u128::from(value ^ 0xd6e8_feb8_6659_fd93);
    (product as u64) ^ ((product >> 64) as u64)
}

/// One step of the chain for a null.
fn absent(hash: u64) -> u64 {
    hash.rotate_left(23).wrapping_mul(0xff51_afd7_ed55_8ccd) ^ 0xc4ce_b9fe_1a85_ec53
}

#[cfg(test)]
mod tests;
