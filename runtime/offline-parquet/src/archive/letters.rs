//! Reading the quarantine dataset: `dead_letters/<source>/*.parquet`.

use super::scan::open_committed;
use super::{OFFSET, PARTITION, RECORD_TIME};
use arrow_array::RecordBatch;
use plumb_columnar::{ParquetFile, Selection, from_arrow};
use plumb_core::column::{Column, DataType};
use plumb_pipeline::port::{DeadLetter, ObjectStore, RowFile};
use plumb_pipeline::{Error, Result};
use std::sync::Arc;

/// Letters per batch; each may hold a record of some size.
const BATCH_ROWS: usize = 1024;

/// Shows `visit` the dead letters of a committed file with their partition, in the order they were written.
pub fn read_dead_letters(
    store: &Arc<dyn ObjectStore>,
    file: &RowFile,
    visit: &mut dyn FnMut(u32, DeadLetter) -> Result<()>,
) -> Result<()> {
    let parquet = open_committed(store, file)?;
    for batch in parquet.batches(&Selection { batch_rows: BATCH_ROWS, ..Selection::default() })? {
        let batch = batch?;
        let column = |name: &str, wanted: &DataType| column(&parquet, &batch, name, wanted);
        let partitions = column(PARTITION, &DataType::I64)?;
        let offsets = column(OFFSET, &DataType::I64)?;
        let times = column(RECORD_TIME, &DataType::Timestamp)?;
        let bytes = column("bytes", &DataType::Bytes)?;
        let reasons = column("reason", &DataType::Utf8)?;
        let views = column("view", &DataType::Utf8)?;
        let damaged = || Error::internal(format!("`{}`: a dead letter has no position", parquet.path().display()));
        let number = |column: &Column, row: usize| column.as_i64().filter(|_| column.is_valid(row)).map(|all| all[row]);
        let text = |column: &Column, row: usize| {
            column.str_bytes(row).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        };
        for row in 0..batch.num_rows() {
            let partition = number(&partitions, row).and_then(|partition| u32::try_from(partition).ok());
            let offset = number(&offsets, row).and_then(|offset| u64::try_from(offset).ok());
            let letter = DeadLetter {
                offset: offset.ok_or_else(damaged)?,
                record_time_us: number(&times, row).ok_or_else(damaged)?,
                bytes: bytes.str_bytes(row).unwrap_or_default().to_vec(),
                reason: text(&reasons, row).unwrap_or_default(),
                view: text(&views, row),
            };
            visit(partition.ok_or_else(damaged)?, letter)?;
        }
    }
    Ok(())
}

fn column(parquet: &ParquetFile, batch: &RecordBatch, name: &str, wanted: &DataType) -> Result<Column> {
    let index = parquet.column(name)?;
    from_arrow(name, batch.column(index), wanted)
        .map_err(|error| Error::invalid(format!("`{}`: {error}", parquet.path().display())))
}
