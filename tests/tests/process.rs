//! The running process: it ends when asked, goes on where it stopped, shares its data folder with nobody, and
//! follows files as they come.

use plumb_testing::case::oracle_event;
use plumb_testing::oracle::OracleEvent;
use plumb_testing::{archive, process};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

const OFFLINE: &str = "[offline]\nurl = \"file:data/offline\"\n[run]\nserve = true\n";

fn generate(folder: &Path, name: &str, events: u32, seed: u32) -> Vec<OracleEvent> {
    let words = format!(
        "generate --events {events} --users 30 --items 20 --days 2 --seed {seed} --start 2024-01-01T00:00:00Z --out {name}"
    );
    process::run_ok(folder, words.split(' '));
    match name.ends_with(".jsonl") {
        true => std::fs::read_to_string(folder.join(name)).unwrap().lines().map(|l| oracle_event(l).unwrap()).collect(),
        false => Vec::new(),
    }
}

fn ids(events: &[OracleEvent]) -> BTreeSet<String> {
    events.iter().filter_map(|event| event.id.clone()).collect()
}

#[track_caller]
fn archived_once(folder: &Path, wanted: &BTreeSet<String>) {
    let archived = archive::read(&folder.join("data/offline/events"));
    let found: Vec<String> = archived.into_iter().filter_map(|event| event.event.id).collect();
    assert_eq!(found.len(), wanted.len(), "each once");
    assert_eq!(&found.into_iter().collect::<BTreeSet<_>>(), wanted);
}

fn run_to_the_end(folder: &Path) -> Value {
    serde_json::from_str(&process::run_ok(folder, ["--json", "run", "--until-end"])).unwrap()
}

/// Asks until the answer is `wanted`.
#[track_caller]
fn comes(address: &str, path: &str, pointer: &str, wanted: &Value) {
    let end = Instant::now() + process::PATIENCE;
    loop {
        let (status, text) = process::request(address, "GET", path, b"").unwrap();
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        if status == 200 && answer.pointer(pointer) == Some(wanted) {
            return;
        }
        assert!(Instant::now() < end, "{path}: {pointer} did not become {wanted}: {text}");
        std::thread::yield_now();
    }
}

#[test]
fn it_ends_when_asked_and_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    process::settings(here, 3, OFFLINE);
    let events = generate(here, "a.jsonl", 3000, 1);
    let lines: Vec<String> =
        std::fs::read_to_string(here.join("a.jsonl")).unwrap().lines().map(str::to_owned).collect();
    for (round, part) in lines.chunks(1000).enumerate() {
        let mut service = process::Service::start(here, ["run"]);
        let address = service.ready();
        let (status, text) = process::request(&address, "POST", "/events", part.join("\n").as_bytes()).unwrap();
        assert_eq!(status, 200, "round {round}: {text}");
        assert_eq!(service.terminate(), Some(0), "SIGTERM is no failure");
        let seen = process::run_ok(here, ["--json", "check", "--entity", "user", "--sample", "50", "--exact"]);
        assert_eq!(serde_json::from_str::<Value>(&seen).unwrap()["passed"], true, "{seen}");
    }
    let again = run_to_the_end(here);
    assert_eq!(again["read"], 3000);
    archived_once(here, &ids(&events));
    let replayed = run_to_the_end(here);
    assert_eq!(replayed["applied_now"], 0, "{replayed}");
    assert_eq!(replayed["read"], 3000, "{replayed}");
    archived_once(here, &ids(&events));
}

