//! The words of the command line, as typed; what they mean is checked by the commands.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Features for machine learning, from events to vectors: one WebAssembly transform online and offline.
#[derive(Debug, Parser)]
#[command(name = "plumb", version, propagate_version = true, max_term_width = 110)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Print one JSON document on stdout instead of text.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a new transform crate that builds and passes its own test
    New(New),
    /// Compile a transform crate to one component
    Build(Build),
    /// Show what a component declares; refuses one that imports anything
    Inspect(Inspect),
    /// Run a component over a file of events and print the features
    Test(Test),
    /// Write realistic synthetic events, the same for the same seed
    Generate(Generate),
    /// Publish a file of events to the log
    Produce(Produce),
    /// Run the stream processor
    Run(Run),
    /// Serve features over HTTP
    Serve(Serve),
    /// Compute historical snapshots of feature values
    Backfill(Backfill),
    /// Make a point-in-time training set
    Join(Join),
    /// Look for leakage in a training set, ours or anyone's
    Audit(Audit),
    /// What is in snapshots and training sets, column by column
    Stats(Stats),
    /// How the distributions of two snapshots or training sets differ
    Compare(Compare),
    /// Compare online values with offline ones, feature by feature
    Check(Check),
    /// Rebuild online state from the archive, and check it
    Materialize(Materialize),
    /// Records that could not be applied: look at them, publish them again
    DeadLetters(DeadLetters),
    /// See and change the transforms of a running service
    Transforms(Transforms),
    /// Look at the catalogue of features
    Registry(Registry),
}

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

/// Arguments of `plumb generate`.
#[derive(Debug, Args)]
pub(crate) struct Generate {
    /// How many events.
    #[arg(long)]
    pub(crate) events: u64,
    /// How many users.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) users: u64,
    /// How many items.
    #[arg(long, default_value_t = 500)]
    pub(crate) items: u64,
    /// Over how many days.
    #[arg(long, default_value_t = 30)]
    pub(crate) days: u64,
    /// The same seed gives the same file.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// The first instant (RFC 3339).
    #[arg(long, value_name = "T", default_value = "2024-01-01T00:00:00Z")]
    pub(crate) start: String,
    /// The file to write: .parquet, .jsonl or .csv.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

/// Arguments of `plumb produce`.
#[derive(Debug, Args)]
pub(crate) struct Produce {
    /// The events: .parquet, .jsonl or .csv, or a folder of such.
    pub(crate) file: String,
    /// The source to publish to.
    #[arg(long, default_value = "default")]
    pub(crate) source: String,
    /// Settings [default: plumb.toml if there is one].
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Publish at most so many events per second, such as 5000/s.
    #[arg(long, value_name = "N/s")]
    pub(crate) rate: Option<String>,
    /// Publish in the rhythm of the event times, so many times as fast: 1 as it was, 60 a minute per second.
    #[arg(long, value_name = "FACTOR")]
    pub(crate) speed: Option<f64>,
    /// Create the topic of a Kafka source first if there is none.
    #[arg(long, requires = "partitions")]
    pub(crate) create_topic: bool,
    /// How many partitions a created topic gets.
    #[arg(long, value_name = "N", requires = "create_topic")]
    pub(crate) partitions: Option<u32>,
}

/// Arguments of `plumb run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Settings [default: plumb.toml if there is one].
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Stop at the present end of the source.
    #[arg(long)]
    pub(crate) until_end: bool,
    /// Do not serve HTTP, whatever `run.serve` says.
    #[arg(long)]
    pub(crate) no_serve: bool,
    /// Print the effective settings, secrets masked, and stop.
    #[arg(long)]
    pub(crate) check: bool,
    /// Of a file source, events more than `max_future` after this instant (RFC 3339) are rejected [default: now].
    #[arg(long, value_name = "T")]
    pub(crate) now: Option<String>,
    /// Take a component whose name and version are known with another digest.
    #[arg(long)]
    pub(crate) replace: bool,
    /// Where partitions begin that were never processed: earliest, latest, an offset, offsets by partition (0=12,1=34),
    /// a position token, or the instant (RFC 3339) of the first record.
    #[arg(long, value_name = "WHERE")]
    pub(crate) from: Option<String>,
    /// Go on after records that a topic no longer has; the manifest keeps which.
    #[arg(long)]
    pub(crate) accept_gap: bool,
}

