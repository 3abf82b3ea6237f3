//! The service's own metrics, and those of the running flow read at each scrape.

use crate::backend::Backend;
use plumb_pipeline::meter::{self, RebuiltFigures, SourceMeters};
use plumb_pipeline::metrics as names;
use plumb_pipeline::metrics::{Figures, GuestFigures, Metric, Usage};
use plumb_pipeline::query::{Answer, ReadSource, Status};
use plumb_pipeline::worker::{PartitionStatus, Pause, Phase, ViewStatus};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeLabelSet, EncodeMetric, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::fmt::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

type Label<T> = [(&'static str, T); 1];
type RouteLabels = Label<&'static str>;
type RequestLabels = (RouteLabels, Label<u64>);
type ReadLabels = [(&'static str, &'static str); 2];

/// The service's metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    seconds: Family<RouteLabels, Histogram, fn() -> Histogram>,
    reads: Family<ReadLabels, Counter>,
    refused: Counter,
}

/// From 50 µs, below the aim for a vector, to 6.5 s.
fn latency_histogram() -> Histogram {
    Histogram::new((0..18).map(|power| 0.000_05 * f64::from(1u32 << power)))
}

impl Metrics {
    pub(crate) fn new(backend: Arc<dyn Backend>) -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let seconds = Family::new_with_constructor(latency_histogram as fn() -> Histogram);
        let reads = Family::default();
        let refused = Counter::default();
        registry.register(names::HTTP_REQUESTS.name, names::HTTP_REQUESTS.help, requests.clone());
        registry.register(names::HTTP_REQUEST_SECONDS.name, names::HTTP_REQUEST_SECONDS.help, seconds.clone());
        registry.register(names::FEATURE_READS.name, names::FEATURE_READS.help, reads.clone());
        registry.register(names::HTTP_CONNECTIONS_REFUSED.name, names::HTTP_CONNECTIONS_REFUSED.help, refused.clone());
        registry.register_collector(Box::new(Flow(backend)));
        Self { registry, requests, seconds, reads, refused }
    }

    pub(crate) fn request(&self, route: &'static str, status: u16, elapsed: Duration) {
        self.requests.get_or_create(&([("route", route)], [("status", u64::from(status))])).inc();
        self.seconds.get_or_create(&[("route", route)]).observe(elapsed.as_secs_f64());
    }

    pub(crate) fn answers(&self, answers: &[Answer]) {
        // Counted locally first: a batch is thousands of views of a handful of kinds.
        let mut counts: Vec<((Status, ReadSource), u64)> = Vec::new();
        for view in answers.iter().flat_map(|answer| &answer.views) {
            let kind = (view.status, view.source);
            match counts.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, count)) => *count += 1,
                None => counts.push((kind, 1)),
            }
        }
        for ((status, source), count) in counts {
            self.reads.get_or_create(&[("status", status.name()), ("source", source.name())]).inc_by(count);
        }
    }

    pub(crate) fn connection_refused(&self) {
        self.refused.inc();
    }

    /// Everything in the OpenMetrics text format.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.registry).expect("invariant: writing to a string does not fail");
        text
    }
}

/// Reads the flow's figures at each scrape.
struct Flow(Arc<dyn Backend>);

impl std::fmt::Debug for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Flow")
    }
}

impl Collector for Flow {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let figures = self.0.figures();
        let mut out = Encoder(&mut encoder);
        out.process(&figures)?;
        out.records(&figures)?;
        out.partitions(&figures)?;
        out.sources(&figures)?;
        out.rebuilds(&figures)?;
        out.views(&figures)?;
        out.guests(&figures)
    }
}

type HistogramOf = fn(&SourceMeters) -> &meter::Histogram;

const NO_LABELS: [(&str, &str); 0] = [];

fn labels(one: &PartitionStatus) -> Vec<(&'static str, String)> {
    vec![("source", one.source.clone()), ("partition", one.partition.to_string())]
}

fn with(one: &PartitionStatus, name: &'static str, value: &str) -> Vec<(&'static str, String)> {
    let mut labels = labels(one);
    labels.push((name, value.to_owned()));
    labels
}

