//! JSON values in and out of columns.

use crate::column::{Column, Text, Values, is_present};
use crate::definition::{FieldDef, Type};
use serde_json::{Value, json};

/// One column a field, one row an event; a missing field is null.
pub(super) fn of_events(fields: &[FieldDef], events: &[Value]) -> Vec<Column> {
    fields
        .iter()
        .map(|field| {
            let values: Vec<&Value> = events
                .iter()
                .map(|event| match event {
                    Value::Object(_) => &event[field.name],
                    other => panic!("an event is a JSON object, found {other}"),
                })
                .collect();
            of_values(field.name, field.field_type, &values)
        })
        .collect()
}

/// A column of JSON values.
pub(super) fn of_values(name: &str, column_type: Type, values: &[&Value]) -> Column {
    let wrong = |value: &Value| -> ! { panic!("`{name}` is declared as {}, found {value}", column_type.name()) };
    let mut validity = vec![0; values.len().div_ceil(8)];
    for (row, value) in values.iter().enumerate() {
        validity[row / 8] |= u8::from(!value.is_null()) << (row % 8);
    }
    let integers =
        || values.iter().map(|value| if value.is_null() { 0 } else { value.as_i64().unwrap_or_else(|| wrong(value)) });
    let values = match column_type {
        Type::I64 => Values::I64(integers().collect()),
        Type::Timestamp => Values::Timestamp(integers().collect()),
        Type::F64 => Values::F64(
            values
                .iter()
                .map(|value| if value.is_null() { 0.0 } else { value.as_f64().unwrap_or_else(|| wrong(value)) })
                .collect(),
        ),
        Type::Bool | Type::Mark => Values::Bool(
            values
                .iter()
                .map(|value| !value.is_null() && value.as_bool().unwrap_or_else(|| wrong(value)))
                .map(u8::from)
                .collect(),
        ),
        Type::Utf8 | Type::Bytes => {
            let mut text = Text { offsets: vec![0], data: Vec::new() };
            for value in values {
                if !value.is_null() {
                    text.data.extend_from_slice(text_of(value).unwrap_or_else(|| wrong(value)).as_bytes());
                }
                text.offsets.push(text.data.len() as u32);
            }
            if column_type == Type::Utf8 { Values::Utf8(text) } else { Values::Bytes(text) }
        }
        Type::List(of) => {
            let empty = Vec::new();
            let lists = values.iter().map(|value| value.as_array().unwrap_or(&empty));
            let mut offsets = vec![0];
            lists.clone().for_each(|list| offsets.push(offsets[offsets.len() - 1] + list.len() as u32));
            let elements: Vec<&Value> = lists.flatten().collect();
            Values::List { offsets, elements: Box::new(of_values(name, *of, &elements).values) }
        }
    };
    Column { validity, values }
}

/// A string as it is, an integer as its decimal digits.
pub(super) fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
        _ => None,
    }
}

/// A row as JSON; timestamps are microseconds.
pub(super) fn value_at(column: &Column, row: usize) -> Value {
    if !is_present(&column.validity, row) {
        return Value::Null;
    }
    element_at(&column.values, row)
}

fn element_at(values: &Values, row: usize) -> Value {
    let text = |text: &Text| {
        let bytes = &text.data[text.offsets[row] as usize..text.offsets[row + 1] as usize];
        json!(String::from_utf8_lossy(bytes))
    };
    match values {
        Values::I64(rows) | Values::Timestamp(rows) => json!(rows[row]),
        Values::F64(rows) => json!(rows[row]),
        Values::Bool(rows) => json!(rows[row] != 0),
        Values::Utf8(rows) | Values::Bytes(rows) => text(rows),
        Values::List { offsets, elements } => {
            (offsets[row] as usize..offsets[row + 1] as usize).map(|at| element_at(elements, at)).collect()
        }
    }
}
