//! Training sets by the command line: what labels see when late and corrected events come, the manifest and what is
//! made again from it, labels of many files, sets in parts, and inputs that are not what they should be.

use arrow_array::{
    ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    TimestampMillisecondArray,
};
use parquet::arrow::ArrowWriter;
use plumb_testing::oracle::{self, Named, OracleEvent};
use plumb_testing::table::{as_promised, cell, column, table, texts};
use plumb_testing::{archive, case, process};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3_600 * SECOND;
const DAY: i64 = 24 * HOUR;
/// 2024-03-01T00:00:00Z.
const START: i64 = 1_709_251_200 * SECOND;

/// An event and when it was ingested.
#[derive(Debug, Clone)]
struct Known {
    event: OracleEvent,
    ingest: i64,
}

/// A small generator of numbers, the same for the same seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len() as u64) as usize]
    }
}

fn event(numbers: &mut Numbers, id: String, time: i64) -> OracleEvent {
    OracleEvent {
        id: Some(id),
        time,
        user: Some(numbers.pick(&["u1", "u2", "u3", "u4"]).to_owned()),
        item: Some(numbers.pick(&["i1", "i2", "i3"]).to_owned()),
        kind: numbers.pick(&["view", "view", "cart", "purchase", "purchase"]).to_owned(),
        category: (numbers.below(4) > 0).then(|| numbers.pick(&["a", "b", "c"]).to_owned()),
        price: (numbers.below(5) > 0).then(|| numbers.below(10_000) as f64 / 100.0),
        quantity: (numbers.below(3) > 0).then(|| numbers.below(4) as i64),
        rating: None,
    }
}

/// Three days of events: most are ingested at once, some hours late, a few days late. Some of the late ones correct an
/// event: the same user, item and instant again, with another id.
fn events(count: usize, seed: u64) -> Vec<Known> {
    let mut numbers = Numbers(seed);
    let mut all: Vec<Known> = Vec::new();
    for index in 0..count {
        let late = match numbers.below(10) {
            0..=6 => numbers.below(3 * SECOND as u64) as i64,
            7 | 8 => numbers.below(9 * HOUR as u64) as i64,
            _ => DAY + numbers.below(2 * DAY as u64) as i64,
        };
        let corrected = (late > SECOND && !all.is_empty() && numbers.below(2) == 0)
            .then(|| all[numbers.below(all.len() as u64) as usize].clone());
        let time = match &corrected {
            Some(known) => known.event.time,
            // Whole minutes, so that many instants are equal.
            None => START + numbers.below(3 * 24 * 60) as i64 * 60 * SECOND,
        };
        let mut event = event(&mut numbers, format!("e{index:05}"), time);
        if let Some(known) = corrected {
            (event.user, event.item, event.kind) = (known.event.user, known.event.item, known.event.kind);
        }
        all.push(Known { event, ingest: time + late });
    }
    all
}

fn instants(times: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"))
}

