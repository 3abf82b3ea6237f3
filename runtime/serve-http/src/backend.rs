//! What the service needs from behind it.

use plumb_core::ErrorKind;
use plumb_pipeline::metrics::Figures;
use plumb_pipeline::query::{Answer, Position, Query, QueryError, Request};
use plumb_pipeline::runtime::{Materialize, MaterializeStatus};

/// The running plumb behind the service. Calls may block; the service makes them on blocking threads.
pub trait Backend: Send + Sync + 'static {
    /// Answers requests from the online store (from the archive where state does not reach), in their order.
    fn query(&self, query: &Query) -> Result<Vec<Answer>, QueryError>;
    /// Answers a request from the archive: at a position, or with all that has arrived.
    fn history(&self, request: &Request, position: Option<&Position>) -> Result<Answer, QueryError>;
    /// The views, by name.
    fn registry(&self) -> Result<Vec<RegistryEntry>, BackendError>;
    /// Checks a component, builds its state and makes it active. On an error nothing has changed. Without `replace`,
    /// another component under a known name and version is refused.
    fn deploy(&self, component: Vec<u8>, replace: bool) -> Result<RegistryEntry, BackendError>;
    /// Makes the version of a view active again that was before the active one, like a deployment of it.
    fn rollback(&self, view: &str) -> Result<RegistryEntry, BackendError>;
    /// Takes a view out of the active ones and drops its state; its component is kept.
    fn retire(&self, view: &str) -> Result<(), BackendError>;
    /// Appends records (JSON objects) to a source's log, all or none; durable when it returns. The position
    /// is the log's next offsets of the partitions written to.
    fn append(&self, source: &str, records: &[&[u8]]) -> Result<Position, BackendError>;
    /// Commits everything acknowledged before the call, once it is published; returns the committed position.
    fn commit(&self) -> Result<Position, BackendError>;
    /// Begins to rebuild online state from the archive; returns at once. There is one at a time.
    fn materialize(&self, request: Materialize) -> Result<MaterializeStatus, BackendError>;
    /// How the last rebuild of state is; `None` if there was none.
    fn materializing(&self) -> Result<Option<MaterializeStatus>, BackendError>;
    /// Asks a rebuild of state to end.
    fn stop_materializing(&self) -> Result<(), BackendError>;
    /// What the service depends on.
    fn readiness(&self) -> Vec<Dependency>;
    /// Figures for the metrics.
    fn figures(&self) -> Figures;
}

/// A view in the catalogue.
#[derive(Debug, Clone, PartialEq)]
pub struct RegistryEntry {
    /// Its name.
    pub view: String,
    /// Its version: `1.2.0+ab12cd34`.
    pub version: String,
    /// The SHA-256 of its component, hex.
    pub digest: String,
    /// Whether it answers.
    pub state: ViewState,
    /// What the component declares, as its `describe()` says it.
    pub definition: serde_json::Value,
}

/// Whether a view answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViewState {
    /// It does.
    Active,
    /// Its state is being built.
    Warming,
}

impl ViewState {
    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            ViewState::Active => "active",
            ViewState::Warming => "warming",
        }
    }
}

/// Something the service depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// Its name, e.g. `online_store`.
    pub name: String,
    /// Whether it can be used.
    pub ready: bool,
    /// What is the matter, or what is known of it.
    pub detail: String,
}

/// Why the backend did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The caller's mistake.
    #[error("{0}")]
    Invalid(String),
    /// What was named does not exist.
    #[error("{0}")]
    NotFound(String),
    /// It contradicts what is there, e.g. the same version with another digest.
    #[error("{0}")]
    Conflict(String),
    /// A record of an append cannot be taken.
    #[error("{why}")]
    Record {
        /// Its index among those given.
        index: usize,
        /// Why.
        why: String,
    },
    /// An outside system failed; it may work later.
    #[error("{0}")]
    Unavailable(String),
    /// A bug, or damaged data of our own.
    #[error("{0}")]
    Internal(String),
}

impl From<plumb_pipeline::Error> for BackendError {
    fn from(error: plumb_pipeline::Error) -> Self {
        let text = error.to_string();
        match error.kind() {
            ErrorKind::Invalid | ErrorKind::Reject => BackendError::Invalid(text),
            ErrorKind::Unavailable => BackendError::Unavailable(text),
            ErrorKind::Internal => BackendError::Internal(text),
        }
    }
}
