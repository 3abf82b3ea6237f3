//! Files as they come: damaged, foreign, of other columns and units, empty, of one entity alone; and Ctrl-C. Each has a
//! clear result, or an error of one line that names the file, and leaves nothing half-written.

use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, DictionaryArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray,
};
use arrow_schema::{Field, Schema};
use parquet::arrow::ArrowWriter;
use plumb_testing::{archive, process};
use serde_json::Value;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// 2024-01-01T00:00:00Z in seconds.
const START_S: i64 = 1_704_067_200;

fn plumb(folder: &Path, words: &str) -> Output {
    process::run(folder, words.split_whitespace())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
fn json(folder: &Path, words: &str) -> Value {
    let output = plumb(folder, &format!("--json {words}"));
    assert_eq!(output.status.code(), Some(0), "plumb {words}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Demands exit 2 with one line that holds this, and no file that was not there before.
#[track_caller]
fn refused(folder: &Path, words: &str, line: &str) {
    let before = names(folder);
    let output = plumb(folder, words);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "plumb {words}: {error}");
    assert!(
        error.starts_with("plumb: ") && error.lines().count() == 1 && error.contains(line),
        "plumb {words}: {error}"
    );
    assert_eq!((text(&output.stdout), names(folder)), (String::new(), before), "plumb {words}");
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn write(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let fields: Vec<Field> = columns.iter().map(|(name, of)| Field::new(*name, of.data_type().clone(), true)).collect();
    let arrays = columns.into_iter().map(|(_, of)| of).collect();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn strings(values: impl IntoIterator<Item = String>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn millis(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMillisecondArray::from_iter_values(values).with_timezone("UTC"))
}

/// Events `range`, one a minute, of five users and three items.
fn events(range: std::ops::Range<i64>) -> Vec<(&'static str, ArrayRef)> {
    let kind = |n: i64| ["view", "purchase", "add_to_cart"][n as usize % 3].to_owned();
    vec![
        ("event_id", strings(range.clone().map(|n| n.to_string()))),
        ("event_time", millis(range.clone().map(|n| (START_S + 60 * n) * 1000))),
        ("user_id", strings(range.clone().map(|n| (n % 5).to_string()))),
        ("item_id", strings(range.clone().map(|n| (n % 3).to_string()))),
        ("event_type", strings(range.clone().map(kind))),
        ("price", Arc::new(Float64Array::from_iter_values(range.clone().map(|n| (n % 7) as f64)))),
        ("quantity", Arc::new(Int64Array::from_iter_values(range.map(|_| 2)))),
    ]
}

/// These columns with one taken out, replaced or added.
fn with(
    mut columns: Vec<(&'static str, ArrayRef)>,
    name: &'static str,
    values: Option<ArrayRef>,
) -> Vec<(&'static str, ArrayRef)> {
    columns.retain(|(other, _)| *other != name);
    columns.extend(values.map(|values| (name, values)));
    columns
}

/// A folder with the components `user.wasm` and `item.wasm`, 600 events `good.parquet` and labels.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    std::fs::copy(process::component("user_activity"), here.join("user.wasm")).unwrap();
    std::fs::copy(process::component("item_activity"), here.join("item.wasm")).unwrap();
    write(&here.join("good.parquet"), events(0..600));
    let labels = "user_id,item_id,event_time,label\n1,2,2024-01-01T03:00:00Z,0\n4,0,2024-01-01T09:30:00Z,1\n";
    std::fs::write(here.join("labels.csv"), labels).unwrap();
    folder
}

const VIEWS: &str = "--transform user.wasm --transform item.wasm";

/// Every command that reads a file in each place, with `X` for it.
fn commands() -> Vec<String> {
    vec![
        format!("join {VIEWS} --events X --labels labels.csv --out o.parquet"),
        format!("join {VIEWS} --events good.parquet --labels X --out o.parquet"),
        format!("backfill {VIEWS} --events X --every 1d --out o"),
        format!("audit set.parquet --labels labels.csv --events X {VIEWS}"),
        format!("audit set.parquet --labels X --events good.parquet {VIEWS}"),
        format!("audit X --labels labels.csv --events good.parquet {VIEWS}"),
        "test user.wasm --events X".to_owned(),
        "stats X".to_owned(),
        "compare X set.parquet".to_owned(),
        "compare set.parquet X".to_owned(),
    ]
}

#[test]
fn damaged_and_foreign_files_are_named() {
    let folder = folder();
    let here = folder.path();
    json(here, &format!("join {VIEWS} --events good.parquet --labels labels.csv --out set.parquet"));
    let good = std::fs::read(here.join("good.parquet")).unwrap();
    let end = good.len();
    let damage = |name: &str, at: usize, bytes: &[u8]| {
        let mut damaged = good.clone();
        damaged[at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(here.join(name), damaged).unwrap();
    };
    std::fs::write(here.join("cut.parquet"), &good[..end / 2]).unwrap();
    damage("footer.parquet", end - 8, b"XXXXXXXX");
    damage("metadata.parquet", end - 300, &[0xff; 60]);
    damage("pages.parquet", 4, &vec![0xff; end / 2]);
    damage("secret.parquet", end - 4, b"PARE");
    std::fs::write(here.join("text.parquet"), "user_id,event_time\nu1,2024-01-01\n").unwrap();
    std::fs::write(here.join("empty.parquet"), "").unwrap();
    for (name, why) in [
        ("cut.parquet", "is not a Parquet file, or is cut short or damaged"),
        ("footer.parquet", "is not a Parquet file, or is cut short or damaged"),
        ("metadata.parquet", "is not a Parquet file, or is cut short or damaged"),
        ("pages.parquet", "is a damaged Parquet file"),
        ("secret.parquet", "has an encrypted footer"),
        ("text.parquet", "is not a Parquet file, or is cut short or damaged"),
        ("empty.parquet", "is empty (0 bytes), expected a Parquet file"),
    ] {
        for words in commands() {
            let words = words.replace('X', name);
            refused(here, &words, name);
            refused(here, &words, why);
        }
    }
}

#[test]
fn a_table_of_which_no_row_is_an_event_makes_none() {
    let folder = folder();
    let here = folder.path();
    json(here, &format!("join {VIEWS} --events good.parquet --labels labels.csv --out set.parquet"));
    let before = names(here);
    // The labels' columns are the events' but for what says which kind of event it was.
    for words in commands().iter().filter(|words| words.contains("--events X") && !words.starts_with("test")) {
        let output = plumb(here, &words.replace('X', "labels.csv"));
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words}: {error}");
        assert!(error.contains("labels.csv row 0: missing field `event_type`"), "{words}: {error}");
        let last = error.lines().last().unwrap_or_default();
        assert!(last.starts_with("plumb: source `default`: none of 2 records is an event of it"), "{words}: {error}");
        assert_eq!(names(here), before, "{words}");
    }
}

#[test]
fn nothing_that_is_read_is_written_over() {
    let folder = folder();
    let here = folder.path();
    json(here, &format!("join {VIEWS} --events good.parquet --labels labels.csv --out set.parquet"));
    std::fs::hard_link(here.join("good.parquet"), here.join("alias.parquet")).unwrap();
    std::fs::create_dir(here.join("folder")).unwrap();
    std::fs::copy(here.join("good.parquet"), here.join("folder/one.parquet")).unwrap();
    let read = |name: &str| std::fs::read(here.join(name)).unwrap();
    let names = ["good.parquet", "labels.csv", "set.parquet", "folder/one.parquet"];
    let before = names.map(read);
    let join = format!("join {VIEWS} --labels labels.csv");
    let audit = format!("audit set.parquet --labels labels.csv --events good.parquet {VIEWS}");
    for words in [
        format!("{join} --events good.parquet --out good.parquet"),
        format!("{join} --events good.parquet --out ./folder/../good.parquet"),
        format!("{join} --events good.parquet --out alias.parquet"),
        format!("{join} --events folder --out folder/one.parquet"),
        format!("{join} --events good.parquet --out labels.csv"),
        format!("{audit} --html set.parquet"),
        format!("{audit} --html labels.csv"),
        format!("{audit} --html good.parquet"),
        "stats set.parquet --html set.parquet".to_owned(),
        "compare set.parquet folder --html folder/one.parquet".to_owned(),
    ] {
        refused(here, &words, "` is read, and would be gone");
    }
    std::fs::create_dir_all(here.join("folder/_sets")).unwrap();
    for out in ["folder/set.parquet", "folder/../folder/set.csv", "folder/set"] {
        refused(here, &format!("{join} --events folder --out {out}"), "are read as events, and what is written there");
    }
    json(here, &format!("{join} --events folder --out folder/_sets/set.parquet"));
    json(here, &format!("{join} --events folder --out folder/_set.parquet"));
    let backfill = format!("backfill {VIEWS} --every 1d --events folder");
    for out in ["folder", "folder/new/snapshots"] {
        refused(here, &format!("{backfill} --out {out}"), "are read as events, and what is written there");
    }
    assert!(!here.join("folder/features").exists() && !here.join("folder/new").exists());
    json(here, &format!("{backfill} --out folder/_snapshots"));
    for words in [audit, "stats set.parquet".to_owned(), "compare set.parquet set.parquet".to_owned()] {
        refused(here, &format!("{words} --html folder"), "--html folder: that is a folder; name a file");
        refused(here, &format!("{words} --html nowhere/x.html"), "there is no folder `nowhere`");
    }
    assert!(names.map(read) == before);
    // What is not read is replaced.
    json(here, &format!("{join} --events good.parquet --out set.parquet"));
}

#[test]
fn a_set_of_several_label_files_is_audited_with_all_of_them() {
    let folder = folder();
    let here = folder.path();
    std::fs::write(here.join("more.csv"), "label,event_time,item_id,user_id\n2,2024-01-01T05:00:00Z,3,7\n").unwrap();
    let rest = format!("--labels labels.csv --labels more.csv --events good.parquet {VIEWS}");
    json(here, &format!("join {rest} --out set.parquet"));
    assert_eq!(json(here, &format!("audit set.parquet {rest}"))["rows_kept"], 3);
    let one = format!("audit set.parquet --labels labels.csv --events good.parquet {VIEWS}");
    refused(here, &one, "training-set row 3 is no label");
}

/// `tests/data/page_checksums.parquet` is of pyarrow (`write_page_checksum=True`, no compression, no dictionaries), so
/// that a bit flipped in a value decodes as another value.
#[test]
fn a_bit_flipped_in_a_page_with_a_checksum_is_found() {
    let folder = folder();
    let here = folder.path();
    let good = std::fs::read(process::repository().join("tests/data/page_checksums.parquet")).unwrap();
    std::fs::write(here.join("x.parquet"), &good).unwrap();
    let commands = [
        "test user.wasm --events x.parquet",
        "stats x.parquet",
        "join --transform user.wasm --events x.parquet --labels labels.csv --out o.parquet",
    ];
    for words in commands {
        json(here, words);
    }
    // The ends of the pages of `event_id`, `event_time`, `user_id`, `event_type` and `price`.
    for (column, end) in [(0, 3657), (1, 6936), (2, 9383), (3, 13438), (4, 15166)] {
        for back in [1, 40, 300] {
            let mut damaged = good.clone();
            damaged[end - back] ^= 1;
            std::fs::write(here.join("x.parquet"), damaged).unwrap();
            refused(here, "stats x.parquet", "`x.parquet` is a damaged Parquet file");
            // The others read what their views need.
            if [1, 2, 3].contains(&column) {
                commands.iter().for_each(|words| refused(here, words, "`x.parquet` is a damaged Parquet file"));
            }
        }
    }
}

#[test]
fn a_bit_flipped_in_the_archive_is_found_by_a_join() {
    let folder = folder();
    let here = folder.path();
    std::fs::write(here.join("plumb.toml"), "[transforms]\npaths = []\n[offline]\nsnapshots = \"none\"\n").unwrap();
    plumb(here, "produce good.parquet");
    assert!(plumb(here, "run --until-end --no-serve").status.success());
    let join = format!("join {VIEWS} --events data/offline/events/default --labels labels.csv --out o.parquet");
    json(here, &join);
    std::fs::remove_file(here.join("o.parquet")).unwrap();
    std::fs::remove_file(here.join("o.parquet.manifest.json")).unwrap();
    let file = archive::parquet_files(&here.join("data/offline/events/default")).swap_remove(0);
    let good = std::fs::read(&file).unwrap();
    let mut by_hash = 0;
    for at in (4..good.len() / 2).step_by(good.len() / 40) {
        let mut damaged = good.clone();
        damaged[at] ^= 4;
        std::fs::write(&file, damaged).unwrap();
        refused(here, &join, ".parquet` is ");
        by_hash +=
            usize::from(text(&plumb(here, &join).stderr).contains("SHA-256 is not the one it was committed with"));
    }
    // Most bits are of values, and nothing but the hash says what those were.
    assert!(by_hash > 5, "{by_hash}");
    std::fs::write(&file, good).unwrap();
    json(here, &join);
}

#[test]
fn no_damage_makes_a_panic() {
    let folder = folder();
    let here = folder.path();
    let good = std::fs::read(here.join("good.parquet")).unwrap();
    let footer = u32::from_le_bytes(good[good.len() - 8..good.len() - 4].try_into().unwrap()) as usize;
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    for round in 0..150 {
        let mut damaged = good.clone();
        for _ in 0..=random(3) {
            let at = if round % 4 == 0 { random(good.len()) } else { good.len() - 8 - random(footer) };
            damaged[at] = if random(2) == 0 { damaged[at] ^ (1 << random(8)) } else { random(256) as u8 };
        }
        std::fs::write(here.join("x.parquet"), damaged).unwrap();
        let words = match round % 3 {
            0 => "stats x.parquet",
            1 => "join --transform user.wasm --events x.parquet --labels labels.csv --out set.parquet",
            _ => "backfill --transform user.wasm --events x.parquet --every 1d --out o",
        };
        let output = plumb(here, words);
        let error = text(&output.stderr);
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 2)) && !error.contains("panicked"), "round {round}: {code:?} {error}");
        if code == Some(2) {
            assert!(error.starts_with("plumb: ") && error.contains("x.parquet"), "round {round}: {error}");
            assert!(!here.join("set.parquet").exists() && !here.join("o/features").exists(), "round {round}");
        }
        for made in ["set.parquet", "set.parquet.manifest.json"] {
            drop(std::fs::remove_file(here.join(made)));
        }
        drop(std::fs::remove_dir_all(here.join("o")));
    }
}

/// The rows of a training set and of snapshots over some events.
#[track_caller]
fn values(here: &Path, events: &str) -> (String, Vec<u8>) {
    let set = json(here, &format!("join {VIEWS} --events {events} --labels labels.csv --out o.parquet"));
    json(here, &format!("backfill {VIEWS} --events {events} --every 1d --out o"));
    let snapshots = |view: &str| {
        let version = format!("o/features/entity={}/view={view}", view.split('_').next().unwrap());
        let version = here.join(version);
        let version = version.join(&names(&version)[0]).join("date=2024-01-02");
        let files: Vec<String> = names(&version);
        // Their positions are alike too: rows of the source.
        files.iter().flat_map(|file| std::fs::read(version.join(file)).unwrap()).collect::<Vec<u8>>()
    };
    let bytes = [snapshots("user_activity"), snapshots("item_activity")].concat();
    std::fs::remove_dir_all(here.join("o")).unwrap();
    std::fs::remove_file(here.join("o.parquet")).unwrap();
    (set["rows_sha256"].as_str().unwrap().to_owned(), bytes)
}

#[test]
fn files_of_other_columns_types_and_units_give_the_same_values() {
    let folder = folder();
    let here = folder.path();
    let whole = values(here, "good.parquet");
    let later = || events(300..600);
    let seconds = || (300..600).map(|n| START_S + 60 * n);
    let users = || (300..600i64).map(|n| n % 5);
    let dictionary: DictionaryArray<Int32Type> =
        users().map(|user| user.to_string()).collect::<Vec<_>>().iter().map(|user| Some(user.as_str())).collect();
    let micros = TimestampMicrosecondArray::from_iter_values(seconds().map(|s| s * 1_000_000)).with_timezone("+02:00");
    let nanos = TimestampNanosecondArray::from_iter_values(seconds().map(|s| s * 1_000_000_000)).with_timezone("UTC");
    let zoneless = TimestampSecondArray::from_iter_values(seconds());
    let rfc = seconds().map(|s| plumb_pipeline::decode::format_rfc3339(s * 1_000_000));
    let same: Vec<(&'static str, Option<ArrayRef>)> = vec![
        ("more", Some(strings((300..600).map(|n| n.to_string())))),
        ("user_id", Some(Arc::new(Int64Array::from_iter_values(users())))),
        ("user_id", Some(Arc::new(Int32Array::from_iter_values(users().map(|user| user as i32))))),
        ("user_id", Some(Arc::new(dictionary))),
        ("quantity", Some(Arc::new(Int32Array::from_iter_values((300..600).map(|_| 2))))),
        ("price", Some(Arc::new(Int64Array::from_iter_values((300..600).map(|n| n % 7))))),
        ("event_time", Some(Arc::new(TimestampSecondArray::from_iter_values(seconds()).with_timezone("UTC")))),
        ("event_time", Some(Arc::new(micros))),
        ("event_time", Some(Arc::new(nanos))),
        ("event_time", Some(Arc::new(Int64Array::from_iter_values(seconds().map(|s| s * 1000))))),
        ("event_time", Some(strings(rfc))),
        ("event_time", Some(Arc::new(zoneless))),
        ("category", None),
    ];
    std::fs::create_dir(here.join("mixed")).unwrap();
    write(&here.join("mixed/a.parquet"), events(0..300));
    for (number, (name, column)) in same.into_iter().enumerate() {
        write(&here.join("mixed/b.parquet"), with(later(), name, column));
        assert!(values(here, "mixed") == whole, "{number}: {name}");
    }
    let output = plumb(here, &format!("join {VIEWS} --events mixed --labels labels.csv --out o.parquet"));
    assert_eq!(text(&output.stderr), "", "times with a zone need no word");
    let zoneless: ArrayRef = Arc::new(TimestampSecondArray::from_iter_values(seconds()));
    write(&here.join("mixed/b.parquet"), with(later(), "event_time", Some(zoneless)));
    let output = plumb(here, &format!("join {VIEWS} --events mixed --labels labels.csv --out o.parquet"));
    assert_eq!(text(&output.stderr).matches("times without a zone are read as UTC").count(), 1);

    // What cannot be the field's is no value of it.
    let words = format!("join {VIEWS} --events mixed --labels labels.csv --out p.parquet");
    for (name, column, why) in [
        (
            "price",
            Some(strings((300..600).map(|_| "1".to_owned()))),
            "`mixed/b.parquet`: column `price`: found Utf8, expected f64",
        ),
        (
            "user_id",
            Some(Arc::new(Float64Array::from_iter_values((300..600).map(f64::from))) as ArrayRef),
            "`mixed/b.parquet`: column `user_id`: found Float64, expected string",
        ),
        (
            "event_time",
            None,
            "`mixed/b.parquet` has no column `event_time` for the event time; it has event_id, user_id",
        ),
    ] {
        write(&here.join("mixed/b.parquet"), with(later(), name, column));
        refused(here, &words, why);
        refused(here, &format!("backfill {VIEWS} --events mixed --every 1d --out p"), why);
        refused(here, &format!("audit o.parquet --labels labels.csv --events mixed {VIEWS}"), why);
    }
    let mut twice = later();
    twice.push(("price", Arc::new(Float64Array::from_iter_values((300..600).map(f64::from)))));
    write(&here.join("mixed/b.parquet"), twice);
    refused(here, &words, "`mixed/b.parquet` has two columns named `price`: rename one");

    // Rows without a time, or with one in seconds that says milliseconds, are refused one by one, and said.
    let mut times: Vec<Option<i64>> = (300..600).map(|n| Some((START_S + 60 * n) * 1000)).collect();
    times[7] = None;
    times[9] = Some(START_S);
    write(&here.join("mixed/b.parquet"), with(later(), "event_time", Some(Arc::new(Int64Array::from(times)))));
    let output = plumb(here, &words);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{error}");
    assert!(error.contains("source `default`: 2 of 600 records rejected"), "{error}");
    assert!(error.contains("mixed/b.parquet row 7: missing field `event_time`"), "{error}");
    assert!(error.contains("mixed/b.parquet row 9: ") && error.contains("check the source's time_unit"), "{error}");
}

#[test]
fn labels_of_every_kind() {
    let folder = folder();
    let here = folder.path();
    let join = |labels: &str, out: &str| format!("join {VIEWS} --events good.parquet --labels {labels} --out {out}");
    let audit = |labels: &str, set: &str| format!("audit {set} --labels {labels} --events good.parquet {VIEWS}");
    let columns = |times: ArrayRef| {
        let rows = times.len() as i64;
        let (users, items) =
            (strings((0..rows).map(|n| (n % 5).to_string())), strings((0..rows).map(|n| (n % 3).to_string())));
        vec![("user_id", users), ("item_id", items), ("event_time", times)]
    };
    let at = |hours: &[i64]| hours.iter().map(|hour| (START_S + 3600 * hour) * 1000).collect::<Vec<_>>();

    // Without a zone: said once, by every command that reads labels.
    let zoneless = TimestampMillisecondArray::from(at(&[3, 9]));
    write(&here.join("zoneless.parquet"), columns(Arc::new(zoneless)));
    std::fs::write(
        here.join("zoneless.csv"),
        "user_id,item_id,event_time\n0,0,2024-01-01T03:00:00\n1,1,2024-01-01 09:00:00\n",
    )
    .unwrap();
    write(&here.join("zoned.parquet"), columns(millis(at(&[3, 9]))));
    let expected = json(here, &join("zoned.parquet", "zoned-set.parquet"));
    for file in ["zoneless.parquet", "zoneless.csv"] {
        let output = plumb(here, &join(file, "o.parquet"));
        let line = format!("plumb: `{file}`: column `event_time` holds times without a zone: taken as UTC\n");
        assert_eq!(text(&output.stderr), line);
        let output = plumb(here, &audit(file, "o.parquet"));
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), line));
    }
    assert_eq!(expected["rows_kept"], 2);

    // None, one, twice the same, before the first event, in the future.
    for (name, hours, kept) in
        [("none", vec![], 0), ("one", vec![3], 1), ("twice", vec![3, 3, 3], 3), ("ends", vec![-9999, 0, 999_999], 3)]
    {
        let file = format!("{name}.parquet");
        write(&here.join(&file), columns(millis(at(&hours))));
        assert_eq!(json(here, &join(&file, "o.parquet"))["rows_kept"], kept, "{name}");
        let report = json(here, &audit(&file, "o.parquet"));
        assert_eq!((&report["passed"], &report["rows_kept"]), (&Value::Bool(true), &kept.into()), "{name}");
        assert_eq!(json(here, "stats o.parquet")["rows"], kept, "{name}");
    }
    refused(here, "compare none.parquet zoned.parquet", "`none.parquet` has 0 rows: there is nothing to compare");

    // Without any event, before all of them: nobody is found.
    write(&here.join("nothing.parquet"), events(0..0));
    let nothing = format!("join {VIEWS} --events nothing.parquet --labels zoned.parquet --out o.parquet");
    assert_eq!(json(here, &format!("{nothing} --cold-start drop"))["rows_dropped"], 2);
    assert_eq!(json(here, &nothing)["rows_kept"], 2);
    let report = json(here, &format!("audit o.parquet --labels zoned.parquet --events nothing.parquet {VIEWS}"));
    assert_eq!(report["passed"], true);
    let backfill = json(here, &format!("backfill {VIEWS} --events nothing.parquet --every 1h --out snapshots"));
    assert_eq!((&backfill["events"], &backfill["rows"]["user_activity"]), (&0.into(), &0.into()));
    write(&here.join("single.parquet"), events(0..1));
    let backfill = json(here, &format!("backfill {VIEWS} --events single.parquet --every event --out snapshot"));
    assert_eq!((&backfill["events"], &backfill["rows"]["user_activity"]), (&1.into(), &1.into()));

    // What cannot be asked.
    let null = TimestampMillisecondArray::from(vec![Some(START_S * 1000), None]).with_timezone("UTC");
    write(&here.join("null.parquet"), columns(Arc::new(null)));
    let mut twins = columns(millis(at(&[3])));
    twins.push(("event_time", millis(at(&[9]))));
    write(&here.join("twins.parquet"), twins);
    let mut feature = columns(millis(at(&[3])));
    feature.push(("user_activity__purchase_count_1h", Arc::new(Int64Array::from(vec![1]))));
    write(&here.join("feature.parquet"), feature);
    write(&here.join("seconds.parquet"), columns(Arc::new(Int64Array::from(vec![START_S]))));
    std::fs::write(here.join("twins.csv"), "user_id,item_id,event_time,label,label\n0,0,2024-01-01T03:00:00Z,1,2\n")
        .unwrap();
    for (file, why) in [
        ("null.parquet", "`null.parquet`: label row 2: `event_time` is null, every label needs a time"),
        ("twins.parquet", "`twins.parquet`: column 4 is named `event_time` like one before it"),
        ("twins.csv", "`twins.csv`: column 5 is named `label` like one before it"),
        (
            "feature.parquet",
            "`feature.parquet` has a column `user_activity__purchase_count_1h`, which is also the name of a feature column",
        ),
        (
            "seconds.parquet",
            "`seconds.parquet`: column `event_time`: row 1: 1704067200 is before 1990 as milliseconds since 1970; is it seconds?",
        ),
    ] {
        refused(here, &join(file, "p.parquet"), why);
        refused(here, &join(file, "parts"), why);
    }
    refused(here, "stats twins.parquet", "column 4 is named `event_time` like one before it");
}

