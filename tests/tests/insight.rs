//! `plumb audit`, `stats` and `compare` as commands: what they find, what they print, how they exit, and their pages.

use plumb_testing::process;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;

const MICROS_OF_DAY: i64 = 86_400_000_000;

fn plumb(folder: &Path, words: &str) -> Output {
    process::run(folder, words.split_whitespace())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs and gives the exit code and the JSON document.
#[track_caller]
fn json(folder: &Path, words: &str) -> (i32, Value) {
    let output = plumb(folder, &format!("--json {words}"));
    let stdout = text(&output.stdout);
    let document = serde_json::from_str(&stdout)
        .unwrap_or_else(|error| panic!("plumb {words}: {error}: {stdout} {}", text(&output.stderr)));
    (output.status.code().unwrap(), document)
}

#[track_caller]
fn refused(folder: &Path, words: &str, line: &str) {
    let output = plumb(folder, words);
    assert_eq!(text(&output.stderr), format!("plumb: {line}\n"), "plumb {words}");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), String::new()), "plumb {words}");
}

fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) {
    std::fs::write(folder.join(name), content).unwrap();
}

fn page(folder: &Path, name: &str) -> String {
    let page = std::fs::read_to_string(folder.join(name)).unwrap();
    for banned in ["<script", "http://", "https://", "src=", "url("] {
        assert!(!page.contains(banned), "{name} holds `{banned}`");
    }
    assert!(page.contains("<svg"), "{name} has drawings");
    page
}

fn instant(text: &str) -> i64 {
    plumb_pipeline::decode::time::parse_rfc3339(text.as_bytes()).unwrap().us
}

/// Events of three days, as (user, time) and in a file `ev.jsonl`; the component `daily.wasm`.
fn events(folder: &Path) -> Vec<(String, i64)> {
    std::fs::copy(process::component("user_daily"), folder.join("daily.wasm")).unwrap();
    process::run_ok(
        folder,
        "generate --events 600 --users 12 --items 5 --days 3 --seed 3 --start 2024-03-01T00:00:00Z --out ev.jsonl"
            .split(' '),
    );
    let lines = std::fs::read_to_string(folder.join("ev.jsonl")).unwrap();
    let mut ids = BTreeSet::new();
    let event = |line: &str| -> Option<(String, i64)> {
        let event: Value = serde_json::from_str(line).unwrap();
        // The generator makes copies, of which the first counts.
        let is_copy = event["event_id"].as_str().is_some_and(|id| !ids.insert(id.to_owned()));
        if is_copy {
            return None;
        }
        let time = match &event["event_time"] {
            Value::String(text) => instant(text),
            number => number.as_i64().unwrap() * 1_000,
        };
        Some((event["user_id"].as_str()?.to_owned(), time))
    };
    lines.lines().filter_map(event).collect()
}

/// A training set as a few lines of SQL would make it: per label the events of its user that `seen` (label, event) lets
/// in. All lie within 7 days, so that is `event_count_7d`. Every third event is a label, at its own time.
fn naive_set(folder: &Path, events: &[(String, i64)], seen: impl Fn(i64, i64) -> bool) -> usize {
    let (mut labels, mut set) = (String::from("user_id,event_time,label\n"), String::new());
    set.push_str("user_id,event_time,label,user_daily__event_count_7d,user_daily__event_time\n");
    let mut rows = 0;
    for (row, (user, time)) in events.iter().enumerate().filter(|(row, _)| row % 3 == 0) {
        let label = format!("{user},{},{}", plumb_pipeline::decode::time::format_rfc3339(*time), row % 2);
        labels.push_str(&format!("{label}\n"));
        let mine: Vec<i64> =
            events.iter().filter(|(other, event)| other == user && seen(*time, *event)).map(|event| event.1).collect();
        let known = events.iter().any(|(other, event)| other == user && event < time) || !mine.is_empty();
        let count = if known { mine.len().to_string() } else { String::new() };
        let newest = mine.iter().max().map_or_else(String::new, |&us| plumb_pipeline::decode::time::format_rfc3339(us));
        set.push_str(&format!("{label},{count},{newest}\n"));
        rows += 1;
    }
    write(folder, "labels.csv", labels);
    write(folder, "set.csv", set);
    rows
}

const AUDIT: &str = "audit set.csv --labels labels.csv --events ev.jsonl --transform daily.wasm --html audit.html";

