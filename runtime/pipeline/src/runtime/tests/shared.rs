//! Several processes share a log: whatever becomes of them, the archive has each event once and the online store is
//! what one process alone would have made of it.

use super::*;
use crate::commit::{committed_files, latest};
use crate::fakes::{Seat, seat};
use crate::port::ObjectStore as _;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Far more than anything here takes; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

struct Process {
    runtime: Option<Runtime>,
    seat: Seat,
    /// Its sight of the offline and of the online store.
    store: Arc<Fuse>,
    online: Arc<Fuse>,
}

/// A job of several processes, and who works on what.
struct Shared {
    world: World,
    log: Log,
    components: Vec<Vec<u8>>,
    start: u64,
    oldest: u64,
    processes: Vec<Process>,
    owners: BTreeMap<u32, usize>,
}

fn wait(what: &str, mut until: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !until() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

impl Shared {
    fn new(processes: usize, partitions: u32) -> Self {
        let log = (0..partitions).map(|number| events(u64::from(number) * 10_000, 60)).collect();
        let mut job = Self {
            world: World::default(),
            log: Arc::new(Mutex::new(log)),
            components: vec![users("1.0.0", 2), items()],
            start: 0,
            oldest: 0,
            processes: Vec::new(),
            owners: BTreeMap::new(),
        };
        for _ in 0..processes {
            let process = job.process();
            job.processes.push(process);
        }
        (0..partitions).for_each(|number| job.give(number, number as usize % processes));
        job
    }

    fn process(&self) -> Process {
        let (seat, membership) = seat();
        let mut source = FakeSource::of(&self.log, false);
        (source.start, source.oldest) = (self.start, self.oldest);
        source.membership = Mutex::new(Some(membership));
        let (store, online) = (Fuse::never(), Fuse::never());
        let edges = self.world.edges_apart(&store, &online);
        let mut parts = parts(&self.world, &self.log, &store, false);
        (parts.store, parts.archive, parts.online) = (edges.store, edges.archive, edges.online);
        let mut setup = source.setup_with();
        setup.dead_letters = Some(Arc::new(self.world.clone()));
        parts.sources = vec![setup];
        let mut options = options(false);
        options.worker.leave_within = Duration::from_secs(2);
        options.worker.keep_replaced = Duration::from_millis(50);
        let runtime = Runtime::start(parts, options, &self.components).unwrap();
        Process { runtime: Some(runtime), seat, store, online }
    }

    fn give(&mut self, partition: u32, to: usize) {
        self.processes[to].seat.assign(&[partition]);
        self.owners.insert(partition, to);
    }

    /// As a group does when all members are well.
    fn move_to(&mut self, partition: u32, to: usize) {
        let from = self.owners[&partition];
        let released = self.processes[from].seat.revoke(&[partition]);
        wait("a release", || released.try_recv().is_ok() || self.failed(from));
        self.give(partition, to);
        self.mend();
    }

    /// As a group does when it takes a member for dead that is not.
    fn steal(&mut self, partition: u32, to: usize) {
        let from = self.owners[&partition];
        self.give(partition, to);
        if from != to {
            self.processes[from].seat.lose(&[partition]);
        }
        self.mend();
    }

    fn crash(&mut self, index: usize, heir: usize) {
        self.processes[index].runtime.take().unwrap().abandon();
        self.restart(index, heir);
    }

    fn leave(&mut self, index: usize, heir: usize) {
        let stopped = self.processes[index].runtime.take().unwrap().stop();
        assert!(stopped.is_err() || self.processes[index].seat.left.load(Ordering::SeqCst));
        self.restart(index, heir);
    }

    fn restart(&mut self, index: usize, heir: usize) {
        let owned = self.owned(index);
        self.processes[index] = self.process();
        owned.into_iter().for_each(|partition| self.give(partition, heir));
    }

    fn owned(&self, index: usize) -> Vec<u32> {
        self.owners.iter().filter(|(_, owner)| **owner == index).map(|(&partition, _)| partition).collect()
    }

    fn failed(&self, index: usize) -> bool {
        self.processes[index].runtime.as_ref().is_none_or(|runtime| runtime.status().failure.is_some())
    }

    /// Starts processes again that were fenced; any other failure is the test's.
    fn mend(&mut self) {
        for index in 0..self.processes.len() {
            if self.failed(index) {
                let error = self.processes[index].runtime.take().unwrap().stop().unwrap_err();
                assert!(matches!(error, Error::Fenced { .. }), "{error}");
                self.restart(index, index);
            }
        }
    }

    fn append(&self, partition: u32, records: u64) {
        let mut log = self.log.lock().unwrap();
        let log = &mut log[partition as usize];
        let first = u64::from(partition) * 10_000 + log.len() as u64;
        log.extend(events(first, records));
        // The log uses an offset for itself.
        log.push(Vec::new());
    }

    fn shared_job(&self) -> SharedJob {
        let chain = Arc::new(Mutex::new(JobChain::open(Arc::new(self.world.store())).unwrap()));
        let parts = parts(&self.world, &self.log, &Fuse::never(), false);
        SharedJob { parts, chain }
    }

    /// As a process does that dies before it has waited for the end of its deployment.
    fn announce(&self, component: &[u8]) {
        let job = self.shared_job();
        let transform = views::bind(&job.parts, component).unwrap();
        put_component(job.parts.store.as_ref(), &transform.digest().to_string(), component).unwrap();
        job.announce(&transform).unwrap();
    }

    /// Waits until every deployment is done and nothing is left of what was before. A process may learn only from a
    /// deployment's first write that it was fenced.
    fn follow_job(&mut self) {
        let job = self.shared_job();
        wait("the deployments", || {
            self.mend();
            job.latest().unwrap().incoming.is_empty()
        });
        let active = job.latest().unwrap().active;
        self.components =
            active.iter().map(|view| read_component(job.parts.store.as_ref(), &view.view.digest).unwrap()).collect();
        let digests: Vec<String> = active.iter().map(|view| view.view.digest.clone()).collect();
        wait("all processes to follow", || {
            self.mend();
            self.processes.iter().all(|process| {
                let active = process.runtime.as_ref().unwrap().active_views();
                active.iter().map(|view| view.transform.digest().to_string()).eq(digests.iter().cloned())
            })
        });
        let ids: Vec<_> = active.iter().map(|view| view.view.state_id().unwrap().0).collect();
        wait("old state to go", || {
            self.mend();
            self.world.fields().keys().all(|(_, _, id, _, _)| ids.contains(id))
        });
    }

    /// Every dead letter of the archive was sent, and no other.
    fn check_letters(&self) {
        let store = self.world.store();
        let mut archived: BTreeSet<(u32, String)> = BTreeSet::new();
        for (path, _) in store.list("dead_letters/default").unwrap() {
            let partition: u32 = path.rsplit('/').next().unwrap().split('-').next().unwrap().parse().unwrap();
            let bytes = store.get(&path).unwrap().unwrap();
            let lines = String::from_utf8(bytes).unwrap();
            archived.extend(lines.lines().map(|line| (partition, line.to_owned())));
        }
        let sent = self.world.sent.lock().unwrap();
        let line = |letter: &crate::port::DeadLetter| {
            format!("{} {} {}", letter.offset, letter.view.as_deref().unwrap_or("-"), letter.reason)
        };
        let sent: BTreeSet<(u32, String)> = sent.iter().map(|(number, letter)| (*number, line(letter))).collect();
        assert!(!sent.is_empty());
        assert_eq!(sent, archived);
    }

    /// The online store loses everything, fences included.
    fn empty_online(&self) {
        let mut online = self.world.online.lock().unwrap();
        online.fields.clear();
        online.fences.clear();
    }

    /// Waits until all is published by whoever works on it.
    fn check_published(&mut self) {
        let ends: Vec<u64> = self.log.lock().unwrap().iter().map(|log| log.len() as u64).collect();
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.mend();
            let fences = self.world.online.lock().unwrap().fences.clone();
            let shown = |number: usize| fences.get(&("default".to_owned(), number as u32)).and_then(|fence| fence.1);
            let live = |(&partition, &owner): (&u32, &usize)| {
                let status = self.processes[owner].runtime.as_ref().unwrap().status();
                status.partitions.iter().any(|one| one.partition == partition && one.phase == Phase::Live)
            };
            if (0..ends.len()).all(|number| shown(number) == Some(ends[number])) && self.owners.iter().all(live) {
                break;
            }
            assert!(Instant::now() < deadline, "shown {fences:?} of {ends:?}");
            std::thread::yield_now();
        }
    }

    /// Waits until all is published by whoever works on it, ends all processes and looks at what is there.
    fn check(&mut self) {
        for process in &self.processes {
            process.store.set_away(false);
            process.online.set_away(false);
        }
        self.check_published();
        let ends: Vec<u64> = self.log.lock().unwrap().iter().map(|log| log.len() as u64).collect();
        self.follow_job();
        for process in &self.processes {
            let runtime = process.runtime.as_ref().unwrap();
            wait("readiness", || runtime.active_views().iter().all(|view| view.ready.is_ready()));
            wait("the roster", || runtime.roster().of("default").len() == ends.len());
            assert_shown(&self.world, runtime, &self.log, &self.components);
        }
        for process in &mut self.processes {
            process.runtime.take().unwrap().stop().unwrap();
        }
        let (found, accepted) = (self.world.globbed_ids("default"), accepted_ids(&self.log.lock().unwrap()));
        let without = |a: &[String], b: &[String]| a.iter().filter(|id| !b.contains(id)).cloned().collect::<Vec<_>>();
        let (missing, more) = (without(&accepted, &found), without(&found, &accepted));
        assert!(missing.is_empty() && more.is_empty(), "missing {missing:?}, not accepted {more:?}");
        assert_eq!(found, accepted);
        self.check_letters();
        let store = self.world.store();
        let named: BTreeSet<String> =
            committed_files(&store, "default").unwrap().into_iter().map(|(_, file)| file.path).collect();
        let globbed: BTreeSet<String> =
            store.list("events/default").unwrap().into_iter().map(|(path, _)| path).collect();
        assert_eq!(named, globbed);
        for (number, &end) in ends.iter().enumerate() {
            let manifest = latest(&store, "default", number as u32).unwrap().unwrap();
            assert_eq!(manifest.next_offset, end);
        }
    }
}

