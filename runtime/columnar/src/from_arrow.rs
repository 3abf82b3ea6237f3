//! Arrow arrays to columns, taking whatever width and layout other programs write.

use crate::to_arrow::null_array;
use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType, Int64Array, PrimitiveArray};
use arrow_schema::{DataType as ArrowType, TimeUnit};
use plumb_core::column::{Bitmap, Column, DataType, Strings, Values};
use plumb_core::time::DAY_US;
use plumb_pipeline::Error;
use std::fmt;

/// A value of a column that its wanted type cannot hold; the row reads as null.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The row, counted from 0 in the array.
    pub row: usize,
    /// What is wrong with it, e.g. `18446744073709551615 is beyond i64`.
    pub why: String,
}

/// A converted column and the values it could not take.
#[derive(Debug, Clone, PartialEq)]
pub struct Converted {
    /// The column; refused rows are null.
    pub column: Column,
    /// The refused rows, rising.
    pub refused: Vec<Refused>,
}

/// A column of a file cannot be read as the wanted type; names the column, and what was found and wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvertError {
    /// The column's name.
    pub column: String,
    /// What was found and what would be right.
    pub why: String,
}

impl fmt::Display for ConvertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column `{}`: {}", self.column, self.why)
    }
}

impl std::error::Error for ConvertError {}

impl From<ConvertError> for Error {
    fn from(error: ConvertError) -> Self {
        Error::invalid(error.to_string())
    }
}

/// Reads an array as a column of `wanted`; the first value that does not fit is an error. See [`convert`].
pub fn from_arrow(name: &str, array: &dyn Array, wanted: &DataType) -> Result<Column, ConvertError> {
    let Converted { column, refused } = convert(name, array, wanted)?;
    match refused.into_iter().next() {
        Some(first) => {
            Err(ConvertError { column: name.to_owned(), why: format!("row {}: {}", first.row + 1, first.why) })
        }
        None => Ok(column),
    }
}

/// Reads an array as a column of `wanted`, setting aside single values that do not fit (in a list: the element).
///
/// - `i64`: integers of any width; floats that are whole numbers (pandas writes integers with gaps so)
/// - `f64`: floats and integers of any width, rounded to nearest as a JSON number would be
/// - `string`: strings of any layout, bytes that are UTF-8, integers as their decimal digits
/// - `bytes`: bytes and strings of any layout
/// - `timestamp`: timestamps of any unit and zone, rounded down to µs, and dates (their midnight UTC)
/// - `bool`; lists of the above; columns of only nulls as anything; dictionaries as their values
pub fn convert(name: &str, array: &dyn Array, wanted: &DataType) -> Result<Converted, ConvertError> {
    let mismatch = || ConvertError {
        column: name.to_owned(),
        why: format!("found {}, expected {}{}", array.data_type(), wanted.name(), hint(array.data_type(), wanted)),
    };
    if array.data_type() == &ArrowType::Null {
        return convert(name, &null_array(wanted, array.len()), wanted);
    }
    if let Some(plain) = plainer(array.data_type(), wanted) {
        let array = arrow_cast::cast(array, &plain).map_err(|_| mismatch())?;
        return convert(name, &array, wanted);
    }
    let mut refused = Vec::new();
    let values = match wanted {
        DataType::I64 => to_i64(array, &mut refused),
        DataType::F64 => to_f64(array),
        DataType::Bool => array.as_boolean_opt().map(|of| Values::Bool(of.values().iter().map(u8::from).collect())),
        DataType::Utf8 => to_utf8(array, &mut refused),
        DataType::Bytes => to_bytes(array).map(Values::Bytes),
        DataType::Timestamp => to_instants(array, &mut refused),
        DataType::List(of) => return to_list(name, array, of).transpose().unwrap_or_else(|| Err(mismatch())),
    };
    let mut column = Column { validity: None, values: values.ok_or_else(mismatch)? };
    set_nulls(&mut column, array, &refused);
    Ok(Converted { column, refused })
}

