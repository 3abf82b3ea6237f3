//! Label files: the times and keys a join asks with, and every column of the file, to be carried through.

use crate::table::TableFile;
use arrow_array::RecordBatch;
use plumb_core::column::DataType;
use plumb_pipeline::Result;
use plumb_pipeline::offline::Labels;
use plumb_pipeline::offline::audit::Table;
use std::collections::BTreeMap;
use std::path::Path;

/// A label file in memory.
#[derive(Debug, Clone)]
pub struct LabelFile {
    file: TableFile,
    time_column: String,
    labels: Labels,
    time_without_zone: bool,
}

impl LabelFile {
    /// Reads Parquet or CSV by ending. `time_column` holds the label times: a timestamp or date of any unit, RFC 3339
    /// text, or an integer of milliseconds; `keys` are the key fields of the entities asked, strings or integers.
    /// A missing or ill-typed column is an error that names the file, the column, and the columns there are.
    pub fn read(path: &Path, time_column: &str, keys: &[String]) -> Result<Self> {
        let file = TableFile::read(path)?;
        let (times, time_without_zone) = file.times(time_column)?;
        let mut columns = BTreeMap::new();
        for key in keys {
            columns.insert(key.clone(), file.column(key, &DataType::Utf8)?);
        }
        let labels = Labels::new(time_column, &times, columns)
            .map_err(|error| plumb_pipeline::Error::invalid(format!("`{}`: {error}", path.display())))?;
        Ok(Self { file, time_column: time_column.to_owned(), labels, time_without_zone })
    }

    /// The times and keys.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Whether some time carried no zone and was taken as UTC, which is worth one note to the caller.
    pub fn time_without_zone(&self) -> bool {
        self.time_without_zone
    }

    /// The names of all columns, in file order.
    pub fn names(&self) -> Vec<&str> {
        self.file.names()
    }

    /// All columns that plumb has a type for, for an audit.
    pub fn table(&self) -> Result<Table> {
        self.file.table(&self.types())
    }

    /// The types of the table's columns, to read a training set of these labels with.
    pub fn column_types(&self) -> Result<BTreeMap<String, DataType>> {
        Ok(self.table()?.columns.into_iter().map(|(name, column)| (name, column.data_type())).collect())
    }

    /// Rows of all columns, unchanged.
    pub(crate) fn take(&self, rows: &[u32]) -> Result<RecordBatch> {
        self.file.take(rows, &self.types())
    }

    pub(crate) fn file(&self) -> &TableFile {
        &self.file
    }

    fn types(&self) -> BTreeMap<String, DataType> {
        let keys = self.labels.keys.keys().map(|key| (key.clone(), DataType::Utf8));
        keys.chain([(self.time_column.clone(), DataType::Timestamp)]).collect()
    }
}
