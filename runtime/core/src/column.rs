//! Columns: the one shape in which data moves between decoders, guests, state and files.
//!
//! The kinds are those of the WIT interface; conversion to Arrow or to guest memory is the edges'.

mod bitmap;
mod strings;

pub use bitmap::Bitmap;
pub use strings::Strings;

use crate::{Error, Result};
use std::ops::Range;

/// The type of a column, field, slot or feature.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DataType {
    /// 64-bit signed integer (`i64`).
    I64,
    /// 64-bit IEEE float (`f64`).
    F64,
    /// Truth value (`bool`).
    Bool,
    /// UTF-8 string (`string`).
    Utf8,
    /// Bytes (`bytes`).
    Bytes,
    /// Instant, µs since the Unix epoch (`timestamp`).
    Timestamp,
    /// List of one of the above (`list<…>`).
    List(Box<DataType>),
}

impl DataType {
    /// The name used in `describe`, in `plumb.toml` and in messages.
    pub fn name(&self) -> String {
        match self {
            DataType::I64 => "i64".into(),
            DataType::F64 => "f64".into(),
            DataType::Bool => "bool".into(),
            DataType::Utf8 => "string".into(),
            DataType::Bytes => "bytes".into(),
            DataType::Timestamp => "timestamp".into(),
            DataType::List(of) => format!("list<{}>", of.name()),
        }
    }

    /// Reads a type's name; lists of lists do not exist.
    pub fn parse(name: &str) -> Result<Self> {
        Ok(match name {
            "i64" => DataType::I64,
            "f64" => DataType::F64,
            "bool" => DataType::Bool,
            "string" => DataType::Utf8,
            "bytes" => DataType::Bytes,
            "timestamp" => DataType::Timestamp,
            _ => match name.strip_prefix("list<").and_then(|rest| rest.strip_suffix('>')) {
                Some(of) if !of.starts_with("list<") => DataType::List(Box::new(Self::parse(of)?)),
                _ => {
                    let why = "known types are i64, f64, bool, string, bytes, timestamp and list<…> of them";
                    return Err(Error::definition(format!("type `{name}`"), why));
                }
            },
        })
    }
}

/// The values of a column; a null row holds 0, false or an empty string.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// `i64`
    I64(Vec<i64>),
    /// `f64`
    F64(Vec<f64>),
    /// `bool`, one byte a row, 0 or 1
    Bool(Vec<u8>),
    /// `string`
    Utf8(Strings),
    /// `bytes`
    Bytes(Strings),
    /// `timestamp`, µs
    Timestamp(Vec<i64>),
    /// `list<…>`: `offsets` has one entry more than there are rows
    List {
        /// Where each row begins in `child`.
        offsets: Vec<u32>,
        /// The elements of all rows; not itself a list.
        child: Box<Column>,
    },
}

/// A column: values and which of them are present (`None` = all).
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Set = present; `None` = every row is.
    pub validity: Option<Bitmap>,
    /// The values.
    pub values: Values,
}

impl Column {
    /// An empty column of a type.
    pub fn new(data_type: &DataType) -> Self {
        let values = match data_type {
            DataType::I64 => Values::I64(Vec::new()),
            DataType::F64 => Values::F64(Vec::new()),
            DataType::Bool => Values::Bool(Vec::new()),
            DataType::Utf8 => Values::Utf8(Strings::new()),
            DataType::Bytes => Values::Bytes(Strings::new()),
            DataType::Timestamp => Values::Timestamp(Vec::new()),
            DataType::List(of) => Values::List { offsets: vec![0], child: Box::new(Column::new(of)) },
        };
        Self { validity: None, values }
    }

    /// A column without nulls.
    pub fn of(values: Values) -> Self {
        Self { validity: None, values }
    }

