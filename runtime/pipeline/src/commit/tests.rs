//! Formats: what is written is read back, and what is damaged is noticed. Whole commits are tested by the worker.

use super::state_file::{Contents, Encoder, IdBytes};
use super::*;
use crate::fakes::World;
use plumb_core::ErrorKind;
use plumb_core::entity::EntityKey;
use plumb_core::plan::StateId;
use plumb_core::state::{Field, FieldWrite};
use proptest::prelude::*;
use std::sync::Arc;

const A: StateId = StateId([1; 8]);
const B: StateId = StateId([2; 8]);

fn any_writes() -> impl Strategy<Value = Vec<FieldWrite>> {
    let field = prop_oneof![Just(Field::Header), any::<i64>().prop_map(Field::Tile)];
    let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..9));
    prop::collection::vec((prop::collection::vec(any::<u8>(), 0..9), field, value), 0..6).prop_map(|writes| {
        let write =
            |(key, field, value): (Vec<u8>, _, _)| FieldWrite { key: EntityKey::from_bytes(&key), field, value };
        writes.into_iter().map(write).collect()
    })
}

fn file(a: &[FieldWrite], b: &[FieldWrite], ids: &[IdBytes]) -> Vec<u8> {
    let mut encoder = Encoder::default();
    encoder.state(A, true, a);
    encoder.state(B, false, b);
    encoder.ids(ids);
    encoder.finish()
}

proptest! {
    #[test]
    fn state_files_are_read_back(
        first in any_writes(), second in any_writes(), third in any_writes(),
        ids in prop::collection::vec(any::<[u8; 24]>(), 0..5),
    ) {
        let mut contents = Contents::default();
        contents.read("one", &file(&first, &second, &ids)).unwrap();
        // B has no snapshot: its changes say nothing.
        prop_assert!(!contents.states.contains_key(&B));
        prop_assert_eq!(&contents.states[&A], &first);
        let mut delta = Encoder::default();
        delta.state(A, false, &second);
        delta.state(B, true, &third);
        contents.read("two", &delta.finish()).unwrap();
        prop_assert_eq!(&contents.states[&A], &[first, second.clone()].concat());
        prop_assert_eq!(&contents.states[&B], &third);
        prop_assert_eq!(&contents.ids, &ids);
        // A snapshot replaces what was before it.
        contents.read("three", &file(&second, &[], &[])).unwrap();
        prop_assert_eq!(&contents.states[&A], &second);
    }

    #[test]
    fn no_bytes_make_the_reader_fail_otherwise_than_by_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Contents::default().read("x", &bytes).is_err());
        // With a right checksum too, so that what is behind it gets to see them.
        let mut body = b"plumb\0st\x02\0\0\0".to_vec();
        body.extend_from_slice(&bytes);
        let sum = Sha256::digest(&body);
        body.extend_from_slice(&sum);
        let _either = Contents::default().read("x", &body);
    }
}

#[test]
fn a_state_file_cut_or_changed_anywhere_is_damaged() {
    let writes =
        [FieldWrite { key: EntityKey::from_bytes(b"u1"), field: Field::Tile(-5), value: Some(b"abc".to_vec()) }];
    let good = file(&writes, &writes, &[[7; 24]]);
    Contents::default().read("good", &good).unwrap();
    for at in 0..good.len() {
        let error = Contents::default().read("cut", &good[..at]).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "cut at {at}: {error}");
        let mut changed = good.clone();
        changed[at] ^= 1;
        let error = Contents::default().read("changed", &changed).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "changed at {at}: {error}");
    }
}

#[test]
fn the_bytes_of_every_version_stay_readable() {
    let writes = [
        FieldWrite { key: EntityKey::from_bytes(b"u1"), field: Field::Header, value: Some(b"abc".to_vec()) },
        FieldWrite { key: EntityKey::from_bytes(b"u1"), field: Field::Tile(-60_000_000), value: None },
    ];
    let ids = [[7; 24], [9; 24]];
    let second: &[u8] = include_bytes!("golden/state-v2.bin");
    assert_eq!(file(&writes, &writes[..1], &ids), second);
    let read = |golden: &[u8]| {
        let mut contents = Contents::default();
        contents.read("golden", golden).unwrap();
        contents
    };
    let (first, second) = (read(include_bytes!("golden/state-v1.bin")), read(second));
    assert_eq!((&first.states[&A], &second.states[&A]), (&writes.to_vec(), &writes.to_vec()));
    assert_eq!(second.ids, ids);
    // Version 1 knew no times, and more of the payload's hash.
    let untimed = ids.map(|id| {
        let mut entry = id;
        entry[20..].fill(0);
        entry
    });
    assert_eq!(first.ids, untimed);
    let path = manifest::manifest_path("default", 3, 7);
    for text in [include_str!("golden/manifest-v1.json"), include_str!("golden/manifest-v1-clock.json")] {
        let manifest = Manifest::decode(&path, text.as_bytes()).unwrap();
        assert_eq!(manifest.encode().unwrap(), text.trim_end().as_bytes());
        assert_eq!((manifest.next_offset, manifest.rows.len()), (120, 1));
        assert_eq!(manifest.views[0].state_id(), Some(StateId([1, 2, 3, 4, 5, 6, 7, 8])));
    }
}

