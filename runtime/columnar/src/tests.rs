use crate::*;
use arrow_array::types::*;
use arrow_array::*;
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::{DataType as ArrowType, Field, Schema, TimeUnit};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{BrotliLevel, Compression};
use parquet::file::metadata::{ParquetMetaDataReader, ParquetMetaDataWriter};
use plumb_core::column::{Column, DataType, Values};
use proptest::prelude::*;
use std::sync::Arc;

fn list_of(of: DataType) -> DataType {
    DataType::List(Box::new(of))
}

fn ints(rows: &[Option<i64>]) -> Column {
    let mut column = Column::new(&DataType::I64);
    for row in rows {
        match row {
            Some(value) => column.push_i64(*value),
            None => column.push_null(),
        }
    }
    column
}

fn texts(data_type: &DataType, rows: &[Option<&str>]) -> Column {
    let mut column = Column::new(data_type);
    for row in rows {
        match row {
            Some(value) => column.push_bytes(value.as_bytes()),
            None => column.push_null(),
        }
    }
    column
}

/// A random column of any type, `rows` long.
fn any_column(rows: usize) -> impl Strategy<Value = Column> {
    let scalar = prop_oneof![
        Just(DataType::I64),
        Just(DataType::F64),
        Just(DataType::Bool),
        Just(DataType::Utf8),
        Just(DataType::Bytes),
        Just(DataType::Timestamp)
    ];
    (scalar, any::<bool>(), any::<u64>()).prop_map(move |(of, list, seed)| {
        let mut state = seed | 1;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let push = |column: &mut Column, n: u64| match (&of, n % 5) {
            (_, 0) => column.push_null(),
            (DataType::F64, _) => column.push_f64(f64::from_bits(n & !(1 << 62))),
            (DataType::Bool, _) => column.push_bool(n & 64 == 0),
            (DataType::Utf8, _) => column.push_bytes(format!("{}é", n % 97).as_bytes()),
            (DataType::Bytes, _) => column.push_bytes(&n.to_le_bytes()[..(n % 8) as usize]),
            _ => column.push_i64(n as i64),
        };
        if !list {
            let mut column = Column::new(&of);
            (0..rows).for_each(|_| push(&mut column, next()));
            return column;
        }
        let mut column = Column::new(&list_of(of.clone()));
        for _ in 0..rows {
            if next() % 5 == 0 {
                column.push_null();
                continue;
            }
            let Values::List { offsets, child } = &mut column.values else { unreachable!() };
            (0..next() % 4).for_each(|_| push(child, next()));
            offsets.push(child.len() as u32);
            column.mark_valid();
        }
        column
    })
}

fn parquet_bytes(columns: &[(&str, Column)]) -> Vec<u8> {
    let fields: Vec<Field> =
        columns.iter().map(|(name, column)| Field::new(*name, arrow_type(&column.data_type()), true)).collect();
    let layout = Layout::new(Arc::new(Schema::new(fields)), |name| match name {
        "id" => ColumnHint::Distinct,
        _ => ColumnHint::Repeating,
    });
    let arrays = columns.iter().map(|(_, column)| to_arrow(column).unwrap()).collect();
    let batch = RecordBatch::try_new(layout.schema().clone(), arrays).unwrap();
    let mut writer = ParquetWriter::new("test", Vec::new(), &layout).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap()
}

fn read_all(path: &std::path::Path) -> plumb_pipeline::Result<Vec<RecordBatch>> {
    let file = ParquetFile::open(path)?;
    file.batches(&Selection::default())?.collect()
}

proptest! {
    #[test]
    fn columns_survive_arrow_and_parquet(column in any_column(40)) {
        let wanted = column.data_type();
        let array = to_arrow(&column).unwrap();
        prop_assert_eq!(&from_arrow("c", &array, &wanted).unwrap(), &column);

        // A slice has other offsets than the whole.
        let sliced = from_arrow("c", &array.slice(7, 20), &wanted).unwrap();
        prop_assert_eq!(&sliced, &from_arrow("c", &to_arrow(&column.take(7..27)).unwrap(), &wanted).unwrap());

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.parquet");
        std::fs::write(&path, parquet_bytes(&[("c", column.clone())])).unwrap();
        let batches = read_all(&path).unwrap();
        prop_assert_eq!(batches.len(), 1);
        prop_assert_eq!(&from_arrow("c", batches[0].column(0), &wanted).unwrap(), &column);
    }
}

