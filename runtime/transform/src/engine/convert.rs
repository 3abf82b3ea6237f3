//! Columns to and from the interface. In: borrowed, nothing is copied before the engine copies it into the guest.
//! Out: copied once by the engine; offsets, UTF-8 and validity are checked here, lengths against the definition later.

use super::bindings::exports::plumb::transform::view::{
    BoolListsParam, ColumnParam, ColumnResult, F64ListsParam, RowError as WitRowError, S64ListsParam, TextListsParam,
    TextParam, TextResult, ValuesParam, ValuesResult,
};
use crate::guest::{Fault, RowError};
use plumb_core::column::{Bitmap, Column, Strings, Values};

/// A host column as a guest sees it.
pub(super) fn lower(column: &Column) -> ColumnParam<'_> {
    let values = match &column.values {
        Values::I64(v) => ValuesParam::S64(v),
        Values::F64(v) => ValuesParam::F64(v),
        Values::Bool(v) => ValuesParam::Boolean(v),
        Values::Utf8(v) => ValuesParam::Utf8(text(v)),
        Values::Bytes(v) => ValuesParam::Bytes(text(v)),
        Values::Timestamp(v) => ValuesParam::Timestamp(v),
        Values::List { offsets, child } => lower_list(offsets, child),
    };
    ColumnParam { validity: column.validity.as_ref().map_or(&[][..], Bitmap::as_bytes), values }
}

/// Instants as a guest sees them.
pub(super) fn timestamps(instants_us: &[i64]) -> ColumnParam<'_> {
    ColumnParam { validity: &[], values: ValuesParam::Timestamp(instants_us) }
}

/// The elements of a list are never null: the interface has no place for it.
fn lower_list<'a>(offsets: &'a [u32], child: &'a Column) -> ValuesParam<'a> {
    match &child.values {
        Values::I64(elements) => ValuesParam::S64List(S64ListsParam { offsets, elements }),
        Values::F64(elements) => ValuesParam::F64List(F64ListsParam { offsets, elements }),
        Values::Bool(elements) => ValuesParam::BooleanList(BoolListsParam { offsets, elements }),
        Values::Utf8(elements) => ValuesParam::Utf8List(TextListsParam { offsets, elements: text(elements) }),
        Values::Bytes(elements) => ValuesParam::BytesList(TextListsParam { offsets, elements: text(elements) }),
        Values::Timestamp(elements) => ValuesParam::TimestampList(S64ListsParam { offsets, elements }),
        Values::List { .. } => unreachable!("lists of lists do not exist"),
    }
}

fn text(strings: &Strings) -> TextParam<'_> {
    TextParam { offsets: &strings.offsets, data: &strings.bytes }
}

/// A guest's column as the host's, checked as far as it can be without its definition.
pub(super) fn lift(column: ColumnResult) -> Result<Column, Fault> {
    let list = |offsets: Vec<u32>, child: Values| {
        let child = Box::new(Column::of(child));
        check_offsets(&offsets, child.len())?;
        Ok(Values::List { offsets, child })
    };
    let values = match column.values {
        ValuesResult::S64(v) => Values::I64(v),
        ValuesResult::F64(v) => Values::F64(v),
        ValuesResult::Boolean(v) => Values::Bool(booleans(v)?),
        ValuesResult::Utf8(v) => Values::Utf8(strings(v, true)?),
        ValuesResult::Bytes(v) => Values::Bytes(strings(v, false)?),
        ValuesResult::Timestamp(v) => Values::Timestamp(v),
        ValuesResult::DictionaryUtf8(_) => {
            return Err(Fault::Malformed("a dictionary column, which is for input only".into()));
        }
        ValuesResult::S64List(v) => list(v.offsets, Values::I64(v.elements))?,
        ValuesResult::F64List(v) => list(v.offsets, Values::F64(v.elements))?,
        ValuesResult::BooleanList(v) => list(v.offsets, Values::Bool(booleans(v.elements)?))?,
        ValuesResult::Utf8List(v) => list(v.offsets, Values::Utf8(strings(v.elements, true)?))?,
        ValuesResult::BytesList(v) => list(v.offsets, Values::Bytes(strings(v.elements, false)?))?,
        ValuesResult::TimestampList(v) => list(v.offsets, Values::Timestamp(v.elements))?,
    };
    let mut lifted = Column::of(values);
    if !column.validity.is_empty() {
        lifted.validity = Some(Bitmap::from_bytes(column.validity, lifted.len()).map_err(malformed)?);
    }
    Ok(lifted)
}

/// A guest's own error about a row.
pub(super) fn lift_error(error: WitRowError) -> RowError {
    RowError { row: error.row, message: error.message }
}

fn booleans(values: Vec<u8>) -> Result<Vec<u8>, Fault> {
    match values.iter().find(|&&value| value > 1) {
        Some(value) => Err(Fault::Malformed(format!("a boolean of {value}, expected 0 or 1"))),
        None => Ok(values),
    }
}

fn strings(text: TextResult, utf8: bool) -> Result<Strings, Fault> {
    let strings = Strings { offsets: text.offsets, bytes: text.data };
    strings.check().map_err(malformed)?;
    if utf8 {
        strings.check_utf8().map_err(malformed)?;
    }
    Ok(strings)
}

fn check_offsets(offsets: &[u32], elements: usize) -> Result<(), Fault> {
    let bad = |why: &str| Err(Fault::Malformed(format!("list offsets: {why}")));
    match (offsets.first(), offsets.last()) {
        (Some(0), Some(&last)) if last as usize == elements => {}
        (Some(0), _) => return bad("the last offset is not the number of elements"),
        _ => return bad("the first offset is not 0"),
    }
    if offsets.is_sorted() { Ok(()) } else { bad("an offset is smaller than the one before") }
}

fn malformed(error: plumb_core::Error) -> Fault {
    crate::transform::malformed(error)
}

#[cfg(test)]
mod tests;
