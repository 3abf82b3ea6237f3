//! Row files over the life of a partition: merged, replaced, put away and removed.

use super::*;
use crate::commit::waiting::{self, Thin};
use crate::commit::{sha256_hex, trashed};

/// Commits so small and many that files are merged, replaced and merged again, and old ones removed.
fn busy_options() -> WorkerOptions {
    WorkerOptions { batch_records: 8, commit_interval: Duration::from_millis(5), ..options() }
}

fn live_busily(world: &World, log: &Log, fuse: &Arc<Fuse>) -> Result<()> {
    let mut worker = worker_with(world, log, fuse, busy_options())?;
    while worker.round()? != Round::Ended {
        if fuse.is_dead() {
            return Err(Error::internal("dead"));
        }
    }
    worker.finish()
}

#[test]
fn small_files_are_merged_whatever_call_is_the_last_and_each_row_is_in_the_tree_once() {
    let log = log(900);
    let calls = {
        let (world, fuse) = (World::default(), Fuse::never());
        live_busily(&world, &log, &fuse).unwrap();
        check(&world, &log, "undisturbed");
        let store = world.store();
        let merged = store.list("events/default").unwrap();
        assert!(merged.iter().all(|(path, _)| path.contains("-m")), "one file a date and partition: {merged:?}");
        fuse.calls()
    };
    let (mut crashes, mut between) = (0, 0);
    for call in (0..calls).step_by((calls as usize / 200).max(1)) {
        let (world, fuse) = (World::default(), Fuse::at(call, call % 2 == 0));
        let _crashed = live_busily(&world, &log, &fuse);
        if !fuse.is_dead() {
            // Who merges when depends on what else this process is merging: another run may need fewer calls.
            continue;
        }
        crashes += 1;
        let what = format!("crash at call {call}");
        // Before anybody has taken over: what a reader finds by the manifest is what is committed, once each.
        let store = world.store();
        for (number, file) in committed_files(&store, "default").unwrap() {
            let places = [&file.path, &file.staged, &trashed(&file.path)];
            let found = places.iter().find_map(|place| store.get(place).unwrap());
            let found = found.unwrap_or_else(|| panic!("{what}: {} of partition {number} is gone", file.path));
            assert_eq!(sha256_hex(&found), file.sha256, "{what}");
        }
        between += u64::from(
            latest_manifests(&world)
                .iter()
                .any(|manifest| manifest.replaced.iter().any(|path| store.get(path).unwrap().is_some())),
        );
        live_busily(&world, &log, &Fuse::never()).unwrap();
        check(&world, &log, &what);
    }
    assert!(crashes > 100, "{crashes} crashes");
    assert!(between > 3, "{between} crashes between the manifest of a merge and its moves");
}

/// Rows wait wherever a commit has those of two dates.
fn thin_world() -> World {
    let mut world = World::default();
    world.thin = Thin { rows: 1000, dates: 1, newest: 0 };
    world
}

fn waiting_files(world: &World) -> usize {
    world.store().list(&waiting::folder("default")).unwrap().len()
}

/// What a glob finds, each row once and committed.
fn globbed_once(world: &World, what: &str) {
    let ids = world.globbed_ids("default");
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "{what}: a row twice");
    let store = world.store();
    let named: Vec<_> = committed_files(&store, "default").unwrap().into_iter().map(|(_, file)| file.path).collect();
    for (path, _) in store.list("events/default").unwrap() {
        assert!(named.contains(&path), "{what}: {path} is not committed");
    }
}

#[test]
fn rows_that_wait_reach_their_dates_whatever_call_is_the_last_and_a_glob_never_sees_one_twice() {
    let log = log(900);
    // Nothing is merged, so that no file takes another's place in the tree.
    let live = |world: &World, fuse: &Arc<Fuse>| -> Result<()> {
        let options = WorkerOptions { merge_files: false, commit_bytes: 1 << 10, ..busy_options() };
        let mut worker = worker_with(world, &log, fuse, options)?;
        while worker.round()? != Round::Ended {
            if fuse.is_dead() {
                return Err(Error::internal("dead"));
            }
        }
        worker.finish()
    };
    let calls = {
        let (world, fuse) = (thin_world(), Fuse::never());
        live(&world, &fuse).unwrap();
        check(&world, &log, "undisturbed");
        let trash = world.store().list(&trashed(&waiting::folder("default"))).unwrap();
        let blocks = trash.iter().filter(|(path, _)| path.contains("/from=")).count();
        // The last of each partition at least; how many before depends on what else this process merges meanwhile.
        assert!(blocks >= 2 && trash.len() > blocks, "{blocks} files of blocks of {} that have waited", trash.len());
        assert_eq!(waiting_files(&world), 0);
        fuse.calls()
    };
    let (mut crashes, mut waited) = (0, 0);
    for call in (0..calls).step_by((calls as usize / 200).max(1)) {
        let (world, fuse) = (thin_world(), Fuse::at(call, call % 2 == 0));
        let _crashed = live(&world, &fuse);
        let what = format!("crash at call {call}");
        globbed_once(&world, &what);
        crashes += 1;
        waited += usize::from(waiting_files(&world) > 0);
        live(&world, &Fuse::never()).unwrap();
        check(&world, &log, &what);
    }
    assert!(crashes > 100 && waited > 100, "{waited} of {crashes} crashes while rows waited");
}

