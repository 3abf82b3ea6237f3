//! Snapshots from the running stream, by the real process: against the oracle, against `plumb backfill` into another
//! folder, and after kills.

use plumb_testing::archive;
use plumb_testing::process::{self, Service};
use plumb_testing::snapshots::{check_rows, count, dates, tree};
use plumb_testing::table::{instants, table, texts};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

fn full() -> bool {
    std::env::var_os("PLUMB_TEST_FULL").is_some()
}

/// A folder with the components `spend.wasm` and `daily.wasm` and settings that make snapshots of such a kind.
fn folder(snapshots: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    for (view, name) in [("user_spend", "spend.wasm"), ("user_daily", "daily.wasm")] {
        std::fs::copy(process::component(view), here.join(name)).unwrap();
    }
    settings(here, snapshots);
    folder
}

fn settings(here: &Path, snapshots: &str) {
    let components = [here.join("spend.wasm"), here.join("daily.wasm")].map(|path| path.display().to_string());
    let text = format!(
        "data_dir = \"data\"\n[source]\nkind = \"log\"\npartitions = 3\n[transforms]\npaths = {components:?}\n\
         [offline]\nsnapshots = \"{snapshots}\"\n"
    );
    std::fs::write(here.join("plumb.toml"), text).unwrap();
}

/// Generated events as lines, by time.
fn lines_in_order(here: &Path, events: u32, days: u32) -> Vec<String> {
    let words = format!("generate --events {events} --users 12 --items 5 --days {days} --seed 7 --out ev.jsonl");
    process::run_ok(here, words.split(' '));
    let all = std::fs::read_to_string(here.join("ev.jsonl")).unwrap();
    let mut lines: Vec<String> = all.lines().map(str::to_owned).collect();
    lines.sort_by_key(|line| time_of(line));
    lines
}

fn time_of(line: &str) -> String {
    let event: Value = serde_json::from_str(line).unwrap();
    event["event_time"].as_str().unwrap().to_owned()
}

fn publish(here: &Path, lines: &[String]) {
    std::fs::write(here.join("part.jsonl"), lines.join("\n")).unwrap();
    process::run_ok(here, ["produce", "part.jsonl"]);
}

/// Lets the job accept events, to their end.
fn accept(here: &Path, lines: &[String]) {
    publish(here, lines);
    process::run_ok(here, ["run", "--until-end", "--no-serve"]);
}

fn backfill(here: &Path, every: &str, more: &str) -> Value {
    let words = format!("--json backfill --transform spend.wasm --transform daily.wasm --every {every} {more}");
    serde_json::from_str(&process::run_ok(here, words.split_whitespace())).unwrap()
}

#[test]
fn a_stream_writes_what_a_backfill_makes_and_late_events_wait_for_one() {
    let folder = folder("daily");
    let here = folder.path();
    let offline = here.join("data/offline");
    let mut all = lines_in_order(here, 2400, 16);
    let is_late = |line: &String| line.contains("\"purchase\"") && time_of(line).contains("2024-01-10T");
    let late: Vec<String> = all.iter().filter(|line| is_late(line)).cloned().collect();
    all.retain(|line| !is_late(line));
    assert!(!late.is_empty());
    // Three runs, each to the end of what there is: nothing comes late.
    for part in all.chunks(all.len().div_ceil(3)) {
        accept(here, part);
    }
    let streamed = tree(&offline);
    assert!(dates(&streamed).len() > 20, "{:?}", streamed.keys());
    assert!(check_rows(&offline) > 200);
    // The last date, which is not over, has none.
    assert!(!streamed.keys().any(|path| path.contains("date=2024-01-17")));
    backfill(here, "1d", "--to 2024-01-17T00:00:00Z --out whole");
    assert!(tree(&here.join("whole")) == streamed, "another tree than that of a backfill");
    let report = backfill(here, "1d", "");
    assert_eq!((count(&report, "made"), count(&report, "unchanged")), (0, dates(&streamed).len() as u64));

    // Late events change nothing by themselves, and by a backfill what they can be seen in.
    accept(here, &late);
    assert!(tree(&offline) == streamed, "the stream has changed what was complete");
    let report = backfill(here, "1d", "");
    backfill(here, "1d", "--to 2024-01-17T00:00:00Z --out late");
    let after = tree(&offline);
    assert!(tree(&here.join("late")) == after, "another tree than that of a backfill into another folder");
    let (before, after) = (dates(&streamed), dates(&after));
    let changed = after.iter().filter(|(date, files)| before.get(*date) != Some(files)).count() as u64;
    assert_eq!(count(&report, "made"), changed);
    // Both views count some things ever.
    assert_eq!(changed, 12);
    check_rows(&offline);
    // And the stream goes on after it.
    let more: Vec<String> = all[all.len() - 40..]
        .iter()
        .map(|line| line.replace("2024-01-16", "2024-01-18").replace("g7-", "h7-"))
        .collect();
    accept(here, &more);
    assert!(tree(&offline).keys().any(|path| path.contains("date=2024-01-17")));
    check_rows(&offline);
}

