//! Events to a file, by its ending.

use crate::files::Format;
use arrow_array::RecordBatch;
use arrow_schema::{Field, Schema};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use plumb_columnar::{ColumnHint, Layout, ParquetWriter, arrow_type, into_arrow};
use plumb_core::column::{Column, DataType, Values};
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_pipeline::decode::json::encode;
use plumb_pipeline::decode::time::write_rfc3339;
use plumb_pipeline::{Error, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Writes the events of a schema; the file gets its name at the end.
#[derive(Debug)]
pub(super) struct EventWriter {
    target: PathBuf,
    unfinished: Unfinished,
    sink: Sink,
    schema: Arc<SourceSchema>,
}

#[derive(Debug)]
enum Sink {
    Parquet(Box<ParquetWriter<BufWriter<File>>>, Arc<Schema>),
    JsonLines(BufWriter<File>),
    Csv(Box<csv::Writer<BufWriter<File>>>),
}

/// A file that is removed unless it was finished.
#[derive(Debug)]
struct Unfinished(Option<PathBuf>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // Nothing is lost if it stays.
            std::fs::remove_file(path).ok();
        }
    }
}

impl EventWriter {
    pub(super) fn create(target: &Path, schema: &Arc<SourceSchema>) -> Result<Self> {
        let shown = target.display();
        let (Some(format), Some(name)) = (Format::of(target), target.file_name()) else {
            return Err(Error::invalid(format!("`{shown}`: expected a file name ending in .parquet, .jsonl or .csv")));
        };
        let path = target.with_file_name(format!(".{}.part", name.to_string_lossy()));
        let file = File::create(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::invalid(format!("the folder of `{shown}` does not exist")),
            _ => Error::unavailable(format!("create `{}`", path.display()), error),
        })?;
        let unfinished = Unfinished(Some(path));
        let file = BufWriter::with_capacity(1 << 18, file);
        let sink = match format {
            Format::JsonLines => Sink::JsonLines(file),
            Format::Csv => Sink::Csv(Box::new(csv::Writer::from_writer(file))),
            Format::Parquet => {
                let arrow = arrow_schema(schema);
                // Ids and sessions are mostly distinct; everything else repeats.
                let id = schema.id_field.clone();
                let hint = |name: &str| if name == id { ColumnHint::Distinct } else { ColumnHint::Repeating };
                let layout = Layout::new(arrow.clone(), hint);
                Sink::Parquet(Box::new(ParquetWriter::new(shown.to_string(), file, &layout)?), arrow)
            }
        };
        let mut writer = Self { target: target.to_owned(), unfinished, sink, schema: schema.clone() };
        writer.write_header()?;
        Ok(writer)
    }

    fn write_header(&mut self) -> Result<()> {
        let fields = self.schema.fields.iter().map(|field| &field.name);
        let names = [&self.schema.id_field, &self.schema.time_field].into_iter().chain(fields);
        match &mut self.sink {
            Sink::Csv(csv) => csv.write_record(names).map_err(|error| failed(&self.target, error)),
            Sink::Parquet(..) | Sink::JsonLines(_) => Ok(()),
        }
    }

    pub(super) fn write(&mut self, batch: EventBatch) -> Result<()> {
        match &mut self.sink {
            Sink::Parquet(parquet, arrow) => {
                let times = Column::of(Values::Timestamp(batch.times_us));
                let mut columns = batch.columns;
                columns.insert(1, times);
                let arrays = columns.into_iter().map(into_arrow).collect::<Result<Vec<_>>>()?;
                let rows =
                    RecordBatch::try_new(arrow.clone(), arrays).map_err(|error| Error::internal(error.to_string()))?;
                parquet.write(&rows)
            }
            Sink::JsonLines(file) => {
                let mut text = Vec::new();
                for row in 0..batch.len() {
                    encode(&batch, row, &mut text);
                    text.push(b'\n');
                }
                file.write_all(&text).map_err(|error| failed(&self.target, error))
            }
            Sink::Csv(csv) => {
                let mut text = Vec::new();
                for row in 0..batch.len() {
                    for (index, column) in batch.columns.iter().enumerate() {
                        text.clear();
                        write_value(column, row, &mut text);
                        csv.write_field(&text).map_err(|error| failed(&self.target, error))?;
                        if index == 0 {
                            text.clear();
                            write_rfc3339(batch.times_us[row], &mut text);
                            csv.write_field(&text).map_err(|error| failed(&self.target, error))?;
                        }
                    }
                    let end: [&[u8]; 0] = [];
                    csv.write_record(end).map_err(|error| failed(&self.target, error))?;
                }
                Ok(())
            }
        }
    }

    /// Writes everything out and gives the file its name.
    pub(super) fn finish(mut self) -> Result<()> {
        let target = &self.target;
        let mut file = match self.sink {
            Sink::Parquet(parquet, _) => parquet.finish()?,
            Sink::JsonLines(file) => file,
            Sink::Csv(csv) => csv.into_inner().map_err(|error| failed(target, error.into_error()))?,
        };
        file.flush().map_err(|error| failed(target, error))?;
        if let Some(path) = &self.unfinished.0 {
            std::fs::rename(path, target).map_err(|error| failed(target, error))?;
        }
        self.unfinished.0 = None;
        Ok(())
    }
}

/// A value as CSV holds it; nothing for a null.
fn write_value(column: &Column, row: usize, out: &mut Vec<u8>) {
    if !column.is_valid(row) {
        return;
    }
    match &column.values {
        Values::I64(v) => out.extend_from_slice(v[row].to_string().as_bytes()),
        // The shortest text that reads back to the same number.
        Values::F64(v) => out.extend_from_slice(v[row].to_string().as_bytes()),
        Values::Bool(v) => out.extend_from_slice(if v[row] == 0 { b"false" } else { b"true" }),
        Values::Utf8(v) => out.extend_from_slice(v.get(row)),
        Values::Bytes(v) => out.extend_from_slice(BASE64.encode(v.get(row)).as_bytes()),
        Values::Timestamp(v) => write_rfc3339(v[row], out),
        // A schema's fields are no lists.
        Values::List { .. } => {}
    }
}

fn arrow_schema(schema: &SourceSchema) -> Arc<Schema> {
    let mut fields = vec![
        Field::new(&schema.id_field, arrow_type(&DataType::Utf8), true),
        Field::new(&schema.time_field, arrow_type(&DataType::Timestamp), false),
    ];
    fields.extend(schema.fields.iter().map(|field| Field::new(&field.name, arrow_type(&field.data_type), true)));
    Arc::new(Schema::new(fields))
}

fn failed(target: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::unavailable(format!("write `{}`", target.display()), error)
}
