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
//! State can be rebuilt beside the live one and put in its place key by key ([`ViewState::replace`]).
//!
//! Not here: what a window at T amounts to ([`crate::read`]), where fields are stored (the edges).

mod fields;
mod input;
mod interner;
pub(crate) mod key;
mod partition;
pub(crate) mod record;
mod replace;

use crate::codec::Encoder;
use crate::column::Column;
use crate::contribution::Contributions;
use crate::entity::{EntityKey, key_of_row};
use crate::event::EventBatch;
use crate::global::GlobalState;
use crate::plan::Plan;
use crate::time::floor_to;
use hashbrown::HashTable;
use input::Inputs;
use interner::{Interner, Name, hash_bytes};
use key::{KeyState, Spare};
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

/// What [`ViewState::hottest`] finds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hottest {
    /// How many keys have more contributions than asked for.
    pub above: usize,
    /// The key that has most; of several the one met first. `None` if no key has any.
    pub key: Option<EntityKey>,
    /// How many it has.
    pub contributions: u64,
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

/// A key and its bookkeeping, in two cache lines.
#[derive(Debug)]
#[repr(align(64))]
struct Entry {
    key: Name,
    state: KeyState,
    /// Under which fold step it waits for the floor; `NOT_QUEUED` without tiles.
    queued_us: i64,
    /// For whom the header has changed.
    changed: u8,
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
    spare: Spare,
}

/// How many rows' keys are looked up ahead.
const LOOKUPS: usize = 128;
/// The index of a row without a key.
const NO_KEY: u32 = u32::MAX;
const STRINGS_LIMIT_MIN: usize = 4_096;

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
            spare: Spare::default(),
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
        let mut next = 0;
        let mut found = Vec::with_capacity(LOOKUPS);
        for (row, &time_us) in events.times_us.iter().enumerate() {
            if row % LOOKUPS == 0 {
                self.look_up(&keys, &events.times_us, row, &mut found);
            }
            let first = next;
            while contributions.rows.get(next).is_some_and(|&contributed| contributed as usize == row) {
                next += 1;
            }
            let late = self.newest_us.is_some_and(|newest_us| time_us < newest_us);
            self.advance(time_us);
            let at = found[row % LOOKUPS] as usize;
            if at == NO_KEY as usize {
                continue;
            }
            report.keyed += 1;
            report.late += u64::from(late);
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

    /// Finds or makes the entries of the next rows. Many look-ups one after the other let the processor wait for
    /// their memory at once, which is most of what an event of a rare key costs.
    fn look_up(&mut self, keys: &[&Column], times_us: &[i64], first: usize, found: &mut Vec<u32>) {
        found.clear();
        let mut key = Vec::new();
        let mut previous = usize::MAX;
        let mut touched = 0;
        for (row, &time_us) in times_us.iter().enumerate().skip(first).take(LOOKUPS) {
            let bytes = match keys {
                [column] => column.str_bytes(row),
                _ => key_of_row(keys, row, &mut key).then_some(&key[..]),
            };
            let Some(bytes) = bytes else {
                found.push(NO_KEY);
                continue;
            };
            let at = self.entry(bytes, previous, time_us);
            touched += self.entries[at].state.tiles.last().map_or(0, |tile| tile.raw.capacity());
            previous = at;
            found.push(at as u32);
        }
        std::hint::black_box(touched);
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
        let entry = |entry: &Entry| size_of::<Entry>() + entry.key.heap_bytes() + entry.state.heap_bytes();
        self.index.capacity() * 5
            + self.entries.iter().map(entry).sum::<usize>()
            + self.strings.memory_bytes()
            + self.globals.iter().map(GlobalState::memory_bytes).sum::<usize>()
    }

    /// The keys with most raw contributions: those that windows may still have to look at one by one. Costs time in
    /// proportion to the number of keys.
    pub fn hottest(&self, above: u64) -> Hottest {
        let mut hottest = Hottest::default();
        let mut most = None;
        for entry in &self.entries {
            let contributions = entry.state.tiles.iter().map(|tile| u64::from(tile.count)).sum();
            hottest.above += usize::from(contributions > above);
            if contributions > hottest.contributions {
                hottest.contributions = contributions;
                most = Some(entry);
            }
        }
        hottest.key = most.map(|entry| EntityKey::from_bytes(entry.key.as_bytes()));
        hottest
    }

    /// The index of a key, a new entry if need be. `hint` is the entry most likely meant.
    #[inline]
    fn entry(&mut self, key: &[u8], hint: usize, time_us: i64) -> usize {
        if self.entries.get(hint).is_some_and(|entry| entry.key.as_bytes() == key) {
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
            key: Name::new(key),
            state: KeyState::new(first_us),
            queued_us: NOT_QUEUED,
            changed: 0,
        });
        let entries = &self.entries;
        self.index.insert_unique(hash_bytes(key), code, |&at| hash_bytes(entries[at as usize].key.as_bytes()));
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
            entry.state.tiles[place].push(plan, time_us, record, &self.strings);
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
            for group in keys.chunks(LOOKUPS) {
                // As with look-ups: first let the memory of all come near.
                let near =
                    |&at: &u32| self.entries[at as usize].state.tiles.first().map_or(0, |tile| tile.raw.capacity());
                std::hint::black_box(group.iter().map(near).sum::<usize>());
                for &at in group {
                    // A key that got an older tile meanwhile waits elsewhere too; the entry here is stale.
                    if self.entries[at as usize].queued_us == step_us {
                        self.fold_key(at as usize);
                    }
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
            for tile in tiles.drain(..below) {
                entry.state.fold_tile(&self.plan, &tile, &self.strings);
                for mark in [Mark::Publish, Mark::Commit] {
                    if tile.known & mark.bit() != 0 {
                        self.removed[mark as usize].push((at as u32, tile.start_us));
                    }
                }
                self.spare.take_raw(tile.raw);
            }
            if tiles.is_empty() {
                self.spare.take_tiles(tiles);
            } else {
                entry.state.tiles = tiles;
            }
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
}

#[inline]
fn find(index: &HashTable<u32>, entries: &[Entry], key: &[u8]) -> Option<u32> {
    index.find(hash_bytes(key), |&at| entries[at as usize].key.as_bytes() == key).copied()
}
