//! From records to columns and back: instants, JSON records, the port of the other formats.
//!
//! Formats that need more than the standard library and JSON are the edges' (`plumb-formats`, `plumb-source-file`);
//! what they share with JSON, the reading of instants above all, is here, so that one event reads the same from
//! every kind of record and file.

pub mod json;
pub mod time;

pub use json::{JsonDecoder, Record};
pub use time::{TimeUnit, format_rfc3339, parse_rfc3339};

use crate::Result;
use crate::port::SourceBatch;

/// Decodes the records of one source partition, whatever their format.
pub trait RecordDecoder: Send {
    /// Decodes a record to the end of `batch`; one that can never be decoded goes to its `rejected`, with the reason.
    ///
    /// An error says nothing about the record (of kind `Unavailable`: the registry of its schema cannot be reached).
    /// The batch is then as it was, and the record is to be tried again.
    fn decode_into(&mut self, batch: &mut SourceBatch, record: Record<'_>) -> Result<()>;
}

impl RecordDecoder for JsonDecoder {
    fn decode_into(&mut self, batch: &mut SourceBatch, record: Record<'_>) -> Result<()> {
        JsonDecoder::decode_into(self, batch, record);
        Ok(())
    }
}
