//! Writing training sets: the label columns as they came, then the feature columns. The file appears whole
//! under its name or not at all.

use crate::csv::push_cell;
use crate::labels::{LabelFile, LabelWindows, WINDOW_ROWS};
use crate::table::{Content, Format};
use crate::values::to_text;
use arrow_array::{Array, RecordBatch};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{ArrowError, Field, Schema};
use plumb_columnar::{ColumnHint, Layout, ParquetWriter, arrow_type, convert, into_arrow};
use plumb_core::column::{Column, DataType};
use plumb_pipeline::offline::{Selection, TrainingSet, TrainingSink};
use plumb_pipeline::{Error, Result};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows converted and written at once.
const CHUNK_ROWS: usize = 64 * 1024;

/// Writes the label rows `rows` (rising) with all their columns, then `features` (one row per entry of `rows`),
/// as Parquet or CSV by the ending of `path`, replacing what is there.
pub fn write_training_set(path: &Path, labels: &LabelFile, rows: &[u32], features: &[(String, &Column)]) -> Result<()> {
    for (name, column) in features {
        if column.len() != rows.len() {
            return Err(Error::internal(format!("feature `{name}` has {} rows of {}", column.len(), rows.len())));
        }
    }
    let types: Vec<(String, DataType)> =
        features.iter().map(|(name, column)| (name.clone(), column.data_type())).collect();
    let columns: Vec<&Column> = features.iter().map(|(_, column)| *column).collect();
    let mut file = TrainingFile::create(path, labels, &types)?;
    file.write(labels, rows, &columns, 0)?;
    file.finish()
}

/// A training set being written.
#[derive(Debug)]
struct TrainingFile {
    unfinished: Unfinished,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Parquet(Layout, Box<ParquetWriter<BufWriter<File>>>),
    Csv(BufWriter<File>),
}

impl TrainingFile {
    /// Begins a file whose rows have the columns of `labels`, then features of these names and types.
    fn create(path: &Path, labels: &LabelFile, features: &[(String, DataType)]) -> Result<Self> {
        let format = Format::of(path)?;
        let label_names = labels.names();
        for (index, (name, _)) in features.iter().enumerate() {
            if label_names.contains(&name.as_str()) {
                return Err(Error::invalid(format!(
                    "`{}` has a column `{name}`, which is also the name of a feature column; rename it",
                    labels.file().path.display()
                )));
            }
            if features[..index].iter().any(|(other, _)| other == name) {
                return Err(Error::invalid(format!("feature `{name}` is asked for twice")));
            }
        }
        let unfinished = Unfinished::create(path)?;
        let mut sink = BufWriter::new(unfinished.handle()?);
        let body = match format {
            Format::Parquet => {
                let label_schema = labels.take(&[])?.schema();
                let mut fields: Vec<Arc<Field>> = label_schema.fields().iter().cloned().collect();
                fields.extend(
                    features.iter().map(|(name, data_type)| Arc::new(Field::new(name, arrow_type(data_type), true))),
                );
                let layout =
                    Layout::new(Arc::new(Schema::new(fields)), |_| ColumnHint::Repeating).keeping_arrow_types();
                let writer = ParquetWriter::new(path.display().to_string(), sink, &layout)?;
                Body::Parquet(layout, Box::new(writer))
            }
            Format::Csv => {
                let mut out = Vec::new();
                let names = label_names.into_iter().chain(features.iter().map(|(name, _)| name.as_str()));
                push_line(&mut out, names.map(|name| Some(name.to_owned())));
                sink.write_all(&out).map_err(|error| cannot_write(path, error))?;
                Body::Csv(sink)
            }
        };
        Ok(Self { unfinished, body })
    }