#[test]
fn an_inclusive_join_of_daily_features_is_found_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let events = events(here);
    let rows =
        naive_set(here, &events, |label, event| event.div_euclid(MICROS_OF_DAY) <= label.div_euclid(MICROS_OF_DAY));
    let (code, report) = json(here, &format!("{AUDIT} --truncate all"));
    assert_eq!(
        (code, report["passed"].as_bool(), report["truncated_rows"].as_u64()),
        (1, Some(false), Some(rows as u64))
    );
    let feature = &report["features"][0];
    assert_eq!(
        (feature["column"].as_str(), feature["best"].as_str()),
        (Some("user_daily__event_count_7d"), Some("end_of_day"))
    );
    assert_eq!(feature["leak"], true);
    assert_eq!(feature["looks_like"]["end_of_day"], feature["examined"], "every wrong value is that of the day's end");
    // Each label lies on an event of its own, so every row is wrong.
    assert_eq!(feature["violations"], rows as u64);
    let kinds: Vec<&str> =
        report["classes"].as_array().unwrap().iter().map(|class| class["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["truncation", "value", "event_time_not_before_label"]);
    assert_eq!(report["feature_age"][0]["not_before_label"], rows as u64);
    let page = page(here, "audit.html");
    assert!(page.contains("FAILED") && page.contains("daily features, joined inclusively"));
    let said = text(&plumb(here, AUDIT).stdout);
    assert!(said.starts_with(&format!("LeakageReport [FAILED] rows_kept={rows} rows_dropped=0 violations=")), "{said}");
    assert!(said.contains("look like the values at the end of the label's day (UTC)"), "{said}");
}

#[test]
fn a_join_on_ties_is_found_and_a_strict_one_passes() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let events = events(here);
    let rows = naive_set(here, &events, |label, event| event <= label) as u64;
    let (code, report) = json(here, AUDIT);
    assert_eq!((code, report["features"][0]["best"].as_str()), (1, Some("label_instant")));
    assert_eq!(
        (report["features"][0]["violations"].as_u64(), report["feature_age"][0]["not_before_label"].as_u64()),
        (Some(rows), Some(rows))
    );
    // Where labels were meant to see their own instant, it is what was asked for.
    let (code, report) = json(here, &format!("{AUDIT} --as-of at"));
    assert_eq!((code, report["violations"].as_u64()), (0, Some(0)), "{report}");
    naive_set(here, &events, |label, event| event < label);
    let (code, report) = json(here, AUDIT);
    assert_eq!(
        (code, report["violations"].as_u64(), report["truncated_rows"].as_u64()),
        (0, Some(0), Some(32)),
        "{report}"
    );
    assert!(page(here, "audit.html").contains("PASSED"));
    refused(here, &format!("{AUDIT} --truncate some"), "--truncate some: write a number of rows, or `all`");
    refused(here, &format!("{AUDIT} --tolerance 2"), "--tolerance 2: write a relative difference from 0 up to below 1");
}

#[test]
fn statistics_of_a_set_and_of_snapshots() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    write(
        here,
        "set.csv",
        "user_id,event_time,v__count,v__price,v__tags\nu1,2024-01-01T00:00:00Z,1,0.5,\"[\"\"a\"\"]\"\n\
         u1,2024-01-02T00:00:00Z,3,inf,\nu2,2024-01-03T00:00:00Z,,NaN,\nu3,2024-01-04T00:00:00Z,2,1.5,\n",
    );
    let (code, stats) = json(here, "stats set.csv --html stats.html");
    assert_eq!((code, stats["rows"].as_u64(), stats["files"].as_u64()), (0, Some(4), Some(1)));
    let column = |name: &str| {
        stats["columns"].as_array().unwrap().iter().find(|column| column["column"] == name).unwrap().clone()
    };
    let count = column("v__count");
    assert_eq!((count["type"].as_str(), count["nulls"].as_u64()), (Some("i64"), Some(1)));
    assert_eq!((count["mean"].as_f64(), count["std"].as_f64()), (Some(2.0), Some(1.0)));
    assert_eq!(
        (count["min"].as_i64(), count["quantiles"]["p50"].as_i64(), count["max"].as_i64()),
        (Some(1), Some(2), Some(3))
    );
    let price = column("v__price");
    assert_eq!(
        (price["nan"].as_u64(), price["infinite"].as_u64(), price["mean"].as_f64()),
        (Some(1), Some(1), Some(1.0))
    );
    let user = column("user_id");
    assert_eq!((user["distinct"]["count"].as_u64(), user["distinct"]["exact"].as_bool()), (Some(3), Some(true)));
    assert_eq!((user["top"][0]["value"].as_str(), user["top"][0]["at_least"].as_u64()), (Some("u1"), Some(2)));
    assert_eq!(column("event_time")["quantiles"]["p50"], "2024-01-02T00:00:00Z");
    assert!(page(here, "stats.html").contains("v__<wbr>count"));

    events(here);
    process::run_ok(here, "backfill --transform daily.wasm --events ev.jsonl --every 1d --out snapshots".split(' '));
    let (_, stats) = json(here, "stats snapshots");
    let names: Vec<&str> = stats["columns"].as_array().unwrap().iter().map(|c| c["column"].as_str().unwrap()).collect();
    assert!(names.contains(&"event_count_7d") && names.iter().all(|name| !name.starts_with('_')), "{names:?}");
    assert!(stats["files"].as_u64().unwrap() >= 3 && stats["rows"].as_u64().unwrap() > 12, "{stats}");
    let (_, some) = json(here, "stats snapshots --columns event_count_*,user_id --threads 1");
    let names: Vec<&str> = some["columns"].as_array().unwrap().iter().map(|c| c["column"].as_str().unwrap()).collect();
    assert_eq!(names, ["user_id", "event_count_7d", "event_count_30d"]);
    // Columns in text and figures do not depend on the threads.
    assert_eq!(plumb(here, "stats snapshots --threads 1").stdout, plumb(here, "stats snapshots --threads 3").stdout);
}

