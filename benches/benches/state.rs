//! What state costs: applying an event, publishing what changed, reading keys of 100 and 1,000,000 events.
//!
//! The events have the shape of a year of grocery baskets: some ten rows at one instant, 2,469 users,
//! 68,000 items of very different popularity. Contributions are made natively, so nothing else is measured.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use plumb_core::column::{Column, DataType};
use plumb_core::contribution::Contributions;
use plumb_core::entity::{EntityDef, EntityKey};
use plumb_core::event::{EventBatch, Field as SourceField, SourceSchema};
use plumb_core::global::Distribution;
use plumb_core::plan::Plan;
use plumb_core::read::{AggregateBatch, Partial, tiles_needed};
use plumb_core::state::{Field, FieldWrite, ViewState};
use plumb_core::time::{DAY_US, HOUR_US, MINUTE_US, SECOND_US};
use plumb_core::view::{AggregateDef, Operator, SlotDef, SlotType, ViewDef, WindowSpec};
use std::hint::black_box;
use std::sync::Arc;

const EVENTS: usize = 1_000_000;
const BATCH: usize = 8_192;
const START_US: i64 = 1_483_228_800 * SECOND_US;

/// A small generator of numbers that are the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((u128::from(self.0 >> 16) * u128::from(bound)) >> 48) as u64
    }
}

fn sliding(width_us: i64) -> WindowSpec {
    WindowSpec::Sliding { width_us, hop_us: None }
}