#[test]
fn one_entity_may_have_a_million_events() {
    const EVENTS: i64 = 1_000_000;
    let folder = folder();
    let here = folder.path();
    // A purchase each second, of 0 to 6 by turns.
    let columns = vec![
        ("event_id", strings((0..EVENTS).map(|n| n.to_string()))),
        ("event_time", millis((0..EVENTS).map(|n| (START_S + n) * 1000))),
        ("user_id", strings((0..EVENTS).map(|_| "u1".to_owned()))),
        ("item_id", strings((0..EVENTS).map(|n| (n % 9).to_string()))),
        ("event_type", strings((0..EVENTS).map(|_| "purchase".to_owned()))),
        ("price", Arc::new(Float64Array::from_iter_values((0..EVENTS).map(|n| (n % 7) as f64))) as ArrayRef),
        ("quantity", Arc::new(Int64Array::from_iter_values((0..EVENTS).map(|_| 1)))),
    ];
    write(&here.join("events.parquet"), columns);
    let seconds = [-5, 0, 1, 60, 3600, 3601, 86_400, 500_000, EVENTS, EVENTS + 3600, 2 * EVENTS];
    let times = millis(seconds.iter().map(|second| (START_S + second) * 1000));
    write(
        &here.join("labels.parquet"),
        vec![("user_id", strings(seconds.iter().map(|_| "u1".to_owned()))), ("event_time", times)],
    );
    let join = "join --transform user.wasm --events events.parquet --labels labels.parquet";
    let mut hashes = Vec::new();
    for (memory, threads) in [("8GiB", 1), ("64MiB", 1), ("64MiB", 8)] {
        let words = format!("{join} --memory {memory} --threads {threads} --out set.parquet");
        hashes.push(json(here, &words)["rows_sha256"].clone());
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    let file = std::fs::File::open(here.join("set.parquet")).unwrap();
    let batch = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let batch = batch.map(Result::unwrap).next().unwrap();
    let column = |name: &str| batch.column_by_name(&format!("user_activity__{name}")).unwrap();
    let counts = arrow_cast::cast(column("purchase_count_1h"), &arrow_schema::DataType::Int64).unwrap();
    let spent = arrow_cast::cast(column("total_spend_24h"), &arrow_schema::DataType::Float64).unwrap();
    let (counts, spent) =
        (counts.as_any().downcast_ref::<Int64Array>().unwrap(), spent.as_any().downcast_ref::<Float64Array>().unwrap());
    for (row, &second) in seconds.iter().enumerate() {
        let inside = |width: i64| (second - width).clamp(0, EVENTS)..second.clamp(0, EVENTS);
        if second <= 0 {
            assert!(arrow_array::Array::is_null(column("purchase_count_1h"), row), "second {second}");
            continue;
        }
        assert_eq!(counts.value(row), inside(3600).count() as i64, "second {second}");
        assert_eq!(spent.value(row), inside(86_400).map(|n| n % 7).sum::<i64>() as f64, "second {second}");
    }
    let backfill = "backfill --transform user.wasm --events events.parquet --every 1h";
    for (memory, out) in [("8GiB", "whole"), ("64MiB", "parts")] {
        let made = json(here, &format!("{backfill} --memory {memory} --threads 2 --out {out}"));
        assert_eq!(made["rows"]["user_activity"], EVENTS / 3600 + 1);
    }
    let same =
        Command::new("diff").args(["-r", "whole/features", "parts/features"]).current_dir(here).status().unwrap();
    assert!(same.success());
    let first = "user_id,event_time\nu1,2024-01-01T00:01:00Z\nu1,2024-01-01T01:00:01Z\n";
    std::fs::write(here.join("first.csv"), first).unwrap();
    json(here, "join --transform user.wasm --events events.parquet --labels first.csv --out first.parquet");
    let report = json(here, "audit first.parquet --labels first.csv --events events.parquet --transform user.wasm");
    assert_eq!((&report["passed"], &report["truncated_rows"]), (&Value::Bool(true), &2.into()));
}

#[test]
fn an_interrupted_command_leaves_nothing_half_written() {
    let folder = folder();
    let here = folder.path();
    json(
        here,
        "generate --events 1000000 --users 2000 --items 500 --days 30 --seed 5 --start 2024-01-01T00:00:00Z --out many.parquet",
    );
    let labels: String =
        (0..100_000).map(|n| format!("u{:05},i{:05},2024-01-20T00:00:00Z\n", n % 2000, n % 500)).collect();
    std::fs::write(here.join("many.csv"), format!("user_id,item_id,event_time\n{labels}")).unwrap();
    std::fs::create_dir(here.join("out")).unwrap();
    let before = names(here);
    for (words, signal) in [
        (format!("join {VIEWS} --events many.parquet --labels many.csv --part-rows 1000 --out out/set"), "INT"),
        (format!("join {VIEWS} --events many.parquet --labels many.csv --out out/set.parquet"), "TERM"),
        (format!("backfill {VIEWS} --events many.parquet --every event --memory 64MiB --out out/snapshots"), "INT"),
    ] {
        // Whoever runs the tests in the background lets them ignore Ctrl-C, and what they start.
        let mut child = Command::new("env")
            .arg("--default-signal=INT")
            .arg(process::plumb())
            .args(words.split_whitespace())
            .current_dir(here)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // In the middle: it has begun to write, or has read for some time.
        let (start, statistics) = (Instant::now(), format!("/proc/{}/io", child.id()));
        let has_read = || {
            let text = std::fs::read_to_string(&statistics).unwrap_or_default();
            let read = text.lines().find_map(|line| line.strip_prefix("rchar: "));
            read.and_then(|bytes| bytes.parse::<u64>().ok()).is_some_and(|bytes| bytes > 4_000_000)
        };
        while !has_read() {
            assert!(start.elapsed() < process::PATIENCE && child.try_wait().unwrap().is_none(), "plumb {words}");
            std::thread::sleep(Duration::from_millis(1));
        }
        let sent = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.status.signal()), (Some(130), None), "{}", text(&output.stderr));
        assert_eq!(text(&output.stderr), "plumb: interrupted: what was not complete is not there\n", "plumb {words}");
        assert_eq!(text(&output.stdout), "");
        let left = Command::new("find").args(["out", "-type", "f"]).current_dir(here).output().unwrap();
        assert_eq!((text(&left.stdout).as_str(), names(here)), ("", before.clone()), "plumb {words}");
    }
    assert_eq!(names(&here.join("out")).iter().filter(|name| name.starts_with('.')).count(), 0);
}
