//! What is this store's alone; what it has in common with others is in `plumb_testing::online_suite`.

use super::*;
use crate::{DataDir, Embedded};
use plumb_core::entity::EntityKey;
use proptest::prelude::*;

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
}
