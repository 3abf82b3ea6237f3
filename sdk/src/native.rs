//! The view as the host calls it, without a component around it: for benches and hosts in the same process.

pub use crate::column::{Column, ColumnRef, Text, TextRef, Values, ValuesRef};
pub use crate::view::{Contributions, FeatureBatch, RowError, describe, extract, finalize};
