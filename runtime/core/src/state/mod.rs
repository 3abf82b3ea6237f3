//! The live state of one view over one source partition: per key a base and tiles.
//!
//! What the state is depends only on which events were applied and, where something lies below the floor,
//! on the floor, which is a function of the newest event time: never on batches, on commits, or on when a
//! key was touched. Its bytes ([`crate::codec`]) are therefore equal for any permutation of the same events
//! that leads to the same floor before anything is folded.
//!
//! Two independent marks, *publish* and *commit*, remember which fields changed since they were last
//! drained; draining costs what changed, not what there is.
//!
//! Not here: what a window at T amounts to ([`crate::read`]), where fields are stored (the edges).

mod input;
mod interner;
pub(crate) mod key;
mod partition;
pub(crate) mod record;

use crate::codec::{Encoder, decode_header, decode_tile};
use crate::column::Column;
use crate::contribution::Contributions;
use crate::entity::{EntityKey, key_of_row};
use crate::event::EventBatch;
use crate::global::{GlobalState, global_index, global_key};
use crate::plan::Plan;
use crate::time::floor_to;
use crate::{Error, Result};
use hashbrown::HashTable;
use input::Inputs;
use interner::{Interner, hash_bytes};
use key::KeyState;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) use partition::RESERVED;
pub use partition::partition_key;

/// A field of a key's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// First event time, base, tile totals and small tiles.
    Header,
    /// The raw contributions of the tile that begins at this instant (µs).
    Tile(i64),
}

/// One changed field: its absolute new bytes, or its removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldWrite {
    /// The entity, or a reserved key.
    pub key: EntityKey,
    /// The field.
    pub field: Field,
    /// Its bytes; `None` removes it.
    pub value: Option<Vec<u8>>,
}

/// What applying a batch did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ApplyReport {
    /// Events whose key fields are all present.
    pub keyed: u64,
    /// Contributions taken, to whatever number of slots each.
    pub contributions: u64,
    /// Floats dropped from a slot because they were NaN or infinite.
    pub non_finite: u64,
    /// Keyed events older than the newest event seen before them: out of order, applied like any other.
    pub late: u64,
    /// Contributions that lay below the floor and went straight into the base.
    pub below_floor: u64,
}

impl ApplyReport {
    /// Adds the figures of another batch.
    pub fn add(&mut self, other: &ApplyReport) {
        self.keyed += other.keyed;
        self.contributions += other.contributions;
        self.non_finite += other.non_finite;
        self.late += other.late;
        self.below_floor += other.below_floor;
    }
}

/// Who is told of changes: each drain has a mark of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    Publish,
    Commit,
}

impl Mark {
    pub(crate) fn bit(self) -> u8 {
        match self {
            Mark::Publish => 1,
            Mark::Commit => 2,
        }
    }
}

/// All marks.
pub(crate) const ALL_MARKS: u8 = 3;

/// Not waiting for the floor.
const NOT_QUEUED: i64 = i64::MAX;

/// A key and its bookkeeping.
#[derive(Debug)]
struct Entry {
    key: Box<[u8]>,
    state: KeyState,
    /// Under which fold step it waits for the floor; `NOT_QUEUED` without tiles.
    queued_us: i64,
    /// For whom the header has changed.
    changed: u8,
    /// Big tiles: for whom the field has changed, and who has been given one before.
    tile_marks: Vec<TileMarks>,
}

#[derive(Debug, Clone, Copy)]
struct TileMarks {
    start_us: i64,
    changed: u8,
    known: u8,
}

/// One view over one source partition.
#[derive(Debug)]
pub struct ViewState {
    plan: Arc<Plan>,
    index: HashTable<u32>,
    entries: Vec<Entry>,
    strings: Interner,
    /// At how many strings those no longer used are dropped.
    strings_limit: usize,
    newest_us: Option<i64>,
    floor_us: i64,
    /// The newest event time from which on the floor is a higher one.
    next_fold_us: i64,
    /// Keys with tiles, by the fold step of their oldest.
    waiting: BTreeMap<i64, Vec<u32>>,
    globals: Vec<GlobalState>,
    changed: [Vec<u32>; 2],
    removed: [Vec<(u32, i64)>; 2],
    newest_changed: u8,
    encoder: Encoder,
    /// Memory of folded tiles, for new ones.
    spare: Vec<Vec<u64>>,
}

const STRINGS_LIMIT_MIN: usize = 4_096;
const SPARE_MAX: usize = 4_096;

