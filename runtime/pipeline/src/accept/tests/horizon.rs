//! Ids are remembered for the horizon of the records' own timestamps.

use super::*;

const SECOND_US: i64 = 1_000_000;
const HORIZON_US: i64 = 100 * SECOND_US;
/// The year 2200.
const FAR_US: i64 = 7_258_118_400 * SECOND_US;

/// Event times have no bounds here: this is about records'.
fn rules(horizon_us: Option<i64>) -> AcceptRules {
    AcceptRules {
        min_time_us: i64::MIN,
        max_future_us: i64::MAX,
        dedupe_horizon_us: horizon_us,
        ..AcceptRules::default()
    }
}

/// A record: id, its time in µs, a price.
type Stamped = (Option<u8>, i64, u8);

fn stamped(rows: &[Stamped], offset: u64) -> SourceBatch {
    let mut source = batch(&rows.iter().map(|&(id, _, price)| (id, 0, price)).collect::<Vec<_>>(), offset);
    source.events.record_times_us = rows.iter().map(|&(_, time_us, _)| time_us).collect();
    source
}

fn with_blocks(horizon_us: Option<i64>, block: u32) -> Acceptor {
    Acceptor { block, ..Acceptor::new(&schema(), rules(horizon_us)) }
}

/// The offsets that are accepted of ids at times in seconds after [`STAMP_US`].
fn accepted(acceptor: &mut Acceptor, rows: &[(u8, i64)]) -> Vec<u64> {
    let rows: Vec<Stamped> = rows.iter().map(|&(id, at_s)| (Some(id), STAMP_US + at_s * SECOND_US, 1)).collect();
    acceptor.accept(stamped(&rows, 0)).events.offsets
}

#[test]
fn a_copy_within_the_horizon_of_the_first_is_dropped_and_one_beyond_is_a_new_event() {
    let mut acceptor = Acceptor::new(&schema(), rules(Some(HORIZON_US)));
    // The copy at 100 s does not make the first one newer; from 101 s it counts from there.
    let rows = [(1, 0), (1, 1), (1, 100), (1, 101), (1, 102), (1, 201), (1, 202)];
    assert_eq!(accepted(&mut acceptor, &rows), [0, 3, 6]);
    assert_eq!(acceptor.remembered(), 1);
    let mut forever = Acceptor::new(&schema(), rules(None));
    assert_eq!(accepted(&mut forever, &rows), [0]);
    assert_eq!(forever.clock(), None);
}

#[test]
fn the_horizon_is_kept_to_the_second_and_never_short() {
    let times_us = [1, HORIZON_US, HORIZON_US + 1, HORIZON_US + SECOND_US, HORIZON_US + SECOND_US + 1];
    let found: Vec<bool> = times_us
        .iter()
        .map(|after_us| {
            let mut acceptor = Acceptor::new(&schema(), rules(Some(HORIZON_US)));
            let rows = [(Some(1), STAMP_US + 1, 1), (Some(1), STAMP_US + after_us, 1)];
            acceptor.accept(stamped(&rows, 0)).events.len() == 1
        })
        .collect();
    assert_eq!(found, [true, true, true, true, false]);
}

#[test]
fn a_few_records_of_a_wrong_future_make_nothing_forgotten() {
    let mut acceptor = with_blocks(Some(HORIZON_US), 4);
    let far_s = (FAR_US - STAMP_US) / SECOND_US;
    let rows = [(1, 0), (2, far_s), (3, far_s), (4, 1), (5, far_s), (6, far_s), (7, far_s), (1, 2), (2, 3), (3, 4)];
    assert_eq!(accepted(&mut acceptor, &rows), [0, 1, 2, 3, 4, 5, 6]);
    // Only where all of a block say so time has moved on, and then what was before is gone: also for a copy that
    // itself says that it is old.
    assert_eq!(
        accepted(&mut acceptor, &[(8, 500), (9, 500), (10, 500), (11, 500), (12, 500), (13, 500), (1, 3)]).len(),
        7
    );
    assert_eq!(acceptor.clock().unwrap().clock_us, STAMP_US + 500 * SECOND_US);
}

