//! Writing Parquet: one place for compression, encodings and statistics.

use arrow_array::RecordBatch;
use arrow_schema::{DataType as ArrowType, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::schema::types::ColumnPath;
use plumb_pipeline::{Error, Result};
use std::io::Write;
use std::sync::Arc;

/// How a column's values look, which decides its encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnHint {
    /// Values repeat (types, categories, keys): dictionary while it pays.
    Repeating,
    /// Values are mostly distinct (ids, measurements): plain.
    Distinct,
    /// Integers or instants that mostly rise (offsets, times): differences, packed, which leaves nothing to compress.
    Rising,
    /// One value or few: dictionary, which leaves nothing to compress.
    Constant,
}

/// The settings of the files of one schema; made once, used for many files.
#[derive(Debug, Clone)]
pub struct Layout {
    schema: SchemaRef,
    properties: Arc<WriterProperties>,
    keep_arrow_types: bool,
}

impl Layout {
    /// Settings for a schema: zstd level 1, statistics per row group, dictionaries where values repeat.
    /// `hint` is asked for each top-level column.
    pub fn new(schema: SchemaRef, hint: impl Fn(&str) -> ColumnHint) -> Self {
        let mut properties = WriterProperties::builder()
            .set_writer_version(WriterVersion::PARQUET_1_0)
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_offset_index_disabled(true)
            .set_created_by("plumb".to_owned())
            .set_max_row_group_row_count(Some(256 * 1024))
            .set_dictionary_enabled(true);
        for field in schema.fields() {
            let column = || ColumnPath::from(vec![field.name().clone()]);
            properties = match hint(field.name()) {
                ColumnHint::Repeating => properties,
                ColumnHint::Distinct => properties.set_column_dictionary_enabled(column(), false),
                ColumnHint::Rising => properties
                    .set_column_dictionary_enabled(column(), false)
                    .set_column_encoding(column(), Encoding::DELTA_BINARY_PACKED)
                    .set_column_compression(column(), Compression::UNCOMPRESSED),
                ColumnHint::Constant => properties.set_column_compression(column(), Compression::UNCOMPRESSED),
            };
        }
        Self { schema, properties: Arc::new(properties.build()), keep_arrow_types: false }
    }

    /// Leaves out the smallest and largest value of strings: of no use where they are in no order, and dear to find.
    pub fn without_string_statistics(self) -> Self {
        let mut properties = self.properties.as_ref().clone().into_builder();
        for field in self.schema.fields() {
            if matches!(field.data_type(), ArrowType::Utf8 | ArrowType::Binary) {
                let column = ColumnPath::from(vec![field.name().clone()]);
                properties = properties.set_column_statistics_enabled(column, EnabledStatistics::None);
            }
        }
        Self { properties: Arc::new(properties.build()), ..self }
    }

    /// Also stores the exact Arrow types (large strings, dictionaries, zones), for files that carry another
    /// program's columns through unchanged.
    pub fn keeping_arrow_types(self) -> Self {
        Self { keep_arrow_types: true, ..self }
    }

    /// The columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }
}

/// Writes one Parquet file.
#[derive(Debug)]
pub struct ParquetWriter<W: Write + Send> {
    name: String,
    writer: ArrowWriter<W>,
}

impl<W: Write + Send> ParquetWriter<W> {
    /// Begins a file on `sink`; `name` is for error messages.
    pub fn new(name: impl Into<String>, sink: W, layout: &Layout) -> Result<Self> {
        let name = name.into();
        let options = ArrowWriterOptions::new()
            .with_properties((*layout.properties).clone())
            .with_skip_arrow_metadata(!layout.keep_arrow_types);
        let writer = ArrowWriter::try_new_with_options(sink, layout.schema.clone(), options)
            .map_err(|error| cannot_write(&name, error))?;
        Ok(Self { name, writer })
    }

    /// Appends rows.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.writer.write(batch).map_err(|error| cannot_write(&self.name, error))
    }

    /// About how many bytes the file would have if it were finished now.
    pub fn bytes_written(&self) -> usize {
        self.writer.bytes_written() + self.writer.in_progress_size()
    }

    /// Writes the footer and gives the sink back (not flushed to disk; that is the caller's).
    pub fn finish(self) -> Result<W> {
        self.writer.into_inner().map_err(|error| cannot_write(&self.name, error))
    }
}

fn cannot_write(name: &str, error: parquet::errors::ParquetError) -> Error {
    Error::unavailable(format!("write `{name}`"), error)
}
