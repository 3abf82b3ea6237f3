//! Logs on stderr, as text or as one JSON object a line, and traces by OTLP.
//!
//! Spans of traces have a target of their own, [`TRACE`], which logs leave out: without a collector no span is ever made.
//! With one, a trace of each kind begins at most every [`BETWEEN`], so that tracing costs the same whatever the load.

use anyhow::{Context, Result};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use plumb_assembly::settings::{LogFormat, TelemetrySettings};
use plumb_pipeline::TRACE;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::{Context as LayerContext, Filter, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// The least time between two traces of a kind.
const BETWEEN: Duration = Duration::from_millis(50);

/// How long the end of the process waits for the last traces to be sent.
const FLUSH: Duration = Duration::from_secs(2);

/// How long one sending of traces may take.
const SEND: Duration = Duration::from_secs(5);

/// The spans a trace may begin with; the others are parts of one.
const ROOTS: [&str; 4] = ["batch", "publish", "commit", "request"];

/// Whether stderr takes JSON lines.
static JSON: AtomicBool = AtomicBool::new(false);

/// Ends the sending of traces when dropped.
#[derive(Debug, Default)]
pub(crate) struct Telemetry(Option<SdkTracerProvider>);

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(provider) = self.0.take()
            && let Err(error) = provider.shutdown_with_timeout(FLUSH)
        {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

/// Logs of a command that has no settings.
pub(crate) fn plain() {
    tracing_subscriber::registry().with(logs(LogFormat::Text)).init();
}

/// Logs and traces as configured, until the answer is dropped.
pub(crate) fn start(settings: &TelemetrySettings) -> Result<Telemetry> {
    JSON.store(settings.logs == LogFormat::Json, Ordering::Relaxed);
    let logs = logs(settings.logs);
    let Some(endpoint) = &settings.otlp_endpoint else {
        tracing_subscriber::registry().with(logs).init();
        return Ok(Telemetry(None));
    };
    let provider = provider(endpoint)?;
    let traces = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("plumb"))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_target(false)
        .with_filter(Sampled::default());
    tracing_subscriber::registry().with(logs).with(traces).init();
    Ok(Telemetry(Some(provider)))
}

fn logs<S: Subscriber + for<'a> LookupSpan<'a>>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync> {
    let filter = EnvFilter::try_from_env("PLUMB_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    let without_traces = format!("{TRACE}=off").parse().expect("a target and a level are a directive");
    let filter = filter.add_directive(without_traces);
    let lines = fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).with_filter(filter).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    }
}

fn provider(endpoint: &str) -> Result<SdkTracerProvider> {
    // Whoever was first has chosen for the process.
    let _chosen = rustls::crypto::ring::default_provider().install_default();
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{endpoint}/v1/traces"))
        .with_timeout(SEND)
        .build()
        .with_context(|| format!("telemetry.otlp_endpoint = \"{endpoint}\""))?;
    let version = opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder().with_service_name("plumb").with_attribute(version).build();
    Ok(SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build())
}

/// Lets a trace of each kind begin now and then, and whatever belongs to it through.
#[derive(Debug)]
struct Sampled {
    start: Instant,
    /// When the last trace of a kind began, in µs since `start`; 0 = never.
    last: [AtomicU64; ROOTS.len()],
}

impl Default for Sampled {
    fn default() -> Self {
        Self { start: Instant::now(), last: Default::default() }
    }
}

