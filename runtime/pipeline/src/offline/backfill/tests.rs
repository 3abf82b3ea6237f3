//! Backfills against joins at their instants, and made in several runs against made in one.

use super::super::testing::{Event, FakeScratch, FakeSnapshots, batch, readers, text_column, transforms, windowed};
use super::super::tests::{event, event_strategy, events};
use super::super::{JoinOptions, Labels, Selection, check, join};
use super::*;
use crate::port::SnapshotRows;
use plumb_core::column::{Column, Values};
use plumb_core::event::EventBatch;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::Ordering;

const EVERY_DAY: BackfillOptions = BackfillOptions {
    from_us: None,
    to_us: None,
    every: Every::Day,
    entities: Entities::Active,
    max_age_us: None,
    allow_fewer_events: false,
    threads: 1,
};

/// Room in which rows are cut as in any other.
const AMPLE: Room = Room {
    limits: Limits {
        slices: 3,
        share_bytes: usize::MAX,
        sort_bytes: 16_000,
        run_bytes: usize::MAX,
        question_bytes: usize::MAX,
        answer_bytes: usize::MAX,
        answer_rows: 1000,
        part_rows: 1000,
        slice_bytes: usize::MAX,
    },
    part_rows: 7,
    few_rows: 20,
    stretch_rows: 20,
};

/// Room for hardly anything.
fn small(slices: usize, bytes: usize, answer_rows: usize, sort_rows: usize, stretch_rows: usize) -> Room {
    Room {
        limits: Limits {
            slices,
            share_bytes: bytes,
            question_bytes: bytes / 8,
            answer_bytes: bytes / 4,
            answer_rows,
            sort_bytes: 16 * sort_rows,
            run_bytes: bytes / 8,
            slice_bytes: 1,
            ..AMPLE.limits
        },
        few_rows: stretch_rows,
        stretch_rows,
        ..AMPLE
    }
}

fn small_rooms() -> impl Strategy<Value = Room> {
    (1usize..9, 0usize..4000, 1usize..9, 1usize..20, 1usize..40)
        .prop_map(|(slices, bytes, answer_rows, sort, stretch)| small(slices, bytes, answer_rows, sort, stretch))
}

fn budget(scratch: &FakeScratch) -> Budget<'_> {
    Budget { bytes: 64 << 20, scratch, progress: None }
}

/// A log of two partitions: an event's place in it never changes.
#[derive(Debug, Clone, Default)]
struct Log(Vec<Event>);

struct LogReader(VecDeque<(u32, EventBatch)>);

impl EventReader for LogReader {
    fn next_batch(&mut self) -> Result<Option<EventBatch>> {
        Ok(self.next_of_partition()?.map(|(_, batch)| batch))
    }

    fn next_of_partition(&mut self) -> Result<Option<(u32, EventBatch)>> {
        Ok(self.0.pop_front())
    }
}

impl Log {
    /// Reads the first `end` events, `size` at a time, in the order of the log or against it.
    fn open(&self, end: usize, size: usize, backwards: bool) -> Box<dyn EventReader> {
        let mut batches = Vec::new();
        for partition in 0..2 {
            let offsets: Vec<usize> = (0..end).filter(|offset| offset % 2 == partition).collect();
            for offsets in offsets.chunks(size) {
                let events: Vec<Event> = offsets.iter().map(|&offset| self.0[offset].clone()).collect();
                let mut batch = batch(&events);
                batch.offsets = offsets.iter().map(|&offset| offset as u64).collect();
                batches.push((partition as u32, batch));
            }
        }
        if backwards {
            batches.reverse();
        }
        Box::new(LogReader(batches.into()))
    }

    fn backfill(
        &self,
        end: usize,
        size: usize,
        views: &[Transform],
        options: &BackfillOptions,
        sink: &mut FakeSnapshots,
    ) -> Result<BackfillSummary> {
        self.backfill_in(end, size, views, options, AMPLE, sink)
    }

    fn backfill_in(
        &self,
        end: usize,
        size: usize,
        views: &[Transform],
        options: &BackfillOptions,
        room: Room,
        sink: &mut FakeSnapshots,
    ) -> Result<BackfillSummary> {
        let scratch = FakeScratch::with_room(usize::MAX);
        let mut open = |_: &str| Ok(self.open(end, size, size.is_multiple_of(2)));
        run(&mut open, views, options, budget(&scratch), room, sink)
    }
}

