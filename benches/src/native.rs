//! A view compiled into this process, behind the same interface as its component.

use plumb_core::column::{Bitmap, Column, Strings, Values};
use plumb_core::contribution::Contributions;
use plumb_sdk::View;
use plumb_sdk::native::{self, ColumnRef, Text, TextRef, ValuesRef};
use plumb_transform::{Fault, Guest, GuestOutput, RowError};
use std::marker::PhantomData;

/// The view `V` as native code.
pub struct NativeGuest<V>(PhantomData<fn() -> V>);

impl<V> std::fmt::Debug for NativeGuest<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NativeGuest")
    }
}

impl<V> Default for NativeGuest<V> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<V: for<'a> View<'a>> Guest for NativeGuest<V> {
    fn extract(&self, rows: usize, columns: &[&Column]) -> Result<GuestOutput<Contributions>, Fault> {
        let columns: Vec<ColumnRef<'_>> = columns.iter().map(|column| borrow(column)).collect();
        let answer = native::extract::<V>(rows, &columns).map_err(Fault::Trap)?;
        let slots = answer.slots.into_iter().map(own).collect::<Result<_, _>>()?;
        Ok(GuestOutput { value: Contributions { rows: answer.rows, slots }, errors: errors(answer.errors) })
    }

    fn finalize(&self, as_of_us: &[i64], aggregates: &[Column]) -> Result<GuestOutput<Vec<Column>>, Fault> {
        let instants = ColumnRef { validity: &[], values: ValuesRef::Timestamp(as_of_us) };
        let columns: Vec<ColumnRef<'_>> = std::iter::once(instants).chain(aggregates.iter().map(borrow)).collect();
        let answer = native::finalize::<V>(as_of_us.len(), &columns).map_err(Fault::Trap)?;
        let value = answer.columns.into_iter().map(own).collect::<Result<_, _>>()?;
        Ok(GuestOutput { value, errors: errors(answer.errors) })
    }
}

/// The definition of the view `V`.
pub fn definition<V: View<'static>>() -> plumb_transform::Result<plumb_core::view::ViewDef> {
    Ok(plumb_transform::describe::parse(&native::describe::<V>())?.def)
}

fn errors(errors: Vec<native::RowError>) -> Vec<RowError> {
    errors.into_iter().map(|error| RowError { row: error.row, message: error.message }).collect()
}

fn borrow(column: &Column) -> ColumnRef<'_> {
    ColumnRef {
        validity: column.validity.as_ref().map_or(&[][..], Bitmap::as_bytes),
        values: borrow_values(&column.values),
    }
}

fn borrow_values(values: &Values) -> ValuesRef<'_> {
    match values {
        Values::I64(v) => ValuesRef::I64(v),
        Values::F64(v) => ValuesRef::F64(v),
        Values::Bool(v) => ValuesRef::Bool(v),
        Values::Utf8(v) => ValuesRef::Utf8(borrow_text(v)),
        Values::Bytes(v) => ValuesRef::Bytes(borrow_text(v)),
        Values::Timestamp(v) => ValuesRef::Timestamp(v),
        Values::List { offsets, child } => {
            ValuesRef::List { offsets, elements: Box::new(borrow_values(&child.values)) }
        }
    }
}

fn borrow_text(strings: &Strings) -> TextRef<'_> {
    TextRef { offsets: &strings.offsets, data: &strings.bytes }
}

fn own(column: native::Column) -> Result<Column, Fault> {
    let mut owned = Column::of(own_values(column.values));
    if !column.validity.is_empty() {
        let bits = Bitmap::from_bytes(column.validity, owned.len());
        owned.validity = Some(bits.map_err(|error| Fault::Malformed(error.to_string()))?);
    }
    Ok(owned)
}

fn own_values(values: native::Values) -> Values {
    let text = |text: Text| Strings { offsets: text.offsets, bytes: text.data };
    match values {
        native::Values::I64(v) => Values::I64(v),
        native::Values::F64(v) => Values::F64(v),
        native::Values::Bool(v) => Values::Bool(v),
        native::Values::Utf8(v) => Values::Utf8(text(v)),
        native::Values::Bytes(v) => Values::Bytes(text(v)),
        native::Values::Timestamp(v) => Values::Timestamp(v),
        native::Values::List { offsets, elements } => {
            Values::List { offsets, child: Box::new(Column::of(own_values(*elements))) }
        }
    }
}
