//! A worker over fakes: what it leaves behind equals a computation from the records alone, whatever happens to it.

use super::*;
use crate::accept::Accounting;
use crate::commit::{Manifest, chain, committed_files, recover};
use crate::fakes::{FakeSource, Fields, Fuse, StepClock, World, events, item_view, user_view};
use crate::port::{ObjectStore as _, OnlineField, OnlineWrite, Polled, PublishOutcome};
use plumb_core::ErrorKind;
use plumb_core::state::{Field, FieldWrite};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

mod files;
mod horizon;
mod replace;

type Log = Arc<Mutex<Vec<Vec<Vec<u8>>>>>;

fn log(records: u64) -> Log {
    Arc::new(Mutex::new(vec![events(0, records), events(10_000, records / 2)]))
}

fn options() -> WorkerOptions {
    WorkerOptions {
        publish_interval: Duration::from_millis(3),
        catch_up_publish_interval: Duration::from_millis(5),
        commit_interval: Duration::from_millis(11),
        commit_bytes: 1 << 20,
        max_uncommitted_bytes: 1 << 30,
        batch_records: 16,
        max_state_bytes: u64::MAX,
        hot_key: 10_000,
        bounded: true,
        leave_within: Duration::from_millis(300),
        keep_replaced: Duration::ZERO,
        keep: Duration::from_secs(60),
        merge_files: true,
        commit_aside: false,
    }
}

/// A clock like the one that steps, and that can be told that the process has slept.
#[derive(Default)]
struct SleepClock(std::sync::atomic::AtomicU64, StepClock);

impl Clock for SleepClock {
    fn now_us(&self) -> i64 {
        self.1.now_us()
    }

    fn elapsed(&self) -> Duration {
        self.1.elapsed()
    }

    fn boot_time(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }
}

fn setup(world: &World, fuse: &Arc<Fuse>, options: WorkerOptions) -> WorkerSetup {
    WorkerSetup {
        edges: world.edges(fuse),
        clock: Arc::new(StepClock::default()),
        options,
        board: Arc::default(),
        stop: Arc::default(),
    }
}

fn worker(world: &World, log: &Log, fuse: &Arc<Fuse>) -> Result<Worker> {
    worker_with(world, log, fuse, options())
}

fn worker_with(world: &World, log: &Log, fuse: &Arc<Fuse>, options: WorkerOptions) -> Result<Worker> {
    let source = FakeSource::setup(log, true);
    let partitions = [(source.clone(), 0), (source, 1)];
    Worker::open(setup(world, fuse, options), &partitions, &[user_view(), item_view()], &|_, _| {})
}

/// A life of the process: until the input is processed, or the fuse says.
fn live(world: &World, log: &Log, fuse: &Arc<Fuse>) -> Result<()> {
    let mut worker = worker(world, log, fuse)?;
    while worker.round()? != Round::Ended {
        if fuse.is_dead() {
            return Err(Error::internal("dead"));
        }
    }
    worker.finish()
}

/// What a world must hold once the log has been processed.
#[derive(Debug, PartialEq)]
struct Outcome {
    accounting: Vec<Accounting>,
    ids: Vec<String>,
    fields: Fields,
}

