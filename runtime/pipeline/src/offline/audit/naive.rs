//! Aggregates by their definitions: every row scans its entity's past. Slow, and simple enough to be believed.

use super::history::key_at;
use hashbrown::HashMap;
use num_bigint::{BigInt, Sign};
use plumb_core::column::{Column, Values};
use plumb_core::entity::EntityKey;
use plumb_core::event::EventBatch;
use plumb_core::view::{AggregateDef, Operator, SlotType, WindowSpec};
use plumb_transform::Transform;
use rustc_hash::FxBuildHasher;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

/// One value that an event put into a slot.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Present,
    Integer(i64),
    Float(f64),
    Truth(bool),
    Text(Box<[u8]>),
}

#[derive(Debug, Clone)]
struct Point {
    time_us: i64,
    /// When the event was ingested.
    known_us: i64,
    id: Option<Box<[u8]>>,
    value: Value,
}

/// Which events a row sees: those that happened before an instant, and were ingested before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sight {
    /// T: windows end here.
    pub(super) as_of_us: i64,
    /// `i64::MAX` = it does not matter when an event was ingested.
    pub(super) known_before_us: i64,
}

impl Sight {
    fn sees(self, time_us: i64, known_us: i64) -> bool {
        time_us < self.as_of_us && (self.known_before_us == i64::MAX || known_us < self.known_before_us)
    }

    /// What it sees of points that rise in time.
    fn of(self, points: &[Point]) -> Cow<'_, [Point]> {
        let before = &points[..points.partition_point(|point| point.time_us < self.as_of_us)];
        if self.known_before_us == i64::MAX {
            return Cow::Borrowed(before);
        }
        Cow::Owned(before.iter().filter(|point| self.sees(point.time_us, point.known_us)).cloned().collect())
    }
}

/// What one entity did.
#[derive(Debug, Clone, Default)]
struct Entity {
    /// Times of all accepted events that carry its key, and when they were ingested.
    seen_us: Vec<(i64, i64)>,
    /// Per slot, what was put into it.
    slots: Vec<Vec<Point>>,
}

/// The past of a view's entities, as far as some rows ask for it.
#[derive(Debug)]
pub(super) struct Past<'a> {
    transform: &'a Transform,
    /// Each row's entity key; `None` if it is null.
    row_keys: Vec<Option<EntityKey>>,
    entities: HashMap<EntityKey, Entity, FxBuildHasher>,
    /// Whether ids matter: some aggregate takes the last of several values.
    ordered_by_id: bool,
    ranked: &'a Ranked,
}

/// A contribution that ranks: its time, when it was ingested, and its key by number.
type Standing = (i64, i64, u32);

/// A slot, and the start and end of a window.
type SlotWindow = (usize, Option<i64>, i64);

/// How many entities have fewer contributions than some number: each number there is, and the entities before.
type Fewer = (Vec<(u64, u64)>, u64);

/// What all entities put into the slots that a view ranks.
#[derive(Debug, Default)]
pub(super) struct Ranked {
    keys: HashMap<EntityKey, u32, FxBuildHasher>,
    slots: BTreeMap<usize, Vec<Standing>>,
    /// By slot and window, where it does not matter when events were ingested.
    known: Mutex<HashMap<SlotWindow, Arc<Fewer>, FxBuildHasher>>,
}

impl Ranked {
    /// Nothing yet, of the slots that a view ranks.
    pub(super) fn new(transform: &Transform) -> Self {
        let ranks = transform.def().aggregates.iter().filter(|a| a.operator == Operator::RelativeRank);
        Self { slots: ranks.map(|aggregate| (aggregate.slot, Vec::new())).collect(), ..Self::default() }
    }

    /// Whether nothing is ranked.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Takes in a batch of accepted events.
    pub(super) fn add(&mut self, transform: &Transform, batch: &EventBatch) {
        if self.is_empty() {
            return;
        }
        let columns: Vec<&Column> = transform.key_columns().iter().map(|&at| &batch.columns[at]).collect();
        let contributions = transform.extract(batch).contributions;
        for (&slot, standings) in &mut self.slots {
            let (column, slot_type) = (&contributions.slots[slot], transform.def().slots[slot].slot_type);
            for (index, &event) in contributions.rows.iter().enumerate() {
                let event = event as usize;
                let (Some(key), Some(_)) = (key_at(&columns, event), value_at(column, index, slot_type)) else {
                    continue;
                };
                let next = self.keys.len() as u32;
                let number = *self.keys.entry(key).or_insert(next);
                standings.push((batch.times_us[event], batch.record_times_us[event], number));
            }
        }
    }

