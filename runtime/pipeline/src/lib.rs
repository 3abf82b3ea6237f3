//! The flow of events through plumb: ports, decoding, acceptance, the partition loop, commits, recovery,
//! queries and the drivers of joins and backfills.
//!
//! Data flows one way: [`port::Source`] → [`decode`] → [`accept`] → guests (`plumb-transform`) → state
//! (`plumb-core`) → [`port::OnlineStore`] and, in the same commit, the [`port::Archive`]. Edges implement
//! the ports; only `plumb-assembly` knows which.

pub mod accept;
pub mod clock;
pub mod commit;
pub mod decode;
pub mod error;
pub mod meter;
pub mod metrics;
pub mod near;
pub mod offline;
pub mod parallel;
pub mod port;
pub mod query;
pub mod route;
pub mod runtime;
pub mod secret;
pub mod snapshots;
pub mod worker;

pub use error::{Error, Result};
pub use plumb_transform::TRACE;
pub use secret::Secret;

// Under this name too, for the suite that tests share.
#[cfg(test)]
extern crate self as plumb_pipeline;
#[cfg(test)]
mod fakes;
