use super::*;
use crate::{DataDir, Embedded};
use plumb_core::entity::EntityKey;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

const S1: StateId = StateId(*b"state--1");
const S2: StateId = StateId(*b"state--2");

fn write(state_id: StateId, key: &[u8], field: OnlineField, value: Option<&str>) -> OnlineWrite {
    OnlineWrite {
        entity: "user".into(),
        state_id,
        key: EntityKey::from_bytes(key),
        field,
        value: value.map(|text| text.as_bytes().to_vec()),
    }
}

fn read(state_id: StateId, key: &[u8], tiles: &[i64]) -> OnlineRead {
    OnlineRead { entity: "user".into(), state_id, key: EntityKey::from_bytes(key), tiles: tiles.to_vec() }
}

fn open(dir: &tempfile::TempDir) -> (DataDir, Arc<EmbeddedOnline>) {
    let owned = DataDir::own(dir.path()).unwrap();
    let online = Embedded::open(&owned).unwrap().online().unwrap();
    (owned, online)
}

#[test]
fn a_publish_is_checked_against_generation_and_position() {
    let dir = tempfile::tempdir().unwrap();
    let (_owned, online) = open(&dir);
    assert_eq!(online.claim("s", 0, 3).unwrap(), None);
    let header = [write(S1, b"u", OnlineField::Header, Some("h"))];
    assert_eq!(online.publish("s", 0, 3, None, 10, &header).unwrap(), PublishOutcome::Published);
    // The same publish again: its position is there already.
    let again = online.publish("s", 0, 3, None, 10, &header).unwrap();
    assert_eq!(again, PublishOutcome::Mismatch { stored: Some(10) });
    assert_eq!(online.claim("s", 0, 4).unwrap(), Some(10));
    // The zombie: neither publish nor rebuild, claim nor clear of the old generation has an effect.
    let zombie = [write(S1, b"u", OnlineField::Header, None)];
    assert_eq!(online.publish("s", 0, 3, Some(10), 11, &zombie).unwrap(), PublishOutcome::Fenced { current: 4 });
    assert_eq!(online.rebuild("s", 0, 3, &zombie).unwrap(), PublishOutcome::Fenced { current: 4 });
    assert!(matches!(online.claim("s", 0, 3), Err(Error::Fenced { current: 4, own: 3, .. })));
    assert!(matches!(online.clear("s", 0, 3, None), Err(Error::Fenced { .. })));
    // A rebuild does not touch what has a position.
    assert_eq!(online.rebuild("s", 0, 4, &zombie).unwrap(), PublishOutcome::Mismatch { stored: Some(10) });
    // Another partition and another source are their own.
    assert_eq!(online.claim("s", 1, 1).unwrap(), None);
    assert_eq!(online.claim("t", 0, 1).unwrap(), None);
    let answer = online.read("s", &[0, 1, 2], &[read(S1, b"u", &[])]).unwrap();
    assert_eq!(answer.positions, BTreeMap::from([(0, Some(10)), (1, None), (2, None)]));
    assert_eq!(answer.entities[0].partials.len(), 1);
    assert_eq!(answer.entities[0].partials[0].header, b"h");
}

#[test]
fn an_unclaimed_or_emptied_store_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (_owned, online) = open(&dir);
    assert_eq!(online.publish("s", 0, 2, None, 5, &[]).unwrap(), PublishOutcome::Mismatch { stored: None });
    online.claim("s", 0, 2).unwrap();
    assert_eq!(online.publish("s", 0, 2, Some(4), 5, &[]).unwrap(), PublishOutcome::Mismatch { stored: None });
}

#[test]
fn clear_takes_one_state_or_everything_and_a_rebuild_shows_with_its_closing_publish() {
    let dir = tempfile::tempdir().unwrap();
    let (_owned, online) = open(&dir);
    online.claim("s", 0, 1).unwrap();
    let both = [write(S1, b"u", OnlineField::Header, Some("1")), write(S2, b"u", OnlineField::Header, Some("2"))];
    online.publish("s", 0, 1, None, 7, &both).unwrap();
    online.clear("s", 0, 1, Some(S1)).unwrap();
    let reads = [read(S1, b"u", &[]), read(S2, b"u", &[])];
    let answer = online.read("s", &[0], &reads).unwrap();
    assert_eq!((answer.entities[0].partials.len(), answer.entities[1].partials.len()), (0, 1));
    assert_eq!(answer.positions[&0], Some(7));
    online.clear("s", 0, 1, None).unwrap();
    assert_eq!(online.rebuild("s", 0, 1, &both[..1]).unwrap(), PublishOutcome::Published);
    assert_eq!(online.read("s", &[0], &reads).unwrap().positions[&0], None);
    assert_eq!(online.publish("s", 0, 1, None, 9, &both[1..]).unwrap(), PublishOutcome::Published);
    let answer = online.read("s", &[0], &reads).unwrap();
    assert_eq!(
        (answer.positions[&0], answer.entities[0].partials.len(), answer.entities[1].partials.len()),
        (Some(9), 1, 1)
    );
}

