//! A view with every operator, events for it, and a naive oracle: plain loops over the list of events, as
//! catalogue.md states the definitions. Shares no code with the state, the codec or the reads.

use num_bigint::BigInt;
use plumb_core::column::{Column, DataType, Strings, Values};
use plumb_core::contribution::Contributions;
use plumb_core::entity::EntityDef;
use plumb_core::event::{EventBatch, Field as SourceField, SourceSchema};
use plumb_core::plan::Plan;
use plumb_core::view::{AggregateDef, Operator, SlotDef, SlotType, ViewDef, WindowSpec};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) const SECOND: i64 = 1_000_000;
pub(crate) const MINUTE: i64 = 60 * SECOND;
pub(crate) const HOUR: i64 = 60 * MINUTE;

/// One event with what it contributes: at most one contribution, of some slots.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) time: i64,
    pub(crate) id: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) mark: bool,
    pub(crate) amount: Option<f64>,
    pub(crate) category: Option<String>,
    pub(crate) quantity: Option<i64>,
    pub(crate) flag: Option<bool>,
    pub(crate) seen: Option<i64>,
}

impl Event {
    pub(crate) fn bare(time: i64, key: &str) -> Self {
        Self {
            time,
            id: None,
            key: Some(key.into()),
            mark: false,
            amount: None,
            category: None,
            quantity: None,
            flag: None,
            seen: None,
        }
    }

    fn contributes(&self) -> bool {
        self.mark
            || self.amount.is_some_and(f64::is_finite)
            || self.category.is_some()
            || self.quantity.is_some()
            || self.flag.is_some()
            || self.seen.is_some()
    }
}

const SLOTS: [(&str, SlotType); 6] = [
    ("mark", SlotType::Mark),
    ("amount", SlotType::F64),
    ("category", SlotType::Utf8),
    ("quantity", SlotType::I64),
    ("flag", SlotType::Bool),
    ("seen", SlotType::Timestamp),
];

/// A view of the given aggregates over the test's slots.
pub(crate) fn view_of(aggregates: &[(Operator, usize, WindowSpec)]) -> ViewDef {
    ViewDef {
        name: "test".into(),
        version: "1.0.0".parse().unwrap(),
        entity: EntityDef { name: "thing".into(), key: vec!["thing_id".into()] },
        source: "default".into(),
        description: String::new(),
        owner: String::new(),
        team: String::new(),
        tags: Vec::new(),
        ttl_us: None,
        freshness_us: None,
        fields: Vec::new(),
        slots: SLOTS.iter().map(|&(name, slot_type)| SlotDef { name: name.into(), slot_type }).collect(),
        aggregates: aggregates
            .iter()
            .enumerate()
            .map(|(index, &(operator, slot, window))| AggregateDef {
                name: format!("a{index}"),
                operator,
                slot,
                window,
            })
            .collect(),
        features: Vec::new(),
    }
}

fn sliding(width_us: i64) -> WindowSpec {
    WindowSpec::Sliding { width_us, hop_us: None }
}

/// Every operator over several windows; the longest is an hour, so tiles are minutes.
pub(crate) fn full_view() -> ViewDef {
    let life = WindowSpec::Lifetime;
    let gap_us = 5 * MINUTE;
    view_of(&[
        (Operator::Count, 0, sliding(HOUR)),
        (Operator::Count, 0, sliding(90 * SECOND)),
        (Operator::Count, 0, WindowSpec::Sliding { width_us: 20 * MINUTE, hop_us: Some(7 * MINUTE) }),
        (Operator::Count, 0, WindowSpec::Hopping { width_us: 10 * MINUTE, hop_us: 10 * MINUTE }),
        (Operator::Count, 4, life),
        (Operator::Sum, 1, sliding(HOUR)),
        (Operator::Sum, 1, life),
        (Operator::Mean, 1, sliding(30 * MINUTE)),
        (Operator::Mean, 3, life),
        (Operator::Sum, 3, sliding(10 * MINUTE)),
        (Operator::TopK { k: 2 }, 2, sliding(HOUR)),
        (Operator::TopK { k: 3 }, 2, life),
        (Operator::Last, 2, sliding(HOUR)),
        (Operator::Last, 1, life),
        (Operator::Last, 3, life),
        (Operator::Last, 4, life),
        (Operator::Last, 5, sliding(5 * MINUTE)),
        (Operator::LastTime, 0, life),
        (Operator::LastTime, 1, sliding(10 * MINUTE)),
        (Operator::SessionCount { gap_us }, 0, sliding(HOUR)),
        (Operator::SessionDurationSum { gap_us }, 0, sliding(30 * MINUTE)),
        (Operator::SessionDurationSum { gap_us }, 0, life),
        (Operator::RelativeRank, 0, WindowSpec::Hopping { width_us: 10 * MINUTE, hop_us: MINUTE }),
        (Operator::RelativeRank, 0, WindowSpec::Hopping { width_us: 3 * MINUTE, hop_us: 3 * MINUTE }),
    ])
}