#[test]
fn integers_of_any_width_are_i64_f64_or_digits() {
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(Int8Array::from(vec![Some(1), None, Some(3)])),
        Arc::new(UInt8Array::from(vec![Some(1), None, Some(3)])),
        Arc::new(Int16Array::from(vec![Some(1), None, Some(3)])),
        Arc::new(UInt16Array::from(vec![Some(1), None, Some(3)])),
        Arc::new(Int32Array::from(vec![Some(1), None, Some(3)])),
        Arc::new(UInt32Array::from(vec![Some(1), None, Some(3)])),
        Arc::new(Int64Array::from(vec![Some(1), None, Some(3)])),
        Arc::new(UInt64Array::from(vec![Some(1), None, Some(3)])),
        Arc::new(Float64Array::from(vec![Some(1.0), None, Some(3.0)])),
    ];
    for array in &arrays {
        let found = array.data_type();
        assert_eq!(from_arrow("c", array, &DataType::I64).unwrap(), ints(&[Some(1), None, Some(3)]), "{found}");
        let floats = from_arrow("c", array, &DataType::F64).unwrap();
        assert_eq!((floats.as_f64().unwrap(), floats.is_valid(1)), (&[1.0, 0.0, 3.0][..], false), "{found}");
    }
    for array in &arrays[..8] {
        let digits = from_arrow("c", array, &DataType::Utf8).unwrap();
        assert_eq!(digits, texts(&DataType::Utf8, &[Some("1"), None, Some("3")]), "{}", array.data_type());
    }
    let huge = UInt64Array::from(vec![1, u64::MAX]);
    assert_eq!(
        from_arrow("c", &huge, &DataType::I64).unwrap_err().to_string(),
        "column `c`: row 2: 18446744073709551615 is beyond i64"
    );
    let digits = from_arrow("c", &huge, &DataType::Utf8).unwrap();
    assert_eq!(digits.str_bytes(1).unwrap(), b"18446744073709551615");
    let halves = convert("c", &Float32Array::from(vec![2.0, 2.5]), &DataType::I64).unwrap();
    assert_eq!((halves.column, halves.refused.len(), halves.refused[0].row), (ints(&[Some(2), None]), 1, 1));
    let halves = from_arrow("c", &Float32Array::from(vec![2.5]), &DataType::F64).unwrap();
    assert_eq!(halves.as_f64().unwrap(), &[2.5]);
}

#[test]
fn strings_of_any_layout() {
    let rows = [Some("a"), None, Some("bé"), Some("a")];
    let wanted = texts(&DataType::Utf8, &rows);
    let dictionary: DictionaryArray<Int8Type> = rows.into_iter().collect();
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(rows.to_vec())),
        Arc::new(LargeStringArray::from(rows.to_vec())),
        Arc::new(StringViewArray::from(rows.to_vec())),
        arrow_cast::cast(&dictionary, &ArrowType::Dictionary(ArrowType::UInt32.into(), ArrowType::Utf8View.into()))
            .unwrap(),
        Arc::new(dictionary),
        Arc::new(BinaryArray::from(rows.iter().map(|row| row.map(str::as_bytes)).collect::<Vec<_>>())),
        Arc::new(LargeBinaryArray::from(rows.iter().map(|row| row.map(str::as_bytes)).collect::<Vec<_>>())),
    ];
    for array in &arrays {
        assert_eq!(from_arrow("c", array, &DataType::Utf8).unwrap(), wanted, "{}", array.data_type());
        let bytes = from_arrow("c", array, &DataType::Bytes).unwrap();
        assert_eq!(bytes, texts(&DataType::Bytes, &rows), "{}", array.data_type());
    }
    let broken = convert("c", &BinaryArray::from(vec![&b"a"[..], b"\xff"]), &DataType::Utf8).unwrap();
    assert_eq!((broken.column.str_bytes(0), broken.column.str_bytes(1)), (Some(&b"a"[..]), None));
    assert_eq!(broken.refused, [Refused { row: 1, why: "the bytes are not UTF-8".into() }]);
    assert_eq!(from_arrow("c", &NullArray::new(2), &DataType::Utf8).unwrap(), Column::nulls(&DataType::Utf8, 2));
}

