//! Encoding a commit's events and dead letters.

use super::split::{by_day, split};
use super::{INGEST_TIME, OFFSET, PARTITION, RECORD_TIME, SOURCE, check_schema};
use crate::dates::date_of_day;
use arrow_array::TimestampMicrosecondArray;
use arrow_array::{ArrayRef, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType as ArrowType, Field, Schema};
use plumb_columnar::{ColumnHint, Layout, ParquetWriter, arrow_type, into_arrow};
use plumb_core::column::{DataType, Values};
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_pipeline::commit::waiting::{self, Thin};
use plumb_pipeline::port::{DeadLetter, ObjectStore, RowFile};
use plumb_pipeline::{Error, Result};
use rustc_hash::FxHashSet;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Stages the events of all batches, one file per UTC date of event time and one for the dates that wait.
pub(super) fn events(
    store: &dyn ObjectStore,
    partition: u32,
    name: &str,
    batches: &[EventBatch],
) -> Result<Vec<RowFile>> {
    let rows: usize = batches.iter().map(EventBatch::len).sum();
    if rows == 0 {
        return Ok(Vec::new());
    }
    let schema = &*batches[0].schema;
    check_schema(schema)?;
    let source = &schema.source;
    let days = by_day(batches);
    let waiting = Thin::default().waiting(&days.counts());
    let days = if waiting.contains(&true) { days.gathered(&waiting) } else { days };
    let layout = event_layout(schema, batches, rows / days.len());
    let mut staged = Vec::with_capacity(days.len());
    let mut objects = Vec::with_capacity(days.len());
    for (day, events) in split(batches, days) {
        let (path, staged_as) = match day.map(date_of_day) {
            Some(date) => (format!("events/{source}/date={date}/{name}.parquet"), format!("{name}-{date}")),
            None => (format!("{}/{name}.parquet", waiting::folder(source)), format!("{name}-waiting")),
        };
        let (event_time_us, offsets) = (span(&events.times_us), span(&events.offsets));
        let rows = events.len();
        let bytes = encode(&path, &layout, event_arrays(partition, events)?)?;
        let file = RowFile {
            staged: format!("_staging/events/{source}/{staged_as}.parquet"),
            path,
            rows: rows as u64,
            bytes: bytes.len() as u64,
            sha256: sha256_hex(&bytes),
            event_time_us: event_time_us.expect("a date has rows"),
            offsets: offsets.expect("a date has rows"),
        };
        objects.push((file.staged.clone(), bytes));
        staged.push(file);
    }
    store.put_all(objects)?;
    Ok(staged)
}

/// Stages dead letters in one file.
pub(super) fn dead_letters(
    store: &dyn ObjectStore,
    source: &str,
    partition: u32,
    name: &str,
    letters: &[DeadLetter],
) -> Result<Vec<RowFile>> {
    if letters.is_empty() {
        return Ok(Vec::new());
    }
    let rows = letters.len();
    let times: Vec<i64> = letters.iter().map(|letter| letter.record_time_us).collect();
    let offsets: Vec<u64> = letters.iter().map(|letter| letter.offset).collect();
    let columns: Vec<(&str, bool, ArrayRef)> = vec![
        (SOURCE, false, Arc::new(StringArray::from_iter_values(std::iter::repeat_n(source, rows)))),
        (PARTITION, false, Arc::new(Int32Array::from_value(partition_id(partition)?, rows))),
        (OFFSET, false, Arc::new(offset_array(offsets.iter().copied())?)),
        (RECORD_TIME, false, instants(times.clone())),
        ("bytes", false, Arc::new(BinaryArray::from_iter_values(letters.iter().map(|letter| &letter.bytes)))),
        ("reason", false, Arc::new(StringArray::from_iter_values(letters.iter().map(|letter| &letter.reason)))),
        ("view", true, Arc::new(letters.iter().map(|letter| letter.view.as_deref()).collect::<StringArray>())),
    ];
    let fields: Vec<Field> =
        columns.iter().map(|(name, null, array)| Field::new(*name, array.data_type().clone(), *null)).collect();
    let layout = Layout::new(Arc::new(Schema::new(fields)), |name| match name {
        OFFSET | RECORD_TIME => ColumnHint::Rising,
        "bytes" => ColumnHint::Distinct,
        _ => ColumnHint::Repeating,
    });
    let path = format!("dead_letters/{source}/{name}.parquet");
    let bytes = encode(&path, &layout, columns.into_iter().map(|(_, _, array)| array).collect())?;
    let file = RowFile {
        staged: format!("_staging/dead_letters/{source}/{name}.parquet"),
        path,
        rows: rows as u64,
        bytes: bytes.len() as u64,
        sha256: sha256_hex(&bytes),
        event_time_us: span(&times).expect("there are letters"),
        offsets: span(&offsets).expect("there are letters"),
    };
    store.put_all(vec![(file.staged.clone(), bytes)])?;
    Ok(vec![file])
}

