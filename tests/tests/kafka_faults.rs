//! What can go wrong around a running job, with a real broker: the broker away, the topic not what it was, records
//! that no one can read, stores that are full, damaged or refuse. After each the rest has gone on, and everything is
//! checked against the topic.
//!
//! `PLUMB_TEST_FULL=1` makes outages as long as reliability.md asks for.

use plumb_testing::archive;
use plumb_testing::checker::{self, Left, Truth};
use plumb_testing::reader::Reader;
use plumb_testing::service::kafka::{Kafka, Sent, Stored};
use plumb_testing::service::proxy::{Fault, Proxy};
use plumb_testing::service::redis::Redis;
use plumb_testing::service::s3::S3;
use plumb_testing::service::{eventually, skipped, within};
use plumb_testing::stream::{Bucket, Online, Stream, careless, generated, questions, record};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

fn full() -> bool {
    std::env::var_os("PLUMB_TEST_FULL").is_some()
}

fn online() -> Online {
    Online::Redis(Redis::shared().clone())
}

fn job(partitions: i32) -> Stream {
    Stream::new(Kafka::shared().clone(), online(), partitions)
}

fn position(job: &Stream) -> u64 {
    job.committed().values().sum()
}

#[test]
fn kafka_away_and_hung_and_back() {
    if skipped("kafka_away_and_hung_and_back") {
        return;
    }
    let away = Duration::from_secs(if full() { 70 } else { 8 });
    let kafka = Arc::new(Kafka::start_with_proxy());
    let lines = generated(20_000, 150, 60, 21);
    let mut job = Stream::new(kafka.clone(), online(), 4);
    job.brokers = kafka.proxy().address();
    let records = careless(&lines, 1);
    let (early, rest) = records.split_at(records.len() / 2);
    let (late, last) = rest.split_at(rest.len() - 200);
    let mut member = job.start("a");
    let reader = Reader::start(vec![member.address.clone()], questions(&lines));
    let feeder = job.feed(early.to_vec(), 2000);
    feeder.wait_for(4000);
    kafka.kill();
    // The outage itself, in which answers go on.
    std::thread::sleep(away);
    member.must_live();
    kafka.restart();
    feeder.finish();
    let before = position(&job);
    let feeder = job.feed(late.to_vec(), 2000);
    eventually("commits after the broker has come back", || {
        member.must_live();
        (position(&job) > before).then_some(())
    });
    // The same with connections that stay open and say nothing for a while, and are then reset.
    kafka.proxy().set(Fault::BlackHole);
    job.send(last[..100].to_vec());
    std::thread::sleep(away / 2);
    let hits = kafka.proxy().counts().hits;
    let before = position(&job);
    kafka.proxy().set(Fault::Reset);
    eventually("connections reset", || (kafka.proxy().counts().hits > hits).then_some(()));
    kafka.proxy().set(Fault::None);
    eventually("commits after the resets", || {
        member.must_live();
        (position(&job) > before).then_some(())
    });
    feeder.finish();
    job.drain(&mut [&mut member]);
    // And with connections that nobody ends and nothing answers any more: such a peer is not waited for a minute, as
    // librdkafka would by itself.
    let hits = kafka.proxy().counts().hits;
    kafka.proxy().set(Fault::Forgotten);
    eventually("connections forgotten", || (kafka.proxy().counts().hits > hits).then_some(()));
    let before = position(&job);
    job.send(last[100..].to_vec());
    within(Duration::from_secs(45), "commits over new connections", || (position(&job) == before + 100).then_some(()));
    let (truth, compared) = job.check(&mut [&mut member]);
    let met = reader.end(&truth, true);
    println!("{compared:?} {met:?}");
    assert!(met.found > 1000 && (met.broken, met.refused, met.rebuilding) == (0, 0, 0), "{met:?}");
    assert!(met.longest_silence_ms < 1000, "answers did not go on: {met:?}");
}

#[test]
fn kafka_topic_made_anew_is_refused() {
    if skipped("kafka_topic_made_anew_is_refused") {
        return;
    }
    let job = job(2);
    let lines = generated(2000, 50, 20, 22);
    job.send(lines.iter().map(|line| record(line)));
    let mut member = job.start("a");
    job.drain(&mut [&mut member]);
    assert_eq!(member.service.terminate(), Some(0));
    let before = job.committed();
    for records in [100, 2000] {
        job.kafka.delete_topic(&job.topic);
        job.kafka.create_topic(&job.topic, 2, &[]);
        // Fewer records than were read, and as many: offsets alone would look right.
        job.send(lines.iter().take(records).map(|line| record(line)));
        let (code, log) = job.launch("a").wait_for_end(Duration::from_secs(60));
        assert!(matches!(code, Some(2 | 3)), "{code:?} {log}");
        let line = log.lines().rev().find(|line| line.starts_with("plumb: ")).unwrap_or_else(|| panic!("{log}"));
        assert!(line.contains(&job.topic), "{line}");
        assert_eq!(job.committed(), before, "{log}");
    }
}

