//! Snapshots against their definition, which knows nothing of commits, looks and crashes: of each partition an instant
//! sees what came up to the first event that passes it by the allowed lateness.

use super::*;
use crate::accept::Accounting;
use crate::clock::Clock;
use crate::commit::{CommitPlan, Committer};
use crate::fakes::{FakeSource, Fuse, World};
use crate::offline::backfill::backfill;
use crate::port::Scratch;
use crate::query::Position;
use crate::runtime::Readiness;
use plumb_core::column::{Column, DataType};
use plumb_core::contribution::Contributions;
use plumb_core::entity::EntityDef;
use plumb_core::event::SourceSchema;
use plumb_core::time::{HOUR_US, MINUTE_US};
use plumb_core::view::{AggregateDef, FeatureDef, FieldUse, Operator, SlotDef, SlotType, ViewDef, WindowSpec};
use plumb_transform::{Fault, Guest, GuestOutput};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::sync::Mutex;

/// 2024-01-01.
const BEGIN_US: i64 = 1_704_067_200_000_000;
const LATENESS_US: i64 = HOUR_US;
const WINDOW_US: i64 = 30 * HOUR_US;

/// Marks every event and passes its quantity on.
struct Counting;

impl Guest for Counting {
    fn extract(&self, rows: usize, columns: &[&Column]) -> Result<GuestOutput<Contributions>, Fault> {
        let mut marks = Column::new(&DataType::Bool);
        (0..rows).for_each(|_| marks.push_bool(true));
        let value = Contributions { rows: (0..rows as u32).collect(), slots: vec![marks, columns[0].clone()] };
        Ok(GuestOutput { value, errors: Vec::new() })
    }

    fn finalize(&self, _: &[i64], aggregates: &[Column]) -> Result<GuestOutput<Vec<Column>>, Fault> {
        Ok(GuestOutput { value: aggregates.to_vec(), errors: Vec::new() })
    }
}

/// Counts a user's events and sums their quantities, ever or in a window.
fn view(name: &str, window: WindowSpec) -> Transform {
    let aggregates = [("count", Operator::Count, 0, DataType::I64), ("sum", Operator::Sum, 1, DataType::F64)];
    let def = ViewDef {
        name: name.into(),
        version: semver::Version::new(1, 0, 0),
        entity: EntityDef { name: "user".into(), key: vec!["user_id".into()] },
        source: "default".into(),
        description: String::new(),
        owner: String::new(),
        team: String::new(),
        tags: Vec::new(),
        ttl_us: None,
        freshness_us: None,
        fields: vec![FieldUse { name: "quantity".into(), data_type: DataType::I64, required: false }],
        slots: vec![
            SlotDef { name: "any".into(), slot_type: SlotType::Mark },
            SlotDef { name: "quantity".into(), slot_type: SlotType::I64 },
        ],
        aggregates: aggregates
            .iter()
            .map(|&(name, operator, slot, _)| AggregateDef { name: name.into(), operator, slot, window })
            .collect(),
        features: aggregates
            .iter()
            .enumerate()
            .map(|(index, (name, .., data_type))| FeatureDef {
                name: (*name).into(),
                data_type: data_type.clone(),
                description: String::new(),
                aggregates: vec![index],
            })
            .collect(),
    };
    Transform::native(def, Arc::new(Counting), &Arc::new(SourceSchema::default_schema()), LATENESS_US).unwrap()
}

fn views() -> Vec<Transform> {
    vec![view("ever", WindowSpec::Lifetime), view("lately", WindowSpec::Sliding { width_us: WINDOW_US, hop_us: None })]
}

#[derive(Debug, Clone, Copy)]
struct Event {
    time_us: i64,
    user: u8,
    quantity: i64,
}

/// The logs of the partitions.
type Logs = Vec<Vec<Event>>;

