//! Writing to topics: events as `POST /events` and `plumb produce` send them, and dead letters.

use crate::client::{CONNECT, Events, Heard, config, log, missing_topic, note, partition_count, refused};
use crate::settings::KafkaSettings;
use plumb_pipeline::decode::format_rfc3339;
use plumb_pipeline::port::{DeadLetter, DeadLetterSink, EventSink, SinkRecord};
use plumb_pipeline::{Error, Result};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{Message, Statistics};
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a record may wait for its acknowledgement unless the caller says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What a record takes beside its value: key, headers, framing.
const OVERHEAD_BYTES: u32 = 128 << 10;

/// How long a full queue is waited for before it is looked at again.
const FULL: Duration = Duration::from_millis(10);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Records that were sent together.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    outcome: Mutex<Outcome>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Outcome {
    /// Not acknowledged yet.
    waiting: usize,
    /// The next offset of each partition written to.
    next: BTreeMap<u32, u64>,
    /// How many failed, and why the first did.
    failed: usize,
    why: Option<KafkaError>,
}

impl Outcome {
    fn fail(&mut self, error: KafkaError) {
        self.failed += 1;
        self.why.get_or_insert(error);
    }
}

#[derive(Debug, Default)]
pub(crate) struct SinkContext {
    events: Events,
}

impl ClientContext for SinkContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn stats(&self, _: Statistics) {}

    fn error(&self, error: KafkaError, reason: &str) {
        note(&self.events, &error, reason);
    }
}

impl Heard for SinkContext {
    fn events(&self) -> &Events {
        &self.events
    }
}

impl ProducerContext for SinkContext {
    type DeliveryOpaque = Arc<Sent>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Arc<Sent>) {
        let mut outcome = lock(&sent.outcome);
        match result {
            Ok(message) => {
                self.events.answered();
                let next = outcome.next.entry(message.partition().unsigned_abs()).or_default();
                *next = (*next).max(message.offset().unsigned_abs() + 1);
            }
            Err((error, _)) => outcome.fail(error.clone()),
        }
        outcome.waiting -= 1;
        if outcome.waiting == 0 {
            sent.changed.notify_all();
        }
    }
}

pub(crate) type KafkaProducer = ThreadedProducer<SinkContext>;

/// An idempotent producer to one topic.
struct Writer {
    settings: KafkaSettings,
    topic: String,
    patience: Duration,
    producer: Mutex<Arc<KafkaProducer>>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("topic", &self.topic).finish_non_exhaustive()
    }
}

/// One record to send.
struct Outgoing<'a> {
    key: Option<&'a [u8]>,
    bytes: &'a [u8],
    headers: Option<OwnedHeaders>,
}

impl Writer {
    fn new(settings: &KafkaSettings, topic: &str, patience: Duration) -> Result<Self> {
        let producer = producer(settings, patience)?;
        partition_count(producer.client(), settings, topic, CONNECT)?;
        Ok(Self {
            settings: settings.clone(),
            topic: topic.to_owned(),
            patience,
            producer: Mutex::new(Arc::new(producer)),
        })
    }

    /// The producer; a new one if the old has lost its place among the broker's idempotent producers.
    fn producer(&self) -> Result<Arc<KafkaProducer>> {
        let mut held = lock(&self.producer);
        if let Some((code, why)) = held.client().fatal_error() {
            tracing::warn!(topic = self.topic, why, "the producer cannot go on ({code}), starting another");
            *held = Arc::new(producer(&self.settings, self.patience)?);
        }
        Ok(held.clone())
    }

    fn send<'a>(&self, records: impl ExactSizeIterator<Item = Outgoing<'a>>) -> Result<Arc<Sent>> {
        let producer = self.producer()?;
        let count = records.len();
        let sent = Arc::new(Sent::default());
        lock(&sent.outcome).waiting = count;
        for outgoing in records {
            let mut record = BaseRecord::with_opaque_to(&self.topic, sent.clone()).payload(outgoing.bytes);
            record.key = outgoing.key;
            record.headers = outgoing.headers;
            while let Err((error, back)) = producer.send(record) {
                if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                    let mut outcome = lock(&sent.outcome);
                    outcome.fail(error);
                    outcome.waiting -= 1;
                    break;
                }
                // Acknowledgements make room, or the records' time is over.
                drop(sent.changed.wait_timeout(lock(&sent.outcome), FULL).unwrap_or_else(PoisonError::into_inner));
                record = back;
            }
        }
        Ok(sent)
    }

    /// Waits for the acknowledgements of what was sent.
    fn wait(&self, sent: &Sent) -> Result<BTreeMap<u32, u64>> {
        let outcome = lock(&sent.outcome);
        // Every record is acknowledged or fails in the producer's own time.
        let waited = sent.changed.wait_while(outcome, |outcome| outcome.waiting > 0);
        let mut outcome = waited.unwrap_or_else(PoisonError::into_inner);
        match outcome.why.take() {
            None => Ok(std::mem::take(&mut outcome.next)),
            Some(error) => Err(self.explain(&error, outcome.failed)),
        }
    }

    fn explain(&self, error: &KafkaError, failed: usize) -> Error {
        let Self { settings, topic, patience, .. } = self;
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize) => {
                Error::invalid(format!(
                    "{failed} record(s) are larger than topic `{topic}` takes: see the source's max_message ({} bytes) and the \
                 topic's max.message.bytes",
                    settings.max_message_bytes
                ))
            }
            Some(
                RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition,
            ) => missing_topic(settings, topic),
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                Error::invalid(format!("Kafka at {} does not let plumb write to topic `{topic}`", settings.brokers))
            }
            Some(RDKafkaErrorCode::MessageTimedOut) => Error::unavailable(
                format!("write to topic `{topic}` at {}", settings.brokers),
                format!("{failed} record(s) were not acknowledged within {} s", patience.as_secs()),
            ),
            _ => Error::unavailable(
                format!("write to topic `{topic}` at {}: {failed} record(s)", settings.brokers),
                error.clone(),
            ),
        }
    }
}