#[test]
fn everything_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (_owned, online) = open(&dir);
        online.claim("s", 0, 1).unwrap();
        online.publish("s", 0, 1, None, 7, &[write(S1, b"u", OnlineField::Tile(-60), Some("t"))]).unwrap();
        online.publish("s", 0, 1, Some(7), 8, &[write(S1, b"u", OnlineField::Header, Some("h"))]).unwrap();
    }
    let (_owned, online) = open(&dir);
    assert_eq!(online.claim("s", 0, 2).unwrap(), Some(8));
    let answer = online.read("s", &[0], &[read(S1, b"u", &[-60, 0])]).unwrap();
    let partial = OnlinePartial { partition: 0, header: b"h".to_vec(), tiles: BTreeMap::from([(-60, b"t".to_vec())]) };
    assert_eq!(answer.entities, vec![vec![partial].into()]);
}

fn any_field() -> impl Strategy<Value = OnlineField> {
    prop_oneof![Just(OnlineField::Header), (-3i64..3).prop_map(|t| OnlineField::Tile(t * 60_000_000))]
}

/// Entities that are prefixes of each other, hold the bytes of fields, or are too long for a key.
fn any_entity() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0x80), any::<u8>()], 0..12),
        (1020usize..1030).prop_map(|len| vec![b'x'; len]),
        Just(vec![b'x'; 70_000]),
    ]
}

proptest! {
    #[test]
    fn no_two_fields_share_a_key(
        a in (any_entity(), any_field(), 0u32..2, prop::bool::ANY),
        b in (any_entity(), any_field(), 0u32..2, prop::bool::ANY),
    ) {
        let key = |(entity, field, partition, first): &(Vec<u8>, OnlineField, u32, bool)| {
            field_key(&prefix_of("s", *partition), if *first { S1 } else { S2 }, entity, *field)
        };
        prop_assert_eq!(a == b, key(&a) == key(&b));
        prop_assert!(key(&a).len() < 2048);
    }

    #[test]
    fn reads_equal_a_map_of_the_writes(
        publishes in prop::collection::vec(
            prop::collection::vec((any_entity(), any_field(), prop::option::of("[a-z]{0,3}")), 0..8), 1..6),
    ) {
        // One database for all cases, a source of its own for each: opening one costs more than a case.
        static SHARED: OnceLock<(tempfile::TempDir, DataDir, Arc<EmbeddedOnline>)> = OnceLock::new();
        static CASES: AtomicU32 = AtomicU32::new(0);
        let (_, _, online) = SHARED.get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            let (owned, online) = open(&dir);
            (dir, owned, online)
        });
        let source = format!("s{}", CASES.fetch_add(1, Ordering::Relaxed));
        online.claim(&source, 0, 1).unwrap();
        let mut map: BTreeMap<(Vec<u8>, OnlineField), String> = BTreeMap::new();
        let mut entities = BTreeSet::new();
        for (index, publish) in publishes.iter().enumerate() {
            // A publish holds each field once.
            let fields: BTreeMap<_, _> =
                publish.iter().map(|(entity, field, value)| ((entity.clone(), *field), value.clone())).collect();
            let writes: Vec<_> =
                fields.iter().map(|((entity, field), value)| write(S1, entity, *field, value.as_deref())).collect();
            let expected = index.checked_sub(1).map(|index| index as u64);
            let outcome = online.publish(&source, 0, 1, expected, index as u64, &writes).unwrap();
            prop_assert_eq!(outcome, PublishOutcome::Published);
            for ((entity, field), value) in fields {
                entities.insert(entity.clone());
                match value {
                    Some(value) => drop(map.insert((entity, field), value)),
                    None => drop(map.remove(&(entity, field))),
                }
            }
        }
        let tiles: Vec<i64> = (-3..3).map(|t| t * 60_000_000).collect();
        for entity in entities {
            let answer = online.read(&source, &[0], &[read(S1, &entity, &tiles)]).unwrap();
            let header = map.get(&(entity.clone(), OnlineField::Header));
            prop_assert_eq!(answer.entities[0].partials.len(), usize::from(header.is_some()));
            if let Some(header) = header {
                let partial = &answer.entities[0].partials[0];
                prop_assert_eq!(&partial.header, header.as_bytes());
                let wanted: BTreeMap<i64, Vec<u8>> = tiles.iter()
                    .filter_map(|&t| Some((t, map.get(&(entity.clone(), OnlineField::Tile(t)))?.as_bytes().to_vec())))
                    .collect();
                prop_assert_eq!(&partial.tiles, &wanted);
            }
        }
    }
}
