//! No skew between the two ways to a value: the temporal join over history and the read of state give the
//! same bits for every (key, T) that state can answer.

#![allow(clippy::unwrap_used, reason = "helpers of tests; the lint only knows test functions")]

#[allow(
    dead_code,
    clippy::unwrap_used,
    reason = "the oracle in it is another test's; the lint only knows test functions"
)]
#[path = "state/common.rs"]
mod common;

use common::{Event, HOUR, MINUTE, SECOND, Value, batch, full_view, plan_of, value_of, wide_view};
use plumb_core::entity::EntityKey;
use plumb_core::global::{self, Distribution, GlobalPartial, global_key};
use plumb_core::plan::Plan;
use plumb_core::read::{self, AggregateBatch, Partial, Reach};
use plumb_core::state::{Field, ViewState};
use plumb_core::temporal::{Arranged, Histories, History, NO_KEY, Question, RankHistory, answer, ranks};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

const KEYS: [&str; 4] = ["a", "b", "c", "nobody"];
const EPOCH: i64 = 1_700_000_003 * SECOND;

/// Newest contribution and aggregates; `None` = not found.
type Row = Option<(Option<i64>, Vec<Value>)>;

/// What state answers, its events spread over `partitions`; `None` = below the floor.
fn from_state(plan: &Arc<Plan>, events: &[Event], partitions: usize, key: &str, at: i64) -> Option<Row> {
    let held: Vec<BTreeMap<(EntityKey, Field), Vec<u8>>> = (0..partitions)
        .map(|partition| {
            let share: Vec<Event> = events.iter().skip(partition).step_by(partitions).cloned().collect();
            let (batch, contributions) = batch(&share);
            let mut state = ViewState::new(plan.clone());
            state.apply(&batch, &[1], &contributions);
            state.snapshot().into_iter().filter_map(|w| Some(((w.key, w.field), w.value?))).collect()
        })
        .collect();
    let tiles = |partition: &'_ BTreeMap<(EntityKey, Field), Vec<u8>>, key: &EntityKey, wanted: Vec<i64>| {
        let field = |start: i64| Some((start, partition.get(&(key.clone(), Field::Tile(start)))?.clone()));
        wanted.into_iter().filter_map(field).collect::<Vec<(i64, Vec<u8>)>>()
    };
    let key = EntityKey::from_parts(&[key]);
    let mut partials = Vec::new();
    for partition in &held {
        if let Some(header) = partition.get(&(key.clone(), Field::Header)) {
            let tiles = tiles(partition, &key, read::tiles_needed(plan, at));
            let tiles = tiles.iter().map(|(start, bytes)| (*start, &bytes[..]));
            partials.push(Partial::decode(plan, header, tiles).unwrap());
        }
    }
    let mut distributions = Vec::new();
    for (index, def) in plan.globals.iter().enumerate() {
        let mut parts = Vec::new();
        for partition in &held {
            if let Some(header) = partition.get(&(global_key(index), Field::Header)) {
                let tiles = tiles(partition, &global_key(index), global::tiles_needed(def, at));
                let tiles = tiles.iter().map(|(start, bytes)| (*start, &bytes[..]));
                parts.push(GlobalPartial::decode(def, at, header, tiles).unwrap());
            }
        }
        distributions.push(Arc::new(Distribution::merge(def, at, &parts)?));
    }
    let mut rows = AggregateBatch::new(plan);
    match rows.push(plan, at, &partials, &distributions).unwrap() {
        Reach::BelowFloor => None,
        Reach::Answered => Some(
            rows.found[0].then(|| (rows.newest_us[0], rows.columns.iter().map(|column| value_of(column, 0)).collect())),
        ),
    }
}

/// What the join answers for all labels.
fn from_history(plan: &Plan, events: &[Event], labels: &[(usize, i64)], slices: usize) -> Vec<Row> {
    let mut parts = [History::new(plan, slices), History::new(plan, slices)];
    let mut globals: Vec<[RankHistory; 2]> =
        (0..plan.globals.len()).map(|g| [RankHistory::new(plan, g), RankHistory::new(plan, g)]).collect();
    for (index, events) in events.chunks(4).enumerate() {
        let (batch, contributions) = batch(events);
        let number = |event: &Event| {
            let name = event.key.as_deref();
            KEYS.iter().position(|&key| Some(key) == name).map_or(NO_KEY, |key| key as u32)
        };
        let keys: Vec<u32> = events.iter().map(number).collect();
        parts[index % 2].see(&keys, &batch.times_us);
        parts[index % 2].push(&keys, &batch.times_us, Some(&batch.columns[0]), &contributions);
        globals.iter_mut().for_each(|parts| parts[index % 2].push(&keys, &batch.times_us, &contributions));
    }
    let keys: Vec<u32> = labels.iter().map(|label| label.0 as u32).collect();
    let times: Vec<i64> = labels.iter().map(|label| label.1).collect();
    let ranked: Vec<Vec<f64>> = globals.iter().map(|parts| ranks(parts, KEYS.len(), &keys, &times)).collect();
    let parts = Histories::new(parts.into());
    let mut rows = vec![None; labels.len()];
    for slice in 0..slices {
        let questions = (0..labels.len()).filter(|&label| labels[label].0 % slices == slice);
        let questions =
            questions.map(|label| Question { key: keys[label], label: label as u32, as_of_us: times[label] });
        let answers = answer(plan, &Arranged::new(&parts, slice), questions.collect(), &ranked);
        for &(label, row) in &answers.rows {
            let values = answers.columns.iter().map(|column| value_of(column, row as usize)).collect();
            rows[label as usize] = Some((answers.newest_us[row as usize], values));
        }
    }
    rows
}

