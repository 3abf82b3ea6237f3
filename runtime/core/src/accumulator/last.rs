//! The newest contribution and the order that decides which one that is.
//!
//! Greatest time wins; of equal times the greatest event id in byte order, a missing id being least;
//! of equal ids the greatest value: strings in byte order, numbers and instants by size (a float's
//! total order: -0.0 below 0.0), false below true.

use crate::accumulator::Dictionary;
use crate::view::SlotType;
use std::cmp::Ordering;

/// A contribution that may be the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Last {
    /// Its time in µs.
    pub(crate) time_us: i64,
    /// Its event id's code + 1; 0 = none.
    pub(crate) id: u32,
    /// Its value's word.
    pub(crate) word: u64,
}

impl Last {
    /// The order of contributions to a slot; each side's codes are its own dictionary's.
    pub(crate) fn compare<D: Dictionary + ?Sized>(
        &self,
        dictionary: &D,
        other: &Last,
        other_dictionary: &D,
        slot: SlotType,
    ) -> Ordering {
        let id = |last: &Last| last.id.checked_sub(1);
        self.time_us
            .cmp(&other.time_us)
            .then_with(|| {
                let mine = id(self).map(|code| dictionary.bytes(code));
                mine.cmp(&id(other).map(|code| other_dictionary.bytes(code)))
            })
            .then_with(|| match slot {
                SlotType::Utf8 => dictionary.bytes(self.word as u32).cmp(other_dictionary.bytes(other.word as u32)),
                SlotType::F64 => f64::from_bits(self.word).total_cmp(&f64::from_bits(other.word)),
                SlotType::I64 | SlotType::Timestamp => (self.word as i64).cmp(&(other.word as i64)),
                SlotType::Mark | SlotType::Bool => self.word.cmp(&other.word),
            })
    }
}
