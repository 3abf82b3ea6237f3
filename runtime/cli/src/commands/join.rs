//! `plumb join`: a point-in-time training set.

use super::offline::{Answering, Prepared, faults_json, report_faults, scratch_folder};
use crate::args::{AsOf as AsOfWord, ColdStart as ColdStartWord, Join, Knowledge as KnowledgeWord};
use crate::context::{Output, duration, memory_bytes};
use crate::exit::{Done, usage};
use anyhow::Result;
use plumb_offline_parquet::{LabelScan, LabelWindows, LocalScratch, TrainingWriter};
use plumb_pipeline::offline::{AsOf, Budget, ColdStart, JoinOptions, Knowledge, Selection, join_within};
use serde_json::json;
use std::time::Instant;

/// Joins labels with features as they were.
pub(crate) fn run(arguments: &Join, output: Output) -> Result<Done> {
    let start = Instant::now();
    let prepared = Prepared::new(&arguments.inputs)?;
    let selection = match arguments.features.as_str() {
        "*" => Selection::all(&prepared.transforms),
        list => Selection::parse(list, &prepared.transforms)?,
    };
    let options = JoinOptions {
        as_of: match arguments.as_of {
            AsOfWord::Before => AsOf::Before,
            AsOfWord::At => AsOf::At,
        },
        cold_start: match arguments.cold_start {
            ColdStartWord::Null => ColdStart::Null,
            ColdStartWord::Drop => ColdStart::Drop,
        },
        knowledge: match arguments.knowledge {
            KnowledgeWord::EventTime => Knowledge::EventTime,
            KnowledgeWord::Ingested => Knowledge::Ingested,
        },
        max_age_us: arguments.max_age.as_deref().map(|text| duration("--max-age", text)).transpose()?,
        threads: prepared.threads,
    };
    if selection.views.is_empty() {
        return Err(usage("--features names none; write view:feature or view:*, comma-separated"));
    }
    let bytes = memory_bytes(arguments.memory.memory.as_deref())?;
    let keys = prepared.key_fields(&selection);
    let windows = || LabelWindows::open(&arguments.labels, &arguments.label_time, &keys);
    let (mut labels, mut writer) =
        (LabelScan::new(windows()?), TrainingWriter::new(&arguments.out, windows()?, selection.clone())?);
    let transforms: Vec<_> = selection.views.iter().map(|view| &view.transform).collect();
    if options.knowledge == Knowledge::Ingested {
        prepared.require_ingest_times(&transforms)?;
    }
    let readers = prepared.open(&transforms)?;
    let scratch = LocalScratch::new(&scratch_folder(arguments.memory.spill_dir.as_deref(), &arguments.out));
    let answering = Answering::default();
    let budget = Budget { bytes, scratch: &scratch, progress: Some(&answering) };
    let summary = join_within(&mut readers.lend(), &selection, &mut labels, &options, budget, &mut writer)?;
    drop(answering);
    if labels.time_without_zone() {
        let (file, column) = (arguments.labels.display(), &arguments.label_time);
        eprintln!("plumb: `{file}`: column `{column}` holds times without a zone: taken as UTC");
    }
    readers.report();
    writer.finish()?;
    if summary.rows_ahead > 0 {
        eprintln!(
            "plumb: {} labels lie after the last event that was ingested: what arrives before them will change them",
            summary.rows_ahead
        );
    }
    report_faults("extract", &summary.extract_faults);
    report_faults("finalize", &summary.finalize_faults);
    let seconds = start.elapsed().as_secs_f64();
    let document = json!({
        "rows_in": summary.rows_in,
        "rows_kept": summary.rows_kept,
        "rows_dropped": summary.rows_dropped,
        "rows_ahead": summary.rows_ahead,
        "events": summary.events,
        "features": selection.order.len(),
        "seconds": seconds,
        "out": arguments.out,
        "extract_faults": faults_json(&summary.extract_faults),
        "finalize_faults": faults_json(&summary.finalize_faults),
    });
    output.print(&document, || {
        format!(
            "joined {} labels with {} features over {} events: {} kept, {} dropped as cold start, {seconds:.2} s -> {}",
            summary.rows_in,
            selection.order.len(),
            summary.events,
            summary.rows_kept,
            summary.rows_dropped,
            arguments.out.display()
        )
    });
    let failed = !summary.finalize_faults.is_empty() && !arguments.allow_errors;
    Ok(if failed { Done::Failed } else { Done::Ok })
}