/// Straight from the records: no batches, commits or stores.
fn expected(log: &Log) -> Outcome {
    let source = FakeSource::setup(log, true);
    let mut outcome = Outcome { accounting: Vec::new(), ids: Vec::new(), fields: BTreeMap::new() };
    for number in 0..2u32 {
        let views = [user_view(), item_view()].map(|transform| {
            let state = ViewState::new(transform.plan().clone());
            PartitionView::new(transform, state, false)
        });
        let schema = source.source.schema();
        let base = Manifest::start("default", number);
        let mut partition = Partition::new(schema, source.rules, &base, Vec::new(), views.into());
        let mut reader = source.source.open(number, 0, None).unwrap();
        while let Polled::Batch(batch) = reader.poll(1).unwrap() {
            partition.step(batch, true);
        }
        outcome.accounting.push(*partition.accounting());
        for view in partition.views() {
            let state_id = view.transform.state_id().0;
            for FieldWrite { key, field, value } in view.state.snapshot() {
                let field = match field {
                    Field::Header => OnlineField::Header,
                    Field::Tile(start_us) => OnlineField::Tile(start_us),
                };
                let key = ("default".to_owned(), number, state_id, key.as_bytes().to_vec(), field);
                outcome.fields.insert(key, value.unwrap());
            }
            let complete = b"\xff\xff\xff\xffcomplete".to_vec();
            outcome.fields.insert(("default".to_owned(), number, state_id, complete, OnlineField::Header), vec![1]);
        }
        // The accepted set by the plainest rule there is: the first of each id that is an event in bounds.
        let mut seen = BTreeSet::new();
        for (offset, record) in log.lock().unwrap()[number as usize].iter().enumerate() {
            let Ok(event) = serde_json::from_slice::<serde_json::Value>(record) else { continue };
            if event["event_time"] == 1 {
                continue;
            }
            match event["event_id"].as_str() {
                Some(id) if !seen.insert(id.to_owned()) => {}
                Some(id) => outcome.ids.push(id.to_owned()),
                None => outcome.ids.push(format!("without an id at {offset}")),
            }
        }
    }
    outcome.ids.sort();
    outcome
}

fn outcome(world: &World) -> Outcome {
    let store = world.store();
    let manifests: Vec<_> =
        (0..2).map(|number| crate::commit::latest(&store, "default", number).unwrap().unwrap()).collect();
    Outcome {
        accounting: manifests.iter().map(|manifest| manifest.accounting).collect(),
        ids: world.globbed_ids("default"),
        fields: world.fields(),
    }
}

/// Everything that must hold after the input has been processed.
fn check(world: &World, log: &Log, what: &str) {
    let found = outcome(world);
    let expected = expected(log);
    assert_eq!(found.accounting, expected.accounting, "{what}");
    assert_eq!(found.ids, expected.ids, "{what}");
    assert!(found.fields == expected.fields, "{what}: the online store differs");
    let store = world.store();
    // The manifests name the very files a glob finds.
    let mut named: Vec<_> =
        committed_files(&store, "default").unwrap().into_iter().map(|(_, file)| file.path).collect();
    named.sort();
    let globbed: Vec<_> = store.list("events/default").unwrap().into_iter().map(|(path, _)| path).collect();
    assert_eq!(named, globbed, "{what}");
    // What is committed of state, together with nothing else, is the state.
    for number in 0..2u32 {
        let manifest = crate::commit::latest(&store, "default", number).unwrap().unwrap();
        let mut recovered = recover(&store, manifest).unwrap();
        assert_eq!(recovered.base.seq, recovered.manifest.seq, "{what}");
        for transform in [user_view(), item_view()] {
            let writes = recovered.loaded.contents.states.remove(&transform.state_id()).unwrap();
            let state = ViewState::restore(transform.plan().clone(), writes).unwrap();
            for write in state.snapshot() {
                let field = match write.field {
                    Field::Header => OnlineField::Header,
                    Field::Tile(start_us) => OnlineField::Tile(start_us),
                };
                let key = ("default".to_owned(), number, transform.state_id().0, write.key.as_bytes().to_vec(), field);
                assert_eq!(expected.fields.get(&key), write.value.as_ref(), "{what}");
            }
        }
    }
}

/// Positions shown to readers only ever go forward, except after a rebuild, which begins by taking them away.
fn shown_forward(world: &World) -> bool {
    let mut last = BTreeMap::new();
    world
        .online
        .lock()
        .unwrap()
        .shown
        .iter()
        .all(|&(partition, position)| last.insert(partition, position).is_none_or(|before| before <= position))
}

#[test]
fn an_undisturbed_run_leaves_what_the_records_say() {
    let (world, log) = (World::default(), log(400));
    live(&world, &log, &Fuse::never()).unwrap();
    check(&world, &log, "undisturbed");
    let expected = expected(&log);
    let accounting = expected.accounting[0];
    assert!(accounting.duplicate > 10 && accounting.dedupe_conflict > 5 && accounting.rejected > 40);
    assert!(accounting.late > 10, "{accounting:?}");
    // A second life finds nothing to do, and neither commits rows nor changes what is shown.
    live(&world, &log, &Fuse::never()).unwrap();
    check(&world, &log, "second life");
}

