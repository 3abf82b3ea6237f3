//! What every online store has to hold, embedded, in Redis or a fake: one suite for all of them.
//!
//! Stores are used through their port only, and each check under sources of its own, so that one store (and one
//! server) serves all. `plumb-pipeline` includes this file for its fake, hence no other dependencies.

use plumb_core::entity::EntityKey;
use plumb_core::plan::StateId;
use plumb_pipeline::port::{
    OnlineEntity, OnlineField, OnlinePartial, OnlineRead, OnlineStore, OnlineWrite, PublishOutcome,
};
use plumb_pipeline::{Error, Result};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::{BTreeMap, BTreeSet};

/// Two states.
pub const S1: StateId = StateId(*b"state--1");
/// The other.
pub const S2: StateId = StateId(*b"state--2");

/// A write of the entity `user`.
pub fn write(state_id: StateId, key: &[u8], field: OnlineField, value: Option<&str>) -> OnlineWrite {
    OnlineWrite {
        entity: "user".into(),
        state_id,
        key: EntityKey::from_bytes(key),
        field,
        value: value.map(|text| text.as_bytes().to_vec()),
    }
}

/// A read of the entity `user`.
pub fn read(state_id: StateId, key: &[u8], tiles: &[i64]) -> OnlineRead {
    OnlineRead { entity: "user".into(), state_id, key: EntityKey::from_bytes(key), tiles: tiles.to_vec() }
}

fn header(value: &str) -> OnlineWrite {
    write(S1, b"u", OnlineField::Header, Some(value))
}

/// All checks but the property.
pub fn conforms(store: &dyn OnlineStore, source: &str) {
    publishes_are_checked_against_generation_and_position(store, &format!("{source}_a"));
    an_unclaimed_partition_is_noticed(store, &format!("{source}_b"));
    clear_takes_one_state_or_all_and_a_rebuild_shows_at_its_end(store, &format!("{source}_c"));
    neighbours_are_left_alone(store, &format!("{source}_d"));
    strange_keys_and_values_come_back(store, &format!("{source}_e"));
}

fn publishes_are_checked_against_generation_and_position(store: &dyn OnlineStore, source: &str) {
    assert_eq!(store.claim(source, 0, 3).unwrap(), None);
    assert_eq!(store.publish(source, 0, 3, None, 10, &[header("h")]).unwrap(), PublishOutcome::Published);
    // The same publish again: its position is there already.
    let again = store.publish(source, 0, 3, None, 10, &[header("h")]).unwrap();
    assert_eq!(again, PublishOutcome::Mismatch { stored: Some(10) });
    // The heartbeat changes nothing.
    assert_eq!(store.publish(source, 0, 3, Some(10), 10, &[]).unwrap(), PublishOutcome::Published);
    assert_eq!(store.claim(source, 0, 4).unwrap(), Some(10));
    // The zombie: neither publish nor rebuild, claim nor clear of the old generation has an effect.
    let zombie = [write(S1, b"u", OnlineField::Header, None)];
    assert_eq!(store.publish(source, 0, 3, Some(10), 11, &zombie).unwrap(), PublishOutcome::Fenced { current: 4 });
    assert_eq!(store.publish(source, 0, 3, Some(10), 10, &[]).unwrap(), PublishOutcome::Fenced { current: 4 });
    assert_eq!(store.rebuild(source, 0, 3, &zombie).unwrap(), PublishOutcome::Fenced { current: 4 });
    assert!(matches!(store.claim(source, 0, 3), Err(Error::Fenced { current: 4, own: 3, .. })));
    assert!(matches!(store.clear(source, 0, 3, None), Err(Error::Fenced { current: 4, own: 3, .. })));
    assert!(matches!(store.clear(source, 0, 3, Some(S1)), Err(Error::Fenced { .. })));
    // A rebuild does not touch what has a position.
    assert_eq!(store.rebuild(source, 0, 4, &zombie).unwrap(), PublishOutcome::Mismatch { stored: Some(10) });
    let answer = store.read(source, &[0, 1, 2], &[read(S1, b"u", &[])]).unwrap();
    assert_eq!(answer.positions, BTreeMap::from([(0, Some(10)), (1, None), (2, None)]));
    assert_eq!(answer.entities[0].partials.len(), 1);
    assert_eq!(answer.entities[0].partials[0].header, b"h");
    // The owner goes on.
    assert_eq!(store.publish(source, 0, 4, Some(10), 12, &[header("i")]).unwrap(), PublishOutcome::Published);
    assert_eq!(store.read(source, &[0], &[read(S1, b"u", &[])]).unwrap().entities[0].partials[0].header, b"i");
}

