//! Labels, training sets and snapshots: what goes in comes out.

use crate::*;
use arrow_array::*;
use arrow_schema::{DataType as ArrowType, Field, Schema};
use plumb_columnar::{ColumnHint, Layout, ParquetFile, ParquetWriter, Selection, from_arrow};
use plumb_core::ErrorKind;
use plumb_core::column::{Column, DataType, Values};
use plumb_core::contribution::Contributions;
use plumb_core::entity::EntityDef;
use plumb_core::event::SourceSchema;
use plumb_core::time::{DAY_US, HOUR_US};
use plumb_core::view::{AggregateDef, FeatureDef, Operator, SlotDef, SlotType, ViewDef, WindowSpec};
use plumb_pipeline::offline::{Selection as Asked, TrainingPart, TrainingSink, ViewColumns};
use plumb_pipeline::{Error, Result};
use plumb_transform::{Fault, Guest, GuestOutput, Transform};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// 2024-01-31T12:00:00Z.
const NOON_US: i64 = 1_706_702_400_000_000;

fn write_parquet(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let fields: Vec<Field> =
        columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
    let layout = Layout::new(Arc::new(Schema::new(fields)), |_| ColumnHint::Repeating).keeping_arrow_types();
    let mut writer = ParquetWriter::new("test", Vec::new(), &layout).unwrap();
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    writer.write(&RecordBatch::try_new(layout.schema().clone(), arrays).unwrap()).unwrap();
    std::fs::write(path, writer.finish().unwrap()).unwrap();
}

fn folder_with(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

fn user() -> Vec<String> {
    vec!["user_id".to_owned()]
}

fn strings(rows: &[Option<&str>]) -> Column {
    let mut column = Column::new(&DataType::Utf8);
    for row in rows {
        match row {
            Some(text) => column.push_bytes(text.as_bytes()),
            None => column.push_null(),
        }
    }
    column
}

fn floats(rows: &[Option<f64>]) -> Column {
    let mut column = Column::new(&DataType::F64);
    for row in rows {
        match row {
            Some(value) => column.push_f64(*value),
            None => column.push_null(),
        }
    }
    column
}

fn text_lists() -> Column {
    let mut child = Column::new(&DataType::Utf8);
    child.push_bytes(b"a,\"b\"");
    child.push_null();
    child.push_bytes("é".as_bytes());
    let mut column = Column::of(Values::List { offsets: vec![0, 2], child: Box::new(child) });
    column.push_null();
    let Values::List { offsets, .. } = &mut column.values else { unreachable!() };
    offsets.push(3);
    column.mark_valid();
    column
}

fn instants(rows: &[Option<i64>]) -> Column {
    let mut column = Column::new(&DataType::Timestamp);
    for row in rows {
        match row {
            Some(time_us) => column.push_i64(*time_us),
            None => column.push_null(),
        }
    }
    column
}

/// Is never called: what a view declares is enough to write its columns.
struct FakeGuest;

impl Guest for FakeGuest {
    fn extract(&self, _: usize, _: &[&Column]) -> Result<GuestOutput<Contributions>, Fault> {
        Err(Fault::Trap("not part of this test".into()))
    }

    fn finalize(&self, _: &[i64], _: &[Column]) -> Result<GuestOutput<Vec<Column>>, Fault> {
        Err(Fault::Trap("not part of this test".into()))
    }
}

/// All features of a view `v` that declares these.
fn view_of(features: &[(&str, &Column)]) -> Asked {
    let feature = |(name, column): &(&str, &Column)| FeatureDef {
        name: (*name).into(),
        data_type: column.data_type(),
        description: String::new(),
        aggregates: vec![0],
    };
    let count = AggregateDef { name: "seen".into(), operator: Operator::Count, slot: 0, window: WindowSpec::Lifetime };
    let def = ViewDef {
        name: "v".into(),
        version: "1.0.0".parse().unwrap(),
        entity: EntityDef { name: "user".into(), key: user() },
        source: "default".into(),
        description: String::new(),
        owner: String::new(),
        team: String::new(),
        tags: Vec::new(),
        ttl_us: None,
        freshness_us: None,
        fields: Vec::new(),
        slots: vec![SlotDef { name: "seen".into(), slot_type: SlotType::Mark }],
        aggregates: vec![count],
        features: features.iter().map(feature).collect(),
    };
    let schema = Arc::new(SourceSchema::default_schema());
    Asked::all(&[Transform::native(def, Arc::new(FakeGuest), &schema, HOUR_US).unwrap()])
}

/// Some rows as a join hands them over.
struct Part {
    rows: Vec<u32>,
    columns: Vec<Column>,
}

impl TrainingPart for Part {
    fn rows(&self) -> &[u32] {
        &self.rows
    }

    fn column(&self, index: usize) -> Column {
        self.columns[index].clone()
    }

    fn views(&self) -> Result<Vec<ViewColumns>> {
        Err(Error::internal("a writer asks for columns"))
    }
}

/// What a join found for label rows: the features of a view `v`, and when it last heard of the entity.
struct Found<'a> {
    rows: &'a [u32],
    features: &'a [(&'a str, &'a Column)],
    event_time: &'a Column,
}

