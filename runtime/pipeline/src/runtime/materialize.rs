//! Online state from the archive: of the entities with an event in a span of time, what every partition here holds is
//! rebuilt from their whole history and takes the place of what there is; what differed is told.
//!
//! The unit of work is a view in a partition. Its entities are found in the archive as of one committed position, their
//! events are read and applied to a state of their own, as many entities at a time as fit in memory, and the worker of
//! the partition puts that in the place of what it holds, some thousand keys between two batches
//! ([`crate::worker::lane`]). So only the owner of a partition writes, at the position it is at.

pub(super) mod shared;

use super::owners::Owners;
use super::roster::Roster;
use super::{ActiveView, RuntimeParts, stopped};
use crate::commit::{Manifest, latest, load};
use crate::decode::time::format_rfc3339;
use crate::offline::Status;
use crate::port::{ArchiveScan, OnlinePartial, OnlineRead, RowFile};
use crate::query::{Position, Value};
use crate::worker::{Board, Command, Difference, Members, Rebuilt, Replaced};
use crate::{Error, Result};
use crossbeam_channel::bounded;
use plumb_core::ErrorKind;
use plumb_core::column::Column;
use plumb_core::entity::{EntityKey, key_of_row};
use plumb_core::global::{self, Distribution, GlobalPartial, global_key};
use plumb_core::read::{AggregateBatch, Partial, Reach, tiles_needed};
use plumb_transform::Transform;
use rustc_hash::FxHashSet;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Keys put in their place between two batches of a partition.
const KEYS_AT_A_TIME: usize = 2048;
/// What a key's state is taken to need where nothing is known yet, in bytes.
const KEY_BYTES: u64 = 4 << 10;
/// A state that is being built takes more than one that is complete: about this much.
const BUILDING: u64 = 2;
/// How long is waited for a store that cannot be reached.
const PATIENCE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(100);

/// Which entities' state to rebuild, and with what means.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Materialize {
    /// Those with an event at this instant or later, µs; `None` = from the first one on.
    pub from_us: Option<i64>,
    /// And before this one, µs; `None` = to the last one.
    pub to_us: Option<i64>,
    /// Views rebuilt at the same time.
    pub threads: usize,
    /// The memory for state that is being built.
    pub memory_bytes: u64,
}

/// What is said where one is under way.
pub(super) fn busy() -> Error {
    Error::invalid("state is being rebuilt already: wait for its end, or stop it")
}

impl Materialize {
    pub(super) fn check(&self) -> Result<()> {
        match (self.from_us, self.to_us) {
            (Some(from_us), Some(to_us)) if from_us >= to_us => {
                Err(Error::invalid("the span of time to rebuild state for ends before it begins"))
            }
            _ => Ok(()),
        }
    }

    fn span(&self) -> Option<(i64, i64)> {
        match (self.from_us, self.to_us) {
            (None, None) => None,
            (from, to) => Some((from.unwrap_or(i64::MIN), to.unwrap_or(i64::MAX))),
        }
    }
}

/// How far it is, for people.
#[derive(Debug, Default)]
pub(super) struct MaterializeProgress {
    /// Events read.
    pub read: AtomicU64,
    /// Of so many.
    pub total: AtomicU64,
    /// Set to end it.
    pub stop: AtomicBool,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Materialized {
    /// The committed position that the entities were found at.
    pub position: String,
    /// By name and version.
    pub views: Vec<MaterializedView>,
    /// Partitions that another process took over meanwhile, as `source/partition`.
    pub missing: Vec<String>,
}

impl Materialized {
    /// Adds what was done in other partitions.
    fn add(&mut self, other: Self) -> Result<()> {
        let mut position = Position::parse(&self.position)?;
        for (source, partitions) in Position::parse(&other.position)?.sources {
            position.sources.entry(source).or_default().extend(partitions);
        }
        self.position = position.to_string();
        self.missing.extend(other.missing);
        for other in other.views {
            let same = |view: &&mut MaterializedView| view.view == other.view && view.version == other.version;
            let Some(view) = self.views.iter_mut().find(same) else {
                self.views.push(other);
                continue;
            };
            view.states += other.states;
            view.events += other.events;
            view.changed += other.changed;
            view.changed_in_memory += other.changed_in_memory;
            view.changed_online += other.changed_online;
            view.changed_reserved |= other.changed_reserved;
            view.unconfirmed += other.unconfirmed;
            let earlier = match (&view.first, &other.first) {
                (Some(first), Some(of_other)) => of_other.key < first.key,
                (None, _) => true,
                (Some(_), None) => false,
            };
            if earlier {
                view.first = other.first;
            }
        }
        self.views.sort_by(|a, b| (&a.view, &a.version).cmp(&(&b.view, &b.version)));
        Ok(())
    }

