//! Deployments of a job that several processes share: through the job manifest, which all of them follow.
//!
//! A view that is being deployed stands in the manifest as incoming. Every process adds it to the partitions it works
//! on; once the online store holds all of it, whoever sees that first makes it active in the manifest, and every
//! process answers from it when it reads that. The state of the version before is kept until the slowest of them has.
//! Nothing of this depends on the process that was asked: if it dies, the others finish.

use super::owners::Owners;
use super::views;
use super::{Deployed, Deployment, RuntimeParts, stopped};
use crate::commit::{ActiveRef, JobChain, JobManifest, latest, load, put_component, read_component};
use crate::worker::build::apply_archive;
use crate::worker::publish::held_everywhere;
use crate::worker::{Command, Missing, view_ref};
use crate::{Error, Result};
use crossbeam_channel::{Sender, bounded};
use plumb_core::state::ViewState;
use plumb_transform::Transform;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a change is tried again because another process has changed the manifest.
const TRIES: usize = 32;
/// How long a deployment may take.
const DEPLOY_WITHIN: Duration = Duration::from_secs(600);
/// How often is looked whether it is done.
const LOOK: Duration = Duration::from_millis(50);
/// How often partitions are brought to have the views they should.
const RECONCILE: Duration = Duration::from_millis(250);

/// The job manifest as processes share it.
#[derive(Clone)]
pub(super) struct SharedJob {
    pub(super) parts: RuntimeParts,
    pub(super) chain: Arc<Mutex<JobChain>>,
}

impl SharedJob {
    pub(super) fn lock(&self) -> MutexGuard<'_, JobChain> {
        // A change has either written its manifest or not.
        self.chain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last manifest there is.
    pub(super) fn latest(&self) -> Result<JobManifest> {
        let mut chain = self.lock();
        chain.refresh()?;
        Ok(chain.latest().clone())
    }

    /// Changes the sets of active and incoming views; `change` says to what, or `None` for not at all.
    pub(super) fn change(
        &self,
        change: impl Fn(&JobManifest) -> Result<Option<(Vec<ActiveRef>, Vec<ActiveRef>)>>,
    ) -> Result<()> {
        let mut chain = self.lock();
        for _ in 0..TRIES {
            chain.refresh()?;
            let Some((active, incoming)) = change(chain.latest())? else { return Ok(()) };
            match chain.commit_with(active, incoming) {
                Err(Error::Fenced { .. }) => {}
                done => return done.map(|_| ()),
            }
        }
        Err(Error::unavailable("change the set of active views", "other processes change it again and again"))
    }

    /// Makes a view incoming, in place of another version of it that is.
    pub(super) fn announce(&self, transform: &Transform) -> Result<()> {
        let view = view_ref(transform);
        self.change(|job| {
            if job.active.iter().chain(&job.incoming).any(|known| known.view == view) {
                return Ok(None);
            }
            let mut incoming: Vec<ActiveRef> =
                job.incoming.iter().filter(|known| known.view.name != view.name).cloned().collect();
            let source = transform.def().source.clone();
            incoming.push(ActiveRef { view: view.clone(), source, since: BTreeMap::new() });
            Ok(Some((job.active.clone(), incoming)))
        })
    }

    /// Makes an incoming view active; `partitions` are those it was built over.
    pub(super) fn finish(&self, incoming: &ActiveRef, partitions: &[u32]) -> Result<()> {
        let mut since = BTreeMap::new();
        for &partition in partitions {
            let manifest = latest(self.parts.store.as_ref(), &incoming.source, partition)?;
            since.insert(partition, manifest.map_or(0, |manifest| manifest.next_offset));
        }
        self.change(|job| {
            if !job.incoming.iter().any(|known| known.view == incoming.view) {
                return Ok(None);
            }
            let others = |refs: &[ActiveRef]| -> Vec<ActiveRef> {
                refs.iter().filter(|known| known.view.name != incoming.view.name).cloned().collect()
            };
            let mut active = others(&job.active);
            active.push(ActiveRef { since: since.clone(), ..incoming.clone() });
            Ok(Some((active, others(&job.incoming))))
        })
    }

    /// Takes an incoming view out again.
    fn drop_incoming(&self, transform: &Transform) -> Result<()> {
        let view = view_ref(transform);
        self.change(|job| {
            let incoming: Vec<ActiveRef> = job.incoming.iter().filter(|known| known.view != view).cloned().collect();
            Ok((incoming.len() < job.incoming.len()).then(|| (job.active.clone(), incoming)))
        })
    }

    /// Deploys a component; returns when it is active in the manifest.
    pub(super) fn deploy(
        &self,
        component: &[u8],
        replace: bool,
        old: Option<Transform>,
        partitions: &dyn Fn(&str) -> Vec<u32>,
        stop: &AtomicBool,
    ) -> Result<Deployed> {
        let transform = views::bind(&self.parts, component)?;
        if old.as_ref().is_some_and(|old| old.digest() == transform.digest()) {
            return Ok(Deployed { transform, outcome: Deployment::Unchanged });
        }
        views::check_version(&self.latest()?, old.as_ref(), &transform, replace)?;
        views::check_snapshots(&self.parts, &transform)?;
        put_component(self.parts.store.as_ref(), &transform.digest().to_string(), component)?;
        self.announce(&transform)?;
        self.wait(&transform, partitions, stop)?;
        Ok(Deployed { transform, outcome: old.map_or(Deployment::Added, Deployment::Replaced) })
    }