fn batch(events: &[Event], first: usize) -> EventBatch {
    let mut batch = EventBatch::new(Arc::new(SourceSchema::default_schema()));
    for (index, event) in events.iter().enumerate() {
        batch.offsets.push((first + index) as u64);
        batch.record_times_us.push(BEGIN_US);
        batch.times_us.push(event.time_us);
        batch.columns[1].push_bytes(format!("u{}", event.user).as_bytes());
        batch.columns[3].push_bytes(b"view");
        batch.columns[6].push_i64(event.quantity);
        [0, 2, 4, 5, 7, 8].into_iter().for_each(|column| batch.columns[column].push_null());
    }
    batch
}

/// What is kept of snapshots, by view and date.
type Kept = Arc<Mutex<BTreeMap<(String, i64), (SnapshotDate, Vec<SnapshotRows>)>>>;

/// Snapshots in memory.
struct FakeSinks {
    kept: Kept,
    fuse: Arc<Fuse>,
}

impl SnapshotSinks for FakeSinks {
    fn open(&self) -> Box<dyn SnapshotSink> {
        Box::new(FakeSink { kept: self.kept.clone(), fuse: self.fuse.clone(), open: BTreeMap::new() })
    }
}

struct FakeSink {
    kept: Kept,
    fuse: Arc<Fuse>,
    open: BTreeMap<(String, i64), Vec<SnapshotRows>>,
}

impl SnapshotSink for FakeSink {
    fn dates(&mut self, view: &SnapshotView) -> Result<BTreeMap<i64, Option<SnapshotDate>>> {
        self.fuse.call(|| {
            let kept = self.kept.lock().unwrap();
            let of_view = kept.iter().filter(|((name, _), _)| *name == view.view);
            Ok(of_view.map(|((_, day_us), (date, _))| (*day_us, Some(date.clone()))).collect())
        })
    }

    fn write(&mut self, view: &SnapshotView, rows: &SnapshotRows) -> Result<()> {
        self.open.entry((view.view.clone(), rows.day_us)).or_default().push(rows.clone());
        Ok(())
    }

    fn complete(&mut self, view: &SnapshotView, day_us: i64, date: &SnapshotDate) -> Result<()> {
        let key = (view.view.clone(), day_us);
        let rows = self.open.remove(&key).unwrap_or_default();
        self.fuse.call(|| {
            self.kept.lock().unwrap().insert(key, (date.clone(), rows));
            Ok(())
        })
    }

    fn remove(&mut self, view: &SnapshotView, day_us: i64) -> Result<()> {
        self.kept.lock().unwrap().remove(&(view.view.clone(), day_us));
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        assert!(self.open.is_empty(), "rows of a date that was never completed");
        Ok(())
    }
}

#[derive(Debug)]
struct NoScratch;

impl ScratchFolder for NoScratch {
    fn create(&self) -> Result<Box<dyn Scratch>> {
        Err(Error::internal("so few events need no disk"))
    }
}

/// A job whose partitions are committed up to somewhere.
struct Job {
    world: World,
    kept: Kept,
    logs: Logs,
    committed: Vec<usize>,
    every: Every,
    views: Vec<Transform>,
    ended: bool,
    memory: Memory,
    /// What the process's clock shows.
    elapsed: Duration,
    /// How many records each partition has read beyond what is committed.
    ahead: u64,
}

/// A clock that stands.
struct FakeClock(Duration);

impl Clock for FakeClock {
    fn now_us(&self) -> i64 {
        BEGIN_US
    }

    fn elapsed(&self) -> Duration {
        self.0
    }
}

impl Job {
    fn new(logs: Logs, every: Every) -> Self {
        let committed = vec![0; logs.len()];
        let (world, kept, memory) = (World::default(), Kept::default(), Memory::default());
        let elapsed = Duration::ZERO;
        Self { world, kept, logs, committed, every, views: views(), ended: false, memory, elapsed, ahead: 0 }
    }