    /// Whether everything is as it should be afterwards.
    pub fn is_right(&self) -> bool {
        self.missing.is_empty() && self.views.iter().all(|view| view.unconfirmed == 0)
    }
}

/// What was done of one view.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct MaterializedView {
    /// Its name.
    pub view: String,
    /// Its version, `1.2.0+ab12cd34`.
    pub version: String,
    /// Its entity.
    pub entity: String,
    /// How many states were rebuilt: what one partition holds of one entity is one.
    pub states: u64,
    /// How many events they were rebuilt from, one read several times counted once.
    pub events: u64,
    /// How many of them were held otherwise before.
    pub changed: u64,
    /// How many of them in the memory of the process (so in its commits too).
    pub changed_in_memory: u64,
    /// How many of them in the online store.
    pub changed_online: u64,
    /// Whether something was that belongs to no entity alone, such as the distribution behind a rank.
    pub changed_reserved: bool,
    /// How many the online store still shows otherwise, although they were written.
    pub unconfirmed: u64,
    /// The first entity that was held otherwise, by the bytes of its key.
    pub first: Option<FirstChanged>,
}

/// An entity that was held otherwise.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct FirstChanged {
    /// The values of its key fields.
    pub key: Vec<String>,
    /// The source partition.
    pub partition: u32,
    /// Whether the memory of the process held it otherwise.
    pub in_memory: bool,
    /// Whether the online store did.
    pub online: bool,
    /// The first feature that was answered otherwise just after the newest event, as `view:feature`; `None` if all were
    /// the same then.
    pub feature: Option<String>,
    /// What it was; in parentheses why where there was no answer.
    pub before: Option<Json>,
    /// What it is.
    pub after: Option<Json>,
}

/// A view's figures while they are gathered.
#[derive(Default)]
struct Tally {
    states: u64,
    changed: u64,
    in_memory: u64,
    online: u64,
    unconfirmed: u64,
    reserved: bool,
    events: u64,
    first: Option<(EntityKey, FirstChanged)>,
}

/// How a rebuild of state is.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct MaterializeStatus {
    /// Which it is.
    pub id: String,
    /// What was asked.
    pub request: Materialize,
    /// How far it is.
    pub phase: MaterializePhase,
    /// Events read.
    pub read: u64,
    /// Of so many.
    pub total: u64,
    /// How long it has taken.
    pub seconds: f64,
}

/// How far a rebuild of state is.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaterializePhase {
    /// Under way.
    Running,
    /// Done.
    Done(Materialized),
    /// Ended before its end; what was replaced until then is right.
    Failed {
        /// Why.
        why: String,
        /// Whether it was asked to stop.
        stopped: bool,
        /// Whether another try may work.
        unavailable: bool,
    },
}

/// One that runs or has run.
pub(super) struct Materializing {
    id: String,
    request: Materialize,
    progress: Arc<MaterializeProgress>,
    started: Instant,
    /// The end, and how long it took.
    ended: Arc<Mutex<Option<(MaterializePhase, Duration)>>>,
    thread: Option<JoinHandle<()>>,
}

