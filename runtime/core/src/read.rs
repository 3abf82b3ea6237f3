//! Answers windows at T from state: merges what the source partitions hold of a key into one row of aggregates.
//!
//! A window is the totals of the tiles fully inside it and a scan of the tiles its edges cut, so it is
//! exact at any T at the cost of the tiles, not of the events. State that has been cut below a window's
//! start does not answer: [`Reach::BelowFloor`] sends the caller to the archive.

mod fold;
mod seen;

use crate::codec::{decode_header, decode_tile};
use crate::column::{Column, Strings};
use crate::global::Distribution;
use crate::plan::{AccumulatorKind, Plan};
use crate::state::key::KeyState;
use crate::time::floor_to;
use crate::{Error, Result};
use fold::Fold;
use std::sync::Arc;

/// The starts of the tiles whose raw contributions a read at T needs, where the key has big tiles there.
///
/// They are those that an edge of a window cuts. Stores may return more, and return nothing for tiles
/// that have no field of their own.
pub fn tiles_needed(plan: &Plan, as_of_us: i64) -> Vec<i64> {
    let mut edges: Vec<i64> = Vec::new();
    for aggregate in &plan.aggregates {
        let (start_us, end_us) = aggregate.window.bounds(as_of_us);
        edges.extend([start_us, end_us]);
        if matches!(plan.accumulators[aggregate.accumulator].kind, AccumulatorKind::Sessions { .. }) {
            edges.push(as_of_us);
        }
    }
    // The newest contribution before T is asked of every view.
    edges.push(as_of_us);
    edges.retain(|&edge_us| edge_us != i64::MIN && edge_us.rem_euclid(plan.tile_us) != 0);
    let mut tiles: Vec<i64> = edges.into_iter().map(|edge_us| floor_to(edge_us, plan.tile_us)).collect();
    tiles.sort_unstable();
    tiles.dedup();
    tiles
}

/// What one source partition holds of a key, decoded.
#[derive(Debug, Clone)]
pub struct Partial {
    key: KeyState,
    /// What the codes of base, totals and small tiles mean.
    strings: Strings,
    /// What the codes of the big tiles at hand mean, by tile index, rising.
    tile_strings: Vec<(usize, Strings)>,
    /// The only instant it can be read at; `None` = any.
    as_of_us: Option<i64>,
}

impl Partial {
    /// Reads a header and the tile fields at hand; those the header does not know as big tiles are ignored.
    pub fn decode<'a>(plan: &Plan, header: &[u8], tiles: impl IntoIterator<Item = (i64, &'a [u8])>) -> Result<Self> {
        Self::decode_from(plan, header, tiles, None)
    }

    /// As [`Partial::decode`], for reads at `as_of_us` only: steps over totals that no window asks for then, which
    /// for keys of very many events is most of the work.
    pub fn decode_at<'a>(
        plan: &Plan,
        as_of_us: i64,
        header: &[u8],
        tiles: impl IntoIterator<Item = (i64, &'a [u8])>,
    ) -> Result<Self> {
        Self::decode_from(plan, header, tiles, Some(as_of_us))
    }

    fn decode_from<'a>(
        plan: &Plan,
        header: &[u8],
        tiles: impl IntoIterator<Item = (i64, &'a [u8])>,
        as_of_us: Option<i64>,
    ) -> Result<Self> {
        let needed_from_us = as_of_us.map_or_else(Vec::new, |as_of_us| needed_from_us(plan, as_of_us));
        let (mut key, strings) = decode_header(plan, header, &needed_from_us)?;
        let mut tile_strings = Vec::new();
        for (start_us, bytes) in tiles {
            let Ok(place) = key.tiles.binary_search_by_key(&start_us, |tile| tile.start_us) else { continue };
            let tile = &mut key.tiles[place];
            if !tile.is_big() {
                continue;
            }
            let (words, strings) = decode_tile(plan, bytes)?;
            if words.len() != tile.count as usize * plan.layout.width {
                return Err(Error::codec(format!("the tile at {start_us} is not the header's")));
            }
            tile.raw = words;
            tile_strings.push((place, strings));
        }
        tile_strings.sort_unstable_by_key(|&(place, _)| place);
        Ok(Self { key, strings, tile_strings, as_of_us })
    }

    /// Below it no window can be answered; `i64::MIN` if nothing has been folded.
    pub fn floor_us(&self) -> i64 {
        self.key.floor_us
    }

    /// The time of the first event that carries the key.
    pub fn first_us(&self) -> i64 {
        self.key.first_us
    }

    fn strings_of(&self, tile: usize) -> &Strings {
        match self.tile_strings.binary_search_by_key(&tile, |&(place, _)| place) {
            Ok(place) => &self.tile_strings[place].1,
            Err(_) => &self.strings,
        }
    }

    /// The newest contribution before T.
    fn newest_before(&self, plan: &Plan, as_of_us: i64) -> Result<Option<i64>> {
        for tile in self.key.tiles.iter().rev() {
            if tile.newest_us < as_of_us {
                return Ok(Some(tile.newest_us));
            }
            if tile.start_us < as_of_us {
                need_raw(tile)?;
                let before = plan.layout.before(&tile.raw, as_of_us.abs_diff(tile.start_us));
                if let Some(record) = plan.layout.records(&tile.raw).take(before).next_back() {
                    return Ok(Some(tile.start_us.wrapping_add(plan.layout.offset_us(record) as i64)));
                }
            }
        }
        Ok(self.key.base_newest_us)
    }
}

