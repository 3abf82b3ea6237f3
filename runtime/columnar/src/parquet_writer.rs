//! Writing Parquet: one place for compression, encodings and statistics.

use crate::float_order::{HoldingSink, in_type_order};
use crate::number_column::{NumberChunk, NumberColumn};
use arrow_array::{Array, ArrayRef, RecordBatch, new_empty_array};
use arrow_schema::{DataType as ArrowType, Field, Schema, SchemaRef};
use parquet::arrow::arrow_writer::{
    ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, ArrowWriterOptions, compute_leaves,
};
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{ColumnDescPtr, ColumnPath};
use plumb_pipeline::parallel::in_threads;
use plumb_pipeline::{Error, Result};
use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// The most rows of a row group.
const ROW_GROUP_ROWS: usize = 256 * 1024;

/// How a column's values look, which decides its encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnHint {
    /// Values repeat (types, categories, keys): dictionary while it pays.
    Repeating,
    /// Values are mostly distinct (ids, measurements): integers and instants as differences, packed; floats plain and not
    /// compressed, which would save a twentieth; others plain.
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
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_dictionary_enabled(true);
        for field in schema.fields() {
            let column = || ColumnPath::from(vec![field.name().clone()]);
            let is_float = field.data_type() == &ArrowType::Float64;
            let is_integer = matches!(field.data_type(), ArrowType::Int64 | ArrowType::Timestamp(..));
            properties = match hint(field.name()) {
                ColumnHint::Repeating => properties,
                ColumnHint::Distinct if is_float => properties
                    .set_column_dictionary_enabled(column(), false)
                    .set_column_compression(column(), Compression::UNCOMPRESSED),
                ColumnHint::Distinct if !is_integer => properties.set_column_dictionary_enabled(column(), false),
                ColumnHint::Distinct | ColumnHint::Rising => properties
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
    schema: SchemaRef,
    writer: SerializedFileWriter<HoldingSink<W>>,
    /// Who encodes each column.
    encoded_by: Vec<EncodedBy>,
    /// Makes the crate's encoders, of its columns alone: it begins with a compressor and a decompressor for each.
    of_crate: ArrowRowGroupWriterFactory,
    /// The threads that wrote last.
    threads: usize,
    open: Option<RowGroup>,
    /// The row groups begun.
    begun: usize,
}

/// Who encodes a column.
#[derive(Debug)]
enum EncodedBy {
    /// The crate, with so many leaves.
    Crate(usize),
    /// [`NumberColumn`].
    Us(ColumnDescPtr),
}

/// A row group that is not yet in the file.
#[derive(Debug)]
struct RowGroup {
    rows: usize,
    columns: Vec<OpenColumn>,
}

/// A column of an open row group.
#[derive(Debug)]
struct OpenColumn {
    encoder: Encoder,
    /// What is being written.
    array: Option<ArrayRef>,
}

/// What encodes a column.
#[derive(Debug)]
enum Encoder {
    /// One for each leaf: of a struct there are several.
    Leaves(Vec<ArrowColumnWriter>),
    Numbers(Box<NumberColumn>),
    /// Nothing any more.
    Closed,
}

/// An encoded column, not yet in the file.
#[derive(Debug)]
enum EncodedColumn {
    Leaves(Vec<ArrowColumnChunk>),
    Numbers(Box<NumberChunk>),
}

/// A row group on its way into the file: its encoded columns go there in their order, each as soon as those before it did,
/// beside the encoding of others.
struct Appender<'a, W: Write + Send> {
    file: Mutex<SerializedRowGroupWriter<'a, HoldingSink<W>>>,
    encoded: Mutex<Encoded>,
}

/// The encoded columns that are not in the file yet.
#[derive(Default)]
struct Encoded {
    waiting: BTreeMap<usize, EncodedColumn>,
    /// The column to be the next in the file.
    next: usize,
}

impl OpenColumn {
    fn write(&mut self, field: &Field, rows: Range<usize>) -> parquet::errors::Result<()> {
        let Some(array) = &self.array else { return Ok(()) };
        let part = array.slice(rows.start, rows.len());
        match &mut self.encoder {
            Encoder::Leaves(leaves) => {
                for (writer, leaf) in leaves.iter_mut().zip(compute_leaves(field, &part)?) {
                    writer.write(&leaf)?;
                }
            }
            Encoder::Numbers(column) => column.write(&part)?,
            Encoder::Closed => return Err(ParquetError::General(format!("`{}` was closed", field.name()))),
        }
        if rows.end == array.len() {
            self.array = None;
        }
        Ok(())
    }

