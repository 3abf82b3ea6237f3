use super::*;
use crate::decode::json::{JsonDecoder, Record};
use crate::decode::time::TimeUnit;
use proptest::prelude::*;
use std::collections::BTreeMap;

mod horizon;

const STAMP_US: i64 = 1_700_000_000_000_000;

fn schema() -> Arc<SourceSchema> {
    Arc::new(SourceSchema::default_schema())
}

/// An event as the tests write it: id, time in seconds before the stamp, a price.
type Row = (Option<u8>, i64, u8);

fn batch(rows: &[Row], offset: u64) -> SourceBatch {
    let mut batch = SourceBatch { events: EventBatch::new(schema()), rejected: Vec::new(), next_offset: offset };
    let mut decoder = JsonDecoder::new(schema(), TimeUnit::Us);
    for &(id, age_s, price) in rows {
        let id = id.map_or("null".to_owned(), |id| id.to_string());
        let time_us = STAMP_US - age_s * 1_000_000;
        // A price of 9 stands for a record without the required type.
        let kind = if price == 9 { "null" } else { "\"view\"" };
        let text = format!(r#"{{"event_id":{id},"event_time":{time_us},"event_type":{kind},"price":{price}}}"#);
        let record = Record { offset: batch.next_offset, record_time_us: STAMP_US, bytes: text.as_bytes() };
        decoder.decode_into(&mut batch, record);
    }
    batch
}

fn acceptor() -> Acceptor {
    Acceptor::new(&schema(), AcceptRules::default())
}

#[test]
fn bounds_are_inclusive_and_named() {
    let rules = AcceptRules::default();
    let check = |time_us| rules.check_time("event_time", time_us, STAMP_US);
    let min_us = crate::decode::parse_rfc3339(b"1990-01-01T00:00:00Z").unwrap().us;
    assert_eq!(rules.min_time_us, min_us);
    assert_eq!(check(min_us), Ok(()));
    assert!(check(min_us - 1).unwrap_err().contains("1989-12-31T23:59:59.999999Z is before min_time 1990-01-01T00:00"));
    assert_eq!(check(STAMP_US + 300_000_000), Ok(()));
    assert_eq!(
        check(STAMP_US + 300_000_001).unwrap_err(),
        "field `event_time`: 2023-11-14T22:18:20.000001Z is more than max_future 5m ahead of the record's timestamp \
         2023-11-14T22:13:20.000000Z"
    );
    let last = AcceptRules { max_future_us: i64::MAX, ..rules };
    assert_eq!(last.check_time("t", i64::MAX, STAMP_US), Ok(()));
}

#[test]
fn the_first_copy_wins_and_a_conflict_is_counted() {
    let mut acceptor = acceptor();
    let rows = [(Some(1), 0, 1), (Some(1), 0, 1), (Some(1), 0, 2), (None, 0, 1), (None, 0, 1), (Some(2), 1, 1)];
    let accepted = acceptor.accept(batch(&rows, 10));
    assert_eq!(accepted.events.offsets, [10, 13, 14, 15]);
    assert_eq!(accepted.next_offset, 16);
    let wanted = Accounting { read: 6, applied: 4, duplicate: 2, dedupe_conflict: 1, ..Accounting::default() };
    assert_eq!(*acceptor.accounting(), wanted);
    assert_eq!(acceptor.remembered(), 2);
}

#[test]
fn a_conflict_is_any_decoded_difference() {
    let record = |fields: &str| format!(r#"{{"event_id":"e","event_type":"view",{fields}}}"#);
    let conflicts = |first: &str, second: &str| {
        let mut acceptor = acceptor();
        let mut batch = SourceBatch { events: EventBatch::new(schema()), rejected: Vec::new(), next_offset: 0 };
        let mut decoder = JsonDecoder::new(schema(), TimeUnit::Ms);
        for (offset, text) in [record(first), record(second)].into_iter().enumerate() {
            let record = Record { offset: offset as u64, record_time_us: STAMP_US, bytes: text.as_bytes() };
            decoder.decode_into(&mut batch, record);
        }
        acceptor.accept(batch);
        assert_eq!(acceptor.accounting().duplicate, 1);
        acceptor.accounting().dedupe_conflict == 1
    };
    let time = r#""event_time":1600000000000"#;
    assert!(!conflicts(time, r#""event_time":"2020-09-13T12:26:40Z","price":null,"other":1"#));
    assert!(!conflicts(&format!(r#"{time},"price":1"#), &format!(r#"{time},"price":1.0"#)));
    assert!(conflicts(time, r#""event_time":1600000000001"#));
    assert!(conflicts(time, &format!(r#"{time},"price":0"#)));
    assert!(conflicts(time, &format!(r#"{time},"user_id":"""#)));
    assert!(conflicts(&format!(r#"{time},"user_id":"a""#), &format!(r#"{time},"item_id":"a""#)));
    assert!(conflicts(&format!(r#"{time},"user_id":"ab""#), &format!(r#"{time},"user_id":"a","item_id":"b""#)));
}

#[test]
fn refused_records_keep_their_order_and_do_not_take_an_id() {
    let mut acceptor = acceptor();
    let far = -10_000;
    let accepted = acceptor.accept(batch(&[(Some(1), far, 1), (Some(2), 0, 9), (Some(1), 0, 1), (Some(3), far, 1)], 0));
    assert_eq!(accepted.events.offsets, [2]);
    assert_eq!(accepted.rejected.iter().map(|record| record.offset).collect::<Vec<_>>(), [0, 1, 3]);
    assert_eq!(accepted.rejected[1].reason, "missing field `event_type`");
    let text = String::from_utf8(accepted.rejected[0].bytes.clone()).unwrap();
    assert!(text.starts_with(r#"{"event_id":"1","event_time":"2023-11-15T01:00:00.000000Z""#), "{text}");
}

#[test]
fn required_fields_are_checked_for_sources_that_do_not() {
    let mut source = batch(&[(Some(1), 0, 1), (Some(2), 0, 1)], 0);
    let kind = source.events.schema.column_of("event_type").unwrap();
    source.events.columns[kind].truncate(1);
    source.events.columns[kind].push_null();
    let accepted = acceptor().accept(source);
    assert_eq!(accepted.events.offsets, [0]);
    assert_eq!(accepted.rejected[0].reason, "missing field `event_type`");
}

#[test]
fn lateness_is_counted_and_decides_nothing() {
    let mut acceptor = acceptor();
    let accepted = acceptor.accept(batch(&[(None, 3600, 1), (None, 0, 1), (None, 3600, 1), (None, 3601, 1)], 0));
    assert_eq!(accepted.events.len(), 4);
    assert_eq!(acceptor.accounting().late, 1);
    assert_eq!(acceptor.newest_us(), Some(STAMP_US));
}

#[test]
fn payload_hashes_are_pinned() {
    // They live in commits: a change here makes every redelivery after an upgrade look like a conflict.
    let mut acceptor = acceptor();
    acceptor.accept(batch(&[(Some(1), 0, 1)], 0));
    let hex: String = acceptor.drain_ids()[0].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "58f1988f0225cd654d3356d884e73cdfafddc8d400000000");
}

/// The decisions by the text of contract.md.
fn naive(rows: &[Row]) -> (Vec<u64>, Accounting) {
    let mut seen = BTreeMap::new();
    let mut kept = Vec::new();
    let mut newest = i64::MIN;
    let mut counts = Accounting::default();
    for (offset, &(id, age_s, price)) in rows.iter().enumerate() {
        counts.read += 1;
        if price == 9 || age_s < -300 {
            counts.rejected += 1;
        } else if let Some(first) = id.and_then(|id| seen.get(&id)) {
            counts.duplicate += 1;
            counts.dedupe_conflict += u64::from(*first != (age_s, price));
        } else {
            if let Some(id) = id {
                seen.insert(id, (age_s, price));
            }
            counts.applied += 1;
            newest = newest.max(-age_s);
            counts.late += u64::from(-age_s < newest - 3600);
            kept.push(offset as u64);
        }
    }
    (kept, counts)
}

proptest! {
    /// However the log is cut into batches, and wherever the process is restarted from its commits, the
    /// decisions are those of the plain rule.
    #[test]
    fn decisions_do_not_depend_on_batches_or_restarts(
        rows in proptest::collection::vec(
            (proptest::option::of(0u8..12), proptest::sample::select(vec![-400i64, -300, 0, 1, 4000, 7000]), 7u8..10),
            0..60,
        ),
        cuts in proptest::collection::vec((1usize..9, any::<bool>(), any::<bool>()), 60),
    ) {
        let (kept, counts) = naive(&rows);
        let mut acceptor = acceptor();
        let mut committed: Vec<[u8; 24]> = Vec::new();
        let mut found = Vec::new();
        let mut at = 0;
        for (len, restart, snapshot) in cuts {
            let end = rows.len().min(at + len);
            let accepted = acceptor.accept(batch(&rows[at..end], at as u64));
            prop_assert_eq!(accepted.next_offset, end as u64);
            found.extend(accepted.events.offsets);
            at = end;
            if restart {
                if snapshot {
                    committed = acceptor.snapshot_ids();
                    acceptor.drain_ids();
                } else {
                    committed.extend(acceptor.drain_ids());
                }
                let (accounting, newest_us) = (*acceptor.accounting(), acceptor.newest_us());
                let ids = committed.iter().copied();
                acceptor = Acceptor::restore(&schema(), AcceptRules::default(), accounting, newest_us, None, ids);
            }
        }
        prop_assert_eq!(found, kept);
        prop_assert_eq!(*acceptor.accounting(), counts);
        prop_assert!(counts.is_consistent());
    }
}
