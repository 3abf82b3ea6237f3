//! State and reads against a naive oracle: any permutation and partitioning of the events, any batch
//! split, restarts and publishes at any point, read at awkward instants.

use crate::common::{Event, HOUR, MINUTE, Row, SECOND, batch, full_view, oracle, plan_of, value_of, wide_view};
use plumb_core::entity::EntityKey;
use plumb_core::global::{self, Distribution, GlobalPartial, global_key};
use plumb_core::plan::Plan;
use plumb_core::read::{self, AggregateBatch, Partial, Reach};
use plumb_core::state::{Field, FieldWrite, ViewState};
use plumb_core::view::ViewDef;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

type Fields = BTreeMap<(EntityKey, Field), Vec<u8>>;

fn apply_writes(fields: &mut Fields, writes: Vec<FieldWrite>) {
    for write in writes {
        match write.value {
            Some(value) => fields.insert((write.key, write.field), value),
            None => fields.remove(&(write.key, write.field)),
        };
    }
}

/// One source partition: live state, what was published, and what was committed.
struct Partition {
    state: ViewState,
    published: Fields,
    committed: Vec<FieldWrite>,
}

impl Partition {
    fn new(plan: &Arc<Plan>) -> Self {
        Self { state: ViewState::new(plan.clone()), published: Fields::new(), committed: Vec::new() }
    }

    fn apply(&mut self, events: &[Event]) {
        let (events, contributions) = batch(events);
        self.state.apply(&events, &[1], &contributions);
    }

    fn publish(&mut self) {
        let writes = self.state.drain_publish();
        assert!(writes.is_sorted_by(|left, right| (&left.key, left.field) < (&right.key, right.field)));
        apply_writes(&mut self.published, writes);
    }

    fn commit(&mut self) {
        self.committed.extend(self.state.drain_commit());
    }

    /// A restart: the state comes back from what was committed. The store is at the same position, or has
    /// been emptied.
    fn restart(&mut self, emptied: bool) {
        self.commit();
        self.publish();
        let before = self.state.snapshot();
        self.state = ViewState::restore(self.state.plan().clone(), self.committed.clone()).unwrap();
        assert_eq!(self.state.snapshot(), before);
        if emptied {
            self.published.clear();
            self.state.mark_all_for_publish();
        }
    }

    fn tiles<'a>(&'a self, key: &EntityKey, wanted: &'a [i64]) -> Vec<(i64, &'a [u8])> {
        let field =
            |start: &i64| self.published.get(&(key.clone(), Field::Tile(*start))).map(|bytes| (*start, &bytes[..]));
        wanted.iter().filter_map(field).collect()
    }
}

/// Reads a key at `at` as serving does; `None` = below the floor.
fn read_at(plan: &Plan, partitions: &[Partition], key: &str, at: i64) -> Option<Row> {
    let key = EntityKey::from_parts(&[key]);
    let wanted = read::tiles_needed(plan, at);
    let mut partials = Vec::new();
    for partition in partitions {
        if let Some(header) = partition.published.get(&(key.clone(), Field::Header)) {
            let tiles = partition.tiles(&key, &wanted);
            // Both ways to decode must do.
            partials.push(match at % 2 {
                0 => Partial::decode(plan, header, tiles).unwrap(),
                _ => Partial::decode_at(plan, at, header, tiles).unwrap(),
            });
        }
    }
    let mut ranks = Vec::new();
    for (index, def) in plan.globals.iter().enumerate() {
        let key = global_key(index);
        let wanted = global::tiles_needed(def, at);
        let mut held = Vec::new();
        for partition in partitions {
            if let Some(header) = partition.published.get(&(key.clone(), Field::Header)) {
                held.push(GlobalPartial::decode(def, at, header, partition.tiles(&key, &wanted)).unwrap());
            }
        }
        ranks.push(Arc::new(Distribution::merge(def, at, &held)?));
    }
    let mut rows = AggregateBatch::new(plan);
    match rows.push(plan, at, &partials, &ranks).unwrap() {
        Reach::BelowFloor => None,
        Reach::Answered => Some(Row {
            found: rows.found[0],
            newest: rows.newest_us[0],
            values: rows.columns.iter().map(|column| value_of(column, 0)).collect(),
        }),
    }
}