/// Arguments of `plumb serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Settings [default: plumb.toml if there is one].
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

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

/// Arguments of `plumb check`.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Settings [default: plumb.toml if there is one].
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The entity whose keys are sampled, e.g. `user`.
    #[arg(long)]
    pub(crate) entity: String,
    /// How many entities.
    #[arg(long, default_value_t = 500)]
    pub(crate) sample: usize,
    /// The features: `view:feature` or `view:*`, comma-separated [default: all of the entity].
    #[arg(long, value_name = "LIST")]
    pub(crate) features: Option<String>,
    /// The instant (RFC 3339) [default: 1 µs after the newest event, or now if that is earlier].
    #[arg(long, value_name = "T")]
    pub(crate) at: Option<String>,
    /// Flag any difference of one bit.
    #[arg(long)]
    pub(crate) exact: bool,
    /// Flag a feature when more than this share of the entities differ.
    #[arg(long, default_value_t = 0.05)]
    pub(crate) max_share: f64,
    /// Two values differ when they are further apart than this, relatively.
    #[arg(long, default_value_t = 0.05)]
    pub(crate) max_difference: f64,
}

/// Arguments of `plumb materialize`.
#[derive(Debug, Args)]
pub(crate) struct Materialize {
    /// Settings [default: plumb.toml if there is one].
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Entities with an event at this instant or later (RFC 3339) [default: from the first event on].
    #[arg(long, value_name = "T")]
    pub(crate) from: Option<String>,
    /// And before this one [default: to the last event].
    #[arg(long, value_name = "T")]
    pub(crate) to: Option<String>,
    /// How many entities of each kind to read back afterwards, or `all` of them.
    #[arg(long, value_name = "N", default_value = "1000")]
    pub(crate) sample: String,
    /// Views to rebuild at the same time [default: the cores there are].
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// Memory for state that is being rebuilt, such as 512MiB (at least 64MiB): what does not fit at once is rebuilt
    /// some entities at a time, reading the events as often [default: half of what is free].
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
}

/// Arguments of `plumb dead-letters`.
#[derive(Debug, Args)]
pub(crate) struct DeadLetters {
    /// What to do.
    #[command(subcommand)]
    pub(crate) action: DeadLettersAction,
    /// Settings: where the offline store is [default: plumb.toml if there is one].
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) config: Option<PathBuf>,
}

/// Which dead letters.
#[derive(Debug, Args)]
pub(crate) struct LetterFilter {
    /// Of this source [default: all].
    #[arg(long)]
    pub(crate) source: Option<String>,
    /// Whose reason holds this text.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Faults of this view: NAME or NAME@VERSION.
    #[arg(long, value_name = "VIEW")]
    pub(crate) view: Option<String>,
    /// Of records stamped since an instant (RFC 3339), or since so long ago (24h).
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<String>,
}

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersAction {
    /// The newest ones, and how many there are by reason
    List {
        #[command(flatten)]
        #[allow(missing_docs, reason = "documented on the type")]
        filter: LetterFilter,
        /// Show at most this many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// The bytes of one, exactly, on stdout (base64 on a terminal if they are not text); the rest on stderr
    Show {
        /// Its position, as listed: default:0=12.
        position: String,
    },
    /// Publish rejected records to their source again, each once
    Replay {
        /// Their positions, as listed: default:0=12.
        positions: Vec<String>,
        #[command(flatten)]
        #[allow(missing_docs, reason = "documented on the type")]
        filter: LetterFilter,
        /// Publish at most this many.
        #[arg(long)]
        limit: Option<usize>,
        /// All there are.
        #[arg(long)]
        all: bool,
        /// Also those that were published again before.
        #[arg(long)]
        again: bool,
        /// Only say which.
        #[arg(long)]
        dry_run: bool,
    },
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
