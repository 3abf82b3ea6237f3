//! `plumb backfill` as a process: killed in the middle and run again, over an archive that late events come to, and what
//! it refuses.

use arrow_array::Array;
use plumb_testing::process;
use plumb_testing::service::s3::{ACCESS_KEY, REGION, S3, SECRET_KEY};
use plumb_testing::service::skipped;
use plumb_testing::snapshots::{Dates, count, dates, tree};
use plumb_testing::table::{column, table, texts};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// A folder with the components `spend.wasm` and `daily.wasm`.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (view, name) in [("user_spend", "spend.wasm"), ("user_daily", "daily.wasm")] {
        std::fs::copy(process::component(view), folder.path().join(name)).unwrap();
    }
    folder
}

fn generate(here: &Path, events: u32, days: u32) {
    process::run_ok(
        here,
        format!("generate --events {events} --users 12 --items 5 --days {days} --seed 7 --out ev.jsonl").split(' '),
    );
}

fn words(events: &str, out: &str) -> Vec<String> {
    format!("--json backfill --transform spend.wasm --transform daily.wasm --events {events} --every 1d --out {out}")
        .split(' ')
        .map(str::to_owned)
        .collect()
}

fn backfill(here: &Path, events: &str, out: &str) -> Value {
    serde_json::from_str(&process::run_ok(here, words(events, out))).unwrap()
}

/// Settings of a job with the components.
fn settings(here: &Path, offline: &str) {
    let components = [here.join("spend.wasm"), here.join("daily.wasm")].map(|path| path.display().to_string());
    let text = format!(
        "data_dir = \"data\"\n[source]\nkind = \"log\"\npartitions = 3\n[transforms]\npaths = {components:?}\n\
         [offline]\nsnapshots = \"none\"\n{offline}\n"
    );
    std::fs::write(here.join("plumb.toml"), text).unwrap();
}

/// Lets the job accept events.
fn accept(here: &Path, lines: &[&str]) {
    std::fs::write(here.join("part.jsonl"), lines.join("\n")).unwrap();
    process::run_ok(here, ["produce", "part.jsonl"]);
    process::run_ok(here, ["run", "--until-end", "--no-serve"]);
}

/// Backfills what the job has committed, into its own store or another folder; the report, whose position has to be
/// exactly behind so many records.
fn backfill_job(here: &Path, out: Option<&str>, records: usize) -> Value {
    let words = "--json backfill --transform spend.wasm --transform daily.wasm --every 1d".split(' ');
    let out = out.into_iter().flat_map(|out| ["--out", out]);
    let report: Value = serde_json::from_str(&process::run_ok(here, words.chain(out))).unwrap();
    let position = report["position"].as_str().unwrap();
    let offsets = position.strip_prefix("default:").unwrap().split(',');
    let sum: usize =
        offsets.map(|of_partition| of_partition.split_once('=').unwrap().1.parse::<usize>().unwrap()).sum();
    assert_eq!(sum, records, "{position}");
    report
}

/// The dates that a view has, as `YYYY-MM-DD`.
fn dates_of<'a>(dates: &Dates<'a>, view: &str) -> Vec<&'a str> {
    let of_view = dates.keys().filter(|path| path.contains(&format!("view={view}/")));
    of_view.map(|path| path.rsplit_once("date=").unwrap().1).collect()
}

