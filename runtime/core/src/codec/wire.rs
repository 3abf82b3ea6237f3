//! The smallest pieces of `StateV1`: varints, zigzag, byte strings, and a reader that trusts nothing.
//!
//! What the pieces mean is said where they are put together: in the accumulators and in [`super`].

use crate::{Error, Result};

/// Appends an unsigned LEB128 varint.
pub(crate) fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed value as a zigzag varint: small magnitudes are short.
pub(crate) fn put_i64(out: &mut Vec<u8>, value: i64) {
    put_u64(out, zigzag(value));
}

/// Appends a byte string with its length before it.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Maps small magnitudes of either sign to small unsigned numbers.
pub(crate) fn zigzag(value: i64) -> u64 {
    (value.wrapping_shl(1) ^ (value >> 63)) as u64
}

/// The inverse of [`zigzag`].
pub(crate) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// Reads encoded state. Every length is checked against what is left before anything is allocated for it.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The number of bytes not read yet.
    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// One byte.
    pub(crate) fn u8(&mut self) -> Result<u8> {
        let (&byte, rest) = self.rest.split_first().ok_or_else(truncated)?;
        self.rest = rest;
        Ok(byte)
    }

    /// An unsigned varint in its shortest form.
    #[inline]
    pub(crate) fn u64(&mut self) -> Result<u64> {
        let first = self.u8()?;
        if first < 0x80 {
            return Ok(u64::from(first));
        }
        let mut value = u64::from(first & 0x7f);
        for shift in (7..64).step_by(7) {
            let byte = self.u8()?;
            if shift == 63 && byte > 1 {
                return Err(Error::codec("a varint has more than 64 bits"));
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                if byte == 0 {
                    return Err(Error::codec("a varint is longer than it has to be"));
                }
                return Ok(value);
            }
        }
        Err(Error::codec("a varint has more than 10 bytes"))
    }

    /// A zigzag varint.
    pub(crate) fn i64(&mut self) -> Result<i64> {
        Ok(unzigzag(self.u64()?))
    }

    /// A byte string with its length before it.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8]> {
        let len = self.u64()?;
        self.take(usize::try_from(len).map_err(|_| truncated())?)
    }

    /// The next `len` bytes.
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or_else(truncated)?;
        self.rest = rest;
        Ok(head)
    }

    /// A number of things that follow, each of at least `least_bytes` bytes: more than could be left is an error,
    /// so a caller may allocate for them.
    pub(crate) fn count(&mut self, least_bytes: usize) -> Result<usize> {
        let count = self.u64()?;
        match usize::try_from(count) {
            Ok(count) if count.checked_mul(least_bytes.max(1)).is_some_and(|bytes| bytes <= self.rest.len()) => {
                Ok(count)
            }
            _ => Err(Error::codec(format!("{count} elements are announced, {} bytes are left", self.rest.len()))),
        }
    }

    /// Succeeds if everything has been read.
    pub(crate) fn finish(self) -> Result<()> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(Error::codec(format!("{left} bytes follow the end"))),
        }
    }
}

#[cold]
fn truncated() -> Error {
    Error::codec("the bytes end early")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn integers_round_trip(unsigned in any::<u64>(), signed in any::<i64>(), shift in 0u32..64) {
            let mut out = Vec::new();
            put_u64(&mut out, unsigned >> shift);
            put_i64(&mut out, signed >> shift);
            put_bytes(&mut out, b"abc");
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.u64().unwrap(), unsigned >> shift);
            prop_assert_eq!(reader.i64().unwrap(), signed >> shift);
            prop_assert_eq!(reader.bytes().unwrap(), b"abc");
            prop_assert!(reader.finish().is_ok());
        }
    }

    #[test]
    fn damage_is_an_error() {
        assert!(Reader::new(&[0x80]).u64().is_err());
        assert!(Reader::new(&[0x80, 0]).u64().is_err());
        assert!(Reader::new(&[0xff; 11]).u64().is_err());
        assert!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]).u64().is_err());
        assert!(Reader::new(&[5, 1, 2]).bytes().is_err());
        assert!(Reader::new(&[200, 1, 0]).count(1).is_err());
        assert!(Reader::new(&[0]).finish().is_err());
    }
}
