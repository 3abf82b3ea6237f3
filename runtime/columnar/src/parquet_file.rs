//! Reading Parquet files, whoever wrote them. Every error names the file; a truncated or foreign file is
//! an error, never a panic.

use crate::bytes_of::{BytesOf, replaced};
use crate::from_arrow::from_arrow;
use crate::stored_types::as_stored;
use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, Schema, SchemaRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowPredicateFn, RowFilter};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelection, RowSelector};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::statistics::Statistics;
use parquet::schema::types::SchemaDescriptor;
use plumb_core::column::DataType;
use plumb_pipeline::port::ObjectStore;
use plumb_pipeline::{Error, Result};
use std::cell::Cell;
use std::fs::File;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

/// An open Parquet file: its schema, its row groups and readers of its rows. Its footer is read once.
#[derive(Debug)]
pub struct ParquetFile {
    path: PathBuf,
    file: BytesOf,
    metadata: ArrowReaderMetadata,
}

/// What to read of a file; the default is all of it.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// The top-level columns by index into [`ParquetFile::schema`], rising; `None` = all.
    pub columns: Option<Vec<usize>>,
    /// The row groups, in order; `None` = all.
    pub row_groups: Option<Vec<usize>>,
    /// How many rows of these row groups to leave out at the start.
    pub skip_rows: u64,
    /// Rows per batch; 0 = 8192.
    pub batch_rows: usize,
    /// Only rows where this string column (by index) holds this value; the other columns of the rest are
    /// not decoded. Not together with `skip_rows`.
    pub equals: Option<(usize, String)>,
}