    fn close(&mut self) -> parquet::errors::Result<EncodedColumn> {
        match std::mem::replace(&mut self.encoder, Encoder::Closed) {
            Encoder::Leaves(leaves) => {
                let close = |leaf: ArrowColumnWriter| {
                    let mut chunk = leaf.close()?;
                    let metadata = &mut chunk.close_mut().metadata;
                    *metadata = in_type_order(metadata.clone())?;
                    Ok(chunk)
                };
                Ok(EncodedColumn::Leaves(leaves.into_iter().map(close).collect::<parquet::errors::Result<_>>()?))
            }
            Encoder::Numbers(column) => Ok(EncodedColumn::Numbers(Box::new(column.close()?))),
            Encoder::Closed => Err(ParquetError::General("a column was closed twice".to_owned())),
        }
    }

    /// About how many bytes it has so far.
    fn estimated_bytes(&self) -> usize {
        match &self.encoder {
            Encoder::Leaves(leaves) => leaves.iter().map(ArrowColumnWriter::get_estimated_total_bytes).sum(),
            Encoder::Numbers(column) => column.estimated_bytes(),
            Encoder::Closed => 0,
        }
    }
}

impl EncodedColumn {
    fn append_to<W: Write + Send>(self, file: &mut SerializedRowGroupWriter<'_, W>) -> parquet::errors::Result<()> {
        match self {
            Self::Leaves(leaves) => leaves.into_iter().try_for_each(|leaf| leaf.append_to_row_group(file)),
            Self::Numbers(chunk) => chunk.append_to(file),
        }
    }
}

impl<'a, W: Write + Send> Appender<'a, W> {
    fn new(writer: &'a mut SerializedFileWriter<HoldingSink<W>>) -> parquet::errors::Result<Self> {
        Ok(Self { file: Mutex::new(writer.next_row_group()?), encoded: Mutex::default() })
    }

    /// Takes an encoded column; it goes into the file now, unless one before it is missing or somebody writes already.
    fn add(&self, index: usize, column: EncodedColumn) -> parquet::errors::Result<()> {
        self.encoded.lock().unwrap_or_else(PoisonError::into_inner).waiting.insert(index, column);
        match self.file.try_lock() {
            Ok(mut file) => self.append(&mut file),
            Err(_) => Ok(()),
        }
    }

    /// Writes what is next as long as it is there.
    fn append(&self, file: &mut SerializedRowGroupWriter<'_, HoldingSink<W>>) -> parquet::errors::Result<()> {
        let next = || {
            let mut encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
            let at = encoded.next;
            let column = encoded.waiting.remove(&at);
            encoded.next += usize::from(column.is_some());
            column
        };
        while let Some(column) = next() {
            column.append_to(file)?;
        }
        Ok(())
    }

    /// Ends the row group, of which all columns were added.
    fn finish(self) -> parquet::errors::Result<()> {
        // Who added a column while somebody wrote left it.
        self.append(&mut self.file.lock().unwrap_or_else(PoisonError::into_inner))?;
        self.file.into_inner().unwrap_or_else(PoisonError::into_inner).close().map(|_| ())
    }
}

impl<W: Write + Send> ParquetWriter<W> {
    /// Begins a file on `sink`; `name` is for error messages.
    pub fn new(name: impl Into<String>, sink: W, layout: &Layout) -> Result<Self> {
        let name = name.into();
        let options = ArrowWriterOptions::new()
            .with_properties((*layout.properties).clone())
            .with_skip_arrow_metadata(!layout.keep_arrow_types);
        let failed = |error| cannot_write(&name, error);
        let (writer, _) = ArrowWriter::try_new_with_options(HoldingSink::new(sink), layout.schema.clone(), options)
            .and_then(ArrowWriter::into_serialized_writer)
            .map_err(failed)?;
        let mut described = writer.schema_descr().columns();
        let encoded_by = layout.schema.fields().iter().map(|field| {
            let leaves = compute_leaves(field, &new_empty_array(field.data_type())).map_err(failed)?.len();
            let (of_field, rest) = described.split_at(leaves);
            described = rest;
            Ok(match of_field {
                [of] if NumberColumn::can_be(of, field.data_type(), &layout.properties) => EncodedBy::Us(of.clone()),
                _ => EncodedBy::Crate(leaves),
            })
        });
        let encoded_by: Vec<EncodedBy> = encoded_by.collect::<Result<_>>()?;
        let of_crate = of_crate(layout, &encoded_by).map_err(failed)?;
        let schema = layout.schema.clone();
        Ok(Self { name, schema, writer, encoded_by, of_crate, threads: 1, open: None, begun: 0 })
    }

