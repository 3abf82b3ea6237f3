//! State rebuilt from the archive in the place of damaged state, while the worker goes on and may die at any call.

use super::*;
use crate::fakes::Fields;
use plumb_core::entity::EntityKey;

/// What is damaged, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Nothing,
    Online,
    Memory,
    Both,
}

impl Damage {
    fn online(self) -> bool {
        matches!(self, Damage::Online | Damage::Both)
    }

    fn memory(self) -> bool {
        matches!(self, Damage::Memory | Damage::Both)
    }
}

const RESERVED: &[u8] = b"\xff\xff\xff\xff";

/// Rounds until the damage, and from there to the rebuild.
const BEFORE: usize = 9;
const BETWEEN: usize = 3;

fn rebuilt(lane: &Lane, setup: &WorkerSetup, view: &Transform, share: (u64, u64)) -> Rebuilt {
    let manifest = crate::commit::latest(setup.edges.store.as_ref(), "default", lane.number()).unwrap().unwrap();
    let files = crate::commit::load::row_files(setup.edges.store.as_ref(), &manifest).unwrap();
    let newest_us = manifest.newest_event_time_us;
    let mut rebuilt = Rebuilt::new(view.clone(), newest_us, Members::of(share.0, share.1, None));
    let archive = setup.edges.archive.as_ref();
    rebuilt.read_archive(archive, lane.number(), &files, manifest.next_offset, &|| true, &|_| {}).unwrap();
    rebuilt
}

/// Half of the keys lose the older half of their events, in memory.
fn damage_memory(worker: &mut Worker, world: &World) {
    let setup = setup(world, &Fuse::never(), options());
    for lane in &mut worker.lanes {
        for (index, view) in [user_view(), item_view()].into_iter().enumerate() {
            let manifest = crate::commit::latest(&world.store(), "default", lane.number()).unwrap().unwrap();
            let files = crate::commit::load::row_files(&world.store(), &manifest).unwrap();
            let mut wrong = Rebuilt::new(view, lane.partition.newest_us(), Members::of(0, 2, None));
            wrong.built_to = manifest.next_offset / 2;
            let archive = setup.edges.archive.as_ref();
            wrong.read_archive(archive, lane.number(), &files, manifest.next_offset, &|| true, &|_| {}).unwrap();
            for key in wrong.state.key_list() {
                lane.partition.views_mut()[index].state.replace(&key, &wrong.state).unwrap();
            }
        }
    }
}

/// Every third field is gone, every seventh another one's.
fn damage_online(world: &World) {
    let mut online = world.online.lock().unwrap();
    let whole = online.fields.clone();
    let mut other = &Vec::new();
    for (at, (name, value)) in whole.iter().enumerate() {
        if name.3.starts_with(b"\xff\xff\xff\xffcomplete") {
            continue;
        }
        if at % 3 == 0 {
            online.fields.remove(name);
        } else if at % 7 == 0 {
            online.fields.insert(name.clone(), other.clone());
        }
        other = value;
    }
}

/// Rebuilds everything, some keys at a time.
fn materialize(worker: &mut Worker) -> Result<Vec<Replaced>> {
    let setup = worker.setup.clone();
    let mut all = Vec::new();
    for at in 0..worker.lanes.len() {
        // What was accepted before is in the archive then.
        worker.lanes[at].commit_now(&setup)?;
        for view in [user_view(), item_view()] {
            for part in 0..2 {
                let lane = &worker.lanes[at];
                let manifest = crate::commit::latest(setup.edges.store.as_ref(), "default", lane.number())?
                    .ok_or_else(|| Error::internal("nothing is committed"))?;
                let files = crate::commit::load::row_files(setup.edges.store.as_ref(), &manifest)?;
                let mut state = Rebuilt::new(view.clone(), manifest.newest_event_time_us, Members::of(part, 2, None));
                let archive = setup.edges.archive.as_ref();
                state.read_archive(archive, lane.number(), &files, manifest.next_offset, &|| true, &|_| {})?;
                let keys = state.state.key_list();
                let (first, rest) = keys.split_at(keys.len() / 2);
                all.push(worker.lanes[at].replace(&setup, &mut state, first, false)?);
                // Between two pieces the partition goes on.
                worker.round()?;
                all.push(worker.lanes[at].replace(&setup, &mut state, rest, true)?);
            }
        }
    }
    Ok(all)
}

