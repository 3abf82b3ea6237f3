//! Tables of other programs, Parquet or CSV by ending: labels and training sets.

use crate::csv::CsvFile;
use crate::files::{Subfolders, table_files};
use crate::values::{infer, instant, push_text};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType as ArrowType, Field, Schema, SchemaRef, TimeUnit};
use plumb_columnar::{ParquetFile, Selection, arrow_type, convert, has_no_zone, times_from_integers, to_arrow};
use plumb_core::column::{Column, DataType};
use plumb_pipeline::offline::audit::Table;
use plumb_pipeline::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The kinds of table files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Parquet,
    Csv,
}

impl Format {
    /// By the ending of a file's name.
    pub(crate) fn of(path: &Path) -> Result<Self> {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or("").to_ascii_lowercase();
        match ending.as_str() {
            "parquet" => Ok(Format::Parquet),
            "csv" => Ok(Format::Csv),
            _ => Err(Error::invalid(format!("`{}` should end in .parquet or .csv", path.display()))),
        }
    }
}

/// The content of a table file as it came.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// All columns, batch by batch.
    Parquet { schema: SchemaRef, batches: Vec<RecordBatch> },
    /// The text of all cells.
    Csv(CsvFile),
}

/// Opens a Parquet file of labels or of a training set, whose columns are known by their names.
pub(crate) fn open_table(path: &Path) -> Result<ParquetFile> {
    let file = ParquetFile::open(path)?;
    let fields = file.schema().fields();
    let twin = (1..fields.len()).find(|&at| fields[..at].iter().any(|before| before.name() == fields[at].name()));
    match twin {
        Some(at) => {
            let (shown, name) = (path.display(), fields[at].name());
            Err(Error::invalid(format!("`{shown}`: column {} is named `{name}` like one before it", at + 1)))
        }
        None => Ok(file),
    }
}

/// The rows of one file among those of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) path: PathBuf,
    /// The place of its first row in the table.
    pub(crate) first_row: usize,
    pub(crate) rows: usize,
    /// The file's number among those that are read together.
    pub(crate) file: usize,
    /// Its rows before the first of these.
    pub(crate) skipped: usize,
}

/// A table in memory: a file, or several one after the other.
#[derive(Debug, Clone)]
pub(crate) struct TableFile {
    /// At least one.
    pub(crate) parts: Vec<Part>,
    pub(crate) content: Content,
}

