//! The words of those who run the service: events in, features out, and what is to be checked and mended there.

use clap::{Args, Subcommand};
use std::path::PathBuf;

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
