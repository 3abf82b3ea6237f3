//! The JSON text of `describe()`, format 1, and its checked form.
//!
//! Nothing unknown is let through: a key, operator, window or type that this host does not know is refused with
//! its name and what is known, so a component never runs with half of its definition ignored.

mod json;

use crate::{Error, Result};
use json::{Aggregate, Entity, Feature, Field, Params, Slot, View, Window};
use plumb_core::column::DataType;
use plumb_core::entity::EntityDef;
use plumb_core::plan::Plan;
use plumb_core::time::{format_duration, parse_duration};
use plumb_core::view::{AggregateDef, FeatureDef, FieldUse, Operator, SlotDef, SlotType, ViewDef, WindowSpec};
use std::collections::BTreeSet;

/// The format of the JSON text that this host reads and writes.
pub const FORMAT: u64 = 1;

/// The largest text of `describe()` in bytes.
pub const MAX_TEXT_BYTES: usize = 1 << 20;

/// The most fields, aggregates or features a view may have.
const MAX_ENTRIES: usize = 1024;

/// Entity names that would make a route of the HTTP interface ambiguous.
const RESERVED_ENTITIES: [&str; 4] = ["online", "offline", "vector", "batch"];

const OPERATORS: &str = "count, sum, mean, min, max, variance, stddev, quantile, count_distinct, approx_distinct, \
                         collect_set, top_k, last, last_time, session_count, session_duration_sum and relative_rank";

/// A view as described, with what the host only passes on.
#[derive(Debug, Clone, PartialEq)]
pub struct Described {
    /// The checked definition.
    pub def: ViewDef,
    /// Who uses the view, for people.
    pub consumers: Vec<String>,
}

/// Reads the text of `describe()`.
pub fn parse(text: &str) -> Result<Described> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(Error::describe(format!("{} bytes of JSON, at most {MAX_TEXT_BYTES} are allowed", text.len())));
    }
    // The format decides what the other keys mean, so it is looked at before any of them can be unknown.
    let probe: json::Probe = serde_json::from_str(text).map_err(|error| Error::describe(error.to_string()))?;
    if probe.format != FORMAT {
        let why =
            format!("format {}, this host knows format {FORMAT}: update plumb or build with its SDK", probe.format);
        return Err(Error::describe(why));
    }
    let view: View = serde_json::from_str(text).map_err(|error| Error::describe(error.to_string()))?;
    convert(view)
}

/// Writes a definition in the form that [`parse`] reads.
pub fn to_json(def: &ViewDef, consumers: &[String]) -> serde_json::Value {
    serde_json::to_value(raw(def, consumers)).expect("strings and numbers are always JSON")
}

/// The parts of a definition that state depends on, as canonical text.
pub(crate) fn state_text(def: &ViewDef) -> String {
    let view = raw(def, &[]);
    let parts = (view.source, view.entity, view.fields, view.slots, view.aggregates);
    serde_json::to_string(&parts).expect("strings and numbers are always JSON")
}

/// Checks a name of a view, entity, source, slot, aggregate or feature.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let mut bytes = name.bytes();
    let well_formed = bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        && name.len() <= 63
        && !name.contains("__");
    if well_formed {
        return Ok(());
    }
    let shown: String = name.chars().take(80).collect();
    Err(Error::describe(format!(
        "{what} `{shown}`: names are a lower-case letter, then up to 62 lower-case letters, digits or `_`, without `__`"
    )))
}

fn convert(view: View) -> Result<Described> {
    check_name("view", &view.name)?;
    check_name("source", &view.source)?;
    let version = semver::Version::parse(&view.version).map_err(|error| {
        Error::describe(format!("version `{}`: {error}; write a semantic version such as 1.2.0", view.version))
    })?;
    if !version.build.is_empty() {
        let why =
            format!("version `{version}`: leave out `+{}`, plumb puts the component's digest there", version.build);
        return Err(Error::describe(why));
    }
    if !view.upstream.is_empty() {
        let why = "`upstream`: views that read features of other views are not supported yet, leave the list empty";
        return Err(Error::describe(why));
    }
    for (what, entries) in
        [("fields", view.fields.len()), ("aggregates", view.aggregates.len()), ("features", view.features.len())]
    {
        if entries > MAX_ENTRIES {
            return Err(Error::describe(format!("{entries} {what}, at most {MAX_ENTRIES} are possible")));
        }
    }
    let entity = convert_entity(view.entity)?;
    let fields = convert_fields(view.fields)?;
    let slots = convert_slots(view.slots)?;
    let aggregates = convert_aggregates(view.aggregates, &slots)?;
    let features = convert_features(view.features, &aggregates)?;
    let def = ViewDef {
        name: view.name,
        version,
        entity,
        source: view.source,
        description: view.description,
        owner: view.owner,
        team: view.team,
        tags: view.tags,
        ttl_us: duration("ttl", view.ttl.as_deref())?,
        freshness_us: duration("freshness", view.freshness.as_deref())?,
        fields,
        slots,
        aggregates,
        features,
    };
    // The plan knows which operators take which slots and windows; lateness has no part in that.
    Plan::new(&def, 0).map_err(|error| Error::describe(error.to_string()))?;
    Ok(Described { def, consumers: view.consumers })
}

