//! Single values as text and back, for CSV.

use plumb_core::column::{Column, DataType, Values};
use plumb_pipeline::decode::{TimeUnit, format_rfc3339, parse_rfc3339};
use serde_json::Value as Json;

/// A row as a CSV cell; `None` = null. Floats are the shortest text that reads back the same bits, instants
/// RFC 3339, bytes lower-case hex, lists JSON.
pub(crate) fn to_text(column: &Column, row: usize) -> Option<String> {
    if !column.is_valid(row) {
        return None;
    }
    Some(match &column.values {
        Values::I64(values) => values[row].to_string(),
        Values::F64(values) => float_text(values[row]),
        Values::Bool(values) => (values[row] != 0).to_string(),
        Values::Utf8(strings) => String::from_utf8_lossy(strings.get(row)).into_owned(),
        Values::Bytes(strings) => hex(strings.get(row)),
        Values::Timestamp(values) => format_rfc3339(values[row]),
        Values::List { .. } => to_json(column, row).to_string(),
    })
}

fn to_json(column: &Column, row: usize) -> Json {
    if !column.is_valid(row) {
        return Json::Null;
    }
    match &column.values {
        Values::I64(values) => Json::from(values[row]),
        // JSON has no NaN and no infinity: those are strings.
        Values::F64(values) if !values[row].is_finite() => Json::from(float_text(values[row])),
        Values::F64(values) => Json::from(values[row]),
        Values::Bool(values) => Json::from(values[row] != 0),
        Values::Utf8(_) | Values::Bytes(_) | Values::Timestamp(_) => Json::from(to_text(column, row)),
        Values::List { offsets, child } => {
            (offsets[row]..offsets[row + 1]).map(|element| to_json(child, element as usize)).collect()
        }
    }
}

