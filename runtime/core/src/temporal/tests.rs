//! The kernel against definitions written out, on small times so that ties and edges are frequent.

use super::window::{push_f64, push_list};
use super::*;
use crate::accumulator::distinct::hash_of;
use crate::accumulator::exact_sum::ExactSum;
use crate::accumulator::moments::Moments;
use crate::accumulator::quantile::{bucket, representative};
use crate::column::DataType;
use crate::contribution::Contributions;
use crate::entity::EntityDef;
use crate::view::{AggregateDef, SlotDef, ViewDef};
use proptest::prelude::*;

#[derive(Debug, Clone)]
struct Event {
    key: Option<u32>,
    time_us: i64,
    id: Option<String>,
    mark: bool,
    number: Option<f64>,
    integer: Option<i64>,
    text: Option<String>,
}

const SLOTS: [SlotType; 4] = [SlotType::Mark, SlotType::F64, SlotType::I64, SlotType::Utf8];
const GAP: i64 = 5;

fn view() -> ViewDef {
    let windows = [
        WindowSpec::Sliding { width_us: 7, hop_us: None },
        WindowSpec::Sliding { width_us: 30, hop_us: None },
        WindowSpec::Sliding { width_us: 12, hop_us: Some(5) },
        WindowSpec::Hopping { width_us: 12, hop_us: 4 },
        WindowSpec::Hopping { width_us: 6, hop_us: 6 },
        WindowSpec::Lifetime,
    ];
    let mut aggregates = Vec::new();
    for window in windows {
        for (slot, operator) in [
            (0, Operator::Count),
            (0, Operator::LastTime),
            (0, Operator::SessionCount { gap_us: GAP }),
            (0, Operator::SessionDurationSum { gap_us: GAP }),
            (1, Operator::Sum),
            (1, Operator::Mean),
            (1, Operator::Last),
            (2, Operator::Sum),
            (2, Operator::Mean),
            (2, Operator::Last),
            (3, Operator::TopK { k: 1 }),
            (3, Operator::TopK { k: 2 }),
            (3, Operator::Last),
            (3, Operator::Count),
            (1, Operator::Min),
            (1, Operator::Max),
            (1, Operator::StdDev),
            (1, Operator::Variance),
            (1, Operator::Quantile { ppm: 500_000 }),
            (1, Operator::Quantile { ppm: 900_000 }),
            (2, Operator::Min),
            (2, Operator::Max),
            (2, Operator::StdDev),
            (2, Operator::Quantile { ppm: 1 }),
            (3, Operator::CountDistinct),
            (3, Operator::ApproxDistinct { k: 1 }),
            (3, Operator::ApproxDistinct { k: 3 }),
            (3, Operator::CollectSet { k: 2 }),
            (3, Operator::CollectSet { k: 9 }),
        ] {
            aggregates.push(AggregateDef { name: format!("a{}", aggregates.len()), operator, slot, window });
        }
    }
    for (width_us, hop_us) in [(12, 4), (3, 3)] {
        aggregates.push(AggregateDef {
            name: format!("a{}", aggregates.len()),
            operator: Operator::RelativeRank,
            slot: 0,
            window: WindowSpec::Hopping { width_us, hop_us },
        });
    }
    let slots = SLOTS.iter().enumerate();
    ViewDef {
        name: "v".into(),
        version: semver::Version::new(1, 0, 0),
        entity: EntityDef { name: "e".into(), key: vec!["k".into()] },
        source: "default".into(),
        description: String::new(),
        owner: String::new(),
        team: String::new(),
        tags: Vec::new(),
        ttl_us: None,
        freshness_us: None,
        fields: Vec::new(),
        slots: slots.map(|(i, &slot_type)| SlotDef { name: format!("s{i}"), slot_type }).collect(),
        aggregates,
        features: Vec::new(),
    }
}