#[test]
fn drift_passes_or_fails_by_the_limits_given() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let table = |shift: usize, null_every: usize| {
        let row = |n: usize| {
            let number = if n.is_multiple_of(null_every) { String::new() } else { (n % 50 + shift).to_string() };
            format!("{number},{}\n", ["a", "b", "c"][(n + shift) % 3])
        };
        "number,word\n".to_owned() + &(1..=600).map(row).collect::<String>()
    };
    write(here, "a.csv", table(0, 1_000));
    write(here, "b.csv", table(25, 4));
    let (code, same) = json(here, "compare a.csv a.csv --fail-on psi=0,ks=0,nulls=0,new=0 --fail-on p=1");
    assert_eq!((code, same["passed"].as_bool(), same["flags"].as_array().unwrap().len()), (0, Some(true), 0), "{same}");
    let (code, open) = json(here, "compare a.csv b.csv --html drift.html");
    assert_eq!((code, open["passed"].is_null()), (0, true), "without limits nothing is passed or failed");
    assert_eq!(open["columns"][0]["column"], "number", "what drifted most comes first");
    assert_eq!(open["columns"][0]["reading"], "large shift");
    assert!(page(here, "drift.html").contains("large shift"));
    let output = plumb(here, "compare a.csv b.csv --fail-on psi=0.2,nulls=0.1");
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stdout);
    assert!(
        said.starts_with("DriftReport [FAILED] rows_a=600 rows_b=600 columns=2 flagged_columns=[number]\n"),
        "{said}"
    );
    assert!(said.contains("`number`: nulls 0.25 (limit 0.1)"), "{said}");
    for (words, line) in [
        ("psi", "--fail-on psi: write MEASURE=LIMIT, as in psi=0.2"),
        ("pzi=1", "--fail-on pzi=1: `pzi` is no measure; there are psi, ks, p, nulls, new"),
        ("psi=-1", "--fail-on psi=-1: `-1` is no limit, write a number from 0 on"),
    ] {
        refused(here, &format!("compare a.csv b.csv --fail-on {words}"), line);
    }
}

#[test]
fn tables_that_cannot_be_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    write(here, "a.csv", "x\n1\n");
    write(here, "b.csv", "y\n1\n");
    write(here, "no_rows.csv", "x\n");
    write(here, "nulls.csv", "x,z\n,1\n,2\n");
    write(here, "words.csv", "x\nsome\n");
    write(here, "no.parquet", "this is no Parquet file");
    std::fs::create_dir(here.join("empty")).unwrap();
    std::fs::create_dir(here.join("mixed")).unwrap();
    write(&here.join("mixed"), "1.csv", "x\n1\n");
    write(&here.join("mixed"), "2.csv", "x\nword\n");
    for (words, line) in [
        ("stats nowhere.csv", "`nowhere.csv` does not exist"),
        ("stats a.txt", "`a.txt` does not exist"),
        ("stats empty", "folder `empty` holds no .parquet or .csv file"),
        ("stats a.csv --columns z", "`a.csv` has no column `z`; it has x"),
        ("stats a.csv --columns z*", "`a.csv`: no column is named by --columns z*; it has x"),
        ("stats mixed", "`mixed/2.csv`: column `x` is string, but i64 in a file before it"),
        ("compare a.csv no_rows.csv", "`no_rows.csv` has 0 rows: there is nothing to compare"),
        ("compare a.csv b.csv", "no column is in both tables: `a.csv` has x; `b.csv` has y"),
    ] {
        refused(here, words, line);
    }
    let output = plumb(here, "stats no.parquet");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).starts_with("plumb: `no.parquet` is not a Parquet file, or is cut short or damaged"));
    let (code, stats) = json(here, "stats no_rows.csv");
    assert_eq!((code, stats["rows"].as_u64(), stats["columns"][0]["null_share"].as_f64()), (0, Some(0), Some(0.0)));
    // All null is a string column in CSV: another type than before is past any limit, and said without one.
    let (code, drift) = json(here, "compare a.csv words.csv --fail-on nulls=0.5");
    assert_eq!((code, drift["retyped"][0]["column"].as_str()), (1, Some("x")));
    let (code, _) = json(here, "compare a.csv words.csv");
    assert_eq!(code, 0);
    // A page for which there is no place is refused beforehand; one that cannot be written is the disk's failure.
    let output = plumb(here, "stats a.csv --html nowhere/page.html");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("there is no folder `nowhere`"), "{}", text(&output.stderr));
    let output = plumb(here, "stats a.csv --html /proc/page.html");
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("cannot write `/proc/page.html`"), "{}", text(&output.stderr));
}