#[test]
fn hourly_and_event_snapshots_hold_what_they_say() {
    for (snapshots, every) in [("hourly", "1h"), ("event", "event")] {
        let folder = folder(snapshots);
        let here = folder.path();
        let offline = here.join("data/offline");
        let all = lines_in_order(here, 500, 5);
        for part in all.chunks(260) {
            accept(here, part);
        }
        assert!(check_rows(&offline) > 150);
        let streamed = tree(&offline);
        // Dates that are over are those of a backfill; the last one has as many hours as there were.
        backfill(here, every, "--out whole");
        let whole = tree(&here.join("whole"));
        let (streamed, whole) = (dates(&streamed), dates(&whole));
        let over = |date: &str| date.rsplit_once("date=").unwrap().1 < "2024-01-05";
        assert!(streamed.keys().filter(|date| over(date)).count() >= 6);
        for (date, files) in whole.iter().filter(|(date, _)| over(date)) {
            assert!(streamed.get(date) == Some(files), "{snapshots}: {date}");
        }
        let report = backfill(here, every, "");
        assert!(count(&report, "made") <= 2 && count(&report, "unchanged") >= 6, "{report}");
    }
}

#[test]
fn hours_of_a_date_see_what_had_come_and_later_ones_what_came_late() {
    let folder = folder("hourly");
    let here = folder.path();
    let offline = here.join("data/offline");
    let all = lines_in_order(here, 600, 3);
    let noon = all.iter().position(|line| time_of(line).as_str() >= "2024-01-02T12").unwrap();
    // Half of the morning comes in the afternoon.
    let mut of_morning = 0;
    let (late, early): (Vec<String>, Vec<String>) = all[..noon].iter().cloned().partition(|line| {
        let in_morning = time_of(line).contains("2024-01-02T");
        of_morning += u32::from(in_morning);
        in_morning && of_morning % 2 == 0
    });
    assert!(late.len() > 20, "{}", late.len());
    accept(here, &early);
    let before = check_rows(&offline);
    accept(here, &[late.as_slice(), &all[noon..]].concat());
    assert!(check_rows(&offline) > before + 20);
    let report = backfill(here, "1h", "");
    assert!(count(&report, "made") > 0, "a backfill makes the date of late events again: {report}");
    check_rows(&offline);
}

fn copy(here: &Path, from: &str, to: &str) {
    if here.join(to).exists() {
        std::fs::remove_dir_all(here.join(to)).unwrap();
    }
    assert!(Command::new("cp").arg("-a").arg(here.join(from)).arg(here.join(to)).status().unwrap().success());
}