impl ViewState {
    /// The state before the first event.
    pub fn new(plan: Arc<Plan>) -> Self {
        let globals = plan.globals.iter().map(|def| GlobalState::new(&plan, def)).collect();
        Self {
            plan,
            index: HashTable::new(),
            entries: Vec::new(),
            strings: Interner::default(),
            strings_limit: STRINGS_LIMIT_MIN,
            newest_us: None,
            floor_us: i64::MIN,
            next_fold_us: i64::MIN,
            waiting: BTreeMap::new(),
            globals,
            changed: [Vec::new(), Vec::new()],
            removed: [Vec::new(), Vec::new()],
            newest_changed: 0,
            encoder: Encoder::default(),
            spare: Vec::new(),
        }
    }

    /// Applies accepted events, row by row, with what `extract` said they contribute.
    ///
    /// `key_columns` are the columns of the entity's key in `events`; a row where one is null belongs to no key.
    /// The rows of `contributions` must rise and its columns fit the plan, as [`Contributions::check`] ensures.
    pub fn apply(&mut self, events: &EventBatch, key_columns: &[usize], contributions: &Contributions) -> ApplyReport {
        let plan = self.plan.clone();
        let keys: Vec<&Column> = key_columns.iter().map(|&column| &events.columns[column]).collect();
        let inputs = Inputs::new(&plan.layout, &contributions.slots);
        let mut report = ApplyReport::default();
        let mut record = vec![0u64; plan.layout.width];
        let mut key = Vec::new();
        let mut previous = usize::MAX;
        let mut next = 0;
        for (row, &time_us) in events.times_us.iter().enumerate() {
            let first = next;
            while contributions.rows.get(next).is_some_and(|&contributed| contributed as usize == row) {
                next += 1;
            }
            let late = self.newest_us.is_some_and(|newest_us| time_us < newest_us);
            self.advance(time_us);
            if !key_of_row(&keys, row, &mut key) {
                continue;
            }
            report.keyed += 1;
            report.late += u64::from(late);
            let at = self.entry(&key, previous, time_us);
            previous = at;
            if time_us < self.entries[at].state.first_us {
                self.entries[at].state.first_us = time_us;
                self.touch(at);
            }
            for contribution in first..next {
                record.fill(0);
                let mask = inputs.fill(contribution, &mut record, &mut self.strings, &mut report.non_finite);
                if mask == 0 {
                    continue;
                }
                report.contributions += 1;
                if let Some(word) = plan.layout.id
                    && let Some(id) = events.columns[0].str_bytes(row)
                {
                    record[word] = u64::from(self.strings.code(id)) + 1;
                }
                report.below_floor += u64::from(self.push(&plan, at, time_us, mask, &mut record));
            }
        }
        report
    }

    /// The newest event time applied.
    pub fn newest_us(&self) -> Option<i64> {
        self.newest_us
    }

    /// What lies below it has been folded into the base; `i64::MIN` before the first event.
    pub fn floor_us(&self) -> i64 {
        self.floor_us
    }

    /// The plan it follows.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The number of keys.
    pub fn keys(&self) -> usize {
        self.entries.len()
    }

    /// The memory the state takes, about. Costs time in proportion to the number of keys.
    pub fn state_bytes(&self) -> usize {
        let entry = |entry: &Entry| size_of::<Entry>() + entry.key.len() + entry.state.heap_bytes();
        self.index.capacity() * 5
            + self.entries.iter().map(entry).sum::<usize>()
            + self.strings.memory_bytes()
            + self.globals.iter().map(GlobalState::memory_bytes).sum::<usize>()
    }

    /// The fields changed since the last `drain_publish`, in order of key and field.
    pub fn drain_publish(&mut self) -> Vec<FieldWrite> {
        self.drain(Mark::Publish)
    }

    /// The fields changed since the last `drain_commit`, in order of key and field.
    pub fn drain_commit(&mut self) -> Vec<FieldWrite> {
        self.drain(Mark::Commit)
    }

    /// Makes the next `drain_publish` return everything, for a store that has been emptied: it does not remove
    /// fields that the store may hold from before.
    pub fn mark_all_for_publish(&mut self) {
        let bit = Mark::Publish.bit();
        for (at, entry) in self.entries.iter_mut().enumerate() {
            if entry.changed & bit == 0 {
                entry.changed |= bit;
                self.changed[0].push(at as u32);
            }
            for marks in &mut entry.tile_marks {
                marks.changed |= bit;
            }
        }
        for global in &mut self.globals {
            global.mark_all(bit);
        }
        self.newest_changed |= bit;
    }

