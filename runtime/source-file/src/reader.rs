//! One file, row by row, whatever its format.

use crate::csv_rows::CsvRows;
use crate::files::{EventFile, Format};
use crate::json_lines::JsonLines;
use crate::parquet_rows::ParquetRows;
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_pipeline::Result;
use plumb_pipeline::accept::AcceptRules;
use plumb_pipeline::decode::TimeUnit;
use plumb_pipeline::port::SourceBatch;
use std::sync::Arc;

/// What every file of a reading has in common.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    /// The schema of the batches.
    pub(crate) schema: Arc<SourceSchema>,
    /// The unit of integer times; a Parquet timestamp carries its own.
    pub(crate) unit: TimeUnit,
    /// Rules applied while a text record's own bytes are at hand.
    pub(crate) rules: Option<AcceptRules>,
    /// The records' timestamp, µs.
    pub(crate) record_time_us: i64,
    /// The columns of a batch that are wanted; others may come as nulls. `None` = all.
    pub(crate) columns: Option<Vec<usize>>,
}

impl Reading {
    /// A batch without rows that begins at `row`.
    pub(crate) fn empty(&self, row: u64) -> SourceBatch {
        SourceBatch { events: EventBatch::new(self.schema.clone()), rejected: Vec::new(), next_offset: row }
    }
}

/// Reads the rows of one file; the offsets of its batches are rows of the file.
#[derive(Debug)]
pub(crate) enum FileReader {
    Parquet(Box<ParquetRows>),
    JsonLines(Box<JsonLines>),
    Csv(Box<CsvRows>),
}

impl FileReader {
    /// Opens a file at a row; batches hold at most `batch_rows` rows. Of a text file no more than `bytes` bytes
    /// are read, so that what was appended since it was first seen cannot slip in.
    pub(crate) fn open(file: &EventFile, bytes: u64, reading: &Reading, row: u64, batch_rows: usize) -> Result<Self> {
        let path = &file.path;
        Ok(match file.format {
            Format::Parquet => Self::Parquet(Box::new(ParquetRows::open(path, reading, row, batch_rows)?)),
            Format::JsonLines => Self::JsonLines(Box::new(JsonLines::open(path, bytes, reading, row, batch_rows)?)),
            Format::Csv => Self::Csv(Box::new(CsvRows::open(path, bytes, reading, row, batch_rows)?)),
        })
    }

    /// The next rows; `None` at the end.
    pub(crate) fn next_batch(&mut self) -> Result<Option<SourceBatch>> {
        match self {
            Self::Parquet(rows) => rows.next_batch(),
            Self::JsonLines(rows) => rows.next_batch(),
            Self::Csv(rows) => rows.next_batch(),
        }
    }

    /// Whether an event time without a zone was seen, and taken as UTC.
    pub(crate) fn zoneless(&self) -> bool {
        match self {
            Self::Parquet(rows) => rows.zoneless(),
            Self::JsonLines(rows) => rows.zoneless(),
            Self::Csv(rows) => rows.zoneless(),
        }
    }

    /// The partition of each event of the last batch, in an archive.
    pub(crate) fn take_partitions(&mut self) -> Vec<u32> {
        match self {
            Self::Parquet(rows) => rows.take_partitions(),
            Self::JsonLines(_) | Self::Csv(_) => Vec::new(),
        }
    }

    /// Whether the file is part of an archive: its events were accepted when they were written.
    pub(crate) fn is_archive(&self) -> bool {
        matches!(self, Self::Parquet(rows) if rows.is_archive())
    }
}

/// Moves the rows of a batch to where its file begins in the source.
pub(crate) fn shift(batch: &mut SourceBatch, base: u64) {
    batch.events.offsets.iter_mut().for_each(|offset| *offset += base);
    batch.rejected.iter_mut().for_each(|record| record.offset += base);
    batch.next_offset += base;
}

/// Says once that times without a zone are read as UTC.
pub(crate) fn say_zoneless(schema: &SourceSchema, file: &str) {
    let (source, field) = (&schema.source, &schema.time_field);
    tracing::warn!(source, field, file, "times without a zone are read as UTC");
}
