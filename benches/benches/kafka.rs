//! What does it cost to get events out of a real Kafka broker, and into it? Each figure stands beside another of the
//! same run.
//!
//! - Reading a full topic of one partition, and one of twelve: a bare consumer of `rdkafka` that looks at nothing,
//!   the same with the JSON decoder of the flow, and the source as the workers of `plumb run` drive it, on one thread
//!   and on three.
//! - Writing: what `plumb produce` sends by, acknowledged to the last record.
//!
//! `cargo bench --workspace --bench kafka [-- EVENTS [REPEATS]]`. Every figure is the least of all repeats, which take
//! turns; processor time is that of the whole process, librdkafka's threads too, not the broker's.

use plumb_benches::measure::table;
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_pipeline::accept::AcceptRules;
use plumb_pipeline::decode::json::{JsonDecoder, Record, encode};
use plumb_pipeline::decode::time::TimeUnit;
use plumb_pipeline::port::{PartitionReader, Polled, SinkRecord, Source, SourceBatch};
use plumb_source_file::{FileSource, FileSourceOptions, GenerateOptions, generate};
use plumb_source_kafka::{KafkaOptions, KafkaSettings, KafkaSink, KafkaSource};
use plumb_testing::service::kafka::Kafka;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use std::collections::VecDeque;
use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The allocator of the `plumb` binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const START_US: i64 = 1_735_689_600_000_000;
const NOW_US: i64 = START_US + 400 * 86_400_000_000;
/// The batches of a worker.
const BATCH: usize = 1024;
/// The batches of `plumb produce`, and how many are on their way.
const SENT: usize = 4096;
const FLYING: usize = 8;
const PATIENCE: Duration = Duration::from_secs(60);

#[expect(clippy::print_stdout, reason = "a bench prints its figures")]
fn main() -> Result<()> {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<u64>().ok());
    let events = numbers.next().unwrap_or(1_000_000);
    let repeats = numbers.next().unwrap_or(3);
    let lines = lines(events)?;
    let bytes: usize = lines.iter().map(|(_, line)| line.len()).sum();
    let kafka = Kafka::start();
    println!("{events} events of {} bytes, written:", bytes / lines.len().max(1));
    for partitions in [1, 12] {
        kafka.create_topic(&topic(partitions), partitions, &[]);
        let mut write = || write(&kafka, &topic(partitions), &lines);
        table(events, 1, &mut [(&format!("produce to {partitions} partition(s)"), &mut write)])?;
    }
    drop(lines);
    for partitions in [1, 12] {
        println!("\nread from {partitions} partition(s):");
        let topic = topic(partitions);
        table(
            events,
            repeats,
            &mut [
                ("rdkafka alone", &mut || bare(&kafka, &topic, events, false)),
                ("rdkafka and the JSON decoder", &mut || bare(&kafka, &topic, events, true)),
                ("the source, decoding, one thread", &mut || source(&kafka, &topic, events, 1)),
                ("the source, decoding, three threads", &mut || source(&kafka, &topic, events, 3)),
            ],
        )?;
    }
    Ok(())
}

fn topic(partitions: i32) -> String {
    format!("events-{partitions}")
}

/// Generated events as JSON lines, each with its key.
fn lines(events: u64) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("events.parquet");
    let (users, items) = (events / 500 + 1, events / 20 + 1);
    generate(&GenerateOptions { events, users, items, days: 365, seed: 7, start_us: START_US }, &path, &mut |_| {})?;
    let schema = Arc::new(SourceSchema::default_schema());
    let key = schema.column_of(&schema.key_field).ok_or("the schema has a key")?;
    let options =
        FileSourceOptions { unit: TimeUnit::Ms, rules: AcceptRules::default(), now_us: NOW_US, follow: false };
    let mut reader = FileSource::new(&path, schema, options)?.open(0, 0, None)?;
    let mut lines = Vec::new();
    while let Polled::Batch(batch) = reader.poll(BATCH)? {
        for row in 0..batch.events.len() {
            let mut line = Vec::new();
            encode(&batch.events, row, &mut line);
            lines.push((batch.events.columns[key].str_bytes(row).unwrap_or_default().to_vec(), line));
        }
    }
    Ok(lines)
}

