//! Test aids for authors: a view over a handful of events, natively.
//!
//! [`History`] keeps every event and walks all of them for each question, by the catalogue's rules written
//! down as plainly as possible. It is no engine: nothing of plumb's state is in it, it decides nothing about
//! duplicates, late events or rejects, and it is slow. What a test asserts here is what the service answers.
//!
//! All functions panic on events that are not what they should be: a test then shows where.
#![expect(clippy::panic, reason = "the panic is the failing test's message")]

mod aggregate;
mod columns;
mod instant;

pub use instant::Instant;
pub use serde_json::{Value, json};

use crate::Error;
use crate::column::{Column, ColumnRef, Values};
use crate::definition::Type;
use crate::view::{AggregateRow, Contributions, EventRow, FeatureRow, RowError, SlotRow, View, extract, finalize};
use aggregate::Contribution;
use std::collections::BTreeMap;
use std::marker::PhantomData;

/// The field that holds an event's time: RFC 3339, or milliseconds since the epoch.
pub const TIME_FIELD: &str = "event_time";
/// The field that identifies an event; it orders events of one instant.
pub const ID_FIELD: &str = "event_id";

/// Runs `extract` on one event, given as a JSON object. The answer has one entry a slot; null = no contribution.
///
/// # Errors
/// What `extract` returned, or that a required field is null.
///
/// # Panics
/// When a field is of another type than the view declares.
pub fn extract_one<V: for<'a> View<'a>>(event: &Value) -> Result<Value, Error> {
    let columns = columns::of_events(<V as View<'static>>::Event::FIELDS, std::slice::from_ref(event));
    let output = run_extract::<V>(1, &columns);
    if let Some(error) = output.errors.into_iter().next() {
        return Err(Error::new(error.message));
    }
    let slots = <V as View<'static>>::Slots::SLOTS;
    let values = slots.iter().zip(&output.slots).map(|(slot, column)| {
        let value = match output.rows.is_empty() {
            true if slot.slot_type == Type::Mark => json!(false),
            true => Value::Null,
            false => columns::value_at(column, 0),
        };
        (slot.name.to_owned(), value)
    });
    Ok(Value::Object(values.collect()))
}

/// A view over a list of events, to be asked for features at instants.
#[derive(Debug)]
pub struct History<V> {
    /// The contributions of every event that has all key fields, by key.
    entities: BTreeMap<Vec<String>, Vec<Contribution>>,
    errors: Vec<RowError>,
    view: PhantomData<V>,
}

impl<V: for<'a> View<'a>> History<V> {
    /// Takes events, JSON objects in any order. Each needs an `event_time`; one with a null key field
    /// contributes nothing.
    ///
    /// # Panics
    /// When an event has no time, or a field of another type than the view declares.
    pub fn new(events: impl IntoIterator<Item = Value>) -> Self {
        let events: Vec<Value> = events.into_iter().collect();
        let columns = columns::of_events(<V as View<'static>>::Event::FIELDS, &events);
        let output = run_extract::<V>(events.len(), &columns);
        let key_fields = <V as View<'static>>::DEFINITION.key;
        let mut entities: BTreeMap<Vec<String>, Vec<Contribution>> = BTreeMap::new();
        for (row, event) in events.iter().enumerate() {
            let key: Option<Vec<String>> = key_fields.iter().map(|field| columns::text_of(&event[*field])).collect();
            if let Some(key) = key {
                entities.entry(key).or_default().push(Contribution {
                    time: instant::time_of_event(event),
                    id: columns::text_of(&event[ID_FIELD]),
                    slots: slots_of(&output, row),
                });
            }
        }
        for contributions in entities.values_mut() {
            contributions.sort_by(|left, right| (left.time, &left.id).cmp(&(right.time, &right.id)));
        }
        Self { entities, errors: output.errors, view: PhantomData }
    }

    /// The events of which `extract` made an error, by their place in the list.
    pub fn errors(&self) -> &[RowError] {
        &self.errors
    }

    /// The features of an entity at an instant, as a JSON object; all null when nothing of it is before that
    /// instant. The key is a string, or an object of the key fields where there are several.
    ///
    /// # Panics
    /// When the key lacks a field, or `finalize` fails; see [`History::try_at`].
    pub fn at(&self, key: impl Into<Value>, at: impl Into<Instant>) -> Value {
        match self.try_at(key, at) {
            Ok(features) => features,
            Err(error) => panic!("finalize failed: {error}"),
        }
    }

    /// The same, for views whose `finalize` may fail.
    ///
    /// # Errors
    /// What `finalize` returned.
    ///
    /// # Panics
    /// When the key lacks a field.
    pub fn try_at(&self, key: impl Into<Value>, at: impl Into<Instant>) -> Result<Value, Error> {
        let Instant(at) = at.into();
        let key = entity_key(<V as View<'static>>::DEFINITION.key, &key.into());
        let features = <V as View<'static>>::Features::FEATURES;
        let own: &[Contribution] = self.entities.get(&key).map_or(&[], Vec::as_slice);
        if !own.iter().any(|contribution| contribution.time < at) {
            return Ok(Value::Object(features.iter().map(|feature| (feature.name.to_owned(), Value::Null)).collect()));
        }
        let slots = <V as View<'static>>::Slots::SLOTS;
        let mut columns = vec![Column { validity: Vec::new(), values: Values::Timestamp(vec![at.micros()]) }];
        for aggregate in <V as View<'static>>::Aggregates::AGGREGATES {
            let slot = slots.iter().position(|slot| slot.name == aggregate.slot).expect("the derive checked the slot");
            columns.push(aggregate::evaluate(aggregate, slot, slots[slot].slot_type, own, self.entities.values(), at));
        }
        let output = run_finalize::<V>(&columns);
        if let Some(error) = output.errors.into_iter().next() {
            return Err(Error::new(error.message));
        }
        let values = output.columns.iter().map(|column| columns::value_at(column, 0));
        Ok(Value::Object(features.iter().map(|feature| feature.name.to_owned()).zip(values).collect()))
    }
}

fn run_extract<V: for<'a> View<'a>>(rows: usize, columns: &[Column]) -> Contributions {
    let columns: Vec<ColumnRef<'_>> = columns.iter().map(Column::borrow).collect();
    extract::<V>(rows, &columns).unwrap_or_else(|why| panic!("extract: {why}"))
}

fn run_finalize<V: for<'a> View<'a>>(columns: &[Column]) -> crate::view::FeatureBatch {
    let columns: Vec<ColumnRef<'_>> = columns.iter().map(Column::borrow).collect();
    finalize::<V>(1, &columns).unwrap_or_else(|why| panic!("finalize: {why}"))
}

/// What event `row` put into the slots; null where nothing.
fn slots_of(output: &Contributions, row: usize) -> Vec<Value> {
    match output.rows.binary_search(&(row as u32)) {
        Ok(at) => output.slots.iter().map(|column| columns::value_at(column, at)).collect(),
        Err(_) => vec![Value::Null; output.slots.len()],
    }
}

fn entity_key(fields: &[&str], key: &Value) -> Vec<String> {
    let part = |value: &Value, field: &str| {
        columns::text_of(value).unwrap_or_else(|| panic!("key field `{field}` is missing in {key}"))
    };
    match (fields, key) {
        (_, Value::Object(_)) => fields.iter().map(|field| part(&key[*field], field)).collect(),
        ([field], _) => vec![part(key, field)],
        _ => panic!("give the key as an object of {}", fields.join(", ")),
    }
}
