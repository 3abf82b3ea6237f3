//! What `extract` returned for a batch: rows and slot columns, checked.

use crate::column::{Column, DataType};
use crate::view::{SlotType, ViewDef};
use crate::{Error, Result};

/// Contributions of a batch of events: row `i` says that event `rows[i]` puts `slots[s][i]` into slot `s`.
///
/// An event's index may repeat or be absent; a null slot is no contribution to it. Key and event time
/// are not in here: they stay the host's, so a guest cannot forge them.
#[derive(Debug, Clone, PartialEq)]
pub struct Contributions {
    /// Indices into the batch of events, ascending after [`Contributions::check`].
    pub rows: Vec<u32>,
    /// One column per declared slot, each as long as `rows`.
    pub slots: Vec<Column>,
}

impl Contributions {
    /// No contributions to these slots.
    pub fn empty(slots: &[SlotType]) -> Self {
        Self { rows: Vec::new(), slots: slots.iter().map(|slot| Column::new(&slot.column_type())).collect() }
    }

    /// The number of contributions.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Checks what a guest returned for `events` events against its definition and brings the rows into
    /// ascending order (stable).
    pub fn check(self, view: &ViewDef, events: usize) -> Result<Self> {
        if self.slots.len() != view.slots.len() {
            let why = format!("{} slot columns, {} are declared", self.slots.len(), view.slots.len());
            return Err(Error::malformed("contributions", why));
        }
        if let Some(row) = self.rows.iter().find(|&&row| row as usize >= events) {
            return Err(Error::malformed("contributions", format!("row index {row} in a batch of {events} events")));
        }
        for (column, slot) in self.slots.iter().zip(&view.slots) {
            check_column(
                &format!("slot column `{}`", slot.name),
                column,
                &slot.slot_type.column_type(),
                self.rows.len(),
            )?;
        }
        if self.rows.is_sorted() {
            return Ok(self);
        }
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        order.sort_by_key(|&index| self.rows[index]);
        Ok(Self {
            rows: order.iter().map(|&index| self.rows[index]).collect(),
            slots: self.slots.iter().map(|column| column.take(order.iter().copied())).collect(),
        })
    }
}

/// Checks a column that came from a guest: type, length, and the length of its validity. Offsets and
/// UTF-8 are checked where guest memory is copied out.
pub fn check_column(what: &str, column: &Column, expected: &DataType, rows: usize) -> Result<()> {
    if column.data_type() != *expected {
        return Err(Error::malformed(
            what,
            format!("is of type {}, declared is {}", column.data_type().name(), expected.name()),
        ));
    }
    if column.len() != rows {
        return Err(Error::malformed(what, format!("has {} rows, expected {rows}", column.len())));
    }
    match &column.validity {
        Some(bits) if bits.len() != rows => {
            Err(Error::malformed(what, format!("validity of {} rows, expected {rows}", bits.len())))
        }
        _ => Ok(()),
    }
}
