//! The strings of a column.

use crate::{Error, Result};
use std::ops::Range;

/// Strings or byte strings end to end: `offsets` has one entry more than there are rows, the first 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strings {
    /// Where each row begins in `bytes`; the last is its length.
    pub offsets: Vec<u32>,
    /// The rows' bytes, one after the other.
    pub bytes: Vec<u8>,
}

impl Default for Strings {
    fn default() -> Self {
        Self { offsets: vec![0], bytes: Vec::new() }
    }
}

impl Strings {
    /// No rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends a row; panics when the column would pass 4 GiB (batches are far smaller).
    pub fn push(&mut self, row: &[u8]) {
        self.bytes.extend_from_slice(row);
        let end = u32::try_from(self.bytes.len()).expect("a column holds less than 4 GiB");
        self.offsets.push(end);
    }

    /// Appends the rows `rows` of `from`; panics when the column would pass 4 GiB.
    pub fn append_rows(&mut self, from: &Strings, rows: Range<usize>) {
        let base = self.bytes.len();
        let first = from.offsets[rows.start];
        self.bytes.extend_from_slice(&from.bytes[first as usize..from.offsets[rows.end] as usize]);
        u32::try_from(self.bytes.len()).expect("a column holds less than 4 GiB");
        let offsets = &from.offsets[rows.start + 1..=rows.end];
        self.offsets.extend(offsets.iter().map(|offset| base as u32 + (offset - first)));
    }

    /// The bytes of a row.
    #[inline]
    pub fn get(&self, row: usize) -> &[u8] {
        &self.bytes[self.offsets[row] as usize..self.offsets[row + 1] as usize]
    }

    /// The rows in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.offsets.windows(2).map(|pair| &self.bytes[pair[0] as usize..pair[1] as usize])
    }

    /// Removes all rows, keeping the memory.
    pub fn clear(&mut self) {
        self.offsets.truncate(1);
        self.bytes.clear();
    }

    /// Keeps the first `rows` rows; no effect on a shorter column.
    pub fn truncate(&mut self, rows: usize) {
        self.offsets.truncate(rows + 1);
        self.bytes.truncate(self.offsets.last().copied().unwrap_or(0) as usize);
    }

    /// Checks offsets that came from outside: first 0, never falling, last = the number of bytes.
    pub fn check(&self) -> Result<()> {
        let bad = |why: &str| Err(Error::malformed("string offsets", why));
        match (self.offsets.first(), self.offsets.last()) {
            (Some(0), Some(&last)) if last as usize == self.bytes.len() => {}
            (Some(0), _) => return bad("the last offset is not the number of bytes"),
            _ => return bad("the first offset is not 0"),
        }
        if self.offsets.windows(2).any(|pair| pair[0] > pair[1]) {
            return bad("an offset is smaller than the one before");
        }
        Ok(())
    }

    /// Checks that every row is UTF-8 (offsets must have been checked).
    pub fn check_utf8(&self) -> Result<()> {
        let text =
            std::str::from_utf8(&self.bytes).map_err(|error| Error::malformed("utf8 column", error.to_string()))?;
        match self.offsets.iter().find(|&&offset| !text.is_char_boundary(offset as usize)) {
            Some(offset) => {
                Err(Error::malformed("utf8 column", format!("a row begins inside a character, at byte {offset}")))
            }
            None => Ok(()),
        }
    }
}