#[test]
fn times_of_any_unit_are_rounded_down() {
    let cases: Vec<(ArrayRef, i64)> = vec![
        (Arc::new(TimestampSecondArray::from(vec![-1])), -1_000_000),
        (Arc::new(TimestampMillisecondArray::from(vec![-1])), -1_000),
        (Arc::new(TimestampMicrosecondArray::from(vec![-1]).with_timezone("Europe/Berlin")), -1),
        (Arc::new(TimestampNanosecondArray::from(vec![-1]).with_timezone("+02:00")), -1),
        (Arc::new(TimestampNanosecondArray::from(vec![1_999])), 1),
        (Arc::new(Date32Array::from(vec![-1])), -86_400_000_000),
        (Arc::new(Date64Array::from(vec![86_400_000])), 86_400_000_000),
    ];
    for (array, wanted) in cases {
        let column = from_arrow("t", &array, &DataType::Timestamp).unwrap();
        assert_eq!(column, Column::of(Values::Timestamp(vec![wanted])), "{}", array.data_type());
    }
    let far = convert("t", &TimestampSecondArray::from(vec![i64::MAX, 1]), &DataType::Timestamp).unwrap();
    assert_eq!((far.refused.len(), far.column.as_i64().unwrap()), (1, &[0, 1_000_000][..]));
    let from_ms = times_from_integers(&Int32Array::from(vec![Some(-1), None]), TimeUnit::Millisecond).unwrap();
    assert_eq!((from_ms.column.as_i64().unwrap(), from_ms.column.is_valid(1)), (&[-1000, 0][..], false));
    assert!(times_from_integers(&StringArray::from(vec!["1"]), TimeUnit::Millisecond).is_none());
    assert!(has_no_zone(&ArrowType::Timestamp(TimeUnit::Second, None)));
    assert!(!has_no_zone(&ArrowType::Timestamp(TimeUnit::Second, Some("UTC".into()))));
}

#[test]
fn lists_of_any_layout_lose_what_nulls_hide() {
    let item = Arc::new(Field::new("x", ArrowType::Int32, true));
    let offsets = OffsetBuffer::new(vec![0, 2, 3, 4].into());
    let nulls = NullBuffer::from(vec![true, false, true]);
    let list = ListArray::new(item, offsets, Arc::new(Int32Array::from(vec![1, 2, 3, 4])), Some(nulls));
    let mut wanted = Column::new(&list_of(DataType::I64));
    wanted.values = Values::List { offsets: vec![0, 2], child: Box::new(ints(&[Some(1), Some(2), Some(4)])) };
    wanted.push_null();
    let Values::List { offsets, .. } = &mut wanted.values else { unreachable!() };
    offsets.push(3);
    wanted.mark_valid();
    assert_eq!(from_arrow("c", &list, &list_of(DataType::I64)).unwrap(), wanted);
    let large = arrow_cast::cast(&list, &ArrowType::LargeList(Arc::new(Field::new("y", ArrowType::Int64, true))));
    assert_eq!(from_arrow("c", &large.unwrap(), &list_of(DataType::I64)).unwrap(), wanted);
    let digits = from_arrow("c", &list, &list_of(DataType::Utf8)).unwrap();
    assert_eq!(digits.data_type(), list_of(DataType::Utf8));
    assert_eq!(
        from_arrow("c", &list, &list_of(DataType::Bool)).unwrap_err().to_string(),
        "column `c[]`: found Int32, expected bool"
    );
}

#[test]
fn lists_in_files_are_named_as_the_specification_has_it() {
    let mut lists = Column::new(&list_of(DataType::I64));
    lists.push_null();
    let bytes = parquet_bytes(&[("tags", lists)]);
    let file = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).unwrap();
    assert_eq!(file.parquet_schema().column(0).path().string(), "tags.list.element");
}

