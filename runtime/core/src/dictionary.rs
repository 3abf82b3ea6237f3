//! Distinct strings and the numbers they get.

use hashbrown::HashTable;
use rustc_hash::FxHasher;
use std::hash::Hasher;

/// Strings end to end, without the 4 GiB bound of a column.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    ends: Vec<usize>,
    bytes: Vec<u8>,
}

impl Pool {
    pub(crate) fn push(&mut self, text: &[u8]) -> u64 {
        self.bytes.extend_from_slice(text);
        self.ends.push(self.bytes.len());
        self.ends.len() as u64 - 1
    }

    pub(crate) fn get(&self, index: u64) -> &[u8] {
        let index = index as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start..self.ends[index]]
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes in use.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len() + self.ends.len() * size_of::<usize>()
    }
}

/// All distinct strings of a history, by code.
#[derive(Debug, Default)]
pub(crate) struct AllTexts(Pool);

impl AllTexts {
    pub(crate) fn get(&self, code: u32) -> &[u8] {
        self.0.get(u64::from(code))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Distinct strings and their codes, numbered in the order first seen; codes never reach a result.
#[derive(Debug, Default)]
pub struct Dictionary {
    pub(crate) texts: AllTexts,
    table: HashTable<Coded>,
}

/// A string of the table. Most are short, and then found without a look elsewhere.
#[derive(Debug, Clone, Copy)]
struct Coded {
    low: u64,
    high: u64,
    len: u32,
    code: u32,
}

impl Coded {
    fn brief(&self) -> Brief {
        Brief { low: self.low, high: self.high, len: self.len }
    }
}

/// A string's length and, of up to 16 bytes, itself; of a longer one the hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Brief {
    low: u64,
    high: u64,
    len: u32,
}

impl Brief {
    /// Of ends that overlap, each loaded at once: a copy into a buffer that is then loaded would have every look wait
    /// for the one before.
    fn of(text: &[u8]) -> Self {
        let four = |bytes: Option<&[u8; 4]>| bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes).into());
        let eight = |bytes: Option<&[u8; 8]>| bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let (low, high) = match text.len() {
            0..4 => (text.iter().fold(0, |low, &byte| low << 8 | u64::from(byte)), 0),
            4..8 => (four(text.first_chunk()), four(text.last_chunk())),
            8..=16 => (eight(text.first_chunk()), eight(text.last_chunk())),
            _ => {
                let mut hasher = FxHasher::default();
                hasher.write(text);
                (hasher.finish(), 0)
            }
        };
        Self { low, high, len: u32::try_from(text.len()).unwrap_or(u32::MAX) }
    }

    fn is_whole(self) -> bool {
        self.len <= 16
    }

    /// Both halves multiplied and folded: every bit counts.
    fn hash(self) -> u64 {
        let low = self.low ^ 0x9e37_79b9_7f4a_7c15;
        let high = self.high ^ 0xd1b5_4a32_d192_ed03 ^ u64::from(self.len);
        let product = u128::from(low) * u128::from(high);
        product as u64 ^ (product >> 64) as u64
    }
}

impl Dictionary {
    /// How many strings there are.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The string of a code.
    pub fn get(&self, code: u32) -> &[u8] {
        self.texts.get(code)
    }

    /// The code of a string, if it has one.
    pub fn find(&self, text: &[u8]) -> Option<u32> {
        self.look(Brief::of(text), text)
    }

    fn look(&self, brief: Brief, text: &[u8]) -> Option<u32> {
        let is_it = |coded: &Coded| coded.brief() == brief && (brief.is_whole() || self.get(coded.code) == text);
        self.table.find(brief.hash(), is_it).map(|coded| coded.code)
    }

    /// The code of a string, the next one if it has none. There must be less than 2^32 strings.
    pub fn code(&mut self, text: &[u8]) -> u32 {
        let brief = Brief::of(text);
        if let Some(code) = self.look(brief, text) {
            return code;
        }
        let code = self.texts.0.push(text) as u32;
        let Brief { low, high, len } = brief;
        self.table.insert_unique(brief.hash(), Coded { low, high, len, code }, |coded| coded.brief().hash());
        code
    }

    /// The bytes in use.
    pub(crate) fn bytes(&self) -> usize {
        self.texts.0.bytes() + self.table.len() * (size_of::<Coded>() + 1) * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_of_any_length_have_codes_of_their_own() {
        // Alike but for one byte or their length, also beyond what a place of the table holds whole.
        let mut texts: Vec<Vec<u8>> = vec![Vec::new()];
        for len in 1..40 {
            texts.push(vec![0; len]);
            texts.extend((0..len).flat_map(|at| [1, 0x80, 0xff].map(|byte| (at, byte))).map(|(at, byte)| {
                let mut text = vec![0; len];
                text[at] = byte;
                text
            }));
        }
        let mut dictionary = Dictionary::default();
        for round in 0..2 {
            for (code, text) in texts.iter().enumerate() {
                assert_eq!(dictionary.find(text), (round == 1).then_some(code as u32), "{text:?}");
                assert_eq!(dictionary.code(text) as usize, code, "{text:?}");
                assert_eq!(dictionary.texts.get(code as u32), text);
            }
        }
    }
}
