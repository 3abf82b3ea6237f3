//! The columns of a batch of contributions, seen as records.

use super::interner::Interner;
use super::record::Layout;
use crate::column::{Bitmap, Column, Strings};
use crate::view::SlotType;

/// The values of one slot.
enum Lane<'a> {
    Mark(&'a [u8]),
    Bool(&'a [u8]),
    Integer(&'a [i64]),
    Float(&'a [f64]),
    Text(&'a Strings),
}

/// One slot's column with the place its value has in a record.
struct SlotInput<'a> {
    lane: Lane<'a>,
    validity: Option<&'a Bitmap>,
    word: usize,
}

/// The slot columns of a batch.
pub(super) struct Inputs<'a>(Vec<SlotInput<'a>>);

impl<'a> Inputs<'a> {
    /// Sees `slots` as the layout's slots; panics if a column is of another type than its slot
    /// (`Contributions::check` has made sure of it).
    pub(super) fn new(layout: &Layout, slots: &'a [Column]) -> Self {
        assert_eq!(slots.len(), layout.types.len(), "contributions have one column per slot");
        let lane = |slot: SlotType, column: &'a Column| match slot {
            SlotType::Mark => column.as_bool().map(Lane::Mark),
            SlotType::Bool => column.as_bool().map(Lane::Bool),
            SlotType::I64 | SlotType::Timestamp => column.as_i64().map(Lane::Integer),
            SlotType::F64 => column.as_f64().map(Lane::Float),
            SlotType::Utf8 => column.as_strings().map(Lane::Text),
        };
        Self(
            slots
                .iter()
                .zip(layout.types.iter().zip(&layout.values))
                .map(|(column, (&slot, &word))| SlotInput {
                    lane: lane(slot, column).expect("a slot's column has the slot's type"),
                    validity: column.validity.as_ref(),
                    word: word.unwrap_or(0),
                })
                .collect(),
        )
    }

    /// Writes the values of contribution `row` into `record` (all but its head and id) and returns which slots
    /// it is to. A float that is no number is no contribution to its slot and counted in `non_finite`.
    #[inline]
    pub(super) fn fill(&self, row: usize, record: &mut [u64], strings: &mut Interner, non_finite: &mut u64) -> u64 {
        let mut mask = 0;
        for (slot, input) in self.0.iter().enumerate() {
            if input.validity.is_some_and(|bits| !bits.get(row)) {
                continue;
            }
            match input.lane {
                Lane::Mark(rows) => mask |= u64::from(rows[row] != 0) << slot,
                Lane::Bool(rows) => {
                    record[input.word] = u64::from(rows[row] != 0);
                    mask |= 1 << slot;
                }
                Lane::Integer(rows) => {
                    record[input.word] = rows[row] as u64;
                    mask |= 1 << slot;
                }
                Lane::Float(rows) if rows[row].is_finite() => {
                    record[input.word] = rows[row].to_bits();
                    mask |= 1 << slot;
                }
                Lane::Float(_) => *non_finite += 1,
                Lane::Text(rows) => {
                    record[input.word] = u64::from(strings.code(rows.get(row)));
                    mask |= 1 << slot;
                }
            }
        }
        mask
    }
}
