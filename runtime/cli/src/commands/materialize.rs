//! `plumb materialize`: rebuilds online state from the archive, through the process that owns it, and reads it back.

use super::parity::{Asked, Commits, Sides, active_transforms, feature_names, patience};
use super::run::{Local, stop_signal, with_service};
use crate::args::Materialize;
use crate::context::{Output, instant, memory_bytes, now_us, progress_to, settings};
use crate::exit::{Done, usage};
use anyhow::{Context, Result};
use plumb_assembly::history::Committed;
use plumb_assembly::{Settings, stores};
use plumb_core::column::Column;
use plumb_core::entity::{EntityKey, key_of_row};
use plumb_offline_parquet::ParquetArchive;
use plumb_pipeline::Error;
use plumb_pipeline::commit::{committed_partitions, latest};
use plumb_pipeline::decode::time::format_rfc3339;
use plumb_pipeline::offline::{CheckOptions, Selection, compare};
use plumb_pipeline::port::{Archive, ArchiveScan, ObjectStore};
use plumb_transform::Transform;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// How often is asked how far it is.
const LOOK: Duration = Duration::from_millis(100);

/// What was asked, checked.
struct Wanted {
    from_us: Option<i64>,
    to_us: Option<i64>,
    /// How many entities to read back; `None` = all.
    sample: Option<usize>,
    threads: Option<usize>,
    memory_bytes: u64,
}

/// Rebuilds and reads back.
pub(crate) fn run(arguments: &Materialize, output: Output) -> Result<Done> {
    let start = Instant::now();
    let settings = settings(arguments.config.as_deref())?;
    let wanted = wanted(arguments)?;
    let stop = stop_signal()?;
    with_service(&settings, |local| {
        let (mut document, whole) = rebuild(&wanted, local, &stop)?;
        let checks = if whole { back_check(&wanted, &settings, local)? } else { Vec::new() };
        let right = whole
            && document["right"].as_bool().unwrap_or(false)
            && checks.iter().all(|check| check["passed"].as_bool().unwrap_or(false));
        document["back_check"] = checks.into();
        document["right"] = right.into();
        document["seconds"] = start.elapsed().as_secs_f64().into();
        output.print(&document, || text(&document));
        Ok(if right { Done::Ok } else { Done::Failed })
    })
}

fn wanted(arguments: &Materialize) -> Result<Wanted> {
    let at = |flag: &str, text: &Option<String>| text.as_deref().map(|text| instant(flag, text)).transpose();
    let (from_us, to_us) = (at("--from", &arguments.from)?, at("--to", &arguments.to)?);
    if let (Some(from), Some(to)) = (from_us, to_us)
        && from >= to
    {
        let (from, to) = (format_rfc3339(from), format_rfc3339(to));
        return Err(usage(format!("--from {from} --to {to}: the span must end after it begins")));
    }
    let sample = match arguments.sample.as_str() {
        "all" => None,
        text => match text.parse::<usize>() {
            Ok(sample) if sample > 0 => Some(sample),
            _ => return Err(usage(format!("--sample {text}: write a number of entities from 1 on, or `all`"))),
        },
    };
    if arguments.threads == Some(0) {
        return Err(usage("--threads 0: at least one is needed"));
    }
    let memory_bytes = memory_bytes(arguments.memory.as_deref())?;
    Ok(Wanted { from_us, to_us, sample, threads: arguments.threads, memory_bytes })
}