impl TableFile {
    /// Reads a file, or those of a folder in byte order of their names.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        Self::read_all(std::slice::from_ref(&path.to_owned()))
    }

    /// Reads files one after the other; of a folder those in it. All must have the same columns.
    pub(crate) fn read_all(paths: &[PathBuf]) -> Result<Self> {
        let files = table_files(paths, Subfolders::Refused)?;
        let mut table: Option<Self> = None;
        for path in &files {
            let next = Self::read_file(path)?;
            match &mut table {
                None => table = Some(next),
                Some(table) => table.append(next)?,
            }
        }
        table.ok_or_else(|| Error::invalid("no label file is given"))
    }

    fn read_file(path: &Path) -> Result<Self> {
        let content = match Format::of(path)? {
            Format::Csv => Content::Csv(CsvFile::read(path)?),
            Format::Parquet => {
                let file = open_table(path)?;
                let selection = Selection { batch_rows: 64 * 1024, ..Selection::default() };
                Content::Parquet {
                    schema: file.schema().clone(),
                    batches: file.batches(&selection)?.collect::<Result<Vec<RecordBatch>>>()?,
                }
            }
        };
        let rows = match &content {
            Content::Csv(file) => file.rows(),
            Content::Parquet { batches, .. } => batches.iter().map(RecordBatch::num_rows).sum(),
        };
        Ok(Self { parts: vec![Part { path: path.to_owned(), first_row: 0, rows, file: 0, skipped: 0 }], content })
    }

    /// Takes the rows of another file behind the others.
    fn append(&mut self, other: TableFile) -> Result<()> {
        let (first, second) = (self.parts[0].path.clone(), other.parts[0].path.clone());
        let places = same_names((&first, &self.names()), (&second, &other.names()))?;
        match (&mut self.content, other.content) {
            (Content::Csv(file), Content::Csv(mut more)) => {
                for (column, place) in file.columns.iter_mut().zip(places) {
                    column.append(&mut more.columns[place]);
                }
            }
            (Content::Parquet { schema, batches }, Content::Parquet { schema: theirs, batches: more }) => {
                let merged = merge_schemas((&first, schema), (&second, &theirs))?;
                let all = std::mem::take(batches).into_iter().chain(more);
                *batches = all.map(|batch| fit(&second, &batch, &merged)).collect::<Result<_>>()?;
                *schema = merged;
            }
            _ => return Err(other_columns(&first, &second, "one is Parquet, the other is CSV")),
        }
        let (rows, files) = (self.rows(), self.parts.len());
        self.parts.extend(other.parts.into_iter().map(|part| Part { first_row: rows, file: files, ..part }));
        Ok(())
    }

    /// The number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.parts.last().map_or(0, |part| part.first_row + part.rows)
    }

    /// What to call the table in a message.
    pub(crate) fn shown(&self) -> String {
        let first = self.parts[0].path.display();
        match self.parts.len() {
            1 => format!("`{first}`"),
            more => format!("`{first}` and {} more", more - 1),
        }
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        match &self.content {
            Content::Parquet { schema, .. } => schema.fields().iter().map(|field| field.name().as_str()).collect(),
            Content::Csv(file) => file.names.iter().map(String::as_str).collect(),
        }
    }

    fn index(&self, name: &str) -> Result<usize> {
        let names = self.names();
        names.iter().position(|other| *other == name).ok_or_else(|| {
            Error::invalid(format!("{} has no column `{name}`; it has {}", self.shown(), names.join(", ")))
        })
    }

    /// A column read as a type; an error that names the file, the column, and the first row that does not fit.
    pub(crate) fn column(&self, name: &str, wanted: &DataType) -> Result<Column> {
        let index = self.index(name)?;
        if *wanted == DataType::Timestamp {
            return Ok(self.times(name)?.0);
        }
        match &self.content {
            Content::Parquet { .. } => self.converted(name, &self.array(index)?, wanted),
            Content::Csv(file) => self.parse(name, &file.columns[index], wanted),
        }
    }

    /// A column of instants, and whether some of them carried no zone.
    pub(crate) fn times(&self, name: &str) -> Result<(Column, bool)> {
        let index = self.index(name)?;
        let array = match &self.content {
            Content::Csv(file) => return self.parse_times(name, file.columns[index].iter().map(Option::as_deref)),
            Content::Parquet { .. } => self.array(index)?,
        };
        let array = match array.data_type() {
            ArrowType::Dictionary(_, values) => {
                arrow_cast::cast(&array, values).map_err(|error| self.error(format!("column `{name}`: {error}")))?
            }
            _ => array,
        };
        if let Some(times) = times_from_integers(&array, TimeUnit::Millisecond) {
            if let Some(first) = times.refused.first() {
                return Err(self.row_error(name, first.row, &first.why));
            }
            for (row, &us) in times.column.as_i64().unwrap_or_default().iter().enumerate() {
                if times.column.is_valid(row)
                    && let Some(why) = other_unit(us)
                {
                    return Err(self.row_error(name, row, &why));
                }
            }
            return Ok((times.column, false));
        }
        if matches!(array.data_type(), ArrowType::Utf8 | ArrowType::LargeUtf8 | ArrowType::Utf8View) {
            let text = self.converted(name, &array, &DataType::Utf8)?;
            let cells =
                (0..text.len()).map(|row| text.str_bytes(row).and_then(|bytes| std::str::from_utf8(bytes).ok()));
            return self.parse_times(name, cells);
        }
        let column = self.converted(name, &array, &DataType::Timestamp)?;
        Ok((column, has_no_zone(array.data_type())))
    }

    /// The columns of the named types, then what else has a natural type, in file order; columns without one
    /// (decimals, structs) are left out.
    pub(crate) fn table(&self, types: &BTreeMap<String, DataType>) -> Result<Table> {
        let mut columns = Vec::new();
        for (index, name) in self.names().into_iter().enumerate() {
            let column = match (types.get(name), &self.content) {
                (Some(wanted), _) => Some(self.column(name, wanted)?),
                (None, Content::Csv(file)) => {
                    Some(self.parse(name, &file.columns[index], &infer(&file.columns[index]))?)
                }
                (None, Content::Parquet { .. }) => {
                    let array = self.array(index)?;
                    natural_type(array.data_type())
                        .and_then(|natural| convert(name, &array, &natural).ok())
                        .filter(|converted| converted.refused.is_empty())
                        .map(|converted| converted.column)
                }
            };
            columns.extend(column.map(|column| (name.to_owned(), column)));
        }
        Ok(Table { columns })
    }

    /// As [`table`](Self::table); what was read of a column goes when it is converted, so that not everything is in memory
    /// twice.
    pub(crate) fn into_table(self, types: &BTreeMap<String, DataType>) -> Result<Table> {
        let Self { parts, content } = self;
        let alone = |content| TableFile { parts: parts.clone(), content };
        let mut columns = Vec::new();
        match content {
            Content::Csv(file) => {
                for (name, cells) in file.names.into_iter().zip(file.columns) {
                    let one = alone(Content::Csv(CsvFile { names: vec![name], columns: vec![cells] }));
                    columns.append(&mut one.table(types)?.columns);
                }
            }
            Content::Parquet { schema, batches } => {
                let mut arrays: Vec<Vec<ArrayRef>> = vec![Vec::with_capacity(batches.len()); schema.fields().len()];
                for batch in batches {
                    arrays.iter_mut().zip(batch.columns()).for_each(|(arrays, array)| arrays.push(array.clone()));
                }
                for (field, arrays) in schema.fields().iter().zip(arrays) {
                    let schema = Arc::new(Schema::new(vec![field.clone()]));
                    let batch = |array| RecordBatch::try_new(schema.clone(), vec![array]);
                    let batches = arrays.into_iter().map(batch).collect::<Result<_, _>>();
                    let batches = batches.map_err(|error| Error::internal(format!("a column alone: {error}")))?;
                    let one = alone(Content::Parquet { schema: schema.clone(), batches });
                    columns.append(&mut one.table(types)?.columns);
                }
            }
        }
        Ok(Table { columns })
    }

    /// The columns of a CSV file that are wanted, as what their cells look like; texts that are all times as times.
    pub(crate) fn inferred(&self, wanted: &dyn Fn(&str) -> bool) -> Result<Table> {
        let Content::Csv(file) = &self.content else {
            return Err(Error::internal("the types of a Parquet file are not inferred"));
        };
        let mut columns = Vec::new();
        for (name, cells) in file.names.iter().zip(&file.columns).filter(|(name, _)| wanted(name)) {
            let data_type = infer(cells);
            let first = cells.iter().flatten().next();
            let is_time = first.is_some_and(|first| first.parse::<i64>().is_err() && instant(first).is_some());
            let times = (data_type == DataType::Utf8 && is_time).then(|| self.times(name).ok()).flatten();
            let column = match times {
                Some((times, _)) => times,
                None => self.parse(name, cells, &data_type)?,
            };
            columns.push((name.clone(), column));
        }
        Ok(Table { columns })
    }

    /// Rows `rows` (rising) of all columns, unchanged; `times` and `keys` say which columns of a CSV file have
    /// a type of their own.
    pub(crate) fn take(&self, rows: &[u32], types: &BTreeMap<String, DataType>) -> Result<RecordBatch> {
        let internal = |error: arrow_schema::ArrowError| self.error(error);
        let (schema, batches) = match &self.content {
            Content::Parquet { schema, batches } => (schema, batches),
            Content::Csv(file) => {
                let mut fields = Vec::new();
                let mut arrays = Vec::new();
                for (name, cells) in file.names.iter().zip(&file.columns) {
                    let data_type = types.get(name).cloned().unwrap_or_else(|| infer(cells));
                    let column = match data_type {
                        DataType::Timestamp => self.times(name)?.0,
                        _ => self.parse(name, cells, &data_type)?,
                    };
                    fields.push(Field::new(name, arrow_type(&data_type), true));
                    arrays.push(to_arrow(&column.take(rows.iter().map(|&row| row as usize)))?);
                }
                return RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(internal);
            }
        };
        let mut parts = Vec::new();
        let (mut first, mut rest) = (0u32, rows);
        for batch in batches {
            let end = first + batch.num_rows() as u32;
            let (here, later) = rest.split_at(rest.partition_point(|&row| row < end));
            if !here.is_empty() {
                let all = here.len() == batch.num_rows();
                let indices = arrow_array::UInt32Array::from_iter_values(here.iter().map(|row| row - first));
                parts.push(match all {
                    true => batch.clone(),
                    false => arrow_select::take::take_record_batch(batch, &indices).map_err(internal)?,
                });
            }
            (first, rest) = (end, later);
        }
        match &parts[..] {
            [only] => Ok(only.clone()),
            _ => arrow_select::concat::concat_batches(schema, &parts).map_err(internal),
        }
    }

    fn array(&self, index: usize) -> Result<ArrayRef> {
        let Content::Parquet { schema, batches } = &self.content else {
            return Err(Error::internal("a CSV file has no Arrow columns"));
        };
        let parts: Vec<&dyn Array> = batches.iter().map(|batch| &**batch.column(index)).collect();
        match &batches[..] {
            [] => Ok(arrow_array::new_empty_array(schema.field(index).data_type())),
            [only] => Ok(only.column(index).clone()),
            _ => arrow_select::concat::concat(&parts).map_err(|error| self.error(error)),
        }
    }

    fn parse(&self, name: &str, cells: &[Option<String>], wanted: &DataType) -> Result<Column> {
        let mut column = Column::new(wanted);
        for (row, cell) in cells.iter().enumerate() {
            if !push_text(&mut column, cell.as_deref()) {
                let (cell, wanted) = (cell.as_deref().unwrap_or(""), wanted.name());
                return Err(self.row_error(name, row, &format!("`{cell}` is no {wanted}")));
            }
        }
        Ok(column)
    }

    fn parse_times<'a>(&self, name: &str, cells: impl Iterator<Item = Option<&'a str>>) -> Result<(Column, bool)> {
        let mut column = Column::new(&DataType::Timestamp);
        let mut any_without_zone = false;
        for (row, cell) in cells.enumerate() {
            let Some(cell) = cell.filter(|cell| !cell.is_empty()) else {
                column.push_null();
                continue;
            };
            let Some((us, without_zone)) = instant(cell) else {
                let why = "expected RFC 3339 as `2024-01-31T12:00:00Z`, a date, or milliseconds since 1970";
                return Err(self.row_error(name, row, &format!("`{cell}` is no time, {why}")));
            };
            if cell.parse::<i64>().is_ok()
                && let Some(why) = other_unit(us)
            {
                return Err(self.row_error(name, row, &why));
            }
            any_without_zone |= without_zone;
            column.push_i64(us);
        }
        Ok((column, any_without_zone))
    }

    fn converted(&self, name: &str, array: &ArrayRef, wanted: &DataType) -> Result<Column> {
        let converted = convert(name, array, wanted).map_err(|error| self.error(error))?;
        match converted.refused.first() {
            Some(first) => Err(self.row_error(name, first.row, &first.why)),
            None => Ok(converted.column),
        }
    }

    fn error(&self, why: impl std::fmt::Display) -> Error {
        Error::invalid(format!("{}: {why}", self.shown()))
    }

    /// The file that a row of the table is in, and the row's number there, from 1.
    pub(crate) fn place(&self, row: usize) -> (&Path, usize) {
        let at = self.parts.partition_point(|part| part.first_row + part.rows <= row).min(self.parts.len() - 1);
        (&self.parts[at].path, row + 1 - self.parts[at].first_row + self.parts[at].skipped)
    }

    /// What is wrong with a row of the table.
    fn row_error(&self, name: &str, row: usize, why: &str) -> Error {
        let (path, row) = self.place(row);
        Error::invalid(format!("`{}`: column `{name}`: row {row}: {why}", path.display()))
    }
}