fn view(name: &str, slots: &[(&str, SlotType)], aggregates: &[(Operator, usize, WindowSpec)]) -> ViewDef {
    ViewDef {
        name: name.into(),
        version: semver(),
        entity: EntityDef { name: name.into(), key: vec![format!("{name}_id")] },
        source: "default".into(),
        description: String::new(),
        owner: String::new(),
        team: String::new(),
        tags: Vec::new(),
        ttl_us: None,
        freshness_us: None,
        fields: Vec::new(),
        slots: slots.iter().map(|&(name, slot_type)| SlotDef { name: name.into(), slot_type }).collect(),
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

fn semver() -> semver::Version {
    semver::Version::new(1, 0, 0)
}

/// The aggregates of `user_activity`.
fn user_plan() -> Arc<Plan> {
    let slots = [
        ("view", SlotType::Mark),
        ("cart", SlotType::Mark),
        ("purchase", SlotType::Mark),
        ("amount", SlotType::F64),
        ("event", SlotType::Mark),
        ("category", SlotType::Utf8),
    ];
    let gap_us = 30 * MINUTE_US;
    let aggregates = [
        (Operator::Count, 2, sliding(HOUR_US)),
        (Operator::Count, 2, sliding(DAY_US)),
        (Operator::Count, 0, sliding(HOUR_US)),
        (Operator::Count, 0, sliding(DAY_US)),
        (Operator::Count, 1, sliding(HOUR_US)),
        (Operator::Sum, 3, sliding(DAY_US)),
        (Operator::SessionCount { gap_us }, 4, sliding(30 * DAY_US)),
        (Operator::SessionDurationSum { gap_us }, 4, sliding(30 * DAY_US)),
        (Operator::Count, 2, sliding(7 * DAY_US)),
        (Operator::Count, 0, sliding(7 * DAY_US)),
        (Operator::TopK { k: 3 }, 5, sliding(DAY_US)),
        (Operator::LastTime, 2, WindowSpec::Lifetime),
    ];
    Arc::new(Plan::new(&view("user", &slots, &aggregates), HOUR_US).expect("the view is well defined"))
}

/// The aggregates of `item_activity`.
fn item_plan() -> Arc<Plan> {
    let slots = [
        ("view", SlotType::Mark),
        ("cart", SlotType::Mark),
        ("purchase", SlotType::Mark),
        ("amount", SlotType::F64),
        ("rating", SlotType::F64),
    ];
    let aggregates = [
        (Operator::Count, 0, sliding(HOUR_US)),
        (Operator::Count, 0, sliding(DAY_US)),
        (Operator::Count, 2, sliding(DAY_US)),
        (Operator::Count, 1, sliding(HOUR_US)),
        (Operator::Mean, 4, WindowSpec::Lifetime),
        (Operator::Sum, 3, sliding(DAY_US)),
        (Operator::RelativeRank, 0, WindowSpec::Hopping { width_us: HOUR_US, hop_us: MINUTE_US }),
    ];
    Arc::new(Plan::new(&view("item", &slots, &aggregates), HOUR_US).expect("the view is well defined"))
}

/// The aggregates of `user_transactions`.
fn transactions_plan() -> Arc<Plan> {
    let slots = [("amount", SlotType::F64), ("item", SlotType::Utf8), ("category", SlotType::Utf8)];
    let month = sliding(30 * DAY_US);
    let tumbling = WindowSpec::Hopping { width_us: 5 * MINUTE_US, hop_us: 5 * MINUTE_US };
    let aggregates = [
        (Operator::Count, 0, month),
        (Operator::Sum, 0, month),
        (Operator::Mean, 0, month),
        (Operator::Min, 0, month),
        (Operator::Max, 0, month),
        (Operator::StdDev, 0, month),
        (Operator::Quantile { ppm: 500_000 }, 0, month),
        (Operator::CountDistinct, 1, month),
        (Operator::CollectSet { k: 64 }, 2, month),
        (Operator::LastTime, 0, WindowSpec::Lifetime),
        (Operator::Count, 0, tumbling),
        (Operator::Sum, 0, tumbling),
        (Operator::Mean, 0, tumbling),
        (Operator::Max, 0, tumbling),
        (Operator::Min, 0, tumbling),
        (Operator::StdDev, 0, tumbling),
    ];
    Arc::new(Plan::new(&view("transactions", &slots, &aggregates), HOUR_US).expect("the view is well defined"))
}

fn schema() -> Arc<SourceSchema> {
    let field = |name: &str| SourceField { name: name.into(), data_type: DataType::Utf8, required: false };
    Arc::new(SourceSchema {
        source: "default".into(),
        time_field: "event_time".into(),
        id_field: "event_id".into(),
        key_field: "user_id".into(),
        fields: vec![field("user_id"), field("item_id")],
    })
}

/// Batches of events with what they contribute to a view: mostly purchases, some views and carts.
fn batches(plan: &Plan, events: usize, users: u64, span_us: i64) -> Vec<(EventBatch, Contributions)> {
    let mut random = Random(7);
    let schema = schema();
    let mut batches = Vec::new();
    let mut now_us = START_US;
    let mut left_in_basket = 0;
    let mut user = 0;
    for first in (0..events).step_by(BATCH) {
        let mut batch = EventBatch::new(schema.clone());
        let mut contributions = Contributions::empty(&plan.slots);
        for at in first..(first + BATCH).min(events) {
            if left_in_basket == 0 {
                left_in_basket = 1 + random.below(20);
                user = random.below(users);
                now_us = START_US + (at as i64 * (span_us / events as i64)) / SECOND_US * SECOND_US;
            }
            left_in_basket -= 1;
            // Squaring twice makes few items popular.
            let share = random.below(1 << 20) as f64 / (1 << 20) as f64;
            let item = (share.powi(4) * 68_000.0) as u64;
            batch.offsets.push(at as u64);
            batch.record_times_us.push(now_us);
            batch.times_us.push(now_us);
            batch.columns[0].push_null();
            batch.columns[1].push_bytes(user.to_string().as_bytes());
            batch.columns[2].push_bytes((800_000 + item).to_string().as_bytes());
            let kind = random.below(10);
            let amount = (random.below(2_000) as f64 / 100.0) * (1 + random.below(3)) as f64;
            contributions.rows.push((at - first) as u32);
            if plan.slots[0] == SlotType::F64 {
                if kind > 1 {
                    contributions.slots[0].push_f64(amount);
                    contributions.slots[1].push_bytes((800_000 + item).to_string().as_bytes());
                    contributions.slots[2].push_bytes(format!("CATEGORY {}", item % 200).as_bytes());
                } else {
                    contributions.slots.iter_mut().for_each(Column::push_null);
                }
                continue;
            }
            contributions.slots[0].push_bool(kind == 0);
            contributions.slots[1].push_bool(kind == 1);
            contributions.slots[2].push_bool(kind > 1);
            if kind > 1 {
                contributions.slots[3].push_f64(amount)
            } else {
                contributions.slots[3].push_null()
            }
            match plan.slots[4] {
                SlotType::Mark => {
                    contributions.slots[4].push_bool(true);
                    let category = format!("CATEGORY {}", item % 200);
                    if kind == 0 {
                        contributions.slots[5].push_bytes(category.as_bytes());
                    } else {
                        contributions.slots[5].push_null();
                    }
                }
                _ => contributions.slots[4].push_null(),
            }
        }
        batches.push((batch, contributions));
    }
    batches
}

fn applied(plan: &Arc<Plan>, batches: &[(EventBatch, Contributions)], key_column: usize) -> ViewState {
    let mut state = ViewState::new(plan.clone());
    for (events, contributions) in batches {
        state.apply(events, &[key_column], contributions);
    }
    state
}

/// How long an event takes to apply, alone and with a publish every 40,000 events (100 ms at 400,000/s).
fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    group.throughput(Throughput::Elements(EVENTS as u64)).sample_size(10);
    for (name, plan, key_column) in
        [("user", user_plan(), 1), ("item", item_plan(), 2), ("transactions", transactions_plan(), 1)]
    {
        let batches = batches(&plan, EVENTS, 2_469, 365 * DAY_US);
        group.bench_function(name, |bencher| bencher.iter(|| applied(&plan, &batches, key_column)));
        group.bench_function(format!("{name} with publishes"), |bencher| {
            bencher.iter(|| {
                let mut state = ViewState::new(plan.clone());
                for part in batches.chunks(5) {
                    for (events, contributions) in part {
                        state.apply(events, &[key_column], contributions);
                    }
                    black_box(state.drain_publish());
                }
            });
        });
    }
    group.finish();
}

/// The fields of one key.
fn fields(writes: Vec<FieldWrite>, key: &EntityKey) -> (Vec<u8>, Vec<(i64, Vec<u8>)>) {
    let mut header = Vec::new();
    let mut tiles = Vec::new();
    for write in writes.into_iter().filter(|write| write.key == *key) {
        match (write.field, write.value) {
            (Field::Header, Some(value)) => header = value,
            (Field::Tile(start_us), Some(value)) => tiles.push((start_us, value)),
            (Field::Tile(_), None) | (Field::Header, None) => {}
        }
    }
    (header, tiles)
}

/// How long one key takes to publish after one more event, and to read, with 100 and with 1,000,000 events in 30 days.
fn key(criterion: &mut Criterion) {
    for (name, plan) in [("key", user_plan()), ("key of transactions", transactions_plan())] {
        key_of(criterion, name, &plan);
    }
}

fn key_of(criterion: &mut Criterion, name: &str, plan: &Arc<Plan>) {
    let mut group = criterion.benchmark_group(name);
    for events in [100, 1_000_000] {
        let batches = batches(plan, events, 1, 30 * DAY_US);
        let state = applied(plan, &batches, 1);
        let key = EntityKey::from_parts(&["0"]);
        let (header, tiles) = fields(state.snapshot(), &key);
        let now_us = state.newest_us().unwrap_or(START_US);
        for (name, as_of_us) in [("now", now_us + 1), ("half an hour ago", now_us - HOUR_US / 2 - 17)] {
            let wanted = tiles_needed(plan, as_of_us);
            let edges: Vec<(i64, &[u8])> = tiles
                .iter()
                .filter(|(start_us, _)| wanted.contains(start_us))
                .map(|(start_us, bytes)| (*start_us, &bytes[..]))
                .collect();
            let bytes = header.len() + edges.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
            group.sample_size(if events > 100 { 10 } else { 100 });
            group.bench_function(format!("read {name}, {events} events, {bytes} B"), |bencher| {
                bencher.iter(|| {
                    let partial = Partial::decode_at(plan, as_of_us, &header, edges.iter().copied())
                        .expect("the bytes are whole");
                    let mut rows = AggregateBatch::new(plan);
                    let ranks: [Arc<Distribution>; 0] = [];
                    rows.push(plan, as_of_us, &[partial], &ranks).expect("the tiles are at hand");
                    rows
                });
            });
        }
        let (last, contributions) = batches.last().expect("there is a batch");
        let (last, contributions) = (
            last.take([last.len() - 1]),
            Contributions {
                rows: vec![0],
                slots: contributions.slots.iter().map(|slot| slot.take([contributions.len() - 1])).collect(),
            },
        );
        let snapshot = state.snapshot();
        let restored = || ViewState::restore(plan.clone(), snapshot.clone()).expect("the snapshot is whole");
        group.bench_function(format!("apply and publish, {events} events"), |bencher| {
            bencher.iter_batched_ref(
                restored,
                |state| {
                    state.apply(&last, &[1], &contributions);
                    state.drain_publish()
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, apply, key);
criterion_main!(benches);
