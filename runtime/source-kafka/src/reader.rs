//! One partition of a topic.

use crate::client::watermarks;
use crate::data::{DataConsumer, Queue};
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_pipeline::decode::{Record, RecordDecoder};
use plumb_pipeline::port::{Gap, PartitionReader, Polled, Rejected, SourceBatch};
use plumb_pipeline::{Error, Result};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, OwnedMessage};
use rdkafka::{Message, Timestamp};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the readers of a source wait for records, all of them together: a thread polls one after the other, and
/// has more to do than that.
const WAIT: Duration = Duration::from_millis(50);

/// How long one of them waits at least.
const WAIT_LEAST: Duration = Duration::from_millis(1);

/// How long records that are known to be there may take before that is said.
const SILENCE: Duration = Duration::from_millis(1500);

/// A batch ends when its records have so many bytes: a thousand records may be a thousand large ones.
const BATCH_BYTES: usize = 4 << 20;

/// The bytes kept of a record that is refused for its size; nobody reads ten megabytes of a dead letter.
const REFUSED_BYTES: usize = 64 << 10;

/// How long the ends of a partition are asked for when its reading has failed.
const ASK: Duration = Duration::from_secs(2);

/// The reason of a record without a value.
pub const TOMBSTONE: &str = "record without a value (tombstone)";

/// What is kept in the manifest: which topic the offsets are of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Memo {
    /// Its name.
    pub(crate) topic: String,
    /// The id its cluster gave it.
    pub(crate) topic_id: String,
}

/// What a reader is made of.
pub(crate) struct ReaderSetup {
    pub(crate) data: Arc<DataConsumer>,
    pub(crate) schema: Arc<SourceSchema>,
    pub(crate) decoder: Box<dyn RecordDecoder>,
    pub(crate) memo: Memo,
    pub(crate) partition: u32,
    pub(crate) offset: u64,
    /// Where it is to end; `None` = never.
    pub(crate) end: Option<u64>,
    /// The partition's end when it was opened.
    pub(crate) high: u64,
    pub(crate) gap: Option<Gap>,
    pub(crate) max_message_bytes: usize,
}

pub(crate) struct KafkaReader {
    setup: ReaderSetup,
    /// `None` until the first poll and while reading has to begin again.
    queue: Option<Queue>,
    /// A record that could not be decoded yet.
    waiting: Option<OwnedMessage>,
    /// An error that came after records that were handed out first.
    failed: Option<KafkaError>,
    /// How many arrivals there had been when this reader last found nothing.
    seen: u64,
    /// Since when nothing came although something is there.
    silent: Option<Instant>,
}

/// What came of one try to take a record.
enum Taken {
    Row(usize),
    Nothing,
    /// The end that was asked for.
    End,
    /// The decoder has to try again later.
    Later(Error),
}

impl KafkaReader {
    /// A reader that begins at the setup's offset with its first poll.
    pub(crate) fn new(setup: ReaderSetup) -> Result<Self> {
        setup.data.take(setup.partition, setup.high)?;
        Ok(Self { setup, queue: None, waiting: None, failed: None, seen: 0, silent: None })
    }

    /// Reads what is there; `None` if that is nothing.
    fn read(&mut self, max_records: usize) -> Result<Option<SourceBatch>> {
        let begin = self.setup.offset;
        let mut batch = SourceBatch {
            events: EventBatch::new(self.setup.schema.clone()),
            rejected: Vec::new(),
            next_offset: begin,
        };
        let (mut records, mut bytes) = (0, 0);
        while records < max_records && bytes < BATCH_BYTES {
            match self.take(&mut batch) {
                Taken::Row(size) => {
                    records += 1;
                    bytes += size;
                }
                Taken::Later(error) if records == 0 => return Err(error),
                Taken::Nothing | Taken::End | Taken::Later(_) => break,
            }
        }
        // Control records and holes are behind us as well.
        batch.next_offset = self.setup.offset;
        Ok((self.setup.offset > begin).then_some(batch))
    }