fn an_unclaimed_partition_is_noticed(store: &dyn OnlineStore, source: &str) {
    assert_eq!(store.publish(source, 0, 2, None, 5, &[]).unwrap(), PublishOutcome::Mismatch { stored: None });
    assert_eq!(store.claim(source, 0, 2).unwrap(), None);
    assert_eq!(store.publish(source, 0, 2, Some(4), 5, &[]).unwrap(), PublishOutcome::Mismatch { stored: None });
    assert_eq!(store.publish(source, 0, 2, None, 5, &[header("h")]).unwrap(), PublishOutcome::Published);
    // A later generation that has not claimed finds nothing of its own.
    assert_eq!(store.publish(source, 0, 3, Some(5), 6, &[]).unwrap(), PublishOutcome::Mismatch { stored: None });
}

fn clear_takes_one_state_or_all_and_a_rebuild_shows_at_its_end(store: &dyn OnlineStore, source: &str) {
    store.claim(source, 0, 1).unwrap();
    let both = [header("1"), write(S2, b"u", OnlineField::Header, Some("2"))];
    store.publish(source, 0, 1, None, 7, &both).unwrap();
    store.clear(source, 0, 1, Some(S1)).unwrap();
    let reads = [read(S1, b"u", &[]), read(S2, b"u", &[])];
    let answer = store.read(source, &[0], &reads).unwrap();
    assert_eq!((answer.entities[0].partials.len(), answer.entities[1].partials.len()), (0, 1));
    assert_eq!(answer.positions[&0], Some(7));
    store.clear(source, 0, 1, None).unwrap();
    let parts: Vec<OnlineWrite> = (0..1000)
        .flat_map(|entity: u32| {
            let key = entity.to_be_bytes();
            [OnlineField::Header, OnlineField::Tile(60)].map(|field| write(S1, &key, field, Some("r")))
        })
        .collect();
    assert_eq!(store.rebuild(source, 0, 1, &parts[..1501]).unwrap(), PublishOutcome::Published);
    assert_eq!(store.rebuild(source, 0, 1, &parts[1501..]).unwrap(), PublishOutcome::Published);
    assert_eq!(store.read(source, &[0], &reads).unwrap().positions[&0], None);
    assert_eq!(store.publish(source, 0, 1, None, 9, &both[1..]).unwrap(), PublishOutcome::Published);
    let answer = store.read(source, &[0], &reads).unwrap();
    assert_eq!(
        (answer.positions[&0], answer.entities[0].partials.len(), answer.entities[1].partials.len()),
        (Some(9), 0, 1)
    );
    let rebuilt: Vec<OnlineRead> = (0..1000u32).map(|entity| read(S1, &entity.to_be_bytes(), &[60, 61])).collect();
    let answer = store.read(source, &[0], &rebuilt).unwrap();
    let wanted: OnlineEntity = vec![partial(0, "r", &[(60, "r")])].into();
    assert!(answer.entities.iter().all(|entity| *entity == wanted));
    // What was cleared while it was being rebuilt is gone all the same.
    store.clear(source, 0, 1, None).unwrap();
    store.rebuild(source, 0, 1, &parts).unwrap();
    store.clear(source, 0, 1, None).unwrap();
    assert_eq!(store.publish(source, 0, 1, None, 10, &[]).unwrap(), PublishOutcome::Published);
    assert_eq!(store.read(source, &[0], &rebuilt[..1]).unwrap().entities[0], OnlineEntity::default());
}