struct Encoder<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Encoder<'_, '_> {
    fn process(&mut self, figures: &Figures) -> Result<(), Error> {
        let build = [([("version", env!("CARGO_PKG_VERSION"))], 1.0)];
        self.gauges(names::BUILD_INFO, build.into_iter())?;
        let mut owned: BTreeMap<&str, u64> = figures.meters.keys().map(|source| (source.as_str(), 0)).collect();
        for one in &figures.partitions {
            *owned.entry(&one.source).or_default() += 1;
        }
        let owned = owned.iter().map(|(source, &count)| ([("source", *source)], count as f64));
        self.gauges(names::OWNED_PARTITIONS, owned)?;
        let reachable = figures.reachable.iter().map(|(name, &yes)| ([("source", name)], f64::from(u8::from(yes))));
        self.gauges(names::SOURCE_REACHABLE, reachable)?;
        self.counters(names::FENCE_REJECTIONS, [(NO_LABELS, figures.fence_rejections)].into_iter())?;
        self.gauges(names::STATE_LIMIT_BYTES, [(NO_LABELS, figures.max_state_bytes as f64)].into_iter())
    }

    /// What became of the records.
    fn records(&mut self, figures: &Figures) -> Result<(), Error> {
        let partitions = &figures.partitions;
        let counts = |value: fn(&PartitionStatus) -> u64| partitions.iter().map(move |one| (labels(one), value(one)));
        self.counters(names::RECORDS, counts(|one| one.accounting.read))?;
        let classes = partitions.iter().flat_map(|one| {
            let all = &one.accounting;
            let classes = [
                ("applied", all.applied),
                ("duplicate", all.duplicate),
                ("rejected", all.rejected),
                ("filtered", all.filtered),
            ];
            classes.map(|(class, count)| (with(one, "class", class), count))
        });
        self.counters(names::EVENTS, classes)?;
        self.counters(names::EVENTS_LATE, counts(|one| one.accounting.late))?;
        self.counters(names::DEDUPE_CONFLICTS, counts(|one| one.accounting.dedupe_conflict))?;
        let letters = partitions
            .iter()
            .flat_map(|one| one.dead_letters.iter().map(move |(reason, &count)| (with(one, "reason", reason), count)));
        self.counters(names::DEAD_LETTERS, letters)?;
        let imbalance = partitions.iter().map(|one| {
            let all = &one.accounting;
            let classes = all.applied + all.duplicate + all.rejected + all.filtered;
            (labels(one), all.read as f64 - classes as f64)
        });
        self.gauges(names::ACCOUNTING_IMBALANCE, imbalance)?;
        self.counters(names::GAP_RECORDS, counts(|one| one.gap_records))
    }

    /// How far the partitions are.
    fn partitions(&mut self, figures: &Figures) -> Result<(), Error> {
        let partitions = &figures.partitions;
        let end = |one: &PartitionStatus| figures.ends.get(&(one.source.clone(), one.partition)).copied();
        let positions = partitions.iter().flat_map(|one| {
            let kinds = [
                ("processed", Some(one.position)),
                ("published", one.published),
                ("committed", Some(one.committed)),
                ("end", end(one)),
            ];
            kinds.map(|(kind, offset)| offset.map(|offset| (with(one, "kind", kind), offset as f64)))
        });
        self.gauges(names::POSITION, positions.flatten())?;
        let lags =
            partitions.iter().filter_map(|one| Some((labels(one), end(one)?.saturating_sub(one.position) as f64)));
        self.gauges(names::LAG_RECORDS, lags)?;
        let newest = partitions.iter().filter_map(|one| Some((labels(one), one.newest_event_time_us?)));
        self.gauges(names::WATERMARK_SECONDS, newest.clone().map(|(labels, us)| (labels, us as f64 / 1e6)))?;
        let behind = newest.map(|(labels, us)| (labels, figures.now_us.saturating_sub(us) as f64 / 1e6));
        self.gauges(names::WATERMARK_LAG_SECONDS, behind)?;
        let gauge = |value: fn(&PartitionStatus) -> f64| partitions.iter().map(move |one| (labels(one), value(one)));
        let live = gauge(|one| f64::from(u8::from(matches!(one.phase, Phase::Live | Phase::Ended))));
        self.gauges(names::PARTITION_LIVE, live)?;
        let paused = partitions.iter().flat_map(|one| {
            Pause::ALL
                .map(|reason| (with(one, "reason", reason.name()), f64::from(u8::from(one.paused == Some(reason)))))
        });
        self.gauges(names::PARTITION_PAUSED, paused)?;
        self.gauges(names::GENERATION, gauge(|one| one.generation as f64))?;
        self.gauges(names::REMEMBERED_IDS, gauge(|one| one.remembered_ids as f64))?;
        self.gauges(names::UNCOMMITTED_BYTES, gauge(|one| one.uncommitted_bytes as f64))?;
        let age = |one: &PartitionStatus| match one.committed_at_us {
            Some(at_us) if one.position > one.committed => (figures.now_us - at_us).max(0) as f64 / 1e6,
            _ => 0.0,
        };
        self.gauges(names::COMMIT_AGE_SECONDS, partitions.iter().map(|one| (labels(one), age(one))))?;
        // While a partition is rebuilt, nothing of it can be read, and its progress is told instead.
        let unread = partitions.iter().filter_map(|one| Some((labels(one), one.position.checked_sub(one.published?)?)));
        self.gauges(names::ONLINE_BACKLOG_RECORDS, unread.map(|(labels, records)| (labels, records as f64)))?;
        let progress = partitions.iter().map(|one| {
            let progress = figures.meters.get(&one.source).map_or(1.0, |meters| meters.rebuild_progress(one.partition));
            (labels(one), progress)
        });
        self.gauges(names::REBUILD_PROGRESS_RATIO, progress)
    }