    /// Takes the next record, or what else the queue has.
    fn take(&mut self, batch: &mut SourceBatch) -> Taken {
        if let Some(message) = self.waiting.take() {
            return match decode(&mut self.setup, batch, &message) {
                Ok(size) => Taken::Row(size),
                Err(error) => {
                    self.waiting = Some(message);
                    Taken::Later(error)
                }
            };
        }
        loop {
            let Some(queue) = &self.queue else { return Taken::Nothing };
            match queue.poll(Duration::ZERO) {
                None => return Taken::Nothing,
                Some(Ok(message)) => return Self::take_message(&mut self.setup, &mut self.waiting, batch, &message),
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    self.setup.data.events().answered();
                    let read = self.setup.data.position(self.setup.partition).unwrap_or(0);
                    // The ends were asked for before this queue began: everything before them has come.
                    let ends = self.setup.end.unwrap_or(0).max(self.setup.high);
                    self.setup.offset = self.setup.offset.max(read).max(ends);
                }
                Some(Err(error)) => {
                    self.failed = Some(error);
                    return Taken::Nothing;
                }
            }
        }
    }

    fn take_message(
        setup: &mut ReaderSetup,
        waiting: &mut Option<OwnedMessage>,
        batch: &mut SourceBatch,
        message: &BorrowedMessage<'_>,
    ) -> Taken {
        if let Some(end) = setup.end
            && message.offset().unsigned_abs() >= end
        {
            setup.offset = setup.offset.max(end);
            return Taken::End;
        }
        match decode(setup, batch, message) {
            Ok(size) => Taken::Row(size),
            Err(error) => {
                *waiting = Some(message.detach());
                Taken::Later(error)
            }
        }
    }

    /// What an error of the queue means. Reading begins again at the position with the next poll.
    fn explain(&mut self, error: KafkaError) -> Error {
        let ReaderSetup { data, partition, offset, memo, .. } = &self.setup;
        let (partition, offset) = (*partition, *offset);
        let what = format!("read topic `{}` partition {partition} at offset {offset}", memo.topic);
        let code = error.rdkafka_error_code();
        self.queue = None;
        self.waiting = None;
        let out_of_range =
            [RDKafkaErrorCode::AutoOffsetReset, RDKafkaErrorCode::OffsetOutOfRange, RDKafkaErrorCode::LogTruncation];
        if code.is_some_and(|code| out_of_range.contains(&code)) {
            return match watermarks(data.client(), &memo.topic, partition, ASK) {
                Ok((low, _)) if offset < low => gone(&memo.topic, partition, offset, low),
                Ok((_, high)) if offset > high => truncated(&memo.topic, partition, offset, high),
                Ok(_) => Error::unavailable(what, error),
                Err(error) => error,
            };
        }
        Error::unavailable(what, error)
    }
}

/// Decodes a record and moves past it. An error says to try again later.
fn decode<M: Message>(setup: &mut ReaderSetup, batch: &mut SourceBatch, message: &M) -> Result<usize> {
    let offset = message.offset().unsigned_abs();
    // A reader that began again may be given what it had.
    if offset < setup.offset {
        return Ok(0);
    }
    let record_time_us = match message.timestamp() {
        Timestamp::CreateTime(ms) | Timestamp::LogAppendTime(ms) => ms.saturating_mul(1_000),
        Timestamp::NotAvailable => 0,
    };
    let refuse = |bytes: &[u8], reason: String| Rejected { offset, record_time_us, bytes: bytes.to_vec(), reason };
    let bytes = message.payload();
    match bytes {
        None => batch.rejected.push(refuse(&[], TOMBSTONE.to_owned())),
        Some(bytes) if bytes.len() > setup.max_message_bytes => {
            let reason = format!(
                "a record of {} bytes is longer than max_message = {} (its first {REFUSED_BYTES} bytes are kept)",
                bytes.len(),
                setup.max_message_bytes
            );
            batch.rejected.push(refuse(&bytes[..bytes.len().min(REFUSED_BYTES)], reason));
        }
        Some(bytes) => setup.decoder.decode_into(batch, Record { offset, record_time_us, bytes })?,
    }
    setup.offset = offset + 1;
    Ok(bytes.map_or(0, <[u8]>::len))
}

