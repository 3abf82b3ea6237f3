//! Which partition of a log a record belongs to: a function of its key, so that all copies of an event
//! meet in one partition, where they are told apart.

use crate::decode::TimeUnit;
use crate::decode::json::{JsonDecoder, Record};
use plumb_core::event::{EventBatch, SourceSchema};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// Routes JSON records by the source's key field, by the event id where that is null.
#[derive(Debug)]
pub struct Router {
    decoder: JsonDecoder,
    scratch: EventBatch,
    key_column: Option<usize>,
    partitions: u32,
}

impl Router {
    /// A router for a log of `partitions` partitions; `unit` is that of integer times.
    pub fn new(schema: &Arc<SourceSchema>, unit: TimeUnit, partitions: u32) -> Self {
        Self {
            decoder: JsonDecoder::new(schema.clone(), unit),
            scratch: EventBatch::new(schema.clone()),
            key_column: schema.column_of(&schema.key_field),
            partitions,
        }
    }

    /// The partition of a record. One that cannot be decoded goes by its bytes: it will be rejected where it is read.
    pub fn route(&mut self, record: &[u8]) -> u32 {
        let decoded = self.decoder.decode(&mut self.scratch, Record { offset: 0, record_time_us: 0, bytes: record });
        let row = self.scratch.len();
        let partition = if decoded.is_ok() && row > 0 {
            let text = |column: usize| self.scratch.columns[column].str_bytes(row - 1);
            let key = self.key_column.and_then(text).or_else(|| text(0));
            partition_of(key.unwrap_or(record), self.partitions)
        } else {
            partition_of(record, self.partitions)
        };
        self.scratch.truncate(0);
        partition
    }
}

/// The partition of a key.
pub fn partition_of(key: &[u8], partitions: u32) -> u32 {
    (xxh3_64(key) % u64::from(partitions.max(1))) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_an_event_meet() {
        let schema = Arc::new(SourceSchema::default_schema());
        let mut router = Router::new(&schema, TimeUnit::Ms, 7);
        let by_user = partition_of(b"u1", 7);
        let record = |user: &str, extra: &str| {
            format!(r#"{{"event_id":"e1","event_time":1,"event_type":"view","user_id":{user}{extra}}}"#).into_bytes()
        };
        assert_eq!(router.route(&record("\"u1\"", "")), by_user);
        assert_eq!(router.route(&record("\"u1\"", ",\"price\":2")), by_user);
        assert_eq!(router.route(&record("null", "")), partition_of(b"e1", 7));
        assert_eq!(router.route(b"no json"), partition_of(b"no json", 7));
    }
}
