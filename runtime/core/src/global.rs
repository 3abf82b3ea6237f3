//! Ranks among all entities: how many contributions each has in a hopping window.
//!
//! Per source partition and hop a map entity → count is kept under a reserved key, encoded as a header
//! and one tile field per hop, so that publishing costs the hops that changed. A read sums the partials'
//! maps over the window's hops per entity and sorts the sums: the [`Distribution`] of one instant, which
//! every entity of that instant shares.

use crate::codec::wire::{Reader, put_bytes, put_i64, put_u64};
use crate::codec::{VERSION, read_start};
use crate::column::Strings;
use crate::entity::EntityKey;
use crate::plan::{GlobalDef, Plan};
use crate::state::{ALL_MARKS, Field, Mark, RESERVED};
use crate::time::floor_to;
use crate::{Error, Result};
use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;
use std::collections::BTreeMap;

const KEY_INFIX: &[u8] = b"global:";

/// The reserved key of a plan's global distribution, by its index in `Plan::globals`.
pub fn global_key(index: usize) -> EntityKey {
    EntityKey::from_bytes(&[RESERVED, KEY_INFIX, index.to_string().as_bytes()].concat())
}

/// The index of the distribution whose reserved key this is; `None` for any other key.
pub fn global_index(key: &EntityKey) -> Option<usize> {
    let digits = key.as_bytes().strip_prefix(RESERVED)?.strip_prefix(KEY_INFIX)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The starts of the hops a distribution needs at T: ask the store for these tile fields of the reserved key.
pub fn tiles_needed(def: &GlobalDef, as_of_us: i64) -> Vec<i64> {
    let end_us = floor_to(as_of_us, def.hop_us);
    let hops = def.width_us / def.hop_us;
    (1..=hops).rev().map(|back| end_us.saturating_sub(back.saturating_mul(def.hop_us))).collect()
}

/// How often the entities of a window occur, for ranks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Distribution {
    /// The entities' counts, none of them 0, rising.
    counts: Vec<u64>,
}

impl Distribution {
    /// The distribution of these counts, one per entity, in any order; entities with 0 do not count.
    pub fn from_counts(counts: impl IntoIterator<Item = u64>) -> Self {
        let mut counts: Vec<u64> = counts.into_iter().filter(|&count| count > 0).collect();
        counts.sort_unstable();
        Self { counts }
    }

    /// The distribution at T of what the source partitions hold; `None` if a partial has dropped part of the window.
    pub fn merge(def: &GlobalDef, as_of_us: i64, partials: &[GlobalPartial]) -> Option<Self> {
        let end_us = floor_to(as_of_us, def.hop_us);
        let start_us = end_us.saturating_sub(def.width_us);
        if partials.iter().any(|partial| partial.floor_us > start_us) {
            return None;
        }
        let mut sums: HashMap<&[u8], u64, FxBuildHasher> = HashMap::default();
        for hop in partials.iter().flat_map(|partial| &partial.hops) {
            if (start_us..end_us).contains(&hop.start_us) {
                for (key, count) in hop.keys.iter().zip(&hop.counts) {
                    let sum = sums.entry(key).or_insert(0);
                    *sum = sum.saturating_add(*count);
                }
            }
        }
        Some(Self::from_counts(sums.into_values()))
    }

    /// The number of entities.
    pub fn entities(&self) -> usize {
        self.counts.len()
    }

    /// The relative rank of an entity with `count` contributions: (entities with fewer) / (entities − 1);
    /// 1.0 for the only one, 0.0 for an entity without any.
    pub fn rank(&self, count: u64) -> f64 {
        let fewer = self.counts.partition_point(|&other| other < count);
        match (count, self.counts.len()) {
            (0, _) => 0.0,
            (_, 0 | 1) => 1.0,
            (_, entities) => fewer as f64 / (entities - 1) as f64,
        }
    }
}

/// What one source partition holds of a global distribution, decoded.
#[derive(Debug, Clone)]
pub struct GlobalPartial {
    floor_us: i64,
    hops: Vec<DecodedHop>,
}

#[derive(Debug, Clone)]
struct DecodedHop {
    start_us: i64,
    keys: Strings,
    counts: Vec<u64>,
}

