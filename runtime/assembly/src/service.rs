//! The embedded service: one process that owns a data folder, ingests, commits and answers.

use crate::components;
use crate::history::ArchiveHistory;
use crate::settings::{Settings, SourceKind, SourceSettings};
use crate::{Error, Result};
use plumb_embedded::{DataDir, Embedded, EmbeddedLog, EmbeddedOnline, LogSource};
use plumb_offline_parquet::ParquetArchive;
use plumb_pipeline::accept::AcceptRules;
use plumb_pipeline::clock::SystemClock;
use plumb_pipeline::commit::{committed_partitions, latest};
use plumb_pipeline::port::{Archive, ObjectStore, OnlineStore, Source};
use plumb_pipeline::runtime::{Runtime, RuntimeOptions, RuntimeParts};
use plumb_pipeline::worker::{SourceSetup, WorkerOptions};
use plumb_source_file::{FileSource, FileSourceOptions};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How to run this time; what files do not say.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunOptions {
    /// Stop at the present end of the sources.
    pub until_end: bool,
    /// The instant against which a file source measures `max_future`, µs; `None` = now.
    pub now_us: Option<i64>,
    /// Take a component whose name and version are known with another digest.
    pub replace: bool,
}

/// A running embedded service.
pub struct Service {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) logs: BTreeMap<String, Arc<EmbeddedLog>>,
    pub(crate) online: Arc<EmbeddedOnline>,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) archive: Arc<dyn Archive>,
    pub(crate) settings: Settings,
    applied_before: u64,
    // Last, so that the data folder is given back only when the workers have ended.
    pub(crate) owned: DataDir,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("data_dir", &self.owned.path()).finish_non_exhaustive()
    }
}

/// What a source accepts, as configured.
pub fn accept_rules(settings: &SourceSettings) -> AcceptRules {
    AcceptRules {
        min_time_us: settings.min_time_us,
        max_future_us: settings.max_future_us,
        allowed_lateness_us: settings.allowed_lateness_us,
    }
}

/// Takes the data folder, opens (creates) the logs of its sources and nothing else: for appending while no
/// service runs.
pub fn open_logs(settings: &Settings, owned: &DataDir) -> Result<(Embedded, BTreeMap<String, Arc<EmbeddedLog>>)> {
    let embedded = Embedded::open(owned)?;
    let mut logs = BTreeMap::new();
    for (name, source) in &settings.sources {
        if source.kind == SourceKind::Log {
            logs.insert(name.clone(), embedded.log(name, Some(source.partitions))?);
        }
    }
    Ok((embedded, logs))
}

impl Service {
    /// Takes the data folder, recovers, and starts ingesting. Components of `transforms.paths` that are new are
    /// built from the archive first.
    pub fn start(settings: Settings, options: RunOptions) -> Result<Self> {
        if settings.online.redis.is_some() {
            return Err(Error::invalid("online.url: this build has no online store in Redis"));
        }
        let owned = DataDir::own(&settings.data_dir)?;
        let engine = components::engine()?;
        let mut component_bytes = Vec::new();
        for path in settings.component_files()? {
            component_bytes.push(components::load(&engine, &path)?.bytes);
        }
        let (embedded, logs) = open_logs(&settings, &owned)?;
        let online = embedded.online()?;
        let store = plumb_store_object::open(&settings.offline.url)?;
        let archive: Arc<dyn Archive> = Arc::new(ParquetArchive::new(store.clone()));
        let mut sources = Vec::with_capacity(settings.sources.len());
        for (name, source) in &settings.sources {
            let rules = accept_rules(source);
            let source = open_source(&settings, name, source, &logs, rules, options)?;
            sources.push(SourceSetup { source, rules, dead_letters: None });
        }
        let applied_before = applied(store.as_ref(), &settings)?;
        let parts = RuntimeParts {
            sources,
            online: online.clone(),
            store: store.clone(),
            archive: archive.clone(),
            loader: Arc::new(engine),
            clock: Arc::new(SystemClock::default()),
        };
        let worker = WorkerOptions {
            publish_interval: settings.run.publish_interval,
            commit_interval: settings.run.commit_interval,
            commit_bytes: settings.run.commit_size_bytes,
            bounded: options.until_end,
            ..WorkerOptions::default()
        };
        let mut runtime_options = RuntimeOptions { worker, replace: options.replace, ..RuntimeOptions::default() };
        if settings.run.threads > 0 {
            runtime_options.threads = settings.run.threads as usize;
        }
        let runtime = Arc::new(Runtime::start(parts, runtime_options, &component_bytes)?);
        Ok(Self { owned, logs, online, store, archive, runtime, settings, applied_before })
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
        ArchiveHistory::new(self.store.clone(), self.archive.clone(), self.runtime.clone())
    }

    /// Tells other commands where this process listens.
    pub fn announce(&self, admin: Option<String>, listen: Option<String>) -> Result<()> {
        self.owned.announce(admin, listen)
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

fn open_source(
    settings: &Settings,
    name: &str,
    source: &SourceSettings,
    logs: &BTreeMap<String, Arc<EmbeddedLog>>,
    rules: AcceptRules,
    options: RunOptions,
) -> Result<Arc<dyn Source>> {
    let schema = settings.schema(name)?;
    match (source.kind, logs.get(name)) {
        (SourceKind::Log, Some(log)) => {
            let source = LogSource::new(log.clone(), schema, source.time_unit, rules);
            Ok(Arc::new(if options.until_end { source.until_end()? } else { source }))
        }
        (SourceKind::File, _) => {
            let now_us = match options.now_us {
                Some(now_us) => now_us,
                None => plumb_pipeline::clock::Clock::now_us(&SystemClock::default()),
            };
            let options = FileSourceOptions { unit: source.time_unit, rules, now_us, follow: !options.until_end };
            Ok(Arc::new(FileSource::new(&source.path, schema, options)?))
        }
        (SourceKind::Kafka, _) => Err(Error::invalid(format!("source `{name}`: this build has no Kafka source"))),
        (SourceKind::Log, None) => Err(Error::internal(format!("source `{name}` has no log"))),
    }
}
