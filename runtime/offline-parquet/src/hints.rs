//! How the values of a training set's columns look, from the first of its rows.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, ArrayRef};
use arrow_cast::cast;
use arrow_schema::DataType as ArrowType;
use plumb_columnar::ColumnHint;
use plumb_core::column::{Column, Values};
use std::ops::Range;

/// How many rows are looked at.
pub(crate) const LOOK_ROWS: usize = 8 * 1024;

/// The hint for label values.
pub(crate) fn of_array(array: &ArrayRef) -> ColumnHint {
    let whole = match array.data_type() {
        ArrowType::Int64 | ArrowType::Timestamp(..) => cast(array, &ArrowType::Int64).ok(),
        _ => None,
    };
    match (&whole, array.data_type()) {
        (Some(whole), _) => {
            of_words(whole.as_primitive::<Int64Type>().values().iter().map(|value| value.cast_unsigned()))
        }
        (None, ArrowType::Float64) => {
            of_words(array.as_primitive::<Float64Type>().values().iter().map(|value| value.to_bits()))
        }
        (None, _) => ColumnHint::Repeating,
    }
}

/// The hint for these rows of a feature.
pub(crate) fn of_column(column: &Column, rows: Range<usize>) -> ColumnHint {
    match &column.values {
        Values::I64(values) | Values::Timestamp(values) => {
            of_words(values[rows].iter().map(|value| value.cast_unsigned()))
        }
        Values::F64(values) => of_words(values[rows].iter().map(|value| value.to_bits())),
        Values::Bool(_) | Values::Utf8(_) | Values::Bytes(_) | Values::List { .. } => ColumnHint::Repeating,
    }
}

/// Distinct where hardly any value of many comes twice. Then a row group has more distinct ones than a dictionary takes
/// (of 8,192 drawn from 65,536 some 6 % are a second copy): to begin one costs more than all else of writing the column.
fn of_words(words: impl ExactSizeIterator<Item = u64>) -> ColumnHint {
    let rows = words.len();
    if rows < LOOK_ROWS {
        return ColumnHint::Repeating;
    }
    let mut words: Vec<u64> = words.collect();
    words.sort_unstable();
    words.dedup();
    if words.len() > rows / 16 * 15 { ColumnHint::Distinct } else { ColumnHint::Repeating }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{Float64Array, TimestampMicrosecondArray};
    use std::sync::Arc;

    #[test]
    fn a_column_without_copies_needs_no_dictionary() {
        let rows = LOOK_ROWS as i64;
        let column = |of: fn(i64) -> i64| Column::of(Values::Timestamp((0..rows).map(of).collect()));
        assert_eq!(of_column(&column(|row| row), 0..LOOK_ROWS), ColumnHint::Distinct);
        assert_eq!(of_column(&column(|row| row / 2), 0..LOOK_ROWS), ColumnHint::Repeating);
        // Too few say nothing.
        assert_eq!(of_column(&column(|row| row), 1..LOOK_ROWS), ColumnHint::Repeating);
        let floats: ArrayRef = Arc::new(Float64Array::from_iter_values((0..rows).map(|row| row as f64)));
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(0..rows).with_timezone("UTC"));
        let texts = cast(&floats, &ArrowType::Utf8).unwrap();
        let hints = [floats, times, texts].map(|array| of_array(&array));
        assert_eq!(hints, [ColumnHint::Distinct, ColumnHint::Distinct, ColumnHint::Repeating]);
    }
}
