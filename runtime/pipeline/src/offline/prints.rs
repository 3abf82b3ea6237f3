//! What identifies the events that a view's values can depend on, a UTC date at a time, whatever files they are in.

use super::gather::Wanted;
use super::needed_columns;
use plumb_core::column::{Column, Values};
use plumb_core::event::EventBatch;
use plumb_core::time::{DAY_US, floor_to};
use std::collections::BTreeMap;
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_128;

/// The events of a date that carry a view's entity, as far as the view reads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DayPrint {
    /// How many.
    pub(super) events: u64,
    /// The sum of their hashes: no order, and each copy counts.
    pub(super) sum: u128,
    /// Per source partition the offset after the last of them.
    pub(super) next: BTreeMap<u32, u64>,
    /// The oldest and the newest of their times, µs.
    pub(super) times_us: (i64, i64),
}

impl Default for DayPrint {
    fn default() -> Self {
        Self { events: 0, sum: 0, next: BTreeMap::new(), times_us: (i64::MAX, i64::MIN) }
    }
}

impl DayPrint {
    pub(super) fn merge(&mut self, other: &DayPrint) {
        self.events += other.events;
        self.sum = self.sum.wrapping_add(other.sum);
        for (&partition, &offset) in &other.next {
            let next = self.next.entry(partition).or_default();
            *next = (*next).max(offset);
        }
        self.times_us = (self.times_us.0.min(other.times_us.0), self.times_us.1.max(other.times_us.1));
    }
}

/// By the dates' 00:00 UTC in µs; dates without events are absent.
pub(super) type DayPrints = BTreeMap<i64, DayPrint>;

/// Adds the prints of another worker.
pub(super) fn merge(to: &mut DayPrints, from: DayPrints) {
    for (day_us, print) in from {
        to.entry(day_us).or_default().merge(&print);
    }
}

/// The columns of a batch that decide a view's values.
#[derive(Debug)]
pub(super) struct Printer {
    columns: Vec<usize>,
    key: Vec<usize>,
    /// Events at other times than these (µs) are passed over.
    times_us: Range<i64>,
}

impl Printer {
    pub(super) fn new(wanted: &Wanted<'_>, times_us: Range<i64>) -> Self {
        Self { columns: needed_columns([wanted.transform]), key: wanted.transform.key_columns().to_vec(), times_us }
    }

    /// Adds a batch of one partition's events.
    pub(super) fn add(&self, partition: u32, batch: &EventBatch, prints: &mut DayPrints) {
        let (mut bytes, mut day_us, mut print) = (Vec::new(), i64::MIN, DayPrint::default());
        for (row, &time_us) in batch.times_us.iter().enumerate() {
            // Events without the entity are none of the view's.
            let is_keyed = self.key.iter().all(|&column| batch.columns[column].is_valid(row));
            if !is_keyed || !self.times_us.contains(&time_us) {
                continue;
            }
            if time_us < day_us || time_us >= day_us.saturating_add(DAY_US) || print.events == 0 {
                flush(day_us, &mut print, prints);
                day_us = floor_to(time_us, DAY_US);
            }
            bytes.clear();
            bytes.extend_from_slice(&time_us.to_le_bytes());
            for &column in &self.columns {
                put(&batch.columns[column], row, &mut bytes);
            }
            print.events += 1;
            print.sum = print.sum.wrapping_add(xxh3_128(&bytes));
            print.times_us = (print.times_us.0.min(time_us), print.times_us.1.max(time_us));
            let next = print.next.entry(partition).or_default();
            *next = (*next).max(batch.offsets[row].saturating_add(1));
        }
        flush(day_us, &mut print, prints);
    }
}

fn flush(day_us: i64, print: &mut DayPrint, prints: &mut DayPrints) {
    if print.events > 0 {
        prints.entry(day_us).or_default().merge(&std::mem::take(print));
    }
}

/// Writes a value so that different rows of the same columns are different bytes. Kept in manifests: another form would
/// make every date look changed.
fn put(column: &Column, row: usize, bytes: &mut Vec<u8>) {
    let is_valid = column.is_valid(row);
    bytes.push(u8::from(is_valid));
    if !is_valid {
        return;
    }
    match &column.values {
        Values::I64(values) | Values::Timestamp(values) => bytes.extend_from_slice(&values[row].to_le_bytes()),
        Values::F64(values) => bytes.extend_from_slice(&values[row].to_bits().to_le_bytes()),
        Values::Bool(values) => bytes.push(values[row]),
        Values::Utf8(values) | Values::Bytes(values) => {
            let value = values.get(row);
            bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
            bytes.extend_from_slice(value);
        }
        // A schema's fields are no lists.
        Values::List { .. } => {}
    }
}
