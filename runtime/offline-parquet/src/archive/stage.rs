//! Encoding a commit's events and dead letters.

use super::{INGEST_TIME, OFFSET, PARTITION, SOURCE, check_schema};
use crate::dates::{date_of_day, day_of};
use arrow_array::{ArrayRef, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow_array::{TimestampMicrosecondArray, UInt32Array};
use arrow_schema::{DataType as ArrowType, Field, Schema};
use plumb_columnar::{ColumnHint, Layout, ParquetWriter, arrow_type, to_arrow};
use plumb_core::column::DataType;
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_pipeline::port::{DeadLetter, ObjectStore, RowFile};
use plumb_pipeline::{Error, Result};
use rustc_hash::FxHashMap;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Stages events, one file per UTC date of event time.
pub(super) fn events(store: &dyn ObjectStore, partition: u32, name: &str, events: &EventBatch) -> Result<Vec<RowFile>> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    check_schema(&events.schema)?;
    let source = &events.schema.source;
    let layout = event_layout(&events.schema);
    let columns = event_arrays(partition, events)?;
    let mut staged = Vec::new();
    let mut objects = Vec::new();
    for (day, rows) in by_day(&events.times_us) {
        let date = date_of_day(day);
        let columns = match &rows {
            Some(rows) => columns
                .iter()
                .map(|column| arrow_select::take::take(column, rows, None))
                .collect::<Result<Vec<ArrayRef>, _>>()
                .map_err(|error| Error::internal(format!("events cannot be split by date: {error}")))?,
            None => columns.clone(),
        };
        let path = format!("events/{source}/date={date}/{name}.parquet");
        let bytes = encode(&path, &layout, columns)?;
        let row_indices = || rows.iter().flat_map(|rows| rows.values().iter().map(|&row| row as usize));
        let (event_time_us, offsets, rows) = match &rows {
            Some(rows) => (
                span(row_indices().map(|row| events.times_us[row])),
                span(row_indices().map(|row| events.offsets[row])),
                rows.len(),
            ),
            None => (span(events.times_us.iter().copied()), span(events.offsets.iter().copied()), events.len()),
        };
        let file = RowFile {
            staged: format!("_staging/events/{source}/{name}-{date}.parquet"),
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
    let times = letters.iter().map(|letter| letter.record_time_us);
    let offsets = letters.iter().map(|letter| letter.offset);
    let columns: Vec<(&str, bool, ArrayRef)> = vec![
        (SOURCE, false, Arc::new(StringArray::from_iter_values(std::iter::repeat_n(source, rows)))),
        (PARTITION, false, Arc::new(Int32Array::from_value(partition_id(partition)?, rows))),
        (OFFSET, false, Arc::new(offset_array(offsets.clone())?)),
        ("_record_time", false, instants(times.clone().collect())),
        ("bytes", false, Arc::new(BinaryArray::from_iter_values(letters.iter().map(|letter| &letter.bytes)))),
        ("reason", false, Arc::new(StringArray::from_iter_values(letters.iter().map(|letter| &letter.reason)))),
        ("view", true, Arc::new(letters.iter().map(|letter| letter.view.as_deref()).collect::<StringArray>())),
    ];
    let fields: Vec<Field> =
        columns.iter().map(|(name, null, array)| Field::new(*name, array.data_type().clone(), *null)).collect();
    let layout = Layout::new(Arc::new(Schema::new(fields)), |name| match name {
        OFFSET | "_record_time" => ColumnHint::Rising,
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
        event_time_us: span(times).expect("there are letters"),
        offsets: span(offsets).expect("there are letters"),
    };
    store.put_all(vec![(file.staged.clone(), bytes)])?;
    Ok(vec![file])
}

fn event_layout(schema: &SourceSchema) -> Layout {
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
    Layout::new(Arc::new(Schema::new(fields)), |name| match name {
        OFFSET | INGEST_TIME => ColumnHint::Rising,
        _ if name == schema.time_field => ColumnHint::Rising,
        _ if name == schema.id_field => ColumnHint::Distinct,
        _ => ColumnHint::Repeating,
    })
}

/// The events as Arrow columns, in the order of [`event_layout`].
fn event_arrays(partition: u32, events: &EventBatch) -> Result<Vec<ArrayRef>> {
    let rows = events.len();
    let mut columns = Vec::with_capacity(events.columns.len() + 5);
    columns.push(to_arrow(&events.columns[0])?);
    columns.push(instants(events.times_us.clone()));
    for column in &events.columns[1..] {
        columns.push(to_arrow(column)?);
    }
    columns.push(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&events.schema.source, rows))));
    columns.push(Arc::new(Int32Array::from_value(partition_id(partition)?, rows)));
    columns.push(Arc::new(offset_array(events.offsets.iter().copied())?));
    columns.push(instants(events.record_times_us.clone()));
    Ok(columns)
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

/// The rows of each day, days rising, rows in order; `None` = all rows, which is how most commits look.
fn by_day(times_us: &[i64]) -> Vec<(i64, Option<UInt32Array>)> {
    let first = day_of(times_us[0]);
    if times_us.iter().all(|&time_us| day_of(time_us) == first) {
        return vec![(first, None)];
    }
    let mut slots: FxHashMap<i64, usize> = FxHashMap::default();
    let mut days: Vec<(i64, Vec<u32>)> = Vec::new();
    let (mut last_day, mut last_slot) = (first, usize::MAX);
    for (row, &time_us) in times_us.iter().enumerate() {
        let day = day_of(time_us);
        if day != last_day || last_slot == usize::MAX {
            last_day = day;
            last_slot = *slots.entry(day).or_insert_with(|| {
                days.push((day, Vec::new()));
                days.len() - 1
            });
        }
        days[last_slot].1.push(row as u32);
    }
    days.sort_unstable_by_key(|(day, _)| *day);
    days.into_iter().map(|(day, rows)| (day, Some(UInt32Array::from(rows)))).collect()
}

fn encode(path: &str, layout: &Layout, columns: Vec<ArrayRef>) -> Result<Vec<u8>> {
    let batch = RecordBatch::try_new(layout.schema().clone(), columns)
        .map_err(|error| Error::internal(format!("rows of `{path}` do not fit together: {error}")))?;
    let mut writer = ParquetWriter::new(path, Vec::new(), layout)?;
    writer.write(&batch)?;
    writer.finish()
}

fn sha256_hex(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        for nibble in [byte >> 4, byte & 15] {
            hex.push(char::from_digit(u32::from(nibble), 16).expect("a nibble is below 16"));
        }
    }
    hex
}

fn span<T: Copy + Ord>(values: impl Iterator<Item = T>) -> Option<(T, T)> {
    values.fold(None, |span, value| match span {
        None => Some((value, value)),
        Some((least, most)) => Some((least.min(value), most.max(value))),
    })
}