impl GlobalPartial {
    /// Reads the header and the tile fields at hand, which must be at least those of [`tiles_needed`] that the
    /// header names.
    pub fn decode<'a>(
        def: &GlobalDef,
        as_of_us: i64,
        header: &[u8],
        tiles: impl IntoIterator<Item = (i64, &'a [u8])>,
    ) -> Result<Self> {
        let (floor_us, starts) = decode_header(def.hop_us, header)?;
        let mut needed: Vec<i64> = tiles_needed(def, as_of_us);
        needed.retain(|start_us| starts.binary_search(start_us).is_ok());
        let mut hops = Vec::with_capacity(needed.len());
        for (start_us, bytes) in tiles {
            if let Ok(place) = needed.binary_search(&start_us) {
                needed.remove(place);
                let (keys, counts) = decode_hop(bytes)?;
                hops.push(DecodedHop { start_us, keys, counts });
            }
        }
        match needed.first() {
            Some(start_us) if floor_us <= *start_us => Err(Error::codec(format!("the hop at {start_us} is missing"))),
            _ => Ok(Self { floor_us, hops }),
        }
    }

    /// Below it hops have been dropped; `i64::MIN` if none were.
    pub fn floor_us(&self) -> i64 {
        self.floor_us
    }
}

/// The live counts of one global distribution in one source partition. Entities are named by their index there.
#[derive(Debug)]
pub(crate) struct GlobalState {
    slot: usize,
    hop_us: i64,
    /// How far the floor lies above the floor of the keys' state.
    above_us: i64,
    floor_us: i64,
    /// The end of the newest hop that was dropped.
    dropped_us: i64,
    hops: BTreeMap<i64, Hop>,
    header_changed: u8,
    removed: [Vec<i64>; 2],
}

#[derive(Debug, Default)]
struct Hop {
    counts: HashMap<u32, u64, FxBuildHasher>,
    changed: u8,
    known: u8,
}

impl GlobalState {
    pub(crate) fn new(plan: &Plan, def: &GlobalDef) -> Self {
        // Whoever may read the keys' state at T may read this: every window of the plan begins at or after the
        // keys' floor, so T is at least the widest of them above it, and this window reaches back a width and a hop.
        let widest_us = plan.aggregates.iter().filter_map(|aggregate| aggregate.window.width_us()).max().unwrap_or(0);
        Self {
            slot: def.slot,
            hop_us: def.hop_us,
            above_us: widest_us.saturating_sub(def.width_us).saturating_sub(def.hop_us),
            floor_us: i64::MIN,
            dropped_us: i64::MIN,
            hops: BTreeMap::new(),
            header_changed: 0,
            removed: [Vec::new(), Vec::new()],
        }
    }

    /// Counts a contribution of an entity if it is to this distribution's slot.
    #[inline]
    pub(crate) fn push(&mut self, entity: u32, time_us: i64, mask: u64) {
        if mask >> self.slot & 1 == 0 {
            return;
        }
        let start_us = floor_to(time_us, self.hop_us);
        if start_us < self.floor_us {
            self.drop_through(start_us);
            return;
        }
        let hop = match self.hops.last_entry() {
            Some(last) if *last.key() == start_us => last.into_mut(),
            _ => {
                let header_changed = &mut self.header_changed;
                self.hops.entry(start_us).or_insert_with(|| {
                    *header_changed = ALL_MARKS;
                    Hop::default()
                })
            }
        };
        *hop.counts.entry(entity).or_insert(0) += 1;
        hop.changed = ALL_MARKS;
    }

    /// Drops what the floor of the keys' state implies.
    pub(crate) fn fold(&mut self, keys_floor_us: i64) {
        self.floor_us = floor_to(keys_floor_us.saturating_add(self.above_us), self.hop_us);
        while let Some(hop) = self.hops.first_entry()
            && *hop.key() < self.floor_us
        {
            let (start_us, hop) = hop.remove_entry();
            for mark in [Mark::Publish, Mark::Commit] {
                if hop.known & mark.bit() != 0 {
                    self.removed[mark as usize].push(start_us);
                }
            }
            self.drop_through(start_us);
        }
    }

    fn drop_through(&mut self, start_us: i64) {
        let end_us = start_us.saturating_add(self.hop_us);
        if end_us > self.dropped_us {
            self.dropped_us = end_us;
            self.header_changed = ALL_MARKS;
        }
    }