#[test]
fn a_crash_at_every_call_loses_nothing_and_doubles_nothing() {
    let log = log(400);
    let calls = {
        let (world, fuse) = (World::default(), Fuse::never());
        live(&world, &log, &fuse).unwrap();
        fuse.calls()
    };
    assert!(calls > 100, "{calls}");
    let (mut crashes, mut alive) = (0, 0);
    for call in 0..calls {
        for with_effect in [false, true] {
            let (world, fuse) = (World::default(), Fuse::at(call, with_effect));
            crashes += u64::from(live(&world, &log, &fuse).is_err());
            alive += u64::from(!fuse.is_dead());
            live(&world, &log, &Fuse::never()).unwrap();
            let what = format!("crash at call {call}, effect {with_effect}");
            check(&world, &log, &what);
            assert!(shown_forward(&world), "{what}");
        }
    }
    // All but the very last call of a life are crashes that it notices; a life that finds another test merging files
    // has a few calls less.
    assert!(crashes + alive >= 2 * calls - 8 && alive < calls / 4, "{crashes} of {calls}, {alive} alive");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn crashes_while_recovering_from_crashes(
        crashes in prop::collection::vec((0u64..160, any::<bool>()), 1..6),
    ) {
        let (world, log) = (World::default(), log(400));
        for (call, with_effect) in crashes {
            let _crashed = live(&world, &log, &Fuse::at(call, with_effect));
        }
        live(&world, &log, &Fuse::never()).unwrap();
        check(&world, &log, "crashes");
        prop_assert!(shown_forward(&world));
    }

    #[test]
    fn an_emptied_online_store_is_rebuilt(call in 20u64..180, clear_fences in any::<bool>()) {
        let (world, log) = (World::default(), log(400));
        let _crashed = live(&world, &log, &Fuse::at(call, true));
        {
            let mut online = world.online.lock().unwrap();
            online.fields.clear();
            if clear_fences {
                online.fences.clear();
            }
        }
        live(&world, &log, &Fuse::never()).unwrap();
        check(&world, &log, "emptied");
    }
}

#[test]
fn an_online_store_emptied_while_running_is_noticed_and_rebuilt() {
    let (world, log) = (World::default(), log(400));
    let mut worker = worker(&world, &log, &Fuse::never()).unwrap();
    for _ in 0..6 {
        worker.round().unwrap();
    }
    {
        let mut online = world.online.lock().unwrap();
        online.fields.clear();
        online.fences.clear();
    }
    // An emptied store has forgotten the claim as well; the worker's generation claims it again with the rebuild.
    while worker.round().unwrap() != Round::Ended {}
    worker.finish().unwrap();
    check(&world, &log, "emptied while running");
}

#[test]
fn a_lost_answer_is_asked_for_again_and_not_taken_for_a_failure() {
    let log = log(400);
    let calls = {
        let (world, fuse) = (World::default(), Fuse::never());
        live(&world, &log, &fuse).unwrap();
        fuse.calls()
    };
    let mut survived = 0;
    for call in 0..calls {
        let (world, fuse) = (World::default(), Fuse::losing_answer(call));
        let options = WorkerOptions { commit_aside: true, ..options() };
        let source = FakeSource::setup(&log, true);
        let partitions = [(source.clone(), 0), (source, 1)];
        let views = [user_view(), item_view()];
        let lived =
            Worker::open(setup(&world, &fuse, options), &partitions, &views, &|_, _| {}).and_then(|mut worker| {
                while worker.round()? != Round::Ended {}
                worker.finish()
            });
        match lived {
            Ok(()) => survived += 1,
            // While a partition is opened, a failure is the start's.
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                live(&world, &log, &Fuse::never()).unwrap();
            }
        }
        check(&world, &log, &format!("lost answer of call {call}"));
    }
    assert!(survived > calls / 2, "{survived} of {calls}");
}

