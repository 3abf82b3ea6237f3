//! Real event logs, whole: `make test-data DATA=DIR` with a folder laid out like the shared data. Without
//! `PLUMB_TEST_DATA` every test here says that it is skipped.

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use plumb_testing::oracle::{self, Named, OracleEvent, OracleValue};
use plumb_testing::{archive, case, process};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The folder of the data; says so and gives nothing when there is none.
fn data() -> Option<PathBuf> {
    let folder = std::env::var_os("PLUMB_TEST_DATA").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: PLUMB_TEST_DATA is not set (make test-data DATA=DIR)");
    }
    folder
}

/// All rows of a Parquet file as one batch.
fn table(path: &Path) -> RecordBatch {
    let file = std::fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let schema = builder.schema().clone();
    let batches: Vec<RecordBatch> = builder.with_batch_size(1 << 20).build().unwrap().map(Result::unwrap).collect();
    assert!(batches.len() <= 1, "{} has more rows than expected", path.display());
    batches.into_iter().next().unwrap_or_else(|| RecordBatch::new_empty(schema))
}

fn column<'a>(table: &'a RecordBatch, name: &str) -> &'a ArrayRef {
    table.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"))
}

fn texts(table: &RecordBatch, name: &str) -> Vec<Option<String>> {
    let plain = arrow_cast::cast(column(table, name), &DataType::Utf8).unwrap();
    plain.as_string::<i32>().iter().map(|value| value.map(str::to_owned)).collect()
}

fn instants(table: &RecordBatch, name: &str) -> Vec<i64> {
    let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
    let plain = arrow_cast::cast(column(table, name), &micros).unwrap();
    plain.as_primitive::<TimestampMicrosecondType>().values().to_vec()
}

/// A cell as the oracle writes values.
fn cell(column: &ArrayRef, row: usize) -> OracleValue {
    // A column of the type Null has no bitmap that says so.
    if column.is_null(row) || *column.data_type() == DataType::Null {
        return OracleValue::Null;
    }
    let one = column.slice(row, 1);
    match column.data_type() {
        DataType::Float64 => OracleValue::Float(one.as_primitive::<arrow_array::types::Float64Type>().value(0)),
        DataType::List(_) => {
            let values = arrow_cast::cast(&one.as_list::<i32>().value(0), &DataType::Utf8).unwrap();
            OracleValue::Texts(values.as_string::<i32>().iter().map(|text| text.unwrap().to_owned()).collect())
        }
        _ => {
            let whole = arrow_cast::cast(&one, &DataType::Int64).unwrap();
            OracleValue::Int(whole.as_primitive::<arrow_array::types::Int64Type>().value(0))
        }
    }
}

/// Equal in every bit; a whole number may be written as a float.
fn same(left: &OracleValue, right: &OracleValue) -> bool {
    match (left, right) {
        (OracleValue::Float(left), OracleValue::Float(right)) => left.to_bits() == right.to_bits(),
        (OracleValue::Int(int), OracleValue::Float(float)) | (OracleValue::Float(float), OracleValue::Int(int)) => {
            (*int as f64).to_bits() == float.to_bits()
        }
        _ => left == right,
    }
}

/// As [`same`], but for deviations and medians, of which less is promised.
fn as_promised(feature: &str, left: &OracleValue, right: &OracleValue) -> bool {
    let allowed = if feature.contains("std_") || feature.ends_with("_std") {
        1e-9
    } else if feature.contains("median") {
        0.01
    } else {
        return same(left, right);
    };
    match (left, right) {
        (OracleValue::Float(left), OracleValue::Float(right)) => (left - right).abs() <= right.abs() * allowed,
        _ => left == right,
    }
}

/// The shipped views as options of a command.
fn shipped() -> Vec<String> {
    let option = |view: &str| ["--transform".to_owned(), process::component(view).display().to_string()];
    oracle::VIEWS.iter().flat_map(|&(view, ..)| option(view)).collect()
}

