//! What the stores say of a job that several processes share: the partitions its answers are made of, and whether
//! its views can be read.

use super::roster::Roster;
use super::{ActiveView, RuntimeParts};
use crate::Result;
use crate::commit::{JobChain, committed_partitions, latest};
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
    parts: RuntimeParts,
    /// The sources that are shared.
    shared: Vec<Arc<dyn Source>>,
    job: JobChain,
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
        parts: RuntimeParts,
        shared: Vec<Arc<dyn Source>>,
        job: JobChain,
        active: Arc<ArcSwap<Vec<ActiveView>>>,
        roster: Arc<Roster>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let (known, seen, partitions_at) = (BTreeMap::new(), BTreeMap::new(), None);
        Self { parts, shared, job, active, roster, stop, known, seen, partitions_at }
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
            let waiting = self.active.load().iter().any(|view| !view.ready.is_ready());
            let until = Instant::now() + if waiting { ASK_WAITING } else { ASK };
            while !self.stop.load(Ordering::Relaxed) && Instant::now() < until {
                std::thread::sleep(LOOK);
            }
        }
    }

    /// Asks once.
    fn look(&mut self) -> Result<()> {
        self.job.refresh()?;
        if self.partitions_at.is_none_or(|at| at.elapsed() >= ASK_PARTITIONS) {
            for source in &self.shared {
                let name = &source.schema().source;
                let known = self.known.entry(name.clone()).or_default();
                known.extend(source.partitions()?);
                known.extend(committed_partitions(self.parts.store.as_ref(), name)?);
            }
            self.partitions_at = Some(Instant::now());
        }
        let names: Vec<String> = self.shared.iter().map(|source| source.schema().source.clone()).collect();
        for name in names {
            let partitions = self.partitions(&name)?;
            self.roster.replace(&name, partitions.clone());
            self.ready(&name, &partitions)?;
        }
        Ok(())
    }

    /// The partitions that answers of a source are made of: those that its views were built over, and those that have
    /// come since and have something to show. One that was only just added holds nothing that an answer could miss.
    fn partitions(&mut self, source: &str) -> Result<Vec<u32>> {
        let mut partitions: BTreeSet<u32> = self.seen.get(source).cloned().unwrap_or_default();
        let of_source = self.job.latest().active.iter().filter(|active| active.source == source);
        partitions.extend(of_source.flat_map(|active| active.since.keys().copied()));
        let known = self.known.get(source).cloned().unwrap_or_default();
        let open: Vec<u32> = known.difference(&partitions).copied().collect();
        if !open.is_empty() {
            let answer = self.parts.online.read(source, &open, &[])?;
            for partition in open {
                let shown = answer.positions.get(&partition).copied().flatten().is_some();
                if shown || has_records(&self.parts, source, partition)? {
                    self.seen.entry(source.to_owned()).or_default().insert(partition);
                    partitions.insert(partition);
                }
            }
        }
        Ok(partitions.into_iter().collect())
    }

    /// Lets the views of a source answer whose state is all there.
    fn ready(&self, source: &str, partitions: &[u32]) -> Result<()> {
        let active = self.active.load();
        let waiting: Vec<&ActiveView> =
            active.iter().filter(|view| view.transform.def().source == source && !view.ready.is_ready()).collect();
        if waiting.is_empty() || partitions.is_empty() {
            return Ok(());
        }
        let views: Vec<Transform> = waiting.iter().map(|view| view.transform.clone()).collect();
        let missing = held_everywhere(self.parts.online.as_ref(), source, partitions, &views)?;
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