#[test]
fn kafka_retention_gap_stops_the_job_until_it_is_accepted() {
    if skipped("kafka_retention_gap_stops_the_job_until_it_is_accepted") {
        return;
    }
    let job = job(2);
    let lines = generated(6000, 100, 40, 23);
    let (first, rest) = lines.split_at(2000);
    let (second, third) = rest.split_at(2000);
    job.send(first.iter().map(|line| record(line)));
    let mut member = job.start("a");
    job.drain(&mut [&mut member]);
    assert_eq!(member.service.terminate(), Some(0));
    job.send(second.iter().map(|line| record(line)));
    let ledger = job.records();
    let committed = job.committed();
    let low = committed[&1] + 300;
    job.kafka.delete_records(&job.topic, 1, low as i64);
    let (code, log) = job.launch("a").wait_for_end(Duration::from_secs(60));
    assert!(matches!(code, Some(2 | 3)), "{code:?} {log}");
    let line = log.lines().rev().find(|line| line.starts_with("plumb: ")).unwrap_or_else(|| panic!("{log}"));
    for named in [committed[&1].to_string(), low.to_string(), "--accept-gap".to_owned()] {
        assert!(line.contains(&named), "`{named}` is not in: {line}");
    }
    assert_eq!(job.committed()[&1], committed[&1]);
    let mut member = job.launch_with("a", &[], &["run", "--config", "plumb.toml", "--accept-gap"]);
    member.wait_until_ready();
    job.send(third.iter().map(|line| record(line)));
    job.drain(&mut [&mut member]);
    // What was there and what is there now, without what was lost in between.
    let lost = |record: &Stored| record.partition == 1 && (committed[&1]..low).contains(&(record.offset as u64));
    let mut records: Vec<Stored> = ledger.into_iter().filter(|record| !lost(record)).collect();
    let now = job.records();
    let known: std::collections::BTreeSet<(i32, i64)> = records.iter().map(|r| (r.partition, r.offset)).collect();
    records.extend(now.into_iter().filter(|record| !known.contains(&(record.partition, record.offset))));
    records.sort_by_key(|record| (record.partition, record.offset));
    let truth = Truth::of(&records, 0..2);
    let left = Left {
        offline: &job.offline,
        damaged: &[],
        addresses: &[member.address.clone()],
        online_keys: &|| job.online_keys(),
    };
    checker::check(&truth, &left);
    eventually("the gap in the metrics", || {
        (member.metric("plumb_gap_records_total", "") == Some(300.0)).then_some(())
    });
    let manifest = &checker::newest_manifests(&job.offline)[&1];
    assert_eq!(manifest["gaps"], json!([{"from": committed[&1], "to": low}]), "{manifest}");
}

/// What it is, the record's value, and the reason in its dead letter if it is to have one.
type Poison<'a> = (&'a str, Option<Vec<u8>>, Option<&'a str>);

