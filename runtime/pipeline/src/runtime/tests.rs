//! A running job over fakes: views come and go while events do.

mod shared;

use super::*;
use crate::fakes::{FakeLoader, FakeSource, Fuse, StepClock, World, component, events};
use crate::port::OnlineField;
use crate::worker::{Partition, PartitionView};
use std::collections::BTreeMap;

type Log = Arc<Mutex<Vec<Vec<Vec<u8>>>>>;
type Fields = BTreeMap<(u32, Vec<u8>, OnlineField), Vec<u8>>;

fn log(records: u64) -> Log {
    Arc::new(Mutex::new(vec![events(0, records), events(10_000, records / 2)]))
}

fn parts(world: &World, log: &Log, fuse: &Arc<Fuse>, bounded: bool) -> RuntimeParts {
    let edges = world.edges(fuse);
    RuntimeParts {
        sources: vec![FakeSource::setup(log, bounded)],
        online: edges.online,
        store: edges.store,
        archive: edges.archive,
        loader: Arc::new(FakeLoader),
        clock: Arc::new(StepClock::default()),
        snapshots: None,
    }
}

fn options(bounded: bool) -> RuntimeOptions {
    let worker = WorkerOptions { batch_records: 16, bounded, ..WorkerOptions::default() };
    RuntimeOptions { worker, threads: 2, replace: false }
}

fn start(world: &World, log: &Log, bounded: bool, components: &[Vec<u8>]) -> Result<Runtime> {
    let runtime = Runtime::start(parts(world, log, &Fuse::never(), bounded), options(bounded), components)?;
    runtime.wait_live()?;
    Ok(runtime)
}

fn users(version: &str, hours: i64) -> Vec<u8> {
    component("user_activity", version, "user_id", hours)
}

fn items() -> Vec<u8> {
    component("item_activity", "1.0.0", "item_id", 1)
}

/// The fields of a component's view computed from the log alone.
fn computed(log: &Log, bytes: &[u8]) -> Fields {
    let source = FakeSource::setup(log, true);
    let schema = source.source.schema().clone();
    let transform = Transform::new(FakeLoader.load(bytes).unwrap(), &schema, source.rules.allowed_lateness_us).unwrap();
    let mut fields = BTreeMap::new();
    let partitions = log.lock().unwrap().len() as u32;
    for number in 0..partitions {
        let view = PartitionView::new(transform.clone(), ViewState::new(transform.plan().clone()), false);
        let base = crate::commit::Manifest::start("default", number);
        let mut partition = Partition::new(&schema, source.rules, &base, Vec::new(), vec![view]);
        let mut reader = source.source.open(number, 0, None).unwrap();
        while let crate::port::Polled::Batch(batch) = reader.poll(1000).unwrap() {
            partition.step(batch, false);
        }
        let mut writes = Vec::new();
        partition.views_mut()[0].drain_publish(&mut writes);
        fields.extend(writes.into_iter().map(|w| ((number, w.key.as_bytes().to_vec(), w.field), w.value.unwrap())));
    }
    fields
}

/// The fields of a state in the online store, without the mark that it is complete.
fn shown(world: &World, state_id: StateId) -> Fields {
    let complete = b"\xff\xff\xff\xffcomplete".to_vec();
    let fields = world.fields().into_iter().filter(|((_, _, id, key, _), _)| *id == state_id.0 && *key != complete);
    fields.map(|((_, number, _, key, field), value)| ((number, key, field), value)).collect()
}

fn assert_shown(world: &World, runtime: &Runtime, log: &Log, components: &[Vec<u8>]) {
    let active = runtime.active_views();
    assert_eq!(active.len(), components.len());
    for bytes in components {
        let digest = plumb_transform::Digest::of(bytes);
        let view = active.iter().find(|view| *view.transform.digest() == digest).expect("it is active");
        assert!(view.ready.is_ready());
        assert!(shown(world, view.transform.state_id()) == computed(log, bytes), "{:?}", view.transform);
    }
    // And nothing else: the state of versions that were replaced is gone.
    let known: Vec<_> = active.iter().map(|view| view.transform.state_id().0).collect();
    assert!(world.fields().keys().all(|(_, _, id, _, _)| known.contains(id)));
}

