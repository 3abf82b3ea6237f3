//! `plumb.toml`: one documented structure, every key with a default, unknown keys refused.
//!
//! Text becomes checked [`Settings`] once; nothing after that looks at a key again. The defaults are
//! written out in `default.toml` beside this crate's manifest. What a later release brings is known by
//! name and refused with a line that says so, never ignored.

mod check;
mod kafka;
mod print;
mod raw;
mod stores;
#[cfg(test)]
mod tests;
mod unit;

pub use unit::parse_size;

use crate::instance::AUTO;
use crate::{Error, Result};
use plumb_core::event::{Field, SourceSchema};
use plumb_core::time::{DAY_US, HOUR_US, MINUTE_US};
use plumb_formats::FormatSettings;
use plumb_online_redis::RedisSettings;
use plumb_pipeline::Secret;
use plumb_pipeline::commit::collect::KEEP;
use plumb_pipeline::decode::TimeUnit;
use plumb_pipeline::offline::Every;
use plumb_source_kafka::KafkaSettings;
use plumb_store_object::S3Settings;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Every key with its default and its meaning, as printed by `plumb` for a new project.
pub const DEFAULT_TOML: &str = include_str!("../../default.toml");

/// The name of the source that `[source]` describes.
pub const DEFAULT_SOURCE: &str = "default";

/// The checked configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Where the embedded log, the embedded online store and caches live.
    pub data_dir: PathBuf,
    /// The sources by name; never empty.
    pub sources: BTreeMap<String, SourceSettings>,
    /// `[transforms]`.
    pub transforms: TransformSettings,
    /// `[online]`.
    pub online: OnlineSettings,
    /// `[offline]`.
    pub offline: OfflineSettings,
    /// `[run]`.
    pub run: RunSettings,
    /// `[serve]`.
    pub serve: ServeSettings,
    /// `[telemetry]`.
    pub telemetry: TelemetrySettings,
}

/// `[source]` or `[sources.NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceSettings {
    /// Where its events come from.
    pub kind: SourceKind,
    /// The number of partitions of the embedded log.
    pub partitions: u32,
    /// The event file or folder of a file source.
    pub path: PathBuf,
    /// The topic of a Kafka source; the defaults for another.
    pub kafka: KafkaSettings,
    /// The file that the password in `kafka.sasl` was read from.
    pub sasl_password_file: Option<PathBuf>,
    /// How the records of a Kafka source are encoded; JSON for another.
    pub format: FormatSettings,
    /// The field of the event time.
    pub time_field: String,
    /// The unit of integers in it.
    pub time_unit: TimeUnit,
    /// The field of the event's id.
    pub id_field: String,
    /// The field that partitions the log.
    pub key_field: String,
    /// Earlier events are rejected, µs.
    pub min_time_us: i64,
    /// Events further ahead of their record's timestamp are rejected, µs.
    pub max_future_us: i64,
    /// How late an event still finds unfolded state, µs; at least `max_future_us`.
    pub allowed_lateness_us: i64,
    /// How long a Kafka source remembers ids, µs.
    pub dedupe_horizon_us: i64,
    /// The other fields in declared order, `required` included.
    pub fields: Vec<Field>,
}

/// Where a source's events come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// The embedded log.
    Log,
    /// An event file or a folder of them.
    File,
    /// A Kafka topic.
    Kafka,
}

impl SourceKind {
    /// Every kind by its name.
    pub const ALL: [(&str, Self); 3] = [("log", Self::Log), ("file", Self::File), ("kafka", Self::Kafka)];

    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::File => "file",
            Self::Kafka => "kafka",
        }
    }
}

/// `[transforms]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransformSettings {
    /// Component files or glob patterns.
    pub paths: Vec<String>,
}

/// `[online]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnlineSettings {
    /// `embedded`, or the address of a Redis: not to be shown, it may hold a password.
    pub url: Secret,
    /// The Redis of `url`; `None` = embedded.
    pub redis: Option<RedisSettings>,
}

/// `[offline]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfflineSettings {
    /// `file:DIR` or `s3://bucket/prefix`.
    pub url: String,
    /// The bucket of an `s3:` url; `None` = local files.
    pub s3: Option<S3Settings>,
    /// The instants at which the running stream writes snapshots; `None` = none.
    pub snapshots: Option<Every>,
    /// Whether small row files are merged.
    pub compaction: Compaction,
    /// How long files are kept that nothing refers to any more.
    pub keep_replaced: Duration,
}