/// Asks the owner and waits for the end; whether it was reached.
fn rebuild(wanted: &Wanted, local: &Local, stop: &Receiver<()>) -> Result<(Value, bool)> {
    let admin = local.admin()?;
    let body = json!({
        "from": wanted.from_us.map(format_rfc3339),
        "to": wanted.to_us.map(format_rfc3339),
        "threads": wanted.threads,
        "memory_bytes": wanted.memory_bytes,
    });
    let id = admin.post("/materialize/state", &body)?["id"].clone();
    let bar = progress_to("rebuilding", "events", Some(0));
    let mut stopped = false;
    let document = loop {
        let document = admin.get("/materialize/state")?;
        if document["id"] != id {
            return Err(Error::unavailable("rebuild state", "another `plumb materialize` was begun instead").into());
        }
        if document["state"] != "running" {
            break document;
        }
        bar.set_length(document["events_to_read"].as_u64().unwrap_or(0));
        bar.set_position(document["events_read"].as_u64().unwrap_or(0));
        if stop.recv_timeout(LOOK).is_ok() && !std::mem::replace(&mut stopped, true) {
            admin.delete("/materialize/state")?;
        }
    };
    bar.finish_and_clear();
    match document["state"].as_str() {
        Some("done") => Ok((document, true)),
        Some("stopped") => Ok((document, false)),
        _ => {
            let why = document["why"].as_str().unwrap_or("it does not say why").to_owned();
            Err(match document["unavailable"].as_bool() {
                Some(true) => Error::unavailable("rebuild state", why),
                _ => Error::internal(why),
            }
            .into())
        }
    }
}

/// Reads entities of each kind back and compares them with the archive at the position of the answer.
fn back_check(wanted: &Wanted, settings: &Settings, local: &Local) -> Result<Vec<Value>> {
    let (client, admin) = (local.client()?, local.admin()?);
    let store = stores::offline(settings)?;
    let commits = Commits { admin: (!settings.is_shared()).then_some(&admin), patience: patience(settings) };
    commits.ask()?;
    let registry = client.get("/registry")?;
    let views = registry["views"].as_array().context("the registry's answer has no views")?;
    let entities: BTreeSet<&str> = views.iter().filter_map(|view| view["entity"]["name"].as_str()).collect();
    let mut checks = Vec::new();
    for entity in entities {
        let transforms = active_transforms(&client, settings, store.as_ref(), entity)?;
        let keys = entities_of(wanted, &store, &transforms)?;
        if keys.is_empty() {
            continue;
        }
        let at_us = newest(store.as_ref(), &transforms)?.map_or_else(now_us, |us| us.saturating_add(1).min(now_us()));
        let list: Vec<String> = transforms.iter().map(|view| format!("{}:*", view.def().name)).collect();
        let selection = Selection::parse(&list.join(","), &transforms)?;
        let features = feature_names(&selection);
        let asked = Asked { entity, features: &features, selection: &selection, at_us };
        let bar = progress_to("reading back", "entities", Some(keys.len() as u64));
        let sides = Sides { client: &client, commits: &commits, store: &store };
        let both = asked.compare(sides, &keys, &|done| bar.inc(done as u64))?;
        bar.finish_and_clear();
        let options = CheckOptions { exact: true, ..CheckOptions::default() };
        let report = compare(entity, &features, &both.online, &both.offline, &options);
        let name = |row: Option<usize>| {
            row.and_then(|row| keys.get(row)).map(|key| String::from_utf8_lossy(key.as_bytes()).into_owned())
        };
        let differing = report.features.iter().filter(|feature| feature.differing > 0);
        let differing: Vec<Value> = differing
            .map(|feature| {
                json!({
                    "feature": feature.feature,
                    "differing": feature.differing,
                    "example": name(feature.example),
                })
            })
            .collect();
        checks.push(json!({
            "passed": report.passed(),
            "entity": entity,
            "as_of": format_rfc3339(at_us),
            "checked": report.checked,
            "answered_from_state": both.from_state,
            "compared_values": report.compared_values,
            "non_zero_values": report.non_zero_values,
            "differing": differing,
        }));
    }
    Ok(checks)
}

/// The newest event of the views' sources, µs.
fn newest(store: &dyn ObjectStore, views: &[Transform]) -> Result<Option<i64>> {
    let mut newest_us = None;
    for source in views.iter().map(|view| view.def().source.as_str()).collect::<BTreeSet<_>>() {
        for partition in committed_partitions(store, source)? {
            let manifest = latest(store, source, partition)?;
            newest_us = newest_us.max(manifest.and_then(|manifest| manifest.newest_event_time_us));
        }
    }
    Ok(newest_us)
}

