//! Every metric's name and meaning, in one place, and the figures of the running flow that a scrape reads.
//!
//! Names read `plumb_<area>_<what>_<unit>`; counters get `_total` appended when written. Labels are bounded:
//! sources, partitions, views, routes and fixed words, never keys of entities. `docs/metrics.md` is [`document`].
//!
//! Counters of a partition's records ([`RECORDS`], [`EVENTS`] and what is counted of them) go on from its last
//! manifest, so they mean the same whoever owns the partition; all others begin at 0 with the process.

pub use plumb_transform::{Function, Usage};

use crate::meter::{RebuildFigures, SourceMeters};
use crate::worker::PartitionStatus;
use plumb_transform::Transform;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What kind of figure a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only rises; written with `_total`.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts by size, with `_bucket`, `_sum` and `_count`.
    Histogram,
}

/// A metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its name, a counter's without `_total`.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
}

impl Metric {
    /// The names of the samples that a query finds.
    pub fn samples(&self) -> Vec<String> {
        match self.kind {
            Kind::Counter => vec![format!("{}_total", self.name)],
            Kind::Gauge => vec![self.name.to_owned()],
            Kind::Histogram => ["bucket", "sum", "count"].map(|of| format!("{}_{of}", self.name)).to_vec(),
        }
    }
}

macro_rules! metrics {
    ($($area:literal: $($id:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)+)+) => {
        $($(
            #[doc = $help]
            pub const $id: Metric = Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };
        )+)+

        /// All metrics, by what they are about.
        pub const ALL: &[(&str, &[Metric])] = &[$(($area, &[$($id),+])),+];
    };
}