#[test]
fn mismatches_name_column_found_and_wanted() {
    let message = |array: &dyn Array, wanted| from_arrow("price", array, &wanted).unwrap_err().to_string();
    let text = StringArray::from(vec!["1"]);
    assert_eq!(message(&text, DataType::F64), "column `price`: found Utf8, expected f64");
    assert_eq!(message(&text, list_of(DataType::F64)), "column `price`: found Utf8, expected list<f64>");
    let decimal = Decimal128Array::from(vec![1]).with_precision_and_scale(10, 2).unwrap();
    assert_eq!(
        message(&decimal, DataType::F64),
        "column `price`: found Decimal128(10, 2), expected f64; decimals are not read, cast the column to f64 or i64 \
         when writing the file"
    );
    assert!(message(&Int64Array::from(vec![1]), DataType::Timestamp).contains("a time is a timestamp"));
    assert!(message(&Int64Array::from(vec![1]), DataType::Bool).contains("expected bool"));
}

/// The file with a footer that says of one column that it is compressed so.
fn said_to_be_compressed(bytes: &[u8], column: usize, with: Compression) -> Vec<u8> {
    let found = ParquetMetaDataReader::new().parse_and_finish(&bytes::Bytes::copy_from_slice(bytes)).unwrap();
    let mut groups = found.row_groups().to_vec();
    for group in &mut groups {
        let mut columns = group.columns().to_vec();
        columns[column] = columns[column].clone().into_builder().set_compression(with).build().unwrap();
        *group = group.clone().into_builder().set_column_metadata(columns).build().unwrap();
    }
    let said = found.into_builder().set_row_groups(groups).build();
    let mut all = bytes.to_vec();
    ParquetMetaDataWriter::new(&mut all, &said).finish().unwrap();
    all
}

#[test]
fn a_compression_that_is_not_read_is_named_where_its_column_is_wanted() {
    let batch = RecordBatch::try_from_iter([
        ("a", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef),
        ("b", Arc::new(Int64Array::from(vec![3, 4])) as ArrayRef),
    ])
    .unwrap();
    let layout = Layout::new(batch.schema(), |_| ColumnHint::Repeating);
    let mut writer = ParquetWriter::new("test", Vec::new(), &layout).unwrap();
    writer.write(&batch).unwrap();
    let bytes = writer.finish().unwrap();
    for (with, name) in [(Compression::BROTLI(BrotliLevel::default()), "Brotli"), (Compression::LZO, "LZO")] {
        let bytes = bytes::Bytes::from(said_to_be_compressed(&bytes, 1, with));
        let file = ParquetFile::from_bytes(std::path::Path::new("f.parquet"), bytes).unwrap();
        let error = file.batches(&Selection::default()).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "`f.parquet`: column `b` is compressed with {name}, which plumb does not read; write the file with \
                 zstd, snappy, gzip, lz4 or without compression"
            )
        );
        let only_a = Selection { columns: Some(vec![0]), ..Selection::default() };
        let read = file.batches(&only_a).unwrap().next().unwrap().unwrap();
        assert_eq!(read.column(0), batch.column(0));
    }
}

#[test]
fn cut_and_damaged_files_are_errors_that_name_the_file() {
    let rows: Vec<Option<String>> = (0..300).map(|row| (row % 7 > 0).then(|| format!("user{}", row % 40))).collect();
    let rows: Vec<Option<&str>> = rows.iter().map(Option::as_deref).collect();
    let bytes = parquet_bytes(&[
        ("id", texts(&DataType::Utf8, &rows)),
        ("user", texts(&DataType::Utf8, &rows)),
        ("n", ints(&(0..300).map(|n| (n % 3 > 0).then_some(n)).collect::<Vec<_>>())),
    ]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.parquet");
    for cut in 0..bytes.len() {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let error = ParquetFile::open(&path).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), plumb_core::ErrorKind::Invalid);
        assert!(error.to_string().contains("events.parquet"), "{error}");
        let error = ParquetFile::from_bytes(&path, bytes[..cut].to_vec().into()).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), plumb_core::ErrorKind::Invalid);
    }
    let file = ParquetFile::from_bytes(&path, bytes.clone().into()).unwrap();
    let in_memory: Vec<RecordBatch> = file.batches(&Selection::default()).unwrap().collect::<Result<_, _>>().unwrap();
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(in_memory, read_all(&path).unwrap());
    // A flipped byte gives other values or an error.
    for at in (0..bytes.len()).step_by(3) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x55;
        std::fs::write(&path, &flipped).unwrap();
        if let Err(error) = read_all(&path) {
            assert!(error.to_string().contains("events.parquet"), "{error}");
        }
    }
    std::fs::write(&path, b"event_id,event_time\n1,2\n").unwrap();
    assert!(ParquetFile::open(&path).unwrap_err().to_string().contains("is not a Parquet file"));
    assert!(ParquetFile::open(folder.path()).unwrap_err().to_string().contains("is a folder"));
    let gone = ParquetFile::open(&folder.path().join("gone")).unwrap_err();
    assert!(gone.to_string().contains("does not exist"), "{gone}");
}

