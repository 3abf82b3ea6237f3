//! The component around a view: the WIT interface and the guest's memory. Exists on wasm32 only.

use crate::column::{Column, ColumnRef, Text, TextRef, Values, ValuesRef};
use crate::view::{self, RowError, View};

mod bump;

#[expect(missing_docs, reason = "generated from wit/view.wit")]
pub mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "transform",
        pub_export_macro: true,
        default_bindings_module: "plumb_sdk::component::bindings",
    });
}

pub use bindings::exports::plumb::transform::view as wit;

/// `extract` of the interface. A batch that is not what the view declares is a trap.
pub fn extract<V: for<'a> View<'a>>(events: &wit::Batch) -> wit::Contributions {
    let columns: Vec<ColumnRef<'_>> = events.columns.iter().map(borrow_column).collect();
    match view::extract::<V>(events.rows as usize, &columns) {
        Ok(output) => wit::Contributions {
            rows: output.rows,
            slots: output.slots.into_iter().map(own_column).collect(),
            errors: own_errors(output.errors),
        },
        Err(_) => std::process::abort(),
    }
}

/// `finalize` of the interface. A batch that is not what the view declares is a trap.
pub fn finalize<V: for<'a> View<'a>>(aggregates: &wit::Batch) -> wit::Features {
    let columns: Vec<ColumnRef<'_>> = aggregates.columns.iter().map(borrow_column).collect();
    match view::finalize::<V>(aggregates.rows as usize, &columns) {
        Ok(output) => wit::Features {
            columns: output.columns.into_iter().map(own_column).collect(),
            errors: own_errors(output.errors),
        },
        Err(_) => std::process::abort(),
    }
}

fn own_errors(errors: Vec<RowError>) -> Vec<wit::RowError> {
    errors.into_iter().map(|error| wit::RowError { row: error.row, message: error.message }).collect()
}

fn borrow_column(column: &wit::Column) -> ColumnRef<'_> {
    ColumnRef { validity: &column.validity, values: borrow_values(&column.values) }
}

fn borrow_text(text: &wit::Text) -> TextRef<'_> {
    TextRef { offsets: &text.offsets, data: &text.data }
}

fn borrow_values(values: &wit::Values) -> ValuesRef<'_> {
    fn list<'a>(offsets: &'a [u32], elements: ValuesRef<'a>) -> ValuesRef<'a> {
        ValuesRef::List { offsets, elements: Box::new(elements) }
    }
    match values {
        wit::Values::S64(rows) => ValuesRef::I64(rows),
        wit::Values::F64(rows) => ValuesRef::F64(rows),
        wit::Values::Boolean(rows) => ValuesRef::Bool(rows),
        wit::Values::Utf8(rows) => ValuesRef::Utf8(borrow_text(rows)),
        wit::Values::Bytes(rows) => ValuesRef::Bytes(borrow_text(rows)),
        wit::Values::Timestamp(rows) => ValuesRef::Timestamp(rows),
        wit::Values::DictionaryUtf8(rows) => {
            ValuesRef::DictionaryUtf8 { codes: &rows.codes, dictionary: borrow_text(&rows.dictionary) }
        }
        wit::Values::S64List(rows) => list(&rows.offsets, ValuesRef::I64(&rows.elements)),
        wit::Values::F64List(rows) => list(&rows.offsets, ValuesRef::F64(&rows.elements)),
        wit::Values::BooleanList(rows) => list(&rows.offsets, ValuesRef::Bool(&rows.elements)),
        wit::Values::Utf8List(rows) => list(&rows.offsets, ValuesRef::Utf8(borrow_text(&rows.elements))),
        wit::Values::BytesList(rows) => list(&rows.offsets, ValuesRef::Bytes(borrow_text(&rows.elements))),
        wit::Values::TimestampList(rows) => list(&rows.offsets, ValuesRef::Timestamp(&rows.elements)),
    }
}

fn own_column(column: Column) -> wit::Column {
    wit::Column { validity: column.validity, values: own_values(column.values) }
}

fn own_text(text: Text) -> wit::Text {
    wit::Text { offsets: text.offsets, data: text.data }
}

fn own_values(values: Values) -> wit::Values {
    match values {
        Values::I64(rows) => wit::Values::S64(rows),
        Values::F64(rows) => wit::Values::F64(rows),
        Values::Bool(rows) => wit::Values::Boolean(rows),
        Values::Utf8(rows) => wit::Values::Utf8(own_text(rows)),
        Values::Bytes(rows) => wit::Values::Bytes(own_text(rows)),
        Values::Timestamp(rows) => wit::Values::Timestamp(rows),
        Values::List { offsets, elements } => match *elements {
            Values::I64(elements) => wit::Values::S64List(wit::S64Lists { offsets, elements }),
            Values::F64(elements) => wit::Values::F64List(wit::F64Lists { offsets, elements }),
            Values::Bool(elements) => wit::Values::BooleanList(wit::BoolLists { offsets, elements }),
            Values::Utf8(elements) => wit::Values::Utf8List(wit::TextLists { offsets, elements: own_text(elements) }),
            Values::Bytes(elements) => wit::Values::BytesList(wit::TextLists { offsets, elements: own_text(elements) }),
            Values::Timestamp(elements) => wit::Values::TimestampList(wit::S64Lists { offsets, elements }),
            // `Vec<Vec<_>>` is no feature: the interface has no column for it.
            Values::List { .. } => std::process::abort(),
        },
    }
}

/// Exports a view from the crate that calls it; part of [`crate::export`].
#[doc(hidden)]
#[macro_export]
macro_rules! __export_component {
    ($view:ty) => {
        const _: () = {
            struct Component;

            impl $crate::component::wit::Guest for Component {
                fn describe() -> ::std::string::String {
                    $crate::native::describe::<$view>()
                }

                fn extract(events: $crate::component::wit::Batch) -> $crate::component::wit::Contributions {
                    $crate::component::extract::<$view>(&events)
                }

                fn finalize(aggregates: $crate::component::wit::Batch) -> $crate::component::wit::Features {
                    $crate::component::finalize::<$view>(&aggregates)
                }
            }

    $crate::component::bindings::export!(Component with_types_in $crate::component::bindings);
        };
    };
}