/// The accepted set by the plainest rule there is: per partition the first of each id that is an event in bounds.
fn accepted_ids(log: &[Vec<Vec<u8>>]) -> Vec<String> {
    let mut ids = Vec::new();
    for records in log {
        let mut seen = BTreeSet::new();
        for (offset, record) in records.iter().enumerate() {
            let Ok(event) = serde_json::from_slice::<serde_json::Value>(record) else { continue };
            if event["event_time"] == 1 {
                continue;
            }
            match event["event_id"].as_str() {
                Some(id) if !seen.insert(id.to_owned()) => {}
                Some(id) => ids.push(id.to_owned()),
                None => ids.push(format!("without an id at {offset}")),
            }
        }
    }
    ids.sort();
    ids
}

#[test]
fn partitions_move_between_processes_with_everything_committed() {
    let mut job = Shared::new(2, 3);
    for round in 0..6u32 {
        job.append(round % 3, 40);
        job.move_to(round % 3, (round as usize + 1) % 2);
    }
    // A release says how far it has come, to whoever shows lag.
    wait("a commit to be noted", || {
        job.processes.iter().any(|process| !process.seat.committed.lock().unwrap().is_empty())
    });
    job.check();
}

#[test]
fn a_stolen_partition_is_not_written_by_its_old_owner() {
    let mut job = Shared::new(2, 2);
    for round in 0..6u32 {
        job.append(round % 2, 40);
        job.steal(round % 2, (round as usize + 1) % 2);
    }
    job.check();
}

