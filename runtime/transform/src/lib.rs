//! The host of transforms: loads, checks, compiles and calls WebAssembly components.
//!
//! A component declares one feature view and has two pure, row-wise functions: `extract` (events to
//! contributions) and `finalize` (aggregates to features); `aggregate` between them is `plumb-core`'s. What a
//! guest does wrong is data about a row here, never an outage: a trap, exhausted fuel, the memory cap, a malformed
//! answer or an error of its own is cut down to the single guilty row, whatever batch that row came in.
//!
//! Reading order: [`describe`] turns a component's JSON into a checked [`ViewDef`](plumb_core::view::ViewDef);
//! [`guest`] says what running a view means; [`engine`] loads components and is the only place that knows
//! `wasmtime`; [`transform`] binds a view to a source and isolates faults; [`check`] tests the law of the boundary,
//! that a row's result does not depend on the other rows of its batch.
//!
//! Not here: windows and state (`plumb-core`), what becomes of a fault (`plumb-pipeline`).

pub mod check;
pub mod describe;
pub mod digest;
pub mod engine;
pub mod error;
pub mod guest;
pub mod transform;

mod columns;

pub use check::check_row_wise;
pub use digest::Digest;
pub use engine::{Engine, EngineOptions, INTERFACE};
pub use error::{Error, Result};
pub use guest::{Fault, Function, Guest, GuestOutput, RowError};
/// The target of the spans that traces are made of. Nothing is done for them where nobody collects traces.
pub const TRACE: &str = "plumb_trace";

pub use transform::{Extracted, Finalized, LoadedComponent, RowFault, Transform, Usage};
