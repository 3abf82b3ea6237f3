//! `StateV1`: the bytes of a key's state, equal in the online store, in commits and in tests.
//!
//! A key is one *header* and one *tile field* per big tile. All numbers are varints (zigzag where they
//! may be negative), times are differences in µs.
//!
//! ```text
//! header = 1, flags (1 floor, 2 newest contribution below it, 4 base), first event time,
//!          [floor / tile width], [newest below the floor - first], [dictionary],
//!          [base: one accumulator per one with a base],
//!          number of tiles, each: start / tile width (the first absolute, then from the one before), and
//!            small (up to 16 contributions): records
//!            big: 4 × number, newest contribution - start, one accumulator per accumulator of the plan
//! tile   = 1, [dictionary], records
//! records = 4 × number + time unit, each: time since the one before in that unit, slots present (bit mask),
//!           [event id: 0 or code + 1], the present values
//! dictionary = number of strings, each with its length; rising byte order. Only for views that keep strings.
//! ```
//!
//! Equal states have equal bytes: records are in order of their words, strings are named by their place
//! in the sorted dictionary. Decoding trusts nothing: damaged bytes are an error, never a panic and never
//! an allocation that the bytes could not fill. Which plan the bytes follow is the state id's business.

pub mod plain;
mod value;
pub(crate) mod wire;

use crate::accumulator::{Accumulator, Dictionary};
use crate::column::Strings;
use crate::plan::{AccumulatorDef, Plan};
use crate::state::key::{KeyState, SMALL_TILE, Tile, empty_base};
use crate::{Error, Result};
use value::{
    put_accumulator, put_records, put_strings, read_accumulator, read_records, read_strings, skip_accumulator,
};
use wire::{Reader, put_i64, put_u64};

/// The first byte of everything that is `StateV1`.
pub(crate) const VERSION: u8 = 1;

const FLAG_FLOOR: u8 = 1;
const FLAG_BASE_NEWEST: u8 = 2;
const FLAG_BASE: u8 = 4;

impl Dictionary for Strings {
    fn bytes(&self, code: u32) -> &[u8] {
        self.get(code as usize)
    }
}

/// Writes state; keeps its scratch memory from one key to the next.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    /// The codes in use, then in the order of their strings.
    codes: Vec<u32>,
    /// By code: its place in `codes`. Entries of codes not in use are stale.
    ranks: Vec<u32>,
    words: Vec<u64>,
    order: Vec<u32>,
    sorted: Vec<u64>,
}

