//! `plumb backfill`: historical snapshots of feature values.

use super::offline::{
    Answering, Prepared, Readers, event_paths, faults_json, folder_there, guest_seconds, now, report_faults,
};
use crate::args::{Backfill, Entities as EntitiesWord, Every as EveryWord};
use crate::context::{Output, instant, memory_bytes, progress_to, settings};
use crate::exit::{Done, usage};
use crate::interrupt;
use anyhow::Result;
use plumb_assembly::history::Committed;
use plumb_assembly::stores;
use plumb_core::event::EventBatch;
use plumb_offline_parquet::{ArchiveReader, LocalScratch, ParquetArchive, SnapshotWriter};
use plumb_pipeline::Error;
use plumb_pipeline::decode::time::format_rfc3339;
use plumb_pipeline::offline::{BackfillOptions, Budget, Entities, Every, backfill, needed_columns};
use plumb_pipeline::port::{ArchiveScan, EventReader, ObjectStore};
use plumb_pipeline::query::Position;
use plumb_pipeline::snapshots::made_through_us;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Makes the snapshots that are missing or of other events, as `features/entity=…/view=…/version=…/date=…/*.parquet`.
pub(crate) fn run(arguments: &Backfill, output: Output) -> Result<Done> {
    let start = Instant::now();
    interrupt::watch()?;
    let reading = &arguments.reading;
    let (settings, components) = (settings(reading.config.as_deref())?, &arguments.transforms);
    let (mut prepared, job_store) = if arguments.events.is_empty() {
        if let Some(now) = &reading.now {
            return Err(usage(format!(
                "--now {now}: what a job has committed was accepted when it came; give --events"
            )));
        }
        let store = stores::offline(&settings)?;
        (Prepared::of_job(settings, components, reading.threads)?, Some(store))
    } else {
        let paths = event_paths(&arguments.events)?;
        (Prepared::of(settings, now(reading)?, components, paths, reading.threads)?, None)
    };
    let mut options = BackfillOptions {
        from_us: arguments.from.as_deref().map(|text| instant("--from", text)).transpose()?,
        to_us: arguments.to.as_deref().map(|text| instant("--to", text)).transpose()?,
        every: match arguments.every {
            EveryWord::Hour => Every::Hour,
            EveryWord::Day => Every::Day,
            EveryWord::Event => Every::Event,
        },
        entities: match arguments.entities {
            EntitiesWord::Active => Entities::Active,
            EntitiesWord::All => Entities::All,
        },
        max_age_us: None,
        allow_fewer_events: arguments.allow_fewer_events,
        threads: prepared.threads,
    };
    let bytes = memory_bytes(arguments.memory.memory.as_deref())?;
    let (store, out) = match (&arguments.out, &job_store) {
        (Some(out), _) => {
            prepared.refuse_among_events(out, &out.join("features"))?;
            let out = out.display().to_string();
            (plumb_store_object::open(&format!("file:{out}"))?, out)
        }
        (None, Some(store)) => (store.clone(), prepared.settings.offline.url.clone()),
        (None, None) => return Err(usage("--events needs --out")),
    };
    // Beside the output, which may be in S3.
    let beside = out.strip_prefix("file:").or(arguments.out.is_some().then_some(out.as_str()));
    let spill_dir = arguments.memory.spill_dir.clone();
    let scratch = spill_dir.unwrap_or_else(|| folder_there(beside.map_or(&prepared.settings.data_dir, Path::new)));
    let (scratch, answering) = (LocalScratch::new(&scratch), Answering::default());
    prepared.keep_ids_within(bytes, &scratch);
    let transforms: Vec<_> = prepared.transforms.iter().collect();
    let budget = Budget { bytes, scratch: &scratch, progress: Some(&answering) };
    if job_store.is_some() && arguments.out.is_none() {
        stop_where_the_job_goes_on(&prepared, &store, &mut options)?;
    }
    let mut sink = SnapshotWriter::new(store);
    let mut readers = Readers::default();
    let mut position = Position::default();
    let mut open = |source: &str| match &job_store {
        None => readers.open(&prepared, source, &transforms),
        Some(store) => open_committed(&prepared, store, source, &mut position),
    };
    let summary = backfill(&mut open, &prepared.transforms, &options, budget, &mut sink)?;
    let position = job_store.map(|_| position.to_string());
    readers.report()?;
    report_faults("extract", &summary.extract_faults);
    report_faults("finalize", &summary.finalize_faults);
    let mut failed = !summary.finalize_faults.is_empty();
    for (view, dates) in summary.dates.iter().filter(|(_, dates)| dates.unchanged_faulty > 0) {
        failed = true;
        let rows = dates.unchanged_faulty;
        eprintln!("plumb: view `{view}`: {rows} rows of dates that were made before are null: finalize failed on them");
    }
    let seconds = start.elapsed().as_secs_f64();
    let dates = summary.dates.iter().map(|(view, dates)| {
        let counts = json!({"made": dates.made, "unchanged": dates.unchanged, "removed": dates.removed});
        (view.clone(), counts)
    });
    let document = json!({
        "events": summary.events,
        "rows": summary.rows,
        "dates": dates.collect::<serde_json::Map<_, _>>(),
        "position": position,
        "seconds": seconds,
        "guest_seconds": guest_seconds(&prepared.transforms),
        "out": out,
        "extract_faults": faults_json(&summary.extract_faults),
        "finalize_faults": faults_json(&summary.finalize_faults),
    });
    output.print(&document, || {
        let of_view = |(view, rows): (&String, &u64)| {
            let dates = summary.dates.get(view).copied().unwrap_or_default();
            let removed = if dates.removed > 0 { format!(", {} removed", dates.removed) } else { String::new() };
            format!("{view} {rows} rows on {} dates ({} unchanged{removed})", dates.made, dates.unchanged)
        };
        let rows: Vec<String> = summary.rows.iter().map(of_view).collect();
        let up_to = position.as_ref().map_or_else(String::new, |position| format!(" up to {position}"));
        format!("backfilled {} events{up_to}: {}, {seconds:.2} s -> {out}", summary.events, rows.join(", "))
    });
    Ok(if failed { Done::Failed } else { Done::Ok })
}

