//! The log as a source of events: its JSON records, decoded.

use crate::EmbeddedLog;
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_pipeline::accept::AcceptRules;
use plumb_pipeline::decode::json::{JsonDecoder, Record};
use plumb_pipeline::decode::time::TimeUnit;
use plumb_pipeline::port::{EventLog, PartitionReader, Polled, Source, SourceBatch, StartFrom};
use plumb_pipeline::{Error, Result};
use std::sync::Arc;
use std::time::Duration;

/// How long polls wait for new records, one of each partition together: a thread polls one after the other.
const WAIT: Duration = Duration::from_millis(50);

/// Records looked at in one go for an instant.
const SEARCH_RECORDS: usize = 10_000;

/// Reads a log.
#[derive(Debug)]
pub struct LogSource {
    log: Arc<EmbeddedLog>,
    schema: Arc<SourceSchema>,
    unit: TimeUnit,
    rules: AcceptRules,
    /// Where each partition is to end; `None` = never.
    ends: Option<Vec<u64>>,
    /// Where a partition begins that was never processed.
    from: StartFrom,
}

impl LogSource {
    /// A source that follows the log. Integer instants are of `unit`; `rules` are checked while a record's own
    /// bytes are at hand.
    pub fn new(log: Arc<EmbeddedLog>, schema: Arc<SourceSchema>, unit: TimeUnit, rules: AcceptRules) -> Self {
        Self { log, schema, unit, rules, ends: None, from: StartFrom::Earliest }
    }

    /// Says where a partition begins that was never processed, if not at its oldest record.
    pub fn starting(mut self, from: StartFrom) -> Self {
        self.from = from;
        self
    }

    /// The first record stamped at or after an instant; the end if there is none.
    fn offset_at(&self, partition: u32, time_us: i64) -> Result<u64> {
        let mut offset = 0;
        loop {
            let mut found = None;
            let next = self.log.visit(partition, offset, SEARCH_RECORDS, |offset, stamp_us, _| {
                if stamp_us >= time_us && found.is_none() {
                    found = Some(offset);
                }
            })?;
            match found {
                Some(found) => return Ok(found),
                None if next == offset => return Ok(next),
                None => offset = next,
            }
        }
    }

    /// Makes it stop where the log ends now.
    pub fn until_end(mut self) -> Result<Self> {
        self.ends = Some((0..self.log.partitions()).map(|partition| self.log.end(partition)).collect::<Result<_>>()?);
        Ok(self)
    }
}

impl Source for LogSource {
    fn schema(&self) -> &Arc<SourceSchema> {
        &self.schema
    }

    fn partitions(&self) -> Result<Vec<u32>> {
        Ok((0..self.log.partitions()).collect())
    }

    fn start(&self, partition: u32) -> Result<u64> {
        let end = self.log.end(partition)?;
        let at = |offset: u64| match offset <= end {
            true => Ok(offset),
            false => Err(Error::invalid(format!(
                "log `{}` partition {partition} has the offsets 0 to {end}, not {offset}",
                self.log.source()
            ))),
        };
        match &self.from {
            StartFrom::Earliest => Ok(0),
            StartFrom::Latest => Ok(end),
            StartFrom::Offset(offset) => at(*offset),
            StartFrom::Offsets(offsets) => offsets.get(&partition).map_or(Ok(0), |&offset| at(offset)),
            StartFrom::Time(time_us) => self.offset_at(partition, *time_us),
        }
    }

    fn end(&self, partition: u32) -> Result<Option<u64>> {
        self.log.end(partition).map(Some)
    }

    fn open(&self, partition: u32, offset: u64, _memo: Option<&serde_json::Value>) -> Result<Box<dyn PartitionReader>> {
        let end = self.log.end(partition)?;
        if offset > end {
            return Err(Error::invalid(format!(
                "log `{}` partition {partition} ends at offset {end}, but records up to {offset} were processed: it was \
                 truncated or replaced",
                self.log.source()
            )));
        }
        Ok(Box::new(LogReader {
            decoder: JsonDecoder::new(self.schema.clone(), self.unit).with_rules(self.rules),
            log: self.log.clone(),
            partition,
            offset,
            end: self.ends.as_ref().map(|ends| ends[partition as usize]),
            seen: 0,
        }))
    }
}

struct LogReader {
    log: Arc<EmbeddedLog>,
    decoder: JsonDecoder,
    partition: u32,
    offset: u64,
    end: Option<u64>,
    /// How many appends there had been when this reader last found nothing.
    seen: u64,
}

impl LogReader {
    fn read(&mut self, max_records: usize) -> Result<Option<SourceBatch>> {
        let left = self.end.map_or(u64::MAX, |end| end.saturating_sub(self.offset));
        let records = max_records.min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut batch = SourceBatch {
            events: EventBatch::new(self.decoder.schema().clone()),
            rejected: Vec::new(),
            next_offset: self.offset,
        };
        let decoder = &mut self.decoder;
        let next = self.log.visit(self.partition, self.offset, records, |offset, record_time_us, bytes| {
            decoder.decode_into(&mut batch, Record { offset, record_time_us, bytes });
        })?;
        if next == self.offset {
            return Ok(None);
        }
        self.offset = next;
        Ok(Some(batch))
    }
}

