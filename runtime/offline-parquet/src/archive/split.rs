//! Splits a commit's events by date. Rows of a date that stand together are copied as one; rows in no
//! order are dealt out column by column in one pass, since gathering them date by date would miss the cache
//! at every string.

use crate::dates::day_of;
use plumb_core::column::{Bitmap, Column, Strings, Values};
use plumb_core::event::EventBatch;
use plumb_core::time::DAY_US;
use std::ops::Range;

/// Which rows belong to which day; days rise.
pub(super) enum Days {
    /// Each day is one run of rows.
    Runs(Vec<(i64, Range<usize>)>),
    /// The days, and by row which of them it belongs to; after them perhaps `None`: rows of many days together.
    Dealt { days: Vec<Option<i64>>, slots: Vec<u32> },
}

impl Days {
    /// How many rows each has.
    pub(super) fn counts(&self) -> Vec<u64> {
        match self {
            Days::Runs(runs) => runs.iter().map(|(_, run)| run.len() as u64).collect(),
            Days::Dealt { days, slots } => {
                let mut counts = vec![0; days.len()];
                slots.iter().for_each(|&slot| counts[slot as usize] += 1);
                counts
            }
        }
    }

    /// The same with the rows of some days, at least one, together.
    pub(super) fn gathered(self, some: &[bool]) -> Self {
        let (days, mut slots) = match self {
            Days::Runs(runs) => {
                let mut slots = vec![0; runs.iter().map(|(_, run)| run.len()).sum()];
                runs.iter().enumerate().for_each(|(slot, (_, run))| slots[run.clone()].fill(slot as u32));
                (runs.into_iter().map(|(day, _)| Some(day)).collect(), slots)
            }
            Days::Dealt { days, slots } => (days, slots),
        };
        let mut kept = Vec::new();
        let mut moved: Vec<u32> = vec![0; days.len()];
        for (slot, day) in days.into_iter().enumerate().filter(|&(slot, _)| !some[slot]) {
            moved[slot] = kept.len() as u32;
            kept.push(day);
        }
        let together = kept.len() as u32;
        moved.iter_mut().zip(some).filter(|(_, gathers)| **gathers).for_each(|(slot, _)| *slot = together);
        kept.push(None);
        slots.iter_mut().for_each(|slot| *slot = moved[*slot as usize]);
        Days::Dealt { days: kept, slots }
    }

    /// The number of days.
    pub(super) fn len(&self) -> usize {
        match self {
            Days::Runs(runs) => runs.len(),
            Days::Dealt { days, .. } => days.len(),
        }
    }
}

/// Sorts rows, counted over all batches, into days.
pub(super) fn by_day(batches: &[EventBatch]) -> Days {
    let times_us = || batches.iter().flat_map(|batch| &batch.times_us);
    let mut runs: Vec<(i64, Range<usize>)> = Vec::new();
    let mut until = 0..0;
    for (row, &time_us) in times_us().enumerate() {
        match runs.last_mut() {
            Some((_, run)) if until.contains(&time_us) => run.end = row + 1,
            _ => {
                let day = day_of(time_us);
                let midnight = day.saturating_mul(DAY_US);
                until = midnight..midnight.saturating_add(DAY_US);
                runs.push((day, row..row + 1));
            }
        }
    }
    let mut days: Vec<i64> = runs.iter().map(|(day, _)| *day).collect();
    days.sort_unstable();
    days.dedup();
    if days.len() == runs.len() {
        runs.sort_unstable_by_key(|(day, _)| *day);
        return Days::Runs(runs);
    }
    let mut slots = vec![0; batches.iter().map(EventBatch::len).sum()];
    for (day, run) in runs {
        let slot = days.binary_search(&day).expect("the day of a run is among the days");
        slots[run].fill(slot as u32);
    }
    Days::Dealt { days: days.into_iter().map(Some).collect(), slots }
}

/// The events of each day, in their order. Runs are copied from the batches a day at a time: the copy stays
/// small, and its memory serves the next one.
pub(super) fn split(batches: &[EventBatch], days: Days) -> Box<dyn Iterator<Item = (Option<i64>, EventBatch)> + '_> {
    match days {
        Days::Runs(runs) => {
            let starts = starts_of(batches);
            Box::new(runs.into_iter().map(move |(day, run)| (Some(day), slice(batches, &starts, run))))
        }
        Days::Dealt { days, slots } => {
            let rows: usize = batches.iter().map(EventBatch::len).sum();
            let dealt = match batches {
                [events] => deal(events, &slots),
                _ => deal(&slice(batches, &starts_of(batches), 0..rows), &slots),
            };
            Box::new(days.into_iter().zip(dealt))
        }
    }
}

