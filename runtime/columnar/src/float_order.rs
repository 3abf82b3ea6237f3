//! Smallest and largest floats in a Parquet file as readers of any age understand them.
//!
//! A file says in which order each column's smallest and largest value were found (`ColumnOrder` of
//! <https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift>). Since its version 60 the crate
//! takes for floats the total order of IEEE 754, a kind that came with 2026, and has no setting for it. Readers made
//! before do not pass over a kind that they do not know, they refuse the file: Polars until 1.39 and DataFusion until 50
//! among them. So every column keeps the order of its type here: the statistics are made to follow its rules, and the
//! footer, held back while it is written, names it.

use crate::runs::put_varint;
use parquet::basic::LogicalType;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::statistics::{Statistics, ValueStatistics};
use std::io::{Error, ErrorKind, Result, Write};

/// A column's kind of order as Thrift's compact protocol writes it: which of the union it is, an empty struct, the end.
const TYPE_ORDER: [u8; 3] = [0x1c, 0, 0];
const TOTAL_ORDER: [u8; 3] = [0x2c, 0, 0];
/// What follows the columns' orders, the last field of a footer: the footer's end, its length, and the magic number.
const AFTER_ORDERS: usize = 1 + 4 + 4;

/// A chunk's metadata with statistics by the rules of the type's order: a bound is never NaN, and as zeros are equal, the
/// smallest is -0.0 and the largest 0.0.
pub(crate) fn in_type_order(chunk: ColumnChunkMetaData) -> parquet::errors::Result<ColumnChunkMetaData> {
    let is_half = chunk.column_descr().logical_type_ref() == Some(&LogicalType::Float16);
    // The same for each type of float, whose common trait is not public.
    macro_rules! bound_by {
        ($found:expr, $min:expr, $max:expr) => {
            ValueStatistics::new($min, $max, $found.distinct_count(), $found.null_count_opt(), false)
                .with_nan_count($found.nan_count_opt())
        };
    }
    let statistics = match chunk.statistics() {
        Some(Statistics::Double(found)) => {
            Statistics::Double(bound_by!(found, bound(found.min_opt(), -0.0), bound(found.max_opt(), 0.0)))
        }
        Some(Statistics::Float(found)) => {
            Statistics::Float(bound_by!(found, bound(found.min_opt(), -0.0), bound(found.max_opt(), 0.0)))
        }
        // Of halves, which only labels can have, bounds are no loss.
        Some(Statistics::FixedLenByteArray(found)) if is_half => {
            Statistics::FixedLenByteArray(bound_by!(found, None, None))
        }
        _ => return Ok(chunk),
    };
    chunk.into_builder().set_statistics(statistics).build()
}

/// A bound, unless it is NaN; `zero` in place of either zero.
fn bound<T: Copy + PartialOrd>(found: Option<&T>, zero: T) -> Option<T> {
    let is_number = |value: &T| value.partial_cmp(value).is_some();
    found.copied().filter(is_number).map(|value| if value == zero { zero } else { value })
}

/// A sink that can hold back what is written last.
#[derive(Debug)]
pub(crate) struct HoldingSink<W> {
    sink: W,
    held: Option<Vec<u8>>,
}

impl<W: Write> HoldingSink<W> {
    pub(crate) fn new(sink: W) -> Self {
        Self { sink, held: None }
    }

    /// Keeps what is written from now on.
    pub(crate) fn hold(&mut self) {
        self.held.get_or_insert_default();
    }

    /// Writes what was held, which ends with the footer of a file of `columns` leaves, and gives the sink back.
    ///
    /// Fails where the footer is not as this crate's version 60 writes it.
    pub(crate) fn release(mut self, columns: usize) -> Result<W> {
        let mut held = self.held.take().unwrap_or_default();
        name_type_order(&mut held, columns)?;
        self.sink.write_all(&held)?;
        Ok(self.sink)
    }
}

impl<W: Write> Write for HoldingSink<W> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        match &mut self.held {
            Some(held) => held.write(bytes),
            None => self.sink.write(bytes),
        }
    }

    fn flush(&mut self) -> Result<()> {
        self.sink.flush()
    }
}

/// Names the order of the type for all columns in the footer at the end of `file`.
fn name_type_order(file: &mut [u8], columns: usize) -> Result<()> {
    let unlike = || {
        let message = format!("the footer does not end with the orders of {columns} columns");
        Error::new(ErrorKind::InvalidData, message)
    };
    let end = file.len().checked_sub(AFTER_ORDERS).ok_or_else(unlike)?;
    let start = end.checked_sub(columns * TYPE_ORDER.len()).ok_or_else(unlike)?;
    if !file[..start].ends_with(&list_of_structs(columns)) || file[end] != 0 {
        return Err(unlike());
    }
    for order in file[start..end].chunks_exact_mut(TYPE_ORDER.len()) {
        if order != TYPE_ORDER && order != TOTAL_ORDER {
            return Err(unlike());
        }
        order.copy_from_slice(&TYPE_ORDER);
    }
    Ok(())
}

