//! Label files: the times and keys a join asks with, and every column of the file, to be carried through.

use crate::csv::{CsvFile, CsvReader};
use crate::files::{Subfolders, table_files};
use crate::table::{Content, Format, Part, TableFile, fit, merge_schemas, open_table, other_columns, same_names};
use crate::values::Inference;
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use plumb_columnar::{Batches, ParquetFile, Selection};
use plumb_core::column::DataType;
use plumb_pipeline::offline::audit::Table;
use plumb_pipeline::offline::{LabelReader, Labels};
use plumb_pipeline::parallel::Ahead;
use plumb_pipeline::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::vec::IntoIter;

/// Labels in memory: of a file, or of several one after the other.
#[derive(Debug, Clone)]
pub struct LabelFile {
    file: TableFile,
    time_column: String,
    labels: Labels,
    time_without_zone: bool,
    /// Of columns of CSV whose type more rows have a say in than are here.
    known: Arc<BTreeMap<String, DataType>>,
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
        Self::of(TableFile::read_all(paths)?, time_column, keys, Arc::default())
    }

    fn of(file: TableFile, time_column: &str, keys: &[String], known: Arc<BTreeMap<String, DataType>>) -> Result<Self> {
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
        Ok(Self { file, time_column: time_column.to_owned(), labels, time_without_zone, known })
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

    /// The times and keys with [`table`](Self::table), and nothing else of the file in memory.
    pub fn into_parts(self) -> Result<(Labels, Table)> {
        let types = self.types();
        Ok((self.labels, self.file.into_table(&types)?))
    }

    /// The types of the table's columns, to read a training set of these labels with.
    pub fn column_types(&self) -> Result<BTreeMap<String, DataType>> {
        Ok(self.table()?.columns.into_iter().map(|(name, column)| (name, column.data_type())).collect())
    }

    #[cfg(test)]
    pub(crate) fn take(&self, rows: &[u32]) -> Result<RecordBatch> {
        self.file.take(rows, &self.types())
    }

    fn types(&self) -> BTreeMap<String, DataType> {
        types(&self.known, self.labels.keys.keys(), &self.time_column)
    }
}

/// The types of the columns that have one of their own.
fn types<'a>(
    known: &BTreeMap<String, DataType>,
    keys: impl Iterator<Item = &'a String>,
    time_column: &str,
) -> BTreeMap<String, DataType> {
    let mut types = known.clone();
    types.extend(keys.map(|key| (key.clone(), DataType::Utf8)));
    types.insert(time_column.to_owned(), DataType::Timestamp);
    types
}

/// Rows of label files as they came, to be carried through.
#[derive(Debug)]
pub(crate) struct LabelRows {
    file: TableFile,
    /// Of the columns of CSV that have a type of their own.
    types: Arc<BTreeMap<String, DataType>>,
}

impl LabelRows {
    /// The names of all columns, in file order.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.file.names()
    }

    /// How many rows.
    pub(crate) fn len(&self) -> usize {
        self.file.rows()
    }

    /// Rows of all columns, unchanged.
    pub(crate) fn take(&self, rows: &[u32]) -> Result<RecordBatch> {
        self.file.take(rows, &self.types)
    }

    pub(crate) fn file(&self) -> &TableFile {
        &self.file
    }
}

/// Rows of a window of labels.
pub(crate) const WINDOW_ROWS: usize = 64 * 1024;

/// Labels window by window, each a [`LabelFile`] of its own: what is in memory is one window, of one file. CSV files are
/// read once more before, for the types of their columns are known from all of them.
#[derive(Debug)]
pub struct LabelWindows {
    time_column: String,
    keys: Vec<String>,
    files: Vec<(PathBuf, u64)>,
    rest: Rest,
    /// The types of the columns of CSV files.
    known: Arc<BTreeMap<String, DataType>>,
    /// Whether there was a window.
    any: bool,
}

/// The files to come by number, and the one at hand with how many of its rows were read.
#[derive(Debug)]
enum Rest {
    Parquet {
        /// The columns of all files.
        schema: SchemaRef,
        files: IntoIter<(usize, ParquetFile)>,
        at: Option<(Part, Box<Batches>)>,
    },
    Csv {
        /// The columns of all files.
        names: Vec<String>,
        files: IntoIter<(usize, PathBuf)>,
        /// With the places of the columns in it.
        at: Option<(Part, Box<CsvReader>, Vec<usize>)>,
    },
}

