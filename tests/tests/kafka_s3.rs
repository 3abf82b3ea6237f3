//! A job whose offline store is a bucket: killed at random, refused in the middle of commits, told to do without lost
//! records. All the while somebody lists the bucket and reads what is there, as other programs do.
//!
//! `PLUMB_TEST_FULL=1` kills and refuses ten times as often.

use plumb_testing::archive;
use plumb_testing::checker::{self, Left, Truth};
use plumb_testing::onlooker::Onlooker;
use plumb_testing::reader::Reader;
use plumb_testing::service::kafka::{Kafka, Stored};
use plumb_testing::service::proxy::{Fault, Proxy};
use plumb_testing::service::redis::Redis;
use plumb_testing::service::s3::S3;
use plumb_testing::service::{eventually, skipped, within};
use plumb_testing::stream::{Bucket, Online, Stream, careless, generated, questions, record};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

fn full() -> bool {
    std::env::var_os("PLUMB_TEST_FULL").is_some()
}

/// A job with its store in a bucket behind `endpoint`, or the server itself.
fn job(partitions: i32, endpoint: Option<String>) -> Stream {
    let mut job = Stream::new(Kafka::shared().clone(), Online::Redis(Redis::shared().clone()), partitions);
    let s3 = S3::shared().clone();
    let endpoint = endpoint.unwrap_or_else(|| s3.endpoint());
    job.bucket = Some(Bucket { s3, endpoint, name: "plumb".into(), prefix: job.topic.clone() });
    job.source_lines += "instance_id = \"a\"\n";
    job
}

fn position(job: &Stream) -> u64 {
    job.committed().values().sum()
}

/// Lists the bucket and reads every row that is there, again and again, until it is dropped or asked.
fn glob(job: &Stream) -> Onlooker {
    let bucket = job.bucket.clone().expect("a job with a bucket");
    // An object under a key never changes: read once.
    let mut rows: BTreeMap<String, Vec<(i32, i64)>> = BTreeMap::new();
    Onlooker::start(Duration::from_millis(20), move || {
        let keys = bucket.s3.list(&bucket.name, &format!("{}/events/", bucket.prefix));
        let mut seen = BTreeSet::new();
        for key in keys {
            let of_file = rows.entry(key).or_insert_with_key(|key| rows_of(&bucket, key));
            for place in of_file {
                assert!(seen.insert(*place), "a listing of the bucket shows {place:?} twice");
            }
        }
        !seen.is_empty()
    })
}

/// Partition and offset of each row of an object.
fn rows_of(bucket: &Bucket, key: &str) -> Vec<(i32, i64)> {
    let bytes = bucket.s3.get(&bucket.name, key).unwrap_or_else(|| panic!("{key} was listed and is gone"));
    let folder = tempfile::tempdir().expect("a folder can be made");
    std::fs::write(folder.path().join("one.parquet"), bytes).expect("a file can be written");
    archive::read(folder.path()).iter().map(|row| (row.partition, row.offset)).collect()
}

#[test]
fn kafka_to_s3_killed_at_random_under_load() {
    if skipped("kafka_to_s3_killed_at_random_under_load") {
        return;
    }
    let rounds = if full() { 60 } else { 6 };
    let lines = generated(rounds * 5000, 100, 40, 61);
    let job = job(3, None);
    let glob = glob(&job);
    let feeder = job.feed(careless(&lines, 4), 600);
    let mut hits = 0;
    for round in 0..rounds {
        let before = position(&job);
        let mut member = job.launch("a");
        within(Duration::from_secs(60), "a commit of the process", || {
            member.must_live();
            (position(&job) != before).then_some(())
        });
        std::thread::sleep(Duration::from_millis(round as u64 * 37 % 230));
        let end: i64 = job.kafka.watermarks(&job.topic).values().map(|(_, end)| end).sum();
        assert!(member.service.ended().is_none(), "round {round}: it ended by itself:\n{}", member.service.log());
        member.service.kill();
        hits += usize::from(position(&job) < end as u64);
    }
    println!("{hits} of {rounds} kills under load");
    assert!(hits * 2 >= rounds, "only {hits} of {rounds} kills met work");
    feeder.end();
    let mut member = job.start("a");
    let (_, compared) = job.check(&mut [&mut member]);
    let looks = glob.end();
    println!("{compared:?}, {looks} looks at the bucket");
    assert!(looks > rounds, "{looks} looks at the bucket");
}

