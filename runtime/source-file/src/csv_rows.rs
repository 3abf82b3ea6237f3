//! CSV with a header: values are what JSON would hold, an empty one is null.

use crate::files::open;
use crate::reader::Reading;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use csv::{ByteRecord, Reader, ReaderBuilder};
use plumb_core::column::{Column, DataType};
use plumb_core::event::SourceSchema;
use plumb_pipeline::accept::missing_field;
use plumb_pipeline::decode::json::shorten;
use plumb_pipeline::decode::{TimeUnit, parse_rfc3339};
use plumb_pipeline::port::{Rejected, SourceBatch};
use plumb_pipeline::{Error, Result};
use std::fs::File;
use std::io::{Read, Take};
use std::path::{Path, PathBuf};

/// Decodes the records of a file.
#[derive(Debug)]
pub(crate) struct CsvRows {
    path: PathBuf,
    input: Reader<Take<File>>,
    reading: Reading,
    batch_rows: usize,
    header: Header,
    record: ByteRecord,
    row: u64,
    zoneless: bool,
}

/// Where the schema's fields are in a record.
#[derive(Debug)]
struct Header {
    columns: usize,
    time: usize,
    /// Per column of a batch the place in a record, if the file has it.
    fields: Vec<Option<usize>>,
}

impl CsvRows {
    /// Opens a file at a row, and reads no further than this many bytes of it.
    pub(crate) fn open(path: &Path, bytes: u64, reading: &Reading, row: u64, batch_rows: usize) -> Result<Self> {
        // Records of another length are rejected one by one here, not by the reader.
        let mut input = ReaderBuilder::new().flexible(true).from_reader(open(path)?.take(bytes));
        let names = input.byte_headers().map_err(|error| failed(path, error))?;
        let header = Header::find(path, names, &reading.schema)?;
        let reading = reading.clone();
        let record = ByteRecord::new();
        let path = path.to_owned();
        let mut rows = Self { path, input, reading, batch_rows, header, record, row: 0, zoneless: false };
        while rows.row < row && rows.read()? {}
        Ok(rows)
    }

    pub(crate) fn zoneless(&self) -> bool {
        self.zoneless
    }

    pub(crate) fn next_batch(&mut self) -> Result<Option<SourceBatch>> {
        let first = self.row;
        let mut batch = self.reading.empty(first);
        while self.row - first < self.batch_rows as u64 && self.read()? {
            let offset = self.row - 1;
            let rows = batch.events.len();
            match self.decode(&mut batch.events.columns) {
                Ok(time_us) => {
                    batch.events.offsets.push(offset);
                    batch.events.record_times_us.push(self.reading.record_time_us);
                    batch.events.times_us.push(time_us);
                }
                Err(reason) => {
                    batch.events.columns.iter_mut().for_each(|column| column.truncate(rows));
                    let record_time_us = self.reading.record_time_us;
                    batch.rejected.push(Rejected { offset, record_time_us, bytes: self.text(), reason });
                }
            }
        }
        batch.next_offset = self.row;
        Ok((self.row > first).then_some(batch))
    }

    /// Reads the next record; false at the end.
    fn read(&mut self) -> Result<bool> {
        let read = self.input.read_byte_record(&mut self.record).map_err(|error| failed(&self.path, error))?;
        self.row += u64::from(read);
        Ok(read)
    }

    /// Appends the record to the columns and returns its time; on an error some may be a row longer.
    fn decode(&mut self, columns: &mut [Column]) -> Result<i64, String> {
        let Header { columns: wanted, time, fields } = &self.header;
        if self.record.len() != *wanted {
            return Err(format!("{} values, the header has {wanted}", self.record.len()));
        }
        let schema = &self.reading.schema;
        for (index, (column, place)) in columns.iter_mut().zip(fields).enumerate() {
            let value = place.map_or(&b""[..], |place| &self.record[place]);
            if value.is_empty() {
                column.push_null();
                continue;
            }
            let (name, data_type) = match index.checked_sub(1) {
                None => (&schema.id_field, &DataType::Utf8),
                Some(field) => (&schema.fields[field].name, &schema.fields[field].data_type),
            };
            push(column, data_type, value, self.reading.unit).map_err(|reason| format!("field `{name}`: {reason}"))?;
        }
        let value = &self.record[*time];
        if value.is_empty() {
            return Err(missing_field(&schema.time_field));
        }
        let (time_us, zoned) =
            instant(value, self.reading.unit).map_err(|reason| format!("field `{}`: {reason}", schema.time_field))?;
        self.zoneless |= !zoned;
        if let Some(rules) = &self.reading.rules {
            rules.check_time(&schema.time_field, time_us, self.reading.record_time_us)?;
        }
        Ok(time_us)
    }