impl Materializing {
    /// Runs `work` on a thread of its own.
    pub(super) fn begin(
        id: String,
        request: Materialize,
        work: impl FnOnce(&Materialize, &MaterializeProgress) -> Result<Materialized> + Send + 'static,
    ) -> Result<Self> {
        let (progress, ended) = (Arc::<MaterializeProgress>::default(), Arc::<Mutex<_>>::default());
        let started = Instant::now();
        let run = {
            let (request, progress, ended) = (request.clone(), progress.clone(), ended.clone());
            move || {
                let done = catch_unwind(AssertUnwindSafe(|| work(&request, &progress)))
                    .unwrap_or_else(|_| Err(Error::internal("rebuilding state has panicked")));
                let phase = match done {
                    Ok(done) => MaterializePhase::Done(done),
                    Err(error) => {
                        let stopped = progress.stop.load(Ordering::Relaxed);
                        tracing::warn!(%error, stopped, "state was not rebuilt to the end");
                        let unavailable = error.kind() == ErrorKind::Unavailable;
                        MaterializePhase::Failed { why: error.to_string(), stopped, unavailable }
                    }
                };
                *lock(&ended) = Some((phase, started.elapsed()));
            }
        };
        let thread = std::thread::Builder::new().name("plumb-materialize".into()).spawn(run);
        let thread = Some(thread.map_err(|error| Error::unavailable("start a thread", error))?);
        Ok(Self { id, request, progress, started, ended, thread })
    }

    pub(super) fn is_running(&self) -> bool {
        lock(&self.ended).is_none()
    }

    pub(super) fn status(&self) -> MaterializeStatus {
        let ended = lock(&self.ended).clone();
        let (phase, took) = ended.unwrap_or_else(|| (MaterializePhase::Running, self.started.elapsed()));
        MaterializeStatus {
            id: self.id.clone(),
            request: self.request.clone(),
            phase,
            read: self.progress.read.load(Ordering::Relaxed),
            total: self.progress.total.load(Ordering::Relaxed),
            seconds: took.as_secs_f64(),
        }
    }

    /// Asks it to end.
    pub(super) fn stop(&self) {
        self.progress.stop.store(true, Ordering::Relaxed);
    }

    /// The thread, to be waited for.
    pub(super) fn take_thread(&mut self) -> Option<JoinHandle<()>> {
        self.thread.take()
    }
}

/// What it works with: parts of a running job.
#[derive(Clone)]
pub(super) struct Materializer {
    pub(super) parts: RuntimeParts,
    pub(super) owners: Arc<Owners>,
    pub(super) roster: Arc<Roster>,
    pub(super) board: Arc<Board>,
    pub(super) stop: Arc<AtomicBool>,
}

/// A view in a partition.
struct Unit {
    source: String,
    partition: u32,
    view: Transform,
    manifest: Arc<Manifest>,
    files: Arc<Vec<RowFile>>,
}

impl Materializer {
    /// The partitions of this process.
    pub(super) fn partitions(&self) -> Vec<(String, u32)> {
        let sources = self.parts.sources.iter().map(|setup| setup.source.schema().source.clone());
        sources
            .flat_map(|source| self.owners.of(&source).into_iter().map(move |number| (source.clone(), number)))
            .collect()
    }

    /// Commits everything accepted so far where a partition is; it is in the archive then.
    fn commit(&self, source: &str, partition: u32) -> Result<()> {
        let worker = self.owners.worker(source, partition).ok_or_else(stopped)?;
        super::everywhere(&[worker], |done| Command::Commit { done })
    }