/// Everything kept, as text in which NaN equals itself and -0 does not equal 0.
fn shown(kept: &FakeSnapshots) -> String {
    format!("{:?}", kept.dates.iter().filter(|(_, dates)| !dates.is_empty()).collect::<Vec<_>>())
}

fn views(bounded: bool) -> Vec<Transform> {
    let mut views = if bounded { vec![windowed()] } else { Vec::new() };
    // Of one name there can be one.
    views.extend(transforms(None).into_iter().skip(usize::from(bounded)));
    views
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(25), ..ProptestConfig::with_cases(100) })]

    #[test]
    fn a_backfill_is_a_join_at_its_instants(
        mut events in events(),
        every in proptest::sample::select(&[Every::Event, Every::Hour, Every::Day][..]),
        all in any::<bool>(),
        (from, to) in (proptest::option::of(-60i64..60), proptest::option::of(60i64..90)),
    ) {
        // Small times spread over hours, so that snapshots fall between them, some events on the hour.
        const STRETCH: i64 = HOUR_US / 2;
        events.iter_mut().for_each(|event| event.time_us *= STRETCH);
        let options = BackfillOptions {
            from_us: from.map(|from| from * STRETCH),
            to_us: to.map(|to| to * STRETCH),
            every,
            entities: if all { Entities::All } else { Entities::Active },
            threads: 2,
            ..EVERY_DAY
        };
        let mut kept = FakeSnapshots::default();
        let mut open = |source: &str| Ok(readers(&events, 5).remove(source).unwrap());
        let scratch = FakeScratch::with_room(usize::MAX);
        let summary = backfill(&mut open, &transforms(None), &options, budget(&scratch), &mut kept).unwrap();
        prop_assert_eq!(scratch.written.load(Ordering::Relaxed), 0);
        prop_assert!(kept.finished);
        let users: Vec<&SnapshotRows> =
            kept.dates.get("users").into_iter().flatten().flat_map(|(_, (_, rows))| rows).collect();
        prop_assert_eq!(users.iter().map(|rows| rows.len() as u64).sum::<u64>(), summary.rows["users"]);
        let mut found: Vec<(i64, String)> = Vec::new();
        for rows in &users {
            for row in 0..rows.len() {
                prop_assert_eq!(rows.day_us, rows.times_us[row].div_euclid(DAY_US) * DAY_US);
                let user = rows.keys[0].str_bytes(row).unwrap();
                found.push((rows.times_us[row], String::from_utf8_lossy(user).into_owned()));
            }
        }
        prop_assert_eq!(&found, &expected_instants(&events, &options));
        if found.is_empty() {
            return Ok(());
        }
        let times = Column::of(Values::Timestamp(found.iter().map(|row| row.0).collect()));
        let names: Vec<Option<&str>> = found.iter().map(|row| Some(row.1.as_str())).collect();
        let labels = Labels::new("t", &times, BTreeMap::from([("user_id".to_owned(), text_column(&names))])).unwrap();
        let selection = Selection::all(&transforms(None)[..1]);
        let set = join(&mut readers(&events, 5), &selection, &labels, &JoinOptions::default()).unwrap();
        let mut row = 0;
        for rows in &users {
            for at in 0..rows.len() {
                for (joined, filled) in set.views[0].features.iter().zip(&rows.features) {
                    prop_assert!(check::same_bits_at(joined, row, filled, at), "row {}", row);
                }
                row += 1;
            }
        }
    }

    #[test]
    fn in_several_runs_as_in_one(
        mut log in proptest::collection::vec(event_strategy(), 0..60),
        cuts in proptest::collection::vec(
            (0usize..60, proptest::option::of(0usize..12), proptest::option::of(-14i64..14), proptest::option::of(-14i64..14)),
            1..4,
        ),
        every in proptest::sample::select(&[Every::Event, Every::Hour, Every::Day][..]),
        all in any::<bool>(),
        (size, room) in (1usize..9, small_rooms()),
    ) {
        // Over twelve days, some events at midnight.
        log.iter_mut().for_each(|event| event.time_us *= 3 * HOUR_US);
        let log = Log(log);
        let views = views(true);
        let entities = if all { Entities::All } else { Entities::Active };
        let options = BackfillOptions { every, entities, ..EVERY_DAY };
        let mut whole = FakeSnapshots::default();
        log.backfill(log.0.len(), 4, &views, &options, &mut whole).unwrap();

        let mut kept = FakeSnapshots::default();
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.0.min(log.0.len())).collect();
        ends.sort_unstable();
        for (end, (_, fails_after, from, to)) in ends.into_iter().zip(cuts) {
            kept = kept.again(fails_after);
            let half_day_us = DAY_US / 2;
            let (from_us, mut to_us) = (from.map(|from| from * half_day_us), to.map(|to| to * half_day_us));
            if all {
                // What was once made past the newest event stays, which is not what a run from nothing makes.
                let newest_us = log.0.iter().map(|event| event.time_us).max();
                to_us = to_us.map(|to_us| newest_us.map_or(to_us, |newest_us| to_us.min(every.next_us(newest_us))));
            }
            if from_us.zip(to_us).is_some_and(|(from_us, to_us)| from_us >= to_us) {
                continue;
            }
            let options = BackfillOptions { from_us, to_us, threads: 2, ..options };
            let result = log.backfill_in(end, size, &views, &options, room, &mut kept);
            if let Err(error) = result {
                prop_assert!(fails_after.is_some() && error.to_string().contains("killed"), "{}", error);
            }
        }
        let (shown_before, dates_before) = (shown(&kept), kept.dates.clone());
        kept = kept.again(None);
        let summary = log.backfill_in(log.0.len(), size, &views, &options, room, &mut kept).unwrap();
        prop_assert_eq!(shown(&kept), shown(&whole), "from {}", shown_before);
        // Only what was missing or of other events was made.
        for (view, day_us) in &kept.completed {
            let before = dates_before.get(view).and_then(|dates| dates.get(day_us));
            prop_assert!(before.is_none_or(|(date, _)| date.inputs != kept.dates[view][day_us].0.inputs));
        }
        let made: u64 = summary.dates.values().map(|counts| counts.made).sum();
        prop_assert_eq!(made, kept.completed.len() as u64);
        let all: u64 = summary.dates.values().map(|counts| counts.made + counts.unchanged).sum();
        prop_assert_eq!(all, kept.dates.values().map(|dates| dates.len() as u64).sum::<u64>());
        // And nothing is left to do.
        kept = kept.again(None);
        log.backfill(log.0.len(), size, &views, &options, &mut kept).unwrap();
        prop_assert_eq!((kept.completed, kept.removed), (vec![], vec![]));
    }

    #[test]
    fn no_budget_changes_a_row(
        mut log in proptest::collection::vec(event_strategy(), 0..80),
        every in proptest::sample::select(&[Every::Event, Every::Hour, Every::Day][..]),
        all in any::<bool>(),
        (size, threads) in (1usize..30, proptest::sample::select(&[1usize, 8][..])),
        room in small_rooms(),
    ) {
        log.iter_mut().for_each(|event| event.time_us *= HOUR_US / 2);
        let log = Log(log);
        let entities = if all { Entities::All } else { Entities::Active };
        let options = BackfillOptions { every, entities, ..EVERY_DAY };
        let (mut whole, mut kept) = (FakeSnapshots::default(), FakeSnapshots::default());
        let summary = log.backfill(log.0.len(), 4, &views(false), &options, &mut whole).unwrap();
        let options = BackfillOptions { threads, ..options };
        let in_parts = log.backfill_in(log.0.len(), size, &views(false), &options, room, &mut kept).unwrap();
        prop_assert_eq!(shown(&kept), shown(&whole));
        prop_assert_eq!(kept.completed, whole.completed);
        prop_assert_eq!(in_parts, summary);
    }

    #[test]
    fn a_full_disk_is_an_error_wherever_it_comes(days in 1i64..30, share in 0.0f64..1.0) {
        let log = Log((0..5 * days).map(|n| event(n * DAY_US / 5, "u1", "i1", "view")).collect());
        let room = small(2, 0, 3, 4, 5);
        let made = |bytes: usize, kept: &mut FakeSnapshots| {
            let scratch = FakeScratch::with_room(bytes);
            let mut open = |_: &str| Ok(log.open(log.0.len(), 3, false));
            let result = run(&mut open, &views(true), &EVERY_DAY, budget(&scratch), room, kept);
            (result, scratch.written.load(Ordering::Relaxed))
        };
        let mut whole = FakeSnapshots::default();
        let (_, written) = made(usize::MAX, &mut whole);
        prop_assert!(written > 0);
        let mut kept = FakeSnapshots::default();
        let (result, _) = made((share * written as f64) as usize, &mut kept);
        let error = result.unwrap_err().to_string();
        prop_assert!(error.contains("no space left"), "{}", error);
        prop_assert!(!kept.finished);
        // What was completed before is right, and the next run makes the rest.
        kept = kept.again(None);
        made(usize::MAX, &mut kept).0.unwrap();
        prop_assert_eq!(shown(&kept), shown(&whole));
    }
}

