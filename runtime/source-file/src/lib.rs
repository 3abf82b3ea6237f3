//! Events from Parquet, JSON Lines and CSV files.
//!
//! One reading of a file serves three users: [`FileSource`] is the source of `plumb run`, with positions
//! that survive a restart; [`AcceptedEvents`] gives the offline commands the events that count, by the very
//! rules of ingest; [`RawRecords`] gives `plumb produce` the records themselves. [`generate()`] writes synthetic ones. What a record means is
//! `plumb-pipeline`'s ([`plumb_pipeline::decode`], [`plumb_pipeline::accept`]); how Parquet becomes columns
//! is `plumb-columnar`'s. Label files are read elsewhere (`plumb-offline-parquet`).
//!
//! Rows are counted from 0 in every file. In a JSON Lines file a row is a line (blank ones count, and hold
//! no record), in a CSV file a record after the header. A field that a file lacks reads as null; a file
//! without the time field, or one that is empty, cut short or of another format is refused by name.

mod accepted;
mod csv_rows;
mod files;
mod generate;
mod intake;
mod json_lines;
mod parallel;
mod parquet_rows;
mod raw;
mod reader;
mod source;

pub use accepted::{AcceptedEvents, EventOptions, IdsWithin, Refusal};
pub use files::{EventFile, Format, find, require_ingest_times, would_find};
pub use generate::{GenerateOptions, Generator, generate};
pub use raw::{RawBatch, RawRecord, RawRecords};
pub use source::{FileSource, FileSourceOptions};

#[cfg(test)]
mod tests;