/// The operators that are not in [`full_view`], whose bytes are fixed, over several windows; and some that are, which
/// share slots with them.
pub(crate) fn wide_view() -> ViewDef {
    let life = WindowSpec::Lifetime;
    let tumbling = WindowSpec::Hopping { width_us: 5 * MINUTE, hop_us: 5 * MINUTE };
    let hopped = WindowSpec::Sliding { width_us: 20 * MINUTE, hop_us: Some(7 * MINUTE) };
    let (median, high) = (Operator::Quantile { ppm: 500_000 }, Operator::Quantile { ppm: 950_000 });
    let (two, few) = (Operator::CollectSet { k: 2 }, Operator::CollectSet { k: 64 });
    let mut aggregates = vec![
        (Operator::Count, 1, sliding(HOUR)),
        (Operator::Sum, 1, tumbling),
        (Operator::Mean, 1, tumbling),
        (Operator::TopK { k: 2 }, 2, sliding(HOUR)),
        (Operator::Min, 5, sliding(HOUR)),
        (Operator::Max, 5, life),
        (Operator::ApproxDistinct { k: 100 }, 2, sliding(HOUR)),
    ];
    for window in [sliding(HOUR), sliding(90 * SECOND), tumbling, hopped, life] {
        for slot in [1, 3] {
            for operator in [Operator::Min, Operator::Max, Operator::Variance, Operator::StdDev, median, high] {
                aggregates.push((operator, slot, window));
            }
        }
        for operator in [Operator::CountDistinct, Operator::ApproxDistinct { k: 2 }, two, few] {
            aggregates.push((operator, 2, window));
        }
    }
    view_of(&aggregates)
}

pub(crate) fn plan_of(view: &ViewDef, lateness_us: i64) -> Arc<Plan> {
    Arc::new(Plan::new(view, lateness_us).unwrap())
}

/// The events as a batch, keyed by column 1, and their contributions.
pub(crate) fn batch(events: &[Event]) -> (EventBatch, Contributions) {
    let schema = SourceSchema {
        source: "default".into(),
        time_field: "event_time".into(),
        id_field: "event_id".into(),
        key_field: "thing_id".into(),
        fields: vec![SourceField { name: "thing_id".into(), data_type: DataType::Utf8, required: false }],
    };
    let mut batch = EventBatch::new(Arc::new(schema));
    let slots: Vec<SlotType> = SLOTS.iter().map(|&(_, slot)| slot).collect();
    let mut contributions = Contributions::empty(&slots);
    let push_text = |column: &mut Column, text: &Option<String>| match text {
        Some(text) => column.push_bytes(text.as_bytes()),
        None => column.push_null(),
    };
    for (row, event) in events.iter().enumerate() {
        batch.offsets.push(row as u64);
        batch.record_times_us.push(0);
        batch.times_us.push(event.time);
        push_text(&mut batch.columns[0], &event.id);
        push_text(&mut batch.columns[1], &event.key);
        // An event may also appear as a row without any slot; even ones without contribution do.
        if !event.contributes() && row % 2 == 0 {
            continue;
        }
        contributions.rows.push(row as u32);
        contributions.slots[0].push_bool(event.mark);
        match event.amount {
            Some(amount) => contributions.slots[1].push_f64(amount),
            None => contributions.slots[1].push_null(),
        }
        push_text(&mut contributions.slots[2], &event.category);
        match event.quantity {
            Some(quantity) => contributions.slots[3].push_i64(quantity),
            None => contributions.slots[3].push_null(),
        }
        match event.flag {
            Some(flag) => contributions.slots[4].push_bool(flag),
            None => contributions.slots[4].push_null(),
        }
        match event.seen {
            Some(seen) => contributions.slots[5].push_i64(seen),
            None => contributions.slots[5].push_null(),
        }
    }
    (batch, contributions)
}