/// (instant, user) of every snapshot row, by the contract's words.
fn expected_instants(events: &[Event], options: &BackfillOptions) -> Vec<(i64, String)> {
    let in_range = |t: i64| options.from_us.is_none_or(|from| t >= from) && options.to_us.is_none_or(|to| t < to);
    let seen: Vec<(i64, &str)> =
        events.iter().filter_map(|event| Some((event.time_us, event.user.as_deref()?))).collect();
    let step = match options.every {
        Every::Event => {
            let mut rows: Vec<(i64, String)> = seen
                .iter()
                .filter(|(time, _)| in_range(time + 1))
                .map(|&(time, user)| (time + 1, user.to_owned()))
                .collect();
            rows.sort();
            return rows;
        }
        Every::Hour => HOUR_US,
        Every::Day => DAY_US,
    };
    let mut rows = Vec::new();
    let users: BTreeSet<&str> = seen.iter().map(|seen| seen.1).collect();
    // Instants after the last event's, which may carry no user, are not looked at unless `to` says so.
    let last = events.iter().map(|event| event.time_us).max();
    let end = options.to_us.or(last.map(|last| last + step + 1)).unwrap_or(0);
    let mut instant = -60 * HOUR_US / step * step - step;
    while instant < end {
        if in_range(instant) {
            for &user in &users {
                let start = if options.entities == Entities::All { i64::MIN } else { instant - step };
                if seen.iter().any(|&(time, other)| other == user && start <= time && time < instant) {
                    rows.push((instant, user.to_owned()));
                }
            }
        }
        instant += step;
    }
    rows
}

