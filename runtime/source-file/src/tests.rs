use super::*;
use crate::intake::Intake;
use arrow_array::builder::{Int64Builder, StringDictionaryBuilder};
use arrow_array::types::Int8Type;
use arrow_array::{
    ArrayRef, Float64Array, Int64Array, LargeStringArray, RecordBatch, StringArray, TimestampMicrosecondArray,
    TimestampMillisecondArray, TimestampNanosecondArray,
};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use plumb_core::ErrorKind;
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_pipeline::accept::{AcceptRules, Acceptor, Accounting};
use plumb_pipeline::decode::TimeUnit;
use plumb_pipeline::decode::json::encode;
use plumb_pipeline::port::{EventReader, Polled, Scratch, ScratchFolder, Source};
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

const NOW_US: i64 = 1_700_000_000_000_000;

fn schema() -> Arc<SourceSchema> {
    Arc::new(SourceSchema::default_schema())
}

fn options(threads: usize) -> EventOptions {
    EventOptions {
        unit: TimeUnit::Ms,
        rules: AcceptRules::default(),
        now_us: NOW_US,
        columns: None,
        threads,
        ids: None,
    }
}

/// Scratch files in memory.
#[derive(Debug, Default)]
struct FakeScratch(Mutex<Vec<u8>>);

impl Scratch for FakeScratch {
    fn append(&self, bytes: &[u8]) -> plumb_pipeline::Result<u64> {
        let mut all = self.0.lock().unwrap();
        all.extend_from_slice(bytes);
        Ok((all.len() - bytes.len()) as u64)
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> plumb_pipeline::Result<()> {
        bytes.copy_from_slice(&self.0.lock().unwrap()[at as usize..at as usize + bytes.len()]);
        Ok(())
    }
}

impl ScratchFolder for FakeScratch {
    fn create(&self) -> plumb_pipeline::Result<Box<dyn Scratch>> {
        Ok(Box::new(Self::default()))
    }
}

fn write(folder: &TempDir, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, content).unwrap();
    path
}

fn parquet(columns: Vec<(&str, ArrayRef)>, group_rows: usize) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)));
    let batch = batch.unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group_rows)).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

fn event(id: usize) -> String {
    format!(
        r#"{{"event_id":"e{id}","event_time":{},"user_id":"u{}","event_type":"view"}}"#,
        1_600_000_000_000 + id,
        id % 3
    )
}

fn lines(ids: impl IntoIterator<Item = usize>) -> String {
    ids.into_iter().map(|id| event(id) + "\n").collect()
}

fn read(path: &Path, options: &EventOptions) -> plumb_pipeline::Result<(Vec<String>, Accounting, Vec<Refusal>)> {
    let mut events = AcceptedEvents::open(path, &schema(), options)?;
    let mut rows = Vec::new();
    let mut newest = None;
    while let Some(batch) = events.next_batch()? {
        assert!(batch.offsets.first() > newest.as_ref(), "offsets rise over batches");
        newest = batch.offsets.last().copied();
        rows.extend(json_rows(&batch));
    }
    Ok((rows, events.accounting(), events.refusals().to_vec()))
}

fn json_rows(batch: &EventBatch) -> Vec<String> {
    let row = |row| {
        let mut out = Vec::new();
        encode(batch, row, &mut out);
        String::from_utf8(out).unwrap()
    };
    (0..batch.len()).map(row).collect()
}

const PURCHASE: &str = r#"{"event_id":"7","event_time":"2017-01-01T11:53:26.000000Z","user_id":"900","event_type":"purchase","category":"A, \"B\"","price":0.5,"quantity":2}"#;