    /// What is counted by source.
    fn sources(&mut self, figures: &Figures) -> Result<(), Error> {
        let counts = |value: fn(&SourceMeters) -> u64| {
            figures.meters.iter().map(move |(source, meters)| ([("source", source.as_str())], value(meters)))
        };
        self.counters(names::COMMITS, counts(|meters| meters.commits.figures().count))?;
        self.counters(names::COMMIT_FAILURES, counts(|meters| meters.commit_failures.load(Relaxed)))?;
        self.counters(names::COMMIT_BYTES, counts(|meters| meters.commit_bytes.load(Relaxed)))?;
        self.counters(names::PUBLISH_FAILURES, counts(|meters| meters.publish_failures.load(Relaxed)))?;
        self.counters(names::SNAPSHOT_ROWS, counts(|meters| meters.snapshot_rows.load(Relaxed)))?;
        self.counters(names::SNAPSHOT_FAILURES, counts(|meters| meters.snapshot_failures.load(Relaxed)))?;
        let through = figures.meters.iter().map(|(source, meters)| {
            ([("source", source.as_str())], meters.snapshots_through_us.load(Relaxed) as f64 / 1e6)
        });
        self.gauges(names::SNAPSHOT_TIMESTAMP_SECONDS, through)?;
        let histograms: [(Metric, HistogramOf); 4] = [
            (names::SNAPSHOT_SECONDS, |meters| &meters.snapshots),
            (names::FRESHNESS_SECONDS, |meters| &meters.freshness),
            (names::COMMIT_SECONDS, |meters| &meters.commits),
            (names::PUBLISH_SECONDS, |meters| &meters.publishes),
        ];
        for (metric, of) in histograms {
            let mut out = self.0.encode_descriptor(metric.name, metric.help, None, MetricType::Histogram)?;
            for (source, meters) in &figures.meters {
                let figures = of(meters).figures();
                let labels = [("source", source.as_str())];
                out.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                    figures.sum,
                    figures.count,
                    &figures.buckets,
                    None,
                )?;
            }
        }
        Ok(())
    }

    /// What rebuilding state has done; views of which none was rebuilt show zeros.
    fn rebuilds(&mut self, figures: &Figures) -> Result<(), Error> {
        let rebuilds = &figures.rebuilds;
        self.gauges(names::MATERIALIZE_RUNNING, [(NO_LABELS, rebuilds.running as f64)].into_iter())?;
        let outcomes = [("done", rebuilds.done), ("stopped", rebuilds.stopped), ("failed", rebuilds.failed)];
        let outcomes = outcomes.map(|(outcome, count)| ([("outcome", outcome)], count));
        self.counters(names::MATERIALIZE_RUNS, outcomes.into_iter())?;
        let none = figures.ready.keys().map(|view| (view.as_str(), RebuiltFigures::default()));
        let mut views: BTreeMap<&str, RebuiltFigures> = none.collect();
        views.extend(rebuilds.views.iter().map(|(view, figures)| (view.as_str(), *figures)));
        let states = views.iter().map(|(view, of_view)| ([("view", *view)], of_view.states));
        self.counters(names::MATERIALIZE_STATES, states)?;
        let differences = views.iter().flat_map(|(view, of_view)| {
            let places =
                [("memory", of_view.in_memory), ("online", of_view.online), ("unconfirmed", of_view.unconfirmed)];
            places.map(|(place, count)| ([("view", *view), ("where", place)], count))
        });
        self.counters(names::MATERIALIZE_DIFFERENCES, differences)
    }

    fn views(&mut self, figures: &Figures) -> Result<(), Error> {
        let mut views: BTreeMap<(&str, &str), ViewStatus> = BTreeMap::new();
        for one in figures.partitions.iter().flat_map(|partition| &partition.views) {
            let sum = views.entry((&one.view, &one.version)).or_default();
            sum.keys += one.keys;
            sum.state_bytes += one.state_bytes;
            sum.faults += one.faults;
            sum.non_finite += one.non_finite;
            sum.hot_keys += one.hot_keys;
            sum.hottest = sum.hottest.max(one.hottest);
        }
        let values = |value: fn(&ViewStatus) -> u64| {
            let labels =
                |(view, version): &(&str, &str)| vec![("view", (*view).to_owned()), ("version", (*version).to_owned())];
            views.iter().map(move |(name, one)| (labels(name), value(one)))
        };
        let bytes = values(|one| one.state_bytes).map(|(labels, value)| (labels, value as f64));
        self.gauges(names::STATE_BYTES, bytes)?;
        let keys = values(|one| one.keys).map(|(labels, value)| (labels, value as f64));
        self.gauges(names::STATE_KEYS, keys)?;
        let hot = values(|one| one.hot_keys).map(|(labels, value)| (labels, value as f64));
        self.gauges(names::HOT_KEYS, hot)?;
        let hottest = values(|one| one.hottest).map(|(labels, value)| (labels, value as f64));
        self.gauges(names::HOTTEST_KEY_CONTRIBUTIONS, hottest)?;
        self.counters(names::VIEW_FAULTS, values(|one| one.faults))?;
        self.counters(names::NON_FINITE, values(|one| one.non_finite))?;
        let ready = figures.ready.iter().map(|(view, &ready)| ([("view", view.clone())], f64::from(u8::from(ready))));
        self.gauges(names::VIEW_READY, ready)
    }

    fn guests(&mut self, figures: &Figures) -> Result<(), Error> {
        fn labels(one: &GuestFigures) -> [(&'static str, &str); 3] {
            [("view", one.view.as_str()), ("version", one.version.as_str()), ("function", one.function.name())]
        }
        let values = |value: fn(&Usage) -> u64| figures.guests.iter().map(move |one| (labels(one), value(&one.usage)));
        self.counters(names::GUEST_CALLS, values(|usage| usage.calls))?;
        self.counters(names::GUEST_ROWS, values(|usage| usage.rows))?;
        self.counters(names::GUEST_FUEL, values(|usage| usage.fuel))?;
        let seconds = figures.guests.iter().map(|one| (labels(one), one.usage.time.as_secs_f64()));
        self.counters(names::GUEST_SECONDS, seconds)
    }

    fn counters<L: EncodeLabelSet, N: EncodeCounterValue + Clone + std::fmt::Debug>(
        &mut self,
        metric: Metric,
        values: impl Iterator<Item = (L, N)>,
    ) -> Result<(), Error> {
        let mut metric = self.0.encode_descriptor(metric.name, metric.help, None, MetricType::Counter)?;
        for (labels, value) in values {
            ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn gauges<L: EncodeLabelSet>(
        &mut self,
        metric: Metric,
        values: impl Iterator<Item = (L, f64)>,
    ) -> Result<(), Error> {
        let mut metric = self.0.encode_descriptor(metric.name, metric.help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
