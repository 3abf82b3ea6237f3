//! The evaluator: reads, windows, `finalize`, assembly of answers.

use super::ranks::{RankCache, RankKey, Ranks};
use super::request::{Query, QueryError, Request};
use super::select::{self, Bound, Defaults};
use super::serving::{History, HistoryRows, ServingSet, ServingView, Views};
use super::{Answer, EntityAnswer, Position, ReadSource, Status, Value, ViewAnswer};
use crate::clock::Clock;
use crate::offline;
use crate::port::{OnlineAnswer, OnlinePartial, OnlineRead, OnlineStore};
use hashbrown::HashMap;
use plumb_core::column::Column;
use plumb_core::entity::EntityKey;
use plumb_core::global::{self, Distribution, GlobalPartial, global_key};
use plumb_core::plan::Plan;
use plumb_core::read::{AggregateBatch, Partial, Reach, tiles_needed};
use plumb_core::time::floor_to;
use rustc_hash::FxBuildHasher;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How often a query is begun again when the views were swapped under it.
const SWAP_RETRIES: usize = 3;

/// Answers feature requests.
pub struct Evaluator {
    views: Arc<dyn Views>,
    store: Arc<dyn OnlineStore>,
    history: Arc<dyn History>,
    clock: Arc<dyn Clock>,
    ranks: RankCache,
}

impl std::fmt::Debug for Evaluator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evaluator").finish_non_exhaustive()
    }
}

impl Evaluator {
    /// An evaluator; `clock` gives the default T and the latest allowed.
    pub fn new(
        views: Arc<dyn Views>,
        store: Arc<dyn OnlineStore>,
        history: Arc<dyn History>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { views, store, history, clock, ranks: RankCache::default() }
    }

    /// Answers requests together: one instant unless a request has its own, one read of each source's state.
    pub fn query(&self, query: &Query) -> Result<Vec<Answer>, QueryError> {
        let now_us = self.clock.now_us();
        let mut tries = 0;
        loop {
            let current = self.views.current();
            let set = current.set.as_ref();
            let defaults = select::defaults(set, &query.defaults)?;
            let bind = |(index, request): (usize, &Request)| {
                let in_batch = |error| QueryError::InBatch { index, error: Box::new(error) };
                select::bind(set, request, now_us).map_err(in_batch)
            };
            let bound: Vec<Bound> = query.requests.iter().enumerate().map(bind).collect::<Result<_, _>>()?;
            let works = self.online(set, &bound)?;
            tries += 1;
            // A view that ceased to answer while it was read has been replaced: its successor answers.
            let swapped =
                works.views.iter().any(|work| work.lost) && !Arc::ptr_eq(&current.set, &self.views.current().set);
            if swapped && tries <= SWAP_RETRIES {
                continue;
            }
            let answers = works.assemble(set, &bound, &defaults);
            let mut asked = answers.iter().flat_map(|answer| &answer.views).peekable();
            if asked.peek().is_some() && asked.all(|view| view.status == Status::Rebuilding) {
                return Err(QueryError::Rebuilding);
            }
            return Ok(answers);
        }
    }

    /// Answers a request from the archive, at a position or with all that was accepted.
    pub fn history(&self, request: &Request, position: Option<&Position>) -> Result<Answer, QueryError> {
        let current = self.views.current();
        let set = current.set.as_ref();
        let bound = vec![select::bind(set, request, self.clock.now_us())?];
        let mut works = Works::new(set, &bound);
        for work in works.views.iter_mut().filter(|work| !work.rows.is_empty() || work.asked) {
            let view = &set.views[work.view];
            let source = &view.transform.def().source;
            // The first view of a source decides what "all" is for the others.
            let known = works.position.sources.get(source);
            let below = match (known, position) {
                (Some(known), _) => Some(known),
                (None, Some(position)) => Some(position.source(source)?),
                (None, None) => None,
            };
            let rows: Vec<usize> = (0..work.rows.len()).collect();
            let answered = work.ask_history(self.history.as_ref(), view, &rows, below)?;
            works.position.sources.insert(source.clone(), answered);
        }
        let mut answers = works.assemble(set, &bound, &Defaults::new());
        answers.pop().ok_or_else(|| QueryError::Invalid("nothing was asked".into()))
    }

