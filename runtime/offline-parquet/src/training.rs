//! Writing training sets: the label columns as they came, then the feature columns. The file, or the folder of
//! parts, appears whole under its name or not at all, with its manifest.

use crate::csv::push_cell;
use crate::hashed_file::HashedFile;
use crate::hints::{self, LOOK_ROWS};
use crate::labels::{LabelRows, LabelWindows, WINDOW_ROWS};
use crate::manifest::{OutputFile, SchemaColumn};
use crate::rows_hash::{RowsHash, type_name};
use crate::table::{Content, Format};
use crate::text::texts_of;
use crate::values::to_text;
use arrow_array::{Array, ArrayRef};
use arrow_schema::{Field, Schema, SchemaRef};
use plumb_columnar::{ColumnHint, Layout, ParquetWriter, arrow_type, convert, into_arrow};
use plumb_core::column::{Column, DataType};
use plumb_pipeline::offline::{Selection, TrainingPart, TrainingSink};
use plumb_pipeline::parallel::{Ahead, in_threads, thread_count};
use plumb_pipeline::{Error, Result};
use std::fs::{self, File};
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The name of the manifest in a folder of parts: readers of Hive folders pass over what begins with `_`.
const FOLDER_MANIFEST: &str = "_manifest.json";

/// Where a training set goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    path: PathBuf,
    /// The format of the one file; `None` = a folder of Parquet parts.
    format: Option<Format>,
    part_rows: usize,
}

impl Target {
    /// A file if `path` ends in `.parquet` or `.csv`, replaced if it is there; else a folder, which must not hold
    /// anything yet, of Parquet files of at most `part_rows` rows. Refused now, before any work is done: another
    /// ending, a folder above that does not exist, a folder that holds something.
    pub fn new(path: &Path, part_rows: usize) -> Result<Self> {
        let shown = path.display();
        let is_folder =
            path.is_dir() || path.extension().is_none() || path.as_os_str().as_encoded_bytes().ends_with(b"/");
        let format = if is_folder { None } else { Some(Format::of(path)?) };
        let parent = parent(path);
        if !parent.is_dir() {
            return Err(Error::invalid(format!("cannot write `{shown}`: there is no folder `{}`", parent.display())));
        }
        let failed = |error| Error::unavailable(format!("read `{shown}`"), error);
        if is_folder && path.exists() {
            if !path.is_dir() {
                return Err(Error::invalid(format!("`{shown}` is a file; name a folder, or a .parquet or .csv file")));
            }
            if fs::read_dir(path).map_err(failed)?.next().is_some() {
                return Err(Error::invalid(format!(
                    "folder `{shown}` holds something already; a training set appears whole, in a folder of its own"
                )));
            }
        }
        if part_rows == 0 {
            return Err(Error::invalid("parts of 0 rows cannot be written; give at least 1"));
        }
        Ok(Self { path: path.to_owned(), format, part_rows })
    }

    /// Where the manifest goes: in the folder, or beside the file.
    pub fn manifest_path(&self) -> PathBuf {
        match self.format {
            None => self.path.join(FOLDER_MANIFEST),
            Some(_) => {
                let mut name = self.path.file_name().unwrap_or_default().to_owned();
                name.push(".manifest.json");
                self.path.with_file_name(name)
            }
        }
    }
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// A training set that is written but not yet under its name; dropped, it leaves nothing.
#[derive(Debug)]
pub struct StagedSet {
    target: Target,
    staged: Staged,
    /// The hash of the rows, hex: of the values and their order alone.
    pub rows_sha256: String,
    /// The columns.
    pub schema: Vec<SchemaColumn>,
    /// The files, in the order of their rows.
    pub files: Vec<OutputFile>,
}

/// Writes a training set as the parts of a join in bounded memory come: the label columns are read again beside them.
/// Parts of a folder end where label files end.
#[derive(Debug)]
pub struct TrainingWriter {
    target: Target,
    windows: Ahead<LabelRows>,
    /// The window at hand, and its first row.
    window: Option<(u64, LabelRows)>,
    selection: Selection,
    threads: usize,
    set: Option<Set>,
}

impl TrainingWriter {
    /// Writes beside `target`, with `threads` threads (0 = one per core), what is joined to the labels of these windows.
    /// What is wrong with the place or with the names of the columns is said here, before hours of joining.
    pub fn new(target: &Target, windows: LabelWindows, selection: Selection, threads: usize) -> Result<Self> {
        let threads = thread_count(threads);
        let windows = Ahead::new(threads, 1, windows.into_rows());
        let mut writer = Self { target: target.clone(), windows, window: None, selection, threads, set: None };
        writer.next_window()?;
        Ok(writer)
    }

