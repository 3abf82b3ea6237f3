//! Parquet rows as events, whoever wrote the file.

use crate::reader::Reading;
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType as ArrowType, Schema, TimeUnit as ArrowUnit};
use plumb_columnar::{
    Batches, ConvertError, Converted, ParquetFile, Selection, convert, has_no_zone, times_from_integers,
};
use plumb_core::column::{Column, DataType, Values};
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_pipeline::accept::missing_field;
use plumb_pipeline::decode::json::{encode_columns, shorten};
use plumb_pipeline::decode::{TimeUnit, parse_rfc3339};
use plumb_pipeline::port::{Rejected, SourceBatch};
use plumb_pipeline::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Reads rows of a file in order.
#[derive(Debug)]
pub(crate) struct ParquetRows {
    path: PathBuf,
    reading: Reading,
    layout: Layout,
    batches: Batches,
    row: u64,
    zoneless: bool,
    /// Of the rows last read: their partitions in an archive.
    partitions: Vec<u32>,
}

/// Where the schema's fields are in the columns read.
#[derive(Debug)]
struct Layout {
    /// The columns of the file that are read, rising.
    selected: Vec<usize>,
    /// The place of the time among them.
    time: usize,
    /// Per column of a batch its place among them, if it is read.
    fields: Vec<Option<usize>>,
    /// The places where the file is part of an archive.
    archive: Option<ArchivePlaces>,
}

/// Where an archive has what it adds to an event, among the columns of a file or those read.
#[derive(Debug, Clone, Copy)]
struct ArchivePlaces {
    partition: usize,
    offset: usize,
    ingest: Option<usize>,
}

impl ParquetRows {
    /// Opens a file at a row.
    pub(crate) fn open(path: &Path, reading: &Reading, row: u64, batch_rows: usize) -> Result<Self> {
        let selection = Selection { skip_rows: row, batch_rows, ..Selection::default() };
        Self::select(path, reading, row, selection)
    }

    /// Opens one row group, which begins at a row of the file.
    pub(crate) fn open_group(
        path: &Path,
        reading: &Reading,
        group: usize,
        row: u64,
        batch_rows: usize,
    ) -> Result<Self> {
        let selection = Selection { row_groups: Some(vec![group]), batch_rows, ..Selection::default() };
        Self::select(path, reading, row, selection)
    }

    fn select(path: &Path, reading: &Reading, row: u64, selection: Selection) -> Result<Self> {
        // Opened anew by every reader: handles of one opening share their place in the file, also between threads.
        let file = ParquetFile::open(path)?;
        let layout = Layout::find(&file, reading)?;
        let batches = file.batches(&Selection { columns: Some(layout.selected.clone()), ..selection })?;
        let (path, reading) = (path.to_owned(), reading.clone());
        Ok(Self { path, reading, layout, batches, row, zoneless: false, partitions: Vec::new() })
    }

    pub(crate) fn zoneless(&self) -> bool {
        self.zoneless
    }

    pub(crate) fn is_archive(&self) -> bool {
        self.layout.archive.is_some()
    }