fn float_text(value: f64) -> String {
    format!("{value:?}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// Appends a cell to a column of its wanted type; false if the text is no such value.
pub(crate) fn push_text(column: &mut Column, text: Option<&str>) -> bool {
    let Some(text) = text else {
        column.push_null();
        return true;
    };
    match &column.values {
        // Strings and bytes may be empty; for everything else an empty cell, quoted or not, is null.
        Values::Utf8(_) => column.push_bytes(text.as_bytes()),
        Values::Bytes(_) => match unhex(text) {
            Some(bytes) => column.push_bytes(&bytes),
            None => return false,
        },
        _ if text.is_empty() => column.push_null(),
        Values::I64(_) => match text.parse() {
            Ok(value) => column.push_i64(value),
            // pandas writes integers with gaps as floats.
            Err(_) => match text.strip_suffix(".0").and_then(|digits| digits.parse().ok()) {
                Some(value) => column.push_i64(value),
                None => return false,
            },
        },
        Values::F64(_) => match text.parse() {
            Ok(value) => column.push_f64(value),
            Err(_) => return false,
        },
        Values::Bool(_) => match text {
            "true" | "True" | "TRUE" => column.push_bool(true),
            "false" | "False" | "FALSE" => column.push_bool(false),
            _ => return false,
        },
        Values::Timestamp(_) => match instant(text) {
            Some((us, _)) => column.push_i64(us),
            None => return false,
        },
        Values::List { .. } => match serde_json::from_str(text) {
            Ok(Json::Array(elements)) => return push_list(column, &elements),
            _ => return false,
        },
    }
    true
}

fn push_list(column: &mut Column, elements: &[Json]) -> bool {
    let Values::List { offsets, child } = &mut column.values else { return false };
    for element in elements {
        let pushed = match (&child.values, element) {
            (_, Json::Null) => {
                child.push_null();
                true
            }
            (Values::F64(_), Json::Number(number)) => number.as_f64().map(|value| child.push_f64(value)).is_some(),
            (_, Json::String(text)) => push_text(child, Some(text)),
            (_, Json::Number(_) | Json::Bool(_)) => push_text(child, Some(&element.to_string())),
            _ => false,
        };
        if !pushed {
            return false;
        }
    }
    offsets.push(child.len() as u32);
    column.mark_valid();
    true
}

/// Reads an instant in text: RFC 3339, a date (its midnight), or an integer of milliseconds since 1970;
/// with whether it carried no zone.
pub(crate) fn instant(text: &str) -> Option<(i64, bool)> {
    if let Some(instant) = parse_rfc3339(text.as_bytes()) {
        return Some((instant.us, !instant.zoned));
    }
    if text.len() == 10 && !text.bytes().all(|byte| byte.is_ascii_digit()) {
        let midnight = parse_rfc3339(format!("{text}T00:00:00Z").as_bytes())?;
        return Some((midnight.us, true));
    }
    Some((TimeUnit::Ms.to_us(text.parse().ok()?)?, false))
}

/// Finds out the narrowest type that holds every cell it is shown and gives each back as the number it was: i64, f64,
/// bool, else string.
#[derive(Debug, Clone)]
pub(crate) struct Inference {
    any: bool,
    all_whole: bool,
    any_number: bool,
    all_numbers: bool,
    all_truths: bool,
}

impl Inference {
    /// Nothing shown yet.
    pub(crate) fn new() -> Self {
        Self { any: false, all_whole: true, any_number: false, all_numbers: true, all_truths: true }
    }

    /// Looks at more cells.
    pub(crate) fn look(&mut self, cells: &[Option<String>]) {
        for text in cells.iter().flatten() {
            self.any = true;
            let whole = self.all_whole && text.parse::<i64>().is_ok_and(|value| value.to_string() == *text);
            self.all_whole = whole;
            // Every whole number as it is written here is a number.
            let number = whole || (self.all_numbers && is_number(text));
            self.any_number |= number;
            self.all_numbers &= number || matches!(text.as_str(), "NaN" | "inf" | "-inf");
            self.all_truths &= matches!(text.as_str(), "true" | "false" | "True" | "False" | "TRUE" | "FALSE");
        }
    }

    /// The type of all cells so far.
    pub(crate) fn data_type(&self) -> DataType {
        match self {
            Self { any: false, .. } => DataType::Utf8,
            Self { all_whole: true, .. } => DataType::I64,
            Self { all_numbers: true, any_number: true, .. } => DataType::F64,
            Self { all_truths: true, .. } => DataType::Bool,
            _ => DataType::Utf8,
        }
    }
}

/// A code such as `007` is no number; `1e5` and `0.50` are.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let code = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.");
    !code && digits.starts_with(|first: char| first.is_ascii_digit() || first == '.') && text.parse::<f64>().is_ok()
}

/// The type of all cells of a column, see [`Inference`].
pub(crate) fn infer(cells: &[Option<String>]) -> DataType {
    let mut inference = Inference::new();
    inference.look(cells);
    inference.data_type()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(data_type: &DataType, cell: Option<&str>) -> Option<Column> {
        let mut column = Column::new(data_type);
        push_text(&mut column, cell).then_some(column)
    }

    #[test]
    fn empty_cells_are_null_where_the_type_has_no_empty_value() {
        let list = DataType::List(Box::new(DataType::Utf8));
        for data_type in [DataType::I64, DataType::F64, DataType::Bool] {
            assert!(!read(&data_type, Some("")).unwrap().is_valid(0), "{data_type:?}");
        }
        for (data_type, empty) in [(DataType::Utf8, ""), (DataType::Bytes, ""), (list, "[]")] {
            let column = read(&data_type, Some(empty)).unwrap();
            assert_eq!((column.is_valid(0), to_text(&column, 0).as_deref()), (true, Some(empty)), "{data_type:?}");
            assert!(!read(&data_type, None).unwrap().is_valid(0), "{data_type:?}");
        }
    }

    #[test]
    fn what_is_no_value_of_the_type_is_refused() {
        let list = DataType::List(Box::new(DataType::I64));
        for (data_type, cells) in [
            (DataType::I64, &["1.5", "1e3", "9223372036854775808", "0x1"][..]),
            (DataType::F64, &["1,5", "one"]),
            (DataType::Bool, &["1", "yes"]),
            (DataType::Bytes, &["f", "+f", "0g", "\u{e9}"]),
            (list, &["1", "[1", "[\"a\"]", "[[1]]", "{}"]),
        ] {
            for cell in cells {
                assert!(read(&data_type, Some(cell)).is_none(), "{cell} as {data_type:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn floats_keep_their_bits_alone_and_in_lists(bits in prop::collection::vec(any::<u64>(), 0..9)) {
            let mut column = Column::new(&DataType::F64);
            bits.iter().for_each(|&bits| column.push_f64(f64::from_bits(bits)));
            // Of NaN, the one that is kept.
            let expected = |bits: u64| if f64::from_bits(bits).is_nan() { f64::NAN.to_bits() } else { bits };
            for (row, &bits) in bits.iter().enumerate() {
                let read = read(&DataType::F64, to_text(&column, row).as_deref()).unwrap();
                prop_assert_eq!(read.as_f64().unwrap()[0].to_bits(), expected(bits));
            }
            let of = DataType::List(Box::new(DataType::F64));
            let mut list = Column::new(&of);
            let Values::List { offsets, child } = &mut list.values else { panic!("no list") };
            **child = column;
            offsets.push(bits.len() as u32);
            list.mark_valid();
            let again = read(&of, to_text(&list, 0).as_deref()).unwrap();
            let Values::List { child, .. } = &again.values else { panic!("no list") };
            let found: Vec<u64> = child.as_f64().unwrap().iter().map(|value| value.to_bits()).collect();
            prop_assert_eq!(found, bits.into_iter().map(expected).collect::<Vec<_>>());
        }
    }
}