#[test]
fn manifests_of_another_kind_are_refused_with_their_path() {
    let mut manifest = Manifest::start("default", 3);
    manifest.seq = 7;
    let path = manifest::manifest_path("default", 3, 7);
    let text = String::from_utf8(manifest.encode().unwrap()).unwrap();
    assert_eq!(Manifest::decode(&path, text.as_bytes()).unwrap(), manifest);
    let refused = |text: String| Manifest::decode(&path, text.as_bytes()).unwrap_err();
    let newer = refused(text.replace("\"format\": 1", "\"format\": 2"));
    assert_eq!((newer.kind(), newer.to_string().contains(&path)), (ErrorKind::Invalid, true), "{newer}");
    let unknown = refused(text.replace("\"seq\"", "\"sequel\": 1, \"seq\""));
    assert!(matches!(unknown, Error::Damaged { .. }), "{unknown}");
    let elsewhere = refused(text.replace("\"seq\": 7", "\"seq\": 8"));
    assert!(elsewhere.to_string().contains("another place"), "{elsewhere}");
    let unbalanced = refused(text.replace("\"read\": 0", "\"read\": 5"));
    assert!(unbalanced.to_string().contains("does not add up"), "{unbalanced}");
}

#[test]
fn of_two_that_take_over_at_once_one_wins() {
    let world = World::default();
    let store: Arc<dyn ObjectStore> = Arc::new(world.store());
    let (mut first, manifest) = Chain::take_over(store.clone(), "s", 0, "first", &|| Ok(0)).unwrap();
    assert_eq!((manifest.seq, manifest.generation), (1, 1));
    let (mut second, manifest) = Chain::take_over(store.clone(), "s", 0, "second", &|| Ok(0)).unwrap();
    assert_eq!((manifest.seq, manifest.generation), (2, 2));
    assert!(matches!(first.commit(manifest.clone()), Err(Error::Fenced { current: 2, own: 1, .. })));
    // Refused for good, also when asked again.
    assert!(matches!(first.commit(manifest.clone()), Err(Error::Fenced { .. })));
    let manifest = second.commit(manifest).unwrap();
    assert_eq!((manifest.seq, manifest.parent.as_ref().unwrap().seq), (3, 2));
    let before = chain::read(store.as_ref(), "s", 0, 2).unwrap().1;
    assert_eq!(manifest.parent.unwrap().sha256, before);
}

#[test]
fn the_job_manifest_keeps_what_was_active() {
    let world = World::default();
    let store: Arc<dyn ObjectStore> = Arc::new(world.store());
    let active = |version: &str| ActiveRef {
        view: ViewRef {
            name: "v".into(),
            version: version.into(),
            digest: format!("d{version}"),
            state_id: "00".into(),
        },
        source: "default".into(),
        since: std::collections::BTreeMap::from([(0, 5)]),
    };
    let mut chain = JobChain::open(store.clone()).unwrap();
    let mut other = JobChain::open(store.clone()).unwrap();
    for version in ["1.0.0", "1.1.0", "1.0.0", "1.2.0"] {
        chain.commit(vec![active(version)]).unwrap();
    }
    let retired: Vec<_> = chain.latest().retired.iter().map(|view| view.version.as_str()).collect();
    assert_eq!(retired, ["1.1.0", "1.0.0"]);
    assert_eq!(JobChain::open(store.clone()).unwrap().latest(), chain.latest());
    assert!(matches!(other.commit(vec![active("9.0.0")]), Err(Error::Fenced { .. })));
    put_component(store.as_ref(), &sha256_hex(b"wasm"), b"wasm").unwrap();
    assert_eq!(read_component(store.as_ref(), &sha256_hex(b"wasm")).unwrap(), b"wasm");
    store.put(&format!("transforms/{}.wasm", sha256_hex(b"wasm")), b"other".to_vec()).unwrap();
    assert!(matches!(read_component(store.as_ref(), &sha256_hex(b"wasm")), Err(Error::Damaged { .. })));
}
