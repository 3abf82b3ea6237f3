//! The consumer that the records of all partitions of a source come through, each partition by a queue of its own.

use crate::client::{Events, Heard, REQUEST, TOPIC_KNOWN, consumer_config, log, note, number, refused};
use crate::settings::KafkaSettings;
use crate::topic_id::{TopicId, topic_id};
use plumb_pipeline::{Error, Result};
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::{Message, Offset, TopicPartitionList};
use serde::Deserialize;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the topic's id is asked for, to notice that the topic was replaced.
const IDENTITY_INTERVAL: Duration = Duration::from_secs(5);

/// So many answers in a row that there is no such topic mean it: a broker that starts may say so once.
const MISSING_ANSWERS: u32 = 3;

/// How long the thread that serves the client's events waits for one.
const PUMP: Duration = Duration::from_millis(100);

/// What is read ahead of the flow, in KiB: of all partitions together, and of each at least and at most.
const READ_AHEAD_KIB: u32 = 64 << 10;
const READ_AHEAD_OF_ONE_KIB: (u32, u32) = (1 << 10, 16 << 10);

/// The most a broker puts into one answer, unless a single batch of records is larger.
const ANSWER_BYTES: u32 = 4 << 20;

/// Counts what arrives at any queue, so that a thread that reads several partitions in turn does not sleep on one
/// while another grows.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    count: Mutex<u64>,
    changed: Condvar,
}

impl Arrivals {
    /// How many there have been.
    pub(crate) fn count(&self) -> u64 {
        *lock(&self.count)
    }

    /// Waits until there have been others than `seen`, at most `timeout`.
    pub(crate) fn wait(&self, seen: u64, timeout: Duration) {
        let count = lock(&self.count);
        let waited = self.changed.wait_timeout_while(count, timeout, |count| *count == seen);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn bump(&self) {
        *lock(&self.count) += 1;
        self.changed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The context of the consumer of records.
#[derive(Debug, Default)]
pub(crate) struct DataContext {
    topic: String,
    events: Events,
    /// The offset after the newest readable record of each partition that has a reader, as far as is known.
    ends: Mutex<BTreeMap<u32, u64>>,
}

/// What is read of librdkafka's statistics.
#[derive(Deserialize)]
struct Stats {
    brokers: BTreeMap<String, BrokerStats>,
    topics: BTreeMap<String, TopicStats>,
}

#[derive(Deserialize)]
struct BrokerStats {
    state: String,
}

#[derive(Deserialize)]
struct TopicStats {
    partitions: BTreeMap<String, PartitionStats>,
}

#[derive(Deserialize)]
struct PartitionStats {
    fetch_state: String,
    ls_offset: i64,
}

impl ClientContext for DataContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let stats: Stats = match serde_json::from_slice(statistics) {
            Ok(stats) => stats,
            Err(error) => {
                tracing::debug!(%error, "librdkafka's statistics cannot be read");
                return;
            }
        };
        if stats.brokers.values().any(|broker| broker.state == "UP") {
            self.events.answered();
        }
        let of_topic = stats.topics.get(&self.topic).into_iter().flat_map(|topic| &topic.partitions);
        let ends = of_topic
            .filter(|(_, partition)| partition.fetch_state == "active")
            .filter_map(|(id, partition)| Some((id.parse::<u32>().ok()?, u64::try_from(partition.ls_offset).ok()?)));
        *lock(&self.ends) = ends.collect();
    }

    fn error(&self, error: KafkaError, reason: &str) {
        note(&self.events, &error, reason);
    }
}

impl ConsumerContext for DataContext {}

impl Heard for DataContext {
    fn events(&self) -> &Events {
        &self.events
    }
}

/// What is known of the topic's id now.
#[derive(Debug, Default)]
struct Identity {
    id: Option<String>,
    /// Answers in a row that the topic does not exist.
    missing: u32,
}

/// What the thread beside the readers and they share.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    identity: Mutex<Identity>,
    /// Partitions whose records came another way than by their queue: they have to begin again.
    stray: Mutex<BTreeSet<u32>>,
}

/// The consumer, and the thread that serves its events.
pub(crate) struct DataConsumer {
    consumer: Arc<BaseConsumer<DataContext>>,
    topic: String,
    shared: Arc<Shared>,
    arrivals: Arc<Arrivals>,
    pump: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for DataConsumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataConsumer").field("topic", &self.topic).finish_non_exhaustive()
    }
}