    /// Orders everything by time.
    pub(super) fn sort(&mut self) {
        self.slots.values_mut().for_each(|standings| standings.sort_by_key(|standing| standing.0));
    }

    /// How many entities have fewer contributions than others in a window, as far as it is seen.
    fn fewer(&self, slot: usize, start_us: Option<i64>, sight: Sight) -> Arc<Fewer> {
        let window = (slot, start_us, sight.as_of_us);
        let matters = sight.known_before_us != i64::MAX;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fewer) = known.get(&window).filter(|_| !matters) {
            return fewer.clone();
        }
        drop(known);
        let all = &self.slots[&slot];
        let from = start_us.map_or(0, |start_us| all.partition_point(|standing| standing.0 < start_us));
        let to = all.partition_point(|standing| standing.0 < sight.as_of_us);
        let mut counts: HashMap<u32, u64, FxBuildHasher> = HashMap::default();
        let seen = all[from..to].iter().filter(|&&(time_us, known_us, _)| sight.sees(time_us, known_us));
        seen.for_each(|&(.., key)| *counts.entry(key).or_default() += 1);
        let mut entities: BTreeMap<u64, u64> = BTreeMap::new();
        counts.values().for_each(|&count| *entities.entry(count).or_default() += 1);
        let mut before = 0;
        let fewer = entities.into_iter().map(|(count, entities)| {
            before += entities;
            (count, before - entities)
        });
        let fewer = Arc::new((fewer.collect::<Vec<_>>(), counts.len() as u64));
        if !matters {
            known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(window, fewer.clone());
        }
        fewer
    }
}

impl<'a> Past<'a> {
    /// Nothing yet; row `i` asks for the key `row_keys[i]`.
    pub(super) fn new(transform: &'a Transform, ranked: &'a Ranked, row_keys: Vec<Option<EntityKey>>) -> Self {
        let slots = transform.def().slots.len();
        let mut entities: HashMap<EntityKey, Entity, FxBuildHasher> = HashMap::default();
        for key in row_keys.iter().flatten() {
            entities
                .entry(key.clone())
                .or_insert_with(|| Entity { seen_us: Vec::new(), slots: vec![Vec::new(); slots] });
        }
        let ordered_by_id = transform.def().aggregates.iter().any(|aggregate| aggregate.operator == Operator::Last);
        Self { transform, row_keys, entities, ordered_by_id, ranked }
    }

    /// Takes in a batch of accepted events.
    pub(super) fn add(&mut self, batch: &EventBatch) {
        let columns: Vec<&Column> = self.transform.key_columns().iter().map(|&at| &batch.columns[at]).collect();
        let keys: Vec<Option<EntityKey>> = (0..batch.len()).map(|row| key_at(&columns, row)).collect();
        let mut asked = false;
        for (key, seen_us) in keys.iter().zip(batch.times_us.iter().zip(&batch.record_times_us)) {
            if let Some(entity) = key.as_ref().and_then(|key| self.entities.get_mut(key)) {
                entity.seen_us.push((*seen_us.0, *seen_us.1));
                asked = true;
            }
        }
        if !asked {
            return;
        }
        let contributions = self.transform.extract(batch).contributions;
        for (slot, (column, def)) in contributions.slots.iter().zip(&self.transform.def().slots).enumerate() {
            for (index, &event) in contributions.rows.iter().enumerate() {
                let event = event as usize;
                let (Some(key), Some(value)) = (&keys[event], value_at(column, index, def.slot_type)) else { continue };
                let (time_us, known_us) = (batch.times_us[event], batch.record_times_us[event]);
                if let Some(entity) = self.entities.get_mut(key) {
                    let id = self.ordered_by_id.then(|| batch.columns[0].str_bytes(event)).flatten().map(Into::into);
                    entity.slots[slot].push(Point { time_us, known_us, id, value });
                }
            }
        }
    }

