//! The least or the greatest value.
//!
//! Numbers are ordered by size, floats in their total order: -0.0 lies below 0.0, so that which of the two zeros
//! wins does not depend on order. NaN never gets here.

use crate::view::SlotType;
use std::cmp::Ordering;

/// Which end of the order is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Least,
    Greatest,
}

impl End {
    /// Whether `candidate` lies further out than `held`.
    #[inline]
    pub(crate) fn beats(self, slot: SlotType, candidate: u64, held: u64) -> bool {
        let wanted = match self {
            End::Least => Ordering::Less,
            End::Greatest => Ordering::Greater,
        };
        compare(slot, candidate, held) == wanted
    }

    /// Keeps the further out of what is held and a candidate.
    #[inline]
    pub(crate) fn offer(self, slot: SlotType, held: &mut Option<u64>, candidate: u64) {
        if held.is_none_or(|held| self.beats(slot, candidate, held)) {
            *held = Some(candidate);
        }
    }
}

/// The order of two values of a slot of numbers or instants, by their words.
#[inline]
fn compare(slot: SlotType, left: u64, right: u64) -> Ordering {
    match slot {
        SlotType::F64 => f64::from_bits(left).total_cmp(&f64::from_bits(right)),
        _ => left.cast_signed().cmp(&right.cast_signed()),
    }
}
