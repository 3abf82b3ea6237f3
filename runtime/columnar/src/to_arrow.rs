//! Columns to Arrow arrays.

use arrow_array::{ArrayRef, BinaryArray, BooleanArray, Float64Array, Int64Array, ListArray, StringArray};
use arrow_array::{TimestampMicrosecondArray, new_null_array};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType as ArrowType, Field, TimeUnit};
use plumb_core::column::{Bitmap, Column, DataType, Strings, Values};
use plumb_pipeline::{Error, Result};
use std::sync::Arc;

/// The name of a list's elements as Parquet's specification has it. Arrow's own, `item`, is read by most, but a file
/// with it cannot be registered in an Iceberg table.
const ELEMENT: &str = "element";

/// The Arrow type that [`to_arrow`] makes of a type; instants are `timestamp[us, UTC]`.
pub fn arrow_type(data_type: &DataType) -> ArrowType {
    match data_type {
        DataType::I64 => ArrowType::Int64,
        DataType::F64 => ArrowType::Float64,
        DataType::Bool => ArrowType::Boolean,
        DataType::Utf8 => ArrowType::Utf8,
        DataType::Bytes => ArrowType::Binary,
        DataType::Timestamp => ArrowType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        DataType::List(of) => ArrowType::List(Arc::new(Field::new(ELEMENT, arrow_type(of), true))),
    }
}

/// The Arrow array of a column, copying it; see [`into_arrow`].
pub fn to_arrow(column: &Column) -> Result<ArrayRef> {
    into_arrow(column.clone())
}

/// The Arrow array of a column. Fails only for columns that break their own rules (offsets that fall,
/// strings that are not UTF-8) or hold 2 GiB of strings or more.
pub fn into_arrow(column: Column) -> Result<ArrayRef> {
    let Column { validity, values } = column;
    let nulls = validity.and_then(null_buffer);
    let array: ArrayRef = match values {
        Values::I64(values) => Arc::new(Int64Array::try_new(ScalarBuffer::from(values), nulls).map_err(bug)?),
        Values::F64(values) => Arc::new(Float64Array::try_new(ScalarBuffer::from(values), nulls).map_err(bug)?),
        Values::Timestamp(values) => Arc::new(
            TimestampMicrosecondArray::try_new(ScalarBuffer::from(values), nulls).map_err(bug)?.with_timezone("UTC"),
        ),
        Values::Bool(values) => {
            let bits = BooleanBuffer::collect_bool(values.len(), |row| values[row] != 0);
            if nulls.as_ref().is_some_and(|nulls| nulls.len() != bits.len()) {
                return Err(bug("validity of another length than the values"));
            }
            Arc::new(BooleanArray::new(bits, nulls))
        }
        Values::Utf8(strings) => {
            let (offsets, bytes) = split(strings)?;
            Arc::new(StringArray::try_new(offsets, bytes, nulls).map_err(bug)?)
        }
        Values::Bytes(strings) => {
            let (offsets, bytes) = split(strings)?;
            Arc::new(BinaryArray::try_new(offsets, bytes, nulls).map_err(bug)?)
        }
        Values::List { offsets, child } => {
            let element = Arc::new(Field::new(ELEMENT, arrow_type(&child.data_type()), true));
            let child = into_arrow(*child)?;
            Arc::new(ListArray::try_new(element, offset_buffer(&offsets)?, child, nulls).map_err(bug)?)
        }
    };
    Ok(array)
}

/// `rows` nulls of a type.
pub(crate) fn null_array(data_type: &DataType, rows: usize) -> ArrayRef {
    new_null_array(&arrow_type(data_type), rows)
}

fn null_buffer(bits: Bitmap) -> Option<NullBuffer> {
    let nulls = NullBuffer::new(BooleanBuffer::new(Buffer::from(bits.as_bytes()), 0, bits.len()));
    (nulls.null_count() > 0).then_some(nulls)
}

fn split(strings: Strings) -> Result<(OffsetBuffer<i32>, Buffer)> {
    Ok((offset_buffer(&strings.offsets)?, Buffer::from(strings.bytes)))
}

fn offset_buffer(offsets: &[u32]) -> Result<OffsetBuffer<i32>> {
    let last = offsets.last().copied().ok_or_else(|| bug("no offsets"))?;
    if last > i32::MAX as u32 {
        return Err(Error::internal(format!("a batch holds {last} bytes of one string column, the limit is 2 GiB")));
    }
    if offsets.windows(2).any(|pair| pair[0] > pair[1]) {
        return Err(bug("an offset is smaller than the one before"));
    }
    let offsets: Vec<i32> = offsets.iter().map(|&offset| offset as i32).collect();
    Ok(OffsetBuffer::new(ScalarBuffer::from(offsets)))
}

fn bug(why: impl std::fmt::Display) -> Error {
    Error::internal(format!("a column cannot be written: {why}"))
}