fn convert_entity(entity: Entity) -> Result<EntityDef> {
    check_name("entity", &entity.name)?;
    if RESERVED_ENTITIES.contains(&entity.name.as_str()) {
        let why = format!("entity `{}`: {} are reserved names", entity.name, RESERVED_ENTITIES.join(", "));
        return Err(Error::describe(why));
    }
    if entity.key.is_empty() {
        return Err(Error::describe(format!("entity `{}`: `key` names no field", entity.name)));
    }
    check_distinct("key field", entity.key.iter())?;
    Ok(EntityDef { name: entity.name, key: entity.key })
}

fn convert_fields(fields: Vec<Field>) -> Result<Vec<FieldUse>> {
    check_distinct("field", fields.iter().map(|field| &field.name))?;
    fields
        .into_iter()
        .map(|field| {
            let data_type = parse_type("field", &field.name, &field.data_type)?;
            if matches!(data_type, DataType::List(_)) {
                let why = format!("field `{}`: event fields are not lists, found {}", field.name, data_type.name());
                return Err(Error::describe(why));
            }
            Ok(FieldUse { name: field.name, data_type, required: field.required })
        })
        .collect()
}

fn convert_slots(slots: Vec<Slot>) -> Result<Vec<SlotDef>> {
    check_distinct("slot", slots.iter().map(|slot| &slot.name))?;
    slots
        .into_iter()
        .map(|slot| {
            check_name("slot", &slot.name)?;
            let slot_type = match slot.slot_type.as_str() {
                "mark" => SlotType::Mark,
                "i64" => SlotType::I64,
                "f64" => SlotType::F64,
                "bool" => SlotType::Bool,
                "string" => SlotType::Utf8,
                "timestamp" => SlotType::Timestamp,
                other => {
                    let known = "mark, i64, f64, bool, string and timestamp";
                    let why = format!("slot `{}`: unknown type `{other}`, known are {known}", slot.name);
                    return Err(Error::describe(why));
                }
            };
            Ok(SlotDef { name: slot.name, slot_type })
        })
        .collect()
}

fn convert_aggregates(aggregates: Vec<Aggregate>, slots: &[SlotDef]) -> Result<Vec<AggregateDef>> {
    check_distinct("aggregate", aggregates.iter().map(|aggregate| &aggregate.name))?;
    aggregates
        .into_iter()
        .map(|aggregate| {
            check_name("aggregate", &aggregate.name)?;
            let refuse = |why: String| Error::describe(format!("aggregate `{}`: {why}", aggregate.name));
            let [slot_name] = aggregate.slots.as_slice() else {
                return Err(refuse(format!(
                    "operator `{}` takes 1 slot, {} are given",
                    aggregate.operator,
                    aggregate.slots.len()
                )));
            };
            let slot = slots.iter().position(|slot| slot.name == *slot_name).ok_or_else(|| {
                let known: Vec<&str> = slots.iter().map(|slot| slot.name.as_str()).collect();
                refuse(format!("unknown slot `{slot_name}`, declared are {}", known.join(", ")))
            })?;
            Ok(AggregateDef {
                operator: convert_operator(&aggregate.operator, &aggregate.params).map_err(refuse)?,
                slot,
                window: convert_window(&aggregate.window).map_err(refuse)?,
                name: aggregate.name,
            })
        })
        .collect()
}

