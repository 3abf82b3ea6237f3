//! A source whose ids are forgotten after a time: over crashes, in damaged commits, and on disk.

use super::*;
use crate::fakes::STAMP_US;
use plumb_core::time::SECOND_US;

/// A record a second, and ids remembered for so many of them.
const HORIZON_US: i64 = 2_000 * SECOND_US;

fn stamp(offset: u64) -> i64 {
    STAMP_US + offset as i64 * SECOND_US
}

/// Some ids come again after 5 records, with another payload, some after 1502, some after 3000.
fn copies() -> Log {
    let record = |offset: u64| {
        let id = match offset % 10 {
            9 => offset - 5,
            8 if offset > 1502 => offset - 1502,
            7 => offset % 3000,
            _ => offset,
        };
        let (user, price) = (id % 40, offset % 2);
        let fields = format!(r#""user_id":"u{user}","item_id":"i1","event_type":"view","price":{price}"#);
        format!(r#"{{"event_id":"{id}","event_time":{},{fields}}}"#, STAMP_US / 1000).into_bytes()
    };
    Arc::new(Mutex::new(vec![(0..9000).map(record).collect()]))
}

fn source(log: &Log) -> SourceSetup {
    let mut source = FakeSource { stamp, ..FakeSource::of(log, true) }.setup_with();
    source.rules.dedupe_horizon_us = Some(HORIZON_US);
    source
}

fn live(world: &World, log: &Log, fuse: &Arc<Fuse>) -> Result<()> {
    let options = WorkerOptions { batch_records: 64, ..options() };
    let mut worker =
        Worker::open(setup(world, fuse, options), &[(source(log), 0)], &[user_view(), item_view()], &|_, _| {})?;
    while worker.round()? != Round::Ended {
        if fuse.is_dead() {
            return Err(Error::internal("dead"));
        }
    }
    worker.finish()
}

fn latest(world: &World) -> Manifest {
    crate::commit::latest(&world.store(), "default", 0).unwrap().unwrap()
}

/// What the records amount to by the rule's own words: a copy counts where it is more than the horizon after the one
/// that counted last. Times only go on here, so that nothing else is to be said.
fn by_the_rule(log: &Log) -> (Accounting, Vec<String>) {
    let mut counted: BTreeMap<String, (u64, String)> = BTreeMap::new();
    let (mut accounting, mut ids) = (Accounting::default(), Vec::new());
    for (offset, record) in log.lock().unwrap()[0].iter().enumerate() {
        let offset = offset as u64;
        let event: serde_json::Value = serde_json::from_slice(record).unwrap();
        let id = event["event_id"].as_str().unwrap().to_owned();
        let payload = format!("{} {}", event["user_id"], event["price"]);
        accounting.read += 1;
        match counted.get(&id) {
            Some((first, of_first)) if stamp(offset) - stamp(*first) <= HORIZON_US => {
                accounting.duplicate += 1;
                accounting.dedupe_conflict += u64::from(*of_first != payload);
            }
            _ => {
                accounting.applied += 1;
                counted.insert(id.clone(), (offset, payload));
                ids.push(id);
            }
        }
    }
    ids.sort();
    (accounting, ids)
}

#[track_caller]
fn check(world: &World, expected: &(Accounting, Vec<String>), what: &str) {
    assert_eq!(latest(world).accounting, expected.0, "{what}");
    assert!(world.globbed_ids("default") == expected.1, "{what}: the archive has other events");
}

#[test]
fn whatever_call_is_the_last_copies_within_the_horizon_are_dropped_and_later_ones_count() {
    let log = copies();
    let expected = by_the_rule(&log);
    let twice = expected.1.windows(2).filter(|pair| pair[0] == pair[1]).count();
    assert!(twice > 500 && expected.0.duplicate > 1500 && expected.0.dedupe_conflict > 500, "{:?}", expected.0);
    let calls = {
        let (world, fuse) = (World::default(), Fuse::never());
        live(&world, &log, &fuse).unwrap();
        check(&world, &expected, "undisturbed");
        fuse.calls()
    };
    for call in (0..calls).step_by((calls as usize / 24).max(1)) {
        let world = World::default();
        let _crashed = live(&world, &log, &Fuse::at(call, call % 2 == 0));
        live(&world, &log, &Fuse::never()).unwrap();
        check(&world, &expected, &format!("crash at call {call}"));
    }
}

#[test]
fn forgotten_ids_leave_the_commits() {
    let log = copies();
    let world = World::default();
    live(&world, &log, &Fuse::never()).unwrap();
    let manifest = latest(&world);
    let forgotten_us = manifest.clock.unwrap().forgotten_us;
    assert!(forgotten_us > stamp(5000), "{:?}", manifest.clock);
    assert!(manifest.ids.iter().all(|file| file.newest_us.is_some_and(|newest_us| newest_us >= forgotten_us)));
    let ids = recover(&world.store(), manifest.clone()).unwrap().loaded.contents.ids.len() as u64;
    // Those of the horizon and of two blocks are alive; files are merged when half of what is in them may be dead.
    assert!(ids < 2 * (2_000 + 2_048) && ids < manifest.accounting.applied * 2 / 3, "{ids} in {:?}", manifest.ids);
    // A partition that nobody writes to with ids any more keeps none.
    let silent = |offset: u64| format!(r#"{{"event_time":{},"event_type":"view","price":{offset}}}"#, STAMP_US / 1000);
    log.lock().unwrap()[0].extend((0..5000).map(|offset| silent(offset).into_bytes()));
    live(&world, &log, &Fuse::never()).unwrap();
    assert_eq!(latest(&world).ids, []);
    assert_eq!(latest(&world).accounting.applied, manifest.accounting.applied + 5000);
}

#[test]
fn damaged_ids_are_made_again_from_the_log_with_the_same_answers() {
    let log = copies();
    let expected = by_the_rule(&log);
    let fuse = Fuse::never();
    live(&World::default(), &log, &fuse).unwrap();
    for call in [3, 6, 9].map(|tenths| fuse.calls() * tenths / 10) {
        let world = World::default();
        live(&world, &log, &Fuse::at(call, true)).unwrap_err();
        let manifest = latest(&world);
        assert!(manifest.next_offset > 1000 && !manifest.ids.is_empty(), "{}", manifest.next_offset);
        for file in &manifest.ids {
            damage(&world, &file.path, Vec::clear);
        }
        live(&world, &log, &Fuse::never()).unwrap();
        check(&world, &expected, &format!("damaged after call {call}"));
        let ids = recover(&world.store(), latest(&world)).unwrap();
        assert_eq!(ids.base.seq, ids.manifest.seq);
    }
}

#[test]
fn ids_of_commits_before_there_was_a_horizon_are_remembered_from_the_first_clock() {
    let log = copies();
    let later = log.lock().unwrap()[0].split_off(3000);
    let world = World::default();
    let without = {
        let mut source = source(&log);
        source.rules.dedupe_horizon_us = None;
        source
    };
    let mut worker =
        Worker::open(setup(&world, &Fuse::never(), options()), &[(without, 0)], &[user_view()], &|_, _| {}).unwrap();
    while worker.round().unwrap() != Round::Ended {}
    worker.finish().unwrap();
    let manifest = latest(&world);
    assert!(manifest.clock.is_none() && manifest.ids.iter().all(|file| file.newest_us.is_none()));
    log.lock().unwrap()[0].extend(later);
    live(&world, &log, &Fuse::never()).unwrap();
    let manifest = latest(&world);
    assert!(manifest.ids.iter().all(|file| file.newest_us.is_some()), "{:?}", manifest.ids);
    // The first block after the upgrade begins at record 3000: until 2000 s after that the old ids are remembered, where
    // the rule would have let copies of 3000 s before count.
    let dropped = (3000..=5000).filter(|offset| offset % 10 == 7).count() as u64;
    let (expected, _) = by_the_rule(&log);
    assert_eq!((manifest.accounting.applied, dropped), (expected.applied - dropped, 200));
}