    /// Fills the rows of all asked views from the online store.
    fn online(&self, set: &ServingSet, bound: &[Bound]) -> Result<Works, QueryError> {
        let mut works = Works::new(set, bound);
        let mut by_source: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, work) in works.views.iter_mut().enumerate().filter(|(_, work)| work.asked) {
            work.ready = set.views[work.view].is_ready();
            by_source.entry(&set.views[work.view].transform.def().source).or_default().push(index);
        }
        for (source, indices) in by_source {
            let (answer, mut reads) = self.read(set, source, &indices, &works)?;
            let all_there = set.partitions[source]
                .iter()
                .all(|partition| answer.positions.get(partition).is_some_and(Option::is_some));
            let known = answer.positions.iter().filter_map(|(&partition, &offset)| Some((partition, offset?)));
            let position: BTreeMap<u32, u64> = known.collect();
            for index in indices {
                let work = &mut works.views[index];
                let view = &set.views[work.view];
                work.lost = work.ready && !view.is_ready();
                work.unready = match (all_there, work.ready && !work.lost) {
                    (false, _) => Some(Status::Rebuilding),
                    (true, false) => Some(Status::Warming),
                    (true, true) => None,
                };
                if work.unready.is_none() {
                    let below = work.read_state(view, &answer, &mut reads)?;
                    if !below.is_empty() {
                        work.ask_history(self.history.as_ref(), view, &below, Some(&position))?;
                    }
                }
            }
            works.position.sources.insert(source.to_owned(), position);
        }
        Ok(works)
    }

    /// One read for all views of a source; a second one only if the ranks at hand turn out to be older or newer.
    fn read(
        &self,
        set: &ServingSet,
        source: &str,
        indices: &[usize],
        works: &Works,
    ) -> Result<(OnlineAnswer, Reads), QueryError> {
        let partitions = &set.partitions[source];
        let mut reads = Reads::default();
        let mut wanted: Vec<(usize, RankKey)> = Vec::new();
        for &index in indices {
            let work = &works.views[index];
            if work.ready {
                let transform = &set.views[work.view].transform;
                reads.add_entities(work, &set.views[work.view]);
                wanted.extend(work.rank_keys(transform.plan(), transform.state_id()).map(|key| (work.view, key)));
            }
        }
        wanted.sort_unstable();
        wanted.dedup();
        let keys: Vec<RankKey> = wanted.iter().map(|&(_, key)| key).collect();
        if let Some((positions, ranks)) = self.ranks.get(&keys) {
            let answer = self.store.read(source, partitions, &reads.list)?;
            if answer.positions == *positions {
                reads.ranks = ranks;
                return Ok((answer, reads));
            }
        }
        let entities = reads.list.len();
        let mut places: Vec<usize> = Vec::with_capacity(wanted.len());
        for &(view, (state_id, index, instant_us)) in &wanted {
            let def = &set.views[view].transform.plan().globals[index];
            places.push(reads.list.len());
            let tiles = global::tiles_needed(def, instant_us);
            let entity = set.views[view].entity.clone();
            reads.list.push(OnlineRead { entity, state_id, key: global_key(index), tiles });
        }
        let mut answer = self.store.read(source, partitions, &reads.list)?;
        let positions = Arc::new(answer.positions.clone());
        for (&(view, key), place) in wanted.iter().zip(places) {
            let def = &set.views[view].transform.plan().globals[key.1];
            let found = std::mem::take(&mut answer.entities[place].partials);
            if let Some(distribution) = self.ranks.made_from(key, &positions, &found) {
                reads.ranks.insert(key, distribution);
                continue;
            }
            let partials: Vec<GlobalPartial> = found
                .iter()
                .map(|partial| GlobalPartial::decode(def, key.2, &partial.header, tiles_of(partial)))
                .collect::<Result<_, _>>()
                .map_err(crate::Error::from)?;
            let distribution = Distribution::merge(def, key.2, &partials).map(Arc::new);
            self.ranks.put(key, positions.clone(), found, distribution.clone());
            reads.ranks.insert(key, distribution);
        }
        reads.list.truncate(entities);
        Ok((answer, reads))
    }
}

