//! The offline store: archive, snapshots and training sets as Parquet.
//!
//! [`ParquetArchive`] stages accepted events beside the manifests and reads them back; [`SnapshotWriter`] takes
//! the values of a backfill. Both write Hive-partitioned folders that hold finished rows only, once each, so DuckDB,
//! Polars, pandas and Spark read them with a plain glob. [`LabelFile`] and [`read_table`] are the files that an audit
//! compares; [`LabelWindows`], [`TrainingWriter`] and [`LocalScratch`] are those on both ends of a join and beside it;
//! [`scan_tables`] goes through tables of any size.

mod archive;
mod csv;
mod dates;
mod digest;
mod files;
mod hashed_file;
mod hints;
mod labels;
mod manifest;
mod rows_hash;
mod scan;
mod scratch;
mod snapshot;
mod table;
#[cfg(test)]
mod tests;
mod text;
mod training;
mod values;

pub use archive::{ArchiveReader, ParquetArchive, check_schema, read_dead_letters};
pub use dates::date_of_day;
pub use digest::{FileDigest, digest_files};
pub use files::{Subfolders, table_files};
pub use labels::{LabelFile, LabelScan, LabelWindows};
pub use manifest::{
    EventsInput, FeatureEntry, InputFile, LabelsInput, Manifest, OptionsUsed, OutputFile, RowsMade, SchemaColumn,
    SourceField, SourceRules, ViewUsed,
};
pub use scan::{Scanned, TableBatch, scan_tables};
pub use scratch::LocalScratch;
pub use snapshot::{SnapshotWriter, StreamSnapshots};
pub use table::read_table;
pub use training::{StagedSet, Target, TrainingWriter};