    pub(crate) fn mark_all(&mut self, bit: u8) {
        self.header_changed |= bit;
        for hop in self.hops.values_mut() {
            hop.changed |= bit;
        }
    }

    /// Emits what changed for a mark, and forgets that it did.
    pub(crate) fn drain<'a>(
        &mut self,
        mark: Mark,
        key_of: impl Fn(u32) -> &'a [u8],
        mut emit: impl FnMut(Field, Option<Vec<u8>>),
    ) {
        if self.header_changed & mark.bit() != 0 {
            self.header_changed &= !mark.bit();
            // Without hops there is none: the last may have been replaced by nothing.
            emit(Field::Header, self.encode_header());
        }
        for start_us in std::mem::take(&mut self.removed[mark as usize]) {
            // One that was replaced by none may have come again.
            if !self.hops.contains_key(&start_us) {
                emit(Field::Tile(start_us), None);
            }
        }
        for (&start_us, hop) in self.hops.iter_mut().filter(|(_, hop)| hop.changed & mark.bit() != 0) {
            hop.changed &= !mark.bit();
            hop.known |= mark.bit();
            emit(Field::Tile(start_us), Some(encode_hop(hop, &key_of)));
        }
    }

    /// Emits everything.
    pub(crate) fn snapshot<'a>(&self, key_of: impl Fn(u32) -> &'a [u8], mut emit: impl FnMut(Field, Vec<u8>)) {
        if let Some(header) = self.encode_header() {
            emit(Field::Header, header);
        }
        for (&start_us, hop) in &self.hops {
            emit(Field::Tile(start_us), encode_hop(hop, &key_of));
        }
    }

    /// Takes back what a snapshot emitted; `find` gives an entity's index.
    pub(crate) fn restore(
        &mut self,
        mut fields: BTreeMap<Field, Vec<u8>>,
        find: impl Fn(&[u8]) -> Option<u32>,
    ) -> Result<()> {
        let header = fields.remove(&Field::Header).ok_or_else(|| Error::codec("a global without a header"))?;
        let (dropped_us, starts) = decode_header(self.hop_us, &header)?;
        self.dropped_us = dropped_us;
        for start_us in starts {
            let bytes = fields.remove(&Field::Tile(start_us));
            let bytes = bytes.ok_or_else(|| Error::codec(format!("the hop at {start_us} is missing")))?;
            let (keys, counts) = decode_hop(&bytes)?;
            let mut hop = Hop { known: ALL_MARKS, ..Hop::default() };
            for (key, count) in keys.iter().zip(counts) {
                let entity = find(key).ok_or_else(|| Error::codec("a hop counts an unknown entity"))?;
                hop.counts.insert(entity, count);
            }
            self.hops.insert(start_us, hop);
        }
        match fields.keys().next() {
            Some(field) => Err(Error::codec(format!("the header does not know the field {field:?}"))),
            None => Ok(()),
        }
    }

    /// Counts the entities of `other` as it does; `here` gives the index here of each of its entities. Returns those
    /// (by their index here) that were counted otherwise, and whether more hops had been dropped there. Changes
    /// nothing without `apply`.
    pub(crate) fn replace(&mut self, other: &Self, here: &[u32], apply: bool) -> (Vec<u32>, bool) {
        let mut differing = Vec::new();
        for (start_us, hop) in &other.hops {
            let held = self.hops.get(start_us);
            for (&there, &count) in &hop.counts {
                let at = here[there as usize];
                if held.and_then(|held| held.counts.get(&at)) != Some(&count) {
                    differing.push((at, *start_us, Some(count)));
                }
            }
        }
        let there: HashMap<u32, u32, FxBuildHasher> = here.iter().zip(0..).map(|(&at, there)| (at, there)).collect();
        for (start_us, held) in &self.hops {
            let hop = other.hops.get(start_us);
            for at in held.counts.keys() {
                let counted = |there: &u32| hop.is_some_and(|hop| hop.counts.contains_key(there));
                if there.get(at).is_some_and(|there| !counted(there)) {
                    differing.push((*at, *start_us, None));
                }
            }
        }
        let dropped = other.dropped_us > self.dropped_us;
        if apply {
            for &(at, start_us, count) in &differing {
                self.set(at, start_us, count);
            }
            if dropped {
                self.dropped_us = other.dropped_us;
                self.header_changed = ALL_MARKS;
            }
        }
        let mut entities: Vec<u32> = differing.into_iter().map(|(at, ..)| at).collect();
        entities.sort_unstable();
        entities.dedup();
        (entities, dropped)
    }

    fn set(&mut self, entity: u32, start_us: i64, count: Option<u64>) {
        let header_changed = &mut self.header_changed;
        let hop = self.hops.entry(start_us).or_insert_with(|| {
            *header_changed = ALL_MARKS;
            Hop::default()
        });
        hop.changed = ALL_MARKS;
        match count {
            Some(count) => drop(hop.counts.insert(entity, count)),
            None => drop(hop.counts.remove(&entity)),
        }
        if hop.counts.is_empty()
            && let Some(hop) = self.hops.remove(&start_us)
        {
            self.header_changed = ALL_MARKS;
            for mark in [Mark::Publish, Mark::Commit] {
                if hop.known & mark.bit() != 0 {
                    self.removed[mark as usize].push(start_us);
                }
            }
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.hops.values().map(|hop| size_of::<Hop>() + hop.counts.capacity() * 17).sum()
    }

    /// Version, floor / hop width + 1 with 0 for none, the number of hops and their starts. `None` if there is nothing to say.
    fn encode_header(&self) -> Option<Vec<u8>> {
        if self.hops.is_empty() && self.dropped_us == i64::MIN {
            return None;
        }
        let mut out = vec![VERSION, u8::from(self.dropped_us != i64::MIN)];
        if self.dropped_us != i64::MIN {
            put_i64(&mut out, self.dropped_us.div_euclid(self.hop_us));
        }
        put_u64(&mut out, self.hops.len() as u64);
        let mut previous = 0;
        for start_us in self.hops.keys() {
            let place = start_us.div_euclid(self.hop_us);
            put_i64(&mut out, place - previous);
            previous = place;
        }
        Some(out)
    }
}

