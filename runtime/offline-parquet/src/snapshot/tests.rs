//! Dates come whole, are replaced whole, and are known again by their manifest.

use super::*;
use plumb_columnar::{ParquetFile, Selection, from_arrow};
use plumb_core::ErrorKind;
use plumb_core::time::HOUR_US;
use plumb_pipeline::port::SnapshotInputs;
use plumb_store_object::LocalStore;

const FOLDER: &str = "features/entity=user/view=activity/version=1.2.0_ab12cd34";

fn view() -> SnapshotView {
    SnapshotView {
        entity: "user".into(),
        key_fields: vec!["user_id".into()],
        view: "activity".into(),
        source: "default".into(),
        version_folder: "1.2.0_ab12cd34".into(),
        digest: "ab12cd34".repeat(8),
        features: vec![("mean".into(), DataType::F64), ("names".into(), DataType::List(Box::new(DataType::Utf8)))],
        every: "1h".into(),
        entities: "active".into(),
        max_age_us: Some(30 * DAY_US),
    }
}

fn lists() -> Column {
    let mut names = Column::new(&DataType::Utf8);
    names.push_bytes(b"a,\"b");
    names.push_null();
    Column::of(Values::List { offsets: vec![0, 2, 2, 2], child: Box::new(names) })
}

fn rows(day: i64, mean: f64) -> SnapshotRows {
    let mut keys = Column::new(&DataType::Utf8);
    ["a", "b", "c"].iter().for_each(|key| keys.push_bytes(key.as_bytes()));
    let mut means = Column::new(&DataType::F64);
    means.push_f64(mean);
    means.push_null();
    means.push_f64(f64::NAN);
    SnapshotRows {
        day_us: day * DAY_US,
        position: format!("default:0={day}"),
        times_us: (0..3).map(|hour| day * DAY_US + hour * HOUR_US).collect(),
        keys: vec![keys],
        features: vec![means, lists()],
    }
}

fn date(day: i64, rows: u64) -> SnapshotDate {
    let inputs = SnapshotInputs {
        first_us: day * DAY_US,
        last_us: day * DAY_US + 23 * HOUR_US,
        events: 7,
        events_hash: 0xfeed << 100,
        position: format!("default:0={day}"),
    };
    SnapshotDate { inputs, rows, faulty: 1 }
}

/// A run that makes `days` of this value; gives what it found there.
fn run(store: &Arc<LocalStore>, days: &[i64], mean: f64) -> BTreeMap<i64, Option<SnapshotDate>> {
    let mut writer = SnapshotWriter::new(store.clone());
    let found = writer.dates(&view()).unwrap();
    // As a driver does: several dates are written before the first of them is complete.
    for &day in days {
        writer.write(&view(), &rows(day, mean)).unwrap();
        writer.write(&view(), &rows(day, mean)).unwrap();
    }
    for &day in days {
        writer.complete(&view(), day * DAY_US, &date(day, 6)).unwrap();
    }
    writer.finish().unwrap();
    found
}

fn paths(store: &LocalStore, folder: &str) -> Vec<String> {
    store.list(folder).unwrap().into_iter().map(|(path, _)| path).collect()
}