/// Runs a command that prints JSON.
fn plumb(folder: &Path, words: &[&str]) -> Value {
    let views = if matches!(words[0], "join" | "audit") { shipped() } else { Vec::new() };
    let all = ["--json"].iter().chain(words).map(|word| (*word).to_owned()).chain(views.iter().cloned());
    serde_json::from_str(&process::run_ok(folder, all)).unwrap()
}

#[test]
fn golden_values_come_out_of_the_join() {
    let Some(data) = data() else { return };
    let golden = data.join("../golden");
    if !golden.is_dir() {
        println!("skipped: there is no {}", golden.display());
        return;
    }
    // Ratings have no purchases to say anything about.
    for (name, events, features) in [
        ("jd", "events_jd", 42),
        ("completejourney", "events_completejourney", 42),
        ("movielens", "ratings_movielens_small", 18),
    ] {
        let here = tempfile::tempdir().unwrap();
        let events = data.join(format!("{events}.parquet"));
        let labels = golden.join(format!("labels_{name}.parquet"));
        let words = [
            "join",
            "--events",
            events.to_str().unwrap(),
            "--labels",
            labels.to_str().unwrap(),
            "--out",
            "set.parquet",
        ];
        let joined = plumb(here.path(), &words);
        let set = table(&here.path().join("set.parquet"));
        let expected = table(&golden.join(format!("expected_{name}.parquet")));
        assert_eq!(set.num_rows(), expected.num_rows());
        let mut compared = 0;
        for field in expected.schema().fields() {
            let view = field.name().split_once("__").map(|(view, _)| view);
            if view.and_then(oracle::view).is_none() {
                continue;
            }
            let (ours, theirs) = (column(&set, field.name()), column(&expected, field.name()));
            for row in 0..set.num_rows() {
                let (ours, theirs) = (cell(ours, row), cell(theirs, row));
                let equal = as_promised(field.name(), &ours, &theirs);
                assert!(equal, "{name} row {row} {}: {ours}, expected {theirs}", field.name());
                compared += 1;
            }
        }
        assert_eq!(compared, features * set.num_rows());
        println!("{name}: {compared} golden values equal, {:.2} s", joined["seconds"].as_f64().unwrap());
    }
}

/// Up to `count` different keys, spread over the events.
fn spread(events: &[OracleEvent], count: usize, key: impl Fn(&OracleEvent) -> Option<&String>) -> Vec<String> {
    let keys: BTreeSet<&String> = events.iter().filter_map(key).collect();
    let step = (keys.len() / count).max(1);
    keys.into_iter().step_by(step).take(count).cloned().collect()
}

/// The service's answers at `t` for some users and items, and one that never was, against the oracle.
fn check_served(address: &str, events: &[OracleEvent], t: i64, count: usize) -> usize {
    let (users, items) =
        (spread(events, count, |event| event.user.as_ref()), spread(events, count, |event| event.item.as_ref()));
    type Ask = fn(&[OracleEvent], &str, i64) -> Option<Vec<Named>>;
    let asked: Vec<(&str, String, Ask)> = users
        .into_iter()
        .map(|user| ("user", user, oracle::user_activity as Ask))
        .chain(items.into_iter().map(|item| ("item", item, oracle::item_activity as Ask)))
        .chain([("user", "nobody".to_owned(), oracle::user_activity as Ask)])
        .collect();
    let as_of = case::format_instant(t);
    let mut compared = 0;
    for some in asked.chunks(100) {
        let requests: Vec<Value> = some
            .iter()
            .map(|(entity, key, _)| {
                let field = format!("{entity}_id");
                let mut request = serde_json::Map::new();
                request.insert(field, json!(key));
                request.insert("as_of".into(), json!(as_of));
                Value::Object(request)
            })
            .collect();
        let answer = process::post(address, "/features/batch", &json!({"requests": requests}));
        for ((entity, key, ask), result) in some.iter().zip(answer["results"].as_array().unwrap()) {
            let view = format!("{entity}_activity");
            match ask(events, key, t) {
                None => assert_eq!(result["entities"][entity]["status"], "not_found", "{entity} {key} at {as_of}"),
                Some(values) => {
                    for (name, value) in values {
                        let served = &result["features"][format!("{view}:{name}")];
                        assert!(
                            value.is_json(served),
                            "{view}:{name} of {key} at {as_of} is {served}, should be {value}"
                        );
                        compared += 1;
                    }
                }
            }
        }
    }
    compared
}