impl Encoder {
    /// The header of a key.
    pub(crate) fn header<D: Dictionary>(&mut self, plan: &Plan, key: &KeyState, dictionary: &D) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        out.push(VERSION);
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        out.push(
            flag(key.floor_us != i64::MIN, FLAG_FLOOR)
                | flag(key.base_newest_us.is_some(), FLAG_BASE_NEWEST)
                | flag(key.base.is_some(), FLAG_BASE),
        );
        put_i64(&mut out, key.first_us);
        if key.floor_us != i64::MIN {
            put_i64(&mut out, key.floor_us.div_euclid(plan.tile_us));
        }
        if let Some(newest_us) = key.base_newest_us {
            put_i64(&mut out, newest_us.wrapping_sub(key.first_us));
        }
        if plan.layout.has_codes {
            self.codes.clear();
            for (held, def) in key.base.iter().flat_map(|base| base.iter().zip(plan.base_accumulators())) {
                held.each_code(def.slot_type, |code| self.codes.push(code));
            }
            for tile in &key.tiles {
                tile.each_code(plan, !tile.is_big(), true, |code| self.codes.push(code));
            }
            self.put_dictionary(&mut out, dictionary);
        }
        for (held, def) in key.base.iter().flat_map(|base| base.iter().zip(plan.base_accumulators())) {
            self.put_accumulator(&mut out, def, held, key.first_us);
        }
        put_u64(&mut out, key.tiles.len() as u64);
        let mut previous = 0i64;
        for tile in &key.tiles {
            let place = tile.start_us.div_euclid(plan.tile_us);
            put_i64(&mut out, place.wrapping_sub(previous));
            previous = place;
            match &tile.totals {
                None => self.put_records(&mut out, plan, &tile.raw),
                Some(totals) => {
                    put_u64(&mut out, u64::from(tile.count) << 2);
                    put_u64(&mut out, tile.newest_us.wrapping_sub(tile.start_us) as u64);
                    for (held, def) in totals.iter().zip(&plan.accumulators) {
                        self.put_accumulator(&mut out, def, held, tile.start_us);
                    }
                }
            }
        }
        out
    }

    /// The field of a big tile.
    pub(crate) fn tile<D: Dictionary>(&mut self, plan: &Plan, tile: &Tile, dictionary: &D) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + tile.raw.len() * 8);
        out.push(VERSION);
        if plan.layout.has_codes {
            self.codes.clear();
            tile.each_code(plan, true, false, |code| self.codes.push(code));
            self.put_dictionary(&mut out, dictionary);
        }
        self.put_records(&mut out, plan, &tile.raw);
        out
    }

    /// Sorts the codes in `codes` by their strings, notes their places and writes the strings.
    fn put_dictionary<D: Dictionary>(&mut self, out: &mut Vec<u8>, dictionary: &D) {
        // Few distinct codes among many: drop the repeats before strings are compared.
        self.codes.sort_unstable();
        self.codes.dedup();
        if let Some(&greatest) = self.codes.last()
            && self.ranks.len() <= greatest as usize
        {
            self.ranks.resize(greatest as usize + 1, 0);
        }
        self.codes.sort_unstable_by(|&left, &right| dictionary.bytes(left).cmp(dictionary.bytes(right)));
        for (rank, &code) in self.codes.iter().enumerate() {
            self.ranks[code as usize] = rank as u32;
        }
        put_strings(out, self.codes.iter().map(|&code| dictionary.bytes(code)));
    }

    fn put_accumulator(&mut self, out: &mut Vec<u8>, def: &AccumulatorDef, held: &Accumulator, origin_us: i64) {
        if !held.has_codes() {
            return put_accumulator(out, def, held, origin_us);
        }
        let mut canonical = held.clone();
        canonical.map_codes(def.slot_type, |code| self.ranks[code as usize]);
        put_accumulator(out, def, &canonical, origin_us);
    }

    /// Writes records in canonical order.
    fn put_records(&mut self, out: &mut Vec<u8>, plan: &Plan, raw: &[u64]) {
        let width = plan.layout.width;
        self.words.clear();
        self.words.extend_from_slice(raw);
        if plan.layout.has_codes {
            for record in self.words.chunks_exact_mut(width) {
                plan.layout.map_codes(record, |code| self.ranks[code as usize]);
            }
        }
        let words = &self.words;
        if words.chunks_exact(width).is_sorted() {
            return put_records(out, plan, words);
        }
        let record = |index: u32| &words[index as usize * width..][..width];
        self.order.clear();
        self.order.extend(0..(words.len() / width) as u32);
        self.order.sort_unstable_by(|&left, &right| record(left).cmp(record(right)));
        self.sorted.clear();
        for &index in &self.order {
            self.sorted.extend_from_slice(record(index));
        }
        put_records(out, plan, &self.sorted);
    }
}

