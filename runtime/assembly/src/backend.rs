//! The running service as the HTTP service sees it.

use crate::Result;
use crate::service::Service;
use crate::sources::Sinks;
use plumb_embedded::EmbeddedLog;
use plumb_pipeline::clock::{Clock, SystemClock};
use plumb_pipeline::metrics::{Figures, GuestFigures};
use plumb_pipeline::near::{near_names, quoted};
use plumb_pipeline::port::{EventLog, Source};
use plumb_pipeline::query::{Answer, Evaluator, Position, Query, QueryError, Request, RuntimeViews};
use plumb_pipeline::runtime::{ActiveView, Deployed, Materialize, MaterializePhase, MaterializeStatus, Runtime};
use plumb_pipeline::worker::{PartitionStatus, Phase};
use plumb_serve_http::{Backend, BackendError, Dependency, RegistryEntry, ViewState};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// [`Backend`] over a running service.
pub struct ServiceBackend {
    runtime: Arc<Runtime>,
    sources: BTreeMap<String, Arc<dyn Source>>,
    /// Of the sources that are this process's alone: what was appended is waited for.
    logs: BTreeMap<String, Arc<EmbeddedLog>>,
    sinks: Sinks,
    evaluator: Evaluator,
    clock: Arc<SystemClock>,
    max_state_bytes: u64,
}

impl std::fmt::Debug for ServiceBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceBackend").field("runtime", &self.runtime).finish_non_exhaustive()
    }
}

impl ServiceBackend {
    /// The backend of a service.
    pub fn new(service: &Service) -> Result<Self> {
        let clock = Arc::new(SystemClock::default());
        let runtime = service.runtime();
        let views = RuntimeViews::new(runtime.active_handle(), runtime.roster());
        let evaluator = Evaluator::new(Arc::new(views), service.online(), Arc::new(service.history()), clock.clone());
        let max_state_bytes = service.settings().run.max_state_bytes;
        Ok(Self {
            runtime: service.runtime().clone(),
            sources: service.sources.clone(),
            logs: service.logs.clone(),
            sinks: Sinks::new(service.settings().clone(), service.logs.clone()),
            evaluator,
            clock,
            max_state_bytes,
        })
    }

    fn entry(&self, view: &ActiveView) -> RegistryEntry {
        RegistryEntry {
            view: view.name().to_owned(),
            version: view.transform.version_label(),
            digest: view.transform.digest().to_string(),
            state: if view.ready.is_ready() { ViewState::Active } else { ViewState::Warming },
            definition: view.transform.to_json(),
        }
    }

    fn deployed(&self, Deployed { transform, .. }: Deployed) -> Result<RegistryEntry, BackendError> {
        let active = self.runtime.active_views();
        let found = active.iter().find(|view| view.transform.digest() == transform.digest());
        found.map(|view| self.entry(view)).ok_or_else(|| {
            BackendError::Conflict(format!("view `{}` was replaced again at once", transform.def().name))
        })
    }

    /// Refuses the name of a view that is not among these.
    fn known<'a>(&self, view: &str, names: impl Iterator<Item = &'a str> + Clone) -> Result<(), BackendError> {
        if names.clone().any(|name| name == view) {
            return Ok(());
        }
        let near = near_names(view, names);
        let hint = match near.as_slice() {
            [] => String::new(),
            near => format!("; did you mean {}?", quoted(near.iter().map(String::as_str))),
        };
        Err(BackendError::NotFound(format!("there is no view `{view}`{hint}")))
    }

    fn source_position(&self, of: impl Fn(&PartitionStatus) -> u64) -> Position {
        let mut position = Position::default();
        for status in self.runtime.status().partitions {
            position.sources.entry(status.source.clone()).or_default().insert(status.partition, of(&status));
        }
        position
    }
}

impl Backend for ServiceBackend {
    fn query(&self, query: &Query) -> Result<Vec<Answer>, QueryError> {
        self.evaluator.query(query)
    }

    fn history(&self, request: &Request, position: Option<&Position>) -> Result<Answer, QueryError> {
        self.evaluator.history(request, position)
    }

    fn registry(&self) -> Result<Vec<RegistryEntry>, BackendError> {
        Ok(self.runtime.active_views().iter().map(|view| self.entry(view)).collect())
    }

    fn deploy(&self, component: Vec<u8>, replace: bool) -> Result<RegistryEntry, BackendError> {
        self.deployed(self.runtime.deploy(&component, replace)?)
    }