#[test]
fn a_new_partition_counts_as_soon_as_it_shows_something() {
    let mut job = Shared::new(2, 2);
    let runtime = |job: &Shared| job.processes[0].runtime.as_ref().unwrap().roster();
    wait("the first two", || runtime(&job).of("default") == [0, 1]);
    wait("readiness", || {
        let active = job.processes[0].runtime.as_ref().unwrap().active_views();
        active.iter().all(|view| view.ready.is_ready())
    });
    job.log.lock().unwrap().push(events(20_000, 50));
    job.give(2, 1);
    // Nobody has been told that there is a third one; the process that has it is told by the group.
    wait("the third", || runtime(&job).of("default") == [0, 1, 2]);
    job.check();
}

#[test]
fn a_job_begins_where_its_source_says_and_stays_there() {
    let mut job = Shared::new(1, 1);
    job.processes[0].runtime.take().unwrap().abandon();
    (job.world, job.start) = (World::default(), 25);
    job.restart(0, 0);
    wait("all to be shown", || {
        job.world.online.lock().unwrap().fences.get(&("default".to_owned(), 0)).is_some_and(|fence| fence.1 == Some(60))
    });
    let manifest = |job: &Shared| latest(&job.world.store(), "default", 0).unwrap().unwrap();
    assert_eq!(manifest(&job).start_offset, 25);
    // The next process may be told otherwise; the job has begun.
    job.start = 0;
    job.leave(0, 0);
    wait("the partition to be open", || {
        job.processes[0].runtime.as_ref().unwrap().status().partitions.iter().any(|status| status.phase == Phase::Live)
    });
    job.processes[0].runtime.take().unwrap().stop().unwrap();
    let manifest = manifest(&job);
    assert_eq!((manifest.start_offset, manifest.next_offset, manifest.accounting.read), (25, 60, 35));
    let log = vec![vec![Vec::new(); 25].into_iter().chain(events(25, 35)).collect()];
    assert_eq!(job.world.globbed_ids("default"), accepted_ids(&log));
}

