//! The manifest of a training set that was just made.

use super::super::offline::Readers;
use super::Plan;
use crate::exit::usage;
use anyhow::Result;
use plumb_assembly::event_files;
use plumb_assembly::settings::SourceSettings;
use plumb_core::time::format_duration;
use plumb_offline_parquet::{
    EventsInput, FeatureEntry, FileDigest, InputFile, LabelScan, LabelsInput, Manifest, RowsMade, SourceField,
    SourceRules, StagedSet, ViewUsed, digest_files,
};
use plumb_pipeline::decode::time::format_rfc3339;
use plumb_pipeline::offline::{JoinSummary, Selection};
use plumb_source_file::EventFile;
use plumb_transform::Transform;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

/// The files that a join reads.
pub(super) struct Inputs {
    labels: Vec<(PathBuf, u64)>,
    /// By source.
    events: Vec<(String, Vec<EventFile>)>,
}

/// Their digests under way, on threads of their own.
pub(super) struct Digesting {
    inputs: Inputs,
    digests: JoinHandle<plumb_pipeline::Result<Vec<FileDigest>>>,
}

/// Digested files.
pub(super) struct Digested {
    labels: Vec<LabelsInput>,
    events: Vec<(String, Vec<InputFile>)>,
}

impl Inputs {
    pub(super) fn find(plan: &Plan, selection: &Selection, labels: &LabelScan) -> Result<Self> {
        let mut events = Vec::new();
        for source in selection.by_source().into_keys() {
            let path = event_path(plan, source)?;
            events.push((source.to_owned(), event_files(path)?));
        }
        Ok(Self { labels: labels.files().to_vec(), events })
    }

    fn paths(&self) -> Vec<PathBuf> {
        let events = self.events.iter().flat_map(|(_, files)| files).map(|file| file.path.clone());
        self.labels.iter().map(|(path, _)| path.clone()).chain(events).collect()
    }

    pub(super) fn digest(self, threads: usize) -> Digesting {
        let paths = self.paths();
        let threads = if threads == 0 { std::thread::available_parallelism().map_or(1, usize::from) } else { threads };
        Digesting { inputs: self, digests: std::thread::spawn(move || digest_files(&paths, threads)) }
    }
}

impl Digesting {
    pub(super) fn finish(self) -> Result<Digested> {
        let digests = self.digests.join().map_err(|_| anyhow::anyhow!("a thread that digests files panicked"))??;
        let mut digests = digests.into_iter();
        let mut next = || digests.next().ok_or_else(|| anyhow::anyhow!("a file was not digested"));
        let mut labels = Vec::new();
        for (path, rows) in self.inputs.labels {
            let FileDigest { bytes, sha256 } = next()?;
            labels.push(LabelsInput { path: path.display().to_string(), rows, bytes, sha256 });
        }
        let mut events = Vec::new();
        for (source, files) in self.inputs.events {
            let mut digested = Vec::with_capacity(files.len());
            for file in files {
                let FileDigest { bytes, sha256 } = next()?;
                if file.sha256.is_some_and(|committed| committed != sha256) {
                    return Err(usage(format!(
                        "`{}` is damaged: its SHA-256 is not the one it was committed with; restore it",
                        file.path.display()
                    )));
                }
                digested.push(InputFile { name: file.name, bytes, sha256 });
            }
            events.push((source, digested));
        }
        Ok(Digested { labels, events })
    }
}

fn event_path<'a>(plan: &'a Plan, source: &str) -> Result<&'a Path> {
    plan.prepared.paths.get(source).map(PathBuf::as_path).ok_or_else(|| usage(format!("no events of `{source}`")))
}

/// The manifest of a set that is staged.
pub(super) fn manifest(
    plan: &Plan,
    selection: &Selection,
    inputs: Digested,
    readers: &Readers,
    summary: &JoinSummary,
    staged: &StagedSet,
) -> Result<Manifest> {
    let (format, format_version) = Manifest::format();
    let component = |transform: &Transform| {
        let at = plan.prepared.transforms.iter().position(|other| other.def().name == transform.def().name);
        at.and_then(|at| plan.components.get(at)).map_or_else(String::new, |path| path.display().to_string())
    };
    let views = selection.views.iter().map(|view| ViewUsed {
        view: view.transform.def().name.clone(),
        version: view.transform.version_label(),
        sha256: view.transform.digest().to_string(),
        path: component(&view.transform),
        source: view.transform.def().source.clone(),
    });
    let features = selection.order.iter().map(|&(view, feature)| {
        let view = &selection.views[view];
        let (def, name) = (view.transform.def(), &view.transform.def().features[view.features[feature]].name);
        FeatureEntry {
            column: format!("{}__{name}", def.name),
            feature: format!("{}:{name}", def.name),
            version: view.transform.version_label(),
        }
    });
    let mut events = Vec::new();
    for (source, files) in inputs.events {
        let (read, accepted) = readers.accounting(&source);
        let path = event_path(plan, &source)?.display().to_string();
        let rules = rules(plan.prepared.settings.source(&source)?);
        events.push(EventsInput { source, path, rules, files, read, accepted });
    }
    Ok(Manifest {
        format,
        format_version,
        plumb: env!("CARGO_PKG_VERSION").to_owned(),
        options: plan.options.clone(),
        views: views.collect(),
        features: features.collect(),
        events,
        labels: inputs.labels,
        rows: RowsMade {
            read: summary.rows_in,
            kept: summary.rows_kept,
            dropped: summary.rows_dropped,
            sha256: staged.rows_sha256.clone(),
        },
        schema: staged.schema.clone(),
        files: staged.files.clone(),
    })
}

fn rules(source: &SourceSettings) -> SourceRules {
    SourceRules {
        time_field: source.time_field.clone(),
        time_unit: source.time_unit.name().to_owned(),
        id_field: source.id_field.clone(),
        key_field: source.key_field.clone(),
        min_time: format_rfc3339(source.min_time_us),
        max_future: format_duration(source.max_future_us),
        fields: source
            .fields
            .iter()
            .map(|field| SourceField {
                name: field.name.clone(),
                data_type: field.data_type.name(),
                required: field.required,
            })
            .collect(),
    }
}
