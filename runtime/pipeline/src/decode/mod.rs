//! From text to columns and back: instants.

pub mod time;

pub use time::{TimeUnit, format_rfc3339, parse_rfc3339};