fn configure(here: &Path, events: &Path) {
    let more = "[offline]\nurl = \"file:data/offline\"\n[run]\nserve = true\ncommit_interval = \"1s\"\n";
    let config = process::settings(here, 1, more);
    let text = std::fs::read_to_string(&config).unwrap();
    let source = format!("kind = \"file\"\npath = \"{}\"", events.display());
    std::fs::write(&config, text.replace("kind = \"log\"\npartitions = 1", &source)).unwrap();
}

#[test]
fn whole_files_are_ingested_and_answered_even_after_kills() {
    let Some(data) = data() else { return };
    for (name, count) in [("events_jd", 150), ("events_completejourney", 60)] {
        let path = data.join(format!("{name}.parquet"));
        let events = oracle::accepted(&archive::events_of(&path));
        let newest = events.iter().map(|event| event.time).max().unwrap();
        let middle = {
            let mut times: Vec<i64> = events.iter().map(|event| event.time).collect();
            *times.select_nth_unstable(events.len() / 2).1
        };
        for kills in [0, 3] {
            let root = tempfile::tempdir().unwrap();
            let here = root.path();
            configure(here, &path);
            for kill in 1..=kills {
                let service = process::Service::start(here, ["run", "--until-end"]);
                let manifests = here.join("data/offline/manifest/default/0");
                let end = Instant::now() + process::PATIENCE;
                // Once more has been committed than at the last kill, or all of it.
                while std::fs::read_dir(&manifests).map_or(0, Iterator::count) < 2 * kill {
                    if here.join("service.log").metadata().is_ok_and(|log| log.len() > 0) {
                        break;
                    }
                    assert!(Instant::now() < end, "{name}: no commit");
                    std::thread::yield_now();
                }
                service.kill();
            }
            let start = Instant::now();
            let run = plumb(here, &["run", "--until-end"]);
            let seconds = start.elapsed().as_secs_f64();
            assert_eq!(run["applied"], events.len(), "{run}");
            assert_eq!(run["rejected"], 0, "{run}");
            if kills == 0 {
                let rate = events.len() as f64 / run["seconds"].as_f64().unwrap();
                println!(
                    "{name}: {} events in {seconds:.2} s, {rate:.0} events/s with archive and online store",
                    events.len()
                );
            }
            let archived = archive::read(&here.join("data/offline/events"));
            assert_eq!(archived.len(), events.len());
            let ids: HashSet<&Option<String>> = archived.iter().map(|archived| &archived.event.id).collect();
            assert_eq!(ids.len(), events.len(), "each event once");
            let mut service = process::Service::start(here, ["run"]);
            let address = service.ready();
            let start = Instant::now();
            let mut compared = 0;
            for t in [newest + 1, newest, middle, middle + 1] {
                compared += check_served(&address, &events, t, if t > newest { count } else { count / 5 });
            }
            println!(
                "{name}: {compared} values served after {kills} kills equal the oracle's, {:.2} s",
                start.elapsed().as_secs_f64()
            );
            for entity in ["user", "item"] {
                let report = plumb(here, &["check", "--entity", entity, "--sample", "300", "--exact"]);
                assert_eq!(report["passed"], true, "{report}");
            }
            assert_eq!(service.terminate(), Some(0));
        }
    }
}