    /// Everything, in order of key and field. Leaves the marks alone.
    pub fn snapshot(&self) -> Vec<FieldWrite> {
        let mut encoder = Encoder::default();
        let mut writes = Vec::with_capacity(self.entries.len());
        for entry in &self.entries {
            self.encode_entry(&mut encoder, entry, |_| true, &mut writes);
        }
        self.write_reserved(&mut writes);
        sort_writes(&mut writes);
        writes
    }

    /// Rebuilds state from a snapshot and the deltas after it, in their order: later writes win.
    ///
    /// Nothing is marked as changed. An online store at this position or a later one (whose events are then
    /// applied before anything is published) goes on from here; one that is behind has to be emptied and
    /// everything published ([`ViewState::mark_all_for_publish`]).
    pub fn restore(plan: Arc<Plan>, writes: impl IntoIterator<Item = FieldWrite>) -> Result<Self> {
        let mut fields: BTreeMap<EntityKey, BTreeMap<Field, Vec<u8>>> = BTreeMap::new();
        for write in writes {
            let held = fields.entry(write.key).or_default();
            match write.value {
                Some(value) => held.insert(write.field, value),
                None => held.remove(&write.field),
            };
        }
        let mut state = Self::new(plan);
        if let Some(held) = fields.remove(&partition_key()) {
            let newest_us = partition::decode(held.get(&Field::Header))?;
            state.newest_us = Some(newest_us);
            state.floor_us = state.plan.floor_us(newest_us);
            state.next_fold_us = state.plan.next_fold_us(state.floor_us);
            for global in &mut state.globals {
                global.fold(state.floor_us);
            }
        }
        let mut globals: Vec<(usize, BTreeMap<Field, Vec<u8>>)> = Vec::new();
        for (key, held) in fields.into_iter().filter(|(_, held)| !held.is_empty()) {
            match global_index(&key) {
                Some(global) if global < state.globals.len() => globals.push((global, held)),
                Some(global) => return Err(Error::codec(format!("global distribution {global} is not in the plan"))),
                None => state.restore_key(&key, held)?,
            }
        }
        for (global, held) in globals {
            let Self { globals, index, entries, .. } = &mut state;
            let find = |key: &[u8]| find(index, entries, key);
            globals[global].restore(held, find)?;
        }
        Ok(state)
    }

    fn restore_key(&mut self, key: &EntityKey, mut held: BTreeMap<Field, Vec<u8>>) -> Result<()> {
        let header = held.remove(&Field::Header).ok_or_else(|| Error::codec("a key without a header"))?;
        let plan = self.plan.clone();
        let (mut decoded, strings) = decode_header(&plan, &header)?;
        let codes: Vec<u32> = strings.iter().map(|string| self.strings.code(string)).collect();
        decoded.map_codes(&plan, |code| codes[code as usize]);
        let mut tile_marks = Vec::new();
        for tile in decoded.tiles.iter_mut().filter(|tile| tile.is_big()) {
            let bytes = held.remove(&Field::Tile(tile.start_us));
            let bytes = bytes.ok_or_else(|| Error::codec(format!("the tile at {} is missing", tile.start_us)))?;
            let (mut words, strings) = decode_tile(&plan, &bytes)?;
            if words.len() != tile.count * plan.layout.width {
                return Err(Error::codec(format!("the tile at {} is not the header's", tile.start_us)));
            }
            let codes: Vec<u32> = strings.iter().map(|string| self.strings.code(string)).collect();
            for record in words.chunks_exact_mut(plan.layout.width) {
                plan.layout.map_codes(record, |code| codes[code as usize]);
            }
            tile.raw = words;
            tile_marks.push(TileMarks { start_us: tile.start_us, changed: 0, known: ALL_MARKS });
        }
        if let Some(field) = held.keys().next() {
            return Err(Error::codec(format!("the header does not know the field {field:?}")));
        }
        let at = self.insert(key.as_bytes(), decoded.first_us);
        self.entries[at].state = decoded;
        self.entries[at].changed = 0;
        self.entries[at].tile_marks = tile_marks;
        self.changed[0].clear();
        self.changed[1].clear();
        self.wait(at);
        Ok(())
    }

    /// The index of a key, a new entry if need be. `hint` is the entry most likely meant.
    #[inline]
    fn entry(&mut self, key: &[u8], hint: usize, time_us: i64) -> usize {
        if self.entries.get(hint).is_some_and(|entry| *entry.key == *key) {
            return hint;
        }
        match find(&self.index, &self.entries, key) {
            Some(at) => at as usize,
            None => self.insert(key, time_us),
        }
    }

