//! `plumb produce` into Kafka: every record once under its key, paced as asked, and errors that say what to do.

use plumb_testing::process;
use plumb_testing::service::kafka::{Kafka, Stored};
use plumb_testing::service::skipped;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

fn folder(kafka: &Kafka, topic: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let settings = format!("[source]\nkind = \"kafka\"\nbrokers = \"{}\"\ntopic = \"{topic}\"\n", kafka.address());
    std::fs::write(folder.path().join("plumb.toml"), settings).unwrap();
    folder
}

fn produce(here: &Path, arguments: &str) -> Output {
    process::run(here, ["--json", "produce"].into_iter().chain(arguments.split(' ')))
}

fn published(output: &Output) -> u64 {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    serde_json::from_slice::<Value>(&output.stdout).unwrap()["published"].as_u64().unwrap()
}

#[track_caller]
fn refused(output: &Output, code: i32, parts: &[&str]) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    for part in parts {
        assert!(error.contains(part), "{error} lacks {part}");
    }
}

fn event(n: usize, time_ms: u64) -> String {
    let user = if n.is_multiple_of(10) { "null".to_owned() } else { format!("\"u{}\"", n % 23) };
    format!(r#"{{"event_id":"e{n}","event_time":{time_ms},"event_type":"view","user_id":{user}}}"#)
}

fn write(here: &Path, name: &str, lines: impl IntoIterator<Item = String>) {
    std::fs::write(here.join(name), lines.into_iter().map(|line| line + "\n").collect::<String>()).unwrap();
}

fn bytes(records: &[Stored]) -> Vec<&[u8]> {
    records.iter().map(|record| record.value.as_deref().unwrap()).collect()
}

#[test]
fn kafka_produce_publishes_each_line_as_it_is_under_its_key() {
    if skipped("kafka_produce_publishes_each_line_as_it_is_under_its_key") {
        return;
    }
    let kafka = Kafka::shared();
    let folder = folder(kafka, "made-by-produce");
    let here = folder.path();
    let mut lines: Vec<String> = (0..20_000).map(|n| event(n, 1_700_000_000_000)).collect();
    lines[77] = "no event".to_owned();
    write(here, "events.jsonl", lines.clone());
    refused(&produce(here, "events.jsonl"), 2, &["`made-by-produce` does not exist", "--create-topic"]);
    refused(&produce(here, "events.jsonl --create-topic"), 2, &["--partitions"]);
    let begin = Instant::now();
    assert_eq!(published(&produce(here, "events.jsonl --create-topic --partitions 3")), 20_000);
    assert!(begin.elapsed() < Duration::from_secs(20), "it took {:?}", begin.elapsed());
    let stored = kafka.read("made-by-produce");
    let mut partitions = BTreeMap::new();
    for record in &stored {
        let key = record.key.clone();
        let line = std::str::from_utf8(record.value.as_deref().unwrap()).unwrap();
        let wanted = serde_json::from_str::<Value>(line).ok().map(|event| {
            let text = |field: &str| event[field].as_str().map(str::to_owned);
            text("user_id").or_else(|| text("event_id")).unwrap().into_bytes()
        });
        assert_eq!(key, wanted, "{line}");
        if key.is_some() {
            assert_eq!(*partitions.entry(key).or_insert(record.partition), record.partition);
        }
    }
    assert_eq!(kafka.watermarks("made-by-produce").len(), 3);
    let (mut seen, mut sent) = (bytes(&stored), lines.iter().map(|line| line.as_bytes()).collect::<Vec<_>>());
    seen.sort_unstable();
    sent.sort_unstable();
    assert!(seen == sent, "each line is there once");
}

#[test]
fn kafka_produce_keeps_a_rate_and_the_rhythm_of_the_events() {
    if skipped("kafka_produce_keeps_a_rate_and_the_rhythm_of_the_events") {
        return;
    }
    let kafka = Kafka::shared();
    kafka.create_topic("paced", 1, &[]);
    let folder = folder(kafka, "paced");
    let here = folder.path();
    // A minute between two events, and one that is late.
    let times = [0, 1, 2, 1, 3].map(|minute| 1_700_000_000_000 + minute * 60_000);
    write(here, "slow.jsonl", times.iter().enumerate().map(|(n, &time)| event(n, time)));
    let begin = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    assert_eq!(published(&produce(here, "slow.jsonl --speed 120")), 5);
    let stamps: Vec<i64> = kafka.read("paced").iter().map(|record| record.timestamp.unwrap()).collect();
    let since: Vec<i64> = stamps.iter().map(|stamp| stamp - begin).collect();
    assert_eq!(stamps.len(), 5);
    // Half a second per minute; on a busy machine any may be late, the first too, but none early. Stamps count whole
    // milliseconds.
    for (at, wanted) in since.iter().zip([0, 500, 1000, 1000, 1500]) {
        assert!(*at >= wanted - 2, "{since:?}");
    }
    write(here, "many.jsonl", (0..3000).map(|n| event(n, 1_700_000_000_000)));
    let begin = Instant::now();
    assert_eq!(published(&produce(here, "many.jsonl --rate 2000/s")), 3000);
    assert!(begin.elapsed() >= Duration::from_millis(1499), "it took {:?}", begin.elapsed());
    let stamps: Vec<i64> = kafka.read("paced")[5..].iter().map(|record| record.timestamp.unwrap()).collect();
    let first_half = stamps.partition_point(|stamp| *stamp < stamps[0] + 750);
    // 1500 if the first left in time; the pace does not wait for one that was late.
    assert!((1..=2200).contains(&first_half), "{first_half} of 3000 in the first half of the time");
    for wrong in ["--rate 0", "--rate fast", "--speed 0", "--speed -1"] {
        refused(&produce(here, &format!("many.jsonl {wrong}")), 2, &[]);
    }
    // The embedded log keeps the pace as well.
    std::fs::write(here.join("log.toml"), "[source]\nkind = \"log\"\n").unwrap();
    let begin = Instant::now();
    assert_eq!(published(&produce(here, "slow.jsonl --speed 180 --config log.toml")), 5);
    assert!(begin.elapsed() >= Duration::from_millis(999), "it took {:?}", begin.elapsed());
    let no_topic = produce(here, "slow.jsonl --create-topic --partitions 2 --config log.toml");
    refused(&no_topic, 2, &["--create-topic", "`default`"]);
}

#[test]
fn kafka_produce_says_that_the_brokers_are_away() {
    if skipped("kafka_produce_says_that_the_brokers_are_away") {
        return;
    }
    let kafka = Kafka::start();
    kafka.create_topic("gone", 1, &[]);
    let folder = folder(&kafka, "gone");
    write(folder.path(), "events.jsonl", (0..10).map(|n| event(n, 1_700_000_000_000)));
    kafka.kill();
    refused(&produce(folder.path(), "events.jsonl"), 3, &[&kafka.address()]);
}