fn write_table(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// Writes a file as the archive holds events.
fn write_archive(path: &Path, events: &[Known]) {
    let text = |of: fn(&OracleEvent) -> Option<&str>| -> ArrayRef {
        Arc::new(events.iter().map(|known| of(&known.event)).collect::<StringArray>())
    };
    write_table(
        path,
        vec![
            ("event_id", text(|event| event.id.as_deref())),
            ("event_time", instants(events.iter().map(|known| known.event.time))),
            ("user_id", text(|event| event.user.as_deref())),
            ("item_id", text(|event| event.item.as_deref())),
            ("event_type", text(|event| Some(&event.kind))),
            ("category", text(|event| event.category.as_deref())),
            ("price", Arc::new(events.iter().map(|known| known.event.price).collect::<Float64Array>())),
            ("quantity", Arc::new(events.iter().map(|known| known.event.quantity).collect::<Int64Array>())),
            ("_source", Arc::new(StringArray::from_iter_values(events.iter().map(|_| "default")))),
            ("_partition", Arc::new(Int32Array::from_iter_values(events.iter().map(|_| 0)))),
            ("_offset", Arc::new(Int64Array::from_iter_values((0..).take(events.len())))),
            ("_ingest_time", instants(events.iter().map(|known| known.ingest))),
        ],
    );
}

/// Labels every so often, some of them exactly on an event; with keys nobody has, null ones, and rows that repeat.
fn write_labels(path: &Path, events: &[Known], until: i64) -> Vec<(Option<String>, Option<String>, i64)> {
    let mut numbers = Numbers(7);
    let mut rows = Vec::new();
    for index in 0..150 {
        let on = &events[numbers.below(events.len() as u64) as usize];
        let time = match index % 4 {
            0 => on.event.time,
            1 => on.ingest,
            2 => on.ingest + 1,
            _ => START - HOUR + numbers.below((until - START + HOUR) as u64) as i64,
        };
        let key = |key: &str, row: u64| (row != 0).then(|| if row == 1 { "nobody" } else { key }.to_owned());
        let (user, item) = (on.event.user.as_deref().unwrap(), on.event.item.as_deref().unwrap());
        rows.push((key(user, numbers.below(12)), key(item, numbers.below(12)), time.min(until)));
    }
    rows.extend_from_within(40..50);
    write_table(
        path,
        vec![
            ("label", Arc::new(Int64Array::from_iter_values(0..rows.len() as i64))),
            ("user_id", Arc::new(rows.iter().map(|row| row.0.as_deref()).collect::<StringArray>())),
            ("item_id", Arc::new(rows.iter().map(|row| row.1.as_deref()).collect::<StringArray>())),
            ("event_time", instants(rows.iter().map(|row| row.2))),
        ],
    );
    rows
}

/// Words of a command, with all views whose components lie in the folder `views`.
fn run(here: &Path, words: &str) -> Output {
    process::run(here, words.split_whitespace())
}

#[track_caller]
fn json(here: &Path, words: &str) -> Value {
    let output = run(here, &format!("--json {words}"));
    assert!(output.status.success(), "plumb {words}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A folder with the shipped components as `<view>.wasm`, and the words that name them.
fn folder() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut words = String::new();
    for (view, ..) in oracle::VIEWS {
        std::fs::copy(process::component(view), folder.path().join(format!("{view}.wasm"))).unwrap();
        words += &format!(" --transform {view}.wasm");
    }
    (folder, words)
}

/// What the oracle says of a label's row, by column.
fn expected(events: &[OracleEvent], row: &(Option<String>, Option<String>, i64)) -> Vec<(String, Option<Vec<Named>>)> {
    let of_view = |&(view, entity, ask): &(&str, &str, oracle::View)| {
        let key = if entity == "user" { &row.0 } else { &row.1 };
        (view.to_owned(), key.as_deref().and_then(|key| ask(events, key, row.2)))
    };
    oracle::VIEWS.iter().map(of_view).collect()
}

/// Compares a training set with the oracle over the events that `seen` leaves for a label's instant.
fn check(path: &Path, labels: &[(Option<String>, Option<String>, i64)], seen: impl Fn(i64) -> Vec<OracleEvent>) {
    let set = table(path);
    assert_eq!(set.num_rows(), labels.len());
    for (row, label) in labels.iter().enumerate() {
        for (view, values) in expected(&seen(label.2), label) {
            match values {
                None => {
                    let name = format!("{view}__event_time");
                    assert!(column(&set, &name).is_null(row), "row {row} {view} is not found");
                }
                Some(values) => {
                    for (name, value) in values {
                        let ours = cell(column(&set, &format!("{view}__{name}")), row);
                        assert!(as_promised(name, &ours, &value), "row {row} {view}:{name}: {ours}, not {value}");
                    }
                }
            }
        }
    }
}

#[test]
fn late_and_corrected_events_change_what_happened_but_not_what_was_known() {
    let (folder, views) = folder();
    let here = folder.path();
    let all = events(700, 11);
    let until = START + 2 * DAY + 12 * HOUR;
    let (today, tomorrow): (Vec<Known>, Vec<Known>) = all.iter().cloned().partition(|known| known.ingest < until);
    assert!(today.len() > 400 && tomorrow.len() > 30, "{} and {}", today.len(), tomorrow.len());
    write_archive(&here.join("archive/date=1/today.parquet"), &today);
    let labels = write_labels(&here.join("labels.parquet"), &all, until);
    let join = |archive: &str, more: &str| {
        json(here, &format!("join{views} --events {archive} --labels labels.parquet --now 2030-01-01T00:00:00Z {more}"))
    };
    let known = join("archive", "--knowledge ingested --out known.parquet");
    let happened = join("archive", "--out happened.parquet");
    let as_known = |time: i64| -> Vec<OracleEvent> {
        all.iter().filter(|known| known.ingest < time).map(|known| known.event.clone()).collect()
    };
    check(&here.join("known.parquet"), &labels, as_known);
    let of = |known: &[Known]| -> Vec<OracleEvent> { known.iter().map(|known| known.event.clone()).collect() };
    check(&here.join("happened.parquet"), &labels, |_| of(&today));

    // Tomorrow there is more in the archive, also in days that are past.
    write_archive(&here.join("archive/date=1/tomorrow.parquet"), &tomorrow);
    let known_tomorrow = join("archive", "--knowledge ingested --out known_tomorrow.parquet");
    assert_eq!(known_tomorrow["rows_sha256"], known["rows_sha256"]);
    let bytes = |name: &str| std::fs::read(here.join(name)).unwrap();
    assert_eq!(bytes("known.parquet"), bytes("known_tomorrow.parquet"), "byte for byte the same table");
    let happened_tomorrow = join("archive", "--out happened_tomorrow.parquet");
    assert_ne!(happened_tomorrow["rows_sha256"], happened["rows_sha256"]);
    check(&here.join("happened_tomorrow.parquet"), &labels, |_| of(&all));
    let explained: BTreeSet<usize> = (0..labels.len())
        .filter(|&row| expected(&of(&today), &labels[row]) != expected(&of(&all), &labels[row]))
        .collect();
    let (before, after) = (table(&here.join("happened.parquet")), table(&here.join("happened_tomorrow.parquet")));
    let features: Vec<String> = oracle::VIEWS
        .iter()
        .flat_map(|&(view, _, ask)| {
            let names = ask(&of(&all), if view == "item_activity" { "i1" } else { "u1" }, until).unwrap();
            names.into_iter().map(move |(name, _)| format!("{view}__{name}"))
        })
        .collect();
    let differ: BTreeSet<usize> = (0..labels.len())
        .filter(|&row| features.iter().any(|name| cell(column(&before, name), row) != cell(column(&after, name), row)))
        .collect();
    assert_eq!(differ, explained, "event-time differs in the rows that those events explain");
    assert!(!differ.is_empty() && differ.len() < labels.len());

    // However the archive is cut and ordered, and with however many threads.
    let mut shuffled: Vec<Known> = all.clone();
    let mut numbers = Numbers(5);
    (1..shuffled.len()).for_each(|at| shuffled.swap(at, numbers.below(at as u64 + 1) as usize));
    for (index, part) in shuffled.chunks(97).enumerate() {
        write_archive(&here.join(format!("cut/{index}.parquet")), part);
    }
    for threads in [1, 8] {
        for (knowledge, like) in [("ingested", &known), ("event-time", &happened_tomorrow)] {
            let words = format!("--knowledge {knowledge} --threads {threads} --out cut.parquet");
            assert_eq!(join("cut", &words)["rows_sha256"], like["rows_sha256"], "{knowledge}, {threads} threads");
        }
    }

    // What else a label may ask for, against the oracle.
    join("archive", "--as-of at --out at.parquet");
    let later: Vec<_> = labels.iter().map(|(user, item, time)| (user.clone(), item.clone(), time + 1)).collect();
    check(&here.join("at.parquet"), &later, |_| of(&all));
    let kept = join("archive", "--cold-start drop --out kept.parquet");
    let warm = |row: &&(_, _, _)| expected(&of(&all), row).iter().all(|(_, values)| values.is_some());
    let warm: Vec<_> = labels.iter().filter(warm).cloned().collect();
    assert_eq!(kept["rows_dropped"], labels.len() - warm.len());
    check(&here.join("kept.parquet"), &warm, |_| of(&all));

    // Labels after all that is known are said; a source without ingest times is refused.
    let ahead = labels.iter().filter(|label| today.iter().all(|known| known.ingest < label.2)).count();
    assert_eq!(known["rows_ahead"], ahead);
    process::run_ok(here, "generate --events 50 --users 3 --items 2 --days 1 --out plain.parquet".split(' '));
    let plain = run(
        here,
        &format!("join{views} --events plain.parquet --labels labels.parquet --knowledge ingested --out no.parquet"),
    );
    assert_eq!(plain.status.code(), Some(2));
    let why =
        "`plain.parquet` does not say when its events were ingested (no _source, _partition, _offset, _ingest_time)";
    assert!(String::from_utf8_lossy(&plain.stderr).contains(why), "{}", String::from_utf8_lossy(&plain.stderr));
    assert!(!here.join("no.parquet").exists());
}

/// The paths of all keys of a JSON document, of lists that of their first element.
fn keys(value: &Value, path: &str, all: &mut BTreeSet<String>) {
    match value {
        Value::Object(entries) => entries.iter().for_each(|(key, value)| keys(value, &format!("{path}.{key}"), all)),
        Value::Array(elements) => elements.iter().take(1).for_each(|value| keys(value, &format!("{path}[]"), all)),
        _ => drop(all.insert(path.to_owned())),
    }
}

#[test]
fn a_manifest_makes_the_same_set_again_or_says_what_differs() {
    let (folder, _) = folder();
    let here = folder.path();
    std::fs::create_dir(here.join("ev")).unwrap();
    for (seed, name) in [(1, "a.parquet"), (2, "b.jsonl")] {
        let words = format!("generate --events 3000 --users 20 --items 9 --days 4 --seed {seed} --out ev/{name}");
        process::run_ok(here, words.split(' '));
    }
    std::fs::write(
        here.join("labels.csv"),
        "score,user_id,item_id,event_time\n1,u00001,i00001,2024-01-03T00:00:00Z\n,nobody,,2024-01-04T00:00:00Z\n",
    )
    .unwrap();
    std::fs::write(here.join("plumb.toml"), "[source]\nmin_time = \"2024-01-01T12:00:00Z\"\n").unwrap();
    let made = json(
        here,
        "join --transform user_activity.wasm --transform item_activity.wasm --events ev --labels labels.csv \
         --features item_activity:view_count_24h,user_activity:* --cold-start drop --as-of at --max-age 30d --out set.parquet",
    );
    assert_eq!((&made["rows_kept"], &made["manifest"]), (&Value::from(1), &Value::from("set.parquet.manifest.json")));
    let text = std::fs::read_to_string(here.join("set.parquet.manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&text).unwrap();
    let golden = process::repository().join("runtime/offline-parquet/golden/training_set_manifest_v1.json");
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(golden).unwrap()).unwrap();
    let (mut ours, mut documented) = (BTreeSet::new(), BTreeSet::new());
    keys(&manifest, "", &mut ours);
    keys(&golden, "", &mut documented);
    assert_eq!(ours, documented);
    assert_eq!(manifest["rows"]["sha256"], made["rows_sha256"]);
    assert_eq!(manifest["events"][0]["rules"]["min_time"], "2024-01-01T12:00:00.000000Z");

    // An empty machine: only the inputs and the manifest are there, elsewhere, and no settings.
    let other = tempfile::tempdir().unwrap();
    let there = other.path();
    std::fs::create_dir(there.join("in")).unwrap();
    for name in ["user_activity.wasm", "item_activity.wasm", "labels.csv"] {
        std::fs::copy(here.join(name), there.join("in").join(name)).unwrap();
    }
    std::fs::create_dir(there.join("in/ev")).unwrap();
    for name in ["a.parquet", "b.jsonl"] {
        std::fs::copy(here.join("ev").join(name), there.join("in/ev").join(name)).unwrap();
    }
    std::fs::copy(here.join("set.parquet.manifest.json"), there.join("m.json")).unwrap();
    let again = "join --from-manifest m.json --events in/ev --labels in/labels.csv --transform in/item_activity.wasm \
                 --transform in/user_activity.wasm";
    let same = json(there, &format!("{again} --out again.parquet --threads 1"));
    assert_eq!(same["rows_sha256"], made["rows_sha256"]);
    let bytes = |path: &Path| std::fs::read(path).unwrap();
    assert_eq!(bytes(&here.join("set.parquet")), bytes(&there.join("again.parquet")));
    assert_eq!(json(there, &format!("{again} --out again.csv"))["rows_sha256"], made["rows_sha256"]);
    assert_eq!(json(there, &format!("{again} --out parts"))["rows_sha256"], made["rows_sha256"]);
    assert!(there.join("parts/_manifest.json").is_file());

    let refused = |words: &str, why: &[&str]| {
        let output = run(there, &format!("{words} --out no.parquet"));
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.lines().count() == 1 || error.contains("Usage: "), "{error}");
        for part in why {
            assert!(error.contains(part), "{error}");
        }
        assert!(!there.join("no.parquet").exists() && !there.join("no.parquet.manifest.json").exists());
    };
    refused(
        "join --from-manifest m.json",
        &[
            "component of view `item_activity`",
            "is not there: give it by --transform",
            "label file `labels.csv` is not there",
            "and 1 more",
        ],
    );
    refused(&format!("{again} --as-of before"), &["'--from-manifest <MANIFEST>' cannot be used with"]);
    refused("join --from-manifest none.json", &["`none.json` does not exist"]);
    refused("join --from-manifest in/labels.csv", &["`in/labels.csv` is not a manifest: it is not JSON"]);
    std::fs::copy(here.join("user_spend.wasm"), there.join("in/user_activity.wasm")).unwrap();
    refused(
        again,
        &[
            "user_activity",
            "is not there: give it by --transform",
            "in/user_activity.wasm` has the digest",
            "of no view there",
        ],
    );
    std::fs::copy(here.join("user_activity.wasm"), there.join("in/user_activity.wasm")).unwrap();
    std::fs::copy(here.join("ev/b.jsonl"), there.join("in/ev/c.jsonl")).unwrap();
    refused(again, &["`in/ev/c.jsonl` has come to the events of source `default`"]);
    std::fs::remove_file(there.join("in/ev/c.jsonl")).unwrap();
    std::fs::remove_file(there.join("in/ev/a.parquet")).unwrap();
    std::fs::write(there.join("in/ev/a2.parquet"), "").unwrap();
    refused(again, &["event file `a.parquet` of `in/ev` is not there"]);
    std::fs::remove_file(there.join("in/ev/a2.parquet")).unwrap();
    std::fs::copy(here.join("ev/a.parquet"), there.join("in/ev/a.parquet")).unwrap();
    std::fs::write(there.join("in/labels.csv"), "score,user_id,item_id,event_time\n").unwrap();
    refused(again, &["label file `in/labels.csv` has 33 bytes with the digest"]);
    std::fs::copy(here.join("labels.csv"), there.join("in/labels.csv")).unwrap();
    // A set that does not come out as the manifest says is not written.
    let sha256 = made["rows_sha256"].as_str().unwrap();
    std::fs::write(there.join("m.json"), text.replace(sha256, &"0".repeat(64))).unwrap();
    let output = run(there, &format!("{again} --out no.parquet"));
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("the same inputs gave other rows: 1 rows with the hash"), "{error}");
    let left: Vec<_> = std::fs::read_dir(there).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("no.parquet")), "{left:?}");
}

