//! The hash of a table's rows: of the values and their order alone, whatever the files, row groups or Arrow layouts
//! they are kept in. `docs/training-sets.md` says how it is made, so that others can make it too.

use crate::text::texts_of;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, ArrayRef, OffsetSizeTrait};
use arrow_cast::cast;
use arrow_schema::{ArrowError, DataType as ArrowType, Schema, TimeUnit};
use plumb_pipeline::{Error, Result};
use sha2::{Digest, Sha256};
use std::sync::Mutex;

/// Hashes rows as they come, a column at a time.
#[derive(Debug)]
pub(crate) struct RowsHash {
    columns: Vec<Mutex<ColumnHash>>,
    rows: u64,
}

#[derive(Debug)]
struct ColumnHash {
    name: String,
    type_name: String,
    hash: Sha256,
    bytes: Vec<u8>,
}

impl RowsHash {
    pub(crate) fn new(schema: &Schema) -> Self {
        let column = |field: &arrow_schema::FieldRef| {
            let (name, type_name) = (field.name().clone(), type_name(field.data_type()));
            Mutex::new(ColumnHash { name, type_name, hash: Sha256::new(), bytes: Vec::new() })
        };
        Self { columns: schema.fields().iter().map(column).collect(), rows: 0 }
    }

    /// There are so many more rows, of which every column has to be [added](Self::add).
    pub(crate) fn add_rows(&mut self, rows: usize) {
        self.rows += rows as u64;
    }

    /// Takes the next rows of a column, by its place in the schema.
    pub(crate) fn add(&self, column: usize, array: &ArrayRef) -> Result<()> {
        let mut column = self.columns[column].lock().map_err(|_| Error::internal("a hash of rows panicked"))?;
        let ColumnHash { name, hash, bytes, .. } = &mut *column;
        bytes.clear();
        encode(array, bytes).map_err(|error| Error::invalid(format!("column `{name}` cannot be hashed: {error}")))?;
        hash.update(&bytes);
        Ok(())
    }

