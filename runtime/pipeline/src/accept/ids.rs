//! The set of event ids of a partition: 24 bytes an id, whatever the ids' length.

use super::clock::keeps;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// A remembered event: the xxh3-128 of its id, a hash of its payload and the time it is remembered under. Two ids with
/// one hash would be taken for copies; among 10^12 ids that has a chance of about 10^-15.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct IdEntry {
    /// xxh3-128 of the id's bytes.
    pub id: u128,
    /// Hash of the first copy's decoded values; two differ unseen with a chance of 2^-32, and only a metric is wrong.
    pub payload: u32,
    /// The time it is remembered under, seconds since the Unix epoch; 0 = none.
    pub time_s: u32,
}

impl IdEntry {
    /// The length of an encoded entry.
    pub const BYTES: usize = 24;

    /// The id, the payload, the time, little-endian.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&self.id.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.payload.to_le_bytes());
        bytes[20..].copy_from_slice(&self.time_s.to_le_bytes());
        bytes
    }

    /// Reads [`IdEntry::to_bytes`].
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let [id @ .., p0, p1, p2, p3, t0, t1, t2, t3] = *bytes;
        Self {
            id: u128::from_le_bytes(id),
            payload: u32::from_le_bytes([p0, p1, p2, p3]),
            time_s: u32::from_le_bytes([t0, t1, t2, t3]),
        }
    }
}

/// A slot of the table. A `u128` would be aligned to 16 bytes and cost 32.
#[derive(Debug, Clone, Copy)]
struct Slot {
    low: u64,
    high: u64,
    payload: u32,
    time_s: u32,
}

/// How many tables share the ids, by their hash. One table of all would stop the partition for as long as moving
/// every id takes whenever it grows, and need thrice its memory then.
const TABLES: usize = 64;

/// A set of ids with the payload hash and the time of each one's first copy.
#[derive(Debug)]
pub struct IdSet {
    tables: [HashTable<Slot>; TABLES],
    /// Per table before which time nothing is in it any more, µs.
    swept_us: [i64; TABLES],
    /// The table to be swept next.
    next: usize,
}

impl Default for IdSet {
    fn default() -> Self {
        Self { tables: std::array::from_fn(|_| HashTable::new()), swept_us: [0; TABLES], next: 0 }
    }
}

/// The table of an id, by bits that no table itself uses.
fn table_of(high: u64) -> usize {
    (high >> 32) as usize % TABLES
}

impl IdSet {
    /// Adds an entry; the first copy's payload hash if its id was there already (which then stays). One there whose
    /// time `is_copy` says no to gives way.
    pub fn insert(&mut self, entry: IdEntry, is_copy: impl FnOnce(u32) -> bool) -> Option<u32> {
        let (low, high) = (entry.id as u64, (entry.id >> 64) as u64);
        // The id is a good hash already; the table uses its low half.
        let table = &mut self.tables[table_of(high)];
        match table.entry(low, |slot| slot.low == low && slot.high == high, |slot| slot.low) {
            Entry::Occupied(mut found) => {
                let first = found.get_mut();
                if is_copy(first.time_s) {
                    return Some(first.payload);
                }
                (first.payload, first.time_s) = (entry.payload, entry.time_s);
                None
            }
            Entry::Vacant(free) => {
                free.insert(Slot { low, high, payload: entry.payload, time_s: entry.time_s });
                None
            }
        }
    }

    /// Removes what is forgotten from the next of the tables, unless that was done less than `stride_us` ago: one by
    /// one, so that no event waits for all.
    pub fn sweep_next(&mut self, forgotten_us: i64, stride_us: i64) {
        let at = self.next;
        self.next = (at + 1) % TABLES;
        if forgotten_us.saturating_sub(self.swept_us[at]) < stride_us {
            return;
        }
        self.swept_us[at] = forgotten_us;
        let table = &mut self.tables[at];
        table.retain(|slot| keeps(slot.time_s, forgotten_us));
        if table.len() < table.capacity() / 4 {
            table.shrink_to(2 * table.len(), |slot| slot.low);
        }
    }

    /// Gives the entries without a time one; whether there were any.
    pub fn stamp(&mut self, time_s: u32) -> bool {
        let mut stamped = false;
        for slot in self.tables.iter_mut().flat_map(HashTable::iter_mut).filter(|slot| slot.time_s == 0) {
            slot.time_s = time_s;
            stamped = true;
        }
        stamped
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

    /// Every entry that is not forgotten, in the order of ids: the order of the table never shows.
    pub fn sorted(&self, forgotten_us: i64) -> Vec<IdEntry> {
        let entry = |slot: &Slot| IdEntry {
            id: u128::from(slot.high) << 64 | u128::from(slot.low),
            payload: slot.payload,
            time_s: slot.time_s,
        };
        let kept = self.tables.iter().flatten().filter(|slot| keeps(slot.time_s, forgotten_us));
        let mut entries: Vec<IdEntry> = kept.map(entry).collect();
        entries.sort_unstable();
        entries
    }
}
