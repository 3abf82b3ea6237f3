//! Later copies of event ids, among more events than memory holds ids of: found in a reading of their own, by parts of
//! the ids' hashes, with the very outcome of remembering all ids.

use super::runs::Runs;
use super::spill::{BySlice, Record};
use crate::port::{Scratch, ScratchFolder};
use crate::{Error, Result};

/// Into how many parts ids are cut by their hash.
const PARTS: usize = 256;
/// Copies that are sorted at once.
const SORT_ROWS: usize = 64 * 1024;
/// Copies that are read at once.
const READ_ROWS: usize = 8 * 1024;

/// An event that has an id and is not refused.
#[derive(Debug, Clone, Copy)]
struct IdRow {
    /// xxh3-128 of the id.
    id: u128,
    /// Its place among the rows of the source.
    row: u64,
    /// Half of the payload's hash, as [`IdEntry`](crate::accept::IdEntry) keeps it.
    payload: u32,
}

impl Record for IdRow {
    const BYTES: usize = 28;

    fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.row.to_le_bytes());
        out.extend_from_slice(&self.payload.to_le_bytes());
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        let (id, rest) = bytes.split_first_chunk()?;
        let (row, payload) = rest.split_first_chunk()?;
        Some(Self {
            id: u128::from_le_bytes(*id),
            row: u64::from_le_bytes(*row),
            payload: u32::from_le_bytes(payload.try_into().ok()?),
        })
    }
}

impl Record for u64 {
    const BYTES: usize = 8;

    fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }
}

/// The ids of a source's events, row by row.
#[derive(Debug)]
pub struct IdRows<'a> {
    folder: &'a dyn ScratchFolder,
    limit_bytes: usize,
    rows: BySlice<'a, IdRow>,
}

impl<'a> IdRows<'a> {
    /// None yet; beyond about so many bytes they go to disk.
    pub fn new(folder: &'a dyn ScratchFolder, bytes: u64) -> Self {
        let limit_bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        Self { folder, limit_bytes, rows: BySlice::new(folder, PARTS, limit_bytes) }
    }

    /// Adds an event: its place among the rows of the source, and the hashes of its id and its other values.
    pub fn add(&mut self, row: u64, id: u128, payload: u64) -> Result<()> {
        self.rows.push((id >> 96) as u32, IdRow { id, row, payload: payload as u32 })
    }

    /// The events that have the id of one at an earlier place. `go_on` is asked now and then; its error ends it.
    pub fn copies(self, go_on: &dyn Fn() -> Result<()>) -> Result<Copies> {
        let runs = Runs::new(self.folder, self.limit_bytes / 4);
        let mut found: Vec<u64> = Vec::new();
        for part in 0..PARTS {
            go_on()?;
            let mut rows = self.rows.of_slice(part)?;
            rows.sort_unstable_by_key(|row| (row.id, row.row));
            for same in rows.chunk_by(|a, b| a.id == b.id) {
                let later = same[1..].iter().map(|row| row.row << 1 | u64::from(row.payload != same[0].payload));
                found.extend(later);
            }
            if found.len() >= SORT_ROWS {
                found.sort_unstable();
                runs.add(&found)?;
                found.clear();
            }
        }
        found.sort_unstable();
        runs.add(&found)?;
        let mut copies = Copies { file: None, left: 0, at: 0, held: Vec::new(), bytes: Vec::new() };
        let mut bytes = Vec::new();
        for copy in runs.merged()? {
            copy?.put(&mut bytes);
            copies.left += 1;
            if bytes.len() >= READ_ROWS * u64::BYTES {
                copies.put(&bytes, self.folder)?;
                bytes.clear();
            }
        }
        copies.put(&bytes, self.folder)?;
        Ok(copies)
    }
}

/// The later copies among the events of a source, rising by their place.
#[derive(Debug)]
pub struct Copies {
    /// All of them.
    file: Option<Box<dyn Scratch>>,
    /// How many were not read yet, and where the next one is.
    left: u64,
    at: u64,
    /// Those that were, the next one last.
    held: Vec<u64>,
    bytes: Vec<u8>,
}

impl Copies {
    fn put(&mut self, bytes: &[u8], folder: &dyn ScratchFolder) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(folder.create()?),
        };
        file.append(bytes).map(drop)
    }

    /// Whether the event at a place is a later copy; if so, whether its other values are others than the first's. Places
    /// are asked for in rising order.
    pub fn is_copy(&mut self, row: u64) -> Result<Option<bool>> {
        loop {
            let Some(&next) = self.held.last() else {
                if self.left == 0 {
                    return Ok(None);
                }
                self.read()?;
                continue;
            };
            if next >> 1 > row {
                return Ok(None);
            }
            self.held.pop();
            if next >> 1 == row {
                return Ok(Some(next & 1 == 1));
            }
        }
    }

    fn read(&mut self) -> Result<()> {
        let rows = self.left.min(READ_ROWS as u64);
        let file = self.file.as_ref().ok_or_else(|| Error::internal("a scratch file is gone"))?;
        self.bytes.resize(rows as usize * u64::BYTES, 0);
        file.read(self.at, &mut self.bytes)?;
        let copies = self.bytes.rchunks_exact(u64::BYTES).map(u64::of).collect::<Option<Vec<u64>>>();
        self.held = copies.ok_or_else(|| Error::internal("a scratch file holds no copies"))?;
        self.at += self.bytes.len() as u64;
        self.left -= rows;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::FakeScratch;
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn the_first_of_each_id_is_no_copy(
            rows in proptest::collection::vec((0u128..40, 0u64..3), 0..200),
            bytes in 0u64..4000,
        ) {
            let scratch = FakeScratch::with_room(usize::MAX);
            let mut ids = IdRows::new(&scratch, bytes);
            for (row, &(id, payload)) in rows.iter().enumerate() {
                // Hashes fill all their bits.
                ids.add(row as u64 * 3, id.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835), payload).unwrap();
            }
            let mut copies = ids.copies(&|| Ok(())).unwrap();
            let mut firsts = HashMap::new();
            for (row, &(id, payload)) in rows.iter().enumerate() {
                let first = *firsts.entry(id).or_insert((row, payload));
                let expected = (first.0 != row).then_some(first.1 != payload);
                prop_assert_eq!(copies.is_copy(row as u64 * 3).unwrap(), expected, "row {}", row);
                prop_assert_eq!(copies.is_copy(row as u64 * 3 + 1).unwrap(), None);
            }
        }
    }
}