fn tiles_of(partial: &OnlinePartial) -> impl Iterator<Item = (i64, &[u8])> {
    partial.tiles.iter().map(|(&start_us, bytes)| (start_us, bytes.as_slice()))
}

/// What is read of a source for a query.
#[derive(Default)]
struct Reads {
    list: Vec<OnlineRead>,
    /// By view, where each of its distinct keys is in `list`.
    of_view: HashMap<usize, usize, FxBuildHasher>,
    ranks: Ranks,
}

impl Reads {
    fn add_entities(&mut self, work: &ViewWork, view: &ServingView) {
        let (entity, state_id, plan) = (&view.entity, view.transform.state_id(), view.transform.plan());
        self.of_view.insert(work.view, self.list.len());
        // Rows of one instant need the same tiles.
        let mut last: Option<(i64, Vec<i64>)> = None;
        for key in &work.keys {
            let mut tiles: Vec<i64> = Vec::new();
            for &as_of_us in &key.instants_us {
                if last.as_ref().is_none_or(|(instant_us, _)| *instant_us != as_of_us) {
                    last = Some((as_of_us, tiles_needed(plan, as_of_us)));
                }
                tiles.extend(last.iter().flat_map(|(_, tiles)| tiles));
            }
            if key.instants_us.len() > 1 {
                tiles.sort_unstable();
                tiles.dedup();
            }
            self.list.push(OnlineRead { entity: entity.clone(), state_id, key: key.key.clone(), tiles });
        }
    }
}

/// All asked views of a query, and the position they are answered at.
struct Works {
    views: Vec<ViewWork>,
    position: Position,
    /// Per request and asked view its row; `None` = a null key.
    rows: Vec<Vec<Option<usize>>>,
}

/// The rows asked of one view, and their answers.
struct ViewWork {
    /// The view's index in the set; works are in this order and complete.
    view: usize,
    /// Whether any request asks it, if only for a null key.
    asked: bool,
    ready: bool,
    /// Whether it ceased to be ready during the read.
    lost: bool,
    /// Set if the view cannot answer now.
    unready: Option<Status>,
    keys: Vec<WorkKey>,
    /// (index in `keys`, T), each once.
    rows: Vec<(usize, i64)>,
    answers: Vec<RowAnswer>,
    /// The columns that answers point into.
    features: Vec<Vec<Column>>,
}

struct WorkKey {
    key: EntityKey,
    instants_us: Vec<i64>,
}

#[derive(Clone, Copy)]
struct RowAnswer {
    status: Status,
    source: ReadSource,
    event_time_us: Option<i64>,
    /// Index in `features`, and the row there; `None` = nulls.
    place: Option<(usize, usize)>,
}

const NOT_FOUND: RowAnswer =
    RowAnswer { status: Status::NotFound, source: ReadSource::Online, event_time_us: None, place: None };

impl Works {
    fn new(set: &ServingSet, bound: &[Bound]) -> Self {
        let work = |view| ViewWork {
            view,
            asked: false,
            ready: true,
            lost: false,
            unready: None,
            keys: Vec::new(),
            rows: Vec::new(),
            answers: Vec::new(),
            features: Vec::new(),
        };
        let mut views: Vec<ViewWork> = (0..set.views.len()).map(work).collect();
        let mut known: HashMap<(usize, &EntityKey), usize, FxBuildHasher> = HashMap::default();
        let mut known_rows: HashMap<(usize, usize, i64), usize, FxBuildHasher> = HashMap::default();
        let mut rows = Vec::with_capacity(bound.len());
        for request in bound {
            let mut of_request = Vec::with_capacity(request.views.len());
            for asked in &request.views {
                let work = &mut views[asked.view];
                work.asked = true;
                let Some(key) = &asked.key else {
                    of_request.push(None);
                    continue;
                };
                let key = *known.entry((asked.view, key)).or_insert_with(|| {
                    work.keys.push(WorkKey { key: key.clone(), instants_us: Vec::new() });
                    work.keys.len() - 1
                });
                let row = *known_rows.entry((asked.view, key, request.as_of_us)).or_insert_with(|| {
                    work.keys[key].instants_us.push(request.as_of_us);
                    work.rows.push((key, request.as_of_us));
                    work.rows.len() - 1
                });
                of_request.push(Some(row));
            }
            rows.push(of_request);
        }
        for work in &mut views {
            work.answers = vec![NOT_FOUND; work.rows.len()];
        }
        Self { views, position: Position::default(), rows }
    }

