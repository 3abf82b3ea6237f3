//! What a query asks of each view: its keys and rows, what was read of them, and their answers.

use super::ranks::{RankKey, Ranks};
use super::request::QueryError;
use super::select::{Bound, Defaults};
use super::serving::{History, HistoryRows, ServingSet, ServingView};
use super::{Answer, EntityAnswer, Position, ReadSource, Status, Value, ViewAnswer};
use crate::offline;
use crate::port::{OnlineAnswer, OnlinePartial, OnlineRead};
use hashbrown::HashMap;
use plumb_core::column::Column;
use plumb_core::entity::EntityKey;
use plumb_core::global::Distribution;
use plumb_core::plan::Plan;
use plumb_core::read::{AggregateBatch, Partial, Reach, tiles_needed};
use plumb_core::time::floor_to;
use rustc_hash::FxBuildHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) fn tiles_of(partial: &OnlinePartial) -> impl Iterator<Item = (i64, &[u8])> {
    partial.tiles.iter().map(|(&start_us, bytes)| (start_us, bytes.as_slice()))
}

/// What is read of a source for a query.
#[derive(Default)]
pub(super) struct Reads {
    pub(super) list: Vec<OnlineRead>,
    /// By view, where each of its distinct keys is in `list`.
    pub(super) of_view: HashMap<usize, usize, FxBuildHasher>,
    pub(super) ranks: Ranks,
    /// By view with ranks, by what these are ahead of the whole; `None`: not all by the same.
    pub(super) rank_aheads: HashMap<usize, Option<BTreeMap<u32, u64>>, FxBuildHasher>,
    /// The views whose ranks the store has lost.
    pub(super) lost: BTreeSet<usize>,
}

impl Reads {
    pub(super) fn add_entities(&mut self, work: &ViewWork, view: &ServingView) {
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
pub(super) struct Works {
    pub(super) views: Vec<ViewWork>,
    pub(super) position: Position,
    /// Per request and asked view its row; `None` = a null key.
    pub(super) rows: Vec<Vec<Option<usize>>>,
}

/// The rows asked of one view, and their answers.
pub(super) struct ViewWork {
    /// The view's index in the set; works are in this order and complete.
    pub(super) view: usize,
    /// Whether any request asks it, if only for a null key.
    pub(super) asked: bool,
    pub(super) ready: bool,
    /// Whether it ceased to be ready during the read.
    pub(super) lost: bool,
    /// Set if the view cannot answer now.
    pub(super) unready: Option<Status>,
    pub(super) keys: Vec<WorkKey>,
    /// (index in `keys`, T), each once.
    pub(super) rows: Vec<(usize, i64)>,
    pub(super) answers: Vec<RowAnswer>,
    /// The columns that answers point into.
    pub(super) features: Vec<Vec<Column>>,
}

pub(super) struct WorkKey {
    pub(super) key: EntityKey,
    pub(super) instants_us: Vec<i64>,
    /// What the store shows of it further than the position.
    pub(super) ahead: BTreeMap<u32, u64>,
    /// Whether the store cannot answer for it now.
    pub(super) unready: bool,
}

#[derive(Clone, Copy)]
pub(super) struct RowAnswer {
    pub(super) status: Status,
    pub(super) source: ReadSource,
    pub(super) event_time_us: Option<i64>,
    /// Index in `features`, and the row there; `None` = nulls.
    pub(super) place: Option<(usize, usize)>,
}

const NOT_FOUND: RowAnswer =
    RowAnswer { status: Status::NotFound, source: ReadSource::Online, event_time_us: None, place: None };

impl Works {
    pub(super) fn new(set: &ServingSet, bound: &[Bound]) -> Self {
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
                    let (ahead, unready) = (BTreeMap::new(), false);
                    work.keys.push(WorkKey { key: key.clone(), instants_us: Vec::new(), ahead, unready });
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

    pub(super) fn assemble(self, set: &ServingSet, bound: &[Bound], defaults: &Defaults) -> Vec<Answer> {
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
            let mut position = position.clone();
            for (asked, row) in request.views.iter().zip(rows) {
                let work = &self.views[asked.view];
                let ahead = row.map(|row| &work.keys[work.rows[row].0].ahead).filter(|ahead| !ahead.is_empty());
                if let Some(ahead) = ahead {
                    let view = &set.views[work.view];
                    let name = (view.name.to_string(), view.transform.def().source.clone());
                    Arc::make_mut(&mut position).views.insert(name, ahead.clone());
                }
            }
            Answer {
                as_of_us: request.as_of_us,
                position,
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
    pub(super) fn rank_keys(&self, plan: &Plan, state_id: plumb_core::plan::StateId) -> impl Iterator<Item = RankKey> {
        let globals = plan.globals.iter().enumerate();
        globals.flat_map(move |(index, def)| {
            self.rows.iter().map(move |&(_, as_of_us)| (state_id, index, floor_to(as_of_us, def.hop_us)))
        })
    }

    /// The keys that were read at another position than their ranks.
    pub(super) fn torn(&self, answer: &OnlineAnswer, reads: &Reads) -> Vec<usize> {
        let Some(ranks) = reads.rank_aheads.get(&self.view).filter(|_| !reads.lost.contains(&self.view)) else {
            return Vec::new();
        };
        if answer.positions.values().any(Option::is_none) {
            return Vec::new();
        }
        let first = reads.of_view.get(&self.view).copied().unwrap_or(0);
        let fits = |key: usize| ranks.as_ref() == Some(&answer.entities[first + key].ahead);
        (0..self.keys.len()).filter(|&key| !fits(key)).collect()
    }

    /// Takes over what the store says of each key: which are further than the position, which it cannot answer for.
    pub(super) fn note_progress(&mut self, answer: &OnlineAnswer, reads: &Reads) {
        let first = reads.of_view.get(&self.view).copied().unwrap_or(0);
        let torn = self.torn(answer, reads);
        let ranks_lost = reads.lost.contains(&self.view);
        for (index, key) in self.keys.iter_mut().enumerate() {
            let entity = &answer.entities[first + index];
            key.unready = entity.lost || ranks_lost || torn.binary_search(&index).is_ok();
            if !key.unready {
                key.ahead.clone_from(&entity.ahead);
            }
        }
    }

    /// Rows by what their keys are ahead.
    pub(super) fn by_position(&self, rows: &[usize]) -> BTreeMap<BTreeMap<u32, u64>, Vec<usize>> {
        let mut groups: BTreeMap<BTreeMap<u32, u64>, Vec<usize>> = BTreeMap::new();
        for &row in rows {
            groups.entry(self.keys[self.rows[row].0].ahead.clone()).or_default().push(row);
        }
        groups
    }

    /// Answers what state reaches; returns the other rows.
    pub(super) fn read_state(
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
            if self.keys[key].unready {
                self.answers[row] = RowAnswer { status: Status::Rebuilding, ..NOT_FOUND };
                continue;
            }
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
    pub(super) fn ask_history(
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