    /// `rows` nulls of a type.
    pub fn nulls(data_type: &DataType, rows: usize) -> Self {
        let values = match data_type {
            DataType::I64 => Values::I64(vec![0; rows]),
            DataType::F64 => Values::F64(vec![0.0; rows]),
            DataType::Bool => Values::Bool(vec![0; rows]),
            DataType::Utf8 => Values::Utf8(Strings { offsets: vec![0; rows + 1], bytes: Vec::new() }),
            DataType::Bytes => Values::Bytes(Strings { offsets: vec![0; rows + 1], bytes: Vec::new() }),
            DataType::Timestamp => Values::Timestamp(vec![0; rows]),
            DataType::List(of) => Values::List { offsets: vec![0; rows + 1], child: Box::new(Column::new(of)) },
        };
        let validity = (rows > 0).then(|| Bitmap::none_set(rows));
        Self { validity, values }
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        match &self.values {
            Values::I64(v) | Values::Timestamp(v) => v.len(),
            Values::F64(v) => v.len(),
            Values::Bool(v) => v.len(),
            Values::Utf8(v) | Values::Bytes(v) => v.len(),
            Values::List { offsets, .. } => offsets.len() - 1,
        }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The column's type.
    pub fn data_type(&self) -> DataType {
        match &self.values {
            Values::I64(_) => DataType::I64,
            Values::F64(_) => DataType::F64,
            Values::Bool(_) => DataType::Bool,
            Values::Utf8(_) => DataType::Utf8,
            Values::Bytes(_) => DataType::Bytes,
            Values::Timestamp(_) => DataType::Timestamp,
            Values::List { child, .. } => DataType::List(Box::new(child.data_type())),
        }
    }

    /// Whether a row is present.
    #[inline]
    pub fn is_valid(&self, row: usize) -> bool {
        self.validity.as_ref().is_none_or(|bits| bits.get(row))
    }

    /// Appends a null.
    pub fn push_null(&mut self) {
        let len = self.len();
        match &mut self.values {
            Values::I64(v) | Values::Timestamp(v) => v.push(0),
            Values::F64(v) => v.push(0.0),
            Values::Bool(v) => v.push(0),
            Values::Utf8(v) | Values::Bytes(v) => v.push(b""),
            Values::List { offsets, .. } => {
                let end = offsets[len];
                offsets.push(end);
            }
        }
        self.validity.get_or_insert_with(|| Bitmap::all_set(len)).push(false);
    }

    /// Marks the row just pushed onto the values as present; every `push_*` below ends with it.
    #[inline]
    pub fn mark_valid(&mut self) {
        if let Some(bits) = &mut self.validity {
            bits.push(true);
        }
    }

    /// Appends to an `i64` or `timestamp` column; panics on another type.
    #[inline]
    pub fn push_i64(&mut self, value: i64) {
        match &mut self.values {
            Values::I64(v) | Values::Timestamp(v) => v.push(value),
            other => panic_type("i64", other),
        }
        self.mark_valid();
    }

    /// Appends to an `f64` column; panics on another type.
    #[inline]
    pub fn push_f64(&mut self, value: f64) {
        match &mut self.values {
            Values::F64(v) => v.push(value),
            other => panic_type("f64", other),
        }
        self.mark_valid();
    }

    /// Appends to a `bool` column; panics on another type.
    pub fn push_bool(&mut self, value: bool) {
        match &mut self.values {
            Values::Bool(v) => v.push(u8::from(value)),
            other => panic_type("bool", other),
        }
        self.mark_valid();
    }

    /// Appends to a `string` or `bytes` column; panics on another type.
    pub fn push_bytes(&mut self, value: &[u8]) {
        match &mut self.values {
            Values::Utf8(v) | Values::Bytes(v) => v.push(value),
            other => panic_type("string", other),
        }
        self.mark_valid();
    }

    /// The rows of an `i64` or `timestamp` column.
    pub fn as_i64(&self) -> Option<&[i64]> {
        match &self.values {
            Values::I64(v) | Values::Timestamp(v) => Some(v),
            _ => None,
        }
    }

    /// The rows of an `f64` column.
    pub fn as_f64(&self) -> Option<&[f64]> {
        match &self.values {
            Values::F64(v) => Some(v),
            _ => None,
        }
    }

    /// The rows of a `bool` column.
    pub fn as_bool(&self) -> Option<&[u8]> {
        match &self.values {
            Values::Bool(v) => Some(v),
            _ => None,
        }
    }

    /// The rows of a `string` or `bytes` column.
    pub fn as_strings(&self) -> Option<&Strings> {
        match &self.values {
            Values::Utf8(v) | Values::Bytes(v) => Some(v),
            _ => None,
        }
    }

    /// The bytes of a string row, `None` when null; panics on another type.
    #[inline]
    pub fn str_bytes(&self, row: usize) -> Option<&[u8]> {
        match &self.values {
            Values::Utf8(v) | Values::Bytes(v) => self.is_valid(row).then(|| v.get(row)),
            other => panic_type("string", other),
        }
    }

    /// Appends row `row` of `from`, a column of the same type; panics on another.
    pub fn push_from(&mut self, from: &Column, row: usize) {
        if !from.is_valid(row) {
            return self.push_null();
        }
        match (&mut self.values, &from.values) {
            (Values::I64(to), Values::I64(v)) | (Values::Timestamp(to), Values::Timestamp(v)) => to.push(v[row]),
            (Values::F64(to), Values::F64(v)) => to.push(v[row]),
            (Values::Bool(to), Values::Bool(v)) => to.push(v[row]),
            (Values::Utf8(to), Values::Utf8(v)) | (Values::Bytes(to), Values::Bytes(v)) => to.push(v.get(row)),
            (Values::List { offsets, child }, Values::List { offsets: from_offsets, child: from_child }) => {
                child.append_rows(from_child, from_offsets[row] as usize..from_offsets[row + 1] as usize);
                offsets.push(child.len() as u32);
            }
            (to, _) => panic_type(&from.data_type().name(), to),
        }
        self.mark_valid();
    }

    /// Makes room for `rows` more rows and, in a column of strings, for `bytes` more bytes of them.
    pub fn reserve(&mut self, rows: usize, bytes: usize) {
        match &mut self.values {
            Values::I64(v) | Values::Timestamp(v) => v.reserve_exact(rows),
            Values::F64(v) => v.reserve_exact(rows),
            Values::Bool(v) => v.reserve_exact(rows),
            Values::Utf8(v) | Values::Bytes(v) => {
                v.offsets.reserve_exact(rows);
                v.bytes.reserve_exact(bytes);
            }
            Values::List { offsets, .. } => offsets.reserve_exact(rows),
        }
    }

    /// The bytes of the strings of these rows of a column of them; 0 for others.
    pub fn string_bytes(&self, rows: Range<usize>) -> usize {
        self.as_strings().map_or(0, |strings| (strings.offsets[rows.end] - strings.offsets[rows.start]) as usize)
    }

    /// Appends all rows of `from`, a column of the same type; panics on another.
    pub fn append(&mut self, from: &Column) {
        self.append_rows(from, 0..from.len());
    }

    /// Appends the rows `rows` of `from`, a column of the same type; panics on another.
    pub fn append_rows(&mut self, from: &Column, rows: Range<usize>) {
        let len = self.len();
        match (&mut self.validity, &from.validity) {
            (Some(bits), from_bits) => {
                for row in rows.clone() {
                    bits.push(from_bits.as_ref().is_none_or(|from_bits| from_bits.get(row)));
                }
            }
            (validity @ None, Some(from_bits)) if rows.clone().any(|row| !from_bits.get(row)) => {
                let mut bits = Bitmap::all_set(len);
                for row in rows.clone() {
                    bits.push(from_bits.get(row));
                }
                *validity = Some(bits);
            }
            (None, _) => {}
        }
        match (&mut self.values, &from.values) {
            (Values::I64(to), Values::I64(v)) | (Values::Timestamp(to), Values::Timestamp(v)) => {
                to.extend_from_slice(&v[rows])
            }
            (Values::F64(to), Values::F64(v)) => to.extend_from_slice(&v[rows]),
            (Values::Bool(to), Values::Bool(v)) => to.extend_from_slice(&v[rows]),
            (Values::Utf8(to), Values::Utf8(v)) | (Values::Bytes(to), Values::Bytes(v)) => to.append_rows(v, rows),
            (Values::List { offsets, child }, Values::List { offsets: from_offsets, child: from_child }) => {
                let (base, first) = (offsets[len], from_offsets[rows.start]);
                let elements = first as usize..from_offsets[rows.end] as usize;
                offsets.extend(from_offsets[rows.start + 1..=rows.end].iter().map(|offset| base + (offset - first)));
                child.append_rows(from_child, elements);
            }
            (to, _) => panic_type(&from.data_type().name(), to),
        }
    }

    /// Makes room for these rows of columns of the same type, which are strings or lists.
    fn make_room<'a>(&mut self, rows: impl Iterator<Item = (&'a Column, usize)>) {
        let (mut count, mut elements, mut bytes) = (0, 0, 0);
        for (from, row) in rows {
            count += 1;
            match &from.values {
                Values::List { offsets, child } => {
                    let of_row = offsets[row] as usize..offsets[row + 1] as usize;
                    elements += of_row.len();
                    bytes += child.string_bytes(of_row);
                }
                _ => bytes += from.string_bytes(row..row + 1),
            }
        }
        self.reserve(count, bytes);
        if let Values::List { child, .. } = &mut self.values {
            child.reserve(elements, bytes);
        }
    }

    /// A column of the rows `rows`.
    pub fn slice(&self, rows: Range<usize>) -> Column {
        let mut part = Column::new(&self.data_type());
        part.append_rows(self, rows);
        part
    }

    /// Keeps the first `rows` rows; no effect on a shorter column. A bitmap without a null is dropped, so
    /// that a column whose last rows were taken back equals one that never had them.
    pub fn truncate(&mut self, rows: usize) {
        match &mut self.values {
            Values::I64(v) | Values::Timestamp(v) => v.truncate(rows),
            Values::F64(v) => v.truncate(rows),
            Values::Bool(v) => v.truncate(rows),
            Values::Utf8(v) | Values::Bytes(v) => v.truncate(rows),
            Values::List { offsets, child } => {
                offsets.truncate(rows + 1);
                child.truncate(offsets.last().copied().unwrap_or(0) as usize);
            }
        }
        if let Some(bits) = &mut self.validity {
            bits.truncate(rows);
            if bits.count_set() == bits.len() {
                self.validity = None;
            }
        }
    }

    /// A column of the rows `rows`, in that order.
    pub fn take(&self, rows: impl IntoIterator<Item = usize, IntoIter: Clone>) -> Column {
        let rows = rows.into_iter();
        let values = match &self.values {
            Values::I64(v) => Values::I64(rows.clone().map(|row| v[row]).collect()),
            Values::Timestamp(v) => Values::Timestamp(rows.clone().map(|row| v[row]).collect()),
            Values::F64(v) => Values::F64(rows.clone().map(|row| v[row]).collect()),
            Values::Bool(v) => Values::Bool(rows.clone().map(|row| v[row]).collect()),
            Values::Utf8(_) | Values::Bytes(_) | Values::List { .. } => {
                let mut taken = Column::new(&self.data_type());
                taken.make_room(rows.clone().map(|row| (self, row)));
                rows.for_each(|row| taken.push_from(self, row));
                return taken;
            }
        };
        // Only a column with a null has a bitmap, as if its rows had been pushed.
        let validity = self.validity.as_ref().filter(|bits| rows.clone().any(|row| !bits.get(row)));
        Self { validity: validity.map(|bits| rows.map(|row| bits.get(row)).collect()), values }
    }

    /// A column of rows of several columns of one type: row `i` is row `places[i].1` of `pieces[places[i].0]`, or null
    /// where there is no such piece. Panics on a piece of another type.
    pub fn gather(data_type: &DataType, pieces: &[&Column], places: &[(u32, u32)]) -> Column {
        match data_type {
            DataType::I64 => gathered(pieces, places, Column::as_i64, Values::I64),
            DataType::Timestamp => gathered(pieces, places, Column::as_i64, Values::Timestamp),
            DataType::F64 => gathered(pieces, places, Column::as_f64, Values::F64),
            DataType::Bool => gathered(pieces, places, Column::as_bool, Values::Bool),
            DataType::Utf8 | DataType::Bytes | DataType::List(_) => {
                let mut all = Column::new(data_type);
                let found =
                    places.iter().filter_map(|&(piece, row)| Some((*pieces.get(piece as usize)?, row as usize)));
                all.make_room(found);
                for &(piece, row) in places {
                    match pieces.get(piece as usize) {
                        Some(piece) => all.push_from(piece, row as usize),
                        None => all.push_null(),
                    }
                }
                all
            }
        }
    }

    /// A column of `rows` rows, brought together from several of one type: the row `to` of a piece's `(to, from)` is its
    /// row `from`, and one that no piece has is null. No two have the same. Panics on a piece of another type.
    pub fn assemble(data_type: &DataType, rows: usize, pieces: &[(&[(u32, u32)], &Column)]) -> Column {
        match data_type {
            DataType::I64 => assembled(rows, pieces, Column::as_i64, Values::I64),
            DataType::Timestamp => assembled(rows, pieces, Column::as_i64, Values::Timestamp),
            DataType::F64 => assembled(rows, pieces, Column::as_f64, Values::F64),
            DataType::Bool => assembled(rows, pieces, Column::as_bool, Values::Bool),
            DataType::Utf8 | DataType::Bytes | DataType::List(_) => {
                let mut places = vec![(u32::MAX, 0); rows];
                for ((pairs, _), piece) in pieces.iter().zip(0..) {
                    pairs.iter().for_each(|&(to, from)| places[to as usize] = (piece, from));
                }
                let columns: Vec<&Column> = pieces.iter().map(|&(_, column)| column).collect();
                Self::gather(data_type, &columns, &places)
            }
        }
    }
}

