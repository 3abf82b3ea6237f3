use super::*;
use crate::dates::date_of_day;
use plumb_columnar::{ParquetFile, Selection, from_arrow};
use plumb_core::column::{Column, DataType, Values};
use plumb_core::event::Field;
use plumb_core::time::{DAY_US, HOUR_US};
use plumb_pipeline::commit::{trashed, waiting};
use plumb_store_object::LocalStore;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

fn schema() -> Arc<SourceSchema> {
    let field = |name: &str, data_type| Field { name: name.into(), data_type, required: false };
    Arc::new(SourceSchema {
        source: "clicks".into(),
        time_field: "at".into(),
        id_field: "id".into(),
        key_field: "user_id".into(),
        fields: vec![
            field("user_id", DataType::Utf8),
            field("price", DataType::F64),
            field("quantity", DataType::I64),
            field("first", DataType::Bool),
            field("raw", DataType::Bytes),
            field("seen", DataType::Timestamp),
        ],
    })
}

/// `times` are the events' times; everything else follows from their place, with nulls here and there.
fn events(schema: &Arc<SourceSchema>, first_offset: u64, times: &[i64]) -> EventBatch {
    let mut events = EventBatch::new(schema.clone());
    for (row, &time_us) in times.iter().enumerate() {
        let n = first_offset + row as u64 * 2;
        events.offsets.push(n);
        events.record_times_us.push(time_us + 5);
        events.times_us.push(time_us);
        for column in &mut events.columns {
            match (&mut column.values, n % 7) {
                (_, 3) => column.push_null(),
                (Values::Utf8(_), _) => column.push_bytes(format!("u{}", n % 5).as_bytes()),
                (Values::Bytes(_), _) => column.push_bytes(&n.to_le_bytes()[..(n % 9) as usize]),
                (Values::F64(_), _) => column.push_f64(0.1 * n as f64),
                (Values::Bool(_), _) => column.push_bool(n.is_multiple_of(2)),
                _ => column.push_i64(n as i64 - 50),
            }
        }
    }
    events
}

struct Fixture {
    _folder: tempfile::TempDir,
    store: Arc<LocalStore>,
    archive: ParquetArchive,
}

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(LocalStore::open(folder.path().join("offline")).unwrap());
    Fixture { archive: ParquetArchive::new(store.clone()), store, _folder: folder }
}

impl Fixture {
    fn commit(&self, partition: u32, name: &str, events: &EventBatch) -> Vec<(u32, RowFile)> {
        let files = {
            // However the events of a commit come in batches, their files are the same.
            let (early, late) = (0..events.len() / 3, events.len() / 3..events.len());
            self.archive.stage(partition, name, &[events.take(early), events.take(0..0), events.take(late)]).unwrap()
        };
        for file in &files {
            self.store.rename(&file.staged, &file.path).unwrap();
        }
        files.into_iter().map(|file| (partition, file)).collect()
    }

    fn scan(&self, schema: &Arc<SourceSchema>, scan: &ArchiveScan) -> BTreeMap<u32, EventBatch> {
        scan_all(&self.archive, schema, scan)
    }
}

fn scan_all(archive: &ParquetArchive, schema: &Arc<SourceSchema>, scan: &ArchiveScan) -> BTreeMap<u32, EventBatch> {
    let mut found: BTreeMap<u32, EventBatch> = BTreeMap::new();
    let mut visit = |partition, events: EventBatch| {
        let all = found.entry(partition).or_insert_with(|| EventBatch::new(schema.clone()));
        (0..events.len()).for_each(|row| all.push_from(&events, row));
        Ok(())
    };
    archive.scan(schema, scan, &mut visit).unwrap();
    found
}

/// A store without local files that counts what is read from it.
struct Remote {
    store: Arc<LocalStore>,
    requests: AtomicU64,
    bytes: AtomicU64,
}

