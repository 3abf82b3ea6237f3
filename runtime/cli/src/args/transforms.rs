//! The words of those who write transforms, deploy them and look for features.

use super::Reading;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Arguments of `plumb new`.
#[derive(Debug, Args)]
pub(crate) struct New {
    /// The view's name, e.g. `user_clicks`; also the folder.
    pub(crate) name: String,
    /// The entity: `user` (key user_id), `item` (key item_id) or another name (key <name>_id).
    #[arg(long, default_value = "user")]
    pub(crate) entity: String,
}

/// Arguments of `plumb build`.
#[derive(Debug, Args)]
pub(crate) struct Build {
    /// The crate's folder.
    pub(crate) path: Option<PathBuf>,
    /// Where to write the component [default: target/plumb/<view>.wasm].
    #[arg(short, long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// Arguments of `plumb inspect`.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// The component.
    pub(crate) file: PathBuf,
}

/// Arguments of `plumb test`.
#[derive(Debug, Args)]
pub(crate) struct Test {
    /// The component.
    pub(crate) file: PathBuf,
    /// A file or folder of events (.parquet, .jsonl, .csv).
    #[arg(long, value_name = "PATH")]
    pub(crate) events: String,
    /// The as-of instant (RFC 3339) [default: 1 µs after the newest event, or now if that is earlier].
    #[arg(long, value_name = "T")]
    pub(crate) at: Option<String>,
    /// Show at most this many entities.
    #[arg(long, default_value_t = 20)]
    pub(crate) limit: usize,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented on the type")]
    pub(crate) reading: Reading,
}

/// Arguments of `plumb transforms`.
#[derive(Debug, Args)]
pub(crate) struct Transforms {
    /// What to do.
    #[command(subcommand)]
    pub(crate) action: TransformsAction,
    /// Settings: where the service's data folder is [default: plumb.toml if there is one].
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) config: Option<PathBuf>,
    /// The service's admin address, e.g. 127.0.0.1:8081 [default: from the data folder].
    #[arg(long, value_name = "ADDRESS", global = true)]
    pub(crate) admin: Option<String>,
}

/// The actions on transforms.
#[derive(Debug, Subcommand)]
pub(crate) enum TransformsAction {
    /// The active views
    List,
    /// Load a component into the running service
    Deploy {
        /// The component.
        file: PathBuf,
        /// Take it although its name and version are known with another digest.
        #[arg(long)]
        replace: bool,
    },
    /// Make the version active again that was before the active one
    Rollback {
        /// The view's name.
        name: String,
    },
    /// Take a view out of the active ones; its component is kept
    Retire {
        /// The view's name.
        name: String,
    },
}

/// Arguments of `plumb registry`.
#[derive(Debug, Args)]
pub(crate) struct Registry {
    /// What to show.
    #[command(subcommand)]
    pub(crate) action: RegistryAction,
    /// Settings [default: plumb.toml if there is one].
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) config: Option<PathBuf>,
}

/// The looks at the catalogue.
#[derive(Debug, Subcommand)]
pub(crate) enum RegistryAction {
    /// Every view and its features
    List,
    /// Views and features whose name, description, tags, owner or team hold a text
    Search {
        /// The text.
        text: String,
    },
    /// One view in full
    Show {
        /// Its name.
        view: String,
    },
    /// From which event fields each feature of a view is made
    Lineage {
        /// Its name.
        view: String,
    },
}