    /// Appends the label rows `rows` (rising) of `labels` with the features' rows from `first` on.
    fn write(&mut self, labels: &LabelFile, rows: &[u32], features: &[&Column], first: usize) -> Result<()> {
        let path = &self.unfinished.path;
        for (start, rows) in chunks(rows) {
            let first = first + start;
            match &mut self.body {
                Body::Parquet(layout, writer) => {
                    let mut columns = labels.take(rows)?.columns().to_vec();
                    for column in features {
                        columns.push(into_arrow(column.take(first..first + rows.len()))?);
                    }
                    let batch = RecordBatch::try_new(layout.schema().clone(), columns).map_err(|error| {
                        Error::internal(format!("columns of `{}` do not fit together: {error}", path.display()))
                    })?;
                    writer.write(&batch)?;
                }
                Body::Csv(sink) => {
                    let mut out = Vec::new();
                    let label_cells = LabelCells::new(labels, rows)?;
                    for row in 0..rows.len() {
                        let labels = (0..label_cells.columns()).map(|column| label_cells.cell(column, row));
                        push_line(&mut out, labels.chain(features.iter().map(|column| to_text(column, first + row))));
                    }
                    sink.write_all(&out).map_err(|error| cannot_write(path, error))?;
                }
            }
        }
        Ok(())
    }

    /// Puts the file in its place.
    fn finish(self) -> Result<()> {
        let path = &self.unfinished.path;
        flush(
            path,
            match self.body {
                Body::Parquet(_, writer) => writer.finish()?,
                Body::Csv(sink) => sink,
            },
        )?;
        self.unfinished.finish()
    }
}

/// Writes a training set as the parts of a join in bounded memory come: the label columns are read again beside them.
#[derive(Debug)]
pub struct TrainingWriter {
    path: PathBuf,
    windows: LabelWindows,
    /// The window at hand, and its first row.
    window: Option<(u64, LabelFile)>,
    selection: Selection,
    file: Option<TrainingFile>,
}

impl TrainingWriter {
    /// Writes to `path`, Parquet or CSV by ending, what is joined to the labels of these windows.
    pub fn new(path: &Path, windows: LabelWindows, selection: Selection) -> Result<Self> {
        Format::of(path)?;
        Ok(Self { path: path.to_owned(), windows, window: None, selection, file: None })
    }

    /// The file to write to, begun once the first window is there; `false` after the last window.
    fn next_window(&mut self) -> Result<bool> {
        let first = self.window.take().map_or(0, |(first, window)| first + window.labels().len() as u64);
        let Some(window) = self.windows.next_window()? else { return Ok(false) };
        if self.file.is_none() {
            self.file = Some(TrainingFile::create(&self.path, &window, &self.selection.column_types())?);
        }
        self.window = Some((first, window));
        Ok(true)
    }

    /// Puts the file in its place, once all parts were written.
    pub fn finish(mut self) -> Result<()> {
        if self.file.is_none() {
            self.next_window()?;
        }
        match self.file {
            Some(file) => file.finish(),
            None => Err(Error::internal("a label file without windows")),
        }
    }
}

impl TrainingSink for TrainingWriter {
    fn write(&mut self, part: &TrainingSet) -> Result<()> {
        let columns: Vec<&Column> = part.columns(&self.selection).into_iter().map(|(_, column)| column).collect();
        let mut done = 0;
        while done < part.rows.len() {
            let row = u64::from(part.rows[done]);
            let end_of = |window: &Option<(u64, LabelFile)>| {
                window.as_ref().map_or(0, |(first, window)| first + window.labels().len() as u64)
            };
            while end_of(&self.window) <= row {
                if !self.next_window()? {
                    return Err(Error::unavailable("read the labels again", "there are fewer than before"));
                }
            }
            let (Some((first, window)), Some(file)) = (&self.window, &mut self.file) else {
                return Err(Error::internal("rows without a window of labels"));
            };
            // Cut at fixed rows of the labels, so that the file is the same however the parts were.
            let end = end_of(&self.window).min((row / WINDOW_ROWS as u64 + 1) * WINDOW_ROWS as u64);
            let rows: Vec<u32> = part.rows[done..]
                .iter()
                .take_while(|&&row| u64::from(row) < end)
                .map(|&row| (u64::from(row) - first) as u32)
                .collect();
            file.write(window, &rows, &columns, done)?;
            done += rows.len();
        }
        Ok(())
    }
}

fn cannot_write(path: &Path, error: std::io::Error) -> Error {
    Error::unavailable(format!("write `{}`", path.display()), error)
}

fn push_line(out: &mut Vec<u8>, cells: impl Iterator<Item = Option<String>>) {
    for (index, cell) in cells.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        push_cell(out, cell.as_deref());
    }
    out.push(b'\n');
}

/// The label columns as CSV cells: text of a CSV file as it stands there.
enum LabelCells<'a> {
    Csv(&'a [Vec<Option<String>>], &'a [u32]),
    Columns(Vec<LabelColumn>),
}