/// A value as the oracle and a column both say it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Int(i64),
    /// By bits, so that zeros have signs.
    Float(u64),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
}

pub(crate) fn value_of(column: &Column, row: usize) -> Value {
    if !column.is_valid(row) {
        return Value::Null;
    }
    let text = |strings: &Strings, row: usize| String::from_utf8(strings.get(row).to_vec()).unwrap();
    match &column.values {
        Values::I64(rows) | Values::Timestamp(rows) => Value::Int(rows[row]),
        Values::F64(rows) => Value::Float(rows[row].to_bits()),
        Values::Bool(rows) => Value::Bool(rows[row] == 1),
        Values::Utf8(strings) | Values::Bytes(strings) => Value::Text(text(strings, row)),
        Values::List { offsets, child } => Value::Texts(
            (offsets[row]..offsets[row + 1]).map(|at| text(child.as_strings().unwrap(), at as usize)).collect(),
        ),
    }
}

/// The amounts of the tests are multiples of 1/4 below 2^40, so that an integer sum of quarters is exact.
fn quarters(amounts: &[f64]) -> f64 {
    let sum: i128 = amounts.iter().map(|amount| (amount * 4.0) as i128).sum();
    sum as f64 / 4.0
}

/// The values of a slot in quarters, which are whole in these tests.
fn numbers(events: &[&Event], slot: usize) -> Vec<i128> {
    let quarters = |event: &&Event| match slot {
        1 => (event.amount.unwrap() * 4.0) as i128,
        _ => i128::from(event.quantity.unwrap()) * 4,
    };
    events.iter().map(quarters).collect()
}

/// Sample variance or deviation of numbers in quarters: the float nearest to the exact one, found by bisection.
fn spread(quarters: &[i128], root: bool) -> Value {
    let count = quarters.len() as i128;
    if count < 2 {
        return Value::Null;
    }
    let sum: i128 = quarters.iter().sum();
    let above: i128 = quarters.iter().map(|&value| (value * count - sum).pow(2)).sum();
    if above == 0 {
        return Value::Float(0);
    }
    let below = BigInt::from(count * count * (count - 1) * 16);
    // How x × 2^-200 lies beside the value; floats of these tests have no smaller bits.
    let compare = |x: BigInt| match root {
        false => (x * &below).cmp(&(BigInt::from(above) << 200u32)),
        true => (x.pow(2) * &below).cmp(&(BigInt::from(above) << 400u32)),
    };
    let scaled = |bits: u64| match bits >> 52 {
        0 => BigInt::default(),
        exponent => (BigInt::from(bits << 12 >> 12 | 1 << 52) << exponent) >> 875u32,
    };
    let (mut low, mut high) = (0u64, 1e100f64.to_bits());
    while low < high {
        let middle = (low + high).div_ceil(2);
        if compare(scaled(middle)).is_le() { low = middle } else { high = middle - 1 }
    }
    let up = match compare((scaled(low) + scaled(low + 1)) / 2) {
        std::cmp::Ordering::Less => true,
        std::cmp::Ordering::Equal => low % 2 == 1,
        std::cmp::Ordering::Greater => false,
    };
    Value::Float(low + u64::from(up))
}

/// The middle of the bucket of a value that is no subnormal: 64 equal buckets to the octave.
fn middle_of_bucket(value: f64) -> f64 {
    if value == 0.0 {
        return 0.0;
    }
    let mut octave = 1.0;
    while octave > value.abs() {
        octave /= 2.0;
    }
    while octave * 2.0 <= value.abs() {
        octave *= 2.0;
    }
    let width = octave / 64.0;
    let bucket = (value.abs() / width).floor();
    (bucket * width + width / 2.0).copysign(value)
}

/// The fixed order of capped counts: FNV-1a, then the last steps of SplitMix64.
fn mixed(text: &str) -> u64 {
    let mut hash: u64 = 14_695_981_039_346_656_037;
    for byte in text.bytes() {
        hash ^= u64::from(byte);
        hash = hash.wrapping_mul(1_099_511_628_211);
    }
    for (shift, factor) in [(30, 13_787_848_793_156_543_929), (27, 10_723_151_780_598_845_931)] {
        hash ^= hash >> shift;
        hash = hash.wrapping_mul(factor);
    }
    hash ^ hash >> 31
}

