//! Steady load: freshness, then kill -9 and recovery.

use crate::{PARTITIONS, Result, figures, metrics_text, now_us, process, settings, spawn, until};
use plumb_pipeline::query::Position;
use plumb_testing::process::request;
use plumb_testing::service::kafka::Kafka;
use plumb_testing::service::redis::Redis;
use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The first seconds are those of an empty state.
const WARM_UP: Duration = Duration::from_secs(5);

/// One record in so many is looked for.
const SAMPLED: i64 = 16;

/// The metric of records that were read and accounted for.
const RECORDS: &str = "plumb_records_total";

#[expect(clippy::print_stdout, reason = "a bench prints its figures")]
pub(crate) fn run(kafka: &Kafka, lines: &[(Vec<u8>, Vec<u8>)], rate: u64, duration: Duration) -> Result<()> {
    let (dir, redis) = (tempfile::tempdir()?, Redis::start());
    kafka.create_topic("live", PARTITIONS, &[]);
    let settings = settings(dir.path(), kafka, &redis, "live")?;
    let text = std::fs::read_to_string(&settings)?;
    let address = |name: &str| -> Result<String> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
        Ok(line.ok_or("no address")?.trim_matches('"').to_owned())
    };
    let (listen, metrics) = (address("listen")?, address("metrics_listen")?);
    let mut child = spawn(&settings, &[])?;
    until(|| consumed(&metrics).is_some())?;
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.address()).set("linger.ms", "5").set("partitioner", "murmur2_random");
    let producer: ThreadedProducer<Deliveries> = config.create_with_context(Deliveries::default())?;
    let (stop, user) = (AtomicBool::new(false), String::from_utf8_lossy(&lines[0].0).into_owned());
    std::thread::scope(|scope| -> Result<()> {
        let sender = scope.spawn(|| send(&producer, lines, rate, &stop).map_err(|error| error.to_string()));
        let measured = (|| {
            std::thread::sleep(WARM_UP);
            let pid = child.id().to_string();
            let (begin, began) = (Instant::now(), now_us() / 1000);
            let (threads, cpu, before) =
                (threads(&pid)?, process(&pid)?.cpu, metrics_text(&metrics).ok_or("no metrics")?);
            let mut seen = Vec::new();
            while begin.elapsed() < duration {
                seen.push(look(&listen, &user)?);
                std::thread::sleep(Duration::from_millis(1));
            }
            let ended = now_us() / 1000;
            let (cpu, after) = (process(&pid)?.cpu - cpu, metrics_text(&metrics).ok_or("no metrics")?);
            let seconds = begin.elapsed().as_secs_f64();
            // Those of the last second may still be on their way.
            let sent = producer.context().take();
            let sent: Vec<Delivered> = sent.into_iter().filter(|record| record.time_ms >= began).collect();
            let per_second = sent.len() as f64 * SAMPLED as f64 / seconds;
            println!(
                "\n{rate} events/s ({per_second:.0} came about) for {seconds:.0} s, {:.2} cores of plumb:",
                cpu / seconds
            );
            for (name, cpu) in self::threads(&pid)? {
                let share = (cpu - threads.get(&name).copied().unwrap_or(0.0)) / seconds;
                if share >= 0.005 {
                    println!("  {share:5.2} cores in threads {name}");
                }
            }
            for (what, name) in [
                ("extract and finalize in the guests", "plumb_guest_seconds_total"),
                ("publishing, the wait for Redis among it", "plumb_publish_duration_seconds_sum"),
                ("commits, beside the loop", "plumb_commit_duration_seconds_sum"),
            ] {
                println!("  {:5.2} s per second: {what}", (sum(&after, name) - sum(&before, name)) / seconds);
            }
            let settled: Vec<&Delivered> = sent.iter().filter(|record| record.time_ms < ended - 1000).collect();
            println!("  readable within: {} ({} answers looked at)", ages(&settled, &seen), seen.len());

            let had = consumed(&metrics).unwrap_or(0.0);
            child.kill()?;
            child.wait()?;
            let killed = Instant::now();
            child = spawn(&settings, &[])?;
            // Before it begins to read, it shows what the last commit had read of a partition.
            let first: Cell<Option<f64>> = Cell::new(None);
            until(|| {
                let read = metrics_text(&metrics).filter(|text| values(text, RECORDS).count() == PARTITIONS as usize);
                let read = read.map(|text| sum(&text, RECORDS));
                first.set(first.get().or(read));
                read > first.get()
            })?;
            let reading = killed.elapsed().as_secs_f64();
            until(|| consumed(&metrics).is_some_and(|records| records > had))?;
            let again = killed.elapsed().as_secs_f64();
            println!(
                "kill -9 under that load: all partitions taken over and reading after {reading:.2} s, all of them live and \
                 beyond where they were after {again:.2} s"
            );
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        let sent = sender.join().map_err(|_| "the producer panicked")?;
        child.kill()?;
        child.wait()?;
        sent?;
        measured
    })
}

/// A record that the broker has taken.
struct Delivered {
    partition: u32,
    offset: u64,
    /// Its timestamp.
    time_ms: i64,
}

/// Keeps which records the broker has taken, one in [`SAMPLED`].
#[derive(Default)]
struct Deliveries(Mutex<Vec<Delivered>>);

impl Deliveries {
    fn take(&self) -> Vec<Delivered> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _: ()) {
        if let Ok(message) = result
            && message.offset() % SAMPLED == 0
            && let Some(time_ms) = message.timestamp().to_millis()
        {
            let (partition, offset) = (message.partition().unsigned_abs(), message.offset().unsigned_abs());
            let delivered = Delivered { partition, offset, time_ms };
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(delivered);
        }
    }
}