    /// Goes to the next window, the set being begun with the first; `false` after the last window.
    fn next_window(&mut self) -> Result<bool> {
        let first = self.window.take().map_or(0, |(first, window)| first + window.len() as u64);
        let Some(window) = self.windows.next().transpose()? else { return Ok(false) };
        if self.set.is_none() {
            self.set = Some(Set::begin(&self.target, &window, &self.selection.column_types(), self.threads)?);
        }
        self.window = Some((first, window));
        Ok(true)
    }

    /// The set, once all parts were written.
    pub fn finish(self) -> Result<StagedSet> {
        match self.set {
            Some(set) => set.finish(),
            None => Err(Error::internal("labels without windows")),
        }
    }
}

impl TrainingSink for TrainingWriter {
    fn write(&mut self, part: &dyn TrainingPart) -> Result<()> {
        let rows = part.rows();
        let (mut features, mut done) = (Features::new(part, self.selection.column_types().len()), 0);
        while done < rows.len() {
            let row = u64::from(rows[done]);
            let end_of = |window: &Option<(u64, LabelRows)>| {
                window.as_ref().map_or(0, |(first, window)| first + window.len() as u64)
            };
            while end_of(&self.window) <= row {
                if !self.next_window()? {
                    return Err(Error::unavailable("read the labels again", "there are fewer than before"));
                }
            }
            let (Some((first, window)), Some(set)) = (&self.window, &mut self.set) else {
                return Err(Error::internal("rows without a window of labels"));
            };
            // Cut at fixed rows of the labels, where the parts of a join end too, so that the file is the same however
            // they were; and few rows are converted at once.
            let end = end_of(&self.window).min((row / WINDOW_ROWS as u64 + 1) * WINDOW_ROWS as u64);
            let rows: Vec<u32> = rows[done..]
                .iter()
                .take_while(|&&row| u64::from(row) < end)
                .map(|&row| (u64::from(row) - first) as u32)
                .collect();
            set.write(window, &rows, &mut features, done)?;
            done += rows.len();
        }
        Ok(())
    }
}

/// The feature columns of a part of a join.
struct Features<'a> {
    part: &'a dyn TrainingPart,
    count: usize,
    /// All of them, where they are looked at more than once.
    made: Vec<Column>,
}

impl<'a> Features<'a> {
    fn new(part: &'a dyn TrainingPart, count: usize) -> Self {
        Self { part, count, made: Vec::new() }
    }

    /// Makes all columns where one will be asked for more than once: where it is looked at before, or these rows are not
    /// all of the part.
    fn prepare(&mut self, rows: &Range<usize>, is_looked_at: bool, threads: usize) -> Result<()> {
        if self.made.is_empty() && (is_looked_at || rows.len() < self.part.rows().len()) {
            self.made = in_threads(threads, 0..self.count, |index| self.part.column(index))?;
        }
        Ok(())
    }

    /// These rows of a column.
    fn array(&self, index: usize, rows: &Range<usize>) -> Result<ArrayRef> {
        match self.made.get(index) {
            None => into_arrow(self.part.column(index)),
            Some(made) if rows.len() == made.len() => into_arrow(made.clone()),
            Some(made) => {
                let mut column = Column::new(&made.data_type());
                column.append_rows(made, rows.clone());
                into_arrow(column)
            }
        }
    }
}

impl StagedSet {
    /// Puts the set under its name, and its manifest beside it. A file takes the place of another one; its manifest
    /// goes first and comes last, so that there is none that belongs to another set.
    pub fn publish(self, manifest: Option<&str>) -> Result<()> {
        let Self { target, staged, .. } = self;
        let failed = |path: &Path, error| Error::unavailable(format!("write `{}`", path.display()), error);
        let path = target.manifest_path();
        if target.format.is_none() {
            if let Some(manifest) = manifest {
                let inside = staged.path.join(FOLDER_MANIFEST);
                write_synced(&inside, manifest).map_err(|error| failed(&path, error))?;
            }
            sync_folder(&staged.path).map_err(|error| failed(&target.path, error))?;
            return fs::rename(&staged.path, &target.path)
                .and_then(|()| sync_folder(&parent(&target.path)))
                .map_err(|error| failed(&target.path, error));
        }
        let staged_manifest = Staged::create(&path)?;
        if let Some(manifest) = manifest {
            write_synced(&staged_manifest.path, manifest).map_err(|error| failed(&path, error))?;
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(&path, error)),
            _ => {}
        }
        fs::rename(&staged.path, &target.path).map_err(|error| failed(&target.path, error))?;
        if manifest.is_some() {
            fs::rename(&staged_manifest.path, &path).map_err(|error| failed(&path, error))?;
        }
        sync_folder(&parent(&target.path)).map_err(|error| failed(&target.path, error))
    }
}

