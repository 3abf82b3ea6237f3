//! Which partition of a log a record belongs to: a function of its key, so that all copies of an event
//! meet in one partition, where they are told apart.

use crate::Result;
use crate::decode::{JsonDecoder, Record, RecordDecoder, TimeUnit};
use crate::port::SourceBatch;
use plumb_core::event::{EventBatch, SourceSchema};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// Finds the keys of records: the source's key field, the event's id where that is null.
pub struct Keys {
    decoder: Box<dyn RecordDecoder>,
    scratch: SourceBatch,
    key_column: Option<usize>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("key_column", &self.key_column).finish_non_exhaustive()
    }
}

impl Keys {
    /// Of JSON records; `unit` is that of integer times.
    pub fn json(schema: &Arc<SourceSchema>, unit: TimeUnit) -> Self {
        Self::new(schema, Box::new(JsonDecoder::new(schema.clone(), unit)))
    }

    /// Of records that a decoder reads.
    pub fn new(schema: &Arc<SourceSchema>, decoder: Box<dyn RecordDecoder>) -> Self {
        let scratch = SourceBatch { events: EventBatch::new(schema.clone()), rejected: Vec::new(), next_offset: 0 };
        Self { decoder, scratch, key_column: schema.column_of(&schema.key_field) }
    }

    /// The key of a record; `None` if it has none, or cannot be decoded: it will be rejected where it is read. An
    /// error says nothing about the record.
    pub fn key(&mut self, record: &[u8]) -> Result<Option<Vec<u8>>> {
        self.decoder.decode_into(&mut self.scratch, Record { offset: 0, record_time_us: 0, bytes: record })?;
        let events = &self.scratch.events;
        let key = events.len().checked_sub(1).and_then(|row| {
            let text = |column: usize| events.columns[column].str_bytes(row);
            self.key_column.and_then(text).or_else(|| text(0)).map(<[u8]>::to_vec)
        });
        self.scratch.events.truncate(0);
        self.scratch.rejected.clear();
        Ok(key)
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
    fn copies_of_an_event_have_one_key() {
        let schema = Arc::new(SourceSchema::default_schema());
        let mut keys = Keys::json(&schema, TimeUnit::Ms);
        let mut key = |user: &str, extra: &str| {
            let record = format!(r#"{{"event_id":"e1","event_time":1,"event_type":"view","user_id":{user}{extra}}}"#);
            keys.key(record.as_bytes()).unwrap()
        };
        assert_eq!(key("\"u1\"", "").as_deref(), Some(&b"u1"[..]));
        assert_eq!(key("\"u1\"", ",\"price\":2").as_deref(), Some(&b"u1"[..]));
        assert_eq!(key("null", "").as_deref(), Some(&b"e1"[..]));
        assert_eq!(keys.key(b"no json").unwrap(), None);
        assert_eq!(keys.key(br#"{"event_time":1,"event_type":"view"}"#).unwrap(), None);
    }
}