#[test]
fn what_is_stamped_behind_the_clock_is_remembered_as_long_as_anything_else() {
    let mut acceptor = with_blocks(Some(HORIZON_US), 2);
    let rows =
        [(1, 1000), (2, 1000), (3, 0), (3, 0), (4, 1050), (5, 1050), (3, 0), (3, 0), (6, 1101), (7, 1101), (3, 0)];
    assert_eq!(accepted(&mut acceptor, &rows), [0, 1, 2, 4, 5, 8, 9, 10]);
}

#[test]
fn records_without_a_timestamp_are_remembered_from_when_there_is_a_clock() {
    let mut acceptor = with_blocks(Some(HORIZON_US), 2);
    let at = |s: i64| STAMP_US + s * SECOND_US;
    let rows = [(Some(1), 0, 1), (Some(2), -5, 1), (Some(1), at(5000), 1), (Some(1), 0, 1)];
    assert_eq!(acceptor.accept(stamped(&rows, 0)).events.offsets, [0, 1]);
    assert_eq!(acceptor.drain_ids().len(), 2);
    // The second with a timestamp completes a block: ids that were drained without a time have got one.
    let rows = [(Some(3), 0, 1), (Some(4), at(5000), 1), (Some(1), at(5100), 1), (Some(1), at(5101), 1)];
    assert_eq!(acceptor.accept(stamped(&rows, 4)).events.offsets, [4, 5, 7]);
    assert!(acceptor.take_stamped() && !acceptor.take_stamped());
    assert!(acceptor.snapshot_ids().iter().all(|entry| IdEntry::from_bytes(entry).time_s > 0));
    assert!(acceptor.drain_ids().iter().all(|entry| IdEntry::from_bytes(entry).time_s > 0));
}

#[test]
fn a_longer_horizon_brings_nothing_back() {
    let mut acceptor = with_blocks(Some(HORIZON_US), 2);
    accepted(&mut acceptor, &[(1, 0), (2, 1000), (3, 1000), (4, 1000)]);
    let (accounting, newest_us) = (*acceptor.accounting(), acceptor.newest_us());
    let ids = acceptor.drain_ids();
    let longer = rules(Some(100 * HORIZON_US));
    let mut acceptor = Acceptor::restore(&schema(), longer, accounting, newest_us, acceptor.clock(), ids);
    assert_eq!(accepted(&mut acceptor, &[(1, 1000), (2, 1000)]), [0]);
}

#[test]
fn memory_holds_the_horizon_and_little_more() {
    let mut acceptor = Acceptor::new(&schema(), rules(Some(HORIZON_US)));
    let mut source = stamped(&[(Some(1), 0, 1); 1000], 0);
    let mut largest = 0;
    // 2000 events a second for 5 horizons.
    for batch in 0..1000u64 {
        let hashes = Hashes {
            ids: (0..1000).map(|row| xxh3_128(&(batch * 1000 + row).to_le_bytes())).collect(),
            payloads: vec![0; 1000],
        };
        let first_us = STAMP_US + batch as i64 * SECOND_US / 2;
        source.events.record_times_us = (0..1000).map(|row| first_us + row * 500).collect();
        assert_eq!(acceptor.accept_hashed(source.clone(), &hashes).events.len(), 1000);
        acceptor.forget_drain();
        largest = largest.max(acceptor.remembered());
    }
    let of_horizon = 200_000;
    // An eighth before what is forgotten is looked for, and a table each 1024 events then.
    let bound = of_horizon * 9 / 8 + 64 * 1024 + 4096;
    assert!((of_horizon..bound).contains(&largest), "{largest}");
    assert!((of_horizon..of_horizon + 4096).contains(&acceptor.snapshot_ids().len()));
}