impl Found<'_> {
    /// Stages them as a join does, in parts of so many labels.
    fn stage(&self, target: &Target, labels: &Path, part_labels: u32) -> Result<StagedSet> {
        let asked = view_of(self.features);
        let windows = LabelWindows::open(&[labels.to_owned()], "event_time", &user())?;
        let mut writer = TrainingWriter::new(target, windows, asked, 2)?;
        let mut done = 0;
        for rows in self.rows.chunk_by(|a, b| a / part_labels == b / part_labels) {
            let take = |column: &Column| column.take(done..done + rows.len());
            let columns = self.features.iter().map(|(_, column)| take(column)).chain([take(self.event_time)]);
            writer.write(&Part { rows: rows.to_vec(), columns: columns.collect() })?;
            done += rows.len();
        }
        writer.finish()
    }

    /// Writes them under a name.
    fn write(&self, path: &Path, labels: &Path) -> Result<()> {
        self.stage(&Target::new(path, usize::MAX)?, labels, u32::MAX)?.publish(None)
    }
}

/// Writes the columns of label rows alone: of a join that asks for nothing.
fn write_labels(path: &Path, labels: &Path, rows: &[u32]) {
    let windows = LabelWindows::open(&[labels.to_owned()], "event_time", &user()).unwrap();
    let mut writer =
        TrainingWriter::new(&Target::new(path, usize::MAX).unwrap(), windows, Asked::default(), 1).unwrap();
    writer.write(&Part { rows: rows.to_vec(), columns: Vec::new() }).unwrap();
    writer.finish().unwrap().publish(None).unwrap();
}

#[test]
fn label_times_of_every_kind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("labels.parquet");
    let times: Vec<(ArrayRef, i64, bool)> = vec![
        (Arc::new(TimestampNanosecondArray::from(vec![NOON_US * 1000 + 999])), NOON_US, true),
        (Arc::new(TimestampMillisecondArray::from(vec![NOON_US / 1000]).with_timezone("UTC")), NOON_US, false),
        (Arc::new(Date32Array::from(vec![19_753])), NOON_US - DAY_US / 2, true),
        (Arc::new(Int64Array::from(vec![NOON_US / 1000])), NOON_US, false),
        (Arc::new(StringArray::from(vec!["2024-01-31T13:00:00+01:00"])), NOON_US, false),
        (Arc::new(StringViewArray::from(vec!["2024-01-31 12:00:00"])), NOON_US, true),
        (
            Arc::new(vec![Some("2024-01-31")].into_iter().collect::<DictionaryArray<types::Int8Type>>()),
            NOON_US - DAY_US / 2,
            true,
        ),
    ];
    for (array, wanted, noted) in times {
        let found = array.data_type().clone();
        write_parquet(&path, vec![("at", array), ("user_id", Arc::new(Int32Array::from(vec![7])))]);
        let labels = LabelFile::read(&path, "at", &user()).unwrap();
        assert_eq!((labels.labels().times_us[0], labels.time_without_zone()), (wanted, noted), "{found}");
        assert_eq!(labels.labels().keys["user_id"], strings(&[Some("7")]));
    }
    for (cell, wanted) in
        [("1706702400000", NOON_US), ("2024-01-31T12:00:00Z", NOON_US), ("2024-01-31", NOON_US - DAY_US / 2)]
    {
        let (_folder, path) = folder_with("labels.csv", &format!("user_id,at\n007,{cell}\n"));
        let labels = LabelFile::read(&path, "at", &user()).unwrap();
        assert_eq!((labels.labels().times_us[0], &labels.labels().keys["user_id"]), (wanted, &strings(&[Some("007")])));
    }
}