/// Reads a header: the key's state, big tiles without their records, and the dictionary its codes are of.
///
/// `needed_from_us` says per accumulator from which instant on its totals will be asked for. Long totals of tiles
/// that end before that are stepped over and come out empty; an empty slice asks for everything.
pub(crate) fn decode_header(plan: &Plan, bytes: &[u8], needed_from_us: &[i64]) -> Result<(KeyState, Strings)> {
    let mut reader = Reader::new(bytes);
    let flags = read_start(&mut reader).and_then(|()| reader.u8())?;
    if flags & !(FLAG_FLOOR | FLAG_BASE_NEWEST | FLAG_BASE) != 0 {
        return Err(Error::codec(format!("unknown flags {flags:#x}")));
    }
    let mut key = KeyState::new(reader.i64()?);
    if flags & FLAG_FLOOR != 0 {
        key.floor_us = reader.i64()?.saturating_mul(plan.tile_us);
    }
    if flags & FLAG_BASE_NEWEST != 0 {
        key.base_newest_us = Some(key.first_us.wrapping_add(reader.i64()?));
    }
    let strings = if plan.layout.has_codes { read_strings(&mut reader)? } else { Strings::new() };
    if flags & FLAG_BASE != 0 {
        let mut base = empty_base(plan);
        for (held, def) in base.iter_mut().zip(plan.base_accumulators()) {
            *held = read_accumulator(&mut reader, def, key.first_us, strings.len())?;
        }
        key.base = Some(base);
    }
    let mut place = 0i64;
    for index in 0..reader.count(2)? {
        let step = reader.i64()?;
        if index > 0 && step <= 0 {
            return Err(Error::codec("tiles are not in rising order"));
        }
        place = place.checked_add(step).ok_or_else(|| Error::codec("a tile's start is out of range"))?;
        key.tiles.push(read_tile(
            &mut reader,
            plan,
            place.saturating_mul(plan.tile_us),
            strings.len(),
            needed_from_us,
        )?);
    }
    reader.finish()?;
    Ok((key, strings))
}

fn read_tile(
    reader: &mut Reader<'_>,
    plan: &Plan,
    start_us: i64,
    strings: usize,
    needed_from_us: &[i64],
) -> Result<Tile> {
    let head = reader.u64()?;
    let count = head >> 2;
    let mut tile = Tile::new(start_us, Vec::new());
    tile.count = u32::try_from(count).map_err(|_| Error::codec("a tile of more than 2^32 contributions"))?;
    match count {
        0 => return Err(Error::codec("an empty tile")),
        count if count <= u64::from(SMALL_TILE) => {
            tile.raw = read_records(reader, plan, head, strings)?;
            tile.newest_us = newest_us(plan, start_us, &tile.raw);
        }
        _ => {
            let offset = reader.u64()?;
            if head & 3 != 0 || offset >= plan.tile_us as u64 {
                return Err(Error::codec("a big tile's newest contribution lies outside it"));
            }
            tile.newest_us = start_us.saturating_add(offset as i64);
            let end_us = start_us.saturating_add(plan.tile_us);
            let totals = plan.accumulators.iter().enumerate().map(|(index, def)| {
                match needed_from_us.get(index).is_some_and(|&needed_us| end_us <= needed_us) {
                    true => skip_accumulator(reader, def, start_us, strings),
                    false => read_accumulator(reader, def, start_us, strings),
                }
            });
            tile.totals = Some(totals.collect::<Result<_>>()?);
        }
    }
    Ok(tile)
}

/// Reads the field of a big tile: its records and the dictionary their codes are of.
pub(crate) fn decode_tile(plan: &Plan, bytes: &[u8]) -> Result<(Vec<u64>, Strings)> {
    let mut reader = Reader::new(bytes);
    read_start(&mut reader)?;
    let strings = if plan.layout.has_codes { read_strings(&mut reader)? } else { Strings::new() };
    let head = reader.u64()?;
    let words = read_records(&mut reader, plan, head, strings.len())?;
    reader.finish()?;
    Ok((words, strings))
}

/// Reads the version.
pub(crate) fn read_start(reader: &mut Reader<'_>) -> Result<()> {
    match reader.u8()? {
        VERSION => Ok(()),
        other => Err(Error::codec(format!("format {other}, this program reads format {VERSION}"))),
    }
}

fn newest_us(plan: &Plan, start_us: i64, words: &[u64]) -> i64 {
    let last = plan.layout.records(words).next_back().map_or(0, |record| plan.layout.offset_us(record));
    start_us.saturating_add(last as i64)
}
