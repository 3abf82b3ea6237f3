//! Real event logs, whole: `make test-data DATA=DIR` with a folder laid out like the shared data. Without
//! `PLUMB_TEST_DATA` every test here says that it is skipped.

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_schema::{DataType, TimeUnit};
use plumb_testing::oracle::{self, Named, OracleEvent, OracleValue};
use plumb_testing::table::{as_promised, cell, column, instants, same, table, texts};
use plumb_testing::{archive, case, process};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap, HashSet};
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

/// One row of `jd_item_comments`: when it holds from, and the features it makes.
type CommentRow = (i64, [OracleValue; 3]);

/// The side table by item, read without the engine.
fn comments(path: &Path) -> HashMap<String, Vec<CommentRow>> {
    let rows = table(path);
    let (items, times, bad) = (texts(&rows, "item_id"), instants(&rows, "valid_from"), texts(&rows, "has_bad_comment"));
    let mut by_item: HashMap<String, Vec<CommentRow>> = HashMap::new();
    for (row, (item, time)) in items.into_iter().zip(times).enumerate() {
        let bad = match bad[row].as_deref() {
            Some("1") => OracleValue::Int(1),
            Some("0") => OracleValue::Int(0),
            _ => OracleValue::Null,
        };
        let of = |name: &str| cell(column(&rows, name), row);
        let values = [of("comment_num"), bad, of("bad_comment_rate")];
        by_item.entry(item.unwrap()).or_default().push((time, values));
    }
    by_item.values_mut().for_each(|rows| rows.sort_by_key(|row| row.0));
    by_item
}

#[test]
fn a_weekly_table_is_joined_with_the_events_in_one_pass_and_answered_alike_online() {
    let Some(data) = data() else { return };
    let root = tempfile::tempdir().unwrap();
    let here = root.path();
    // Both event logs are one source: a folder of two files.
    std::fs::create_dir(here.join("events")).unwrap();
    for name in ["events_completejourney.parquet", "events_jd.parquet"] {
        std::os::unix::fs::symlink(data.join(name).canonicalize().unwrap(), here.join("events").join(name)).unwrap();
    }
    let side = data.join("jd_item_comments.parquet").canonicalize().unwrap();
    let components = ["user_activity", "item_activity", "examples/item_comments"].map(process::component);
    let config = format!(
        "[sources.default]\nkind = \"file\"\npath = \"events\"\n[sources.comments]\nkind = \"file\"\npath = \"{}\"\n\
         time_field = \"valid_from\"\nkey_field = \"item_id\"\nrequired = []\n\
         fields = {{ item_id = \"string\", comment_num = \"i64\", has_bad_comment = \"string\", bad_comment_rate = \"f64\" }}\n\
         [transforms]\npaths = {components:?}\n[serve]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n\
         metrics_listen = \"127.0.0.1:0\"\n[run]\nserve = true\n",
        side.display()
    );
    std::fs::write(here.join("plumb.toml"), config).unwrap();
    let labels = data.join("jd_requests.parquet").canonicalize().unwrap();
    let side_word = format!("comments={}", side.display());
    let mut words: Vec<String> = ["join", "--json", "--events", "events", "--events", &side_word, "--labels"]
        .map(str::to_owned)
        .into_iter()
        .chain([labels.display().to_string(), "--label-time".into(), "request_time".into()])
        .collect();
    for component in &components {
        words.extend(["--transform".to_owned(), component.display().to_string()]);
    }
    let join = |more: &[&str]| -> Value {
        let words = words.iter().cloned().chain(more.iter().map(|word| (*word).to_owned()));
        serde_json::from_str(&process::run_ok(here, words)).unwrap()
    };
    let joined = join(&["--out", "set.parquet"]);
    assert_eq!((&joined["rows_kept"], &joined["events"]), (&json!(13_916), &json!(1_469_307 + 89_187 + 33_180)));
    let parts = join(&["--out", "parts", "--part-rows", "4000", "--threads", "1"]);
    assert_eq!((&parts["rows_sha256"], &parts["files"]), (&joined["rows_sha256"], &json!(4)));

    let set = table(&here.join("set.parquet"));
    let (users, items, times) = (texts(&set, "user_id"), texts(&set, "item_id"), instants(&set, "request_time"));
    let side = comments(&side);
    let names = ["comment_num", "has_bad_comment", "bad_comment_rate"];
    let columns = names.map(|name| column(&set, &format!("item_comments__{name}")).clone());
    let counts = column(&set, "item_comments__row_count").clone();
    let (mut found, mut missing) = (0, 0);
    for row in 0..set.num_rows() {
        let rows = side.get(items[row].as_ref().unwrap()).map_or(&[][..], Vec::as_slice);
        let before = rows.partition_point(|(time, _)| *time < times[row]);
        match before.checked_sub(1) {
            None => {
                missing += 1;
                assert!(columns.iter().chain([&counts]).all(|column| column.is_null(row)), "row {row} is not found");
            }
            Some(newest) => {
                found += 1;
                for ((name, column), wanted) in names.iter().zip(&columns).zip(&rows[newest].1) {
                    let ours = cell(column, row);
                    assert!(same(&ours, wanted), "row {row} {name}: {ours}, the table says {wanted}");
                }
                assert_eq!(cell(&counts, row), OracleValue::Int(before as i64), "row {row}");
            }
        }
    }
    assert!(found > 10_000 && missing > 100, "{found} found, {missing} not");
    let jd = oracle::accepted(&archive::events_of(&data.join("events_jd.parquet")));
    let sample: Vec<usize> = (0..set.num_rows()).step_by(97).collect();
    for &row in &sample {
        for (view, key, ask) in [
            ("user_activity", &users[row], oracle::user_activity as oracle::View),
            ("item_activity", &items[row], oracle::item_activity),
        ] {
            // Complete Journey is of 2017: at the times of these requests it has nothing.
            for (name, value) in ask(&jd, key.as_ref().unwrap(), times[row]).into_iter().flatten() {
                let ours = cell(column(&set, &format!("{view}__{name}")), row);
                assert!(same(&ours, &value), "row {row} {view}:{name}: {ours}, the oracle says {value}");
            }
        }
    }

    plumb(here, &["run", "--until-end", "--no-serve"]);
    let mut service = process::Service::start(here, ["run"]);
    let address = service.ready();
    let mut compared = 0;
    for rows in sample.chunks(50) {
        let requests: Vec<Value> = rows
            .iter()
            .map(
                |&row| json!({"user_id": users[row], "item_id": items[row], "as_of": case::format_instant(times[row])}),
            )
            .collect();
        let answer = process::post(&address, "/features/batch", &json!({"requests": requests}));
        for (&row, result) in rows.iter().zip(answer["results"].as_array().unwrap_or_else(|| panic!("{answer}"))) {
            for (feature, served) in result["features"].as_object().unwrap() {
                let ours = cell(column(&set, &feature.replace(':', "__")), row);
                let truth = served.as_bool().map(|value| ours == OracleValue::Int(i64::from(value)));
                assert!(
                    truth.unwrap_or_else(|| ours.is_json(served)),
                    "row {row} {feature}: {ours} joined, {served} served"
                );
                compared += 1;
            }
        }
    }
    assert_eq!(compared, sample.len() * 22);
    for entity in ["user", "item"] {
        let report = plumb(here, &["check", "--entity", entity, "--sample", "200", "--exact"]);
        assert_eq!(report["passed"], true, "{report}");
    }
    assert_eq!(service.terminate(), Some(0));
    println!("jd_requests with the weekly table: {found} rows found in it, {compared} values served as joined");
}
