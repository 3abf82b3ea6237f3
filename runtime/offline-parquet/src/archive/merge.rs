//! Merging committed files of one date into one, the same rows in fewer files, and spreading rows that wait to their
//! dates.
//!
//! Works on columns as they are stored, so dead letters and events of any schema merge alike; a column that only
//! some of the files have is null in the rows of the others.

use super::scan::open_committed;
use super::stage::{sha256_hex, span};
use super::{INGEST_TIME, OFFSET, PARTITION, RECORD_TIME, SOURCE};
use crate::dates::{date_of_day, day_of};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, RecordBatch, UInt32Array, new_null_array};
use arrow_schema::{DataType as ArrowType, Field, Schema, TimeUnit};
use arrow_select::concat::concat_batches;
use arrow_select::take::take_record_batch;
use plumb_columnar::{ColumnHint, Layout, ParquetFile, ParquetWriter, Selection};
use plumb_pipeline::commit::waiting::{self, BLOCK_DAYS, Step};
use plumb_pipeline::port::{ObjectStore, RowFile};
use plumb_pipeline::{Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

/// Merged files are put into the store together once they hold this many bytes.
const HELD_BYTES: usize = 32 << 20;

/// Stages one file per group.
pub(super) fn merge(store: &Arc<dyn ObjectStore>, groups: &[(String, Vec<RowFile>)]) -> Result<Vec<RowFile>> {
    let mut merged = Vec::with_capacity(groups.len());
    let (mut held, mut held_bytes) = (Vec::new(), 0);
    for (name, files) in groups {
        let (file, bytes) = merge_one(store, name, files)?;
        held_bytes += bytes.len();
        held.push((file.staged.clone(), bytes));
        merged.push(file);
        if held_bytes >= HELD_BYTES {
            held_bytes = 0;
            store.put_all(std::mem::take(&mut held))?;
        }
    }
    store.put_all(held)?;
    Ok(merged)
}

fn merge_one(store: &Arc<dyn ObjectStore>, name: &str, files: &[RowFile]) -> Result<(RowFile, Vec<u8>)> {
    let folder = files
        .first()
        .and_then(|file| file.path.rsplit_once('/'))
        .map(|(folder, _)| folder)
        .ok_or_else(|| Error::internal("nothing to merge"))?;
    let path = format!("{folder}/{name}.parquet");
    let Gathered { rows, sums: before, .. } = gather(store, &path, files)?;
    let (bytes, after) = encode(&path, &rows)?;
    drop(rows);
    same(&path, files, &before, &after)?;
    let times = files.iter().flat_map(|file| [file.event_time_us.0, file.event_time_us.1]).collect::<Vec<_>>();
    let offsets = files.iter().flat_map(|file| [file.offsets.0, file.offsets.1]).collect::<Vec<_>>();
    let file = RowFile {
        staged: format!("_staging/{folder}/{name}.parquet"),
        path,
        rows: after.count,
        bytes: bytes.len() as u64,
        sha256: sha256_hex(&bytes),
        event_time_us: span(&times).expect("there are files"),
        offsets: span(&offsets).expect("there are files"),
    };
    Ok((file, bytes))
}

/// Stages the rows of files that wait as files of the next step.
pub(super) fn spread(store: &Arc<dyn ObjectStore>, name: &str, files: &[RowFile], step: Step) -> Result<Vec<RowFile>> {
    let first = files.first().ok_or_else(|| Error::internal("nothing to spread"))?;
    let source = first.path.strip_prefix(&waiting::folder("")).and_then(|rest| rest.split('/').next());
    let source = source.ok_or_else(|| Error::internal(format!("`{}` does not wait", first.path)))?;
    let Gathered { rows, times_us, offsets, sums: before } = gather(store, &first.path, files)?;
    if times_us.len() != rows.num_rows() {
        let why = "has a second column that is no event time";
        return Err(Error::internal(format!("one of the {} files from `{}` on {why}", files.len(), first.path)));
    }
    let mut places: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
    for (row, &time_us) in times_us.iter().enumerate() {
        let day = day_of(time_us);
        let place = match step {
            Step::Blocks => day.div_euclid(BLOCK_DAYS) * BLOCK_DAYS,
            Step::Dates => day,
        };
        places.entry(place).or_default().push(row as u32);
    }
    let mut after = Rows::default();
    let (mut spread, mut objects) = (Vec::with_capacity(places.len()), Vec::with_capacity(places.len()));
    for (day, chosen) in places {
        let date = date_of_day(day);
        let (folder, staged) = match step {
            Step::Blocks => (format!("{}/from={date}", waiting::folder(source)), format!("{name}-from-{date}")),
            Step::Dates => (format!("events/{source}/date={date}"), format!("{name}-{date}")),
        };
        let path = format!("{folder}/{name}.parquet");
        let times: Vec<i64> = chosen.iter().map(|&row| times_us[row as usize]).collect();
        let (first, last) = (chosen[0] as usize, chosen[chosen.len() - 1] as usize);
        let of_place = take_record_batch(&rows, &UInt32Array::from(chosen))
            .map_err(|error| Error::internal(format!("rows of `{path}` cannot be taken: {error}")))?;
        let (bytes, sums) = encode(&path, &of_place)?;
        after.count += sums.count;
        after.sum = after.sum.wrapping_add(sums.sum);
        let file = RowFile {
            staged: format!("_staging/events/{source}/{staged}.parquet"),
            path,
            rows: sums.count,
            bytes: bytes.len() as u64,
            sha256: sha256_hex(&bytes),
            event_time_us: span(&times).expect("a place has rows"),
            offsets: (offsets[first] as u64, offsets[last] as u64),
        };
        objects.push((file.staged.clone(), bytes));
        spread.push(file);
    }
    same(&first.path, files, &before, &after)?;
    store.put_all(objects)?;
    Ok(spread)
}

/// The rows of files in offset order.
struct Gathered {
    rows: RecordBatch,
    /// Their event times, µs; for events, which have them in the second column.
    times_us: Vec<i64>,
    offsets: Vec<i64>,
    sums: Rows,
}

fn gather(store: &Arc<dyn ObjectStore>, path: &str, files: &[RowFile]) -> Result<Gathered> {
    let (mut batches, mut times_us) = (Vec::new(), Vec::new());
    let mut sums = Rows::default();
    for file in files {
        let found = read(&open_committed(store, file)?)?;
        let rows: usize = found.iter().map(RecordBatch::num_rows).sum();
        if rows as u64 != file.rows {
            return Err(Error::internal(format!("`{}` holds {rows} rows, committed were {}", file.path, file.rows)));
        }
        found.iter().try_for_each(|batch| sums.add(&file.path, batch))?;
        for batch in &found {
            if let Some(times) = batch.columns()[1].as_primitive_opt::<TimestampMicrosecondType>() {
                times_us.extend_from_slice(times.values());
            }
        }
        batches.extend(found);
    }
    let schema = Arc::new(union(path, &batches)?);
    let failed =
        |error: arrow_schema::ArrowError| Error::internal(format!("rows of `{path}` do not fit together: {error}"));
    let batches = batches.iter().map(|batch| widen(&schema, batch)).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let mut rows = concat_batches(&schema, &batches).map_err(failed)?;
    drop(batches);
    let mut offsets = offsets(path, &rows)?;
    if !offsets.is_sorted() {
        let mut order: Vec<u32> = (0..offsets.len() as u32).collect();
        order.sort_by_key(|&row| offsets[row as usize]);
        if times_us.len() == order.len() {
            times_us = order.iter().map(|&row| times_us[row as usize]).collect();
        }
        offsets.sort_unstable();
        rows = take_record_batch(&rows, &UInt32Array::from(order)).map_err(failed)?;
    }
    Ok(Gathered { rows, times_us, offsets, sums })
}

/// Encodes rows, and reads them back.
fn encode(path: &str, rows: &RecordBatch) -> Result<(Vec<u8>, Rows)> {
    let mut writer = ParquetWriter::new(path, Vec::new(), &layout(rows.schema_ref()))?;
    writer.write(rows)?;
    let bytes = writer.finish()?;
    let mut sums = Rows::default();
    let written = ParquetFile::from_bytes(path.as_ref(), bytes::Bytes::copy_from_slice(&bytes))?;
    read(&written)?.iter().try_for_each(|batch| sums.add(path, batch))?;
    Ok((bytes, sums))
}

fn same(path: &str, files: &[RowFile], before: &Rows, after: &Rows) -> Result<()> {
    if before == after {
        return Ok(());
    }
    let count = files.len();
    Err(Error::internal(format!("`{path}` would not hold the rows of the {count} files: {before:?} and {after:?}")))
}

fn read(file: &ParquetFile) -> Result<Vec<RecordBatch>> {
    file.batches(&Selection::default())?.collect()
}

/// The columns of all files, those of the newest first; what not all have may be null.
fn union(path: &str, batches: &[RecordBatch]) -> Result<Schema> {
    let mut fields: Vec<Field> = Vec::new();
    for batch in batches.iter().rev() {
        for field in batch.schema_ref().fields() {
            match fields.iter_mut().find(|known| known.name() == field.name()) {
                Some(known) if known.data_type() == field.data_type() => {
                    let nullable = known.is_nullable() || field.is_nullable();
                    known.set_nullable(nullable);
                }
                Some(known) => {
                    return Err(Error::invalid(format!(
                        "`{path}`: column `{}` is {} in some files and {} in others",
                        field.name(),
                        known.data_type(),
                        field.data_type()
                    )));
                }
                None => fields.push(field.as_ref().clone()),
            }
        }
    }
    for field in &mut fields {
        if batches.iter().any(|batch| batch.schema_ref().index_of(field.name()).is_err()) {
            field.set_nullable(true);
        }
    }
    Ok(Schema::new(fields))
}

fn widen(schema: &Arc<Schema>, batch: &RecordBatch) -> Result<RecordBatch, arrow_schema::ArrowError> {
    let columns = schema.fields().iter().map(|field| match batch.column_by_name(field.name()) {
        Some(column) => column.clone(),
        None => new_null_array(field.data_type(), batch.num_rows()),
    });
    RecordBatch::try_new(schema.clone(), columns.collect())
}

fn offsets(path: &str, rows: &RecordBatch) -> Result<Vec<i64>> {
    let column = rows.column_by_name(OFFSET).and_then(|column| column.as_primitive_opt::<Int64Type>());
    let column = column.ok_or_else(|| Error::internal(format!("`{path}` has no column `{OFFSET}` of integers")))?;
    Ok(column.values().to_vec())
}

fn layout(schema: &Arc<Schema>) -> Layout {
    let first = schema.fields().first().map(|field| field.name().clone());
    let hint = |name: &str| match name {
        OFFSET | INGEST_TIME | RECORD_TIME => ColumnHint::Rising,
        SOURCE | PARTITION => ColumnHint::Constant,
        "bytes" => ColumnHint::Distinct,
        // The event's id, and its time.
        _ if Some(name) == first.as_deref() => ColumnHint::Distinct,
        _ => match schema.field_with_name(name) {
            Ok(field) if matches!(field.data_type(), ArrowType::Timestamp(..)) => ColumnHint::Rising,
            _ => ColumnHint::Repeating,
        },
    };
    Layout::new(schema.clone(), hint).without_string_statistics()
}

/// How many rows, and a checksum that does not depend on their order: a column that is absent counts as null.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rows {
    count: u64,
    sum: u128,
}

