//! The archive of accepted events: one Parquet file per commit and UTC date, staged before the commit,
//! found under its date after it.

mod letters;
mod merge;
mod scan;
mod split;
mod stage;
#[cfg(test)]
mod tests;

pub use letters::read_dead_letters;
pub use scan::ArchiveReader;

use plumb_core::event::{EventBatch, SourceSchema};
use plumb_pipeline::commit::waiting::Step;
use plumb_pipeline::port::{Archive, ArchiveScan, DeadLetter, EventReader, ObjectStore, RowFile};
use plumb_pipeline::{Error, Result};
use std::sync::Arc;

/// Columns of the archive beside the source's own: where the event stood in the log, and its record's time.
const SOURCE: &str = "_source";
const PARTITION: &str = "_partition";
const OFFSET: &str = "_offset";
const INGEST_TIME: &str = "_ingest_time";
/// In dead letters.
const RECORD_TIME: &str = "_record_time";

/// The archive in an object store.
pub struct ParquetArchive {
    store: Arc<dyn ObjectStore>,
}

impl std::fmt::Debug for ParquetArchive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParquetArchive").finish_non_exhaustive()
    }
}

impl ParquetArchive {
    /// The archive of a store.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store }
    }

    /// Reads committed events batch by batch; what [`Archive::scan`] visits, with each batch's partition.
    pub fn read(&self, schema: &Arc<SourceSchema>, scan: ArchiveScan) -> ArchiveReader {
        ArchiveReader::new(self.store.clone(), schema.clone(), scan)
    }
}

impl Archive for ParquetArchive {
    fn stage(&self, partition: u32, name: &str, batches: &[EventBatch]) -> Result<Vec<RowFile>> {
        stage::events(&*self.store, partition, name, batches)
    }

    fn stage_dead_letters(
        &self,
        source: &str,
        partition: u32,
        name: &str,
        letters: &[DeadLetter],
    ) -> Result<Vec<RowFile>> {
        stage::dead_letters(&*self.store, source, partition, name, letters)
    }

    fn merge(&self, groups: &[(String, Vec<RowFile>)]) -> Result<Vec<RowFile>> {
        merge::merge(&self.store, groups)
    }

    fn spread(&self, name: &str, files: &[RowFile], step: Step) -> Result<Vec<RowFile>> {
        merge::spread(&self.store, name, files, step)
    }

    fn read(&self, schema: &Arc<SourceSchema>, scan: ArchiveScan) -> Result<Box<dyn EventReader>> {
        Ok(Box::new(ParquetArchive::read(self, schema, scan)))
    }

    fn scan(
        &self,
        schema: &Arc<SourceSchema>,
        scan: &ArchiveScan,
        visit: &mut dyn FnMut(u32, EventBatch) -> Result<()>,
    ) -> Result<()> {
        let mut reader = ParquetArchive::read(self, schema, scan.clone());
        while let Some((partition, events)) = reader.next_of_partition()? {
            visit(partition, events)?;
        }
        Ok(())
    }
}

/// Checks that a source's fields can stand in the archive beside its own columns.
pub fn check_schema(schema: &SourceSchema) -> Result<()> {
    let mut names = vec![schema.id_field.as_str(), &schema.time_field];
    names.extend(schema.fields.iter().map(|field| field.name.as_str()));
    for (index, name) in names.iter().enumerate() {
        let why = match *name {
            SOURCE | PARTITION | OFFSET | INGEST_TIME => "is a column that the archive adds",
            "date" => "is the archive's folder partition",
            _ if names[..index].contains(name) => "is named twice",
            _ => continue,
        };
        return Err(Error::invalid(format!("field `{name}` of source `{}` {why}; rename it", schema.source)));
    }
    Ok(())
}