/// The entities with an event in the span, or so many of them, chosen by hash.
fn entities_of(wanted: &Wanted, store: &Arc<dyn ObjectStore>, views: &[Transform]) -> Result<Vec<EntityKey>> {
    let mut chosen: BTreeSet<(u64, EntityKey)> = BTreeSet::new();
    let mut sources = BTreeSet::new();
    for view in views.iter().filter(|view| sources.insert(view.def().source.clone())) {
        let committed = Committed::read(store.as_ref(), &view.def().source)?;
        let span = match (wanted.from_us, wanted.to_us) {
            (None, None) => None,
            (from_us, to_us) => Some((from_us.unwrap_or(i64::MIN), to_us.unwrap_or(i64::MAX))),
        };
        let scan =
            ArchiveScan { columns: Some(view.key_columns().to_vec()), event_time_us: span, ..committed.scan(None) };
        let mut bytes = Vec::new();
        ParquetArchive::new(store.clone()).scan(view.schema(), &scan, &mut |_, batch| {
            let columns: Vec<&Column> = view.key_columns().iter().map(|&column| &batch.columns[column]).collect();
            for row in 0..batch.len() {
                if !key_of_row(&columns, row, &mut bytes) {
                    continue;
                }
                let mut hasher = DefaultHasher::new();
                bytes.hash(&mut hasher);
                chosen.insert((hasher.finish(), EntityKey::from_bytes(&bytes)));
                if wanted.sample.is_some_and(|sample| chosen.len() > sample) {
                    chosen.pop_last();
                }
            }
            Ok(())
        })?;
    }
    Ok(chosen.into_iter().map(|(_, key)| key).collect())
}

fn text(document: &Value) -> String {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let seconds = document["seconds"].as_f64().unwrap_or(0.0);
    let Some(views) = document["views"].as_array() else {
        return format!("stopped after {seconds:.2} s; what was replaced until then is right");
    };
    let position = document["position"].as_str().unwrap_or_default();
    let mut text = format!("state of {} views at {position} in {seconds:.2} s", views.len());
    for view in views {
        let (states, events) = (number(&view["states"]), number(&view["events"]));
        let changed = number(&view["changed"]);
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        text.push_str(&format!(
            "\n  {} {}: {states} states from {events} events, {changed} held otherwise before",
            word(&view["view"]),
            word(&view["version"]),
        ));
        if changed > 0 {
            let (memory, online) = (number(&view["changed_in_memory"]), number(&view["changed_online"]));
            text.push_str(&format!(" ({online} in the online store, {memory} in memory)"));
        }
        if view["changed_reserved"] == true {
            text.push_str(", what belongs to no entity alone too");
        }
        let first = &view["first"];
        if !first.is_null() {
            let key: Vec<String> = first["key"].as_array().into_iter().flatten().map(&word).collect();
            let what = match first["feature"].as_str() {
                Some(feature) => format!("{feature} was {}, is {}", first["before"], first["after"]),
                None => "no feature was answered otherwise at the newest event".to_owned(),
            };
            text.push_str(&format!("\n    first {} (partition {}): {what}", key.join(" × "), first["partition"]));
        }
        if number(&view["unconfirmed"]) > 0 {
            text.push_str(&format!("\n    {} are still held otherwise after they were written", view["unconfirmed"]));
        }
    }
    for missing in document["missing"].as_array().into_iter().flatten() {
        text.push_str(&format!("\n  {missing}: not rebuilt, its owner changed or did not answer; run it again"));
    }
    for check in document["back_check"].as_array().into_iter().flatten() {
        let verdict = if check["passed"] == true { "PASSED" } else { "FAILED" };
        let word = |name: &str| check[name].as_str().unwrap_or_default().to_owned();
        text.push_str(&format!(
            "\nBackCheck [{verdict}] entity={} checked={} at {}: {} values, {} of them non-zero, {} entities from state",
            word("entity"),
            check["checked"],
            word("as_of"),
            check["compared_values"],
            check["non_zero_values"],
            check["answered_from_state"],
        ));
        for one in check["differing"].as_array().into_iter().flatten() {
            text.push_str(&format!("\n  {} differs for {}, e.g. {}", one["feature"], one["differing"], one["example"]));
        }
    }
    text
}
