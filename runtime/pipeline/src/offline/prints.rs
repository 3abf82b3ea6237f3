//! What identifies the events that a view's values can depend on, a UTC date or an hour at a time, whatever files they are
//! in.

use super::gather::Wanted;
use super::needed_columns;
use plumb_core::column::{Bitmap, Column, Values};
use plumb_core::event::EventBatch;
use plumb_core::time::{DAY_US, HOUR_US, floor_to};
use std::collections::BTreeMap;
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_128;

/// The events of a date, or an hour, that carry a view's entity, as far as the view reads them.
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
    /// Adds an event, by its hash.
    fn add(&mut self, time_us: i64, hash: u128) {
        self.events += 1;
        self.sum = self.sum.wrapping_add(hash);
        self.times_us = (self.times_us.0.min(time_us), self.times_us.1.max(time_us));
    }

    /// Takes note of the offset after an event.
    fn reach(&mut self, partition: u32, next: u64) {
        let known = self.next.entry(partition).or_default();
        *known = (*known).max(next);
    }

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

/// Whether instants lie within dates, so that what identifies the events of a part of a date counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grain {
    /// At midnight only.
    Days,
    /// Anywhere.
    Hours,
}

/// What identifies a view's events; dates and hours without any are absent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Prints {
    /// By the dates' 00:00 UTC in µs.
    pub(super) days: BTreeMap<i64, DayPrint>,
    /// By the hours' beginnings in µs, where they are kept.
    hours: BTreeMap<i64, DayPrint>,
    /// Those of no date or hour, because instants after them do not see them: by the hour that they are of, and the last
    /// instant that does not.
    late: BTreeMap<(i64, i64), DayPrint>,
}

impl Prints {
    /// Adds the prints of another worker.
    pub(super) fn merge(&mut self, from: Self) {
        let all = [(&mut self.days, from.days), (&mut self.hours, from.hours)];
        for (to, from) in all {
            from.into_iter().for_each(|(start_us, print)| to.entry(start_us).or_default().merge(&print));
        }
        from.late.into_iter().for_each(|(late, print)| self.late.entry(late).or_default().merge(&print));
    }

    /// Those of the events from the date `first_day_us` on that the instant `last_us` can see, and that all instants from
    /// `first_us` on do.
    pub(super) fn between(&self, first_day_us: i64, first_us: i64, last_us: i64) -> DayPrint {
        let end_us = end_of_hours_us(last_us);
        let day_us = floor_to(end_us, DAY_US);
        let mut all = DayPrint::default();
        if first_day_us < day_us {
            self.days.range(first_day_us..day_us).for_each(|(_, print)| all.merge(print));
        }
        if day_us < end_us {
            self.hours.range(day_us.max(first_day_us)..end_us).for_each(|(_, print)| all.merge(print));
        }
        let late = self
            .late
            .iter()
            .filter(|((hour_us, unseen_us), _)| (first_day_us..end_us).contains(hour_us) && *unseen_us < first_us);
        late.for_each(|(_, print)| all.merge(print));
        all
    }

    /// Whether any event has one of these instants as its `next_us`, which rises with its time.
    pub(super) fn any_next(&self, first_us: i64, last_us: i64, next_us: impl Fn(i64) -> i64) -> bool {
        let prints = if self.hours.is_empty() { &self.days } else { &self.hours };
        let from_us = floor_to(first_us.saturating_sub(DAY_US), DAY_US);
        let mut near = prints.range(from_us..last_us.max(from_us)).map(|(_, print)| print.times_us);
        near.any(|(oldest_us, newest_us)| next_us(oldest_us) <= last_us && next_us(newest_us) >= first_us)
    }

    /// Whether of the events from the date `first_day_us` on some are seen by later instants from `first_us` to `last_us`
    /// only, though they are before earlier ones too.
    pub(super) fn changes_between(&self, first_day_us: i64, first_us: i64, last_us: i64) -> bool {
        let late = self.late.range((first_day_us, i64::MIN)..(last_us.max(first_day_us), i64::MIN));
        late.into_iter().any(|((_, unseen_us), _)| (first_us..last_us).contains(unseen_us))
    }
}

/// The end (exclusive) of the last hour whose events can matter at an instant.
fn end_of_hours_us(instant_us: i64) -> i64 {
    floor_to(instant_us.saturating_sub(1), HOUR_US).saturating_add(HOUR_US)
}