/// The choices of `offline.snapshots` by name.
pub const SNAPSHOTS: [(&str, Option<Every>); 4] =
    [("daily", Some(Every::Day)), ("hourly", Some(Every::Hour)), ("event", Some(Every::Event)), ("none", None)];

/// Whether small row files are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compaction {
    /// Where files can be exchanged at once: not in S3.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl Compaction {
    /// Every choice by its name.
    pub const ALL: [(&str, Self); 3] = [("auto", Self::Auto), ("on", Self::On), ("off", Self::Off)];
}

impl OfflineSettings {
    /// Whether small row files are merged in this store.
    pub fn merges_files(&self) -> bool {
        match self.compaction {
            Compaction::Auto => self.s3.is_none(),
            Compaction::On => true,
            Compaction::Off => false,
        }
    }
}

/// `[run]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunSettings {
    /// Whether `plumb run` serves too.
    pub serve: bool,
    /// How often changes are published.
    pub publish_interval: Duration,
    /// How often is committed.
    pub commit_interval: Duration,
    /// After how many bytes of events is committed.
    pub commit_size_bytes: u64,
    /// At so many bytes of events of this process that wait for commits no more is read.
    pub max_uncommitted_bytes: u64,
    /// The most threads that work on partitions; 0 = one per core.
    pub threads: u32,
    /// At so many bytes of live state in this process no more is read.
    pub max_state_bytes: u64,
    /// A key with more raw contributions than this is hot: counted and named in a warning.
    pub hot_key: u32,
}

/// `[serve]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeSettings {
    /// Features, registry, events.
    pub listen: String,
    /// Administration.
    pub admin_listen: String,
    /// Metrics.
    pub metrics_listen: String,
    /// Whether other than loopback addresses are allowed although nothing asks for a key.
    pub insecure: bool,
    /// How long a client may take to send a header.
    pub header_timeout: Duration,
    /// How long a request may take in all.
    pub request_timeout: Duration,
    /// How long open requests may go on after a stop was asked for.
    pub shutdown_timeout: Duration,
    /// The largest body of a request.
    pub body_limit_bytes: u64,
    /// The largest component.
    pub component_limit_bytes: u64,
    /// The most requests in a batch.
    pub batch_limit: u32,
    /// The most open connections of a listener.
    pub connection_limit: u32,
}

/// `[telemetry]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelemetrySettings {
    /// How log lines are written.
    pub logs: LogFormat,
    /// Where traces go (OTLP over HTTP); `None` = nowhere.
    pub otlp_endpoint: Option<String>,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// Every form by its name.
    pub const ALL: [(&str, Self); 2] = [("text", Self::Text), ("json", Self::Json)];
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data_dir: "data".into(),
            sources: BTreeMap::from([(DEFAULT_SOURCE.to_owned(), SourceSettings::default())]),
            transforms: TransformSettings { paths: vec!["target/plumb/*.wasm".into()] },
            online: OnlineSettings { url: Secret::new("embedded"), redis: None },
            offline: OfflineSettings {
                url: "file:data/offline".into(),
                s3: None,
                snapshots: Some(Every::Day),
                compaction: Compaction::Auto,
                keep_replaced: KEEP,
            },
            run: RunSettings {
                serve: false,
                publish_interval: Duration::from_millis(100),
                commit_interval: Duration::from_secs(30),
                commit_size_bytes: 128 << 20,
                max_uncommitted_bytes: 1 << 30,
                threads: 0,
                max_state_bytes: 8 << 30,
                hot_key: 10_000,
            },
            serve: ServeSettings {
                listen: "127.0.0.1:8080".into(),
                admin_listen: "127.0.0.1:8081".into(),
                metrics_listen: "127.0.0.1:9100".into(),
                insecure: false,
                header_timeout: Duration::from_secs(5),
                request_timeout: Duration::from_secs(10),
                shutdown_timeout: Duration::from_secs(10),
                body_limit_bytes: 1 << 20,
                component_limit_bytes: 8 << 20,
                batch_limit: 1_000,
                connection_limit: 10_000,
            },
            telemetry: TelemetrySettings { logs: LogFormat::Text, otlp_endpoint: None },
        }
    }
}