    /// Commits up to `count` more events of a partition.
    fn commit(&mut self, partition: usize, count: usize) {
        let first = self.committed[partition];
        let end = (first + count).min(self.logs[partition].len());
        let edges = self.world.edges(&Fuse::never());
        let mut committer =
            Committer::take_over(edges.store, edges.archive, None, "default", partition as u32, &edges.owner, &|| {
                Ok(0)
            })
            .unwrap();
        let events = &self.logs[partition][first..end];
        let mut plan = CommitPlan {
            next_offset: end as u64,
            newest_event_time_us: self.logs[partition][..end].iter().map(|event| event.time_us).max(),
            accounting: Accounting { read: end as u64, applied: end as u64, ..Accounting::default() },
            memo: None,
            views: Vec::new(),
            states: Vec::new(),
            clock: None,
            ids: Vec::new(),
            all_ids: false,
            schema: Arc::new(SourceSchema::default_schema()),
            events: if events.is_empty() { Vec::new() } else { vec![batch(events, first)] },
            dead_letters: Vec::new(),
            gaps: Vec::new(),
        };
        committer.commit(&mut plan).unwrap();
        self.committed[partition] = end;
    }

    /// A look of a process that lives as long as the fuse; whether it made anything.
    fn look(&mut self, fuse: &Arc<Fuse>) -> Result<bool> {
        let edges = self.world.edges(fuse);
        let records = Arc::new(Mutex::new(vec![Vec::new(); self.logs.len()]));
        let board = Arc::new(Board::default());
        for (number, &committed) in self.committed.iter().enumerate() {
            board.update("default", number as u32, |status| {
                status.phase = if self.ended { Phase::Ended } else { Phase::Live };
                (status.position, status.committed) = (committed as u64 + self.ahead, committed as u64);
            });
        }
        let active =
            |view: &Transform| ActiveView { transform: view.clone(), ready: Arc::new(Readiness::waiting_for(0)) };
        let snapshots = Snapshots {
            setup: SnapshotSetup {
                every: self.every,
                sinks: Arc::new(FakeSinks { kept: self.kept.clone(), fuse: fuse.clone() }),
                look_every: Duration::ZERO,
                memory_bytes: 64 << 20,
                scratch: Arc::new(NoScratch),
                silent_after: SILENT_AFTER,
            },
            sources: vec![FakeSource::setup(&records, self.ended)],
            store: edges.store,
            archive: edges.archive,
            active: Arc::new(ArcSwap::from_pointee(self.views.iter().map(active).collect())),
            board,
            clock: Arc::new(FakeClock(self.elapsed)),
            bounded: self.ended,
            stop: Arc::default(),
        };
        snapshots.look(&snapshots.sources[0], &mut self.memory)
    }

    /// Looks until nothing is due.
    fn finish(&mut self) {
        while self.look(&Fuse::never()).unwrap() {}
    }

    /// Everything that is kept: view, instant, user, count, sum and position.
    fn rows(&self) -> Vec<(String, i64, String, i64, Option<i64>, String)> {
        rows_of(&self.kept)
    }
}

fn rows_of(kept: &Kept) -> Vec<(String, i64, String, i64, Option<i64>, String)> {
    let mut all = Vec::new();
    for ((view, _), (_, parts)) in kept.lock().unwrap().iter() {
        for rows in parts {
            for row in 0..rows.len() {
                assert!(rows.features[0].is_valid(row));
                let sum = rows.features[1].is_valid(row).then(|| rows.features[1].as_f64().unwrap()[row] as i64);
                all.push((
                    view.clone(),
                    rows.times_us[row],
                    String::from_utf8(rows.keys[0].str_bytes(row).unwrap().to_vec()).unwrap(),
                    rows.features[0].as_i64().unwrap()[row],
                    sum,
                    rows.position.clone(),
                ));
            }
        }
    }
    all
}

/// View, instant, user, count and sum.
type ExpectedRow = (String, i64, String, i64, Option<i64>);