#[test]
fn requests_exactly_on_events_see_only_what_was_before() {
    let Some(data) = data() else { return };
    let here = tempfile::tempdir().unwrap();
    let here = here.path();
    let (events_path, labels_path) = (data.join("events_jd.parquet"), data.join("jd_requests.parquet"));
    let (events_word, labels_word) = (events_path.to_str().unwrap(), labels_path.to_str().unwrap());
    let inputs = ["--events", events_word, "--labels", labels_word, "--label-time", "request_time"];
    let join = |out: &str, more: &[&str]| plumb(here, &[&["join", "--out", out][..], &inputs, more].concat());
    let joined = join("set.parquet", &[]);
    assert_eq!(joined["rows_kept"], 13_916);

    let events = oracle::accepted(&archive::events_of(&events_path));
    let set = table(&here.join("set.parquet"));
    let (users, items) = (texts(&set, "user_id"), texts(&set, "item_id"));
    let times = instants(&set, "request_time");
    let own: HashSet<(&str, &str, i64)> =
        events.iter().filter_map(|event| Some((event.user.as_deref()?, event.item.as_deref()?, event.time))).collect();
    let on_an_event = |row: usize| {
        let (user, item) = (users[row].as_deref().unwrap(), items[row].as_deref().unwrap());
        own.contains(&(user, item, times[row]))
    };
    let exactly: Vec<usize> = (0..set.num_rows()).filter(|&row| on_an_event(row)).collect();
    assert_eq!(exactly.len(), 12_769);
    for (view, ..) in oracle::VIEWS {
        let newest = column(&set, &format!("{view}__event_time"));
        let newest = arrow_cast::cast(newest, &DataType::Timestamp(TimeUnit::Microsecond, None)).unwrap();
        let newest = newest.as_primitive::<TimestampMicrosecondType>();
        for (row, &time) in times.iter().enumerate() {
            assert!(newest.is_null(row) || newest.value(row) < time, "{view} row {row} saw its own instant");
        }
    }
    let rows: BTreeSet<usize> = exactly.iter().copied().step_by(64).chain((0..set.num_rows()).step_by(70)).collect();
    let mut compared = 0;
    for &row in &rows {
        let (user, item) = (users[row].as_deref().unwrap(), items[row].as_deref().unwrap());
        for (view, entity, ask) in oracle::VIEWS {
            let key = if entity == "user" { user } else { item };
            for (name, value) in ask(&events, key, times[row]).into_iter().flatten() {
                let ours = cell(column(&set, &format!("{view}__{name}")), row);
                assert!(same(&ours, &value), "row {row} {view}:{name}: {ours}, the oracle says {value}");
                compared += 1;
            }
        }
    }
    println!(
        "jd_requests: 13,916 labels, 12,769 exactly on an event, {:.2} s; {compared} values equal the oracle's",
        joined["seconds"].as_f64().unwrap()
    );
    let start = Instant::now();
    let audit = |set: &str| {
        let views = shipped();
        let words = ["audit", set].into_iter().chain(inputs).map(str::to_owned);
        process::run(here, words.chain(views.iter().cloned()))
    };
    let passed = audit("set.parquet");
    let report = String::from_utf8(passed.stdout).unwrap();
    assert!(report.starts_with("LeakageReport [PASSED] rows_kept=13916 rows_dropped=0 violations=0"), "{report}");
    println!("jd_requests: audited in {:.2} s", start.elapsed().as_secs_f64());
    // A set that sees the instant itself is found out.
    join("leaky.parquet", &["--as-of", "at"]);
    let failed = audit("leaky.parquet");
    assert_eq!(failed.status.code(), Some(1));
    let report = String::from_utf8(failed.stdout).unwrap();
    assert!(report.starts_with("LeakageReport [FAILED]"), "{report}");
    let dropped = join("kept.parquet", &["--cold-start", "drop"]);
    assert!(dropped["rows_dropped"].as_u64().unwrap() > 0, "{dropped}");
    assert!(audit("kept.parquet").status.success());
}