    fn assemble(self, set: &ServingSet, bound: &[Bound], defaults: &Defaults) -> Vec<Answer> {
        let position = Arc::new(self.position);
        let assemble = |(request, rows): (&Bound, &Vec<Option<usize>>)| {
            let answer = |at: usize| -> (&ServingView, &ViewWork, RowAnswer) {
                let work = &self.views[request.views[at].view];
                let mut answer = rows[at].map_or(NOT_FOUND, |row| work.answers[row]);
                if let Some(status) = work.unready {
                    answer = RowAnswer { status, ..NOT_FOUND };
                }
                (&set.views[work.view], work, answer)
            };
            let feature = |&(at, index): &(usize, usize)| {
                let (view, work, answer) = answer(at);
                let mut value =
                    answer.place.map_or(Value::Null, |(part, row)| Value::of(&work.features[part][index], row));
                if value == Value::Null
                    && let Some(default) = defaults.get(&(work.view, index))
                {
                    value = Value::Default(default.clone());
                }
                (view.features[index].clone(), value)
            };
            let mut entities: Vec<EntityAnswer> = Vec::new();
            let mut views: Vec<ViewAnswer> = Vec::with_capacity(request.views.len());
            for at in 0..request.views.len() {
                let (view, _, RowAnswer { status, source, event_time_us, .. }) = answer(at);
                views.push(ViewAnswer { view: view.name.clone(), version: view.version.clone(), status, source });
                match entities.iter_mut().find(|known| known.entity == view.entity) {
                    Some(known) => {
                        if status == Status::Found {
                            known.status = status;
                        }
                        known.event_time_us = known.event_time_us.max(event_time_us);
                    }
                    None => entities.push(EntityAnswer { entity: view.entity.clone(), status, event_time_us }),
                }
            }
            Answer {
                as_of_us: request.as_of_us,
                position: position.clone(),
                features: request.features.iter().map(feature).collect(),
                entities,
                views,
            }
        };
        bound.iter().zip(&self.rows).map(assemble).collect()
    }
}

impl ViewWork {
    /// The distributions its rows need.
    fn rank_keys(&self, plan: &Plan, state_id: plumb_core::plan::StateId) -> impl Iterator<Item = RankKey> {
        let globals = plan.globals.iter().enumerate();
        globals.flat_map(move |(index, def)| {
            self.rows.iter().map(move |&(_, as_of_us)| (state_id, index, floor_to(as_of_us, def.hop_us)))
        })
    }