#[test]
fn the_same_event_reads_the_same_from_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let strings = |value: &str| Arc::new(StringArray::from(vec![value])) as ArrayRef;
    let mut kind: StringDictionaryBuilder<Int8Type> = StringDictionaryBuilder::new();
    kind.append_value("purchase");
    let with_time = |time: ArrayRef, id: ArrayRef| {
        vec![
            ("unknown", strings("x")),
            ("price", Arc::new(Float64Array::from(vec![0.5])) as ArrayRef),
            ("quantity", Arc::new(arrow_array::Int16Array::from(vec![2]))),
            ("event_type", Arc::new(kind.finish_cloned())),
            ("category", Arc::new(LargeStringArray::from(vec!["A, \"B\""]))),
            ("event_id", id),
            ("user_id", Arc::new(arrow_array::UInt64Array::from(vec![900]))),
            ("event_time", time),
        ]
    };
    let ms = 1_483_271_606_000;
    let zoned = TimestampMillisecondArray::from(vec![ms]).with_timezone("Europe/Berlin");
    let id = strings("7");
    let files: Vec<(&str, Vec<u8>)> = vec![
        ("a.parquet", parquet(with_time(Arc::new(zoned), Arc::new(Int64Array::from(vec![7]))), 10)),
        (
            "b.parquet",
            parquet(with_time(Arc::new(TimestampNanosecondArray::from(vec![ms * 1_000_000 + 999])), id.clone()), 10),
        ),
        ("c.parquet", parquet(with_time(Arc::new(Int64Array::from(vec![ms])), id.clone()), 10)),
        ("d.parquet", parquet(with_time(strings("2017-01-01 12:53:26.0000009+01:00"), id), 10)),
        ("e.jsonl", PURCHASE.as_bytes().to_vec()),
        ("f.ndjson", format!("\u{feff}{PURCHASE}\r\n\r\n").into_bytes()),
        (
            "g.csv",
            b"user_id,event_id,event_time,event_type,category,price,quantity,rating,extra\n\
            900,7,2017-01-01T11:53:26Z,purchase,\"A, \"\"B\"\"\",0.5,2.0,,x\n"
                .to_vec(),
        ),
        (
            "h.csv",
            "\u{feff}event_time,event_id,user_id,event_type,category,price,quantity\r\n\
            1483271606000,7,900,purchase,\"A, \"\"B\"\"\",5e-1,2\r\n"
                .into(),
        ),
    ];
    for (name, content) in files {
        let path = write(&folder, name, content);
        let (rows, counts, refusals) = read(&path, &options(2)).unwrap();
        assert_eq!((rows.as_slice(), refusals.len()), (&[PURCHASE.to_owned()][..], 0), "{name}");
        assert_eq!(counts.applied, 1);
    }
    // All of them as one source: one event and seven later copies, none of them different.
    let (rows, counts, _) = read(folder.path(), &options(3)).unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!((counts.read, counts.duplicate, counts.dedupe_conflict), (8, 7, 0));
}

#[test]
fn bad_input_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let good = parquet(
        vec![
            ("event_time", Arc::new(TimestampMillisecondArray::from(vec![1_600_000_000_000; 100])) as ArrayRef),
            ("event_type", Arc::new(StringArray::from(vec!["view"; 100]))),
        ],
        30,
    );
    let text_price = parquet(
        vec![
            ("event_time", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
            ("event_type", Arc::new(StringArray::from(vec!["view"]))),
            ("price", Arc::new(StringArray::from(vec!["cheap"]))),
        ],
        30,
    );
    let timeless = parquet(vec![("event_type", Arc::new(StringArray::from(vec!["view"])) as ArrayRef)], 30);
    for (name, content, wanted) in [
        ("empty.parquet", vec![], "is empty (0 bytes)"),
        ("empty.jsonl", vec![], "is empty (0 bytes)"),
        ("empty.csv", vec![], "is empty (0 bytes)"),
        ("cut.parquet", good[..good.len() - 9].to_vec(), "is not a Parquet file, or is cut short"),
        ("half.parquet", good[..good.len() / 2].to_vec(), "is not a Parquet file, or is cut short"),
        ("text.parquet", b"event_id,event_time\n1,2\n".to_vec(), "is not a Parquet file"),
        ("timeless.parquet", timeless, "has no column `event_time` for the event time; it has event_type"),
        ("price.parquet", text_price, "column `price`: found Utf8, expected f64"),
        (
            "timeless.csv",
            b"event_type,time\nview,1\n".to_vec(),
            "has no column `event_time` for the event time; its header has event_type, time",
        ),
        ("twice.csv", b"event_time,price,price\n1,2,3\n".to_vec(), "the header names column `price` twice"),
        ("events.txt", b"{}".to_vec(), "is no event file: expected .parquet, .jsonl, .ndjson or .csv"),
    ] {
        let path = write(&folder, name, content);
        // A reader that nobody asked for the column must say the same.
        for columns in [None, Some(vec![1])] {
            let error = read(&path, &EventOptions { columns, ..options(2) }).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert!(error.to_string().contains(name) && error.to_string().contains(wanted), "{error}");
        }
        let raw = RawRecords::open(&path, &schema(), TimeUnit::Ms).and_then(|mut raw| {
            while raw.next_batch()?.is_some() {}
            Ok(())
        });
        assert!(raw.unwrap_err().to_string().contains(wanted));
    }
    let error = read(&folder.path().join("gone"), &options(1)).unwrap_err();
    assert!(error.to_string().contains("gone` does not exist"), "{error}");
    let bare = tempfile::tempdir().unwrap();
    write(&bare, "_staging/a.jsonl", event(1));
    write(&bare, "README.md", "events");
    assert!(find(bare.path()).unwrap_err().to_string().contains("holds no event file"));
}

