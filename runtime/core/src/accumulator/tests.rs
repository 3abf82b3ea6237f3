//! The laws of every accumulator: identity, order and grouping do not matter, for updates and merges alike.

use super::*;
use crate::column::Strings;
use crate::plan::{AccumulatorDef, AccumulatorKind};
use crate::view::SlotType;
use proptest::prelude::*;
use std::collections::BTreeMap;

const GAP_US: i64 = 10;

fn defs() -> Vec<AccumulatorDef> {
    let def = |kind, slot_type| AccumulatorDef { kind, slot: 0, slot_type, in_base: true };
    vec![
        def(AccumulatorKind::Count, SlotType::Mark),
        def(AccumulatorKind::Sum, SlotType::F64),
        def(AccumulatorKind::Sum, SlotType::I64),
        def(AccumulatorKind::ValueCounts, SlotType::Utf8),
        def(AccumulatorKind::Last, SlotType::Utf8),
        def(AccumulatorKind::Last, SlotType::F64),
        def(AccumulatorKind::Last, SlotType::I64),
        def(AccumulatorKind::Last, SlotType::Bool),
        def(AccumulatorKind::LastTime, SlotType::Mark),
        def(AccumulatorKind::Sessions { gap_us: GAP_US }, SlotType::Mark),
        def(AccumulatorKind::Min, SlotType::F64),
        def(AccumulatorKind::Min, SlotType::I64),
        def(AccumulatorKind::Max, SlotType::F64),
        def(AccumulatorKind::Max, SlotType::Timestamp),
        def(AccumulatorKind::Moments, SlotType::F64),
        def(AccumulatorKind::Moments, SlotType::I64),
        def(AccumulatorKind::Quantile, SlotType::F64),
        def(AccumulatorKind::Quantile, SlotType::I64),
        def(AccumulatorKind::Distinct, SlotType::Utf8),
        def(AccumulatorKind::LeastValues { k: 1 }, SlotType::Utf8),
        def(AccumulatorKind::LeastValues { k: 3 }, SlotType::Utf8),
        def(AccumulatorKind::LeastHashes { k: 2 }, SlotType::Utf8),
    ]
}

/// Codes are in no order of their strings, as in live state.
fn dictionary() -> Strings {
    let mut strings = Strings::new();
    for string in ["b", "", "aa", "a", "c"] {
        strings.push(string.as_bytes());
    }
    strings
}

#[derive(Debug, Clone, Copy)]
struct Seed {
    time_us: i64,
    id: u32,
    value: i64,
}

fn seed() -> impl Strategy<Value = Seed> {
    (-60i64..60, 0u32..=5, -20i64..20).prop_map(|(time_us, id, value)| Seed { time_us, id, value })
}

fn input(def: &AccumulatorDef, seed: Seed) -> Input {
    let word = match def.slot_type {
        SlotType::Mark => 0,
        // Zeros of either sign.
        SlotType::F64 if seed.value == 0 && seed.time_us % 2 == 0 => (-0.0f64).to_bits(),
        SlotType::F64 => (seed.value as f64 * 0.1).to_bits(),
        SlotType::Bool => seed.value.rem_euclid(2) as u64,
        SlotType::Utf8 => seed.value.rem_euclid(5) as u64,
        SlotType::I64 | SlotType::Timestamp => seed.value as u64,
    };
    Input { time_us: seed.time_us, id: seed.id, word }
}

fn fold(def: &AccumulatorDef, seeds: &[Seed]) -> Accumulator {
    let mut accumulator = Accumulator::identity(def.kind);
    for &seed in seeds {
        accumulator.update(def, input(def, seed), &dictionary());
    }
    accumulator
}

fn merged(def: &AccumulatorDef, left: &Accumulator, right: &Accumulator) -> Accumulator {
    let mut merged = left.clone();
    merged.merge(def, right, &dictionary());
    merged
}

proptest! {
    #[test]
    fn merging_is_commutative_associative_and_has_an_identity(
        a in prop::collection::vec(seed(), 0..12),
        b in prop::collection::vec(seed(), 0..12),
        c in prop::collection::vec(seed(), 0..12),
    ) {
        for def in defs() {
            let (a, b, c) = (fold(&def, &a), fold(&def, &b), fold(&def, &c));
            let identity = Accumulator::identity(def.kind);
            prop_assert_eq!(merged(&def, &a, &identity), a.clone());
            prop_assert_eq!(merged(&def, &identity, &a), a.clone());
            prop_assert_eq!(merged(&def, &a, &b), merged(&def, &b, &a));
            prop_assert_eq!(
                merged(&def, &merged(&def, &a, &b), &c),
                merged(&def, &a, &merged(&def, &b, &c))
            );
        }
    }

    #[test]
    fn any_order_and_split_is_the_same(
        (seeds, shuffled) in prop::collection::vec(seed(), 0..40)
            .prop_flat_map(|seeds| (Just(seeds.clone()), Just(seeds).prop_shuffle())),
        cut in any::<prop::sample::Index>(),
    ) {
        let (left, right) = shuffled.split_at(cut.index(shuffled.len() + 1));
        for def in defs() {
            let whole = fold(&def, &seeds);
            prop_assert_eq!(&fold(&def, &shuffled), &whole);
            prop_assert_eq!(&merged(&def, &fold(&def, left), &fold(&def, right)), &whole);
        }
    }

    #[test]
    fn sessions_are_runs_of_times(seeds in prop::collection::vec(seed(), 0..40)) {
        let Accumulator::Sessions(sessions) = fold(&defs()[9], &seeds) else { panic!("not sessions") };
        let mut times: Vec<i64> = seeds.iter().map(|seed| seed.time_us).collect();
        times.sort_unstable();
        let expected: Vec<Session> = times
            .chunk_by(|left, right| right - left <= GAP_US)
            .map(|run| Session { start_us: run[0], end_us: run[run.len() - 1], count: run.len() as u64 })
            .collect();
        prop_assert_eq!(sessions.as_slice(), &expected[..]);
    }

    #[test]
    fn the_top_is_most_first_then_by_value(values in prop::collection::vec(0u32..8, 0..40), k in 1usize..10) {
        let mut counts = ValueCounts::new();
        let mut oracle: BTreeMap<u32, u64> = BTreeMap::new();
        for value in values {
            counts.add(value, 1);
            *oracle.entry(value).or_default() += 1;
        }
        let mut ranked: Vec<(u32, u64)> = oracle.into_iter().collect();
        ranked.sort_by_key(|&(value, count)| (std::cmp::Reverse(count), value));
        let expected: Vec<u32> = ranked.into_iter().map(|(value, _)| value).take(k).collect();
        prop_assert_eq!(counts.top(k), expected);
    }
}

#[test]
fn the_gap_itself_still_belongs_to_the_session() {
    let mut sessions = Sessions::new();
    for time_us in [100, 110, 121, 90, 79] {
        sessions.add(Session::of(time_us), GAP_US);
    }
    let spans: Vec<(i64, i64)> = sessions.as_slice().iter().map(|held| (held.start_us, held.end_us)).collect();
    assert_eq!(spans, [(79, 79), (90, 110), (121, 121)]);
}