    /// Answers what state reaches; returns the other rows.
    fn read_state(
        &mut self,
        view: &ServingView,
        answer: &OnlineAnswer,
        reads: &mut Reads,
    ) -> Result<Vec<usize>, QueryError> {
        let plan = view.transform.plan();
        let state_id = view.transform.state_id();
        let first = reads.of_view.get(&self.view).copied().unwrap_or(0);
        let mut below = Vec::new();
        let mut batch = AggregateBatch::new(plan);
        // Per row of the batch the row it answers.
        let mut answered: Vec<usize> = Vec::with_capacity(self.rows.len());
        let mut decoded: Vec<Option<Vec<Partial>>> = self.keys.iter().map(|_| None).collect();
        for (row, &(key, as_of_us)) in self.rows.iter().enumerate() {
            if decoded[key].is_none() {
                let only_us = (self.keys[key].instants_us.len() == 1).then_some(as_of_us);
                decoded[key] = Some(decode(plan, &answer.entities[first + key].partials, only_us)?);
            }
            let partials = decoded[key].as_deref().unwrap_or_default();
            if !partials.iter().any(|partial| partial.first_us() < as_of_us) {
                continue;
            }
            let rank = |(index, def): (usize, &plumb_core::plan::GlobalDef)| {
                reads.ranks.get(&(state_id, index, floor_to(as_of_us, def.hop_us))).cloned().flatten()
            };
            let ranks: Option<Vec<Arc<Distribution>>> = plan.globals.iter().enumerate().map(rank).collect();
            let reach = match ranks {
                Some(ranks) => batch.push(plan, as_of_us, partials, &ranks).map_err(crate::Error::from)?,
                None => Reach::BelowFloor,
            };
            match reach {
                Reach::Answered => answered.push(row),
                Reach::BelowFloor => below.push(row),
            }
        }
        self.finalize(view, batch, &answered);
        Ok(below)
    }

    /// Turns aggregates into features; all rows of the batch are found.
    fn finalize(&mut self, view: &ServingView, batch: AggregateBatch, rows: &[usize]) {
        let max_age_us = view.transform.def().ttl_us;
        let mut fresh: Vec<usize> = Vec::with_capacity(rows.len());
        for (at, &row) in rows.iter().enumerate() {
            let (newest_us, as_of_us) = (batch.newest_us[at], batch.as_of_us[at]);
            let answer = &mut self.answers[row];
            answer.event_time_us = newest_us;
            if offline::Status::is_outside_max_age(newest_us, as_of_us, max_age_us) {
                answer.status = Status::OutsideMaxAge;
            } else {
                answer.status = Status::Found;
                answer.place = Some((self.features.len(), fresh.len()));
                fresh.push(at);
            }
        }
        if fresh.is_empty() {
            return;
        }
        let finalized = if fresh.len() == batch.len() {
            view.transform.finalize(&batch.as_of_us, &batch.columns)
        } else {
            let as_of_us: Vec<i64> = fresh.iter().map(|&at| batch.as_of_us[at]).collect();
            let columns: Vec<Column> = batch.columns.iter().map(|column| column.take(fresh.iter().copied())).collect();
            view.transform.finalize(&as_of_us, &columns)
        };
        for fault in finalized.faults {
            tracing::debug!(view = %view.name, reason = fault.reason, "finalize failed for an entity");
            let answer = &mut self.answers[rows[fresh[fault.row as usize]]];
            answer.status = Status::Error;
            answer.place = None;
        }
        self.features.push(finalized.features);
    }

    /// Answers rows from the archive; returns the position that was read to.
    fn ask_history(
        &mut self,
        history: &dyn History,
        view: &ServingView,
        rows: &[usize],
        position: Option<&BTreeMap<u32, u64>>,
    ) -> Result<BTreeMap<u32, u64>, QueryError> {
        let asked: Vec<(EntityKey, i64)> =
            rows.iter().map(|&row| (self.keys[self.rows[row].0].key.clone(), self.rows[row].1)).collect();
        let HistoryRows { features, event_time_us, status, position } =
            history.at(&view.transform, &asked, position)?;
        for (at, &row) in rows.iter().enumerate() {
            let place = (status[at] == Status::Found).then_some((self.features.len(), at));
            self.answers[row] =
                RowAnswer { status: status[at], source: ReadSource::Offline, event_time_us: event_time_us[at], place };
        }
        self.features.push(features);
        Ok(position)
    }
}

fn decode(plan: &Plan, partials: &[OnlinePartial], only_us: Option<i64>) -> Result<Vec<Partial>, QueryError> {
    let one = |partial: &OnlinePartial| match only_us {
        Some(as_of_us) => Partial::decode_at(plan, as_of_us, &partial.header, tiles_of(partial)),
        None => Partial::decode(plan, &partial.header, tiles_of(partial)),
    };
    let decoded: Result<Vec<Partial>, plumb_core::Error> = partials.iter().map(one).collect();
    Ok(decoded.map_err(crate::Error::from)?)
}
