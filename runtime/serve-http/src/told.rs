//! The answers that plumb's own commands read, as types that both sides share: what a server of this version writes is
//! what a command of this version reads, and what is missing or of another type is an error there.
//!
//! They have the members that commands use; answers may have more.

use plumb_pipeline::runtime::MaterializedView;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// `GET /registry`, `/registry/search` and `/transforms`: views.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Views {
    /// By name.
    pub views: Vec<View>,
}

/// A view in those, and what a deployment or a roll-back answers with.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct View {
    /// Its name.
    pub view: String,
    /// Its version, `1.2.0+ab12cd34`.
    pub version: String,
    /// The SHA-256 of its component, hex.
    pub digest: String,
    /// Whether it answers: `active` or `warming`.
    pub state: String,
    /// Its entity.
    pub entity: ViewEntity,
    /// Its features, of which only the number is used.
    pub features: Vec<Value>,
}

/// The entity of a view.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ViewEntity {
    /// Its name.
    pub name: String,
}

/// `POST /features/batch`: an answer for each request, in their order.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Batch {
    /// One for each request.
    pub results: Vec<BatchResult>,
}

/// An answer of a batch.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct BatchResult {
    /// The token of the position that it was computed from.
    pub position: String,
    /// The features, each as `view:feature`.
    pub features: Map<String, Value>,
    /// How each view was answered.
    pub views: BTreeMap<String, BatchView>,
}

/// How a view was answered.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct BatchView {
    /// `online` or `offline`.
    pub source: String,
}

/// `/materialize/state`: how a rebuild of state is. Once it has ended, the members of [`RebuildDone`] or [`RebuildFailed`]
/// stand beside these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rebuild {
    /// Which it is.
    pub id: String,
    /// The begin of the span, RFC 3339; `None` = from the first event on.
    pub from: Option<String>,
    /// Its end.
    pub to: Option<String>,
    /// Events read.
    pub events_read: u64,
    /// Of so many.
    pub events_to_read: u64,
    /// How long it has taken.
    pub seconds: f64,
    /// How far it is.
    pub state: RebuildState,
}

/// How far a rebuild of state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RebuildState {
    /// Under way.
    Running,
    /// Done to its end: see [`RebuildDone`].
    Done,
    /// Ended because it was asked to: see [`RebuildFailed`].
    Stopped,
    /// Ended by an error: see [`RebuildFailed`].
    Failed,
}

/// What a rebuild of state has done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RebuildDone {
    /// Whether everything is as it should be afterwards.
    pub right: bool,
    /// The committed position that the entities were found at.
    pub position: String,
    /// Partitions that were not rebuilt, as `source/partition`.
    pub missing: Vec<String>,
    /// By name and version.
    pub views: Vec<MaterializedView>,
}

/// Why a rebuild of state ended before its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RebuildFailed {
    /// Why.
    pub why: String,
    /// Whether another try may work.
    pub unavailable: bool,
}
