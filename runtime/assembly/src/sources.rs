//! The sources that settings name, and where records are put that they are to read.

use crate::service::RunOptions;
use crate::settings::{Settings, SourceKind, SourceSettings};
use crate::{Error, Result};
use plumb_embedded::{DataDir, Embedded, EmbeddedLog, LogSink, LogSource};
use plumb_formats::{Formats, RecordFormat};
use plumb_pipeline::accept::AcceptRules;
use plumb_pipeline::clock::{Clock, SystemClock};
use plumb_pipeline::port::{DeadLetterSink, EventSink, SinkRecord, Source};
use plumb_pipeline::route::Keys;
use plumb_source_file::{FileSource, FileSourceOptions};
use plumb_source_kafka::{KafkaDeadLetters, KafkaOptions, KafkaSink, KafkaSource};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a record that was posted may take to be acknowledged: less than a request may take, so that who posted it
/// gets an answer.
const SEND_PATIENCE: Duration = Duration::from_secs(8);

/// What a source accepts, as configured.
pub fn accept_rules(settings: &SourceSettings) -> AcceptRules {
    AcceptRules {
        min_time_us: settings.min_time_us,
        max_future_us: settings.max_future_us,
        allowed_lateness_us: settings.allowed_lateness_us,
        dedupe_horizon_us: (settings.kind == SourceKind::Kafka).then_some(settings.dedupe_horizon_us),
    }
}

/// Opens (creates) the logs of an owned data folder.
pub fn open_logs(settings: &Settings, owned: &DataDir) -> Result<(Embedded, BTreeMap<String, Arc<EmbeddedLog>>)> {
    let embedded = Embedded::open(owned)?;
    let mut logs = BTreeMap::new();
    for (name, source) in &settings.sources {
        if source.kind == SourceKind::Log {
            logs.insert(name.clone(), embedded.log(name, Some(source.partitions))?);
        }
    }
    Ok((embedded, logs))
}

/// Opens a source to read from.
pub(crate) fn open(
    settings: &Settings,
    name: &str,
    logs: &BTreeMap<String, Arc<EmbeddedLog>>,
    options: &RunOptions,
) -> Result<Arc<dyn Source>> {
    let (source, schema) = (settings.source(name)?, settings.schema(name)?);
    let rules = accept_rules(source);
    match source.kind {
        SourceKind::Log => {
            let log = logs.get(name).ok_or_else(|| Error::internal(format!("source `{name}` has no log")))?;
            let mut source = LogSource::new(log.clone(), schema, source.time_unit, rules);
            if let Some(from) = options.from.get(name) {
                source = source.starting(from.clone());
            }
            Ok(Arc::new(if options.until_end { source.until_end()? } else { source }))
        }
        SourceKind::File => {
            let now_us = options.now_us.unwrap_or_else(|| SystemClock::default().now_us());
            let options = FileSourceOptions { unit: source.time_unit, rules, now_us, follow: !options.until_end };
            Ok(Arc::new(FileSource::new(&source.path, schema, options)?))
        }
        SourceKind::Kafka => {
            let formats = Formats::new(&source.format, schema.clone(), source.time_unit, rules)?;
            let options = KafkaOptions {
                until_end: options.until_end,
                from: options.from.get(name).cloned(),
                accept_gap: options.accept_gap,
                decoder: Some(Arc::new(move || Ok(formats.decoder()))),
            };
            Ok(Arc::new(KafkaSource::new(source.kafka.clone(), schema, source.time_unit, rules, options)?))
        }
    }
}

/// Where a source's dead letters go besides the quarantine dataset.
pub(crate) fn dead_letters(source: &SourceSettings) -> Result<Option<Arc<dyn DeadLetterSink>>> {
    match &source.kafka.dead_letter_topic {
        Some(topic) => Ok(Some(Arc::new(KafkaDeadLetters::new(&source.kafka, topic)?))),
        None => Ok(None),
    }
}