impl Remote {
    fn of(store: &Arc<LocalStore>) -> Self {
        Self { store: store.clone(), requests: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }
}

impl ObjectStore for Remote {
    fn create(&self, path: &str, bytes: &[u8]) -> Result<bool> {
        self.store.create(path, bytes)
    }
    fn put(&self, path: &str, bytes: Vec<u8>) -> Result<()> {
        self.store.put(path, bytes)
    }
    fn get(&self, path: &str) -> Result<Option<Vec<u8>>> {
        self.get_range(path, 0..u64::MAX)
    }
    fn get_range(&self, path: &str, range: Range<u64>) -> Result<Option<Vec<u8>>> {
        let read = self.store.get_range(path, range)?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(read.as_ref().map_or(0, |bytes| bytes.len() as u64), Ordering::Relaxed);
        Ok(read)
    }
    fn list(&self, folder: &str) -> Result<Vec<(String, u64)>> {
        self.store.list(folder)
    }
    fn ages(&self, folder: &str) -> Result<Vec<(String, Duration)>> {
        self.store.ages(folder)
    }
    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.store.rename(from, to)
    }
    fn alone(&self, name: &str, work: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        self.store.alone(name, work)
    }
    fn delete(&self, path: &str) -> Result<()> {
        self.store.delete(path)
    }
    fn local_path(&self, _: &str) -> Option<PathBuf> {
        None
    }
}

#[test]
fn only_the_columns_asked_for_are_read_from_a_remote_store() {
    let (fixture, schema) = (fixture(), schema());
    let batch = events(&schema, 0, &(0..600_000).collect::<Vec<i64>>());
    let files = fixture.commit(0, "0-1-0", &batch);
    assert!(files[0].1.bytes > 5 << 20, "{}", files[0].1.bytes);
    let remote = Arc::new(Remote::of(&fixture.store));
    let archive = ParquetArchive::new(remote.clone());
    let scan = ArchiveScan { files: files.clone(), columns: Some(vec![3]), ..ArchiveScan::default() };
    let found = &scan_all(&archive, &schema, &scan)[&0];
    assert_eq!(found.columns[3].as_f64(), batch.columns[3].as_f64());
    let (requests, bytes) = (remote.requests.load(Ordering::Relaxed), remote.bytes.load(Ordering::Relaxed));
    assert!(bytes * 2 < files[0].1.bytes && requests < 20, "{bytes} of {} bytes in {requests}", files[0].1.bytes);
    // A store that is away is no damaged file.
    fixture.store.put("events/clicks/date=1970-01-01/0-1-0.parquet", vec![7; 100]).unwrap();
    let error = archive.scan(&schema, &scan, &mut |_, _| Ok(())).unwrap_err();
    assert!(error.to_string().contains("0-1-0.parquet"), "{error}");
}

#[test]
fn files_that_are_not_what_was_committed_are_not_merged() {
    let (fixture, schema) = (fixture(), schema());
    let files: Vec<RowFile> = (0..2)
        .flat_map(|commit| fixture.commit(0, &format!("0-1-{commit}"), &events(&schema, commit * 10, &[1, 2, 3])))
        .map(|(_, file)| file)
        .collect();
    let group = |files: &[RowFile]| [("0-1-5-m0".to_owned(), files.to_vec())];
    let merged = fixture.archive.merge(&group(&files)).unwrap();
    assert_eq!((merged[0].rows, merged[0].offsets, merged[0].event_time_us), (6, (0, 14), (1, 3)));
    assert_eq!(merged[0].path, "events/clicks/date=1970-01-01/0-1-5-m0.parquet");
    let other = RowFile { rows: 4, ..files[0].clone() };
    let error = fixture.archive.merge(&group(&[other, files[1].clone()])).unwrap_err().to_string();
    assert!(error.contains("holds 3 rows, committed were 4"), "{error}");
}

