//! `plumb dead-letters`: what could not be applied is seen with its bytes, its position and why, and is published again
//! once, wherever its source's log is.

use plumb_testing::process::{self, Service};
use serde_json::{Value, json};
use std::path::Path;

/// A job over an embedded log of one partition; records may be at most this far ahead of their stamp.
fn configure(folder: &Path, max_future: &str) {
    process::settings(folder, 1, "");
    let path = folder.join("plumb.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let lines = format!("partitions = 1\nmax_future = \"{max_future}\"\nallowed_lateness = \"90000d\"\n");
    std::fs::write(path, text.replace("partitions = 1\n", &lines)).unwrap();
}

#[track_caller]
fn run(folder: &Path, words: &str) -> Value {
    let words = format!("--json {words}");
    serde_json::from_str(&process::run_ok(folder, words.split_whitespace())).unwrap()
}

#[track_caller]
fn refused(folder: &Path, words: &str, line: &str) {
    let output = process::run(folder, words.split_whitespace());
    assert_eq!(String::from_utf8_lossy(&output.stderr), format!("plumb: {line}\n"), "plumb {words}");
    assert_eq!(output.status.code(), Some(2), "plumb {words}");
}

fn event(id: &str, time: &str) -> String {
    format!(r#"{{"event_id":"{id}","event_time":"{time}","event_type":"view","user_id":"u1","item_id":"i1"}}"#)
}

/// The reports of a list, by position.
fn listed(folder: &Path, words: &str) -> Vec<(String, Value)> {
    let document = run(folder, &format!("dead-letters list {words}"));
    let letters = document["dead_letters"].as_array().unwrap();
    let mut letters: Vec<_> =
        letters.iter().map(|letter| (letter["position"].as_str().unwrap().to_owned(), letter.clone())).collect();
    letters.sort_by(|a, b| a.0.cmp(&b.0));
    letters
}

/// A log with three records that are accepted and, at 1, 3 and 4, three that are not.
fn published(folder: &Path) {
    let bad_utf8 = b"{\"event_id\":\"\xff\"}";
    let mut records: Vec<Vec<u8>> = vec![
        event("a", "2024-01-01T00:00:00Z").into_bytes(),
        b"  not json \t".to_vec(),
        event("b", "2024-01-02T00:00:00Z").into_bytes(),
        event("far", "2100-01-01T00:00:00Z").into_bytes(),
        bad_utf8.to_vec(),
        event("c", "2024-01-03T00:00:00Z").into_bytes(),
    ];
    records.push(Vec::new());
    std::fs::write(folder.join("ev.jsonl"), records.join(&b'\n')).unwrap();
    process::run_ok(folder, ["produce", "ev.jsonl"]);
}

#[test]
fn dead_letters_are_listed_shown_and_replayed_once() {
    let root = tempfile::tempdir().unwrap();
    let here = root.path();
    configure(here, "5m");
    assert_eq!(run(here, "dead-letters list"), json!({"matched": 0, "by_reason": {}, "dead_letters": []}));
    published(here);
    assert_eq!(run(here, "run --until-end")["rejected"], 3);

    let all = listed(here, "");
    let positions: Vec<&str> = all.iter().map(|(position, _)| position.as_str()).collect();
    assert_eq!(positions, ["default:0=1", "default:0=3", "default:0=4"]);
    assert!(all.iter().all(|(_, letter)| letter["view"].is_null() && letter["replayed"].is_null()), "{all:?}");
    let far = &all[1].1;
    assert!(far["reason"].as_str().unwrap().contains("2100-01-01"), "{far}");
    assert_eq!(far["bytes"], event("far", "2100-01-01T00:00:00Z").len());
    assert_eq!(listed(here, "--reason 2100").len(), 1);
    assert_eq!(listed(here, "--since 1h").len(), 3);
    assert_eq!(listed(here, "--since 2200-01-01T00:00:00Z").len(), 0);
    assert_eq!(listed(here, "--view user_activity").len(), 0);
    assert_eq!(run(here, "dead-letters list --limit 1")["matched"], 3);

    // Bytes come as they were.
    let shown = process::run(here, ["dead-letters", "show", "default:0=4"]);
    assert_eq!(shown.stdout, b"{\"event_id\":\"\xff\"}");
    assert!(String::from_utf8_lossy(&shown.stderr).starts_with("default:0=4  "), "{shown:?}");
    let document = run(here, "dead-letters show default:0=4");
    assert_eq!(document["dead_letters"][0]["base64"], "eyJldmVudF9pZCI6Iv8ifQ==");
    assert_eq!(
        run(here, "dead-letters show default:0=3")["dead_letters"][0]["text"],
        event("far", "2100-01-01T00:00:00Z")
    );

    // What would come of it can be asked first; what is to be replayed must be said.
    refused(here, "dead-letters replay", "say which dead letters: positions, --source, --reason, --since, or --all");
    let dry = run(here, "dead-letters replay --all --dry-run");
    assert_eq!((&dry["would_replay"], listed(here, "")[0].1["replayed"].is_null()), (&3.into(), true));

    // With the bound lifted the record is accepted; the others are rejected again, as letters of their own.
    configure(here, "80000d");
    assert_eq!(run(here, "dead-letters replay default:0=3")["positions"], json!(["default:0=3"]));
    let report = run(here, "run --until-end");
    assert_eq!((&report["applied"], &report["rejected"]), (&4.into(), &3.into()));
    assert_eq!(
        run(here, "dead-letters replay default:0=3"),
        json!({
            "replayed": 0, "positions": [],
            "skipped": {"replayed before (--again publishes it once more)": 1},
        })
    );
    assert_eq!(listed(here, "--reason 2100")[0].1["replayed"]["state"], "done");
    assert_eq!(run(here, "dead-letters replay default:0=3 --again")["replayed"], 1);
    let report = run(here, "run --until-end");
    assert_eq!((&report["applied"], &report["duplicate"]), (&4.into(), &1.into()), "a copy has the same id");

    // Through the process that owns the log, byte for byte.
    let mut service = Service::start(here, ["run"]);
    service.ready();
    let replayed = run(here, "dead-letters replay --source default");
    assert_eq!(replayed["positions"], json!(["default:0=1", "default:0=4"]));
    assert_eq!(run(here, "dead-letters replay --all")["replayed"], 0);
    assert_eq!(service.terminate(), Some(0));
    let again = listed(here, "");
    assert_eq!(again.len(), 5, "{again:?}");
    let show = |position: &str| process::run(here, ["dead-letters", "show", position]).stdout;
    let bytes: Vec<Vec<u8>> = again[3..].iter().map(|(position, _)| show(position)).collect();
    assert_eq!(bytes, [show("default:0=1"), show("default:0=4")]);
}

#[test]
fn a_replay_that_was_cut_off_is_seen_and_mistakes_are_named() {
    let root = tempfile::tempdir().unwrap();
    let here = root.path();
    configure(here, "5m");
    published(here);
    run(here, "run --until-end");
    // As a crash between the note and its end leaves it.
    assert_eq!(run(here, "dead-letters replay default:0=1")["replayed"], 1);
    let notes = here.join("data/offline/replays/default");
    std::fs::remove_file(notes.join("00000000000000000001.done")).unwrap();
    assert_eq!(listed(here, "")[0].1["replayed"]["state"], "cut off");
    let skipped = &run(here, "dead-letters replay default:0=1")["skipped"];
    let why = "an earlier replay was cut off, it may be published already (--again publishes it)";
    assert_eq!(skipped, &json!({why: 1}));
    assert_eq!(run(here, "dead-letters replay default:0=1 --again")["replayed"], 1);

    refused(
        here,
        "dead-letters show 12",
        "`12` is no position: copy it from `plumb dead-letters list`, as in default:0=12",
    );
    refused(
        here,
        "dead-letters show default:0=2",
        "there is no dead letter at default:0=2 (what was not committed yet is not seen)",
    );
    refused(here, "dead-letters show clicks:0=2", "unknown source `clicks`; the configuration has `default`");
    refused(here, "dead-letters list --source clicks", "unknown source `clicks`; the configuration has `default`");
    refused(
        here,
        "dead-letters list --since yesterday",
        "--since yesterday: write an instant as in 2024-01-31T12:00:00Z, or how long ago as in 24h",
    );
}
