//! The words of those who make snapshots and training sets and look at them.

use super::Reading;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Which transforms over which events.
#[derive(Debug, Args, Clone)]
pub(crate) struct Inputs {
    /// A component; repeat for several.
    #[arg(long = "transform", value_name = "FILE", required = true)]
    pub(crate) transforms: Vec<PathBuf>,
    /// A file or folder of events, or NAME=PATH for the source NAME; repeat for several sources.
    #[arg(long, value_name = "PATH", required = true)]
    pub(crate) events: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented on the type")]
    pub(crate) reading: Reading,
}

/// How much memory a command may take.
#[derive(Debug, Args, Clone)]
pub(crate) struct Memory {
    /// Memory for what grows with the input, such as 512MiB (at least 64MiB); what does not fit goes to disk for a
    /// while. The result does not depend on it [default: half of what is free].
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    /// The folder for what does not fit in memory [default: where the output is, or the audited training set].
    #[arg(long, value_name = "DIR")]
    pub(crate) spill_dir: Option<PathBuf>,
}

/// The instants of a backfill.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Every {
    /// Each full hour.
    #[value(name = "1h")]
    Hour,
    /// Each midnight UTC.
    #[value(name = "1d")]
    Day,
    /// 1 µs after each event.
    #[value(name = "event")]
    Event,
}

/// Which entities a snapshot holds.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Entities {
    /// Those with an event since the instant before.
    Active,
    /// Every one found.
    All,
}

/// Arguments of `plumb backfill`.
#[derive(Debug, Args)]
pub(crate) struct Backfill {
    /// A component; repeat for several.
    #[arg(long = "transform", value_name = "FILE", required = true)]
    pub(crate) transforms: Vec<PathBuf>,
    /// A file or folder of events, or NAME=PATH for the source NAME; repeat for several sources [default: what the job of
    /// the settings has committed].
    #[arg(long, value_name = "PATH", requires = "out")]
    pub(crate) events: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented on the type")]
    pub(crate) reading: Reading,
    /// The first instant (RFC 3339), inclusive [default: the oldest event].
    #[arg(long, value_name = "T")]
    pub(crate) from: Option<String>,
    /// The last instant (RFC 3339), exclusive [default: just past the newest event].
    #[arg(long, value_name = "T")]
    pub(crate) to: Option<String>,
    /// The instants.
    #[arg(long)]
    pub(crate) every: Every,
    /// Which entities.
    #[arg(long, default_value = "active")]
    pub(crate) entities: Entities,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented on the type")]
    pub(crate) memory: Memory,
    /// Also make dates again that were made from more events than are given now.
    #[arg(long)]
    pub(crate) allow_fewer_events: bool,
    /// The folder to write to: dates in it that were made from the same events are left as they are. Not in a
    /// folder of --events [default: the offline store of the settings, beside the committed events].
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

/// What to do with rows of entities that are not found.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ColdStart {
    /// Keep them with nulls.
    Null,
    /// Leave them out.
    Drop,
}

/// Whether an event exactly at the label's time is seen.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum AsOf {
    /// Strictly before.
    Before,
    /// At or before.
    At,
}

/// What counts as known at the label's time.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Knowledge {
    /// Every accepted event that happened before it.
    EventTime,
    /// Those that had also arrived.
    Ingested,
}