/// The simpler Arrow type with the same values, for layouts that are read through a cast.
fn plainer(found: &ArrowType, wanted: &DataType) -> Option<ArrowType> {
    let strings = matches!(wanted, DataType::Utf8 | DataType::Bytes);
    let lists = matches!(wanted, DataType::List(_));
    match found {
        ArrowType::Dictionary(_, values) => Some(values.as_ref().clone()),
        ArrowType::Utf8View | ArrowType::LargeUtf8 if strings => Some(ArrowType::Utf8),
        ArrowType::BinaryView | ArrowType::LargeBinary | ArrowType::FixedSizeBinary(_) if strings => {
            Some(ArrowType::Binary)
        }
        ArrowType::LargeList(item)
        | ArrowType::FixedSizeList(item, _)
        | ArrowType::ListView(item)
        | ArrowType::LargeListView(item)
            if lists =>
        {
            Some(ArrowType::List(item.clone()))
        }
        _ => None,
    }
}

/// Reads a column of integers as instants of the given unit, rounded down to µs; `None` if it holds no integers.
/// Instants beyond the range of `i64` µs are refused.
pub fn times_from_integers(array: &dyn Array, unit: TimeUnit) -> Option<Converted> {
    let mut refused = Vec::new();
    let Values::I64(values) = integers(array, &mut refused)? else { return None };
    let values = scale(&values, |row| array.is_valid(row), unit, &mut refused);
    refused.sort_by_key(|refused| refused.row);
    let mut column = Column::of(Values::Timestamp(values));
    set_nulls(&mut column, array, &refused);
    Some(Converted { column, refused })
}

/// Whether a column's times carry no zone, so that reading them as UTC is worth a note.
pub fn has_no_zone(data_type: &ArrowType) -> bool {
    matches!(data_type, ArrowType::Timestamp(_, None) | ArrowType::Date32 | ArrowType::Date64)
}

fn hint(found: &ArrowType, wanted: &DataType) -> &'static str {
    match (found, wanted) {
        (
            ArrowType::Decimal32(..) | ArrowType::Decimal64(..) | ArrowType::Decimal128(..) | ArrowType::Decimal256(..),
            _,
        ) => "; decimals are not read, cast the column to f64 or i64 when writing the file",
        (_, DataType::Timestamp) => "; a time is a timestamp, a date, an integer or an RFC 3339 string",
        _ => "",
    }
}

/// Marks nulls and refused rows, and puts 0 or nothing into their values.
fn set_nulls(column: &mut Column, array: &dyn Array, refused: &[Refused]) {
    let nulls = array.logical_nulls();
    if refused.is_empty() && nulls.as_ref().is_none_or(|nulls| nulls.null_count() == 0) {
        return;
    }
    let mut bytes = vec![0u8; array.len().div_ceil(8)];
    for row in 0..array.len() {
        if nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)) {
            bytes[row / 8] |= 1 << (row % 8);
        }
    }
    for refused in refused {
        bytes[refused.row / 8] &= !(1 << (refused.row % 8));
    }
    let bits = Bitmap::from_bytes(bytes, array.len()).expect("one bit a row");
    let is_null = |row: &usize| !bits.get(*row);
    let rows = 0..array.len();
    match &mut column.values {
        Values::I64(values) | Values::Timestamp(values) => rows.filter(is_null).for_each(|row| values[row] = 0),
        Values::F64(values) => rows.filter(is_null).for_each(|row| values[row] = 0.0),
        Values::Bool(values) => rows.filter(is_null).for_each(|row| values[row] = 0),
        // Strings and lists were copied without the bytes of nulls.
        Values::Utf8(_) | Values::Bytes(_) | Values::List { .. } => {}
    }
    column.validity = Some(bits);
}

fn primitive<T: ArrowPrimitiveType>(array: &dyn Array) -> Option<&PrimitiveArray<T>> {
    array.as_primitive_opt::<T>()
}

fn widen<T: ArrowPrimitiveType>(array: &dyn Array) -> Option<Values>
where
    T::Native: Into<i64>,
{
    primitive::<T>(array).map(|of| Values::I64(of.values().iter().map(|&value| value.into()).collect()))
}