    /// The partition of each event of the last batch, in an archive.
    pub(crate) fn take_partitions(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.partitions)
    }

    pub(crate) fn next_batch(&mut self) -> Result<Option<SourceBatch>> {
        match self.batches.next() {
            None => Ok(None),
            Some(batch) => self.decode(&batch?).map(Some),
        }
    }

    fn decode(&mut self, batch: &RecordBatch) -> Result<SourceBatch> {
        let rows = batch.num_rows();
        let schema = &self.reading.schema.clone();
        let mut refused: BTreeMap<usize, String> = BTreeMap::new();
        let mut columns = Vec::with_capacity(schema.columns());
        for (index, place) in self.layout.fields.iter().enumerate() {
            let (name, data_type) = column_of(schema, index);
            columns.push(match place {
                Some(place) => {
                    let found = convert(name, batch.column(*place).as_ref(), data_type);
                    found.map_err(|error| self.mismatch(error))?.noting(name, &mut refused)
                }
                None => Column::nulls(data_type, rows),
            });
        }
        let times = self.times(batch.column(self.layout.time).as_ref())?.noting(&schema.time_field, &mut refused);
        for row in (0..rows).filter(|&row| !times.is_valid(row)) {
            refused.entry(row).or_insert_with(|| missing_field(&schema.time_field));
        }
        let Values::Timestamp(times_us) = times.values else {
            return Err(Error::internal("times were converted to another type"));
        };
        let first = self.row;
        self.row += rows as u64;
        let offsets = (first..self.row).collect();
        let record_times_us = vec![self.reading.record_time_us; rows];
        let mut events = EventBatch { schema: schema.clone(), offsets, record_times_us, times_us, columns };
        if self.layout.archive.is_some() {
            if let Some((row, reason)) = refused.first_key_value() {
                let row = first + *row as u64;
                return Err(Error::invalid(format!("`{}`, row {row} of an archive: {reason}", self.path.display())));
            }
            self.stamp(&mut events, batch, first)?;
        }
        let rejected = refused.into_iter().map(|(row, reason)| reject(&events, first, row, reason)).collect::<Vec<_>>();
        if !rejected.is_empty() {
            let mut gone = rejected.iter().map(|record| (record.offset - first) as usize).peekable();
            events = events.take((0..rows).filter(|row| gone.next_if_eq(row).is_none()));
        }
        Ok(SourceBatch { events, rejected, next_offset: self.row })
    }

    /// Puts the offsets and ingest times that an archive keeps into its events, and notes their partitions.
    fn stamp(&mut self, events: &mut EventBatch, batch: &RecordBatch, first: u64) -> Result<()> {
        let Some(ArchivePlaces { partition, offset, ingest }) = self.layout.archive else { return Ok(()) };
        let read = |name, place: usize, wanted| {
            let column = plumb_columnar::from_arrow(name, batch.column(place).as_ref(), wanted);
            let column = column.map_err(|error| self.mismatch(error))?;
            match (0..column.len()).find(|&row| !column.is_valid(row)) {
                None => Ok(column),
                Some(row) => {
                    let row = first + row as u64;
                    Err(Error::invalid(format!("`{}`, row {row} of an archive: `{name}` is null", self.path.display())))
                }
            }
        };
        if let Some(offsets) = read("_offset", offset, &DataType::I64)?.as_i64() {
            events.offsets = offsets.iter().map(|&offset| offset as u64).collect();
        }
        if let Some(place) = ingest
            && let Some(times_us) = read("_ingest_time", place, &DataType::Timestamp)?.as_i64()
        {
            events.record_times_us = times_us.to_vec();
        }
        let partitions = read("_partition", partition, &DataType::I64)?;
        let number = |&partition: &i64| {
            let bad = |_| format!("`{}`: {partition} is no `_partition` of an archive", self.path.display());
            u32::try_from(partition).map_err(bad).map_err(Error::invalid)
        };
        self.partitions = partitions.as_i64().unwrap_or_default().iter().map(number).collect::<Result<_>>()?;
        Ok(())
    }

    /// The event times; what is no instant is refused.
    fn times(&mut self, array: &dyn Array) -> Result<Converted> {
        let name = &self.reading.schema.time_field;
        if let Some(times) = times_from_integers(array, arrow_unit(self.reading.unit)) {
            return Ok(times);
        }
        if !is_text(array.data_type()) {
            self.zoneless |= has_no_zone(array.data_type());
            return convert(name, array, &DataType::Timestamp).map_err(|error| self.mismatch(error));
        }
        let text = convert(name, array, &DataType::Utf8).map_err(|error| self.mismatch(error))?;
        let mut times = Converted { column: Column::new(&DataType::Timestamp), refused: text.refused };
        for row in 0..text.column.len() {
            match text.column.str_bytes(row).map(|text| (text, parse_rfc3339(text))) {
                None => times.column.push_null(),
                Some((_, Some(instant))) => {
                    self.zoneless |= !instant.zoned;
                    times.column.push_i64(instant.us);
                }
                Some((text, None)) => {
                    let why = format!("`{}` is no RFC 3339 instant", shorten(&String::from_utf8_lossy(text)));
                    times.refused.push(plumb_columnar::Refused { row, why });
                    times.column.push_null();
                }
            }
        }
        Ok(times)
    }

    fn mismatch(&self, error: ConvertError) -> Error {
        Error::invalid(format!("`{}`: {error}", self.path.display()))
    }
}

/// Moves the refused values of a column to the rows they are in; the first reason of a row stays.
trait Noting {
    fn noting(self, name: &str, refused: &mut BTreeMap<usize, String>) -> Column;
}

impl Noting for Converted {
    fn noting(self, name: &str, refused: &mut BTreeMap<usize, String>) -> Column {
        for found in self.refused {
            refused.entry(found.row).or_insert_with(|| format!("field `{name}`: {}", found.why));
        }
        self.column
    }
}

fn reject(events: &EventBatch, first: u64, row: usize, reason: String) -> Rejected {
    let mut bytes = Vec::new();
    // The time may be what is wrong; a refused one reads as null.
    encode_columns(&events.schema, &events.columns, None, row, &mut bytes);
    Rejected { offset: first + row as u64, record_time_us: events.record_times_us[row], bytes, reason }
}

/// The name and type of a column of a batch.
fn column_of(schema: &SourceSchema, index: usize) -> (&str, &DataType) {
    match index.checked_sub(1) {
        None => (&schema.id_field, &DataType::Utf8),
        Some(field) => (&schema.fields[field].name, &schema.fields[field].data_type),
    }
}

