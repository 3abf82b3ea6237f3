//! Label files: the times and keys a join asks with, and every column of the file, to be carried through.

use crate::table::{Content, Format, TableFile};
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use plumb_columnar::{Batches, ParquetFile, Selection};
use plumb_core::column::DataType;
use plumb_pipeline::offline::audit::Table;
use plumb_pipeline::offline::{LabelReader, Labels};
use plumb_pipeline::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

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
        Self::of(TableFile::read(path)?, time_column, keys)
    }

    fn of(file: TableFile, time_column: &str, keys: &[String]) -> Result<Self> {
        let (times, time_without_zone) = file.times(time_column)?;
        let mut columns = BTreeMap::new();
        for key in keys {
            columns.insert(key.clone(), file.column(key, &DataType::Utf8)?);
        }
        let labels = Labels::new(time_column, &times, columns)
            .map_err(|error| Error::invalid(format!("`{}`: {error}", file.path.display())))?;
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

/// Rows of a window of labels.
pub(crate) const WINDOW_ROWS: usize = 64 * 1024;

/// A label file window by window, each a [`LabelFile`] of its own: what is in memory of a Parquet file is one window.
/// A CSV file is one window, for the types of its columns are known from all of it.
#[derive(Debug)]
pub struct LabelWindows {
    path: PathBuf,
    time_column: String,
    keys: Vec<String>,
    rest: Rest,
    /// The rows of the windows before.
    rows: u64,
}

#[derive(Debug)]
enum Rest {
    Batches(SchemaRef, Box<Batches>),
    Whole(Box<LabelFile>),
    Nothing,
}

impl LabelWindows {
    /// Opens a label file, as [`LabelFile::read`] does.
    pub fn open(path: &Path, time_column: &str, keys: &[String]) -> Result<Self> {
        let rest = match Format::of(path)? {
            Format::Csv => Rest::Whole(Box::new(LabelFile::read(path, time_column, keys)?)),
            Format::Parquet => {
                let file = ParquetFile::open(path)?;
                let selection = Selection { batch_rows: WINDOW_ROWS, ..Selection::default() };
                Rest::Batches(file.schema().clone(), Box::new(file.batches(&selection)?))
            }
        };
        Ok(Self { path: path.to_owned(), time_column: time_column.to_owned(), keys: keys.to_vec(), rest, rows: 0 })
    }

    /// The next window; `None` after the last. A file without rows has one, without rows.
    pub fn next_window(&mut self) -> Result<Option<LabelFile>> {
        let window = match std::mem::replace(&mut self.rest, Rest::Nothing) {
            Rest::Nothing => return Ok(None),
            Rest::Whole(file) => *file,
            Rest::Batches(schema, mut batches) => {
                let batches = match batches.next().transpose()? {
                    Some(batch) => {
                        self.rest = Rest::Batches(schema.clone(), batches);
                        vec![batch]
                    }
                    None if self.rows > 0 => return Ok(None),
                    None => Vec::new(),
                };
                let file = TableFile { path: self.path.clone(), content: Content::Parquet { schema, batches } };
                LabelFile::of(file, &self.time_column, &self.keys).map_err(|error| match self.rows {
                    0 => error,
                    // The windows' rows are counted from 1 each.
                    rows => Error::invalid(format!("{error} (counted from row {} of the file)", rows + 1)),
                })?
            }
        };
        self.rows += window.labels().len() as u64;
        Ok(Some(window))
    }
}

/// Reads the labels of a file for a join, and takes note of what is worth saying of them.
#[derive(Debug)]
pub struct LabelScan {
    windows: LabelWindows,
    time_without_zone: bool,
}

impl LabelScan {
    /// Reads these windows.
    pub fn new(windows: LabelWindows) -> Self {
        Self { windows, time_without_zone: false }
    }

    /// Whether some time read so far carried no zone and was taken as UTC.
    pub fn time_without_zone(&self) -> bool {
        self.time_without_zone
    }
}

impl LabelReader for LabelScan {
    fn next_labels(&mut self) -> Result<Option<Labels>> {
        let Some(window) = self.windows.next_window()? else { return Ok(None) };
        self.time_without_zone |= window.time_without_zone;
        Ok(Some(window.labels))
    }
}