#[test]
fn kafka_poison_records_end_where_they_should() {
    if skipped("kafka_poison_records_end_where_they_should") {
        return;
    }
    let job = Stream::with_topic(Kafka::shared().clone(), online(), 2, &[("max.message.bytes", "16000000")]);
    let lines = generated(3000, 60, 30, 24);
    let good = |n: usize| record(&lines[n]);
    let event = |id: &str, time: Value| json!({"event_id": id, "event_time": time, "user_id": "u-poison", "item_id": "i-poison", "event_type": "view"});
    let text = |value: String| Some(value.into_bytes());
    let nested = |field: &str, depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        format!("{{\"event_time\":\"2024-01-01T00:00:00Z\",\"event_type\":\"view\",\"{field}\":{open}{close}}}")
    };
    let padded = |id: &str, bytes: usize| {
        let mut large = event(id, json!("2024-01-01T12:00:00Z"));
        large["padding"] = json!("x".repeat(bytes));
        text(large.to_string())
    };
    let poison: Vec<Poison<'_>> = vec![
        ("tombstone", None, Some("without a value")),
        ("no UTF-8", Some(b"{\"event_time\":\"2024-01-01T00:00:00Z\",\"event_type\":\"\xff\xfe\"}".to_vec()), Some("")),
        ("nothing", Some(Vec::new()), Some("")),
        ("cut JSON", text(lines[0][..40].to_owned()), Some("")),
        ("10 MB that are no JSON", Some(vec![b'x'; 10_000_000]), Some("")),
        ("10 MB", padded("too large", 10_000_000), Some("longer than")),
        ("8 MB of a field that nobody reads", padded("large", 8_000_000), None),
        ("a JSON bomb", text(nested("price", 100_000)), Some("")),
        ("an open JSON bomb", Some(vec![b'['; 1_000_000]), Some("")),
        ("many keys", text(format!("{{{}\"event_type\":\"view\"}}", "\"a\":1,".repeat(100_000))), Some("event_time")),
        ("seconds as milliseconds", text(event("seconds", json!(1_704_067_200)).to_string()), Some("min_time")),
        ("the year 2100", text(event("future", json!("2100-01-01T00:00:00Z")).to_string()), Some("max_future")),
        ("a negative time", text(event("negative", json!(-1)).to_string()), Some("min_time")),
        ("a time beyond i64", text("{\"event_time\":9223372036854775807,\"event_type\":\"view\"}".into()), Some("")),
        (
            "1e400",
            text("{\"event_time\":\"2024-01-01T00:00:00Z\",\"event_type\":\"view\",\"price\":1e400}".into()),
            Some(""),
        ),
        ("no type", text("{\"event_time\":\"2024-01-01T00:00:00Z\"}".into()), Some("event_type")),
        ("an array", Some(b"[]".to_vec()), Some("")),
    ];
    let mut records: Vec<Sent> = Vec::new();
    for (n, (_, value, _)) in poison.iter().enumerate() {
        records.extend((n * 100..n * 100 + 100).map(good));
        records.push(Sent {
            partition: Some(n as i32 % 2),
            key: Some(b"poison".to_vec()),
            value: value.clone(),
            timestamp: None,
        });
    }
    records.extend((poison.len() * 100..lines.len()).map(good));
    job.send(records);
    let mut member = job.start("a");
    let (truth, _) = job.check(&mut [&mut member]);
    let letters = archive::dead_letters(&job.offline.join("dead_letters/default"));
    let ledger = job.records();
    for (name, value, reason) in &poison {
        let stored: Vec<&Stored> =
            ledger.iter().filter(|r| r.key.as_deref() == Some(b"poison") && r.value == *value).collect();
        assert_eq!(stored.len(), 1, "{name}");
        let at = (stored[0].partition, stored[0].offset);
        let letter = letters.iter().find(|letter| (letter.partition, letter.offset) == at);
        match reason {
            None => assert_eq!(letter, None, "{name}"),
            Some(reason) => {
                let letter = letter.unwrap_or_else(|| panic!("{name} is no dead letter"));
                assert!(letter.reason.contains(reason), "{name}: {}", letter.reason);
                let value = value.clone().unwrap_or_default();
                let kept = value.len().min(64 << 10);
                assert!(
                    letter.bytes.starts_with(&value[..kept]) || letter.bytes == value,
                    "{name}: {} bytes",
                    letter.bytes.len()
                );
            }
        }
    }
    assert_eq!(truth.rejected.len(), poison.len() - 1);
    // A bomb in a field that nobody reads is an event like any other. The oracle's own JSON cannot read it.
    let applied = |manifests: &std::collections::BTreeMap<u32, Value>| manifests[&0]["accounting"]["applied"].as_u64();
    let before = applied(&checker::newest_manifests(&job.offline)).unwrap();
    let value = text(nested("unknown", 100_000));
    job.send([Sent { partition: Some(0), value, ..Sent::default() }]);
    job.drain(&mut [&mut member]);
    assert_eq!(applied(&checker::newest_manifests(&job.offline)), Some(before + 1));
}

/// Fills a file system until nothing more goes in; gives the file to remove.
fn fill(folder: &Path) -> PathBuf {
    use std::io::Write;
    let path = folder.join("ballast");
    let mut file = std::fs::File::create(&path).unwrap();
    let piece = vec![0xa5_u8; 4096];
    while file.write_all(&piece).and_then(|()| file.flush()).is_ok() {}
    path
}

/// A small file system of its own; unmounted when dropped.
struct Small(tempfile::TempDir);

impl Small {
    fn new(size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder.path())
            .status()
            .unwrap();
        assert!(status.success(), "a file system that can be filled needs root: tests with services run as root");
        Self(folder)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: a process that is being killed may still have a file open.
        drop(Command::new("umount").arg("-l").arg(self.0.path()).status());
    }
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n")
}