impl PartitionReader for KafkaReader {
    fn poll(&mut self, max_records: usize) -> Result<Polled> {
        if self.setup.end.is_some_and(|end| self.setup.offset >= end) {
            return Ok(Polled::End);
        }
        let ReaderSetup { data, partition, memo, .. } = &self.setup;
        data.check_identity(*partition, &memo.topic_id)?;
        if data.take_stray(*partition) {
            self.queue = None;
            self.waiting = None;
        }
        if let Some(error) = self.failed.take() {
            return Err(self.explain(error));
        }
        if self.queue.is_none() {
            self.restart()?;
        }
        // Counted before reading, so that what arrives between reading and waiting ends the wait.
        let arrivals = self.setup.data.arrivals().count();
        let mut batch = self.read(max_records)?;
        if batch.is_none() && arrivals == self.seen && self.failed.is_none() {
            let wait = WAIT / self.setup.data.readers().max(1);
            self.setup.data.arrivals().wait(arrivals, wait.max(WAIT_LEAST));
            batch = self.read(max_records)?;
        }
        if let Some(batch) = batch {
            self.silent = None;
            return Ok(Polled::Batch(batch));
        }
        self.seen = arrivals;
        if let Some(error) = self.failed.take() {
            return Err(self.explain(error));
        }
        self.check_silence()?;
        Ok(Polled::Idle)
    }

    fn memo(&self) -> Option<serde_json::Value> {
        Some(serde_json::json!(self.setup.memo))
    }

    fn gap(&self) -> Option<Gap> {
        self.setup.gap
    }
}

impl KafkaReader {
    /// Fails once in a while as long as nothing comes of what was there when the partition was opened: to be idle would
    /// mean that there is nothing more to read.
    fn check_silence(&mut self) -> Result<()> {
        let ReaderSetup { memo, partition, offset, high, .. } = &self.setup;
        if offset >= high || self.silent.get_or_insert_with(Instant::now).elapsed() < SILENCE {
            return Ok(());
        }
        self.silent = None;
        let what = format!("read topic `{}` partition {partition} at offset {offset}", memo.topic);
        Err(Error::unavailable(what, format!("nothing came for {} ms, and it goes on to {high}", SILENCE.as_millis())))
    }

    /// Begins to read at the position, anew if that was begun before.
    fn restart(&mut self) -> Result<()> {
        let ReaderSetup { data, partition, offset, .. } = &self.setup;
        // Nothing is assigned at the first time and after a failed try; either is fine.
        if let Err(error) = data.end_reading(*partition) {
            tracing::trace!(%error, "nothing to end");
        }
        self.queue = Some(data.begin(*partition, *offset)?);
        Ok(())
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        let ReaderSetup { data, partition, .. } = &self.setup;
        if self.queue.take().is_some()
            && let Err(error) = data.end_reading(*partition)
        {
            tracing::debug!(%error, "cannot let go of a partition");
        }
        data.give_back(*partition);
    }
}

/// The error of records that are no longer there.
pub(crate) fn gone(topic: &str, partition: u32, offset: u64, low: u64) -> Error {
    Error::invalid(format!(
        "topic `{topic}` partition {partition}: the {} offsets {offset} to {} were not read yet and are gone, the topic's \
         retention removed them; it begins at offset {low} now. `plumb run --accept-gap` goes on there and records the gap",
        low - offset,
        low - 1
    ))
}

/// The error of a partition that ends before what was read of it.
pub(crate) fn truncated(topic: &str, partition: u32, offset: u64, high: u64) -> Error {
    Error::invalid(format!(
        "topic `{topic}` partition {partition} ends at offset {high}, but records up to {offset} were processed: it was \
         truncated, or the topic was deleted and created again. Read it as a new source (under another name or into \
         another offline store)"
    ))
}
