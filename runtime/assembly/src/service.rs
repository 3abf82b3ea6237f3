//! The service in this process: ingests, commits and answers. It owns the data folder where something embedded is
//! used; a job whose log and stores are all elsewhere runs in any number of processes.

use crate::components;
use crate::history::ArchiveHistory;
use crate::instance::Instances;
use crate::settings::Settings;
use crate::{Error, Result, sources, start, stores};
use plumb_embedded::{DataDir, EmbeddedLog};
use plumb_offline_parquet::{LocalScratch, ParquetArchive, StreamSnapshots};
use plumb_pipeline::clock::SystemClock;
use plumb_pipeline::commit::{committed_partitions, latest};
use plumb_pipeline::port::{Archive, ObjectStore, OnlineStore, Source, StartFrom};
use plumb_pipeline::runtime::{Runtime, RuntimeOptions, RuntimeParts};
use plumb_pipeline::snapshots::{SILENT_AFTER, SnapshotSetup};
use plumb_pipeline::worker::{SourceSetup, WorkerOptions};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How often to look for due snapshots, at most and at least.
const LOOK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// What a pass that makes snapshots may take of memory.
const SNAPSHOT_MEMORY: u64 = 256 << 20;

/// How to run this time; what files do not say.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Stop at the present end of the sources.
    pub until_end: bool,
    /// The instant against which a file source measures `max_future`, µs; `None` = now.
    pub now_us: Option<i64>,
    /// Take a component whose name and version are known with another digest.
    pub replace: bool,
    /// Where partitions of these sources begin that were never processed, if not where the settings say.
    pub from: BTreeMap<String, StartFrom>,
    /// Go on where a topic has lost records that were not processed yet.
    pub accept_gap: bool,
}

/// A running service.
pub struct Service {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) logs: BTreeMap<String, Arc<EmbeddedLog>>,
    pub(crate) sources: BTreeMap<String, Arc<dyn Source>>,
    pub(crate) online: Arc<dyn OnlineStore>,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) archive: Arc<dyn Archive>,
    pub(crate) settings: Settings,
    applied_before: u64,
    // Last, so that names and the data folder are given back only when the workers have ended.
    #[expect(dead_code, reason = "held as long as this process is in its groups")]
    instances: Instances,
    pub(crate) owned: Option<DataDir>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("data_dir", &self.owned.as_ref().map(DataDir::path)).finish_non_exhaustive()
    }
}