/// The same events with canonical columns (validity only where there are nulls).
fn canonical(events: &EventBatch) -> EventBatch {
    let mut same = events.take(0..events.len());
    for column in &mut same.columns {
        if column.validity.as_ref().is_some_and(|bits| bits.count_set() == bits.len()) {
            column.validity = None;
        }
    }
    same
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// What was staged over several commits is read back by any scan exactly as filtering the events would give.
    #[test]
    fn scans_read_what_was_staged(
        days in prop::collection::vec(prop::collection::vec(-3i64..4, 1..60), 1..4),
        time in prop::option::of((-4i64..5, 0i64..5)),
        bounds in prop::option::of((0u64..200, 0u64..200)),
        user in prop::option::of(0u64..6),
    ) {
        let (fixture, schema) = (fixture(), schema());
        let mut all = EventBatch::new(schema.clone());
        let mut files = Vec::new();
        for (commit, days) in days.iter().enumerate() {
            let times: Vec<i64> =
                days.iter().enumerate().map(|(row, day)| day * DAY_US + row as i64 * HOUR_US / 3).collect();
            let first = all.offsets.last().map_or(0, |last| last + 1);
            let batch = events(&schema, first, &times);
            files.extend(fixture.commit(3, &format!("3-1-{commit}"), &batch));
            (0..batch.len()).for_each(|row| all.push_from(&batch, row));
        }
        let scan = ArchiveScan {
            files,
            columns: None,
            event_time_us: time.map(|(day, days)| (day * DAY_US, (day + days) * DAY_US)),
            from_offset: bounds.map(|(from, _)| (3, from)).into_iter().collect(),
            below_offset: bounds.map(|(_, below)| (3, below)).into_iter().collect(),
            equals: user.map(|user| (1, format!("u{user}"))),
            in_order: true,
        };
        let wanted = all.take((0..all.len()).filter(|&row| {
            scan.event_time_us.is_none_or(|(start, end)| (start..end).contains(&all.times_us[row]))
                && bounds.is_none_or(|(from, below)| (from..below).contains(&all.offsets[row]))
                && user.is_none_or(|user| all.columns[1].str_bytes(row) == Some(format!("u{user}").as_bytes()))
        }));
        let read = |archive: &ParquetArchive, scan: &ArchiveScan| {
            let found = scan_all(archive, &schema, scan).remove(&3);
            let found = found.unwrap_or_else(|| EventBatch::new(schema.clone()));
            let mut rows: Vec<usize> = (0..found.len()).collect();
            if !scan.in_order {
                rows.sort_by_key(|&row| found.offsets[row]);
            }
            canonical(&found.take(rows))
        };
        prop_assert_eq!(read(&fixture.archive, &scan), canonical(&wanted));
        let any_order = ArchiveScan { in_order: false, ..scan.clone() };
        prop_assert_eq!(read(&fixture.archive, &any_order), canonical(&wanted));
        // Merged date by date, wherever the files lie by now, and read from a store without local files.
        let remote = ParquetArchive::new(Arc::new(Remote::of(&fixture.store)));
        let old: Vec<RowFile> = scan.files.iter().map(|(_, file)| file.clone()).collect();
        let mut dates: BTreeMap<&str, Vec<RowFile>> = BTreeMap::new();
        old.iter().for_each(|file| dates.entry(file.path.rsplit_once('/').unwrap().0).or_default().push(file.clone()));
        let groups: Vec<(String, Vec<RowFile>)> =
            dates.into_values().enumerate().map(|(n, files)| (format!("3-1-9-m{n}"), files)).collect();
        let merged = remote.merge(&groups).unwrap();
        prop_assert_eq!(merged.iter().map(|file| file.rows).sum::<u64>(), all.len() as u64);
        for file in &old {
            fixture.store.rename(&file.path, &trashed(&file.path)).unwrap();
        }
        let merged = ArchiveScan { files: merged.into_iter().map(|file| (3, file)).collect(), ..scan.clone() };
        for archive in [&fixture.archive, &remote] {
            for scan in [&scan, &any_order, &merged] {
                prop_assert_eq!(read(archive, scan), canonical(&wanted));
            }
        }
    }
}

