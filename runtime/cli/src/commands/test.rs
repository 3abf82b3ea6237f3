//! `plumb test`: a component over a file of events, without any service.

use super::offline::{now, open_events};
use crate::args::Test;
use crate::context::{Output, instant, settings};
use crate::exit::{Done, usage};
use crate::values::json_of;
use anyhow::Result;
use plumb_assembly::components;
use plumb_core::column::{Column, DataType};
use plumb_core::event::EventBatch;
use plumb_pipeline::decode::time::format_rfc3339;
use plumb_pipeline::offline::{JoinOptions, Labels, Selection, join, needed_columns};
use plumb_pipeline::port::EventReader;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

/// Events held in memory, given once.
struct Held(std::vec::IntoIter<EventBatch>);

impl EventReader for Held {
    fn next_batch(&mut self) -> plumb_pipeline::Result<Option<EventBatch>> {
        Ok(self.0.next())
    }
}

/// Computes the view's features at T for every entity of the file.
pub(crate) fn run(arguments: &Test, output: Output) -> Result<Done> {
    let (settings, now_us) = (settings(arguments.reading.config.as_deref())?, now(&arguments.reading)?);
    let file = components::load(&components::engine()?, &arguments.file)?;
    let transform = components::bind(&file.component, &settings)?;
    let def = transform.def().clone();
    let threads = arguments.reading.threads.unwrap_or(0);
    let columns = Some(needed_columns([&transform]));
    let mut reader = open_events(&settings, &def.source, Path::new(&arguments.events), now_us, columns, threads)?;
    let (mut batches, mut newest_us, mut keys) = (Vec::new(), None, BTreeSet::new());
    while let Some(batch) = reader.next_batch()? {
        newest_us = newest_us.max(batch.times_us.iter().copied().max());
        let key_columns: Vec<&Column> = transform.key_columns().iter().map(|&column| &batch.columns[column]).collect();
        for row in 0..batch.len() {
            let parts: Option<Vec<Vec<u8>>> =
                key_columns.iter().map(|column| column.str_bytes(row).map(<[u8]>::to_vec)).collect();
            keys.extend(parts);
        }
        batches.push(batch);
    }
    let Some(newest_us) = newest_us else {
        return Err(usage(format!("`{}` holds no accepted event", arguments.events)));
    };
    let at_us = match &arguments.at {
        Some(text) => instant("--at", text)?,
        None => newest_us.saturating_add(1).min(now_us),
    };
    let shown: Vec<Vec<Vec<u8>>> = keys.iter().take(arguments.limit).cloned().collect();
    let mut key_columns = vec![Column::new(&DataType::Utf8); def.entity.key.len()];
    for parts in &shown {
        key_columns.iter_mut().zip(parts).for_each(|(column, part)| column.push_bytes(part));
    }
    let labels =
        Labels { times_us: vec![at_us; shown.len()], keys: def.entity.key.iter().cloned().zip(key_columns).collect() };
    let mut readers: BTreeMap<String, Box<dyn EventReader>> =
        BTreeMap::from([(def.source.clone(), Box::new(Held(batches.into_iter())) as Box<dyn EventReader>)]);
    let selection = Selection::all(std::slice::from_ref(&transform));
    let set = join(&mut readers, &selection, &labels, &JoinOptions { threads, ..JoinOptions::default() })?;
    super::offline::report_faults("extract", &set.summary.extract_faults);
    super::offline::report_faults("finalize", &set.summary.finalize_faults);
    let view = &set.views[0];
    let rows: Vec<Value> = shown
        .iter()
        .enumerate()
        .map(|(row, parts)| {
            let key: Map<String, Value> = def
                .entity
                .key
                .iter()
                .zip(parts)
                .map(|(field, part)| (field.clone(), String::from_utf8_lossy(part).into()))
                .collect();
            let features: Map<String, Value> = def
                .features
                .iter()
                .zip(&view.features)
                .map(|(feature, column)| (feature.name.clone(), json_of(column, row)))
                .collect();
            json!({"key": key, "status": view.status[row].name(), "features": features})
        })
        .collect();
    let accounting = reader.accounting();
    let document = json!({
        "view": def.name,
        "version": transform.version_label(),
        "as_of": format_rfc3339(at_us),
        "events": accounting.applied,
        "rejected": accounting.rejected,
        "entities": keys.len(),
        "rows": rows,
    });
    output.print(&document, || {
        let mut text = format!(
            "{} {} at {}: {} events, {} rejected, {} entities\n",
            def.name,
            transform.version_label(),
            format_rfc3339(at_us),
            accounting.applied,
            accounting.rejected,
            keys.len()
        );
        for row in &rows {
            let key: Vec<&str> =
                row["key"].as_object().into_iter().flatten().filter_map(|(_, part)| part.as_str()).collect();
            writeln!(text, "{} {}", def.entity.name, key.join(" ")).expect("text can be written to");
            for feature in &def.features {
                let value = &row["features"][&feature.name];
                writeln!(text, "  {:<28} {value}", feature.name).expect("text can be written to");
            }
        }
        if keys.len() > shown.len() {
            writeln!(text, "… and {} more (--limit)", keys.len() - shown.len()).expect("text can be written to");
        }
        text
    });
    let failed = !set.summary.finalize_faults.is_empty() || !set.summary.extract_faults.is_empty();
    Ok(if failed { Done::Failed } else { Done::Ok })
}