impl Rows {
    fn add(&mut self, path: &str, batch: &RecordBatch) -> Result<()> {
        let mut rows = vec![0u128; batch.num_rows()];
        for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            let seed = xxh3_64_with_seed(field.name().as_bytes(), 0);
            hash_values(path, column, seed, &mut |row, hash| rows[row] = rows[row].wrapping_add(hash))?;
        }
        self.count += rows.len() as u64;
        for row in rows {
            // Hashed once more, so that values cannot change places between rows.
            self.sum = self.sum.wrapping_add(xxh3_128_with_seed(&row.to_le_bytes(), 0));
        }
        Ok(())
    }
}

/// Gives each value that is not null, hashed, to `take`.
fn hash_values(path: &str, column: &ArrayRef, seed: u64, take: &mut dyn FnMut(usize, u128)) -> Result<()> {
    let rows = || (0..column.len()).filter(|&row| column.is_valid(row));
    let hash = |bytes: &[u8]| xxh3_128_with_seed(bytes, seed);
    match column.data_type() {
        ArrowType::Utf8 => rows().for_each(|row| take(row, hash(column.as_string::<i32>().value(row).as_bytes()))),
        ArrowType::Binary => rows().for_each(|row| take(row, hash(column.as_binary::<i32>().value(row)))),
        ArrowType::Boolean => rows().for_each(|row| take(row, hash(&[u8::from(column.as_boolean().value(row))]))),
        ArrowType::Int32 => {
            let values = column.as_primitive::<Int32Type>();
            rows().for_each(|row| take(row, hash(&values.value(row).to_le_bytes())));
        }
        ArrowType::Int64 => {
            let values = column.as_primitive::<Int64Type>();
            rows().for_each(|row| take(row, hash(&values.value(row).to_le_bytes())));
        }
        ArrowType::Float64 => {
            let values = column.as_primitive::<Float64Type>();
            rows().for_each(|row| take(row, hash(&values.value(row).to_bits().to_le_bytes())));
        }
        ArrowType::Timestamp(TimeUnit::Microsecond, _) => {
            let values = column.as_primitive::<TimestampMicrosecondType>();
            rows().for_each(|row| take(row, hash(&values.value(row).to_le_bytes())));
        }
        ArrowType::List(_) => {
            let lists = column.as_list::<i32>();
            let mut of_child = vec![0u128; lists.values().len()];
            hash_values(path, lists.values(), seed, &mut |at, hash| of_child[at] = hash)?;
            for row in rows() {
                let (start, end) = (lists.value_offsets()[row] as usize, lists.value_offsets()[row + 1] as usize);
                let bytes: Vec<u8> = of_child[start..end].iter().flat_map(|hash| hash.to_le_bytes()).collect();
                take(row, hash(&bytes));
            }
        }
        other => {
            return Err(Error::internal(format!("`{path}` has a column of type {other}, which plumb does not write")));
        }
    }
    Ok(())
}
