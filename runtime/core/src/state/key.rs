//! One key's state: the base, which has taken in everything below the floor, and the tiles above it.

use crate::accumulator::{Accumulator, Dictionary, Input};
use crate::plan::Plan;
use crate::state::ALL_MARKS;

/// A tile of more contributions than this keeps totals and has a field of its own in the online store;
/// a smaller one is scanned, and travels in the header.
pub(crate) const SMALL_TILE: u32 = 16;

/// The contributions of one key in `[start_us, start_us + tile_us)`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tile {
    pub(crate) start_us: i64,
    /// The time of its newest contribution.
    pub(crate) newest_us: i64,
    /// The number of contributions.
    pub(crate) count: u32,
    /// For whom its field has changed; of interest once it is big.
    pub(crate) changed: u8,
    /// Who has been given its field before.
    pub(crate) known: u8,
    /// The contributions as records (see [`super::record`]): in order of arrival in live state, in canonical
    /// order in decoded state, and empty there while only the header is at hand.
    pub(crate) raw: Vec<u64>,
    /// One per accumulator of the plan, for big tiles.
    pub(crate) totals: Option<Box<[Accumulator]>>,
}

impl Tile {
    /// A tile without contributions; `raw` may bring memory along and must be empty.
    pub(crate) fn new(start_us: i64, raw: Vec<u64>) -> Self {
        Self { start_us, newest_us: i64::MIN, count: 0, changed: 0, known: 0, raw, totals: None }
    }

    /// Whether it has totals and a field of its own.
    pub(crate) fn is_big(&self) -> bool {
        self.count > SMALL_TILE
    }

    /// Adds a contribution, packed as `record`.
    #[inline]
    pub(crate) fn push<D: Dictionary>(&mut self, plan: &Plan, time_us: i64, record: &[u64], dictionary: &D) {
        self.raw.extend_from_slice(record);
        self.count += 1;
        self.changed = ALL_MARKS;
        self.newest_us = self.newest_us.max(time_us);
        match &mut self.totals {
            Some(totals) => update(plan, totals, time_us, record, dictionary),
            None if self.count > SMALL_TILE => self.make_totals(plan, dictionary),
            None => {}
        }
    }

    #[cold]
    fn make_totals<D: Dictionary>(&mut self, plan: &Plan, dictionary: &D) {
        let mut totals: Box<[Accumulator]> =
            plan.accumulators.iter().map(|def| Accumulator::identity(def.kind)).collect();
        for record in plan.layout.records(&self.raw) {
            let time_us = self.start_us.wrapping_add(plan.layout.offset_us(record) as i64);
            update(plan, &mut totals, time_us, record, dictionary);
        }
        self.totals = Some(totals);
    }

    fn heap_bytes(&self) -> usize {
        let totals = self.totals.as_deref().map_or(0, accumulators_bytes);
        self.raw.capacity() * size_of::<u64>() + totals
    }
}

#[inline]
fn update<D: Dictionary>(plan: &Plan, totals: &mut [Accumulator], time_us: i64, record: &[u64], dictionary: &D) {
    let mask = plan.layout.mask(record);
    for (total, def) in totals.iter_mut().zip(&plan.accumulators) {
        if mask >> def.slot & 1 == 1 {
            let input = Input { time_us, id: plan.layout.id(record), word: plan.layout.value(record, def.slot) };
            total.update(def, input, dictionary);
        }
    }
}

fn accumulators_bytes(accumulators: &[Accumulator]) -> usize {
    accumulators.iter().map(|accumulator| size_of::<Accumulator>() + accumulator.heap_bytes()).sum()
}

/// Memory of folded tiles, for new ones: in the usual case an event allocates nothing, and what it writes to is warm.
#[derive(Debug, Default)]
pub(crate) struct Spare {
    raw: Vec<Vec<u64>>,
    tiles: Vec<Vec<Tile>>,
}

impl Spare {
    /// At most so many pieces are kept.
    const PIECES: usize = 4_096;

    /// Takes the memory of a tile's contributions.
    pub(crate) fn take_raw(&mut self, mut raw: Vec<u64>) {
        if self.raw.len() < Self::PIECES && raw.capacity() <= 512 {
            raw.clear();
            self.raw.push(raw);
        }
    }

    /// Takes the memory of a key's list of tiles, which is empty.
    pub(crate) fn take_tiles(&mut self, tiles: Vec<Tile>) {
        if self.tiles.len() < Self::PIECES && tiles.capacity() <= 8 {
            self.tiles.push(tiles);
        }
    }
}

/// What is known of one key in one source partition.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KeyState {
    /// The time of the first event that carries the key, contributions or not.
    pub(crate) first_us: i64,
    /// The end of the newest tile that went into the base, or was dropped with nothing to keep of it: below it
    /// no window can be answered. `i64::MIN` = none did.
    pub(crate) floor_us: i64,
    /// The newest contribution below the floor.
    pub(crate) base_newest_us: Option<i64>,
    /// One per accumulator with a base, in the plan's order; `None` until one of them got something.
    pub(crate) base: Option<Box<[Accumulator]>>,
    /// In order of their starts.
    pub(crate) tiles: Vec<Tile>,
}