fn check(view: &ViewDef, plan: &Plan, partitions: &[Partition], events: &[Event], instants: &[i64]) {
    for &at in instants {
        for key in ["a", "b", "c", "nobody"] {
            let expected = oracle(view, events, key, at);
            match read_at(plan, partitions, key, at) {
                Some(row) => assert_eq!(row, expected, "key {key} at {at}"),
                None => assert!(
                    partitions.iter().any(|partition| !plan.reaches(partition.state.floor_us(), at)),
                    "key {key} at {at} is above every floor"
                ),
            }
        }
    }
}

/// The base of all times in the tests: not on any grid.
const EPOCH: i64 = 1_700_000_003 * SECOND;

fn time() -> impl Strategy<Value = i64> {
    prop_oneof![
        // A crowded minute, coinciding times, and a microsecond beside a grid.
        4 => (0i64..6).prop_map(|step| EPOCH.div_euclid(MINUTE) * MINUTE + 3 * HOUR + step * 10 * SECOND),
        4 => (0i64..600).prop_map(|step| EPOCH + step * 30 * SECOND),
        2 => (0i64..300, -1i64..=1).prop_map(|(minute, beside)| EPOCH.div_euclid(MINUTE) * MINUTE + minute * MINUTE + beside),
        1 => (0i64..5 * HOUR).prop_map(|offset| EPOCH + offset),
    ]
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    let key = prop_oneof![5 => Just(Some("a")), 3 => Just(Some("b")), 2 => Just(Some("c")), 1 => Just(None)];
    let amount = prop_oneof![
        8 => (-400i64..4_000).prop_map(|quarters| quarters as f64 / 4.0),
        1 => Just(-0.0),
        1 => Just(f64::NAN),
        1 => Just(f64::INFINITY),
        1 => (1i64 << 35..1i64 << 40).prop_map(|whole| whole as f64),
    ];
    let category = prop_oneof![Just("x"), Just("xy"), Just("y"), Just(""), Just("é")];
    (
        (time(), key, prop::option::of("[a-c]{1,2}")),
        any::<bool>(),
        prop::option::of(amount),
        prop::option::of(category),
        prop::option::of(-5i64..5),
        prop::option::of(any::<bool>()),
        prop::option::of(any::<i64>()),
    )
        .prop_map(|((time, key, id), mark, amount, category, quantity, flag, seen)| Event {
            time,
            id,
            key: key.map(str::to_owned),
            mark,
            amount,
            category: category.map(str::to_owned),
            quantity,
            flag,
            seen,
        })
}

/// What happens between two slices of a partition's log.
#[derive(Debug, Clone, Copy)]
enum Between {
    Nothing,
    Publish,
    Commit,
    Restart,
    Rebuild,
}