#[test]
fn kafka_with_a_full_disk_waits_for_space() {
    if skipped("kafka_with_a_full_disk_waits_for_space") {
        return;
    }
    if !is_root() {
        println!("a file system that can be filled needs root: left out");
        return;
    }
    let lines = generated(12_000, 100, 40, 25);
    let small = Small::new("24m");
    let mut job = job(2);
    job.offline = small.0.path().join("offline");
    std::fs::create_dir(&job.offline).unwrap();
    let mut member = job.start("a");
    let reader = Reader::start(vec![member.address.clone()], questions(&lines));
    let feeder = job.feed(careless(&lines, 2), 2000);
    eventually("the first commits", || (position(&job) > 1000).then_some(()));
    let ballast = fill(small.0.path());
    eventually("a commit that fails for want of space", || {
        member.must_live();
        (member.metric("plumb_commit_failures_total", "") > Some(0.0)).then_some(())
    });
    feeder.finish();
    member.must_live();
    std::fs::remove_file(ballast).unwrap();
    let (truth, compared) = job.check(&mut [&mut member]);
    let met = reader.end(&truth, true);
    println!("{compared:?} {met:?}");
    assert!(met.found > 100 && (met.broken, met.refused, met.rebuilding) == (0, 0, 0), "{met:?}");
}

#[test]
fn kafka_goes_on_after_damage_to_a_checkpoint() {
    if skipped("kafka_goes_on_after_damage_to_a_checkpoint") {
        return;
    }
    let job = job(1);
    let lines = generated(6000, 80, 40, 26);
    let parts: Vec<&[String]> = lines.chunks(1500).collect();
    for (round, part) in parts.iter().enumerate() {
        job.send(part.iter().map(|line| record(line)));
        let mut member = job.start("a");
        job.drain(&mut [&mut member]);
        assert_eq!(member.service.terminate(), Some(0));
        let manifest = checker::newest_manifests(&job.offline)[&0].clone();
        let list = if round == 2 { "ids" } else { "state" };
        let files = manifest[list].as_array().unwrap();
        let path = job.offline.join(files.last().unwrap()["path"].as_str().unwrap());
        let mut bytes = std::fs::read(&path).unwrap();
        match round {
            0 => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0x10;
                std::fs::write(&path, bytes).unwrap();
            }
            1 => std::fs::write(&path, &bytes[..bytes.len() - 7]).unwrap(),
            2 => {
                bytes[3] ^= 1;
                std::fs::write(&path, bytes).unwrap();
            }
            // The last one is left as it is, so that the check sees what the damage before it has become.
            _ => {}
        }
    }
    let mut member = job.start("a");
    job.check(&mut [&mut member]);
    assert_eq!(member.service.terminate(), Some(0));
    // A damaged manifest commits nothing: the one before it holds, and what came after is read again.
    let folder = job.offline.join("manifest/default/0");
    let mut chain: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    chain.sort();
    let newest = chain.pop().unwrap();
    let bytes = std::fs::read(&newest).unwrap();
    std::fs::write(&newest, &bytes[..bytes.len() / 2]).unwrap();
    let mut member = job.start("a");
    job.send(lines[..100].iter().map(|line| record(line)));
    eventually("a commit after it", || {
        member.must_live();
        let newest_now = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).max()?;
        (newest_now > newest).then_some(())
    });
    job.check_but(&mut [&mut member], &[newest]);
}

#[test]
fn kafka_to_s3_that_fails_for_a_while() {
    if skipped("kafka_to_s3_that_fails_for_a_while") {
        return;
    }
    let outage = Duration::from_secs(if full() { 600 } else { 5 });
    let s3 = S3::shared().clone();
    let proxy = Proxy::start(s3.address());
    let lines = generated(6000, 80, 40, 27);
    let mut job = job(2);
    job.bucket = Some(Bucket {
        s3,
        endpoint: format!("http://{}", proxy.address()),
        name: "plumb".into(),
        prefix: job.topic.clone(),
    });
    job.run_lines = "publish_interval = \"30ms\"\ncommit_interval = \"500ms\"\n".into();
    let mut member = job.start("a");
    let reader = Reader::start(vec![member.address.clone()], questions(&lines));
    let feeder = job.feed(careless(&lines, 3), 400);
    eventually("the first commits", || (position(&job) > 300).then_some(()));
    // Errors, silence, and answers that are lost after the work was done.
    for fault in [Fault::Status(503), Fault::Status(500), Fault::BlackHole, Fault::CutToClient(0)] {
        let before = proxy.counts().hits;
        proxy.set(fault.clone());
        std::thread::sleep(if fault == Fault::Status(503) { outage } else { Duration::from_secs(2) });
        eventually(&format!("a request that met {fault:?}"), || {
            member.must_live();
            (proxy.counts().hits > before).then_some(())
        });
        proxy.set(Fault::None);
        let before = position(&job);
        if feeder.sent() < lines.len() as u64 {
            eventually("commits after it", || {
                member.must_live();
                (position(&job) > before).then_some(())
            });
        }
    }
    feeder.finish();
    let (truth, compared) = job.check(&mut [&mut member]);
    let met = reader.end(&truth, true);
    println!("{compared:?} {met:?}");
    assert!(met.found > 100 && (met.broken, met.refused, met.rebuilding) == (0, 0, 0), "{met:?}");
}