#[test]
fn killed_anywhere_it_goes_on_where_it_was() {
    let folder = folder();
    let here = folder.path();
    // So many dates that they are shown in several steps.
    generate(here, 2500, 130);
    let all = std::fs::read_to_string(here.join("ev.jsonl")).unwrap();
    let lines: Vec<&str> = all.lines().collect();
    std::fs::create_dir(here.join("some")).unwrap();
    let some: Vec<&str> =
        lines.iter().enumerate().filter(|(index, _)| index % 40 != 0).map(|(_, line)| *line).collect();
    std::fs::write(here.join("some/ev.jsonl"), some.join("\n")).unwrap();
    backfill(here, "some/ev.jsonl", "old");
    let report = backfill(here, "ev.jsonl", "whole");
    let (old, whole) = (tree(&here.join("old")), tree(&here.join("whole")));
    let (old_dates, whole_dates) = (dates(&old), dates(&whole));
    let all_dates = count(&report, "made");
    assert_eq!(all_dates, whole_dates.len() as u64);
    assert!(all_dates > 200, "{all_dates}");

    let calls = if std::env::var_os("PLUMB_TEST_FULL").is_some() {
        let calls = ["rename", "renameat2", "linkat", "fsync", "write", "unlink", "mkdir"];
        calls.map(|call| (call, (1..600).step_by(37).collect())).to_vec()
    } else {
        // Calls of the main thread, each at the same place in every run.
        vec![
            ("rename", vec![60, 150, 255]),
            ("linkat", vec![50, 160]),
            ("unlink", vec![250]),
            ("renameat2", vec![60, 150]),
        ]
    };
    let (mut kills, mut went_on, mut mixed) = (0, 0, 0);
    for from_old in [false, true] {
        for (call, n) in calls.iter().flat_map(|(call, all)| all.iter().map(move |n| (*call, *n))) {
            let out = here.join("out");
            if out.exists() {
                std::fs::remove_dir_all(&out).unwrap();
            }
            if from_old {
                assert!(Command::new("cp").arg("-a").arg(here.join("old")).arg(&out).status().unwrap().success());
            }
            kills += u32::from(process::killed_at(here, call, n, words("ev.jsonl", "out")));
            // What a reader finds after the kill: each date as it was, as it will be, or not yet there.
            let found = tree(&out);
            let found_dates = dates(&found);
            for (date, files) in &found_dates {
                let before = from_old.then(|| old_dates.get(date)).flatten();
                let is_whole = Some(files) == whole_dates.get(date) || Some(files) == before;
                assert!(is_whole, "{call} {n}: {date} holds {:?}", files.keys());
            }
            if from_old {
                assert!(old_dates.keys().all(|date| found_dates.contains_key(date)), "{call} {n}: a date has gone");
                let new = found_dates.iter().filter(|(date, files)| old_dates.get(*date) != Some(files)).count();
                let all_new = whole_dates.iter().filter(|(date, files)| old_dates.get(*date) != Some(files)).count();
                mixed += u32::from(new > 0 && new < all_new);
            }
            let report = backfill(here, "ev.jsonl", "out");
            assert_eq!(count(&report, "made") + count(&report, "unchanged"), all_dates);
            went_on += u32::from(!from_old && count(&report, "unchanged") > 0 && count(&report, "made") > 0);
            assert!(tree(&out) == whole, "{call} {n}: another tree than that of one run");
        }
    }
    eprintln!("{kills} kills, {went_on} went on in the middle, {mixed} between two replaced dates");
    assert!(kills > 0 && went_on > 0 && mixed > 0);
}