/// What the contract says: the rows of instants after `after_us` that are due once the logs are committed up to
/// `committed` and have ended there, and the last such instant. Nothing of it is shared with the engine.
fn expected(logs: &Logs, committed: &[usize], every: Every, after_us: i64) -> (Vec<ExpectedRow>, i64) {
    let step_us = if every == Every::Day { 24 * HOUR_US } else { HOUR_US };
    let newest_us = logs.iter().zip(committed).flat_map(|(log, &end)| &log[..end]).map(|event| event.time_us).max();
    let Some(newest_us) = newest_us else { return (Vec::new(), after_us) };
    let through_us = ((newest_us + 1).div_euclid(step_us) * step_us).max(after_us);
    let mut rows = Vec::new();
    let mut block_us = (BEGIN_US - 100 * 24 * HOUR_US).max(after_us);
    while block_us < through_us {
        block_us += step_us;
        // What instants up to here, after the block before, see of each partition.
        let mut seen = Vec::new();
        for (log, &end) in logs.iter().zip(committed) {
            let passes = log[..end].iter().position(|event| event.time_us >= block_us + LATENESS_US);
            seen.extend_from_slice(&log[..passes.map_or(end, |offset| offset + 1)]);
        }
        let instants: Vec<(i64, u8)> = match every {
            Every::Event => {
                let mut all: Vec<(i64, u8)> = seen.iter().map(|event| (event.time_us + 1, event.user)).collect();
                all.retain(|(instant_us, _)| (block_us - step_us + 1..=block_us).contains(instant_us));
                all
            }
            _ => {
                let active = seen.iter().filter(|event| (block_us - step_us..block_us).contains(&event.time_us));
                let users: BTreeSet<u8> = active.map(|event| event.user).collect();
                users.into_iter().map(|user| (block_us, user)).collect()
            }
        };
        for (instant_us, user) in instants {
            for (view, width_us) in [("ever", i64::MAX), ("lately", WINDOW_US)] {
                let begin_us = instant_us.saturating_sub(width_us);
                let own = seen.iter().filter(|event| event.user == user && event.time_us < instant_us);
                let quantities: Vec<i64> =
                    own.filter(|event| event.time_us >= begin_us).map(|event| event.quantity).collect();
                let sum = (!quantities.is_empty()).then(|| quantities.iter().sum());
                rows.push((view.to_owned(), instant_us, format!("u{user}"), quantities.len() as i64, sum));
            }
        }
    }
    (rows, through_us)
}

/// A log whose times rise, with late events here and there.
fn log() -> impl Strategy<Value = Vec<Event>> {
    let event = (0i64..400, prop_oneof![4 => Just(0i64), 1 => 0i64..3600], 0u8..3, -3i64..9);
    proptest::collection::vec(event, 0..40).prop_map(|events| {
        let mut now_us = BEGIN_US;
        let make = |(advance, late, user, quantity)| {
            now_us += advance * MINUTE_US;
            Event { time_us: now_us - late * MINUTE_US, user, quantity }
        };
        events.into_iter().map(make).collect()
    })
}

#[derive(Debug, Clone)]
enum Step {
    Commit(usize, usize),
    Look,
    /// The process dies in a look, at this call, which may take effect all the same.
    Die(u64, bool),
    /// An answer of a store is lost.
    Miss(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0usize..2, 1usize..9).prop_map(|(partition, count)| Step::Commit(partition, count)),
        2 => Just(Step::Look),
        2 => (0u64..40, any::<bool>()).prop_map(|(call, effect)| Step::Die(call, effect)),
        1 => (0u64..40).prop_map(Step::Miss),
    ];
    proptest::collection::vec(step, 0..40)
}

