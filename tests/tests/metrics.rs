//! The metrics of a running service: every documented name is exposed, and nothing else is.

use plumb_pipeline::metrics::{ALL, Metric};
use plumb_testing::process::{PATIENCE, Service, post, request, settings};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Instant;

/// The names of the samples of a scrape.
fn samples(text: &str) -> BTreeSet<String> {
    let name = |line: &str| line.split(['{', ' ']).next().unwrap_or_default().to_owned();
    text.lines().filter(|line| !line.starts_with('#')).map(name).collect()
}

/// The sum of a metric's samples whose labels contain `labels`.
fn sum(text: &str, sample: &str, labels: &str) -> f64 {
    let of = |line: &str| {
        let rest = line.strip_prefix(sample).filter(|rest| rest.starts_with(['{', ' ']))?;
        rest.contains(labels).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
    };
    text.lines().filter_map(of).sum()
}

#[test]
fn a_running_service_exposes_every_documented_metric() {
    let folder = tempfile::tempdir().unwrap();
    let config = settings(folder.path(), 2, "[run]\nserve = true\ncommit_interval = \"200ms\"\n");
    let mut service = Service::start(folder.path(), ["run", "--config", config.to_str().unwrap()]);
    let address = service.ready();
    let log = std::fs::read_to_string(folder.path().join("service.log")).unwrap();
    let metrics =
        log.split("metrics http://").nth(1).or(log.split("metrics ").nth(1)).expect("it says where its metrics are");
    let metrics = metrics.split([')', ' ', '\n']).next().unwrap().to_owned();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let event = |id: u64, user: u64, price: f64| {
        json!({"event_id": format!("e{id}"), "event_time": now - 1_000, "user_id": format!("u{user}"), "item_id": "i",
               "event_type": "purchase", "price": price})
    };
    let mut lines: Vec<String> = (0..50).map(|id| event(id, id % 7, 1.5).to_string()).collect();
    lines.push(event(3, 3, 1.5).to_string());
    lines.push(event(4, 4, 2.5).to_string());
    lines.push(
        json!({"event_id": "far", "event_time": now + 86_400_000 * 365, "user_id": "u1", "event_type": "view"})
            .to_string(),
    );
    lines.push(
        json!({"event_id": "old", "event_time": now - 7_200_000, "user_id": "u1", "event_type": "view"}).to_string(),
    );
    let (status, text) = request(&address, "POST", "/events", format!("[{}]", lines.join(",")).as_bytes()).unwrap();
    assert_eq!(status, 200, "{text}");

    let all: Vec<&Metric> = ALL.iter().flat_map(|(_, metrics)| *metrics).collect();
    let documented: BTreeSet<String> = all.iter().flat_map(|metric| metric.samples()).collect();
    let end = Instant::now() + PATIENCE;
    let scraped = loop {
        let (_, text) = request(&metrics, "GET", "/metrics", b"").unwrap();
        let found = samples(&text);
        let strangers: Vec<_> = found.difference(&documented).collect();
        assert!(strangers.is_empty(), "{strangers:?} are exposed and not in runtime/pipeline/src/metrics.rs");
        post(&address, "/features/vector", &json!({"user_id": "u1", "item_id": "i"}));
        let committed =
            sum(&text, "plumb_commits_total", "") >= 1.0 && sum(&text, "plumb_guest_rows_total", "finalize") > 0.0;
        if committed && sum(&text, "plumb_records_total", "") == 54.0 && documented.is_subset(&found) {
            break text;
        }
        let missing: Vec<_> = documented.difference(&found).collect();
        assert!(Instant::now() < end, "after {PATIENCE:?} {missing:?} are missing from\n{text}");
        std::thread::yield_now();
    };
    let figures = [
        ("plumb_events_total", "class=\"applied\"", 51.0),
        ("plumb_events_total", "class=\"duplicate\"", 2.0),
        ("plumb_events_total", "class=\"rejected\"", 1.0),
        ("plumb_dedupe_conflicts_total", "", 1.0),
        ("plumb_dead_letters_total", "reason=\"after_max_future\"", 1.0),
        ("plumb_accounting_imbalance_records", "", 0.0),
        ("plumb_owned_partitions", "", 2.0),
        ("plumb_source_reachable", "", 1.0),
        ("plumb_partition_live", "", 2.0),
        ("plumb_lag_records", "", 0.0),
        ("plumb_rebuild_progress_ratio", "", 2.0),
        ("plumb_state_limit_bytes", "", (8u64 << 30) as f64),
    ];
    for (sample, labels, expected) in figures {
        assert_eq!(sum(&scraped, sample, labels), expected, "{sample}{{{labels}}}\n{scraped}");
    }
    for (sample, labels) in [
        ("plumb_freshness_seconds_count", ""),
        ("plumb_publish_duration_seconds_count", ""),
        ("plumb_commit_duration_seconds_sum", ""),
        ("plumb_commit_bytes_total", ""),
        ("plumb_state_bytes", "user_activity"),
        ("plumb_state_keys", "item_activity"),
        ("plumb_guest_rows_total", "extract"),
        ("plumb_guest_fuel_total", "extract"),
        ("plumb_guest_fuel_total", "finalize"),
        ("plumb_guest_seconds_total", "finalize"),
        ("plumb_generation", ""),
        ("plumb_http_request_duration_seconds_bucket", "/features/vector"),
    ] {
        assert!(sum(&scraped, sample, labels) > 0.0, "{sample}{{{labels}}}\n{scraped}");
    }
    assert_eq!(service.terminate(), Some(0));
}