/// A partition's records, from [`DataConsumer::begin`] on.
pub(crate) type Queue = PartitionQueue<DataContext>;

impl DataConsumer {
    /// A consumer that reads nothing yet, for a topic of so many partitions. It connects in the background.
    pub(crate) fn new(settings: &KafkaSettings, partitions: u32) -> Result<Self> {
        let context = DataContext { topic: settings.topic.clone(), ..DataContext::default() };
        let (least, most) = READ_AHEAD_OF_ONE_KIB;
        let read_ahead = (READ_AHEAD_KIB / partitions.max(1)).clamp(least, most);
        let mut config = consumer_config(settings)?;
        config
            .set("enable.partition.eof", "true")
            .set("statistics.interval.ms", "1000")
            .set("queued.max.messages.kbytes", read_ahead.to_string())
            // At most so much more than that at a time.
            .set("fetch.message.max.bytes", (read_ahead << 10).min(ANSWER_BYTES).to_string())
            // Of all partitions in one answer, which is held in memory as a whole.
            .set("fetch.max.bytes", ANSWER_BYTES.to_string())
            // A broker answers with at least one record whatever its size; never refuse that.
            .set("receive.message.max.bytes", (1_u32 << 30).to_string())
            .set("fetch.wait.max.ms", "100")
            .set("fetch.error.backoff.ms", "100")
            .set("topic.metadata.refresh.interval.ms", "10000");
        let consumer: Arc<BaseConsumer<DataContext>> = Arc::new(config.create_with_context(context).map_err(refused)?);
        let shared = Arc::new(Shared::default());
        let pump = {
            let (consumer, shared, topic) = (consumer.clone(), shared.clone(), settings.topic.clone());
            std::thread::Builder::new()
                .name("kafka-events".into())
                .spawn(move || pump(&consumer, &topic, &shared))
                .map_err(|error| Error::unavailable("start a thread", error))?
        };
        Ok(Self { consumer, topic: settings.topic.clone(), shared, arrivals: Arc::default(), pump: Some(pump) })
    }

    pub(crate) fn client(&self) -> &Client<DataContext> {
        self.consumer.client()
    }

    pub(crate) fn events(&self) -> &Events {
        &self.client().context().events
    }

    pub(crate) fn arrivals(&self) -> &Arrivals {
        &self.arrivals
    }

    /// The offset after the newest readable record of a partition that has a reader, about a second old while a broker
    /// answers.
    pub(crate) fn end(&self, partition: u32) -> Option<u64> {
        lock(&self.client().context().ends).get(&partition).copied()
    }

    /// The topic's id, asked for now.
    pub(crate) fn identity(&self, timeout: Duration) -> Result<String> {
        let what = || format!("ask Kafka for the id of topic `{}`", self.topic);
        let begin = Instant::now();
        loop {
            match topic_id(self.client(), &self.topic, timeout).map_err(|error| Error::unavailable(what(), error))? {
                TopicId::Known(id) => {
                    *lock(&self.shared.identity) = Identity { id: Some(id.clone()), missing: 0 };
                    return Ok(id);
                }
                TopicId::Missing if begin.elapsed() >= TOPIC_KNOWN => return Err(self.deleted()),
                TopicId::Missing => std::thread::sleep(PUMP),
            }
        }
    }

    /// Fails if the topic is not the one of `id` any more, as far as is known.
    pub(crate) fn check_identity(&self, partition: u32, id: &str) -> Result<()> {
        let identity = lock(&self.shared.identity);
        if identity.missing >= MISSING_ANSWERS {
            return Err(self.deleted());
        }
        match &identity.id {
            Some(now) if now != id => Err(recreated(&self.topic, partition, id, now)),
            _ => Ok(()),
        }
    }

    fn deleted(&self) -> Error {
        Error::invalid(format!("topic `{}` does not exist any more: it was deleted", self.topic))
    }

    /// Takes a partition, which ends at `end` now, for a reader; there is one at a time.
    pub(crate) fn take(&self, partition: u32, end: u64) -> Result<()> {
        match lock(&self.client().context().ends).entry(partition) {
            Entry::Vacant(place) => drop(place.insert(end)),
            Entry::Occupied(_) => {
                let what = format!("topic `{}` partition {partition} is being read already", self.topic);
                return Err(Error::internal(what));
            }
        }
        Ok(())
    }