/// The head of a list in Thrift's compact protocol: how many and of which type in one byte, or how many after it.
fn list_of_structs(count: usize) -> Vec<u8> {
    const STRUCT: u8 = 0x0c;
    if count < 15 {
        return vec![(count as u8) << 4 | STRUCT];
    }
    let mut head = vec![0xf0 | STRUCT];
    put_varint(count, &mut head);
    head
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ColumnHint, Layout, ParquetWriter};
    use arrow_array::types::{ArrowPrimitiveType as ArrowPrimitive, Float16Type};
    use arrow_array::{ArrayRef, Float16Array, Float32Array, Float64Array, Int64Array, RecordBatch};
    use arrow_schema::{Field, Schema};
    use bytes::Bytes;
    use parquet::basic::ColumnOrder;
    use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
    use std::sync::Arc;

    fn metadata_of(columns: Vec<ArrayRef>) -> ParquetMetaData {
        let names = (0..columns.len()).map(|index| format!("c{index}"));
        let field = |(name, column): (String, &ArrayRef)| Field::new(name, column.data_type().clone(), true);
        let schema = Arc::new(Schema::new(names.zip(&columns).map(field).collect::<Vec<_>>()));
        let layout = Layout::new(schema.clone(), |_| ColumnHint::Repeating);
        let mut writer = ParquetWriter::new("test", Vec::new(), &layout).unwrap();
        writer.write(&RecordBatch::try_new(schema, columns).unwrap()).unwrap();
        let file = Bytes::from(writer.finish().unwrap());
        ParquetMetaDataReader::new().parse_and_finish(&file).unwrap()
    }

    /// The bits of the bounds of doubles.
    fn bounds_of(values: &[f64]) -> (Option<u64>, Option<u64>) {
        let metadata = metadata_of(vec![Arc::new(Float64Array::from(values.to_vec()))]);
        let Some(Statistics::Double(found)) = metadata.row_group(0).column(0).statistics() else { panic!() };
        (found.min_opt().map(|min| min.to_bits()), found.max_opt().map(|max| max.to_bits()))
    }

    #[test]
    fn bounds_are_those_of_the_types_order() {
        let bits = |min: f64, max: f64| (Some(min.to_bits()), Some(max.to_bits()));
        assert_eq!(bounds_of(&[2.5, -1.0]), bits(-1.0, 2.5));
        assert_eq!(bounds_of(&[2.5, f64::NAN, -1.0]), bits(-1.0, 2.5));
        assert_eq!(bounds_of(&[f64::NAN]), (None, None));
        assert_eq!(bounds_of(&[0.0]), bits(-0.0, 0.0));
        assert_eq!(bounds_of(&[-0.0]), bits(-0.0, 0.0));
    }

    #[test]
    fn every_column_has_the_order_of_its_type_however_many_there_are() {
        for count in [0, 1, 14, 15, 16, 127, 128, 300] {
            let column = |index: usize| -> ArrayRef {
                match index % 3 {
                    0 => Arc::new(Float64Array::from(vec![1.0])),
                    1 => Arc::new(Int64Array::from(vec![1])),
                    _ => Arc::new(Float32Array::from(vec![1.0])),
                }
            };
            // The last are halves: of these nothing is bound.
            let half = Float16Array::from_iter_values([1.0_f32].map(<Float16Type as ArrowPrimitive>::Native::from_f32));
            let columns = (0..count).map(column).chain([Arc::new(half) as ArrayRef]).collect();
            let metadata = metadata_of(columns);
            let orders = metadata.file_metadata().column_orders().unwrap();
            assert_eq!(orders.len(), count + 1);
            assert!(orders.iter().all(|order| matches!(order, ColumnOrder::TYPE_DEFINED_ORDER(_))), "{orders:?}");
            let last = metadata.row_group(0).column(count).statistics().unwrap();
            assert_eq!((last.min_bytes_opt(), last.max_bytes_opt()), (None, None));
        }
    }

    #[test]
    fn a_footer_of_another_form_is_an_error() {
        let footer = |orders: &[u8]| [&[0x19], orders, &[0], &[9, 0, 0, 0], b"PAR1"].concat();
        assert!(name_type_order(&mut footer(&[0x1c, 0x2c, 0, 0]), 1).is_ok());
        let unlike =
            [(footer(&[0x1c, 0x4c, 0, 0]), 1), (footer(&[0x1c, 0x2c, 0, 0]), 2), (footer(&[]), 1), (vec![], 0)];
        for (mut bytes, columns) in unlike {
            let error = name_type_order(&mut bytes, columns).unwrap_err();
            assert!(error.to_string().contains("orders of"), "{error}");
        }
    }
}