fn contributions(events: &[Event]) -> Contributions {
    let mut all = Contributions::empty(&SLOTS);
    for (row, event) in events.iter().enumerate() {
        all.rows.push(row as u32);
        all.slots[0].push_bool(event.mark);
        push_f64(&mut all.slots[1], event.number);
        match event.integer {
            Some(value) => all.slots[2].push_i64(value),
            None => all.slots[2].push_null(),
        }
        match &event.text {
            Some(text) => all.slots[3].push_bytes(text.as_bytes()),
            None => all.slots[3].push_null(),
        }
    }
    all
}

fn ids(events: &[Event]) -> Column {
    let mut ids = Column::new(&DataType::Utf8);
    for event in events {
        match &event.id {
            Some(id) => ids.push_bytes(id.as_bytes()),
            None => ids.push_null(),
        }
    }
    ids
}

/// Runs the kernel as a driver does: events dealt to workers in batches, slices answered one by one.
/// Per label its row of aggregates and the newest contribution, or `None` when not found.
type Row = (Vec<Column>, Option<i64>);
fn join(
    events: &[Event],
    labels: &[(Option<u32>, i64)],
    keys: usize,
    workers: usize,
    slices: usize,
) -> Vec<Option<Row>> {
    join_as(events, None, labels, keys, (workers, slices), usize::MAX)
}

/// As [`join`], of what was known before T.
fn join_known(
    events: &[Event],
    known_us: Option<&[i64]>,
    labels: &[(Option<u32>, i64)],
    keys: usize,
    workers: usize,
    slices: usize,
) -> Vec<Option<Row>> {
    join_as(events, known_us, labels, keys, (workers, slices), usize::MAX)
}

/// As [`join`], of what was known before T if it is said when each event became known; a worker's share is unloaded
/// after so many batches, and loaded before the slices are answered.
fn join_as(
    events: &[Event],
    known_us: Option<&[i64]>,
    labels: &[(Option<u32>, i64)],
    keys: usize,
    (workers, slices): (usize, usize),
    unload_after: usize,
) -> Vec<Option<Row>> {
    let plan = Plan::new(&view(), 0).unwrap();
    let (history, rank_history) = (|| History::new(&plan, slices), |g| RankHistory::new(&plan, g));
    let history = || if known_us.is_some() { history().keeping_known() } else { history() };
    let rank_history = |g| if known_us.is_some() { rank_history(g).keeping_known() } else { rank_history(g) };
    let mut parts: Vec<History> = (0..workers).map(|_| history()).collect();
    let mut globals: Vec<Vec<RankHistory>> =
        (0..plan.globals.len()).map(|g| (0..workers).map(|_| rank_history(g)).collect()).collect();
    let mut unloaded: Vec<Vec<Vec<u8>>> = vec![Vec::new(); slices];
    for (batch, events) in events.chunks(3).enumerate() {
        let keys: Vec<u32> = events.iter().map(|event| event.key.unwrap_or(NO_KEY)).collect();
        let times: Vec<i64> = events.iter().map(|event| event.time_us).collect();
        let contributions = contributions(events);
        let part = &mut parts[batch % workers];
        match known_us.map(|known_us| &known_us[batch * 3..][..events.len()]) {
            None => {
                part.see(&keys, &times);
                part.push(&keys, &times, Some(&ids(events)), &contributions);
                globals.iter_mut().for_each(|parts| parts[batch % workers].push(&keys, &times, &contributions));
            }
            Some(known) => {
                let seen: Vec<i64> =
                    times.iter().zip(known).map(|(&time_us, &known_us)| time_us.max(known_us)).collect();
                part.see(&keys, &seen);
                part.push_known(&keys, &times, known, Some(&ids(events)), &contributions);
                globals
                    .iter_mut()
                    .for_each(|parts| parts[batch % workers].push_known(&keys, &times, known, &contributions));
            }
        }
        if batch % unload_after == unload_after - 1 {
            for (slice, chunks) in unloaded.iter_mut().enumerate() {
                let mut bytes = Vec::new();
                part.unload(slice, &mut bytes);
                chunks.extend((!bytes.is_empty()).then_some(bytes));
            }
            assert_eq!(part.bytes(), 0, "all of it was unloaded");
        }
    }
    let mut loaded = history();
    for (slice, chunks) in unloaded.iter().enumerate() {
        chunks.iter().for_each(|bytes| loaded.load(slice, bytes).unwrap());
    }
    parts.push(loaded);
    let label_keys: Vec<u32> = labels.iter().map(|label| label.0.unwrap_or(NO_KEY)).collect();
    let label_times: Vec<i64> = labels.iter().map(|label| label.1).collect();
    let ranks: Vec<Vec<f64>> = globals.iter().map(|parts| ranks(parts, keys, &label_keys, &label_times)).collect();
    let parts = Histories::new(parts);
    let mut rows = vec![None; labels.len()];
    for slice in 0..slices {
        let questions = labels.iter().enumerate().filter_map(|(label, &(key, as_of_us))| {
            let key = key.filter(|key| *key as usize % slices == slice)?;
            Some(Question { key, label: label as u32, as_of_us })
        });
        let answers = answer(&plan, &Arranged::new(&parts, slice), questions.collect(), &ranks);
        for &(label, row) in &answers.rows {
            assert_eq!(answers.as_of_us[row as usize], labels[label as usize].1);
            let columns = answers.columns.iter().map(|column| column.take([row as usize])).collect();
            rows[label as usize] = Some((columns, answers.newest_us[row as usize]));
        }
    }
    rows
}

