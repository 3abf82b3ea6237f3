//! What somebody who asked would have noticed: the first feature of an entity that was answered otherwise.

use super::report::FirstChanged;
use super::work::{Materializer, Unit};
use crate::Result;
use crate::decode::time::format_rfc3339;
use crate::offline::Status;
use crate::port::{OnlinePartial, OnlineRead};
use crate::query::Value;
use crate::worker::{Difference, Replaced};
use plumb_core::entity::EntityKey;
use plumb_core::global::{self, Distribution, GlobalPartial, global_key};
use plumb_core::read::{AggregateBatch, Partial, Reach, tiles_needed};
use plumb_transform::Transform;
use serde_json::Value as Json;
use std::sync::Arc;

impl Materializer {
    /// What an entity that was held otherwise was answered with, and what it is now.
    pub(super) fn describe(&self, unit: &Unit, difference: &Difference, replaced: &Replaced) -> Result<FirstChanged> {
        let def = unit.view.def();
        let parts = difference.key.parts(def.entity.key.len()).unwrap_or_default();
        let mut first = FirstChanged {
            key: parts.into_iter().map(|part| String::from_utf8_lossy(part).into_owned()).collect(),
            partition: unit.partition,
            in_memory: difference.in_memory,
            online: difference.online,
            feature: None,
            before: None,
            after: None,
        };
        let as_of_us = replaced.newest_us.map_or(0, |newest_us| newest_us.saturating_add(1));
        let (others, ranks) = match self.others(unit, &difference.key, as_of_us) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "cannot read an entity that was held otherwise, to say what was answered");
                return Ok(first);
            }
        };
        let now = difference.rebuilt.clone().into_partial(unit.partition);
        let features = |own: Option<&OnlinePartial>| -> Result<Answered> {
            let partials = others.iter().chain(own);
            answered(&unit.view, as_of_us, partials, &ranks)
        };
        let before = features(difference.held.as_ref()).unwrap_or_else(|error| Answered::Not(error.to_string()));
        let after = features(Some(&now)).unwrap_or_else(|error| Answered::Not(error.to_string()));
        let names = def.features.iter().map(|feature| feature.name.as_str());
        if let Some((name, before, after)) = before.first_other(&after, names) {
            first.feature = Some(format!("{}:{name}", def.name));
            (first.before, first.after) = (Some(before), Some(after));
        }
        Ok(first)
    }

    /// What the other partitions hold of an entity, and the distributions that its ranks are among.
    fn others(
        &self,
        unit: &Unit,
        key: &EntityKey,
        as_of_us: i64,
    ) -> Result<(Vec<OnlinePartial>, Vec<Arc<Distribution>>)> {
        let (view, plan) = (&unit.view, unit.view.plan());
        let read = |key: EntityKey, tiles| OnlineRead {
            entity: view.def().entity.name.as_str().into(),
            state_id: view.state_id(),
            key,
            tiles,
        };
        let mut reads = vec![read(key.clone(), tiles_needed(plan, as_of_us))];
        for (index, def) in plan.globals.iter().enumerate() {
            reads.push(read(global_key(index), global::tiles_needed(def, as_of_us)));
        }
        let mut answer =
            self.parts.online.read(&unit.source, &self.roster.of(&unit.source), &reads)?.entities.into_iter();
        let others = answer.next().map_or_else(Vec::new, |entity| entity.partials);
        let others = others.into_iter().filter(|partial| partial.partition != unit.partition).collect();
        let mut ranks = Vec::with_capacity(plan.globals.len());
        for (def, entity) in plan.globals.iter().zip(answer) {
            let decode = |partial: &OnlinePartial| {
                let tiles = partial.tiles.iter().map(|(&start_us, bytes)| (start_us, bytes.as_slice()));
                GlobalPartial::decode(def, as_of_us, &partial.header, tiles)
            };
            let partials = entity.partials.iter().map(decode).collect::<plumb_core::Result<Vec<_>>>()?;
            ranks.push(Arc::new(Distribution::merge(def, as_of_us, &partials).unwrap_or_default()));
        }
        Ok((others, ranks))
    }
}

/// Values of a view's features, or why there are none.
enum Answered {
    Features(Vec<Value>),
    Not(String),
}

impl Answered {
    /// The first feature with another value, with both.
    fn first_other<'a>(&self, other: &Self, names: impl Iterator<Item = &'a str>) -> Option<(&'a str, Json, Json)> {
        let value = |answered: &Self, at: usize| match answered {
            Answered::Features(values) => values.get(at).map_or(Json::Null, json),
            Answered::Not(why) => format!("({why})").into(),
        };
        let both = |(at, name)| (name, value(self, at), value(other, at));
        names.enumerate().map(both).find(|(_, before, after)| before != after)
    }
}

/// A value as answers have it.
fn json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::I64(number) => (*number).into(),
        Value::F64(number) => (*number).into(),
        Value::Bool(truth) => (*truth).into(),
        Value::Utf8(text) => text.as_str().into(),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into(),
        Value::Timestamp(us) => format_rfc3339(*us).into(),
        Value::List(values) => values.iter().map(json).collect(),
        Value::Default(value) => Json::clone(value),
    }
}

fn answered<'a>(
    view: &Transform,
    as_of_us: i64,
    partials: impl Iterator<Item = &'a OnlinePartial>,
    ranks: &[Arc<Distribution>],
) -> Result<Answered> {
    let plan = view.plan();
    let decode = |partial: &OnlinePartial| {
        let tiles = partial.tiles.iter().map(|(&start_us, bytes)| (start_us, bytes.as_slice()));
        Partial::decode_at(plan, as_of_us, &partial.header, tiles)
    };
    let partials = match partials.map(decode).collect::<plumb_core::Result<Vec<_>>>() {
        Ok(partials) => partials,
        Err(error) => return Ok(Answered::Not(format!("unreadable ({error})"))),
    };
    if !partials.iter().any(|partial| partial.first_us() < as_of_us) {
        return Ok(Answered::Not("not found".into()));
    }
    let mut batch = AggregateBatch::new(plan);
    if batch.push(plan, as_of_us, &partials, ranks)? == Reach::BelowFloor {
        return Ok(Answered::Not("answered from the archive".into()));
    }
    if Status::is_outside_max_age(batch.newest_us[0], as_of_us, view.def().ttl_us) {
        return Ok(Answered::Not("outside max age".into()));
    }
    let finalized = view.finalize(&batch.as_of_us, &batch.columns);
    if let Some(fault) = finalized.faults.into_iter().next() {
        return Ok(Answered::Not(format!("error ({})", fault.reason)));
    }
    Ok(Answered::Features(finalized.features.iter().map(|column| Value::of(column, 0)).collect()))
}