    /// The version of a view that was active before the one that is.
    pub(super) fn previous(&self, name: &str) -> Result<Vec<u8>> {
        let job = self.latest()?;
        let previous = job.retired.iter().rev().find(|view| view.name == name);
        let previous =
            previous.ok_or_else(|| Error::invalid(format!("view `{name}` has no earlier version to go back to")))?;
        read_component(self.parts.store.as_ref(), &previous.digest)
    }

    /// Takes a view out of the active ones, and another version of it out of the incoming ones.
    pub(super) fn retire(&self, name: &str) -> Result<()> {
        self.change(|job| {
            let others = |refs: &[ActiveRef]| -> Vec<ActiveRef> {
                refs.iter().filter(|known| known.view.name != name).cloned().collect()
            };
            let active = others(&job.active);
            if active.len() == job.active.len() {
                return Err(Error::invalid(format!("there is no active view `{name}`")));
            }
            Ok(Some((active, others(&job.incoming))))
        })
    }

    /// Waits until an incoming view has become active.
    fn wait(&self, transform: &Transform, partitions: &dyn Fn(&str) -> Vec<u32>, stop: &AtomicBool) -> Result<()> {
        let view = view_ref(transform);
        let until = Instant::now() + DEPLOY_WITHIN;
        loop {
            let job = self.latest()?;
            if job.active.iter().any(|known| known.view == view) {
                return Ok(());
            }
            if !job.incoming.iter().any(|known| known.view == view) {
                return Err(Error::invalid(format!(
                    "another version of view `{}` was deployed, or it was retired, before this one was complete",
                    view.name
                )));
            }
            if stop.load(Ordering::Relaxed) {
                // The other processes go on with it.
                return Err(stopped());
            }
            if Instant::now() >= until {
                let source = &transform.def().source;
                let views = std::slice::from_ref(transform);
                let online = self.parts.online.as_ref();
                let missing = held_everywhere(online, source, &partitions(source), views)?.concat();
                self.drop_incoming(transform)?;
                return Err(Error::unavailable(
                    format!("deploy view `{}`", view.name),
                    format!("partitions {missing:?} of source `{source}` did not have it after {DEPLOY_WITHIN:?}"),
                ));
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// Brings the partitions of this process to have the views they should, until the job ends.
pub(super) fn reconcile(parts: &RuntimeParts, owners: &Owners, workers: &[Sender<Command>], stop: &AtomicBool) {
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if Instant::now() < next {
            std::thread::sleep(LOOK);
            continue;
        }
        next = Instant::now() + RECONCILE;
        for missing in missing(owners, workers) {
            let Missing { source, partition, view } = missing;
            let name = view.def().name.clone();
            if let Err(error) = add(parts, owners, stop, &source, partition, view) {
                // The partition has gone to another process, or a store is away: the next look says.
                tracing::warn!(source, partition, view = name, %error, "cannot add a view yet");
            }
        }
    }
}

/// Asks all workers.
fn missing(owners: &Owners, workers: &[Sender<Command>]) -> Vec<Missing> {
    let (done, answers) = bounded(workers.len());
    let wanted = owners.wanted();
    for worker in workers {
        // One that has ended has no partitions.
        let _ended = worker.send(Command::Reconcile { wanted: wanted.clone(), done: done.clone() });
    }
    drop(done);
    answers.iter().flatten().collect()
}

fn add(
    parts: &RuntimeParts,
    owners: &Owners,
    stop: &AtomicBool,
    source: &str,
    partition: u32,
    view: Transform,
) -> Result<()> {
    let (built_to, state) = build(parts, stop, source, partition, &view)?;
    let (done, answer) = bounded(1);
    let (source, state) = (source.to_owned(), Box::new(state));
    let worker = owners.worker(&source, partition).ok_or_else(stopped)?;
    worker.send(Command::AddView { source, partition, view, state, built_to, done }).map_err(|_| stopped())?;
    answer.recv().map_err(|_| stopped())?.map(|_| ())
}

/// The state of a view of a partition as of what is committed now, and up to where that is.
pub(super) fn build(
    parts: &RuntimeParts,
    stop: &AtomicBool,
    source: &str,
    partition: u32,
    view: &Transform,
) -> Result<(u64, ViewState)> {
    let mut states = [(view.clone(), ViewState::new(view.plan().clone()))];
    let store = parts.store.as_ref();
    let mut built_to = 0;
    if let Some(manifest) = latest(store, source, partition)? {
        built_to = manifest.next_offset;
        let files = load::row_files(store, &manifest)?;
        let go_on = || !stop.load(Ordering::Relaxed);
        apply_archive(parts.archive.as_ref(), partition, &files, 0..built_to, &mut states, &go_on)?;
    }
    let [(_, state)] = states;
    Ok((built_to, state))
}
