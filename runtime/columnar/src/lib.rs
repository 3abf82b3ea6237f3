//! Columns to and from Arrow and Parquet, shared by the edges that read and write files.
//!
//! [`from_arrow`] takes what other programs write (any integer width, any timestamp unit, any string
//! layout) and gives the one shape plumb computes with; [`to_arrow`] is its inverse. [`ParquetFile`] reads
//! and [`ParquetWriter`] writes. No Arrow type leaves the edges that use this crate.

mod bytes_of;
mod compressors;
mod float_order;
mod from_arrow;
mod number_column;
mod parquet_file;
mod parquet_writer;
mod runs;
mod stored_types;
mod to_arrow;

pub use from_arrow::{ConvertError, Converted, Refused, convert, from_arrow, has_no_zone, times_from_integers};
pub use parquet_file::{Batches, ParquetFile, Selection};
pub use parquet_writer::{ColumnHint, Layout, ParquetWriter};
pub use to_arrow::{arrow_type, into_arrow, to_arrow};

#[cfg(test)]
mod tests;
