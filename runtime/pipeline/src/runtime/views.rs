//! The active views: which versions a start or a deployment makes active, and when they may answer.

use super::RuntimeParts;
use super::deploy::SharedJob;
use crate::commit::{ActiveRef, JobChain, JobManifest, latest, put_component, read_component};
use crate::worker::{SourceSetup, view_ref};
use crate::{Error, Result};
use plumb_transform::{LoadedComponent, Transform};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Turns a component's bytes into something that runs.
pub trait Loader: Send + Sync {
    /// Loads and checks a component.
    fn load(&self, bytes: &[u8]) -> Result<LoadedComponent>;
}

impl Loader for plumb_transform::Engine {
    fn load(&self, bytes: &[u8]) -> Result<LoadedComponent> {
        Ok(plumb_transform::Engine::load(self, bytes)?)
    }
}

/// A view that answers.
#[derive(Debug, Clone)]
pub struct ActiveView {
    /// The view.
    pub transform: Transform,
    /// Whether all of its state can be read.
    pub ready: Arc<Readiness>,
}

impl ActiveView {
    /// The view's name.
    pub fn name(&self) -> &str {
        &self.transform.def().name
    }
}

/// Counts down the partitions whose state of a view is not in the online store yet.
#[derive(Debug)]
pub struct Readiness(AtomicUsize);

impl Readiness {
    /// Waits for so many partitions.
    pub fn waiting_for(partitions: usize) -> Self {
        Self(AtomicUsize::new(partitions))
    }

    /// Whether the view may answer.
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }

    /// The view is not to answer any more: its state is about to go.
    pub(super) fn revoke(&self) {
        self.0.store(usize::MAX, Ordering::Release);
    }

    /// One partition more can be read.
    pub(super) fn one_less(&self) {
        // The last one to reach zero stays there; nobody counts a partition twice.
        let _already_zero = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |waiting| waiting.checked_sub(1));
    }
}

/// What a deployment did.
#[derive(Debug, Clone)]
pub struct Deployed {
    /// The version that answers now.
    pub transform: Transform,
    /// What that means for the job.
    pub outcome: Deployment,
}

/// What became of a deployment.
#[derive(Debug, Clone)]
pub enum Deployment {
    /// The view is new.
    Added,
    /// It answers in place of this version.
    Replaced(Transform),
    /// It was active already.
    Unchanged,
}

/// Loads a component and binds it to its source.
pub(super) fn bind(parts: &RuntimeParts, component: &[u8]) -> Result<Transform> {
    let loaded = parts.loader.load(component)?;
    let setup = source_of(parts, &loaded)?;
    Ok(Transform::new(loaded, setup.source.schema(), setup.rules.allowed_lateness_us)?)
}

fn source_of<'a>(parts: &'a RuntimeParts, loaded: &LoadedComponent) -> Result<&'a SourceSetup> {
    let wanted = &loaded.def.source;
    parts.sources.iter().find(|setup| setup.source.schema().source == *wanted).ok_or_else(|| {
        let known: Vec<_> = parts.sources.iter().map(|setup| format!("`{}`", setup.source.schema().source)).collect();
        Error::invalid(format!(
            "view `{}` reads source `{wanted}`, configured are {}",
            loaded.def.name,
            known.join(", ")
        ))
    })
}

/// Whether a version may become active in place of `old`.
pub(super) fn check_version(job: &JobManifest, old: Option<&Transform>, new: &Transform, replace: bool) -> Result<()> {
    if replace {
        return Ok(());
    }
    let def = new.def();
    if let Some(old) = old
        && old.def().version > def.version
    {
        return Err(Error::invalid(format!(
            "view `{}` is active in version {}, newer than {}; use --replace to go back",
            def.name,
            old.version_label(),
            new.version_label()
        )));
    }
    let known = job.active.iter().map(|active| &active.view).chain(&job.retired);
    let (version, digest) = (def.version.to_string(), new.digest().to_string());
    match known.into_iter().find(|view| view.name == def.name && view.version == version && view.digest != digest) {
        Some(known) => Err(Error::invalid(format!(
            "view `{}` has version {version} already, as another component ({}, this one is {}); raise its version, \
             or use --replace",
            def.name,
            known.digest.get(..8).unwrap_or(&known.digest),
            new.digest().short()
        ))),
        None => Ok(()),
    }
}

/// Refuses a view for which there are snapshots of another kind than the job makes.
pub(super) fn check_snapshots(parts: &RuntimeParts, new: &Transform) -> Result<()> {
    parts.snapshots.as_ref().map_or(Ok(()), |snapshots| snapshots.check([new]))
}