fn integers(array: &dyn Array, refused: &mut Vec<Refused>) -> Option<Values> {
    match array.data_type() {
        ArrowType::Int64 => primitive::<Int64Type>(array).map(|of| Values::I64(of.values().to_vec())),
        ArrowType::Int32 => widen::<Int32Type>(array),
        ArrowType::Int16 => widen::<Int16Type>(array),
        ArrowType::Int8 => widen::<Int8Type>(array),
        ArrowType::UInt32 => widen::<UInt32Type>(array),
        ArrowType::UInt16 => widen::<UInt16Type>(array),
        ArrowType::UInt8 => widen::<UInt8Type>(array),
        ArrowType::UInt64 => {
            let of = primitive::<UInt64Type>(array)?;
            let mut values = Vec::with_capacity(of.len());
            for (row, &value) in of.values().iter().enumerate() {
                values.push(i64::try_from(value).unwrap_or(0));
                if value > i64::MAX as u64 && of.is_valid(row) {
                    refused.push(Refused { row, why: format!("{value} is beyond i64") });
                }
            }
            Some(Values::I64(values))
        }
        _ => None,
    }
}

fn to_i64(array: &dyn Array, refused: &mut Vec<Refused>) -> Option<Values> {
    if let Some(values) = integers(array, refused) {
        return Some(values);
    }
    let Values::F64(floats) = to_f64(array)? else { return None };
    let mut values = Vec::with_capacity(floats.len());
    for (row, &float) in floats.iter().enumerate() {
        // Below 2^53 every whole float is one exact integer.
        let whole = float.fract() == 0.0 && float.abs() <= 9_007_199_254_740_992.0;
        values.push(if whole { float as i64 } else { 0 });
        if !whole && array.is_valid(row) {
            refused.push(Refused { row, why: format!("{float} is not a whole number of i64") });
        }
    }
    Some(Values::I64(values))
}

fn to_f64(array: &dyn Array) -> Option<Values> {
    let values: Vec<f64> = match array.data_type() {
        ArrowType::Float64 => primitive::<Float64Type>(array)?.values().to_vec(),
        ArrowType::Float32 => primitive::<Float32Type>(array)?.values().iter().map(|&v| f64::from(v)).collect(),
        ArrowType::Float16 => primitive::<Float16Type>(array)?.values().iter().map(|v| v.to_f64()).collect(),
        ArrowType::UInt64 => primitive::<UInt64Type>(array)?.values().iter().map(|&v| v as f64).collect(),
        _ => match integers(array, &mut Vec::new())? {
            Values::I64(values) => values.iter().map(|&v| v as f64).collect(),
            _ => return None,
        },
    };
    Some(Values::F64(values))
}

fn to_utf8(array: &dyn Array, refused: &mut Vec<Refused>) -> Option<Values> {
    if array.data_type() == &ArrowType::UInt64 {
        let of = primitive::<UInt64Type>(array)?;
        return Some(Values::Utf8(decimal_digits(array, |row| of.value(row).to_string())));
    }
    if let Some(Values::I64(values)) = integers(array, refused) {
        return Some(Values::Utf8(decimal_digits(array, |row| values[row].to_string())));
    }
    let mut strings = to_bytes(array)?;
    if array.data_type() == &ArrowType::Binary && strings.check_utf8().is_err() {
        let mut clean = Strings::new();
        for (row, bytes) in strings.iter().enumerate() {
            let text = std::str::from_utf8(bytes);
            clean.push(text.unwrap_or("").as_bytes());
            if text.is_err() {
                refused.push(Refused { row, why: "the bytes are not UTF-8".to_owned() });
            }
        }
        strings = clean;
    }
    Some(Values::Utf8(strings))
}

fn decimal_digits(array: &dyn Array, digits: impl Fn(usize) -> String) -> Strings {
    let mut strings = Strings::new();
    for row in 0..array.len() {
        if array.is_valid(row) {
            strings.push(digits(row).as_bytes());
        } else {
            strings.push(b"");
        }
    }
    strings
}

fn to_bytes(array: &dyn Array) -> Option<Strings> {
    match array.data_type() {
        ArrowType::Utf8 => {
            let of = array.as_string_opt::<i32>()?;
            Some(copy_strings(array, of.value_offsets(), of.value_data()))
        }
        ArrowType::Binary => {
            let of = array.as_binary_opt::<i32>()?;
            Some(copy_strings(array, of.value_offsets(), of.value_data()))
        }
        _ => None,
    }
}