#[test]
fn bad_records_are_refused_by_row_and_the_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let json = [
        event(0).as_str(),
        "{\"event_time\":",
        "",
        r#"{"event_time":1600000000000,"event_type":"view","price":"1"}"#,
        r#"{"event_time":1600000000000}"#,
        r#"{"event_time":1600000000,"event_type":"view"}"#,
        r#"{"event_time":1800000000000,"event_type":"view"}"#,
        event(7).as_str(),
    ]
    .join("\n");
    let csv = "event_id,event_time,event_type,price\n\
        0,1600000000000,view,1\n\
        1,1600000000000,view\n\
        2,noon,view,1\n\
        3,1600000000000,view,cheap\n\
        4,1600000000000,,1\n\
        5,1600000000,view,1\n\
        6,,view,1\n\
        7,1600000000000,view,\n";
    let times = [Some(1_600_000_000_000), None, Some(i64::MAX), Some(1_600_000_000), Some(1_600_000_000_000)];
    let parquet = parquet(
        vec![
            ("event_id", Arc::new(StringArray::from(vec!["0", "1", "2", "3", "7"])) as ArrayRef),
            ("event_time", Arc::new(TimestampMillisecondArray::from(times.to_vec()))),
            ("event_type", Arc::new(StringArray::from(vec!["view"; 5]))),
            ("quantity", Arc::new(Float64Array::from(vec![Some(1.0), None, None, None, Some(1.5)]))),
        ],
        2,
    );
    let check = |name: &str, content: &[u8], rows: &[u64], reasons: &[&str]| {
        let path = write(&folder, name, content);
        for columns in [None, Some(vec![2])] {
            let (events, counts, refusals) = read(&path, &EventOptions { columns, ..options(2) }).unwrap();
            assert_eq!(refusals.iter().map(|refusal| refusal.row).collect::<Vec<_>>(), rows, "{refusals:?}");
            for (refusal, wanted) in refusals.iter().zip(reasons) {
                assert!(refusal.reason.contains(wanted) && refusal.file.ends_with(name), "{refusal:?}: {wanted}");
            }
            assert_eq!(counts.rejected, rows.len() as u64);
            assert_eq!(counts.applied, events.len() as u64);
            assert!(counts.is_consistent());
        }
    };
    let malformed = "not JSON of an event: EOF while parsing a value at line 1";
    let price = "field `price`: expected a number, found";
    let (missing_type, missing_time) = ("missing field `event_type`", "missing field `event_time`");
    let (seconds, future) = ("is before min_time 1990", "is more than max_future 5m ahead");
    check("a.jsonl", json.as_bytes(), &[1, 3, 4, 5, 6], &[malformed, price, missing_type, seconds, future]);
    let csv_reasons =
        ["3 values, the header has 4", "`noon` is no RFC 3339", price, missing_type, seconds, missing_time];
    check("a.csv", csv.as_bytes(), &[1, 2, 3, 4, 5, 6], &csv_reasons);
    check(
        "a.parquet",
        &parquet,
        &[1, 2, 3, 4],
        &[missing_time, "beyond the range", seconds, "1.5 is not a whole number"],
    );
}