/// Sends lines at a steady rate, over and over, each time under new ids and the present time.
fn send(
    producer: &ThreadedProducer<Deliveries>,
    lines: &[(Vec<u8>, Vec<u8>)],
    rate: u64,
    stop: &AtomicBool,
) -> Result<()> {
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
    }
    Ok(producer.flush(Duration::from_secs(30))?)
}

/// An answer: when it was there (ms since 1970), and the offsets it holds.
struct Seen {
    time_ms: i64,
    offsets: BTreeMap<u32, u64>,
}

/// Reads a user's features.
fn look(address: &str, user: &str) -> Result<Seen> {
    let (status, body) = request(address, "GET", &format!("/features/user/{user}"), b"")?;
    let time_ms = now_us() / 1000;
    if status != 200 {
        return Err(format!("the service answers {status}: {body}").into());
    }
    let body: serde_json::Value = serde_json::from_str(&body)?;
    let position = Position::parse(body["position"].as_str().ok_or("an answer without a position")?)?;
    Ok(Seen { time_ms, offsets: position.source("default")?.clone() })
}

/// How old records were at the first answer that held them.
fn ages(sent: &[&Delivered], seen: &[Seen]) -> String {
    let mut ages = Vec::with_capacity(sent.len());
    let mut missing = 0;
    for record in sent {
        let holds = |seen: &Seen| seen.offsets.get(&record.partition).is_some_and(|next| *next > record.offset);
        // Positions only grow.
        match seen.get(seen.partition_point(|seen| !holds(seen))) {
            Some(first) => ages.push(first.time_ms - record.time_ms),
            None => missing += 1,
        }
    }
    ages.sort_unstable();
    let at = |share: f64| ages.get((ages.len() as f64 * share) as usize).or(ages.last()).copied().unwrap_or(-1);
    let (p50, p99, p999, most) = (at(0.5), at(0.99), at(0.999), at(1.0));
    format!("p50 {p50} ms, p99 {p99} ms, p99.9 {p999} ms, at most {most} ms; {} records, {missing} never", ages.len())
}

/// The records the process has read, once all partitions are live.
fn consumed(address: &str) -> Option<f64> {
    let text = metrics_text(address)?;
    (values(&text, "plumb_partition_live").count() == PARTITIONS as usize
        && values(&text, "plumb_partition_live").all(|live| live == 1.0))
    .then(|| sum(&text, RECORDS))
}

fn values<'a>(metrics: &'a str, name: &'a str) -> impl Iterator<Item = f64> + 'a {
    let of_name = move |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    metrics.lines().filter(of_name).filter_map(|line| line.rsplit_once(' ')?.1.parse().ok())
}

fn sum(metrics: &str, name: &str) -> f64 {
    values(metrics, name).sum()
}

/// The processor time of a process's threads so far in seconds, by their names without numbers.
fn threads(pid: &str) -> Result<BTreeMap<String, f64>> {
    let mut threads = BTreeMap::new();
    for entry in std::fs::read_dir(Path::new("/proc").join(pid).join("task"))? {
        // A thread may have ended meanwhile.
        if let Ok(figures) = figures(&entry?.path()) {
            let name = figures.name.trim_end_matches(|c: char| c == '-' || c.is_ascii_digit()).to_owned();
            *threads.entry(name).or_default() += figures.cpu;
        }
    }
    Ok(threads)
}
