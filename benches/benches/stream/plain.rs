//! The program that plumb is compared with: one thread that polls, decodes to columns and writes the archive's files.

use crate::{PARTITIONS, Result};
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_offline_parquet::ParquetArchive;
use plumb_pipeline::decode::json::{JsonDecoder, Record};
use plumb_pipeline::decode::time::TimeUnit;
use plumb_pipeline::port::{Archive, SourceBatch};
use plumb_store_object::LocalStore;
use plumb_testing::service::kafka::Kafka;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

/// The argument that makes this program of the bench.
pub(crate) const COMMAND: &str = "plain";

/// As `run.commit_size`: the memory of a partition's events that it writes at a time, in events.
const FLUSH_EVENTS: usize = 262_144;

/// Starts it.
pub(crate) fn spawn(kafka: &Kafka, events: u64) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    Ok(command.arg(COMMAND).arg(kafka.address()).arg(events.to_string()).spawn()?)
}

/// It.
pub(crate) fn run(brokers: &str, events: u64) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let archive = ParquetArchive::new(Arc::new(LocalStore::open(dir.path().join("offline"))?));
    let schema = Arc::new(SourceSchema::default_schema());
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "none").set("enable.auto.commit", "false");
    // As fast as it can be: by default it pauses for a second whenever its queue is full.
    config.set("check.crcs", "true").set("fetch.queue.backoff.ms", "1");
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
    batches.into_iter().try_for_each(|(partition, batch)| write(partition, batch))
}