/// Waits until everything in the log is published.
fn settle(runtime: &Runtime, log: &Log) {
    let ends: Vec<u64> = log.lock().unwrap().iter().map(|records| records.len() as u64).collect();
    while !runtime.status().partitions.iter().all(|status| status.published == Some(ends[status.partition as usize])) {
        assert_eq!(runtime.status().failure, None);
        std::thread::yield_now();
    }
}

#[test]
fn a_bounded_job_ends_and_starts_again_with_what_it_knew() {
    let (world, log) = (World::default(), log(400));
    let components = [users("1.0.0", 2), items()];
    let runtime = start(&world, &log, true, &components).unwrap();
    runtime.wait_ended().unwrap();
    assert_shown(&world, &runtime, &log, &components);
    let status = runtime.status();
    assert_eq!((status.partitions[0].position, status.partitions[0].committed), (400, 400));
    assert!(status.partitions[0].accounting.is_consistent());
    assert!(status.partitions[0].views.iter().all(|view| view.keys > 0 && view.state_bytes > 0 && view.faults > 0));
    runtime.stop().unwrap();
    // No component given: the job manifest knows them. More records have come.
    log.lock().unwrap()[0].extend(events(400, 100));
    let runtime = start(&world, &log, true, &[]).unwrap();
    runtime.wait_ended().unwrap();
    assert_shown(&world, &runtime, &log, &components);
    runtime.stop().unwrap();
}

#[test]
fn a_view_added_at_a_start_is_built_from_the_archive() {
    let (world, log) = (World::default(), log(400));
    start(&world, &log, true, &[users("1.0.0", 2)])
        .and_then(|runtime| {
            runtime.wait_ended()?;
            runtime.stop()
        })
        .unwrap();
    log.lock().unwrap()[1].extend(events(10_200, 50));
    let components = [users("1.0.0", 2), items()];
    let runtime = start(&world, &log, true, &components).unwrap();
    runtime.wait_ended().unwrap();
    assert_shown(&world, &runtime, &log, &components);
    runtime.stop().unwrap();
}

#[test]
fn views_are_deployed_rolled_back_and_retired_while_events_come() {
    let (world, log) = (World::default(), log(200));
    let runtime = start(&world, &log, false, &[users("1.0.0", 2)]).unwrap();
    let more = |first: u64| {
        let mut log = log.lock().unwrap();
        log[0].extend(events(first, 64));
        log[1].extend(events(10_000 + first, 64));
    };
    more(1_000);
    let added = runtime.deploy(&items(), false).unwrap();
    assert!(matches!(added.outcome, Deployment::Added));
    more(2_000);
    settle(&runtime, &log);
    assert_shown(&world, &runtime, &log, &[users("1.0.0", 2), items()]);

    let next = users("1.1.0", 5);
    more(3_000);
    let replaced = runtime.deploy(&next, false).unwrap();
    assert!(matches!(&replaced.outcome, Deployment::Replaced(old) if old.def().version.to_string() == "1.0.0"));
    settle(&runtime, &log);
    assert_shown(&world, &runtime, &log, &[next.clone(), items()]);
    assert!(matches!(runtime.deploy(&next, false).unwrap().outcome, Deployment::Unchanged));

    // Another component under a known version, an older version: refused, and nothing has changed.
    let job = runtime.job();
    for refused in [users("1.1.0", 7), users("1.0.0", 7), users("0.9.0", 2)] {
        let error = runtime.deploy(&refused, false).unwrap_err();
        assert_eq!(error.kind(), plumb_core::ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("--replace"), "{error}");
    }
    assert_eq!(runtime.job(), job);
    assert_shown(&world, &runtime, &log, &[next.clone(), items()]);
    let other = users("1.1.0", 7);
    runtime.deploy(&other, true).unwrap();
    settle(&runtime, &log);
    assert_shown(&world, &runtime, &log, &[other, items()]);

    let back = runtime.rollback("user_activity").unwrap();
    assert_eq!(*back.transform.digest(), plumb_transform::Digest::of(&next));
    runtime.retire("item_activity").unwrap();
    more(4_000);
    settle(&runtime, &log);
    assert_shown(&world, &runtime, &log, std::slice::from_ref(&next));
    runtime.stop().unwrap();

    let runtime = start(&world, &log, true, &[]).unwrap();
    runtime.wait_ended().unwrap();
    assert_shown(&world, &runtime, &log, &[next]);
    runtime.stop().unwrap();
}

