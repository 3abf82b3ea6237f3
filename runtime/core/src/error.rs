//! What can go wrong in the core, and what a caller is to do about it.

/// What the caller of a failed call should do; every crate of the workspace maps its errors to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorKind {
    /// The caller's mistake: fix the request, file or setting (exit 2, HTTP 4xx).
    Invalid,
    /// This record cannot be applied: dead-letter it and go on.
    Reject,
    /// An outside system failed: back off and retry (exit 3, HTTP 503).
    Unavailable,
    /// A bug of plumb, or damaged data that plumb itself wrote.
    Internal,
}

/// An error of the core.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A view definition, duration, name or other declared thing is wrong.
    #[error("{what}: {why}")]
    Definition {
        /// The declared thing, e.g. ``aggregate `purchases_1h` ``.
        what: String,
        /// What is wrong with it and what would be right.
        why: String,
    },
    /// Data of a guest, or between components of plumb, has another shape than declared.
    #[error("malformed {what}: {why}")]
    Malformed {
        /// The thing, e.g. `` slot column `amount` ``.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// Encoded state cannot be read.
    #[error("cannot decode state: {why}")]
    Codec {
        /// What is wrong with the bytes.
        why: String,
    },
}

impl Error {
    /// A definition error.
    pub fn definition(what: impl Into<String>, why: impl Into<String>) -> Self {
        Error::Definition { what: what.into(), why: why.into() }
    }

    /// A malformed-data error.
    pub fn malformed(what: impl Into<String>, why: impl Into<String>) -> Self {
        Error::Malformed { what: what.into(), why: why.into() }
    }

    /// A codec error.
    pub fn codec(why: impl Into<String>) -> Self {
        Error::Codec { why: why.into() }
    }

    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Definition { .. } | Error::Malformed { .. } => ErrorKind::Invalid,
            Error::Codec { .. } => ErrorKind::Internal,
        }
    }
}

/// A result of the core.
pub type Result<T, E = Error> = std::result::Result<T, E>;