fn instants(events: &[Event], chosen: &[(prop::sample::Index, i64)]) -> Vec<i64> {
    let newest = events.iter().map(|event| event.time).max().unwrap_or(EPOCH);
    let mut instants = vec![newest, newest + 1, newest + HOUR, newest + 40 * HOUR];
    for (index, after) in chosen {
        let time = index.get(events).time;
        instants.extend([time, time + 1, time + after, time + after + 1, time + after - 1]);
    }
    instants
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn any_arrival_reads_as_the_oracle(
        (events, partition_of) in prop::collection::vec(event(), 1..140).prop_flat_map(|events| {
            let len = events.len();
            (Just(events), prop::collection::vec(0usize..4, len))
        }),
        sorted in any::<bool>(),
        partitions in 1usize..=4,
        slices in prop::collection::vec((1usize..40, prop_oneof![
            Just(Between::Nothing), Just(Between::Publish), Just(Between::Commit), Just(Between::Restart),
            Just(Between::Rebuild)
        ]), 1..12),
        chosen in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![
            Just(HOUR), Just(30 * MINUTE), Just(10 * MINUTE), Just(90 * SECOND), Just(5 * MINUTE)
        ]), 4),
        lateness in prop_oneof![Just(MINUTE), Just(20 * MINUTE), Just(HOUR)],
        wide in any::<bool>(),
    ) {
        let view = if wide { wide_view() } else { full_view() };
        let plan = plan_of(&view, lateness);
        let mut events = events;
        if sorted {
            events.sort_by_key(|event| event.time);
        }
        let mut states: Vec<Partition> = (0..partitions).map(|_| Partition::new(&plan)).collect();
        let mut rest = &events[..];
        let mut slices = slices.iter().cycle();
        while !rest.is_empty() {
            let (len, between) = slices.next().unwrap();
            let (slice, tail) = rest.split_at((*len).min(rest.len()));
            let first = events.len() - rest.len();
            for (partition, state) in states.iter_mut().enumerate() {
                let of_it = slice.iter().enumerate().filter(|(at, _)| partition_of[first + at] % partitions == partition);
                let of_it: Vec<Event> = of_it.map(|(_, event)| event.clone()).collect();
                state.apply(&of_it);
                match between {
                    Between::Nothing => {}
                    Between::Publish => state.publish(),
                    Between::Commit => state.commit(),
                    Between::Restart => state.restart(false),
                    Between::Rebuild => state.restart(true),
                }
            }
            rest = tail;
        }
        for state in &mut states {
            state.publish();
            // What was published bit by bit is what there is.
            let mut all = Fields::new();
            apply_writes(&mut all, state.state.snapshot());
            prop_assert_eq!(&state.published, &all);
            prop_assert!(state.state.drain_publish().is_empty());
        }
        check(&view, &plan, &states, &events, &instants(&events, &chosen));
    }

    #[test]
    fn one_crowded_key_reads_as_the_oracle(
        seeds in prop::collection::vec((0i64..90, event()), 60..400),
        chosen in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![
            Just(HOUR), Just(10 * MINUTE), Just(5 * MINUTE)
        ]), 3),
        wide in any::<bool>(),
    ) {
        // All on one key within three minutes and again twenty minutes later: every tile is a big one.
        let events: Vec<Event> = seeds
            .into_iter()
            .map(|(step, event)| Event {
                time: EPOCH + (step % 45) * 4 * SECOND + (step / 45) * 20 * MINUTE,
                key: Some("a".into()),
                ..event
            })
            .collect();
        let view = if wide { wide_view() } else { full_view() };
        let plan = plan_of(&view, MINUTE);
        let mut partition = Partition::new(&plan);
        partition.apply(&events);
        partition.publish();
        check(&view, &plan, &[partition], &events, &instants(&events, &chosen));
    }

    #[test]
    fn permutations_have_equal_bytes(
        (events, shuffled) in prop::collection::vec(event(), 1..80)
            .prop_flat_map(|events| (Just(events.clone()), Just(events).prop_shuffle())),
        cut in any::<prop::sample::Index>(),
        wide in any::<bool>(),
    ) {
        // Generous lateness: nothing is folded before the end, so that both ends have the same floor throughout.
        let plan = plan_of(&if wide { wide_view() } else { full_view() }, 12 * HOUR);
        let mut straight = Partition::new(&plan);
        straight.apply(&events);
        let mut other = Partition::new(&plan);
        let (first, second) = shuffled.split_at(cut.index(shuffled.len()));
        other.apply(first);
        other.restart(true);
        other.apply(second);
        prop_assert_eq!(straight.state.snapshot(), other.state.snapshot());

        // The same holds once everything has been folded.
        let late = [Event::bare(EPOCH + 48 * HOUR, "z")];
        straight.apply(&late);
        other.apply(&late);
        prop_assert_eq!(straight.state.snapshot(), other.state.snapshot());
    }
}

/// Ids of folded contributions are forgotten, and what is left keeps its meaning.
#[test]
fn strings_no_longer_used_are_dropped() {
    let view = full_view();
    let plan = plan_of(&view, MINUTE);
    let mut partition = Partition::new(&plan);
    let events: Vec<Event> = (0..12_000)
        .map(|index| Event {
            id: Some(format!("a rather long id of an event, number {index}")),
            category: Some(["x", "y", "xy"][index % 3].into()),
            ..Event::bare(EPOCH + index as i64 * 5 * SECOND, "a")
        })
        .collect();
    for slice in events.chunks(1_000) {
        partition.apply(slice);
        partition.publish();
    }
    // 12,000 such ids alone would be more than half a megabyte.
    assert!(partition.state.state_bytes() < 600_000, "{} bytes", partition.state.state_bytes());
    let newest = events.last().unwrap().time;
    check(&view, &plan, &[partition], &events, &[newest, newest + 1, newest + HOUR]);
}