/// A producer; it has a thread of its own that serves its events.
pub(crate) fn producer(settings: &KafkaSettings, patience: Duration) -> Result<KafkaProducer> {
    let mut config = config(settings)?;
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // As Kafka's own clients do: a key is in the same partition whoever sent it.
        .set("partitioner", "murmur2_random")
        .set("compression.type", "lz4")
        .set("linger.ms", "5")
        .set("message.timeout.ms", patience.as_millis().to_string())
        .set("message.max.bytes", settings.max_message_bytes.saturating_add(OVERHEAD_BYTES).to_string())
        .set("queue.buffering.max.kbytes", "65536");
    config.create_with_context(SinkContext::default()).map_err(refused)
}

/// Sends events to a topic, each acknowledged by all of the partition's replicas in sync.
#[derive(Debug)]
pub struct KafkaSink {
    writer: Writer,
}

/// Records on their way, see [`KafkaSink::send`].
#[derive(Debug)]
pub struct Sending {
    sent: Arc<Sent>,
}

impl KafkaSink {
    /// Connects to the settings' topic, which must exist. A record that is not acknowledged within `patience` has
    /// failed (it may be there all the same).
    pub fn new(settings: &KafkaSettings, patience: Duration) -> Result<Self> {
        Ok(Self { writer: Writer::new(settings, &settings.topic, patience)? })
    }

    /// Sends records without waiting for them, unless too many are on their way.
    pub fn send(&self, records: &[SinkRecord<'_>]) -> Result<Sending> {
        let outgoing = records.iter().map(|record| Outgoing { key: record.key, bytes: record.bytes, headers: None });
        Ok(Sending { sent: self.writer.send(outgoing)? })
    }

    /// Waits until they are durable. Returns the next offset of each partition written to. After an error some of them
    /// may be there.
    pub fn wait(&self, sending: Sending) -> Result<BTreeMap<u32, u64>> {
        self.writer.wait(&sending.sent)
    }
}

impl EventSink for KafkaSink {
    fn append(&self, records: &[SinkRecord<'_>]) -> Result<BTreeMap<u32, u64>> {
        self.wait(self.send(records)?)
    }
}

/// Sends dead letters to a topic: the record's bytes, and in headers where it was and why it is here.
#[derive(Debug)]
pub struct KafkaDeadLetters {
    writer: Writer,
}

impl KafkaDeadLetters {
    /// Connects to `topic`, which must exist, at the settings' brokers.
    pub fn new(settings: &KafkaSettings, topic: &str) -> Result<Self> {
        Ok(Self { writer: Writer::new(settings, topic, PATIENCE)? })
    }
}

impl DeadLetterSink for KafkaDeadLetters {
    fn send(&self, source: &str, partition: u32, letters: &[DeadLetter]) -> Result<()> {
        // A letter that is sent again after a crash has the same key, so a compacted topic keeps one.
        let keys: Vec<String> = letters
            .iter()
            .map(|letter| {
                let view = letter.view.as_ref().map(|view| format!("/{view}")).unwrap_or_default();
                format!("{source}/{partition}/{}{view}", letter.offset)
            })
            .collect();
        let outgoing = letters.iter().zip(&keys).map(|(letter, key)| Outgoing {
            key: Some(key.as_bytes()),
            bytes: &letter.bytes,
            headers: Some(headers(source, partition, letter)),
        });
        self.writer.wait(&*self.writer.send(outgoing)?).map(drop)
    }
}

fn headers(source: &str, partition: u32, letter: &DeadLetter) -> OwnedHeaders {
    let (partition, offset) = (partition.to_string(), letter.offset.to_string());
    let time = format_rfc3339(letter.record_time_us);
    let of_all = [
        ("plumb-source", source),
        ("plumb-partition", &partition),
        ("plumb-offset", &offset),
        ("plumb-reason", &letter.reason),
        ("plumb-record-time", &time),
    ];
    let view = letter.view.as_deref().map(|view| ("plumb-view", view));
    of_all
        .into_iter()
        .chain(view)
        .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }))
}
