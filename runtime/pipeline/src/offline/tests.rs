//! The drivers against each other and against the audit, which follows the definitions on its own.

use super::audit::{AuditRequest, LeakageReport, Likeness, Table, Truncate, ViolationKind, audit};
use super::testing::{
    Event, FakeScratch, Memory, POISON_COUNT, everything, labels, look_ahead, readers, text_column, transforms,
};
use super::*;
use crate::port::{ArchiveScan, EventReader};
use plumb_core::column::Values;
use plumb_core::event::EventBatch;
use plumb_core::time::{DAY_US, MINUTE_US};
use proptest::prelude::*;

pub(super) type LabelRow = (Option<&'static str>, Option<&'static str>, i64);

pub(super) fn event(time_us: i64, user: &str, item: &str, kind: &str) -> Event {
    Event {
        time_us,
        user: Some(user.into()),
        item: Some(item.into()),
        kind: kind.into(),
        price: Some(1.5),
        ..Event::default()
    }
}

fn run(events: &[Event], labels: &Labels, ttl_us: Option<i64>, options: JoinOptions) -> TrainingSet {
    join(&mut readers(events, 2), &everything(ttl_us), labels, &options).unwrap()
}

/// The label file and the training set as files would hold them.
fn tables(labels: &Labels, set: &TrainingSet, selection: &Selection) -> (Table, Table) {
    let mut columns = vec![("event_time".to_owned(), Column::of(Values::Timestamp(labels.times_us.clone())))];
    columns.extend(labels.keys.iter().map(|(name, column)| (name.clone(), column.clone())));
    let kept = |column: &Column| column.take(set.rows.iter().map(|&row| row as usize));
    let mut dataset: Vec<(String, Column)> =
        columns.iter().map(|(name, column)| (name.clone(), kept(column))).collect();
    let features = selection.order.iter().map(|&(view, feature)| &set.views[view].features[feature]);
    let made = features.chain(set.views.iter().map(|view| &view.event_time)).cloned();
    dataset.extend(selection.column_types().into_iter().map(|(name, _)| name).zip(made));
    (Table { columns }, Table { columns: dataset })
}

fn check_audit(
    events: &[Event],
    labels: &Labels,
    label_table: &Table,
    dataset: &Table,
    ttl_us: Option<i64>,
    options: JoinOptions,
) -> Result<LeakageReport> {
    let scratch = FakeScratch::with_room(usize::MAX);
    let request = AuditRequest {
        labels,
        label_table,
        label_time: "event_time",
        dataset,
        as_of: options.as_of,
        knowledge: options.knowledge,
        max_age_us: options.max_age_us,
        tolerance: 0.0,
        truncate: Truncate::All,
        threads: 2,
        budget: Budget { bytes: 64 << 20, scratch: &scratch, progress: None },
    };
    let report = audit(&mut readers(events, 7), &transforms(ttl_us), request);
    // With everything on disk, too.
    let request = AuditRequest { budget: Budget { bytes: 0, ..request.budget }, threads: 1, ..request };
    let on_disk = audit(&mut readers(events, 3), &transforms(ttl_us), request);
    assert_eq!(format!("{on_disk:?}"), format!("{report:?}"));
    report
}

fn key(names: &'static [&'static str]) -> impl Strategy<Value = Option<&'static str>> {
    proptest::option::weighted(0.9, proptest::sample::select(names))
}

pub(super) fn events() -> impl Strategy<Value = Vec<Event>> {
    proptest::collection::vec(event_strategy(), 0..70)
}

pub(super) fn event_strategy() -> impl Strategy<Value = Event> {
    let number = prop_oneof![
        Just(0.1),
        Just(-0.0),
        Just(15e-324),
        Just(1e-160),
        Just(1e300),
        Just(-1e300),
        Just(f64::NAN),
        Just(f64::MAX),
        -3.0..3.0
    ];
    let event = (
        (key(&["u1", "u2", "u3", "u4"]), key(&["i1", "i2", "i3", "i4", "i5"])),
        -50i64..50,
        proptest::option::of("[ab]{0,2}"),
        proptest::sample::select(&["view", "view", "buy", "silent"][..]),
        proptest::option::of(number),
        proptest::option::of(-4i64..9),
        proptest::option::of(proptest::sample::select(&["x", "y", "z"][..])),
    );
    event.prop_map(|((user, item), time_us, id, kind, price, quantity, category)| Event {
        id,
        time_us,
        ingest_us: 0,
        user: user.map(Into::into),
        item: item.map(Into::into),
        kind: kind.into(),
        price,
        quantity,
        category: category.map(Into::into),
    })
}