#[test]
fn labels_of_ten_files_are_one_set_in_their_order() {
    let (folder, _) = folder();
    let here = folder.path();
    process::run_ok(here, "generate --events 4000 --users 20 --items 9 --days 4 --seed 1 --out ev.parquet".split(' '));
    std::fs::create_dir(here.join("labels")).unwrap();
    let mut all = String::from("user_id,event_time,label\n");
    let mut words = String::new();
    let mut numbers = Numbers(3);
    for file in 0..10 {
        let mut own = String::from("user_id,event_time,label\n");
        // One of them has no rows; rows repeat.
        for row in 0..(file * 7) % 30 {
            let time = case::format_instant(1_704_067_200 * SECOND + numbers.below(96) as i64 * HOUR);
            let line = format!("u{:05},{time},{}\n", numbers.below(25), row % 3);
            own += &line;
            all += &line;
        }
        std::fs::write(here.join(format!("labels/{file}.csv")), own).unwrap();
        words += &format!(" --labels labels/{file}.csv");
    }
    std::fs::write(here.join("all.csv"), &all).unwrap();
    let join = |labels: &str, out: &str| {
        json(here, &format!("join --transform user_activity.wasm --events ev.parquet {labels} --out {out}"))
    };
    let one = join("--labels all.csv", "one.parquet");
    assert_eq!(one["rows_in"], all.lines().count() - 1);
    let ten = join(&words, "ten --part-rows 20");
    let of_folder = join("--labels labels", "ten.csv");
    assert_eq!((&ten["rows_sha256"], &of_folder["rows_sha256"]), (&one["rows_sha256"], &one["rows_sha256"]));
    // Parts end where label files end, and are in order.
    let parts = archive::parquet_files(&here.join("ten"));
    assert_eq!(ten["files"], parts.len());
    let users: Vec<Option<String>> = parts.iter().flat_map(|part| texts(&table(part), "user_id")).collect();
    assert_eq!(users, texts(&table(&here.join("one.parquet")), "user_id"));
    let manifest: Value = serde_json::from_slice(&std::fs::read(here.join("ten/_manifest.json")).unwrap()).unwrap();
    let rows: Vec<u64> =
        manifest["files"].as_array().unwrap().iter().map(|part| part["rows"].as_u64().unwrap()).collect();
    assert_eq!(rows, [7, 14, 20, 1, 20, 8, 5, 12, 19, 20, 6, 3], "{manifest}");
    assert_eq!(manifest["labels"].as_array().unwrap().len(), 10);
    let audit = run(here, "audit ten --labels labels --events ev.parquet --transform user_activity.wasm");
    assert!(audit.status.success(), "{}", String::from_utf8_lossy(&audit.stdout));
}