#[test]
fn a_deployment_that_dies_anywhere_leaves_the_old_version_or_the_new_one() {
    let before = |world: &World, log: &Log| {
        start(world, log, true, &[users("1.0.0", 2)])
            .and_then(|runtime| {
                runtime.wait_ended()?;
                runtime.stop()
            })
            .unwrap();
    };
    let mut outcomes = [0, 0];
    for call in (0..150).step_by(3) {
        let (world, log) = (World::default(), log(120));
        before(&world, &log);
        let fuse = Fuse::at(call, call % 2 == 0);
        let next = users("1.1.0", 5);
        if let Ok(runtime) = Runtime::start(parts(&world, &log, &fuse, false), options(false), &[]) {
            let _dead = runtime.wait_live().and_then(|()| runtime.deploy(&next, false).map(|_| ()));
        }
        let runtime = start(&world, &log, true, &[]).unwrap();
        runtime.wait_ended().unwrap();
        let version = runtime.active_views()[0].transform.def().version.to_string();
        let component = if version == "1.0.0" { users("1.0.0", 2) } else { next };
        outcomes[usize::from(version == "1.1.0")] += 1;
        assert_shown(&world, &runtime, &log, &[component]);
        runtime.stop().unwrap();
    }
    assert!(outcomes[0] > 5 && outcomes[1] > 3, "{outcomes:?}");
}

#[test]
fn a_failed_deployment_changes_nothing() {
    let (world, log) = (World::default(), log(200));
    let runtime = start(&world, &log, false, &[users("1.0.0", 2)]).unwrap();
    settle(&runtime, &log);
    runtime.commit_now().unwrap();
    let committed: Vec<_> = runtime.status().partitions.iter().map(|status| status.committed).collect();
    assert_eq!(committed, [200, 100]);
    // A source that does not exist, and an archive that has lost a file.
    let error = runtime.deploy(b"v 1.0.0 user_id clicks 1", false).unwrap_err();
    assert!(error.to_string().contains("`clicks`") && error.to_string().contains("`default`"), "{error}");
    runtime.stop().unwrap();

    let runtime = start(&world, &log, false, &[]).unwrap();
    assert_shown(&world, &runtime, &log, &[users("1.0.0", 2)]);
    runtime.stop().unwrap();
    // Given versions: a newer one replaces, an older one leaves things as they are, another component is refused.
    let runtime = start(&world, &log, false, &[users("0.5.0", 1)]).unwrap();
    assert_eq!(runtime.active_views()[0].transform.def().version.to_string(), "1.0.0");
    runtime.stop().unwrap();
    let error = start(&world, &log, false, &[users("1.0.0", 9)]).unwrap_err();
    assert!(error.to_string().contains("--replace"), "{error}");
    let allowed = RuntimeOptions { replace: true, ..options(false) };
    let parts = parts(&world, &log, &Fuse::never(), false);
    let runtime = Runtime::start(parts, allowed, &[users("1.0.0", 9)]).unwrap();
    settle(&runtime, &log);
    assert_shown(&world, &runtime, &log, &[users("1.0.0", 9)]);
    runtime.stop().unwrap();
    let error = start(&world, &log, false, &[users("1.2.0", 9), users("1.3.0", 9)]).unwrap_err();
    assert!(error.to_string().contains("given twice"), "{error}");
}

#[test]
fn a_second_runtime_ends_the_first() {
    let (world, log) = (World::default(), log(200));
    let first = start(&world, &log, false, &[users("1.0.0", 2)]).unwrap();
    settle(&first, &log);
    let second = start(&world, &log, false, &[]).unwrap();
    log.lock().unwrap()[0].extend(events(1_000, 64));
    settle(&second, &log);
    let error = loop {
        if first.status().failure.is_some() {
            break first.stop().unwrap_err();
        }
        std::thread::yield_now();
    };
    assert!(matches!(error, Error::Fenced { .. }), "{error}");
    assert_shown(&world, &second, &log, &[users("1.0.0", 2)]);
    second.stop().unwrap();
}