impl KeyState {
    pub(crate) fn new(first_us: i64) -> Self {
        Self { first_us, floor_us: i64::MIN, base_newest_us: None, base: None, tiles: Vec::new() }
    }

    /// The tile that starts at `start_us`, if it has a field of its own.
    pub(crate) fn big_tile(&self, start_us: i64) -> Option<&Tile> {
        let at = self.tiles.binary_search_by_key(&start_us, |tile| tile.start_us).ok()?;
        Some(&self.tiles[at]).filter(|tile| tile.is_big())
    }

    /// The index of the tile that starts at `start_us`, a new one if need be.
    #[inline]
    pub(crate) fn tile(&mut self, start_us: i64, spare: &mut Spare) -> usize {
        match self.tiles.last() {
            Some(last) if last.start_us == start_us => return self.tiles.len() - 1,
            Some(last) if last.start_us > start_us => {}
            _ => {
                if self.tiles.capacity() == 0 {
                    self.tiles = spare.tiles.pop().unwrap_or_default();
                }
                // Most keys of a large set never have more than one or two tiles at a time.
                if self.tiles.capacity() < 4 {
                    self.tiles.reserve_exact(1);
                }
                self.tiles.push(Tile::new(start_us, spare.raw.pop().unwrap_or_default()));
                return self.tiles.len() - 1;
            }
        }
        match self.tiles.binary_search_by_key(&start_us, |tile| tile.start_us) {
            Ok(index) => index,
            Err(index) => {
                self.tiles.insert(index, Tile::new(start_us, spare.raw.pop().unwrap_or_default()));
                index
            }
        }
    }

    /// Takes a contribution below the floor: into the base, where an accumulator has one.
    pub(crate) fn push_below<D: Dictionary>(
        &mut self,
        plan: &Plan,
        tile_start_us: i64,
        time_us: i64,
        record: &[u64],
        dictionary: &D,
    ) {
        self.base_newest_us = self.base_newest_us.max(Some(time_us));
        self.floor_us = self.floor_us.max(tile_start_us.saturating_add(plan.tile_us));
        let mask = plan.layout.mask(record);
        for (place, def) in plan.base_accumulators().enumerate() {
            if mask >> def.slot & 1 == 1 {
                let base = self.base.get_or_insert_with(|| empty_base(plan));
                let input = Input { time_us, id: plan.layout.id(record), word: plan.layout.value(record, def.slot) };
                base[place].update(def, input, dictionary);
            }
        }
    }

    /// Folds the oldest tile into the base.
    pub(crate) fn fold_tile<D: Dictionary>(&mut self, plan: &Plan, tile: &Tile, dictionary: &D) {
        let Some(totals) = &tile.totals else {
            for record in plan.layout.records(&tile.raw) {
                let time_us = tile.start_us.wrapping_add(plan.layout.offset_us(record) as i64);
                self.push_below(plan, tile.start_us, time_us, record, dictionary);
            }
            return;
        };
        self.base_newest_us = self.base_newest_us.max(Some(tile.newest_us));
        self.floor_us = self.floor_us.max(tile.start_us.saturating_add(plan.tile_us));
        let mut place = 0;
        for (total, def) in totals.iter().zip(&plan.accumulators) {
            if def.in_base {
                if *total != Accumulator::identity(def.kind) {
                    let base = self.base.get_or_insert_with(|| empty_base(plan));
                    base[place].merge(def, total, dictionary);
                }
                place += 1;
            }
        }
    }

    /// Puts other codes in place of those it holds.
    pub(crate) fn map_codes(&mut self, plan: &Plan, mut map: impl FnMut(u32) -> u32) {
        for (accumulator, def) in self.base.iter_mut().flat_map(|base| base.iter_mut().zip(plan.base_accumulators())) {
            accumulator.map_codes(def.slot_type, &mut map);
        }
        for tile in &mut self.tiles {
            for record in tile.raw.chunks_exact_mut(plan.layout.width) {
                plan.layout.map_codes(record, &mut map);
            }
            for (total, def) in tile.totals.iter_mut().flat_map(|totals| totals.iter_mut().zip(&plan.accumulators)) {
                total.map_codes(def.slot_type, &mut map);
            }
        }
    }

    /// The bytes kept on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.base.as_deref().map_or(0, accumulators_bytes)
            + self.tiles.capacity() * size_of::<Tile>()
            + self.tiles.iter().map(Tile::heap_bytes).sum::<usize>()
    }
}

impl Tile {
    /// Visits the string codes of its records and of its totals.
    pub(crate) fn each_code(&self, plan: &Plan, raw: bool, totals: bool, mut visit: impl FnMut(u32)) {
        if raw && plan.layout.has_codes {
            for record in plan.layout.records(&self.raw) {
                plan.layout.each_code(record, &mut visit);
            }
        }
        if totals {
            for (total, def) in self.totals.iter().flat_map(|totals| totals.iter().zip(&plan.accumulators)) {
                total.each_code(def.slot_type, &mut visit);
            }
        }
    }
}

/// The base of a key nothing of which lies below the floor.
pub(crate) fn empty_base(plan: &Plan) -> Box<[Accumulator]> {
    plan.base_accumulators().map(|def| Accumulator::identity(def.kind)).collect()
}
