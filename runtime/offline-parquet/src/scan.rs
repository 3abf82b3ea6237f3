//! Table files of any size, batch by batch: snapshots and training sets, ours or anyone's.

use crate::table::{Format, TableFile, natural_type, open_table};
use arrow_schema::DataType as ArrowType;
use plumb_columnar::{Selection, from_arrow};
use plumb_core::column::{Column, DataType};
use plumb_pipeline::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Rows of a batch.
const BATCH_ROWS: usize = 32 * 1024;

/// Some rows of a file; of each file first a batch without rows, so that its columns are known.
#[derive(Debug, Clone, PartialEq)]
pub struct TableBatch<'a> {
    /// The file.
    pub file: &'a Path,
    /// How many rows.
    pub rows: u64,
    /// The wanted columns that have a type, in file order.
    pub columns: Vec<(String, Column)>,
}

/// What a scan read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scanned {
    /// How many files.
    pub files: u64,
    /// Wanted columns that plumb has no type for, with what they are.
    pub left_out: BTreeMap<String, String>,
}

/// Reads files one after the other. Parquet is read a batch at a time and only the wanted columns; CSV a file at a time.
pub fn scan_tables(
    files: &[PathBuf],
    wanted: &dyn Fn(&str) -> bool,
    visit: &mut dyn FnMut(TableBatch<'_>) -> Result<()>,
) -> Result<Scanned> {
    let mut scanned = Scanned::default();
    for file in files {
        scanned.files += 1;
        match Format::of(file)? {
            Format::Parquet => scan_parquet(file, wanted, &mut scanned, visit)?,
            Format::Csv => {
                let table = TableFile::read(file)?.inferred(wanted)?;
                let empty = table.columns.iter().map(|(name, of)| (name.clone(), Column::new(&of.data_type())));
                visit(TableBatch { file, rows: 0, columns: empty.collect() })?;
                visit(TableBatch { file, rows: table.rows() as u64, columns: table.columns })?;
            }
        }
    }
    Ok(scanned)
}

fn scan_parquet(
    path: &Path,
    wanted: &dyn Fn(&str) -> bool,
    scanned: &mut Scanned,
    visit: &mut dyn FnMut(TableBatch<'_>) -> Result<()>,
) -> Result<()> {
    let file = open_table(path)?;
    let mut columns: Vec<(usize, String, DataType)> = Vec::new();
    for (index, field) in file.schema().fields().iter().enumerate().filter(|(_, field)| wanted(field.name())) {
        match statistical_type(field.data_type()) {
            Some(of) => columns.push((index, field.name().clone(), of)),
            None => {
                scanned.left_out.insert(field.name().clone(), field.data_type().to_string());
            }
        }
    }
    let empty = columns.iter().map(|(_, name, of)| (name.clone(), Column::new(of))).collect();
    visit(TableBatch { file: path, rows: 0, columns: empty })?;
    let selection = Selection {
        columns: Some(columns.iter().map(|&(index, ..)| index).collect()),
        batch_rows: BATCH_ROWS,
        ..Selection::default()
    };
    for batch in file.batches(&selection)? {
        let batch = batch?;
        let bad = |why: String| Error::invalid(format!("`{}`: {why}", path.display()));
        let mut read = Vec::with_capacity(columns.len());
        for (array, (_, name, of)) in batch.columns().iter().zip(&columns) {
            let as_float = matches!(array.data_type(), ArrowType::Decimal128(..) | ArrowType::Decimal256(..));
            let column = match as_float {
                true => arrow_cast::cast(array, &ArrowType::Float64)
                    .map_err(|error| bad(format!("column `{name}`: {error}")))
                    .and_then(|array| from_arrow(name, &array, of).map_err(|error| bad(error.to_string())))?,
                false => from_arrow(name, array, of).map_err(|error| bad(error.to_string()))?,
            };
            read.push((name.clone(), column));
        }
        visit(TableBatch { file: path, rows: batch.num_rows() as u64, columns: read })?;
    }
    Ok(())
}

/// The type in which a column's statistics are taken: its natural one, but no unsigned integer is too large and a decimal
/// is the nearest float.
fn statistical_type(found: &ArrowType) -> Option<DataType> {
    use ArrowType::*;
    let is_unsigned = |of: &ArrowType| *of == UInt64;
    match found {
        UInt64 | Decimal128(..) | Decimal256(..) => Some(DataType::F64),
        Dictionary(_, values) if is_unsigned(values) => Some(DataType::F64),
        List(item) | LargeList(item) | FixedSizeList(item, _) | ListView(item) | LargeListView(item)
            if is_unsigned(item.data_type()) =>
        {
            Some(DataType::List(Box::new(DataType::F64)))
        }
        _ => natural_type(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::types::{Int32Type, UInt64Type};
    use arrow_array::{
        ArrayRef, Decimal128Array, DictionaryArray, Int32Array, ListArray, RecordBatch, StructArray, UInt64Array,
    };
    use plumb_core::column::Values;
    use std::fs::File;
    use std::sync::Arc;

    fn write(path: &Path, columns: Vec<(&str, ArrayRef)>) {
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let file = File::create(path).unwrap();
        let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    type Read = (u64, Vec<(String, Column)>, Scanned);

    /// Rows, and the columns in the order first seen, end to end.
    fn read(files: &[PathBuf], wanted: &dyn Fn(&str) -> bool) -> Result<Read> {
        let (mut rows, mut columns) = (0, Vec::<(String, Column)>::new());
        let scanned = scan_tables(files, wanted, &mut |batch| {
            rows += batch.rows;
            for (name, column) in batch.columns {
                match columns.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, known)) => known.append(&column),
                    None => columns.push((name, column)),
                }
            }
            Ok(())
        })?;
        Ok((rows, columns, scanned))
    }

    #[test]
    fn types_of_other_tools() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.parquet");
        let decimal = Decimal128Array::from(vec![Some(125), None]).with_precision_and_scale(9, 2).unwrap();
        let dictionary: DictionaryArray<Int32Type> = ["x", "x"].into_iter().collect();
        let inner: ArrayRef = Arc::new(UInt64Array::from(vec![1, 2]));
        let codes = DictionaryArray::<Int32Type>::new(Int32Array::from(vec![1, 1]), inner.clone());
        let hashes = [Some(vec![Some(1), Some(u64::MAX)]), None];
        let nested = StructArray::try_from(vec![("inner", inner)]).unwrap();
        write(
            &path,
            vec![
                ("decimal", Arc::new(decimal) as ArrayRef),
                ("large", Arc::new(UInt64Array::from(vec![u64::MAX, 1]))),
                ("word", Arc::new(dictionary)),
                ("code", Arc::new(codes)),
                ("hashes", Arc::new(ListArray::from_iter_primitive::<UInt64Type, _, _>(hashes))),
                ("nested", Arc::new(nested)),
                ("_position", Arc::new(UInt64Array::from(vec![1, 2]))),
            ],
        );
        let (rows, columns, scanned) = read(&[path], &|name| !name.starts_with('_')).unwrap();
        assert_eq!(rows, 2);
        let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["decimal", "large", "word", "code", "hashes"]);
        assert_eq!((columns[0].1.as_f64().unwrap()[0], columns[0].1.is_valid(1)), (1.25, false));
        assert_eq!(columns[1].1.values, Values::F64(vec![u64::MAX as f64, 1.0]));
        assert_eq!(columns[2].1.str_bytes(1), Some(&b"x"[..]));
        assert_eq!(columns[3].1.values, Values::F64(vec![2.0, 2.0]));
        let Values::List { offsets, child } = &columns[4].1.values else { panic!("no list") };
        assert_eq!((&offsets[..], &child.values), (&[0, 2, 2][..], &Values::F64(vec![1.0, u64::MAX as f64])));
        assert_eq!(scanned.left_out.keys().collect::<Vec<_>>(), ["nested"]);
    }

    #[test]
    fn files_of_both_formats_are_read_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (name, value) in [("b.parquet", 2), ("a.parquet", 1)] {
            write(&path(name), vec![("n", Arc::new(UInt64Array::from(vec![value])) as ArrayRef)]);
        }
        std::fs::write(path("more.csv"), "n,at\n2.5,2024-01-02T03:04:05Z\n").unwrap();
        let (rows, columns, scanned) = read(&["a.parquet", "b.parquet", "more.csv"].map(path), &|_| true).unwrap();
        assert_eq!((rows, scanned.files), (3, 3));
        assert_eq!(columns[0].1.values, Values::F64(vec![1.0, 2.0, 2.5]));
        assert_eq!(columns[1].1.data_type(), DataType::Timestamp);
    }

    #[test]
    fn a_file_without_rows_still_has_columns() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty.parquet");
        write(&path, vec![("n", Arc::new(UInt64Array::from(Vec::<u64>::new())) as ArrayRef)]);
        let (rows, columns, _) = read(&[path], &|_| true).unwrap();
        assert_eq!((rows, columns.len(), columns[0].1.len()), (0, 1, 0));
    }
}