#[test]
fn lines_that_are_too_long_cost_no_memory_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let long = " ".repeat(plumb_pipeline::decode::json::RECORD_BYTES_MAX + 10);
    let path = write(&folder, "a.jsonl", format!("{}\n{long}{}\n{}", event(0), event(1), event(2)));
    for threads in [1, 2] {
        let (rows, counts, refusals) = read(&path, &options(threads)).unwrap();
        assert_eq!((rows.len(), counts.rejected), (2, 1));
        assert!(refusals[0].reason.contains("longer than 8388608 bytes"));
    }
}

#[test]
fn folders_are_read_in_byte_order_of_path() {
    let folder = tempfile::tempdir().unwrap();
    for (name, id) in
        [("b.jsonl", 2), ("a/z.jsonl", 1), ("a.jsonl", 0), ("B.jsonl", 3), ("_x/a.jsonl", 9), (".h.csv", 8)]
    {
        write(&folder, name, event(id));
    }
    let names: Vec<_> = find(folder.path()).unwrap().into_iter().map(|file| file.name).collect();
    assert_eq!(names, ["B.jsonl", "a.jsonl", "a/z.jsonl", "b.jsonl"]);
    let (rows, ..) = read(folder.path(), &options(2)).unwrap();
    assert!(rows.iter().zip([3, 0, 1, 2]).all(|(row, id)| row.contains(&format!("\"e{id}\""))));
}

#[test]
fn an_archive_is_given_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut partition = Int64Builder::new();
    partition.append_slice(&[3, 3]);
    let content = parquet(
        vec![
            ("event_id", Arc::new(StringArray::from(vec!["a", "a"])) as ArrayRef),
            ("event_time", Arc::new(TimestampMillisecondArray::from(vec![5, NOW_US]))),
            ("event_type", Arc::new(StringArray::from(vec![Some("view"), None]))),
            ("_source", Arc::new(StringArray::from(vec!["default", "default"]))),
            ("_partition", Arc::new(partition.finish())),
            ("_offset", Arc::new(Int64Array::from(vec![17, 40]))),
            ("_ingest_time", Arc::new(TimestampMillisecondArray::from(vec![7, 8]))),
        ],
        10,
    );
    let path = write(&folder, "a.parquet", content);
    let mut events = AcceptedEvents::open(&path, &schema(), &options(1)).unwrap();
    let batch = events.next_batch().unwrap().unwrap();
    assert_eq!((batch.offsets, batch.record_times_us), (vec![17, 40], vec![7_000, 8_000]));
    assert_eq!(events.next_batch().unwrap(), None);
    assert_eq!(events.accounting(), Accounting { read: 2, applied: 2, ..Accounting::default() });
    let mut events = AcceptedEvents::open(&path, &schema(), &options(1)).unwrap();
    let (partition, batch) = events.next_of_partition().unwrap().unwrap();
    assert_eq!((partition, batch.offsets), (3, vec![17, 40]));
    assert!(events.next_of_partition().unwrap().is_none());
}

#[test]
fn an_archive_that_was_put_together_is_given_by_partition() {
    let folder = tempfile::tempdir().unwrap();
    let of = |partitions: &[i64]| {
        let rows = partitions.len();
        let content = parquet(
            vec![
                ("event_time", Arc::new(TimestampMillisecondArray::from(vec![5; rows])) as ArrayRef),
                ("event_type", Arc::new(StringArray::from(vec!["view"; rows]))),
                ("_source", Arc::new(StringArray::from(vec!["default"; rows]))),
                ("_partition", Arc::new(Int64Array::from(partitions.to_vec()))),
                ("_offset", Arc::new(Int64Array::from((0..rows as i64).collect::<Vec<_>>()))),
            ],
            10,
        );
        let path = write(&folder, "a.parquet", content);
        AcceptedEvents::open(&path, &schema(), &options(1)).unwrap()
    };
    let mut events = of(&[3, 1, 3, 0]);
    let mut given = Vec::new();
    while let Some((partition, batch)) = events.next_of_partition().unwrap() {
        given.push((partition, batch.offsets));
    }
    assert_eq!(given, [(0, vec![3]), (1, vec![1]), (3, vec![0, 2])]);
    let error = of(&[3, -1]).next_of_partition().unwrap_err().to_string();
    assert!(error.contains("-1 is no `_partition` of an archive"), "{error}");
}

