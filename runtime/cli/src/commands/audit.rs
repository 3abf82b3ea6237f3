//! `plumb audit`: leakage in a training set.

use super::offline::{Prepared, say_zoneless, scratch_folder};
use crate::args::{AsOf as AsOfWord, Audit, Knowledge as KnowledgeWord};
use crate::context::{Output, check_page, duration, memory_bytes, write_page};
use crate::exit::{Done, usage};
use anyhow::Result;
use plumb_insight::html;
use plumb_offline_parquet::{LabelFile, LocalScratch, Subfolders, read_table, table_files};
use plumb_pipeline::offline::audit::{
    AGE_CLASSES, AgeAudit, AuditRequest, FeatureAudit, LeakageReport, Truncate, audit, expected_columns,
};
use plumb_pipeline::offline::{AsOf, Budget, Knowledge, Selection};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Recomputes the training set from history that ends strictly before each label, and compares.
pub(crate) fn run(arguments: &Audit, output: Output) -> Result<Done> {
    let tolerance = arguments.tolerance;
    if !(0.0..1.0).contains(&tolerance) {
        return Err(usage(format!("--tolerance {tolerance}: write a relative difference from 0 up to below 1")));
    }
    let truncate = match arguments.truncate.as_str() {
        "all" => Truncate::All,
        count => Truncate::Rows(
            count.parse().map_err(|_| usage(format!("--truncate {count}: write a number of rows, or `all`")))?,
        ),
    };
    let max_age_us = arguments.max_age.as_deref().map(|text| duration("--max-age", text)).transpose()?;
    let bytes = memory_bytes(arguments.memory.memory.as_deref())?;
    let scratch = LocalScratch::new(&scratch_folder(arguments.memory.spill_dir.as_deref(), &arguments.dataset));
    let mut prepared = Prepared::new(&arguments.inputs)?;
    prepared.keep_ids_within(bytes, &scratch);
    let selection = Selection::all(&prepared.transforms);
    let labels = LabelFile::read_all(&arguments.labels, &arguments.label_time, &prepared.key_fields(&selection))?;
    if labels.time_without_zone() {
        say_zoneless(arguments.labels.first(), &arguments.label_time);
    }
    let tables = table_files(std::slice::from_ref(&arguments.dataset), Subfolders::Refused)?;
    let events = prepared.event_files()?;
    let read = labels.files().map(|(path, _)| path).chain(tables.iter().map(PathBuf::as_path));
    check_page(arguments.html.as_deref(), read.chain(events.iter().map(|file| file.path.as_path())))?;
    let (labels, label_table) = labels.into_parts()?;
    let columns = label_table.columns.iter();
    let mut types: BTreeMap<_, _> = columns.map(|(name, column)| (name.clone(), column.data_type())).collect();
    types.extend(expected_columns(&prepared.transforms));
    let dataset = read_table(&arguments.dataset, &types)?;
    let transforms: Vec<_> = prepared.transforms.iter().collect();
    let knowledge = match arguments.knowledge {
        KnowledgeWord::EventTime => Knowledge::EventTime,
        KnowledgeWord::Ingested => Knowledge::Ingested,
    };
    if knowledge == Knowledge::Ingested {
        prepared.require_ingest_times(&transforms)?;
    }
    let readers = prepared.open(&transforms)?;
    let request = AuditRequest {
        labels: &labels,
        label_table: &label_table,
        label_time: &arguments.label_time,
        dataset: &dataset,
        as_of: match arguments.as_of {
            AsOfWord::Before => AsOf::Before,
            AsOfWord::At => AsOf::At,
        },
        knowledge,
        max_age_us,
        tolerance,
        truncate,
        threads: prepared.threads,
        budget: Budget { bytes, scratch: &scratch, progress: None },
    };
    let report = audit(&mut readers.lend(), &prepared.transforms, request)?;
    readers.report()?;
    if let Some(page) = &arguments.html {
        write_page(page, &html::audit_page(&arguments.dataset.display().to_string(), &report))?;
    }
    output.print(&document(&report), || report.to_string());
    Ok(if report.passed() { Done::Ok } else { Done::Failed })
}

/// The report as JSON.
fn document(report: &LeakageReport) -> Value {
    let classes = report.violations.iter().map(|(class, found)| {
        json!({
            "class": class,
            "kind": found.kind.name(),
            "column": found.column,
            "count": found.count,
            "example": found.example,
        })
    });
    json!({
        "passed": report.passed(),
        "rows_kept": report.rows_kept,
        "rows_dropped": report.rows_dropped,
        "columns": report.features.iter().map(|feature| &feature.column).collect::<Vec<_>>(),
        "compared_values": report.compared_values,
        "truncated_rows": report.truncated_rows,
        "truncated_values": report.truncated_values,
        "violations": report.violation_count(),
        "classes": classes.collect::<Vec<_>>(),
        "features": report.features.iter().map(of_feature).collect::<Vec<_>>(),
        "feature_age": report.ages.iter().map(of_age).collect::<Vec<_>>(),
    })
}

fn of_feature(feature: &FeatureAudit) -> Value {
    let looks_like: Map<String, Value> =
        feature.looks_like.iter().map(|(likeness, count)| (likeness.name().to_owned(), json!(count))).collect();
    json!({
        "column": feature.column,
        "compared": feature.compared,
        "violations": feature.violations,
        "examined": feature.examined,
        "looks_like": looks_like,
        "best": feature.best().map(|(likeness, _)| likeness.name()),
        "leak": feature.best().is_some_and(|(likeness, _)| likeness.is_leak()),
    })
}

fn of_age(age: &AgeAudit) -> Value {
    let names = AGE_CLASSES.iter().map(|&(_, name)| name).chain(["older"]);
    let classes: Map<String, Value> =
        names.zip(age.classes).map(|(name, rows)| (name.to_owned(), json!(rows))).collect();
    json!({
        "view": age.view,
        "from_dataset": age.from_dataset,
        "not_before_label": age.not_before,
        "rows": classes,
        "without_contribution": age.none,
        "median_us": age.median_us,
    })
}