#[test]
fn wrong_label_files_are_named_with_what_is_there() {
    let check = |text: &str, parts: &[&str]| {
        let (_folder, path) = folder_with("labels.csv", text);
        let error = LabelFile::read(&path, "event_time", &user()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        for part in parts.iter().chain(&["labels.csv"]) {
            assert!(error.to_string().contains(part), "{error}");
        }
    };
    check("user,event_time\nu1,1706702400000\n", &["has no column `user_id`; it has user, event_time"]);
    check("user_id,time\nu1,1706702400000\n", &["has no column `event_time`; it has user_id, time"]);
    check(
        "user_id,event_time\nu1,1706702400000\nu2,soon\n",
        &["column `event_time`: row 2: `soon` is no time, expected RFC 3339"],
    );
    check("user_id,event_time\nu1,1706702400000\nu2,\n", &["label row 2: `event_time` is null"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("labels.parquet");
    write_parquet(
        &path,
        vec![
            ("event_time", Arc::new(Int64Array::from(vec![NOON_US / 1000]))),
            ("user_id", Arc::new(Float64Array::from(vec![1.0]))),
        ],
    );
    let error = LabelFile::read(&path, "event_time", &user()).unwrap_err().to_string();
    assert!(error.contains("labels.parquet`: column `user_id`: found Float64, expected string"), "{error}");
    std::fs::write(&path, b"PAR1 no more").unwrap();
    let error = LabelFile::read(&path, "event_time", &user()).unwrap_err().to_string();
    assert!(error.contains("labels.parquet` is not a Parquet file"), "{error}");
    let path = folder.path().join("labels.txt");
    std::fs::write(&path, "user_id,event_time\n").unwrap();
    let error = LabelFile::read(&path, "event_time", &user()).unwrap_err().to_string();
    assert!(error.ends_with("labels.txt` should end in .parquet or .csv"), "{error}");
}

#[test]
fn parquet_labels_pass_through_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let (labels, out) = (folder.path().join("labels.parquet"), folder.path().join("set.parquet"));
    let dictionary: DictionaryArray<types::Int16Type> = vec![Some("x"), None, Some("y")].into_iter().collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("score", Arc::new(Float32Array::from(vec![0.1, f32::NAN, -0.0]))),
        ("user_id", Arc::new(LargeStringArray::from(vec![Some("u1"), None, Some("u3")]))),
        ("event_time", Arc::new(TimestampNanosecondArray::from(vec![1_001, 2_002, 3_003]).with_timezone("Asia/Tokyo"))),
        ("kind", Arc::new(dictionary)),
        ("paid", Arc::new(Decimal128Array::from(vec![1, 2, 3]).with_precision_and_scale(9, 2).unwrap())),
    ];
    write_parquet(&labels, columns.clone());
    let feature = floats(&[Some(0.1 + 0.2), None]);
    let lists = text_lists().take([0, 2]);
    let times = instants(&[None, Some(NOON_US)]);
    let found = Found { rows: &[0, 2], features: &[("mean", &feature), ("names", &lists)], event_time: &times };
    found.write(&out, &labels).unwrap();

    let written = ParquetFile::open(&out).unwrap();
    let batch = written.batches(&Selection::default()).unwrap().next().unwrap().unwrap();
    for (index, (name, array)) in columns.iter().enumerate() {
        let wanted = arrow_select::take::take(array, &UInt32Array::from(vec![0, 2]), None).unwrap();
        assert_eq!(
            (written.schema().field(index).name().as_str(), batch.column(index).data_type()),
            (*name, array.data_type())
        );
        let same = |array: &ArrayRef| {
            arrow_cast::cast(
                array,
                match array.data_type() {
                    ArrowType::Dictionary(_, values) => values,
                    other => other,
                },
            )
            .unwrap()
        };
        assert_eq!(&same(batch.column(index)), &same(&wanted), "{name}");
    }
    assert_eq!(from_arrow("f", batch.column(5), &DataType::F64).unwrap(), feature);
    assert_eq!(from_arrow("f", batch.column(6), &lists.data_type()).unwrap(), lists);
    assert_eq!(from_arrow("f", batch.column(7), &DataType::Timestamp).unwrap(), times);
    let names: Vec<&str> = written.schema().fields().iter().skip(5).map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["v__mean", "v__names", "v__event_time"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing unfinished stays behind");
}

#[test]
fn csv_labels_in_windows_are_those_of_all_rows() {
    let folder = tempfile::tempdir().unwrap();
    let rows = labels::WINDOW_ROWS + 5_000;
    let (mut first, mut second) = (String::new(), String::new());
    first.push_str("user_id,event_time,whole,number,code,truth,note\n");
    for row in 0..rows {
        let (time, truth) = (1_706_702_400_000 + row, row % 3 == 0);
        first.push_str(&format!("u{},{time},{row},{row},{},{truth},\"a, {row}\"\n", row % 100, 10 + row % 50));
    }
    // The last rows of all say what columns are that looked like whole numbers till then.
    second.push_str("note,truth,code,number,whole,event_time,user_id\n");
    second.push_str(",,11,1,7,2024-02-01T00:00:00Z,\n\"\",TRUE,007,0.5,,2024-02-02,9\n");
    let empty = "whole,user_id,event_time,number,code,truth,note\n";
    let paths: Vec<PathBuf> = [("a.csv", &*first), ("b.csv", empty), ("c.csv", &second)]
        .iter()
        .map(|(name, text)| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        })
        .collect();
    let whole = LabelFile::read_all(&paths, "event_time", &user()).unwrap();
    let open = || LabelWindows::open(&paths, "event_time", &user()).unwrap();
    let mut from_second = open();
    from_second.next_window().unwrap();
    for mut windows in [open(), from_second.again().unwrap()] {
        assert_eq!(windows.files(), [(paths[0].clone(), rows as u64), (paths[1].clone(), 0), (paths[2].clone(), 2)]);
        let (mut first_row, mut ends) = (0u32, Vec::new());
        let mut next_rows = windows.again().unwrap().into_rows();
        while let Some(window) = windows.next_window().unwrap() {
            let carried = next_rows().unwrap().unwrap();
            let count = window.labels().len() as u32;
            let own: Vec<u32> = (0..count).collect();
            let of_all: Vec<u32> = (first_row..first_row + count).collect();
            assert_eq!(carried.len(), own.len());
            assert_eq!(carried.take(&own).unwrap(), whole.take(&of_all).unwrap());
            let range = first_row as usize..(first_row + count) as usize;
            assert_eq!(window.labels().times_us, whole.labels().times_us[range.clone()]);
            assert_eq!(window.labels().keys["user_id"], whole.labels().keys["user_id"].take(range));
            first_row += count;
            ends.push(first_row as usize);
        }
        assert!(next_rows().unwrap().is_none());
        assert_eq!(ends, [labels::WINDOW_ROWS, rows, rows + 2]);
    }
    let types = whole.column_types().unwrap();
    assert_eq!(
        ["whole", "number", "code", "truth", "note"].map(|name| types[name].clone()),
        [DataType::I64, DataType::F64, DataType::Utf8, DataType::Bool, DataType::Utf8]
    );
    // A row that is wrong has its number in its file, in whatever window.
    std::fs::write(&paths[0], first + "u1,soon,1,1,1,true,x\n").unwrap();
    let mut windows = open();
    let error = loop {
        match windows.next_window() {
            Ok(window) => assert!(window.is_some()),
            Err(error) => break error.to_string(),
        }
    };
    let why = format!("a.csv`: column `event_time`: row {}: `soon` is no time", rows + 1);
    assert!(error.contains(&why), "{error}");
    let mixed = [paths[0].clone(), folder.path().join("d.parquet")];
    write_parquet(&mixed[1], vec![("event_time", Arc::new(Int64Array::from(vec![1])))]);
    let error = LabelWindows::open(&mixed, "event_time", &user()).unwrap_err().to_string();
    assert!(error.contains("d.parquet` has other columns than") && error.contains("the other is CSV"), "{error}");
}

#[test]
fn csv_in_csv_out_keeps_every_cell() {
    let text = "user_id,event_time,note,score,code\nu1,2024-01-31,\"a, \"\"b\"\"\",1.50,007\n,1706702400000,,,\n3,2024-01-31 12:00:00,\"\",1e5,12\n";
    let (folder, labels) = folder_with("labels.csv", text);
    let file = LabelFile::read(&labels, "event_time", &user()).unwrap();
    let out = folder.path().join("set.csv");
    write_labels(&out, &labels, &[0, 1, 2]);
    assert_eq!(std::fs::read_to_string(&out).unwrap(), text);

    let (values, lists) = (floats(&[Some(0.1 + 0.2), None, Some(1e300)]), text_lists());
    let times = instants(&[Some(NOON_US + 1), None, Some(-1)]);
    let features = [("x", &values), ("l", &lists)];
    Found { rows: &[0, 1, 2], features: &features, event_time: &times }.write(&out, &labels).unwrap();
    let lines: Vec<String> = std::fs::read_to_string(&out).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(lines[0], "user_id,event_time,note,score,code,v__x,v__l,v__event_time");
    assert!(
        lines[1].ends_with(r#",007,0.30000000000000004,"[""a,\""b\"""",null]",2024-01-31T12:00:00.000001Z"#),
        "{}",
        lines[1]
    );
    assert!(lines[2].ends_with(",,,,,,"), "{}", lines[2]);

    // Read back with its types it is the same, to the bit.
    let features = [("v__x", &values), ("v__l", &lists), ("v__event_time", &times)];
    let mut types: BTreeMap<String, DataType> =
        features.iter().map(|(name, column)| ((*name).to_owned(), column.data_type())).collect();
    types.extend(file.column_types().unwrap());
    let table = read_table(&out, &types).unwrap();
    for (name, column) in &features {
        assert_eq!(&table.column(name).unwrap(), column, "{name}");
    }
    assert_eq!(table.columns[..5], file.table().unwrap().columns);
    let (asked, label_table) = file.clone().into_parts().unwrap();
    assert_eq!((&asked, &label_table), (file.labels(), &file.table().unwrap()));
    assert_eq!(table.column("code").unwrap(), &strings(&[Some("007"), None, Some("12")]));
    assert_eq!(table.column("score").unwrap(), &floats(&[Some(1.5), None, Some(1e5)]));
    assert_eq!(table.column("note").unwrap(), &strings(&[Some("a, \"b\""), None, Some("")]));

    // CSV labels, Parquet set: typed columns.
    let out = folder.path().join("set.parquet");
    write_labels(&out, &labels, &[2]);
    let set = ParquetFile::open(&out).unwrap();
    let types: Vec<String> = set.schema().fields().iter().map(|field| field.data_type().to_string()).collect();
    assert_eq!(types, ["Utf8", "Timestamp(µs, \"UTC\")", "Utf8", "Float64", "Utf8"]);
}

#[test]
fn collisions_and_bad_places_are_refused_and_no_rows_are_fine() {
    let (folder, labels) = folder_with("labels.csv", "user_id,event_time,v__x\n");
    let (column, times) = (Column::new(&DataType::F64), Column::new(&DataType::Timestamp));
    let write = |path: &Path, name: &str| {
        Found { rows: &[], features: &[(name, &column)], event_time: &times }.write(path, &labels)
    };
    let error = write(&folder.path().join("set.parquet"), "x").unwrap_err().to_string();
    assert!(error.contains("labels.csv` has a column `v__x`, which is also the name of a feature column"), "{error}");
    assert!(write(&folder.path().join("set.json"), "y").unwrap_err().to_string().contains("should end in"));
    let nowhere = write(&folder.path().join("gone/set.csv"), "y").unwrap_err();
    assert!(nowhere.to_string().contains("there is no folder"), "{nowhere}");
    for name in ["set.parquet", "set.csv"] {
        write(&folder.path().join(name), "y").unwrap();
        let table = read_table(&folder.path().join(name), &BTreeMap::new()).unwrap();
        assert_eq!(
            table.columns.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["user_id", "event_time", "v__x", "v__y", "v__event_time"]
        );
        assert_eq!(table.rows(), 0);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "nothing unfinished stays behind");
}

#[test]
fn rows_that_the_labels_do_not_have_are_refused() {
    let (folder, labels) = folder_with("labels.csv", "user_id,event_time\nu1,1706702400000\nu2,1706702400000\n");
    let (column, times) = (floats(&[Some(1.0); 3]), instants(&[None; 3]));
    let found = Found { rows: &[0, 1, 2], features: &[("x", &column)], event_time: &times };
    let error = found.write(&folder.path().join("set.csv"), &labels).unwrap_err();
    assert!(matches!(&error, Error::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("there are fewer than before"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing unfinished stays behind");
}

#[test]
fn many_row_groups_keep_order() {
    let folder = tempfile::tempdir().unwrap();
    let labels = folder.path().join("labels.parquet");
    let n = 150_000;
    let ids: StringArray = (0..n).map(|row| Some(format!("u{row}"))).collect();
    write_parquet(
        &labels,
        vec![
            ("user_id", Arc::new(ids)),
            ("event_time", Arc::new(Int64Array::from_iter_values((0..n).map(|row| NOON_US / 1000 + row)))),
        ],
    );
    let file = LabelFile::read(&labels, "event_time", &user()).unwrap();
    let rows: Vec<u32> = (0..n as u32).filter(|row| row % 3 != 1).collect();
    let feature = Column::of(Values::I64(rows.iter().map(|row| i64::from(*row)).collect()));
    let times = instants(&vec![None; rows.len()]);
    let found = Found { rows: &rows, features: &[("n", &feature)], event_time: &times };
    for name in ["set.csv", "set.parquet"] {
        let out = folder.path().join(name);
        let mut files = Vec::new();
        let mut hashes = Vec::new();
        // Parts that end with a window of labels, as those of a join, and others.
        for part_labels in [64 * 1024, 128 * 1024, 7_001] {
            let set = found.stage(&Target::new(&out, usize::MAX).unwrap(), &labels, part_labels).unwrap();
            hashes.push(set.rows_sha256.clone());
            files.extend((part_labels != 7_001).then(|| set.files.clone()));
            set.publish(None).unwrap();
        }
        let table = read_table(&out, &file.column_types().unwrap()).unwrap();
        assert_eq!(table.column("v__n").unwrap(), &feature);
        let ids = table.column("user_id").unwrap();
        assert!(rows.iter().enumerate().all(|(at, row)| ids.str_bytes(at) == Some(format!("u{row}").as_bytes())));
        assert!(hashes.iter().all(|other| *other == hashes[0]), "{name} has the same rows: {hashes:?}");
        assert!(files.iter().all(|other| *other == files[0]), "{name} is the same however a join was cut: {files:?}");
    }
}

/// The bytes that a column's hash is of, written out by hand from `docs/training-sets.md`.
fn hash_by_hand(rows: u64, columns: &[(&str, &str, &[u8])]) -> String {
    let mut all = b"plumb rows 1\n".to_vec();
    all.extend(rows.to_le_bytes());
    for (name, data_type, values) in columns {
        for text in [name, data_type] {
            all.extend((text.len() as u32).to_le_bytes());
            all.extend(text.bytes());
        }
        all.extend(Sha256::digest(values));
    }
    Sha256::digest(all).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_hash_of_rows_is_of_values_and_order_alone() {
    let folder = tempfile::tempdir().unwrap();
    let here = |name: &str| folder.path().join(name);
    let ids: ArrayRef = Arc::new(StringArray::from(vec![Some("u1"), None]));
    let times: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![NOON_US / 1000; 2]).with_timezone("UTC"));
    let small: ArrayRef = Arc::new(Int8Array::from(vec![-2, 3]));
    write_parquet(&here("a.parquet"), vec![("user_id", ids), ("event_time", times), ("n", small)]);
    let ids: DictionaryArray<types::Int8Type> = vec![Some("u1"), None].into_iter().collect();
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![NOON_US; 2]));
    let wide: ArrayRef = Arc::new(Int64Array::from(vec![-2, 3]));
    write_parquet(&here("b.parquet"), vec![("user_id", Arc::new(ids)), ("event_time", times), ("n", wide)]);
    std::fs::write(here("c.csv"), "user_id,event_time,n\nu1,2024-01-31T12:00:00Z,-2\n,2024-01-31T12:00:00Z,3\n")
        .unwrap();
    let score = floats(&[Some(-0.0), Some(f64::NAN)]);
    let lists = text_lists().take([0, 1]);
    let times = instants(&[Some(NOON_US), None]);
    let found = Found { rows: &[0, 1], features: &[("score", &score), ("list", &lists)], event_time: &times };
    let noon = [&[1][..], &NOON_US.to_le_bytes()].concat();
    let list: &[u8] = &[1, 2, 0, 0, 0, 1, 5, 0, 0, 0, b'a', b',', b'"', b'b', b'"', 0, 0];
    let nan = [&[1][..], &(-0.0f64).to_bits().to_le_bytes(), &[1], &0x7ff8_0000_0000_0000_u64.to_le_bytes()].concat();
    let expected = hash_by_hand(
        2,
        &[
            ("user_id", "string", b"\x01\x02\0\0\0u1\0"),
            ("event_time", "instant", &[noon.clone(), noon.clone()].concat()),
            ("n", "integer", &[&[1][..], &(-2i64).to_le_bytes(), &[1], &3i64.to_le_bytes()].concat()),
            ("v__score", "float", &nan),
            ("v__list", "list of string", list),
            ("v__event_time", "instant", &[&noon[..], &[0]].concat()),
        ],
    );
    for (labels, out) in [("a.parquet", "set.parquet"), ("b.parquet", "parts"), ("c.csv", "set.csv")] {
        let target = Target::new(&here(out), 1).unwrap();
        let set = found.stage(&target, &here(labels), u32::MAX).unwrap();
        assert_eq!(set.rows_sha256, expected, "{out}");
        let rows: Vec<u64> = set.files.iter().map(|file| file.rows).collect();
        assert_eq!(rows, if out == "parts" { vec![1, 1] } else { vec![2] });
        set.publish(Some("{}")).unwrap();
        assert_eq!(std::fs::read_to_string(target.manifest_path()).unwrap(), "{}");
        // The other way round they are other rows.
        let [score, lists, event_time] = [&score, &lists, &times].map(|column| column.take([1, 0]));
        let turned = Found { rows: &[0, 1], features: &[("score", &score), ("list", &lists)], event_time: &event_time };
        let target = Target::new(&here("other.csv"), 1).unwrap();
        let other = turned.stage(&target, &here(labels), u32::MAX).unwrap();
        assert_ne!(other.rows_sha256, expected);
    }
    // A set without a manifest leaves none of another; what is staged and dropped leaves nothing.
    write_labels(&here("set.parquet"), &here("a.parquet"), &[0]);
    let error = Target::new(&here("parts"), 1).unwrap_err().to_string();
    assert!(error.contains("holds something already"), "{error}");
    let mut left: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    let expected = ["a.parquet", "b.parquet", "c.csv", "parts", "set.csv", "set.csv.manifest.json", "set.parquet"];
    assert_eq!(left, expected);
}
