//! `plumb check`: values as served against values computed from the archive at the same position.

use super::run::{Local, with_service};
use crate::args::Check;
use crate::client::Client;
use crate::context::{Output, instant, now_us, settings};
use crate::exit::{Done, usage};
use crate::values::push_json;
use anyhow::{Context, Result};
use plumb_assembly::history::Committed;
use plumb_assembly::{Settings, components, stores};
use plumb_core::column::{Column, DataType};
use plumb_core::entity::{EntityKey, key_of_row};
use plumb_core::time::DAY_US;
use plumb_offline_parquet::ParquetArchive;
use plumb_pipeline::commit::read_component;
use plumb_pipeline::decode::time::format_rfc3339;
use plumb_pipeline::near::{near_names, quoted};
use plumb_pipeline::offline::{AtRequest, CheckOptions, Labels, Selection, at, compare};
use plumb_pipeline::port::{Archive, ArchiveScan, ObjectStore};
use plumb_pipeline::query::Position;
use plumb_transform::Transform;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

/// Entities asked for in one request.
const ENTITIES_PER_REQUEST: usize = 200;

/// How often the manifests are looked at for a commit that is waited for.
const LOOK: Duration = Duration::from_millis(100);

/// Compares a sample of entities.
pub(crate) fn run(arguments: &Check, output: Output) -> Result<Done> {
    if arguments.sample == 0 {
        return Err(usage("--sample 0: compare at least one entity"));
    }
    let settings = settings(arguments.config.as_deref())?;
    let at_us = arguments.at.as_deref().map(|text| instant("--at", text)).transpose()?;
    with_service(&settings, |local| check(arguments, &settings, local, at_us, output))
}

/// The columns to compare and what was seen on the way.
struct Sampled {
    online: Vec<Column>,
    offline: Vec<Column>,
    from_state: u64,
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
    let features: Vec<String> = selection
        .order
        .iter()
        .map(|&(view, feature)| {
            let view = &selection.views[view];
            let def = view.transform.def();
            format!("{}:{}", def.name, def.features[view.features[feature]].name)
        })
        .collect();
    let mut all = Sampled { online: Vec::new(), offline: Vec::new(), from_state: 0 };
    for keys in keys.chunks(ENTITIES_PER_REQUEST) {
        let asked = Asked { entity: &arguments.entity, features: &features, selection: &selection, keys, at_us };
        let sampled = asked.compare(&client, &commits, &archive, store.as_ref())?;
        all.from_state += sampled.from_state;
        for (of_all, columns) in [(&mut all.online, sampled.online), (&mut all.offline, sampled.offline)] {
            if of_all.is_empty() {
                *of_all = columns;
            } else {
                for (of_all, column) in of_all.iter_mut().zip(&columns) {
                    (0..column.len()).for_each(|row| of_all.push_from(column, row));
                }
            }
        }
    }
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

/// The active views of an entity, loaded from the components the job keeps.
fn active_transforms(
    client: &Client,
    settings: &Settings,
    store: &dyn ObjectStore,
    entity: &str,
) -> Result<Vec<Transform>> {
    let registry = client.get("/registry")?;
    let engine = components::engine()?;
    let (mut transforms, mut entities) = (Vec::new(), Vec::new());
    for entry in registry["views"].as_array().context("the registry's answer has no views")? {
        let of_view = entry["entity"]["name"].as_str().unwrap_or_default().to_owned();
        if of_view == entity {
            let digest = entry["digest"].as_str().context("a view of the registry has no digest")?;
            let component = read_component(store, digest)?;
            transforms.push(components::bind(&engine.load(&component)?, settings)?);
        }
        entities.push(of_view);
    }
    if transforms.is_empty() {
        let near = near_names(entity, entities.iter().map(String::as_str));
        let hint = if near.is_empty() { quoted(entities.iter().map(String::as_str)) } else { near.join(", ") };
        return Err(usage(format!("--entity {entity}: no active view has this entity; there are {hint}")));
    }
    Ok(transforms)
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

/// How the archive gets as far as the answers.
struct Commits<'a> {
    /// Commits when asked to; `None` = other processes commit by themselves.
    admin: Option<&'a Client>,
    /// How long that may take.
    patience: Duration,
}

/// How long others may take to commit: two of their intervals, and the time of one that takes over.
fn patience(settings: &Settings) -> Duration {
    2 * settings.run.commit_interval + Duration::from_secs(60)
}

impl Commits<'_> {
    fn ask(&self) -> Result<()> {
        if let Some(admin) = self.admin {
            admin.post("/commit", &json!({}))?;
        }
        Ok(())
    }