fn decode_header(hop_us: i64, bytes: &[u8]) -> Result<(i64, Vec<i64>)> {
    let mut reader = Reader::new(bytes);
    read_start(&mut reader)?;
    let dropped_us = match reader.u8()? {
        0 => i64::MIN,
        1 => reader.i64()?.saturating_mul(hop_us),
        flag => return Err(Error::codec(format!("a flag is {flag}"))),
    };
    let mut starts = Vec::new();
    let mut place = 0i64;
    for index in 0..reader.count(1)? {
        let step = reader.i64()?;
        if index > 0 && step <= 0 {
            return Err(Error::codec("hops are not in rising order"));
        }
        place = place.checked_add(step).ok_or_else(|| Error::codec("a hop's start is out of range"))?;
        starts.push(place.saturating_mul(hop_us));
    }
    reader.finish()?;
    Ok((dropped_us, starts))
}

/// Version, the number of entities, each: key and count, in rising order of keys.
fn encode_hop<'a>(hop: &Hop, key_of: &impl Fn(u32) -> &'a [u8]) -> Vec<u8> {
    let mut counts: Vec<(&[u8], u64)> = hop.counts.iter().map(|(&entity, &count)| (key_of(entity), count)).collect();
    counts.sort_unstable();
    let mut out = vec![VERSION];
    put_u64(&mut out, counts.len() as u64);
    for (key, count) in counts {
        put_bytes(&mut out, key);
        put_u64(&mut out, count);
    }
    out
}

fn decode_hop(bytes: &[u8]) -> Result<(Strings, Vec<u64>)> {
    let mut reader = Reader::new(bytes);
    read_start(&mut reader)?;
    let (mut keys, mut counts) = (Strings::new(), Vec::new());
    for index in 0..reader.count(2)? {
        let key = reader.bytes()?;
        if index > 0 && keys.get(index - 1) >= key {
            return Err(Error::codec("a hop's entities are not in rising order"));
        }
        keys.push(key);
        match reader.u64()? {
            0 => return Err(Error::codec("a hop counts an entity 0 times")),
            count => counts.push(count),
        }
    }
    reader.finish()?;
    Ok((keys, counts))
}

#[cfg(test)]
mod tests;
