//! `StateV1`: golden bytes, round trips, and damaged bytes, which are errors and never panics.

use crate::common::{Event, HOUR, MINUTE, SECOND, batch, full_view, plan_of, view_of, wide_view};
use plumb_core::entity::EntityKey;
use plumb_core::global::{GlobalPartial, global_key};
use plumb_core::plan::Plan;
use plumb_core::read::{AggregateBatch, Partial};
use plumb_core::state::{Field, FieldWrite, ViewState, partition_key};
use plumb_core::view::{Operator, WindowSpec};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;

const START: i64 = 1_700_000_040 * SECOND;

fn state_of(plan: &Arc<Plan>, events: &[Event]) -> ViewState {
    let mut state = ViewState::new(plan.clone());
    let (events, contributions) = batch(events);
    state.apply(&events, &[1], &contributions);
    state
}

/// Events with every kind of value: `count` of them on key `k`, one each `step` µs from `start`.
fn mixed(start: i64, count: usize, step: i64) -> Vec<Event> {
    (0..count)
        .map(|index| {
            let odd = index % 2 == 1;
            let category = ["bread", "milk", "wine"][index % 3];
            Event {
                id: odd.then(|| format!("id{index}")),
                mark: index % 3 != 0,
                amount: (index % 4 != 3).then_some(index as f64 * 1.25 - 2.0),
                category: (index % 5 != 0).then(|| category.to_owned()),
                quantity: odd.then_some(index as i64 - 3),
                flag: (index % 3 == 1).then_some(odd),
                seen: (index % 7 == 2).then_some(start - index as i64),
                ..Event::bare(start + index as i64 * step, "k")
            }
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.chunks(32).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n").collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// One file per state: a line `# key field` before each field's bytes.
fn dump(writes: &[FieldWrite]) -> String {
    let name = |key: &EntityKey| match std::str::from_utf8(key.as_bytes()) {
        Ok(name) => name.to_owned(),
        Err(_) => format!("0x{}", hex(key.as_bytes()).trim()),
    };
    writes
        .iter()
        .map(|write| format!("# {} {:?}\n{}", name(&write.key), write.field, hex(write.value.as_deref().unwrap())))
        .collect()
}

fn load(text: &str) -> Vec<FieldWrite> {
    text.split("# ")
        .skip(1)
        .map(|section| {
            let (title, bytes) = section.split_once('\n').unwrap();
            let (key, field) = title.split_once(' ').unwrap();
            let key = match key.strip_prefix("0x") {
                Some(digits) => EntityKey::from_bytes(&unhex(digits)),
                None => EntityKey::from_parts(&[key]),
            };
            let field = match field.strip_prefix("Tile(").and_then(|rest| rest.strip_suffix(')')) {
                Some(start) => Field::Tile(start.parse().unwrap()),
                None => Field::Header,
            };
            FieldWrite { key, field, value: Some(unhex(bytes)) }
        })
        .collect()
}

/// The states whose bytes are fixed. Format 1 is never to change: what a new program writes may differ under a
/// new format number only, and these files stay readable.
fn golden_states() -> Vec<(&'static str, Arc<Plan>, ViewState)> {
    let full = plan_of(&full_view(), 10 * MINUTE);
    let wide = plan_of(&wide_view(), 10 * MINUTE);
    let life = plan_of(&view_of(&[(Operator::Sum, 1, WindowSpec::Lifetime)]), MINUTE);
    let state = |plan: &Arc<Plan>, events: &[Event]| state_of(plan, events);
    let mut folded = mixed(START - 20 * HOUR, 30, 3 * SECOND);
    folded.extend(mixed(START, 24, 2 * SECOND));
    folded.push(Event::bare(START - 30 * HOUR, "k"));
    let floats = [0.1, -2.5, 1e300, 5e-324, 19.99, -0.0];
    let floats = floats
        .iter()
        .enumerate()
        .map(|(index, &amount)| Event { amount: Some(amount), ..Event::bare(START + index as i64, "k") });
    vec![
        ("found_only", full.clone(), state(&full, &[Event::bare(START, "k")])),
        ("small_tiles", full.clone(), state(&full, &mixed(START, 12, 25 * SECOND))),
        ("big_tile", full.clone(), state(&full, &mixed(START, 20, SECOND + 1))),
        ("base_and_tiles", full.clone(), state(&full, &folded)),
        ("lifetime_floats", life.clone(), state(&life, &floats.collect::<Vec<_>>())),
        ("wide_small_tiles", wide.clone(), state(&wide, &mixed(START, 12, 25 * SECOND))),
        ("wide_base_and_tiles", wide.clone(), state(&wide, &folded)),
    ]
}

#[test]
fn golden_bytes_are_written_and_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/state_v1");
    for (name, plan, state) in golden_states() {
        let path = folder.join(format!("{name}.hex"));
        let written = dump(&state.snapshot());
        if std::env::var_os("PLUMB_WRITE_GOLDEN").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, &written).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(written, golden, "{name}: the bytes of format 1 have changed");
        let restored = ViewState::restore(plan, load(&golden)).unwrap();
        assert_eq!(dump(&restored.snapshot()), golden, "{name}");
    }
}

#[test]
fn a_typical_key_is_small() {
    let plan = plan_of(&full_view(), 10 * MINUTE);
    let state = state_of(&plan, &mixed(START, 30, 45 * SECOND));
    let key = EntityKey::from_parts(&["k"]);
    let bytes: usize = state
        .snapshot()
        .iter()
        .filter(|write| write.key == key)
        .filter_map(|write| write.value.as_ref())
        .map(Vec::len)
        .sum();
    assert!(bytes < 500, "{bytes} bytes");
}

#[test]
fn restore_refuses_what_does_not_fit_together() {
    let plan = plan_of(&full_view(), 10 * MINUTE);
    let writes = state_of(&plan, &mixed(START, 20, SECOND)).snapshot();
    let restore = |writes: Vec<FieldWrite>| ViewState::restore(plan.clone(), writes);
    assert!(restore(writes.clone()).is_ok());
    let key = EntityKey::from_parts(&["k"]);
    for missing in [(key.clone(), Field::Header), (key, Field::Tile(START)), (partition_key(), Field::Header)] {
        let mut rest = writes.clone();
        rest.retain(|write| (write.key.clone(), write.field) != missing);
        assert_eq!(rest.len(), writes.len() - 1, "{missing:?}");
        assert!(restore(rest).is_err(), "{missing:?}");
    }
}

/// Decodes and reads whatever these bytes turn out to be.
fn decode_all(plan: &Plan, key: &EntityKey, field: Field, bytes: &[u8]) {
    if global_key(0) == *key {
        for def in &plan.globals {
            drop(GlobalPartial::decode(def, START + HOUR, bytes, [(START, bytes)]));
        }
        return;
    }
    let header = state_of(&plan.clone().into(), &mixed(START, 20, SECOND)).snapshot();
    let header = header.iter().find(|write| write.key == *key && write.field == Field::Header).unwrap();
    let (header, tiles) = match field {
        Field::Header => (bytes, vec![]),
        Field::Tile(start) => (header.value.as_deref().unwrap(), vec![(start, bytes)]),
    };
    if let Ok(partial) = Partial::decode(plan, header, tiles) {
        let mut rows = AggregateBatch::new(plan);
        for after in [0, 1, SECOND, MINUTE, HOUR] {
            let ranks = vec![Default::default(); plan.globals.len()];
            drop(rows.push(plan, START + after, std::slice::from_ref(&partial), &ranks));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn damaged_bytes_are_errors(
        count in 1usize..40,
        step in prop_oneof![Just(SECOND), Just(40 * SECOND), Just(1)],
        which in any::<prop::sample::Index>(),
        cut in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 0..4),
        wide in any::<bool>(),
    ) {
        let plan = plan_of(&if wide { wide_view() } else { full_view() }, 10 * MINUTE);
        let mut events = mixed(START - 30 * HOUR, count, step);
        events.extend(mixed(START, count, step));
        let writes = state_of(&plan, &events).snapshot();
        let at = which.index(writes.len());
        let (key, field) = (writes[at].key.clone(), writes[at].field);
        let whole = writes[at].value.clone().unwrap();

        // Cut short it is never readable.
        let mut broken = writes.clone();
        broken[at].value = Some(whole[..cut.index(whole.len())].to_vec());
        prop_assert!(ViewState::restore(plan.clone(), broken).is_err());

        let mut flipped = whole;
        for (index, bit) in flips {
            let place = index.index(flipped.len());
            flipped[place] ^= 1 << bit;
        }
        if key.as_bytes() == b"k" || key == global_key(0) {
            decode_all(&plan, &key, field, &flipped);
        }
        let mut broken = writes;
        broken[at].value = Some(flipped);
        if let Ok(state) = ViewState::restore(plan.clone(), broken) {
            // Read as some state, it is one like any other: it can be written, and written it can be read.
            prop_assert!(ViewState::restore(plan, state.snapshot()).is_ok());
        }
    }

    #[test]
    fn noise_is_an_error_or_a_state(bytes in prop::collection::vec(any::<u8>(), 0..200), wide in any::<bool>()) {
        let plan = plan_of(&if wide { wide_view() } else { full_view() }, 10 * MINUTE);
        for field in [Field::Header, Field::Tile(START)] {
            let mut versioned = bytes.clone();
            versioned.insert(0, 1);
            decode_all(&plan, &EntityKey::from_parts(&["k"]), field, &versioned);
        }
    }
}