#[test]
fn records_that_are_gone_are_passed_over_and_written_down() {
    let mut job = Shared::new(1, 1);
    wait("all to be shown", || {
        job.world.online.lock().unwrap().fences.get(&("default".to_owned(), 0)).is_some_and(|fence| fence.1 == Some(60))
    });
    job.processes[0].runtime.take().unwrap().stop().unwrap();
    job.append(0, 50);
    job.oldest = 80;
    job.restart(0, 0);
    // What the log no longer has can be told from it as records that are none.
    job.log.lock().unwrap()[0][60..80].iter_mut().for_each(Vec::clear);
    job.check();
    let manifest = latest(&job.world.store(), "default", 0).unwrap().unwrap();
    assert_eq!(manifest.gaps, [crate::port::Gap { from: 60, to: 80 }]);
    assert_eq!(manifest.accounting.read, 60 + 30);
}

#[test]
fn a_store_that_is_emptied_while_nothing_happens_is_noticed_and_rebuilt() {
    let mut job = Shared::new(2, 2);
    let shown = |job: &Shared| {
        let online = job.world.online.lock().unwrap();
        (0..2).all(|number| online.fences.get(&("default".to_owned(), number)).is_some_and(|fence| fence.1 == Some(60)))
    };
    wait("all to be shown", || shown(&job));
    job.empty_online();
    wait("all to be shown again", || shown(&job));
    job.check();
}

