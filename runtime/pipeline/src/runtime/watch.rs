//! What the stores say of a job that several processes share: the partitions its answers are made of, and whether
//! its views can be read.

use super::deploy::SharedJob;
use super::owners::Owners;
use super::roster::Roster;
use super::views::bind;
use super::{ActiveView, Readiness, RuntimeParts};
use crate::Result;
use crate::commit::{ActiveRef, JobManifest, committed_partitions, latest, read_component};
use crate::port::Source;
use crate::worker::publish::held_everywhere;
use arc_swap::ArcSwap;
use plumb_transform::Transform;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often the stores are asked; more often while a view is waited for.
const ASK: Duration = Duration::from_secs(1);
const ASK_WAITING: Duration = Duration::from_millis(100);
/// How often for partitions that have come to be.
const ASK_PARTITIONS: Duration = Duration::from_secs(5);
/// How often the end of the job is noticed.
const LOOK: Duration = Duration::from_millis(20);

/// Follows what the stores say.
pub(super) struct Watch {
    job: SharedJob,
    /// The sources that are shared.
    shared: Vec<Arc<dyn Source>>,
    owners: Arc<Owners>,
    /// How long the state of a view that was replaced is kept.
    keep: Duration,
    /// Components that were loaded, by digest; `None` for one that cannot be.
    loaded: BTreeMap<String, Option<Transform>>,
    /// Views that were active, and since when they are not.
    replaced: Vec<(Transform, Instant)>,
    manifest: JobManifest,
    active: Arc<ArcSwap<Vec<ActiveView>>>,
    roster: Arc<Roster>,
    stop: Arc<AtomicBool>,
    /// Per source the partitions there may be.
    known: BTreeMap<String, BTreeSet<u32>>,
    /// Per source the partitions that have shown something, once and for all.
    seen: BTreeMap<String, BTreeSet<u32>>,
    partitions_at: Option<Instant>,
}

impl Watch {
    pub(super) fn new(
        job: SharedJob,
        shared: Vec<Arc<dyn Source>>,
        owners: Arc<Owners>,
        active: Arc<ArcSwap<Vec<ActiveView>>>,
        roster: Arc<Roster>,
        stop: Arc<AtomicBool>,
        keep: Duration,
    ) -> Self {
        let of = |view: &ActiveView| (view.transform.digest().to_string(), Some(view.transform.clone()));
        let loaded = active.load().iter().map(of).collect();
        let (known, seen, replaced) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        let manifest = JobManifest::default();
        Self {
            job,
            shared,
            owners,
            keep,
            loaded,
            replaced,
            manifest,
            active,
            roster,
            stop,
            known,
            seen,
            partitions_at: None,
        }
    }

    /// Until the job has ended.
    pub(super) fn run(mut self) {
        let mut away = false;
        while !self.stop.load(Ordering::Relaxed) {
            match self.look() {
                Ok(()) => away = false,
                // The last that was seen holds until they can be asked again.
                Err(error) if !away => {
                    tracing::warn!(%error, "cannot ask the stores how the job is, trying again");
                    away = true;
                }
                Err(_) => {}
            }
            let incoming = !self.manifest.incoming.is_empty();
            let waiting = incoming || self.active.load().iter().any(|view| !view.ready.is_ready());
            let until = Instant::now() + if waiting { ASK_WAITING } else { ASK };
            while !self.stop.load(Ordering::Relaxed) && Instant::now() < until {
                std::thread::sleep(LOOK);
            }
        }
    }

    /// Asks once.
    fn look(&mut self) -> Result<()> {
        self.manifest = self.job.latest()?;
        self.follow()?;
        if self.partitions_at.is_none_or(|at| at.elapsed() >= ASK_PARTITIONS) {
            for source in &self.shared {
                let name = &source.schema().source;
                let known = self.known.entry(name.clone()).or_default();
                known.extend(source.partitions()?);
                known.extend(committed_partitions(self.job.parts.store.as_ref(), name)?);
            }
            self.partitions_at = Some(Instant::now());
        }
        let names: Vec<String> = self.shared.iter().map(|source| source.schema().source.clone()).collect();
        for name in names {
            let partitions = self.partitions(&name)?;
            self.roster.replace(&name, partitions.clone());
            let active = self.active.load();
            self.ready(&active, &name, &partitions)?;
        }
        self.finish()
    }

    /// Follows the manifest: what answers, and what partitions are to have.
    fn follow(&mut self) -> Result<()> {
        let mut active = Vec::with_capacity(self.manifest.active.len());
        for view in self.manifest.active.clone() {
            match self.load(&view)? {
                Some(transform) => active.push(transform),
                // Not to answer from it is not to be guessed; the last set goes on.
                None => return Ok(()),
            }
        }
        self.swap(&active)?;
        let mut wanted = active;
        for view in self.manifest.incoming.clone() {
            wanted.extend(self.load(&view)?);
        }
        let keep = self.keep;
        self.replaced.retain(|(_, since)| since.elapsed() < keep);
        wanted.extend(self.replaced.iter().map(|(view, _)| view.clone()));
        let mut seen = BTreeSet::new();
        wanted.retain(|view| seen.insert(view.digest().to_string()));
        let same = |before: &[Transform]| {
            before.len() == wanted.len() && before.iter().zip(&wanted).all(|(a, b)| a.digest() == b.digest())
        };
        if !same(&self.owners.wanted()) {
            self.owners.want(wanted);
        }
        Ok(())
    }

