//! State rebuilt for some keys takes the place of damaged state: all of it is then what an undisturbed stream holds,
//! byte for byte, and so is what stores have been told.

use crate::common::{Event, HOUR, MINUTE, batch, full_view, plan_of, wide_view};
use crate::oracle::event;
use plumb_core::entity::EntityKey;
use plumb_core::plan::Plan;
use plumb_core::state::{Field, FieldWrite, ViewState};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

type Fields = BTreeMap<(EntityKey, Field), Vec<u8>>;

fn tell(fields: &mut Fields, writes: Vec<FieldWrite>) {
    for FieldWrite { key, field, value } in writes {
        match value {
            Some(value) => drop(fields.insert((key, field), value)),
            None => drop(fields.remove(&(key, field))),
        }
    }
}

fn apply(state: &mut ViewState, events: &[Event]) {
    let (events, contributions) = batch(events);
    state.apply(&events, &[1], &contributions);
}

fn state_of<'a>(plan: &Arc<Plan>, newest_us: Option<i64>, events: impl Iterator<Item = &'a Event>) -> ViewState {
    let mut state = ViewState::new(plan.clone());
    if let Some(newest_us) = newest_us {
        state.advance_to(newest_us);
    }
    for event in events {
        apply(&mut state, std::slice::from_ref(event));
    }
    state
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_is_replaced_is_as_if_nothing_had_been_lost(
        events in prop::collection::vec((event(), any::<bool>(), any::<u16>()), 1..140),
        invented in prop::collection::vec((event(), 0i64..4, 1usize..25), 0..6),
        later in prop::collection::vec(event(), 0..40),
        damaged_keys in prop::sample::subsequence(vec!["a", "b", "c"], 1..=3),
        (told, restarted, far) in (any::<bool>(), any::<bool>(), any::<bool>()),
        lateness in prop_oneof![Just(MINUTE), Just(20 * MINUTE), Just(HOUR)],
        wide in any::<bool>(),
    ) {
        let view = if wide { wide_view() } else { full_view() };
        let plan = plan_of(&view, lateness);
        let is_damaged = |event: &Event| event.key.as_deref().is_some_and(|key| damaged_keys.contains(&key));
        let mut undisturbed = ViewState::new(plan.clone());
        let mut held = ViewState::new(plan.clone());
        let (mut published, mut committed) = (Fields::new(), Vec::new());
        for (event, lost, _) in &events {
            apply(&mut undisturbed, std::slice::from_ref(event));
            if !(*lost && is_damaged(event)) {
                apply(&mut held, std::slice::from_ref(event));
            }
            // Stores are told at any time.
            if event.quantity.is_some() {
                tell(&mut published, held.drain_publish());
            }
            if event.flag.is_some() {
                committed.extend(held.drain_commit());
            }
        }
        if let Some(newest_us) = undisturbed.newest_us() {
            held.advance_to(newest_us);
            // Events that there never were, some of them often.
            for (event, minutes, times) in &invented {
                let event = Event { time: newest_us - minutes * MINUTE, key: Some(damaged_keys[0].into()), ..event.clone() };
                if undisturbed.fields_of(&EntityKey::from_parts(&[damaged_keys[0]])).is_some() {
                    apply(&mut held, &vec![event; *times]);
                }
            }
        }
        if told {
            tell(&mut published, held.drain_publish());
            committed.extend(held.drain_commit());
        }
        if restarted {
            tell(&mut published, held.drain_publish());
            committed.extend(held.drain_commit());
            held = ViewState::restore(plan.clone(), committed.clone()).unwrap();
        }
        // The events of these keys alone, in whatever order, below the floor of all.
        let mut of_keys: Vec<_> = events.iter().filter(|(event, ..)| is_damaged(event)).collect();
        of_keys.sort_by_key(|(_, _, order)| *order);
        let rebuilt = state_of(&plan, undisturbed.newest_us(), of_keys.into_iter().map(|(event, ..)| event));
        let before = held.snapshot();
        let mut differed = 0;
        for key in rebuilt.key_list() {
            let same = held.fields_of(&key) == undisturbed.fields_of(&key);
            prop_assert_eq!(held.replace(&key, &rebuilt).unwrap(), !same);
            differed += usize::from(!same);
            prop_assert!(!held.replace(&key, &rebuilt).unwrap(), "a second time there is nothing to do");
        }
        let (counted, further) = held.replace_counts(&rebuilt, false).unwrap();
        prop_assert_eq!(held.replace_counts(&rebuilt, true).unwrap(), (counted.clone(), further));
        prop_assert_eq!(held.replace_counts(&rebuilt, true).unwrap(), (Vec::new(), false));
        prop_assert!(held.snapshot() == undisturbed.snapshot());
        let untouched = differed == 0 && counted.is_empty() && !further;
        prop_assert_eq!(held.snapshot() == before, untouched);
        // What stores are told from now on makes them whole too, and what comes later is applied as if nothing had been.
        let newest_us = undisturbed.newest_us().unwrap_or(0);
        let folding = far.then(|| Event::bare(newest_us + 3 * HOUR, "d"));
        for event in folding.iter().chain(&later) {
            apply(&mut undisturbed, std::slice::from_ref(event));
            apply(&mut held, std::slice::from_ref(event));
        }
        prop_assert!(held.snapshot() == undisturbed.snapshot());
        tell(&mut published, held.drain_publish());
        committed.extend(held.drain_commit());
        let mut whole = Fields::new();
        tell(&mut whole, undisturbed.snapshot());
        prop_assert!(published == whole);
        let restored = ViewState::restore(plan.clone(), committed).unwrap();
        prop_assert!(restored.snapshot() == undisturbed.snapshot());
    }
}

