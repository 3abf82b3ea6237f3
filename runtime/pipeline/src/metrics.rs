//! Every metric's name and meaning, in one place, and the figures of the running flow that a scrape reads.
//!
//! Names read `plumb_<area>_<what>_<unit>`; counters get `_total` appended when written. Labels are bounded:
//! sources, partitions, views, routes and fixed words, never keys of entities.

use crate::worker::PartitionStatus;
use std::collections::BTreeMap;

/// Requests answered, by `route` (the pattern, not the path) and `status`.
pub const HTTP_REQUESTS: &str = "plumb_http_requests";
/// Seconds from a request's head to its answer, by `route`.
pub const HTTP_REQUEST_SECONDS: &str = "plumb_http_request_duration_seconds";
/// Connections refused because a listener had as many as it may.
pub const HTTP_CONNECTIONS_REFUSED: &str = "plumb_http_connections_refused";
/// Views answered for an entity, by `status` and by `source` (`online`, `offline`).
pub const FEATURE_READS: &str = "plumb_feature_reads";
/// Records read from a source's partition, by `class`: `applied`, `duplicate`, `rejected` or `filtered`.
pub const EVENTS: &str = "plumb_events";
/// Applied events that were late.
pub const EVENTS_LATE: &str = "plumb_events_late";
/// Duplicates whose payload differed from the first copy's.
pub const DEDUPE_CONFLICTS: &str = "plumb_dedupe_conflicts";
/// Offsets of a partition, by `kind`: `processed`, `published`, `committed` and the log's `end`.
pub const POSITION: &str = "plumb_position";
/// Seconds since a partition's last commit while there is something uncommitted, else 0.
pub const COMMIT_AGE_SECONDS: &str = "plumb_commit_age_seconds";
/// The generation under which this process owns a partition.
pub const GENERATION: &str = "plumb_generation";
/// A partition's newest event time, in seconds since the Unix epoch.
pub const NEWEST_EVENT_TIME_SECONDS: &str = "plumb_newest_event_time_seconds";
/// Bytes of live state of a view.
pub const STATE_BYTES: &str = "plumb_state_bytes";
/// Entity keys in the live state of a view.
pub const STATE_KEYS: &str = "plumb_state_keys";
/// Events that a view failed on and that were dead-lettered for it.
pub const VIEW_FAULTS: &str = "plumb_view_faults";
/// 1 while a view answers, 0 while its state is being built.
pub const VIEW_READY: &str = "plumb_view_ready";

/// Numbers of contributions that were none (NaN, infinite) and did not count, by view.
pub const NON_FINITE: &str = "plumb_non_finite_numbers";
/// 1 for a partition that follows its source (or has ended), else 0: starting, rebuilding or failed.
pub const PARTITION_LIVE: &str = "plumb_partition_live";
/// Bytes of a partition that wait for the next commit.
pub const UNCOMMITTED_BYTES: &str = "plumb_uncommitted_bytes";

/// Figures of the running flow at one moment.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// The partitions this process owns, with their views.
    pub partitions: Vec<PartitionStatus>,
    /// The end of the log of a source's partition, where it is known.
    pub ends: BTreeMap<(String, u32), u64>,
    /// The active views, and whether each answers.
    pub ready: BTreeMap<String, bool>,
    /// The clock's time, µs since the Unix epoch.
    pub now_us: i64,
}