#[test]
fn rows_that_wait_reach_their_dates_when_nothing_more_comes_for_a_while() {
    let (world, log) = (thin_world(), log(400));
    let source = FakeSource::setup(&log, false);
    let partitions = [(source.clone(), 0), (source, 1)];
    let options = WorkerOptions { bounded: false, ..options() };
    let run = |until: &dyn Fn(&World) -> bool| {
        let setup = setup(&world, &Fuse::never(), options.clone());
        let mut worker = Worker::open(setup, &partitions, &[user_view(), item_view()], &|_, _| {}).unwrap();
        for round in 0.. {
            assert!(round < 100_000, "{:?}", world.store().list("").unwrap());
            worker.round().unwrap();
            if until(&world) {
                break;
            }
        }
        worker.finish().unwrap();
    };
    // A process that ends while rows wait leaves them to the next, which has nothing to read.
    let read = |world: &World| latest_manifests(world).iter().map(|manifest| manifest.next_offset).sum::<u64>();
    run(&|world| read(world) == 600);
    assert!(waiting_files(&world) > 0);
    run(&|world| waiting_files(world) == 0);
    check(&world, &log, "after a while");
}

fn latest_manifests(world: &World) -> Vec<Manifest> {
    let store = world.store();
    (0..2).filter_map(|number| crate::commit::latest(&store, "default", number).unwrap()).collect()
}

#[test]
fn without_merging_few_rows_gather_and_no_file_is_replaced() {
    let log = log(900);
    let manifests = |merge_files: bool| {
        let (world, fuse) = (World::default(), Fuse::never());
        let options = WorkerOptions { merge_files, ..busy_options() };
        let mut worker = worker_with(&world, &log, &fuse, options).unwrap();
        while worker.round().unwrap() != Round::Ended {}
        worker.finish().unwrap();
        check(&world, &log, "once");
        let files = world.store().list("events/default").unwrap();
        let merged = files.iter().filter(|(path, _)| path.contains("-m")).count();
        assert_eq!(merged > 0, merge_files, "{files:?}");
        assert_eq!(world.store().list("_trash").unwrap().is_empty(), !merge_files);
        latest_manifests(&world).iter().map(|manifest| manifest.seq).sum::<u64>()
    };
    let (every_interval, gathered) = (manifests(true), manifests(false));
    assert!(gathered * 4 < every_interval, "{gathered} commits where small ones gather, {every_interval} else");
}

#[test]
fn a_damaged_merge_is_undone() {
    let (world, log) = (World::default(), log(900));
    live_busily(&world, &log, &Fuse::never()).unwrap();
    // Every life ends with merges; all manifests from the last of them on are damaged.
    for number in 0..2 {
        let seqs = chain::seqs(&world.store(), "default", number).unwrap();
        let merge = seqs.iter().rev().find(|&&seq| {
            let (manifest, _) = chain::read(&world.store(), "default", number, seq).unwrap();
            manifest.replaced.iter().any(|path| world.store().get(path).unwrap().is_none())
        });
        for seq in seqs.iter().filter(|&seq| seq >= merge.unwrap()) {
            let path = crate::commit::manifest::manifest_path("default", number, *seq);
            damage(&world, &path, |bytes| bytes.truncate(bytes.len() / 2));
        }
    }
    live_busily(&world, &log, &Fuse::never()).unwrap();
    check(&world, &log, "damaged merge");
}

#[test]
fn what_is_young_or_referred_to_is_not_collected() {
    let (world, log) = (World::default(), log(900));
    let options = WorkerOptions { keep: Duration::from_secs(24 * 3600), ..busy_options() };
    let mut worker = worker_with(&world, &log, &Fuse::never(), options).unwrap();
    while worker.round().unwrap() != Round::Ended {}
    worker.finish().unwrap();
    let store = world.store();
    let young = store.list("_trash").unwrap().len();
    assert!(young > 20, "{young} replaced files");
    let state = store.list("state").unwrap().len();
    assert!(state > 100, "{state} state files");
    let features = "_staging/features/1-0/0.parquet".to_owned();
    store.put(&features, vec![1]).unwrap();
    // The same with a limit that everything has reached: what is referred to stays, which `check` sees.
    log.lock().unwrap()[0].extend(events(20_000, 400));
    live_busily(&world, &log, &Fuse::never()).unwrap();
    check(&world, &log, "collected");
    assert_eq!(store.get(&features).unwrap(), None);
    let (trash, left) = (store.list("_trash").unwrap().len(), store.list("state").unwrap().len());
    assert!(trash < young && left < state, "{trash} of {young} replaced files, {left} of {state} state files");
}