impl ParquetFile {
    /// Opens a file and reads its footer. A file of plumb's archive that a compaction has replaced since it was
    /// listed is read from where it was put away.
    pub fn open(path: &Path) -> Result<Self> {
        let at = || format!("open `{}`", path.display());
        let file = match File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let away = replaced(path).and_then(|away| File::open(away).ok());
                away.ok_or_else(|| Error::invalid(format!("`{}` does not exist", path.display())))?
            }
            opened => opened.map_err(|error| Error::unavailable(at(), error))?,
        };
        let found = file.metadata().map_err(|error| Error::unavailable(at(), error))?;
        if found.is_dir() {
            return Err(Error::invalid(format!("`{}` is a folder, expected a Parquet file", path.display())));
        }
        if found.len() == 0 {
            return Err(Error::invalid(format!("`{}` is empty (0 bytes), expected a Parquet file", path.display())));
        }
        let len = found.len();
        Self::of(path.to_owned(), BytesOf::File { file: Arc::new(file), len }, len)
    }

    /// Opens an object of a store without local files, of a known size; `None` if it is not there. Read are the
    /// columns that are asked for, a row group at a time; small objects at once.
    pub fn open_object(store: &Arc<dyn ObjectStore>, path: &str, len: u64) -> Result<Option<Self>> {
        if len == 0 {
            return Err(Error::invalid(format!("`{path}` is empty (0 bytes), expected a Parquet file")));
        }
        let bytes = BytesOf::object(store.clone(), path, len);
        match Self::of(PathBuf::from(path), bytes, len) {
            Ok(file) => Ok(Some(file)),
            // Asked only now: the usual case costs no request of its own.
            Err(error) => match store.get_range(path, 0..1)? {
                None => Ok(None),
                Some(_) => Err(error),
            },
        }
    }

    /// Reads the footer of a file that is in memory; `path` is what errors call it.
    pub fn from_bytes(path: &Path, bytes: bytes::Bytes) -> Result<Self> {
        let len = bytes.len() as u64;
        Self::of(path.to_owned(), BytesOf::Memory(bytes), len)
    }

    fn of(path: PathBuf, file: BytesOf, len: u64) -> Result<Self> {
        let load = || -> Result<ArrowReaderMetadata, ParquetError> {
            let metadata = as_stored(ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())?)?;
            if let BytesOf::Object(object) = &file {
                object.set_layout(metadata.metadata());
            }
            Ok(metadata)
        };
        let metadata =
            contained(load).map_err(|error| file.take_failure().unwrap_or_else(|| not_parquet(&path, len, &error)))?;
        Ok(Self { path, file, metadata })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The columns of the file, in its order.
    pub fn schema(&self) -> &SchemaRef {
        self.metadata.schema()
    }

    /// The index of a column; an error that names the file and the columns there are.
    pub fn column(&self, name: &str) -> Result<usize> {
        self.schema().index_of(name).map_err(|_| no_column(&self.path, name, self.schema()))
    }

    /// The number of rows.
    pub fn rows(&self) -> u64 {
        (0..self.row_groups()).map(|group| self.row_group_rows(group)).sum()
    }

    /// The number of row groups.
    pub fn row_groups(&self) -> usize {
        self.metadata.metadata().num_row_groups()
    }

    /// The number of rows of a row group.
    pub fn row_group_rows(&self, row_group: usize) -> u64 {
        u64::try_from(self.metadata.metadata().row_group(row_group).num_rows()).unwrap_or(0)
    }

    /// The smallest and largest value of an integer or timestamp column in a row group, as stored (a timestamp
    /// in its own unit); `None` where the writer kept no statistics.
    pub fn i64_range(&self, row_group: usize, column: &str) -> Option<(i64, i64)> {
        let group = self.metadata.metadata().row_group(row_group);
        let chunk = group.columns().iter().find(|chunk| chunk.column_path().parts() == [column])?;
        match chunk.statistics()? {
            Statistics::Int64(of) => Some((*of.min_opt()?, *of.max_opt()?)),
            Statistics::Int32(of) => Some((i64::from(*of.min_opt()?), i64::from(*of.max_opt()?))),
            _ => None,
        }
    }

    /// Whether a row group may hold a string in a column, by the statistics of its writer.
    pub fn may_hold(&self, row_group: usize, column: &str, value: &[u8]) -> bool {
        let group = self.metadata.metadata().row_group(row_group);
        let chunk = group.columns().iter().find(|chunk| chunk.column_path().parts() == [column]);
        match chunk.and_then(|chunk| chunk.statistics()) {
            Some(Statistics::ByteArray(of)) => {
                // Bounds may be cut short by the writer: a shortened maximum is rounded up, a minimum down.
                of.min_opt().is_none_or(|min| min.data() <= value) && of.max_opt().is_none_or(|max| value <= max.data())
            }
            _ => true,
        }
    }

    /// Reads rows in order.
    pub fn batches(&self, selection: &Selection) -> Result<Batches> {
        let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(self.file.clone(), self.metadata.clone());
        let mask = match &selection.columns {
            Some(columns) => ProjectionMask::roots(builder.parquet_schema(), columns.iter().copied()),
            None => ProjectionMask::all(),
        };
        let all: Vec<usize>;
        let groups = match &selection.row_groups {
            Some(groups) => groups,
            None => {
                all = (0..self.row_groups()).collect();
                &all
            }
        };
        self.check_compression(groups, &mask)?;
        builder = builder.with_projection(mask);
        if selection.skip_rows > 0 {
            let rows: u64 = groups.iter().map(|&group| self.row_group_rows(group)).sum();
            let skip = selection.skip_rows.min(rows);
            let selectors = vec![RowSelector::skip(skip as usize), RowSelector::select((rows - skip) as usize)];
            builder = builder.with_row_selection(RowSelection::from(selectors));
        }
        if let Some((column, value)) = &selection.equals {
            let filter = equals(builder.parquet_schema(), self.schema().field(*column).name(), *column, value);
            builder = builder.with_row_filter(filter);
        }
        let batch_rows = if selection.batch_rows == 0 { 8192 } else { selection.batch_rows };
        let builder = builder.with_row_groups(groups.clone()).with_batch_size(batch_rows);
        let reader = contained(|| builder.build())
            .map_err(|error| self.file.take_failure().unwrap_or_else(|| damaged(&self.path, &error)))?;
        Ok(Batches { path: self.path.clone(), file: self.file.clone(), reader: Some(reader) })
    }

    /// An error if a column that is wanted is compressed in a way that is not read here.
    fn check_compression(&self, groups: &[usize], mask: &ProjectionMask) -> Result<()> {
        let leaves = self.metadata.parquet_schema().num_columns();
        let wanted = |&(leaf, _): &(usize, _)| leaf < leaves && mask.leaf_included(leaf);
        let columns = |&group: &usize| self.metadata.metadata().row_group(group).columns().iter().enumerate();
        for (_, column) in groups.iter().flat_map(columns).filter(wanted) {
            let name = match column.compression() {
                Compression::BROTLI(_) => "Brotli",
                Compression::LZO => "LZO",
                _ => continue,
            };
            let (path, column) = (self.path.display(), column.column_path().string());
            return Err(Error::invalid(format!(
                "`{path}`: column `{column}` is compressed with {name}, which plumb does not read; write the file with \
                 zstd, snappy, gzip, lz4 or without compression"
            )));
        }
        Ok(())
    }
}