#[test]
fn files_describe_themselves_and_stay_invisible_until_moved() {
    let (fixture, schema) = (fixture(), schema());
    let batch = events(&schema, 10, &[DAY_US + 7, -1, DAY_US + 3, -2]);
    let files = fixture.archive.stage(2, "2-1-9", std::slice::from_ref(&batch)).unwrap();
    assert!(fixture.store.list("events").unwrap().is_empty());
    let facts: Vec<_> =
        files.iter().map(|file| (file.path.as_str(), file.rows, file.event_time_us, file.offsets)).collect();
    assert_eq!(
        facts,
        [
            ("events/clicks/date=1969-12-31/2-1-9.parquet", 2, (-2, -1), (12, 16)),
            ("events/clicks/date=1970-01-02/2-1-9.parquet", 2, (DAY_US + 3, DAY_US + 7), (10, 14)),
        ]
    );
    let bytes = fixture.store.get(&files[0].staged).unwrap().unwrap();
    assert_eq!(bytes.len() as u64, files[0].bytes);
    assert_eq!(files[0].sha256.len(), 64);

    // A commit that was interrupted before the move is read where it is staged.
    let files_of = files.iter().map(|file| (2, file.clone())).collect();
    let scan = ArchiveScan { files: files_of, in_order: true, ..ArchiveScan::default() };
    assert_eq!(canonical(&fixture.scan(&schema, &scan)[&2]), canonical(&batch));
    for file in &files {
        fixture.store.rename(&file.staged, &file.path).unwrap();
        fixture.store.rename(&file.staged, &file.path).unwrap();
    }
    assert_eq!(canonical(&fixture.scan(&schema, &scan)[&2]), canonical(&batch));

    let parquet = ParquetFile::open(&fixture.store.local_path(&files[0].path).unwrap()).unwrap();
    let names: Vec<String> = parquet
        .schema()
        .fields()
        .iter()
        .map(|field| format!("{}: {}{}", field.name(), field.data_type(), if field.is_nullable() { "?" } else { "" }))
        .collect();
    assert_eq!(
        names.join(", "),
        "id: Utf8?, at: Timestamp(µs, \"UTC\"), user_id: Utf8?, price: Float64?, quantity: Int64?, first: Boolean?, \
         raw: Binary?, seen: Timestamp(µs, \"UTC\")?, _source: Utf8, _partition: Int32, _offset: Int64, \
         _ingest_time: Timestamp(µs, \"UTC\")"
    );
    assert!(fixture.archive.stage(2, "x", &[EventBatch::new(schema)]).unwrap().is_empty());
}

#[test]
fn other_columns_and_later_fields_read_as_null() {
    let (fixture, old) = (fixture(), schema());
    let batch = events(&old, 0, &[1, 2]);
    let files = fixture.commit(0, "0-1-0", &batch);
    let mut later = (*old).clone();
    later.fields.insert(0, Field { name: "channel".into(), data_type: DataType::Utf8, required: true });
    later.fields.retain(|field| field.name != "raw");
    let later = Arc::new(later);
    let scan = ArchiveScan { files, columns: Some(vec![0, 1, 3]), ..ArchiveScan::default() };
    let found = &fixture.scan(&later, &scan)[&0];
    assert_eq!(found.columns[0].str_bytes(0), Some(&b"u0"[..]));
    assert_eq!(found.columns[3].as_f64().unwrap(), &[0.0, 0.2]);
    for null in [1, 2, 4, 5, 6] {
        assert_eq!(found.columns[null], Column::nulls(&found.columns[null].data_type(), 2));
    }
    let nowhere = ArchiveScan { equals: Some((1, "web".into())), ..scan.clone() };
    assert!(fixture.scan(&later, &nowhere).is_empty());

    let mut other = (*old).clone();
    other.fields[1].data_type = DataType::Bool;
    let scan = ArchiveScan { columns: None, ..scan };
    let error = fixture.archive.scan(&Arc::new(other), &scan, &mut |_, _| Ok(())).unwrap_err().to_string();
    assert!(error.ends_with("0-1-0.parquet`: column `price`: found Float64, expected bool"), "{error}");
}

