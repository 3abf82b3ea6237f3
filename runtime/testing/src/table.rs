//! Tables as tests read them: with nothing but the Parquet crate.

use crate::oracle::OracleValue;
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::path::Path;

/// All rows of a Parquet file as one batch.
pub fn table(path: &Path) -> RecordBatch {
    let file = std::fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).expect("a table of a test");
    let schema = builder.schema().clone();
    let batches: Vec<RecordBatch> = builder
        .with_batch_size(1 << 20)
        .build()
        .expect("a table of a test")
        .map(|batch| batch.expect("a row group"))
        .collect();
    arrow_select::concat::concat_batches(&schema, &batches).expect("batches of one file")
}

/// A column by its name.
pub fn column<'a>(table: &'a RecordBatch, name: &str) -> &'a ArrayRef {
    table.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"))
}

/// A column of strings.
pub fn texts(table: &RecordBatch, name: &str) -> Vec<Option<String>> {
    let plain = arrow_cast::cast(column(table, name), &DataType::Utf8).expect("a table of a test");
    plain.as_string::<i32>().iter().map(|value| value.map(str::to_owned)).collect()
}

/// A column of instants without nulls, µs.
pub fn instants(table: &RecordBatch, name: &str) -> Vec<i64> {
    let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
    let plain = arrow_cast::cast(column(table, name), &micros).expect("a table of a test");
    plain.as_primitive::<TimestampMicrosecondType>().values().to_vec()
}

/// A cell as the oracle writes values.
pub fn cell(column: &ArrayRef, row: usize) -> OracleValue {
    // A column of the type Null has no bitmap that says so.
    if column.is_null(row) || *column.data_type() == DataType::Null {
        return OracleValue::Null;
    }
    let one = column.slice(row, 1);
    match column.data_type() {
        DataType::Float32 => OracleValue::Float(one.as_primitive::<arrow_array::types::Float32Type>().value(0).into()),
        DataType::Float64 => OracleValue::Float(one.as_primitive::<arrow_array::types::Float64Type>().value(0)),
        DataType::List(_) => {
            let values = arrow_cast::cast(&one.as_list::<i32>().value(0), &DataType::Utf8).expect("a table of a test");
            OracleValue::Texts(
                values.as_string::<i32>().iter().map(|text| text.expect("no nulls").to_owned()).collect(),
            )
        }
        _ => {
            let whole = arrow_cast::cast(&one, &DataType::Int64).expect("a table of a test");
            OracleValue::Int(whole.as_primitive::<arrow_array::types::Int64Type>().value(0))
        }
    }
}

/// Equal in every bit; a whole number may be written as a float.
pub fn same(left: &OracleValue, right: &OracleValue) -> bool {
    match (left, right) {
        (OracleValue::Float(left), OracleValue::Float(right)) => left.to_bits() == right.to_bits(),
        (OracleValue::Int(int), OracleValue::Float(float)) | (OracleValue::Float(float), OracleValue::Int(int)) => {
            (*int as f64).to_bits() == float.to_bits()
        }
        _ => left == right,
    }
}

/// As [`same`], but for deviations and medians, of which less is promised.
pub fn as_promised(feature: &str, left: &OracleValue, right: &OracleValue) -> bool {
    let allowed = if feature.contains("std_") || feature.ends_with("_std") {
        1e-9
    } else if feature.contains("median") {
        0.01
    } else {
        return same(left, right);
    };
    match (left, right) {
        (OracleValue::Float(left), OracleValue::Float(right)) => (left - right).abs() <= right.abs() * allowed,
        _ => left == right,
    }
}