#[test]
fn a_store_that_is_away_makes_reading_wait_at_the_bound_and_nothing_is_lost() {
    let mut job = Shared::new(1, 2);
    wait("readiness", || {
        let runtime = job.processes[0].runtime.as_ref().unwrap();
        runtime.status().partitions.len() == 2
            && runtime.status().partitions.iter().all(|status| status.published == Some(60))
    });
    job.processes[0].runtime.take().unwrap().stop().unwrap();
    // Less than what is to come takes.
    let (seat, membership) = seat();
    let mut source = FakeSource::of(&job.log, false);
    source.membership = Mutex::new(Some(membership));
    let (store, online) = (Fuse::never(), Fuse::never());
    let edges = job.world.edges_apart(&store, &online);
    let mut parts = parts(&job.world, &job.log, &store, false);
    (parts.store, parts.archive, parts.online) = (edges.store, edges.archive, edges.online);
    let mut setup = source.setup_with();
    setup.dead_letters = Some(Arc::new(job.world.clone()));
    parts.sources = vec![setup];
    let mut options = options(false);
    (options.worker.commit_bytes, options.worker.max_uncommitted_bytes) = (8 << 10, 40 << 10);
    let runtime = Runtime::start(parts, options, &job.components).unwrap();
    job.processes[0] = Process { runtime: Some(runtime), seat, store, online };
    job.give(0, 0);
    job.give(1, 0);
    wait("both to be open", || {
        let status = job.processes[0].runtime.as_ref().unwrap().status();
        status.partitions.iter().filter(|status| status.phase == Phase::Live).count() == 2
    });
    job.processes[0].store.set_away(true);
    (0..2).for_each(|number| job.append(number, 2_000));
    let board = job.processes[0].runtime.as_ref().unwrap().board();
    wait("the bound", || {
        assert_eq!(board.failure(), None);
        board.uncommitted_bytes() >= 40 << 10
    });
    let bytes = board.uncommitted_bytes();
    assert!(bytes < 80 << 10, "{bytes}");
    // What was read is shown all the same.
    let status = board.partitions();
    assert!(status.iter().all(|status| status.position < 2_000));
    wait("all that was read to be shown", || {
        board.partitions().iter().all(|status| status.published == Some(status.position))
    });
    job.check();
}

#[test]
fn a_view_is_deployed_in_all_processes_and_taken_back() {
    let mut job = Shared::new(3, 4);
    let next = users("1.1.0", 5);
    let ready = |job: &Shared| {
        job.processes.iter().all(|process| {
            let active = process.runtime.as_ref().unwrap().active_views();
            active.len() == 2 && active.iter().all(|view| view.ready.is_ready())
        })
    };
    wait("readiness", || ready(&job));
    job.append(0, 50);
    let deployed = job.processes[0].runtime.as_ref().unwrap().deploy(&next, false).unwrap();
    assert!(matches!(&deployed.outcome, Deployment::Replaced(old) if old.def().version.to_string() == "1.0.0"));
    // A process that comes now finds it, and one that knows only the version before leaves it alone.
    job.leave(1, 2);
    job.append(1, 50);
    let again = job.processes[2].runtime.as_ref().unwrap();
    wait("the other process to follow", || again.active_version("user_activity").unwrap().def().version.minor == 1);
    assert!(matches!(again.deploy(&next, false).unwrap().outcome, Deployment::Unchanged));
    let error = again.deploy(&users("1.0.0", 9), false).unwrap_err();
    assert!(error.to_string().contains("--replace"), "{error}");
    job.follow_job();
    assert_eq!(job.components, [items(), next.clone()]);
    let back = job.processes[2].runtime.as_ref().unwrap().rollback("user_activity").unwrap();
    assert_eq!(back.transform.def().version.to_string(), "1.0.0");
    job.processes[1].runtime.as_ref().unwrap().retire("item_activity").unwrap();
    job.append(2, 50);
    job.follow_job();
    assert_eq!(job.components, [users("1.0.0", 2)]);
    job.check();
}

#[test]
fn a_deployment_whose_process_has_died_is_finished_by_the_others() {
    let mut job = Shared::new(2, 2);
    job.announce(&users("1.1.0", 5));
    job.crash(0, 1);
    job.check();
    assert_eq!(job.components, [items(), users("1.1.0", 5)]);
}