impl Default for SourceSettings {
    fn default() -> Self {
        let schema = SourceSchema::default_schema();
        Self {
            kind: SourceKind::Log,
            partitions: 4,
            path: "events.parquet".into(),
            kafka: KafkaSettings { instance_id: Some(AUTO.to_owned()), ..KafkaSettings::default() },
            sasl_password_file: None,
            format: FormatSettings::default(),
            time_field: schema.time_field,
            time_unit: TimeUnit::Ms,
            id_field: schema.id_field,
            key_field: schema.key_field,
            // 1990-01-01T00:00:00Z
            min_time_us: 7_305 * DAY_US,
            max_future_us: 5 * MINUTE_US,
            allowed_lateness_us: HOUR_US,
            dedupe_horizon_us: 30 * DAY_US,
            fields: schema.fields,
        }
    }
}

impl Settings {
    /// Reads a file (`None`: defaults only) and lays `PLUMB__SECTION__KEY` variables of `environment` over it.
    pub fn load(file: Option<&Path>, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        let Some(file) = file else { return Self::parse("defaults", "", environment) };
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file)
            .map_err(|error| Error::invalid(format!("cannot read the configuration `{name}`: {error}")))?;
        Self::parse(&name, &text, environment)
    }

    /// Like [`Settings::load`] for a text; `name` is what errors call it.
    pub fn parse(name: &str, text: &str, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        check::settings(raw::parse(name, text, environment)?)
    }

    /// The effective configuration as TOML with secrets masked; reading it back gives the same settings
    /// where there was nothing to mask.
    pub fn to_toml(&self) -> String {
        print::settings(self)
    }

    /// Whether nothing of the job is in the data folder: any number of processes may run it then.
    pub fn is_shared(&self) -> bool {
        self.online.redis.is_some() && self.sources.values().all(|source| source.kind != SourceKind::Log)
    }

    /// The settings of a source; an unknown name is an error that names the known ones.
    pub fn source(&self, name: &str) -> Result<&SourceSettings> {
        self.sources.get(name).ok_or_else(|| {
            let known = plumb_pipeline::near::quoted(self.sources.keys().map(String::as_str));
            Error::invalid(format!("unknown source `{name}`; the configuration has {known}"))
        })
    }

    /// What the records of a source look like.
    pub fn schema(&self, source: &str) -> Result<Arc<SourceSchema>> {
        Ok(Arc::new(self.source(source)?.schema(source)))
    }

    /// The component files that `transforms.paths` names now, in byte order, each once. A pattern may match
    /// nothing; a plain path must exist.
    pub fn component_files(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for pattern in &self.transforms.paths {
            let bad = |why: String| Error::invalid(format!("transforms.paths = \"{pattern}\": {why}"));
            let before = files.len();
            for file in glob::glob(pattern).map_err(|error| bad(error.to_string()))? {
                files.push(file.map_err(|error| bad(error.to_string()))?);
            }
            if files.len() == before && !pattern.contains(['*', '?', '[']) {
                return Err(bad("no such file; `plumb build` makes components".into()));
            }
        }
        files.sort();
        files.dedup();
        Ok(files)
    }
}

impl SourceSettings {
    /// What this source's records look like, under its name.
    pub fn schema(&self, name: &str) -> SourceSchema {
        SourceSchema {
            source: name.to_owned(),
            time_field: self.time_field.clone(),
            id_field: self.id_field.clone(),
            key_field: self.key_field.clone(),
            fields: self.fields.clone(),
        }
    }
}

impl ServeSettings {
    /// The options of the HTTP service.
    pub fn options(&self) -> plumb_serve_http::ServerOptions {
        let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        plumb_serve_http::ServerOptions {
            listen: self.listen.clone(),
            admin_listen: self.admin_listen.clone(),
            metrics_listen: self.metrics_listen.clone(),
            header_timeout: self.header_timeout,
            request_timeout: self.request_timeout,
            shutdown_timeout: self.shutdown_timeout,
            body_limit_bytes: bytes(self.body_limit_bytes),
            component_limit_bytes: bytes(self.component_limit_bytes),
            batch_limit: self.batch_limit as usize,
            connection_limit: self.connection_limit as usize,
            ..plumb_serve_http::ServerOptions::default()
        }
    }
}
