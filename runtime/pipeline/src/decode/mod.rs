//! From text to columns and back: instants, JSON records.
//!
//! Files of other formats are the edges' (`plumb-source-file`); what they share with JSON, the reading of
//! instants above all, is here, so that one event reads the same from every kind of file.

pub mod json;
pub mod time;

pub use json::JsonDecoder;
pub use time::{TimeUnit, format_rfc3339, parse_rfc3339};
