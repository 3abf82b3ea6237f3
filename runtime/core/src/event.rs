//! Events: the schema of a source and columnar batches of decoded events.

use crate::column::{Column, DataType};
use crate::{Error, Result};
use std::ops::Range;
use std::sync::Arc;

/// A field of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its type; not a list.
    pub data_type: DataType,
    /// Whether a record without it is rejected.
    pub required: bool,
}

/// What a source's records look like: configuration, not code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSchema {
    /// The source's name; `default` for the `[source]` section.
    pub source: String,
    /// The field that holds the event time.
    pub time_field: String,
    /// The field that identifies an event, a string; column 0 of every batch.
    pub id_field: String,
    /// The field that partitions the log.
    pub key_field: String,
    /// The other fields, in declared order; column `i + 1` of a batch.
    pub fields: Vec<Field>,
}

impl SourceSchema {
    /// The default schema of contract.md, "Events".
    pub fn default_schema() -> Self {
        let fields = [
            ("user_id", DataType::Utf8, false),
            ("item_id", DataType::Utf8, false),
            ("event_type", DataType::Utf8, true),
            ("category", DataType::Utf8, false),
            ("price", DataType::F64, false),
            ("quantity", DataType::I64, false),
            ("rating", DataType::F64, false),
            ("session_id", DataType::Utf8, false),
        ];
        Self {
            source: "default".into(),
            time_field: "event_time".into(),
            id_field: "event_id".into(),
            key_field: "user_id".into(),
            fields: fields
                .into_iter()
                .map(|(name, data_type, required)| Field { name: name.into(), data_type, required })
                .collect(),
        }
    }

    /// The number of columns of a batch: the id and the fields.
    pub fn columns(&self) -> usize {
        self.fields.len() + 1
    }

    /// The column of a batch that holds a field (`Some(0)` for the id); `None` for the time field and unknown names.
    pub fn column_of(&self, name: &str) -> Option<usize> {
        if name == self.id_field {
            return Some(0);
        }
        self.fields.iter().position(|field| field.name == name).map(|index| index + 1)
    }

    /// The type of a field, the time field included; `None` for unknown names.
    pub fn type_of(&self, name: &str) -> Option<DataType> {
        if name == self.time_field {
            return Some(DataType::Timestamp);
        }
        if name == self.id_field {
            return Some(DataType::Utf8);
        }
        self.fields.iter().find(|field| field.name == name).map(|field| field.data_type.clone())
    }
}

/// Decoded events of one source partition, in source order.
#[derive(Debug, Clone, PartialEq)]
pub struct EventBatch {
    /// The schema the columns follow.
    pub schema: Arc<SourceSchema>,
    /// Each event's place in its partition (log offset, or row of a file source), rising.
    pub offsets: Vec<u64>,
    /// Each record's own timestamp in µs (log stamp, or start of the job for files): `_ingest_time`.
    pub record_times_us: Vec<i64>,
    /// Each event's time in µs.
    pub times_us: Vec<i64>,
    /// The id, then the fields of the schema.
    pub columns: Vec<Column>,
}

impl EventBatch {
    /// No events.
    pub fn new(schema: Arc<SourceSchema>) -> Self {
        let columns = std::iter::once(&DataType::Utf8)
            .chain(schema.fields.iter().map(|field| &field.data_type))
            .map(Column::new)
            .collect();
        Self { schema, offsets: Vec::new(), record_times_us: Vec::new(), times_us: Vec::new(), columns }
    }

    /// The number of events.
    pub fn len(&self) -> usize {
        self.times_us.len()
    }

    /// Whether there are no events.
    pub fn is_empty(&self) -> bool {
        self.times_us.is_empty()
    }

    /// The column of a field, the id included; an error that names both for an unknown name.
    pub fn column(&self, name: &str) -> Result<&Column> {
        match self.schema.column_of(name) {
            Some(index) => Ok(&self.columns[index]),
            None => Err(Error::definition(
                format!("field `{name}`"),
                format!("source `{}` has no such field", self.schema.source),
            )),
        }
    }

    /// Appends row `row` of `from`, a batch of the same schema.
    pub fn push_from(&mut self, from: &EventBatch, row: usize) {
        self.offsets.push(from.offsets[row]);
        self.record_times_us.push(from.record_times_us[row]);
        self.times_us.push(from.times_us[row]);
        for (to, column) in self.columns.iter_mut().zip(&from.columns) {
            to.push_from(column, row);
        }
    }

    /// Appends all rows of `from`, a batch of the same schema.
    pub fn append(&mut self, from: &EventBatch) {
        self.append_rows(from, 0..from.len());
    }

    /// Appends the rows `rows` of `from`, a batch of the same schema.
    pub fn append_rows(&mut self, from: &EventBatch, rows: Range<usize>) {
        self.offsets.extend_from_slice(&from.offsets[rows.clone()]);
        self.record_times_us.extend_from_slice(&from.record_times_us[rows.clone()]);
        self.times_us.extend_from_slice(&from.times_us[rows.clone()]);
        for (to, column) in self.columns.iter_mut().zip(&from.columns) {
            to.append_rows(column, rows.clone());
        }
    }

    /// Keeps the first `rows` events; no effect on a shorter batch.
    pub fn truncate(&mut self, rows: usize) {
        self.offsets.truncate(rows);
        self.record_times_us.truncate(rows);
        self.times_us.truncate(rows);
        for column in &mut self.columns {
            column.truncate(rows);
        }
    }

    /// Makes room for these rows of `batches`, all of the same schema.
    pub fn reserve<'a>(&mut self, batches: impl Iterator<Item = (&'a EventBatch, Range<usize>)> + Clone) {
        let rows = batches.clone().map(|(_, rows)| rows.len()).sum();
        self.offsets.reserve_exact(rows);
        self.record_times_us.reserve_exact(rows);
        self.times_us.reserve_exact(rows);
        for (index, column) in self.columns.iter_mut().enumerate() {
            let bytes = batches.clone().map(|(batch, rows)| batch.columns[index].string_bytes(rows)).sum();
            column.reserve(rows, bytes);
        }
    }

    /// A batch of the rows `rows`, in that order. Rows that follow each other are copied together.
    pub fn take(&self, rows: impl IntoIterator<Item = usize>) -> EventBatch {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for row in rows {
            match runs.last_mut() {
                Some(run) if run.end == row => run.end = row + 1,
                _ => runs.push(row..row + 1),
            }
        }
        let mut taken = EventBatch::new(self.schema.clone());
        taken.reserve(runs.iter().map(|run| (self, run.clone())));
        for run in runs {
            taken.append_rows(self, run);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_taken_in_the_order_asked_for() {
        let mut events = EventBatch::new(Arc::new(SourceSchema::default_schema()));
        for row in 0..6u64 {
            events.offsets.push(10 + row);
            events.record_times_us.push(row as i64);
            events.times_us.push(100 + row as i64);
            for column in &mut events.columns {
                match &column.values {
                    crate::column::Values::Utf8(_) if row % 2 == 0 => column.push_bytes(&[b'a' + row as u8]),
                    _ => column.push_null(),
                }
            }
        }
        // Neighbours, a gap, backwards, twice, nothing.
        for rows in [&[0, 1, 2, 4, 5][..], &[3, 2, 2, 3], &[5], &[]] {
            let mut pushed = EventBatch::new(events.schema.clone());
            rows.iter().for_each(|&row| pushed.push_from(&events, row));
            assert_eq!(events.take(rows.iter().copied()), pushed, "{rows:?}");
        }
    }
}