fn write_synced(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A set being written, and the hash of its rows so far.
#[derive(Debug)]
struct Set {
    target: Target,
    staged: Staged,
    schema: SchemaRef,
    threads: usize,
    hash: RowsHash,
    files: Vec<OutputFile>,
    open: Option<OpenFile>,
}

/// A file of a set being written.
#[derive(Debug)]
struct OpenFile {
    name: String,
    path: PathBuf,
    /// The label file its rows are of, if it is a part.
    label_file: usize,
    rows: usize,
    body: Body,
}

#[derive(Debug)]
enum Body {
    /// Parquet of which no row was seen yet.
    New(HashedFile),
    Parquet(Box<ParquetWriter<HashedFile>>),
    Csv(HashedFile),
}

impl OpenFile {
    /// Begun, if it was not, its columns looking as `hints` says.
    fn begun(mut self, schema: &SchemaRef, hints: impl FnOnce() -> Vec<ColumnHint>) -> Result<Self> {
        self.body = match self.body {
            Body::New(sink) => {
                let hints = hints();
                let hint = |name: &str| schema.index_of(name).map_or(ColumnHint::Repeating, |index| hints[index]);
                let layout = Layout::new(schema.clone(), hint).keeping_arrow_types();
                Body::Parquet(Box::new(ParquetWriter::new(self.path.display().to_string(), sink, &layout)?))
            }
            body => body,
        };
        Ok(self)
    }
}

impl Set {
    /// Begins a set whose rows have the columns of `labels`, then features of these names and types.
    fn begin(target: &Target, labels: &LabelRows, features: &[(String, DataType)], threads: usize) -> Result<Self> {
        let label_names = labels.names();
        for (index, (name, _)) in features.iter().enumerate() {
            if label_names.contains(&name.as_str()) {
                return Err(Error::invalid(format!(
                    "{} has a column `{name}`, which is also the name of a feature column; rename it",
                    labels.file().shown()
                )));
            }
            if features[..index].iter().any(|(other, _)| other == name) {
                return Err(Error::invalid(format!("feature `{name}` is asked for twice")));
            }
        }
        let staged = Staged::create(&target.path)?;
        if target.format.is_none() {
            fs::create_dir(&staged.path).map_err(|error| cannot_write(&staged.path, error))?;
        }
        let label_schema = labels.take(&[])?.schema();
        let mut fields: Vec<Arc<Field>> = label_schema.fields().iter().cloned().collect();
        fields.extend(features.iter().map(|(name, data_type)| Arc::new(Field::new(name, arrow_type(data_type), true))));
        let schema = Arc::new(Schema::new(fields));
        let hash = RowsHash::new(&schema);
        Ok(Self { target: target.clone(), staged, schema, threads, hash, files: Vec::new(), open: None })
    }

    /// Appends the label rows `rows` (rising) of `labels` with the features' rows from `first` on. A part of a folder
    /// ends when it has so many rows, and where a label file ends.
    fn write(&mut self, labels: &LabelRows, rows: &[u32], features: &mut Features<'_>, first: usize) -> Result<()> {
        let mut done = 0;
        for part in &labels.file().parts {
            let end = done + rows[done..].partition_point(|&row| (row as usize) < part.first_row + part.rows);
            while done < end {
                let room = self.room(part.file)?;
                let next = end.min(done.saturating_add(room));
                self.append(labels, &rows[done..next], features, first + done)?;
                done = next;
            }
        }
        Ok(())
    }

    /// How many rows of a label file the file at hand can still take; begins another one if it must.
    fn room(&mut self, label_file: usize) -> Result<usize> {
        let (is_file, most) = (self.target.format.is_some(), self.target.part_rows);
        let room = |open: &OpenFile| match is_file {
            true => usize::MAX,
            false if open.label_file == label_file => most.saturating_sub(open.rows),
            false => 0,
        };
        match self.open.as_ref().map(room) {
            Some(room) if room > 0 => return Ok(room),
            _ => self.close()?,
        }
        let (name, path) = match self.target.format {
            Some(_) => {
                let name = self.target.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                (name, self.staged.path.clone())
            }
            None => {
                let name = format!("part-{:05}.parquet", self.files.len());
                (name.clone(), self.staged.path.join(name))
            }
        };
        let file = File::create(&path).map_err(|error| cannot_write(&path, error))?;
        let mut sink = HashedFile::new(file);
        let body = match self.target.format {
            Some(Format::Csv) => {
                let mut out = Vec::new();
                push_line(&mut out, self.schema.fields().iter().map(|field| Some(field.name().clone())));
                sink.write_all(&out).map_err(|error| cannot_write(&path, error))?;
                Body::Csv(sink)
            }
            _ => Body::New(sink),
        };
        self.open = Some(OpenFile { name, path, label_file, rows: 0, body });
        Ok(if is_file { usize::MAX } else { most })
    }

    fn append(&mut self, labels: &LabelRows, rows: &[u32], features: &mut Features<'_>, first: usize) -> Result<()> {
        let Some(open) = self.open.take() else { return Err(Error::internal("rows without a file")) };
        let label_columns = labels.take(rows)?;
        let of_part = first..first + rows.len();
        features.prepare(&of_part, !matches!(open.body, Body::Parquet(_)), self.threads)?;
        let open = self.open.insert(open.begun(&self.schema, || {
            let looks = rows.len().min(LOOK_ROWS);
            let of_labels = label_columns.columns().iter().map(|array| hints::of_array(&array.slice(0, looks)));
            of_labels.chain(features.made.iter().map(|column| hints::of_column(column, first..first + looks))).collect()
        })?);
        let made = |index: usize| -> Result<ArrayRef> {
            let array = match index.checked_sub(label_columns.num_columns()) {
                None => label_columns.column(index).clone(),
                Some(feature) => features.array(feature, &of_part)?,
            };
            self.hash.add(index, &array)?;
            Ok(array)
        };
        open.rows += rows.len();
        match &mut open.body {
            Body::New(_) => return Err(Error::internal("a file of a training set that is not begun")),
            Body::Parquet(writer) => writer.write_columns(rows.len(), self.threads, made)?,
            Body::Csv(sink) => {
                in_threads(self.threads, 0..self.schema.fields().len(), |column| made(column).map(drop))?
                    .into_iter()
                    .collect::<Result<()>>()?;
                let mut out = Vec::new();
                let label_cells = LabelCells::new(labels, rows)?;
                for row in 0..rows.len() {
                    let labels = (0..label_cells.columns()).map(|column| label_cells.cell(column, row));
                    push_line(&mut out, labels.chain(features.made.iter().map(|column| to_text(column, first + row))));
                }
                sink.write_all(&out).map_err(|error| cannot_write(&open.path, error))?;
            }
        }
        self.hash.add_rows(rows.len());
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let open = open.begun(&self.schema, || vec![ColumnHint::Repeating; self.schema.fields().len()])?;
        let OpenFile { name, path, rows, body, .. } = open;
        let sink = match body {
            Body::Parquet(writer) => writer.finish()?,
            Body::New(sink) | Body::Csv(sink) => sink,
        };
        let (bytes, sha256) = sink.finish().map_err(|error| cannot_write(&path, error))?;
        self.files.push(OutputFile { name, rows: rows as u64, bytes, sha256 });
        Ok(())
    }

    /// The set, which has at least one file: it says what the columns are.
    fn finish(mut self) -> Result<StagedSet> {
        if self.open.is_none() && self.files.is_empty() {
            self.room(0)?;
        }
        self.close()?;
        let column =
            |field: &Arc<Field>| SchemaColumn { name: field.name().clone(), data_type: type_name(field.data_type()) };
        let schema = self.schema.fields().iter().map(column).collect();
        let Self { target, staged, hash, files, .. } = self;
        Ok(StagedSet { target, staged, rows_sha256: hash.finish()?, schema, files })
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
    /// A type plumb does not have (decimals, structs).
    Other(Vec<Option<String>>),
}

impl<'a> LabelCells<'a> {
    fn new(labels: &'a LabelRows, rows: &'a [u32]) -> Result<Self> {
        if let Content::Csv(file) = &labels.file().content {
            return Ok(LabelCells::Csv(&file.columns, rows));
        }
        let batch = labels.take(rows)?;
        let columns =
            batch.columns().iter().zip(batch.schema_ref().fields()).map(|(array, field)| {
                match known_column(field.name(), array) {
                    Some(column) => Ok(LabelColumn::Known(column)),
                    None => texts_of(array).map(LabelColumn::Other).map_err(|error| {
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

/// A file or folder being written beside its final place; removed unless it was moved there.
#[derive(Debug)]
struct Staged {
    path: PathBuf,
}

impl Staged {
    fn create(path: &Path) -> Result<Self> {
        let folder = parent(path);
        if !folder.is_dir() {
            let (path, folder) = (path.display(), folder.display());
            return Err(Error::invalid(format!("cannot write `{path}`: there is no folder `{folder}`")));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let path = folder.join(format!(".{name}.{}.tmp", std::process::id()));
        // Of a process of the same id that was killed.
        drop(fs::remove_dir_all(&path));
        Ok(Self { path })
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Gone already if it was moved.
        drop(fs::remove_file(&self.path).or_else(|_| fs::remove_dir_all(&self.path)));
    }
}
