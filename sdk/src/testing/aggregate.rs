//! The operators, written down as plainly as possible: every contribution is looked at for every question.

use super::columns;
use crate::Time;
use crate::column::Column;
use crate::definition::{AggregateDef, Operator, Type, Window};
use serde_json::{Value, json};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// What one event put into the slots.
#[derive(Debug)]
pub(super) struct Contribution {
    pub(super) time: Time,
    pub(super) id: Option<String>,
    /// One value a slot; null = nothing, false in a mark = nothing.
    pub(super) slots: Vec<Value>,
}

/// One aggregate of the entity with the contributions `own` at `at`, as a column of one row.
pub(super) fn evaluate<'h>(
    aggregate: &AggregateDef,
    slot: usize,
    slot_type: Type,
    own: &'h [Contribution],
    all: impl Iterator<Item = &'h Vec<Contribution>>,
    at: Time,
) -> Column {
    let (start, end) = bounds(aggregate.window, at);
    let seen = |contributions: &'h [Contribution], from: Time| {
        contributions
            .iter()
            .filter(move |one| from <= one.time && one.time < end && contributes(&one.slots[slot], slot_type))
            .collect::<Vec<&Contribution>>()
    };
    let inside = seen(own, start);
    let values = || inside.iter().map(|one| &one.slots[slot]);
    let (column_type, value) = match aggregate.operator {
        Operator::Count => (Type::I64, json!(inside.len())),
        Operator::Sum => (Type::F64, json!(sum(values()))),
        Operator::Mean => {
            (Type::F64, json!(sum(values()).filter(|_| !inside.is_empty()).map(|sum| sum / inside.len() as f64)))
        }
        Operator::TopK { k } => (Type::List(&Type::Utf8), json!(top(values(), k as usize))),
        Operator::Last => (slot_type, last(&inside, slot)),
        Operator::LastTime => (Type::Timestamp, json!(inside.last().map(|one| one.time.micros()))),
        // A session belongs to the window by its end, wherever it began.
        Operator::SessionCount { gap_us, .. } => {
            (Type::I64, json!(sessions(&seen(own, Time::from_micros(i64::MIN)), gap_us, start).len()))
        }
        Operator::SessionDurationSum { gap_us, .. } => {
            let sessions = sessions(&seen(own, Time::from_micros(i64::MIN)), gap_us, start);
            (Type::I64, json!(sessions.iter().map(|(first, last)| last.micros_since(*first)).sum::<i64>()))
        }
        Operator::Min => (slot_type, json!(values().min_by(by_size))),
        Operator::Max => (slot_type, json!(values().max_by(by_size))),
        Operator::Variance => (Type::F64, json!(spread(&numbers(values()), false))),
        Operator::StdDev => (Type::F64, json!(spread(&numbers(values()), true))),
        Operator::Quantile { ppm, .. } => (Type::F64, json!(quantile(numbers(values()), ppm))),
        Operator::CountDistinct => (Type::I64, json!(distinct(values()).len())),
        Operator::ApproxDistinct { k } => (Type::I64, json!(about_how_many(&distinct(values()), k as usize))),
        Operator::CollectSet { k } => {
            (Type::List(&Type::Utf8), distinct(values()).into_iter().take(k as usize).collect())
        }
        Operator::RelativeRank => {
            let counts: Vec<usize> = all.map(|one| seen(one, start).len()).filter(|&count| count > 0).collect();
            (Type::F64, json!(relative_rank(inside.len(), &counts)))
        }
    };
    columns::of_values(aggregate.name, column_type, &[&value])
}

fn bounds(window: Window, at: Time) -> (Time, Time) {
    let floor = |us: i64, grid_us: i64| us.div_euclid(grid_us) * grid_us;
    let (start, end) = match window {
        Window::Sliding { width, hop: None } => (at.micros() - width.us, at.micros()),
        Window::Sliding { width, hop: Some(hop) } => (floor(at.micros() - width.us, hop.us), at.micros()),
        Window::Hopping { width, hop } => {
            let end = floor(at.micros(), hop.us);
            (end - width.us, end)
        }
        Window::Lifetime => (i64::MIN, at.micros()),
    };
    (Time::from_micros(start), Time::from_micros(end))
}

/// Null is no contribution, and neither is a mark that is false. NaN and infinities are null in JSON.
fn contributes(value: &Value, slot_type: Type) -> bool {
    match slot_type {
        Type::Mark => *value == json!(true),
        _ => !value.is_null(),
    }
}

/// The exact sum of the numbers, rounded once; `None` beyond f64.
fn sum<'v>(values: impl Iterator<Item = &'v Value>) -> Option<f64> {
    let mut integers: i128 = 0;
    let mut floats = Vec::new();
    for value in values {
        match value.as_i64() {
            Some(integer) => integers += i128::from(integer),
            None => floats.push(value.as_f64().expect("sums are over numbers")),
        }
    }
    if floats.is_empty() {
        return Some(integers as f64);
    }
    exact_sum(&floats)
}