enum LabelColumn {
    Known(Column),
    /// A type plumb does not have (decimals, structs), as Arrow writes it.
    Other(Vec<Option<String>>),
}

impl<'a> LabelCells<'a> {
    fn new(labels: &'a LabelFile, rows: &'a [u32]) -> Result<Self> {
        if let Content::Csv(file) = &labels.file().content {
            return Ok(LabelCells::Csv(&file.columns, rows));
        }
        let batch = labels.take(rows)?;
        let columns =
            batch.columns().iter().zip(batch.schema_ref().fields()).map(|(array, field)| {
                match known_column(field.name(), array) {
                    Some(column) => Ok(LabelColumn::Known(column)),
                    None => other_cells(array).map(LabelColumn::Other).map_err(|error| {
                        Error::invalid(format!("label column `{}` cannot be written as CSV: {error}", field.name()))
                    }),
                }
            });
        Ok(LabelCells::Columns(columns.collect::<Result<Vec<LabelColumn>>>()?))
    }

    fn columns(&self) -> usize {
        match self {
            LabelCells::Csv(columns, _) => columns.len(),
            LabelCells::Columns(columns) => columns.len(),
        }
    }

    fn cell(&self, column: usize, row: usize) -> Option<String> {
        match self {
            LabelCells::Csv(columns, rows) => columns[column][rows[row] as usize].clone(),
            LabelCells::Columns(columns) => match &columns[column] {
                LabelColumn::Known(column) => to_text(column, row),
                LabelColumn::Other(cells) => cells[row].clone(),
            },
        }
    }
}

/// The array as a column of the same values, where plumb has such a type.
fn known_column(name: &str, array: &dyn Array) -> Option<Column> {
    let natural = crate::table::natural_type(array.data_type())?;
    // Beyond µs something would be lost: Arrow writes those.
    if natural == DataType::Timestamp
        && matches!(array.data_type(), arrow_schema::DataType::Timestamp(arrow_schema::TimeUnit::Nanosecond, _))
    {
        return None;
    }
    let converted = convert(name, array, &natural).ok()?;
    converted.refused.is_empty().then_some(converted.column)
}

fn other_cells(array: &dyn Array) -> Result<Vec<Option<String>>, ArrowError> {
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(array, &options)?;
    (0..array.len()).map(|row| array.is_valid(row).then(|| formatter.value(row).try_to_string()).transpose()).collect()
}

/// Slices of the kept rows with the index of their first.
fn chunks(rows: &[u32]) -> impl Iterator<Item = (usize, &[u32])> {
    rows.chunks(CHUNK_ROWS).enumerate().map(|(index, rows)| (index * CHUNK_ROWS, rows))
}

fn flush(path: &Path, sink: BufWriter<File>) -> Result<()> {
    sink.into_inner()
        .map(drop)
        .map_err(|error| Error::unavailable(format!("write `{}`", path.display()), error.into_error()))
}

/// A file being written beside its final place; removed unless finished.
#[derive(Debug)]
struct Unfinished {
    file: File,
    written: PathBuf,
    path: PathBuf,
    folder: PathBuf,
}

impl Unfinished {
    fn create(path: &Path) -> Result<Self> {
        let folder = match path.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        if !folder.is_dir() {
            let (path, folder) = (path.display(), folder.display());
            return Err(Error::invalid(format!("cannot write `{path}`: there is no folder `{folder}`")));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let written = folder.join(format!(".{name}.{}.tmp", std::process::id()));
        let file = File::create(&written)
            .map_err(|error| Error::unavailable(format!("write `{}`", written.display()), error))?;
        Ok(Self { file, written, path: path.to_owned(), folder })
    }

    /// Another handle of the file, to write by.
    fn handle(&self) -> Result<File> {
        self.file.try_clone().map_err(|error| cannot_write(&self.path, error))
    }

    fn finish(self) -> Result<()> {
        self.file
            .sync_all()
            .and_then(|()| fs::rename(&self.written, &self.path))
            .and_then(|()| File::open(&self.folder)?.sync_all())
            .map_err(|error| Error::unavailable(format!("write `{}`", self.path.display()), error))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Gone already if it was renamed.
        drop(fs::remove_file(&self.written));
    }
}