/// The one file of a day.
fn file_of(store: &LocalStore, day: i64) -> String {
    let mut files = paths(store, &format!("{FOLDER}/date={}", date_of_day(day)));
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

fn store() -> (tempfile::TempDir, Arc<LocalStore>) {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(LocalStore::open(folder.path()).unwrap());
    (folder, store)
}

#[test]
fn dates_appear_whole_and_are_replaced_whole() {
    let (_folder, store) = store();
    let mut abandoned = SnapshotWriter::new(store.clone());
    assert!(abandoned.dates(&view()).unwrap().is_empty());
    abandoned.write(&view(), &rows(0, 1.0)).unwrap();
    abandoned.write(&view(), &rows(1, 1.0)).unwrap();
    abandoned.complete(&view(), 0, &date(0, 3)).unwrap();
    drop(abandoned);
    assert!(paths(&store, "").is_empty());

    // Of another run, one with files of its own names.
    let stale = format!("{FOLDER}/date=1970-01-02/part-00001.parquet");
    store.put(&stale, b"of nobody knows what".to_vec()).unwrap();
    assert_eq!(run(&store, &[0, 1, 2], 1.0), BTreeMap::from([(DAY_US, None)]));
    assert_eq!(paths(&store, "_trash"), [trashed(&stale)]);
    let first: Vec<String> = (0..3).map(|day| file_of(&store, day)).collect();
    let found = run(&store, &[1], 2.0);
    assert_eq!(found, (0..3).map(|day| (day * DAY_US, Some(date(day, 6)))).collect());
    assert_eq!((file_of(&store, 0), file_of(&store, 2)), (first[0].clone(), first[2].clone()));
    assert_ne!(file_of(&store, 1), first[1]);
    assert!(paths(&store, "_trash").contains(&trashed(&first[1])), "kept for who has listed it");
    assert!(paths(&store, "_staging").is_empty());

    // The same rows are the same file.
    run(&store, &[1], 1.0);
    assert_eq!(file_of(&store, 1), first[1]);
    let file = ParquetFile::open(&store.local_path(&first[1]).unwrap()).unwrap();
    let batch = file.batches(&Selection::default()).unwrap().next().unwrap().unwrap();
    let names: Vec<&str> = file.schema().fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!((names, batch.num_rows()), (vec!["user_id", "event_time", "mean", "names", "_position"], 6));
    let (first, given) = (batch.slice(0, 3), rows(1, 1.0));
    assert_eq!(from_arrow("names", first.column(3), &lists().data_type()).unwrap(), given.features[1]);
    assert_eq!(first.column(2), &to_arrow(&given.features[0]).unwrap());
    assert_eq!(from_arrow("t", first.column(1), &DataType::Timestamp).unwrap().as_i64().unwrap(), &given.times_us[..]);
    assert_eq!(from_arrow("p", first.column(4), &DataType::Utf8).unwrap().str_bytes(0), Some(&b"default:0=1"[..]));
}

#[test]
fn a_date_that_is_not_as_its_manifest_says_is_unknown() {
    let (_folder, store) = store();
    run(&store, &[0, 1, 2, 3], 1.0);
    let unknown = |store: &Arc<LocalStore>| {
        let dates = SnapshotWriter::new(store.clone()).dates(&view()).unwrap();
        let unknown = dates.iter().filter(|(_, date)| date.is_none());
        unknown.map(|(day_us, _)| day_us / DAY_US).collect::<Vec<_>>()
    };
    assert!(unknown(&store).is_empty());
    store.delete(&file_of(&store, 0)).unwrap();
    store.put(&file_of(&store, 1), b"cut short".to_vec()).unwrap();
    store.put(&format!("{FOLDER}/date=1970-01-03/part-00009.parquet"), b"one too many".to_vec()).unwrap();
    assert_eq!(unknown(&store), [0, 1, 2]);
    // As after a death between the files and the manifest.
    let manifest = format!("{FOLDER}/{MANIFEST}");
    let kept = store.get(&manifest).unwrap().unwrap();
    store.delete(&manifest).unwrap();
    assert_eq!(unknown(&store), [1, 2, 3]);
    store.put(&manifest, kept).unwrap();
    run(&store, &[0, 1, 2], 1.0);
    assert!(unknown(&store).is_empty());
}

/// A date whose instants end at an hour, of the events below an offset.
fn up_to(day: i64, hour: i64, offset: u64, rows: u64) -> SnapshotDate {
    let mut date = date(day, rows);
    date.inputs.last_us = day * DAY_US + hour * HOUR_US;
    date.inputs.position = format!("default:0={offset}");
    date
}

/// Two writers plan a day of a store at the same moment; what there is after both have shown theirs, one after the other.
fn after_both(yields: [bool; 2], dates: [&SnapshotDate; 2], known: bool) -> SnapshotDate {
    let (_folder, store) = store();
    if known {
        run(&store, &[0, 1, 2], 1.0);
    }
    let mut writers = yields.map(|yields| {
        let mut writer = SnapshotWriter::new(store.clone());
        writer.yields = yields;
        writer.dates(&view()).unwrap();
        writer
    });
    for (number, (writer, date)) in writers.iter_mut().zip(dates).enumerate() {
        // Each of a day of its own too, which the other's manifest must not forget.
        let own = 5 + number as i64;
        for day in [1, own] {
            writer.write(&view(), &rows(day, 2.0 + number as f64)).unwrap();
        }
        writer.complete(&view(), DAY_US, date).unwrap();
        writer.complete(&view(), own * DAY_US, &up_to(own, 23, 1, 3)).unwrap();
        writer.finish().unwrap();
    }
    file_of(&store, 1);
    let found = SnapshotWriter::new(store.clone()).dates(&view()).unwrap();
    let days: Vec<i64> = found.keys().map(|day_us| day_us / DAY_US).collect();
    assert_eq!(days, if known { vec![0, 1, 2, 5, 6] } else { vec![1, 5, 6] });
    drop(writers);
    assert!(paths(&store, "_staging").is_empty());
    found[&DAY_US].clone().expect("files and manifest are of one date")
}

#[test]
fn of_two_who_make_a_date_at_once_the_one_that_sees_more_stays() {
    for known in [false, true] {
        // (fewer, more): a stream that has slept, more hours, a late event, hours against a late event.
        for (less, more) in [
            (up_to(1, 23, 50, 3), up_to(1, 23, 60, 3)),
            (up_to(1, 7, 50, 3), up_to(1, 8, 50, 3)),
            (up_to(1, 7, 60, 3), up_to(1, 8, 50, 3)),
        ] {
            for yields in [[false, false], [true, false], [false, true], [true, true]] {
                assert_eq!(after_both(yields, [&less, &more], known), more, "{yields:?}");
                assert_eq!(after_both(yields, [&more, &less], known), more, "{yields:?}");
            }
        }
        // Of the same instants and position, but of other events: what a backfill makes stays.
        let backfilled = up_to(1, 23, 50, 3);
        let mut streamed = backfilled.clone();
        streamed.inputs.events -= 1;
        assert_eq!(after_both([true, false], [&streamed, &backfilled], known), backfilled);
        assert_eq!(after_both([false, true], [&backfilled, &streamed], known), backfilled);
    }
}

#[test]
fn a_date_that_somebody_has_made_meanwhile_is_not_removed() {
    let (_folder, store) = store();
    run(&store, &[0, 1], 1.0);
    let mut removing = SnapshotWriter::new(store.clone());
    removing.dates(&view()).unwrap();
    let mut making = SnapshotWriter::new(store.clone());
    making.dates(&view()).unwrap();
    making.write(&view(), &rows(1, 2.0)).unwrap();
    making.complete(&view(), DAY_US, &up_to(1, 23, 60, 3)).unwrap();
    making.finish().unwrap();
    (0..2).for_each(|day| removing.remove(&view(), day * DAY_US).unwrap());
    removing.finish().unwrap();
    let found = SnapshotWriter::new(store.clone()).dates(&view()).unwrap();
    assert_eq!(found, BTreeMap::from([(DAY_US, Some(up_to(1, 23, 60, 3)))]));
    file_of(&store, 1);
}

#[test]
fn writers_that_show_dates_at_once_lose_none() {
    let (_folder, store) = store();
    std::thread::scope(|scope| {
        for number in 0..3 {
            let store = store.clone();
            scope.spawn(move || {
                for round in 0..8 {
                    run(&store, &[30 * number + round], 1.0);
                }
            });
        }
    });
    let found = SnapshotWriter::new(store.clone()).dates(&view()).unwrap();
    assert_eq!(found.len(), 24);
    assert!(found.values().all(Option::is_some), "{found:?}");
}

#[test]
fn a_date_without_rows_has_no_files() {
    let (_folder, store) = store();
    run(&store, &[0, 1], 1.0);
    let mut writer = SnapshotWriter::new(store.clone());
    writer.dates(&view()).unwrap();
    writer.remove(&view(), 0).unwrap();
    writer.complete(&view(), DAY_US, &date(1, 0)).unwrap();
    let error = writer.complete(&view(), 2 * DAY_US, &date(2, 6)).unwrap_err().to_string();
    assert!(error.contains("0 rows were written of a date that has 6"), "{error}");
    writer.finish().unwrap();
    assert_eq!(paths(&store, FOLDER), [format!("{FOLDER}/{MANIFEST}")]);
    let found = SnapshotWriter::new(store.clone()).dates(&view()).unwrap();
    assert_eq!(found, BTreeMap::from([(DAY_US, Some(date(1, 0)))]));
}

#[test]
fn columns_of_snapshots_do_not_hide_their_folders() {
    let (_folder, store) = store();
    let mut writer = SnapshotWriter::new(store);
    for (key, feature, message) in [
        ("user_id", "version", "view `activity`: `version` is a folder of the snapshots"),
        ("date", "mean", "view `activity`: `date` is a folder of the snapshots"),
        ("user_id", "user_id", "view `activity`: two columns of its snapshots are named `user_id`"),
    ] {
        let mut view = view();
        view.key_fields[0] = key.into();
        view.features[0].0 = feature.into();
        let error = writer.write(&view, &rows(0, 1.0)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().starts_with(message), "{error}");
    }
}

/// Written by the first version; every later one reads it, and writes the same.
const GOLDEN: &str = include_str!("../../golden/snapshot_manifest_v1.json");

#[test]
fn the_first_version_is_read_and_written_the_same() {
    let manifest = SnapshotManifest::read(GOLDEN.as_bytes(), "m", &view(), |wanted| {
        format!("give another --out for those of {}", wanted.kind())
    })
    .unwrap();
    let (day_us, read) = manifest.dates["1970-01-02"].date("1970-01-02").unwrap();
    assert_eq!((day_us, read), (DAY_US, date(1, 6)));
    assert_eq!(String::from_utf8(manifest.to_bytes()).unwrap(), GOLDEN);
}

#[test]
fn what_is_no_manifest_of_these_snapshots_is_said() {
    for (text, why) in [
        ("PAR1", "`m` is not a manifest of snapshots: it is not JSON"),
        ("{}", "`m` is not a manifest of snapshots: `format` should be"),
        (&GOLDEN.replace("\"format_version\": 1", "\"format_version\": 2"), "has format_version 2, this plumb reads 1"),
        (&GOLDEN.replace("\"faulty\"", "\"bad\""), "is a damaged manifest (unknown field `bad`"),
        (
            &GOLDEN.replace("\"every\": \"1h\"", "\"every\": \"1d\""),
            "with --every 1d --entities active and max age 30d; give another --out for those of `activity`",
        ),
        (&GOLDEN.replace("\"max_age\": \"30d\"", "\"max_age\": null"), "and max age none; give another --out"),
    ] {
        let error = SnapshotManifest::read(text.as_bytes(), "m", &view(), |wanted| {
            format!("give another --out for those of {}", wanted.kind())
        })
        .unwrap_err()
        .to_string();
        assert!(error.contains(why), "{error}");
    }
    // An entry that contradicts itself counts for nothing.
    let moved = GOLDEN.replace("\"1970-01-02\"", "\"1970-01-03\"");
    let manifest = SnapshotManifest::read(moved.as_bytes(), "m", &view(), |wanted| {
        format!("give another --out for those of {}", wanted.kind())
    })
    .unwrap();
    assert_eq!(manifest.dates["1970-01-03"].date("1970-01-03"), None);
}