    /// Orders everything by time, so that a row's past is a prefix.
    pub(super) fn sort(&mut self) {
        for entity in self.entities.values_mut() {
            entity.seen_us.sort_unstable();
            entity.slots.iter_mut().for_each(|points| points.sort_by_key(|point| point.time_us));
        }
    }

    fn entity(&self, row: usize) -> Option<&Entity> {
        self.entities.get(self.row_keys[row].as_ref()?)
    }

    /// Whether any accepted event that is seen carries the row's key.
    pub(super) fn is_found(&self, row: usize, sight: Sight) -> bool {
        self.entity(row).is_some_and(|entity| entity.seen_us.iter().any(|&(time, known)| sight.sees(time, known)))
    }

    /// The newest contribution that is seen.
    pub(super) fn newest_us(&self, row: usize, sight: Sight) -> Option<i64> {
        let entity = self.entity(row)?;
        let newest = |points: &Vec<Point>| sight.of(points).last().map(|point| point.time_us);
        entity.slots.iter().filter_map(newest).max()
    }

    /// A scan by one thread.
    pub(super) fn scan(&self) -> Scan<'_> {
        let def = self.transform.def();
        let columns = def
            .aggregates
            .iter()
            .map(|aggregate| Column::new(&aggregate.operator.output_type(def.slots[aggregate.slot].slot_type)));
        Scan { past: self, columns: columns.collect() }
    }
}

fn value_at(column: &Column, row: usize, slot_type: SlotType) -> Option<Value> {
    if !column.is_valid(row) {
        return None;
    }
    match &column.values {
        Values::Bool(v) if slot_type == SlotType::Mark => (v[row] != 0).then_some(Value::Present),
        Values::Bool(v) => Some(Value::Truth(v[row] != 0)),
        Values::I64(v) | Values::Timestamp(v) => Some(Value::Integer(v[row])),
        Values::F64(v) => v[row].is_finite().then_some(Value::Float(v[row])),
        Values::Utf8(v) | Values::Bytes(v) => Some(Value::Text(v.get(row).into())),
        Values::List { .. } => None,
    }
}

/// Computes rows of aggregates.
#[derive(Debug)]
pub(super) struct Scan<'a> {
    past: &'a Past<'a>,
    columns: Vec<Column>,
}

impl Scan<'_> {
    /// Appends the aggregates of a row whose key is found.
    pub(super) fn aggregate(&mut self, row: usize, sight: Sight) {
        let past = self.past;
        let as_of_us = sight.as_of_us;
        let Some(entity) = past.entity(row) else { return };
        for (index, aggregate) in past.transform.def().aggregates.iter().enumerate() {
            let past_of_slot = sight.of(&entity.slots[aggregate.slot]);
            let (start_us, end_us) = edges(aggregate.window, as_of_us);
            let inside: Vec<&Point> = past_of_slot
                .iter()
                .rev()
                .skip_while(|point| point.time_us >= end_us)
                .take_while(|point| start_us.is_none_or(|start_us| point.time_us >= start_us))
                .collect();
            let column = &mut self.columns[index];
            match aggregate.operator {
                Operator::Count => column.push_i64(inside.len() as i64),
                Operator::Sum => push_float(column, exact_sum(&inside)),
                Operator::Mean if inside.is_empty() => column.push_null(),
                Operator::Mean => push_float(column, exact_sum(&inside).map(|sum| sum / inside.len() as f64)),
                Operator::TopK { k } => push_most_frequent(column, &inside, k),
                Operator::Last => push_newest(column, &inside),
                Operator::LastTime => match inside.iter().map(|point| point.time_us).max() {
                    Some(time_us) => column.push_i64(time_us),
                    None => column.push_null(),
                },
                Operator::SessionCount { gap_us } | Operator::SessionDurationSum { gap_us } => {
                    let sessions = sessions(&past_of_slot, gap_us);
                    let ending = sessions
                        .iter()
                        .filter(|&&(_, end)| end < end_us && start_us.is_none_or(|start_us| end >= start_us));
                    column.push_i64(match aggregate.operator {
                        Operator::SessionCount { .. } => ending.count() as i64,
                        _ => ending.map(|(start, end)| end - start).sum(),
                    });
                }
                Operator::Min | Operator::Max => {
                    let by_value = |a: &&&Point, b: &&&Point| order_of_values(&a.value, &b.value);
                    let inside = inside.iter();
                    let outermost = match aggregate.operator {
                        Operator::Min => inside.min_by(by_value),
                        _ => inside.max_by(by_value),
                    };
                    push_value(column, outermost.map(|point| &point.value));
                }
                Operator::Variance => push_float(column, spread(&inside, false)),
                Operator::StdDev => push_float(column, spread(&inside, true)),
                Operator::Quantile { ppm } => push_float(column, quantile(&inside, ppm)),
                Operator::CountDistinct => column.push_i64(texts(&inside).len() as i64),
                Operator::ApproxDistinct { k } => column.push_i64(about_how_many(&texts(&inside), k)),
                Operator::CollectSet { k } => push_texts(column, texts(&inside).into_iter().take(k)),
                Operator::RelativeRank => {
                    let sight = Sight { as_of_us: end_us, ..sight };
                    column.push_f64(relative_rank(past.ranked, aggregate, start_us, sight, inside.len() as u64));
                }
            }
        }
    }

    /// The rows computed, one column per aggregate.
    pub(super) fn into_columns(self) -> Vec<Column> {
        self.columns
    }
}