    /// Gives it back.
    pub(crate) fn give_back(&self, partition: u32) {
        lock(&self.client().context().ends).remove(&partition);
    }

    /// How many partitions have a reader.
    pub(crate) fn readers(&self) -> u32 {
        lock(&self.client().context().ends).len().try_into().unwrap_or(u32::MAX)
    }

    /// Begins to read a partition at an offset.
    pub(crate) fn begin(&self, partition: u32, offset: u64) -> Result<Queue> {
        let what = || format!("read topic `{}` partition {partition}", self.topic);
        let mut queue = self
            .consumer
            .split_partition_queue(&self.topic, number(partition)?)
            .ok_or_else(|| Error::internal(format!("{}: it has no queue", what())))?;
        let arrivals = self.arrivals.clone();
        queue.set_nonempty_callback(move || arrivals.bump());
        let from = Offset::Offset(i64::try_from(offset).map_err(|error| Error::unavailable(what(), error))?);
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, number(partition)?, from)
            .and_then(|()| self.consumer.incremental_assign(&list))
            .map_err(|error| Error::unavailable(what(), error))?;
        Ok(queue)
    }

    /// Stops reading it.
    pub(crate) fn end_reading(&self, partition: u32) -> Result<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, number(partition)?);
        self.consumer
            .incremental_unassign(&list)
            .map_err(|error| Error::unavailable(format!("stop reading topic `{}`", self.topic), error))
    }

    /// The offset after the last record or control record that was taken from a partition's queue, if any was.
    pub(crate) fn position(&self, partition: u32) -> Option<u64> {
        let list = self.consumer.position().ok()?;
        match list.find_partition(&self.topic, number(partition).ok()?)?.offset() {
            Offset::Offset(offset) => u64::try_from(offset).ok(),
            _ => None,
        }
    }

    /// The first offsets at or after instants (ms, in the place of offsets).
    pub(crate) fn offsets_for_times(&self, times: TopicPartitionList) -> KafkaResult<TopicPartitionList> {
        self.consumer.offsets_for_times(times, REQUEST)
    }

    /// Whether records of a partition came another way than by its queue, asked once.
    pub(crate) fn take_stray(&self, partition: u32) -> bool {
        lock(&self.shared.stray).remove(&partition)
    }
}

impl Drop for DataConsumer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(pump) = self.pump.take()
            && pump.join().is_err()
        {
            tracing::error!("the thread of Kafka's events has panicked");
        }
    }
}

/// The error of a topic that is another one than was read.
pub(crate) fn recreated(topic: &str, partition: u32, read: &str, now: &str) -> Error {
    Error::invalid(format!(
        "topic `{topic}` partition {partition} was read from the topic with the id {read}, the topic of that name has the \
         id {now}: it was deleted and created again, and its offsets mean other records. Read it as a new source (under \
         another name or into another offline store)"
    ))
}

/// Serves the client's events, and watches the topic's id.
fn pump(consumer: &BaseConsumer<DataContext>, topic: &str, shared: &Shared) {
    let mut asked = Instant::now();
    while !shared.stop.load(Ordering::Relaxed) {
        // Every partition has its own queue from before its first record on, and the context has taken the errors.
        if let Some(Ok(message)) = consumer.poll(PUMP) {
            tracing::warn!(partition = message.partition(), "a record came outside its queue, reading it again");
            lock(&shared.stray).insert(message.partition().unsigned_abs());
        }
        if asked.elapsed() >= IDENTITY_INTERVAL {
            asked = Instant::now();
            watch(consumer, topic, shared);
        }
    }
}

fn watch(consumer: &BaseConsumer<DataContext>, topic: &str, shared: &Shared) {
    match topic_id(consumer.client(), topic, Duration::from_secs(2)) {
        Ok(TopicId::Known(id)) => *lock(&shared.identity) = Identity { id: Some(id), missing: 0 },
        Ok(TopicId::Missing) => lock(&shared.identity).missing += 1,
        Err(error) => tracing::debug!(%error, topic, "the topic's id is not known now"),
    }
}
