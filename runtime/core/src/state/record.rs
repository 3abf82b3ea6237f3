//! One raw contribution as a fixed number of 64-bit words.
//!
//! The words are: time since the tile's start and presence mask (one word while the mask fits beside
//! the time, else two), the event id's code if ids are kept, one word per slot that carries a value.
//! Absent values are 0. Strings are codes: of the state's interner in live state, of the bytes' own
//! dictionary in decoded state. Fixed width, so that a tile can be searched by time.

use crate::view::SlotType;

/// How many bits of the first word hold the mask when there are few slots; the other 40 hold the time,
/// enough for tiles of up to 12 days.
const MASK_BITS: u32 = 24;

/// Where a record's parts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// The number of words of a record.
    pub(crate) width: usize,
    /// The word of the event id: 0 = none, else its code + 1.
    pub(crate) id: Option<usize>,
    /// The word of each slot's value; `None` for marks.
    pub(crate) values: Vec<Option<usize>>,
    /// The slots' types.
    pub(crate) types: Vec<SlotType>,
    /// Whether records hold string codes.
    pub(crate) has_codes: bool,
    narrow: bool,
}

impl Layout {
    pub(crate) fn new(slots: &[SlotType], keeps_ids: bool) -> Self {
        let narrow = slots.len() <= MASK_BITS as usize;
        let mut width = if narrow { 1 } else { 2 };
        let mut next = || {
            width += 1;
            width - 1
        };
        let id = keeps_ids.then(&mut next);
        let values = slots.iter().map(|&slot| (slot != SlotType::Mark).then(&mut next)).collect();
        Self {
            width,
            id,
            values,
            types: slots.to_vec(),
            has_codes: keeps_ids || slots.contains(&SlotType::Utf8),
            narrow,
        }
    }

    /// Writes the time since the tile's start and the mask.
    #[inline]
    pub(crate) fn set_head(&self, record: &mut [u64], offset_us: u64, mask: u64) {
        if self.narrow {
            record[0] = offset_us << MASK_BITS | mask;
        } else {
            (record[0], record[1]) = (offset_us, mask);
        }
    }

    /// The time since the tile's start in µs.
    #[inline]
    pub(crate) fn offset_us(&self, record: &[u64]) -> u64 {
        if self.narrow { record[0] >> MASK_BITS } else { record[0] }
    }

    /// Which slots the contribution is to.
    #[inline]
    pub(crate) fn mask(&self, record: &[u64]) -> u64 {
        if self.narrow { record[0] & ((1 << MASK_BITS) - 1) } else { record[1] }
    }

    /// The id's code + 1, 0 for none or when ids are not kept.
    #[inline]
    pub(crate) fn id(&self, record: &[u64]) -> u32 {
        self.id.map_or(0, |word| record[word] as u32)
    }

    /// The word of a slot's value; 0 for a mark.
    #[inline]
    pub(crate) fn value(&self, record: &[u64], slot: usize) -> u64 {
        self.values[slot].map_or(0, |word| record[word])
    }

    /// The records packed in `words`.
    pub(crate) fn records<'a>(&self, words: &'a [u64]) -> std::slice::ChunksExact<'a, u64> {
        words.chunks_exact(self.width)
    }

    /// The number of records packed in `words`, sorted by time, that are less than `offset_us` after the start.
    pub(crate) fn before(&self, words: &[u64], offset_us: u64) -> usize {
        let (mut low, mut high) = (0, words.len() / self.width);
        while low < high {
            let middle = low.midpoint(high);
            if self.offset_us(&words[middle * self.width..]) < offset_us {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Puts other codes in place of a record's, those of the id and of present strings.
    pub(crate) fn map_codes(&self, record: &mut [u64], mut map: impl FnMut(u32) -> u32) {
        if let Some(word) = self.id
            && record[word] != 0
        {
            record[word] = u64::from(map(record[word] as u32 - 1)) + 1;
        }
        let mask = self.mask(record);
        for (slot, word) in self.values.iter().enumerate() {
            if let Some(word) = *word
                && self.types[slot] == SlotType::Utf8
                && mask >> slot & 1 == 1
            {
                record[word] = u64::from(map(record[word] as u32));
            }
        }
    }

    /// Visits a record's codes.
    pub(crate) fn each_code(&self, record: &[u64], mut visit: impl FnMut(u32)) {
        let id = self.id(record);
        if id != 0 {
            visit(id - 1);
        }
        let mask = self.mask(record);
        for (slot, word) in self.values.iter().enumerate() {
            if let Some(word) = *word
                && self.types[slot] == SlotType::Utf8
                && mask >> slot & 1 == 1
            {
                visit(record[word] as u32);
            }
        }
    }
}
