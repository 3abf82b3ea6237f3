//! The work: the entities of a view in a partition are found, their events are read and applied to a state of their own,
//! and the partition's worker is asked to put that in the place of what it holds.

use super::super::owners::Owners;
use super::super::roster::Roster;
use super::super::{ActiveView, RuntimeParts, everywhere, stopped};
use super::lock;
use super::report::{FirstChanged, Materialize, Materialized, MaterializedView};
use super::thread::MaterializeProgress;
use crate::commit::{Manifest, latest, load};
use crate::meter::{RebuildEnd, RebuiltFigures};
use crate::port::{ArchiveScan, RowFile};
use crate::query::Position;
use crate::worker::{Board, Command, Difference, Members, Rebuilt, Replaced};
use crate::{Error, Result};
use crossbeam_channel::bounded;
use plumb_core::ErrorKind;
use plumb_core::column::Column;
use plumb_core::entity::{EntityKey, key_of_row};
use plumb_transform::Transform;
use rustc_hash::FxHashSet;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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

/// What it works with: parts of a running job.
#[derive(Clone)]
pub(in crate::runtime) struct Materializer {
    pub(in crate::runtime) parts: RuntimeParts,
    pub(in crate::runtime) owners: Arc<Owners>,
    pub(in crate::runtime) roster: Arc<Roster>,
    pub(in crate::runtime) board: Arc<Board>,
    pub(in crate::runtime) stop: Arc<AtomicBool>,
}

/// A view in a partition.
pub(super) struct Unit {
    pub(super) source: String,
    pub(super) partition: u32,
    pub(super) view: Transform,
    manifest: Arc<Manifest>,
    files: Arc<Vec<RowFile>>,
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

impl Materializer {
    /// The partitions of this process.
    pub(in crate::runtime) fn partitions(&self) -> Vec<(String, u32)> {
        let sources = self.parts.sources.iter().map(|setup| setup.source.schema().source.clone());
        sources
            .flat_map(|source| self.owners.of(&source).into_iter().map(move |number| (source.clone(), number)))
            .collect()
    }

    /// Commits everything accepted so far where a partition is; it is in the archive then.
    pub(super) fn commit(&self, source: &str, partition: u32) -> Result<()> {
        let worker = self.owners.worker(source, partition).ok_or_else(stopped)?;
        everywhere(&[worker], |done| Command::Commit { done })
    }

    /// Rebuilds these views in these partitions of this process.
    pub(in crate::runtime) fn run(
        &self,
        views: &[ActiveView],
        partitions: &[(String, u32)],
        request: &Materialize,
        progress: &MaterializeProgress,
    ) -> Result<Materialized> {
        let end = |done: &Result<Materialized>| match done {
            Ok(_) => RebuildEnd::Done,
            Err(_) if !self.go_on(progress) => RebuildEnd::Stopped,
            Err(_) => RebuildEnd::Failed,
        };
        self.board.meters().rebuilds.counted(|| self.rebuild_all(views, partitions, request, progress), end)
    }

    fn rebuild_all(
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
        self.count(unit, &replaced, keys.len() as u64, tally)
    }

    /// Counts what a worker has put in the place of so many states.
    fn count(&self, unit: &Unit, replaced: &Replaced, states: u64, tally: &Mutex<Tally>) -> Result<()> {
        let differing =
            |is: fn(&Difference) -> bool| replaced.differing.iter().filter(|difference| is(difference)).count() as u64;
        let more = RebuiltFigures {
            states,
            in_memory: differing(|difference| difference.in_memory),
            online: differing(|difference| difference.online),
            unconfirmed: replaced.unconfirmed.len() as u64,
        };
        self.board.meters().rebuilds.add(&unit.view.def().name, more);
        let candidate = {
            let mut tally = lock(tally);
            tally.reserved |= replaced.reserved_differed;
            tally.unconfirmed += more.unconfirmed;
            tally.changed += replaced.differing.len() as u64;
            tally.in_memory += more.in_memory;
            tally.online += more.online;
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