/// The event times a window sees at T: from (nothing = from ever), and up to but not including.
fn edges(window: WindowSpec, as_of_us: i64) -> (Option<i64>, i64) {
    let aligned = |time_us: i64, hop_us: i64| time_us - time_us.rem_euclid(hop_us);
    match window {
        WindowSpec::Lifetime => (None, as_of_us),
        WindowSpec::Sliding { width_us, hop_us: None } => (as_of_us.checked_sub(width_us), as_of_us),
        WindowSpec::Sliding { width_us, hop_us: Some(hop_us) } => {
            (as_of_us.checked_sub(width_us).map(|start_us| aligned(start_us, hop_us)), as_of_us)
        }
        WindowSpec::Hopping { width_us, hop_us } => {
            let end_us = aligned(as_of_us, hop_us);
            (end_us.checked_sub(width_us), end_us)
        }
    }
}

/// The exact sum as `numerator / 2^1074`, rounded once.
fn exact_sum(points: &[&Point]) -> Option<f64> {
    round(&points.iter().map(|point| scaled(&point.value)).sum())
}

/// `numerator / 2^1074` as the nearest f64, ties to even; `None` beyond f64.
fn round(numerator: &BigInt) -> Option<f64> {
    let (sign, magnitude) = (numerator.sign(), numerator.magnitude());
    let cut = magnitude.bits().saturating_sub(53);
    let quotient = magnitude >> cut;
    let rest = magnitude - (&quotient << cut);
    let twice = rest << 1u32;
    let unit = num_bigint::BigUint::from(1u32) << cut;
    let kept = quotient.iter_u64_digits().next().unwrap_or(0);
    let up = twice > unit || (twice == unit && cut > 0 && kept % 2 == 1);
    let kept = kept + u64::from(up);
    // kept × 2^(cut - 1074), built from its fields: 2^53 carries into the exponent by itself.
    if cut > 2045 {
        return None;
    }
    let value = f64::from_bits((cut << 52) + kept);
    value.is_finite().then_some(if sign == Sign::Minus { -value } else { value })
}

fn push_float(column: &mut Column, value: Option<f64>) {
    match value {
        Some(value) => column.push_f64(value),
        None => column.push_null(),
    }
}

fn push_most_frequent(column: &mut Column, points: &[&Point], k: usize) {
    let mut counts: BTreeMap<&[u8], u64> = BTreeMap::new();
    for point in points {
        if let Value::Text(text) = &point.value {
            *counts.entry(text).or_default() += 1;
        }
    }
    let mut ordered: Vec<(&[u8], u64)> = counts.into_iter().collect();
    // Stable, and the map was in the order of bytes.
    ordered.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    push_texts(column, ordered.into_iter().take(k).map(|(text, _)| text));
}

fn push_texts<'a>(column: &mut Column, texts: impl Iterator<Item = &'a [u8]>) {
    if let Values::List { offsets, child } = &mut column.values {
        texts.for_each(|text| child.push_bytes(text));
        offsets.push(child.len() as u32);
    }
    column.mark_valid();
}