fn convert_operator(operator: &str, params: &Params) -> Result<Operator, String> {
    let gap_us = || {
        let gap = params.gap.as_deref().ok_or_else(|| format!("operator `{operator}` needs the parameter `gap`"))?;
        parse_duration(gap).map_err(|error| error.to_string())
    };
    let k = || {
        let k = params.k.ok_or_else(|| format!("operator `{operator}` needs the parameter `k`"))?;
        usize::try_from(k).map_err(|_| format!("`k` of {k} is too large"))
    };
    let found = match operator {
        "count" => Operator::Count,
        "sum" => Operator::Sum,
        "mean" => Operator::Mean,
        "top_k" => Operator::TopK { k: k()? },
        "last" => Operator::Last,
        "last_time" => Operator::LastTime,
        "session_count" => Operator::SessionCount { gap_us: gap_us()? },
        "session_duration_sum" => Operator::SessionDurationSum { gap_us: gap_us()? },
        "relative_rank" => Operator::RelativeRank,
        "min" => Operator::Min,
        "max" => Operator::Max,
        "variance" => Operator::Variance,
        "stddev" => Operator::StdDev,
        "quantile" => {
            let q = params.q.ok_or("operator `quantile` needs the parameter `q`")?;
            Operator::Quantile { ppm: parts_per_million(q)? }
        }
        "count_distinct" => Operator::CountDistinct,
        "approx_distinct" => Operator::ApproxDistinct { k: k()? },
        "collect_set" => Operator::CollectSet { k: k()? },
        other => return Err(format!("unknown operator `{other}`, known are {OPERATORS}")),
    };
    let takes_k =
        matches!(found, Operator::TopK { .. } | Operator::ApproxDistinct { .. } | Operator::CollectSet { .. });
    let takes_q = matches!(found, Operator::Quantile { .. });
    let takes_gap = matches!(found, Operator::SessionCount { .. } | Operator::SessionDurationSum { .. });
    if params.k.is_some() && !takes_k {
        return Err(format!("operator `{operator}` has no parameter `k`"));
    }
    if params.gap.is_some() && !takes_gap {
        return Err(format!("operator `{operator}` has no parameter `gap`"));
    }
    if params.q.is_some() && !takes_q {
        return Err(format!("operator `{operator}` has no parameter `q`"));
    }
    Ok(found)
}

/// A share such as 0.5 in millionths; one that is none, or has more digits, is refused.
fn parts_per_million(q: f64) -> Result<u32, String> {
    let millionths = (q * 1e6).round();
    if !(1.0..1e6).contains(&millionths) || millionths / 1e6 != q {
        return Err(format!("`q` of {q} is no number above 0 and below 1 of at most six digits"));
    }
    Ok(millionths as u32)
}

fn convert_window(window: &Window) -> Result<WindowSpec, String> {
    let kind = window.kind.as_str();
    let read = |text: &str| parse_duration(text).map_err(|error| error.to_string());
    let width_us = || {
        let width = window.width.as_deref().ok_or_else(|| format!("a {kind} window needs a `width`"))?;
        read(width)
    };
    let hop_us = window.hop.as_deref().map(read).transpose()?;
    let spec = match kind {
        "sliding" => WindowSpec::Sliding { width_us: width_us()?, hop_us },
        "hopping" => {
            let hop_us = hop_us.ok_or("a hopping window needs a `hop`")?;
            WindowSpec::Hopping { width_us: width_us()?, hop_us }
        }
        "tumbling" if hop_us.is_some() => return Err("a tumbling window has no `hop`: it is its width".into()),
        "tumbling" => {
            let width_us = width_us()?;
            WindowSpec::Hopping { width_us, hop_us: width_us }
        }
        "lifetime" if window.width.is_some() || hop_us.is_some() => {
            return Err("a lifetime window has neither `width` nor `hop`".into());
        }
        "lifetime" => WindowSpec::Lifetime,
        other => return Err(format!("unknown window `{other}`, known are sliding, hopping, tumbling and lifetime")),
    };
    match spec {
        WindowSpec::Sliding { width_us, hop_us: Some(hop_us) } | WindowSpec::Hopping { width_us, hop_us }
            if hop_us > width_us =>
        {
            Err("the window's `hop` is longer than its `width`".into())
        }
        _ => Ok(spec),
    }
}

