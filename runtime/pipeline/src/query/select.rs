//! Binds requests to the active views: keys, features, instants, defaults.

use super::request::{KeyInput, Named, QueryError, Request};
use super::serving::{ServingSet, ServingView};
use crate::decode::format_rfc3339;
use crate::near::{near_names, quoted};
use plumb_core::column::DataType;
use plumb_core::entity::EntityKey;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The most names an error lists where none is near.
const KNOWN_LISTED: usize = 8;

/// A request bound to views.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) as_of_us: i64,
    pub(super) views: Vec<BoundView>,
    /// The features in the order asked: index in `views`, index in the view.
    pub(super) features: Vec<(usize, usize)>,
}

/// A view asked for an entity.
#[derive(Debug)]
pub(super) struct BoundView {
    /// The view's index in the set.
    pub(super) view: usize,
    /// The entity; `None` = a null key, which is not found.
    pub(super) key: Option<EntityKey>,
}

/// Defaults by view and feature index.
pub(super) type Defaults = BTreeMap<(usize, usize), Arc<serde_json::Value>>;

/// Binds a request.
pub(super) fn bind(set: &ServingSet, request: &Request, now_us: i64) -> Result<Bound, QueryError> {
    let as_of_us = request.as_of_us.unwrap_or(now_us);
    if as_of_us > now_us {
        return Err(QueryError::Future { as_of: format_rfc3339(as_of_us), now: format_rfc3339(now_us) });
    }
    check_names(set, request)?;
    let mut bound = Bound { as_of_us, views: Vec::new(), features: Vec::new() };
    match &request.features {
        None => {
            for (index, view) in set.views.iter().enumerate() {
                if let Some(key) = key_of(view, request)? {
                    let at = bound.views.len();
                    bound.views.push(BoundView { view: index, key });
                    bound.features.extend((0..view.features.len()).map(|feature| (at, feature)));
                }
            }
            if bound.views.is_empty() {
                let given =
                    request.entities.iter().map(|(name, _)| name).chain(request.fields.iter().map(|(name, _)| name));
                let given = quoted(given.map(String::as_str));
                return Err(QueryError::Invalid(format!("no view can be asked by {given} alone")));
            }
        }
        Some(names) if names.is_empty() => {
            return Err(QueryError::Invalid("`features` is empty: name some, or leave it out for all".into()));
        }
        Some(names) => {
            let mut asked = BTreeSet::new();
            for name in names {
                let (index, features) = feature(set, name)?;
                let at = match bound.views.iter().position(|bound| bound.view == index) {
                    Some(at) => at,
                    None => {
                        let view = &set.views[index];
                        let key = key_of(view, request)?.ok_or_else(|| QueryError::MissingEntity {
                            feature: name.clone(),
                            entity: view.entity.to_string(),
                            fields: view.transform.def().entity.key.clone(),
                        })?;
                        bound.views.push(BoundView { view: index, key });
                        bound.views.len() - 1
                    }
                };
                bound.features.extend(features.map(|feature| (at, feature)).filter(|&pair| asked.insert(pair)));
            }
        }
    }
    Ok(bound)
}

/// Binds defaults, each of its feature's type.
pub(super) fn defaults(set: &ServingSet, given: &[(String, serde_json::Value)]) -> Result<Defaults, QueryError> {
    let mut defaults = Defaults::new();
    for (name, value) in given {
        let (view, features) = feature(set, name)?;
        for index in features {
            let data_type = &set.views[view].transform.def().features[index].data_type;
            if !fits(data_type, value) {
                let why = format!("the default of `{name}` is {value}, the feature is of type {}", data_type.name());
                return Err(QueryError::Invalid(why));
            }
            defaults.insert((view, index), Arc::new(value.clone()));
        }
    }
    Ok(defaults)
}

fn fits(data_type: &DataType, value: &serde_json::Value) -> bool {
    match (data_type, value) {
        (_, serde_json::Value::Null) => true,
        (DataType::I64, value) => value.is_i64(),
        (DataType::F64, value) => value.is_number(),
        (DataType::Bool, value) => value.is_boolean(),
        (DataType::Utf8 | DataType::Bytes | DataType::Timestamp, value) => value.is_string(),
        (DataType::List(of), value) => value.as_array().is_some_and(|list| list.iter().all(|value| fits(of, value))),
    }
}