    /// Rebuilds these views in these partitions of this process.
    pub(super) fn run(
        &self,
        views: &[ActiveView],
        partitions: &[(String, u32)],
        request: &Materialize,
        progress: &MaterializeProgress,
    ) -> Result<Materialized> {
        let (mut units, mut position, mut total) = (Vec::new(), Position::default(), 0);
        let store = self.parts.store.as_ref();
        for (source, partition) in partitions {
            let Some(manifest) = latest(store, source, *partition)? else { continue };
            let files = Arc::new(load::row_files(store, &manifest)?);
            position.sources.entry(source.clone()).or_default().insert(*partition, manifest.next_offset);
            let manifest = Arc::new(manifest);
            for view in views.iter().filter(|view| view.transform.def().source == *source) {
                let passes = 1 + u64::from(request.span().is_some());
                total += files.iter().map(|file| file.rows).sum::<u64>() * passes;
                units.push(Unit {
                    source: source.clone(),
                    partition: *partition,
                    view: view.transform.clone(),
                    manifest: manifest.clone(),
                    files: files.clone(),
                });
            }
        }
        progress.total.store(total, Ordering::Relaxed);
        let tallies: BTreeMap<String, Mutex<Tally>> =
            views.iter().map(|view| (view.name().to_owned(), Mutex::default())).collect();
        let (next, failed, missing) = (AtomicUsize::new(0), Mutex::new(None), Mutex::new(Vec::new()));
        let threads = request.threads.clamp(1, units.len().max(1));
        let memory = request.memory_bytes / threads as u64;
        let work = || {
            while let Some(unit) = units.get(next.fetch_add(1, Ordering::Relaxed)) {
                let done = self.rebuild(unit, request, memory, progress, &tallies[&unit.view.def().name]);
                match done {
                    Ok(()) => {}
                    Err(_) if self.is_gone(unit) => {
                        lock(&missing).push(format!("{}/{}", unit.source, unit.partition));
                    }
                    Err(error) => {
                        // One failure ends it all; the first is told.
                        next.store(units.len(), Ordering::Relaxed);
                        lock(&failed).get_or_insert(error);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            for thread in threads {
                if thread.join().is_err() {
                    lock(&failed).get_or_insert(Error::internal("rebuilding state has panicked"));
                }
            }
        });
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let mut missing = missing.into_inner().unwrap_or_else(PoisonError::into_inner);
        missing.sort_unstable();
        missing.dedup();
        let told = views.iter().map(|view| told(&view.transform, &lock(&tallies[view.name()]))).collect();
        Ok(Materialized { position: position.to_string(), views: told, missing })
    }

    /// Whether the partition is another process's by now.
    fn is_gone(&self, unit: &Unit) -> bool {
        !self.stop.load(Ordering::Relaxed) && !self.owners.has(&unit.source, unit.partition)
    }

    fn rebuild(
        &self,
        unit: &Unit,
        request: &Materialize,
        memory: u64,
        progress: &MaterializeProgress,
        tally: &Mutex<Tally>,
    ) -> Result<()> {
        let only = match request.span() {
            None => None,
            Some(span) => Some(Arc::new(self.entities(unit, span, progress)?)),
        };
        if only.as_ref().is_some_and(|only| only.is_empty()) {
            return Ok(());
        }
        let (keys, key_bytes) = self.size(unit);
        let keys = only.as_ref().map_or(keys, |only| only.len() as u64);
        let parts = (keys.saturating_mul(key_bytes).saturating_mul(BUILDING)).div_ceil(memory.max(1)).max(1);
        if parts > 1 {
            let rows: u64 = unit.files.iter().map(|file| file.rows).sum();
            progress.total.fetch_add(rows * (parts - 1), Ordering::Relaxed);
        }
        for part in 0..parts {
            let members = Members::of(part, parts, only.clone());
            let mut rebuilt = Rebuilt::new(unit.view.clone(), unit.manifest.newest_event_time_us, members);
            let applied = self.read(unit, &mut rebuilt, progress)?;
            let keys = rebuilt.state.key_list();
            {
                let mut tally = lock(tally);
                tally.events += applied;
                tally.states += keys.len() as u64;
            }
            let mut rebuilt = Some(Box::new(rebuilt));
            let mut chunks = keys.chunks(KEYS_AT_A_TIME).peekable();
            // Also without a key: what belongs to none alone is looked at.
            if chunks.peek().is_none() && part + 1 == parts {
                self.replace(unit, &mut rebuilt, &[], true, progress, tally)?;
            }
            while let Some(keys) = chunks.next() {
                self.replace(unit, &mut rebuilt, keys, chunks.peek().is_none(), progress, tally)?;
            }
        }
        Ok(())
    }

    /// How many keys a view has in a partition, and what each takes, about.
    fn size(&self, unit: &Unit) -> (u64, u64) {
        let version = unit.view.version_label();
        let of_partition = self.board.partitions().into_iter();
        let status = of_partition
            .filter(|status| status.source == unit.source && status.partition == unit.partition)
            .flat_map(|status| status.views)
            .find(|view| view.view == unit.view.def().name && view.version == version);
        match status {
            Some(status) if status.keys > 0 => (status.keys, (status.state_bytes / status.keys).max(256)),
            _ => (unit.manifest.accounting.applied, KEY_BYTES),
        }
    }

    fn go_on(&self, progress: &MaterializeProgress) -> bool {
        !self.stop.load(Ordering::Relaxed) && !progress.stop.load(Ordering::Relaxed)
    }

    /// The entities of a view with an event in a span of time.
    fn entities(&self, unit: &Unit, span: (i64, i64), progress: &MaterializeProgress) -> Result<FxHashSet<EntityKey>> {
        let scan = ArchiveScan {
            files: unit.files.iter().map(|file| (unit.partition, file.clone())).collect(),
            columns: Some(unit.view.key_columns().to_vec()),
            event_time_us: Some(span),
            below_offset: BTreeMap::from([(unit.partition, unit.manifest.next_offset)]),
            ..ArchiveScan::default()
        };
        let mut entities = FxHashSet::default();
        let mut bytes = Vec::new();
        let mut read = 0;
        self.parts.archive.scan(unit.view.schema(), &scan, &mut |_, events| {
            if !self.go_on(progress) {
                return Err(Error::unavailable("look for entities in the archive", "it was asked to stop"));
            }
            read += events.len() as u64;
            progress.read.fetch_add(events.len() as u64, Ordering::Relaxed);
            let columns: Vec<&Column> = unit.view.key_columns().iter().map(|&at| &events.columns[at]).collect();
            for row in 0..events.len() {
                if key_of_row(&columns, row, &mut bytes) {
                    let key = EntityKey::from_bytes(&bytes);
                    if !entities.contains(&key) {
                        entities.insert(key);
                    }
                }
            }
            Ok(())
        })?;
        // What did not have to be read counts as done.
        let rows: u64 = unit.files.iter().map(|file| file.rows).sum();
        progress.read.fetch_add(rows.saturating_sub(read), Ordering::Relaxed);
        Ok(entities)
    }

    /// Reads what is committed; how many events were applied.
    fn read(&self, unit: &Unit, rebuilt: &mut Rebuilt, progress: &MaterializeProgress) -> Result<u64> {
        let (go_on, read) = (
            || self.go_on(progress),
            |rows| {
                progress.read.fetch_add(rows, Ordering::Relaxed);
            },
        );
        let archive = self.parts.archive.as_ref();
        rebuilt.read_archive(archive, unit.partition, &unit.files, unit.manifest.next_offset, &go_on, &read)?;
        // What came meanwhile is read here and not in the partition's loop.
        if let Some(newer) = latest(self.parts.store.as_ref(), &unit.source, unit.partition)?
            && newer.next_offset > rebuilt.built_to
        {
            let files = load::row_files(self.parts.store.as_ref(), &newer)?;
            rebuilt.read_archive(archive, unit.partition, &files, newer.next_offset, &go_on, &|_| {})?;
        }
        Ok(rebuilt.applied)
    }

    /// Lets the partition's worker put keys in their place; a store that is away is waited for.
    fn replace(
        &self,
        unit: &Unit,
        rebuilt: &mut Option<Box<Rebuilt>>,
        keys: &[EntityKey],
        last: bool,
        progress: &MaterializeProgress,
        tally: &Mutex<Tally>,
    ) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        let replaced = loop {
            if !self.go_on(progress) {
                return Err(Error::unavailable("rebuild online state", "it was asked to stop"));
            }
            let worker = self.owners.worker(&unit.source, unit.partition).ok_or_else(stopped)?;
            let (done, answer) = bounded(1);
            let command = Command::Replace {
                source: unit.source.clone(),
                partition: unit.partition,
                rebuilt: rebuilt.take().ok_or_else(stopped)?,
                keys: keys.to_vec(),
                last,
                done,
            };
            worker.send(command).map_err(|_| stopped())?;
            let (back, replaced) = answer.recv().map_err(|_| stopped())?;
            *rebuilt = Some(back);
            match replaced {
                Err(error)
                    if error.kind() == ErrorKind::Unavailable
                        && !matches!(error, Error::Fenced { .. })
                        && !self.is_gone(unit)
                        && Instant::now() < until =>
                {
                    tracing::warn!(source = unit.source, partition = unit.partition, %error, "cannot replace state yet");
                    std::thread::sleep(RETRY);
                }
                replaced => break replaced?,
            }
        };
        self.count(unit, &replaced, tally)
    }

    fn count(&self, unit: &Unit, replaced: &Replaced, tally: &Mutex<Tally>) -> Result<()> {
        let candidate = {
            let mut tally = lock(tally);
            tally.reserved |= replaced.reserved_differed;
            tally.unconfirmed += replaced.unconfirmed.len() as u64;
            tally.changed += replaced.differing.len() as u64;
            tally.in_memory += replaced.differing.iter().filter(|difference| difference.in_memory).count() as u64;
            tally.online += replaced.differing.iter().filter(|difference| difference.online).count() as u64;
            let first = tally.first.as_ref().map(|(key, _)| key.clone());
            replaced.differing.first().filter(|difference| first.is_none_or(|first| difference.key < first))
        };
        if let Some(difference) = candidate {
            let first = self.describe(unit, difference, replaced)?;
            let mut tally = lock(tally);
            if tally.first.as_ref().is_none_or(|(key, _)| difference.key < *key) {
                tally.first = Some((difference.key.clone(), first));
            }
        }
        Ok(())
    }

    /// What an entity that was held otherwise was answered with, and what it is now.
    fn describe(&self, unit: &Unit, difference: &Difference, replaced: &Replaced) -> Result<FirstChanged> {
        let def = unit.view.def();
        let parts = difference.key.parts(def.entity.key.len()).unwrap_or_default();
        let mut first = FirstChanged {
            key: parts.into_iter().map(|part| String::from_utf8_lossy(part).into_owned()).collect(),
            partition: unit.partition,
            in_memory: difference.in_memory,
            online: difference.online,
            feature: None,
            before: None,
            after: None,
        };
        let as_of_us = replaced.newest_us.map_or(0, |newest_us| newest_us.saturating_add(1));
        let (others, ranks) = match self.others(unit, &difference.key, as_of_us) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "cannot read an entity that was held otherwise, to say what was answered");
                return Ok(first);
            }
        };
        let now = difference.rebuilt.clone().into_partial(unit.partition);
        let features = |own: Option<&OnlinePartial>| -> Result<Answered> {
            let partials = others.iter().chain(own);
            answered(&unit.view, as_of_us, partials, &ranks)
        };
        let before = features(difference.held.as_ref()).unwrap_or_else(|error| Answered::Not(error.to_string()));
        let after = features(Some(&now)).unwrap_or_else(|error| Answered::Not(error.to_string()));
        let names = def.features.iter().map(|feature| feature.name.as_str());
        if let Some((name, before, after)) = before.first_other(&after, names) {
            first.feature = Some(format!("{}:{name}", def.name));
            (first.before, first.after) = (Some(before), Some(after));
        }
        Ok(first)
    }

    /// What the other partitions hold of an entity, and the distributions that its ranks are among.
    fn others(
        &self,
        unit: &Unit,
        key: &EntityKey,
        as_of_us: i64,
    ) -> Result<(Vec<OnlinePartial>, Vec<Arc<Distribution>>)> {
        let (view, plan) = (&unit.view, unit.view.plan());
        let read = |key: EntityKey, tiles| OnlineRead {
            entity: view.def().entity.name.as_str().into(),
            state_id: view.state_id(),
            key,
            tiles,
        };
        let mut reads = vec![read(key.clone(), tiles_needed(plan, as_of_us))];
        for (index, def) in plan.globals.iter().enumerate() {
            reads.push(read(global_key(index), global::tiles_needed(def, as_of_us)));
        }
        let mut answer =
            self.parts.online.read(&unit.source, &self.roster.of(&unit.source), &reads)?.entities.into_iter();
        let others = answer.next().map_or_else(Vec::new, |entity| entity.partials);
        let others = others.into_iter().filter(|partial| partial.partition != unit.partition).collect();
        let mut ranks = Vec::with_capacity(plan.globals.len());
        for (def, entity) in plan.globals.iter().zip(answer) {
            let decode = |partial: &OnlinePartial| {
                let tiles = partial.tiles.iter().map(|(&start_us, bytes)| (start_us, bytes.as_slice()));
                GlobalPartial::decode(def, as_of_us, &partial.header, tiles)
            };
            let partials = entity.partials.iter().map(decode).collect::<plumb_core::Result<Vec<_>>>()?;
            ranks.push(Arc::new(Distribution::merge(def, as_of_us, &partials).unwrap_or_default()));
        }
        Ok((others, ranks))
    }
}