/// The distinct texts, ascending.
fn texts<'a>(points: &[&'a Point]) -> BTreeSet<&'a [u8]> {
    let text = |point: &&'a Point| match &point.value {
        Value::Text(text) => Some(&**text),
        _ => None,
    };
    points.iter().filter_map(text).collect()
}

/// The number of texts: exact up to `k`, else by how small the `k + 1` smallest of their hashes are.
fn about_how_many(texts: &BTreeSet<&[u8]>, k: usize) -> i64 {
    if texts.len() <= k {
        return texts.len() as i64;
    }
    let mut hashes: Vec<u64> = texts.iter().map(|text| mixed(text)).collect();
    hashes.sort_unstable();
    let all = u128::from(u64::MAX) + 1;
    i64::try_from(k as u128 * all / (u128::from(hashes[k]) + 1)).unwrap_or(i64::MAX)
}

/// FNV-1a, then the last steps of SplitMix64.
fn mixed(text: &[u8]) -> u64 {
    let mut hash: u64 = 14_695_981_039_346_656_037;
    for &byte in text {
        hash = (hash ^ u64::from(byte)).wrapping_mul(1_099_511_628_211);
    }
    for (shift, factor) in [(30, 13_787_848_793_156_543_929), (27, 10_723_151_780_598_845_931)] {
        hash = (hash ^ hash >> shift).wrapping_mul(factor);
    }
    hash ^ hash >> 31
}

/// A number as a multiple of 2^-1074.
fn scaled(value: &Value) -> BigInt {
    match value {
        Value::Integer(value) => BigInt::from(*value) << 1074,
        Value::Float(value) => {
            let (exponent, fraction) = (value.to_bits() >> 52 & 0x7ff, value.to_bits() & ((1 << 52) - 1));
            let magnitude = match exponent {
                0 => BigInt::from(fraction),
                _ => BigInt::from(fraction + (1 << 52)) << (exponent - 1),
            };
            if *value < 0.0 { -magnitude } else { magnitude }
        }
        _ => BigInt::default(),
    }
}

/// The sample variance Σ(x − mean)² / (n − 1), or its root, rounded once; of integers: n x − Σx is n times x − mean.
fn spread(points: &[&Point], root: bool) -> Option<f64> {
    let count = BigInt::from(points.len());
    if points.len() < 2 {
        return None;
    }
    let values: Vec<BigInt> = points.iter().map(|point| scaled(&point.value)).collect();
    let sum: BigInt = values.iter().sum();
    let squares: BigInt = values.iter().map(|value| (value * &count - &sum).pow(2)).sum();
    let below: BigInt = &count * &count * (&count - 1);
    // Units of 2^-2148 for the variance and of 2^-1074 for the root, and of far smaller ones to round from; a last
    // bit that is set stands for everything cut off.
    const MORE: u32 = 1_200;
    let fine = |above: BigInt| {
        let cut = &above / &below;
        let rest = &cut * &below != above;
        (cut, rest)
    };
    let (numerator, rest, scale) = match root {
        true => {
            let (cut, rest) = fine(squares << (2 * MORE));
            let whole = cut.sqrt();
            let rest = rest || whole.pow(2) != cut;
            (whole, rest, MORE)
        }
        false => {
            let (cut, rest) = fine(squares << MORE);
            (cut, rest, MORE + 1074)
        }
    };
    round_scaled((numerator << 1u32) + u32::from(rest), scale + 1)
}

/// `numerator / 2^(1074 + scale)`, not negative, as the nearest f64, ties to even; `None` beyond f64.
fn round_scaled(numerator: BigInt, scale: u32) -> Option<f64> {
    // The last bit that an f64 of this size keeps: 53 bits, but none below 2^-1074.
    let unit = numerator.bits().saturating_sub(53).max(u64::from(scale));
    let kept = &numerator >> unit;
    let twice_rest = (&numerator - (&kept << unit)) << 1u32;
    let one = BigInt::from(1u32) << unit;
    let up = twice_rest > one || (twice_rest == one && kept.bit(0));
    round(&((kept + u32::from(up)) << (unit - u64::from(scale))))
}