/// The first row of each batch, counted over all.
fn starts_of(batches: &[EventBatch]) -> Vec<usize> {
    let mut next = 0;
    let start = |batch: &EventBatch| {
        next += batch.len();
        next - batch.len()
    };
    batches.iter().map(start).collect()
}

/// Rows that follow each other, counted over all batches; `starts` are the batches' first rows.
fn slice(batches: &[EventBatch], starts: &[usize], rows: Range<usize>) -> EventBatch {
    let first = starts.partition_point(|&start| start <= rows.start) - 1;
    let parts = batches[first..].iter().zip(&starts[first..]).take_while(|&(_, &start)| start < rows.end);
    let parts =
        parts.map(|(batch, &start)| (batch, rows.start.saturating_sub(start)..batch.len().min(rows.end - start)));
    let mut events = EventBatch::new(batches[first].schema.clone());
    events.reserve(parts.clone());
    parts.for_each(|(batch, rows)| events.append_rows(batch, rows));
    events
}

/// The events dealt out by slot; every slot up to the highest has rows.
fn deal(events: &EventBatch, slots: &[u32]) -> Vec<EventBatch> {
    let mut counts: Vec<usize> = Vec::new();
    for &slot in slots {
        if counts.len() <= slot as usize {
            counts.resize(slot as usize + 1, 0);
        }
        counts[slot as usize] += 1;
    }
    let mut offsets = deal_values(&events.offsets, slots, &counts).into_iter();
    let mut record_times_us = deal_values(&events.record_times_us, slots, &counts).into_iter();
    let mut times_us = deal_values(&events.times_us, slots, &counts).into_iter();
    let mut columns: Vec<_> =
        events.columns.iter().map(|column| deal_column(column, slots, &counts).into_iter()).collect();
    counts
        .iter()
        .map(|_| EventBatch {
            schema: events.schema.clone(),
            offsets: offsets.next().unwrap_or_default(),
            record_times_us: record_times_us.next().unwrap_or_default(),
            times_us: times_us.next().unwrap_or_default(),
            columns: columns.iter_mut().filter_map(Iterator::next).collect(),
        })
        .collect()
}

fn deal_column(column: &Column, slots: &[u32], counts: &[usize]) -> Vec<Column> {
    let values: Vec<Values> = match &column.values {
        Values::I64(values) => deal_values(values, slots, counts).into_iter().map(Values::I64).collect(),
        Values::Timestamp(values) => deal_values(values, slots, counts).into_iter().map(Values::Timestamp).collect(),
        Values::F64(values) => deal_values(values, slots, counts).into_iter().map(Values::F64).collect(),
        Values::Bool(values) => deal_values(values, slots, counts).into_iter().map(Values::Bool).collect(),
        Values::Utf8(strings) => deal_strings(strings, slots, counts).into_iter().map(Values::Utf8).collect(),
        Values::Bytes(strings) => deal_strings(strings, slots, counts).into_iter().map(Values::Bytes).collect(),
        Values::List { .. } => {
            let mut dealt = vec![Column::new(&column.data_type()); counts.len()];
            for (row, &slot) in slots.iter().enumerate() {
                dealt[slot as usize].push_from(column, row);
            }
            return dealt;
        }
    };
    let validity: Vec<Option<Bitmap>> = match &column.validity {
        None => vec![None; counts.len()],
        Some(bits) => {
            let mut dealt = vec![Bitmap::new(); counts.len()];
            for (row, &slot) in slots.iter().enumerate() {
                dealt[slot as usize].push(bits.get(row));
            }
            dealt.into_iter().map(Some).collect()
        }
    };
    values.into_iter().zip(validity).map(|(values, validity)| Column { validity, values }).collect()
}

fn deal_values<T: Copy>(values: &[T], slots: &[u32], counts: &[usize]) -> Vec<Vec<T>> {
    let mut dealt: Vec<Vec<T>> = counts.iter().map(|&count| Vec::with_capacity(count)).collect();
    for (&value, &slot) in values.iter().zip(slots) {
        dealt[slot as usize].push(value);
    }
    dealt
}

fn deal_strings(strings: &Strings, slots: &[u32], counts: &[usize]) -> Vec<Strings> {
    let mean_bytes = strings.bytes.len() / slots.len().max(1) + 1;
    let mut dealt: Vec<Strings> = counts
        .iter()
        .map(|&count| {
            let mut offsets = Vec::with_capacity(count + 1);
            offsets.push(0);
            Strings { offsets, bytes: Vec::with_capacity(count * mean_bytes) }
        })
        .collect();
    for (row, &slot) in strings.iter().zip(slots) {
        dealt[slot as usize].push(row);
    }
    dealt
}
