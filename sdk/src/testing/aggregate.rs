//! The operators, written down as plainly as possible: every contribution is looked at for every question.

use super::columns;
use crate::Time;
use crate::column::Column;
use crate::definition::{AggregateDef, Operator, Type, Window};
use serde_json::{Value, json};
use std::collections::BTreeMap;

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
    use super::exact_sum;

    #[test]
    fn sums_are_rounded_once() {
        assert_eq!(exact_sum(&[0.1; 10]), Some(1.0));
        assert_eq!(exact_sum(&[1e16, 1.0, -1e16]), Some(1.0));
        assert_eq!(exact_sum(&[1e16, 1.0, 1e-16]), Some(1e16 + 2.0));
        assert_eq!(exact_sum(&[-0.0]).map(f64::to_bits), Some(0));
        assert_eq!(exact_sum(&[f64::MAX, f64::MAX]), None);
    }
}