/// A life that is damaged on its way, rebuilds its state if it is to, and goes on to the end.
fn damaged_life(world: &World, log: &Log, fuse: &Arc<Fuse>, damage: Damage, repair: bool) -> Result<Repair> {
    let mut worker = worker(world, log, fuse)?;
    let rounds = |worker: &mut Worker, rounds: usize| -> Result<()> {
        for _ in 0..rounds {
            worker.round()?;
        }
        Ok(())
    };
    rounds(&mut worker, BEFORE)?;
    if damage.memory() {
        damage_memory(&mut worker, world);
    }
    rounds(&mut worker, BETWEEN)?;
    if damage.online() {
        damage_online(world);
    }
    let first = fuse.calls();
    let replaced = if repair { materialize(&mut worker)? } else { Vec::new() };
    let calls = first..fuse.calls();
    while worker.round()? != Round::Ended {
        if fuse.is_dead() {
            return Err(Error::internal("dead"));
        }
    }
    worker.finish()?;
    Ok(Repair { replaced, calls })
}

/// A rebuild in a life.
#[derive(Debug)]
struct Repair {
    replaced: Vec<Replaced>,
    /// The calls of the life that it made.
    calls: std::ops::Range<u64>,
}

/// The fields of each key of a partition and state.
type Keys = BTreeMap<(u32, [u8; 8], Vec<u8>), Vec<(OnlineField, Vec<u8>)>>;

/// What each key has in the online store.
fn by_key(fields: Fields) -> Keys {
    let mut keys: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for ((_, partition, state_id, key, field), value) in fields {
        keys.entry((partition, state_id, key)).or_default().push((field, value));
    }
    keys
}

#[test]
fn rebuilt_state_is_what_an_undisturbed_run_holds() {
    let log = log(400);
    for damage in [Damage::Nothing, Damage::Online, Damage::Memory, Damage::Both] {
        let world = World::default();
        let Repair { replaced, .. } = damaged_life(&world, &log, &Fuse::never(), damage, true).unwrap();
        check(&world, &log, &format!("{damage:?}"));
        assert!(shown_forward(&world));
        assert!(replaced.iter().all(|replaced| replaced.unconfirmed.is_empty()));
        let differing: Vec<&Difference> = replaced.iter().flat_map(|replaced| &replaced.differing).collect();
        assert_eq!(differing.iter().any(|difference| difference.online), damage.online() || damage.memory());
        assert_eq!(differing.iter().any(|difference| difference.in_memory), damage.memory(), "{damage:?}");
        if damage == Damage::Nothing {
            assert!(replaced.iter().all(|replaced| !replaced.reserved_differed));
        }
        // Without it, the damage stays to be seen.
        let world = World::default();
        damaged_life(&world, &log, &Fuse::never(), damage, false).unwrap();
        assert_eq!(world.fields() == expected(&log).fields, damage == Damage::Nothing, "{damage:?}");
    }
}

#[test]
fn a_crash_at_every_call_of_a_rebuild_leaves_each_key_as_it_was_or_right() {
    let log = log(400);
    let right = by_key(expected(&log).fields);
    for damage in [Damage::Online, Damage::Memory] {
        let wrong = {
            let world = World::default();
            damaged_life(&world, &log, &Fuse::never(), damage, false).unwrap();
            by_key(world.fields())
        };
        let calls = damaged_life(&World::default(), &log, &Fuse::never(), damage, true).unwrap().calls;
        assert!(calls.end > calls.start + 30, "{calls:?}");
        // Each takes three lives; a few of them tell, and all of them under PLUMB_TEST_FULL=1.
        let step = if std::env::var_os("PLUMB_TEST_FULL").is_some() { 1 } else { 11 };
        let (mut stayed, mut repaired) = (0, 0);
        for call in calls.clone().step_by(step) {
            let (world, fuse) = (World::default(), Fuse::at(call, call % 2 == 0));
            damaged_life(&world, &log, &fuse, damage, true).unwrap_err();
            live(&world, &log, &Fuse::never()).unwrap();
            let what = format!("{damage:?}, crash at call {call}");
            // The online store shows of each key the one or the other, and that is what is committed.
            for (name, fields) in by_key(world.fields()) {
                if name.2.starts_with(RESERVED) {
                    continue;
                }
                let is_right = right.get(&name) == Some(&fields);
                let is_wrong = wrong.get(&name) == Some(&fields);
                assert!(is_right || is_wrong, "{what}: {name:?}");
                stayed += usize::from(!is_right);
                repaired += usize::from(!is_wrong);
            }
            if damage == Damage::Memory {
                same_as_committed(&world, &what);
            }
            // A rebuild afterwards makes all of it right.
            let mut worker = worker(&world, &log, &Fuse::never()).unwrap();
            while worker.round().unwrap() != Round::Ended {}
            materialize(&mut worker).unwrap();
            while worker.round().unwrap() != Round::Ended {}
            worker.finish().unwrap();
            check(&world, &log, &what);
            assert!(shown_forward(&world), "{what}");
        }
        assert!(stayed > 0 && repaired > 0, "{damage:?}: {stayed} stayed, {repaired} repaired in {calls:?}");
    }
}