/// Shewchuk's algorithm: partial sums that do not overlap, so that nothing is lost until the last rounding.
/// `None` when a partial sum leaves f64.
fn exact_sum(values: &[f64]) -> Option<f64> {
    let mut partials: Vec<f64> = Vec::new();
    for &value in values {
        let mut high = value;
        let mut kept = 0;
        for at in 0..partials.len() {
            let mut low = partials[at];
            if high.abs() < low.abs() {
                (high, low) = (low, high);
            }
            let total = high + low;
            let rest = low - (total - high);
            if rest != 0.0 {
                partials[kept] = rest;
                kept += 1;
            }
            high = total;
        }
        partials.truncate(kept);
        partials.push(high);
    }
    let mut rest = partials.iter().rev().copied();
    let mut high = rest.next().unwrap_or(0.0);
    let mut low = 0.0;
    let mut below = None;
    while let Some(partial) = rest.next() {
        let total = high + partial;
        low = partial - (total - high);
        high = total;
        if low != 0.0 {
            below = rest.next();
            break;
        }
    }
    // Half-way cases round by the sign of what is left below.
    if let Some(below) = below
        && (low < 0.0) == (below < 0.0)
    {
        let doubled = low * 2.0;
        let rounded = high + doubled;
        if doubled == rounded - high {
            high = rounded;
        }
    }
    high.is_finite().then_some(if high == 0.0 { 0.0 } else { high })
}

fn top<'v>(values: impl Iterator<Item = &'v Value>, k: usize) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for value in values {
        *counts.entry(value.as_str().expect("top_k is over strings")).or_default() += 1;
    }
    let mut ranked: Vec<(&str, usize)> = counts.into_iter().collect();
    // Stable: equal counts stay in the map's byte order.
    ranked.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    ranked.into_iter().take(k).map(|(value, _)| value.to_owned()).collect()
}

/// Numbers by size; -0.0 is less than 0.0.
fn by_size(left: &&Value, right: &&Value) -> Ordering {
    match (left.as_i64(), right.as_i64()) {
        (Some(left), Some(right)) => left.cmp(&right),
        _ => number(left).total_cmp(&number(right)),
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("the operator is over numbers")
}

fn numbers<'v>(values: impl Iterator<Item = &'v Value>) -> Vec<f64> {
    values.map(number).collect()
}

/// The sample variance or its root, rounded once: n Σx² − (Σx)² is the sum of the squared differences of all pairs,
/// here as exact sums of floats. Not for integers beyond 2^53, nor for numbers whose squares leave f64.
fn spread(values: &[f64], root: bool) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let mut terms = Vec::new();
    for (at, &left) in values.iter().enumerate() {
        for &right in &values[..at] {
            let difference = left - right;
            let shadow = difference - left;
            let rest = (left - (difference - shadow)) - (right + shadow);
            terms.extend(product(difference, difference).into_iter().chain(product(2.0 * difference, rest)));
            terms.extend(product(rest, rest));
        }
    }
    let below = values.len() as f64 * (values.len() - 1) as f64;
    let about = exact_sum(&terms)? / below;
    let about = if root { about.sqrt() } else { about };
    // Whether the exact value lies above (+) or below (-) what is half a step beside `about`.
    let beside = |half: f64| {
        let limit = match root {
            true => [product(about, about), product(2.0 * about, half), product(half, half)].concat(),
            false => vec![about, half],
        };
        let limit = limit.into_iter().flat_map(|part| product(part, -below));
        exact_sum(&terms.iter().copied().chain(limit).collect::<Vec<_>>())
    };
    Some(if about > 0.0 && beside((about.next_up() - about) / 2.0)? > 0.0 {
        about.next_up()
    } else if about > 0.0 && beside((about.next_down() - about) / 2.0)? < 0.0 {
        about.next_down()
    } else {
        about
    })
}

/// A product, and what its rounding left over.
fn product(left: f64, right: f64) -> [f64; 2] {
    let product = left * right;
    [product, left.mul_add(right, -product)]
}

/// The number of rank ceil(n × q), seen as the middle of its bucket: 64 equal ones in each octave.
fn quantile(mut values: Vec<f64>, ppm: u32) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as u64 * u64::from(ppm)).div_ceil(1_000_000);
    let value = *values.get(rank.checked_sub(1)? as usize)?;
    // Six bits after the leading one name the bucket, and the next is the middle; the smallest numbers have no
    // leading one and are left as they are.
    Some(match value {
        0.0 => 0.0,
        _ if value.is_normal() => f64::from_bits(value.to_bits() >> 46 << 46 | 1 << 45),
        _ => value,
    })
}