    /// A component by what the manifest says of it; `None` for one that cannot be loaded here.
    fn load(&mut self, view: &ActiveRef) -> Result<Option<Transform>> {
        let digest = &view.view.digest;
        if let Some(known) = self.loaded.get(digest) {
            return Ok(known.clone());
        }
        let bytes = read_component(self.job.parts.store.as_ref(), digest)?;
        let loaded = match bind(&self.job.parts, &bytes) {
            Ok(transform) => Some(transform),
            Err(error) => {
                tracing::error!(view = view.view.name, version = view.view.version, %error, "cannot load a view");
                None
            }
        };
        self.loaded.insert(digest.clone(), loaded.clone());
        Ok(loaded)
    }

    /// Lets these views answer, in place of those that do.
    fn swap(&mut self, views: &[Transform]) -> Result<()> {
        let before = self.active.load_full();
        let same = |one: &ActiveView, other: &Transform| one.transform.digest() == other.digest();
        if before.len() == views.len() && before.iter().zip(views).all(|(one, other)| same(one, other)) {
            return Ok(());
        }
        let next: Vec<ActiveView> = views
            .iter()
            .map(|view| match before.iter().find(|one| same(one, view)) {
                Some(one) => one.clone(),
                None => ActiveView { transform: view.clone(), ready: Arc::new(Readiness::waiting_for(1)) },
            })
            .collect();
        // As a rule their state is all there; then they answer from the first moment.
        for source in self.roster.current().keys() {
            self.ready(&next, source, &self.roster.of(source))?;
        }
        let gone = before.iter().filter(|one| !views.iter().any(|view| same(one, view)));
        let now = Instant::now();
        self.replaced.retain(|(view, _)| views.iter().all(|one| one.digest() != view.digest()));
        self.replaced.extend(gone.map(|one| (one.transform.clone(), now)));
        self.active.store(Arc::new(next));
        Ok(())
    }

    /// Makes incoming views active whose state is all there.
    fn finish(&self) -> Result<()> {
        for incoming in &self.manifest.incoming {
            let Some(Some(view)) = self.loaded.get(&incoming.view.digest) else { continue };
            let partitions = self.roster.of(&incoming.source);
            let online = self.job.parts.online.as_ref();
            let held = held_everywhere(online, &incoming.source, &partitions, std::slice::from_ref(view))?;
            if !partitions.is_empty() && held.iter().all(Vec::is_empty) {
                self.job.finish(incoming, &partitions)?;
            }
        }
        Ok(())
    }

    /// The partitions that answers of a source are made of: those that its views were built over, and those that have
    /// come since and have something to show. One that was only just added holds nothing that an answer could miss.
    fn partitions(&mut self, source: &str) -> Result<Vec<u32>> {
        let mut partitions: BTreeSet<u32> = self.seen.get(source).cloned().unwrap_or_default();
        let of_source = self.manifest.active.iter().filter(|active| active.source == source);
        partitions.extend(of_source.flat_map(|active| active.since.keys().copied()));
        let known = self.known.get(source).cloned().unwrap_or_default();
        let open: Vec<u32> = known.difference(&partitions).copied().collect();
        if !open.is_empty() {
            let answer = self.job.parts.online.read(source, &open, &[])?;
            for partition in open {
                let shown = answer.positions.get(&partition).copied().flatten().is_some();
                if shown || has_records(&self.job.parts, source, partition)? {
                    self.seen.entry(source.to_owned()).or_default().insert(partition);
                    partitions.insert(partition);
                }
            }
        }
        Ok(partitions.into_iter().collect())
    }

    /// Lets the views of a source answer whose state is all there.
    fn ready(&self, active: &[ActiveView], source: &str, partitions: &[u32]) -> Result<()> {
        let waiting: Vec<&ActiveView> =
            active.iter().filter(|view| view.transform.def().source == source && !view.ready.is_ready()).collect();
        if waiting.is_empty() || partitions.is_empty() {
            return Ok(());
        }
        let views: Vec<Transform> = waiting.iter().map(|view| view.transform.clone()).collect();
        let missing = held_everywhere(self.job.parts.online.as_ref(), source, partitions, &views)?;
        for (view, missing) in waiting.iter().zip(missing) {
            if missing.is_empty() {
                view.ready.one_less();
            }
        }
        Ok(())
    }
}

/// Whether anything was committed of a partition.
fn has_records(parts: &RuntimeParts, source: &str, partition: u32) -> Result<bool> {
    let manifest = latest(parts.store.as_ref(), source, partition)?;
    Ok(manifest.is_some_and(|manifest| manifest.next_offset > manifest.start_offset))
}