#[test]
fn inputs_that_are_not_what_they_should_be_are_named() {
    let (folder, _) = folder();
    let here = folder.path();
    process::run_ok(here, "generate --events 300 --users 9 --items 5 --days 2 --seed 1 --out ev.parquet".split(' '));
    let write = |name: &str, text: &str| std::fs::write(here.join(name), text).unwrap();
    write("good.csv", "user_id,event_time,label\nu00001,2024-01-02T00:00:00Z,1\n");
    write("good2.csv", "user_id,event_time,label\nu00001,2024-01-02T00:00:00Z,1\nu00002,soon,1\n");
    write("other.csv", "user_id,event_time,score\nu00001,2024-01-02T00:00:00Z,1\n");
    write("seconds.csv", "user_id,event_time\nu00001,1704153600000\nu00001,1704153600\n");
    write("micros.csv", "user_id,event_time\nu00001,1704153600000000\n");
    write("nozone.csv", "user_id,event_time\nu00001,2024-01-02T00:00:00\n");
    write("none.csv", "user_id,event_time,label\n");
    let users = || -> ArrayRef { Arc::new(StringArray::from(vec!["u00001"])) };
    let label =
        |values: ArrayRef| vec![("user_id", users()), ("event_time", instants([START].into_iter())), ("label", values)];
    write_table(&here.join("int.parquet"), label(Arc::new(Int64Array::from(vec![1]))));
    write_table(&here.join("float.parquet"), label(Arc::new(Float64Array::from(vec![1.0]))));
    let millis: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![START / 1000]).with_timezone("UTC"));
    let columns =
        vec![("user_id", users()), ("event_time", millis), ("label", Arc::new(Int64Array::from(vec![1])) as _)];
    write_table(&here.join("millis.parquet"), columns);
    let whole = std::fs::read(here.join("int.parquet")).unwrap();
    std::fs::write(here.join("cut.parquet"), &whole[..whole.len() / 2]).unwrap();
    let mut hurt = whole.clone();
    hurt[10..60].fill(0xff);
    std::fs::write(here.join("hurt.parquet"), hurt).unwrap();
    write("text.parquet", "user_id,event_time\n");
    std::fs::create_dir_all(here.join("full/in")).unwrap();
    std::fs::create_dir(here.join("empty")).unwrap();
    let join = |words: &str| run(here, &format!("join --transform user_activity.wasm --events ev.parquet {words}"));
    for (words, why) in [
        (
            "--labels good.csv --labels good2.csv --out o.csv",
            "`good2.csv`: column `event_time`: row 2: `soon` is no time",
        ),
        (
            "--labels good.csv --labels other.csv --out o.csv",
            "`other.csv` has other columns than `good.csv`: it has a column `score` too",
        ),
        (
            "--labels int.parquet --labels float.parquet --out o.csv",
            "`float.parquet` has other columns than `int.parquet`: its column `label` is Float64, there it is Int64",
        ),
        ("--labels int.parquet --labels millis.parquet --out o.csv", "its column `event_time` is Timestamp("),
        ("--labels int.parquet --labels good.csv --out o.csv", "one is Parquet, the other is CSV"),
        (
            "--labels seconds.csv --out o.csv",
            "`seconds.csv`: column `event_time`: row 2: 1704153600 is before 1990 as milliseconds since 1970; is it seconds?",
        ),
        (
            "--labels micros.csv --out o.csv",
            "1704153600000000 is after the year 9999 as milliseconds since 1970; is it finer?",
        ),
        ("--labels cut.parquet --out o.csv", "cut.parquet"),
        ("--labels hurt.parquet --out o.csv", "hurt.parquet"),
        ("--labels text.parquet --out o.csv", "`text.parquet` is not a Parquet file"),
        ("--labels full --out o.csv", "folder `full` holds a folder `in`"),
        ("--labels empty --out o.csv", "folder `empty` holds no .parquet or .csv file"),
        ("--labels good.csv --out full", "folder `full` holds something already"),
        ("--labels good.csv --out no/where", "there is no folder `no`"),
        ("--labels good.csv --out parts --part-rows 0", "parts of 0 rows cannot be written"),
        ("--labels good.csv --out o.csv --max-age soon", "--max-age"),
        ("--out o.csv", "--labels <PATH>"),
    ] {
        let output = join(words);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{words}: {error}");
        assert!(error.contains(why) && !error.contains("panicked"), "{words}: {error}");
        assert!(!here.join("o.csv").exists() && !here.join("parts").exists(), "{words}");
    }
    let zoneless = join("--labels nozone.csv --out o.csv");
    assert!(zoneless.status.success());
    assert!(String::from_utf8_lossy(&zoneless.stderr).contains("holds times without a zone: taken as UTC"));
    for (labels, rows) in [("none.csv", 0), ("good.csv", 1)] {
        let made = json(
            here,
            &format!("join --transform user_activity.wasm --events ev.parquet --labels {labels} --out p{rows}"),
        );
        assert_eq!(made["rows_kept"], rows);
        assert_eq!(table(&here.join(format!("p{rows}/part-00000.parquet"))).num_rows(), rows);
    }
}