fn sorted<T: Ord>(mut rows: Vec<T>) -> Vec<T> {
    rows.sort();
    rows
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(19), ..ProptestConfig::with_cases(150) })]

    #[test]
    fn what_a_snapshot_holds_is_decided_by_the_log_alone(
        first in (log(), log()),
        second in (log(), log()),
        (mut before, after) in (steps(), steps()),
        every in proptest::sample::select(&[Every::Day, Every::Hour, Every::Event][..]),
    ) {
        // Two runs to the end of what there is then.
        let ends = [first.0.len(), first.1.len()];
        let mut job = Job::new(vec![first.0, first.1], every);
        let mut expected_rows = Vec::new();
        let mut through_us = i64::MIN;
        before.truncate(40);
        for (run, steps) in [before, after].into_iter().enumerate() {
            if run == 1 {
                for (log, more) in job.logs.iter_mut().zip([&second.0, &second.1]) {
                    log.extend(more);
                }
            }
            job.ended = false;
            for step in steps {
                match step {
                    Step::Commit(partition, count) => job.commit(partition, count),
                    Step::Look => drop(job.look(&Fuse::never()).unwrap()),
                    Step::Die(call, effect) => {
                        // What a process knows beside the stores dies with it.
                        job.memory = Memory::default();
                        drop(job.look(&Fuse::at(call, effect)));
                    }
                    Step::Miss(call) => drop(job.look(&Fuse::losing_answer(call))),
                }
            }
            (0..2).for_each(|partition| job.commit(partition, usize::MAX / 2));
            job.ended = true;
            job.finish();
            let (rows, through) = expected(&job.logs, &job.committed, every, through_us);
            (through_us, _) = (through, expected_rows.extend(rows));
            let found: Vec<_> = job.rows().into_iter().map(|(view, t, user, count, sum, _)| (view, t, user, count, sum)).collect();
            prop_assert_eq!(sorted(found), sorted(expected_rows.clone()), "run {}, ends {:?}", run, ends);
        }
        // Each row names a position at which the archive gives it.
        for (view, instant_us, user, count, ..) in job.rows() {
            let position = job.rows().iter().find(|row| (&row.0, row.1, &row.2) == (&view, instant_us, &user)).unwrap().5.clone();
            let position = Position::parse(&position).unwrap();
            let width_us = if view == "ever" { i64::MAX } else { WINDOW_US };
            let mut seen = 0;
            for (number, log) in job.logs.iter().enumerate() {
                let end = position.sources["default"].get(&(number as u32)).copied().unwrap_or(0) as usize;
                let times = instant_us.saturating_sub(width_us)..instant_us;
                let own = |event: &&Event| times.contains(&event.time_us) && format!("u{}", event.user) == user;
                seen += log[..end].iter().filter(own).count() as i64;
            }
            prop_assert_eq!(seen, count, "{} at {} of {}", view, instant_us, user);
        }
        // A backfill over the same events recognises what needs no change, and changes the rest.
        let made_before = job.kept.lock().unwrap().clone();
        let (whole, beside) = (Kept::default(), job.kept.clone());
        let archive = job.logs.clone();
        let over = |kept: &Kept| {
            let mut open = |_: &str| Ok(Box::new(Logged(archive.iter().enumerate().map(|(number, log)| (number as u32, batch(log, 0))).collect())) as Box<dyn EventReader>);
            let options = BackfillOptions {
                from_us: None,
                to_us: Some(through_us + 1),
                every,
                entities: Entities::Active,
                max_age_us: None,
                allow_fewer_events: false,
                threads: 1,
            };
            let mut sink = FakeSink { kept: kept.clone(), fuse: Fuse::never(), open: BTreeMap::new() };
            let budget = Budget { bytes: 64 << 20, scratch: &NoScratch, progress: None };
            backfill(&mut open, &job.views, &options, budget, &mut sink).unwrap()
        };
        if through_us > i64::MIN {
            over(&whole);
            let summary = over(&beside);
            prop_assert_eq!(sorted(rows_of(&beside)), sorted(rows_of(&whole)));
            let whole = whole.lock().unwrap();
            let same = |key: &(String, i64)| made_before.get(key).is_some_and(|date| Some(date) == whole.get(key));
            let changed = whole.keys().filter(|key| !same(key)).count() as u64;
            let made: u64 = summary.dates.values().map(|dates| dates.made).sum();
            prop_assert_eq!(made, changed);
            // Without late events nothing is changed, but for a date that is not over.
            let in_order = job.logs.iter().all(|log| log.is_sorted_by_key(|event| event.time_us)) && second.0.is_empty() && second.1.is_empty();
            let day_us = floor_to(through_us, DAY_US);
            let unfinished = whole.keys().filter(|(_, of_us)| *of_us == day_us && every != Every::Day).count() as u64;
            if in_order {
                prop_assert!(made <= unfinished, "{} dates made, {} unfinished", made, unfinished);
            }
        }
    }
}

