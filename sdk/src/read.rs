//! Reading a row's values out of columns, without copying: what fields of events and aggregates can be.

use crate::column::{ColumnRef, TextRef, ValuesRef, is_present};
use crate::definition::Type;
use crate::time::Time;

/// A type that the values of a column can be read as.
pub trait Scalar<'a>: Sized {
    /// The column's type.
    const TYPE: Type;
    /// The column, ready to be read.
    type Reader: Copy;

    /// Takes the values of a column; `None` if they are of another type, or are not what they claim to be.
    fn open(values: &ValuesRef<'a>) -> Option<Self::Reader>;

    /// The value of row `row`; panics past the end.
    fn at(reader: Self::Reader, row: usize) -> Self;
}

macro_rules! plain_scalar {
    ($type:ty, $name:expr, $variant:ident, $stored:ty, $convert:expr) => {
        impl<'a> Scalar<'a> for $type {
            const TYPE: Type = $name;
            type Reader = &'a [$stored];

            #[inline]
            fn open(values: &ValuesRef<'a>) -> Option<Self::Reader> {
                match values {
                    ValuesRef::$variant(rows) => Some(rows),
                    _ => None,
                }
            }

            #[inline]
            fn at(reader: Self::Reader, row: usize) -> Self {
                let convert: fn($stored) -> Self = $convert;
                convert(reader[row])
            }
        }
    };
}

plain_scalar!(i64, Type::I64, I64, i64, |value| value);
plain_scalar!(f64, Type::F64, F64, f64, |value| value);
plain_scalar!(bool, Type::Bool, Bool, u8, |value| value != 0);
plain_scalar!(Time, Type::Timestamp, Timestamp, i64, Time::from_micros);

/// A column of strings, checked to be UTF-8 once as a whole.
#[derive(Debug, Clone, Copy)]
pub enum TextReader<'a> {
    /// Strings end to end.
    Plain {
        /// Where each row begins.
        offsets: &'a [u32],
        /// All rows.
        text: &'a str,
    },
    /// Strings by reference.
    Coded {
        /// The dictionary entry of each row.
        codes: &'a [u32],
        /// Where each entry begins.
        offsets: &'a [u32],
        /// All entries.
        text: &'a str,
    },
}

impl<'a> Scalar<'a> for &'a str {
    const TYPE: Type = Type::Utf8;
    type Reader = TextReader<'a>;

    fn open(values: &ValuesRef<'a>) -> Option<Self::Reader> {
        let utf8 = |text: &TextRef<'a>| std::str::from_utf8(text.data).ok();
        match values {
            ValuesRef::Utf8(rows) => Some(TextReader::Plain { offsets: rows.offsets, text: utf8(rows)? }),
            ValuesRef::DictionaryUtf8 { codes, dictionary } => {
                Some(TextReader::Coded { codes, offsets: dictionary.offsets, text: utf8(dictionary)? })
            }
            _ => None,
        }
    }

    // The slice checks that both ends lie between characters: two byte loads instead of decoding the row.
    #[inline]
    fn at(reader: Self::Reader, row: usize) -> Self {
        match reader {
            TextReader::Plain { offsets, text } => &text[offsets[row] as usize..offsets[row + 1] as usize],
            TextReader::Coded { codes, offsets, text } => {
                let entry = codes[row] as usize;
                &text[offsets[entry] as usize..offsets[entry + 1] as usize]
            }
        }
    }
}

impl<'a> Scalar<'a> for &'a [u8] {
    const TYPE: Type = Type::Bytes;
    type Reader = TextRef<'a>;

    #[inline]
    fn open(values: &ValuesRef<'a>) -> Option<Self::Reader> {
        match values {
            ValuesRef::Bytes(rows) => Some(*rows),
            _ => None,
        }
    }

    #[inline]
    fn at(reader: Self::Reader, row: usize) -> Self {
        &reader.data[reader.offsets[row] as usize..reader.offsets[row + 1] as usize]
    }
}

