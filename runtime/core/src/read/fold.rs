//! One aggregate over one window, folded from the partials of all source partitions.

use super::seen::Seen;
use super::{Partial, need_raw};
use crate::Result;
use crate::accumulator::distinct::{LeastHashes, hash_of};
use crate::accumulator::exact_sum::ExactSum;
use crate::accumulator::last::Last;
use crate::accumulator::moments::Moments;
use crate::accumulator::quantile::{Sketch, bucket_of_word};
use crate::accumulator::sessions::{Session, Sessions};
use crate::accumulator::value_counts::ValueCounts;
use crate::accumulator::{Accumulator, cap, end, gap_us};
use crate::column::{Column, Strings, Values};
use crate::global::Distribution;
use crate::plan::{AccumulatorDef, AccumulatorKind, AggregatePlan, Plan};
use crate::view::{Operator, SlotType};

/// What has been gathered of an aggregate. Strings are borrowed from the partials.
pub(super) enum Fold<'a> {
    Count(u64),
    Sum {
        sum: ExactSum,
        count: u64,
    },
    ValueCounts(Vec<(&'a [u8], u64)>),
    Last(Option<(Last, &'a Strings)>),
    LastTime(Option<i64>),
    Sessions(Vec<Session>),
    Extreme(Option<u64>),
    Moments(Box<Moments>),
    Quantile(Sketch),
    /// Of distinct values and capped sets of them.
    Values(Seen<'a>),
    LeastHashes(LeastHashes),
}

impl<'a> Fold<'a> {
    /// Folds `aggregate` at T over the partials.
    pub(super) fn of(plan: &Plan, aggregate: &AggregatePlan, as_of_us: i64, partials: &[&'a Partial]) -> Result<Self> {
        let def = &plan.accumulators[aggregate.accumulator];
        let (start_us, end_us) = match def.kind {
            // A session belongs to a window by its end, but is made of all contributions before T.
            AccumulatorKind::Sessions { .. } => (i64::MIN, as_of_us),
            _ => aggregate.window.bounds(as_of_us),
        };
        let mut fold = match def.kind {
            AccumulatorKind::Count => Fold::Count(0),
            AccumulatorKind::Sum => Fold::Sum { sum: ExactSum::new(), count: 0 },
            AccumulatorKind::ValueCounts => Fold::ValueCounts(Vec::new()),
            AccumulatorKind::Last => Fold::Last(None),
            AccumulatorKind::LastTime => Fold::LastTime(None),
            AccumulatorKind::Sessions { .. } => Fold::Sessions(Vec::new()),
            AccumulatorKind::Min | AccumulatorKind::Max => Fold::Extreme(None),
            AccumulatorKind::Moments => Fold::Moments(Box::default()),
            AccumulatorKind::Quantile => Fold::Quantile(Sketch::new()),
            AccumulatorKind::Distinct | AccumulatorKind::LeastValues { .. } => Fold::Values(Seen::default()),
            AccumulatorKind::LeastHashes { .. } => Fold::LeastHashes(LeastHashes::default()),
        };
        for partial in partials {
            fold.add_partial(plan, def, aggregate.accumulator, (start_us, end_us), partial)?;
        }
        Ok(fold)
    }

    fn add_partial(
        &mut self,
        plan: &Plan,
        def: &AccumulatorDef,
        accumulator: usize,
        (start_us, end_us): (i64, i64),
        partial: &'a Partial,
    ) -> Result<()> {
        if start_us == i64::MIN
            && def.in_base
            && let Some(base) = &partial.key.base
        {
            let place = plan.accumulators[..accumulator].iter().filter(|before| before.in_base).count();
            self.merge(def, &base[place], &partial.strings);
        }
        let tiles = &partial.key.tiles;
        let from = tiles.partition_point(|tile| tile.start_us.saturating_add(plan.tile_us) <= start_us);
        for (place, tile) in tiles.iter().enumerate().skip(from).take_while(|(_, tile)| tile.start_us < end_us) {
            let inside = start_us <= tile.start_us && tile.newest_us < end_us;
            match &tile.totals {
                Some(totals) if inside => self.merge(def, &totals[accumulator], &partial.strings),
                _ => {
                    need_raw(tile)?;
                    let strings = partial.strings_of(place);
                    let layout = &plan.layout;
                    let offset = |edge_us: i64| edge_us.saturating_sub(tile.start_us).max(0) as u64;
                    let first = if start_us <= tile.start_us { 0 } else { layout.before(&tile.raw, offset(start_us)) };
                    let last = if inside { tile.count as usize } else { layout.before(&tile.raw, offset(end_us)) };
                    for record in layout.records(&tile.raw[first * layout.width..last.max(first) * layout.width]) {
                        if layout.mask(record) >> def.slot & 1 == 1 {
                            let time_us = tile.start_us.wrapping_add(layout.offset_us(record) as i64);
                            let (id, word) = (layout.id(record), layout.value(record, def.slot));
                            self.add(def, Last { time_us, id, word }, strings);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    #[inline]
    fn add(&mut self, def: &AccumulatorDef, input: Last, strings: &'a Strings) {
        match self {
            Fold::Count(count) => *count += 1,
            Fold::Sum { sum, count } => {
                match def.slot_type {
                    SlotType::F64 => sum.add(f64::from_bits(input.word)),
                    _ => sum.add_i64(input.word as i64),
                }
                *count += 1;
            }
            Fold::ValueCounts(counts) => counts.push((strings.get(input.word as usize), 1)),
            Fold::Last(held) => offer(held, (input, strings), def.slot_type),
            Fold::LastTime(time) => *time = (*time).max(Some(input.time_us)),
            Fold::Sessions(parts) => parts.push(Session::of(input.time_us)),
            Fold::Extreme(held) => end(def).offer(def.slot_type, held, input.word),
            Fold::Moments(moments) => moments.add_word(def.slot_type, input.word),
            Fold::Quantile(sketch) => sketch.add(bucket_of_word(def.slot_type, input.word), 1),
            Fold::Values(seen) => seen.add(input.word as u32, strings),
            Fold::LeastHashes(hashes) => hashes.add(hash_of(strings.get(input.word as usize)), cap(def)),
        }
    }

    fn merge(&mut self, def: &AccumulatorDef, held: &Accumulator, strings: &'a Strings) {
        match (self, held) {
            (Fold::Count(count), Accumulator::Count(more)) => *count = count.saturating_add(*more),
            (Fold::Sum { sum, count }, Accumulator::Sum { sum: more_sum, count: more }) => {
                sum.merge(more_sum);
                *count = count.saturating_add(*more);
            }
            (Fold::ValueCounts(counts), Accumulator::ValueCounts(more)) => {
                counts.extend(more.as_slice().iter().map(|&(code, count)| (strings.get(code as usize), count)));
            }
            (Fold::Last(held), Accumulator::Last(Some(last))) => offer(held, (*last, strings), def.slot_type),
            (Fold::LastTime(time), Accumulator::LastTime(more)) => *time = (*time).max(*more),
            (Fold::Sessions(parts), Accumulator::Sessions(more)) => parts.extend_from_slice(more.as_slice()),
            (Fold::Extreme(held), Accumulator::Extreme(Some(word))) => end(def).offer(def.slot_type, held, *word),
            (Fold::Moments(moments), Accumulator::Moments(more)) => moments.merge(more),
            (Fold::Quantile(sketch), Accumulator::Quantile(more)) => sketch.merge(more),
            (Fold::Values(seen), Accumulator::Distinct(more)) => {
                more.0.iter().for_each(|&code| seen.add(code, strings));
            }
            (Fold::Values(seen), Accumulator::LeastValues(more)) => {
                more.0.iter().for_each(|&code| seen.add(code, strings));
            }
            (Fold::LeastHashes(hashes), Accumulator::LeastHashes(more)) => hashes.merge(more, cap(def)),
            // What is left has no value yet; kinds never differ, both come from the same definition.
            _ => {}
        }
    }

    /// Appends the aggregate's value to its column.
    pub(super) fn finish(
        self,
        plan: &Plan,
        aggregate: &AggregatePlan,
        as_of_us: i64,
        rank: Option<&Distribution>,
        column: &mut Column,
    ) {
        let def = &plan.accumulators[aggregate.accumulator];
        match self {
            Fold::Count(count) => match rank {
                Some(distribution) => column.push_f64(distribution.rank(count)),
                None => column.push_i64(saturated(count)),
            },
            Fold::Sum { sum, count } => match (aggregate.operator, sum.round()) {
                (_, None) => column.push_null(),
                (Operator::Mean, _) if count == 0 => column.push_null(),
                (Operator::Mean, Some(rounded)) => column.push_f64(rounded / count as f64),
                (_, Some(rounded)) => column.push_f64(rounded),
            },
            Fold::ValueCounts(counts) => match aggregate.operator {
                Operator::TopK { k } => push_list(column, &top(counts, k)),
                _ => column.push_null(),
            },
            Fold::Last(None) | Fold::LastTime(None) | Fold::Extreme(None) => column.push_null(),
            Fold::Last(Some((last, strings))) => match def.slot_type {
                SlotType::Mark | SlotType::Bool => column.push_bool(last.word != 0),
                SlotType::I64 | SlotType::Timestamp => column.push_i64(last.word as i64),
                SlotType::F64 => column.push_f64(f64::from_bits(last.word)),
                SlotType::Utf8 => column.push_bytes(strings.get(last.word as usize)),
            },
            Fold::Extreme(Some(word)) => match def.slot_type {
                SlotType::F64 => column.push_f64(f64::from_bits(word)),
                _ => column.push_i64(word as i64),
            },
            Fold::Moments(moments) => push_f64(
                column,
                match aggregate.operator {
                    Operator::Variance => moments.variance(),
                    _ => moments.stddev(),
                },
            ),
            Fold::Quantile(sketch) => match aggregate.operator {
                Operator::Quantile { ppm } => push_f64(column, sketch.quantile(ppm)),
                _ => column.push_null(),
            },
            Fold::Values(seen) => match aggregate.operator {
                Operator::CollectSet { k } => push_list(column, &seen.least(k)),
                _ => column.push_i64(seen.count() as i64),
            },
            Fold::LeastHashes(hashes) => column.push_i64(hashes.count(cap(def))),
            Fold::LastTime(Some(time_us)) => column.push_i64(time_us),
            Fold::Sessions(parts) => {
                let (start_us, end_us) = aggregate.window.bounds(as_of_us);
                let sessions = Sessions::from_unsorted(parts, gap_us(def));
                let ended = sessions.as_slice().iter().filter(|session| (start_us..end_us).contains(&session.end_us));
                column.push_i64(match aggregate.operator {
                    Operator::SessionDurationSum { .. } => {
                        let total: i128 = ended.map(|held| i128::from(held.end_us) - i128::from(held.start_us)).sum();
                        i64::try_from(total).unwrap_or(i64::MAX)
                    }
                    _ => ended.count() as i64,
                });
            }
        }
    }
}

fn offer<'a>(held: &mut Option<(Last, &'a Strings)>, candidate: (Last, &'a Strings), slot: SlotType) {
    if held.is_none_or(|(last, strings)| candidate.0.compare(candidate.1, &last, strings, slot).is_gt()) {
        *held = Some(candidate);
    }
}

fn saturated(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The most frequent values of counts that may name a value several times.
fn top(mut parts: Vec<(&[u8], u64)>, k: usize) -> Vec<&[u8]> {
    parts.sort_unstable();
    let mut counts = ValueCounts(parts);
    counts.0.dedup_by(|later, kept| {
        let same = later.0 == kept.0;
        if same {
            kept.1 = kept.1.saturating_add(later.1);
        }
        same
    });
    counts.top(k)
}

fn push_f64(column: &mut Column, value: Option<f64>) {
    match value {
        Some(value) => column.push_f64(value),
        None => column.push_null(),
    }
}

/// Appends a list of strings to a column of such lists.
fn push_list(column: &mut Column, values: &[&[u8]]) {
    if let Values::List { offsets, child } = &mut column.values {
        for value in values {
            child.push_bytes(value);
        }
        offsets.push(child.len() as u32);
    }
    column.mark_valid();
}
