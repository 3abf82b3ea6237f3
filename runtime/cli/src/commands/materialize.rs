//! `plumb materialize`: rebuilds online state from the archive, through the process that owns it, and reads it back.

use super::parity::{Asked, Commits, Sides, active_transforms, feature_names, patience, registry};
use super::run::{Local, stop_signal, with_service};
use crate::args::Materialize;
use crate::context::{Output, instant, memory_bytes, now_us, progress_to, settings};
use crate::exit::{Done, usage};
use anyhow::Result;
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
use plumb_serve_http::told::{Rebuild, RebuildDone, RebuildFailed, RebuildState};
use plumb_transform::Transform;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

const ROUTE: &str = "/materialize/state";
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
        let (mut document, done) = rebuild(&wanted, local, &stop)?;
        let checks = if done.is_some() { back_check(&wanted, &settings, local)? } else { Vec::new() };
        let right = done.as_ref().is_some_and(|done| done.right) && checks.iter().all(|check| check.passed);
        let seconds = start.elapsed().as_secs_f64();
        document["back_check"] = json!(checks);
        document["right"] = right.into();
        document["seconds"] = seconds.into();
        output.print(&document, || match &done {
            Some(done) => text(done, &checks, seconds),
            None => format!("stopped after {seconds:.2} s; what was replaced until then is right"),
        });
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

/// Asks the owner and waits for the end; the owner's words about it, and what was done where the end was reached.
fn rebuild(wanted: &Wanted, local: &Local, stop: &Receiver<()>) -> Result<(Value, Option<RebuildDone>)> {
    let admin = local.admin()?;
    let body = json!({
        "from": wanted.from_us.map(format_rfc3339),
        "to": wanted.to_us.map(format_rfc3339),
        "threads": wanted.threads,
        "memory_bytes": wanted.memory_bytes,
    });
    let begun: Rebuild = admin.read(&format!("POST {ROUTE}"), &admin.post(ROUTE, &body)?)?;
    let route = format!("GET {ROUTE}");
    let bar = progress_to("rebuilding", "events", Some(0));
    let mut stopped = false;
    let (document, state) = loop {
        let document = admin.get(ROUTE)?;
        let now: Rebuild = admin.read(&route, &document)?;
        if now.id != begun.id {
            return Err(Error::unavailable("rebuild state", "another `plumb materialize` was begun instead").into());
        }
        if now.state != RebuildState::Running {
            break (document, now.state);
        }
        bar.set_length(now.events_to_read);
        bar.set_position(now.events_read);
        if stop.recv_timeout(LOOK).is_ok() && !std::mem::replace(&mut stopped, true) {
            admin.delete(ROUTE)?;
        }
    };
    bar.finish_and_clear();
    match state {
        RebuildState::Done => {
            let done = admin.read(&route, &document)?;
            Ok((document, Some(done)))
        }
        RebuildState::Stopped => Ok((document, None)),
        RebuildState::Running | RebuildState::Failed => {
            let failed: RebuildFailed = admin.read(&route, &document)?;
            Err(match failed.unavailable {
                true => Error::unavailable("rebuild state", failed.why),
                false => Error::internal(failed.why),
            }
            .into())
        }
    }
}

/// What reading entities of one kind back has found.
#[derive(Serialize)]
struct BackCheck {
    passed: bool,
    entity: String,
    /// The instant they were read as of.
    as_of: String,
    checked: u64,
    answered_from_state: u64,
    compared_values: u64,
    non_zero_values: u64,
    differing: Vec<Differing>,
}

/// A feature that was answered otherwise than the archive says.
#[derive(Serialize)]
struct Differing {
    feature: String,
    /// For so many entities.
    differing: u64,
    /// The key of one.
    example: Option<String>,
}

/// Reads entities of each kind back and compares them with the archive at the position of the answer.
fn back_check(wanted: &Wanted, settings: &Settings, local: &Local) -> Result<Vec<BackCheck>> {
    let (client, admin) = (local.client()?, local.admin()?);
    let store = stores::offline(settings)?;
    let commits = Commits { admin: (!settings.is_shared()).then_some(&admin), patience: patience(settings) };
    commits.ask()?;
    let entities: BTreeSet<String> = registry(&client)?.into_iter().map(|view| view.entity.name).collect();
    let mut checks = Vec::new();
    for entity in &entities {
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
        let differing = differing.map(|feature| Differing {
            feature: feature.feature.clone(),
            differing: feature.differing,
            example: name(feature.example),
        });
        checks.push(BackCheck {
            passed: report.passed(),
            entity: entity.clone(),
            as_of: format_rfc3339(at_us),
            checked: report.checked,
            answered_from_state: both.from_state,
            compared_values: report.compared_values,
            non_zero_values: report.non_zero_values,
            differing: differing.collect(),
        });
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

fn text(done: &RebuildDone, checks: &[BackCheck], seconds: f64) -> String {
    let mut text = format!("state of {} views at {} in {seconds:.2} s", done.views.len(), done.position);
    for view in &done.views {
        text.push_str(&format!(
            "\n  {} {}: {} states from {} events, {} held otherwise before",
            view.view, view.version, view.states, view.events, view.changed
        ));
        if view.changed > 0 {
            let (memory, online) = (view.changed_in_memory, view.changed_online);
            text.push_str(&format!(" ({online} in the online store, {memory} in memory)"));
        }
        if view.changed_reserved {
            text.push_str(", what belongs to no entity alone too");
        }
        if let Some(first) = &view.first {
            let json = |value: &Option<Value>| value.as_ref().map_or_else(|| "null".to_owned(), Value::to_string);
            let what = match &first.feature {
                Some(feature) => format!("{feature} was {}, is {}", json(&first.before), json(&first.after)),
                None => "no feature was answered otherwise at the newest event".to_owned(),
            };
            text.push_str(&format!("\n    first {} (partition {}): {what}", first.key.join(" × "), first.partition));
        }
        if view.unconfirmed > 0 {
            text.push_str(&format!("\n    {} are still held otherwise after they were written", view.unconfirmed));
        }
    }
    for missing in &done.missing {
        text.push_str(&format!("\n  {missing}: not rebuilt, its owner changed or did not answer; run it again"));
    }
    for check in checks {
        let verdict = if check.passed { "PASSED" } else { "FAILED" };
        text.push_str(&format!(
            "\nBackCheck [{verdict}] entity={} checked={} at {}: {} values, {} of them non-zero, {} entities from state",
            check.entity,
            check.checked,
            check.as_of,
            check.compared_values,
            check.non_zero_values,
            check.answered_from_state,
        ));
        for one in &check.differing {
            text.push_str(&format!("\n  {} differs for {}", one.feature, one.differing));
            if let Some(example) = &one.example {
                text.push_str(&format!(", e.g. {example}"));
            }
        }
    }
    text
}