impl LabelWindows {
    /// Opens label files, as [`LabelFile::read_all`] does.
    pub fn open(paths: &[PathBuf], time_column: &str, keys: &[String]) -> Result<Self> {
        let paths = table_files(paths, Subfolders::Refused)?;
        let formats = paths.iter().map(|path| Format::of(path)).collect::<Result<Vec<_>>>()?;
        let Some((first, format)) = paths.first().zip(formats.first()) else {
            return Err(Error::invalid("no label file is given"));
        };
        if let Some(other) = formats.iter().position(|other| other != format) {
            return Err(other_columns(first, &paths[other], "one is Parquet, the other is CSV"));
        }
        let (rest, files, known) = match format {
            Format::Parquet => {
                let files = paths.iter().map(|path| open_table(path)).collect::<Result<Vec<_>>>()?;
                let mut schema = files[0].schema().clone();
                for (path, file) in paths.iter().zip(&files).skip(1) {
                    schema = merge_schemas((first, &schema), (path, file.schema()))?;
                }
                let rows = paths.iter().zip(&files).map(|(path, file)| (path.clone(), file.rows())).collect();
                let files = files.into_iter().enumerate().collect::<Vec<_>>().into_iter();
                (Rest::Parquet { schema, files, at: None }, rows, BTreeMap::new())
            }
            Format::Csv => {
                let (names, rows, known) = look_through(&paths)?;
                let files = paths.into_iter().enumerate().collect::<Vec<_>>().into_iter();
                (Rest::Csv { names, files, at: None }, rows, known)
            }
        };
        let (time_column, keys) = (time_column.to_owned(), keys.to_vec());
        Ok(Self { time_column, keys, files, rest, known: Arc::new(known), any: false })
    }

    /// The same labels from the first one on.
    pub fn again(&self) -> Result<Self> {
        let paths: Vec<PathBuf> = self.files.iter().map(|(path, _)| path.clone()).collect();
        let Rest::Csv { names, .. } = &self.rest else {
            return Self::open(&paths, &self.time_column, &self.keys);
        };
        let files = paths.into_iter().enumerate().collect::<Vec<_>>().into_iter();
        Ok(Self {
            time_column: self.time_column.clone(),
            keys: self.keys.clone(),
            files: self.files.clone(),
            rest: Rest::Csv { names: names.clone(), files, at: None },
            known: self.known.clone(),
            any: false,
        })
    }

    /// The files, each with the number of its rows, in order.
    pub fn files(&self) -> &[(PathBuf, u64)] {
        &self.files
    }

    /// The next window; `None` after the last. Files without rows have one, without rows.
    pub fn next_window(&mut self) -> Result<Option<LabelFile>> {
        let Some(table) = self.next_table()? else { return Ok(None) };
        LabelFile::of(table, &self.time_column, &self.keys, self.known.clone()).map(Some)
    }

    /// The windows, each as it came.
    pub(crate) fn into_rows(mut self) -> impl FnMut() -> Result<Option<LabelRows>> + Send {
        let types = Arc::new(types(&self.known, self.keys.iter(), &self.time_column));
        move || Ok(self.next_table()?.map(|file| LabelRows { file, types: types.clone() }))
    }

    fn next_table(&mut self) -> Result<Option<TableFile>> {
        let any = std::mem::replace(&mut self.any, true);
        let next = match &mut self.rest {
            Rest::Parquet { schema, files, at } => next_batch(schema, files, at)?,
            Rest::Csv { names, files, at } => next_rows(names, files, at)?,
        };
        let table = match (next, self.files.first()) {
            (Some(table), _) => return Ok(Some(table)),
            (None, Some((path, _))) if !any => {
                let part = Part { path: path.clone(), first_row: 0, rows: 0, file: 0, skipped: 0 };
                let content = match &self.rest {
                    Rest::Parquet { schema, .. } => Content::Parquet { schema: schema.clone(), batches: Vec::new() },
                    Rest::Csv { names, .. } => {
                        Content::Csv(CsvFile { names: names.clone(), columns: vec![Vec::new(); names.len()] })
                    }
                };
                Some(TableFile { parts: vec![part], content })
            }
            _ => None,
        };
        Ok(table)
    }
}

/// The columns of CSV files, how many rows each has, and the types that all rows together give the columns.
type LookedThrough = (Vec<String>, Vec<(PathBuf, u64)>, BTreeMap<String, DataType>);