impl Sampled {
    fn is_due(&self, kind: usize) -> bool {
        let now = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX).max(1);
        let last = self.last[kind].load(Ordering::Relaxed);
        let due = last == 0 || now.saturating_sub(last) >= BETWEEN.as_micros() as u64;
        // Of two threads at once one wins.
        due && self.last[kind].compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Filter<S> for Sampled {
    fn enabled(&self, metadata: &Metadata<'_>, context: &LayerContext<'_, S>) -> bool {
        if metadata.target() != TRACE || !metadata.is_span() {
            return false;
        }
        // Only spans that were let through are seen here.
        if context.lookup_current().is_some() {
            return true;
        }
        ROOTS.iter().position(|root| *root == metadata.name()).is_some_and(|kind| self.is_due(kind))
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> tracing::subscriber::Interest {
        match metadata.target() == TRACE && metadata.is_span() {
            true => tracing::subscriber::Interest::sometimes(),
            false => tracing::subscriber::Interest::never(),
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }
}

/// Says something to whoever started the process, whatever is logged: `plumb: text`, or a JSON line like those of the
/// logs, with `fields`.
pub(crate) fn say(level: &str, text: &str, fields: &[(&str, String)]) {
    if !JSON.load(Ordering::Relaxed) {
        eprintln!("plumb: {text}");
        return;
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = plumb_pipeline::decode::format_rfc3339(i64::try_from(now.as_micros()).unwrap_or(i64::MAX));
    let mut line = serde_json::json!({"timestamp": now, "level": level, "message": text, "target": "plumb"});
    for (name, value) in fields {
        line[*name] = value.clone().into();
    }
    eprintln!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::registry::Registry;

    use std::sync::{Arc, Mutex, PoisonError};

    /// What a place in the code is interesting to is noted once for all threads: tests with subscribers of their own
    /// take turns.
    static SUBSCRIBED: Mutex<()> = Mutex::new(());

    fn work() {
        tracing::info_span!(target: TRACE, "batch").in_scope(|| {
            tracing::info_span!(target: TRACE, "extract").in_scope(|| tracing::warn!(target: TRACE, "an event"));
            tracing::info_span!("of somebody else");
        });
        tracing::info_span!(target: TRACE, "finalize");
    }

    #[test]
    fn without_a_collector_no_span_is_made() {
        let _turn = SUBSCRIBED.lock().unwrap_or_else(PoisonError::into_inner);
        let subscriber = tracing_subscriber::registry().with(logs::<Registry>(LogFormat::Text));
        tracing::subscriber::with_default(subscriber, || {
            for span in [tracing::info_span!(target: TRACE, "batch"), tracing::error_span!(target: TRACE, "request")] {
                assert!(span.is_disabled());
            }
        });
    }

    /// Remembers what reaches it.
    #[derive(Clone, Default)]
    struct FakeTracer(Arc<Mutex<Vec<&'static str>>>);

    impl<S: Subscriber> Layer<S> for FakeTracer {
        fn on_new_span(&self, span: &tracing::span::Attributes<'_>, _: &tracing::Id, _: LayerContext<'_, S>) {
            self.0.lock().unwrap().push(span.metadata().name());
        }

        fn on_event(&self, _: &tracing::Event<'_>, _: LayerContext<'_, S>) {
            self.0.lock().unwrap().push("an event");
        }
    }

    #[test]
    fn traces_are_sampled_whole() {
        let _turn = SUBSCRIBED.lock().unwrap_or_else(PoisonError::into_inner);
        let tracer = FakeTracer::default();
        let seen = || std::mem::take(&mut *tracer.0.lock().unwrap());
        let traces = tracer.clone().with_filter(Sampled::default());
        let subscriber = tracing_subscriber::registry().with(logs::<Registry>(LogFormat::Json)).with(traces);
        tracing::subscriber::with_default(subscriber, || {
            work();
            assert_eq!(seen(), ["batch", "extract"], "no part without its whole, nothing of somebody else's");
            work();
            assert_eq!(seen(), [""; 0], "too soon, and none of its parts either");
            tracing::info_span!(target: TRACE, "commit");
            assert_eq!(seen(), ["commit"], "kinds are told apart");
            let end = Instant::now() + Duration::from_secs(60);
            while tracer.0.lock().unwrap().is_empty() {
                assert!(Instant::now() < end);
                work();
            }
            assert_eq!(seen(), ["batch", "extract"]);
        });
    }
}
