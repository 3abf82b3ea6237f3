//! Strings of a view's state, each kept once and named by a small code.
//!
//! Codes depend on the order of arrival and never reach bytes or values; encoded state has its own
//! dictionaries, sorted by the strings themselves.

use crate::accumulator::Dictionary;
use hashbrown::HashTable;
use std::hash::Hasher;

/// The hash of a key or string; the same in every process.
#[inline]
pub(crate) fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut hasher = rustc_hash::FxHasher::default();
    hasher.write(bytes);
    hasher.finish()
}

/// Byte strings by code, in order of first appearance.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    codes: HashTable<u32>,
    ends: Vec<usize>,
    bytes: Vec<u8>,
}

impl Interner {
    /// The code of a string, a new one if it has none.
    #[inline]
    pub(crate) fn code(&mut self, string: &[u8]) -> u32 {
        let hash = hash_bytes(string);
        let (ends, bytes) = (&self.ends, &self.bytes);
        if let Some(&code) = self.codes.find(hash, |&code| slice(ends, bytes, code) == string) {
            return code;
        }
        let code = u32::try_from(self.ends.len()).expect("a partition's state holds less than 2^32 strings");
        self.bytes.extend_from_slice(string);
        self.ends.push(self.bytes.len());
        let (ends, bytes) = (&self.ends, &self.bytes);
        self.codes.insert_unique(hash, code, |&code| hash_bytes(slice(ends, bytes, code)));
        code
    }

    /// The number of strings.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The memory taken, about.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.codes.capacity() * 5 + self.ends.capacity() * size_of::<usize>() + self.bytes.capacity()
    }
}

impl Dictionary for Interner {
    #[inline]
    fn bytes(&self, code: u32) -> &[u8] {
        slice(&self.ends, &self.bytes, code)
    }
}

#[inline]
fn slice<'a>(ends: &[usize], bytes: &'a [u8], code: u32) -> &'a [u8] {
    let code = code as usize;
    let start = if code == 0 { 0 } else { ends[code - 1] };
    &bytes[start..ends[code]]
}

/// How many bytes of a key fit without memory of their own.
const INLINE: usize = 22;

/// The bytes of a key, kept in place when they are few: comparing one then costs no further cache miss.
#[derive(Debug)]
pub(crate) enum Name {
    Inline { len: u8, bytes: [u8; INLINE] },
    Heap(Box<[u8]>),
}

impl Name {
    pub(crate) fn new(name: &[u8]) -> Self {
        if name.len() > INLINE {
            return Name::Heap(name.into());
        }
        let mut bytes = [0; INLINE];
        bytes[..name.len()].copy_from_slice(name);
        Name::Inline { len: name.len() as u8, bytes }
    }

    #[inline]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Name::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Name::Heap(bytes) => bytes,
        }
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Name::Inline { .. } => 0,
            Name::Heap(bytes) => bytes.len(),
        }
    }
}