/// The online store shows what is committed.
fn same_as_committed(world: &World, what: &str) {
    let fields = world.fields();
    for number in 0..2u32 {
        let manifest = crate::commit::latest(&world.store(), "default", number).unwrap().unwrap();
        let mut recovered = recover(&world.store(), manifest).unwrap();
        for transform in [user_view(), item_view()] {
            let writes = recovered.loaded.contents.states.remove(&transform.state_id()).unwrap();
            let state = ViewState::restore(transform.plan().clone(), writes).unwrap();
            for write in state.snapshot() {
                let field = partition::online_field(write.field);
                let name = ("default".to_owned(), number, transform.state_id().0, write.key.as_bytes().to_vec(), field);
                assert_eq!(fields.get(&name), write.value.as_ref(), "{what}: {name:?}");
            }
        }
    }
}

#[test]
fn stores_that_come_and_go_do_not_spoil_a_rebuild() {
    let log = log(400);
    let calls = damaged_life(&World::default(), &log, &Fuse::never(), Damage::Both, true).unwrap().calls;
    let (mut survived, mut lives) = (0, 0);
    for call in calls.clone().step_by(if std::env::var_os("PLUMB_TEST_FULL").is_some() { 1 } else { 5 }) {
        let (world, fuse) = (World::default(), Fuse::losing_answer(call));
        lives += 1;
        let lived = (|| {
            let mut worker = worker_with(&world, &log, &fuse, WorkerOptions { commit_aside: true, ..options() })?;
            for _ in 0..BEFORE {
                worker.round()?;
            }
            damage_memory(&mut worker, &world);
            for _ in 0..BETWEEN {
                worker.round()?;
            }
            damage_online(&world);
            // As whoever asks does: once more where a store was away.
            let mut tries = 0;
            while let Err(error) = materialize(&mut worker) {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                tries += 1;
                assert!(tries < 5_000, "{error}");
                worker.round()?;
            }
            while worker.round()? != Round::Ended {}
            worker.finish()
        })();
        match lived {
            Ok(()) => {
                survived += 1;
                check(&world, &log, &format!("lost answer of call {call}"));
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
        }
    }
    assert!(survived * 2 > lives, "{survived} of {lives}");
}

#[test]
fn a_zombie_replaces_nothing() {
    let (world, log) = (World::default(), log(400));
    let mut old = worker(&world, &log, &Fuse::never()).unwrap();
    for _ in 0..BEFORE {
        old.round().unwrap();
    }
    let mut new = worker(&world, &log, &Fuse::never()).unwrap();
    damage_online(&world);
    let before = world.fields();
    let refused = materialize(&mut old).unwrap_err();
    assert!(matches!(refused, Error::Fenced { .. }), "{refused}");
    assert!(world.fields() == before);
    materialize(&mut new).unwrap();
    while new.round().unwrap() != Round::Ended {}
    new.finish().unwrap();
    check(&world, &log, "after a zombie");
}

#[test]
fn only_the_keys_that_were_asked_for_are_touched() {
    let (world, log) = (World::default(), log(400));
    let mut worker = worker(&world, &log, &Fuse::never()).unwrap();
    while worker.round().unwrap() != Round::Ended {}
    let setup = worker.setup.clone();
    damage_online(&world);
    let before = by_key(world.fields());
    let view = user_view();
    let keys = BTreeSet::from([EntityKey::from_parts(&["u1"]), EntityKey::from_parts(&["u3"])]);
    let mut state = rebuilt(&worker.lanes[0], &setup, &view, (0, 1));
    let asked: Vec<EntityKey> = keys.iter().cloned().collect();
    let replaced = worker.lanes[0].replace(&setup, &mut state, &asked, false).unwrap();
    assert!(replaced.differing.iter().all(|difference| keys.contains(&difference.key) && !difference.in_memory));
    assert!(!replaced.differing.is_empty());
    let right = by_key(expected(&log).fields);
    for (name, fields) in by_key(world.fields()) {
        let is_asked = name.0 == 0 && name.1 == view.state_id().0 && keys.contains(&EntityKey::from_bytes(&name.2));
        let wanted = if is_asked { &right } else { &before };
        assert_eq!(wanted.get(&name), Some(&fields), "{name:?}");
    }
}
