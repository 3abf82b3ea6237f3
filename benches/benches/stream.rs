//! What does the whole stream cost, from a real Kafka broker to a real Redis and the Parquet archive? How fresh is it
//! at half of that load, and how soon does it go on after kill -9?
//!
//! - *Throughput*: `plumb run --until-end` over a full topic with both shipped views, beside a program of one thread
//!   that consumes the same topic, decodes the same JSON and writes the same archive files, and does nothing else.
//! - *Freshness*: `plumb run` while a producer keeps a steady rate; the histogram it exposes says how long a record
//!   took from its timestamp to being readable.
//! - *Recovery*: that process killed under the same load and started again; the time until it has consumed records.
//!
//! `cargo bench --workspace --bench stream [-- EVENTS [RATE [SECONDS]]]`: events of the first part (1,000,000), records
//! per second of the others (half of what one core was measured to do), and for how long (20). 12 partitions.

use plumb_core::event::{EventBatch, SourceSchema};
use plumb_offline_parquet::ParquetArchive;
use plumb_pipeline::decode::json::{JsonDecoder, Record};
use plumb_pipeline::decode::time::TimeUnit;
use plumb_pipeline::port::{Archive, SourceBatch};
use plumb_source_file::{GenerateOptions, generate};
use plumb_store_object::LocalStore;
use plumb_testing::process::{component, plumb, request};
use plumb_testing::service::kafka::{Kafka, Sent};
use plumb_testing::service::redis::Redis;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The allocator of the `plumb` binary, for the program beside it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PARTITIONS: i32 = 12;
const DAY_US: i64 = 86_400_000_000;
/// As `run.commit_size`: the memory of a partition's events that the plain program writes at a time, in events.
const FLUSH_EVENTS: usize = 262_144;

#[expect(clippy::print_stdout, reason = "a bench prints its figures")]
fn main() -> Result<()> {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<u64>().ok());
    let events = numbers.next().unwrap_or(1_000_000);
    let rate = numbers.next();
    let seconds = numbers.next().unwrap_or(20);
    let kafka = Kafka::start();
    let lines = lines(events)?;
    let bytes: usize = lines.iter().map(|(_, line)| line.len()).sum();
    kafka.create_topic("full", PARTITIONS, &[]);
    let sent = |(key, line): &(Vec<u8>, Vec<u8>)| Sent {
        key: Some(key.clone()),
        value: Some(line.clone()),
        ..Sent::default()
    };
    kafka.produce("full", lines.iter().map(sent));

    println!("{events} events of {} bytes in {PARTITIONS} partitions:", bytes / lines.len().max(1));
    println!("{:54} {:>8} {:>8} {:>12} {:>14}", "", "s wall", "s CPU", "events/s", "per core (CPU)");
    let print = |name: &str, (wall, cpu): (f64, f64)| {
        println!("{name:54} {wall:8.2} {cpu:8.2} {:12.0} {:14.0}", events as f64 / wall, events as f64 / cpu);
    };
    let plain = plain(&kafka, events)?;
    print("consume, decode, write Parquet; one thread, no more", plain);
    let whole = whole(&kafka)?;
    print("plumb run: both views, Redis, Parquet, commits", whole);
    println!("throughput per core, plumb / plain: {:.2}; wall: {:.2}", plain.1 / whole.1, plain.0 / whole.0);

    let rate = rate.unwrap_or((events as f64 / whole.1 / 2.0) as u64);
    fresh(&kafka, &lines, rate, Duration::from_secs(seconds))
}

/// Events of two days up to now as JSON lines with their keys.
fn lines(events: u64) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("events.jsonl");
    let start_us = now_us() - 2 * DAY_US;
    let (users, items) = (events / 100 + 1, events / 500 + 1);
    generate(&GenerateOptions { events, users, items, days: 2, seed: 7, start_us }, &path, &mut |_| {})?;
    let text = std::fs::read(&path)?;
    let mut lines = Vec::with_capacity(usize::try_from(events)?);
    for line in text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let event: serde_json::Value = serde_json::from_slice(line)?;
        let key = event["user_id"].as_str().or(event["event_id"].as_str()).unwrap_or_default();
        lines.push((key.as_bytes().to_vec(), line.to_vec()));
    }
    Ok(lines)
}

