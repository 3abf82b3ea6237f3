//! A topic as a source of events.

use crate::client::{CONNECT, REQUEST, number, partition_count, watermarks};
use crate::data::{DataConsumer, recreated};
use crate::membership::KafkaMembership;
use crate::reader::{KafkaReader, Memo, ReaderSetup, gone, truncated};
use crate::settings::{KafkaSettings, KafkaStart};
use plumb_core::event::SourceSchema;
use plumb_pipeline::accept::AcceptRules;
use plumb_pipeline::decode::{JsonDecoder, RecordDecoder, TimeUnit, format_rfc3339};
use plumb_pipeline::port::{Gap, Membership, PartitionReader, Source, StartFrom};
use plumb_pipeline::{Error, Result};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long an end that lies before the position is asked for again: a new leader may be a moment behind.
const BEHIND: Duration = Duration::from_secs(5);

/// Makes the decoder of a partition.
pub type DecoderFactory = Arc<dyn Fn() -> Result<Box<dyn RecordDecoder>> + Send + Sync>;

/// How a source is read.
#[derive(Clone, Default)]
pub struct KafkaOptions {
    /// Whether it ends where the topic ends when it is opened. Such a source is read by this process alone.
    pub until_end: bool,
    /// Where a partition begins that was never processed; `None` = where the settings say.
    pub from: Option<StartFrom>,
    /// Whether to go on after records that are gone.
    pub accept_gap: bool,
    /// Makes the decoders; `None` = JSON.
    pub decoder: Option<DecoderFactory>,
}

impl std::fmt::Debug for KafkaOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaOptions")
            .field("until_end", &self.until_end)
            .field("from", &self.from)
            .field("accept_gap", &self.accept_gap)
            .field("decoder", &self.decoder.as_ref().map(|_| "…"))
            .finish()
    }
}

/// Reads a topic.
#[derive(Debug)]
pub struct KafkaSource {
    settings: KafkaSettings,
    schema: Arc<SourceSchema>,
    unit: TimeUnit,
    rules: AcceptRules,
    options: KafkaOptions,
    data: Arc<DataConsumer>,
    /// Where each partition is to end; `None` = never.
    ends: Option<BTreeMap<u32, u64>>,
    /// The number of partitions when that was last answered.
    partitions: AtomicU32,
}

impl KafkaSource {
    /// Connects. Integer instants of JSON records are of `unit`; `rules` are checked while a record's own bytes are at
    /// hand. What can never work (no such topic, a refused password) is the caller's mistake, brokers that do not
    /// answer within 15 s are unavailable.
    pub fn new(
        settings: KafkaSettings,
        schema: Arc<SourceSchema>,
        unit: TimeUnit,
        rules: AcceptRules,
        options: KafkaOptions,
    ) -> Result<Self> {
        // How much each partition may read ahead depends on how many there are, and a client's settings are fixed.
        let first = DataConsumer::new(&settings, 1)?;
        let count = partition_count(first.client(), &settings, &settings.topic, CONNECT)?;
        drop(first);
        let data = Arc::new(DataConsumer::new(&settings, count)?);
        data.identity(REQUEST)?;
        let ends = match options.until_end {
            true => Some(ends(&data, &settings.topic, count)?),
            false => None,
        };
        Ok(Self { settings, schema, unit, rules, options, data, ends, partitions: AtomicU32::new(count) })
    }

    /// Whether a broker answered when one was last asked.
    pub fn is_reachable(&self) -> bool {
        self.data.events().is_reachable()
    }

    fn watermarks(&self, partition: u32) -> Result<(u64, u64)> {
        watermarks(self.data.client(), &self.settings.topic, partition, REQUEST)
    }

    fn decoder(&self) -> Result<Box<dyn RecordDecoder>> {
        match &self.options.decoder {
            Some(decoder) => decoder(),
            None => Ok(Box::new(JsonDecoder::new(self.schema.clone(), self.unit).with_rules(self.rules))),
        }
    }

    /// The first offset at or after an instant; the partition's end if there is none.
    fn offset_at(&self, partition: u32, time_us: i64, high: u64) -> Result<u64> {
        let what = || {
            format!(
                "ask Kafka where topic `{}` partition {partition} was at {}",
                self.settings.topic,
                format_rfc3339(time_us)
            )
        };
        // Kafka counts milliseconds; the first at or after the instant.
        let ms = time_us.div_euclid(1_000) + i64::from(time_us.rem_euclid(1_000) > 0);
        let mut times = TopicPartitionList::new();
        times
            .add_partition_offset(&self.settings.topic, number(partition)?, Offset::Offset(ms.max(0)))
            .map_err(|error| Error::unavailable(what(), error))?;
        let found = self.data.offsets_for_times(times).map_err(|error| Error::unavailable(what(), error))?;
        let offset = found.find_partition(&self.settings.topic, number(partition)?);
        match offset.map(|found| (found.error(), found.offset())) {
            Some((Ok(()), Offset::Offset(offset))) => Ok(offset.unsigned_abs()),
            Some((Ok(()), Offset::End)) => Ok(high),
            Some((Err(error), _)) => Err(Error::unavailable(what(), error)),
            other => Err(Error::unavailable(what(), format!("the answer makes no sense: {other:?}"))),
        }
    }

