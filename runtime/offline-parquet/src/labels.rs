//! Label files: the times and keys a join asks with, and every column of the file, to be carried through.

use crate::files::{Subfolders, table_files};
use crate::table::{Content, Format, Part, TableFile, fit, merge_schemas, open_table};
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use plumb_columnar::{Batches, ParquetFile, Selection};
use plumb_core::column::DataType;
use plumb_pipeline::offline::audit::Table;
use plumb_pipeline::offline::{LabelReader, Labels};
use plumb_pipeline::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Labels in memory: of a file, or of several one after the other.
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
        Self::read_all(&[path.to_owned()], time_column, keys)
    }

    /// As [`read`](Self::read), of several files one after the other; of a folder those in it, in byte order of their
    /// names. All must have the same columns.
    pub fn read_all(paths: &[PathBuf], time_column: &str, keys: &[String]) -> Result<Self> {
        Self::of(TableFile::read_all(paths)?, time_column, keys)
    }

    fn of(file: TableFile, time_column: &str, keys: &[String]) -> Result<Self> {
        let (times, time_without_zone) = file.times(time_column)?;
        let mut columns = BTreeMap::new();
        for key in keys {
            columns.insert(key.clone(), file.column(key, &DataType::Utf8)?);
        }
        if let Some(row) = (0..times.len()).find(|&row| !times.is_valid(row)) {
            let (path, row) = file.place(row);
            let why = format!("label row {row}: `{time_column}` is null, every label needs a time");
            return Err(Error::invalid(format!("`{}`: {why}", path.display())));
        }
        let labels = Labels::new(time_column, &times, columns)
            .map_err(|error| Error::invalid(format!("{}: {error}", file.shown())))?;
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

    /// The files, each with the number of its rows, in order.
    pub fn files(&self) -> impl Iterator<Item = (&Path, u64)> {
        self.file.parts.iter().map(|part| (part.path.as_path(), part.rows as u64))
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

/// Labels window by window, each a [`LabelFile`] of its own: what is in memory of Parquet files is one window, of one
/// file. CSV files are one window, for the types of their columns are known from all of it.
#[derive(Debug)]
pub struct LabelWindows {
    time_column: String,
    keys: Vec<String>,
    files: Vec<(PathBuf, u64)>,
    rest: Rest,
    /// Whether there was a window.
    any: bool,
}

#[derive(Debug)]
enum Rest {
    /// The columns of all files, those to come by number, and the one at hand with how many of its rows were read.
    Parquet {
        schema: SchemaRef,
        files: std::vec::IntoIter<(usize, ParquetFile)>,
        at: Option<(Part, Box<Batches>)>,
    },
    Whole(Box<LabelFile>),
    Nothing,
}

impl LabelWindows {
    /// Opens label files, as [`LabelFile::read_all`] does.
    pub fn open(paths: &[PathBuf], time_column: &str, keys: &[String]) -> Result<Self> {
        let paths = table_files(paths, Subfolders::Refused)?;
        let is_parquet = |path: &PathBuf| Ok(Format::of(path)? == Format::Parquet);
        let all_parquet = paths.iter().map(is_parquet).collect::<Result<Vec<bool>>>()?.into_iter().all(|is| is);
        let (rest, files) = match paths.first() {
            Some(first) if all_parquet => {
                let files = paths.iter().map(|path| open_table(path)).collect::<Result<Vec<_>>>()?;
                let mut schema = files[0].schema().clone();
                for (path, file) in paths.iter().zip(&files).skip(1) {
                    schema = merge_schemas((first, &schema), (path, file.schema()))?;
                }
                let rows = paths.iter().zip(&files).map(|(path, file)| (path.clone(), file.rows())).collect();
                let files = files.into_iter().enumerate().collect::<Vec<_>>().into_iter();
                (Rest::Parquet { schema, files, at: None }, rows)
            }
            _ => {
                let whole = LabelFile::read_all(&paths, time_column, keys)?;
                let rows = whole.files().map(|(path, rows)| (path.to_owned(), rows)).collect();
                (Rest::Whole(Box::new(whole)), rows)
            }
        };
        Ok(Self { time_column: time_column.to_owned(), keys: keys.to_vec(), files, rest, any: false })
    }

    /// The files, each with the number of its rows, in order.
    pub fn files(&self) -> &[(PathBuf, u64)] {
        &self.files
    }

    /// The next window; `None` after the last. Files without rows have one, without rows.
    pub fn next_window(&mut self) -> Result<Option<LabelFile>> {
        let any = std::mem::replace(&mut self.any, true);
        let Rest::Parquet { schema, files, at } = &mut self.rest else {
            return Ok(match std::mem::replace(&mut self.rest, Rest::Nothing) {
                Rest::Whole(file) => Some(*file),
                _ => None,
            });
        };
        let window = |part: Part, batches, schema: &SchemaRef| {
            let content = Content::Parquet { schema: schema.clone(), batches };
            LabelFile::of(TableFile { parts: vec![part], content }, &self.time_column, &self.keys).map(Some)
        };
        loop {
            if let Some((part, batches)) = at {
                if let Some(batch) = batches.next().transpose()? {
                    let batch = fit(&part.path, &batch, schema)?;
                    part.skipped += part.rows;
                    part.rows = batch.num_rows();
                    return window(part.clone(), vec![batch], schema);
                }
                *at = None;
            }
            let Some((file, parquet)) = files.next() else { break };
            let selection = Selection { batch_rows: WINDOW_ROWS, ..Selection::default() };
            let part = Part { path: parquet.path().to_owned(), first_row: 0, rows: 0, file, skipped: 0 };
            *at = Some((part, Box::new(parquet.batches(&selection)?)));
        }
        match self.files.first() {
            Some((path, _)) if !any => {
                let part = Part { path: path.clone(), first_row: 0, rows: 0, file: 0, skipped: 0 };
                window(part, Vec::new(), schema)
            }
            _ => Ok(None),
        }
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

    /// The files, each with the number of its rows, in order.
    pub fn files(&self) -> &[(PathBuf, u64)] {
        self.windows.files()
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
