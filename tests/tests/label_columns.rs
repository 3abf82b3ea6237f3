//! What else is in label files: columns of types that other programs have are carried through to a set in Parquet and in
//! CSV, which the other commands read.

use arrow_array::types::UInt64Type;
use arrow_array::{
    Array, ArrayRef, BinaryArray, Date64Array, Int64Array, ListArray, RecordBatch, StringArray, StructArray,
    TimestampNanosecondArray,
};
use arrow_schema::Field;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::LogicalType;
use parquet::file::properties::WriterProperties;
use plumb_testing::process;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

/// 2024-01-01T00:00:00Z in seconds.
const START_S: i64 = 1_704_067_200;

#[track_caller]
fn json(here: &Path, words: &str) -> Value {
    let output = process::run(here, format!("--json {words}").split_whitespace());
    assert_eq!(output.status.code(), Some(0), "plumb {words}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn label_columns_of_types_that_plumb_has_none_for_are_carried_through() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    std::fs::copy(process::component("user_activity"), here.join("view.wasm")).unwrap();
    process::run_ok(here, "generate --events 600 --users 5 --days 1 --seed 1 --out events.parquet".split(' '));
    let first_ns = START_S * 1_000_000_000 + 3 * 3_600_000_000_000 + 1;
    // As pandas has them.
    let instants = || TimestampNanosecondArray::from(vec![first_ns, first_ns]).with_timezone("UTC");
    let field = |name: &str, of: &dyn Array| Arc::new(Field::new(name, of.data_type().clone(), true));
    let pair = StructArray::from(vec![
        (field("at", &instants()), Arc::new(instants()) as ArrayRef),
        (field("n", &Int64Array::from(vec![1, 2])), Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef),
    ]);
    let hashes = [Some(vec![Some(u64::MAX), Some(1)]), Some(vec![])];
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("user_id", Arc::new(StringArray::from(vec!["u00001", "u00002"]))),
        ("event_time", Arc::new(instants())),
        ("seen", Arc::new(instants().with_timezone("Europe/Berlin"))),
        ("pair", Arc::new(pair)),
        ("day", Arc::new(Date64Array::from(vec![Some(-86_400_000), None]))),
        ("bytes", Arc::new(BinaryArray::from_vec(vec![b"", b"\xff"]))),
        ("hashes", Arc::new(ListArray::from_iter_primitive::<UInt64Type, _, _>(hashes))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    // With the date as one, as most write it.
    let properties = WriterProperties::builder().set_coerce_types(true).build();
    let file = std::fs::File::create(here.join("l.parquet")).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let inputs = "--transform view.wasm --events events.parquet --labels l.parquet";
    let [set, csv] = ["set.parquet", "set.csv"].map(|out| json(here, &format!("join {inputs} --out {out}")));
    assert_eq!(set["rows_sha256"], csv["rows_sha256"]);
    for set in ["set.parquet", "set.csv"] {
        assert_eq!(json(here, &format!("audit {set} {inputs}"))["passed"], true, "{set}");
        assert_eq!(json(here, &format!("stats {set}"))["rows"], 2, "{set}");
        let again = format!("join --from-manifest {set}.manifest.json --out again-{set}");
        assert_eq!(process::run(here, again.split_whitespace()).status.code(), Some(0), "{set}");
        let [made, again] = [set.to_owned(), format!("again-{set}")].map(|set| std::fs::read(here.join(set)).unwrap());
        assert!(made == again, "{set}");
    }

    let file = std::fs::File::open(here.join("set.parquet")).unwrap();
    let file = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    // For those who do not ask Arrow's types, a date is a date too.
    let day = file.parquet_schema().columns().iter().find(|column| column.name() == "day").unwrap().clone();
    assert_eq!(day.logical_type_ref(), Some(&LogicalType::Date));
    let rows = file.build().unwrap().next().unwrap().unwrap();
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let found = arrow_cast::cast(&rows[field.name().as_str()], field.data_type()).unwrap();
        assert_eq!(&found, column, "{}", field.name());
    }

    let text = std::fs::read_to_string(here.join("set.csv")).unwrap();
    let at = "2024-01-01T03:00:00.000000001Z";
    let cells = [
        format!(
            "u00001,{at},{at},\"{{at: {at}, n: 1}}\",1969-12-31T00:00:00.000000Z,\"\",\"[18446744073709551615, 1]\","
        ),
        format!("u00002,{at},{at},\"{{at: {at}, n: 2}}\",,ff,[],"),
    ];
    for (line, cells) in text.lines().skip(1).zip(cells) {
        assert!(line.starts_with(&cells), "{line}");
    }
}
