//! Synthetic events of a shop, the same for the same options everywhere and for ever.
//!
//! [`shop`] says what happens; this module writes it down. Memory does not grow with the number of events.

mod shop;
mod write;

use plumb_core::event::{EventBatch, SourceSchema};
use plumb_core::time::DAY_US;
use plumb_pipeline::{Error, Result};
use std::path::Path;
use std::sync::Arc;

/// Rows per batch that is written.
const BATCH_ROWS: usize = 8192;

/// What to generate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GenerateOptions {
    /// Rows of the file, later copies of an id included.
    pub events: u64,
    /// How many users there are; not all of them need to show up.
    pub users: u64,
    /// How many items there are; likewise.
    pub items: u64,
    /// Over how many days the events spread.
    pub days: u64,
    /// The same seed gives the same events.
    pub seed: u64,
    /// The start of the first day, µs since the Unix epoch.
    pub start_us: i64,
}

impl GenerateOptions {
    fn check(&self) -> Result<()> {
        let wrong = |flag: &str, why: &str| Err(Error::invalid(format!("`--{flag}` {why}")));
        if self.events == 0 {
            return wrong("events", "is 0, expected at least 1");
        }
        if self.users == 0 {
            return wrong("users", "is 0, expected at least 1");
        }
        if self.items == 0 {
            return wrong("items", "is 0, expected at least 1");
        }
        let end_us = i64::try_from(self.days).ok().and_then(|days| days.checked_mul(DAY_US));
        match end_us.and_then(|span_us| self.start_us.checked_add(span_us)) {
            // The calendar's last day, less what follows a session.
            Some(end_us) if self.days > 0 && end_us < 253_000_000_000_000_000 => Ok(()),
            _ => wrong("days", "must be at least 1 and end before the year 9987"),
        }
    }
}

/// The events of the default schema, in the order of the file.
#[derive(Debug)]
pub struct Generator {
    shop: shop::Shop,
    schema: Arc<SourceSchema>,
    left: u64,
    row: u64,
}

impl Generator {
    /// Begins with the first event; an error names the option that makes no sense.
    pub fn new(options: &GenerateOptions) -> Result<Self> {
        options.check()?;
        let schema = Arc::new(SourceSchema::default_schema());
        Ok(Self { shop: shop::Shop::new(options), schema, left: options.events, row: 0 })
    }
}

impl Iterator for Generator {
    type Item = EventBatch;

    fn next(&mut self) -> Option<EventBatch> {
        let mut batch = EventBatch::new(self.schema.clone());
        while self.left > 0 && batch.len() < BATCH_ROWS {
            self.shop.next_event().push(&mut batch, self.row);
            self.row += 1;
            self.left -= 1;
        }
        (!batch.is_empty()).then_some(batch)
    }
}

/// Writes events to a `.parquet`, `.jsonl`, `.ndjson` or `.csv` file; `progress` gets the rows written so far.
///
/// The file appears under its name when it is complete; an error leaves nothing behind.
pub fn generate(options: &GenerateOptions, out: &Path, progress: &mut dyn FnMut(u64)) -> Result<()> {
    let generator = Generator::new(options)?;
    let mut writer = write::EventWriter::create(out, &generator.schema)?;
    let mut rows = 0;
    for batch in generator {
        rows += batch.len() as u64;
        writer.write(batch)?;
        progress(rows);
    }
    writer.finish()
}

#[cfg(test)]
mod tests;