metrics! {
    "Process":
    BUILD_INFO = Gauge "plumb_build_info" ["version"]
        "1, with the version of plumb";
    OWNED_PARTITIONS = Gauge "plumb_owned_partitions" ["source"]
        "Partitions this process works on";
    SOURCE_REACHABLE = Gauge "plumb_source_reachable" ["source"]
        "1 while a source can be read, 0 while none of its brokers can be reached";
    FENCE_REJECTIONS = Counter "plumb_fence_rejections" []
        "Writes refused because a later owner has the partition; the process ends after one";

    "Records":
    RECORDS = Counter "plumb_records" ["source", "partition"]
        "Records read and accounted for";
    EVENTS = Counter "plumb_events" ["source", "partition", "class"]
        "Records by what became of them: applied, duplicate, rejected or filtered";
    EVENTS_LATE = Counter "plumb_events_late" ["source", "partition"]
        "Applied events older than the partition's newest by more than the allowed lateness";
    DEDUPE_CONFLICTS = Counter "plumb_dedupe_conflicts" ["source", "partition"]
        "Duplicates whose payload differed from the first copy's";
    REMEMBERED_IDS = Gauge "plumb_remembered_ids" ["source", "partition"]
        "Event ids in memory by which copies are known, about 30 bytes each; in Kafka those of the dedupe horizon";
    DEAD_LETTERS = Counter "plumb_dead_letters" ["source", "partition", "reason"]
        "Records, or records of one view, that were dead-lettered, by the class of the reason";
    ACCOUNTING_IMBALANCE = Gauge "plumb_accounting_imbalance_records" ["source", "partition"]
        "Records read less records accounted for; anything but 0 is a defect";
    GAP_RECORDS = Counter "plumb_gap_records" ["source", "partition"]
        "Records the source no longer had and the operator agreed to do without (--accept-gap)";

    "Progress":
    POSITION = Gauge "plumb_position" ["source", "partition", "kind"]
        "Offsets of a partition: processed, published, committed and the source's end";
    LAG_RECORDS = Gauge "plumb_lag_records" ["source", "partition"]
        "Records between what was processed and the source's end";
    FRESHNESS_SECONDS = Histogram "plumb_freshness_seconds" ["source"]
        "Seconds from a record's own timestamp until an answer shows it";
    WATERMARK_SECONDS = Gauge "plumb_watermark_timestamp_seconds" ["source", "partition"]
        "The newest event time, in seconds since the Unix epoch";
    WATERMARK_LAG_SECONDS = Gauge "plumb_watermark_lag_seconds" ["source", "partition"]
        "Seconds by which the newest event time is behind the clock";
    PARTITION_LIVE = Gauge "plumb_partition_live" ["source", "partition"]
        "1 for a partition that follows its source or has ended; 0 while it starts, is rebuilt or has failed";
    PARTITION_PAUSED = Gauge "plumb_partition_paused" ["source", "partition", "reason"]
        "1 while a partition is not read because a bound is reached: uncommitted, state or online";
    GENERATION = Gauge "plumb_generation" ["source", "partition"]
        "The generation under which this process owns the partition";

    "Commits":
    COMMITS = Counter "plumb_commits" ["source"]
        "Commits made";
    COMMIT_FAILURES = Counter "plumb_commit_failures" ["source"]
        "Tries of a commit that failed because the offline store was away";
    COMMIT_SECONDS = Histogram "plumb_commit_duration_seconds" ["source"]
        "Seconds that a commit took, beside the loop";
    COMMIT_BYTES = Counter "plumb_commit_bytes" ["source"]
        "Bytes of rows, dead letters, state and ids that commits have written";
    COMMIT_AGE_SECONDS = Gauge "plumb_commit_age_seconds" ["source", "partition"]
        "Seconds since the last commit while there is something uncommitted, else 0";
    UNCOMMITTED_BYTES = Gauge "plumb_uncommitted_bytes" ["source", "partition"]
        "Bytes of memory that wait for the next commit";

    "Snapshots":
    SNAPSHOT_SECONDS = Histogram "plumb_snapshot_duration_seconds" ["source"]
        "Seconds that a pass took that made snapshots, beside the stream";
    SNAPSHOT_ROWS = Counter "plumb_snapshot_rows" ["source"]
        "Rows of snapshots written";
    SNAPSHOT_FAILURES = Counter "plumb_snapshot_failures" ["source"]
        "Tries to make snapshots that failed; the next one follows by itself";
    SNAPSHOT_TIMESTAMP_SECONDS = Gauge "plumb_snapshot_timestamp_seconds" ["source"]
        "The newest instant whose snapshots are made, in seconds since the Unix epoch; 0 in a process that makes none";

    "Online store":
    PUBLISH_SECONDS = Histogram "plumb_publish_duration_seconds" ["source"]
        "Seconds that a publish to the online store took";
    PUBLISH_FAILURES = Counter "plumb_publish_failures" ["source"]
        "Publishes that failed because the online store was away";
    ONLINE_BACKLOG_RECORDS = Gauge "plumb_online_backlog_records" ["source", "partition"]
        "Records processed and not yet readable";
    REBUILD_PROGRESS_RATIO = Gauge "plumb_rebuild_progress_ratio" ["source", "partition"]
        "How much of a partition is in the online store again, 0 to 1; 1 when nothing is being rebuilt";

    "Rebuilding state (plumb materialize)":
    MATERIALIZE_RUNNING = Gauge "plumb_materialize_running" []
        "Rebuilds of online state under way in this process";
    MATERIALIZE_RUNS = Counter "plumb_materialize_runs" ["outcome"]
        "Rebuilds of online state that ended in this process: done, stopped or failed; where several processes share a job, one a partition";
    MATERIALIZE_STATES = Counter "plumb_materialize_states" ["view"]
        "States of entities (one a partition) that were rebuilt and put in the place of what was held";
    MATERIALIZE_DIFFERENCES = Counter "plumb_materialize_differences" ["view", "where"]
        "Rebuilt states that were held otherwise: in memory (a defect), online, or unconfirmed (the online store shows them otherwise even afterwards)";

    "Views":
    VIEW_READY = Gauge "plumb_view_ready" ["view"]
        "1 while a view answers, 0 while its state is being built";
    STATE_BYTES = Gauge "plumb_state_bytes" ["view", "version"]
        "Bytes of live state, as of the last commit";
    STATE_KEYS = Gauge "plumb_state_keys" ["view", "version"]
        "Entity keys in live state";
    STATE_LIMIT_BYTES = Gauge "plumb_state_limit_bytes" []
        "The bound of live state of all views (run.max_state)";
    HOT_KEYS = Gauge "plumb_hot_keys" ["view", "version"]
        "Keys with more raw contributions than a read of them should take; a hop would make their reads cheap";
    HOTTEST_KEY_CONTRIBUTIONS = Gauge "plumb_hottest_key_contributions" ["view", "version"]
        "Raw contributions held for the key that has most";
    VIEW_FAULTS = Counter "plumb_view_faults" ["view", "version"]
        "Events that a view failed on and that were dead-lettered for it";
    NON_FINITE = Counter "plumb_non_finite_numbers" ["view", "version"]
        "Contributed numbers that were none (NaN, infinite) and did not count";
    GUEST_CALLS = Counter "plumb_guest_calls" ["view", "version", "function"]
        "Calls of a component's function: extract or finalize";
    GUEST_ROWS = Counter "plumb_guest_rows" ["view", "version", "function"]
        "Rows given to a component's function";
    GUEST_SECONDS = Counter "plumb_guest_seconds" ["view", "version", "function"]
        "Seconds spent in calls of a component's function";
    GUEST_FUEL = Counter "plumb_guest_fuel" ["view", "version", "function"]
        "Units of fuel used by a component's function; the same for the same rows on any machine";

    "Answers":
    HTTP_REQUESTS = Counter "plumb_http_requests" ["route", "status"]
        "Requests answered, by the route's pattern";
    HTTP_REQUEST_SECONDS = Histogram "plumb_http_request_duration_seconds" ["route"]
        "Seconds from a request's head to its answer";
    HTTP_CONNECTIONS_REFUSED = Counter "plumb_http_connections_refused" []
        "Connections refused because a listener had as many as it may";
    FEATURE_READS = Counter "plumb_feature_reads" ["status", "source"]
        "Views answered for an entity, by status and by where the values came from: online or offline";
}

