//! What is in a table of features, and how two tables differ: snapshots, training sets, days.
//!
//! A [`TableProfile`] takes columns batch by batch in bounded memory: exact moments, a summary of ranks that is exact up
//! to [`ranks::LIMIT`] distinct values and says how far off it is beyond ([`Ranks`]), frequent and distinct values
//! ([`Tally`]). [`compare()`] finds drift between two profiles; the formulas are in [`drift`]. Both give text, JSON and
//! a page, and so does the leakage report of an audit ([`html::audit_page`]).
//!
//! Nothing here is a feature value and nothing decides one, so floats may be rounded here as statistics usually are;
//! but equal files give equal figures, whatever the number of threads.
//!
//! Not here: files (columns come from the caller), thresholds as the command line writes them.

pub mod compare;
pub mod drift;
pub mod figures;
pub mod html;
mod json;
pub mod profile;
pub mod ranks;
mod tally;
mod text;

pub use compare::{ColumnDrift, Comparison, Measure, compare};
pub use profile::{Body, ColumnProfile, Kind, Lists, Numbers, TableProfile, Texts, Truths, TypeConflict};
pub use ranks::{Distribution, Ranks};
pub use tally::{Distinct, Frequent, Tally};