#[test]
fn damage_and_absence_name_the_file() {
    let (fixture, schema) = (fixture(), schema());
    let files = fixture.commit(0, "0-1-0", &events(&schema, 0, &[1, 2]));
    let place = fixture.store.local_path(&files[0].1.path).unwrap();
    let bytes = std::fs::read(&place).unwrap();
    let scan = ArchiveScan { files, ..ArchiveScan::default() };
    let error = || fixture.archive.scan(&schema, &scan, &mut |_, _| Ok(())).unwrap_err().to_string();
    std::fs::write(&place, &bytes[..bytes.len() / 2]).unwrap();
    assert!(error().contains("0-1-0.parquet"), "{}", error());
    std::fs::remove_file(&place).unwrap();
    assert!(error().contains("0-1-0.parquet` of the manifest does not exist"), "{}", error());
}

#[test]
fn dead_letters_keep_their_bytes() {
    let fixture = fixture();
    let letter = |offset, view: Option<&str>| DeadLetter {
        offset,
        record_time_us: 1_000 - offset as i64,
        bytes: vec![0xff, 0, offset as u8],
        reason: "not JSON".into(),
        view: view.map(str::to_owned),
    };
    let letters = [letter(4, None), letter(9, Some("user_activity@1.0.0+ab12cd34"))];
    let files = fixture.archive.stage_dead_letters("clicks", 1, "1-1-7", &letters).unwrap();
    assert_eq!(files.len(), 1);
    let file = &files[0];
    assert_eq!((file.path.as_str(), file.rows, file.offsets), ("dead_letters/clicks/1-1-7.parquet", 2, (4, 9)));
    assert_eq!(file.event_time_us, (991, 996));
    let parquet = ParquetFile::open(&fixture.store.local_path(&file.staged).unwrap()).unwrap();
    let batch = parquet.batches(&Selection::default()).unwrap().next().unwrap().unwrap();
    let column = |name, of| from_arrow(name, batch.column_by_name(name).unwrap(), &of).unwrap();
    assert_eq!(column("bytes", DataType::Bytes).str_bytes(1), Some(&[0xff, 0, 9][..]));
    assert_eq!(column("view", DataType::Utf8).str_bytes(0), None);
    assert_eq!(column("_offset", DataType::I64).as_i64().unwrap(), &[4, 9]);
    let mut read = Vec::new();
    let store: Arc<dyn ObjectStore> = fixture.store.clone();
    read_dead_letters(&store, file, &mut |partition, letter| {
        read.push((partition, letter));
        Ok(())
    })
    .unwrap();
    assert_eq!(read, letters.map(|letter| (1, letter)));
    let gone = RowFile { staged: "_staging/x".into(), path: "dead_letters/clicks/x.parquet".into(), ..file.clone() };
    let error = read_dead_letters(&store, &gone, &mut |_, _| Ok(())).unwrap_err().to_string();
    assert!(error.contains("dead_letters/clicks/x.parquet` of the manifest does not exist"), "{error}");
    assert!(fixture.archive.stage_dead_letters("clicks", 1, "x", &[]).unwrap().is_empty());
}

#[test]
fn fields_that_collide_are_refused() {
    for name in ["_offset", "date", "id", "at", "price"] {
        let mut schema = (*schema()).clone();
        schema.fields.push(Field { name: name.into(), data_type: DataType::Utf8, required: false });
        let error = check_schema(&schema).unwrap_err().to_string();
        assert!(error.starts_with(&format!("field `{name}` of source `clicks`")), "{error}");
    }
    check_schema(&SourceSchema::default_schema()).unwrap();
}