    /// Appends rows.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.write_columns(batch.num_rows(), 1, |column| Ok(batch.column(column).clone()))
    }

    /// Appends `rows` rows, `make` giving each column by its place; columns are made and encoded in threads.
    pub fn write_columns(
        &mut self,
        rows: usize,
        threads: usize,
        make: impl Fn(usize) -> Result<ArrayRef> + Sync,
    ) -> Result<()> {
        self.threads = threads;
        let mut done = 0;
        while done < rows {
            let mut group = match self.open.take() {
                Some(group) => group,
                None => self.begin_row_group()?,
            };
            let part = done..rows.min(done + (ROW_GROUP_ROWS - group.rows));
            let is_full = group.rows + part.len() == ROW_GROUP_ROWS;
            let (schema, name, make) = (&self.schema, &self.name, &make);
            let failed = |error| cannot_write(name, error);
            let appender = if is_full { Some(Appender::new(&mut self.writer).map_err(failed)?) } else { None };
            let encode = |(index, column): (usize, &mut OpenColumn)| -> Result<()> {
                if part.start == 0 {
                    let array = make(index)?;
                    let field = schema.field(index);
                    if array.len() != rows || array.data_type() != field.data_type() {
                        let (found, wanted) = (array.data_type(), field.data_type());
                        return Err(Error::internal(format!(
                            "column `{}` of `{name}` should have {rows} rows of {wanted}, it has {} of {found}",
                            field.name(),
                            array.len()
                        )));
                    }
                    column.array = Some(array);
                }
                column.write(schema.field(index), part.clone()).map_err(failed)?;
                let Some(appender) = &appender else { return Ok(()) };
                column.close().and_then(|column| appender.add(index, column)).map_err(failed)
            };
            let columns = group.columns.iter_mut().enumerate();
            in_threads(threads, columns, encode)?.into_iter().collect::<Result<()>>()?;
            group.rows += part.len();
            done = part.end;
            let Some(finished) = appender.map(Appender::finish) else {
                self.open = Some(group);
                continue;
            };
            finished.map_err(failed)?;
            if done < rows {
                // What of a batch is still to come goes into the next row group.
                let mut next = self.begin_row_group()?;
                let rest = group.columns.into_iter().map(|column| column.array);
                next.columns.iter_mut().zip(rest).for_each(|(column, array)| column.array = array);
                self.open = Some(next);
            }
        }
        Ok(())
    }

    /// About how many bytes the file would have if it were finished now.
    pub fn bytes_written(&self) -> usize {
        let columns = self.open.iter().flat_map(|group| &group.columns);
        self.writer.bytes_written() + columns.map(OpenColumn::estimated_bytes).sum::<usize>()
    }

    /// Writes the footer and gives the sink back (not flushed to disk; that is the caller's).
    pub fn finish(mut self) -> Result<W> {
        let failed = |error| cannot_write(&self.name, error);
        if let Some(mut group) = self.open.take() {
            let appender = Appender::new(&mut self.writer).map_err(failed)?;
            let close = |(index, column): (usize, &mut OpenColumn)| appender.add(index, column.close()?);
            let closed = in_threads(self.threads, group.columns.iter_mut().enumerate(), close)?;
            closed.into_iter().collect::<parquet::errors::Result<()>>().map_err(failed)?;
            appender.finish().map_err(failed)?;
        }
        let columns = self.writer.schema_descr().num_columns();
        self.writer.inner_mut().hold();
        let sink = self.writer.into_inner().map_err(failed)?;
        sink.release(columns).map_err(|error| failed(error.into()))
    }

    fn begin_row_group(&mut self) -> Result<RowGroup> {
        let failed = |error| cannot_write(&self.name, error);
        let mut leaves = self.of_crate.create_column_writers(self.begun).map_err(failed)?.into_iter();
        let columns = self.encoded_by.iter().map(|by| {
            let encoder = match by {
                EncodedBy::Crate(count) => Encoder::Leaves(leaves.by_ref().take(*count).collect()),
                EncodedBy::Us(column) => {
                    Encoder::Numbers(Box::new(NumberColumn::new(column, self.writer.properties())))
                }
            };
            OpenColumn { encoder, array: None }
        });
        let columns = columns.collect();
        self.begun += 1;
        Ok(RowGroup { rows: 0, columns })
    }
}

/// What makes encoders of the crate's columns: it goes by a file, so one that has these alone and is never written.
fn of_crate(layout: &Layout, encoded_by: &[EncodedBy]) -> parquet::errors::Result<ArrowRowGroupWriterFactory> {
    let columns = layout.schema.fields().iter().zip(encoded_by);
    let fields = columns.filter(|(_, by)| matches!(by, EncodedBy::Crate(_))).map(|(field, _)| field.clone());
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let root = ArrowSchemaConverter::new().convert(&schema)?.root_schema_ptr();
    let file = SerializedFileWriter::new(std::io::sink(), root, layout.properties.clone())?;
    Ok(ArrowRowGroupWriterFactory::new(&file, schema))
}