fn copy_strings(array: &dyn Array, offsets: &[i32], data: &[u8]) -> Strings {
    let (first, last) = (offsets[0] as usize, offsets[array.len()] as usize);
    let no_bytes_in_nulls =
        array.null_count() == 0 || (0..array.len()).all(|row| array.is_valid(row) || offsets[row] == offsets[row + 1]);
    if no_bytes_in_nulls {
        return Strings {
            offsets: offsets.iter().map(|&offset| (offset as usize - first) as u32).collect(),
            bytes: data[first..last].to_vec(),
        };
    }
    let mut strings = Strings::new();
    for row in 0..array.len() {
        let bytes = &data[offsets[row] as usize..offsets[row + 1] as usize];
        strings.push(if array.is_valid(row) { bytes } else { b"" });
    }
    strings
}

fn to_instants(array: &dyn Array, refused: &mut Vec<Refused>) -> Option<Values> {
    let valid = |row: usize| array.is_valid(row);
    let values = match array.data_type() {
        ArrowType::Timestamp(TimeUnit::Second, _) => {
            scale(primitive::<TimestampSecondType>(array)?.values(), valid, TimeUnit::Second, refused)
        }
        ArrowType::Timestamp(TimeUnit::Millisecond, _) => {
            scale(primitive::<TimestampMillisecondType>(array)?.values(), valid, TimeUnit::Millisecond, refused)
        }
        ArrowType::Timestamp(TimeUnit::Microsecond, _) => {
            primitive::<TimestampMicrosecondType>(array)?.values().to_vec()
        }
        ArrowType::Timestamp(TimeUnit::Nanosecond, _) => {
            scale(primitive::<TimestampNanosecondType>(array)?.values(), valid, TimeUnit::Nanosecond, refused)
        }
        ArrowType::Date32 => {
            primitive::<Date32Type>(array)?.values().iter().map(|&day| i64::from(day) * DAY_US).collect()
        }
        ArrowType::Date64 => scale(primitive::<Date64Type>(array)?.values(), valid, TimeUnit::Millisecond, refused),
        _ => return None,
    };
    Some(Values::Timestamp(values))
}

/// Instants in µs of instants in `unit`, rounded down.
fn scale(values: &[i64], valid: impl Fn(usize) -> bool, unit: TimeUnit, refused: &mut Vec<Refused>) -> Vec<i64> {
    let factor = match unit {
        TimeUnit::Second => 1_000_000,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => return values.to_vec(),
        TimeUnit::Nanosecond => return values.iter().map(|value| value.div_euclid(1_000)).collect(),
    };
    let mut scaled = Vec::with_capacity(values.len());
    for (row, &value) in values.iter().enumerate() {
        let us = value.checked_mul(factor);
        if us.is_none() && valid(row) {
            refused.push(Refused { row, why: format!("the time {value} is beyond the range of instants") });
        }
        scaled.push(us.unwrap_or(0));
    }
    scaled
}

fn to_list(name: &str, array: &dyn Array, of: &DataType) -> Result<Option<Converted>, ConvertError> {
    let Some(list) = array.as_list_opt::<i32>() else { return Ok(None) };
    let offsets = list.value_offsets();
    let mut kept = Vec::with_capacity(list.len() + 1);
    kept.push(0u32);
    let no_elements_in_nulls =
        list.null_count() == 0 || (0..list.len()).all(|row| list.is_valid(row) || offsets[row] == offsets[row + 1]);
    let child: ArrayRef = if no_elements_in_nulls {
        let (first, last) = (offsets[0], offsets[list.len()]);
        kept.extend(offsets[1..].iter().map(|&offset| (offset - first) as u32));
        list.values().slice(first as usize, (last - first) as usize)
    } else {
        // Elements that stand in null rows are left out, so that equal columns have equal bytes.
        let mut elements = Vec::new();
        for row in 0..list.len() {
            if list.is_valid(row) {
                elements.extend((offsets[row]..offsets[row + 1]).map(i64::from));
            }
            kept.push(elements.len() as u32);
        }
        let take = arrow_select::take::take(list.values(), &Int64Array::from(elements), None);
        take.map_err(|error| ConvertError { column: name.to_owned(), why: error.to_string() })?
    };
    let element = format!("{name}[]");
    let Converted { column: child, refused } = convert(&element, &child, of)?;
    // An element that does not fit is reported at the row of its list.
    let refused = refused
        .into_iter()
        .map(|Refused { row, why }| Refused { row: kept.partition_point(|&end| end as usize <= row) - 1, why })
        .collect();
    let mut column = Column::of(Values::List { offsets: kept, child: Box::new(child) });
    set_nulls(&mut column, array, &[]);
    Ok(Some(Converted { column, refused }))
}