fn neighbours_are_left_alone(store: &dyn OnlineStore, source: &str) {
    let (longer, reads) = (format!("{source}1"), [read(S1, b"u", &[60]), read(S2, b"u", &[])]);
    let writes = [
        header("h"),
        write(S1, b"u", OnlineField::Tile(60), Some("t")),
        write(S2, b"u", OnlineField::Header, Some("2")),
    ];
    for (source, partition) in [(source, 1), (source, 11), (longer.as_str(), 1)] {
        assert_eq!(store.claim(source, partition, 1).unwrap(), None);
        assert_eq!(store.publish(source, partition, 1, None, 5, &writes).unwrap(), PublishOutcome::Published);
    }
    store.clear(source, 1, 1, Some(S1)).unwrap();
    let answer = store.read(source, &[1, 11], &reads).unwrap();
    assert_eq!(answer.entities[0].partials, [partial(11, "h", &[(60, "t")])]);
    assert_eq!(answer.entities[1].partials, [partial(1, "2", &[]), partial(11, "2", &[])]);
    store.clear(source, 1, 1, None).unwrap();
    let answer = store.read(source, &[1, 11], &reads).unwrap();
    assert_eq!(answer.positions, BTreeMap::from([(1, None), (11, Some(5))]));
    assert_eq!(answer.entities[1].partials, [partial(11, "2", &[])]);
    let answer = store.read(&longer, &[1], &reads).unwrap();
    assert_eq!((answer.positions[&1], answer.entities[0].partials.len()), (Some(5), 1));
    // Without partitions there is nothing to be found.
    let answer = store.read(source, &[], &reads).unwrap();
    assert_eq!((answer.positions.len(), answer.entities.len()), (0, 2));
}

fn strange_keys_and_values_come_back(store: &dyn OnlineStore, source: &str) {
    let long = vec![b'x'; 70_000];
    let longer = [long.as_slice(), b"y"].concat();
    let keys: [&[u8]; 8] = [b"", b"\0", b"a:b}", b"{x}:\r\n", b"\xff\xff\xff\xffcomplete", b"\xff\xfe", &long, &longer];
    let big = "v".repeat(1 << 20);
    store.claim(source, 0, 1).unwrap();
    let value = |index: usize| if index == 0 { big.clone() } else { format!("{index}\r\n") };
    let writes: Vec<OnlineWrite> = keys
        .iter()
        .enumerate()
        .flat_map(|(index, key)| {
            [OnlineField::Header, OnlineField::Tile(i64::MIN), OnlineField::Tile(i64::MAX)]
                .map(|field| write(S1, key, field, Some(&value(index))))
        })
        .collect();
    assert_eq!(store.publish(source, 0, 1, None, u64::MAX - 1, &writes).unwrap(), PublishOutcome::Published);
    let reads: Vec<OnlineRead> = keys.iter().map(|key| read(S1, key, &[i64::MIN, 0, i64::MAX])).collect();
    let answer = store.read(source, &[0], &reads).unwrap();
    assert_eq!(answer.positions[&0], Some(u64::MAX - 1));
    for (index, entity) in answer.entities.iter().enumerate() {
        let value = value(index);
        assert_eq!(entity.partials, [partial(0, &value, &[(i64::MIN, &value), (i64::MAX, &value)])]);
    }
    // Many fields of one entity in one publish, and their removal.
    let fields = |value: Option<&str>| -> Vec<OnlineWrite> {
        (0..9000).map(|tile| write(S1, b"many", OnlineField::Tile(tile), value)).collect()
    };
    let mut all = fields(Some("t"));
    all.push(write(S1, b"many", OnlineField::Header, Some("h")));
    let at = u64::MAX - 1;
    assert_eq!(store.publish(source, 0, 1, Some(at), u64::MAX, &all).unwrap(), PublishOutcome::Published);
    let tiles: Vec<i64> = (0..9000).collect();
    let count = || store.read(source, &[0], &[read(S1, b"many", &tiles)]).unwrap().entities[0].partials[0].tiles.len();
    assert_eq!(count(), 9000);
    assert_eq!(
        store.publish(source, 0, 1, Some(u64::MAX), u64::MAX, &fields(None)).unwrap(),
        PublishOutcome::Published
    );
    assert_eq!(count(), 0);
}

fn partial(partition: u32, header: &str, tiles: &[(i64, &str)]) -> OnlinePartial {
    let tiles = tiles.iter().map(|&(start_us, value)| (start_us, value.as_bytes().to_vec())).collect();
    OnlinePartial { partition, header: header.as_bytes().to_vec(), tiles }
}

/// Something done to a store.
#[derive(Debug, Clone)]
enum Step {
    Claim(u32, u64),
    /// Partition, generation below the newest, whether the expected position is right, how far it moves, writes.
    Publish(u32, u64, bool, u64, Vec<OnlineWrite>),
    Rebuild(u32, u64, Vec<OnlineWrite>),
    Clear(u32, u64, Option<StateId>),
}