/// The value at rank ceil(n × ppm / 1,000,000), seen as the middle of its bucket: 64 equal ones in each octave.
fn quantile(points: &[&Point], ppm: u32) -> Option<f64> {
    let mut values: Vec<f64> = points
        .iter()
        .filter_map(|point| match point.value {
            Value::Integer(value) => Some(value as f64),
            Value::Float(value) => Some(value),
            _ => None,
        })
        .collect();
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as u128 * u128::from(ppm)).div_ceil(1_000_000) as usize;
    let value = *values.get(rank.checked_sub(1)?)?;
    if value == 0.0 {
        return Some(0.0);
    }
    // In units of 2^-1081, in which the buckets of the smallest numbers are whole too.
    let magnitude = scaled(&Value::Float(value.abs())) << 7u32;
    let width = BigInt::from(1u32) << (magnitude.bits() - 7);
    let middle = (&magnitude / &width * &width) + (&width >> 1u32);
    round(&(middle >> 7u32)).map(|middle| middle.copysign(value))
}

fn push_newest(column: &mut Column, points: &[&Point]) {
    let newest = points
        .iter()
        .max_by(|a, b| (a.time_us, &a.id).cmp(&(b.time_us, &b.id)).then_with(|| order_of_values(&a.value, &b.value)));
    push_value(column, newest.map(|point| &point.value));
}

/// Numbers by size, floats in their total order, texts by their bytes.
fn order_of_values(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Integer(a), Value::Integer(b)) => a.cmp(b),
        (Value::Float(a), Value::Float(b)) => a.total_cmp(b),
        (Value::Truth(a), Value::Truth(b)) => a.cmp(b),
        (Value::Text(a), Value::Text(b)) => a.cmp(b),
        _ => Ordering::Equal,
    }
}

fn push_value(column: &mut Column, value: Option<&Value>) {
    match value {
        None => column.push_null(),
        Some(Value::Present) => column.push_bool(true),
        Some(Value::Integer(value)) => column.push_i64(*value),
        Some(Value::Float(value)) => column.push_f64(*value),
        Some(Value::Truth(value)) => column.push_bool(*value),
        Some(Value::Text(text)) => column.push_bytes(text),
    }
}

/// The first and last times of each run without a gap above `gap_us`.
fn sessions(points: &[Point], gap_us: i64) -> Vec<(i64, i64)> {
    let runs = points.chunk_by(|a, b| b.time_us - a.time_us <= gap_us);
    runs.map(|run| (run[0].time_us, run[run.len() - 1].time_us)).collect()
}

fn relative_rank(ranked: &Ranked, aggregate: &AggregateDef, start_us: Option<i64>, sight: Sight, own: u64) -> f64 {
    if own == 0 {
        return 0.0;
    }
    let fewer = ranked.fewer(aggregate.slot, start_us, sight);
    let (counts, entities) = &*fewer;
    match entities {
        1 => 1.0,
        _ => {
            counts.iter().find(|(count, _)| *count >= own).map_or(*entities, |&(_, before)| before) as f64
                / (entities - 1) as f64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_round_once() {
        let sum = |values: &[f64]| {
            let points: Vec<Point> = values
                .iter()
                .map(|&value| Point { time_us: 0, known_us: 0, id: None, value: Value::Float(value) })
                .collect();
            exact_sum(&points.iter().collect::<Vec<_>>())
        };
        assert_eq!(sum(&[0.1, 0.2, 0.3]).map(f64::to_bits), Some(0.6f64.to_bits()));
        assert_eq!(sum(&[]).map(f64::to_bits), Some(0));
        assert_eq!(sum(&[-0.0]).map(f64::to_bits), Some(0));
        assert_eq!(sum(&[1e300, 1.0, -1e300]), Some(1.0));
        assert_eq!(sum(&[f64::MAX, f64::MAX]), None);
        assert_eq!(sum(&[f64::MAX, f64::MAX, -f64::MAX]), Some(f64::MAX));
        for value in [5e-324, f64::MIN_POSITIVE, 2.225073858507201e-308, 1.0, -3.5, f64::MAX, f64::MIN] {
            assert_eq!(sum(&[value]), Some(value));
        }
        let half_ulp = f64::EPSILON / 2.0;
        assert_eq!(sum(&[1.0, half_ulp]), Some(1.0));
        assert_eq!(sum(&[1.0, half_ulp, 5e-324]), Some(1.0 + f64::EPSILON));
        assert_eq!(sum(&[1.0 + f64::EPSILON, half_ulp]), Some(1.0 + 2.0 * f64::EPSILON));
    }
}
