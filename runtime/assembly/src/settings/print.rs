//! The effective configuration as TOML.

use super::raw::mask_url;
use super::unit::format_size;
use super::{
    Compaction, DEFAULT_SOURCE, LogFormat, OfflineSettings, OnlineSettings, SNAPSHOTS, Settings, SourceSettings,
};
use plumb_core::time::format_duration;
use plumb_online_redis::RedisSettings;
use plumb_pipeline::Secret;
use plumb_pipeline::decode::format_rfc3339;
use plumb_pipeline::secret::MASK;
use plumb_source_kafka::KafkaStart;
use plumb_source_kafka::settings::SASL_MECHANISMS;
use plumb_store_object::S3Settings;
use std::path::PathBuf;
use std::time::Duration;
use toml::{Table, Value};

pub(super) fn settings(settings: &Settings) -> String {
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
    root.insert("online".into(), online(&settings.online));
    root.insert("offline".into(), offline(&settings.offline));
    let run = &settings.run;
    root.insert(
        "run".into(),
        section([
            ("serve", Value::Boolean(run.serve)),
            ("publish_interval", duration(run.publish_interval)),
            ("commit_interval", duration(run.commit_interval)),
            ("commit_size", Value::String(format_size(run.commit_size_bytes))),
            ("max_uncommitted", Value::String(format_size(run.max_uncommitted_bytes))),
            ("threads", Value::Integer(run.threads.into())),
            ("max_state", Value::String(format_size(run.max_state_bytes))),
            ("hot_key", Value::Integer(run.hot_key.into())),
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
    let telemetry = &settings.telemetry;
    let logs = match telemetry.logs {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    let telemetry = [("logs", text(logs)), ("otlp_endpoint", optional(telemetry.otlp_endpoint.as_deref()))];
    root.insert("telemetry".into(), section(telemetry));
    root.to_string()
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn optional(value: Option<&str>) -> Value {
    text(value.unwrap_or_default())
}

fn path(value: Option<&PathBuf>) -> Value {
    text(&value.map(|path| path.to_string_lossy()).unwrap_or_default())
}

fn secret(value: Option<&Secret>) -> Value {
    optional(value.map(|_| MASK))
}

fn online(online: &OnlineSettings) -> Value {
    let redis = online.redis.as_ref();
    let defaults = RedisSettings::parse("redis://localhost");
    let sizes = redis.or(defaults.as_ref().ok());
    section([
        ("url", text(&mask_url(online.url.reveal()))),
        ("namespace", text(redis.map_or("default", |redis| &redis.namespace))),
        ("tls_ca", path(redis.and_then(|redis| redis.tls_ca.as_ref()))),
        ("connections", Value::Integer(sizes.map_or(0, |redis| redis.connections).into())),
        ("buckets", Value::Integer(sizes.map_or(0, |redis| redis.buckets).into())),
        ("connect_timeout", duration(sizes.map_or(Duration::ZERO, |redis| redis.connect_timeout))),
        ("read_timeout", duration(sizes.map_or(Duration::ZERO, |redis| redis.read_timeout))),
        ("write_timeout", duration(sizes.map_or(Duration::ZERO, |redis| redis.write_timeout))),
    ])
}

fn offline(offline: &OfflineSettings) -> Value {
    let none = S3Settings::default();
    let s3 = offline.s3.as_ref().unwrap_or(&none);
    let snapshots = SNAPSHOTS.iter().find(|(_, choice)| *choice == offline.snapshots);
    let compaction = Compaction::ALL.iter().find(|(_, choice)| *choice == offline.compaction);
    section([
        ("url", text(&offline.url)),
        ("snapshots", text(snapshots.map_or("none", |(name, _)| name))),
        ("compaction", text(compaction.map_or("auto", |(name, _)| name))),
        ("keep_replaced", duration(offline.keep_replaced)),
        ("endpoint", optional(s3.endpoint.as_deref())),
        ("region", optional(s3.region.as_deref())),
        ("access_key", optional(s3.access_key.as_deref())),
        ("secret_key", secret(s3.secret_key.as_ref())),
        ("allow_http", Value::Boolean(s3.allow_http)),
    ])
}

fn section<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Table(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn duration(duration: Duration) -> Value {
    Value::String(format_duration(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
}

fn source(source: &SourceSettings) -> Table {
    let us = |us: i64| Value::String(format_duration(us));
    let required = source.fields.iter().filter(|field| field.required).map(|field| text(&field.name)).collect();
    let fields = source.fields.iter().map(|field| (field.name.clone(), text(&field.data_type.name()))).collect();
    let (kafka, sasl, tls) = (&source.kafka, source.kafka.sasl.as_ref(), &source.kafka.tls);
    let start = match kafka.start {
        KafkaStart::Earliest => "earliest",
        KafkaStart::Latest => "latest",
    };
    let password = sasl.filter(|_| source.sasl_password_file.is_none()).map(|sasl| &sasl.password);
    let registry = source.format.registry.as_ref();
    let credentials = registry.and_then(|registry| registry.credentials.as_ref());
    let entries = [
        ("kind", text(source.kind.name())),
        ("partitions", Value::Integer(source.partitions.into())),
        ("path", text(&source.path.to_string_lossy())),
        ("brokers", text(&kafka.brokers)),
        ("topic", text(&kafka.topic)),
        ("group", text(&kafka.group)),
        ("start", text(start)),
        ("security", text(kafka.security.name())),
        ("sasl_mechanism", text(sasl.map_or(SASL_MECHANISMS[0], |sasl| &sasl.mechanism))),
        ("sasl_username", optional(sasl.map(|sasl| sasl.username.as_str()))),
        ("sasl_password", secret(password)),
        ("sasl_password_file", path(source.sasl_password_file.as_ref())),
        ("ssl_ca", path(tls.ca.as_ref())),
        ("ssl_certificate", path(tls.certificate.as_ref())),
        ("ssl_key", path(tls.key.as_ref())),
        ("instance_id", optional(kafka.instance_id.as_deref())),
        ("session_timeout", duration(kafka.session_timeout)),
        ("dead_letter_topic", optional(kafka.dead_letter_topic.as_deref())),
        ("max_message", Value::String(format_size(kafka.max_message_bytes.into()))),
        ("format", text(source.format.format.name())),
        ("registry_url", optional(registry.map(|registry| registry.url.as_str()))),
        ("registry_username", optional(credentials.map(|(name, _)| name.as_str()))),
        ("registry_password", secret(credentials.map(|(_, password)| password))),
        ("registry_ca", path(registry.and_then(|registry| registry.tls_ca.as_ref()))),
        ("message", optional(source.format.message.as_deref())),
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