const PARTITIONS: std::ops::Range<u32> = 0..3;
const TILES: [i64; 3] = [-60, 0, 60];

fn any_write() -> impl Strategy<Value = OnlineWrite> {
    let key =
        prop::sample::select(vec![b"".to_vec(), b"a".to_vec(), b"ab".to_vec(), b"b:}".to_vec(), vec![b'x'; 2000]]);
    let field = prop_oneof![Just(OnlineField::Header), prop::sample::select(&TILES).prop_map(OnlineField::Tile)];
    (prop::bool::ANY, key, field, prop::option::of("[a-z]{0,3}")).prop_map(|(first, key, field, value)| {
        // A state is of one entity.
        let (entity, state_id) = if first { ("user", S1) } else { ("item", S2) };
        OnlineWrite { entity: entity.into(), ..write(state_id, &key, field, value.as_deref()) }
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    let writes = || prop::collection::vec(any_write(), 0..6);
    let older = || prop_oneof![5 => Just(0u64), 1 => 1u64..3];
    prop_oneof![
        2 => (PARTITIONS, 0u64..3).prop_map(|(partition, newer)| Step::Claim(partition, newer)),
        8 => (PARTITIONS, older(), prop::bool::weighted(0.8), 0u64..4, writes())
            .prop_map(|(partition, older, right, by, writes)| Step::Publish(partition, older, right, by, writes)),
        2 => (PARTITIONS, older(), writes())
            .prop_map(|(partition, older, writes)| Step::Rebuild(partition, older, writes)),
        2 => (PARTITIONS, older(), prop::option::of(prop::sample::select(vec![S1, S2])))
            .prop_map(|(partition, older, state)| Step::Clear(partition, older, state)),
    ]
}

type Field = (String, [u8; 8], Vec<u8>, OnlineField);

/// One partition as a store should keep it.
#[derive(Debug, Clone, Default)]
struct Kept {
    generation: u64,
    position: Option<u64>,
    fields: BTreeMap<Field, Vec<u8>>,
    /// What was ever written of.
    entities: BTreeSet<String>,
}

impl Kept {
    fn write(&mut self, writes: &[OnlineWrite]) {
        for write in writes {
            self.entities.insert(write.entity.to_string());
            let key = (write.entity.to_string(), write.state_id.0, write.key.as_bytes().to_vec(), write.field);
            match &write.value {
                Some(value) => drop(self.fields.insert(key, value.clone())),
                None => drop(self.fields.remove(&key)),
            }
        }
    }

    fn partial(&self, partition: u32, read: &OnlineRead) -> Option<OnlinePartial> {
        let field = |field| {
            let key = (read.entity.to_string(), read.state_id.0, read.key.as_bytes().to_vec(), field);
            self.fields.get(&key).cloned()
        };
        let tile = |&start_us: &i64| Some((start_us, field(OnlineField::Tile(start_us))?));
        let tiles = read.tiles.iter().filter_map(tile).collect();
        Some(OnlinePartial { partition, header: field(OnlineField::Header)?, tiles })
    }
}

/// What a call came to, comparable.
#[derive(Debug, PartialEq)]
enum Came {
    Claimed(Option<u64>),
    Outcome(PublishOutcome),
    Done,
    Fenced(u64),
}

fn came<T>(result: Result<T>, as_came: impl FnOnce(T) -> Came) -> Came {
    match result {
        Ok(value) => as_came(value),
        Err(Error::Fenced { current, .. }) => Came::Fenced(current),
        Err(error) => panic!("{error}"),
    }
}

/// Any sequence of calls comes to the same, and reads the same, as on a map. `sources` makes a fresh name per case.
pub fn equals_a_model(store: &dyn OnlineStore, cases: u32, sources: impl Fn() -> String) {
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let steps = prop::collection::vec(any_step(), 1..30);
    runner
        .run(&steps, |steps| {
            let source = sources();
            let mut model: BTreeMap<u32, Kept> = BTreeMap::new();
            for step in steps {
                let (real, wanted) = apply(store, &source, &mut model, &step);
                prop_assert_eq!(real, wanted, "{:?}", step);
                let answer = read_all(store, &source)?;
                let wanted = PARTITIONS.map(|number| (number, model.get(&number).and_then(|kept| kept.position)));
                prop_assert_eq!(&answer.positions, &wanted.collect::<BTreeMap<_, _>>());
                for (read, entity) in all_reads().iter().zip(&answer.entities) {
                    let wanted = PARTITIONS.filter_map(|number| model.get(&number)?.partial(number, read));
                    prop_assert_eq!(&entity.partials, &wanted.collect::<Vec<_>>(), "{:?} after {:?}", read, &step);
                    prop_assert!(entity.ahead.is_empty());
                    // A store in parts may have no part yet for entities that a partition has never written.
                    let mut shown = model.values().filter(|kept| kept.position.is_some());
                    let known = shown.all(|kept| kept.entities.contains(read.entity.as_ref()));
                    prop_assert!(!entity.lost || !known, "{:?} after {:?}", read, &step);
                }
            }
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

fn all_reads() -> Vec<OnlineRead> {
    let mut reads = Vec::new();
    for (entity, state_id) in [("user", S1), ("item", S2)] {
        for key in [b"".to_vec(), b"a".to_vec(), b"ab".to_vec(), b"b:}".to_vec(), vec![b'x'; 2000]] {
            reads.push(OnlineRead { entity: entity.into(), ..read(state_id, &key, &TILES) });
        }
    }
    reads
}

fn read_all(
    store: &dyn OnlineStore,
    source: &str,
) -> std::result::Result<plumb_pipeline::port::OnlineAnswer, TestCaseError> {
    let partitions: Vec<u32> = PARTITIONS.collect();
    store.read(source, &partitions, &all_reads()).map_err(|error| TestCaseError::fail(error.to_string()))
}

fn apply(store: &dyn OnlineStore, source: &str, model: &mut BTreeMap<u32, Kept>, step: &Step) -> (Came, Came) {
    match step {
        Step::Claim(partition, newer) => {
            let kept = model.entry(*partition).or_default();
            kept.generation = (kept.generation + newer).max(1);
            let real = store.claim(source, *partition, kept.generation);
            (came(real, Came::Claimed), Came::Claimed(kept.position))
        }
        Step::Publish(partition, older, right, by, writes) => {
            let kept = model.entry(*partition).or_default();
            let generation = kept.generation.saturating_sub(*older).max(1);
            let expected = if *right { kept.position } else { Some(kept.position.map_or(3, |at| at + 1)) };
            let position = kept.position.unwrap_or(0) + by;
            let real = store.publish(source, *partition, generation, expected, position, writes);
            let wanted = if generation < kept.generation {
                PublishOutcome::Fenced { current: kept.generation }
            } else if generation > kept.generation {
                PublishOutcome::Mismatch { stored: None }
            } else if !right {
                PublishOutcome::Mismatch { stored: kept.position }
            } else {
                kept.write(writes);
                kept.position = Some(position);
                PublishOutcome::Published
            };
            (came(real, Came::Outcome), Came::Outcome(wanted))
        }
        Step::Rebuild(partition, older, writes) => {
            let kept = model.entry(*partition).or_default();
            if kept.generation == 0 {
                return (Came::Done, Came::Done);
            }
            let generation = kept.generation.saturating_sub(*older).max(1);
            let real = store.rebuild(source, *partition, generation, writes);
            let wanted = if generation < kept.generation {
                PublishOutcome::Fenced { current: kept.generation }
            } else if kept.position.is_some() {
                PublishOutcome::Mismatch { stored: kept.position }
            } else {
                kept.write(writes);
                PublishOutcome::Published
            };
            (came(real, Came::Outcome), Came::Outcome(wanted))
        }
        Step::Clear(partition, older, state_id) => {
            let kept = model.entry(*partition).or_default();
            let generation = kept.generation.saturating_sub(*older).max(1);
            let real = store.clear(source, *partition, generation, *state_id);
            let wanted = if generation < kept.generation {
                Came::Fenced(kept.generation)
            } else {
                match state_id {
                    Some(state_id) => kept.fields.retain(|(_, id, _, _), _| *id != state_id.0),
                    None => (kept.generation, kept.position, kept.fields) = (generation, None, BTreeMap::new()),
                }
                Came::Done
            };
            (came(real, |()| Came::Done), wanted)
        }
    }
}
