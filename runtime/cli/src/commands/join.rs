//! `plumb join`: a point-in-time training set, with a manifest to make it again from.

mod again;
mod made;

use super::offline::{
    Answering, Prepared, event_paths, faults_json, guest_seconds, now, report_faults, say_zoneless, scratch_folder,
};
use crate::args::{AsOf as AsOfWord, ColdStart as ColdStartWord, Join, Knowledge as KnowledgeWord};
use crate::context::{Output, duration, is_same_file, memory_bytes, settings};
use crate::exit::{Done, usage};
use crate::interrupt;
use anyhow::Result;
use clap::ValueEnum;
use plumb_offline_parquet::{LabelScan, LabelWindows, LocalScratch, Manifest, OptionsUsed, Target, TrainingWriter};
use plumb_pipeline::decode::time::format_rfc3339;
use plumb_pipeline::offline::{AsOf, Budget, ColdStart, JoinOptions, Knowledge, Selection, join_within};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Refuses an output that would take the place of what is read, or be read as events itself.
fn refuse_inputs(plan: &Plan, out: &Path, labels: &[(PathBuf, u64)]) -> Result<()> {
    let events = plan.prepared.event_files()?;
    let labels = labels.iter().map(|(path, _)| path);
    let mut read = labels.chain(events.iter().map(|file| &file.path)).chain(&plan.components);
    if let Some(read) = read.find(|read| is_same_file(out, read)) {
        return Err(usage(format!("--out {}: `{}` is read, and would be gone", out.display(), read.display())));
    }
    plan.prepared.refuse_among_events(out, out)
}

/// What to join, from the command line or from a manifest.
struct Plan {
    prepared: Prepared,
    /// Where the components of `prepared` are, in their order.
    components: Vec<PathBuf>,
    /// The features asked, as on the command line.
    features: String,
    labels: Vec<PathBuf>,
    options: OptionsUsed,
    /// The manifest that says what must come out.
    wanted: Option<Manifest>,
}

/// Joins labels with features as they were.
pub(crate) fn run(arguments: &Join, output: Output) -> Result<Done> {
    let start = Instant::now();
    interrupt::watch()?;
    let target = Target::new(&arguments.out, arguments.part_rows)?;
    let mut plan = match &arguments.from_manifest {
        Some(manifest) => again::plan(manifest, arguments)?,
        None => plan(arguments)?,
    };
    let bytes = memory_bytes(arguments.memory.memory.as_deref())?;
    let scratch = LocalScratch::new(&scratch_folder(arguments.memory.spill_dir.as_deref(), &arguments.out));
    plan.prepared.keep_ids_within(bytes, &scratch);
    let prepared = &plan.prepared;
    let selection = match plan.features.as_str() {
        "*" => Selection::all(&prepared.transforms),
        list => Selection::parse(list, &prepared.transforms)?,
    };
    if selection.views.is_empty() {
        return Err(usage("--features names none; write view:feature or view:*, comma-separated"));
    }
    let options = options(&plan.options, prepared.threads)?;
    let keys = prepared.key_fields(&selection);
    let windows = LabelWindows::open(&plan.labels, &plan.options.label_time, &keys)?;
    refuse_inputs(&plan, &arguments.out, windows.files())?;
    let transforms: Vec<_> = selection.views.iter().map(|view| &view.transform).collect();
    if options.knowledge == Knowledge::Ingested {
        prepared.require_ingest_times(&transforms)?;
    }
    // Events are decoded from here on, beside the reading of labels.
    let readers = prepared.open(&transforms)?;
    let mut writer = TrainingWriter::new(&target, windows.again()?, selection.clone(), prepared.threads)?;
    let mut labels = LabelScan::new(windows, prepared.threads);
    // Digested while they are read.
    let inputs = made::Inputs::find(&plan, &selection, &labels)?;
    let digests = inputs.digest(prepared.threads);
    let answering = Answering::default();
    let budget = Budget { bytes, scratch: &scratch, progress: Some(&answering) };
    let summary = join_within(&mut readers.lend(), &selection, &mut labels, &options, budget, &mut writer)?;
    drop(answering);
    if labels.time_without_zone() {
        say_zoneless(plan.labels.first(), &plan.options.label_time);
    }
    readers.report()?;
    let staged = writer.finish()?;
    let manifest = made::manifest(&plan, &selection, digests.finish()?, &readers, &summary, &staged)?;
    if let Some(wanted) = &plan.wanted {
        again::check(wanted, &manifest)?;
    }
    let rows_sha256 = staged.rows_sha256.clone();
    let files = staged.files.len();
    staged.publish(Some(&manifest.to_text()))?;
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
        "rows_sha256": rows_sha256,
        "events": summary.events,
        "features": selection.order.len(),
        "seconds": seconds,
        "guest_seconds": guest_seconds(&prepared.transforms),
        "out": arguments.out,
        "files": files,
        "manifest": target.manifest_path(),
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

/// What the command line says.
fn plan(arguments: &Join) -> Result<Plan> {
    let reading = &arguments.reading;
    let (settings, now_us) = (settings(reading.config.as_deref())?, now(reading)?);
    let paths = event_paths(&arguments.events)?;
    let prepared = Prepared::of(settings, now_us, &arguments.transforms, paths, reading.threads)?;
    // Checked before it is written down.
    arguments.max_age.as_deref().map(|text| duration("--max-age", text)).transpose()?;
    Ok(Plan {
        prepared,
        components: arguments.transforms.clone(),
        features: arguments.features.clone(),
        labels: arguments.labels.clone(),
        options: OptionsUsed {
            label_time: arguments.label_time.clone(),
            as_of: word(arguments.as_of),
            cold_start: word(arguments.cold_start),
            max_age: arguments.max_age.clone(),
            knowledge: word(arguments.knowledge),
            now: format_rfc3339(now_us),
        },
        wanted: None,
    })
}

/// A value of an option as it is typed.
fn word(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// The meaning of a typed value of an option.
fn meaning<T: ValueEnum>(option: &str, text: &str) -> Result<T> {
    T::from_str(text, false).map_err(|_| usage(format!("option `{option}` has no value `{text}`")))
}

fn options(used: &OptionsUsed, threads: usize) -> Result<JoinOptions> {
    Ok(JoinOptions {
        as_of: match meaning("as_of", &used.as_of)? {
            AsOfWord::Before => AsOf::Before,
            AsOfWord::At => AsOf::At,
        },
        cold_start: match meaning("cold_start", &used.cold_start)? {
            ColdStartWord::Null => ColdStart::Null,
            ColdStartWord::Drop => ColdStart::Drop,
        },
        knowledge: match meaning("knowledge", &used.knowledge)? {
            KnowledgeWord::EventTime => Knowledge::EventTime,
            KnowledgeWord::Ingested => Knowledge::Ingested,
        },
        max_age_us: used.max_age.as_deref().map(|text| duration("--max-age", text)).transpose()?,
        threads,
    })
}