impl PartitionReader for LogReader {
    fn poll(&mut self, max_records: usize) -> Result<Polled> {
        if self.end.is_some_and(|end| self.offset >= end) {
            return Ok(Polled::End);
        }
        // Counted before reading, so that an append between reading and waiting ends the wait. The count is of the
        // whole log: one thread polls several partitions in turn and must not sleep on one while another grows.
        let appends = self.log.appends();
        if let Some(batch) = self.read(max_records)? {
            return Ok(Polled::Batch(batch));
        }
        if appends == self.seen {
            self.log.wait(appends, WAIT / self.log.partitions().max(1));
            if let Some(batch) = self.read(max_records)? {
                return Ok(Polled::Batch(batch));
            }
        }
        self.seen = appends;
        Ok(Polled::Idle)
    }

    fn memo(&self) -> Option<serde_json::Value> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DataDir, Embedded};

    fn log(dir: &tempfile::TempDir) -> (DataDir, Arc<EmbeddedLog>) {
        let owned = DataDir::own(dir.path()).unwrap();
        let log = Embedded::open(&owned).unwrap().log("default", Some(2)).unwrap();
        (owned, log)
    }

    fn source(log: &Arc<EmbeddedLog>) -> LogSource {
        let schema = Arc::new(SourceSchema::default_schema());
        LogSource::new(log.clone(), schema, TimeUnit::Ms, AcceptRules::default())
    }

    fn event(id: &str) -> Vec<u8> {
        format!(r#"{{"event_id":"{id}","event_time":1700000000000,"event_type":"view","user_id":"u"}}"#).into_bytes()
    }

    const STAMP_US: i64 = 1_700_000_000_000_000;

    #[test]
    fn records_are_decoded_or_rejected_in_order_up_to_the_captured_end() {
        let dir = tempfile::tempdir().unwrap();
        let (_owned, log) = log(&dir);
        log.append(STAMP_US, &[(0, event("a")), (0, b"{".to_vec()), (0, event("b"))]).unwrap();
        let source = source(&log).until_end().unwrap();
        log.append(STAMP_US, &[(0, event("after"))]).unwrap();
        let mut reader = source.open(0, 0, None).unwrap();
        let Polled::Batch(first) = reader.poll(2).unwrap() else { panic!("no batch") };
        assert_eq!((first.events.offsets.as_slice(), first.next_offset), (&[0][..], 2));
        assert_eq!((first.rejected.len(), first.rejected[0].offset), (1, 1));
        assert_eq!(first.rejected[0].bytes, b"{");
        let Polled::Batch(second) = reader.poll(10).unwrap() else { panic!("no batch") };
        assert_eq!((second.events.offsets.as_slice(), second.next_offset), (&[2][..], 3));
        assert_eq!(second.events.record_times_us, [STAMP_US]);
        assert!(matches!(reader.poll(10).unwrap(), Polled::End));
        let mut empty = source.open(1, 0, None).unwrap();
        assert!(matches!(empty.poll(10).unwrap(), Polled::End));
        assert!(source.open(1, 1, None).is_err());
    }

    #[test]
    fn a_partition_begins_where_it_is_told_to() {
        let dir = tempfile::tempdir().unwrap();
        let (_owned, log) = log(&dir);
        for second in [3, 1, 2] {
            log.append(STAMP_US + second * 1_000_000, &[(0, event("a"))]).unwrap();
        }
        let start = |from: StartFrom, partition| source(&log).starting(from).start(partition);
        let at = |seconds: i64| StartFrom::Time(STAMP_US + seconds * 1_000_000);
        for (from, first, second) in [
            (StartFrom::Earliest, 0, 0),
            (StartFrom::Latest, 3, 0),
            (StartFrom::Offsets([(0, 2)].into()), 2, 0),
            (at(0), 0, 0),
            (at(3), 0, 0),
            (at(4), 3, 0),
        ] {
            assert_eq!(start(from.clone(), 0).unwrap(), first, "{from:?}");
            assert_eq!(start(from, 1).unwrap(), second);
        }
        assert_eq!(source(&log).end(0).unwrap(), Some(3));
        let error = start(StartFrom::Offset(4), 0).unwrap_err().to_string();
        assert_eq!(error, "log `default` partition 0 has the offsets 0 to 3, not 4");
    }

    #[test]
    fn a_follower_sees_what_is_appended_later() {
        let dir = tempfile::tempdir().unwrap();
        let (_owned, log) = log(&dir);
        let source = source(&log);
        let mut reader = source.open(0, 0, None).unwrap();
        let mut other = source.open(1, 0, None).unwrap();
        log.append(STAMP_US, &[(0, event("a"))]).unwrap();
        assert!(matches!(other.poll(10).unwrap(), Polled::Idle));
        assert!(matches!(reader.poll(10).unwrap(), Polled::Batch(batch) if batch.events.len() == 1));
        std::thread::scope(|scope| {
            let appended = scope.spawn(|| log.append(STAMP_US, &[(0, event("b"))]).unwrap());
            let batch = loop {
                if let Polled::Batch(batch) = reader.poll(10).unwrap() {
                    break batch;
                }
            };
            assert_eq!(batch.events.offsets, [1]);
            appended.join().unwrap();
        });
    }
}
