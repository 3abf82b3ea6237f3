//! Answering feature requests: which views are asked of which entities, one read of the online store for
//! all of them, windows at T, one `finalize` per view, and the archive where state does not reach.
//!
//! [`request`] is what a caller asks, freed from its wire form; it is bound to the [`serving`] views;
//! [`Evaluator`] answers it; [`answer`] is the result, which the HTTP service writes as JSON. An answer
//! names the [`Position`] it was computed at, so that it can be computed again from the archive.
//!
//! Not here: JSON and HTTP (`plumb-serve-http`), the archive's kernel ([`History`] is its port).

pub mod answer;
mod evaluate;
pub mod position;
mod ranks;
pub mod request;
mod select;
pub mod serving;
#[cfg(test)]
mod tests;
mod work;

pub use answer::{Answer, EntityAnswer, ReadSource, Status, Value, ViewAnswer};
pub use evaluate::Evaluator;
pub use position::Position;
pub use request::{KeyInput, Query, QueryError, Request};
pub use serving::{Current, History, HistoryRows, RuntimeViews, ServingSet, ServingView, Views};
