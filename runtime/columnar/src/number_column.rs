//! Columns of 64-bit numbers whose values repeat, as dictionary-encoded pages of Parquet.
//!
//! A training set is mostly such columns, and to give each value its code is most of the work of writing it: some 20 ns in
//! the table that the crate's writer has for all types. The table here is for numbers alone. The headers of pages, and what
//! a file says of a chunk, are the crate's.
//!
//! The form is that of <https://parquet.apache.org/docs/file-format/data-pages/encodings/>: a dictionary page of plain
//! values, then data pages with the codes of those that are not null, in as many bits as the dictionary so far takes, runs
//! and packed groups mixed. Pages that begin when the dictionary is full have plain values.

use crate::compressors::compress;
use crate::float_order::in_type_order;
use crate::runs::{put_run, put_runs};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef};
use arrow_buffer::NullBuffer;
use arrow_schema::{DataType as ArrowType, TimeUnit};
use bytes::Bytes;
use parquet::basic::{Compression, Encoding, PageType, Type};
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ColumnChunkMetaData, PageEncodingStats};
use parquet::file::properties::WriterProperties;
use parquet::file::statistics::Statistics;
use parquet::file::writer::{SerializedPageWriter, SerializedRowGroupWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;
use std::io::Write;

/// The rows of a page, as the crate's writer has them.
const PAGE_ROWS: usize = 20_000;

/// The values of a dictionary that is not added to any more: of the size at which the crate's writer stops.
const DICTIONARY_VALUES: usize = (1 << 20) / size_of::<u64>();

/// A column of a row group that is being written.
#[derive(Debug)]
pub(crate) struct NumberColumn {
    column: ColumnDescPtr,
    codec: Codec,
    distinct: Distinct,
    /// The rows of the page to come.
    waiting: usize,
    /// Which of them have a value; empty as long as all have.
    valid: Vec<bool>,
    /// Whether the page is plain: the dictionary was full when it began.
    is_plain: bool,
    /// The codes of its values, or its values.
    codes: Vec<u32>,
    plain: Vec<u64>,
    pages: Vec<EncodedPage>,
    /// The bytes of the pages.
    bytes: usize,
    rows: usize,
    nulls: usize,
    /// The least and the greatest of the values of plain pages.
    bounds: Bounds,
}

/// A data page, compressed.
#[derive(Debug)]
struct EncodedPage {
    bytes: Vec<u8>,
    uncompressed: usize,
    rows: usize,
    encoding: Encoding,
}

/// Compresses pages, with the same memory for all of a column.
#[derive(Debug)]
struct Codec {
    compression: Compression,
    /// A page before, and after.
    page: Vec<u8>,
    compressed: Vec<u8>,
}

impl Codec {
    fn compress(&mut self, bytes: &[u8]) -> Result<Vec<u8>> {
        let Compression::ZSTD(level) = self.compression else { return Ok(bytes.to_vec()) };
        compress(level, bytes, &mut self.compressed)?;
        Ok(self.compressed.clone())
    }
}

/// An encoded column, not yet in a file.
#[derive(Debug)]
pub(crate) struct NumberChunk {
    bytes: Bytes,
    close: ColumnCloseResult,
}

impl NumberColumn {
    /// Whether a column can be written here. Where not, it is the crate's: of another type, in a struct or list, without a
    /// dictionary, or compressed in a way unknown here.
    pub(crate) fn can_be(column: &ColumnDescPtr, data_type: &ArrowType, properties: &WriterProperties) -> bool {
        let (path, compression) = (column.path(), properties.compression(column.path()));
        let is_number =
            matches!(data_type, ArrowType::Int64 | ArrowType::Float64 | ArrowType::Timestamp(TimeUnit::Microsecond, _));
        let is_flat = path.parts().len() == 1 && column.max_rep_level() == 0;
        let is_known = matches!(compression, Compression::ZSTD(_) | Compression::UNCOMPRESSED);
        is_number && is_flat && is_known && properties.dictionary_enabled(path)
    }

    /// A column that [can be](Self::can_be) written here.
    pub(crate) fn new(column: &ColumnDescPtr, properties: &WriterProperties) -> Self {
        let compression = properties.compression(column.path());
        Self {
            column: column.clone(),
            codec: Codec { compression, page: Vec::new(), compressed: Vec::new() },
            distinct: Distinct::default(),
            waiting: 0,
            valid: Vec::new(),
            is_plain: false,
            codes: Vec::new(),
            plain: Vec::new(),
            pages: Vec::new(),
            bytes: 0,
            rows: 0,
            nulls: 0,
            bounds: Bounds::default(),
        }
    }

    /// Appends an array of the column's type.
    pub(crate) fn write(&mut self, array: &ArrayRef) -> Result<()> {
        let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
        if nulls.is_some() && self.column.max_def_level() == 0 {
            return Err(ParquetError::General(format!("nulls in column `{}`, which has none", self.column.name())));
        }
        match array.data_type() {
            ArrowType::Int64 => self.append(array.as_primitive::<Int64Type>().values(), nulls, |&value| value as u64),
            ArrowType::Timestamp(..) => {
                let array = array.as_primitive::<TimestampMicrosecondType>();
                self.append(array.values(), nulls, |&value| value as u64)
            }
            ArrowType::Float64 => self.append(array.as_primitive::<Float64Type>().values(), nulls, |v| v.to_bits()),
            other => Err(ParquetError::General(format!("{other} in column `{}` of numbers", self.column.name()))),
        }
    }

    fn append<T>(&mut self, all: &[T], nulls: Option<&NullBuffer>, bits: impl Fn(&T) -> u64) -> Result<()> {
        let mut done = 0;
        while done < all.len() {
            if self.waiting == 0 {
                self.is_plain = self.distinct.values.len() >= DICTIONARY_VALUES;
            }
            let part = done..all.len().min(done + PAGE_ROWS - self.waiting);
            match nulls {
                None => {
                    self.take(all[part.clone()].iter().map(&bits));
                    if !self.valid.is_empty() {
                        self.valid.resize(self.waiting + part.len(), true);
                    }
                }
                Some(nulls) => {
                    let is_valid = |row: &usize| nulls.is_valid(*row);
                    self.take(part.clone().filter(is_valid).map(|row| bits(&all[row])));
                    self.valid.resize(self.waiting, true);
                    self.valid.extend(part.clone().map(|row| is_valid(&row)));
                }
            }
            self.waiting += part.len();
            done = part.end;
            if self.waiting == PAGE_ROWS {
                self.end_page()?;
            }
        }
        Ok(())
    }

    /// Takes values for the page to come.
    fn take(&mut self, values: impl Iterator<Item = u64>) {
        if self.is_plain {
            let start = self.plain.len();
            self.plain.extend(values);
            self.bounds.add(&self.plain[start..], self.column.physical_type());
        } else {
            self.codes.extend(values.map(|value| self.distinct.code(value)));
        }
    }

    fn end_page(&mut self) -> Result<()> {
        let values = self.codes.len() + self.plain.len();
        let mut page = std::mem::take(&mut self.codec.page);
        page.clear();
        if self.column.max_def_level() > 0 {
            page.extend([0; 4]);
            if self.valid.is_empty() {
                put_run(1, values, 1, &mut page);
            } else {
                let levels: Vec<u32> = self.valid.iter().map(|&valid| valid.into()).collect();
                put_runs(&levels, 1, &mut page);
            }
            let length = (page.len() - 4) as u32;
            page[..4].copy_from_slice(&length.to_le_bytes());
        }
        let encoding = if self.is_plain {
            page.extend(self.plain.iter().flat_map(|value| value.to_le_bytes()));
            Encoding::PLAIN
        } else {
            let width = self.distinct.code_bits();
            page.push(width);
            put_runs(&self.codes, width, &mut page);
            Encoding::RLE_DICTIONARY
        };
        let bytes = self.codec.compress(&page)?;
        self.bytes += bytes.len();
        self.pages.push(EncodedPage { bytes, uncompressed: page.len(), rows: self.waiting, encoding });
        self.rows += self.waiting;
        self.nulls += self.waiting - values;
        self.codec.page = page;
        self.waiting = 0;
        self.valid.clear();
        self.codes.clear();
        self.plain.clear();
        Ok(())
    }

    /// About how many bytes the column has so far.
    pub(crate) fn estimated_bytes(&self) -> usize {
        let waiting =
            self.codes.len() * usize::from(self.distinct.code_bits()) / 8 + self.plain.len() * size_of::<u64>();
        self.bytes + waiting + self.distinct.values.len() * size_of::<u64>()
    }

    /// Ends the column.
    pub(crate) fn close(mut self) -> Result<NumberChunk> {
        if self.waiting > 0 {
            self.end_page()?;
        }
        let mut sink = TrackedWrite::new(Vec::with_capacity(self.estimated_bytes()));
        let mut writer = SerializedPageWriter::new(&mut sink);
        let (mut compressed, mut uncompressed) = (0, 0);
        let mut put = |page: Page, size: usize| -> Result<u64> {
            let written = writer.write_page(CompressedPage::new(page, size))?;
            compressed += written.compressed_size as i64;
            uncompressed += written.uncompressed_size as i64;
            Ok(written.offset)
        };
        let plain: Vec<u8> = self.distinct.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let dictionary = Page::DictionaryPage {
            buf: self.codec.compress(&plain)?.into(),
            num_values: self.distinct.values.len() as u32,
            encoding: Encoding::PLAIN,
            is_sorted: false,
        };
        let dictionary_at = put(dictionary, plain.len())?;
        let mut stats = vec![stats_of(PageType::DICTIONARY_PAGE, Encoding::PLAIN)];
        let mut data_at = None;
        for EncodedPage { bytes, uncompressed, rows, encoding } in std::mem::take(&mut self.pages) {
            let page = Page::DataPage {
                buf: bytes.into(),
                num_values: rows as u32,
                encoding,
                def_level_encoding: Encoding::RLE,
                rep_level_encoding: Encoding::RLE,
                statistics: None,
            };
            let at = put(page, uncompressed)?;
            data_at.get_or_insert(at);
            match stats.last_mut() {
                Some(last) if last.page_type == PageType::DATA_PAGE && last.encoding == encoding => last.count += 1,
                _ => stats.push(stats_of(PageType::DATA_PAGE, encoding)),
            }
        }
        let encodings = vec![Encoding::PLAIN, Encoding::RLE, Encoding::RLE_DICTIONARY];
        self.bounds.add(&self.distinct.values, self.column.physical_type());
        let metadata = ColumnChunkMetaData::builder(self.column.clone())
            .set_compression(self.codec.compression)
            .set_encodings(encodings)
            .set_page_encoding_stats(stats)
            .set_num_values(self.rows as i64)
            .set_total_compressed_size(compressed)
            .set_total_uncompressed_size(uncompressed)
            .set_dictionary_page_offset(Some(dictionary_at as i64))
            .set_data_page_offset(data_at.unwrap_or_default() as i64)
            .set_statistics(self.bounds.statistics(self.column.physical_type(), self.nulls as u64))
            .build()?;
        let metadata = in_type_order(metadata)?;
        let bytes = Bytes::from(sink.into_inner()?);
        let close = ColumnCloseResult {
            bytes_written: bytes.len() as u64,
            rows_written: self.rows as u64,
            metadata,
            bloom_filter: None,
            column_index: None,
            offset_index: None,
        };
        Ok(NumberChunk { bytes, close })
    }
}

fn stats_of(page_type: PageType, encoding: Encoding) -> PageEncodingStats {
    PageEncodingStats { page_type, encoding, count: 1 }
}

impl NumberChunk {
    /// Appends the column to a row group.
    pub(crate) fn append_to<W: Write + Send>(self, row_group: &mut SerializedRowGroupWriter<'_, W>) -> Result<()> {
        row_group.append_column(&self.bytes, self.close)
    }
}

/// The values of a dictionary in the order in which they came, with a code each.
#[derive(Debug, Default)]
struct Distinct {
    values: Vec<u64>,
    /// One more than the code of a value, at the place of its hash or the next ones; 0 where there is none. At least twice
    /// as many as values, a power of two.
    slots: Vec<u32>,
}

impl Distinct {
    /// The code of a value, the next one if it has none.
    fn code(&mut self, value: u64) -> u32 {
        if self.slots.len() < 2 * (self.values.len() + 1) {
            self.grow();
        }
        let mut at = self.place(value);
        loop {
            match self.slots[at] {
                0 => break,
                slot if self.values[slot as usize - 1] == value => return slot - 1,
                _ => at = (at + 1) & (self.slots.len() - 1),
            }
        }
        self.values.push(value);
        let slot = self.values.len() as u32;
        self.slots[at] = slot;
        slot - 1
    }

    /// Where a value is looked for first. Whole numbers differ in their lowest bits, floats in their highest: folded and
    /// multiplied, both reach the highest of the product.
    fn place(&self, value: u64) -> usize {
        let product = (value ^ value >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (product >> (64 - self.slots.len().trailing_zeros())) as usize
    }

    fn grow(&mut self) {
        self.slots = vec![0; (2 * self.slots.len()).max(1 << 10)];
        for code in 0..self.values.len() {
            let mut at = self.place(self.values[code]);
            while self.slots[at] != 0 {
                at = (at + 1) & (self.slots.len() - 1);
            }
            self.slots[at] = code as u32 + 1;
        }
    }

    /// How many bits a code takes.
    fn code_bits(&self) -> u8 {
        let last = self.values.len().saturating_sub(1) as u32;
        (u32::BITS - last.leading_zeros()) as u8
    }
}

/// The least and the greatest of some values, by their bits; NaN is neither.
#[derive(Debug, Default)]
struct Bounds(Option<(u64, u64)>);

impl Bounds {
    fn add(&mut self, values: &[u64], of: Type) {
        for &value in values {
            if of == Type::DOUBLE && f64::from_bits(value).is_nan() {
                continue;
            }
            let is_less = |a: u64, b: u64| match of {
                Type::DOUBLE => f64::from_bits(a) < f64::from_bits(b),
                _ => (a as i64) < (b as i64),
            };
            let (least, greatest) = self.0.get_or_insert((value, value));
            if is_less(value, *least) {
                *least = value;
            }
            if is_less(*greatest, value) {
                *greatest = value;
            }
        }
    }

    fn statistics(&self, of: Type, nulls: u64) -> Statistics {
        let (least, greatest) = self.0.unzip();
        match of {
            Type::DOUBLE => {
                let (least, greatest) = (least.map(f64::from_bits), greatest.map(f64::from_bits));
                Statistics::double(least, greatest, None, Some(nulls), false)
            }
            _ => {
                let number = |bits: u64| bits as i64;
                Statistics::int64(least.map(number), greatest.map(number), None, Some(nulls), false)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ColumnHint, Layout, ParquetWriter};
    use arrow_array::{Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
    use arrow_schema::{Field, Schema};
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
    use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
    use std::sync::Arc;

    /// More than a row group: some pages end in each, and the last is not full.
    const ROWS: usize = 300_003;

    /// Numbers without order, the same each time.
    fn noise(row: usize) -> u64 {
        let mixed = (row as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ mixed >> 31
    }

    /// Columns of every kind: few values and many, runs, nulls here and there or in blocks, everything alike, nothing.
    fn columns() -> Vec<(&'static str, ArrayRef)> {
        let ints = |value: &dyn Fn(usize) -> Option<i64>| Arc::new((0..ROWS).map(value).collect::<Int64Array>());
        let floats = |value: &dyn Fn(usize) -> Option<f64>| Arc::new((0..ROWS).map(value).collect::<Float64Array>());
        let bits = |row| f64::from_bits(noise(row) % 1000 * 0x0123_4567_89ab_cdef);
        let instants = (0..ROWS).map(|row| (row % 7 > 0).then_some(-((noise(row) % 5000) as i64)));
        vec![
            ("few", ints(&|row| Some((noise(row) % 13) as i64 - 6))),
            ("runs", ints(&|row| Some((row / 9 % 300) as i64))),
            ("alike", ints(&|_| Some(i64::MIN))),
            ("high", ints(&|row| Some(((noise(row) % 3000) << 40) as i64))),
            // The least and the greatest come when the dictionary is full.
            ("distinct", ints(&|row| Some((noise(row) >> 2) as i64 - if row == 250_000 { i64::MAX } else { 0 }))),
            ("greatest", ints(&|row| Some((noise(row) >> 2) as i64 | if row == 250_000 { 1 << 62 } else { 0 }))),
            ("nothing", ints(&|_| None)),
            ("blocks", ints(&|row| (row / 30_000 % 2 > 0).then_some((row % 100) as i64))),
            ("late", ints(&|row| (row != 19_999).then_some(1))),
            ("floats", floats(&|row| (noise(row) % 5 != 1).then(|| bits(row)))),
            ("special", floats(&|row| Some([f64::NAN, 0.0, -0.0, -f64::NAN, f64::INFINITY, f64::MIN][row % 6]))),
            ("instants", Arc::new(instants.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))),
        ]
    }

    fn batch() -> RecordBatch {
        let columns = columns();
        let fields = columns.iter().map(|(name, of)| Field::new(*name, of.data_type().clone(), of.null_count() > 0));
        let schema = Schema::new(fields.collect::<Vec<_>>());
        RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|(_, of)| of).collect()).unwrap()
    }

    fn written(batch: &RecordBatch, rows_at_a_time: usize) -> Bytes {
        let layout = Layout::new(batch.schema(), |_| ColumnHint::Repeating);
        let mut writer = ParquetWriter::new("test", Vec::new(), &layout).unwrap();
        for start in (0..ROWS).step_by(rows_at_a_time) {
            writer.write(&batch.slice(start, rows_at_a_time.min(ROWS - start))).unwrap();
        }
        writer.finish().unwrap().into()
    }

    fn metadata(file: &Bytes) -> ParquetMetaData {
        ParquetMetaDataReader::new().parse_and_finish(file).unwrap()
    }

    /// The bits of numbers, which tell zeros and NaNs apart.
    fn bits(of: &ArrayRef) -> Vec<Option<u64>> {
        let rows = 0..of.len();
        match of.as_primitive_opt::<Float64Type>() {
            Some(floats) => rows.map(|row| of.is_valid(row).then(|| floats.value(row).to_bits())).collect(),
            None => {
                let ints = arrow_cast::cast(of, &ArrowType::Int64).unwrap();
                rows.map(|row| of.is_valid(row).then(|| ints.as_primitive::<Int64Type>().value(row) as u64)).collect()
            }
        }
    }

    #[test]
    fn numbers_are_read_as_they_were_and_however_they_came() {
        let batch = batch();
        let file = written(&batch, ROWS);
        for rows_at_a_time in [1_009, 20_000, 65_536] {
            assert!(written(&batch, rows_at_a_time) == file, "{rows_at_a_time} rows at a time");
        }
        // A page at a time, and as many as there are.
        for size in [ROWS, 20_000, 777] {
            let reader = ParquetRecordBatchReaderBuilder::try_new(file.clone()).unwrap().with_batch_size(size);
            let read = reader.build().unwrap().collect::<std::result::Result<Vec<_>, _>>().unwrap();
            for (index, field) in batch.schema().fields().iter().enumerate() {
                let found: Vec<_> = read.iter().flat_map(|read| bits(read.column(index))).collect();
                assert!(found == bits(batch.column(index)), "{}", field.name());
            }
        }
    }

    #[test]
    fn what_a_file_says_of_numbers_is_what_the_crates_writer_says() {
        let batch = batch();
        let ours = metadata(&written(&batch, 65_536));
        let mut theirs = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
        for group in ours.row_groups() {
            let start = theirs.flushed_row_groups().iter().map(|group| group.num_rows() as usize).sum();
            theirs.write(&batch.slice(start, group.num_rows() as usize)).unwrap();
            theirs.flush().unwrap();
        }
        let theirs = metadata(&theirs.into_inner().unwrap().into());
        assert_eq!(ours.num_row_groups(), 2);
        for (ours, theirs) in ours.row_groups().iter().zip(theirs.row_groups()) {
            for (ours, theirs) in ours.columns().iter().zip(theirs.columns()) {
                let name = ours.column_path().string();
                assert_eq!(ours.num_values(), theirs.num_values(), "{name}");
                let (found, wanted) = (ours.statistics().unwrap(), theirs.statistics().unwrap());
                assert_eq!(found.null_count_opt(), wanted.null_count_opt(), "{name}");
                assert_eq!(found.min_bytes_opt(), wanted.min_bytes_opt(), "{name}");
                assert_eq!(found.max_bytes_opt(), wanted.max_bytes_opt(), "{name}");
                let has_dictionary = |of: &ColumnChunkMetaData| of.dictionary_page_offset().is_some();
                assert!(has_dictionary(ours) && has_dictionary(theirs), "{name}");
                // The encodings of data pages.
                let pages = |of: &ColumnChunkMetaData| *of.page_encoding_stats_mask().unwrap();
                assert_eq!(pages(ours), pages(theirs), "{name}");
            }
        }
    }

    #[test]
    fn nulls_in_a_column_without_any_are_an_error() {
        let field = Field::new("count", ArrowType::Int64, false);
        let layout = Layout::new(Arc::new(Schema::new(vec![field])), |_| ColumnHint::Repeating);
        let mut writer = ParquetWriter::new("test", Vec::new(), &layout).unwrap();
        let nulls: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
        let error = writer.write_columns(2, 1, |_| Ok(nulls.clone())).unwrap_err();
        assert!(format!("{error:?}").contains("nulls in column `count`"), "{error:?}");
    }

    #[test]
    fn a_file_without_rows_has_none() {
        let empty = batch().slice(0, 0);
        let layout = Layout::new(empty.schema(), |_| ColumnHint::Repeating);
        let mut writer = ParquetWriter::new("test", Vec::new(), &layout).unwrap();
        writer.write(&empty).unwrap();
        let file = Bytes::from(writer.finish().unwrap());
        assert_eq!(ParquetRecordBatchReader::try_new(file, 10).unwrap().count(), 0);
    }
}