#[test]
fn an_old_owner_can_neither_commit_nor_publish() {
    let (world, log) = (World::default(), log(400));
    let mut old = worker(&world, &log, &Fuse::never()).unwrap();
    for _ in 0..5 {
        old.round().unwrap();
    }
    let generation = |world: &World| crate::commit::latest(&world.store(), "default", 0).unwrap().unwrap().generation;
    let before = generation(&world);
    let mut new = worker(&world, &log, &Fuse::never()).unwrap();
    assert_eq!(generation(&world), before + 1);
    // The very next thing the old one tries to tell a store is refused.
    let refused = loop {
        match old.round() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(
        matches!(refused, Error::Fenced { current, own, .. } if current == before + 1 && own == before),
        "{refused}"
    );
    // Its commit is refused as well, by the number that is taken.
    let old_setup = old.setup.clone();
    let lane = &mut old.lanes[0];
    lane.commits.ask_snapshot();
    let refused = lane.commit_now(&old_setup).unwrap_err();
    assert!(matches!(refused, Error::Fenced { .. }), "{refused}");
    while new.round().unwrap() != Round::Ended {}
    new.finish().unwrap();
    check(&world, &log, "after a zombie");
}

#[test]
fn an_old_owner_does_not_claim_a_store_that_was_emptied_meanwhile() {
    let (world, log) = (World::default(), log(400));
    let mut old = worker(&world, &log, &Fuse::never()).unwrap();
    for _ in 0..5 {
        old.round().unwrap();
    }
    let _new = worker(&world, &log, &Fuse::never()).unwrap();
    {
        let mut online = world.online.lock().unwrap();
        online.fields.clear();
        online.fences.clear();
    }
    let refused = loop {
        match old.round() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::Fenced { .. }), "{refused}");
    assert!(world.fields().is_empty() && world.online.lock().unwrap().fences.is_empty());
}

#[test]
fn an_owner_that_has_slept_looks_whether_it_still_is_one_before_it_publishes() {
    let (world, log) = (World::default(), log(400));
    let clock = Arc::new(SleepClock::default());
    let source = FakeSource::setup(&log, true);
    let options = WorkerOptions { commit_interval: Duration::from_secs(10_000), ..options() };
    let setup = WorkerSetup { clock: clock.clone(), ..setup(&world, &Fuse::never(), options) };
    let views = [user_view(), item_view()];
    let mut old = Worker::open(setup, &[(source, 0)], &views, &|_, _| {}).unwrap();
    old.round().unwrap();
    crate::commit::Chain::take_over(Arc::new(world.store()), "default", 0, "new", &|| Ok(0)).unwrap();
    // The new owner has not claimed the online store yet: what is younger than the proof still goes.
    let shown = |world: &World| world.online.lock().unwrap().fences[&("default".to_owned(), 0)].1;
    let before = shown(&world);
    clock.0.store(20_000, Ordering::SeqCst);
    let refused = loop {
        match old.round() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::Fenced { .. }), "{refused}");
    assert_eq!(shown(&world), before);
}

#[test]
fn an_old_owner_is_fenced_even_where_its_manifests_have_been_collected() {
    let (world, log) = (World::default(), log(32));
    let mut old = worker(&world, &log, &Fuse::never()).unwrap();
    for _ in 0..200 {
        // Every life adds at least the manifest of its take-over.
        live(&world, &log, &Fuse::never()).unwrap();
        let mut lane = worker(&world, &log, &Fuse::never()).unwrap();
        lane.lanes[0].commits.ask_snapshot();
        let own_setup = lane.setup.clone();
        lane.lanes[0].commit_now(&own_setup).unwrap();
    }
    let next = old.lanes[0].commits.latest().unwrap().seq + 1;
    let seqs = chain::seqs(&world.store(), "default", 0).unwrap();
    assert!(!seqs.contains(&next), "the number is free again: {seqs:?}");
    old.lanes[0].partition.step(
        crate::port::SourceBatch {
            events: plumb_core::event::EventBatch::new(Arc::new(plumb_core::event::SourceSchema::default_schema())),
            rejected: Vec::new(),
            next_offset: 16,
        },
        true,
    );
    old.lanes[0].commits.ask_snapshot();
    let old_setup = old.setup.clone();
    assert!(matches!(old.lanes[0].commit_now(&old_setup), Err(Error::Fenced { .. })));
    live(&world, &log, &Fuse::never()).unwrap();
    check(&world, &log, "after a late zombie");
}