#[test]
fn late_events_change_the_dates_that_can_see_them() {
    let folder = folder();
    let here = folder.path();
    generate(here, 3000, 20);
    settings(here, "url = \"file:data/offline\"");
    let all = std::fs::read_to_string(here.join("ev.jsonl")).unwrap();
    // Some purchases of the tenth day come after everything else.
    let is_late = |line: &&str| {
        let event: Value = serde_json::from_str(line).unwrap();
        event["event_type"] == "purchase" && event["event_time"].to_string().contains("2024-01-10T")
    };
    let (late, early): (Vec<&str>, Vec<&str>) = all.lines().partition(is_late);
    assert!(!late.is_empty());
    const ARCHIVE: &str = "data/offline/events/default";
    accept(here, &early);
    backfill(here, ARCHIVE, "out");
    let before = tree(&here.join("out"));
    let report = backfill(here, ARCHIVE, "out");
    assert_eq!(count(&report, "made"), 0);
    assert_eq!(tree(&here.join("out")), before);
    // By the job's manifests, into its own store.
    backfill_job(here, None, early.len());
    assert_eq!(tree(&here.join("data/offline")), before);

    accept(here, &late);
    let report = backfill(here, ARCHIVE, "out");
    backfill(here, ARCHIVE, "whole");
    let (after, whole) = (tree(&here.join("out")), tree(&here.join("whole")));
    assert!(after == whole, "another tree than that of one run");
    assert_eq!(backfill_job(here, None, early.len() + late.len())["dates"], report["dates"]);
    assert!(tree(&here.join("data/offline")) == whole, "another tree than that of the archive's files");
    // The job goes on beside them.
    process::run_ok(here, ["run", "--until-end", "--no-serve"]);
    assert_eq!(count(&backfill_job(here, None, early.len() + late.len()), "made"), 0);
    let (before, after) = (dates(&before), dates(&after));
    let changed: BTreeSet<&str> =
        after.iter().filter(|(date, files)| before.get(*date) != Some(files)).map(|(date, _)| *date).collect();
    let of_view = |view: &str| -> Vec<&str> {
        let all = dates_of(&after, view);
        all.into_iter().filter(|date| changed.iter().any(|path| path.contains(view) && path.ends_with(date))).collect()
    };
    // Both views count some things ever: they see an event of the tenth on all later dates, and on none before.
    for view in ["user_spend", "user_daily"] {
        let (changed, all) = (of_view(view), dates_of(&after, view));
        let later: Vec<&str> = all.into_iter().filter(|date| *date > "2024-01-10").collect();
        assert_eq!(changed, later);
        let counts = &report["dates"][view];
        assert_eq!((counts["made"].as_u64(), counts["unchanged"].as_u64()), (Some(11), Some(9)));
    }

    // A date's rows name the position that its manifest does: all partitions of the log.
    let daily = after.keys().filter(|date| date.contains("user_daily")).max().unwrap();
    let last = daily.rsplit_once("date=").unwrap().1;
    let folder = here.join(format!("out/features{daily}"));
    let rows = table(&std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path());
    let positions: BTreeSet<Option<String>> = texts(&rows, "_position").into_iter().collect();
    let manifest = std::fs::read(folder.join("../_manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let position = manifest["dates"][last]["position"].as_str().unwrap();
    assert_eq!(positions, BTreeSet::from([Some(position.to_owned())]));
    assert_eq!(column(&rows, "_position").null_count(), 0);
    let partitions: Vec<&str> = position.strip_prefix("default:").unwrap().split(',').collect();
    assert_eq!(partitions.len(), 3, "{position}");
}

#[test]
fn a_job_in_s3_has_its_snapshots_beside_its_events() {
    if skipped("a_job_in_s3_has_its_snapshots_beside_its_events") {
        return;
    }
    let (s3, folder) = (S3::shared(), folder());
    let here = folder.path();
    generate(here, 900, 8);
    let (endpoint, name) = (s3.endpoint(), "backfilled");
    let keys = format!("region = \"{REGION}\"\naccess_key = \"{ACCESS_KEY}\"\nsecret_key = \"{SECRET_KEY}\"");
    s3.create_bucket(name);
    settings(here, &format!("url = \"s3://{name}/job\"\nendpoint = \"{endpoint}\"\nallow_http = true\n{keys}"));
    let all = std::fs::read_to_string(here.join("ev.jsonl")).unwrap();
    let lines: Vec<&str> = all.lines().collect();
    for (begin, end) in [(0, 500), (500, 900)] {
        accept(here, &lines[begin..end]);
        backfill_job(here, None, end);
        let out = format!("local-{end}");
        backfill_job(here, Some(&out), end);
        let got = here.join(format!("got-{end}"));
        s3.download(name, "job/features/", &got.join("features"));
        let (got, local) = (tree(&got), tree(&here.join(out)));
        assert!(!local.is_empty());
        assert!(got == local, "{:?}\n{:?}", got.keys(), local.keys());
    }
    assert!(s3.list(name, "job/_staging/").is_empty());
}

#[track_caller]
fn refused(here: &Path, words: &str, why: &str) {
    let output = process::run(here, words.split(' '));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains(why), "{stderr}");
}

#[test]
fn what_cannot_be_gone_on_with_is_refused_and_left_alone() {
    let folder = folder();
    let here = folder.path();
    generate(here, 800, 6);
    backfill(here, "ev.jsonl", "out");
    let before = tree(&here.join("out"));
    let words = "backfill --transform spend.wasm --events";
    refused(
        here,
        &format!("{words} ev.jsonl --every 1h --out out"),
        "with --every 1d --entities active and max age none; give another --out for those of `user_spend`",
    );
    refused(
        here,
        &format!("{words} ev.jsonl --every 1d --entities all --out out"),
        "with --every 1d --entities active",
    );
    refused(here, &format!("{words} ev.jsonl --every 1w --out out"), "1w");
    refused(here, &format!("{words} ev.jsonl --every 1d"), "--out");
    settings(here, "url = \"file:data/offline\"");
    let of_job = "backfill --transform spend.wasm --every 1d";
    refused(
        here,
        of_job,
        "nothing of source `default` is committed in `file:data/offline`: let `plumb run` work on it",
    );
    refused(
        here,
        &format!("{of_job} --now 2024-01-03T00:00:00Z"),
        "--now 2024-01-03T00:00:00Z: what a job has committed",
    );
    std::fs::remove_file(here.join("plumb.toml")).unwrap();
    refused(
        here,
        &format!("{words} ev.jsonl --every 1d --from 2024-01-03T00:00:00Z --to 2024-01-03T00:00:00Z --out out"),
        "`--from` is not before `--to`",
    );
    // The new events alone, where all are needed.
    let all = std::fs::read_to_string(here.join("ev.jsonl")).unwrap();
    let lines: Vec<&str> = all.lines().collect();
    std::fs::write(here.join("new.jsonl"), lines[700..].join("\n")).unwrap();
    refused(
        here,
        &format!("{words} new.jsonl --every 1d --out out"),
        "give all events, not the new ones alone, or --allow-fewer-events",
    );
    assert_eq!(tree(&here.join("out")), before);
    process::run_ok(here, format!("{words} new.jsonl --every 1d --out out --allow-fewer-events").split(' '));
    process::run_ok(here, format!("{words} new.jsonl --every 1d --out fresh").split(' '));
    let of_spend = |out: &str| {
        let mut files = tree(&here.join(out));
        files.retain(|path, _| path.contains("user_spend"));
        files
    };
    assert_eq!(of_spend("out"), of_spend("fresh"));
    let manifest = before.keys().find(|path| path.contains("user_spend") && path.ends_with(".json")).unwrap();
    std::fs::write(here.join(format!("out/features{manifest}")), "{").unwrap();
    refused(here, &format!("{words} ev.jsonl --every 1d --out out"), "_manifest.json` is not a manifest of snapshots");
}
