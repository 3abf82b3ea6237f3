//! The effective configuration as TOML.

use super::raw::mask_url;
use super::unit::format_size;
use super::{DEFAULT_SOURCE, Settings, SourceKind, SourceSettings};
use plumb_core::time::format_duration;
use plumb_pipeline::decode::format_rfc3339;
use std::time::Duration;
use toml::{Table, Value};

pub(super) fn settings(settings: &Settings) -> String {
    let text = |text: &str| Value::String(text.to_owned());
    let mut root = Table::new();
    root.insert("data_dir".into(), text(&settings.data_dir.to_string_lossy()));
    match settings.sources.get(DEFAULT_SOURCE) {
        Some(only) if settings.sources.len() == 1 => {
            root.insert("source".into(), Value::Table(source(only)));
        }
        _ => {
            let named = settings.sources.iter().map(|(name, one)| (name.clone(), Value::Table(source(one)))).collect();
            root.insert("sources".into(), Value::Table(named));
        }
    }
    let paths = settings.transforms.paths.iter().map(|path| text(path)).collect();
    root.insert("transforms".into(), section([("paths", Value::Array(paths))]));
    root.insert("online".into(), section([("url", text(&mask_url(&settings.online.url)))]));
    root.insert(
        "offline".into(),
        section([("url", text(&mask_url(&settings.offline.url))), ("snapshots", text(&settings.offline.snapshots))]),
    );
    let run = &settings.run;
    root.insert(
        "run".into(),
        section([
            ("serve", Value::Boolean(run.serve)),
            ("publish_interval", duration(run.publish_interval)),
            ("commit_interval", duration(run.commit_interval)),
            ("commit_size", Value::String(format_size(run.commit_size_bytes))),
        ]),
    );
    let serve = &settings.serve;
    root.insert(
        "serve".into(),
        section([
            ("listen", text(&serve.listen)),
            ("admin_listen", text(&serve.admin_listen)),
            ("metrics_listen", text(&serve.metrics_listen)),
            ("insecure", Value::Boolean(serve.insecure)),
            ("header_timeout", duration(serve.header_timeout)),
            ("request_timeout", duration(serve.request_timeout)),
            ("shutdown_timeout", duration(serve.shutdown_timeout)),
            ("body_limit", Value::String(format_size(serve.body_limit_bytes))),
            ("component_limit", Value::String(format_size(serve.component_limit_bytes))),
            ("batch_limit", Value::Integer(serve.batch_limit.into())),
            ("connection_limit", Value::Integer(serve.connection_limit.into())),
        ]),
    );
    root.to_string()
}

fn section<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Table(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn duration(duration: Duration) -> Value {
    Value::String(format_duration(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
}

fn source(source: &SourceSettings) -> Table {
    let text = |text: &str| Value::String(text.to_owned());
    let us = |us: i64| Value::String(format_duration(us));
    let kind = match source.kind {
        SourceKind::Log => "log",
        SourceKind::File => "file",
    };
    let required = source.fields.iter().filter(|field| field.required).map(|field| text(&field.name)).collect();
    let fields = source.fields.iter().map(|field| (field.name.clone(), text(&field.data_type.name()))).collect();
    let entries = [
        ("kind", text(kind)),
        ("partitions", Value::Integer(source.partitions.into())),
        ("path", text(&source.path.to_string_lossy())),
        ("brokers", text(&source.kafka.brokers)),
        ("topic", text(&source.kafka.topic)),
        ("group", text(&source.kafka.group)),
        ("start", text(&source.kafka.start)),
        ("time_field", text(&source.time_field)),
        ("time_unit", text(source.time_unit.name())),
        ("id_field", text(&source.id_field)),
        ("key_field", text(&source.key_field)),
        ("min_time", text(&format_rfc3339(source.min_time_us).replace(".000000Z", "Z"))),
        ("max_future", us(source.max_future_us)),
        ("allowed_lateness", us(source.allowed_lateness_us)),
        ("dedupe_horizon", us(source.dedupe_horizon_us)),
        ("required", Value::Array(required)),
        ("fields", Value::Table(fields)),
    ];
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