/// One thread: poll, decode to columns, write the archive's files. Seconds of wall clock and of processor.
fn plain(kafka: &Kafka, events: u64) -> Result<(f64, f64)> {
    let dir = tempfile::tempdir()?;
    let archive = ParquetArchive::new(Arc::new(LocalStore::open(dir.path().join("offline"))?));
    let schema = Arc::new(SourceSchema::default_schema());
    let (wall, cpu) = (Instant::now(), cpu_seconds("self")?);
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.address()).set("group.id", "none").set("enable.auto.commit", "false");
    config.set("check.crcs", "true");
    let consumer: BaseConsumer = config.create()?;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        assignment.add_partition_offset("full", partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let mut decoder = JsonDecoder::new(schema.clone(), TimeUnit::Ms);
    let mut batches: BTreeMap<i32, SourceBatch> = BTreeMap::new();
    let (mut read, mut files) = (0, 0);
    let mut write = |partition: i32, batch: SourceBatch| -> Result<()> {
        files += 1;
        archive.stage(u32::try_from(partition)?, &format!("{partition}-1-{files}"), &[batch.events])?;
        Ok(())
    };
    while read < events {
        let Some(message) = consumer.poll(Duration::from_secs(10)) else { return Err("the topic ends early".into()) };
        let message = message?;
        let batch = batches.entry(message.partition()).or_insert_with(|| SourceBatch {
            events: EventBatch::new(schema.clone()),
            rejected: Vec::new(),
            next_offset: 0,
        });
        let record = Record {
            offset: u64::try_from(message.offset())?,
            record_time_us: message.timestamp().to_millis().unwrap_or(0) * 1000,
            bytes: message.payload().unwrap_or_default(),
        };
        decoder.decode_into(batch, record);
        read += 1;
        if batch.events.len() >= FLUSH_EVENTS {
            let full = batches.remove(&message.partition()).ok_or("a batch has just been filled")?;
            write(message.partition(), full)?;
        }
    }
    batches.into_iter().try_for_each(|(partition, batch)| write(partition, batch))?;
    Ok((wall.elapsed().as_secs_f64(), cpu_seconds("self")? - cpu))
}

fn settings(folder: &Path, kafka: &Kafka, redis: &Redis, topic: &str) -> Result<PathBuf> {
    let views = ["user_activity", "item_activity"].map(|view| format!("{:?}", component(view).display().to_string()));
    let text = format!(
        "data_dir = {data:?}\n[source]\nkind = \"kafka\"\nbrokers = {brokers:?}\ntopic = {topic:?}\ngroup = {topic:?}\n\
         [transforms]\npaths = [{views}]\n[online]\nurl = {redis:?}\nnamespace = {topic:?}\n\
         [offline]\nurl = {offline:?}\n[serve]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n\
         metrics_listen = \"127.0.0.1:{metrics}\"\n[run]\nserve = true\n",
        data = folder.join("data").display().to_string(),
        brokers = kafka.address(),
        views = views.join(", "),
        redis = redis.url(),
        offline = format!("file:{}", folder.join("offline").display()),
        metrics = plumb_testing::service::free_port(),
    );
    let path = folder.join("plumb.toml");
    std::fs::write(&path, text)?;
    Ok(path)
}

fn spawn(settings: &Path, arguments: &[&str]) -> Result<Child> {
    let mut command = Command::new(plumb());
    command.arg("run").arg("--config").arg(settings).args(arguments).stdout(Stdio::null());
    Ok(command.spawn()?)
}