fn arrow_unit(unit: TimeUnit) -> ArrowUnit {
    match unit {
        TimeUnit::S => ArrowUnit::Second,
        TimeUnit::Ms => ArrowUnit::Millisecond,
        TimeUnit::Us => ArrowUnit::Microsecond,
        TimeUnit::Ns => ArrowUnit::Nanosecond,
    }
}

fn is_text(data_type: &ArrowType) -> bool {
    match data_type {
        ArrowType::Dictionary(_, values) => is_text(values),
        ArrowType::Utf8 | ArrowType::LargeUtf8 | ArrowType::Utf8View => true,
        _ => false,
    }
}

/// Whether every value of a file's column can be read as the wanted type. Where not, it is read even if
/// nobody wants it: which rows are rejected must not depend on what a command looks at.
fn always_fits(found: &ArrowType, wanted: &DataType) -> bool {
    use ArrowType as A;
    let small = matches!(found, A::Int8 | A::Int16 | A::Int32 | A::Int64 | A::UInt8 | A::UInt16 | A::UInt32);
    match (found, wanted) {
        (A::Null, _) => true,
        (A::Dictionary(_, values), _) => always_fits(values, wanted),
        (_, DataType::I64) => small,
        (A::Float16 | A::Float32 | A::Float64 | A::UInt64, DataType::F64) => true,
        (_, DataType::F64) => small,
        (_, DataType::Bool) => found == &A::Boolean,
        (A::UInt64, DataType::Utf8) => true,
        (_, DataType::Utf8) => small || is_text(found),
        (A::Binary | A::LargeBinary | A::BinaryView, DataType::Bytes) => true,
        (_, DataType::Bytes) => is_text(found),
        (A::Timestamp(ArrowUnit::Microsecond | ArrowUnit::Nanosecond, _), DataType::Timestamp) => true,
        _ => false,
    }
}

/// Whether a file is part of an archive: its events were accepted before.
pub(crate) fn is_archive(schema: &Schema) -> bool {
    ["_source", "_partition", "_offset"].iter().all(|name| schema.index_of(name).is_ok())
}

impl Layout {
    fn find(file: &ParquetFile, reading: &Reading) -> Result<Self> {
        let found: &Schema = file.schema();
        let schema = &reading.schema;
        let place = |name: &str| found.index_of(name).ok();
        let used = (0..schema.columns()).map(|index| column_of(schema, index).0);
        for name in used.chain([schema.time_field.as_str()]) {
            if found.fields().iter().filter(|field| field.name() == name).count() > 1 {
                let shown = file.path().display();
                return Err(Error::invalid(format!("`{shown}` has two columns named `{name}`: rename one")));
            }
        }
        let Some(time) = place(&schema.time_field) else {
            let mut names: Vec<&str> = found.fields().iter().map(|field| field.name().as_str()).collect();
            if names.is_empty() {
                names.push("none");
            }
            return Err(Error::invalid(format!(
                "`{}` has no column `{}` for the event time; it has {}",
                file.path().display(),
                schema.time_field,
                names.join(", ")
            )));
        };
        let places = place("_partition").zip(place("_offset")).filter(|_| is_archive(found));
        let ingest = place("_ingest_time");
        let archive = places.map(|(partition, offset)| ArchivePlaces { partition, offset, ingest });
        let fields: Vec<Option<usize>> = (0..schema.columns())
            .map(|index| {
                let (name, data_type) = column_of(schema, index);
                let at = place(name)?;
                let wanted = reading.columns.as_ref().is_none_or(|wanted| wanted.contains(&index));
                // An archive is read as it is; elsewhere the id decides duplicates and a required field acceptance.
                let decides = archive.is_none()
                    && (index == 0
                        || schema.fields[index - 1].required
                        || !always_fits(found.field(at).data_type(), data_type));
                (wanted || decides).then_some(at)
            })
            .collect();
        let mut selected: Vec<usize> = fields.iter().flatten().copied().collect();
        selected.push(time);
        if let Some(ArchivePlaces { partition, offset, ingest }) = archive {
            selected.extend([partition, offset]);
            selected.extend(ingest);
        }
        selected.sort_unstable();
        selected.dedup();
        let place = |at: usize| selected.binary_search(&at).expect("every column read was selected");
        Ok(Self {
            time: place(time),
            fields: fields.into_iter().map(|at| at.map(place)).collect(),
            archive: archive.map(|ArchivePlaces { partition, offset, ingest }| ArchivePlaces {
                partition: place(partition),
                offset: place(offset),
                ingest: ingest.map(place),
            }),
            selected,
        })
    }
}