struct Logged(std::collections::VecDeque<(u32, EventBatch)>);

impl EventReader for Logged {
    fn next_batch(&mut self) -> Result<Option<EventBatch>> {
        Ok(self.next_of_partition()?.map(|(_, batch)| batch))
    }

    fn next_of_partition(&mut self) -> Result<Option<(u32, EventBatch)>> {
        Ok(self.0.pop_front())
    }
}

/// Ten days of two partitions, an event each three hours, some late.
fn ten_days() -> Logs {
    let event = |partition: i64, n: i64| Event {
        time_us: BEGIN_US + (3 * n + partition) * HOUR_US - if n % 13 == 12 { 40 * HOUR_US } else { 0 },
        user: (n % 3) as u8,
        quantity: n,
    };
    (0..2).map(|partition| (0..80).map(|n| event(partition, n)).collect()).collect()
}

#[test]
fn a_partition_without_news_is_waited_for_ten_minutes() {
    let at = |hours: i64| Event { time_us: BEGIN_US + hours * HOUR_US, user: 0, quantity: 1 };
    let mut job = Job::new(vec![vec![at(1), at(30), at(49), at(100)], vec![at(2), at(60)]], Every::Day);
    let newest = |job: &mut Job, seconds: u64| {
        job.elapsed = Duration::from_secs(seconds);
        job.finish();
        job.rows().iter().map(|row| (row.1 - BEGIN_US) / DAY_US).max()
    };
    job.commit(0, 3);
    job.commit(1, 1);
    assert_eq!(newest(&mut job, 1), None);
    assert_eq!(newest(&mut job, 600), None);
    // It is not silent: what it has read is not committed.
    job.ahead = 1;
    assert_eq!(newest(&mut job, 601), None);
    job.ahead = 0;
    assert_eq!(newest(&mut job, 601), Some(2));
    // Its news, after which it is waited for anew.
    job.commit(0, 1);
    job.commit(1, 1);
    assert_eq!(newest(&mut job, 700), Some(2));
    assert_eq!(newest(&mut job, 1299), Some(2));
    assert_eq!(newest(&mut job, 1300), Some(3));
}

#[test]
fn a_process_that_dies_at_any_call_leaves_the_old_or_the_new() {
    for every in [Every::Day, Every::Hour] {
        let mut whole = Job::new(ten_days(), every);
        (0..2).for_each(|partition| whole.commit(partition, 60));
        whole.finish();
        let after_first = whole.kept.lock().unwrap().clone();
        (0..2).for_each(|partition| whole.commit(partition, 20));
        whole.ended = true;
        whole.finish();
        let after_second = whole.kept.lock().unwrap().clone();
        assert!(after_first.len() > 10 && after_second.len() > after_first.len());
        let mut deaths = 0;
        for call in 0.. {
            for with_effect in [false, true] {
                let mut job = Job::new(ten_days(), every);
                (0..2).for_each(|partition| job.commit(partition, 60));
                job.finish();
                (0..2).for_each(|partition| job.commit(partition, 20));
                job.ended = true;
                let fuse = Fuse::at(call, with_effect);
                drop(job.look(&fuse));
                if !fuse.is_dead() {
                    assert!(deaths > 20, "{deaths}");
                    break;
                }
                deaths += 1;
                for (key, date) in job.kept.lock().unwrap().iter() {
                    let is_whole = Some(date) == after_first.get(key) || Some(date) == after_second.get(key);
                    assert!(is_whole, "{every:?} {call} {with_effect}: {key:?}");
                }
                assert!(after_first.keys().all(|key| job.kept.lock().unwrap().contains_key(key)));
                job.finish();
                assert!(*job.kept.lock().unwrap() == after_second, "{every:?} {call} {with_effect}");
            }
            if deaths > 0 && call > 400 {
                break;
            }
        }
    }
}
