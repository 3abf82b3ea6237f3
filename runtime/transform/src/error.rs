//! What can go wrong when a component is loaded or bound. Faults of running guests are data: [`crate::Fault`].

use plumb_core::ErrorKind;

/// An error of loading a component or of binding it to a source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not a component that plumb can run.
    #[error("not a transform component: {why}")]
    NotAComponent {
        /// What they are instead and what to do.
        why: String,
    },
    /// The component is larger than [`crate::engine::MAX_COMPONENT_BYTES`].
    #[error("component of {bytes} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Its size in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The component imports something: the world of transforms has no imports.
    #[error("component imports `{import}`, but a transform may import nothing: {cause}")]
    Import {
        /// The name of the first import.
        import: String,
        /// What usually brings such an import in, and what to do.
        cause: String,
    },
    /// The component does not export the interface of transforms.
    #[error("component does not export `{expected}`: {found}")]
    World {
        /// The interface that is expected.
        expected: String,
        /// What it exports instead.
        found: String,
    },
    /// The component cannot be compiled with the features that transforms may use.
    #[error("cannot compile component: {why}")]
    Compile {
        /// What the compiler says.
        why: String,
    },
    /// `describe()` failed or its text is wrong.
    #[error("component's `describe`: {why}")]
    Describe {
        /// Where and what is wrong, and what would be right.
        why: String,
    },
    /// The view does not fit the source it names.
    #[error("view `{view}` does not fit source `{source_name}`: {why}")]
    Binding {
        /// The view.
        view: String,
        /// The source whose schema it was bound to.
        source_name: String,
        /// What does not fit.
        why: String,
    },
    /// A row's result depends on the rows around it, so online and offline would differ.
    #[error("view `{view}` is not row-wise: {why}")]
    NotRowWise {
        /// The view.
        view: String,
        /// Which row differs, and how.
        why: String,
    },
    /// A setting of the engine cannot be had on this machine.
    #[error("cannot start the WebAssembly engine: {why}")]
    Engine {
        /// Why.
        why: String,
    },
    /// From the core: a definition that makes no sense.
    #[error(transparent)]
    Core(#[from] plumb_core::Error),
}

impl Error {
    /// A wrong `describe` text.
    pub(crate) fn describe(why: impl Into<String>) -> Self {
        Error::Describe { why: why.into() }
    }

    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Engine { .. } => ErrorKind::Unavailable,
            Error::Core(error) => error.kind(),
            _ => ErrorKind::Invalid,
        }
    }
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