fn look_through(paths: &[PathBuf]) -> Result<LookedThrough> {
    let (mut names, mut files, mut types): (Vec<String>, _, Vec<Inference>) = (Vec::new(), Vec::new(), Vec::new());
    for path in paths {
        let mut reader = CsvReader::open(path)?;
        if files.is_empty() {
            names = reader.names().to_vec();
            types = vec![Inference::new(); names.len()];
        }
        let places = places(&paths[0], &names, &reader)?;
        let mut rows = 0;
        loop {
            let window = reader.rows(WINDOW_ROWS)?;
            let read = window.rows();
            for (inference, &place) in types.iter_mut().zip(&places) {
                inference.look(&window.columns[place]);
            }
            rows += read as u64;
            if read < WINDOW_ROWS {
                break;
            }
        }
        files.push((path.clone(), rows));
    }
    let types = names.iter().cloned().zip(types.iter().map(Inference::data_type)).collect();
    Ok((names, files, types))
}

/// Where the columns of the first file are in another one.
fn places(first: &Path, names: &[String], reader: &CsvReader) -> Result<Vec<usize>> {
    fn words(names: &[String]) -> Vec<&str> {
        names.iter().map(String::as_str).collect()
    }
    same_names((first, &words(names)), (reader.path(), &words(reader.names())))
}

fn next_batch(
    schema: &SchemaRef,
    files: &mut IntoIter<(usize, ParquetFile)>,
    at: &mut Option<(Part, Box<Batches>)>,
) -> Result<Option<TableFile>> {
    loop {
        if let Some((part, batches)) = at {
            if let Some(batch) = batches.next().transpose()? {
                let batch = fit(&part.path, &batch, schema)?;
                part.skipped += part.rows;
                part.rows = batch.num_rows();
                let content = Content::Parquet { schema: schema.clone(), batches: vec![batch] };
                return Ok(Some(TableFile { parts: vec![part.clone()], content }));
            }
            *at = None;
        }
        let Some((file, parquet)) = files.next() else { return Ok(None) };
        let selection = Selection { batch_rows: WINDOW_ROWS, ..Selection::default() };
        let part = Part { path: parquet.path().to_owned(), first_row: 0, rows: 0, file, skipped: 0 };
        *at = Some((part, Box::new(parquet.batches(&selection)?)));
    }
}

fn next_rows(
    names: &[String],
    files: &mut IntoIter<(usize, PathBuf)>,
    at: &mut Option<(Part, Box<CsvReader>, Vec<usize>)>,
) -> Result<Option<TableFile>> {
    loop {
        if let Some((part, reader, places)) = at {
            let mut window = reader.rows(WINDOW_ROWS)?;
            if window.rows() > 0 {
                part.skipped += part.rows;
                part.rows = window.rows();
                let columns = places.iter().map(|&place| std::mem::take(&mut window.columns[place])).collect();
                let content = Content::Csv(CsvFile { names: names.to_vec(), columns });
                return Ok(Some(TableFile { parts: vec![part.clone()], content }));
            }
            *at = None;
        }
        let Some((file, path)) = files.next() else { return Ok(None) };
        let reader = CsvReader::open(&path)?;
        let places = places(&path, names, &reader)?;
        *at = Some((Part { path, first_row: 0, rows: 0, file, skipped: 0 }, Box::new(reader), places));
    }
}

/// Reads the labels of a file for a join, and takes note of what is worth saying of them.
#[derive(Debug)]
pub struct LabelScan {
    files: Vec<(PathBuf, u64)>,
    windows: Ahead<LabelFile>,
    time_without_zone: bool,
}

impl LabelScan {
    /// Reads these windows, ahead of who takes them where more than one thread may work (0 = one per core).
    pub fn new(mut windows: LabelWindows, threads: usize) -> Self {
        let files = windows.files().to_vec();
        let windows = Ahead::new(threads, 1, move || windows.next_window());
        Self { files, windows, time_without_zone: false }
    }

    /// The files, each with the number of its rows, in order.
    pub fn files(&self) -> &[(PathBuf, u64)] {
        &self.files
    }

    /// Whether some time read so far carried no zone and was taken as UTC.
    pub fn time_without_zone(&self) -> bool {
        self.time_without_zone
    }
}

impl LabelReader for LabelScan {
    fn next_labels(&mut self) -> Result<Option<Labels>> {
        let Some(window) = self.windows.next().transpose()? else { return Ok(None) };
        self.time_without_zone |= window.time_without_zone;
        Ok(Some(window.labels))
    }
}
