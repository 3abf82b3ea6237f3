//! What is global to a job: the active views and their components.
//!
//! `manifest/_job/<seq>` is a chain like a partition's; its last manifest says which versions of which
//! views are active. Components lie under `transforms/<digest>.wasm` and are never removed, so that a
//! version can be rolled back to.

use super::manifest::{Parent, ViewRef};
use super::{damaged, sha256_hex};
use crate::port::ObjectStore;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

const FOLDER: &str = "manifest/_job";
const FORMAT: u32 = 1;

/// What is global to a job, format 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobManifest {
    /// 1.
    pub format: u32,
    /// Its place in the chain, from 1.
    pub seq: u64,
    /// The manifest before it; `None` for the first.
    pub parent: Option<Parent>,
    /// The active views, in order of name.
    pub active: Vec<ActiveRef>,
    /// Views that are being deployed, in the order they came: active once all processes have built them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub incoming: Vec<ActiveRef>,
    /// Versions that were active before, newest last, each once.
    pub retired: Vec<ViewRef>,
    /// What the processes are asked to do beside: to rebuild state from the archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebuild: Option<RebuildRef>,
}

/// A rebuild of online state that all processes do, each in its partitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RebuildRef {
    /// Which; what became of it is kept under it.
    pub id: String,
    /// Of the entities with an event at this instant or later, µs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_us: Option<i64>,
    /// And before this one, µs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_us: Option<i64>,
    /// Views at the same time.
    pub threads: usize,
    /// The memory for state that is being built, in each process.
    pub memory_bytes: u64,
}

/// An active view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActiveRef {
    /// Which version.
    pub view: ViewRef,
    /// The source it reads.
    pub source: String,
    /// From which offset of each partition on the running job has applied it; what was before came from the archive.
    pub since: BTreeMap<u32, u64>,
}

impl Default for JobManifest {
    fn default() -> Self {
        Self {
            format: FORMAT,
            seq: 0,
            parent: None,
            active: Vec::new(),
            incoming: Vec::new(),
            retired: Vec::new(),
            rebuild: None,
        }
    }
}

/// The chain of job manifests.
#[derive(Clone)]
pub struct JobChain {
    store: Arc<dyn ObjectStore>,
    latest: JobManifest,
    sha256: String,
}

impl std::fmt::Debug for JobChain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobChain").field("latest", &self.latest).finish_non_exhaustive()
    }
}

impl JobChain {
    /// Reads the last job manifest; an empty one if there is none yet. One that is damaged is an error: which
    /// versions answer is not to be guessed.
    pub fn open(store: Arc<dyn ObjectStore>) -> Result<Self> {
        let last = store.list(FOLDER)?.into_iter().map(|(path, _)| path).max();
        let Some(path) = last else {
            return Ok(Self { store, latest: JobManifest::default(), sha256: String::new() });
        };
        let bytes = store.get(&path)?.ok_or_else(|| damaged(&path, "it is missing"))?;
        let latest: JobManifest = serde_json::from_slice(&bytes).map_err(|error| damaged(&path, error))?;
        if latest.format != FORMAT {
            return Err(Error::invalid(format!(
                "`{path}` has format {}, this version of plumb reads {FORMAT}: it was written by another version",
                latest.format
            )));
        }
        if job_path(latest.seq) != path {
            return Err(damaged(&path, "it is the manifest of another place"));
        }
        Ok(Self { store, latest, sha256: sha256_hex(&bytes) })
    }

    /// Reads what others have added since; whether there was something.
    pub fn refresh(&mut self) -> Result<bool> {
        let last = self.store.list(FOLDER)?.into_iter().map(|(path, _)| path).max();
        if last.is_none_or(|path| path == job_path(self.latest.seq)) {
            return Ok(false);
        }
        *self = Self::open(self.store.clone())?;
        Ok(true)
    }

    /// The last job manifest.
    pub fn latest(&self) -> &JobManifest {
        &self.latest
    }

    /// Adds a manifest with these views; refused if another process has added one.
    pub fn commit(&mut self, active: Vec<ActiveRef>) -> Result<&JobManifest> {
        self.commit_with(active, Vec::new())
    }

    /// Adds a manifest that asks for a rebuild of state, or for none; refused if another process has added one.
    pub fn ask_rebuild(&mut self, rebuild: Option<RebuildRef>) -> Result<&JobManifest> {
        let (active, incoming) = (self.latest.active.clone(), self.latest.incoming.clone());
        self.add(active, incoming, rebuild)
    }

    /// [`JobChain::commit`] with views that are being deployed.
    pub fn commit_with(&mut self, active: Vec<ActiveRef>, incoming: Vec<ActiveRef>) -> Result<&JobManifest> {
        self.add(active, incoming, self.latest.rebuild.clone())
    }

    fn add(
        &mut self,
        mut active: Vec<ActiveRef>,
        incoming: Vec<ActiveRef>,
        rebuild: Option<RebuildRef>,
    ) -> Result<&JobManifest> {
        active.sort_by(|a, b| a.view.name.cmp(&b.view.name));
        let mut retired = self.latest.retired.clone();
        retired.extend(self.latest.active.iter().map(|active| active.view.clone()));
        retired.retain(|view| !active.iter().any(|active| active.view == *view));
        let mut seen = std::collections::BTreeSet::new();
        // The last mention counts, so that a version that was active twice stands where it was last.
        retired.reverse();
        retired.retain(|view| seen.insert(view.digest.clone()));
        retired.reverse();
        let next = JobManifest {
            format: FORMAT,
            seq: self.latest.seq + 1,
            parent: (self.latest.seq > 0).then(|| Parent { seq: self.latest.seq, sha256: self.sha256.clone() }),
            active,
            incoming,
            retired,
            rebuild,
        };
        let path = job_path(next.seq);
        let bytes = serde_json::to_vec_pretty(&next)
            .map_err(|error| Error::internal(format!("cannot encode a job manifest: {error}")))?;
        let created = self.store.create(&path, &bytes);
        if !matches!(created, Ok(true)) {
            // Ours after all if its bytes are there.
            match self.store.get(&path)? {
                Some(found) if found == bytes => {}
                Some(_) => {
                    let what = "the set of active views".to_owned();
                    return Err(Error::Fenced { what, current: next.seq, own: self.latest.seq });
                }
                None => {
                    created?;
                    return Err(damaged(&path, "it exists and cannot be read"));
                }
            }
        }
        self.latest = next;
        self.sha256 = sha256_hex(&bytes);
        Ok(&self.latest)
    }
}

fn job_path(seq: u64) -> String {
    format!("{FOLDER}/{seq:020}")
}

fn component_path(digest: &str) -> String {
    format!("transforms/{digest}.wasm")
}

/// Keeps a component under its digest (hex).
pub fn put_component(store: &dyn ObjectStore, digest: &str, bytes: &[u8]) -> Result<()> {
    let path = component_path(digest);
    // Content-addressed: what is there already is the same, unless a crash or the disk has damaged it.
    match store.get(&path)? {
        Some(found) if found == bytes => Ok(()),
        _ => store.put(&path, bytes.to_vec()),
    }
}

/// The component of a digest (hex), checked against it.
pub fn read_component(store: &dyn ObjectStore, digest: &str) -> Result<Vec<u8>> {
    let path = component_path(digest);
    let bytes = store.get(&path)?.ok_or_else(|| damaged(&path, "it is missing"))?;
    match sha256_hex(&bytes) {
        found if found == digest => Ok(bytes),
        found => Err(damaged(&path, format!("its SHA-256 is {found}"))),
    }
}