    fn rollback(&self, view: &str) -> Result<RegistryEntry, BackendError> {
        let job = self.runtime.job();
        let active = job.active.iter().map(|active| &active.view);
        self.known(view, active.chain(&job.retired).map(|known| known.name.as_str()))?;
        if !job.retired.iter().any(|retired| retired.name == view) {
            return Err(BackendError::Conflict(format!("view `{view}` has no earlier version to go back to")));
        }
        self.deployed(self.runtime.rollback(view)?)
    }

    fn retire(&self, view: &str) -> Result<(), BackendError> {
        let active = self.runtime.active_views();
        self.known(view, active.iter().map(ActiveView::name))?;
        drop(active);
        Ok(self.runtime.retire(view)?)
    }

    fn append(&self, source: &str, records: &[&[u8]]) -> Result<Position, BackendError> {
        self.sinks.has(source).map_err(|error| BackendError::NotFound(error.to_string()))?;
        Ok(Position::of(source, self.sinks.get(source)?.append(records)?))
    }

    fn commit(&self) -> Result<Position, BackendError> {
        // What was acknowledged before this call is in the commit, and in every answer after it.
        for (source, log) in &self.logs {
            let end = |partition| Ok((partition, log.end(partition)?));
            let ends: BTreeMap<u32, u64> = (0..log.partitions()).map(end).collect::<Result<_>>()?;
            self.runtime.wait_published(source, &ends)?;
        }
        self.runtime.commit_now()?;
        Ok(self.source_position(|status| status.committed))
    }

    fn materialize(&self, request: Materialize) -> Result<MaterializeStatus, BackendError> {
        if self.runtime.materializing().is_some_and(|last| last.phase == MaterializePhase::Running) {
            return Err(BackendError::Conflict("state is being rebuilt already: wait for its end, or stop it".into()));
        }
        Ok(self.runtime.materialize(request)?)
    }

    fn materializing(&self) -> Result<Option<MaterializeStatus>, BackendError> {
        Ok(self.runtime.materializing())
    }

    fn stop_materializing(&self) -> Result<(), BackendError> {
        self.runtime.stop_materializing();
        Ok(())
    }

    fn readiness(&self) -> Vec<Dependency> {
        let status = self.runtime.status();
        let waiting: Vec<String> = status
            .partitions
            .iter()
            .filter(|partition| !matches!(partition.phase, Phase::Live | Phase::Ended))
            .map(|partition| format!("{}/{} is {:?}", partition.source, partition.partition, partition.phase))
            .collect();
        let failure = status.failure.unwrap_or_default();
        let views = self.runtime.active_views();
        let warming: Vec<&str> = views.iter().filter(|view| !view.ready.is_ready()).map(ActiveView::name).collect();
        // Answers go on from what was read before.
        let sources = self.sources.iter().map(|(name, source)| Dependency {
            name: format!("source {name}"),
            ready: true,
            detail: source.trouble().map(|why| format!("nothing new is read: {why}")).unwrap_or_default(),
        });
        let snapshots = self.runtime.board().snapshot_troubles();
        let snapshots: Vec<String> = snapshots.into_iter().map(|(source, why)| format!("of {source}: {why}")).collect();
        let mut dependencies = vec![
            Dependency { name: "workers".into(), ready: failure.is_empty(), detail: failure },
            Dependency { name: "partitions".into(), ready: waiting.is_empty(), detail: waiting.join(", ") },
            Dependency { name: "views".into(), ready: warming.is_empty(), detail: warming.join(", ") },
        ];
        dependencies.extend(sources);
        // Answers need none.
        dependencies.push(Dependency { name: "snapshots".into(), ready: true, detail: snapshots.join(", ") });
        dependencies
    }

    fn figures(&self) -> Figures {
        let partitions = self.runtime.status().partitions;
        let end = |status: &PartitionStatus| {
            let end = self.sources.get(&status.source)?.end(status.partition).ok()?;
            Some(((status.source.clone(), status.partition), end?))
        };
        let views = self.runtime.active_views();
        let board = self.runtime.board();
        Figures {
            ends: partitions.iter().filter_map(end).collect(),
            reachable: self.sources.iter().map(|(name, one)| (name.clone(), one.trouble().is_none())).collect(),
            ready: views.iter().map(|view| (view.name().to_owned(), view.ready.is_ready())).collect(),
            guests: views.iter().flat_map(|view| GuestFigures::of(&view.transform)).collect(),
            meters: board.meters().all(),
            fence_rejections: board.meters().fence_rejections.load(Ordering::Relaxed),
            rebuilds: board.meters().rebuilds.figures(),
            max_state_bytes: self.max_state_bytes,
            now_us: self.clock.now_us(),
            partitions,
        }
    }
}
