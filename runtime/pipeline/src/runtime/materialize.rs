//! Online state from the archive: of the entities with an event in a span of time, what every partition here holds is
//! rebuilt from their whole history and takes the place of what there is; what differed is told.
//!
//! The unit of work is a view in a partition. Its entities are found in the archive as of one committed position, their
//! events are read and applied to a state of their own, as many entities at a time as fit in memory, and the worker of
//! the partition puts that in the place of what it holds, some thousand keys between two batches
//! ([`crate::worker::lane`]). So only the owner of a partition writes, at the position it is at.
//!
//! [`report`] is what is told, [`thread`] what it runs on, [`work`] how it is done in this process, [`difference`] what an
//! entity that was held otherwise was answered with, [`shared`] how the processes of a job do it together.

mod difference;
mod report;
pub(super) mod shared;
mod thread;
mod work;

pub use report::{FirstChanged, Materialize, MaterializePhase, MaterializeStatus, Materialized, MaterializedView};
pub(super) use thread::{MaterializeProgress, Materializing, busy};
pub(super) use work::Materializer;

use std::sync::{Mutex, MutexGuard, PoisonError};

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // Figures are whole between two calls.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