/// `docs/metrics.md`.
pub fn document() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         What `GET /metrics` (`serve.metrics_listen`) tells, in the OpenMetrics text format. This page is written from\n\
         `runtime/pipeline/src/metrics.rs`; tests see to it that both agree and that a running service exposes every one.\n\
         Counters of a partition's records go on from its last manifest, so they mean the same whoever owns the\n\
         partition; all others begin at 0 with the process. A partition is shown by the process that owns it.\n",
    );
    for (area, metrics) in ALL {
        text.push_str(&format!("\n## {area}\n\n| name | kind | labels | meaning |\n|---|---|---|---|\n"));
        for metric in *metrics {
            let name = match metric.kind {
                Kind::Counter => format!("{}_total", metric.name),
                Kind::Gauge | Kind::Histogram => metric.name.to_owned(),
            };
            let kind = format!("{:?}", metric.kind).to_lowercase();
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            text.push_str(&format!("| `{name}` | {kind} | {} | {} |\n", labels.join(", "), metric.help));
        }
    }
    text
}

/// Figures of the running flow at one moment.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// The partitions this process owns, with their views.
    pub partitions: Vec<PartitionStatus>,
    /// The end of the log of a source's partition, where it is known.
    pub ends: BTreeMap<(String, u32), u64>,
    /// The sources, and whether each can be read.
    pub reachable: BTreeMap<String, bool>,
    /// The active views, and whether each answers.
    pub ready: BTreeMap<String, bool>,
    /// What calls of the active views' functions have taken.
    pub guests: Vec<GuestFigures>,
    /// What is counted by source.
    pub meters: BTreeMap<String, Arc<SourceMeters>>,
    /// Writes refused for the sake of a later owner.
    pub fence_rejections: u64,
    /// Rebuilds of state.
    pub rebuilds: RebuildFigures,
    /// The bound of live state, in bytes.
    pub max_state_bytes: u64,
    /// The clock's time, µs since the Unix epoch.
    pub now_us: i64,
}

/// What calls of a function of a view have taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestFigures {
    /// The view.
    pub view: String,
    /// Its version, `1.2.0+ab12cd34`.
    pub version: String,
    /// Which function.
    pub function: Function,
    /// What its calls have taken.
    pub usage: Usage,
}

impl GuestFigures {
    /// Those of both functions of a view.
    pub fn of(view: &Transform) -> [Self; 2] {
        Function::ALL.map(|function| Self {
            view: view.def().name.clone(),
            version: view.version_label(),
            function,
            usage: view.usage(function),
        })
    }
}

