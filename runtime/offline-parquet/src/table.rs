//! Tables of other programs, Parquet or CSV by ending: labels and training sets.

use crate::csv::CsvFile;
use crate::values::{infer, instant, push_text};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType as ArrowType, Field, Schema, SchemaRef, TimeUnit};
use plumb_columnar::{
    ParquetFile, Selection, arrow_type, convert, from_arrow, has_no_zone, times_from_integers, to_arrow,
};
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

/// A table file in memory.
#[derive(Debug, Clone)]
pub(crate) struct TableFile {
    pub(crate) path: PathBuf,
    pub(crate) content: Content,
}

impl TableFile {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let content = match Format::of(path)? {
            Format::Csv => Content::Csv(CsvFile::read(path)?),
            Format::Parquet => {
                let file = ParquetFile::open(path)?;
                let selection = Selection { batch_rows: 64 * 1024, ..Selection::default() };
                Content::Parquet {
                    schema: file.schema().clone(),
                    batches: file.batches(&selection)?.collect::<Result<Vec<RecordBatch>>>()?,
                }
            }
        };
        Ok(Self { path: path.to_owned(), content })
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
            Error::invalid(format!("`{}` has no column `{name}`; it has {}", self.path.display(), names.join(", ")))
        })
    }

    /// A column read as a type; an error that names the file, the column, and the first row that does not fit.
    pub(crate) fn column(&self, name: &str, wanted: &DataType) -> Result<Column> {
        let index = self.index(name)?;
        if *wanted == DataType::Timestamp {
            return Ok(self.times(name)?.0);
        }
        match &self.content {
            Content::Parquet { .. } => from_arrow(name, &self.array(index)?, wanted).map_err(|error| self.error(error)),
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
            return match times.refused.first() {
                Some(first) => Err(self.error(format!("column `{name}`: row {}: {}", first.row + 1, first.why))),
                None => Ok((times.column, false)),
            };
        }
        if matches!(array.data_type(), ArrowType::Utf8 | ArrowType::LargeUtf8 | ArrowType::Utf8View) {
            let text = from_arrow(name, &array, &DataType::Utf8).map_err(|error| self.error(error))?;
            let cells =
                (0..text.len()).map(|row| text.str_bytes(row).and_then(|bytes| std::str::from_utf8(bytes).ok()));
            return self.parse_times(name, cells);
        }
        let column = from_arrow(name, &array, &DataType::Timestamp).map_err(|error| self.error(error))?;
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
                let (row, cell, wanted) = (row + 1, cell.as_deref().unwrap_or(""), wanted.name());
                return Err(self.error(format!("column `{name}`: row {row}: `{cell}` is no {wanted}")));
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
                return Err(self.error(format!(
                    "column `{name}`: row {}: `{cell}` is no time, expected RFC 3339 as `2024-01-31T12:00:00Z`, a date, \
                     or milliseconds since 1970",
                    row + 1
                )));
            };
            any_without_zone |= without_zone;
            column.push_i64(us);
        }
        Ok((column, any_without_zone))
    }

    fn error(&self, why: impl std::fmt::Display) -> Error {
        Error::invalid(format!("`{}`: {why}", self.path.display()))
    }
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
    TableFile::read(path)?.table(types)
}