/// The view and features that `view:feature` or `view:*` names.
fn feature(set: &ServingSet, name: &str) -> Result<(usize, std::ops::Range<usize>), QueryError> {
    let all = || set.views.iter().flat_map(|view| view.features.iter().map(AsRef::as_ref));
    let Some((view, feature)) = name.split_once(':') else {
        return Err(unknown(Named::Feature, name, all()));
    };
    let Some(index) = set.position_of(view) else {
        // Of a misspelt view the view is the news; its features would all be unknown.
        return Err(unknown(Named::View, view, set.views.iter().map(|view| view.name.as_ref())));
    };
    let features = &set.views[index].features;
    if feature == "*" {
        return Ok((index, 0..features.len()));
    }
    match features.iter().position(|known| known.as_ref() == name) {
        Some(at) => Ok((index, at..at + 1)),
        None => Err(unknown(Named::Feature, name, features.iter().map(AsRef::as_ref))),
    }
}

fn unknown<'a>(what: Named, name: &str, known: impl Iterator<Item = &'a str>) -> QueryError {
    let known: Vec<&str> = known.collect();
    let near = near_names(name, known.iter().copied());
    let listed =
        if known.len() <= KNOWN_LISTED { known.iter().map(|&name| name.to_owned()).collect() } else { Vec::new() };
    QueryError::Unknown { what, name: name.to_owned(), near, known: listed }
}

/// Checks that some view knows each entity and key field given.
fn check_names(set: &ServingSet, request: &Request) -> Result<(), QueryError> {
    for (name, _) in &request.entities {
        let entities: BTreeSet<&str> = set.views.iter().map(|view| view.entity.as_ref()).collect();
        if !entities.contains(name.as_str()) {
            return Err(unknown(Named::Entity, name, entities.into_iter()));
        }
    }
    for (name, _) in &request.fields {
        let keys = set.views.iter().flat_map(|view| &view.transform.def().entity.key);
        let fields: BTreeSet<&str> = keys.map(String::as_str).collect();
        if !fields.contains(name.as_str()) {
            return Err(unknown(Named::Field, name, fields.into_iter()));
        }
    }
    Ok(())
}

/// The key a request gives for a view: `None` = none, `Some(None)` = a null one.
fn key_of(view: &ServingView, request: &Request) -> Result<Option<Option<EntityKey>>, QueryError> {
    let fields = &view.transform.def().entity.key;
    let entity = view.entity.as_ref();
    let given = request.entities.iter().find(|(name, _)| name == entity).map(|(_, key)| key);
    let of_parts = |parts: Vec<Option<&str>>| {
        let parts: Option<Vec<&str>> = parts.into_iter().collect();
        parts.map(|parts| EntityKey::from_parts(&parts))
    };
    match given {
        Some(KeyInput::Value(None)) => Ok(Some(None)),
        Some(KeyInput::Value(Some(text))) if fields.len() == 1 => Ok(Some(Some(EntityKey::from_parts(&[text])))),
        Some(KeyInput::Value(Some(_))) => {
            let fields = quoted(fields.iter().map(String::as_str));
            Err(QueryError::Invalid(format!("entity `{entity}` has the key fields {fields}: give an object of them")))
        }
        Some(KeyInput::Fields(given)) => {
            if let Some(name) = given.keys().find(|name| !fields.contains(name)) {
                return Err(unknown(Named::Field, name, fields.iter().map(String::as_str)));
            }
            let part = |field: &String| {
                let value = given.get(field);
                value.map(Option::as_deref).ok_or_else(|| {
                    QueryError::Invalid(format!("the key of entity `{entity}` lacks its field `{field}`"))
                })
            };
            Ok(Some(of_parts(fields.iter().map(part).collect::<Result<_, _>>()?)))
        }
        None => {
            let part = |field: &String| {
                request.fields.iter().find(|(name, _)| name == field).map(|(_, value)| value.as_deref())
            };
            let parts: Option<Vec<Option<&str>>> = fields.iter().map(part).collect();
            Ok(parts.map(of_parts))
        }
    }
}