/// The definitions, label by label.
fn naive(events: &[Event], key: u32, as_of_us: i64) -> Option<Row> {
    let plan = Plan::new(&view(), 0).unwrap();
    let own: Vec<&Event> = events.iter().filter(|e| e.key == Some(key) && e.time_us < as_of_us).collect();
    if own.is_empty() {
        return None;
    }
    let contributes =
        |e: &&&Event| e.mark || e.number.is_some_and(f64::is_finite) || e.integer.is_some() || e.text.is_some();
    let newest = own.iter().filter(contributes).map(|e| e.time_us).max();
    let columns = plan.aggregates.iter().map(|aggregate| {
        let slot = plan.accumulators[aggregate.accumulator].slot;
        let has = |e: &Event| match slot {
            0 => e.mark,
            1 => e.number.is_some_and(f64::is_finite),
            2 => e.integer.is_some(),
            _ => e.text.is_some(),
        };
        let (start, end) = aggregate.window.bounds(as_of_us);
        let inside = |t: i64| start <= t && t < end;
        let seen: Vec<&Event> = own.iter().copied().filter(|e| has(e) && inside(e.time_us)).collect();
        let mut column = Column::new(&aggregate.operator.output_type(SLOTS[slot]));
        match aggregate.operator {
            Operator::Count => column.push_i64(seen.len() as i64),
            Operator::Sum | Operator::Mean => {
                let mut sum = ExactSum::new();
                for e in &seen {
                    if slot == 1 { sum.add(e.number.unwrap()) } else { sum.add_i64(e.integer.unwrap()) }
                }
                let mut value = sum.round();
                if aggregate.operator == Operator::Mean {
                    value = value.filter(|_| !seen.is_empty()).map(|sum| sum / seen.len() as f64);
                }
                push_f64(&mut column, value);
            }
            Operator::TopK { k } => {
                let mut values: Vec<&str> = seen.iter().map(|e| e.text.as_deref().unwrap()).collect();
                values.sort_unstable();
                let mut counted: Vec<(usize, &str)> = values.chunk_by(|a, b| a == b).map(|c| (c.len(), c[0])).collect();
                counted.sort_by_key(|&(count, value)| (std::cmp::Reverse(count), value));
                push_list(&mut column, counted.iter().take(k).map(|(_, value)| value.as_bytes()));
            }
            Operator::Last => {
                let newest = seen.iter().max_by(|a, b| {
                    (a.time_us, &a.id).cmp(&(b.time_us, &b.id)).then_with(|| match slot {
                        1 => a.number.unwrap().total_cmp(&b.number.unwrap()),
                        2 => a.integer.cmp(&b.integer),
                        _ => a.text.cmp(&b.text),
                    })
                });
                match (newest, slot) {
                    (None, _) => column.push_null(),
                    (Some(e), 1) => column.push_f64(e.number.unwrap()),
                    (Some(e), 2) => column.push_i64(e.integer.unwrap()),
                    (Some(e), _) => column.push_bytes(e.text.as_ref().unwrap().as_bytes()),
                }
            }
            Operator::LastTime => match seen.iter().map(|e| e.time_us).max() {
                Some(time_us) => column.push_i64(time_us),
                None => column.push_null(),
            },
            Operator::SessionCount { gap_us } | Operator::SessionDurationSum { gap_us } => {
                let mut times: Vec<i64> = own.iter().filter(|e| has(e)).map(|e| e.time_us).collect();
                times.sort_unstable();
                let ending: Vec<&[i64]> =
                    times.chunk_by(|a, b| b - a <= gap_us).filter(|run| inside(run[run.len() - 1])).collect();
                column.push_i64(match aggregate.operator {
                    Operator::SessionCount { .. } => ending.len() as i64,
                    _ => ending.iter().map(|run| run[run.len() - 1] - run[0]).sum(),
                });
            }
            Operator::Min | Operator::Max => {
                let least = aggregate.operator == Operator::Min;
                if slot == 1 {
                    let mut numbers: Vec<f64> = seen.iter().map(|e| e.number.unwrap()).collect();
                    numbers.sort_by(f64::total_cmp);
                    push_f64(&mut column, if least { numbers.first() } else { numbers.last() }.copied());
                } else {
                    let numbers = seen.iter().map(|e| e.integer.unwrap());
                    match if least { numbers.min() } else { numbers.max() } {
                        Some(number) => column.push_i64(number),
                        None => column.push_null(),
                    }
                }
            }
            Operator::Variance | Operator::StdDev => {
                let mut moments = Moments::new();
                for e in &seen {
                    if slot == 1 { moments.add(e.number.unwrap()) } else { moments.add_i64(e.integer.unwrap()) }
                }
                let variance = aggregate.operator == Operator::Variance;
                push_f64(&mut column, if variance { moments.variance() } else { moments.stddev() });
            }
            Operator::Quantile { ppm } => {
                let number = |e: &&&Event| if slot == 1 { e.number.unwrap() } else { e.integer.unwrap() as f64 };
                let mut numbers: Vec<f64> = seen.iter().map(|e| number(&e)).collect();
                numbers.sort_by(f64::total_cmp);
                let rank = (numbers.len() * ppm as usize).div_ceil(1_000_000);
                let value = rank.checked_sub(1).map(|index| representative(bucket(numbers[index])));
                push_f64(&mut column, value);
            }
            Operator::CountDistinct | Operator::ApproxDistinct { .. } | Operator::CollectSet { .. } => {
                let mut values: Vec<&[u8]> = seen.iter().map(|e| e.text.as_deref().unwrap().as_bytes()).collect();
                values.sort_unstable();
                values.dedup();
                match aggregate.operator {
                    Operator::CollectSet { k } => push_list(&mut column, values.into_iter().take(k)),
                    Operator::ApproxDistinct { k } if values.len() > k => {
                        let mut hashes: Vec<u64> = values.into_iter().map(hash_of).collect();
                        hashes.sort_unstable();
                        column.push_i64((((k as u128) << 64) / (u128::from(hashes[k]) + 1)) as i64);
                    }
                    _ => column.push_i64(values.len() as i64),
                }
            }
            Operator::RelativeRank => {
                let count =
                    |key: u32| events.iter().filter(|e| e.key == Some(key) && has(e) && inside(e.time_us)).count();
                let mut all: Vec<u32> = events.iter().filter_map(|e| e.key).filter(|&key| count(key) > 0).collect();
                all.sort_unstable();
                all.dedup();
                let fewer = all.iter().filter(|&&other| count(other) < count(key)).count();
                column.push_f64(match (count(key), all.len()) {
                    (0, _) => 0.0,
                    (_, 1) => 1.0,
                    (_, n) => fewer as f64 / (n - 1) as f64,
                });
            }
        }
        column
    });
    Some((columns.collect(), newest))
}