#[test]
fn kafka_to_s3_refused_in_the_middle_of_commits() {
    if skipped("kafka_to_s3_refused_in_the_middle_of_commits") {
        return;
    }
    let rounds = if full() { 120 } else { 12 };
    let proxy = Proxy::start(S3::shared().address());
    let lines = generated(rounds * 2500, 100, 40, 62);
    let mut job = job(3, Some(format!("http://{}", proxy.address())));
    // A commit is nearly always under way.
    job.run_lines = "publish_interval = \"30ms\"\ncommit_interval = \"50ms\"\n".into();
    let mut member = job.start("a");
    let reader = Reader::start(vec![member.address.clone()], questions(&lines));
    let glob = glob(&job);
    let feeder = job.feed(careless(&lines, 6), 300);
    let faults = [Fault::Status(500), Fault::Status(503), Fault::CutToClient(0), Fault::CutToServer(300)];
    for round in 0..rounds {
        let before = position(&job);
        eventually("a commit", || {
            member.must_live();
            (position(&job) > before).then_some(())
        });
        std::thread::sleep(Duration::from_millis(round as u64 * 29 % 120));
        let hits = proxy.counts().hits;
        proxy.set(faults[round % faults.len()].clone());
        eventually("a request that was refused", || {
            member.must_live();
            (proxy.counts().hits > hits).then_some(())
        });
        proxy.set(Fault::None);
    }
    feeder.end();
    let (truth, compared) = job.check(&mut [&mut member]);
    let met = reader.end(&truth, true);
    let looks = glob.end();
    println!("{compared:?} {met:?}, {looks} looks at the bucket, {:?}", proxy.counts());
    assert!(met.found > 100 && (met.broken, met.refused, met.rebuilding) == (0, 0, 0), "{met:?}");
    assert!(looks > rounds, "{looks} looks at the bucket");
    let stopping = Instant::now();
    assert_eq!(member.service.terminate(), Some(0));
    println!("ended in {:?}", stopping.elapsed());
}

#[test]
fn kafka_gap_is_accepted_and_written_down_in_s3() {
    if skipped("kafka_gap_is_accepted_and_written_down_in_s3") {
        return;
    }
    let job = job(1, None);
    let lines = generated(3000, 60, 30, 63);
    job.send(lines[..1000].iter().map(|line| record(line)));
    let mut member = job.start("a");
    job.drain(&mut [&mut member]);
    assert_eq!(member.service.terminate(), Some(0));
    job.send(lines[1000..2000].iter().map(|line| record(line)));
    let kept = job.records();
    let (from, to) = (job.committed()[&0], job.committed()[&0] + 250);
    job.kafka.delete_records(&job.topic, 0, to as i64);
    let (code, log) = job.launch("a").wait_for_end(Duration::from_secs(60));
    assert!(matches!(code, Some(2 | 3)) && log.contains("--accept-gap"), "{code:?} {log}");
    assert_eq!(job.committed()[&0], from, "nothing is committed over a gap that nobody accepted");
    let mut member = job.launch_with("a", &[], &["run", "--config", "plumb.toml", "--accept-gap"]);
    member.wait_until_ready();
    job.send(lines[2000..].iter().map(|line| record(line)));
    job.drain(&mut [&mut member]);
    let lost = |record: &Stored| (from..to).contains(&(record.offset as u64));
    let mut records: Vec<Stored> = kept.into_iter().filter(|record| !lost(record)).collect();
    let newest = records.last().map_or(-1, |record| record.offset);
    records.extend(job.records().into_iter().filter(|record| record.offset > newest));
    job.fetch("");
    let addresses = [member.address.clone()];
    let online_keys = || job.online_keys();
    let left = Left { offline: &job.offline, damaged: &[], addresses: &addresses, online_keys: &online_keys };
    checker::check(&Truth::of(&records, 0..1), &left);
    let gaps = |job: &Stream| checker::newest_manifests(&job.offline)[&0]["gaps"].clone();
    assert_eq!(gaps(&job), json!([{"from": from, "to": to}]));
    eventually("the gap in the metrics", || {
        (member.metric("plumb_gap_records_total", "") == Some(250.0)).then_some(())
    });
    // The next owner keeps it, and needs no leave.
    member.service.kill();
    let mut member = job.start("a");
    job.send(lines[..50].iter().map(|line| record(line)));
    job.drain(&mut [&mut member]);
    assert_eq!(gaps(&job), json!([{"from": from, "to": to}]));
}