#[test]
fn a_zombies_publish_is_refused_by_the_store() {
    let (world, log) = (World::default(), log(40));
    live(&world, &log, &Fuse::never()).unwrap();
    let edges = world.edges(&Fuse::never());
    let write = OnlineWrite {
        entity: "user".into(),
        state_id: user_view().state_id(),
        key: EntityKey::from_bytes(b"u0"),
        field: OnlineField::Header,
        value: None,
    };
    let (generation, position) = world.online.lock().unwrap().fences[&("default".to_owned(), 0)];
    edges.online.claim("default", 0, generation + 1).unwrap();
    let outcome = edges.online.publish("default", 0, generation, position, 41, &[write]).unwrap();
    assert_eq!(outcome, PublishOutcome::Fenced { current: generation + 1 });
    check(&world, &log, "zombie publish");
}

/// Damages an object.
fn damage(world: &World, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
    change(world.objects.lock().unwrap().get_mut(path).unwrap());
}

#[test]
fn damaged_state_falls_back_to_an_older_commit_and_reads_again() {
    let log = log(400);
    type Change = fn(&mut Vec<u8>);
    let changes: [(&str, Change); 3] = [
        ("bit flip", |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
        }),
        ("cut", |bytes| bytes.truncate(bytes.len() / 3)),
        ("empty", Vec::clear),
    ];
    for ids in [false, true] {
        for (what, change) in changes {
            let world = World::default();
            let _crashed = live(&world, &log, &Fuse::at(150, true));
            let manifest = crate::commit::latest(&world.store(), "default", 0).unwrap().unwrap();
            assert!(manifest.next_offset > 16, "{}", manifest.next_offset);
            let files = if ids { &manifest.ids } else { &manifest.state };
            damage(&world, &files.last().unwrap().path, change);
            live(&world, &log, &Fuse::never()).unwrap();
            check(&world, &log, what);
        }
    }
}

#[test]
fn a_damaged_manifest_is_passed_over_and_its_rows_are_taken_out_of_the_tree() {
    let (world, log) = (World::default(), log(400));
    let _crashed = live(&world, &log, &Fuse::at(150, true));
    let seq = *chain::seqs(&world.store(), "default", 0).unwrap().last().unwrap();
    damage(&world, &format!("manifest/default/0/{seq:020}"), |bytes| bytes.truncate(40));
    live(&world, &log, &Fuse::never()).unwrap();
    check(&world, &log, "damaged manifest");
}