fn event() -> impl Strategy<Value = Event> {
    let number = prop_oneof![
        Just(0.1),
        Just(-0.1),
        Just(1e300),
        Just(-1e300),
        Just(1e-300),
        Just(f64::MAX),
        Just(f64::NAN),
        Just(f64::INFINITY),
        -10.0..10.0
    ];
    (
        prop_oneof![8 => (0u32..4).prop_map(Some), 1 => Just(None)],
        -60i64..60,
        proptest::option::of("[ab]{0,2}"),
        any::<bool>(),
        proptest::option::of(number),
        proptest::option::of(prop_oneof![Just(i64::MIN), Just(i64::MAX), -5i64..5]),
        proptest::option::of("[xyz]?"),
    )
        .prop_map(|(key, time_us, id, mark, number, integer, text)| Event {
            key,
            time_us,
            id,
            mark,
            number,
            integer,
            text,
        })
}

proptest! {
    // Of few questions about many keys, and of many about few; labels in any order of time.
    #[test]
    fn questions_are_put_in_the_order_of_keys_and_instants(
        asked in prop::collection::vec((0u32..600, -3i64..20), 0..80),
        spread in prop::sample::select(vec![1u32, 40]),
        slices in 1u32..4,
    ) {
        let mut questions: Vec<Question> = asked
            .into_iter()
            .zip(0..)
            .map(|((key, as_of_us), label)| Question { key: key / spread * slices + slices - 1, label, as_of_us })
            .collect();
        let ordered = in_order(questions.clone(), slices);
        // Labels rise as they come, so that a stable order is one by them too.
        questions.sort_by_key(|question| (question.key, question.as_of_us, question.label));
        prop_assert_eq!(ordered, questions);
    }

    #[test]
    fn answers_follow_the_definitions(
        events in proptest::collection::vec(event(), 0..60),
        labels in proptest::collection::vec((proptest::option::weighted(0.9, 0u32..6), -70i64..100), 1..40),
        workers in 1usize..4,
        slices in 1usize..4,
    ) {
        let rows = join(&events, &labels, 6, workers, slices);
        for (row, &(key, as_of_us)) in rows.iter().zip(&labels) {
            let expected = key.and_then(|key| naive(&events, key, as_of_us));
            prop_assert_eq!(row, &expected, "key {:?} at {}", key, as_of_us);
        }
    }

    /// Of numbers whose totals are kept, with their squares or without.
    #[test]
    fn sums_of_ordinary_numbers_follow_the_definitions(
        events in proptest::collection::vec((event(), -100_000i64..100_000, any::<bool>()), 0..60),
        scales in (prop::sample::select(vec![1.0, 0.0, -0.0, 1e-9, 1e6]), prop::sample::select(vec![0.01, 1.0, 1e12, 5e-324])),
        labels in proptest::collection::vec((Just(Some(0u32)), -70i64..100), 1..40),
    ) {
        let events: Vec<Event> = events.into_iter().map(|(event, number, is_first)| Event {
            key: Some(0),
            number: event.number.map(|_| number as f64 * if is_first { scales.0 } else { scales.1 }),
            ..event
        }).collect();
        let rows = join(&events, &labels, 1, 1, 1);
        for (row, &(_, as_of_us)) in rows.iter().zip(&labels) {
            let expected = naive(&events, 0, as_of_us);
            prop_assert_eq!(row, &expected, "at {}", as_of_us);
        }
    }

    #[test]
    fn what_was_not_known_yet_is_not_seen(
        events in proptest::collection::vec((event(), prop_oneof![-2i64..3, 0i64..80]), 0..60),
        labels in proptest::collection::vec((proptest::option::weighted(0.9, 0u32..6), -70i64..150), 1..40),
        workers in 1usize..4,
        slices in 1usize..4,
    ) {
        let known_us: Vec<i64> = events.iter().map(|(event, lag_us)| event.time_us + lag_us).collect();
        let events: Vec<Event> = events.into_iter().map(|(event, _)| event).collect();
        let rows = join_known(&events, Some(&known_us), &labels, 6, workers, slices);
        for (row, &(key, as_of_us)) in rows.iter().zip(&labels) {
            let known = events.iter().zip(&known_us).filter(|&(_, &known_us)| known_us < as_of_us);
            let known: Vec<Event> = known.map(|(event, _)| event.clone()).collect();
            let expected = key.and_then(|key| naive(&known, key, as_of_us));
            prop_assert_eq!(row, &expected, "key {:?} at {}", key, as_of_us);
        }
    }

    #[test]
    fn what_was_unloaded_and_loaded_counts_as_what_stayed(
        events in proptest::collection::vec((event(), 0i64..40), 0..60),
        labels in proptest::collection::vec((proptest::option::weighted(0.9, 0u32..6), -70i64..100), 1..40),
        parts in (1usize..4, 1usize..4),
        unload_after in 1usize..6,
        is_known in any::<bool>(),
    ) {
        let known_us: Vec<i64> = events.iter().map(|(event, lag_us)| event.time_us + lag_us).collect();
        let known_us = is_known.then_some(known_us.as_slice());
        let events: Vec<Event> = events.into_iter().map(|(event, _)| event).collect();
        let rows = join_as(&events, known_us, &labels, 6, parts, unload_after);
        prop_assert_eq!(rows, join_known(&events, known_us, &labels, 6, 1, 1));
    }

    #[test]
    fn order_of_arrival_changes_nothing(
        (events, shuffled) in proptest::collection::vec(event(), 0..40)
            .prop_flat_map(|events| (Just(events.clone()), Just(events).prop_shuffle())),
        labels in proptest::collection::vec((Just(Some(1u32)), -70i64..100), 1..20),
    ) {
        prop_assert_eq!(join(&events, &labels, 4, 1, 1), join(&shuffled, &labels, 4, 2, 3));
    }
}