fn cannot_write(name: &str, error: ParquetError) -> Error {
    Error::unavailable(format!("write `{name}`"), error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{Float64Array, Int64Array, StringArray, StructArray, TimestampMicrosecondArray};
    use bytes::Bytes;
    use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

    #[test]
    fn distinct_values_of_every_type_are_read_as_they_were() {
        // As far apart as can be, too.
        let numbers = || (0..70_000_i64).map(|n| if n % 9 == 0 { i64::MIN + n } else { i64::MAX / (n + 1) });
        let instants = TimestampMicrosecondArray::from_iter_values(numbers()).with_timezone("UTC");
        let columns: Vec<(&str, ArrayRef, Encoding)> = vec![
            ("ids", Arc::new(Int64Array::from_iter_values(numbers())), Encoding::DELTA_BINARY_PACKED),
            ("instants", Arc::new(instants), Encoding::DELTA_BINARY_PACKED),
            (
                "gaps",
                Arc::new(numbers().map(|n| (n % 2 == 0).then_some(n)).collect::<Int64Array>()),
                Encoding::DELTA_BINARY_PACKED,
            ),
            ("floats", Arc::new(Float64Array::from_iter_values(numbers().map(|n| n as f64 / 3.0))), Encoding::PLAIN),
            ("texts", Arc::new(StringArray::from_iter_values(numbers().map(|n| n.to_string()))), Encoding::PLAIN),
        ];
        let batch = RecordBatch::try_from_iter(columns.iter().map(|(name, of, _)| (*name, of.clone()))).unwrap();
        let layout = Layout::new(batch.schema(), |_| ColumnHint::Distinct);
        let mut writer = ParquetWriter::new("test", Vec::new(), &layout).unwrap();
        writer.write(&batch).unwrap();
        let file = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(writer.finish().unwrap())).unwrap();
        for (chunk, (name, _, encoding)) in file.metadata().row_group(0).columns().iter().zip(&columns) {
            assert!(chunk.encodings().any(|of| of == *encoding), "{name}");
        }
        let read: Vec<RecordBatch> = file.with_batch_size(100_000).build().unwrap().map(Result::unwrap).collect();
        assert!(read == [batch]);
    }

    #[test]
    fn columns_with_several_leaves_and_numbers_stand_side_by_side() {
        let numbers = |factor: i64| Arc::new((0..9).map(|n| n * factor).collect::<Int64Array>()) as ArrayRef;
        let field = |name: &str| Arc::new(Field::new(name, ArrowType::Int64, true));
        let pair = |factor| StructArray::from(vec![(field("a"), numbers(factor)), (field("b"), numbers(factor + 1))]);
        let batch = RecordBatch::try_from_iter([
            ("first", numbers(1)),
            ("pair", Arc::new(pair(10)) as ArrayRef),
            ("second", numbers(2)),
            ("third", numbers(3)),
            ("other_pair", Arc::new(pair(20))),
            ("last", numbers(4)),
        ])
        .unwrap();
        let layout = Layout::new(batch.schema(), |_| ColumnHint::Repeating);
        let mut writer = ParquetWriter::new("test", Vec::new(), &layout).unwrap();
        writer.write(&batch).unwrap();
        let file = Bytes::from(writer.finish().unwrap());
        let read: Vec<RecordBatch> = ParquetRecordBatchReader::try_new(file, 10).unwrap().map(Result::unwrap).collect();
        assert!(read == [batch]);
    }

    #[test]
    fn columns_that_come_while_somebody_writes_and_in_any_order_are_in_the_file_at_the_end() {
        let fields = ["a", "b", "c"].map(|name| Field::new(name, ArrowType::Int64, false));
        let layout = Layout::new(Arc::new(Schema::new(fields.to_vec())), |_| ColumnHint::Repeating);
        let mut writer = ParquetWriter::new("test", Vec::new(), &layout).unwrap();
        let mut group = writer.begin_row_group().unwrap();
        let arrays = [1, 2, 3].map(|value| Arc::new(Int64Array::from(vec![value, 10 * value])) as ArrayRef);
        let appender = Appender::new(&mut writer.writer).unwrap();
        let mut add = |index: usize| {
            let column = &mut group.columns[index];
            column.array = Some(arrays[index].clone());
            column.write(&fields[index], 0..2).unwrap();
            appender.add(index, column.close().unwrap()).unwrap();
        };
        add(2);
        let writing = appender.file.lock().unwrap();
        add(0);
        add(1);
        drop(writing);
        appender.finish().unwrap();
        let file = Bytes::from(writer.finish().unwrap());
        let read: Vec<RecordBatch> = ParquetRecordBatchReader::try_new(file, 10).unwrap().map(Result::unwrap).collect();
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].columns(), arrays);
    }
}