    fn insert(&mut self, key: &[u8], first_us: i64) -> usize {
        let at = self.entries.len();
        let code = u32::try_from(at).expect("a partition's state holds less than 2^32 keys");
        self.entries.push(Entry {
            key: key.into(),
            state: KeyState::new(first_us),
            queued_us: NOT_QUEUED,
            changed: 0,
            tile_marks: Vec::new(),
        });
        let entries = &self.entries;
        self.index.insert_unique(hash_bytes(key), code, |&at| hash_bytes(&entries[at as usize].key));
        self.touch(at);
        at
    }

    /// Adds a contribution to a key: into its tile, or below the floor into the base, which is what it returns.
    #[inline]
    fn push(&mut self, plan: &Plan, at: usize, time_us: i64, mask: u64, record: &mut [u64]) -> bool {
        let start_us = floor_to(time_us, plan.tile_us);
        plan.layout.set_head(record, time_us.wrapping_sub(start_us) as u64, mask);
        for global in &mut self.globals {
            global.push(at as u32, time_us, mask);
        }
        let entry = &mut self.entries[at];
        let below = time_us < self.floor_us;
        if below {
            entry.state.push_below(plan, start_us, time_us, record, &self.strings);
        } else {
            let place = entry.state.tile(start_us, &mut self.spare);
            let tile = &mut entry.state.tiles[place];
            tile.push(plan, time_us, record, &self.strings);
            if tile.is_big() {
                entry.mark_tile(start_us);
            }
            if start_us < entry.queued_us {
                self.wait(at);
            }
        }
        self.touch(at);
        below
    }

    /// Marks a key's header as changed for everyone.
    #[inline]
    fn touch(&mut self, at: usize) {
        let entry = &mut self.entries[at];
        if entry.changed == ALL_MARKS {
            return;
        }
        for mark in [Mark::Publish, Mark::Commit] {
            if entry.changed & mark.bit() == 0 {
                self.changed[mark as usize].push(at as u32);
            }
        }
        entry.changed = ALL_MARKS;
    }

    /// Queues a key under the fold step of its oldest tile, unless it waits there already.
    fn wait(&mut self, at: usize) {
        let entry = &mut self.entries[at];
        if let Some(oldest) = entry.state.tiles.first() {
            let step_us = floor_to(oldest.start_us, self.plan.fold_us);
            if step_us < entry.queued_us {
                entry.queued_us = step_us;
                self.waiting.entry(step_us).or_default().push(at as u32);
            }
        }
    }

    /// Takes notice of an event time: the newest may move, and with it the floor.
    #[inline]
    fn advance(&mut self, time_us: i64) {
        if self.newest_us.is_some_and(|newest_us| time_us <= newest_us) {
            return;
        }
        self.newest_us = Some(time_us);
        self.newest_changed = ALL_MARKS;
        if time_us >= self.next_fold_us {
            self.floor_us = self.plan.floor_us(time_us);
            self.next_fold_us = self.plan.next_fold_us(self.floor_us);
            self.fold();
            for global in &mut self.globals {
                global.fold(self.floor_us);
            }
        }
    }

    /// Folds all tiles below the floor into their keys' bases.
    fn fold(&mut self) {
        while let Some(step) = self.waiting.first_entry()
            && *step.key() < self.floor_us
        {
            let (step_us, keys) = step.remove_entry();
            for at in keys {
                // A key that got an older tile meanwhile waits elsewhere too; the entry here is stale.
                if self.entries[at as usize].queued_us == step_us {
                    self.fold_key(at as usize);
                }
            }
        }
        if self.strings.len() > self.strings_limit {
            self.drop_unused_strings();
        }
    }

    fn fold_key(&mut self, at: usize) {
        let entry = &mut self.entries[at];
        entry.queued_us = NOT_QUEUED;
        let below = entry.state.tiles.partition_point(|tile| tile.start_us < self.floor_us);
        if below > 0 {
            let mut tiles = std::mem::take(&mut entry.state.tiles);
            for mut tile in tiles.drain(..below) {
                entry.state.fold_tile(&self.plan, &tile, &self.strings);
                if self.spare.len() < SPARE_MAX && tile.raw.capacity() <= 64 * self.plan.layout.width {
                    tile.raw.clear();
                    self.spare.push(tile.raw);
                }
            }
            entry.state.tiles = tiles;
            entry.tile_marks.retain(|marks| {
                if marks.start_us < self.floor_us {
                    for mark in [Mark::Publish, Mark::Commit] {
                        if marks.known & mark.bit() != 0 {
                            self.removed[mark as usize].push((at as u32, marks.start_us));
                        }
                    }
                }
                marks.start_us >= self.floor_us
            });
            self.touch(at);
        }
        self.wait(at);
    }