/// `plumb run --until-end` over the full topic. Seconds of wall clock and of processor, start and end included.
fn whole(kafka: &Kafka) -> Result<(f64, f64)> {
    let (dir, redis) = (tempfile::tempdir()?, Redis::start());
    let settings = settings(dir.path(), kafka, &redis, "full")?;
    let wall = Instant::now();
    let mut child = spawn(&settings, &["--until-end", "--no-serve"])?;
    let pid = child.id().to_string();
    // A process that has ended keeps its figures until it is waited for.
    let cpu = loop {
        let (state, cpu) = process(&pid)?;
        if state == 'Z' {
            break cpu;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let wall = wall.elapsed().as_secs_f64();
    match child.wait()?.success() {
        true => Ok((wall, cpu)),
        false => Err("plumb run failed".into()),
    }
}

/// Steady load: freshness, then kill -9 and recovery.
#[expect(clippy::print_stdout, reason = "a bench prints its figures")]
fn fresh(kafka: &Kafka, lines: &[(Vec<u8>, Vec<u8>)], rate: u64, duration: Duration) -> Result<()> {
    let (dir, redis) = (tempfile::tempdir()?, Redis::start());
    kafka.create_topic("live", PARTITIONS, &[]);
    let settings = settings(dir.path(), kafka, &redis, "live")?;
    let text = std::fs::read_to_string(&settings)?;
    let metrics = text.lines().find_map(|line| line.strip_prefix("metrics_listen = ")).ok_or("no metrics address")?;
    let metrics = metrics.trim_matches('"').to_owned();
    let mut child = spawn(&settings, &[])?;
    until(|| consumed(&metrics).is_some())?;
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| -> Result<()> {
        let producer = scope.spawn(|| load(&kafka.address(), lines, rate, &stop, &sent).map_err(|e| e.to_string()));
        let measured = (|| {
            // The first seconds are those of an empty state.
            std::thread::sleep(Duration::from_secs(5));
            let (before, cpu) = (histogram(&metrics)?, process(&child.id().to_string())?.1);
            std::thread::sleep(duration);
            let after = histogram(&metrics)?;
            let cpu = process(&child.id().to_string())?.1 - cpu;
            let counts: Vec<(f64, f64)> = after
                .iter()
                .map(|(bound, count)| {
                    (*bound, count - before.iter().find(|(b, _)| b == bound).map_or(0.0, |(_, c)| *c))
                })
                .collect();
            println!(
                "\n{rate} events/s for {} s ({:.2} cores of plumb):",
                duration.as_secs(),
                cpu / duration.as_secs_f64()
            );
            println!(
                "fresh within: p50 {}, p99 {}, p99.9 {}",
                quantile(&counts, 0.5),
                quantile(&counts, 0.99),
                quantile(&counts, 0.999)
            );

            let had = consumed(&metrics).unwrap_or(0.0);
            child.kill()?;
            child.wait()?;
            let killed = Instant::now();
            child = spawn(&settings, &[])?;
            until(|| consumed(&metrics).is_some())?;
            let live = killed.elapsed().as_secs_f64();
            until(|| consumed(&metrics).is_some_and(|records| records > had))?;
            let again = killed.elapsed().as_secs_f64();
            println!(
                "kill -9 under that load: following all partitions after {live:.2} s, beyond where it was after {again:.2} s"
            );
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        let produced = producer.join().map_err(|_| "the producer panicked")?;
        child.kill()?;
        child.wait()?;
        produced?;
        measured
    })
}

/// Sends lines at a steady rate, over and over, each time under new ids and the present time.
fn load(brokers: &str, lines: &[(Vec<u8>, Vec<u8>)], rate: u64, stop: &AtomicBool, sent: &AtomicU64) -> Result<()> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("linger.ms", "5").set("partitioner", "murmur2_random");
    let producer: ThreadedProducer<DefaultProducerContext> = config.create()?;
    let start = Instant::now();
    for (number, (key, line)) in (0u64..).zip(lines.iter().cycle()) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let due = Duration::from_secs_f64(number as f64 / rate as f64);
        if let Some(wait) = due.checked_sub(start.elapsed()).filter(|wait| *wait > Duration::from_millis(1)) {
            std::thread::sleep(wait);
        }
        let mut event: serde_json::Value = serde_json::from_slice(line)?;
        event["event_id"] = format!("live-{number}").into();
        event["event_time"] = (now_us() / 1000).into();
        let value = serde_json::to_vec(&event)?;
        let mut record = BaseRecord::to("live").key(key.as_slice()).payload(value.as_slice());
        while let Err((error, back)) = producer.send(record) {
            if !matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) {
                return Err(error.into());
            }
            producer.flush(Duration::from_millis(20)).ok();
            record = back;
        }
        sent.store(number + 1, Ordering::Relaxed);
    }
    Ok(producer.flush(Duration::from_secs(30))?)
}

/// Waits for something to come true.
fn until(ready: impl Fn() -> bool) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(60);
    while !ready() {
        if Instant::now() > end {
            return Err("it did not happen within a minute".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn metrics_text(address: &str) -> Option<String> {
    request(address, "GET", "/metrics", b"").ok().filter(|(status, _)| *status == 200).map(|(_, text)| text)
}

/// The records the process has read, once all partitions are live.
fn consumed(address: &str) -> Option<f64> {
    let text = metrics_text(address)?;
    let values = |name: &str| -> Vec<f64> {
        let lines = text.lines().filter(|line| line.starts_with(name) && !line.starts_with('#'));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse().ok()).collect()
    };
    let live = values("plumb_partition_live");
    (live.len() == PARTITIONS as usize && live.iter().all(|live| *live == 1.0))
        .then(|| values("plumb_records_total").iter().sum())
}

/// The freshness histogram: (upper bound in seconds, records within).
fn histogram(address: &str) -> Result<Vec<(f64, f64)>> {
    let text = metrics_text(address).ok_or("no metrics")?;
    let mut counts: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("plumb_freshness_seconds_bucket")) {
        let bound = line.split("le=\"").nth(1).and_then(|rest| rest.split('"').next()).ok_or("no bound")?;
        let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse()? };
        let count: f64 = line.rsplit_once(' ').ok_or("no count")?.1.parse()?;
        counts.entry(f64::to_bits(bound)).or_insert((bound, 0.0)).1 += count;
    }
    Ok(counts.into_values().collect())
}

/// The upper bound under which a share of the records lies.
fn quantile(counts: &[(f64, f64)], share: f64) -> String {
    let all = counts.last().map_or(0.0, |(_, count)| *count);
    match counts.iter().find(|(_, count)| *count >= share * all) {
        _ if all == 0.0 => "(nothing measured)".to_owned(),
        Some((bound, _)) => format!("{:.0} ms", bound * 1000.0),
        None => "beyond the histogram".to_owned(),
    }
}

fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

fn cpu_seconds(pid: &str) -> Result<f64> {
    Ok(process(pid)?.1)
}

/// A process's state and its processor time so far, all threads, in seconds.
fn process(pid: &str) -> Result<(char, f64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').ok_or("no process name")?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    // Fields 14 and 15 of the line, in ticks of 10 ms.
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok((fields[0].chars().next().ok_or("no state")?, ticks as f64 / 100.0))
}