pub(super) fn label_rows() -> impl Strategy<Value = Vec<LabelRow>> {
    // u9 and i9 never have events.
    let row = (key(&["u1", "u2", "u3", "u9"]), key(&["i1", "i2", "i9"]), -55i64..80);
    proptest::collection::vec(row, 1..30)
}

pub(super) fn options() -> impl Strategy<Value = JoinOptions> {
    (any::<bool>(), any::<bool>(), proptest::option::of(1i64..30), 1usize..4).prop_map(
        |(at, drop, max_age_us, threads)| JoinOptions {
            as_of: if at { AsOf::At } else { AsOf::Before },
            cold_start: if drop { ColdStart::Drop } else { ColdStart::Null },
            max_age_us,
            threads,
            ..JoinOptions::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_join_gives_passes_the_audit(
        events in events(),
        rows in label_rows(),
        options in options(),
        batch in 1usize..20,
    ) {
        let (labels, selection) = (labels(&rows), everything(Some(40)));
        let set = join(&mut readers(&events, batch), &selection, &labels, &options).unwrap();
        let (label_table, dataset) = tables(&labels, &set, &selection);
        let report = check_audit(&events, &labels, &label_table, &dataset, Some(40), options).unwrap();
        prop_assert!(report.passed(), "{}", report);
        prop_assert_eq!(report.rows_kept, set.summary.rows_kept);
        prop_assert_eq!(report.compared_values, set.summary.rows_kept * 151);
        prop_assert_eq!(report.truncated_rows, set.summary.rows_kept);
        prop_assert!(report.truncated_values >= set.summary.rows_kept * 100);
    }

    #[test]
    fn what_was_ingested_later_is_not_seen(
        events in proptest::collection::vec((event_strategy(), prop_oneof![0i64..3, 0i64..90]), 0..70),
        rows in label_rows(),
        threads in 1usize..4,
        batch in 1usize..20,
    ) {
        let events: Vec<Event> = events
            .into_iter()
            .map(|(event, lag_us)| Event { ingest_us: event.time_us + lag_us, ..event })
            .collect();
        let options = JoinOptions { threads, knowledge: Knowledge::Ingested, ..JoinOptions::default() };
        let selection = everything(Some(40));
        let set = join(&mut readers(&events, batch), &selection, &labels(&rows), &options).unwrap();
        let ahead = rows.iter().filter(|row| events.iter().all(|event| event.ingest_us < row.2)).count();
        prop_assert_eq!(set.summary.rows_ahead, ahead as u64);
        let (label_table, dataset) = tables(&labels(&rows), &set, &selection);
        let report = check_audit(&events, &labels(&rows), &label_table, &dataset, Some(40), options).unwrap();
        prop_assert!(report.passed(), "{}", report);
        for (index, row) in rows.iter().enumerate() {
            let known: Vec<Event> = events.iter().filter(|event| event.ingest_us < row.2).cloned().collect();
            let alone = run(&known, &labels(&[*row]), Some(40), JoinOptions { threads: 1, ..JoinOptions::default() });
            for (all, alone) in set.views.iter().zip(&alone.views) {
                prop_assert_eq!(&all.take(&[index as u32]), alone, "label {}", index);
            }
        }
    }

    #[test]
    fn a_read_of_the_archive_is_a_join(events in events(), rows in label_rows(), one in any::<bool>()) {
        // With one row the scan is narrowed to its entities.
        let rows = if one { &rows[..1] } else { &rows[..] };
        let (labels, selection) = (labels(rows), everything(None));
        let set = run(&events, &labels, None, JoinOptions { threads: 1, ..JoinOptions::default() });
        let scans = BTreeMap::from([("default".to_owned(), ArchiveScan::default())]);
        let request = AtRequest { selection: &selection, rows: &labels, max_age_us: None };
        prop_assert_eq!(at(&Memory(events), &scans, request).unwrap(), set.views);
    }
}

#[test]
fn cold_rows_stay_or_go() {
    let events = [event(5, "u1", "i1", "view")];
    let rows: [LabelRow; 5] = [
        (Some("u1"), Some("i1"), 5),
        (Some("u1"), Some("i1"), 6),
        (Some("u1"), None, 6),
        (Some("u2"), Some("i1"), 6),
        (Some("u1"), Some("i1"), i64::MAX),
    ];
    let set = run(&events, &labels(&rows), None, JoinOptions::default());
    use Status::{Found, NotFound};
    assert_eq!(set.views[0].status, [NotFound, Found, Found, NotFound, Found]);
    assert_eq!(set.views[1].status, [NotFound, Found, NotFound, Found, Found]);
    assert_eq!(set.views[2].status, [NotFound, Found, NotFound, NotFound, Found]);
    assert!(!set.views[0].features[0].is_valid(0), "a count of an entity that is not found is null");
    let dropped = JoinOptions { cold_start: ColdStart::Drop, ..JoinOptions::default() };
    let set = run(&events, &labels(&rows), None, dropped);
    assert_eq!(set.rows, [1, 4]);
    assert_eq!((set.summary.rows_in, set.summary.rows_kept, set.summary.rows_dropped), (5, 2, 3));
    let at = JoinOptions { as_of: AsOf::At, ..dropped };
    assert_eq!(run(&events, &labels(&rows), None, at).rows, [0, 1, 4]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_older_than_the_max_age_is_not_told(
        events in events(),
        rows in label_rows(),
        options in options(),
        ttl_us in proptest::option::of(1i64..30),
    ) {
        let options = JoinOptions { cold_start: ColdStart::Null, ..options };
        let labels = labels(&rows);
        let set = run(&events, &labels, ttl_us, options);
        let fresh = run(&events, &labels, None, JoinOptions { max_age_us: None, ..options });
        // The option goes before what the view says.
        let max_age_us = options.max_age_us.or(ttl_us);
        let contributes = |event: &Event| {
            event.kind != "silent"
                || event.price.is_some_and(f64::is_finite)
                || event.quantity.is_some()
                || event.category.is_some()
        };
        for (row, &(user, _, time_us)) in rows.iter().enumerate() {
            let as_of_us = if options.as_of == AsOf::At { time_us + 1 } else { time_us };
            let of_user = events.iter().filter(|event| event.user.is_some() && event.user.as_deref() == user);
            let past = of_user.filter(|event| event.time_us < as_of_us);
            let newest_us = past.filter(|event| contributes(event)).map(|event| event.time_us).max();
            // Exactly that old is not too old; without any contribution there is nothing that could be.
            let is_old = newest_us.zip(max_age_us).is_some_and(|(newest_us, age_us)| as_of_us - newest_us > age_us);
            let (found, expected) = (&set.views[0], &fresh.views[0]);
            prop_assert_eq!(found.status[row] == Status::OutsideMaxAge, is_old, "row {}", row);
            for (feature, expected) in found.features.iter().zip(&expected.features) {
                if is_old {
                    prop_assert!(!feature.is_valid(row));
                } else {
                    prop_assert!(check::same_bits_at(feature, row, expected, row), "row {}", row);
                }
            }
            let told = |columns: &ViewColumns| {
                columns.event_time.is_valid(row).then(|| columns.event_time.as_i64().unwrap()[row])
            };
            // When the newest was is told all the same.
            prop_assert_eq!((told(found), told(expected)), (newest_us, newest_us));
        }
    }
}

#[test]
fn max_age_is_counted_from_the_newest_contribution() {
    let events = [event(10, "u1", "i1", "view"), Event { price: None, ..event(90, "u1", "i1", "silent") }];
    let rows: [LabelRow; 3] =
        [(Some("u1"), Some("i1"), 60), (Some("u1"), Some("i1"), 61), (Some("u1"), Some("i1"), 95)];
    let set = run(&events, &labels(&rows), Some(50), JoinOptions::default());
    use Status::{Found, OutsideMaxAge};
    assert_eq!(set.views[0].status, [Found, OutsideMaxAge, OutsideMaxAge]);
    assert_eq!(set.views[0].event_time.as_i64(), Some(&[10, 10, 10][..]));
    assert!(set.views[0].features.iter().all(|feature| !feature.is_valid(1)));
    let longer = JoinOptions { max_age_us: Some(1_000), ..JoinOptions::default() };
    assert_eq!(run(&events, &labels(&rows), Some(50), longer).views[0].status, [Found; 3]);
}

#[test]
fn a_row_that_finalize_refuses_is_null_and_counted() {
    let events: Vec<Event> = (0..=POISON_COUNT).map(|time| event(time, "u1", "i1", "view")).collect();
    let rows: [LabelRow; 2] = [(Some("u1"), Some("i9"), POISON_COUNT), (Some("u1"), Some("i9"), POISON_COUNT + 1)];
    let set = run(&events, &labels(&rows), None, JoinOptions::default());
    assert_eq!(set.views[0].status, [Status::Found, Status::Error]);
    assert!(!set.views[0].features[0].is_valid(1));
    let faults = &set.summary.finalize_faults["users"];
    assert_eq!(faults.count, 1);
    assert_eq!(faults.example, Some((POISON_COUNT + 1, "guest error: too many views".to_owned())));
    assert_eq!(set.summary.finalize_faults.len(), 1);
}

#[test]
fn the_audit_finds_what_was_planted() {
    let events = [event(5, "u1", "i1", "view"), event(8, "u1", "i2", "view")];
    let labels = labels(&[(Some("u1"), Some("i1"), 7), (Some("u1"), Some("i2"), 9)]);
    let selection = everything(None);
    let set = join(&mut readers(&events, 9), &selection, &labels, &JoinOptions::default()).unwrap();
    let (label_table, good) = tables(&labels, &set, &selection);
    let check = |dataset: &Table| check_audit(&events, &labels, &label_table, dataset, None, JoinOptions::default());
    assert_eq!(check(&good).unwrap().to_string(), "LeakageReport [PASSED] rows_kept=2 rows_dropped=0 violations=0");
    let replace = |name: &str, values: Values| {
        let mut bad = good.clone();
        bad.columns.iter_mut().find(|(known, _)| known == name).unwrap().1 = Column::of(values);
        bad
    };
    // The count that the whole history gives, seen from the first label.
    let leaked = check(&replace("users__f0", Values::I64(vec![2, 2]))).unwrap();
    assert_eq!(
        leaked.to_string(),
        "LeakageReport [FAILED] rows_kept=2 rows_dropped=0 violations=2\n  \
         `users__f0` changes when history is cut at the label: 1 values, e.g. row 1: 2, from the cut history 1\n  \
         `users__f0` is not what history before the label gives: 1 values, e.g. row 1: 2, expected 1; 1 of 1 look like \
         the values at the end of the label's hour: hourly features, joined inclusively"
    );
    assert_eq!(leaked.violations.values().map(|found| found.kind).max(), Some(ViolationKind::Truncation));
    let late = check(&replace("users__event_time", Values::Timestamp(vec![7, 8]))).unwrap();
    assert_eq!(late.violations.keys().collect::<Vec<_>>(), ["`users__event_time` is not before the label"]);
    let stale = check(&replace("users__event_time", Values::Timestamp(vec![4, 8]))).unwrap();
    assert_eq!(
        stale.violations.keys().collect::<Vec<_>>(),
        ["`users__event_time` is not the newest contribution before the label"]
    );
    // Floats in place of integers are another tool's way to write nulls.
    assert!(check(&replace("users__f0", Values::F64(vec![1.0, 2.0]))).unwrap().passed());
    let error = check(&replace("event_time", Values::Timestamp(vec![9, 7]))).unwrap_err().to_string();
    assert!(error.starts_with("training-set row 1 is no label, or not in the labels' order"), "{error}");
}

/// A training set as somebody's SQL makes it: per label the greatest quantity and the newest time of the
/// events of its user that `seen` lets in (label time, event time).
fn naive_set(events: &[Event], labels: &[(&str, i64)], seen: impl Fn(i64, i64) -> bool) -> (Labels, Table, Table) {
    let times = Column::of(Values::Timestamp(labels.iter().map(|label| label.1).collect()));
    let users = text_column(&labels.iter().map(|label| Some(label.0)).collect::<Vec<_>>());
    let keys = BTreeMap::from([("user_id".to_owned(), users.clone())]);
    let columns = vec![("user_id".to_owned(), users), ("event_time".to_owned(), times.clone())];
    let mut dataset = columns.clone();
    let mine = |&(user, time): &(&str, i64)| -> Vec<&Event> {
        events.iter().filter(|e| e.user.as_deref() == Some(user) && seen(time, e.time_us)).collect()
    };
    let mut greatest = Column::new(&DataType::I64);
    let mut newest = Column::new(&DataType::Timestamp);
    for label in labels {
        let mine = mine(label);
        match mine.iter().max_by_key(|event| event.time_us) {
            Some(last) => {
                greatest.push_i64(mine.iter().filter_map(|event| event.quantity).max().unwrap());
                newest.push_i64(last.time_us);
            }
            None => [&mut greatest, &mut newest].into_iter().for_each(Column::push_null),
        }
    }
    dataset.push(("users__f43".to_owned(), greatest));
    dataset.push(("users__event_time".to_owned(), newest));
    let labels = Labels::new("event_time", &times, keys).unwrap();
    (labels, Table { columns }, Table { columns: dataset })
}

/// Two users over three days, an event every hour and a half, and labels in between and on events.
fn three_days() -> (Vec<Event>, Vec<(&'static str, i64)>) {
    let users = ["u1", "u2"];
    let event = |n| Event { quantity: Some(n), ..event(n * 45 * MINUTE_US, users[n as usize % 2], "i1", "buy") };
    let events = (0..96).map(event).collect();
    let labels = (0..40).map(|n| (users[n as usize % 2], (n * 100 + 10) * MINUTE_US)).collect();
    (events, labels)
}

#[test]
fn a_daily_table_joined_to_labels_within_the_day_is_a_leak() {
    let (events, labels) = three_days();
    let same_day = |label: i64, event: i64| event.div_euclid(DAY_US) <= label.div_euclid(DAY_US);
    let (of_file, label_table, dataset) = naive_set(&events, &labels, same_day);
    let report = check_audit(&events, &of_file, &label_table, &dataset, None, JoinOptions::default()).unwrap();
    assert!(!report.passed());
    // Labels after the last event of their day have seen nothing they must not.
    let leaks = labels.iter().filter(|label| {
        events
            .iter()
            .any(|e| e.user.as_deref() == Some(label.0) && e.time_us >= label.1 && same_day(label.1, e.time_us))
    });
    let leaks = leaks.count() as u64;
    assert!(leaks > 30);
    let greatest = report.feature("users__f43").unwrap();
    assert_eq!((greatest.violations, greatest.examined), (leaks, leaks));
    assert_eq!(greatest.best(), Some((Likeness::EndOfDay, leaks)));
    let by_kind = |kind| report.violations.values().find(|found| found.kind == kind).map(|found| found.count);
    assert_eq!(by_kind(ViolationKind::Value), Some(leaks));
    assert_eq!(by_kind(ViolationKind::EventTime), Some(leaks));
    assert_eq!(by_kind(ViolationKind::Truncation), Some(leaks));
    let ages = &report.ages[0];
    assert_eq!((ages.not_before, ages.classes.iter().sum::<u64>()), (leaks, 40 - leaks));
    let text = report.to_string();
    let said = format!(
        "; {leaks} of {leaks} look like the values at the end of the label's day (UTC): daily features, joined inclusively"
    );
    assert!(text.contains(&said), "{text}");
    // The day before is what may be joined: late, but no leak. It is told apart.
    let day_before = |label: i64, event: i64| event.div_euclid(DAY_US) < label.div_euclid(DAY_US);
    let (of_file, label_table, dataset) = naive_set(&events, &labels, day_before);
    let report = check_audit(&events, &of_file, &label_table, &dataset, None, JoinOptions::default()).unwrap();
    let (likeness, _) = report.feature("users__f43").unwrap().best().unwrap();
    assert_eq!((likeness, likeness.is_leak()), (Likeness::StartOfDay, false));
    assert_eq!(report.ages[0].not_before, 0);
}

#[test]
fn a_join_on_at_or_before_is_a_leak_where_times_tie() {
    let (events, mut labels) = three_days();
    // Every other label is put on an event of its user, as labels made of events are.
    for label in labels.iter_mut().step_by(2) {
        let mut own = events.iter().filter(|event| event.user.as_deref() == Some(label.0));
        label.1 = own.find(|event| event.time_us >= label.1).map_or(label.1, |event| event.time_us);
    }
    let strictly = naive_set(&events, &labels, |label, event| event < label);
    let inclusive = naive_set(&events, &labels, |label, event| event <= label);
    let check = |(labels, table, dataset): &(Labels, Table, Table)| {
        check_audit(&events, labels, table, dataset, None, JoinOptions::default()).unwrap()
    };
    assert!(check(&strictly).passed(), "{}", check(&strictly));
    let report = check(&inclusive);
    let greatest = report.feature("users__f43").unwrap();
    assert_eq!(greatest.violations, 20);
    assert_eq!(greatest.best(), Some((Likeness::LabelInstant, 20)));
    assert_eq!(report.ages[0].not_before, 20);
    // Asked for, it is no leak.
    let (labels, table, dataset) = &inclusive;
    let at = JoinOptions { as_of: AsOf::At, ..JoinOptions::default() };
    assert!(check_audit(&events, labels, table, dataset, None, at).unwrap().passed());
}

#[test]
fn an_extract_that_looks_ahead_is_found_by_cutting_history() {
    let events: Vec<Event> = (0..6).map(|time| event(time, "u1", "i1", "buy")).collect();
    let labels = labels(&[(Some("u1"), None, 3), (Some("u1"), None, 6)]);
    let selection = Selection::all(&[look_ahead()]);
    let set = join(&mut readers(&events, 9), &selection, &labels, &JoinOptions::default()).unwrap();
    let (label_table, dataset) = tables(&labels, &set, &selection);
    let scratch = FakeScratch::with_room(usize::MAX);
    let request = AuditRequest {
        labels: &labels,
        label_table: &label_table,
        label_time: "event_time",
        dataset: &dataset,
        as_of: AsOf::Before,
        knowledge: Knowledge::EventTime,
        max_age_us: None,
        tolerance: 0.0,
        truncate: Truncate::All,
        threads: 1,
        budget: Budget { bytes: 0, scratch: &scratch, progress: None },
    };
    let report = audit(&mut readers(&events, 9), &[look_ahead()], request).unwrap();
    // Batched as in the join, the recomputation is deceived alike.
    assert!(report.violations.values().all(|found| found.kind == ViolationKind::Truncation), "{report}");
    let class = "`users__f43` changes when history is cut at the label";
    assert_eq!(report.violations[class].example, "row 1: 5, from the cut history 2");
    assert_eq!((report.violations[class].count, report.truncated_rows), (1, 2));
}

#[test]
fn late_data_joined_by_event_time_is_told_where_it_must_not_count() {
    let late = |time_us: i64, ingest_us: i64| Event { ingest_us, ..event(time_us, "u1", "i1", "view") };
    let events = [late(1, 1), late(2, 9), late(8, 8)];
    let labels = labels(&[(Some("u1"), Some("i1"), 5), (Some("u1"), Some("i1"), 10)]);
    let selection = everything(None);
    let set = join(&mut readers(&events, 9), &selection, &labels, &JoinOptions::default()).unwrap();
    let (label_table, dataset) = tables(&labels, &set, &selection);
    let check = |knowledge| {
        let options = JoinOptions { knowledge, ..JoinOptions::default() };
        check_audit(&events, &labels, &label_table, &dataset, None, options).unwrap()
    };
    assert!(check(Knowledge::EventTime).passed());
    let report = check(Knowledge::Ingested);
    assert_eq!(report.feature("users__f0").unwrap().best(), Some((Likeness::NotYetIngested, 1)));
    let class = "`users__f0` is not what history before the label gives";
    assert_eq!(report.violations[class].example, "row 1: 2, expected 1");
}

#[test]
fn rounding_is_told_from_leaks_and_a_tolerance_accepts_it() {
    let prices = [0.1, 0.2, 0.3];
    let events: Vec<Event> = prices
        .iter()
        .zip(1..)
        .map(|(&price, time)| Event { price: Some(price), ..event(time, "u1", "i1", "view") })
        .collect();
    let labels = labels(&[(Some("u1"), Some("i1"), 9)]);
    let selection = everything(None);
    let set = join(&mut readers(&events, 9), &selection, &labels, &JoinOptions::default()).unwrap();
    let (label_table, mut dataset) = tables(&labels, &set, &selection);
    // Added from left to right, as others do, it is 0.6000000000000001.
    let sum = prices.iter().sum::<f64>();
    let column = dataset.columns.iter_mut().find(|(name, _)| name == "users__f2").unwrap();
    assert_ne!(column.1.as_f64().unwrap()[0].to_bits(), sum.to_bits());
    column.1 = Column::of(Values::F64(vec![sum]));
    let scratch = FakeScratch::with_room(usize::MAX);
    let mut request = AuditRequest {
        labels: &labels,
        label_table: &label_table,
        label_time: "event_time",
        dataset: &dataset,
        as_of: AsOf::Before,
        knowledge: Knowledge::EventTime,
        max_age_us: None,
        tolerance: 0.0,
        truncate: Truncate::Rows(0),
        threads: 1,
        budget: Budget { bytes: 64 << 20, scratch: &scratch, progress: None },
    };
    let strict = audit(&mut readers(&events, 9), &transforms(None), request).unwrap();
    assert_eq!(strict.violation_count(), 1);
    assert_eq!(strict.feature("users__f2").unwrap().best(), Some((Likeness::Rounding, 1)));
    assert_eq!(strict.truncated_rows, 0);
    request.tolerance = 1e-9;
    assert!(audit(&mut readers(&events, 9), &transforms(None), request).unwrap().passed());
}

#[test]
fn mistakes_are_named() {
    let parse = |list: &str| Selection::parse(list, &transforms(None)).map_err(|error| error.to_string());
    let selection = parse("items:f11, users:*,items:f0,items:f11").unwrap();
    assert_eq!(selection.views.len(), 2);
    assert_eq!(selection.order.len(), 52);
    assert_eq!(parse("user:f0").unwrap_err(), "unknown view `user`; did you mean `users`?");
    assert!(parse("users:f99").unwrap_err().starts_with("unknown feature `users:f99`"));
    assert_eq!(parse("f0").unwrap_err(), "feature `f0` names no view: write `view:feature` or `view:*`");

    let times = Column { validity: None, values: Values::Timestamp(vec![1]) };
    let no_keys = Labels::new("t", &times, BTreeMap::new()).unwrap();
    let error = join(&mut readers(&[], 1), &selection, &no_keys, &JoinOptions::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the labels have no column `item_id`, the key of view `items` (key columns found: none)"
    );
    let null_time = Labels::new("t", &Column::nulls(&DataType::Timestamp, 3), BTreeMap::new()).unwrap_err();
    assert_eq!(null_time.to_string(), "label row 1: `t` is null, every label needs a time");
    let no_source = join(&mut BTreeMap::new(), &selection, &labels(&[]), &JoinOptions::default()).unwrap_err();
    assert!(no_source.to_string().contains("reads source `default`, for which no events were given"));
}

/// Fails, and does not want to be asked again.
#[derive(Debug, Default)]
struct Failing {
    failed: bool,
}

impl EventReader for Failing {
    fn next_batch(&mut self) -> Result<Option<EventBatch>> {
        let failed_before = std::mem::replace(&mut self.failed, true);
        Err(Error::invalid(if failed_before { "asked again" } else { "the reason" }))
    }
}

#[test]
fn many_threads_tell_why_a_reader_failed() {
    let (labels, options) = (labels(&[(Some("u1"), Some("i1"), 5)]), JoinOptions { threads: 8, ..Default::default() });
    for _ in 0..50 {
        let mut readers =
            BTreeMap::from([("default".to_owned(), Box::new(Failing::default()) as Box<dyn EventReader>)]);
        let error = join(&mut readers, &everything(None), &labels, &options).unwrap_err();
        assert!(error.to_string().contains("the reason"), "{error}");
    }
}