/// Leaves to the running job what it makes itself: the snapshots after those that it has made.
fn stop_where_the_job_goes_on(
    prepared: &Prepared,
    store: &Arc<dyn ObjectStore>,
    options: &mut BackfillOptions,
) -> Result<()> {
    let every = options.every;
    if prepared.settings.offline.snapshots != Some(every) || options.entities != Entities::Active {
        return Ok(());
    }
    let mut through_us: Option<i64> = None;
    let sources: BTreeSet<&str> = prepared.transforms.iter().map(|view| view.def().source.as_str()).collect();
    for source in sources {
        if let Some(of_source_us) = made_through_us(store.clone(), source, every)? {
            through_us = Some(through_us.map_or(of_source_us, |through_us| through_us.min(of_source_us)));
        }
    }
    let Some(through_us) = through_us else { return Ok(()) };
    let why = "the job makes later snapshots in this folder itself (offline.snapshots)";
    if through_us == i64::MIN {
        return Err(usage(format!("{why}, and is about to make the first: try again, or give --out DIR")));
    }
    let through = format_rfc3339(through_us);
    match options.to_us {
        Some(to_us) if every.last_before_us(to_us) > through_us => {
            let to = format_rfc3339(to_us);
            Err(usage(format!("--to {to} lies beyond {through}, and {why}: leave it out, or give --out DIR")))
        }
        Some(_) => Ok(()),
        None => {
            eprintln!("plumb: up to {through}: {why}");
            options.to_us = Some(through_us.saturating_add(1));
            Ok(())
        }
    }
}

/// Opens what a job has committed of a source, and notes up to where that is.
fn open_committed(
    prepared: &Prepared,
    store: &Arc<dyn ObjectStore>,
    source: &str,
    position: &mut Position,
) -> plumb_pipeline::Result<Box<dyn EventReader>> {
    let committed = Committed::read(store.as_ref(), source)?;
    if committed.position.is_empty() {
        let url = &prepared.settings.offline.url;
        let why = "let `plumb run` work on it first, or give --events";
        return Err(Error::invalid(format!("nothing of source `{source}` is committed in `{url}`: {why}")));
    }
    position.sources.insert(source.to_owned(), committed.position.clone());
    let of_source = prepared.transforms.iter().filter(|transform| transform.def().source == source);
    let scan = ArchiveScan { columns: Some(needed_columns(of_source)), ..committed.scan(None) };
    let rows = scan.files.iter().map(|(_, file)| file.rows).sum();
    let reader = ParquetArchive::new(store.clone()).read(&prepared.settings.schema(source)?, scan);
    Ok(Box::new(Shown { reader, bar: progress_to("reading", "events", Some(rows)) }))
}

/// A reader of the archive that shows how far it is.
struct Shown {
    reader: ArchiveReader,
    bar: indicatif::ProgressBar,
}

impl EventReader for Shown {
    fn next_batch(&mut self) -> plumb_pipeline::Result<Option<EventBatch>> {
        Ok(self.next_of_partition()?.map(|(_, batch)| batch))
    }

    fn next_of_partition(&mut self) -> plumb_pipeline::Result<Option<(u32, EventBatch)>> {
        interrupt::go_on()?;
        let batch = self.reader.next_of_partition()?;
        self.bar.inc(batch.as_ref().map_or(0, |(_, batch)| batch.len() as u64));
        Ok(batch)
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
