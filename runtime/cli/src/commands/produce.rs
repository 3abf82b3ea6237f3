//! `plumb produce`: a file of events into a source's log, directly or through the process that owns the data folder,
//! or into its Kafka topic.

mod pace;

use crate::args::Produce;
use crate::client::Client;
use crate::context::{Output, now_us, progress, settings};
use crate::exit::{Done, usage};
use anyhow::{Context, Result};
use pace::Pace;
use plumb_assembly::Settings;
use plumb_assembly::event_files;
use plumb_assembly::settings::{SourceKind, SourceSettings};
use plumb_assembly::sources::open_logs;
use plumb_embedded::{DataDir, EmbeddedLog, owner_of};
use plumb_formats::RecordFormat;
use plumb_pipeline::port::{EventLog, SinkRecord};
use plumb_pipeline::route::partition_of;
use plumb_source_file::{RawRecord, RawRecords};
use plumb_source_kafka::{KafkaSink, Sending, create_topic};
use serde_json::json;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most bytes sent to an owner in one request; its bodies are limited.
const REQUEST_BYTES: usize = 512 << 10;

/// How long a record may wait for Kafka's acknowledgement.
const PATIENCE: Duration = Duration::from_secs(60);

/// So many batches are on their way to Kafka at a time.
const FLYING: usize = 8;

/// A paced record that is not due waits at least so long, so that records leave in groups.
const TICK: Duration = Duration::from_millis(5);

/// The longest sleep at once; an interrupt ends the process within it in any case.
const NAP: Duration = Duration::from_secs(3600);

/// Where records go.
enum Target {
    /// The log of a data folder this process owns while it runs.
    Own(Arc<EmbeddedLog>, #[expect(dead_code, reason = "ownership ends when it is dropped")] DataDir),
    /// The process that owns it.
    Owner(Client, String),
    /// A topic, and what was sent and is not acknowledged yet, with the number of its records.
    Topic(Box<KafkaSink>, VecDeque<(Sending, u64)>),
}

/// Publishes every record of a file or folder.
pub(crate) fn run(arguments: &Produce, output: Output) -> Result<Done> {
    let mut pace = Pace::new(arguments.rate.as_deref(), arguments.speed)?;
    let settings = settings(arguments.config.as_deref())?;
    let source = settings.source(&arguments.source)?;
    let schema = settings.schema(&arguments.source)?;
    let files = event_files(Path::new(&arguments.file))?;
    let mut records = RawRecords::of(files, &schema, source.time_unit);
    let mut target = Target::open(arguments, &settings, source)?;
    let start = Instant::now();
    let bar = progress("publishing");
    let (mut published, mut refused) = (0u64, Vec::new());
    while let Some(batch) = records.next_batch()? {
        let mut send = |records: &[RawRecord]| -> Result<()> {
            published += target.send(records).with_context(|| format!("after {published} published events"))?;
            bar.set_position(published);
            Ok(())
        };
        let mut sent = 0;
        for (row, record) in batch.records.iter().enumerate() {
            let Some(due) = pace.due(record.time_us) else { continue };
            while let Some(wait) = due.checked_sub(start.elapsed()).filter(|wait| !wait.is_zero()) {
                send(&batch.records[sent..row])?;
                sent = row;
                std::thread::sleep(wait.clamp(TICK, NAP));
            }
        }
        send(&batch.records[sent..])?;
        refused.extend(
            batch.rejected.iter().map(|rejected| (batch.file.clone(), rejected.offset, rejected.reason.clone())),
        );
    }
    published += target.finish().with_context(|| format!("after {published} published events"))?;
    bar.finish_and_clear();
    for (file, row, reason) in refused.iter().take(10) {
        eprintln!("plumb: {file} row {row}: {reason}");
    }
    let seconds = start.elapsed().as_secs_f64();
    let document = json!({
        "published": published,
        "refused": refused.len(),
        "source": arguments.source,
        "seconds": seconds,
    });
    output.print(&document, || {
        let refused = if refused.is_empty() { String::new() } else { format!(", {} rows refused", refused.len()) };
        format!("published {published} events to `{}`{refused}, {seconds:.2} s", arguments.source)
    });
    Ok(if refused.is_empty() { Done::Ok } else { Done::Failed })
}

impl Target {
    fn open(arguments: &Produce, settings: &Settings, source: &SourceSettings) -> Result<Self> {
        let name = &arguments.source;
        if source.kind != SourceKind::Kafka && arguments.create_topic {
            return Err(usage(format!("--create-topic: source `{name}` is not a topic of Kafka")));
        }
        match source.kind {
            SourceKind::File => Err(usage(format!(
                "source `{name}` has no log (sources.{name}.kind is \"file\"): `plumb run` reads its events from files"
            ))),
            SourceKind::Kafka => {
                if source.format.format != RecordFormat::Json {
                    return Err(usage(format!(
                        "sources.{name}.format is \"{}\": `plumb produce` writes JSON",
                        source.format.format.name()
                    )));
                }
                if let Some(partitions) = arguments.partitions
                    && create_topic(&source.kafka, partitions)?
                {
                    eprintln!("plumb: created topic `{}` with {partitions} partitions", source.kafka.topic);
                }
                Ok(Target::Topic(Box::new(KafkaSink::new(&source.kafka, PATIENCE)?), VecDeque::new()))
            }
            SourceKind::Log => {
                if let Some(listen) = owner_of(&settings.data_dir)?.and_then(|owner| owner.listen) {
                    return Ok(Target::Owner(Client::new(&listen, Duration::from_secs(60))?, name.clone()));
                }
                let owned = DataDir::own(&settings.data_dir)?;
                let (_database, mut logs) = open_logs(settings, &owned)?;
                let log = logs.remove(name).ok_or_else(|| usage(format!("source `{name}` has no log")))?;
                Ok(Target::Own(log, owned))
            }
        }
    }