/// The columns of a batch that decide a view's values.
#[derive(Debug)]
pub(super) struct Printer {
    columns: Vec<usize>,
    key: Vec<usize>,
    /// Events at other times than these (µs) are passed over.
    times_us: Range<i64>,
    grain: Grain,
    /// Whether the record times say which instants do not see an event.
    keeps_known: bool,
}

impl Printer {
    pub(super) fn new(wanted: &Wanted<'_>, times_us: Range<i64>, grain: Grain, keeps_known: bool) -> Self {
        let columns = needed_columns([wanted.transform]);
        Self { columns, key: wanted.transform.key_columns().to_vec(), times_us, grain, keeps_known }
    }

    /// Adds a batch of one partition's events.
    pub(super) fn add(&self, partition: u32, batch: &EventBatch, prints: &mut Prints) {
        let fields: Vec<Field<'_>> = self.columns.iter().map(|&column| Field::of(&batch.columns[column])).collect();
        let keys: Vec<&Bitmap> = self.key.iter().filter_map(|&key| batch.columns[key].validity.as_ref()).collect();
        let (mut bytes, mut start_us, mut print) = (Vec::new(), i64::MIN, DayPrint::default());
        // After the last event of `print`: a map is looked into once a date, not once an event.
        let mut print_next = 0;
        let width_us = if self.grain == Grain::Days { DAY_US } else { HOUR_US };
        for (row, &time_us) in batch.times_us.iter().enumerate() {
            // Events without the entity are none of the view's.
            let is_keyed = keys.iter().all(|bits| bits.get(row));
            if !is_keyed || !self.times_us.contains(&time_us) {
                continue;
            }
            bytes.clear();
            bytes.extend_from_slice(&time_us.to_le_bytes());
            fields.iter().for_each(|field| field.put(row, &mut bytes));
            let (hash, next) = (xxh3_128(&bytes), batch.offsets[row].saturating_add(1));
            let unseen_us = if self.keeps_known { batch.record_times_us[row] } else { i64::MIN };
            if unseen_us > time_us {
                if unseen_us < self.times_us.end {
                    let late = prints.late.entry((floor_to(time_us, HOUR_US), unseen_us)).or_default();
                    late.add(time_us, hash);
                    late.reach(partition, next);
                }
                continue;
            }
            if time_us < start_us || time_us >= start_us.saturating_add(width_us) || print.events == 0 {
                self.flush(partition, start_us, (&mut print, &mut print_next), prints);
                start_us = floor_to(time_us, width_us);
            }
            print.add(time_us, hash);
            print_next = print_next.max(next);
        }
        self.flush(partition, start_us, (&mut print, &mut print_next), prints);
    }

    fn flush(&self, partition: u32, start_us: i64, (print, next): (&mut DayPrint, &mut u64), prints: &mut Prints) {
        let (mut print, next) = (std::mem::take(print), std::mem::take(next));
        if print.events == 0 {
            return;
        }
        print.reach(partition, next);
        prints.days.entry(floor_to(start_us, DAY_US)).or_default().merge(&print);
        if self.grain == Grain::Hours {
            prints.hours.entry(start_us).or_default().merge(&print);
        }
    }
}

/// A column of a batch.
#[derive(Debug)]
struct Field<'a> {
    validity: Option<&'a Bitmap>,
    values: &'a Values,
}

impl<'a> Field<'a> {
    fn of(column: &'a Column) -> Self {
        Self { validity: column.validity.as_ref(), values: &column.values }
    }

    /// Writes a value so that different rows of the same columns are different bytes. Kept in manifests: another form would
    /// make every date look changed.
    #[inline]
    fn put(&self, row: usize, bytes: &mut Vec<u8>) {
        let is_valid = self.validity.is_none_or(|bits| bits.get(row));
        if !is_valid {
            bytes.push(0);
            return;
        }
        let mut put_word = |word: [u8; 8]| {
            let mut field = [1; 9];
            field[1..].copy_from_slice(&word);
            bytes.extend_from_slice(&field);
        };
        match self.values {
            Values::I64(values) | Values::Timestamp(values) => put_word(values[row].to_le_bytes()),
            Values::F64(values) => put_word(values[row].to_bits().to_le_bytes()),
            Values::Bool(values) => bytes.extend_from_slice(&[1, values[row]]),
            Values::Utf8(values) | Values::Bytes(values) => {
                let value = values.get(row);
                let mut head = [1; 5];
                head[1..].copy_from_slice(&(value.len() as u32).to_le_bytes());
                bytes.extend_from_slice(&head);
                bytes.extend_from_slice(value);
            }
            // A schema's fields are no lists.
            Values::List { .. } => bytes.push(1),
        }
    }
}