#[test]
fn row_groups_of_an_archive_that_begin_too_late_are_left_out_and_those_of_other_files_are_read() {
    let folder = tempfile::tempdir().unwrap();
    // Row groups of two: 1 and 9, 5 and 6, 9 and 7 µs.
    let write_archive = |name: &str, times: ArrayRef, source: &str| {
        let content = parquet(
            vec![
                ("event_time", times) as (&str, ArrayRef),
                ("event_type", Arc::new(StringArray::from(vec!["view"; 6]))),
                (source, Arc::new(StringArray::from(vec!["default"; 6]))),
                ("_partition", Arc::new(Int64Array::from(vec![0; 6]))),
                ("_offset", Arc::new(Int64Array::from((0..6).collect::<Vec<_>>()))),
            ],
            2,
        );
        write(&folder, name, content)
    };
    let times = vec![1, 9, 5, 6, 9, 7];
    let us: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times.clone()));
    let ms: ArrayRef = Arc::new(TimestampMillisecondArray::from(times));
    let offsets = |path: &Path, before_us: i64| {
        let mut events = AcceptedEvents::open(path, &schema(), &options(2)).unwrap();
        events.only_before(before_us);
        let mut given = Vec::new();
        while let Some((_, batch)) = events.next_of_partition().unwrap() {
            // Too late to be left out.
            events.only_before(0);
            given.extend(batch.offsets);
        }
        // What is left out was accepted all the same.
        (given, events.accounting().applied + events.accounting().rejected)
    };
    let archive = write_archive("a/1.parquet", us.clone(), "_source");
    assert_eq!(offsets(&archive, 10), (vec![0, 1, 2, 3, 4, 5], 6));
    assert_eq!(offsets(&archive, 7), (vec![0, 1, 2, 3], 6));
    assert_eq!(offsets(&archive, 5), (vec![0, 1], 6));
    assert_eq!(offsets(&archive, 1), (vec![], 6));
    // Of times in another unit nothing is known, nor what a file that is no archive hides.
    let other = write_archive("b.parquet", ms, "_source");
    assert_eq!(offsets(&other, 1), (vec![0, 1, 2, 3, 4, 5], 6));
    let raw = write_archive("c.parquet", us.clone(), "source");
    assert_eq!(offsets(&raw, 1).1, 6);
    assert_eq!(AcceptedEvents::open(&raw, &schema(), &options(1)).unwrap().accounting().read, 0);
    // Nor beside such a file: nothing waits there to be told.
    write_archive("a/2.parquet", us, "source");
    assert_eq!(offsets(archive.parent().unwrap(), 1).1, 12);
}