#[test]
fn a_data_folder_has_one_owner_that_others_go_through() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    process::settings(here, 2, OFFLINE);
    let events = generate(here, "a.jsonl", 500, 2);
    let mut service = process::Service::start(here, ["run"]);
    let address = service.ready();
    let owner: Value = serde_json::from_slice(&std::fs::read(here.join("data/owner")).unwrap()).unwrap();
    for words in [&["run"][..], &["run", "--until-end"]] {
        let refused = process::run(here, words);
        let line = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(2), "{line}");
        let named = format!(
            "plumb: data directory `{}/data` is in use by process {} (admin address {}); stop it, or set another \
             `data_dir`\n",
            here.display(),
            owner["pid"],
            owner["admin"].as_str().unwrap()
        );
        assert_eq!(line, named);
    }
    let published: Value = serde_json::from_str(&process::run_ok(here, ["--json", "produce", "a.jsonl"])).unwrap();
    assert_eq!(published["published"], 500);
    let user = events.iter().find_map(|event| event.user.clone()).unwrap();
    comes(&address, &format!("/features/user/{user}"), "/entities/user/status", &json!("found"));
    let seen = process::run_ok(here, ["--json", "check", "--entity", "item", "--sample", "50", "--exact"]);
    assert_eq!(serde_json::from_str::<Value>(&seen).unwrap()["passed"], true, "{seen}");
    assert_eq!(service.terminate(), Some(0));
    archived_once(here, &ids(&events));
}

#[test]
fn files_are_followed_and_one_that_changed_or_is_gone_stops_the_source() {
    for ending in ["jsonl", "csv", "parquet"] {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        std::fs::create_dir(here.join("in")).unwrap();
        process::settings(here, 1, OFFLINE);
        let text = std::fs::read_to_string(here.join("plumb.toml")).unwrap();
        let text = text.replace("kind = \"log\"\npartitions = 1", "kind = \"file\"\npath = \"in\"");
        std::fs::write(here.join("plumb.toml"), text).unwrap();
        let mut all = BTreeSet::new();
        for (seed, name) in [(1, "b"), (2, "a"), (3, "c")] {
            all.extend(ids(&generate(here, &format!("{name}.jsonl"), 300, seed)));
            generate(here, &format!("{name}.{ending}"), 300, seed);
        }
        let give = |name: &str| {
            let file = format!("{name}.{ending}");
            std::fs::rename(here.join(&file), here.join("in").join(&file)).unwrap();
        };
        give("b");
        assert_eq!(run_to_the_end(here)["applied_now"], 300);
        // A file that comes later lies behind, whatever its name.
        give("a");
        let run = run_to_the_end(here);
        assert_eq!((run["applied_now"].as_u64(), run["read"].as_u64()), (Some(300), Some(600)), "{ending}");
        let mut service = process::Service::start(here, ["run"]);
        let address = service.ready();
        give("c");
        // One more file with one event, whose user tells when it was taken.
        let late = "event_id,event_time,user_id,event_type\nlate,2024-01-04T00:00:00Z,late_user,view\n";
        std::fs::write(here.join("d.tmp"), late).unwrap();
        std::fs::rename(here.join("d.tmp"), here.join("in/d.csv")).unwrap();
        all.insert("late".to_owned());
        comes(&address, "/features/user/late_user", "/entities/user/status", &json!("found"));
        assert_eq!(service.terminate(), Some(0));
        archived_once(here, &all);
        assert_eq!(run_to_the_end(here)["applied_now"], 0);

        let changed = here.join("in").join(format!("a.{ending}"));
        let bytes = std::fs::read(&changed).unwrap();
        std::fs::write(&changed, [&bytes[..], b"\n"].concat()).unwrap();
        stops(
            here,
            &format!(
                "plumb: event file `in/a.{ending}` has changed since it was read (it had {} bytes and has {}); put new \
             events into new files\n",
                bytes.len(),
                bytes.len() + 1
            ),
        );
        std::fs::remove_file(&changed).unwrap();
        stops(
            here,
            &format!(
                "plumb: event file `in/a.{ending}` was read before and is gone; bring it back, or start anew with another \
             data_dir and offline store\n"
            ),
        );
        std::fs::write(&changed, bytes).unwrap();
        assert_eq!(run_to_the_end(here)["applied_now"], 0, "brought back, all is well");
        archived_once(here, &all);
    }
}

/// Both ways to run end with exit code 2 and this line.
#[track_caller]
fn stops(folder: &Path, line: &str) {
    for words in [&["run", "--until-end"][..], &["run", "--no-serve"]] {
        let output = process::run(folder, words);
        assert_eq!(String::from_utf8(output.stderr).unwrap(), line);
        assert_eq!(output.status.code(), Some(2));
    }
}
