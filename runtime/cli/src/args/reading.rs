//! How events are read: what every command takes that reads some.

use clap::Args;
use std::path::PathBuf;

/// How events are read: the options of every command that reads some.
#[derive(Debug, Args, Clone)]
pub(crate) struct Reading {
    /// Settings: schema, units, keys [default: plumb.toml if there is one].
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Threads that compute [default: the cores there are]; beside them as many decode files of events, one decides which
    /// events count and one reads labels, each as far ahead as is asked for.
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// Events more than the source's `max_future` after this instant (RFC 3339) are rejected; give one so that a later run
    /// takes the same events [default: now].
    #[arg(long, value_name = "T")]
    pub(crate) now: Option<String>,
}
