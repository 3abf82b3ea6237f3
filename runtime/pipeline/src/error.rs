//! What can go wrong in the flow; edges return the same type through the ports.

use plumb_core::ErrorKind;

/// An error of the flow or of an edge behind a port.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller's mistake: a flag, file, setting or request; names the thing and what would be right.
    #[error("{0}")]
    Invalid(String),
    /// An outside system failed: disk, broker, store. `what` names the operation and its target.
    #[error("{what}: {source}")]
    Unavailable {
        /// The operation and its target, e.g. ``write `_staging/x.parquet` ``.
        what: String,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another process has taken this partition over; this one must stop writing at once.
    #[error("fenced: {what} now belongs to generation {current}, this process is generation {own}")]
    Fenced {
        /// The source partition.
        what: String,
        /// The generation that owns it now.
        current: u64,
        /// Our own.
        own: u64,
    },
    /// An object that plumb itself wrote is not what it wrote; an older one may do.
    #[error("`{path}` is damaged: {why}")]
    Damaged {
        /// Where it lies.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// Data that plumb itself wrote is damaged, or a bug.
    #[error("{0}")]
    Internal(String),
    /// From the core.
    #[error(transparent)]
    Core(#[from] plumb_core::Error),
    /// From the host of components.
    #[error(transparent)]
    Transform(#[from] plumb_transform::Error),
}

impl Error {
    /// A caller's mistake.
    pub fn invalid(message: impl Into<String>) -> Self {
        Error::Invalid(message.into())
    }

    /// A failed outside system.
    pub fn unavailable(what: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Error::Unavailable { what: what.into(), source: source.into() }
    }

    /// Damaged own data, or a bug.
    pub fn internal(message: impl Into<String>) -> Self {
        Error::Internal(message.into())
    }

    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Invalid(_) => ErrorKind::Invalid,
            Error::Unavailable { .. } => ErrorKind::Unavailable,
            Error::Fenced { .. } => ErrorKind::Unavailable,
            Error::Damaged { .. } | Error::Internal(_) => ErrorKind::Internal,
            Error::Core(error) => error.kind(),
            Error::Transform(error) => error.kind(),
        }
    }
}

/// A result of the flow.
pub type Result<T, E = Error> = std::result::Result<T, E>;
