//! Which rows of a column are there.

use crate::{Error, Result};

/// One bit per row, least significant first: set = present.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bitmap {
    bytes: Vec<u8>,
    len: usize,
}

impl Bitmap {
    /// An empty bitmap.
    pub fn new() -> Self {
        Self::default()
    }

    /// `len` bits, all set.
    pub fn all_set(len: usize) -> Self {
        let mut bytes = vec![0xff; len.div_ceil(8)];
        if !len.is_multiple_of(8)
            && let Some(last) = bytes.last_mut()
        {
            *last = (1u8 << (len % 8)) - 1;
        }
        Self { bytes, len }
    }

    /// `len` bits, none set.
    pub fn none_set(len: usize) -> Self {
        Self { bytes: vec![0; len.div_ceil(8)], len }
    }

    /// Takes `bytes` as the bits of `len` rows; bits past the end are cleared.
    pub fn from_bytes(mut bytes: Vec<u8>, len: usize) -> Result<Self> {
        if bytes.len() != len.div_ceil(8) {
            let why = format!("{} bytes for {len} rows, expected {}", bytes.len(), len.div_ceil(8));
            return Err(Error::malformed("validity bitmap", why));
        }
        if !len.is_multiple_of(8)
            && let Some(last) = bytes.last_mut()
        {
            *last &= (1u8 << (len % 8)) - 1;
        }
        Ok(Self { bytes, len })
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bits, least significant first.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends a bit.
    #[inline]
    pub fn push(&mut self, set: bool) {
        if self.len.is_multiple_of(8) {
            self.bytes.push(0);
        }
        if set {
            self.bytes[self.len / 8] |= 1 << (self.len % 8);
        }
        self.len += 1;
    }

    /// The bit of a row; panics past the end.
    #[inline]
    pub fn get(&self, row: usize) -> bool {
        assert!(row < self.len, "row {row} of {} bits", self.len);
        self.bytes[row / 8] >> (row % 8) & 1 == 1
    }

    /// Sets or clears the bit of a row; panics past the end.
    #[inline]
    pub fn set(&mut self, row: usize, is_set: bool) {
        assert!(row < self.len, "row {row} of {} bits", self.len);
        let bit = 1 << (row % 8);
        let byte = &mut self.bytes[row / 8];
        *byte = if is_set { *byte | bit } else { *byte & !bit };
    }

    /// The number of set bits.
    pub fn count_set(&self) -> usize {
        self.bytes.iter().map(|byte| byte.count_ones() as usize).sum()
    }

    /// Removes all bits, keeping the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.len = 0;
    }

    /// Keeps the first `len` bits; no effect on a shorter bitmap.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.len {
            return;
        }
        self.bytes.truncate(len.div_ceil(8));
        if !len.is_multiple_of(8)
            && let Some(last) = self.bytes.last_mut()
        {
            *last &= (1u8 << (len % 8)) - 1;
        }
        self.len = len;
    }
}

impl FromIterator<bool> for Bitmap {
    fn from_iter<I: IntoIterator<Item = bool>>(bits: I) -> Self {
        let bits = bits.into_iter();
        let mut bytes = Vec::with_capacity(bits.size_hint().0.div_ceil(8));
        let (mut byte, mut len) = (0u8, 0);
        for bit in bits {
            byte |= u8::from(bit) << (len % 8);
            len += 1;
            if len % 8 == 0 {
                bytes.push(std::mem::take(&mut byte));
            }
        }
        if len % 8 != 0 {
            bytes.push(byte);
        }
        Self { bytes, len }
    }
}