#[test]
fn projection_skipping_and_statistics() {
    let n = ints(&(0..1000).map(Some).collect::<Vec<_>>());
    let names: Vec<String> = (0..1000).map(|n| format!("u{n:04}")).collect();
    let names: Vec<Option<&str>> = names.iter().map(|name| Some(name.as_str())).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.parquet");
    std::fs::write(&path, parquet_bytes(&[("n", n), ("user", texts(&DataType::Utf8, &names))])).unwrap();
    let file = ParquetFile::open(&path).unwrap();
    assert_eq!((file.rows(), file.row_groups(), file.i64_range(0, "n")), (1000, 1, Some((0, 999))));
    assert!(file.may_hold(0, "user", b"u0500") && !file.may_hold(0, "user", b"v") && !file.may_hold(0, "user", b"a"));
    let selection = Selection { columns: Some(vec![1]), skip_rows: 990, batch_rows: 4, ..Selection::default() };
    let batches: Vec<RecordBatch> = file.batches(&selection).unwrap().map(Result::unwrap).collect();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [4, 4, 2]);
    assert_eq!(batches[0].num_columns(), 1);
    assert_eq!(
        file.column("x").unwrap_err().to_string(),
        format!("`{}` has no column `x`; it has n, user", path.display())
    );
}

#[test]
fn row_groups_end_inside_batches_and_threads_change_no_byte() {
    // Three row groups, of which two end inside a batch; a column of two leaves between columns of one.
    let rows = 600_000;
    let numbers: ArrayRef =
        Arc::new(Int64Array::from_iter((0..rows as i64).map(|row| (row % 7 > 0).then_some(row / 3))));
    let measures: ArrayRef = Arc::new(Float64Array::from_iter_values((0..rows).map(|row| f64::from(row).sqrt())));
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|row| format!("t{}", row % 1000))));
    let fields = vec![Field::new("a", ArrowType::Int64, true), Field::new("b", ArrowType::Utf8, true)];
    let structs: ArrayRef = Arc::new(StructArray::new(fields.into(), vec![numbers.clone(), texts.clone()], None));
    let columns = vec![("numbers", numbers), ("structs", structs), ("measures", measures), ("texts", texts)];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)));
    let batch = batch.unwrap();
    let layout = Layout::new(batch.schema(), |name| match name {
        "measures" => ColumnHint::Distinct,
        _ => ColumnHint::Repeating,
    });
    let written = |threads: usize, step: usize| {
        let mut writer = ParquetWriter::new("test", Vec::new(), &layout).unwrap();
        for start in (0..batch.num_rows()).step_by(step) {
            let part = batch.slice(start, step.min(batch.num_rows() - start));
            writer.write_columns(part.num_rows(), threads, |column| Ok(part.column(column).clone())).unwrap();
        }
        writer.finish().unwrap()
    };
    let whole = written(1, usize::MAX >> 1);
    let read = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(whole.clone())).unwrap();
    let groups: Vec<i64> = read.metadata().row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(groups, [256 * 1024, 256 * 1024, 600_000 - 512 * 1024]);
    let read: Vec<RecordBatch> = read.with_batch_size(600_000).build().unwrap().map(Result::unwrap).collect();
    assert_eq!(arrow_select::concat::concat_batches(&batch.schema(), &read).unwrap(), batch);
    assert!(written(1, 65_536) == written(3, 65_536));
    assert!(written(1, 200_000) == written(2, 200_000));
    assert!(written(4, usize::MAX >> 1) == whole);

    let mut writer = ParquetWriter::new("test", Vec::new(), &layout).unwrap();
    let failed = writer.write_columns(10, 2, |column| Ok(batch.column(column).slice(0, 9))).unwrap_err();
    assert_eq!(failed.to_string(), "column `numbers` of `test` should have 10 rows of Int64, it has 9 of Int64");
}
