//! The set of event ids of a partition: 24 bytes an id, whatever the ids' length, in a table whose free places make that
//! 40 to 60.

use super::clock::keeps;

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

/// A place of a table. A `u128` would be aligned to 16 bytes and cost 32.
#[derive(Debug, Clone, Copy)]
struct Slot {
    low: u64,
    high: u64,
    payload: u32,
    time_s: u32,
}

impl Slot {
    /// An id no event has but with a chance of 2^-128; one that has it is taken for the next.
    const FREE: Self = Self { low: 0x9ae1_6a3b_2f90_404f, high: 0xc949_d7c7_509e_6557, payload: 0, time_s: 0 };

    fn new(entry: IdEntry) -> Self {
        let (low, high) = (entry.id as u64, (entry.id >> 64) as u64);
        let mut slot = Self { low, high, payload: entry.payload, time_s: entry.time_s };
        slot.low ^= u64::from(slot.is_free());
        slot
    }

    fn entry(&self) -> IdEntry {
        let id = u128::from(self.high) << 64 | u128::from(self.low);
        IdEntry { id, payload: self.payload, time_s: self.time_s }
    }

    fn is_free(&self) -> bool {
        self.low == Self::FREE.low && self.high == Self::FREE.high
    }
}

/// A hash table with linear probing. An id is in one place of memory: with control bytes elsewhere, as in hashbrown, a
/// set of millions waits twice for each, and the second wait cannot be begun ahead.
#[derive(Debug, Default)]
struct Table {
    slots: Vec<Slot>,
    used: usize,
}

impl Table {
    /// Of ten places at most so many are used.
    const LOAD_TENTHS: usize = 6;

    /// The place where the search for an id begins.
    fn home(&self, low: u64) -> usize {
        // The upper half of the product is below the number of places, whatever that is.
        let spread = u128::from(low.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        ((spread * self.slots.len() as u128) >> 64) as usize
    }

    /// The place of an id, or else the free one where it belongs; there is one.
    fn find(&self, id: &Slot) -> Result<usize, usize> {
        let mut at = self.home(id.low);
        loop {
            let slot = &self.slots[at];
            if slot.low == id.low && slot.high == id.high {
                return Ok(at);
            }
            if slot.is_free() {
                return Err(at);
            }
            at = if at + 1 == self.slots.len() { 0 } else { at + 1 };
        }
    }

    /// Makes room for this many more.
    fn reserve(&mut self, more: usize) {
        let wanted = (self.used + more) * 10 / Self::LOAD_TENTHS + 1;
        if wanted > self.slots.len() {
            self.rebuild(wanted, |_| true);
        }
    }

    /// Moves those that `keeps` says yes to into so many places.
    fn rebuild(&mut self, places: usize, keeps: impl Fn(&Slot) -> bool) {
        let old = std::mem::replace(&mut self.slots, vec![Slot::FREE; places]);
        self.used = 0;
        // They come nearly in the order of their new places.
        for slot in old.into_iter().filter(|slot| !slot.is_free() && keeps(slot)) {
            if let Err(free) = self.find(&slot) {
                self.slots[free] = slot;
                self.used += 1;
            }
        }
    }

    fn insert(&mut self, slot: Slot, is_copy: impl FnOnce(u32) -> bool) -> Option<u32> {
        if (self.used + 1) * 10 > self.slots.len() * Self::LOAD_TENTHS {
            self.reserve(self.used / 2 + 4);
        }
        match self.find(&slot) {
            Ok(at) => {
                let first = &mut self.slots[at];
                if is_copy(first.time_s) {
                    return Some(first.payload);
                }
                *first = slot;
            }
            Err(free) => {
                self.slots[free] = slot;
                self.used += 1;
            }
        }
        None
    }

    fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| !slot.is_free())
    }
}

/// How many tables share the ids, by their hash. One table of all would stop the partition for as long as moving
/// every id takes whenever it grows, and need thrice its memory then.
const TABLES: usize = 64;

/// A set of ids with the payload hash and the time of each one's first copy.
#[derive(Debug)]
pub struct IdSet {
    tables: [Table; TABLES],
    /// Per table before which time nothing is in it any more, µs.
    swept_us: [i64; TABLES],
    /// The table to be swept next.
    next: usize,
}