pub(crate) fn other_columns(first: &Path, second: &Path, why: &str) -> Error {
    Error::invalid(format!(
        "`{}` has other columns than `{}`: {why}; files that are read together must have the same columns",
        second.display(),
        first.display()
    ))
}

/// The places of the first file's columns in the second; an error if one has a column that the other lacks.
pub(crate) fn same_names((first, ours): (&Path, &[&str]), (second, theirs): (&Path, &[&str])) -> Result<Vec<usize>> {
    if let Some(extra) = theirs.iter().find(|name| !ours.contains(name)) {
        return Err(other_columns(first, second, &format!("it has a column `{extra}` too")));
    }
    let place = |name: &&str| {
        let place = theirs.iter().position(|other| other == name);
        place.ok_or_else(|| other_columns(first, second, &format!("it has no column `{name}`")))
    };
    ours.iter().map(place).collect()
}

/// The schema of two files that are read together; an error if their columns differ.
pub(crate) fn merge_schemas((first, ours): (&Path, &Schema), (second, theirs): (&Path, &Schema)) -> Result<SchemaRef> {
    let names = |schema: &Schema| schema.fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
    let (our_names, their_names) = (names(ours), names(theirs));
    let our_names: Vec<&str> = our_names.iter().map(String::as_str).collect();
    let their_names: Vec<&str> = their_names.iter().map(String::as_str).collect();
    let places = same_names((first, &our_names), (second, &their_names))?;
    let mut fields = Vec::with_capacity(places.len());
    for (field, place) in ours.fields().iter().zip(places) {
        let other = theirs.field(place);
        if field.data_type() != other.data_type() {
            let (name, ours, theirs) = (field.name(), field.data_type(), other.data_type());
            return Err(other_columns(first, second, &format!("its column `{name}` is {theirs}, there it is {ours}")));
        }
        fields.push(field.as_ref().clone().with_nullable(field.is_nullable() || other.is_nullable()));
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// A batch with the columns of a merged schema.
pub(crate) fn fit(path: &Path, batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let failed = |error: arrow_schema::ArrowError| Error::invalid(format!("`{}`: {error}", path.display()));
    let column = |field: &Arc<Field>| batch.schema_ref().index_of(field.name()).map(|at| batch.column(at).clone());
    let columns = schema.fields().iter().map(column).collect::<Result<_, _>>().map_err(failed)?;
    RecordBatch::try_new(schema.clone(), columns).map_err(failed)
}

/// Why an integer that was read as milliseconds must be of another unit; `None` for those from 1990 to 9999.
fn other_unit(us: i64) -> Option<String> {
    /// 1990-01-01, 10000-01-01.
    const PLAUSIBLE_US: std::ops::Range<i64> = 631_152_000_000_000..253_402_300_800_000_000;
    if PLAUSIBLE_US.contains(&us) {
        return None;
    }
    let (unit, bound) =
        if us < PLAUSIBLE_US.start { ("seconds", "before 1990") } else { ("finer", "after the year 9999") };
    let ms = us.div_euclid(1000);
    Some(format!(
        "{ms} is {bound} as milliseconds since 1970; is it {unit}? Integers are milliseconds, write others as timestamps"
    ))
}

/// The type a column of a file is read as when nobody asks for another; `None` for what plumb has no type for.
pub(crate) fn natural_type(found: &ArrowType) -> Option<DataType> {
    use ArrowType::*;
    Some(match found {
        Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 => DataType::I64,
        Float16 | Float32 | Float64 => DataType::F64,
        Boolean => DataType::Bool,
        Null | Utf8 | LargeUtf8 | Utf8View => DataType::Utf8,
        Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => DataType::Bytes,
        Timestamp(..) | Date32 | Date64 => DataType::Timestamp,
        Dictionary(_, values) => return natural_type(values),
        List(item) | LargeList(item) | FixedSizeList(item, _) | ListView(item) | LargeListView(item) => {
            match natural_type(item.data_type())? {
                DataType::List(_) => return None,
                of => DataType::List(Box::new(of)),
            }
        }
        _ => return None,
    })
}

/// Reads a table, e.g. a training set to audit: the columns in `types` as these types, others as what they are in
/// the file (CSV: whole numbers, floats, truth values, else strings). Parquet or CSV by ending.
pub fn read_table(path: &Path, types: &BTreeMap<String, DataType>) -> Result<Table> {
    TableFile::read(path)?.into_table(types)
}