/// The class of a dead letter's reason, a label: reasons themselves name fields and values.
///
/// Reasons are part of what people see and tests pin, so they are told apart by their beginnings.
pub fn reason_class(reason: &str, of_view: bool) -> &'static str {
    let begins = |with: &[&str]| with.iter().any(|begin| reason.starts_with(begin));
    if of_view {
        return match () {
            () if begins(&["required field"]) => "view_required_field",
            () if begins(&["guest error"]) => "view_error",
            () if begins(&["out of fuel"]) => "view_out_of_fuel",
            () if begins(&["memory limit"]) => "view_memory_limit",
            () if begins(&["malformed answer"]) => "view_malformed",
            () => "view_trap",
        };
    }
    match () {
        () if begins(&["missing field"]) => "missing_field",
        () if begins(&["record without a value"]) => "tombstone",
        () if begins(&["a record of "]) => "too_long",
        () if begins(&["not UTF-8"]) => "not_utf8",
        () if reason.contains(" is before min_time ") => "before_min_time",
        () if reason.contains(" is more than max_future ") => "after_max_future",
        () if begins(&["schema "]) => "schema",
        () if reason.contains("not JSON of an event") => "undecodable",
        () if begins(&["not Avro", "not Protobuf", "no registry record"]) => "undecodable",
        () if begins(&["field "]) => "wrong_type",
        () => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_distinct_and_have_units() {
        let all: Vec<&Metric> = ALL.iter().flat_map(|(_, metrics)| *metrics).collect();
        let names: BTreeSet<&str> = all.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), all.len());
        for metric in all {
            assert!(metric.name.starts_with("plumb_") && !metric.name.ends_with("_total"), "{}", metric.name);
            assert!(metric.name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase()), "{}", metric.name);
            if metric.kind == Kind::Histogram {
                assert!(metric.name.ends_with("_seconds"), "{}: a histogram says its unit", metric.name);
            }
            assert!(!metric.help.contains('|') && !metric.help.ends_with('.'), "{}", metric.name);
        }
    }

    #[test]
    fn reasons_have_classes() {
        use crate::accept::{AcceptRules, missing_field};
        use plumb_transform::Fault;
        let rules = AcceptRules::default();
        assert_eq!(reason_class(&rules.check_time("t", 0, 0).unwrap_err(), false), "before_min_time");
        assert_eq!(reason_class(&rules.check_time("t", i64::MAX, 0).unwrap_err(), false), "after_max_future");
        assert_eq!(reason_class(&missing_field("user_id"), false), "missing_field");
        let faults = [
            (Fault::Trap("unreachable".into()), "view_trap"),
            (Fault::OutOfFuel, "view_out_of_fuel"),
            (Fault::MemoryLimit, "view_memory_limit"),
            (Fault::Malformed("rows".into()), "view_malformed"),
        ];
        for (fault, class) in faults {
            assert_eq!(reason_class(&fault.to_string(), true), class);
        }
        let schema = Arc::new(plumb_core::event::SourceSchema::default_schema());
        let mut decoder = crate::decode::JsonDecoder::new(schema.clone(), crate::decode::TimeUnit::Ms);
        let mut batch = plumb_core::event::EventBatch::new(schema);
        let long = vec![b' '; crate::decode::json::RECORD_BYTES_MAX + 1];
        let records: [(&[u8], &str); 6] = [
            (b"\xff", "not_utf8"),
            (b"{", "undecodable"),
            (b"[]", "undecodable"),
            (br#"{"event_time":1,"price":"x"}"#, "wrong_type"),
            (br#"{"event_time":1}"#, "missing_field"),
            (&long, "too_long"),
        ];
        for (bytes, class) in records {
            let record = crate::decode::Record { offset: 0, record_time_us: 0, bytes };
            let reason = decoder.decode(&mut batch, record).unwrap_err();
            assert_eq!(reason_class(&reason, false), class, "{reason}");
        }
    }

    #[test]
    fn the_page_of_metrics_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(path, document()).unwrap();
        }
        let page = std::fs::read_to_string(path).unwrap();
        assert!(page == document(), "run the tests with UPDATE_EXPECT=1 to write docs/metrics.md again");
    }
}