#[test]
fn a_deployment_is_done_though_an_owner_learns_only_then_that_it_was_fenced() {
    let mut job = Shared::new(2, 2);
    job.check_published();
    // A group that changes its mind: the partition is opened elsewhere, and nothing is written that would tell its owner.
    job.processes[1].seat.assign(&[0]);
    let opened = |process: &Process| {
        let status = process.runtime.as_ref().unwrap().status();
        status.partitions.iter().any(|one| one.partition == 0 && one.phase == Phase::Live)
    };
    wait("the other to open it", || opened(&job.processes[1]));
    job.processes[1].seat.lose(&[0]);
    wait("the other to lose it", || !opened(&job.processes[1]));
    job.announce(&users("1.1.0", 5));
    job.check();
    assert_eq!(job.components, [items(), users("1.1.0", 5)]);
}

#[derive(Debug, Clone)]
enum Step {
    Append(u32, u64),
    Move(u32, usize),
    Steal(u32, usize),
    Crash(usize, usize),
    Leave(usize, usize),
    StoreAway(usize, bool),
    OnlineAway(usize, bool),
    EmptyOnline,
    Announce(i64),
}

const PROCESSES: usize = 3;
const PARTITIONS: u32 = 4;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..PARTITIONS, 1u64..60).prop_map(|(partition, records)| Step::Append(partition, records)),
        3 => (0..PARTITIONS, 0..PROCESSES).prop_map(|(partition, to)| Step::Move(partition, to)),
        2 => (0..PARTITIONS, 0..PROCESSES).prop_map(|(partition, to)| Step::Steal(partition, to)),
        1 => (0..PROCESSES, 0..PROCESSES).prop_map(|(index, heir)| Step::Crash(index, heir)),
        1 => (0..PROCESSES, 0..PROCESSES).prop_map(|(index, heir)| Step::Leave(index, heir)),
        1 => (0..PROCESSES, any::<bool>()).prop_map(|(index, away)| Step::StoreAway(index, away)),
        1 => (0..PROCESSES, any::<bool>()).prop_map(|(index, away)| Step::OnlineAway(index, away)),
        1 => Just(Step::EmptyOnline),
        1 => (1i64..4).prop_map(Step::Announce),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_schedule_leaves_what_one_process_would(steps in prop::collection::vec(step(), 1..14)) {
        let mut job = Shared::new(PROCESSES, PARTITIONS);
        for step in steps {
            job.mend();
            match step {
                Step::Append(partition, records) => job.append(partition, records),
                Step::Move(partition, to) => job.move_to(partition, to),
                Step::Steal(partition, to) => job.steal(partition, to),
                Step::Crash(index, heir) => job.crash(index, heir),
                Step::Leave(index, heir) => job.leave(index, heir),
                Step::StoreAway(index, away) => job.processes[index].store.set_away(away),
                Step::OnlineAway(index, away) => job.processes[index].online.set_away(away),
                Step::EmptyOnline => job.empty_online(),
                Step::Announce(minor) => job.announce(&users(&format!("1.{minor}.0"), 2 + minor)),
            }
        }
        job.check();
    }
}

/// Waits until all there is is published and every view answers.
fn settle(job: &Shared) {
    let ready = || {
        let view_is_ready = |process: &Process| {
            let active = process.runtime.as_ref().unwrap().active_views();
            active.len() == 2 && active.iter().all(|view| view.ready.is_ready())
        };
        job.processes.iter().all(view_is_ready)
    };
    let published = || {
        let ends: Vec<u64> = job.log.lock().unwrap().iter().map(|log| log.len() as u64).collect();
        let fences = job.world.online.lock().unwrap().fences.clone();
        ends.iter().enumerate().all(|(number, &end)| {
            fences.get(&("default".to_owned(), number as u32)).is_some_and(|fence| fence.1 == Some(end))
        })
    };
    wait("readiness", || ready() && published());
}

/// Every third field of an entity is gone from the online store.
fn damage(job: &Shared) -> usize {
    let mut online = job.world.online.lock().unwrap();
    let names: Vec<_> = online.fields.keys().filter(|name| !name.3.starts_with(b"\xff\xff\xff\xff")).cloned().collect();
    let gone = names.iter().step_by(3).map(|name| online.fields.remove(name)).filter(Option::is_some).count();
    assert!(gone > 3, "{gone}");
    gone
}

