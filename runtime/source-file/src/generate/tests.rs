use super::*;
use crate::{AcceptedEvents, EventOptions};
use plumb_pipeline::accept::AcceptRules;
use plumb_pipeline::decode::TimeUnit;
use plumb_pipeline::decode::json::encode;
use plumb_pipeline::port::EventReader;
use std::collections::BTreeMap;

/// 2024-01-01.
const START_US: i64 = 1_704_067_200_000_000;

fn options(events: u64) -> GenerateOptions {
    GenerateOptions { events, users: 1_000, items: 500, days: 30, seed: 7, start_us: START_US }
}

fn lines(options: &GenerateOptions, rows: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for batch in Generator::new(options).unwrap() {
        for row in 0..batch.len() {
            let mut out = Vec::new();
            encode(&batch, row, &mut out);
            lines.push(String::from_utf8(out).unwrap());
            if lines.len() == rows {
                return lines;
            }
        }
    }
    lines
}

/// A change here changes every file that was ever generated with this seed.
#[test]
fn the_first_events_of_a_seed_are_fixed() {
    expect_test::expect![[r#"
        {"event_id":"g7-00000000","event_time":"2024-01-01T00:00:00.000000Z","user_id":"u00177","item_id":"i00001","event_type":"view","category":"grocery","session_id":"s7-0000000"}
        {"event_id":"g7-00000001","event_time":"2024-01-01T00:01:01.278000Z","user_id":"u00283","item_id":"i00325","event_type":"view","category":"grocery","session_id":"s7-0000001"}
        {"event_id":"g7-00000002","event_time":"2024-01-01T00:02:23.797000Z","user_id":"u00000","item_id":"i00027","event_type":"click","category":"shoes","session_id":"s7-0000002"}
        {"event_id":"g7-00000003","event_time":"2024-01-01T00:02:26.755000Z","user_id":"u00000","item_id":"i00027","event_type":"view","category":"shoes","session_id":"s7-0000002"}
        {"event_id":"g7-00000004","event_time":"2024-01-01T00:02:28.492000Z","user_id":"u00000","item_id":"i00024","event_type":"click","category":"shoes","session_id":"s7-0000002"}
        {"event_id":"g7-00000005","event_time":"2024-01-01T00:02:33.451000Z","user_id":"u00000","item_id":"i00024","event_type":"view","category":"shoes","session_id":"s7-0000002"}
        {"event_id":"g7-00000006","event_time":"2024-01-01T00:06:01.711000Z","user_id":"u00017","item_id":"i00396","event_type":"view","category":"camera","session_id":"s7-0000003"}
        {"event_id":"g7-00000007","event_time":"2024-01-01T00:07:06.843000Z","user_id":"u00420","item_id":"i00105","event_type":"click","category":"home","session_id":"s7-0000004"}
        {"event_id":"g7-00000008","event_time":"2024-01-01T00:07:08.975000Z","user_id":"u00420","item_id":"i00105","event_type":"view","category":"home","session_id":"s7-0000004"}
        {"event_id":"g7-00000009","event_time":"2024-01-01T00:08:33.280000Z","user_id":"u00420","item_id":"i00340","event_type":"view","category":"camera","session_id":"s7-0000004"}
        {"event_id":"g7-00000010","event_time":"2024-01-01T00:08:56.131000Z","user_id":"u00420","item_id":"i00340","event_type":"cart","category":"camera","price":2.53,"quantity":1,"session_id":"s7-0000004"}
        {"event_id":"g7-00000011","event_time":"2024-01-01T00:09:04.530000Z","user_id":"u00420","item_id":"i00001","event_type":"view","category":"grocery","session_id":"s7-0000004"}"#]].assert_eq(&lines(&options(100_000), 12).join("\n"));
}

#[test]
fn events_look_like_a_shop() {
    let options = options(100_000);
    let mut kinds: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    let mut users: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    let mut ids: BTreeMap<Vec<u8>, Vec<(i64, Vec<u8>)>> = BTreeMap::new();
    let (mut rows, mut back, mut newest, mut anonymous) = (0, 0, i64::MIN, 0);
    let (mut first, mut last) = (i64::MAX, i64::MIN);
    for batch in Generator::new(&options).unwrap() {
        for row in 0..batch.len() {
            rows += 1;
            let time_us = batch.times_us[row];
            back += u64::from(time_us < newest);
            newest = newest.max(time_us);
            (first, last) = (first.min(time_us), last.max(time_us));
            *kinds.entry(batch.columns[3].str_bytes(row).unwrap().to_vec()).or_default() += 1;
            match batch.columns[1].str_bytes(row) {
                Some(user) => *users.entry(user.to_vec()).or_default() += 1,
                None => anonymous += 1,
            }
            let mut json = Vec::new();
            encode(&batch, row, &mut json);
            let id = batch.columns[0].str_bytes(row).unwrap().to_vec();
            ids.entry(id).or_default().push((time_us, json));
        }
    }
    assert_eq!(rows, 100_000);
    // Spread over the whole of the days, and not much further than the last visit and a rating.
    assert!((START_US..START_US + DAY_US).contains(&first));
    assert!((START_US + 29 * DAY_US..START_US + 31 * DAY_US).contains(&last));
    assert!((500..3_000).contains(&back), "{back} rows out of order");
    assert!((500..4_000).contains(&anonymous), "{anonymous} rows without a user");
    let copies: Vec<_> = ids.values().filter(|copies| copies.len() > 1).collect();
    assert!((100..400).contains(&copies.len()), "{} ids twice", copies.len());
    assert!(copies.iter().all(|copies| copies.iter().all(|copy| copy == &copies[0])), "copies are equal");
    let count = |kind: &str| kinds.get(kind.as_bytes()).copied().unwrap_or(0);
    assert!(count("view") > 3 * count("cart") && count("cart") > count("purchase"), "{kinds:?}");
    assert!(count("purchase") > 4 * count("rating") && count("rating") > 100, "{kinds:?}");
    let most = users.values().max().unwrap();
    assert!(users.len() > 900 && *most > 40 * (rows / users.len() as u64) / 10, "{} users, most {most}", users.len());
}

#[test]
fn every_format_holds_the_same_events() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(20_000);
    let mut read = Vec::new();
    for name in ["a.parquet", "a.jsonl", "a.csv"] {
        let path = folder.path().join(name);
        let mut shown = 0;
        generate(&options, &path, &mut |rows| shown = rows).unwrap();
        assert_eq!(shown, 20_000);
        let schema = Arc::new(SourceSchema::default_schema());
        let now_us = START_US + 40 * DAY_US;
        let reading = EventOptions {
            unit: TimeUnit::Ms,
            rules: AcceptRules::default(),
            now_us,
            columns: None,
            threads: 2,
            ids: None,
        };
        let mut events = AcceptedEvents::open(&path, &schema, &reading).unwrap();
        let mut all = EventBatch::new(schema);
        while let Some(batch) = events.next_batch().unwrap() {
            all.append(&batch);
        }
        assert_eq!((events.accounting().read, events.accounting().rejected), (20_000, 0), "{name}");
        read.push(all);
    }
    assert!(read[0] == read[1] && read[1] == read[2]);
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "nothing but the files: {names:?}");
}

#[test]
fn options_that_make_no_sense_are_refused_by_name() {
    for (wrong, wanted) in [
        (GenerateOptions { events: 0, ..options(1) }, "`--events` is 0"),
        (GenerateOptions { users: 0, ..options(1) }, "`--users` is 0"),
        (GenerateOptions { items: 0, ..options(1) }, "`--items` is 0"),
        (GenerateOptions { days: 0, ..options(1) }, "`--days` must be at least 1"),
        (GenerateOptions { days: 1 << 60, ..options(1) }, "`--days` must be"),
    ] {
        assert!(Generator::new(&wrong).unwrap_err().to_string().contains(wanted));
    }
    let nowhere = generate(&options(1), Path::new("/nonexistent-folder/a.csv"), &mut |_| ()).unwrap_err();
    assert!(nowhere.to_string().contains("the folder of `/nonexistent-folder/a.csv` does not exist"), "{nowhere}");
    let ending = generate(&options(1), Path::new("events.txt"), &mut |_| ()).unwrap_err();
    assert!(ending.to_string().contains("expected a file name ending in"), "{ending}");
}
