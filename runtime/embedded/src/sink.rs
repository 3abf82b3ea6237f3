//! The log as a place to put records.

use crate::EmbeddedLog;
use plumb_pipeline::Result;
use plumb_pipeline::clock::Clock;
use plumb_pipeline::port::{EventLog, EventSink, SinkRecord};
use plumb_pipeline::route::partition_of;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Appends records to a log, each in the partition of its key (of its bytes, if it has none).
#[derive(Debug)]
pub struct LogSink<C> {
    log: Arc<EmbeddedLog>,
    clock: C,
}

impl<C: Clock> LogSink<C> {
    /// A sink whose records are stamped by `clock`.
    pub fn new(log: Arc<EmbeddedLog>, clock: C) -> Self {
        Self { log, clock }
    }
}

impl<C: Clock> EventSink for LogSink<C> {
    fn append(&self, records: &[SinkRecord<'_>]) -> Result<BTreeMap<u32, u64>> {
        let partitions = self.log.partitions();
        let routed: Vec<(u32, Vec<u8>)> = records
            .iter()
            .map(|record| (partition_of(record.key.unwrap_or(record.bytes), partitions), record.bytes.to_vec()))
            .collect();
        self.log.append(self.clock.now_us(), &routed)
    }
}