    /// What is committed of a source, once that is everything below `position`.
    fn covering(&self, store: &dyn ObjectStore, source: &str, position: &BTreeMap<u32, u64>) -> Result<Committed> {
        let begin = Instant::now();
        let mut said = false;
        loop {
            let committed = Committed::read(store, source)?;
            if self.admin.is_some() || committed.covers(position) {
                return Ok(committed);
            }
            let so_far = Position::of(source, committed.position.clone());
            let wanted = Position::of(source, position.clone());
            if begin.elapsed() >= self.patience {
                let why = format!("committed so far is {so_far}; is a `plumb run` working on every partition?");
                return Err(plumb_pipeline::Error::unavailable(format!("wait for the commit of {wanted}"), why).into());
            }
            if !said {
                eprintln!("plumb: answered at {wanted}, committed so far is {so_far}: waiting for the next commit");
                said = true;
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// One request and its counterpart from the archive.
struct Asked<'a> {
    entity: &'a str,
    features: &'a [String],
    selection: &'a Selection,
    keys: &'a [EntityKey],
    at_us: i64,
}

/// How often a batch is asked again that was answered from several positions, and how long to wait in between.
const POSITION_TRIES: usize = 100;
const POSITION_PAUSE: Duration = Duration::from_millis(20);

/// The position of all results of a batch; `None` if they have several.
fn one_position(answer: &Value) -> Result<Option<Position>> {
    let results = answer["results"].as_array().context("the answer has no results")?;
    let token = |result: &Value| result["position"].as_str().map(str::to_owned);
    let token = results.first().and_then(token).context("a result has no position")?;
    let position = Position::parse(&token)?;
    let one = position.views.is_empty() && results.iter().all(|result| result["position"] == token.as_str());
    Ok(one.then_some(position))
}

impl Asked<'_> {
    fn compare(
        &self,
        client: &Client,
        commits: &Commits<'_>,
        archive: &dyn Archive,
        store: &dyn ObjectStore,
    ) -> Result<Sampled> {
        let fields = &self.selection.views[0].transform.def().entity.key;
        let mut key_columns = vec![Column::new(&DataType::Utf8); fields.len()];
        let mut requests = Vec::with_capacity(self.keys.len());
        for key in self.keys {
            let parts = key.parts(fields.len()).context("a key of the archive has other parts than the entity")?;
            key_columns.iter_mut().zip(&parts).for_each(|(column, part)| column.push_bytes(part));
            let texts = parts.iter().map(|part| Value::from(String::from_utf8_lossy(part)));
            let key: Value = match fields.len() {
                1 => texts.collect::<Vec<_>>().swap_remove(0),
                _ => fields.iter().cloned().zip(texts).collect::<serde_json::Map<_, _>>().into(),
            };
            requests.push(json!({
                "entities": {self.entity: key},
                "features": self.features,
                "as_of": format_rfc3339(self.at_us),
            }));
        }
        let body = json!({"requests": requests});
        let mut tries = 0;
        let (answer, position) = loop {
            let answer = client.post("/features/batch", &body)?;
            match one_position(&answer)? {
                Some(position) => break (answer, position),
                // A publish was under way in a store that shows it part by part: soon it is all there.
                None if tries < POSITION_TRIES => std::thread::sleep(POSITION_PAUSE),
                None => anyhow::bail!("the online store is never at one position; is a part of it out of reach?"),
            }
            tries += 1;
        };
        let results = answer["results"].as_array().context("the answer has no results")?;
        let mut online: Vec<Column> = self.types().iter().map(Column::new).collect();
        let mut from_state = 0;
        for result in results {
            for (feature, column) in self.features.iter().zip(&mut online) {
                push_json(column, &result["features"][feature]).with_context(|| format!("`{feature}` as served"))?;
            }
            let views = result["views"].as_object().context("a result has no views")?;
            from_state += u64::from(views.values().all(|view| view["source"] == "online"));
        }
        let offline = self.offline(commits, archive, store, &position, key_columns)?;
        Ok(Sampled { online, offline, from_state })
    }

    fn types(&self) -> Vec<DataType> {
        let of = |&(view, feature): &(usize, usize)| {
            let view = &self.selection.views[view];
            view.transform.def().features[view.features[feature]].data_type.clone()
        };
        self.selection.order.iter().map(of).collect()
    }

    fn offline(
        &self,
        commits: &Commits<'_>,
        archive: &dyn Archive,
        store: &dyn ObjectStore,
        position: &Position,
        key_columns: Vec<Column>,
    ) -> Result<Vec<Column>> {
        commits.ask()?;
        let fields = &self.selection.views[0].transform.def().entity.key;
        let mut scans = BTreeMap::new();
        for source in self.selection.by_source().into_keys() {
            let wanted = position.source(source)?;
            scans.insert(source.to_owned(), commits.covering(store, source, wanted)?.scan(Some(wanted)));
        }
        let rows = Labels {
            times_us: vec![self.at_us; self.keys.len()],
            keys: fields.iter().cloned().zip(key_columns).collect(),
        };
        let views = at(archive, &scans, AtRequest { selection: self.selection, rows: &rows, max_age_us: None })?;
        Ok(self.selection.order.iter().map(|&(view, feature)| views[view].features[feature].clone()).collect())
    }
}