/// Rows of 200 dates, one or two each but for one full date, and a schema that has grown in between.
#[test]
fn rows_of_very_many_dates_wait_in_one_file_and_are_spread_to_their_dates_in_two_steps() {
    let (fixture, schema) = (fixture(), schema());
    let day = |n: i64| (20_000 + n) * DAY_US;
    let times = |turn: i64| -> Vec<i64> {
        // In no order: the days come twice, from both ends.
        let thin = (0..200).flat_map(|n| [day(n) + turn, day(199 - n) + HOUR_US + turn]);
        thin.chain((0..1000).map(|n| day(100) + n)).collect()
    };
    let mut grown = SourceSchema::clone(&schema);
    grown.fields.push(Field { name: "late".into(), data_type: DataType::F64, required: false });
    let grown = Arc::new(grown);
    let batches = [events(&schema, 0, &times(0)), events(&grown, 10_000, &times(1))];
    let mut waiting = Vec::new();
    let mut own = Vec::new();
    for (batch, name) in batches.iter().zip(["3-1-1", "3-1-2"]) {
        let (wait, dated): (Vec<_>, Vec<_>) = fixture
            .commit(3, name, batch)
            .into_iter()
            .map(|(_, file)| file)
            .partition(|file| waiting::is_waiting(&file.path));
        assert_eq!(wait.len(), 1);
        assert_eq!(wait[0].path, format!("_pending/events/clicks/{name}.parquet"));
        assert_eq!(wait[0].rows, 2 * 191, "200 dates but for the full one and the newest eight");
        assert_eq!(dated.len(), 9);
        assert!(dated.iter().any(|file| file.path.contains("date=2025-01-12/") && file.rows == 1002), "{dated:?}");
        waiting.extend(wait);
        own.extend(dated);
    }
    let read = |files: &[RowFile]| {
        let files = files.iter().chain(&own).map(|file| (3, file.clone())).collect();
        let scan = ArchiveScan { files, ..ArchiveScan::default() };
        let found = fixture.scan(&grown, &scan).remove(&3).unwrap();
        let mut rows: Vec<usize> = (0..found.len()).collect();
        rows.sort_by_key(|&row| found.offsets[row]);
        canonical(&found.take(rows))
    };
    let expected = read(&waiting);
    assert_eq!(expected.len(), 2 * 1400);

    let blocks = fixture.archive.spread("3-1-3-s1", &waiting, Step::Blocks).unwrap();
    assert!(fixture.store.list("_pending").unwrap().len() == 2, "not there before the commit");
    let from: Vec<&str> = blocks.iter().map(|file| file.path.split('/').nth(3).unwrap()).collect();
    // 20,000 is in the block of 64 days from 19,968 on.
    assert_eq!(from, ["from=2024-09-02", "from=2024-11-05", "from=2025-01-08", "from=2025-03-13"]);
    assert_eq!(read(&blocks), expected, "read where they are staged");
    let mut dates = Vec::new();
    for (number, block) in blocks.iter().enumerate() {
        fixture.store.rename(&block.staged, &block.path).unwrap();
        let name = format!("3-1-4-s{}", number + 1);
        dates.extend(fixture.archive.spread(&name, std::slice::from_ref(block), Step::Dates).unwrap());
    }
    assert_eq!(dates.len(), 191);
    for file in &dates {
        fixture.store.rename(&file.staged, &file.path).unwrap();
        let date = file.path.split('/').nth(2).unwrap().strip_prefix("date=").unwrap();
        assert_eq!(date_of_day(file.event_time_us.0.div_euclid(DAY_US)), date);
        assert_eq!(date_of_day(file.event_time_us.1.div_euclid(DAY_US)), date);
        assert_eq!(file.rows, 4, "{file:?}");
        let bytes = fixture.store.get(&file.path).unwrap().unwrap();
        assert_eq!((bytes.len() as u64, stage::sha256_hex(&bytes)), (file.bytes, file.sha256.clone()));
    }
    assert_eq!(read(&dates), expected);
    // A file that is not what the manifest says is not spread.
    let wrong = RowFile { rows: waiting[0].rows + 1, ..waiting[0].clone() };
    let error = fixture.archive.spread("3-1-5-s1", &[wrong], Step::Blocks).unwrap_err().to_string();
    assert!(error.contains("committed were 383"), "{error}");
}
