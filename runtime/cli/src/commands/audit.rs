//! `plumb audit`: leakage in a training set.

use super::offline::Prepared;
use crate::args::Audit;
use crate::context::Output;
use crate::exit::Done;
use anyhow::Result;
use plumb_offline_parquet::{LabelFile, read_table};
use plumb_pipeline::offline::audit::{AuditRequest, audit, expected_columns};
use plumb_pipeline::offline::{AsOf, Selection};
use serde_json::json;

/// Recomputes the training set from history that ends strictly before each label, and compares.
pub(crate) fn run(arguments: &Audit, output: Output) -> Result<Done> {
    let prepared = Prepared::new(&arguments.inputs)?;
    let selection = Selection::all(&prepared.transforms);
    let labels = LabelFile::read(&arguments.labels, &arguments.label_time, &prepared.key_fields(&selection))?;
    let mut types = labels.column_types()?;
    types.extend(expected_columns(&prepared.transforms));
    let dataset = read_table(&arguments.dataset, &types)?;
    let transforms: Vec<_> = prepared.transforms.iter().collect();
    let readers = prepared.open(&transforms)?;
    let request = AuditRequest {
        labels: labels.labels(),
        label_table: &labels.table()?,
        label_time: &arguments.label_time,
        dataset: &dataset,
        as_of: AsOf::Before,
        max_age_us: None,
        threads: prepared.threads,
    };
    let report = audit(&mut readers.lend(), &prepared.transforms, request)?;
    readers.report();
    let violations: Vec<_> = report
        .violations
        .iter()
        .map(|(class, found)| json!({"class": class, "count": found.count, "example": found.example}))
        .collect();
    let document = json!({
        "passed": report.passed(),
        "rows_kept": report.rows_kept,
        "rows_dropped": report.rows_dropped,
        "columns": report.columns,
        "compared_values": report.compared_values,
        "violations": report.violation_count(),
        "classes": violations,
    });
    output.print(&document, || report.to_string());
    Ok(if report.passed() { Done::Ok } else { Done::Failed })
}
