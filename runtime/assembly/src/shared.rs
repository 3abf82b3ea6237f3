//! Answers without a job in this process: views from the job manifest, state from the shared online store, history
//! from the offline store. Any number of such processes may run.

use crate::follow::{FollowedView, Follower, Health};
use crate::history::ArchiveHistory;
use crate::service::patience;
use crate::settings::Settings;
use crate::sources::Sinks;
use crate::{Error, Result, stores};
use plumb_offline_parquet::ParquetArchive;
use plumb_pipeline::clock::{Clock, SystemClock};
use plumb_pipeline::metrics::{Figures, GuestFigures};
use plumb_pipeline::port::{Archive, OnlineStore};
use plumb_pipeline::query::{Answer, Evaluator, Position, Query, QueryError, Request};
use plumb_pipeline::runtime::{Materialize, MaterializePhase, MaterializeShared, MaterializeStatus};
use plumb_serve_http::{Backend, BackendError, Dependency, RegistryEntry, ViewState};
use std::collections::BTreeMap;
use std::sync::Arc;

/// [`Backend`] of a job that other processes run.
#[derive(Debug)]
pub struct SharedBackend {
    follower: Follower,
    evaluator: Evaluator,
    sinks: Sinks,
    clock: Arc<SystemClock>,
    /// Asks the processes that run the job.
    materialize: MaterializeShared,
}

impl SharedBackend {
    /// Connects to the stores, which must answer.
    pub fn open(settings: &Settings) -> Result<Self> {
        let store = stores::offline(settings)?;
        let online: Arc<dyn OnlineStore> = stores::shared_online(settings)?
            .ok_or_else(|| Error::invalid("online.url = \"embedded\" is not shared with other processes"))?;
        let archive: Arc<dyn Archive> = Arc::new(ParquetArchive::new(store.clone()));
        let follower = Follower::start(settings.clone(), store.clone(), online.clone())?;
        let materialize = MaterializeShared::new(store.clone());
        let history = ArchiveHistory::of_others(store, archive, patience(settings));
        let clock = Arc::new(SystemClock::default());
        let evaluator = Evaluator::new(follower.serving(), online, Arc::new(history), clock.clone());
        Ok(Self { follower, evaluator, sinks: Sinks::new(settings.clone(), BTreeMap::new()), clock, materialize })
    }

    /// What follows the job.
    pub fn follower(&self) -> &Follower {
        &self.follower
    }
}

fn entry(view: &FollowedView) -> RegistryEntry {
    RegistryEntry {
        view: view.transform.def().name.clone(),
        version: view.transform.version_label(),
        digest: view.transform.digest().to_string(),
        state: if view.is_ready() { ViewState::Active } else { ViewState::Warming },
        definition: view.transform.to_json(),
    }
}

/// What only a process that runs the job can do.
fn elsewhere<T>(what: &str) -> Result<T, BackendError> {
    Err(BackendError::Conflict(format!(
        "this process serves and does not run the job: {what} through the admin address of a `plumb run`"
    )))
}

impl Backend for SharedBackend {
    fn query(&self, query: &Query) -> Result<Vec<Answer>, QueryError> {
        self.evaluator.query(query)
    }

    fn history(&self, request: &Request, position: Option<&Position>) -> Result<Answer, QueryError> {
        self.evaluator.history(request, position)
    }

    fn registry(&self) -> Result<Vec<RegistryEntry>, BackendError> {
        Ok(self.follower.views().iter().map(entry).collect())
    }

    fn deploy(&self, _: Vec<u8>, _: bool) -> Result<RegistryEntry, BackendError> {
        elsewhere("deploy")
    }

    fn rollback(&self, _: &str) -> Result<RegistryEntry, BackendError> {
        elsewhere("roll back")
    }

    fn retire(&self, _: &str) -> Result<(), BackendError> {
        elsewhere("retire")
    }

    fn append(&self, source: &str, records: &[&[u8]]) -> Result<Position, BackendError> {
        self.sinks.has(source).map_err(|error| BackendError::NotFound(error.to_string()))?;
        Ok(Position::of(source, self.sinks.get(source)?.append(records)?))
    }

    fn commit(&self) -> Result<Position, BackendError> {
        elsewhere("commit")
    }

    fn materialize(&self, request: Materialize) -> Result<MaterializeStatus, BackendError> {
        if self.materialize.status().is_some_and(|last| last.phase == MaterializePhase::Running) {
            return Err(BackendError::Conflict("state is being rebuilt already: wait for its end, or stop it".into()));
        }
        Ok(self.materialize.begin(request)?)
    }

    fn materializing(&self) -> Result<Option<MaterializeStatus>, BackendError> {
        Ok(self.materialize.status())
    }

    fn stop_materializing(&self) -> Result<(), BackendError> {
        self.materialize.stop();
        Ok(())
    }

    fn readiness(&self) -> Vec<Dependency> {
        let Health { online, offline } = self.follower.health();
        let views = self.follower.views();
        let warming: Vec<&str> =
            views.iter().filter(|view| !view.is_ready()).map(|view| view.transform.def().name.as_str()).collect();
        let detail = match views.is_empty() {
            true => "no job has run with this offline store yet".to_owned(),
            false => warming.join(", "),
        };
        // Answers from state go on while the offline store is away.
        let offline_detail = offline.map(|why| format!("only answers from state: {why}")).unwrap_or_default();
        vec![
            Dependency { name: "online_store".into(), ready: online.is_none(), detail: online.unwrap_or_default() },
            Dependency { name: "offline_store".into(), ready: true, detail: offline_detail },
            Dependency { name: "views".into(), ready: !views.is_empty() && warming.is_empty(), detail },
        ]
    }

    fn figures(&self) -> Figures {
        let views = self.follower.views();
        Figures {
            ready: views.iter().map(|view| (view.transform.def().name.clone(), view.is_ready())).collect(),
            guests: views.iter().flat_map(|view| GuestFigures::of(&view.transform)).collect(),
            now_us: self.clock.now_us(),
            ..Figures::default()
        }
    }
}