    /// Sends records in their order. Returns how many became durable by it, of these or of those before.
    fn send(&mut self, records: &[RawRecord]) -> Result<u64> {
        if records.is_empty() {
            return Ok(0);
        }
        match self {
            Target::Own(log, _) => {
                let partitions = log.partitions();
                let routed: Vec<(u32, Vec<u8>)> = records
                    .iter()
                    .map(|record| {
                        let key = record.key.as_deref().unwrap_or(&record.bytes);
                        (partition_of(key, partitions), record.bytes.clone())
                    })
                    .collect();
                log.append(now_us(), &routed)?;
                Ok(routed.len() as u64)
            }
            Target::Owner(client, source) => {
                // As they are: what is no event is dead-lettered by the owner, as it is without one.
                let path = format!("/events?source={source}&as_is=true");
                let (mut body, mut sent) = (Vec::new(), 0);
                for record in records {
                    if body.len() + record.bytes.len() > REQUEST_BYTES && !body.is_empty() {
                        client.post_bytes(&path, "application/x-ndjson", std::mem::take(&mut body))?;
                    }
                    body.extend_from_slice(&record.bytes);
                    body.push(b'\n');
                    sent += 1;
                }
                if !body.is_empty() {
                    client.post_bytes(&path, "application/x-ndjson", body)?;
                }
                Ok(sent)
            }
            Target::Topic(sink, flying) => {
                let sending: Vec<SinkRecord<'_>> = records
                    .iter()
                    .map(|record| SinkRecord { key: record.key.as_deref(), bytes: &record.bytes })
                    .collect();
                flying.push_back((sink.send(&sending)?, records.len() as u64));
                land(sink, flying, FLYING)
            }
        }
    }

    /// Waits until everything is durable; returns how many became so by it.
    fn finish(&mut self) -> Result<u64> {
        match self {
            Target::Own(..) | Target::Owner(..) => Ok(0),
            Target::Topic(sink, flying) => land(sink, flying, 0),
        }
    }
}

/// Waits until at most `most` batches are on their way; returns how many records were acknowledged.
fn land(sink: &KafkaSink, flying: &mut VecDeque<(Sending, u64)>, most: usize) -> Result<u64> {
    let mut landed = 0;
    while flying.len() > most
        && let Some((sending, records)) = flying.pop_front()
    {
        sink.wait(sending)?;
        landed += records;
    }
    Ok(landed)
}