#[test]
fn a_log_that_was_cut_is_refused() {
    let (world, log) = (World::default(), log(100));
    live(&world, &log, &Fuse::never()).unwrap();
    let manifest = crate::commit::latest(&world.store(), "default", 0).unwrap().unwrap();
    damage(&world, &manifest.state.last().unwrap().path, Vec::clear);
    for file in &manifest.ids {
        damage(&world, &file.path, Vec::clear);
    }
    log.lock().unwrap()[0].truncate(20);
    let error = live(&world, &log, &Fuse::never()).unwrap_err();
    assert!(error.to_string().contains("truncated or replaced"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn old_manifests_and_state_files_go_and_what_is_needed_stays() {
    let (world, log) = (World::default(), log(2000));
    let options = WorkerOptions { batch_records: 8, commit_interval: Duration::from_millis(5), ..options() };
    let mut worker = worker_with(&world, &log, &Fuse::never(), options).unwrap();
    while worker.round().unwrap() != Round::Ended {}
    worker.finish().unwrap();
    let store = world.store();
    let seqs = chain::seqs(&store, "default", 0).unwrap();
    assert!(seqs[0] > 1 && seqs.len() <= 32, "{seqs:?}");
    let files = store.list("state/default/0").unwrap().len();
    assert!(files < 120, "{files} state files");
    assert!(store.list("_staging").unwrap().is_empty());
    check(&world, &log, "collected");
}

#[test]
fn at_the_bound_of_state_nothing_more_is_read_and_nothing_is_lost() {
    let (world, log, fuse) = (World::default(), log(400), Arc::<Fuse>::default());
    let source = FakeSource::setup(&log, false);
    let partitions = [(source.clone(), 0), (source, 1)];
    let bounded = WorkerOptions { max_state_bytes: 1, bounded: false, ..options() };
    let mut setup = setup(&world, &fuse, bounded);
    let views = [user_view(), item_view()];
    let mut worker = Worker::open(setup.clone(), &partitions, &views, &|_, _| {}).unwrap();
    let board = setup.board.clone();
    // State is measured with the first commit.
    let paused = |status: &PartitionStatus| status.paused == Some(Pause::State);
    for round in 0.. {
        assert!(round < 10_000, "{:?}", board.partitions());
        worker.round().unwrap();
        if board.partitions().iter().all(paused) {
            break;
        }
    }
    let read = |board: &Board| board.partitions().iter().map(|status| status.accounting.read).sum::<u64>();
    let before = read(&board);
    assert!(before < 600, "stopped before the end");
    for _ in 0..100 {
        worker.round().unwrap();
    }
    assert_eq!(read(&board), before);
    let words = board.state_words(1);
    assert!(words.contains("view `") && words.contains("run.max_state is 1;"), "{words}");
    worker.finish().unwrap();
    // The next process has room.
    setup.options.max_state_bytes = u64::MAX;
    setup.board = Arc::default();
    let mut worker = Worker::open(setup.clone(), &partitions, &views, &|_, _| {}).unwrap();
    while setup.board.partitions().iter().map(|status| status.position).sum::<u64>() < 600 {
        worker.round().unwrap();
    }
    assert!(setup.board.partitions().iter().all(|status| status.paused.is_none()));
    worker.finish().unwrap();
    assert_eq!(outcome(&world), expected(&log));
    // A job that ends by itself says so instead of waiting for ever.
    let world = World::default();
    let options = WorkerOptions { max_state_bytes: 1, ..options() };
    let mut worker = worker_with(&world, &log, &fuse, options).unwrap();
    let error = (0..10_000).find_map(|_| worker.round().err()).expect("it fails");
    assert!(error.to_string().contains("run.max_state is 1;") && error.kind() == ErrorKind::Invalid, "{error}");
}

#[test]
fn what_a_worker_does_is_counted() {
    let (world, log, fuse) = (World::default(), log(400), Arc::<Fuse>::default());
    let source = FakeSource::setup(&log, true);
    let partitions = [(source.clone(), 0), (source, 1)];
    let setup = setup(&world, &fuse, WorkerOptions { hot_key: 3, ..options() });
    let mut worker = Worker::open(setup.clone(), &partitions, &[user_view(), item_view()], &|_, _| {}).unwrap();
    while worker.round().unwrap() != Round::Ended {}
    worker.finish().unwrap();
    let meters = setup.board.meters().of("default");
    let partitions = setup.board.partitions();
    let sum = |of: fn(&PartitionStatus) -> u64| partitions.iter().map(of).sum::<u64>();
    let decoded = sum(|status| status.accounting.applied + status.accounting.duplicate);
    assert!(meters.freshness.figures().count >= decoded);
    let letters = sum(|status| status.dead_letters.values().sum());
    let faults = sum(|status| status.views.iter().map(|view| view.faults).sum());
    assert_eq!(letters, sum(|status| status.accounting.rejected) + faults);
    assert!(partitions[0].dead_letters.contains_key("view_error"), "{:?}", partitions[0].dead_letters);
    assert!(meters.commits.figures().count >= 2 && meters.publishes.figures().count >= 2);
    assert!(meters.commit_bytes.load(Ordering::Relaxed) > 1_000);
    assert_eq!(meters.rebuild_progress(0), 1.0);
    assert!(setup.board.state_bytes() > 0);
    let view = &partitions[0].views[0];
    assert!(view.hot_keys > 0 && view.hottest > 3 && view.hottest_key.len() == 16, "{view:?}");
}