fn settings(kafka: &Kafka, topic: &str) -> KafkaSettings {
    KafkaSettings { brokers: kafka.address(), topic: topic.into(), ..KafkaSettings::default() }
}

/// Writes all lines, some batches on their way at a time.
fn write(kafka: &Kafka, topic: &str, lines: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
    let sink = KafkaSink::new(&settings(kafka, topic), PATIENCE)?;
    let mut flying = VecDeque::new();
    for lines in lines.chunks(SENT) {
        let records: Vec<SinkRecord<'_>> =
            lines.iter().map(|(key, line)| SinkRecord { key: Some(key), bytes: line }).collect();
        flying.push_back(sink.send(&records)?);
        if flying.len() > FLYING
            && let Some(sending) = flying.pop_front()
        {
            sink.wait(sending)?;
        }
    }
    flying.into_iter().try_for_each(|sending| sink.wait(sending).map(drop))?;
    Ok(())
}

/// A consumer of `rdkafka` and nothing else, or the decoder of the flow behind it.
fn bare(kafka: &Kafka, topic: &str, events: u64, decode: bool) -> Result<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka.address())
        .set("group.id", "bare")
        .set("enable.auto.commit", "false")
        // As the source has it, so that both do the same.
        .set("check.crcs", "true")
        .set("isolation.level", "read_committed")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    for partition in kafka.watermarks(topic).into_keys() {
        assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let schema = Arc::new(SourceSchema::default_schema());
    let mut decoder = JsonDecoder::new(schema.clone(), TimeUnit::Ms);
    let empty = || SourceBatch { events: EventBatch::new(schema.clone()), rejected: Vec::new(), next_offset: 0 };
    let mut batch = empty();
    for read in 0..events {
        let message = consumer.poll(PATIENCE).ok_or("nothing comes any more")??;
        let bytes = message.payload().ok_or("a record has no value")?;
        if !decode {
            black_box(bytes);
            continue;
        }
        let record_time_us = message.timestamp().to_millis().unwrap_or(0) * 1_000;
        decoder.decode_into(&mut batch, Record { offset: message.offset().unsigned_abs(), record_time_us, bytes });
        if read % BATCH as u64 == BATCH as u64 - 1 {
            assert!(batch.rejected.is_empty(), "{:?}", batch.rejected.first());
            black_box(std::mem::replace(&mut batch, empty()));
        }
    }
    Ok(())
}

/// The source as workers drive it: each thread polls its partitions in turn.
fn source(kafka: &Kafka, topic: &str, events: u64, threads: usize) -> Result<()> {
    let schema = Arc::new(SourceSchema::default_schema());
    let options = KafkaOptions { until_end: true, ..KafkaOptions::default() };
    let source = KafkaSource::new(settings(kafka, topic), schema, TimeUnit::Ms, AcceptRules::default(), options)?;
    let mut lanes: Vec<Vec<Box<dyn PartitionReader>>> = (0..threads).map(|_| Vec::new()).collect();
    for partition in source.partitions()? {
        lanes[partition as usize % threads].push(source.open(partition, source.start(partition)?, None)?);
    }
    let read = std::thread::scope(|scope| {
        let workers: Vec<_> = lanes.into_iter().map(|lanes| scope.spawn(|| drain(lanes))).collect();
        workers.into_iter().map(|worker| worker.join().expect("no panic")).sum::<plumb_pipeline::Result<u64>>()
    })?;
    assert_eq!(read, events, "every event is read once");
    Ok(())
}

/// Reads partitions to their ends; returns how many events they had.
fn drain(mut readers: Vec<Box<dyn PartitionReader>>) -> plumb_pipeline::Result<u64> {
    let mut read = 0;
    while !readers.is_empty() {
        let mut open = Vec::with_capacity(readers.len());
        for mut reader in readers {
            match reader.poll(BATCH)? {
                Polled::End => continue,
                Polled::Batch(batch) => read += black_box(batch).events.len() as u64,
                Polled::Idle => {}
            }
            open.push(reader);
        }
        readers = open;
    }
    Ok(read)
}