fn everything() -> Materialize {
    Materialize { from_us: None, to_us: None, threads: 2, memory_bytes: 1 << 30 }
}

/// Waits for the end of a rebuild that was asked of a process.
fn rebuilt(asked: &MaterializeShared) -> Materialized {
    wait("the rebuild", || asked.status().unwrap().phase != MaterializePhase::Running);
    match asked.status().unwrap().phase {
        MaterializePhase::Done(done) => done,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_process_rebuilds_the_state_of_its_partitions() {
    let mut job = Shared::new(2, 3);
    settle(&job);
    let whole = job.world.fields();
    damage(&job);
    // A process that runs none of it asks, as does one that does.
    let asked = MaterializeShared::new(Arc::new(job.world.store()));
    asked.begin(everything()).unwrap();
    assert!(asked.begin(everything()).is_err(), "one at a time");
    let done = rebuilt(&asked);
    assert!(done.is_right(), "{done:?}");
    assert_eq!(done.position, "default:0=60,1=60,2=60");
    assert!(done.views.iter().all(|view| view.changed_online > 0 && view.changed_in_memory == 0), "{done:?}");
    assert!(job.world.fields() == whole);
    let runtime = job.processes[1].runtime.as_ref().unwrap();
    runtime.materialize(everything()).unwrap();
    wait("the rebuild", || runtime.materializing().unwrap().phase != MaterializePhase::Running);
    let MaterializePhase::Done(done) = runtime.materializing().unwrap().phase else { panic!("it failed") };
    assert!(done.views.iter().all(|view| view.changed == 0 && view.states > 0), "{done:?}");
    // Nothing of it is left in the store, nor asked for.
    assert!(job.world.store().list("rebuild").unwrap().is_empty());
    assert_eq!(job.shared_job().latest().unwrap().rebuild, None);
    job.check();
}

#[test]
fn partitions_that_move_and_processes_that_die_during_a_rebuild_are_rebuilt_by_their_heirs() {
    for round in 0..6usize {
        let mut job = Shared::new(2, 3);
        settle(&job);
        damage(&job);
        let asked = MaterializeShared::new(Arc::new(job.world.store()));
        asked.begin(everything()).unwrap();
        match round % 3 {
            0 => job.crash(0, 1),
            1 => job.move_to(1, 0),
            _ => job.steal(0, 1),
        }
        for partition in 0..3 {
            job.append(partition, 20);
        }
        wait("the rebuild", || {
            job.mend();
            asked.status().unwrap().phase != MaterializePhase::Running
        });
        let done = rebuilt(&asked);
        assert!(done.is_right(), "{round}: {done:?}");
        job.check();
    }
}

#[test]
fn a_rebuild_that_is_given_up_is_not_asked_for_any_more() {
    let mut job = Shared::new(1, 1);
    settle(&job);
    let asked = MaterializeShared::new(Arc::new(job.world.store()));
    // Nobody can do it.
    job.processes[0].store.set_away(true);
    asked.begin(everything()).unwrap();
    wait("the request", || job.shared_job().latest().unwrap().rebuild.is_some());
    asked.stop();
    wait("the end", || asked.status().unwrap().phase != MaterializePhase::Running);
    assert!(matches!(asked.status().unwrap().phase, MaterializePhase::Failed { stopped: true, .. }));
    assert_eq!(job.shared_job().latest().unwrap().rebuild, None);
    // Another one takes the place of one whose asker has died.
    let (first, second) = (MaterializeShared::new(Arc::new(job.world.store())), asked);
    first.begin(everything()).unwrap();
    wait("the request", || job.shared_job().latest().unwrap().rebuild.is_some());
    second.begin(everything()).unwrap();
    wait("the first to give up", || first.status().unwrap().phase != MaterializePhase::Running);
    assert!(matches!(first.status().unwrap().phase, MaterializePhase::Failed { unavailable: true, .. }));
    job.processes[0].store.set_away(false);
    assert!(rebuilt(&second).is_right());
    job.check();
}