fn instant() -> impl Strategy<Value = i64> {
    let minutes = EPOCH.div_euclid(MINUTE) * MINUTE;
    prop_oneof![
        4 => (0i64..400, -1i64..=1).prop_map(move |(minute, beside)| minutes + minute * MINUTE + beside),
        4 => (0i64..50).prop_map(move |step| minutes + 3 * HOUR + step * 30 * SECOND),
        1 => (0i64..7 * HOUR).prop_map(|offset| EPOCH + offset),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let amount = prop_oneof![
        Just(0.1),
        Just(-0.0),
        Just(1e300),
        Just(-1e300),
        Just(5e-324),
        Just(f64::MAX),
        Just(f64::NAN),
        -100.0..100.0
    ];
    (
        (proptest::option::weighted(0.9, proptest::sample::select(&KEYS[..3])), instant()),
        proptest::option::of("[a-c]{0,2}"),
        any::<bool>(),
        proptest::option::of(amount),
        proptest::option::of("[x-z]{0,1}"),
        proptest::option::of(prop_oneof![Just(i64::MIN), Just(i64::MAX), -9i64..9]),
        proptest::option::of(any::<bool>()),
        proptest::option::of(-5i64..5),
    )
        .prop_map(|((key, time), id, mark, amount, category, quantity, flag, seen)| Event {
            time,
            id,
            key: key.map(Into::into),
            mark,
            amount,
            category,
            quantity,
            flag,
            seen,
        })
}

proptest! {
    #[test]
    fn the_join_is_the_read(
        events in proptest::collection::vec(event(), 0..80),
        labels in proptest::collection::vec((0usize..4, instant()), 1..25),
        partitions in 1usize..4,
        slices in 1usize..4,
        wide in any::<bool>(),
    ) {
        let plan = plan_of(&if wide { wide_view() } else { full_view() }, HOUR);
        let joined = from_history(&plan, &events, &labels, slices);
        for (row, &(key, at)) in joined.iter().zip(&labels) {
            if let Some(read) = from_state(&plan, &events, partitions, KEYS[key], at) {
                prop_assert_eq!(row, &read, "key {} at {}", KEYS[key], at);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_join_is_the_read_of_crowded_tiles(
        seeds in proptest::collection::vec((0i64..45, event()), 60..200),
        labels in proptest::collection::vec((0usize..1, (0i64..60, 0i64..3)), 1..12),
        partitions in 1usize..4,
        wide in any::<bool>(),
    ) {
        // All on one key within three minutes: state has totals of every tile.
        let at = |step: i64| EPOCH + step * 4 * SECOND;
        let crowd = |(step, event)| Event { time: at(step), key: Some("a".into()), ..event };
        let events: Vec<Event> = seeds.into_iter().map(crowd).collect();
        let labels: Vec<(usize, i64)> = labels.into_iter().map(|(key, (step, beside))| (key, at(step) + beside)).collect();
        let plan = plan_of(&if wide { wide_view() } else { full_view() }, HOUR);
        for (row, &(key, at)) in from_history(&plan, &events, &labels, 2).iter().zip(&labels) {
            let read = from_state(&plan, &events, partitions, KEYS[key], at);
            prop_assert_eq!(Some(row), read.as_ref(), "at {}", at);
        }
    }
}

#[test]
fn most_instants_of_the_property_are_above_the_floor() {
    let plan = plan_of(&full_view(), HOUR);
    let events = [Event { mark: true, ..Event::bare(EPOCH + 4 * HOUR, "a") }];
    let read = from_state(&plan, &events, 1, "a", EPOCH + 4 * HOUR + 1);
    assert!(matches!(read, Some(Some(_))), "the comparison must not be vacuous");
}