    /// The record as a line of CSV, for the dead letters.
    fn text(&self) -> Vec<u8> {
        let mut out = csv::Writer::from_writer(Vec::new());
        let written = out.write_byte_record(&self.record).map_err(|error| error.to_string());
        let text = written.and_then(|()| out.into_inner().map_err(|error| error.to_string()));
        let mut text = text.expect("a record in memory can be written to memory");
        text.pop_if(|last| *last == b'\n');
        text
    }
}

impl Header {
    fn find(path: &Path, names: &ByteRecord, schema: &SourceSchema) -> Result<Self> {
        let place = |name: &str| {
            let mut places = names.iter().enumerate().filter(|(_, found)| *found == name.as_bytes());
            let place = places.next().map(|(place, _)| place);
            match places.next() {
                None => Ok(place),
                Some(_) => Err(Error::invalid(format!("`{}`: the header names column `{name}` twice", path.display()))),
            }
        };
        let Some(time) = place(&schema.time_field)? else {
            let found: Vec<_> = names.iter().map(String::from_utf8_lossy).collect();
            let (time, found) = (&schema.time_field, found.join(", "));
            return Err(Error::invalid(format!(
                "`{}` has no column `{time}` for the event time; its header has {found}",
                path.display()
            )));
        };
        let fields = std::iter::once(&schema.id_field).chain(schema.fields.iter().map(|field| &field.name));
        let fields = fields.map(|name| place(name)).collect::<Result<_>>()?;
        Ok(Self { columns: names.len(), time, fields })
    }
}

fn failed(path: &Path, error: csv::Error) -> Error {
    Error::unavailable(format!("read `{}`", path.display()), error)
}

/// Appends a value that is not empty, or says what would be right.
fn push(column: &mut Column, data_type: &DataType, value: &[u8], unit: TimeUnit) -> Result<(), String> {
    let text = std::str::from_utf8(value).map_err(|_| "not UTF-8".to_owned())?;
    let wrong = |expected: &str| format!("expected {expected}, found `{}`", shorten(text));
    match data_type {
        DataType::I64 => column.push_i64(integer(text).ok_or_else(|| wrong("an integer"))?),
        DataType::F64 => column.push_f64(text.parse().map_err(|_| wrong("a number"))?),
        DataType::Bool if text.eq_ignore_ascii_case("true") => column.push_bool(true),
        DataType::Bool if text.eq_ignore_ascii_case("false") => column.push_bool(false),
        DataType::Bool => return Err(wrong("true or false")),
        DataType::Timestamp => column.push_i64(instant(value, unit)?.0),
        DataType::Bytes => column.push_bytes(&BASE64.decode(text).map_err(|error| format!("not base64: {error}"))?),
        // A schema's fields are no lists.
        DataType::Utf8 | DataType::List(_) => column.push_bytes(value),
    }
    Ok(())
}

/// An integer, or a number with a fraction that is none, up to 2^53 (pandas writes integers with gaps so).
fn integer(text: &str) -> Option<i64> {
    text.parse().ok().or_else(|| {
        let float: f64 = text.parse().ok()?;
        (float.fract() == 0.0 && float.abs() <= 9_007_199_254_740_992.0).then_some(float as i64)
    })
}

/// RFC 3339 text or an integer of the unit, in µs, and whether a zone was named.
fn instant(value: &[u8], unit: TimeUnit) -> Result<(i64, bool), String> {
    if let Some(instant) = parse_rfc3339(value) {
        return Ok((instant.us, instant.zoned));
    }
    let text = String::from_utf8_lossy(value);
    let Some(count) = integer(&text) else {
        return Err(format!("`{}` is no RFC 3339 instant and no integer", shorten(&text)));
    };
    let us = unit.to_us(count).ok_or_else(|| format!("{count} {} since 1970 is out of range", unit.name()))?;
    Ok((us, true))
}