fn distinct<'v>(values: impl Iterator<Item = &'v Value>) -> BTreeSet<&'v str> {
    values.map(|value| value.as_str().expect("the operator is over strings")).collect()
}

/// The number of values: exact up to `k`, else by how small the `k + 1` smallest of their hashes are.
fn about_how_many(values: &BTreeSet<&str>, k: usize) -> i64 {
    // FNV-1a, then the last steps of SplitMix64.
    let hash = |value: &&str| {
        let start: u64 = 14_695_981_039_346_656_037;
        let mut hash = value.bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(1_099_511_628_211));
        hash = (hash ^ hash >> 30).wrapping_mul(13_787_848_793_156_543_929);
        hash = (hash ^ hash >> 27).wrapping_mul(10_723_151_780_598_845_931);
        hash ^ hash >> 31
    };
    let hashes: BTreeSet<u64> = values.iter().map(hash).collect();
    match hashes.iter().nth(k) {
        Some(&next) => i64::try_from(((k as u128) << 64) / (u128::from(next) + 1)).unwrap_or(i64::MAX),
        None => hashes.len() as i64,
    }
}

/// The value of the newest contribution. The list is ordered by time and id; a tie of both is decided by the value.
fn last(inside: &[&Contribution], slot: usize) -> Value {
    let Some(newest) = inside.last() else { return Value::Null };
    let tied = inside.iter().filter(|one| one.time == newest.time && one.id == newest.id).map(|one| &one.slots[slot]);
    let order = |left: &&Value, right: &&Value| match (left, right) {
        (Value::String(left), Value::String(right)) => left.cmp(right),
        (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
        _ => left.as_f64().unwrap_or(0.0).total_cmp(&right.as_f64().unwrap_or(0.0)),
    };
    tied.max_by(order).cloned().unwrap_or(Value::Null)
}

/// Start and end of the sessions of these contributions that end at or after `start`.
fn sessions(contributions: &[&Contribution], gap_us: i64, start: Time) -> Vec<(Time, Time)> {
    let mut sessions: Vec<(Time, Time)> = Vec::new();
    for one in contributions {
        match sessions.last_mut() {
            Some((_, end)) if one.time.micros_since(*end) <= gap_us => *end = one.time,
            _ => sessions.push((one.time, one.time)),
        }
    }
    sessions.retain(|(_, end)| *end >= start);
    sessions
}

/// `counts` are those of all entities that have any.
fn relative_rank(own: usize, counts: &[usize]) -> f64 {
    match (own, counts.len()) {
        (0, _) => 0.0,
        (_, 1) => 1.0,
        (_, entities) => counts.iter().filter(|&&count| count < own).count() as f64 / (entities - 1) as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::{exact_sum, quantile, spread};

    #[test]
    fn sums_are_rounded_once() {
        assert_eq!(exact_sum(&[0.1; 10]), Some(1.0));
        assert_eq!(exact_sum(&[1e16, 1.0, -1e16]), Some(1.0));
        assert_eq!(exact_sum(&[1e16, 1.0, 1e-16]), Some(1e16 + 2.0));
        assert_eq!(exact_sum(&[-0.0]).map(f64::to_bits), Some(0));
        assert_eq!(exact_sum(&[f64::MAX, f64::MAX]), None);
    }

    #[test]
    fn spreads_are_rounded_once() {
        assert_eq!(spread(&[1.0], true), None);
        assert_eq!(spread(&[0.1; 5], true), Some(0.0));
        assert_eq!(spread(&[1.0, 2.0, 3.0, 4.0], false), Some(5.0 / 3.0));
        assert_eq!(spread(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0], true), Some((32.0f64 / 7.0).sqrt()));
        // What a difference of two large sums would lose altogether.
        assert_eq!(spread(&[1e9, 1e9 + 1e-6], true), Some(std::f64::consts::FRAC_1_SQRT_2 * 2f64.powi(-20)));
    }

    #[test]
    fn quantiles_are_near_the_number_of_their_rank() {
        let near = |told: Option<f64>, exact: f64| (told.unwrap() - exact).abs() <= exact.abs() / 128.0;
        assert!(near(quantile(vec![30.0, 10.0, 20.0, 40.0], 500_000), 20.0));
        assert!(near(quantile(vec![-3.0, -1.0, -2.0], 500_000), -2.0));
        assert!(near(quantile(vec![30.0, 10.0, 20.0, 40.0], 999_999), 40.0));
        assert_eq!(quantile(vec![0.0, -0.0], 500_000), Some(0.0));
        assert_eq!(quantile(Vec::new(), 500_000), None);
    }
}
