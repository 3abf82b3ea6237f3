//! `plumb check`: values as served against values computed from the archive at the same position.

use super::parity::{Asked, Commits, Sides, active_transforms, feature_names, patience};
use super::run::{Local, with_service};
use crate::args::Check;
use crate::context::{Output, instant, now_us, settings};
use crate::exit::{Done, usage};
use anyhow::{Context, Result};
use plumb_assembly::history::Committed;
use plumb_assembly::{Settings, stores};
use plumb_core::column::Column;
use plumb_core::entity::{EntityKey, key_of_row};
use plumb_core::time::DAY_US;
use plumb_offline_parquet::ParquetArchive;
use plumb_pipeline::decode::time::format_rfc3339;
use plumb_pipeline::offline::{CheckOptions, Selection, compare};
use plumb_pipeline::port::{Archive, ArchiveScan, ObjectStore};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Compares a sample of entities.
pub(crate) fn run(arguments: &Check, output: Output) -> Result<Done> {
    if arguments.sample == 0 {
        return Err(usage("--sample 0: compare at least one entity"));
    }
    if !(0.0..=1.0).contains(&arguments.max_share) {
        return Err(usage(format!("--max-share {}: write a share from 0 to 1", arguments.max_share)));
    }
    if !(arguments.max_difference >= 0.0 && arguments.max_difference.is_finite()) {
        let given = arguments.max_difference;
        return Err(usage(format!("--max-difference {given}: write a relative difference from 0 on, as in 0.05")));
    }
    let settings = settings(arguments.config.as_deref())?;
    let at_us = arguments.at.as_deref().map(|text| instant("--at", text)).transpose()?;
    with_service(&settings, |local| check(arguments, &settings, local, at_us, output))
}

fn check(arguments: &Check, settings: &Settings, local: &Local, at_us: Option<i64>, output: Output) -> Result<Done> {
    let (client, admin) = (local.client()?, local.admin()?);
    let store = stores::offline(settings)?;
    let transforms = active_transforms(&client, settings, store.as_ref(), &arguments.entity)?;
    let list = match &arguments.features {
        Some(list) => list.clone(),
        None => transforms.iter().map(|view| format!("{}:*", view.def().name)).collect::<Vec<_>>().join(","),
    };
    let selection = Selection::parse(&list, &transforms)?;
    let archive = ParquetArchive::new(store.clone());
    // What was applied is committed, so that the archive reaches as far as the answers. Other processes commit a job
    // that is shared; what they answer from is waited for.
    let commits = Commits { admin: (!settings.is_shared()).then_some(&admin), patience: patience(settings) };
    commits.ask()?;
    let (keys, at_us) = sample(&archive, store.as_ref(), &selection, arguments.sample, at_us)?;
    if keys.is_empty() {
        return Err(usage(format!("no `{}` has an accepted event before {}", arguments.entity, format_rfc3339(at_us))));
    }
    let features = feature_names(&selection);
    let asked = Asked { entity: &arguments.entity, features: &features, selection: &selection, at_us };
    let all = asked.compare(Sides { client: &client, commits: &commits, store: &store }, &keys, &|_| {})?;
    let options =
        CheckOptions { exact: arguments.exact, max_share: arguments.max_share, max_relative: arguments.max_difference };
    let report = compare(&arguments.entity, &features, &all.online, &all.offline, &options);
    let example = |row: Option<usize>| {
        row.and_then(|row| keys.get(row)).map(|key| String::from_utf8_lossy(key.as_bytes()).into_owned())
    };
    let differing: Vec<Value> = report
        .features
        .iter()
        .filter(|feature| feature.differing > 0)
        .map(|feature| {
            json!({
                "feature": feature.feature,
                "differing": feature.differing,
                "flagged": feature.flagged,
                "example": example(feature.example),
            })
        })
        .collect();
    let document = json!({
        "passed": report.passed(),
        "entity": report.entity,
        "as_of": format_rfc3339(at_us),
        "checked": report.checked,
        "answered_from_state": all.from_state,
        "compared_values": report.compared_values,
        "non_zero_values": report.non_zero_values,
        "flagged_features": report.flagged(),
        "differing": differing,
    });
    output.print(&document, || {
        let mut text = format!(
            "{report}\n  at {}: {} values compared, {} of them non-zero; {} of {} entities answered from state",
            format_rfc3339(at_us),
            report.compared_values,
            report.non_zero_values,
            all.from_state,
            report.checked
        );
        for one in &differing {
            text.push_str(&format!("\n  {} differs for {}, e.g. {}", one["feature"], one["differing"], one["example"]));
        }
        text
    });
    Ok(if report.passed() { Done::Ok } else { Done::Failed })
}

/// Keys to compare and T: half of them active in the 24 hours before T, chosen by hash.
fn sample(
    archive: &dyn Archive,
    store: &dyn ObjectStore,
    selection: &Selection,
    size: usize,
    at_us: Option<i64>,
) -> Result<(Vec<EntityKey>, i64)> {
    let view = &selection.views.first().context("no view was selected")?.transform;
    let committed = Committed::read(store, &view.def().source)?;
    let scan = ArchiveScan { columns: Some(view.key_columns().to_vec()), ..committed.scan(None) };
    let (mut newest_us, mut times): (Option<i64>, BTreeMap<EntityKey, Vec<i64>>) = (None, BTreeMap::new());
    let mut bytes = Vec::new();
    archive.scan(view.schema(), &scan, &mut |_, batch| {
        newest_us = newest_us.max(batch.times_us.iter().copied().max());
        let columns: Vec<&Column> = view.key_columns().iter().map(|&column| &batch.columns[column]).collect();
        for (row, &time_us) in batch.times_us.iter().enumerate() {
            if key_of_row(&columns, row, &mut bytes) {
                times.entry(EntityKey::from_bytes(&bytes)).or_default().push(time_us);
            }
        }
        Ok(())
    })?;
    let now_us = now_us();
    let at_us = at_us.unwrap_or_else(|| newest_us.map_or(now_us, |newest_us| newest_us.saturating_add(1).min(now_us)));
    let hash = |key: &EntityKey| {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        hasher.finish()
    };
    let (mut active, mut idle): (Vec<EntityKey>, Vec<EntityKey>) = (Vec::new(), Vec::new());
    for (key, times_us) in times {
        match times_us.iter().filter(|&&time_us| time_us < at_us).max() {
            Some(&last_us) if last_us >= at_us - DAY_US => active.push(key),
            Some(_) => idle.push(key),
            None => {}
        }
    }
    active.sort_by_key(hash);
    idle.sort_by_key(hash);
    let of_active = active.len().min(size.div_ceil(2).max(size.saturating_sub(idle.len())));
    let mut keys: Vec<EntityKey> = active.into_iter().take(of_active).collect();
    keys.extend(idle.into_iter().take(size - of_active));
    Ok((keys, at_us))
}
