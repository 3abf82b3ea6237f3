//! The set of event ids of a partition: 24 bytes an id, whatever the ids' length.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// A remembered event: the xxh3-128 of its id and a hash of its payload. Two ids with one hash would be
/// taken for copies; among 10^12 ids that has a chance of about 10^-15.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct IdEntry {
    /// xxh3-128 of the id's bytes.
    pub id: u128,
    /// Hash of the first copy's decoded values.
    pub payload: u64,
}

impl IdEntry {
    /// The length of an encoded entry.
    pub const BYTES: usize = 24;

    /// The id, then the payload, little-endian.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&self.id.to_le_bytes());
        bytes[16..].copy_from_slice(&self.payload.to_le_bytes());
        bytes
    }

    /// Reads [`IdEntry::to_bytes`].
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let [id @ .., p0, p1, p2, p3, p4, p5, p6, p7] = *bytes;
        Self { id: u128::from_le_bytes(id), payload: u64::from_le_bytes([p0, p1, p2, p3, p4, p5, p6, p7]) }
    }
}

/// A slot of the table. A `u128` would be aligned to 16 bytes and cost 32.
#[derive(Debug, Clone, Copy)]
struct Slot {
    low: u64,
    high: u64,
    payload: u64,
}

/// How many tables share the ids, by their hash. One table of all would stop the partition for as long as moving
/// every id takes whenever it grows, and need thrice its memory then.
const TABLES: usize = 64;

/// A set of ids with the payload hash of each one's first copy.
#[derive(Debug)]
pub struct IdSet {
    tables: [HashTable<Slot>; TABLES],
}

impl Default for IdSet {
    fn default() -> Self {
        Self { tables: std::array::from_fn(|_| HashTable::new()) }
    }
}

/// The table of an id, by bits that no table itself uses.
fn table_of(high: u64) -> usize {
    (high >> 32) as usize % TABLES
}

impl IdSet {
    /// Adds an entry; the first copy's payload hash if its id was there already (which then stays).
    pub fn insert(&mut self, entry: IdEntry) -> Option<u64> {
        let (low, high) = (entry.id as u64, (entry.id >> 64) as u64);
        // The id is a good hash already; the table uses its low half.
        let table = &mut self.tables[table_of(high)];
        match table.entry(low, |slot| slot.low == low && slot.high == high, |slot| slot.low) {
            Entry::Occupied(found) => Some(found.get().payload),
            Entry::Vacant(free) => {
                free.insert(Slot { low, high, payload: entry.payload });
                None
            }
        }
    }

    /// Brings the places of these ids near, all at once: inserts wait for memory one after the other, and in a set
    /// of millions that is most of their time. Changes nothing.
    pub fn come_near(&self, ids: &[u128]) {
        // An answer that the compiler could foresee, or that nobody used, would leave no look.
        let no = |_: &Slot| std::hint::black_box(false);
        let look = |&&id: &&u128| self.tables[table_of((id >> 64) as u64)].find(id as u64, no).is_some();
        std::hint::black_box(ids.iter().filter(look).count());
    }

    /// Makes room for this many more ids.
    pub fn reserve(&mut self, ids: usize) {
        for table in &mut self.tables {
            table.reserve(ids.div_ceil(TABLES), |slot| slot.low);
        }
    }

    /// The number of ids.
    pub fn len(&self) -> usize {
        self.tables.iter().map(HashTable::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tables.iter().all(HashTable::is_empty)
    }

    /// Every entry, in the order of ids: the order of the table never shows.
    pub fn sorted(&self) -> Vec<IdEntry> {
        let entry =
            |slot: &Slot| IdEntry { id: u128::from(slot.high) << 64 | u128::from(slot.low), payload: slot.payload };
        let mut entries: Vec<IdEntry> = self.tables.iter().flatten().map(entry).collect();
        entries.sort_unstable();
        entries
    }
}