/// Values of a view's features, or why there are none.
enum Answered {
    Features(Vec<Value>),
    Not(String),
}

impl Answered {
    /// The first feature with another value, with both.
    fn first_other<'a>(&self, other: &Self, names: impl Iterator<Item = &'a str>) -> Option<(&'a str, Json, Json)> {
        let value = |answered: &Self, at: usize| match answered {
            Answered::Features(values) => values.get(at).map_or(Json::Null, json),
            Answered::Not(why) => format!("({why})").into(),
        };
        let both = |(at, name)| (name, value(self, at), value(other, at));
        names.enumerate().map(both).find(|(_, before, after)| before != after)
    }
}

/// A value as answers have it.
fn json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::I64(number) => (*number).into(),
        Value::F64(number) => (*number).into(),
        Value::Bool(truth) => (*truth).into(),
        Value::Utf8(text) => text.as_str().into(),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into(),
        Value::Timestamp(us) => format_rfc3339(*us).into(),
        Value::List(values) => values.iter().map(json).collect(),
        Value::Default(value) => Json::clone(value),
    }
}

fn answered<'a>(
    view: &Transform,
    as_of_us: i64,
    partials: impl Iterator<Item = &'a OnlinePartial>,
    ranks: &[Arc<Distribution>],
) -> Result<Answered> {
    let plan = view.plan();
    let decode = |partial: &OnlinePartial| {
        let tiles = partial.tiles.iter().map(|(&start_us, bytes)| (start_us, bytes.as_slice()));
        Partial::decode_at(plan, as_of_us, &partial.header, tiles)
    };
    let partials = match partials.map(decode).collect::<plumb_core::Result<Vec<_>>>() {
        Ok(partials) => partials,
        Err(error) => return Ok(Answered::Not(format!("unreadable ({error})"))),
    };
    if !partials.iter().any(|partial| partial.first_us() < as_of_us) {
        return Ok(Answered::Not("not found".into()));
    }
    let mut batch = AggregateBatch::new(plan);
    if batch.push(plan, as_of_us, &partials, ranks)? == Reach::BelowFloor {
        return Ok(Answered::Not("answered from the archive".into()));
    }
    if Status::is_outside_max_age(batch.newest_us[0], as_of_us, view.def().ttl_us) {
        return Ok(Answered::Not("outside max age".into()));
    }
    let finalized = view.finalize(&batch.as_of_us, &batch.columns);
    if let Some(fault) = finalized.faults.into_iter().next() {
        return Ok(Answered::Not(format!("error ({})", fault.reason)));
    }
    Ok(Answered::Features(finalized.features.iter().map(|column| Value::of(column, 0)).collect()))
}

fn told(view: &Transform, tally: &Tally) -> MaterializedView {
    MaterializedView {
        view: view.def().name.clone(),
        version: view.version_label(),
        entity: view.def().entity.name.clone(),
        states: tally.states,
        events: tally.events,
        changed: tally.changed,
        changed_in_memory: tally.in_memory,
        changed_online: tally.online,
        changed_reserved: tally.reserved,
        unconfirmed: tally.unconfirmed,
        first: tally.first.as_ref().map(|(_, first)| first.clone()),
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // Figures are whole between two calls.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