impl Default for IdSet {
    fn default() -> Self {
        Self { tables: std::array::from_fn(|_| Table::default()), swept_us: [0; TABLES], next: 0 }
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
        let slot = Slot::new(entry);
        self.tables[table_of(slot.high)].insert(slot, is_copy)
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
        let kept = table.iter().filter(|slot| keeps(slot.time_s, forgotten_us)).count();
        if kept < table.used {
            let wanted = kept * 10 / Table::LOAD_TENTHS + 1;
            let places = if wanted * 4 < table.slots.len() { wanted * 2 } else { table.slots.len() };
            table.rebuild(places, |slot| keeps(slot.time_s, forgotten_us));
        }
    }

    /// Gives the entries without a time one; whether there were any.
    pub fn stamp(&mut self, time_s: u32) -> bool {
        let mut stamped = false;
        let slots = self.tables.iter_mut().flat_map(|table| &mut table.slots);
        for slot in slots.filter(|slot| slot.time_s == 0 && !slot.is_free()) {
            slot.time_s = time_s;
            stamped = true;
        }
        stamped
    }

    /// Brings the places of these ids near, all at once: inserts wait for memory one after the other, and in a set
    /// of millions that is most of their time. Changes nothing.
    pub fn come_near(&self, ids: &[u128]) {
        let look = |&id: &u128| {
            let table = &self.tables[table_of((id >> 64) as u64)];
            let home = table.home(id as u64);
            // A search mostly ends within four places, which lie in two lines of memory.
            let low = |at: usize| table.slots.get(at).map_or(0, |slot| slot.low);
            low(home) ^ low(home + 3)
        };
        // A sum that nobody used would leave no look.
        std::hint::black_box(ids.iter().map(look).fold(0, u64::wrapping_add));
    }

    /// Makes room for this many more ids.
    pub fn reserve(&mut self, ids: usize) {
        // Some tables get more than their share: four times the deviation more, hardly one in ten thousand.
        let each = ids.div_ceil(TABLES);
        let each = each + 4 * each.isqrt();
        self.tables.iter_mut().for_each(|table| table.reserve(each));
    }

    /// The number of ids.
    pub fn len(&self) -> usize {
        self.tables.iter().map(|table| table.used).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every entry that is not forgotten, in the order of ids: the order of the table never shows.
    pub fn sorted(&self, forgotten_us: i64) -> Vec<IdEntry> {
        let kept = self.tables.iter().flat_map(Table::iter).filter(|slot| keeps(slot.time_s, forgotten_us));
        let mut entries: Vec<IdEntry> = kept.map(Slot::entry).collect();
        entries.sort_unstable();
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accept::time_us;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn entry(id: u128, time_s: u32) -> IdEntry {
        IdEntry { id, payload: id as u32 ^ time_s, time_s }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        // Few of them spread over all bits, so that searches meet others' places and go round the end.
        #[test]
        fn a_set_says_what_a_map_says(
            steps in prop::collection::vec((0u64..400, 0u32..3, 1u32..50, prop::bool::weighted(0.02)), 0..2_000),
            spread in prop::sample::select(vec![1u128, 1 << 64, u128::MAX / 401]),
            room in prop::option::of(0usize..500),
        ) {
            let (mut set, mut map, mut forgotten_us) = (IdSet::default(), BTreeMap::new(), 0);
            room.into_iter().for_each(|ids| set.reserve(ids));
            for (number, low, time_s, is_sweep) in steps {
                let id = u128::from(number) * spread + u128::from(low);
                set.come_near(&[id]);
                if is_sweep {
                    let later_us = time_us(time_s);
                    if later_us > forgotten_us {
                        forgotten_us = later_us;
                        (0..TABLES).for_each(|_| set.sweep_next(forgotten_us, 1));
                        map.retain(|_, entry: &mut IdEntry| keeps(entry.time_s, forgotten_us));
                    }
                    continue;
                }
                let is_copy = |first_s: u32| first_s + 20 >= time_s;
                let first = map.get(&id).filter(|first: &&IdEntry| is_copy(first.time_s)).map(|first| first.payload);
                prop_assert_eq!(set.insert(entry(id, time_s), is_copy), first);
                if first.is_none() {
                    map.insert(id, entry(id, time_s));
                }
                prop_assert_eq!(set.len(), map.len());
            }
            prop_assert_eq!(set.sorted(i64::MIN), map.values().copied().collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_mark_of_a_free_place_is_an_id_like_others() {
        let free = u128::from(Slot::FREE.high) << 64 | u128::from(Slot::FREE.low);
        let mut set = IdSet::default();
        assert_eq!(set.insert(entry(free, 7), |_| true), None);
        assert_eq!(set.insert(entry(free, 7), |_| true), Some(entry(free, 7).payload));
        assert_eq!((set.len(), set.sorted(0).len()), (1, 1));
    }
}