/// [`Column::assemble`] of columns of fixed width, a piece after the other: the rows of one lie together.
fn assembled<'a, T: Copy + Default + 'a>(
    rows: usize,
    pieces: &[(&[(u32, u32)], &'a Column)],
    of: impl Fn(&'a Column) -> Option<&'a [T]>,
    values: impl Fn(Vec<T>) -> Values,
) -> Column {
    let mut to_rows = vec![T::default(); rows];
    let mut given = 0;
    for &(pairs, piece) in pieces {
        let from_rows = of(piece).unwrap_or_else(|| panic_type("the type that is brought together", &piece.values));
        pairs.iter().for_each(|&(to, from)| to_rows[to as usize] = from_rows[from as usize]);
        given += pairs.len();
    }
    // Mostly no piece has a null and every row is given, which is quickly seen.
    if given == rows && pieces.iter().all(|(_, piece)| piece.validity.is_none()) {
        return Column::of(values(to_rows));
    }
    let mut valid = if given == rows { Bitmap::all_set(rows) } else { Bitmap::none_set(rows) };
    let mut has_null = given < rows;
    for (pairs, piece) in pieces {
        if given < rows {
            pairs.iter().for_each(|&(to, _)| valid.set(to as usize, true));
        }
        let Some(bits) = &piece.validity else { continue };
        for &(to, _) in pairs.iter().filter(|&&(_, from)| !bits.get(from as usize)) {
            valid.set(to as usize, false);
            has_null = true;
        }
    }
    Column { validity: has_null.then_some(valid), values: values(to_rows) }
}

/// Rows of columns of fixed width.
fn gathered<'a, T: Copy + Default + 'a>(
    pieces: &[&'a Column],
    places: &[(u32, u32)],
    of: impl Fn(&'a Column) -> Option<&'a [T]>,
    values: impl Fn(Vec<T>) -> Values,
) -> Column {
    let from = pieces.iter().map(|&piece| match of(piece) {
        Some(rows) => (rows, piece.validity.as_ref()),
        None => panic_type("the type that is gathered", &piece.values),
    });
    let from: Vec<(&[T], Option<&Bitmap>)> = from.collect();
    let rows =
        places.iter().map(|&(piece, row)| from.get(piece as usize).map_or(T::default(), |of| of.0[row as usize]));
    let rows: Vec<T> = rows.collect();
    let is_valid = |&(piece, row): &(u32, u32)| {
        from.get(piece as usize).is_some_and(|of| of.1.is_none_or(|bits| bits.get(row as usize)))
    };
    // Mostly no piece has a null and every place a piece, which is quickly seen.
    let may_have_null =
        from.iter().any(|of| of.1.is_some()) || places.iter().any(|place| place.0 as usize >= from.len());
    let has_null = may_have_null && places.iter().any(|place| !is_valid(place));
    Column { validity: has_null.then(|| places.iter().map(is_valid).collect()), values: values(rows) }
}

#[cold]
#[expect(clippy::panic, reason = "the type of a column is checked where it enters; a mismatch is a bug")]
fn panic_type(wanted: &str, values: &Values) -> ! {
    let found = Column { validity: None, values: values.clone() }.data_type().name();
    panic!("expected a column of {wanted}, found {found}")
}

#[cfg(test)]
mod tests;