/// The layout of files of about `file_rows` of these events.
fn event_layout(schema: &SourceSchema, batches: &[EventBatch], file_rows: usize) -> Layout {
    let string = ArrowType::Utf8;
    let instant = arrow_type(&DataType::Timestamp);
    let mut fields = vec![
        Field::new(&schema.id_field, string.clone(), true),
        Field::new(&schema.time_field, instant.clone(), false),
    ];
    fields.extend(schema.fields.iter().map(|field| Field::new(&field.name, arrow_type(&field.data_type), true)));
    fields.push(Field::new(SOURCE, string, false));
    fields.push(Field::new(PARTITION, ArrowType::Int32, false));
    fields.push(Field::new(OFFSET, ArrowType::Int64, false));
    fields.push(Field::new(INGEST_TIME, instant, false));
    let hint = |name: &str| match name {
        OFFSET | INGEST_TIME => ColumnHint::Rising,
        SOURCE | PARTITION => ColumnHint::Constant,
        _ if name == schema.time_field => ColumnHint::Rising,
        _ if name == schema.id_field => ColumnHint::Distinct,
        _ => match schema.column_of(name) {
            Some(column) if mostly_distinct(batches, column, file_rows) => ColumnHint::Distinct,
            _ => ColumnHint::Repeating,
        },
    };
    Layout::new(Arc::new(Schema::new(fields)), hint).without_string_statistics()
}

/// Whether a dictionary of a small file's column would hold nearly every row, by a sample as long as the file.
/// In large files values meet again, and where they do not the writer gives the dictionary up by itself.
fn mostly_distinct(batches: &[EventBatch], column: usize, file_rows: usize) -> bool {
    const SMALL_FILE_ROWS: usize = 8 * 1024;
    if file_rows > SMALL_FILE_ROWS {
        return false;
    }
    let all: usize = batches.iter().map(EventBatch::len).sum();
    let step = all.div_ceil(file_rows.max(1)).max(1);
    let (mut strings, mut numbers) = (FxHashSet::<&[u8]>::default(), FxHashSet::<u64>::default());
    // Of all rows every `step`th, wherever batches were cut.
    let (mut first, mut seen) = (0, 0);
    for batch in batches {
        let column = &batch.columns[column];
        for row in (first..column.len()).step_by(step).filter(|&row| column.is_valid(row)) {
            seen += 1;
            match &column.values {
                Values::Utf8(values) | Values::Bytes(values) => strings.insert(values.get(row)),
                Values::F64(values) => numbers.insert(values[row].to_bits()),
                Values::I64(values) | Values::Timestamp(values) => numbers.insert(values[row] as u64),
                Values::Bool(_) | Values::List { .. } => return false,
            };
        }
        first = (first as i64 - column.len() as i64).rem_euclid(step as i64) as usize;
    }
    (strings.len() + numbers.len()) * 2 > seen
}

/// The events as Arrow columns, in the order of [`event_layout`].
fn event_arrays(partition: u32, events: EventBatch) -> Result<Vec<ArrayRef>> {
    let rows = events.len();
    let EventBatch { schema, offsets, record_times_us, times_us, columns } = events;
    let mut arrays = Vec::with_capacity(columns.len() + 5);
    let mut columns = columns.into_iter();
    arrays.extend(columns.next().map(into_arrow).transpose()?);
    arrays.push(instants(times_us));
    for column in columns {
        arrays.push(into_arrow(column)?);
    }
    arrays.push(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&schema.source, rows))));
    arrays.push(Arc::new(Int32Array::from_value(partition_id(partition)?, rows)));
    arrays.push(Arc::new(offset_array(offsets.into_iter())?));
    arrays.push(instants(record_times_us));
    Ok(arrays)
}

fn partition_id(partition: u32) -> Result<i32> {
    i32::try_from(partition).map_err(|_| Error::internal(format!("partition {partition} is beyond i32")))
}

fn offset_array(offsets: impl Iterator<Item = u64>) -> Result<Int64Array> {
    let offsets: Result<Vec<i64>, _> = offsets.map(i64::try_from).collect();
    Ok(Int64Array::from(offsets.map_err(|_| Error::internal("an offset is beyond i64"))?))
}

fn instants(times_us: Vec<i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(times_us).with_timezone("UTC"))
}

fn encode(path: &str, layout: &Layout, columns: Vec<ArrayRef>) -> Result<Vec<u8>> {
    let batch = RecordBatch::try_new(layout.schema().clone(), columns)
        .map_err(|error| Error::internal(format!("rows of `{path}` do not fit together: {error}")))?;
    let mut writer = ParquetWriter::new(path, Vec::with_capacity(batch.num_rows() * 32), layout)?;
    writer.write(&batch)?;
    writer.finish()
}

pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        for nibble in [byte >> 4, byte & 15] {
            hex.push(char::from_digit(u32::from(nibble), 16).expect("a nibble is below 16"));
        }
    }
    hex
}

pub(super) fn span<T: Copy + Ord>(values: &[T]) -> Option<(T, T)> {
    Some((*values.iter().min()?, *values.iter().max()?))
}