impl Service {
    /// Takes the data folder if something embedded is in it, recovers, and starts ingesting. Components of
    /// `transforms.paths` that are new are built from the archive first.
    pub fn start(mut settings: Settings, options: RunOptions) -> Result<Self> {
        let engine = components::engine()?;
        let mut component_bytes = Vec::new();
        let mut given = Vec::new();
        for path in settings.component_files()? {
            let components::ComponentFile { bytes, component, .. } = components::load(&engine, &path)?;
            component_bytes.push(bytes);
            given.push((component.def.source.clone(), component.digest.to_string()));
        }
        let owned = if settings.is_shared() { None } else { Some(DataDir::own(&settings.data_dir)?) };
        let (embedded, logs) = match &owned {
            Some(owned) => {
                let (embedded, logs) = sources::open_logs(&settings, owned)?;
                (Some(embedded), logs)
            }
            None => (None, BTreeMap::new()),
        };
        let online: Arc<dyn OnlineStore> = match (stores::shared_online(&settings)?, embedded) {
            (Some(shared), _) => shared,
            (None, Some(embedded)) => embedded.online()?,
            (None, None) => return Err(Error::internal("a shared job has an embedded online store")),
        };
        let instances = Instances::take(&mut settings)?;
        let store = stores::offline(&settings)?;
        start::check(&store, &options.from, &given)?;
        let archive: Arc<dyn Archive> = Arc::new(ParquetArchive::new(store.clone()));
        let mut of_sources = BTreeMap::new();
        let mut setups = Vec::with_capacity(settings.sources.len());
        for (name, source) in &settings.sources {
            let opened = sources::open(&settings, name, &logs, &options)?;
            of_sources.insert(name.clone(), opened.clone());
            let rules = sources::accept_rules(source);
            setups.push(SourceSetup { source: opened, rules, dead_letters: sources::dead_letters(source)? });
        }
        let applied_before = applied(store.as_ref(), &settings)?;
        let parts = RuntimeParts {
            sources: setups,
            online: online.clone(),
            store: store.clone(),
            archive: archive.clone(),
            loader: Arc::new(engine),
            clock: Arc::new(SystemClock::default()),
            snapshots: settings.offline.snapshots.map(|every| SnapshotSetup {
                every,
                sinks: Arc::new(StreamSnapshots::new(store.clone())),
                // Nothing can be due more often than is committed.
                look_every: settings.run.commit_interval.clamp(LOOK.0, LOOK.1),
                memory_bytes: SNAPSHOT_MEMORY,
                scratch: Arc::new(LocalScratch::new(&settings.data_dir)),
                silent_after: SILENT_AFTER,
            }),
        };
        let worker = WorkerOptions {
            publish_interval: settings.run.publish_interval,
            commit_interval: settings.run.commit_interval,
            commit_bytes: settings.run.commit_size_bytes,
            max_uncommitted_bytes: settings.run.max_uncommitted_bytes,
            max_state_bytes: settings.run.max_state_bytes,
            hot_key: settings.run.hot_key.into(),
            bounded: options.until_end,
            keep: settings.offline.keep_replaced,
            merge_files: settings.offline.merges_files(),
            ..WorkerOptions::default()
        };
        let mut runtime_options = RuntimeOptions { worker, replace: options.replace, ..RuntimeOptions::default() };
        if settings.run.threads > 0 {
            runtime_options.threads = settings.run.threads as usize;
        }
        let runtime = Arc::new(Runtime::start(parts, runtime_options, &component_bytes)?);
        Ok(Self {
            instances,
            owned,
            logs,
            sources: of_sources,
            online,
            store,
            archive,
            runtime,
            settings,
            applied_before,
        })
    }

    /// How many events earlier runs had applied and committed.
    pub fn applied_before(&self) -> u64 {
        self.applied_before
    }

    /// The running job.
    pub fn runtime(&self) -> &Arc<Runtime> {
        &self.runtime
    }

    /// The settings it runs with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The online store, for answers.
    pub fn online(&self) -> Arc<dyn OnlineStore> {
        self.online.clone()
    }

    /// The files behind the commits.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// Past values from the archive.
    pub fn history(&self) -> ArchiveHistory {
        let shared = self.settings.is_shared().then(|| patience(&self.settings));
        ArchiveHistory::new(self.store.clone(), self.archive.clone(), self.runtime.clone(), shared)
    }

    /// Tells other commands where this process listens, if it owns a data folder.
    pub fn announce(&self, admin: Option<String>, listen: Option<String>) -> Result<()> {
        self.owned.as_ref().map_or(Ok(()), |owned| owned.announce(admin, listen))
    }

    /// Publishes and commits what was applied, and gives the data folder back. Whoever holds the backend must have
    /// let go of it.
    pub fn stop(self) -> Result<()> {
        own(self.runtime)?.stop()
    }

    /// Ends like a crash, for tests; see [`Runtime::abandon`]. Whoever holds the backend must have let go of it.
    pub fn abandon(self) -> Result<()> {
        own(self.runtime)?.abandon();
        Ok(())
    }
}

/// How long a request waits for the commit that holds its position: less than it may take in all, so that it is told
/// to come again.
pub(crate) fn patience(settings: &Settings) -> Duration {
    settings.serve.request_timeout * 4 / 5
}

fn own(runtime: Arc<Runtime>) -> Result<Runtime> {
    Arc::try_unwrap(runtime).map_err(|_| Error::internal("the service is still in use"))
}

/// How many events the last manifests count as applied. A manifest that cannot be read counts nothing here; what
/// to do about it is the recovery's to say.
fn applied(store: &dyn ObjectStore, settings: &Settings) -> Result<u64> {
    let mut applied = 0;
    for source in settings.sources.keys() {
        for partition in committed_partitions(store, source)? {
            if let Ok(Some(manifest)) = latest(store, source, partition) {
                applied += manifest.accounting.applied;
            }
        }
    }
    Ok(applied)
}
