//! Column values as JSON, for people and `--json`.

use anyhow::{Result, bail};
use plumb_core::column::{Column, Values};
use plumb_pipeline::decode::time::{format_rfc3339, parse_rfc3339};
use serde_json::Value;

/// The value of a row: null, number, text, truth value or list; timestamps as RFC 3339.
pub(crate) fn json_of(column: &Column, row: usize) -> Value {
    if !column.is_valid(row) {
        return Value::Null;
    }
    match &column.values {
        Values::I64(values) => values[row].into(),
        Values::F64(values) => values[row].into(),
        Values::Bool(values) => (values[row] != 0).into(),
        Values::Utf8(values) | Values::Bytes(values) => String::from_utf8_lossy(values.get(row)).into(),
        Values::Timestamp(values) => format_rfc3339(values[row]).into(),
        Values::List { offsets, child } => {
            (offsets[row]..offsets[row + 1]).map(|element| json_of(child, element as usize)).collect()
        }
    }
}

/// Appends a value as the service writes it: the inverse of [`json_of`].
pub(crate) fn push_json(column: &mut Column, value: &Value) -> Result<()> {
    if value.is_null() {
        column.push_null();
        return Ok(());
    }
    match (&mut column.values, value) {
        (Values::I64(values), Value::Number(number)) if number.as_i64().is_some() => values.extend(number.as_i64()),
        (Values::F64(values), Value::Number(number)) if number.as_f64().is_some() => values.extend(number.as_f64()),
        (Values::Bool(values), Value::Bool(truth)) => values.push(u8::from(*truth)),
        (Values::Utf8(values) | Values::Bytes(values), Value::String(text)) => values.push(text.as_bytes()),
        (Values::Timestamp(values), Value::String(text)) => match parse_rfc3339(text.as_bytes()) {
            Some(instant) => values.push(instant.us),
            None => bail!("{text} is no instant"),
        },
        (Values::List { offsets, child }, Value::Array(elements)) => {
            for element in elements {
                push_json(child, element)?;
            }
            offsets.push(u32::try_from(child.len())?);
        }
        _ => bail!("{value} is not of type {}", column.data_type().name()),
    }
    column.mark_valid();
    Ok(())
}