#[test]
fn a_stream_killed_between_a_dates_files_and_its_manifest_keeps_the_hours_before() {
    let folder = folder("hourly");
    let here = folder.path();
    // The second part goes on in the middle of a date.
    let all = lines_in_order(here, 400, 3);
    let noon = all.iter().position(|line| time_of(line).as_str() >= "2024-01-02T12").unwrap();
    accept(here, &all[..noon]);
    let hours_before = table_of_date(here, "user_spend", "2024-01-02").len();
    assert!(hours_before > 3, "{hours_before}");
    publish(here, &all[noon..]);
    copy(here, "data", "fresh");
    process::run_ok(here, ["run", "--until-end", "--no-serve"]);
    let whole = tree(&here.join("data/offline"));
    let (mut kills, mut apart) = (0, 0);
    for (call, step) in [("renameat2", 1), ("rename", if full() { 1 } else { 2 })] {
        for n in (1..).step_by(step) {
            copy(here, "fresh", "data");
            if !process::killed_at(here, call, n, ["run", "--until-end", "--no-serve"]) {
                break;
            }
            kills += 1;
            apart += u32::from(manifest_is_behind(&here.join("data/offline")));
            process::run_ok(here, ["run", "--until-end", "--no-serve"]);
            let found = tree(&here.join("data/offline"));
            for (path, bytes) in &whole {
                assert!(found.get(path) == Some(bytes), "{call} {n}: another {path} than without the kill");
            }
            assert!(found.len() == whole.len(), "{call} {n}: {:?}", found.keys());
        }
    }
    eprintln!("{kills} kills, {apart} between the files of dates and their manifest");
    assert!(kills > 3 && apart > 0);
}

/// Whether some date's files are not those of its manifest.
fn manifest_is_behind(offline: &Path) -> bool {
    let tree = tree(offline);
    let mut behind = false;
    for (path, bytes) in tree.iter().filter(|(path, _)| path.ends_with("/_manifest.json")) {
        let folder = path.strip_suffix("/_manifest.json").unwrap();
        let manifest: Value = serde_json::from_slice(bytes).unwrap();
        let named: BTreeMap<String, u64> = manifest["dates"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(date, entry)| entry["files"].as_array().unwrap().iter().map(move |file| (date, file)))
            .map(|(date, file)| {
                (format!("{folder}/date={date}/{}", file["name"].as_str().unwrap()), file["bytes"].as_u64().unwrap())
            })
            .collect();
        let in_folder = tree.iter().filter(|(path, _)| path.starts_with(folder) && !path.ends_with(".json"));
        let there: BTreeMap<String, u64> = in_folder.map(|(path, bytes)| (path.clone(), bytes.len() as u64)).collect();
        behind |= named != there;
    }
    behind
}

/// The rows' keys and instants of a date.
fn table_of_date(here: &Path, view: &str, date: &str) -> Vec<(Option<String>, i64)> {
    let files = archive::parquet_files(&here.join("data/offline/features"));
    let of_date = |path: &&std::path::PathBuf| {
        let path = path.display().to_string();
        path.contains(&format!("view={view}/")) && path.contains(&format!("date={date}/"))
    };
    let rows = files.iter().filter(of_date).map(|path| table(path));
    rows.flat_map(|rows| {
        let keys = texts(&rows, "user_id");
        keys.into_iter().zip(instants(&rows, "event_time")).collect::<Vec<_>>()
    })
    .collect()
}

#[test]
fn a_killed_stream_leaves_whole_dates_and_goes_on() {
    let folder = folder("daily");
    let here = folder.path();
    let all = lines_in_order(here, 1200, 60);
    publish(here, &all);
    let copy = |from: &str, to: &str| copy(here, from, to);
    copy("data", "fresh");
    process::run_ok(here, ["run", "--until-end", "--no-serve"]);
    let whole = tree(&here.join("data/offline"));
    let whole_dates = dates(&whole);
    assert!(whole_dates.len() > 100);
    let calls: Vec<(&str, Vec<usize>)> = if full() {
        let calls = ["rename", "linkat", "fsync", "write", "unlink", "mkdir", "openat"];
        calls.map(|call| (call, (1..700).step_by(29).collect())).to_vec()
    } else {
        // Of so many calls of a kind only the thread of the snapshots makes as many.
        vec![("rename", vec![20, 70, 110]), ("linkat", vec![10, 60, 112]), ("unlink", vec![30, 150, 215])]
    };
    let (mut kills, mut part) = (0, 0);
    for (call, n) in calls.iter().flat_map(|(call, all)| all.iter().map(move |n| (*call, *n))) {
        copy("fresh", "data");
        kills += u32::from(process::killed_at(here, call, n, ["run", "--until-end", "--no-serve"]));
        let found = tree(&here.join("data/offline"));
        let found_dates = dates(&found);
        for (date, files) in &found_dates {
            assert!(whole_dates.get(date) == Some(files), "{call} {n}: {date} holds {:?}", files.keys());
        }
        part += u32::from(!found_dates.is_empty() && found_dates.len() < whole_dates.len());
        process::run_ok(here, ["run", "--until-end", "--no-serve"]);
        assert!(tree(&here.join("data/offline")) == whole, "{call} {n}: another tree than that of one run");
    }
    eprintln!("{kills} kills, {part} between two dates");
    assert!(kills > 0 && part > 0);
}