#[test]
fn columns_that_nobody_wants_come_as_nulls() {
    let folder = tempfile::tempdir().unwrap();
    let content = parquet(
        vec![
            ("event_time", Arc::new(TimestampMillisecondArray::from(vec![1_600_000_000_000])) as ArrayRef),
            ("event_type", Arc::new(StringArray::from(vec!["view"]))),
            ("user_id", Arc::new(StringArray::from(vec!["u"]))),
            ("item_id", Arc::new(StringArray::from(vec!["i"]))),
        ],
        10,
    );
    let path = write(&folder, "a.parquet", content);
    let item = schema().column_of("item_id").unwrap();
    let (rows, ..) = read(&path, &EventOptions { columns: Some(vec![item]), ..options(1) }).unwrap();
    assert_eq!(rows, [r#"{"event_time":"2020-09-13T12:26:40.000000Z","item_id":"i","event_type":"view"}"#]);
}

/// A large JSON Lines file is cut into pieces, a Parquet file into row groups; neither shows.
#[test]
fn threads_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let text: String = (0..150_000)
        .map(|id| match id % 1000 {
            7 => "\n".to_owned(),
            8 => "{\n".to_owned(),
            9 => event(id - 1009.min(id)) + "\n",
            _ => event(id) + "\n",
        })
        .collect();
    assert!(text.len() > 8 << 20);
    write(&folder, "a.jsonl", &text);
    let ids: Vec<String> = (100_000..240_000).map(|id| format!("e{id}")).collect();
    let times: Vec<i64> = (100_000..240_000).map(|id| 1_600_000_000_000 + id).collect();
    let content = parquet(
        vec![
            ("event_time", Arc::new(TimestampMillisecondArray::from(times)) as ArrayRef),
            ("event_type", Arc::new(StringArray::from(vec!["view"; ids.len()]))),
            ("event_id", Arc::new(StringArray::from_iter_values(&ids))),
        ],
        20_000,
    );
    write(&folder, "b.parquet", content);
    let one = read(folder.path(), &options(1)).unwrap();
    let many = read(folder.path(), &options(4)).unwrap();
    assert_eq!(one.1.rejected, 150);
    assert_eq!(one.2[0].row, 8);
    assert!(one.1.duplicate > 49_000 && one.1.dedupe_conflict > 49_000, "the Parquet rows have no user: {:?}", one.1);
    assert!(one == many);
    // Nor does it matter where the ids are: known to be too many, found out to be on the way, or all in memory.
    for ids in [1u64, 100_000, 150_000, 1_000_000] {
        let scratch: Arc<dyn ScratchFolder> = Arc::new(FakeScratch::default());
        let within = IdsWithin { bytes: ids * 57, scratch, go_on: || Ok(()) };
        assert!(read(folder.path(), &EventOptions { ids: Some(within), ..options(2) }).unwrap() == one, "{ids}");
    }
    // And the stream's source accepts the same.
    let mut source = streamed(folder.path(), 5_000);
    assert_eq!((source.0.len(), source.1), (one.0.len(), one.1));
    source.0.truncate(1000);
    assert!(one.0.starts_with(&source.0));
}

#[test]
fn a_look_through_all_files_for_copies_ends_once_nobody_waits() {
    let folder = tempfile::tempdir().unwrap();
    let content = parquet(
        vec![
            ("event_time", Arc::new(TimestampMillisecondArray::from(vec![1_600_000_000_000; 3])) as ArrayRef),
            ("event_type", Arc::new(StringArray::from(vec!["view"; 3]))),
            ("event_id", Arc::new(StringArray::from(vec!["a", "b", "a"]))),
        ],
        10,
    );
    let path = write(&folder, "a.parquet", content);
    let intake = |go_on| {
        let within = IdsWithin { bytes: 0, scratch: Arc::new(FakeScratch::default()), go_on };
        let options = EventOptions { ids: Some(within), ..options(1) };
        Intake::new(find(&path).unwrap(), &schema(), &options).unwrap()
    };
    let refusal = |mut intake: Intake| intake.next().map(|batch| batch.is_some()).unwrap_err().to_string();
    let mut read = intake(|| Ok(()));
    assert_eq!(read.next().unwrap().unwrap().0.len(), 2);
    let left = intake(|| Ok(()));
    left.stop().store(true, Ordering::Relaxed);
    assert!(refusal(left).contains("nobody waits"));
    assert!(refusal(intake(|| Err(plumb_pipeline::Error::internal("interrupted")))).contains("interrupted"));
}

fn source(path: &Path, follow: bool, now_us: i64) -> FileSource {
    let options = FileSourceOptions { unit: TimeUnit::Ms, rules: AcceptRules::default(), now_us, follow };
    FileSource::new(path, schema(), options).unwrap()
}

fn streamed(path: &Path, batch: usize) -> (Vec<String>, Accounting) {
    let mut reader = source(path, false, NOW_US).open(0, 0, None).unwrap();
    let mut acceptor = Acceptor::new(&schema(), AcceptRules::default());
    let mut rows = Vec::new();
    while let Polled::Batch(batch) = reader.poll(batch).unwrap() {
        rows.extend(json_rows(&acceptor.accept(batch).events));
    }
    (rows, *acceptor.accounting())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However often the source is opened anew at its last position, with files coming in between: every row
    /// comes once, at the position it would have had without a restart.
    #[test]
    fn positions_survive_restarts(
        sizes in proptest::collection::vec((1usize..9, 0usize..3), 1..5),
        stops in proptest::collection::vec((1usize..5, 0usize..4), 1..8),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut next_id = 0;
        // Later files sort before the earlier ones.
        let mut names = (0..sizes.len()).rev();
        let mut add = |(rows, kind): (usize, usize)| {
            let ids = next_id..next_id + rows;
            next_id += rows;
            let number = names.next().unwrap();
            match kind {
                0 => write(&folder, &format!("{number}.jsonl"), lines(ids)),
                1 => {
                    let rows: String =
                        ids.map(|id| format!("e{id},{},u{},view\n", 1_600_000_000_000 + id, id % 3)).collect();
                    write(&folder, &format!("{number}.csv"), format!("event_id,event_time,user_id,event_type\n{rows}"))
                }
                _ => {
                    let (all, n): (Vec<usize>, usize) = (ids.collect(), rows);
                    let content = parquet(
                        vec![
                            ("event_id", Arc::new(StringArray::from_iter_values(all.iter().map(|id| format!("e{id}")))) as ArrayRef),
                            ("event_time", Arc::new(Int64Array::from_iter_values(all.iter().map(|id| 1_600_000_000_000 + *id as i64)))),
                            ("user_id", Arc::new(Int64Array::from_iter_values(all.iter().map(|id| *id as i64 % 3)))),
                            ("event_type", Arc::new(StringArray::from(vec!["view"; n]))),
                        ],
                        3,
                    );
                    write(&folder, &format!("{number}.parquet"), content)
                }
            };
        };
        let mut sizes = sizes.into_iter();
        add(sizes.next().unwrap());
        let mut memo = None;
        let mut offset = 0;
        let mut found = Vec::new();
        let mut started = None;
        for (round, (batch, polls)) in stops.into_iter().chain([(3, 100); 6]).enumerate() {
            let mut reader = source(folder.path(), false, NOW_US + round as i64).open(0, offset, memo.as_ref()).unwrap();
            for _ in 0..polls {
                match reader.poll(batch).unwrap() {
                    Polled::Batch(batch) => {
                        prop_assert!(batch.rejected.is_empty());
                        started.get_or_insert(batch.events.record_times_us[0]);
                        prop_assert_eq!(batch.events.record_times_us.first().copied(), started);
                        found.extend(batch.events.offsets.iter().copied().zip(json_rows(&batch.events)));
                        offset = batch.next_offset;
                        memo = reader.memo();
                    }
                    Polled::End => match sizes.next() {
                        Some(size) => add(size),
                        None => break,
                    },
                    Polled::Idle => prop_assert!(false, "a bounded source is never idle"),
                }
            }
        }
        prop_assert!(sizes.next().is_none());
        prop_assert_eq!(found.len(), next_id);
        for (id, (offset, row)) in found.iter().enumerate() {
            prop_assert_eq!(*offset, id as u64);
            let start = format!(r#"{{"event_id":"e{id}","#);
            prop_assert!(row.starts_with(&start), "{} at {}", row, id);
        }
    }
}

#[test]
fn files_that_were_read_must_stay() {
    let folder = tempfile::tempdir().unwrap();
    let first = write(&folder, "a.jsonl", lines(0..4));
    let mut reader = source(folder.path(), true, NOW_US).open(0, 0, None).unwrap();
    let Polled::Batch(batch) = reader.poll(2).unwrap() else { panic!() };
    let memo = reader.memo().unwrap();
    assert_eq!(memo["files"][0]["name"], "a.jsonl");
    let reopen = || source(folder.path(), true, 5).open(0, batch.next_offset, Some(&memo));
    assert!(reopen().is_ok());

    std::fs::write(&first, lines(1..5)).unwrap();
    let error = reopen().map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("a.jsonl` has changed since it was read (its content differs)"), "{error}");
    std::fs::write(&first, lines(0..5)).unwrap();
    let error = reopen().map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("(it had 320 bytes and has 400)"), "{error}");
    write(&folder, "b.jsonl", lines(9..10));
    std::fs::remove_file(&first).unwrap();
    let error = reopen().map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("a.jsonl` was read before and is gone"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Invalid);

    // Appending to a file while it is followed is noticed at its end.
    std::fs::write(&first, lines(0..4)).unwrap();
    std::fs::remove_file(folder.path().join("b.jsonl")).unwrap();
    let mut reader = reopen().unwrap();
    let Polled::Batch(batch) = reader.poll(100).unwrap() else { panic!() };
    assert_eq!(batch.next_offset, 4);
    std::fs::write(&first, lines(0..6)).unwrap();
    assert!(reader.poll(100).unwrap_err().to_string().contains("has changed"));
}

