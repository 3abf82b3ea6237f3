//! Values as served beside values computed from the archive at the same position, for the same entities.

use crate::client::Client;
use crate::exit::usage;
use crate::values::push_json;
use anyhow::{Context, Result};
use plumb_assembly::history::Committed;
use plumb_assembly::{Settings, components};
use plumb_core::column::{Column, DataType};
use plumb_core::entity::EntityKey;
use plumb_offline_parquet::ParquetArchive;
use plumb_pipeline::commit::read_component;
use plumb_pipeline::decode::time::format_rfc3339;
use plumb_pipeline::near::{near_names, quoted};
use plumb_pipeline::offline::{AtRequest, Labels, Selection, at};
use plumb_pipeline::port::ObjectStore;
use plumb_pipeline::query::Position;
use plumb_serve_http::told::{Batch, View, Views};
use plumb_transform::Transform;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Entities asked for in one request.
const ENTITIES_PER_REQUEST: usize = 200;

/// So many entities at most are looked for in the archive at once.
const ENTITIES_PER_SCAN: usize = 20_000;

/// How often the manifests are looked at for a commit that is waited for.
const LOOK: Duration = Duration::from_millis(100);

/// The columns to compare and what was seen on the way.
#[derive(Debug, Default)]
pub(crate) struct Sampled {
    /// As served, a column per feature.
    pub(crate) online: Vec<Column>,
    /// From the archive.
    pub(crate) offline: Vec<Column>,
    /// How many entities were answered from state.
    pub(crate) from_state: u64,
}

/// The views of the running service.
pub(crate) fn registry(client: &Client) -> Result<Vec<View>> {
    Ok(client.read::<Views>("GET /registry", &client.get("/registry")?)?.views)
}

/// The active views of an entity, loaded from the components the job keeps.
pub(crate) fn active_transforms(
    client: &Client,
    settings: &Settings,
    store: &dyn ObjectStore,
    entity: &str,
) -> Result<Vec<Transform>> {
    let engine = components::engine()?;
    let (mut transforms, mut entities) = (Vec::new(), Vec::new());
    for entry in registry(client)? {
        if entry.entity.name == entity {
            let component = read_component(store, &entry.digest)?;
            transforms.push(components::bind(&engine.load(&component)?, settings)?);
        }
        entities.push(entry.entity.name);
    }
    if transforms.is_empty() {
        entities.sort_unstable();
        entities.dedup();
        let near = near_names(entity, entities.iter().map(String::as_str));
        let hint = match near.is_empty() {
            true => format!("there are {}", quoted(entities.iter().map(String::as_str))),
            false => format!("did you mean {}?", quoted(near.iter().map(String::as_str))),
        };
        return Err(usage(format!("--entity {entity}: no active view has this entity; {hint}")));
    }
    Ok(transforms)
}

/// How the archive gets as far as the answers.
#[derive(Debug)]
pub(crate) struct Commits<'a> {
    /// Commits when asked to; `None` = other processes commit by themselves.
    pub(crate) admin: Option<&'a Client>,
    /// How long that may take.
    pub(crate) patience: Duration,
}

/// How long others may take to commit: two of their intervals, and the time of one that takes over.
pub(crate) fn patience(settings: &Settings) -> Duration {
    2 * settings.run.commit_interval + Duration::from_secs(60)
}

impl Commits<'_> {
    /// Commits what was applied, where this is for us to ask.
    pub(crate) fn ask(&self) -> Result<()> {
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

/// What is compared.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    /// The entity's name.
    pub(crate) entity: &'a str,
    /// `view:feature` of each feature of the selection, in order.
    pub(crate) features: &'a [String],
    /// The same features.
    pub(crate) selection: &'a Selection,
    /// The instant T, µs.
    pub(crate) at_us: i64,
}

/// Where it is compared.
#[derive(Clone, Copy)]
pub(crate) struct Sides<'a> {
    /// Serves.
    pub(crate) client: &'a Client,
    /// How the archive gets as far as the answers.
    pub(crate) commits: &'a Commits<'a>,
    /// The store of the archive.
    pub(crate) store: &'a Arc<dyn ObjectStore>,
}

/// The names of the features of a selection, in order, as `view:feature`.
pub(crate) fn feature_names(selection: &Selection) -> Vec<String> {
    let name = |&(view, feature): &(usize, usize)| {
        let view = &selection.views[view];
        let def = view.transform.def();
        format!("{}:{}", def.name, def.features[view.features[feature]].name)
    };
    selection.order.iter().map(name).collect()
}

const BATCH: &str = "POST /features/batch";

/// How often a batch is asked again that was answered from several positions, and how long to wait in between.
const POSITION_TRIES: usize = 100;
const POSITION_PAUSE: Duration = Duration::from_millis(20);

