//! The records of a file as JSON, for publishing them to a log.

use crate::files::{EventFile, Format, find};
use crate::json_lines::{Line, Lines, too_long};
use crate::reader::{FileReader, Reading, say_zoneless};
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_pipeline::Result;
use plumb_pipeline::decode::json::{Record, encode};
use plumb_pipeline::decode::{JsonDecoder, TimeUnit};
use plumb_pipeline::port::Rejected;
use std::path::Path;
use std::sync::Arc;

/// Rows per batch.
const BATCH_ROWS: usize = 4096;

/// A record to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRecord {
    /// What decides its partition: the source's key field, its id where that is null; `None` if both are,
    /// or the record cannot be decoded (it is published all the same, and rejected where it is read).
    pub key: Option<Vec<u8>>,
    /// The event's time in µs; `None` if the record cannot be decoded.
    pub time_us: Option<i64>,
    /// One JSON object. A line of a JSON Lines file is unchanged, byte for byte.
    pub bytes: Vec<u8>,
}

/// Some records of one file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RawBatch {
    /// The file's name.
    pub file: String,
    /// The records, in order.
    pub records: Vec<RawRecord>,
    /// Rows that cannot be written as JSON of the schema (CSV, Parquet), by row of the file.
    pub rejected: Vec<Rejected>,
}

/// The records of a path's files, in order.
#[derive(Debug)]
pub struct RawRecords {
    files: std::vec::IntoIter<EventFile>,
    reading: Reading,
    current: Option<(String, Rows)>,
    zoneless_said: bool,
}

#[derive(Debug)]
enum Rows {
    Lines(Box<Lines>, JsonDecoder),
    Decoded(FileReader),
}

impl RawRecords {
    /// Opens a file or a folder tree.
    pub fn open(path: &Path, schema: &Arc<SourceSchema>, unit: TimeUnit) -> Result<Self> {
        Ok(Self::of(find(path)?, schema, unit))
    }

    /// Opens files one after the other. Event times are not judged here: a record is accepted or rejected where it
    /// is read from the log.
    pub fn of(files: Vec<EventFile>, schema: &Arc<SourceSchema>, unit: TimeUnit) -> Self {
        let reading = Reading { schema: schema.clone(), unit, rules: None, record_time_us: 0, columns: None };
        Self { files: files.into_iter(), reading, current: None, zoneless_said: false }
    }

    /// The next records; `None` at the end.
    pub fn next_batch(&mut self) -> Result<Option<RawBatch>> {
        loop {
            if let Some((file, rows)) = &mut self.current {
                let mut batch = RawBatch { file: file.clone(), ..RawBatch::default() };
                let more = match rows {
                    Rows::Lines(lines, decoder) => read_lines(lines, decoder, &mut batch)?,
                    Rows::Decoded(reader) => read_decoded(reader, &mut batch)?,
                };
                if more {
                    return Ok(Some(batch));
                }
                self.note_zone();
                self.current = None;
            }
            let Some(file) = self.files.next() else { return Ok(None) };
            let rows = match file.format {
                Format::JsonLines => {
                    let decoder = JsonDecoder::new(self.reading.schema.clone(), self.reading.unit);
                    Rows::Lines(Box::new(Lines::open(&file.path, 0, u64::MAX)?), decoder)
                }
                Format::Parquet | Format::Csv => {
                    Rows::Decoded(FileReader::open(&file, u64::MAX, &self.reading, 0, BATCH_ROWS)?)
                }
            };
            self.current = Some((file.path.display().to_string(), rows));
        }
    }

    /// Says once that times without a zone became UTC, which happens here only where text was rewritten.
    fn note_zone(&mut self) {
        if let Some((file, Rows::Decoded(reader))) = &self.current
            && reader.zoneless()
            && !self.zoneless_said
        {
            say_zoneless(&self.reading.schema, file);
            self.zoneless_said = true;
        }
    }
}

/// The partition key of a row.
fn key(batch: &EventBatch, row: usize) -> Option<Vec<u8>> {
    let schema = &batch.schema;
    let field = schema.column_of(&schema.key_field).map(|column| &batch.columns[column]);
    let key = field.filter(|column| column.as_strings().is_some()).and_then(|column| column.str_bytes(row));
    key.or_else(|| batch.columns[0].str_bytes(row)).map(<[u8]>::to_vec)
}

fn read_lines(lines: &mut Lines, decoder: &mut JsonDecoder, batch: &mut RawBatch) -> Result<bool> {
    let first = lines.row();
    let mut decoded = EventBatch::new(decoder.schema().clone());
    let mut bytes_read = 0;
    while lines.row() - first < BATCH_ROWS as u64 && bytes_read < 4 << 20 {
        let offset = lines.row();
        match lines.next_line()? {
            None => break,
            Some(Line::Blank) => {}
            Some(Line::Record(bytes)) => {
                bytes_read += bytes.len();
                let record = Record { offset, record_time_us: 0, bytes };
                decoded.truncate(0);
                let is_event = decoder.decode(&mut decoded, record).is_ok();
                let key = if is_event { key(&decoded, 0) } else { None };
                batch.records.push(RawRecord {
                    key,
                    time_us: decoded.times_us.first().copied(),
                    bytes: bytes.to_vec(),
                });
            }
            Some(Line::TooLong(bytes)) => {
                let (bytes, reason) = (bytes.to_vec(), too_long());
                batch.rejected.push(Rejected { offset, record_time_us: 0, bytes, reason });
            }
        }
    }
    Ok(lines.row() > first)
}

fn read_decoded(reader: &mut FileReader, batch: &mut RawBatch) -> Result<bool> {
    let Some(rows) = reader.next_batch()? else { return Ok(false) };
    for row in 0..rows.events.len() {
        let mut bytes = Vec::new();
        encode(&rows.events, row, &mut bytes);
        let time_us = Some(rows.events.times_us[row]);
        batch.records.push(RawRecord { key: key(&rows.events, row), time_us, bytes });
    }
    batch.rejected = rows.rejected;
    Ok(true)
}