#[test]
fn a_source_that_follows_waits_for_new_files() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "b.jsonl", lines(0..1));
    let mut reader = source(folder.path(), true, NOW_US).open(0, 0, None).unwrap();
    assert!(matches!(reader.poll(10).unwrap(), Polled::Batch(_)));
    assert!(matches!(reader.poll(10).unwrap(), Polled::Idle));
    write(&folder, "a.jsonl", lines(1..2));
    let batch = loop {
        match reader.poll(10).unwrap() {
            Polled::Batch(batch) => break batch,
            Polled::Idle => std::thread::yield_now(),
            Polled::End => panic!(),
        }
    };
    assert_eq!(batch.events.offsets, [1]);
}

#[test]
fn the_record_time_is_the_first_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "a.jsonl", lines(0..3));
    let mut reader = source(&path, false, 1_600_000_000_002_000 - 300_000_000).open(0, 0, None).unwrap();
    let Polled::Batch(batch) = reader.poll(10).unwrap() else { panic!() };
    assert_eq!((batch.events.len(), batch.rejected.len()), (3, 0));
    let early = source(&path, false, 1_600_000_000_001_000 - 300_000_000);
    let mut reader = early.open(0, 0, reader.memo().as_ref()).unwrap();
    let Polled::Batch(batch) = reader.poll(10).unwrap() else { panic!() };
    assert_eq!((batch.events.len(), batch.rejected.len()), (3, 0));
    let Polled::Batch(batch) = early.open(0, 0, None).unwrap().poll(10).unwrap() else { panic!() };
    assert_eq!((batch.events.len(), batch.rejected[0].offset), (2, 2));
    assert_eq!(batch.rejected[0].bytes, event(2).as_bytes());
}