/// The position of all results of a batch; `None` if they have several.
fn one_position(client: &Client, batch: &Batch) -> Result<Option<Position>> {
    let token = &batch.results.first().context("a batch without requests was asked for")?.position;
    let position =
        Position::parse(token).map_err(|error| client.unexpected(BATCH, &format!("`results[0].position`: {error}")))?;
    let one = position.views.is_empty() && batch.results.iter().all(|result| result.position == *token);
    Ok(one.then_some(position))
}

/// Entities that were served at one position, not looked for in the archive yet.
struct Waiting {
    position: Position,
    keys: Vec<Column>,
    rows: usize,
}

impl Asked<'_> {
    /// Asks for these entities, and computes the same from the archive; `done` is told how many are ready.
    pub(crate) fn compare(&self, sides: Sides<'_>, keys: &[EntityKey], done: &dyn Fn(usize)) -> Result<Sampled> {
        let mut all = Sampled::default();
        let mut waiting: Option<Waiting> = None;
        for keys in keys.chunks(ENTITIES_PER_REQUEST) {
            let key_columns = self.serve(sides.client, keys, &mut all)?;
            let (position, key_columns) = key_columns;
            // What was served at one position is looked for at once: a scan of the archive is the larger part.
            match &mut waiting {
                Some(before) if before.position == position && before.rows < ENTITIES_PER_SCAN => {
                    before.keys.iter_mut().zip(&key_columns).for_each(|(all, column)| all.append(column));
                    before.rows += keys.len();
                }
                _ => {
                    let next = Waiting { position, keys: key_columns, rows: keys.len() };
                    if let Some(before) = waiting.replace(next) {
                        self.look_up(sides, before, &mut all, done)?;
                    }
                }
            }
        }
        if let Some(last) = waiting {
            self.look_up(sides, last, &mut all, done)?;
        }
        Ok(all)
    }

    /// Asks for entities, at one position; returns it with their keys.
    fn serve(&self, client: &Client, keys: &[EntityKey], all: &mut Sampled) -> Result<(Position, Vec<Column>)> {
        let fields = &self.selection.views[0].transform.def().entity.key;
        let mut key_columns = vec![Column::new(&DataType::Utf8); fields.len()];
        let mut requests = Vec::with_capacity(keys.len());
        for key in keys {
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
            let answer: Batch = client.read(BATCH, &client.post("/features/batch", &body)?)?;
            if answer.results.len() != keys.len() {
                let what = format!("`results`: {} for {} requests", answer.results.len(), keys.len());
                return Err(client.unexpected(BATCH, &what).into());
            }
            match one_position(client, &answer)? {
                Some(position) => break (answer, position),
                // A publish was under way in a store that shows it part by part: soon it is all there.
                None if tries < POSITION_TRIES => std::thread::sleep(POSITION_PAUSE),
                None => anyhow::bail!("the online store is never at one position; is a part of it out of reach?"),
            }
            tries += 1;
        };
        if all.online.is_empty() {
            all.online = self.types().iter().map(Column::new).collect();
        }
        for (at, result) in answer.results.iter().enumerate() {
            for (feature, column) in self.features.iter().zip(&mut all.online) {
                let wrong =
                    |what: &str| client.unexpected(BATCH, &format!("`results[{at}].features.{feature}`: {what}"));
                let value = result.features.get(feature).ok_or_else(|| wrong("it is missing"))?;
                push_json(column, value).map_err(|error| wrong(&error.to_string()))?;
            }
            all.from_state += u64::from(result.views.values().all(|view| view.source == "online"));
        }
        Ok((position, key_columns))
    }

    fn types(&self) -> Vec<DataType> {
        let of = |&(view, feature): &(usize, usize)| {
            let view = &self.selection.views[view];
            view.transform.def().features[view.features[feature]].data_type.clone()
        };
        self.selection.order.iter().map(of).collect()
    }

    /// Computes entities from the archive at the position that they were served at.
    fn look_up(&self, sides: Sides<'_>, asked: Waiting, all: &mut Sampled, done: &dyn Fn(usize)) -> Result<()> {
        sides.commits.ask()?;
        let store = sides.store.as_ref();
        let fields = &self.selection.views[0].transform.def().entity.key;
        let mut scans = BTreeMap::new();
        for source in self.selection.by_source().into_keys() {
            let wanted = asked.position.source(source)?;
            scans.insert(source.to_owned(), sides.commits.covering(store, source, wanted)?.scan(Some(wanted)));
        }
        let rows =
            Labels { times_us: vec![self.at_us; asked.rows], keys: fields.iter().cloned().zip(asked.keys).collect() };
        let archive = ParquetArchive::new(sides.store.clone());
        let views = at(&archive, &scans, AtRequest { selection: self.selection, rows: &rows, max_age_us: None })?;
        if all.offline.is_empty() {
            all.offline = self.types().iter().map(Column::new).collect();
        }
        for (column, &(view, feature)) in all.offline.iter_mut().zip(&self.selection.order) {
            column.append(&views[view].features[feature]);
        }
        done(asked.rows);
        Ok(())
    }
}