/// Where records are put that a source is to read.
pub struct SourceSink {
    sink: Arc<dyn EventSink>,
    source: String,
    settings: SourceSettings,
}

impl std::fmt::Debug for SourceSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceSink").field("source", &self.source).finish_non_exhaustive()
    }
}

impl SourceSink {
    /// Connects to where a source's records are put.
    pub fn open(settings: &Settings, name: &str, logs: &BTreeMap<String, Arc<EmbeddedLog>>) -> Result<Self> {
        let source = settings.source(name)?;
        let sink: Arc<dyn EventSink> = match source.kind {
            SourceKind::Log => {
                let log = logs.get(name).ok_or_else(|| Error::internal(format!("source `{name}` has no log")))?;
                Arc::new(LogSink::new(log.clone(), SystemClock::default()))
            }
            SourceKind::File => return Err(files(name)),
            SourceKind::Kafka => Arc::new(KafkaSink::new(&source.kafka, SEND_PATIENCE)?),
        };
        Ok(Self { sink, source: name.to_owned(), settings: source.clone() })
    }

    /// Appends records as they are, each under its key (the source's key field, the event's id where that is null);
    /// durable when it returns. Returns the next offset of each partition written to. After an error some may be there.
    pub fn append(&self, records: &[&[u8]]) -> Result<BTreeMap<u32, u64>> {
        let (schema, unit) = (Arc::new(self.settings.schema(&self.source)), self.settings.time_unit);
        let mut keys = match self.settings.format.format {
            RecordFormat::Json => Keys::json(&schema, unit),
            _ => {
                // Whether the record is accepted is decided where it is read.
                let rules = AcceptRules { min_time_us: i64::MIN, max_future_us: i64::MAX, ..AcceptRules::default() };
                let formats = Formats::new(&self.settings.format, schema.clone(), unit, rules)?;
                Keys::new(&schema, formats.decoder())
            }
        };
        let keys: Vec<Option<Vec<u8>>> = records.iter().map(|record| keys.key(record)).collect::<Result<_>>()?;
        let keyed = records.iter().zip(&keys);
        let records: Vec<SinkRecord<'_>> =
            keyed.map(|(bytes, key)| SinkRecord { key: key.as_deref(), bytes }).collect();
        self.sink.append(&records)
    }
}

/// The sinks of all sources, each connected when it is first asked for.
#[derive(Debug)]
pub struct Sinks {
    settings: Settings,
    logs: BTreeMap<String, Arc<EmbeddedLog>>,
    open: Mutex<BTreeMap<String, Arc<SourceSink>>>,
}

impl Sinks {
    /// The sinks of settings; `logs` are those of an owned data folder.
    pub fn new(settings: Settings, logs: BTreeMap<String, Arc<EmbeddedLog>>) -> Self {
        Self { settings, logs, open: Mutex::default() }
    }

    /// Refuses a source that there is none of, or that no JSON record can be put in.
    pub fn has(&self, source: &str) -> Result<()> {
        let of_source = self.settings.source(source)?;
        let format = of_source.format.format;
        match of_source.kind {
            SourceKind::File => Err(files(source)),
            SourceKind::Kafka if format != RecordFormat::Json => Err(Error::invalid(format!(
                "source `{source}` takes {} records, which only their own producers can write",
                format.name()
            ))),
            SourceKind::Log | SourceKind::Kafka => Ok(()),
        }
    }

    /// The sink of a source.
    pub fn get(&self, source: &str) -> Result<Arc<SourceSink>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sink) = open.get(source) {
            return Ok(sink.clone());
        }
        let sink = Arc::new(SourceSink::open(&self.settings, source, &self.logs)?);
        open.insert(source.to_owned(), sink.clone());
        Ok(sink)
    }
}

fn files(source: &str) -> Error {
    Error::invalid(format!("source `{source}` is not a log or a topic: its events come from files"))
}