#[test]
fn raw_records_keep_the_bytes_of_json_and_find_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let text = [
        "{ \"x\":1, \"user_id\" : \"u\\u0031\",\"event_time\":0,\"event_type\":\"\",\"event_id\":\"e\"}",
        "",
        "{",
        r#"{"event_id":5,"event_time":0,"event_type":"v"}"#,
        r#"{"event_time":0,"event_type":"v"}"#,
    ];
    write(&folder, "a.jsonl", text.join("\n"));
    write(
        &folder,
        "b.csv",
        "event_time,event_type,user_id,price,quantity\n2017-01-01 11:53:26,v,9,.5,x\n2017-01-01 11:53:26,v,9,.5,1\n",
    );
    let mut raw = RawRecords::open(folder.path(), &schema(), TimeUnit::Ms).unwrap();
    let batch = raw.next_batch().unwrap().unwrap();
    let key = |text: &str| Some(text.as_bytes().to_vec());
    let keys: Vec<_> = batch.records.iter().map(|record| record.key.clone()).collect();
    assert_eq!(keys, [key("u1"), None, key("5"), None]);
    let bytes: Vec<_> = batch.records.iter().map(|record| record.bytes.as_slice()).collect();
    assert_eq!(bytes, [text[0], text[2], text[3], text[4]].map(str::as_bytes));
    let batch = raw.next_batch().unwrap().unwrap();
    assert_eq!((batch.records[0].key.clone(), batch.rejected[0].offset), (key("9"), 0));
    assert_eq!(batch.rejected[0].bytes, b"2017-01-01 11:53:26,v,9,.5,x");
    let text =
        br#"{"event_time":"2017-01-01T11:53:26.000000Z","user_id":"9","event_type":"v","price":0.5,"quantity":1}"#;
    assert_eq!(batch.records[0].bytes, text);
    assert_eq!(raw.next_batch().unwrap(), None);
}
