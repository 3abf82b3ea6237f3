//! `plumb produce`: a file of events into the log, directly or through the process that owns the data folder.

use crate::args::Produce;
use crate::client::Client;
use crate::context::{Output, now_us, progress, settings};
use crate::exit::{Done, usage};
use anyhow::Result;
use plumb_assembly::settings::SourceKind;
use plumb_assembly::sources::open_logs;
use plumb_embedded::{DataDir, EmbeddedLog, owner_of};
use plumb_pipeline::port::EventLog;
use plumb_pipeline::route::partition_of;
use plumb_source_file::{RawBatch, RawRecords};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most bytes sent to an owner in one request; its bodies are limited.
const REQUEST_BYTES: usize = 512 << 10;

/// Where records go.
enum Target {
    /// The log of a data folder this process owns while it runs.
    Own(Arc<EmbeddedLog>, #[expect(dead_code, reason = "ownership ends when it is dropped")] DataDir),
    /// The process that owns it.
    Owner(Client, String),
}

/// Publishes every record of a file or folder, each durable before the next batch is sent.
pub(crate) fn run(arguments: &Produce, output: Output) -> Result<Done> {
    let start = Instant::now();
    let settings = settings(arguments.config.as_deref())?;
    let source = settings.source(&arguments.source)?;
    if source.kind != SourceKind::Log {
        return Err(usage(format!(
            "source `{}` has no log (sources.{0}.kind is not \"log\"): `plumb run` reads its events from files",
            arguments.source
        )));
    }
    let schema = settings.schema(&arguments.source)?;
    let mut records = RawRecords::open(Path::new(&arguments.file), &schema, source.time_unit)?;
    let target = match owner_of(&settings.data_dir)?.and_then(|owner| owner.listen) {
        Some(listen) => Target::Owner(Client::new(&listen, Duration::from_secs(60))?, arguments.source.clone()),
        None => {
            let owned = DataDir::own(&settings.data_dir)?;
            let (_database, mut logs) = open_logs(&settings, &owned)?;
            let log = logs
                .remove(&arguments.source)
                .ok_or_else(|| usage(format!("source `{}` has no log", arguments.source)))?;
            Target::Own(log, owned)
        }
    };
    let bar = progress("publishing");
    let (mut published, mut refused) = (0u64, Vec::new());
    while let Some(batch) = records.next_batch()? {
        published += target.send(&batch)?;
        bar.set_position(published);
        refused.extend(
            batch.rejected.iter().map(|rejected| (batch.file.clone(), rejected.offset, rejected.reason.clone())),
        );
    }
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
    fn send(&self, batch: &RawBatch) -> Result<u64> {
        match self {
            Target::Own(log, _) => {
                let partitions = log.partitions();
                let routed: Vec<(u32, Vec<u8>)> = batch
                    .records
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
                for record in &batch.records {
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
        }
    }
}