    /// The hash, hex.
    pub(crate) fn finish(self) -> Result<String> {
        let mut all = Sha256::new();
        all.update(b"plumb rows 1\n");
        all.update(self.rows.to_le_bytes());
        for column in self.columns {
            let column = column.into_inner().map_err(|_| Error::internal("a hash of rows panicked"))?;
            let ColumnHash { name, type_name, hash, .. } = column;
            for text in [name, type_name] {
                all.update((text.len() as u32).to_le_bytes());
                all.update(text);
            }
            all.update(hash.finalize());
        }
        Ok(hex(&all.finalize()))
    }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of a column's type in manifests: what its values are, not how Arrow keeps them.
pub(crate) fn type_name(data_type: &ArrowType) -> String {
    use ArrowType as A;
    match data_type {
        A::Int8 | A::Int16 | A::Int32 | A::Int64 | A::UInt8 | A::UInt16 | A::UInt32 => "integer".into(),
        A::UInt64 => "unsigned".into(),
        A::Float16 | A::Float32 | A::Float64 => "float".into(),
        A::Boolean => "boolean".into(),
        A::Utf8 | A::LargeUtf8 | A::Utf8View | A::Null => "string".into(),
        A::Binary | A::LargeBinary | A::BinaryView | A::FixedSizeBinary(_) => "bytes".into(),
        A::Timestamp(TimeUnit::Nanosecond, _) => "instant in ns".into(),
        A::Timestamp(..) | A::Date32 | A::Date64 => "instant".into(),
        A::Dictionary(_, values) => type_name(values),
        A::List(item) | A::LargeList(item) => format!("list of {}", type_name(item.data_type())),
        other => format!("text of {other}"),
    }
}

/// Appends each value: a byte 0 for a null, else a byte 1 and the value.
fn encode(array: &ArrayRef, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    use ArrowType as A;
    match array.data_type() {
        A::Null => out.resize(out.len() + array.len(), 0),
        A::Int64 => fixed(array, out, array.as_primitive::<Int64Type>().values(), |value| value.to_le_bytes()),
        A::UInt64 => {
            let values = array.as_primitive::<arrow_array::types::UInt64Type>().values();
            fixed(array, out, values, |value| value.to_le_bytes());
        }
        A::Int8 | A::Int16 | A::Int32 | A::UInt8 | A::UInt16 | A::UInt32 => encode(&cast(array, &A::Int64)?, out)?,
        A::Float64 => fixed(array, out, array.as_primitive::<Float64Type>().values(), |value| {
            if value.is_nan() { f64::NAN.to_bits() & !(1 << 63) } else { value.to_bits() }.to_le_bytes()
        }),
        A::Float16 | A::Float32 => encode(&cast(array, &A::Float64)?, out)?,
        A::Boolean => {
            let values = array.as_boolean();
            (0..array.len()).for_each(|row| match values.is_valid(row) {
                true => out.extend([1, u8::from(values.value(row))]),
                false => out.push(0),
            });
        }
        A::Utf8 => texts(array.as_string::<i32>().iter().map(|text| text.map(str::as_bytes)), out),
        A::Binary => texts(array.as_binary::<i32>().iter(), out),
        A::LargeUtf8 => texts(array.as_string::<i64>().iter().map(|text| text.map(str::as_bytes)), out),
        A::LargeBinary => texts(array.as_binary::<i64>().iter(), out),
        A::Utf8View => texts(array.as_string_view().iter().map(|text| text.map(str::as_bytes)), out),
        A::BinaryView => texts(array.as_binary_view().iter(), out),
        A::FixedSizeBinary(_) => texts(array.as_fixed_size_binary().iter(), out),
        A::Timestamp(unit, _) => {
            let per_us = match unit {
                TimeUnit::Second => 1_000_000,
                TimeUnit::Millisecond => 1_000,
                TimeUnit::Microsecond | TimeUnit::Nanosecond => 1,
            };
            let values = cast(array, &A::Int64)?;
            fixed(array, out, values.as_primitive::<Int64Type>().values(), |value| {
                value.saturating_mul(per_us).to_le_bytes()
            });
        }
        A::Date32 | A::Date64 => encode(&cast(array, &A::Timestamp(TimeUnit::Millisecond, None))?, out)?,
        A::Dictionary(_, values) => encode(&cast(array, values)?, out)?,
        A::List(_) => lists::<i32>(array, out)?,
        A::LargeList(_) => lists::<i64>(array, out)?,
        _ => texts(texts_of(array)?.iter().map(|text| text.as_deref().map(str::as_bytes)), out),
    }
    Ok(())
}

fn fixed<T: Copy>(array: &dyn Array, out: &mut Vec<u8>, values: &[T], bytes: impl Fn(T) -> [u8; 8]) {
    let start = out.len();
    match array.nulls() {
        None => {
            out.resize(start + values.len() * 9, 1);
            let (rows, _) = out[start..].as_chunks_mut::<9>();
            rows.iter_mut().zip(values).for_each(|(row, &value)| row[1..].copy_from_slice(&bytes(value)));
        }
        Some(nulls) => {
            // A null's value is written too and then written over, which is sooner than to ask.
            out.resize(start + values.len() * 9, 0);
            let mut at = start;
            for (is_valid, &value) in nulls.iter().zip(values) {
                out[at] = u8::from(is_valid);
                out[at + 1..at + 9].copy_from_slice(&bytes(value));
                at += 1 + 8 * usize::from(is_valid);
            }
            out.truncate(at);
        }
    }
}

/// The length in four bytes, then the bytes.
fn texts<'a>(values: impl Iterator<Item = Option<&'a [u8]>>, out: &mut Vec<u8>) {
    for value in values {
        out.push(u8::from(value.is_some()));
        if let Some(value) = value {
            out.extend((value.len() as u32).to_le_bytes());
            out.extend(value);
        }
    }
}

/// The number of elements in four bytes, then each.
fn lists<O: OffsetSizeTrait>(array: &ArrayRef, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    for row in array.as_list::<O>().iter() {
        out.push(u8::from(row.is_some()));
        if let Some(elements) = row {
            out.extend((elements.len() as u32).to_le_bytes());
            encode(&elements, out)?;
        }
    }
    Ok(())
}