#[test]
fn state_of_another_time_is_refused() {
    let plan = plan_of(&full_view(), MINUTE);
    let event = Event { mark: true, ..Event::bare(HOUR, "a") };
    let mut held = state_of(&plan, None, std::iter::once(&event));
    let rebuilt = state_of(&plan, Some(2 * HOUR), std::iter::once(&event));
    let key = EntityKey::from_parts(&["a"]);
    assert!(held.replace(&key, &rebuilt).is_err());
    held.advance_to(2 * HOUR);
    assert!(!held.replace(&key, &rebuilt).unwrap());
    assert!(held.replace(&EntityKey::from_parts(&["b"]), &rebuilt).is_err());
}

#[test]
fn a_replaced_tile_that_is_folded_before_anybody_was_told_is_removed() {
    let plan = plan_of(&full_view(), MINUTE);
    let events: Vec<Event> =
        (0..20).map(|second| Event { mark: true, ..Event::bare(HOUR + second * 1_000_000, "a") }).collect();
    let mut undisturbed = state_of(&plan, None, events.iter());
    let mut held = state_of(&plan, None, events.iter().chain(&events));
    let (mut published, mut whole) = (Fields::new(), Fields::new());
    tell(&mut published, held.drain_publish());
    assert!(published.keys().any(|(_, field)| *field == Field::Tile(HOUR)));
    let rebuilt = state_of(&plan, undisturbed.newest_us(), events.iter());
    assert!(held.replace(&EntityKey::from_parts(&["a"]), &rebuilt).unwrap());
    held.replace_counts(&rebuilt, true).unwrap();
    let folding = [Event::bare(4 * HOUR, "b")];
    apply(&mut undisturbed, &folding);
    apply(&mut held, &folding);
    tell(&mut published, held.drain_publish());
    tell(&mut whole, undisturbed.snapshot());
    assert!(published == whole);
}

#[test]
fn a_distribution_of_which_nothing_is_left_leaves_nothing_behind() {
    let plan = plan_of(&full_view(), MINUTE);
    let real = Event::bare(HOUR, "a");
    let invented = Event { mark: true, ..real.clone() };
    let undisturbed = state_of(&plan, None, std::iter::once(&real));
    let mut held = state_of(&plan, None, [&real, &invented].into_iter());
    let (mut published, mut whole) = (Fields::new(), Fields::new());
    tell(&mut published, held.drain_publish());
    let committed = held.drain_commit();
    let mut held = ViewState::restore(plan.clone(), committed.clone()).unwrap();
    assert!(held.replace(&EntityKey::from_parts(&["a"]), &undisturbed).unwrap());
    assert!(!held.replace_counts(&undisturbed, true).unwrap().0.is_empty());
    tell(&mut published, held.drain_publish());
    tell(&mut whole, undisturbed.snapshot());
    assert!(published == whole);
    let restored = ViewState::restore(plan, committed.into_iter().chain(held.drain_commit())).unwrap();
    assert!(restored.snapshot() == undisturbed.snapshot());
}