    /// Checks that what comes next is there.
    fn place(&self, partition: u32, offset: u64) -> Result<Place> {
        let topic = &self.settings.topic;
        let begin = Instant::now();
        let (low, high) = loop {
            let (low, high) = self.watermarks(partition)?;
            if offset <= high || begin.elapsed() >= BEHIND {
                break (low, high);
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        if offset > high {
            return Err(truncated(topic, partition, offset, high));
        }
        if offset >= low {
            return Ok(Place { offset, gap: None, high });
        }
        if !self.options.accept_gap {
            return Err(gone(topic, partition, offset, low));
        }
        tracing::warn!(topic, partition, from = offset, to = low, "going on after records that are gone");
        Ok(Place { offset: low, gap: Some(Gap { from: offset, to: low }), high })
    }
}

/// Where to begin in a partition.
struct Place {
    offset: u64,
    /// What is missing before that.
    gap: Option<Gap>,
    /// The offset after the partition's newest readable record.
    high: u64,
}

/// Where every partition ends now.
fn ends(data: &DataConsumer, topic: &str, count: u32) -> Result<BTreeMap<u32, u64>> {
    (0..count).map(|partition| Ok((partition, watermarks(data.client(), topic, partition, REQUEST)?.1))).collect()
}

impl Source for KafkaSource {
    fn schema(&self) -> &Arc<SourceSchema> {
        &self.schema
    }

    fn partitions(&self) -> Result<Vec<u32>> {
        // Those that came after the ends were fixed have no end, and nothing before it.
        if let Some(ends) = &self.ends {
            return Ok(ends.keys().copied().collect());
        }
        let topic = &self.settings.topic;
        match partition_count(self.data.client(), &self.settings, topic, Duration::from_secs(1)) {
            // A topic never gets fewer; a broker that starts may not know of all.
            Ok(count) => drop(self.partitions.fetch_max(count, Ordering::Relaxed)),
            Err(Error::Unavailable { what, source }) => tracing::debug!(what, %source, "partitions are as before"),
            Err(error) => return Err(error),
        }
        Ok((0..self.partitions.load(Ordering::Relaxed)).collect())
    }

    fn start(&self, partition: u32) -> Result<u64> {
        let (low, high) = self.watermarks(partition)?;
        let at = |offset: u64| match (low..=high).contains(&offset) {
            true => Ok(offset),
            false => Err(Error::invalid(format!(
                "topic `{}` partition {partition} has the offsets {low} to {high}, not {offset}",
                self.settings.topic
            ))),
        };
        let as_configured = match self.settings.start {
            KafkaStart::Earliest => low,
            KafkaStart::Latest => high,
        };
        match &self.options.from {
            None => Ok(as_configured),
            Some(StartFrom::Earliest) => Ok(low),
            Some(StartFrom::Latest) => Ok(high),
            Some(StartFrom::Offset(offset)) => at(*offset),
            Some(StartFrom::Offsets(offsets)) => {
                offsets.get(&partition).map_or(Ok(as_configured), |&offset| at(offset))
            }
            Some(StartFrom::Time(time_us)) => Ok(self.offset_at(partition, *time_us, high)?.clamp(low, high)),
        }
    }

    fn end(&self, partition: u32) -> Result<Option<u64>> {
        if let Some(end) = self.data.end(partition) {
            return Ok(Some(end));
        }
        // A partition that is read elsewhere: worth a question only while there is somebody to answer it.
        match self.is_reachable() {
            true => self.watermarks(partition).map(|(_, high)| Some(high)),
            false => Ok(None),
        }
    }

    fn trouble(&self) -> Option<String> {
        (!self.is_reachable()).then(|| format!("no broker of {} can be reached", self.settings.brokers))
    }

    fn open(&self, partition: u32, offset: u64, memo: Option<&serde_json::Value>) -> Result<Box<dyn PartitionReader>> {
        let topic = &self.settings.topic;
        let now = Memo { topic: topic.clone(), topic_id: self.data.identity(REQUEST)? };
        if let Some(memo) = memo {
            let before: Memo = serde_json::from_value(memo.clone()).map_err(|error| {
                Error::invalid(format!(
                    "source `{}` partition {partition} was not read from Kafka before ({error}): give it another name, or \
                     another offline store",
                    self.schema.source
                ))
            })?;
            if before.topic != now.topic {
                return Err(Error::invalid(format!(
                    "source `{}` partition {partition} was read from topic `{}`, not `{topic}`: give the new source another \
                     name, or another offline store",
                    self.schema.source, before.topic
                )));
            }
            if before.topic_id != now.topic_id {
                return Err(recreated(topic, partition, &before.topic_id, &now.topic_id));
            }
        }
        let Place { offset, gap, high } = self.place(partition, offset)?;
        let reader = KafkaReader::new(ReaderSetup {
            data: self.data.clone(),
            schema: self.schema.clone(),
            decoder: self.decoder()?,
            memo: now,
            partition,
            offset,
            end: self.ends.as_ref().map(|ends| ends.get(&partition).copied().unwrap_or(0)),
            high,
            gap,
            max_message_bytes: self.settings.max_message_bytes as usize,
        })?;
        Ok(Box::new(reader))
    }

    fn join(&self) -> Result<Option<Box<dyn Membership>>> {
        if self.options.until_end {
            return Ok(None);
        }
        Ok(Some(Box::new(KafkaMembership::join(&self.settings)?)))
    }
}