fn convert_features(features: Vec<Feature>, aggregates: &[AggregateDef]) -> Result<Vec<FeatureDef>> {
    if features.is_empty() {
        return Err(Error::describe("`features` is empty: a view has at least one feature"));
    }
    check_distinct("feature", features.iter().map(|feature| &feature.name))?;
    features
        .into_iter()
        .map(|feature| {
            check_name("feature", &feature.name)?;
            if feature.name == "event_time" {
                return Err(Error::describe("feature `event_time`: the name is reserved for the newest event's time"));
            }
            let data_type = parse_type("feature", &feature.name, &feature.data_type)?;
            let element = match &data_type {
                DataType::List(of) => of,
                plain => plain,
            };
            if *element == DataType::Bytes {
                let why = format!("feature `{}`: {} is no type of a feature", feature.name, data_type.name());
                return Err(Error::describe(why));
            }
            let made_from = feature
                .aggregates
                .iter()
                .map(|name| {
                    aggregates.iter().position(|aggregate| aggregate.name == *name).ok_or_else(|| {
                        Error::describe(format!("feature `{}`: unknown aggregate `{name}`", feature.name))
                    })
                })
                .collect::<Result<_>>()?;
            Ok(FeatureDef { name: feature.name, data_type, description: feature.description, aggregates: made_from })
        })
        .collect()
}

fn parse_type(what: &str, name: &str, data_type: &str) -> Result<DataType> {
    DataType::parse(data_type).map_err(|error| Error::describe(format!("{what} `{name}`: {error}")))
}

fn duration(key: &str, text: Option<&str>) -> Result<Option<i64>> {
    text.map(|text| parse_duration(text).map_err(|error| Error::describe(format!("`{key}`: {error}")))).transpose()
}

fn check_distinct<'a>(what: &str, names: impl Iterator<Item = &'a String>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for name in names {
        if name.is_empty() {
            return Err(Error::describe(format!("a {what} has an empty name")));
        }
        if !seen.insert(name) {
            return Err(Error::describe(format!("{what} `{name}` is declared twice")));
        }
    }
    Ok(())
}

fn raw(def: &ViewDef, consumers: &[String]) -> View {
    View {
        format: FORMAT,
        name: def.name.clone(),
        version: def.version.to_string(),
        entity: Entity { name: def.entity.name.clone(), key: def.entity.key.clone() },
        source: def.source.clone(),
        description: def.description.clone(),
        owner: def.owner.clone(),
        team: def.team.clone(),
        tags: def.tags.clone(),
        ttl: def.ttl_us.map(format_duration),
        freshness: def.freshness_us.map(format_duration),
        fields: def
            .fields
            .iter()
            .map(|field| Field {
                name: field.name.clone(),
                data_type: field.data_type.name(),
                required: field.required,
            })
            .collect(),
        slots: def
            .slots
            .iter()
            .map(|slot| Slot { name: slot.name.clone(), slot_type: slot.slot_type.name().into() })
            .collect(),
        aggregates: def
            .aggregates
            .iter()
            .map(|aggregate| Aggregate {
                name: aggregate.name.clone(),
                operator: aggregate.operator.name().into(),
                slots: vec![def.slots[aggregate.slot].name.clone()],
                params: raw_params(aggregate.operator),
                window: raw_window(aggregate.window),
            })
            .collect(),
        features: def
            .features
            .iter()
            .map(|feature| Feature {
                name: feature.name.clone(),
                data_type: feature.data_type.name(),
                description: feature.description.clone(),
                aggregates: feature.aggregates.iter().map(|&index| def.aggregates[index].name.clone()).collect(),
            })
            .collect(),
        upstream: Vec::new(),
        consumers: consumers.to_vec(),
    }
}

fn raw_params(operator: Operator) -> Params {
    match operator {
        Operator::TopK { k } | Operator::ApproxDistinct { k } | Operator::CollectSet { k } => {
            Params { k: Some(k as u64), ..Params::default() }
        }
        Operator::Quantile { ppm } => Params { q: Some(f64::from(ppm) / 1e6), ..Params::default() },
        Operator::SessionCount { gap_us } | Operator::SessionDurationSum { gap_us } => {
            Params { gap: Some(format_duration(gap_us)), ..Params::default() }
        }
        _ => Params::default(),
    }
}

fn raw_window(window: WindowSpec) -> Window {
    let (kind, width_us, hop_us) = match window {
        WindowSpec::Sliding { width_us, hop_us } => ("sliding", Some(width_us), hop_us),
        WindowSpec::Hopping { width_us, hop_us } if width_us == hop_us => ("tumbling", Some(width_us), None),
        WindowSpec::Hopping { width_us, hop_us } => ("hopping", Some(width_us), Some(hop_us)),
        WindowSpec::Lifetime => ("lifetime", None, None),
    };
    Window { kind: kind.into(), width: width_us.map(format_duration), hop: hop_us.map(format_duration) }
}

#[cfg(test)]
mod tests;