/// The decisions by a scan of all records before: which offsets are accepted, duplicates and conflicts among them.
fn scanned(rows: &[Stamped], horizon_us: i64, block: usize) -> (Vec<u64>, u64, u64) {
    let mut copies: Vec<(u8, i64, u8)> = Vec::new();
    let (mut kept, mut duplicate, mut conflict) = (Vec::new(), 0, 0);
    for (n, &(id, time_us, price)) in rows.iter().enumerate() {
        let stamps: Vec<i64> = rows[..=n].iter().map(|row| row.1).filter(|&time_us| time_us > 0).collect();
        let blocks: Vec<i64> = stamps.chunks_exact(block).map(|of| *of.iter().min().unwrap()).collect();
        let clock_us = blocks.iter().copied().max().unwrap_or(0);
        let whole_s = |time_us: i64| (time_us + SECOND_US - 1) / SECOND_US * SECOND_US;
        if let Some(id) = id {
            let last = copies.iter().rev().find(|copy| copy.0 == id);
            // A copy without any time is as of the first clock.
            let known = last.map(|&(_, first_us, price)| match (first_us, blocks.first()) {
                (0, None) => (true, price),
                (0, Some(&first)) => (whole_s(first) >= (clock_us - horizon_us).max(time_us - horizon_us), price),
                (first_us, _) => (first_us >= (clock_us - horizon_us).max(time_us - horizon_us), price),
            });
            if let Some((true, first)) = known {
                duplicate += 1;
                conflict += u64::from(first != price);
                continue;
            }
            copies.push((id, whole_s(time_us.max(clock_us)), price));
        }
        kept.push(n as u64);
    }
    (kept, duplicate, conflict)
}

/// Records whose times go on, some far from it.
fn any_rows() -> impl Strategy<Value = Vec<Stamped>> {
    let step_us = prop::sample::select(vec![0, 1, 999_999, SECOND_US, 7 * SECOND_US, 60 * SECOND_US, 400 * SECOND_US]);
    let off =
        prop::sample::select(vec![None, None, None, None, Some(-30), Some(-300), Some(50), Some(i64::MAX), Some(0)]);
    let row = (prop::option::of(0u8..9), step_us, off, 7u8..9);
    prop::collection::vec(row, 0..80).prop_map(|rows| {
        let mut now_us = STAMP_US;
        let stamp = |(id, step_us, off, price): (Option<u8>, i64, Option<i64>, u8)| {
            now_us += step_us;
            let time_us = match off {
                None => now_us,
                Some(0) => 0,
                // Less than what counts as the latest time: the scan knows no bound.
                Some(i64::MAX) => STAMP_US + 2_000_000_000 * SECOND_US + now_us % 1000,
                Some(off_s) => now_us + off_s * SECOND_US,
            };
            (id, time_us, price)
        };
        rows.into_iter().map(stamp).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// However the log is cut into batches, wherever the process is restarted and whenever memory is swept, the
    /// decisions are those of a scan of the whole log.
    #[test]
    fn decisions_are_those_of_a_scan(
        rows in any_rows(),
        block in 1u32..7,
        cuts in prop::collection::vec((1usize..9, any::<bool>(), any::<bool>()), 80),
    ) {
        let (kept, duplicate, dedupe_conflict) = scanned(&rows, HORIZON_US, block as usize);
        let mut acceptor = with_blocks(Some(HORIZON_US), block);
        let mut committed: Vec<[u8; 24]> = Vec::new();
        let mut found = Vec::new();
        let mut at = 0;
        for (len, restart, snapshot) in cuts {
            let end = rows.len().min(at + len);
            found.extend(acceptor.accept(stamped(&rows[at..end], at as u64)).events.offsets);
            at = end;
            if restart {
                let fresh = acceptor.drain_ids();
                if acceptor.take_stamped() || snapshot {
                    committed = acceptor.snapshot_ids();
                } else {
                    committed.extend(fresh);
                }
                let (accounting, newest_us, clock) = (*acceptor.accounting(), acceptor.newest_us(), acceptor.clock());
                let ids = committed.iter().copied();
                let restored = Acceptor::restore(&schema(), acceptor.rules, accounting, newest_us, clock, ids);
                acceptor = Acceptor { block, ..restored };
            }
        }
        prop_assert_eq!(found, kept);
        let counts = acceptor.accounting();
        prop_assert_eq!((counts.duplicate, counts.dedupe_conflict), (duplicate, dedupe_conflict));
    }
}