    /// Gives the strings still in use new codes and forgets the others.
    #[cold]
    fn drop_unused_strings(&mut self) {
        const UNUSED: u32 = u32::MAX;
        let mut kept = Interner::default();
        let mut codes = vec![UNUSED; self.strings.len()];
        for entry in &mut self.entries {
            entry.state.map_codes(&self.plan, |code| {
                if codes[code as usize] == UNUSED {
                    codes[code as usize] = kept.code(crate::accumulator::Dictionary::bytes(&self.strings, code));
                }
                codes[code as usize]
            });
        }
        self.strings = kept;
        self.strings_limit = STRINGS_LIMIT_MIN.max(self.strings.len() * 2);
    }

    fn drain(&mut self, mark: Mark) -> Vec<FieldWrite> {
        let changed = std::mem::take(&mut self.changed[mark as usize]);
        let mut encoder = std::mem::take(&mut self.encoder);
        let mut writes = Vec::with_capacity(changed.len());
        for &at in &changed {
            let entry = &self.entries[at as usize];
            self.encode_entry(&mut encoder, entry, |marks| marks.changed & mark.bit() != 0, &mut writes);
            let entry = &mut self.entries[at as usize];
            entry.changed &= !mark.bit();
            for marks in &mut entry.tile_marks {
                marks.changed &= !mark.bit();
                marks.known |= mark.bit();
            }
        }
        self.encoder = encoder;
        for (at, start_us) in std::mem::take(&mut self.removed[mark as usize]) {
            let key = EntityKey::from_bytes(&self.entries[at as usize].key);
            writes.push(FieldWrite { key, field: Field::Tile(start_us), value: None });
        }
        for (global, held) in self.globals.iter_mut().enumerate() {
            let entries = &self.entries;
            held.drain(
                mark,
                |at| &entries[at as usize].key,
                |field, value| {
                    writes.push(FieldWrite { key: global_key(global), field, value });
                },
            );
        }
        if self.newest_changed & mark.bit() != 0 {
            self.newest_changed &= !mark.bit();
            writes.extend(self.newest_us.map(partition::write));
        }
        sort_writes(&mut writes);
        writes
    }

    fn encode_entry(
        &self,
        encoder: &mut Encoder,
        entry: &Entry,
        wanted: impl Fn(&TileMarks) -> bool,
        writes: &mut Vec<FieldWrite>,
    ) {
        let key = EntityKey::from_bytes(&entry.key);
        let header = encoder.header(&self.plan, &entry.state, &self.strings);
        writes.push(FieldWrite { key: key.clone(), field: Field::Header, value: Some(header) });
        for marks in entry.tile_marks.iter().filter(|marks| wanted(marks)) {
            let tiles = &entry.state.tiles;
            if let Ok(place) = tiles.binary_search_by_key(&marks.start_us, |tile| tile.start_us) {
                let value = encoder.tile(&self.plan, &tiles[place], &self.strings);
                writes.push(FieldWrite { key: key.clone(), field: Field::Tile(marks.start_us), value: Some(value) });
            }
        }
    }

    fn write_reserved(&self, writes: &mut Vec<FieldWrite>) {
        for (global, held) in self.globals.iter().enumerate() {
            held.snapshot(
                |at| &self.entries[at as usize].key,
                |field, value| {
                    writes.push(FieldWrite { key: global_key(global), field, value: Some(value) });
                },
            );
        }
        writes.extend(self.newest_us.map(partition::write));
    }
}

impl Entry {
    /// Marks a big tile's field as changed for everyone.
    fn mark_tile(&mut self, start_us: i64) {
        // The newest tile is the last, and the one that most events go to.
        if let Some(last) = self.tile_marks.last_mut()
            && last.start_us == start_us
        {
            last.changed = ALL_MARKS;
            return;
        }
        match self.tile_marks.binary_search_by_key(&start_us, |marks| marks.start_us) {
            Ok(place) => self.tile_marks[place].changed = ALL_MARKS,
            Err(place) => self.tile_marks.insert(place, TileMarks { start_us, changed: ALL_MARKS, known: 0 }),
        }
    }
}

#[inline]
fn find(index: &HashTable<u32>, entries: &[Entry], key: &[u8]) -> Option<u32> {
    index.find(hash_bytes(key), |&at| *entries[at as usize].key == *key).copied()
}

fn sort_writes(writes: &mut [FieldWrite]) {
    writes.sort_unstable_by(|left, right| (&left.key, left.field).cmp(&(&right.key, right.field)));
}

#[cfg(test)]
mod tests;