/// Arguments of `plumb join`.
#[derive(Debug, Args)]
pub(crate) struct Join {
    /// A component; repeat for several.
    #[arg(long = "transform", value_name = "FILE", required_unless_present = "from_manifest")]
    pub(crate) transforms: Vec<PathBuf>,
    /// A file or folder of events, or NAME=PATH for the source NAME; repeat for several sources.
    #[arg(long, value_name = "PATH", required_unless_present = "from_manifest")]
    pub(crate) events: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented on the type")]
    pub(crate) reading: Reading,
    /// The labels: .parquet or .csv, one row per example, or a folder of such; repeat for several files, which are read
    /// one after the other.
    #[arg(long, value_name = "PATH", required_unless_present = "from_manifest")]
    pub(crate) labels: Vec<PathBuf>,
    /// The features: `view:feature` or `view:*`, comma-separated.
    #[arg(long, value_name = "LIST", default_value = "*")]
    pub(crate) features: String,
    /// The training set to write: .parquet, .csv, or a new folder of Parquet files. Its manifest goes beside it, or into
    /// the folder. Not in a folder of --events, where it would be read as events the next time.
    #[arg(long, value_name = "PATH")]
    pub(crate) out: PathBuf,
    /// The most rows of a file in a folder of them; a label file's rows begin a new one.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub(crate) part_rows: usize,
    /// The column of the labels' time.
    #[arg(long, value_name = "COLUMN", default_value = "event_time")]
    pub(crate) label_time: String,
    /// Rows of entities that are not found.
    #[arg(long, default_value = "null")]
    pub(crate) cold_start: ColdStart,
    /// Whether an event exactly at the label's time is seen.
    #[arg(long, default_value = "before")]
    pub(crate) as_of: AsOf,
    /// A view whose newest event of the entity is older than this at the label, e.g. 30d, gives nulls [default: the
    /// view's TTL].
    #[arg(long, value_name = "D")]
    pub(crate) max_age: Option<String>,
    /// What counts as known at the label's time; `ingested` needs events of plumb's archive.
    #[arg(long, default_value = "event-time")]
    pub(crate) knowledge: Knowledge,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented on the type")]
    pub(crate) memory: Memory,
    /// Make a training set again as its manifest says, from the same components, events and labels, which may be
    /// elsewhere now (--transform, --events, --labels); refused if one of them differs.
    #[arg(long, value_name = "MANIFEST", conflicts_with_all = [
        "config", "now", "features", "label_time", "cold_start", "as_of", "max_age", "knowledge",
    ])]
    pub(crate) from_manifest: Option<PathBuf>,
    /// Exit 0 even if `finalize` failed for some rows.
    #[arg(long)]
    pub(crate) allow_errors: bool,
}

/// Arguments of `plumb audit`.
#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// The training set.
    pub(crate) dataset: PathBuf,
    /// The labels it was made from: a .parquet or .csv file or a folder of such; repeat for several, in the order of the
    /// set's rows.
    #[arg(long, value_name = "PATH", required = true)]
    pub(crate) labels: Vec<PathBuf>,
    /// The column of the labels' time.
    #[arg(long, value_name = "COLUMN", default_value = "event_time")]
    pub(crate) label_time: String,
    /// Whether a label may see an event exactly at its time, as the set was meant to be.
    #[arg(long, default_value = "before")]
    pub(crate) as_of: AsOf,
    /// The --max-age that the set was made with: a view whose newest event of the entity is older gives nulls [default: the
    /// view's TTL].
    #[arg(long, value_name = "D")]
    pub(crate) max_age: Option<String>,
    /// What counts as known at the label's time, as the set was meant to be.
    #[arg(long, default_value = "event-time")]
    pub(crate) knowledge: Knowledge,
    /// Accept floats that differ relatively by at most this, e.g. 1e-9 for sums added in another order.
    #[arg(long, value_name = "R", default_value_t = 0.0)]
    pub(crate) tolerance: f64,
    /// Also write the report as one page that needs nothing else.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Join so many rows, or all, again from a history cut at their label: they must not change.
    #[arg(long, value_name = "N|all", default_value = "32")]
    pub(crate) truncate: String,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented on the type")]
    pub(crate) inputs: Inputs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented on the type")]
    pub(crate) memory: Memory,
}

/// Which columns of tables, and how to read them.
#[derive(Debug, Args)]
pub(crate) struct Tables {
    /// Only these columns, comma-separated; `user_activity__*` is all that begin so [default: all but those that begin
    /// with `_`].
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) columns: Vec<String>,
    /// How many threads [default: one per core].
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Also write the report as one page that needs nothing else.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

/// Arguments of `plumb stats`.
#[derive(Debug, Args)]
pub(crate) struct Stats {
    /// Tables: .parquet or .csv files, or folders of them.
    #[arg(required = true, value_name = "FILE|FOLDER")]
    pub(crate) paths: Vec<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented on the type")]
    pub(crate) tables: Tables,
}

/// Arguments of `plumb compare`.
#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// The table to measure from: a .parquet or .csv file, or a folder of them, e.g. one day of snapshots.
    pub(crate) a: PathBuf,
    /// The table to compare with it.
    pub(crate) b: PathBuf,
    /// Exit 1 if a column is past a limit: psi, ks, nulls (change of the share) or new (share of unseen values) above it,
    /// p (of the KS test) below it, e.g. psi=0.2,nulls=0.05.
    #[arg(long, value_name = "MEASURE=LIMIT", value_delimiter = ',')]
    pub(crate) fail_on: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented on the type")]
    pub(crate) tables: Tables,
}
