//! Law 3 against the real process: killed at any write or fsync of a commit, or at random under load, both
//! stores say in the end what an undisturbed run says.
//!
//! `PLUMB_TEST_FULL=1` kills at every call of every kind and does a hundred rounds under load.

use plumb_pipeline::commit::committed_files;
use plumb_store_object::LocalStore;
use plumb_testing::case::oracle_event;
use plumb_testing::oracle::{self, OracleEvent};
use plumb_testing::{archive, process};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Past every event the tests make.
const AS_OF: &str = "2024-01-03T00:30:00Z";

/// The system calls by which anything becomes durable or visible.
const CALLS: [&str; 9] = ["write", "fsync", "mkdir", "rename", "renameat", "linkat", "unlink", "unlinkat", "ftruncate"];

fn generate(folder: &Path, events: u32, seed: u32) -> Vec<String> {
    let path = folder.join("events.jsonl");
    let (events, seed) = (events.to_string(), seed.to_string());
    process::run_ok(
        folder,
        ["generate", "--events", &events, "--users", "40", "--items", "25", "--days", "2", "--seed", &seed]
            .into_iter()
            .chain(["--start", "2024-01-01T00:00:00Z", "--out", path.to_str().unwrap()]),
    );
    std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

/// What a disturbed run must agree on: the archive's events and every answer.
#[derive(Debug, PartialEq)]
struct Outcome {
    archived: Vec<archive::Archived>,
    answers: Vec<Value>,
}

fn keys(events: &[OracleEvent]) -> (BTreeSet<String>, BTreeSet<String>) {
    (events.iter().filter_map(|e| e.user.clone()).collect(), events.iter().filter_map(|e| e.item.clone()).collect())
}

/// Asks for every user and item of `events`, and for one that never was.
fn answers(address: &str, events: &[OracleEvent]) -> Vec<Value> {
    let (users, items) = keys(events);
    let requests: Vec<Value> = users
        .iter()
        .map(|user| json!({"user_id": user, "as_of": AS_OF}))
        .chain(items.iter().map(|item| json!({"item_id": item, "as_of": AS_OF})))
        .chain([json!({"user_id": "nobody", "as_of": AS_OF})])
        .collect();
    let answer = process::post(address, "/features/batch", &json!({"requests": requests}));
    answer["results"].as_array().unwrap().iter().map(|result| result["features"].clone()).collect()
}

fn outcome(folder: &Path, events: &[OracleEvent]) -> Outcome {
    let mut service = process::Service::start(folder, ["serve", "--config", "plumb.toml"]);
    let address = service.ready();
    let answers = answers(&address, events);
    assert_eq!(service.terminate(), Some(0));
    Outcome { archived: archive::read(&folder.join("data/offline/events")), answers }
}

/// The answers against the oracle, bit for bit.
fn check_against_the_oracle(answers: &[Value], events: &[OracleEvent]) {
    let t = plumb_testing::case::parse_instant(AS_OF).unwrap();
    let (users, items) = keys(events);
    let expected = users
        .iter()
        .map(|user| ("user_activity", oracle::user_activity(events, user, t)))
        .chain(items.iter().map(|item| ("item_activity", oracle::item_activity(events, item, t))));
    for ((view, expected), answer) in expected.zip(answers) {
        for (name, value) in expected.expect("every key has an event before T") {
            let served = &answer[format!("{view}:{name}")];
            assert!(value.is_json(served), "{view}:{name} is {served}, the oracle says {value}");
        }
    }
}

/// A folder whose log holds the events, not yet processed.
fn produced(root: &Path, events: u32) -> (PathBuf, Vec<OracleEvent>) {
    let folder = root.join("produced");
    std::fs::create_dir(&folder).unwrap();
    let lines = generate(&folder, events, 3);
    relocate(&folder);
    process::run_ok(&folder, ["produce", "events.jsonl", "--config", "plumb.toml"]);
    let accepted: Vec<OracleEvent> = lines.iter().filter_map(|line| oracle_event(line).ok()).collect();
    (folder, oracle::accepted(&accepted))
}

/// Writes the settings of a copied folder anew, with a commit after every batch.
fn relocate(folder: &Path) {
    process::settings(
        folder,
        2,
        "[offline]\nurl = \"file:data/offline\"\n\
         [run]\nserve = true\ncommit_interval = \"20ms\"\ncommit_size = \"1KiB\"\n",
    );
}

fn manifests(folder: &Path) -> usize {
    let partitions = ["0", "1"].map(|partition| folder.join("data/offline/manifest/default").join(partition));
    partitions.iter().map(|partition| std::fs::read_dir(partition).unwrap().count()).sum()
}

#[test]
fn killed_at_each_write_and_fsync_of_a_commit() {
    let root = tempfile::tempdir().unwrap();
    let (source, accepted) = produced(root.path(), 5000);
    let undisturbed = root.path().join("undisturbed");
    copy(&source, &undisturbed);
    relocate(&undisturbed);
    process::run_ok(&undisturbed, ["run", "--until-end", "--no-serve", "--config", "plumb.toml"]);
    assert!(manifests(&undisturbed) >= 6, "the run is one of several commits per partition");
    let expected = outcome(&undisturbed, &accepted);
    check_against_the_oracle(&expected.answers, &accepted);
    let ids: BTreeSet<_> = expected.archived.iter().map(|archived| archived.event.id.clone()).collect();
    assert_eq!(ids.len(), accepted.len(), "the archive holds the accepted events, each once");
    assert_eq!(expected.archived.len(), accepted.len());

    let full = std::env::var_os("PLUMB_TEST_FULL").is_some();
    let mut kills = 0;
    for call in CALLS {
        let mut n = 1;
        loop {
            let disturbed = root.path().join("disturbed");
            copy(&source, &disturbed);
            relocate(&disturbed);
            let killed = run_killed(&disturbed, call, n);
            if killed {
                // The recovery is killed at the same call: what it leaves is recovered from like the rest.
                kills += 1 + usize::from(run_killed(&disturbed, call, n));
                process::run_ok(&disturbed, ["run", "--until-end", "--no-serve", "--config", "plumb.toml"]);
                assert_eq!(outcome(&disturbed, &accepted), expected, "after a kill at {call} number {n}");
            }
            std::fs::remove_dir_all(&disturbed).unwrap();
            if !killed {
                break;
            }
            // Each early call once, then ever wider steps: the first commit is dense, later ones repeat it.
            n += if full || n < 3 { 1 } else { n };
        }
    }
    println!("{kills} kills");
    assert!(kills >= 40, "only {kills} kills: the injection does not reach the process");
}

/// Runs to the end with a SIGKILL at the n-th `call` of a thread; whether it was killed.
fn run_killed(folder: &Path, call: &str, n: usize) -> bool {
    process::killed_at(folder, call, n, ["run", "--until-end", "--no-serve", "--config", "plumb.toml"])
}

/// What a glob over the dates finds, by partition and offset, in order.
fn globbed(folder: &Path) -> Vec<(i32, i64)> {
    let found = archive::read(&folder.join("data/offline/events"));
    found.iter().map(|row| (row.partition, row.offset)).collect()
}

/// How many events `plumb join` reads in the archive of a job, and how many its manifests name.
fn joined_and_committed(folder: &Path) -> (u64, u64) {
    std::fs::write(folder.join("labels.csv"), "user_id,event_time\nu1,2024-01-03T00:00:00Z\n").unwrap();
    let transform = process::component("user_activity");
    let printed = process::run_ok(
        folder,
        ["join", "--transform", transform.to_str().unwrap(), "--events", "data/offline/events/default"]
            .into_iter()
            .chain(["--labels", "labels.csv", "--out", "joined.parquet", "--config", "plumb.toml", "--json"]),
    );
    let printed: Value = serde_json::from_str(&printed).unwrap();
    let store = LocalStore::reading(folder.join("data/offline"));
    let files = committed_files(&store, "default").unwrap();
    (printed["events"].as_u64().unwrap(), files.iter().map(|(_, file)| file.rows).sum())
}

/// How many records `plumb produce` publishes elsewhere from the archive of a job.
fn published(folder: &Path) -> u64 {
    let elsewhere = tempfile::tempdir().unwrap();
    process::settings(elsewhere.path(), 1, "");
    let archive = folder.join("data/offline/events/default");
    let printed =
        process::run_ok(elsewhere.path(), ["produce", archive.to_str().unwrap(), "--config", "plumb.toml", "--json"]);
    serde_json::from_str::<Value>(&printed).unwrap()["published"].as_u64().unwrap()
}

/// Events of 200 dates in no order of time: most rows of a commit wait for their dates.
#[test]
fn killed_while_rows_wait_for_their_dates() {
    let root = tempfile::tempdir().unwrap();
    let source = root.path().join("produced");
    std::fs::create_dir(&source).unwrap();
    let generated = ["generate", "--events", "2500", "--days", "200", "--start", "2023-01-01T00:00:00Z"];
    process::run_ok(&source, generated.into_iter().chain(["--out", "events.jsonl"]));
    let text = std::fs::read_to_string(source.join("events.jsonl")).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    // Every 37th, 37 times.
    lines = (0..37).flat_map(|first| lines.iter().skip(first).step_by(37).copied().collect::<Vec<_>>()).collect();
    std::fs::write(source.join("events.jsonl"), lines.join("\n")).unwrap();
    relocate(&source);
    process::run_ok(&source, ["produce", "events.jsonl", "--config", "plumb.toml"]);
    let accepted: Vec<OracleEvent> = lines.iter().filter_map(|line| oracle_event(line).ok()).collect();
    let accepted = oracle::accepted(&accepted).len();

    let waiting = |folder: &Path| archive::parquet_files(&folder.join("data/offline/_pending")).len();
    let (mut kills, mut waited) = (0, 0);
    for (call, n) in [("write", 90), ("linkat", 14), ("linkat", 250), ("unlink", 12), ("fsync", 40), ("fsync", 150)] {
        let disturbed = root.path().join("disturbed");
        copy(&source, &disturbed);
        relocate(&disturbed);
        if run_killed(&disturbed, call, n) {
            kills += 1;
            waited += usize::from(waiting(&disturbed) > 0);
            let found = globbed(&disturbed);
            assert!(found.is_sorted_by(|a, b| a < b), "a row twice after a kill at {call} number {n}");
            if disturbed.join("data/offline/events/default").exists() {
                let (joined, committed) = joined_and_committed(&disturbed);
                assert_eq!(joined, committed, "after a kill at {call} number {n}");
                assert_eq!(published(&disturbed), committed, "after a kill at {call} number {n}");
                assert!(found.len() as u64 <= committed);
            }
            process::run_ok(&disturbed, ["run", "--until-end", "--no-serve", "--config", "plumb.toml"]);
        }
        let found = globbed(&disturbed);
        assert!(found.is_sorted_by(|a, b| a < b), "a row twice after a kill at {call} number {n}");
        assert_eq!(found.len(), accepted, "after a kill at {call} number {n}");
        assert_eq!(waiting(&disturbed), 0, "after a kill at {call} number {n}");
        assert_eq!(joined_and_committed(&disturbed), (accepted as u64, accepted as u64));
        std::fs::remove_dir_all(&disturbed).unwrap();
    }
    println!("{kills} kills, {waited} while rows waited");
    assert!(kills > 3 && waited > 1, "{kills} kills, {waited} while rows waited");
}

#[test]
fn killed_at_random_under_load() {
    let root = tempfile::tempdir().unwrap();
    let rounds = if std::env::var_os("PLUMB_TEST_FULL").is_some() { 100 } else { 12 };
    let lines = generate(root.path(), 4000, 9);
    relocate(root.path());
    let mut chance = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = 0;
    let batches: Vec<&[String]> = lines.chunks(40).collect();
    for round in 0..rounds {
        let mut service = process::Service::start(root.path(), ["run", "--config", "plumb.toml"]);
        let address = service.ready();
        // The kill comes after a random number of acknowledged batches, with the stream in full flow.
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let batches_now = 1 + (chance >> 33) as usize % (2 * batches.len() / rounds).max(1);
        for _ in 0..batches_now {
            let batch = batches[next % batches.len()].join("\n");
            let (status, text) = process::request(&address, "POST", "/events", batch.as_bytes()).unwrap();
            assert_eq!(status, 200, "round {round}: {text}");
            next += 1;
        }
        if round % 2 == 0 {
            // Killed with a request under way: what became of it is not known, so it is sent again.
            let (address, batch) = (address.clone(), batches[next % batches.len()].join("\n"));
            let under_way = std::thread::spawn(move || process::request(&address, "POST", "/events", batch.as_bytes()));
            (0..chance >> 45 & 0x3ff).for_each(|_| std::thread::yield_now());
            service.kill();
            // Either it was answered or the connection broke.
            drop(under_way.join().unwrap());
        } else {
            // The last batch again, unacknowledged as far as the sender knows: its copies must not count.
            next -= usize::from(round % 3 == 0);
            service.kill();
        }
    }
    // What was under way at the last kill is sent again as well.
    let mut service = process::Service::start(root.path(), ["run", "--config", "plumb.toml"]);
    let address = service.ready();
    let last = batches[next % batches.len()].join("\n");
    assert_eq!(process::request(&address, "POST", "/events", last.as_bytes()).unwrap().0, 200);
    service.kill();
    next += 1;
    let sent: Vec<OracleEvent> = batches
        .iter()
        .take(next.min(batches.len()))
        .copied()
        .flatten()
        .filter_map(|line| oracle_event(line).ok())
        .collect();
    let accepted = oracle::accepted(&sent);
    process::run_ok(root.path(), ["run", "--until-end", "--no-serve", "--config", "plumb.toml"]);
    let outcome = outcome(root.path(), &accepted);
    check_against_the_oracle(&outcome.answers, &accepted);
    let with_ids: Vec<_> = outcome.archived.iter().filter_map(|archived| archived.event.id.clone()).collect();
    let distinct: BTreeSet<_> = with_ids.iter().collect();
    assert_eq!(distinct.len(), with_ids.len(), "no event is archived twice");
    assert_eq!(outcome.archived.len(), accepted.len());
}
