//! The embedded defaults: a durable log in place of Kafka and an online store in place of Redis, both on
//! one fjall database under `<data_dir>/embedded/`.
//!
//! [`DataDir`] makes one process the owner of a data directory; only an owner opens [`Embedded`].
//! [`EmbeddedLog`] is the log of one source, [`LogSource`] reads it as a source of events, [`LogSink`] appends to it,
//! [`EmbeddedOnline`] is the online store. A log append is on disk before it is acknowledged; publishes
//! are not synced, because the online store can always be rebuilt from state, and a crash of the process
//! alone loses neither.

mod data_dir;
mod log;
mod online;
mod sink;
mod source;

pub use data_dir::{DataDir, Owner, owner_of};
pub use log::{DEFAULT_PARTITIONS, EmbeddedLog};
pub use online::EmbeddedOnline;
pub use sink::LogSink;
pub use source::LogSource;

use fjall::{Database, KeyspaceCreateOptions};
use plumb_pipeline::{Error, Result};
use std::path::Path;
use std::sync::Arc;

/// Memory for blocks read from disk, in bytes.
const CACHE_BYTES: u64 = 128 << 20;

/// The database; cheap to clone.
#[derive(Clone)]
pub struct Embedded {
    db: Database,
    path: Arc<Path>,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Embedded {
    /// Opens the database of an owned data directory, creating it if it is not there.
    pub fn open(owned: &DataDir) -> Result<Self> {
        let path = owned.path().join("embedded");
        let db = Database::builder(&path)
            .cache_size(CACHE_BYTES)
            .worker_threads(2)
            .open()
            .map_err(|error| unavailable(format!("open the embedded store in `{}`", path.display()), error))?;
        Ok(Self { db, path: path.into() })
    }

    /// The log of a source. `partitions` fixes their number when the log is created ([`DEFAULT_PARTITIONS`]
    /// if `None`); asking for another number later is a mistake of the configuration.
    pub fn log(&self, source: &str, partitions: Option<u32>) -> Result<Arc<EmbeddedLog>> {
        EmbeddedLog::open(&self.db, source, partitions).map(Arc::new)
    }

    /// The online store.
    pub fn online(&self) -> Result<Arc<EmbeddedOnline>> {
        EmbeddedOnline::open(&self.db).map(Arc::new)
    }
}

/// Opens a keyspace with the options that fit all of ours.
fn keyspace(db: &Database, name: &str, memtable_bytes: u64) -> Result<fjall::Keyspace> {
    db.keyspace(name, || KeyspaceCreateOptions::default().max_memtable_size(memtable_bytes))
        .map_err(|error| unavailable(format!("open keyspace `{name}` of the embedded store"), error))
}

fn unavailable(what: impl Into<String>, error: fjall::Error) -> Error {
    Error::unavailable(what, error)
}