/// One event of `u1` at noon of each of ten days, each a view.
fn ten_days() -> Log {
    Log((0..10).map(|day| event(day * DAY_US + DAY_US / 2, "u1", "i1", "view")).collect())
}

#[test]
fn history_in_memory_is_never_read_back() {
    let log = ten_days();
    let scratch = FakeScratch::with_room(0);
    let mut kept = FakeSnapshots::default();
    let mut open = |_: &str| Ok(log.open(10, 3, false));
    let ample = Room { few_rows: 1, ..AMPLE };
    run(&mut open, &views(true), &EVERY_DAY, budget(&scratch), ample, &mut kept).unwrap();
    assert_eq!(kept.completed.len(), 30);
}

fn days(completed: &[(String, i64)], view: &str) -> Vec<i64> {
    completed.iter().filter(|(of, _)| of == view).map(|(_, day_us)| day_us / DAY_US).collect()
}

#[test]
fn a_late_event_changes_the_dates_that_can_see_it() {
    let mut log = ten_days();
    let mut kept = FakeSnapshots::default();
    log.backfill(10, 3, &views(true), &EVERY_DAY, &mut kept).unwrap();
    assert_eq!(days(&kept.completed, "users"), (1..=10).collect::<Vec<_>>());
    log.0.push(event(4 * DAY_US + HOUR_US, "u1", "i1", "view"));
    kept = kept.again(None);
    let summary = log.backfill(11, 3, &views(true), &EVERY_DAY, &mut kept).unwrap();
    // `users` looks back 30 hours at most: on the 5th and, as whole dates count, the 6th.
    assert_eq!(days(&kept.completed, "users"), [5, 6]);
    // `items` has lifetime features: all later dates.
    assert_eq!(days(&kept.completed, "items"), (5..=10).collect::<Vec<_>>());
    let counts = summary.dates["users"];
    assert_eq!((counts.made, counts.unchanged, counts.removed, counts.unchanged_rows), (2, 8, 0, 8));
    // An event that is none of a view's entity changes nothing of it.
    log.0.push(Event { user: None, ..event(4 * DAY_US, "", "i1", "view") });
    kept = kept.again(None);
    log.backfill(12, 3, &views(true), &EVERY_DAY, &mut kept).unwrap();
    assert!(days(&kept.completed, "users").is_empty());
    assert_eq!(days(&kept.completed, "items"), (5..=10).collect::<Vec<_>>());
}