#[test]
fn a_history_cut_short_is_an_error() {
    let event = |id: &str, text: &str| Event {
        key: Some(1),
        time_us: 5,
        id: Some(id.into()),
        mark: true,
        number: Some(1.5),
        integer: Some(-1),
        text: Some(text.into()),
    };
    let events = [event("a", "x"), event("b", "y")];
    let plan = Plan::new(&view(), 0).unwrap();
    let mut history = History::new(&plan, 1);
    history.see(&[1, 1], &[5, 5]);
    history.push(&[1, 1], &[5, 5], Some(&ids(&events)), &contributions(&events));
    let mut bytes = Vec::new();
    history.unload(0, &mut bytes);
    History::new(&plan, 1).load(0, &bytes).unwrap();
    for end in 0..bytes.len() {
        assert!(History::new(&plan, 1).load(0, &bytes[..end]).is_err(), "{end} of {} bytes", bytes.len());
    }
}

#[test]
fn extreme_instants_are_answered() {
    let event =
        |time_us| Event { key: Some(0), time_us, id: None, mark: true, number: Some(1.0), integer: None, text: None };
    let events = [event(i64::MIN + 1), event(0), event(i64::MAX - 1)];
    for as_of_us in [i64::MIN, i64::MIN + 1, i64::MIN + 2, 0, 1, i64::MAX - 1, i64::MAX] {
        let rows = join(&events, &[(Some(0), as_of_us)], 1, 1, 1);
        assert_eq!(rows[0].is_some(), as_of_us > i64::MIN + 1, "{as_of_us}");
    }
}