#[test]
fn a_folder_of_other_snapshots_is_refused_at_the_start() {
    let folder = folder("none");
    let here = folder.path();
    accept(here, &lines_in_order(here, 300, 4));
    assert!(tree(&here.join("data/offline")).is_empty());
    backfill(here, "1h", "");
    let before = tree(&here.join("data/offline"));
    settings(here, "daily");
    let output = process::run(here, ["run", "--until-end", "--no-serve"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    for part in [
        "_manifest.json` is of snapshots of `user_daily`",
        "with --every 1h --entities active and max age none; offline.snapshots asks for --every 1d --entities active: move \
         the folder away, or set offline.snapshots to what is there or to \"none\"",
    ] {
        assert!(stderr.contains(part), "{stderr}");
    }
    assert!(tree(&here.join("data/offline")) == before);
    // What is there of the same kind is taken over: the backfill has made the hours of the date that is not over, too.
    settings(here, "hourly");
    process::run_ok(here, ["run", "--until-end", "--no-serve"]);
    assert!(dates(&tree(&here.join("data/offline"))) == dates(&before));
    let beyond = "backfill --transform spend.wasm --every 1h --to 2030-01-01T00:00:00Z";
    let output = process::run(here, beyond.split(' '));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("--to 2030-01-01T00:00:00.000000Z lies beyond"), "{stderr}");
}

#[test]
fn a_view_whose_folder_holds_other_snapshots_is_refused_when_it_is_deployed() {
    let folder = folder("daily");
    let here = folder.path();
    let text = std::fs::read_to_string(here.join("plumb.toml")).unwrap();
    let daily = format!(", \"{}\"", here.join("daily.wasm").display());
    assert!(text.contains(&daily));
    let listen =
        "[serve]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\nmetrics_listen = \"127.0.0.1:0\"\n";
    std::fs::write(here.join("plumb.toml"), text.replace(&daily, "") + listen + "[run]\nserve = true\n").unwrap();
    accept(here, &lines_in_order(here, 300, 4));
    process::run_ok(here, "backfill --transform daily.wasm --every 1h".split(' '));
    let before = tree(&here.join("data/offline"));
    let mut service = Service::start(here, ["run"]);
    service.ready();
    let deploy = || process::run(here, ["transforms", "deploy", "daily.wasm"]);
    let refused = deploy();
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{stderr}");
    for part in ["is of snapshots of `user_daily`", "with --every 1h --entities active", "move the folder away"] {
        assert!(stderr.contains(part), "{stderr}");
    }
    // Nothing has changed, and the job goes on.
    let listed = process::run_ok(here, ["transforms", "list"]);
    assert!(listed.contains("user_spend") && !listed.contains("user_daily"), "{listed}");
    assert!(tree(&here.join("data/offline")) == before);
    let moved = here.join("data/offline/features/entity=user/view=user_daily");
    std::fs::rename(&moved, here.join("hours")).unwrap();
    assert!(deploy().status.success());
    assert!(process::run_ok(here, ["transforms", "list"]).contains("user_daily"));
    assert_eq!(service.terminate(), Some(0));
}
