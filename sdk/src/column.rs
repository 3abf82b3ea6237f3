//! Columns as they cross the component's border: borrowed on the way in, owned on the way out.
//!
//! They mirror the types of `wit/view.wit`, so the same loop runs natively and in the component. An
//! author of a transform never meets them.

use crate::definition::Type;

/// Strings or byte strings end to end: row `i` is `data[offsets[i]..offsets[i + 1]]`.
#[derive(Debug, Clone, Copy)]
pub struct TextRef<'a> {
    /// One entry more than there are rows; the first is 0, the last the length of `data`.
    pub offsets: &'a [u32],
    /// The rows' bytes, one after the other.
    pub data: &'a [u8],
}

/// The values of an incoming column; what a null row holds is not looked at.
#[derive(Debug, Clone)]
pub enum ValuesRef<'a> {
    /// 64-bit integers.
    I64(&'a [i64]),
    /// 64-bit floats.
    F64(&'a [f64]),
    /// One byte a row, 0 or 1.
    Bool(&'a [u8]),
    /// Strings.
    Utf8(TextRef<'a>),
    /// Byte strings.
    Bytes(TextRef<'a>),
    /// UTC microseconds since the Unix epoch.
    Timestamp(&'a [i64]),
    /// Strings by reference: row `i` is entry `codes[i]` of `dictionary`.
    DictionaryUtf8 {
        /// One index into the dictionary a row.
        codes: &'a [u32],
        /// The distinct strings.
        dictionary: TextRef<'a>,
    },
    /// Lists end to end: row `i` holds the elements `offsets[i]..offsets[i + 1]`.
    List {
        /// One entry more than there are rows.
        offsets: &'a [u32],
        /// The elements; never lists themselves.
        elements: Box<ValuesRef<'a>>,
    },
}

impl ValuesRef<'_> {
    /// The type of the values, as `describe` names it.
    pub fn type_name(&self) -> String {
        match self {
            ValuesRef::I64(_) => Type::I64.name(),
            ValuesRef::F64(_) => Type::F64.name(),
            ValuesRef::Bool(_) => Type::Bool.name(),
            ValuesRef::Utf8(_) | ValuesRef::DictionaryUtf8 { .. } => Type::Utf8.name(),
            ValuesRef::Bytes(_) => Type::Bytes.name(),
            ValuesRef::Timestamp(_) => Type::Timestamp.name(),
            ValuesRef::List { elements, .. } => format!("list<{}>", elements.type_name()),
        }
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        match self {
            ValuesRef::I64(rows) | ValuesRef::Timestamp(rows) => rows.len(),
            ValuesRef::F64(rows) => rows.len(),
            ValuesRef::Bool(rows) => rows.len(),
            ValuesRef::Utf8(text) | ValuesRef::Bytes(text) => text.offsets.len().saturating_sub(1),
            ValuesRef::DictionaryUtf8 { codes, .. } => codes.len(),
            ValuesRef::List { offsets, .. } => offsets.len().saturating_sub(1),
        }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An incoming column.
#[derive(Debug, Clone)]
pub struct ColumnRef<'a> {
    /// One bit a row, least significant first, set = present; empty = every row is.
    pub validity: &'a [u8],
    /// The values.
    pub values: ValuesRef<'a>,
}

/// Strings or byte strings end to end, owned; see [`TextRef`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// One entry more than there are rows.
    pub offsets: Vec<u32>,
    /// The rows' bytes.
    pub data: Vec<u8>,
}

/// The values of an outgoing column; a null row holds 0, an empty string or an empty list.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// 64-bit integers.
    I64(Vec<i64>),
    /// 64-bit floats.
    F64(Vec<f64>),
    /// One byte a row, 0 or 1.
    Bool(Vec<u8>),
    /// Strings.
    Utf8(Text),
    /// Byte strings.
    Bytes(Text),
    /// UTC microseconds since the Unix epoch.
    Timestamp(Vec<i64>),
    /// Lists end to end.
    List {
        /// One entry more than there are rows.
        offsets: Vec<u32>,
        /// The elements; never lists themselves.
        elements: Box<Values>,
    },
}

impl Values {
    /// The same values, borrowed.
    pub fn borrow(&self) -> ValuesRef<'_> {
        fn text(text: &Text) -> TextRef<'_> {
            TextRef { offsets: &text.offsets, data: &text.data }
        }
        match self {
            Values::I64(rows) => ValuesRef::I64(rows),
            Values::F64(rows) => ValuesRef::F64(rows),
            Values::Bool(rows) => ValuesRef::Bool(rows),
            Values::Utf8(rows) => ValuesRef::Utf8(text(rows)),
            Values::Bytes(rows) => ValuesRef::Bytes(text(rows)),
            Values::Timestamp(rows) => ValuesRef::Timestamp(rows),
            Values::List { offsets, elements } => ValuesRef::List { offsets, elements: Box::new(elements.borrow()) },
        }
    }
}

/// An outgoing column.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// One bit a row, least significant first, set = present; empty = every row is.
    pub validity: Vec<u8>,
    /// The values.
    pub values: Values,
}

impl Column {
    /// The same column, borrowed.
    pub fn borrow(&self) -> ColumnRef<'_> {
        ColumnRef { validity: &self.validity, values: self.values.borrow() }
    }
}

/// Whether row `row` is present.
#[inline]
pub(crate) fn is_present(validity: &[u8], row: usize) -> bool {
    validity.is_empty() || validity[row >> 3] >> (row & 7) & 1 == 1
}