#[test]
fn the_position_of_a_date_is_the_least_that_holds_its_events() {
    let mut kept = FakeSnapshots::default();
    let log = ten_days();
    log.backfill(10, 3, &views(true), &EVERY_DAY, &mut kept).unwrap();
    let position = |view: &str, day: i64| kept.dates[view][&(day * DAY_US)].0.inputs.position.clone();
    assert_eq!(position("users", 1), "default:0=1");
    // Events of the 4th and 5th day, of which those of the one partition and of the other.
    assert_eq!(position("users", 6), "default:0=5,1=6");
    assert_eq!(position("items", 10), "default:0=9,1=10");
    for (date, rows) in kept.dates["users"].values() {
        assert!(rows.iter().all(|rows| rows.position == date.inputs.position));
    }
}

#[test]
fn a_date_made_in_part_keeps_its_part() {
    let log = Log((0..8).map(|hour| event(3 * hour * HOUR_US + 1, "u1", "i1", "view")).collect());
    let every_hour = BackfillOptions { every: Every::Hour, ..EVERY_DAY };
    let part =
        |from: i64, to: i64| BackfillOptions { from_us: Some(from * HOUR_US), to_us: Some(to * HOUR_US), ..every_hour };
    let mut kept = FakeSnapshots::default();
    log.backfill(8, 3, &views(true), &part(0, 8), &mut kept).unwrap();
    assert_eq!(kept.dates["users"][&0].0.rows, 3);
    kept = kept.again(None);
    log.backfill(8, 3, &views(true), &part(12, 15), &mut kept).unwrap();
    let date = &kept.dates["users"][&0].0;
    assert_eq!((date.rows, date.inputs.first_us, date.inputs.last_us), (5, 0, 14 * HOUR_US));
}

#[test]
fn fewer_events_than_before_are_refused() {
    let log = ten_days();
    let mut kept = FakeSnapshots::default();
    log.backfill(10, 3, &views(true), &EVERY_DAY, &mut kept).unwrap();
    let before = shown(&kept);
    let newest = Log(log.0[9..].to_vec());
    kept = kept.again(None);
    let error = newest.backfill(1, 3, &views(true), &EVERY_DAY, &mut kept).unwrap_err().to_string();
    assert!(error.contains("view `users`") && error.contains("--allow-fewer-events"), "{error}");
    assert_eq!(shown(&kept), before);
    kept = kept.again(None);
    let options = BackfillOptions { allow_fewer_events: true, ..EVERY_DAY };
    newest.backfill(1, 3, &views(true), &options, &mut kept).unwrap();
    let mut whole = FakeSnapshots::default();
    newest.backfill(1, 3, &views(true), &EVERY_DAY, &mut whole).unwrap();
    assert_eq!(shown(&kept), shown(&whole));
    assert_eq!(days(&kept.removed, "users"), (1..=9).collect::<Vec<_>>());
}

#[test]
fn faults_of_dates_made_before_are_not_forgotten() {
    let log = Log((0..8).map(|second| event(second, "u1", "i1", "view")).collect());
    let mut kept = FakeSnapshots::default();
    let first = log.backfill(8, 3, &transforms(None), &EVERY_DAY, &mut kept).unwrap();
    assert_eq!(first.finalize_faults["users"].count, 1);
    kept = kept.again(None);
    let second = log.backfill(8, 3, &transforms(None), &EVERY_DAY, &mut kept).unwrap();
    assert_eq!((second.dates["users"].unchanged_faulty, second.finalize_faults.len()), (1, 0));
}
