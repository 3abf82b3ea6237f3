//! The bytes of state and of accepted ids in a commit, version 2.
//!
//! ```text
//! magic "plumb\0st" · version u32 · sections · SHA-256 of all before
//! section: tag u8, then
//!   1 snapshot of a state, 2 its changes: state id 8 bytes · count u64 · fields
//!   4 ids: count u64 · entries of 24 bytes: xxh3-128 of the id, payload hash u32, time in seconds u32
//! field: key length u32, bytes · 0 header | 1 tile, start i64 · 0 removed | 1 length u32, bytes
//! ```
//! Numbers are little-endian. A snapshot replaces what sections before it said of its state. Version 1 had ids in a
//! section 3, without a time and with 64 bits of the payload's hash; it is still read.

use super::damaged;
use crate::accept::IdEntry;
use crate::{Error, Result};
use plumb_core::entity::EntityKey;
use plumb_core::plan::StateId;
use plumb_core::state::{Field, FieldWrite};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

const MAGIC: &[u8; 8] = b"plumb\0st";
const VERSION: u32 = 2;
/// The oldest version that is read.
const OLDEST: u32 = 1;
const SNAPSHOT: u8 = 1;
const DELTA: u8 = 2;
/// Ids of version 1.
const UNTIMED_IDS: u8 = 3;
const IDS: u8 = 4;

/// An entry of the ids, encoded.
pub type IdBytes = [u8; IdEntry::BYTES];

/// What files said so far; see [`Contents::read`].
#[derive(Debug, Default)]
pub struct Contents {
    /// Per state the writes of its snapshot and of the changes after it, in order. A state whose snapshot was
    /// in none of the files is absent.
    pub states: BTreeMap<StateId, Vec<FieldWrite>>,
    /// The ids, in the order they were accepted in.
    pub ids: Vec<IdBytes>,
}

/// Writes a file.
#[derive(Debug)]
pub struct Encoder {
    bytes: Vec<u8>,
}

impl Default for Encoder {
    fn default() -> Self {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        Self { bytes }
    }
}

impl Encoder {
    /// Adds everything (`snapshot`) or what changed of a state.
    pub fn state(&mut self, state_id: StateId, snapshot: bool, writes: &[FieldWrite]) {
        self.bytes.push(if snapshot { SNAPSHOT } else { DELTA });
        self.bytes.extend_from_slice(&state_id.0);
        self.bytes.extend_from_slice(&(writes.len() as u64).to_le_bytes());
        for write in writes {
            self.length(write.key.as_bytes());
            match write.field {
                Field::Header => self.bytes.push(0),
                Field::Tile(start_us) => {
                    self.bytes.push(1);
                    self.bytes.extend_from_slice(&start_us.to_le_bytes());
                }
            }
            match &write.value {
                None => self.bytes.push(0),
                Some(value) => {
                    self.bytes.push(1);
                    self.length(value);
                }
            }
        }
    }

    /// Adds ids.
    pub fn ids(&mut self, ids: &[IdBytes]) {
        self.bytes.push(IDS);
        self.bytes.extend_from_slice(&(ids.len() as u64).to_le_bytes());
        // The checksum follows; there is nothing else in most files of ids.
        self.bytes.reserve_exact(size_of_val(ids) + 32);
        self.bytes.extend_from_slice(ids.as_flattened());
    }

    /// The file.
    pub fn finish(mut self) -> Vec<u8> {
        let sum = Sha256::digest(&self.bytes);
        self.bytes.extend_from_slice(&sum);
        self.bytes
    }

    fn length(&mut self, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).expect("keys and fields of state are far below 4 GiB");
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(bytes);
    }
}