/// A type that a row of a column can be read as: a scalar, a list, or an `Option` of one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be read from a column",
    label = "not the type of a field or aggregate",
    note = "known types are &str, i64, f64, bool, Time, &[u8], Vec of them, and Option of all these"
)]
pub trait Value<'a>: Sized {
    /// The column's type.
    const TYPE: Type;
    /// Whether a null is one of its values.
    const OPTIONAL: bool;
    /// The column, ready to be read.
    type Reader;

    /// Takes a column; `None` if it is of another type, or is not what it claims to be.
    fn open(column: &ColumnRef<'a>) -> Option<Self::Reader>;

    /// The value of row `row`; `None` if the row is null and the type has no null.
    fn get(reader: &Self::Reader, row: usize) -> Option<Self>;
}

/// A column and which of its rows are present.
#[derive(Debug, Clone, Copy)]
pub struct Nullable<'a, R> {
    validity: &'a [u8],
    values: R,
}

macro_rules! scalar_value {
    ($($type:ty),*) => {$(
        impl<'a> Value<'a> for $type {
            const TYPE: Type = <$type as Scalar<'a>>::TYPE;
            const OPTIONAL: bool = false;
            type Reader = Nullable<'a, <$type as Scalar<'a>>::Reader>;

            #[inline]
            fn open(column: &ColumnRef<'a>) -> Option<Self::Reader> {
                Some(Nullable { validity: column.validity, values: <$type as Scalar<'a>>::open(&column.values)? })
            }

            #[inline]
            fn get(reader: &Self::Reader, row: usize) -> Option<Self> {
                is_present(reader.validity, row).then(|| <$type as Scalar<'a>>::at(reader.values, row))
            }
        }
    )*};
}

scalar_value!(i64, f64, bool, Time, &'a str, &'a [u8]);

impl<'a, E: Scalar<'a>> Value<'a> for Vec<E> {
    const TYPE: Type = Type::List(&E::TYPE);
    const OPTIONAL: bool = false;
    type Reader = Nullable<'a, (&'a [u32], E::Reader)>;

    fn open(column: &ColumnRef<'a>) -> Option<Self::Reader> {
        match &column.values {
            ValuesRef::List { offsets, elements } => {
                Some(Nullable { validity: column.validity, values: (offsets, E::open(elements)?) })
            }
            _ => None,
        }
    }

    fn get(reader: &Self::Reader, row: usize) -> Option<Self> {
        let (offsets, elements) = reader.values;
        is_present(reader.validity, row)
            .then(|| (offsets[row] as usize..offsets[row + 1] as usize).map(|at| E::at(elements, at)).collect())
    }
}

impl<'a, V: Value<'a>> Value<'a> for Option<V> {
    const TYPE: Type = V::TYPE;
    const OPTIONAL: bool = true;
    type Reader = V::Reader;

    #[inline]
    fn open(column: &ColumnRef<'a>) -> Option<Self::Reader> {
        V::open(column)
    }

    #[inline]
    fn get(reader: &Self::Reader, row: usize) -> Option<Self> {
        Some(V::get(reader, row))
    }
}

/// Opens the next of a batch's columns for a field of type `V`.
///
/// # Errors
/// Names the field when the column is missing, has another number of rows or is of another type.
pub fn open_column<'a, V: Value<'a>>(
    name: &str,
    index: usize,
    columns: &[ColumnRef<'a>],
    rows: usize,
) -> Result<V::Reader, String> {
    let column = columns.get(index).ok_or_else(|| format!("column {index} (`{name}`) is missing"))?;
    if column.values.len() != rows {
        return Err(format!("column `{name}` has {} rows, expected {rows}", column.values.len()));
    }
    if !column.validity.is_empty() && column.validity.len() < rows.div_ceil(8) {
        return Err(format!("column `{name}` has {} bytes of validity for {rows} rows", column.validity.len()));
    }
    V::open(column)
        .ok_or_else(|| format!("column `{name}` of {} cannot be read as {}", column.values.type_name(), V::TYPE.name()))
}