/// The views a job starts with: those of the job manifest, changed by `components`, in order of name. Writes
/// the job manifest if they differ.
pub(super) fn reconcile(
    parts: &RuntimeParts,
    job: &mut JobChain,
    components: &[Vec<u8>],
    partitions: &BTreeMap<String, Vec<u32>>,
    replace: bool,
) -> Result<Vec<Transform>> {
    let mut views: BTreeMap<String, (Transform, Option<ActiveRef>)> = BTreeMap::new();
    for active in &job.latest().active {
        let component = read_component(parts.store.as_ref(), &active.view.digest)?;
        views.insert(active.view.name.clone(), (bind(parts, &component)?, Some(active.clone())));
    }
    let mut given: BTreeMap<String, Transform> = BTreeMap::new();
    for component in components {
        let transform = bind(parts, component)?;
        let name = transform.def().name.clone();
        if let Some(other) = given.insert(name.clone(), transform.clone())
            && other.digest() != transform.digest()
        {
            return Err(Error::invalid(format!(
                "view `{name}` is given twice, as {} and as {}; keep one of the files",
                other.version_label(),
                transform.version_label()
            )));
        }
        match views.get(&name) {
            Some((active, _)) if active.digest() == transform.digest() => continue,
            Some((active, _)) if active.def().version > transform.def().version => {
                tracing::info!(
                    view = name,
                    active = active.version_label(),
                    given = transform.version_label(),
                    "the active version is newer than the given one and stays"
                );
                continue;
            }
            active => check_version(job.latest(), active.map(|(active, _)| active), &transform, replace)?,
        }
        put_component(parts.store.as_ref(), &transform.digest().to_string(), component)?;
        views.insert(name, (transform, None));
    }
    if views.values().any(|(_, known)| known.is_none()) {
        let mut refs = Vec::with_capacity(views.len());
        for (transform, known) in views.values() {
            refs.push(match known {
                Some(known) => known.clone(),
                None => ActiveRef {
                    view: view_ref(transform),
                    source: transform.def().source.clone(),
                    since: committed(parts, &transform.def().source, partitions)?,
                },
            });
        }
        job.commit(refs)?;
    }
    Ok(views.into_values().map(|(transform, _)| transform).collect())
}

/// [`reconcile`] in a job that other processes share: what is new is deployed while the job runs, once there is a set
/// of active views at all. Those of the set are returned.
pub(super) fn reconcile_shared(
    job: &SharedJob,
    components: &[Vec<u8>],
    partitions: &BTreeMap<String, Vec<u32>>,
    replace: bool,
) -> Result<Vec<Transform>> {
    let parts = &job.parts;
    let manifest = loop {
        let manifest = job.latest()?;
        if manifest.seq > 0 {
            break manifest;
        }
        match reconcile(parts, &mut job.lock(), components, partitions, replace) {
            // Another process has been faster.
            Err(Error::Fenced { .. }) => {}
            first => return first,
        }
    };
    let mut active: BTreeMap<String, Transform> = BTreeMap::new();
    for view in &manifest.active {
        let component = read_component(parts.store.as_ref(), &view.view.digest)?;
        active.insert(view.view.name.clone(), bind(parts, &component)?);
    }
    for component in components {
        let transform = bind(parts, component)?;
        let name = &transform.def().name;
        let old = active.get(name);
        if old.is_some_and(|old| old.digest() == transform.digest() || old.def().version > transform.def().version) {
            continue;
        }
        check_version(&manifest, old, &transform, replace)?;
        check_snapshots(parts, &transform)?;
        put_component(parts.store.as_ref(), &transform.digest().to_string(), component)?;
        tracing::info!(view = name, version = transform.version_label(), "view is deployed while the job runs");
        job.announce(&transform)?;
    }
    Ok(active.into_values().collect())
}

/// Up to where each partition of a source is committed.
fn committed(
    parts: &RuntimeParts,
    source: &str,
    partitions: &BTreeMap<String, Vec<u32>>,
) -> Result<BTreeMap<u32, u64>> {
    let numbers = partitions.get(source).map(Vec::as_slice).unwrap_or_default();
    let mut offsets = BTreeMap::new();
    for &partition in numbers {
        let manifest = latest(parts.store.as_ref(), source, partition)?;
        offsets.insert(partition, manifest.map_or(0, |manifest| manifest.next_offset));
    }
    Ok(offsets)
}