impl Contents {
    /// Adds what the file at `path` says; an error leaves what was read so far.
    pub fn read(&mut self, path: &str, file: &[u8]) -> Result<()> {
        let (body, sum) = file
            .split_last_chunk::<32>()
            .filter(|(body, _)| body.len() >= MAGIC.len() + 4)
            .ok_or_else(|| damaged(path, "it is too short"))?;
        if Sha256::digest(body).as_slice() != sum {
            return Err(damaged(path, "its checksum is wrong"));
        }
        self.read_body(path, body)
    }

    /// [`Contents::read`] of a file whose bytes were checked against the manifest: its own checksum says no more.
    pub fn read_checked(&mut self, path: &str, file: &[u8]) -> Result<()> {
        let (body, _) = file.split_last_chunk::<32>().ok_or_else(|| damaged(path, "it is too short"))?;
        self.read_body(path, body)
    }

    fn read_body(&mut self, path: &str, body: &[u8]) -> Result<()> {
        let mut reader = Reader { path, rest: body };
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(damaged(path, "it is no state file"));
        }
        let version = u32::from_le_bytes(reader.array()?);
        if !(OLDEST..=VERSION).contains(&version) {
            return Err(Error::invalid(format!(
                "`{path}` has version {version}, this version of plumb reads {OLDEST} to {VERSION}: it was written by \
                 another version"
            )));
        }
        while let Some((&tag, rest)) = reader.rest.split_first() {
            reader.rest = rest;
            match tag {
                SNAPSHOT | DELTA => self.read_state(&mut reader, tag == SNAPSHOT)?,
                IDS | UNTIMED_IDS => {
                    let count = reader.count(IdEntry::BYTES)?;
                    let entries = reader.take(count * IdEntry::BYTES)?.as_chunks::<{ IdEntry::BYTES }>().0;
                    let first = self.ids.len();
                    self.ids.extend_from_slice(entries);
                    if tag == UNTIMED_IDS {
                        // The upper half of the payload's hash was where the time is now.
                        self.ids[first..].iter_mut().for_each(|entry| entry[20..].fill(0));
                    }
                }
                tag => return Err(damaged(path, format!("it has an unknown section {tag}"))),
            }
        }
        Ok(())
    }

    fn read_state(&mut self, reader: &mut Reader<'_>, snapshot: bool) -> Result<()> {
        let state_id = StateId(reader.array()?);
        // The smallest field: no key, header, removed.
        let count = reader.count(6)?;
        if snapshot {
            self.states.insert(state_id, Vec::new());
        }
        // Changes of a state without a snapshot cannot be used; they still have to be stepped over.
        let mut writes = self.states.get_mut(&state_id);
        if let Some(writes) = &mut writes {
            writes.reserve(count);
        }
        for _ in 0..count {
            let key = EntityKey::from_bytes(reader.sized()?);
            let field = match reader.array::<1>()? {
                [0] => Field::Header,
                [1] => Field::Tile(i64::from_le_bytes(reader.array()?)),
                [tag] => return Err(damaged(reader.path, format!("it has an unknown field {tag}"))),
            };
            let value = match reader.array::<1>()? {
                [0] => None,
                [1] => Some(reader.sized()?.to_vec()),
                [tag] => return Err(damaged(reader.path, format!("it has an unknown value {tag}"))),
            };
            if let Some(writes) = &mut writes {
                writes.push(FieldWrite { key, field, value });
            }
        }
        Ok(())
    }
}

struct Reader<'a> {
    path: &'a str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(|| damaged(self.path, "it ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(|| damaged(self.path, "it ends too early"))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn sized(&mut self) -> Result<&'a [u8]> {
        let len = u32::from_le_bytes(self.array()?);
        self.take(len as usize)
    }

    /// A count of things of at least `size` bytes each, so that no count makes us reserve more than the file holds.
    fn count(&mut self, size: usize) -> Result<usize> {
        let count = u64::from_le_bytes(self.array()?);
        match usize::try_from(count) {
            Ok(count) if count <= self.rest.len() / size => Ok(count),
            _ => Err(damaged(self.path, format!("it cannot hold {count} entries"))),
        }
    }
}
