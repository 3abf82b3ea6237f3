//! Values from history: training sets, backfills, reads at a past instant, and what checks them.
//!
//! Data flows one way: an [`EventReader`](crate::port::EventReader) or an archive scan → `gather` (`extract`
//! in worker threads, contributions packed by key) → `compute` (the temporal kernel over slices of keys, then
//! `finalize`) → [`join()`], [`backfill()`] or [`at()`]. [`audit`] recomputes a training set by the definitions
//! and shares none of that; [`check`] compares online with offline values.
//!
//! Only events of asked entities are kept (for ranks, of the others just when they count), in 24 bytes and 8
//! for each value that is summed, counted or taken last; sorting holds them twice.
//!
//! Not here: files and Arrow (labels come as [`Labels`], results are plain columns).

mod activity;
mod answers;
pub mod at;
pub mod audit;
pub mod backfill;
mod bounded;
pub mod check;
mod compute;
mod copies;
mod dates;
mod gather;
pub mod join;
mod keys;
mod prints;
mod ranks;
mod runs;
pub mod select;
mod spill;

pub use at::{AtRequest, at};
pub use backfill::{BackfillOptions, BackfillSummary, DateCounts, Entities, Every, backfill};
pub use bounded::{Budget, LabelReader, MEMORY_MIN_BYTES, Progress, TrainingPart, TrainingSink, join_within};
pub use check::{CheckOptions, ConsistencyReport, compare};
pub use copies::{Copies, IdRows};
pub use join::{AsOf, ColdStart, JoinOptions, JoinSummary, Knowledge, TrainingSet, join};
pub use select::{Selection, ViewSelection};

use crate::parallel::thread_count;
use crate::{Error, Result};
use plumb_core::column::{Column, DataType};
use plumb_transform::Transform;
use std::collections::BTreeMap;

/// Slices of keys per thread: enough that a few heavy keys do not leave the other threads idle.
const SLICES_PER_THREAD: usize = 4;

/// What asks: one row per label, an instant and the fields of entity keys.
#[derive(Debug, Clone, PartialEq)]
pub struct Labels {
    /// Each label's time in µs.
    pub times_us: Vec<i64>,
    /// String columns by the name of the key field, e.g. `user_id`; a null is an entity that is not found.
    pub keys: BTreeMap<String, Column>,
}

impl Labels {
    /// Checks a label table: `time_column` is the name of `times`, for messages. A null time or a key
    /// that is not of strings is the caller's mistake.
    pub fn new(time_column: &str, times: &Column, keys: BTreeMap<String, Column>) -> Result<Self> {
        let Some(times_us) = times.as_i64().filter(|_| times.data_type() == DataType::Timestamp) else {
            let found = times.data_type().name();
            return Err(Error::invalid(format!("label column `{time_column}` is of type {found}, not a timestamp")));
        };
        if let Some(row) = (0..times.len()).find(|&row| !times.is_valid(row)) {
            let row = row + 1;
            return Err(Error::invalid(format!("label row {row}: `{time_column}` is null, every label needs a time")));
        }
        for (name, column) in &keys {
            if column.data_type() != DataType::Utf8 {
                let found = column.data_type().name();
                return Err(Error::invalid(format!("label column `{name}` is of type {found}, not a string")));
            }
            if column.len() != times.len() {
                return Err(Error::internal(format!("label column `{name}` has another length than `{time_column}`")));
            }
        }
        Ok(Self { times_us: times_us.to_vec(), keys })
    }

    /// The number of labels.
    pub fn len(&self) -> usize {
        self.times_us.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.times_us.is_empty()
    }

    /// The columns of an entity's key, in the key's order; an error that names what is missing.
    pub(crate) fn key_columns<'a>(&'a self, view: &str, fields: &[String]) -> Result<Vec<&'a Column>> {
        fields
            .iter()
            .map(|field| {
                self.keys.get(field).ok_or_else(|| {
                    let present: Vec<&str> = self.keys.keys().map(String::as_str).collect();
                    let present = if present.is_empty() { "none".to_owned() } else { present.join(", ") };
                    Error::invalid(format!(
                        "the labels have no column `{field}`, the key of view `{view}` (key columns found: {present})"
                    ))
                })
            })
            .collect()
    }
}

/// How a view answers for an entity at T.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// An accepted event before T carries the key.
    Found,
    /// None does, or the key is null: every feature is null.
    NotFound,
    /// The newest contribution is older than the view's max age: every feature is null.
    OutsideMaxAge,
    /// `finalize` failed for this row: every feature is null.
    Error,
}

impl Status {
    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Status::Found => "found",
            Status::NotFound => "not_found",
            Status::OutsideMaxAge => "outside_max_age",
            Status::Error => "error",
        }
    }

    /// Whether the newest contribution is too old at T. An entity without contributions is not: it has nothing that
    /// could be stale, and its counts of 0 are true.
    pub fn is_outside_max_age(newest_us: Option<i64>, as_of_us: i64, max_age_us: Option<i64>) -> bool {
        match (newest_us, max_age_us) {
            (Some(newest_us), Some(max_age_us)) => newest_us < as_of_us.saturating_sub(max_age_us),
            _ => false,
        }
    }
}

/// One view's answers, one row per label (or per label kept).
#[derive(Debug, Clone, PartialEq)]
pub struct ViewColumns {
    /// The view's name.
    pub view: String,
    /// The asked features, in the order asked.
    pub features: Vec<Column>,
    /// The newest contribution before T (`timestamp`, null if none).
    pub event_time: Column,
    /// How each row was answered.
    pub status: Vec<Status>,
}

impl ViewColumns {
    fn take(&self, rows: &[u32]) -> Self {
        let take = |column: &Column| column.take(rows.iter().map(|&row| row as usize));
        Self {
            view: self.view.clone(),
            features: self.features.iter().map(take).collect(),
            event_time: take(&self.event_time),
            status: rows.iter().map(|&row| self.status[row as usize]).collect(),
        }
    }
}

/// Rows that a view could not compute: how many, and the first by time for messages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Faults {
    /// How many.
    pub count: u64,
    /// The earliest's time (µs; the smallest reason among equals) and the reason.
    pub example: Option<(i64, String)>,
}

impl Faults {
    fn add(&mut self, time_us: i64, reason: &str) {
        self.count += 1;
        if self.example.as_ref().is_none_or(|(time, text)| (time_us, reason) < (*time, text.as_str())) {
            self.example = Some((time_us, reason.to_owned()));
        }
    }

    fn merge(&mut self, other: Faults) {
        let count = self.count + other.count;
        if let Some((time_us, reason)) = other.example {
            self.add(time_us, &reason);
        }
        self.count = count;
    }
}

/// The batch columns that views of one source read, ascending: what a reader of events need not leave null. (One that
/// also decides which events are accepted needs their ids and required fields beside these.)
pub fn needed_columns<'a>(transforms: impl IntoIterator<Item = &'a Transform>) -> Vec<usize> {
    let mut columns: Vec<usize> = transforms
        .into_iter()
        .flat_map(|transform| {
            let fields = transform.def().fields.iter().filter_map(|field| transform.schema().column_of(&field.name));
            let id = transform.plan().keeps_ids.then_some(0);
            fields.chain(transform.key_columns().iter().copied()).chain(id)
        })
        .collect();
    columns.sort_unstable();
    columns.dedup();
    columns
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