/// Per accumulator the earliest start of a window over it at T.
fn needed_from_us(plan: &Plan, as_of_us: i64) -> Vec<i64> {
    let mut needed: Vec<i64> = vec![i64::MAX; plan.accumulators.len()];
    for aggregate in &plan.aggregates {
        let start_us = match plan.accumulators[aggregate.accumulator].kind {
            AccumulatorKind::Sessions { .. } => i64::MIN,
            _ => aggregate.window.bounds(as_of_us).0,
        };
        let held = &mut needed[aggregate.accumulator];
        *held = start_us.min(*held);
    }
    needed
}

fn need_raw(tile: &crate::state::key::Tile) -> Result<()> {
    match tile.raw.is_empty() {
        true => Err(Error::codec(format!("the tile at {} is needed and missing", tile.start_us))),
        false => Ok(()),
    }
}

/// Whether state reached far enough back to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// A row was pushed.
    Answered,
    /// A window, or T itself, lies below a partial's floor: nothing was pushed, only the archive can answer.
    BelowFloor,
}

/// Rows of aggregates, one per (entity, T), as `finalize` takes them.
#[derive(Debug, Clone, PartialEq)]
pub struct AggregateBatch {
    /// The instant of each row.
    pub as_of_us: Vec<i64>,
    /// The aggregates, in declared order; nulls in rows that were not found.
    pub columns: Vec<Column>,
    /// Whether an event before T carries the key.
    pub found: Vec<bool>,
    /// The newest contribution before T.
    pub newest_us: Vec<Option<i64>>,
}

impl AggregateBatch {
    /// No rows.
    pub fn new(plan: &Plan) -> Self {
        let column = |aggregate: &crate::plan::AggregatePlan| {
            let slot = plan.accumulators[aggregate.accumulator].slot_type;
            Column::new(&aggregate.operator.output_type(slot))
        };
        Self {
            as_of_us: Vec::new(),
            columns: plan.aggregates.iter().map(column).collect(),
            found: Vec::new(),
            newest_us: Vec::new(),
        }
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.as_of_us.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.as_of_us.is_empty()
    }

    /// Appends the row of an entity at T from what the source partitions hold of it.
    ///
    /// `ranks` are the distributions of the plan's globals at T, in their order. A tile that T or a window cuts
    /// and that is not at hand (see [`tiles_needed`]) is an error; no row is appended then.
    pub fn push(
        &mut self,
        plan: &Plan,
        as_of_us: i64,
        partials: &[Partial],
        ranks: &[Arc<Distribution>],
    ) -> Result<Reach> {
        if partials.iter().any(|partial| partial.as_of_us.is_some_and(|only_us| only_us != as_of_us)) {
            return Err(Error::malformed(
                "read",
                format!("a partial decoded for another instant is read at {as_of_us}"),
            ));
        }
        // A partition whose first event of the key comes later knows nothing of it yet.
        let known: Vec<&Partial> = partials.iter().filter(|partial| partial.key.first_us < as_of_us).collect();
        if known.is_empty() {
            self.push_not_found(as_of_us);
            return Ok(Reach::Answered);
        }
        if known.iter().any(|partial| !plan.reaches(partial.floor_us(), as_of_us)) {
            return Ok(Reach::BelowFloor);
        }
        let mut newest_us = None;
        for partial in &known {
            newest_us = newest_us.max(partial.newest_before(plan, as_of_us)?);
        }
        let folds: Vec<Fold<'_>> = plan
            .aggregates
            .iter()
            .map(|aggregate| Fold::of(plan, aggregate, as_of_us, &known))
            .collect::<Result<_>>()?;
        for ((fold, aggregate), column) in folds.into_iter().zip(&plan.aggregates).zip(&mut self.columns) {
            let rank = match aggregate.global {
                Some(global) => Some(ranks.get(global).ok_or_else(|| {
                    Error::malformed("read", format!("the distribution of global {global} is not given"))
                })?),
                None => None,
            };
            fold.finish(plan, aggregate, as_of_us, rank.map(Arc::as_ref), column);
        }
        self.as_of_us.push(as_of_us);
        self.found.push(true);
        self.newest_us.push(newest_us);
        Ok(Reach::Answered)
    }

    /// Appends the row of an entity that no event before T carries.
    pub fn push_not_found(&mut self, as_of_us: i64) {
        self.as_of_us.push(as_of_us);
        self.found.push(false);
        self.newest_us.push(None);
        for column in &mut self.columns {
            column.push_null();
        }
    }
}