fn window(spec: WindowSpec, at: i64) -> (i64, i64) {
    match spec {
        WindowSpec::Lifetime => (i64::MIN, at),
        WindowSpec::Sliding { width_us, hop_us: None } => (at - width_us, at),
        WindowSpec::Sliding { width_us, hop_us: Some(hop) } => ((at - width_us).div_euclid(hop) * hop, at),
        WindowSpec::Hopping { width_us, hop_us } => {
            let end = at.div_euclid(hop_us) * hop_us;
            (end - width_us, end)
        }
    }
}

/// Whether an event contributes to a slot.
fn has(event: &Event, slot: usize) -> bool {
    match slot {
        0 => event.mark,
        1 => event.amount.is_some_and(f64::is_finite),
        2 => event.category.is_some(),
        3 => event.quantity.is_some(),
        4 => event.flag.is_some(),
        _ => event.seen.is_some(),
    }
}

/// The newest contribution: by time, id (missing first), value.
fn newest<'a>(events: &[&'a Event], slot: usize) -> Option<&'a Event> {
    let mut best: Option<&Event> = None;
    for event in events {
        let better = best.is_none_or(|best| {
            let by_value = match slot {
                1 => event.amount.unwrap().total_cmp(&best.amount.unwrap()),
                2 => event.category.as_ref().map(String::as_bytes).cmp(&best.category.as_ref().map(String::as_bytes)),
                3 => event.quantity.cmp(&best.quantity),
                4 => event.flag.cmp(&best.flag),
                _ => event.seen.cmp(&best.seen),
            };
            let ids = |event: &Event| event.id.clone().map(String::into_bytes);
            (event.time, ids(event)).cmp(&(best.time, ids(best))).then(by_value).is_gt()
        });
        if better {
            best = Some(event);
        }
    }
    best
}

/// One row as the oracle sees it: found, newest contribution, aggregates.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) found: bool,
    pub(crate) newest: Option<i64>,
    pub(crate) values: Vec<Value>,
}

/// What the definitions say about `key` at `at`, by going through all events once per aggregate.
pub(crate) fn oracle(view: &ViewDef, events: &[Event], key: &str, at: i64) -> Row {
    let mine: Vec<&Event> =
        events.iter().filter(|event| event.key.as_deref() == Some(key) && event.time < at).collect();
    if mine.is_empty() {
        return Row { found: false, newest: None, values: vec![Value::Null; view.aggregates.len()] };
    }
    let newest = mine.iter().filter(|event| event.contributes()).map(|event| event.time).max();
    let values = view.aggregates.iter().map(|aggregate| aggregate_at(aggregate, events, &mine, key, at)).collect();
    Row { found: true, newest, values }
}