/// The rows of a file, batch by batch.
#[derive(Debug)]
pub struct Batches {
    path: PathBuf,
    file: BytesOf,
    reader: Option<ParquetRecordBatchReader>,
}

impl Iterator for Batches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let reader = self.reader.as_mut()?;
        let batch = contained(|| reader.next().transpose()).transpose()?;
        if batch.is_err() {
            self.reader = None;
        }
        Some(batch.map_err(|error| self.file.take_failure().unwrap_or_else(|| damaged(&self.path, &error))))
    }
}

fn equals(schema: &SchemaDescriptor, name: &str, column: usize, value: &str) -> RowFilter {
    let (name, value) = (name.to_owned(), value.as_bytes().to_owned());
    let predicate = ArrowPredicateFn::new(ProjectionMask::roots(schema, [column]), move |batch: RecordBatch| {
        let strings = from_arrow(&name, batch.column(0), &DataType::Utf8)
            .map_err(|error| ArrowError::InvalidArgumentError(error.to_string()))?;
        Ok((0..strings.len()).map(|row| Some(strings.str_bytes(row) == Some(&value))).collect())
    });
    RowFilter::new(vec![Box::new(predicate)])
}

thread_local! {
    /// Whether a panic of this thread is the decoder's, and becomes an error.
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a step of the Parquet decoder, which panics on some damaged files; nothing it held is used after that. Such a
/// panic says nothing by itself: the error does.
fn contained<T, E: std::fmt::Display>(step: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !CONTAINED.get() {
                before(panic);
            }
        }));
    });
    let outer = CONTAINED.replace(true);
    let done = std::panic::catch_unwind(AssertUnwindSafe(step));
    CONTAINED.set(outer);
    match done {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(panic) => Err(match panic.downcast::<String>() {
            Ok(message) => *message,
            Err(panic) => {
                panic.downcast::<&str>().map_or("a page cannot be decoded".to_owned(), |text| text.to_string())
            }
        }),
    }
}

pub(crate) fn no_column(path: &Path, name: &str, schema: &Schema) -> Error {
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    Error::invalid(format!("`{}` has no column `{name}`; it has {}", path.display(), names.join(", ")))
}

fn not_parquet(path: &Path, bytes: u64, error: &dyn std::fmt::Display) -> Error {
    Error::invalid(format!(
        "`{}` is not a Parquet file, or is cut short or damaged ({bytes} bytes): {error}",
        path.display()
    ))
}

fn damaged(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::invalid(format!("`{}` is a damaged Parquet file: {error}", path.display()))
}
