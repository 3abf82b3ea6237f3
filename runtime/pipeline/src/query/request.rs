//! What a caller asks, freed from its wire form, and what can be wrong with it.

use crate::near::quoted;
use plumb_core::ErrorKind;
use std::collections::BTreeMap;

/// Requests answered together: one instant unless a request has its own, one read of the store.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Query {
    /// The requests.
    pub requests: Vec<Request>,
    /// Values to give instead of nulls, by `view:feature`; a status stays what it is.
    pub defaults: Vec<(String, serde_json::Value)>,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Request {
    /// Keys by the name of the entity.
    pub entities: Vec<(String, KeyInput)>,
    /// Keys by the name of the key field: the short form.
    pub fields: Vec<(String, Option<String>)>,
    /// Names like `view:feature` and `view:*`; `None` = all features of the views whose keys are given.
    pub features: Option<Vec<String>>,
    /// The instant T, µs; `None` = now.
    pub as_of_us: Option<i64>,
}

/// A key as a caller gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyInput {
    /// The one field of a simple key; `None` = null, which is not found.
    Value(Option<String>),
    /// A composite key's fields.
    Fields(BTreeMap<String, Option<String>>),
}

/// Why a query cannot be answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// A name that no active view has.
    #[error("unknown {what} `{name}`{}", hint(.near, .known))]
    Unknown {
        /// What was named.
        what: Named,
        /// The name.
        name: String,
        /// Near names.
        near: Vec<String>,
        /// All names, where there are few.
        known: Vec<String>,
    },
    /// A feature was asked whose entity was not given.
    #[error("`{feature}` needs the key of entity `{entity}` ({})", quoted(.fields.iter().map(String::as_str)))]
    MissingEntity {
        /// The feature, as asked.
        feature: String,
        /// The entity of its view.
        entity: String,
        /// The entity's key fields.
        fields: Vec<String>,
    },
    /// The request is wrong in another way.
    #[error("{0}")]
    Invalid(String),
    /// T is later than the clock.
    #[error("as_of {as_of} is later than the server's clock {now}")]
    Future {
        /// The instant asked.
        as_of: String,
        /// The clock.
        now: String,
    },
    /// Every asked view is being rebuilt.
    #[error("every asked view is being rebuilt; try again soon")]
    Rebuilding,
    /// The entity of a path is not found.
    #[error("entity `{entity}` with key `{key}` is not found")]
    NotFound {
        /// The entity.
        entity: String,
        /// Its key.
        key: String,
    },
    /// A request of a batch.
    #[error("requests[{index}]: {error}")]
    InBatch {
        /// Its index.
        index: usize,
        /// What is wrong with it.
        error: Box<QueryError>,
    },
    /// The store, the archive or a damaged state.
    #[error(transparent)]
    Flow(#[from] crate::Error),
}

/// What a name is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// A feature, as in `view:feature`.
    Feature,
    /// A view.
    View,
    /// An entity.
    Entity,
    /// A key field of the short form.
    Field,
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Named::Feature => "feature",
            Named::View => "view",
            Named::Entity => "entity",
            Named::Field => "field",
        })
    }
}

fn hint(near: &[String], known: &[String]) -> String {
    match (near, known) {
        ([], []) => String::new(),
        ([], known) => format!("; known are {}", quoted(known.iter().map(String::as_str))),
        (near, _) => format!("; did you mean {}?", quoted(near.iter().map(String::as_str))),
    }
}

impl QueryError {
    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            QueryError::Rebuilding => ErrorKind::Unavailable,
            QueryError::InBatch { error, .. } => error.kind(),
            QueryError::Flow(error) => error.kind(),
            _ => ErrorKind::Invalid,
        }
    }
}