fn aggregate_at(aggregate: &AggregateDef, all: &[Event], mine: &[&Event], key: &str, at: i64) -> Value {
    let (start, end) = window(aggregate.window, at);
    let slot = aggregate.slot;
    let to_slot: Vec<&Event> = mine.iter().copied().filter(|event| has(event, slot)).collect();
    let inside: Vec<&Event> = to_slot.iter().copied().filter(|event| start <= event.time && event.time < end).collect();
    let sum = || {
        if slot == 1 {
            quarters(&inside.iter().map(|event| event.amount.unwrap()).collect::<Vec<_>>())
        } else {
            inside.iter().map(|event| i128::from(event.quantity.unwrap())).sum::<i128>() as f64
        }
    };
    let float = |value: f64| Value::Float(if value == 0.0 { 0 } else { value.to_bits() });
    match aggregate.operator {
        Operator::Count => Value::Int(inside.len() as i64),
        Operator::Sum => float(sum()),
        Operator::Mean if inside.is_empty() => Value::Null,
        Operator::Mean => Value::Float((if sum() == 0.0 { 0.0 } else { sum() } / inside.len() as f64).to_bits()),
        Operator::TopK { k } => {
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            for event in &inside {
                *counts.entry(event.category.as_deref().unwrap()).or_default() += 1;
            }
            let mut ranked: Vec<(&str, usize)> = counts.into_iter().collect();
            ranked.sort_by_key(|&(name, count)| (std::cmp::Reverse(count), name));
            Value::Texts(ranked.into_iter().take(k).map(|(name, _)| name.to_owned()).collect())
        }
        Operator::Last => match newest(&inside, slot) {
            None => Value::Null,
            Some(event) => match slot {
                1 => Value::Float(event.amount.unwrap().to_bits()),
                2 => Value::Text(event.category.clone().unwrap()),
                3 => Value::Int(event.quantity.unwrap()),
                4 => Value::Bool(event.flag.unwrap()),
                _ => Value::Int(event.seen.unwrap()),
            },
        },
        Operator::LastTime => inside.iter().map(|event| event.time).max().map_or(Value::Null, Value::Int),
        Operator::SessionCount { gap_us } | Operator::SessionDurationSum { gap_us } => {
            let mut times: Vec<i64> = to_slot.iter().map(|event| event.time).collect();
            times.sort_unstable();
            let mut sessions: Vec<(i64, i64)> = Vec::new();
            for time in times {
                match sessions.last_mut() {
                    Some(last) if time - last.1 <= gap_us => last.1 = time,
                    _ => sessions.push((time, time)),
                }
            }
            sessions.retain(|session| start <= session.1 && session.1 < end);
            match aggregate.operator {
                Operator::SessionCount { .. } => Value::Int(sessions.len() as i64),
                _ => Value::Int(sessions.iter().map(|session| session.1 - session.0).sum()),
            }
        }
        Operator::Min | Operator::Max => {
            let least = aggregate.operator == Operator::Min;
            let outer = |is_less: bool| is_less == least;
            let mut best: Option<&Event> = None;
            for event in &inside {
                let further = best.is_none_or(|best| match slot {
                    1 => match event.amount.unwrap().total_cmp(&best.amount.unwrap()) {
                        std::cmp::Ordering::Equal => false,
                        order => outer(order.is_lt()),
                    },
                    3 => event.quantity != best.quantity && outer(event.quantity < best.quantity),
                    _ => event.seen != best.seen && outer(event.seen < best.seen),
                });
                if further {
                    best = Some(event);
                }
            }
            best.map_or(Value::Null, |event| match slot {
                1 => Value::Float(event.amount.unwrap().to_bits()),
                3 => Value::Int(event.quantity.unwrap()),
                _ => Value::Int(event.seen.unwrap()),
            })
        }
        Operator::Variance | Operator::StdDev => {
            spread(&numbers(&inside, slot), aggregate.operator == Operator::StdDev)
        }
        Operator::Quantile { ppm } => {
            let mut sorted: Vec<f64> = numbers(&inside, slot).iter().map(|&quarters| quarters as f64 / 4.0).collect();
            sorted.sort_by(f64::total_cmp);
            let rank = (sorted.len() * ppm as usize).div_ceil(1_000_000);
            match rank {
                0 => Value::Null,
                _ => Value::Float(middle_of_bucket(sorted[rank - 1]).to_bits()),
            }
        }
        Operator::CountDistinct | Operator::ApproxDistinct { .. } | Operator::CollectSet { .. } => {
            let mut values: Vec<&str> = inside.iter().map(|event| event.category.as_deref().unwrap()).collect();
            values.sort_unstable();
            values.dedup();
            match aggregate.operator {
                Operator::CountDistinct => Value::Int(values.len() as i64),
                Operator::ApproxDistinct { k } if values.len() <= k => Value::Int(values.len() as i64),
                Operator::ApproxDistinct { k } => {
                    let mut hashes: Vec<u64> = values.iter().map(|value| mixed(value)).collect();
                    hashes.sort_unstable();
                    Value::Int((k as f64 / ((hashes[k] as f64 + 1.0) / 2f64.powi(64))) as i64)
                }
                Operator::CollectSet { k } => Value::Texts(values.into_iter().take(k).map(str::to_owned).collect()),
                _ => unreachable!("the arm has these operators only"),
            }
        }
        Operator::RelativeRank => {
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            for event in all.iter().filter(|event| has(event, slot) && start <= event.time && event.time < end) {
                if let Some(key) = &event.key {
                    *counts.entry(key).or_default() += 1;
                }
            }
            match counts.get(key) {
                None => Value::Float(0.0f64.to_bits()),
                Some(_) if counts.len() == 1 => Value::Float(1.0f64.to_bits()),
                Some(own) => {
                    let fewer = counts.values().filter(|count| *count < own).count();
                    Value::Float((fewer as f64 / (counts.len() - 1) as f64).to_bits())
                }
            }
        }
    }
}
