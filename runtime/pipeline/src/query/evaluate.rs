//! The evaluator: which views are asked of which entities, and one read of the online store for all of them.

use super::position::{Position, further};
use super::ranks::{RankCache, RankKey};
use super::request::{Query, QueryError, Request};
use super::select::{self, Bound, Defaults};
use super::serving::{History, ServingSet, Views};
use super::work::{Reads, Works, tiles_of};
use super::{Answer, Status};
use crate::clock::Clock;
use crate::port::{OnlineAnswer, OnlineEntity, OnlineRead, OnlineStore};
use plumb_core::global::{self, Distribution, GlobalPartial, global_key};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How often a query is begun again when the views were swapped under it.
const SWAP_RETRIES: usize = 3;

/// How often a source is read again whose keys and ranks were at different positions, and the first pause; each is
/// twice the one before. A publish in parts takes some milliseconds.
const TORN_RETRIES: usize = 5;
const TORN_PAUSE: Duration = Duration::from_millis(2);

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
            let rows: Vec<usize> = (0..work.rows.len()).collect();
            let known = works.position.sources.get(source);
            match position {
                Some(position) => {
                    let below = position.view(&view.name, source)?;
                    work.ask_history(self.history.as_ref(), view, &rows, Some(&below))?;
                    works.position.sources.insert(source.clone(), position.source(source)?.clone());
                    let name = (view.name.to_string(), source.clone());
                    works.position.views.extend(position.views.get(&name).map(|own| (name, own.clone())));
                }
                // The first view of a source decides what "all" is for the others.
                None => {
                    let answered = work.ask_history(self.history.as_ref(), view, &rows, known)?;
                    works.position.sources.insert(source.clone(), answered);
                }
            }
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
                    work.note_progress(&answer, &reads);
                    let below = work.read_state(view, &answer, &mut reads)?;
                    for (ahead, rows) in work.by_position(&below) {
                        let position = further(&position, &ahead);
                        work.ask_history(self.history.as_ref(), view, &rows, Some(&position))?;
                    }
                }
            }
            works.position.sources.insert(source.to_owned(), position);
        }
        Ok(works)
    }

    /// Reads all views of a source. A store that is being published to in parts may show keys and their ranks at
    /// different positions; then it is read again, a little later each time.
    fn read(
        &self,
        set: &ServingSet,
        source: &str,
        indices: &[usize],
        works: &Works,
    ) -> Result<(OnlineAnswer, Reads), QueryError> {
        let mut pause = TORN_PAUSE;
        for _ in 0..TORN_RETRIES {
            let (answer, reads) = self.read_once(set, source, indices, works)?;
            let torn = indices.iter().any(|&index| !works.views[index].torn(&answer, &reads).is_empty());
            if !torn {
                return Ok((answer, reads));
            }
            std::thread::sleep(pause);
            pause *= 2;
        }
        self.read_once(set, source, indices, works)
    }

    /// One read for all views of a source; a second one only if the ranks at hand turn out to be older or newer.
    fn read_once(
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
            // These ranks are of the positions of the whole.
            reads.rank_aheads = wanted.iter().map(|&(view, _)| (view, Some(BTreeMap::new()))).collect();
            let fits = |&index: &usize| works.views[index].torn(&answer, &reads).is_empty();
            if answer.positions == *positions && indices.iter().all(fits) {
                reads.ranks = ranks;
                return Ok((answer, reads));
            }
            reads.rank_aheads.clear();
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
            let OnlineEntity { partials: found, ahead, lost } = std::mem::take(&mut answer.entities[place]);
            let positions = if ahead.is_empty() { positions.clone() } else { Arc::new(overlaid(&positions, &ahead)) };
            let same = match reads.rank_aheads.get(&view) {
                Some(known) => known.as_ref() == Some(&ahead),
                None => true,
            };
            reads.rank_aheads.insert(view, (same && !lost).then_some(ahead));
            if lost {
                reads.lost.insert(view);
                continue;
            }
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

/// Positions with those that a part of the store is ahead by.
fn overlaid(positions: &BTreeMap<u32, Option<u64>>, ahead: &BTreeMap<u32, u64>) -> BTreeMap<u32, Option<u64>> {
    let mut overlaid = positions.clone();
    overlaid.extend(ahead.iter().map(|(&partition, &offset)| (partition, Some(offset))));
    overlaid
}
